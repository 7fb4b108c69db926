//! The rules as a table, and against a second, slow statement of them.

use super::*;
use crate::model::Value;
use proptest::prelude::*;

const DN: &str = "uid=ann,ou=People,dc=example,dc=com";

fn record(attributes: &[(&str, &[&str])]) -> UserRecord {
    let mut record = UserRecord { dn: DN.into(), ..Default::default() };
    for (name, values) in attributes {
        record.set(name, values.iter().map(|value| Value::Text((*value).into())).collect());
    }
    record
}

fn ann() -> UserRecord {
    let mut ann = record(&[
        ("uid", &["ann"]),
        ("cn", &["Ann  Smith", "Zoë Straße"]),
        ("description", &["a*b(c)\\d"]),
        ("mail", &["Ann@Example.com"]),
        ("homedirectory", &["/home/Ann"]),
        ("telephonenumber", &["+1 555-1234"]),
        ("objectclass", &["inetOrgPerson", "posixAccount"]),
        ("uidnumber", &["1000"]),
        ("useraccountcontrol", &["514"]),
        ("accountexpires", &["9223372036854775807"]),
        ("pwdaccountlockedtime", &["000001010000Z"]),
        ("modifytimestamp", &["20260131115959Z"]),
        ("pwdreset", &["TRUE"]),
        ("memberof", &["CN=IM Users, OU=Groups,DC=example,DC=com", "cn=Smith\\, John,dc=x"]),
        (NESTED_MEMBERSHIP, &["cn=im users,ou=groups,dc=example,dc=com", "cn=all,dc=x"]),
        ("objectcategory", &["CN=Person,CN=Schema,CN=Configuration,DC=x"]),
        ("entryuuid", &["6c6e1ed8-7b12-1041-8a6a-e56710ed1c8d"]),
        ("level", &["7"]),
        ("validuntil", &["20300101000000Z"]),
        ("nsaccountlock", &["true"]),
    ]);
    ann.set("userpassword", vec![Value::from_bytes(&[0xff, 0x00])]);
    ann.set("title", vec![Value::from_bytes(&[0xff, b'a'])]);
    ann
}

fn truth(filter: &str) -> Truth {
    Filter::parse(filter).unwrap_or_else(|error| panic!("{error}")).evaluate(&ann())
}

#[test]
fn what_matches_nothing_is_false() {
    for filter in
        ["(|)", "(!(&))", "(uid=bob)", "(sn=*)", "(sn=x)", "(uid=an)", "(uid=*x*)", "(sn=a*)", "(uidNumber=10)"]
    {
        assert_eq!(truth(filter), Truth::False, "{filter}");
    }
    assert_eq!(Filter::parse("(uid=ann)").unwrap().evaluate(&UserRecord::default()), Truth::False);
}

#[test]
fn every_construct_matches_what_it_should() {
    for filter in [
        "(&)",
        "(!(|))",
        "(&(uid=ann)(|(uid=bob)(mail=*)))",
        " (& (uid=ann)\n  (mail=*) )\n",
        "(UID=ANN)",
        "(userid=ann)",
        "(0.9.2342.19200300.100.1.1=ann)",
        "(cn;lang-de=ann smith)",
        "(cn= ANN   SMITH )",
        "(cn=zoË stRAße)",
        "(cn=\\5a\\6f\\c3\\ab straße)",
        "(uid~=ann)",
        "(uid:=ann)",
        "(description=a\\2ab\\28c\\29\\5cd)",
        "(cn=ann*)",
        "(cn=*smith)",
        "(cn=*n s*)",
        "(cn=a*n*th)",
        "(cn=**)",
        "(mail=ann@EXAMPLE.com)",
        "(homeDirectory=/home/Ann)",
        "(telephoneNumber=+15551234)",
        "(telephoneNumber=*5-5*)",
        "(objectClass=PERSON)",
        "(objectClass=top)",
        "(objectClass=2.5.6.7)",
        "(uidNumber>=999)",
        "(uidNumber<=1000)",
        "(userAccountControl:1.2.840.113556.1.4.803:=2)",
        "(userAccountControl:1.2.840.113556.1.4.804:=3)",
        "(accountExpires>=133000000000000000)",
        "(pwdAccountLockedTime=000001010000Z)",
        "(modifyTimestamp>=20260131125959+0100)",
        "(modifyTimestamp<=20260131115959.5Z)",
        "(pwdReset=TRUE)",
        "(nsAccountLock=TRUE)",
        "(memberOf=cn=im users,ou=groups,dc=example,dc=com)",
        "(memberOf=cn=smith\\5c2c  john,dc=x)",
        "(memberOf:1.2.840.113556.1.4.1941:=cn=ALL,dc=x)",
        "(&(objectCategory=person)(objectCategory=user))",
        "(objectCategory=cn=person,cn=schema,cn=configuration,dc=x)",
        "(entryUUID=6C6E1ED8-7b12-1041-8a6a-e56710ed1c8d)",
        "(userPassword=\\ff\\00)",
        "(uid:caseExactMatch:=ann)",
        "(uid:2.5.13.2:=ANN)",
        "(:caseExactMatch:=ann)",
        "(ou:dn:=people)",
        "(:dn:caseExactMatch:=People)",
        "(ou:DN:caseIgnoreMatch:=PEOPLE)",
        "(level>=7)",
        "(level:1.2.840.113556.1.4.803:=6)",
        "(validUntil>=20291231235959Z)",
        "(!(title=a))",
    ] {
        assert_eq!(truth(filter), Truth::True, "{filter}");
    }
}

#[test]
fn the_border_is_false() {
    for filter in [
        "(homeDirectory=/home/ann)",
        "(uid:caseExactMatch:=ANN)",
        "(uidNumber>=1001)",
        "(uidNumber<=999)",
        "(uidNumber>=9999999999999999999999)",
        "(uidNumber<=-1)",
        "(userAccountControl:1.2.840.113556.1.4.803:=3)",
        "(userAccountControl:1.2.840.113556.1.4.804:=16)",
        "(modifyTimestamp>=20260131120000Z)",
        "(memberOf=cn=all,dc=x)",
        "(cn=*smith*ann*)",
        "(cn=ann smith*h)",
        "(objectClass=groupOfNames)",
        "(objectCategory=computer)",
        "(ou=people)",
        "(title=*a*b*)",
    ] {
        assert_eq!(truth(filter), Truth::False, "{filter}");
    }
}

#[test]
fn what_cannot_be_answered_is_undefined_and_so_is_its_opposite() {
    for test in [
        "cn>=a",
        "mail<=a",
        "memberOf=*im*",
        "memberOf=no dn",
        "uidNumber=abc",
        "uidNumber=007",
        "uidNumber=10*",
        "pwdReset=yes",
        "modifyTimestamp=today",
        "cn=",
        "cn=\\ff",
        "mail=zoë@example.com",
        "objectClass=a b",
        "uid:1.2.3.4:=ann",
        "mail:caseExactMatch:=ann",
        "manager:1.2.840.113556.1.4.1941:=cn=x",
        "uidNumber:1.2.840.113556.1.4.803:=x",
        "uidNumber:1.2.840.113556.1.4.803:=9223372036854775808",
        "level>=x",
        "validUntil>=7",
    ] {
        assert_eq!(truth(&format!("({test})")), Truth::Undefined, "{test}");
        assert_eq!(truth(&format!("(!({test}))")), Truth::Undefined, "{test}");
        assert_eq!(truth(&format!("(|({test})(uid=ann))")), Truth::True, "{test}");
        assert_eq!(truth(&format!("(&({test})(uid=bob))")), Truth::False, "{test}");
        assert_eq!(truth(&format!("(&({test})(uid=ann))")), Truth::Undefined, "{test}");
    }
    let told = Filter::parse("(&(uid=a)(cn>=b))").unwrap().undefined_tests();
    assert_eq!(told, [("cn>=b".to_owned(), "the attribute has no ordering rule")]);
}

#[test]
fn an_error_names_the_place_and_what_was_expected() {
    for (filter, offset, expected) in [
        ("", 0, "\"(\""),
        ("uid=ann", 0, "\"(\""),
        ("(&(uid=ann)(cn=a)", 17, "\")\""),
        ("(uid=ann))", 9, "the end of the filter"),
        ("(!(a=b)(c=d))", 7, "\")\""),
        ("()", 1, "an attribute name, \"&\", \"|\" or \"!\""),
        ("(=x)", 1, "an attribute name, \"&\", \"|\" or \"!\""),
        ("(uid)", 4, "more of the attribute name, \"=\", \">=\", \"<=\", \"~=\" or \":\""),
        ("(uid>ann)", 5, "\"=\""),
        ("(uid=a(b)", 6, "\"\\28\" for a parenthesis in a value, or \")\""),
        ("(uid=a\\2)", 7, "two hexadecimal digits (a backslash is \"\\5c\")"),
        ("(uid=a\\zz)", 7, "two hexadecimal digits (a backslash is \"\\5c\")"),
        ("(uid>=a*)", 7, "\"\\2a\" for an asterisk in this kind of value"),
        ("(uid=\0)", 5, "\"\\00\" for a zero byte in a value"),
        ("(:=x)", 2, "\"=\", \"dn\" or a matching rule"),
        ("(:dn:=x)", 5, "\"=\", \"dn\" or a matching rule"),
        ("(a:b:c:=x)", 5, "\"=\""),
        ("(a;=x)", 3, "an attribute option"),
        ("(1.=x)", 3, "a number of the OID"),
        ("(zoë=x)", 3, "more of the attribute name, \"=\", \">=\", \"<=\", \"~=\" or \":\""),
    ] {
        let error = Filter::parse(filter).expect_err(filter);
        assert_eq!((error.offset, error.expected.as_str()), (offset, expected), "{filter}");
    }
}

#[test]
fn an_error_shows_the_filter_with_a_mark_below_the_place() {
    let error = Filter::parse("(&(cn=ë)(b=c)").unwrap_err();
    assert_eq!(error.to_string(), "at position 15: expected \")\"\n  (&(cn=ë)(b=c)\n               ^");
    let long = format!("(&{}(uid)(b=c))", "(uid=somebody)".repeat(40));
    let shown = Filter::parse(&long).unwrap_err().to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let mark = lines[2].chars().count() - 1;
    assert_eq!(lines[1].chars().nth(mark), Some(')'), "{shown}");
    assert!(lines.iter().all(|line| line.chars().count() < 140), "{shown}");
}

#[test]
fn nesting_and_length_are_limited() {
    let nested = |levels: usize| format!("{}(a=b){}", "(!".repeat(levels - 1), ")".repeat(levels - 1));
    assert!(Filter::parse(&nested(FILTER_DEPTH_MAX)).is_ok());
    assert!(Filter::parse(&nested(FILTER_DEPTH_MAX + 1)).is_err());
    assert!(Filter::parse(&nested(20_000)).is_err());
    assert!(Filter::parse(&"(".repeat(20_000)).is_err());
    assert!(Filter::parse(&"(&".repeat(20_000)).is_err());
    let value = |bytes: usize| format!("(a={})", "x".repeat(bytes));
    assert!(Filter::parse(&value(FILTER_BYTES_MAX - 4)).is_ok());
    assert!(Filter::parse(&value(FILTER_BYTES_MAX - 3)).is_err());
}

#[test]
fn it_tells_what_it_reads_and_which_groups_it_names() {
    let filter = Filter::parse(
        "(&(commonName=a)(!(2.5.4.4=b))(Custom;x=*)(memberOf=CN=A\\5c, b,dc=x)(memberOf:1.2.840.113556.1.4.1941:=cn=c)(ou:dn:=d)(memberOf=*))",
    )
    .unwrap();
    assert_eq!(filter.attributes().into_iter().collect::<Vec<_>>(), ["cn", "custom", "memberof", "ou", "sn"]);
    assert_eq!(filter.named_groups(), ["CN=A\\, b,dc=x", "cn=c"]);
    assert!(filter.reads_nested_membership());
}

#[test]
fn nested_membership_is_read_where_it_is_asked_for() {
    let direct = Filter::parse("(&(uid=ann)(memberOf=cn=all,dc=x))").unwrap();
    assert_eq!((direct.evaluate(&ann()), direct.reads_nested_membership()), (Truth::False, false));
    let nested = direct.with_nested_membership();
    assert_eq!((nested.evaluate(&ann()), nested.reads_nested_membership()), (Truth::True, true));
    assert_eq!(nested.to_string(), "(&(uid=ann)(memberOf:1.2.840.113556.1.4.1941:=cn=all,dc=x))");
    assert_eq!(Filter::parse(&nested.to_string()).unwrap(), nested);
    assert_eq!(nested.attributes().into_iter().collect::<Vec<_>>(), ["memberof", "uid"]);
}

#[test]
fn values_of_any_size_are_compared() {
    let long = "Ab ".repeat(100_000);
    let record = record(&[("description", &[&long])]);
    let filter = |text: &str| Filter::parse(text).unwrap().evaluate(&record);
    assert_eq!(filter("(description=*AB AB*AB)"), Truth::True);
    assert_eq!(filter("(description=*x*)"), Truth::False);
}

/// A filter as the second statement knows it.
#[derive(Clone, Debug)]
enum Plain {
    And(Vec<Plain>),
    Or(Vec<Plain>),
    Not(Box<Plain>),
    Present(&'static str),
    Equal(&'static str, String),
    Like(&'static str, Vec<String>),
    AtLeast(&'static str, String),
    AllBits(&'static str, String),
}

fn escaped(value: &str) -> String {
    value.chars().map(|c| if "*()\\\0".contains(c) { format!("\\{:02x}", c as u32) } else { c.to_string() }).collect()
}

impl Plain {
    fn text(&self) -> String {
        let all = |parts: &[Plain]| parts.iter().map(Plain::text).collect::<String>();
        match self {
            Plain::And(parts) => format!("(&{})", all(parts)),
            Plain::Or(parts) => format!("(|{})", all(parts)),
            Plain::Not(part) => format!("(!{})", part.text()),
            Plain::Present(name) => format!("({name}=*)"),
            Plain::Equal(name, value) => format!("({name}={})", escaped(value)),
            Plain::Like(name, pieces) => {
                format!("({name}={})", pieces.iter().map(|piece| escaped(piece)).collect::<Vec<_>>().join("*"))
            }
            Plain::AtLeast(name, value) => format!("({name}>={value})"),
            Plain::AllBits(name, value) => format!("({name}:{BIT_AND}:={value})"),
        }
    }

    /// `None` is Undefined.
    fn holds(&self, record: &UserRecord) -> Option<bool> {
        let values = |name: &str| record.values(name).iter().filter_map(Value::as_text).collect::<Vec<_>>();
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| number.to_string() == text);
        match self {
            Plain::And(parts) => {
                let held: Vec<_> = parts.iter().map(|part| part.holds(record)).collect();
                if held.contains(&Some(false)) { Some(false) } else { (!held.contains(&None)).then_some(true) }
            }
            Plain::Or(parts) => {
                let held: Vec<_> = parts.iter().map(|part| part.holds(record)).collect();
                if held.contains(&Some(true)) { Some(true) } else { (!held.contains(&None)).then_some(false) }
            }
            Plain::Not(part) => part.holds(record).map(|held| !held),
            Plain::Present(name) => Some(!values(name).is_empty()),
            Plain::Equal("uidnumber", wanted) => {
                let wanted = number(wanted)?;
                Some(values("uidnumber").iter().any(|value| number(value) == Some(wanted)))
            }
            Plain::Equal(_, wanted) if wanted.is_empty() => None,
            Plain::Equal(name, wanted) => Some(values(name).iter().any(|value| words(value) == words(wanted))),
            Plain::Like("uidnumber", _) => None,
            Plain::Like(name, pieces) => {
                let pieces: Vec<String> = pieces.iter().map(|piece| piece.to_lowercase()).collect();
                Some(values(name).iter().any(|value| like(&words(value), &pieces)))
            }
            Plain::AtLeast("uidnumber", wanted) => {
                let wanted = number(wanted)?;
                Some(values("uidnumber").iter().any(|value| number(value) >= Some(wanted)))
            }
            Plain::AtLeast(..) => None,
            Plain::AllBits("uidnumber", mask) => {
                let mask = number(mask)?;
                Some(values("uidnumber").iter().filter_map(|value| number(value)).any(|value| value & mask == mask))
            }
            Plain::AllBits(..) => None,
        }
    }
}

fn words(text: &str) -> String {
    text.to_lowercase().split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Tries every place for every piece.
fn like(text: &str, pieces: &[String]) -> bool {
    let Some((last, before)) = pieces.split_last() else { return false };
    let Some((first, middle)) = before.split_first() else { return text == last };
    fn rest(text: &str, middle: &[String], last: &str) -> bool {
        match middle.split_first() {
            None => text.ends_with(last),
            Some((piece, more)) => {
                text.match_indices(piece.as_str()).any(|(at, found)| rest(&text[at + found.len()..], more, last))
            }
        }
    }
    text.strip_prefix(first.as_str()).is_some_and(|text| rest(text, middle, last))
}

fn some_text() -> impl Strategy<Value = String> {
    // Without edge spaces and final sigmas: what becomes of those is slapd's to say (tests/filter.rs).
    "[aAbB*()\\\\éÉж]( {0,2}[aAbBéÉ]){0,4}"
}

fn some_number() -> impl Strategy<Value = String> {
    prop_oneof![any::<i64>().prop_map(|n| n.to_string()), (-4i64..20).prop_map(|n| n.to_string()), Just("01".into())]
}

fn some_filter() -> impl Strategy<Value = Plain> {
    let text_name = || prop_oneof![Just("cn"), Just("title"), Just("sn")];
    let piece = || prop_oneof![Just(String::new()), "[abAéÉ]{1,2}"];
    let leaf = prop_oneof![
        prop_oneof![Just("cn"), Just("uidnumber")].prop_map(Plain::Present),
        (text_name(), some_text()).prop_map(|(name, value)| Plain::Equal(name, value)),
        some_number().prop_map(|value| Plain::Equal("uidnumber", value)),
        (text_name(), piece(), prop::collection::vec("[abAé]{1,2}", 0..3), piece()).prop_map(
            |(name, first, any, last)| {
                let pieces: Vec<String> = std::iter::once(first).chain(any).chain([last]).collect();
                if pieces.iter().all(String::is_empty) { Plain::Present(name) } else { Plain::Like(name, pieces) }
            }
        ),
        some_number().prop_map(|value| Plain::AtLeast("uidnumber", value)),
        Just(Plain::AtLeast("cn", "a".into())),
        Just(Plain::Like("uidnumber", vec!["1".into(), String::new()])),
        some_number().prop_map(|value| Plain::AllBits("uidnumber", value)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Plain::And),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Plain::Or),
            inner.prop_map(|part| Plain::Not(Box::new(part))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..Default::default() })]

    #[test]
    fn it_agrees_with_a_second_statement_of_the_rules(
        filter in some_filter(),
        cn in prop::collection::vec(some_text(), 0..3),
        title in prop::collection::vec(some_text(), 0..2),
        numbers in prop::collection::vec((-4i64..20).prop_map(|n| n.to_string()), 0..2),
    ) {
        let mut record = UserRecord::default();
        for (name, values) in [("cn", cn), ("title", title), ("uidnumber", numbers)] {
            record.set(name, values.into_iter().map(Value::Text).collect());
        }
        let expected = match filter.holds(&record) {
            Some(true) => Truth::True,
            Some(false) => Truth::False,
            None => Truth::Undefined,
        };
        let parsed = Filter::parse(&filter.text()).expect("it is a filter");
        prop_assert_eq!(parsed.evaluate(&record), expected, "{} over {:?}", filter.text(), record);
        prop_assert_eq!(Filter::parse(&parsed.to_string()), Ok(parsed));
    }

    #[test]
    fn no_text_brings_it_down(text in prop_oneof![".*", "[()&|!=*<>~:;\\\\ a-c0-2.é\0]{0,40}"]) {
        match Filter::parse(&text) {
            Ok(filter) => {
                filter.evaluate(&ann());
                prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
            }
            Err(error) => {
                prop_assert!(error.offset <= text.len());
                prop_assert!(error.to_string().contains('^'));
            }
        }
    }

    #[test]
    fn no_value_brings_it_down(octets in prop::collection::vec(any::<u8>(), 0..20), dn in ".*") {
        let value: String = octets.iter().map(|octet| format!("\\{octet:02x}")).collect();
        for name in ["cn", "mail", "uidNumber", "memberOf", "objectClass", "objectCategory", "createTimestamp",
            "telephoneNumber", "entryUUID", "userPassword", "pwdReset", "custom"] {
            let mut record = UserRecord { dn: dn.clone(), ..Default::default() };
            record.set(&name.to_lowercase(), vec![Value::from_bytes(&octets)]);
            for text in [format!("({name}={value})"), format!("({name}={value}*)"), format!("({name}<={value})"),
                format!("({name}:dn:={value})"), format!("({name}:{BIT_OR}:={value})")] {
                Filter::parse(&text).expect("it is a filter").evaluate(&record);
            }
        }
    }
}

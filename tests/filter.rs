//! The filter evaluator against slapd itself: the same random filters over the same random entries select the same users.
//! The seeds are fixed, so a failure comes back. The deliberate differences are in the module's own table, and not asked.

// The servers are waited for by the clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::decide::filter::{Filter, Truth};
use homeward::model::{UserRecord, Value};
use ldap3::{LdapConnAsync, Scope, SearchEntry};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use support::company::Dice;
use support::slapd::{ADMIN_DN, ADMIN_PASSWORD, SUFFIX, Slapd};

const ENTRIES: usize = 200;
const FILTERS: usize = 4_000;

const WORDS: &[&str] = &[
    "Alpha",
    "alpha",
    "BETA",
    "Beta gamma",
    "beta  Gamma",
    " beta gamma ",
    "Zoë",
    "ZOË",
    "zoe",
    "Ünïcode",
    "ünÏCODE",
    "Straße",
    "STRASSE",
    "Σίσυφος",
    "ΣΊΣΥΦΟΣ",
    "русский",
    "РУССКИЙ язык",
    "美咲",
    "a*b(c)\\d",
    "x=y,z",
    "42",
    "-7",
    "TRUE",
    "a b  c   d",
    "abab",
    "ababab",
    "Alpha-Beta",
    "alpha beta",
];
const ASCII: &[&str] = &[
    "/home/Ann",
    "/home/ann",
    "/bin/sh",
    "/bin/SH",
    "Ann Smith",
    "ann  smith",
    " ann smith",
    "a",
    "A",
    "bin sh ",
    "*",
];
const PHONES: &[&str] =
    &["+1 555-1234", "+15551234", "+1 555 12 34", "555-1234", "5551234", "+49 (30) 12", "+4930 12", "x12", "X12"];
const NUMBERS: &[&str] =
    &["0", "1", "7", "8", "10", "42", "512", "514", "66048", "-1", "-7", "-42", "2147483648", "9223372036854775807"];
const NO_NUMBERS: &[&str] = &["007", "+5", "-0", "", "abc", "1 ", "12a"];
const TIMES: &[&str] = &["20200101000000Z", "20991231235959Z", "2020010100Z", "202001010000+0100", "19700101000000.5Z"];
const NO_TIMES: &[&str] = &["", "2020", "20201301000000Z", "yesterday", "20200101000000"];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Exact,
    Ascii,
    Phone,
    Number,
    Time,
    Dn,
    Class,
    Octets,
    Uuid,
    Boolean,
}

const ATTRIBUTES: &[(&str, Kind)] = &[
    ("cn", Kind::Text),
    ("sn", Kind::Text),
    ("description", Kind::Text),
    ("title", Kind::Text),
    ("employeeType", Kind::Text),
    ("employeeNumber", Kind::Text),
    ("uid", Kind::Text),
    ("labeledURI", Kind::Exact),
    ("mail", Kind::Ascii),
    ("gecos", Kind::Ascii),
    ("homeDirectory", Kind::Ascii),
    ("loginShell", Kind::Ascii),
    ("telephoneNumber", Kind::Phone),
    ("mobile", Kind::Phone),
    ("uidNumber", Kind::Number),
    ("gidNumber", Kind::Number),
    ("shadowExpire", Kind::Number),
    ("createTimestamp", Kind::Time),
    ("manager", Kind::Dn),
    ("seeAlso", Kind::Dn),
    ("objectClass", Kind::Class),
    ("structuralObjectClass", Kind::Class),
    ("userPassword", Kind::Octets),
    ("entryUUID", Kind::Uuid),
    ("hasSubordinates", Kind::Boolean),
];

/// Other ways to name an attribute.
const ALIASES: &[(&str, &str)] = &[
    ("cn", "commonName"),
    ("cn", "2.5.4.3"),
    ("sn", "SURNAME"),
    ("uid", "userid"),
    ("mail", "rfc822Mailbox"),
    ("uidNumber", "1.3.6.1.1.1.1.0"),
    ("objectClass", "2.5.4.0"),
    ("mobile", "mobileTelephoneNumber"),
    ("description", "DESCRIPTION"),
];

fn spelled_dn(dice: &mut Dice, uid: &str) -> String {
    match dice.below(5) {
        0 => format!("uid={uid},ou=people,{SUFFIX}"),
        1 => format!("UID={}, OU=People, DC=Example, DC=com", uid.to_uppercase()),
        2 => format!("uid = {uid} ,ou=people,dc=example , dc=com"),
        3 => format!("uid={uid},ou=people,dc=example,dc=org"),
        _ => "cn=a\\, b+uid=x,dc=example,dc=com".into(),
    }
}

fn value_for(dice: &mut Dice, kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Text | Kind::Exact => (*dice.pick(WORDS)).into(),
        Kind::Ascii => (*dice.pick(ASCII)).into(),
        Kind::Phone => (*dice.pick(PHONES)).into(),
        Kind::Number => (*dice.pick(NUMBERS)).into(),
        Kind::Time => (*dice.pick(TIMES)).into(),
        Kind::Dn => {
            let uid = format!("u{:03}", dice.below(8));
            spelled_dn(dice, &uid).into()
        }
        Kind::Class => (*dice.pick(&[
            "top",
            "person",
            "ORGANIZATIONALPERSON",
            "inetOrgPerson",
            "posixAccount",
            "account",
            "shadowaccount",
            "groupOfNames",
            "2.5.6.6",
            "2.16.840.1.113730.3.2.2",
            "residentialPerson",
            "organizationalUnit",
        ]))
        .into(),
        Kind::Octets => vec![0xf0 + dice.below(4) as u8, b'a' + dice.below(2) as u8],
        Kind::Uuid => b"00000000-0000-4000-8000-000000000000".to_vec(),
        Kind::Boolean => (*dice.pick(&["TRUE", "FALSE", "true", ""])).into(),
    }
}

fn entries(dice: &mut Dice) -> String {
    let mut ldif = String::new();
    for n in 0..ENTRIES {
        let uid = if dice.below(4) == 0 { format!("U{n:03}") } else { format!("u{n:03}") };
        let _ = write!(ldif, "dn: uid={uid},ou=people,{SUFFIX}\nuid: {uid}\n");
        let plain_account = dice.below(10) == 0;
        let posix = plain_account || dice.below(3) > 0;
        let mut values: BTreeMap<&str, BTreeSet<Vec<u8>>> = BTreeMap::new();
        let text = if plain_account {
            &["description"][..]
        } else {
            &[
                "cn",
                "sn",
                "description",
                "title",
                "employeeType",
                "employeeNumber",
                "labeledURI",
                "telephoneNumber",
                "mobile",
                "mail",
                "manager",
                "seeAlso",
                "userPassword",
            ]
        };
        for name in text {
            let kind = ATTRIBUTES.iter().find(|(known, _)| known == name).map_or(Kind::Text, |(_, kind)| *kind);
            let single = matches!(*name, "employeeNumber");
            let needed = matches!(*name, "cn" | "sn");
            let count = match dice.below(6) {
                0 | 1 => usize::from(needed),
                2 if !single => 2,
                3 if !single => 3,
                _ => 1,
            };
            for _ in 0..count {
                values.entry(name).or_default().insert(value_for(dice, kind));
            }
        }
        ldif.push_str(if plain_account { "objectClass: account\n" } else { "objectClass: inetOrgPerson\n" });
        if posix {
            ldif.push_str("objectClass: posixAccount\nobjectClass: shadowAccount\n");
            if plain_account {
                values.insert("cn", [value_for(dice, Kind::Text)].into());
            }
            for name in ["uidNumber", "gidNumber"] {
                values.insert(name, [value_for(dice, Kind::Number)].into());
            }
            values.insert("homeDirectory", [value_for(dice, Kind::Ascii)].into());
            for name in ["gecos", "loginShell"] {
                if dice.below(2) == 0 {
                    values.insert(name, [value_for(dice, Kind::Ascii)].into());
                }
            }
            if dice.below(2) == 0 {
                values.insert("shadowExpire", [value_for(dice, Kind::Number)].into());
            }
        }
        for (name, values) in values {
            let mut seen = BTreeSet::new();
            for value in values {
                // Two values that are equal to the server are refused.
                let same = String::from_utf8_lossy(&value).to_lowercase().replace([' ', '-'], "");
                if !value.is_empty() && seen.insert(same) {
                    ldif.push_str(&support::company::ldif_line(name, &value));
                }
            }
        }
        ldif.push('\n');
    }
    ldif
}

fn escaped(octets: &[u8]) -> String {
    let mut out = String::new();
    for byte in octets {
        match byte {
            b'*' | b'(' | b')' | b'\\' | 0 | 0x80.. => {
                let _ = write!(out, "\\{byte:02x}");
            }
            _ => out.push(*byte as char),
        }
    }
    out
}

/// A value as somebody might type it: another case, other spaces.
fn respelled(dice: &mut Dice, value: Vec<u8>) -> Vec<u8> {
    let Ok(text) = String::from_utf8(value.clone()) else { return value };
    match dice.below(6) {
        0 => text.to_uppercase().into(),
        1 => text.to_lowercase().into(),
        2 => format!(" {text}  ").into(),
        3 => text.replace(' ', "  ").into(),
        _ => value,
    }
}

fn piece(dice: &mut Dice, value: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(value) else { return value.to_vec() };
    let characters: Vec<char> = text.chars().collect();
    if characters.is_empty() {
        return b"x".to_vec();
    }
    let start = dice.below(characters.len() as u64) as usize;
    let length = 1 + dice.below(4) as usize;
    let piece: String = characters.iter().skip(start).take(length).collect();
    respelled(dice, piece.into_bytes())
}

/// One assertion over a value that some entry has, or over a made-up one.
fn leaf(dice: &mut Dice, records: &[UserRecord]) -> String {
    let (name, kind) = *dice.pick(ATTRIBUTES);
    let spelling = match dice.below(3) {
        0 => ALIASES.iter().filter(|(known, _)| *known == name).map(|(_, alias)| *alias).next_back().unwrap_or(name),
        1 => ALIASES.iter().find(|(known, _)| *known == name).map_or(name, |(_, alias)| alias),
        _ => name,
    };
    let record = &records[dice.below(records.len() as u64) as usize];
    let own = record.values(&name.to_lowercase());
    let value = match dice.below(4) {
        0 => value_for(dice, kind),
        1 if kind == Kind::Number => (*dice.pick(NO_NUMBERS)).into(),
        1 if kind == Kind::Time => (*dice.pick(NO_TIMES)).into(),
        1 if dice.below(8) == 0 => (*dice.pick(&["", "no dn", "x", "ü", "  ", "-", "- "])).into(),
        _ if !own.is_empty() => own[dice.below(own.len() as u64) as usize].as_bytes().to_vec(),
        _ => value_for(dice, kind),
    };
    let value = respelled(dice, value);
    let written = escaped(&value);
    match dice.below(12) {
        0 => format!("({spelling}=*)"),
        1 => format!("({spelling}>={written})"),
        2 => format!("({spelling}<={written})"),
        3 if matches!(kind, Kind::Number | Kind::Dn) => format!("({spelling}~={written})"),
        3 | 4 => {
            let first = piece(dice, &value);
            let second = piece(dice, &value);
            let (first, second) = (escaped(&first), escaped(&second));
            match dice.below(6) {
                0 => format!("({spelling}={first}*)"),
                1 => format!("({spelling}=*{first})"),
                2 => format!("({spelling}=*{first}*)"),
                3 => format!("({spelling}={first}*{second})"),
                4 => format!("({spelling}=*{first}*{second}*)"),
                _ => format!("({spelling}={first}*{second}*{first})"),
            }
        }
        5 if kind == Kind::Number => {
            format!("({spelling}:1.2.840.113556.1.4.80{}:={written})", 3 + dice.below(2))
        }
        // These two are compared by equality alone in slapd.
        5..=7 if matches!(kind, Kind::Uuid | Kind::Boolean) => format!("({spelling}={written})"),
        5 => {
            let rule = *dice.pick(&[
                "caseExactMatch",
                "2.5.13.5",
                "caseIgnoreMatch",
                "CASEIGNOREMATCH",
                "2.5.13.2",
                "caseIgnoreIA5Match",
                "caseExactIA5Match",
                "noSuchMatch",
                "1.2.3.4",
                "integerMatch",
                "distinguishedNameMatch",
                "1.2.840.113556.1.4.803",
                "telephoneNumberMatch",
                "octetStringMatch",
                "booleanMatch",
            ]);
            format!("({spelling}:{rule}:={written})")
        }
        6 => format!("({spelling}:={written})"),
        7 => format!("({spelling}:dn:={written})"),
        8 if dice.below(3) == 0 => {
            let rule = *dice.pick(&["caseExactMatch", "caseIgnoreMatch", "integerMatch", "caseExactIA5Match"]);
            format!("(:{rule}:={written})")
        }
        8 if dice.below(2) == 0 => {
            let name = *dice.pick(&["ou", "uid", "dc", "cn"]);
            format!("({name}:dn:={})", *dice.pick(&["people", "PEOPLE", " people", "example", "u003", "other"]))
        }
        _ => format!("({spelling}={written})"),
    }
}

fn filter(dice: &mut Dice, records: &[UserRecord], depth: u64) -> String {
    if depth == 0 || dice.below(3) == 0 {
        return leaf(dice, records);
    }
    let choice = dice.below(5);
    if choice == 0 {
        return format!("(!{})", filter(dice, records, depth - 1));
    }
    let parts = dice.below(4);
    let inner: String = (0..parts).map(|_| filter(dice, records, depth - 1)).collect();
    format!("({}{inner})", if choice < 3 { '&' } else { '|' })
}

#[tokio::test]
async fn the_same_filters_select_the_same_users_as_slapd_does() {
    let mut dice = Dice::new(20_261_122);
    let slapd = Slapd::builder().users(entries(&mut dice)).start();
    let (connection, mut ldap) = LdapConnAsync::new(&slapd.url()).await.expect("slapd answers");
    ldap3::drive!(connection);
    ldap.simple_bind(ADMIN_DN, ADMIN_PASSWORD).await.and_then(|bound| bound.success()).expect("the rootdn may bind");
    let base = format!("ou=people,{SUFFIX}");
    let (found, _) = ldap
        .search(&base, Scope::OneLevel, "(objectClass=*)", vec!["*", "+"])
        .await
        .and_then(|found| found.success())
        .expect("all entries");
    let records: Vec<UserRecord> = found.into_iter().map(|entry| record(SearchEntry::construct(entry))).collect();
    assert_eq!(records.len(), ENTRIES);

    let mut selected = 0;
    let mut wrong = Vec::new();
    for n in 0..FILTERS {
        // Half are single assertions: they say most clearly what is wrong.
        let text = filter(&mut dice, &records, if n % 2 == 0 { 0 } else { 4 });
        let ours = Filter::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        let (found, _) = ldap
            .search(&base, Scope::OneLevel, &text, vec!["1.1"])
            .await
            .and_then(|found| found.success())
            .unwrap_or_else(|error| panic!("slapd refuses {text}: {error}"));
        let theirs: BTreeSet<String> = found.into_iter().map(|entry| SearchEntry::construct(entry).dn).collect();
        selected += theirs.len();
        let differs = records.iter().find(|record| ours.matches(record) != theirs.contains(&record.dn));
        if let Some(record) = differs {
            let (truth, theirs) = (ours.evaluate(record), theirs.contains(&record.dn));
            wrong.push(format!("{text}\n  here {truth:?}, slapd {theirs}, of {}", shown(&ours, record)));
        }
    }
    assert!(wrong.is_empty(), "{} of {FILTERS} filters differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(selected > FILTERS * 10, "the filters select too little to say anything: {selected}");
}

fn record(entry: SearchEntry) -> UserRecord {
    let mut record = UserRecord { dn: entry.dn, ..Default::default() };
    let text =
        entry.attrs.into_iter().map(|(name, values)| (name, values.into_iter().map(Value::Text).collect::<Vec<_>>()));
    let octets = entry
        .bin_attrs
        .into_iter()
        .map(|(name, values)| (name, values.iter().map(|value| Value::from_bytes(value)).collect()));
    for (name, values) in text.chain(octets) {
        record.attributes.values_mut(name.to_lowercase()).extend(values);
    }
    record
}

/// The values that the filter reads; all of them where it names no attribute.
fn shown(filter: &Filter, record: &UserRecord) -> String {
    let names = filter.attributes();
    let read: BTreeMap<_, _> =
        record.attributes.iter().filter(|(name, _)| names.is_empty() || names.contains(*name)).collect();
    format!("{} {read:?}", record.dn)
}

#[test]
fn undefined_is_neither_the_test_nor_its_opposite() {
    let record = UserRecord::default();
    for text in ["(cn>=a)", "(!(cn>=a))"] {
        assert_eq!(Filter::parse(text).expect("it is a filter").evaluate(&record), Truth::Undefined, "{text}");
    }
}

//! An entry as read becomes a user's record, a container, a group, or none of our business.
//!
//! Only configured attributes enter a record, and secrets never do, configured or not (promise 10).
//! Nothing here decides about a user, and nothing here fails: what cannot be carried is left out and said in the record.

use super::Entry;
use crate::model::{Attributes, UserKey, UserRecord, Value, is_below_or_equal, normalized_dn};
use std::collections::{BTreeMap, BTreeSet};

/// Values a record may hold. A group of ten thousand is fine; a user in ten thousand groups is a mistake.
pub const RECORD_VALUES_MAX: usize = 10_000;
/// Octets of values a record may hold.
pub const RECORD_BYTES_MAX: usize = 4 << 20;

/// Record attribute that says, in words, why the entry could not be carried as it is. The `;` keeps it apart from the
/// directory's own names, which come without options.
pub const PROBLEM: &str = "homeward;problem";
/// Groups whose member the user is. The directory's, or computed where the server has none.
pub const MEMBER_OF: &str = "memberof";
/// The number of the primary group (MS-ADA3 2.119).
pub const PRIMARY_GROUP: &str = "primarygroupid";
/// Groups, named by rules with `nested = true`, whose member the user is through other groups. Always computed.
pub const MEMBER_OF_NESTED: &str = "memberof;nested";

/// Never read into a record, whatever the configuration asks for. Lower case, sorted.
const SECRETS: &[&str] = &[
    "authpassword",
    "currentvalue",
    "dbcspwd",
    "initialauthincoming",
    "initialauthoutgoing",
    "ipanthash",
    "ipatokenotpkey",
    "ipatokenradiussecret",
    "krbextradata",
    "krbmkey",
    "krbprincipalkey",
    "krbpwdhistory",
    "lmpwdhistory",
    "ms-mcs-admpwd",
    "msds-groupmsamembership",
    "msds-managedpassword",
    "msfve-keypackage",
    "msfve-recoverypassword",
    "mslaps-encrypteddsrmpassword",
    "mslaps-encrypteddsrmpasswordhistory",
    "mslaps-encryptedpassword",
    "mslaps-encryptedpasswordhistory",
    "mslaps-password",
    "mspkiaccountcredentials",
    "ntpwdhistory",
    "oathsecret",
    "olcrootpw",
    "passwordhistory",
    "priorvalue",
    "pwdhistory",
    "sambacleartextpassword",
    "sambalmpassword",
    "sambantpassword",
    "sambapasswordhistory",
    "supplementalcredentials",
    "trustauthincoming",
    "trustauthoutgoing",
    "unicodepwd",
    "unixuserpassword",
    "userpassword",
    "userpkcs12",
];

const CONTAINER_CLASSES: &[&str] = &[
    "organizationalunit",
    "organization",
    "domain",
    "dcobject",
    "country",
    "locality",
    "container",
    "nscontainer",
    "builtindomain",
];

const GROUP_CLASSES: &[&str] = &["groupofnames", "groupofuniquenames", "groupofentries", "group"];
/// RFC 4515: the same, to ask for. A class that a server does not know matches nothing there.
pub const GROUPS: &str =
    "(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)(objectClass=groupOfEntries)(objectClass=group))";

/// Whether an attribute holds a password, a verifier or a key. Any case, with or without options.
pub fn is_secret(attribute: &str) -> bool {
    let name = attribute.split(';').next().unwrap_or_default();
    SECRETS.iter().any(|secret| secret.eq_ignore_ascii_case(name))
}

/// What a user is, by configuration: below the base, and matching the filter.
pub struct Shape {
    base_norm: String,
    /// Lower case, sorted: found by comparing.
    record_attributes: Vec<String>,
    /// Of this attribute (lower case) no other value is carried.
    only_value: Option<(&'static str, &'static str)>,
    /// Groups, as rules name them, by the number that `primaryGroupID` holds of one.
    primary_groups: BTreeMap<String, String>,
    user_filter: Box<dyn Fn(&UserRecord) -> bool + Send>,
}

impl Shape {
    /// `record_attributes`: any case; must include what `user_filter` looks at. Secret ones are dropped.
    pub fn new<'a>(
        base: &str,
        record_attributes: impl IntoIterator<Item = &'a str>,
        user_filter: Box<dyn Fn(&UserRecord) -> bool + Send>,
    ) -> Shape {
        let record_attributes: BTreeSet<String> = record_attributes
            .into_iter()
            .filter(|name| !is_secret(name))
            .map(|name| name.split(';').next().unwrap_or_default().to_ascii_lowercase())
            .collect();
        let (record_attributes, primary_groups) = (record_attributes.into_iter().collect(), BTreeMap::new());
        Shape { base_norm: normalized_dn(base), record_attributes, only_value: None, primary_groups, user_filter }
    }

    /// Active Directory leaves the primary group out of `memberOf`, and its members out of `member` (MS-ADA3 2.119): who has
    /// one of these is its member all the same. `primaryGroupID` must be asked for.
    pub fn primary_groups(mut self, groups: BTreeMap<String, String>) -> Shape {
        self.primary_groups = groups;
        self
    }

    /// Of `attribute` (lower case) no other value enters a record: one that also tells of lockouts would make every
    /// wrong password a change.
    pub fn only_value(mut self, attribute: &'static str, value: &'static str) -> Shape {
        self.only_value = Some((attribute, value));
        self
    }

    /// Whether a DN, as a server writes it, lies at or below the base.
    pub fn contains(&self, dn: &str) -> bool {
        is_below_or_equal(&normalized_dn(dn), &self.base_norm)
    }
}

/// What an entry is to us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mapped {
    User {
        record: UserRecord,
        dn_norm: String,
    },
    Container {
        dn: String,
    },
    /// `members`: normalized DNs, direct ones only.
    Group {
        dn: String,
        members: BTreeSet<String>,
    },
    /// In the base, and nothing that we follow: no user by the filter.
    Other,
    OutOfScope {
        dn: String,
    },
}

/// Takes the entry, so that names and values are moved rather than copied.
pub fn classify(shape: &Shape, entry: Entry) -> (UserKey, Mapped) {
    let key = entry.key;
    let classes = || entry.values("objectclass").iter();
    let is_any =
        |names: &[&str]| classes().any(|class| names.iter().any(|name| class.eq_ignore_ascii_case(name.as_bytes())));
    // A group counts wherever it lives: its members are what matters, and a rule may name one outside the base.
    if is_any(GROUP_CLASSES) {
        let members = members(&entry);
        return (key, Mapped::Group { dn: entry.dn, members });
    }
    let dn_norm = normalized_dn(&entry.dn);
    if !is_below_or_equal(&dn_norm, &shape.base_norm) {
        return (key, Mapped::OutOfScope { dn: entry.dn });
    }
    if is_any(CONTAINER_CLASSES) {
        return (key, Mapped::Container { dn: entry.dn });
    }
    let record = record(shape, entry);
    if (shape.user_filter)(&record) { (key, Mapped::User { record, dn_norm }) } else { (key, Mapped::Other) }
}

/// Whom a group names: normalized DNs, direct members only.
pub fn members(group: &Entry) -> BTreeSet<String> {
    let texts = |name| group.values(name).iter().filter_map(|value| std::str::from_utf8(value).ok());
    texts("member").chain(texts("uniquemember").map(without_uid)).map(normalized_dn).collect()
}

/// A uniqueMember may end in a bit string: `cn=a,dc=x#'0101'B` (RFC 4517 3.3.21).
fn without_uid(value: &str) -> &str {
    match value.rsplit_once("#'") {
        Some((dn, bits)) if bits.ends_with("'B") => dn,
        _ => value,
    }
}

fn record(shape: &Shape, entry: Entry) -> UserRecord {
    let mut attributes = Attributes::with_capacity(entry.attributes.len());
    let (mut count, mut bytes) = (0, 0);
    for (name, mut values) in entry.attributes {
        if let Some((attribute, value)) = shape.only_value
            && name == attribute
        {
            values.retain(|octets| octets == value.as_bytes());
        }
        if values.is_empty() || shape.record_attributes.binary_search(&name).is_err() {
            continue;
        }
        count += values.len();
        bytes += values.iter().map(Vec::len).sum::<usize>();
        // `cn` and `cn;lang-fr` both arrive as `cn`.
        let known = attributes.values_mut(name);
        if known.is_empty() {
            *known = values.into_iter().map(value).collect();
        } else {
            known.extend(values.into_iter().map(value));
        }
    }
    let mut problems = Vec::new();
    while count > RECORD_VALUES_MAX || bytes > RECORD_BYTES_MAX {
        let size = |values: &Vec<Value>| values.iter().map(|value| value.as_bytes().len()).sum::<usize>();
        let by_count = count > RECORD_VALUES_MAX;
        let Some((name, values)) = attributes
            .iter()
            .max_by_key(|(_, values)| if by_count { values.len() } else { size(values) })
            .map(|(name, values)| (name.clone(), (values.len(), size(values))))
        else {
            break;
        };
        attributes.remove(&name);
        count -= values.0;
        bytes -= values.1;
        problems.push(Value::Text(if by_count {
            format!("{name} has {} values; an entry may have {RECORD_VALUES_MAX}", values.0)
        } else {
            format!("{name} is {} octets long; an entry may have {RECORD_BYTES_MAX}", values.1)
        }));
    }
    let primary = attributes.get(PRIMARY_GROUP).and_then(|values| shape.primary_groups.get(values.first()?.as_text()?));
    if let Some(group) = primary.cloned() {
        attributes.values_mut(MEMBER_OF.into()).push(Value::Text(group));
    }
    let mut record = UserRecord { dn: entry.dn, attributes };
    record.set(PROBLEM, problems);
    record
}

fn value(octets: Vec<u8>) -> Value {
    String::from_utf8(octets).map_or_else(|not_text| Value::Bytes(not_text.into_bytes()), Value::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape::new(
            "dc=example,dc=com",
            ["objectClass", "uid", "mail", "memberOf", "userPassword", "unicodePwd", "krbPrincipalKey", "photo"],
            Box::new(|record| {
                record.values("objectclass").iter().any(|class| class.as_text() == Some("inetOrgPerson"))
            }),
        )
    }

    fn entry(dn: &str, attributes: &[(&str, &[&str])]) -> Entry {
        Entry {
            key: UserKey([7; 16]),
            dn: dn.into(),
            attributes: attributes
                .iter()
                .map(|(name, values)| {
                    ((*name).to_owned(), values.iter().map(|value| value.as_bytes().to_vec()).collect())
                })
                .collect(),
        }
    }

    fn user(extra: Vec<(String, Vec<Vec<u8>>)>) -> UserRecord {
        let mut entry = entry("uid=ann,dc=example,dc=com", &[("objectclass", &["inetOrgPerson"]), ("uid", &["ann"])]);
        entry.attributes.extend(extra);
        match classify(&shape(), entry).1 {
            Mapped::User { record, .. } => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_configured_attributes_enter_a_record() {
        let record = user(vec![("description".into(), vec![b"private".to_vec()])]);
        assert_eq!(record.attributes.keys().collect::<Vec<_>>(), ["objectclass", "uid"]);
    }

    #[test]
    fn promise_10_a_secret_never_enters_a_record_even_when_configured() {
        let record = user(
            ["userpassword", "unicodepwd", "krbprincipalkey"]
                .map(|name| (name.to_owned(), vec![b"hunter2".to_vec()]))
                .to_vec(),
        );
        assert!(!serde_json::to_string(&record).unwrap().contains("hunter2"));
        for name in SECRETS {
            assert!(is_secret(name) && is_secret(&format!("{};binary", name.to_uppercase())), "{name}");
        }
        assert!(!is_secret("mail"));
    }

    #[test]
    fn an_entry_is_a_user_a_container_a_group_something_else_or_elsewhere() {
        let of = |dn: &str, class: &str| classify(&shape(), entry(dn, &[("objectclass", &[class])])).1;
        assert!(matches!(of("UID=a, DC=Example,dc=com", "inetOrgPerson"), Mapped::User { .. }));
        assert!(matches!(of("ou=a,dc=example,dc=com", "OrganizationalUnit"), Mapped::Container { .. }));
        assert!(matches!(of("cn=a,dc=example,dc=com", "device"), Mapped::Other));
        assert!(matches!(of("uid=a,dc=example,dc=org", "inetOrgPerson"), Mapped::OutOfScope { .. }));
        let group = entry("cn=g,dc=elsewhere", &[("objectclass", &["groupOfNames"]), ("member", &["UID=A, dc=x"])]);
        let Mapped::Group { members, .. } = classify(&shape(), group).1 else { panic!("no group") };
        assert_eq!(members, BTreeSet::from(["uid=a,dc=x".to_owned()]));
    }

    #[test]
    fn a_unique_member_is_the_dn_without_its_bit_string() {
        let group =
            entry("cn=g,dc=x", &[("member", &["cn=a#'01'B"]), ("uniquemember", &["UID=b,dc=x#'0101'B", "cn=c"])]);
        let expected = ["cn=a#'01'B".to_lowercase(), "uid=b,dc=x".to_owned(), "cn=c".to_owned()];
        assert_eq!(members(&group), BTreeSet::from(expected));
    }

    #[test]
    fn of_an_attribute_that_also_tells_of_lockouts_only_the_lasting_value_is_carried() {
        let shape = Shape::new("dc=x", ["lockedtime"], Box::new(|_| true)).only_value("lockedtime", "0001");
        let of = |value: &str| match classify(&shape, entry("uid=a,dc=x", &[("lockedtime", &[value])])).1 {
            Mapped::User { record, .. } => record.text("lockedtime").map(str::to_owned),
            other => panic!("{other:?}"),
        };
        assert_eq!((of("0001"), of("20260101000000Z")), (Some("0001".into()), None));
    }

    #[test]
    fn the_primary_group_is_a_membership_like_any_other() {
        let shape = Shape::new("dc=x", ["memberOf", PRIMARY_GROUP], Box::new(|_| true))
            .primary_groups(BTreeMap::from([("513".into(), "CN=Domain Users,CN=Users,DC=x".into())]));
        let groups = |id: &str| {
            let entry = entry("cn=a,dc=x", &[("memberof", &["CN=staff,DC=x"]), (PRIMARY_GROUP, &[id])]);
            let Mapped::User { record, .. } = classify(&shape, entry).1 else { panic!("no user") };
            record.values(MEMBER_OF).iter().map(|value| value.as_text().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(groups("513"), ["CN=staff,DC=x", "CN=Domain Users,CN=Users,DC=x"]);
        assert_eq!(groups("514"), ["CN=staff,DC=x"]);
    }

    #[test]
    fn octets_that_are_no_text_and_a_long_value_are_carried_whole() {
        let long = vec![b'x'; 1 << 20];
        let record = user(vec![("photo".into(), vec![vec![0xff, 0xfe], long.clone()])]);
        assert_eq!(record.values("photo"), [Value::Bytes(vec![0xff, 0xfe]), Value::from_bytes(&long)]);
        assert_eq!(record.values(PROBLEM), []);
    }

    #[test]
    fn values_of_one_attribute_with_and_without_options_come_together() {
        let record = user(vec![("mail".into(), vec![b"a@x".to_vec()]), ("mail".into(), vec![b"b@x".to_vec()])]);
        assert_eq!(record.values("mail").len(), 2);
    }

    #[test]
    fn an_entry_beyond_a_limit_keeps_the_rest_and_says_what_is_left_out() {
        let groups = |n: usize| vec![("memberof".to_owned(), vec![b"cn=g".to_vec(); n])];
        assert_eq!(user(groups(RECORD_VALUES_MAX - 2)).values(PROBLEM), []);
        let record = user(groups(RECORD_VALUES_MAX - 1));
        assert!(record.text(PROBLEM).unwrap().contains("memberof has 9999 values"), "{record:?}");
        assert_eq!(record.text("uid"), Some("ann"));
        let record = user(vec![("photo".into(), vec![vec![b'x'; RECORD_BYTES_MAX]])]);
        assert!(record.text(PROBLEM).unwrap().contains("photo is 4194304 octets long"));
        assert_eq!(record.values("photo"), []);
    }
}

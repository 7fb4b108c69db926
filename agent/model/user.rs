//! A user as the directory tells it, and who that is.

use super::Attributes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The one identity of a user: `entryUUID` (RFC 4530), `objectGUID` or `nsUniqueId`. Sixteen opaque bytes.
/// Never a DN: a DN changes when somebody marries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey(pub [u8; 16]);

impl UserKey {
    pub fn from_bytes(bytes: &[u8]) -> Option<UserKey> {
        bytes.try_into().ok().map(UserKey)
    }

    /// The textual form of RFC 4122: `8-4-4-4-12` hexadecimal digits.
    pub fn parse(text: &str) -> Option<UserKey> {
        uuid::Uuid::parse_str(text.trim()).ok().map(|uuid| UserKey(uuid.into_bytes()))
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for UserKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UserKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        UserKey::parse(&text).ok_or_else(|| serde::de::Error::custom("not a user key"))
    }
}

impl schemars::JsonSchema for UserKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "UserKey".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "uuid" })
    }
}

/// One attribute value. Directories hold octets; most are text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Value {
    Text(String),
    /// Not valid UTF-8. In JSON: `{"base64": "…"}`.
    Bytes(Vec<u8>),
}

impl Value {
    pub fn from_bytes(bytes: &[u8]) -> Value {
        match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(bytes.to_vec()),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Value::Text(text) => text.as_bytes(),
            Value::Bytes(bytes) => bytes,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Bytes(_) => None,
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &BASE64.encode(bytes))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"base64\": …}")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }
            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
                Ok(Value::Text(text))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let Some((name, text)) = map.next_entry::<String, String>()? else {
                    return Err(serde::de::Error::custom("an empty value"));
                };
                if name != "base64" {
                    return Err(serde::de::Error::custom("expected base64"));
                }
                BASE64.decode(text).map(Value::Bytes).map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl schemars::JsonSchema for Value {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Value".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Text, or octets that are no text.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "base64": { "type": "string", "contentEncoding": "base64" } },
                    "required": ["base64"],
                },
            ],
        })
    }
}

/// What the directory last said of a user: only the attributes that policy, address, Digest and consumers need,
/// never a secret. Attribute names are lower case, without options; values keep the server's order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UserRecord {
    pub dn: String,
    #[serde(rename = "a")]
    pub attributes: Attributes,
}

impl UserRecord {
    /// All values of an attribute, named in lower case. Absent and empty are the same.
    pub fn values(&self, name: &str) -> &[Value] {
        self.attributes.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The first value that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values(name).iter().find_map(Value::as_text)
    }

    /// `set("mail", &[])` removes it.
    pub fn set(&mut self, name: &str, values: Vec<Value>) {
        if values.is_empty() {
            self.attributes.remove(name);
        } else {
            self.attributes.insert(name.to_owned(), values);
        }
    }
}

/// A DN as compared: lower case, no space around `,`, `+` and `=`. Good for equality and "is below", never sent to a server.
pub fn normalized_dn(dn: &str) -> String {
    // The common case: nothing to fold but ASCII letters. A first pass comes here once a user.
    if dn.bytes().all(|byte| byte.is_ascii() && !matches!(byte, b' ' | b';' | b'\\')) {
        return dn.to_ascii_lowercase();
    }
    let mut out = String::with_capacity(dn.len());
    let mut escaped = false;
    let mut pending_space = 0;
    let mut after_separator = true;
    for c in dn.chars() {
        if escaped {
            out.extend(c.to_lowercase());
            escaped = false;
            continue;
        }
        let starts_part = std::mem::replace(&mut after_separator, matches!(c, ',' | '+' | '=' | ';'));
        match c {
            '\\' => {
                for _ in 0..std::mem::take(&mut pending_space) {
                    out.push(' ');
                }
                out.push(c);
                escaped = true;
            }
            ',' | '+' | '=' | ';' => {
                pending_space = 0;
                out.push(if c == ';' { ',' } else { c });
            }
            ' ' => {
                if starts_part {
                    after_separator = true;
                } else {
                    pending_space += 1;
                }
            }
            _ => {
                for _ in 0..std::mem::take(&mut pending_space) {
                    out.push(' ');
                }
                out.extend(c.to_lowercase());
            }
        }
    }
    out
}

/// A DN without the identities that Active Directory puts in front of it in extended form: `<GUID=…>;<SID=…>;CN=…`
/// (MS-ADTS 3.1.1.3.4.1.5). Other text stays as it is.
pub fn plain_dn(value: &str) -> &str {
    let mut rest = value;
    while rest.starts_with("<GUID=") || rest.starts_with("<SID=") {
        match rest.split_once(">;") {
            Some((_, after)) => rest = after,
            None => return value,
        }
    }
    rest
}

/// The name that a deleted object had, from the DN of what is left of it: `CN=im1\0ADEL:<GUID>,CN=Deleted Objects,…`
/// (MS-ADTS 3.1.1.5.5). `None`: a DN of something that is there.
pub fn deleted_name(dn: &str) -> Option<&str> {
    let (before, after) = dn.split_once("\\0ADEL:").or_else(|| dn.split_once("\\0adel:"))?;
    let below =
        after.split_once(',').is_some_and(|(_, parent)| normalized_dn(parent).starts_with("cn=deleted objects,"));
    let (_, name) = before.split_once('=')?;
    (below && !name.contains(',')).then_some(name)
}

/// `<GUID=…>` for a deleted object (MS-ADTS 3.1.1.3.1.2.4): domain controllers take what is left of one by no other name.
pub fn deleted_reference(dn: &str) -> Option<String> {
    deleted_name(dn)?;
    let (_, after) = dn.split_once(":")?;
    let (guid, _) = after.split_once(',')?;
    uuid::Uuid::parse_str(guid).ok().map(|guid| format!("<GUID={}>", guid.hyphenated()))
}

/// Whether `dn` is `base` or below it; both normalized.
pub fn is_below_or_equal(dn: &str, base: &str) -> bool {
    base.is_empty()
        || dn == base
        || dn.strip_suffix(base).is_some_and(|rest| rest.ends_with(',') && !rest.ends_with("\\,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_json_with_text_and_bytes() {
        let mut record = UserRecord { dn: "uid=zoë,dc=example".into(), ..Default::default() };
        record.set("cn", vec![Value::Text("Zoë \"Z\"\u{1}".into()), Value::from_bytes(&[0xff, 0])]);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<UserRecord>(&json).unwrap(), record);
    }

    #[test]
    fn an_extended_dn_is_read_without_its_identities() {
        let plain = "CN=im1,CN=Services,DC=x";
        assert_eq!(plain_dn(plain), plain);
        assert_eq!(plain_dn("<GUID=0a1b>;CN=im1,CN=Services,DC=x"), plain);
        assert_eq!(plain_dn("<GUID=0a1b>;<SID=0105>;CN=im1,CN=Services,DC=x"), plain);
        assert_eq!(plain_dn("<GUID=0a1b>"), "<GUID=0a1b>", "nothing but an identity is no DN to compare");
        assert_eq!(plain_dn("im1"), "im1");
    }

    #[test]
    fn a_deleted_object_is_told_by_its_dn() {
        let deleted = "CN=im 9\\0ADEL:7e2435f0-e6b4-11f1-8772-828952d2b5a7,CN=Deleted Objects,CN=Configuration,DC=x";
        assert_eq!(deleted_name(deleted), Some("im 9"));
        assert_eq!(deleted_reference(deleted).as_deref(), Some("<GUID=7e2435f0-e6b4-11f1-8772-828952d2b5a7>"));
        for living in ["CN=im9,CN=Services,DC=x", "CN=im9\\0ADEL:7e,CN=Services,DC=x", "im9", "", "CN=a\\0ADEL:7e"] {
            assert_eq!((deleted_name(living), deleted_reference(living)), (None, None), "{living}");
        }
    }

    #[test]
    fn dns_compare_without_case_and_space() {
        assert_eq!(normalized_dn("UID=Ann,OU=People+cn=a,dc=Example"), "uid=ann,ou=people+cn=a,dc=example");
        assert_eq!(normalized_dn("UID=Ann , OU = People,dc=Example"), "uid=ann,ou=people,dc=example");
        assert_eq!(normalized_dn("cn=A\\, B,dc=x"), "cn=a\\, b,dc=x");
        assert!(is_below_or_equal("uid=ann,ou=people,dc=x", "ou=people,dc=x"));
        assert!(is_below_or_equal("ou=people,dc=x", "ou=people,dc=x"));
        assert!(!is_below_or_equal("uid=ann,ou=notpeople,dc=x", "people,dc=x"));
        assert!(!is_below_or_equal("cn=a\\,dc=x", "dc=x"), "an escaped comma does not part two names");
    }
}

//! When an attribute was last changed, as a domain's replication remembers it: two ways of writing the same.
//!
//! | server | attribute | form |
//! |---|---|---|
//! | Samba | `replPropertyMetaData` | octets: `replPropertyMetaDataBlob` of its drsblobs.idl |
//! | Windows | `msDS-ReplAttributeMetaData` | XML, a value for each attribute (MS-ADTS 3.1.1.4.5.13) |
//!
//! It tells that something changed, not what: `pwdProperties` as a whole, `userAccountControl` as a whole. And to the second.
//! Nothing here fails: what cannot be read tells nothing. Nothing of it is kept but the times that are asked for.

use super::Entry;
use super::lookup::Found;
use crate::model::Timestamp;

/// Samba's.
pub const BLOB: &str = "replPropertyMetaData";
/// Windows'.
pub const XML: &str = "msDS-ReplAttributeMetaData";

/// An attribute whose last change matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attribute {
    pub name: &'static str,
    /// ATTRTYP (MS-DRSR 5.16.4): 0x90000 and the last number of 1.2.840.113556.1.4.N.
    pub id: u32,
}

pub const PWD_PROPERTIES: Attribute = Attribute { name: "pwdProperties", id: 0x9005D };
pub const USER_ACCOUNT_CONTROL: Attribute = Attribute { name: "userAccountControl", id: 0x90008 };
pub const UNICODE_PWD: Attribute = Attribute { name: "unicodePwd", id: 0x9005A };
pub const PSO_REVERSIBLE: Attribute = Attribute { name: "msDS-PasswordReversibleEncryptionEnabled", id: 0x907E0 };

/// The last originating write of an attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Whole seconds, rounded down.
    at: Timestamp,
    /// Counts the writes of one domain controller, `dc`.
    usn: u64,
    dc: [u8; 16],
}

impl Written {
    /// When it had happened, surely.
    pub fn at_latest(self) -> Timestamp {
        Timestamp(self.at.0 + 999)
    }

    /// The same, as good as it gets beside another write of the same entry: of two in one second the first had happened
    /// when that second began, as far as the other can tell.
    pub fn at_latest_beside(self, other: Option<Written>) -> Timestamp {
        match other {
            Some(other) if other.dc == self.dc && self.usn <= other.usn => self.at,
            Some(_) | None => self.at_latest(),
        }
    }
}

/// By whichever of the two an entry brought.
pub fn of_entry(entry: &Entry, attribute: Attribute) -> Option<Written> {
    of_values(entry.values(&BLOB.to_ascii_lowercase()), entry.values(&XML.to_ascii_lowercase()), attribute)
}

pub fn of_found(found: &Found, attribute: Attribute) -> Option<Written> {
    of_values(found.values(&BLOB.to_ascii_lowercase()), found.values(&XML.to_ascii_lowercase()), attribute)
}

fn of_values(blobs: &[Vec<u8>], xml: &[Vec<u8>], attribute: Attribute) -> Option<Written> {
    let by_blob = || blobs.iter().find_map(|octets| from_blob(octets, attribute.id));
    xml.iter().find_map(|text| from_xml(text, attribute.name)).or_else(by_blob)
}

const BLOB_HEAD: usize = 16;
const BLOB_ROW: usize = 48;
/// NTTIME in seconds: from 1601 to 1970.
const SECONDS_TO_1970: i64 = 11_644_473_600;

/// Head: version (1), 0, number of rows, 0. Row: attribute, version, time (8), DC (16), USN (8), USN here (8). All little-endian.
pub fn from_blob(octets: &[u8], attribute: u32) -> Option<Written> {
    let u32_at = |octets: &[u8], at: usize| Some(u32::from_le_bytes(octets.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |octets: &[u8], at: usize| Some(u64::from_le_bytes(octets.get(at..at + 8)?.try_into().ok()?));
    if u32_at(octets, 0)? != 1 {
        return None;
    }
    let rows = u32_at(octets, 8)? as usize;
    let row = octets.get(BLOB_HEAD..)?.chunks_exact(BLOB_ROW).take(rows);
    let row = row.into_iter().find(|row| u32_at(row, 0) == Some(attribute))?;
    let seconds = i64::try_from(u64_at(row, 8)?).ok().filter(|seconds| *seconds > 0)?;
    let at = seconds.checked_sub(SECONDS_TO_1970)?.checked_mul(1000)?;
    Some(Written { at: Timestamp(at), dc: row.get(16..32)?.try_into().ok()?, usn: u64_at(row, 32)? })
}

/// One value, if it is about the attribute.
pub fn from_xml(text: &[u8], attribute: &str) -> Option<Written> {
    let text = std::str::from_utf8(text).ok()?.trim_start();
    if !text.starts_with("<DS_REPL_ATTR_META_DATA>") {
        return None;
    }
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inner, _) = rest.split_once(&format!("</{name}>"))?;
        Some(inner.trim())
    };
    if !element("pszAttributeName")?.eq_ignore_ascii_case(attribute) {
        return None;
    }
    let at = Timestamp::from_rfc3339(element("ftimeLastOriginatingChange")?)?;
    let dc = uuid::Uuid::parse_str(element("uuidLastOriginatingDsaInvocationID")?).ok()?;
    // 1601: never.
    (at.0 > -SECONDS_TO_1970 * 1000).then_some(())?;
    Some(Written { at, usn: element("usnOriginatingChange")?.parse().ok()?, dc: dc.into_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(rows: &[(u32, u64, u8, u64)]) -> Vec<u8> {
        let mut octets = Vec::new();
        for word in [1, 0, rows.len() as u32, 0] {
            octets.extend(u32::to_le_bytes(word));
        }
        for (attribute, seconds, dc, usn) in rows {
            octets.extend(attribute.to_le_bytes());
            octets.extend(7u32.to_le_bytes());
            octets.extend(seconds.to_le_bytes());
            octets.extend([*dc; 16]);
            octets.extend(usn.to_le_bytes());
            octets.extend(usn.to_le_bytes());
        }
        octets
    }

    /// 2026-11-24T15:20:22Z
    const SECONDS: u64 = 13_440_007_222;
    const XML_TEXT: &str = "<DS_REPL_ATTR_META_DATA>\n\t<pszAttributeName>userAccountControl</pszAttributeName>\n\
        \t<dwVersion>3</dwVersion>\n\t<ftimeLastOriginatingChange>2026-11-24T15:20:22Z</ftimeLastOriginatingChange>\n\
        \t<uuidLastOriginatingDsaInvocationID>07070707-0707-0707-0707-070707070707</uuidLastOriginatingDsaInvocationID>\n\
        \t<usnOriginatingChange>12345</usnOriginatingChange>\n\t<usnLocalChange>12345</usnLocalChange>\n\
        \t<pszLastOriginatingDsaDN>CN=NTDS Settings,CN=DC1</pszLastOriginatingDsaDN>\n</DS_REPL_ATTR_META_DATA>\n\0";

    #[test]
    fn both_forms_say_the_same() {
        let octets = blob(&[(0x9005A, 1, 1, 1), (USER_ACCOUNT_CONTROL.id, SECONDS, 7, 12345)]);
        let written = from_blob(&octets, USER_ACCOUNT_CONTROL.id).unwrap();
        assert_eq!(written.at.to_string(), "2026-11-24T15:20:22.000Z");
        assert_eq!(from_xml(XML_TEXT.as_bytes(), "useraccountcontrol"), Some(written));
        assert_eq!(from_blob(&octets, PWD_PROPERTIES.id), None);
        assert_eq!(from_xml(XML_TEXT.as_bytes(), "pwdProperties"), None);
    }

    #[test]
    fn what_is_cut_or_of_another_form_tells_nothing() {
        let octets = blob(&[(USER_ACCOUNT_CONTROL.id, SECONDS, 7, 12345)]);
        for length in 0..octets.len() {
            assert_eq!(from_blob(&octets[..length], USER_ACCOUNT_CONTROL.id), None, "{length}");
        }
        let mut other = octets.clone();
        other[0] = 2;
        assert_eq!(from_blob(&other, USER_ACCOUNT_CONTROL.id), None, "another version");
        other = octets;
        other[8..12].fill(0xff);
        assert!(from_blob(&other, USER_ACCOUNT_CONTROL.id).is_some(), "a number of rows is only that");
        for seconds in [0, u64::MAX, i64::MAX as u64] {
            assert_eq!(from_blob(&blob(&[(1, seconds, 7, 1)]), 1), None, "{seconds}");
        }
        for length in 0..XML_TEXT.find("/usnOriginatingChange").unwrap() {
            assert_eq!(from_xml(&XML_TEXT.as_bytes()[..length], "userAccountControl"), None, "{length}");
        }
        assert_eq!(
            from_xml(
                XML_TEXT.replace("2026", "1601").replace("11-24T15:20:22", "01-01T00:00:00").as_bytes(),
                "userAccountControl"
            ),
            None
        );
    }

    #[test]
    fn within_a_second_the_order_of_writes_tells_which_came_first() {
        let written = |dc, usn| Written { at: Timestamp(5000), usn, dc: [dc; 16] };
        let flag = written(1, 10);
        assert_eq!(flag.at_latest(), Timestamp(5999));
        assert_eq!(flag.at_latest_beside(Some(written(1, 10))), Timestamp(5000), "by the same write");
        assert_eq!(flag.at_latest_beside(Some(written(1, 11))), Timestamp(5000));
        assert_eq!(flag.at_latest_beside(Some(written(1, 9))), Timestamp(5999));
        assert_eq!(flag.at_latest_beside(Some(written(2, 11))), Timestamp(5999), "another DC counts for itself");
        assert_eq!(flag.at_latest_beside(None), Timestamp(5999));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn nothing_that_a_server_sends_makes_it_stumble(octets: Vec<u8>, id: u32, name: String) {
            let _ = from_blob(&octets, id);
            let _ = from_xml(&octets, &name);
            let mut blob = blob(&[(id, 1, 1, 1)]);
            blob.extend(octets);
            proptest::prop_assert!(from_blob(&blob, id).is_some());
        }

        #[test]
        fn no_text_within_the_form_makes_it_stumble(inner: String, attribute: String) {
            let _ = from_xml(format!("<DS_REPL_ATTR_META_DATA>{inner}").as_bytes(), &attribute);
            let text = XML_TEXT.replace("2026-11-24T15:20:22Z", &inner);
            let _ = from_xml(text.as_bytes(), "userAccountControl");
        }
    }
}

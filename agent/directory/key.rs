//! Which attribute says who an entry is, and how its sixteen octets are written: in an entry, in a filter.
//! Never a DN: a DN changes when somebody marries.

use crate::model::UserKey;
use std::fmt::Write as _;

/// The attribute by which a kind of server knows an entry for good: over renames and moves, never given twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeyAttribute {
    /// RFC 4530: `8-4-4-4-12` hexadecimal digits, as text.
    #[default]
    EntryUuid,
    /// MS-ADTS 3.1.1.1.4: sixteen octets, the first three groups of the GUID little-endian (MS-DTYP 2.3.4).
    ObjectGuid,
    /// 389 DS: `8-8-8-8` hexadecimal digits, as text. Its `entryUUID` is missing where entries were imported.
    NsUniqueId,
}

impl KeyAttribute {
    /// To ask for: it is operational on some servers, and then comes only when named.
    pub fn name(self) -> &'static str {
        match self {
            KeyAttribute::EntryUuid => "entryUUID",
            KeyAttribute::ObjectGuid => "objectGUID",
            KeyAttribute::NsUniqueId => "nsUniqueId",
        }
    }

    /// The key in a value of the attribute, as a server sends it.
    pub fn read(self, value: &[u8]) -> Option<UserKey> {
        match self {
            KeyAttribute::EntryUuid => UserKey::parse(std::str::from_utf8(value).ok()?),
            KeyAttribute::ObjectGuid => UserKey::from_bytes(value).map(reversed_groups),
            KeyAttribute::NsUniqueId => {
                let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 35)?;
                UserKey::parse(&text.replace('-', ""))
            }
        }
    }

    /// RFC 4515: the entry with this key.
    pub fn filter(self, key: &UserKey) -> String {
        let mut filter = format!("({}=", self.name());
        match self {
            KeyAttribute::EntryUuid => write!(filter, "{key}"),
            KeyAttribute::ObjectGuid => {
                reversed_groups(*key).0.iter().try_for_each(|octet| write!(filter, "\\{octet:02x}"))
            }
            KeyAttribute::NsUniqueId => {
                let groups = key.0.chunks(4).enumerate();
                groups.map(|(n, octets)| (if n == 0 { "" } else { "-" }, octets)).try_for_each(|(before, octets)| {
                    filter.push_str(before);
                    octets.iter().try_for_each(|octet| write!(filter, "{octet:02x}"))
                })
            }
        }
        .expect("a String takes what is written to it");
        filter.push(')');
        filter
    }
}

/// Between the octets of a GUID on the wire and those of the UUID that people read (RFC 4122 4.1.2); its own inverse.
fn reversed_groups(key: UserKey) -> UserKey {
    let mut octets = key.0;
    octets[..4].reverse();
    octets[4..6].reverse();
    octets[6..8].reverse();
    UserKey(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "7e2435f0-e6b4-11f1-8772-828952d2b5a7";
    const GUID: [u8; 16] =
        [0xf0, 0x35, 0x24, 0x7e, 0xb4, 0xe6, 0xf1, 0x11, 0x87, 0x72, 0x82, 0x89, 0x52, 0xd2, 0xb5, 0xa7];

    #[test]
    fn each_server_writes_the_same_key_in_its_own_way() {
        let key = UserKey::parse(TEXT).unwrap();
        for (attribute, value) in [
            (KeyAttribute::EntryUuid, TEXT.as_bytes()),
            (KeyAttribute::ObjectGuid, &GUID),
            (KeyAttribute::NsUniqueId, b"7e2435f0-e6b411f1-87728289-52d2b5a7"),
        ] {
            assert_eq!(attribute.read(value), Some(key), "{attribute:?}");
            assert_eq!(attribute.read(&value[1..]), None, "{attribute:?}");
        }
    }

    #[test]
    fn a_filter_names_the_key_as_the_server_holds_it() {
        let key = UserKey::parse(TEXT).unwrap();
        assert_eq!(KeyAttribute::EntryUuid.filter(&key), format!("(entryUUID={TEXT})"));
        assert_eq!(KeyAttribute::NsUniqueId.filter(&key), "(nsUniqueId=7e2435f0-e6b411f1-87728289-52d2b5a7)");
        let octets: String = GUID.iter().map(|octet| format!("\\{octet:02x}")).collect();
        assert_eq!(KeyAttribute::ObjectGuid.filter(&key), format!("(objectGUID={octets})"));
    }
}

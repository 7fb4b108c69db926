//! Speaking LDAP. Two ways, each for what it is good at: `stream/` reads in bulk with our own bounded reader;
//! `connect`, `lookup` and `write_back` use `ldap3` for what happens rarely or in small numbers.
//!
//! Nothing here decides anything about a user.

pub mod connect;
pub mod entry;
pub mod flavour;
pub mod guard;
pub mod kerberos;
pub mod key;
pub mod lookup;
pub mod metadata;
pub mod range;
pub mod reversible;
pub mod source;
pub mod stream;
pub mod write_back;

use crate::model::UserKey;

/// One entry as read. Attribute names are lower case, without options such as `;binary`, but for a [`range`] that is not
/// the last; values are octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: UserKey,
    pub dn: String,
    pub attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Entry {
    pub fn values(&self, name: &str) -> &[Vec<u8>] {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice()).unwrap_or_default()
    }
}

//! One user's write-back as values: what to change in the entry, and what became of it.

use super::{PasswordDate, UserKey, UserRecord};
use crate::error::{Disposition, Hint};

/// A compare-and-set of one entry. It is applied as a whole or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    pub key: UserKey,
    /// The last known DN. A stale one is found out: the key decides which entry is written.
    pub dn: String,
    /// Each attribute at most once. One whose `old` equals its `new` is not sent.
    pub changes: Vec<AttributeChange>,
    /// The auxiliary class, where the record shows the entry without it.
    pub object_class: Option<String>,
    /// Also demand a new password, if the password still is the one of this date.
    pub expire: Option<PasswordDate>,
    /// A new account: sent before whatever waits.
    pub urgent: bool,
}

/// What an attribute must hold now, and what it is to hold. `None`: absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttributeChange {
    pub attribute: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// What became of a [`Write`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteResult {
    /// The entry holds what was wanted.
    Applied { expire: ExpireResult },
    /// An attribute did not hold `old`: nothing was written. `current` is the entry as read just now: its DN, the
    /// write-back attributes and `objectclass`, names in lower case.
    Mismatch { current: UserRecord },
    /// No entry below the base has the key: nothing was written.
    NotFound,
    /// The server says no: nothing was written.
    Refused(WriteRefusal),
    /// No answer came. The write may or may not have happened: read before writing again.
    Unanswered,
}

/// What became of the demand for a new password. It never undoes the write itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExpireResult {
    NotAsked,
    /// The directory demands a new password at the next bind.
    Demanded,
    /// The password was changed since it was judged: nothing to demand.
    ChangedMeanwhile,
    Refused(WriteRefusal),
    Unanswered,
}

/// A result code (RFC 4511 appendix A) that is neither success nor a mismatch.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the directory refuses the write with result {code}{}", quoted(text))]
pub struct WriteRefusal {
    pub code: u32,
    /// The server's own words.
    pub text: String,
}

fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" (\"{text}\")") }
}

impl WriteRefusal {
    pub fn disposition(&self) -> Disposition {
        match self.code {
            // referral: this server takes no writes from anybody.
            10 => Disposition::Hold,
            // adminLimitExceeded, busy, unavailable; an entry that is renamed again and again.
            3 | 11 | 32 | 51 | 52 | 122 => Disposition::Retry,
            _ => Disposition::Park,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self.code {
            10 => "this server is a read-only copy; name the writable one in [directory] url, then: homeward check".into(),
            3 | 11 | 32 | 51 | 52 => "the server is overloaded or the entry is on the move; it is tried again by itself".into(),
            122 => "if it stays: the agent's account needs search rights on entryUUID; then: homeward check".into(),
            17 => "the server's schema lacks an attribute of [im.write_back]; load schemas/ldap/homeward.schema, then: homeward check".into(),
            18 => "a write-back attribute has no EQUALITY rule in the server's schema; correct that, then: homeward check".into(),
            21 => "the value does not fit the attribute's syntax; look at it: homeward user show USER".into(),
            50 => "give the agent's account write access to the write-back attributes and objectClass, then: homeward problem retry ID".into(),
            53 => "the server is set not to take this write; see its log, then: homeward problem retry ID".into(),
            65 => "no class of the entry allows the attribute; set [im.write_back] object_class, or load schemas/ldap/homeward.schema, then: homeward problem retry ID".into(),
            _ => "see the directory server's log, then: homeward problem retry ID".into(),
        })
    }
}

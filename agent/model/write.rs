//! One compare-and-set on one entry, and what came of it.

use super::{PasswordDate, UserKey, UserRecord};
use crate::error::Disposition;

/// What is to be written to one entry, in one modify.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    pub key: UserKey,
    /// Where the entry was last known to be. Never trusted alone: the entry must carry `key`.
    pub dn: String,
    pub changes: Vec<AttributeChange>,
    /// Auxiliary class to add, because the entry lacks it.
    pub object_class: Option<String>,
    /// Also demand a new password, if the password still is the one that was judged.
    pub expire: Option<PasswordDate>,
}

/// Replace `old` by `new`, or fail. `None`: absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttributeChange {
    pub attribute: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteResult {
    Applied,
    /// The entry was not as expected; this is how it is.
    Mismatch {
        current: UserRecord,
    },
    /// No entry has this key any more.
    NotFound,
    Refused {
        code: u32,
        text: String,
        disposition: Disposition,
        hint: String,
    },
    /// It may or may not have been done.
    Unanswered,
}

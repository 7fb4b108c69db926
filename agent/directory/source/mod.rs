//! Hearing changes. One enum, a variant per way of hearing; all yield the same `Batch`.
//! A source reads and tells; it never stores, decides or writes to the directory.

pub mod syncrepl;

use super::Entry;
use crate::model::UserKey;
use serde::{Deserialize, Serialize};

/// What a source heard since the last batch. The changes are in the server's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// Set when this batch ends a refresh.
    pub complete: Option<Presence>,
    /// Covers everything up to the end of this batch. Stored in the transaction that stores the changes, or not at all.
    pub cursor: Option<Cursor>,
    /// Part of a refresh rather than heard live.
    pub refresh: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// An entry with all the attributes asked for: a user, a container, a group or something else.
    Entry(Entry),
    /// These exist and did not change (RFC 4533 3.3.1, present phase).
    Present(Vec<UserKey>),
    /// The server says it no longer is in what we search: deleted, or moved away (then `dn` is the new one, where told).
    Removed { key: UserKey, dn: Option<String> },
    /// An entry or control that could not be read. Never ends the stream.
    Unreadable { key: Option<UserKey>, dn: Option<String>, problem: String },
}

/// What the end of a refresh says about those it did not name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Presence {
    /// Everything in scope was named: who was not is absent.
    Everything,
    /// Removals were named one by one: absence says nothing.
    ChangesOnly,
}

/// A position in the server's stream of changes, bound to the search and server it was taken with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cursor {
    /// `syncrepl`, …: a cursor of another kind means a full refresh.
    pub source: String,
    /// Fingerprint of directory, base, filter, attributes and bind account.
    pub search: String,
    /// The server it came from, for the operator to read.
    pub server: String,
    /// The server's own bytes; opaque outside the variant. Base64 in JSON.
    #[serde(with = "base64_bytes")]
    pub position: Vec<u8>,
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What a source promises with the rights the account has; `status` and `check` print it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Guarantees {
    /// "at once", "by sweep only", …
    pub deletes: String,
    pub moves: String,
    pub latency: String,
}

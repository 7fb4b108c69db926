//! Hearing changes. One enum, a variant per way of hearing; all yield the same `Batch`.
//! A source reads and tells; it never stores, decides or writes to the directory.
//!
//! | kind of server | `auto` takes |
//! |---|---|
//! | openldap | `syncrepl`, where the database has the overlay syncprov |
//! | active-directory | `dirsync`; `usn`, where the server does not offer it |

mod dirsync;
pub mod domain;
pub mod scan;
pub mod syncrepl;
mod usn;

use super::Entry;
use super::flavour::{RootDse, SYNC_CONTROL};
use super::stream::controls::DIRSYNC;
use super::stream::{Access, StreamError};
use crate::config::{Flavour, SourceKind};
use crate::error::{Disposition, Hint};
use crate::model::UserKey;
use domain::{Domain, Way};
use serde::{Deserialize, Serialize};
use syncrepl::{SearchShape, Syncrepl};

/// A way of hearing changes, under way. Dropped: given up.
pub enum Source {
    Syncrepl(Box<Syncrepl>),
    /// `dirsync` and `usn`.
    Domain(Domain),
}

impl Source {
    /// Connects and asks for what changed since `cursor`; for everything if there is none, or it is of another search.
    pub async fn start(
        kind: SourceKind,
        access: &Access,
        shape: &SearchShape,
        cursor: Option<&Cursor>,
    ) -> Result<Source, SourceError> {
        match kind {
            SourceKind::Syncrepl => Syncrepl::start(access, shape, cursor).await.map(Box::new).map(Source::Syncrepl),
            SourceKind::DirSync => Domain::start(Way::DirSync, access, shape, cursor).await.map(Source::Domain),
            SourceKind::Usn => Domain::start(Way::Usn, access, shape, cursor).await.map(Source::Domain),
        }
    }

    /// Whether it goes on from the cursor given, rather than from nothing.
    pub fn resumed(&self) -> bool {
        match self {
            Source::Syncrepl(source) => source.resumed(),
            Source::Domain(source) => source.resumed(),
        }
    }

    /// What was heard since the last time; waits until there is something. Cancel-safe. After an error: start anew.
    pub async fn next(&mut self) -> Result<Batch, SourceError> {
        match self {
            Source::Syncrepl(source) => source.next().await,
            Source::Domain(source) => source.next().await,
        }
    }
}

/// The best way of hearing changes that such a server offers, and why that one; or the one that the configuration names,
/// if the server has it.
pub fn choose(
    configured: Option<SourceKind>,
    flavour: Flavour,
    root: &RootDse,
) -> Result<(SourceKind, &'static str), NoSource> {
    let best = match flavour {
        Flavour::ActiveDirectory if root.supports(DIRSYNC) => SourceKind::DirSync,
        Flavour::ActiveDirectory => SourceKind::Usn,
        Flavour::OpenLdap | Flavour::Ds389 | Flavour::FreeIpa | Flavour::Generic => SourceKind::Syncrepl,
    };
    match (flavour, configured.unwrap_or(best)) {
        (Flavour::OpenLdap, SourceKind::Syncrepl) if root.supports(SYNC_CONTROL) => {
            Ok((SourceKind::Syncrepl, "it offers content synchronization (RFC 4533)"))
        }
        (Flavour::OpenLdap, SourceKind::Syncrepl) => Err(NoSource::NoSync),
        (Flavour::ActiveDirectory, SourceKind::DirSync) if root.supports(DIRSYNC) => {
            Ok((SourceKind::DirSync, "it offers the DirSync control"))
        }
        (Flavour::ActiveDirectory, SourceKind::DirSync) => Err(NoSource::NoDirSync),
        (Flavour::ActiveDirectory, SourceKind::Usn) => Ok((SourceKind::Usn, "it numbers its changes")),
        (Flavour::ActiveDirectory, SourceKind::Syncrepl) => Err(NoSource::NotAd),
        (Flavour::OpenLdap, SourceKind::DirSync | SourceKind::Usn) => Err(NoSource::OnlyAd),
        (
            Flavour::Ds389 | Flavour::FreeIpa | Flavour::Generic,
            SourceKind::Syncrepl | SourceKind::DirSync | SourceKind::Usn,
        ) => Err(NoSource::NotServed(flavour)),
    }
}

/// What a source promises to an account that sees beyond the base, and what is left of deleted entries.
pub fn guarantees(kind: SourceKind, sees_outside: bool, sees_deleted: bool) -> Guarantees {
    let (deletes, latency) = match kind {
        SourceKind::Syncrepl if sees_outside => ("at once", "milliseconds"),
        SourceKind::Syncrepl => {
            ("at once, told as left-scope: the account does not see outside the base", "milliseconds")
        }
        SourceKind::DirSync | SourceKind::Usn if sees_deleted => ("at once", "one second at most"),
        SourceKind::DirSync | SourceKind::Usn => {
            ("by sweep only: the account may not read CN=Deleted Objects", "one second at most")
        }
    };
    Guarantees { deletes: deletes.into(), moves: "at once".into(), latency: latency.into() }
}

/// Why a server's changes cannot be heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoSource {
    #[error("the server does not offer syncrepl (RFC 4533)")]
    NoSync,
    #[error("the server does not offer the DirSync control")]
    NoDirSync,
    #[error("Active Directory does not offer syncrepl (RFC 4533)")]
    NotAd,
    #[error("dirsync and usn are of Active Directory alone")]
    OnlyAd,
    #[error("directories of the kind {0} come with a later version")]
    NotServed(Flavour),
}

impl NoSource {
    pub fn hint(self) -> Hint {
        Hint(match self {
            NoSource::NoSync => {
                "load the overlay on the database (moduleload syncprov, overlay syncprov; cn=config: olcOverlay=syncprov), then: homeward check".into()
            }
            NoSource::NoDirSync => "set [directory] source = \"usn\", then: homeward check".into(),
            NoSource::NotAd | NoSource::OnlyAd => "set [directory] source = \"auto\", then: homeward check".into(),
            NoSource::NotServed(_) => {
                "this version serves OpenLDAP and Active Directory; if it is one, set [directory] flavour = \"openldap\", then: homeward check".into()
            }
        })
    }
}

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
    /// The server shows what is left of it: it was deleted, and nothing else.
    Deleted(UserKey),
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Guarantees {
    /// "at once", "by sweep only", …
    pub deletes: String,
    pub moves: String,
    pub latency: String,
}

/// Why a source says no more.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The caller starts again without a cursor.
    #[error("{url} cannot go on from our cursor and asks for a full refresh{}", because(text))]
    RefreshRequired { url: String, text: String },
    /// A server that was killed forgets its newest CSN until the next write (`kill -9`, power cut). The caller keeps the
    /// cursor and tries again; only after a limit it starts without.
    #[error("{url} is behind our cursor: it knows less than it told us before{}", because(text))]
    CursorAhead { url: String, text: String },
    #[error("{url} does not tell of itself and of {base} what a domain controller tells")]
    NotADomain { url: String, base: String },
    #[error("{url} ended a search that was to stay open")]
    Ended { url: String },
}

fn because(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

impl SourceError {
    pub fn disposition(&self) -> Disposition {
        match self {
            SourceError::Stream(error) => error.disposition(),
            SourceError::RefreshRequired { .. } | SourceError::CursorAhead { .. } | SourceError::Ended { .. } => {
                Disposition::Retry
            }
            SourceError::NotADomain { .. } => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            SourceError::Stream(error) => return error.hint(),
            SourceError::RefreshRequired { .. } => "everything is read again by itself; see: homeward status".into(),
            SourceError::CursorAhead { .. } => {
                "the server crashed or was restored from a backup; any write to it ends this, else everything is read again by itself; see: homeward status".into()
            }
            SourceError::NotADomain { .. } => {
                "name a domain controller in [directory] url, and in base its domain or a part of it; the account must be able to read the configuration partition; then: homeward check".into()
            }
            SourceError::Ended { .. } => "it is tried again; if it stays, look at the server's log, then: homeward check".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openldap_is_heard_by_syncrepl_or_not_at_all() {
        let without = RootDse::default();
        let with = RootDse { supported_controls: vec![SYNC_CONTROL.into()], ..RootDse::default() };
        assert_eq!(choose(None, Flavour::OpenLdap, &with).unwrap().0, SourceKind::Syncrepl);
        assert_eq!(choose(Some(SourceKind::Syncrepl), Flavour::OpenLdap, &without), Err(NoSource::NoSync));
        assert_eq!(choose(Some(SourceKind::DirSync), Flavour::OpenLdap, &with), Err(NoSource::OnlyAd));
        for flavour in [Flavour::Ds389, Flavour::FreeIpa, Flavour::Generic] {
            assert_eq!(choose(None, flavour, &with), Err(NoSource::NotServed(flavour)));
        }
    }

    #[test]
    fn active_directory_is_heard_by_dirsync_where_it_offers_that_and_else_by_its_numbers() {
        let without = RootDse::default();
        let with = RootDse { supported_controls: vec![DIRSYNC.into()], ..RootDse::default() };
        let chosen = |configured, root| choose(configured, Flavour::ActiveDirectory, root).map(|(kind, _)| kind);
        assert_eq!(chosen(None, &with), Ok(SourceKind::DirSync));
        assert_eq!(chosen(None, &without), Ok(SourceKind::Usn));
        assert_eq!(chosen(Some(SourceKind::Usn), &with), Ok(SourceKind::Usn));
        assert_eq!(chosen(Some(SourceKind::DirSync), &without), Err(NoSource::NoDirSync));
        assert_eq!(chosen(Some(SourceKind::Syncrepl), &with), Err(NoSource::NotAd));
    }
}

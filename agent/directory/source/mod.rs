//! Hearing changes. One enum, a variant per way of hearing; all yield the same `Batch`.
//! A source reads and tells; it never stores, decides or writes to the directory.
//!
//! | kind of server | `auto` takes |
//! |---|---|
//! | openldap | `syncrepl`, where the module syncprov is loaded, else `poll` |
//! | active-directory | `dirsync`; `usn`, where the server does not offer it |
//! | 389ds, freeipa | `syncrepl`, where the plug-ins for content synchronization and the retro changelog are on, else `poll` with a persistent search |
//! | generic | `poll`, with a persistent search where the server has it |

mod dirsync;
pub mod domain;
pub mod poll;
pub mod scan;
pub mod syncrepl;
mod usn;

use super::Entry;
use super::flavour::{PERSISTENT_SEARCH_CONTROL, RootDse, SYNC_CONTROL};
use super::stream::controls::DIRSYNC;
use super::stream::{Access, StreamError};
use crate::config::{Flavour, SourceKind};
use crate::error::{Disposition, Hint};
use crate::model::UserKey;
use domain::{Domain, Way};
use poll::Poll;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use syncrepl::{SearchShape, Syncrepl};

/// A way of hearing changes, under way. Dropped: given up.
pub enum Source {
    Syncrepl(Box<Syncrepl>),
    /// `dirsync` and `usn`.
    Domain(Domain),
    Poll(Box<Poll>),
}

/// What a source needs to know of the server and the settings, besides how to connect and what to search.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Means {
    pub kind: SourceKind,
    pub poll_interval: Duration,
    /// The server has persistent searches.
    pub listens: bool,
    /// The oldest change that 389 DS still remembers, as its root DSE says.
    pub first_change: Option<u64>,
    /// The account may read what is left of deleted entries (Active Directory).
    pub sees_deleted: bool,
}

impl Means {
    pub fn new(kind: SourceKind, poll_interval: Duration, root: &RootDse, sees_deleted: bool) -> Means {
        let listens = root.supports(PERSISTENT_SEARCH_CONTROL);
        Means { kind, poll_interval, listens, first_change: root.first_change, sees_deleted }
    }

    /// What is promised. `sees_outside`: whether the account provably sees beyond the base.
    pub fn guarantees(&self, sees_outside: bool) -> Guarantees {
        let told = if sees_outside { "" } else { ", told as left-scope: the account does not see outside the base" };
        let (deletes, latency) = match self.kind {
            SourceKind::Poll => return poll::guarantees(self.poll_interval, self.listens, told),
            SourceKind::Syncrepl => (format!("at once{told}"), "milliseconds"),
            SourceKind::DirSync | SourceKind::Usn if self.sees_deleted => ("at once".into(), "one second at most"),
            SourceKind::DirSync | SourceKind::Usn => {
                ("by sweep only: the account may not read CN=Deleted Objects".into(), "one second at most")
            }
        };
        Guarantees { deletes, moves: "at once".into(), latency: latency.into() }
    }
}

impl Source {
    /// Connects and asks for what changed since `cursor`; for everything if there is none, or it is of another search.
    pub async fn start(
        means: &Means,
        access: &Access,
        shape: &SearchShape,
        cursor: Option<&Cursor>,
    ) -> Result<Source, SourceError> {
        match means.kind {
            SourceKind::Syncrepl => {
                let cursor = cursor.filter(|cursor| syncrepl::remembered(&cursor.position, means.first_change));
                Syncrepl::start(access, shape, cursor).await.map(Box::new).map(Source::Syncrepl)
            }
            SourceKind::DirSync => Domain::start(Way::DirSync, access, shape, cursor).await.map(Source::Domain),
            SourceKind::Usn => Domain::start(Way::Usn, access, shape, cursor).await.map(Source::Domain),
            SourceKind::Poll => {
                let poll = Poll::start(access, shape, means.poll_interval, means.listens, cursor);
                Ok(Source::Poll(Box::new(poll)))
            }
        }
    }

    /// Whether it goes on from the cursor given, rather than from nothing.
    pub fn resumed(&self) -> bool {
        match self {
            Source::Syncrepl(source) => source.resumed(),
            Source::Domain(source) => source.resumed(),
            Source::Poll(source) => source.resumed(),
        }
    }

    /// What was heard since the last time; waits until there is something. Cancel-safe. After an error: start anew.
    pub async fn next(&mut self) -> Result<Batch, SourceError> {
        match self {
            Source::Syncrepl(source) => source.next().await,
            Source::Domain(source) => source.next().await,
            Source::Poll(source) => source.next().await,
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
    let syncs = match flavour {
        // Both plug-ins: without the changelog the other does not start, and the root DSE names its numbers.
        Flavour::Ds389 | Flavour::FreeIpa => root.supports(SYNC_CONTROL) && root.first_change.is_some(),
        Flavour::OpenLdap | Flavour::Generic | Flavour::ActiveDirectory => root.supports(SYNC_CONTROL),
    };
    let polls = match root.supports(PERSISTENT_SEARCH_CONTROL) {
        true => "it is asked at intervals, and by a persistent search it tells at once",
        false => "it is asked at intervals",
    };
    let says_so = "the configuration says so";
    match (flavour, configured) {
        (Flavour::ActiveDirectory, None) if root.supports(DIRSYNC) => {
            Ok((SourceKind::DirSync, "it offers the DirSync control"))
        }
        (Flavour::ActiveDirectory, None) => Ok((SourceKind::Usn, "it numbers its changes")),
        (Flavour::ActiveDirectory, Some(SourceKind::DirSync)) if root.supports(DIRSYNC) => {
            Ok((SourceKind::DirSync, says_so))
        }
        (Flavour::ActiveDirectory, Some(SourceKind::DirSync)) => Err(NoSource::NoDirSync),
        (Flavour::ActiveDirectory, Some(SourceKind::Usn)) => Ok((SourceKind::Usn, says_so)),
        (Flavour::ActiveDirectory, Some(kind @ (SourceKind::Syncrepl | SourceKind::Poll))) => {
            Err(NoSource::NotFor(kind, flavour))
        }
        (_, Some(kind @ (SourceKind::DirSync | SourceKind::Usn))) => Err(NoSource::NotFor(kind, flavour)),
        (_, Some(SourceKind::Syncrepl)) if syncs => Ok((SourceKind::Syncrepl, says_so)),
        (_, Some(SourceKind::Syncrepl)) => Err(NoSource::NoSync(flavour)),
        (_, Some(SourceKind::Poll)) => Ok((SourceKind::Poll, says_so)),
        (Flavour::OpenLdap | Flavour::Ds389 | Flavour::FreeIpa, None) if syncs => {
            Ok((SourceKind::Syncrepl, "it offers content synchronization (RFC 4533)"))
        }
        // What an unknown server makes of RFC 4533 is not known either.
        (_, None) => Ok((SourceKind::Poll, polls)),
    }
}

/// What would make such a server tell of changes at once and from where we left off, where it has to be asked now; the
/// next thing to do.
pub fn better(flavour: Flavour) -> Option<&'static str> {
    match flavour {
        Flavour::OpenLdap => Some(
            "load the overlay on the database (moduleload syncprov, overlay syncprov; cn=config: olcOverlay=syncprov), then: homeward check",
        ),
        Flavour::Ds389 => Some(
            "switch on the plug-ins Retro Changelog and Content Synchronization as docs/389ds.md says, then: homeward check",
        ),
        // Its servers have them, or are better left as they are.
        Flavour::FreeIpa | Flavour::Generic | Flavour::ActiveDirectory => None,
    }
}

/// Why a server's changes cannot be heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoSource {
    #[error("the server does not offer syncrepl (RFC 4533)")]
    NoSync(Flavour),
    #[error("the server does not offer the DirSync control")]
    NoDirSync,
    #[error("{0} is no way of hearing changes from directories of the kind {1}")]
    NotFor(SourceKind, Flavour),
}

impl NoSource {
    pub fn hint(self) -> Hint {
        Hint(match self {
            NoSource::NoSync(Flavour::Ds389 | Flavour::FreeIpa) => {
                "switch on the plug-ins Retro Changelog and Content Synchronization as docs/389ds.md says, or leave [directory] source out; then: homeward check".into()
            }
            NoSource::NoSync(Flavour::OpenLdap | Flavour::Generic | Flavour::ActiveDirectory) => {
                "load the overlay on the database (moduleload syncprov, overlay syncprov; cn=config: olcOverlay=syncprov), then: homeward check".into()
            }
            NoSource::NoDirSync => "set [directory] source = \"usn\", then: homeward check".into(),
            NoSource::NotFor(..) => "set [directory] source = \"auto\", then: homeward check".into(),
        })
    }
}

/// What a source heard since the last batch. The changes are in the server's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// A comparison begins, before the changes: who was named until now counts no more. Only of sources that compare
    /// again and again within a session.
    pub begins: Option<Comparison>,
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

/// How everything in scope is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// By entries, with all their attributes.
    Whole,
    /// By keys alone: it says who is there, and nothing about how they are.
    Names,
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

    const ALL: [Flavour; 4] = [Flavour::OpenLdap, Flavour::Ds389, Flavour::FreeIpa, Flavour::Generic];

    #[test]
    fn auto_takes_content_synchronization_where_it_is_whole_and_asks_elsewhere() {
        let bare = RootDse::default();
        let syncs = RootDse { supported_controls: vec![SYNC_CONTROL.into()], ..RootDse::default() };
        let logs = RootDse { first_change: Some(1), ..syncs.clone() };
        let auto = |flavour, root: &RootDse| choose(None, flavour, root).unwrap().0;
        for flavour in ALL {
            assert_eq!(auto(flavour, &bare), SourceKind::Poll, "{flavour}");
        }
        assert_eq!(auto(Flavour::OpenLdap, &syncs), SourceKind::Syncrepl);
        for flavour in [Flavour::Ds389, Flavour::FreeIpa] {
            assert_eq!((auto(flavour, &syncs), auto(flavour, &logs)), (SourceKind::Poll, SourceKind::Syncrepl));
        }
        assert_eq!(auto(Flavour::Generic, &logs), SourceKind::Poll, "nobody knows how such a server means it");
        let listens = RootDse { supported_controls: vec![PERSISTENT_SEARCH_CONTROL.into()], ..RootDse::default() };
        assert!(choose(None, Flavour::Ds389, &listens).unwrap().1.contains("persistent search"));
    }

    #[test]
    fn what_the_configuration_names_is_taken_or_refused() {
        let syncs = RootDse { supported_controls: vec![SYNC_CONTROL.into()], ..RootDse::default() };
        let wanted = |kind, flavour, root: &RootDse| choose(Some(kind), flavour, root).map(|(kind, _)| kind);
        for flavour in ALL {
            assert_eq!(wanted(SourceKind::Poll, flavour, &syncs), Ok(SourceKind::Poll));
            let refused = wanted(SourceKind::Syncrepl, flavour, &RootDse::default());
            assert_eq!(refused, Err(NoSource::NoSync(flavour)));
        }
        assert_eq!(wanted(SourceKind::Syncrepl, Flavour::Generic, &syncs), Ok(SourceKind::Syncrepl));
        let refused = wanted(SourceKind::Usn, Flavour::OpenLdap, &syncs);
        assert_eq!(refused, Err(NoSource::NotFor(SourceKind::Usn, Flavour::OpenLdap)));
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
        assert_eq!(
            chosen(Some(SourceKind::Syncrepl), &with),
            Err(NoSource::NotFor(SourceKind::Syncrepl, Flavour::ActiveDirectory))
        );
    }
}

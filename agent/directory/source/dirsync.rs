//! The DirSync control (MS-ADTS 3.1.1.3.4.1.3), with object security: the account needs no right of its own on the domain,
//! and sees what it may read.
//!
//! | what happened | what comes | what is told |
//! |---|---|---|
//! | an attribute that we asked for changed | the entry with that attribute alone | the entry, read again whole |
//! | renamed, moved | `name` | the same, with its new DN |
//! | a container renamed or moved | the container alone | the container; its users are looked up by the poller |
//! | a member came or went | the group | the group |
//! | deleted | `isDeleted`, to who may read Deleted Objects | `Deleted`: a tombstone is proof |
//! | restored | `isDeleted` without a value | the entry, read again whole |
//! | `memberOf`, or another attribute that is not replicated | nothing | nothing: read with the rest |
//! | our cookie cannot be read | result 12 or 2 | `RefreshRequired` |
//! | our cookie says nothing to this server | everything, without an error | refused by us before it is sent |
//!
//! The base of a round is the head of the domain, whatever the scope. A round may be cut (`more`): it is gone on with.

use super::domain::{Dc, NO_COMPUTERS, below, is_deleted};
use super::{Change, SourceError};
use crate::directory::key::KeyAttribute;
use crate::directory::reversible::is_computed;
use crate::directory::stream::controls::{self, DIRSYNC, DirSyncAnswer};
use crate::directory::stream::{self, StreamError};
use crate::model::UserKey;

/// Entries read again by one search: each is found in the index, and the filter stays small.
pub(super) const KEYS_IN_ONE_FILTER: usize = 100;
/// Its head is of this class, and nothing else in it: a cookie that covers a whole domain for the price of one entry.
const HEAD_ONLY: &str = "(objectClass=domainDNS)";
/// Without these a deletion, a rename and a move are not told.
const ALWAYS: [&str; 2] = ["isDeleted", "name"];
const PROTOCOL_ERROR: u32 = 2;

/// One answer.
pub(super) struct Round {
    /// To be read again.
    pub changed: Vec<UserKey>,
    /// What needs no reading.
    pub changes: Vec<Change>,
    pub more: bool,
    pub cookie: Vec<u8>,
}

/// Whether a domain controller is named in the cookie: by it, or by one that it replicates with. Where it is not, it would
/// send everything, without a word. The cookie's form is not documented; if it is another one day, everything is read again.
pub(super) fn knows(cookie: &[u8], invocation: UserKey) -> bool {
    cookie.windows(invocation.0.len()).any(|window| window == invocation.0)
}

/// A cookie from which to go on, for somebody who is about to read everything.
pub(super) async fn first_cookie(dc: &mut Dc) -> Result<Vec<u8>, SourceError> {
    let mut cookie = Vec::new();
    loop {
        let answer = ask(dc, &cookie, HEAD_ONLY, &[KeyAttribute::ObjectGuid.name().to_owned()]).await?.1;
        cookie = answer.cookie;
        if !answer.more {
            return Ok(cookie);
        }
    }
}

/// What changed since the cookie.
pub(super) async fn round(dc: &mut Dc, cookie: &[u8], attributes: &[String]) -> Result<Round, SourceError> {
    let mut wanted = attributes.to_vec();
    wanted.extend(ALWAYS.map(String::from));
    wanted.retain(|name| !is_computed(name));
    let (found, answer) = ask(dc, cookie, NO_COMPUTERS, &wanted).await?;
    let (mut changed, mut changes) = (Vec::new(), Vec::new());
    for entry in found {
        match entry {
            Change::Entry(entry) if is_deleted(&entry) => changes.push(Change::Deleted(entry.key)),
            Change::Entry(entry) => changed.push(entry.key),
            other => changes.push(other),
        }
    }
    Ok(Round { changed, changes, more: answer.more, cookie: answer.cookie })
}

/// Reads entries whole, wherever they are now.
pub(super) fn again(head: &str, keys: &[UserKey], attributes: &[String]) -> stream::Search {
    let any: String = keys.iter().map(|key| KeyAttribute::ObjectGuid.filter(key)).collect();
    below(head, format!("(|{any})"), attributes.to_vec(), Vec::new())
}

async fn ask(
    dc: &mut Dc,
    cookie: &[u8],
    filter: &str,
    attributes: &[String],
) -> Result<(Vec<Change>, DirSyncAnswer), SourceError> {
    let head = dc.head.clone();
    // Tombstones come by themselves on Samba; Windows wants to be asked.
    let controls = vec![controls::dirsync(cookie), controls::show_deleted()];
    let search = below(&head, filter.to_owned(), attributes.to_vec(), controls);
    let found = dc.parts(&search, b"").await.map_err(|error| refused(error, !cookie.is_empty()))?;
    let answer = found.done.control(DIRSYNC).map(controls::dirsync_answer);
    let answer = answer.unwrap_or(Err(stream::ber::BerError::Missing)).map_err(|cause| dc.malformed(cause))?;
    let entries = found.entries.into_iter().map(Change::Entry);
    Ok((found.unreadable.into_iter().chain(entries).collect(), answer))
}

/// A server that refuses the control was told so before the cookie: now it is about the cookie.
fn refused(error: SourceError, with_cookie: bool) -> SourceError {
    match error {
        SourceError::Stream(StreamError::Refused {
            url,
            code: stream::UNAVAILABLE_CRITICAL_EXTENSION | PROTOCOL_ERROR,
            text,
            ..
        }) if with_cookie => SourceError::RefreshRequired { url, text },
        error => error,
    }
}

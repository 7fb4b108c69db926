//! RFC 4533 refreshAndPersist, as OpenLDAP's syncprov speaks it: a refresh from the cursor, then every change at once.
//!
//! How a refresh ends, and what that says about entries that it did not name:
//!
//! | cookie sent | server's state | messages | `complete` |
//! |---|---|---|---|
//! | no | any | all entries, refreshDelete | `Everything`: nothing could be left out |
//! | yes | nothing changed | refreshDelete, no cookie | `ChangesOnly`; the old cursor stays |
//! | yes | session log reaches back | id set of removed, changed entries, refreshDelete | `ChangesOnly` |
//! | yes | no session log, or too short | id sets of present, changed entries, refreshPresent | `Everything` |
//! | yes | csn very old or of an unknown server | all entries, refreshPresent | `Everything` |
//! | yes | cookie not understood | all entries, refreshDelete: looks as if nothing was removed | never sent: see below |
//! | yes | cookie newer than the server | result 53 | none: `CursorAhead` |
//! | yes | of a server that this one has not heard of | all entries it has, refreshPresent | never sent: see [`behind`] |
//! | yes | cookie older than the log it needs | result 4096 | none: `RefreshRequired` |
//!
//! 389 DS (Content Synchronization plug-in) always answers a cookie with an id set of removed and then changed entries. Its
//! cookie, `server#account:base:filter#number`, is bound to the search (else 4096), and six things are its own:
//!
//! * Who stopped to match while nobody listened is not mentioned: so the filter sent is one that everybody matches.
//! * After a cookie, changed entries come with all their attributes, whatever was asked, but without the operational ones:
//!   who is locked looks as if not. So the reader skips over what nobody asked for, and those entries are read once more.
//! * A number older than what its changelog remembers is taken without a word: [`remembered`] asks the root DSE first.
//! * A live message may bear a number that covers another change whose message comes after it (seen under parallel writes, by
//!   one): `stepped_back` asks for the newest changes once more.
//! * Now and then a live message bears the number 4294967295, an unsigned -1: no position.
//! * Without `nsslapd-attribute: nsuniqueid:targetUniqueId` in the retro changelog a cookie brings nobody at all, and a
//!   newer number: nobody told though the number went on is `RefreshRequired`.
//!
//! RFC 4533 3.3.1 also allows a present phase and then a delete phase; that is `Everything`. An entry that cannot be
//! read, not even its UUID, turns `Everything` into `ChangesOnly`: it may be any of those that seem absent.
//!
//! A cookie is moved to only at the end of a refresh (the one of an id set is older, and entries of a refresh come in no
//! order) and by the live messages after it, and only if it names a CSN: syncprov sends some without, and going on from
//! one of those would be a full refresh. A cookie that syncprov does not understand is silently ignored, and the end of
//! that full refresh cannot be told from a delete phase: so only cookies of the form that syncprov reads are sent. It
//! never reconnects: an error ends it, the caller starts another from the
//! cursor it stored.

use super::scan::{by_keys, with_key};
use super::{Batch, Change, Cursor, Presence, SourceError};
use crate::directory::stream::{
    self, Access, Connection, Heard, Operation, Results, Scope, Search, State, StreamError, SyncInfo, SyncRequest,
    SyncState, Unreadable,
};
use crate::model::{UserKey, normalized_dn};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::pin::Pin;

/// The source named in a cursor of ours.
pub const SOURCE: &str = "syncrepl";

/// The filter to send: the widest, as a cookie is not bound to a filter, and who came to match another one later would
/// never be sent.
pub const WIDEST_FILTER: &str = "(objectClass=*)";

/// Changes that 389 DS may have under way at the same time: it has fewer threads.
const UNDER_WAY_MAX: u64 = 100;

/// More entries than this are not read once more: reading all is quicker.
const CHANGED_MAX: usize = 5_000;

/// What is searched. A cursor taken with another shape is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SearchShape {
    pub base: String,
    /// RFC 4515; usually [`WIDEST_FILTER`].
    pub filter: String,
    /// Named one by one; the key attribute is added.
    pub attributes: Vec<String>,
    /// What entries are to us: user filter and named groups. Not sent; but whoever was turned away by another filter is
    /// not sent again either.
    pub meaning: String,
}

impl SearchShape {
    /// SHA-256 of all that a cursor depends on, in hexadecimal.
    pub fn fingerprint(&self, account: &str) -> String {
        let mut attributes: Vec<String> = self.attributes.iter().map(|name| name.to_ascii_lowercase()).collect();
        attributes.sort();
        attributes.dedup();
        let mut hash = Sha256::new();
        let (base, account, attributes) = (normalized_dn(&self.base), normalized_dn(account), attributes.join(" "));
        for part in [SOURCE, &base, &self.filter, &attributes, &account, &self.meaning] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        format!("{:x}", hash.finalize())
    }
}

/// A refresh under way, or the live changes after it. Dropped: abandoned.
pub struct Syncrepl {
    results: Results,
    /// Heard, but not handed on yet: what follows the end of a refresh is a batch of its own.
    pending: std::vec::IntoIter<Heard>,
    progress: Progress,
    access: Access,
    base: String,
    attributes: Vec<String>,
    /// Entries that the refresh brought in part are read once more; and its end, which waits for them.
    again: Option<(Reading, Batch)>,
}

type Reading = Pin<Box<dyn Future<Output = Result<Vec<Change>, StreamError>> + Send>>;

impl Syncrepl {
    /// Connects and asks for what changed since `cursor`; for everything if there is none, or it is of another search.
    pub async fn start(access: &Access, shape: &SearchShape, cursor: Option<&Cursor>) -> Result<Syncrepl, SourceError> {
        let fingerprint = shape.fingerprint(&access.account());
        let cookie = cursor.and_then(|cursor| usable(cursor, &fingerprint)).map(<[u8]>::to_vec);
        let attributes = with_key(access.key, &shape.attributes);
        let search = Search {
            base: shape.base.clone(),
            scope: Scope::Subtree,
            filter: shape.filter.clone(),
            attributes: attributes.clone(),
            sync: Some(SyncRequest { persist: true, cookie: cookie.as_deref().map(stepped_back) }),
            page: None,
            persistent: false,
            controls: Vec::new(),
        };
        let results = Connection::open(access).await?.search(&search)?;
        let progress = Progress {
            url: access.endpoint.url.clone(),
            search: fingerprint,
            resumed: cookie.is_some(),
            in_part: cookie.as_deref().is_some_and(|cookie| numbered(cookie).is_some()),
            changed: Vec::new(),
            cookie,
            phase: Phase::Refresh,
            presence_told: false,
            told: false,
            unidentified: false,
        };
        let (access, base) = (access.clone(), shape.base.clone());
        Ok(Syncrepl { results, pending: Vec::new().into_iter(), progress, access, base, attributes, again: None })
    }

    /// Whether the refresh goes on from the cursor given, rather than from nothing.
    pub fn resumed(&self) -> bool {
        self.progress.resumed
    }

    /// What was heard since the last time; waits until there is something. Cancel-safe. After an error: start anew.
    pub async fn next(&mut self) -> Result<Batch, SourceError> {
        loop {
            if let Some((reading, _)) = &mut self.again {
                let whole = reading.as_mut().await?;
                if let Some((_, mut end)) = self.again.take() {
                    end.changes.extend(whole);
                    return Ok(end);
                }
            }
            if let Some(batch) = self.progress.batch(&mut self.pending)? {
                let changed = std::mem::take(&mut self.progress.changed);
                if batch.complete.is_none() || changed.is_empty() {
                    self.progress.changed = changed;
                    return Ok(batch);
                }
                let (access, base) = (self.access.clone(), self.base.clone());
                self.again = Some((Box::pin(by_keys(access, base, changed, self.attributes.clone())), batch));
                continue;
            }
            match self.results.next().await {
                Ok(Some(heard)) => self.pending = heard.into_iter(),
                Ok(None) => return Err(SourceError::Ended { url: self.progress.url.clone() }),
                Err(error) => return Err(self.progress.named(error)),
            }
        }
    }
}

/// The cookie, if it was taken with this search.
fn usable<'a>(cursor: &'a Cursor, fingerprint: &str) -> Option<&'a [u8]> {
    let of_this = cursor.source == SOURCE && cursor.search == fingerprint;
    (of_this && is_position(&cursor.position)).then_some(&cursor.position)
}

/// Whether a server that has these `contextCSN` values knows less than the cursor covers, and of which server's changes.
/// syncprov refuses a newer CSN (result 53), but only of a server that it has heard of: it answers a cookie of one that it has
/// not with all that it holds, and whom it does not hold yet would seem to be gone. No values: not known.
pub fn behind(cursor: &Cursor, fingerprint: &str, context_csns: &[String]) -> Option<String> {
    let known: BTreeMap<&str, &str> =
        context_csns.iter().filter_map(|csn| Some((server_of(csn)?, csn.as_str()))).collect();
    let (_, covered) = split(usable(cursor, fingerprint)?)?;
    let lacks = covered.into_iter().find(|(server, csn)| known.get(server).is_none_or(|known| known < csn));
    let (server, csn) = lacks.filter(|_| !known.is_empty())?;
    let has = known.get(server).map_or_else(|| "nothing".to_owned(), |csn| format!("changes up to {csn}"));
    Some(format!("of the server with the id {server} it has {has}, we know {csn}"))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Refresh,
    Live,
}

/// Where we are in the conversation: turns what is heard into batches.
struct Progress {
    url: String,
    search: String,
    /// The newest that covers all that was handed on; after a start the one that was sent.
    cookie: Option<Vec<u8>>,
    phase: Phase,
    resumed: bool,
    /// A present phase has ended: who was not named by now is absent.
    presence_told: bool,
    /// The refresh has named somebody.
    told: bool,
    /// Entries of this refresh come without the operational attributes.
    in_part: bool,
    /// Those that came so.
    changed: Vec<UserKey>,
    /// Something unreadable bore no UUID.
    unidentified: bool,
}

impl Progress {
    /// Takes from `heard` up to its end, or to the end of the refresh. `None`: nothing that anybody has to know.
    fn batch(&mut self, heard: &mut impl Iterator<Item = Heard>) -> Result<Option<Batch>, SourceError> {
        let mut batch = Batch { refresh: self.phase == Phase::Refresh, ..Batch::default() };
        let mut moved = false;
        for heard in heard {
            match heard {
                Heard::Entry(entry, None) => batch.changes.push(Change::Unreadable {
                    key: Some(entry.key),
                    dn: Some(entry.dn),
                    problem: "it came without a sync state control".into(),
                }),
                Heard::Entry(entry, Some(SyncState { state: State::Add | State::Modify, .. }))
                    if self.in_part && self.phase == Phase::Refresh =>
                {
                    self.told = true;
                    self.changed.push(entry.key);
                    if self.changed.len() > CHANGED_MAX {
                        let text = format!("more than {CHANGED_MAX} entries have changed");
                        return Err(SourceError::RefreshRequired { url: self.url.clone(), text });
                    }
                }
                Heard::Entry(entry, Some(sync)) => {
                    batch.changes.push(match sync.state {
                        State::Add | State::Modify => Change::Entry(entry),
                        State::Present => Change::Present(vec![entry.key]),
                        State::Delete => Change::Removed { key: entry.key, dn: Some(entry.dn) },
                    });
                    moved |= self.live_cookie(sync.cookie);
                }
                // No persistent search was asked for.
                Heard::Notice(..) => {}
                Heard::Unreadable(unreadable) => {
                    self.unidentified |= unreadable.key.is_none();
                    batch.changes.push(unreadable.into());
                }
                Heard::Sync(SyncInfo::NewCookie(cookie)) => moved |= self.live_cookie(Some(cookie)),
                Heard::Sync(SyncInfo::IdSet { refresh_deletes: true, keys, .. }) => {
                    batch.changes.extend(keys.into_iter().map(|key| Change::Removed { key, dn: None }));
                }
                Heard::Sync(SyncInfo::IdSet { refresh_deletes: false, keys, .. }) => {
                    batch.changes.push(Change::Present(keys));
                }
                Heard::Sync(SyncInfo::RefreshPresent { done: false, .. }) => self.presence_told = true,
                Heard::Sync(SyncInfo::RefreshDelete { done: false, .. }) => {}
                Heard::Sync(SyncInfo::RefreshPresent { cookie, done: true }) => {
                    self.presence_told = true;
                    return self.refreshed(batch, cookie).map(Some);
                }
                Heard::Sync(SyncInfo::RefreshDelete { cookie, done: true }) => {
                    return self.refreshed(batch, cookie).map(Some);
                }
                Heard::Done(_) => return Err(SourceError::Ended { url: self.url.clone() }),
            }
        }
        if moved {
            batch.cursor = self.cursor();
        }
        self.told |= self.phase == Phase::Refresh && !batch.changes.is_empty();
        Ok((moved || !batch.changes.is_empty()).then_some(batch))
    }

    fn refreshed(&mut self, mut batch: Batch, cookie: Option<Vec<u8>>) -> Result<Batch, SourceError> {
        if self.phase == Phase::Live {
            // Nothing in RFC 4533 ends a refresh twice; what it would say about presence is anybody's guess.
            return Ok(batch);
        }
        if self.resumed && !self.told && batch.changes.is_empty() && self.went_on(cookie.as_deref()) {
            let text = "changes were counted, and none was told; if it stays, see nsslapd-attribute in docs/389ds.md";
            return Err(SourceError::RefreshRequired { url: self.url.clone(), text: text.into() });
        }
        self.phase = Phase::Live;
        let everything = (self.presence_told || !self.resumed) && !self.unidentified;
        batch.complete = Some(if everything { Presence::Everything } else { Presence::ChangesOnly });
        if let Some(cookie) = cookie.filter(|cookie| is_position(cookie)) {
            // It names all CSNs that the server knows: nothing to merge.
            self.cookie = Some(cookie);
            batch.cursor = self.cursor();
        }
        Ok(batch)
    }

    /// 389 DS has counted changes since the cookie that was sent.
    fn went_on(&self, cookie: Option<&[u8]>) -> bool {
        let sent = self.cookie.as_deref().and_then(numbered);
        matches!((sent, cookie.and_then(numbered)), (Some((_, sent)), Some((_, now))) if now > sent)
    }

    /// Whether the cursor moved.
    fn live_cookie(&mut self, cookie: Option<Vec<u8>>) -> bool {
        let Some(new) = cookie.filter(|cookie| self.phase == Phase::Live && is_position(cookie)) else { return false };
        let merged = match &self.cookie {
            Some(known) => merged(known, &new),
            None => new,
        };
        let moved = self.cookie.as_ref() != Some(&merged);
        self.cookie = Some(merged);
        moved
    }

    fn cursor(&self) -> Option<Cursor> {
        Some(Cursor {
            source: SOURCE.into(),
            search: self.search.clone(),
            server: self.url.clone(),
            position: self.cookie.clone()?,
        })
    }

    fn named(&self, error: StreamError) -> SourceError {
        match error {
            StreamError::Refused {
                operation: Operation::Search { .. },
                code: stream::SYNC_REFRESH_REQUIRED,
                url,
                text,
            } => SourceError::RefreshRequired { url, text },
            StreamError::Refused { operation: Operation::Search { .. }, code: stream::UNWILLING, url, text }
                if self.resumed && self.phase == Phase::Refresh =>
            {
                SourceError::CursorAhead { url, text }
            }
            error => SourceError::Stream(error),
        }
    }
}

impl From<Unreadable> for Change {
    fn from(unreadable: Unreadable) -> Change {
        Change::Unreadable { key: unreadable.key, dn: unreadable.dn, problem: unreadable.problem }
    }
}

/// Whether a server that is asked with this cookie goes on from it. syncprov: `rid=000,sid=001,csn=…`; without the CSN it
/// says nothing, and without the `rid` it is not understood. 389 DS: it ends in a number.
pub fn is_position(cookie: &[u8]) -> bool {
    split(cookie).is_some() || numbered(cookie).is_some()
}

/// Whether the changes after this cookie are all still in a changelog that begins at `first`. syncprov finds that out
/// itself; of 389 DS, who takes any number, it has to be known.
pub fn remembered(cookie: &[u8], first: Option<u64>) -> bool {
    match numbered(cookie) {
        Some((_, number)) => first.is_some_and(|first| number.saturating_add(1) >= first),
        None => true,
    }
}

/// The cookie to send. A number of 389 DS may cover changes that were under way when it came: these are asked for again.
fn stepped_back(cookie: &[u8]) -> Vec<u8> {
    match numbered(cookie) {
        Some((bound_to, number)) if number > 1 => {
            format!("{bound_to}#{}", number.saturating_sub(UNDER_WAY_MAX).max(1)).into_bytes()
        }
        Some(_) | None => cookie.to_vec(),
    }
}

/// A cookie of 389 DS: what it is bound to, and the number of the last change that it covers.
fn numbered(cookie: &[u8]) -> Option<(&str, u64)> {
    let (bound_to, number) = std::str::from_utf8(cookie).ok()?.rsplit_once('#')?;
    let (server, _) = bound_to.split_once('#')?;
    let (_, port) = server.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let number = number.parse().ok().filter(|number| *number < u64::from(u32::MAX))?;
    Some((bound_to, number))
}

/// What comes before the CSNs, and each CSN by the server it comes from. `None`: not of the form that syncprov reads.
fn split(cookie: &[u8]) -> Option<(&str, BTreeMap<&str, &str>)> {
    let text = std::str::from_utf8(cookie).ok().filter(|text| text.starts_with("rid="))?;
    let (head, list) = text.split_once("csn=")?;
    let csns: Option<BTreeMap<&str, &str>> = list.split(';').map(|csn| Some((server_of(csn)?, csn))).collect();
    Some((head, csns?))
}

/// The server that a CSN comes from: `20260101000000.000000Z#000000#001#000000` is of server 001.
fn server_of(csn: &str) -> Option<&str> {
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = csn.split('#').collect();
    let [time, count, server, modification] = parts.as_slice() else { return None };
    let (seconds, micros) = time.strip_suffix('Z')?.split_once('.')?;
    (hex(seconds, 14) && hex(micros, 6) && hex(count, 6) && hex(server, 3) && hex(modification, 6)).then_some(*server)
}

/// A live message names only the CSN of the server that took the change; with several providers the others' must not be
/// forgotten. Newer wins, server by server: CSNs compare as text.
pub fn merged(known: &[u8], new: &[u8]) -> Vec<u8> {
    if let (Some((known_to, before)), Some((new_to, now))) = (numbered(known), numbered(new)) {
        return if known_to == new_to && before > now { known.to_vec() } else { new.to_vec() };
    }
    let (Some((_, mut csns)), Some((head, newer))) = (split(known), split(new)) else { return new.to_vec() };
    for (server, csn) in newer {
        let kept = csns.entry(server).or_insert(csn);
        *kept = csn.max(*kept);
    }
    let list: Vec<&str> = csns.into_values().collect();
    format!("{head}csn={}", list.join(";")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Entry;

    const OLD: &[u8] = b"rid=000,sid=001,csn=20260101000000.000000Z#000000#001#000000";
    const NEW: &[u8] = b"rid=000,sid=001,csn=20260101000001.000000Z#000000#001#000000";
    const BARE: &[u8] = b"rid=000,sid=001";

    fn progress(cookie: Option<&[u8]>) -> Progress {
        Progress {
            url: "ldap://x".into(),
            search: "s".into(),
            cookie: cookie.map(<[u8]>::to_vec),
            phase: Phase::Refresh,
            resumed: cookie.is_some(),
            presence_told: false,
            told: false,
            in_part: cookie.is_some_and(|cookie| numbered(cookie).is_some()),
            changed: Vec::new(),
            unidentified: false,
        }
    }

    fn key(n: u8) -> UserKey {
        UserKey([n; 16])
    }

    fn entry(n: u8, state: State, cookie: Option<&[u8]>) -> Heard {
        let entry = Entry { key: key(n), dn: format!("uid={n}"), attributes: Vec::new() };
        Heard::Entry(entry, Some(SyncState { state, key: key(n), cookie: cookie.map(<[u8]>::to_vec) }))
    }

    fn refresh_delete(cookie: Option<&[u8]>) -> Heard {
        Heard::Sync(SyncInfo::RefreshDelete { cookie: cookie.map(<[u8]>::to_vec), done: true })
    }

    fn refresh_present(cookie: Option<&[u8]>, done: bool) -> Heard {
        Heard::Sync(SyncInfo::RefreshPresent { cookie: cookie.map(<[u8]>::to_vec), done })
    }

    fn id_set(refresh_deletes: bool, keys: Vec<UserKey>) -> Heard {
        Heard::Sync(SyncInfo::IdSet { cookie: Some(NEW.to_vec()), refresh_deletes, keys })
    }

    fn only(progress: &mut Progress, heard: Vec<Heard>) -> Batch {
        let mut heard = heard.into_iter();
        let batch = progress.batch(&mut heard).unwrap().unwrap();
        assert_eq!(progress.batch(&mut heard).unwrap(), None, "one batch");
        batch
    }

    fn position(batch: &Batch) -> Option<&[u8]> {
        batch.cursor.as_ref().map(|cursor| cursor.position.as_slice())
    }

    #[test]
    fn nothing_changed_keeps_the_cursor() {
        let batch = only(&mut progress(Some(OLD)), vec![refresh_delete(None)]);
        assert_eq!((batch.changes.len(), batch.complete, batch.cursor), (0, Some(Presence::ChangesOnly), None));
    }

    #[test]
    fn a_refresh_from_nothing_is_everything() {
        let batch = only(&mut progress(None), vec![entry(1, State::Add, None), refresh_delete(Some(OLD))]);
        assert_eq!(batch.complete, Some(Presence::Everything));
        assert_eq!(position(&batch), Some(OLD));
    }

    #[test]
    fn a_delete_phase_names_the_removed_and_a_present_phase_the_present() {
        let deletes =
            only(&mut progress(Some(OLD)), vec![id_set(true, vec![key(1), key(2)]), refresh_delete(Some(NEW))]);
        let removed = |n| Change::Removed { key: key(n), dn: None };
        assert_eq!(deletes.changes, [removed(1), removed(2)]);
        assert_eq!((deletes.complete, position(&deletes)), (Some(Presence::ChangesOnly), Some(NEW)));
        let presents =
            only(&mut progress(Some(OLD)), vec![id_set(false, vec![key(1)]), refresh_present(Some(NEW), true)]);
        assert_eq!(presents.changes, [Change::Present(vec![key(1)])]);
        assert_eq!((presents.complete, position(&presents)), (Some(Presence::Everything), Some(NEW)));
        let both = only(
            &mut progress(Some(OLD)),
            vec![
                id_set(false, vec![key(1)]),
                refresh_present(None, false),
                id_set(true, vec![key(2)]),
                refresh_delete(None),
            ],
        );
        assert_eq!(both.complete, Some(Presence::Everything));
    }

    #[test]
    fn no_cookie_moves_the_cursor_before_the_end_of_a_refresh() {
        let mut progress = progress(Some(OLD));
        let batch = only(
            &mut progress,
            vec![
                id_set(true, vec![key(2)]),
                entry(1, State::Add, Some(NEW)),
                Heard::Sync(SyncInfo::NewCookie(NEW.to_vec())),
            ],
        );
        assert_eq!((batch.cursor, batch.complete, batch.refresh), (None, None, true));
    }

    #[test]
    fn what_follows_the_refresh_is_a_batch_of_its_own() {
        let mut progress = progress(None);
        let mut heard = vec![refresh_delete(Some(OLD)), entry(1, State::Delete, Some(NEW))].into_iter();
        let refresh = progress.batch(&mut heard).unwrap().unwrap();
        assert_eq!((refresh.refresh, position(&refresh)), (true, Some(OLD)));
        let live = progress.batch(&mut heard).unwrap().unwrap();
        assert_eq!((live.refresh, live.complete, position(&live)), (false, None, Some(NEW)));
        assert_eq!(live.changes, [Change::Removed { key: key(1), dn: Some("uid=1".into()) }]);
    }

    #[test]
    fn a_bare_or_older_cookie_keeps_the_cursor() {
        let mut live = progress(Some(OLD));
        assert_eq!(only(&mut live, vec![refresh_delete(Some(BARE))]).cursor, None);
        assert_eq!(only(&mut live, vec![entry(1, State::Modify, Some(BARE))]).cursor, None);
        assert_eq!(position(&only(&mut live, vec![entry(1, State::Modify, Some(NEW))])), Some(NEW));
        assert_eq!(
            live.batch(&mut [Heard::Sync(SyncInfo::NewCookie(OLD.to_vec()))].into_iter()).unwrap(),
            None,
            "older"
        );
    }

    #[test]
    fn what_cannot_be_identified_leaves_absence_without_meaning() {
        let unreadable = |key| Heard::Unreadable(Unreadable { key, dn: None, problem: "x".into() });
        let known = only(&mut progress(None), vec![unreadable(Some(key(1))), refresh_delete(Some(OLD))]);
        assert_eq!(known.complete, Some(Presence::Everything));
        let unknown = only(&mut progress(None), vec![unreadable(None), refresh_delete(Some(OLD))]);
        assert_eq!(unknown.complete, Some(Presence::ChangesOnly));
    }

    #[test]
    fn cookies_of_several_providers_are_merged() {
        let two =
            b"rid=000,sid=001,csn=20260101000000.000000Z#000000#001#000000;20260101000005.000000Z#000000#002#000000";
        assert_eq!(
            String::from_utf8(merged(two, NEW)).unwrap(),
            "rid=000,sid=001,csn=20260101000001.000000Z#000000#001#000000;20260101000005.000000Z#000000#002#000000"
        );
        for (cookie, names) in
            [(OLD, true), (BARE, false), (b"garbage", false), (b"", false), (b"rid=000,csn=x#0#1#0", false)]
        {
            assert_eq!(is_position(cookie), names, "{}", String::from_utf8_lossy(cookie));
        }
    }

    const DS: &str = "localhost:389#cn=a,dc=x:dc=x:(objectClass=*)#";

    fn ds(number: u64) -> Vec<u8> {
        format!("{DS}{number}").into_bytes()
    }

    #[test]
    fn a_numbered_cookie_is_gone_on_from_and_never_back() {
        assert!(!is_position(&ds(4_294_967_295)), "an unsigned -1");
        assert!(!is_position(b"csn=20260101000000.000000Z#000000#001#000000"), "syncprov's, and not whole");
        assert!(is_position(&ds(7)) && !is_position(DS.as_bytes()) && !is_position(b"localhost#7"));
        let mut live = progress(Some(&ds(7)));
        let batch = only(&mut live, vec![entry(1, State::Add, None), refresh_delete(Some(&ds(9)))]);
        assert_eq!((batch.changes.len(), &live.changed), (0, &vec![key(1)]), "to be read once more");
        assert_eq!((batch.complete, position(&batch)), (Some(Presence::ChangesOnly), Some(&ds(9)[..])));
        assert_eq!(position(&only(&mut live, vec![entry(1, State::Modify, Some(&ds(10)))])), Some(&ds(10)[..]));
        assert_eq!(only(&mut live, vec![entry(1, State::Modify, Some(&ds(8)))]).cursor, None);
    }

    #[test]
    fn the_newest_numbered_changes_are_asked_for_again() {
        for (number, sent) in [(0, 0), (1, 1), (7, 1), (101, 1), (102, 2), (1000, 900)] {
            assert_eq!(stepped_back(&ds(number)), ds(sent), "{number}");
        }
        assert_eq!(stepped_back(OLD), OLD, "a CSN is exact");
    }

    #[test]
    fn nobody_told_though_the_number_went_on_is_not_believed() {
        let refreshed = |cookie: &[u8], heard: Vec<Heard>| {
            let mut heard = heard.into_iter().chain([refresh_delete(Some(cookie))]);
            progress(Some(&ds(7))).batch(&mut heard)
        };
        assert!(refreshed(&ds(7), Vec::new()).is_ok(), "nothing happened");
        assert!(matches!(refreshed(&ds(8), Vec::new()), Err(SourceError::RefreshRequired { .. })));
        assert!(refreshed(&ds(8), vec![id_set(true, vec![key(1)])]).is_ok());
        let mut in_two = progress(Some(&ds(7)));
        assert_eq!(in_two.batch(&mut [entry(1, State::Add, None)].into_iter()).unwrap(), None);
        assert!(in_two.batch(&mut [refresh_delete(Some(&ds(8)))].into_iter()).is_ok(), "told in an earlier batch");
    }

    #[test]
    fn a_number_is_used_only_while_the_changelog_reaches_back_to_it() {
        for (first, reaches) in [(Some(1), true), (Some(7), true), (Some(8), true), (Some(9), false), (None, false)] {
            assert_eq!(remembered(&ds(7), first), reaches, "{first:?}");
        }
        assert!(remembered(OLD, None), "syncprov finds out itself");
    }

    #[test]
    fn a_server_is_behind_that_lacks_a_change_or_a_server_that_the_cursor_covers() {
        let csn = |time: u8, server: u8| format!("2026010100000{time}.000000Z#000000#00{server}#000000");
        let cursor = |search: &str, position: String| Cursor {
            source: SOURCE.into(),
            search: search.into(),
            server: "ldap://x".into(),
            position: position.into_bytes(),
        };
        let two = cursor("s", format!("rid=000,sid=001,csn={};{}", csn(5, 1), csn(3, 2)));
        let said = |context: &[String]| behind(&two, "s", context);
        assert_eq!(said(&[csn(5, 1), csn(3, 2)]), None);
        assert_eq!(said(&[csn(6, 1), csn(4, 2), csn(1, 3)]), None);
        assert!(said(&[csn(5, 1), csn(2, 2)]).unwrap().contains("002"));
        assert!(said(&[csn(4, 1), csn(3, 2)]).unwrap().contains("001"));
        assert!(said(&[csn(9, 1)]).unwrap().contains("nothing"), "it never heard of the second");
        assert_eq!(said(&[]), None, "not to be read");
        assert_eq!(behind(&two, "another search", &[csn(1, 1)]), None, "not used");
        assert_eq!(behind(&cursor("s", "rid=000".into()), "s", &[csn(1, 1)]), None);
    }

    #[test]
    fn a_fingerprint_stands_for_what_is_searched() {
        let shape = SearchShape {
            base: "dc=X".into(),
            filter: WIDEST_FILTER.into(),
            attributes: vec!["cn".into(), "Mail".into()],
            meaning: "(objectClass=person)".into(),
        };
        let same = SearchShape { base: "DC=x".into(), attributes: vec!["mail".into(), "CN".into()], ..shape.clone() };
        assert_eq!(shape.fingerprint("cn=a,dc=x"), same.fingerprint("CN=a, dc=x"));
        let others = [
            SearchShape { base: "dc=y".into(), ..shape.clone() },
            SearchShape { filter: "(cn=*)".into(), ..shape.clone() },
            SearchShape { attributes: vec!["cn".into()], ..shape.clone() },
            SearchShape { meaning: "(objectClass=device)".into(), ..shape.clone() },
        ];
        for other in others {
            assert_ne!(shape.fingerprint("cn=a"), other.fingerprint("cn=a"));
        }
        assert_ne!(shape.fingerprint("cn=a"), shape.fingerprint("cn=b"));
    }

    #[test]
    fn a_result_code_is_named_by_what_the_caller_does() {
        let refused = |code| StreamError::Refused {
            url: "ldap://x".into(),
            operation: Operation::Search { base: "dc=x".into(), account: "cn=a".into() },
            code,
            text: String::new(),
        };
        assert!(matches!(progress(Some(OLD)).named(refused(4096)), SourceError::RefreshRequired { .. }));
        assert!(matches!(progress(Some(OLD)).named(refused(53)), SourceError::CursorAhead { .. }));
        assert!(matches!(progress(None).named(refused(53)), SourceError::Stream(_)));
    }
}

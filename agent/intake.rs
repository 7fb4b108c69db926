//! What the directory said becomes rows of the log: changed rows and cursor in ONE transaction (promise 1).
//!
//! A record that did not change is not written. Who is no longer named is *missing*, which tells nobody anything; only
//! proof makes a user gone, and more missing users than the guard allows are not even asked about (promise 8).
//! Intake never talks to the directory: the poller asks, and comes back with a `Verdict`.
//!
//! What is held in memory (`State`, what a refresh has seen) changes after the commit, never before: a transaction that
//! failed has left nothing behind, and the same batch may be given again.

mod reversible;

pub use reversible::StorageNews;

use crate::config;
use crate::directory::Entry;
use crate::directory::entry::{MEMBER_OF, MEMBER_OF_NESTED, Mapped, PROBLEM, Shape, classify};
use crate::directory::reversible::Account;
use crate::directory::source::{Batch, Change, Comparison, Cursor, Guarantees, Presence};
use crate::feed::Feed;
use crate::model::{Sequence, Timestamp, UserKey, UserRecord, Value, is_below_or_equal, normalized_dn};
use crate::store::directory::{self as sql, EntryRow, Glance, GoneKind, MovedRow, Place, PlaceKind, RereadRow, meta};
use crate::store::open::{self, Kind};
use crate::store::{Named, StoreError};
use reversible::Storage;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

/// Removals that always pass: the smallest limit of the guard.
pub const ABSENT_ALWAYS_ALLOWED: u64 = 3;

/// The writer of directory.db's log. One per state directory (`store::open::lock`).
pub struct Intake {
    connection: Connection,
    shape: Shape,
    groups: Groups,
    guard: config::Guard,
    state: State,
    refresh: Option<Refresh>,
    /// Only where Digest rests on it.
    storage: Option<Storage>,
    /// Another log, with first sights that are not in this one.
    elder: Option<Feed>,
}

/// Groups that rules name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups {
    /// Normalized DN; true where groups within it count too (`nested`).
    pub named: BTreeMap<String, bool>,
    /// The server keeps `memberOf` on its users; only nested membership is computed.
    pub server_has_member_of: bool,
    /// Normalized DNs. The directory computes something of who is in them and tells nobody: who comes or goes is read again.
    pub watched: BTreeSet<String>,
}

impl Groups {
    fn any_nested(&self) -> bool {
        self.named.values().any(|nested| *nested)
    }

    /// Whether records carry values that we compute.
    fn computes(&self) -> bool {
        !self.named.is_empty() && (!self.server_has_member_of || self.any_nested())
    }
}

/// What one `take` or `conclude` did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    pub head: Sequence,
    pub created: u64,
    pub changed: u64,
    pub unchanged: u64,
    /// Told as gone: left scope or deleted.
    pub removed: u64,
    /// To be looked up by key, over the whole naming context; answered with `conclude`.
    pub to_prove: Vec<Missing>,
    /// Nobody tells about the users below: their subtrees are to be read again. Kept in `Intake::moved`, too.
    pub containers: Vec<ContainerMoved>,
    pub groups: Vec<GroupChanged>,
    pub unreadable: Vec<Unreadable>,
    /// Set while removals beyond the guard's limit are stored but told to nobody.
    pub suspect: Option<Suspect>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    pub key: UserKey,
    /// The last one known.
    pub dn: String,
    /// The server named the removal, rather than the user being absent.
    pub named: bool,
}

/// As the server writes them. `old_dn` alone: gone, or out of sight. `new_dn` alone: new, perhaps moved in with users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerMoved {
    pub old_dn: Option<String>,
    pub new_dn: Option<String>,
}

/// Members of a group that rules name, or may reach, came or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupChanged {
    /// Normalized.
    pub dn: String,
    /// Normalized DNs of those who came or went; where the server keeps `memberOf`, these users are to be read again.
    pub members: BTreeSet<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    pub key: Option<UserKey>,
    pub dn: Option<String>,
    pub problem: String,
}

/// More users are absent than the guard allows: nobody is told until they are seen again, or the operator approves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Suspect {
    pub count: u64,
    /// Users who were present before.
    pub present: u64,
    pub limit: u64,
    /// ms since 1970.
    #[schemars(with = "i64")]
    pub since: Timestamp,
    /// Names this very set of users; `homeward approve` takes it.
    pub hash: String,
}

/// What the poller's lookup of a missing user proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not found over the whole naming context, by an account proven to see it.
    Deleted,
    /// Found elsewhere; or not found, by an account that may not see all there is: exists, perhaps.
    LeftScope,
    /// Neither the user can be read nor the container it was in: as likely as not the account lost its rights.
    OutOfSight,
    /// Found in scope: taken like any other entry.
    StillThere(Entry),
}

/// What the poller says of its source; for `status`, which other processes read from the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SourceStatus {
    pub kind: String,
    pub server: String,
    pub state: String,
    pub guarantees: Guarantees,
}

/// What is known without asking the store; always as of the last commit.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    epoch: u64,
    head: i64,
    /// Users who are not gone.
    present: u64,
    cursor: Option<Cursor>,
    suspect: Option<Suspect>,
}

/// Whom a refresh has named so far, by the place of their rows: eight bytes a user.
#[derive(Clone, Debug, Default)]
struct Refresh {
    /// From a cursor: whoever did not change is not sent, not even below a container that is new to us.
    resumed: bool,
    users: HashSet<i64>,
    places: HashSet<UserKey>,
    /// Nobody was present when it began.
    into_nothing: bool,
}

/// What a transaction does to `Refresh`, in order, once it is committed.
enum Sighting {
    /// Named by the directory; the row was at `.0` and is at `.1`.
    User(i64, i64),
    /// The row moved for another reason: seen only if it was seen before.
    Moved(i64, i64),
    Gone(i64),
    Place(UserKey),
}

impl Refresh {
    fn note(&mut self, sightings: &[Sighting]) {
        for sighting in sightings {
            match *sighting {
                Sighting::User(old, new) => {
                    self.users.remove(&old);
                    self.users.insert(new);
                }
                Sighting::Moved(old, new) => {
                    if self.users.remove(&old) {
                        self.users.insert(new);
                    }
                }
                Sighting::Gone(old) => {
                    self.users.remove(&old);
                }
                Sighting::Place(key) => {
                    self.places.insert(key);
                }
            }
        }
    }
}

impl Intake {
    /// Opens or begins the log. A new one gets an epoch later than any before it on this clock.
    pub fn open(
        state_dir: &Path,
        shape: Shape,
        groups: Groups,
        guard: config::Guard,
        now: Timestamp,
    ) -> Result<Intake, StoreError> {
        Intake::on(open::writer(Kind::Directory, state_dir)?, shape, groups, guard, now)
    }

    /// A log that nobody keeps, for one look at the directory; `Feed::of` reads it.
    pub fn scratch(shape: Shape, groups: Groups, guard: config::Guard, now: Timestamp) -> Result<Intake, StoreError> {
        Intake::on(open::scratch(Kind::Directory)?, shape, groups, guard, now)
    }

    fn on(
        connection: Connection,
        shape: Shape,
        groups: Groups,
        guard: config::Guard,
        now: Timestamp,
    ) -> Result<Intake, StoreError> {
        sql::index_by_dn(&connection, groups.computes())?;
        let epoch = match sql::meta_number(&connection, meta::EPOCH)? {
            Some(epoch) => epoch,
            None => {
                let epoch = now.0.max(1) as u64;
                sql::set_meta(&connection, meta::EPOCH, &epoch.to_string())?;
                epoch
            }
        };
        let head = sql::meta_number(&connection, meta::HEAD)?.unwrap_or_default() as i64;
        let state = State {
            epoch,
            head: head.max(sql::last_seq(&connection)?),
            present: sql::counts(&connection)?.0,
            cursor: sql::meta_json(&connection, meta::CURSOR)?,
            suspect: sql::meta_json(&connection, meta::SUSPECT)?,
        };
        Ok(Intake { connection, shape, groups, guard, state, refresh: None, storage: None, elder: None })
    }

    /// Ends the writing.
    pub fn into_connection(self) -> Connection {
        self.connection
    }

    /// What to make of entries from now on.
    pub fn follow(&mut self, shape: Shape, groups: Groups) -> Result<(), StoreError> {
        sql::index_by_dn(&self.connection, groups.computes())?;
        (self.shape, self.groups) = (shape, groups);
        Ok(())
    }

    /// Where the source goes on.
    pub fn cursor(&self) -> Option<Cursor> {
        self.state.cursor.clone()
    }

    pub fn head(&self) -> Sequence {
        Sequence { epoch: self.state.epoch, seq: self.state.head as u64 }
    }

    /// Users stored and not gone.
    pub fn present(&self) -> u64 {
        self.state.present
    }

    pub fn suspect(&self) -> Option<&Suspect> {
        self.state.suspect.as_ref()
    }

    /// When a refresh from nothing last named everybody.
    pub fn swept_at(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(sql::meta_number(&self.connection, meta::SWEPT_AT)?.map(|ms| Timestamp(ms as i64)))
    }

    /// Before the first batch of every refresh: what an earlier, broken one has seen counts no more. `resumed`: it goes
    /// on from a cursor, or tells no more than who is there, rather than reading everything.
    pub fn begin_refresh(&mut self, resumed: bool) {
        let into_nothing = self.state.present == 0;
        self.refresh = Some(Refresh { resumed, into_nothing, ..Refresh::default() });
    }

    /// Stores a batch and its cursor, both or neither. After an error the same batch may be given again.
    pub fn take(&mut self, batch: Batch, now: Timestamp) -> Result<Taken, StoreError> {
        if let Some(comparison) = batch.begins {
            self.begin_refresh(comparison == Comparison::Names);
        }
        let completes = batch.complete == Some(Presence::Everything);
        let guard = self.guard;
        // Not before it is needed: the copy of a million is not free.
        let seen_before = if completes { self.refresh.clone() } else { None };
        self.transaction(!batch.refresh, now, |work| {
            let mut changes = batch.changes;
            if batch.refresh {
                // In a refresh the order among users says nothing, and neighbours in the index are cheap to reach.
                // Per user the order stays: the sort is stable.
                changes.sort_by_key(change_key);
            }
            for change in changes {
                work.change(change)?;
            }
            if let Some(mut seen) = seen_before {
                seen.note(&work.sightings);
                work.complete(&seen, guard)?;
            }
            if batch.cursor.is_some() {
                work.next.cursor = batch.cursor;
            }
            Ok(())
        })
        .inspect(|_| {
            if batch.complete.is_some() {
                self.refresh = None;
            }
        })
    }

    /// Who is missing and may be proven, for instance after a restart. Not those that are suspect.
    pub fn unproven(&self) -> Result<Vec<Missing>, StoreError> {
        unproven(&self.connection, self.state.suspect.is_some())
    }

    /// Those of a suspicion, in the order of keys behind `after`. None while a refresh is under way: it will tell.
    pub fn suspects(&self, after: UserKey, limit: usize) -> Result<Vec<UserKey>, StoreError> {
        if self.state.suspect.is_none() || self.refresh.is_some() {
            return Ok(Vec::new());
        }
        sql::missing_by_absence(&self.connection, &after, limit)
    }

    /// Somebody is absent, and nothing is proven yet.
    pub fn any_missing_by_absence(&self) -> Result<bool, StoreError> {
        sql::any_missing_by_absence(&self.connection)
    }

    /// What lookups proved. A user seen again meanwhile, or one that is suspect, keeps what is stored. Those whom the
    /// server did not name are counted once more, and must therefore come in one call: more of them than the guard
    /// permits, or one that is out of sight with its container, and all of them are suspect.
    pub fn conclude(&mut self, verdicts: Vec<(UserKey, Verdict)>, now: Timestamp) -> Result<Taken, StoreError> {
        let guard = self.guard;
        self.transaction(true, now, |work| {
            let (mut unnamed, mut out_of_sight) = (0, false);
            for (key, verdict) in &verdicts {
                if matches!(verdict, Verdict::StillThere(_)) {
                    continue;
                }
                if sql::glance(&work.tx, key, "")?.is_some_and(|row| row.missing && !row.named) {
                    unnamed += 1;
                    out_of_sight |= *verdict == Verdict::OutOfSight;
                }
            }
            let limit = absent_limit(guard, work.next.present);
            if work.next.suspect.is_none() && unnamed > 0 && (unnamed > limit || out_of_sight) {
                work.suspect(unnamed, limit)?;
            }
            for (key, verdict) in verdicts {
                let Some(row) = sql::glance(&work.tx, &key, "")? else { continue };
                if row.gone || !row.missing {
                    continue;
                }
                match verdict {
                    Verdict::StillThere(entry) => work.entry(entry)?,
                    _ if work.next.suspect.is_some() && !row.named => {}
                    Verdict::Deleted => work.gone(row, GoneKind::Deleted)?,
                    Verdict::LeftScope | Verdict::OutOfSight => work.gone(row, GoneKind::LeftScope)?,
                }
            }
            Ok(())
        })
    }

    /// Everybody stored at or below this DN is to be looked up: the container moved or went, and servers tell nothing
    /// about those below it. Called after the new place, if there is one, was read. Nobody named these users: they are
    /// missing by absence.
    pub fn doubt_below(&mut self, dn: &str, now: Timestamp) -> Result<Vec<Missing>, StoreError> {
        let dn_norm = normalized_dn(dn);
        self.transaction(true, now, |work| {
            for seq in sql::present_below(&work.tx, &dn_norm)? {
                sql::mark_missing(&work.tx, seq, now.0, false)?;
            }
            Ok(())
        })?;
        let mut missing = self.unproven()?;
        missing.retain(|missing| is_below_or_equal(&normalized_dn(&missing.dn), &dn_norm));
        Ok(missing)
    }

    /// Subtrees that are still to be read again, the oldest first.
    pub fn moved(&self) -> Result<Vec<MovedRow>, StoreError> {
        sql::moved(&self.connection)
    }

    /// The subtree was read; with it those below it that moved along, or had been known when the reading began (up to
    /// the id `known`).
    pub fn moved_done(&mut self, done: &MovedRow, known: i64, now: Timestamp) -> Result<(), StoreError> {
        let below = |inner: &Option<String>, outer: &Option<String>| match (inner, outer) {
            (Some(inner), Some(outer)) => is_below_or_equal(&normalized_dn(inner), &normalized_dn(outer)),
            (inner, _) => inner.is_none(),
        };
        self.transaction(true, now, |work| {
            for row in sql::moved(&work.tx)? {
                let along = below(&row.old_dn, &done.old_dn) && below(&row.new_dn, &done.new_dn);
                if row.id == done.id || along && (row.old_dn.is_some() || row.id <= known) {
                    sql::remove_moved(&work.tx, row.id)?;
                }
            }
            Ok(())
        })
        .map(drop)
    }

    /// Users who are still to be read again, because the server's `memberOf` changes without a word; at most `limit`.
    pub fn rereads(&self, limit: usize) -> Result<Vec<RereadRow>, StoreError> {
        sql::rereads(&self.connection, limit)
    }

    pub fn rereads_done(&mut self, rows: &[RereadRow], now: Timestamp) -> Result<(), StoreError> {
        self.transaction(true, now, |work| rows.iter().try_for_each(|row| sql::remove_reread(&work.tx, row))).map(drop)
    }

    /// Before a refresh from nothing: it reads everybody anyway.
    pub fn forget_rereads(&mut self) -> Result<(), StoreError> {
        sql::clear_rereads(&self.connection)
    }

    /// Normalized DNs of the containers in sight.
    pub fn containers(&self) -> Result<HashSet<String>, StoreError> {
        let places = sql::places(&self.connection)?.into_iter().filter(|place| place.kind == PlaceKind::Container);
        Ok(places.map(|place| normalized_dn(&place.dn)).collect())
    }

    /// Ends the suspect state if `hash` is the one it bears: its users may be proven gone. False: nothing was done.
    pub fn approve(&mut self, hash: &str, now: Timestamp) -> Result<bool, StoreError> {
        if self.state.suspect.as_ref().is_none_or(|suspect| suspect.hash != hash) {
            return Ok(false);
        }
        self.transaction(true, now, |work| {
            sql::approve_missing(&work.tx)?;
            work.next.suspect = None;
            Ok(())
        })?;
        Ok(true)
    }

    /// Everybody who carries our values has been read, up to here. Said once for a log; later calls change nothing.
    pub fn carriers_complete(&mut self) -> Result<(), StoreError> {
        if sql::meta_number(&self.connection, meta::CARRIERS_COMPLETE)?.is_none() {
            sql::set_meta(&self.connection, meta::CARRIERS_COMPLETE, &self.state.head.to_string())?;
        }
        Ok(())
    }

    /// Whether it is still to be said.
    pub fn needs_carriers(&self) -> Result<bool, StoreError> {
        Ok(sql::meta_number(&self.connection, meta::CARRIERS_COMPLETE)?.is_none())
    }

    /// What `status` shows of the source.
    pub fn source(&self) -> Result<Option<SourceStatus>, StoreError> {
        sql::meta_json(&self.connection, meta::SOURCE)
    }

    /// Stores what `status` is to show of the source.
    pub fn tell_source(&mut self, status: &SourceStatus) -> Result<(), StoreError> {
        sql::set_meta(&self.connection, meta::SOURCE, &to_json(status)?)
    }

    /// Members of a group that the source does not bring, because it lies outside the base.
    pub fn set_members(&mut self, dn: &str, members: &BTreeSet<String>, now: Timestamp) -> Result<Taken, StoreError> {
        self.transaction(true, now, |work| work.members(&normalized_dn(dn), members))
    }

    /// A log put back from a backup lacks what readers were told since, and would give the same sequences to other changes:
    /// it begins anew, after `seen`, how far somebody knows it to have reached. Before anything is added to it, or it could
    /// not be told any more. `Some`: it did begin anew; why.
    pub fn renew_if_restored(&mut self, seen: Sequence, now: Timestamp) -> Result<Option<&'static str>, StoreError> {
        let why = if sql::meta(&self.connection, meta::BACKED_UP)?.is_some() {
            "it was put back from a backup"
        } else if self.head() < seen {
            "an older copy of it was put back"
        } else {
            return Ok(None);
        };
        self.rebuild(why, seen, now)?;
        Ok(Some(why))
    }

    /// Forgets everybody and begins a new log, which sorts after this one and after `seen`. Seqs go on, so that a reader in
    /// the middle of a snapshot misses nobody.
    pub fn rebuild(&mut self, why: &str, seen: Sequence, now: Timestamp) -> Result<(), StoreError> {
        self.refresh = None;
        self.transaction(true, now, |work| {
            sql::clear(&work.tx)?;
            let epoch = (work.next.epoch.max(seen.epoch) + 1).max(now.0.max(0) as u64);
            work.next = State { epoch, head: work.next.head, present: 0, cursor: None, suspect: None };
            sql::set_meta(&work.tx, meta::EPOCH, &epoch.to_string())?;
            sql::set_meta(&work.tx, meta::REBUILT, why)?;
            let of_the_old =
                [meta::CARRIERS_COMPLETE, meta::PURGED_SEQ, meta::REFRESHED_AT, meta::SWEPT_AT, meta::BACKED_UP];
            for name in of_the_old {
                sql::remove_meta(&work.tx, name)?;
            }
            Ok(())
        })
        .map(drop)
    }

    /// Deletes tombstones older than `retention`; readers that had not come to them are told so. Their number.
    pub fn purge(&mut self, retention: Duration, now: Timestamp) -> Result<usize, StoreError> {
        let mut purged = 0;
        self.transaction(true, now, |work| {
            let (count, highest) = sql::purge_gone(&work.tx, now.minus(retention).0)?;
            if count > 0 {
                let before = sql::meta_number(&work.tx, meta::PURGED_SEQ)?.unwrap_or_default();
                sql::set_meta(&work.tx, meta::PURGED_SEQ, &before.max(highest as u64).to_string())?;
            }
            purged = count;
            Ok(())
        })?;
        Ok(purged)
    }

    /// Everything that writes the log passes here: memory follows the commit, or stays as it was.
    fn transaction<'a>(
        &'a mut self,
        live: bool,
        now: Timestamp,
        body: impl FnOnce(&mut Work<'a>) -> Result<(), StoreError>,
    ) -> Result<Taken, StoreError> {
        let Intake { connection, shape, groups, state, refresh, storage, elder, .. } = self;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).named("beginning to store")?;
        let (next, taken, sightings) = (state.clone(), Taken::default(), Vec::new());
        let resumed = refresh.as_ref().is_some_and(|refresh| refresh.resumed);
        let into_nothing = refresh.as_ref().is_some_and(|refresh| refresh.into_nothing);
        let mut work = Work {
            tx,
            shape,
            groups,
            storage: storage.as_ref(),
            elder: elder.as_ref(),
            next,
            now,
            live,
            resumed,
            into_nothing,
            taken,
            sightings,
        };
        body(&mut work)?;
        let Work { tx, mut next, mut taken, sightings, .. } = work;
        if next.suspect.is_some() && !sql::any_missing_by_absence(&tx)? {
            next.suspect = None;
        }
        if next.head != state.head {
            sql::set_meta(&tx, meta::HEAD, &next.head.to_string())?;
            sql::set_meta(&tx, meta::LAST_CHANGE_AT, &now.0.to_string())?;
        }
        for container in &taken.containers {
            sql::add_moved(&tx, container.old_dn.as_deref(), container.new_dn.as_deref())?;
        }
        store_if_changed(&tx, meta::CURSOR, &state.cursor, &next.cursor)?;
        store_if_changed(&tx, meta::SUSPECT, &state.suspect, &next.suspect)?;
        tx.commit().named("committing what the directory said")?;
        taken.head = Sequence { epoch: next.epoch, seq: next.head as u64 };
        taken.suspect = next.suspect.clone();
        *state = next;
        if let Some(refresh) = refresh {
            refresh.note(&sightings);
        }
        Ok(taken)
    }
}

fn store_if_changed<T: Serialize + PartialEq>(
    c: &Connection,
    name: &str,
    old: &Option<T>,
    new: &Option<T>,
) -> Result<(), StoreError> {
    match new {
        _ if old == new => Ok(()),
        Some(value) => sql::set_meta(c, name, &to_json(value)?),
        None => sql::remove_meta(c, name),
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::BadRow { what: "a value on its way", problem: error.to_string() })
}

fn change_key(change: &Change) -> UserKey {
    match change {
        Change::Entry(entry) => entry.key,
        Change::Removed { key, .. } | Change::Deleted(key) => *key,
        // No single user: first, so that later words about anybody count more.
        Change::Present(_) | Change::Unreadable { .. } => UserKey([0; 16]),
    }
}

fn unproven(c: &Connection, suspect: bool) -> Result<Vec<Missing>, StoreError> {
    let rows = sql::missing(c)?.into_iter().filter(|row| row.removal_named > 0 || !suspect);
    Ok(rows.map(|row| Missing { key: row.key, dn: row.dn, named: row.removal_named == 1 }).collect())
}

/// One transaction at work.
struct Work<'a> {
    tx: Transaction<'a>,
    shape: &'a Shape,
    groups: &'a Groups,
    storage: Option<&'a Storage>,
    elder: Option<&'a Feed>,
    next: State,
    now: Timestamp,
    live: bool,
    /// In a refresh that goes on from a cursor.
    resumed: bool,
    /// In a refresh that found nobody present.
    into_nothing: bool,
    taken: Taken,
    sightings: Vec<Sighting>,
}

impl Work<'_> {
    fn change(&mut self, change: Change) -> Result<(), StoreError> {
        match change {
            Change::Entry(entry) => self.entry(entry),
            Change::Present(mut keys) => {
                keys.sort_unstable();
                keys.iter().try_for_each(|key| self.still_present(key))
            }
            Change::Removed { key, dn } => self.no_longer_named(key, dn),
            Change::Deleted(key) => match sql::glance(&self.tx, &key, "")? {
                Some(row) if row.gone => Ok(()),
                Some(row) => self.gone(row, GoneKind::Deleted),
                None => self.place_gone(&key, None),
            },
            Change::Unreadable { key, dn, problem } => {
                if let Some(key) = key {
                    self.unreadable(&key, &problem)?;
                }
                self.taken.unreadable.push(Unreadable { key, dn, problem });
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: Entry) -> Result<(), StoreError> {
        let account = self.storage.map(|_| Account::of(&entry));
        let (key, mapped) = classify(self.shape, entry);
        match mapped {
            Mapped::User { record, dn_norm } => return self.user(key, record, dn_norm, account),
            Mapped::Container { dn } => self.container(key, dn)?,
            Mapped::Group { dn, members } => self.group(key, dn, &members)?,
            Mapped::Other => {}
            Mapped::OutOfScope { dn } => self.place_gone(&key, Some(dn))?,
        }
        // It was read, and is no user of ours: that is proof.
        match sql::glance(&self.tx, &key, "")? {
            Some(row) if !row.gone => self.gone(row, GoneKind::LeftScope),
            _ => Ok(()),
        }
    }

    fn user(
        &mut self,
        key: UserKey,
        mut record: UserRecord,
        dn_norm: String,
        account: Option<Account>,
    ) -> Result<(), StoreError> {
        if self.groups.computes() {
            self.add_memberships(&mut record, &dn_norm)?;
        }
        if let Some(account) = account {
            self.add_storage(&key, &mut record, &account)?;
        }
        let json = to_json(&record)?;
        // An empty log knows hardly anybody: there a user is stored without asking first.
        if self.into_nothing && self.created(&key, &dn_norm, &json)? {
            return Ok(());
        }
        let Some(row) = sql::glance(&self.tx, &key, &json)? else {
            return self.created(&key, &dn_norm, &json).map(drop);
        };
        if row.gone {
            let seq = self.next_seq();
            sql::return_entry(&self.tx, row.seq, self.heard(seq), &dn_norm, &json, self.live)?;
            self.next.present += 1;
            self.taken.created += 1;
            self.sightings.push(Sighting::User(0, seq));
            return Ok(());
        }
        self.seen_again(row)?;
        let seq = if row.same { None } else { self.rewrite(row.seq, &record, &json)? };
        match seq {
            Some(_) => self.taken.changed += 1,
            None => self.taken.unchanged += 1,
        }
        self.sightings.push(Sighting::User(row.seq, seq.unwrap_or(row.seq)));
        Ok(())
    }

    /// False: the user is known.
    fn created(&mut self, key: &UserKey, dn_norm: &str, json: &str) -> Result<bool, StoreError> {
        let change = self.heard(self.next.head + 1);
        if !sql::insert_entry(&self.tx, key, change, dn_norm, json, self.live)? {
            return Ok(false);
        }
        self.next.head = change.seq;
        self.next.present += 1;
        self.taken.created += 1;
        self.sightings.push(Sighting::User(0, change.seq));
        Ok(true)
    }

    /// Moves a changed row to the end of the log; `None` where nothing but the encoding differs.
    fn rewrite(&mut self, old_seq: i64, record: &UserRecord, json: &str) -> Result<Option<i64>, StoreError> {
        let old: EntryRow = sql::entry_by_seq(&self.tx, old_seq)?;
        let before = old.user_record()?;
        let names: BTreeSet<&String> = before.attributes.keys().chain(record.attributes.keys()).collect();
        let changed: Vec<&String> =
            names.into_iter().filter(|name| before.values(name) != record.values(name)).collect();
        let renamed = before.dn != record.dn;
        if changed.is_empty() && !renamed {
            return Ok(None);
        }
        let seq = self.next_seq();
        let mut seqs: BTreeMap<String, i64> = old
            .attribute_seqs
            .as_deref()
            .map(|text| sql::from_json("attribute_seqs", text))
            .transpose()?
            .unwrap_or_default();
        seqs.extend(changed.into_iter().map(|name| (name.clone(), seq)));
        let renamed_seq = if renamed { seq } else { old.renamed_seq };
        let dn_norm = normalized_dn(&record.dn);
        sql::change_entry(&self.tx, old_seq, self.heard(seq), &dn_norm, renamed_seq, &to_json(&seqs)?, json)?;
        Ok(Some(seq))
    }

    fn gone(&mut self, row: Glance, kind: GoneKind) -> Result<(), StoreError> {
        let seq = self.next_seq();
        sql::mark_gone(&self.tx, row.seq, seq, kind, self.now.0)?;
        self.next.present = self.next.present.saturating_sub(1);
        self.taken.removed += 1;
        self.sightings.push(Sighting::Gone(row.seq));
        Ok(())
    }

    fn seen_again(&mut self, row: Glance) -> Result<(), StoreError> {
        if row.missing { sql::clear_missing(&self.tx, row.seq) } else { Ok(()) }
    }

    /// The server says: there, and as it was. One we hold as gone is there by the server's wide filter, not by ours.
    fn still_present(&mut self, key: &UserKey) -> Result<(), StoreError> {
        match sql::glance(&self.tx, key, "")? {
            Some(row) if !row.gone => {
                self.seen_again(row)?;
                self.taken.unchanged += 1;
                self.sightings.push(Sighting::User(row.seq, row.seq));
            }
            Some(_) => {}
            None => self.sightings.push(Sighting::Place(*key)),
        }
        Ok(())
    }

    fn no_longer_named(&mut self, key: UserKey, dn: Option<String>) -> Result<(), StoreError> {
        let Some(row) = sql::glance(&self.tx, &key, "")? else { return self.place_gone(&key, dn) };
        if row.gone {
            return Ok(());
        }
        // A DN outside the base is where it is now: proof, and not of deletion.
        if dn.as_ref().is_some_and(|dn| !self.shape.contains(dn)) {
            return self.gone(row, GoneKind::LeftScope);
        }
        sql::mark_missing(&self.tx, row.seq, self.now.0, true)?;
        self.sightings.push(Sighting::Gone(row.seq));
        let dn = sql::entry_by_seq(&self.tx, row.seq)?.user_record()?.dn;
        self.taken.to_prove.push(Missing { key, dn, named: true });
        Ok(())
    }

    /// The user is there, and that is all we know: what was known stays, with the problem in it.
    fn unreadable(&mut self, key: &UserKey, problem: &str) -> Result<(), StoreError> {
        let Some(row) = sql::glance(&self.tx, key, "")?.filter(|row| !row.gone) else { return Ok(()) };
        self.seen_again(row)?;
        let mut record = sql::entry_by_seq(&self.tx, row.seq)?.user_record()?;
        record.set(PROBLEM, vec![Value::Text(problem.to_owned())]);
        let json = to_json(&record)?;
        let seq = self.rewrite(row.seq, &record, &json)?;
        self.taken.changed += u64::from(seq.is_some());
        self.sightings.push(Sighting::User(row.seq, seq.unwrap_or(row.seq)));
        Ok(())
    }

    /// A refresh ended that named everybody: who is left?
    fn complete(&mut self, seen: &Refresh, guard: config::Guard) -> Result<(), StoreError> {
        if !seen.resumed {
            self.storage_swept()?;
        }
        let mut absent = Vec::new();
        // As many seen as present: nobody is absent, and the rows need not be read.
        if seen.users.len() as u64 != self.next.present {
            sql::each_present(&self.tx, |seq, named| {
                if !named && !seen.users.contains(&seq) {
                    absent.push(seq);
                }
            })?;
        }
        for seq in &absent {
            sql::mark_missing(&self.tx, *seq, self.now.0, false)?;
        }
        let (count, present) = (absent.len() as u64, self.next.present);
        let limit = absent_limit(guard, present);
        let empty_answer = seen.users.is_empty() && present > 0;
        self.next.suspect = None;
        if count > 0 && (count > limit || empty_answer) {
            return self.suspect(count, limit);
        }
        self.taken.to_prove = unproven(&self.tx, false)?;
        for place in sql::places(&self.tx)? {
            if !seen.places.contains(&place.key) {
                self.place_gone(&place.key, None)?;
            }
        }
        if !seen.resumed {
            sql::set_meta(&self.tx, meta::SWEPT_AT, &self.now.0.to_string())?;
        }
        sql::set_meta(&self.tx, meta::REFRESHED_AT, &self.now.0.to_string())
    }

    fn suspect(&mut self, count: u64, limit: u64) -> Result<(), StoreError> {
        let hash = self.hash_of_absent()?;
        let since = self.suspect_since(&hash);
        self.next.suspect = Some(Suspect { count, present: self.next.present, limit, since, hash });
        Ok(())
    }

    fn hash_of_absent(&self) -> Result<String, StoreError> {
        let mut hasher = Sha256::new();
        for row in sql::missing(&self.tx)?.iter().filter(|row| row.removal_named == 0) {
            hasher.update(row.key.0);
        }
        Ok(hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }

    /// A suspicion that is found again is as old as it was.
    fn suspect_since(&self, hash: &str) -> Timestamp {
        let known = sql::meta_json::<Suspect>(&self.tx, meta::SUSPECT).ok().flatten();
        known.filter(|known| known.hash == hash).map_or(self.now, |known| known.since)
    }

    fn container(&mut self, key: UserKey, dn: String) -> Result<(), StoreError> {
        self.sightings.push(Sighting::Place(key));
        let known = sql::place(&self.tx, &key)?.filter(|known| known.kind == PlaceKind::Container);
        match known {
            Some(known) if known.dn == dn => return Ok(()),
            Some(known) => {
                self.taken.containers.push(ContainerMoved { old_dn: Some(known.dn), new_dn: Some(dn.clone()) });
            }
            None if self.live || self.resumed => {
                self.taken.containers.push(ContainerMoved { old_dn: None, new_dn: Some(dn.clone()) });
            }
            // A refresh from nothing brings its users too.
            None => {}
        }
        sql::put_place(&self.tx, &Place { key, kind: PlaceKind::Container, dn })
    }

    fn group(&mut self, key: UserKey, dn: String, members: &BTreeSet<String>) -> Result<(), StoreError> {
        self.sightings.push(Sighting::Place(key));
        let dn_norm = normalized_dn(&dn);
        // Any group may stand between a user and one that counts groups within it.
        if !self.groups.named.contains_key(&dn_norm)
            && !self.groups.watched.contains(&dn_norm)
            && !self.groups.any_nested()
        {
            return self.place_gone(&key, None);
        }
        let known = sql::place(&self.tx, &key)?;
        if known.as_ref().is_none_or(|known| known.dn != dn) {
            if let Some(known) = known {
                self.members(&normalized_dn(&known.dn), &BTreeSet::new())?;
            }
            sql::put_place(&self.tx, &Place { key, kind: PlaceKind::Group, dn })?;
        }
        self.members(&dn_norm, members)
    }

    fn place_gone(&mut self, key: &UserKey, new_dn: Option<String>) -> Result<(), StoreError> {
        let Some(place) = sql::place(&self.tx, key)? else { return Ok(()) };
        sql::remove_place(&self.tx, key)?;
        match place.kind {
            PlaceKind::Container => {
                self.taken.containers.push(ContainerMoved { old_dn: Some(place.dn), new_dn });
                Ok(())
            }
            PlaceKind::Group => self.members(&normalized_dn(&place.dn), &BTreeSet::new()),
        }
    }

    fn members(&mut self, group_dn: &str, members: &BTreeSet<String>) -> Result<(), StoreError> {
        let touched = sql::set_members(&self.tx, group_dn, members)?;
        if touched.is_empty() {
            return Ok(());
        }
        if self.groups.computes() {
            let mut users = BTreeSet::new();
            for member in &touched {
                users.extend(sql::members_below(&self.tx, member)?);
            }
            for dn_norm in users {
                for seq in sql::present_by_dn(&self.tx, &dn_norm)? {
                    self.remember_members(seq, &dn_norm)?;
                }
            }
        }
        let named = self.groups.server_has_member_of && self.groups.named.contains_key(group_dn);
        if named || self.groups.watched.contains(group_dn) {
            for member in &touched {
                sql::put_reread(&self.tx, member, group_dn, members.contains(member))?;
            }
        }
        self.taken.groups.push(GroupChanged { dn: group_dn.to_owned(), members: touched });
        Ok(())
    }

    /// The user did not change, but the groups that hold it did.
    fn remember_members(&mut self, old_seq: i64, dn_norm: &str) -> Result<(), StoreError> {
        let mut record = sql::entry_by_seq(&self.tx, old_seq)?.user_record()?;
        self.add_memberships(&mut record, dn_norm)?;
        let json = to_json(&record)?;
        if let Some(seq) = self.rewrite(old_seq, &record, &json)? {
            self.taken.changed += 1;
            self.sightings.push(Sighting::Moved(old_seq, seq));
        }
        Ok(())
    }

    fn add_memberships(&self, record: &mut UserRecord, dn_norm: &str) -> Result<(), StoreError> {
        let values = |groups: Vec<String>, wanted: &dyn Fn(&String) -> bool| {
            groups.into_iter().filter(wanted).map(Value::Text).collect()
        };
        let named = &self.groups.named;
        if !self.groups.server_has_member_of {
            record.set(MEMBER_OF, values(sql::groups_of(&self.tx, dn_norm)?, &|dn| named.contains_key(dn)));
        }
        if self.groups.any_nested() {
            let above = sql::groups_above(&self.tx, dn_norm)?;
            record.set(MEMBER_OF_NESTED, values(above, &|dn| named.get(dn) == Some(&true)));
        }
        Ok(())
    }

    fn heard(&self, seq: i64) -> sql::Heard {
        sql::Heard { seq, at: self.now.0 }
    }

    fn next_seq(&mut self) -> i64 {
        self.next.head += 1;
        self.next.head
    }
}

/// Absent users that are believed without the operator.
fn absent_limit(guard: config::Guard, present: u64) -> u64 {
    let percent = present.saturating_mul(u64::from(guard.releases_percent)) / 100;
    u64::from(guard.releases).min(percent).max(ABSENT_ALWAYS_ALLOWED)
}

//! Reads the compacted log from a cursor: who changed since, how, and how they are now.
//! Never writes; any number of readers, each with a cursor of its own.

use crate::directory::reversible::Known;
use crate::directory::source::Guarantees;
use crate::error::{Disposition, Hint};
use crate::intake::{Intake, SourceStatus, Suspect};
use crate::model::{Sequence, Timestamp, UserKey, UserRecord, normalized_dn};
use crate::store::directory::{self as sql, EntryRow, GoneKind, meta};
use crate::store::open::{self, Kind};
use crate::store::{Named, StoreError};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// A reader of directory.db.
pub struct Feed {
    connection: Connection,
}

/// What happened to a user since the reader's cursor. Many changes are one row: the last word counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeedKind {
    Created,
    Updated,
    Renamed,
    /// Exists, perhaps, but not where we look.
    LeftScope,
    /// Proven: the directory has no such entry.
    Deleted,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedRow {
    pub key: UserKey,
    pub sequence: Sequence,
    pub kind: FeedKind,
    /// Attributes that changed since the cursor, in order. For `Updated` and `Renamed`.
    pub changed: Vec<String>,
    /// How the user is now; for those gone, how they were last.
    pub record: UserRecord,
    /// The record as the log has it: JSON. Who stores it need not make it again.
    pub text: String,
    /// When the newest of these changes was heard.
    pub heard_at: Timestamp,
    /// First heard of live rather than in a refresh: somebody may be waiting for this account.
    pub live: bool,
}

/// A stretch of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Where the reader was.
    pub from: Sequence,
    pub rows: Vec<FeedRow>,
    /// To read on from. Covers rows that were left out because the reader never heard of the user.
    pub cursor: Sequence,
    /// The reader began at nothing and has not reached the log's end yet: everybody is told as created.
    pub snapshot: bool,
    /// Nothing was behind `cursor` when this was read.
    pub at_end: bool,
}

/// Why a feed cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("the cursor {cursor} is gone: {why}")]
    CursorGone { cursor: Sequence, why: &'static str },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FeedError {
    pub fn disposition(&self) -> Disposition {
        match self {
            FeedError::CursorGone { .. } => Disposition::Hold,
            FeedError::Store(cause) => cause.disposition(),
        }
    }

    pub fn hint(&self) -> Hint {
        match self {
            FeedError::CursorGone { .. } => {
                Hint("read everybody's present state again: homeward events --feed users --after 0".into())
            }
            FeedError::Store(cause) => cause.hint(),
        }
    }
}

/// What `status` shows of the poller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PollerStatus {
    pub source: Option<SourceStatus>,
    pub last_change_at: Option<Timestamp>,
    pub refreshed_at: Option<Timestamp>,
    pub suspect: Option<Suspect>,
    pub present: u64,
    pub gone: u64,
    pub missing: u64,
    pub head: Sequence,
}

impl PollerStatus {
    pub fn guarantees(&self) -> Option<&Guarantees> {
        self.source.as_ref().map(|source| &source.guarantees)
    }
}

impl Feed {
    /// The file must exist: the poller makes it.
    pub fn open(state_dir: &Path) -> Result<Feed, StoreError> {
        Ok(Feed { connection: open::reader(Kind::Directory, state_dir)? })
    }

    /// Of a log that was written in this process, and will be no more.
    pub fn of(intake: Intake) -> Feed {
        Feed { connection: intake.into_connection() }
    }

    /// 0 while the poller has not begun the log.
    pub fn epoch(&self) -> Result<u64, StoreError> {
        Ok(sql::meta_number(&self.connection, meta::EPOCH)?.unwrap_or_default())
    }

    pub fn head(&self) -> Result<Sequence, StoreError> {
        let seq = sql::meta_number(&self.connection, meta::HEAD)?.unwrap_or_default();
        Ok(Sequence { epoch: self.epoch()?, seq })
    }

    /// A reader at or behind this has seen everybody who carries our values: assignments may begin.
    pub fn carriers_complete(&self) -> Result<Option<Sequence>, StoreError> {
        let seq = sql::meta_number(&self.connection, meta::CARRIERS_COMPLETE)?;
        seq.map(|seq| Ok(Sequence { epoch: self.epoch()?, seq })).transpose()
    }

    /// A refresh of this log has named everybody: who is not in it is not in scope.
    pub fn everybody_read(&self) -> Result<bool, StoreError> {
        Ok(sql::meta_number(&self.connection, meta::REFRESHED_AT)?.is_some())
    }

    /// Whether somebody who was in the log at `seq` stands behind `cursor` now, because of a change since.
    pub fn any_moved_past(&self, cursor: Sequence, seq: u64) -> Result<bool, StoreError> {
        sql::any_moved_past(&self.connection, cursor.seq as i64, seq as i64)
    }

    /// What changed behind `cursor`, at most `limit` rows read. `Sequence::default()` begins: everybody present is told
    /// as created. Until such a reader has reached the end its cursor keeps epoch 0, because "what changed" is not
    /// defined for one who has not yet heard of everybody; and a purged tombstone is nothing it could have missed.
    pub fn after(&self, cursor: Sequence, limit: usize) -> Result<Page, FeedError> {
        // One snapshot for the checks and the rows.
        let tx = self.connection.unchecked_transaction().named("reading the log")?;
        let head = self.head()?;
        let snapshot = cursor.epoch == 0;
        let gone = |why| Err(FeedError::CursorGone { cursor, why });
        if !snapshot && cursor.epoch != head.epoch {
            return gone("the log was built anew since");
        }
        if cursor.seq > head.seq {
            return gone("the log was replaced by an older one");
        }
        if !snapshot && cursor.seq < sql::meta_number(&tx, meta::PURGED_SEQ)?.unwrap_or_default() {
            return gone("users were removed since, and their tombstones are past the retention");
        }
        let found = sql::entries_after(&tx, cursor.seq as i64, limit)?;
        let at_end = found.len() < limit;
        let seq = if at_end { head.seq } else { found.last().map_or(cursor.seq, |row| row.seq as u64) };
        let mut rows = Vec::with_capacity(found.len());
        for row in found {
            rows.extend(told(row, head.epoch, cursor.seq as i64, snapshot)?);
        }
        let epoch = if snapshot && !at_end { 0 } else { head.epoch };
        Ok(Page { from: cursor, rows, cursor: Sequence { epoch, seq }, snapshot, at_end })
    }

    /// How one user is now, as a reader at the beginning is told; gone ones too.
    pub fn by_key(&self, key: &UserKey) -> Result<Option<FeedRow>, StoreError> {
        let epoch = self.epoch()?;
        sql::entry_by_key(&self.connection, key)?.map(|row| present_state(row, epoch)).transpose()
    }

    /// By UUID, DN, login or mail, in any case; at most `FIND_MAX`, present ones first.
    pub fn find(&self, text: &str, login: &str, mail: &str) -> Result<Vec<FeedRow>, StoreError> {
        let text = text.trim();
        if let Some(found) = UserKey::parse(text).map(|key| self.by_key(&key)).transpose()?.flatten() {
            return Ok(vec![found]);
        }
        let epoch = self.epoch()?;
        let names = [login.to_ascii_lowercase(), mail.to_ascii_lowercase()];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        sql::find_entries(&self.connection, text, &normalized_dn(text), &names, FIND_MAX)?
            .into_iter()
            .map(|row| present_state(row, epoch))
            .collect()
    }

    /// Key and sequence of everybody, gone ones too, in the order of keys.
    pub fn each_key(&self, mut each: impl FnMut(UserKey, Sequence)) -> Result<(), StoreError> {
        let epoch = self.epoch()?;
        sql::each_key(&self.connection, |key, seq| each(key, Sequence { epoch, seq: seq as u64 }))
    }

    /// Rows that a reader at `cursor` has not read; all of them where the log is another one.
    pub fn behind(&self, cursor: Sequence) -> Result<u64, StoreError> {
        let seq = if cursor.epoch == 0 || cursor.epoch == self.epoch()? { cursor.seq } else { 0 };
        sql::count_after(&self.connection, seq as i64)
    }

    /// When the newest changes were heard, newest first, none older than `since`.
    pub fn heard_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Timestamp>, StoreError> {
        let heard = sql::heard_since(&self.connection, since.0, limit)?;
        Ok(heard.into_iter().map(|heard| Timestamp(heard.at)).collect())
    }

    /// Changes behind a place in this log: where each stands, and when it was heard.
    pub fn heard_after(&self, seq: u64, limit: usize) -> Result<Vec<(u64, Timestamp)>, StoreError> {
        let heard = sql::heard_after(&self.connection, seq as i64, limit)?;
        Ok(heard.into_iter().map(|heard| (heard.seq as u64, Timestamp(heard.at))).collect())
    }

    /// Changes with every commit of another connection (SQLite's `data_version`).
    pub fn version(&self) -> Result<i64, StoreError> {
        open::data_version(&self.connection)
    }

    /// What the poller knows of reversible storage in the domain, first sights included; `None`: nobody asked it to look.
    pub fn storage(&self) -> Result<Option<Known>, StoreError> {
        sql::meta_json(&self.connection, meta::STORAGE)
    }

    pub fn status(&self) -> Result<PollerStatus, StoreError> {
        let c = &self.connection;
        let time = |name| Ok::<_, StoreError>(sql::meta_number(c, name)?.map(|ms| Timestamp(ms as i64)));
        let (present, gone) = sql::counts(c)?;
        Ok(PollerStatus {
            source: sql::meta_json(c, meta::SOURCE)?,
            last_change_at: time(meta::LAST_CHANGE_AT)?,
            refreshed_at: time(meta::REFRESHED_AT)?,
            suspect: sql::meta_json(c, meta::SUSPECT)?,
            present,
            gone,
            missing: sql::missing(c)?.len() as u64,
            head: self.head()?,
        })
    }
}

/// Users that one search of the command line shows.
pub const FIND_MAX: usize = 50;

fn present_state(row: EntryRow, epoch: u64) -> Result<FeedRow, StoreError> {
    let kind = match row.gone_kind {
        Some(GoneKind::LeftScope) => FeedKind::LeftScope,
        Some(GoneKind::Deleted) => FeedKind::Deleted,
        None => FeedKind::Created,
    };
    let sequence = Sequence { epoch, seq: row.seq as u64 };
    let (heard_at, record) = (Timestamp(row.heard_at), row.user_record()?);
    let (key, live) = (row.key, row.live);
    Ok(FeedRow { key, sequence, kind, changed: Vec::new(), record, text: row.record, heard_at, live })
}

/// What a reader at `cursor` is told of a row behind it; nothing, if it never heard of the user and never will.
fn told(row: EntryRow, epoch: u64, cursor: i64, snapshot: bool) -> Result<Option<FeedRow>, StoreError> {
    if row.gone_kind.is_some() && row.born_seq > cursor {
        return Ok(None);
    }
    let is_change = row.gone_kind.is_none() && !snapshot && row.first_seq <= cursor;
    if !is_change {
        return present_state(row, epoch).map(Some);
    }
    let seqs: BTreeMap<String, i64> = row
        .attribute_seqs
        .as_deref()
        .map(|text| sql::from_json("attribute_seqs", text))
        .transpose()?
        .unwrap_or_default();
    let kind = if row.renamed_seq > cursor { FeedKind::Renamed } else { FeedKind::Updated };
    let changed = seqs.into_iter().filter(|(_, seq)| *seq > cursor).map(|(name, _)| name).collect();
    Ok(Some(FeedRow { kind, changed, ..present_state(row, epoch)? }))
}

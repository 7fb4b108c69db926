//! The SQL of `directory.db`, a function per statement. Whoever calls holds the transaction.
//! Nothing here knows what a change means: that is `intake`; nor what a reader is told: that is `feed`.

use super::{Named, StoreError};
use crate::model::{UserKey, UserRecord};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::BTreeSet;

/// Names in `meta`. Values are text: numbers in decimal, the rest JSON.
pub mod meta {
    /// Of the log; see `model::Sequence`.
    pub const EPOCH: &str = "epoch";
    /// The last seq given. Kept apart from `entry`, whose last row may be purged.
    pub const HEAD: &str = "head";
    /// JSON of `source::Cursor`.
    pub const CURSOR: &str = "cursor";
    /// The seq at which everybody who carries our values had been read.
    pub const CARRIERS_COMPLETE: &str = "carriers_complete";
    /// JSON of `intake::Suspect`.
    pub const SUSPECT: &str = "suspect";
    /// ms since 1970: when a row last changed.
    pub const LAST_CHANGE_AT: &str = "last_change_at";
    /// ms since 1970: when a refresh last named everybody.
    pub const REFRESHED_AT: &str = "refreshed_at";
    /// ms since 1970: when a refresh from nothing last named everybody.
    pub const SWEPT_AT: &str = "swept_at";
    /// The highest seq among the tombstones that were purged.
    pub const PURGED_SEQ: &str = "purged_seq";
    /// JSON of `intake::SourceStatus`.
    pub const SOURCE: &str = "source";
    /// Only in a copy that `store::open::backup` made.
    pub const BACKED_UP: &str = "backed_up";
    /// JSON of `directory::reversible::Known`.
    pub const STORAGE: &str = "storage";
    /// JSON: whom a change of the former has not reached.
    pub const STORAGE_DUE: &str = "storage_due";
    /// Its `order` when a refresh last named everybody.
    pub const STORAGE_SWEPT: &str = "storage_swept";
    /// Why the log was last built anew.
    pub const REBUILT: &str = "rebuilt";
}

pub fn meta(c: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    c.prepare_cached("select value from meta where name = ?1")
        .and_then(|mut s| s.query_row([name], |row| row.get(0)).optional())
        .named("reading meta")
}

pub fn meta_number(c: &Connection, name: &'static str) -> Result<Option<u64>, StoreError> {
    meta(c, name)?
        .map(|text| text.parse().map_err(|_| StoreError::BadRow { what: name, problem: format!("\"{text}\"") }))
        .transpose()
}

pub fn meta_json<T: serde::de::DeserializeOwned>(c: &Connection, name: &'static str) -> Result<Option<T>, StoreError> {
    meta(c, name)?.map(|text| from_json(name, &text)).transpose()
}

pub fn set_meta(c: &Connection, name: &str, value: &str) -> Result<(), StoreError> {
    c.prepare_cached("insert into meta values (?1, ?2) on conflict do update set value = excluded.value")
        .and_then(|mut s| s.execute([name, value]))
        .named("writing meta")
        .map(drop)
}

pub fn remove_meta(c: &Connection, name: &str) -> Result<(), StoreError> {
    c.execute("delete from meta where name = ?1", [name]).named("writing meta").map(drop)
}

/// Whether a stored user is present, and what is known of one who is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoneKind {
    LeftScope,
    Deleted,
}

/// A row of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryRow {
    pub seq: i64,
    pub key: UserKey,
    pub born_seq: i64,
    pub first_seq: i64,
    pub renamed_seq: i64,
    pub gone_seq: i64,
    pub gone_kind: Option<GoneKind>,
    /// ms since 1970: when the change that `seq` stands for was heard.
    pub heard_at: i64,
    pub live: bool,
    pub attribute_seqs: Option<String>,
    pub record: String,
}

const ENTRY_COLUMNS: &str =
    "seq, key, born_seq, first_seq, renamed_seq, gone_seq, gone_kind, heard_at, live, attribute_seqs, record";

impl EntryRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<EntryRow> {
        Ok(EntryRow {
            seq: row.get(0)?,
            key: key_of(row, 1)?,
            born_seq: row.get(2)?,
            first_seq: row.get(3)?,
            renamed_seq: row.get(4)?,
            gone_seq: row.get(5)?,
            gone_kind: match row.get(6)? {
                1 => Some(GoneKind::LeftScope),
                2 => Some(GoneKind::Deleted),
                _ => None,
            },
            heard_at: row.get(7)?,
            live: row.get(8)?,
            attribute_seqs: row.get(9)?,
            record: row.get(10)?,
        })
    }

    pub fn user_record(&self) -> Result<UserRecord, StoreError> {
        from_json("a record", &self.record)
    }
}

fn key_of(row: &Row<'_>, column: usize) -> rusqlite::Result<UserKey> {
    row.get::<_, [u8; 16]>(column).map(UserKey)
}

pub fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::BadRow { what, problem: error.to_string() })
}

/// What the common case needs to know of a stored row, without copying its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance {
    pub seq: i64,
    pub gone: bool,
    pub missing: bool,
    pub named: bool,
    /// The stored record is byte for byte the one asked about.
    pub same: bool,
}

/// `record`: empty when only the state of the row is asked for.
pub fn glance(c: &Connection, key: &UserKey, record: &str) -> Result<Option<Glance>, StoreError> {
    c.prepare_cached("select seq, gone_seq, missing_since is not null, removal_named, record from entry where key = ?1")
        .and_then(|mut s| {
            s.query_row([key.0.as_slice()], |row| {
                Ok(Glance {
                    seq: row.get(0)?,
                    gone: row.get::<_, i64>(1)? > 0,
                    missing: row.get(2)?,
                    named: row.get::<_, i64>(3)? > 0,
                    same: row.get_ref(4)?.as_bytes()? == record.as_bytes(),
                })
            })
            .optional()
        })
        .named("looking up a user")
}

pub fn entry_by_seq(c: &Connection, seq: i64) -> Result<EntryRow, StoreError> {
    c.prepare_cached(&format!("select {ENTRY_COLUMNS} from entry where seq = ?1"))
        .and_then(|mut s| s.query_row([seq], EntryRow::read))
        .named("reading a user")
}

pub fn entry_by_key(c: &Connection, key: &UserKey) -> Result<Option<EntryRow>, StoreError> {
    c.prepare_cached(&format!("select {ENTRY_COLUMNS} from entry where key = ?1"))
        .and_then(|mut s| s.query_row([key.0.as_slice()], EntryRow::read).optional())
        .named("reading a user")
}

/// By anything an operator may type: DN (normalized), or a value of the login or mail attribute, in any case. A scan:
/// one person asks, and an index would cost each of a million writes. Present ones come first.
pub fn find_entries(
    c: &Connection,
    text: &str,
    dn_norm: &str,
    attributes: &[&str],
    limit: usize,
) -> Result<Vec<EntryRow>, StoreError> {
    let attributes = serde_json::to_string(attributes).unwrap_or_default();
    c.prepare_cached(&format!(
        "select {ENTRY_COLUMNS} from entry where dn_norm = ?2 or exists (
             select 1 from json_each(?3) name, json_each(entry.record, '$.a.\"' || name.value || '\"') value
             where lower(value.value) = lower(?1))
         order by gone_seq > 0, seq limit ?4"
    ))
    .and_then(|mut s| s.query_map(params![text, dn_norm, attributes, limit as i64], EntryRow::read)?.collect())
    .named("looking for a user")
}

/// In order, beginning behind `after`.
pub fn entries_after(c: &Connection, after: i64, limit: usize) -> Result<Vec<EntryRow>, StoreError> {
    c.prepare_cached(&format!("select {ENTRY_COLUMNS} from entry where seq > ?1 order by seq limit ?2"))
        .and_then(|mut s| s.query_map(params![after, limit as i64], EntryRow::read)?.collect())
        .named("reading the log")
}

/// Key and seq of everybody, gone ones too, in the order of keys.
pub fn each_key(c: &Connection, mut each: impl FnMut(UserKey, i64)) -> Result<(), StoreError> {
    c.prepare_cached("select key, seq from entry order by key")
        .and_then(|mut s| {
            let mut rows = s.query([])?;
            while let Some(row) = rows.next()? {
                each(key_of(row, 0)?, row.get(1)?);
            }
            Ok(())
        })
        .named("reading all keys")
}

/// The last seq in the table; the log's head may be later, where the last rows were purged.
pub fn last_seq(c: &Connection) -> Result<i64, StoreError> {
    c.query_row("select coalesce(max(seq), 0) from entry", [], |row| row.get(0)).named("reading the log's end")
}

/// The newest changes heard at or after a time, newest first. Reads no older ones: the log is in the order of hearing.
pub fn heard_since(c: &Connection, since: i64, limit: usize) -> Result<Vec<Heard>, StoreError> {
    c.prepare_cached("select seq, heard_at from entry order by seq desc limit ?1")
        .and_then(|mut s| {
            s.query_map([limit as i64], |row| Ok(Heard { seq: row.get(0)?, at: row.get(1)? }))?
                .take_while(|row| row.as_ref().map_or(true, |heard| heard.at >= since))
                .collect()
        })
        .named("reading the log's end")
}

/// The same behind `after`, oldest first.
pub fn heard_after(c: &Connection, after: i64, limit: usize) -> Result<Vec<Heard>, StoreError> {
    c.prepare_cached("select seq, heard_at from entry where seq > ?1 order by seq limit ?2")
        .and_then(|mut s| {
            s.query_map(params![after, limit as i64], |row| Ok(Heard { seq: row.get(0)?, at: row.get(1)? }))?.collect()
        })
        .named("reading the log's end")
}

/// Rows behind `after`.
pub fn count_after(c: &Connection, after: i64) -> Result<u64, StoreError> {
    c.query_row("select count(*) from entry where seq > ?1", [after], |row| row.get::<_, i64>(0))
        .named("counting changes")
        .map(|count| count.max(0) as u64)
}

/// Whether a row born at or before `born` stands behind `after`.
pub fn any_moved_past(c: &Connection, after: i64, born: i64) -> Result<bool, StoreError> {
    c.prepare_cached("select exists (select 1 from entry where seq > ?1 and born_seq <= ?2)")
        .and_then(|mut s| s.query_row([after, born], |row| row.get(0)))
        .named("reading the log's end")
}

/// (present, gone)
pub fn counts(c: &Connection) -> Result<(u64, u64), StoreError> {
    // Both counts come from small indexes; the rows themselves are not read.
    c.query_row("select (select count(*) from entry), (select count(*) from entry where gone_seq > 0)", [], |row| {
        let (all, gone): (i64, i64) = (row.get(0)?, row.get(1)?);
        Ok((all.saturating_sub(gone).max(0) as u64, gone.max(0) as u64))
    })
    .named("counting users")
}

/// A change: its place in the log, and when it was heard (ms since 1970).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    pub seq: i64,
    pub at: i64,
}

/// False: the key is known, and nothing was stored.
pub fn insert_entry(
    c: &Connection,
    key: &UserKey,
    change: Heard,
    dn_norm: &str,
    record: &str,
    live: bool,
) -> Result<bool, StoreError> {
    c.prepare_cached(
        "insert into entry (seq, key, dn_norm, born_seq, first_seq, heard_at, live, record)
         values (?1, ?2, ?3, ?1, ?1, ?6, ?4, ?5) on conflict (key) do nothing",
    )
    .and_then(|mut s| s.execute(params![change.seq, key.0.as_slice(), dn_norm, live, record, change.at]))
    .named("storing a new user")
    .map(|rows| rows > 0)
}

pub fn change_entry(
    c: &Connection,
    old_seq: i64,
    change: Heard,
    dn_norm: &str,
    renamed_seq: i64,
    attribute_seqs: &str,
    record: &str,
) -> Result<(), StoreError> {
    c.prepare_cached(
        "update entry set seq = ?2, dn_norm = ?3, renamed_seq = ?4, attribute_seqs = ?5, record = ?6, heard_at = ?7
         where seq = ?1",
    )
    .and_then(|mut s| s.execute(params![old_seq, change.seq, dn_norm, renamed_seq, attribute_seqs, record, change.at]))
    .named("storing a changed user")
    .map(drop)
}

/// A user who was gone is back: everything begins anew but `born_seq`.
pub fn return_entry(
    c: &Connection,
    old_seq: i64,
    change: Heard,
    dn_norm: &str,
    record: &str,
    live: bool,
) -> Result<(), StoreError> {
    c.prepare_cached(
        "update entry set seq = ?2, first_seq = ?2, renamed_seq = 0, gone_seq = 0, gone_kind = 0, gone_at = null,
             heard_at = ?6, live = ?5, missing_since = null, removal_named = 0, attribute_seqs = null, dn_norm = ?3, record = ?4
         where seq = ?1",
    )
    .and_then(|mut s| s.execute(params![old_seq, change.seq, dn_norm, record, live, change.at]))
    .named("storing a user who came back")
    .map(drop)
}

pub fn mark_gone(c: &Connection, old_seq: i64, seq: i64, kind: GoneKind, at: i64) -> Result<(), StoreError> {
    let kind = match kind {
        GoneKind::LeftScope => 1,
        GoneKind::Deleted => 2,
    };
    c.prepare_cached(
        "update entry set seq = ?2, gone_seq = ?2, gone_kind = ?3, gone_at = ?4, heard_at = ?4, missing_since = null,
             removal_named = 0
         where seq = ?1",
    )
    .and_then(|mut s| s.execute(params![old_seq, seq, kind, at]))
    .named("storing that a user is gone")
    .map(drop)
}

/// Tells nobody: the row keeps its place in the log.
pub fn mark_missing(c: &Connection, seq: i64, since: i64, named: bool) -> Result<(), StoreError> {
    c.prepare_cached(
        "update entry set missing_since = coalesce(missing_since, ?2), removal_named = max(removal_named, ?3) where seq = ?1",
    )
    .and_then(|mut s| s.execute(params![seq, since, named]))
    .named("storing that a user is missing")
    .map(drop)
}

pub fn clear_missing(c: &Connection, seq: i64) -> Result<(), StoreError> {
    c.prepare_cached("update entry set missing_since = null, removal_named = 0 where seq = ?1")
        .and_then(|mut s| s.execute([seq]))
        .named("storing that a user was seen again")
        .map(drop)
}

/// Those missing by absence are as good as named by the server: the operator said so. Their number.
pub fn approve_missing(c: &Connection) -> Result<usize, StoreError> {
    c.execute("update entry set removal_named = 2 where missing_since is not null and removal_named = 0", [])
        .named("storing an approval")
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingRow {
    pub key: UserKey,
    pub dn: String,
    /// 0 by absence, 1 by the server, 2 by the operator.
    pub removal_named: i64,
}

/// Missing and not yet proven gone, in the order of keys.
pub fn missing(c: &Connection) -> Result<Vec<MissingRow>, StoreError> {
    c.prepare_cached(
        "select key, record ->> '$.dn', removal_named from entry indexed by entry_missing
         where missing_since is not null order by key",
    )
    .and_then(|mut s| {
        s.query_map([], |row| Ok(MissingRow { key: key_of(row, 0)?, dn: row.get(1)?, removal_named: row.get(2)? }))?
            .collect()
    })
    .named("reading who is missing")
}

/// Some of those missing by absence, in the order of keys behind `after`.
pub fn missing_by_absence(c: &Connection, after: &UserKey, limit: usize) -> Result<Vec<UserKey>, StoreError> {
    c.prepare_cached(
        "select key from entry indexed by entry_missing
         where missing_since is not null and removal_named = 0 and key > ?1 order by key limit ?2",
    )
    .and_then(|mut s| s.query_map(params![after.0.as_slice(), limit as i64], |row| key_of(row, 0))?.collect())
    .named("reading who is missing")
}

pub fn any_missing_by_absence(c: &Connection) -> Result<bool, StoreError> {
    c.query_row(
        "select exists (select 1 from entry indexed by entry_missing where missing_since is not null and removal_named = 0)",
        [],
        |row| row.get(0),
    )
    .named("reading who is missing")
}

/// (seq, is missing by name) of all who are present.
pub fn each_present(c: &Connection, mut each: impl FnMut(i64, bool)) -> Result<(), StoreError> {
    c.prepare_cached("select seq, removal_named > 0 from entry where gone_seq = 0")
        .and_then(|mut s| {
            let mut rows = s.query([])?;
            while let Some(row) = rows.next()? {
                each(row.get(0)?, row.get(1)?);
            }
            Ok(())
        })
        .named("reading who is present")
}

/// Seq of those present at or below a normalized DN. A scan: containers seldom move.
pub fn present_below(c: &Connection, dn_norm: &str) -> Result<Vec<i64>, StoreError> {
    c.prepare_cached(
        "select seq from entry where gone_seq = 0 and (dn_norm = ?1 or substr(dn_norm, -length(?1) - 1) = ',' || ?1)",
    )
    .and_then(|mut s| s.query_map([dn_norm], |row| row.get(0))?.collect())
    .named("reading who is below a container")
}

/// Tombstones older than `before`: their number, and the highest seq among them.
pub fn purge_gone(c: &Connection, before: i64) -> Result<(usize, i64), StoreError> {
    let highest = c
        .query_row("select coalesce(max(seq), 0) from entry where gone_seq > 0 and gone_at < ?1", [before], |row| {
            row.get(0)
        })
        .named("purging")?;
    let count = c.execute("delete from entry where gone_seq > 0 and gone_at < ?1", [before]).named("purging")?;
    Ok((count, highest))
}

/// Nothing stays but `meta`.
pub fn clear(c: &Connection) -> Result<(), StoreError> {
    c.execute_batch(
        "delete from entry; delete from place; delete from membership; delete from moved; delete from reread;",
    )
    .named("clearing the log")
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceKind {
    Container,
    Group,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub key: UserKey,
    pub kind: PlaceKind,
    /// As the server writes it.
    pub dn: String,
}

fn place_of(row: &Row<'_>) -> rusqlite::Result<Place> {
    let kind = if row.get::<_, i64>(1)? == 2 { PlaceKind::Group } else { PlaceKind::Container };
    Ok(Place { key: key_of(row, 0)?, kind, dn: row.get(2)? })
}

pub fn place(c: &Connection, key: &UserKey) -> Result<Option<Place>, StoreError> {
    c.prepare_cached("select key, kind, dn from place where key = ?1")
        .and_then(|mut s| s.query_row([key.0.as_slice()], place_of).optional())
        .named("looking up a container")
}

pub fn places(c: &Connection) -> Result<Vec<Place>, StoreError> {
    c.prepare_cached("select key, kind, dn from place")
        .and_then(|mut s| s.query_map([], place_of)?.collect())
        .named("reading the containers")
}

pub fn put_place(c: &Connection, place: &Place) -> Result<(), StoreError> {
    let kind = match place.kind {
        PlaceKind::Container => 1,
        PlaceKind::Group => 2,
    };
    c.prepare_cached(
        "insert into place values (?1, ?2, ?3) on conflict do update set kind = excluded.kind, dn = excluded.dn",
    )
    .and_then(|mut s| s.execute(params![place.key.0.as_slice(), kind, place.dn]))
    .named("storing a container")
    .map(drop)
}

pub fn remove_place(c: &Connection, key: &UserKey) -> Result<(), StoreError> {
    c.prepare_cached("delete from place where key = ?1")
        .and_then(|mut s| s.execute([key.0.as_slice()]))
        .named("removing a container")
        .map(drop)
}

/// Users are looked up by DN only where we compute memberships ourselves; nobody else pays for the index.
pub fn index_by_dn(c: &Connection, wanted: bool) -> Result<(), StoreError> {
    c.execute_batch(if wanted {
        "create index if not exists entry_dn on entry (dn_norm)"
    } else {
        "drop index if exists entry_dn"
    })
    .named("indexing DNs")
}

/// Stores a group's direct members (normalized DNs) and returns who came or went.
pub fn set_members(c: &Connection, group_dn: &str, members: &BTreeSet<String>) -> Result<BTreeSet<String>, StoreError> {
    let known: BTreeSet<String> = c
        .prepare_cached("select member_dn from membership where group_dn = ?1")
        .and_then(|mut s| s.query_map([group_dn], |row| row.get(0))?.collect())
        .named("reading a group")?;
    for gone in known.difference(members) {
        c.prepare_cached("delete from membership where group_dn = ?1 and member_dn = ?2")
            .and_then(|mut s| s.execute([group_dn, gone.as_str()]))
            .named("storing a group")?;
    }
    for new in members.difference(&known) {
        c.prepare_cached("insert into membership values (?1, ?2)")
            .and_then(|mut s| s.execute([group_dn, new.as_str()]))
            .named("storing a group")?;
    }
    Ok(known.symmetric_difference(members).cloned().collect())
}

/// Groups that hold `member_dn` directly.
pub fn groups_of(c: &Connection, member_dn: &str) -> Result<Vec<String>, StoreError> {
    c.prepare_cached("select group_dn from membership where member_dn = ?1 order by group_dn")
        .and_then(|mut s| s.query_map([member_dn], |row| row.get(0))?.collect())
        .named("reading memberships")
}

/// Groups that hold `member_dn` directly or through other groups; groups in a circle end.
pub fn groups_above(c: &Connection, member_dn: &str) -> Result<Vec<String>, StoreError> {
    c.prepare_cached(
        "with recursive above (dn) as (
             select group_dn from membership where member_dn = ?1
             union select m.group_dn from membership m join above on m.member_dn = above.dn)
         select dn from above order by dn",
    )
    .and_then(|mut s| s.query_map([member_dn], |row| row.get(0))?.collect())
    .named("reading memberships")
}

/// `dn` itself and everything that is a member of it, directly or through other groups.
pub fn members_below(c: &Connection, dn: &str) -> Result<Vec<String>, StoreError> {
    c.prepare_cached(
        "with recursive below (dn) as (
             values (?1) union select m.member_dn from membership m join below on m.group_dn = below.dn)
         select dn from below",
    )
    .and_then(|mut s| s.query_map([dn], |row| row.get(0))?.collect())
    .named("reading memberships")
}

/// A subtree to be read again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MovedRow {
    pub id: i64,
    pub old_dn: Option<String>,
    pub new_dn: Option<String>,
}

pub fn add_moved(c: &Connection, old_dn: Option<&str>, new_dn: Option<&str>) -> Result<(), StoreError> {
    c.prepare_cached("insert into moved (old_dn, new_dn) values (?1, ?2)")
        .and_then(|mut s| s.execute([old_dn, new_dn]))
        .named("storing a moved container")
        .map(drop)
}

/// The oldest first.
pub fn moved(c: &Connection) -> Result<Vec<MovedRow>, StoreError> {
    c.prepare_cached("select id, old_dn, new_dn from moved order by id")
        .and_then(|mut s| {
            s.query_map([], |row| Ok(MovedRow { id: row.get(0)?, old_dn: row.get(1)?, new_dn: row.get(2)? }))?.collect()
        })
        .named("reading moved containers")
}

pub fn remove_moved(c: &Connection, id: i64) -> Result<(), StoreError> {
    c.execute("delete from moved where id = ?1", [id]).named("forgetting a moved container").map(drop)
}

/// A user to be read again, until `memberOf` says the same as the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RereadRow {
    pub member_dn: String,
    pub group_dn: String,
    pub is_member: bool,
}

pub fn put_reread(c: &Connection, member_dn: &str, group_dn: &str, is_member: bool) -> Result<(), StoreError> {
    c.prepare_cached("insert into reread values (?1, ?2, ?3) on conflict do update set is_member = excluded.is_member")
        .and_then(|mut s| s.execute(params![member_dn, group_dn, is_member]))
        .named("storing whom to read again")
        .map(drop)
}

/// In the order of members, so that one of many groups is read once.
pub fn rereads(c: &Connection, limit: usize) -> Result<Vec<RereadRow>, StoreError> {
    c.prepare_cached("select member_dn, group_dn, is_member from reread order by member_dn limit ?1")
        .and_then(|mut s| {
            s.query_map([limit as i64], |row| {
                Ok(RereadRow { member_dn: row.get(0)?, group_dn: row.get(1)?, is_member: row.get(2)? })
            })?
            .collect()
        })
        .named("reading whom to read again")
}

/// Nothing happens where the row says something else by now.
pub fn remove_reread(c: &Connection, row: &RereadRow) -> Result<(), StoreError> {
    c.prepare_cached("delete from reread where member_dn = ?1 and group_dn = ?2 and is_member = ?3")
        .and_then(|mut s| s.execute(params![row.member_dn, row.group_dn, row.is_member]))
        .named("forgetting whom to read again")
        .map(drop)
}

pub fn clear_rereads(c: &Connection) -> Result<(), StoreError> {
    c.execute("delete from reread", []).named("forgetting whom to read again").map(drop)
}

/// Seq of the present users of a DN: one, or two for the moment between a delete and a recreate.
pub fn present_by_dn(c: &Connection, dn_norm: &str) -> Result<Vec<i64>, StoreError> {
    c.prepare_cached("select seq from entry where dn_norm = ?1 and gone_seq = 0")
        .and_then(|mut s| s.query_map([dn_norm], |row| row.get(0))?.collect())
        .named("looking up a user by DN")
}

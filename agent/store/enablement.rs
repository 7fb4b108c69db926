//! `enablement.db`: standings, reservations, intents, due rows, the guard's books, problems, outcomes, facts and wishes.
//! Every statement stands in a function that bears its name. Functions take a connection or a transaction; the worker
//! decides what belongs together.

use super::{Named, StoreError};
use crate::model::*;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::{Deserialize, Serialize};
use std::time::Duration;

type Result<T> = std::result::Result<T, StoreError>;

// --- meta ------------------------------------------------------------------------------------------------------------

pub fn meta(db: &Connection, name: &str) -> Result<Option<String>> {
    let mut statement = db.prepare_cached("select value from meta where name = ?1").named("meta")?;
    statement.query_row([name], |row| row.get(0)).optional().named("meta")
}

pub fn set_meta(db: &Connection, name: &str, value: &str) -> Result<()> {
    db.prepare_cached("insert into meta values (?1, ?2) on conflict (name) do update set value = excluded.value")
        .and_then(|mut statement| statement.execute([name, value]))
        .named("set_meta")
        .map(drop)
}

pub fn delete_meta(db: &Connection, name: &str) -> Result<()> {
    db.execute("delete from meta where name = ?1", [name]).named("delete_meta").map(drop)
}

/// Where in the users' feed the worker is.
pub fn cursor(db: &Connection) -> Result<Sequence> {
    Ok(meta(db, "cursor")?.and_then(|text| Sequence::parse(&text)).unwrap_or_default())
}

pub fn set_cursor(db: &Connection, cursor: Sequence) -> Result<()> {
    set_meta(db, "cursor", &cursor.to_string())
}

/// The highest place in the poller's log that was ever read, or known to be there.
pub fn log_seen(db: &Connection) -> Result<Sequence> {
    let seen = meta(db, LOG_SEEN)?.and_then(|text| Sequence::parse(&text)).unwrap_or_default();
    Ok(seen.max(cursor(db)?))
}

/// The log is read from its beginning again. That it reached to `head` is remembered.
pub fn restart_cursor(db: &Connection, head: Sequence) -> Result<()> {
    set_meta(db, LOG_SEEN, &log_seen(db)?.max(head).to_string())?;
    set_cursor(db, Sequence::default())
}

const LOG_SEEN: &str = "log_seen";

/// One snapshot for all that is read until this is dropped.
pub fn reading(db: &Connection) -> Result<rusqlite::Transaction<'_>> {
    db.unchecked_transaction().named("reading")
}

// --- standings -------------------------------------------------------------------------------------------------------

/// The part of a standing that needs no column.
#[derive(Serialize, Deserialize, Default)]
struct Detail {
    #[serde(rename = "first")]
    first_seen: Timestamp,
    #[serde(rename = "heard")]
    heard_at: Timestamp,
    #[serde(default, skip_serializing_if = "is_default")]
    presence: Presence,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reserved: Option<Assignment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaving: Option<HomeId>,
    #[serde(default, skip_serializing_if = "WriteBackValues::is_empty")]
    applied: WriteBackValues,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<(WriteBackValues, Timestamp)>,
    #[serde(default, skip_serializing_if = "is_default")]
    digest: DigestReadiness,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_date")]
    reset_asked_for: Option<PasswordDate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reset_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    wishes: UserWishes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approved: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    told_enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    told_digest: DigestReadiness,
}

/// A password without a date is `null`, which is another thing than nothing asked for.
fn known_date<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<PasswordDate>, D::Error> {
    PasswordDate::deserialize(deserializer).map(Some)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A constant statement: formatting one for each of a hundred thousand users is not free.
macro_rules! concat_standing {
    ($condition:literal) => {
        concat!(
            "select id, key, version, epoch, seq, status, waiting_on, mail_domain, updated_at, detail, record from standing where ",
            $condition
        )
    };
}

const STANDING: &str = "id, key, version, epoch, seq, status, waiting_on, mail_domain, updated_at, detail, record";

fn standing_of(row: &Row<'_>) -> rusqlite::Result<(i64, Standing)> {
    let bad = |column: usize, problem: String| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, problem.into())
    };
    let text = |column: usize| row.get_ref(column)?.as_str().map_err(|error| bad(column, error.to_string()));
    let detail: Detail = serde_json::from_str(text(9)?).map_err(|error| bad(9, error.to_string()))?;
    let record: UserRecord = serde_json::from_str(text(10)?).map_err(|error| bad(10, error.to_string()))?;
    let key =
        row.get_ref(1)?.as_blob().ok().and_then(UserKey::from_bytes).ok_or_else(|| bad(1, "no user key".into()))?;
    let standing = Standing {
        key,
        version: row.get::<_, i64>(2)? as u64,
        sequence: Sequence { epoch: row.get::<_, i64>(3)? as u64, seq: row.get::<_, i64>(4)? as u64 },
        status: Status::parse(text(5)?).ok_or_else(|| bad(5, "no status".into()))?,
        waiting_on: row.get(6)?,
        mail_domain: row.get(7)?,
        updated_at: Timestamp(row.get(8)?),
        first_seen: detail.first_seen,
        heard_at: detail.heard_at,
        record,
        presence: detail.presence,
        reserved: detail.reserved,
        released_at: detail.released_at,
        leaving: detail.leaving,
        applied: detail.applied,
        previous: detail.previous,
        digest: detail.digest,
        reset_asked_for: detail.reset_asked_for,
        reset_since: detail.reset_since,
        rule: detail.rule,
        wishes: detail.wishes,
        approved: detail.approved,
        told_enabled: detail.told_enabled,
        told: detail.told,
        told_digest: detail.told_digest,
    };
    Ok((row.get(0)?, standing))
}

/// One standing and its row id.
pub fn standing(db: &Connection, key: &UserKey) -> Result<Option<(i64, Standing)>> {
    db.prepare_cached(concat_standing!("key = ?1"))
        .and_then(|mut statement| statement.query_row([&key.0[..]], standing_of).optional())
        .named("standing")
}

pub fn standing_at(db: &Connection, id: i64) -> Result<Option<Standing>> {
    db.prepare_cached(&format!("select {STANDING} from standing where id = ?1"))
        .and_then(|mut statement| statement.query_row([id], standing_of).optional())
        .named("standing_at")
        .map(|found| found.map(|(_, standing)| standing))
}

/// The standing that has this address, taken or resting.
pub fn standing_by_address(db: &Connection, address: &str) -> Result<Option<(i64, Standing)>> {
    db.prepare_cached(concat_standing!("address = ?1"))
        .and_then(|mut statement| statement.query_row([address], standing_of).optional())
        .named("standing_by_address")
}

/// Standings by row id after `after`, at most `limit`: for chunks over all.
pub fn standings_after(db: &Connection, after: i64, limit: usize) -> Result<Vec<(i64, Standing)>> {
    let sql = format!("select {STANDING} from standing where id > ?1 order by id limit ?2");
    let mut statement = db.prepare_cached(&sql).named("standings_after")?;
    let rows = statement.query_map(params![after, limit as i64], standing_of).named("standings_after")?;
    rows.collect::<rusqlite::Result<_>>().named("standings_after")
}

/// Standings whose newest row came from a log older than this epoch.
pub fn standings_of_older_epoch(db: &Connection, epoch: u64, after: i64, limit: usize) -> Result<Vec<(i64, Standing)>> {
    let sql = format!("select {STANDING} from standing where epoch < ?1 and id > ?2 order by id limit ?3");
    let mut statement = db.prepare_cached(&sql).named("standings_of_older_epoch")?;
    let rows = statement
        .query_map(params![epoch as i64, after, limit as i64], standing_of)
        .named("standings_of_older_epoch")?;
    rows.collect::<rusqlite::Result<_>>().named("standings_of_older_epoch")
}

pub fn standings_with_status(db: &Connection, status: Status, limit: usize) -> Result<Vec<Standing>> {
    let sql = format!("select {STANDING} from standing where status = ?1 order by id limit ?2");
    let mut statement = db.prepare_cached(&sql).named("standings_with_status")?;
    let rows =
        statement.query_map(params![status.as_str(), limit as i64], standing_of).named("standings_with_status")?;
    rows.map(|row| row.map(|(_, standing)| standing)).collect::<rusqlite::Result<_>>().named("standings_with_status")
}

/// Whom a list is to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listed<'a> {
    pub status: Option<Status>,
    pub home: Option<&'a str>,
    /// Part of the DN, the address, or a value of one of `attributes`, in any case.
    pub search: Option<&'a str>,
    pub attributes: &'a [&'a str],
}

/// Standings by row id behind `after` that are to be listed. A search is a scan: one person asks.
pub fn standings_listed(
    db: &Connection,
    after: i64,
    listed: &Listed<'_>,
    limit: usize,
) -> Result<Vec<(i64, Standing)>> {
    let attributes = serde_json::to_string(listed.attributes)
        .map_err(|error| StoreError::BadRow { what: "attribute names", problem: error.to_string() })?;
    let sql = format!(
        "select {STANDING} from standing where id > ?1 and (?3 is null or status = ?3)
         and (?4 is null or home = ?4 collate nocase)
         and (?5 is null or instr(address, lower(?5)) > 0 or instr(lower(record ->> '$.dn'), lower(?5)) > 0 or exists (
             select 1 from json_each(?6) name, json_each(standing.record, '$.a.\"' || name.value || '\"') value
             where instr(lower(value.value), lower(?5)) > 0))
         order by id limit ?2"
    );
    let mut statement = db.prepare_cached(&sql).named("standings_listed")?;
    let status = listed.status.map(Status::as_str);
    let arguments = params![after, limit as i64, status, listed.home, listed.search, attributes];
    let rows = statement.query_map(arguments, standing_of).named("standings_listed")?;
    rows.collect::<rusqlite::Result<_>>().named("standings_listed")
}

/// Users who hold a place, by home and status.
pub fn home_status_counts(db: &Connection) -> Result<Vec<(String, Status, u64)>> {
    let mut statement = db
        .prepare_cached("select home, status, count(*) from standing where home is not null group by home, status")
        .named("home_status_counts")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)? as u64)))
        .named("home_status_counts")?;
    let rows = rows.collect::<rusqlite::Result<Vec<(String, String, u64)>>>().named("home_status_counts")?;
    Ok(rows.into_iter().filter_map(|(home, status, n)| Some((home, Status::parse(&status)?, n))).collect())
}

/// By DN (normalized), or a value of one of the attributes, in any case. A scan: one person asks.
pub fn find_standings(
    db: &Connection,
    text: &str,
    dn_norm: &str,
    attributes: &[&str],
    limit: usize,
) -> Result<Vec<Standing>> {
    if text.contains('=') {
        let mut statement = db.prepare_cached("select id, record ->> '$.dn' from standing").named("find_standings")?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?)))
            .named("find_standings")?;
        let mut found = Vec::new();
        for row in rows {
            let (id, dn) = row.named("find_standings")?;
            if found.len() < limit && dn.is_some_and(|dn| normalized_dn(&dn) == dn_norm) {
                found.extend(standing_at(db, id)?);
            }
        }
        return Ok(found);
    }
    let attributes = serde_json::to_string(attributes)
        .map_err(|error| StoreError::BadRow { what: "attribute names", problem: error.to_string() })?;
    let sql = format!(
        "select {STANDING} from standing where exists (
             select 1 from json_each(?2) name, json_each(standing.record, '$.a.\"' || name.value || '\"') value
             where lower(value.value) = lower(?1)) order by id limit ?3"
    );
    let mut statement = db.prepare_cached(&sql).named("find_standings")?;
    let rows = statement.query_map(params![text, attributes, limit as i64], standing_of).named("find_standings")?;
    rows.map(|row| row.map(|(_, standing)| standing)).collect::<rusqlite::Result<_>>().named("find_standings")
}

/// Writes a standing: `id` is its row, `None` for a new one.
pub fn put_standing(db: &Connection, id: Option<i64>, standing: &Standing) -> Result<i64> {
    put_standing_with(db, id, standing, None)
}

/// The same; `record`: the standing's record as JSON, where that is at hand.
pub fn put_standing_with(db: &Connection, id: Option<i64>, standing: &Standing, record: Option<String>) -> Result<i64> {
    let detail = serde_json::to_string(&Detail {
        first_seen: standing.first_seen,
        heard_at: standing.heard_at,
        presence: standing.presence,
        reserved: standing.reserved.clone(),
        released_at: standing.released_at,
        leaving: standing.leaving.clone(),
        applied: standing.applied.clone(),
        previous: standing.previous.clone(),
        digest: standing.digest,
        reset_asked_for: standing.reset_asked_for.clone(),
        reset_since: standing.reset_since,
        rule: standing.rule.clone(),
        wishes: standing.wishes.clone(),
        approved: standing.approved.clone(),
        told_enabled: standing.told_enabled,
        told: standing.told.clone(),
        told_digest: standing.told_digest,
    })
    .map_err(|error| StoreError::BadRow { what: "standing", problem: error.to_string() })?;
    let record = match record {
        Some(record) => record,
        None => serde_json::to_string(&standing.record)
            .map_err(|error| StoreError::BadRow { what: "record", problem: error.to_string() })?,
    };
    let address = standing.reserved.as_ref().map(|assignment| assignment.address.as_str());
    let home = standing.holds().map(|assignment| assignment.home.0.as_str());
    let (version, seq) = (standing.version as i64, standing.sequence.seq as i64);
    let (key, epoch) = (&standing.key.0[..], standing.sequence.epoch as i64);
    // ?2 to ?12 are the same in both statements; ?1 says who.
    let mut values: [&dyn ToSql; 12] = [
        &key,
        &version,
        &epoch,
        &seq,
        &standing.status.as_str(),
        &address,
        &home,
        &standing.waiting_on,
        &standing.mail_domain,
        &standing.updated_at.0,
        &detail,
        &record,
    ];
    match &id {
        None => db
            .prepare_cached(
                "insert into standing (key, version, epoch, seq, status, address, home, waiting_on, mail_domain, updated_at,
                 detail, record) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )
            .and_then(|mut statement| statement.insert(&values[..]))
            .named("put_standing"),
        Some(id) => {
            values[0] = id;
            db.prepare_cached(
                "update standing set version = ?2, epoch = ?3, seq = ?4, status = ?5, address = ?6, home = ?7, waiting_on = ?8,
                 mail_domain = ?9, updated_at = ?10, detail = ?11, record = ?12 where id = ?1",
            )
            .and_then(|mut statement| statement.execute(&values[..]))
            .named("put_standing")
            .map(|_| *id)
        }
    }
}

/// Users by status.
pub fn status_counts(db: &Connection) -> Result<Vec<(Status, u64)>> {
    let mut statement =
        db.prepare_cached("select status, count(*) from standing group by status").named("status_counts")?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? as u64)))
        .named("status_counts")?;
    let counts = rows.collect::<rusqlite::Result<Vec<_>>>().named("status_counts")?;
    Ok(counts.into_iter().filter_map(|(status, count)| Some((Status::parse(&status)?, count))).collect())
}

/// Users who hold a place now.
pub fn enabled_count(db: &Connection) -> Result<u64> {
    db.prepare_cached("select coalesce(sum(assigned), 0) from home")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .named("enabled_count")
        .map(|count| count as u64)
}

pub fn standing_count(db: &Connection) -> Result<u64> {
    db.query_row("select count(*) from standing", [], |row| row.get::<_, i64>(0))
        .named("standing_count")
        .map(|n| n as u64)
}

// --- homes -----------------------------------------------------------------------------------------------------------

/// What the store knows of a home beside its configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HomeRow {
    pub id: String,
    pub wish: AdminState,
    pub assigned: u32,
    pub online: Option<(u32, u32, Timestamp)>,
    pub health: Option<(Health, Timestamp)>,
    pub health_why: Option<String>,
    /// As last configured; kept while users live at a home that no longer is.
    pub config: Option<Home>,
}

pub fn homes(db: &Connection) -> Result<Vec<HomeRow>> {
    let mut statement = db
        .prepare_cached(
            "select id, wish, assigned, online_users, online_assigned, online_at, health, health_at, health_why, config from home
             order by id",
        )
        .named("homes")?;
    let rows = statement
        .query_map([], |row| {
            let wish: String = row.get(1)?;
            let health: Option<String> = row.get(6)?;
            let online =
                match (row.get::<_, Option<u32>>(3)?, row.get::<_, Option<u32>>(4)?, row.get::<_, Option<i64>>(5)?) {
                    (Some(users), Some(assigned), Some(at)) => Some((users, assigned, Timestamp(at))),
                    _ => None,
                };
            let health_at: Option<i64> = row.get(7)?;
            Ok(HomeRow {
                id: row.get(0)?,
                wish: admin_state_of(&wish),
                assigned: row.get::<_, i64>(2)?.clamp(0, i64::from(u32::MAX)) as u32,
                online,
                health: health.zip(health_at).map(|(health, at)| (health_of(&health), Timestamp(at))),
                health_why: row.get(8)?,
                config: row.get::<_, Option<String>>(9)?.and_then(|text| serde_json::from_str(&text).ok()),
            })
        })
        .named("homes")?;
    rows.collect::<rusqlite::Result<_>>().named("homes")
}

fn admin_state_of(text: &str) -> AdminState {
    match text {
        "cordoned" => AdminState::Cordoned,
        "draining" => AdminState::Draining,
        _ => AdminState::Active,
    }
}

pub fn admin_state_text(state: AdminState) -> &'static str {
    match state {
        AdminState::Active => "active",
        AdminState::Cordoned => "cordoned",
        AdminState::Draining => "draining",
    }
}

fn health_of(text: &str) -> Health {
    match text {
        "up" => Health::Up,
        "down" => Health::Down,
        _ => Health::Unknown,
    }
}

/// A home as configured now: added, or renewed.
pub fn put_home(db: &Connection, home: &Home) -> Result<()> {
    let config =
        serde_json::to_string(home).map_err(|e| StoreError::BadRow { what: "home", problem: e.to_string() })?;
    db.execute(
        "insert into home (id, config) values (?1, ?2) on conflict (id) do update set config = excluded.config",
        params![home.id.0, config],
    )
    .named("put_home")
    .map(drop)
}

pub fn set_home_wish(db: &Connection, id: &str, wish: AdminState) -> Result<()> {
    db.execute("update home set wish = ?2 where id = ?1", params![id, admin_state_text(wish)])
        .named("set_home_wish")
        .map(drop)
}

pub fn set_home_assigned(db: &Connection, id: &str, assigned: u32) -> Result<()> {
    db.prepare_cached("update home set assigned = ?2 where id = ?1")
        .and_then(|mut statement| statement.execute(params![id, assigned]))
        .named("set_home_assigned")
        .map(drop)
}

pub fn set_home_online(db: &Connection, id: &str, users: u32, at: Timestamp) -> Result<()> {
    db.execute(
        "update home set online_users = ?2, online_assigned = assigned, online_at = ?3 where id = ?1",
        params![id, users, at.0],
    )
    .named("set_home_online")
    .map(drop)
}

pub fn set_home_health(db: &Connection, id: &str, up: bool, why: Option<&str>, at: Timestamp) -> Result<()> {
    db.execute(
        "update home set health = ?2, health_at = ?3, health_why = ?4 where id = ?1",
        params![id, if up { "up" } else { "down" }, at.0, why],
    )
    .named("set_home_health")
    .map(drop)
}

/// Homes that nobody lives at and the configuration does not name are forgotten.
pub fn remove_empty_home(db: &Connection, id: &str) -> Result<()> {
    db.execute("delete from home where id = ?1 and assigned = 0", [id]).named("remove_empty_home").map(drop)
}

// --- intents ---------------------------------------------------------------------------------------------------------

/// New accounts first, bulk last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    New = 0,
    Change = 1,
    Bulk = 2,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    pub key: UserKey,
    pub class: Class,
    pub attempts: u32,
}

/// Adds or renews; the more urgent class and the earlier time win, attempts start anew.
pub fn put_intent(db: &Connection, key: &UserKey, class: Class, at: Timestamp) -> Result<()> {
    db.prepare_cached(
        "insert into intent (key, class, at) values (?1, ?2, ?3) on conflict (key) do update
         set class = min(class, excluded.class), at = excluded.at, attempts = 0",
    )
    .and_then(|mut statement| statement.execute(params![&key.0[..], class as i64, at.0]))
    .named("put_intent")
    .map(drop)
}

pub fn postpone_intent(db: &Connection, key: &UserKey, attempts: u32, at: Timestamp) -> Result<()> {
    db.prepare_cached("update intent set attempts = ?2, at = ?3 where key = ?1")
        .and_then(|mut statement| statement.execute(params![&key.0[..], attempts, at.0]))
        .named("postpone_intent")
        .map(drop)
}

pub fn delete_intent(db: &Connection, key: &UserKey) -> Result<bool> {
    db.prepare_cached("delete from intent where key = ?1")
        .and_then(|mut statement| statement.execute([&key.0[..]]))
        .named("delete_intent")
        .map(|rows| rows > 0)
}

pub fn intent(db: &Connection, key: &UserKey) -> Result<Option<Intent>> {
    let class_of = |class: i64| match class {
        0 => Class::New,
        1 => Class::Change,
        _ => Class::Bulk,
    };
    db.prepare_cached("select class, attempts from intent where key = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([&key.0[..]], |row| {
                    Ok(Intent { key: *key, class: class_of(row.get(0)?), attempts: row.get(1)? })
                })
                .optional()
        })
        .named("intent")
}

/// Intents that may run now, most urgent first; the caller leaves out those in flight.
pub fn ready_intents(db: &Connection, now: Timestamp, limit: usize) -> Result<Vec<Intent>> {
    let mut ready = Vec::new();
    for class in [Class::New, Class::Change, Class::Bulk] {
        if ready.len() >= limit {
            break;
        }
        let mut statement = db
            .prepare_cached("select key, attempts from intent where class = ?1 and at <= ?2 order by at limit ?3")
            .named("ready_intents")?;
        let rows = statement
            .query_map(params![class as i64, now.0, (limit - ready.len()) as i64], |row| {
                Ok(UserKey::from_bytes(row.get_ref(0)?.as_blob()?).map(|key| (key, row.get(1))))
            })
            .named("ready_intents")?;
        for row in rows {
            if let Some((key, attempts)) = row.named("ready_intents")? {
                ready.push(Intent { key, class, attempts: attempts.named("ready_intents")? });
            }
        }
    }
    Ok(ready)
}

/// The clock went back: what waited for no time but now, or for no longer than `pause_most`, does not wait for a time that is
/// far again. What is to happen on a date keeps it.
pub fn pull_back(db: &Connection, now: Timestamp, pause_most: Duration) -> Result<()> {
    let run = |sql: &str, late: Timestamp| {
        db.prepare_cached(sql).and_then(|mut statement| statement.execute([now.0, late.0])).named("pull_back").map(drop)
    };
    run("update intent set at = ?1 where at > ?2 or (attempts = 0 and at > ?1)", now.plus(pause_most))?;
    run("update due set at = ?1 where why = 'written' and at > ?2", now)?;
    run("update held set since = ?1 where tripped = 0 and since > ?2", now)
}

pub fn intent_count(db: &Connection) -> Result<u64> {
    db.prepare_cached("select count(*) from intent")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .named("intent_count")
        .map(|count| count as u64)
}

/// When the next intent or due row comes up.
pub fn next_time(db: &Connection) -> Result<Option<Timestamp>> {
    db.prepare_cached(
        "select min(at) from (select min(at) as at from due union all select min(at) from intent where class = 0
         union all select min(at) from intent where class = 1 union all select min(at) from intent where class = 2)",
    )
    .and_then(|mut statement| statement.query_row([], |row| row.get::<_, Option<i64>>(0)))
    .named("next_time")
    .map(|at| at.map(Timestamp))
}

// --- due and recheck -------------------------------------------------------------------------------------------------

/// Look at this user again at this time; one row for each reason.
pub fn put_due(db: &Connection, key: &UserKey, at: Timestamp, why: &str) -> Result<()> {
    db.prepare_cached(
        "insert into due (key, why, at) values (?1, ?2, ?3) on conflict (key, why) do update set at = excluded.at",
    )
    .and_then(|mut statement| statement.execute(params![&key.0[..], why, at.0]))
    .named("put_due")
    .map(drop)
}

pub fn delete_due(db: &Connection, key: &UserKey) -> Result<()> {
    db.prepare_cached("delete from due where key = ?1")
        .and_then(|mut statement| statement.execute([&key.0[..]]))
        .named("delete_due")
        .map(drop)
}

/// True: there was one.
pub fn delete_due_why(db: &Connection, key: &UserKey, why: &str) -> Result<bool> {
    db.prepare_cached("delete from due where key = ?1 and why = ?2")
        .and_then(|mut statement| statement.execute(params![&key.0[..], why]))
        .named("delete_due_why")
        .map(|rows| rows > 0)
}

pub fn due_now(db: &Connection, now: Timestamp, limit: usize) -> Result<Vec<UserKey>> {
    let mut statement =
        db.prepare_cached("select distinct key from due where at <= ?1 order by at limit ?2").named("due_now")?;
    let rows = statement
        .query_map(params![now.0, limit as i64], |row| Ok(UserKey::from_bytes(row.get_ref(0)?.as_blob()?)))
        .named("due_now")?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>().named("due_now")?.into_iter().flatten().collect())
}

/// Which standings a changed fact concerns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum About {
    Everyone,
    /// Those who wait on this (`room`).
    Waiting(String),
    /// Those who live at this home.
    Home(String),
    /// Those whose decision rested on this e-mail domain's SRV answer.
    Domain(String),
    /// Those with this status.
    Status(Status),
}

impl About {
    fn text(&self) -> String {
        match self {
            About::Everyone => "everyone".into(),
            About::Waiting(on) => format!("waiting:{on}"),
            About::Home(id) => format!("home:{id}"),
            About::Domain(domain) => format!("domain:{domain}"),
            About::Status(status) => format!("status:{status}"),
        }
    }

    fn parse(text: &str) -> Option<About> {
        match text.split_once(':') {
            None if text == "everyone" => Some(About::Everyone),
            Some(("waiting", on)) => Some(About::Waiting(on.into())),
            Some(("home", id)) => Some(About::Home(id.into())),
            Some(("domain", domain)) => Some(About::Domain(domain.into())),
            Some(("status", status)) => Status::parse(status).map(About::Status),
            _ => None,
        }
    }
}

/// Adds a recheck that begins at the beginning; one that has not begun yet is not added twice.
pub fn put_recheck(db: &Connection, about: &About) -> Result<()> {
    let text = about.text();
    db.prepare_cached(
        "insert into recheck (about) select ?1 where not exists (select 1 from recheck where about = ?1 and after = 0)",
    )
    .and_then(|mut statement| statement.execute([&text]))
    .named("put_recheck")
    .map(drop)
}

/// The next chunk of the oldest recheck; a finished one is deleted. `None`: there is no recheck.
pub fn take_recheck_chunk(db: &Connection, limit: usize) -> Result<Option<Vec<(i64, Standing)>>> {
    let first: Option<(i64, String, i64)> = db
        .prepare_cached("select id, about, after from recheck order by id limit 1")
        .and_then(|mut s| s.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional())
        .named("take_recheck_chunk")?;
    let Some((id, about, after)) = first else { return Ok(None) };
    let (condition, argument) = match About::parse(&about) {
        None | Some(About::Everyone) => ("?3 = ''", String::new()),
        Some(About::Waiting(on)) => ("waiting_on = ?3", on),
        Some(About::Home(home)) => ("home = ?3", home),
        Some(About::Domain(domain)) => ("mail_domain = ?3", domain),
        Some(About::Status(status)) => ("status = ?3", status.as_str().to_owned()),
    };
    let sql = format!("select {STANDING} from standing where id > ?1 and {condition} order by id limit ?2");
    let chunk: Vec<(i64, Standing)> = {
        let mut statement = db.prepare_cached(&sql).named("take_recheck_chunk")?;
        let rows =
            statement.query_map(params![after, limit as i64, argument], standing_of).named("take_recheck_chunk")?;
        rows.collect::<rusqlite::Result<_>>().named("take_recheck_chunk")?
    };
    match chunk.last() {
        Some((last, _)) if chunk.len() == limit => {
            db.execute("update recheck set after = ?2 where id = ?1", params![id, last]).named("take_recheck_chunk")?
        }
        _ => db.execute("delete from recheck where id = ?1", [id]).named("take_recheck_chunk")?,
    };
    Ok(Some(chunk))
}

pub fn recheck_count(db: &Connection) -> Result<u64> {
    db.prepare_cached("select count(*) from recheck")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .named("recheck_count")
        .map(|count| count as u64)
}

// --- the guard's books -----------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    pub key: UserKey,
    pub kind: String,
    pub fingerprint: String,
    pub since: Timestamp,
    pub tripped: bool,
}

/// Holds a guarded change; one held already with the same fingerprint stays as it is.
pub fn put_held(db: &Connection, held: &Held) -> Result<()> {
    db.prepare_cached(
        "insert into held values (?1, ?2, ?3, ?4, ?5) on conflict (key) do update
         set kind = excluded.kind, fingerprint = excluded.fingerprint, since = excluded.since, tripped = excluded.tripped
         where fingerprint <> excluded.fingerprint",
    )
    .and_then(|mut statement| {
        statement.execute(params![&held.key.0[..], held.kind, held.fingerprint, held.since.0, held.tripped])
    })
    .named("put_held")
    .map(drop)
}

pub fn delete_held(db: &Connection, key: &UserKey) -> Result<()> {
    db.prepare_cached("delete from held where key = ?1")
        .and_then(|mut statement| statement.execute([&key.0[..]]))
        .named("delete_held")
        .map(drop)
}

pub fn held(db: &Connection, tripped: bool) -> Result<Vec<Held>> {
    let mut statement = db
        .prepare_cached("select key, kind, fingerprint, since, tripped from held where tripped = ?1 order by key")
        .named("held")?;
    let rows = statement
        .query_map([tripped], |row| {
            Ok(UserKey::from_bytes(row.get_ref(0)?.as_blob()?)
                .map(|key| (key, row.get(1), row.get(2), row.get(3), row.get(4))))
        })
        .named("held")?;
    let mut all = Vec::new();
    for row in rows {
        if let Some((key, kind, fingerprint, since, tripped)) = row.named("held")? {
            all.push(Held {
                key,
                kind: kind.named("held")?,
                fingerprint: fingerprint.named("held")?,
                since: Timestamp(since.named("held")?),
                tripped: tripped.named("held")?,
            });
        }
    }
    Ok(all)
}

pub fn held_count(db: &Connection) -> Result<u64> {
    db.prepare_cached("select count(*) from held where tripped = 1")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .named("held_count")
        .map(|count| count as u64)
}

/// Number and oldest of the settling.
pub fn settling(db: &Connection) -> Result<(u64, Option<Timestamp>)> {
    db.prepare_cached("select count(*), min(since) from held where tripped = 0")
        .and_then(|mut s| {
            s.query_row([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Option<i64>>(1)?.map(Timestamp))))
        })
        .named("settling")
}

pub fn trip_settling(db: &Connection) -> Result<()> {
    db.execute("update held set tripped = 1 where tripped = 0", []).named("trip_settling").map(drop)
}

pub fn held_since(db: &Connection, since: Timestamp) -> Result<u64> {
    db.query_row("select count(*) from held where tripped = 1 and since >= ?1", [since.0], |row| row.get::<_, i64>(0))
        .named("held_since")
        .map(|count| count as u64)
}

pub fn put_passed(db: &Connection, at: Timestamp, key: &UserKey, kind: &str) -> Result<()> {
    db.prepare_cached("insert into passed values (?1, ?2, ?3)")
        .and_then(|mut statement| statement.execute(params![at.0, &key.0[..], kind]))
        .named("put_passed")
        .map(drop)
}

/// How many went through since then; older rows are forgotten.
pub fn passed_since(db: &Connection, since: Timestamp) -> Result<u64> {
    db.execute("delete from passed where at < ?1", [since.0]).named("passed_since")?;
    db.query_row("select count(*) from passed", [], |row| row.get::<_, i64>(0)).named("passed_since").map(|n| n as u64)
}

/// The same, for who only reads.
pub fn passed_count(db: &Connection, since: Timestamp) -> Result<u64> {
    db.query_row("select count(*) from passed where at >= ?1", [since.0], |row| row.get::<_, i64>(0))
        .named("passed_count")
        .map(|count| count as u64)
}

// --- problems --------------------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    pub id: i64,
    pub key: UserKey,
    pub code: String,
    pub text: String,
    pub hint: String,
    pub opened_at: Timestamp,
    pub seen_at: Timestamp,
    pub times: u32,
    pub dismissed: bool,
}

/// Opens or renews the problem of a user. `Some`: its id, because it is new, or another than before.
pub fn put_problem(
    db: &Connection,
    key: &UserKey,
    code: &str,
    text: &str,
    hint: &str,
    now: Timestamp,
) -> Result<Option<i64>> {
    let renewed = db
        .prepare_cached("update problem set seen_at = ?4, times = times + 1 where key = ?1 and code = ?2 and text = ?3")
        .and_then(|mut s| s.execute(params![&key.0[..], code, text, now.0]))
        .named("put_problem")?;
    if renewed > 0 {
        return Ok(None);
    }
    db.prepare_cached(
        "insert into problem (key, code, text, hint, opened_at, seen_at) values (?1, ?2, ?3, ?4, ?5, ?5)
         on conflict (key) do update set code = excluded.code, text = excluded.text, hint = excluded.hint,
         opened_at = excluded.opened_at, seen_at = excluded.seen_at, times = 1, dismissed = 0 returning id",
    )
    .and_then(|mut s| s.query_row(params![&key.0[..], code, text, hint, now.0], |row| row.get(0)))
    .named("put_problem")
    .map(Some)
}

/// Closes the problem of a user, if there is one, and says which it was.
pub fn close_problem(db: &Connection, key: &UserKey) -> Result<Option<i64>> {
    db.prepare_cached("delete from problem where key = ?1 returning id")
        .and_then(|mut s| s.query_row([&key.0[..]], |row| row.get(0)).optional())
        .named("close_problem")
}

fn problem_of(row: &Row<'_>) -> rusqlite::Result<Problem> {
    Ok(Problem {
        id: row.get(0)?,
        key: UserKey::from_bytes(row.get_ref(1)?.as_blob()?).unwrap_or(UserKey([0; 16])),
        code: row.get(2)?,
        text: row.get(3)?,
        hint: row.get(4)?,
        opened_at: Timestamp(row.get(5)?),
        seen_at: Timestamp(row.get(6)?),
        times: row.get(7)?,
        dismissed: row.get(8)?,
    })
}

const PROBLEM: &str = "id, key, code, text, hint, opened_at, seen_at, times, dismissed";

pub fn problems(db: &Connection, limit: usize) -> Result<Vec<Problem>> {
    problems_after(db, 0, limit)
}

/// Behind an id.
pub fn problems_after(db: &Connection, after: i64, limit: usize) -> Result<Vec<Problem>> {
    let sql = format!("select {PROBLEM} from problem where id > ?1 order by id limit ?2");
    let mut statement = db.prepare_cached(&sql).named("problems_after")?;
    let rows = statement.query_map(params![after, limit as i64], problem_of).named("problems_after")?;
    rows.collect::<rusqlite::Result<_>>().named("problems_after")
}

pub fn problem(db: &Connection, id: i64) -> Result<Option<Problem>> {
    db.query_row(&format!("select {PROBLEM} from problem where id = ?1"), [id], problem_of).optional().named("problem")
}

pub fn problem_of_user(db: &Connection, key: &UserKey) -> Result<Option<Problem>> {
    db.query_row(&format!("select {PROBLEM} from problem where key = ?1"), [&key.0[..]], problem_of)
        .optional()
        .named("problem_of_user")
}

pub fn dismiss_problem(db: &Connection, id: i64) -> Result<bool> {
    db.execute("update problem set dismissed = 1 where id = ?1", [id]).named("dismiss_problem").map(|rows| rows > 0)
}

/// Those that still want a person.
pub fn open_problem_count(db: &Connection) -> Result<u64> {
    db.query_row("select count(*) from problem where dismissed = 0", [], |row| row.get::<_, i64>(0))
        .named("open_problem_count")
        .map(|count| count as u64)
}

// --- outcomes --------------------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutcomeRow {
    pub seq: u64,
    pub key: UserKey,
    pub at: Timestamp,
    pub kind: String,
    pub data: String,
}

pub fn put_outcome(db: &Connection, key: &UserKey, at: Timestamp, kind: &str, data: &str) -> Result<u64> {
    db.prepare_cached("insert into outcome (key, at, kind, data) values (?1, ?2, ?3, ?4)")
        .and_then(|mut statement| statement.insert(params![&key.0[..], at.0, kind, data]))
        .named("put_outcome")
        .map(|seq| seq as u64)
}

fn outcome_of(row: &Row<'_>) -> rusqlite::Result<OutcomeRow> {
    Ok(OutcomeRow {
        seq: row.get::<_, i64>(0)? as u64,
        key: UserKey::from_bytes(row.get_ref(1)?.as_blob()?).unwrap_or(UserKey([0; 16])),
        at: Timestamp(row.get(2)?),
        kind: row.get(3)?,
        data: row.get(4)?,
    })
}

pub fn outcomes_after(db: &Connection, after: u64, limit: usize) -> Result<Vec<OutcomeRow>> {
    let mut statement = db
        .prepare_cached("select seq, key, at, kind, data from outcome where seq > ?1 order by seq limit ?2")
        .named("outcomes_after")?;
    let rows = statement.query_map(params![after as i64, limit as i64], outcome_of).named("outcomes_after")?;
    rows.collect::<rusqlite::Result<_>>().named("outcomes_after")
}

/// The last outcomes at or after a time, oldest first.
pub fn outcomes_since(db: &Connection, since: Timestamp, limit: usize) -> Result<Vec<OutcomeRow>> {
    let mut statement = db
        .prepare_cached("select seq, key, at, kind, data from outcome where at >= ?1 order by seq desc limit ?2")
        .named("outcomes_since")?;
    let rows = statement.query_map(params![since.0, limit as i64], outcome_of).named("outcomes_since")?;
    let mut outcomes: Vec<OutcomeRow> = rows.collect::<rusqlite::Result<_>>().named("outcomes_since")?;
    outcomes.reverse();
    Ok(outcomes)
}

/// An outcome without its data: for counting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutcomeMark {
    pub seq: u64,
    pub at: Timestamp,
    pub kind: String,
    /// From the change in the log to the outcome, in ms.
    pub took_ms: Option<u64>,
}

fn outcome_mark(row: &Row<'_>) -> rusqlite::Result<OutcomeMark> {
    Ok(OutcomeMark {
        seq: row.get::<_, i64>(0)? as u64,
        at: Timestamp(row.get(1)?),
        kind: row.get(2)?,
        took_ms: row.get::<_, Option<i64>>(3)?.map(|ms| ms.max(0) as u64),
    })
}

/// The newest outcomes at or after a time, newest first. Reads no older ones: outcomes are in the order of time.
pub fn outcome_marks_since(db: &Connection, since: Timestamp, limit: usize) -> Result<Vec<OutcomeMark>> {
    let mut statement = db
        .prepare_cached("select seq, at, kind, data ->> '$.took_ms' from outcome order by seq desc limit ?1")
        .named("outcome_marks_since")?;
    let rows = statement.query_map([limit as i64], outcome_mark).named("outcome_marks_since")?;
    rows.take_while(|row| row.as_ref().map_or(true, |mark| mark.at >= since))
        .collect::<rusqlite::Result<_>>()
        .named("outcome_marks_since")
}

/// The same behind a seq, oldest first.
pub fn outcome_marks_after(db: &Connection, after: u64, limit: usize) -> Result<Vec<OutcomeMark>> {
    let mut statement = db
        .prepare_cached("select seq, at, kind, data ->> '$.took_ms' from outcome where seq > ?1 order by seq limit ?2")
        .named("outcome_marks_after")?;
    let rows = statement.query_map(params![after as i64, limit as i64], outcome_mark).named("outcome_marks_after")?;
    rows.collect::<rusqlite::Result<_>>().named("outcome_marks_after")
}

/// Outcomes of two kinds by day (ms since 1970, UTC): day, how many of the first, how many of the second.
pub fn outcome_days(db: &Connection, first: &str, second: &str) -> Result<Vec<(Timestamp, u64, u64)>> {
    const DAY_MS: i64 = 86_400_000;
    let mut statement = db
        .prepare_cached(
            "select at / ?3, sum(kind = ?1), sum(kind = ?2) from outcome where kind in (?1, ?2) group by 1 order by 1",
        )
        .named("outcome_days")?;
    let rows = statement
        .query_map(params![first, second, DAY_MS], |row| {
            let (first, second): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok((Timestamp(row.get::<_, i64>(0)?.saturating_mul(DAY_MS)), first as u64, second as u64))
        })
        .named("outcome_days")?;
    rows.collect::<rusqlite::Result<_>>().named("outcome_days")
}

pub fn outcomes_of_user(db: &Connection, key: &UserKey, limit: usize) -> Result<Vec<OutcomeRow>> {
    let mut statement = db
        .prepare_cached("select seq, key, at, kind, data from outcome where key = ?1 order by seq limit ?2")
        .named("outcomes_of_user")?;
    let rows = statement.query_map(params![&key.0[..], limit as i64], outcome_of).named("outcomes_of_user")?;
    rows.collect::<rusqlite::Result<_>>().named("outcomes_of_user")
}

pub fn last_outcome_seq(db: &Connection) -> Result<u64> {
    db.query_row("select coalesce(max(seq), 0) from outcome", [], |row| row.get::<_, i64>(0))
        .named("last_outcome_seq")
        .map(|seq| seq as u64)
}

/// The newest outcomes, oldest first.
pub fn last_outcomes(db: &Connection, limit: usize) -> Result<Vec<OutcomeRow>> {
    outcomes_since(db, Timestamp(i64::MIN), limit)
}

/// Forgets outcomes older than the retention. Remembers up to where, so that a late reader is told.
pub fn purge_outcomes(db: &Connection, now: Timestamp, retention: Duration) -> Result<u64> {
    let before = now.minus(retention);
    let last: Option<i64> = db
        .query_row("select max(seq) from outcome where at < ?1", [before.0], |row| row.get(0))
        .named("purge_outcomes")?;
    let Some(last) = last else { return Ok(0) };
    set_meta(db, "outcomes_purged", &last.to_string())?;
    db.execute("delete from outcome where seq <= ?1", [last]).named("purge_outcomes").map(|rows| rows as u64)
}

// --- facts and SRV ---------------------------------------------------------------------------------------------------

/// Stores a fact. True: it has another value than before, and so a new generation.
pub fn put_fact(db: &Connection, name: &str, value: &str, now: Timestamp) -> Result<bool> {
    let known: Option<String> = fact(db, name)?.map(|(value, _)| value);
    if known.as_deref() == Some(value) {
        return Ok(false);
    }
    db.execute(
        "insert into fact values (?1, ?2, 1, ?3) on conflict (name) do update
         set value = excluded.value, generation = generation + 1, changed_at = excluded.changed_at",
        params![name, value, now.0],
    )
    .named("put_fact")?;
    Ok(true)
}

/// Value and time of the last change.
pub fn fact(db: &Connection, name: &str) -> Result<Option<(String, Timestamp)>> {
    db.prepare_cached("select value, changed_at from fact where name = ?1")
        .and_then(|mut s| s.query_row([name], |row| Ok((row.get(0)?, Timestamp(row.get(1)?)))).optional())
        .named("fact")
}

const SERVERS: &str = "servers";

/// The virtual server objects of the directory, as far as they are known; `None`: nobody has read them yet.
pub fn servers(db: &Connection) -> Result<Option<Vec<KnownServer>>> {
    let Some((text, _)) = fact(db, SERVERS)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| StoreError::BadRow { what: "servers", problem: error.to_string() })
}

pub fn put_servers(db: &Connection, servers: &[KnownServer], now: Timestamp) -> Result<bool> {
    let text = serde_json::to_string(servers)
        .map_err(|error| StoreError::BadRow { what: "servers", problem: error.to_string() })?;
    put_fact(db, SERVERS, &text, now)
}

pub fn srv_facts(db: &Connection) -> Result<Vec<SrvFact>> {
    let mut statement = db.prepare_cached("select fact from srv order by domain").named("srv_facts")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).named("srv_facts")?;
    let texts = rows.collect::<rusqlite::Result<Vec<_>>>().named("srv_facts")?;
    texts
        .iter()
        .map(|text| serde_json::from_str(text).map_err(|e| StoreError::BadRow { what: "srv", problem: e.to_string() }))
        .collect()
}

pub fn put_srv(db: &Connection, fact: &SrvFact) -> Result<()> {
    let text = serde_json::to_string(fact).map_err(|e| StoreError::BadRow { what: "srv", problem: e.to_string() })?;
    db.prepare_cached("insert into srv values (?1, ?2, ?3) on conflict (domain) do update set fact = excluded.fact, expires_at = excluded.expires_at")
        .and_then(|mut s| s.execute(params![fact.domain, text, fact.expires_at.0]))
        .named("put_srv")
        .map(drop)
}

// --- wishes and audit ------------------------------------------------------------------------------------------------

/// What an operator asks for. Written by the command line, taken by the worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Verb {
    MoveUser { key: UserKey, to: HomeId },
    Recheck { key: UserKey },
    Readdress { key: UserKey },
    Release { key: UserKey },
    Freeze { key: UserKey },
    Inherit { new: UserKey, old: UserKey },
    SetHome { id: HomeId, wish: AdminState },
    RetryProblem { id: i64 },
    DismissProblem { id: i64 },
    Approve { hash: String },
    Sweep,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WishRow {
    pub id: i64,
    pub at: Timestamp,
    pub who: String,
    pub verb: Verb,
}

pub fn put_wish(db: &Connection, at: Timestamp, who: &str, verb: &Verb) -> Result<i64> {
    let text = serde_json::to_string(verb).map_err(|e| StoreError::BadRow { what: "wish", problem: e.to_string() })?;
    db.execute("insert into wish (at, who, verb) values (?1, ?2, ?3)", params![at.0, who, text]).named("put_wish")?;
    Ok(db.last_insert_rowid())
}

/// All that were asked for and not taken, oldest first. An unreadable one is dropped into the audit.
pub fn wishes(db: &Connection) -> Result<Vec<WishRow>> {
    let mut statement = db.prepare_cached("select id, at, who, verb from wish order by id").named("wishes")?;
    let rows = statement
        .query_map([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
        })
        .named("wishes")?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>().named("wishes")?;
    let mut wishes = Vec::new();
    for (id, at, who, text) in rows {
        match serde_json::from_str(&text) {
            Ok(verb) => wishes.push(WishRow { id, at: Timestamp(at), who, verb }),
            Err(_) => finish_wish(db, id, Timestamp(at), &who, &text, "not understood")?,
        }
    }
    Ok(wishes)
}

/// Whether a wish was not taken yet.
pub fn wish_waits(db: &Connection, id: i64) -> Result<bool> {
    db.query_row("select exists (select 1 from wish where id = ?1)", [id], |row| row.get(0)).named("wish_waits")
}

/// Takes the wish away and leaves the audit row: who, when, what, and what came of it.
pub fn finish_wish(db: &Connection, id: i64, now: Timestamp, who: &str, verb: &str, result: &str) -> Result<()> {
    db.execute("delete from wish where id = ?1", [id]).named("finish_wish")?;
    db.execute("insert into audit (at, who, verb, result) values (?1, ?2, ?3, ?4)", params![now.0, who, verb, result])
        .named("finish_wish")
        .map(drop)
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AuditRow {
    pub id: i64,
    pub at: Timestamp,
    pub who: String,
    pub verb: String,
    pub result: String,
}

pub fn audit(db: &Connection, limit: usize) -> Result<Vec<AuditRow>> {
    let mut statement =
        db.prepare_cached("select id, at, who, verb, result from audit order by id desc limit ?1").named("audit")?;
    let rows = statement
        .query_map([limit as i64], |row| {
            Ok(AuditRow {
                id: row.get(0)?,
                at: Timestamp(row.get(1)?),
                who: row.get(2)?,
                verb: row.get(3)?,
                result: row.get(4)?,
            })
        })
        .named("audit")?;
    rows.collect::<rusqlite::Result<_>>().named("audit")
}

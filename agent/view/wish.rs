//! Leaving a wish for the worker, and what came of it. The worker alone changes standings.

use super::{Reader, ViewError};
use crate::model::Timestamp;
use crate::store::enablement::{self as db, Verb};
use crate::store::open;
use rusqlite::Connection;
use serde::Serialize;
use std::time::{Duration, Instant};

/// So long we wait for a running agent to take it.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Audit rows to look through for ours.
const AUDIT_ROWS: usize = 100;

/// What came of a wish.
#[derive(Clone, Debug, Serialize)]
pub struct Left {
    pub wish: i64,
    pub what: String,
    /// Null while it was not taken.
    pub result: Option<String>,
    /// An agent runs that takes it.
    #[serde(skip)]
    pub runs: bool,
}

/// Leaves it, and waits a moment for it to be taken where an agent runs. `who` stands in the audit.
pub fn leave(c: &Reader, who: &str, verb: &Verb, what: &str) -> Result<Left, ViewError> {
    let writer = c.enablement_writer()?;
    let audited = db::audit(&writer, 1)?.first().map_or(0, |row| row.id);
    let wish = db::put_wish(&writer, Timestamp::now(), who, verb)?;
    drop(writer);
    let runs = open::is_locked(c.state_dir());
    let result = if runs { taken(&c.enablement()?, wish, audited, who, verb)? } else { None };
    Ok(Left { wish, what: what.to_owned(), result, runs })
}

/// What the audit says came of it; `None` if it still waits after a moment.
fn taken(db: &Connection, id: i64, audited: i64, who: &str, verb: &Verb) -> Result<Option<String>, ViewError> {
    let started = Instant::now();
    let text = serde_json::to_string(verb).unwrap_or_default();
    loop {
        if !db::wish_waits(db, id)? {
            let ours = |row: &db::AuditRow| row.id > audited && row.who == who && row.verb == text;
            let rows = db::audit(db, AUDIT_ROWS)?;
            return Ok(Some(rows.into_iter().rfind(ours).map_or_else(String::new, |row| row.result)));
        }
        if started.elapsed() >= TAKEN_WITHIN {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

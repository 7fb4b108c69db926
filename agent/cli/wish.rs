//! Leaving a wish for the worker, and saying what came of it. The worker alone changes standings.

use super::context::Context;
use super::print::printable;
use super::{CliError, FINE};
use crate::model::Timestamp;
use crate::store::enablement::{self as db, Verb};
use crate::store::open;
use rusqlite::Connection;
use serde::Serialize;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

/// So long we wait for a running agent to take it.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Audit rows to look through for ours.
const AUDIT_ROWS: usize = 100;

/// What came of a wish.
#[derive(Serialize)]
struct Left<'a> {
    wish: i64,
    what: &'a str,
    /// Null while it was not taken.
    result: Option<String>,
}

/// Leaves it, waits a moment for it to be taken where an agent runs, and says so. `follow`: a login to watch.
pub fn leave(c: &mut Context, verb: Verb, what: &str, follow: Option<&str>) -> Result<u8, CliError> {
    let writer = c.enablement_writer()?;
    let who = who();
    let audited = db::audit(&writer, 1)?.first().map_or(0, |row| row.id);
    let id = db::put_wish(&writer, Timestamp::now(), &who, &verb)?;
    drop(writer);
    let runs = open::is_locked(c.state_dir());
    let result = if runs { taken(&c.enablement()?, id, audited, &who, &verb)? } else { None };
    if c.out.json {
        c.out.document(&Left { wish: id, what, result })?;
        return Ok(FINE);
    }
    c.out.line(format_args!("wish {id}: {}", printable(what)))?;
    match result {
        Some(result) => c.out.line(format_args!("taken: {}", printable(&result)))?,
        None if runs => c.out.line("the agent is busy and takes it next")?,
        None => c.out.line("it is taken when the agent runs: homeward run")?,
    }
    if let Some(login) = follow {
        c.out.line(format_args!("follow it: homeward tail -f --user {}", printable(login)))?;
    }
    Ok(FINE)
}

/// What the audit says came of it; `None` if it still waits after a moment.
fn taken(db: &Connection, id: i64, audited: i64, who: &str, verb: &Verb) -> Result<Option<String>, CliError> {
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

/// Who asks, for the audit: the name behind sudo, else the account's.
fn who() -> String {
    let name = |variable: &str| std::env::var(variable).ok().filter(|name| !name.is_empty());
    name("SUDO_USER").or_else(|| name("LOGNAME")).or_else(|| name("USER")).unwrap_or_else(|| {
        std::fs::metadata("/proc/self").map_or_else(|_| "unknown".into(), |own| format!("uid {}", own.uid()))
    })
}

//! `tail`: what became of users, a line each, from the store. Following survives restarts of the agent, and a store that
//! is not there yet.

use super::context::Context;
use super::print::{Colour, moment, or_dash, printable};
use super::{CliError, FINE, TailArgs};
use crate::model::{Outcome, OutcomeKind, UserKey};
use crate::store::enablement::{self as db, OutcomeRow};
use crate::store::open::{self, Kind};
use crate::view::ViewError;
use crate::view::user::OutcomeView;
use rusqlite::Connection;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// Shown where nobody says since when.
const LAST: usize = 50;
/// Outcomes read at once.
const CHUNK: usize = 1000;
/// The longest stretch shown by `--since`.
const SINCE_MAX: usize = 1_000_000;
/// A follower looks for news this often.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

pub fn tail(c: &mut Context, args: &TailArgs) -> Result<u8, CliError> {
    let mut db = match c.enablement() {
        Err(ViewError::NoStore(_)) if args.follow => wait_for_store(c)?,
        db => db?,
    };
    let user = args.user.as_ref().map(|text| c.user(&db, text)).transpose()?.map(|standing| standing.key);
    // Before anything is read: what comes meanwhile is told by following.
    let mut seen = db::last_outcome_seq(&db)?;
    let rows = match (args.since, user) {
        (Some(since), _) => db::outcomes_since(&db, since, SINCE_MAX)?,
        (None, Some(key)) => db::outcomes_of_user(&db, &key, SINCE_MAX)?,
        (None, None) if args.kind.is_some() => db::last_outcomes(&db, SINCE_MAX)?,
        (None, None) => db::last_outcomes(&db, LAST)?,
    };
    let rows: Vec<&OutcomeRow> = rows.iter().filter(|row| row.seq <= seen && wanted(row, user, args.kind)).collect();
    // Where a kind was asked for, the last of that kind.
    let skip = if args.since.is_none() && user.is_none() { rows.len().saturating_sub(LAST) } else { 0 };
    for row in rows.into_iter().skip(skip) {
        tell(c, row)?;
    }
    if !args.follow {
        return Ok(FINE);
    }
    c.out.flush()?;
    loop {
        let mark = Mark::of(c, &db);
        // A store that was put in place of the old one counts from the beginning.
        seen = seen.min(db::last_outcome_seq(&db)?);
        loop {
            let rows = db::outcomes_after(&db, seen, CHUNK)?;
            let Some(last) = rows.last() else { break };
            seen = last.seq;
            for row in rows.iter().filter(|row| wanted(row, user, args.kind)) {
                tell(c, row)?;
            }
            c.out.flush()?;
        }
        mark.wait(c, &mut db)?;
    }
}

fn wanted(row: &OutcomeRow, user: Option<UserKey>, kind: Option<OutcomeKind>) -> bool {
    user.is_none_or(|key| row.key == key) && kind.is_none_or(|kind| row.kind == kind.as_str())
}

/// Until the agent has made the store, with its tables.
pub fn wait_for_store(c: &mut Context) -> Result<Connection, CliError> {
    eprintln!("there is no store in {} yet; waiting for the agent", c.state_dir().display());
    while let None | Some(0) = open::version(Kind::Enablement, c.state_dir())? {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(c.enablement()?)
}

/// How the store was before its rows were read: taken first, so that no change is missed.
pub struct Mark {
    /// SQLite's: another connection committed when it changes.
    version: Option<i64>,
    inode: Option<u64>,
}

impl Mark {
    pub fn of(c: &Context, db: &Connection) -> Mark {
        let file = std::fs::metadata(Kind::Enablement.path(c.state_dir())).ok();
        let version = db.pragma_query_value(None, "data_version", |row| row.get(0)).ok();
        Mark { version, inode: file.map(|file| file.ino()) }
    }

    /// Waits until the store has other data; opens it again where the file was replaced.
    pub fn wait(&self, c: &mut Context, db: &mut Connection) -> Result<(), CliError> {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = Mark::of(c, db);
            if now.inode != self.inode {
                *db = wait_for_store(c)?;
                return Ok(());
            }
            if now.version != self.version {
                return Ok(());
            }
        }
    }
}

pub fn tell(c: &mut Context, row: &OutcomeRow) -> Result<(), CliError> {
    if c.out.json {
        return c.out.json_line(&OutcomeView::of(row));
    }
    show(c, row)
}

/// One outcome on one line: time, kind, login, address, home, took, why or what is to do.
pub fn show(c: &mut Context, row: &OutcomeRow) -> Result<(), CliError> {
    let Ok(outcome) = serde_json::from_str::<Outcome>(&row.data) else {
        return c.out.line(format_args!("{}  {}  {}", moment(row.at), printable(&row.kind), row.key));
    };
    let colour = match outcome.kind {
        OutcomeKind::Enabled | OutcomeKind::Adopted | OutcomeKind::Ready => Colour::Good,
        OutcomeKind::Moved | OutcomeKind::Disabled => Colour::Quiet,
        OutcomeKind::Waiting | OutcomeKind::PasswordResetRequired => Colour::Doubt,
        OutcomeKind::Problem => Colour::Bad,
    };
    let lives = outcome.assignment.as_ref();
    let home = match (&outcome.from, lives) {
        (Some(from), Some(lives)) => format!("{from} -> {}", lives.home),
        (_, lives) => or_dash(lives.map(|lives| lives.home.0.as_str())),
    };
    let took = outcome.took_ms.map_or("-".to_owned(), |ms| super::print::span(Duration::from_millis(ms)));
    let words: Vec<&str> =
        outcome.why.iter().chain(&outcome.todo).map(String::as_str).filter(|words| !words.is_empty()).collect();
    let line = format!(
        "{}  {}  {:<12}  {:<28}  {:<10}  {:>7}  {}",
        moment(row.at),
        c.out.paint(colour, &format!("{:<23}", outcome.kind.as_str())),
        printable(outcome.login.as_deref().unwrap_or("-")),
        printable(&or_dash(lives.map(|lives| lives.address.as_str()))),
        printable(&home),
        took,
        printable(&words.join("; ")),
    );
    c.out.line(line.trim_end())
}

//! What wants a person: problems, and the plan that the guard holds.

use super::{Reader, ViewError};
use crate::decide::{self, guard};
use crate::intake::Suspect;
use crate::model::{Timestamp, UserKey, Wanted};
use crate::store::enablement::{self as db, Held, Problem};
use rusqlite::Connection;
use serde::Serialize;

/// Problems listed at most.
pub const LIST_MAX: usize = 10_000;

/// What the guard holds, as other programs read it.
#[derive(Clone, Debug, Serialize)]
pub struct HeldPlan {
    pub hash: String,
    pub since: String,
    pub changes: Vec<HeldChange>,
    #[serde(skip)]
    pub since_at: Timestamp,
}

#[derive(Clone, Debug, Serialize)]
pub struct HeldChange {
    pub key: UserKey,
    pub login: String,
    pub kind: String,
    /// What it would change, as the approval names it.
    pub what: String,
}

/// The plan that the guard holds, if it holds one.
pub fn held_plan(c: &Reader, db: &Connection) -> Result<Option<HeldPlan>, ViewError> {
    let held = db::held(db, true)?;
    let Some(since) = held.iter().map(|row| row.since).min() else { return Ok(None) };
    let hash = guard::plan_hash(held.iter().map(|row| (&row.key, row.fingerprint.as_str())));
    let change = |row: &Held| -> Result<HeldChange, ViewError> {
        let login = c.login_of_key(db, &row.key)?;
        Ok(HeldChange { key: row.key, login, kind: row.kind.clone(), what: row.fingerprint.clone() })
    };
    let changes = held.iter().map(change).collect::<Result<_, _>>()?;
    Ok(Some(HeldPlan { hash, since: since.to_string(), changes, since_at: since }))
}

/// Absences that intake holds, if it holds any.
pub fn suspect(c: &Reader) -> Result<Option<Suspect>, ViewError> {
    Ok(match c.feed()? {
        Some(feed) => feed.status()?.suspect,
        None => None,
    })
}

/// A problem, and whose it is.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemRow {
    #[serde(flatten)]
    pub problem: Problem,
    pub login: String,
}

/// Problems behind an id, their hints with their number.
pub fn list(c: &Reader, db: &Connection, after: i64, limit: usize) -> Result<Vec<ProblemRow>, ViewError> {
    let row = |mut problem: Problem| {
        problem.hint = named(&problem.hint, problem.id);
        Ok(ProblemRow { login: c.login_of_key(db, &problem.key)?, problem })
    };
    db::problems_after(db, after, limit)?.into_iter().map(row).collect()
}

impl HeldChange {
    /// What it would change, in words.
    pub fn words(&self) -> String {
        let what = self.what.split_once(':').map_or("", |(_, what)| what).replace(':', " -> ");
        if self.kind == "readdress" { what } else { format!("from {what}") }
    }
}

/// A held change as a diff: what the user has, and what would be decided now.
#[derive(Clone, Debug, Serialize)]
pub struct HeldRow {
    pub key: UserKey,
    pub login: String,
    pub kind: String,
    pub before: String,
    pub after: String,
}

/// The first `most` changes of the held plan, decided as they would be now.
pub fn diff(c: &Reader, db: &Connection, plan: Option<&HeldPlan>, most: usize) -> Result<Vec<HeldRow>, ViewError> {
    let Some(plan) = plan else { return Ok(Vec::new()) };
    let world = c.world(db)?;
    let mut rows = Vec::new();
    for change in plan.changes.iter().take(most) {
        let Some((_, standing)) = db::standing(db, &change.key)? else { continue };
        let (decision, _) = decide::explain(&standing, &world, c.now);
        let before = standing.holds().map_or("nothing".into(), |lives| format!("{} at {}", lives.address, lives.home));
        let after = match decision.wanted {
            Wanted::Enabled { assignment, .. } => format!("{} at {}", assignment.address, assignment.home),
            Wanted::Released { why } => format!("released: {}", why.as_str()),
            Wanted::LeftAlone { why } => format!("left alone: {}", why.as_str()),
            Wanted::Wait { on } => on.to_string(),
            Wanted::Refused { why } => format!("problem: {why}"),
        };
        rows.push(HeldRow { key: change.key, login: change.login.clone(), kind: change.kind.clone(), before, after });
    }
    Ok(rows)
}

/// What `approve` takes now: each hash, and what it lets pass.
pub fn approvable(c: &Reader, db: &Connection) -> Result<Vec<(String, String)>, ViewError> {
    let plan = held_plan(c, db)?.map(|plan| (plan.hash, super::words::count(plan.changes.len() as u64, "held change")));
    let absent = suspect(c)?.map(|suspect| (suspect.hash, format!("{} absent users", suspect.count)));
    Ok(plan.into_iter().chain(absent).collect())
}

/// `12` or `P12`: the problem, and whose it is.
pub fn find(c: &Reader, id: &str) -> Result<(Problem, String), ViewError> {
    let unknown = || ViewError::NoSuchProblem(id.to_owned());
    let number = id.strip_prefix(['P', 'p']).unwrap_or(id).parse().map_err(|_| unknown())?;
    let db = c.enablement()?;
    let mut problem = db::problem(&db, number)?.ok_or_else(unknown)?;
    problem.hint = named(&problem.hint, problem.id);
    let login = c.login_of_key(&db, &problem.key)?;
    Ok((problem, login))
}

/// Hints are written before a problem has a number.
pub fn named(hint: &str, id: i64) -> String {
    hint.replace(" ID", &format!(" P{id}"))
}

//! `problem` and `approve`: what wants a person, and the plan that the guard holds.

use super::context::Context;
use super::print::{Table, count, moment, printable};
use super::{CliError, FINE, PROBLEMS, ProblemVerb, wish};
use crate::decide::guard;
use crate::intake::Suspect;
use crate::model::{Timestamp, UserKey};
use crate::store::enablement::{self as db, Held, Problem, Verb};
use rusqlite::Connection;
use serde::Serialize;

/// Problems listed at most.
const LIST_MAX: usize = 10_000;

/// What the guard holds, as other programs read it.
#[derive(Serialize)]
pub struct HeldPlan {
    pub hash: String,
    pub since: String,
    pub changes: Vec<HeldChange>,
    #[serde(skip)]
    since_at: Timestamp,
}

#[derive(Serialize)]
pub struct HeldChange {
    pub key: UserKey,
    pub login: String,
    pub kind: String,
    /// What it would change, as the approval names it.
    pub what: String,
}

/// The plan that the guard holds, if it holds one.
pub fn held_plan(c: &Context, db: &Connection) -> Result<Option<HeldPlan>, CliError> {
    let held = db::held(db, true)?;
    let Some(since) = held.iter().map(|row| row.since).min() else { return Ok(None) };
    let hash = guard::plan_hash(held.iter().map(|row| (&row.key, row.fingerprint.as_str())));
    let change = |row: &Held| -> Result<HeldChange, CliError> {
        let login = db::standing(db, &row.key)?.map_or_else(|| row.key.to_string(), |(_, s)| c.login_of(&s));
        Ok(HeldChange { key: row.key, login, kind: row.kind.clone(), what: row.fingerprint.clone() })
    };
    let changes = held.iter().map(change).collect::<Result<_, _>>()?;
    Ok(Some(HeldPlan { hash, since: since.to_string(), changes, since_at: since }))
}

/// Absences that intake holds, if it holds any.
pub fn suspect(c: &Context) -> Result<Option<Suspect>, CliError> {
    Ok(match c.feed()? {
        Some(feed) => feed.status()?.suspect,
        None => None,
    })
}

pub fn problem(c: &mut Context, verb: ProblemVerb) -> Result<u8, CliError> {
    match verb {
        ProblemVerb::List => list(c),
        ProblemVerb::Show { id } if id.eq_ignore_ascii_case("guard") => show_guard(c),
        ProblemVerb::Show { id } => show(c, &id),
        ProblemVerb::Retry { id } => {
            let (problem, _) = find(c, &id)?;
            wish::leave(c, Verb::RetryProblem { id: problem.id }, &format!("retry problem P{}", problem.id), None)
        }
        ProblemVerb::Dismiss { id } => {
            let (problem, _) = find(c, &id)?;
            wish::leave(c, Verb::DismissProblem { id: problem.id }, &format!("dismiss problem P{}", problem.id), None)
        }
    }
}

/// `12` or `P12`: the problem, and whose it is.
fn find(c: &Context, id: &str) -> Result<(Problem, String), CliError> {
    let unknown = || CliError::NoSuchProblem(id.to_owned());
    let number = id.strip_prefix(['P', 'p']).unwrap_or(id).parse().map_err(|_| unknown())?;
    let db = c.enablement()?;
    let mut problem = db::problem(&db, number)?.ok_or_else(unknown)?;
    problem.hint = named(&problem.hint, problem.id);
    let login = db::standing(&db, &problem.key)?.map_or_else(|| problem.key.to_string(), |(_, s)| c.login_of(&s));
    Ok((problem, login))
}

/// Hints are written before a problem has a number.
fn named(hint: &str, id: i64) -> String {
    hint.replace(" ID", &format!(" P{id}"))
}

fn list(c: &mut Context) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let problems = db::problems(&db, LIST_MAX)?;
    let code = if db::open_problem_count(&db)? > 0 { PROBLEMS } else { FINE };
    if c.out.json {
        c.out.document(&problems)?;
        return Ok(code);
    }
    let mut table = Table::new(["ID", "USER", "CODE", "SINCE", "TIMES", "WHAT"]);
    table.right(4);
    for problem in problems {
        let login = db::standing(&db, &problem.key)?.map_or_else(|| problem.key.to_string(), |(_, s)| c.login_of(&s));
        let text = if problem.dismissed { format!("(dismissed) {}", problem.text) } else { problem.text };
        let id = format!("P{}", problem.id);
        table.row([id, login, problem.code, moment(problem.opened_at), problem.times.to_string(), text]);
    }
    table.show(&mut c.out)?;
    if let Some(plan) = held_plan(c, &db)? {
        let held = count(plan.changes.len() as u64, "change");
        c.out.line(format_args!("the guard holds {held}: homeward problem show guard"))?;
    }
    Ok(code)
}

fn show(c: &mut Context, id: &str) -> Result<u8, CliError> {
    let (problem, login) = find(c, id)?;
    if c.out.json {
        c.out.document(&problem)?;
        return Ok(FINE);
    }
    c.out.line(format_args!("P{}  {}", problem.id, printable(&problem.code)))?;
    let seen = format!(
        "{} to {}, {}",
        moment(problem.opened_at),
        moment(problem.seen_at),
        count(problem.times.into(), "time")
    );
    let fields = [
        ("user", login),
        ("key", problem.key.to_string()),
        ("what", problem.text),
        ("to do", problem.hint),
        ("seen", seen),
        ("dismissed", if problem.dismissed { "yes" } else { "no" }.into()),
    ];
    for (name, value) in fields {
        c.out.line(format_args!("{name:<11}{}", printable(&value)))?;
    }
    Ok(FINE)
}

fn show_guard(c: &mut Context) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let plan = held_plan(c, &db)?;
    let suspect = suspect(c)?;
    if c.out.json {
        c.out.document(&serde_json::json!({ "held": plan, "suspect": suspect }))?;
        return Ok(FINE);
    }
    if plan.is_none() && suspect.is_none() {
        c.out.line("nothing is held")?;
    }
    if let Some(suspect) = suspect {
        c.out.line(format_args!(
            "{} of {} users are absent since {}; the guard allows {}. Nobody was told.",
            suspect.count,
            suspect.present,
            moment(suspect.since),
            suspect.limit
        ))?;
        c.out.line(format_args!("if they are gone indeed: homeward approve {}", suspect.hash))?;
    }
    if let Some(plan) = plan {
        let held = count(plan.changes.len() as u64, "change");
        c.out.line(format_args!("plan {}: {held} held since {}", plan.hash, moment(plan.since_at)))?;
        let mut table = Table::new(["LOGIN", "CHANGE", "WHAT", "KEY"]);
        for change in plan.changes {
            let what = change.what.split_once(':').map_or("", |(_, what)| what).replace(':', " -> ");
            let what = if change.kind == "readdress" { what } else { format!("from {what}") };
            table.row([change.login, change.kind, what, change.key.to_string()]);
        }
        table.show(&mut c.out)?;
        c.out.line(format_args!("to let exactly these pass: homeward approve {}", plan.hash))?;
    }
    Ok(FINE)
}

pub fn approve(c: &mut Context, hash: &str) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let plan = held_plan(c, &db)?.map(|plan| (plan.hash, count(plan.changes.len() as u64, "held change")));
    let absent = suspect(c)?.map(|suspect| (suspect.hash, format!("{} absent users", suspect.count)));
    drop(db);
    let known: Vec<(String, String)> = plan.into_iter().chain(absent).collect();
    let Some((hash, what)) = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(hash.trim())) else {
        let known = known.into_iter().map(|(hash, what)| format!("{hash} ({what})")).collect();
        return Err(CliError::NoSuchPlan { hash: hash.to_owned(), known });
    };
    wish::leave(c, Verb::Approve { hash: hash.clone() }, &format!("approve {hash}: {what}"), None)
}

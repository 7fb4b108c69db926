//! `problem` and `approve`: what wants a person, and the plan that the guard holds.

use super::context::Context;
use super::print::{Table, count, moment, printable};
use super::{CliError, FINE, PROBLEMS, ProblemVerb, wish};
use crate::store::enablement::{self as db, Verb};
use crate::view::problem::{LIST_MAX, approvable, find, held_plan, suspect};
use crate::view::{self, ViewError};

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

fn list(c: &mut Context) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let problems = view::problem::list(c, &db, 0, LIST_MAX)?;
    let code = if db::open_problem_count(&db)? > 0 { PROBLEMS } else { FINE };
    if c.out.json {
        c.out.document(&problems)?;
        return Ok(code);
    }
    let mut table = Table::new(["ID", "USER", "CODE", "SINCE", "TIMES", "WHAT"]);
    table.right(4);
    for view::problem::ProblemRow { problem, login } in problems {
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
            let what = change.words();
            table.row([change.login, change.kind, what, change.key.to_string()]);
        }
        table.show(&mut c.out)?;
        c.out.line(format_args!("to let exactly these pass: homeward approve {}", plan.hash))?;
    }
    Ok(FINE)
}

pub fn approve(c: &mut Context, hash: &str) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let known = approvable(c, &db)?;
    drop(db);
    let Some((hash, what)) = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(hash.trim())) else {
        let known = known.into_iter().map(|(hash, what)| format!("{hash} ({what})")).collect();
        return Err(ViewError::NoSuchPlan { hash: hash.to_owned(), known }.into());
    };
    wish::leave(c, Verb::Approve { hash: hash.clone() }, &format!("approve {hash}: {what}"), None)
}

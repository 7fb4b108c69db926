//! `user`: list, show, explain, history, and the wishes about one user.

use super::context::{Context, each_standing};
use super::print::{Table, moment, or_dash, printable, span};
use super::{CliError, FINE, UserVerb, tail, wish};
use crate::decide::explain::Step;
use crate::decide::{self, World, ownership};
use crate::model::*;
use crate::store::enablement::{self as db, Verb};
use rusqlite::Connection;
use serde::Serialize;

/// Outcomes of one user that `history` shows.
const HISTORY_MAX: usize = 1000;
/// The newest lines of `history` that `show` repeats.
const SHOWN_OUTCOMES: usize = 3;

/// A user as other programs read it; the fields are stable.
#[derive(Serialize)]
pub struct UserView {
    pub key: UserKey,
    pub login: Option<String>,
    pub dn: String,
    pub mail: Option<String>,
    pub status: Status,
    pub home: Option<HomeId>,
    pub im_domain: Option<String>,
    pub im_address: Option<String>,
    /// What the directory holds.
    pub im_url: Option<String>,
    pub home_url: Option<String>,
    pub digest: DigestReadiness,
    pub rule: Option<String>,
    pub waiting_on: Option<String>,
    pub problem: Option<ProblemView>,
    pub sequence: String,
    pub updated_at: String,
}

#[derive(Serialize)]
pub struct ProblemView {
    pub id: i64,
    pub code: String,
    pub text: String,
    pub hint: String,
    pub opened_at: String,
}

impl UserView {
    pub fn of(c: &Context, db: &Connection, standing: &Standing) -> Result<UserView, CliError> {
        let lives = standing.holds();
        let problem = db::problem_of_user(db, &standing.key)?.map(|problem| ProblemView {
            hint: problem.hint.replace(" ID", &format!(" P{}", problem.id)),
            id: problem.id,
            code: problem.code,
            text: problem.text,
            opened_at: problem.opened_at.to_string(),
        });
        Ok(UserView {
            key: standing.key,
            login: standing.record.text(c.login()).map(str::to_owned),
            dn: standing.record.dn.clone(),
            mail: standing.record.text(c.mail()).map(str::to_owned),
            status: standing.status,
            home: lives.map(|lives| lives.home.clone()),
            im_domain: lives.map(|lives| lives.im_domain.clone()),
            im_address: lives.map(|lives| lives.address.clone()),
            im_url: standing.applied.url.clone(),
            home_url: standing.applied.home_url.clone(),
            digest: standing.digest,
            rule: standing.rule.clone(),
            waiting_on: standing.waiting_on.clone(),
            problem,
            sequence: standing.sequence.to_string(),
            updated_at: standing.updated_at.to_string(),
        })
    }
}

pub fn user(c: &mut Context, verb: UserVerb) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let wish = |key: UserKey, make: fn(UserKey) -> Verb| make(key);
    let (text, make, what): (&str, fn(UserKey) -> Verb, &str) = match &verb {
        UserVerb::List { status, home } => return list(c, &db, *status, home.as_deref()),
        UserVerb::Show { user } => return show(c, &db, user),
        UserVerb::Explain { user } => return explain(c, &db, user),
        UserVerb::History { user } => return history(c, &db, user),
        UserVerb::Move { user, to } => {
            let to = c.home(&db, to)?;
            let standing = c.user(&db, user)?;
            let login = c.login_of(&standing);
            let what = format!("move {login} to {to}");
            return wish::leave(c, Verb::MoveUser { key: standing.key, to }, &what, Some(&login));
        }
        UserVerb::Inherit { new, old } => {
            let (new, old) = (c.user(&db, new)?, c.user(&db, old)?);
            let login = c.login_of(&new);
            let what = format!("let {login} inherit from {}", old.key);
            return wish::leave(c, Verb::Inherit { new: new.key, old: old.key }, &what, Some(&login));
        }
        UserVerb::Recheck { user } => (user, |key| Verb::Recheck { key }, "look again at"),
        UserVerb::Readdress { user } => (user, |key| Verb::Readdress { key }, "work out the address anew of"),
        UserVerb::Release { user } => (user, |key| Verb::Release { key }, "release"),
        UserVerb::Freeze { user } => (user, |key| Verb::Freeze { key }, "freeze"),
    };
    let standing = c.user(&db, text)?;
    let login = c.login_of(&standing);
    wish::leave(c, wish(standing.key, make), &format!("{what} {login}"), Some(&login))
}

fn list(c: &mut Context, db: &Connection, status: Option<Status>, home: Option<&str>) -> Result<u8, CliError> {
    let wanted = |standing: &Standing| {
        status.is_none_or(|status| standing.status == status)
            && home.is_none_or(|home| standing.holds().is_some_and(|lives| lives.home.0.eq_ignore_ascii_case(home)))
    };
    if c.out.json {
        // One document a line: a million users are no array.
        return each_standing(db, |standing| {
            if wanted(&standing) {
                let view = UserView::of(c, db, &standing)?;
                c.out.json_line(&view)?;
            }
            Ok(())
        })
        .map(|()| FINE);
    }
    let mut table = Table::new(["LOGIN", "STATUS", "HOME", "ADDRESS", "DN"]);
    each_standing(db, |standing| {
        if wanted(&standing) {
            let lives = standing.holds();
            table.row([
                c.login_of(&standing),
                standing.status.to_string(),
                or_dash(lives.map(|lives| lives.home.0.as_str())),
                or_dash(lives.map(|lives| lives.address.as_str())),
                standing.record.dn,
            ]);
        }
        Ok(())
    })?;
    table.show(&mut c.out)?;
    Ok(FINE)
}

fn show(c: &mut Context, db: &Connection, text: &str) -> Result<u8, CliError> {
    let standing = c.user(db, text)?;
    let view = UserView::of(c, db, &standing)?;
    if c.out.json {
        c.out.document(&view)?;
        return Ok(FINE);
    }
    let mut field = |name: &str, value: Option<String>| match value.filter(|value| !value.is_empty()) {
        Some(value) => c.out.line(format_args!("{name:<13}{}", printable(&value))),
        None => Ok(()),
    };
    field("login", view.login)?;
    field("dn", Some(view.dn))?;
    field("mail", view.mail)?;
    field("key", Some(view.key.to_string()))?;
    field("status", Some(view.status.to_string()))?;
    field("home", view.home.map(|home| home.0))?;
    field("address", view.im_address)?;
    field("IM domain", view.im_domain)?;
    field("URL", view.im_url)?;
    field("URL at home", view.home_url)?;
    field("digest", Some(view.digest.as_str().to_owned()))?;
    field("rule", view.rule)?;
    field("waits on", view.waiting_on)?;
    field("leaves", standing.leaving.as_ref().map(|home| home.0.clone()))?;
    field("rests since", standing.released_at.map(moment))?;
    field("wishes", Some(wishes(&standing.wishes)))?;
    if let Some(problem) = &view.problem {
        field("problem", Some(format!("P{} {}", problem.id, problem.text)))?;
        field("to do", Some(problem.hint.clone()))?;
    }
    field("sequence", Some(view.sequence))?;
    field("updated", Some(moment(standing.updated_at)))?;
    let outcomes = db::outcomes_of_user(db, &standing.key, HISTORY_MAX)?;
    if !outcomes.is_empty() {
        c.out.line("")?;
        let first = outcomes.len().saturating_sub(SHOWN_OUTCOMES);
        for row in outcomes.iter().skip(first) {
            tail::show(c, row)?;
        }
    }
    Ok(FINE)
}

fn wishes(wishes: &UserWishes) -> String {
    let flags = [(wishes.frozen, "frozen"), (wishes.readdress, "readdress"), (wishes.released, "released")];
    let mut words: Vec<String> = flags.into_iter().filter(|(on, _)| *on).map(|(_, word)| word.to_owned()).collect();
    words.extend(wishes.home.as_ref().map(|home| format!("home {home}")));
    words.join(", ")
}

/// A decision with its reasons.
#[derive(Serialize)]
struct Explained {
    key: UserKey,
    login: String,
    decision: String,
    rule: Option<String>,
    steps: Vec<StepView>,
}

#[derive(Serialize)]
struct StepView {
    topic: &'static str,
    text: String,
}

fn explain(c: &mut Context, db: &Connection, text: &str) -> Result<u8, CliError> {
    let standing = match c.user(db, text) {
        Err(CliError::NotLookedAt(_)) => c.in_log(text)?.ok_or_else(|| CliError::NoSuchUser(text.to_owned()))?,
        found => found?,
    };
    let world = c.world(db)?;
    let (decision, steps) = decide::explain(&standing, &world, c.now);
    let conclusion = conclusion(&decision.wanted, &standing, &world);
    let login = c.login_of(&standing);
    if c.out.json {
        let steps = steps.iter().map(|step| StepView { topic: step.topic(), text: step.to_string() }).collect();
        c.out.document(&Explained { key: standing.key, login, decision: conclusion, rule: decision.rule, steps })?;
        return Ok(FINE);
    }
    c.out.line(format_args!("{}  {}", printable(&login), printable(&standing.record.dn)))?;
    for (topic, steps) in by_topic(&steps) {
        c.out.line(topic)?;
        for step in steps {
            c.out.line(format_args!("  {}", printable(&step.to_string())))?;
        }
    }
    c.out.line("decision")?;
    c.out.line(format_args!("  {}", printable(&conclusion)))?;
    if let Some(at) = decision.look_again_at {
        c.out.line(format_args!("  looked at again {} from now, or when something changes", span(at.since(c.now))))?;
    }
    Ok(FINE)
}

/// Steps in their order, with the heading before the first of each run.
fn by_topic(steps: &[Step]) -> Vec<(&'static str, &[Step])> {
    steps.chunk_by(|a, b| a.topic() == b.topic()).filter_map(|run| Some((run.first()?.topic(), run))).collect()
}

/// The decision in one sentence.
pub fn conclusion(wanted: &Wanted, standing: &Standing, world: &World) -> String {
    match wanted {
        Wanted::Enabled { assignment, change, .. } => {
            let place = format!("{} at {}", assignment.address, assignment.home);
            let found = ownership::found(&standing.record, &world.policy.names);
            match change {
                Change::Nothing if found.is_empty() => format!("enable: {place}"),
                Change::Nothing => format!("keep: {place}"),
                Change::Assigned => format!("enable: {place}"),
                Change::Adopted => format!("adopt: {place}"),
                Change::Moved => {
                    let from = standing.holds().map_or("elsewhere", |held| held.home.0.as_str());
                    format!("move from {from}: {place}")
                }
                Change::Readdressed => {
                    let from = standing.holds().map_or("another", |held| held.address.as_str());
                    format!("change the address from {from}: {place}")
                }
            }
        }
        Wanted::Released { why } => format!("release: {}", why.as_str()),
        Wanted::LeftAlone { why } => format!("leave alone: {}", why.as_str()),
        Wanted::Wait { on } => on.to_string(),
        Wanted::Refused { why } => format!("problem: {why}"),
    }
}

fn history(c: &mut Context, db: &Connection, text: &str) -> Result<u8, CliError> {
    let standing = c.user(db, text)?;
    for row in db::outcomes_of_user(db, &standing.key, HISTORY_MAX)? {
        tail::show(c, &row)?;
    }
    Ok(FINE)
}

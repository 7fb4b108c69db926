//! `user`: list, show, explain, history, and the wishes about one user.

use super::context::Context;
use super::print::{Table, moment, or_dash, printable, span};
use super::{CliError, FINE, UserVerb, tail, wish};
use crate::model::*;
use crate::store::enablement::{self as db, Verb};
use crate::view::each_standing;
use crate::view::user::{Explanation, HISTORY_MAX, UserView, by_topic};
use rusqlite::Connection;

/// The newest lines of `history` that `show` repeats.
const SHOWN_OUTCOMES: usize = 3;

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
        Ok::<_, CliError>(())
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

fn explain(c: &mut Context, db: &Connection, text: &str) -> Result<u8, CliError> {
    let found = Explanation::of(c, db, text)?;
    if c.out.json {
        c.out.document(&found.document())?;
        return Ok(FINE);
    }
    c.out.line(format_args!("{}  {}", printable(&found.login), printable(&found.standing.record.dn)))?;
    for (topic, steps) in by_topic(&found.steps) {
        c.out.line(topic)?;
        for step in steps {
            c.out.line(format_args!("  {}", printable(&step.to_string())))?;
        }
    }
    c.out.line("decision")?;
    c.out.line(format_args!("  {}", printable(&found.conclusion)))?;
    if let Some(at) = found.look_again_at {
        c.out.line(format_args!("  looked at again {} from now, or when something changes", span(at.since(c.now))))?;
    }
    Ok(FINE)
}

fn history(c: &mut Context, db: &Connection, text: &str) -> Result<u8, CliError> {
    let standing = c.user(db, text)?;
    for row in db::outcomes_of_user(db, &standing.key, HISTORY_MAX)? {
        tail::tell(c, &row)?;
    }
    Ok(FINE)
}

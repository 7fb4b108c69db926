//! The tail: what became of users, newest first, with filters; followed live where there is script.

use super::{Html, Refused, Signed, or_none, shell, user_link};
use crate::console::App;
use crate::model::{Outcome, OutcomeKind, UserKey};
use crate::store::enablement::{self as db, OutcomeRow};
use crate::view::words::{moment, printable, span};
use crate::view::{Reader, ViewError};
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use std::time::Duration;

/// Rows shown.
const ROWS: usize = 100;
/// Outcomes looked through for them, where there is a filter.
const LOOKED_THROUGH: usize = 20_000;

/// Which outcomes are shown.
pub struct Filter {
    kind: Option<OutcomeKind>,
    user: Option<UserKey>,
}

impl Filter {
    /// A kind or user that is empty is none.
    pub fn of(c: &Reader, kind: &str, user: &str) -> Result<Filter, ViewError> {
        let user = match user.trim() {
            "" => None,
            text => Some(c.user(&c.enablement()?, text)?.key),
        };
        Ok(Filter { kind: OutcomeKind::parse(kind), user })
    }

    pub fn wants(&self, row: &OutcomeRow) -> bool {
        self.kind.is_none_or(|kind| row.kind == kind.as_str()) && self.user.is_none_or(|key| row.key == key)
    }
}

#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    user: String,
}

pub async fn tail(
    State(app): State<App>,
    axum::Extension(who): Signed,
    Query(asked): Query<Asked>,
) -> Result<Html, Refused> {
    let (kind, user) = (asked.kind.clone(), asked.user.clone());
    let look = move |c: &Reader| {
        let store = c.enablement()?;
        let last = db::last_outcome_seq(&store)?;
        let filter = match Filter::of(c, &kind, &user) {
            Ok(filter) => filter,
            // Said above the table; the filter can be corrected.
            Err(error @ (ViewError::NoSuchUser(_) | ViewError::NotLookedAt(_) | ViewError::Ambiguous { .. })) => {
                return Ok((Vec::new(), last, Some(error.to_string())));
            }
            Err(error) => return Err(error),
        };
        let rows = match filter.user {
            Some(key) => db::outcomes_of_user(&store, &key, LOOKED_THROUGH)?,
            None => db::last_outcomes(&store, if filter.kind.is_some() { LOOKED_THROUGH } else { ROWS })?,
        };
        let mut rows: Vec<OutcomeRow> = rows.into_iter().filter(|row| filter.wants(row)).collect();
        rows.drain(..rows.len().saturating_sub(ROWS));
        Ok((rows, last, None))
    };
    let (rows, last, wrong) = app.look(look).await?;
    let body = html! {
        h1 { "What happens" }
        form .filters action="/tail" {
            label for="kind" { "Kind" }
            select #kind name="kind" {
                option value="" { "all kinds" }
                @for kind in OutcomeKind::ALL { option value=(kind.as_str()) selected[kind.as_str() == asked.kind] { (kind.as_str()) } }
            }
            label for="user" { "User" }
            input #user type="search" name="user" value=(asked.user) placeholder="login, mail, DN or key" spellcheck="false";
            button type="submit" { "Filter" }
        }
        @if let Some(wrong) = wrong { p .note .bad { (printable(&wrong)) } }
        (table(&rows, last, &asked.kind, &asked.user, ROWS))
        p .hint { "The same in a terminal: " (super::command("homeward tail -f")) }
    };
    Ok(shell(&app, &who, "/tail", "Tail", body))
}

/// Rows come oldest first, and are shown newest first. `live.js` follows from `last`, and keeps `most` rows.
pub fn table(rows: &[OutcomeRow], last: u64, kind: &str, user: &str, most: usize) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Outcomes" {
            table .tail data-tail=(last) data-kind=(kind) data-user=(user) data-most=(most) {
                caption .sr { "Outcomes, newest first" }
                thead { tr { th scope="col" { "When" } th scope="col" { "Kind" } th scope="col" { "Login" } th scope="col" { "Address" } th scope="col" { "Home" } th scope="col" .number { "Took" } th scope="col" { "Why, what to do" } } }
                tbody { @for it in rows.iter().rev() { (row(it)) } }
            }
        }
        @if rows.is_empty() { p .empty data-tail-empty="" { "Nothing yet." } }
    }
}

/// One outcome.
pub fn row(row: &OutcomeRow) -> Markup {
    let at = moment(row.at);
    let (day, time) = at.split_once('T').unwrap_or(("", &at));
    let Ok(outcome) = serde_json::from_str::<Outcome>(&row.data) else {
        return html! { tr { td { (at) } td { (printable(&row.kind)) } td { (row.key) } td {} td {} td {} td {} } };
    };
    let tone = match outcome.kind {
        OutcomeKind::Enabled | OutcomeKind::Adopted | OutcomeKind::Ready => "good",
        OutcomeKind::Moved | OutcomeKind::Disabled => "quiet",
        OutcomeKind::Waiting | OutcomeKind::PasswordResetRequired => "doubt",
        OutcomeKind::Problem => "bad",
    };
    let lives = outcome.assignment.as_ref();
    let login = outcome.login.clone().unwrap_or_else(|| row.key.to_string());
    let words: Vec<&str> =
        outcome.why.iter().chain(&outcome.todo).map(String::as_str).filter(|words| !words.is_empty()).collect();
    html! {
        tr {
            td { time datetime=(row.at) title=(at) { span .day { (day) " " } (time.trim_end_matches('Z')) } }
            td { span class={ "tag " (tone) } { (outcome.kind.as_str()) } }
            td { (user_link(&row.key, &login)) }
            td { (or_none(lives.map(|lives| lives.address.as_str()))) }
            td { @match (&outcome.from, lives) { (Some(from), Some(lives)) => { (from) " → " (lives.home) } (_, lives) => { (or_none(lives.map(|lives| lives.home.0.as_str()))) } } }
            td .number { @match outcome.took_ms { Some(ms) => { (span(Duration::from_millis(ms))) } None => { span .none { "–" } } } }
            td .words { (printable(&words.join("; "))) }
        }
    }
}

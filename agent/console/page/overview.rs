//! The first page: a sentence, then what wants a person, then how things go.

use super::{Html, Refused, Signed, command, hint, offer, plot, shell, status_tag, tail, user_link, when};
use crate::config::Mode;
use crate::console::door::Who;
use crate::console::{App, Overview};
use crate::intake::Suspect;
use crate::model::{AdminState, Health, HomeState, Online, Status, Timestamp};
use crate::store::enablement as db;
use crate::view::problem::{HeldPlan, HeldRow, ProblemRow};
use crate::view::status::Tone;
use crate::view::words::{count, printable, span};
use axum::extract::State;
use maud::{Markup, html};
use std::time::Duration;

/// Rows of the tail on the first page.
const TAIL_ROWS: usize = 12;

pub async fn overview(State(app): State<App>, axum::Extension(who): Signed) -> Result<Html, Refused> {
    let overview = app.overview().await?;
    let minutes = app.pulse.counted().flow.hour(Timestamp::now());
    let (rows, last) = app
        .look(|c| {
            let store = c.enablement()?;
            let last = db::last_outcome_seq(&store)?;
            Ok((db::last_outcomes(&store, TAIL_ROWS)?, last))
        })
        .await?;
    let status = &overview.status;
    let body = html! {
        div #sentences data-live="" role="status" {
            @for (n, (tone, text)) in status.sentences().iter().enumerate() {
                @let class = match tone { Tone::Good => "sentence good", Tone::Doubt => "sentence doubt", Tone::Bad => "sentence bad" };
                @if n == 0 { h1 class=(class) { (hint(text)) } } @else { p class=(class) { (hint(text)) } }
            }
        }
        form .search action="/users" role="search" {
            label .sr for="search" { "Search for a user" }
            input #search type="search" name="search" placeholder="Login, mail, address or DN" autocomplete="off" spellcheck="false";
            button type="submit" { "Find user" }
        }
        @if overview.held.is_some() || status.suspect.is_some() {
            section .card .urgent #held data-live="" aria-labelledby="held-head" {
                h2 #held-head { "Held by the guard" }
                (guard_plan(overview.held.as_ref(), &overview.diff, status.suspect.as_ref(), &who, overview.read_at))
            }
        } @else { div #held data-live="" {} }
        @if !overview.problems.is_empty() {
            section .card #problems data-live="" aria-labelledby="problems-head" {
                h2 #problems-head { "Problems " span .count { (status.problems) } }
                (problem_table(&overview.problems, &who, overview.read_at))
                @if status.problems > overview.problems.len() as u64 { p { a href="/problems" { "All problems" } } }
            }
        } @else { div #problems data-live="" {} }
        div .columns {
            section .card #source data-live="" aria-labelledby="source-head" { (source(&overview)) }
            section .card #users data-live="" aria-labelledby="users-head" { (users(&overview)) }
        }
        section .card #flow data-live="" aria-labelledby="flow-head" {
            h2 #flow-head { "The last hour" }
            div .plots {
                (plot::hour("Changes seen", "changes", &minutes, |minute| minute.changes))
                (plot::hour("Outcomes", "outcomes", &minutes, |minute| minute.outcomes))
                (plot::hour("Failures", "failures", &minutes, |minute| minute.problems))
            }
        }
        section .card #homes data-live="" aria-labelledby="homes-head" { (homes(&overview, &who)) }
        section .card aria-labelledby="tail-head" {
            h2 #tail-head { "What happens " a .more href="/tail" { "tail with filters" } }
            (tail::table(&rows, last, "", "", TAIL_ROWS))
        }
        @if who.may_operate() {
            p .offers { (offer(&who, "sweep", &[], "Compare the whole directory now")) }
        }
    };
    Ok(shell(&app, &who, "/", "Overview", body))
}

fn source(overview: &Overview) -> Markup {
    let (status, now) = (&overview.status, overview.read_at);
    let source = &status.source;
    let changed = source.last_change_at.as_deref().and_then(Timestamp::from_rfc3339);
    html! {
        h2 #source-head { "Source" }
        dl .facts {
            dt { "State" } dd { span class={ "tag " (if source.state == "live" { "good" } else { "doubt" }) } { (printable(&source.state)) } }
            dt { "How" } dd { (super::or_none(source.kind.as_deref())) " at " (super::or_none(source.server.as_deref())) }
            dt { "Mode" } dd { @match status.mode { Mode::Observe => { "observe: nothing is written" } Mode::Enforce => { "enforce" } } }
            @if let Some(guarantees) = &source.guarantees {
                dt { "Deletes" } dd { (printable(&guarantees.deletes)) }
                dt { "Moves" } dd { (printable(&guarantees.moves)) }
                dt { "Latency" } dd { (printable(&guarantees.latency)) }
            }
            dt { "Last change" } dd { @match changed { Some(at) => { (when(at, now)) } None => { "none yet" } } }
            dt { "Behind" } dd {
                (count(status.queue.behind, "user")) @if source.lag_ms > 0 { " for " (span(Duration::from_millis(source.lag_ms))) }
                ", " (plot::thousands(status.queue.to_write)) " to write"
            }
        }
    }
}

fn users(overview: &Overview) -> Markup {
    let status = &overview.status;
    let all: u64 = status.users.values().sum();
    html! {
        h2 #users-head { "Users " span .count { (plot::thousands(all)) } }
        ul .statuses {
            @for word in Status::ALL {
                @let users = status.users_with(word);
                @if users > 0 {
                    li { a href={ "/users?status=" (word.as_str()) } { (status_tag(word)) span .number { (plot::thousands(users)) } } }
                }
            }
        }
        @if all == 0 { p .empty { "Nobody yet." } }
    }
}

fn homes(overview: &Overview, who: &Who) -> Markup {
    html! {
        h2 #homes-head { "Home servers " span .count { (overview.fleet.homes.len()) } }
        ul .homes {
            @for state in &overview.fleet.homes { (home(state, overview, who)) }
        }
    }
}

fn home(state: &HomeState, overview: &Overview, who: &Who) -> Markup {
    let id = state.home.id.0.as_str();
    let reserved = overview.reserved.get(id).copied().unwrap_or_default();
    let (assigned, capacity) = (u64::from(state.assigned), u64::from(state.home.capacity));
    let wish = match (state.configured, state.wish) {
        (false, _) => ("bad", "not configured"),
        (true, AdminState::Active) => ("good", "active"),
        (true, AdminState::Cordoned) => ("doubt", "cordoned"),
        (true, AdminState::Draining) => ("doubt", "draining"),
    };
    let health = match state.health {
        Health::NotProbed => ("quiet", "not probed"),
        Health::Up => ("good", "up"),
        Health::Down => ("bad", "down"),
        Health::Unknown => ("doubt", "health unknown"),
    };
    html! {
        li .home {
            div .head {
                span .id { (printable(id)) } span .host { (printable(&state.home.host)) }
                span class={ "tag " (wish.0) } { (wish.1) } span class={ "tag " (health.0) } { (health.1) }
            }
            (plot::home_bar(id, assigned, reserved, capacity))
            div .figures {
                span { strong { (plot::thousands(assigned)) } " of " (plot::thousands(capacity)) " places" }
                @if reserved > 0 { span .reserved { (plot::thousands(reserved)) " not written yet" } }
                @match state.online {
                    Online::NotMeasured => {}
                    Online::Sample { users, .. } => { span { (plot::thousands(u64::from(users))) " online" } }
                    Online::Stale { users, .. } => { span { (plot::thousands(u64::from(users))) " online, stale" } }
                    Online::Unknown => { span { "online unknown" } }
                }
                a href={ "/users?home=" (super::urlencoded(id)) } { "users" }
                @if state.configured {
                    span .offers {
                        @match state.wish {
                            AdminState::Active => { (offer(who, "cordon", &[("home", id)], "Cordon")) (offer(who, "drain", &[("home", id)], "Drain")) }
                            AdminState::Cordoned => { (offer(who, "activate", &[("home", id)], "Activate")) (offer(who, "drain", &[("home", id)], "Drain")) }
                            AdminState::Draining => { (offer(who, "activate", &[("home", id)], "Activate")) }
                        }
                    }
                }
            }
        }
    }
}

pub fn problem_table(rows: &[ProblemRow], who: &Who, now: Timestamp) -> Markup {
    if rows.is_empty() {
        return html! { p .empty { "Nobody has a problem." } };
    }
    html! {
        ul .problems {
            @for ProblemRow { problem, login } in rows {
                @let id = format!("P{}", problem.id);
                li {
                    div .head {
                        span .id { (id) } (user_link(&problem.key, login)) span .tag .bad { (printable(&problem.code)) }
                        @if problem.dismissed { span .tag .quiet { "dismissed" } }
                        span .since { (when(problem.opened_at, now)) @if problem.times > 1 { ", " (problem.times) " times" } }
                    }
                    p { (printable(&problem.text)) }
                    p .hint { (hint(&problem.hint)) }
                    @if who.may_operate() {
                        p .offers { (offer(who, "retry", &[("problem", &id)], "Retry")) @if !problem.dismissed { (offer(who, "dismiss", &[("problem", &id)], "Dismiss")) } }
                    }
                }
            }
        }
    }
}

/// What is held, as a diff: what each user has, and what would be.
pub fn guard_plan(
    held: Option<&HeldPlan>,
    diff: &[HeldRow],
    suspect: Option<&Suspect>,
    who: &Who,
    now: Timestamp,
) -> Markup {
    html! {
        @if held.is_none() && suspect.is_none() { p .empty { "Nothing is held." } }
        @if let Some(suspect) = suspect {
            p {
                strong { (suspect.count) " of " (suspect.present) " users" } " are absent since " (when(suspect.since, now))
                "; the guard allows " (suspect.limit) ". Nobody was told. If they are gone indeed:"
            }
            p { (command(&format!("homeward approve {}", suspect.hash))) " " (offer(who, "approve", &[("hash", &suspect.hash)], "Approve the absence")) }
        }
        @if let Some(plan) = held {
            p {
                strong { (count(plan.changes.len() as u64, "change")) } " held since " (when(plan.since_at, now))
                ". Nobody is touched. To let exactly these pass:"
            }
            p { (command(&format!("homeward approve {}", plan.hash))) " " (offer(who, "approve", &[("hash", &plan.hash)], "Approve this plan")) }
            div .scroll tabindex="0" role="region" aria-label="Held changes" {
                table .diff {
                    caption .sr { "Held changes, as they would be decided now" }
                    thead { tr { th scope="col" { "Login" } th scope="col" { "Change" } th scope="col" { "Now" } th scope="col" { "Would be" } } }
                    tbody {
                        @for row in diff {
                            tr {
                                td { (user_link(&row.key, &row.login)) }
                                td { span .tag .bad { (row.kind) } }
                                td { del { (printable(&row.before)) } }
                                td { ins { (printable(&row.after)) } }
                            }
                        }
                    }
                }
            }
            @if plan.changes.len() > diff.len() {
                p { a href="/guard" { "More of the " (plan.changes.len()) " changes" } ", or all of them: " (command("homeward problem show guard")) }
            }
        }
    }
}

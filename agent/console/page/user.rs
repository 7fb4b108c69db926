//! Users: the list with its search, and one user with everything that is known and why.

use super::{
    After, Html, ROWS, Refused, Signed, hint, offer, or_none, shell, status_tag, tail, urlencoded, user_link, when,
};
use crate::console::api::{Listed, list, status_of};
use crate::console::{App, door::Who};
use crate::model::{DigestReadiness, Status, Timestamp};
use crate::store::enablement::{self as db, OutcomeRow};
use crate::view::user::{Explanation, HISTORY_MAX, UserView, by_topic};
use crate::view::words::{moment, printable, span};
use axum::extract::{Path, Query, State};
use maud::{Markup, html};

pub async fn users(
    State(app): State<App>,
    axum::Extension(who): Signed,
    Query(listed): Query<Listed>,
    Query(after): Query<After>,
) -> Result<Html, Refused> {
    let (status, row) = (status_of(&listed.status)?, after.row()?);
    let (search, home) = (listed.search.clone(), listed.home.clone());
    let (users, next) = app.look(move |c| list(c, &listed, status, row, ROWS)).await?;
    let word = status.map_or("", Status::as_str);
    let body = html! {
        h1 { "Users" }
        form .filters action="/users" role="search" {
            label for="search" { "Search" }
            input #search type="search" name="search" value=(search) placeholder="part of login, mail, address or DN" spellcheck="false";
            label for="status" { "Status" }
            select #status name="status" {
                option value="" { "any" }
                @for known in Status::ALL { option value=(known.as_str()) selected[status == Some(known)] { (known.as_str()) } }
            }
            label for="home" { "Home" }
            input #home name="home" value=(home) size="8" placeholder="any" spellcheck="false";
            button type="submit" { "Search" }
        }
        @if users.is_empty() { p .empty { "Nobody is like that." } }
        @else {
            div .scroll tabindex="0" role="region" aria-label="Users" {
                table {
                    caption .sr { "Users" }
                    thead { tr { th scope="col" { "Login" } th scope="col" { "Status" } th scope="col" { "Home" } th scope="col" { "Address" } th scope="col" { "Mail" } th scope="col" { "DN" } } }
                    tbody {
                        @for user in &users {
                            tr {
                                td { (user_link(&user.key, user.login.as_deref().unwrap_or(&user.key.to_string()))) }
                                td { (status_tag(user.status)) }
                                td { (or_none(user.home.as_ref().map(|home| home.0.as_str()))) }
                                td { (or_none(user.im_address.as_deref())) }
                                td { (or_none(user.mail.as_deref())) }
                                td .dn { (printable(&user.dn)) }
                            }
                        }
                    }
                }
            }
        }
        @if let Some(next) = next {
            p { a .button rel="next" href={ "/users?status=" (word) "&home=" (urlencoded(&home)) "&search=" (urlencoded(&search)) "&after=" (next) } { "More" } }
        }
    };
    Ok(shell(&app, &who, "/users", "Users", body))
}

struct Seen {
    /// Nothing of somebody whom the worker has not looked at yet.
    view: Option<UserView>,
    found: Explanation,
    leaving: Option<String>,
    history: Vec<OutcomeRow>,
    last: u64,
    now: Timestamp,
}

pub async fn user(
    State(app): State<App>,
    axum::Extension(who): Signed,
    Path(text): Path<String>,
) -> Result<Html, Refused> {
    let look = move |c: &crate::view::Reader| {
        let store = c.enablement()?;
        let last = db::last_outcome_seq(&store)?;
        let found = Explanation::of(c, &store, &text)?;
        let key = found.standing.key;
        let view = match db::standing(&store, &key)? {
            Some((_, standing)) => Some(UserView::of(c, &store, &standing)?),
            None => None,
        };
        let leaving = found.standing.leaving.as_ref().map(|home| home.0.clone());
        Ok(Seen { view, leaving, history: db::outcomes_of_user(&store, &key, HISTORY_MAX)?, last, now: c.now, found })
    };
    let seen = app.look(look).await?;
    let key = seen.found.standing.key;
    let body = html! {
        p .crumbs { a href="/users" { "Users" } }
        h1 { (printable(&seen.found.login)) @if let Some(view) = &seen.view { " " (status_tag(view.status)) } }
        p .dn { (printable(&seen.found.standing.record.dn)) }
        div #user data-live="" {
            @if let Some(problem) = seen.view.as_ref().and_then(|view| view.problem.as_ref()) {
                section .card .urgent aria-labelledby="problem-head" {
                    h2 #problem-head { "Problem P" (problem.id) }
                    p { (printable(&problem.text)) }
                    p .hint { (hint(&problem.hint)) }
                    @if who.may_operate() {
                        @let id = format!("P{}", problem.id);
                        p .offers { (offer(&who, "retry", &[("problem", &id)], "Retry")) (offer(&who, "dismiss", &[("problem", &id)], "Dismiss")) }
                    }
                }
            }
            div .columns {
                section .card aria-labelledby="stands-head" {
                    h2 #stands-head { "How they stand" }
                    @match &seen.view { Some(view) => { (facts(view, &seen)) } None => { p .empty { "In the directory, not looked at yet." } } }
                }
                section .card aria-labelledby="why-head" {
                    h2 #why-head { "Why" }
                    (why(&seen.found, seen.now))
                }
            }
        }
        (offers(&who, &key.to_string()))
        section .card aria-labelledby="history-head" {
            h2 #history-head { "History" }
            (tail::table(&seen.history, seen.last, "", &key.to_string(), HISTORY_MAX))
        }
    };
    Ok(shell(&app, &who, "/users", &seen.found.login, body))
}

fn facts(view: &UserView, seen: &Seen) -> Markup {
    let digest = match view.digest {
        DigestReadiness::NotRequired => "not required",
        DigestReadiness::Ready => "ready",
        DigestReadiness::ResetRequired => "a new password is needed",
        DigestReadiness::Unknown => "unknown: the directory does not tell when the password was set",
    };
    let standing = &seen.found.standing;
    html! {
        dl .facts {
            dt { "Home" } dd { (or_none(view.home.as_ref().map(|home| home.0.as_str()))) }
            dt { "Address" } dd { (or_none(view.im_address.as_deref())) }
            dt { "IM domain" } dd { (or_none(view.im_domain.as_deref())) }
            dt { "Mail" } dd { (or_none(view.mail.as_deref())) }
            dt { "URL" } dd { (or_none(view.im_url.as_deref())) }
            dt { "URL at home" } dd { (or_none(view.home_url.as_deref())) }
            dt { "Digest" } dd { (digest) @if let Some(since) = standing.reset_since { ", since " (moment(since)) } @if standing.reset_asked_for.is_some() { "; the directory was asked to demand one" } }
            dt { "Rule" } dd { (or_none(view.rule.as_deref())) }
            @if let Some(on) = &view.waiting_on { dt { "Waits on" } dd { (printable(on)) } }
            @if let Some(home) = &seen.leaving { dt { "Leaves" } dd { (printable(home)) } }
            @if let Some(at) = standing.released_at { dt { "Rests since" } dd { (when(at, seen.now)) } }
            @if standing.wishes.frozen { dt { "Wish" } dd { "frozen" } }
            @if standing.wishes.released { dt { "Wish" } dd { "released until rechecked" } }
            @if let Some(home) = &standing.wishes.home { dt { "Wish" } dd { "live at " (home) } }
            dt { "Key" } dd { code { (view.key) } }
            dt { "Updated" } dd { (when(standing.updated_at, seen.now)) }
        }
    }
}

fn why(found: &Explanation, now: Timestamp) -> Markup {
    html! {
        p .decision { (printable(&found.conclusion)) }
        @if let Some(at) = found.look_again_at { p .hint { "Looked at again in " (span(at.since(now))) ", or when something changes." } }
        ol .topics {
            @for (topic, steps) in by_topic(&found.steps) {
                li {
                    h3 { (topic) }
                    ul { @for step in steps { li { (printable(&step.to_string())) } } }
                }
            }
        }
    }
}

fn offers(who: &Who, key: &str) -> Markup {
    if !who.may_operate() {
        return html! {};
    }
    let user = [("user", key)];
    html! {
        p .offers {
            (offer(who, "recheck", &user, "Recheck")) (offer(who, "move", &user, "Move")) (offer(who, "readdress", &user, "Readdress"))
            (offer(who, "freeze", &user, "Freeze")) (offer(who, "release", &user, "Release"))
        }
    }
}

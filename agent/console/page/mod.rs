//! The page for people, as HTML. Works without script; with it (live.js) it lives: fragments are fetched again, the tail
//! is followed. Every value is escaped by the template (maud); nothing is inline that the policy of `door` forbids.
//!
//! Order on the first page: what stands between the operator and their sleep comes first.

pub mod act;
mod overview;
mod plot;
pub mod tail;
mod user;

pub use overview::overview;
pub use tail::tail;
pub use user::{user, users};

use super::door::Who;
use super::tokens::Role;
use super::{App, Refused, api};
use crate::error::chain;
use crate::model::{Status, Timestamp};
use crate::store::enablement as db;
use crate::view::words::{count, moment, printable, span};
use crate::view::{ViewError, problem, resets as resets_view};
use crate::worker::wishes::describe;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

/// Rows of a long table; the next page has more.
pub const ROWS: usize = 50;
/// Held changes shown; the approval is of all of them.
const DIFF_ROWS: usize = 500;
/// Audit rows shown.
const AUDIT_ROWS: usize = 100;

/// Places of the console: path and word.
const PLACES: [(&str, &str); 6] = [
    ("/", "Overview"),
    ("/users", "Users"),
    ("/problems", "Problems"),
    ("/resets", "Digest resets"),
    ("/tail", "Tail"),
    ("/audit", "Audit"),
];

pub struct Html(pub Markup);

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], self.0.into_string()).into_response()
    }
}

/// The page around what a place shows.
pub fn shell(app: &App, who: &Who, here: &str, title: &str, body: Markup) -> Html {
    let note = match who {
        Who::Signed { note, .. } => note.as_deref(),
        Who::Guest => None,
    };
    Html(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (printable(title)) " · Homeward · " (app.host) }
                link rel="icon" type="image/svg+xml" href="/icon.svg";
                link rel="stylesheet" href="/style.css";
                script src="/live.js" defer {}
            }
            body {
                a .skip href="#main" { "Skip to content" }
                header .bar {
                    a .brand href="/" { (mark()) span { "Homeward" } }
                    nav aria-label="Places" {
                        @for (path, word) in PLACES {
                            a href=(path) aria-current=[(path == here).then_some("page")] { (word) }
                        }
                    }
                    div .who {
                        @match who {
                            Who::Guest => { a href={ "/signin?back=" (here) } { "Sign in" } }
                            Who::Signed { name, role, .. } => {
                                span title=(role.as_str()) { (name) " " span .role { (role.as_str()) } }
                                form method="post" action="/signout" {
                                    input type="hidden" name="form_token" value=(who.form_token());
                                    button .link type="submit" { "Sign out" }
                                }
                            }
                        }
                    }
                }
                main #main tabindex="-1" {
                    @if let Some(note) = note {
                        p .note role="status" { (printable(note)) }
                    }
                    (body)
                }
                footer {
                    span { (app.host) " · version " (env!("CARGO_PKG_VERSION")) }
                    span #liveness hidden {}
                    nav aria-label="For programs" {
                        a href="/v1/status" { "status as JSON" } a href="/metrics" { "metrics" }
                    }
                }
            }
        }
    })
}

fn mark() -> Markup {
    html! {
        svg .mark viewBox="0 0 24 24" aria-hidden="true" {
            path d="M3 11.5 12 4l9 7.5V20a1 1 0 0 1-1 1h-5v-6H9v6H4a1 1 0 0 1-1-1z" {}
        }
    }
}

/// The icon of the tab.
pub async fn icon() -> Response {
    const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 24 24\"><rect width=\"24\" height=\"24\" rx=\"5\" \
                        fill=\"#0b5e6b\"/><path fill=\"#fff\" d=\"M5 12 12 6l7 6v6.5a1 1 0 0 1-1 1h-4v-5h-4v5H6a1 1 0 0 1-1-1z\"/></svg>";
    cached("image/svg+xml", ICON)
}

pub async fn style() -> Response {
    cached("text/css; charset=utf-8", include_str!("style.css"))
}

pub async fn script() -> Response {
    cached("text/javascript; charset=utf-8", include_str!("live.js"))
}

fn cached(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=60")], text).into_response()
}

// --- pieces ----------------------------------------------------------------------------------------------------------

/// A moment, and how long ago.
pub fn when(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) title=(moment(at)) { (span(now.since(at))) " ago" } }
}

/// A value that may be missing.
pub fn or_none(text: Option<&str>) -> Markup {
    match text.filter(|text| !text.is_empty()) {
        Some(text) => html! { (printable(text)) },
        None => html! { span .none { "–" } },
    }
}

pub fn status_tag(status: Status) -> Markup {
    let tone = match status {
        Status::Enabled => "good",
        Status::AwaitingPassword | Status::Waiting | Status::Retrying | Status::Planned | Status::Applying => "doubt",
        Status::Held | Status::Problem => "bad",
        Status::Disabled | Status::Ignored | Status::Gone => "quiet",
    };
    html! { span class={ "tag " (tone) } { (status) } }
}

/// A command to type: selectable as a whole.
pub fn command(text: &str) -> Markup {
    html! { code .cmd { (printable(text)) } }
}

/// A hint, with the commands in it told from the words.
pub fn hint(text: &str) -> Markup {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("homeward ") {
        let (words, from) = rest.split_at(at);
        // The command ends where the sentence goes on.
        let end = [from.find([';', ')', ',']), from.find(" (")].into_iter().flatten().min().unwrap_or(from.len());
        let (typed, after) = from.split_at(end);
        parts.push((words, typed.trim_end()));
        rest = after;
    }
    html! {
        @for (words, typed) in parts { (printable(words)) (command(typed)) }
        (printable(rest))
    }
}

/// A link to a page where the operator says yes or no. Nothing where nobody may operate.
pub fn offer(who: &Who, act: &str, fields: &[(&str, &str)], word: &str) -> Markup {
    if !who.may_operate() {
        return html! {};
    }
    let mut query = format!("act={}", urlencoded(act));
    for (name, value) in fields {
        query.push_str(&format!("&{name}={}", urlencoded(value)));
    }
    html! { a .button href={ "/confirm?" (query) } { (word) } }
}

/// RFC 3986: everything but the unreserved.
pub fn urlencoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

pub fn user_link(key: &crate::model::UserKey, login: &str) -> Markup {
    html! { a href={ "/users/" (key) } { (printable(login)) } }
}

// --- refusals --------------------------------------------------------------------------------------------------------

pub fn problem_json(error: &str, hint: &str) -> serde_json::Value {
    serde_json::json!({ "error": error, "hint": hint })
}

/// What a refusal says to a person or a program.
pub fn refused(app: &App, refused: &Refused, plain: bool, who: &Who) -> Response {
    let (status, error, hint) = match refused {
        Refused::View(error) => {
            let status = match error {
                ViewError::NoSuchUser(_)
                | ViewError::NoSuchHome { .. }
                | ViewError::NoSuchProblem(_)
                | ViewError::NoSuchPlan { .. } => StatusCode::NOT_FOUND,
                ViewError::NotLookedAt(_) | ViewError::Ambiguous { .. } => StatusCode::CONFLICT,
                ViewError::OutcomeGone { .. } => StatusCode::GONE,
                ViewError::Feed(_) if error.is_gone() => StatusCode::GONE,
                ViewError::NoStore(_) | ViewError::Store(_) | ViewError::Feed(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, chain(error).replace('\n', " "), error.hint().0)
        }
        Refused::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "too much is asked at once".to_owned(),
            "ask again in a moment; the agent itself goes on: homeward status".to_owned(),
        ),
        Refused::Bad(text) => (StatusCode::BAD_REQUEST, text.clone(), "docs/console.md lists what can be asked".into()),
        Refused::NotFound => {
            (StatusCode::NOT_FOUND, "there is nothing here".into(), "docs/console.md lists what can be asked".into())
        }
        Refused::SignIn => (
            StatusCode::UNAUTHORIZED,
            "a token is wanted".into(),
            "make one: homeward console token add NAME --role reader".into(),
        ),
        Refused::Forbidden(why) => (
            StatusCode::FORBIDDEN,
            (*why).to_owned(),
            "an operator's token is made by: homeward console token add NAME --role operator".into(),
        ),
        Refused::TooMany => (
            StatusCode::TOO_MANY_REQUESTS,
            "too many at once, or too many wrong tokens".into(),
            "try again in a minute; tokens are listed by: homeward console token list".into(),
        ),
    };
    let mut response = match (plain, refused) {
        (true, _) => axum::Json(problem_json(&error, &hint)).into_response(),
        (false, Refused::SignIn) => sign_in(app, who, "/", None),
        (false, _) => {
            let body = html! {
                section .card {
                    h1 { (status.canonical_reason().unwrap_or("No")) }
                    p .lead { (printable(&error)) }
                    p { (self::hint(&hint)) }
                    p { a href="/" { "Back to the overview" } }
                }
            };
            shell(app, who, "", "No", body).into_response()
        }
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let value = axum::http::HeaderValue::from_static;
    match refused {
        Refused::SignIn => _ = headers.insert(header::WWW_AUTHENTICATE, value("Bearer realm=\"homeward\"")),
        Refused::TooMany => _ = headers.insert(header::RETRY_AFTER, value("60")),
        Refused::Busy => _ = headers.insert(header::RETRY_AFTER, value("2")),
        Refused::View(_) | Refused::Bad(_) | Refused::NotFound | Refused::Forbidden(_) => {}
    }
    response
}

pub fn sign_in(app: &App, who: &Who, back: &str, wrong: Option<&str>) -> Response {
    let body = html! {
        section .card .narrow {
            h1 { "Sign in" }
            p { "With the token of an operator you can change what this page shows. A token is made on the agent's machine:" }
            p { (command("sudo homeward console token add NAME --role operator")) }
            form method="post" action="/signin" .stack {
                input type="hidden" name="form_token" value=(app.door.form_token());
                input type="hidden" name="back" value=(back);
                label for="token" { "Token" }
                input #token type="password" name="token" required autocomplete="current-password" spellcheck="false"
                    aria-invalid=[wrong.map(|_| "true")] aria-describedby=[wrong.map(|_| "wrong")];
                @if let Some(wrong) = wrong { p #wrong .wrong role="alert" { (wrong) } }
                button .primary type="submit" { "Sign in" }
            }
        }
    };
    let mut response = shell(app, who, "/signin", "Sign in", body).into_response();
    if wrong.is_some() {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    response
}

// --- smaller places --------------------------------------------------------------------------------------------------

type Signed = axum::Extension<Who>;

#[derive(serde::Deserialize)]
pub struct After {
    #[serde(default)]
    after: String,
}

impl After {
    pub fn row(&self) -> Result<i64, Refused> {
        if self.after.is_empty() { Ok(0) } else { api::number(&self.after, i64::MAX as u64).map(|row| row as i64) }
    }
}

pub async fn problems(
    State(app): State<App>,
    axum::Extension(who): Signed,
    axum::extract::Query(after): axum::extract::Query<After>,
) -> Result<Html, Refused> {
    let after = after.row()?;
    let look = move |c: &crate::view::Reader| {
        let db = c.enablement()?;
        let held = problem::held_plan(c, &db)?;
        Ok((problem::list(c, &db, after, ROWS)?, held, problem::suspect(c)?, c.now))
    };
    let (rows, held, suspect, now) = app.look(look).await?;
    let next = rows.last().filter(|_| rows.len() == ROWS).map(|row| row.problem.id);
    let body = html! {
        h1 { "Problems" }
        p .lead { "What wants a person. Each stays here until it is dealt with; nobody else waits for it." }
        @if held.is_some() || suspect.is_some() {
            p .note .bad { "The guard holds changes. " a href="/guard" { "See the plan" } }
        }
        div #problems data-live="" { (overview::problem_table(&rows, &who, now)) }
        @if let Some(next) = next { p { a .button href={ "/problems?after=" (next) } { "More" } } }
    };
    Ok(shell(&app, &who, "/problems", "Problems", body))
}

pub async fn guard(State(app): State<App>, axum::Extension(who): Signed) -> Result<Html, Refused> {
    let look = |c: &crate::view::Reader| {
        let db = c.enablement()?;
        let held = problem::held_plan(c, &db)?;
        let diff = problem::diff(c, &db, held.as_ref(), DIFF_ROWS)?;
        Ok((held, diff, problem::suspect(c)?, c.now, c.config.guard))
    };
    let (held, diff, suspect, now, limits) = app.look(look).await?;
    let body = html! {
        h1 { "Held by the guard" }
        p .lead {
            "More releases, moves and address changes than " (limits.releases) " or " (limits.releases_percent)
            " % of the enabled in " (span(limits.window)) " touch nobody until somebody approves exactly that plan."
        }
        div #guard data-live="" { (overview::guard_plan(held.as_ref(), &diff, suspect.as_ref(), &who, now)) }
    };
    Ok(shell(&app, &who, "/problems", "Held plan", body))
}

pub async fn resets(
    State(app): State<App>,
    axum::Extension(who): Signed,
    axum::extract::Query(after): axum::extract::Query<After>,
) -> Result<Html, Refused> {
    let after = after.row()?;
    let look = move |c: &crate::view::Reader| {
        let db = c.enablement()?;
        let counts = db::status_counts(&db)?;
        let (rows, next) = resets_view::page(c, &db, after, ROWS)?;
        Ok((rows, next, resets_view::campaign(&db)?, counts, c.config.digest.clone()))
    };
    let (rows, next, days, counts, digest) = app.look(look).await?;
    let needed = counts.iter().find(|(status, _)| *status == Status::AwaitingPassword).map_or(0, |(_, n)| *n);
    let ready: u64 = days.iter().map(|day| day.ready).sum();
    let body = html! {
        h1 { "Digest resets" }
        @if !digest.required {
            p .lead { "Digest is not required here, so nobody needs a new password. " code { "[digest] required" } " changes that." }
        } @else {
            p .lead {
                (count(needed, "user")) " still need" @if needed == 1 { "s" } " a new password; "
                (count(ready, "user")) " got ready as far back as outcomes are kept."
            }
            section .card #campaign data-live="" aria-labelledby="campaign-head" {
                h2 #campaign-head { "The campaign, by day" }
                (plot::campaign(&days))
            }
        }
        @if !rows.is_empty() {
            div .scroll tabindex="0" role="region" aria-label="Who needs a new password" {
                table {
                    caption .sr { "Who needs a new password for Digest" }
                    thead { tr { th scope="col" { "Login" } th scope="col" { "Mail" } th scope="col" { "Needed since" } th scope="col" { "Password date" } th scope="col" { "Asked" } } }
                    tbody {
                        @for row in &rows {
                            tr {
                                td { (user_link(&row.key, &row.login)) }
                                td { (or_none(row.mail.as_deref())) }
                                td { (or_none(row.since.as_deref())) }
                                td { (or_none(row.password_date.as_deref())) }
                                td { @if row.asked { span .tag .doubt { "asked" } } @else { span .tag .quiet { "not asked" } } }
                            }
                        }
                    }
                }
            }
            p .hint { "All of them as a table for a spreadsheet: " (command("homeward resets --csv")) }
        }
        @if let Some(next) = next { p { a .button href={ "/resets?after=" (next) } { "More" } } }
    };
    Ok(shell(&app, &who, "/resets", "Digest resets", body))
}

pub async fn audit(State(app): State<App>, axum::Extension(who): Signed) -> Result<Html, Refused> {
    let look = |c: &crate::view::Reader| Ok((db::audit(&c.enablement()?, AUDIT_ROWS)?, c.now));
    let (rows, now) = app.look(look).await?;
    let body = html! {
        h1 { "Audit" }
        p .lead { "Who asked for what, from the command line or from here, and what came of it. The newest " (AUDIT_ROWS) "." }
        div #audit data-live="" {
            @if rows.is_empty() { p .empty { "Nobody has asked for anything yet." } }
            @else {
                div .scroll tabindex="0" role="region" aria-label="Audit" {
                    table {
                        caption .sr { "Audit" }
                        thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Result" } } }
                        tbody {
                            @for row in &rows {
                                tr { td { (when(row.at, now)) } td { (printable(&row.who)) } td { (printable(&asked(&row.verb))) } td { (printable(&row.result)) } }
                            }
                        }
                    }
                }
            }
        }
    };
    Ok(shell(&app, &who, "/audit", "Audit", body))
}

/// What was asked for, in words where it is understood.
fn asked(verb: &str) -> String {
    serde_json::from_str(verb).map_or_else(|_| verb.to_owned(), |verb| describe(&verb))
}

/// Only an operator's request goes on.
pub fn operator(who: &Who) -> Result<&str, Refused> {
    match who {
        Who::Signed { name, role: Role::Operator, .. } => Ok(name),
        Who::Signed { .. } => Err(Refused::Forbidden("this token may look, and change nothing")),
        Who::Guest => Err(Refused::SignIn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_shows_its_command_apart() {
        let shown = hint("look at it; then: homeward problem retry P1; or <wait>").into_string();
        assert!(shown.contains("<code class=\"cmd\">homeward problem retry P1</code>; or &lt;wait&gt;"), "{shown}");
        assert_eq!(hint("nothing to type").into_string(), "nothing to type");
        let two = hint("first: homeward problem show guard, then: homeward approve abc (or not)").into_string();
        assert_eq!(two.matches("<code").count(), 2, "{two}");
        assert!(two.ends_with("homeward approve abc</code> (or not)"), "{two}");
    }

    #[test]
    fn what_goes_into_a_query_is_encoded() {
        assert_eq!(urlencoded("a b&c=<é>"), "a%20b%26c%3D%3C%C3%A9%3E");
    }
}

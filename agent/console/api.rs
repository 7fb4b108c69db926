//! `/v1`: the documents of the command line's `--json`, page by page; and whether the agent is alive and ready.

use super::{App, Refused};
use crate::model::{Sequence, Status};
use crate::store::enablement as db;
use crate::store::open;
use crate::view::user::{Explained, Explanation, HISTORY_MAX, OutcomeView, UserView};
use crate::view::{ViewError, home::HomeView, problem, resets, user as users_view};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Rows of a page where nobody says how many.
const PAGE: u64 = 100;
const PAGE_MAX: u64 = 1000;

/// A number in a query: an empty one is none at all.
pub fn number(text: &str, most: u64) -> Result<u64, Refused> {
    text.parse().map(|number: u64| number.min(most)).map_err(|_| Refused::Bad(format!("\"{text}\" is no number")))
}

pub fn sequence(text: &str) -> Result<Sequence, Refused> {
    Sequence::parse(text)
        .ok_or_else(|| Refused::Bad(format!("\"{text}\" is no sequence: give 0, or the `sequence` of an event")))
}

/// A status in a query; an empty one is none at all.
pub fn status_of(text: &str) -> Result<Option<Status>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    let known = || Status::ALL.map(Status::as_str).join(", ");
    Status::parse(text).map(Some).ok_or_else(|| Refused::Bad(format!("\"{text}\" is no status; one of {}", known())))
}

#[derive(Deserialize)]
pub struct Page {
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    limit: Option<String>,
}

impl Page {
    /// Row to begin behind, and how many.
    fn place(&self) -> Result<(i64, usize), Refused> {
        let after = self.after.as_deref().map_or(Ok(0), |text| number(text, i64::MAX as u64))?;
        let limit = self.limit.as_deref().map_or(Ok(PAGE), |text| number(text, PAGE_MAX))?.max(1);
        Ok((after as i64, limit as usize))
    }
}

pub async fn status(State(app): State<App>) -> Result<Response, Refused> {
    Ok(Json(&app.overview().await?.status).into_response())
}

#[derive(Serialize)]
struct Users {
    users: Vec<UserView>,
    /// Give it as `after` for the next page; null: there is none.
    next: Option<String>,
}

#[derive(Deserialize)]
pub struct Listed {
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub home: String,
    #[serde(default)]
    pub search: String,
}

pub async fn users(
    State(app): State<App>,
    Query(listed): Query<Listed>,
    Query(page): Query<Page>,
) -> Result<Response, Refused> {
    let (after, limit) = page.place()?;
    let status = status_of(&listed.status)?;
    let (users, next) = app.look(move |c| list(c, &listed, status, after, limit)).await?;
    Ok(Json(Users { users, next: next.map(|row| row.to_string()) }).into_response())
}

pub fn list(
    c: &crate::view::Reader,
    listed: &Listed,
    status: Option<Status>,
    after: i64,
    limit: usize,
) -> Result<(Vec<UserView>, Option<i64>), ViewError> {
    let some = |text: &str| -> Option<String> { (!text.trim().is_empty()).then(|| text.trim().to_owned()) };
    let (home, search) = (some(&listed.home), some(&listed.search));
    let listed = db::Listed { status, home: home.as_deref(), search: search.as_deref(), attributes: &[] };
    users_view::list(c, &c.enablement()?, after, listed, limit)
}

pub async fn user(State(app): State<App>, Path(text): Path<String>) -> Result<Json<UserView>, Refused> {
    let look = move |c: &crate::view::Reader| {
        let db = c.enablement()?;
        UserView::of(c, &db, &c.user(&db, &text)?)
    };
    Ok(Json(app.look(look).await?))
}

pub async fn explain(State(app): State<App>, Path(text): Path<String>) -> Result<Json<Explained>, Refused> {
    Ok(Json(app.look(move |c| Ok(Explanation::of(c, &c.enablement()?, &text)?.document())).await?))
}

pub async fn history(State(app): State<App>, Path(text): Path<String>) -> Result<Json<Vec<OutcomeView>>, Refused> {
    let look = move |c: &crate::view::Reader| {
        let db = c.enablement()?;
        let key = c.user(&db, &text)?.key;
        Ok(db::outcomes_of_user(&db, &key, HISTORY_MAX)?.iter().map(OutcomeView::of).collect())
    };
    Ok(Json(app.look(look).await?))
}

pub async fn homes(State(app): State<App>) -> Result<Json<Vec<HomeView>>, Refused> {
    Ok(Json(app.overview().await?.status.homes.clone()))
}

pub async fn problems(State(app): State<App>, Query(page): Query<Page>) -> Result<Response, Refused> {
    let (after, limit) = page.place()?;
    let look = move |c: &crate::view::Reader| {
        let db = c.enablement()?;
        let problems = problem::list(c, &db, after, limit)?;
        let next = problems.last().filter(|_| problems.len() == limit).map(|row| row.problem.id.to_string());
        let held = problem::held_plan(c, &db)?;
        Ok(json!({ "problems": problems, "next": next, "held": held, "suspect": problem::suspect(c)? }))
    };
    Ok(Json(app.look(look).await?).into_response())
}

pub async fn resets(State(app): State<App>, Query(page): Query<Page>) -> Result<Response, Refused> {
    let (after, limit) = page.place()?;
    let look = move |c: &crate::view::Reader| {
        let db = c.enablement()?;
        let (resets, next) = resets::page(c, &db, after, limit)?;
        let next = next.map(|row| row.to_string());
        Ok(json!({ "resets": resets, "next": next, "campaign": resets::campaign(&db)? }))
    };
    Ok(Json(app.look(look).await?).into_response())
}

/// The process answers: nothing more is meant by it.
pub async fn healthz() -> &'static str {
    "alive\n"
}

/// The agent does its work: the directory was read since the start, the source waits for nobody, the store can be written.
pub async fn readyz(State(app): State<App>) -> Response {
    let seen = app.inside.seen.borrow().clone();
    let mut missing = Vec::new();
    if let Some(held) = &seen.held {
        missing.push(format!("the source waits for somebody: {held}"));
    } else if !seen.refreshed {
        missing.push(format!("the directory is being read: {} users so far", seen.users));
    }
    if let Ok(overview) = app.overview().await
        && let Some(path) = &overview.status.full_disk
    {
        missing.push(format!("the disk that holds {} is full", path.display()));
    }
    match app.look(|c| Ok(open::is_writable(open::Kind::Enablement, c.state_dir()))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => missing.push(crate::error::chain(&error).replace('\n', ": ")),
        Err(_) => missing.push("the store is busy".into()),
    }
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

pub async fn nothing_here() -> Refused {
    Refused::NotFound
}

//! What is told as it happens: the two feeds as JSON lines, or as server-sent events where the reader accepts those, and
//! the live tail of the page. Each reader is a task with a cursor; it waits for the pulse, reads a page, and waits again
//! until the other end has taken it. Who is too slow is let go by `serve`, and resumes by its cursor.

use super::api::{number, sequence};
use super::page::tail::{Filter, row};
use super::{App, Refused, STREAMS_MAX, page};
use crate::model::Sequence;
use crate::store::enablement as db;
use crate::view::ViewError;
use crate::view::events::{FeedName, Place, Stretch, read};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{self, HeaderMap};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Bytes, Frame};
use serde::Deserialize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Rows read at once.
const CHUNK: usize = 500;
/// Chunks that wait for the other end.
const WAITING_MAX: usize = 4;
/// A stream that has nothing to tell says so, that all between us keep it open.
const STILL_HERE_EVERY: Duration = Duration::from_secs(15);
/// A browser that lost us comes back after this.
const RETRY_MS: u64 = 2000;
/// Rows of the live tail that are sent at once; who was away longer sees the newest.
const TAIL_MAX: usize = 200;

#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    follow: Option<String>,
    #[serde(default)]
    limit: Option<String>,
}

pub async fn users(state: State<App>, headers: HeaderMap, asked: Query<Asked>) -> Result<Response, Refused> {
    feed(state, headers, asked, FeedName::Users).await
}

pub async fn outcomes(state: State<App>, headers: HeaderMap, asked: Query<Asked>) -> Result<Response, Refused> {
    feed(state, headers, asked, FeedName::Outcomes).await
}

fn as_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// Where a browser that lost us was.
fn last_event(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty())
}

async fn feed(
    State(app): State<App>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
    name: FeedName,
) -> Result<Response, Refused> {
    let sse = as_events(&headers);
    let after = match last_event(&headers).filter(|_| sse).or(asked.after.as_deref()) {
        Some(text) => sequence(text)?,
        None => Sequence::default(),
    };
    let limit = asked.limit.as_deref().map(|text| number(text, u64::MAX)).transpose()?;
    let follow = sse || asked.follow.is_some_and(|word| word != "false");
    let place_free = app.streams.clone().try_acquire_owned().map_err(|_| Refused::TooMany)?;
    let news = app.pulse.follow();
    // Read before the answer begins: what is gone is told by its status.
    let first = app.look(move |c| read(c, Place::begin(c, name, after)?, CHUNK)).await?;
    let (to, body) = stream(place_free);
    tokio::spawn(tell(app, to, first, Telling { sse, follow, left: limit.unwrap_or(u64::MAX) }, news));
    let kind = if sse { "text/event-stream" } else { "application/x-ndjson" };
    Ok(([(header::CONTENT_TYPE, kind), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], body).into_response())
}

struct Telling {
    sse: bool,
    follow: bool,
    /// Events that may still be told.
    left: u64,
}

async fn tell(app: App, to: Sender<Bytes>, first: Stretch, mut telling: Telling, mut news: watch::Receiver<u64>) {
    let mut stretch = first;
    if telling.sse && to.send(format!("retry: {RETRY_MS}\n\n").into()).await.is_err() {
        return;
    }
    loop {
        let mut text = String::new();
        for event in stretch.events.iter().take(usize::try_from(telling.left).unwrap_or(usize::MAX)) {
            if telling.sse {
                if let Some(resume) = event.resume {
                    text.push_str(&format!("id: {resume}\n"));
                }
                text.push_str(&format!("event: {}\ndata: {}\n\n", event.kind.as_str(), event.json));
            } else {
                text.push_str(&event.json);
                text.push('\n');
            }
        }
        telling.left = telling.left.saturating_sub(stretch.events.len() as u64);
        if !text.is_empty() && to.send(text.into()).await.is_err() {
            return;
        }
        if telling.left == 0 || (stretch.at_end && !telling.follow) {
            return;
        }
        let place = stretch.next;
        if stretch.at_end && !wait(&app, &to, &mut news, telling.sse).await {
            return;
        }
        stretch = match app.look(move |c| read(c, place, CHUNK)).await {
            Ok(stretch) => stretch,
            Err(Refused::View(error)) if error.is_gone() => {
                if telling.sse {
                    let text = page::problem_json(&error.to_string(), &error.hint().0).to_string();
                    let _ = to.send(format!("event: gone\ndata: {text}\n\n").into()).await;
                }
                return;
            }
            // A store that is away for a moment: the reader comes back by its cursor.
            Err(_) => return,
        };
    }
}

/// Until there is news. False: nobody listens any more, or we stop.
async fn wait(app: &App, to: &Sender<Bytes>, news: &mut watch::Receiver<u64>, sse: bool) -> bool {
    let mut stop = app.inside.stop.clone();
    loop {
        tokio::select! {
            changed = news.changed() => return changed.is_ok(),
            () = to.closed() => return false,
            _ = stop.changed() => return false,
            () = tokio::time::sleep(STILL_HERE_EVERY) => {
                if sse && to.send(Bytes::from_static(b": still here\n\n")).await.is_err() {
                    return false;
                }
            }
        }
    }
}

#[derive(Deserialize)]
pub struct TailAsked {
    after: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    user: String,
}

/// The tail of the page: rows as the page has them, ready to be put in.
pub async fn tail_stream(
    State(app): State<App>,
    headers: HeaderMap,
    Query(asked): Query<TailAsked>,
) -> Result<Response, Refused> {
    let mut seen = number(last_event(&headers).unwrap_or(&asked.after), u64::MAX)?;
    let place_free = app.streams.clone().try_acquire_owned().map_err(|_| Refused::TooMany)?;
    let mut news = app.pulse.follow();
    let filter = Arc::new(app.look(move |c| Filter::of(c, &asked.kind, &asked.user)).await?);
    let (to, body) = stream(place_free);
    tokio::spawn(async move {
        if to.send(format!("retry: {RETRY_MS}\n\n").into()).await.is_err() {
            return;
        }
        loop {
            let filter = filter.clone();
            let look = move |c: &crate::view::Reader| {
                let store = c.enablement()?;
                let last = db::last_outcome_seq(&store)?;
                // A store that was put in place of the old one counts from the beginning; who was away long skips.
                let from = if seen > last { 0 } else { seen };
                let mut rows = Vec::new();
                let mut at = from;
                loop {
                    let page = db::outcomes_after(&store, at, CHUNK)?;
                    let Some(newest) = page.last() else { break };
                    at = newest.seq;
                    rows.extend(page.into_iter().filter(|row| filter.wants(row)));
                    let skip = rows.len().saturating_sub(TAIL_MAX);
                    rows.drain(..skip);
                }
                let shown: Vec<(u64, String)> = rows.iter().map(|it| (it.seq, row(it).into_string())).collect();
                Ok::<_, ViewError>((at, shown))
            };
            let Ok((at, rows)) = app.look(look).await else { return };
            seen = at;
            let mut text = String::new();
            for (seq, html) in rows {
                text.push_str(&format!("id: {seq}\ndata: {}\n\n", html.replace(['\r', '\n'], " ")));
            }
            if !text.is_empty() && to.send(text.into()).await.is_err() {
                return;
            }
            if !wait(&app, &to, &mut news, true).await {
                return;
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

fn stream(place: OwnedSemaphorePermit) -> (Sender<Bytes>, Body) {
    let (to, from) = mpsc::channel(WAITING_MAX);
    (to, Body::new(Stream { from, _place: place }))
}

/// How many are followed now.
pub fn followed(app: &App) -> usize {
    STREAMS_MAX - app.streams.available_permits()
}

struct Stream {
    from: Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.get_mut().from.poll_recv(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}

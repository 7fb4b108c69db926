//! The two feeds as CloudEvents, a page at a time from a cursor. A reader that begins at 0 is told of everybody first.
//! Who reads holds the place; nothing here remembers a reader.

use super::{Reader, ViewError};
use crate::feed::FeedKind;
use crate::model::{Outcome, OutcomeKind, Sequence, Standing, Status};
use crate::queue::event::{EnablementEvent, EnablementUser, Event, EventType, UserEvent, UserSnapshot, source_uri};
use crate::store::enablement::{self as db, OutcomeRow};
use rusqlite::Connection;
use serde::Serialize;

/// Which feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum FeedName {
    /// What happened in the directory
    Users,
    /// What became of users
    Outcomes,
}

/// Where a reader of a feed is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Users(Sequence),
    /// Outcomes begin with how everybody stands: behind standing `row`, as of the outcome `at`.
    Standings {
        row: i64,
        at: Sequence,
    },
    Outcomes(Sequence),
}

/// One event, and where to go on behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    pub kind: EventType,
    /// One line of JSON, without its end.
    pub json: String,
    /// A reader who has this may go on from here; `None` while that is nowhere but at the beginning.
    pub resume: Option<Sequence>,
}

/// A stretch of a feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    pub events: Vec<Told>,
    pub next: Place,
    /// Nothing was behind `next` when this was read.
    pub at_end: bool,
}

impl Place {
    /// Begins behind `after`; 0 is the beginning.
    pub fn begin(c: &Reader, feed: FeedName, after: Sequence) -> Result<Place, ViewError> {
        match feed {
            FeedName::Users => Ok(Place::Users(after)),
            FeedName::Outcomes if after == Sequence::default() => {
                let db = c.enablement()?;
                // What became of users meanwhile is told again behind the snapshot: at least once.
                let at = Sequence { epoch: epoch(&db)?, seq: db::last_outcome_seq(&db)? };
                Ok(Place::Standings { row: 0, at })
            }
            FeedName::Outcomes => {
                reachable(&c.enablement()?, after)?;
                Ok(Place::Outcomes(after))
            }
        }
    }

    /// What a reader may give as `after` to go on from here.
    pub fn cursor(self) -> Sequence {
        match self {
            Place::Users(sequence) | Place::Outcomes(sequence) => sequence,
            Place::Standings { .. } => Sequence::default(),
        }
    }
}

/// The next events behind `place`, at most `limit` rows of the store.
pub fn read(c: &Reader, place: Place, limit: usize) -> Result<Stretch, ViewError> {
    let directory = &c.config.directory;
    let source = source_uri(directory.urls.first().map(String::as_str).unwrap_or_default(), &directory.base);
    match place {
        Place::Users(cursor) => users(c, &source, cursor, limit),
        Place::Standings { row, at } => standings(c, &source, row, at, limit),
        Place::Outcomes(cursor) => outcomes(c, &source, cursor, limit),
    }
}

fn line(event: &impl Serialize) -> String {
    // Plain values with string keys: JSON can write each of them.
    serde_json::to_string(event).unwrap_or_default()
}

fn users(c: &Reader, source: &str, cursor: Sequence, limit: usize) -> Result<Stretch, ViewError> {
    let feed = c.feed()?.ok_or_else(|| ViewError::NoStore(c.state_dir().to_owned()))?;
    // A log that was not begun has nothing to tell.
    if feed.epoch()? == 0 {
        return Err(ViewError::NoStore(c.state_dir().to_owned()));
    }
    let page = feed.after(cursor, limit)?;
    let mut events = Vec::with_capacity(page.rows.len());
    for row in &page.rows {
        let kind = match row.kind {
            FeedKind::Created => EventType::UserCreated,
            FeedKind::Updated => EventType::UserUpdated,
            FeedKind::Renamed => EventType::UserRenamed,
            FeedKind::LeftScope => EventType::UserLeftScope,
            FeedKind::Deleted => EventType::UserDeleted,
        };
        let user = UserSnapshot::of(row.key, &row.record, c.login(), c.mail());
        let data = UserEvent { user, changed: row.changed.clone() };
        let mut event = Event::new(source, kind, row.key, row.sequence, row.heard_at, data);
        event.snapshot = page.snapshot;
        // Until a beginner has reached the end, the cursor keeps epoch 0: see `Feed::after`.
        let epoch = if page.snapshot { 0 } else { row.sequence.epoch };
        let resume = Some(Sequence { epoch, seq: row.sequence.seq });
        events.push(Told { kind, json: line(&event), resume });
    }
    if let Some(last) = events.last_mut() {
        last.resume = Some(page.cursor);
    }
    Ok(Stretch { events, next: Place::Users(page.cursor), at_end: page.at_end })
}

fn epoch(db: &Connection) -> Result<u64, ViewError> {
    Ok(db::meta(db, "outcome_epoch")?.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Whether a reader at `cursor` has missed nothing.
fn reachable(db: &Connection, cursor: Sequence) -> Result<(), ViewError> {
    let gone = |why| Err(ViewError::OutcomeGone { cursor: cursor.to_string(), why });
    let purged: u64 = db::meta(db, "outcomes_purged")?.and_then(|text| text.parse().ok()).unwrap_or_default();
    if cursor.epoch != epoch(db)? {
        return gone("the store was built anew since");
    }
    if cursor.seq < purged {
        return gone("later ones are past the retention");
    }
    if cursor.seq > db::last_outcome_seq(db)?.max(purged) {
        return gone("the store was replaced by an older one");
    }
    Ok(())
}

/// How every user stands now who was told of as enabled, or waits, or is a problem.
fn standings(c: &Reader, source: &str, row: i64, at: Sequence, limit: usize) -> Result<Stretch, ViewError> {
    let db = c.enablement()?;
    let chunk = db::standings_after(&db, row, limit)?;
    let done = chunk.len() < limit;
    let last = chunk.last().map_or(row, |(id, _)| *id);
    let mut events = Vec::new();
    for (_, standing) in chunk {
        let Some(kind) = present(&standing) else { continue };
        let problem = db::problem_of_user(&db, &standing.key)?;
        let (why, hint) = match (&problem, kind) {
            (Some(problem), EventType::Problem) => (Some(problem.text.as_str()), Some(problem.hint.as_str())),
            _ => (None, None),
        };
        let data = EnablementEvent::of(&standing, c.login(), c.mail(), why, hint, standing.updated_at);
        let mut event = Event::new(source, kind, standing.key, at, standing.updated_at, data);
        event.snapshot = true;
        events.push(Told { kind, json: line(&event), resume: None });
    }
    if done && let Some(last) = events.last_mut() {
        last.resume = Some(at);
    }
    let next = if done { Place::Outcomes(at) } else { Place::Standings { row: last, at } };
    Ok(Stretch { events, next, at_end: false })
}

/// The event that tells how a user stands; nothing for those of whom nothing was ever told.
fn present(standing: &Standing) -> Option<EventType> {
    match standing.status {
        Status::Enabled | Status::Applying | Status::Retrying | Status::Held if standing.told_enabled => {
            Some(EventType::Enabled)
        }
        Status::Enabled => Some(EventType::Enabled),
        Status::AwaitingPassword => Some(EventType::PasswordResetRequired),
        Status::Waiting => Some(EventType::Waiting),
        Status::Problem => Some(EventType::Problem),
        Status::Planned
        | Status::Applying
        | Status::Retrying
        | Status::Held
        | Status::Disabled
        | Status::Ignored
        | Status::Gone => None,
    }
}

fn outcomes(c: &Reader, source: &str, cursor: Sequence, limit: usize) -> Result<Stretch, ViewError> {
    let db = c.enablement()?;
    // One snapshot for the check and the rows.
    let _tx = crate::store::enablement::reading(&db)?;
    reachable(&db, cursor)?;
    let rows = db::outcomes_after(&db, cursor.seq, limit)?;
    let at_end = rows.len() < limit;
    let mut next = cursor;
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        next.seq = row.seq;
        events.push(outcome(source, next, row)?);
    }
    Ok(Stretch { events, next: Place::Outcomes(next), at_end })
}

fn outcome(source: &str, sequence: Sequence, row: &OutcomeRow) -> Result<Told, ViewError> {
    let outcome: Outcome = crate::store::directory::from_json("an outcome", &row.data)?;
    let lives = outcome.assignment.as_ref();
    let user = EnablementUser {
        key: outcome.key,
        login: outcome.login.as_deref(),
        dn: &outcome.dn,
        mail: outcome.mail.as_deref(),
        status: outcome.status,
        home: lives.map(|lives| &lives.home),
        im_domain: lives.map(|lives| lives.im_domain.as_str()),
        im_address: lives.map(|lives| lives.address.as_str()),
        im_url: outcome.im_url.as_deref(),
        home_url: outcome.home_url.as_deref(),
        digest: outcome.digest,
    };
    let data = EnablementEvent {
        user,
        todo: outcome.todo.clone(),
        rule: outcome.rule.as_deref(),
        why: outcome.why.as_deref(),
        at: row.at.to_string(),
    };
    let kind = match outcome.kind {
        OutcomeKind::Enabled => EventType::Enabled,
        OutcomeKind::Adopted => EventType::Adopted,
        OutcomeKind::Moved => EventType::Moved,
        OutcomeKind::Disabled => EventType::Disabled,
        OutcomeKind::PasswordResetRequired => EventType::PasswordResetRequired,
        OutcomeKind::Ready => EventType::Ready,
        OutcomeKind::Waiting => EventType::Waiting,
        OutcomeKind::Problem => EventType::Problem,
    };
    let json = line(&Event::new(source, kind, row.key, sequence, row.at, data));
    Ok(Told { kind, json, resume: Some(sequence) })
}

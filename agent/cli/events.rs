//! `events`: the two feeds as CloudEvents, one JSON document a line. A reader that begins at 0 is told of everybody first.

use super::context::{Context, each_standing};
use super::{CliError, EventsArgs, FINE, FeedName, tail};
use crate::feed::FeedKind;
use crate::model::{Outcome, OutcomeKind, Sequence, Standing, Status};
use crate::queue::event::{EnablementEvent, EnablementUser, Event, EventType, UserEvent, UserSnapshot, source_uri};
use crate::store::enablement::{self as db, OutcomeRow};
use rusqlite::Connection;

/// Rows read at once.
const CHUNK: usize = 500;

pub fn events(c: &mut Context, args: &EventsArgs) -> Result<u8, CliError> {
    let directory = &c.config.directory;
    let source = source_uri(directory.urls.first().map(String::as_str).unwrap_or_default(), &directory.base);
    match args.feed {
        FeedName::Users => users(c, args, &source),
        FeedName::Outcomes => outcomes(c, args, &source),
    }
}

fn users(c: &mut Context, args: &EventsArgs, source: &str) -> Result<u8, CliError> {
    let mut cursor = args.after;
    let mut feed = loop {
        match c.feed()? {
            // A log that was not begun has nothing to tell.
            Some(feed) if feed.epoch().is_ok_and(|epoch| epoch > 0) => break feed,
            Some(_) | None if !args.follow => return Err(CliError::NoStore(c.state_dir().to_owned())),
            Some(_) | None => std::thread::sleep(tail::LOOK_EVERY),
        }
    };
    loop {
        let page = feed.after(cursor, CHUNK)?;
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
            c.out.json_line(&event)?;
        }
        cursor = page.cursor;
        if page.at_end {
            c.out.flush()?;
            if !args.follow {
                return Ok(FINE);
            }
            std::thread::sleep(tail::LOOK_EVERY);
            // Opened anew: the file may have been replaced.
            if let Ok(Some(now)) = c.feed() {
                feed = now;
            }
        }
    }
}

fn epoch(db: &Connection) -> Result<u64, CliError> {
    Ok(db::meta(db, "outcome_epoch")?.and_then(|text| text.parse().ok()).unwrap_or_default())
}

fn outcomes(c: &mut Context, args: &EventsArgs, source: &str) -> Result<u8, CliError> {
    let mut db = match c.enablement() {
        Err(CliError::NoStore(_)) if args.follow => tail::wait_for_store(c)?,
        db => db?,
    };
    let epoch_now = epoch(&db)?;
    let mut seen = args.after.seq;
    if args.after == Sequence::default() {
        // What became of users meanwhile is told again behind the snapshot: at least once.
        seen = db::last_outcome_seq(&db)?;
        snapshot(c, &db, source, Sequence { epoch: epoch_now, seq: seen })?;
    } else {
        reachable(&db, args.after, epoch_now)?;
    }
    loop {
        let mark = tail::Mark::of(c, &db);
        loop {
            let rows = db::outcomes_after(&db, seen, CHUNK)?;
            let Some(last) = rows.last() else { break };
            seen = last.seq;
            for row in &rows {
                tell(c, source, epoch_now, row)?;
            }
        }
        c.out.flush()?;
        if !args.follow {
            return Ok(FINE);
        }
        mark.wait(c, &mut db)?;
        reachable(&db, Sequence { epoch: epoch_now, seq: seen }, epoch(&db)?)?;
    }
}

/// Whether a reader at `cursor` has missed nothing.
fn reachable(db: &Connection, cursor: Sequence, epoch: u64) -> Result<(), CliError> {
    let gone = |why| Err(CliError::OutcomeGone { cursor: cursor.to_string(), why });
    let purged: u64 = db::meta(db, "outcomes_purged")?.and_then(|text| text.parse().ok()).unwrap_or_default();
    if cursor.epoch != epoch {
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
fn snapshot(c: &mut Context, db: &Connection, source: &str, at: Sequence) -> Result<(), CliError> {
    let (login, mail) = (c.login().to_owned(), c.mail().to_owned());
    each_standing(db, |standing| {
        let Some(kind) = present(&standing) else { return Ok(()) };
        let problem = db::problem_of_user(db, &standing.key)?;
        let (why, hint) = match (&problem, kind) {
            (Some(problem), EventType::Problem) => (Some(problem.text.as_str()), Some(problem.hint.as_str())),
            _ => (None, None),
        };
        let data = EnablementEvent::of(&standing, &login, &mail, why, hint, standing.updated_at);
        let mut event = Event::new(source, kind, standing.key, at, standing.updated_at, data);
        event.snapshot = true;
        c.out.json_line(&event)
    })
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

fn tell(c: &mut Context, source: &str, epoch: u64, row: &OutcomeRow) -> Result<(), CliError> {
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
    c.out.json_line(&Event::new(source, kind, row.key, Sequence { epoch, seq: row.seq }, row.at, data))
}

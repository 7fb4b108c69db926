//! The status document: how things stand, from the stores alone, and the sentences that say so.

use super::home::HomeView;
use super::words::count;
use super::{Reader, ViewError, problem};
use crate::config::Mode;
use crate::directory::source::Guarantees;
use crate::feed::PollerStatus;
use crate::intake::Suspect;
use crate::model::{Fleet, Status, Timestamp};
use crate::store::enablement as db;
use crate::store::open::{self, Kind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The status document; the fields are stable. The same is served over HTTP.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    pub mode: Mode,
    /// An agent holds the stores now.
    pub running: bool,
    pub source: SourceView,
    pub queue: QueueView,
    /// Users by status.
    pub users: BTreeMap<&'static str, u64>,
    pub homes: Vec<HomeView>,
    /// Problems that want a person.
    pub problems: u64,
    /// Changes that the guard holds.
    pub held: u64,
    /// The hash that `approve` takes.
    pub held_hash: Option<String>,
    pub suspect: Option<Suspect>,
    /// A store whose disk is full: nothing is stored until there is room.
    pub full_disk: Option<PathBuf>,
    pub version: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub struct SourceView {
    pub kind: Option<String>,
    pub server: Option<String>,
    pub state: String,
    pub guarantees: Option<Guarantees>,
    pub last_change_at: Option<String>,
    /// How long the oldest change that the worker has not looked at has been known; 0: there is none.
    pub lag_ms: u64,
    /// Users in the directory, as far as the log goes.
    pub users: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct QueueView {
    pub kind: &'static str,
    /// Changed users whom the worker has not looked at.
    pub behind: u64,
    /// Users whose entry is to be written.
    pub to_write: u64,
}

/// How urgent a sentence is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    Good,
    Doubt,
    Bad,
}

impl StatusView {
    /// The document, and the homes it rests on.
    pub fn read(c: &Reader) -> Result<(StatusView, Fleet), ViewError> {
        let db = c.enablement()?;
        let fleet = c.world(&db)?.fleet;
        let (mut poller, mut behind, mut unread_since) = (None, 0, None);
        if let Some(feed) = c.feed()? {
            let cursor = db::cursor(&db)?;
            poller = Some(feed.status()?);
            behind = feed.behind(cursor)?;
            // The log is in the order of hearing. A cursor of another log is the worker's to deal with.
            unread_since = feed.after(cursor, 1).ok().and_then(|page| page.rows.first().map(|row| row.heard_at));
        }
        let plan = problem::held_plan(c, &db)?;
        let view = StatusView {
            mode: c.config.agent.mode,
            running: open::is_locked(c.state_dir()),
            source: source(c, poller.as_ref(), unread_since),
            queue: QueueView { kind: "embedded", behind, to_write: db::intent_count(&db)? },
            users: db::status_counts(&db)?.into_iter().map(|(status, count)| (status.as_str(), count)).collect(),
            homes: fleet.homes.iter().map(HomeView::of).collect(),
            problems: db::open_problem_count(&db)?,
            held: plan.as_ref().map_or(0, |plan| plan.changes.len() as u64),
            held_hash: plan.map(|plan| plan.hash),
            suspect: poller.and_then(|poller| poller.suspect),
            full_disk: full_disk(c.state_dir()),
            version: env!("CARGO_PKG_VERSION"),
        };
        Ok((view, fleet))
    }

    pub fn users_with(&self, status: Status) -> u64 {
        self.users.get(status.as_str()).copied().unwrap_or_default()
    }

    /// How things stand, in sentences, the most urgent first.
    pub fn sentences(&self) -> Vec<(Tone, String)> {
        let mut said = Vec::new();
        if self.mode == Mode::Observe {
            let would = count(self.users_with(Status::Planned), "user");
            said.push((Tone::Doubt, format!("observing: {would} would be enabled; set mode = \"enforce\"")));
        }
        if let Some(path) = &self.full_disk {
            let text =
                format!("the disk that holds {} is full: nothing is stored until there is room: df -h", path.display());
            said.push((Tone::Bad, text));
        }
        if let Some(suspect) = &self.suspect {
            let text = format!(
                "{} of {} users are absent at once: nobody is told until they are seen again, or: homeward approve {}",
                suspect.count, suspect.present, suspect.hash
            );
            said.push((Tone::Bad, text));
        }
        if let Some(hash) = &self.held_hash {
            let text = format!(
                "the guard holds {}: homeward problem show guard, then: homeward approve {hash}",
                count(self.held, "change")
            );
            said.push((Tone::Bad, text));
        }
        if self.problems > 0 {
            let text = format!(
                "{} want{} a person: homeward problem list",
                count(self.problems, "user"),
                if self.problems == 1 { "s" } else { "" }
            );
            said.push((Tone::Bad, text));
        }
        if !self.running {
            said.push((Tone::Doubt, "no agent runs here; this is how things stood: homeward run".into()));
        } else if self.queue.behind > 0 || self.queue.to_write > 0 {
            let text = format!(
                "at work: {} to look at, {} to write",
                count(self.queue.behind, "user"),
                count(self.queue.to_write, "entry").replace("entrys", "entries")
            );
            said.push((Tone::Good, text));
        }
        if said.is_empty() {
            let text = match self.users_with(Status::Enabled) {
                0 => "all is quiet".to_owned(),
                enabled => format!("all is well: {} enabled", count(enabled, "user")),
            };
            said.push((Tone::Good, text));
        }
        said
    }
}

/// Less than a commit needs, on either disk if there are two.
const FULL_BELOW_OCTETS: u64 = 64 << 10;

fn full_disk(state_dir: &Path) -> Option<PathBuf> {
    let is_full = |path: &PathBuf| {
        rustix::fs::statvfs(path).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < FULL_BELOW_OCTETS)
    };
    [Kind::Directory, Kind::Enablement].map(|kind| kind.path(state_dir)).into_iter().find(is_full)
}

fn source(c: &Reader, poller: Option<&PollerStatus>, unread_since: Option<Timestamp>) -> SourceView {
    let status = poller.and_then(|poller| poller.source.as_ref());
    let last_change_at = poller.and_then(|poller| poller.last_change_at);
    SourceView {
        kind: status.map(|status| status.kind.clone()),
        server: status.map(|status| status.server.clone()),
        state: status.map_or_else(|| "nothing heard yet".into(), |status| status.state.clone()),
        guarantees: status.map(|status| status.guarantees.clone()),
        last_change_at: last_change_at.map(|at| at.to_string()),
        lag_ms: unread_since.map_or(0, |since| c.now.since(since).as_millis() as u64),
        users: poller.map_or(0, |poller| poller.present),
    }
}

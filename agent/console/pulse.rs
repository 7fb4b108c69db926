//! Watches the stores for news on a thread of its own, for everybody who follows: the page, streams, metrics. One reader
//! that looks five times a second costs less than each follower looking for itself. Never writes.

use crate::feed::Feed;
use crate::model::Timestamp;
use crate::store::enablement as db;
use crate::store::open;
use crate::view::flow::Flow;
use crate::view::{Reader, ViewError};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// How often the stores are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Rows counted at once.
const CHUNK: usize = 5000;
/// Upper bounds of the time from change to outcome, in seconds.
pub const LAG_BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0];

/// What was counted since this process began, and over the last hour.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub flow: Flow,
    pub changes: u64,
    /// By kind.
    pub outcomes: BTreeMap<String, u64>,
    /// Outcomes at or below each of `LAG_BOUNDS`, not added up; the last is beyond all.
    pub lags: [u64; LAG_BOUNDS.len() + 1],
    pub lag_sum_seconds: f64,
}

impl Counted {
    fn lag(&mut self, ms: u64) {
        let seconds = ms as f64 / 1000.0;
        let at = LAG_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(LAG_BOUNDS.len());
        self.lags[at] += 1;
        self.lag_sum_seconds += seconds;
    }
}

pub struct Pulse {
    counted: Mutex<Counted>,
    beat: watch::Sender<u64>,
}

impl Pulse {
    /// Starts the thread; it ends with `stop`.
    pub fn start(reader: Arc<RwLock<Arc<Reader>>>, stop: watch::Receiver<bool>) -> std::io::Result<Arc<Pulse>> {
        let pulse = Arc::new(Pulse { counted: Mutex::default(), beat: watch::channel(0).0 });
        let watching = pulse.clone();
        std::thread::Builder::new().name("console".into()).spawn(move || {
            let mut place = Place::default();
            let mut filled = false;
            while !*stop.borrow() {
                let reader = reader.read().unwrap_or_else(PoisonError::into_inner).as_ref().clone();
                let reader = Reader { now: Timestamp::now(), ..reader };
                // A store that cannot be read now may be so at the next look; who asks for it is told why.
                let looked = watching.look(&reader, &mut place, &mut filled);
                if !matches!(looked, Ok(false)) {
                    watching.beat.send_modify(|beat| *beat += 1);
                }
                if looked.is_err() {
                    place = Place::default();
                }
                watching.counted().flow.forget(reader.now);
                std::thread::sleep(LOOK_EVERY);
            }
        })?;
        Ok(pulse)
    }

    pub fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with news.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.beat.subscribe()
    }

    /// True: something changed.
    fn look(&self, c: &Reader, place: &mut Place, filled: &mut bool) -> Result<bool, ViewError> {
        let inodes = [open::Kind::Directory, open::Kind::Enablement]
            .map(|kind| std::fs::metadata(kind.path(c.state_dir())).map_or(0, |file| file.ino()));
        if place.inodes != inodes {
            *place = Place { inodes, ..Place::default() };
        }
        let feed = match &mut place.feed {
            Some(feed) => feed,
            none => none.insert(c.feed()?.ok_or_else(|| ViewError::NoStore(c.state_dir().to_owned()))?),
        };
        let store = match &mut place.store {
            Some(store) => store,
            none => none.insert(c.enablement()?),
        };
        let versions = (feed.version()?, open::data_version(store)?);
        if place.versions == Some(versions) {
            return Ok(false);
        }
        // Taken before the rows are read, so that nothing is missed.
        let (head, last) = (feed.head()?, db::last_outcome_seq(store)?);
        if !*filled {
            let flow = Flow::read(c)?;
            self.counted().flow = flow;
            *filled = true;
            (place.change, place.outcome) = (Some((head.epoch, head.seq)), Some(last));
        }
        // A log that was built anew is counted from here.
        let change = match place.change {
            Some((epoch, seq)) if epoch == head.epoch => seq,
            Some(_) | None => head.seq,
        };
        let mut outcome = place.outcome.unwrap_or(last).min(last);
        let mut seen = change;
        loop {
            let changes = feed.heard_after(seen, CHUNK)?;
            let marks = db::outcome_marks_after(store, outcome, CHUNK)?;
            let mut counted = self.counted();
            for (seq, at) in &changes {
                seen = seen.max(*seq);
                counted.changes += 1;
                counted.flow.change(*at);
            }
            for mark in &marks {
                outcome = outcome.max(mark.seq);
                *counted.outcomes.entry(mark.kind.clone()).or_default() += 1;
                counted.flow.outcome(mark.at, &mark.kind);
                mark.took_ms.into_iter().for_each(|ms| counted.lag(ms));
            }
            if changes.len() < CHUNK && marks.len() < CHUNK {
                break;
            }
        }
        place.change = Some((head.epoch, seen));
        place.outcome = Some(outcome);
        place.versions = Some(versions);
        Ok(true)
    }
}

#[derive(Default)]
struct Place {
    inodes: [u64; 2],
    feed: Option<Feed>,
    store: Option<Connection>,
    versions: Option<(i64, i64)>,
    /// Epoch and seq of the last change counted.
    change: Option<(u64, u64)>,
    outcome: Option<u64>,
}

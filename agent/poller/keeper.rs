//! The thread that owns intake: whatever is to be stored passes here, one after the other. It never talks to the
//! directory. After a batch that could not be stored it takes none until the next refresh begins: a later cursor would
//! cover what was lost.

use super::Seen;
use crate::directory::source::{Batch, Presence};
use crate::error::chain;
use crate::intake::{Intake, SourceStatus, Taken};
use crate::model::Timestamp;
use crate::store::StoreError;
use crate::telemetry::lines;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Jobs that wait for the thread. Few: in a refresh it is the store that sets the pace.
const JOBS_WAITING: usize = 1;
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// More changes to known users than this in one window, and hardly a newcomer among them, are a burst: our own write-back,
/// most often. Then a commit takes what comes in `BURST_PAUSE`, and the disk is left to the directory. Otherwise every
/// change is committed at once.
const BURST_CHANGES: u64 = 20;
const BURST_CHANGES_PER_NEWCOMER: u64 = 8;
const BURST_WINDOW: Duration = Duration::from_millis(100);
const BURST_PAUSE: Duration = Duration::from_millis(30);

pub(super) enum Job {
    Begin(Begin),
    /// With the time it was heard.
    Take(Batch, Timestamp),
    Visit(Box<dyn FnOnce(&mut Intake) + Send>),
}

/// A refresh begins.
pub(super) struct Begin {
    /// From a cursor rather than from nothing.
    pub resumed: bool,
    /// Told why a batch could not be stored; none is taken after that.
    pub fault: oneshot::Sender<StoreError>,
}

/// A handle of the thread. It ends, with all stored that was handed over, when every handle is dropped.
#[derive(Clone)]
pub(super) struct Keeper {
    jobs: mpsc::Sender<Job>,
    /// Rung when there is something to look up.
    pub errands: Arc<Notify>,
}

/// The thread is gone: it panicked.
#[derive(Debug, thiserror::Error)]
#[error("the thread that writes directory.db is gone")]
pub struct KeeperGone;

impl Keeper {
    /// The receiver hears when the thread has ended.
    pub fn start(intake: Intake, seen: Arc<watch::Sender<Seen>>) -> std::io::Result<(Keeper, oneshot::Receiver<()>)> {
        let (jobs, waiting) = mpsc::channel(JOBS_WAITING);
        let (ended, ending) = oneshot::channel();
        let errands = Arc::new(Notify::new());
        let desk = Desk { intake, seen, errands: errands.clone(), pass: None, suspect: None, burst: Burst::default() };
        std::thread::Builder::new().name("intake".into()).spawn(move || {
            desk.run(waiting);
            let _ = ended.send(());
        })?;
        Ok((Keeper { jobs, errands }, ending))
    }

    pub async fn begin(&self, begin: Begin) -> Result<(), KeeperGone> {
        self.jobs.send(Job::Begin(begin)).await.map_err(|_| KeeperGone)
    }

    /// Room for one job. Cancel-safe.
    pub async fn room(&self) -> Result<mpsc::Permit<'_, Job>, KeeperGone> {
        self.jobs.reserve().await.map_err(|_| KeeperGone)
    }

    /// Does something with intake, in its turn.
    pub async fn with<T: Send + 'static>(
        &self,
        visit: impl FnOnce(&mut Intake) -> T + Send + 'static,
    ) -> Result<T, KeeperGone> {
        let (answer, answered) = oneshot::channel();
        let visit = Box::new(move |intake: &mut Intake| drop(answer.send(visit(intake))));
        self.jobs.send(Job::Visit(visit)).await.map_err(|_| KeeperGone)?;
        answered.await.map_err(|_| KeeperGone)
    }
}

/// The thread's own side.
struct Desk {
    intake: Intake,
    seen: Arc<watch::Sender<Seen>>,
    errands: Arc<Notify>,
    /// `None`: no batch is taken.
    pass: Option<Pass>,
    /// The hash of the suspicion that was told last.
    suspect: Option<String>,
    burst: Burst,
}

/// Live changes of late; with each window half of them are forgotten.
#[derive(Default)]
struct Burst {
    /// When the present window began.
    since: Option<Instant>,
    changes: u64,
    newcomers: u64,
}

impl Burst {
    /// Takes in what was committed just now; true in a burst.
    fn goes_on(&mut self, changes: u64, newcomers: u64, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let windows = (now.saturating_duration_since(since).as_millis() / BURST_WINDOW.as_millis()).min(63);
        if windows > 0 {
            self.since = Some(now);
        }
        self.changes = (self.changes >> windows) + changes;
        self.newcomers = (self.newcomers >> windows) + newcomers;
        self.changes > BURST_CHANGES.max(self.newcomers * BURST_CHANGES_PER_NEWCOMER)
    }
}

/// A refresh, and the live changes after it.
struct Pass {
    begin: Begin,
    started: Instant,
    told: Instant,
    users: u64,
    changed: u64,
}

impl Desk {
    fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        self.suspect = self.intake.suspect().map(|suspect| suspect.hash.clone());
        self.show(|_| {});
        while let Some(job) = self.next(&mut waiting) {
            match job {
                Job::Begin(begin) => {
                    self.intake.begin_refresh(begin.resumed);
                    let now = Instant::now();
                    self.pass = Some(Pass { begin, started: now, told: now, users: 0, changed: 0 });
                    self.show(|seen| (seen.users, seen.live) = (0, false));
                }
                Job::Take(batch, heard) => self.take(batch, heard),
                Job::Visit(visit) => {
                    visit(&mut self.intake);
                    self.show(|_| {});
                }
            }
            self.tell_suspect();
        }
    }

    /// What was heard during a pause is waiting when it ends; if nothing is, nothing was.
    fn next(&mut self, waiting: &mut mpsc::Receiver<Job>) -> Option<Job> {
        if let Ok(job) = waiting.try_recv() {
            return Some(job);
        }
        self.show(|seen| seen.pausing = false);
        waiting.blocking_recv()
    }

    fn take(&mut self, batch: Batch, heard: Timestamp) {
        let Some(pass) = &mut self.pass else { return };
        let (refresh, complete) = (batch.refresh, batch.complete);
        let started = Instant::now();
        let taken = match self.intake.take(batch, heard) {
            Ok(taken) => taken,
            Err(error) => {
                if let Some(pass) = self.pass.take() {
                    let _ = pass.begin.fault.send(error);
                }
                return;
            }
        };
        let changes = taken.created + taken.changed + taken.removed;
        lines::batch_stored(changes, started.elapsed());
        for unreadable in &taken.unreadable {
            lines::source_entry_unreadable(unreadable.key, &unreadable.problem);
        }
        if refresh {
            pass.users += taken.created + taken.changed + taken.unchanged;
            pass.changed += changes;
        }
        if complete.is_some() {
            if complete == Some(Presence::Everything) && !pass.begin.resumed {
                lines::source_refreshed(pass.users, pass.changed, pass.started.elapsed());
            }
            // A source that compares again and again does it quietly.
            pass.begin.resumed = true;
        } else if refresh && !pass.begin.resumed && pass.told.elapsed() >= PROGRESS_EVERY {
            pass.told = Instant::now();
            lines::source_refresh_progress(pass.users);
        }
        let users = pass.users;
        if complete.is_some() {
            self.tell_live();
        }
        self.show(|seen| {
            seen.users = users;
            seen.refreshed |= complete.is_some();
            seen.live |= complete.is_some();
            if complete.is_some() {
                seen.held = None;
            }
        });
        self.send_on_errands(&taken);
        let (changes, newcomers) = (taken.changed + taken.unchanged, taken.created);
        if !refresh && self.burst.goes_on(changes, newcomers, Instant::now()) {
            self.show(|seen| seen.pausing = true);
            std::thread::sleep(BURST_PAUSE);
        }
    }

    /// Before anybody is shown that it is so.
    fn tell_live(&mut self) {
        let told = self.intake.source().and_then(|source| match source {
            Some(status) => {
                self.show(|seen| seen.server = Some(status.server.clone()));
                self.intake.tell_source(&SourceStatus { state: "live".into(), ..status })
            }
            None => Ok(()),
        });
        if let Err(error) = told {
            // A store that is worse than busy says so with the next batch.
            tracing::debug!(error = chain(&error), "telling what the source is at");
        }
    }

    fn send_on_errands(&self, taken: &Taken) {
        if !taken.to_prove.is_empty() || !taken.containers.is_empty() || !taken.groups.is_empty() {
            self.errands.notify_one();
        }
    }

    fn show(&self, change: impl FnOnce(&mut Seen)) {
        let (head, suspect) = (self.intake.head(), self.intake.suspect().map_or(0, |suspect| suspect.count));
        self.seen.send_if_modified(|seen| {
            let before = seen.clone();
            (seen.head, seen.suspect) = (head, suspect);
            change(seen);
            *seen != before
        });
    }

    fn tell_suspect(&mut self) {
        let suspect = self.intake.suspect();
        let hash = suspect.map(|suspect| suspect.hash.clone());
        if hash == self.suspect {
            return;
        }
        match suspect {
            Some(suspect) => {
                lines::source_suspect(suspect.count, suspect.limit, &suspect.hash);
                // They are looked for from now on.
                self.errands.notify_one();
            }
            // Few enough to be proven: not before that is done.
            None if self.intake.any_missing_by_absence().unwrap_or(true) => return,
            None => lines::source_suspect_ended("they were seen again, or their removal was approved"),
        }
        self.suspect = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_changes_are_no_burst_and_a_run_of_them_is_one_until_it_ends() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut burst = Burst::default();
        assert!(!(0..BURST_CHANGES).any(|n| burst.goes_on(1, 0, at(n))), "few");
        assert!(burst.goes_on(1, 0, at(50)));
        assert!((1..20).all(|n| burst.goes_on(15, 0, at(100 * n))), "it goes on with the next window");
        assert!(!burst.goes_on(1, 0, at(3000)), "long over");
    }

    #[test]
    fn newcomers_are_never_kept_waiting_by_their_own_write_back() {
        let start = Instant::now();
        let mut burst = Burst::default();
        // One after the other, each with the echo of what we wrote.
        let calm = (0..1000).all(|n| {
            let now = start + Duration::from_millis(n);
            !burst.goes_on(0, 1, now) && !burst.goes_on(1, 0, now)
        });
        assert!(calm);
    }
}

//! The loop that joins source and intake: connects, reads, stores, looks up what servers do not tell, and starts again
//! whatever happens. The only writer of directory.db. It decides nothing about a user and writes nothing to the
//! directory.
//!
//! ```text
//! session: connect ─► policies, groups, carriers ─► source ═batches═► keeper (a thread) ═► directory.db
//!                                            errands ◄──rung── │
//!          look up the missing, read subtrees and members again ┘
//! ```
//!
//! What was heard and not stored is heard again: a session that fails is followed by another from the cursor in the
//! store.

mod errands;
mod keeper;
mod session;
mod storage;
pub mod world;

pub use keeper::KeeperGone;

use crate::config::{Config, SourceKind};
use crate::directory::entry::Shape;
use crate::directory::flavour::FlavourProfile;
use crate::directory::source::{Guarantees, SourceError};
use crate::error::{Disposition, Hint, chain};
use crate::intake::{Groups, Intake, SourceStatus};
use crate::model::{Sequence, Timestamp};
use crate::retry::{Backoff, CONNECTION_MOST};
use crate::store::StoreError;
use crate::telemetry::lines;
use keeper::Keeper;
use session::{Ended, Fault};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// A server that was killed knows less than it told us, until its next write. After so many attempts, or so long,
/// everything is read again.
const AHEAD_TRIES: u32 = 6;
const AHEAD_FOR: Duration = Duration::from_secs(60);
const PURGE_EVERY: Duration = Duration::from_secs(3600);

/// What others may ask of the poller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Compare with the whole directory, now.
    Sweep,
    /// The missing users of the suspicion with this hash really left.
    Approve(String),
}

/// How far the poller is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub head: Sequence,
    /// A refresh has completed since the start.
    pub refreshed: bool,
    /// Changes are heard when they happen.
    pub live: bool,
    /// What was heard may not be stored yet: in a burst it is gathered for a moment.
    pub pausing: bool,
    /// Users named by this refresh so far.
    pub users: u64,
    /// The URL of the server where changes are heard, or were last.
    pub server: Option<String>,
    /// Users who are missing, more than the guard believes.
    pub suspect: u64,
    /// Why it cannot go on until somebody acts.
    pub held: Option<String>,
}

/// Why the poller ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum PollerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("starting the thread that writes directory.db")]
    Thread(#[source] std::io::Error),
    #[error(transparent)]
    Gone(#[from] KeeperGone),
}

impl PollerError {
    pub fn disposition(&self) -> Disposition {
        match self {
            PollerError::Store(cause) => cause.disposition(),
            PollerError::Thread(_) | PollerError::Gone(_) => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        match self {
            PollerError::Store(cause) => cause.hint(),
            PollerError::Thread(_) => {
                Hint("check the limits of the service: systemctl show homeward -p TasksMax".into())
            }
            PollerError::Gone(_) => {
                Hint("that is a bug; see: journalctl -u homeward; then: homeward store verify".into())
            }
        }
    }
}

/// Before readers begin: a log that was put back from an older copy begins anew. `seen`: how far somebody knows it to have
/// reached.
pub fn prepare(config: &Config, seen: Sequence) -> Result<(), StoreError> {
    let now = Timestamp::now();
    if let Some(why) = open(config, now)?.renew_if_restored(seen, now)? {
        lines::store_rebuilt("directory.db", why);
    }
    Ok(())
}

/// Made at once, for readers; what a user is will be known when the directory answers.
fn open(config: &Config, now: Timestamp) -> Result<Intake, StoreError> {
    let nobody = Shape::new(&config.directory.base, [], Box::new(|_| false));
    Intake::open(&config.agent.state_dir, nobody, Groups::default(), config.guard, now)
}

/// Runs until `stop` says true, with everything stored that was heard by then.
///
/// # Errors
/// Only where the store cannot be used: whatever the directory does is waited for.
pub async fn run(
    config: Arc<Config>,
    profile: FlavourProfile,
    mut requests: mpsc::Receiver<Request>,
    seen: watch::Sender<Seen>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), PollerError> {
    let seen = Arc::new(seen);
    let intake = open(&config, Timestamp::now())?;
    let (keeper, ended) = Keeper::start(intake, seen.clone()).map_err(PollerError::Thread)?;
    let mut poller = Poller::new(config, profile, keeper, seen);
    let outcome = poller.run(&mut requests, &mut stop).await;
    drop(poller);
    let _ = ended.await;
    outcome
}

struct Poller {
    config: Arc<Config>,
    /// Of the kind of directory that the agent was started for.
    profile: FlavourProfile,
    keeper: Keeper,
    seen: Arc<watch::Sender<Seen>>,
    backoff: Backoff,
    /// Which of the URLs is next.
    url: usize,
    /// The next session reads everything, for this reason.
    full: Option<String>,
    /// Since when, and how often, the server has been behind our cursor.
    ahead: Option<(Instant, u32)>,
    /// Sweeps are counted from here, where one was done by us.
    swept: Option<Instant>,
    /// Not told twice.
    told: Option<String>,
}

impl Poller {
    fn new(config: Arc<Config>, profile: FlavourProfile, keeper: Keeper, seen: Arc<watch::Sender<Seen>>) -> Poller {
        let backoff = Backoff::connection();
        Poller { config, profile, keeper, seen, backoff, url: 0, full: None, ahead: None, swept: None, told: None }
    }

    async fn run(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), PollerError> {
        let mut purge = tokio::time::interval(PURGE_EVERY);
        let mut listening = true;
        let mut delay = Duration::ZERO;
        loop {
            let url = self.config.directory.urls.get(self.url).cloned().unwrap_or_default();
            let plan = session::Plan { full: self.full.clone(), swept: self.swept };
            let (config, profile, keeper) = (self.config.clone(), self.profile.clone(), self.keeper.clone());
            let at = url.clone();
            let session = async move {
                tokio::time::sleep(delay).await;
                session::run(&config, &profile, &at, &keeper, &plan).await
            };
            let mut session = std::pin::pin!(session);
            let ended = loop {
                tokio::select! {
                    biased;
                    () = stopped(stop) => return Ok(()),
                    request = requests.recv(), if listening => match request {
                        Some(Request::Sweep) => break Ok(Ended::SweepDue("asked for")),
                        Some(Request::Approve(hash)) => self.approve(hash).await?,
                        None => listening = false,
                    },
                    _ = purge.tick() => self.purge().await?,
                    ended = &mut session => break ended,
                }
            };
            let was_live = self.seen.borrow().live;
            self.seen.send_if_modified(|seen| std::mem::take(&mut seen.live));
            if was_live {
                self.backoff.reset();
                (self.full, self.ahead, self.told) = (None, None, None);
            }
            delay = match ended {
                Ok(Ended::SweepDue(why)) => {
                    self.swept = Some(Instant::now());
                    self.full = Some(why.into());
                    Duration::ZERO
                }
                Err(fault) => self.after(fault, &url).await?,
            };
        }
    }

    /// What follows a failed session; the time until the next one.
    async fn after(&mut self, fault: Fault, url: &str) -> Result<Duration, PollerError> {
        let text = chain(&fault);
        match &fault {
            Fault::Store(cause) if cause.disposition() == Disposition::Hold => {
                let Fault::Store(cause) = fault else { return Ok(Duration::ZERO) };
                return Err(PollerError::Store(cause));
            }
            Fault::Gone(_) => return Err(PollerError::Gone(KeeperGone)),
            Fault::Store(cause) => {
                let hint = cause.hint().0;
                if self.told.as_ref() != Some(&text) {
                    match cause {
                        StoreError::DiskFull(_) => lines::disk_full(&self.config.agent.state_dir.display().to_string()),
                        _ => lines::loop_held("poller", &text, &hint),
                    }
                }
                self.told = Some(text.clone());
                self.seen.send_modify(|seen| seen.held = Some(format!("{text}; {hint}")));
                return Ok(self.backoff.next_delay());
            }
            Fault::Stalled { behind, after } => {
                lines::store_lagging(*behind, *after);
                return Ok(self.backoff.next_delay());
            }
            Fault::Source(SourceError::RefreshRequired { .. }) if self.full.is_none() => {
                lines::source_cursor_dropped(&text);
                self.full = Some("the server asks for it".into());
                return Ok(Duration::ZERO);
            }
            Fault::Source(SourceError::CursorAhead { .. }) => {
                let (since, tries) = self.ahead.get_or_insert((Instant::now(), 0));
                *tries += 1;
                if *tries >= AHEAD_TRIES || since.elapsed() >= AHEAD_FOR {
                    lines::source_cursor_dropped(&text);
                    self.full = Some("the server is behind our cursor".into());
                    return Ok(Duration::ZERO);
                }
            }
            _ => {}
        }
        let urls = self.config.directory.urls.len().max(1);
        self.url = (self.url + 1) % urls;
        let hold = fault.disposition() == Disposition::Hold;
        // All of them have to refuse before we wait for a person.
        let delay = if hold && self.url == 0 { CONNECTION_MOST } else { self.backoff.next_delay() };
        if hold {
            let hint = fault.hint().0;
            if self.told.as_ref() != Some(&text) {
                lines::source_held(url, &text, &hint);
            }
            self.seen.send_modify(|seen| seen.held = Some(format!("{text}; {hint}")));
            self.told = Some(text.clone());
        } else {
            lines::source_lost(url, &text, delay);
        }
        let state = if hold { "held" } else { "lost" };
        tell(&self.keeper, url, &format!("{state}: {text}"), None).await?;
        Ok(delay)
    }

    async fn approve(&self, hash: String) -> Result<(), PollerError> {
        let approved = self.keeper.with(move |intake| intake.approve(&hash, Timestamp::now())).await?;
        if bearable(approved)?.unwrap_or(false) {
            self.keeper.errands.notify_one();
        }
        Ok(())
    }

    async fn purge(&self) -> Result<(), PollerError> {
        let retention = self.config.queue.retention;
        let purged = self.keeper.with(move |intake| intake.purge(retention, Timestamp::now())).await?;
        bearable(purged)?;
        Ok(())
    }
}

/// Who asks may also just be gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What may be better soon is left for the next time.
fn bearable<T>(outcome: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.disposition() == Disposition::Hold => Err(error),
        Err(error) => {
            tracing::debug!(error = chain(&error), "left for later");
            Ok(None)
        }
    }
}

/// Stores what `status` shows of the source; `None`: its kind and guarantees stay as they were.
async fn tell(
    keeper: &Keeper,
    server: &str,
    state: &str,
    source: Option<(SourceKind, Guarantees)>,
) -> Result<(), PollerError> {
    let (server, state) = (server.to_owned(), state.to_owned());
    let told = keeper
        .with(move |intake| {
            let (kind, guarantees) = match source {
                Some((kind, guarantees)) => (kind.as_str().to_owned(), guarantees),
                None => intake.source()?.map_or_else(Default::default, |status| (status.kind, status.guarantees)),
            };
            intake.tell_source(&SourceStatus { kind, server, state, guarantees })
        })
        .await?;
    bearable(told)?;
    Ok(())
}

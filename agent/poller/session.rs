//! One connection's life: connect, learn what directory it is, prove what was left open, read groups and those who carry
//! our values, then follow the changes until something ends it. It never starts again: the loop in `mod` does.

use super::errands::Errands;
use super::keeper::{Begin, Job, Keeper, KeeperGone};
use super::world::{self, World, WorldError};
use super::{bearable, storage, tell};
use crate::config::{Config, SourceKind};
use crate::directory::connect::{ConnectError, Endpoint};
use crate::directory::flavour::FlavourProfile;
use crate::directory::lookup::{self, LookupError};
use crate::directory::source::scan::Scan;
use crate::directory::source::syncrepl;
use crate::directory::source::{Batch, Change, Source, SourceError};
use crate::directory::stream::{Scope, StreamError};
use crate::error::{Disposition, Hint};
use crate::model::Timestamp;
use crate::store::StoreError;
use crate::telemetry::lines;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// Live changes in one transaction. One that comes alone is stored alone, at once.
const CHANGES_IN_ONE: usize = 5_000;
/// Live changes that wait for the store. The socket is read that far whatever the store does, because slapd keeps what
/// is not read in its own memory, without a limit.
const CHANGES_WAITING: usize = 50_000;
/// The store takes nothing for so long: the connection is given up, and taken up again from the cursor.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// A longer interval means never, and no clock counts that far.
const SWEEP_LATEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How a session ended without fault.
pub(super) enum Ended {
    /// The whole directory is to be compared; why.
    SweepDue(&'static str),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Gone(#[from] KeeperGone),
    #[error("the store took nothing for {after:.0?}, and {behind} changes wait")]
    Stalled { behind: u64, after: Duration },
}

impl Fault {
    pub fn disposition(&self) -> Disposition {
        match self {
            Fault::Connect(cause) => cause.disposition(),
            Fault::World(cause) => cause.disposition(),
            Fault::Lookup(cause) => cause.disposition(),
            Fault::Stream(cause) => cause.disposition(),
            Fault::Source(cause) => cause.disposition(),
            Fault::Store(cause) => cause.disposition(),
            Fault::Stalled { .. } => Disposition::Retry,
            Fault::Gone(_) => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            Fault::Connect(cause) => return cause.hint(),
            Fault::World(cause) => return cause.hint(),
            Fault::Lookup(cause) => return cause.hint(),
            Fault::Stream(cause) => return cause.hint(),
            Fault::Source(cause) => return cause.hint(),
            Fault::Store(cause) => return cause.hint(),
            Fault::Gone(_) => "see: journalctl -u homeward".into(),
            Fault::Stalled { .. } => {
                "see whether the disk is busy (iostat -x 1) or somebody holds the store: homeward store info".into()
            }
        })
    }
}

/// How a session is to begin.
pub(super) struct Plan {
    /// Read everything, for this reason, whatever cursor there is.
    pub full: Option<String>,
    /// When this process last began a sweep.
    pub swept: Option<Instant>,
}

pub(super) async fn run(
    config: &Config,
    profile: &FlavourProfile,
    url: &str,
    keeper: &Keeper,
    plan: &Plan,
) -> Result<Ended, Fault> {
    let directory = &config.directory;
    let endpoint = Endpoint::parse(url, &directory.tls, directory.allow_plaintext)?;
    let mut ldap = world::connect(directory, &endpoint).await?;
    let world = World::read(config, profile, &endpoint, &mut ldap).await?;
    let (shape, groups) = (world.shape(), world.groups.clone());
    keeper.with(move |intake| intake.follow(shape, groups)).await??;

    let looked = storage::take(world.storage.clone(), keeper).await?;
    let mut errands = Errands::new(&world, directory, keeper, ldap);
    errands.all_at_start().await?;
    let groups = world.groups_now(errands.ldap().await?).await?;
    keeper.with(move |intake| groups.store(intake, Timestamp::now())).await??;
    if keeper.with(|intake| intake.needs_carriers()).await?? {
        read_carriers(&world, keeper).await?;
    }
    // What ended a suspicion may be no change: nothing that follows from a cursor would tell.
    let doubted = keeper.with(|intake| intake.suspect().is_some()).await?;
    let full = plan.full.clone().or_else(|| doubted.then(|| "users are missing and not proven gone".to_owned()));
    let cursor = keeper.with(|intake| intake.cursor()).await?;
    let unswept = || looked.unswept && cursor.is_some();
    let full = full.or_else(|| unswept().then(|| "who has which password policy may have changed".to_owned()));
    let cursor = cursor.filter(|_| full.is_none());
    match (world.means.kind, &cursor) {
        (SourceKind::Syncrepl, Some(cursor)) => {
            let context_csns = lookup::context_csns(errands.ldap().await?, &world.naming_context).await?;
            let fingerprint = world.search.fingerprint(&world.access.account());
            if let Some(text) = syncrepl::behind(cursor, &fingerprint, &context_csns) {
                return Err(SourceError::CursorAhead { url: url.to_owned(), text }.into());
            }
        }
        // Domain controllers are asked by their source.
        (SourceKind::Syncrepl, None) | (SourceKind::DirSync | SourceKind::Usn | SourceKind::Poll, _) => {}
    }
    let source = Source::start(&world.means, &world.access, &world.search, cursor.as_ref()).await?;
    let why_full = match (&full, cursor) {
        _ if source.resumed() => None,
        (Some(why), _) => Some(why.as_str()),
        (None, Some(_)) => Some("what is searched has changed"),
        (None, None) => Some("there is no position to go on from"),
    };
    if why_full.is_some() {
        keeper.with(|intake| intake.forget_rereads()).await??;
    }
    let connected = || {
        lines::source_connected(url, world.means.kind.as_str(), &world.why);
        why_full.map(lines::source_refresh_started);
    };
    told(tell(keeper, url, "refreshing", Some((world.means.kind, world.guarantees()))).await)?;
    let bell = Notify::new();
    tokio::select! {
        ended = follow(source, keeper, &bell, connected, sweep_at(config, keeper, plan).await?) => ended,
        ended = errands.run() => ended,
        ended = storage::run(&world, directory, keeper, &bell, &looked) => ended,
    }
}

/// Telling is not worth a session, unless the store is beyond repair.
fn told(outcome: Result<(), super::PollerError>) -> Result<(), Fault> {
    match outcome {
        Ok(()) => Ok(()),
        Err(super::PollerError::Store(error)) => Err(Fault::Store(error)),
        Err(super::PollerError::Gone(gone)) => Err(Fault::Gone(gone)),
        Err(super::PollerError::Thread(_)) => Err(Fault::Gone(KeeperGone)),
    }
}

async fn sweep_at(config: &Config, keeper: &Keeper, plan: &Plan) -> Result<tokio::time::Instant, Fault> {
    let interval = config.directory.sweep_interval.min(SWEEP_LATEST);
    let now = Instant::now();
    let by_store = match bearable(keeper.with(|intake| intake.swept_at()).await?)?.flatten() {
        Some(at) => now + interval.saturating_sub(Timestamp::now().since(at)),
        // This session begins with one.
        None => now + interval,
    };
    // A sweep that found too many missing is not entered in the store, and not begun again at once either.
    Ok(plan.swept.map_or(by_store, |swept| by_store.max(swept + interval)).into())
}

/// Reads on until something ends it; `bell` is rung where it hears of a password policy. In a refresh the store sets the pace; afterwards the socket is drained at once,
/// and what comes while the store is busy goes into its next transaction.
async fn follow(
    mut source: Source,
    keeper: &Keeper,
    bell: &Notify,
    connected: impl FnOnce(),
    sweep_at: tokio::time::Instant,
) -> Result<Ended, Fault> {
    let (fault, mut faulty) = oneshot::channel();
    keeper.begin(Begin { resumed: source.resumed(), fault }).await?;
    let mut waiting = Waiting::default();
    let mut connected = Some(connected);
    let mut live = false;
    loop {
        let stalled_at = waiting.since.map(|since| since + STALLED_AFTER);
        tokio::select! {
            biased;
            error = &mut faulty => return Err(error.map_or(Fault::Gone(KeeperGone), Fault::Store)),
            room = keeper.room(), if !waiting.batches.is_empty() => {
                if let Some((batch, heard)) = waiting.pop() {
                    live |= batch.complete.is_some();
                    room?.send(Job::Take(batch, heard));
                }
            }
            batch = source.next(), if waiting.has_room() => {
                let batch = batch?;
                if storage::is_about_policies(&batch) {
                    bell.notify_one();
                }
                waiting.push(batch);
                if let Some(connected) = connected.take() {
                    connected();
                }
            }
            () = at(stalled_at) => {
                return Err(Fault::Stalled { behind: waiting.changes as u64, after: STALLED_AFTER });
            }
            () = tokio::time::sleep_until(sweep_at), if live => return Ok(Ended::SweepDue("the sweep is due")),
        }
    }
}

/// Never, where there is no such time.
pub(super) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// Heard, and not yet handed to the store.
#[derive(Default)]
struct Waiting {
    /// With the time when its first change was heard.
    batches: VecDeque<(Batch, Timestamp)>,
    changes: usize,
    /// The store has taken nothing since.
    since: Option<Instant>,
}

impl Waiting {
    fn has_room(&self) -> bool {
        match self.batches.back() {
            Some((last, _)) if last.refresh => false,
            _ => self.changes < CHANGES_WAITING,
        }
    }

    fn push(&mut self, batch: Batch) {
        self.changes += batch.changes.len();
        self.since.get_or_insert_with(Instant::now);
        match self.batches.back_mut() {
            Some((last, _)) if !last.refresh && !batch.refresh && last.changes.len() < CHANGES_IN_ONE => {
                last.changes.extend(batch.changes);
                last.cursor = batch.cursor.or(last.cursor.take());
            }
            _ => self.batches.push_back((batch, Timestamp::now())),
        }
    }

    fn pop(&mut self) -> Option<(Batch, Timestamp)> {
        let next = self.batches.pop_front()?;
        self.changes -= next.0.changes.len();
        self.since = (!self.batches.is_empty()).then(Instant::now);
        Some(next)
    }
}

/// Before anything else of a new log: who carries our values. Their assignments are known before others are made.
async fn read_carriers(world: &World, keeper: &Keeper) -> Result<(), Fault> {
    if !world.carriers.is_empty() {
        let any: String = world.carriers.iter().map(|name| format!("({name}=*)")).collect();
        let search = &world.search;
        let mut scan = Scan::start(
            &world.access,
            &search.base,
            Scope::Subtree,
            &format!("(&(objectClass=*)(|{any}))"),
            &search.attributes,
        )
        .await?;
        while let Some(changes) = scan.next().await? {
            take_quietly(keeper, changes).await?;
        }
    }
    keeper.with(|intake| intake.carriers_complete()).await??;
    Ok(())
}

/// Takes what was read for other reasons than that it changed just now: nobody is waiting for these users.
pub(super) async fn take_quietly(keeper: &Keeper, changes: Vec<Change>) -> Result<(), Fault> {
    let batch = Batch { changes, refresh: true, ..Batch::default() };
    keeper.with(move |intake| intake.take(batch, Timestamp::now())).await??;
    Ok(())
}

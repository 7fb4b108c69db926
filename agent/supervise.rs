//! Start, stop, reload, and what systemd is told. Poller and worker run in this one process; arrows go one way: the poller
//! writes directory.db, the worker follows it.

use crate::config::{Config, Flavour, Mode};
use crate::console::{Console, Inside};
use crate::decide::filter::Filter;
use crate::directory::connect::{self, ConnectError};
use crate::directory::flavour::{self, FlavourProfile};
use crate::directory::write_back::{QUEUED_FOR_EACH, Writers};
use crate::error::{Disposition, chain};
use crate::model::*;
use crate::poller::{self, Request, Seen};
use crate::probe::srv::SrvResolver;
use crate::probe::{load, servers};
use crate::retry::{Backoff, CONNECTION_MOST};
use crate::store::enablement as db;
use crate::store::open::{self, Kind};
use crate::telemetry::lines;
use crate::view::Reader;
use crate::worker::service::{self, News, Service, Standing};
use crate::worker::{Core, Input, Settings, Sighting, known_flavour};
use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Asked to stop.
    Stopped,
    /// `--once`: quiet, with so many open problems, and so many changes and removals that the guard holds.
    Quiet { problems: u64, held: u64 },
}

/// How often homes are looked at.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How often the virtual server objects are read.
const DISCOVER_EVERY: Duration = Duration::from_secs(60);
/// For asking the directory what it is, each time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A clean stop takes no longer; systemd waits longer still.
const STOP_WITHIN: Duration = Duration::from_millis(1_500);
/// Requests that wait for the poller.
const REQUESTS_WAITING: usize = 16;
/// Writes out or queued for each writer connection: enough that none runs dry while results are gathered and committed.
/// A new account is written before those that are queued.
const WRITES_FOR_EACH: usize = QUEUED_FOR_EACH;

/// Runs poller and worker in this process until asked to stop, or, with `once`, until quiet.
pub async fn run(config: Config, once: bool) -> anyhow::Result<Ended> {
    let started = std::time::Instant::now();
    for finding in &config.warnings {
        lines::config_doubted(&finding.to_string());
    }
    let state_dir = config.agent.state_dir.clone();
    let _lock = open::lock(&state_dir)?;
    let profile = flavour::profile(flavour_of(&config, once).await?);
    let settings = Settings::of(&config, &profile);
    let shown_to = Reader { config: config.clone(), settings: settings.clone(), now: Timestamp::now() };
    let servers_needed = settings.needs_servers();
    let mut core = Core::open(&state_dir, settings, Timestamp::now())?;
    // Nothing has been added to the log yet, so an older one is known by its end.
    poller::prepare(&config, core.log_seen()?)?;
    if config.discovery.is_some() && db::servers(core.db())?.is_none() {
        // Without them every home that the directory names would be a stranger's.
        let seen = first_servers(&config, once).await?;
        let input = Input { sightings: vec![Sighting::Servers(seen)], ..Input::default() };
        service::say_all(core.step(input, Timestamp::now())?.said);
    }
    lines::agent_started(env!("CARGO_PKG_VERSION"), config.agent.mode, db::standing_count(core.db())?);
    if config.agent.mode == Mode::Observe {
        let planned = db::status_counts(core.db())?.into_iter().find(|(status, _)| *status == Status::Planned);
        lines::agent_observing(planned.map_or(0, |(_, count)| count));
    }

    let (stop, stopped) = watch::channel(false);
    let (seen_by, seen) = watch::channel(Seen::default());
    let (requests, asked) = mpsc::channel(REQUESTS_WAITING);
    let (news_to, news) = mpsc::channel(64);
    let (shown_by, shown) = watch::channel(Standing::default());
    let heartbeat = Arc::new(AtomicU64::new(0));

    let resolver = SrvResolver::new(&config.dns.servers)?;
    let writers = Writers::start(
        config.agent.workers,
        config.directory.clone(),
        config.im.write_back.names(&profile.write_back),
        profile.clone(),
        heard_at(seen.clone()),
    );
    let service = Service {
        state_dir: state_dir.clone(),
        core,
        writers: Some(writers),
        writes_at_once: config.agent.workers * WRITES_FOR_EACH,
        resolver,
        srv_prefix: config.im.srv.clone(),
        sweep_interval: config.directory.sweep_interval,
        news,
        seen: seen.clone(),
        requests,
        standing: shown_by,
        stop: stopped.clone(),
        heartbeat: heartbeat.clone(),
        trouble: None,
    };
    // Homes are looked at before anybody is placed: what was not probed yet takes no newcomers.
    let probes = tokio::spawn(look_around(config.clone(), servers_needed, news_to.clone(), stopped.clone()));
    let runtime = tokio::runtime::Handle::current();
    let (ended_by, mut worker_ended) = oneshot::channel();
    let worker = std::thread::Builder::new()
        .name("worker".into())
        .spawn(move || {
            let result = service.run(&runtime);
            let _ = ended_by.send(());
            result
        })
        .context("starting the worker's thread")?;

    // Whoever asks for a quiet end does not stay to look at a page.
    let console = if once {
        None
    } else {
        let inside = Inside { seen: seen.clone(), stop: stopped.clone() };
        Console::start(shown_to, inside).await
    };
    let mut supervised = Supervised {
        console,
        config: Arc::new(config),
        profile,
        poller: None,
        probes,
        news: news_to,
        seen_by,
        asked,
        requests: None,
        stop,
        stopped,
    };
    supervised.start_poller();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let ended = supervised.watch(once, seen, shown, heartbeat, &mut worker_ended).await;

    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    supervised.stop.send_replace(true);
    if let Some(poller) = supervised.poller.take() {
        let _ = tokio::time::timeout(STOP_WITHIN, poller.end()).await;
    }
    let asked_at = std::time::Instant::now();
    while !worker.is_finished() && asked_at.elapsed() < STOP_WITHIN {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if worker.is_finished() {
        match worker.join() {
            Ok(result) => result?,
            Err(_) => anyhow::bail!("the worker's thread panicked; please report this with the log above"),
        }
    }
    let ended = ended?;
    let why = match ended {
        Ended::Stopped => "asked to stop",
        Ended::Quiet { .. } => "everything is quiet",
    };
    lines::agent_stopped(why);
    tracing::debug!(sqlite_peak_bytes = open::memory_peak(), "ran for {:?}", started.elapsed());
    Ok(ended)
}

/// The kind of directory: as configured, as found at an earlier start, else the directory is asked. Names and keys depend
/// on it, so nothing begins before; who has to ask waits until there is an answer.
async fn flavour_of(config: &Config, once: bool) -> anyhow::Result<Flavour> {
    let remembered = open::reader(Kind::Enablement, &config.agent.state_dir).and_then(|db| known_flavour(&db));
    match (config.directory.flavour, remembered.ok().flatten()) {
        (Some(now), Some(before)) if flavour::profile(now).key != flavour::profile(before).key => anyhow::bail!(
            "the store in {} knows users of a directory of the kind {before}, and [directory] flavour says {now}: their keys \
             have nothing in common; correct flavour, or take another [agent] state_dir, then: homeward check",
            config.agent.state_dir.display()
        ),
        (Some(flavour), _) | (None, Some(flavour)) => return Ok(flavour),
        (None, None) => {}
    }
    // To systemd waiting is running: what is waited for is in the log.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut backoff = Backoff::connection();
    loop {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        let asked = async {
            let (mut ldap, endpoint) = connect::connect(&config.directory, CONNECT_TIMEOUT).await?;
            let root = flavour::root_dse(&mut ldap)
                .await
                .map_err(|_| ConnectError::Closed { url: endpoint.url, doing: "reading the root DSE" })?;
            Ok::<_, ConnectError>(flavour::detect(&root).0)
        };
        let url = config.directory.urls.first().map(String::as_str).unwrap_or_default();
        let error = match asked.await {
            Ok(flavour) => return Ok(flavour),
            Err(error) => error,
        };
        let delay = match error.disposition() {
            Disposition::Hold | Disposition::Park if once => anyhow::bail!("{}; {}", chain(&error), error.hint().0),
            Disposition::Hold | Disposition::Park => {
                lines::source_held(url, &chain(&error), &error.hint().0);
                CONNECTION_MOST
            }
            Disposition::Retry => {
                let delay = backoff.next_delay();
                lines::source_lost(url, &chain(&error), delay);
                delay
            }
        };
        tokio::time::sleep(delay).await;
    }
}

/// Where the poller hears changes; ends when the poller's side does.
fn heard_at(mut seen: watch::Receiver<Seen>) -> watch::Receiver<Option<String>> {
    let (tell, heard_at) = watch::channel(None);
    tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            let server = seen.borrow_and_update().server.clone();
            tell.send_if_modified(|known| {
                *known != server && {
                    *known = server;
                    true
                }
            });
        }
    });
    heard_at
}

/// The poller that runs.
struct Polling {
    task: JoinHandle<Result<(), poller::PollerError>>,
    stop: watch::Sender<bool>,
}

impl Polling {
    /// Asks it to end, and waits until it has stored what it heard: another one reads how far the log reaches only then.
    async fn end(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

struct Supervised {
    console: Option<Console>,
    config: Arc<Config>,
    profile: FlavourProfile,
    poller: Option<Polling>,
    probes: JoinHandle<()>,
    news: mpsc::Sender<News>,
    seen_by: watch::Sender<Seen>,
    /// What the worker asks of the poller, whichever poller runs.
    asked: mpsc::Receiver<Request>,
    /// To the poller that runs now.
    requests: Option<mpsc::Sender<Request>>,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
}

impl Supervised {
    fn start_poller(&mut self) {
        let (requests, asked) = mpsc::channel(REQUESTS_WAITING);
        self.requests = Some(requests);
        let (stop, stopped) = watch::channel(false);
        let task = poller::run(self.config.clone(), self.profile.clone(), asked, self.seen_by.clone(), stopped);
        self.poller = Some(Polling { task: tokio::spawn(task), stop });
    }

    async fn watch(
        &mut self,
        once: bool,
        mut seen: watch::Receiver<Seen>,
        mut shown: watch::Receiver<Standing>,
        heartbeat: Arc<AtomicU64>,
        worker_ended: &mut oneshot::Receiver<()>,
    ) -> anyhow::Result<Ended> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let watchdog = sd_notify::watchdog_enabled();
        let mut tick = tokio::time::interval(watchdog.map_or(Duration::from_secs(20), |every| every / 3));
        let mut last_beat = u64::MAX;
        let mut clock = Timestamp::now();
        loop {
            let poller = async {
                match &mut self.poller {
                    Some(poller) => (&mut poller.task).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = terminate.recv() => return Ok(Ended::Stopped),
                _ = interrupt.recv() => return Ok(Ended::Stopped),
                _ = hangup.recv() => self.reload().await,
                Some(request) = self.asked.recv() => {
                    if let Some(requests) = &self.requests {
                        // Full only while it is busy with as many already.
                        let _ = requests.try_send(request);
                    }
                }
                ended = poller => {
                    self.poller = None;
                    match ended {
                        Ok(Ok(())) => anyhow::bail!("the poller ended without being asked to"),
                        Ok(Err(error)) => return Err(error.into()),
                        Err(_) => anyhow::bail!("the poller panicked; please report this with the log above"),
                    }
                }
                _ = &mut *worker_ended => anyhow::bail!("the worker ended; the line above says why"),
                Ok(()) = seen.changed(), if once => {}
                Ok(()) = shown.changed(), if once => {}
                _ = tick.tick() => {
                    let beat = heartbeat.load(Ordering::Relaxed);
                    if beat != last_beat {
                        last_beat = beat;
                        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                    }
                    let now = Timestamp::now();
                    if now < clock {
                        lines::clock_backwards(clock.since(now));
                    }
                    clock = now;
                }
            }
            if once {
                let (seen, shown) = (seen.borrow().clone(), shown.borrow().clone());
                if let Some(held) = seen.held {
                    anyhow::bail!("{held}");
                }
                if seen.refreshed && !seen.pausing && shown.quiet && shown.cursor >= seen.head {
                    return Ok(Ended::Quiet { problems: shown.problems, held: shown.held + seen.suspect });
                }
            }
        }
    }

    /// SIGHUP: the file is read again. What is wrong with it changes nothing.
    async fn reload(&mut self) {
        let monotonic = sd_notify::NotifyState::monotonic_usec_now();
        let mut states = vec![sd_notify::NotifyState::Reloading];
        states.extend(monotonic.ok());
        let _ = sd_notify::notify(&states);
        let parse = |text: &str| Filter::parse(text).map(drop).map_err(|error| error.to_string());
        match Config::load(Some(&self.config.path), parse) {
            Err(error) => lines::agent_reload_refused(&error.to_string()),
            Ok(config) => self.take(config).await,
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    async fn take(&mut self, config: Config) {
        let (done, taken) = oneshot::channel();
        let settings = Settings::of(&config, &self.profile);
        let servers_needed = settings.needs_servers();
        let _ = self.news.send(News::Reload(Box::new(settings), done)).await;
        match taken.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return lines::agent_reload_refused(&chain(&error)),
            Err(_) => return lines::agent_reload_refused("the worker is gone"),
        }
        if let Some(console) = &self.console {
            console.reload(config.clone(), Settings::of(&config, &self.profile));
        }
        self.probes.abort();
        let looking = look_around(config.clone(), servers_needed, self.news.clone(), self.stopped.clone());
        self.probes = tokio::spawn(looking);
        let searched = |config: &Config| format!("{:?} {}", config.directory, config.policy_fingerprint());
        let poller_too = searched(&config) != searched(&self.config);
        self.config = Arc::new(config);
        if poller_too {
            // It asks for other attributes, or elsewhere: a full refresh follows.
            if let Some(poller) = self.poller.take() {
                poller.end().await;
            }
            self.start_poller();
        }
        lines::agent_reloaded(if poller_too { "policy, homes and directory" } else { "policy and homes" });
    }
}

/// The virtual server objects, for a store that has never seen any: nobody is looked at before. Waits as long as it takes.
async fn first_servers(config: &Config, once: bool) -> anyhow::Result<Vec<VirtualServer>> {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut backoff = Backoff::connection();
    let mut told = None;
    loop {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        let error = match servers::ask(&config.directory, &config.homes, CONNECT_TIMEOUT).await {
            Ok(seen) => return Ok(seen),
            Err(error) => error,
        };
        let (text, hint) = (chain(&error), error.hint().0);
        let delay = match error.disposition() {
            Disposition::Hold | Disposition::Park if once => anyhow::bail!("{text}; {hint}"),
            Disposition::Hold | Disposition::Park => CONNECTION_MOST,
            Disposition::Retry => backoff.next_delay(),
        };
        if told.as_ref() != Some(&text) {
            lines::homes_unknown(&text, &hint);
            told = Some(text);
        }
        tokio::time::sleep(delay).await;
    }
}

/// Facts about homes, each on its own clock.
async fn look_around(config: Config, servers_needed: bool, news: mpsc::Sender<News>, stopped: watch::Receiver<bool>) {
    let probing = probe(config.homes.clone(), news.clone(), stopped.clone());
    tokio::join!(probing, discover(config, servers_needed, news, stopped));
}

/// Reads the virtual server objects, where there are any. What cannot be read is told once, and changes nothing.
async fn discover(config: Config, needed: bool, news: mpsc::Sender<News>, mut stopped: watch::Receiver<bool>) {
    if !needed {
        return;
    }
    let mut told = None;
    loop {
        match servers::ask(&config.directory, &config.homes, CONNECT_TIMEOUT).await {
            Ok(seen) => {
                told = None;
                let _ = news.send(News::Sighted(Sighting::Servers(seen))).await;
            }
            Err(error) => {
                let text = chain(&error);
                if told.as_ref() != Some(&text) {
                    lines::homes_unknown(&text, &error.hint().0);
                    told = Some(text);
                }
            }
        }
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(DISCOVER_EVERY) => {}
        }
    }
}

/// Looks at homes on its own clock: load and health are facts about homes, not steps for users.
async fn probe(homes: Vec<Home>, news: mpsc::Sender<News>, mut stopped: watch::Receiver<bool>) {
    let watched: Vec<Home> = homes.into_iter().filter(|home| home.load.is_some() || home.probe.is_some()).collect();
    if watched.is_empty() {
        return;
    }
    loop {
        for home in &watched {
            if let Some(probe) = &home.probe {
                let outcome = load::healthy(probe, load::TIMEOUT).await;
                let why = outcome.as_ref().err().map(|error| chain(error));
                let sighting = Sighting::Health { home: home.id.clone(), up: outcome.is_ok(), why };
                let _ = news.send(News::Sighted(sighting)).await;
            }
            if let Some(source) = &home.load {
                match load::online(source, load::TIMEOUT).await {
                    Ok(users) => {
                        let _ = news.send(News::Sighted(Sighting::Online { home: home.id.clone(), users })).await;
                    }
                    // The last figure grows stale by itself, and is shown as such.
                    Err(error) => tracing::debug!("{}: {}", home.id, chain(&error)),
                }
            }
        }
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(PROBE_EVERY) => {}
        }
    }
}

//! The console: a page for people, /v1 and two feeds for programs, /metrics, /healthz and /readyz, over HTTP in the agent's
//! process. It reads the stores, as the command line does and by the same functions (`view`); it never waits for the
//! worker and never makes it wait. What an operator asks for here is left as a wish, like any verb.
//!
//! ```text
//! serve (connections, TLS, limits) ─► door (host, who asks) ─► api, feeds, metrics, page ─► view ─► stores
//!                                                                 ▲
//!                                         pulse (a thread) ───────┘ tells of news, counts
//! ```
//!
//! Whatever goes wrong here, the agent goes on.

mod api;
mod door;
mod feeds;
pub mod metrics;
mod page;
mod pulse;
mod serve;
pub mod tokens;

use crate::config::Config;
use crate::error::chain;
use crate::model::{Fleet, Status, Timestamp};
use crate::poller::Seen;
use crate::store::enablement as db;
use crate::telemetry::lines;
use crate::view::problem::{HeldPlan, HeldRow, ProblemRow};
use crate::view::status::StatusView;
use crate::view::{Reader, ViewError};
use axum::Router;
use axum::routing::{get, post};
use door::Door;
use metrics::Metrics;
use pulse::Pulse;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, watch};

/// Connections at once; the next wait in the system's queue.
const CONNECTIONS_MAX: usize = 128;
/// Feeds and live tails followed at once.
const STREAMS_MAX: usize = 32;
/// Readers of the stores at once.
const READERS_MAX: usize = 4;
/// A request that is no stream is answered within this, or told that it was not.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How things stand is read again after this, or after ten times what reading it took.
const FRESH_FOR: Duration = Duration::from_millis(400);
/// Changes of a held plan shown on the first page.
const HELD_SHOWN: usize = 5;
/// Problems shown on the first page.
const PROBLEMS_SHOWN: usize = 10;

/// What the agent lets the console see of itself.
pub struct Inside {
    pub seen: watch::Receiver<Seen>,
    pub stop: watch::Receiver<bool>,
}

/// The running console. Dropping it changes nothing: it ends with `Inside::stop`.
pub struct Console {
    reader: Arc<RwLock<Arc<Reader>>>,
}

impl Console {
    /// Listens, or says why not. `None`: switched off, or it cannot.
    pub async fn start(reader: Reader, inside: Inside) -> Option<Console> {
        let address = reader.config.console.listen?;
        match Console::listen(reader, inside).await {
            Ok((console, url)) => {
                lines::console_started(&url);
                Some(console)
            }
            Err(error) => {
                lines::console_refused(&address.to_string(), &chain(&error), &error.hint());
                None
            }
        }
    }

    async fn listen(reader: Reader, inside: Inside) -> Result<(Console, String), StartError> {
        let config = reader.config.console.clone();
        let Some(address) = config.listen else { return Err(StartError::Off) };
        if !config.is_local() && tokens::read(reader.state_dir())?.is_empty() {
            return Err(StartError::NoToken);
        }
        let tls = config.tls.as_ref().map(serve::tls).transpose()?;
        let listener = TcpListener::bind(address).await.map_err(StartError::Listen)?;
        let address = listener.local_addr().map_err(StartError::Listen)?;
        let url = format!("{}://{address}", if tls.is_some() { "https" } else { "http" });
        let door = Door::new(&config, reader.state_dir()).map_err(StartError::Token)?;
        let reader = Arc::new(RwLock::new(Arc::new(reader)));
        let stop = inside.stop.clone();
        let pulse = Pulse::start(reader.clone(), stop.clone()).map_err(StartError::Listen)?;
        let shared = Arc::new(Shared {
            reader: reader.clone(),
            door,
            pulse,
            metrics: Metrics::begin(),
            inside,
            readers: Semaphore::new(READERS_MAX),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            overview: Mutex::new(None),
            host: serve::host_name(),
        });
        tokio::spawn(serve::serve(listener, tls, routes(shared), stop));
        Ok((Console { reader }, url))
    }

    /// The configuration was read again. Where it listens changes with the next start.
    pub fn reload(&self, config: Config, settings: crate::worker::Settings) {
        let now = Timestamp::now();
        *self.reader.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Reader { config, settings, now });
    }
}

/// What `check` says of it: where it will be, or why it cannot start and what to do. Whether the port is free is not asked: the
/// agent that runs may have it.
pub fn could_start(config: &Config) -> Result<String, (String, String)> {
    let Some(address) = config.console.listen else { return Ok("off".into()) };
    let ready = || {
        if !config.console.is_local() && tokens::read(&config.agent.state_dir)?.is_empty() {
            return Err(StartError::NoToken);
        }
        config.console.tls.as_ref().map(serve::tls).transpose()
    };
    match ready() {
        Ok(tls) => Ok(format!("{}://{address}", if tls.is_some() { "https" } else { "http" })),
        Err(error) => Err((chain(&error).replace('\n', ": "), error.hint())),
    }
}

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("it is switched off")]
    Off,
    #[error("other machines may ask, and there is no token")]
    NoToken,
    #[error("it cannot listen")]
    Listen(#[source] std::io::Error),
    #[error(transparent)]
    Token(#[from] tokens::TokenError),
    #[error("{what} {} cannot be used", path.display())]
    Tls {
        what: &'static str,
        path: std::path::PathBuf,
        #[source]
        cause: serve::PemError,
    },
}

impl StartError {
    fn hint(&self) -> String {
        match self {
            StartError::Off => "set [console] listen".into(),
            StartError::NoToken => "make one, then restart: homeward console token add NAME --role operator".into(),
            StartError::Listen(cause) if cause.kind() == std::io::ErrorKind::AddrInUse => {
                "another program has this port; give [console] listen another one, then restart: systemctl restart homeward".into()
            }
            StartError::Listen(_) => "give [console] listen an address of this machine, then: homeward check".into(),
            StartError::Token(error) => error.hint(),
            StartError::Tls { path, .. } => format!("PEM is wanted, readable by the agent; see: ls -l {}", path.display()),
        }
    }
}

/// What every request can see.
struct Shared {
    reader: Arc<RwLock<Arc<Reader>>>,
    door: Door,
    pulse: Arc<Pulse>,
    metrics: Metrics,
    inside: Inside,
    readers: Semaphore,
    streams: Arc<Semaphore>,
    overview: Mutex<Option<(Instant, Duration, Arc<Overview>)>>,
    /// The machine's name, for titles.
    host: String,
}

type App = Arc<Shared>;

/// How everything stands, read at once.
struct Overview {
    status: StatusView,
    fleet: Fleet,
    /// By home: places taken by users whose entry is not written yet.
    reserved: std::collections::BTreeMap<String, u64>,
    problems: Vec<ProblemRow>,
    held: Option<HeldPlan>,
    /// The first of its changes.
    diff: Vec<HeldRow>,
    srv: std::collections::BTreeMap<&'static str, u64>,
    read_at: Timestamp,
}

impl Overview {
    fn read(c: &Reader) -> Result<Overview, ViewError> {
        let (status, fleet) = StatusView::read(c)?;
        let db = c.enablement()?;
        let mut reserved = std::collections::BTreeMap::new();
        for (home, status, count) in db::home_status_counts(&db)? {
            match status {
                Status::Planned | Status::Applying | Status::Retrying => *reserved.entry(home).or_default() += count,
                Status::Enabled
                | Status::AwaitingPassword
                | Status::Waiting
                | Status::Held
                | Status::Disabled
                | Status::Ignored
                | Status::Problem
                | Status::Gone => {}
            }
        }
        let open = |row: &ProblemRow| !row.problem.dismissed;
        let problems = crate::view::problem::list(c, &db, 0, 200)?.into_iter().filter(open).take(PROBLEMS_SHOWN);
        let mut srv = std::collections::BTreeMap::new();
        for fact in db::srv_facts(&db)? {
            *srv.entry(metrics::answer_word(&fact)).or_default() += 1;
        }
        let held = crate::view::problem::held_plan(c, &db)?;
        let diff = crate::view::problem::diff(c, &db, held.as_ref(), HELD_SHOWN)?;
        Ok(Overview { status, fleet, reserved, problems: problems.collect(), held, diff, srv, read_at: c.now })
    }
}

/// Why a request is not answered as asked.
#[derive(Debug)]
enum Refused {
    View(ViewError),
    /// Everything that may be done at once is being done.
    Busy,
    /// In words for who asked.
    Bad(String),
    NotFound,
    /// Nobody is signed in who may see this.
    SignIn,
    /// Signed in, but may not do this.
    Forbidden(&'static str),
    TooMany,
}

impl From<ViewError> for Refused {
    fn from(error: ViewError) -> Refused {
        Refused::View(error)
    }
}

impl Shared {
    fn reader(&self) -> Arc<Reader> {
        self.reader.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the stores beside the runtime, a few at a time.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Reader) -> Result<T, ViewError> + Send + 'static,
    ) -> Result<T, Refused> {
        let _turn = match tokio::time::timeout(ANSWER_WITHIN / 3, self.readers.acquire()).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) | Err(_) => return Err(Refused::Busy),
        };
        let reader = self.reader();
        let looked = tokio::task::spawn_blocking(move || {
            let reader = Reader { now: Timestamp::now(), ..reader.as_ref().clone() };
            look(&reader)
        });
        match looked.await {
            Ok(looked) => Ok(looked?),
            Err(_) => Err(Refused::Busy),
        }
    }

    /// How everything stands. Many who ask at once cause one reading; what it costs bounds how often it is done.
    async fn overview(&self) -> Result<Arc<Overview>, Refused> {
        let mut known = self.overview.lock().await;
        if let Some((read_at, fresh_for, overview)) = &*known
            && read_at.elapsed() < *fresh_for
        {
            return Ok(overview.clone());
        }
        let started = Instant::now();
        let overview = Arc::new(self.look(Overview::read).await?);
        *known = Some((Instant::now(), FRESH_FOR.max(started.elapsed() * 10), overview.clone()));
        Ok(overview)
    }
}

fn routes(shared: App) -> Router {
    let router = Router::new()
        .route("/", get(page::overview))
        .route("/users", get(page::users))
        .route("/users/{key}", get(page::user))
        .route("/problems", get(page::problems))
        .route("/guard", get(page::guard))
        .route("/resets", get(page::resets))
        .route("/tail", get(page::tail))
        .route("/tail/stream", get(feeds::tail_stream))
        .route("/audit", get(page::audit))
        .route("/signin", get(door::sign_in_form).post(door::sign_in))
        .route("/signout", post(door::sign_out))
        .route("/confirm", get(page::act::confirm))
        .route("/do", post(page::act::carry_out))
        .route("/style.css", get(page::style))
        .route("/live.js", get(page::script))
        .route("/icon.svg", get(page::icon))
        .route("/v1/status", get(api::status))
        .route("/v1/users", get(api::users))
        .route("/v1/users/{key}", get(api::user))
        .route("/v1/users/{key}/explain", get(api::explain))
        .route("/v1/users/{key}/history", get(api::history))
        .route("/v1/homes", get(api::homes))
        .route("/v1/problems", get(api::problems))
        .route("/v1/resets", get(api::resets))
        .route("/v1/events/users", get(feeds::users))
        .route("/v1/events/outcomes", get(feeds::outcomes))
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(api::readyz))
        .route("/metrics", get(metrics::metrics))
        .fallback(api::nothing_here);
    router
        .layer(axum::extract::DefaultBodyLimit::max(door::BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(shared.clone(), door::pass))
        .with_state(shared)
}

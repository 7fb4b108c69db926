//! What every verb needs: the configuration, the names that the directory uses, the stores, and who a text means.

use super::CliError;
use super::error::Candidate;
use super::print::Out;
use crate::config::{Config, Flavour};
use crate::decide::World;
use crate::decide::filter::Filter;
use crate::directory::flavour;
use crate::feed::{Feed, FeedKind};
use crate::model::{HomeId, Presence, Standing, Timestamp, UserKey, normalized_dn};
use crate::store::enablement as db;
use crate::store::open::{self, Kind};
use crate::store::{StoreError, migrate};
use crate::worker::{self, Settings};
use rusqlite::Connection;
use std::future::Future;
use std::path::Path;

/// Of users whom a text may mean, so many are named.
const CANDIDATES_MAX: usize = 20;
/// Standings read at once.
const CHUNK: usize = 1000;

pub fn load_config(path: Option<&Path>) -> Result<Config, CliError> {
    Ok(Config::load(path, |text| Filter::parse(text).map(drop).map_err(|error| error.to_string()))?)
}

/// Runs what waits for the network.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| CliError::Start { what: "the network runtime", cause })?
        .block_on(work)
}

pub struct Context {
    pub config: Config,
    pub out: Out,
    pub now: Timestamp,
    pub settings: Settings,
}

impl Context {
    pub fn new(config: Config, out: Out) -> Context {
        let settings = Settings::of(&config, &flavour::profile(known_flavour(&config)));
        Context { config, out, now: Timestamp::now(), settings }
    }

    pub fn state_dir(&self) -> &Path {
        &self.config.agent.state_dir
    }

    /// The attribute that holds the login name, in lower case.
    pub fn login(&self) -> &str {
        &self.settings.policy.names.login
    }

    pub fn mail(&self) -> &str {
        &self.settings.policy.names.mail
    }

    pub fn login_of(&self, standing: &Standing) -> String {
        standing.record.text(self.login()).map_or_else(|| standing.key.to_string(), str::to_owned)
    }

    fn require(&self, kind: Kind) -> Result<(), CliError> {
        if kind.path(self.state_dir()).exists() { Ok(()) } else { Err(CliError::NoStore(self.state_dir().to_owned())) }
    }

    /// The worker's store, to read.
    pub fn enablement(&self) -> Result<Connection, CliError> {
        self.require(Kind::Enablement)?;
        Ok(open::reader(Kind::Enablement, self.state_dir())?)
    }

    /// The worker's store, to leave a wish in.
    pub fn enablement_writer(&self) -> Result<Connection, CliError> {
        self.require(Kind::Enablement)?;
        // Opening migrates, and an older agent that runs must not find its tables changed.
        let current =
            super::store::version(Kind::Enablement, self.state_dir())? == Some(migrate::newest(Kind::Enablement));
        if !current && open::is_locked(self.state_dir()) {
            let holder = "an agent of an older version".into();
            return Err(StoreError::InUse { path: self.state_dir().to_owned(), holder }.into());
        }
        Ok(open::writer(Kind::Enablement, self.state_dir())?)
    }

    /// The poller's store; `None` while there is none.
    pub fn feed(&self) -> Result<Option<Feed>, CliError> {
        match self.require(Kind::Directory) {
            Ok(()) => Ok(Some(Feed::open(self.state_dir())?)),
            Err(_) => Ok(None),
        }
    }

    pub fn world(&self, db: &Connection) -> Result<World, CliError> {
        Ok(worker::read_world(db, &self.settings, self.now)?)
    }

    /// A home where users can be sent: one that is configured, or found in the directory.
    pub fn home(&self, db: &Connection, name: &str) -> Result<HomeId, CliError> {
        let fleet = self.world(db)?.fleet;
        let homes: Vec<HomeId> =
            fleet.homes.into_iter().filter(|state| state.configured).map(|state| state.home.id).collect();
        homes.iter().find(|id| id.0.eq_ignore_ascii_case(name)).cloned().ok_or_else(|| CliError::NoSuchHome {
            name: name.to_owned(),
            known: homes.into_iter().map(|id| id.0).collect(),
        })
    }

    /// Whom a text means: a key, a DN, a login name or a mail or IM address, in any case.
    pub fn user(&self, db: &Connection, text: &str) -> Result<Standing, CliError> {
        let mut found = find(db, text, &[self.login(), self.mail()])?;
        // Somebody present outranks those of the same name who are gone.
        if found.iter().any(|standing| standing.presence == Presence::Present) {
            found.retain(|standing| standing.presence == Presence::Present);
        }
        match found.len() {
            0 if self.in_log(text)?.is_some() => Err(CliError::NotLookedAt(text.to_owned())),
            0 => Err(CliError::NoSuchUser(text.to_owned())),
            1 => Ok(found.remove(0)),
            _ => Err(ambiguous(text, found.iter().map(|standing| (standing.key, standing.record.dn.clone())))),
        }
    }

    /// The same as a simulated standing, for somebody whom the log has and the worker has not looked at.
    pub fn in_log(&self, text: &str) -> Result<Option<Standing>, CliError> {
        let Some(feed) = self.feed()? else { return Ok(None) };
        let Some(row) = feed.find(text, self.login(), self.mail())?.into_iter().next() else { return Ok(None) };
        let mut standing = Standing::new(row.key, self.now);
        standing.sequence = row.sequence;
        standing.record = row.record;
        standing.presence = match row.kind {
            FeedKind::LeftScope => Presence::LeftScope,
            FeedKind::Deleted => Presence::Deleted,
            FeedKind::Created | FeedKind::Updated | FeedKind::Renamed => Presence::Present,
        };
        Ok(Some(standing))
    }
}

pub fn ambiguous(text: &str, users: impl Iterator<Item = (UserKey, String)>) -> CliError {
    let candidates = users.take(CANDIDATES_MAX).map(|(key, dn)| Candidate { key, dn }).collect();
    CliError::Ambiguous { text: text.to_owned(), candidates }
}

fn find(db: &Connection, text: &str, attributes: &[&str]) -> Result<Vec<Standing>, StoreError> {
    let text = text.trim();
    if let Some(key) = UserKey::parse(text) {
        return Ok(db::standing(db, &key)?.into_iter().map(|(_, standing)| standing).collect());
    }
    if let Some((_, standing)) = db::standing_by_address(db, &text.to_lowercase())? {
        return Ok(vec![standing]);
    }
    db::find_standings(db, text, &normalized_dn(text), attributes, CANDIDATES_MAX)
}

/// Every standing, in chunks, so that a million of them are never held at once.
pub fn each_standing(db: &Connection, mut each: impl FnMut(Standing) -> Result<(), CliError>) -> Result<(), CliError> {
    let mut after = 0;
    loop {
        let chunk = db::standings_after(db, after, CHUNK)?;
        let Some((last, _)) = chunk.last() else { return Ok(()) };
        after = *last;
        for (_, standing) in chunk {
            each(standing)?;
        }
    }
}

/// The kind of directory as configured, else as the agent found it. Before its first start nobody has asked: then the names
/// are those of OpenLDAP, and `check` and `plan` ask the server anyway.
fn known_flavour(config: &Config) -> Flavour {
    let found = || {
        let store = open::reader(Kind::Enablement, &config.agent.state_dir).ok()?;
        worker::known_flavour(&store).ok().flatten()
    };
    config.directory.flavour.or_else(found).unwrap_or(Flavour::OpenLdap)
}

//! What is shown of the stores, as documents: one function for each, whoever shows it. The command line prints them, the
//! console serves them; neither knows the other. Reads only; the one thing it leaves behind is a wish (`wish`).

pub mod error;
pub mod events;
pub mod flow;
pub mod home;
pub mod problem;
pub mod resets;
pub mod status;
pub mod user;
pub mod wish;
pub mod words;

pub use error::{Candidate, ViewError};

use crate::config::{Config, Flavour};
use crate::decide::World;
use crate::directory::flavour;
use crate::feed::{Feed, FeedKind};
use crate::model::{HomeId, Presence, Standing, Timestamp, UserKey, normalized_dn};
use crate::store::enablement as db;
use crate::store::open::{self, Kind};
use crate::store::{StoreError, migrate};
use crate::worker::{self, Settings};
use rusqlite::Connection;
use std::path::Path;

/// Of users whom a text may mean, so many are named.
const CANDIDATES_MAX: usize = 20;
/// Standings read at once.
const CHUNK: usize = 1000;

/// What everybody who shows something needs: the configuration, the names that the directory uses, the stores, and who a
/// text means.
#[derive(Clone, Debug)]
pub struct Reader {
    pub config: Config,
    pub settings: Settings,
    pub now: Timestamp,
}

impl Reader {
    pub fn new(config: Config) -> Reader {
        let settings = Settings::of(&config, &flavour::profile(known_flavour(&config)));
        Reader { config, settings, now: Timestamp::now() }
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

    /// The login of a user, or the key where there is no standing.
    pub fn login_of_key(&self, db: &Connection, key: &UserKey) -> Result<String, ViewError> {
        Ok(db::standing(db, key)?.map_or_else(|| key.to_string(), |(_, standing)| self.login_of(&standing)))
    }

    fn require(&self, kind: Kind) -> Result<(), ViewError> {
        if kind.path(self.state_dir()).exists() { Ok(()) } else { Err(ViewError::NoStore(self.state_dir().to_owned())) }
    }

    /// The worker's store, to read.
    pub fn enablement(&self) -> Result<Connection, ViewError> {
        self.require(Kind::Enablement)?;
        Ok(open::reader(Kind::Enablement, self.state_dir())?)
    }

    /// The worker's store, to leave a wish in.
    pub fn enablement_writer(&self) -> Result<Connection, ViewError> {
        self.require(Kind::Enablement)?;
        // Opening migrates, and an older agent that runs must not find its tables changed.
        let current = open::version(Kind::Enablement, self.state_dir())? == Some(migrate::newest(Kind::Enablement));
        if !current && open::is_locked(self.state_dir()) {
            let holder = "an agent of an older version".into();
            return Err(StoreError::InUse { path: self.state_dir().to_owned(), holder }.into());
        }
        Ok(open::writer(Kind::Enablement, self.state_dir())?)
    }

    /// The poller's store; `None` while there is none.
    pub fn feed(&self) -> Result<Option<Feed>, ViewError> {
        match self.require(Kind::Directory) {
            Ok(()) => Ok(Some(Feed::open(self.state_dir())?)),
            Err(_) => Ok(None),
        }
    }

    pub fn world(&self, db: &Connection) -> Result<World, ViewError> {
        Ok(worker::read_world(db, &self.settings, self.now)?)
    }

    /// A home where users can be sent: one that is configured, or found in the directory.
    pub fn home(&self, db: &Connection, name: &str) -> Result<HomeId, ViewError> {
        let fleet = self.world(db)?.fleet;
        let homes: Vec<HomeId> =
            fleet.homes.into_iter().filter(|state| state.configured).map(|state| state.home.id).collect();
        homes.iter().find(|id| id.0.eq_ignore_ascii_case(name)).cloned().ok_or_else(|| ViewError::NoSuchHome {
            name: name.to_owned(),
            known: homes.into_iter().map(|id| id.0).collect(),
        })
    }

    /// Whom a text means: a key, a DN, a login name or a mail or IM address, in any case.
    pub fn user(&self, db: &Connection, text: &str) -> Result<Standing, ViewError> {
        let mut found = find(db, text, &[self.login(), self.mail()])?;
        // Somebody present outranks those of the same name who are gone.
        if found.iter().any(|standing| standing.presence == Presence::Present) {
            found.retain(|standing| standing.presence == Presence::Present);
        }
        match found.len() {
            0 if self.in_log(text)?.is_some() => Err(ViewError::NotLookedAt(text.to_owned())),
            0 => Err(ViewError::NoSuchUser(text.to_owned())),
            1 => Ok(found.remove(0)),
            _ => Err(ambiguous(text, found.iter().map(|standing| (standing.key, standing.record.dn.clone())))),
        }
    }

    /// The same as a simulated standing, for somebody whom the log has and the worker has not looked at.
    pub fn in_log(&self, text: &str) -> Result<Option<Standing>, ViewError> {
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

pub fn ambiguous(text: &str, users: impl Iterator<Item = (UserKey, String)>) -> ViewError {
    let candidates = users.take(CANDIDATES_MAX).map(|(key, dn)| Candidate { key, dn }).collect();
    ViewError::Ambiguous { text: text.to_owned(), candidates }
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
pub fn each_standing<E: From<StoreError>>(
    db: &Connection,
    mut each: impl FnMut(Standing) -> Result<(), E>,
) -> Result<(), E> {
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

//! The worker's core: decide, reserve, apply, record. Synchronous and without a clock of its own, so that a test can stop
//! it between any two steps; `service` runs it on its thread.
//!
//! One `step` is one transaction: results of writes come in (tx 2), changes and due users are decided (tx 1), and what is
//! to be written is picked. Only after the commit does anything leave for the directory.

pub mod applier;
pub mod decider;
pub mod due;
pub mod service;
mod settings;
pub mod wishes;

pub use due::known_flavour;
pub use settings::{read_fleet, read_world};

use crate::config::Flavour;
use crate::decide::guard::Limits;
use crate::decide::policy::Policy;
use crate::decide::servers::Discovery;
use crate::decide::{World, ownership};
use crate::model::*;
use crate::retry;
use crate::store::enablement as db;
use crate::store::open::{self, Kind};
use crate::store::{Named, StoreError};
use rusqlite::{Connection, TransactionBehavior};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

/// What the worker is told at start and on reload.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The kind of directory that keys and names are of. Kept in the store: who starts again need not ask.
    pub flavour: Flavour,
    pub policy: Policy,
    /// Text that changes when the rules do; stored, and compared at start.
    pub policy_fingerprint: String,
    /// As configured. With discovery a part of one is enough: host and capacity may be empty.
    pub homes: Vec<Home>,
    /// Homes are found in the directory too.
    pub discovery: Option<Discovery>,
    /// The directory names a home by the DN of its virtual server object.
    pub home_takes_dn: bool,
    pub enforce: bool,
    pub guard: Limits,
    /// A certain SRV answer that contradicts the last must hold this long.
    pub srv_confirm: Duration,
    /// A load figure older than this is stale.
    pub load_stale_after: Duration,
    /// `[digest] since`; `None`: from when this store first saw Digest required.
    pub digest_since: Option<Timestamp>,
    /// Outcomes are kept this long.
    pub retention: Duration,
}

/// One user as the log tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserChange {
    pub key: UserKey,
    pub sequence: Sequence,
    pub presence: Presence,
    pub record: UserRecord,
    /// The record as JSON, where it is at hand: it is stored as it came.
    pub text: Option<String>,
    /// Heard live rather than in a refresh.
    pub live: bool,
    /// First seen by the log after our cursor.
    pub created: bool,
    pub heard_at: Timestamp,
}

/// What comes in with one step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Input {
    pub changes: Vec<UserChange>,
    /// The log is covered up to here once this step commits.
    pub through: Option<Sequence>,
    pub results: Vec<(UserKey, WriteResult)>,
    pub answers: Vec<SrvFact>,
    pub sightings: Vec<Sighting>,
    /// How many writes the appliers can take.
    pub room: usize,
}

/// What a probe saw of a home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sighting {
    Online {
        home: HomeId,
        users: u32,
    },
    Health {
        home: HomeId,
        up: bool,
        why: Option<String>,
    },
    /// The virtual server objects of the directory, all of them. None at all is no answer.
    Servers(Vec<VirtualServer>),
}

/// What a step leaves to be done after its commit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    pub writes: Vec<Write>,
    /// Told, in order; for the log.
    pub said: Vec<Said>,
    /// E-mail domains whose SRV answer is wanted.
    pub ask: Vec<String>,
    /// There is more to do at once.
    pub busy: bool,
    /// Nothing before then, unless something comes in.
    pub next_at: Option<Timestamp>,
    /// An operator asked for a full comparison.
    pub sweep: bool,
    /// An operator approved a plan that is not ours: the poller may know it.
    pub approve: Vec<String>,
}

/// Something an operator may want to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    Outcome(Box<Outcome>),
    ProblemOpened { id: i64, key: UserKey, text: String, hint: String },
    ProblemClosed { id: i64, key: UserKey },
    Retrying { key: UserKey, attempt: u32, why: String, at: Timestamp },
    GuardHeld { releases: u64, moves: u64, address_changes: u64, limit: u64, hash: String },
    GuardApproved { count: u64, hash: String, who: String },
    SrvChanged { domain: String, to: String },
    SrvUnknown { domain: String, why: String },
    SrvContradicted { domain: String, from: String, to: String, holds_at: Timestamp },
    Inherited { key: UserKey, from: UserKey },
    HomeDown { home: HomeId, why: String },
    HomeUp { home: HomeId },
    HomeFull { home: HomeId, capacity: u32 },
    HomeAppeared { home: HomeId, host: String, capacity: u32 },
    HomeDisappeared { home: HomeId, users: u32 },
    HomeDoubted { text: String, hint: String },
    WishTaken { who: String, what: String, result: String },
}

/// A write on its way. Not stored: after a crash the intent is still there, and the write is found done or is done again.
#[derive(Clone, PartialEq, Eq, Debug)]
struct InFlight {
    values: WriteBackValues,
    expire: Option<PasswordDate>,
    object_class: Option<String>,
}

/// Set while the log that was built anew is not yet compared with the standings.
const COMPARE: &str = "compare";

/// Rechecks and due users looked at in one step, so that news never waits behind them for long.
const CHUNK: usize = 500;

/// Owns `enablement.db`.
pub struct Core {
    db: Connection,
    settings: Settings,
    world: World,
    in_flight: HashMap<UserKey, InFlight>,
    /// The time of the last step: the next one may be before it.
    clock: Timestamp,
    /// Counts that the running transaction changed.
    dirty_homes: bool,
    /// What passes now was approved by an operator: it does not count against what passes by itself.
    approving: bool,
    /// The record being taken in, as JSON, until it is stored.
    text: Option<String>,
    step: Step,
}

impl Core {
    /// Opens the store and takes in what changed in the configuration since it was last open.
    pub fn open(state_dir: &Path, settings: Settings, now: Timestamp) -> Result<Core, StoreError> {
        let db = open::writer(Kind::Enablement, state_dir)?;
        let world =
            World { policy: settings.policy.clone(), fleet: Fleet::default(), srv: BTreeMap::new(), adopting: false };
        let mut core = Core {
            db,
            settings,
            world,
            in_flight: HashMap::new(),
            clock: Timestamp(i64::MAX),
            dirty_homes: false,
            approving: false,
            text: None,
            step: Step::default(),
        };
        core.reload(core.settings.clone(), now)?;
        Ok(core)
    }

    /// Takes new settings; makes due exactly those whose decision rests on what changed.
    pub fn reload(&mut self, settings: Settings, now: Timestamp) -> Result<(), StoreError> {
        self.settings = settings;
        let db = &mut self.db;
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).named("reload")?;
        let settings = &self.settings;
        let mut policy = settings.policy.clone();
        policy.digest.since = due::digest_since(&tx, settings, now)?;
        due::note_settings(&tx, settings, &policy, now)?;
        tx.commit().named("reload")?;
        self.world.policy = policy;
        self.load_world(now)
    }

    /// Reads what the world looks like from the store: after opening, a reload, and a transaction that failed.
    fn load_world(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.world.adopting = db::meta(&self.db, "adopted")?.is_none();
        self.world.srv = db::srv_facts(&self.db)?.into_iter().map(|fact| (fact.domain.clone(), fact)).collect();
        self.world.fleet = due::fleet(&self.db, &self.settings, now)?;
        Ok(())
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn db(&self) -> &Connection {
        &self.db
    }

    pub fn cursor(&self) -> Result<Sequence, StoreError> {
        db::cursor(&self.db)
    }

    /// How far the poller's log was ever known to reach: one that ends before is an older copy.
    pub fn log_seen(&self) -> Result<Sequence, StoreError> {
        db::log_seen(&self.db)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Nothing to do now: no write on its way or waiting for now, nobody due, no recheck, nothing settling.
    pub fn is_quiet(&self, now: Timestamp) -> Result<bool, StoreError> {
        let waiting = db::next_time(&self.db)?.is_some_and(|at| at <= now);
        let settling = db::settling(&self.db)?.0 > 0;
        Ok(self.in_flight.is_empty()
            && !waiting
            && !settling
            && db::recheck_count(&self.db)? == 0
            && !self.must_compare()?
            && db::wishes(&self.db)?.is_empty())
    }

    /// One transaction. On an error nothing of it is stored, and the same input may come again.
    pub fn step(&mut self, input: Input, now: Timestamp) -> Result<Step, StoreError> {
        self.step = Step::default();
        self.db.execute_batch("begin immediate").named("begin")?;
        let flown: Vec<(UserKey, InFlight)> =
            input.results.iter().filter_map(|(key, _)| Some((*key, self.in_flight.get(key)?.clone()))).collect();
        match self.run(input, now).and_then(|()| self.db.execute_batch("commit").named("commit")) {
            Ok(()) => Ok(std::mem::take(&mut self.step)),
            Err(error) => {
                // A rollback fails only where SQLite rolled back by itself.
                let _ = self.db.execute_batch("rollback");
                for write in std::mem::take(&mut self.step).writes {
                    self.in_flight.remove(&write.key);
                }
                self.in_flight.extend(flown);
                self.load_world(now)?;
                Err(error)
            }
        }
    }

    fn run(&mut self, input: Input, now: Timestamp) -> Result<(), StoreError> {
        if now < self.clock {
            db::pull_back(&self.db, now, retry::USER_MOST)?;
        }
        self.clock = now;
        self.refresh_online(now);
        self.take_wishes(now)?;
        for fact in input.answers {
            self.take_answer(fact)?;
        }
        for sighting in input.sightings {
            self.take_sighting(sighting, now)?;
        }
        for (key, result) in input.results {
            self.settle(key, result, now)?;
        }
        for change in input.changes {
            self.take_change(change, now)?;
        }
        if let Some(through) = input.through {
            db::set_cursor(&self.db, through)?;
        }
        self.take_due(now)?;
        self.take_recheck(now)?;
        self.settle_guard(now)?;
        self.pick_writes(input.room, now)?;
        self.flush_homes()?;
        self.step.next_at = self.next_time()?;
        Ok(())
    }

    fn next_time(&self) -> Result<Option<Timestamp>, StoreError> {
        let settling = db::settling(&self.db)?.1.map(|since| since.plus(crate::decide::guard::SETTLE));
        let next = db::next_time(&self.db)?;
        Ok([settling, next].into_iter().flatten().min())
    }

    /// Adoption is over: everybody was seen once. The log is read again from the beginning, and assignments begin.
    pub fn finish_adoption(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).named("finish_adoption")?;
        db::set_meta(&tx, "adopted", &now.to_string())?;
        db::restart_cursor(&tx, Sequence::default())?;
        tx.commit().named("finish_adoption")?;
        self.world.adopting = false;
        Ok(())
    }

    /// The log was rebuilt: its cursor means nothing any more. Everybody is read again; who is not in the new log is
    /// found by `compare_with_log`. `head`: the end of the new one.
    pub fn restart_feed(&mut self, head: Sequence) -> Result<(), StoreError> {
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).named("restart_feed")?;
        db::restart_cursor(&tx, head)?;
        db::set_meta(&tx, COMPARE, "the log was built anew")?;
        tx.commit().named("restart_feed")
    }

    /// A rebuilt log was read from the beginning and has to be compared with the standings.
    pub fn must_compare(&self) -> Result<bool, StoreError> {
        Ok(db::meta(&self.db, COMPARE)?.is_some())
    }

    /// Standings that a rebuilt and complete log of this epoch does not name left the scope while the old one was lost.
    /// Nothing proves that they were deleted, and the guard counts them like any release.
    pub fn compare_with_log(&mut self, epoch: u64, now: Timestamp) -> Result<u64, StoreError> {
        let mut missing = 0;
        let mut after = 0;
        self.db.execute_batch("begin immediate").named("compare_with_log")?;
        let mut run = |core: &mut Core| -> Result<(), StoreError> {
            loop {
                let chunk = db::standings_of_older_epoch(&core.db, epoch, after, CHUNK)?;
                let Some((last, _)) = chunk.last() else { break };
                after = *last;
                for (id, mut standing) in chunk {
                    if standing.presence == Presence::Present {
                        missing += 1;
                        standing.presence = Presence::LeftScope;
                        core.consider(Some(id), standing, db::Class::Bulk, now)?;
                    }
                }
            }
            db::delete_meta(&core.db, COMPARE)?;
            core.flush_homes()
        };
        match run(self).and_then(|()| self.db.execute_batch("commit").named("compare_with_log")) {
            Ok(()) => Ok(missing),
            Err(error) => {
                let _ = self.db.execute_batch("rollback");
                self.load_world(now)?;
                Err(error)
            }
        }
    }

    /// Problems are tried again at each sweep.
    pub fn retry_problems(&mut self) -> Result<(), StoreError> {
        db::put_recheck(&self.db, &db::About::Status(Status::Problem))
    }

    fn flush_homes(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.dirty_homes) {
            for state in &self.world.fleet.homes {
                db::set_home_assigned(&self.db, &state.home.id.0, state.assigned)?;
            }
        }
        Ok(())
    }

    /// Writes a standing and moves the counts of the homes by what it occupied before and occupies now.
    fn save(
        &mut self,
        id: Option<i64>,
        before: (Option<HomeId>, Option<HomeId>),
        standing: &Standing,
    ) -> Result<i64, StoreError> {
        let (home, leaving) = standing.occupies();
        let unchanged = before.0.as_ref() == home && before.1.as_ref() == leaving;
        if !unchanged {
            for gone in [&before.0, &before.1].into_iter().flatten() {
                self.count(gone, -1)?;
            }
            for taken in [home, leaving].into_iter().flatten() {
                self.count(taken, 1)?;
            }
        }
        db::put_standing_with(&self.db, id, standing, self.text.take())
    }

    fn count(&mut self, home: &HomeId, by: i32) -> Result<(), StoreError> {
        self.dirty_homes = true;
        let Some(state) = self.world.fleet.get_mut(home) else { return Ok(()) };
        let had_room = state.headroom() > 0;
        state.assigned = state.assigned.saturating_add_signed(by);
        let has_room = state.headroom() > 0;
        if has_room && !had_room {
            db::put_recheck(&self.db, &db::About::Waiting(Blocker::Room.code()))?;
            self.step.busy = true;
        } else if had_room && !has_room {
            let (home, capacity) = (state.home.id.clone(), state.home.capacity);
            self.step.said.push(Said::HomeFull { home, capacity });
        }
        Ok(())
    }

    /// Outcomes are told in enforce mode only.
    fn tell(
        &mut self,
        standing: &Standing,
        kind: OutcomeKind,
        why: Option<String>,
        from: Option<HomeId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if !self.settings.enforce {
            return Ok(());
        }
        let names = &self.world.policy.names;
        let assignment = standing.holds().cloned();
        let values =
            assignment.as_ref().map(|assignment| ownership::desired(assignment, &self.world)).unwrap_or_default();
        let mut todo = Vec::new();
        if standing.digest == DigestReadiness::ResetRequired {
            todo.push("reset the password: it predates the Digest policy".to_owned());
        }
        let outcome = Outcome {
            key: standing.key,
            kind,
            login: standing.record.text(&names.login).map(str::to_owned),
            dn: standing.record.dn.clone(),
            mail: standing.record.text(&names.mail).map(str::to_owned),
            status: standing.status,
            assignment,
            im_url: values.url,
            home_url: values.home_url,
            digest: standing.digest,
            rule: standing.rule.clone(),
            why,
            todo,
            from,
            took_ms: Some(now.since(standing.heard_at).as_millis() as u64),
        };
        let data = serde_json::to_string(&outcome)
            .map_err(|error| StoreError::BadRow { what: "outcome", problem: error.to_string() })?;
        db::put_outcome(&self.db, &standing.key, now, kind.as_str(), &data)?;
        self.step.said.push(Said::Outcome(Box::new(outcome)));
        Ok(())
    }
}

/// What a standing occupies, owned, to compare with after it changed.
fn occupied(standing: &Standing) -> (Option<HomeId>, Option<HomeId>) {
    let (home, leaving) = standing.occupies();
    (home.cloned(), leaving.cloned())
}

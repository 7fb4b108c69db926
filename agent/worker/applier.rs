//! What is written to the directory, and tx 2: what came of it. The writing itself is `directory::write_back`.

use super::decider::enabled_status;
use super::{Core, InFlight, Said, occupied};
use crate::decide::{World, decide, digest, ownership};
use crate::error::Disposition;
use crate::model::*;
use crate::retry;
use crate::store::StoreError;
use crate::store::enablement::{self as db, Class};
use std::time::Duration;

/// So many tries, then the user is a problem.
const ATTEMPTS: u32 = 8;
/// Writes without an answer are sent again so often without a pause: a connection that broke says nothing about the next.
const AT_ONCE: u32 = 2;

/// What is to be written for a user as things stand: the difference between the entry and what should be. `None`: nothing.
pub fn plan_write(standing: &Standing, world: &World, now: Timestamp) -> Option<Write> {
    let names = &world.policy.names;
    let found = ownership::found(&standing.record, names);
    let wanted = standing.holds().map(|assignment| ownership::desired(assignment, world));
    let (desired, expire) = match wanted {
        Some(desired) => (desired, digest::expire(standing.digest, &standing.record, standing, &world.policy)),
        // A release clears what is ours, and nothing else.
        None => match ownership::of(standing, world, now) {
            ownership::Ownership::Ours => (WriteBackValues::default(), None),
            ownership::Ownership::Nothing
            | ownership::Ownership::Adoptable(_)
            | ownership::Ownership::Orphan(_)
            | ownership::Ownership::Foreign { .. } => return None,
        },
    };
    let home_is_there = ownership::same_home(&found.home, &desired.home, &world.fleet);
    let home = if home_is_there { found.home.clone() } else { desired.home };
    let pairs = [
        (&names.address, found.address, desired.address),
        (&names.url, found.url, desired.url),
        (&names.home_url, found.home_url, desired.home_url),
        (&names.home, found.home, home),
    ];
    let mut gains = false;
    let changes: Vec<AttributeChange> = pairs
        .into_iter()
        .filter(|(_, old, new)| !ownership::same(old, new))
        .map(|(attribute, old, new)| {
            gains |= new.is_some();
            AttributeChange { attribute: attribute.clone(), old, new }
        })
        .collect();
    if changes.is_empty() && expire.is_none() {
        return None;
    }
    let has_class = |class: &str| {
        standing
            .record
            .values("objectclass")
            .iter()
            .filter_map(Value::as_text)
            .any(|value| value.eq_ignore_ascii_case(class))
    };
    let object_class = (gains && !names.object_class.is_empty() && !has_class(&names.object_class))
        .then(|| names.object_class.clone());
    let (key, dn) = (standing.key, standing.record.dn.clone());
    Some(Write { key, dn, changes, object_class, expire, urgent: false })
}

impl Core {
    /// Picks what the appliers can take, most urgent first, never two for one entry.
    pub(super) fn pick_writes(&mut self, room: usize, now: Timestamp) -> Result<(), StoreError> {
        if room == 0 || !self.settings.enforce {
            return Ok(());
        }
        let ready = db::ready_intents(&self.db, now, room + self.in_flight.len())?;
        for intent in ready {
            if self.step.writes.len() >= room {
                break;
            }
            let key = intent.key;
            if self.in_flight.contains_key(&key) {
                continue;
            }
            let Some((id, mut standing)) = db::standing(&self.db, &key)? else {
                db::delete_intent(&self.db, &key)?;
                continue;
            };
            let Some(mut write) = plan_write(&standing, &self.world, now) else {
                // It is there already, or is no longer ours to clear.
                db::delete_intent(&self.db, &key)?;
                let before = occupied(&standing);
                self.written(&mut standing, None, now)?;
                self.save(Some(id), before, &standing)?;
                continue;
            };
            write.urgent = intent.class == Class::New;
            if write.expire.is_some() {
                // The attempt is recorded before it is made: a password is asked for once.
                standing.reset_asked_for = write.expire.clone();
                let before = occupied(&standing);
                self.save(Some(id), before, &standing)?;
            }
            let values = standing.holds().map(|a| ownership::desired(a, &self.world)).unwrap_or_default();
            let flight = InFlight { values, expire: write.expire.clone(), object_class: write.object_class.clone() };
            self.in_flight.insert(key, flight);
            self.step.writes.push(write);
        }
        Ok(())
    }

    /// Takes the result of a write.
    pub(super) fn settle(&mut self, key: UserKey, result: WriteResult, now: Timestamp) -> Result<(), StoreError> {
        let Some(flight) = self.in_flight.remove(&key) else { return Ok(()) };
        let Some((id, mut standing)) = db::standing(&self.db, &key)? else { return Ok(()) };
        let before = occupied(&standing);
        let changed_meanwhile = db::delete_due_why(&self.db, &key, "written")?;
        match result {
            WriteResult::Applied { expire } => {
                db::delete_intent(&self.db, &key)?;
                if matches!(expire, ExpireResult::Unanswered | ExpireResult::Refused(_)) && flight.expire.is_some() {
                    // Not known to be done: it may be asked for once more.
                    standing.reset_asked_for = None;
                    if let ExpireResult::Refused(refusal) = &expire {
                        standing.reset_asked_for = flight.expire.clone();
                        let hint = refusal.hint().0;
                        self.problem(&mut standing, "expire-refused", refusal.to_string(), hint, now)?;
                    }
                }
                note_written(&mut standing, &flight, &self.world, now);
                self.written(&mut standing, Some(flight.values), now)?;
                self.save(Some(id), before, &standing)?;
                // What came in while the write was out was taken in, but not decided.
                if changed_meanwhile { self.reconsider(&key, now) } else { Ok(()) }
            }
            WriteResult::Mismatch { current } => {
                take_over(&mut standing.record, current, &self.world);
                let attempts = db::intent(&self.db, &key)?.map_or(0, |intent| intent.attempts) + 1;
                self.save(Some(id), before, &standing)?;
                self.consider(Some(id), standing, Class::Change, now)?;
                if db::intent(&self.db, &key)?.is_some() {
                    let at = if attempts < 3 { now } else { now.plus(retry::user_retry_delay(attempts - 2)) };
                    db::postpone_intent(&self.db, &key, attempts, at)?;
                    if at > now
                        && let Some((id, mut standing)) = db::standing(&self.db, &key)?
                    {
                        standing.status = Status::Retrying;
                        let before = occupied(&standing);
                        self.save(Some(id), before, &standing)?;
                    }
                }
                Ok(())
            }
            WriteResult::NotFound => {
                db::delete_intent(&self.db, &key)?;
                if standing.holds().is_none() {
                    self.written(&mut standing, None, now)?;
                } else {
                    // The log will tell what became of the entry; should it not, this looks again.
                    db::put_due(&self.db, &key, now.plus(Duration::from_secs(30)), "look")?;
                    standing.status = Status::Retrying;
                }
                self.save(Some(id), before, &standing)?;
                if changed_meanwhile { self.reconsider(&key, now) } else { Ok(()) }
            }
            WriteResult::Unanswered => {
                if flight.expire.is_some() {
                    standing.reset_asked_for = None;
                }
                // At once: if it was done, the values that it expects are not there, and what is there is read.
                self.retry_later(id, standing, before, "no answer came".into(), AT_ONCE, now)?;
                if changed_meanwhile { self.reconsider(&key, now) } else { Ok(()) }
            }
            WriteResult::Refused(refusal) => {
                if flight.expire.is_some() {
                    standing.reset_asked_for = None;
                }
                match refusal.disposition() {
                    Disposition::Park => {
                        db::delete_intent(&self.db, &key)?;
                        let hint = refusal.hint().0;
                        self.problem(&mut standing, "write-refused", refusal.to_string(), hint, now)?;
                        self.save(Some(id), before, &standing)?;
                    }
                    Disposition::Retry | Disposition::Hold => {
                        self.retry_later(id, standing, before, refusal.to_string(), 0, now)?;
                    }
                }
                if changed_meanwhile { self.reconsider(&key, now) } else { Ok(()) }
            }
        }
    }

    fn reconsider(&mut self, key: &UserKey, now: Timestamp) -> Result<(), StoreError> {
        match db::standing(&self.db, key)? {
            Some((id, standing)) => self.consider(Some(id), standing, Class::Change, now),
            None => Ok(()),
        }
    }

    /// The first `at_once` attempts are repeated without a pause.
    fn retry_later(
        &mut self,
        id: i64,
        mut standing: Standing,
        before: (Option<HomeId>, Option<HomeId>),
        why: String,
        at_once: u32,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = standing.key;
        let attempt = db::intent(&self.db, &key)?.map_or(0, |intent| intent.attempts) + 1;
        if attempt >= ATTEMPTS {
            db::delete_intent(&self.db, &key)?;
            let hint =
                format!("see that the directory takes writes (homeward check), then: homeward user recheck {key}");
            self.problem(&mut standing, "write-failed", format!("{why}, {attempt} times in a row"), hint, now)?;
        } else {
            let at = if attempt <= at_once { now } else { now.plus(retry::user_retry_delay(attempt - at_once)) };
            standing.status = Status::Retrying;
            standing.updated_at = now;
            db::postpone_intent(&self.db, &key, attempt, at)?;
            self.step.said.push(Said::Retrying { key, attempt, why, at });
        }
        self.save(Some(id), before, &standing).map(drop)
    }

    /// The directory has what was wanted: record it and tell it.
    fn written(
        &mut self,
        standing: &mut Standing,
        values: Option<WriteBackValues>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        standing.updated_at = now;
        let Some(assignment) = standing.holds().cloned() else {
            // Why the user is left alone now is why the place was taken away.
            let why = match decide(standing, &self.world, now).wanted {
                Wanted::LeftAlone { why } => why.as_str(),
                Wanted::Enabled { .. } | Wanted::Released { .. } | Wanted::Wait { .. } | Wanted::Refused { .. } => "",
            };
            return self.finish_release(standing, why, now);
        };
        let from = standing.leaving.take().filter(|home| *home != assignment.home);
        if let Some(values) = values {
            standing.applied = values;
        }
        standing.status = enabled_status(standing.digest);
        if standing.wishes.home.as_ref() == Some(&assignment.home) {
            standing.wishes.home = None;
        }
        self.close_problem(&standing.key)?;
        let told = standing.told_digest;
        standing.told_digest = standing.digest;
        self.tell_enabled(standing, false, told, from, now)
    }
}

/// The record shows at once what we wrote; its echo in the log will say the same.
fn note_written(standing: &mut Standing, flight: &InFlight, world: &World, now: Timestamp) {
    let names = &world.policy.names;
    let previous = ownership::found(&standing.record, names);
    standing.previous = Some((previous, now));
    let values = &flight.values;
    for (name, value) in [
        (&names.address, &values.address),
        (&names.url, &values.url),
        (&names.home_url, &values.home_url),
        (&names.home, &values.home),
    ] {
        if !name.is_empty() {
            standing.record.set(name, value.iter().map(|value| Value::Text(value.clone())).collect());
        }
    }
    if let Some(class) = &flight.object_class {
        let mut classes = standing.record.values("objectclass").to_vec();
        if !classes.iter().filter_map(Value::as_text).any(|known| known.eq_ignore_ascii_case(class)) {
            classes.push(Value::Text(class.clone()));
            standing.record.set("objectclass", classes);
        }
    }
}

/// What was read just now of the entry: its DN, the write-back attributes and its classes.
fn take_over(record: &mut UserRecord, current: UserRecord, world: &World) {
    let names = &world.policy.names;
    if !current.dn.is_empty() {
        record.dn = current.dn.clone();
    }
    for name in [&names.address, &names.url, &names.home_url, &names.home, &"objectclass".to_owned()] {
        if !name.is_empty() {
            record.set(name, current.values(name).to_vec());
        }
    }
}

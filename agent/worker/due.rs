//! The second inlet: times that came, facts that changed, and the guard's settling. None of it troubles the directory:
//! each standing keeps its last record.

use super::{CHUNK, Core, Said, Settings, Sighting};
use crate::config::Flavour;
use crate::decide::guard;
use crate::decide::policy::Policy;
use crate::decide::servers::{self, Effective};
use crate::model::*;
use crate::probe::load;
use crate::store::StoreError;
use crate::store::enablement::{self as db, About, Class, HomeRow};
use rusqlite::Connection;

/// A health figure older than this is unknown.
const HEALTH_STALE: std::time::Duration = std::time::Duration::from_secs(120);

const FLAVOUR: &str = "flavour";

/// The kind of directory that this store was made for; `None`: nobody knew yet.
pub fn known_flavour(db: &Connection) -> Result<Option<Flavour>, StoreError> {
    Ok(db::fact(db, FLAVOUR)?.and_then(|(value, _)| Flavour::parse(&value)))
}

/// When Digest came into force, where the configuration does not say: when this store first saw it required. An upper
/// bound: nobody with an old password is missed, some with a new one may be asked again.
pub(super) fn digest_since(db: &Connection, settings: &Settings, now: Timestamp) -> Result<Timestamp, StoreError> {
    if let Some(since) = settings.digest_since {
        return Ok(since);
    }
    if !settings.policy.digest.required {
        return Ok(settings.policy.digest.since);
    }
    if let Some((value, _)) = db::fact(db, "digest-first-required")?
        && let Ok(ms) = value.parse()
    {
        return Ok(Timestamp(ms));
    }
    db::put_fact(db, "digest-first-required", &now.0.to_string(), now)?;
    Ok(now)
}

/// Compares the settings with those last used, and makes due those whose decision rests on what changed. In a store
/// without standings that is nobody: a recheck would follow a first pass, and do it twice.
pub(super) fn note_settings(
    db: &Connection,
    settings: &Settings,
    policy: &Policy,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mode = if settings.enforce { "enforce" } else { "observe" };
    let digest = format!("{:?}", policy.digest);
    let everyone = [("policy", settings.policy_fingerprint.as_str()), ("mode", mode), ("digest", &digest)];
    let mut changed = false;
    for (name, value) in everyone {
        changed |= db::put_fact(db, name, value, now)?;
    }
    if changed && db::standing_count(db)? > 0 {
        db::put_recheck(db, &About::Everyone)?;
    }
    if db::meta(db, "outcome_epoch")?.is_none() {
        db::set_meta(db, "outcome_epoch", &now.0.to_string())?;
    }
    db::put_fact(db, FLAVOUR, settings.flavour.as_str(), now)?;
    note_homes(db, settings, now)
}

/// The homes that count now, with the objects that stand for them.
fn homes(settings: &Settings, known: &[KnownServer]) -> Vec<Effective> {
    servers::homes(&settings.homes, settings.discovery, known, settings.home_takes_dn)
}

/// Compares the homes with those last known, and makes due those whose decision rests on what changed.
fn note_homes(db: &Connection, settings: &Settings, now: Timestamp) -> Result<(), StoreError> {
    let anybody = db::standing_count(db)? > 0;
    let recheck = |about| if anybody { db::put_recheck(db, &about) } else { Ok(()) };
    let mut fleet_changed = false;
    let homes = homes(settings, &db::servers(db)?.unwrap_or_default());
    for Effective { home, object, .. } in &homes {
        db::put_home(db, home)?;
        let value = match object {
            HomeObject::NotNeeded | HomeObject::There => format!("{home:?}"),
            HomeObject::Missing | HomeObject::NotNamed => format!("{home:?} {object:?}"),
        };
        let name = format!("home:{}", home.id);
        let known = db::fact(db, &name)?.is_some_and(|(value, _)| value != "gone");
        if db::put_fact(db, &name, &value, now)? {
            fleet_changed = true;
            // Values that name a home that was unknown were foreign until now, whoever carries them.
            let about = if known { About::Home(home.id.0.clone()) } else { About::Everyone };
            recheck(about)?;
        }
    }
    for row in db::homes(db)? {
        if homes.iter().any(|effective| effective.home.id.0 == row.id) {
            continue;
        }
        if db::put_fact(db, &format!("home:{}", row.id), "gone", now)? {
            fleet_changed = true;
            recheck(About::Home(row.id.clone()))?;
        }
        db::remove_empty_home(db, &row.id)?;
    }
    if fleet_changed {
        recheck(About::Waiting(Blocker::Room.code()))?;
        recheck(About::Status(Status::Problem))?;
    }
    Ok(())
}

/// All homes with what the store knows of them. A home that is no longer configured stays while users live there.
pub(super) fn fleet(db: &Connection, settings: &Settings, now: Timestamp) -> Result<Fleet, StoreError> {
    fleet_of(db, settings, &db::servers(db)?.unwrap_or_default(), now)
}

/// The same, with the virtual servers as somebody has just read them.
pub(super) fn fleet_of(
    db: &Connection,
    settings: &Settings,
    known: &[KnownServer],
    now: Timestamp,
) -> Result<Fleet, StoreError> {
    let rows = db::homes(db)?;
    let mut homes: Vec<HomeState> = homes(settings, known)
        .into_iter()
        .map(|effective| {
            let row = rows.iter().find(|row| row.id == effective.home.id.0).cloned().unwrap_or_default();
            state_of(effective, true, &row, settings, now)
        })
        .collect();
    for row in &rows {
        if row.assigned > 0 && !homes.iter().any(|state| state.home.id.0 == row.id) {
            // Its host stays known: the URLs of those who live there are still what they were.
            let Some(home) = row.config.clone() else { continue };
            let object = if settings.home_takes_dn { HomeObject::Missing } else { HomeObject::NotNeeded };
            homes.push(state_of(Effective { home, object, former_dns: Vec::new() }, false, row, settings, now));
        }
    }
    homes.sort_by(|a, b| a.home.id.cmp(&b.home.id));
    Ok(Fleet { homes })
}

fn state_of(effective: Effective, configured: bool, row: &HomeRow, settings: &Settings, now: Timestamp) -> HomeState {
    let Effective { home, object, former_dns } = effective;
    let online = match home.load {
        None => Online::NotMeasured,
        Some(_) => load::online_state(row.online, now, settings.load_stale_after),
    };
    let health = match (&home.probe, row.health) {
        (None, _) => Health::NotProbed,
        (Some(_), Some((health, at))) if now.since(at) <= HEALTH_STALE => health,
        (Some(_), _) => Health::Unknown,
    };
    HomeState { home, object, former_dns, configured, wish: row.wish, health, online, assigned: row.assigned }
}

impl Core {
    /// Samples grow stale without anybody saying so.
    pub(super) fn refresh_online(&mut self, now: Timestamp) {
        let stale_after = self.settings.load_stale_after;
        for state in &mut self.world.fleet.homes {
            if let Online::Sample { users, at, .. } = state.online
                && now.since(at) > stale_after
            {
                state.online = Online::Stale { users, at };
            }
        }
    }

    /// Those whose time has come.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if self.world.adopting {
            return Ok(());
        }
        let due = db::due_now(&self.db, now, CHUNK + self.in_flight.len())?;
        self.step.busy |= due.len() >= CHUNK;
        for key in due {
            if self.in_flight.contains_key(&key) {
                continue;
            }
            db::delete_due(&self.db, &key)?;
            if let Some((id, standing)) = db::standing(&self.db, &key)? {
                self.consider(Some(id), standing, Class::Change, now)?;
            }
        }
        Ok(())
    }

    /// One chunk of those who rest on a fact that changed.
    pub(super) fn take_recheck(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if self.world.adopting {
            return Ok(());
        }
        let Some(chunk) = db::take_recheck_chunk(&self.db, CHUNK)? else { return Ok(()) };
        self.step.busy = true;
        for (id, _) in chunk {
            // Read anew: an earlier one of the chunk may have changed this one (an address that passed on).
            if let Some(standing) = db::standing_at(&self.db, id)? {
                self.consider(Some(id), standing, Class::Bulk, now)?;
            }
        }
        Ok(())
    }

    /// Guarded changes that have settled pass together, or are held together.
    pub(super) fn settle_guard(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let (count, oldest) = db::settling(&self.db)?;
        let Some(oldest) = oldest.filter(|oldest| oldest.plus(guard::SETTLE) <= now) else { return Ok(()) };
        let _ = oldest;
        let limits = self.settings.guard;
        let window = now.minus(limits.window);
        let passed = db::passed_since(&self.db, window)?;
        let held = db::held_since(&self.db, window)?;
        let enabled =
            db::enabled_count(&self.db)?.max(self.world.fleet.homes.iter().map(|h| u64::from(h.assigned)).sum());
        if guard::lets_pass(&limits, enabled, passed, held, count) {
            for row in db::held(&self.db, false)? {
                self.let_pass(&row, now)?;
            }
            return Ok(());
        }
        for row in db::held(&self.db, false)? {
            if let Some((id, mut standing)) = db::standing(&self.db, &row.key)? {
                let before = super::occupied(&standing);
                standing.status = Status::Held;
                self.save(Some(id), before, &standing)?;
            }
        }
        db::trip_settling(&self.db)?;
        let all = db::held(&self.db, true)?;
        let hash = guard::plan_hash(all.iter().map(|row| (&row.key, row.fingerprint.as_str())));
        let limit = guard::limit(&limits, enabled);
        let count = |kind: guard::Guarded| all.iter().filter(|row| row.kind == kind.as_str()).count() as u64;
        let (releases, moves) = (count(guard::Guarded::Release), count(guard::Guarded::Move));
        let address_changes = count(guard::Guarded::Readdress);
        self.step.said.push(Said::GuardHeld { releases, moves, address_changes, limit, hash });
        Ok(())
    }

    /// Exactly this change of this user may go through, if it still is what would be decided.
    pub(super) fn let_pass(&mut self, row: &db::Held, now: Timestamp) -> Result<(), StoreError> {
        db::delete_held(&self.db, &row.key)?;
        let Some((id, mut standing)) = db::standing(&self.db, &row.key)? else { return Ok(()) };
        standing.approved = Some(row.fingerprint.clone());
        self.consider(Some(id), standing, Class::Change, now)
    }

    /// A new answer of DNS. Those who rest on it are looked at again.
    pub(super) fn take_answer(&mut self, fact: SrvFact) -> Result<(), StoreError> {
        let before = self.world.srv.get(&fact.domain);
        let effective = fact.effective();
        let changed = before.map(SrvFact::effective).as_ref() != Some(&effective);
        match (&effective, &fact.contradicted) {
            (_, Some((new, since))) if before.is_none_or(|known| known.contradicted.is_none()) => {
                self.step.said.push(Said::SrvContradicted {
                    domain: fact.domain.clone(),
                    from: in_words(&fact.answer),
                    to: in_words(new),
                    holds_at: since.plus(self.settings.srv_confirm),
                });
            }
            (SrvAnswer::Unknown { why }, None) if changed => {
                self.step.said.push(Said::SrvUnknown { domain: fact.domain.clone(), why: why.clone() });
            }
            (_, None) if changed => {
                let to = in_words(&effective);
                self.step.said.push(Said::SrvChanged { domain: fact.domain.clone(), to });
            }
            _ => {}
        }
        if changed && effective.is_certain() {
            // On an answer that was unknown nobody rests but those who wait for it. Looking again at all of the domain
            // would do a first pass twice.
            let rested = before.is_some_and(|known| known.answer.is_certain());
            let follows = self.world.policy.im.on_srv_change == OnChange::Migrate;
            let about = if rested || follows {
                About::Domain(fact.domain.clone())
            } else {
                About::Waiting(Blocker::Srv(fact.domain.clone()).code())
            };
            db::put_recheck(&self.db, &about)?;
        }
        db::put_srv(&self.db, &fact)?;
        self.world.srv.insert(fact.domain.clone(), fact);
        Ok(())
    }

    /// What a probe saw of a home.
    pub(super) fn take_sighting(&mut self, sighting: Sighting, now: Timestamp) -> Result<(), StoreError> {
        match sighting {
            Sighting::Online { home, users } => {
                self.flush_homes()?;
                db::set_home_online(&self.db, &home.0, users, now)?;
                if let Some(state) = self.world.fleet.get_mut(&home) {
                    let had_room = crate::decide::placement::out(state, &[]).is_none();
                    state.online = Online::Sample { users, assigned: state.assigned, at: now };
                    if !had_room && crate::decide::placement::out(state, &[]).is_none() {
                        db::put_recheck(&self.db, &About::Waiting(Blocker::Room.code()))?;
                    }
                }
            }
            Sighting::Health { home, up, why } => {
                db::set_home_health(&self.db, &home.0, up, why.as_deref(), now)?;
                let Some(state) = self.world.fleet.get_mut(&home) else { return Ok(()) };
                let seen = if up { Health::Up } else { Health::Down };
                let before = std::mem::replace(&mut state.health, seen);
                if up && before != Health::Up {
                    db::put_recheck(&self.db, &About::Waiting(Blocker::Room.code()))?;
                }
                match (before, seen) {
                    (Health::Down, Health::Up) => self.step.said.push(Said::HomeUp { home }),
                    (Health::Up | Health::Unknown, Health::Down) => {
                        self.step.said.push(Said::HomeDown { home, why: why.unwrap_or_default() });
                    }
                    _ => {}
                }
            }
            Sighting::Servers(seen) => self.take_servers(&seen, now)?,
        }
        Ok(())
    }

    /// The virtual server objects as they are now. One that disappears takes no newcomers; whether it was deleted shows in
    /// the entries of those who live there, and no event tells them: so everything is compared.
    fn take_servers(&mut self, seen: &[VirtualServer], now: Timestamp) -> Result<(), StoreError> {
        let before = db::servers(&self.db)?.unwrap_or_default();
        let (configured, discovery) = (self.settings.homes.clone(), self.settings.discovery);
        let lived_in = |id: &HomeId| self.world.fleet.get(id).is_some_and(|state| state.assigned > 0);
        let mut known = servers::merge(&before, seen, &configured);
        known.retain(|server| !server.missing || lived_in(&server.id));
        if known == before {
            return Ok(());
        }
        let odd = servers::doubts(&configured, discovery, &before);
        let news = servers::doubts(&configured, discovery, &known).into_iter().filter(|doubt| !odd.contains(doubt));
        self.step.said.extend(news.map(|doubt| Said::HomeDoubted { text: doubt.text, hint: doubt.hint }));
        self.flush_homes()?;
        db::put_servers(&self.db, &known, now)?;
        note_homes(&self.db, &self.settings, now)?;
        let fleet = fleet(&self.db, &self.settings, now)?;
        let fleet_before = std::mem::replace(&mut self.world.fleet, fleet);
        let counts = |state: &HomeState| state.configured && state.object != HomeObject::Missing;
        for state in self.world.fleet.homes.iter().filter(|state| counts(state)) {
            if !fleet_before.get(&state.home.id).is_some_and(counts) {
                let (home, host) = (state.home.id.clone(), state.home.host.clone());
                self.step.said.push(Said::HomeAppeared { home, host, capacity: state.home.capacity });
            }
        }
        for state in fleet_before.homes.iter().filter(|state| counts(state)) {
            let home = state.home.id.clone();
            if !self.world.fleet.get(&home).is_some_and(counts) {
                self.step.sweep |= state.assigned > 0;
                self.step.said.push(Said::HomeDisappeared { home, users: state.assigned });
            }
        }
        self.step.busy = true;
        Ok(())
    }
}

fn in_words(answer: &SrvAnswer) -> String {
    match answer {
        SrvAnswer::Present { .. } => answer.target().unwrap_or("?").to_owned(),
        SrvAnswer::Absent => "absent".into(),
        SrvAnswer::NotAvailable => "not available".into(),
        SrvAnswer::Unknown { .. } => "unknown".into(),
    }
}

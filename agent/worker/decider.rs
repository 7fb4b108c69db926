//! tx 1: a change, a due user or a changed fact becomes a decision, a reservation and, where something is to be written,
//! an intent. Never speaks to the directory.

use super::{Core, Said, UserChange, occupied};
use crate::decide::address::{Contest, contest};
use crate::decide::{decide, guard, ownership};
use crate::model::*;
use crate::store::StoreError;
use crate::store::enablement::{self as db, Class, Held};

impl Core {
    /// Takes in what the log says of one user. What is older than what we know is skipped (promise 2).
    pub(super) fn take_change(&mut self, change: UserChange, now: Timestamp) -> Result<(), StoreError> {
        let known = db::standing(&self.db, &change.key)?;
        if let Some((_, standing)) = &known
            && standing.sequence >= change.sequence
        {
            return Ok(());
        }
        if known.is_none() && change.presence != Presence::Present {
            return Ok(());
        }
        let (id, mut standing) = match known {
            Some((id, standing)) => (Some(id), standing),
            None => (None, Standing::new(change.key, now)),
        };
        let class = match (change.live, change.created || id.is_none()) {
            (true, true) => Class::New,
            (true, false) => Class::Change,
            (false, _) => Class::Bulk,
        };
        // An adopted user is looked at again once adoption is over, so its sequence is not noted yet.
        if !self.world.adopting {
            standing.sequence = change.sequence;
        }
        standing.heard_at = change.heard_at;
        standing.presence = change.presence;
        if change.presence == Presence::Present {
            standing.record = change.record;
            self.text = change.text;
        }
        let considered = self.consider(id, standing, class, now);
        self.text = None;
        considered
    }

    /// Decides for one user and stores what follows. `standing` has the newest record; `id` is its row.
    pub(super) fn consider(
        &mut self,
        id: Option<i64>,
        mut standing: Standing,
        class: Class,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = standing.key;
        let before = occupied(&standing);
        if self.in_flight.contains_key(&key) {
            // Nothing is decided while a write is out: its result brings the user back here.
            db::put_due(&self.db, &key, now, "written")?;
            self.save(id, before, &standing)?;
            return Ok(());
        }
        let was_waiting = standing.waiting_on.is_some();
        let mut decision = decide(&standing, &self.world, now);
        self.ask_for(&decision);

        if let Wanted::Enabled { assignment, .. } = &decision.wanted
            && standing.reserved.as_ref().is_none_or(|reserved| reserved.address != assignment.address)
            && let Some(refusal) = self.claim_address(&assignment.address.clone(), &standing, now)?
        {
            decision.wanted = Wanted::Refused { why: refusal };
        }
        if self.world.adopting && !matches!(decision.wanted, Wanted::Enabled { .. }) {
            return match id {
                // Known from before, so nothing to take over: it is looked at when adoption is over.
                Some(_) => self.save(id, before, &standing).map(drop),
                None => Ok(()),
            };
        }
        if was_waiting || decision.look_again_at.is_some() {
            db::delete_due_why(&self.db, &key, "look")?;
        }
        if let Some(at) = decision.look_again_at {
            db::put_due(&self.db, &key, at, "look")?;
        }
        standing.rule = decision.rule;
        standing.mail_domain = decision.mail_domain.or(standing.mail_domain);
        standing.waiting_on = None;

        if self.guard_stops(id, &mut standing, &decision.wanted, now)? {
            standing.updated_at = now;
            self.save(id, before, &standing)?;
            return Ok(());
        }
        match decision.wanted {
            Wanted::Enabled { assignment, change, digest, expire } => {
                self.enabled(id, before, standing, assignment, change, digest, expire, class, now)
            }
            Wanted::Released { why } => self.released(id, before, standing, why, class, now),
            Wanted::LeftAlone { why } => self.left_alone(id, before, standing, why, now),
            Wanted::Wait { on } => {
                self.clear(id, &key)?;
                standing.status = Status::Waiting;
                standing.waiting_on = Some(on.code());
                standing.updated_at = now;
                self.tell_once(&mut standing, OutcomeKind::Waiting, on.code(), on.to_string(), now)?;
                self.save(id, before, &standing).map(drop)
            }
            Wanted::Refused { why } => {
                if id.is_some() {
                    db::delete_intent(&self.db, &key)?;
                }
                self.problem(&mut standing, why.code(), why.to_string(), why.hint(), now)?;
                self.save(id, before, &standing).map(drop)
            }
        }
    }

    fn ask_for(&mut self, decision: &Decision) {
        if let Wanted::Wait { on: Blocker::Srv(domain) } = &decision.wanted
            && !self.step.ask.contains(domain)
        {
            self.step.ask.push(domain.clone());
        }
    }

    /// An address goes to one user: a unique index, not a race. `Some`: it cannot be this one's.
    fn claim_address(
        &mut self,
        address: &str,
        standing: &Standing,
        now: Timestamp,
    ) -> Result<Option<Refusal>, StoreError> {
        let Some((holder_id, mut holder)) = db::standing_by_address(&self.db, address)? else { return Ok(None) };
        if holder.key == standing.key {
            return Ok(None);
        }
        // What is saved next is the holder, not the record being taken in.
        self.text = None;
        let carried = standing
            .record
            .text(&self.world.policy.names.address)
            .is_some_and(|carried| carried.eq_ignore_ascii_case(address));
        let rest = self.world.policy.im.address_rest;
        match contest(&holder, standing, carried, rest, now) {
            Contest::Taken => {
                let holder =
                    holder.record.text(&self.world.policy.names.login).map_or(holder.key.to_string(), str::to_owned);
                return Ok(Some(Refusal::AddressTaken { address: address.to_owned(), holder }));
            }
            Contest::Free => holder.reserved = None,
            Contest::PassesOn => {
                let before = occupied(&holder);
                holder.reserved = None;
                holder.released_at = None;
                holder.leaving = None;
                holder.applied = WriteBackValues::default();
                holder.previous = None;
                holder.told_enabled = false;
                holder.status = Status::Gone;
                holder.version += 1;
                holder.updated_at = now;
                db::delete_intent(&self.db, &holder.key)?;
                db::delete_held(&self.db, &holder.key)?;
                self.step.said.push(Said::Inherited { key: standing.key, from: holder.key });
                self.close_problem(&holder.key)?;
                return self.save(Some(holder_id), before, &holder).map(|_| None);
            }
        }
        let before = occupied(&holder);
        self.save(Some(holder_id), before, &holder).map(|_| None)
    }

    /// Guarded changes are held until they have settled, and then pass or stay held. Observe mode touches nobody anyway.
    fn guard_stops(
        &mut self,
        id: Option<i64>,
        standing: &mut Standing,
        wanted: &Wanted,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let key = standing.key;
        let Some(kind) = guard::guarded(wanted) else {
            if standing.status == Status::Held || standing.approved.is_some() {
                standing.approved = None;
            }
            if id.is_some() {
                db::delete_held(&self.db, &key)?;
            }
            return Ok(false);
        };
        if !self.settings.enforce {
            standing.status = Status::Planned;
            return Ok(true);
        }
        let fingerprint = guard::fingerprint(wanted, standing.holds()).unwrap_or_default();
        if standing.approved.as_deref() == Some(&fingerprint) {
            standing.approved = None;
            db::delete_held(&self.db, &key)?;
            if !self.approving {
                db::put_passed(&self.db, now, &key, kind.as_str())?;
            }
            return Ok(false);
        }
        let tripped = standing.status == Status::Held;
        db::put_held(&self.db, &Held { key, kind: kind.as_str().into(), fingerprint, since: now, tripped: false })?;
        if !tripped {
            standing.status = Status::Applying;
        }
        Ok(true)
    }

    #[allow(clippy::too_many_arguments)]
    fn enabled(
        &mut self,
        id: Option<i64>,
        before: (Option<HomeId>, Option<HomeId>),
        mut standing: Standing,
        assignment: Assignment,
        change: Change,
        digest: DigestReadiness,
        expire: Option<PasswordDate>,
        class: Class,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = standing.key;
        let home_before = standing.holds().map(|a| a.home.clone());
        if standing.holds() != Some(&assignment) {
            if change == Change::Moved && standing.leaving.is_none() {
                standing.leaving = home_before.clone();
            }
            standing.reserved = Some(assignment.clone());
            standing.released_at = None;
            standing.version += 1;
        }
        if matches!(&standing.leaving, Some(leaving) if *leaving == assignment.home) {
            standing.leaving = None;
        }
        if standing.wishes.home.as_ref() == Some(&assignment.home) && change != Change::Moved {
            standing.wishes.home = None;
        }
        standing.wishes.readdress = false;
        standing.digest = digest;
        standing.reset_since = match digest {
            DigestReadiness::ResetRequired => standing.reset_since.or(Some(now)),
            DigestReadiness::NotRequired | DigestReadiness::Ready | DigestReadiness::Unknown => None,
        };

        let found = ownership::found(&standing.record, &self.world.policy.names);
        let desired = ownership::desired(&assignment, &self.world);
        let in_place = ownership::same_values(&found, &desired, &self.world.fleet);
        standing.updated_at = now;
        if in_place && (expire.is_none() || !self.settings.enforce) {
            // Nothing to write: it is there, by us or by those before us. What was on its way when we were killed is ours.
            let taken_over =
                change == Change::Adopted || ownership::same_values(&standing.applied, &desired, &self.world.fleet);
            standing.applied = found;
            standing.leaving = None;
            standing.status = enabled_status(digest);
            self.clear(id, &key)?;
            let told = std::mem::replace(&mut standing.told_digest, digest);
            let from = home_before.filter(|home| *home != assignment.home);
            self.tell_enabled(&mut standing, taken_over, told, from, now)?;
        } else if self.settings.enforce {
            if change == Change::Adopted {
                standing.applied = found;
            }
            standing.status = Status::Applying;
            db::put_intent(&self.db, &key, class, now)?;
        } else {
            if change == Change::Adopted {
                standing.applied = found;
            }
            standing.status = Status::Planned;
            self.clear(id, &key)?;
        }
        self.save(id, before, &standing).map(drop)
    }

    /// The outcome events that follow from standing enabled.
    pub(super) fn tell_enabled(
        &mut self,
        standing: &mut Standing,
        taken_over: bool,
        digest_before: DigestReadiness,
        from: Option<HomeId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if !self.settings.enforce {
            return Ok(());
        }
        standing.told = None;
        if !standing.told_enabled {
            standing.told_enabled = true;
            let adopted = taken_over && standing.previous.is_none();
            let kind = if adopted { OutcomeKind::Adopted } else { OutcomeKind::Enabled };
            self.tell(standing, kind, None, None, now)?;
        } else if from.is_some() {
            self.tell(standing, OutcomeKind::Moved, None, from, now)?;
        }
        if standing.digest != digest_before {
            match (digest_before, standing.digest) {
                (_, DigestReadiness::ResetRequired) => {
                    self.tell(standing, OutcomeKind::PasswordResetRequired, None, None, now)?;
                }
                (DigestReadiness::ResetRequired, DigestReadiness::Ready) => {
                    self.tell(standing, OutcomeKind::Ready, None, None, now)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn released(
        &mut self,
        id: Option<i64>,
        before: (Option<HomeId>, Option<HomeId>),
        mut standing: Standing,
        why: ReleaseReason,
        class: Class,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = standing.key;
        match ownership::of(&standing, &self.world, now) {
            ownership::Ownership::Adoptable(assignment) => {
                standing.applied = ownership::found(&standing.record, &self.world.policy.names);
                standing.leaving = Some(assignment.home.clone());
                standing.reserved = Some(assignment);
            }
            ownership::Ownership::Orphan(assignment) => {
                standing.applied = ownership::found(&standing.record, &self.world.policy.names);
                standing.reserved = Some(assignment);
            }
            ownership::Ownership::Nothing | ownership::Ownership::Ours | ownership::Ownership::Foreign { .. } => {}
        }
        standing.version += 1;
        standing.released_at = Some(now);
        standing.updated_at = now;
        standing.digest = DigestReadiness::NotRequired;
        standing.reset_since = None;
        standing.reset_asked_for = None;
        self.close_problem(&key)?;
        let found = ownership::found(&standing.record, &self.world.policy.names);
        let to_clear = standing.presence != Presence::Deleted && !found.is_empty();
        if to_clear {
            // The place is freed once the directory says that the user left it.
            standing.leaving = standing.leaving.take().or_else(|| before.0.clone());
            standing.status = Status::Applying;
            db::put_intent(&self.db, &key, class, now)?;
        } else {
            db::delete_intent(&self.db, &key)?;
            self.finish_release(&mut standing, why.as_str(), now)?;
        }
        self.save(id, before, &standing).map(drop)
    }

    /// The directory no longer says that the user is enabled.
    pub(super) fn finish_release(
        &mut self,
        standing: &mut Standing,
        why: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        standing.leaving = None;
        standing.applied = WriteBackValues::default();
        standing.status = match standing.presence {
            Presence::Present => Status::Disabled,
            Presence::LeftScope | Presence::Deleted => Status::Gone,
        };
        if std::mem::take(&mut standing.told_enabled) {
            self.tell(standing, OutcomeKind::Disabled, Some(why.to_owned()), None, now)?;
        }
        Ok(())
    }

    fn left_alone(
        &mut self,
        id: Option<i64>,
        before: (Option<HomeId>, Option<HomeId>),
        mut standing: Standing,
        why: AloneReason,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = standing.key;
        standing.updated_at = now;
        if id.is_some() {
            self.close_problem(&key)?;
        }
        let untouchable = matches!(why, AloneReason::Frozen | AloneReason::RuleIgnores);
        let released = standing.holds().is_none() && !untouchable;
        // A write that arrived after the release, or a release not yet finished: what is ours still has to go.
        let ours_left = released
            && standing.presence != Presence::Deleted
            && ownership::of(&standing, &self.world, now) == ownership::Ownership::Ours;
        if ours_left && self.settings.enforce {
            standing.status = Status::Applying;
            if db::intent(&self.db, &key)?.is_none() {
                db::put_intent(&self.db, &key, Class::Change, now)?;
            }
        } else if released && standing.leaving.is_some() {
            db::delete_intent(&self.db, &key)?;
            self.finish_release(&mut standing, why.as_str(), now)?;
        } else {
            if id.is_some() {
                db::delete_intent(&self.db, &key)?;
            }
            standing.status = match why {
                AloneReason::Gone => Status::Gone,
                AloneReason::AccountDisabled | AloneReason::RuleDisables | AloneReason::Released => Status::Disabled,
                AloneReason::RuleIgnores | AloneReason::NoRule | AloneReason::Frozen => Status::Ignored,
            };
        }
        self.save(id, before, &standing).map(drop)
    }

    /// Opens or renews a user's problem; the others go on (promise 7).
    pub(super) fn problem(
        &mut self,
        standing: &mut Standing,
        code: &str,
        text: String,
        hint: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = standing.key;
        standing.status = Status::Problem;
        standing.updated_at = now;
        if let Some(id) = db::put_problem(&self.db, &key, code, &text, &hint, now)? {
            self.step.said.push(Said::ProblemOpened { id, key, text: text.clone(), hint });
        }
        self.tell_once(standing, OutcomeKind::Problem, code.to_owned(), text, now)
    }

    /// No intent and no problem is left. Who is new has none: a first pass is spared the statements.
    fn clear(&mut self, id: Option<i64>, key: &UserKey) -> Result<(), StoreError> {
        if id.is_some() {
            db::delete_intent(&self.db, key)?;
            self.close_problem(key)?;
        }
        Ok(())
    }

    pub(super) fn close_problem(&mut self, key: &UserKey) -> Result<(), StoreError> {
        if let Some(id) = db::close_problem(&self.db, key)? {
            self.step.said.push(Said::ProblemClosed { id, key: *key });
        }
        Ok(())
    }

    fn tell_once(
        &mut self,
        standing: &mut Standing,
        kind: OutcomeKind,
        code: String,
        why: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let told = format!("{}:{code}", kind.as_str());
        if self.settings.enforce && standing.told.as_deref() != Some(&told) {
            standing.told = Some(told);
            self.tell(standing, kind, Some(why), None, now)?;
        }
        Ok(())
    }
}

pub(super) fn enabled_status(digest: DigestReadiness) -> Status {
    match digest {
        DigestReadiness::ResetRequired => Status::AwaitingPassword,
        DigestReadiness::NotRequired | DigestReadiness::Ready | DigestReadiness::Unknown => Status::Enabled,
    }
}

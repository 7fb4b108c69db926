//! What operators asked for, taken in order; each leaves an audit row: who, when, what, and what came of it.

use super::{Core, Said, occupied};
use crate::decide::guard;
use crate::model::*;
use crate::store::StoreError;
use crate::store::enablement::{self as db, About, Class, Verb, WishRow};

impl Core {
    pub(super) fn take_wishes(&mut self, now: Timestamp) -> Result<(), StoreError> {
        for WishRow { id, who, verb, .. } in db::wishes(&self.db)? {
            let what = describe(&verb);
            let result = self.take_wish(verb.clone(), &who, now)?;
            let text = serde_json::to_string(&verb).unwrap_or_else(|_| what.clone());
            db::finish_wish(&self.db, id, now, &who, &text, &result)?;
            self.step.said.push(Said::WishTaken { who, what, result });
        }
        Ok(())
    }

    fn take_wish(&mut self, verb: Verb, who: &str, now: Timestamp) -> Result<String, StoreError> {
        match verb {
            Verb::MoveUser { key, to } => self.wish_of(&key, now, |standing| standing.wishes.home = Some(to)),
            Verb::Recheck { key } => self.wish_of(&key, now, |standing| {
                standing.wishes.released = false;
                standing.wishes.frozen = false;
            }),
            Verb::Readdress { key } => self.wish_of(&key, now, |standing| standing.wishes.readdress = true),
            Verb::Release { key } => self.wish_of(&key, now, |standing| standing.wishes.released = true),
            Verb::Freeze { key } => self.wish_of(&key, now, |standing| standing.wishes.frozen = true),
            Verb::Inherit { new, old } => self.inherit(&new, &old, now),
            Verb::SetHome { id, wish } => {
                let Some(state) = self.world.fleet.get_mut(&id) else { return Ok(format!("no home is called {id}")) };
                state.wish = wish;
                db::set_home_wish(&self.db, &id.0, wish)?;
                db::put_recheck(&self.db, &About::Home(id.0))?;
                db::put_recheck(&self.db, &About::Waiting(Blocker::Room.code()))?;
                db::put_recheck(&self.db, &About::Status(Status::Problem))?;
                Ok("done".into())
            }
            Verb::RetryProblem { id } => match db::problem(&self.db, id)? {
                Some(problem) => self.wish_of(&problem.key, now, |_| {}),
                None => Ok(format!("no problem P{id}")),
            },
            Verb::DismissProblem { id } => {
                Ok(if db::dismiss_problem(&self.db, id)? { "done".into() } else { format!("no problem P{id}") })
            }
            Verb::Approve { hash } => self.approve(&hash, who, now),
            Verb::Sweep => {
                // Problems are tried again at each sweep.
                db::put_recheck(&self.db, &About::Status(Status::Problem))?;
                self.step.sweep = true;
                Ok("done".into())
            }
        }
    }

    fn wish_of(
        &mut self,
        key: &UserKey,
        now: Timestamp,
        change: impl FnOnce(&mut Standing),
    ) -> Result<String, StoreError> {
        let Some((id, mut standing)) = db::standing(&self.db, key)? else { return Ok(format!("no user {key}")) };
        change(&mut standing);
        self.consider(Some(id), standing, Class::New, now)?;
        Ok("done".into())
    }

    /// The operator says that a new entry is the same person as an old one: place and address pass on.
    fn inherit(&mut self, new: &UserKey, old: &UserKey, now: Timestamp) -> Result<String, StoreError> {
        let Some((old_id, mut heir_of)) = db::standing(&self.db, old)? else { return Ok(format!("no user {old}")) };
        let Some((new_id, mut heir)) = db::standing(&self.db, new)? else { return Ok(format!("no user {new}")) };
        if heir_of.presence == Presence::Present {
            return Ok(format!("{old} is still in the directory; nothing is passed on"));
        }
        if heir.holds().is_some() {
            return Ok(format!("{new} has a place already; release it first"));
        }
        let Some(assignment) = heir_of.reserved.take() else { return Ok(format!("{old} has nothing to pass on")) };
        let before = occupied_before(&heir_of, &assignment);
        heir_of.released_at = None;
        heir_of.leaving = None;
        heir_of.applied = WriteBackValues::default();
        heir_of.status = Status::Gone;
        heir_of.version += 1;
        db::delete_intent(&self.db, old)?;
        db::delete_held(&self.db, old)?;
        self.save(Some(old_id), before, &heir_of)?;
        let before = occupied(&heir);
        heir.reserved = Some(assignment);
        heir.released_at = None;
        heir.version += 1;
        self.save(Some(new_id), before, &heir)?;
        self.consider(Some(new_id), heir, Class::New, now)?;
        Ok("done".into())
    }

    /// Lets exactly the held changes pass whose plan has this hash.
    fn approve(&mut self, hash: &str, who: &str, now: Timestamp) -> Result<String, StoreError> {
        let held = db::held(&self.db, true)?;
        let ours = guard::plan_hash(held.iter().map(|row| (&row.key, row.fingerprint.as_str())));
        if held.is_empty() || ours != hash {
            // It may be the source's: absences that intake holds.
            self.step.approve.push(hash.to_owned());
            return Ok("passed to the source".into());
        }
        self.approving = true;
        let passed = held.iter().try_for_each(|row| self.let_pass(row, now));
        self.approving = false;
        passed?;
        self.step.said.push(Said::GuardApproved { count: held.len() as u64, hash: ours, who: who.to_owned() });
        Ok(format!("{} changes pass", held.len()))
    }
}

/// What the standing occupied when it still had this assignment.
fn occupied_before(standing: &Standing, assignment: &Assignment) -> (Option<HomeId>, Option<HomeId>) {
    let holds = standing.released_at.is_none().then(|| assignment.home.clone());
    let leaving = standing.leaving.clone().filter(|home| Some(home) != holds.as_ref());
    (holds, leaving)
}

/// In words, for the log and the audit.
pub fn describe(verb: &Verb) -> String {
    match verb {
        Verb::MoveUser { key, to } => format!("move user {key} to {to}"),
        Verb::Recheck { key } => format!("recheck user {key}"),
        Verb::Readdress { key } => format!("readdress user {key}"),
        Verb::Release { key } => format!("release user {key}"),
        Verb::Freeze { key } => format!("freeze user {key}"),
        Verb::Inherit { new, old } => format!("let {new} inherit from {old}"),
        Verb::SetHome { id, wish } => format!("make home {id} {}", db::admin_state_text(*wish)),
        Verb::RetryProblem { id } => format!("retry problem P{id}"),
        Verb::DismissProblem { id } => format!("dismiss problem P{id}"),
        Verb::Approve { hash } => format!("approve {hash}"),
        Verb::Sweep => "sweep".into(),
    }
}

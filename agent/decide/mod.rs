//! What should be: pure. `decide` takes values and returns a value; no I/O, clock, chance or log (promise 3).
//!
//! Read `judge` top to bottom: it asks what an operator would ask, in the same order. Is the user there? Does an operator
//! wish something? Is the account alive? Which rule speaks? Whose values are in the directory? Which home? Which address?
//! Can the password work for Digest? `explain` is the same function with its reasons kept.

#![deny(clippy::disallowed_methods)]

pub mod address;
pub mod digest;
pub mod explain;
pub mod filter;
pub mod guard;
pub mod ownership;
pub mod placement;
pub mod policy;
pub mod servers;

use crate::model::*;
use address::Candidate;
use explain::{Step, Trace};
use ownership::Ownership;
use policy::{Policy, Verdict};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything a decision rests on beside the user.
#[derive(Clone, Debug)]
pub struct World {
    pub policy: Policy,
    pub fleet: Fleet,
    /// By e-mail domain, lower case.
    pub srv: BTreeMap<String, SrvFact>,
    /// A store without standings only adopts at first: a place given away before everybody was seen may be taken already.
    pub adopting: bool,
}

/// A net below the wake-ups: who waits is looked at again after this long even if no wake-up came.
const WAIT_LOOK_AGAIN: Duration = Duration::from_secs(300);

/// What should happen to this user.
pub fn decide(standing: &Standing, world: &World, now: Timestamp) -> Decision {
    judge(standing, world, now, &mut Trace::off())
}

/// The same, with each step and what it saw.
pub fn explain(standing: &Standing, world: &World, now: Timestamp) -> (Decision, Vec<Step>) {
    let mut trace = Trace::on();
    let decision = judge(standing, world, now, &mut trace);
    (decision, trace.into_steps())
}

fn judge(standing: &Standing, world: &World, now: Timestamp, trace: &mut Trace) -> Decision {
    let mut decision = judge_now(standing, world, now, trace);
    let expires_at = world.policy.expires_at(&standing.record).filter(|at| *at > now);
    if standing.presence == Presence::Present && expires_at.is_some() {
        decision.look_again_at = decision.look_again_at.into_iter().chain(expires_at).min();
    }
    decision
}

fn judge_now(standing: &Standing, world: &World, now: Timestamp, trace: &mut Trace) -> Decision {
    let policy = &world.policy;
    let record = &standing.record;
    let held = standing.holds();
    let owned = ownership::of(standing, world, now);
    let mut decision = Decision {
        wanted: Wanted::LeftAlone { why: AloneReason::Gone },
        rule: None,
        mail_domain: None,
        look_again_at: None,
    };
    let release_or = |why: ReleaseReason, alone: AloneReason| match held {
        Some(_) => Wanted::Released { why },
        None => Wanted::LeftAlone { why: alone },
    };
    // A store that was lost does not know that it enabled this user; the values in the directory do. That no rule matches
    // is another thing: then somebody else may have enabled the user by hand, and nothing is taken away.
    let release_ours_or = |why: ReleaseReason, alone: AloneReason| match &owned {
        Ownership::Adoptable(_) | Ownership::Orphan(_) => Wanted::Released { why },
        Ownership::Nothing | Ownership::Ours | Ownership::Foreign { .. } => release_or(why, alone),
    };

    // 1. Is the user there, and does an operator wish something?
    trace.add(|| Step::Presence { presence: standing.presence });
    match standing.presence {
        Presence::Present => {}
        Presence::LeftScope => {
            decision.wanted = release_or(ReleaseReason::LeftScope, AloneReason::Gone);
            return decision;
        }
        Presence::Deleted => {
            decision.wanted = release_or(ReleaseReason::Deleted, AloneReason::Gone);
            return decision;
        }
    }
    if let Some(problem) = record.text(policy::UNREADABLE) {
        decision.wanted = Wanted::Refused { why: Refusal::BadEntry { problem: problem.to_owned() } };
        return decision;
    }
    if standing.wishes.frozen {
        trace.add(|| Step::Wish { text: "frozen: left as it is".into() });
        decision.wanted = Wanted::LeftAlone { why: AloneReason::Frozen };
        return decision;
    }
    if standing.wishes.released {
        trace.add(|| Step::Wish { text: "released until rechecked".into() });
        decision.wanted = release_ours_or(ReleaseReason::Operator, AloneReason::Released);
        return decision;
    }

    // 2. Is the account alive, and which rule speaks?
    let expires_at = policy.expires_at(record);
    let disabled = policy.is_disabled(record) || expires_at.is_some_and(|at| at <= now);
    trace.add(|| Step::Account { disabled });
    if disabled {
        decision.wanted = release_ours_or(ReleaseReason::AccountDisabled, AloneReason::AccountDisabled);
        return decision;
    }
    let verdict = policy.judge(record, trace);
    let (allowed, im_domain) = match verdict {
        Verdict::NoRule => {
            decision.wanted = release_or(ReleaseReason::NoRule, AloneReason::NoRule);
            return decision;
        }
        Verdict::Rule(rule) => {
            decision.rule = Some(rule.name.clone());
            match rule.action {
                Action::Enable => (rule.homes.as_slice(), rule.im_domain.as_deref()),
                Action::Disable => {
                    decision.wanted = release_ours_or(ReleaseReason::RuleDisables, AloneReason::RuleDisables);
                    return decision;
                }
                Action::Ignore => {
                    decision.wanted = Wanted::LeftAlone { why: AloneReason::RuleIgnores };
                    return decision;
                }
            }
        }
        Verdict::EnableEveryone => (&[][..], None),
    };

    // 3. Whose values are in the directory?
    let mut orphaned = false;
    let adopted = match &owned {
        Ownership::Foreign { attribute, value } => {
            trace.add(|| Step::Foreign { attribute: attribute.clone() });
            decision.wanted =
                Wanted::Refused { why: Refusal::ForeignValue { attribute: attribute.clone(), value: value.clone() } };
            return decision;
        }
        Ownership::Adoptable(assignment) => Some(assignment),
        Ownership::Orphan(assignment) => {
            trace.add(|| Step::Orphaned { home: assignment.home.clone() });
            orphaned = true;
            Some(assignment)
        }
        Ownership::Nothing | Ownership::Ours => None,
    };
    let current = adopted.or(held);
    if orphaned && world.adopting {
        // It gets another place, and places are given away once everybody was seen.
        decision.wanted = Wanted::Wait { on: Blocker::Adoption };
        return decision;
    } else if let Some(assignment) = current {
        trace.add(|| Step::Existing { assignment: assignment.clone(), adopted: adopted.is_some() });
    } else if world.adopting {
        decision.wanted = Wanted::Wait { on: Blocker::Adoption };
        return decision;
    }

    // 4. Which home?
    let placed = if world.adopting {
        placement::Placed::Stay
    } else {
        let current = current.map(|a| placement::Current { home: &a.home, orphaned });
        placement::place(standing, current, allowed, &world.fleet, policy, now, trace)
    };
    let home = match (placed, current) {
        (placement::Placed::Stay, Some(assignment)) => assignment.home.clone(),
        (placement::Placed::At(home), _) => home,
        (placement::Placed::NoRoom, _) | (placement::Placed::Stay, None) => {
            decision.wanted = Wanted::Wait { on: Blocker::Room };
            decision.look_again_at = Some(now.plus(WAIT_LOOK_AGAIN));
            return decision;
        }
        (placement::Placed::Refused(why), _) => {
            decision.wanted = Wanted::Refused { why };
            return decision;
        }
    };

    // 5. Which address?
    let kept = current.map(|a| (a.address.as_str(), a.im_domain.as_str()));
    let candidate = address::choose(standing, kept, im_domain, world, now, trace);
    decision.mail_domain = candidate.mail_domain;
    let (address, im_domain) = match candidate.outcome {
        Candidate::Chosen { address, im_domain } => (address, im_domain),
        Candidate::Wait { on, look_again_at } => {
            decision.wanted = Wanted::Wait { on };
            decision.look_again_at = Some(look_again_at.unwrap_or(now.plus(WAIT_LOOK_AGAIN)));
            return decision;
        }
        Candidate::Refused(why) => {
            decision.wanted = Wanted::Refused { why };
            return decision;
        }
    };

    // 6. Can the password work for Digest?
    let readiness = digest::readiness(record, &policy.digest, &policy.names, trace);
    let expire = digest::expire(readiness, record, standing, policy);

    let change = match current {
        None => Change::Assigned,
        // What the directory says now is nobody's home: any other place is a move, also the same one made anew.
        Some(_) if orphaned && !ownership::replaced(standing, world) => Change::Moved,
        Some(assignment) if assignment.home != home => Change::Moved,
        Some(assignment) if assignment.address != address => Change::Readdressed,
        Some(_) if adopted.is_some() && !orphaned => Change::Adopted,
        Some(_) => Change::Nothing,
    };
    decision.wanted =
        Wanted::Enabled { assignment: Assignment { home, address, im_domain }, change, digest: readiness, expire };
    decision
}

//! Which home: an existing one that is still allowed is kept; else the least loaded of those eligible.

use super::explain::{Step, Trace};
use super::policy::Policy;
use crate::model::*;
use std::cmp::Ordering;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Placed {
    /// Where the user is now.
    Stay,
    At(HomeId),
    NoRoom,
    Refused(Refusal),
}

/// Why one home ranks before another: fields compare top to bottom, least wins. Integers, so that no two machines disagree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rank<'a> {
    /// Load as a fraction: users over capacity.
    users: u64,
    capacity: u64,
    /// Among equals the emptier one.
    assigned: u32,
    /// Then always the same one.
    id: &'a HomeId,
}

impl Ord for Rank<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_load = (u128::from(self.users) * u128::from(other.capacity))
            .cmp(&(u128::from(other.users) * u128::from(self.capacity)));
        by_load.then(self.assigned.cmp(&other.assigned)).then(self.id.cmp(other.id))
    }
}

impl PartialOrd for Rank<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a home takes no newcomers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Out {
    NotNamed,
    NotConfigured,
    Cordoned,
    Draining,
    Down,
    NotProbedYet,
    /// The directory has no such virtual server object.
    NoObject,
    /// The configuration does not name its virtual server object.
    NoDn,
    Full,
}

impl Out {
    pub fn as_str(self) -> &'static str {
        match self {
            Out::NotNamed => "not named by the rule",
            Out::NotConfigured => "no longer in the configuration",
            Out::Cordoned => "cordoned",
            Out::Draining => "draining",
            Out::Down => "down",
            Out::NotProbedYet => "not probed yet",
            Out::NoObject => "its virtual server object is not in the directory",
            Out::NoDn => "its [[home]] does not say which virtual server object it is",
            Out::Full => "full",
        }
    }
}

/// The load of a home: the greater of assigned/capacity and (online sample + assigned since)/online capacity.
/// Where the online figure is stale or unknown only the first counts: it is never read as zero.
pub fn rank(state: &HomeState) -> Rank<'_> {
    let assigned = Rank {
        users: u64::from(state.assigned),
        capacity: u64::from(state.home.capacity.max(1)),
        assigned: state.assigned,
        id: &state.home.id,
    };
    match (state.online, state.home.online_capacity) {
        (Online::Sample { users, assigned: then, .. }, Some(capacity)) => {
            let online = Rank {
                users: u64::from(users) + u64::from(state.assigned.saturating_sub(then)),
                capacity: u64::from(capacity.max(1)),
                ..assigned.clone()
            };
            assigned.max(online)
        }
        _ => assigned,
    }
}

impl Rank<'_> {
    /// For people: thousandths of the capacity.
    pub fn permille(&self) -> u64 {
        self.users * 1000 / self.capacity.max(1)
    }
}

/// Whether a home may take this newcomer, or why not.
pub fn out(state: &HomeState, allowed: &[HomeId]) -> Option<Out> {
    if !allowed.is_empty() && !allowed.contains(&state.home.id) {
        return Some(Out::NotNamed);
    }
    if !state.configured {
        return Some(Out::NotConfigured);
    }
    match state.object {
        HomeObject::NotNeeded | HomeObject::There => {}
        HomeObject::Missing => return Some(Out::NoObject),
        HomeObject::NotNamed => return Some(Out::NoDn),
    }
    match state.wish {
        AdminState::Active => {}
        AdminState::Cordoned => return Some(Out::Cordoned),
        AdminState::Draining => return Some(Out::Draining),
    }
    match state.health {
        Health::NotProbed | Health::Up => {}
        Health::Down => return Some(Out::Down),
        Health::Unknown => return Some(Out::NotProbedYet),
    }
    let online_full = match (state.online, state.home.online_capacity) {
        (Online::Sample { users, assigned, .. }, Some(capacity)) => {
            users.saturating_add(state.assigned.saturating_sub(assigned)) >= capacity
        }
        _ => false,
    };
    if state.headroom() == 0 || online_full {
        return Some(Out::Full);
    }
    None
}

/// The least loaded eligible home.
pub fn best(fleet: &Fleet, allowed: &[HomeId], trace: &mut Trace) -> Option<HomeId> {
    trace_homes(fleet, allowed, None, trace);
    fleet
        .homes
        .iter()
        .filter(|state| out(state, allowed).is_none())
        .min_by(|a, b| rank(a).cmp(&rank(b)))
        .map(|state| state.home.id.clone())
}

/// Every home with its rank or the reason it is out; `stays`: where the user lives already.
fn trace_homes(fleet: &Fleet, allowed: &[HomeId], stays: Option<&HomeId>, trace: &mut Trace) {
    trace.add_all(|| {
        let mut ranked: Vec<&HomeState> = fleet.homes.iter().filter(|state| out(state, allowed).is_none()).collect();
        ranked.sort_by(|a, b| rank(a).cmp(&rank(b)));
        let place = |state: &HomeState| ranked.iter().position(|other| other.home.id == state.home.id).map(|n| n + 1);
        fleet
            .homes
            .iter()
            .map(|state| Step::Home {
                id: state.home.id.clone(),
                assigned: state.assigned,
                capacity: state.home.capacity,
                permille: rank(state).permille(),
                online: state.online,
                place: place(state),
                out: out(state, allowed),
                here: stays == Some(&state.home.id),
            })
            .collect()
    });
}

/// Where the user lives now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Current<'a> {
    pub home: &'a HomeId,
    /// The directory names a deleted object instead.
    pub orphaned: bool,
}

/// Where the user should live. Nobody moves without a reason: a wish, a draining home, a rule that names others, or a home
/// whose object was deleted.
pub fn place(
    standing: &Standing,
    current: Option<Current<'_>>,
    allowed: &[HomeId],
    fleet: &Fleet,
    policy: &Policy,
    now: Timestamp,
    trace: &mut Trace,
) -> Placed {
    if let Some(wished) = &standing.wishes.home {
        trace.add(|| Step::Wish { text: format!("to live at {wished}") });
        if current.map(|current| current.home) == Some(wished) {
            return Placed::Stay;
        }
        let takes_any =
            |state: &&HomeState| state.configured && matches!(state.object, HomeObject::NotNeeded | HomeObject::There);
        return match fleet.get(wished).filter(takes_any) {
            None => Placed::Refused(Refusal::NoSuchHome { home: wished.0.clone() }),
            Some(state) if state.headroom() == 0 => Placed::NoRoom,
            Some(_) => Placed::At(wished.clone()),
        };
    }
    if let Some(Current { home: current, orphaned }) = current {
        let state = fleet.get(current);
        let draining = state.is_some_and(|state| state.wish == AdminState::Draining);
        let configured = state.is_some_and(|state| state.configured);
        if orphaned && (!configured || state.is_some_and(|state| state.object == HomeObject::Missing)) {
            return best(fleet, allowed, trace).map_or(Placed::NoRoom, Placed::At);
        }
        if !configured && !draining {
            return Placed::Refused(Refusal::HomeGone { home: current.clone() });
        }
        let named = allowed.is_empty() || allowed.contains(current);
        if configured && named && !draining {
            trace_homes(fleet, allowed, Some(current), trace);
            return Placed::Stay;
        }
        return best(fleet, allowed, trace).map_or(Placed::NoRoom, Placed::At);
    }
    if let (Some(rested), Some(released_at)) = (&standing.reserved, standing.released_at) {
        let in_grace = now.since(released_at) <= policy.im.reserve_for;
        if in_grace && fleet.get(&rested.home).is_some_and(|state| out(state, allowed).is_none()) {
            trace.add(|| Step::Returns { home: rested.home.clone() });
            return Placed::At(rested.home.clone());
        }
    }
    best(fleet, allowed, trace).map_or(Placed::NoRoom, Placed::At)
}

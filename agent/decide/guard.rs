//! Releases, moves and address changes are counted; beyond the limit nobody is touched until the operator approves exactly
//! this plan (promise 8). There is no global off switch.

use crate::model::*;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// So many always pass in a window, or small directories could never let anybody go.
pub const ALWAYS_PASS: u32 = 3;

/// Guarded changes rest this long before they are let through, so that a mass change that trickles in is seen whole.
pub const SETTLE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub releases: u32,
    pub percent: u32,
    pub window: Duration,
}

/// What kind of guarded change a decision asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Guarded {
    Release,
    Move,
    Readdress,
}

impl Guarded {
    pub fn as_str(self) -> &'static str {
        match self {
            Guarded::Release => "release",
            Guarded::Move => "move",
            Guarded::Readdress => "readdress",
        }
    }
}

/// The guarded change in a decision, if any.
pub fn guarded(wanted: &Wanted) -> Option<Guarded> {
    match wanted {
        Wanted::Released { .. } => Some(Guarded::Release),
        Wanted::Enabled { change: Change::Moved, .. } => Some(Guarded::Move),
        Wanted::Enabled { change: Change::Readdressed, .. } => Some(Guarded::Readdress),
        Wanted::Enabled { change: Change::Nothing | Change::Assigned | Change::Adopted, .. }
        | Wanted::LeftAlone { .. }
        | Wanted::Wait { .. }
        | Wanted::Refused { .. } => None,
    }
}

/// A guarded change in words that compare: approval is for exactly this. The new home of a move is not in it, because the
/// best home may be another one by the time of the approval; that the user leaves this one is what is approved.
pub fn fingerprint(wanted: &Wanted, held: Option<&Assignment>) -> Option<String> {
    let kind = guarded(wanted)?;
    let from = held.map_or("-", |assignment| match kind {
        Guarded::Release | Guarded::Move => assignment.home.0.as_str(),
        Guarded::Readdress => assignment.address.as_str(),
    });
    Some(match wanted {
        Wanted::Enabled { assignment, change: Change::Readdressed, .. } => {
            format!("readdress:{from}:{}", assignment.address)
        }
        _ => format!("{}:{from}", kind.as_str()),
    })
}

/// The hash of a plan: of every user and guarded change in it, in any order. Twelve hexadecimal digits.
pub fn plan_hash<'a>(changes: impl IntoIterator<Item = (&'a UserKey, &'a str)>) -> String {
    let mut lines: Vec<String> =
        changes.into_iter().map(|(key, fingerprint)| format!("{key} {fingerprint}\n")).collect();
    lines.sort_unstable();
    let mut hash = Sha256::new();
    for line in &lines {
        hash.update(line.as_bytes());
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// At most this many in one window: the smaller of the number and the part of all enabled, but never below three.
pub fn limit(limits: &Limits, enabled: u64) -> u64 {
    let part = enabled.saturating_mul(u64::from(limits.percent)) / 100;
    part.min(u64::from(limits.releases)).max(u64::from(ALWAYS_PASS))
}

/// Whether `wanting` more changes may pass when `passed` went through in this window and `held` of it are held.
pub fn lets_pass(limits: &Limits, enabled: u64, passed: u64, held: u64, wanting: u64) -> bool {
    passed + wanting <= u64::from(ALWAYS_PASS) || passed + held + wanting <= limit(limits, enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { releases: 50, percent: 5, window: Duration::from_secs(3600) };

    #[test]
    fn nothing_wanted_always_passes() {
        assert!(lets_pass(&LIMITS, 0, 0, 0, 0));
    }

    #[test]
    fn three_a_window_pass_in_the_smallest_directory() {
        assert!(lets_pass(&LIMITS, 3, 0, 0, 3));
        assert!(!lets_pass(&LIMITS, 3, 0, 0, 4));
        assert!(!lets_pass(&LIMITS, 3, 3, 0, 1));
    }

    #[test]
    fn the_smaller_of_number_and_percent_is_the_limit() {
        assert!(lets_pass(&LIMITS, 100_000, 0, 0, 50));
        assert!(!lets_pass(&LIMITS, 100_000, 0, 0, 51));
        assert!(lets_pass(&LIMITS, 200, 4, 0, 6));
        assert!(!lets_pass(&LIMITS, 200, 4, 0, 7));
    }

    #[test]
    fn what_is_held_counts_but_a_trickle_of_three_still_passes() {
        assert!(!lets_pass(&LIMITS, 1000, 0, 48, 5));
        assert!(lets_pass(&LIMITS, 1000, 1, 900, 2));
    }

    #[test]
    fn a_plan_has_one_hash_whatever_its_order() {
        let (a, b) = (UserKey([1; 16]), UserKey([2; 16]));
        let one = plan_hash([(&a, "release:im1"), (&b, "move:im1")]);
        assert_eq!(one, plan_hash([(&b, "move:im1"), (&a, "release:im1")]));
        assert_ne!(one, plan_hash([(&a, "release:im1")]));
        assert_eq!(one.len(), 12);
    }
}

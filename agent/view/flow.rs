//! What happened over the last hour, by the minute: from the times that the stores themselves keep.

use super::{Reader, ViewError};
use crate::model::{OutcomeKind, Timestamp};
use crate::store::enablement as db;
use std::collections::BTreeMap;

/// Minutes shown.
pub const MINUTES: usize = 60;
const MINUTE_MS: i64 = 60_000;
/// Rows of one store that are looked at to fill the hour at the start: a first pass of a million users is not worth more.
const BACK_MAX: usize = 200_000;

/// What happened in one minute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Minute {
    /// Users whose entry changed, as heard from the directory.
    pub changes: u64,
    /// What became of users, problems included.
    pub outcomes: u64,
    pub problems: u64,
}

/// Minutes by their number since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flow(BTreeMap<i64, Minute>);

impl Flow {
    /// The hour before now, as the stores have it.
    pub fn read(c: &Reader) -> Result<Flow, ViewError> {
        let since = Timestamp((c.now.0 / MINUTE_MS + 1 - MINUTES as i64) * MINUTE_MS);
        let mut flow = Flow::default();
        if let Some(feed) = c.feed()? {
            feed.heard_since(since, BACK_MAX)?.into_iter().for_each(|at| flow.change(at));
        }
        let store = c.enablement()?;
        for mark in db::outcome_marks_since(&store, since, BACK_MAX)? {
            flow.outcome(mark.at, &mark.kind);
        }
        Ok(flow)
    }

    fn minute(&mut self, at: Timestamp) -> &mut Minute {
        self.0.entry(at.0.div_euclid(MINUTE_MS)).or_default()
    }

    pub fn change(&mut self, at: Timestamp) {
        self.minute(at).changes += 1;
    }

    pub fn outcome(&mut self, at: Timestamp, kind: &str) {
        let minute = self.minute(at);
        minute.outcomes += 1;
        minute.problems += u64::from(kind == OutcomeKind::Problem.as_str());
    }

    /// Forgets what is older than the hour.
    pub fn forget(&mut self, now: Timestamp) {
        self.0 = self.0.split_off(&(now.0.div_euclid(MINUTE_MS) + 1 - MINUTES as i64));
    }

    /// The hour up to now, oldest minute first; a minute without anything is there too.
    pub fn hour(&self, now: Timestamp) -> [Minute; MINUTES] {
        let last = now.0.div_euclid(MINUTE_MS);
        std::array::from_fn(|n| self.0.get(&(last + 1 - MINUTES as i64 + n as i64)).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_sixty_minutes_and_what_is_older_is_forgotten() {
        let now = Timestamp(7_200_000 + 30_000);
        let mut flow = Flow::default();
        flow.change(now);
        flow.outcome(now, "problem");
        flow.outcome(Timestamp(now.0 - MINUTE_MS), "enabled");
        flow.change(Timestamp(now.0 - 59 * MINUTE_MS));
        flow.change(Timestamp(now.0 - 60 * MINUTE_MS));
        let hour = flow.hour(now);
        assert_eq!(hour[59], Minute { changes: 1, outcomes: 1, problems: 1 });
        assert_eq!(hour[58], Minute { changes: 0, outcomes: 1, problems: 0 });
        assert_eq!(hour[0].changes, 1);
        assert_eq!(hour.iter().map(|minute| minute.changes).sum::<u64>(), 2);
        flow.forget(now);
        assert_eq!(flow.0.len(), 3);
    }
}

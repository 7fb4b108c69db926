//! How long to wait before trying again. The one module that knows the `backoff` crate. Never sleeps, never retries.

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use std::time::Duration;

const CONNECTION_FIRST: Duration = Duration::from_millis(500);
/// The longest interval between attempts to connect; what needs a person is tried again this often.
pub const CONNECTION_MOST: Duration = Duration::from_secs(30);
const SUSPICION_FIRST: Duration = Duration::from_secs(2);
const SUSPICION_MOST: Duration = Duration::from_secs(5 * 60);
const USER_FIRST: Duration = Duration::from_secs(5);
/// The longest rest of a failed write-back.
pub const USER_MOST: Duration = Duration::from_secs(15 * 60);

/// Waiting times that grow, each up to half shorter or longer, so that many agents do not come back to a restarted server
/// in step. Never gives up.
#[derive(Debug)]
pub struct Backoff {
    delays: ExponentialBackoff,
    most: Duration,
}

impl Backoff {
    /// Between attempts to connect: 500 ms, doubling to 30 s.
    pub fn connection() -> Backoff {
        Backoff { delays: exponential(CONNECTION_FIRST, CONNECTION_MOST, 0.5), most: CONNECTION_MOST }
    }

    /// Between looks at users who are missing: 2 s, doubling to 5 min.
    pub fn suspicion() -> Backoff {
        Backoff { delays: exponential(SUSPICION_FIRST, SUSPICION_MOST, 0.5), most: SUSPICION_MOST }
    }

    pub fn next_delay(&mut self) -> Duration {
        self.delays.next_backoff().unwrap_or(self.most).min(self.most)
    }

    /// After success: the next failure starts small again.
    pub fn reset(&mut self) {
        self.delays.reset();
    }
}

/// How long one user's failed write-back rests after so many failed attempts (1 after the first): 5 s, doubling to
/// 15 minutes. No jitter: the appliers spread the work.
pub fn user_retry_delay(attempt: u32) -> Duration {
    // 5 s doubled eight times is beyond the most.
    const DOUBLINGS_MAX: u32 = 8;
    let mut delays = exponential(USER_FIRST, USER_MOST, 0.0);
    let mut delay = USER_FIRST;
    for _ in 0..attempt.clamp(1, DOUBLINGS_MAX + 1) {
        delay = delays.next_backoff().unwrap_or(USER_MOST);
    }
    delay.min(USER_MOST)
}

fn exponential(first: Duration, most: Duration, jitter: f64) -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(first)
        .with_max_interval(most)
        .with_multiplier(2.0)
        .with_randomization_factor(jitter)
        .with_max_elapsed_time(None)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_retries_start_at_5_s_double_and_stay_at_15_min() {
        assert_eq!(user_retry_delay(1), Duration::from_secs(5));
        assert_eq!(user_retry_delay(2), Duration::from_secs(10));
        assert_eq!(user_retry_delay(4), Duration::from_secs(40));
        assert_eq!(user_retry_delay(9), Duration::from_secs(900));
        assert_eq!(user_retry_delay(u32::MAX), Duration::from_secs(900));
        assert_eq!(user_retry_delay(0), user_retry_delay(1));
    }

    #[test]
    fn connection_delays_grow_within_their_bounds_and_start_over_after_success() {
        let mut backoff = Backoff::connection();
        let delays: Vec<_> = (0..20).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] >= CONNECTION_FIRST / 2 && delays[0] <= CONNECTION_FIRST * 3 / 2, "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= CONNECTION_MOST), "{delays:?}");
        assert!(delays[19] >= CONNECTION_MOST / 2, "{delays:?}");
        backoff.reset();
        assert!(backoff.next_delay() <= CONNECTION_FIRST * 3 / 2);
    }
}

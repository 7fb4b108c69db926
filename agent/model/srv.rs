//! What DNS says of an e-mail domain's instant messaging service.

use super::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One SRV record (RFC 2782), host in lower case without the final dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct SrvRecord {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub host: String,
}

/// The answer to an SRV question. Unknown is a value: it never turns into an address.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SrvAnswer {
    /// At least one record, none of them with target `.`; sorted.
    Present { records: Vec<SrvRecord> },
    /// NXDOMAIN or no data.
    Absent,
    /// A single record with target `.`: decidedly not available.
    NotAvailable,
    /// SERVFAIL, timeout, refused, bogus: nobody knows.
    Unknown { why: String },
}

impl SrvAnswer {
    pub fn is_certain(&self) -> bool {
        !matches!(self, SrvAnswer::Unknown { .. })
    }

    /// The IM domain: lowest priority, highest weight, then name. An address is not random, so neither is this.
    pub fn target(&self) -> Option<&str> {
        match self {
            SrvAnswer::Present { records } => records
                .iter()
                .min_by(|a, b| {
                    (a.priority, std::cmp::Reverse(a.weight), &a.host).cmp(&(
                        b.priority,
                        std::cmp::Reverse(b.weight),
                        &b.host,
                    ))
                })
                .map(|record| record.host.as_str()),
            SrvAnswer::Absent | SrvAnswer::NotAvailable | SrvAnswer::Unknown { .. } => None,
        }
    }

    /// Whether a decision comes out the same with either. Ports and further records make no difference to an address.
    pub fn means_the_same(&self, other: &SrvAnswer) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.target() == other.target()
    }
}

/// One answer as it came, and how long it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    pub answer: SrvAnswer,
    pub ttl: Duration,
}

/// What is known of a domain's SRV record, as a row keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SrvFact {
    pub domain: String,
    /// The answer that decisions rest on; the last certain one, or unknown.
    pub answer: SrvAnswer,
    /// When `answer` was last heard.
    pub seen_at: Timestamp,
    /// Asked again then.
    pub expires_at: Timestamp,
    /// A certain answer that contradicts `answer`, and since when; it must hold for `[dns] confirm`.
    pub contradicted: Option<(SrvAnswer, Timestamp)>,
    /// The last question was not answered with certainty.
    pub last_error: Option<String>,
}

/// A contradiction is asked again no sooner than this, however little of `[dns] confirm` is left.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);

impl SrvFact {
    /// What a newcomer's decision may rest on: while the last certain answer is contradicted, nobody knows.
    pub fn effective(&self) -> SrvAnswer {
        match &self.contradicted {
            None => self.answer.clone(),
            Some((_, since)) => {
                SrvAnswer::Unknown { why: format!("the answer changed at {since} and must hold first") }
            }
        }
    }
}

/// Takes in one answer; the fact as it is now, and whether decisions must be looked at again.
///
/// The first certain answer counts at once. An unknown one never replaces a certain one. A certain one that
/// contradicts the last certain one must hold for `confirm`: an address is an identity, and one bad name server in a
/// round must not change it. A doubt wakes nobody: who has an address keeps it, who comes sees
/// [`SrvFact::effective`]; only a certain answer is worth looking again.
pub fn learn(
    fact: Option<SrvFact>,
    domain: &str,
    answered: Answered,
    now: Timestamp,
    confirm: Duration,
) -> (SrvFact, bool) {
    let Answered { answer, ttl } = answered;
    let before = fact.as_ref().map(SrvFact::effective);
    let expires_at = now.plus(ttl);
    let mut fact = fact.unwrap_or_else(|| SrvFact {
        domain: domain.to_owned(),
        answer: SrvAnswer::Unknown { why: "not asked yet".into() },
        seen_at: now,
        expires_at,
        contradicted: None,
        last_error: None,
    });
    fact.expires_at = expires_at;

    if let SrvAnswer::Unknown { why } = &answer {
        fact.last_error = Some(why.clone());
        if !fact.answer.is_certain() {
            fact.answer = answer;
            fact.seen_at = now;
        }
        return (fact, false);
    }

    fact.last_error = None;
    let since = match &fact.contradicted {
        // A clock that was set back must not hold the answer up for longer than `confirm`.
        Some((other, since)) if other.means_the_same(&answer) => (*since).min(now),
        Some(_) | None => now,
    };
    let contradicts = fact.answer.is_certain() && !fact.answer.means_the_same(&answer);
    let held = now.since(since);
    if contradicts && held < confirm {
        fact.expires_at = expires_at.min(now.plus((confirm - held).max(ASK_AGAIN_MIN)));
        fact.contradicted = Some((answer, since));
    } else {
        fact.answer = answer;
        fact.seen_at = now;
        fact.contradicted = None;
    }
    let after = fact.effective();
    let changed = after.is_certain() && !before.is_some_and(|before| before.means_the_same(&after));
    (fact, changed)
}

/// RFC 1035 allows 253 characters; `_service._tcp.` in front of the domain takes up to 22 of them (RFC 6335: 15 a service).
const DOMAIN_BYTES_MAX: usize = 253 - 22;
const LABEL_BYTES_MAX: usize = 63;

/// Whether an e-mail domain can be a name in the DNS: letters (of any script), digits and inner hyphens, no address
/// literal. One that cannot is a bad mail address, not a question for DNS.
pub fn valid_domain(domain: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c == '-' || if c.is_ascii() { c.is_ascii_alphanumeric() } else { c.is_alphanumeric() })
    };
    domain.len() <= DOMAIN_BYTES_MAX
        && domain.split('.').all(label)
        && !domain.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIRM: Duration = Duration::from_secs(600);
    const TTL: Duration = Duration::from_secs(300);

    fn at(second: i64) -> Timestamp {
        Timestamp(second * 1_000)
    }

    fn present(host: &str) -> SrvAnswer {
        SrvAnswer::Present { records: vec![SrvRecord { priority: 0, weight: 0, port: 80, host: host.into() }] }
    }

    fn unknown() -> SrvAnswer {
        SrvAnswer::Unknown { why: "SERVFAIL".into() }
    }

    /// Feeds answers at their seconds; the last fact, and who was told to look again.
    fn after(answers: &[(i64, SrvAnswer)]) -> (SrvFact, Vec<bool>) {
        let mut fact = None;
        let mut changes = Vec::new();
        for (second, answer) in answers {
            let answered = Answered { answer: answer.clone(), ttl: TTL };
            let (next, changed) = learn(fact, "example.com", answered, at(*second), CONFIRM);
            changes.push(changed);
            fact = Some(next);
        }
        (fact.unwrap(), changes)
    }

    #[test]
    fn the_same_answer_again_only_moves_the_expiry() {
        let (fact, changes) = after(&[(0, present("im.example.com")), (300, present("im.example.com"))]);
        assert_eq!((fact.effective(), fact.expires_at), (present("im.example.com"), at(600)));
        assert_eq!(changes, [true, false]);
    }

    #[test]
    fn another_record_with_the_same_target_is_taken_at_once_and_wakes_nobody() {
        let more = SrvAnswer::Present {
            records: vec![
                SrvRecord { priority: 0, weight: 0, port: 8080, host: "im.example.com".into() },
                SrvRecord { priority: 9, weight: 0, port: 80, host: "im2.example.com".into() },
            ],
        };
        let (fact, changes) = after(&[(0, present("im.example.com")), (300, more.clone())]);
        assert_eq!((fact.answer, fact.contradicted), (more, None));
        assert_eq!(changes, [true, false]);
    }

    #[test]
    fn the_first_certain_answer_counts_at_once() {
        for first in [present("im.example.com"), SrvAnswer::Absent, SrvAnswer::NotAvailable] {
            assert_eq!(after(&[(0, first.clone())]).0.effective(), first);
            let (fact, changes) = after(&[(0, unknown()), (15, first.clone())]);
            assert_eq!((fact.effective(), fact.last_error), (first, None));
            assert_eq!(changes, [false, true]);
        }
    }

    #[test]
    fn an_unknown_answer_never_replaces_a_certain_one() {
        let (fact, changes) = after(&[(0, present("im.example.com")), (300, unknown())]);
        assert_eq!(fact.effective(), present("im.example.com"));
        assert_eq!((fact.seen_at, fact.expires_at), (at(0), at(600)));
        assert_eq!(fact.last_error.as_deref(), Some("SERVFAIL"));
        assert_eq!(changes, [true, false]);
    }

    #[test]
    fn a_contradiction_is_unknown_until_it_has_held() {
        let old = present("im.example.com");
        let (fact, changes) = after(&[(0, old.clone()), (300, SrvAnswer::Absent), (899, SrvAnswer::Absent)]);
        assert_eq!(fact.answer, old, "those who have an address rest on the old answer");
        assert!(!fact.effective().is_certain(), "newcomers wait");
        assert_eq!(fact.expires_at, at(900), "asked again when it has held, not a TTL later");
        assert_eq!(changes, [true, false, false]);

        let answers = [(0, old), (300, SrvAnswer::Absent), (700, unknown()), (900, SrvAnswer::Absent)];
        let (fact, changes) = after(&answers);
        assert_eq!((fact.effective(), fact.contradicted), (SrvAnswer::Absent, None));
        assert_eq!(changes, [true, false, false, true]);
    }

    #[test]
    fn flapping_back_forgets_the_contradiction_and_wakes_those_who_waited() {
        let (old, new) = (present("im.example.com"), present("im2.example.com"));
        let (fact, changes) = after(&[(0, old.clone()), (300, new.clone()), (600, old.clone()), (901, new)]);
        assert_eq!(fact.answer, old, "the new one has held for no time at all");
        assert_eq!(changes, [true, false, true, false]);
    }

    #[test]
    fn a_third_answer_starts_the_wait_anew() {
        let (old, new) = (present("im.example.com"), present("im2.example.com"));
        let (fact, _) = after(&[(0, old.clone()), (300, new), (800, SrvAnswer::Absent), (1_000, SrvAnswer::Absent)]);
        assert_eq!(fact.answer, old);
        assert_eq!(fact.contradicted, Some((SrvAnswer::Absent, at(800))));
    }

    #[test]
    fn a_clock_set_back_delays_by_no_more_than_the_wait() {
        let old = present("im.example.com");
        let (fact, _) =
            after(&[(10_000, old), (10_300, SrvAnswer::Absent), (300, SrvAnswer::Absent), (900, SrvAnswer::Absent)]);
        assert_eq!(fact.effective(), SrvAnswer::Absent);
    }

    #[test]
    fn a_domain_is_one_that_dns_can_hold() {
        for good in ["example.com", "corp", "a-b.example", "xn--mller-kva.example", "müller.example", "3com.com"] {
            assert!(valid_domain(good), "{good}");
        }
        let long = format!("{}.example", "a".repeat(64));
        let longer = ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60)].join(".");
        for bad in [
            "",
            ".",
            "example.com.",
            "a..b",
            "-a.example",
            "a-.example",
            "a b.example",
            "a_b.example",
            "[192.0.2.1]",
            "192.0.2.1",
            "a@b",
            "a\0.example",
            "☃.example",
            &long,
            &longer,
        ] {
            assert!(!valid_domain(bad), "{bad}");
        }
    }

    fn any_answer() -> impl Strategy<Value = SrvAnswer> {
        prop_oneof![
            Just(unknown()),
            Just(SrvAnswer::Absent),
            Just(SrvAnswer::NotAvailable),
            Just(present("im.example.com")),
            Just(present("im2.example.com")),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_unknown_changes_nothing_and_no_answer_flips_before_it_has_held(
            steps in proptest::collection::vec((any_answer(), 1i64..400), 1..60)
        ) {
            let mut fact: Option<SrvFact> = None;
            let mut now = 0;
            // Since when the newest certain answer has been the only certain one heard.
            let mut steady: Option<(SrvAnswer, i64)> = None;
            for (answer, pause) in steps {
                now += pause;
                let before = fact.clone();
                let answered = Answered { answer: answer.clone(), ttl: TTL };
                let (next, changed) = learn(fact.take(), "example.com", answered, at(now), CONFIRM);
                if answer.is_certain() && !steady.as_ref().is_some_and(|(last, _)| last.means_the_same(&answer)) {
                    steady = Some((answer.clone(), now));
                }
                if let Some(before) = before.filter(|before| before.answer.is_certain()) {
                    if !answer.is_certain() {
                        prop_assert_eq!(before.effective(), next.effective());
                        prop_assert!(!changed);
                    }
                    if !before.answer.means_the_same(&next.answer) {
                        let (last, since) = steady.clone().unwrap();
                        prop_assert!(last.means_the_same(&next.answer) && now - since >= CONFIRM.as_secs() as i64);
                        prop_assert!(changed);
                    }
                }
                prop_assert!(next.expires_at > at(now) && next.expires_at <= at(now).plus(TTL));
                fact = Some(next);
            }
        }
    }
}

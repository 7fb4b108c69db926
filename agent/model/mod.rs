//! The nouns. Plain values that every other module speaks: users, homes, standings, decisions, outcomes.
//! Nothing here does I/O, reads a clock or knows SQL, LDAP or JSON documents of the outside.

mod attributes;
mod decision;
mod home;
mod outcome;
mod rules;
mod srv;
mod standing;
mod user;
mod write;

pub use attributes::*;
pub use decision::*;
pub use home::*;
pub use outcome::*;
pub use rules::*;
pub use srv::*;
pub use standing::*;
pub use user::*;
pub use write::*;

use serde::{Deserialize, Serialize};
use std::fmt;

/// A moment: milliseconds since 1970-01-01T00:00:00Z. Printed as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The wall clock. Only the rim calls it: `decide` is given its `now`.
    pub fn now() -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(since_epoch.as_millis() as i64)
    }

    /// `duration` later; a negative one is earlier. Saturates.
    pub fn plus(self, duration: std::time::Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(duration.as_millis().min(i64::MAX as u128) as i64))
    }

    pub fn minus(self, duration: std::time::Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(duration.as_millis().min(i64::MAX as u128) as i64))
    }

    /// Time from `earlier` to `self`; zero when the clock went backwards.
    pub fn since(self, earlier: Timestamp) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0).max(0) as u64)
    }

    /// The moment from which an account is of no use, as directories write it: generalizedTime, or 100 ns since 1601 as
    /// Active Directory does (MS-ADA1 2.1, accountExpires). `None`: never, or not to be read.
    pub fn from_expiry(text: &str) -> Option<Timestamp> {
        const MS_FROM_1601_TO_1970: i64 = 11_644_473_600_000;
        if let Some(at) = Timestamp::from_generalized_time(text).filter(|_| !text.bytes().all(|b| b.is_ascii_digit())) {
            return Some(at);
        }
        match text.parse::<i64>() {
            Ok(i64::MIN..=0 | i64::MAX) | Err(_) => None,
            Ok(ticks) => Some(Timestamp(ticks / 10_000 - MS_FROM_1601_TO_1970)),
        }
    }

    /// LDAP generalizedTime (RFC 4517 3.3.13), as directories write it: `20260131115959Z`, fraction and offset allowed.
    pub fn from_generalized_time(text: &str) -> Option<Timestamp> {
        let bytes = text.as_bytes();
        if bytes.len() < 11 || !bytes[..10].iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = |range: std::ops::Range<usize>| -> Option<i64> {
            let part = bytes.get(range)?;
            part.iter()
                .all(u8::is_ascii_digit)
                .then(|| part.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
        };
        let mut at = 10;
        let mut minute = 0;
        let mut second = 0;
        if let Some(n) = number(at..at + 2) {
            minute = n;
            at += 2;
            if let Some(n) = number(at..at + 2) {
                second = n;
                at += 2;
            }
        }
        let mut millisecond = 0;
        if matches!(bytes.get(at), Some(b'.' | b',')) {
            at += 1;
            let digits = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let fraction = number(at..at + digits.min(9))? as f64 / 10f64.powi(digits.min(9) as i32);
            let unit_ms = if bytes.len() >= 14 && at > 13 {
                1_000.0
            } else if at > 11 {
                60_000.0
            } else {
                3_600_000.0
            };
            millisecond = (fraction * unit_ms) as i64;
            at += digits;
        }
        let offset_minutes = match bytes.get(at) {
            Some(b'Z') if at + 1 == bytes.len() => 0,
            Some(sign @ (b'+' | b'-')) => {
                let hours = number(at + 1..at + 3)?;
                let minutes = if bytes.len() == at + 5 { number(at + 3..at + 5)? } else { 0 };
                if bytes.len() != at + 3 && bytes.len() != at + 5 {
                    return None;
                }
                if *sign == b'+' { hours * 60 + minutes } else { -(hours * 60 + minutes) }
            }
            _ => return None,
        };
        let date = jiff::civil::DateTime::new(
            number(0..4)? as i16,
            number(4..6)? as i8,
            number(6..8)? as i8,
            number(8..10)? as i8,
            minute as i8,
            second.min(59) as i8,
            0,
        )
        .ok()?;
        let utc = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
        Some(Timestamp(utc + millisecond - offset_minutes * 60_000))
    }

    /// generalizedTime in UTC to the second: `20260131115959Z`.
    pub fn to_generalized_time(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => time.strftime("%Y%m%d%H%M%SZ").to_string(),
            Err(_) => "00000101000000Z".into(),
        }
    }

    /// RFC 3339 text to a moment.
    pub fn from_rfc3339(text: &str) -> Option<Timestamp> {
        text.parse::<jiff::Timestamp>().ok().map(|time| Timestamp(time.as_millisecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_read_in_either_form_and_never_is_none() {
        let day = Timestamp::from_generalized_time("20260131000000Z");
        assert_eq!(Timestamp::from_expiry("20260131000000Z"), day);
        assert_eq!(Timestamp::from_expiry("134142912000000000"), day);
        for never in ["0", "9223372036854775807", "-1", "", "soon"] {
            assert_eq!(Timestamp::from_expiry(never), None, "{never}");
        }
    }

    #[test]
    fn generalized_time_is_read_with_fraction_and_offset() {
        let plain = Timestamp::from_generalized_time("20260131115959Z").unwrap();
        assert_eq!(plain.to_string(), "2026-01-31T11:59:59.000Z");
        assert_eq!(Timestamp::from_generalized_time("20260131115959.5Z").unwrap().0 - plain.0, 500);
        assert_eq!(Timestamp::from_generalized_time("20260131125959+0100"), Some(plain));
        assert_eq!(plain.to_generalized_time(), "20260131115959Z");
    }

    #[test]
    fn what_is_no_generalized_time_is_none() {
        for text in [
            "",
            "Z",
            "2026",
            "20261331115959Z",
            "20260131115959",
            "2026013111595Z9",
            "20260131115959.Z",
            "ä0260131115959Z",
        ] {
            assert_eq!(Timestamp::from_generalized_time(text), None, "{text}");
        }
    }
}

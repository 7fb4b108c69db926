//! Was the password last set after the verifier, or reversible storage, came into force for this user?
//!
//! | kind of directory | when the password was set | in force since |
//! |---|---|---|
//! | OpenLDAP with ppolicy, 389 DS | `pwdChangedTime`, `pwdUpdateTime`; absent: the age of the entry helps | `[digest] since`, else when the agent first saw it required |
//! | Active Directory | `pwdLastSet`; 0: a new one is demanded already | `[digest] since`, else what intake found out for this very user ([`REVERSIBLE`]) |
//!
//! Nothing here reads a directory, and nothing switches reversible storage on.

use super::explain::{Step, Trace};
use super::policy::{DigestPolicy, Names, Policy};
use crate::model::*;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The record attribute in which intake says since when, at the latest, reversible storage has been in force for this
/// user: the first value is a [`Reversible`], the others are what it rests on. Active Directory, and only while Digest
/// is required.
pub const REVERSIBLE: &str = "homeward;reversible";

/// 1601-01-01, where FILETIME (MS-DTYP 2.3.3) begins, in ms since 1970.
const FILETIME_BEGINS: i64 = -11_644_473_600_000;

/// What makes a password good for Digest, by kind of directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Verifier {
    /// Any password set since a moment that is the same for everybody.
    Dated,
    /// A password set while the domain kept this user's password reversibly encrypted.
    Reversible,
}

/// How the settings of a domain combine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageRule {
    /// Windows: the domain's policy, or the fine-grained one, or the account's flag (MS-SAMR 3.1.1.8.11.5).
    Any,
    /// Samba, as observed: the policy, which the fine-grained one replaces, and the account's flag.
    Both,
}

/// One setting that counts for reversible storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    Off,
    /// On, since this moment at the latest.
    OnSince(Timestamp),
    /// It cannot be read.
    Unknown,
}

impl Setting {
    /// What is known after a look. `on`: as it is now, `None` where it cannot be read. `changed`: when the directory says
    /// that it last changed, in whatever way. One that was seen off begins anew.
    pub fn seen(before: Option<Setting>, on: Option<bool>, changed: Option<Timestamp>, now: Timestamp) -> Setting {
        let since = match (on, before) {
            (None, _) => return Setting::Unknown,
            (Some(false), _) => return Setting::Off,
            (Some(true), Some(Setting::OnSince(since))) => since,
            (Some(true), Some(Setting::Off | Setting::Unknown) | None) => now,
        };
        Setting::OnSince(changed.map_or(since, |changed| changed.min(since)))
    }

    /// As it counts for a user whom it has concerned only since `from`.
    pub fn from(self, from: Timestamp) -> Setting {
        match self {
            Setting::OnSince(since) => Setting::OnSince(since.max(from)),
            Setting::Off | Setting::Unknown => self,
        }
    }
}

/// Whether a user's next password will be stored reversibly, and since when that is so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reversible {
    Off,
    Unknown,
    /// At the latest.
    Since(Timestamp),
}

impl Reversible {
    /// `fine_grained`: of the password settings object that applies to the user, if one does.
    pub fn combine(rule: StorageRule, domain: Setting, fine_grained: Option<Setting>, flag: Setting) -> Reversible {
        match rule {
            StorageRule::Any => {
                let parts = [domain, fine_grained.unwrap_or(Setting::Off), flag];
                let since = parts.iter().filter_map(|part| match part {
                    Setting::OnSince(since) => Some(*since),
                    Setting::Off | Setting::Unknown => None,
                });
                match since.min() {
                    // One that cannot be read could make it earlier, never later.
                    Some(since) => Reversible::Since(since),
                    None if parts.contains(&Setting::Unknown) => Reversible::Unknown,
                    None => Reversible::Off,
                }
            }
            StorageRule::Both => match (fine_grained.unwrap_or(domain), flag) {
                (Setting::Off, _) | (_, Setting::Off) => Reversible::Off,
                (Setting::Unknown, _) | (_, Setting::Unknown) => Reversible::Unknown,
                (Setting::OnSince(policy), Setting::OnSince(flag)) => Reversible::Since(policy.max(flag)),
            },
        }
    }

    /// As [`REVERSIBLE`] says. A record without it: nobody has looked yet.
    pub fn of(record: &UserRecord) -> Reversible {
        match record.text(REVERSIBLE) {
            Some("off") => Reversible::Off,
            Some(text) => Timestamp::from_rfc3339(text).map_or(Reversible::Unknown, Reversible::Since),
            None => Reversible::Unknown,
        }
    }
}

impl fmt::Display for Reversible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reversible::Off => f.write_str("off"),
            Reversible::Unknown => f.write_str("unknown"),
            Reversible::Since(since) => since.fmt(f),
        }
    }
}

/// What `pwdLastSet` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasswordSet {
    At(Timestamp),
    /// The directory demands a new one at the next logon; when this one was set, nobody can tell.
    MustChange,
}

impl PasswordSet {
    /// A FILETIME in decimal: 100 ns since 1601.
    pub fn from_filetime(text: &str) -> Option<PasswordSet> {
        match text.parse::<i64>().ok()? {
            0 => Some(PasswordSet::MustChange),
            i64::MAX => None,
            ticks if ticks > 0 => Some(PasswordSet::At(Timestamp(ticks / 10_000 + FILETIME_BEGINS))),
            _ => None,
        }
    }
}

pub fn readiness(record: &UserRecord, digest: &DigestPolicy, names: &Names, trace: &mut Trace) -> DigestReadiness {
    if !digest.required {
        return DigestReadiness::NotRequired;
    }
    match digest.verifier {
        Verifier::Dated => dated(record, digest, names, trace),
        Verifier::Reversible => reversible(record, digest, names, trace),
    }
}

fn dated(record: &UserRecord, digest: &DigestPolicy, names: &Names, trace: &mut Trace) -> DigestReadiness {
    let changed = record.text(&names.password_date).and_then(Timestamp::from_generalized_time);
    let created = record.text(&names.created).and_then(Timestamp::from_generalized_time);
    let readiness = match (changed, created) {
        (Some(changed), _) if changed >= digest.since => DigestReadiness::Ready,
        (Some(_), _) => DigestReadiness::ResetRequired,
        // Any change since ppolicy came would have left a date: an entry older than the policy has an older password.
        (None, Some(created)) if created < digest.since => DigestReadiness::ResetRequired,
        (None, _) => DigestReadiness::Unknown,
    };
    trace.add(|| Step::Digest { changed, since: digest.since, readiness });
    readiness
}

fn reversible(record: &UserRecord, digest: &DigestPolicy, names: &Names, trace: &mut Trace) -> DigestReadiness {
    let set = record.text(&names.password_date).and_then(PasswordSet::from_filetime);
    let storage = match Reversible::of(record) {
        // What the operator knows of the past changes nothing about the next password.
        Reversible::Off => Reversible::Off,
        Reversible::Unknown | Reversible::Since(_) if digest.configured => Reversible::Since(digest.since),
        seen => seen,
    };
    let readiness = match (storage, set) {
        (Reversible::Off | Reversible::Unknown, _) | (Reversible::Since(_), None) => DigestReadiness::Unknown,
        (Reversible::Since(since), Some(PasswordSet::At(set))) if set >= since => DigestReadiness::Ready,
        (Reversible::Since(_), Some(_)) => DigestReadiness::ResetRequired,
    };
    trace.add(|| Step::Reversible { set, storage, configured: digest.configured, readiness });
    readiness
}

/// The password, by its date, that the directory should be asked to expire: once per password.
pub fn expire(
    readiness: DigestReadiness,
    record: &UserRecord,
    standing: &Standing,
    policy: &Policy,
) -> Option<PasswordDate> {
    if readiness != DigestReadiness::ResetRequired || policy.digest.action != DigestAction::Expire {
        return None;
    }
    let date = record.text(&policy.names.password_date);
    match policy.digest.verifier {
        // It is demanded already: by us, or by an administrator.
        Verifier::Reversible if date.and_then(PasswordSet::from_filetime) == Some(PasswordSet::MustChange) => {
            return None;
        }
        Verifier::Reversible | Verifier::Dated => {}
    }
    let date = PasswordDate(date.map(str::to_owned));
    (standing.reset_asked_for.as_ref() != Some(&date)).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: Setting = Setting::OnSince(Timestamp(200));
    const EARLIER: Setting = Setting::OnSince(Timestamp(100));
    const LATER: Setting = Setting::OnSince(Timestamp(300));

    /// domain, fine-grained, flag: Windows, Samba.
    const TABLE: &[(Setting, Option<Setting>, Setting, Reversible, Reversible)] = {
        use Reversible::{Off as NO, Since, Unknown as DARK};
        use Setting::{Off, Unknown};
        &[
            (Off, None, Off, NO, NO),
            (ON, None, Off, Since(Timestamp(200)), NO),
            (Off, None, ON, Since(Timestamp(200)), NO),
            (ON, None, EARLIER, Since(Timestamp(100)), Since(Timestamp(200))),
            (ON, None, LATER, Since(Timestamp(200)), Since(Timestamp(300))),
            // A fine-grained policy adds on Windows, and replaces on Samba.
            (Off, Some(ON), Off, Since(Timestamp(200)), NO),
            (Off, Some(ON), LATER, Since(Timestamp(200)), Since(Timestamp(300))),
            (ON, Some(Off), Off, Since(Timestamp(200)), NO),
            (ON, Some(Off), LATER, Since(Timestamp(200)), NO),
            (EARLIER, Some(LATER), ON, Since(Timestamp(100)), Since(Timestamp(300))),
            // What cannot be read matters only where it could change the answer.
            (Unknown, None, Off, DARK, NO),
            (Unknown, None, ON, Since(Timestamp(200)), DARK),
            (Off, Some(Unknown), Off, DARK, NO),
            (Off, Some(Unknown), ON, Since(Timestamp(200)), DARK),
            (ON, Some(Unknown), Off, Since(Timestamp(200)), NO),
            (ON, Some(Unknown), ON, Since(Timestamp(200)), DARK),
            (Unknown, Some(ON), LATER, Since(Timestamp(200)), Since(Timestamp(300))),
            (Off, None, Unknown, DARK, NO),
            (ON, None, Unknown, Since(Timestamp(200)), DARK),
        ]
    };

    #[test]
    fn windows_takes_any_of_the_three_and_samba_the_policy_in_force_with_the_flag() {
        for (domain, fine_grained, flag, windows, samba) in TABLE {
            let case = format!("{domain:?} {fine_grained:?} {flag:?}");
            assert_eq!(Reversible::combine(StorageRule::Any, *domain, *fine_grained, *flag), *windows, "{case}");
            assert_eq!(Reversible::combine(StorageRule::Both, *domain, *fine_grained, *flag), *samba, "{case}");
        }
    }

    #[test]
    fn a_setting_keeps_its_first_sight_unless_the_directory_knows_of_an_earlier_one() {
        let (now, at) = (Timestamp(500), |ms| Some(Timestamp(ms)));
        let since = |ms| Setting::OnSince(Timestamp(ms));
        assert_eq!(Setting::seen(None, Some(true), None, now), since(500));
        assert_eq!(Setting::seen(None, Some(true), at(300), now), since(300));
        assert_eq!(Setting::seen(Some(since(200)), Some(true), at(300), now), since(200));
        assert_eq!(Setting::seen(Some(since(200)), Some(true), at(100), now), since(100));
        assert_eq!(Setting::seen(Some(since(200)), Some(true), at(900), now), since(200));
        assert_eq!(Setting::seen(Some(since(200)), Some(false), at(300), now), Setting::Off);
        assert_eq!(Setting::seen(Some(Setting::Off), Some(true), at(450), now), since(450), "off and on: anew");
        assert_eq!(Setting::seen(Some(since(200)), None, at(300), now), Setting::Unknown);
        assert_eq!(Setting::seen(Some(Setting::Unknown), Some(true), None, now), since(500));
    }

    #[test]
    fn a_setting_counts_for_a_user_only_from_when_it_concerned_the_user() {
        assert_eq!(ON.from(Timestamp(300)), LATER);
        assert_eq!(ON.from(Timestamp(100)), ON);
        assert_eq!(Setting::Off.from(Timestamp(300)), Setting::Off);
        assert_eq!(Setting::Unknown.from(Timestamp(300)), Setting::Unknown);
    }

    #[test]
    fn a_filetime_is_a_moment_a_demand_or_nothing() {
        let at = |text: &str| match PasswordSet::from_filetime(text) {
            Some(PasswordSet::At(at)) => at.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(at("134398560263708050"), "2026-11-22T21:20:26.370Z");
        assert_eq!(at("116444736000000000"), "1970-01-01T00:00:00.000Z");
        assert_eq!(at("1"), "1601-01-01T00:00:00.000Z");
        assert_eq!(at("0"), "Some(MustChange)");
        for text in ["", "-1", "9223372036854775807", "18446744073709551615", "0x0", "20260131115959Z", " 1"] {
            assert_eq!(at(text), "None", "{text}");
        }
        // Far away, and no reason to stumble.
        assert!(at("9223372036854775806").ends_with(" ms"));
    }

    #[test]
    fn what_intake_writes_is_what_is_read() {
        for storage in [Reversible::Off, Reversible::Unknown, Reversible::Since(Timestamp(1_800_000_000_123))] {
            let mut record = UserRecord::default();
            assert_eq!(Reversible::of(&record), Reversible::Unknown, "nobody has looked");
            let values = [storage.to_string(), "flag 2026-01-01T00:00:00.000Z".into()];
            record.set(REVERSIBLE, values.map(Value::Text).to_vec());
            assert_eq!(Reversible::of(&record), storage);
        }
    }
}

//! What we know of one user beside the record: what was decided, what was applied, what is awaited.

use super::{HomeId, Timestamp, UserKey, UserRecord};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A place in a compacted log. Compares in order of time; printed zero-padded, so that text compares the same way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence {
    /// Grows with every rebuilt log and every takeover.
    pub epoch: u64,
    pub seq: u64,
}

impl Sequence {
    /// `0000001767225600000-00000000000000000042`, as in events and on the command line. `0` is the beginning.
    pub fn parse(text: &str) -> Option<Sequence> {
        if text == "0" {
            return Some(Sequence::default());
        }
        let (epoch, seq) = text.split_once('-')?;
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        Some(Sequence { epoch: number(epoch)?, seq: number(seq)? })
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:019}-{:020}", self.epoch, self.seq)
    }
}

/// Whether the directory still has the user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    #[default]
    Present,
    /// Exists, perhaps, but not where we look.
    LeftScope,
    /// Proven: the directory has no such entry.
    Deleted,
}

/// A place at a home server and the address that goes with it.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Assignment {
    pub home: HomeId,
    /// In canonical form: lower case.
    pub address: String,
    pub im_domain: String,
}

/// What the four write-back attributes hold, or should. `None`: the attribute is absent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct WriteBackValues {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub home_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub home: Option<String>,
}

impl WriteBackValues {
    pub fn is_empty(&self) -> bool {
        *self == WriteBackValues::default()
    }
}

/// Where a user stands. One word an operator filters by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Observe mode: this is what would be done.
    Planned,
    /// Decided, on its way to the directory.
    Applying,
    Enabled,
    /// Enabled, but Digest authentication fails until the password is changed.
    AwaitingPassword,
    /// Something that resolves by itself is missing.
    Waiting,
    /// The directory did not take it yet; tried again with backoff.
    Retrying,
    /// The guard holds it.
    Held,
    Disabled,
    /// No rule, or a rule, says to leave this user alone.
    Ignored,
    Problem,
    /// No longer in the directory, or not where we look.
    Gone,
}

impl Status {
    pub const ALL: [Status; 11] = [
        Status::Planned,
        Status::Applying,
        Status::Enabled,
        Status::AwaitingPassword,
        Status::Waiting,
        Status::Retrying,
        Status::Held,
        Status::Disabled,
        Status::Ignored,
        Status::Problem,
        Status::Gone,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Planned => "planned",
            Status::Applying => "applying",
            Status::Enabled => "enabled",
            Status::AwaitingPassword => "awaiting-password",
            Status::Waiting => "waiting",
            Status::Retrying => "retrying",
            Status::Held => "held",
            Status::Disabled => "disabled",
            Status::Ignored => "ignored",
            Status::Problem => "problem",
            Status::Gone => "gone",
        }
    }

    pub fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether Digest authentication can work for the user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DigestReadiness {
    #[default]
    NotRequired,
    Ready,
    ResetRequired,
    /// The directory does not tell when the password was set.
    Unknown,
}

impl DigestReadiness {
    pub fn as_str(self) -> &'static str {
        match self {
            DigestReadiness::NotRequired => "not-required",
            DigestReadiness::Ready => "ready",
            DigestReadiness::ResetRequired => "reset-required",
            DigestReadiness::Unknown => "unknown",
        }
    }
}

/// What an operator asked for one user. Kept until undone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UserWishes {
    /// Leave the user as is, whatever the rules say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
    /// Live here, if there is room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<HomeId>,
    /// Work the address out anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readdress: bool,
    /// Release, and do not enable again until rechecked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
}

/// Everything kept about one user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    pub key: UserKey,
    /// Grows with every change of what is decided; a result that names an older one is late.
    pub version: u64,
    /// The newest log row taken in.
    pub sequence: Sequence,
    /// When the newest change was heard of.
    pub heard_at: Timestamp,
    /// When this store first saw the user.
    pub first_seen: Timestamp,
    pub updated_at: Timestamp,
    /// The last record; kept when the user is gone, so that the operator can read who that was.
    pub record: UserRecord,
    pub presence: Presence,
    /// The place and address reserved. After a release it rests here for the same user.
    pub reserved: Option<Assignment>,
    /// Set when `reserved` only rests: it takes no place at the home.
    pub released_at: Option<Timestamp>,
    /// A home whose place is still taken, because the directory has not confirmed that the user left it.
    pub leaving: Option<HomeId>,
    /// What we wrote last, or adopted: what is ours in the directory.
    pub applied: WriteBackValues,
    /// What was ours before the last write, and when that was: a record read before the write still shows it.
    pub previous: Option<(WriteBackValues, Timestamp)>,
    pub status: Status,
    pub digest: DigestReadiness,
    /// The password date (or its absence) for which the directory was already asked to demand a new password.
    pub reset_asked_for: Option<PasswordDate>,
    /// Since when a reset has been needed.
    pub reset_since: Option<Timestamp>,
    /// The rule that matched last.
    pub rule: Option<String>,
    /// What a waiting user waits on, in words with a stable beginning: `room`, `srv:example.com`, `mail`, …
    pub waiting_on: Option<String>,
    /// The e-mail domain whose SRV answer the decision rested on.
    pub mail_domain: Option<String>,
    pub wishes: UserWishes,
    /// Fingerprint of a guarded change that the operator approved.
    pub approved: Option<String>,
    /// Whether an enablement was told on the outcome feed and not yet taken back.
    pub told_enabled: bool,
    /// The wait or problem told last, so that it is told once.
    pub told: Option<String>,
    /// The readiness that outcomes have told.
    pub told_digest: DigestReadiness,
}

/// The date of a password as the directory tells it: opaque text, compared for equality only; `None` where it has none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordDate(pub Option<String>);

impl Standing {
    pub fn new(key: UserKey, now: Timestamp) -> Standing {
        Standing {
            key,
            version: 0,
            sequence: Sequence::default(),
            heard_at: now,
            first_seen: now,
            updated_at: now,
            record: UserRecord::default(),
            presence: Presence::Present,
            reserved: None,
            released_at: None,
            leaving: None,
            applied: WriteBackValues::default(),
            previous: None,
            status: Status::Ignored,
            digest: DigestReadiness::NotRequired,
            reset_asked_for: None,
            reset_since: None,
            rule: None,
            waiting_on: None,
            mail_domain: None,
            wishes: UserWishes::default(),
            approved: None,
            told_enabled: false,
            told: None,
            told_digest: DigestReadiness::NotRequired,
        }
    }

    /// The homes at which this user takes a place: where assigned, and where the directory still may say so.
    pub fn occupies(&self) -> (Option<&HomeId>, Option<&HomeId>) {
        let holds = self.holds().map(|assignment| &assignment.home);
        (holds, self.leaving.as_ref().filter(|home| Some(*home) != holds))
    }

    /// The assignment that takes a place now; `None` when it only rests.
    pub fn holds(&self) -> Option<&Assignment> {
        self.reserved.as_ref().filter(|_| self.released_at.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_compare_as_text_as_they_do_as_numbers() {
        let old = Sequence { epoch: 9, seq: 1_000 };
        let new = Sequence { epoch: 10, seq: 2 };
        assert!(old < new && old.to_string() < new.to_string());
        assert_eq!(Sequence::parse(&new.to_string()), Some(new));
        assert_eq!(Sequence::parse("0"), Some(Sequence::default()));
        assert_eq!(Sequence::parse("12"), None);
    }
}

//! What became of a user, as told on the outcome feed.

use super::{Assignment, DigestReadiness, HomeId, Status, UserKey};
use serde::{Deserialize, Serialize};

/// The kinds of outcome; each is an event type `homeward.enablement.<kind>.v1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeKind {
    Enabled,
    Adopted,
    /// Another home, or another address.
    Moved,
    Disabled,
    PasswordResetRequired,
    Ready,
    Waiting,
    Problem,
}

impl OutcomeKind {
    pub const ALL: [OutcomeKind; 8] = [
        OutcomeKind::Enabled,
        OutcomeKind::Adopted,
        OutcomeKind::Moved,
        OutcomeKind::Disabled,
        OutcomeKind::PasswordResetRequired,
        OutcomeKind::Ready,
        OutcomeKind::Waiting,
        OutcomeKind::Problem,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            OutcomeKind::Enabled => "enabled",
            OutcomeKind::Adopted => "adopted",
            OutcomeKind::Moved => "moved",
            OutcomeKind::Disabled => "disabled",
            OutcomeKind::PasswordResetRequired => "password-reset-required",
            OutcomeKind::Ready => "ready",
            OutcomeKind::Waiting => "waiting",
            OutcomeKind::Problem => "problem",
        }
    }

    pub fn parse(text: &str) -> Option<OutcomeKind> {
        OutcomeKind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One outcome: the state of the user, so that a reader needs no other, and what led to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub key: UserKey,
    pub kind: OutcomeKind,
    pub login: Option<String>,
    pub dn: String,
    pub mail: Option<String>,
    pub status: Status,
    pub assignment: Option<Assignment>,
    pub im_url: Option<String>,
    pub home_url: Option<String>,
    pub digest: DigestReadiness,
    pub rule: Option<String>,
    /// In words.
    pub why: Option<String>,
    /// What the operator or the user still has to do.
    pub todo: Vec<String>,
    /// Where the user lived before.
    pub from: Option<HomeId>,
    /// From the change in the log to this outcome, where it is known. Milliseconds.
    pub took_ms: Option<u64>,
}

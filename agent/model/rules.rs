//! Small choices that rules are made of. Written in the configuration, read by `decide`.

use serde::{Deserialize, Serialize};

/// What a policy rule does with the users it matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    #[default]
    Enable,
    Disable,
    /// Freeze as is.
    Ignore,
}

/// The kind of instant messaging, which fixes the form of address and URLs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Exchange 2000 Instant Messaging (RVP): `_rvp._tcp`.
    #[default]
    Exchange,
    Xmpp,
    Sip,
    Matrix,
}

/// What a change of its source does to an address already given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    #[default]
    Keep,
    Migrate,
}

/// What is done about a password that predates the Digest policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DigestAction {
    /// Record, event and list.
    #[default]
    Flag,
    /// Also make the directory demand a new password at the next logon.
    Expire,
}

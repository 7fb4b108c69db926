//! What should happen to one user, and why: values that can be printed, stored and compared.

use super::{Assignment, DigestReadiness, HomeId, PasswordDate, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The answer of `decide`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub wanted: Wanted,
    /// The policy rule that matched, if one did.
    pub rule: Option<String>,
    /// The e-mail domain whose SRV answer was used or is missing.
    pub mail_domain: Option<String>,
    /// Look again then, even if nothing happens.
    pub look_again_at: Option<Timestamp>,
}

/// What should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The user lives at a home. `change` says what is new about that.
    Enabled { assignment: Assignment, change: Change, digest: DigestReadiness, expire: Option<PasswordDate> },
    /// The user has a place and loses it.
    Released { why: ReleaseReason },
    /// Not managed, and nothing to do.
    LeftAlone { why: AloneReason },
    /// Resolves by itself. What exists stays.
    Wait { on: Blocker },
    /// Needs a person. What exists stays.
    Refused { why: Refusal },
}

/// What is new about an assignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Nothing,
    /// Newly placed.
    Assigned,
    /// Found in the directory, and taken over.
    Adopted,
    /// Another home. Guarded.
    Moved,
    /// Another address. Guarded.
    Readdressed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseReason {
    Deleted,
    LeftScope,
    AccountDisabled,
    RuleDisables,
    NoRule,
    Operator,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AloneReason {
    Gone,
    AccountDisabled,
    RuleDisables,
    RuleIgnores,
    NoRule,
    Frozen,
    Released,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Blocker {
    /// No eligible home has room.
    Room,
    /// The SRV answer of this domain is not known.
    Srv(String),
    /// No mail yet, and `[im] mail_wait` has not passed.
    Mail,
    /// Placement begins once every existing assignment has been adopted.
    Adoption,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The directory holds values that are neither ours nor of our fleet.
    ForeignValue { attribute: String, value: String },
    /// Another user has this address, or it still rests.
    AddressTaken { address: String, holder: String },
    /// The SRV record says that the service is decidedly not available (RFC 2782, target `.`).
    ServiceNotAvailable { domain: String },
    /// No attribute gives the part before the `@`.
    NoLogin { attribute: String },
    /// The address holds a character that the directory's syntax refuses.
    AddressCharacter { address: String, character: char },
    /// Several primary addresses, or a mail value that is no address.
    BadMail { value: String },
    /// The user lives at a home that the configuration no longer names, and may live nowhere else.
    HomeGone { home: HomeId },
    /// A rule or wish names no home that exists.
    NoSuchHome { home: String },
    /// Neither the rule nor `[im] domain` gives an IM domain, and SRV does not decide.
    NoImDomain,
    /// The entry itself could not be read as a user.
    BadEntry { problem: String },
}

impl Blocker {
    /// Stable: stored, and filtered by.
    pub fn code(&self) -> String {
        match self {
            Blocker::Room => "room".into(),
            Blocker::Srv(domain) => format!("srv:{domain}"),
            Blocker::Mail => "mail".into(),
            Blocker::Adoption => "adoption".into(),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocker::Room => f.write_str("waits for room: no eligible home server has a place left"),
            Blocker::Srv(domain) => write!(f, "waits for a certain SRV answer for {domain}"),
            Blocker::Mail => f.write_str("waits for a mail address to appear"),
            Blocker::Adoption => f.write_str("waits until the assignments that exist have been taken over"),
        }
    }
}

impl ReleaseReason {
    pub fn as_str(self) -> &'static str {
        match self {
            ReleaseReason::Deleted => "the entry was deleted",
            ReleaseReason::LeftScope => "the entry left the scope",
            ReleaseReason::AccountDisabled => "the account is disabled or expired",
            ReleaseReason::RuleDisables => "a rule disables it",
            ReleaseReason::NoRule => "no rule matches any more",
            ReleaseReason::Operator => "the operator released it",
        }
    }
}

impl AloneReason {
    pub fn as_str(self) -> &'static str {
        match self {
            AloneReason::Gone => "not in the directory",
            AloneReason::AccountDisabled => "the account is disabled or expired",
            AloneReason::RuleDisables => "a rule disables it",
            AloneReason::RuleIgnores => "a rule says to leave it as it is",
            AloneReason::NoRule => "no rule matches",
            AloneReason::Frozen => "frozen by the operator",
            AloneReason::Released => "released by the operator",
        }
    }
}

impl Refusal {
    /// Stable: stored, and a metric's label.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::ForeignValue { .. } => "foreign-value",
            Refusal::AddressTaken { .. } => "address-taken",
            Refusal::ServiceNotAvailable { .. } => "service-not-available",
            Refusal::NoLogin { .. } => "no-login",
            Refusal::AddressCharacter { .. } => "address-character",
            Refusal::BadMail { .. } => "bad-mail",
            Refusal::HomeGone { .. } => "home-gone",
            Refusal::NoSuchHome { .. } => "no-such-home",
            Refusal::NoImDomain => "no-im-domain",
            Refusal::BadEntry { .. } => "bad-entry",
        }
    }

    /// What to do about it, ending in a command.
    pub fn hint(&self) -> String {
        match self {
            Refusal::ForeignValue { attribute, value } if value.contains(",CN=") || value.contains(",cn=") => format!(
                "somebody else wrote {attribute}: clear it, or make it name a home; if a home server was renamed, correct dn in its [[home]] and reload; then: homeward problem retry ID"
            ),
            Refusal::ForeignValue { attribute, .. } => format!(
                "somebody else wrote {attribute}; clear it, or make it name a configured home, then: homeward problem retry ID"
            ),
            Refusal::AddressTaken { holder, .. } => {
                format!(
                    "give one of the two another mail address, then: homeward problem retry ID (the other: homeward user show {holder})"
                )
            }
            Refusal::ServiceNotAvailable { domain } => format!(
                "the SRV record of {domain} has target \".\" (RFC 2782: service not available); correct or remove it, then: homeward problem retry ID"
            ),
            Refusal::NoLogin { attribute } => {
                format!("give the entry a {attribute} value; it is looked at again by itself, see: homeward problem show ID")
            }
            Refusal::AddressCharacter { .. } => {
                "change the mail address or the login name in the directory; it is looked at again by itself, see: homeward problem show ID".into()
            }
            Refusal::BadMail { .. } => {
                "leave one valid primary address in the directory; it is looked at again by itself, see: homeward problem show ID".into()
            }
            Refusal::HomeGone { home } => {
                format!(
                    "put home {home} back (its [[home]], or its virtual server object), or: homeward home drain {home}"
                )
            }
            Refusal::NoSuchHome { .. } => "correct the name in the configuration, then: homeward check".into(),
            Refusal::NoImDomain => "set [im] domain, or im_domain in the rule, then: systemctl reload homeward".into(),
            Refusal::BadEntry { .. } => "correct the entry in the directory; it is looked at again by itself, see: homeward problem show ID".into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::ForeignValue { attribute, value } => {
                write!(f, "{attribute} holds \"{value}\", which is not ours; it is left untouched")
            }
            Refusal::AddressTaken { address, holder } => write!(f, "the address {address} belongs to user {holder}"),
            Refusal::ServiceNotAvailable { domain } => write!(f, "DNS says that {domain} offers no such service"),
            Refusal::NoLogin { attribute } => write!(f, "the entry has no {attribute}, so no address can be made"),
            Refusal::AddressCharacter { address, character } => {
                write!(f, "the address {address} holds {character:?}, which the directory's syntax refuses")
            }
            Refusal::BadMail { value } => write!(f, "\"{value}\" is no usable primary mail address"),
            Refusal::HomeGone { home } => {
                write!(f, "lives at home {home}, which neither the configuration nor the directory names any more")
            }
            Refusal::NoSuchHome { home } => write!(f, "no home is called {home}"),
            Refusal::NoImDomain => f.write_str("no IM domain is given, and DNS does not decide"),
            Refusal::BadEntry { problem } => write!(f, "the entry cannot be used: {problem}"),
        }
    }
}

//! The reasons of a decision, kept: what each step saw. Words for people are made here too, so that the command line,
//! the log and a page say the same.

use super::address::Mail;
use super::digest::{PasswordSet, Reversible};
use super::filter::Truth;
use super::placement::Out;
use crate::model::*;
use std::fmt;

/// One step of a decision and what it saw.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    Presence {
        presence: Presence,
    },
    Wish {
        text: String,
    },
    Account {
        disabled: bool,
    },
    EveryoneEnabled,
    Rule {
        name: String,
        truth: Truth,
        action: Action,
    },
    Foreign {
        attribute: String,
    },
    Existing {
        assignment: Assignment,
        adopted: bool,
    },
    /// The object of this home was deleted.
    Orphaned {
        home: HomeId,
    },
    Returns {
        home: HomeId,
    },
    Home {
        id: HomeId,
        assigned: u32,
        capacity: u32,
        permille: u64,
        online: Online,
        /// Rank among the eligible, from 1.
        place: Option<usize>,
        out: Option<Out>,
        /// The user lives here and stays.
        here: bool,
    },
    AddressKept {
        address: String,
    },
    Mail {
        mail: Mail,
    },
    Srv {
        domain: String,
        answer: SrvAnswer,
        age_ms: Option<u64>,
    },
    /// What a newcomer would get.
    AddressWouldBe {
        address: String,
    },
    AddressChosen {
        address: String,
        im_domain: String,
    },
    Digest {
        changed: Option<Timestamp>,
        since: Timestamp,
        readiness: DigestReadiness,
    },
    /// Active Directory.
    Reversible {
        set: Option<PasswordSet>,
        storage: Reversible,
        /// `storage` is what the operator configured.
        configured: bool,
        readiness: DigestReadiness,
    },
}

/// Collects steps, or does nothing at no cost.
#[derive(Debug)]
pub struct Trace(Option<Vec<Step>>);

impl Trace {
    pub fn off() -> Trace {
        Trace(None)
    }

    pub fn on() -> Trace {
        Trace(Some(Vec::new()))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub fn add(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &mut self.0 {
            steps.push(step());
        }
    }

    pub fn add_all(&mut self, more: impl FnOnce() -> Vec<Step>) {
        if let Some(steps) = &mut self.0 {
            steps.extend(more());
        }
    }

    pub fn into_steps(self) -> Vec<Step> {
        self.0.unwrap_or_default()
    }
}

impl Step {
    /// The part of the decision that the step belongs to: a heading.
    pub fn topic(&self) -> &'static str {
        match self {
            Step::Presence { .. } | Step::Wish { .. } | Step::Account { .. } => "account",
            Step::EveryoneEnabled | Step::Rule { .. } => "policy",
            Step::Foreign { .. } | Step::Existing { .. } | Step::Orphaned { .. } => "directory",
            Step::Returns { .. } | Step::Home { .. } => "home",
            Step::AddressKept { .. }
            | Step::Mail { .. }
            | Step::Srv { .. }
            | Step::AddressWouldBe { .. }
            | Step::AddressChosen { .. } => "address",
            Step::Digest { .. } | Step::Reversible { .. } => "digest",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Presence { presence: Presence::Present } => f.write_str("the entry is in scope"),
            Step::Presence { presence: Presence::LeftScope } => f.write_str("the entry left the scope"),
            Step::Presence { presence: Presence::Deleted } => f.write_str("the entry was deleted"),
            Step::Wish { text } => write!(f, "an operator's wish: {text}"),
            Step::Account { disabled: true } => f.write_str("the account is disabled or expired"),
            Step::Account { disabled: false } => f.write_str("the account is active"),
            Step::EveryoneEnabled => f.write_str("there are no rules: everyone in scope is enabled"),
            Step::Rule { name, truth: Truth::True, action } => {
                write!(f, "rule \"{name}\" matches: {}", action_word(*action))
            }
            Step::Rule { name, truth: Truth::False, .. } => write!(f, "rule \"{name}\" does not match"),
            Step::Rule { name, truth: Truth::Undefined, .. } => {
                write!(f, "rule \"{name}\" cannot be judged for this entry, and so does not match")
            }
            Step::Foreign { attribute } => write!(f, "{attribute} holds a value that is not ours: left untouched"),
            Step::Existing { assignment, adopted: true } => {
                write!(f, "the directory already says {} at {}: adopted", assignment.address, assignment.home)
            }
            Step::Existing { assignment, adopted: false } => {
                write!(f, "already has {} at {}", assignment.address, assignment.home)
            }
            Step::Orphaned { home } => {
                write!(f, "the virtual server object of {home} was deleted: another home is needed")
            }
            Step::Returns { home } => write!(f, "comes back within the grace time: {home} again"),
            Step::Home { id, assigned, capacity, permille, online, place, out, here } => {
                write!(f, "{id}: {assigned} of {capacity} places taken, load {}.{} %", permille / 10, permille % 10)?;
                match online {
                    Online::NotMeasured => {}
                    Online::Sample { users, .. } => write!(f, ", {users} online")?,
                    Online::Stale { users, .. } => write!(f, ", online figure stale (last {users}), not used")?,
                    Online::Unknown => write!(f, ", online figure unknown, not used")?,
                }
                match (out, place) {
                    _ if *here => f.write_str(" — lives here and stays: nobody moves without a reason"),
                    (Some(out), _) => write!(f, " — {}", out.as_str()),
                    (None, Some(1)) => f.write_str(" — chosen: the least loaded"),
                    (None, Some(place)) => write!(f, " — rank {place}"),
                    (None, None) => Ok(()),
                }
            }
            Step::AddressKept { address } => write!(f, "{address} is kept: a given address stays"),
            Step::Mail { mail: Mail::None } => f.write_str("the entry has no mail address"),
            Step::Mail { mail: Mail::Primary(address) } => write!(f, "the primary mail address is {address}"),
            Step::Mail { mail: Mail::Bad(value) } => write!(f, "\"{value}\" is no usable mail address"),
            Step::Srv { domain, answer, age_ms } => {
                write!(f, "SRV for {domain}: ")?;
                match answer {
                    SrvAnswer::Present { .. } => write!(f, "present, target {}", answer.target().unwrap_or("?"))?,
                    SrvAnswer::Absent => f.write_str("certainly absent")?,
                    SrvAnswer::NotAvailable => f.write_str("target \".\", decidedly not available")?,
                    SrvAnswer::Unknown { why } => write!(f, "unknown ({why}): wait, never the fallback")?,
                }
                match age_ms {
                    Some(ms) => write!(f, ", answered {} s ago", ms / 1000),
                    None => Ok(()),
                }
            }
            Step::AddressWouldBe { address } => write!(f, "a newcomer would get {address}"),
            Step::AddressChosen { address, im_domain } => write!(f, "the address is {address}, IM domain {im_domain}"),
            Step::Digest { changed, since, readiness } => {
                match changed {
                    Some(changed) => write!(f, "password set {changed}, Digest in force since {since}: ")?,
                    None => write!(f, "no password date, Digest in force since {since}: ")?,
                }
                f.write_str(readiness_words(*readiness))
            }
            Step::Reversible { set, storage, configured, readiness } => {
                match set {
                    Some(PasswordSet::At(set)) => write!(f, "password set {set}, ")?,
                    Some(PasswordSet::MustChange) => f.write_str("a new password is demanded already, ")?,
                    None => f.write_str("pwdLastSet cannot be read, ")?,
                }
                match storage {
                    Reversible::Off => f.write_str(
                        "reversible storage is off for this user: no new password would help until it is on: ",
                    )?,
                    Reversible::Unknown => f.write_str(
                        "whether reversible storage is on for this user cannot be seen (homeward check says why): ",
                    )?,
                    Reversible::Since(since) if *configured => {
                        write!(f, "reversible storage in force since {since} by [digest] since: ")?;
                    }
                    Reversible::Since(since) => {
                        write!(f, "reversible storage in force for this user since {since} at the latest: ")?;
                    }
                }
                f.write_str(readiness_words(*readiness))
            }
        }
    }
}

fn readiness_words(readiness: DigestReadiness) -> &'static str {
    match readiness {
        DigestReadiness::NotRequired => "not required",
        DigestReadiness::Ready => "ready",
        DigestReadiness::ResetRequired => "the password must be reset",
        DigestReadiness::Unknown => "unknown",
    }
}

fn action_word(action: Action) -> &'static str {
    match action {
        Action::Enable => "enable",
        Action::Disable => "disable",
        Action::Ignore => "leave as is",
    }
}

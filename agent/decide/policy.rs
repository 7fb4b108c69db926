//! The rules of the operator: first match decides; no match: ignore; no rules at all: enable everyone in scope.

use super::digest::Verifier;
use super::explain::{Step, Trace};
use super::filter::{Filter, Truth};
use crate::model::*;
use std::time::Duration;

/// The attribute under which intake marks an entry that it could not use, with the reason as its value. No directory can
/// send it: `;` opens an option, and options are cut off.
pub const UNREADABLE: &str = "homeward;problem";

/// Everything in the configuration that decisions rest on.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    pub rules: Vec<Rule>,
    /// A disabled account matches this.
    pub disabled: Option<Filter>,
    pub names: Names,
    pub im: ImPolicy,
    pub digest: DigestPolicy,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    pub name: String,
    pub matches: Filter,
    pub action: Action,
    /// Homes allowed; empty: all.
    pub homes: Vec<HomeId>,
    pub im_domain: Option<String>,
}

/// Attribute names as the record has them: lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    pub login: String,
    pub mail: String,
    pub address: String,
    pub url: String,
    pub home_url: String,
    pub home: String,
    /// Auxiliary class that allows the four above; empty: none needed.
    pub object_class: String,
    /// When the password was set: generalizedTime; a FILETIME in Active Directory.
    pub password_date: String,
    /// When the entry was created; generalizedTime.
    pub created: String,
    /// When the account expires; empty: such servers have no such attribute.
    pub expires: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImPolicy {
    pub profile: Profile,
    pub domain: Option<String>,
    pub on_srv_change: OnChange,
    pub mail_wait: Duration,
    pub on_mail_change: OnChange,
    pub reserve_for: Duration,
    pub address_rest: Duration,
    /// What the directory's syntax for the address takes.
    pub charset: Charset,
}

/// Characters that the syntax of the write-back attributes takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charset {
    /// IA5String (RFC 4517 3.3.15): ASCII. Space and control characters are refused as well: no address has them.
    Ia5,
    /// String(Printable) of Active Directory: letters, digits and `'()+,-./:?@` (MS-ADTS 3.1.1.2.2.2).
    Printable,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DigestPolicy {
    pub required: bool,
    pub verifier: Verifier,
    /// When the verifier, or reversible storage, came into force.
    pub since: Timestamp,
    /// The operator said so; it counts for more than what the directory shows.
    pub configured: bool,
    pub action: DigestAction,
}

/// What the rules say of one user.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict<'a> {
    Rule(&'a Rule),
    NoRule,
    /// There are no rules.
    EnableEveryone,
}

impl Policy {
    /// From when on the account is of no use. No change of the entry tells that the moment came.
    pub fn expires_at(&self, record: &UserRecord) -> Option<Timestamp> {
        record.text(&self.names.expires).and_then(Timestamp::from_expiry)
    }

    pub fn is_disabled(&self, record: &UserRecord) -> bool {
        self.disabled.as_ref().is_some_and(|filter| filter.evaluate(record) == Truth::True)
    }

    /// The first rule whose filter is true. Undefined is not true.
    pub fn judge(&self, record: &UserRecord, trace: &mut Trace) -> Verdict<'_> {
        if self.rules.is_empty() {
            trace.add(|| Step::EveryoneEnabled);
            return Verdict::EnableEveryone;
        }
        for rule in &self.rules {
            let truth = rule.matches.evaluate(record);
            trace.add(|| Step::Rule { name: rule.name.clone(), truth, action: rule.action });
            if truth == Truth::True {
                return Verdict::Rule(rule);
            }
        }
        Verdict::NoRule
    }
}

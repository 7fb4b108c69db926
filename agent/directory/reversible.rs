//! Reversible storage of passwords in a domain, as the directory shows it: the domain's own policy, the fine-grained ones
//! (password settings objects, PSO), and what an entry says of its user. It reads; it never switches anything on.

use super::Entry;
use super::lookup::{self, Found, LookupError};
use super::metadata::{self, Written};
use super::stream;
use crate::decide::digest::{Setting, StorageRule};
use crate::model::{Timestamp, normalized_dn};
use ldap3::{Ldap, Scope};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// DOMAIN_PASSWORD_STORE_CLEARTEXT of `pwdProperties` (MS-SAMR 3.1.1.8.11.5).
const STORE_CLEARTEXT: i64 = 0x10;
/// ADS_UF_ENCRYPTED_TEXT_PASSWORD_ALLOWED (MS-ADTS 2.2.16).
const ENCRYPTED_TEXT_ALLOWED: i64 = 0x80;
const PWD_PROPERTIES: &str = "pwdProperties";
const CONTROL: &str = "userAccountControl";
const RESULTANT: &str = "msDS-ResultantPSO";
/// Below the head of the domain (MS-ADTS 6.1.1.4.11).
const CONTAINER: &str = "CN=Password Settings Container,CN=System";
const PSO_CLASS: &str = "(objectClass=msDS-PasswordSettings)";
const PSO_ON: &str = "msDS-PasswordReversibleEncryptionEnabled";
const PSO_PRECEDENCE: &str = "msDS-PasswordSettingsPrecedence";
const PSO_APPLIES_TO: &str = "msDS-PSOAppliesTo";
/// More than this nobody has.
const PSO_MAX: usize = 1_000;

/// How the settings of this server combine, by what its root DSE says of the vendor.
pub fn rule(vendor_name: Option<&str>) -> StorageRule {
    match vendor_name {
        Some(vendor) if vendor.contains("Samba") => StorageRule::Both,
        Some(_) | None => StorageRule::Any,
    }
}

/// The attributes to ask for, with each user; and those by which a changed policy is heard of.
pub fn attributes(rule: StorageRule) -> [&'static str; 6] {
    [CONTROL, RESULTANT, metadata_of(rule), PWD_PROPERTIES, PSO_ON, PSO_APPLIES_TO]
}

/// Whether a server computes an attribute when it is read: no change of it is ever told.
pub fn is_computed(attribute: &str) -> bool {
    [RESULTANT, metadata::BLOB, metadata::XML].iter().any(|computed| computed.eq_ignore_ascii_case(attribute))
}

/// Whether an entry that was heard of is one of the policies rather than a user.
pub fn is_policy(entry: &Entry) -> bool {
    [PWD_PROPERTIES, PSO_ON].iter().any(|name| !entry.values(&name.to_ascii_lowercase()).is_empty())
}

/// Samba does not compute the one, and for Windows the other is no document.
fn metadata_of(rule: StorageRule) -> &'static str {
    match rule {
        StorageRule::Any => metadata::XML,
        StorageRule::Both => metadata::BLOB,
    }
}

/// What was read of the domain just now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    pub rule: StorageRule,
    pub domain: Switch,
    /// By normalized DN; without those that may not be read.
    pub fine_grained: BTreeMap<String, Switch>,
    /// Which there are, which goes before which, and to whom they apply. When that changes, nothing is told of the users.
    pub order: String,
    /// Groups to which they apply, as the server writes them.
    pub groups: BTreeSet<String>,
    /// How far the server's clock is ahead of ours, to the second, rounded up. First sights are put off by it: what they
    /// are compared with was written by that clock.
    pub ahead: Duration,
}

/// One setting, as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switch {
    /// `None`: it may not be read.
    pub on: Option<bool>,
    pub changed: Option<Timestamp>,
}

/// What is known of the domain, kept in the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    pub rule: StorageRule,
    pub domain: Setting,
    pub fine_grained: BTreeMap<String, Setting>,
    pub order: String,
}

impl Known {
    /// What is known after a look. First sights stay.
    pub fn after(before: Option<&Known>, look: &Look, now: Timestamp) -> Known {
        let now = now.plus(look.ahead);
        let seen = |before: Option<Setting>, switch: &Switch| Setting::seen(before, switch.on, switch.changed, now);
        Known {
            rule: look.rule,
            domain: seen(before.map(|known| known.domain), &look.domain),
            fine_grained: look
                .fine_grained
                .iter()
                .map(|(dn, switch)| {
                    let before = before.and_then(|known| known.fine_grained.get(dn)).copied();
                    (dn.clone(), seen(before, switch))
                })
                .collect(),
            order: look.order.clone(),
        }
    }

    /// Of the password settings object with this normalized DN. One that is not known may not be read.
    pub fn of_pso(&self, dn_norm: &str) -> Setting {
        self.fine_grained.get(dn_norm).copied().unwrap_or(Setting::Unknown)
    }
}

/// In words for people: what is on where.
impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.domain {
            Setting::Off => "off in the domain",
            Setting::OnSince(_) => "on in the domain",
            Setting::Unknown => "unreadable in the domain",
        })?;
        for (dn, setting) in &self.fine_grained {
            let word = match setting {
                Setting::Off => "off",
                Setting::OnSince(_) => "on",
                Setting::Unknown => "unreadable",
            };
            write!(f, ", {word} in {}", dn.split(',').next().unwrap_or(dn))?;
        }
        Ok(())
    }
}

/// Reads the head of the domain, `head`, and its password settings objects.
pub async fn look(ldap: &mut Ldap, head: &str, rule: StorageRule) -> Result<Look, LookupError> {
    let root = lookup::search(ldap, "", Scope::Base, "(objectClass=*)", &["currentTime"], 0).await?;
    let now = Timestamp::now();
    let server = root.first().and_then(|root| root.text("currenttime")).and_then(Timestamp::from_generalized_time);
    // It tells whole seconds: it may be almost one later.
    let ahead = server.map_or(Duration::ZERO, |server| server.plus(Duration::from_secs(1)).since(now));
    let attributes = [PWD_PROPERTIES, metadata_of(rule)];
    let found = match lookup::search(ldap, head, Scope::Base, "(objectClass=*)", &attributes, 0).await {
        Ok(found) => found,
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: stream::INSUFFICIENT_ACCESS, .. }) => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let domain = found.first().map_or(Switch { on: None, changed: None }, |head| Switch {
        on: integer(head.text(&PWD_PROPERTIES.to_ascii_lowercase())).map(|flags| flags & STORE_CLEARTEXT != 0),
        changed: metadata::of_found(head, metadata::PWD_PROPERTIES).map(Written::at_latest),
    });
    let psos = psos(ldap, head, rule).await?;
    let fine_grained = psos.iter().map(|pso| (normalized_dn(&pso.dn), switch(pso))).collect();
    let (mut groups, applies_to) = (BTreeSet::new(), PSO_APPLIES_TO.to_ascii_lowercase());
    for dn in psos.iter().flat_map(|pso| pso.texts(&applies_to)) {
        if is_group(ldap, dn).await? {
            groups.insert(dn.to_owned());
        }
    }
    Ok(Look { rule, domain, fine_grained, order: order(&psos), groups, ahead })
}

async fn psos(ldap: &mut Ldap, head: &str, rule: StorageRule) -> Result<Vec<Found>, LookupError> {
    let attributes = [PSO_ON, PSO_PRECEDENCE, PSO_APPLIES_TO, "objectGUID", metadata_of(rule)];
    let container = format!("{CONTAINER},{head}");
    match lookup::search(ldap, &container, Scope::OneLevel, PSO_CLASS, &attributes, PSO_MAX).await {
        Ok(psos) => Ok(psos),
        // Not ours to see, or a domain older than such objects.
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: stream::INSUFFICIENT_ACCESS, .. }) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

fn switch(pso: &Found) -> Switch {
    let value = pso.text(&PSO_ON.to_ascii_lowercase());
    Switch {
        on: value.and_then(|value| match value {
            "TRUE" => Some(true),
            "FALSE" => Some(false),
            _ => None,
        }),
        changed: metadata::of_found(pso, metadata::PSO_REVERSIBLE).map(Written::at_latest),
    }
}

/// A fingerprint of what `msDS-ResultantPSO` is computed from (MS-ADTS 3.1.1.4.5.36), as far as it lies in the objects.
fn order(psos: &[Found]) -> String {
    let rows: BTreeSet<String> = psos
        .iter()
        .map(|pso| {
            let applies: BTreeSet<String> =
                pso.texts(&PSO_APPLIES_TO.to_ascii_lowercase()).map(normalized_dn).collect();
            let precedence = pso.text(&PSO_PRECEDENCE.to_ascii_lowercase());
            format!("{} {precedence:?} {applies:?}", normalized_dn(&pso.dn))
        })
        .collect();
    let digest = Sha256::digest(format!("{rows:?}"));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

async fn is_group(ldap: &mut Ldap, dn: &str) -> Result<bool, LookupError> {
    match lookup::search(ldap, dn, Scope::Base, "(objectClass=group)", &["1.1"], 0).await {
        Ok(found) => Ok(!found.is_empty()),
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What an entry says of its user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Account {
    /// `None`: `userAccountControl` may not be read.
    pub flag: Option<bool>,
    pub flag_changed: Option<Timestamp>,
    /// The password settings object that applies to the user: normalized DN.
    pub pso: Option<String>,
}

impl Account {
    pub fn of(entry: &Entry) -> Account {
        let text = |name: &str| {
            let values = entry.values(&name.to_ascii_lowercase());
            values.first().and_then(|value| std::str::from_utf8(value).ok())
        };
        let password = metadata::of_entry(entry, metadata::UNICODE_PWD);
        let flag_written = metadata::of_entry(entry, metadata::USER_ACCOUNT_CONTROL);
        Account {
            flag: integer(text(CONTROL)).map(|flags| flags & ENCRYPTED_TEXT_ALLOWED != 0),
            flag_changed: flag_written.map(|written| written.at_latest_beside(password)),
            pso: text(RESULTANT).map(normalized_dn),
        }
    }
}

/// Active Directory writes flags as signed 32-bit numbers.
fn integer(text: Option<&str>) -> Option<i64> {
    text?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samba_is_told_by_its_vendor_name_and_windows_has_none() {
        assert_eq!(rule(Some("Samba Team (https://www.samba.org)")), StorageRule::Both);
        assert_eq!(rule(None), StorageRule::Any);
    }

    #[test]
    fn first_sights_stay_and_are_put_off_by_the_servers_clock() {
        let mut look = Look {
            rule: StorageRule::Any,
            domain: Switch { on: Some(true), changed: None },
            fine_grained: BTreeMap::from([(
                "cn=a".to_owned(),
                Switch { on: Some(true), changed: Some(Timestamp(50)) },
            )]),
            order: "x".into(),
            groups: BTreeSet::new(),
            ahead: Duration::from_millis(7),
        };
        let first = Known::after(None, &look, Timestamp(100));
        assert_eq!(first.domain, Setting::OnSince(Timestamp(107)));
        assert_eq!(first.of_pso("cn=a"), Setting::OnSince(Timestamp(50)));
        assert_eq!(first.of_pso("cn=b"), Setting::Unknown);
        assert_eq!(Known::after(Some(&first), &look, Timestamp(900)), first);
        look.domain.on = Some(false);
        let off = Known::after(Some(&first), &look, Timestamp(900));
        look.domain.on = Some(true);
        assert_eq!(Known::after(Some(&off), &look, Timestamp(950)).domain, Setting::OnSince(Timestamp(957)));
    }
}

//! The configuration as the worker needs it, and the world as the store has it.

use super::{Settings, due};
use crate::config::{Config, Flavour, Mode};
use crate::decide::World;
use crate::decide::digest::Verifier;
use crate::decide::filter::Filter;
use crate::decide::guard::Limits;
use crate::decide::policy::{DigestPolicy, ImPolicy, Names, Policy, Rule};
use crate::decide::servers;
use crate::directory::flavour::FlavourProfile;
use crate::model::*;
use crate::store::StoreError;
use crate::store::enablement as db;
use rusqlite::Connection;
use std::time::Duration;

/// The attribute of a user that takes the DN of a virtual server object. Any other takes the id.
const VIRTUAL_SERVER: &str = "msExchIMVirtualServer";
/// A load figure that was not renewed for so long is stale.
const LOAD_STALE_AFTER: Duration = Duration::from_secs(120);

impl Settings {
    /// Whether the virtual server objects of the directory matter: they are homes, or stand for some.
    pub fn needs_servers(&self) -> bool {
        self.discovery.is_some() || self.home_takes_dn && self.homes.iter().any(|home| home.dn.is_some())
    }

    /// `config` is checked: its filters parse, its homes exist.
    pub fn of(config: &Config, profile: &FlavourProfile) -> Settings {
        let lower = |text: &str| text.to_ascii_lowercase();
        let attributes = &config.directory.attributes;
        let write_back = config.im.write_back.names(&profile.write_back);
        let names = Names {
            login: lower(attributes.login.as_deref().unwrap_or(profile.login)),
            mail: lower(attributes.mail.as_deref().unwrap_or(profile.mail)),
            address: lower(&write_back.address),
            url: lower(&write_back.url),
            home_url: lower(&write_back.home_url),
            home: lower(&write_back.home),
            object_class: write_back.object_class.clone(),
            password_date: lower(profile.password_date),
            created: lower(profile.created),
            expires: lower(profile.expires),
        };
        let rules = config.policies.iter().filter_map(|rule| {
            // Checked when the configuration was read.
            let matches = Filter::parse(&rule.matches).ok()?;
            let named = |home: &&Home| rule.homes.iter().any(|name| *name == home.id.0 || home.tags.contains(name));
            let mut homes: Vec<HomeId> = config.homes.iter().filter(named).map(|home| home.id.clone()).collect();
            // What names no configured home is the id of one that is found in the directory.
            let configured = |name: &&String| config.homes.iter().any(|h| h.id.0 == **name || h.tags.contains(name));
            homes.extend(rule.homes.iter().filter(|name| !configured(name)).map(|name| HomeId(name.clone())));
            Some(Rule {
                name: rule.name.clone(),
                matches: if rule.nested { matches.with_nested_membership() } else { matches },
                action: rule.action,
                homes,
                im_domain: rule.im_domain.clone(),
            })
        });
        let disabled = attributes.disabled.as_deref().unwrap_or(profile.disabled);
        let policy = Policy {
            rules: rules.collect(),
            disabled: Filter::parse(disabled).ok(),
            names,
            im: ImPolicy {
                profile: config.im.profile,
                domain: config.im.domain.clone(),
                on_srv_change: config.im.on_srv_change,
                mail_wait: config.im.mail_wait,
                on_mail_change: config.im.on_mail_change,
                reserve_for: config.im.reserve_for,
                address_rest: config.im.address_rest,
                charset: profile.charset,
            },
            digest: DigestPolicy {
                required: config.digest.required,
                verifier: match profile.flavour {
                    Flavour::ActiveDirectory => Verifier::Reversible,
                    Flavour::OpenLdap | Flavour::Ds389 | Flavour::FreeIpa | Flavour::Generic => Verifier::Dated,
                },
                configured: config.digest.since.is_some(),
                since: config.digest.since.unwrap_or_default(),
                action: config.digest.action,
            },
        };
        Settings {
            flavour: profile.flavour,
            policy,
            policy_fingerprint: config.policy_fingerprint(),
            homes: config.homes.clone(),
            discovery: config.discovery,
            home_takes_dn: profile.flavour == Flavour::ActiveDirectory
                && write_back.home.eq_ignore_ascii_case(VIRTUAL_SERVER),
            enforce: config.agent.mode == Mode::Enforce,
            guard: Limits {
                releases: config.guard.releases,
                percent: config.guard.releases_percent,
                window: config.guard.window,
            },
            srv_confirm: config.dns.confirm,
            load_stale_after: LOAD_STALE_AFTER,
            digest_since: config.digest.since,
            retention: config.queue.retention,
        }
    }
}

/// The homes as they count with the virtual servers that were read just now.
pub fn read_fleet(
    db: &Connection,
    settings: &Settings,
    seen: &[VirtualServer],
    now: Timestamp,
) -> Result<Fleet, StoreError> {
    let known = servers::merge(&db::servers(db)?.unwrap_or_default(), seen, &settings.homes);
    due::fleet_of(db, settings, &known, now)
}

/// The world as the store has it, for those who only read: plan, explain, status.
pub fn read_world(db: &Connection, settings: &Settings, now: Timestamp) -> Result<World, StoreError> {
    let mut policy = settings.policy.clone();
    if policy.digest.required && settings.digest_since.is_none() {
        let first = db::fact(db, "digest-first-required")?.and_then(|(value, _)| value.parse().ok());
        policy.digest.since = first.map_or(now, Timestamp);
    }
    Ok(World {
        policy,
        fleet: due::fleet(db, settings, now)?,
        srv: db::srv_facts(db)?.into_iter().map(|fact| (fact.domain.clone(), fact)).collect(),
        adopting: false,
    })
}

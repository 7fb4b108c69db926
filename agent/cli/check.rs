//! `check`: one line each for everything that must be right before the agent can work. Reads only; what cannot be seen
//! without writing is said to be so.

mod digest;
mod domain;

use super::context::{self, Context};
use super::print::{Colour, Progress, count, moment, printable, span};
use super::{CliError, FAILED, FINE, store};
use crate::config::{DigestAction, Flavour, Mode, SourceKind};
use crate::decide::digest::{Setting, Verifier};
use crate::directory::connect::{self, Endpoint};
use crate::directory::entry::{Mapped, classify};
use crate::directory::flavour::{self, FlavourProfile, RootDse};
use crate::directory::lookup;
use crate::directory::reversible::{Account, Known};
use crate::directory::source::{self, Change, Guarantees, Means, scan::Scan};
use crate::directory::stream::{Scope, StreamError};
use crate::error::chain;
use crate::model::{Home, SrvAnswer, Timestamp, deleted_name};
use crate::poller::world::{CONNECT_TIMEOUT, World, WorldError};
use crate::probe::{load, srv::SrvResolver};
use crate::store::migrate;
use crate::store::open::{self, Kind};
use crate::worker::Settings;
use ldap3::Ldap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// SRV records of so many e-mail domains are asked for.
const DOMAINS_MAX: usize = 5;
/// A backup older than this is doubted.
const BACKUP_MAX_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Less free space than this, in octets, is doubted; a tenth of it fails.
const FREE_MIN: u64 = 1 << 30;
/// The file that a server's schema is prepared with.
fn schema_file(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Ds389 | Flavour::FreeIpa => "schemas/ldap/389ds.ldif",
        Flavour::OpenLdap | Flavour::Generic | Flavour::ActiveDirectory => "schemas/ldap/homeward.schema",
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
enum State {
    #[serde(rename = "ok")]
    Fine,
    #[serde(rename = "warn")]
    Doubt,
    #[serde(rename = "FAIL")]
    Fail,
    /// Cannot be seen from here.
    #[serde(rename = "skip")]
    Skip,
}

#[derive(Serialize)]
struct Line {
    what: &'static str,
    state: State,
    text: String,
    hint: Option<String>,
}

struct Report<'a> {
    c: &'a mut Context,
    lines: Vec<Line>,
}

impl Report<'_> {
    fn add(&mut self, state: State, what: &'static str, text: impl Into<String>, hint: &str) -> Result<(), CliError> {
        let hint = Some(hint).filter(|hint| !hint.is_empty()).map(str::to_owned);
        let line = Line { what, state, text: text.into(), hint };
        if !self.c.out.json {
            let word = match state {
                State::Fine => self.c.out.paint(Colour::Good, "ok  "),
                State::Doubt => self.c.out.paint(Colour::Doubt, "warn"),
                State::Fail => self.c.out.paint(Colour::Bad, "FAIL"),
                State::Skip => self.c.out.paint(Colour::Quiet, "skip"),
            };
            let hint = line.hint.as_ref().map_or_else(String::new, |hint| format!("; {}", printable(hint)));
            self.c.out.line(format_args!("{word}  {what:<10}  {}{hint}", printable(&line.text)))?;
            self.c.out.flush()?;
        }
        self.lines.push(line);
        Ok(())
    }

    fn fine(&mut self, what: &'static str, text: impl Into<String>) -> Result<(), CliError> {
        self.add(State::Fine, what, text, "")
    }
}

pub fn check(c: &mut Context) -> Result<u8, CliError> {
    let mut report = Report { c, lines: Vec::new() };
    configuration(&mut report)?;
    context::block_on(network(&mut report))?;
    stores(&mut report)?;
    console(&mut report)?;
    let Report { c, lines } = report;
    let failed = lines.iter().any(|line| line.state == State::Fail);
    if c.out.json {
        c.out.document(&lines)?;
    }
    Ok(if failed { FAILED } else { FINE })
}

fn configuration(report: &mut Report<'_>) -> Result<(), CliError> {
    let path = report.c.config.path.display().to_string();
    let mode = match report.c.config.agent.mode {
        Mode::Observe => "observe: nothing is written to the directory",
        Mode::Enforce => "enforce",
    };
    report.fine("config", format!("{path}; mode {mode}"))?;
    for warning in report.c.config.warnings.clone() {
        report.add(State::Doubt, "config", warning.to_string(), "")?;
    }
    let mut undefined = Vec::new();
    for rule in &report.c.settings.policy.rules {
        for (test, why) in rule.matches.undefined_tests() {
            undefined.push(format!("rule \"{}\": {test} is never true: {why}", rule.name));
        }
    }
    if undefined.is_empty() {
        let rules = count(report.c.settings.policy.rules.len() as u64, "rule");
        report
            .fine("policy", if rules == "0 rules" { "no rules: everyone in scope is enabled".into() } else { rules })?;
    }
    for text in undefined {
        report.add(State::Doubt, "policy", text, "correct the filter, then: homeward check")?;
    }
    Ok(())
}

fn console(report: &mut Report<'_>) -> Result<(), CliError> {
    match crate::console::could_start(&report.c.config) {
        Ok(text) => report.fine("console", text),
        Err((text, hint)) => report.add(State::Fail, "console", text, &hint),
    }
}

async fn network(report: &mut Report<'_>) -> Result<(), CliError> {
    let seen = match servers(report).await? {
        Some((ldap, endpoint)) => match directory(report, ldap, endpoint).await {
            Ok(seen) => seen,
            // The connection was there: what failed is told, the rest of the checks goes on.
            Err(error) => {
                report.add(State::Fail, "directory", chain(&error), &error.hint().0)?;
                Seen::default()
            }
        },
        None => Seen::default(),
    };
    srv(report, &seen.domains).await?;
    let configured = || report.c.config.homes.iter().filter(|home| !home.host.is_empty()).cloned().collect();
    let all = seen.homes.unwrap_or_else(configured);
    homes(report, all).await
}

/// Every server is tried, so that the spare ones are known to work; the first that does is used.
async fn servers(report: &mut Report<'_>) -> Result<Option<(Ldap, Endpoint)>, CliError> {
    let directory = report.c.config.directory.clone();
    let mut first = None;
    for url in &directory.urls {
        let opened = async {
            let endpoint = Endpoint::parse(url, &directory.tls, directory.allow_plaintext)?;
            Ok::<_, connect::ConnectError>((
                connect::connect_ldap3(&endpoint, &directory, CONNECT_TIMEOUT).await?,
                endpoint,
            ))
        };
        match opened.await {
            Ok((ldap, endpoint)) => {
                report.fine("server", format!("{}: connected and bound ({:?})", endpoint.url, endpoint.security))?;
                first.get_or_insert((ldap, endpoint));
            }
            Err(error) => report.add(State::Fail, "server", chain(&error), &error.hint().0)?,
        }
    }
    Ok(first)
}

/// E-mail domains of users, and how many there are of each.
type Domains = BTreeMap<String, u64>;

/// What later checks need of the directory.
#[derive(Default)]
struct Seen {
    domains: Domains,
    /// Those that count, where the directory has a say in it.
    homes: Option<Vec<Home>>,
}

async fn directory(report: &mut Report<'_>, mut ldap: Ldap, endpoint: Endpoint) -> Result<Seen, CliError> {
    let config = report.c.config.directory.clone();
    let root = flavour::root_dse(&mut ldap).await?;
    let (kind, seen) = flavour::settle(config.flavour, &root);
    let is_domain = kind == Flavour::ActiveDirectory;
    let product = if is_domain { format!(" ({})", domain::described(&root)) } else { String::new() };
    report.fine("flavour", format!("{kind}{product}: {seen}"))?;
    let profile = flavour::profile(kind);
    let settings = Settings::of(&report.c.config, &profile);
    match source::choose(config.source, kind, &root) {
        Ok((source, why)) => {
            let context = root.naming_context_of(&config.base).unwrap_or(&config.base).to_owned();
            let sees_deleted = is_domain && lookup::sees_deleted(&mut ldap, &context).await?;
            let means = Means::new(source, config.poll_interval, &root, sees_deleted);
            let sees_outside = lookup::sees_outside(&mut ldap, &config.base, &context).await?;
            let Guarantees { deletes, moves, latency } = means.guarantees(sees_outside);
            let text = format!("{source}: {why}; deletes are heard {deletes}, moves {moves}; latency {latency}");
            if is_domain && !sees_deleted {
                let hint = "give the account list and read rights on CN=Deleted Objects (docs/active-directory.md), then: homeward check";
                report.add(State::Doubt, "source", text, hint)?;
            } else {
                report.fine("source", text)?;
            }
            if let (None, SourceKind::Poll, Some(better)) = (config.source, source, source::better(kind)) {
                let text = "there is a better one, which this server does not offer";
                report.add(State::Doubt, "source", text, better)?;
            }
        }
        Err(problem) => {
            report.add(State::Fail, "source", problem.to_string(), &problem.hint().0)?;
        }
    }
    if lookup::readable(&mut ldap, &config.base).await? {
        report.fine("base", config.base.clone())?;
    } else {
        let text = format!("{} does not exist, or may not be read", config.base);
        report.add(
            State::Fail,
            "base",
            text,
            "correct [directory] base, or give the account read rights; then: homeward check",
        )?;
        return Ok(Seen::default());
    }
    rights(report, &mut ldap, &root).await?;
    let mut homes = None;
    if is_domain {
        domain::rights(report, &mut ldap, &settings, &profile).await?;
        let effective = domain::home_servers(report, &mut ldap, &endpoint, &root, &settings).await?;
        homes = Some(effective.into_iter().map(|effective| effective.home).collect());
    } else {
        let text = "write rights cannot be tested without writing";
        report.add(State::Skip, "rights", text, "the first write tells; see: homeward problem list")?;
    }
    schema(report, &mut ldap, &root, &settings, &profile).await?;
    groups(report, &mut ldap, &settings).await?;
    let domains = match World::read(&report.c.config, &profile, &endpoint, &mut ldap).await {
        Ok(world) => {
            let storage = digest::storage(report, &mut ldap, &root, &profile, &world.naming_context).await?;
            users(report, &world, &settings, storage.as_ref()).await?
        }
        // Said above.
        Err(WorldError::NoSource { .. }) => Domains::new(),
        Err(error) => {
            report.add(State::Fail, "users", chain(&error), &error.hint().0)?;
            Domains::new()
        }
    };
    if is_domain {
        domain::clock(report, &mut ldap).await?;
    } else {
        report.add(State::Skip, "clock", "the server does not tell its time", "keep both in step: timedatectl")?;
    }
    Ok(Seen { domains, homes })
}

async fn rights(report: &mut Report<'_>, ldap: &mut Ldap, root: &RootDse) -> Result<(), CliError> {
    let base = report.c.config.directory.base.clone();
    match lookup::own_entry(ldap, &report.c.config.directory.bind).await? {
        Some(own) if own.readable => report.fine("account", own.dn)?,
        Some(own) => {
            let hint = "give it read rights on itself: it is how lost rights are told from an empty directory";
            report.add(State::Doubt, "account", format!("{} cannot read its own entry", own.dn), hint)?;
        }
        None => report.add(State::Doubt, "account", "the server takes us for nobody", "set [directory] bind_dn")?,
    }
    let context = root.naming_context_of(&base).unwrap_or(&base).to_owned();
    if lookup::sees_outside(ldap, &base, &context).await? {
        report.fine("scope", format!("sees beyond the base, in {context}: a delete is told from a move"))?;
    } else {
        let text = format!("sees nothing of {context} beyond the base: who disappears counts as having left the scope");
        report.add(State::Doubt, "scope", text, "give the account search rights there, then: homeward check")?;
    }
    Ok(())
}

async fn schema(
    report: &mut Report<'_>,
    ldap: &mut Ldap,
    root: &RootDse,
    settings: &Settings,
    profile: &FlavourProfile,
) -> Result<(), CliError> {
    let schema = flavour::schema(ldap, root).await?;
    let names = report.c.config.im.write_back.names(&profile.write_back);
    let missing = schema.missing(&names);
    if missing.is_empty() {
        report.fine("schema", "has the attributes and the class of [im.write_back]")?;
    } else {
        let text = format!("the server does not know {}", missing.join(", "));
        let hint = match profile.flavour {
            Flavour::ActiveDirectory => {
                "the schema is that of Exchange 2000 (docs/active-directory.md), or change [im.write_back]; then: homeward check".into()
            }
            flavour @ (Flavour::OpenLdap | Flavour::Ds389 | Flavour::FreeIpa | Flavour::Generic) => {
                format!("load {}, or change [im.write_back]; then: homeward check", schema_file(flavour))
            }
        };
        report.add(State::Fail, "schema", text, &hint)?;
    }
    let digest = report.c.config.digest.clone();
    if !digest.required {
        return Ok(());
    }
    let since = match (settings.digest_since, settings.policy.digest.verifier) {
        (Some(since), _) => format!("in force since {}", moment(since)),
        (None, Verifier::Dated) => "in force since the agent first saw it required".into(),
        (None, Verifier::Reversible) => "in force since the agent or the directory knows of it, user by user".into(),
    };
    let mut wanted = vec![profile.password_date];
    if digest.action == DigestAction::Expire {
        wanted.extend(profile.password_reset.map(|(attribute, _)| attribute));
    }
    let missing: Vec<&str> = wanted.into_iter().filter(|name| schema.attribute(name).is_none()).collect();
    if missing.is_empty() {
        report.fine("digest", format!("{} tells when a password was set; {since}", profile.password_date))?;
        if profile.flavour == Flavour::Ds389 && digest.action == DigestAction::Expire {
            let text = "a new password is demanded only where the policy says passwordMustChange, which only its administrators see";
            report.add(State::Doubt, "digest", text, "dsconf INSTANCE pwpolicy set --pwdmustchange on")?;
        }
        Ok(())
    } else {
        let text = format!("the server does not know {}: readiness stays unknown", missing.join(", "));
        report.add(
            State::Fail,
            "digest",
            text,
            "load the overlay on the database (overlay ppolicy), then: homeward check",
        )
    }
}

async fn groups(report: &mut Report<'_>, ldap: &mut Ldap, settings: &Settings) -> Result<(), CliError> {
    for rule in &settings.policy.rules {
        for group in rule.matches.named_groups() {
            if lookup::readable(ldap, &group).await? {
                report.fine("group", group)?;
            } else {
                let text = format!("{group} of rule \"{}\" does not exist, or may not be read", rule.name);
                report.add(
                    State::Fail,
                    "group",
                    text,
                    "correct the rule, or give the account read rights; then: homeward check",
                )?;
            }
        }
    }
    Ok(())
}

/// Reads everybody, as the agent will: only that shows a size limit.
async fn users(
    report: &mut Report<'_>,
    world: &World,
    settings: &Settings,
    storage: Option<&Known>,
) -> Result<Domains, CliError> {
    let (shape, search) = (world.shape(), &world.search);
    let filter = report.c.config.directory.filter.as_deref().unwrap_or(world.profile.user_filter).to_owned();
    let (mut found, mut without_login, mut without_date, mut unreadable) = (0u64, 0u64, 0u64, 0u64);
    let (mut flagged, mut hidden, mut orphans) = (0u64, 0u64, 0);
    let mut domains = Domains::new();
    let mut progress = Progress::new("entries read");
    let reading = async {
        let mut scan =
            Scan::start(&world.access, &search.base, Scope::Subtree, &search.filter, &search.attributes).await?;
        while let Some(batch) = scan.next().await? {
            progress.add(batch.len() as u64);
            for change in batch {
                let Change::Entry(entry) = change else {
                    unreadable += 1;
                    continue;
                };
                let account = Account::of(&entry);
                let (_, Mapped::User { record, .. }) = classify(&shape, entry) else { continue };
                found += 1;
                flagged += u64::from(account.flag == Some(true));
                let by = account.pso.and_then(|pso| storage.map(|known| known.of_pso(&pso)));
                hidden += u64::from(by == Some(Setting::Unknown));
                without_login += u64::from(record.text(&settings.policy.names.login).is_none());
                without_date += u64::from(record.text(&settings.policy.names.password_date).is_none());
                let home = record.text(&settings.policy.names.home);
                orphans += u64::from(home.is_some_and(|home| deleted_name(home).is_some()));
                if let Some((_, domain)) = record.text(&settings.policy.names.mail).and_then(|it| it.rsplit_once('@')) {
                    *domains.entry(domain.to_lowercase()).or_default() += 1;
                }
            }
        }
        Ok::<_, StreamError>(())
    };
    let result = reading.await;
    drop(progress);
    match result {
        Ok(()) if found > 0 => report.fine("users", format!("{} by {filter}", count(found, "user")))?,
        Ok(()) => {
            let text = format!("the filter {filter} finds nobody");
            report.add(State::Fail, "users", text, "correct [directory] filter or base, then: homeward check")?;
        }
        Err(StreamError::Refused {
            code: crate::directory::stream::SIZE_LIMIT | crate::directory::stream::ADMIN_LIMIT,
            ..
        }) => {
            let text = "the server cuts searches of this account off (size limit)";
            let hint = match world.profile.flavour {
                Flavour::Ds389 | Flavour::FreeIpa => {
                    "give its entry nsSizeLimit, nsTimeLimit and nsLookThroughLimit: -1 (docs/389ds.md), then: homeward check"
                }
                Flavour::OpenLdap | Flavour::Generic | Flavour::ActiveDirectory => {
                    "give it none (limits dn.exact=\"…\" size=unlimited time=unlimited), then: homeward check"
                }
            };
            report.add(State::Fail, "users", text, hint)?;
        }
        Err(error) => report.add(State::Fail, "users", chain(&error), &error.hint().0)?,
    }
    domain::orphans(report, orphans)?;
    if without_login > 0 {
        let text = format!("{} without {}", count(without_login, "user"), settings.policy.names.login);
        report.add(State::Doubt, "users", text, "see [directory.attributes] login")?;
    }
    if report.c.config.digest.required && without_date > 0 {
        let text = format!("{} of {found} without {}", without_date, settings.policy.names.password_date);
        let hint = match world.profile.flavour {
            Flavour::Ds389 => {
                "their readiness is unknown until the next password change after: dsconf INSTANCE pwpolicy set --pwdtrack on"
            }
            Flavour::FreeIpa => "their readiness is unknown until the next password change",
            Flavour::OpenLdap | Flavour::Generic => {
                "their readiness may stay unknown until the next password change; is overlay ppolicy on the database?"
            }
            Flavour::ActiveDirectory => {
                "give the account read rights on the property set User-Account-Restrictions: docs/digest.md"
            }
        };
        report.add(State::Doubt, "digest", text, hint)?;
    }
    if let Some(known) = storage.filter(|_| report.c.config.digest.required) {
        digest::users(report, known, found, flagged, hidden)?;
    }
    if unreadable > 0 {
        report.add(State::Doubt, "users", count(unreadable, "unreadable answer"), "see the server's log")?;
    }
    Ok(domains)
}

async fn srv(report: &mut Report<'_>, domains: &Domains) -> Result<(), CliError> {
    let resolver = match SrvResolver::new(&report.c.config.dns.servers) {
        Ok(resolver) => resolver,
        Err(error) => return report.add(State::Fail, "srv", chain(&error), &error.hint().0),
    };
    let service = report.c.config.im.srv.clone();
    let fallback = report.c.config.im.domain.clone();
    let mut busiest: Vec<(&String, &u64)> = domains.iter().collect();
    busiest.sort_by_key(|(domain, users)| (std::cmp::Reverse(**users), domain.to_owned().clone()));
    for (domain, users) in busiest.into_iter().take(DOMAINS_MAX) {
        let name = format!("{service}.{domain} ({})", count(*users, "user"));
        let answer = resolver.ask(&service, domain).await.answer;
        let target = answer.target().unwrap_or("?");
        match (&answer, &fallback) {
            (SrvAnswer::Present { .. }, _) => report.fine("srv", format!("{name}: IM domain {target}"))?,
            (SrvAnswer::Absent, Some(domain)) => {
                report.fine("srv", format!("{name}: none; the IM domain is {domain}"))?
            }
            (SrvAnswer::Absent, None) => {
                let text = format!("{name}: none, and no fallback");
                report.add(State::Fail, "srv", text, "set [im] domain, or create the record; then: homeward check")?;
            }
            (SrvAnswer::NotAvailable, _) => {
                let text = format!("{name}: target \".\": DNS says that there is no such service");
                report.add(State::Doubt, "srv", text, "correct or remove the record; its users become problems")?;
            }
            (SrvAnswer::Unknown { why }, _) => {
                let text = format!("{name}: unknown ({why}); its users would wait");
                report.add(State::Doubt, "srv", text, "see [dns] servers, then: homeward check")?;
            }
        }
    }
    Ok(())
}

async fn homes(report: &mut Report<'_>, homes: Vec<Home>) -> Result<(), CliError> {
    for home in homes {
        let mut told = vec![format!("{}: {}, capacity {}", home.id, home.host, home.capacity)];
        let mut wrong = Vec::new();
        if let Some(probe) = &home.probe {
            match load::healthy(probe, load::TIMEOUT).await {
                Ok(()) => told.push("up".into()),
                Err(error) => wrong.push((format!("{}: {}", home.id, chain(&error)), error.hint().0)),
            }
        }
        if let Some(source) = &home.load {
            match load::online(source, load::TIMEOUT).await {
                Ok(users) => told.push(format!("{users} online")),
                Err(error) => wrong.push((format!("{}: {}", home.id, chain(&error)), error.hint().0)),
            }
        }
        if wrong.is_empty() {
            report.fine("home", told.join(", "))?;
        }
        for (text, hint) in wrong {
            report.add(State::Doubt, "home", text, &hint)?;
        }
    }
    Ok(())
}

fn stores(report: &mut Report<'_>) -> Result<(), CliError> {
    let state_dir = report.c.state_dir().to_owned();
    for (kind, name) in [(Kind::Directory, "directory.db"), (Kind::Enablement, "enablement.db")] {
        match open::version(kind, &state_dir) {
            Ok(None) => report.fine("store", format!("{name}: not there yet; the agent makes it"))?,
            Ok(Some(version)) if version == migrate::newest(kind) => {
                report.fine("store", format!("{name}: schema {version}"))?;
            }
            Ok(Some(version)) => {
                let text = format!("{name}: schema {version}; this program's is {}", migrate::newest(kind));
                report.add(
                    State::Doubt,
                    "store",
                    text,
                    "the agent migrates it at its start: homeward store migrate",
                )?;
            }
            Err(error) => report.add(State::Fail, "store", chain(&error), &error.hint().0)?,
        }
    }
    let mut existing = state_dir.as_path();
    while let (false, Some(parent)) = (existing.exists(), existing.parent()) {
        existing = parent;
    }
    match rustix::fs::statvfs(if existing.as_os_str().is_empty() { std::path::Path::new(".") } else { existing }) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let text = format!("{} MiB free for {}", free >> 20, state_dir.display());
            let state = match free {
                free if free < FREE_MIN / 10 => State::Fail,
                free if free < FREE_MIN => State::Doubt,
                _ => State::Fine,
            };
            report.add(state, "disk", text, if state == State::Fine { "" } else { "free some space: df -h" })?;
        }
        Err(error) => report.add(State::Doubt, "disk", format!("{}: {error}", existing.display()), "see: df -h")?,
    }
    let running = open::is_locked(&state_dir);
    report.fine("agent", if running { "an agent holds the stores" } else { "no agent holds the stores" })?;
    if !Kind::Enablement.path(&state_dir).exists() {
        return Ok(());
    }
    let hint = "make one, and keep it elsewhere: homeward store backup FILE";
    match store::last_backup(report.c) {
        Ok(Some(at)) => backup_age(report, at, hint),
        Ok(None) => report.add(State::Doubt, "backup", "there was never one", hint),
        Err(error) => report.add(State::Fail, "backup", chain(&error), &error.hint().0),
    }
}

fn backup_age(report: &mut Report<'_>, at: Timestamp, hint: &str) -> Result<(), CliError> {
    let age = report.c.now.since(at);
    let text = format!("{} ({} ago)", moment(at), span(age));
    if age > BACKUP_MAX_AGE { report.add(State::Doubt, "backup", text, hint) } else { report.fine("backup", text) }
}

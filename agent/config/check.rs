//! From what was written to what is used. A list of named checks, each of which adds what it finds; no check stops
//! another, so that the operator sees everything at once. Reads the password file; touches nothing else outside.

use super::file::{self, BindSetting, DiscoverSetting, File, FlavourSetting, SourceSetting, Span, TlsSetting};
use super::read::{Lines, Reading};
use super::*;
use crate::model::{HealthProbe, HomeId, LoadSource};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// A password file may be this long, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// Users written back at the same time, at most.
const WORKERS_MAX: u32 = 16;

/// Outcomes and tombstones are kept at least this long.
const RETENTION_MIN: Duration = Duration::from_secs(3600);

/// Every check, in the order of the file.
const CHECKS: &[fn(&mut Checking<'_>)] = &[
    number_of_workers,
    directory_has_base_and_url,
    directory_urls_can_be_used,
    passwords_do_not_cross_the_network_in_plain_text,
    certificate_and_key_come_together,
    bind_has_what_it_needs,
    filters_can_be_read,
    rules_are_named_once,
    discovery_has_what_it_needs,
    rules_name_homes_that_exist,
    homes_are_there_and_named_once,
    hosts_are_fully_qualified,
    capacities_are_not_zero,
    loads_and_probes_can_be_asked,
    im_domains_are_dns_names,
    srv_name_fits_the_profile,
    addresses_rest_as_long_as_they_are_reserved,
    name_servers_are_addresses,
    digest_since_is_a_time,
    guard_percent_is_a_percentage,
    times_are_not_zero,
    the_console_is_local_or_protected,
];

struct Checking<'a> {
    file: &'a File,
    lines: &'a Lines,
    /// Where relative file names begin.
    folder: &'a Path,
    around: &'a Surroundings,
    password: Option<SecretString>,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl Checking<'_> {
    fn error(&mut self, key: &str, text: impl Into<String>, hint: impl Into<String>) {
        let finding = Finding { key: key.into(), line: self.lines.line(key), text: text.into(), hint: hint.into() };
        self.errors.push(finding);
    }

    fn warn(&mut self, key: &str, text: impl Into<String>, hint: impl Into<String>) {
        let finding = Finding { key: key.into(), line: self.lines.line(key), text: text.into(), hint: hint.into() };
        self.warnings.push(finding);
    }
}

/// Runs every check. What reading the text found already is not reported a second time.
pub(super) fn check(reading: Reading<'_>, path: &Path, around: &Surroundings) -> Result<Config, Vec<Finding>> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let Reading { file, lines, findings: mut all, told, .. } = reading;
    let (file, lines) = (&file, &lines);
    let mut checking =
        Checking { file, lines, folder, around, password: None, errors: Vec::new(), warnings: Vec::new() };
    for check in CHECKS {
        check(&mut checking);
    }
    let Checking { password, errors, warnings, .. } = checking;
    all.extend(errors.into_iter().filter(|finding| !told.contains(&finding.key)));
    if !all.is_empty() {
        all.sort_by_key(|finding| finding.line);
        return Err(all);
    }
    Ok(build(file, path, password, warnings))
}

fn number_of_workers(c: &mut Checking<'_>) {
    if !(1..=WORKERS_MAX).contains(&c.file.agent.workers) {
        c.error(
            "agent.workers",
            format!("`workers` is {}", c.file.agent.workers),
            format!("give a number from 1 to {WORKERS_MAX}"),
        );
    }
    if c.file.agent.state_dir.is_empty() {
        c.error("agent.state_dir", "`state_dir` is empty", "name a folder, or leave it out for /var/lib/homeward");
    }
}

fn directory_has_base_and_url(c: &mut Checking<'_>) {
    match c.file.directory.base.as_deref().map(str::trim) {
        None => {
            c.error("directory.base", "`base` is missing", "name the entry to look below: base = \"dc=example,dc=com\"")
        }
        Some("") => {
            c.error("directory.base", "`base` is empty", "name the entry to look below: base = \"dc=example,dc=com\"")
        }
        Some(_) => {}
    }
    if urls(c.file).is_empty() {
        c.error("directory.url", "`url` is missing", "name the server: url = \"ldaps://ldap.example.com\"");
    }
}

fn directory_urls_can_be_used(c: &mut Checking<'_>) {
    for (key, url) in urls(c.file) {
        let Some(parsed) = Url::parse(url) else {
            c.error(
                &key,
                format!("\"{}\" is no URL of a server", shown_url(url)),
                "write it like ldaps://ldap.example.com",
            );
            continue;
        };
        if parsed.has_credentials {
            c.error(&key, "the URL holds a user name or password", "use bind_dn and bind_password_file instead");
            continue;
        }
        let mode = c.file.directory.tls.mode;
        let fits = match parsed.scheme {
            "ldap" => mode != TlsSetting::Ldaps,
            "ldaps" => matches!(mode, TlsSetting::Auto | TlsSetting::Ldaps),
            "ldapi" => matches!(mode, TlsSetting::Auto | TlsSetting::Off),
            other => {
                let text = format!("the scheme {other}:// is not one of LDAP");
                c.error(&key, text, "use ldaps://, ldap:// or ldapi://");
                continue;
            }
        };
        if !fits {
            let text = format!("the scheme {}:// contradicts tls mode \"{}\"", parsed.scheme, tls_word(mode));
            c.error(&key, text, "leave tls mode out (auto follows the URL), or change the URL");
        }
        if parsed.scheme != "ldapi" && (parsed.host.is_empty() || !parsed.port_ok) {
            c.error(
                &key,
                format!("\"{}\" names no usable host and port", shown_url(url)),
                "write it like ldaps://ldap.example.com:636",
            );
        }
    }
}

fn passwords_do_not_cross_the_network_in_plain_text(c: &mut Checking<'_>) {
    if c.file.directory.tls.mode != TlsSetting::Off {
        return;
    }
    for (key, url) in urls(c.file) {
        let Some(parsed) = Url::parse(url) else { continue };
        if parsed.scheme != "ldap" || is_loopback(&parsed.host) {
            continue;
        }
        let text = format!("plain text to the other machine {}", parsed.host);
        if c.file.directory.allow_plaintext {
            let hint =
                "whoever is on the way can read and change everything; leave tls mode out: then StartTLS is used";
            c.warn(&key, text, hint);
        } else {
            c.error(&key, text, "leave tls mode out: then StartTLS is used; else allow_plaintext = true permits it");
        }
    }
}

fn certificate_and_key_come_together(c: &mut Checking<'_>) {
    let tls = &c.file.directory.tls;
    match (tls.certificate_file.is_empty(), tls.key_file.is_empty()) {
        (false, true) => {
            c.error("directory.tls.certificate_file", "a certificate without its key", "set key_file as well")
        }
        (true, false) => {
            c.error("directory.tls.key_file", "a key without its certificate", "set certificate_file as well")
        }
        (true, true) | (false, false) => {}
    }
}

fn bind_has_what_it_needs(c: &mut Checking<'_>) {
    let directory = &c.file.directory;
    if directory.bind == BindSetting::Gssapi && !cfg!(feature = "gssapi") {
        c.error(
            "directory.bind",
            "this program was built without Kerberos",
            "build it with cargo build --release --features gssapi, or take another bind",
        );
    }
    if directory.bind != BindSetting::Simple {
        return;
    }
    if directory.bind_dn.as_deref().unwrap_or_default().trim().is_empty() {
        c.error(
            "directory.bind_dn",
            "bind = \"simple\" without `bind_dn`",
            "name the account: bind_dn = \"cn=homeward,ou=services,dc=example,dc=com\"; or set bind = \"external\" or \"anonymous\"",
        );
    }
    let Some(name) = directory.bind_password_file.as_deref().filter(|name| !name.is_empty()) else {
        c.error(
            "directory.bind_password_file",
            "bind = \"simple\" without `bind_password_file`",
            "name a file that holds nothing but the password: bind_password_file = \"ldap-password\"",
        );
        return;
    };
    match read_password(name, c.around.credentials.as_deref(), c.folder) {
        Ok((path, password, open_to_all)) => {
            if open_to_all {
                c.warn(
                    "directory.bind_password_file",
                    format!("everybody on this machine can read {}", path.display()),
                    format!("chmod o-rwx {}", path.display()),
                );
            }
            c.password = Some(password);
        }
        Err((text, hint)) => c.error("directory.bind_password_file", text, hint),
    }
}

fn filters_can_be_read(c: &mut Checking<'_>) {
    let mut filters = Vec::new();
    if c.file.directory.filter != "auto" {
        filters.push(("directory.filter".to_owned(), c.file.directory.filter.clone()));
    }
    if let Some(disabled) = &c.file.directory.attributes.disabled {
        filters.push(("directory.attributes.disabled".to_owned(), disabled.clone()));
    }
    for (n, rule) in c.file.policy.iter().enumerate() {
        match &rule.matches {
            Some(filter) => filters.push((format!("policy[{n}].match"), filter.clone())),
            None => c.error(
                &format!("policy[{n}].match"),
                "a rule without `match`",
                "give it a filter; everybody is match = \"(objectClass=*)\"",
            ),
        }
    }
    for (key, filter) in filters {
        if let Err(problem) = (c.around.parse_filter)(&filter) {
            c.error(
                &key,
                format!("the filter {filter} cannot be read"),
                format!("{problem}; RFC 4515, for example (&(employeeType=staff)(l=Paris))"),
            );
        }
    }
}

fn rules_are_named_once(c: &mut Checking<'_>) {
    let mut seen = BTreeSet::new();
    for (n, rule) in c.file.policy.iter().enumerate() {
        let key = format!("policy[{n}].name");
        match rule.name.as_deref().filter(|name| !name.trim().is_empty()) {
            None => c.error(&key, "a rule without `name`", "name it; homeward user explain shows the name"),
            Some(name) if !seen.insert(name) => {
                c.error(&key, format!("two rules are called \"{name}\""), "give each rule its own name");
            }
            Some(_) => {}
        }
    }
}

/// Homes that the directory names are not known here.
fn discovers(c: &Checking<'_>) -> bool {
    c.file.homes.discover == DiscoverSetting::Directory
}

fn discovery_has_what_it_needs(c: &mut Checking<'_>) {
    if c.file.homes.capacity == 0 {
        c.error("homes.capacity", "`capacity` is 0", "give at least 1; 7500 is the default");
    }
    let other = match c.file.directory.flavour {
        FlavourSetting::OpenLdap | FlavourSetting::Ds389 | FlavourSetting::FreeIpa | FlavourSetting::Generic => true,
        FlavourSetting::Auto | FlavourSetting::ActiveDirectory => false,
    };
    if discovers(c) && other {
        c.error(
            "homes.discover",
            "only Active Directory has virtual server objects",
            "leave discover out, and name each home server in a [[home]]",
        );
    }
}

fn rules_name_homes_that_exist(c: &mut Checking<'_>) {
    // A name may be that of a server which the directory names: `check` looks.
    if discovers(c) {
        return;
    }
    let known: BTreeSet<&str> =
        c.file.home.iter().flat_map(|home| home.id.iter().chain(&home.tags)).map(String::as_str).collect();
    for (n, rule) in c.file.policy.iter().enumerate() {
        for name in rule.homes.iter().filter(|name| !known.contains(name.as_str())) {
            let list = known.iter().copied().collect::<Vec<_>>().join(", ");
            c.error(
                &format!("policy[{n}].homes"),
                format!("no home has the id or tag \"{name}\""),
                format!("known are: {}", if list.is_empty() { "none" } else { &list }),
            );
        }
    }
}

fn homes_are_there_and_named_once(c: &mut Checking<'_>) {
    if c.file.home.is_empty() && !discovers(c) {
        c.error(
            "home",
            "no home server is configured",
            "add a [[home]] with id, host and capacity; on Active Directory also: [homes] discover = \"directory\"",
        );
    }
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    let mut hosts: BTreeMap<String, usize> = BTreeMap::new();
    for (n, home) in c.file.home.iter().enumerate() {
        let key = format!("home[{n}].id");
        match home.id.as_deref() {
            None => c.error(&key, "a home without `id`", "give it a short name: id = \"im1\""),
            Some(id) if !is_short_name(id) => c.error(
                &key,
                format!("\"{id}\" is no usable id"),
                "use letters, digits, dot, hyphen and underscore only",
            ),
            Some(id) if ids.insert(id, n).is_some() => {
                c.error(&key, format!("two homes have the id \"{id}\""), "give each home its own id");
            }
            Some(_) => {}
        }
        let host = home.host.as_deref().unwrap_or_default().to_ascii_lowercase();
        if !host.is_empty() && hosts.insert(host.clone(), n).is_some() {
            c.error(
                &format!("home[{n}].host"),
                format!("two homes have the host {host}"),
                "which of them a user lives at could not be told from the directory; make them one",
            );
        }
    }
}

fn hosts_are_fully_qualified(c: &mut Checking<'_>) {
    for (n, home) in c.file.home.iter().enumerate() {
        let key = format!("home[{n}].host");
        match home.host.as_deref() {
            None if discovers(c) => {}
            None => c.error(&key, "a home without `host`", "give its fully qualified name: host = \"im1.example.com\""),
            Some(host) if !is_dns_name(host) => c.error(
                &key,
                format!("\"{host}\" is no host name"),
                "give the fully qualified name alone, without scheme or port: host = \"im1.example.com\"",
            ),
            Some(host) if !host.contains('.') || host.parse::<IpAddr>().is_ok() => c.warn(
                &key,
                format!("the host name \"{host}\" is not fully qualified"),
                "clients would answer \"Authentication Failure\" (KB 319758); give the whole name: host = \"im1.example.com\"",
            ),
            Some(_) => {}
        }
    }
}

fn capacities_are_not_zero(c: &mut Checking<'_>) {
    for (n, home) in c.file.home.iter().enumerate() {
        match home.capacity {
            None if discovers(c) => {}
            None => c.error(
                &format!("home[{n}].capacity"),
                "a home without `capacity`",
                "give the number of users it can take",
            ),
            Some(0) => c.error(
                &format!("home[{n}].capacity"),
                "`capacity` is 0",
                "give at least 1; to keep newcomers away: homeward home cordon ID",
            ),
            Some(_) => {}
        }
        let key = format!("home[{n}].online_capacity");
        match (home.online_capacity, &home.load) {
            (Some(0), _) => c.error(&key, "`online_capacity` is 0", "give at least 1, or leave it out"),
            (Some(_), None) => {
                c.warn(&key, "`online_capacity` without `load` has no effect", "add load, or leave it out")
            }
            (None, Some(_)) => {
                c.warn(
                    &format!("home[{n}].load"),
                    "`load` without `online_capacity` has no effect",
                    "add online_capacity",
                );
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

fn loads_and_probes_can_be_asked(c: &mut Checking<'_>) {
    for (n, home) in c.file.home.iter().enumerate() {
        if let Some(written) = &home.load
            && let Err(problem) = load_source(written)
        {
            c.error(
                &format!("home[{n}].load"),
                problem,
                "write { openmetrics = URL, metric = NAME } or { json = URL, pointer = \"/path\" }",
            );
        }
        if let Some(written) = &home.probe
            && health_probe(written).is_none()
        {
            c.error(
                &format!("home[{n}].probe"),
                format!("\"{}\" cannot be probed", shown_url(written)),
                "write tcp:host:port, or an http or https URL without credentials",
            );
        }
    }
}

fn im_domains_are_dns_names(c: &mut Checking<'_>) {
    let mut domains = Vec::new();
    domains.extend(c.file.im.domain.iter().map(|domain| ("im.domain".to_owned(), domain.clone())));
    for (n, rule) in c.file.policy.iter().enumerate() {
        domains.extend(rule.im_domain.iter().map(|domain| (format!("policy[{n}].im_domain"), domain.clone())));
    }
    for (key, domain) in domains {
        if !is_dns_name(&domain) {
            c.error(&key, format!("\"{domain}\" is no domain name"), "write it like im.example.com");
        }
    }
}

fn srv_name_fits_the_profile(c: &mut Checking<'_>) {
    let Some(srv) = &c.file.im.srv else { return };
    let labels: Vec<&str> = srv.split('.').collect();
    if labels.len() != 2 || !labels.iter().all(|label| label.len() > 1 && label.starts_with('_')) || !srv.is_ascii() {
        c.error("im.srv", format!("\"{srv}\" is no SRV service name"), "write it like _rvp._tcp, without the domain");
        return;
    }
    let of_another = [Profile::Exchange, Profile::Xmpp, Profile::Sip, Profile::Matrix]
        .into_iter()
        .find(|profile| *profile != c.file.im.profile && profile.srv().eq_ignore_ascii_case(srv));
    if let Some(profile) = of_another {
        c.warn(
            "im.srv",
            format!("{srv} belongs to profile {}, but the profile is {}", profile.as_str(), c.file.im.profile.as_str()),
            "leave srv out: the profile knows its own",
        );
    }
}

fn addresses_rest_as_long_as_they_are_reserved(c: &mut Checking<'_>) {
    if c.file.im.address_rest.0 < c.file.im.reserve_for.0 {
        c.error(
            "im.address_rest",
            "`address_rest` is shorter than `reserve_for`",
            "an address cannot be free while it is reserved; make address_rest at least as long",
        );
    }
}

fn name_servers_are_addresses(c: &mut Checking<'_>) {
    for (n, server) in c.file.dns.servers.iter().enumerate() {
        if name_server(server).is_none() {
            c.error(
                &format!("dns.servers[{n}]"),
                format!("\"{server}\" is no address"),
                "write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53",
            );
        }
    }
}

fn digest_since_is_a_time(c: &mut Checking<'_>) {
    if digest_since(&c.file.digest.since).is_none() {
        c.error(
            "digest.since",
            format!("\"{}\" is no time", c.file.digest.since),
            "write \"auto\", or RFC 3339: \"2026-01-31T12:00:00Z\"",
        );
    }
}

fn guard_percent_is_a_percentage(c: &mut Checking<'_>) {
    if c.file.guard.releases_percent > 100 {
        c.error(
            "guard.releases_percent",
            format!("`releases_percent` is {}", c.file.guard.releases_percent),
            "give a number from 0 to 100",
        );
    }
}

fn times_are_not_zero(c: &mut Checking<'_>) {
    let times = [
        ("directory.poll_interval", c.file.directory.poll_interval),
        ("directory.sweep_interval", c.file.directory.sweep_interval),
        ("guard.window", c.file.guard.window),
        ("queue.retention", c.file.queue.retention),
    ];
    for (key, Span(time)) in times {
        let name = key.rsplit('.').next().unwrap_or(key);
        if time.is_zero() {
            c.error(key, format!("`{name}` is zero"), "give a length of time such as \"1h\"");
        } else if key == "queue.retention" && time < RETENTION_MIN {
            c.error(
                key,
                format!("`{name}` is shorter than an hour"),
                "give at least \"1h\": readers need time to come back",
            );
        }
    }
}

fn the_console_is_local_or_protected(c: &mut Checking<'_>) {
    let console = &c.file.console;
    match (console.tls.certificate_file.is_empty(), console.tls.key_file.is_empty()) {
        (false, true) => {
            c.error("console.tls.certificate_file", "a certificate without its key", "set key_file as well");
        }
        (true, false) => {
            c.error("console.tls.key_file", "a key without its certificate", "set certificate_file as well");
        }
        (true, true) | (false, false) => {}
    }
    for (n, host) in console.hosts.iter().enumerate() {
        if !is_dns_name(host) {
            let hint = "give the name alone, without scheme or port: hosts = [\"homeward.example.com\"]";
            c.error(&format!("console.hosts[{n}]"), format!("\"{host}\" is no host name"), hint);
        }
    }
    let Some(address) = console_address(&console.listen) else {
        let hint = "write address:port, such as 127.0.0.1:8480 or [::1]:8480; or off";
        return c.error("console.listen", format!("\"{}\" is no address with a port", console.listen), hint);
    };
    let Some(address) = address.filter(|address| !address.ip().is_loopback()) else { return };
    if console.tls.certificate_file.is_empty() {
        let text = format!("the console at {address} could be read, and tokens be taken, by whoever is on the network");
        c.error("console.listen", text, "set tls = { certificate_file, key_file }, or listen = \"127.0.0.1:8480\"");
    }
    if console.hosts.is_empty() {
        let hint = "name the console as browsers do: hosts = [\"homeward.example.com\"]";
        c.error("console.hosts", "a console for other machines without `hosts`", hint);
    }
}

/// `Some(None)`: off.
fn console_address(text: &str) -> Option<Option<SocketAddr>> {
    if text == "off" { Some(None) } else { text.parse().ok().map(Some) }
}

/// What was written, in checked form. Only called when no check objected; so nothing here can fail.
fn build(file: &File, path: &Path, password: Option<SecretString>, warnings: Vec<Finding>) -> Config {
    let folder = path.parent().unwrap_or(Path::new(""));
    let optional_path = |name: &str| (!name.is_empty()).then(|| folder.join(name));
    let directory = &file.directory;
    let mut homes: Vec<Home> = file.home.iter().map(home).collect();
    homes.sort_by(|a, b| a.id.cmp(&b.id));
    Config {
        path: path.to_owned(),
        agent: Agent {
            state_dir: PathBuf::from(&file.agent.state_dir),
            mode: file.agent.mode,
            workers: file.agent.workers as usize,
        },
        directory: Directory {
            urls: urls(file).into_iter().map(|(_, url)| url.to_owned()).collect(),
            base: directory.base.clone().unwrap_or_default(),
            flavour: match directory.flavour {
                FlavourSetting::Auto => None,
                FlavourSetting::OpenLdap => Some(Flavour::OpenLdap),
                FlavourSetting::Ds389 => Some(Flavour::Ds389),
                FlavourSetting::FreeIpa => Some(Flavour::FreeIpa),
                FlavourSetting::Generic => Some(Flavour::Generic),
                FlavourSetting::ActiveDirectory => Some(Flavour::ActiveDirectory),
            },
            source: match directory.source {
                SourceSetting::Auto => None,
                SourceSetting::Syncrepl => Some(SourceKind::Syncrepl),
                SourceSetting::DirSync => Some(SourceKind::DirSync),
                SourceSetting::Usn => Some(SourceKind::Usn),
                SourceSetting::Poll => Some(SourceKind::Poll),
            },
            filter: (directory.filter != "auto").then(|| directory.filter.clone()),
            bind: match directory.bind {
                BindSetting::Anonymous => Bind::Anonymous,
                BindSetting::External => Bind::External,
                BindSetting::Gssapi => Bind::Gssapi,
                BindSetting::Simple => Bind::Simple {
                    dn: directory.bind_dn.clone().unwrap_or_default(),
                    password: password.unwrap_or_else(|| SecretString::from(String::new())),
                },
            },
            tls: Tls {
                mode: match directory.tls.mode {
                    TlsSetting::Auto => None,
                    TlsSetting::Ldaps => Some(TlsMode::Ldaps),
                    TlsSetting::Starttls => Some(TlsMode::Starttls),
                    TlsSetting::Off => Some(TlsMode::Off),
                },
                ca_file: optional_path(&directory.tls.ca_file),
                certificate_file: optional_path(&directory.tls.certificate_file),
                key_file: optional_path(&directory.tls.key_file),
            },
            allow_plaintext: directory.allow_plaintext,
            poll_interval: directory.poll_interval.0,
            sweep_interval: directory.sweep_interval.0,
            attributes: Attributes {
                login: directory.attributes.login.clone(),
                mail: directory.attributes.mail.clone(),
                disabled: directory.attributes.disabled.clone(),
                extra: directory.attributes.extra.clone(),
            },
        },
        policies: file.policy.iter().map(rule).collect(),
        homes,
        discovery: match file.homes.discover {
            DiscoverSetting::Off => None,
            DiscoverSetting::Directory => Some(Discovery { capacity: file.homes.capacity }),
        },
        im: im(&file.im),
        dns: Dns {
            servers: file.dns.servers.iter().filter_map(|server| name_server(server)).collect(),
            confirm: file.dns.confirm.0,
        },
        digest: Digest {
            required: file.digest.required,
            since: digest_since(&file.digest.since).flatten(),
            action: file.digest.action,
        },
        guard: Guard {
            releases: file.guard.releases,
            releases_percent: file.guard.releases_percent,
            window: file.guard.window.0,
        },
        queue: Queue { retention: file.queue.retention.0 },
        console: Console {
            listen: console_address(&file.console.listen).flatten(),
            hosts: file.console.hosts.iter().map(|host| domain(host)).collect(),
            tls: (!file.console.tls.certificate_file.is_empty()).then(|| ConsoleTls {
                certificate_file: folder.join(&file.console.tls.certificate_file),
                key_file: folder.join(&file.console.tls.key_file),
            }),
        },
        log: Log { format: file.log.format },
        warnings,
    }
}

fn rule(written: &file::Rule) -> RuleConfig {
    RuleConfig {
        name: written.name.clone().unwrap_or_default(),
        matches: written.matches.clone().unwrap_or_default(),
        nested: written.nested,
        action: written.action,
        homes: written.homes.clone(),
        im_domain: written.im_domain.as_deref().map(domain),
    }
}

fn home(written: &file::Home) -> Home {
    Home {
        id: HomeId(written.id.clone().unwrap_or_default()),
        host: domain(written.host.as_deref().unwrap_or_default()),
        capacity: written.capacity.unwrap_or_default(),
        tags: written.tags.clone(),
        dn: written.dn.clone(),
        online_capacity: written.online_capacity,
        load: written.load.as_ref().and_then(|load| load_source(load).ok()),
        probe: written.probe.as_deref().and_then(health_probe),
    }
}

fn im(written: &file::Im) -> Im {
    let mail_wait_default = match written.profile {
        Profile::Exchange => Duration::from_secs(120),
        Profile::Xmpp | Profile::Sip | Profile::Matrix => Duration::ZERO,
    };
    Im {
        profile: written.profile,
        srv: written.srv.clone().unwrap_or_else(|| written.profile.srv().to_owned()),
        domain: written.domain.as_deref().map(domain),
        on_srv_change: written.on_srv_change,
        mail_wait: written.mail_wait.map_or(mail_wait_default, |span| span.0),
        on_mail_change: written.on_mail_change,
        reserve_for: written.reserve_for.0,
        address_rest: written.address_rest.0,
        write_back: WriteBack {
            address: written.write_back.address.clone(),
            url: written.write_back.url.clone(),
            home_url: written.write_back.home_url.clone(),
            home: written.write_back.home.clone(),
            object_class: written.write_back.object_class.clone(),
        },
    }
}

/// `url`, then `urls`, each with its key.
fn urls(file: &File) -> Vec<(String, &str)> {
    let one = file.directory.url.iter().map(|url| ("directory.url".to_owned(), url.as_str()));
    let more = file.directory.urls.iter().enumerate().map(|(n, url)| (format!("directory.urls[{n}]"), url.as_str()));
    one.chain(more).filter(|(_, url)| !url.is_empty()).collect()
}

/// As much of a URL as has to be judged here.
struct Url<'a> {
    scheme: &'a str,
    host: String,
    port_ok: bool,
    has_credentials: bool,
}

impl Url<'_> {
    fn parse(url: &str) -> Option<Url<'_>> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let bracketed = authority.strip_prefix('[').and_then(|inner| inner.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        Some(Url {
            scheme,
            host: host.to_ascii_lowercase(),
            port_ok: port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0)),
            has_credentials: authority.contains('@'),
        })
    }

    fn is_http(&self) -> bool {
        matches!(self.scheme, "http" | "https") && !self.host.is_empty() && self.port_ok && !self.has_credentials
    }
}

/// A URL as it may be shown: what stands before an `@` could be a password.
fn shown_url(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("(hidden)@{host}"),
        None => url.to_owned(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls_word(mode: TlsSetting) -> &'static str {
    match mode {
        TlsSetting::Auto => "auto",
        TlsSetting::Ldaps => "ldaps",
        TlsSetting::Starttls => "starttls",
        TlsSetting::Off => "off",
    }
}

/// Lower case, without a final dot.
fn domain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// RFC 1123 2.1: labels of letters, digits and inner hyphens.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label_ok)
}

fn is_short_name(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

fn name_server(text: &str) -> Option<SocketAddr> {
    text.parse::<SocketAddr>().ok().or_else(|| text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53)))
}

/// `None`: neither `auto` nor a time.
fn digest_since(text: &str) -> Option<Option<Timestamp>> {
    if text == "auto" { Some(None) } else { Timestamp::from_rfc3339(text).map(Some) }
}

fn load_source(written: &file::Load) -> Result<LoadSource, &'static str> {
    let (url, source) = match written {
        file::Load { openmetrics: Some(url), metric: Some(metric), json: None, pointer: None }
            if !metric.is_empty() =>
        {
            (url, LoadSource::OpenMetrics { url: url.clone(), metric: metric.clone() })
        }
        file::Load { openmetrics: None, metric: None, json: Some(url), pointer: Some(pointer) } => {
            if !pointer.starts_with('/') {
                return Err("`pointer` is no JSON pointer (RFC 6901): it begins with a slash");
            }
            (url, LoadSource::Json { url: url.clone(), pointer: pointer.clone() })
        }
        file::Load { .. } => return Err("`load` is neither openmetrics with metric nor json with pointer"),
    };
    match Url::parse(url) {
        Some(parsed) if parsed.is_http() => Ok(source),
        _ => Err("`load` needs an http or https URL without credentials"),
    }
}

fn health_probe(text: &str) -> Option<HealthProbe> {
    if let Some(target) = text.strip_prefix("tcp:") {
        let (host, port) = target.rsplit_once(':')?;
        let port_ok = port.parse::<u16>().is_ok_and(|port| port > 0);
        return (!host.is_empty() && !host.starts_with('/') && port_ok).then(|| HealthProbe::Tcp(target.to_owned()));
    }
    Url::parse(text)?.is_http().then(|| HealthProbe::Http(text.to_owned()))
}

/// The file tried, the password, and whether everybody may read it. The error is text and hint.
fn read_password(
    name: &str,
    credentials: Option<&Path>,
    folder: &Path,
) -> Result<(PathBuf, SecretString, bool), (String, String)> {
    let in_credentials = credentials.map(|credentials| credentials.join(name)).filter(|path| path.exists());
    let path = in_credentials.unwrap_or_else(|| folder.join(name));
    let hint = || {
        format!("it must be readable by the agent's account, or be given by LoadCredential=: ls -l {}", path.display())
    };
    let failed = |error: std::io::Error| {
        (format!("the password file {} cannot be read", path.display()), format!("{error}; {}", hint()))
    };
    let metadata = std::fs::metadata(&path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > PASSWORD_BYTES_MAX {
        let text = format!("the password file {} is no file of at most {PASSWORD_BYTES_MAX} bytes", path.display());
        return Err((text, hint()));
    }
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    // Editors end a file with a line end; a password has none.
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        let text = format!("the password file {} is empty", path.display());
        return Err((text, "put the password in: a simple bind without one is anonymous (RFC 4513 5.1.2)".into()));
    }
    let open_to_all = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o007 != 0;
    Ok((path.clone(), SecretString::from(password.to_owned()), open_to_all))
}

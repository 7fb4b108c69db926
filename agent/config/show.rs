//! The checked configuration for others to read: as TOML without secrets, and as fingerprints to compare.

use super::file::{
    self, BindSetting, DiscoverSetting, File, FlavourSetting, QueueKind, SourceSetting, Span, TlsSetting,
};
use super::*;
use crate::model::{HealthProbe, LoadSource};
use serde::Serialize;
use sha2::Digest as _;

/// What stands in place of a secret.
const HIDDEN: &str = "(hidden)";

impl Config {
    /// Everything as checked, defaults filled in, secrets shown as `(hidden)`.
    pub fn to_toml_hidden(&self) -> String {
        // Strings, numbers, lists and tables with string keys: TOML can write each of them.
        toml::to_string(&self.as_written()).unwrap_or_default()
    }

    /// Of everything that decisions rest on. A worker that finds another one in the store stops deciding and says so.
    pub fn fingerprint(&self) -> String {
        let parts = (self.policy_fingerprint(), self.homes_fingerprint(), self.digest_fingerprint());
        fingerprint(&(parts, self.dns.confirm, self.guard))
    }

    /// Of rules, addresses and the attributes they are made from.
    pub fn policy_fingerprint(&self) -> String {
        fingerprint(&(&self.policies, &self.im, &self.directory.attributes, &self.directory.filter))
    }

    pub fn homes_fingerprint(&self) -> String {
        fingerprint(&(&self.homes, self.discovery.map(|discovery| discovery.capacity)))
    }

    pub fn digest_fingerprint(&self) -> String {
        fingerprint(&self.digest)
    }

    fn as_written(&self) -> File {
        let directory = &self.directory;
        let (bind, bind_dn, bind_password_file) = match &directory.bind {
            Bind::Anonymous => (BindSetting::Anonymous, None, None),
            Bind::External => (BindSetting::External, None, None),
            Bind::Gssapi => (BindSetting::Gssapi, None, None),
            Bind::Simple { dn, password: _ } => (BindSetting::Simple, Some(dn.clone()), Some(HIDDEN.to_owned())),
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        File {
            agent: file::Agent {
                state_dir: self.agent.state_dir.display().to_string(),
                mode: self.agent.mode,
                workers: u32::try_from(self.agent.workers).unwrap_or(u32::MAX),
            },
            directory: file::Directory {
                url: None,
                urls: directory.urls.clone(),
                base: Some(directory.base.clone()),
                flavour: match directory.flavour {
                    Some(Flavour::OpenLdap) => FlavourSetting::OpenLdap,
                    Some(Flavour::Ds389) => FlavourSetting::Ds389,
                    Some(Flavour::FreeIpa) => FlavourSetting::FreeIpa,
                    Some(Flavour::Generic) => FlavourSetting::Generic,
                    Some(Flavour::ActiveDirectory) => FlavourSetting::ActiveDirectory,
                    None => FlavourSetting::Auto,
                },
                source: match directory.source {
                    Some(SourceKind::Syncrepl) => SourceSetting::Syncrepl,
                    Some(SourceKind::DirSync) => SourceSetting::DirSync,
                    Some(SourceKind::Usn) => SourceSetting::Usn,
                    Some(SourceKind::Poll) => SourceSetting::Poll,
                    None => SourceSetting::Auto,
                },
                filter: directory.filter.clone().unwrap_or_else(|| "auto".into()),
                bind,
                bind_dn,
                bind_password_file,
                allow_plaintext: directory.allow_plaintext,
                poll_interval: Span(directory.poll_interval),
                sweep_interval: Span(directory.sweep_interval),
                tls: file::Tls {
                    mode: match directory.tls.mode {
                        None => TlsSetting::Auto,
                        Some(TlsMode::Ldaps) => TlsSetting::Ldaps,
                        Some(TlsMode::Starttls) => TlsSetting::Starttls,
                        Some(TlsMode::Off) => TlsSetting::Off,
                    },
                    ca_file: path(&directory.tls.ca_file),
                    certificate_file: path(&directory.tls.certificate_file),
                    key_file: path(&directory.tls.key_file),
                },
                attributes: file::Attributes {
                    login: directory.attributes.login.clone(),
                    mail: directory.attributes.mail.clone(),
                    disabled: directory.attributes.disabled.clone(),
                    extra: directory.attributes.extra.clone(),
                },
            },
            policy: self.policies.iter().map(rule_as_written).collect(),
            home: self.homes.iter().map(home_as_written).collect(),
            homes: match self.discovery {
                None => file::Homes::default(),
                Some(Discovery { capacity }) => file::Homes { discover: DiscoverSetting::Directory, capacity },
            },
            im: im_as_written(&self.im),
            dns: file::Dns {
                servers: self.dns.servers.iter().map(ToString::to_string).collect(),
                confirm: Span(self.dns.confirm),
            },
            digest: file::Digest {
                required: self.digest.required,
                since: self.digest.since.map_or_else(|| "auto".into(), |since| since.to_string()),
                action: self.digest.action,
            },
            guard: file::Guard {
                releases: self.guard.releases,
                releases_percent: self.guard.releases_percent,
                window: Span(self.guard.window),
            },
            queue: file::Queue { kind: QueueKind::Embedded, retention: Span(self.queue.retention) },
            console: file::Console {
                listen: self.console.listen.map_or_else(|| "off".into(), |address| address.to_string()),
                hosts: self.console.hosts.clone(),
                tls: file::ConsoleTls {
                    certificate_file: path(&self.console.tls.as_ref().map(|tls| tls.certificate_file.clone())),
                    key_file: path(&self.console.tls.as_ref().map(|tls| tls.key_file.clone())),
                },
            },
            log: file::Log { format: self.log.format },
        }
    }
}

fn rule_as_written(rule: &RuleConfig) -> file::Rule {
    file::Rule {
        name: Some(rule.name.clone()),
        matches: Some(rule.matches.clone()),
        nested: rule.nested,
        action: rule.action,
        homes: rule.homes.clone(),
        im_domain: rule.im_domain.clone(),
    }
}

fn home_as_written(home: &Home) -> file::Home {
    file::Home {
        id: Some(home.id.0.clone()),
        host: Some(home.host.clone()).filter(|host| !host.is_empty()),
        capacity: Some(home.capacity).filter(|capacity| *capacity > 0),
        tags: home.tags.clone(),
        dn: home.dn.clone(),
        online_capacity: home.online_capacity,
        load: home.load.as_ref().map(|load| match load.clone() {
            LoadSource::OpenMetrics { url, metric } => {
                file::Load { openmetrics: Some(url), metric: Some(metric), json: None, pointer: None }
            }
            LoadSource::Json { url, pointer } => {
                file::Load { openmetrics: None, metric: None, json: Some(url), pointer: Some(pointer) }
            }
        }),
        probe: home.probe.as_ref().map(|probe| match probe {
            HealthProbe::Tcp(target) => format!("tcp:{target}"),
            HealthProbe::Http(url) => url.clone(),
        }),
    }
}

fn im_as_written(im: &Im) -> file::Im {
    file::Im {
        profile: im.profile,
        srv: Some(im.srv.clone()),
        domain: im.domain.clone(),
        on_srv_change: im.on_srv_change,
        mail_wait: Some(Span(im.mail_wait)),
        on_mail_change: im.on_mail_change,
        reserve_for: Span(im.reserve_for),
        address_rest: Span(im.address_rest),
        write_back: file::WriteBack {
            address: im.write_back.address.clone(),
            url: im.write_back.url.clone(),
            home_url: im.write_back.home_url.clone(),
            home: im.write_back.home.clone(),
            object_class: im.write_back.object_class.clone(),
        },
    }
}

/// SHA-256 of the value as JSON, in hexadecimal.
fn fingerprint(part: &impl Serialize) -> String {
    // Plain values with string keys: JSON can write each of them.
    let json = serde_json::to_vec(part).unwrap_or_default();
    sha2::Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect()
}

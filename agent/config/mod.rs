//! The configuration as checked: durations parsed, homes and filters known, defaults filled in.
//! `file` mirrors the TOML as written; only this reaches the rest of the program.

pub mod check;
pub mod file;

use crate::model::{Home, Timestamp};
use secrecy::SecretString;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the operator said, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    pub agent: Agent,
    pub directory: Directory,
    /// In order; the first match decides. Empty: enable everyone in scope.
    pub policies: Vec<RuleConfig>,
    /// In the order of their ids.
    pub homes: Vec<Home>,
    pub im: Im,
    pub dns: Dns,
    pub digest: Digest,
    pub guard: Guard,
    pub queue: Queue,
    pub log: Log,
}

#[derive(Clone, Debug)]
pub struct Agent {
    pub state_dir: PathBuf,
    pub mode: Mode,
    /// Users written back at the same time.
    pub workers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Decide and record; write nothing to the directory.
    #[default]
    Observe,
    Enforce,
}

#[derive(Clone, Debug)]
pub struct Directory {
    /// Tried in order. `ldap://host:port`, `ldaps://…`, or `ldapi://%2Fpath%2Fto%2Fsocket`.
    pub urls: Vec<String>,
    pub base: String,
    pub flavour: Option<Flavour>,
    pub source: Option<SourceKind>,
    /// RFC 4515, evaluated by us. `None`: the flavour's default.
    pub filter: Option<String>,
    pub bind: Bind,
    pub tls: Tls,
    pub allow_plaintext: bool,
    pub poll_interval: Duration,
    pub sweep_interval: Duration,
    pub attributes: Attributes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Flavour {
    #[serde(rename = "active-directory")]
    ActiveDirectory,
    #[serde(rename = "openldap")]
    OpenLdap,
    #[serde(rename = "389ds")]
    Ds389,
    #[serde(rename = "freeipa")]
    FreeIpa,
    #[serde(rename = "generic")]
    Generic,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    Syncrepl,
}

#[derive(Clone, Debug)]
pub enum Bind {
    Anonymous,
    Simple {
        dn: String,
        password: SecretString,
    },
    /// SASL EXTERNAL: by TLS client certificate or over ldapi.
    External,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// `None`: by the URL (ldaps is TLS, ldap to loopback and ldapi are plain, other ldap is StartTLS).
    pub mode: Option<TlsMode>,
    /// PEM; `None`: the system's certificates.
    pub ca_file: Option<PathBuf>,
    /// PEM, for SASL EXTERNAL.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    Ldaps,
    Starttls,
    Off,
}

/// Names of attributes in the directory. `None`: the flavour's default. As written, any case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    pub login: Option<String>,
    pub mail: Option<String>,
    /// RFC 4515 filter that a disabled account matches.
    pub disabled: Option<String>,
    /// Carried in the record, for rules and consumers.
    pub extra: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleConfig {
    pub name: String,
    /// RFC 4515, already known to parse.
    pub matches: String,
    /// `memberOf` in this rule counts groups within groups.
    pub nested: bool,
    pub action: Action,
    /// Home ids or tags; empty: all.
    pub homes: Vec<String>,
    pub im_domain: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    #[default]
    Enable,
    Disable,
    Ignore,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Im {
    pub profile: Profile,
    /// `_rvp._tcp`: asked below the e-mail domain.
    pub srv: String,
    /// Fallback IM domain, lower case.
    pub domain: Option<String>,
    pub on_srv_change: OnChange,
    pub mail_wait: Duration,
    pub on_mail_change: OnChange,
    pub reserve_for: Duration,
    pub address_rest: Duration,
    pub write_back: WriteBackNames,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    #[default]
    Exchange,
    Xmpp,
    Sip,
    Matrix,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    #[default]
    Keep,
    Migrate,
}

/// Attribute names that results are written to, as written in the configuration. Empty name: not written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteBackNames {
    pub address: String,
    pub url: String,
    pub home_url: String,
    pub home: String,
    /// Auxiliary class added where missing; empty: none.
    pub object_class: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// `address` or `address:port`; empty: the system's.
    pub servers: Vec<std::net::SocketAddr>,
    pub confirm: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digest {
    pub required: bool,
    /// When reversible storage came into force. `None` = auto.
    pub since: Option<Timestamp>,
    pub action: DigestAction,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DigestAction {
    #[default]
    Flag,
    Expire,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    pub releases: u32,
    pub releases_percent: u32,
    pub window: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Tombstones and outcomes are kept this long for readers.
    pub retention: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    pub format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, journald under systemd, else text without colour.
    #[default]
    Auto,
    Text,
    Json,
    Journald,
}

//! The configuration as checked: durations parsed, homes and filters known, defaults filled in.
//! `file` mirrors the TOML as written; only this reaches the rest of the program.

mod check;
pub mod file;
mod read;
mod show;

pub use file::schema_json;

pub use crate::decide::servers::Discovery;
use crate::error::{Disposition, Hint};
pub use crate::model::{Action, DigestAction, OnChange, Profile};
use crate::model::{Home, Timestamp};
use secrecy::SecretString;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
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
    /// In the order of their ids. With discovery a part of one is enough: host and capacity may be empty, and what the
    /// directory says counts.
    pub homes: Vec<Home>,
    /// Homes are found in the directory too. `None`: only those above.
    pub discovery: Option<Discovery>,
    pub im: Im,
    pub dns: Dns,
    pub digest: Digest,
    pub guard: Guard,
    pub queue: Queue,
    pub console: Console,
    pub log: Log,
    /// What was accepted, but looks wrong.
    pub warnings: Vec<Finding>,
}

/// Where the configuration is looked for when nobody says so.
pub const DEFAULT_PATHS: [&str; 2] = ["/etc/homeward/homeward.toml", "homeward.toml"];

/// A configuration file may be this long, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What the checks need from outside of the file.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `$CREDENTIALS_DIRECTORY`: where systemd puts the password.
    pub credentials: Option<PathBuf>,
    /// Whether a text is an RFC 4515 filter; the error says why not.
    pub parse_filter: fn(&str) -> Result<(), String>,
}

/// Something wrong with one setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// `directory.url`, `home[1].capacity` (counted from 0); empty: the file as a whole.
    pub key: String,
    /// Counted from 1.
    pub line: Option<usize>,
    pub text: String,
    pub hint: String,
}

impl Finding {
    /// `[directory]`, `[[home]]`: as the operator wrote it.
    pub fn section(&self) -> Option<String> {
        let (section, _) = self.key.rsplit_once('.').unwrap_or((&self.key, ""));
        let (name, rest) = match section.split_once('[') {
            Some((name, rest)) => (name, rest.split_once(']').map(|(_, rest)| rest)),
            None => (section, None),
        };
        match (name, rest) {
            ("", _) => None,
            (name, None) if self.key.contains('.') => Some(format!("[{name}]")),
            (_, None) => None,
            (name, Some(below)) => Some(format!("[[{name}]]{below}")),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(section) = self.section() {
            write!(f, " in {section}")?;
        }
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        write!(f, "; {}", self.hint)
    }
}

/// Everything that is wrong with a configuration, at once.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the configuration {} cannot be used:{}", path.display(), findings.iter().map(|finding| format!("\n  {finding}")).collect::<String>())]
pub struct ConfigError {
    pub path: PathBuf,
    /// In the order of their lines.
    pub findings: Vec<Finding>,
}

impl ConfigError {
    /// `EX_CONFIG` of sysexits.h; the unit file does not start the agent again after it.
    pub const EXIT_CODE: u8 = 78;

    pub fn disposition(&self) -> Disposition {
        Disposition::Hold
    }

    pub fn hint(&self) -> Hint {
        Hint(format!("correct {}, then: homeward check", self.path.display()))
    }
}

impl Config {
    /// Reads and checks the file, else the first of `DEFAULT_PATHS` that exists.
    pub fn load(path: Option<&Path>, parse_filter: fn(&str) -> Result<(), String>) -> Result<Config, ConfigError> {
        let path = match path {
            Some(path) => path,
            None => {
                DEFAULT_PATHS.iter().map(Path::new).find(|path| path.exists()).unwrap_or(Path::new(DEFAULT_PATHS[0]))
            }
        };
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let text = read_file(path).map_err(|error| ConfigError {
            path: path.to_owned(),
            findings: vec![Finding {
                key: String::new(),
                line: None,
                text: format!("the file cannot be read: {error}"),
                hint: "name another one with --config FILE".into(),
            }],
        })?;
        Config::parse(&text, path, &Surroundings { credentials, parse_filter })
    }

    /// Checks a text as if `path` held it.
    pub fn parse(text: &str, path: &Path, around: &Surroundings) -> Result<Config, ConfigError> {
        let reading = read::read(text);
        let checked = if reading.failed { Err(reading.findings) } else { check::check(reading, path, around) };
        checked.map_err(|findings| ConfigError { path: path.to_owned(), findings })
    }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path)
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
    /// How often `poll` asks.
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
    #[serde(rename = "dirsync")]
    DirSync,
    Usn,
    Poll,
}

impl Flavour {
    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Flavour::ActiveDirectory => "active-directory",
            Flavour::OpenLdap => "openldap",
            Flavour::Ds389 => "389ds",
            Flavour::FreeIpa => "freeipa",
            Flavour::Generic => "generic",
        }
    }

    pub fn parse(text: &str) -> Option<Flavour> {
        let all = [Flavour::ActiveDirectory, Flavour::OpenLdap, Flavour::Ds389, Flavour::FreeIpa, Flavour::Generic];
        all.into_iter().find(|flavour| flavour.as_str() == text)
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SourceKind {
    /// As in the configuration, in cursors and in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            SourceKind::Syncrepl => "syncrepl",
            SourceKind::DirSync => "dirsync",
            SourceKind::Usn => "usn",
            SourceKind::Poll => "poll",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
    /// SASL GSSAPI: by a Kerberos ticket, over TLS.
    Gssapi,
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Attributes {
    pub login: Option<String>,
    pub mail: Option<String>,
    /// RFC 4515 filter that a disabled account matches.
    pub disabled: Option<String>,
    /// Carried in the record, for rules and consumers.
    pub extra: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
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

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
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
    pub write_back: WriteBack,
}

impl Profile {
    /// The SRV service that clients of this kind ask for.
    pub fn srv(self) -> &'static str {
        match self {
            Profile::Exchange => "_rvp._tcp",
            Profile::Xmpp => "_xmpp-client._tcp",
            Profile::Sip => "_sips._tcp",
            Profile::Matrix => "_matrix-fed._tcp",
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Exchange => "exchange",
            Profile::Xmpp => "xmpp",
            Profile::Sip => "sip",
            Profile::Matrix => "matrix",
        }
    }
}

/// Attribute names that results are written to, as configured; `None`: the flavour's default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct WriteBack {
    pub address: Option<String>,
    pub url: Option<String>,
    pub home_url: Option<String>,
    pub home: Option<String>,
    pub object_class: Option<String>,
}

impl WriteBack {
    /// With what the flavour says where the configuration is silent.
    pub fn names(&self, flavour: &WriteBackNames) -> WriteBackNames {
        let or = |own: &Option<String>, default: &String| own.as_ref().unwrap_or(default).clone();
        WriteBackNames {
            address: or(&self.address, &flavour.address),
            url: or(&self.url, &flavour.url),
            home_url: or(&self.home_url, &flavour.home_url),
            home: or(&self.home, &flavour.home),
            object_class: or(&self.object_class, &flavour.object_class),
        }
    }
}

/// Attribute names that results are written to. Empty name: not written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
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

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Digest {
    pub required: bool,
    /// When reversible storage came into force. `None` = auto.
    pub since: Option<Timestamp>,
    pub action: DigestAction,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
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

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Console {
    /// `None`: off.
    pub listen: Option<std::net::SocketAddr>,
    /// Names under which browsers reach it, in lower case.
    pub hosts: Vec<String>,
    pub tls: Option<ConsoleTls>,
}

impl Console {
    /// Only programs of this machine can reach it.
    pub fn is_local(&self) -> bool {
        self.listen.is_none_or(|address| address.ip().is_loopback())
    }
}

/// PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsoleTls {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
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

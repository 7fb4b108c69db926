//! The configuration as written: a mirror of the TOML, with its defaults and their explanations.
//! Only serde, the JSON Schema and `check` know it; it never reads a file and never judges a value.
//!
//! A setting that this release does not implement does not exist here: see `read::LATER`.

use super::{Action, DigestAction, LogFormat, Mode, OnChange, Profile};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::time::Duration;

/// Homeward's configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// The agent itself.
    pub agent: Agent,
    /// The LDAP directory that is watched, and written back to in enforce mode.
    pub directory: Directory,
    /// Rules, in order; the first match decides; no match: ignore. No rule at all: enable everyone in scope.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<Rule>,
    /// The home servers. With discovery none is needed; one with the id or DN of a server found says more about it.
    pub home: Vec<Home>,
    /// Home servers that the directory itself names.
    pub homes: Homes,
    /// Addresses, IM domains, and the attributes that results are written to.
    pub im: Im,
    /// How SRV records are asked for.
    pub dns: Dns,
    /// Readiness for Digest authentication.
    pub digest: Digest,
    /// The limit beyond which releases, moves and address changes wait for approval.
    pub guard: Guard,
    /// What other systems can read of the past.
    pub queue: Queue,
    /// The console: page, HTTP interface, metrics.
    pub console: Console,
    /// The log.
    pub log: Log,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// Folder of directory.db and enablement.db.
    pub state_dir: String,
    /// observe: decide and record, write nothing to the directory. enforce: write back.
    pub mode: Mode,
    /// Users written back at the same time, 1 to 16.
    #[schemars(range(min = 1, max = 16))]
    pub workers: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Directory {
    /// The server: ldaps://host, ldap://host:port or ldapi://%2Fpath%2Fto%2Fsocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// More servers of the same directory, tried in order, after `url`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// The entry below which users are looked for.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The kind of server; auto reads the root DSE.
    pub flavour: FlavourSetting,
    /// The way of hearing changes; auto takes the best that the server offers.
    pub source: SourceSetting,
    /// Who is a user: an RFC 4515 filter, or auto for the flavour's own.
    pub filter: String,
    /// How to authenticate: simple (DN and password), external (TLS certificate, or ldapi), gssapi (Kerberos ticket over
    /// TLS; the program must be built for it) or anonymous.
    pub bind: BindSetting,
    /// The account, for bind = "simple".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_dn: Option<String>,
    /// File that holds the password; relative to $CREDENTIALS_DIRECTORY, else to this file's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_password_file: Option<String>,
    /// Permits plain text to a host that is not this one. Passwords then cross the network readably.
    pub allow_plaintext: bool,
    /// How often a server is asked for changes that does not tell them by itself (source = "poll").
    pub poll_interval: Span,
    /// Full comparison; repairs whatever was missed.
    pub sweep_interval: Span,
    /// Encryption.
    pub tls: Tls,
    /// Names of attributes; what is left out is the flavour's default.
    pub attributes: Attributes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlavourSetting {
    #[default]
    Auto,
    OpenLdap,
    #[serde(rename = "389ds")]
    Ds389,
    FreeIpa,
    Generic,
    #[serde(rename = "active-directory")]
    ActiveDirectory,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceSetting {
    #[default]
    Auto,
    Syncrepl,
    #[serde(rename = "dirsync")]
    DirSync,
    Usn,
    Poll,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BindSetting {
    #[default]
    Simple,
    External,
    Gssapi,
    Anonymous,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// auto: by the URL (ldaps is TLS; ldap to this host and ldapi are plain; other ldap is StartTLS).
    pub mode: TlsSetting,
    /// PEM with the authorities to trust; empty: the system's.
    pub ca_file: String,
    /// PEM with our own certificate, for bind = "external"; empty: none.
    pub certificate_file: String,
    /// PEM with the key of our certificate; empty: none.
    pub key_file: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsSetting {
    #[default]
    Auto,
    Ldaps,
    Starttls,
    Off,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Attributes {
    /// The login name: the part before the @ where SRV does not decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// The mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail: Option<String>,
    /// RFC 4515 filter that a disabled account matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<String>,
    /// Carried in the record as well, for rules and for other systems.
    pub extra: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What the rule is called in `homeward user explain`.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// RFC 4515 filter over the user's record.
    #[schemars(required)]
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// memberOf counts groups within groups.
    pub nested: bool,
    /// enable, disable, or ignore (freeze as is).
    pub action: Action,
    /// Ids or tags of the home servers allowed; empty: all.
    pub homes: Vec<String>,
    /// IM domain for these users where SRV does not decide; left out: `[im] domain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub im_domain: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Home {
    /// Short name: letters, digits, dot, hyphen, underscore. Rules, commands and the directory name the home by it.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Fully qualified host name. A NetBIOS name gives clients "Authentication Failure" (KB 319758). Left out with
    /// discovery: the directory's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Assigned users at most. Left out with discovery: `[homes] capacity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// For rules that name homes by what they have in common.
    pub tags: Vec<String>,
    /// The virtual server object, where the schema wants a DN as the home (Active Directory).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dn: Option<String>,
    /// Online users at most; needs `load`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online_capacity: Option<u32>,
    /// Where the number of online users is read: openmetrics and metric, or json and pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// How to see whether the home is up: tcp:host:port, or an http or https URL that answers 2xx.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Homes {
    /// off: the homes are those of `[[home]]`. directory: also every virtual server object of Active Directory that hosts
    /// users (msExchProtocolCfgIMVirtualServer); new ones get newcomers, and nobody new is sent to one that is gone.
    pub discover: DiscoverSetting,
    /// Assigned users at most, of a home that is found and of which no `[[home]]` says otherwise. Sources disagree on
    /// what a server of Exchange 2000 bears: 7,500 or 10,000 users online.
    pub capacity: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiscoverSetting {
    #[default]
    Off,
    Directory,
}

impl Default for Homes {
    fn default() -> Homes {
        Homes { discover: DiscoverSetting::Off, capacity: 7500 }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// URL of an OpenMetrics or Prometheus text page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openmetrics: Option<String>,
    /// The metric whose samples are added up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// URL of a JSON document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// RFC 6901 pointer to the number in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Im {
    /// exchange (_rvp._tcp), xmpp (_xmpp-client._tcp), sip (_sips._tcp) or matrix (_matrix-fed._tcp).
    pub profile: Profile,
    /// The SRV name asked for below the e-mail domain; left out: the profile's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srv: Option<String>,
    /// The IM domain where SRV does not decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What a new or vanished SRV record does to addresses already given.
    pub on_srv_change: OnChange,
    /// How long a missing mail address is "not yet"; left out: 2m for the exchange profile, else 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail_wait: Option<Span>,
    /// What a changed mail address does to an address already given.
    pub on_mail_change: OnChange,
    /// A released user who comes back within this time gets the same address, and home if it has room.
    pub reserve_for: Span,
    /// A released address goes to nobody else for this time.
    pub address_rest: Span,
    /// The attributes that results are written to. Left out: the flavour's default. Empty: not written.
    pub write_back: WriteBack,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WriteBack {
    /// Takes the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Takes the URL in the IM domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Takes the URL at the home server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home_url: Option<String>,
    /// Takes the home server's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Auxiliary class that permits these attributes; added to entries that lack it. Empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_class: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Name servers as address or address:port; empty: the system's.
    pub servers: Vec<String>,
    /// A certain answer that contradicts the last one must hold this long before it is believed.
    pub confirm: Span,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Digest {
    /// true: users authenticate by Digest, so their password must be of a later date than reversible storage.
    pub required: bool,
    /// When reversible storage (or the verifier) came into force: an RFC 3339 time, or auto. In Active Directory auto finds it
    /// out for each user.
    pub since: String,
    /// flag: record and list who needs a new password. expire: also make the directory demand one.
    pub action: DigestAction,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// At most this many releases, moves and address changes in one window …
    pub releases: u32,
    /// … and at most this part of all enabled users. Up to 3 always pass.
    #[schemars(range(max = 100))]
    pub releases_percent: u32,
    /// The window.
    pub window: Span,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// embedded: readers follow the feed in the store.
    pub kind: QueueKind,
    /// Tombstones and outcomes are kept this long for readers; at least 1h.
    pub retention: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    #[default]
    Embedded,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Console {
    /// Address and port of page, /v1, /healthz, /readyz and /metrics; or off. Another address than this machine's own
    /// (127.0.0.1, ::1) needs tls, hosts, and tokens (homeward console token add).
    pub listen: String,
    /// Names under which browsers reach the console, beside localhost and addresses.
    pub hosts: Vec<String>,
    /// The console's certificate.
    pub tls: ConsoleTls,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleTls {
    /// PEM with the certificate and those between it and the authority; empty: no TLS.
    pub certificate_file: String,
    /// PEM with the key of the certificate; empty: none.
    pub key_file: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// auto (text on a terminal, journald under systemd), text, json or journald.
    pub format: LogFormat,
}

impl Default for Agent {
    fn default() -> Agent {
        Agent { state_dir: "/var/lib/homeward".into(), mode: Mode::default(), workers: 4 }
    }
}

impl Default for Directory {
    fn default() -> Directory {
        Directory {
            url: None,
            urls: Vec::new(),
            base: None,
            flavour: FlavourSetting::default(),
            source: SourceSetting::default(),
            filter: "auto".into(),
            bind: BindSetting::default(),
            bind_dn: None,
            bind_password_file: None,
            allow_plaintext: false,
            poll_interval: Span(Duration::from_secs(5)),
            sweep_interval: Span::hours(24),
            tls: Tls::default(),
            attributes: Attributes::default(),
        }
    }
}

impl Default for Im {
    fn default() -> Im {
        Im {
            profile: Profile::default(),
            srv: None,
            domain: None,
            on_srv_change: OnChange::default(),
            mail_wait: None,
            on_mail_change: OnChange::default(),
            reserve_for: Span::hours(30 * 24),
            address_rest: Span::hours(180 * 24),
            write_back: WriteBack::default(),
        }
    }
}

impl Default for Dns {
    fn default() -> Dns {
        Dns { servers: Vec::new(), confirm: Span(Duration::from_secs(600)) }
    }
}

impl Default for Digest {
    fn default() -> Digest {
        Digest { required: false, since: "auto".into(), action: DigestAction::default() }
    }
}

impl Default for Guard {
    fn default() -> Guard {
        Guard { releases: 50, releases_percent: 5, window: Span::hours(1) }
    }
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { kind: QueueKind::default(), retention: Span::hours(30 * 24) }
    }
}

impl Default for Console {
    fn default() -> Console {
        Console { listen: "127.0.0.1:8480".into(), hosts: Vec::new(), tls: ConsoleTls::default() }
    }
}

/// A length of time, written `30s`, `10m`, `1h30m`, `30d`. A day is 24 hours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(pub Duration);

impl Span {
    fn hours(hours: u64) -> Span {
        Span(Duration::from_secs(hours * 3600))
    }

    /// `None`: not a length of time, or a negative one, or one in months or years (which have no fixed length).
    pub fn parse(text: &str) -> Option<Span> {
        let span: jiff::Span = text.parse().ok()?;
        let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
        Duration::try_from(duration).ok().map(Span)
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // One day is written 24h, as people do; more are days.
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, length) in units {
            if name == "d" && rest < 2 * length {
                continue;
            }
            if rest >= length {
                write!(f, "{}{name}", rest / length)?;
                rest %= length;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        Span::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "\"{text}\" is no length of time, such as \"30s\", \"10m\", \"1h30m\", \"30d\""
            ))
        })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A length of time: 30s, 10m, 1h30m, 30d. A day is 24 hours.",
            "examples": ["30s", "10m", "1h30m", "30d"]
        })
    }
}

/// The JSON Schema of the configuration, as `schemas/config.json` holds it.
pub fn schema_json() -> String {
    let schema = schemars::schema_for!(File);
    // A schema is plain JSON: writing it cannot fail.
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_read_back_as_they_are_written() {
        for text in ["0s", "500ms", "30s", "10m", "1h30m", "24h", "30d", "180d"] {
            assert_eq!(Span::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(Span::parse("1d").unwrap().to_string(), "24h");
        for text in ["", "10", "-5m", "1mo", "2y", "soon"] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}

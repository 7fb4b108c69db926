//! A home server: what the configuration says of it, what the operator wishes, what we see.

use super::{Timestamp, UserKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The name of a home server in rules, rows and the directory: `im1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct HomeId(pub String);

impl fmt::Display for HomeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A home server as configured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Home {
    pub id: HomeId,
    /// Fully qualified host name: a NetBIOS name gives clients "Authentication Failure" (KB 319758).
    pub host: String,
    /// Assigned users at most.
    pub capacity: u32,
    pub tags: Vec<String>,
    /// The virtual server object, where the schema wants a DN.
    pub dn: Option<String>,
    /// Online users at most, where a load source tells how many are online.
    pub online_capacity: Option<u32>,
    pub load: Option<LoadSource>,
    pub probe: Option<HealthProbe>,
}

/// Where the number of online users of a home is read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LoadSource {
    /// An OpenMetrics or Prometheus text page; samples of this metric are added up.
    OpenMetrics { url: String, metric: String },
    /// A JSON document and an RFC 6901 pointer to a number.
    Json { url: String, pointer: String },
}

/// How to see whether a home is up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HealthProbe {
    /// `host:port` accepts a connection.
    Tcp(String),
    /// The URL answers 2xx.
    Http(String),
}

/// What the operator wishes of a home. Kept apart from what is seen of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdminState {
    #[default]
    Active,
    /// No newcomers.
    Cordoned,
    /// No newcomers, and residents leave.
    Draining,
}

/// What a probe saw last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// No probe is configured.
    #[default]
    NotProbed,
    Up,
    Down,
    /// Configured, but not heard of lately.
    Unknown,
}

/// The number of online users, as far as it is known. Stale and unknown are never read as zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Online {
    /// No load source is configured.
    #[default]
    NotMeasured,
    /// Read at `at`; `assigned` users had been assigned by then, so that those assigned since can be added.
    Sample { users: u32, assigned: u32, at: Timestamp },
    /// The last sample is too old.
    Stale { users: u32, at: Timestamp },
    /// Configured, but never read.
    Unknown,
}

/// The object that stands for a home where the directory names homes by DN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HomeObject {
    /// Homes are named by their ids.
    #[default]
    NotNeeded,
    /// It was there when it was looked for last, or it was not looked for.
    There,
    /// It is not where it should be: nobody can be sent there.
    Missing,
    /// The configuration does not say which it is.
    NotNamed,
}

/// A virtual server object (class msExchProtocolCfgIMVirtualServer) as the directory has it now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualServer {
    /// objectGUID: it stays when the object is renamed or moved.
    pub guid: UserKey,
    pub dn: String,
    pub cn: String,
    /// msExchIMHostName, else msExchIMServerName; lower case. `None`: neither is a host name.
    pub host: Option<String>,
    /// msExchIMServerHostsUsers: a home server. Else a router.
    pub hosts_users: bool,
}

/// The same, with what is remembered of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownServer {
    pub guid: UserKey,
    /// Given at first sight, and kept whatever the object is called later: rules and standings name it.
    pub id: HomeId,
    pub dn: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_dns: Vec<String>,
    pub host: Option<String>,
    pub hosts_users: bool,
    /// Not in the last answer: deleted, or no longer to be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
}

/// One home with everything placement looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HomeState {
    pub home: Home,
    pub object: HomeObject,
    /// DNs that its object had: a renamed one is the same, and a record read before still has the old name.
    pub former_dns: Vec<String>,
    /// False: users live there, but the configuration no longer names it. Treated as cordoned.
    pub configured: bool,
    pub wish: AdminState,
    pub health: Health,
    pub online: Online,
    /// Reservations that count against the capacity.
    pub assigned: u32,
}

impl HomeState {
    /// Places left: capacity less assigned.
    pub fn headroom(&self) -> u32 {
        self.home.capacity.saturating_sub(self.assigned)
    }
}

/// All homes, in the order of their ids.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fleet {
    pub homes: Vec<HomeState>,
}

impl Fleet {
    pub fn get(&self, id: &HomeId) -> Option<&HomeState> {
        self.homes.iter().find(|state| &state.home.id == id)
    }

    pub fn get_mut(&mut self, id: &HomeId) -> Option<&mut HomeState> {
        self.homes.iter_mut().find(|state| &state.home.id == id)
    }
}

//! A home server: what the configuration says of it, what the operator wishes, what we see.

use super::Timestamp;
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

/// One home with everything placement looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HomeState {
    pub home: Home,
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

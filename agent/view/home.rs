//! Home servers as other programs read them.

use crate::model::{AdminState, Health, HomeId, HomeObject, HomeState, Online};
use serde::Serialize;

/// A home as other programs read it.
#[derive(Clone, Debug, Serialize)]
pub struct HomeView {
    pub id: HomeId,
    pub host: String,
    pub capacity: u32,
    pub assigned: u32,
    /// What the operator wishes.
    pub wish: AdminState,
    pub health: Health,
    /// Users online, where that is known and fresh.
    pub online: Option<u32>,
    /// False: users live there, but neither the configuration nor the directory names it any more.
    pub configured: bool,
    /// Its virtual server object, where the directory names homes by DN: there, missing, or not-named.
    pub object: Option<&'static str>,
}

impl HomeView {
    pub fn of(state: &HomeState) -> HomeView {
        HomeView {
            id: state.home.id.clone(),
            host: state.home.host.clone(),
            capacity: state.home.capacity,
            assigned: state.assigned,
            wish: state.wish,
            health: state.health,
            online: match state.online {
                Online::Sample { users, .. } => Some(users),
                Online::NotMeasured | Online::Stale { .. } | Online::Unknown => None,
            },
            configured: state.configured,
            object: match state.object {
                HomeObject::NotNeeded => None,
                HomeObject::There => Some("there"),
                HomeObject::Missing => Some("missing"),
                HomeObject::NotNamed => Some("not-named"),
            },
        }
    }
}

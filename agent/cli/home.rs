//! `home`: the home servers, and the wishes about them.

use super::context::Context;
use super::print::{Table, bar};
use super::{CliError, FINE, HomeVerb, wish};
use crate::model::{AdminState, Fleet, Health, HomeObject, HomeState, Online};
use crate::store::enablement::Verb;
use crate::view::ViewError;
use crate::view::home::HomeView;

pub fn table(fleet: &Fleet) -> Table {
    let mut table = Table::new(["HOME", "HOST", "LOAD", "ASSIGNED", "CAPACITY", "ONLINE", "HEALTH", "STATE"]);
    for column in [3, 4, 5] {
        table.right(column);
    }
    for state in &fleet.homes {
        table.row([
            state.home.id.0.clone(),
            state.home.host.clone(),
            bar(u64::from(state.assigned), u64::from(state.home.capacity)),
            state.assigned.to_string(),
            state.home.capacity.to_string(),
            match state.online {
                Online::NotMeasured => "-".into(),
                Online::Sample { users, .. } => users.to_string(),
                Online::Stale { users, .. } => format!("{users} (stale)"),
                Online::Unknown => "unknown".into(),
            },
            match state.health {
                Health::NotProbed => "-",
                Health::Up => "up",
                Health::Down => "DOWN",
                Health::Unknown => "unknown",
            }
            .into(),
            match (state.configured, state.object, state.wish) {
                (false, HomeObject::NotNeeded | HomeObject::There | HomeObject::NotNamed, _) => "not configured",
                (_, HomeObject::Missing, _) => "not in the directory",
                (true, HomeObject::NotNamed, _) => "has no dn",
                (true, HomeObject::NotNeeded | HomeObject::There, AdminState::Active) => "active",
                (true, HomeObject::NotNeeded | HomeObject::There, AdminState::Cordoned) => "cordoned",
                (true, HomeObject::NotNeeded | HomeObject::There, AdminState::Draining) => "draining",
            }
            .into(),
        ]);
    }
    table
}

pub fn home(c: &mut Context, verb: HomeVerb) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let fleet = c.world(&db)?.fleet;
    drop(db);
    let (name, state, what) = match verb {
        HomeVerb::List => {
            if c.out.json {
                c.out.document(&fleet.homes.iter().map(HomeView::of).collect::<Vec<_>>())?;
            } else {
                table(&fleet).show(&mut c.out)?;
            }
            return Ok(FINE);
        }
        HomeVerb::Cordon { home } => (home, AdminState::Cordoned, "let nobody new live at"),
        HomeVerb::Drain { home } => (home, AdminState::Draining, "move everybody away from"),
        HomeVerb::Activate { home } => (home, AdminState::Active, "let users live at"),
    };
    let known = |state: &HomeState| state.home.id.clone();
    let found = fleet.homes.iter().map(known).find(|id| id.0.eq_ignore_ascii_case(&name));
    let id = found
        .ok_or_else(|| ViewError::NoSuchHome { name, known: fleet.homes.iter().map(|home| known(home).0).collect() })?;
    let what = format!("{what} {id}");
    wish::leave(c, Verb::SetHome { id, wish: state }, &what, None)
}

//! Whose values stand in the directory: nobody's, ours, a fleet member's to adopt, or foreign. Foreign is never changed.

use super::World;
use super::address;
use super::policy::Names;
use crate::model::*;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ownership {
    Nothing,
    /// Every value is one that we wrote, or are about to write.
    Ours,
    /// Names a home of our fleet, and parses in the profile's form.
    Adoptable(Assignment),
    Foreign {
        attribute: String,
        value: String,
    },
}

/// The write-back values an entry carries.
pub fn found(record: &UserRecord, names: &Names) -> WriteBackValues {
    let value = |name: &str| if name.is_empty() { None } else { record.text(name).map(str::to_owned) };
    WriteBackValues {
        address: value(&names.address),
        url: value(&names.url),
        home_url: value(&names.home_url),
        home: value(&names.home),
    }
}

/// The values that an assignment should have in the directory.
pub fn desired(assignment: &Assignment, world: &World) -> WriteBackValues {
    let names = &world.policy.names;
    let state = world.fleet.get(&assignment.home);
    let host = state.map_or(assignment.home.0.as_str(), |state| state.home.host.as_str());
    let home = state.and_then(|state| state.home.dn.clone()).unwrap_or_else(|| assignment.home.0.clone());
    let urls = address::urls(world.policy.im.profile, &assignment.address, &assignment.im_domain, host);
    let unless_unnamed = |name: &str, value: Option<String>| if name.is_empty() { None } else { value };
    WriteBackValues {
        address: unless_unnamed(&names.address, Some(assignment.address.clone())),
        url: unless_unnamed(&names.url, Some(urls.url)),
        home_url: unless_unnamed(&names.home_url, urls.home_url),
        home: unless_unnamed(&names.home, Some(home)),
    }
}

/// A record may have been read before our last write and be taken in after it; so long the values of before still are ours.
const ECHO: std::time::Duration = std::time::Duration::from_secs(60);

pub fn of(standing: &Standing, world: &World, now: Timestamp) -> Ownership {
    let names = &world.policy.names;
    let found = found(&standing.record, names);
    if found.is_empty() {
        return Ownership::Nothing;
    }
    let reserved = standing.reserved.as_ref().map(|assignment| desired(assignment, world)).unwrap_or_default();
    let previous = standing.previous.as_ref().filter(|(_, at)| now.since(*at) < ECHO).map(|(values, _)| values);
    let known = [Some(&standing.applied), Some(&reserved), previous];
    let is_ours = |value: &Option<String>, of: fn(&WriteBackValues) -> &Option<String>| {
        value.is_none() || known.iter().flatten().any(|values| same(value, of(values)))
    };
    let address_ours = is_ours(&found.address, |values| &values.address);
    let home_ours = is_ours(&found.home, |values| &values.home);
    let url_ours = is_ours(&found.url, |values| &values.url);
    let home_url_ours = is_ours(&found.home_url, |values| &values.home_url);
    if address_ours && home_ours && url_ours && home_url_ours {
        return Ownership::Ours;
    }

    let foreign = |name: &str, value: &Option<String>| Ownership::Foreign {
        attribute: name.to_owned(),
        value: value.clone().unwrap_or_default(),
    };
    let Some(home) = found.home.as_deref().and_then(|value| named_home(value, &world.fleet)) else {
        return match (&found.home, &found.address) {
            (Some(_), _) => foreign(&names.home, &found.home),
            (None, Some(_)) if !address_ours => foreign(&names.address, &found.address),
            (None, _) if !url_ours => foreign(&names.url, &found.url),
            (None, _) => foreign(&names.home_url, &found.home_url),
        };
    };
    // An address is needed to adopt; without one the place is taken over and the address comes from what was reserved.
    let kept =
        found.address.as_deref().or_else(|| standing.reserved.as_ref().map(|assignment| assignment.address.as_str()));
    let Some(address) = kept.and_then(address::canonical) else {
        return match found.address {
            Some(_) => foreign(&names.address, &found.address),
            // Only a home: nothing says which address clients use, so it is not ours to complete.
            None => foreign(&names.home, &found.home),
        };
    };
    let profile = world.policy.im.profile;
    let im_domain = found
        .url
        .as_deref()
        .and_then(|url| address::im_domain_of_url(profile, url))
        .or_else(|| standing.reserved.as_ref().filter(|a| a.address == address).map(|a| a.im_domain.clone()))
        .or_else(|| address.split_once('@').map(|(_, domain)| domain.to_owned()))
        .unwrap_or_default();
    let assignment = Assignment { home, address, im_domain };
    let expected = desired(&assignment, world);
    if !url_ours && !same(&found.url, &expected.url) {
        return foreign(&names.url, &found.url);
    }
    if !home_url_ours && !same(&found.home_url, &expected.home_url) {
        return foreign(&names.home_url, &found.home_url);
    }
    Ownership::Adoptable(assignment)
}

/// Values of the write-back attributes compare without case, as their syntaxes do.
pub fn same(a: &Option<String>, b: &Option<String>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b || a.eq_ignore_ascii_case(b),
        (None, None) => true,
        _ => false,
    }
}

/// The home that a value names: by id, by host, or by the DN of its virtual server object.
pub fn named_home(value: &str, fleet: &Fleet) -> Option<HomeId> {
    fleet
        .homes
        .iter()
        .find(|state| {
            state.home.id.0.eq_ignore_ascii_case(value)
                || state.home.host.eq_ignore_ascii_case(value)
                || state.home.dn.as_ref().is_some_and(|dn| normalized_dn(dn) == normalized_dn(value))
        })
        .map(|state| state.home.id.clone())
}

//! Whose values stand in the directory: nobody's, ours, a fleet member's to adopt, orphaned, or foreign. Foreign is never
//! changed. A home is named by its id, or by the DN of its virtual server object where the schema wants a DN; DNs compare
//! without case and space, and a renamed object is the same one.

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
    /// The virtual server object was deleted, and the directory left the user pointing at what is left of it. Everything
    /// else is ours, or parses in the profile's form. The home is the one the user had, as far as anybody knows.
    Orphan(Assignment),
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
        home: value(&names.home).map(|home| plain_dn(&home).to_owned()),
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
    let home_ours =
        found.home.is_none() || known.iter().flatten().any(|values| same_home(&found.home, &values.home, &world.fleet));
    let url_ours = is_ours(&found.url, |values| &values.url);
    let home_url_ours = is_ours(&found.home_url, |values| &values.home_url);
    let echo = previous.is_some_and(|values| same(&found.home, &values.home));
    if let Some(name) = found.home.as_deref().and_then(deleted_name)
        && standing.released_at.is_none()
        && !echo
    {
        return orphan(name, &found, (address_ours, url_ours, home_url_ours), standing, world);
    }
    if address_ours && home_ours && url_ours && home_url_ours {
        return Ownership::Ours;
    }

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

fn foreign(name: &str, value: &Option<String>) -> Ownership {
    Ownership::Foreign { attribute: name.to_owned(), value: value.clone().unwrap_or_default() }
}

/// A user of a deleted server. `ours`: whether address, URL and URL at the home server are known to be.
fn orphan(
    name: &str,
    found: &WriteBackValues,
    ours: (bool, bool, bool),
    standing: &Standing,
    world: &World,
) -> Ownership {
    let (address_ours, url_ours, home_url_ours) = ours;
    let names = &world.policy.names;
    if let Some(held) = standing.holds().filter(|_| address_ours && url_ours && home_url_ours) {
        return Ownership::Orphan(held.clone());
    }
    let Some(address) = found.address.as_deref().and_then(address::canonical) else {
        return match &found.address {
            Some(_) => foreign(&names.address, &found.address),
            None => foreign(&names.home, &found.home),
        };
    };
    let profile = world.policy.im.profile;
    let im_domain = found
        .url
        .as_deref()
        .and_then(|url| address::im_domain_of_url(profile, url))
        .or_else(|| address.split_once('@').map(|(_, domain)| domain.to_owned()))
        .unwrap_or_default();
    // The server's host went with it: whatever the URL names is taken, if the rest of it is as we would have written it.
    let host = found.home_url.as_deref().and_then(|url| address::home_host_of_url(profile, url)).unwrap_or_default();
    let expected = address::urls(profile, &address, &im_domain, &host);
    if !url_ours && !same(&found.url, &Some(expected.url)) {
        return foreign(&names.url, &found.url);
    }
    if !home_url_ours && !same(&found.home_url, &expected.home_url) {
        return foreign(&names.home_url, &found.home_url);
    }
    let home = standing.holds().map_or_else(|| HomeId(name.to_owned()), |held| held.home.clone());
    Ownership::Orphan(Assignment { home, address, im_domain })
}

/// Whether the orphan already has another place, and only the directory does not know it yet.
pub fn replaced(standing: &Standing, world: &World) -> bool {
    standing.holds().is_some_and(|held| {
        let there = |state: &HomeState| state.configured && state.object != HomeObject::Missing;
        world.fleet.get(&held.home).is_some_and(there) && !same(&desired(held, world).home, &standing.applied.home)
    })
}

/// Values of the write-back attributes compare without case, as most of their syntaxes do, and DNs without space too. What
/// differs in case alone is left as it is: on Active Directory a client may have the URL by heart as it stands.
pub fn same(a: &Option<String>, b: &Option<String>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            a == b
                || a.eq_ignore_ascii_case(b)
                || a.contains('=') && b.contains('=') && normalized_dn(a) == normalized_dn(b)
        }
        (None, None) => true,
        _ => false,
    }
}

/// The same home: an equal value, or two DNs that its object has and had.
pub fn same_home(a: &Option<String>, b: &Option<String>, fleet: &Fleet) -> bool {
    same(a, b)
        || match (a, b) {
            (Some(a), Some(b)) if a.contains('=') && b.contains('=') => {
                named_home(a, fleet).is_some_and(|home| named_home(b, fleet) == Some(home))
            }
            _ => false,
        }
}

/// Whether everything that is wanted is there.
pub fn same_values(found: &WriteBackValues, desired: &WriteBackValues, fleet: &Fleet) -> bool {
    same(&found.address, &desired.address)
        && same(&found.url, &desired.url)
        && same(&found.home_url, &desired.home_url)
        && same_home(&found.home, &desired.home, fleet)
}

/// The home that a value names: by id, by host, or by the DN of its virtual server object.
pub fn named_home(value: &str, fleet: &Fleet) -> Option<HomeId> {
    let value = plain_dn(value);
    let by_name =
        |state: &&HomeState| state.home.id.0.eq_ignore_ascii_case(value) || state.home.host.eq_ignore_ascii_case(value);
    let found = if value.contains('=') {
        let dn = normalized_dn(value);
        let names_it = |known: &String| normalized_dn(known) == dn;
        // What an object is called now outranks what another one was called.
        let now = fleet.homes.iter().find(|state| state.home.dn.as_ref().is_some_and(names_it));
        now.or_else(|| fleet.homes.iter().find(|state| state.former_dns.iter().any(names_it)))
    } else {
        fleet.homes.iter().find(by_name)
    };
    found.map(|state| state.home.id.clone())
}

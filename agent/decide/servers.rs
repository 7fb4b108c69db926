//! The virtual server objects of the directory and the homes of the configuration: which of them are home servers, under
//! which ids, and what is odd about them. An answer without any server is no answer, and removes nothing.

use crate::model::*;

/// RFC 1035: so many characters can an id have.
const ID_MAX: usize = 64;

/// How homes are found beside those that the configuration names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Discovery {
    /// Assigned users at most, where no `[[home]]` says otherwise.
    pub capacity: u32,
}

/// A home as it counts, with the object that stands for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effective {
    pub home: Home,
    pub object: HomeObject,
    pub former_dns: Vec<String>,
}

/// Something odd, for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubt {
    pub text: String,
    pub hint: String,
}

/// What is known after an answer. Servers that are not in it stay, as missing: who lived there is still to be looked at.
/// `configured` gives its id to the object that it names by DN.
pub fn merge(known: &[KnownServer], seen: &[VirtualServer], configured: &[Home]) -> Vec<KnownServer> {
    if seen.is_empty() {
        return known.to_vec();
    }
    let mut merged = known.to_vec();
    for server in &mut merged {
        server.missing = !seen.iter().any(|seen| seen.guid == server.guid);
    }
    let mut seen: Vec<&VirtualServer> = seen.iter().collect();
    // Always in the same order, so that ids do not depend on the server's.
    seen.sort_by(|a, b| a.dn.cmp(&b.dn).then(a.guid.cmp(&b.guid)));
    for server in seen {
        let dn = normalized_dn(&server.dn);
        let at = merged.iter().position(|known| known.guid == server.guid).or_else(|| {
            // Made anew under the same name: it is the same home, with the same host and URLs.
            merged.iter().position(|known| known.missing && normalized_dn(&known.dn) == dn)
        });
        let Some(known) = at.and_then(|at| merged.get_mut(at)) else {
            let id = id_for(server, &merged, configured);
            merged.push(KnownServer {
                guid: server.guid,
                id,
                dn: server.dn.clone(),
                former_dns: Vec::new(),
                host: server.host.clone(),
                hosts_users: server.hosts_users,
                missing: false,
            });
            continue;
        };
        if normalized_dn(&known.dn) != dn {
            let before = std::mem::replace(&mut known.dn, server.dn.clone());
            known.former_dns.retain(|former| normalized_dn(former) != dn);
            known.former_dns.push(before);
        }
        known.guid = server.guid;
        known.host.clone_from(&server.host);
        known.hosts_users = server.hosts_users;
        known.missing = false;
    }
    merged
}

/// The id of a `[[home]]` with this DN; else the object's name with `-` for what an id cannot have; else, where another
/// has that already, the host; else the name with the beginning of the GUID.
fn id_for(server: &VirtualServer, known: &[KnownServer], configured: &[Home]) -> HomeId {
    let names_it = |home: &&Home| home.dn.as_ref().is_some_and(|dn| normalized_dn(dn) == normalized_dn(&server.dn));
    if let Some(home) = configured.iter().find(names_it) {
        return home.id.clone();
    }
    let name = valid_id(&server.cn);
    let guid = server.guid.to_string();
    let tail = guid.split('-').next().unwrap_or_default();
    let names = [Some(name.clone()), server.host.as_deref().map(valid_id), Some(format!("{name}-{tail}"))];
    let free = |id: &String| {
        let taken = |other: &HomeId| other.0.eq_ignore_ascii_case(id);
        // A home that is configured with another DN, or under another host, is another one.
        let configured = configured.iter().any(|home| {
            taken(&home.id) && (home.dn.is_some() || !home.host.is_empty() && Some(&home.host) != server.host.as_ref())
        });
        !id.is_empty() && !configured && !known.iter().any(|known| taken(&known.id))
    };
    HomeId(names.into_iter().flatten().find(free).unwrap_or(guid))
}

fn valid_id(name: &str) -> String {
    let valid = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    name.trim().chars().take(ID_MAX).map(valid).collect()
}

/// The object that a configured home names: by DN, as it is called now or was before; with discovery, without DN, by id.
fn server_of<'a>(home: &Home, discovers: bool, known: &'a [KnownServer]) -> Option<&'a KnownServer> {
    match &home.dn {
        Some(dn) => {
            let dn = normalized_dn(dn);
            let now = known.iter().find(|server| normalized_dn(&server.dn) == dn);
            now.or_else(|| known.iter().find(|server| server.former_dns.iter().any(|dn_| normalized_dn(dn_) == dn)))
        }
        None if discovers => known.iter().find(|server| server.id.0.eq_ignore_ascii_case(&home.id.0)),
        None => None,
    }
}

/// The homes that count, in the order of their ids. `takes_dn`: the directory names a home by DN.
pub fn homes(
    configured: &[Home],
    discovery: Option<Discovery>,
    known: &[KnownServer],
    takes_dn: bool,
) -> Vec<Effective> {
    let mut homes = Vec::new();
    let mut used = Vec::new();
    for written in configured {
        let mut home = written.clone();
        let server = server_of(written, discovery.is_some(), known);
        if let Some(server) = server {
            used.push(server.guid);
            home.dn = Some(server.dn.clone());
            if home.host.is_empty() {
                home.host = server.host.clone().unwrap_or_default();
            }
        }
        if home.capacity == 0 {
            home.capacity = discovery.map_or(0, |discovery| discovery.capacity);
        }
        // Only the configuration's part of a home that nobody has seen.
        if home.host.is_empty() {
            continue;
        }
        let object = match (takes_dn, &home.dn, server) {
            (false, _, _) => HomeObject::NotNeeded,
            (true, None, _) => HomeObject::NotNamed,
            (true, Some(_), Some(server)) if server.missing => HomeObject::Missing,
            (true, Some(_), None) if !known.is_empty() => HomeObject::Missing,
            (true, Some(_), _) => HomeObject::There,
        };
        let former_dns = server.map(|server| server.former_dns.clone()).unwrap_or_default();
        homes.push(Effective { home, object, former_dns });
    }
    if let Some(discovery) = discovery {
        for server in known.iter().filter(|server| server.hosts_users && !server.missing) {
            let Some(host) = server.host.clone().filter(|_| !used.contains(&server.guid)) else { continue };
            let home = Home {
                id: server.id.clone(),
                host,
                capacity: discovery.capacity,
                tags: Vec::new(),
                dn: Some(server.dn.clone()),
                online_capacity: None,
                load: None,
                probe: None,
            };
            homes.push(Effective { home, object: HomeObject::There, former_dns: server.former_dns.clone() });
        }
    }
    homes.sort_by(|a, b| a.home.id.cmp(&b.home.id));
    homes
}

/// What is odd about the objects, in the order of the homes.
pub fn doubts(configured: &[Home], discovery: Option<Discovery>, known: &[KnownServer]) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let mut add = |text: String, hint: &str| doubts.push(Doubt { text, hint: hint.to_owned() });
    for home in configured {
        let server = server_of(home, discovery.is_some(), known);
        match (&home.dn, server) {
            (Some(dn), Some(server)) if normalized_dn(dn) != normalized_dn(&server.dn) => add(
                format!("the virtual server object of home {} is called {} now", home.id, server.dn),
                "correct dn in its [[home]], then: systemctl reload homeward",
            ),
            (Some(dn), None) if !known.is_empty() => add(
                format!("home {} names {dn}, which is not there or cannot be read: nobody new is sent there", home.id),
                "correct dn in its [[home]], or take the home out, then: systemctl reload homeward",
            ),
            (Some(_), Some(server)) if server.missing => add(
                format!("the virtual server object of home {} is no longer there: nobody new is sent there", home.id),
                "take its [[home]] out, or correct dn in it, then: systemctl reload homeward",
            ),
            (_, Some(server)) if !server.hosts_users => add(
                format!("home {} is no home server: msExchIMServerHostsUsers of {} is not TRUE", home.id, server.dn),
                "name a server that hosts users in its [[home]], then: systemctl reload homeward",
            ),
            (None, None) if discovery.is_some() && home.host.is_empty() => add(
                format!("no home server called {} is found in the directory", home.id),
                "correct id in its [[home]], or give it dn, then: systemctl reload homeward",
            ),
            _ => {}
        }
    }
    if discovery.is_some() {
        for server in known.iter().filter(|server| server.hosts_users && !server.missing) {
            match &server.host {
                None => add(
                    format!("the home server {} has no host name: nobody is sent there", server.dn),
                    "give it msExchIMHostName, its fully qualified name; it is read again by itself: homeward check",
                ),
                Some(host) if !host.contains('.') => add(
                    format!(
                        "the host name \"{host}\" of {} is not fully qualified: clients would answer \
                         \"Authentication Failure\" (KB 319758)",
                        server.dn
                    ),
                    "give it msExchIMHostName, its fully qualified name; it is read again by itself: homeward check",
                ),
                Some(_) => {}
            }
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Discovery = Discovery { capacity: 7500 };

    fn server(n: u8, cn: &str) -> VirtualServer {
        VirtualServer {
            guid: UserKey([n; 16]),
            dn: format!("CN={cn},CN=IM,CN=Services,DC=x"),
            cn: cn.into(),
            host: Some(format!("{}.example.com", cn.to_lowercase())),
            hosts_users: true,
        }
    }

    fn home(id: &str, host: &str, capacity: u32, dn: Option<&str>) -> Home {
        Home {
            id: HomeId(id.into()),
            host: host.into(),
            capacity,
            tags: vec!["paris".into()],
            dn: dn.map(str::to_owned),
            online_capacity: None,
            load: None,
            probe: None,
        }
    }

    fn ids(homes: &[Effective]) -> Vec<&str> {
        homes.iter().map(|effective| effective.home.id.0.as_str()).collect()
    }

    fn found(known: &[KnownServer]) -> Vec<Effective> {
        homes(&[], Some(CAPACITY), known, true)
    }

    #[test]
    fn the_same_answer_changes_nothing() {
        let seen = [server(1, "im1"), server(2, "im2")];
        let known = merge(&[], &seen, &[]);
        assert_eq!(merge(&known, &seen, &[]), known);
        assert_eq!(ids(&found(&known)), ["im1", "im2"]);
        assert_eq!(found(&known)[0].home.capacity, 7500);
        assert_eq!(doubts(&[], Some(CAPACITY), &known), []);
    }

    #[test]
    fn an_empty_answer_removes_nobody() {
        let known = merge(&[], &[server(1, "im1")], &[]);
        assert_eq!(merge(&known, &[], &[]), known);
    }

    #[test]
    fn a_server_that_disappears_is_remembered_and_is_no_home() {
        let known = merge(&[], &[server(1, "im1"), server(2, "im2")], &[]);
        let known = merge(&known, &[server(2, "im2")], &[]);
        assert!(known[0].missing && !known[1].missing);
        assert_eq!(ids(&found(&known)), ["im2"]);
        // It comes back, or another one takes its name: the same home.
        assert_eq!(ids(&found(&merge(&known, &[server(1, "im1"), server(2, "im2")], &[]))), ["im1", "im2"]);
        let anew = merge(&known, &[server(9, "im1"), server(2, "im2")], &[]);
        assert_eq!((anew.len(), anew[0].guid, &anew[0].id.0[..]), (2, UserKey([9; 16]), "im1"));
    }

    #[test]
    fn a_renamed_server_is_the_same_home_under_the_same_id() {
        let known = merge(&[], &[server(1, "im1")], &[]);
        let renamed = VirtualServer { dn: "CN=other,CN=IM,CN=Services,DC=x".into(), ..server(1, "other") };
        let known = merge(&known, &[renamed], &[]);
        let homes = found(&known);
        assert_eq!(ids(&homes), ["im1"]);
        assert_eq!(homes[0].home.dn.as_deref(), Some("CN=other,CN=IM,CN=Services,DC=x"));
        assert_eq!(homes[0].former_dns, ["CN=im1,CN=IM,CN=Services,DC=x"]);
        // And back again.
        let known = merge(&known, &[server(1, "im1")], &[]);
        assert_eq!(known[0].former_dns, ["CN=other,CN=IM,CN=Services,DC=x"]);
    }

    #[test]
    fn a_configured_dn_follows_a_renamed_object_and_says_so() {
        let configured = [home("h", "h.example.com", 10, Some("cn=IM1, cn=im,cn=services,dc=X"))];
        let known = merge(&[], &[server(1, "im1")], &configured);
        assert_eq!(known[0].id.0, "h");
        assert_eq!(doubts(&configured, None, &known), []);
        let known = merge(&known, &[server(1, "new")], &configured);
        let homes = homes(&configured, None, &known, true);
        assert_eq!(homes[0].home.dn.as_deref(), Some("CN=new,CN=IM,CN=Services,DC=x"));
        assert_eq!(homes[0].object, HomeObject::There);
        assert!(doubts(&configured, None, &known)[0].text.contains("is called CN=new"));
    }

    #[test]
    fn a_configured_home_overrides_what_is_found_and_is_found_once() {
        let by_dn = home("paris", "", 100, Some("CN=im1,CN=IM,CN=Services,DC=x"));
        let by_id = home("IM2", "", 0, None);
        let configured = [by_dn, by_id];
        let known = merge(&[], &[server(1, "im1"), server(2, "im2")], &configured);
        let homes = homes(&configured, Some(CAPACITY), &known, true);
        assert_eq!(ids(&homes), ["IM2", "paris"]);
        assert_eq!((homes[0].home.capacity, homes[0].home.host.as_str()), (7500, "im2.example.com"));
        assert_eq!((homes[1].home.capacity, homes[1].home.host.as_str()), (100, "im1.example.com"));
        assert!(homes.iter().all(|it| it.home.tags == ["paris"] && it.object == HomeObject::There));
    }

    #[test]
    fn a_router_is_no_home_and_a_server_without_a_host_neither() {
        let router = VirtualServer { hosts_users: false, ..server(1, "im") };
        let bare = VirtualServer { host: None, ..server(2, "im2") };
        let netbios = VirtualServer { host: Some("im3".into()), ..server(3, "im3") };
        let known = merge(&[], &[router, bare, netbios], &[]);
        assert_eq!(ids(&found(&known)), ["im3"]);
        let doubts: Vec<String> = doubts(&[], Some(CAPACITY), &known).into_iter().map(|doubt| doubt.text).collect();
        assert_eq!(doubts.len(), 2);
        assert!(doubts[0].contains("has no host name") && doubts[1].contains("KB 319758"), "{doubts:?}");
    }

    #[test]
    fn ids_are_made_valid_and_never_given_twice() {
        let seen = [
            VirtualServer { cn: "Paris (1)".into(), ..server(1, "a") },
            VirtualServer { cn: "1".into(), ..server(2, "b") },
            VirtualServer { cn: "1".into(), ..server(3, "c") },
            VirtualServer { cn: "1".into(), host: None, ..server(4, "d") },
        ];
        let known = merge(&[], &seen, &[]);
        let ids: Vec<&str> = known.iter().map(|server| server.id.0.as_str()).collect();
        assert_eq!(ids, ["Paris--1-", "1", "c.example.com", "1-04040404"]);
        // A home of that id which is another one keeps it.
        let other = [home("im1", "elsewhere.example.com", 10, None)];
        assert_eq!(merge(&[], &[server(1, "im1")], &other)[0].id.0, "im1.example.com");
    }

    #[test]
    fn a_home_without_its_object_takes_nobody_where_the_directory_wants_a_dn() {
        let configured = [home("a", "a.example.com", 10, None), home("b", "b.example.com", 10, Some("CN=b,DC=x"))];
        let objects = |known: &[KnownServer], takes_dn| -> Vec<HomeObject> {
            homes(&configured, None, known, takes_dn).into_iter().map(|effective| effective.object).collect()
        };
        assert_eq!(objects(&[], false), [HomeObject::NotNeeded, HomeObject::NotNeeded]);
        assert_eq!(objects(&[], true), [HomeObject::NotNamed, HomeObject::There], "what nobody read is not missing");
        let known = merge(&[], &[server(1, "im1")], &configured);
        assert_eq!(objects(&known, true), [HomeObject::NotNamed, HomeObject::Missing]);
    }
}

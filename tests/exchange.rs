//! The four attributes of Exchange 2000 Instant Messaging on a real domain controller (Samba): homes by DN, home servers
//! found in the configuration partition, what a renamed or deleted one does to its users, and what is never written.
//!
//! The worker's own core decides, the agent's account reads and writes; how changes are heard is another test's.

// decide/ has no clock; a test has.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::config::{Config, Flavour, Surroundings};
use homeward::decide::filter::Filter;
use homeward::directory::connect::connect;
use homeward::directory::flavour::{FlavourProfile, profile, root_dse};
use homeward::directory::key::KeyAttribute;
use homeward::directory::lookup::search;
use homeward::directory::write_back::{Target, apply};
use homeward::model::*;
use homeward::probe::servers;
use homeward::store::enablement as db;
use homeward::worker::{Core, Input, Said, Settings, Sighting, Step, UserChange};
use ldap3::{Ldap, Scope};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::agent::Agent;
use support::samba::{
    ADMIN, ADMIN_PASSWORD, AGENT_DN, AGENT_PASSWORD, CONFIGURATION, PLAIN_DN, PLAIN_PASSWORD, SERVERS, SUFFIX, Samba,
    shared,
};

const TIMEOUT: Duration = Duration::from_secs(30);
const EPOCH: u64 = 1;
const INSUFFICIENT_ACCESS: i32 = 50;

/// The worker's core over a real domain, one step at a time.
struct Site<'s> {
    samba: &'s Samba,
    base: String,
    config: Config,
    profile: FlavourProfile,
    runtime: tokio::runtime::Runtime,
    ldap: Ldap,
    target: Target,
    dir: tempfile::TempDir,
    core: Option<Core>,
    /// Grows with every reading, so that each is news.
    seq: u64,
    now: Timestamp,
    writes: usize,
    said: Vec<Said>,
    sweeps: usize,
    asked: BTreeSet<String>,
}

const DISCOVER: &str = "[homes]\ndiscover = \"directory\"\n";

impl Site<'_> {
    /// Everybody below `base`; more TOML: homes, policies.
    fn new<'s>(samba: &'s Samba, base: &str, toml: &str) -> Site<'s> {
        let dir = tempfile::tempdir().unwrap();
        let config = config(samba, base, toml, dir.path());
        let profile = profile(Flavour::ActiveDirectory);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (ldap, target) = runtime.block_on(async {
            let (mut ldap, _) = connect(&config.directory, TIMEOUT).await.unwrap();
            let root = root_dse(&mut ldap).await.unwrap();
            let target = Target::new(base, &config.im.write_back.names(&profile.write_back), &root, &profile);
            (ldap, target)
        });
        let mut site = Site {
            samba,
            base: base.into(),
            config,
            profile,
            runtime,
            ldap,
            target,
            dir,
            core: None,
            seq: 0,
            now: Timestamp::now(),
            writes: 0,
            said: Vec::new(),
            sweeps: 0,
            asked: BTreeSet::new(),
        };
        site.open();
        site
    }

    /// As a start of the agent does: the servers before anybody is looked at, then those who carry a value, then all.
    fn open(&mut self) {
        let settings = Settings::of(&self.config, &self.profile);
        let needs_servers = settings.needs_servers();
        let first = !self.dir.path().join("enablement.db").exists();
        self.core = Some(Core::open(self.dir.path(), settings, self.now).unwrap());
        if needs_servers {
            self.look_at_servers();
        }
        if first {
            self.read();
            let now = self.now;
            self.core().finish_adoption(now).unwrap();
        }
    }

    fn core(&mut self) -> &mut Core {
        self.core.as_mut().unwrap()
    }

    /// Another configuration, as a reload takes it.
    fn reload(&mut self, toml: &str) {
        self.config = config(self.samba, &self.base.clone(), toml, self.dir.path());
        let (settings, now) = (Settings::of(&self.config, &self.profile), self.now);
        self.core().reload(settings, now).unwrap();
        self.look_at_servers();
    }

    /// The worker's store is gone.
    fn lose_store(&mut self) {
        self.core = None;
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(self.dir.path().join(format!("enablement.db{suffix}")));
        }
        self.open();
    }

    fn look_at_servers(&mut self) {
        let seen = self.runtime.block_on(servers::ask(&self.config.directory, &self.config.homes, TIMEOUT)).unwrap();
        self.step(Input { sightings: vec![Sighting::Servers(seen)], ..Input::default() });
    }

    /// A full comparison: everybody as the directory has them now.
    fn read(&mut self) {
        let attributes = [
            "objectGUID",
            "objectClass",
            "sAMAccountName",
            "mail",
            "proxyAddresses",
            "userAccountControl",
            "department",
            "msExchIMAddress",
            "msExchIMMetaPhysicalURL",
            "msExchIMPhysicalURL",
            "msExchIMVirtualServer",
        ];
        let found = search(&mut self.ldap, &self.base, Scope::Subtree, self.profile.user_filter, &attributes, 0);
        let found = self.runtime.block_on(found).unwrap();
        self.seq += 1;
        let sequence = Sequence { epoch: EPOCH, seq: self.seq };
        let changes = found.into_iter().map(|found| {
            let mut record = UserRecord { dn: found.dn.clone(), ..UserRecord::default() };
            for (name, values) in &found.attributes {
                record.set(name, values.iter().map(|value| Value::from_bytes(value)).collect());
            }
            UserChange {
                key: KeyAttribute::ObjectGuid.read(&found.values("objectguid")[0]).unwrap(),
                sequence,
                presence: Presence::Present,
                record,
                text: None,
                live: true,
                created: false,
                heard_at: self.now,
            }
        });
        let changes = changes.collect();
        self.step(Input { changes, through: Some(sequence), ..Input::default() });
    }

    fn step(&mut self, input: Input) -> Step {
        let now = self.now;
        let step = self.core().step(input, now).unwrap();
        self.said.extend(step.said.clone());
        self.sweeps += usize::from(step.sweep);
        self.asked.extend(step.ask.clone());
        step
    }

    /// Until nothing is left to do: writes are made, SRV is certainly absent everywhere, and time passes for the guard.
    fn settle(&mut self) {
        let mut input = Input { room: 4, ..Input::default() };
        for _ in 0..500 {
            let step = self.step(std::mem::take(&mut input));
            for write in &step.writes {
                self.writes += 1;
                let result = self.runtime.block_on(apply(&mut self.ldap, &self.target, write, TIMEOUT));
                input.results.push((write.key, result));
            }
            for domain in std::mem::take(&mut self.asked) {
                let answer = SrvAnswer::Absent;
                let (seen_at, expires_at) = (self.now, self.now.plus(Duration::from_secs(86_400)));
                input.answers.push(SrvFact {
                    domain,
                    answer,
                    seen_at,
                    expires_at,
                    contradicted: None,
                    last_error: None,
                });
            }
            input.room = 4;
            self.now = self.now.plus(Duration::from_millis(500));
            let now = self.now;
            if !step.busy && input.results.is_empty() && input.answers.is_empty() && self.core().is_quiet(now).unwrap()
            {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.said);
    }

    /// Reads everybody and does what follows; how many writes that took.
    fn pass(&mut self) -> usize {
        let before = self.writes;
        self.read();
        self.settle();
        self.writes - before
    }

    fn standing(&mut self, login: &str) -> Standing {
        let everybody = db::standings_after(self.core().db(), 0, 10_000).unwrap();
        let is = |standing: &Standing| standing.record.text("samaccountname") == Some(login);
        everybody.into_iter().map(|(_, standing)| standing).find(is).unwrap_or_else(|| panic!("{login} is not known"))
    }

    /// The problem of a user: code and hint.
    fn problem(&mut self, login: &str) -> Option<(String, String)> {
        let key = self.standing(login).key;
        db::problem_of_user(self.core().db(), &key).unwrap().map(|problem| (problem.code, problem.hint))
    }

    fn homes(&mut self) -> Vec<(String, u32, HomeObject, bool)> {
        let fleet = self.core().world().fleet.clone();
        let of = |state: HomeState| (state.home.id.0, state.home.capacity, state.object, state.configured);
        fleet.homes.into_iter().map(of).collect()
    }

    /// The four attributes as the domain holds them, in the order of the issue.
    fn four(&self, dn: &str) -> [Option<String>; 4] {
        ["msExchIMAddress", "msExchIMMetaPhysicalURL", "msExchIMPhysicalURL", "msExchIMVirtualServer"]
            .map(|attribute| self.samba.value(dn, attribute))
    }
}

fn config(samba: &Samba, base: &str, toml: &str, dir: &Path) -> Config {
    let password = dir.join("password");
    std::fs::write(&password, AGENT_PASSWORD).unwrap();
    let text = format!(
        "[agent]\nstate_dir = \"{}\"\nmode = \"enforce\"\n[directory]\nurl = \"{}\"\nbase = \"{base}\"\n\
         bind_dn = \"{AGENT_DN}\"\nbind_password_file = \"{}\"\ntls = {{ ca_file = \"{}\" }}\n\
         [im]\ndomain = \"im.example.com\"\nmail_wait = \"0s\"\n{toml}",
        dir.display(),
        samba.ldaps_url(),
        password.display(),
        samba.ca_file().display()
    );
    let parse_filter = |text: &str| Filter::parse(text).map(drop).map_err(|error| error.to_string());
    Config::parse(&text, &dir.join("homeward.toml"), &Surroundings { credentials: None, parse_filter })
        .unwrap_or_else(|error| panic!("{error}"))
}

fn home_with_dn(id: &str, dn: &str) -> String {
    format!("[[home]]\nid = \"{id}\"\nhost = \"{id}.example.com\"\ncapacity = 100\ndn = \"{dn}\"\n")
}

fn add_server(samba: &Samba, name: &str, lines: &str) -> String {
    let dn = format!("CN={name},{SERVERS}");
    samba.modify(&format!(
        "dn: {dn}\nchangetype: add\nobjectClass: msExchProtocolCfgIMVirtualServer\nmsExchIMServerIISId: 1\n\
         msExchIMServerHostsUsers: TRUE\n{lines}"
    ));
    dn
}

fn octets(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

// ---- the four attributes

#[test]
fn users_get_the_four_attributes_once_and_a_lost_store_adopts_them_without_writing() {
    let samba = shared();
    let ou = samba.ou("im-four");
    let users: Vec<String> = (0..9).map(|n| samba.user(&format!("four-{n}"), &ou, "")).collect();
    let mut site = Site::new(samba, &ou, DISCOVER);
    assert_eq!(
        site.homes().iter().map(|home| home.0.as_str()).collect::<Vec<_>>(),
        ["im1", "im2", "im3"],
        "the router im hosts nobody"
    );
    assert_eq!(site.pass(), 9);
    let mut used = BTreeMap::<String, usize>::new();
    for (n, dn) in users.iter().enumerate() {
        let [address, url, home_url, home] = site.four(dn).map(Option::unwrap);
        let server = home.strip_prefix("CN=").and_then(|rest| rest.strip_suffix(&format!(",{SERVERS}"))).unwrap();
        assert_eq!(address, format!("four-{n}@im.example.com"));
        assert_eq!(url, format!("http://im.example.com/instmsg/aliases/four-{n}"));
        assert_eq!(
            home_url,
            format!("http://{server}.example.com/instmsg/local/im.example.com/instmsg/aliases/four-{n}")
        );
        *used.entry(server.to_owned()).or_default() += 1;
    }
    assert_eq!(used.values().collect::<Vec<_>>(), [&3, &3, &3], "evenly: {used:?}");
    assert_eq!(site.pass(), 0, "when all is quiet, nothing is written");
    site.lose_store();
    assert_eq!(site.pass(), 0, "everybody is adopted");
    assert_eq!(site.standing("four-4").status, Status::Enabled);
}

#[test]
fn a_configured_dn_does_as_well_and_a_home_without_one_takes_nobody() {
    let samba = shared();
    let ou = samba.ou("im-configured");
    let dn = samba.user("configured", &ou, "");
    let without = "[[home]]\nid = \"bare\"\nhost = \"bare.example.com\"\ncapacity = 1000\n";
    let mut site = Site::new(samba, &ou, &format!("{without}{}", home_with_dn("paris", &format!("cn=IM2,{SERVERS}"))));
    site.pass();
    assert_eq!(site.four(&dn)[3], Some(format!("CN=im2,{SERVERS}")));
    assert_eq!(site.four(&dn)[2].as_deref().and_then(|url| url.get(..24)), Some("http://paris.example.com"));
    assert_eq!(site.homes()[0], ("bare".into(), 1000, HomeObject::NotNamed, true));
    assert_eq!(site.pass(), 0);
}

#[test]
fn foreign_values_are_never_overwritten() {
    let samba = shared();
    let ou = samba.ou("im-foreign");
    let router = format!("msExchIMVirtualServer: CN=im,{SERVERS}\n");
    let strangers = [
        ("stranger-home", router.as_str()),
        ("stranger-address", "msExchIMAddress: sip:somebody@elsewhere.example.net\n"),
        ("stranger-url", "msExchIMMetaPhysicalURL: http://elsewhere.example.net/im\n"),
        ("stranger-home-url", "msExchIMPhysicalURL: http://elsewhere.example.net/im\n"),
    ];
    let dns = strangers.map(|(name, lines)| samba.user(name, &ou, lines));
    let mut site = Site::new(samba, &ou, DISCOVER);
    let before = dns.clone().map(|dn| site.four(&dn));
    assert_eq!(site.pass(), 0);
    site.pass();
    assert_eq!(dns.map(|dn| site.four(&dn)), before);
    for (name, _) in strangers {
        assert_eq!(site.problem(name).map(|problem| problem.0).as_deref(), Some("foreign-value"), "{name}");
    }
    // Disabled, too: what is not ours stays.
    samba.replace(&format!("CN=stranger-address,{ou}"), "userAccountControl", "546");
    assert_eq!(site.pass(), 0);
}

#[test]
fn a_value_that_changed_meanwhile_is_not_overwritten() {
    let samba = shared();
    let ou = samba.ou("im-meanwhile");
    let dn = samba.user("meanwhile", &ou, "");
    let mut site = Site::new(samba, &ou, DISCOVER);
    site.read();
    // After it was read and before it is written.
    samba.replace(&dn, "msExchIMAddress", "sip:somebody@elsewhere.example.net");
    site.settle();
    assert_eq!(site.four(&dn), [Some("sip:somebody@elsewhere.example.net".into()), None, None, None]);
    assert_eq!(site.problem("meanwhile").map(|problem| problem.0).as_deref(), Some("foreign-value"));
}

// ---- addresses

#[test]
fn an_address_that_windows_refuses_is_a_problem_here_too_though_samba_would_take_it() {
    let samba = shared();
    let ou = samba.ou("im-printable");
    samba.user("odd_one", &ou, "");
    let sound = samba.user("sound.one", &ou, "");
    let mut site = Site::new(samba, &ou, DISCOVER);
    site.pass();
    let (code, hint) = site.problem("odd_one").unwrap();
    assert_eq!(code, "address-character");
    assert!(hint.contains("homeward problem show"), "{hint}");
    assert_eq!(site.four(&sound)[0].as_deref(), Some("sound.one@im.example.com"), "nobody else is stopped");
    // Samba itself takes anything: only we keep to the documented syntax.
    samba.replace(&format!("CN=odd_one,{ou}"), "msExchIMAddress", "odd_one@im.example.com");
}

#[test]
fn addresses_are_written_in_lower_case_and_one_in_capitals_is_taken_all_the_same() {
    let samba = shared();
    let ou = samba.ou("im-case");
    let url = "http://im.example.com/instmsg/aliases/Capital";
    let home_url = "http://im1.example.com/instmsg/local/im.example.com/instmsg/aliases/Capital";
    let four = format!(
        "msExchIMAddress: Capital@im.example.com\nmsExchIMMetaPhysicalURL: {url}\nmsExchIMPhysicalURL: {home_url}\n\
         msExchIMVirtualServer: CN=im1,{SERVERS}\n"
    );
    let holder = samba.user("case-holder", &ou, &four);
    let mut site = Site::new(samba, &ou, DISCOVER);
    assert_eq!(site.pass(), 0, "adopted, and left as it stands");
    assert_eq!(site.four(&holder)[0].as_deref(), Some("Capital@im.example.com"));
    assert_eq!(site.standing("case-holder").reserved.unwrap().address, "capital@im.example.com");
    // The directory would take the same in lower case: it compares with case. We do not.
    let second = samba.user("capital", &ou, "");
    assert_eq!(site.pass(), 0);
    assert_eq!(site.four(&second), [None, None, None, None]);
    assert_eq!(site.problem("capital").map(|problem| problem.0).as_deref(), Some("address-taken"));
    let upper = samba.user("UPPER", &ou, "");
    site.pass();
    assert_eq!(site.four(&upper)[0].as_deref(), Some("upper@im.example.com"));
    // A write that meets another case than the one read is told of it, not refused for good.
    site.read();
    samba.replace(&holder, "msExchIMAddress", "CAPITAL@im.example.com");
    samba.replace(&holder, "userAccountControl", "546");
    site.pass();
    assert_eq!(site.four(&holder), [None, None, None, None], "released");
}

// ---- home servers come and go

#[test]
fn a_new_server_gets_newcomers_and_a_configured_home_says_more_about_it() {
    let samba = Samba::builder().start();
    let ou = samba.ou("im-new");
    (0..6).for_each(|n| drop(samba.user(&format!("new-{n}"), &ou, "")));
    let mut site = Site::new(&samba, &ou, &format!("{DISCOVER}capacity = 2\n"));
    assert_eq!(site.pass(), 6);
    let late = samba.user("new-late", &ou, "");
    site.pass();
    assert_eq!(site.standing("new-late").waiting_on.as_deref(), Some("room"));
    // By octets of UTF-16, as Windows would hold them; the server's own name is a NetBIOS one.
    let host: Vec<u8> = "IM4.example.com".encode_utf16().flat_map(u16::to_le_bytes).collect();
    use base64::Engine as _;
    let host = base64::engine::general_purpose::STANDARD.encode(host);
    add_server(&samba, "im4", &format!("msExchIMHostName:: {host}\nmsExchIMServerName: IM4\n"));
    site.look_at_servers();
    site.settle();
    assert_eq!(site.four(&late)[3], Some(format!("CN=im4,{SERVERS}")));
    assert!(site.four(&late)[2].as_deref().unwrap().starts_with("http://im4.example.com/"));
    assert!(site.said.iter().any(|said| matches!(said, Said::HomeAppeared { home, .. } if home.0 == "im4")));
    // A NetBIOS name, and none at all.
    add_server(&samba, "im5", "msExchIMServerName: IM5\n");
    add_server(&samba, "im6", "");
    site.look_at_servers();
    let odd: Vec<&String> = site
        .said
        .iter()
        .filter_map(|said| if let Said::HomeDoubted { text, .. } = said { Some(text) } else { None })
        .collect();
    assert!(
        odd.iter().any(|text| text.contains("KB 319758")) && odd.iter().any(|text| text.contains("im6")),
        "{odd:?}"
    );
    assert_eq!(site.homes().len(), 5, "im6 cannot be reached");
    // What the configuration says of one that was found.
    let more = "[[home]]\nid = \"im4\"\ncapacity = 50\ntags = [\"paris\"]\n";
    site.reload(&format!("{DISCOVER}capacity = 2\n{more}"));
    let im4 = site.core().world().fleet.get(&HomeId("im4".into())).unwrap().clone();
    assert_eq!(
        (im4.home.capacity, im4.home.tags, im4.home.host.as_str()),
        (50, vec!["paris".into()], "im4.example.com")
    );
    assert_eq!(site.pass(), 0);
}

#[test]
fn users_of_a_deleted_server_are_moved_under_the_guard_and_a_vanished_one_moves_nobody() {
    let samba = Samba::builder().start();
    let ou = samba.ou("im-dead");
    let users: Vec<String> = (0..15).map(|n| samba.user(&format!("dead-{n}"), &ou, "")).collect();
    let mut site = Site::new(&samba, &ou, DISCOVER);
    site.pass();
    let lives_at = |site: &Site<'_>, server: &str| -> Vec<String> {
        let dn = format!("CN={server},{SERVERS}");
        users.iter().filter(|user| site.four(user)[3].as_deref() == Some(&dn)).cloned().collect()
    };
    let theirs = lives_at(&site, "im2");
    assert_eq!(theirs.len(), 5);
    let addresses: Vec<_> = theirs.iter().map(|user| site.four(user)[0].clone()).collect();

    // Nothing at all found is no answer.
    site.step(Input { sightings: vec![Sighting::Servers(vec![])], ..Input::default() });
    site.settle();
    assert_eq!(site.homes().iter().filter(|home| home.3 && home.2 == HomeObject::There).count(), 3);

    // No longer found, but nothing proves that it was deleted: no newcomers, nobody moves, everything is to be compared.
    samba.replace(&format!("CN=im2,{SERVERS}"), "msExchIMServerHostsUsers", "FALSE");
    let writes = site.writes;
    site.look_at_servers();
    site.settle();
    assert!(!site.homes().iter().any(|home| home.0 == "im2" && home.3));
    assert_eq!(site.sweeps, 1);
    site.pass();
    assert_eq!(site.writes, writes);
    let login = theirs[0].split([',', '=']).nth(1).unwrap().to_owned();
    assert_eq!(site.problem(&login).map(|problem| problem.0).as_deref(), Some("home-gone"));
    samba.replace(&format!("CN=im2,{SERVERS}"), "msExchIMServerHostsUsers", "TRUE");
    site.look_at_servers();
    site.settle();
    assert_eq!(site.problem(&login), None, "it is back");

    // Deleted: the domain rewrites the users' values by itself, and tells nobody.
    samba.delete(&format!("CN=im2,{SERVERS}"));
    assert!(theirs.iter().all(|user| deleted_name(&site.four(user)[3].clone().unwrap()).is_some()));
    site.look_at_servers();
    site.settle();
    assert_eq!(site.sweeps, 2);
    assert!(site.said.iter().any(|said| matches!(said, Said::HomeDisappeared { home, users: 5 } if home.0 == "im2")));
    assert_eq!(site.pass(), 0, "five are more than the guard lets pass");
    let held = site.said.iter().rev().find_map(|said| match said {
        Said::GuardHeld { moves, hash, .. } => Some((*moves, hash.clone())),
        _ => None,
    });
    let (moves, hash) = held.expect("the guard holds them");
    assert_eq!(moves, 5);
    db::put_wish(site.core.as_ref().unwrap().db(), site.now, "test", &db::Verb::Approve { hash }).unwrap();
    site.settle();
    for (user, address) in theirs.iter().zip(addresses) {
        let [now, _, url, home] = site.four(user);
        assert_eq!(now, address, "the address stays");
        let server = ["im1", "im3"].into_iter().find(|server| home == Some(format!("CN={server},{SERVERS}")));
        assert!(url.unwrap().starts_with(&format!("http://{}.example.com/", server.expect("a home that lives"))));
    }
    site.look_at_servers();
    assert_eq!(site.homes().iter().map(|home| home.0.clone()).collect::<Vec<_>>(), ["im1", "im3"], "im2 is forgotten");
    assert_eq!(site.pass(), 0);
    site.lose_store();
    assert_eq!(site.pass(), 0);
}

#[test]
fn a_lost_store_still_moves_the_users_of_a_deleted_server() {
    let samba = Samba::builder().start();
    let ou = samba.ou("im-lost");
    let users: Vec<String> = (0..6).map(|n| samba.user(&format!("lost-{n}"), &ou, "")).collect();
    let mut site = Site::new(&samba, &ou, DISCOVER);
    site.pass();
    samba.delete(&format!("CN=im1,{SERVERS}"));
    let orphans = users.iter().filter(|user| deleted_name(&site.four(user)[3].clone().unwrap()).is_some()).count();
    assert_eq!(orphans, 2, "few enough for the guard");
    site.lose_store();
    assert_eq!(site.pass(), 2);
    for user in &users {
        let home = site.four(user)[3].clone();
        assert!(["im2", "im3"].iter().any(|server| home == Some(format!("CN={server},{SERVERS}"))), "{home:?}");
    }
    assert_eq!(site.pass(), 0);
}

/// Objects of the configuration partition can be renamed only where their systemFlags say so (MS-ADTS 3.1.1.5.4.1.2).
const ALLOW_RENAME: &str = "systemFlags: 1073741824\n";

#[test]
fn a_renamed_server_is_followed_by_its_objectguid_and_a_configured_dn_is_to_be_corrected() {
    let samba = Samba::builder().start();
    let ou = samba.ou("im-renamed");
    let before = add_server(&samba, "before", &format!("msExchIMHostName: paris.example.com\n{ALLOW_RENAME}"));
    let user = samba.user("renamed", &ou, "");
    let mut site = Site::new(&samba, &ou, &home_with_dn("paris", &before));
    site.pass();
    assert_eq!(site.four(&user)[3].as_deref(), Some(before.as_str()));
    samba.rename(&before, "CN=after", None);
    let after = format!("CN=after,{SERVERS}");
    assert_eq!(site.four(&user)[3].as_deref(), Some(after.as_str()), "the domain rewrites it");
    site.look_at_servers();
    site.settle();
    assert_eq!(site.pass(), 0, "nothing is written");
    assert_eq!((site.problem("renamed"), site.standing("renamed").status), (None, Status::Enabled));
    let said = site.said.iter().any(|said| {
        matches!(said, Said::HomeDoubted { text, hint } if text.contains("is called CN=after") && hint.contains("correct dn"))
    });
    assert!(said, "{:?}", site.said);
    let late = samba.user("renamed-late", &ou, "");
    site.pass();
    assert_eq!(site.four(&late)[3].as_deref(), Some(after.as_str()));
    // Corrected: nothing changes.
    site.reload(&home_with_dn("paris", &after));
    site.settle();
    assert_eq!(site.pass(), 0);
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_empty_list() {
    let samba = shared();
    let site = Site::new(samba, &samba.ou("im-unreadable"), DISCOVER);
    let mut ldap = site.ldap.clone();
    let root = site.runtime.block_on(root_dse(&mut ldap)).unwrap();
    assert_eq!(root.configuration.as_deref(), Some(CONFIGURATION));
    let mut elsewhere = root.clone();
    elsewhere.configuration = Some(SUFFIX.into());
    let error = site.runtime.block_on(servers::read(&mut ldap, "ldap://dc", &elsewhere, &[])).unwrap_err();
    assert!(error.hint().to_string().contains("homeward check"), "{error}");
    elsewhere.configuration = None;
    let error = site.runtime.block_on(servers::read(&mut ldap, "ldap://dc", &elsewhere, &[])).unwrap_err();
    assert!(error.to_string().contains("no configuration partition"), "{error}");
}

#[test]
fn fact_a_value_that_names_a_deleted_object_is_taken_away_by_guid_and_by_no_other_name() {
    let samba = Samba::builder().start();
    let ou = samba.ou("im-fact");
    let server = add_server(&samba, "fact-dead", "");
    let user = samba.user("fact-orphan", &ou, &format!("msExchIMVirtualServer: {server}\n"));
    samba.delete(&server);
    let value = samba.value(&user, "msExchIMVirtualServer").unwrap();
    let reference = deleted_reference(&value).expect("it says that it was deleted, and its GUID");
    let swap = |old: &str| {
        let ldif = format!(
            "dn: {user}\nchangetype: modify\ndelete: msExchIMVirtualServer\nmsExchIMVirtualServer: {old}\n-\n\
             add: msExchIMVirtualServer\nmsExchIMVirtualServer: CN=im1,{SERVERS}\n"
        );
        samba.attempt_as(AGENT_DN, AGENT_PASSWORD, &ldif)
    };
    assert_eq!(swap(&value), 16, "noSuchAttribute");
    let other = samba.value(&format!("CN=im2,{SERVERS}"), "objectGUID").unwrap();
    let other: String = octets(&other).iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(swap(&format!("<GUID={other}>")), 16, "it is a comparison still");
    assert_eq!(swap(&reference), 0);
}

// ---- docs/active-directory.md

/// The blocks of the guide in this language.
fn guide(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/active-directory.md");
    let text = std::fs::read_to_string(path).unwrap();
    let opening = format!("```{language}\n");
    text.split(&opening).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// Does what the guide says for Samba, in a folder of its own.
fn follow_the_guide(samba: &Samba, folder: &Path) {
    let (conf, sam) = (samba.path("etc/smb.conf"), samba.path("private/sam.ldb"));
    let repository = format!("{}/schemas", env!("CARGO_MANIFEST_DIR"));
    for block in guide("sh").iter().filter(|block| !block.contains("homeward check")) {
        let script = block
            .replace("/etc/samba/smb.conf", &conf.display().to_string())
            .replace("/var/lib/samba/private/sam.ldb", &sam.display().to_string())
            .replace("python3 schemas", &format!("/usr/bin/python3 {repository}"))
            .lines()
            .map(|line| match line.starts_with("samba-tool") {
                true => format!("{line} -s {} -H {}\n", conf.display(), sam.display()),
                false => format!("{line}\n"),
            })
            .collect::<String>();
        let output = Command::new("sh").args(["-euc", &script]).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_account_set_up_by_the_guide_writes_the_four_attributes_and_nothing_else() {
    let samba = Samba::builder().start();
    let people = samba.ou("People");
    let elsewhere = samba.user("guide-elsewhere", &samba.ou("Elsewhere"), "");
    let user = samba.user("guide", &people, "");
    let person = format!("CN=guide-person,{people}");
    samba.modify(&format!(
        "dn: {person}\nchangetype: add\nobjectClass: inetOrgPerson\nsAMAccountName: guide-person\n\
         userAccountControl: 544\n"
    ));
    let group = format!("CN=guide-group,{people}");
    samba.modify(&format!("dn: {group}\nchangetype: add\nobjectClass: group\nsAMAccountName: guide-group\n"));
    let dead = samba.user("guide-dead", &people, "");
    let folder = tempfile::tempdir().unwrap();
    follow_the_guide(&samba, folder.path());
    samba.delete(&dead);
    let password = std::fs::read_to_string(folder.path().join("ldap-password")).unwrap();
    let who = "homeward@example.com";
    let modify =
        |dn: &str, change: &str| samba.attempt_as(who, &password, &format!("dn: {dn}\nchangetype: modify\n{change}\n"));
    let replace =
        |dn: &str, attribute: &str, value: &str| modify(dn, &format!("replace: {attribute}\n{attribute}: {value}"));

    // What it writes …
    let four = [
        ("msExchIMAddress", "x@im.example.com".to_owned()),
        ("msExchIMMetaPhysicalURL", "http://im.example.com/instmsg/aliases/x".into()),
        ("msExchIMPhysicalURL", "http://im1.example.com/instmsg/local/im.example.com/instmsg/aliases/x".into()),
        ("msExchIMVirtualServer", format!("CN=im1,{SERVERS}")),
    ];
    for (attribute, value) in &four {
        assert_eq!((replace(&user, attribute, value), replace(&person, attribute, value)), (0, 0), "{attribute}");
        assert_eq!(replace(&elsewhere, attribute, value), INSUFFICIENT_ACCESS, "outside the container: {attribute}");
        assert_eq!(replace(&group, attribute, value), INSUFFICIENT_ACCESS, "groups: {attribute}");
    }
    // … and what not. The first ones belong to the same property set.
    for (attribute, value) in [
        ("servicePrincipalName", "HOST/elsewhere.example.com"),
        ("mail", "other@example.com"),
        ("userPrincipalName", "administrator@example.com"),
        ("altSecurityIdentities", "X509:<I>CN=x<S>CN=y"),
        ("proxyAddresses", "SMTP:other@example.com"),
        ("msExchIMACL", "x"),
        ("pwdLastSet", "0"),
        ("userAccountControl", "512"),
        ("displayName", "Other"),
        ("description", "Other"),
    ] {
        assert_eq!(replace(&user, attribute, value), INSUFFICIENT_ACCESS, "{attribute}");
    }
    let unicode = support::samba::unicode_pwd("Other-Pass1!");
    assert_eq!(modify(&user, &format!("replace: unicodePwd\nunicodePwd:: {unicode}")), INSUFFICIENT_ACCESS);
    assert_eq!(modify(&group, &format!("add: member\nmember: {user}")), INSUFFICIENT_ACCESS);
    assert_eq!(replace(&format!("CN=im1,{SERVERS}"), "msExchIMServerName", "other"), INSUFFICIENT_ACCESS);
    assert_eq!(replace(&people, "description", "other"), INSUFFICIENT_ACCESS);
    let add = format!("dn: CN=guide-new,{people}\nchangetype: add\nobjectClass: user\nsAMAccountName: guide-new\n");
    assert_eq!(samba.attempt_as(who, &password, &add), INSUFFICIENT_ACCESS);
    assert_eq!(samba.attempt_as(who, &password, &format!("dn: {user}\nchangetype: delete\n")), INSUFFICIENT_ACCESS);

    // What it reads: users with what tells of their accounts, the home servers, and the dead.
    let read = |base: &str, control: &[&str], rest: &[&str]| {
        let args = [&["-LLL", "-o", "ldif-wrap=no", "-b", base][..], control, rest].concat();
        String::from_utf8_lossy(&samba.run_as(who, &password, "ldapsearch", &args, "").stdout).into_owned()
    };
    let names = ["(sAMAccountName=guide)", "userAccountControl", "pwdLastSet", "accountExpires", "mail", "objectGUID"];
    let seen = read(&people, &[], &names);
    for name in &names[1..] {
        assert!(seen.contains(&format!("\n{name}:")), "{name}: {seen}");
    }
    let secret = read(&people, &[], &["(sAMAccountName=guide)", "unicodePwd", "supplementalCredentials", "dBCSPwd"]);
    assert!(!secret.contains("Pwd:") && !secret.contains("supplementalCredentials:"), "{secret}");
    let servers = read(CONFIGURATION, &[], &["(objectClass=msExchProtocolCfgIMVirtualServer)", "cn"]);
    assert_eq!(servers.matches("\ncn: im").count(), 4, "{servers}");
    let deleted = read(SUFFIX, &["-E", "!showDeleted"], &["(&(isDeleted=TRUE)(sAMAccountName=guide-dead))", "cn"]);
    assert!(deleted.contains("guide-dead"), "{deleted}");
    // A second time it changes nothing: the guide may be followed again.
    let before = samba.value(&people, "uSNChanged");
    let again = guide("sh").into_iter().filter(|block| block.contains("grant.py")).count();
    assert_eq!(again, 1);
    samba.grant("homeward", &[&people]);
    assert_eq!(samba.value(&people, "uSNChanged"), before);
}

#[test]
fn the_guide_names_the_same_attributes_and_guids_for_windows_as_for_samba() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/ldap/active-directory/grant.py");
    let script = std::fs::read_to_string(path).unwrap();
    let windows = guide("powershell").concat();
    let ours = guids_in(&script);
    assert!(ours.len() >= 7, "{ours:?}");
    let theirs = guids_in(&windows);
    assert!(theirs.iter().all(|one| ours.contains(one)), "the guide grants something else: {theirs:?}");
    for name in ["msExchIMAddress", "msExchIMMetaPhysicalURL", "msExchIMPhysicalURL", "msExchIMVirtualServer"] {
        let of = |text: &str| {
            let (_, rest) = text.split_once(&format!("{name}\": \"")).or_else(|| {
                let at = text.find(&format!("    {name} "))?;
                text.get(at..)?.split_once('"')
            })?;
            rest.get(..36).map(str::to_owned)
        };
        assert!(of(&script).is_some() && of(&script) == of(&windows), "{name}: {:?} {:?}", of(&script), of(&windows));
    }
    // Public-Information, and the right to read password hashes, are in neither.
    for forbidden in ["e48d0154-bcf8-11d1-8702-00c04fb96050", "1131f6ad-9c07-11d1-f79f-00c04fc2dcd2"] {
        assert!(!script.contains(forbidden) && !windows.contains(forbidden));
    }
}

/// Everything in a text that looks like a GUID.
fn guids_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_hexdigit() || c == '-'));
    words.filter(|word| word.len() == 36 && word.matches('-').count() == 4).map(str::to_owned).collect()
}

// ---- the whole agent

fn agent(samba: &Samba, base: &str) -> Agent {
    Agent::of_samba(samba, base).homes(&[]).extra(DISCOVER)
}

#[test]
fn check_tells_the_domain_the_rights_and_the_home_servers() {
    let samba = Samba::builder().start();
    let ou = samba.ou("im-check");
    (0..3).for_each(|n| drop(samba.user(&format!("check-{n}"), &ou, "")));
    let agent = agent(&samba, &ou);
    let line = |text: &str, what: &str, has: &str| {
        let found =
            text.lines().any(|line| line.get(6..).is_some_and(|rest| rest.starts_with(what)) && line.contains(has));
        assert!(found, "{what}: {has}\n{text}");
    };
    let checked = agent.say(&["check"]);
    line(&checked, "flavour", "active-directory (Samba 4.");
    line(&checked, "flavour", "domain level 2008 R2, forest level 2008 R2");
    line(&checked, "source", "deletes are heard at once");
    line(
        &checked,
        "rights",
        "may write msExchIMAddress, msExchIMMetaPhysicalURL, msExchIMPhysicalURL, msExchIMVirtualServer",
    );
    line(&checked, "schema", "has the attributes");
    line(&checked, "servers", "4 virtual servers; host users: im1, im2, im3");
    line(&checked, "home", "im2: im2.example.com, capacity 7500");
    line(&checked, "clock", "differs by 0 s");
    assert!(!checked.contains("FAIL") && !checked.contains("orphans"), "{checked}");

    // Rights that are missing, and rights that are too many.
    let said = |agent: &Agent| String::from_utf8_lossy(&agent.cli(&["check"]).stdout).into_owned();
    let plain = self::agent(&samba, &ou).account(PLAIN_DN, PLAIN_PASSWORD);
    let checked = said(&plain);
    line(&checked, "rights", "may not write msExchIMAddress");
    line(&checked, "source", "by sweep only");
    assert_eq!(plain.cli(&["check"]).status.code(), Some(1));
    let admin = self::agent(&samba, &ou).account(ADMIN, ADMIN_PASSWORD);
    line(&said(&admin), "rights", "may also write");

    // Homes that are not as they should be.
    let configured = Agent::of_samba(&samba, &ou).homes(&[]).extra(format!(
        "{}[[home]]\nid = \"bare\"\nhost = \"bare.example.com\"\ncapacity = 5\n",
        home_with_dn("gone", &format!("CN=gone,{SERVERS}"))
    ));
    let checked = said(&configured);
    line(&checked, "servers", "home gone names CN=gone,");
    line(&checked, "servers", "home bare has no dn");

    // Users of a server that is gone.
    samba.modify(&format!(
        "dn: CN=check-1,{ou}\nchangetype: modify\nreplace: msExchIMVirtualServer\nmsExchIMVirtualServer: CN=im3,{SERVERS}\n"
    ));
    samba.delete(&format!("CN=im3,{SERVERS}"));
    line(&said(&agent), "orphans", "1 user named a home server that was deleted");
}

#[test]
fn a_running_agent_finds_its_homes_and_follows_them_as_they_come_and_go() {
    let samba = Samba::builder().start();
    let ou = samba.ou("im-running");
    let users: Vec<String> = (0..9).map(|n| samba.user(&format!("running-{n}"), &ou, "")).collect();
    let mut agent = agent(&samba, &ou);
    // `dns` answers nothing here: users without mail need none.
    users.iter().for_each(|user| samba.modify(&format!("dn: {user}\nchangetype: modify\ndelete: mail\n")));
    let plan = agent.say(&["plan", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!((&plan["counts"]["enable"], plan["homes"].as_array().map(Vec::len)), (&9.into(), Some(3)), "{plan}");
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 9);
    let home = |user: &str| samba.value(user, "msExchIMVirtualServer").unwrap_or_default();
    let of = |server: &str| users.iter().filter(|user| home(user) == format!("CN={server},{SERVERS}")).count();
    assert_eq!(["im1", "im2", "im3"].map(of), [3, 3, 3]);
    let listed = agent.say(&["home", "list"]);
    assert!(listed.contains("im3.example.com") && listed.contains("7500"), "{listed}");

    // Deleted: the reload reads the servers again, and everything is compared.
    samba.delete(&format!("CN=im2,{SERVERS}"));
    agent.reload();
    agent.wait_for("the orphans at other homes", |_| of("im1") + of("im3") == 9);
    assert!(agent.log().contains("line=home.disappeared"), "{}", agent.log());

    add_server(&samba, "im4", "msExchIMHostName: im4.example.com\n");
    agent.reload();
    agent.wait_for("the new server", |agent| agent.log().contains("line=home.appeared home.id=im4"));
    let late = samba.user("running-late", &ou, "");
    samba.modify(&format!("dn: {late}\nchangetype: modify\ndelete: mail\n"));
    agent.wait_for("the newcomer", |_| home(&late) == format!("CN=im4,{SERVERS}"));
    agent.wait_for("quiet", |agent| agent.is_quiet());
    agent.stop();
    agent.lose("enablement.db");
    let usn = samba.usn();
    assert_eq!(agent.once(), 0);
    assert_eq!(samba.usn(), usn, "everybody is adopted, and nothing is written");
    // As they are wished for by hand.
    let moved = agent.say(&["user", "move", "running-late", "--to", "IM1"]);
    assert!(moved.contains("im1"), "{moved}");
}

//! What goes wrong around the agent: kills, wiped and lost directories, broken users, missing rights, wrong settings.
//! Afterwards everybody is right, nobody has two homes, and a further pass writes nothing.
//!
//! `HOMEWARD_SOAK=1` kills two hundred times where it otherwise kills forty times.

// A test waits, and has a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::feed::Feed;
use homeward::model::{Status, Timestamp};
use homeward::store::enablement as db;
use homeward::store::open::{self, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;
use std::sync::mpsc;
use std::time::Duration;
use support::agent::Agent;
use support::changes::Changes;
use support::company::{Company, Dice, uid};
use support::dns::Nsd;
use support::slapd::{AGENT_DN, SUFFIX, Slapd, person};

const PEOPLE: &str = "(objectClass=inetOrgPerson)";
/// For tests of other things than the guard.
const OPEN_GUARD: &str = "[guard]\nreleases = 1000000\nreleases_percent = 100\n";

/// example.com has no SRV record, chat.example has one, closed.example says that there is no such service.
fn dns() -> Nsd {
    Nsd::start(&[
        ("example.com", ""),
        ("chat.example", "_rvp._tcp SRV 0 0 80 im.chat.example.\n"),
        ("closed.example", "_rvp._tcp SRV 0 0 0 .\n"),
    ])
}

fn asking(dns: &Nsd) -> String {
    format!("[dns]\nservers = [\"{}\"]\n", dns.address())
}

fn soak() -> bool {
    std::env::var_os("HOMEWARD_SOAK").is_some()
}

fn dn(login: &str) -> String {
    format!("uid={login},ou=people,{SUFFIX}")
}

fn people(count: usize) -> String {
    (0..count).map(|n| person(&uid(n), "")).collect()
}

fn people_from(first: usize, count: usize) -> String {
    (first..first + count).map(|n| person(&uid(n), "")).collect()
}

fn versions(slapd: &Slapd) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    slapd.entries(PEOPLE, &["entryCSN"])
}

fn told(agent: &Agent, kind: &str) -> usize {
    agent.outcomes().iter().filter(|(told, _)| told == kind).count()
}

/// Directory and store agree on everybody, and no home holds more than it may.
fn everybody_is_right(agent: &Agent, slapd: &Slapd, enabled: &BTreeSet<String>, capacities: &[u32]) {
    let entries = slapd.entries(PEOPLE, &["uid", "msExchIMAddress", "imHomeServer", "entryUUID"]);
    let standings = agent.standings();
    let mut residents: BTreeMap<&str, u32> = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    let mut found = BTreeSet::new();
    for (dn, entry) in &entries {
        let login = &entry["uid"][0];
        let standing = standings.get(login).unwrap_or_else(|| panic!("{dn} was lost: {}", agent.state()));
        assert_eq!(standing.key.to_string(), entry["entryUUID"][0]);
        let (home, address) = (entry.get("imHomeServer"), entry.get("msExchIMAddress"));
        let held = standing.holds();
        assert_eq!(home.map(|home| home[0].as_str()), held.map(|held| held.home.0.as_str()), "{login}");
        assert_eq!(address.map(|it| it[0].as_str()), held.map(|held| held.address.as_str()), "{login}");
        if let (Some(home), Some(address)) = (home, address) {
            assert_eq!((home.len(), address.len()), (1, 1), "{login} has two homes");
            assert_eq!(standing.status, Status::Enabled, "{login}");
            assert!(addresses.insert(address[0].clone()), "{} is given twice", address[0]);
            *residents.entry(&home[0]).or_default() += 1;
            found.insert(login.clone());
        }
    }
    assert_eq!(&found, enabled);
    for (n, capacity) in (1..).zip(capacities) {
        assert!(residents.get(format!("im{n}").as_str()).unwrap_or(&0) <= capacity, "{residents:?}");
    }
    for row in db::homes(&agent.store()).unwrap() {
        let away: Vec<_> = standings.values().filter(|s| s.leaving.is_some()).collect();
        let counted = *residents.get(row.id.as_str()).unwrap_or(&0);
        assert_eq!(row.assigned, counted, "the count of {}; still leaving: {away:?}", row.id);
    }
}

/// Makes changes by the dice, from anywhere.
struct Troublemaker {
    changes: Changes,
    dice: Dice,
    /// Who is to be enabled, and who was locked.
    alive: BTreeSet<String>,
    locked: BTreeSet<String>,
}

impl Troublemaker {
    fn change_somebody(&mut self, n: usize) {
        let nth = self.dice.below(self.alive.len() as u64) as usize;
        let whom = self.alive.iter().nth(nth).cloned().unwrap_or_default();
        match self.dice.below(10) {
            0..4 => {
                self.changes.add(&format!("new{n}"));
                self.alive.insert(format!("new{n}"));
            }
            4..6 => self.changes.replace(&whom, "mail", &format!("{whom}.{n}@example.com")),
            6 => self.changes.replace(&whom, "sn", &format!("Name{n}")),
            7 => {
                self.changes.delete(&whom);
                self.alive.remove(&whom);
            }
            8 => {
                self.changes.lock(&whom, true);
                self.alive.remove(&whom);
                self.locked.insert(whom);
            }
            _ => {
                if let Some(whom) = self.locked.pop_first() {
                    self.changes.lock(&whom, false);
                    self.alive.insert(whom);
                }
            }
        }
    }
}

/// Two thousand changes are made while the agent, and the server if asked for, is killed at random moments. A kill
/// releases the next changes: so all the kills fall among them.
fn survive(kill_slapd: bool, seed: u64) {
    const CHANGES: usize = 2000;
    let kills = if soak() { 200 } else { 40 };
    let capacities = [CHANGES as u32, CHANGES as u32, 40];
    let slapd = Slapd::builder().slapadd(people(100)).ppolicy(true).session_log(100);
    // What the server has acknowledged must survive its death.
    let slapd = if kill_slapd { slapd } else { slapd.fast() }.start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).homes(&capacities).extra(asking(&dns) + OPEN_GUARD);
    let mut dice = Dice::new(seed);
    let mut trouble = Troublemaker {
        changes: Changes::of(&slapd),
        dice: Dice::new(seed + 1000),
        alive: (0..100).map(uid).collect(),
        locked: BTreeSet::new(),
    };
    agent.start();
    let (release, released) = mpsc::channel();
    std::thread::scope(|scope| {
        let trouble = &mut trouble;
        scope.spawn(move || {
            let mut n = 0..CHANGES;
            for () in released {
                n.by_ref().take(CHANGES / kills).for_each(|n| trouble.change_somebody(n));
            }
        });
        for _ in 0..kills {
            release.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(dice.below(200)));
            if kill_slapd && dice.below(2) == 0 {
                slapd.kill9();
                std::thread::sleep(Duration::from_millis(dice.below(50)));
                slapd.restart();
            } else {
                agent.kill9();
                agent.start();
            }
        }
        drop(release);
    });
    // The server may have forgotten its newest CSN; any write ends that. A write without an answer is tried again.
    slapd.modify(&format!("dn: ou=people,{SUFFIX}\nreplace: description\ndescription: after all\n"));
    agent.wait_for("rest", |agent| agent.is_quiet() && agent.count("retrying") == 0);
    agent.stop();
    assert_eq!(agent.once(), 0, "{}", agent.state());
    everybody_is_right(&agent, &slapd, &trouble.alive, &capacities);
    assert_eq!(told(&agent, "adopted"), 0, "nobody was enabled before us");
    let (written, outcomes) = (versions(&slapd), agent.outcomes());
    assert_eq!(agent.once(), 0);
    assert_eq!(versions(&slapd), written, "a second pass writes nothing");
    assert_eq!(agent.outcomes(), outcomes);
}

#[test]
fn an_agent_killed_at_any_moment_loses_nobody_and_gives_nobody_two_homes() {
    survive(false, 1);
}

#[test]
fn a_server_killed_during_that_changes_nothing() {
    survive(true, 2);
}

/// A directory restored from LDIF: everybody is there, with our values, and has a new UUID.
fn wipe_and_reload(slapd: &Slapd) {
    let all = slapd.search("(objectClass=*)", &["*"]);
    slapd.stop();
    for file in std::fs::read_dir(slapd.path("db")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    slapd.load(&all);
    slapd.restart();
}

fn kinds_of_user_events(agent: &Agent) -> BTreeSet<String> {
    agent
        .say(&["events", "--feed", "users"])
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_directory_wiped_and_reloaded_with_new_uuids_deletes_and_releases_nobody() {
    let slapd = Slapd::builder().slapadd(people(1000)).fast().start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 1000);
    let homes = slapd.entries("(imHomeServer=*)", &["imHomeServer", "msExchIMAddress"]);
    wipe_and_reload(&slapd);
    let reloaded = versions(&slapd);
    agent.wait_for("the suspicion", |agent| agent.log().contains("source.suspect"));
    agent.wait_for("the new entries", |agent| agent.count("enabled") == 1000 && agent.count("gone") == 1000);
    agent.stop();
    agent.once();
    assert_eq!(agent.log().matches("line=source.suspect ").count(), 1, "told once: {}", agent.state());
    assert_eq!(kinds_of_user_events(&agent), BTreeSet::from(["homeward.user.created.v1".to_owned()]));
    assert_eq!(told(&agent, "disabled"), 0);
    assert_eq!(versions(&slapd), reloaded, "nothing was written");
    assert_eq!(slapd.entries("(imHomeServer=*)", &["imHomeServer", "msExchIMAddress"]), homes);
    let feed = Feed::open(&agent.state_dir()).unwrap();
    assert_eq!(feed.status().unwrap().suspect.map(|suspect| suspect.count), Some(1000));
}

#[test]
fn a_restart_without_a_session_log_deletes_and_releases_nobody() {
    let slapd = Slapd::builder().slapadd(people(1000)).fast().start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 1000 && agent.is_quiet());
    let written = versions(&slapd);
    let connected = |agent: &Agent| agent.log().matches("source.connected").count();
    for restart in 0..3 {
        let before = connected(&agent);
        slapd.stop();
        if restart == 1 {
            // Somebody really goes meanwhile: he alone is gone.
            slapd.restart();
            slapd.delete(&dn("u0000500"));
            agent.wait_for("the one", |agent| agent.count("gone") == 1);
            slapd.stop();
        }
        slapd.restart();
        agent.wait_for("the connection", |agent| connected(agent) > before);
    }
    agent.stop();
    assert_eq!(agent.once(), 0, "{}", agent.state());
    assert!(!agent.log().contains("source.suspect"), "{}", agent.state());
    assert_eq!((told(&agent, "disabled"), agent.count("enabled")), (1, 999));
    let mut expected = written;
    expected.retain(|entry, _| *entry != dn("u0000500"));
    assert_eq!(versions(&slapd), expected);
}

/// `uid=u0000001,ou=…` is of u0000001.
fn uid_of(dn: &str) -> String {
    dn.trim_start_matches("uid=").split(',').next().unwrap_or_default().to_owned()
}

#[test]
fn rights_lost_on_one_container_while_it_runs_delete_and_release_nobody() {
    let company = Company::new(1000);
    let slapd = Slapd::builder().slapadd(company.ldif()).fast().start();
    let dns = Nsd::start(&[("example.com", ""), ("example.org", "")]);
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 1000 && agent.is_quiet());
    let everybody = agent.standings();
    let (denied, seen): (Vec<_>, Vec<_>) = company.user_dns().partition(|dn| dn.contains("ou=emea"));
    slapd.deny(&format!("ou=emea,ou=people,{SUFFIX}"));
    // Whatever the server says of a hidden user who is changed, it proves nothing; of the others it says nothing.
    slapd.modify(&format!("dn: {}\nreplace: mail\nmail: hidden@example.com\n", denied[0]));
    slapd.modify(&format!("dn: {}\nreplace: mail\nmail: seen@example.com\n", seen[0]));
    let written = versions(&slapd);
    agent.wait_for("what is seen", |agent| {
        agent.standing(&uid_of(&seen[0])).record.text("mail") == Some("seen@example.com")
    });
    // Longer than a removal is doubted and a release settles.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(agent.count("enabled"), 1000, "{}", agent.state());
    agent.say(&["sweep"]);
    agent.wait_for("the suspicion", |agent| agent.log().contains("source.suspect"));
    agent.stop();
    assert_eq!(agent.once(), 4, "the guard holds what is suspect: {}", agent.state());
    assert_eq!(agent.count("enabled"), 1000, "{}", agent.state());
    assert_eq!(kinds_of_user_events(&agent), BTreeSet::from(["homeward.user.created.v1".to_owned()]));
    assert_eq!(agent.log().matches("line=source.suspect ").count(), 1, "told once: {}", agent.state());
    assert_eq!(versions(&slapd), written);
    let feed = Feed::open(&agent.state_dir()).unwrap();
    assert_eq!(feed.status().unwrap().suspect.map(|suspect| suspect.count), Some(denied.len() as u64));

    // The rights come back, and with them everybody.
    slapd.allow();
    agent.start();
    agent.wait_for("the connection", |agent| agent.log().matches("source.connected").count() == 3);
    agent.say(&["sweep"]);
    agent.wait_for("the end of it", |agent| agent.log().contains("source.suspect_ended"));
    agent.stop();
    assert_eq!(agent.once(), 0);
    assert_eq!(versions(&slapd), written);
    assert_eq!(told(&agent, "disabled"), 0);
    for (login, standing) in agent.standings() {
        assert_eq!(standing.reserved, everybody[&login].reserved, "{login}");
    }
}

#[test]
fn renamed_users_keep_home_and_address() {
    let slapd = Slapd::builder().slapadd(people(20)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 20);
    let before = agent.standing("u0000003");
    slapd.modify(&format!("dn: {}\nchangetype: modrdn\nnewrdn: uid=renamed\ndeleteoldrdn: 1\n", dn("u0000003")));
    slapd.modify(&format!("dn: {}\nreplace: mail\nmail: renamed@chat.example\n", dn("renamed")));
    agent.wait_for("the rename", |agent| {
        agent.standings().get("renamed").is_some_and(|s| s.record.text("mail") == Some("renamed@chat.example"))
    });
    let after = agent.standing("renamed");
    assert_eq!((after.key, after.reserved, after.status), (before.key, before.reserved, Status::Enabled));
    assert_eq!(slapd.value("(uid=renamed)", "msExchIMAddress").as_deref(), Some("u0000003@im.example.com"));
    // A container renamed: nobody is told below it, and everybody is read again.
    slapd.add(&format!("dn: ou=old,ou=people,{SUFFIX}\nobjectClass: organizationalUnit\nou: old\n"));
    slapd.add(&person("inner", "").replace("ou=people", "ou=old,ou=people"));
    agent.wait_for("the inner one", |agent| agent.count("enabled") == 21);
    let home = agent.standing("inner").reserved;
    slapd.modify(&format!("dn: ou=old,ou=people,{SUFFIX}\nchangetype: modrdn\nnewrdn: ou=new\ndeleteoldrdn: 1\n"));
    agent.wait_for("the new place", |agent| agent.standing("inner").record.dn.contains("ou=new"));
    assert_eq!(agent.standing("inner").reserved, home);
    assert_eq!(told(&agent, "disabled"), 0);
}

#[test]
fn a_disabled_account_is_released_its_values_cleared_and_comes_back_to_the_same_home() {
    let slapd = Slapd::builder().ppolicy(true).slapadd(people(30)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 30);
    let lock = |value: &str| {
        let entry = dn("u0000005");
        slapd.modify(&format!("dn: {entry}\nreplace: pwdAccountLockedTime\npwdAccountLockedTime: {value}\n"));
    };
    let before = slapd.entries("(uid=u0000005)", &["msExchIMAddress", "imHomeServer", "msExchIMMetaPhysicalURL"]);
    // A lockout is a nuisance of the moment, not the end of an account.
    lock("20260101000000Z");
    slapd.modify(&format!("dn: {}\nreplace: sn\nsn: seen\n", dn("u0000005")));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.count("enabled"), 30);
    lock("000001010000Z");
    agent.wait_for("the release", |agent| agent.standing("u0000005").status == Status::Disabled);
    for attribute in ["msExchIMAddress", "imHomeServer", "msExchIMMetaPhysicalURL", "msExchIMPhysicalURL"] {
        assert_eq!(slapd.value("(uid=u0000005)", attribute), None, "{attribute}");
    }
    assert_eq!(told(&agent, "disabled"), 1);
    assert!(agent.say(&["user", "history", "u0000005"]).contains("disabled or expired"), "the reason is told");
    slapd.modify(&format!("dn: {}\ndelete: pwdAccountLockedTime\n", dn("u0000005")));
    agent.wait_for("the return", |agent| agent.count("enabled") == 30);
    let after = slapd.entries("(uid=u0000005)", &["msExchIMAddress", "imHomeServer", "msExchIMMetaPhysicalURL"]);
    assert_eq!(after, before);
}

#[test]
fn a_foreign_value_is_untouched_and_a_problem() {
    let slapd = Slapd::builder().slapadd(people(5)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 5);
    let class = "objectClass: homewardIMUser\n";
    slapd.add(&person("theirs", &format!("{class}msExchIMAddress: x@elsewhere.example\nimHomeServer: im9\n")));
    // Ours, and overwritten later.
    slapd.modify(&format!("dn: {}\nreplace: imHomeServer\nimHomeServer: im9\n", dn("u0000002")));
    agent.wait_for("the problems", |agent| agent.count("problem") == 2);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(slapd.value("(uid=theirs)", "msExchIMAddress").as_deref(), Some("x@elsewhere.example"));
    assert_eq!(slapd.value("(uid=u0000002)", "imHomeServer").as_deref(), Some("im9"));
    let problem = db::problem_of_user(&agent.store(), &agent.standing("theirs").key).unwrap().unwrap();
    assert_eq!(problem.code, "foreign-value");
    // Cleared by its owner, it is ours to fill.
    slapd.modify(&format!("dn: {}\ndelete: imHomeServer\n", dn("u0000002")));
    agent.wait_for("the repair", |agent| agent.count("enabled") == 5);
    assert!(slapd.value("(uid=u0000002)", "imHomeServer").is_some_and(|home| home != "im9"));
}

#[test]
fn of_two_users_with_one_mail_address_the_later_is_a_problem_until_that_changes() {
    let slapd = Slapd::builder().slapadd(person("ann", "").replace("@example.com", "@chat.example")).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("the first", |agent| agent.count("enabled") == 1);
    slapd.add(&person("bob", "").replace("bob@example.com", "Ann@Chat.Example"));
    agent.wait_for("the second", |agent| agent.count("problem") == 1);
    let problem = db::problem_of_user(&agent.store(), &agent.standing("bob").key).unwrap().unwrap();
    assert_eq!(problem.code, "address-taken");
    assert!(problem.text.contains("ann"), "{}", problem.text);
    slapd.modify(&format!("dn: {}\nreplace: mail\nmail: bob@chat.example\n", dn("bob")));
    agent.wait_for("both", |agent| agent.count("enabled") == 2);
    assert_eq!(db::open_problem_count(&agent.store()).unwrap(), 0);
    // "Not available" is no address either.
    slapd.add(&person("carl", "").replace("@example.com", "@closed.example"));
    agent.wait_for("the third", |agent| agent.count("problem") == 1);
    let problem = db::problem_of_user(&agent.store(), &agent.standing("carl").key).unwrap().unwrap();
    assert!(problem.text.contains("closed.example"), "{}", problem.text);
    assert_eq!(slapd.value("(uid=carl)", "msExchIMAddress"), None);
}

/// Users with a password from before Digest was required.
fn digest(action: &str) -> (Slapd, Nsd, Agent) {
    let users: String = ["ann", "bob"].map(|login| person(login, "userPassword: before-1\n")).concat();
    let slapd = Slapd::builder().ppolicy(true).users(users).start();
    let dns = dns();
    std::thread::sleep(Duration::from_millis(1100));
    let since = Timestamp::now();
    std::thread::sleep(Duration::from_millis(1100));
    let digest = format!("[digest]\nrequired = true\nsince = \"{since}\"\naction = \"{action}\"\n");
    let mut agent = Agent::of(&slapd).extra(asking(&dns) + &digest);
    agent.start();
    agent.wait_for("those who need a new password", |agent| agent.count("awaiting-password") == 2);
    (slapd, dns, agent)
}

#[test]
fn an_old_password_awaits_its_change_and_is_listed_until_then() {
    let (slapd, _dns, mut agent) = digest("flag");
    assert_eq!(slapd.value("(uid=ann)", "msExchIMAddress").as_deref(), Some("ann@im.example.com"));
    assert_eq!(slapd.value("(uid=ann)", "pwdReset"), None);
    let list = agent.say(&["resets", "--csv"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.contains("ann") && list.contains("bob"), "{list}");
    assert_eq!(told(&agent, "password-reset-required"), 2);
    let new = format!("dn: {}\nreplace: userPassword\nuserPassword: after-22\n", dn("ann"));
    let output = slapd.run_as(&dn("ann"), "before-1", "ldapmodify", &[], &new);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    agent.wait_for("the readiness", |agent| agent.count("enabled") == 1);
    assert_eq!(told(&agent, "ready"), 1);
    let list = agent.say(&["resets", "--csv"]);
    assert!(!list.contains("ann") && list.contains("bob"), "{list}");
    agent.stop();
    assert_eq!(agent.once(), 0);
    assert_eq!((told(&agent, "ready"), told(&agent, "password-reset-required")), (1, 2), "told once");
}

#[test]
fn expire_makes_the_directory_demand_a_new_password_once() {
    let (slapd, _dns, mut agent) = digest("expire");
    agent.wait_for("the demand", |_| slapd.entries("(pwdReset=TRUE)", &["1.1"]).len() == 2);
    agent.wait_for("rest", Agent::is_quiet);
    // Taken back by an administrator: it is not asked for again.
    slapd.modify(&format!("dn: {}\ndelete: pwdReset\n", dn("bob")));
    agent.stop();
    let written = versions(&slapd);
    agent.once();
    assert_eq!(versions(&slapd), written);
    assert_eq!(slapd.entries("(pwdReset=TRUE)", &["1.1"]).len(), 1);
    assert_eq!(agent.count("awaiting-password"), 2);
}

#[test]
fn observing_writes_nothing_and_a_reload_to_enforce_applies_it() {
    let slapd = Slapd::builder().slapadd(people(50)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).mode("observe").extra(asking(&dns));
    let before = versions(&slapd);
    agent.start();
    agent.wait_for("the plan", |agent| agent.count("planned") == 50);
    slapd.add(&person("ann", ""));
    agent.wait_for("one more", |agent| agent.count("planned") == 51);
    assert!(slapd.entries("(msExchIMAddress=*)", &["1.1"]).is_empty());
    assert_eq!(agent.outcomes(), []);
    let mut now = versions(&slapd);
    now.retain(|dn, _| !dn.contains("ann"));
    assert_eq!(now, before);
    assert!(agent.say(&["status"]).contains("51"), "{}", agent.say(&["status"]));
    agent.set("enforce", &[1000, 1000, 1000], &asking(&dns));
    agent.reload();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 51);
    assert_eq!(told(&agent, "enabled"), 51);
    assert_eq!(slapd.entries("(msExchIMAddress=*)", &["1.1"]).len(), 51);
}

#[test]
fn it_stops_within_two_seconds_whatever_it_is_doing() {
    let slapd = Slapd::builder().slapadd(people(2000)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    for pause in [100, 400, 1500] {
        agent.start();
        std::thread::sleep(Duration::from_millis(pause));
        let took = agent.stop();
        assert!(took < Duration::from_secs(2), "{took:?} after {pause} ms: {}", agent.state());
    }
    // A server that does not answer is no reason to stay.
    agent.start();
    agent.wait_for("the connection", |agent| agent.log().matches("source.connected").count() > 1);
    slapd.kill9();
    std::thread::sleep(Duration::from_millis(300));
    let took = agent.stop();
    assert!(took < Duration::from_secs(2), "{took:?}: {}", agent.state());
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Both `check` and `run --once` end with this code and name this.
fn refused(agent: &Agent, code: i32, names: &str) {
    for verb in [&["check"][..], &["run", "--once"]] {
        let output = agent.cli(verb);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{verb:?}: {said}");
        assert!(said.to_lowercase().contains(&names.to_lowercase()), "{verb:?} does not name {names}: {said}");
        assert!(
            [": homeward ", ": ls -l", ": ldapwhoami"].iter().any(|next| said.contains(next)),
            "{verb:?} says nothing to do: {said}"
        );
    }
}

fn rewrite(agent: &Agent, from: &str, to: &str) {
    let config = std::fs::read_to_string(agent.config()).unwrap();
    assert!(config.contains(from), "{config}");
    std::fs::write(agent.config(), config.replacen(from, to, 1)).unwrap();
}

#[test]
fn what_the_directory_refuses_is_said_with_what_to_do() {
    let slapd = Slapd::builder().slapadd(people(3)).start();
    let dns = dns();
    let of = || Agent::of(&slapd).extra(asking(&dns));

    let agent = of();
    std::fs::write(agent.config().with_file_name("password"), "wrong").unwrap();
    refused(&agent, 1, "password");
    refused(&of().base("ou=nowhere,dc=example,dc=com"), 1, "ou=nowhere");
    refused(&of().base("dc=elsewhere,dc=org"), 1, "dc=elsewhere");
    refused(
        &Agent::at("ldap://127.0.0.1:9").extra("[directory.tls]\nmode = \"starttls\"\nca_file = \"/nonexistent\"\n"),
        1,
        "ca_file",
    );
}

#[test]
fn entries_that_may_not_be_written_are_problems_of_those_users_alone_until_the_rights_are_there() {
    let ours = format!("^uid=u000000[3-5],ou=people,{SUFFIX}$");
    let acl = format!("access to dn.regex=\"{ours}\" by dn.exact=\"{AGENT_DN}\" read by * none\n");
    let slapd = Slapd::builder().slapadd(people(20)).acl(acl).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("the others", |agent| agent.count("enabled") == 17 && agent.count("problem") == 3);
    let list: serde_json::Value = serde_json::from_str(&agent.say(&["problem", "list", "--json"])).unwrap();
    let problems = list.as_array().or_else(|| list["problems"].as_array()).unwrap_or_else(|| panic!("{list}"));
    assert_eq!(problems.len(), 3, "{list}");
    for problem in problems {
        let text = problem.to_string();
        assert!(
            text.contains("result 50") && text.contains("write access") && text.contains("problem retry"),
            "{text}"
        );
    }
    // As long as nothing is mended a retry ends where it began.
    let id = |login: &str| db::problem_of_user(&agent.store(), &agent.standing(login).key).unwrap().unwrap().id;
    agent.say(&["problem", "retry", &format!("P{}", id("u0000003"))]);
    agent.wait_for("the retry", |agent| agent.log().matches("line=wish.taken").count() == 1);
    agent.wait_for("rest", |agent| agent.is_quiet() && agent.count("problem") == 3);
    slapd.allow();
    for login in ["u0000003", "u0000004"] {
        agent.say(&["problem", "retry", &format!("P{}", id(login))]);
        agent.wait_for("the mended", |agent| agent.standing(login).status == Status::Enabled);
    }
    agent.wait_for("rest", Agent::is_quiet);
    assert_eq!((agent.count("enabled"), agent.count("problem")), (19, 1), "the third was not asked for");
    assert_eq!(told(&agent, "problem"), 3, "each once");
    assert!(slapd.value("(uid=u0000004)", "imHomeServer").is_some());
}

#[test]
fn an_account_without_rights_or_a_server_without_schema_is_said() {
    let acl = "access to attrs=userPassword by anonymous auth by * none\naccess to * by * none\n";
    let slapd = Slapd::builder().slapadd(people(3)).acl(acl).start();
    let dns = dns();
    refused(&Agent::of(&slapd).extra(asking(&dns)), 1, SUFFIX);

    let slapd = Slapd::builder().without_schema().slapadd(people(3)).start();
    let agent = Agent::of(&slapd).extra(asking(&dns));
    let output = agent.cli(&["check"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("homeward.schema"), "{}", text(&output));
    assert_eq!(agent.once(), 3, "{}", agent.state());
    assert_eq!(agent.count("problem"), 3);
    assert!(agent.say(&["problem", "list"]).contains("write-refused"));
}

#[test]
fn a_configuration_that_cannot_be_right_is_refused_before_anything_happens() {
    let of = || Agent::at("ldap://127.0.0.1:9");
    let agent = of();
    std::fs::remove_file(agent.config().with_file_name("password")).unwrap();
    refused(&agent, 78, "password");
    let agent = of();
    rewrite(&agent, "id = \"im2\"", "id = \"im1\"");
    refused(&agent, 78, "im1");
    refused(&of().homes(&[0]), 78, "capacity");
    refused(&of().homes(&[]), 78, "home");
    let agent = of();
    rewrite(&agent, "base =", "bas =");
    refused(&agent, 78, "base");
    for agent in [of().homes(&[0]), of().homes(&[])] {
        agent.cli(&["run", "--once"]);
        assert!(!agent.state_dir().exists(), "nothing was made");
    }
}

#[test]
fn a_store_in_use_or_newer_than_the_program_is_refused() {
    let slapd = Slapd::builder().slapadd(people(3)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 3);
    let second = agent.cli(&["run", "--once"]);
    assert_eq!(second.status.code(), Some(1), "{}", text(&second));
    assert!(text(&second).contains("in use"), "{}", text(&second));
    agent.stop();
    for (kind, name) in [(Kind::Enablement, "enablement.db"), (Kind::Directory, "directory.db")] {
        let store = open::writer(kind, &agent.state_dir()).unwrap();
        let version: i64 = store.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        store.pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        let output = agent.cli(&["run", "--once"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output));
        assert!(text(&output).contains("schema 99") && text(&output).contains(name), "{}", text(&output));
        // Not opened by the program, which would refuse.
        let store = rusqlite::Connection::open(kind.path(&agent.state_dir())).unwrap();
        store.pragma_update(None, "user_version", version).unwrap();
    }
    assert_eq!(agent.once(), 0);
}

fn residents(slapd: &Slapd, home: &str) -> usize {
    slapd.entries(&format!("(imHomeServer={home})"), &["1.1"]).len()
}

#[test]
fn an_operator_moves_users_cordons_and_drains_under_the_guard() {
    let slapd = Slapd::builder().slapadd(people(30)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 30);
    assert_eq!((residents(&slapd, "im1"), residents(&slapd, "im2")), (10, 10));

    let login = "u0000000";
    assert_eq!(agent.standing(login).reserved.unwrap().home.0, "im1");
    agent.say(&["user", "move", login, "--to", "im2"]);
    agent.wait_for("the move", |_| slapd.value(&format!("(uid={login})"), "imHomeServer").as_deref() == Some("im2"));
    agent.wait_for("its outcome", |agent| told(agent, "moved") == 1);
    assert_eq!(slapd.value(&format!("(uid={login})"), "msExchIMAddress").as_deref(), Some("u0000000@im.example.com"));
    assert!(slapd.value(&format!("(uid={login})"), "msExchIMPhysicalURL").unwrap().contains("im2.example.com"));
    assert_eq!(agent.cli(&["user", "move", login, "--to", "nowhere"]).status.code(), Some(2));

    agent.say(&["home", "cordon", "im1"]);
    agent.wait_for("the cordon", |agent| db::homes(&agent.store()).unwrap()[0].wish != Default::default());
    slapd.add(&(30..36).map(|n| person(&uid(n), "")).collect::<String>());
    agent.wait_for("the newcomers", |agent| agent.count("enabled") == 36);
    assert_eq!(residents(&slapd, "im1"), 9, "nobody new, and nobody left");

    agent.say(&["home", "drain", "im1"]);
    agent.wait_for("the guard", |agent| agent.count("held") == 9);
    assert_eq!(residents(&slapd, "im1"), 9);
    let plan: serde_json::Value = serde_json::from_str(&agent.say(&["problem", "show", "guard", "--json"])).unwrap();
    agent.say(&["approve", plan["held"]["hash"].as_str().unwrap()]);
    agent.wait_for("the drain", |_| residents(&slapd, "im1") == 0);
    agent.wait_for("the outcomes", |agent| told(agent, "moved") == 10 && agent.count("enabled") == 36);
    let alive = (0..36).map(uid).collect();
    agent.wait_for("rest", Agent::is_quiet);
    everybody_is_right(&agent, &slapd, &alive, &[1000, 1000, 1000]);
}

/// Forty users, of whom the log has a copy in `copies`; then as many changes again, and the copy is put back.
fn with_an_older_log(copy: impl Fn(&Agent, &Path), restore: impl Fn(&Agent, &Path)) -> (Slapd, Nsd, Agent) {
    let slapd = Slapd::builder().slapadd(people(40)).session_log(1000).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns) + OPEN_GUARD);
    let copies = tempfile::tempdir().unwrap();
    assert_eq!(agent.once(), 0);
    copy(&agent, copies.path());
    agent.start();
    for n in 0..40 {
        slapd.modify(&format!("dn: {}\nreplace: sn\nsn: other\n", dn(&uid(n))));
    }
    slapd.add(&person("ann", ""));
    slapd.delete(&dn(&uid(39)));
    agent.wait_for("the changes", |agent| agent.count("enabled") == 40 && agent.count("gone") == 1);
    agent.wait_for("rest", Agent::is_quiet);
    agent.stop();
    restore(&agent, copies.path());
    (slapd, dns, agent)
}

fn epoch(agent: &Agent) -> u64 {
    Feed::open(&agent.state_dir()).unwrap().epoch().unwrap()
}

/// Whatever happened while the older log was put back is applied, and nobody is released for it.
fn an_older_log_loses_nothing(slapd: &Slapd, mut agent: Agent) {
    let before = epoch(&agent);
    // More than were told since the copy was made: the log's end passes the worker's place at once.
    slapd.add(&(100..180).map(|n| person(&uid(n), "")).collect::<String>());
    for n in 0..5 {
        slapd.modify(&format!("dn: {}\nadd: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n", dn(&uid(n))));
    }
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 115 && agent.count("disabled") == 5);
    agent.wait_for("rest", Agent::is_quiet);
    assert!(epoch(&agent) > before, "{}", agent.log());
    assert_eq!(told(&agent, "disabled"), 5 + 1, "those locked now, and the one deleted before");
    let alive = (5..39).chain(100..180).map(uid).chain(["ann".to_owned()]).collect();
    everybody_is_right(&agent, slapd, &alive, &[1000, 1000, 1000]);
    agent.stop();
    let (written, epoch_now) = (versions(slapd), epoch(&agent));
    assert_eq!(agent.once(), 0);
    assert_eq!((versions(slapd), epoch(&agent)), (written, epoch_now), "a second pass writes nothing");
}

#[test]
fn an_older_log_put_back_is_noticed_and_everybody_is_told_anew() {
    let files = ["directory.db", "directory.db-wal"];
    let copy = |from: &Path, to: &Path| {
        for file in files.iter().filter(|file| from.join(file).exists()) {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    };
    let (slapd, _dns, agent) = with_an_older_log(
        |agent, copies| copy(&agent.state_dir(), copies),
        |agent, copies| {
            agent.lose("directory.db");
            copy(copies, &agent.state_dir());
        },
    );
    an_older_log_loses_nothing(&slapd, agent);
}

#[test]
fn a_backup_of_both_stores_put_back_is_a_log_of_its_own() {
    let (slapd, _dns, agent) = with_an_older_log(
        |agent, copies| drop(agent.say(&["store", "backup", &copies.display().to_string()])),
        |agent, copies| {
            for store in ["directory.db", "enablement.db"] {
                agent.lose(store);
                std::fs::copy(copies.join(store), agent.state_dir().join(store)).unwrap();
            }
        },
    );
    let before = epoch(&agent);
    assert_eq!(agent.once(), 0);
    assert!(epoch(&agent) > before, "a reader elsewhere knows more than the backup");
    assert_eq!(agent.count("enabled"), 40);
    let written = versions(&slapd);
    assert_eq!(agent.once(), 0);
    assert_eq!(versions(&slapd), written);
}

#[test]
fn a_clock_that_goes_back_a_day_is_said_and_holds_up_neither_newcomers_nor_releases() {
    let (slapd, dns) = (Slapd::builder().slapadd(people(20)).start(), dns());
    let mut agent = Agent::of(&slapd).extra(asking(&dns)).own_clock();
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 20 && agent.is_quiet());
    let lock = |n: usize| {
        let lock = "add: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n";
        slapd.modify(&format!("dn: {}\n{lock}", dn(&uid(n))));
    };
    // Still resting for the guard when the clock goes back.
    lock(0);
    agent.wait_for("the rest", |agent| agent.standing(&uid(0)).status == Status::Applying);
    agent.set_clock("-1d");
    slapd.add(&people_from(100, 5));
    lock(1);
    agent.wait_for("them", |agent| agent.count("enabled") == 23 && agent.count("disabled") == 2);
    agent.wait_for("the line", |agent| agent.log().contains("line=clock.backwards"));
    agent.stop();
    // The store is from tomorrow.
    slapd.add(&people_from(200, 5));
    assert_eq!(agent.once(), 0);
    assert_eq!((agent.count("enabled"), agent.count("disabled")), (28, 2));
}

#[test]
fn a_sweep_asked_for_after_a_reload_reaches_the_poller() {
    let (slapd, dns) = (Slapd::builder().start(), dns());
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("the first pass", |agent| agent.log().matches("source.refreshed").count() == 1);
    let rule = "[[policy]]\nname = \"staff\"\nmatch = \"(employeeType=staff)\"\n";
    agent.set("enforce", &[1000], &format!("{}{rule}", asking(&dns)));
    agent.reload();
    agent.wait_for("the poller that asks for other attributes", |agent| {
        agent.log().matches("source.refreshed").count() == 2
    });
    agent.say(&["sweep"]);
    agent.wait_for("the sweep", |agent| agent.log().matches("source.refreshed").count() == 3);
}

#[test]
fn the_kind_of_directory_is_asked_for_once_and_waited_for() {
    let (dns, slapd) = (dns(), Slapd::builder().users(people(3)).start());
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    slapd.stop();
    agent.start();
    agent.wait_for("the first attempt", |agent| agent.log().contains("source.lost"));
    assert!(
        !agent.state_dir().join("enablement.db").exists(),
        "nothing begins before it is known whose keys these are"
    );
    slapd.restart();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 3);
    agent.stop();
    slapd.stop();
    agent.start();
    agent.wait_for("the start", |agent| agent.log().matches("agent.started").count() == 2);
    agent.stop();
    let output = agent.cli(&["user", "show", &uid(1)]);
    assert!(output.status.success(), "its names are known without a directory: {output:?}");
}

#[test]
fn a_store_of_one_kind_of_directory_is_not_used_for_another() {
    let slapd = Slapd::builder().users(people(1)).start();
    let agent = Agent::of(&slapd);
    assert_eq!(agent.once(), 0);
    let store = rusqlite::Connection::open(agent.state_dir().join("enablement.db")).unwrap();
    assert_eq!(store.execute("update fact set value = '389ds' where name = 'flavour'", []).unwrap(), 1);
    let before = store.query_row("select count(*) from outcome", [], |row| row.get::<_, i64>(0)).unwrap();
    let output = agent.directory("flavour = \"openldap\"").cli(&["run", "--once"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("knows users of a directory of the kind 389ds") && said.contains("homeward check"), "{said}");
    assert_eq!(store.query_row("select count(*) from outcome", [], |row| row.get::<_, i64>(0)).unwrap(), before);
}

//! The whole agent on a real Active Directory domain controller (Samba), with the rights of `grant.py` and no others.

// Only decide/ is without a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::model::{Status, Timestamp};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use support::agent::Agent;
use support::dns::Nsd;
use support::samba::{Model, PLAIN_DN, PLAIN_PASSWORD, SERVERS, SUFFIX, Samba, shared, user};

/// For tests of other things than the guard.
const OPEN_GUARD: &str = "[guard]\nreleases = 1000000\nreleases_percent = 100\n";

/// example.com has no SRV record, chat.example has one.
fn dns() -> &'static Nsd {
    static DNS: OnceLock<Nsd> = OnceLock::new();
    DNS.get_or_init(|| Nsd::start(&[("example.com", ""), ("chat.example", "_rvp._tcp SRV 0 0 80 im.chat.example.\n")]))
}

fn asking() -> String {
    format!("[dns]\nservers = [\"{}\"]\n", dns().address())
}

/// The four values of a user, by the names of the attributes; `None`: not set.
fn values(samba: &Samba, dn: &str) -> [Option<String>; 4] {
    ["msExchIMAddress", "msExchIMMetaPhysicalURL", "msExchIMPhysicalURL", "msExchIMVirtualServer"]
        .map(|attribute| samba.value(dn, attribute))
}

fn is_enabled(samba: &Samba, dn: &str) -> bool {
    values(samba, dn).iter().all(Option::is_some)
}

fn is_cleared(samba: &Samba, dn: &str) -> bool {
    values(samba, dn).iter().all(Option::is_none)
}

fn started(samba: &Samba, base: &str, extra: &str) -> Agent {
    let mut agent = Agent::of_samba(samba, base).extra(asking() + extra);
    agent.start();
    agent.wait_for("the first pass", |agent| agent.log().contains("source.refreshed"));
    agent
}

fn enabled(agent: &Agent, samba: &Samba, dn: &str) {
    agent.wait_for(dn, |_| is_enabled(samba, dn));
}

fn cleared(agent: &Agent, samba: &Samba, dn: &str) {
    agent.wait_for(dn, |_| is_cleared(samba, dn));
}

/// Kinds of outcomes told of a user so far, in order.
fn told(agent: &Agent, login: &str) -> Vec<String> {
    agent.outcomes().into_iter().filter(|(_, of)| of == login).map(|(kind, _)| kind).collect()
}

#[test]
fn an_account_is_enabled_at_a_home_server_object_and_nothing_is_left_to_do() {
    let samba = shared();
    let ou = samba.ou("e2e-enable");
    let early = samba.user("e2e-early", &ou, "");
    let agent = started(samba, &ou, "");
    enabled(&agent, samba, &early);
    let ann = samba.user("e2e-ann", &ou, "");
    enabled(&agent, samba, &ann);
    let [address, url, home_url, server] = values(samba, &ann).map(Option::unwrap);
    assert_eq!(address, "e2e-ann@im.example.com");
    assert_eq!(url, "http://im.example.com/instmsg/aliases/e2e-ann");
    let id = server.strip_prefix("CN=").and_then(|rest| rest.strip_suffix(&format!(",{SERVERS}"))).unwrap();
    assert_eq!(home_url, format!("http://{id}.example.com/instmsg/local/im.example.com/instmsg/aliases/e2e-ann"));
    agent.wait_for("quiet", Agent::is_quiet);
    // The echo of our own writes is no work, and the plan is empty.
    let usn = samba.value(&ann, "uSNChanged");
    let plan: serde_json::Value = serde_json::from_str(&agent.say(&["plan", "--json"])).unwrap();
    assert_eq!(plan["changes"].as_array().map(Vec::len), Some(0), "{plan}");
    assert_eq!(samba.value(&ann, "uSNChanged"), usn);
    assert_eq!(told(&agent, "e2e-ann"), ["enabled"]);
}

#[test]
fn who_leaves_the_base_or_is_disabled_is_released_and_comes_back_to_the_same_place() {
    let samba = shared();
    for source in ["dirsync", "usn"] {
        let (ou, elsewhere) = (samba.ou(&format!("e2e-leave-{source}")), samba.ou(&format!("e2e-out-{source}")));
        let inner = format!("OU=inner,{ou}");
        samba.modify(&format!("dn: {inner}\nchangetype: add\nobjectClass: organizationalUnit\n"));
        let name = format!("e2e-leaves-{source}");
        let ann = samba.user(&name, &inner, "");
        let mut agent = Agent::of_samba(samba, &ou).directory(&format!("source = \"{source}\"\n")).extra(asking());
        agent.start();
        enabled(&agent, samba, &ann);
        let before = values(samba, &ann);

        samba.replace(&ann, "userAccountControl", "546");
        cleared(&agent, samba, &ann);
        samba.replace(&ann, "userAccountControl", "544");
        enabled(&agent, samba, &ann);
        assert_eq!(values(samba, &ann), before, "the same address and home");

        let (moved, rdn) = (format!("CN={name},{elsewhere}"), format!("CN={name}"));
        samba.rename(&ann, &rdn, Some(&elsewhere));
        // Outside the container of the agent's rights everything is still readable, and here writable too.
        agent.wait_for("the release", |agent| told(agent, &name).ends_with(&["disabled".into()]));
        samba.rename(&moved, &rdn, Some(&inner));
        agent.wait_for("the return", |agent| agent.count("enabled") == 1);
        enabled(&agent, samba, &ann);
        assert_eq!(values(samba, &ann), before);

        // A renamed container takes its users along, and nobody is released or written to.
        let outcomes = told(&agent, &name).len();
        samba.rename(&inner, "OU=renamed", None);
        let renamed = format!("CN={name},OU=renamed,{ou}");
        agent.wait_for("the new DN", |agent| agent.standing(&name).record.dn == renamed);
        agent.wait_for("quiet", Agent::is_quiet);
        assert_eq!((told(&agent, &name).len(), values(samba, &renamed)), (outcomes, before.clone()));

        // Out of the base with its container, and deleted.
        samba.rename(&format!("OU=renamed,{ou}"), "OU=renamed", Some(&elsewhere));
        agent.wait_for("the release", |agent| agent.count("enabled") == 0);
        samba.rename(&format!("OU=renamed,{elsewhere}"), "OU=renamed", Some(&ou));
        agent.wait_for("the return", |agent| agent.count("enabled") == 1);
        let events = agent.say(&["events", "--feed", "users"]);
        let last: serde_json::Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
        samba.delete(&renamed);
        agent.wait_for("the delete", |agent| agent.count("enabled") == 0);
        let events = agent.say(&["events", "--feed", "users", "--after", last["sequence"].as_str().unwrap()]);
        assert!(events.contains("homeward.user.deleted.v1"), "a tombstone is proof: {events}");
    }
}

#[test]
fn what_happened_while_the_agent_or_the_domain_controller_was_dead_is_made_up_for() {
    let samba = Samba::builder().start();
    let ou = samba.ou("crash");
    let (ann, bob) = (samba.user("ann", &ou, ""), samba.user("bob", &ou, ""));
    let mut agent = started(&samba, &ou, "");
    enabled(&agent, &samba, &ann);
    enabled(&agent, &samba, &bob);
    agent.wait_for("quiet", Agent::is_quiet);
    agent.kill9();
    samba.delete(&bob);
    let cid = samba.user("cid", &ou, "");
    samba.rename(&ann, "CN=anna", None);
    agent.start();
    enabled(&agent, &samba, &cid);
    agent.wait_for("bob's end", |agent| agent.count("enabled") == 2);
    agent.wait_for("the rename", |agent| agent.standing("ann").record.dn == format!("CN=anna,{ou}"));
    assert_eq!(agent.log().matches("source.refresh_started").count(), 1, "it went on from its cursor");

    samba.kill9();
    agent.wait_for("the loss", |agent| agent.log().contains("source.lost"));
    samba.launch();
    let dan = samba.user("dan", &ou, "");
    enabled(&agent, &samba, &dan);
    assert!(is_enabled(&samba, &cid));
    agent.wait_for("quiet", Agent::is_quiet);
    assert_eq!(told(&agent, "cid"), ["enabled"]);
}

/// Twelve kills among four hundred changes, the domain controller's own among them.
#[test]
fn kills_of_the_agent_and_of_the_domain_controller_lose_nobody() {
    let samba = Samba::builder().start();
    let ou = samba.ou("kills");
    let mut agent = Agent::of_samba(&samba, &ou).homes(&[150, 150, 150]).extra(asking() + OPEN_GUARD);
    agent.start();
    let dn = |n: usize| format!("CN=kills-{n},{ou}");
    let (mut present, mut next) = (BTreeMap::new(), 0);
    for round in 0..12 {
        let newcomers = next..next + 25;
        samba.modify(&newcomers.clone().map(|n| user(&format!("kills-{n}"), &ou, "") + "\n").collect::<String>());
        present.extend(newcomers.clone().map(|n| (n, true)));
        next = newcomers.end;
        // Not at the same moment of its work each time.
        std::thread::sleep(Duration::from_millis(37 * round));
        agent.kill9();
        for n in (round as usize..next).step_by(19).take(4) {
            if present.contains_key(&n) {
                samba.replace(&dn(n), "userAccountControl", "546");
                present.insert(n, false);
            }
        }
        for n in (7 + round as usize..next).step_by(23).take(4) {
            if present.remove(&n).is_some() {
                samba.delete(&dn(n));
            }
        }
        if round % 4 == 3 {
            samba.kill9();
            samba.launch();
        }
        agent.start();
    }
    let enabled: Vec<usize> = present.iter().filter(|(_, active)| **active).map(|(n, _)| *n).collect();
    agent.wait_for("quiet", |agent| agent.count("enabled") == enabled.len() as u64 && agent.is_quiet());
    let attributes = ["sAMAccountName", "msExchIMAddress", "msExchIMVirtualServer"];
    let entries = samba.entries(&ou, "(objectClass=user)", &attributes);
    assert_eq!(entries.len(), present.len());
    let (mut residents, mut addresses) = (BTreeMap::<String, usize>::new(), Vec::new());
    for (n, active) in &present {
        let entry = &entries[&dn(*n)];
        assert_eq!(entry.contains_key("msExchIMVirtualServer"), *active, "kills-{n}: {entry:?}");
        if *active {
            *residents.entry(entry["msExchIMVirtualServer"][0].clone()).or_default() += 1;
            addresses.push(entry["msExchIMAddress"][0].clone());
        }
    }
    assert!(residents.values().all(|count| *count <= 150), "{residents:?}");
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), enabled.len(), "one address each");
    // A further pass writes nothing.
    agent.stop();
    let before = samba.usn();
    assert_eq!(agent.once(), 0, "{}", agent.log());
    assert_eq!(samba.usn(), before);
}

#[test]
fn a_domain_controller_put_back_in_time_is_compared_whole_and_releases_nobody() {
    let samba = Samba::builder().start();
    let ou = samba.ou("rollback");
    let ann = samba.user("ann", &ou, "");
    let mut agent = started(&samba, &ou, "");
    enabled(&agent, &samba, &ann);
    agent.wait_for("quiet", Agent::is_quiet);
    agent.stop();
    samba.stop();
    samba.save("before.tar");
    samba.launch();
    agent.start();
    for n in 0..3 {
        let lost = samba.user(&format!("lost-{n}"), &ou, "");
        enabled(&agent, &samba, &lost);
    }
    agent.wait_for("quiet", Agent::is_quiet);
    agent.stop();
    samba.stop();
    samba.put_back("before.tar");
    samba.launch();
    agent.start();
    agent.wait_for("the reason", |agent| agent.log().contains("put back in time"));
    let new = samba.user("new", &ou, "");
    enabled(&agent, &samba, &new);
    agent.wait_for("the lost users' end", |agent| agent.count("enabled") == 2);
    assert_eq!(told(&agent, "ann"), ["enabled"]);
}

#[test]
fn an_account_without_write_rights_makes_a_problem_of_each_user_and_says_what_it_cannot_see() {
    let samba = shared();
    let ou = samba.ou("e2e-plain");
    let user = samba.user("e2e-plain-user", &ou, "");
    let mut agent = Agent::of_samba(samba, &ou).account(PLAIN_DN, PLAIN_PASSWORD).extra(asking());
    agent.start();
    agent.wait_for("the problem", |agent| agent.count("problem") == 1);
    assert!(is_cleared(samba, &user));
    let status = agent.say(&["status"]);
    assert!(status.contains("by sweep only"), "{status}");
    let check = String::from_utf8_lossy(&agent.cli(&["check"]).stdout).into_owned();
    assert!(check.contains("by sweep only") && check.contains("Deleted Objects"), "{check}");
}

#[test]
fn check_finds_nothing_to_complain_about_with_the_rights_of_the_script() {
    let samba = shared();
    let ou = samba.ou("e2e-check");
    samba.user("e2e-checked", &ou, "");
    let agent = Agent::of_samba(samba, &ou).extra(asking());
    let output = agent.cli(&["check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("dirsync") && text.contains("deletes are heard at once"), "{text}");
    assert!(!text.to_lowercase().contains("fail"), "{text}");
}

#[test]
fn a_value_of_somebody_else_is_left_alone_and_a_name_that_the_syntax_refuses_is_a_problem_of_that_user() {
    let samba = shared();
    let ou = samba.ou("e2e-values");
    let foreign = samba.user("e2e-foreign", &ou, "msExchIMAddress: somebody@else.example\n");
    let under = samba.user("e2e_under", &ou, "");
    let good = samba.user("e2e-good", &ou, "");
    let agent = started(samba, &ou, "");
    enabled(&agent, samba, &good);
    agent.wait_for("both problems", |agent| agent.count("problem") == 2);
    assert_eq!(values(samba, &foreign)[0].as_deref(), Some("somebody@else.example"));
    assert_eq!(values(samba, &foreign)[1..], [None, None, None]);
    assert!(is_cleared(samba, &under));
    let problems = agent.say(&["problem", "list"]);
    assert!(problems.contains("e2e_under") && problems.contains("e2e-foreign"), "{problems}");
}

#[test]
fn groups_decide_and_groups_within_groups() {
    let samba = shared();
    let ou = samba.ou("e2e-groups");
    let (ann, bob) = (samba.user("e2e-member", &ou, ""), samba.user("e2e-nested", &ou, ""));
    let group = |name: &str, members: &str| {
        samba.modify(&format!(
            "dn: CN={name},{ou}\nchangetype: add\nobjectClass: group\nsAMAccountName: {name}\n{members}"
        ));
    };
    group("e2e-inner", &format!("member: {bob}\n"));
    group("e2e-staff", "");
    let rule = format!(
        "[[policy]]\nname = \"staff\"\nmatch = \"(memberOf=CN=e2e-staff,{ou})\"\nnested = true\naction = \"enable\"\n"
    );
    let agent = started(samba, &ou, &rule);
    agent.wait_for("quiet", Agent::is_quiet);
    assert!(is_cleared(samba, &ann) && is_cleared(samba, &bob));
    let member = |verb: &str, dn: &str| {
        samba.modify(&format!("dn: CN=e2e-staff,{ou}\nchangetype: modify\n{verb}: member\nmember: {dn}\n"));
    };
    member("add", &ann);
    enabled(&agent, samba, &ann);
    member("add", &format!("CN=e2e-inner,{ou}"));
    enabled(&agent, samba, &bob);
    member("delete", &ann);
    cleared(&agent, samba, &ann);
    assert!(is_enabled(samba, &bob));
}

#[test]
fn the_primary_group_and_the_rule_in_chain_decide_too() {
    let samba = shared();
    let ou = samba.ou("e2e-primary");
    let user = samba.user("e2e-primary-user", &ou, "");
    let group = |name: &str, members: &str| {
        samba.modify(&format!(
            "dn: CN={name},{ou}\nchangetype: add\nobjectClass: group\nsAMAccountName: {name}\n{members}\n"
        ));
        format!("CN={name},{ou}")
    };
    let inner = group("e2e-p-inner", "");
    let outer = group("e2e-p-outer", &format!("member: {inner}"));
    // Everybody's primary group at first is Domain Users; nobody is in its member list.
    let rule = |matches: &str| format!("[[policy]]\nname = \"r\"\nmatch = \"{matches}\"\naction = \"enable\"\n");
    {
        let agent = started(samba, &ou, &rule(&format!("(memberOf=CN=Domain Users,CN=Users,{SUFFIX})")));
        enabled(&agent, samba, &user);
    }
    samba.modify(&format!(
        "dn: {user}\nchangetype: modify\ndelete: msExchIMAddress\n-\ndelete: msExchIMMetaPhysicalURL\n-\n\
         delete: msExchIMPhysicalURL\n-\ndelete: msExchIMVirtualServer\n"
    ));
    let agent = started(samba, &ou, &rule(&format!("(memberOf:1.2.840.113556.1.4.1941:={outer})")));
    agent.wait_for("quiet", Agent::is_quiet);
    assert!(is_cleared(samba, &user));
    samba.modify(&format!("dn: {inner}\nchangetype: modify\nadd: member\nmember: {user}\n"));
    enabled(&agent, samba, &user);
}

#[test]
fn an_account_that_expires_is_released_when_the_moment_comes_though_nothing_changes() {
    let samba = shared();
    let ou = samba.ou("e2e-expires");
    let user = samba.user("e2e-expiring", &ou, "");
    let agent = started(samba, &ou, "");
    enabled(&agent, samba, &user);
    let in_seconds = Timestamp::now().0 / 1000 + 4;
    samba.replace(&user, "accountExpires", &((in_seconds + 11_644_473_600) * 10_000_000).to_string());
    cleared(&agent, samba, &user);
    assert!(Timestamp::now().0 / 1000 >= in_seconds, "not before");
    samba.replace(&user, "accountExpires", "0");
    enabled(&agent, samba, &user);
}

#[test]
fn a_renamed_ou_of_many_users_releases_nobody() {
    let samba = shared();
    let ou = samba.ou("e2e-mass");
    let inner = format!("OU=before,{ou}");
    samba.modify(&format!("dn: {inner}\nchangetype: add\nobjectClass: organizationalUnit\n"));
    let users: String = (0..200).map(|n| user(&format!("e2e-mass-{n}"), &inner, "") + "\n").collect();
    samba.modify(&users);
    let agent = started(samba, &ou, "");
    agent.wait_for("all of them", |agent| agent.count("enabled") == 200);
    agent.wait_for("quiet", Agent::is_quiet);
    let outcomes = agent.outcomes().len();
    samba.rename(&inner, "OU=after", None);
    let moved = format!(",OU=after,{ou}");
    agent.wait_for("the new DNs", |agent| {
        agent.standings().values().all(|standing| standing.record.dn.ends_with(&moved))
    });
    agent.wait_for("quiet", Agent::is_quiet);
    assert_eq!((agent.count("enabled"), agent.outcomes().len()), (200, outcomes));
}

/// The manual procedure, step by step, with an account that is created as the manual says and nobody touching anything else.
#[test]
fn give_users_access_to_the_service() {
    let samba = Samba::builder().start();
    let agent = started(&samba, SUFFIX, "");
    // 1 to 3: open the domain, and create an account; the e-mail address has no SRV record, or one.
    for (name, mail) in [("alice", "alice@example.com"), ("bob", "Bob.B@chat.example")] {
        samba.samba_tool(&["user", "create", name, "Secret-Pass1!", &format!("--mail-address={mail}")]);
    }
    let dn = |name: &str| format!("CN={name},CN=Users,{SUFFIX}");
    // 4: with Integrated Windows authentication passwords need no reset. 5 to 8: a home server is chosen.
    enabled(&agent, &samba, &dn("alice"));
    enabled(&agent, &samba, &dn("bob"));
    let server_of = |dn: &str| samba.value(dn, "msExchIMVirtualServer").unwrap();
    let homes = [server_of(&dn("alice")), server_of(&dn("bob"))];
    assert_ne!(homes[0], homes[1], "by load");
    for home in &homes {
        assert_eq!(samba.value(home, "msExchIMServerHostsUsers").as_deref(), Some("TRUE"));
    }
    // 9 and 10: without an SRV record the address is in the IM domain; with one it is the primary SMTP address.
    let address = |name: &str| samba.value(&dn(name), "msExchIMAddress").unwrap();
    assert_eq!(address("alice"), "alice@im.example.com");
    assert_eq!(address("bob"), "bob.b@chat.example");
    assert_eq!(
        samba.value(&dn("bob"), "msExchIMMetaPhysicalURL").as_deref(),
        Some("http://im.chat.example/instmsg/aliases/bob.b")
    );
    // 11: the task summary says the address that the user logs on with.
    let summary =
        |address: &str| agent.log().lines().any(|line| line.contains("user.enabled") && line.contains(address));
    agent.wait_for("the task summaries", |_| summary("alice@im.example.com") && summary("bob.b@chat.example"));
    // Administrator, Guest, krbtgt and computers are nobody's users; the agent's own account and the plain one are.
    agent.wait_for("quiet", Agent::is_quiet);
    let everybody: Vec<String> = agent.standings().into_keys().collect();
    assert_eq!(everybody, ["alice", "bob", "homeward-agent", "plain"]);
}

/// The same with Digest: who has a password from before the policy is enabled, and told to have it reset; then it is well.
#[test]
fn give_users_access_to_the_service_with_digest() {
    let samba = Samba::builder().start();
    samba.grant_with(&["--digest"], "homeward-agent", &[SUFFIX]);
    let dn = format!("CN=carol,CN=Users,{SUFFIX}");
    samba.samba_tool(&["user", "create", "carol", "Secret-Pass1!", "--mail-address=carol@chat.example"]);
    // Samba wants the account's flag beside the policy. Times of policies are whole seconds.
    samba.replace(&dn, "userAccountControl", &(512 + 128).to_string());
    std::thread::sleep(Duration::from_millis(1_100));
    samba.samba_tool(&["domain", "passwordsettings", "set", "--store-plaintext=on"]);
    let agent = started(&samba, SUFFIX, "[digest]\nrequired = true\n");
    enabled(&agent, &samba, &dn);
    // 4: "You must now reset the users' passwords."
    agent.wait_for("the flag", |agent| agent.standing("carol").status == Status::AwaitingPassword);
    let resets = agent.say(&["resets"]);
    assert!(resets.lines().any(|line| line.starts_with("carol")), "{resets}");
    // 11: the summary has the address, and what is still to do.
    let summary = |line: &str| line.contains("user.enabled") && line.contains("carol@chat.example");
    let log = agent.log();
    let line = log.lines().find(|line| summary(line)).expect("a task summary");
    assert!(line.contains("reset the password: it predates the Digest policy"), "{line}");
    samba.samba_tool(&["user", "setpassword", "carol", "--newpassword=Other-Pass2!"]);
    agent.wait_for("the service for carol", |agent| agent.standing("carol").status == Status::Enabled);
    agent.wait_for("the word", |agent| told(agent, "carol").ends_with(&["ready".into()]));
    assert_eq!(told(&agent, "carol"), ["enabled", "password-reset-required", "ready"]);
}

#[test]
fn ten_thousand_users_are_enabled_and_a_later_account_does_not_wait_for_them() {
    let samba = Samba::builder().start();
    let ou = samba.ou("many");
    for chunk in 0..10 {
        let users = (chunk * 1_000..(chunk + 1) * 1_000).map(|n| user(&format!("many-{n}"), &ou, "") + "\n");
        samba.modify(&users.collect::<String>());
    }
    let mut agent = Agent::of_samba(&samba, &ou).homes(&[4_000, 4_000, 4_000]).extra(asking());
    let began = Instant::now();
    agent.start();
    agent.wait_for("a part of the first pass", |agent| agent.count("enabled") > 500);
    let (late, created) = (samba.user("many-late", &ou, ""), Instant::now());
    enabled(&agent, &samba, &late);
    println!("a later account: enabled after {:?}", created.elapsed());
    assert!(agent.count("enabled") < 10_001, "not behind the first pass");
    while agent.count("enabled") < 10_001 {
        assert!(began.elapsed() < Duration::from_secs(900), "{}", agent.state());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("10,000 users: enabled after {:?}", began.elapsed());
    agent.wait_for("quiet", Agent::is_quiet);
    let servers = samba.entries(&ou, "(msExchIMVirtualServer=*)", &["msExchIMVirtualServer"]);
    let mut homes: BTreeMap<String, usize> = BTreeMap::new();
    for entry in servers.into_values() {
        *homes.entry(entry["msExchIMVirtualServer"][0].clone()).or_default() += 1;
    }
    assert_eq!((homes.len(), homes.values().sum::<usize>()), (3, 10_001));
    assert!(homes.values().all(|residents| *residents <= 4_000), "{homes:?}");
}

/// The first of two domain controllers dies in the middle of the first pass; later the second one dies.
#[test]
fn at_another_domain_controller_the_agent_goes_on_and_nobody_is_lost_or_released() {
    let one = Samba::builder().start();
    let ou = one.ou("failover");
    let users: String = (0..300).map(|n| user(&format!("failover-{n}"), &ou, "") + "\n").collect();
    one.modify(&users);
    let two = one.twin();
    // Both in one file: the agent trusts the authorities of either.
    let authorities = one.path("both.pem");
    let both = [one.ca_file(), two.ca_file()].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(&authorities, both).unwrap();
    let mut agent = Agent::of_samba(&one, &ou)
        .directory(&format!("urls = [\"{}\"]\n", two.ldaps_url()))
        .authorities(&authorities)
        .extra(asking());
    agent.start();
    agent.wait_for("a part of the first pass", |agent| agent.count("enabled") + agent.count("applying") > 20);
    one.kill9();
    agent.wait_for("the other one", |agent| agent.log().contains(&format!("connected to {}", two.ldaps_url())));
    agent.wait_for("everybody", |agent| agent.count("enabled") == 300 && agent.is_quiet());
    let released = |agent: &Agent| agent.outcomes().iter().filter(|(kind, _)| kind == "disabled").count();
    assert_eq!(released(&agent), 0);
    // The cursor is of the second one now; the first comes back, and is another one again.
    two.kill9();
    one.launch();
    let late = one.user("failover-late", &ou, "");
    enabled(&agent, &one, &late);
    agent.wait_for("quiet", |agent| agent.count("enabled") == 301 && agent.is_quiet());
    assert_eq!(released(&agent), 0);
}

/// A server of several processes rings only after seconds: there `highestCommittedUSN` is what wakes, every second.
#[test]
fn an_outcome_comes_soon_whether_the_server_rings_or_not() {
    for model in [Model::Single, Model::Prefork] {
        let samba = Samba::builder().model(model).start();
        let ou = samba.ou("latency");
        let agent = started(&samba, &ou, "");
        let mut took = Vec::new();
        for n in 0..10 {
            let user = samba.user(&format!("soon-{n}"), &ou, "");
            let created = Instant::now();
            enabled(&agent, &samba, &user);
            took.push(created.elapsed().as_millis());
            // At no particular moment of the agent's second.
            std::thread::sleep(Duration::from_millis(130 * (n % 5)));
        }
        println!("{model:?}: from the account's creation to its last value, ms: {took:?}");
    }
}

//! The promises of the architecture, kept by the real agent on a real OpenLDAP. Of each: nothing changes, then the border,
//! then a failure inside. The worker's model test keeps 2, 4, 5 and 9 between any two steps.

// A test waits, and has a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::directory::source::Cursor;
use homeward::feed::Feed;
use homeward::model::{Presence, Sequence, Status};
use homeward::store::enablement as db;
use homeward::store::open::{self, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use support::agent::Agent;
use support::changes::Changes;
use support::company::{Breakage, Company, Dice, Expected, uid};
use support::dns::{Cue, FailingDns, Nsd};
use support::slapd::{AGENT_PASSWORD, SUFFIX, Slapd, person};

const PEOPLE: &str = "(objectClass=inetOrgPerson)";

/// example.com has no SRV record, chat.example has one.
fn dns() -> Nsd {
    Nsd::start(&[("example.com", ""), ("chat.example", "_rvp._tcp SRV 0 0 80 im.chat.example.\n")])
}

/// Both e-mail domains of the sample companies have one: the address is the mail.
fn company_dns() -> Nsd {
    let record = "_rvp._tcp SRV 0 0 80 im.example.com.\n";
    Nsd::start(&[("example.com", record), ("example.org", record)])
}

fn asking(dns: &Nsd) -> String {
    format!("[dns]\nservers = [\"{}\"]\n", dns.address())
}

fn people(count: usize) -> String {
    (0..count).map(|n| person(&uid(n), "")).collect()
}

/// Whatever is written to an entry, by whomever, changes its entryCSN.
fn versions(slapd: &Slapd) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    slapd.entries(PEOPLE, &["entryCSN"])
}

/// How many users the directory says live at each home.
fn residents(slapd: &Slapd) -> BTreeMap<String, usize> {
    let mut homes = BTreeMap::new();
    for entry in slapd.entries("(imHomeServer=*)", &["imHomeServer"]).into_values() {
        *homes.entry(entry["imHomeServer"][0].clone()).or_default() += 1;
    }
    homes
}

fn delete_meta(agent: &Agent, kind: Kind, name: &str) {
    let store = open::writer(kind, &agent.state_dir()).unwrap();
    assert_eq!(store.execute("delete from meta where name = ?1", [name]).unwrap(), 1, "{name}");
}

#[test]
fn an_account_created_in_a_real_openldap_is_enabled_with_nobody_touching_it() {
    let (slapd, dns) = (Slapd::builder().start(), dns());
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("the first pass", |agent| agent.log().contains("source.refreshed"));
    slapd.add(&person("ann", ""));
    agent.wait_for("ann's enablement", |agent| agent.count("enabled") == 1);
    assert_eq!(slapd.value("(uid=ann)", "msExchIMAddress").as_deref(), Some("ann@im.example.com"));
    assert_eq!(slapd.value("(uid=ann)", "imHomeServer").as_deref(), Some("im1"));
}

/// Whatever the two cursors cover is in the stores.
fn cursors_cover_only_what_is_stored(agent: &Agent, slapd: &Slapd) {
    let Ok(log) = open::reader(Kind::Directory, &agent.state_dir()) else { return };
    let meta = |name: &str| {
        log.query_row("select value from meta where name = ?1", [name], |row| row.get::<_, String>(0)).ok()
    };
    if let Some(cursor) = meta("cursor") {
        let cursor: Cursor = serde_json::from_str(&cursor).unwrap();
        let cookie = String::from_utf8(cursor.position).unwrap();
        let csn = cookie.split(',').find_map(|part| part.strip_prefix("csn=")).expect("slapd's cookies have one");
        let known: BTreeSet<String> = log
            .prepare("select record ->> '$.dn' from entry where gone_seq = 0")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (dn, entry) in versions(slapd) {
            assert!(entry["entryCSN"][0].as_str() > csn || known.contains(&dn), "{cookie} covers {dn}, which is lost");
        }
    }
    let Ok(store) = open::reader(Kind::Enablement, &agent.state_dir()) else { return };
    if !matches!(db::meta(&store, "adopted"), Ok(Some(_))) {
        return;
    }
    let cursor = db::cursor(&store).unwrap();
    let rows = log
        .prepare("select key, seq from entry where gone_seq = 0 and seq <= ?1")
        .unwrap()
        .query_map([cursor.seq as i64], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)? as u64)))
        .unwrap()
        .map(Result::unwrap)
        .collect::<Vec<_>>();
    for (key, seq) in rows {
        let key = homeward::model::UserKey::from_bytes(&key).unwrap();
        let taken = db::standing(&store, &key).unwrap().is_some_and(|(_, standing)| standing.sequence.seq >= seq);
        assert!(taken, "the worker is at {cursor}, but never took in {key} of {seq}");
    }
}

#[test]
fn promise_1_a_cursor_moves_only_in_the_transaction_that_stores_what_it_covers() {
    let slapd = Slapd::builder().slapadd(people(400)).session_log(1000).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    let mut dice = Dice::new(11);
    for round in 0..8 {
        agent.start();
        // First within the first pass, later among changes.
        std::thread::sleep(Duration::from_millis(40 + dice.below(150)));
        slapd.add(&person(&format!("late{round}"), ""));
        std::thread::sleep(Duration::from_millis(dice.below(60)));
        agent.kill9();
        cursors_cover_only_what_is_stored(&agent, &slapd);
    }
    assert_eq!(agent.once(), 0);
    cursors_cover_only_what_is_stored(&agent, &slapd);
    assert_eq!(agent.count("enabled"), 408);
}

#[test]
fn promise_2_lost_doubled_and_reordered_events_do_no_harm() {
    let slapd = Slapd::builder().slapadd(people(40)).start();
    let dns = dns();
    let agent = Agent::of(&slapd).extra(asking(&dns));
    assert_eq!(agent.once(), 0);
    let (written, told) = (versions(&slapd), agent.outcomes());
    assert_eq!(told.len(), 40);

    // Everything again, for the worker and for the poller.
    delete_meta(&agent, Kind::Enablement, "cursor");
    assert_eq!(agent.once(), 0);
    delete_meta(&agent, Kind::Directory, "cursor");
    assert_eq!(agent.once(), 0);
    // From the middle.
    let store = open::writer(Kind::Enablement, &agent.state_dir()).unwrap();
    let cursor = db::cursor(&store).unwrap();
    db::set_cursor(&store, Sequence { seq: cursor.seq / 2, ..cursor }).unwrap();
    drop(store);
    assert_eq!(agent.once(), 0);
    assert_eq!(versions(&slapd), written);
    assert_eq!(agent.outcomes(), told);

    // Many changes while nobody listens, the last of which takes back the others: one look, nothing to do.
    for mail in ["x@example.com", "y@example.com", "u0000000@example.com"] {
        let dn = format!("uid=u0000000,ou=people,{SUFFIX}");
        slapd.modify(&format!("dn: {dn}\nchangetype: modify\nreplace: mail\nmail: {mail}\n"));
    }
    let written = versions(&slapd);
    assert_eq!(agent.once(), 0);
    assert_eq!(versions(&slapd), written);
    assert_eq!(agent.outcomes(), told);

    // Events that were lost altogether: the log is gone, and made anew.
    agent.lose("directory.db");
    assert_eq!(agent.once(), 0);
    assert_eq!(versions(&slapd), written);
    assert_eq!(agent.outcomes(), told);
}

#[test]
fn promise_2_who_left_while_the_log_was_lost_is_released_all_the_same() {
    let slapd = Slapd::builder().slapadd(people(40)).start();
    let dns = dns();
    let agent = Agent::of(&slapd).extra(asking(&dns));
    assert_eq!(agent.once(), 0);
    agent.lose("directory.db");
    slapd.delete(&format!("uid=u0000007,ou=people,{SUFFIX}"));
    assert_eq!(agent.once(), 0);
    assert_eq!(agent.standing("u0000007").status, Status::Gone);
    assert_eq!(agent.standing("u0000007").holds(), None);
    assert_eq!(agent.count("enabled"), 39);
}

/// Source files below a folder.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

#[test]
fn promise_3_decide_takes_values_and_returns_a_value() {
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("agent/decide"));
    assert!(files.len() >= 9);
    let code =
        |text: &str| text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (file, text) in &files {
        let text = code(text);
        for outside in [
            "SystemTime",
            "Instant",
            "Timestamp::now",
            "std::fs",
            "std::net",
            "std::env",
            "std::process",
            "std::thread",
            "std::io",
            "tokio",
            "rusqlite",
            "tracing",
            "ldap3",
            "rand",
            "println!",
            "eprintln!",
            "static mut",
            "RefCell",
            "Mutex",
            "Atomic",
        ] {
            let word = |before: Option<char>| before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            let named = text.match_indices(outside).any(|(at, _)| word(text[..at].chars().next_back()));
            assert!(!named, "{file} names {outside}");
        }
        for (at, _) in text.match_indices("crate::") {
            assert!(
                text[at..].starts_with("crate::model") || text[at..].starts_with("crate::decide"),
                "{file}: {}",
                &text[at..at + 40]
            );
        }
    }
}

#[test]
fn promise_4_an_unknown_srv_answer_never_turns_into_an_address() {
    let servfail = hickory_proto::op::ResponseCode::ServFail;
    let slapd = Slapd::builder().slapadd(people(5)).start();
    let dns = FailingDns::start(&[Cue::Code(servfail)]);
    let mut agent = Agent::of(&slapd).extra(format!("[dns]\nservers = [\"{}\"]\n", dns.address()));
    agent.start();
    agent.wait_for("the waiting", |agent| agent.count("waiting") == 5);
    for (login, standing) in agent.standings() {
        assert_eq!(standing.waiting_on.as_deref(), Some("srv:example.com"), "{login}");
        assert_eq!(standing.reserved, None, "{login}");
    }
    for cue in [Cue::Silence, Cue::Garbage, Cue::Referral] {
        dns.say(&[cue]);
        agent.say(&["user", "recheck", "u0000000"]);
    }
    assert_eq!(agent.count("waiting"), 5);
    assert!(slapd.entries("(msExchIMAddress=*)", &["1.1"]).is_empty());

    dns.say(&[Cue::srv("im.chat.example.")]);
    agent.wait_for("the enablement", |agent| agent.count("enabled") == 5);
    assert_eq!(slapd.value("(uid=u0000003)", "msExchIMAddress").as_deref(), Some("u0000003@example.com"));

    // Unknown again: who has an address keeps it.
    let written = versions(&slapd);
    dns.say(&[Cue::Code(servfail)]);
    agent.stop();
    assert_eq!(agent.once(), 0);
    assert_eq!(versions(&slapd), written);
}

#[test]
fn promise_4_a_missing_mail_is_unknown_until_it_was_awaited() {
    let slapd = Slapd::builder().start();
    let dns = dns();
    let im = "[im]\ndomain = \"im.example.com\"\nmail_wait = \"2s\"\n";
    let mut agent = Agent::of(&slapd).extra(format!("{im}{}", asking(&dns)));
    agent.start();
    agent.wait_for("the first pass", |agent| agent.log().contains("source.refreshed"));
    for login in ["soon", "never"] {
        slapd.add(&person(login, "").replace(&format!("mail: {login}@example.com\n"), ""));
    }
    agent.wait_for("the waiting", |agent| agent.count("waiting") == 2);
    assert_eq!(agent.standing("soon").waiting_on.as_deref(), Some("mail"));
    slapd.modify(&format!("dn: uid=soon,ou=people,{SUFFIX}\nadd: mail\nmail: soon@chat.example\n"));
    agent.wait_for("both", |agent| agent.count("enabled") == 2);
    assert_eq!(slapd.value("(uid=soon)", "msExchIMAddress").as_deref(), Some("soon@chat.example"));
    assert_eq!(slapd.value("(uid=never)", "msExchIMAddress").as_deref(), Some("never@im.example.com"));
}

#[test]
fn promise_5_our_placement_never_exceeds_a_capacity() {
    let slapd = Slapd::builder().slapadd(people(60)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).homes(&[10, 20, 30]).extra(asking(&dns));
    // Exactly full: nobody waits.
    assert_eq!(agent.once(), 0);
    assert_eq!(agent.count("enabled"), 60);
    let full = BTreeMap::from([("im1".to_owned(), 10), ("im2".to_owned(), 20), ("im3".to_owned(), 30)]);
    assert_eq!(residents(&slapd), full);

    // More users than places.
    agent.start();
    slapd.add(&(60..75).map(|n| person(&uid(n), "")).collect::<String>());
    agent.wait_for("those without a place", |agent| agent.count("waiting") == 15);
    assert!(
        agent
            .standings()
            .values()
            .filter(|s| s.status == Status::Waiting)
            .all(|s| s.waiting_on.as_deref() == Some("room"))
    );
    assert_eq!(residents(&slapd), full);

    // Two places come free, and are taken at once, by two.
    for gone in [3, 4] {
        slapd.delete(&format!("uid={},ou=people,{SUFFIX}", uid(gone)));
    }
    agent.wait_for("the next two", |agent| agent.count("waiting") == 13 && agent.count("enabled") == 60);
    agent.wait_for("their values", |_| residents(&slapd) == full);
    agent.set("enforce", &[10, 20, 30, 13], &asking(&dns));
    agent.reload();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 73);
    assert_eq!(residents(&slapd)["im4"], 13);
}

#[test]
fn promise_6_every_user_has_a_known_end_and_a_problem_has_a_hint_until_dealt_with() {
    let company = Company::new(120).broken(20);
    let slapd = Slapd::builder().slapadd(company.ldif()).start();
    let dns = company_dns();
    let agent = Agent::of(&slapd).extra(asking(&dns));
    assert_eq!(agent.once(), 3, "there are problems: {}", agent.state());
    let standings = agent.standings();
    assert_eq!(standings.len(), 120);
    let store = agent.store();
    for n in 0..120 {
        let standing = &standings[&uid(n)];
        let wanted = match company.breakage(n).map(Breakage::expected) {
            Some(Expected::Problem) => Status::Problem,
            Some(Expected::Enabled) | None => Status::Enabled,
        };
        assert_eq!(standing.status, wanted, "{n} {:?}", company.breakage(n));
        let problem = db::problem_of_user(&store, &standing.key).unwrap();
        assert_eq!(problem.is_some(), wanted == Status::Problem, "{n}");
        if let Some(problem) = problem {
            assert!(problem.hint.contains(": homeward "), "{n} {}: {}", problem.code, problem.hint);
            assert!(!problem.text.is_empty() && !problem.code.is_empty());
        }
    }
    let problems = db::open_problem_count(&store).unwrap();
    drop(store);
    // It stays visible, and is not told twice.
    let told = agent.outcomes();
    assert_eq!(agent.once(), 3);
    assert_eq!(agent.outcomes(), told);
    // Dealt with, it goes.
    let bad = (0..120).find(|n| company.breakage(*n) == Some(Breakage::MailWithoutAt)).unwrap();
    slapd.modify(&format!("dn: {}\nreplace: mail\nmail: {}\n", company.user_dn(bad), company.mail(bad)));
    assert_eq!(agent.once(), 3);
    assert_eq!(agent.standing(&uid(bad)).status, Status::Enabled);
    assert_eq!(db::open_problem_count(&agent.store()).unwrap(), problems - 1);
}

#[test]
fn promise_7_one_bad_user_stops_nobody_and_a_new_account_does_not_wait_behind_a_first_pass() {
    const USERS: u64 = 10_000;
    let company = Company::new(USERS as usize).broken(50);
    let slapd = Slapd::builder().slapadd(company.ldif()).fast().start();
    let dns = company_dns();
    let mut agent = Agent::of(&slapd).homes(&[6000, 6000]).extra(asking(&dns));
    let foreign =
        || slapd.entries("(|(msExchIMAddress=somebody@elsewhere.example.net)(imHomeServer=im-nobody-has))", &["*"]);
    let theirs = foreign();
    let mut changes = Changes::of(&slapd);
    agent.start();
    agent.wait_for("the reading", |agent| agent.log().contains("source.refresh_started"));
    // In the middle of the reading, and at every stage of the writing.
    let stages = [0, 1, 1000, 3000, 5000, 7000];
    for (n, stage) in stages.into_iter().enumerate() {
        agent.wait_for("the stage", |agent| agent.count("enabled") >= stage);
        let newcomer = format!("newcomer{n}");
        changes.add(&newcomer);
        let (added, before) = (Instant::now(), agent.count("enabled"));
        let filter = format!("(&(uid={newcomer})(msExchIMAddress=*))");
        agent.wait_for("the newcomer", |_| slapd.value(&filter, "imHomeServer").is_some());
        let (took, meanwhile) = (added.elapsed(), agent.count("enabled") - before);
        println!("a newcomer after {before} of {USERS} was enabled after {took:.0?}, {meanwhile} others meanwhile");
        assert!(meanwhile < USERS / 10, "it waited for {meanwhile} others: {took:?}");
    }
    assert!(agent.count("enabled") < USERS, "the first pass was over");
    let problems = company.broken_users().filter(|(.., expected)| *expected == Expected::Problem).count() as u64;
    assert!(problems >= 25);
    let newcomers = stages.len() as u64;
    agent.wait_for("everybody else", |agent| agent.count("enabled") == USERS + newcomers - problems);
    agent.wait_for("the broken ones", |agent| agent.count("problem") == problems);
    assert_eq!((theirs.len(), foreign()), (10, theirs), "what others wrote is untouched");
}

/// Nobody is touched: neither in the directory nor in the outcomes.
fn held(agent: &Agent, slapd: &Slapd, users: u64, written: &BTreeMap<String, BTreeMap<String, Vec<String>>>) -> String {
    agent.wait_for("the guard", |agent| agent.count("held") == users);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(&versions(slapd), written);
    assert!(!agent.outcomes().iter().any(|(kind, _)| kind == "disabled"));
    let plan: serde_json::Value = serde_json::from_str(&agent.say(&["problem", "show", "guard", "--json"])).unwrap();
    plan["held"]["hash"].as_str().unwrap_or_else(|| panic!("{plan}")).to_owned()
}

#[test]
fn promise_8_a_rule_that_would_release_everybody_touches_nobody_until_approved() {
    let slapd = Slapd::builder().slapadd(people(60)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 60);
    let written = versions(&slapd);
    let rule = |filter: &str| format!("[[policy]]\nname = \"some\"\nmatch = \"{filter}\"\n");
    agent.set("enforce", &[1000, 1000, 1000], &(asking(&dns) + &rule("(uid=u000000*)")));
    agent.reload();
    let hash = held(&agent, &slapd, 50, &written);
    assert_eq!(agent.count("enabled"), 10);

    // Who decides otherwise meanwhile is let go by nobody's approval of the old plan.
    let wrong = agent.cli(&["approve", "000000000000"]);
    assert_eq!(wrong.status.code(), Some(1));
    slapd.modify(&format!("dn: uid=u0000042,ou=people,{SUFFIX}\nreplace: uid\nuid: u0000042\nuid: u0000009x\n"));
    agent.wait_for("the one that stays", |agent| agent.count("held") == 49);
    let changed: serde_json::Value = serde_json::from_str(&agent.say(&["problem", "show", "guard", "--json"])).unwrap();
    let plan = changed["held"]["hash"].as_str().unwrap();
    assert_ne!(plan, hash);
    assert_eq!(agent.cli(&["approve", &hash]).status.code(), Some(1));
    agent.say(&["approve", plan]);
    agent.wait_for("exactly those", |agent| agent.count("ignored") + agent.count("disabled") == 49);
    agent.wait_for("their clearing", |_| slapd.entries("(msExchIMAddress=*)", &["1.1"]).len() == 11);
    assert_eq!(agent.outcomes().iter().filter(|(kind, _)| kind == "disabled").count(), 49);
    assert_eq!(agent.count("held"), 0);
}

#[test]
fn promise_8_few_releases_pass_and_a_mass_delete_does_not() {
    let slapd = Slapd::builder().slapadd(people(300)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 300);
    for n in 0..3 {
        slapd.delete(&format!("uid={},ou=people,{SUFFIX}", uid(n)));
    }
    agent.wait_for("the three", |agent| agent.count("gone") == 3);
    let gone: String =
        (3..203).map(|n| format!("dn: uid={},ou=people,{SUFFIX}\nchangetype: delete\n\n", uid(n))).collect();
    slapd.modify(&gone);
    agent.wait_for("the guard", |agent| agent.count("held") == 200);
    assert_eq!(agent.count("gone"), 3);
    assert_eq!(agent.outcomes().iter().filter(|(kind, _)| kind == "disabled").count(), 3);
    // Held stays held over a restart.
    agent.stop();
    assert_eq!(agent.once(), 4);
    assert_eq!(agent.count("held"), 200);
}

#[test]
fn promise_9_when_all_is_quiet_the_plan_is_empty_and_a_lost_store_writes_nothing() {
    let company = Company::new(200).broken(10);
    let slapd = Slapd::builder().slapadd(company.ldif()).start();
    let dns = company_dns();
    let agent = Agent::of(&slapd).extra(asking(&dns));
    let plan = |agent: &Agent| {
        let plan: serde_json::Value = serde_json::from_str(&agent.say(&["plan", "--json"])).unwrap();
        let refused = plan["counts"]["refuse"].as_u64().unwrap();
        let changes = plan["changes"].as_array().unwrap().clone();
        let touching: Vec<_> = changes.into_iter().filter(|change| change["decision"] != "refuse").collect();
        (touching, refused)
    };
    assert_eq!(agent.once(), 3);
    let (changes, refused) = plan(&agent);
    assert_eq!(changes, Vec::<serde_json::Value>::new());
    let (written, homes) = (versions(&slapd), agent.standings());
    assert_eq!(refused, agent.count("problem"));

    agent.lose("enablement.db");
    assert_eq!(agent.once(), 3);
    assert_eq!(versions(&slapd), written);
    assert_eq!(plan(&agent), (Vec::new(), refused));
    for (login, standing) in agent.standings() {
        assert_eq!(standing.reserved, homes[&login].reserved, "{login}");
        assert_eq!(standing.status, homes[&login].status, "{login}");
    }
    let told = agent.outcomes();
    let others: Vec<_> = told.iter().filter(|(kind, _)| kind != "adopted" && kind != "problem").collect();
    assert!(others.is_empty(), "{others:?}");

    // Both, with a newcomer for whom there was one place left: nobody lives where somebody lives already.
    agent.lose("enablement.db");
    agent.lose("directory.db");
    slapd.add(&person("newcomer", ""));
    assert_eq!(agent.once(), 3);
    let mut now = versions(&slapd);
    now.retain(|dn, _| !dn.contains("newcomer"));
    assert_eq!(now, written);
    assert_eq!(agent.standing("newcomer").status, Status::Enabled);
}

#[test]
fn promise_10_no_password_enters_a_store_a_log_or_an_event() {
    const CANARY: &str = "canary-7f3a91";
    let company = Company::new(30).broken(10).password(CANARY);
    let slapd = Slapd::builder().ppolicy(true).slapadd(company.ldif()).start();
    let dns = company_dns();
    let extra = format!(
        "[directory.attributes]\nextra = [\"description\"]\n[digest]\nrequired = true\nsince = \"2020-01-01T00:00:00Z\"\n{}",
        asking(&dns)
    );
    let mut agent = Agent::of(&slapd).extra(extra);
    agent.start();
    agent.wait_for("everybody", |agent| agent.is_quiet() && agent.standings().len() == 30);
    slapd.modify(&format!("dn: {}\nreplace: userPassword\nuserPassword: {CANARY}-2\n", company.user_dn(0)));
    slapd.modify(&format!("dn: {}\nreplace: description\ndescription: seen\n", company.user_dn(0)));
    agent.wait_for("the change", |agent| agent.standing(&uid(0)).record.text("description") == Some("seen"));
    let mut said = vec![("log".to_owned(), agent.log())];
    for verb in [
        &["events", "--feed", "users"][..],
        &["events", "--feed", "outcomes"],
        &["user", "show", "u0000000", "--json"],
        &["user", "explain", "u0000000"],
        &["status"],
        &["plan", "--json"],
        &["resets", "--csv"],
        &["config", "show"],
        &["problem", "list"],
        &["check", "-vv"],
    ] {
        let output = agent.cli(verb);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!text.is_empty(), "{verb:?}");
        said.push((verb.join(" "), text));
    }
    // The write-ahead logs too, while it runs, and the files it leaves.
    for _ in 0..2 {
        for file in std::fs::read_dir(agent.state_dir()).unwrap() {
            let file = file.unwrap().path();
            let bytes = std::fs::read(&file).unwrap();
            said.push((file.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
        if said.len() < 20 && agent.is_running() {
            agent.stop();
        }
    }
    for (place, text) in said {
        for secret in [CANARY, AGENT_PASSWORD] {
            assert!(!text.contains(secret), "{secret} is in {place}");
        }
    }
}

/// The feed tells the same that the stores hold, in whatever state the tests above left them.
#[test]
fn a_reader_of_the_feed_sees_everybody_once_and_then_only_what_changes() {
    let slapd = Slapd::builder().slapadd(people(20)).start();
    let dns = dns();
    let agent = Agent::of(&slapd).extra(asking(&dns));
    assert_eq!(agent.once(), 0);
    let feed = Feed::open(&agent.state_dir()).unwrap();
    let page = feed.after(Sequence::default(), 1000).unwrap();
    assert_eq!(page.rows.len(), 20);
    assert!(page.at_end);
    assert_eq!(agent.once(), 0);
    assert_eq!(feed.after(page.cursor, 1000).unwrap().rows, []);
    assert!(agent.standings().values().all(|standing| standing.presence == Presence::Present));
}

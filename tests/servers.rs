//! Directory servers in trouble: busy, cut off, lying, dead, one of several. Whatever they do, nobody is deleted or released
//! for it, `status` says what it is, and the agent goes on when they do.

// A test waits, and has a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::directory::source::Guarantees;
use homeward::feed::{Feed, PollerStatus};
use homeward::intake::SourceStatus;
use std::time::{Duration, Instant};
use support::agent::Agent;
use support::between::{Between, Cue};
use support::company::uid;
use support::dns::Nsd;
use support::slapd::{SUFFIX, Slapd, person};

const USERS: usize = 20;

fn dns() -> Nsd {
    Nsd::start(&[("example.com", "")])
}

fn asking(dns: &Nsd) -> String {
    format!("[dns]\nservers = [\"{}\"]\n", dns.address())
}

fn dn(login: &str) -> String {
    format!("uid={login},ou=people,{SUFFIX}")
}

fn people(range: std::ops::Range<usize>) -> String {
    range.map(|n| person(&uid(n), "")).collect()
}

fn status(agent: &Agent) -> PollerStatus {
    Feed::open(&agent.state_dir()).unwrap().status().unwrap()
}

/// Before the agent has made its store: nothing.
fn source(agent: &Agent) -> SourceStatus {
    let status = Feed::open(&agent.state_dir()).and_then(|feed| feed.status());
    let nothing = || SourceStatus {
        kind: String::new(),
        server: String::new(),
        state: String::new(),
        guarantees: Guarantees::default(),
    };
    status.ok().and_then(|status| status.source).unwrap_or_else(nothing)
}

/// Twenty users, all of them enabled.
fn company(url: &str, dns: &Nsd) -> Agent {
    let mut agent = Agent::at(url).extra(asking(dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == USERS as u64);
    agent.wait_for("rest", Agent::is_quiet);
    agent
}

fn refreshes(agent: &Agent) -> usize {
    agent.log().matches("line=source.refreshed").count()
}

/// The agent reads everything under this cue, says so in its state, and tells nobody anything.
fn in_trouble(agent: &Agent, between: &Between, cue: Cue, says: &str) {
    let (told, head) = (agent.outcomes(), status(agent).head);
    between.cue(cue);
    agent.say(&["sweep"]);
    agent.wait_for(&format!("{says:?} for {cue:?}"), |agent| source(agent).state.contains(says));
    let shown = agent.say(&["status"]);
    assert!(shown.contains(says), "{shown}");
    let now = status(agent);
    assert_eq!((now.present, now.missing, now.suspect, now.head), (USERS as u64, 0, None, head), "{cue:?}");
    assert_eq!(agent.outcomes(), told, "{cue:?}");
    let before = refreshes(agent);
    between.cue(Cue::Through);
    // What needs a person is tried again every 30 s; somebody asks.
    agent.say(&["sweep"]);
    agent.wait_for("the recovery", |agent| refreshes(agent) > before && source(agent).state == "live");
}

#[test]
fn a_server_that_is_busy_or_breaks_off_deletes_nobody_and_is_gone_on_with() {
    let slapd = Slapd::builder().slapadd(people(0..USERS)).start();
    let dns = dns();
    let between = Between::start(slapd.port());
    let agent = company(&between.url(), &dns);
    in_trouble(&agent, &between, Cue::Bind(51), "busy or unavailable (result 51");
    in_trouble(&agent, &between, Cue::Bind(52), "busy or unavailable (result 52");
    in_trouble(&agent, &between, Cue::Sync(51), "51 busy");
    in_trouble(&agent, &between, Cue::Sync(52), "52 unavailable");
    in_trouble(&agent, &between, Cue::SyncEnds { entries: 7, code: 3 }, "time limit exceeded");
    in_trouble(&agent, &between, Cue::SyncEnds { entries: 7, code: 4 }, "size limit exceeded");
    in_trouble(&agent, &between, Cue::SyncEnds { entries: 7, code: 11 }, "administrative limit exceeded");
    in_trouble(&agent, &between, Cue::SyncEnds { entries: 7, code: 0 }, "ended a search that was to stay open");
    in_trouble(&agent, &between, Cue::SyncCut { entries: 7 }, "closed the connection without a word");
    in_trouble(&agent, &between, Cue::Notice { entries: 7, code: 52 }, "said that it closes the connection: 52");
    in_trouble(&agent, &between, Cue::Gone, "127.0.0.1");
    slapd.add(&person("ann", ""));
    agent.wait_for("the next account", |agent| agent.count("enabled") == USERS as u64 + 1);
}

#[test]
fn a_notice_of_disconnection_while_live_loses_no_change() {
    let slapd = Slapd::builder().slapadd(people(0..USERS)).start();
    let dns = dns();
    let between = Between::start(slapd.port());
    let agent = company(&between.url(), &dns);
    between.cue(Cue::Notice { entries: 0, code: 52 });
    slapd.add(&person("ann", ""));
    agent.wait_for("the notice", |agent| agent.log().contains("said that it closes the connection"));
    between.cue(Cue::Through);
    agent.wait_for("the account that it kept back", |agent| agent.count("enabled") == USERS as u64 + 1);
}

#[test]
fn a_present_phase_that_names_nobody_is_doubted_and_the_doubt_ends_by_itself() {
    let slapd = Slapd::builder().slapadd(people(0..USERS)).start();
    let dns = dns();
    let between = Between::start(slapd.port());
    let agent = company(&between.url(), &dns);
    let told = agent.outcomes();
    between.cue(Cue::NobodyPresent);
    between.cut();
    agent.wait_for("the doubt", |agent| status(agent).suspect.is_some());
    let suspect = status(&agent).suspect.unwrap();
    assert_eq!((suspect.count, suspect.present), (USERS as u64, USERS as u64));
    assert_eq!((agent.outcomes(), status(&agent).gone), (told.clone(), 0));
    between.cue(Cue::Through);
    agent.wait_for("its end", |agent| status(agent).suspect.is_none() && status(agent).missing == 0);
    assert_eq!(agent.outcomes(), told);
}

#[test]
fn a_real_server_that_asks_for_a_refresh_is_read_anew() {
    let slapd = Slapd::builder().reload_hint(true).slapadd(people(0..3)).start();
    let dns = dns();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    assert_eq!(agent.once(), 0);
    // No entry is as old as our cookie any more, by a second: syncprov has nothing to compare it with.
    std::thread::sleep(Duration::from_millis(1_100));
    for dn in slapd.entries("(objectClass=*)", &["1.1"]).keys() {
        slapd.modify(&format!("dn: {dn}\nreplace: description\ndescription: touched\n"));
    }
    slapd.delete(&dn(&uid(0)));
    agent.start();
    agent.wait_for("the deleted one", |agent| agent.count("gone") == 1 && agent.count("enabled") == 2);
    assert!(agent.log().contains("asks for a full refresh"), "{}", agent.log());
    assert_eq!(source(&agent).state, "live");
}

#[test]
fn a_write_whose_connection_broke_is_made_or_found_made_at_once() {
    let slapd = Slapd::builder().slapadd(people(0..USERS)).start();
    let dns = dns();
    let between = Between::start(slapd.port());
    let agent = company(&between.url(), &dns);
    let cues = [Cue::CutAnswers { left: 1 }, Cue::CutAnswers { left: 2 }, Cue::CutRequests { left: 2 }];
    for (n, cue) in cues.into_iter().enumerate() {
        between.cue(cue);
        let login = format!("new{n}");
        slapd.add(&person(&login, ""));
        let added = Instant::now();
        agent.wait_for("the account", |agent| agent.count("enabled") == (USERS + 1 + n) as u64);
        let took = added.elapsed();
        // Not the 30 s of a write without an answer, nor the 5 s and then 10 s of one that was refused.
        assert!(took < Duration::from_secs(12), "{took:?} for {cue:?}: {}", agent.state());
        assert_ne!(between.current(), cue, "it was cut");
        assert!(slapd.value(&format!("(uid={login})"), "imHomeServer").is_some());
        assert_eq!(agent.outcomes().iter().filter(|(_, told)| *told == login).count(), 1, "told once");
    }
}

#[test]
fn a_server_too_busy_to_write_is_written_to_later_and_is_nobodys_problem() {
    let slapd = Slapd::builder().slapadd(people(0..USERS)).start();
    let dns = dns();
    let between = Between::start(slapd.port());
    let agent = company(&between.url(), &dns);
    for (n, code) in [51, 52].into_iter().enumerate() {
        between.cue(Cue::Modify(code));
        slapd.add(&person(&format!("new{n}"), ""));
        agent.wait_for("the refusal", |agent| agent.count("retrying") == 1);
        between.cue(Cue::Through);
        agent.wait_for("the account", |agent| agent.count("enabled") == (USERS + 1 + n) as u64);
    }
    assert!(agent.outcomes().iter().all(|(kind, _)| kind == "enabled"), "{:?}", agent.outcomes());
}

/// Three accounts more at a server, which enables them, as its own name for itself says.
fn goes_on_at(agent: &Agent, slapd: &Slapd, url: &str, logins: std::ops::Range<usize>, all: u64) {
    agent.wait_for(url, |agent| source(agent).server == url && source(agent).state == "live");
    let shown = agent.say(&["status"]);
    assert!(shown.contains(&format!("{url}: live")), "{shown}");
    slapd.add(&people(logins.clone()));
    agent.wait_for("the newcomers", |agent| agent.count("enabled") == all);
    for n in logins {
        assert!(slapd.value(&format!("(uid={})", uid(n)), "imHomeServer").is_some(), "written where we are");
    }
}

fn of_two(first: &str, second: &str, dns: &Nsd) -> Agent {
    let agent = Agent::at(first).extra(asking(dns));
    let config = std::fs::read_to_string(agent.config()).unwrap();
    let urls = format!("urls = [\"{first}\", \"{second}\"]");
    std::fs::write(agent.config(), config.replace(&format!("url = \"{first}\""), &urls)).unwrap();
    agent
}

#[test]
fn when_the_first_of_two_servers_dies_the_second_is_gone_on_with() {
    let first = Slapd::builder().slapadd(people(0..USERS)).start();
    let dns = dns();
    // Both hold the same, as two that replicate do.
    assert_eq!(Agent::of(&first).extra(asking(&dns)).once(), 0);
    let second = Slapd::builder().copy(&first).start();
    let mut agent = of_two(&first.url(), &second.url(), &dns);
    agent.start();
    agent.wait_for("the first", |agent| source(agent).server == first.url() && source(agent).state == "live");
    agent.wait_for("rest", |agent| agent.is_quiet() && agent.count("enabled") == USERS as u64);
    let told = agent.outcomes();
    first.kill9();
    goes_on_at(&agent, &second, &second.url(), 100..103, 23);
    let log = agent.log();
    assert_eq!(log.matches("line=source.refreshed").count(), 1, "the cookie was good there, too: {log}");
    // The other way round: what came to the second only is unknown to the first, which is behind.
    second.stop();
    first.restart();
    agent.wait_for("the doubt", |agent| agent.log().contains("is behind our cursor"));
    assert_eq!((status(&agent).gone, status(&agent).missing), (0, 0));
    second.restart();
    goes_on_at(&agent, &second, &second.url(), 103..106, 26);
    assert_eq!(agent.outcomes().len(), told.len() + 6, "nobody was released: {}", agent.state());
}

#[test]
fn a_dead_first_server_at_the_start_and_an_outage_of_both_are_got_over() {
    let first = Slapd::builder().slapadd(people(0..USERS)).start();
    let dns = dns();
    assert_eq!(Agent::of(&first).extra(asking(&dns)).once(), 0);
    let second = Slapd::builder().copy(&first).start();
    first.stop();
    let mut agent = of_two(&first.url(), &second.url(), &dns);
    agent.start();
    goes_on_at(&agent, &second, &second.url(), 100..103, 23);
    second.stop();
    agent.wait_for("the loss", |agent| source(agent).state.starts_with("lost"));
    assert_eq!((status(&agent).gone, status(&agent).missing, status(&agent).suspect), (0, 0, None));
    second.restart();
    goes_on_at(&agent, &second, &second.url(), 103..106, 26);
    assert!(agent.outcomes().iter().all(|(kind, _)| kind != "disabled"), "{:?}", agent.outcomes());
}

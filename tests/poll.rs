//! The source `poll`, on an OpenLDAP that tells nobody of changes (no syncprov), and the whole agent on it.

// clippy.toml's list is for decide/; a test reads the clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::config::Tls;
use homeward::directory::connect::Endpoint;
use homeward::directory::key::KeyAttribute;
use homeward::directory::source::poll::Poll;
use homeward::directory::source::syncrepl::{SearchShape, WIDEST_FILTER};
use homeward::directory::source::{Batch, Change, Comparison, Cursor, Presence, SourceError};
use homeward::directory::stream::{Access, Patience, StreamError};
use homeward::model::{DigestReadiness, Status};
use std::collections::BTreeSet;
use std::time::Duration;
use support::agent::Agent;
use support::dns::Nsd;
use support::slapd::{SUFFIX, Slapd, person};

/// Everything that is to happen happens long before.
const LONG: Duration = Duration::from_secs(60);
const OFTEN: Duration = Duration::from_millis(200);

fn access(slapd: &Slapd, page: Option<u32>) -> Access {
    let tls = Tls { mode: None, ca_file: None, certificate_file: None, key_file: None };
    Access {
        endpoint: Endpoint::parse(&slapd.url(), &tls, false).unwrap(),
        tls,
        bind: slapd.directory().bind,
        key: KeyAttribute::EntryUuid,
        page,
        patience: Patience::default(),
    }
}

fn shape() -> SearchShape {
    SearchShape {
        base: format!("ou=people,{SUFFIX}"),
        filter: WIDEST_FILTER.into(),
        attributes: ["objectClass", "uid", "title"].map(String::from).to_vec(),
        meaning: String::new(),
    }
}

fn poll(slapd: &Slapd, cursor: Option<&Cursor>) -> Poll {
    Poll::start(&access(slapd, Some(2)), &shape(), OFTEN, false, cursor)
}

async fn next(poll: &mut Poll) -> Batch {
    tokio::time::timeout(LONG, poll.next()).await.expect("it says something").unwrap()
}

/// DNs and keys that a comparison named, up to its end.
async fn compared(poll: &mut Poll, how: Comparison) -> (BTreeSet<String>, usize, Batch) {
    let (mut entries, mut present, mut begun) = (BTreeSet::new(), 0, false);
    loop {
        let batch = next(poll).await;
        begun |= batch.begins == Some(how);
        for change in batch.changes.iter().filter(|_| begun) {
            match change {
                Change::Entry(entry) => drop(entries.insert(entry.dn.clone())),
                Change::Present(keys) => present += keys.len(),
                other => panic!("{other:?}"),
            }
        }
        if begun && batch.complete.is_some() {
            return (entries, present, batch);
        }
    }
}

fn people(uids: &[&str]) -> String {
    uids.iter().map(|uid| person(uid, "")).collect()
}

fn dn(uid: &str) -> String {
    format!("uid={uid},ou=people,{SUFFIX}")
}

#[tokio::test]
async fn a_session_reads_everything_in_pages_then_only_who_is_there() {
    let slapd = Slapd::builder().without_sync().users(people(&["ann", "bob", "cyd"])).start();
    let mut poll = poll(&slapd, None);
    assert!(!poll.resumed());
    let (entries, _, end) = compared(&mut poll, Comparison::Whole).await;
    assert_eq!(entries, ["ann", "bob", "cyd"].map(dn).into_iter().chain([format!("ou=people,{SUFFIX}")]).collect());
    assert_eq!((end.complete, end.refresh), (Some(Presence::Everything), true));
    assert_eq!(end.cursor.unwrap().source, "poll");
    let (_, present, end) = compared(&mut poll, Comparison::Names).await;
    assert_eq!((present, end.complete), (4, Some(Presence::Everything)));
    slapd.delete(&dn("bob"));
    compared(&mut poll, Comparison::Names).await;
    assert_eq!(compared(&mut poll, Comparison::Names).await.1, 3);
}

#[tokio::test]
async fn what_is_modified_added_or_renamed_is_found_by_its_time_and_a_cursor_goes_on_from_there() {
    let slapd = Slapd::builder().without_sync().users(people(&["ann", "bob"])).start();
    let mut first = poll(&slapd, None);
    let mut cursor = compared(&mut first, Comparison::Whole).await.2.cursor;
    let modify = |uid: &str| slapd.modify(&format!("dn: {}\nreplace: title\ntitle: new\n", dn(uid)));
    modify("ann");
    slapd.add(&person("cyd", ""));
    slapd.modify(&format!("dn: {}\nchangetype: modrdn\nnewrdn: uid=rob\ndeleteoldrdn: 1\n", dn("bob")));
    let mut heard = BTreeSet::new();
    while heard.len() < 3 {
        let batch = next(&mut first).await;
        assert!(!batch.refresh || !batch.changes.iter().any(|change| matches!(change, Change::Entry(_))));
        cursor = batch.cursor.or(cursor);
        for change in batch.changes {
            if let Change::Entry(entry) = change
                && (entry.dn == dn("cyd") || entry.dn == dn("rob") || !entry.values("title").is_empty())
            {
                heard.insert(entry.dn);
            }
        }
    }
    assert_eq!(heard, ["ann", "cyd", "rob"].map(dn).into());
    drop(first);

    modify("cyd");
    let mut again = poll(&slapd, cursor.as_ref());
    assert!(again.resumed());
    let found =
        |change: &Change| matches!(change, Change::Entry(it) if it.dn == dn("cyd") && !it.values("title").is_empty());
    loop {
        let batch = next(&mut again).await;
        assert!(!batch.refresh, "what happened meanwhile comes first, as news");
        if batch.changes.iter().any(found) {
            break;
        }
    }
    // Then everything: who was deleted meanwhile is in no list of changes.
    assert_eq!(compared(&mut again, Comparison::Whole).await.0.len(), 4);

    // A cursor of another search is none.
    let other = SearchShape { meaning: "(objectClass=person)".into(), ..shape() };
    assert!(!Poll::start(&access(&slapd, None), &other, OFTEN, false, cursor.as_ref()).resumed());
}

#[tokio::test]
async fn those_below_a_renamed_container_are_read_again() {
    let unit = |name: &str| format!("ou={name},ou=people,{SUFFIX}");
    let slapd = Slapd::builder().without_sync().start();
    slapd.add(&format!("dn: {}\nobjectClass: organizationalUnit\nou: old\n", unit("old")));
    slapd.add(&person("ann", "").replace("ou=people", "ou=old,ou=people"));
    let mut poll = poll(&slapd, None);
    compared(&mut poll, Comparison::Whole).await;
    slapd.modify(&format!("dn: {}\nchangetype: modrdn\nnewrdn: ou=new\ndeleteoldrdn: 1\n", unit("old")));
    let ann = format!("uid=ann,{}", unit("new"));
    loop {
        let batch = next(&mut poll).await;
        if batch.changes.iter().any(|change| matches!(change, Change::Entry(entry) if entry.dn == ann)) {
            break;
        }
    }
}

#[tokio::test]
async fn a_partial_answer_is_an_error_and_never_absence() {
    let slapd = Slapd::builder().without_sync().users(people(&["ann", "bob", "cyd"])).size_limit(2).start();
    for page in [None, Some(1), Some(100)] {
        let mut poll = Poll::start(&access(&slapd, page), &shape(), OFTEN, false, None);
        let error = loop {
            match tokio::time::timeout(LONG, poll.next()).await.unwrap() {
                Ok(batch) => assert_eq!(batch.complete, None, "{page:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SourceError::Stream(StreamError::Refused { code: 4, .. })), "{page:?}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_goes_away_ends_the_session_and_absence_is_not_concluded() {
    let slapd = Slapd::builder().without_sync().users(people(&["ann"])).start();
    let mut poll = poll(&slapd, None);
    compared(&mut poll, Comparison::Whole).await;
    slapd.kill9();
    while let Ok(batch) = tokio::time::timeout(LONG, poll.next()).await.unwrap() {
        assert!(batch.complete.is_none() || !batch.changes.is_empty(), "{batch:?}");
    }
}

#[test]
fn the_whole_agent_works_on_a_server_that_is_only_asked() {
    let slapd = Slapd::builder().without_sync().users(people(&["ann", "bob", "cyd"])).start();
    let dns = Nsd::start(&[("example.com", "")]);
    let mut agent = Agent::of(&slapd)
        .base(&format!("ou=people,{SUFFIX}"))
        .directory("poll_interval = \"250ms\"")
        .extra(format!("[dns]\nservers = [\"{}\"]\n", dns.address()));
    agent.start();
    for uid in ["ann", "bob", "cyd"] {
        agent.waits(uid, Status::Enabled);
        assert!(slapd.value(&format!("(uid={uid})"), "imHomeServer").is_some());
    }
    let status = agent.say(&["status"]);
    assert!(
        status.contains("source   poll at") && status.contains("deletes within 5 s, by a presence scan"),
        "{status}"
    );
    assert!(status.contains("latency 0.25 s"), "{status}");

    slapd.add(&person("dan", ""));
    agent.waits("dan", Status::Enabled);
    slapd.delete(&dn("bob"));
    agent.waits("bob", Status::Gone);
    slapd.modify(&format!(
        "dn: {}\nchangetype: modrdn\nnewrdn: uid=cyd\ndeleteoldrdn: 0\nnewsuperior: ou=services,{SUFFIX}\n",
        dn("cyd")
    ));
    agent.waits("cyd", Status::Gone);

    // While nobody looks, one comes and one goes.
    agent.stop();
    slapd.add(&person("eve", ""));
    slapd.delete(&dn("dan"));
    agent.start();
    agent.waits("eve", Status::Enabled);
    agent.waits("dan", Status::Gone);
    assert_eq!(agent.standing("ann").status, Status::Enabled);
    let plan = agent.say(&["plan", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["changes"].as_array().map(Vec::len), Some(0), "{plan}");
    let checked = agent.say(&["check"]);
    assert!(checked.contains("poll: it is asked at intervals") && checked.contains("overlay syncprov"), "{checked}");
    assert!(!checked.contains("FAIL"), "{checked}");
}

#[test]
fn a_server_of_an_unknown_kind_is_asked_and_says_nothing_of_passwords() {
    let slapd = Slapd::builder().users(people(&["ann"])).start();
    let dns = Nsd::start(&[("example.com", "")]);
    let digest = "[digest]\nrequired = true\naction = \"expire\"\n";
    let mut agent = Agent::of(&slapd)
        .directory("flavour = \"generic\"\npoll_interval = \"250ms\"")
        .extra(format!("[dns]\nservers = [\"{}\"]\n{digest}", dns.address()));
    agent.start();
    agent.waits("ann", Status::Enabled);
    assert_eq!(agent.standing("ann").digest, DigestReadiness::Unknown);
    slapd.add(&person("bob", ""));
    agent.waits("bob", Status::Enabled);
    let checked = agent.cli(&["check"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.contains("generic: the configuration says so") && checked.contains("poll: it is asked"),
        "{checked}"
    );
    assert!(agent.say(&["status"]).contains("source   poll at"));
}

#[test]
fn more_deletes_than_the_guard_allows_are_found_by_a_scan_and_told_to_nobody() {
    let uids: Vec<String> = (0..12).map(|n| format!("u{n}")).collect();
    let slapd =
        Slapd::builder().without_sync().users(uids.iter().map(|uid| person(uid, "")).collect::<String>()).start();
    let dns = Nsd::start(&[("example.com", "")]);
    let mut agent = Agent::of(&slapd)
        .base(&format!("ou=people,{SUFFIX}"))
        .directory("poll_interval = \"250ms\"")
        .extra(format!("[dns]\nservers = [\"{}\"]\n", dns.address()));
    agent.start();
    for uid in &uids {
        agent.waits(uid, Status::Enabled);
    }
    for uid in &uids[..6] {
        slapd.delete(&dn(uid));
    }
    agent.wait_for("the suspicion", |agent| agent.log().contains("line=source.suspect "));
    assert!(uids.iter().all(|uid| agent.standing(uid).status == Status::Enabled), "{}", agent.state());
    let log = agent.log();
    let hash = log.split("plan.hash=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    agent.say(&["approve", &hash]);
    agent.wait_for("their leaving", |agent| uids[..3].iter().all(|uid| agent.standing(uid).status != Status::Enabled));
}

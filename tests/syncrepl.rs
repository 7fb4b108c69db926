//! Hearing changes from a real slapd: every row of its sync semantics, its transports, and its crashes.

// Only decide/ is without a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::config::{Bind, Tls, TlsMode};
use homeward::directory::connect::Endpoint;
use homeward::directory::key::KeyAttribute;
use homeward::directory::source::scan::Scan;
use homeward::directory::source::syncrepl::{SearchShape, Syncrepl, WIDEST_FILTER};
use homeward::directory::source::{Batch, Change, Cursor, Presence, SourceError};
use homeward::directory::stream::{Access, CertificateFault, Connection, Patience, Scope, StreamError};
use homeward::error::Disposition;
use homeward::model::UserKey;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;
use support::slapd::{Certificate, SUFFIX, Slapd, person};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// What is to come has come by then.
const QUIET: Duration = Duration::from_millis(700);

fn access_to(slapd: &Slapd, url: &str, tls: Tls) -> Access {
    Access {
        key: KeyAttribute::EntryUuid,
        page: None,
        endpoint: Endpoint::parse(url, &tls, false).unwrap(),
        tls,
        bind: slapd.directory().bind,
        patience: Patience::default(),
    }
}

fn access(slapd: &Slapd) -> Access {
    access_to(slapd, &slapd.url(), slapd.directory().tls)
}

fn shape() -> SearchShape {
    SearchShape {
        base: format!("ou=people,{SUFFIX}"),
        filter: WIDEST_FILTER.into(),
        attributes: ["objectClass", "uid", "cn", "title"].map(String::from).to_vec(),
        meaning: String::new(),
    }
}

fn three_users() -> String {
    ["ann", "bob", "cid"].map(|uid| person(uid, "")).concat()
}

fn key(slapd: &Slapd, uid: &str) -> UserKey {
    UserKey::parse(&slapd.value(&format!("(uid={uid})"), "entryUUID").unwrap()).unwrap()
}

fn title(slapd: &Slapd, uid: &str, title: &str) {
    slapd.modify(&format!("dn: uid={uid},ou=people,{SUFFIX}\nchangetype: modify\nreplace: title\ntitle: {title}\n"));
}

/// Batches added up.
#[derive(Default, Debug)]
struct Told {
    entries: Vec<(String, Option<String>)>,
    keys: BTreeSet<UserKey>,
    present: BTreeSet<UserKey>,
    removed: Vec<(UserKey, Option<String>)>,
    complete: Option<Presence>,
    cursor: Option<Cursor>,
}

impl Told {
    fn add(&mut self, batch: Batch) {
        for change in batch.changes {
            match change {
                Change::Entry(entry) => {
                    let title = entry.values("title").first().map(|title| String::from_utf8(title.clone()).unwrap());
                    self.keys.insert(entry.key);
                    self.entries.push((entry.dn, title));
                }
                Change::Present(keys) => self.present.extend(keys),
                Change::Removed { key, dn } => self.removed.push((key, dn)),
                Change::Deleted(_) | Change::Unreadable { .. } => panic!("{change:?}"),
            }
        }
        self.complete = batch.complete.or(self.complete);
        self.cursor = batch.cursor.or(self.cursor.take());
    }

    fn dns(&self) -> Vec<&str> {
        self.entries.iter().map(|(dn, _)| dn.split(',').next().unwrap()).collect()
    }
}

async fn next(sync: &mut Syncrepl) -> Result<Batch, SourceError> {
    tokio::time::timeout(LONG, sync.next()).await.expect("a batch within a minute")
}

/// Up to the end of the refresh.
async fn refresh(sync: &mut Syncrepl) -> Result<Told, SourceError> {
    let mut told = Told::default();
    while told.complete.is_none() {
        let batch = next(sync).await?;
        assert!(batch.refresh);
        assert!(batch.cursor.is_none() || batch.complete.is_some(), "no cursor before the end of the refresh");
        told.add(batch);
    }
    Ok(told)
}

/// What comes until it is quiet.
async fn live(sync: &mut Syncrepl) -> Told {
    let mut told = Told::default();
    while let Ok(batch) = tokio::time::timeout(QUIET, sync.next()).await {
        let batch = batch.unwrap();
        assert!(!batch.refresh && batch.complete.is_none());
        told.add(batch);
    }
    told
}

async fn start(slapd: &Slapd, cursor: Option<&Cursor>) -> (Syncrepl, Told) {
    let mut sync = Syncrepl::start(&access(slapd), &shape(), cursor).await.unwrap();
    let told = refresh(&mut sync).await.unwrap();
    (sync, told)
}

/// A cursor that covers everything so far.
async fn cursor(slapd: &Slapd) -> Cursor {
    start(slapd, None).await.1.cursor.expect("a cursor after a full refresh")
}

fn with_position(cursor: &Cursor, position: &str) -> Cursor {
    Cursor { position: position.into(), ..cursor.clone() }
}

fn position(cursor: &Cursor) -> &str {
    std::str::from_utf8(&cursor.position).unwrap()
}

#[tokio::test]
async fn a_refresh_from_nothing_tells_everything_with_the_attributes_asked_for() {
    let slapd = Slapd::builder().users(three_users()).start();
    let (sync, told) = start(&slapd, None).await;
    assert!(!sync.resumed());
    assert_eq!(told.dns(), ["ou=people", "uid=ann", "uid=bob", "uid=cid"]);
    assert_eq!(told.complete, Some(Presence::Everything));
    let cursor = told.cursor.unwrap();
    assert!(position(&cursor).contains("csn="), "{}", position(&cursor));
    assert_eq!((cursor.source.as_str(), cursor.server.as_str()), ("syncrepl", slapd.url().as_str()));

    let mut sync = Syncrepl::start(&access(&slapd), &shape(), None).await.unwrap();
    let mut changes = Vec::new();
    // How many come at once is the network's to say.
    while changes.len() < 2 {
        changes.extend(next(&mut sync).await.unwrap().changes);
    }
    let Some(Change::Entry(ann)) = changes.get(1) else { panic!("{changes:?}") };
    let names: Vec<&str> = ann.attributes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["objectclass", "uid", "cn", "entryuuid"]);
    assert_eq!(ann.key, key(&slapd, "ann"));
}

#[tokio::test]
async fn nothing_changed_tells_nothing_and_keeps_the_cursor() {
    for session_log in [0, 100] {
        let slapd = Slapd::builder().users(three_users()).session_log(session_log).start();
        let cursor = cursor(&slapd).await;
        let (sync, told) = start(&slapd, Some(&cursor)).await;
        assert!(sync.resumed());
        assert_eq!(told.complete, Some(Presence::ChangesOnly));
        assert!(told.entries.is_empty() && told.removed.is_empty() && told.present.is_empty() && told.cursor.is_none());
    }
}

async fn changes_while_away(slapd: &Slapd) -> (UserKey, UserKey, Told) {
    let (ann, bob) = (key(slapd, "ann"), key(slapd, "bob"));
    let cursor = cursor(slapd).await;
    slapd.delete(&format!("uid=ann,ou=people,{SUFFIX}"));
    slapd.modify(&format!(
        "dn: uid=bob,ou=people,{SUFFIX}\nchangetype: modrdn\nnewrdn: uid=bob\ndeleteoldrdn: 0\nnewsuperior: ou=groups,{SUFFIX}\n"
    ));
    title(slapd, "cid", "chief");
    slapd.add(&person("dan", ""));
    let (_, told) = start(slapd, Some(&cursor)).await;
    assert_ne!(told.cursor.as_ref().unwrap().position, cursor.position);
    (ann, bob, told)
}

#[tokio::test]
async fn with_a_session_log_the_removed_are_named() {
    let slapd = Slapd::builder().users(three_users()).session_log(100).start();
    let (ann, bob, told) = changes_while_away(&slapd).await;
    assert_eq!(told.complete, Some(Presence::ChangesOnly));
    let removed: BTreeSet<UserKey> = told.removed.iter().map(|(key, _)| *key).collect();
    assert_eq!(removed, BTreeSet::from([ann, bob]));
    assert_eq!(told.dns(), ["uid=cid", "uid=dan"]);
    assert!(told.present.is_empty());
}

#[tokio::test]
async fn without_a_session_log_the_present_are_named() {
    let slapd = Slapd::builder().users(three_users()).start();
    let (ann, bob, told) = changes_while_away(&slapd).await;
    assert_eq!(told.complete, Some(Presence::Everything));
    assert!(told.removed.is_empty());
    let named: BTreeSet<UserKey> = told.keys.union(&told.present).copied().collect();
    assert!(!named.contains(&ann) && !named.contains(&bob));
    assert_eq!(named.len(), 3, "ou=people, cid and dan: {told:?}");
    assert!(told.dns().contains(&"uid=cid") && told.dns().contains(&"uid=dan"));
}

#[tokio::test]
async fn a_session_log_that_does_not_reach_back_is_as_none() {
    let slapd = Slapd::builder().users(three_users()).session_log(2).start();
    let cursor = cursor(&slapd).await;
    for n in 0..8 {
        title(&slapd, "ann", &format!("t{n}"));
    }
    let (_, told) = start(&slapd, Some(&cursor)).await;
    assert_eq!(told.complete, Some(Presence::Everything));
    assert!(told.entries.iter().any(|(_, title)| title.as_deref() == Some("t7")));
}

#[tokio::test]
async fn live_changes_come_one_by_one_with_a_cursor_each() {
    let slapd = Slapd::builder().users(three_users()).session_log(100).start();
    let (mut sync, told) = start(&slapd, None).await;
    let mut last = told.cursor.unwrap();
    let mut step = async |what: &str| {
        let told = live(&mut sync).await;
        let cursor = told.cursor.clone().unwrap_or_else(|| panic!("{what}: no cursor"));
        assert!(cursor.position > last.position, "{what}: the cursor moves on");
        last = cursor;
        told
    };

    slapd.add(&person("dan", "title: new"));
    let told = step("add").await;
    assert_eq!(told.entries, [(format!("uid=dan,ou=people,{SUFFIX}"), Some("new".into()))]);
    let dan = key(&slapd, "dan");
    assert_eq!(told.keys, BTreeSet::from([dan]));

    title(&slapd, "dan", "chief");
    let told = step("modify").await;
    assert_eq!(told.entries, [(format!("uid=dan,ou=people,{SUFFIX}"), Some("chief".into()))]);

    // Stops to match what a filter of ours would say: to the server, which was asked for everything, a modify.
    slapd.modify(&format!("dn: uid=dan,ou=people,{SUFFIX}\nchangetype: modify\ndelete: title\n"));
    assert_eq!(step("delete of a value").await.entries, [(format!("uid=dan,ou=people,{SUFFIX}"), None)]);

    slapd.modify(&format!("dn: uid=dan,ou=people,{SUFFIX}\nchangetype: modrdn\nnewrdn: uid=dana\ndeleteoldrdn: 1\n"));
    let told = step("modrdn").await;
    assert_eq!((told.dns(), &told.keys), (vec!["uid=dana"], &BTreeSet::from([dan])), "the key tells who was renamed");

    slapd.modify(&format!(
        "dn: uid=dana,ou=people,{SUFFIX}\nchangetype: modrdn\nnewrdn: uid=dana\ndeleteoldrdn: 0\nnewsuperior: ou=groups,{SUFFIX}\n"
    ));
    let told = step("move out of the base").await;
    assert_eq!(told.removed.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [dan]);

    slapd.delete(&format!("uid=ann,ou=people,{SUFFIX}"));
    let told = step("delete").await;
    assert_eq!(told.removed.len(), 1);
    assert_eq!(told.removed[0].1.as_deref(), Some(format!("uid=ann,ou=people,{SUFFIX}").as_str()));

    slapd.modify(&format!("dn: ou=groups,{SUFFIX}\nchangetype: modify\nreplace: description\ndescription: x\n"));
    let told = step("a change elsewhere").await;
    assert!(told.entries.is_empty() && told.removed.is_empty(), "only the cursor: {told:?}");
}

#[tokio::test]
async fn the_rename_of_a_container_is_told_of_the_container_only() {
    let unit = format!("dn: ou=sales,ou=people,{SUFFIX}\nobjectClass: organizationalUnit\nou: sales\n\n");
    let user = person("eva", "").replace("ou=people", "ou=sales,ou=people");
    let slapd = Slapd::builder().users(unit + &user).start();
    let (mut sync, _) = start(&slapd, None).await;
    slapd
        .modify(&format!("dn: ou=sales,ou=people,{SUFFIX}\nchangetype: modrdn\nnewrdn: ou=selling\ndeleteoldrdn: 1\n"));
    let told = live(&mut sync).await;
    assert_eq!(told.dns(), ["ou=selling"]);
    assert!(told.cursor.is_some());
}

#[tokio::test]
async fn a_very_old_cookie_and_one_of_an_unknown_server_end_in_everything() {
    let slapd = Slapd::builder().users(three_users()).session_log(100).start();
    let cursor = cursor(&slapd).await;
    for stale in [
        "rid=000,sid=001,csn=20000101000000.000000Z#000000#001#000000",
        "rid=000,sid=007,csn=20200101000000.000000Z#000000#007#000000",
    ] {
        let (sync, told) = start(&slapd, Some(&with_position(&cursor, stale))).await;
        assert!(sync.resumed());
        assert_eq!(told.complete, Some(Presence::Everything), "{stale}");
        assert_eq!(told.keys.union(&told.present).count(), 4, "{stale}");
        assert_eq!(told.cursor.unwrap().position, cursor.position, "{stale}");
    }
}

#[tokio::test]
async fn a_cookie_without_sense_is_not_sent() {
    let slapd = Slapd::builder().users(three_users()).start();
    let cursor = cursor(&slapd).await;
    let without_rid = position(&cursor).split_once("csn=").map(|(_, csn)| format!("csn={csn}")).unwrap();
    for senseless in ["garbage", "", "rid=000,sid=001", "rid=000,sid=001,csn=what#is#this", &without_rid] {
        let (sync, told) = start(&slapd, Some(&with_position(&cursor, senseless))).await;
        assert!(!sync.resumed(), "{senseless}");
        assert_eq!((told.complete, told.entries.len()), (Some(Presence::Everything), 4), "{senseless}");
        assert_eq!(told.cursor.unwrap().position, cursor.position, "{senseless}");
    }
}

#[tokio::test]
async fn a_cursor_of_another_search_account_or_source_is_not_used() {
    let slapd = Slapd::builder().users(three_users()).start();
    let cursor = cursor(&slapd).await;
    let other_filter = SearchShape { filter: "(uid=*)".into(), ..shape() };
    let mut sync = Syncrepl::start(&access(&slapd), &other_filter, Some(&cursor)).await.unwrap();
    assert!(!sync.resumed());
    let told = refresh(&mut sync).await.unwrap();
    assert_eq!((told.dns(), told.complete), (vec!["uid=ann", "uid=bob", "uid=cid"], Some(Presence::Everything)));

    let other_source = Cursor { source: "dirsync".into(), ..cursor.clone() };
    assert!(!Syncrepl::start(&access(&slapd), &shape(), Some(&other_source)).await.unwrap().resumed());
    let other_account = Access {
        bind: Bind::Simple {
            dn: support::slapd::ADMIN_DN.into(),
            password: support::slapd::ADMIN_PASSWORD.to_owned().into(),
        },
        ..access(&slapd)
    };
    assert!(!Syncrepl::start(&other_account, &shape(), Some(&cursor)).await.unwrap().resumed());
}

#[tokio::test]
async fn after_a_crash_the_cursor_is_ahead_until_the_next_write_and_then_nothing_is_lost() {
    let slapd = Slapd::builder().users(three_users()).session_log(100).start();
    let (mut sync, _) = start(&slapd, None).await;
    for n in 0..5 {
        title(&slapd, "ann", &format!("t{n}"));
    }
    let cursor = live(&mut sync).await.cursor.unwrap();
    slapd.kill9();
    assert!(matches!(next(&mut sync).await, Err(SourceError::Stream(_))));
    slapd.restart();
    let mut sync = Syncrepl::start(&access(&slapd), &shape(), Some(&cursor)).await.unwrap();
    match refresh(&mut sync).await {
        Err(error @ SourceError::CursorAhead { .. }) => assert_eq!(error.disposition(), Disposition::Retry),
        other => panic!("{other:?}"),
    }
    title(&slapd, "bob", "after");
    let (_, told) = start(&slapd, Some(&cursor)).await;
    assert!(told.entries.iter().any(|(dn, title)| dn.starts_with("uid=bob") && title.as_deref() == Some("after")));
}

#[tokio::test]
async fn a_restart_while_live_is_an_error_and_the_cursor_goes_on_without_loss() {
    let slapd = Slapd::builder().users(three_users()).start();
    let (mut sync, _) = start(&slapd, None).await;
    title(&slapd, "ann", "before");
    let cursor = live(&mut sync).await.cursor.unwrap();
    slapd.stop();
    match next(&mut sync).await {
        Err(error @ SourceError::Stream(_)) => assert_eq!(error.disposition(), Disposition::Retry, "{error}"),
        other => panic!("{other:?}"),
    }
    match Syncrepl::start(&access(&slapd), &shape(), Some(&cursor)).await {
        Err(SourceError::Stream(StreamError::Connect(error))) => assert_eq!(error.disposition(), Disposition::Retry),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("nobody listens"),
    }
    slapd.restart();
    title(&slapd, "bob", "meanwhile");
    slapd.delete(&format!("uid=cid,ou=people,{SUFFIX}"));
    let (mut sync, told) = start(&slapd, Some(&cursor)).await;
    assert_eq!(told.complete, Some(Presence::Everything), "the session log is gone with the process");
    assert!(told.entries.iter().any(|(_, title)| title.as_deref() == Some("meanwhile")));
    assert_eq!(told.keys.union(&told.present).count(), 3, "cid is not among them");
    title(&slapd, "ann", "after");
    assert_eq!(live(&mut sync).await.entries.len(), 1);
}

#[tokio::test]
async fn tls_in_both_forms_needs_the_right_ca_and_name() {
    let slapd = Slapd::builder().users(three_users()).start();
    let start_tls = Tls { mode: Some(TlsMode::Starttls), ..slapd.directory().tls };
    for (url, tls) in [(slapd.ldaps_url(), slapd.directory().tls), (slapd.url(), start_tls)] {
        let good = access_to(&slapd, &url, tls.clone());
        let mut sync = Syncrepl::start(&good, &shape(), None).await.unwrap();
        assert_eq!(refresh(&mut sync).await.unwrap().entries.len(), 4, "{url}");
        title(&slapd, "ann", "live");
        assert_eq!(live(&mut sync).await.entries.len(), 1, "{url}");
        let other_ca = Tls { ca_file: Some(slapd.other_ca_file()), ..tls };
        certificate_fault(&access_to(&slapd, &url, other_ca), CertificateFault::UnknownCa).await;
    }
    for (certificate, fault) in
        [(Certificate::OtherName, CertificateFault::WrongName), (Certificate::Expired, CertificateFault::Expired)]
    {
        let slapd = Slapd::builder().certificate(certificate).start();
        certificate_fault(&access_to(&slapd, &slapd.ldaps_url(), slapd.directory().tls), fault).await;
    }
}

async fn certificate_fault(access: &Access, expected: CertificateFault) {
    match Connection::open(access).await.err() {
        Some(error @ StreamError::Certificate { fault, .. }) => {
            assert_eq!(fault, expected, "{error}");
            assert_eq!(error.disposition(), Disposition::Hold);
        }
        Some(error) => panic!("{expected:?}: {error:?}"),
        None => panic!("{expected:?}: trusted all the same"),
    }
}

#[tokio::test]
async fn sasl_external_binds_over_a_socket_and_by_client_certificate() {
    let slapd = Slapd::builder().users(three_users()).start();
    let socket = Access { bind: Bind::External, ..access_to(&slapd, &slapd.ldapi_url(), slapd.directory().tls) };
    let (certificate, key) = slapd.client_certificate();
    let tls = Tls { certificate_file: Some(certificate), key_file: Some(key), ..slapd.directory().tls };
    let by_certificate = Access { bind: Bind::External, ..access_to(&slapd, &slapd.ldaps_url(), tls) };
    for access in [socket, by_certificate] {
        let mut sync = Syncrepl::start(&access, &shape(), None).await.unwrap();
        assert_eq!(refresh(&mut sync).await.unwrap().entries.len(), 4, "{}", access.endpoint.url);
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_said_with_what_to_do() {
    let slapd = Slapd::builder().users(three_users()).size_limit(2).start();
    let wrong = Bind::Simple { dn: support::slapd::AGENT_DN.into(), password: "wrong".to_owned().into() };
    let error = Connection::open(&Access { bind: wrong, ..access(&slapd) }).await.err().unwrap();
    assert!(matches!(error, StreamError::Refused { code: 49, .. }), "{error}");
    assert!(error.hint().0.contains("bind_password_file") && !error.to_string().contains("wrong"), "{error}");
    assert_eq!(error.disposition(), Disposition::Hold);

    let mut sync = Syncrepl::start(&access(&slapd), &shape(), None).await.unwrap();
    match refresh(&mut sync).await {
        Err(error @ SourceError::Stream(StreamError::Refused { code: 4, .. })) => {
            assert!(error.hint().0.contains("limits dn.exact=\"cn=homeward,"), "{}", error.hint());
            assert_eq!(error.disposition(), Disposition::Hold);
        }
        other => panic!("{other:?}"),
    }
    let nowhere = SearchShape { base: format!("ou=nowhere,{SUFFIX}"), ..shape() };
    let mut sync = Syncrepl::start(&access(&slapd), &nowhere, None).await.unwrap();
    match refresh(&mut sync).await {
        Err(SourceError::Stream(error @ StreamError::Refused { code: 32, .. })) => {
            assert!(error.to_string().contains("ou=nowhere"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_scan_ends_with_none_only_after_the_servers_success() {
    let slapd = Slapd::builder().users(three_users()).start();
    let base = format!("ou=people,{SUFFIX}");
    let mut scan = Scan::start(&access(&slapd), &base, Scope::One, "(uid=*)", &["uid".into()]).await.unwrap();
    let mut dns = Vec::new();
    while let Some(changes) = scan.next().await.unwrap() {
        for change in changes {
            let Change::Entry(entry) = change else { panic!("{change:?}") };
            assert_eq!(entry.values("uid").len(), 1);
            dns.push(entry.dn);
        }
    }
    assert_eq!(dns.len(), 3);
    assert!(scan.next().await.unwrap().is_none(), "still");

    let limited = Slapd::builder().users(three_users()).size_limit(2).start();
    let mut scan = Scan::start(&access(&limited), &base, Scope::One, "(uid=*)", &["uid".into()]).await.unwrap();
    let error = loop {
        match scan.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("two of three are not all"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StreamError::Refused { code: 4, .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_no_longer_answers_is_noticed() {
    let slapd = Slapd::builder().users(three_users()).start();
    let patience = Patience { idle: Duration::from_millis(300), answer: Duration::from_secs(2), ..Patience::default() };
    let mut sync = Syncrepl::start(&Access { patience, ..access(&slapd) }, &shape(), None).await.unwrap();
    refresh(&mut sync).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(4), sync.next()).await.is_err(),
        "a quiet server that answers is left in peace"
    );
    let signal = |name: &str| {
        let pid = slapd.pid().unwrap();
        assert!(
            std::process::Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap().success()
        );
    };
    signal("STOP");
    let ended = tokio::time::timeout(LONG, sync.next()).await;
    signal("CONT");
    match ended {
        Ok(Err(error @ SourceError::Stream(StreamError::Silent { .. }))) => {
            assert_eq!(error.disposition(), Disposition::Retry);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn dropping_it_closes_the_connection_at_once() {
    let slapd = Slapd::builder().users(three_users()).start();
    let (sync, _) = start(&slapd, None).await;
    let established = || {
        let remote = format!(":{:04X} ", slapd.port());
        std::fs::read_to_string("/proc/net/tcp")
            .unwrap()
            .lines()
            .filter(|line| {
                let mut fields = line.split_whitespace().skip(2);
                fields.next().is_some_and(|to| format!("{to} ").ends_with(&remote)) && fields.next() == Some("01")
            })
            .count()
    };
    assert_eq!(established(), 1);
    drop(sync);
    let started = std::time::Instant::now();
    while established() > 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "the connection is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn own_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_sleeping_consumer_costs_little_memory_and_loses_nothing() {
    const USERS: usize = 100_000;
    let slapd = {
        let mut ldif = String::with_capacity(USERS * 250);
        for n in 0..USERS {
            let _ = write!(
                ldif,
                "dn: uid=u{n},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: u{n}\ncn: User {n}\nsn: {n}\n\
                 mail: u{n}@example.com\ntitle: number {n}\n\n"
            );
        }
        Slapd::builder().slapadd(ldif).start()
    };
    // Other tests of this process count too, but they are small.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sync = Syncrepl::start(&access(&slapd), &shape(), None).await.unwrap();
        let before = own_rss_kib();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asleep = own_rss_kib().saturating_sub(before);
        assert!(asleep < 60 * 1024, "{asleep} KiB more while asleep");
        let mut keys = std::collections::HashSet::new();
        let mut told = None;
        while told.is_none() {
            let batch = next(&mut sync).await.unwrap();
            keys.extend(batch.changes.iter().map(|change| match change {
                Change::Entry(entry) => entry.key,
                other => panic!("{other:?}"),
            }));
            told = batch.complete;
        }
        assert_eq!((keys.len(), told), (USERS + 1, Some(Presence::Everything)));
    });
}

//! What Windows does and Samba does not, on a scripted server: `support/windows.rs` says which document each rule follows.

// Only decide/ is without a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::config::{Attributes, Bind, Directory, Flavour, SourceKind, Tls};
use homeward::directory::connect::{Endpoint, connect};
use homeward::directory::flavour::{RootDse, profile};
use homeward::directory::key::KeyAttribute;
use homeward::directory::lookup;
use homeward::directory::source::scan::Scan;
use homeward::directory::source::syncrepl::{SearchShape, WIDEST_FILTER};
use homeward::directory::source::{Batch, Change, Cursor, Means, Source, SourceError};
use homeward::directory::stream::{Access, Scope};
use homeward::directory::write_back::{Target, apply};
use homeward::model::{AttributeChange, UserKey, Write, WriteRefusal, WriteResult};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;
use support::windows::{HEAD, Rules, Windows};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// As the poller asks for.
const PAGE: u32 = 1000;
const BOTH: [SourceKind; 2] = [SourceKind::DirSync, SourceKind::Usn];

fn directory(windows: &Windows) -> Directory {
    Directory {
        urls: vec![windows.url()],
        base: HEAD.into(),
        flavour: None,
        source: None,
        filter: None,
        bind: Bind::Simple { dn: "agent@example.com".into(), password: "secret".to_owned().into() },
        tls: Tls { mode: None, ca_file: None, certificate_file: None, key_file: None },
        allow_plaintext: false,
        poll_interval: LONG,
        sweep_interval: LONG,
        attributes: Attributes::default(),
    }
}

fn access(windows: &Windows) -> Access {
    let directory = directory(windows);
    let endpoint = Endpoint::parse(&directory.urls[0], &directory.tls, false).unwrap();
    Access { page: Some(PAGE), ..Access::new(&directory, endpoint, KeyAttribute::ObjectGuid) }
}

fn attributes() -> Vec<String> {
    ["objectClass", "sAMAccountName", "member"].map(String::from).to_vec()
}

async fn start(kind: SourceKind, windows: &Windows, cursor: Option<&Cursor>) -> Result<Source, SourceError> {
    let shape = SearchShape {
        base: HEAD.into(),
        filter: WIDEST_FILTER.into(),
        attributes: attributes(),
        meaning: String::new(),
    };
    let means = Means::new(kind, LONG, &RootDse::default(), true);
    Source::start(&means, &access(windows), &shape, cursor).await
}

async fn next(source: &mut Source) -> Result<Batch, SourceError> {
    tokio::time::timeout(LONG, source.next()).await.expect("a batch within a minute")
}

/// Names of users and numbers of members, up to the end of the refresh; and the cursor.
async fn refreshed(source: &mut Source) -> Result<(BTreeSet<String>, Vec<usize>, Cursor), SourceError> {
    let (mut names, mut members) = (BTreeSet::new(), Vec::new());
    loop {
        let batch = next(source).await?;
        for change in &batch.changes {
            note(change, &mut names, &mut members);
        }
        if batch.complete.is_some() {
            return Ok((names, members, batch.cursor.unwrap()));
        }
    }
}

fn note(change: &Change, names: &mut BTreeSet<String>, members: &mut Vec<usize>) {
    let Change::Entry(entry) = change else { panic!("{change:?}") };
    let name = entry.values("samaccountname").first();
    names.extend(name.map(|name| String::from_utf8_lossy(name).into_owned()));
    assert!(entry.attributes.iter().all(|(name, _)| !name.contains(';')), "{:?}", entry.dn);
    if !entry.values("member").is_empty() {
        members.push(entry.values("member").len());
    }
}

fn group(windows: &Windows, members: usize) {
    let members = (0..members).map(|n| format!("CN=u{n},CN=Users,{HEAD}").into_bytes()).collect();
    windows.put(&format!("CN=staff,{HEAD}"), "group", &[("member", members)]);
}

#[tokio::test]
async fn a_domain_larger_than_max_page_size_is_read_page_by_page() {
    for kind in BOTH {
        let windows = Windows::start(Rules { max_page: 400, ..Rules::default() });
        (0..1_000).for_each(|n| windows.user(&format!("u{n}")));
        let (names, _, _) = refreshed(&mut start(kind, &windows, None).await.unwrap()).await.unwrap();
        assert_eq!(names.len(), 1_000);
        assert_eq!(windows.pages(), 3, "as many in one as the query policy allows");
    }
    // Rescans too, which do not read the policy.
    let windows = Windows::start(Rules::default());
    (0..2_500).for_each(|n| windows.user(&format!("u{n}")));
    let access = access(&windows);
    let mut scan = Scan::start(&access, HEAD, Scope::Subtree, "(objectClass=user)", &attributes()).await.unwrap();
    let mut count = 0;
    while let Some(changes) = scan.next().await.unwrap() {
        count += changes.len();
    }
    assert_eq!(count, 2_500);
}

#[tokio::test]
async fn a_group_of_more_members_than_max_val_range_is_read_whole_by_every_reader() {
    for members in [1_500, 1_501, 3_200] {
        let windows = Windows::start(Rules::default());
        group(&windows, members);
        for kind in BOTH {
            let mut source = start(kind, &windows, None).await.unwrap();
            assert_eq!(refreshed(&mut source).await.unwrap().1, [members], "{kind}: the first pass");
            group(&windows, members + 1);
            let batch = next(&mut source).await.unwrap();
            let (mut names, mut sizes) = (BTreeSet::new(), Vec::new());
            batch.changes.iter().for_each(|change| note(change, &mut names, &mut sizes));
            assert_eq!(sizes, [members + 1], "{kind}: a change");
            group(&windows, members);
        }
        let access = access(&windows);
        let mut scan = Scan::start(&access, HEAD, Scope::Subtree, "(objectClass=group)", &attributes()).await.unwrap();
        let (mut names, mut sizes) = (BTreeSet::new(), Vec::new());
        while let Some(changes) = scan.next().await.unwrap() {
            changes.iter().for_each(|change| note(change, &mut names, &mut sizes));
        }
        assert_eq!(sizes, [members], "a scan");
        let mut ldap = connect(&directory(&windows), LONG).await.unwrap().0;
        let dn = format!("CN=staff,{HEAD}");
        let found = lookup::by_dn(&mut ldap, KeyAttribute::ObjectGuid, &dn, &["member"]).await.unwrap().unwrap();
        assert_eq!(found.values("member").len(), members, "a lookup");
    }
}

#[tokio::test]
async fn dirsync_in_several_rounds_brings_everything_once() {
    let windows = Windows::start(Rules { max_dirsync: 10, ..Rules::default() });
    (0..30).for_each(|n| windows.user(&format!("u{n}")));
    let cursor = refreshed(&mut start(SourceKind::DirSync, &windows, None).await.unwrap()).await.unwrap().2;
    (10..45).for_each(|n| windows.user(&format!("u{n}")));
    let before = windows.rounds();
    let mut source = start(SourceKind::DirSync, &windows, Some(&cursor)).await.unwrap();
    let (names, _, _) = refreshed(&mut source).await.unwrap();
    assert_eq!(names, (10..45).map(|n| format!("u{n}")).collect());
    assert_eq!(windows.rounds() - before, 4);
    // The same while it listens.
    (0..25).for_each(|n| windows.user(&format!("u{n}")));
    let (mut names, mut members) = (BTreeSet::new(), Vec::new());
    while names.len() < 25 {
        next(&mut source).await.unwrap().changes.iter().for_each(|change| note(change, &mut names, &mut members));
    }
}

/// MS-DRSR 5.115.11: Windows answers protocolError where Samba says unavailableCriticalExtension.
#[tokio::test]
async fn a_cookie_refused_with_either_code_asks_for_a_refresh_and_any_other_code_does_not() {
    for (code, refresh) in [(2, true), (12, true), (51, false)] {
        let windows = Windows::start(Rules::default());
        let cursor = refreshed(&mut start(SourceKind::DirSync, &windows, None).await.unwrap()).await.unwrap().2;
        windows.rule(|rules| rules.cookie_code = code);
        let mut source = start(SourceKind::DirSync, &windows, Some(&cursor)).await.unwrap();
        let error = refreshed(&mut source).await.unwrap_err();
        assert_eq!(matches!(error, SourceError::RefreshRequired { .. }), refresh, "{error}");
        // The first pass sends none, and works.
        windows.rule(|rules| rules.cookie_code = 0);
        refreshed(&mut start(SourceKind::DirSync, &windows, None).await.unwrap()).await.unwrap();
    }
}

/// 53: not at this base; 11: the sixth on a connection (MaxNotificationPerConn); 0: it is taken, and never rings.
#[tokio::test]
async fn without_change_notification_changes_are_heard_within_moments() {
    for code in [53, 11, 0] {
        let windows = Windows::start(Rules { notification_code: code, ..Rules::default() });
        for kind in BOTH {
            let mut source = start(kind, &windows, None).await.unwrap();
            refreshed(&mut source).await.unwrap();
            windows.user("late");
            let batch = next(&mut source).await.unwrap();
            let (mut names, mut members) = (BTreeSet::new(), Vec::new());
            batch.changes.iter().for_each(|change| note(change, &mut names, &mut members));
            assert_eq!(names, BTreeSet::from(["late".to_owned()]), "{kind} {code}");
        }
    }
}

#[tokio::test]
async fn what_is_left_of_a_deleted_entry_is_proof_to_both_sources() {
    let windows = Windows::start(Rules::default());
    for kind in BOTH {
        windows.user("mortal");
        let mut source = start(kind, &windows, None).await.unwrap();
        refreshed(&mut source).await.unwrap();
        windows.put(&format!("CN=mortal,CN=Users,{HEAD}"), "user", &[("isDeleted", vec![b"TRUE".to_vec()])]);
        let batch = next(&mut source).await.unwrap();
        assert!(matches!(batch.changes.as_slice(), [Change::Deleted(_)]), "{:?}", batch.changes);
    }
}

#[tokio::test]
async fn references_to_other_servers_are_never_followed() {
    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    other.set_nonblocking(true).unwrap();
    let url = format!("ldap://{}/DC=ForestDnsZones,{HEAD}", other.local_addr().unwrap());
    let windows = Windows::start(Rules { reference: Some(url), ..Rules::default() });
    windows.user("ann");
    for kind in BOTH {
        let (names, _, _) = refreshed(&mut start(kind, &windows, None).await.unwrap()).await.unwrap();
        assert_eq!(names, BTreeSet::from(["ann".to_owned()]));
    }
    let mut ldap = connect(&directory(&windows), LONG).await.unwrap().0;
    assert!(lookup::readable(&mut ldap, HEAD).await.unwrap());
    let filter = "(sAMAccountName=ann)";
    let found = lookup::search(&mut ldap, HEAD, ldap3::Scope::Subtree, filter, &["objectGUID"], 0).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(other.accept().is_err(), "nobody came");
}

/// MS-ADTS 3.1.1.6.1: AdminSDHolder takes inherited rights away from members of the administrators' groups.
#[tokio::test]
async fn a_protected_account_refuses_its_own_write_and_nothing_is_read_into_that() {
    let windows = Windows::start(Rules { modify_code: 50, ..Rules::default() });
    windows.user("admin");
    let mut ldap = connect(&directory(&windows), LONG).await.unwrap().0;
    let profile = profile(Flavour::ActiveDirectory);
    let dn = format!("CN=admin,CN=Users,{HEAD}");
    let entry = lookup::by_dn(&mut ldap, KeyAttribute::ObjectGuid, &dn, &[]).await.unwrap().unwrap();
    let root = Default::default();
    let target = Target::new(HEAD, &profile.write_back, &root, &profile);
    let (attribute, new) = ("msExchIMAddress".into(), Some("admin@im.example.com".into()));
    let changes = vec![AttributeChange { attribute, old: None, new }];
    let write = Write { key: entry.key, dn, changes, object_class: None, expire: None, urgent: false };
    match apply(&mut ldap, &target, &write, LONG).await {
        WriteResult::Refused(WriteRefusal { code: 50, .. }) => {}
        other => panic!("{other:?}"),
    }
    // Nobody of this key: said as such.
    let nobody = Write { key: UserKey([7; 16]), ..write };
    assert!(matches!(apply(&mut ldap, &target, &nobody, LONG).await, WriteResult::NotFound));
    // WhoAmI gives no DN, and we bound with a name that is none: no own entry, and no error.
    assert_eq!(lookup::own_entry(&mut ldap, &directory(&windows).bind).await.unwrap(), None);
}

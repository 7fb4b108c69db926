//! Connecting, looking up and writing back, against a real slapd.

mod support;

use homeward::config::{Bind, Directory, Flavour, TlsMode};
use homeward::directory::connect::{ConnectError, Endpoint, connect, connect_ldap3};
use homeward::directory::flavour::{FlavourProfile, detect, profile, root_dse, schema};
use homeward::directory::key::KeyAttribute;
use homeward::directory::lookup;
use homeward::directory::write_back::{Target, Writers, apply};
use homeward::error::Disposition;
use homeward::model::{AttributeChange, ExpireResult, PasswordDate, UserKey, Write, WriteResult};
use ldap3::Ldap;
use std::collections::BTreeSet;
use std::time::Duration;
use support::slapd::{AGENT_DN, Certificate, SUFFIX, Slapd, person};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

const TIMEOUT: Duration = Duration::from_secs(20);

fn openldap() -> FlavourProfile {
    profile(Flavour::OpenLdap)
}

async fn ldap(slapd: &Slapd) -> Ldap {
    connect(&slapd.directory(), TIMEOUT).await.expect("the server is up").0
}

async fn target(ldap: &mut Ldap) -> Target {
    let root = root_dse(ldap).await.unwrap();
    Target::new(SUFFIX, &openldap().write_back, &root, &openldap())
}

fn key(slapd: &Slapd, uid: &str) -> UserKey {
    UserKey::parse(&slapd.value(&format!("(uid={uid})"), "entryUUID").unwrap()).unwrap()
}

fn dn(uid: &str) -> String {
    format!("uid={uid},ou=people,{SUFFIX}")
}

fn change(attribute: &str, old: Option<&str>, new: Option<&str>) -> AttributeChange {
    AttributeChange { attribute: attribute.into(), old: old.map(Into::into), new: new.map(Into::into) }
}

/// The first enabling of a user: address and home, and the class that allows them.
fn enable(slapd: &Slapd, uid: &str) -> Write {
    Write {
        key: key(slapd, uid),
        dn: dn(uid),
        changes: vec![
            change("msExchIMAddress", None, Some(&format!("{uid}@im.example.com"))),
            change("imHomeServer", None, Some("im1")),
        ],
        object_class: Some("homewardIMUser".into()),
        expire: None,
        urgent: false,
    }
}

const APPLIED: WriteResult = WriteResult::Applied { expire: ExpireResult::NotAsked };

#[test]
fn the_fixture_serves_what_was_loaded_and_again_after_a_crash() {
    let slapd = Slapd::builder().users(person("ann", "")).ppolicy(true).memberof(true).session_log(100).start();
    assert_eq!(slapd.value("(uid=ann)", "mail").as_deref(), Some("ann@example.com"));
    slapd.kill9();
    slapd.restart();
    assert_eq!(slapd.value("(uid=ann)", "mail").as_deref(), Some("ann@example.com"));
}

// ---- writing back

#[tokio::test]
async fn a_write_without_a_difference_touches_nothing() {
    let slapd = Slapd::builder().users(person("ann", "")).start();
    let mut ldap = ldap(&slapd).await;
    let target = target(&mut ldap).await;
    let before = slapd.value("(uid=ann)", "entryCSN");
    let mut write = enable(&slapd, "ann");
    write.object_class = None;
    write.changes = vec![change("mail", Some("ann@example.com"), Some("ann@example.com"))];
    assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, APPLIED);
    assert_eq!(slapd.value("(uid=ann)", "entryCSN"), before);
}

#[tokio::test]
async fn a_user_is_enabled_moved_and_released_with_and_without_assertions() {
    for asserts in [true, false] {
        let slapd = Slapd::builder().users(person("ann", "")).start();
        let mut ldap = ldap(&slapd).await;
        let target = Target { asserts, ..target(&mut ldap).await };
        let mut write = enable(&slapd, "ann");
        assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, APPLIED);
        assert_eq!(slapd.value("(uid=ann)", "imHomeServer").as_deref(), Some("im1"));

        write.object_class = None;
        write.changes = vec![change("imHomeServer", Some("im1"), Some("im2"))];
        assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, APPLIED);
        assert_eq!(slapd.value("(uid=ann)", "imHomeServer").as_deref(), Some("im2"));

        write.changes = vec![
            change("imHomeServer", Some("im2"), None),
            change("msExchIMAddress", Some("ann@im.example.com"), None),
        ];
        assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, APPLIED);
        assert_eq!(slapd.value("(uid=ann)", "imHomeServer"), None);
    }
}

#[tokio::test]
async fn a_class_that_is_there_already_does_no_harm() {
    let slapd = Slapd::builder().users(person("ann", "objectClass: homewardIMUser")).start();
    let mut ldap = ldap(&slapd).await;
    let target = target(&mut ldap).await;
    assert_eq!(apply(&mut ldap, &target, &enable(&slapd, "ann"), TIMEOUT).await, APPLIED);
    assert_eq!(slapd.value("(uid=ann)", "imHomeServer").as_deref(), Some("im1"));
}

#[tokio::test]
async fn a_foreign_value_is_never_overwritten_and_is_told() {
    let slapd = Slapd::builder().users(person("ann", "objectClass: homewardIMUser\nimHomeServer: elsewhere")).start();
    let mut ldap = ldap(&slapd).await;
    let target = target(&mut ldap).await;
    // Absent expected (single-value violation), and another value expected.
    for old in [None, Some("im3")] {
        let mut write = enable(&slapd, "ann");
        write.object_class = None;
        write.changes[1].old = old.map(Into::into);
        let WriteResult::Mismatch { current } = apply(&mut ldap, &target, &write, TIMEOUT).await else {
            panic!("expected a mismatch")
        };
        assert_eq!(current.text("imhomeserver"), Some("elsewhere"));
        assert_eq!(current.dn, dn("ann"));
        assert!(current.values("objectclass").iter().any(|class| class.as_text() == Some("homewardIMUser")));
    }
    assert_eq!(slapd.value("(uid=ann)", "imHomeServer").as_deref(), Some("elsewhere"));
    assert_eq!(slapd.value("(uid=ann)", "msExchIMAddress"), None, "nothing of the write was done");
}

#[tokio::test]
async fn a_write_done_twice_shows_the_wanted_values() {
    let slapd = Slapd::builder().users(person("ann", "")).start();
    let mut ldap = ldap(&slapd).await;
    let target = target(&mut ldap).await;
    let write = enable(&slapd, "ann");
    assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, APPLIED);
    let WriteResult::Mismatch { current } = apply(&mut ldap, &target, &write, TIMEOUT).await else {
        panic!("expected a mismatch")
    };
    assert_eq!(current.text("imhomeserver"), Some("im1"));
    assert_eq!(current.text("msexchimaddress"), Some("ann@im.example.com"));
}

#[tokio::test]
async fn a_renamed_user_is_found_by_key() {
    let slapd = Slapd::builder().users(person("ann", "")).start();
    let mut ldap = ldap(&slapd).await;
    let target = target(&mut ldap).await;
    let write = enable(&slapd, "ann");
    slapd.modify(&format!("dn: {}\nchangetype: modrdn\nnewrdn: uid=anna\ndeleteoldrdn: 1\n", dn("ann")));
    assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, APPLIED);
    assert_eq!(slapd.value("(uid=anna)", "imHomeServer").as_deref(), Some("im1"));
}

#[tokio::test]
async fn another_entry_that_took_the_dn_is_never_touched() {
    for asserts in [true, false] {
        let slapd = Slapd::builder().users(person("ann", "")).start();
        let mut ldap = ldap(&slapd).await;
        let target = Target { asserts, ..target(&mut ldap).await };
        let write = enable(&slapd, "ann");
        slapd.modify(&format!("dn: {}\nchangetype: modrdn\nnewrdn: uid=anna\ndeleteoldrdn: 1\n", dn("ann")));
        slapd.add(&person("ann", ""));
        assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, APPLIED);
        assert_eq!(slapd.value("(uid=anna)", "imHomeServer").as_deref(), Some("im1"));
        assert_eq!(slapd.value("(uid=ann)", "imHomeServer"), None);

        slapd.delete(&dn("anna"));
        assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, WriteResult::NotFound);
        assert_eq!(slapd.value("(uid=ann)", "imHomeServer"), None);
    }
}

#[tokio::test]
async fn a_refusal_names_code_disposition_and_hint() {
    let slapd = Slapd::builder()
        .users(person("ann", ""))
        .acl(format!("access to attrs=imHomeServer by dn.exact=\"{AGENT_DN}\" read by * none\n"))
        .start();
    let mut ldap = ldap(&slapd).await;
    let target = target(&mut ldap).await;
    let mut no_right = enable(&slapd, "ann");
    let mut no_class = enable(&slapd, "ann");
    no_class.object_class = None;
    no_class.changes.truncate(1);
    let mut syntax = enable(&slapd, "ann");
    syntax.changes = vec![change("msExchIMAddress", None, Some("zoë@im.example.com"))];
    let mut unknown = enable(&slapd, "ann");
    unknown.changes = vec![change("noSuchThing", None, Some("x"))];
    no_right.expire = Some(PasswordDate(None));
    for (write, code) in [(no_right, 50), (no_class, 65), (syntax, 21), (unknown, 17)] {
        match apply(&mut ldap, &target, &write, TIMEOUT).await {
            WriteResult::Refused(refusal) => {
                assert_eq!(refusal.code, code, "{refusal}");
                assert_eq!(refusal.disposition(), Disposition::Park);
                assert!(refusal.hint().to_string().contains("homeward "), "{}", refusal.hint());
            }
            other => panic!("expected {code}: {other:?}"),
        }
    }
    assert!(!slapd.search("(uid=ann)", &["objectClass"]).contains("homewardIMUser"));
}

#[tokio::test]
async fn a_server_that_goes_away_leaves_the_write_unanswered() {
    let slapd = Slapd::builder().users(person("ann", "")).start();
    let mut ldap = ldap(&slapd).await;
    let target = target(&mut ldap).await;
    let write = enable(&slapd, "ann");
    slapd.kill9();
    assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, WriteResult::Unanswered);
}

#[tokio::test]
async fn an_expired_password_must_be_changed_at_the_next_bind_and_one_changed_meanwhile_need_not() {
    for asserts in [true, false] {
        let slapd = Slapd::builder().ppolicy(true).users(person("ann", "userPassword: old-password")).start();
        let mut ldap = ldap(&slapd).await;
        let target = Target { asserts, ..target(&mut ldap).await };
        let judged = slapd.value("(uid=ann)", "pwdChangedTime");

        // Judged by a date that is no longer the password's: somebody set a new one meanwhile.
        let mut write = enable(&slapd, "ann");
        write.expire = Some(PasswordDate(Some("20010101000000Z".into())));
        let meanwhile = WriteResult::Applied { expire: ExpireResult::ChangedMeanwhile };
        assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, meanwhile);
        assert_eq!(slapd.value("(uid=ann)", "pwdReset"), None);

        write.changes.clear();
        write.object_class = None;
        write.expire = Some(PasswordDate(judged));
        let demanded = WriteResult::Applied { expire: ExpireResult::Demanded };
        assert_eq!(apply(&mut ldap, &target, &write, TIMEOUT).await, demanded);
        assert_eq!(slapd.value("(uid=ann)", "pwdReset").as_deref(), Some("TRUE"));
        let bind = slapd.run_as(&dn("ann"), "old-password", "ldapsearch", &["-b", SUFFIX, "-e", "ppolicy"], "");
        assert!(!bind.status.success(), "a user who must change the password can do nothing else");
    }
}

#[tokio::test]
async fn writers_answer_every_write_once_and_come_back_after_a_restart() {
    let users: Vec<String> = (0..40).map(|n| format!("user{n}")).collect();
    let slapd = Slapd::builder().users(users.iter().map(|uid| person(uid, "")).collect::<String>()).start();
    let mut writers = Writers::start(3, slapd.directory(), openldap().write_back, openldap(), watch::channel(None).1);
    for (half, restart) in users.chunks(20).zip([false, true]) {
        let writes: Vec<Write> = half.iter().map(|uid| enable(&slapd, uid)).collect();
        if restart {
            slapd.restart();
        }
        let requests = writers.requests.clone();
        let wanted: BTreeSet<UserKey> = writes.iter().map(|write| write.key).collect();
        tokio::spawn(async move {
            for write in writes {
                requests.send(write).await.unwrap();
            }
        });
        let mut answered = BTreeSet::new();
        while answered.len() < wanted.len() {
            let next = tokio::time::timeout(TIMEOUT, writers.results.recv()).await.expect("an answer in time");
            let (write, result) = next.expect("the writers run");
            match result {
                WriteResult::Unanswered => writers.requests.send(write).await.unwrap(),
                result => {
                    assert_eq!(result, APPLIED);
                    assert!(answered.insert(write.key), "answered twice");
                }
            }
        }
        assert_eq!(answered, wanted);
    }
    assert_eq!(slapd.search("(imHomeServer=im1)", &["1.1"]).matches("dn: ").count(), 40);
    assert!(writers.trouble.borrow().is_none());
}

#[tokio::test]
async fn an_urgent_write_is_sent_before_those_that_wait() {
    let users: Vec<String> = (0..12).map(|n| format!("user{n}")).collect();
    let slapd = Slapd::builder().users(users.iter().map(|uid| person(uid, "")).collect::<String>()).start();
    let (bulk, last) = users.split_at(11);
    let writes: Vec<Write> = bulk.iter().map(|uid| enable(&slapd, uid)).collect();
    let urgent = Write { urgent: true, ..enable(&slapd, &last[0]) };
    let wanted = urgent.key;
    // They wait in vain at first: only then is it certain that the urgent one came last.
    slapd.stop();
    let mut writers = Writers::start(1, slapd.directory(), openldap().write_back, openldap(), watch::channel(None).1);
    for write in writes {
        writers.requests.send(write).await.unwrap();
    }
    writers.urgent.send(urgent).await.unwrap();
    slapd.restart();
    let mut order = Vec::new();
    while order.len() < users.len() {
        let next = tokio::time::timeout(TIMEOUT, writers.results.recv()).await.expect("an answer in time");
        let (write, result) = next.expect("the writers run");
        assert_eq!(result, APPLIED);
        order.push(write.key);
    }
    // The first was taken before, and waited for a connection.
    assert!(order[..2].contains(&wanted), "{order:?}");
}

#[tokio::test]
async fn writers_say_why_they_cannot_connect() {
    let slapd = Slapd::builder().users(person("ann", "")).start();
    let mut directory = slapd.directory();
    directory.bind = Bind::Simple { dn: AGENT_DN.into(), password: "wrong".to_owned().into() };
    let write = enable(&slapd, "ann");
    let mut writers = Writers::start(1, directory, openldap().write_back, openldap(), watch::channel(None).1);
    writers.requests.send(write).await.unwrap();
    tokio::time::timeout(TIMEOUT, writers.trouble.wait_for(Option::is_some)).await.unwrap().unwrap();
    let trouble = writers.trouble.borrow().clone().unwrap();
    assert!(matches!(*trouble, ConnectError::WrongCredentials { .. }), "{trouble}");
}

// ---- looking up

#[tokio::test]
async fn users_are_found_by_key_dn_login_and_mail() {
    let slapd = Slapd::builder().users(person("ann", "") + &person("bob", "")).start();
    let mut ldap = ldap(&slapd).await;
    let ann = key(&slapd, "ann");
    let found = lookup::by_key(&mut ldap, KeyAttribute::EntryUuid, SUFFIX, ann, &["mail"]).await.unwrap().unwrap();
    assert_eq!((found.key, found.values("mail")), (ann, &[b"ann@example.com".to_vec()][..]));
    let nobody = UserKey([7; 16]);
    assert_eq!(lookup::by_key(&mut ldap, KeyAttribute::EntryUuid, SUFFIX, nobody, &["mail"]).await.unwrap(), None);
    for text in [ann.to_string(), dn("ann"), "ANN".into(), "ann@example.com".into()] {
        let found = lookup::find_user(&mut ldap, KeyAttribute::EntryUuid, SUFFIX, "uid", "mail", &text, &["uid"])
            .await
            .unwrap();
        assert_eq!(found.iter().map(|entry| entry.key).collect::<Vec<_>>(), [ann], "{text}");
    }
    for text in ["no(body*", "x=", "uid=nobody,dc=example,dc=com"] {
        let found =
            lookup::find_user(&mut ldap, KeyAttribute::EntryUuid, SUFFIX, "uid", "mail", text, &["uid"]).await.unwrap();
        assert!(found.is_empty(), "{text}");
    }
    let mut many = vec![nobody; 120];
    many.extend([ann, key(&slapd, "bob")]);
    assert_eq!(lookup::by_keys(&mut ldap, KeyAttribute::EntryUuid, SUFFIX, &many, &[]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn values_that_are_no_text_arrive_as_they_are() {
    let slapd = Slapd::builder().users(person("ann", "userPassword:: /wD+\ncn: ann two")).start();
    let mut ldap = ldap(&slapd).await;
    let found = lookup::by_key(&mut ldap, KeyAttribute::EntryUuid, SUFFIX, key(&slapd, "ann"), &["userPassword", "cn"])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.values("userpassword"), [vec![0xff, 0x00, 0xfe]]);
    assert_eq!(found.values("cn").len(), 2);
}

#[tokio::test]
async fn a_missing_base_and_a_size_limit_are_errors_and_never_an_empty_answer() {
    let slapd = Slapd::builder().users((0..5).map(|n| person(&format!("u{n}"), "")).collect::<String>()).size_limit(2);
    let slapd = slapd.start();
    let mut ldap = ldap(&slapd).await;
    let missing =
        lookup::by_key(&mut ldap, KeyAttribute::EntryUuid, "dc=nowhere", UserKey([1; 16]), &[]).await.unwrap_err();
    assert!(matches!(missing, lookup::LookupError::NoSuchObject { .. } | lookup::LookupError::Refused { .. }));
    let many = lookup::search(&mut ldap, SUFFIX, ldap3::Scope::Subtree, "(uid=*)", &["1.1"], 0).await.unwrap_err();
    assert!(matches!(many, lookup::LookupError::TooMany { .. }), "{many}");
}

#[tokio::test]
async fn an_account_confined_to_the_base_does_not_see_outside() {
    let people = format!("ou=people,{SUFFIX}");
    let confined = format!(
        "access to dn.subtree=\"{people}\" by dn.exact=\"{AGENT_DN}\" write by * none\n\
         access to * by dn.exact=\"{AGENT_DN}\" auth by anonymous auth by * none\n"
    );
    let slapd = Slapd::builder().users(person("ann", "")).acl(confined).start();
    let mut ldap = ldap(&slapd).await;
    assert!(lookup::readable(&mut ldap, &dn("ann")).await.unwrap());
    assert!(!lookup::readable(&mut ldap, SUFFIX).await.unwrap());
    assert!(!lookup::sees_outside(&mut ldap, &people, SUFFIX).await.unwrap());
    assert!(lookup::sees_outside(&mut ldap, SUFFIX, SUFFIX).await.unwrap(), "there is no outside");
    let own = lookup::own_entry(&mut ldap, &slapd.directory().bind).await.unwrap().unwrap();
    assert_eq!((own.dn.as_str(), own.readable), (AGENT_DN, false));
}

#[tokio::test]
async fn an_account_that_reads_one_entry_elsewhere_sees_outside() {
    let people = format!("ou=people,{SUFFIX}");
    let some = format!(
        "access to dn.subtree=\"{people}\" by dn.exact=\"{AGENT_DN}\" write by * none\n\
         access to dn.base=\"{SUFFIX}\" attrs=entry by dn.exact=\"{AGENT_DN}\" search by * none\n\
         access to dn.base=\"{SUFFIX}\" by dn.exact=\"{AGENT_DN}\" none by anonymous auth by * none\n"
    );
    let slapd = Slapd::builder().users(person("ann", "")).acl(some).start();
    let mut ldap = ldap(&slapd).await;
    assert!(!lookup::readable(&mut ldap, SUFFIX).await.unwrap());
    assert!(lookup::sees_outside(&mut ldap, &people, SUFFIX).await.unwrap());
    assert!(lookup::own_entry(&mut ldap, &slapd.directory().bind).await.unwrap().unwrap().readable);
}

#[tokio::test]
async fn the_server_is_known_and_its_schema_says_what_is_missing() {
    let prepared = Slapd::builder().start();
    let bare = Slapd::builder().without_schema().start();
    let names = openldap().write_back;
    for (slapd, missing) in [(&prepared, 0), (&bare, 5)] {
        let mut ldap = ldap(slapd).await;
        let root = root_dse(&mut ldap).await.unwrap();
        assert_eq!(detect(&root).0, Flavour::OpenLdap);
        assert_eq!(root.naming_context_of("ou=people,DC=example,dc=com"), Some(SUFFIX));
        let schema = schema(&mut ldap, &root).await.unwrap();
        assert_eq!(schema.missing(&names).len(), missing);
        assert_eq!(schema.attribute("CN").unwrap().equality.as_deref(), Some("caseIgnoreMatch"));
    }
}

// ---- connecting

async fn refused(directory: &Directory) -> ConnectError {
    let error = connect(directory, TIMEOUT).await.map(|_| ()).expect_err("it must not connect");
    assert!(!error.hint().to_string().is_empty());
    error
}

#[tokio::test]
async fn every_way_in_works() {
    let slapd = Slapd::builder().start();
    let (certificate, key) = slapd.client_certificate();
    let plain = slapd.directory();
    let mut tls = slapd.directory();
    tls.urls = vec![slapd.ldaps_url()];
    let mut starttls = slapd.directory();
    starttls.tls.mode = Some(TlsMode::Starttls);
    let mut socket = slapd.directory();
    socket.urls = vec![slapd.ldapi_url()];
    socket.bind = Bind::External;
    let mut by_certificate = tls.clone();
    by_certificate.bind = Bind::External;
    by_certificate.tls.certificate_file = Some(certificate);
    by_certificate.tls.key_file = Some(key);
    let mut second = slapd.directory();
    second.urls.insert(0, format!("ldap://127.0.0.1:{}", support::free_port()));
    for directory in [plain, tls, starttls, socket, by_certificate, second] {
        let (mut ldap, endpoint) = connect(&directory, TIMEOUT).await.unwrap_or_else(|error| panic!("{error}"));
        let own = lookup::own_entry(&mut ldap, &directory.bind).await.unwrap().expect("somebody");
        assert_eq!((own.dn.as_str(), own.readable), (AGENT_DN, true), "{}", endpoint.url);
    }
    let mut anonymous = slapd.directory();
    anonymous.bind = Bind::Anonymous;
    let (mut ldap, _) = connect(&anonymous, TIMEOUT).await.unwrap();
    assert_eq!(lookup::own_entry(&mut ldap, &anonymous.bind).await.unwrap(), None);
}

#[tokio::test]
async fn certificates_are_checked_and_each_fault_has_its_name() {
    for certificate in [Certificate::OtherName, Certificate::Expired, Certificate::Good] {
        let slapd = Slapd::builder().certificate(certificate).start();
        let mut directory = slapd.directory();
        if certificate == Certificate::Good {
            directory.tls.ca_file = Some(slapd.other_ca_file());
        }
        for (url, mode) in [(slapd.ldaps_url(), None), (slapd.url(), Some(TlsMode::Starttls))] {
            directory.urls = vec![url];
            directory.tls.mode = mode;
            let error = refused(&directory).await;
            assert_eq!(error.disposition(), Disposition::Hold);
            match certificate {
                Certificate::OtherName => assert!(error.to_string().contains("elsewhere.example.com"), "{error}"),
                Certificate::Expired => assert!(matches!(error, ConnectError::CertificateExpired { .. }), "{error}"),
                Certificate::Good => assert!(matches!(error, ConnectError::CertificateIssuer { .. }), "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_password_names_the_account_and_never_the_password() {
    let slapd = Slapd::builder().start();
    let mut directory = slapd.directory();
    for (password, wrong) in [("Tr0ub4dor", true), ("", false)] {
        directory.bind = Bind::Simple { dn: AGENT_DN.into(), password: password.to_owned().into() };
        let error = refused(&directory).await;
        assert_eq!(matches!(error, ConnectError::WrongCredentials { .. }), wrong, "{error}");
        assert_eq!(matches!(error, ConnectError::EmptyPassword { .. }), !wrong, "{error}");
        let text = format!("{error} {error:?} {}", error.hint());
        assert!(text.contains(AGENT_DN) && text.contains(&slapd.url()) && text.contains("bind_password_file"));
        assert!(!text.contains("Tr0ub4dor"));
    }
}

#[tokio::test]
async fn nobody_listening_and_files_that_cannot_be_read_say_so() {
    let slapd = Slapd::builder().start();
    let mut directory = slapd.directory();
    directory.urls = vec![slapd.ldaps_url()];
    directory.tls.ca_file = Some(slapd.path("no-such.pem"));
    let error = refused(&directory).await;
    assert!(matches!(error, ConnectError::TlsFile { setting: "ca_file", .. }), "{error}");
    assert!(error.hint().to_string().contains("no-such.pem"));
    directory.tls.ca_file = Some(slapd.path("slapd.conf"));
    assert!(matches!(refused(&directory).await, ConnectError::TlsFile { .. }), "no PEM in it");
    slapd.stop();
    directory.urls = vec![slapd.url()];
    let error = refused(&directory).await;
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert_eq!(error.disposition(), Disposition::Retry);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let slapd = Slapd::builder().start();
    for (scheme, mode) in [("ldap", None), ("ldap", Some(TlsMode::Starttls)), ("ldaps", None)] {
        let mut directory = slapd.directory();
        directory.urls = vec![format!("{scheme}://127.0.0.1:{port}")];
        directory.tls.mode = mode;
        let error = connect(&directory, Duration::from_millis(300)).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
    }
}

/// A hostile peer: takes the bind request and answers with these bytes.
async fn answered_with(bytes: Vec<u8>) -> Result<(), ConnectError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ldap://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut request = [0; 512];
        let _ = peer.read(&mut request).await;
        let _ = peer.write_all(&bytes).await;
        let _ = peer.read(&mut request).await;
    });
    let slapd_like = Directory { urls: vec![url.clone()], ..hostile_directory() };
    let endpoint = Endpoint::parse(&url, &slapd_like.tls, false).unwrap();
    connect_ldap3(&endpoint, &slapd_like, Duration::from_secs(5)).await.map(|_| ())
}

fn hostile_directory() -> Directory {
    Directory {
        urls: Vec::new(),
        base: SUFFIX.into(),
        flavour: None,
        source: None,
        filter: None,
        bind: Bind::Anonymous,
        tls: homeward::config::Tls { mode: None, ca_file: None, certificate_file: None, key_file: None },
        allow_plaintext: false,
        poll_interval: Duration::from_secs(1),
        sweep_interval: Duration::from_secs(86_400),
        attributes: Default::default(),
    }
}

#[tokio::test]
async fn bytes_that_would_abort_or_panic_ldap3_only_end_the_connection() {
    let nested = (0..20_000).fold(Vec::new(), |inner: Vec<u8>, _| {
        let mut out = vec![0x30, 0x84];
        out.extend((inner.len() as u32).to_be_bytes());
        out.extend(inner);
        out
    });
    let endless = vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x02, 0x01, 0x01];
    let no_operation = vec![0x30, 0x00];
    let only_an_id = vec![0x30, 0x03, 0x02, 0x01, 0x01];
    let empty_bind_response = vec![0x30, 0x05, 0x02, 0x01, 0x01, 0x61, 0x00];
    for bytes in [nested, endless, no_operation, only_an_id, empty_bind_response] {
        let error = answered_with(bytes).await.unwrap_err();
        assert!(matches!(error, ConnectError::Closed { .. }), "{error}");
    }
}

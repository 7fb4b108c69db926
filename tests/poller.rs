//! The poller on a real slapd: what the directory does, and what readers of the log are told of it.

// clippy.toml's list is for decide/; a test reads the clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::config::{Config, Flavour, Surroundings};
use homeward::decide::filter::Filter;
use homeward::directory::flavour::profile;
use homeward::feed::{Feed, FeedKind, FeedRow};
use homeward::model::{Sequence, Timestamp};
use homeward::poller::{self, PollerError, Request, Seen};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::slapd::{AGENT_DN, AGENT_PASSWORD, SUFFIX, Slapd, person};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Everything that is to happen happens long before.
const LONG: Duration = Duration::from_secs(30);
/// What is to come has come by then.
const QUIET: Duration = Duration::from_millis(400);

type Told = Vec<(String, FeedKind, Vec<String>)>;

struct Running {
    stop: watch::Sender<bool>,
    requests: mpsc::Sender<Request>,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<Result<(), PollerError>>,
}

impl Running {
    async fn seen(&mut self, what: &str, is_so: impl FnMut(&Seen) -> bool) -> Seen {
        let seen = tokio::time::timeout(LONG, self.seen.wait_for(is_so)).await;
        seen.unwrap_or_else(|_| panic!("never {what}")).expect("the poller runs").clone()
    }

    /// How long the end took.
    async fn stop(self) -> Duration {
        let started = Instant::now();
        self.stop.send(true).unwrap();
        tokio::time::timeout(LONG, self.task).await.expect("it ends").unwrap().unwrap();
        started.elapsed()
    }
}

/// A state directory and how far a reader of its log is.
struct Reader {
    dir: tempfile::TempDir,
    cursor: Sequence,
}

impl Reader {
    fn new() -> Reader {
        Reader { dir: tempfile::tempdir().unwrap(), cursor: Sequence::default() }
    }

    /// The configuration: the smallest, with other lines for `[directory]` and further sections.
    fn config(&self, slapd: &Slapd, directory: &str, rest: &str) -> Config {
        let base = if directory.contains("base =") { String::new() } else { format!("base = \"{SUFFIX}\"") };
        let (state, url) = (self.dir.path().display(), slapd.url());
        let text = format!(
            "[agent]\nstate_dir = \"{state}\"\n[directory]\nurl = \"{url}\"\nbind_dn = \"{AGENT_DN}\"\n\
             bind_password_file = \"password\"\n{base}\n{directory}\n[[home]]\nid = \"im1\"\nhost = \"im1.example.com\"\n\
             capacity = 10\n[im]\ndomain = \"im.example.com\"\n{rest}\n"
        );
        let password = self.dir.path().join("password");
        std::fs::write(&password, AGENT_PASSWORD).unwrap();
        let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        std::fs::set_permissions(&password, private).unwrap();
        let parse_filter = |text: &str| Filter::parse(text).map(drop).map_err(|error| error.to_string());
        let around = Surroundings { credentials: None, parse_filter };
        Config::parse(&text, &self.dir.path().join("homeward.toml"), &around).unwrap()
    }

    fn start_with(&self, config: Config) -> Running {
        let (stop, stopping) = watch::channel(false);
        let (requests, asked) = mpsc::channel(8);
        let (seeing, seen) = watch::channel(Seen::default());
        let profile = profile(config.directory.flavour.unwrap_or(Flavour::OpenLdap));
        let task = tokio::spawn(poller::run(Arc::new(config), profile, asked, seeing, stopping));
        Running { stop, requests, seen, task }
    }

    async fn start(&self, slapd: &Slapd) -> Running {
        self.start_live(self.config(slapd, "", "")).await
    }

    async fn start_live(&self, config: Config) -> Running {
        let mut running = self.start_with(config);
        running.seen("live", |seen| seen.live).await;
        running
    }

    fn feed(&self) -> Feed {
        Feed::open(self.dir.path()).unwrap()
    }

    fn rows(&self) -> Vec<FeedRow> {
        self.feed().after(self.cursor, 100_000).unwrap().rows
    }

    fn told(&self) -> Told {
        let first = |row: &FeedRow| row.record.dn.split(',').next().unwrap_or_default().to_owned();
        let mut told: Told = self.rows().iter().map(|row| (first(row), row.kind, row.changed.clone())).collect();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        told
    }

    /// Waits until the log says so; then nothing else may come, and the next call begins there.
    async fn hears(&mut self, expected: &[(&str, FeedKind)]) -> Vec<FeedRow> {
        let expected: Vec<(String, FeedKind)> = expected.iter().map(|(name, kind)| ((*name).into(), *kind)).collect();
        let is_so = |told: &Told| told.iter().map(|(name, kind, _)| (name.clone(), *kind)).eq(expected.iter().cloned());
        let started = Instant::now();
        while !is_so(&self.told()) && started.elapsed() < LONG / 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(QUIET).await;
        assert!(is_so(&self.told()), "expected {expected:?}, told {:?}", self.told());
        let rows = self.rows();
        self.skip();
        rows
    }

    /// Reads on from here.
    fn skip(&mut self) {
        self.cursor = self.feed().head().unwrap();
    }

    async fn suspect(&self) -> homeward::intake::Suspect {
        let started = Instant::now();
        loop {
            if let Some(suspect) = self.feed().status().unwrap().suspect {
                return suspect;
            }
            assert!(started.elapsed() < LONG, "never suspect");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn people(range: std::ops::Range<usize>) -> String {
    range.map(|n| person(&format!("u{n:04}"), "")).collect()
}

/// So many users below a container of their own.
fn unit(name: &str, above: &str, users: usize) -> String {
    let mut ldif = format!("dn: ou={name},{above}\nobjectClass: organizationalUnit\nou: {name}\n\n");
    for n in 0..users {
        let _ = write!(
            ldif,
            "dn: uid={name}{n},ou={name},{above}\nobjectClass: inetOrgPerson\nuid: {name}{n}\ncn: x\nsn: x\n\n"
        );
    }
    ldif
}

fn set(slapd: &Slapd, uid: &str, attribute: &str, value: &str) {
    slapd.modify(&format!(
        "dn: uid={uid},ou=people,{SUFFIX}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n"
    ));
}

fn move_to(slapd: &Slapd, dn: &str, rdn: &str, above: &str) {
    slapd.modify(&format!("dn: {dn}\nchangetype: modrdn\nnewrdn: {rdn}\ndeleteoldrdn: 1\nnewsuperior: {above}\n"));
}

fn people_dn() -> String {
    format!("ou=people,{SUFFIX}")
}

/// Puts access lines before all others; in force after the restart.
fn deny(slapd: &Slapd, dn: &str) {
    let path = slapd.path("slapd.conf");
    let conf = std::fs::read_to_string(&path).unwrap();
    let lines = format!("access to dn.subtree=\"{dn}\" by * none\naccess to attrs=userPassword");
    std::fs::write(&path, conf.replacen("access to attrs=userPassword", &lines, 1)).unwrap();
}

/// The same content, with new UUIDs.
fn reload(slapd: &Slapd) {
    let ldif = slapd.search("(objectClass=*)", &["*"]);
    slapd.stop();
    for file in std::fs::read_dir(slapd.path("db")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    slapd.load(&ldif);
    slapd.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_pass_tells_everybody_and_a_second_start_nothing() {
    let slapd = Slapd::builder().slapadd(people(0..200)).start();
    let mut reader = Reader::new();
    let mut running = reader.start(&slapd).await;
    let seen = running.seen("refreshed", |seen| seen.refreshed).await;
    assert_eq!((seen.users, seen.held), (200, None));
    let rows = reader.rows();
    assert!(rows.len() == 200 && rows.iter().all(|row| row.kind == FeedKind::Created && !row.live));
    let feed = reader.feed();
    assert_eq!(feed.carriers_complete().unwrap().map(|at| at.seq), Some(0), "nobody carries our values");
    let status = feed.status().unwrap();
    let source = status.source.unwrap();
    assert_eq!((source.kind.as_str(), source.state.as_str()), ("syncrepl", "live"));
    assert_eq!(source.guarantees.deletes, "at once");
    reader.skip();
    assert!(running.stop().await < Duration::from_secs(1));
    let running = reader.start(&slapd).await;
    reader.hears(&[]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_changes_are_told_and_a_change_of_nothing_that_we_read_is_not() {
    let slapd = Slapd::builder().users(people(0..3)).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    let before = Timestamp::now();
    slapd.add(&person("new", ""));
    let rows = reader.hears(&[("uid=new", FeedKind::Created)]).await;
    assert!(rows[0].live && rows[0].heard_at >= before && rows[0].heard_at <= Timestamp::now());
    set(&slapd, "new", "mail", "other@example.com");
    let rows = reader.hears(&[("uid=new", FeedKind::Updated)]).await;
    assert_eq!(rows[0].changed, ["mail"]);
    set(&slapd, "new", "title", "boss");
    set(&slapd, "new", "mail", "other@example.com");
    reader.hears(&[]).await;
    move_to(&slapd, &format!("uid=new,ou=people,{SUFFIX}"), "uid=newer", &people_dn());
    reader.hears(&[("uid=newer", FeedKind::Renamed)]).await;
    slapd.delete(&format!("uid=newer,ou=people,{SUFFIX}"));
    reader.hears(&[("uid=newer", FeedKind::Deleted)]).await;
    slapd.delete(&format!("uid=u0000,ou=people,{SUFFIX}"));
    slapd.delete(&format!("uid=u0001,ou=people,{SUFFIX}"));
    reader.hears(&[("uid=u0000", FeedKind::Deleted), ("uid=u0001", FeedKind::Deleted)]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_base_left_the_scope_and_comes_back_created() {
    let slapd = Slapd::builder().users(people(0..2)).start();
    let mut reader = Reader::new();
    let config = reader.config(&slapd, &format!("base = \"{}\"", people_dn()), "");
    let running = reader.start_live(config).await;
    reader.skip();
    let (inside, outside) = (people_dn(), format!("ou=services,{SUFFIX}"));
    move_to(&slapd, &format!("uid=u0000,{inside}"), "uid=u0000", &outside);
    reader.hears(&[("uid=u0000", FeedKind::LeftScope)]).await;
    move_to(&slapd, &format!("uid=u0000,{outside}"), "uid=u0000", &inside);
    reader.hears(&[("uid=u0000", FeedKind::Created)]).await;
    slapd.delete(&format!("uid=u0000,{inside}"));
    reader.hears(&[("uid=u0000", FeedKind::Deleted)]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_passwords_is_told_to_nobody_and_an_administrators_lock_is() {
    let slapd = Slapd::builder().ppolicy(true).users(person("ann", "userPassword: right")).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    let ann = format!("uid=ann,{}", people_dn());
    for _ in 0..7 {
        assert!(!slapd.run_as(&ann, "wrong", "ldapwhoami", &[], "").status.success());
    }
    assert!(slapd.value("(uid=ann)", "pwdAccountLockedTime").is_some(), "the account is locked out");
    reader.hears(&[]).await;
    set(&slapd, "ann", "pwdAccountLockedTime", "000001010000Z");
    let rows = reader.hears(&[("uid=ann", FeedKind::Updated)]).await;
    assert_eq!(rows[0].changed, ["pwdaccountlockedtime"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_below_a_container_that_is_renamed_are_renamed() {
    let tree = unit("sales", &people_dn(), 5) + &unit("east", &format!("ou=sales,{}", people_dn()), 2);
    let slapd = Slapd::builder().users(tree).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    move_to(&slapd, &format!("ou=sales,{}", people_dn()), "ou=vente", &people_dn());
    let renamed = ["uid=east0", "uid=east1", "uid=sales0", "uid=sales1", "uid=sales2", "uid=sales3", "uid=sales4"];
    let rows = reader.hears(&renamed.map(|name| (name, FeedKind::Renamed))).await;
    assert!(rows.iter().all(|row| row.record.dn.contains("ou=vente")));
    running.stop().await;
    // The same while nobody looks.
    move_to(&slapd, &format!("ou=vente,{}", people_dn()), "ou=sales", &people_dn());
    let running = reader.start(&slapd).await;
    reader.hears(&renamed.map(|name| (name, FeedKind::Renamed))).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_below_a_container_that_leaves_and_enters_the_base_leave_and_enter_it() {
    let slapd = Slapd::builder().users(people(0..4) + &unit("sales", &people_dn(), 3)).start();
    let mut reader = Reader::new();
    let config = || reader.config(&slapd, &format!("base = \"{}\"", people_dn()), "");
    let (config, again) = (config(), config());
    let running = reader.start_live(config).await;
    reader.skip();
    let all = |kind| ["uid=sales0", "uid=sales1", "uid=sales2"].map(|name| (name, kind));
    let (inside, outside) = (people_dn(), format!("ou=services,{SUFFIX}"));
    move_to(&slapd, &format!("ou=sales,{inside}"), "ou=sales", &outside);
    reader.hears(&all(FeedKind::LeftScope)).await;
    move_to(&slapd, &format!("ou=sales,{outside}"), "ou=sales", &inside);
    reader.hears(&all(FeedKind::Created)).await;
    running.stop().await;
    // The same while nobody looks.
    move_to(&slapd, &format!("ou=sales,{inside}"), "ou=sales", &outside);
    let running = reader.start_live(again.clone()).await;
    reader.hears(&all(FeedKind::LeftScope)).await;
    running.stop().await;
    move_to(&slapd, &format!("ou=sales,{outside}"), "ou=sales", &inside);
    let running = reader.start_live(again).await;
    reader.hears(&all(FeedKind::Created)).await;
    running.stop().await;
}

const GROUP: &str = "cn=im,ou=groups,dc=example,dc=com";
const INNER: &str = "cn=inner,ou=groups,dc=example,dc=com";

fn group(dn: &str, members: &[&str]) -> String {
    let mut ldif = format!("dn: {dn}\nobjectClass: groupOfNames\n");
    for member in members {
        let _ = writeln!(ldif, "member: {member}");
    }
    ldif + "\n"
}

fn join(slapd: &Slapd, verb: &str, group: &str, member: &str) {
    slapd.modify(&format!("dn: {group}\nchangetype: modify\n{verb}: member\nmember: {member}\n"));
}

fn user_dn(n: usize) -> String {
    format!("uid=u{n:04},{}", people_dn())
}

async fn follows_membership(memberof: bool) {
    let users = people(0..3) + &group(GROUP, &[&user_dn(0)]);
    let slapd = Slapd::builder().memberof(memberof).users(users).start();
    let mut reader = Reader::new();
    let rule = format!("[[policy]]\nname = \"im\"\naction = \"enable\"\nmatch = \"(memberOf={GROUP})\"");
    let config = reader.config(&slapd, "", &rule);
    let running = reader.start_live(config.clone()).await;
    let members = |rows: &[FeedRow]| -> BTreeMap<String, Option<String>> {
        let of = |row: &FeedRow| row.record.text("memberof").map(str::to_owned);
        rows.iter().map(|row| (row.record.text("uid").unwrap().to_owned(), of(row))).collect()
    };
    let rows = reader.hears(&["uid=u0000", "uid=u0001", "uid=u0002"].map(|name| (name, FeedKind::Created))).await;
    let found = members(&rows);
    assert_eq!((found["u0000"].as_deref(), found["u0001"].as_deref()), (Some(GROUP), None));
    join(&slapd, "add", GROUP, &user_dn(1));
    let rows = reader.hears(&[("uid=u0001", FeedKind::Updated)]).await;
    assert_eq!((members(&rows)["u0001"].as_deref(), &rows[0].changed[..]), (Some(GROUP), &["memberof".into()][..]));
    join(&slapd, "delete", GROUP, &user_dn(0));
    assert_eq!(members(&reader.hears(&[("uid=u0000", FeedKind::Updated)]).await)["u0000"], None);
    running.stop().await;
    // The same while nobody looks.
    join(&slapd, "add", GROUP, &user_dn(2));
    let running = reader.start_live(config).await;
    let rows = reader.hears(&[("uid=u0002", FeedKind::Updated)]).await;
    assert_eq!(members(&rows)["u0002"].as_deref(), Some(GROUP));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_is_followed_where_the_server_keeps_member_of() {
    follows_membership(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_is_followed_where_the_server_keeps_no_member_of() {
    follows_membership(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_through_groups_is_followed_and_groups_outside_the_base_count() {
    let users = people(0..3) + &group(INNER, &[&user_dn(1)]) + &group(GROUP, &[&user_dn(0), INNER]);
    let slapd = Slapd::builder().users(users).start();
    let rule = format!("[[policy]]\nname = \"im\"\nnested = true\naction = \"enable\"\nmatch = \"(memberOf={GROUP})\"");
    let inside = |reader: &Reader| -> Vec<bool> {
        let mut rows = reader.feed().after(Sequence::default(), 100).unwrap().rows;
        rows.sort_by(|a, b| a.record.dn.cmp(&b.record.dn));
        rows.iter().map(|row| row.record.text("memberof;nested").is_some()).collect()
    };
    let mut reader = Reader::new();
    let running = reader.start_live(reader.config(&slapd, "", &rule)).await;
    assert_eq!(inside(&reader), [true, true, false]);
    reader.skip();
    join(&slapd, "add", INNER, &user_dn(2));
    reader.hears(&[("uid=u0002", FeedKind::Updated)]).await;
    running.stop().await;
    let reader = Reader::new();
    let config = reader.config(&slapd, &format!("base = \"{}\"", people_dn()), &rule);
    let running = reader.start_live(config).await;
    assert_eq!(inside(&reader), [true, true, true]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_is_followed_on() {
    let slapd = Slapd::builder().users(people(0..3)).session_log(100).start();
    let mut reader = Reader::new();
    let mut running = reader.start(&slapd).await;
    reader.skip();
    slapd.stop();
    running.seen("lost", |seen| !seen.live).await;
    slapd.restart();
    set(&slapd, "u0001", "mail", "late@example.com");
    reader.hears(&[("uid=u0001", FeedKind::Updated)]).await;
    running.seen("live again", |seen| seen.live).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_newest_csn_keeps_our_cursor_until_its_next_write() {
    let slapd = Slapd::builder().users(people(0..10)).start();
    let mut reader = Reader::new();
    // What slapd writes down of its own: the second change after a start.
    slapd.restart();
    let mut running = reader.start(&slapd).await;
    for n in 0..10 {
        set(&slapd, &format!("u{n:04}"), "mail", "changed@example.com");
    }
    running.seen("all ten", |seen| seen.head.seq >= 20).await;
    reader.skip();
    slapd.kill9();
    running.seen("lost", |seen| !seen.live).await;
    slapd.restart();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!running.seen.borrow().live, "53 until the next write");
    set(&slapd, "u0003", "mail", "late@example.com");
    reader.hears(&[("uid=u0003", FeedKind::Updated)]).await;
    running.seen("live again", |seen| seen.live).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_meanwhile_is_told_with_and_without_a_session_log() {
    for session_log in [0, 100] {
        let slapd = Slapd::builder().users(people(0..4)).session_log(session_log).start();
        let mut reader = Reader::new();
        let running = reader.start(&slapd).await;
        reader.skip();
        running.stop().await;
        slapd.delete(&user_dn(0));
        set(&slapd, "u0001", "mail", "late@example.com");
        move_to(&slapd, &user_dn(2), "uid=renamed", &people_dn());
        slapd.add(&person("added", ""));
        let running = reader.start(&slapd).await;
        reader
            .hears(&[
                ("uid=added", FeedKind::Created),
                ("uid=renamed", FeedKind::Renamed),
                ("uid=u0000", FeedKind::Deleted),
                ("uid=u0001", FeedKind::Updated),
            ])
            .await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_8_a_reloaded_directory_with_new_uuids_deletes_nobody() {
    let slapd = Slapd::builder().slapadd(people(0..1000)).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    running.stop().await;
    reload(&slapd);
    let running = reader.start(&slapd).await;
    let suspect = reader.suspect().await;
    assert_eq!(suspect.count, 1000);
    tokio::time::sleep(QUIET).await;
    let kinds: Vec<FeedKind> = reader.told().into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, vec![FeedKind::Created; 1000]);
    reader.skip();
    running.requests.send(Request::Approve("000000000000".into())).await.unwrap();
    reader.hears(&[]).await;
    running.requests.send(Request::Approve(suspect.hash)).await.unwrap();
    let started = Instant::now();
    while reader.told().len() < 1000 && started.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(reader.told().iter().all(|(_, kind, _)| *kind == FeedKind::Deleted));
    assert_eq!((reader.told().len(), reader.feed().status().unwrap().suspect), (1000, None));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_8_lost_read_rights_remove_nobody_however_few_they_are() {
    let slapd = Slapd::builder().users(people(0..5) + &unit("sales", &people_dn(), 2)).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    running.stop().await;
    deny(&slapd, &format!("ou=sales,{}", people_dn()));
    slapd.restart();
    set(&slapd, "u0000", "mail", "late@example.com");
    let running = reader.start(&slapd).await;
    assert_eq!(reader.suspect().await.count, 2);
    reader.hears(&[("uid=u0000", FeedKind::Updated)]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspicion_ends_by_itself_when_rights_come_back_live() {
    let slapd = Slapd::builder().users(people(0..5) + &unit("sales", &people_dn(), 20)).start();
    let mut reader = Reader::new();
    let mut running = reader.start(&slapd).await;
    reader.skip();
    let sales = format!("ou=sales,{}", people_dn());
    slapd.deny(&sales);
    running.requests.send(Request::Sweep).await.unwrap();
    assert_eq!(reader.suspect().await.count, 20);
    // One comes to a place that we do not see.
    slapd.add(&format!("dn: uid=late,{sales}\nobjectClass: inetOrgPerson\nuid: late\ncn: x\nsn: x\n\n"));
    running.seen("live", |seen| seen.live).await;
    reader.hears(&[]).await;
    slapd.allow();
    running.seen("read", |seen| seen.refreshed && seen.live).await;
    let rows = reader.hears(&[("uid=late", FeedKind::Created)]).await;
    assert!(!rows[0].live, "found by comparing everything");
    assert_eq!(reader.feed().status().unwrap().missing, 0);
    assert_eq!(reader.feed().status().unwrap().suspect, None);
    // Nothing is left behind: what happens is heard at once.
    set(&slapd, "u0001", "mail", "late@example.com");
    reader.hears(&[("uid=u0001", FeedKind::Updated)]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_starts_in_doubt_compares_everything() {
    let slapd = Slapd::builder().users(people(0..5) + &unit("sales", &people_dn(), 2)).session_log(100).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    running.stop().await;
    let sales = format!("ou=sales,{}", people_dn());
    slapd.deny(&sales);
    let running =
        reader.start_live(reader.config(&slapd, "filter = \"(&(objectClass=inetOrgPerson)(uid=*))\"", "")).await;
    assert_eq!(reader.suspect().await.count, 2);
    running.stop().await;
    slapd.allow();
    // The session log says that nothing changed, and is not asked.
    let running =
        reader.start_live(reader.config(&slapd, "filter = \"(&(objectClass=inetOrgPerson)(uid=*))\"", "")).await;
    assert_eq!(reader.feed().status().unwrap().suspect, None, "as soon as it is live");
    reader.hears(&[]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_does_not_see_outside_never_says_deleted() {
    let slapd = Slapd::builder().users(people(0..5)).start();
    for unit in ["groups", "policies"] {
        deny(&slapd, &format!("ou={unit},{SUFFIX}"));
    }
    let path = slapd.path("slapd.conf");
    let conf = std::fs::read_to_string(&path).unwrap();
    let rest = format!(
        "access to dn.subtree=\"ou=services,{SUFFIX}\" by * auth\naccess to dn.base=\"{SUFFIX}\" by * none\n\
         access to attrs=userPassword"
    );
    std::fs::write(&path, conf.replacen("access to attrs=userPassword", &rest, 1)).unwrap();
    slapd.restart();
    let mut reader = Reader::new();
    let config = reader.config(&slapd, &format!("base = \"{}\"", people_dn()), "");
    let running = reader.start_live(config).await;
    let guarantees = reader.feed().status().unwrap().source.unwrap().guarantees;
    assert!(guarantees.deletes.contains("left-scope"), "{guarantees:?}");
    reader.skip();
    slapd.delete(&user_dn(0));
    reader.hears(&[("uid=u0000", FeedKind::LeftScope)]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refused_is_heard_again() {
    let slapd = Slapd::builder().users(people(0..2)).start();
    let mut reader = Reader::new();
    let mut running = reader.start(&slapd).await;
    reader.skip();
    let saboteur = rusqlite::Connection::open(reader.dir.path().join("directory.db")).unwrap();
    saboteur.execute_batch("create trigger no before insert on entry begin select raise(abort, 'no'); end").unwrap();
    slapd.add(&person("first", ""));
    running.seen("held", |seen| seen.held.is_some()).await;
    set(&slapd, "u0001", "mail", "late@example.com");
    assert_eq!(reader.told(), []);
    saboteur.execute_batch("drop trigger no").unwrap();
    reader.hears(&[("uid=first", FeedKind::Created), ("uid=u0001", FeedKind::Updated)]).await;
    assert_eq!(running.seen("live again", |seen| seen.live).await.held, None);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_breaks_off_removes_nobody_and_is_begun_again() {
    let slapd = Slapd::builder().slapadd(people(0..1000)).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    running.stop().await;
    let (cut, cutting) = watch::channel(Some(100_000));
    let mut config = reader.config(&slapd, "filter = \"(&(objectClass=inetOrgPerson)(uid=*))\"", "");
    config.directory.urls = vec![format!("ldap://127.0.0.1:{}", proxy(slapd.port(), cutting).await)];
    let mut running = reader.start_with(config);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!running.seen.borrow().refreshed);
    assert_eq!((reader.told(), reader.feed().status().unwrap().missing), (vec![], 0));
    cut.send(None).unwrap();
    running.seen("refreshed", |seen| seen.refreshed).await;
    reader.hears(&[]).await;
    running.stop().await;
}

/// Between poller and server: cuts each connection off after so many bytes from the server.
async fn proxy(port: u16, cut: watch::Receiver<Option<usize>>) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, cut) = (tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap(), cut.clone());
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut buffer, mut passed) = (vec![0; 4096], 0);
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    passed += count;
                    // The schema is longer than that, and comes first on its own connection: only a refresh is cut.
                    let is_entries = buffer.windows(13).any(|window| window == b"inetOrgPerson");
                    if cut.borrow().is_some_and(|limit| passed > limit) && is_entries {
                        break;
                    }
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                up.abort();
            });
        }
    });
    own
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_changes_is_told_whole() {
    let slapd = Slapd::builder().start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    slapd.add(&people(0..500));
    let started = Instant::now();
    while reader.told().len() < 500 && started.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(reader.rows().iter().all(|row| row.kind == FeedKind::Created && row.live));
    assert_eq!(reader.rows().len(), 500);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_removed_with_its_users_is_told_where_the_server_names_them() {
    let slapd = Slapd::builder().users(people(0..5) + &unit("sales", &people_dn(), 2)).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    let sales = format!("ou=sales,{}", people_dn());
    for dn in [format!("uid=sales0,{sales}"), format!("uid=sales1,{sales}"), sales] {
        slapd.delete(&dn);
    }
    reader.hears(&[("uid=sales0", FeedKind::Deleted), ("uid=sales1", FeedKind::Deleted)]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_limit_is_said_and_removes_nobody() {
    let slapd = Slapd::builder().users(people(0..20)).start();
    let mut reader = Reader::new();
    let running = reader.start(&slapd).await;
    reader.skip();
    running.stop().await;
    let path = slapd.path("slapd.conf");
    let conf = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, conf.replace("size=unlimited", "size=10")).unwrap();
    slapd.restart();
    // Another filter: everything is read again.
    let config = reader.config(&slapd, "filter = \"(&(objectClass=inetOrgPerson)(uid=*))\"", "");
    let mut running = reader.start_with(config);
    let held = running.seen("held", |seen| seen.held.is_some()).await.held.unwrap();
    assert!(held.contains("size limit exceeded") && held.contains("limits dn.exact"), "{held}");
    reader.hears(&[]).await;
    assert_eq!(reader.feed().status().unwrap().missing, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_filter_means_everything_anew_and_who_no_longer_matches_left_the_scope() {
    let slapd = Slapd::builder().users(people(0..4)).session_log(100).start();
    let mut reader = Reader::new();
    let config = reader.config(&slapd, "filter = \"(uid=u0000)\"", "");
    let running = reader.start_live(config).await;
    reader.hears(&[("uid=u0000", FeedKind::Created)]).await;
    running.stop().await;
    let config = reader.config(&slapd, "filter = \"(|(uid=u0001)(uid=u0002))\"", "");
    let running = reader.start_live(config).await;
    reader
        .hears(&[
            ("uid=u0000", FeedKind::LeftScope),
            ("uid=u0001", FeedKind::Created),
            ("uid=u0002", FeedKind::Created),
        ])
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_removes_nobody() {
    let slapd = Slapd::builder().users(people(0..2)).start();
    let mut reader = Reader::new();
    let config = || reader.config(&slapd, &format!("base = \"{}\"", people_dn()), "");
    let (first, second) = (config(), config());
    let running = reader.start_live(first).await;
    reader.skip();
    running.stop().await;
    for n in 0..2 {
        slapd.delete(&user_dn(n));
    }
    let running = reader.start_live(second).await;
    assert_eq!(reader.suspect().await.count, 2);
    reader.hears(&[]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_repairs_what_nobody_told_and_goes_back_to_live() {
    let slapd = Slapd::builder().users(people(0..3)).start();
    let mut reader = Reader::new();
    let mut running = reader.start(&slapd).await;
    reader.skip();
    // As if it had been missed: the log is told of a mail that the directory does not have.
    let store = rusqlite::Connection::open(reader.dir.path().join("directory.db")).unwrap();
    let changed = store
        .execute("update entry set record = replace(record, 'u0001@example.com', 'stale@example.com')", [])
        .unwrap();
    assert!(changed > 0);
    running.requests.send(Request::Sweep).await.unwrap();
    reader.hears(&[("uid=u0001", FeedKind::Updated)]).await;
    running.seen("live again", |seen| seen.live).await;
    set(&slapd, "u0002", "mail", "late@example.com");
    reader.hears(&[("uid=u0002", FeedKind::Updated)]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn carriers_are_known_before_everybody_else() {
    let carrier = "objectClass: homewardIMUser\nimHomeServer: im1\n";
    let slapd = Slapd::builder().users(people(0..5) + &person("zoe", carrier)).start();
    let reader = Reader::new();
    let running = reader.start(&slapd).await;
    let rows = reader.rows();
    assert_eq!(rows[0].record.text("uid"), Some("zoe"));
    assert_eq!(reader.feed().carriers_complete().unwrap(), Some(rows[0].sequence));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_person_is_held_with_a_hint_and_goes_no_further() {
    let slapd = Slapd::builder().users(people(0..1)).start();
    let reader = Reader::new();
    let mut config = reader.config(&slapd, "", "");
    config.directory.flavour = Some(homeward::config::Flavour::ActiveDirectory);
    let mut running = reader.start_with(config);
    let held = running.seen("held", |seen| seen.held.is_some()).await.held.unwrap();
    assert!(held.contains("what a domain controller tells"), "{held}");
    running.stop().await;
    let config = reader.config(&slapd, "", "");
    std::fs::write(reader.dir.path().join("password"), "wrong").unwrap();
    let wrong = {
        let mut config = config.clone();
        if let homeward::config::Bind::Simple { password, .. } = &mut config.directory.bind {
            *password = "wrong".to_owned().into();
        }
        config
    };
    let mut running = reader.start_with(wrong);
    let held = running.seen("held", |seen| seen.held.is_some()).await.held.unwrap();
    assert!(held.contains("password"), "{held}");
    assert!(reader.feed().status().unwrap().source.unwrap().state.starts_with("held: "));
    assert!(running.stop().await < Duration::from_secs(1), "while it waits, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_program_ends_it() {
    let slapd = Slapd::builder().start();
    let reader = Reader::new();
    let config = reader.config(&slapd, "", "");
    newer(reader.dir.path());
    let error = tokio::time::timeout(LONG, reader.start_with(config).task).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, PollerError::Store(_)), "{error}");
}

fn newer(dir: &Path) {
    let store = rusqlite::Connection::open(dir.join("directory.db")).unwrap();
    store.pragma_update(None, "user_version", 999).unwrap();
}

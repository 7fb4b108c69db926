//! Intake and feed together, on a real store: what the directory says, and what readers at any cursor are told.

// clippy.toml's list is for decide/; a measurement reads the clock.
#![allow(clippy::disallowed_methods)]

use homeward::config::Guard;
use homeward::decide::digest::{REVERSIBLE, Reversible, StorageRule};
use homeward::directory::Entry;
use homeward::directory::entry::Shape;
use homeward::directory::reversible::{Look, Switch};
use homeward::directory::source::{Batch, Change, Cursor, Presence};
use homeward::feed::{Feed, FeedError, FeedKind};
use homeward::intake::{Groups, Intake, Verdict};
use homeward::model::{Sequence, Timestamp, UserKey, UserRecord};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

struct World {
    dir: tempfile::TempDir,
    intake: Intake,
}

impl World {
    fn new() -> World {
        World::with(Groups::default())
    }

    fn with(groups: Groups) -> World {
        let dir = tempfile::tempdir().unwrap();
        let intake = open(dir.path(), groups);
        World { dir, intake }
    }

    fn feed(&self) -> Feed {
        Feed::open(self.dir.path()).unwrap()
    }

    fn refresh(&mut self, changes: Vec<Change>) -> homeward::intake::Taken {
        self.intake.begin_refresh(false);
        self.intake
            .take(Batch { changes, complete: Some(Presence::Everything), refresh: true, ..Batch::default() }, NOW)
            .unwrap()
    }

    fn live(&mut self, changes: Vec<Change>) -> homeward::intake::Taken {
        self.intake.take(Batch { changes, ..Batch::default() }, NOW).unwrap()
    }

    /// (user number, kind, changed attributes) behind a cursor.
    fn told(&self, cursor: Sequence) -> Vec<(u8, FeedKind, Vec<String>)> {
        let page = self.feed().after(cursor, 10_000).unwrap();
        page.rows.into_iter().map(|row| (row.key.0[0], row.kind, row.changed)).collect()
    }
}

fn open(dir: &std::path::Path, groups: Groups) -> Intake {
    let guard = Guard { releases: 50, releases_percent: 50, window: Duration::from_secs(3600) };
    let shape = Shape::new(
        "dc=x",
        ["objectClass", "uid", "mail", "userPassword"],
        Box::new(|record: &UserRecord| record.text("objectclass") == Some("person")),
    );
    Intake::open(dir, shape, groups, guard, NOW).unwrap()
}

fn key(n: u8) -> UserKey {
    UserKey([n; 16])
}

fn entry(n: u8, dn: &str, class: &str, mail: &str) -> Entry {
    let one = |text: &str| vec![text.as_bytes().to_vec()];
    Entry {
        key: key(n),
        dn: dn.into(),
        attributes: vec![
            ("objectclass".into(), one(class)),
            ("uid".into(), one(&format!("u{n}"))),
            ("mail".into(), one(mail)),
            ("userpassword".into(), one("hunter2")),
        ],
    }
}

fn user(n: u8, mail: &str) -> Change {
    Change::Entry(entry(n, &format!("uid=u{n},dc=x"), "person", mail))
}

fn removed(n: u8, dn: Option<&str>) -> Change {
    Change::Removed { key: key(n), dn: dn.map(str::to_owned) }
}

fn cursor(position: &[u8]) -> Cursor {
    Cursor { source: "syncrepl".into(), search: "s".into(), server: "h".into(), position: position.to_vec() }
}

fn users(range: std::ops::Range<u8>) -> Vec<Change> {
    range.map(|n| user(n, "a@x")).collect()
}

#[test]
fn the_same_batch_twice_moves_no_seq_and_writes_no_page() {
    let mut world = World::new();
    let batch = Batch { changes: users(1..20), cursor: Some(cursor(b"1")), ..Batch::default() };
    let first = world.intake.take(batch.clone(), NOW).unwrap();
    let wal = world.dir.path().join("directory.db-wal");
    let size = wal.metadata().unwrap().len();
    let second = world.intake.take(batch, NOW).unwrap();
    assert_eq!((first.created, second.created, second.changed, second.unchanged), (19, 0, 0, 19));
    assert_eq!(first.head, second.head);
    assert_eq!(wal.metadata().unwrap().len(), size);
}

#[test]
fn each_reader_is_told_what_happened_since_its_own_cursor() {
    let mut world = World::new();
    let early = world.live(vec![user(1, "a@x"), user(2, "a@x"), user(3, "a@x"), user(4, "a@x")]).head;
    let late = world.live(vec![user(1, "b@x")]).head;
    world.live(vec![Change::Entry(entry(2, "uid=new,dc=x", "person", "a@x")), user(5, "a@x")]);
    world.live(vec![removed(3, Some("uid=u3,dc=elsewhere")), removed(4, None)]);
    world.intake.conclude(vec![(key(4), Verdict::Deleted)], NOW).unwrap();
    let rest = vec![
        (2, FeedKind::Renamed, vec![]),
        (5, FeedKind::Created, vec![]),
        (3, FeedKind::LeftScope, vec![]),
        (4, FeedKind::Deleted, vec![]),
    ];
    assert_eq!(world.told(late), rest);
    let mut all = rest;
    all.insert(0, (1, FeedKind::Updated, vec!["mail".to_owned()]));
    assert_eq!(world.told(early), all);
    let present: Vec<u8> = world.told(Sequence::default()).into_iter().map(|(n, ..)| n).collect();
    assert_eq!(present, [1, 2, 5], "one who begins is not told of the dead");
}

#[test]
fn a_row_says_when_its_newest_change_was_heard() {
    let mut world = World::new();
    let at = |seconds| NOW.plus(Duration::from_secs(seconds));
    let mut take = |changes, now| world.intake.take(Batch { changes, ..Batch::default() }, now).unwrap();
    take(users(1..4), NOW);
    take(users(1..4), at(1));
    take(vec![user(2, "b@x")], at(2));
    take(vec![removed(3, Some("uid=u3,dc=elsewhere"))], at(3));
    let heard = |n| world.feed().by_key(&key(n)).unwrap().unwrap().heard_at;
    assert_eq!([heard(1), heard(2), heard(3)], [NOW, at(2), at(3)]);
}

#[test]
fn ten_changes_are_one_row_and_of_one_key_twice_the_later_wins() {
    let mut world = World::new();
    let start = world.live(users(1..3)).head;
    for n in 0..10 {
        world.live(vec![user(1, &format!("{n}@x"))]);
    }
    world.refresh(vec![user(2, "first@x"), user(1, "9@x"), user(2, "second@x")]);
    let rows = world.feed().after(start, 100).unwrap().rows;
    let mails: Vec<_> = rows.iter().map(|row| row.record.text("mail").unwrap()).collect();
    assert_eq!(mails, ["9@x", "second@x"]);
}

#[test]
fn promise_1_rows_and_cursor_are_stored_together_or_not_at_all() {
    let mut world = World::new();
    let head = world.intake.take(Batch { cursor: Some(cursor(b"1")), changes: users(1..3), ..Batch::default() }, NOW);
    let head = head.unwrap().head;
    let saboteur = rusqlite::Connection::open(world.dir.path().join("directory.db")).unwrap();
    saboteur
        .execute_batch(
            "create trigger full before insert on entry when new.key = x'09090909090909090909090909090909'
             begin select raise(abort, 'no'); end",
        )
        .unwrap();
    let batch = Batch { changes: users(1..10), cursor: Some(cursor(b"2")), ..Batch::default() };
    world.intake.take(batch.clone(), NOW).unwrap_err();
    assert_eq!((world.intake.head(), world.intake.cursor(), world.intake.present()), (head, Some(cursor(b"1")), 2));
    assert_eq!(world.feed().after(head, 100).unwrap().rows, []);
    saboteur.execute_batch("drop trigger full").unwrap();
    assert_eq!(world.intake.take(batch.clone(), NOW).unwrap().created, 7);
    let reopened = open(world.dir.path(), Groups::default());
    assert_eq!((reopened.cursor(), reopened.present()), (batch.cursor, 9));
}

#[test]
fn promise_8_absence_up_to_the_limit_is_asked_about_and_one_more_tells_nobody() {
    // 20 users, 50 %: ten may be absent.
    let mut world = World::new();
    world.refresh(users(1..21));
    let taken = world.refresh(users(1..11));
    assert_eq!((taken.to_prove.len(), taken.suspect), (10, None));

    let mut world = World::new();
    let start = world.refresh(users(1..21)).head;
    let taken = world.refresh(users(1..10));
    let suspect = taken.suspect.unwrap();
    assert_eq!((suspect.count, suspect.present, suspect.limit), (11, 20, 10));
    assert_eq!((taken.to_prove, world.told(start)), (vec![], vec![]));
    world.intake.conclude(vec![(key(20), Verdict::Deleted)], NOW).unwrap();
    assert_eq!(world.told(start), [], "a suspect user is not concluded about");
    assert!(!world.intake.approve("000000000000", NOW).unwrap());
    assert_eq!(world.intake.unproven().unwrap(), []);
    let mut reopened = open(world.dir.path(), Groups::default());
    assert!(reopened.approve(&suspect.hash, NOW).unwrap());
    assert_eq!((reopened.unproven().unwrap().len(), reopened.suspect()), (11, None));
    reopened.conclude(vec![(key(20), Verdict::Deleted)], NOW).unwrap();
    assert_eq!(world.told(start), [(20, FeedKind::Deleted, vec![])]);
}

#[test]
fn an_empty_answer_is_suspect_whatever_the_limit_and_ends_when_they_are_seen_again() {
    let mut world = World::new();
    let start = world.refresh(users(1..3)).head;
    assert!(world.refresh(vec![]).suspect.is_some());
    assert!(world.live(vec![user(1, "a@x")]).suspect.is_some());
    assert!(world.live(vec![Change::Present(vec![key(2)])]).suspect.is_none());
    assert_eq!((world.intake.unproven().unwrap(), world.told(start)), (vec![], vec![]));
}

#[test]
fn present_lists_count_as_seen_and_a_broken_refresh_concludes_nothing() {
    let mut world = World::new();
    world.refresh(users(1..10));
    let taken = world.refresh(vec![user(1, "b@x"), Change::Present((2..9).map(key).collect())]);
    assert_eq!(taken.to_prove.iter().map(|missing| missing.key).collect::<Vec<_>>(), [key(9)]);
    let mut restarted = open(world.dir.path(), Groups::default());
    let end = Batch { complete: Some(Presence::Everything), refresh: true, ..Batch::default() };
    assert!(restarted.take(end, NOW).unwrap().suspect.is_none());
    assert_eq!(restarted.unproven().unwrap().len(), 1);
}

#[test]
fn leaving_and_coming_back_is_told_to_those_who_slept_through_both() {
    let mut world = World::new();
    let start = world.live(users(1..2)).head;
    world.live(vec![Change::Entry(entry(1, "uid=u1,dc=x", "device", "a@x"))]);
    assert_eq!(world.told(start), [(1, FeedKind::LeftScope, vec![])]);
    world.live(users(1..2));
    assert_eq!(world.told(start), [(1, FeedKind::Created, vec![])]);
    world.live(vec![Change::Entry(entry(1, "uid=u1,dc=x", "device", "a@x"))]);
    assert_eq!(world.told(start), [(1, FeedKind::LeftScope, vec![])]);
}

#[test]
fn a_moved_container_is_returned_and_those_below_the_old_place_can_be_doubted() {
    let mut world = World::new();
    let ou = |dn: &str| Change::Entry(entry(200, dn, "organizationalUnit", "a@x"));
    let below = Change::Entry(entry(1, "uid=u1,ou=a,dc=x", "person", "a@x"));
    assert_eq!(world.refresh(vec![ou("ou=a,dc=x"), below, user(2, "a@x")]).containers, []);
    let moved = &world.live(vec![ou("ou=b,dc=x")]).containers[0];
    assert_eq!((moved.old_dn.as_deref(), moved.new_dn.as_deref()), (Some("ou=a,dc=x"), Some("ou=b,dc=x")));
    let doubted = world.intake.doubt_below("OU=a, dc=x", NOW).unwrap();
    assert_eq!(doubted.iter().map(|missing| missing.key).collect::<Vec<_>>(), [key(1)]);
    assert_eq!(world.live(vec![removed(200, None)]).containers[0].new_dn, None);
}

#[test]
fn promise_8_lookups_that_find_too_few_or_not_even_the_container_make_suspect() {
    let below = |n: u8| Change::Entry(entry(n, &format!("uid=u{n},ou=a,dc=x"), "person", "a@x"));
    let doubt = |lost: u8| {
        let mut world = World::new();
        let start = world.refresh((1..=20).map(|n| if n <= lost { below(n) } else { user(n, "a@x") }).collect()).head;
        assert_eq!(world.intake.doubt_below("ou=a,dc=x", NOW).unwrap().len(), usize::from(lost));
        (world, start)
    };
    let all = |lost: u8, verdict: Verdict| (1..=lost).map(|n| (key(n), verdict.clone())).collect::<Vec<_>>();
    // 20 users, 50 %: ten may be gone.
    let (mut world, start) = doubt(10);
    assert_eq!(world.intake.conclude(all(10, Verdict::Deleted), NOW).unwrap().removed, 10);
    assert_eq!(world.told(start).len(), 10);
    let (mut world, start) = doubt(11);
    let suspect = world.intake.conclude(all(11, Verdict::Deleted), NOW).unwrap().suspect.unwrap();
    assert_eq!((suspect.count, world.told(start)), (11, vec![]));
    assert!(world.intake.approve(&suspect.hash, NOW).unwrap());
    assert_eq!(world.intake.conclude(all(11, Verdict::LeftScope), NOW).unwrap().removed, 11);
    let (mut world, start) = doubt(2);
    let mut verdicts = all(1, Verdict::OutOfSight);
    verdicts.push((key(2), Verdict::StillThere(entry(2, "uid=u2,dc=x", "person", "a@x"))));
    assert_eq!(world.intake.conclude(verdicts, NOW).unwrap().suspect.unwrap().count, 1);
    assert_eq!(world.told(start), [(2, FeedKind::Renamed, vec![])], "who was found is no longer in doubt");
    // One that the server named, and that is not seen, is not proven deleted.
    let mut world = World::new();
    let start = world.refresh(users(1..5)).head;
    world.live(vec![removed(1, None)]);
    world.intake.conclude(all(1, Verdict::OutOfSight), NOW).unwrap();
    assert_eq!(world.told(start), [(1, FeedKind::LeftScope, vec![])]);
}

#[test]
fn what_is_to_be_read_again_is_kept_until_it_was() {
    let mut world = World::new();
    let ou = |n: u8, dn: &str| Change::Entry(entry(n, dn, "organizationalUnit", "a@x"));
    world.refresh(vec![ou(200, "ou=a,dc=x"), ou(201, "ou=i,ou=a,dc=x"), ou(202, "ou=z,dc=x")]);
    assert_eq!(world.intake.moved().unwrap(), []);
    world.live(vec![
        ou(200, "ou=b,dc=x"),
        ou(201, "ou=i,ou=b,dc=x"),
        ou(202, "ou=y,dc=x"),
        ou(203, "ou=new,ou=b,dc=x"),
    ]);
    let mut reopened = open(world.dir.path(), Groups::default());
    let moved = reopened.moved().unwrap();
    let new: Vec<_> = moved.iter().map(|moved| moved.new_dn.as_deref().unwrap()).collect();
    assert_eq!(new, ["ou=b,dc=x", "ou=i,ou=b,dc=x", "ou=y,dc=x", "ou=new,ou=b,dc=x"]);
    reopened.moved_done(&moved[0], moved[2].id, NOW).unwrap();
    let left: Vec<_> = reopened.moved().unwrap().into_iter().map(|moved| moved.new_dn.unwrap()).collect();
    assert_eq!(left, ["ou=y,dc=x", "ou=new,ou=b,dc=x"], "what came after the reading began is read again");
    // From a cursor, a container that is new to us may have come with users who are not sent.
    world.intake.begin_refresh(true);
    let batch = |dn| Batch { changes: vec![ou(204, dn)], refresh: true, ..Batch::default() };
    assert_eq!(world.intake.take(batch("ou=in,dc=x"), NOW).unwrap().containers.len(), 1);
    world.intake.begin_refresh(false);
    let changes = vec![ou(205, "ou=in2,dc=x")];
    let first = world.intake.take(Batch { changes, refresh: true, ..Batch::default() }, NOW).unwrap();
    assert_eq!(first.containers, []);
}

#[test]
fn promise_10_no_secret_reaches_the_store() {
    let mut world = World::new();
    world.live(users(1..3));
    for file in ["directory.db", "directory.db-wal"] {
        let bytes = std::fs::read(world.dir.path().join(file)).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "{file}");
    }
}

#[test]
fn membership_direct_and_nested_follows_the_groups() {
    let named = BTreeMap::from([("cn=g,dc=x".to_owned(), true)]);
    let mut world = World::with(Groups { named, ..Groups::default() });
    let group = |n: u8, dn: &str, members: &[&str]| {
        let mut entry = entry(n, dn, "groupOfNames", "a@x");
        entry.attributes.push(("member".into(), members.iter().map(|dn| dn.as_bytes().to_vec()).collect()));
        Change::Entry(entry)
    };
    let start = world.refresh(users(1..4)).head;
    world.live(vec![group(101, "cn=g,dc=x", &["UID=u1,dc=x", "cn=h,dc=x"]), group(102, "cn=h,dc=x", &["uid=u2,dc=x"])]);
    let nested = "memberof;nested".to_owned();
    let told = world.told(start);
    assert_eq!(told.len(), 2);
    assert!(told.contains(&(1, FeedKind::Updated, vec!["memberof".to_owned(), nested.clone()])), "{told:?}");
    assert!(told.contains(&(2, FeedKind::Updated, vec![nested.clone()])), "{told:?}");
    assert_eq!(world.live(users(1..4)).unchanged, 3);
    let before = world.intake.head();
    world.live(vec![removed(102, None)]);
    assert_eq!(world.told(before), [(2, FeedKind::Updated, vec![nested])]);
}

#[test]
fn who_comes_into_a_watched_group_or_leaves_it_is_read_again_and_no_membership_is_computed() {
    let watched = BTreeSet::from(["cn=g,dc=x".to_owned()]);
    let mut world = World::with(Groups { watched, server_has_member_of: true, ..Groups::default() });
    let group = |n: u8, dn: &str, members: &[&str]| {
        let mut entry = entry(n, dn, "groupOfNames", "a@x");
        entry.attributes.push(("member".into(), members.iter().map(|dn| dn.as_bytes().to_vec()).collect()));
        Change::Entry(entry)
    };
    let start = world.refresh(users(1..4)).head;
    world.live(vec![group(101, "CN=G,dc=elsewhere", &["uid=u3,dc=x"]), group(102, "CN=G,dc=x", &["UID=u1,dc=x"])]);
    assert_eq!(world.told(start), []);
    let again = |world: &World| -> Vec<(String, bool)> {
        world.intake.rereads(9).unwrap().into_iter().map(|row| (row.member_dn, row.is_member)).collect()
    };
    assert_eq!(again(&world), [("uid=u1,dc=x".to_owned(), true)]);
    world.live(vec![group(102, "CN=G,dc=x", &["uid=u2,dc=x"])]);
    assert_eq!(again(&world), [("uid=u1,dc=x".to_owned(), false), ("uid=u2,dc=x".to_owned(), true)]);
}

fn look(on: bool) -> Look {
    Look {
        rule: StorageRule::Any,
        domain: Switch { on: Some(on), changed: None },
        fine_grained: BTreeMap::new(),
        order: "x".into(),
        groups: BTreeSet::new(),
        ahead: Duration::ZERO,
    }
}

#[test]
fn a_changed_policy_reaches_everybody_in_chunks_even_after_a_crash_and_tells_only_whose_answer_changed() {
    let mut world = World::new();
    world.intake.look_at_storage(Some(&look(false)), NOW).unwrap();
    // 1,500 users; every third has the flag, and so an answer of its own.
    let many = |range: std::ops::Range<u32>| {
        let one = |n: u32| {
            let mut entry = entry(1, &format!("uid=u{n},dc=x"), "person", "a@x");
            entry.key.0[..4].copy_from_slice(&n.to_be_bytes());
            let control = if n.is_multiple_of(3) { "640" } else { "512" };
            entry.attributes.push(("useraccountcontrol".into(), vec![control.as_bytes().to_vec()]));
            Change::Entry(entry)
        };
        range.map(one).collect::<Vec<_>>()
    };
    let head = world.refresh(many(0..1500)).head;
    assert!(!world.intake.recompute(NOW).unwrap(), "a fresh reading leaves nothing to do");
    assert!(world.told(head).is_empty());
    assert_eq!(world.live(many(0..1500)).unchanged, 1500);

    let later = NOW.plus(Duration::from_secs(60));
    let news = world.intake.look_at_storage(Some(&look(true)), later).unwrap();
    assert_eq!((news.changed.as_deref(), news.due, news.unswept), (Some("on in the domain"), true, false));
    assert!(world.intake.recompute(later).unwrap(), "not all in one transaction");
    let mut intake = open(world.dir.path(), Groups::default());
    assert!(intake.look_at_storage(Some(&look(true)), later).unwrap().due, "the rest is not forgotten");
    while intake.recompute(later).unwrap() {}
    let told = world.feed().after(head, 10_000).unwrap().rows;
    assert_eq!(told.len(), 1000, "those with the flag have an earlier answer of their own");
    assert!(
        told.iter().all(|row| row.changed == [REVERSIBLE] && Reversible::of(&row.record) == Reversible::Since(later))
    );
    assert!(!intake.look_at_storage(Some(&look(true)), later.plus(Duration::from_secs(60))).unwrap().due);

    // Which policy applies to whom is known only by a reading of everybody.
    let other = Look { order: "y".into(), ..look(true) };
    assert!(intake.look_at_storage(Some(&other), later).unwrap().unswept);
    assert!(intake.look_at_storage(Some(&other), later).unwrap().unswept);
    intake.begin_refresh(false);
    let batch =
        Batch { changes: many(0..1500), complete: Some(Presence::Everything), refresh: true, ..Batch::default() };
    intake.take(batch, later).unwrap();
    assert!(!intake.look_at_storage(Some(&other), later).unwrap().unswept);
}

#[test]
fn cursors_of_another_log_or_behind_the_purge_are_gone_but_one_can_always_begin() {
    let mut world = World::new();
    let old = world.live(users(1..5)).head;
    world.live(vec![removed(1, Some("uid=u1,dc=elsewhere")), user(5, "a@x")]);
    let purged = world.intake.purge(Duration::from_secs(60), NOW.plus(Duration::from_secs(120))).unwrap();
    assert_eq!(purged, 1);
    assert!(matches!(world.feed().after(old, 10), Err(FeedError::CursorGone { .. })));
    let (mut at, mut seen) = (Sequence::default(), BTreeSet::new());
    loop {
        let page = world.feed().after(at, 1).unwrap();
        seen.extend(page.rows.iter().map(|row| row.key));
        at = page.cursor;
        if page.at_end {
            break;
        }
    }
    assert_eq!((seen.len(), at), (4, world.intake.head()));
    world.intake.rebuild("test", Sequence::default(), NOW).unwrap();
    assert!(world.intake.head() > at);
    assert!(matches!(world.feed().after(at, 10), Err(FeedError::CursorGone { .. })));
}

#[test]
fn a_log_that_ends_before_where_it_was_seen_begins_anew_after_that_and_any_other_goes_on() {
    let mut world = World::new();
    let head = world.live(users(1..5)).head;
    for seen in [Sequence::default(), Sequence { seq: head.seq - 1, ..head }, head] {
        assert_eq!(world.intake.renew_if_restored(seen, NOW).unwrap(), None);
    }
    // Of a later epoch, too: the clock went back while the log was lost.
    let later = Sequence { epoch: head.epoch + 5_000, seq: 1 };
    for seen in [Sequence { seq: head.seq + 1, ..head }, later] {
        assert!(world.intake.renew_if_restored(seen, NOW).unwrap().is_some());
        assert!(world.intake.head() > seen && world.intake.head().epoch > head.epoch);
        assert_eq!((world.intake.present(), world.intake.cursor()), (0, None));
    }
    assert_eq!(world.intake.renew_if_restored(later, NOW).unwrap(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u8),
    Leave(u8),
    Delete(u8),
    Read(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..8, 0u8..3, 0u8..3).prop_map(|(n, dn, mail)| Step::Put(n, dn, mail)),
        1 => (1u8..8).prop_map(Step::Leave),
        1 => (1u8..8).prop_map(Step::Delete),
        2 => (0u8..3, 1u8..5).prop_map(|(reader, limit)| Step::Read(reader, limit)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_reader_ends_with_what_the_directory_holds(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let feed = world.feed();
        let mut model: BTreeMap<UserKey, (String, String)> = BTreeMap::new();
        let mut readers = vec![(Sequence::default(), BTreeMap::new()); 3];
        let read = |reader: &mut (Sequence, BTreeMap<UserKey, (String, String)>), limit: usize| {
            let page = feed.after(reader.0, limit).unwrap();
            for row in page.rows {
                let mail = row.record.text("mail").unwrap().to_owned();
                match row.kind {
                    FeedKind::LeftScope | FeedKind::Deleted => reader.1.remove(&row.key),
                    _ => reader.1.insert(row.key, (row.record.dn, mail)),
                };
            }
            reader.0 = page.cursor;
            page.at_end
        };
        for step in steps {
            match step {
                Step::Put(n, dn, mail) => {
                    let (dn, mail) = (format!("uid=u{n}-{dn},dc=x"), format!("{mail}@x"));
                    world.live(vec![Change::Entry(entry(n, &dn, "person", &mail))]);
                    model.insert(key(n), (dn, mail));
                }
                Step::Leave(n) => {
                    world.live(vec![removed(n, Some("uid=away,dc=y"))]);
                    model.remove(&key(n));
                }
                Step::Delete(n) => {
                    world.live(vec![removed(n, None)]);
                    world.intake.conclude(vec![(key(n), Verdict::Deleted)], NOW).unwrap();
                    model.remove(&key(n));
                }
                Step::Read(reader, limit) => {
                    read(&mut readers[reader as usize], limit as usize);
                }
            }
        }
        for reader in &mut readers {
            while !read(reader, 3) {}
            prop_assert_eq!(&reader.1, &model);
        }
    }
}

#[test]
#[ignore = "a measurement: cargo test --release --test intake -- --ignored --nocapture"]
fn intake_speed() {
    let mut world = World::new();
    let batches: Vec<Batch> = (0..100_000u32)
        .map(|n| {
            let mut user = entry(0, &format!("uid=user{n},ou=people,dc=x"), "person", &format!("user{n}@example.com"));
            let mut bytes = [0u8; 16];
            bytes[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
            user.key = UserKey(bytes);
            Change::Entry(user)
        })
        .collect::<Vec<_>>()
        .chunks(5000)
        .map(|changes| Batch { changes: changes.to_vec(), refresh: true, ..Batch::default() })
        .collect();
    for what in ["new", "unchanged"] {
        let given = batches.clone();
        let start = std::time::Instant::now();
        for batch in given {
            world.intake.take(batch, NOW).unwrap();
        }
        println!("{what}: {:.2} us/user", start.elapsed().as_secs_f64() * 10.0);
    }
}

#[test]
fn a_user_is_found_by_login_mail_dn_or_uuid_and_an_unreadable_entry_keeps_what_was_known() {
    let mut world = World::new();
    world.live(vec![user(1, "Ann@x"), user(2, "b@x")]);
    let feed = world.feed();
    for text in ["U1", "ann@X", "UID=u1, dc=x", &key(1).to_string()] {
        let found = feed.find(text, "uid", "mail").unwrap();
        assert_eq!(found.iter().map(|row| row.key).collect::<Vec<_>>(), [key(1)], "{text}");
    }
    assert_eq!(feed.find("nobody", "uid", "mail").unwrap(), []);
    let unreadable = Change::Unreadable { key: Some(key(1)), dn: None, problem: "broken".into() };
    assert_eq!(world.live(vec![unreadable]).unreadable.len(), 1);
    let row = feed.by_key(&key(1)).unwrap().unwrap();
    assert_eq!((row.record.text("homeward;problem"), row.record.text("uid")), (Some("broken"), Some("u1")));
    assert_eq!(feed.carriers_complete().unwrap(), None);
    world.intake.carriers_complete().unwrap();
    assert_eq!(feed.carriers_complete().unwrap(), Some(world.intake.head()));
    assert_eq!(feed.status().unwrap().present, 2);
}

#[test]
fn deleted_and_recreated_under_one_dn_is_two_users() {
    let mut world = World::new();
    let start = world.live(users(1..2)).head;
    world.live(vec![removed(1, None), Change::Entry(entry(2, "uid=u1,dc=x", "person", "a@x"))]);
    world.intake.conclude(vec![(key(1), Verdict::Deleted)], NOW).unwrap();
    assert_eq!(world.told(start), [(2, FeedKind::Created, vec![]), (1, FeedKind::Deleted, vec![])]);
}

#[test]
fn who_is_found_where_it_was_is_told_to_nobody() {
    let mut world = World::new();
    let start = world.live(users(1..2)).head;
    assert_eq!(world.live(vec![removed(1, None)]).to_prove.len(), 1);
    let found = Verdict::StillThere(entry(1, "uid=u1,dc=x", "person", "a@x"));
    world.intake.conclude(vec![(key(1), found)], NOW).unwrap();
    assert_eq!((world.intake.unproven().unwrap(), world.told(start)), (vec![], vec![]));
}

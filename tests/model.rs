//! The riskiest part is what is decided outside an event: times, reloads, mode switches, a lost store, retries, late
//! answers. Here the real core runs over the real SQLite store and a directory in memory, is crashed between any two
//! steps, and must end where an undisturbed run ends. A failing seed is printed; `HOMEWARD_SEED=N` replays it.

#![allow(clippy::disallowed_methods)]

use homeward::config::Flavour;
use homeward::decide::digest::Verifier;
use homeward::decide::filter::Filter;
use homeward::decide::guard::{self, Limits};
use homeward::decide::ownership;
use homeward::decide::policy::{Charset, DigestPolicy, ImPolicy, Names, Policy, Rule};
use homeward::model::*;
use homeward::store::enablement::{self as db, Verb};
use homeward::worker::applier::plan_write;
use homeward::worker::{Core, Input, Settings, Step, UserChange};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// splitmix64: small, seeded, the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const WITH_SRV: &str = "with.example";
const WITHOUT_SRV: &str = "without.example";

fn names() -> Names {
    Names {
        login: "uid".into(),
        mail: "mail".into(),
        address: "msexchimaddress".into(),
        url: "msexchimmetaphysicalurl".into(),
        home_url: "msexchimphysicalurl".into(),
        home: "imhomeserver".into(),
        object_class: "homewardIMUser".into(),
        password_date: "pwdchangedtime".into(),
        created: "createtimestamp".into(),
        expires: String::new(),
    }
}

fn home(id: &str, capacity: u32) -> Home {
    Home {
        id: HomeId(id.into()),
        host: format!("{id}.example.com"),
        capacity,
        tags: vec![],
        dn: None,
        online_capacity: None,
        load: None,
        probe: None,
    }
}

fn settings(enforce: bool, homes: Vec<Home>) -> Settings {
    let rule = |name: &str, matches: &str, action| Rule {
        name: name.into(),
        matches: Filter::parse(matches).unwrap(),
        action,
        homes: vec![],
        im_domain: None,
    };
    let policy = Policy {
        rules: vec![
            rule("frozen", "(employeeType=frozen)", Action::Ignore),
            rule("barred", "(employeeType=barred)", Action::Disable),
            rule("staff", "(employeeType=staff)", Action::Enable),
        ],
        disabled: Some(Filter::parse("(pwdAccountLockedTime=000001010000Z)").unwrap()),
        names: names(),
        im: ImPolicy {
            profile: Profile::Exchange,
            domain: Some("im.example.com".into()),
            on_srv_change: OnChange::Keep,
            mail_wait: Duration::from_secs(120),
            on_mail_change: OnChange::Keep,
            reserve_for: Duration::from_secs(30 * 86_400),
            address_rest: Duration::from_secs(180 * 86_400),
            charset: Charset::Ia5,
        },
        digest: DigestPolicy {
            required: true,
            verifier: Verifier::Dated,
            since: Timestamp(1_000_000),
            configured: true,
            action: DigestAction::Flag,
        },
    };
    Settings {
        flavour: Flavour::OpenLdap,
        policy,
        policy_fingerprint: "1".into(),
        homes,
        discovery: None,
        home_takes_dn: false,
        enforce,
        guard: Limits { releases: 6, percent: 20, window: Duration::from_secs(3600) },
        srv_confirm: Duration::from_secs(600),
        load_stale_after: Duration::from_secs(60),
        digest_since: Some(Timestamp(1_000_000)),
        retention: Duration::from_secs(86_400),
    }
}

/// A directory and its compacted log.
#[derive(Default)]
struct Directory {
    entries: BTreeMap<UserKey, (UserRecord, Presence)>,
    /// seq -> key; a change moves the key to the end.
    log: BTreeMap<u64, UserKey>,
    seq_of: BTreeMap<UserKey, u64>,
    seq: u64,
    writes: u64,
}

const EPOCH: u64 = 7;

impl Directory {
    fn touch(&mut self, key: UserKey) {
        if let Some(old) = self.seq_of.get(&key) {
            self.log.remove(old);
        }
        self.seq += 1;
        self.log.insert(self.seq, key);
        self.seq_of.insert(key, self.seq);
    }

    fn after(&self, cursor: Sequence, limit: usize, now: Timestamp) -> (Vec<UserChange>, Sequence) {
        let from = if cursor.epoch == EPOCH { cursor.seq } else { 0 };
        let mut through = Sequence { epoch: EPOCH, seq: from };
        let changes = self
            .log
            .range(from + 1..)
            .take(limit)
            .map(|(seq, key)| {
                through.seq = *seq;
                let (record, presence) = &self.entries[key];
                let sequence = Sequence { epoch: EPOCH, seq: *seq };
                let record = record.clone();
                UserChange {
                    text: None,
                    key: *key,
                    sequence,
                    presence: *presence,
                    record,
                    live: true,
                    created: true,
                    heard_at: now,
                }
            })
            .collect();
        (changes, through)
    }

    /// Compare-and-set, as `write_back` does on a real server.
    fn apply(&mut self, write: &Write) -> WriteResult {
        let Some((record, presence)) = self.entries.get_mut(&write.key) else { return WriteResult::NotFound };
        if *presence == Presence::Deleted {
            return WriteResult::NotFound;
        }
        for change in &write.changes {
            if record.text(&change.attribute) != change.old.as_deref() {
                return WriteResult::Mismatch { current: record.clone() };
            }
        }
        for change in &write.changes {
            record.set(&change.attribute, change.new.iter().map(|new| Value::Text(new.clone())).collect());
        }
        if let Some(class) = &write.object_class {
            let mut classes = record.values("objectclass").to_vec();
            classes.push(Value::Text(class.clone()));
            record.set("objectclass", classes);
        }
        self.writes += 1;
        self.touch(write.key);
        WriteResult::Applied { expire: ExpireResult::NotAsked }
    }
}

fn key(n: u64) -> UserKey {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    UserKey(bytes)
}

fn text(value: impl Into<String>) -> Vec<Value> {
    vec![Value::Text(value.into())]
}

/// What happens in the directory, the same with and without disturbances.
fn happen(dice: &mut Dice, directory: &mut Directory, users: &mut u64) {
    let pick = |dice: &mut Dice, users: u64| key(dice.below(users.max(1)));
    match dice.below(12) {
        0..=4 => {
            let n = *users;
            *users += 1;
            let mut record = UserRecord { dn: format!("uid=u{n},ou=people,dc=example"), ..Default::default() };
            record.set("objectclass", text("inetOrgPerson"));
            record.set("uid", text(format!("u{n}")));
            let kind = ["staff", "staff", "staff", "staff", "guest", "barred", "frozen"][dice.below(7) as usize];
            record.set("employeetype", text(kind));
            match dice.below(5) {
                0 => {}
                1 | 2 => record.set("mail", text(format!("u{n}.mail@{WITH_SRV}"))),
                _ => record.set("mail", text(format!("u{n}.mail@{WITHOUT_SRV}"))),
            }
            if dice.one_in(9) {
                record.set("imhomeserver", text("somewhere-else"));
            }
            record.set("pwdchangedtime", text(if dice.one_in(2) { "19690101000000Z" } else { "20200101000000Z" }));
            directory.entries.insert(key(n), (record, Presence::Present));
            directory.touch(key(n));
        }
        5 => change(directory, pick(dice, *users), |record, _| record.set("employeetype", text("staff"))),
        6 => change(directory, pick(dice, *users), |record, _| record.set("employeetype", text("barred"))),
        7 => {
            change(directory, pick(dice, *users), |record, _| record.set("pwdaccountlockedtime", text("000001010000Z")))
        }
        8 => change(directory, pick(dice, *users), |record, _| record.set("pwdaccountlockedtime", vec![])),
        9 => change(directory, pick(dice, *users), |record, _| record.set("pwdchangedtime", text("20250101000000Z"))),
        10 => change(directory, pick(dice, *users), |_, presence| *presence = Presence::Deleted),
        _ => change(directory, pick(dice, *users), |_, presence| {
            *presence = if *presence == Presence::Present { Presence::LeftScope } else { Presence::Present };
        }),
    }
}

fn change(directory: &mut Directory, key: UserKey, how: impl FnOnce(&mut UserRecord, &mut Presence)) {
    if let Some((record, presence)) = directory.entries.get_mut(&key)
        && *presence != Presence::Deleted
    {
        how(record, presence);
        directory.touch(key);
    }
}

struct Run {
    dir: tempfile::TempDir,
    core: Option<Core>,
    homes: Vec<Home>,
    enforce: bool,
    directory: Directory,
    now: Timestamp,
    out: Vec<Write>,
    ask: BTreeSet<String>,
    disturbed: bool,
    over_capacity_seen: Option<String>,
}

impl Run {
    fn new(disturbed: bool) -> Run {
        Run {
            // Memory where there is some: the transactions count here, not the disk.
            dir: if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }
                .unwrap(),
            core: None,
            homes: vec![home("im1", 300), home("im2", 200), home("im3", 500)],
            enforce: true,
            directory: Directory::default(),
            now: Timestamp(1_800_000_000_000),
            out: vec![],
            ask: BTreeSet::new(),
            disturbed,
            over_capacity_seen: None,
        }
    }

    fn state_dir(&self) -> &Path {
        self.dir.path()
    }

    fn core(&mut self) -> &mut Core {
        if self.core.is_none() {
            let core = Core::open(self.dir.path(), settings(self.enforce, self.homes.clone()), self.now).unwrap();
            self.core = Some(core);
        }
        self.core.as_mut().unwrap()
    }

    /// The process dies: what was on its way to the directory may or may not have arrived.
    fn crash(&mut self, dice: &mut Dice) {
        self.core = None;
        self.ask.clear();
        for write in std::mem::take(&mut self.out) {
            if dice.one_in(2) {
                self.directory.apply(&write);
            }
        }
    }

    fn lose_store(&mut self, dice: &mut Dice) {
        self.crash(dice);
        for name in ["enablement.db", "enablement.db-wal", "enablement.db-shm"] {
            let _ = std::fs::remove_file(self.state_dir().join(name));
        }
    }

    /// One step of the core with what has come in so far.
    fn step(&mut self, dice: &mut Dice, answer: bool) -> bool {
        let now = self.now;
        let disturbed = self.disturbed;
        let cursor = self.core().cursor().unwrap();
        let limit = 1 + dice.below(6) as usize;
        let (changes, through) = self.directory.after(cursor, limit, now);
        let mut results = Vec::new();
        for write in std::mem::take(&mut self.out) {
            if disturbed && dice.one_in(6) {
                if dice.one_in(2) {
                    self.directory.apply(&write);
                }
                results.push((write.key, WriteResult::Unanswered));
            } else if disturbed && dice.one_in(12) {
                results.push((write.key, WriteResult::Refused(WriteRefusal { code: 51, text: "busy".into() })));
            } else if disturbed && dice.one_in(4) {
                self.out.push(write);
            } else {
                let result = self.directory.apply(&write);
                results.push((write.key, result));
            }
        }
        let mut answers = Vec::new();
        if answer {
            for domain in std::mem::take(&mut self.ask) {
                let certain = !(disturbed && dice.one_in(3));
                let answer = match (certain, domain.as_str()) {
                    (false, _) => SrvAnswer::Unknown { why: "timeout".into() },
                    (true, WITH_SRV) => SrvAnswer::Present {
                        records: vec![SrvRecord { priority: 0, weight: 0, port: 80, host: "im.with.example".into() }],
                    },
                    (true, _) => SrvAnswer::Absent,
                };
                let known = self.core().world().srv.get(&domain).cloned();
                let answered = Answered { answer, ttl: Duration::from_secs(300) };
                answers.push(learn(known, &domain, answered, now, Duration::from_secs(600)).0);
            }
        }
        let at_end = changes.len() < limit;
        let input = Input { changes, through: Some(through), results, answers, room: 3, ..Input::default() };
        let progressed = !input.results.is_empty() || !input.answers.is_empty() || cursor.seq != through.seq;
        let step: Step = self.core().step(input, now).unwrap();
        if self.core().world().adopting && at_end {
            self.core().finish_adoption(now).unwrap();
            return true;
        }
        self.ask.extend(step.ask);
        let wrote = !step.writes.is_empty();
        self.out.extend(step.writes);
        self.check_capacity();
        progressed || step.busy || wrote
    }

    fn check_capacity(&mut self) {
        let homes = &self.core.as_ref().unwrap().world().fleet.homes;
        for state in homes {
            if state.configured && state.assigned > state.home.capacity && !self.disturbed {
                self.over_capacity_seen = Some(format!("{} has {}", state.home.id, state.assigned));
            }
        }
    }

    /// Lets time pass until nothing is left to do; operators approve what the guard holds.
    fn settle(&mut self, dice: &mut Dice) {
        self.disturbed = false;
        self.enforce = true;
        self.homes = vec![home("im1", 300), home("im2", 200), home("im3", 500)];
        if let Some(core) = &mut self.core {
            core.reload(settings(true, self.homes.clone()), self.now).unwrap();
        }
        for id in ["im1", "im2", "im3"] {
            let wish = Verb::SetHome { id: HomeId(id.into()), wish: AdminState::Active };
            let now = self.now;
            db::put_wish(self.core().db(), now, "test", &wish).unwrap();
        }
        for round in 0..4_000 {
            if self.step(dice, true) {
                continue;
            }
            let held = db::held(self.core().db(), true).unwrap();
            if !held.is_empty() {
                let hash = guard::plan_hash(held.iter().map(|row| (&row.key, row.fingerprint.as_str())));
                let now = self.now;
                db::put_wish(self.core().db(), now, "test", &Verb::Approve { hash }).unwrap();
                continue;
            }
            let now = self.now;
            let statuses = db::status_counts(self.core().db()).unwrap();
            let unsettled = [Status::Applying, Status::Retrying, Status::Waiting, Status::Held, Status::Planned];
            let waiting: u64 = statuses.iter().filter(|(status, _)| unsettled.contains(status)).map(|(_, n)| n).sum();
            if waiting == 0 && self.core().is_quiet(now).unwrap() && self.out.is_empty() {
                return;
            }
            self.now = self.now.plus(Duration::from_secs(if round % 2 == 0 { 3 } else { 120 }));
        }
        let statuses = db::status_counts(self.core().db()).unwrap();
        panic!("it does not settle: {statuses:?}");
    }

    /// Where everybody ends: enabled with which address, or not.
    fn end_state(&mut self) -> BTreeMap<UserKey, Option<String>> {
        let now = self.now;
        let mut assigned: BTreeMap<HomeId, u32> = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        let mut end = BTreeMap::new();
        let core = self.core.as_ref().unwrap();
        for (key, (record, presence)) in &self.directory.entries {
            let found = ownership::found(record, &names());
            let standing = db::standing(core.db(), key).unwrap().map(|(_, standing)| standing);
            let holds = standing.as_ref().and_then(|standing| standing.holds().cloned());
            let kind = record.text("employeetype").unwrap_or_default();
            let foreign = found.home.as_deref() == Some("somewhere-else");
            if foreign {
                assert_eq!(found.address, None, "{key}: a foreign entry was written to");
            }
            let alive = record.text("pwdaccountlockedtime").is_none();
            let entitled = *presence == Presence::Present && kind == "staff" && alive && !foreign;
            if entitled {
                let holds =
                    holds.as_ref().unwrap_or_else(|| panic!("{key} is entitled but has no place: {standing:?}"));
                assert_eq!(
                    found,
                    ownership::desired(holds, core.world()),
                    "{key}: the entry differs from what was decided"
                );
                assert!(addresses.insert(holds.address.clone()), "{} was given twice", holds.address);
                let status = standing.as_ref().unwrap().status;
                assert!(matches!(status, Status::Enabled | Status::AwaitingPassword), "{key} is {status}");
            } else if kind != "frozen" && *presence == Presence::Present && !foreign {
                assert!(found.is_empty(), "{key} is not entitled but has {found:?}: {standing:?}");
            }
            if let Some(standing) = &standing {
                for home in [standing.occupies().0, standing.occupies().1].into_iter().flatten() {
                    *assigned.entry(home.clone()).or_default() += 1;
                }
                if *presence == Presence::Present {
                    assert_eq!(plan_write(standing, core.world(), now).filter(|_| entitled), None, "the plan is empty");
                }
            }
            end.insert(*key, entitled.then(|| found.address.unwrap_or_default()));
        }
        for state in &core.world().fleet.homes {
            let counted = assigned.get(&state.home.id).copied().unwrap_or(0);
            assert_eq!(counted, state.assigned, "the count of {} is right", state.home.id);
            assert!(state.assigned <= state.home.capacity, "{} is over capacity", state.home.id);
        }
        assert_eq!(self.over_capacity_seen, None);
        end
    }
}

fn one(seed: u64, disturbed: bool) -> BTreeMap<UserKey, Option<String>> {
    let mut events = Dice(seed);
    let mut dice = Dice(seed ^ if disturbed { 0xd15 } else { 0xca1 });
    let mut run = Run::new(disturbed);
    let mut users = 0;
    for _ in 0..120 {
        happen(&mut events, &mut run.directory, &mut users);
        run.now = run.now.plus(Duration::from_millis(events.below(4_000)));
        if disturbed {
            match dice.below(40) {
                0..=2 => run.crash(&mut dice),
                3 => run.lose_store(&mut dice),
                4 | 5 => {
                    run.enforce = !run.enforce;
                    let (settings, now) = (settings(run.enforce, run.homes.clone()), run.now);
                    run.core().reload(settings, now).unwrap();
                }
                6 => {
                    let capacity = 3 + dice.below(300) as u32;
                    run.homes[0].capacity = capacity;
                    if dice.one_in(2) && run.homes.len() == 3 {
                        run.homes.pop();
                    } else if run.homes.len() == 2 {
                        run.homes.push(home("im3", 500));
                    }
                    let (settings, now) = (settings(run.enforce, run.homes.clone()), run.now);
                    run.core().reload(settings, now).unwrap();
                }
                7 => {
                    let wish = [AdminState::Active, AdminState::Cordoned, AdminState::Draining][dice.below(3) as usize];
                    let id = HomeId(format!("im{}", 1 + dice.below(3)));
                    let now = run.now;
                    db::put_wish(run.core().db(), now, "test", &Verb::SetHome { id, wish }).unwrap();
                }
                _ => {}
            }
        }
        for _ in 0..dice.below(4) {
            run.step(&mut dice, true);
        }
    }
    run.settle(&mut dice);
    let end = run.end_state();
    // A second pass over everything writes nothing, and so does one without a store (promise 9).
    let writes = run.directory.writes;
    run.lose_store(&mut dice);
    run.settle(&mut dice);
    assert_eq!(run.directory.writes, writes, "a lost store is adopted again with zero writes");
    assert_eq!(run.end_state(), end);
    end
}

/// A user whose entry is to be written, and a step a day before.
#[test]
fn what_was_to_be_done_now_is_done_though_the_clock_went_back() {
    for restarted in [false, true] {
        let mut run = Run::new(false);
        let now = run.now;
        run.core().finish_adoption(now).unwrap();
        let mut record = UserRecord { dn: "uid=u,ou=people,dc=example".into(), ..Default::default() };
        for (name, value) in [("objectclass", "inetOrgPerson"), ("uid", "u"), ("employeetype", "staff")] {
            record.set(name, text(value));
        }
        record.set("mail", text(format!("u@{WITHOUT_SRV}")));
        let absent = Answered { answer: SrvAnswer::Absent, ttl: Duration::from_secs(300) };
        let answers = vec![learn(None, WITHOUT_SRV, absent, now, Duration::from_secs(600)).0];
        run.directory.entries.insert(key(1), (record, Presence::Present));
        run.directory.touch(key(1));
        let (changes, through) = run.directory.after(Sequence::default(), 10, now);
        let input = Input { changes, through: Some(through), answers, ..Input::default() };
        assert!(run.core().step(input, now).unwrap().writes.is_empty(), "there is no room");
        let before = now.minus(Duration::from_secs(86_400));
        if restarted {
            run.core = None;
            run.now = before;
        }
        let step = run.core().step(Input { room: 1, ..Input::default() }, before).unwrap();
        assert_eq!(step.writes.len(), 1, "restarted: {restarted}");
    }
}

#[test]
fn a_disturbed_run_ends_where_an_undisturbed_one_ends() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("HOMEWARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HOMEWARD_SEEDS").unwrap_or(200),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let calm = one(seed, false);
            let disturbed = one(seed, true);
            assert_eq!(disturbed, calm, "the end states differ");
        });
        if let Err(panic) = outcome {
            eprintln!("seed {seed} failed; replay it: HOMEWARD_SEED={seed} cargo test --test model");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_store_without_standings_has_nobody_to_look_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp(2_000_000);
    let mut core = Core::open(dir.path(), settings(true, vec![home("a", 5)]), now).unwrap();
    assert_eq!(db::recheck_count(core.db()).unwrap(), 0, "a first pass would be done twice");

    let mut directory = Directory::default();
    let record = UserRecord { dn: "uid=ann,ou=people,dc=example".into(), ..Default::default() };
    directory.entries.insert(key(1), (record, Presence::Present));
    directory.touch(key(1));
    core.finish_adoption(now).unwrap();
    let (changes, through) = directory.after(Sequence::default(), 10, now);
    core.step(Input { changes, through: Some(through), ..Input::default() }, now).unwrap();
    core.reload(settings(true, vec![home("a", 5), home("b", 5)]), now).unwrap();
    assert!(db::recheck_count(core.db()).unwrap() > 0, "with somebody there, a new home concerns everyone");
}

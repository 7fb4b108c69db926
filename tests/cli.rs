//! The command line, run as people run it: the real program against stores that were prepared, and against a real slapd.

// clippy.toml's list is for decide/; a test reads the clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::config::{Config, Guard};
use homeward::directory::Entry;
use homeward::directory::entry::Shape;
use homeward::directory::source::{self, Batch};
use homeward::intake::{Groups, Intake, SourceStatus};
use homeward::model::*;
use homeward::store::enablement as db;
use homeward::store::open::{self, Kind};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::slapd::{AGENT_DN, AGENT_PASSWORD, SUFFIX, Slapd, person};

/// 2026-01-31T12:00:00Z
const NOON: Timestamp = Timestamp(1_769_860_800_000);

/// A configuration and a state directory.
struct Place(tempfile::TempDir);

impl Place {
    /// Nobody listens at the directory's URL; no DNS server answers.
    fn new(mode: &str) -> Place {
        Place::with_directory(mode, "url = \"ldap://127.0.0.1:9\"", "")
    }

    fn with_directory(mode: &str, directory: &str, more: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let config = format!(
            r#"
[agent]
state_dir = "{state}"
mode = "{mode}"

[directory]
{directory}
base = "{SUFFIX}"
bind_dn = "{AGENT_DN}"
bind_password_file = "password"

[[policy]]
name = "leavers"
match = "(employeeType=former)"
action = "disable"

[[policy]]
name = "staff"
match = "(uid=*)"

[[home]]
id = "im1"
host = "im1.example.com"
capacity = 10

[[home]]
id = "im2"
host = "im2.example.com"
capacity = 5

[im]
domain = "im.example.com"

[dns]
servers = ["127.0.0.1:9"]

[digest]
required = true
since = "2026-01-01T00:00:00Z"
{more}
"#,
            state = place.state_dir().display()
        );
        std::fs::write(place.config(), config).unwrap();
        std::fs::write(place.0.path().join("password"), AGENT_PASSWORD).unwrap();
        std::fs::set_permissions(place.0.path().join("password"), PermissionsExt::from_mode(0o600)).unwrap();
        place
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("homeward.toml")
    }

    fn state_dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn store(&self) -> Connection {
        let store = open::writer(Kind::Enablement, &self.state_dir()).unwrap();
        let parse_filter = |_: &str| Ok(());
        for home in Config::load(Some(&self.config()), parse_filter).unwrap().homes {
            db::put_home(&store, &home).unwrap();
        }
        store
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_homeward"));
        command.arg("--config").arg(self.config()).args(arguments);
        command.env_remove("HOMEWARD_CONFIG").env_remove("SUDO_USER").env("LOGNAME", "olga");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// What it prints, where it goes well.
    fn says(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let ran = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}{}", ran.out, ran.err))
    }
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn user(number: u8, login: &str) -> Standing {
    let mut standing = Standing::new(UserKey([number; 16]), NOON);
    standing.record.dn = format!("uid={login},ou=people,{SUFFIX}");
    for (name, value) in [("uid", login.to_owned()), ("mail", format!("{login}@example.com"))] {
        standing.record.set(name, vec![Value::Text(value)]);
    }
    standing.sequence = Sequence { epoch: 7, seq: number.into() };
    standing.rule = Some("staff".into());
    standing
}

fn enabled(number: u8, login: &str, home: &str) -> Standing {
    let mut standing = user(number, login);
    let address = format!("{login}@example.com");
    standing.status = Status::Enabled;
    standing.digest = DigestReadiness::Ready;
    standing.told_enabled = true;
    standing.reserved =
        Some(Assignment { home: HomeId(home.into()), address: address.clone(), im_domain: "im.example.com".into() });
    standing.applied = WriteBackValues {
        address: Some(address.clone()),
        url: Some(format!("http://im.example.com/instmsg/aliases/{login}")),
        home_url: Some(format!("http://{home}.example.com/instmsg/local/im.example.com/instmsg/aliases/{login}")),
        home: Some(home.into()),
    };
    let applied = standing.applied.clone();
    let names = ["msexchimaddress", "msexchimmetaphysicalurl", "msexchimphysicalurl", "imhomeserver"];
    for (name, value) in names.iter().zip([applied.address, applied.url, applied.home_url, applied.home]) {
        standing.record.set(name, value.into_iter().map(Value::Text).collect());
    }
    standing.record.set("pwdchangedtime", vec![Value::Text("20260115080000Z".into())]);
    standing
}

fn outcome(standing: &Standing, kind: OutcomeKind, why: Option<&str>, took_ms: u64) -> Outcome {
    Outcome {
        key: standing.key,
        kind,
        login: standing.record.text("uid").map(str::to_owned),
        dn: standing.record.dn.clone(),
        mail: standing.record.text("mail").map(str::to_owned),
        status: standing.status,
        assignment: standing.holds().cloned(),
        im_url: standing.applied.url.clone(),
        home_url: standing.applied.home_url.clone(),
        digest: standing.digest,
        rule: standing.rule.clone(),
        why: why.map(str::to_owned),
        todo: Vec::new(),
        from: None,
        took_ms: Some(took_ms),
    }
}

fn put_outcome(store: &Connection, outcome: &Outcome, at: Timestamp) {
    let data = serde_json::to_string(outcome).unwrap();
    db::put_outcome(store, &outcome.key, at, outcome.kind.as_str(), &data).unwrap();
}

/// ann is enabled, bob needs a new password, carl waits for room, dora is a problem.
fn four_users(place: &Place) -> Connection {
    let store = place.store();
    let ann = enabled(1, "ann", "im1");
    let mut bob = enabled(2, "bob", "im1");
    bob.status = Status::AwaitingPassword;
    bob.digest = DigestReadiness::ResetRequired;
    bob.reset_since = Some(NOON);
    bob.record.set("pwdchangedtime", vec![Value::Text("20251224180000Z".into())]);
    let mut carl = user(3, "carl");
    carl.status = Status::Waiting;
    carl.waiting_on = Some("room".into());
    let mut dora = user(4, "dora");
    dora.status = Status::Problem;
    dora.record.set("msexchimaddress", vec![Value::Text("x\x1b[2J".into())]);
    for standing in [&ann, &bob, &carl, &dora] {
        db::put_standing(&store, None, standing).unwrap();
    }
    db::set_home_assigned(&store, "im1", 2).unwrap();
    let why = Refusal::ForeignValue { attribute: "msExchIMAddress".into(), value: "x\x1b[2J".into() };
    db::put_problem(&store, &dora.key, why.code(), &why.to_string(), &why.hint(), NOON).unwrap();
    put_outcome(&store, &outcome(&ann, OutcomeKind::Enabled, None, 40), NOON);
    let later = NOON.plus(Duration::from_secs(1));
    put_outcome(&store, &outcome(&carl, OutcomeKind::Waiting, Some("waits for room"), 1500), later);
    put_outcome(&store, &outcome(&dora, OutcomeKind::Problem, Some("holds \"x\x1b[2J\""), 7), later);
    store
}

// ---- what is typed

#[test]
fn help_and_version_go_to_stdout_and_are_fine() {
    let place = Place::new("observe");
    for arguments in [["--help"], ["--version"]] {
        let ran = place.run(&arguments);
        assert!(ran.code == 0 && ran.out.contains("homeward") && ran.err.is_empty(), "{ran:?}");
    }
}

#[test]
fn what_makes_no_sense_exits_2_and_says_so_on_stderr() {
    let place = Place::new("observe");
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["user", "list", "--status", "happy"],
        &["tail", "--kind", "happy"],
        &["tail", "--since", "yesterday"],
        &["events", "--after", "12"],
        &["user", "move", "ann"],
        &["resets", "--csv", "--json"],
    ] {
        let ran = place.run(arguments);
        assert!(ran.code == 2 && ran.out.is_empty() && !ran.err.is_empty(), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_used_exits_78_with_each_finding() {
    let place = Place::new("observe");
    std::fs::write(place.config(), "[directory]\nurll = \"ldap://x\"\n").unwrap();
    let ran = place.run(&["status"]);
    assert!(ran.code == 78 && ran.err.contains("urll") && ran.err.contains("homeward check"), "{ran:?}");
    std::fs::remove_file(place.config()).unwrap();
    assert_eq!(place.run(&["status"]).code, 78);
}

#[test]
fn completions_and_the_schema_need_no_configuration() {
    let place = Place::new("observe");
    std::fs::remove_file(place.config()).unwrap();
    assert!(place.says(&["completions", "bash"]).contains("_homeward"));
    assert!(place.says(&["config", "schema"]).starts_with('{'));
}

#[test]
fn the_configuration_is_shown_without_its_secret() {
    let place = Place::new("observe");
    let shown = place.says(&["config", "show"]);
    assert!(shown.contains("capacity = 10") && !shown.contains(AGENT_PASSWORD), "{shown}");
    assert_eq!(place.json(&["config", "show"])["agent"]["mode"], "observe");
}

#[test]
fn without_a_store_verbs_say_how_to_get_one_and_make_none() {
    let place = Place::new("observe");
    for arguments in [&["status"][..], &["user", "list"], &["tail"], &["events"], &["sweep"], &["resets"]] {
        let ran = place.run(arguments);
        assert!(ran.code == 1 && ran.err.contains("homeward run"), "{arguments:?}: {ran:?}");
    }
    assert!(!place.state_dir().exists());
}

// ---- how things stand

#[test]
fn status_opens_with_how_things_stand() {
    let place = Place::new("enforce");
    drop(four_users(&place));
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 3);
    assert_eq!(
        ran.out,
        "\
1 user wants a person: homeward problem list
no agent runs here; this is how things stood: homeward run

source   - at -: nothing heard yet
         0 users; last change none yet
queue    embedded: 0 behind, 0 to write
users    1 enabled, 1 awaiting-password, 1 waiting, 1 problem
problems 1

HOME  HOST             LOAD          ASSIGNED  CAPACITY  ONLINE  HEALTH  STATE
im1   im1.example.com  [##........]         2        10       -  -       active
im2   im2.example.com  [..........]         0         5       -  -       active
"
    );
    let status = place.json(&["status"]);
    assert_eq!(status["users"], serde_json::json!({"enabled": 1, "awaiting-password": 1, "waiting": 1, "problem": 1}));
    assert_eq!((&status["mode"], &status["problems"], &status["held"]), (&"enforce".into(), &1.into(), &0.into()));
}

#[test]
fn observing_is_said_first_and_with_what_to_do() {
    let place = Place::new("observe");
    let store = place.store();
    let mut ann = enabled(1, "ann", "im1");
    ann.status = Status::Planned;
    db::put_standing(&store, None, &ann).unwrap();
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.lines().next(), Some("observing: 1 user would be enabled; set mode = \"enforce\""));
}

#[test]
fn a_running_agent_is_seen_and_left_alone() {
    let place = Place::new("enforce");
    let store = place.store();
    db::put_standing(&store, None, &enabled(1, "ann", "im1")).unwrap();
    let _lock = open::lock(&place.state_dir()).unwrap();
    assert_eq!(place.says(&["status"]).lines().next(), Some("all is well: 1 user enabled"));
    assert_eq!(place.json(&["status"])["running"], true);
}

#[test]
fn a_user_is_found_by_any_name_and_shown() {
    let place = Place::new("enforce");
    drop(four_users(&place));
    let shown = place.says(&["user", "show", "ann"]);
    assert_eq!(
        shown,
        "\
login        ann
dn           uid=ann,ou=people,dc=example,dc=com
mail         ann@example.com
key          01010101-0101-0101-0101-010101010101
status       enabled
home         im1
address      ann@example.com
IM domain    im.example.com
URL          http://im.example.com/instmsg/aliases/ann
URL at home  http://im1.example.com/instmsg/local/im.example.com/instmsg/aliases/ann
digest       ready
rule         staff
sequence     0000000000000000007-00000000000000000001
updated      2026-01-31T12:00:00Z

2026-01-31T12:00:00Z  enabled                  ann           ann@example.com               im1           40 ms
"
    );
    for name in
        ["ANN", "Ann@Example.com", "UID=Ann, OU=People,dc=example,dc=com", "01010101-0101-0101-0101-010101010101"]
    {
        assert_eq!(place.says(&["user", "show", name]), shown, "{name}");
    }
    let json = place.json(&["user", "show", "dora"]);
    assert_eq!(json["status"], "problem");
    assert_eq!(json["problem"]["id"], 1);
    for name in [
        "key",
        "login",
        "dn",
        "mail",
        "status",
        "home",
        "im_domain",
        "im_address",
        "im_url",
        "home_url",
        "digest",
        "rule",
        "waiting_on",
        "problem",
        "sequence",
        "updated_at",
    ] {
        assert!(json.get(name).is_some(), "{name}");
    }
}

#[test]
fn nobody_and_several_are_said_with_what_to_type() {
    let place = Place::new("enforce");
    let store = place.store();
    let mut other = user(2, "ann");
    other.record.dn = format!("uid=ann,ou=elsewhere,{SUFFIX}");
    db::put_standing(&store, None, &user(1, "ann")).unwrap();
    db::put_standing(&store, None, &other).unwrap();
    let ran = place.run(&["user", "show", "ann"]);
    assert!(ran.code == 1 && ran.out.is_empty(), "{ran:?}");
    for line in ["01010101-0101-0101-0101-010101010101  uid=ann,ou=people", "02020202", "homeward user show KEY"] {
        assert!(ran.err.contains(line), "{}", ran.err);
    }
    let ran = place.run(&["user", "show", "zoe"]);
    assert!(ran.code == 1 && ran.err.contains("nobody is called zoe"), "{ran:?}");
    // One of the two left: the other is meant.
    other.presence = Presence::Deleted;
    db::put_standing(&store, Some(2), &other).unwrap();
    assert!(place.says(&["user", "show", "ann"]).contains("ou=people"));
}

#[test]
fn users_are_listed_by_status_and_home() {
    let place = Place::new("enforce");
    drop(four_users(&place));
    assert_eq!(place.says(&["user", "list"]).lines().count(), 5);
    assert_eq!(
        place.says(&["user", "list", "--home", "im1", "--status", "enabled"]),
        "\
LOGIN  STATUS   HOME  ADDRESS          DN
ann    enabled  im1   ann@example.com  uid=ann,ou=people,dc=example,dc=com
"
    );
    let lines = place.says(&["user", "list", "--json"]);
    assert_eq!(lines.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count(), 4);
}

#[test]
fn explain_shows_each_step_with_what_it_saw() {
    let place = Place::new("enforce");
    let store = four_users(&place);
    let fact = SrvFact {
        domain: "example.com".into(),
        answer: SrvAnswer::Absent,
        seen_at: Timestamp::now(),
        expires_at: Timestamp::now().plus(Duration::from_secs(600)),
        contradicted: None,
        last_error: None,
    };
    db::put_srv(&store, &fact).unwrap();
    db::set_home_wish(&store, "im2", AdminState::Cordoned).unwrap();
    let explained = place.says(&["user", "explain", "carl"]);
    let ages: String =
        explained.lines().map(|line| line.split(", answered").next().unwrap().to_owned() + "\n").collect();
    assert_eq!(
        ages,
        "\
carl  uid=carl,ou=people,dc=example,dc=com
account
  the entry is in scope
  the account is active
policy
  rule \"leavers\" does not match
  rule \"staff\" matches: enable
home
  im1: 2 of 10 places taken, load 20.0 % — chosen: the least loaded
  im2: 0 of 5 places taken, load 0.0 % — cordoned
address
  the primary mail address is carl@example.com
  SRV for example.com: certainly absent
  the address is carl@im.example.com, IM domain im.example.com
digest
  no password date, Digest in force since 2026-01-01T00:00:00.000Z: unknown
decision
  enable: carl@im.example.com at im1
"
    );
    let json = place.json(&["user", "explain", "ann"]);
    assert_eq!(json["decision"], "keep: ann@example.com at im1");
    assert!(json["steps"].as_array().unwrap().iter().any(|step| step["topic"] == "digest"));
}

#[test]
fn resets_are_a_table_and_csv_for_the_help_desk() {
    let place = Place::new("enforce");
    drop(four_users(&place));
    assert_eq!(
        place.says(&["resets", "--csv"]),
        "login,dn,mail,since,password_date,asked\r\n\
         bob,\"uid=bob,ou=people,dc=example,dc=com\",bob@example.com,2026-01-31T12:00:00Z,2025-12-24T18:00:00Z,no\r\n"
    );
    assert!(place.says(&["resets"]).contains("bob"));
    assert_eq!(place.json(&["resets"]).as_array().unwrap().len(), 1);
}

#[test]
fn tail_is_a_line_an_outcome_and_cannot_move_the_cursor() {
    let place = Place::new("enforce");
    drop(four_users(&place));
    assert_eq!(
        place.says(&["tail"]),
        "\
2026-01-31T12:00:00Z  enabled                  ann           ann@example.com               im1           40 ms
2026-01-31T12:00:01Z  waiting                  carl          -                             -               1 s  waits for room
2026-01-31T12:00:01Z  problem                  dora          -                             -              7 ms  holds \"x\\u{1b}[2J\"
"
    );
    assert_eq!(place.says(&["tail", "--user", "carl"]).lines().count(), 1);
    assert_eq!(place.says(&["tail", "--kind", "problem"]).lines().count(), 1);
    assert_eq!(place.says(&["tail", "--since", "2026-01-31T12:00:01Z"]).lines().count(), 2);
    assert_eq!(place.says(&["tail", "--since", "1h"]), "");
    assert_eq!(place.says(&["user", "history", "ann"]).lines().count(), 1);
}

/// Reads lines of a child until one holds `text`.
fn line_with(lines: &mut impl Iterator<Item = std::io::Result<String>>, text: &str) -> String {
    lines.map(|line| line.unwrap()).find(|line| line.contains(text)).unwrap_or_else(|| panic!("no line with {text}"))
}

#[test]
fn following_waits_for_the_store_and_tells_what_happens() {
    use std::io::BufRead as _;
    let place = Place::new("enforce");
    let mut child = place.command(&["tail", "-f"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::sleep(Duration::from_millis(300));
    let store = four_users(&place);
    assert!(line_with(&mut lines, "enabled").contains("ann"));
    let eve = enabled(5, "eve", "im2");
    put_outcome(&store, &outcome(&eve, OutcomeKind::Adopted, None, 3), NOON);
    assert!(line_with(&mut lines, "adopted").contains("eve"));
    child.kill().unwrap();
    child.wait().unwrap();
}

// ---- problems, the guard, wishes

#[test]
fn a_problem_is_shown_with_what_to_type() {
    let place = Place::new("enforce");
    drop(four_users(&place));
    let shown = place.says(&["problem", "show", "P1"]);
    assert_eq!(
        shown,
        "\
P1  foreign-value
user       dora
key        04040404-0404-0404-0404-040404040404
what       msExchIMAddress holds \"x\\u{1b}[2J\", which is not ours; it is left untouched
to do      somebody else wrote msExchIMAddress; clear it, or make it name a configured home, then: homeward problem retry P1
seen       2026-01-31T12:00:00Z to 2026-01-31T12:00:00Z, 1 time
dismissed  no
"
    );
    assert_eq!(place.says(&["problem", "show", "1"]), shown);
    let listed = place.run(&["problem", "list"]);
    assert!(listed.code == 3 && listed.out.contains("P1  dora"), "{listed:?}");
    let ran = place.run(&["problem", "show", "P77"]);
    assert!(ran.code == 1 && ran.err.contains("there is no problem P77"), "{ran:?}");
}

fn hold(store: &Connection, key: u8) {
    let held = db::Held {
        key: UserKey([key; 16]),
        kind: "release".into(),
        fingerprint: "release:im1".into(),
        since: NOON,
        tripped: true,
    };
    db::put_held(store, &held).unwrap();
}

#[test]
fn the_held_plan_is_shown_and_only_its_hash_is_approved() {
    let place = Place::new("enforce");
    let store = place.store();
    db::put_standing(&store, None, &enabled(1, "ann", "im1")).unwrap();
    assert_eq!(place.says(&["problem", "show", "guard"]), "nothing is held\n");
    let ran = place.run(&["approve", "abcdef012345"]);
    assert!(ran.code == 1 && ran.err.contains("nothing is held"), "{ran:?}");
    hold(&store, 1);
    let ran = place.run(&["status"]);
    let json = place.json(&["status"]);
    let hash = json["held_hash"].as_str().unwrap();
    assert!(ran.code == 4 && ran.out.contains(&format!("homeward approve {hash}")), "{ran:?}");
    assert_eq!(
        place.says(&["problem", "show", "guard"]),
        format!(
            "\
plan {hash}: 1 change held since 2026-01-31T12:00:00Z
LOGIN  CHANGE   WHAT      KEY
ann    release  from im1  01010101-0101-0101-0101-010101010101
to let exactly these pass: homeward approve {hash}
"
        )
    );
    let ran = place.run(&["approve", "abcdef012345"]);
    assert!(ran.code == 1 && ran.err.contains(hash) && db::wishes(&store).unwrap().is_empty(), "{ran:?}");
    place.says(&["approve", hash]);
    assert_eq!(db::wishes(&store).unwrap()[0].verb, db::Verb::Approve { hash: hash.into() });
}

#[test]
fn a_verb_that_changes_leaves_a_wish_with_who_asked_and_changes_nothing() {
    let place = Place::new("enforce");
    let store = four_users(&place);
    let ann = UserKey([1; 16]);
    let before = db::standing(&store, &ann).unwrap();
    assert_eq!(
        place.says(&["user", "move", "ann", "--to", "IM2"]),
        "wish 1: move ann to im2\nit is taken when the agent runs: homeward run\nfollow it: homeward tail -f --user ann\n"
    );
    for arguments in [
        &["user", "recheck", "ann"][..],
        &["user", "readdress", "ann"],
        &["user", "release", "ann"],
        &["user", "freeze", "ann"],
        &["user", "inherit", "carl", "ann"],
        &["home", "drain", "im1"],
        &["problem", "retry", "P1"],
        &["problem", "dismiss", "1"],
        &["sweep"],
    ] {
        place.says(arguments);
    }
    let wishes = db::wishes(&store).unwrap();
    assert!(wishes.iter().all(|wish| wish.who == "olga"));
    let verbs: Vec<db::Verb> = wishes.into_iter().map(|wish| wish.verb).collect();
    assert_eq!(
        verbs,
        [
            db::Verb::MoveUser { key: ann, to: HomeId("im2".into()) },
            db::Verb::Recheck { key: ann },
            db::Verb::Readdress { key: ann },
            db::Verb::Release { key: ann },
            db::Verb::Freeze { key: ann },
            db::Verb::Inherit { new: UserKey([3; 16]), old: ann },
            db::Verb::SetHome { id: HomeId("im1".into()), wish: AdminState::Draining },
            db::Verb::RetryProblem { id: 1 },
            db::Verb::DismissProblem { id: 1 },
            db::Verb::Sweep,
        ]
    );
    assert_eq!(db::standing(&store, &ann).unwrap(), before);
    let ran = place.run(&["user", "move", "ann", "--to", "im9"]);
    assert!(ran.code == 2 && ran.err.contains("no home is called im9; there are im1, im2"), "{ran:?}");
    assert_eq!(db::wishes(&store).unwrap().len(), 10);
}

#[test]
fn a_running_agent_is_given_a_moment_to_take_the_wish() {
    let place = Place::new("enforce");
    let store = four_users(&place);
    let _lock = open::lock(&place.state_dir()).unwrap();
    let child = place.command(&["user", "freeze", "ann"]).stdout(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let wish = loop {
        match db::wishes(&store).unwrap().pop() {
            Some(wish) => break wish,
            None => assert!(started.elapsed() < Duration::from_secs(20), "no wish came"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let verb = serde_json::to_string(&wish.verb).unwrap();
    db::finish_wish(&store, wish.id, NOON, &wish.who, &verb, "done").unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert!(ran.code == 0 && ran.out.contains("taken: done\n"), "{ran:?}");
}

// ---- feeds

#[test]
fn a_reader_of_outcomes_begins_with_everybody_and_goes_on_from_its_cursor() {
    let place = Place::new("enforce");
    let store = four_users(&place);
    db::set_meta(&store, "outcome_epoch", "9").unwrap();
    let lines = |arguments: &[&str]| -> Vec<serde_json::Value> {
        place.says(arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&["events", "--feed", "outcomes"]);
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|event| event["snapshot"] == true && event["specversion"] == "1.0"));
    let kinds: Vec<&str> = all.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[0], "homeward.enablement.enabled.v1");
    assert_eq!(kinds[1], "homeward.enablement.password-reset-required.v1");
    let cursor = all[0]["sequence"].as_str().unwrap().to_owned();
    assert_eq!(lines(&["events", "--feed", "outcomes", "--after", &cursor]).len(), 0);
    let first = Sequence { epoch: 9, seq: 1 }.to_string();
    let rest = lines(&["events", "--feed", "outcomes", "--after", &first]);
    assert_eq!(rest.len(), 2);
    assert_eq!(rest[1]["data"]["user"]["login"], "dora");
    assert!(rest[0].get("snapshot").is_none());
    for foreign in [Sequence { epoch: 8, seq: 1 }, Sequence { epoch: 9, seq: 99 }] {
        let ran = place.run(&["events", "--feed", "outcomes", "--after", &foreign.to_string()]);
        assert!(ran.code == 1 && ran.err.contains("homeward events --feed outcomes --after 0"), "{ran:?}");
    }
    db::purge_outcomes(&store, Timestamp::now(), Duration::from_secs(1)).unwrap();
    assert_eq!(place.run(&["events", "--feed", "outcomes", "--after", &first]).code, 1);
    assert_eq!(lines(&["events", "--feed", "outcomes", "--after", &cursor]).len(), 0);
}

/// A log with ann and bob, as the poller leaves it.
fn log(place: &Place) -> Intake {
    let guard = Guard { releases: 50, releases_percent: 50, window: Duration::from_secs(3600) };
    let shape = || Shape::new(SUFFIX, ["uid", "mail"], Box::new(|record: &UserRecord| record.text("uid").is_some()));
    let mut intake = Intake::open(&place.state_dir(), shape(), Groups::default(), guard, NOON).unwrap();
    intake.begin_refresh(false);
    let changes = [(1, "ann"), (2, "bob")].map(|(number, login)| change(number, login, "example.com"));
    let batch = Batch {
        changes: changes.into(),
        complete: Some(source::Presence::Everything),
        refresh: true,
        ..Batch::default()
    };
    intake.take(batch, NOON).unwrap();
    intake
        .tell_source(&SourceStatus {
            kind: "syncrepl".into(),
            server: "ldap://ldap.example.com".into(),
            state: "live".into(),
            guarantees: source::Guarantees {
                deletes: "at once".into(),
                moves: "at once".into(),
                latency: "milliseconds".into(),
            },
        })
        .unwrap();
    intake
}

fn change(number: u8, login: &str, domain: &str) -> source::Change {
    let one = |text: String| vec![text.into_bytes()];
    source::Change::Entry(Entry {
        key: UserKey([number; 16]),
        dn: format!("uid={login},ou=people,{SUFFIX}"),
        attributes: vec![("uid".into(), one(login.into())), ("mail".into(), one(format!("{login}@{domain}")))],
    })
}

#[test]
fn a_reader_of_users_begins_with_everybody_and_goes_on_from_its_cursor() {
    let place = Place::new("observe");
    let mut intake = log(&place);
    let lines = |arguments: &[&str]| -> Vec<serde_json::Value> {
        place.says(arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&["events"]);
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|event| event["snapshot"] == true && event["type"] == "homeward.user.created.v1"));
    let cursor = all[1]["sequence"].as_str().unwrap().to_owned();
    assert_eq!(lines(&["events", "--after", &cursor]).len(), 0);
    intake.take(Batch { changes: vec![change(1, "ann", "example.org")], ..Batch::default() }, NOON).unwrap();
    let news = lines(&["events", "--after", &cursor]);
    assert_eq!(news.len(), 1);
    assert_eq!((&news[0]["type"], &news[0]["time"]), (&"homeward.user.updated.v1".into(), &NOON.to_string().into()));
    assert_eq!(news[0]["data"]["changed"], serde_json::json!(["mail"]));
    let foreign = Sequence { epoch: 8, seq: 1 }.to_string();
    let ran = place.run(&["events", "--after", &foreign]);
    assert!(ran.code == 1 && ran.err.contains("homeward events --feed users --after 0"), "{ran:?}");
}

#[test]
fn status_tells_the_source_with_what_it_promises_and_how_far_behind_the_worker_is() {
    let place = Place::new("enforce");
    drop(log(&place));
    drop(place.store());
    let out = place.says(&["status"]);
    let lines: Vec<&str> = out.lines().map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(
        lines[2..6],
        [
            "source   syncrepl at ldap://ldap.example.com: live",
            "         deletes at once; moves at once; latency milliseconds",
            "         2 users; last change 2026-01-31T12:00:00Z",
            "queue    embedded: 2 behind",
        ]
    );
    let status = place.json(&["status"]);
    assert_eq!(status["queue"]["behind"], 2);
    assert!(status["source"]["lag_ms"].as_u64().unwrap() > 0);
    // Known to the log, not to the worker: said as such, and explained all the same.
    let ran = place.run(&["user", "show", "ann"]);
    assert!(ran.code == 1 && ran.err.contains("was not looked at yet"), "{ran:?}");
    assert!(place.says(&["user", "explain", "ann"]).contains("waits for a certain SRV answer for example.com"));
}

// ---- stores

#[test]
fn a_backup_is_of_both_stores_never_overwrites_and_is_remembered() {
    let place = Place::new("enforce");
    drop(four_users(&place));
    drop(open::writer(Kind::Directory, &place.state_dir()).unwrap());
    assert!(place.says(&["store", "info"]).contains("last backup: never"));
    let to = place.0.path().join("copy");
    let name = to.display().to_string();
    place.says(&["store", "backup", &name]);
    for file in ["copy-directory.db", "copy-enablement.db"] {
        assert!(place.0.path().join(file).metadata().unwrap().len() > 0);
    }
    let ran = place.run(&["store", "backup", &name]);
    assert!(ran.code == 1 && ran.err.contains("exists already"), "{ran:?}");
    assert!(!place.says(&["store", "info"]).contains("never"));
    assert_eq!(place.says(&["store", "verify"]), "directory.db: sound\nenablement.db: sound\n");
    assert!(place.says(&["store", "migrate"]).contains("already"));
    let _lock = open::lock(&place.state_dir()).unwrap();
    assert_eq!(place.run(&["store", "migrate"]).code, 1);
}

// ---- with a directory

fn with_slapd(slapd: &Slapd, mode: &str, more: &str) -> Place {
    Place::with_directory(mode, &format!("url = \"{}\"", slapd.url()), more)
}

#[test]
fn check_finds_a_prepared_server_fine_and_says_what_cannot_be_seen() {
    let slapd = Slapd::builder().users(person("ann", "")).ppolicy(true).start();
    let place = with_slapd(&slapd, "observe", "");
    let ran = place.run(&["check"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for part in
        ["ok    server", "ok    source", "ok    schema", "ok    digest", "1 user by", "skip  rights", "skip  clock"]
    {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains("FAIL") && !ran.out.contains('\x1b'), "{}", ran.out);
    assert!(place.json(&["check"]).as_array().unwrap().iter().all(|line| line["state"] != "FAIL"));
}

#[test]
fn check_fails_for_each_thing_that_is_wrong_and_names_the_remedy() {
    let slapd = Slapd::builder().users(person("ann", "") + &person("bob", "")).size_limit(1).without_schema().start();
    let group = "\n[[policy]]\nname = \"late\"\nmatch = \"(memberOf=cn=nobody,ou=groups,dc=example,dc=com)\"\n";
    let place = with_slapd(&slapd, "observe", group);
    let ran = place.run(&["check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in ["msExchIMAddress", "homewardIMUser", "schemas/ldap/homeward.schema", "size limit", "cn=nobody"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let ran = Place::new("observe").run(&["check"]);
    assert!(ran.code == 1 && ran.out.contains("FAIL  server"), "{ran:?}");
}

#[test]
fn plan_decides_for_everybody_and_changes_nothing() {
    let people: String = ["ann", "bob"].map(|uid| person(uid, "")).concat()
        + &person("eve", "employeeType: former")
        + &person("carl", "objectClass: homewardIMUser\nmsExchIMAddress: carl@im.example.com\nimHomeServer: im2\n");
    let people = people.replace("mail: bob@example.com\n", "");
    let slapd = Slapd::builder().users(people).start();
    let place = with_slapd(&slapd, "observe", "");
    let before = slapd.search("(objectClass=inetOrgPerson)", &["*", "+"]);
    let plan = place.json(&["plan"]);
    assert_eq!(plan["users"], 4, "{plan:#}");
    // Nobody answers for example.com: unknown never turns into an address.
    assert_eq!(plan["counts"]["wait"], 1, "{plan:#}");
    assert_eq!(plan["counts"]["enable"], 1, "{plan:#}");
    assert_eq!(plan["counts"]["adopt"], 1, "{plan:#}");
    let homes = plan["homes"].as_array().unwrap();
    assert_eq!(homes.iter().map(|home| home["assigned_after"].as_u64().unwrap()).sum::<u64>(), 2);
    assert_eq!(plan["guard"]["held"], 0);
    assert!(plan["hash"].is_null());
    let ran = place.run(&["plan", "bob"]);
    assert!(ran.code == 0 && ran.out.contains("enable: bob@im.example.com at im1"), "{ran:?}");
    assert_eq!(slapd.search("(objectClass=inetOrgPerson)", &["*", "+"]), before);
    assert!(!place.state_dir().exists(), "nothing is made");
}

/// In a company without `memberOf`, with a circle of groups, one of them outside the base, and a user whom only a
/// second filter turns away: whom the agent would enable, and nobody else, is planned for.
#[test]
fn plan_sees_the_users_and_the_groups_that_the_agent_sees() {
    let group = |cn: &str, class: &str, members: &[&str]| {
        let member = if class == "groupOfNames" { "member" } else { "uniqueMember" };
        let members: String = members.iter().map(|it| format!("{member}: {it}\n")).collect();
        format!("dn: cn={cn},ou=groups,{SUFFIX}\nobjectClass: {class}\ncn: {cn}\n{members}\n")
    };
    let user = |uid: &str| format!("uid={uid},ou=people,{SUFFIX}");
    // Without mail there is nothing to ask DNS about.
    let people: String =
        ["ann", "bob", "carl", "dora", "eve"].map(|uid| person(uid, "").replace("mail: ", "description: ")).concat();
    let ldif = people
        + &group("outer", "groupOfNames", &[&user("ann"), &format!("cn=inner,ou=groups,{SUFFIX}")])
        + &group(
            "inner",
            "groupOfNames",
            &[&format!("UID=Bob, ou=people,{SUFFIX}"), &format!("cn=outer,ou=groups,{SUFFIX}")],
        )
        + &group(
            "flat",
            "groupOfUniqueNames",
            &[&format!("{}#'0101'B", user("carl")), &format!("cn=inner,ou=groups,{SUFFIX}")],
        );
    let slapd = Slapd::builder().users(ldif).start();
    let rule = |name: &str, nested: bool| {
        let of = format!("match = \"(memberOf=cn={name},ou=groups,{SUFFIX})\"\nnested = {nested}");
        format!("\n[[policy]]\nname = \"{name}\"\n{of}\nim_domain = \"im.example.com\"\n")
    };
    let place = with_slapd(&slapd, "enforce", "");
    let config = std::fs::read_to_string(place.config()).unwrap();
    let config = config.replace("[im]", "[im]\nmail_wait = \"0s\"");
    let (head, rest) = (config.split("[[policy]]").next().unwrap(), config.split_once("[[home]]").unwrap().1);
    let head = head.replace(
        &format!("base = \"{SUFFIX}\""),
        &format!("base = \"ou=people,{SUFFIX}\"\nfilter = \"(&(objectClass=inetOrgPerson)(!(uid=eve)))\""),
    );
    std::fs::write(place.config(), format!("{head}{}{}\n[[home]]{rest}", rule("outer", true), rule("flat", false)))
        .unwrap();
    let plan = place.json(&["plan"]);
    let planned: BTreeSet<&str> =
        plan["changes"].as_array().unwrap().iter().map(|it| it["login"].as_str().unwrap()).collect();
    assert_eq!(planned, BTreeSet::from(["ann", "bob", "carl"]), "{plan:#}");
    assert_eq!(plan["users"], 4);
    assert!(place.says(&["plan", "bob"]).contains("enable: bob@"));
    assert_eq!(place.run(&["plan", "eve"]).code, 1, "no user by the filter");
    assert_eq!(place.run(&["run", "--once"]).code, 0);
    let enabled = slapd.entries("(msExchIMAddress=*)", &["uid"]);
    assert_eq!(enabled.len(), 3, "{enabled:?}");
    assert_eq!(place.json(&["plan"])["changes"], serde_json::json!([]), "the agent and plan agree");
}

#[test]
fn plan_releases_nobody_for_absence_and_tells_what_the_guard_would_hold() {
    let leavers: String = ["a", "b", "c", "d"].map(|uid| person(uid, "employeeType: former")).concat();
    let slapd = Slapd::builder().users(leavers).start();
    let place = with_slapd(&slapd, "enforce", "");
    let store = place.store();
    db::put_standing(&store, None, &enabled(1, "ghost", "im1")).unwrap();
    for uid in ["a", "b", "c", "d"] {
        let mut standing = enabled(9, uid, "im1");
        standing.key = UserKey::parse(&slapd.value(&format!("(uid={uid})"), "entryUUID").unwrap()).unwrap();
        db::put_standing(&store, None, &standing).unwrap();
    }
    db::set_home_assigned(&store, "im1", 5).unwrap();
    let ran = place.run(&["plan"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.out.contains("not seen: 1") && ran.out.contains("guard: would hold 4"), "{}", ran.out);
    let plan = place.json(&["plan"]);
    assert_eq!(plan["counts"]["release"], 4);
    assert_eq!((&plan["not_seen"], &plan["guard"]["held"]), (&1.into(), &4.into()));
    assert_eq!(plan["hash"].as_str().unwrap().len(), 12);
}

#[test]
fn when_all_is_quiet_the_plan_is_empty() {
    let standing = enabled(1, "ann", "im1");
    let record = |name: &str| standing.record.text(name).unwrap().to_owned();
    let mut lines = "objectClass: homewardIMUser\n".to_owned();
    for name in ["msExchIMAddress", "msExchIMMetaPhysicalURL", "msExchIMPhysicalURL", "imHomeServer"] {
        lines += &format!("{name}: {}\n", record(&name.to_lowercase()));
    }
    let slapd = Slapd::builder().users(person("ann", &lines)).start();
    let place = with_slapd(&slapd, "enforce", "");
    let store = place.store();
    let mut ann = standing.clone();
    ann.key = UserKey::parse(&slapd.value("(uid=ann)", "entryUUID").unwrap()).unwrap();
    db::put_standing(&store, None, &ann).unwrap();
    db::set_home_assigned(&store, "im1", 1).unwrap();
    assert_eq!(
        place.says(&["plan"]),
        "\
1 user read; nothing was changed
enable 0, adopt 0, keep 1, move 0, release 0, wait 0, refuse 0; 0 password resets for Digest

HOME  LOAD          BEFORE  AFTER  CAPACITY
im1   [#.........]       1      1        10
im2   [..........]       0      0         5

guard: nothing to hold
"
    );
    assert_eq!(place.json(&["plan"])["changes"], serde_json::json!([]));
}

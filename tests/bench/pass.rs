//! First pass, and a pass in which nothing changed, in observe mode, against `ldapsearch` that dumps the same attributes.
//! The agent's time is that of the whole process, from its start to its end: start, connect, read, store, decide, record,
//! stop.

use super::support::agent::Agent;
use super::support::company::Company;
use super::support::dns::Nsd;
use super::support::slapd::{AGENT_DN, AGENT_PASSWORD, SUFFIX, Slapd};
use super::{agent, median, ms, setting};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the agent asks for with `extra` as in `super::agent`: ten that have values, and those of ours, which nobody has yet.
const ATTRIBUTES: &[&str] = &[
    "objectClass",
    "uid",
    "mail",
    "cn",
    "givenName",
    "sn",
    "displayName",
    "employeeType",
    "l",
    "title",
    "proxyAddresses",
    "msExchIMAddress",
    "msExchIMMetaPhysicalURL",
    "msExchIMPhysicalURL",
    "imHomeServer",
    "pwdAccountLockedTime",
    "pwdEndTime",
    "pwdChangedTime",
    "pwdReset",
    "createTimestamp",
    "entryUUID",
];

pub struct Pass {
    pub first_ratio: f64,
    pub second_ratio: f64,
    pub rss_mb: f64,
    /// The same without what SQLite held at most, nearly all of which is page cache.
    pub beyond_caches_mb: f64,
}

/// One `run --once`.
struct Once {
    took: Duration,
    /// From the beginning of the refresh to its last commit.
    read: Duration,
    rss_mb: f64,
    sqlite_mb: f64,
}

pub fn measure(users: usize, dns: &Nsd) -> Pass {
    let slapd = Slapd::builder().slapadd(Company::new(users).ldif()).start();
    let agent = agent(&slapd, dns, users).mode("observe");
    let _ = dump(&slapd);
    let (mut dumps, mut firsts, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setting("BENCH_RUNS", 7) {
        dumps.push(dump(&slapd));
        let _ = std::fs::remove_dir_all(agent.state_dir());
        let first = once(&agent, users, users);
        assert_eq!(agent.count("planned"), users as u64, "{}", agent.log());
        dumps.push(dump(&slapd));
        let store = rusqlite::Connection::open(agent.state_dir().join("directory.db")).expect("the agent left it");
        assert_eq!(store.execute("delete from meta where name = 'cursor'", []).expect("it is a store"), 1);
        drop(store);
        let second = once(&agent, users, 0);
        println!(
            "{users} users: ldapsearch {:.0} ms, first pass {:.0} (reading {:.0}), second {:.0} (reading {:.0}), \
             {:.0} MB with {:.0} MB of SQLite's",
            ms(dumps[dumps.len() - 1]),
            ms(first.took),
            ms(first.read),
            ms(second.took),
            ms(second.read),
            first.rss_mb,
            first.sqlite_mb,
        );
        firsts.push(first);
        seconds.push(second);
    }
    let took = |passes: &[Once]| median(&passes.iter().map(|pass| pass.took).collect::<Vec<_>>()).as_secs_f64();
    let dump = median(&dumps).as_secs_f64();
    println!(
        "{users} users: ldapsearch {:.0}/s, first pass {:.0}/s, second pass {:.0}/s (medians)",
        users as f64 / dump,
        users as f64 / took(&firsts),
        users as f64 / took(&seconds)
    );
    Pass {
        first_ratio: dump / took(&firsts),
        second_ratio: dump / took(&seconds),
        rss_mb: firsts.iter().map(|pass| pass.rss_mb).fold(0.0, f64::max),
        beyond_caches_mb: firsts.iter().map(|pass| pass.rss_mb - pass.sqlite_mb).fold(0.0, f64::max),
    }
}

/// `ldapsearch -LLL` by the same account.
fn dump(slapd: &Slapd) -> Duration {
    let started = Instant::now();
    let status = Command::new("ldapsearch")
        .args(["-x", "-LLL", "-H", &slapd.url(), "-D", AGENT_DN, "-w", AGENT_PASSWORD, "-b", SUFFIX, "(objectClass=*)"])
        .args(ATTRIBUTES)
        .stdout(Stdio::null())
        .status()
        .expect("ldapsearch; install it: apt-get install ldap-utils");
    assert!(status.success());
    started.elapsed()
}

fn once(agent: &Agent, users: usize, changed: usize) -> Once {
    let path = agent.config().with_file_name("once.log");
    let log = std::fs::File::create(&path).expect("the directory is ours");
    // The last line of debug says what SQLite held; there are a few lines a batch besides.
    let mut command = agent.command(&["run", "--once", "--verbose"]);
    command.stdout(log.try_clone().expect("an open file")).stderr(log);
    let started = Instant::now();
    let mut child = command.spawn().expect("the agent");
    let watched = watch_memory(&child);
    let status = child.wait().expect("it is our child");
    let took = started.elapsed();
    let log = std::fs::read_to_string(&path).expect("we made it");
    assert!(status.success(), "{status}\n{log}");
    let line = log.lines().rfind(|line| line.contains("source.refreshed")).expect("a refresh");
    let said: serde_json::Value = serde_json::from_str(line).expect("a log of JSON lines");
    let number = |name: &str| said[name].as_u64().unwrap_or_else(|| panic!("{name} in {line}"));
    assert_eq!((number("users"), number("changed")), (users as u64, changed as u64));
    let rss_mb = watched.join().expect("it only reads") as f64 / 1024.0;
    let line = log.lines().rfind(|line| line.contains("sqlite_peak_bytes")).expect("the last line of debug");
    let last: serde_json::Value = serde_json::from_str(line).expect("a log of JSON lines");
    let sqlite_mb = last["sqlite_peak_bytes"].as_f64().expect("a number") / 1024.0 / 1024.0;
    Once { took, read: Duration::from_millis(number("duration_ms")), rss_mb, sqlite_mb }
}

/// The peak in KiB. It only ever grows, so the last look before the end is the peak, give or take 5 ms.
fn watch_memory(child: &Child) -> std::thread::JoinHandle<u64> {
    let path = format!("/proc/{}/status", child.id());
    std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = std::fs::read_to_string(&path).ok().and_then(|status| {
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        }) {
            peak = now;
            std::thread::sleep(Duration::from_millis(5));
        }
        peak
    })
}

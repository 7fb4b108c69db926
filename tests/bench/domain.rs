//! Active Directory, on Samba: the agent's first reading of a domain against a paged `ldapsearch` of the same attributes
//! by the same account over the same TLS; and the time from a change's result to its outcome in the store, where the
//! server rings (a single process) and where only the look at `highestCommittedUSN` wakes (prefork).

use super::latency::watch_outcomes;
use super::support::agent::Agent;
use super::support::dns::Nsd;
use super::support::samba::{AGENT_DN, AGENT_PASSWORD, Model, SUFFIX, Samba, user};
use super::{median, ms, percentile, setting};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const USERS: usize = 10_000;
/// Added in one go by the fixture.
const CHUNK: usize = 1_000;
/// What the agent asks for.
const ATTRIBUTES: &[&str] = &[
    "objectClass",
    "objectGUID",
    "sAMAccountName",
    "mail",
    "proxyAddresses",
    "msExchIMAddress",
    "msExchIMMetaPhysicalURL",
    "msExchIMPhysicalURL",
    "msExchIMVirtualServer",
    "userAccountControl",
    "isCriticalSystemObject",
    "accountExpires",
    "pwdLastSet",
    "whenCreated",
];

pub struct Domain {
    /// The agent's reading to the paged search: the server's own time is most of both.
    pub full_pass_ratio: f64,
    pub notified_p99_ms: f64,
    pub interval_p99_ms: f64,
}

pub async fn measure(dns: &Nsd) -> Domain {
    let full_pass_ratio = full_pass(dns);
    let notified = latency(Model::Single, dns).await;
    let interval = latency(Model::Prefork, dns).await;
    for (what, times) in [("the server rings", &notified), ("looked at every second", &interval)] {
        let (p50, p99) = (ms(percentile(times, 50)), ms(percentile(times, 99)));
        println!("{} changes of a domain, {what}: p50 {p50:.0} ms, p99 {p99:.0} ms", times.len());
    }
    let p99 = |times: &[Duration]| ms(percentile(times, 99));
    Domain { full_pass_ratio, notified_p99_ms: p99(&notified), interval_p99_ms: p99(&interval) }
}

fn full_pass(dns: &Nsd) -> f64 {
    let samba = Samba::builder().start();
    let ou = samba.ou("many");
    for chunk in 0..USERS / CHUNK {
        let users = (chunk * CHUNK..(chunk + 1) * CHUNK).map(|n| user(&format!("many-{n}"), &ou, "") + "\n");
        samba.modify(&users.collect::<String>());
    }
    let agent = agent(&samba, SUFFIX, dns).mode("observe");
    let _ = dump(&samba);
    let (mut dumps, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..setting("BENCH_RUNS", 7) {
        dumps.push(dump(&samba));
        let _ = std::fs::remove_dir_all(agent.state_dir());
        let before = agent.log().len();
        assert_eq!(agent.once(), 0, "{}", agent.log());
        let log = agent.log();
        let line = log[before..].lines().rfind(|line| line.contains("source.refreshed")).expect("a refresh");
        let said: serde_json::Value = serde_json::from_str(line).expect("a log of JSON lines");
        reads.push(Duration::from_millis(said["duration_ms"].as_u64().expect("a number")));
    }
    let (dump, read) = (median(&dumps), median(&reads));
    println!(
        "{USERS} users of a domain: paged ldapsearch {:.0} ms, the agent's reading {:.0} ms (medians)",
        ms(dump),
        ms(read)
    );
    read.as_secs_f64() / dump.as_secs_f64()
}

/// A paged `ldapsearch` of the whole domain.
fn dump(samba: &Samba) -> Duration {
    let url = samba.ldaps_url();
    let started = Instant::now();
    let status = Command::new("ldapsearch")
        .env("LDAPTLS_CACERT", samba.ca_file())
        .args(["-x", "-LLL", "-E", "pr=1000/noprompt", "-H", &url, "-D", AGENT_DN, "-w", AGENT_PASSWORD, "-b", SUFFIX])
        .arg("(objectClass=*)")
        .args(ATTRIBUTES)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("ldapsearch; install it: apt-get install ldap-utils");
    assert!(status.success(), "{status}");
    started.elapsed()
}

/// From the add's result to its outcome, one account after another, at no particular moment of the agent's second.
async fn latency(model: Model, dns: &Nsd) -> Vec<Duration> {
    let samba = Samba::builder().model(model).start();
    let ou = samba.ou("latency");
    let mut agent = agent(&samba, &ou, dns);
    agent.start();
    agent.wait_for("the first pass", |agent| agent.log().contains("source.refreshed"));
    let mut recorded = watch_outcomes(agent.state_dir());
    let mut took = Vec::new();
    for n in 0..setting("BENCH_AD_LATENCY_N", 100) {
        samba.user(&format!("soon-{n}"), &ou, "");
        let added = Instant::now();
        let at = tokio::time::timeout(Duration::from_secs(30), recorded.recv()).await;
        let at = at.ok().flatten().unwrap_or_else(|| panic!("soon-{n} is not enabled:\n{}", agent.log()));
        took.push(at.saturating_duration_since(added));
        tokio::time::sleep(Duration::from_millis(130 * (n as u64 % 8))).await;
    }
    took
}

fn agent(samba: &Samba, base: &str, dns: &Nsd) -> Agent {
    let extra = format!("[dns]\nservers = [\"{}\"]\n[log]\nformat = \"json\"\n", dns.address());
    Agent::of_samba(samba, base).homes(&[USERS as u32; 3]).extra(extra)
}

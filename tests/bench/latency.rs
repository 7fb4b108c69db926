//! How long a new account waits: from the result of its add to the values in the entry, seen on a persistent search of
//! our own, and to the outcome in the store. Against bare sequential modifies, in turns with them on the same server.

use super::support::dns::Nsd;
use super::support::slapd::{AGENT_DN, SUFFIX, Slapd, person};
use super::writes::{connect, modify};
use super::{agent, ms, percentile, setting};
use homeward::directory::connect::Endpoint;
use homeward::directory::key::KeyAttribute;
use homeward::directory::source::Change;
use homeward::directory::source::syncrepl::{SearchShape, Syncrepl, WIDEST_FILTER};
use homeward::directory::stream::Access;
use homeward::store::enablement as db;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// In turns: so many accounts, then as many bare modifies.
const TURN: usize = 50;
const WARM_UP: usize = 10;
/// What is still under way from one turn does not burden the next.
const BREATHER: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_micros(200);

pub struct Latency {
    /// To the value in the entry.
    pub p50_ratio: f64,
    /// To the outcome in the store.
    pub p99_ms: f64,
    pub raw_p99_ms: f64,
}

pub async fn measure(dns: &Nsd) -> Latency {
    let count = setting("BENCH_LATENCY_N", 1000);
    let people = format!("ou=people,{SUFFIX}");
    let bare: String =
        (0..count).map(|n| person(&format!("raw{n:05}"), "").replace("ou=people", "ou=services")).collect();
    let slapd = Slapd::builder().slapadd(bare).start();
    let mut agent = agent(&slapd, dns, 2 * (count + WARM_UP)).base(&people);
    agent.start();
    agent.wait_for("the first refresh", |agent| agent.log().contains("source.refreshed"));

    let mut seen = watch_entries(&slapd, people).await;
    let mut recorded = watch_outcomes(agent.state_dir());
    let mut ldap = connect(&slapd).await;
    let (mut visible, mut outcomes, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    let mut done = 0;
    for turn in 0..=count.div_ceil(TURN) {
        let accounts = if turn == 0 { WARM_UP } else { TURN.min(count + WARM_UP - done) };
        for _ in 0..accounts {
            let login = format!("new{done:05}");
            add(&mut ldap, &login).await;
            let added = Instant::now();
            let mut seen_at = added;
            for (watch, times) in [(&mut seen, &mut visible), (&mut recorded, &mut outcomes)] {
                let at = tokio::time::timeout(Duration::from_secs(30), watch.recv()).await;
                let at = at.ok().flatten().unwrap_or_else(|| panic!("{login} is not enabled:\n{}", agent.log()));
                seen_at = seen_at.max(at);
                times.push(at.saturating_duration_since(added));
            }
            done += 1;
        }
        tokio::time::sleep(BREATHER).await;
        if turn > 0 {
            for n in done - WARM_UP - accounts..done - WARM_UP {
                let started = Instant::now();
                modify(&mut ldap, &format!("uid=raw{n:05},ou=services,{SUFFIX}")).await;
                raw.push(started.elapsed());
            }
            tokio::time::sleep(BREATHER).await;
        }
    }
    let (visible, outcomes) = (&visible[WARM_UP..], &outcomes[WARM_UP..]);
    for (what, times) in [("bare modify", raw.as_slice()), ("written back", visible), ("recorded", outcomes)] {
        println!(
            "{count} accounts, {what}: p50 {:.2} ms, p99 {:.2} ms",
            ms(percentile(times, 50)),
            ms(percentile(times, 99))
        );
    }
    Latency {
        p50_ratio: ms(percentile(visible, 50)) / ms(percentile(&raw, 50)),
        p99_ms: ms(percentile(outcomes, 99)),
        raw_p99_ms: ms(percentile(&raw, 99)),
    }
}

async fn add(ldap: &mut ldap3::Ldap, login: &str) {
    let one = |value: &str| HashSet::from([value.to_owned()]);
    let attributes = vec![
        ("objectClass".to_owned(), one("inetOrgPerson")),
        ("uid".to_owned(), one(login)),
        ("cn".to_owned(), one(login)),
        ("sn".to_owned(), one(login)),
        ("mail".to_owned(), one(&format!("{login}@example.com"))),
    ];
    let dn = format!("uid={login},ou=people,{SUFFIX}");
    ldap.add(&dn, attributes).await.and_then(|result| result.success()).expect("the account may add");
}

/// When each entry was first seen with a home, in order.
async fn watch_entries(slapd: &Slapd, base: String) -> mpsc::UnboundedReceiver<Instant> {
    let directory = slapd.directory();
    let endpoint = Endpoint::parse(&slapd.url(), &directory.tls, true).expect("our own URL");
    let access = Access::new(&directory, endpoint, KeyAttribute::EntryUuid);
    let attributes = vec!["imHomeServer".to_owned()];
    let shape = SearchShape { base, filter: WIDEST_FILTER.into(), attributes, meaning: AGENT_DN.into() };
    let mut sync = Syncrepl::start(&access, &shape, None).await.expect("slapd has syncprov");
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(batch) = sync.next().await {
            let at = Instant::now();
            let homes = batch
                .changes
                .iter()
                .filter(|change| matches!(change, Change::Entry(entry) if !entry.values("imhomeserver").is_empty()));
            if homes.map(|_| tell.send(at)).any(|sent| sent.is_err()) {
                return;
            }
        }
    });
    told
}

/// When each outcome was first seen in the store, in order.
pub fn watch_outcomes(state_dir: std::path::PathBuf) -> mpsc::UnboundedReceiver<Instant> {
    let (tell, told) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let store = homeward::store::open::reader(homeward::store::open::Kind::Enablement, &state_dir);
        let store = store.expect("the agent made it");
        let mut known = 0;
        while let Ok(last) = db::last_outcome_seq(&store) {
            let at = Instant::now();
            for _ in known..last {
                if tell.send(at).is_err() {
                    return;
                }
            }
            known = last;
            if tell.is_closed() {
                return;
            }
            std::thread::sleep(POLL);
        }
    });
    told
}

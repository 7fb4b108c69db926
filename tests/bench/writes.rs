//! A first pass in enforce mode, against the same modifies sent by as many bare connections, each on a fresh database.
//! The rate is that at which the server took them, from the first to the last, by its own change numbers; beside it the
//! time of the whole process.

use super::support::company::Company;
use super::support::dns::Nsd;
use super::support::slapd::{AGENT_DN, AGENT_PASSWORD, Slapd};
use super::{agent, median, ms, setting};
use ldap3::{Ldap, LdapConnAsync, Mod};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// As `[agent] workers` is by default.
const CONNECTIONS: usize = 4;

pub async fn measure(dns: &Nsd) -> f64 {
    let users = setting("BENCH_WRITES", 1500);
    let company = Company::new(users);
    let ldif = company.ldif();
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..setting("BENCH_RUNS", 7) {
        let slapd = Slapd::builder().slapadd(&*ldif).start();
        let started = Instant::now();
        send(&slapd, &company, users).await;
        let raw_whole = started.elapsed();
        raw.push(span(&slapd, users));
        drop(slapd);

        let slapd = Slapd::builder().slapadd(&*ldif).start();
        let agent = agent(&slapd, dns, users);
        let started = Instant::now();
        assert_eq!(agent.once(), 0, "{}", agent.log());
        let whole = started.elapsed();
        assert_eq!(agent.count("enabled"), users as u64);
        ours.push(span(&slapd, users));
        println!(
            "{users} writes: raw {:.0} ms ({:.0} with connecting), first pass in enforce mode {:.0} ms ({:.0} the whole process)",
            ms(raw[raw.len() - 1]),
            ms(raw_whole),
            ms(ours[ours.len() - 1]),
            ms(whole)
        );
    }
    println!(
        "{users} writes: raw {:.0}/s, the agent {:.0}/s (medians)",
        users as f64 / median(&raw).as_secs_f64(),
        users as f64 / median(&ours).as_secs_f64()
    );
    median(&raw).as_secs_f64() / median(&ours).as_secs_f64()
}

/// From the first to the last write that the server took.
fn span(slapd: &Slapd, users: usize) -> Duration {
    let found = slapd.search("(imHomeServer=*)", &["entryCSN"]);
    let mut times: Vec<Duration> = found.lines().filter_map(|line| time_of(line.strip_prefix("entryCSN: ")?)).collect();
    assert_eq!(times.len(), users);
    times.sort();
    times[users - 1] - times[0]
}

/// Within its day: `20261122202858.782282Z#…`.
fn time_of(csn: &str) -> Option<Duration> {
    let part = |at: usize, to: usize| csn.get(at..to)?.parse::<u64>().ok();
    let seconds = part(8, 10)? * 3600 + part(10, 12)? * 60 + part(12, 14)?;
    Some(Duration::from_secs(seconds) + Duration::from_micros(part(15, 21)?))
}

async fn send(slapd: &Slapd, company: &Company, users: usize) {
    let dns: Vec<String> = company.user_dns().collect();
    let mut tasks = tokio::task::JoinSet::new();
    for share in dns.chunks(users.div_ceil(CONNECTIONS)) {
        let (share, mut ldap) = (share.to_vec(), connect(slapd).await);
        tasks.spawn(async move {
            for dn in share {
                modify(&mut ldap, &dn).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("every modify is taken");
    }
}

pub async fn connect(slapd: &Slapd) -> Ldap {
    let (connection, mut ldap) = LdapConnAsync::new(&slapd.url()).await.expect("slapd listens");
    ldap3::drive!(connection);
    ldap.simple_bind(AGENT_DN, AGENT_PASSWORD).await.and_then(|result| result.success()).expect("the agent may bind");
    ldap
}

/// What the agent writes for a new user: the class and four values.
pub async fn modify(ldap: &mut Ldap, dn: &str) {
    let login = dn.split(['=', ',']).nth(1).expect("uid=…");
    let add = |name: &str, value: String| Mod::Add(name.to_owned(), HashSet::from([value]));
    let mods = vec![
        add("objectClass", "homewardIMUser".into()),
        add("msExchIMAddress", format!("{login}@example.com")),
        add("msExchIMMetaPhysicalURL", format!("http://im.example.com/instmsg/aliases/{login}")),
        add(
            "msExchIMPhysicalURL",
            format!("http://im1.example.com/instmsg/local/im.example.com/instmsg/aliases/{login}"),
        ),
        add("imHomeServer", "im1".into()),
    ];
    ldap.modify(dn, mods).await.and_then(|result| result.success()).expect("the agent may write");
}

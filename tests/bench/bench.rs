//! The benchmark: the agent beside the plain tools of the directory, in one run, interleaved, on the same servers.
//! `cargo build --release && cargo run --release --example bench` writes `target/bench/results.json` and prints the table
//! of `docs/benchmarks.md`. Shorter: `BENCH_RUNS=3 BENCH_LATENCY_N=200`. One part alone, without results.json:
//! `… --example bench -- pass10k`, or `pass100k`, `writes`, `latency`, `domain`.

// decide/ has no clock; a benchmark has.
#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod domain;
mod latency;
mod pass;
mod writes;

use std::path::Path;
use std::time::Duration;
use support::agent::Agent;
use support::dns::Nsd;
use support::slapd::Slapd;

/// A figure, what it should be, and how it is to be read.
struct Figure {
    name: &'static str,
    value: f64,
    goal: Goal,
    /// Where the goal says nothing because the machine was too slow, or there is none.
    moot: bool,
}

enum Goal {
    AtLeast(f64),
    AtMost(f64),
    None,
}

impl Figure {
    fn new(name: &'static str, value: f64, goal: Goal) -> Figure {
        Figure { name, value, goal, moot: false }
    }

    fn verdict(&self) -> (String, &'static str) {
        let (text, met) = match self.goal {
            Goal::AtLeast(goal) => (format!(">= {goal:.2}"), self.value >= goal),
            Goal::AtMost(goal) => (format!("<= {goal}"), self.value <= goal),
            Goal::None => return (String::new(), ""),
        };
        (
            text,
            if self.moot {
                "moot"
            } else if met {
                "met"
            } else {
                "MISSED"
            },
        )
    }
}

#[tokio::main]
async fn main() {
    let part = std::env::args().nth(1);
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    // Both e-mail domains have an SRV record, so that everybody's address is the mail.
    let dns = Nsd::start(&[
        ("example.com", "_rvp._tcp IN SRV 0 0 5222 im.example.com."),
        ("example.org", "_rvp._tcp IN SRV 0 0 5222 im.example.org."),
    ]);
    let mut figures = Vec::new();
    let mut beyond_caches_10k = None;
    if wanted("pass10k") {
        let pass = pass::measure(10_000, &dns);
        beyond_caches_10k = Some(pass.beyond_caches_mb);
        figures.push(Figure::new("first_pass_ratio_10k", pass.first_ratio, Goal::AtLeast(0.35)));
        figures.push(Figure::new("rss_mb_10k", pass.rss_mb, Goal::None));
    }
    if wanted("pass100k") {
        let pass = pass::measure(100_000, &dns);
        figures.push(Figure::new("first_pass_ratio_100k", pass.first_ratio, Goal::AtLeast(0.50)));
        figures.push(Figure::new("second_pass_ratio_100k", pass.second_ratio, Goal::AtLeast(0.80)));
        figures.push(Figure::new("rss_mb_100k", pass.rss_mb, Goal::AtMost(100.0)));
        if let Some(before) = beyond_caches_10k {
            let growth = pass.beyond_caches_mb / before;
            figures.push(Figure::new("rss_growth_beyond_caches", growth, Goal::AtMost(1.2)));
        }
    }
    if wanted("writes") {
        let ratio = writes::measure(&dns).await;
        figures.push(Figure::new("write_back_ratio", ratio, Goal::AtLeast(0.85)));
    }
    if wanted("latency") {
        let latency = latency::measure(&dns).await;
        figures.push(Figure::new("latency_p50_ratio", latency.p50_ratio, Goal::AtMost(5.0)));
        let moot = latency.raw_p99_ms >= 5.0;
        figures.push(Figure { moot, ..Figure::new("latency_p99_ms", latency.p99_ms, Goal::AtMost(25.0)) });
    }
    if wanted("domain") {
        let domain = domain::measure(&dns).await;
        figures.push(Figure::new("ad_full_pass_ratio", domain.full_pass_ratio, Goal::AtMost(1.3)));
        figures.push(Figure::new("ad_latency_notified_p99_ms", domain.notified_p99_ms, Goal::AtMost(1500.0)));
        figures.push(Figure::new("ad_latency_interval_p99_ms", domain.interval_p99_ms, Goal::AtMost(1500.0)));
    }
    println!("\n{:<26} {:>9}  {:<8} ", "figure", "measured", "goal");
    for figure in &figures {
        let (goal, met) = figure.verdict();
        println!("{:<26} {:>9.2}  {goal:<8} {met}", figure.name, figure.value);
    }
    if part.is_none() {
        let results: serde_json::Map<String, serde_json::Value> = figures
            .iter()
            .map(|figure| (figure.name.to_owned(), ((figure.value * 1000.0).round() / 1000.0).into()))
            .collect();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/results.json");
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("target is ours");
        std::fs::write(&file, serde_json::to_string_pretty(&results).expect("numbers") + "\n").expect("target is ours");
        println!("\n{}", file.display());
    }
}

/// What the agent is measured with: ten attributes that have values, room for everybody, SRV that answers, a log that
/// can be read again.
fn agent(slapd: &Slapd, dns: &Nsd, users: usize) -> Agent {
    let extra = format!(
        "[dns]\nservers = [\"{}\"]\n[log]\nformat = \"json\"\n[directory.attributes]\n\
         extra = [\"cn\", \"givenName\", \"sn\", \"displayName\", \"employeeType\", \"l\", \"title\"]\n",
        dns.address()
    );
    Agent::of(slapd).homes(&[users as u32; 3]).extra(extra)
}

/// A setting from the environment.
fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * percent / 100]
}

fn median(times: &[Duration]) -> Duration {
    percentile(times, 50)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

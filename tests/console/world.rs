//! The console in a real browser: a realistic company on a real slapd, the real agent, and Chromium driven by
//! `browser.mjs`. `make console-test` runs it; with `stay` it leaves the console up to be looked at, until Ctrl-C.

// decide/ has no clock; a test has.
#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::agent::Agent;
use support::company::Company;
use support::dns::Nsd;
use support::slapd::{Slapd, person};

const PEOPLE: usize = 320;
/// Of these, so many get a new password during the campaign.
const RESETS: usize = 70;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let nsd = Nsd::start(&[("example.com", "_rvp._tcp IN SRV 0 0 80 im\nim IN A 127.0.0.1"), ("example.org", "")]);
    let company = Company::new(PEOPLE).broken(9).password("Old-1-secret");
    let slapd = Slapd::builder().session_log(10_000).ppolicy(true).users(company.ldif()).start();
    // Passwords of before are older than this by more than generalizedTime's second.
    std::thread::sleep(Duration::from_millis(2100));
    let since = homeward::model::Timestamp::now();
    let port = support::free_port();
    let home = |id: &str, capacity: u32, more: &str| {
        format!("[[home]]\nid = \"{id}\"\nhost = \"{id}.example.com\"\ncapacity = {capacity}\n{more}\n\n")
    };
    let homes = home("im1", 150, &format!("probe = \"tcp:127.0.0.1:{}\"", slapd.port()))
        + &home("im2", 240, &format!("probe = \"tcp:127.0.0.1:{}\"", slapd.port()))
        + &home("im3", 60, "")
        + &home("im4", 100, "probe = \"tcp:127.0.0.1:9\"");
    let extra = format!(
        "{homes}[console]\nlisten = \"127.0.0.1:{port}\"\n[digest]\nrequired = true\nsince = \"{since}\"\n\
         [guard]\nreleases = 10\nreleases_percent = 3\n[dns]\nservers = [\"{}\"]\n\
         [[policy]]\nname = \"service accounts are left alone\"\nmatch = \"(employeeType=service)\"\naction = \"ignore\"\n\
         [[policy]]\nname = \"research lives at im1 and im2\"\nmatch = \"(ou=research)\"\nhomes = [\"im1\", \"im2\"]\n\
         [[policy]]\nname = \"everybody else\"\nmatch = \"(uid=*)\"\n",
        nsd.address()
    );
    let mut agent =
        Agent::of(&slapd).homes(&[]).directory("attributes = { extra = [\"employeeType\", \"ou\"] }").extra(extra);
    agent.start();
    agent.wait_for("the first pass", Agent::is_quiet);
    let changed: String = company
        .user_dns()
        .take(RESETS)
        .map(|dn| format!("dn: {dn}\nchangetype: modify\nreplace: userPassword\nuserPassword: New-2-secret\n\n"))
        .collect();
    slapd.modify(&changed);
    agent.wait_for("the passwords", Agent::is_quiet);
    agent.say(&["home", "drain", "im1"]);
    agent.wait_for("the held plan", |agent| agent.count("held") > 0);
    let token = agent.say(&["console", "token", "add", "olga", "--role", "operator"]).trim().to_owned();
    let url = format!("http://127.0.0.1:{port}");
    println!("console at {url}\ntoken {token}");

    let done = AtomicBool::new(false);
    let mut code = ExitCode::SUCCESS;
    std::thread::scope(|scope| {
        // People are hired all the while: the tail has something to follow.
        scope.spawn(|| {
            for n in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                slapd.add(&person(&format!("hire{n:03}"), "employeeType: staff\nuserPassword: First-3-secret\n"));
                std::thread::sleep(Duration::from_millis(1500));
            }
        });
        if arguments.iter().any(|argument| argument == "stay") {
            until_asked_to_end();
        } else {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/console/browser.mjs");
            let status = Command::new("node").arg(script).args([&url, &token]).args(&arguments).status();
            if !status.is_ok_and(|status| status.success()) {
                code = ExitCode::FAILURE;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    code
}

/// Until Ctrl-C, or until somebody ends us: whatever was started is stopped then.
fn until_asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("a signal handler");
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    });
}

//! The demo: Homeward at work on a real OpenLDAP and a real nsd, in temporary folders and on loopback. `make demo` builds
//! and starts it; with `DEMO=once` it ends by itself. It needs no root and touches no server but its own.

// decide/ has no clock; a demo has.
#![allow(clippy::disallowed_methods)]

mod stage;
#[path = "../support/mod.rs"]
mod support;

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use stage::{Agent, Interrupted, Stage};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::company::{Breakage, Company};
use support::dns::Nsd;
use support::slapd::{ADMIN_DN, ADMIN_PASSWORD, AGENT_DN, AGENT_PASSWORD, SUFFIX, Slapd};

const PEOPLE: usize = 500;
const HOMES: [(&str, u32); 3] = [("im1", 100), ("im2", 200), ("im3", 400)];
/// Whatever is waited for comes within this, on the slowest of machines.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// These become something else by themselves.
const UNSETTLED: [&str; 4] = ["planned", "applying", "waiting", "retrying"];
const WRITTEN: [&str; 5] =
    ["objectClass", "imHomeServer", "msExchIMAddress", "msExchIMMetaPhysicalURL", "msExchIMPhysicalURL"];

const NEW_LOGIN: &str = "ada";
const NEW_ACCOUNT: &str = "\
dn: uid=ada,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: ada
cn: Ada Lovelace
sn: Lovelace
mail: ada@example.com
employeeType: staff
";

fn main() -> ExitCode {
    let folder = match tempfile::Builder::new().prefix("homeward-demo-").tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("demo: no temporary folder: {error}");
            return ExitCode::FAILURE;
        }
    };
    let path = folder.path().to_owned();
    // Everything that runs is stopped by the time this returns.
    let played = play(&path, std::env::args().any(|argument| argument == "once"));
    println!();
    let code = match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    };
    match folder.close() {
        Ok(()) => println!("Agent, directory and name server are stopped; {} is gone.", path.display()),
        Err(error) => eprintln!("demo: {} cannot be removed: {error}", path.display()),
    }
    code
}

fn play(folder: &Path, once: bool) -> Result<()> {
    let mut stage = Stage::new(folder)?;
    println!("Homeward gives every entitled user of a directory a home server.");
    println!("This demo runs on 127.0.0.1 and in temporary folders only, and leaves nothing behind.");

    stage.heading("A company")?;
    let company = Company::new(PEOPLE).broken(1);
    let (broken_dn, ..) = company
        .broken_users()
        .find(|(_, how, _)| *how == Breakage::ForeignAddress)
        .context("the company has a user whose address somebody else wrote")?;
    let nsd = Nsd::start(&[
        (
            "example.com",
            "_rvp._tcp IN SRV 0 0 80 im\nim IN A 127.0.0.1\nim1 IN A 127.0.0.1\nim2 IN A 127.0.0.1\nim3 IN A 127.0.0.1",
        ),
        ("example.org", ""),
    ]);
    let slapd = Slapd::builder().session_log(10_000).slapadd(company.ldif()).start();
    println!("OpenLDAP at {} holds {PEOPLE} people; nobody has a home server yet.", slapd.url());
    println!("DNS at {} has an SRV record _rvp._tcp for example.com, and none for example.org.", nsd.address());

    stage.heading("The configuration, and whether it works")?;
    let console = support::free_port();
    configure(&stage, &slapd, &nsd, folder, console)?;
    stage.homeward(&["check"])?;

    stage.heading("The first pass: everybody gets a home server")?;
    let mut agent = stage.agent(&folder.join("agent.log"))?;
    let started = Instant::now();
    first_pass(&stage, &mut agent)?;
    println!("Quiet after {:.1} s. In a browser: http://127.0.0.1:{console}/", started.elapsed().as_secs_f32());
    stage.homeward(&["status"])?;

    stage.heading("Somebody is hired")?;
    stage.command_line(&format!("ldapadd {} <<.\n{NEW_ACCOUNT}.", as_admin(&slapd)));
    slapd.add(NEW_ACCOUNT);
    let added = Instant::now();
    let filter = format!("(uid={NEW_LOGIN})");
    wait(&stage, &mut agent, "the new account to get a home", || Ok(slapd.value(&filter, "imHomeServer")))?;
    println!("Enabled {} ms after the account was there.", added.elapsed().as_millis());
    stage.command_line(&format!(
        "ldapsearch -LLL -o ldif-wrap=no {} -b {SUFFIX} '{filter}' {}",
        as_admin(&slapd),
        WRITTEN.join(" ")
    ));
    let found = slapd.search(&filter, &WRITTEN);
    found.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).for_each(|line| println!("{line}"));
    settle(&stage, &mut agent, PEOPLE + 1)?;
    stage.homeward(&["tail", "--user", NEW_LOGIN])?;

    stage.heading("What would be decided now, and why")?;
    stage.homeward(&["user", "explain", NEW_LOGIN])?;

    stage.heading("One user has a problem; nobody else waits for it")?;
    println!("Somebody once typed an address of another system into {broken_dn}.");
    println!("What somebody else wrote is never overwritten.");
    stage.homeward(&["problem", "list"])?;
    let problem = problem_id(&stage)?;
    stage.homeward(&["problem", "show", &problem])?;

    stage.heading("The entry is corrected; the problem closes by itself")?;
    let correction =
        format!("dn: {broken_dn}\nchangetype: modify\ndelete: msExchIMAddress\n-\ndelete: msExchIMPhysicalURL\n");
    stage.command_line(&format!("ldapmodify {} <<.\n{correction}.", as_admin(&slapd)));
    slapd.modify(&correction);
    wait(&stage, &mut agent, "the problem to close", || Ok((open_problems(&stage)? == 0).then_some(())))?;
    settle(&stage, &mut agent, PEOPLE + 1)?;
    stage.homeward(&["problem", "list"])?;
    println!("No problem is left.");
    stage.homeward(&["user", "show", &broken_dn])?;

    if once {
        return Ok(());
    }
    stage.heading("Your turn")?;
    your_turn(&stage, &slapd, console);
    stage.wait(|| agent.still_runs().map(|()| None::<()>))
}

fn configure(stage: &Stage, slapd: &Slapd, nsd: &Nsd, folder: &Path, console_port: u16) -> Result<()> {
    let homes: String = HOMES
        .map(|(id, capacity)| {
            format!("[[home]]\nid = \"{id}\"\nhost = \"{id}.example.com\"\ncapacity = {capacity}\n\n")
        })
        .concat();
    let text = format!(
        "\
[agent]
state_dir = \"{state}\"
mode = \"enforce\"                          # the default, observe, writes nothing

[directory]
url = \"{url}\"
base = \"{SUFFIX}\"
bind_dn = \"{AGENT_DN}\"
bind_password_file = \"ldap-password\"
attributes = {{ extra = [\"employeeType\"] }}

[[policy]]
name = \"service accounts are left alone\"
match = \"(employeeType=service)\"
action = \"ignore\"

[[policy]]
name = \"everybody else\"
match = \"(uid=*)\"
action = \"enable\"

{homes}[console]
listen = \"127.0.0.1:{console}\"

[im]
domain = \"im.example.com\"                 # where SRV does not decide

[dns]
servers = [\"{dns}\"]
",
        state = folder.join("state").display(),
        url = slapd.url(),
        dns = nsd.address(),
        console = console_port,
    );
    let password = folder.join("ldap-password");
    std::fs::write(&password, AGENT_PASSWORD)?;
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600))?;
    std::fs::write(stage.config(), &text)?;
    stage.command_line(&format!("cat {}", stage.config().display()));
    print!("{text}");
    stage.pause()
}

/// Shows how many are settled until all are.
fn first_pass(stage: &Stage, agent: &mut Agent) -> Result<()> {
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} people")?;
    let bar = ProgressBar::new(PEOPLE as u64).with_style(style);
    wait(stage, agent, "the first pass", || {
        // Until the agent has made its store there is nothing to read.
        if !stage.config().with_file_name("state").join("enablement.db").exists() {
            return Ok(None);
        }
        // Nor while it is making it.
        let Ok(status) = stage.json(&["status"]) else { return Ok(None) };
        let settled = settled(&status);
        bar.set_position(settled.users);
        Ok((settled.all && settled.users >= PEOPLE as u64).then_some(()))
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// Waits until so many users are known and none is on the way to something else.
fn settle(stage: &Stage, agent: &mut Agent, users: usize) -> Result<()> {
    wait(stage, agent, "quiet", || {
        let settled = settled(&stage.json(&["status"])?);
        Ok((settled.all && settled.users >= users as u64).then_some(()))
    })
}

struct Settled {
    users: u64,
    all: bool,
}

fn settled(status: &Value) -> Settled {
    let counts = status["users"].as_object().into_iter().flatten();
    let mut settled = Settled { users: 0, all: status["queue"]["behind"].as_u64() == Some(0) };
    for (word, count) in counts {
        let count = count.as_u64().unwrap_or(0);
        if UNSETTLED.contains(&word.as_str()) {
            settled.all &= count == 0;
        } else {
            settled.users += count;
        }
    }
    settled
}

fn open_problems(stage: &Stage) -> Result<u64> {
    stage.json(&["status"])?["problems"].as_u64().context("status tells how many problems there are")
}

fn problem_id(stage: &Stage) -> Result<String> {
    let problems = stage.json(&["problem", "list"])?;
    let id = problems.as_array().and_then(|problems| problems.first()).map(|problem| &problem["id"]);
    Ok(format!("P{}", id.and_then(Value::as_i64).context("there is a problem")?))
}

fn wait<T>(stage: &Stage, agent: &mut Agent, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    let found = stage.wait(|| {
        agent.still_runs()?;
        ensure!(started.elapsed() < WAIT_MAX, "waited {} s for {what}", WAIT_MAX.as_secs());
        look()
    });
    found.with_context(|| format!("the agent said last:\n{}", agent.last_words()))
}

fn as_admin(slapd: &Slapd) -> String {
    format!("-x -H {} -D {ADMIN_DN} -w {ADMIN_PASSWORD}", slapd.url())
}

fn your_turn(stage: &Stage, slapd: &Slapd, console: u16) {
    let (program, config) = (stage.program().display(), stage.config().display());
    let admin = as_admin(slapd);
    println!(
        "\
Everything goes on running. In a browser: http://127.0.0.1:{console}/

In another terminal:

  alias homeward='{program} --config {config}'
  homeward tail -f                         # what happens, as it happens; leave it open
  homeward user move {NEW_LOGIN} --to im2
  homeward home drain im1                  # everybody is to move away from im1: more than the guard allows
  homeward problem show guard              # 2 s later: who would move, and how to approve that
  homeward user explain u0000000           # where one of them would move, and why
  homeward home activate im1               # … or leave them where they are
  homeward events --feed outcomes          # what other programs read
  homeward console token add me --role operator   # to sign in at the console, and do the same there
  homeward plan                            # what would change now: nothing
  ldapdelete {admin} uid={NEW_LOGIN},ou=people,{SUFFIX}

Ctrl-C ends the demo."
    );
}

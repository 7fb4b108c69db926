//! A store that cannot be written: a full disk, for both files or for one, and a lock that is not given back. The agent says
//! so with what to do, loses nothing, and goes on by itself.

// A test waits, and has a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::feed::Feed;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::agent::Agent;
use support::between::Between;
use support::company::uid;
use support::dns::Nsd;
use support::slapd::{SUFFIX, Slapd, person};

/// A small file system, with room for both stores and their logs.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Disk {
        let disk = Disk { dir: tempfile::tempdir().unwrap() };
        use std::os::unix::fs::MetadataExt as _;
        let owner = std::fs::metadata(disk.path()).unwrap().uid();
        let options = format!("size=48m,mode=700,uid={owner}");
        let at = disk.path().display().to_string();
        let said = as_root(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &at]);
        assert!(
            said.is_ok(),
            "a small disk needs the right to mount: {said:?}; run the tests as root, or let sudo do it"
        );
        disk
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// To the last octet.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there is about to end.
        let _ = as_root(&["umount", "-l", &self.path().display().to_string()]);
    }
}

/// Directly, or by a sudo that does not ask; else what was said.
fn as_root(command: &[&str]) -> Result<(), String> {
    let run = |command: &[&str]| match Command::new(command[0]).args(&command[1..]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    run(command).or_else(|direct| run(&[&["sudo", "-n"], command].concat()).map_err(|sudo| format!("{direct}; {sudo}")))
}

fn people(range: std::ops::Range<usize>) -> String {
    range.map(|n| person(&uid(n), "")).collect()
}

fn asking(dns: &Nsd) -> String {
    format!("[dns]\nservers = [\"{}\"]\n", dns.address())
}

fn has_home(slapd: &Slapd) -> usize {
    slapd.entries("(imHomeServer=*)", &["1.1"]).len()
}

#[test]
fn a_full_disk_is_said_with_what_to_do_and_nothing_is_lost() {
    let slapd = Slapd::builder().slapadd(people(0..20)).start();
    let dns = Nsd::start(&[("example.com", "")]);
    let disk = Disk::new();
    let mut agent = Agent::of(&slapd).extra(asking(&dns)).stores_at(disk.path());
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 20 && agent.is_quiet());
    disk.fill();
    // More than fits into what the files have in reserve.
    slapd.add(&people(100..400));
    slapd.delete(&format!("uid={},ou=people,{SUFFIX}", uid(0)));
    agent.wait_for("the line", |agent| agent.log().contains("line=disk.full"));
    let shown = agent.say(&["status"]);
    assert!(shown.contains("is full") && shown.contains("df -h"), "{shown}");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(agent.log().matches("line=disk.full").count() <= 2, "once for each half: {}", agent.log());
    disk.free();
    agent.wait_for("everybody else", |agent| agent.count("enabled") == 319 && agent.count("gone") == 1);
    agent.wait_for("rest", Agent::is_quiet);
    assert_eq!(has_home(&slapd), 319);
    agent.stop();
    assert_eq!(agent.once(), 0);
    let told = agent.outcomes();
    assert_eq!(told.iter().filter(|(kind, _)| kind == "enabled").count(), 320, "each once");
}

#[test]
fn a_full_disk_under_the_workers_store_alone_stops_the_worker_alone() {
    let slapd = Slapd::builder().slapadd(people(0..20)).start();
    let dns = Nsd::start(&[("example.com", "")]);
    let disk = Disk::new();
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    std::fs::create_dir(agent.state_dir()).unwrap();
    std::os::unix::fs::symlink(disk.path().join("enablement.db"), agent.state_dir().join("enablement.db")).unwrap();
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 20 && agent.is_quiet());
    disk.fill();
    slapd.add(&people(100..400));
    agent.wait_for("the line", |agent| agent.log().contains("line=disk.full"));
    let present = |agent: &Agent| Feed::open(&agent.state_dir()).unwrap().status().unwrap().present;
    agent.wait_for("the poller", |agent| present(agent) == 320);
    disk.free();
    agent.wait_for("everybody else", |agent| agent.count("enabled") == 320 && agent.is_quiet());
    assert_eq!(has_home(&slapd), 320);
}

#[test]
fn a_store_that_takes_nothing_for_ten_seconds_closes_the_connection_and_loses_nothing() {
    let slapd = Slapd::builder().slapadd(people(0..20)).start();
    let dns = Nsd::start(&[("example.com", "")]);
    let between = Between::start(slapd.port());
    let mut agent = Agent::at(&between.url()).extra(asking(&dns));
    agent.start();
    agent.wait_for("everybody", |agent| agent.count("enabled") == 20 && agent.is_quiet());
    assert_eq!(between.syncing(), 1);
    let holder = rusqlite::Connection::open(agent.state_dir().join("directory.db")).unwrap();
    holder.execute_batch("begin immediate").unwrap();
    for n in 100..110 {
        slapd.add(&people(n..n + 1));
    }
    // slapd would keep what we don't read in its memory.
    agent.wait_for("the end of the connection", |_| between.syncing() == 0);
    holder.execute_batch("rollback").unwrap();
    agent.wait_for("the others", |agent| agent.count("enabled") == 30);
    assert_eq!(between.syncing(), 1);
}

//! Log lines as the journal gets them: the program speaks to a socket of ours, bound where journald's is, in a mount namespace
//! of its own. journald's native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/

// A test waits, and has a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use support::agent::Agent;

/// `$1` holds the socket; what follows is run where it is journald's.
const NAMESPACE: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"";
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The receiving end, and the stderr of what speaks to it.
struct Journal {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

/// An entry, by field.
type Fields = BTreeMap<String, String>;

impl Journal {
    fn new() -> Journal {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        let socket = UnixDatagram::bind(folder.path().join("journal/socket")).unwrap();
        socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
        Journal { folder, socket }
    }

    /// Runs `agent`, with its stderr in a file. `stream`: what JOURNAL_STREAM is to say of that file.
    fn run(&self, agent: &Agent, stream: impl Fn(&File) -> Option<String>) -> Running {
        let program = agent.command(&["run"]);
        let mut command = Command::new("unshare");
        // Whoever is not root is it in a namespace of his own.
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        command.args(if is_root { &["--mount"][..] } else { &["--map-root-user", "--mount"] });
        command.args(["sh", "-ec", NAMESPACE, "sh"]).arg(self.folder.path().join("journal"));
        command.arg(program.get_program()).args(program.get_args());
        let stderr = File::create(self.stderr()).unwrap();
        match stream(&stderr) {
            Some(stream) => command.env("JOURNAL_STREAM", stream),
            None => command.env_remove("JOURNAL_STREAM"),
        };
        Running(command.stderr(stderr).spawn().expect("unshare is in util-linux"))
    }

    fn stderr(&self) -> std::path::PathBuf {
        self.folder.path().join("stderr")
    }

    fn said_on_stderr(&self) -> String {
        std::fs::read_to_string(self.stderr()).unwrap()
    }

    /// The next entry that has this value in HOMEWARD_LINE.
    fn entry(&self, line: &str) -> Fields {
        let mut buffer = vec![0; 1 << 18];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("{line} does not come: {error}; on stderr: {}", self.said_on_stderr());
            });
            let fields = fields(&buffer[..length]);
            if fields.get("HOMEWARD_LINE").is_some_and(|name| name == line) {
                return fields;
            }
        }
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `NAME=value`, or the name alone, the length in 8 octets, little endian, and the value; each ends in a newline.
fn fields(mut entry: &[u8]) -> Fields {
    let mut fields = Fields::new();
    while let Some(end) = entry.iter().position(|octet| *octet == b'\n') {
        let line = std::str::from_utf8(&entry[..end]).unwrap();
        entry = &entry[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let length = u64::from_le_bytes(entry[..8].try_into().unwrap()) as usize;
                let value = String::from_utf8(entry[8..8 + length].to_vec()).unwrap();
                assert_eq!(entry[8 + length], b'\n');
                entry = &entry[8 + length + 1..];
                (line, value)
            }
        };
        assert_eq!(fields.insert(name.to_owned(), value), None, "{name} comes twice");
    }
    assert!(entry.is_empty());
    fields
}

fn agent(format: &str) -> Agent {
    // Nobody listens there: the agent says so, and goes on.
    Agent::at("ldap://127.0.0.1:9").extra(format!("[log]\nformat = \"{format}\"\n"))
}

#[test]
fn a_line_reaches_the_journal_with_its_named_fields() {
    let (journal, agent) = (Journal::new(), agent("journald"));
    let _running = journal.run(&agent, |_| None);
    let entry = journal.entry("source.lost");
    assert!(entry["MESSAGE"].contains("ldap://127.0.0.1:9"), "{entry:?}");
    assert_eq!(entry["PRIORITY"], "4", "a warning, as syslog(3) counts");
    assert_eq!(entry["SYSLOG_IDENTIFIER"], "homeward");
    assert_eq!(entry["HOMEWARD_SOURCE_SERVER"], "ldap://127.0.0.1:9");
    assert!(entry["HOMEWARD_RETRY_IN_MS"].parse::<u64>().is_ok());
    assert_eq!(journal.said_on_stderr(), "", "said once, not twice");
}

#[test]
fn auto_is_the_journal_where_systemd_connected_stderr_to_it_and_text_elsewhere() {
    let name = |file: &File| {
        let file = file.metadata().unwrap();
        format!("{}:{}", file.dev(), file.ino())
    };
    let (journal, agent) = (Journal::new(), agent("auto"));
    let running = journal.run(&agent, |stderr| Some(name(stderr)));
    journal.entry("source.lost");
    assert_eq!(journal.said_on_stderr(), "");
    drop(running);

    // A shell in the unit sent stderr elsewhere; or there is no systemd.
    for stream in [Some("1:1".to_owned()), None] {
        let journal = Journal::new();
        let _running = journal.run(&agent, |_| stream.clone());
        let deadline = std::time::Instant::now() + WAIT_MAX;
        while !journal.said_on_stderr().contains("line=source.lost") {
            assert!(std::time::Instant::now() < deadline, "{}", journal.said_on_stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
        journal.socket.set_nonblocking(true).unwrap();
        assert!(journal.socket.recv(&mut [0; 16]).is_err(), "the journal hears nothing");
    }
}

#[test]
fn without_a_journal_its_format_falls_back_to_text() {
    let (journal, agent) = (Journal::new(), agent("journald"));
    std::fs::remove_file(Path::new(&journal.folder.path().join("journal/socket"))).unwrap();
    let _running = journal.run(&agent, |_| None);
    let deadline = std::time::Instant::now() + WAIT_MAX;
    while !journal.said_on_stderr().contains("line=source.lost") {
        assert!(std::time::Instant::now() < deadline, "{}", journal.said_on_stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
}

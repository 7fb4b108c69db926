//! The real `homeward` binary against a fixture: its configuration, its state directory, its log. Killed when dropped.

use homeward::model::{Standing, Status};
use homeward::store::{enablement, open};
use std::collections::BTreeMap;

use super::samba::{self, Samba};
use super::slapd::{AGENT_DN, AGENT_PASSWORD, SUFFIX, Slapd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Cargo names it to tests; the benchmark is an example and finds it beside itself.
fn program() -> PathBuf {
    match option_env!("CARGO_BIN_EXE_homeward") {
        Some(program) => program.into(),
        None => {
            let example = std::env::current_exe().expect("the system knows it");
            let program = example.ancestors().nth(2).expect("it lies in target/release/examples").join("homeward");
            assert!(program.is_file(), "{} is missing; make it: cargo build --release", program.display());
            program
        }
    }
}

/// Where the library is that gives a program another time.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|folder| folder.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|library| library.is_file());
    found.expect("libfaketime is missing; install it: apt-get install faketime")
}

/// Until something that must come has come: on a busy machine too.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Capacities of the homes im1, im2, … and everything else as TOML.
pub struct Agent {
    dir: tempfile::TempDir,
    url: String,
    mode: String,
    base: String,
    homes: Vec<u32>,
    /// DN and password.
    account: (String, String),
    /// Where the home server objects are; empty: there are none.
    servers: String,
    tls: String,
    directory: String,
    extra: String,
    state: Option<PathBuf>,
    clock: Option<PathBuf>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Agent {
    /// Enforce mode, three homes of 1000, SRV asked at a name server that does not exist unless `dns` names one.
    pub fn of(slapd: &Slapd) -> Agent {
        Agent::at(&slapd.url())
    }

    pub fn at(url: &str) -> Agent {
        let agent = Agent {
            dir: tempfile::tempdir().unwrap(),
            url: url.into(),
            mode: "enforce".into(),
            base: SUFFIX.into(),
            homes: vec![1000, 1000, 1000],
            account: (AGENT_DN.into(), AGENT_PASSWORD.into()),
            servers: String::new(),
            tls: String::new(),
            directory: String::new(),
            extra: String::new(),
            state: None,
            clock: None,
            environment: Vec::new(),
            child: None,
        };
        agent.write();
        agent
    }

    /// Over LDAPS, with the least rights, for the users below `base`; the homes are the servers of the fixture.
    pub fn of_samba(samba: &Samba, base: &str) -> Agent {
        let mut agent = Agent::at(&samba.ldaps_url()).base(base).account(samba::AGENT_DN, samba::AGENT_PASSWORD);
        agent.tls = format!("tls = {{ ca_file = \"{}\" }}\n", samba.ca_file().display());
        agent.servers = samba::SERVERS.into();
        agent.write();
        agent
    }

    /// PEM of the authorities to trust.
    pub fn authorities(mut self, file: &Path) -> Agent {
        self.tls = format!("tls = {{ ca_file = \"{}\" }}\n", file.display());
        self.write();
        self
    }

    /// More environment variables for the program.
    pub fn environment(mut self, variables: Vec<(String, String)>) -> Agent {
        self.environment = variables;
        self
    }

    /// Who binds.
    pub fn account(mut self, dn: &str, password: &str) -> Agent {
        self.account = (dn.into(), password.into());
        self.write();
        self
    }

    pub fn mode(mut self, mode: &str) -> Agent {
        self.mode = mode.into();
        self.write();
        self
    }

    /// Another place for the stores.
    pub fn stores_at(mut self, dir: &Path) -> Agent {
        self.state = Some(dir.to_owned());
        self.write();
        self
    }

    /// The agent's wall clock goes as far from the machine's as `set_clock` says, "+0" until then.
    pub fn own_clock(mut self) -> Agent {
        self.clock = Some(faketime());
        self.set_clock("+0");
        self
    }

    /// `-1d`, `+2h`, as libfaketime reads it.
    pub fn set_clock(&self, offset: &str) {
        std::fs::write(self.dir.path().join("clock"), offset).unwrap();
    }

    pub fn base(mut self, base: &str) -> Agent {
        self.base = base.into();
        self.write();
        self
    }

    pub fn homes(mut self, capacities: &[u32]) -> Agent {
        self.homes = capacities.to_vec();
        self.write();
        self
    }

    /// More lines of the section `[directory]`.
    pub fn directory(mut self, toml: &str) -> Agent {
        self.directory = toml.into();
        self.write();
        self
    }

    /// More TOML: whole sections, or `[[policy]]` tables.
    pub fn extra(mut self, toml: impl Into<String>) -> Agent {
        self.extra = toml.into();
        self.write();
        self
    }

    /// Rewrites the configuration while the agent runs; `reload` makes it count.
    pub fn set(&mut self, mode: &str, homes: &[u32], extra: &str) {
        self.mode = mode.into();
        self.homes = homes.to_vec();
        self.extra = extra.into();
        self.write();
    }

    fn write(&self) {
        let (bind_dn, password) = &self.account;
        std::fs::write(self.dir.path().join("password"), password).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.dir.path().join("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let homes: String = (1..)
            .zip(&self.homes)
            .map(|(n, capacity)| {
                let dn = match self.servers.as_str() {
                    "" => String::new(),
                    servers => format!("dn = \"CN=im{n},{servers}\"\n"),
                };
                format!("[[home]]\nid = \"im{n}\"\nhost = \"im{n}.example.com\"\ncapacity = {capacity}\n{dn}\n")
            })
            .collect();
        let im =
            if self.extra.contains("[im]") { "" } else { "[im]\ndomain = \"im.example.com\"\nmail_wait = \"0s\"\n" };
        let dns = if self.extra.contains("[dns]") { "" } else { "[dns]\nservers = [\"127.0.0.1:9\"]\n" };
        // Many agents run beside each other; who looks at the console says where.
        let console = if self.extra.contains("[console]") { "" } else { "\n[console]\nlisten = \"off\"\n" };
        let text = format!(
            "[agent]\nstate_dir = \"{}\"\nmode = \"{}\"\n\n[directory]\nurl = \"{}\"\nbase = \"{}\"\nbind_dn = \"{bind_dn}\"\n\
             bind_password_file = \"password\"\n{}{}\n\n{homes}{im}{dns}{console}{}",
            self.state_dir().display(),
            self.mode,
            self.url,
            self.base,
            self.tls,
            self.directory,
            self.extra
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("homeward.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| self.dir.path().join("state"))
    }

    /// What the agent has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// For a test that fails: users by status, and the last that was said beside the many enablements.
    pub fn state(&self) -> String {
        let counts = open::reader(open::Kind::Enablement, &self.state_dir())
            .and_then(|db| enablement::status_counts(&db))
            .map_or_else(|error| error.to_string(), |counts| format!("{counts:?}"));
        let log = self.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("line=user.enabled")).collect();
        format!("{counts}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// The program with this configuration, to be started by the caller.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--config").arg(self.config()).args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
        if let Some(library) = &self.clock {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.dir.path().join("clock"))
                .envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A verb of the command line, to its end.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A verb that must succeed; what it printed.
    pub fn say(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.code().is_some_and(|code| code == 0 || code == 3 || code == 4),
            "{arguments:?}: {out}{err}"
        );
        out.into_owned()
    }

    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = self.command(&["run"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    /// `run --once`: to a quiet state; the exit code.
    pub fn once(&self) -> i32 {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut child = self.command(&["run", "--once"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let deadline = Instant::now() + 2 * WAIT_MAX;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("run --once does not end: {}", self.state());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and how long it took to end.
    pub fn stop(&mut self) -> Duration {
        self.signal("-TERM");
        let asked = Instant::now();
        let mut child = self.child.take().unwrap();
        while child.try_wait().unwrap().is_none() {
            assert!(asked.elapsed() < Duration::from_secs(20), "it does not stop: {}", self.state());
            std::thread::sleep(Duration::from_millis(5));
        }
        asked.elapsed()
    }

    pub fn lose(&self, store: &str) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(self.state_dir().join(format!("{store}{suffix}")));
        }
    }

    /// Waits until `enough` says so, reading the store of outcomes.
    pub fn wait_for(&self, what: &str, mut enough: impl FnMut(&Agent) -> bool) {
        let deadline = Instant::now() + WAIT_MAX;
        while !enough(self) {
            assert!(Instant::now() < deadline, "{what} does not come: {}", self.state());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The worker's store, for reading.
    pub fn store(&self) -> rusqlite::Connection {
        open::reader(open::Kind::Enablement, &self.state_dir()).unwrap()
    }

    /// Everybody's standing, by login.
    pub fn standings(&self) -> BTreeMap<String, Standing> {
        let everybody = enablement::standings_after(&self.store(), 0, 1_000_000).unwrap();
        let login = |standing: &Standing| {
            let record = &standing.record;
            record.text("uid").or(record.text("samaccountname")).unwrap_or_default().to_owned()
        };
        everybody.into_iter().map(|(_, standing)| (login(&standing), standing)).collect()
    }

    /// Waits until this user has come so far; the store may not be there yet.
    pub fn waits(&self, login: &str, status: Status) {
        let is_so = |agent: &Agent| {
            let db = open::reader(open::Kind::Enablement, &agent.state_dir()).ok()?;
            let everybody = enablement::standings_after(&db, 0, 1_000_000).ok()?;
            let of = |standing: &Standing| standing.record.text("uid") == Some(login) && standing.status == status;
            Some(everybody.iter().any(|(_, standing)| of(standing)))
        };
        self.wait_for(&format!("{login}: {status}"), |agent| is_so(agent).unwrap_or(false));
    }

    pub fn standing(&self, login: &str) -> Standing {
        self.standings().remove(login).unwrap_or_else(|| panic!("{login} has no standing: {}", self.state()))
    }

    /// What was told of enablement so far: kind and login, in order.
    pub fn outcomes(&self) -> Vec<(String, String)> {
        let rows = enablement::outcomes_after(&self.store(), 0, 1_000_000).unwrap();
        let login = |data: &str| {
            let data: serde_json::Value = serde_json::from_str(data).unwrap();
            data["login"].as_str().unwrap_or_default().to_owned()
        };
        rows.into_iter().map(|row| (row.kind.clone(), login(&row.data))).collect()
    }

    /// Everything that the log of changes holds is decided and written.
    pub fn is_quiet(&self) -> bool {
        let Ok(feed) = homeward::feed::Feed::open(&self.state_dir()) else { return false };
        let Ok(db) = open::reader(open::Kind::Enablement, &self.state_dir()) else { return false };
        let left = "select (select count(*) from intent) + (select count(*) from recheck) + (select count(*) from wish)
                    + (select count(*) from held where tripped = 0) + (select count(*) from meta where name = 'adopted') - 1";
        let left: i64 = db.query_row(left, [], |row| row.get(0)).unwrap_or(1);
        left == 0 && feed.head().is_ok_and(|head| enablement::cursor(&db).is_ok_and(|cursor| cursor == head))
    }

    /// SIGHUP, and until the agent says what came of it.
    pub fn reload(&self) {
        let said = |agent: &Agent| agent.log().matches("agent.reload").count();
        let before = said(self);
        self.signal("-HUP");
        self.wait_for("the reload", |agent| said(agent) > before);
    }

    /// Users with this status, while the agent runs or not.
    pub fn count(&self, status: &str) -> u64 {
        if !Path::new(&self.state_dir().join("enablement.db")).exists() {
            return 0;
        }
        let Ok(db) = open::reader(open::Kind::Enablement, &self.state_dir()) else {
            return 0;
        };
        db.query_row("select count(*) from standing where status = ?1", [status], |row| row.get::<_, i64>(0))
            .map_or(0, |count| count as u64)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill9();
    }
}

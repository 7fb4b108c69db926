//! A throw-away OpenLDAP server: suffix `dc=example,dc=com`, our schema, syncprov, its own CA and certificate.
//!
//! It holds `ou=people`, `ou=groups`, `ou=services` and `ou=policies`. `cn=admin` is the rootdn; the agent's account may
//! write everything and has no limits unless [`Builder::size_limit`] says so.

use super::free_port;
use homeward::config::{Attributes, Bind, Directory, Tls};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub const SUFFIX: &str = "dc=example,dc=com";
pub const ADMIN_DN: &str = "cn=admin,dc=example,dc=com";
pub const ADMIN_PASSWORD: &str = "secret";
pub const AGENT_DN: &str = "cn=homeward,ou=services,dc=example,dc=com";
pub const AGENT_PASSWORD: &str = "homeward-secret";

const START_TIMEOUT: Duration = Duration::from_secs(30);
const MODULES: &str = "/usr/lib/ldap";
const SCHEMAS: &str = "/etc/ldap/schema";

/// The certificate that the server shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Certificate {
    /// For `localhost` and 127.0.0.1.
    #[default]
    Good,
    /// For `elsewhere.example.com`.
    OtherName,
    /// Good, once.
    Expired,
}

pub struct Builder {
    users: Option<String>,
    bulk: Option<String>,
    session_log: u32,
    reload_hint: bool,
    copy: Option<String>,
    server_id: u16,
    ppolicy: bool,
    memberof: bool,
    size_limit: Option<u32>,
    acl: String,
    certificate: Certificate,
    schema: bool,
    durable: bool,
    sync: bool,
}

impl Builder {
    /// LDIF added through `ldapadd` after the start: overlays see it (memberOf, pwdChangedTime).
    pub fn users(mut self, ldif: impl Into<Option<String>>) -> Self {
        self.users = ldif.into();
        self
    }

    /// LDIF loaded by `slapadd` before the start: fast, unseen by overlays. `ou=people` and the like are there already.
    pub fn slapadd(mut self, ldif: impl Into<String>) -> Self {
        self.bulk = Some(ldif.into());
        self
    }

    /// Operations kept in syncprov's session log; 0, the default, is none: a refresh has a present phase.
    pub fn session_log(mut self, operations: u32) -> Self {
        self.session_log = operations;
        self
    }

    /// syncprov answers e-syncRefreshRequired (RFC 4533 3.2) where it cannot go on from a cookie.
    pub fn reload_hint(mut self, on: bool) -> Self {
        self.reload_hint = on;
        self
    }

    /// Another server of the same directory: what `of` holds now, UUIDs and CSNs too, under another server id. Nothing is
    /// replicated afterwards. `of` is restarted: only then has it written its contextCSN down.
    pub fn copy(mut self, of: &Slapd) -> Self {
        of.stop();
        self.copy = Some(of.dump());
        of.restart();
        self.server_id = 2;
        self
    }

    /// Password policy overlay, with a default policy.
    pub fn ppolicy(mut self, on: bool) -> Self {
        self.ppolicy = on;
        self
    }

    pub fn memberof(mut self, on: bool) -> Self {
        self.memberof = on;
        self
    }

    /// At most so many entries a search, for the agent too.
    pub fn size_limit(mut self, entries: u32) -> Self {
        self.size_limit = Some(entries);
        self
    }

    /// slapd.conf lines (`access to … by …`) that come before the default access.
    pub fn acl(mut self, lines: impl Into<String>) -> Self {
        self.acl = lines.into();
        self
    }

    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = certificate;
        self
    }

    /// Without syncprov: a server that tells nobody of changes.
    pub fn without_sync(mut self) -> Self {
        self.sync = false;
        self
    }

    /// Leaves our schema out: a server on which nobody has prepared anything.
    pub fn without_schema(mut self) -> Self {
        self.schema = false;
        self
    }

    /// Writes that a power cut would lose, and many times as fast: for tests of many users, and of other things.
    pub fn fast(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Writes the configuration, loads the tree and starts the server. Panics, with what to do, where that fails.
    pub fn start(self) -> Slapd {
        let slapd = tool("slapd");
        let dir = tempfile::Builder::new().prefix("hw-slapd-").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("db")).expect("a directory for the database");
        write_certificates(dir.path(), self.certificate);
        let ppolicy = self.ppolicy;
        fs::write(dir.path().join("slapd.conf"), self.configuration(dir.path())).expect("writing slapd.conf");
        let server = Slapd { slapd, port: free_port(), tls_port: free_port(), child: Mutex::new(None), dir };
        match &self.copy {
            Some(copy) => server.load(copy),
            None => server.load(&base_tree(ppolicy)),
        }
        if let Some(bulk) = &self.bulk {
            server.load(bulk);
        }
        server.launch();
        if let Some(users) = &self.users {
            server.add(users);
        }
        server
    }

    fn configuration(&self, dir: &Path) -> String {
        let at = |name: &str| dir.join(name).display().to_string();
        let mut conf = String::new();
        for schema in ["core", "cosine", "nis", "inetorgperson"] {
            let _ = writeln!(conf, "include {SCHEMAS}/{schema}.schema");
        }
        if self.schema {
            let _ = writeln!(conf, "include {}/schemas/ldap/homeward.schema", env!("CARGO_MANIFEST_DIR"));
        }
        let _ = writeln!(conf, "modulepath {MODULES}");
        // Loaded alone, it already makes the server say that it has content synchronization.
        let sync = self.sync.then_some("syncprov");
        for module in ["back_mdb", "ppolicy", "memberof"].into_iter().chain(sync) {
            let _ = writeln!(conf, "moduleload {module}.la");
        }
        let limit = self.size_limit.map_or("unlimited".to_owned(), |entries| entries.to_string());
        let default_limit = self.size_limit.unwrap_or(500);
        // EXTERNAL: over ldapi the process that connects, over TLS the client certificate.
        let _ = write!(
            conf,
            "\
pidfile {pid}
serverID {server_id}
loglevel none
sizelimit {default_limit}
TLSCACertificateFile {ca}
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
TLSVerifyClient try
authz-regexp \"^gidnumber=[0-9]+[+]uidnumber=[0-9]+,cn=peercred,cn=external,cn=auth$\" \"{AGENT_DN}\"
authz-regexp \"^cn=homeward$\" \"{AGENT_DN}\"
database config
rootpw {ADMIN_PASSWORD}
database mdb
suffix \"{SUFFIX}\"
rootdn \"{ADMIN_DN}\"
rootpw {ADMIN_PASSWORD}
directory {db}
maxsize 1073741824
index objectClass,entryUUID,entryCSN,uid,mail,member,uniqueMember,memberOf eq
limits dn.exact=\"{AGENT_DN}\" size={limit} time=unlimited
",
            server_id = self.server_id,
            pid = at("slapd.pid"),
            ca = at("ca.pem"),
            certificate = at("server.pem"),
            key = at("server.key"),
            db = at("db"),
        );
        if !self.durable {
            conf.push_str("dbnosync\n");
        }
        conf.push_str(&self.acl);
        let _ = write!(
            conf,
            "
access to attrs=userPassword by dn.exact=\"{AGENT_DN}\" write by self write by anonymous auth by * none
access to * by dn.exact=\"{AGENT_DN}\" write by users read by * none
"
        );
        if self.sync {
            conf.push_str("overlay syncprov\nsyncprov-checkpoint 100 10\n");
        }
        if self.session_log > 0 {
            let _ = writeln!(conf, "syncprov-sessionlog {}", self.session_log);
        }
        if self.reload_hint {
            conf.push_str("syncprov-reloadhint TRUE\n");
        }
        if self.memberof {
            conf.push_str("overlay memberof\n");
        }
        if self.ppolicy {
            let _ = writeln!(
                conf,
                "overlay ppolicy\nppolicy_default \"cn=default,ou=policies,{SUFFIX}\"\nppolicy_use_lockout"
            );
        }
        conf
    }
}

/// A running (or stopped) server. Dropping it kills it and removes its directory.
pub struct Slapd {
    slapd: PathBuf,
    port: u16,
    tls_port: u16,
    child: Mutex<Option<Child>>,
    dir: tempfile::TempDir,
}

impl Slapd {
    pub fn builder() -> Builder {
        Builder {
            users: None,
            bulk: None,
            session_log: 0,
            reload_hint: false,
            copy: None,
            server_id: 1,
            ppolicy: false,
            memberof: false,
            size_limit: None,
            acl: String::new(),
            certificate: Certificate::Good,
            schema: true,
            durable: true,
            sync: true,
        }
    }

    pub fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    pub fn ldaps_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.tls_port)
    }

    pub fn ldapi_url(&self) -> String {
        let path = self.path("ldapi").display().to_string();
        format!("ldapi://{}", path.replace('%', "%25").replace('/', "%2F"))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// PEM of the CA that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// PEM of a CA that signed nothing here.
    pub fn other_ca_file(&self) -> PathBuf {
        self.path("other-ca.pem")
    }

    /// PEM of a client certificate that the server takes for the agent, and its key.
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        (self.path("client.pem"), self.path("client.key"))
    }

    /// A file of the server's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How the agent is configured for this server: plain LDAP, simple bind, everything else by default.
    pub fn directory(&self) -> Directory {
        Directory {
            urls: vec![self.url()],
            base: SUFFIX.into(),
            flavour: None,
            source: None,
            filter: None,
            bind: Bind::Simple { dn: AGENT_DN.into(), password: AGENT_PASSWORD.to_owned().into() },
            tls: Tls { mode: None, ca_file: Some(self.ca_file()), certificate_file: None, key_file: None },
            allow_plaintext: false,
            poll_interval: Duration::from_secs(1),
            sweep_interval: Duration::from_secs(86_400),
            attributes: Attributes::default(),
        }
    }

    /// Takes every right below a DN from everybody but the rootdn, at once and without a restart.
    pub fn deny(&self, dn: &str) {
        self.configure(&format!("add: olcAccess\nolcAccess: {{0}}to dn.subtree=\"{dn}\" by * none\n"));
    }

    /// Takes back the last [`Slapd::deny`].
    pub fn allow(&self) {
        self.configure("delete: olcAccess\nolcAccess: {0}\n");
    }

    /// Changes the running database's configuration; a restart forgets it.
    pub fn configure(&self, lines: &str) {
        let ldif = format!("dn: olcDatabase={{1}}mdb,cn=config\nchangetype: modify\n{lines}");
        let output = self.run_as("cn=config", ADMIN_PASSWORD, "ldapmodify", &[], &ldif);
        assert!(output.status.success(), "{}\n{ldif}", String::from_utf8_lossy(&output.stderr));
    }

    /// Adds entries as the rootdn.
    pub fn add(&self, ldif: &str) {
        self.as_admin("ldapadd", &[], ldif);
    }

    /// LDIF change records (`changetype: …`; without one: modify), as the rootdn.
    pub fn modify(&self, ldif: &str) {
        self.as_admin("ldapmodify", &[], ldif);
    }

    pub fn delete(&self, dn: &str) {
        self.as_admin("ldapdelete", &[dn], "");
    }

    /// LDIF of what matches below the suffix, as the rootdn sees it, one line a value.
    pub fn search(&self, filter: &str, attributes: &[&str]) -> String {
        let mut args = vec!["-LLL", "-o", "ldif-wrap=no", "-b", SUFFIX, "-E", "pr=500/noprompt", filter];
        args.extend(attributes);
        self.as_admin("ldapsearch", &args, "")
    }

    /// The first value of an attribute of the first entry that matches.
    pub fn value(&self, filter: &str, attribute: &str) -> Option<String> {
        let prefix = format!("{attribute}: ");
        self.search(filter, &[attribute]).lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }

    /// Who matches, by DN: the values of each attribute asked for. What is not ASCII stays in base64.
    pub fn entries(&self, filter: &str, attributes: &[&str]) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
        let mut entries: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        let mut dn = String::new();
        for line in self.search(filter, attributes).lines() {
            match line.split_once(": ") {
                Some(("dn", name)) => {
                    dn = name.to_owned();
                    entries.entry(dn.clone()).or_default();
                }
                Some((name, value)) if !line.starts_with('#') => {
                    let entry = entries.entry(dn.clone()).or_default();
                    entry.entry(name.trim_end_matches(':').to_owned()).or_default().push(value.to_owned());
                }
                _ => {}
            }
        }
        entries
    }

    /// Runs one of the ldap-utils as somebody; the caller looks at the outcome.
    pub fn run_as(&self, dn: &str, password: &str, program: &str, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(tool(program));
        command.args(["-x", "-H", &self.url(), "-D", dn, "-w", password]).args(args);
        run(command, input)
    }

    fn as_admin(&self, program: &str, args: &[&str], input: &str) -> String {
        let output = self.run_as(ADMIN_DN, ADMIN_PASSWORD, program, args, input);
        assert!(output.status.success(), "{program} {args:?}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asks the server to end, and waits for that.
    pub fn stop(&self) {
        let mut child = self.child.lock().expect("no test panics while holding it");
        if let Some(mut child) = child.take() {
            let _ = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status();
            let _ = child.wait();
        }
    }

    /// Ends the server as a power cut would.
    pub fn kill9(&self) {
        let mut child = self.child.lock().expect("no test panics while holding it");
        if let Some(mut child) = child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, on the same ports and database; stops it first where it runs.
    pub fn restart(&self) {
        self.stop();
        self.launch();
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().expect("no test panics while holding it").as_ref().map(Child::id)
    }

    /// Everything it holds, with operational attributes.
    fn dump(&self) -> String {
        let mut command = Command::new(tool("slapcat"));
        command.arg("-f").arg(self.path("slapd.conf")).args(["-b", SUFFIX]);
        let output = run(command, "");
        assert!(output.status.success(), "slapcat: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Loads LDIF into the database of a server that does not run.
    pub fn load(&self, ldif: &str) {
        assert!(self.pid().is_none(), "slapadd needs a stopped server");
        let mut command = Command::new(tool("slapadd"));
        command.arg("-q").arg("-f").arg(self.path("slapd.conf")).args(["-b", SUFFIX]);
        let output = run(command, ldif);
        assert!(output.status.success(), "slapadd: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn launch(&self) {
        let said = fs::File::create(self.path("slapd.err")).expect("a file for what slapd says");
        // -d 0 keeps it in the foreground: without, it forks and the process we know is not the server.
        let child = Command::new(&self.slapd)
            .args(["-d", "0", "-f"])
            .arg(self.path("slapd.conf"))
            .arg("-h")
            .arg(format!("{} {} {}", self.url(), self.ldaps_url(), self.ldapi_url()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("starting slapd");
        *self.child.lock().expect("no test panics while holding it") = Some(child);
        let started = Instant::now();
        while !self.answers() {
            let ended = self
                .child
                .lock()
                .expect("no test panics while holding it")
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            assert!(
                !ended && started.elapsed() < START_TIMEOUT,
                "slapd does not answer: {}",
                fs::read_to_string(self.path("slapd.err")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        let mut command = Command::new(tool("ldapsearch"));
        command.args(["-x", "-LLL", "-H", &self.url(), "-s", "base", "-b", "", "1.1"]);
        run(command, "").status.success()
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// One `inetOrgPerson` below `ou=people`: `uid`, `cn`, `sn`, `mail`, and the lines given.
pub fn person(uid: &str, lines: &str) -> String {
    let mut ldif = format!(
        "dn: uid={uid},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid}\nsn: {uid}\nmail: {uid}@example.com\n"
    );
    ldif.push_str(lines);
    if !ldif.ends_with('\n') {
        ldif.push('\n');
    }
    ldif.push('\n');
    ldif
}

fn base_tree(ppolicy: bool) -> String {
    let mut ldif =
        format!("dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n");
    for unit in ["people", "groups", "services", "policies"] {
        let _ = write!(ldif, "dn: ou={unit},{SUFFIX}\nobjectClass: organizationalUnit\nou: {unit}\n\n");
    }
    let _ = write!(
        ldif,
        "dn: {AGENT_DN}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: homeward\n\
         userPassword: {AGENT_PASSWORD}\n\n"
    );
    if ppolicy {
        let _ = write!(
            ldif,
            "dn: cn=default,ou=policies,{SUFFIX}\nobjectClass: device\nobjectClass: pwdPolicy\ncn: default\n\
             pwdAttribute: userPassword\npwdMustChange: TRUE\npwdAllowUserChange: TRUE\npwdLockout: TRUE\n\
             pwdMaxFailure: 5\npwdLockoutDuration: 0\n\n"
        );
    }
    ldif
}

/// A CA, a server certificate and a client certificate, and a CA that has nothing to do with them.
fn write_certificates(dir: &Path, certificate: Certificate) {
    let (names, days) = match certificate {
        Certificate::Good => ("DNS:localhost,IP:127.0.0.1", "30"),
        Certificate::OtherName => ("DNS:elsewhere.example.com", "30"),
        Certificate::Expired => ("DNS:localhost,IP:127.0.0.1", "-1"),
    };
    let server = format!("subjectAltName={names}\nextendedKeyUsage=serverAuth\n");
    fs::write(dir.join("server.ext"), server).expect("writing server.ext");
    fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth\n").expect("writing client.ext");
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for ca in ["ca", "other-ca"] {
        openssl(
            dir,
            &format!(
                "req -x509 {new_key} -days 30 -subj /CN=test-{ca} -keyout {ca}.key -out {ca}.pem \
                 -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign,cRLSign"
            ),
        );
    }
    for (name, subject, days) in [("server", "localhost", days), ("client", "homeward", "30")] {
        openssl(dir, &format!("req {new_key} -subj /CN={subject} -keyout {name}.key -out {name}.csr"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {name}.ext \
                 -out {name}.pem"
            ),
        );
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(arguments.split_whitespace());
    let output = run(command, "");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program that the test needs, to its end.
pub fn run(mut command: Command, input: &str) -> Output {
    use std::io::Write as _;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("{:?}: {error}; install it: apt-get install slapd ldap-utils openssl", command.get_program())
        });
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    // Written by a thread of its own: a tool that answers while it reads would fill the pipe and wait for us.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("the tool was started by us");
    let _ = writer.join();
    output
}

/// A program of the slapd or ldap-utils packages; `sbin` is not in everybody's path.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing; install it: apt-get install slapd ldap-utils"))
}

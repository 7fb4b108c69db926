//! A throw-away Active Directory domain controller: Samba, domain `example.com`, with the instant-messaging schema of
//! `schemas/ldap/active-directory/`, three home servers and a router in the configuration partition, its own CA, and an
//! account for the agent with the rights of `grant.py` there and no others.
//!
//! Needs root: the LDAP ports of a domain controller cannot be chosen, so each one takes an address of 127.0.0.0/24 for
//! itself. The first start on a machine provisions (10 s) and keeps a template beside the build; later ones take a
//! second. The server ends when its standard input closes: also when this process is killed.

use homeward::config::{Attributes, Bind, Directory, Tls};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

pub const SUFFIX: &str = "DC=example,DC=com";
pub const CONFIGURATION: &str = "CN=Configuration,DC=example,DC=com";
pub const SERVERS: &str = "CN=Instant Messaging,CN=Homeward,CN=Services,CN=Configuration,DC=example,DC=com";
pub const ADMIN: &str = "Administrator@example.com";
pub const ADMIN_PASSWORD: &str = "Adm1n-Pass!";
pub const AGENT_DN: &str = "CN=homeward-agent,CN=Users,DC=example,DC=com";
pub const AGENT_PASSWORD: &str = "Agent-Pass1!";
/// Has a home in nothing: reads what everybody may.
pub const PLAIN_DN: &str = "CN=plain,CN=Users,DC=example,DC=com";
pub const PLAIN_PASSWORD: &str = "Plain-Pass1!";

const START_TIMEOUT: Duration = Duration::from_secs(120);
const INSTALL: &str = "apt-get install --no-install-recommends samba samba-ad-dc samba-dsdb-modules \
                       samba-ad-provision python3-samba ldb-tools lmdb-utils ldap-utils openssl";
/// In the order in which they are loaded.
const SCHEMA: [&str; 3] = ["10-im-attributes.ldif", "20-im-classes.ldif", "30-im-on-users.ldif"];
/// Grows with what the fixture puts into the template, so that an older one is not used.
const TEMPLATE_VERSION: u32 = 1;

/// How the server is made of processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Model {
    /// One process: quick to start, and notifications come at once.
    #[default]
    Single,
    /// What runs in production: notifications come after seconds.
    Prefork,
}

#[derive(Default)]
pub struct Builder {
    model: Model,
    kdc: bool,
}

impl Builder {
    pub fn model(mut self, model: Model) -> Self {
        self.model = model;
        self
    }

    /// Gives out Kerberos tickets too.
    pub fn kdc(mut self) -> Self {
        self.kdc = true;
        self
    }

    /// Panics, with what to do, where the server cannot be started.
    pub fn start(self) -> Samba {
        needs();
        let template = template();
        let samba = Samba::on_a_free_address(self.model, self.kdc);
        untar(&template, samba.dir.path());
        samba.configure();
        samba.launch();
        samba
    }
}

/// A running (or stopped) domain controller. Dropping it kills it and removes its directory.
pub struct Samba {
    address: Address,
    model: Model,
    kdc: bool,
    child: Mutex<Option<Child>>,
    dir: tempfile::TempDir,
}

/// The one that the tests of a program share; each works below an OU of its own. It ends with the program.
pub fn shared() -> &'static Samba {
    static SHARED: OnceLock<Samba> = OnceLock::new();
    SHARED.get_or_init(|| Samba::builder().start())
}

impl Samba {
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn on_a_free_address(model: Model, kdc: bool) -> Samba {
        remove_leftovers();
        // A path of at most 75 characters: unix sockets lie below.
        let prefix = format!("hw-samba-{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in("/tmp").expect("a temporary directory");
        Samba { address: Address::free(), model, kdc, child: Mutex::new(None), dir }
    }

    pub fn ip(&self) -> &str {
        &self.address.ip
    }

    pub fn url(&self) -> String {
        format!("ldap://{}", self.address.ip)
    }

    pub fn ldaps_url(&self) -> String {
        format!("ldaps://{}", self.address.ip)
    }

    /// PEM of the CA that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.path("tls/ca.pem")
    }

    /// A file of the server's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How the agent is configured for this server: LDAPS, its own account, everything else by default.
    pub fn directory(&self) -> Directory {
        Directory {
            urls: vec![self.ldaps_url()],
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

    /// Makes an OU below the domain, for one test. Its DN.
    pub fn ou(&self, name: &str) -> String {
        let dn = format!("OU={name},{SUFFIX}");
        self.modify(&format!("dn: {dn}\nchangetype: add\nobjectClass: organizationalUnit\n"));
        dn
    }

    /// Makes an enabled user without a password: `sAMAccountName`, `mail`, and the lines given. Its DN.
    pub fn user(&self, name: &str, parent: &str, lines: &str) -> String {
        let dn = format!("CN={name},{parent}");
        self.modify(&user(name, parent, lines));
        dn
    }

    /// LDIF change records, as the administrator.
    pub fn modify(&self, ldif: &str) {
        self.as_admin("ldapmodify", &[], ldif);
    }

    pub fn replace(&self, dn: &str, attribute: &str, value: &str) {
        self.modify(&format!("dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n"));
    }

    pub fn delete(&self, dn: &str) {
        self.as_admin("ldapdelete", &[dn], "");
    }

    /// Gives an entry a new name, or a new place, or both.
    pub fn rename(&self, dn: &str, new_rdn: &str, new_parent: Option<&str>) {
        let place = new_parent.map(|parent| format!("newsuperior: {parent}\n")).unwrap_or_default();
        self.modify(&format!("dn: {dn}\nchangetype: modrdn\nnewrdn: {new_rdn}\ndeleteoldrdn: 1\n{place}"));
    }

    /// LDIF of what matches below `base`, as the administrator sees it, one line a value.
    pub fn search(&self, base: &str, filter: &str, attributes: &[&str]) -> String {
        let mut args = vec!["-LLL", "-o", "ldif-wrap=no", "-b", base, filter];
        args.extend(attributes);
        self.as_admin("ldapsearch", &args, "")
    }

    /// The first value of an attribute of an entry, as LDIF writes it.
    pub fn value(&self, dn: &str, attribute: &str) -> Option<String> {
        let args = ["-LLL", "-o", "ldif-wrap=no", "-s", "base", "-b", dn, "(objectClass=*)", attribute];
        let text = self.as_admin("ldapsearch", &args, "");
        let value = |line: &str| {
            let (name, value) = line.split_once(':')?;
            let value = value.trim_start_matches(':').trim_start_matches(' ');
            name.eq_ignore_ascii_case(attribute).then(|| value.to_owned())
        };
        text.lines().find_map(value)
    }

    /// Who matches below `base`, by DN: the values of each attribute asked for. What is not ASCII stays in base64.
    pub fn entries(
        &self,
        base: &str,
        filter: &str,
        attributes: &[&str],
    ) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
        let mut entries: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        let mut dn = String::new();
        for line in self.search(base, filter, attributes).lines() {
            match line.split_once(": ") {
                Some(("dn", name)) => {
                    dn = name.to_owned();
                    entries.entry(dn.clone()).or_default();
                }
                Some((name, value)) if !line.starts_with('#') && !dn.is_empty() => {
                    let entry = entries.entry(dn.clone()).or_default();
                    entry.entry(name.trim_end_matches(':').to_owned()).or_default().push(value.to_owned());
                }
                _ => {}
            }
        }
        entries
    }

    /// `highestCommittedUSN` of the root DSE.
    pub fn usn(&self) -> u64 {
        self.value("", "highestCommittedUSN").and_then(|usn| usn.parse().ok()).expect("every DC has one")
    }

    /// Runs one of the ldap-utils as somebody; the caller looks at the outcome.
    pub fn run_as(&self, who: &str, password: &str, program: &str, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(program);
        command.env("LDAPTLS_CACERT", self.ca_file()).env("LDAPRC", "/dev/null");
        command.args(["-x", "-H", &self.url(), "-D", who, "-w", password]).args(args);
        run(command, input)
    }

    /// LDIF change records as the administrator, and the result code: 0 where they were taken.
    pub fn attempt(&self, ldif: &str) -> i32 {
        self.attempt_as(ADMIN, ADMIN_PASSWORD, ldif)
    }

    pub fn attempt_as(&self, who: &str, password: &str, ldif: &str) -> i32 {
        self.run_as(who, password, "ldapmodify", &[], ldif).status.code().unwrap_or(-1)
    }

    fn as_admin(&self, program: &str, args: &[&str], input: &str) -> String {
        let output = self.run_as(ADMIN, ADMIN_PASSWORD, program, args, input);
        assert!(output.status.success(), "{program} {args:?}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// samba-tool on the database files, beside the running server.
    pub fn samba_tool(&self, args: &[&str]) -> String {
        let mut command = Command::new("samba-tool");
        let (conf, sam) = (self.path("etc/smb.conf"), self.path("private/sam.ldb"));
        command.args(args).arg("-s").arg(conf).arg("-H").arg(sam);
        let output = run(command, "");
        assert!(output.status.success(), "samba-tool {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A keytab of an account, and a `krb5.conf` that finds this KDC; the DC takes tickets for its address. The two as
    /// environment variables of the Kerberos library.
    pub fn kerberos(&self, account: &str) -> Vec<(String, String)> {
        self.modify(&format!(
            "dn: CN=DC1,OU=Domain Controllers,{SUFFIX}\nchangetype: modify\nadd: servicePrincipalName\n\
             servicePrincipalName: ldap/{}\n",
            self.ip()
        ));
        let keytab = self.path("agent.keytab");
        let mut export = Command::new("samba-tool");
        export.args(["domain", "exportkeytab"]).arg(&keytab).arg(format!("--principal={account}"));
        let output = run_in(export.arg("-s").arg(self.path("etc/smb.conf")), "");
        assert!(output.status.success(), "exportkeytab: {}", String::from_utf8_lossy(&output.stderr));
        let conf = self.path("krb5.conf");
        let text = format!(
            "[libdefaults]\ndefault_realm = EXAMPLE.COM\ndns_lookup_realm = false\ndns_lookup_kdc = false\n\
             dns_canonicalize_hostname = false\nrdns = false\n[realms]\nEXAMPLE.COM = {{\n  kdc = {}\n}}\n",
            self.ip()
        );
        fs::write(&conf, text).expect("writing krb5.conf");
        let variable = |name: &str, value: String| (name.to_owned(), value);
        vec![
            variable("KRB5_CONFIG", conf.display().to_string()),
            variable("KRB5_CLIENT_KTNAME", format!("FILE:{}", keytab.display())),
            variable("KRB5CCNAME", "MEMORY:homeward".into()),
        ]
    }

    /// Gives an account the rights of `grant.py` on these containers.
    pub fn grant(&self, account: &str, containers: &[&str]) {
        self.grant_with(&[], account, containers);
    }

    /// The same with options of that script: `--digest`, `--expire`.
    pub fn grant_with(&self, options: &[&str], account: &str, containers: &[&str]) {
        let mut command = Command::new("/usr/bin/python3");
        command
            .arg(schema_file("grant.py"))
            .args(options)
            .arg(self.path("etc/smb.conf"))
            .arg(self.path("private/sam.ldb"));
        let output = run_in(command.arg(account).args(containers), "");
        assert!(output.status.success(), "grant.py: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Asks the server to end, and waits for that.
    pub fn stop(&self) {
        let mut child = self.child.lock().expect("no test panics while holding it");
        if let Some(mut child) = child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    /// Ends the server, with all its processes, as a power cut would.
    pub fn kill9(&self) {
        let mut child = self.child.lock().expect("no test panics while holding it");
        if let Some(mut child) = child.take() {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
            let _ = child.wait();
        }
    }

    /// Starts it again, at the same address, on the same databases; stops it first where it runs.
    pub fn restart(&self) {
        self.stop();
        self.launch();
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().expect("no test panics while holding it").as_ref().map(Child::id)
    }

    /// Keeps the databases of a server that does not run, to be put back later.
    pub fn save(&self, name: &str) {
        assert!(self.pid().is_none(), "saving needs a stopped server");
        tar_up(self.dir.path(), &self.path(name));
    }

    /// Puts back what `save` kept: a server restored from an image, as nobody should do it.
    pub fn put_back(&self, name: &str) {
        assert!(self.pid().is_none(), "putting back needs a stopped server");
        fs::remove_dir_all(self.path("private")).expect("the databases are there");
        untar(&self.path(name), self.dir.path());
    }

    /// Another domain controller of the same domain, as it is restored from a backup of this one: the same users by the same
    /// GUIDs, numbers and an invocationId of its own. It stands on its own: nothing is replicated.
    pub fn twin(&self) -> Samba {
        let twin = Samba::on_a_free_address(self.model, self.kdc);
        let target = |folder: &Path| format!("--targetdir={}", folder.display());
        let backup = twin.path("backup");
        fs::create_dir_all(&backup).expect("a folder for the backup");
        let mut command = Command::new("samba-tool");
        command.args(["domain", "backup", "offline", &target(&backup), "-s"]).arg(self.path("etc/smb.conf"));
        let output = run(command, "");
        assert!(output.status.success(), "backup: {}", String::from_utf8_lossy(&output.stderr));
        let file = fs::read_dir(&backup).expect("the backup").flatten().next().expect("one file").path();
        let restored = twin.path("restored");
        let mut command = Command::new("samba-tool");
        command.args(["domain", "backup", "restore", "--newservername=DC2", &target(&restored)]);
        command.arg(format!("--backup-file={}", file.display())).arg(format!("--host-ip={}", twin.ip()));
        let output = run(command, "");
        assert!(output.status.success(), "restore: {}", String::from_utf8_lossy(&output.stderr));
        for folder in ["private", "state"] {
            fs::rename(restored.join(folder), twin.path(folder)).expect("the restored databases");
        }
        twin.configure();
        let conf = fs::read_to_string(twin.path("etc/smb.conf")).expect("it was just written");
        fs::write(twin.path("etc/smb.conf"), conf.replace("netbios name = DC1", "netbios name = DC2"))
            .expect("our file");
        twin.launch();
        twin
    }

    /// Configuration, certificate and folders for this address.
    fn configure(&self) {
        let at = |name: &str| self.path(name).display().to_string();
        for folder in ["etc", "cache", "run", "tls", "state/sysvol/example.com/scripts"] {
            fs::create_dir_all(self.path(folder)).expect("a folder for the server");
        }
        write_certificate(&self.path("tls"), &self.address.ip);
        let mut conf = String::from(
            "[global]\nworkgroup = EXAMPLE\nrealm = EXAMPLE.COM\nnetbios name = DC1\n\
             server role = active directory domain controller\ndisable netbios = yes\n",
        );
        let _ = writeln!(conf, "server services = ldap{}", if self.kdc { ", kdc" } else { "" });
        // With a mask of /32 Samba takes the address for a network, and binds nothing.
        let _ = write!(conf, "interfaces = {}/8\nbind interfaces only = yes\n", self.address.ip);
        for (setting, place) in [
            ("private dir", "private"),
            ("state directory", "state"),
            ("cache directory", "cache"),
            ("lock directory", "run"),
            ("pid directory", "run"),
            ("ncalrpc dir", "run/ncalrpc"),
            ("winbindd socket directory", "run/winbindd"),
            ("ntp signd socket directory", "run/ntp_signd"),
            ("binddns dir", "bind-dns"),
            ("log file", "log.samba"),
            ("tls certfile", "tls/server.pem"),
            ("tls keyfile", "tls/server.key"),
            ("tls cafile", "tls/ca.pem"),
        ] {
            let _ = writeln!(conf, "{setting} = {}", at(place));
        }
        // No fsync: the data is thrown away. Simple binds without TLS, for the tools of the tests.
        conf.push_str(
            "logging = file\nlog level = 1\nmax log size = 0\npanic action = /bin/true\ntls enabled = yes\n\
             ldap server require strong auth = no\ndsdb:schema update allowed = true\nldb:nosync = true\n",
        );
        let _ = write!(conf, "[sysvol]\npath = {}\nread only = no\n", at("state/sysvol"));
        fs::write(self.path("etc/smb.conf"), conf).expect("writing smb.conf");
    }

    /// Starts a server that was stopped.
    pub fn launch(&self) {
        let said = fs::File::create(self.path("samba.out")).expect("a file for what Samba says");
        let model = match self.model {
            Model::Single => "single",
            Model::Prefork => "prefork",
        };
        let child = Command::new(tool("samba"))
            .args(["--interactive", "--debug-stdout", &format!("--model={model}")])
            .arg(format!("--configfile={}", self.path("etc/smb.conf").display()))
            // Samba ends when this pipe does.
            .stdin(Stdio::piped())
            .stdout(said.try_clone().expect("the file is open"))
            .stderr(said)
            // A group of its own, so that all of it can be killed at once.
            .process_group(0)
            .spawn()
            .expect("starting samba");
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
                "samba does not answer on {}: {}",
                self.address.ip,
                fs::read_to_string(self.path("samba.out")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        let mut command = Command::new("ldapsearch");
        command.env("LDAPRC", "/dev/null");
        command.args(["-x", "-LLL", "-o", "nettimeout=2", "-H", &self.url(), "-s", "base", "-b", "", "isSynchronized"]);
        let output = run(command, "");
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("TRUE")
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// LDIF that adds an enabled user without a password.
pub fn user(name: &str, parent: &str, lines: &str) -> String {
    format!(
        "dn: CN={name},{parent}\nchangetype: add\nobjectClass: user\nsAMAccountName: {name}\n\
         userPrincipalName: {name}@example.com\nmail: {name}@example.com\nuserAccountControl: 544\n{lines}\n"
    )
}

/// An address of 127.0.0.0/24 that no other test uses; given free with the process or the value.
struct Address {
    ip: String,
    _lock: fs::File,
}

impl Address {
    fn free() -> Address {
        for last in 101..=250 {
            let path = std::env::temp_dir().join(format!("hw-samba-127.0.0.{last}.lock"));
            let ip = format!("127.0.0.{last}");
            let Ok(lock) = fs::File::options().create(true).append(true).open(path) else { continue };
            let in_use =
                || [389, 636, 3268, 3269].iter().any(|port| std::net::TcpListener::bind((ip.as_str(), *port)).is_err());
            if lock.try_lock().is_ok() && !in_use() {
                return Address { ip, _lock: lock };
            }
        }
        panic!("no free address from 127.0.0.101 to 127.0.0.250 for a domain controller; is this root?")
    }
}

/// Folders of processes that were killed before they could remove them.
fn remove_leftovers() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("hw-samba-")?.split_once('-'));
        if let Some((pid, _)) = owner
            && pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn needs() {
    for program in ["samba", "samba-tool", "ldapmodify", "openssl", "tar"] {
        tool(program);
    }
    assert!(
        Path::new("/usr/share/samba/setup/ad-schema").exists(),
        "samba-ad-provision is missing; install it: {INSTALL}"
    );
}

/// The databases of a domain as every test finds it: made once for each version of Samba and of what is loaded.
fn template() -> PathBuf {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE
        .get_or_init(|| {
            let mut hash = Sha256::new();
            let mut version = Command::new(tool("samba"));
            hash.update(run_in(version.arg("--version"), "").stdout);
            hash.update(TEMPLATE_VERSION.to_be_bytes());
            for file in SCHEMA.iter().chain(&["grant.py"]) {
                hash.update(fs::read(schema_file(file)).expect("the schema is part of the source"));
            }
            let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            // Cargo names it to tests; the benchmark is an example.
            let folder =
                option_env!("CARGO_TARGET_TMPDIR").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tmp"));
            let folder = PathBuf::from(folder);
            fs::create_dir_all(&folder).expect("a folder beside the build");
            let path = folder.join(format!("samba-{name}.tar"));
            // Test programs that start at the same time: one makes it, the others wait.
            let lock = fs::File::create(folder.join("samba.lock")).expect("target/tmp can be written");
            lock.lock().expect("a lock in target/tmp");
            if !path.exists() {
                make_template(&path);
            }
            path
        })
        .clone()
}

fn make_template(path: &Path) {
    let samba = Samba::on_a_free_address(Model::Single, false);
    let dir = samba.dir.path();
    fs::create_dir_all(dir.join("etc")).expect("a folder for the configuration");
    // Without a configuration of its own, provisioning reads the machine's, and puts its real addresses into the domain.
    let conf = format!("[global]\ninterfaces = {}/8\nbind interfaces only = yes\n", samba.ip());
    fs::write(dir.join("etc/provision.conf"), conf).expect("writing provision.conf");
    let mut provision = Command::new("samba-tool");
    provision.args(["domain", "provision", "--realm=EXAMPLE.COM", "--domain=EXAMPLE", "--host-name=dc1"]);
    // mdb answers `uSNChanged>=` from an index, tdb by reading everything.
    provision.args(["--server-role=dc", "--dns-backend=SAMBA_INTERNAL", "--backend-store=mdb"]);
    provision.arg("--backend-store-size=4Gb").arg(format!("--host-ip={}", samba.ip()));
    provision.arg(format!("--adminpass={ADMIN_PASSWORD}")).arg(format!("--targetdir={}", dir.display()));
    let output = run_in(provision.arg(format!("--configfile={}", dir.join("etc/provision.conf").display())), "");
    assert!(output.status.success(), "samba-tool domain provision: {}", String::from_utf8_lossy(&output.stderr));
    samba.configure();
    samba.launch();
    for file in SCHEMA {
        let ldif = fs::read_to_string(schema_file(file)).expect("the schema is part of the source");
        samba.modify(&ldif.replace("DC=X\n", &format!("{SUFFIX}\n")));
    }
    samba.modify(&servers());
    samba.modify(&account("homeward-agent", AGENT_PASSWORD));
    samba.modify(&account("plain", PLAIN_PASSWORD));
    // Tests change passwords as they like.
    samba.samba_tool(&["domain", "passwordsettings", "set", "--min-pwd-age=0", "--max-pwd-age=0"]);
    samba.grant("homeward-agent", &[SUFFIX]);
    samba.stop();
    let unfinished = path.with_extension("new");
    tar_up(dir, &unfinished);
    fs::rename(unfinished, path).expect("the template is whole");
}

/// A router and three home servers: im1 to im3, as the homes of the tests are called.
fn servers() -> String {
    let mut ldif = format!(
        "dn: CN=Homeward,CN=Services,{CONFIGURATION}\nchangetype: add\nobjectClass: container\n\n\
         dn: {SERVERS}\nchangetype: add\nobjectClass: msExchProtocolCfgIMContainer\n\n"
    );
    for (name, hosts_users) in [("im", "FALSE"), ("im1", "TRUE"), ("im2", "TRUE"), ("im3", "TRUE")] {
        let _ = write!(
            ldif,
            "dn: CN={name},{SERVERS}\nchangetype: add\nobjectClass: msExchProtocolCfgIMVirtualServer\n\
             msExchIMServerIISId: 1\nmsExchIMServerName: {name}.example.com\nmsExchIMHostName: {name}.example.com\n\
             msExchIMServerHostsUsers: {hosts_users}\n\n"
        );
    }
    ldif
}

/// LDIF that adds an account that can bind.
fn account(name: &str, password: &str) -> String {
    format!(
        "dn: CN={name},CN=Users,{SUFFIX}\nchangetype: add\nobjectClass: user\nsAMAccountName: {name}\n\
         userPrincipalName: {name}@example.com\nuserAccountControl: 66048\nunicodePwd:: {}\n",
        unicode_pwd(password)
    )
}

/// A password as `unicodePwd` takes it (MS-ADTS 3.1.1.3.1.5), in base64 for LDIF.
pub fn unicode_pwd(password: &str) -> String {
    use base64::Engine as _;
    let octets: Vec<u8> = format!("\"{password}\"").encode_utf16().flat_map(u16::to_le_bytes).collect();
    base64::engine::general_purpose::STANDARD.encode(octets)
}

/// A CA, once, and a certificate for the names and the address. Samba's own has no subjectAltName, which rustls refuses.
fn write_certificate(dir: &Path, ip: &str) {
    let extensions = format!("subjectAltName=DNS:dc1.example.com,DNS:localhost,IP:{ip}\nextendedKeyUsage=serverAuth\n");
    fs::write(dir.join("server.ext"), extensions).expect("writing server.ext");
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    if !dir.join("ca.pem").exists() {
        openssl(
            dir,
            &format!(
                "req -x509 {new_key} -days 30 -subj /CN=test-ca -keyout ca.key -out ca.pem \
                 -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign,cRLSign"
            ),
        );
    }
    openssl(dir, &format!("req {new_key} -subj /CN=dc1.example.com -keyout server.key -out server.csr"));
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile server.ext -out server.pem",
    );
    use std::os::unix::fs::PermissionsExt as _;
    // Samba refuses a key that others may read.
    fs::set_permissions(dir.join("server.key"), fs::Permissions::from_mode(0o600)).expect("our own file");
}

fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = run_in(command.current_dir(dir).args(arguments.split_whitespace()), "");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The databases are sparse files of gigabytes: only what they hold is kept.
fn tar_up(dir: &Path, file: &Path) {
    let mut command = Command::new("tar");
    command.arg("-C").arg(dir).args(["-S", "-cf"]).arg(file);
    command.args(["--exclude=private/msg.sock", "--exclude=private/ldap*", "--exclude=*.pid", "private", "state"]);
    let output = run(command, "");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
}

fn untar(file: &Path, dir: &Path) {
    let mut command = Command::new("tar");
    let output = run_in(command.arg("-C").arg(dir).arg("-xf").arg(file), "");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
}

fn schema_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/ldap/active-directory").join(name)
}

fn run(mut command: Command, input: &str) -> Output {
    run_in(&mut command, input)
}

fn run_in(command: &mut Command, input: &str) -> Output {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{:?}: {error}; install it: {INSTALL}", command.get_program()));
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

/// A program; `sbin` is not in everybody's path.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing; install it: {INSTALL}"))
}

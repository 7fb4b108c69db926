//! A throw-away 389 Directory Server: suffix `dc=example,dc=com`, the same tree and agent's account as [`super::slapd`].
//!
//! Debian's package sets servers up for systemd, in /etc and /var. Here `dscreate ds-root` makes a private tree, once for
//! a target folder (15 s), packed as a template; every server is unpacked from it into a temporary folder, set up by
//! editing its `dse.ldif` while it does not run, and started in the foreground (2 s). ns-slapd refuses to be set up by
//! root: everything runs as the account `dirsrv` then.

use super::free_port;
use super::slapd::{AGENT_DN, AGENT_PASSWORD, SUFFIX, run};
use homeward::config::{Attributes, Bind, Directory, Tls};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub const MANAGER_DN: &str = "cn=Directory Manager";
pub const MANAGER_PASSWORD: &str = "secret12";

const START_TIMEOUT: Duration = Duration::from_secs(90);
const INSTALL: &str = "apt-get install --no-install-recommends 389-ds-base python3-lib389 ldap-utils";
/// The account of Debian's package.
const ACCOUNT: &str = "dirsrv";
/// Stands in the template for the folder of the server.
const FOLDER: &str = "@FOLDER@";
const TEMPLATE_VERSION: &str = "1";

const RETRO_CHANGELOG: &str = "cn=Retro Changelog Plugin,cn=plugins,cn=config";
const CONTENT_SYNC: &str = "cn=Content Synchronization,cn=plugins,cn=config";

/// What the agent may do: read everything but passwords, write what is its own.
const RIGHTS: &[&str] = &[
    "(targetattr != \"userPassword || aci\")(version 3.0; acl \"homeward reads\"; allow (read, search, compare) userdn = \"ldap:///@AGENT@\";)",
    "(targetattr = \"imHomeServer || msExchIMAddress || msExchIMMetaPhysicalURL || msExchIMPhysicalURL || msExchIMVirtualServer || objectClass || passwordExpirationTime\")(targetfilter = \"(objectClass=inetOrgPerson)\")(version 3.0; acl \"homeward writes\"; allow (write) userdn = \"ldap:///@AGENT@\";)",
];

pub struct Builder {
    settings: Vec<(String, String, String)>,
    users: Option<String>,
    bulk: Option<String>,
    schema: bool,
    schema_files: Vec<PathBuf>,
    limits: bool,
    rights: bool,
    account: bool,
}

impl Builder {
    /// The Content Synchronization plug-in (RFC 4533) and the retro changelog that it needs.
    pub fn content_sync(self) -> Self {
        self.set(CONTENT_SYNC, "nsslapd-pluginEnabled", "on").retro_changelog()
    }

    /// Its entries name the changed one by `targetUniqueId`, without which content synchronization is blind to what
    /// happened before it is asked.
    pub fn retro_changelog(self) -> Self {
        self.set(RETRO_CHANGELOG, "nsslapd-pluginEnabled", "on").set(
            RETRO_CHANGELOG,
            "nsslapd-attribute",
            "nsuniqueid:targetUniqueId",
        )
    }

    /// Both plug-ins on, and nothing else: what a hurried administrator would do.
    pub fn content_sync_without_ids(self) -> Self {
        self.set(CONTENT_SYNC, "nsslapd-pluginEnabled", "on").set(RETRO_CHANGELOG, "nsslapd-pluginEnabled", "on")
    }

    pub fn memberof(self) -> Self {
        self.set("cn=MemberOf Plugin,cn=plugins,cn=config", "nsslapd-pluginEnabled", "on")
    }

    pub fn usn(self) -> Self {
        self.set("cn=USN,cn=plugins,cn=config", "nsslapd-pluginEnabled", "on")
    }

    /// Keeps `pwdUpdateTime`.
    pub fn password_dates(self) -> Self {
        self.set("cn=config", "passwordTrackUpdateTime", "on")
    }

    /// An attribute of an entry below `cn=config`, replaced before the start.
    pub fn set(mut self, dn: &str, attribute: &str, value: &str) -> Self {
        self.settings.push((dn.into(), attribute.into(), value.into()));
        self
    }

    /// LDIF added over LDAP after the start.
    pub fn users(mut self, ldif: impl Into<Option<String>>) -> Self {
        self.users = ldif.into();
        self
    }

    /// LDIF imported before the start: thousands a second, and no plug-in sees it. `ou=people` and the like are there.
    pub fn import(mut self, ldif: impl Into<String>) -> Self {
        self.bulk = Some(ldif.into());
        self
    }

    /// Leaves our schema out: a server on which nobody has prepared anything.
    pub fn without_schema(mut self) -> Self {
        self.schema = false;
        self
    }

    /// Another schema file, loaded at the start.
    pub fn schema_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.schema_files.push(file.into());
        self
    }

    /// The agent has the limits that everybody has.
    pub fn without_limits(mut self) -> Self {
        self.limits = false;
        self
    }

    /// The agent has no rights; the test gives it some.
    pub fn without_rights(mut self) -> Self {
        self.rights = false;
        self
    }

    /// Nobody has prepared anything: `ou=people`, `ou=groups`, and no account of the agent.
    pub fn unprepared(mut self) -> Self {
        self.account = false;
        self.without_schema().without_rights()
    }

    /// Unpacks, sets up and starts a server. Panics, with what to do, where that fails.
    pub fn start(self) -> Ds389 {
        let folder = folder("hw-ds389-");
        unpack(&template(), folder.path());
        let server = Ds389 { port: free_port(), tls_port: free_port(), child: Mutex::new(None), folder };
        if self.schema {
            let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/ldap/389ds.ldif");
            fs::copy(schema, server.instance().join("schema/98homeward.ldif")).expect("copying our schema");
        }
        for file in &self.schema_files {
            let name = file.file_name().expect("a schema file has a name");
            fs::copy(file, server.instance().join("schema").join(name)).expect("copying a schema file");
        }
        let mut dse = Dse::read(&server.instance());
        dse.text = dse.text.replace(FOLDER, &server.folder.path().display().to_string());
        dse.set("cn=config", "nsslapd-port", &server.port.to_string());
        dse.set("cn=config", "nsslapd-securePort", &server.tls_port.to_string());
        for (dn, attribute, value) in &self.settings {
            dse.set(dn, attribute, value);
        }
        dse.write();
        server.give_away();
        let bulk = self.bulk.as_deref().unwrap_or_default();
        server.import(&format!("{}{bulk}", tree(self.account, self.limits, self.rights)));
        server.launch();
        if let Some(users) = &self.users {
            server.add(users);
        }
        server
    }
}

/// A running (or stopped) server. Dropping it kills it and removes its folder.
pub struct Ds389 {
    port: u16,
    tls_port: u16,
    child: Mutex<Option<Child>>,
    folder: tempfile::TempDir,
}

impl Ds389 {
    /// As Debian sets it up: no plug-in of ours is on.
    pub fn builder() -> Builder {
        Builder {
            settings: Vec::new(),
            users: None,
            bulk: None,
            schema: true,
            schema_files: Vec::new(),
            limits: true,
            rights: true,
            account: true,
        }
    }

    pub fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its certificate is for `localhost`.
    pub fn ldaps_url(&self) -> String {
        format!("ldaps://localhost:{}", self.tls_port)
    }

    pub fn ca_file(&self) -> PathBuf {
        self.instance().join("ca.crt")
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

    /// Adds entries as the Directory Manager.
    pub fn add(&self, ldif: &str) {
        self.as_manager("ldapadd", &[], ldif);
    }

    /// LDIF change records (without `changetype`: modify), as the Directory Manager.
    pub fn modify(&self, ldif: &str) {
        self.as_manager("ldapmodify", &[], ldif);
    }

    pub fn delete(&self, dn: &str) {
        self.as_manager("ldapdelete", &[dn], "");
    }

    /// Moves or renames an entry, with all below it.
    pub fn rename(&self, dn: &str, new_rdn: &str, new_superior: Option<&str>) {
        let mut args = vec!["-r"];
        if let Some(superior) = new_superior {
            args.extend(["-s", superior]);
        }
        args.extend([dn, new_rdn]);
        self.as_manager("ldapmodrdn", &args, "");
    }

    /// LDIF of what matches below the suffix, as the Directory Manager sees it, one line a value.
    pub fn search(&self, filter: &str, attributes: &[&str]) -> String {
        let mut args = vec!["-LLL", "-o", "ldif-wrap=no", "-b", SUFFIX, filter];
        args.extend(attributes);
        self.as_manager("ldapsearch", &args, "")
    }

    /// The first value of an attribute of the first entry that matches; the server decides on the case of names.
    pub fn value(&self, filter: &str, attribute: &str) -> Option<String> {
        let found = self.search(filter, &[attribute]);
        let mut values = found.lines().filter_map(|line| line.split_once(": "));
        values.find(|(name, _)| name.eq_ignore_ascii_case(attribute)).map(|(_, value)| value.to_owned())
    }

    /// An attribute of the root DSE.
    pub fn root_dse(&self, attribute: &str) -> Option<String> {
        let output = self.run_as("", "", "ldapsearch", &["-LLL", "-s", "base", "-b", "", attribute], "");
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut values = found.lines().filter_map(|line| line.split_once(": "));
        values.find(|(name, _)| name.eq_ignore_ascii_case(attribute)).map(|(_, value)| value.to_owned())
    }

    /// Who matches, by DN: the values of each attribute, by lower-case name. What is not ASCII stays in base64.
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
                    let name = name.trim_end_matches(':').to_ascii_lowercase();
                    entries.entry(dn.clone()).or_default().entry(name).or_default().push(value.to_owned());
                }
                _ => {}
            }
        }
        entries
    }

    /// Runs one of the ldap-utils as somebody; the caller looks at the outcome.
    pub fn run_as(&self, dn: &str, password: &str, program: &str, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(program);
        command.args(["-x", "-H", &self.url()]);
        if !dn.is_empty() {
            command.args(["-D", dn, "-w", password]);
        }
        command.args(args);
        run(command, input)
    }

    fn as_manager(&self, program: &str, args: &[&str], input: &str) -> String {
        let output = self.run_as(MANAGER_DN, MANAGER_PASSWORD, program, args, input);
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

    /// Changes an entry below `cn=config` of a server that does not run.
    pub fn set(&self, dn: &str, attribute: &str, value: &str) {
        assert!(self.pid().is_none(), "a running server writes dse.ldif itself");
        let mut dse = Dse::read(&self.instance());
        dse.set(dn, attribute, value);
        dse.write();
        self.give_away();
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().expect("no test panics while holding it").as_ref().map(Child::id)
    }

    /// What the server says of errors.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("root/var/log/dirsrv/slapd-lab/errors")).unwrap_or_default()
    }

    /// A file of the server's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives the server our schema as docs/389ds.md says: a file, and a reload.
    pub fn load_schema(&self) {
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/ldap/389ds.ldif");
        fs::copy(schema, self.instance().join("schema/98homeward.ldif")).expect("copying our schema");
        self.give_away();
        let mut reload = Command::new(tool("dsconf"));
        reload.args(["-D", MANAGER_DN, "-w", MANAGER_PASSWORD, &self.url(), "schema", "reload", "--wait"]);
        let output = run(reload, "");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "dsconf schema reload: {}", String::from_utf8_lossy(&said));
    }

    fn instance(&self) -> PathBuf {
        self.folder.path().join("root/etc/dirsrv/slapd-lab")
    }

    fn give_away(&self) {
        give_away(self.folder.path());
    }

    fn import(&self, ldif: &str) {
        let file = self.folder.path().join("import.ldif");
        fs::write(&file, ldif).expect("writing the LDIF to import");
        let mut command = as_account(self.folder.path(), tool("ns-slapd"));
        command.arg("ldif2db").arg("-D").arg(self.instance()).args(["-n", "userroot", "-i"]).arg(&file);
        let output = run(command, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !self.errors().contains("Skipping entry"), "{said}{}", self.errors());
    }

    fn launch(&self) {
        let said = fs::File::create(self.folder.path().join("said")).expect("a file for what ns-slapd says");
        // -d 0 keeps it in the foreground: without, it forks and the process we know is not the server.
        let child = as_account(self.folder.path(), tool("ns-slapd"))
            .arg("-D")
            .arg(self.instance())
            .arg("-i")
            .arg(self.folder.path().join("root/run/dirsrv/slapd-lab.pid"))
            .args(["-d", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("starting ns-slapd");
        *self.child.lock().expect("no test panics while holding it") = Some(child);
        let started = Instant::now();
        while self.root_dse("vendorName").is_none() {
            let ended = self
                .child
                .lock()
                .expect("no test panics while holding it")
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            assert!(!ended && started.elapsed() < START_TIMEOUT, "ns-slapd does not answer: {}", self.errors());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Ds389 {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The server's own configuration, in a file that it reads at its start.
struct Dse {
    file: PathBuf,
    /// Long lines are whole.
    text: String,
}

impl Dse {
    fn read(instance: &Path) -> Dse {
        let file = instance.join("dse.ldif");
        let text = fs::read_to_string(&file).expect("reading dse.ldif").replace("\n ", "");
        Dse { file, text }
    }

    fn write(&self) {
        fs::write(&self.file, &self.text).expect("writing dse.ldif");
    }

    fn set(&mut self, dn: &str, attribute: &str, value: &str) {
        let mut entries: Vec<String> = self.text.split("\n\n").map(str::to_owned).collect();
        let is_it = |entry: &&mut String| {
            entry.trim_start().lines().next().is_some_and(|line| line.eq_ignore_ascii_case(&format!("dn: {dn}")))
        };
        let entry = entries.iter_mut().find(is_it).unwrap_or_else(|| panic!("dse.ldif has no {dn}"));
        let prefix = format!("{attribute}: ").to_ascii_lowercase();
        let kept = entry.lines().filter(|line| !line.to_ascii_lowercase().starts_with(&prefix));
        let mut changed: Vec<String> = kept.map(str::to_owned).collect();
        changed.push(format!("{attribute}: {value}"));
        *entry = changed.join("\n");
        self.text = entries.join("\n\n");
    }
}

/// Containers, the agent's account, and what it may do.
fn tree(account: bool, limits: bool, rights: bool) -> String {
    let mut ldif = format!("dn: {SUFFIX}\nobjectClass: top\nobjectClass: domain\ndc: example\n");
    for right in RIGHTS.iter().filter(|_| rights) {
        let _ = writeln!(ldif, "aci: {}", right.replace("@AGENT@", AGENT_DN));
    }
    ldif.push('\n');
    for unit in ["people", "groups"].into_iter().chain(["services", "policies"].into_iter().filter(|_| account)) {
        let _ = write!(ldif, "dn: ou={unit},{SUFFIX}\nobjectClass: organizationalUnit\nou: {unit}\n\n");
    }
    if !account {
        return ldif;
    }
    let _ = write!(
        ldif,
        "dn: {AGENT_DN}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: homeward\nuserPassword: {AGENT_PASSWORD}\n"
    );
    if limits {
        ldif.push_str("nsSizeLimit: -1\nnsTimeLimit: -1\nnsLookThroughLimit: -1\nnsIdleTimeout: -1\n");
    }
    ldif.push('\n');
    ldif
}

/// A packed server without entries; made where there is none.
fn template() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let shelf = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    fs::create_dir_all(&shelf).expect("a folder for the template");
    let version = run(
        {
            let mut command = Command::new(tool("ns-slapd"));
            command.arg("-v");
            command
        },
        "",
    );
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.split_whitespace().find(|word| word.starts_with("389-Directory/")).unwrap_or("unknown");
    let name = format!("ds389-{TEMPLATE_VERSION}-{}.tar", version.replace('/', "-"));
    let template = shelf.join(name);
    // Two test programs may run side by side.
    let lock = fs::File::create(shelf.join("ds389.lock")).expect("a lock file");
    lock.lock().expect("locking the template");
    if !template.is_file() {
        make_template(&template);
    }
    template
}

fn make_template(template: &Path) {
    let folder = folder("hw-ds389-new-");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("bin")).expect("a folder");
    give_away(folder.path());
    let must = |mut command: Command, what: &str| {
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", at("bin").display()));
        let output = run(command, "");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&said));
    };
    let mut ds_root = as_account(folder.path(), tool("dscreate"));
    ds_root.arg("ds-root").arg(at("root")).arg(at("bin"));
    must(ds_root, "dscreate ds-root");
    // Without this it would listen on every address.
    let data = at("root/share/dirsrv/data");
    for file in fs::read_dir(&data).expect("the templates of 389-ds-base").flatten() {
        if !file.file_name().to_string_lossy().starts_with("template-dse") {
            continue;
        }
        let text = fs::read_to_string(file.path()).expect("a template");
        let listen = "nsslapd-listenhost: 127.0.0.1\nnsslapd-securelistenhost: 127.0.0.1\nnsslapd-port:";
        fs::write(file.path(), text.replace("nsslapd-port:", listen)).expect("writing a template");
    }
    let (port, tls_port) = (free_port(), free_port());
    let answers = format!(
        "[general]\nfull_machine_name = localhost\nstrict_host_checking = False\nsystemd = False\nselinux = False\n\
         start = True\n[slapd]\ninstance_name = lab\nport = {port}\nsecure_port = {tls_port}\nroot_password = \
         {MANAGER_PASSWORD}\nself_sign_cert = True\n[backend-userroot]\nsuffix = {SUFFIX}\ncreate_suffix_entry = \
         False\nsample_entries = no\n"
    );
    fs::write(at("lab.inf"), answers).expect("the answers for dscreate");
    give_away(folder.path());
    let mut from_file = as_account(folder.path(), at("bin/dscreate"));
    from_file.arg("from-file").arg(at("lab.inf"));
    must(from_file, "dscreate from-file");
    let pid_file = at("root/run/dirsrv/slapd-lab.pid");
    let pid = fs::read_to_string(&pid_file).expect("ns-slapd has written its pid").trim().to_owned();
    let _ = Command::new("kill").args(["-TERM", &pid]).status();
    let started = Instant::now();
    while is_alive(&pid) {
        assert!(started.elapsed() < START_TIMEOUT, "ns-slapd does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut dse = Dse::read(&at("root/etc/dirsrv/slapd-lab"));
    dse.text = dse.text.replace(&folder.path().display().to_string(), FOLDER);
    // A server for tests: no cache as large as the machine's memory.
    dse.set("cn=userroot,cn=ldbm database,cn=plugins,cn=config", "nsslapd-cachememsize", "67108864");
    dse.set("cn=config,cn=ldbm database,cn=plugins,cn=config", "nsslapd-cache-autosize", "0");
    dse.set("cn=config,cn=ldbm database,cn=plugins,cn=config", "nsslapd-dbcachesize", "16777216");
    dse.write();
    let part = template.with_extension("part");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder.path()).arg("-cf").arg(&part);
    // What belongs to the process that ended.
    for left_out in ["__db.*", "*.socket", "*.pid", "errors", "access", "security", "audit", "dse.ldif.*"] {
        tar.arg(format!("--exclude={left_out}"));
    }
    tar.arg("root");
    must(tar, "tar");
    fs::rename(&part, template).expect("putting the template on the shelf");
}

/// A process that nobody waits for stays as a zombie.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

fn unpack(template: &Path, folder: &Path) {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).arg("-xf").arg(template);
    let output = run(tar, "");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// A temporary folder that the server's account may enter.
fn folder(prefix: &str) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary directory");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("setting its mode");
    folder
}

fn give_away(folder: &Path) {
    if is_root() {
        let mut chown = Command::new("chown");
        chown.arg("-R").arg(format!("{ACCOUNT}:")).arg(folder);
        let output = run(chown, "");
        assert!(output.status.success(), "chown: {}; {INSTALL}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A program run as the server's account where we are root, else as ourselves.
fn as_account(home: &Path, program: PathBuf) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env("HOME", home).current_dir(home);
    command
}

/// A program of the 389-ds-base or python3-lib389 packages; `sbin` is not in everybody's path.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing; install it: {INSTALL}"))
}

//! What docs/openldap.md tells an administrator to do, done to a server as Debian installs it; and whether the agent's
//! account can then do what it must, and nothing else.

// decide/ has no clock; a test has.
#![allow(clippy::disallowed_methods)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::company::{Company, uid};
use support::dns::Nsd;
use support::free_port;

const SUFFIX: &str = "dc=example,dc=com";
const ADMIN: [&str; 5] = ["-x", "-D", "cn=admin,dc=example,dc=com", "-w", "secret"];
const AGENT: [&str; 5] = ["-x", "-D", "cn=homeward,ou=services,dc=example,dc=com", "-w", "change-me"];
const DEBIAN: &str = "/usr/share/slapd/slapd.init.ldif";
/// More than the 500 that slapd shows by default.
const PEOPLE: usize = 600;
const START_MAX: Duration = Duration::from_secs(30);

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn guide() -> String {
    fs::read_to_string(repository("docs/openldap.md")).unwrap()
}

/// The code blocks of a language, in their order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    text.split(&opening).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; install it: apt-get install slapd ldap-utils openssl"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("it was started by us");
    writer.join().expect("writing does not panic");
    output
}

fn must(program: &str, arguments: &[&str], input: &str) -> String {
    let output = run(program, arguments, input);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn own_id(option: &str) -> String {
    must("id", &[option], "").trim().to_owned()
}

/// slapd with Debian's own first configuration; whoever runs the test is its root.
struct Debian {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Debian {
    fn start() -> Debian {
        let folder = tempfile::Builder::new().prefix("hw-debian-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for name in ["slapd.d", "db"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let first = fs::read_to_string(DEBIAN)
            .unwrap_or_else(|error| panic!("{DEBIAN}: {error}; install it: apt-get install slapd"))
            .replace("@BACKEND@", "mdb")
            .replace("@SUFFIX@", SUFFIX)
            .replace("@PASSWORD@", "secret")
            .replace("/var/run/slapd", &at(""))
            .replace("/var/lib/ldap", &at("db"))
            .replace("gidNumber=0+uidNumber=0", &format!("gidNumber={}+uidNumber={}", own_id("-g"), own_id("-u")));
        fs::write(folder.path().join("first.ldif"), first).unwrap();
        must("slapadd", &["-n", "0", "-F", &at("slapd.d"), "-l", &at("first.ldif")], "");
        let port = free_port();
        let ldapi = format!("ldapi://{}", at("ldapi").replace('/', "%2F"));
        let child = Command::new("/usr/sbin/slapd")
            .args(["-d", "0", "-F", &at("slapd.d"), "-h", &format!("ldap://127.0.0.1:{port} {ldapi}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("said")).unwrap())
            .spawn()
            .unwrap();
        let server = Debian { folder, port, child };
        let started = Instant::now();
        while !server.tool("ldapsearch", &["-x"], &["-LLL", "-s", "base", "-b", "", "1.1"], "").status.success() {
            let said = fs::read_to_string(server.path("said")).unwrap();
            assert!(started.elapsed() < START_MAX, "slapd does not answer: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let tree = format!(
            "dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n\
             dn: ou=people,{SUFFIX}\nobjectClass: organizationalUnit\nou: people\n\n\
             dn: ou=groups,{SUFFIX}\nobjectClass: organizationalUnit\nou: groups\n\n"
        );
        server.must("ldapadd", &ADMIN, &[], &tree);
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ldapi(&self) -> String {
        format!("ldapi://{}", self.path("ldapi").display().to_string().replace('/', "%2F"))
    }

    /// One of the ldap-utils, as somebody; `-Y` goes over ldapi.
    fn tool(&self, program: &str, who: &[&str], arguments: &[&str], input: &str) -> Output {
        let url = if who.contains(&"-Y") { self.ldapi() } else { format!("ldap://127.0.0.1:{}", self.port) };
        run(program, &[&["-H", &url], who, arguments].concat(), input)
    }

    fn must(&self, program: &str, who: &[&str], arguments: &[&str], input: &str) -> String {
        let output = self.tool(program, who, arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}\n{input}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn as_root(&self, program: &str, input: &str) {
        self.must(program, &["-Y", "EXTERNAL", "-Q"], &[], input);
    }

    /// The result code of a modification by the agent.
    fn agent_modifies(&self, ldif: &str) -> Option<i32> {
        self.tool("ldapmodify", &AGENT, &[], ldif).status.code()
    }

    /// All that the guide says, section by section.
    fn follow_the_guide(&self) {
        self.as_root("ldapadd", &fs::read_to_string(repository("schemas/ldap/homeward.ldif")).unwrap());
        let certificate = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ldap1.example.com \
             -keyout {0}/ldap1.key -out {0}/ldap1.pem",
            self.folder.path().display()
        );
        must("openssl", &certificate.split_whitespace().collect::<Vec<_>>(), "");
        for block in blocks(&guide(), "ldif") {
            let block = block.replace("/etc/ldap/tls", &self.folder.path().display().to_string());
            if block.lines().next().is_some_and(|dn| dn.ends_with("cn=config")) {
                self.as_root("ldapmodify", &block);
            } else {
                self.must("ldapmodify", &ADMIN, &[], &block);
            }
        }
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_set_up_by_the_guide_gives_the_agent_what_it_needs_and_no_more() {
    let server = Debian::start();
    server.follow_the_guide();
    let company = Company::new(PEOPLE);
    server.must("ldapadd", &ADMIN, &[], &company.ldif());
    let user = company.user_dn(0);
    server.must("ldappasswd", &ADMIN, &["-s", "s3cret-of-the-user", &user], "");

    // Everybody is seen, in a search that follows changes too; no password is.
    let all = server.must(
        "ldapsearch",
        &AGENT,
        &["-LLL", "-b", SUFFIX, "-E", "!sync=ro", "(objectClass=inetOrgPerson)", "entryUUID", "userPassword"],
        "",
    );
    assert_eq!(all.lines().filter(|line| line.starts_with("entryUUID:")).count(), PEOPLE);
    assert!(!all.contains("userPassword"), "the agent sees a password");
    let everybody = server.tool("ldapsearch", &["-x"], &["-LLL", "-b", SUFFIX, "(uid=*)", "1.1"], "");
    assert_eq!(everybody.status.code(), Some(4), "the limit of others stays");
    let dated = server.must("ldapsearch", &AGENT, &["-LLL", "-b", &user, "pwdChangedTime"], "");
    assert!(dated.contains("pwdChangedTime: "), "{dated}");

    // It writes what is its own …
    let enable = format!(
        "dn: {user}\nchangetype: modify\nadd: objectClass\nobjectClass: homewardIMUser\n-\nadd: imHomeServer\n\
         imHomeServer: im1\n-\nadd: msExchIMAddress\nmsExchIMAddress: {uid}@example.com\n-\nadd: msExchIMMetaPhysicalURL\n\
         msExchIMMetaPhysicalURL: http://im.example.com/instmsg/aliases/{uid}\n-\nadd: msExchIMPhysicalURL\n\
         msExchIMPhysicalURL: http://im1.example.com/instmsg/local/im.example.com/instmsg/aliases/{uid}\n",
        uid = uid(0)
    );
    assert_eq!(server.agent_modifies(&enable), Some(0));
    let expire = format!("dn: {user}\nchangetype: modify\nreplace: pwdReset\npwdReset: TRUE\n");
    assert_eq!(server.agent_modifies(&expire), Some(0));
    let release = format!("dn: {user}\nchangetype: modify\ndelete: imHomeServer\nimHomeServer: im1\n");
    assert_eq!(server.agent_modifies(&release), Some(0));

    // … and nothing else: 50, insufficient access.
    let refused = |attributes: &str| server.agent_modifies(&format!("dn: {user}\nchangetype: modify\n{attributes}\n"));
    assert_eq!(refused("replace: mail\nmail: other@example.com"), Some(50));
    assert_eq!(refused("replace: userPassword\nuserPassword: other"), Some(50));
    assert_eq!(refused("add: objectClass\nobjectClass: posixAccount"), Some(50));
    let group = format!("dn: ou=groups,{SUFFIX}\nchangetype: modify\nadd: objectClass\nobjectClass: homewardIMUser\n");
    assert_eq!(server.agent_modifies(&group), Some(50));
    assert_eq!(server.tool("ldapdelete", &AGENT, &[&user], "").status.code(), Some(50));
}

#[test]
fn the_agent_itself_finds_everything_as_the_guide_sets_it_up() {
    let server = Debian::start();
    server.follow_the_guide();
    let company = Company::new(PEOPLE).password("s3cret-of-the-user");
    server.must("ldapadd", &ADMIN, &[], &company.ldif());
    let at = |name: &str| server.path(name).display().to_string();
    fs::write(at("ldap-password"), "change-me").unwrap();
    fs::set_permissions(at("ldap-password"), fs::Permissions::from_mode(0o600)).unwrap();
    let nsd = Nsd::start(&[("example.com", "_rvp._tcp IN SRV 0 0 80 im\nim IN A 127.0.0.1"), ("example.org", "")]);
    let config = format!(
        "[agent]\nstate_dir = \"{}\"\nmode = \"enforce\"\n[directory]\nurl = \"ldap://127.0.0.1:{}\"\nbase = \
         \"ou=people,{SUFFIX}\"\nbind_dn = \"{}\"\nbind_password_file = \"ldap-password\"\n[[home]]\nid = \
         \"im1\"\nhost = \"im1.example.com\"\ncapacity = 1000\n[im]\ndomain = \"im.example.com\"\n[dns]\nservers = \
         [\"{}\"]\n[digest]\nrequired = true\n",
        at("state"),
        server.port,
        AGENT[2],
        nsd.address(),
    );
    fs::write(at("homeward.toml"), config).unwrap();
    let homeward = |arguments: &[&str]| {
        must(env!("CARGO_BIN_EXE_homeward"), &[&["--config", &at("homeward.toml")], arguments].concat(), "")
    };
    let checked = homeward(&["check"]);
    assert!(!checked.contains("FAIL") && !checked.contains("warn"), "{checked}");
    homeward(&["run", "--once"]);
    let homes = server.must("ldapsearch", &AGENT, &["-LLL", "-b", SUFFIX, "(imHomeServer=im1)", "msExchIMAddress"], "");
    assert_eq!(homes.lines().filter(|line| line.starts_with("msExchIMAddress: ")).count(), PEOPLE);
}

#[test]
fn the_same_in_slapd_conf_is_a_valid_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(folder.path().join("db")).unwrap();
    let guide = guide();
    let [block] = blocks(&guide, "conf")[..] else { panic!("the guide has one block of slapd.conf") };
    let (global, database) = block.split_once("\n#").expect("a comment begins the part for the database");
    let schema = repository("schemas/ldap/homeward.schema").display().to_string();
    let global = global.replace("/etc/ldap/schema/homeward.schema", &schema);
    let schemas = ["core", "cosine", "inetorgperson"].map(|name| format!("include /etc/ldap/schema/{name}.schema\n"));
    let text = format!(
        "{}modulepath /usr/lib/ldap\nmoduleload back_mdb\n{global}\ndatabase mdb\nsuffix \"{SUFFIX}\"\nrootdn \
         \"cn=admin,{SUFFIX}\"\ndirectory {}\n#{database}",
        schemas.concat(),
        at("db"),
    );
    fs::write(at("slapd.conf"), text).unwrap();
    must("slaptest", &["-u", "-f", &at("slapd.conf")], "");
}

#[test]
fn both_forms_of_the_schema_define_the_same() {
    let words = |text: &str, names: [(&str, &str); 3]| -> Vec<String> {
        let mut text = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        for (from, to) in names {
            text = text.replace(from, to);
        }
        text.split_whitespace().map(str::to_owned).collect()
    };
    let read = |name: &str| fs::read_to_string(repository("schemas/ldap").join(name)).unwrap();
    let conf = words(
        &read("homeward.schema"),
        [("attributetype ", "A "), ("objectclass ", "C "), ("objectidentifier ", "I ")],
    );
    let ldif = read("homeward.ldif");
    let (_, definitions) = ldif.split_once("cn: homeward\n").expect("the entry's own attributes come first");
    let names = [("olcAttributeTypes: ", "A "), ("olcObjectClasses: ", "C "), ("olcObjectIdentifier: ", "I ")];
    assert_eq!(conf, words(definitions, names));
}

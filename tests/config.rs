//! What an operator may write, and what they are told when it is wrong.
//!
//! `tests/config/bad/*.toml` each say in comments that begin with `#!` what must be found in them.

use homeward::config::{Bind, Config, ConfigError, Mode, Surroundings, WriteBack, schema_json};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SMALLEST: &str = r#"
[directory]
url     = "ldap://127.0.0.1:3389"
base    = "dc=example,dc=com"
bind_dn = "cn=homeward,ou=services,dc=example,dc=com"
bind_password_file = "ldap-password"

[[home]]
id       = "im1"
host     = "im1.example.com"
capacity = 10000

[im]
domain = "im.example.com"
"#;

/// A folder with a password file, as a configuration's folder looks.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("ldap-password", "s3cret-of-the-test\n");
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("homeward.toml")
    }

    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, &self.path(), &Surroundings { credentials: None, parse_filter })
    }
}

/// Enough of RFC 4515 to tell a filter from a mistake; the real one belongs to `decide`.
fn parse_filter(text: &str) -> Result<(), String> {
    let opened = text.matches('(').count();
    let ok = text.starts_with('(') && opened > 0 && opened == text.matches(')').count();
    if ok { Ok(()) } else { Err("parentheses do not match".into()) }
}

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn repository_text(name: &str) -> String {
    std::fs::read_to_string(repository(name)).unwrap()
}

fn shipped_with_everything_uncommented() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    repository_text("config/homeward.toml").lines().map(|line| uncomment(line) + "\n").collect()
}

#[test]
fn the_smallest_configuration_has_every_default() {
    let config = Folder::new().parse(SMALLEST).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.agent.mode, Mode::Observe);
    assert_eq!(config.agent.workers, 4);
    assert_eq!(config.agent.state_dir, Path::new("/var/lib/homeward"));
    assert_eq!(config.directory.urls, ["ldap://127.0.0.1:3389"]);
    assert_eq!(config.directory.filter, None);
    assert_eq!(config.directory.sweep_interval, Duration::from_secs(86_400));
    assert_eq!(config.im.srv, "_rvp._tcp");
    assert_eq!(config.im.mail_wait, Duration::from_secs(120));
    assert_eq!(config.im.reserve_for, Duration::from_secs(30 * 86_400));
    assert_eq!(config.im.write_back, WriteBack::default(), "the flavour's");
    assert_eq!(config.guard.releases, 50);
    let Bind::Simple { dn, password } = &config.directory.bind else { panic!("{:?}", config.directory.bind) };
    assert_eq!(dn, "cn=homeward,ou=services,dc=example,dc=com");
    assert_eq!(password.expose_secret(), "s3cret-of-the-test", "without the line end");
}

#[test]
fn with_discovery_no_home_need_be_named_and_a_named_one_says_only_what_differs() {
    let found = "[homes]\ndiscover = \"directory\"\n";
    let without = &SMALLEST[..SMALLEST.find("[[home]]").unwrap()];
    let config = Folder::new().parse(&format!("{without}{found}")).unwrap();
    assert_eq!((config.homes.len(), config.discovery.map(|it| it.capacity)), (0, Some(7500)));
    let some =
        format!("{without}{found}capacity = 10000\n[[policy]]\nname = \"a\"\nmatch = \"(l=x)\"\nhomes = [\"im9\"]\n");
    let config = Folder::new().parse(&format!("{some}[[home]]\nid = \"im1\"\ntags = [\"paris\"]\n")).unwrap();
    assert_eq!(config.discovery.map(|it| it.capacity), Some(10_000));
    assert_eq!((config.homes[0].host.as_str(), config.homes[0].capacity), ("", 0));
    // And it reads back as it was written.
    let again = Folder::new().parse(&config.to_toml_hidden().replace("(hidden)", "ldap-password")).unwrap();
    assert_eq!((again.homes, again.discovery), (config.homes, config.discovery));
    // Without discovery every home says all of it.
    assert!(Folder::new().parse(&format!("{without}[[home]]\nid = \"im1\"\n")).is_err());
}

#[test]
fn kerberos_needs_no_password_and_a_program_that_was_built_for_it() {
    let text = SMALLEST
        .replace("[[home]]", "bind = \"gssapi\"\n[[home]]")
        .replace("bind_dn", "#")
        .replace("bind_password", "#");
    let parsed = Folder::new().parse(&text);
    if cfg!(feature = "gssapi") {
        assert!(matches!(parsed.unwrap().directory.bind, Bind::Gssapi));
    } else {
        let error = parsed.unwrap_err().to_string();
        assert!(error.contains("built without Kerberos") && error.contains("--features gssapi"), "{error}");
    }
}

#[test]
fn only_the_exchange_profile_waits_for_mail() {
    let text = SMALLEST.replace("[im]", "[im]\nprofile = \"xmpp\"");
    let config = Folder::new().parse(&text).unwrap();
    assert_eq!((config.im.srv.as_str(), config.im.mail_wait), ("_xmpp-client._tcp", Duration::ZERO));
}

#[test]
fn the_shipped_file_can_be_used_as_it_is() {
    let config = Folder::new().parse(&repository_text("config/homeward.toml")).unwrap();
    assert_eq!(config.warnings, []);
}

#[test]
fn the_shipped_file_can_be_used_with_everything_uncommented() {
    let config = Folder::new().parse(&shipped_with_everything_uncommented()).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.policies.len(), 1);
    assert_eq!(config.homes.len(), 2);
}

#[test]
fn the_shipped_file_shows_every_setting_and_its_true_default() {
    let written: toml::Table = shipped_with_everything_uncommented().parse().unwrap();
    let written = serde_json::to_value(written).unwrap();
    let settings = schemars_inlined();
    let mut missing = Vec::new();
    let mut wrong = Vec::new();
    compare(&settings, &written, "", &mut missing, &mut wrong);
    assert_eq!(missing, Vec::<String>::new(), "not in config/homeward.toml");
    assert_eq!(wrong, Vec::<String>::new(), "config/homeward.toml shows another default than the program has");
}

/// Settings without a default in the schema, or where the file must say something to be usable, are not compared.
fn compare(schema: &Value, written: &Value, at: &str, missing: &mut Vec<String>, wrong: &mut Vec<String>) {
    for (name, inner) in schema["properties"].as_object().unwrap() {
        let key = format!("{at}{name}");
        let Some(value) = find(written, name) else {
            missing.push(key);
            continue;
        };
        let choices = inner["anyOf"].as_array();
        let table = choices.into_iter().flatten().find(|choice| choice.get("properties").is_some()).unwrap_or(inner);
        let items = &inner["items"];
        if table.get("properties").is_some() {
            compare(table, &gather(written, name), &format!("{key}."), missing, wrong);
        } else if items.get("properties").is_some() {
            compare(items, value, &format!("{key}."), missing, wrong);
        } else if let Some(default) = inner.get("default")
            && !default.is_null()
            && key != "directory.urls"
            && default != value
        {
            wrong.push(format!("{key} = {value}, not {default}"));
        }
    }
}

/// In a table, or in the first table of a list that has it.
fn find<'v>(written: &'v Value, name: &str) -> Option<&'v Value> {
    match written {
        Value::Array(tables) => tables.iter().find_map(|table| table.get(name)),
        table => table.get(name),
    }
}

/// The value of `name` in every table of a list: two homes show the two forms of `load`.
fn gather(written: &Value, name: &str) -> Value {
    match written {
        Value::Array(tables) => tables.iter().filter_map(|table| table.get(name)).cloned().collect(),
        table => table[name].clone(),
    }
}

fn schemars_inlined() -> Value {
    let settings =
        schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<homeward::config::file::File>().to_value()
}

#[test]
fn the_examples_can_be_used() {
    for entry in std::fs::read_dir(repository("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let config = Folder::new().parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(config.warnings, [], "{}", path.display());
    }
}

#[test]
fn the_schema_file_is_that_of_the_program() {
    let path = repository("schemas/config.json");
    if std::env::var_os("HOMEWARD_BLESS").is_some() {
        std::fs::write(&path, schema_json()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == schema_json(),
        "schemas/config.json differs; look at it, then: HOMEWARD_BLESS=1 cargo test --test config"
    );
}

#[test]
fn every_mistake_is_told_as_its_file_says() {
    let mut files = 0;
    let mut failures = String::new();
    for entry in std::fs::read_dir(repository("tests/config/bad")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        let folder = Folder::new();
        folder.write("empty", "");
        let shown = |finding: &homeward::config::Finding| {
            finding.to_string().replace(&folder.0.path().display().to_string(), "DIR")
        };
        let found: BTreeSet<String> = match folder.parse(&text) {
            Ok(config) => config.warnings.iter().map(|finding| format!("warning: {}", shown(finding))).collect(),
            Err(error) => error.findings.iter().map(shown).collect(),
        };
        if found.iter().map(String::as_str).collect::<BTreeSet<_>>() != expected {
            let found = found.iter().map(|line| format!("#! {line}\n")).collect::<String>();
            failures.push_str(&format!("{}\n{found}", path.display()));
        }
        files += 1;
    }
    assert!(failures.is_empty(), "told otherwise:\n{failures}");
    assert!(files >= 15, "only {files} files with mistakes are left");
}

#[test]
fn all_mistakes_are_told_at_once_and_in_the_order_of_the_file() {
    let text = SMALLEST.replace("capacity = 10000", "capasity = 10000").replace("base ", "bass ");
    let error = Folder::new().parse(&text).unwrap_err();
    assert_eq!(ConfigError::EXIT_CODE, 78);
    let lines: Vec<_> = error.findings.iter().map(|finding| finding.line).collect();
    assert!(lines.is_sorted(), "{error}");
    let shown = error.to_string();
    assert!(shown.contains("\n  unknown key `bass` in [directory] (line 4); did you mean `base`?"), "{shown}");
    assert!(shown.contains("\n  unknown key `capasity` in [[home]] (line 11); did you mean `capacity`?"), "{shown}");
}

#[test]
fn a_file_that_is_not_there_is_an_error_with_a_way_out() {
    let error = Config::load(Some(Path::new("/nonexistent/homeward.toml")), parse_filter).unwrap_err();
    assert!(error.to_string().contains("cannot be read") && error.to_string().contains("--config"), "{error}");
}

#[test]
fn the_password_is_taken_from_the_credentials_directory_first() {
    let folder = Folder::new();
    let credentials = Folder::new();
    credentials.write("ldap-password", "from-systemd");
    let password = |credentials: Option<PathBuf>| {
        let config = Config::parse(SMALLEST, &folder.path(), &Surroundings { credentials, parse_filter }).unwrap();
        let Bind::Simple { password, .. } = config.directory.bind else { panic!("bind is simple") };
        password.expose_secret().to_owned()
    };
    assert_eq!(password(Some(credentials.0.path().to_owned())), "from-systemd");
    assert_eq!(password(None), "s3cret-of-the-test");
}

#[test]
fn a_password_file_that_everybody_can_read_is_a_warning() {
    let folder = Folder::new();
    let file = folder.0.path().join("ldap-password");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let config = folder.parse(SMALLEST).unwrap();
    assert!(config.warnings[0].text.contains("everybody on this machine can read"), "{:?}", config.warnings);
}

#[test]
fn no_secret_is_shown() {
    let config = Folder::new().parse(SMALLEST).unwrap();
    let shown = config.to_toml_hidden();
    assert!(shown.contains("bind_password_file = \"(hidden)\""), "{shown}");
    assert!(!shown.contains("s3cret") && !format!("{config:?}").contains("s3cret"));
}

#[test]
fn what_is_shown_is_a_configuration_that_means_the_same() {
    let folder = Folder::new();
    folder.write("(hidden)", "s3cret-of-the-test");
    for text in
        [SMALLEST.to_owned(), repository_text("config/examples/openldap.toml"), shipped_with_everything_uncommented()]
    {
        let config = folder.parse(&text).unwrap();
        let again = folder.parse(&config.to_toml_hidden()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.fingerprint(), config.fingerprint());
        assert_eq!(again.to_toml_hidden(), config.to_toml_hidden());
    }
}

#[test]
fn a_fingerprint_changes_with_its_part_and_with_no_other() {
    let folder = Folder::new();
    let fingerprints = |text: &str| {
        let config = folder.parse(text).unwrap();
        [config.policy_fingerprint(), config.homes_fingerprint(), config.digest_fingerprint(), config.fingerprint()]
    };
    let before = fingerprints(SMALLEST);
    let changed = |text: &str| {
        let after = fingerprints(text);
        [0, 1, 2, 3].map(|n| before[n] != after[n])
    };
    assert_eq!(changed(SMALLEST), [false; 4]);
    assert_eq!(changed(&SMALLEST.replace("[im]", "[log]\nformat = \"json\"\n[agent]\nworkers = 2\n[im]")), [false; 4]);
    assert_eq!(changed(&SMALLEST.replace("im.example.com", "chat.example.com")), [true, false, false, true]);
    assert_eq!(changed(&SMALLEST.replace("10000", "9999")), [false, true, false, true]);
    assert_eq!(changed(&format!("{SMALLEST}[digest]\nrequired = true\n")), [false, false, true, true]);
    assert_eq!(changed(&format!("{SMALLEST}[guard]\nreleases = 1\n")), [false, false, false, true]);
}

#[test]
fn the_order_of_homes_means_nothing() {
    let second = "[[home]]\nid = \"im0\"\nhost = \"im0.example.com\"\ncapacity = 1\n";
    let (folder, first) = (Folder::new(), SMALLEST.replace("[[home]]", &format!("{second}[[home]]")));
    let last = format!("{SMALLEST}{second}");
    let (first, last) = (folder.parse(&first).unwrap(), folder.parse(&last).unwrap());
    assert_eq!(first.homes[0].id.0, "im0");
    assert_eq!(first.fingerprint(), last.fingerprint());
}

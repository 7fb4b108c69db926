//! Digest readiness on a real domain controller (Samba): what we conclude from policy, flag, fine-grained policies and times,
//! against what the server holds in `supplementalCredentials` (which no agent may read; `samba-tool` on the files does).

// decide/ has no clock; a test has.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::config::{Attributes, Bind, Directory, Flavour, Guard, Tls};
use homeward::decide::digest::{self, REVERSIBLE, Reversible, Setting, StorageRule, Verifier};
use homeward::decide::explain::Trace;
use homeward::decide::policy::{DigestPolicy, Names};
use homeward::directory::connect::connect;
use homeward::directory::entry::Shape;
use homeward::directory::flavour::{profile, root_dse};
use homeward::directory::key::KeyAttribute;
use homeward::directory::source::{Batch, Change};
use homeward::directory::write_back::{Target, apply};
use homeward::directory::{lookup, metadata, reversible};
use homeward::feed::Feed;
use homeward::intake::{Groups, Intake, StorageNews};
use homeward::model::{
    DigestAction, DigestReadiness, ExpireResult, PasswordDate, Sequence, Timestamp, UserKey, UserRecord, Write,
    WriteResult,
};
use ldap3::Ldap;
use std::sync::OnceLock;
use std::time::Duration;
use support::agent::Agent;
use support::dns::Nsd;
use support::samba::{AGENT_DN, AGENT_PASSWORD, PLAIN_DN, PLAIN_PASSWORD, SUFFIX, Samba, shared};
use support::windows::{Rules, Windows};

const TIMEOUT: Duration = Duration::from_secs(20);
const RECORD: [&str; 4] = ["objectclass", "samaccountname", "mail", "pwdlastset"];
const READY: DigestReadiness = DigestReadiness::Ready;
const RESET: DigestReadiness = DigestReadiness::ResetRequired;
const UNKNOWN: DigestReadiness = DigestReadiness::Unknown;

/// The agent's way from the directory to a record, without the source that tells it when.
struct Watch<S> {
    samba: S,
    ldap: Ldap,
    intake: Intake,
    rule: StorageRule,
    dir: tempfile::TempDir,
}

impl<'a> Watch<&'a Samba> {
    async fn start(samba: &'a Samba, who: (&str, &str)) -> Watch<&'a Samba> {
        let mut directory = samba.directory();
        directory.bind = Bind::Simple { dn: who.0.into(), password: who.1.to_owned().into() };
        let ldap = connect(&directory, TIMEOUT).await.expect("the server is up").0;
        Watch::of(samba, ldap).await
    }

    async fn agent(samba: &'a Samba) -> Watch<&'a Samba> {
        Watch::start(samba, (AGENT_DN, AGENT_PASSWORD)).await
    }
}

impl<S> Watch<S> {
    async fn of(samba: S, mut ldap: Ldap) -> Watch<S> {
        let rule = reversible::rule(root_dse(&mut ldap).await.unwrap().vendor_name.as_deref());
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape::new(SUFFIX, RECORD, Box::new(|_| true));
        let guard = Guard { releases: 50, releases_percent: 5, window: Duration::from_secs(3600) };
        let intake = Intake::open(dir.path(), shape, Groups::default(), guard, Timestamp::now()).unwrap();
        let mut watch = Watch { samba, ldap, intake, rule, dir };
        watch.look().await;
        watch
    }

    /// At the policies, and whatever follows from them for those known.
    async fn look(&mut self) -> StorageNews {
        let look = reversible::look(&mut self.ldap, SUFFIX, self.rule).await.unwrap();
        let news = self.intake.look_at_storage(Some(&look), Timestamp::now()).unwrap();
        while news.due && self.intake.recompute(Timestamp::now()).unwrap() {}
        news
    }

    /// Reads a user as a source would.
    async fn read(&mut self, dn: &str) -> UserKey {
        let mut attributes = RECORD.to_vec();
        attributes.extend(reversible::attributes(self.rule));
        let entry = lookup::by_dn(&mut self.ldap, KeyAttribute::ObjectGuid, dn, &attributes).await.unwrap().unwrap();
        let key = entry.key;
        let batch = Batch { changes: vec![Change::Entry(entry)], ..Batch::default() };
        self.intake.take(batch, Timestamp::now()).unwrap();
        key
    }

    fn record(&self, key: UserKey) -> (UserRecord, Sequence) {
        let row = Feed::open(self.dir.path()).unwrap().by_key(&key).unwrap().unwrap();
        (row.record, row.sequence)
    }

    /// Reads the user and judges.
    async fn verdict(&mut self, dn: &str) -> DigestReadiness {
        let key = self.read(dn).await;
        self.known(key)
    }

    fn known(&self, key: UserKey) -> DigestReadiness {
        readiness(&self.record(key).0)
    }

    async fn reversible(&mut self, dn: &str) -> Reversible {
        let key = self.read(dn).await;
        Reversible::of(&self.record(key).0)
    }
}

fn readiness(record: &UserRecord) -> DigestReadiness {
    let policy = DigestPolicy {
        required: true,
        verifier: Verifier::Reversible,
        since: Timestamp::default(),
        configured: false,
        action: DigestAction::Flag,
    };
    digest::readiness(record, &policy, &names(), &mut Trace::off())
}

fn names() -> Names {
    let text = String::new;
    Names {
        login: "samaccountname".into(),
        mail: "mail".into(),
        address: text(),
        url: text(),
        home_url: text(),
        home: text(),
        object_class: text(),
        password_date: "pwdlastset".into(),
        created: "whencreated".into(),
        expires: text(),
    }
}

/// The truth: whether the clear password is kept.
fn kept(samba: &Samba, login: &str) -> bool {
    let said = samba.samba_tool(&["user", "getpassword", login, "--attributes=virtualClearTextUTF8,pwdLastSet"]);
    assert!(said.contains("pwdLastSet: "), "{said}");
    said.contains("virtualClearTextUTF8:")
}

fn set_password(samba: &Samba, login: &str) {
    // Times are told to the second: what happens in one cannot be told apart.
    std::thread::sleep(Duration::from_millis(1300));
    samba.samba_tool(&["user", "setpassword", login, "--newpassword=S3cret-Pass!"]);
}

fn domain_policy(samba: &Samba, on: bool) {
    let word = if on { "--store-plaintext=on" } else { "--store-plaintext=off" };
    samba.samba_tool(&["domain", "passwordsettings", "set", word]);
}

fn flag(samba: &Samba, dn: &str, on: bool) {
    samba.replace(dn, "userAccountControl", if on { "640" } else { "512" });
}

fn pso(samba: &Samba, name: &str, precedence: &str, on: bool) {
    let word = if on { "--store-plaintext=on" } else { "--store-plaintext=off" };
    let tool = |args: &[&str]| samba.samba_tool(&[&["domain", "passwordsettings", "pso"], args].concat());
    tool(&["create", name, precedence, word, "--min-pwd-age=0", "--max-pwd-age=0", "--history-length=0"]);
}

fn apply_pso(samba: &Samba, name: &str, to: &str) {
    samba.samba_tool(&["domain", "passwordsettings", "pso", "apply", name, to]);
}

/// A user with a password.
fn user(samba: &Samba, login: &str, parent: &str) -> String {
    let dn = samba.user(login, parent, "");
    samba.samba_tool(&["user", "setpassword", login, "--newpassword=F1rst-Pass!"]);
    dn
}

/// Our verdict never says ready of a password that is not kept; and it is the expected one.
async fn agree(watch: &mut Watch<&Samba>, dn: &str, is_kept: bool, expected: DigestReadiness) {
    let login = watch.samba.value(dn, "sAMAccountName").unwrap();
    let said = watch.verdict(dn).await;
    assert_eq!((kept(watch.samba, &login), said), (is_kept, expected), "{login}: {:?}", watch.reversible(dn).await);
}

#[tokio::test]
async fn every_row_of_sambas_table_is_judged_as_the_passwords_are_kept() {
    let samba = Samba::builder().start();
    let mut watch = Watch::agent(&samba).await;
    assert_eq!(watch.rule, StorageRule::Both);
    let ou = samba.ou("digest-table");
    let [ann, bob, cid] = ["ann", "bob", "cid"].map(|login| user(&samba, login, &ou));
    agree(&mut watch, &ann, false, UNKNOWN).await;
    assert_eq!(watch.reversible(&ann).await, Reversible::Off);

    // off, yes, yes: nothing.
    flag(&samba, &bob, true);
    set_password(&samba, "bob");
    agree(&mut watch, &bob, false, UNKNOWN).await;
    // on, no, yes: nothing.
    domain_policy(&samba, true);
    let news = watch.look().await;
    assert_eq!((news.changed.as_deref(), news.due), (Some("on in the domain"), true));
    set_password(&samba, "ann");
    agree(&mut watch, &ann, false, UNKNOWN).await;
    // on, yes, no: nothing, and a new password would help.
    agree(&mut watch, &bob, false, RESET).await;
    flag(&samba, &cid, true);
    agree(&mut watch, &cid, false, RESET).await;
    // on, yes, yes: kept.
    set_password(&samba, "bob");
    agree(&mut watch, &bob, true, READY).await;
    set_password(&samba, "cid");
    agree(&mut watch, &cid, true, READY).await;
    // off again: it stays, and the next one would not be kept. Nobody is told to change it.
    domain_policy(&samba, false);
    watch.look().await;
    agree(&mut watch, &bob, true, UNKNOWN).await;
    // off, yes, yes: removed.
    set_password(&samba, "bob");
    agree(&mut watch, &bob, false, UNKNOWN).await;
    // On once more: it begins anew, for those too whose password was kept the first time.
    domain_policy(&samba, true);
    watch.look().await;
    agree(&mut watch, &bob, false, RESET).await;
    agree(&mut watch, &cid, true, RESET).await;
    set_password(&samba, "bob");
    agree(&mut watch, &bob, true, READY).await;
    // The flag off, and on again without a new password: not to be known, so it begins anew.
    flag(&samba, &bob, false);
    agree(&mut watch, &bob, true, UNKNOWN).await;
    std::thread::sleep(Duration::from_millis(1300));
    flag(&samba, &bob, true);
    agree(&mut watch, &bob, true, RESET).await;

    // Must change, and -1: as the documentation warns, that looks like a new password.
    samba.replace(&cid, "pwdLastSet", "0");
    assert_eq!(watch.verdict(&cid).await, RESET);
    samba.replace(&cid, "pwdLastSet", "-1");
    assert_eq!(watch.verdict(&cid).await, READY);
}

#[tokio::test]
async fn an_agent_that_comes_later_knows_from_replication_metadata_when_policy_and_flag_came() {
    let samba = Samba::builder().start();
    let ou = samba.ou("digest-later");
    let old = user(&samba, "old", &ou);
    flag(&samba, &old, true);
    std::thread::sleep(Duration::from_millis(1300));
    domain_policy(&samba, true);
    let new = samba.user("new", &ou, "");
    flag(&samba, &new, true);
    set_password(&samba, "new");
    // With the flag and the password in one write, as provisioning tools do.
    let quick = format!("CN=quick,{ou}");
    std::thread::sleep(Duration::from_millis(1300));
    samba.modify(&format!(
        "dn: {quick}\nchangetype: add\nobjectClass: user\nsAMAccountName: quick\nuserAccountControl: 640\nunicodePwd:: {}\n",
        support::samba::unicode_pwd("Qu1ck-Pass!")
    ));
    std::thread::sleep(Duration::from_millis(1300));
    let mut watch = Watch::agent(&samba).await;
    agree(&mut watch, &old, false, RESET).await;
    agree(&mut watch, &new, true, READY).await;
    agree(&mut watch, &quick, true, READY).await;
    // Another bit of the policy, and of the account: what was seen before stays.
    let before = watch.reversible(&new).await;
    samba.samba_tool(&["domain", "passwordsettings", "set", "--complexity=off"]);
    samba.replace(&new, "userAccountControl", "66176");
    assert_eq!(watch.look().await.changed, None);
    assert_eq!(watch.reversible(&new).await, before);
    agree(&mut watch, &new, true, READY).await;
    // One who comes after that knows less, and asks too much rather than too little.
    let mut late = Watch::agent(&samba).await;
    agree(&mut late, &new, true, RESET).await;
}

#[tokio::test]
async fn fine_grained_policies_replace_the_domains_for_a_user_and_through_a_group() {
    let samba = Samba::builder().start();
    samba.grant_with(&["--digest"], "homeward-agent", &[SUFFIX]);
    let ou = samba.ou("digest-pso");
    let [ann, bob, cid] = ["ann", "bob", "cid"].map(|login| {
        let dn = user(&samba, login, &ou);
        flag(&samba, &dn, true);
        dn
    });
    samba.modify(&format!("dn: CN=im,{ou}\nchangetype: add\nobjectClass: group\nsAMAccountName: im\nmember: {bob}\n"));
    let mut watch = Watch::agent(&samba).await;
    agree(&mut watch, &ann, false, UNKNOWN).await;
    agree(&mut watch, &bob, false, UNKNOWN).await;
    let keys = [watch.read(&ann).await, watch.read(&bob).await];

    // On for one user and a group; the domain's stays off.
    pso(&samba, "DigestOn", "10", true);
    assert!(watch.look().await.unswept, "who has which policy may have changed");
    apply_pso(&samba, "DigestOn", "ann");
    apply_pso(&samba, "DigestOn", "im");
    let news = watch.look().await;
    assert!(news.unswept);
    assert_eq!(keys.map(|key| watch.known(key)), [UNKNOWN, UNKNOWN], "until the sweep");
    for (dn, login) in [(&ann, "ann"), (&bob, "bob")] {
        agree(&mut watch, dn, false, RESET).await;
        set_password(&samba, login);
        agree(&mut watch, dn, true, READY).await;
    }
    set_password(&samba, "cid");
    agree(&mut watch, &cid, false, UNKNOWN).await;

    // The domain's on, and a policy that goes before takes it away from one user.
    domain_policy(&samba, true);
    pso(&samba, "DigestOff", "5", false);
    apply_pso(&samba, "DigestOff", "ann");
    watch.look().await;
    agree(&mut watch, &cid, false, RESET).await;
    set_password(&samba, "ann");
    agree(&mut watch, &ann, false, UNKNOWN).await;
    set_password(&samba, "cid");
    agree(&mut watch, &cid, true, READY).await;
    // Rid of it, a password from before does not count, though the domain's policy is older.
    samba.samba_tool(&["domain", "passwordsettings", "pso", "unapply", "DigestOff", "ann"]);
    watch.look().await;
    agree(&mut watch, &ann, false, RESET).await;
    set_password(&samba, "ann");
    agree(&mut watch, &ann, true, READY).await;
    // One who is not in the group any more falls back to the domain's.
    samba.modify(&format!("dn: CN=im,{ou}\nchangetype: modify\ndelete: member\nmember: {bob}\n"));
    agree(&mut watch, &bob, true, RESET).await;

    // Switched off in the policy itself: it reaches everybody known without a word from the entries.
    let key = watch.read(&ann).await;
    let before = watch.record(key).1;
    samba.samba_tool(&["domain", "passwordsettings", "pso", "set", "DigestOn", "--store-plaintext=off"]);
    let news = watch.look().await;
    assert_eq!(news.changed.as_deref(), Some("on in the domain, off in cn=digestoff, off in cn=digeston"));
    assert_eq!(watch.known(key), UNKNOWN);
    assert!(watch.record(key).1 > before);
    // Nothing changed: no new sequence for anybody.
    let after = watch.record(key).1;
    assert_eq!(watch.look().await, StorageNews { unswept: true, ..StorageNews::default() });
    watch.read(&ann).await;
    assert_eq!(watch.record(key).1, after);
}

#[tokio::test]
async fn fact_a_password_that_comes_with_a_new_account_is_kept_by_the_domains_policy_alone() {
    let samba = Samba::builder().start();
    samba.grant_with(&["--digest"], "homeward-agent", &[SUFFIX]);
    let ou = samba.ou("digest-created");
    pso(&samba, "Everybody", "10", true);
    apply_pso(&samba, "Everybody", "Domain Users");
    let mut watch = Watch::agent(&samba).await;
    std::thread::sleep(Duration::from_millis(1300));
    let create = |login: &str| {
        let dn = format!("CN={login},{ou}");
        samba.modify(&format!(
            "dn: {dn}\nchangetype: add\nobjectClass: user\nsAMAccountName: {login}\nuserAccountControl: 640\nunicodePwd:: {}\n",
            support::samba::unicode_pwd("Qu1ck-Pass!")
        ));
        dn
    };
    // The fine-grained one applies to the account from the first moment on, and yet not to this password.
    let new = create("new");
    agree(&mut watch, &new, false, RESET).await;
    set_password(&samba, "new");
    agree(&mut watch, &new, true, READY).await;
}

#[tokio::test]
async fn a_policy_that_may_not_be_read_leaves_its_users_unknown_and_nobody_else() {
    let samba = Samba::builder().start();
    domain_policy(&samba, true);
    pso(&samba, "Hidden", "10", true);
    let ou = samba.ou("digest-hidden");
    let [ann, bob, cid] = ["ann", "bob", "cid"].map(|login| user(&samba, login, &ou));
    flag(&samba, &ann, true);
    flag(&samba, &bob, true);
    apply_pso(&samba, "Hidden", "ann");
    apply_pso(&samba, "Hidden", "cid");
    let mut blind = Watch::agent(&samba).await;
    assert_eq!(blind.reversible(&ann).await, Reversible::Unknown);
    assert!(matches!(blind.reversible(&bob).await, Reversible::Since(_)));
    assert_eq!(blind.reversible(&cid).await, Reversible::Off, "without the flag it does not matter");
    samba.grant_with(&["--digest"], "homeward-agent", &[SUFFIX]);
    let news = blind.look().await;
    assert_eq!(news.changed.as_deref(), Some("on in the domain, on in cn=hidden"));
    assert!(matches!(blind.reversible(&ann).await, Reversible::Since(_)));
    // `check` says what to grant, and what it means that it is on, whether Digest is wanted or not.
    let check = |toml: &str| {
        let agent = Agent::of_samba(&samba, &ou).account(PLAIN_DN, PLAIN_PASSWORD).extra(toml);
        String::from_utf8_lossy(&agent.cli(&["check"]).stdout).into_owned()
    };
    let said = check("[digest]\nrequired = true\n");
    assert!(said.contains("2 of 3 users are under a fine-grained policy that may not be read"), "{said}");
    assert!(said.contains("Password Settings Container,CN=System (grant.py --digest; docs/digest.md)"), "{said}");
    let said = check("");
    assert!(said.contains("on in the domain; Homeward does not need it"), "{said}");
    assert!(said.contains("DISA STIG says never"), "{said}");
    // An account without any grant: the same as one without this one.
    let mut plain = Watch::start(&samba, (PLAIN_DN, PLAIN_PASSWORD)).await;
    assert_eq!(plain.reversible(&ann).await, Reversible::Unknown);
}

/// On the scripted server, which follows MS-ADTS 3.1.1.4.5.13 (msDS-ReplAttributeMetaData) and 3.1.1.4.5.36 (msDS-ResultantPSO)
/// where this test says so: Samba computes no such metadata, and combines by another rule.
#[tokio::test]
async fn on_windows_any_setting_is_enough_and_the_metadata_is_xml() {
    let windows = Windows::start(Rules::default());
    let metadata = |attribute: &str, at: &str, usn: u64| {
        format!(
            "<DS_REPL_ATTR_META_DATA>\n\t<pszAttributeName>{attribute}</pszAttributeName>\n\t<dwVersion>2</dwVersion>\n\
             \t<ftimeLastOriginatingChange>{at}</ftimeLastOriginatingChange>\n\
             \t<uuidLastOriginatingDsaInvocationID>a35d0b64-5b2c-4a0e-8b8f-0d4b3c1c7a01</uuidLastOriginatingDsaInvocationID>\n\
             \t<usnOriginatingChange>{usn}</usnOriginatingChange>\n\t<usnLocalChange>{usn}</usnLocalChange>\n\
             \t<pszLastOriginatingDsaDN>CN=NTDS Settings,CN=DC1</pszLastOriginatingDsaDN>\n</DS_REPL_ATTR_META_DATA>\n\0"
        )
        .into_bytes()
    };
    let filetime = |text: &str| {
        let at = Timestamp::from_rfc3339(text).unwrap();
        ((at.0 + 11_644_473_600_000) * 10_000).to_string()
    };
    let policy = |flags: &str, at: &str| {
        let xml = vec![metadata("minPwdAge", "2020-01-01T00:00:00Z", 1), metadata("pwdProperties", at, 900)];
        let values = [("pwdProperties", vec![flags.as_bytes().to_vec()]), (metadata::XML, xml)];
        windows.put(SUFFIX, "domainDNS", &values);
    };
    let pso = format!("CN=Digest,CN=Password Settings Container,CN=System,{SUFFIX}");
    let user = |name: &str, control: &str, set: &str, pso: Option<&str>| {
        let dn = format!("CN={name},CN=Users,{SUFFIX}");
        // The flag and the password by one write, half a second after the full second.
        let xml = vec![
            metadata("userAccountControl", "2026-03-01T12:00:00Z", 500),
            metadata("unicodePwd", "2026-03-01T12:00:00Z", 500),
        ];
        let mut values = vec![
            ("sAMAccountName", vec![name.as_bytes().to_vec()]),
            ("userAccountControl", vec![control.as_bytes().to_vec()]),
            ("pwdLastSet", vec![filetime(set).into_bytes()]),
            (metadata::XML, xml),
        ];
        values.extend(pso.map(|pso| ("msDS-ResultantPSO", vec![pso.as_bytes().to_vec()])));
        windows.put(&dn, "user", &values);
        dn
    };
    policy("1", "2026-01-01T00:00:00Z");
    let on = [("msDS-PasswordReversibleEncryptionEnabled", vec![b"TRUE".to_vec()])];
    windows.put(&pso, "msDS-PasswordSettings", &on);
    let ann = user("ann", "512", "2026-03-01T12:00:00.500Z", None);
    let bob = user("bob", "640", "2026-03-01T12:00:00.500Z", None);
    let cid = user("cid", "512", "2026-03-01T12:00:00.500Z", Some(&pso));
    let dan = user("dan", "512", "2026-03-01T12:00:00.500Z", Some("CN=Hidden,CN=System"));
    let directory = Directory {
        urls: vec![windows.url()],
        base: SUFFIX.into(),
        flavour: None,
        source: None,
        filter: None,
        bind: Bind::Simple { dn: "agent@example.com".into(), password: "secret".to_owned().into() },
        tls: Tls { mode: None, ca_file: None, certificate_file: None, key_file: None },
        allow_plaintext: false,
        poll_interval: Duration::from_secs(5),
        sweep_interval: Duration::from_secs(86_400),
        attributes: Attributes::default(),
    };
    let ldap = connect(&directory, TIMEOUT).await.expect("the script runs").0;
    let mut watch = Watch::of((), ldap).await;
    assert_eq!(watch.rule, StorageRule::Any);
    assert_eq!(watch.reversible(&ann).await, Reversible::Off);
    assert_eq!(watch.verdict(&bob).await, READY, "the flag is enough");
    assert_eq!(watch.verdict(&cid).await, RESET, "the fine-grained policy is, since it was first seen to apply");
    assert_eq!(watch.reversible(&dan).await, Reversible::Unknown);
    // The domain's policy, which came before the password, or after.
    policy("17", "2026-02-01T00:00:00Z");
    watch.look().await;
    for dn in [&ann, &bob, &cid, &dan] {
        assert_eq!(watch.verdict(dn).await, READY, "{dn}");
    }
    let mut late = Watch::of((), connect(&directory, TIMEOUT).await.unwrap().0).await;
    policy("17", "2026-04-01T00:00:00Z");
    assert_eq!(late.verdict(&ann).await, READY, "what was seen before stays");
    late = Watch::of((), connect(&directory, TIMEOUT).await.unwrap().0).await;
    assert_eq!([late.verdict(&ann).await, late.verdict(&bob).await], [RESET, READY]);
}

#[tokio::test]
async fn the_metadata_of_a_real_server_is_read() {
    let samba = Samba::builder().start();
    let mut watch = Watch::agent(&samba).await;
    let before = Timestamp::now();
    domain_policy(&samba, true);
    let found =
        lookup::search(&mut watch.ldap, SUFFIX, ldap3::Scope::Base, "(objectClass=*)", &[metadata::BLOB], 0).await;
    let written = metadata::of_found(&found.unwrap()[0], metadata::PWD_PROPERTIES).unwrap().at_latest();
    let now = Timestamp::now();
    assert!(written.0 >= before.0 - 1000 && written.0 <= now.0 + 1000, "{before} {written} {now}");
    let look = reversible::look(&mut watch.ldap, SUFFIX, watch.rule).await.unwrap();
    assert_eq!(look.domain.changed, Some(written));
    assert!(look.ahead <= Duration::from_secs(2), "{:?}", look.ahead);
    let known = reversible::Known::after(None, &look, now);
    assert!(matches!(known.domain, Setting::OnSince(since) if since <= now.plus(look.ahead)));
}

#[tokio::test]
async fn a_new_password_is_demanded_once_and_only_for_the_password_that_was_judged() {
    let samba = shared();
    let ou = samba.ou("digest-expire");
    let dn = user(samba, "dig-expire", &ou);
    let mut watch = Watch::agent(samba).await;
    let key = watch.read(&dn).await;
    let directory = samba.directory();
    let attempt = async |date: &str| {
        let mut ldap = connect(&directory, TIMEOUT).await.expect("the server is up").0;
        let root = root_dse(&mut ldap).await.unwrap();
        let profile = profile(Flavour::ActiveDirectory);
        let target = Target::new(SUFFIX, &profile.write_back, &root, &profile);
        assert!(!target.asserts, "no assertions here: it is read again at once before");
        let expire = Some(PasswordDate(Some(date.to_owned())));
        let write = Write { key, dn: dn.clone(), changes: vec![], object_class: None, expire, urgent: false };
        apply(&mut ldap, &target, &write, TIMEOUT).await
    };
    let judged = samba.value(&dn, "pwdLastSet").unwrap();
    let refused = attempt(&judged).await;
    let no_right = matches!(&refused, WriteResult::Applied { expire: ExpireResult::Refused(why) } if why.code == 50);
    assert!(no_right, "without the grant: {refused:?}");
    samba.grant_with(&["--expire"], "homeward-agent", &[&ou]);
    // Changed meanwhile.
    set_password(samba, "dig-expire");
    let done = |expire| WriteResult::Applied { expire };
    assert_eq!(attempt(&judged).await, done(ExpireResult::ChangedMeanwhile));
    let judged = samba.value(&dn, "pwdLastSet").unwrap();
    assert_ne!(judged, "0");
    assert_eq!(attempt(&judged).await, done(ExpireResult::Demanded));
    assert_eq!(samba.value(&dn, "pwdLastSet").as_deref(), Some("0"));
    let bind = samba.run_as(&dn, "S3cret-Pass!", "ldapsearch", &["-s", "base", "-b", "", "namingContexts"], "");
    assert!(String::from_utf8_lossy(&bind.stderr).contains("data 773"), "{bind:?}");
    // A second time: it is not that password any more.
    assert_eq!(attempt(&judged).await, done(ExpireResult::ChangedMeanwhile));
}

#[tokio::test]
async fn without_digest_nothing_is_known_and_nothing_kept() {
    let samba = shared();
    let ou = samba.ou("digest-off");
    let dn = samba.user("dig-off", &ou, "");
    let mut watch = Watch::agent(samba).await;
    let key = watch.read(&dn).await;
    assert!(!watch.record(key).0.values(REVERSIBLE).is_empty());
    assert_eq!(watch.intake.look_at_storage(None, Timestamp::now()).unwrap(), StorageNews::default());
    watch.read(&dn).await;
    assert!(watch.record(key).0.values(REVERSIBLE).is_empty());
}

// ---- the whole agent

fn digest_toml(action: &str) -> String {
    format!("[dns]\nservers = [\"{}\"]\n[digest]\nrequired = true\naction = \"{action}\"\n", dns().address())
}

/// example.com has no SRV record.
fn dns() -> &'static Nsd {
    static DNS: OnceLock<Nsd> = OnceLock::new();
    DNS.get_or_init(|| Nsd::start(&[("example.com", "")]))
}

fn start(agent: &mut Agent) {
    agent.start();
    agent.wait_for("the first pass", |agent| agent.log().contains("source.refreshed"));
}

fn is(agent: &Agent, login: &str, readiness: DigestReadiness) {
    let now = |agent: &Agent| agent.standings().get(login).map(|standing| standing.digest);
    agent.wait_for(&format!("{login} {readiness:?}"), |agent| now(agent) == Some(readiness));
}

#[test]
fn the_agent_follows_policies_groups_and_passwords_of_a_domain() {
    let samba = Samba::builder().start();
    samba.grant_with(&["--digest"], "homeward-agent", &[SUFFIX]);
    let ou = samba.ou("people");
    let [ann, bob] = ["ann", "bob"].map(|login| user(&samba, login, &ou));
    samba.modify(&format!("dn: CN=im,{ou}\nchangetype: add\nobjectClass: group\nsAMAccountName: im\n"));
    let mut agent = Agent::of_samba(&samba, &ou).extra(digest_toml("flag"));
    let check = |agent: &Agent| String::from_utf8_lossy(&agent.cli(&["check"]).stdout).into_owned();
    let said = check(&agent);
    assert!(said.contains("reversible encryption of passwords: off in the domain"), "{said}");
    assert!(
        said.contains("0 of 2 accounts have it by their own flag") && said.contains("nobody's next password"),
        "{said}"
    );
    start(&mut agent);
    is(&agent, "ann", UNKNOWN);
    is(&agent, "bob", UNKNOWN);
    let explained = agent.say(&["user", "explain", "ann"]);
    assert!(explained.contains("reversible storage is off for this user: no new password would help"), "{explained}");

    // The flag comes by the entry, the policy by the domain's head, and each without delay.
    flag(&samba, &ann, true);
    flag(&samba, &bob, true);
    domain_policy(&samba, true);
    is(&agent, "ann", RESET);
    is(&agent, "bob", RESET);
    assert!(agent.log().contains("source.storage_changed"), "{}", agent.log());
    let csv = agent.say(&["resets", "--csv"]);
    assert!(csv.lines().any(|line| line.starts_with("ann,")) && csv.contains("Z,"), "{csv}");
    set_password(&samba, "ann");
    is(&agent, "ann", READY);
    assert!(kept(&samba, "ann") && !kept(&samba, "bob"));
    agent.wait_for("the word", |agent| agent.outcomes().contains(&("ready".into(), "ann".into())));
    let said = check(&agent);
    assert!(said.contains("on in the domain; CIS benchmarks (1.1) ask for Disabled, DISA STIG says never"), "{said}");
    assert!(said.contains("2 of 2 accounts have it by their own flag"), "{said}");

    // A policy for a group: who joins is read again, though the entry says nothing.
    pso(&samba, "Off", "10", false);
    apply_pso(&samba, "Off", "im");
    agent.wait_for("the sweep", |agent| agent.log().matches("source.refreshed").count() > 1);
    samba.modify(&format!("dn: CN=im,{ou}\nchangetype: modify\nadd: member\nmember: {ann}\n"));
    is(&agent, "ann", UNKNOWN);
    samba.modify(&format!("dn: CN=im,{ou}\nchangetype: modify\ndelete: member\nmember: {ann}\n"));
    is(&agent, "ann", RESET);
    is(&agent, "bob", RESET);
    agent.wait_for("quiet", Agent::is_quiet);
    // Nothing is left to do, and the plan knows as much as the agent does.
    let plan: serde_json::Value = serde_json::from_str(&agent.say(&["plan", "--json"])).unwrap();
    assert_eq!(
        (plan["changes"].as_array().map(Vec::len), &plan["counts"]["reset_required"]),
        (Some(0), &2.into()),
        "{plan}"
    );

    // Off again: nobody is to change anything.
    domain_policy(&samba, false);
    is(&agent, "bob", UNKNOWN);
    is(&agent, "ann", UNKNOWN);
    assert_eq!(agent.say(&["resets", "--csv"]).lines().count(), 1);
    // What was known survives a restart.
    domain_policy(&samba, true);
    is(&agent, "bob", RESET);
    set_password(&samba, "bob");
    is(&agent, "bob", READY);
    let record = agent.standing("bob").record;
    agent.stop();
    samba.samba_tool(&["domain", "passwordsettings", "set", "--complexity=off"]);
    agent.start();
    agent.wait_for("the agent", |agent| agent.log().matches("source.connected").count() > 2);
    agent.wait_for("quiet", Agent::is_quiet);
    assert_eq!(agent.standing("bob").record, record);
}

#[test]
fn the_agent_demands_a_new_password_once_and_is_content_when_it_was_set() {
    let samba = Samba::builder().start();
    samba.grant_with(&["--digest", "--expire"], "homeward-agent", &[SUFFIX]);
    let ou = samba.ou("people");
    let ann = user(&samba, "ann", &ou);
    flag(&samba, &ann, true);
    let mut agent = Agent::of_samba(&samba, &ou).extra(digest_toml("expire"));
    start(&mut agent);
    is(&agent, "ann", UNKNOWN);
    agent.wait_for("quiet", Agent::is_quiet);
    assert_ne!(samba.value(&ann, "pwdLastSet").as_deref(), Some("0"), "a new one would not help");
    domain_policy(&samba, true);
    agent.wait_for("the demand", |_| samba.value(&ann, "pwdLastSet").as_deref() == Some("0"));
    agent.wait_for("quiet", Agent::is_quiet);
    is(&agent, "ann", RESET);
    let csv = agent.say(&["resets", "--csv"]);
    assert!(csv.lines().any(|line| line.starts_with("ann,") && line.ends_with(",yes")), "{csv}");
    let usn = samba.value(&ann, "uSNChanged");
    agent.say(&["user", "recheck", "ann"]);
    agent.wait_for("quiet", Agent::is_quiet);
    assert_eq!(samba.value(&ann, "uSNChanged"), usn, "once");
    set_password(&samba, "ann");
    is(&agent, "ann", READY);
    assert!(kept(&samba, "ann"));
    agent.wait_for("quiet", Agent::is_quiet);
    assert_ne!(samba.value(&ann, "pwdLastSet").as_deref(), Some("0"));
}

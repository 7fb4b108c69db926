//! Active Directory on a real domain controller (Samba): first the facts that the sources rest on, as the tools of the
//! domain show them; then the sources themselves.

// Only decide/ is without a clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::config::{Bind, SourceKind};
use homeward::directory::Entry;
use homeward::directory::connect::{Endpoint, connect};
use homeward::directory::flavour::RootDse;
use homeward::directory::key::KeyAttribute;
use homeward::directory::lookup;
use homeward::directory::source::syncrepl::{SearchShape, WIDEST_FILTER};
use homeward::directory::source::{Batch, Change, Cursor, Means, Presence, Source, SourceError};
use homeward::directory::stream::Access;
use homeward::model::UserKey;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::samba::{
    ADMIN, ADMIN_PASSWORD, AGENT_DN, AGENT_PASSWORD, PLAIN_DN, PLAIN_PASSWORD, SERVERS, SUFFIX, Samba, shared,
};

const DIRSYNC_FLAG_OBJECT_SECURITY: &str = "1";
const INSUFFICIENT_ACCESS: i32 = 50;
const UNAVAILABLE_CRITICAL_EXTENSION: i32 = 12;

/// One DirSync round by ldapsearch: each entry as (DN, LDIF lines), and the next cookie in base64.
struct Round {
    entries: Vec<(String, Vec<String>)>,
    cookie: String,
}

impl Round {
    /// The entry that lies below `ou`, if there is exactly one.
    fn only_below(&self, ou: &str) -> &[String] {
        let below: Vec<_> = self.entries.iter().filter(|(dn, _)| dn.ends_with(ou)).collect();
        assert_eq!(below.len(), 1, "{:?}", self.entries);
        &below[0].1
    }

    fn names(lines: &[String]) -> Vec<&str> {
        let mut names: Vec<&str> = lines.iter().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
        names.sort_unstable();
        names
    }
}

/// The exit status of ldapsearch is the LDAP result code.
fn dirsync(
    samba: &Samba,
    who: (&str, &str),
    flags: &str,
    cookie: &str,
    base: &str,
    rest: &[&str],
) -> Result<Round, i32> {
    let control = format!("!dirSync={flags}/0/{cookie}");
    let mut args = vec!["-o", "ldif-wrap=no", "-b", base, "-E", &control];
    args.extend(rest);
    let output = samba.run_as(who.0, who.1, "ldapsearch", &args, "");
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(output.status.code().unwrap_or(-1));
    }
    let (mut entries, mut cookie) = (Vec::<(String, Vec<String>)>::new(), None);
    for line in text.lines() {
        if let Some(dn) = line.strip_prefix("dn: ") {
            entries.push((dn.to_owned(), Vec::new()));
        } else if let Some(dn) = line.strip_prefix("dn:: ") {
            entries.push((decoded(dn), Vec::new()));
        } else if let Some(found) = line.strip_prefix("# cookie:: ") {
            cookie = Some(found.to_owned());
        } else if let Some((_, lines)) = entries.last_mut()
            && line.contains(':')
            && !["#", "search: ", "result: ", "control: "].iter().any(|ours| line.starts_with(ours))
        {
            lines.push(line.to_owned());
        }
    }
    entries.retain(|(dn, _)| !dn.is_empty());
    Ok(Round { entries, cookie: cookie.expect("the answer carries the control") })
}

const ADMINISTRATOR: (&str, &str) = (ADMIN, ADMIN_PASSWORD);
const AGENT: (&str, &str) = (AGENT_DN, AGENT_PASSWORD);
const PLAIN: (&str, &str) = (PLAIN_DN, PLAIN_PASSWORD);

fn decoded(text: &str) -> String {
    use base64::Engine as _;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text.trim()).unwrap()).unwrap()
}

#[test]
fn the_fixture_serves_what_was_loaded_and_again_after_a_crash() {
    let samba = Samba::builder().start();
    let ou = samba.ou("fixture");
    let ann = samba.user("ann", &ou, "");
    assert_eq!(samba.value(&ann, "mail").as_deref(), Some("ann@example.com"));
    samba.kill9();
    samba.restart();
    assert_eq!(samba.value(&ann, "mail").as_deref(), Some("ann@example.com"));
    let server = format!("CN=im1,{SERVERS}");
    samba.replace(&ann, "msExchIMVirtualServer", &server);
    assert_eq!(samba.value(&ann, "msExchIMVirtualServer"), Some(server));
}

// ---- facts: DirSync (MS-ADTS 3.1.1.3.4.1.3)

const SOME: [&str; 6] = ["(objectClass=user)", "displayName", "name", "isDeleted", "userAccountControl", "mail"];

fn start(samba: &Samba) -> String {
    dirsync(samba, ADMINISTRATOR, "0", "", SUFFIX, &SOME).unwrap_or_else(|code| panic!("DirSync: {code}")).cookie
}

fn since(samba: &Samba, cookie: &str, rest: &[&str]) -> Round {
    dirsync(samba, ADMINISTRATOR, "0", cookie, SUFFIX, rest).unwrap_or_else(|code| panic!("DirSync: {code}"))
}

#[test]
fn fact_dirsync_gives_the_changed_attributes_alone_with_the_guid() {
    let samba = shared();
    let ou = samba.ou("fact-changed");
    let ann = samba.user("fact-ann", &ou, "displayName: Ann\n");
    let cookie = start(samba);
    samba.replace(&ann, "displayName", "Ann A.");
    let round = since(samba, &cookie, &SOME);
    assert_eq!(Round::names(round.only_below(&ou)), ["displayName", "instanceType", "objectGUID"]);
    samba.replace(&ann, "description", "x");
    let round = since(samba, &round.cookie, &SOME);
    assert!(round.entries.iter().all(|(dn, _)| !dn.ends_with(&ou)), "what was not asked for is not told");
}

#[test]
fn fact_a_rename_is_told_only_to_who_asks_for_name_and_a_deletion_only_to_who_asks_for_is_deleted() {
    let samba = shared();
    let ou = samba.ou("fact-name");
    let bob = samba.user("fact-bob", &ou, "");
    let cookie = start(samba);
    samba.rename(&bob, "CN=fact-bobby", None);
    let bob = format!("CN=fact-bobby,{ou}");
    let told =
        |wanted: &str| since(samba, &cookie, &["(objectClass=user)", wanted]).entries.iter().any(|(dn, _)| *dn == bob);
    assert!(told("name") && !told("cn") && !told("mail") && !told("parentGUID"));
    let guid = samba.value(&bob, "objectGUID").unwrap();
    let cookie = start(samba);
    samba.delete(&bob);
    let told = |filter: &str, wanted: &str| {
        since(samba, &cookie, &[filter, wanted])
            .entries
            .iter()
            .any(|(_, lines)| lines.contains(&format!("objectGUID:: {guid}")))
    };
    assert!(told("(objectClass=user)", "isDeleted") && told("(objectClass=*)", "isDeleted"));
    assert!(!told("(objectClass=user)", "telephoneNumber"), "nobody asked, and nothing of it was lost");
    assert!(!told("(&(objectClass=user)(objectCategory=person))", "isDeleted"), "the filter sees what is left");
}

#[test]
fn fact_a_renamed_container_is_told_alone() {
    let samba = shared();
    let ou = samba.ou("fact-container");
    samba.user("fact-inside", &ou, "");
    let cookie = start(samba);
    samba.rename(&ou, "OU=fact-container-2", None);
    let round = since(samba, &cookie, &["(objectClass=*)", "name", "mail", "isDeleted"]);
    let below: Vec<&str> =
        round.entries.iter().map(|(dn, _)| dn.as_str()).filter(|dn| dn.contains("fact-container")).collect();
    assert_eq!(below, [format!("OU=fact-container-2,{SUFFIX}")]);
}

#[test]
fn fact_members_are_told_on_the_group_and_not_on_the_user() {
    let samba = shared();
    let ou = samba.ou("fact-group");
    let user = samba.user("fact-member", &ou, "");
    samba.modify(&format!("dn: CN=fact-staff,{ou}\nchangetype: add\nobjectClass: group\nsAMAccountName: fact-staff\n"));
    let cookie = start(samba);
    samba.modify(&format!("dn: CN=fact-staff,{ou}\nchangetype: modify\nadd: member\nmember: {user}\n"));
    let round = since(samba, &cookie, &["(objectClass=*)", "member", "memberOf", "name"]);
    let lines = round.only_below(&ou);
    assert!(lines.iter().any(|line| line.starts_with("member:") && line.ends_with(&user)), "{lines:?}");
    assert_eq!(samba.value(&user, "memberOf"), Some(format!("CN=fact-staff,{ou}")));
}

#[test]
fn fact_with_nothing_new_the_cookie_stays_and_it_names_the_dc() {
    // A DC of its own: nobody else changes anything.
    let samba = Samba::builder().start();
    let cookie = start(&samba);
    let again = since(&samba, &cookie, &SOME);
    assert_eq!((again.entries.len(), &again.cookie), (0, &cookie));
    let service = samba.value("", "dsServiceName").unwrap();
    let invocation = octets(&samba.value(&service, "invocationId").unwrap());
    let octets = octets(&cookie);
    assert_eq!((&octets[..4], &octets[52..68]), (&b"MSDS"[..], &invocation[..]));

    // A cookie that a DC does not know for its own, but with a USN of it in the vector, as after a change of DC: nothing
    // is lost, and nothing comes twice here.
    let everything = dirsync(&samba, ADMINISTRATOR, "0", "", SUFFIX, &SOME).unwrap().entries.len();
    let mut other = octets.clone();
    other[52..68].fill(7);
    let other = since(&samba, &base64(&other), &SOME);
    assert_eq!(other.entries.len(), 0);
    assert_eq!(&self::octets(&other.cookie)[52..68], &invocation[..], "the next cookie is the server's own");
    // One of nobody that it knows: everything from the beginning, and no error.
    let mut foreign = octets.clone();
    while let Some(at) = foreign.windows(16).position(|window| window == invocation) {
        foreign[at..at + 16].fill(7);
    }
    assert_eq!(since(&samba, &base64(&foreign), &SOME).entries.len(), everything);

    // A damaged one is refused.
    let damaged = dirsync(&samba, ADMINISTRATOR, "0", &base64(b"damaged"), SUFFIX, &SOME);
    assert_eq!(damaged.map(|_| ()), Err(UNAVAILABLE_CRITICAL_EXTENSION));

    // A DC put back in time: no error and nothing, until its USN has passed the cookie's.
    samba.stop();
    samba.save("before.tar");
    samba.launch();
    let users = format!("CN=Users,{SUFFIX}");
    for n in 0..5 {
        samba.user(&format!("fact-lost-{n}"), &users, "");
    }
    let (ahead, usn) = (since(&samba, &cookie, &SOME).cookie, samba.usn());
    samba.stop();
    samba.put_back("before.tar");
    samba.launch();
    samba.user("fact-unheard", &users, "");
    assert!(samba.usn() < usn);
    assert_eq!(since(&samba, &ahead, &SOME).entries.len(), 0);
}

#[test]
fn fact_the_base_is_the_head_of_the_domain_and_an_ordinary_account_needs_object_security() {
    let samba = shared();
    let ou = samba.ou("fact-rights");
    let at = |who, flags, base: &str| dirsync(samba, who, flags, "", base, &SOME).map(|round| round.entries.len());
    assert_eq!(at(ADMINISTRATOR, "0", &ou), Err(INSUFFICIENT_ACCESS));
    assert_eq!(at(PLAIN, "0", SUFFIX), Err(INSUFFICIENT_ACCESS));
    assert!(at(PLAIN, DIRSYNC_FLAG_OBJECT_SECURITY, SUFFIX).unwrap() > 0);
    assert_eq!(at(AGENT, "0", SUFFIX), Err(INSUFFICIENT_ACCESS), "the agent has no special right");
    assert!(at(AGENT, DIRSYNC_FLAG_OBJECT_SECURITY, SUFFIX).unwrap() > 0);
    // 1: object security, 0x800: ancestors first.
    assert!(at(AGENT, "2049", SUFFIX).unwrap() > 0);
}

#[test]
fn fact_deletions_are_told_to_who_may_read_deleted_objects() {
    let samba = shared();
    let ou = samba.ou("fact-tombstones");
    let user = samba.user("fact-dead", &ou, "");
    let guid = format!("objectGUID:: {}", samba.value(&user, "objectGUID").unwrap());
    let cookie = |who| dirsync(samba, who, DIRSYNC_FLAG_OBJECT_SECURITY, "", SUFFIX, &SOME).unwrap().cookie;
    let (agent, plain) = (cookie(AGENT), cookie(PLAIN));
    samba.delete(&user);
    let told = |who, cookie: &str| {
        let round = dirsync(samba, who, DIRSYNC_FLAG_OBJECT_SECURITY, cookie, SUFFIX, &SOME).unwrap();
        let found = round.entries.into_iter().find(|(_, lines)| lines.contains(&guid));
        found.map(|(dn, lines)| (dn, lines.contains(&"isDeleted: TRUE".to_owned())))
    };
    let (dn, deleted) = told(AGENT, &agent).expect("the agent hears it");
    assert!(dn.contains("\\0ADEL:") && dn.ends_with(&format!(",CN=Deleted Objects,{SUFFIX}")) && deleted, "{dn}");
    assert_eq!(told(PLAIN, &plain), None);
    // The same by a search: with the control, and the rights.
    let seen = |who: (&str, &str), control: &[&str]| {
        let mut args = vec!["-LLL", "-o", "ldif-wrap=no", "-b", SUFFIX];
        args.extend(control);
        args.extend(["(&(isDeleted=TRUE)(objectClass=user))", "objectGUID"]);
        let output = samba.run_as(who.0, who.1, "ldapsearch", &args, "");
        String::from_utf8_lossy(&output.stdout).contains(&guid)
    };
    let control = ["-E", "!showDeleted"];
    assert!(seen(AGENT, &control) && !seen(PLAIN, &control) && !seen(AGENT, &[]));
}

// ---- facts: USNs and notification

#[test]
fn fact_every_write_moves_the_usn_and_a_write_of_the_same_value_does_not() {
    let samba = Samba::builder().start();
    let user = samba.user("fact-usn", &format!("CN=Users,{SUFFIX}"), "displayName: One\n");
    let before = samba.usn();
    samba.replace(&user, "displayName", "Two");
    assert_eq!(samba.usn(), before + 1);
    assert_eq!(samba.value(&user, "uSNChanged"), Some((before + 1).to_string()));
    samba.replace(&user, "displayName", "Two");
    assert_eq!(samba.usn(), before + 1);
    let found = samba.entries(SUFFIX, &format!("(uSNChanged>={})", before + 1), &["cn"]);
    assert_eq!(found.keys().filter(|dn| !dn.is_empty()).collect::<Vec<_>>(), [&user]);
}

#[test]
fn fact_a_notification_search_takes_no_other_filter_and_needs_no_special_right() {
    let samba = shared();
    let ask = |filter: &str| {
        let args = ["-b", SUFFIX, "-l", "1", "-E", "!serverNotif", filter, "uSNChanged"];
        let mut command = std::process::Command::new("timeout");
        command.args(["2", "ldapsearch", "-x", "-H", &samba.url(), "-D", AGENT_DN, "-w", AGENT_PASSWORD]).args(args);
        command.output().unwrap().status.code()
    };
    assert_eq!(ask("(objectClass=user)"), Some(53));
    // It stays open: 124 is what `timeout` says of a program that it ended. 3: Samba keeps to the time limit.
    assert!(matches!(ask("(objectClass=*)"), Some(124 | 3)));
}

// ---- facts: writing

fn swap(dn: &str, attribute: &str, old: &str, new: &str) -> String {
    format!(
        "dn: {dn}\nchangetype: modify\ndelete: {attribute}\n{attribute}: {old}\n-\nadd: {attribute}\n{attribute}: {new}\n"
    )
}

#[test]
fn fact_old_value_out_and_new_value_in_is_a_compare_and_set() {
    let samba = shared();
    let user = samba.user("fact-swap", &samba.ou("fact-swap"), "msExchIMAddress: a@im.example.com\n");
    assert_eq!(samba.attempt(&swap(&user, "msExchIMAddress", "other@im.example.com", "b@im.example.com")), 16);
    assert_eq!(
        samba.attempt(&swap(&user, "msExchIMAddress", "A@im.example.com", "b@im.example.com")),
        16,
        "case counts"
    );
    assert_eq!(samba.value(&user, "msExchIMAddress").as_deref(), Some("a@im.example.com"));
    let add = format!("dn: {user}\nchangetype: modify\nadd: msExchIMAddress\nmsExchIMAddress: c@im.example.com\n");
    assert_eq!(samba.attempt(&add), 20);
    assert_eq!(samba.attempt(&swap(&user, "msExchIMAddress", "a@im.example.com", "b@im.example.com")), 0);
    assert_eq!(
        samba.entries(SUFFIX, "(msExchIMAddress=B@im.example.com)", &["cn"]).keys().filter(|dn| !dn.is_empty()).count(),
        0
    );
    assert_eq!(
        samba.entries(SUFFIX, "(msExchIMAddress=b@im.example.com)", &["cn"]).keys().filter(|dn| !dn.is_empty()).count(),
        1
    );
}

#[test]
fn fact_the_virtual_server_is_one_that_exists_and_a_deleted_one_leaves_its_users_pointing_at_the_dead() {
    let samba = shared();
    let ou = samba.ou("fact-server");
    let user = samba.user("fact-hosted", &ou, "");
    let set = |server: &str| {
        format!("dn: {user}\nchangetype: modify\nreplace: msExchIMVirtualServer\nmsExchIMVirtualServer: {server}\n")
    };
    assert_eq!(samba.attempt(&set(&format!("CN=none,{SERVERS}"))), 19);
    let server = format!("CN=fact-im9,{SERVERS}");
    samba.modify(&format!(
        "dn: {server}\nchangetype: add\nobjectClass: msExchProtocolCfgIMVirtualServer\nmsExchIMServerIISId: 1\n"
    ));
    assert_eq!(samba.attempt(&set(&server)), 0);
    let usn = samba.value(&user, "uSNChanged");
    samba.delete(&server);
    let now = samba.value(&user, "msExchIMVirtualServer").unwrap();
    let now = if now.contains("Deleted Objects") { now } else { decoded(&now) };
    assert!(now.contains("\\0ADEL:") && now.contains("CN=Deleted Objects,"), "{now}");
    assert_eq!(samba.value(&user, "uSNChanged"), usn, "and nobody is told");
}

#[test]
fn fact_the_agent_writes_its_four_attributes_and_nothing_else() {
    let samba = shared();
    let ou = samba.ou("fact-least");
    let user = samba.user("fact-least", &ou, "");
    let person = format!("CN=fact-person,{ou}");
    samba.modify(&format!(
        "dn: {person}\nchangetype: add\nobjectClass: inetOrgPerson\nsAMAccountName: fact-person\nuserAccountControl: 544\n"
    ));
    for dn in [&user, &person] {
        let set = |attribute: &str, value: &str| {
            let ldif = format!("dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n");
            samba.attempt_as(AGENT_DN, AGENT_PASSWORD, &ldif)
        };
        let url = "http://im.example.com/instmsg/aliases/x";
        assert_eq!(set("msExchIMAddress", "x@im.example.com"), 0);
        assert_eq!(set("msExchIMMetaPhysicalURL", url), 0);
        assert_eq!(set("msExchIMPhysicalURL", url), 0);
        assert_eq!(set("msExchIMVirtualServer", &format!("CN=im1,{SERVERS}")), 0);
        for attribute in ["mail", "displayName", "userPrincipalName", "servicePrincipalName", "pwdLastSet"] {
            assert_eq!(set(attribute, "0"), INSUFFICIENT_ACCESS, "{attribute}");
        }
    }
    let group = format!("dn: CN=g,{ou}\nchangetype: add\nobjectClass: group\nsAMAccountName: fact-g\n");
    assert_eq!(samba.attempt_as(AGENT_DN, AGENT_PASSWORD, &group), INSUFFICIENT_ACCESS);
}

// ---- facts: reading

#[test]
fn fact_a_guid_names_an_entry_and_filters_take_its_octets() {
    let samba = shared();
    let ou = samba.ou("fact-guid");
    let (a, b) = (samba.user("fact-guid-a", &ou, ""), samba.user("fact-guid-b", &ou, ""));
    let hex = |dn: &str| -> Vec<String> {
        octets(&samba.value(dn, "objectGUID").unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    // In the order of the octets, where the text form turns the first three parts round.
    assert_eq!(samba.value(&format!("<GUID={}>", hex(&a).concat()), "name").as_deref(), Some("fact-guid-a"));
    let filter = format!("(|(objectGUID=\\{})(objectGUID=\\{}))", hex(&a).join("\\"), hex(&b).join("\\"));
    let mut found: Vec<String> =
        samba.entries(SUFFIX, &filter, &["cn"]).into_keys().filter(|dn| !dn.is_empty()).collect();
    found.sort();
    assert_eq!(found, [a, b]);
}

#[test]
fn fact_nested_members_are_found_by_the_rule_in_chain() {
    let samba = shared();
    let ou = samba.ou("fact-chain");
    let user = samba.user("fact-chained", &ou, "");
    for (group, member) in [("inner", user.clone()), ("outer", format!("CN=inner,{ou}"))] {
        samba.modify(&format!(
            "dn: CN={group},{ou}\nchangetype: add\nobjectClass: group\nsAMAccountName: fact-{group}\nmember: {member}\n"
        ));
    }
    let filter = format!("(&(objectClass=user)(memberOf:1.2.840.113556.1.4.1941:=CN=outer,{ou}))");
    let found: Vec<String> = samba.entries(SUFFIX, &filter, &["cn"]).into_keys().filter(|dn| !dn.is_empty()).collect();
    assert_eq!(found, [user]);
}

#[test]
fn fact_the_root_dse_offers_what_the_sources_need_and_not_what_openldap_has() {
    let samba = shared();
    let root =
        samba.run_as(AGENT_DN, AGENT_PASSWORD, "ldapsearch", &["-LLL", "-s", "base", "-b", "", "supportedControl"], "");
    let root = String::from_utf8_lossy(&root.stdout).into_owned();
    let offers = |oid: &str| root.lines().any(|line| line == format!("supportedControl: {oid}"));
    // DirSync, notification, show deleted, paged results; assertion (RFC 4528), content synchronization (RFC 4533).
    for (oid, offered) in [
        ("1.2.840.113556.1.4.841", true),
        ("1.2.840.113556.1.4.528", true),
        ("1.2.840.113556.1.4.417", true),
        ("1.2.840.113556.1.4.319", true),
        ("1.3.6.1.1.12", false),
        ("1.3.6.1.4.1.4203.1.9.1.1", false),
    ] {
        assert_eq!(offers(oid), offered, "{oid}");
    }
    let whoami = samba.run_as(AGENT_DN, AGENT_PASSWORD, "ldapwhoami", &[], "");
    assert!(String::from_utf8_lossy(&whoami.stderr).contains("Protocol error (2)"), "no RFC 4532");
    let whole = samba.run_as(AGENT_DN, AGENT_PASSWORD, "ldapsearch", &["-LLL", "-b", SUFFIX, "(cn=none)", "1.1"], "");
    assert!(String::from_utf8_lossy(&whole.stdout).contains("# refldap"), "references come, never to be followed");
}

fn octets(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).unwrap()
}

fn base64(octets: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(octets)
}

// ---- the sources

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const BOTH: [SourceKind; 2] = [SourceKind::DirSync, SourceKind::Usn];

fn access(samba: &Samba, who: (&str, &str)) -> Access {
    let mut directory = samba.directory();
    directory.bind = Bind::Simple { dn: who.0.into(), password: who.1.to_owned().into() };
    let endpoint = Endpoint::parse(&directory.urls[0], &directory.tls, false).unwrap();
    Access::new(&directory, endpoint, KeyAttribute::ObjectGuid)
}

fn means(kind: SourceKind, sees_deleted: bool) -> Means {
    Means::new(kind, LONG, &RootDse::default(), sees_deleted)
}

fn shape(base: &str) -> SearchShape {
    SearchShape {
        base: base.into(),
        filter: WIDEST_FILTER.into(),
        attributes: ["objectClass", "sAMAccountName", "displayName", "memberOf", "member"].map(String::from).to_vec(),
        meaning: String::new(),
    }
}

fn key(samba: &Samba, dn: &str) -> UserKey {
    KeyAttribute::ObjectGuid.read(&octets(&samba.value(dn, "objectGUID").unwrap())).unwrap()
}

/// A source under way, and what it has told so far.
struct Hearing {
    source: Source,
    entries: BTreeMap<UserKey, Entry>,
    deleted: BTreeSet<UserKey>,
    batches: Vec<Batch>,
    complete: Option<Presence>,
    cursor: Option<Cursor>,
}

impl Hearing {
    async fn start(
        kind: SourceKind,
        samba: &Samba,
        base: &str,
        cursor: Option<&Cursor>,
    ) -> Result<Hearing, SourceError> {
        Hearing::start_as(kind, samba, AGENT, base, cursor).await
    }

    async fn start_as(
        kind: SourceKind,
        samba: &Samba,
        who: (&str, &str),
        base: &str,
        cursor: Option<&Cursor>,
    ) -> Result<Hearing, SourceError> {
        let source = Source::start(&means(kind, true), &access(samba, who), &shape(base), cursor).await?;
        let (entries, deleted, batches) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        let mut hearing = Hearing { source, entries, deleted, batches, complete: None, cursor: cursor.cloned() };
        while hearing.complete.is_none() {
            hearing.take().await?;
            let last = hearing.batches.last().unwrap();
            assert!(last.refresh);
            assert!(last.cursor.is_none() || last.complete.is_some(), "no cursor before the end of a refresh");
        }
        Ok(hearing)
    }

    async fn take(&mut self) -> Result<(), SourceError> {
        let batch = tokio::time::timeout(LONG, self.source.next()).await.expect("a batch within a minute")?;
        for change in batch.changes.clone() {
            match change {
                Change::Entry(entry) => {
                    self.deleted.remove(&entry.key);
                    self.entries.insert(entry.key, entry);
                }
                Change::Deleted(key) => {
                    self.deleted.insert(key);
                }
                Change::Present(_) | Change::Removed { .. } | Change::Unreadable { .. } => panic!("{change:?}"),
            }
        }
        self.complete = batch.complete.or(self.complete);
        self.cursor = batch.cursor.clone().or(self.cursor.take());
        self.batches.push(batch);
        Ok(())
    }

    /// Hears on until `enough`, and until the position that covers it is told.
    async fn until(&mut self, enough: impl Fn(&Hearing) -> bool) {
        while !enough(self) {
            self.take().await.unwrap();
        }
        while self.batches.last().unwrap().cursor.is_none() {
            self.take().await.unwrap();
        }
    }

    fn text(&self, key: UserKey, attribute: &str) -> Option<String> {
        let value = self.entries.get(&key)?.values(attribute).first()?;
        Some(String::from_utf8(value.clone()).unwrap())
    }

    fn names(&self) -> BTreeSet<String> {
        let name = |entry: &Entry| {
            entry.values("samaccountname").first().map(|name| String::from_utf8_lossy(name).into_owned())
        };
        self.entries.values().filter_map(name).collect()
    }
}

#[tokio::test]
async fn a_source_reads_everything_below_the_base_and_goes_on_from_where_it_was() {
    let samba = shared();
    for kind in BOTH {
        let ou = samba.ou(&format!("resume-{kind}"));
        let (a, b) = (format!("{kind}-ra"), format!("{kind}-rb"));
        let ann = samba.user(&a, &ou, "displayName: Ann\n");
        samba.modify(&format!(
            "dn: CN={kind}-pc,{ou}\nchangetype: add\nobjectClass: computer\nsAMAccountName: {kind}-pc$\n"
        ));
        let hearing = Hearing::start(kind, samba, &ou, None).await.unwrap();
        assert!(!hearing.source.resumed());
        assert_eq!(
            (hearing.complete, hearing.names()),
            (Some(Presence::Everything), BTreeSet::from([a.clone()])),
            "no computer"
        );
        let key_a = key(samba, &ann);
        assert_eq!(hearing.text(key_a, "displayname").as_deref(), Some("Ann"));
        let cursor = hearing.cursor.clone().unwrap();
        assert_eq!(cursor.source, kind.as_str());
        drop(hearing);

        // Nothing happened, then something.
        let hearing = Hearing::start(kind, samba, &ou, Some(&cursor)).await.unwrap();
        assert!(hearing.source.resumed());
        assert_eq!(hearing.complete, Some(Presence::ChangesOnly));
        assert!(!hearing.entries.contains_key(&key_a));
        drop(hearing);
        let bob = samba.user(&b, &ou, "");
        samba.replace(&ann, "displayName", "Ann A.");
        let hearing = Hearing::start(kind, samba, &ou, Some(&cursor)).await.unwrap();
        assert_eq!(hearing.text(key_a, "displayname").as_deref(), Some("Ann A."));
        assert_eq!(hearing.text(key_a, "samaccountname").as_deref(), Some(a.as_str()), "read whole");
        assert!(hearing.entries.contains_key(&key(samba, &bob)));
    }
}

#[tokio::test]
async fn changes_moves_and_deletes_are_heard_while_it_listens() {
    let samba = shared();
    for kind in BOTH {
        let (ou, elsewhere) = (samba.ou(&format!("live-{kind}")), samba.ou(&format!("elsewhere-{kind}")));
        let mut hearing = Hearing::start(kind, samba, &ou, None).await.unwrap();
        let user = samba.user(&format!("{kind}-live"), &ou, "");
        let key = key(samba, &user);
        hearing.until(|heard| heard.entries.contains_key(&key)).await;
        samba.replace(&user, "displayName", "New");
        hearing.until(|heard| heard.text(key, "displayname").as_deref() == Some("New")).await;
        // A rename, out of the base, into it again.
        let place = |heard: &Hearing| heard.entries[&key].dn.clone();
        samba.rename(&user, &format!("CN={kind}-renamed"), None);
        hearing.until(|heard| place(heard) == format!("CN={kind}-renamed,{ou}")).await;
        samba.rename(&format!("CN={kind}-renamed,{ou}"), &format!("CN={kind}-renamed"), Some(&elsewhere));
        hearing.until(|heard| place(heard) == format!("CN={kind}-renamed,{elsewhere}")).await;
        samba.rename(&format!("CN={kind}-renamed,{elsewhere}"), &format!("CN={kind}-renamed"), Some(&ou));
        hearing.until(|heard| place(heard) == format!("CN={kind}-renamed,{ou}")).await;
        // A group and its member.
        let group = format!("CN={kind}-group,{ou}");
        samba.modify(&format!(
            "dn: {group}\nchangetype: add\nobjectClass: group\nsAMAccountName: {kind}-group\nmember: CN={kind}-renamed,{ou}\n"
        ));
        let group = self::key(samba, &group);
        hearing.until(|heard| heard.text(group, "member") == Some(format!("CN={kind}-renamed,{ou}"))).await;
        // A container: itself alone.
        samba.rename(&ou, &format!("OU=live2-{kind}"), None);
        let container = self::key(samba, &format!("OU=live2-{kind},{SUFFIX}"));
        hearing
            .until(|heard| heard.entries.get(&container).is_some_and(|entry| entry.dn.starts_with("OU=live2")))
            .await;
        // A delete is proof.
        samba.delete(&format!("CN={kind}-renamed,OU=live2-{kind},{SUFFIX}"));
        hearing.until(|heard| heard.deleted.contains(&key)).await;
    }
}

#[tokio::test]
async fn a_deleted_and_restored_user_comes_back_whole() {
    let samba = shared();
    let ou = samba.ou("restore");
    let mut hearing = Hearing::start(SourceKind::DirSync, samba, &ou, None).await.unwrap();
    let user = samba.user("restored", &ou, "");
    let key = key(samba, &user);
    samba.delete(&user);
    hearing.until(|heard| heard.deleted.contains(&key)).await;
    // Undelete (MS-ADTS 3.1.1.5.3.7.2).
    let ldif = format!(
        "dn: CN=restored\\0ADEL:{key},CN=Deleted Objects,{SUFFIX}\nchangetype: modify\ndelete: isDeleted\n-\n\
         replace: distinguishedName\ndistinguishedName: {user}\n"
    );
    let output = samba.run_as(ADMIN, ADMIN_PASSWORD, "ldapmodify", &["-e", "!1.2.840.113556.1.4.417"], &ldif);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    hearing
        .until(|heard| heard.entries.get(&key).is_some_and(|entry| entry.dn == user) && !heard.deleted.contains(&key))
        .await;
}

#[tokio::test]
async fn a_cursor_of_another_search_starts_from_nothing_and_a_damaged_cookie_asks_for_a_refresh() {
    let samba = shared();
    let (ou, other) = (samba.ou("cursor"), samba.ou("cursor-other"));
    let cursor = Hearing::start(SourceKind::DirSync, samba, &ou, None).await.unwrap().cursor.unwrap();
    let elsewhere = Hearing::start(SourceKind::DirSync, samba, &other, Some(&cursor)).await.unwrap();
    assert!(!elsewhere.source.resumed());
    let usn = Hearing::start(SourceKind::Usn, samba, &ou, Some(&cursor)).await.unwrap();
    assert!(!usn.source.resumed());

    // Our own position around a cookie that the server cannot read.
    let spoil = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut position: serde_json::Value = serde_json::from_slice(&cursor.position).unwrap();
        change(&mut position);
        Cursor { position: serde_json::to_vec(&position).unwrap(), ..cursor.clone() }
    };
    let damaged = spoil(&|position| {
        let mut cookie = octets(position["cookie"].as_str().unwrap());
        cookie.truncate(20);
        position["cookie"] = base64(&cookie).into();
    });
    let refused = |outcome: Result<Hearing, SourceError>| match outcome.map(|_| ()) {
        Err(SourceError::RefreshRequired { text, .. }) => text,
        other => panic!("{other:?}"),
    };
    refused(Hearing::start(SourceKind::DirSync, samba, &ou, Some(&damaged)).await);
    // Another domain controller, another domain, long ago.
    const NOBODY: &str = "00000000-0000-0000-0000-000000000001";
    let foreign = spoil(&|position| {
        position["invocation"] = NOBODY.into();
        position["cookie"] = base64(b"MSDS of somebody else").into();
    });
    let text = refused(Hearing::start(SourceKind::DirSync, samba, &ou, Some(&foreign)).await);
    assert!(text.contains("another domain controller"), "{text}");
    // Known by its cookie: gone on with.
    let known = spoil(&|position| position["invocation"] = NOBODY.into());
    assert!(Hearing::start(SourceKind::DirSync, samba, &ou, Some(&known)).await.unwrap().source.resumed());
    let text = refused(
        Hearing::start(SourceKind::DirSync, samba, &ou, Some(&spoil(&|position| position["domain"] = NOBODY.into())))
            .await,
    );
    assert!(text.contains("another domain"), "{text}");
    let old = spoil(&|position| position["at"] = (position["at"].as_i64().unwrap() - 200 * 86_400_000).into());
    let text = refused(Hearing::start(SourceKind::DirSync, samba, &ou, Some(&old)).await);
    assert!(text.contains("200 days"), "{text}");

    let cursor = Hearing::start(SourceKind::Usn, samba, &ou, None).await.unwrap().cursor.unwrap();
    let mut position: serde_json::Value = serde_json::from_slice(&cursor.position).unwrap();
    position["invocation"] = NOBODY.into();
    let foreign = Cursor { position: serde_json::to_vec(&position).unwrap(), ..cursor };
    let text = refused(Hearing::start(SourceKind::Usn, samba, &ou, Some(&foreign)).await);
    assert!(text.contains("another domain controller"), "{text}");
}

#[tokio::test]
async fn a_domain_controller_put_back_in_time_asks_for_a_refresh() {
    let samba = Samba::builder().start();
    let ou = samba.ou("rollback");
    samba.stop();
    samba.save("before.tar");
    samba.launch();
    for n in 0..5 {
        samba.user(&format!("lost-{n}"), &ou, "");
    }
    for kind in BOTH {
        let cursor = Hearing::start(kind, &samba, &ou, None).await.unwrap().cursor.unwrap();
        samba.stop();
        samba.save("after.tar");
        samba.put_back("before.tar");
        samba.launch();
        match Hearing::start(kind, &samba, &ou, Some(&cursor)).await.map(|_| ()) {
            Err(SourceError::RefreshRequired { text, .. }) => assert!(text.contains("put back in time"), "{text}"),
            other => panic!("{other:?}"),
        }
        samba.stop();
        samba.put_back("after.tar");
        samba.launch();
        assert!(Hearing::start(kind, &samba, &ou, Some(&cursor)).await.unwrap().source.resumed());
    }
}

#[tokio::test]
async fn who_may_not_read_deleted_objects_hears_of_no_deletion_and_is_told_so() {
    let samba = shared();
    let ou = samba.ou("blind");
    let user = samba.user("blind-user", &ou, "");
    for kind in BOTH {
        let mut hearing = Hearing::start_as(kind, samba, PLAIN, &ou, None).await.unwrap();
        let other = samba.user(&format!("blind-{kind}"), &ou, "");
        let other = key(samba, &other);
        hearing.until(|heard| heard.entries.contains_key(&other)).await;
    }
    let mut hearing = Hearing::start_as(SourceKind::DirSync, samba, PLAIN, &ou, None).await.unwrap();
    samba.delete(&user);
    let later = samba.user("blind-later", &ou, "");
    let later = key(samba, &later);
    hearing.until(|heard| heard.entries.contains_key(&later)).await;
    assert_eq!(hearing.deleted, BTreeSet::new());

    let as_whom = |who: (&str, &str)| {
        let mut directory = samba.directory();
        directory.bind = Bind::Simple { dn: who.0.into(), password: who.1.to_owned().into() };
        directory
    };
    for (who, sees) in [(AGENT, true), (PLAIN, false)] {
        let mut ldap = connect(&as_whom(who), LONG).await.unwrap().0;
        assert_eq!(lookup::sees_deleted(&mut ldap, SUFFIX).await.unwrap(), sees);
        let guarantees = means(SourceKind::DirSync, sees).guarantees(true);
        assert_eq!(guarantees.deletes.starts_with("by sweep only"), !sees);
    }
}

#[tokio::test]
async fn our_own_entry_is_found_by_whatever_name_we_bound_with() {
    let samba = shared();
    for name in [AGENT_DN, "homeward-agent@example.com", "EXAMPLE\\homeward-agent"] {
        let mut directory = samba.directory();
        directory.bind = Bind::Simple { dn: name.into(), password: AGENT_PASSWORD.to_owned().into() };
        let mut ldap = connect(&directory, LONG).await.unwrap().0;
        let own = lookup::own_entry(&mut ldap, &directory.bind).await.unwrap().expect("somebody");
        assert_eq!((own.dn.as_str(), own.readable), (AGENT_DN, true), "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_ends_the_source() {
    let samba = Samba::builder().start();
    for kind in BOTH {
        let mut hearing = Hearing::start(kind, &samba, SUFFIX, None).await.unwrap();
        samba.kill9();
        assert!(matches!(hearing.take().await, Err(SourceError::Stream(_))));
        samba.restart();
    }
}

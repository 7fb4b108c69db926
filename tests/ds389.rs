//! 389 Directory Server, as Debian has it: what the code relies on, and the agent at work on it.

// clippy.toml's list is for decide/; a test reads the clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::directory::connect::{Endpoint, connect};
use homeward::directory::flavour;
use homeward::directory::key::KeyAttribute;
use homeward::directory::source::syncrepl::{SearchShape, Syncrepl, WIDEST_FILTER};
use homeward::directory::source::{Change, Presence};
use homeward::directory::stream::{Access, Patience};
use homeward::directory::write_back::{Target, apply};
use homeward::model::{AttributeChange, DigestReadiness, ExpireResult, PasswordDate, Status, Write, WriteResult};
use ldap3::Ldap;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use support::agent::Agent;
use support::dns::Nsd;
use support::ds389::{Ds389, MANAGER_DN, MANAGER_PASSWORD};
use support::slapd::{AGENT_DN, AGENT_PASSWORD, SUFFIX, person};

/// A search by the agent; result code and LDIF.
fn agent_searches(server: &Ds389, base: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["-LLL", "-o", "ldif-wrap=no", "-b", base], arguments].concat();
    let output = server.run_as(AGENT_DN, AGENT_PASSWORD, "ldapsearch", &arguments, "");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The result code of a modification by the agent.
fn agent_modifies(server: &Ds389, ldif: &str, arguments: &[&str]) -> Option<i32> {
    server.run_as(AGENT_DN, AGENT_PASSWORD, "ldapmodify", arguments, ldif).status.code()
}

fn dn(uid: &str) -> String {
    format!("uid={uid},ou=people,{SUFFIX}")
}

fn replace(dn: &str, attribute: &str, value: &str) -> String {
    format!("dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n")
}

#[test]
fn both_forms_of_the_schema_define_the_same() {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("{}/schemas/ldap/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    };
    let mut openldap = read("homeward.schema");
    // The names of OIDs, the longest first, become the OIDs.
    let mut names: Vec<(String, String)> = Vec::new();
    for line in openldap.lines().filter_map(|line| line.strip_prefix("objectidentifier ")) {
        let (name, oid) = line.trim().split_once(char::is_whitespace).unwrap();
        let (above, rest) = oid.trim().split_once(':').unwrap_or((oid.trim(), ""));
        let above = names.iter().find(|(known, _)| known == above).map_or(above.to_owned(), |(_, oid)| oid.clone());
        names.push((
            name.into(),
            [above, rest.into()].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("."),
        ));
    }
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    for (name, oid) in &names {
        openldap = openldap.replace(&format!("( {name}:"), &format!("( {oid}."));
    }
    let words = |text: &str| -> Vec<String> {
        let definitions = text.lines().filter(|line| !line.starts_with("objectidentifier") && !line.starts_with("dn:"));
        let text = definitions.collect::<Vec<_>>().join("\n").replace("X-ORIGIN 'Homeward'", "");
        let text = text.replace("attributeTypes:", "attributetype").replace("objectClasses:", "objectclass");
        text.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words(&openldap), words(&read("389ds.ldif")));
}

#[test]
fn fact_ns_unique_id_is_always_there_and_survives_rename_and_move() {
    let server = Ds389::builder().import(person("imported", "")).start();
    server.add(&person("added", ""));
    let id = |filter: &str| server.value(filter, "nsUniqueId");
    let (imported, added) = (id("(uid=imported)").unwrap(), id("(uid=added)").unwrap());
    assert_eq!(imported.split('-').map(str::len).collect::<Vec<_>>(), [8, 8, 8, 8]);
    // Not so entryUUID: an import gives none.
    assert_eq!(server.value("(uid=imported)", "entryUUID"), None);
    server.rename(&dn("added"), "uid=other", Some(&format!("ou=services,{SUFFIX}")));
    assert_eq!(id("(uid=other)"), Some(added.clone()));
    // It can be asked for by it, whatever the DN is.
    let (code, found) = agent_searches(&server, SUFFIX, &[&format!("(nsUniqueId={added})"), "nsUniqueId"]);
    assert_eq!(code, Some(0));
    assert!(found.contains(&format!("dn: uid=other,ou=services,{SUFFIX}")) && found.contains(&added), "{found}");
}

/// One content synchronization search by the agent, to the end of its refresh: result code, LDIF with the sync
/// information as comments, and the cookie.
fn sync(server: &Ds389, filter: &str, cookie: Option<&str>, attributes: &[&str]) -> (Option<i32>, String, String) {
    let control = cookie.map_or("!sync=ro".to_owned(), |cookie| format!("!sync=ro/{cookie}"));
    let arguments = [&["-o", "ldif-wrap=no", "-b", &format!("ou=people,{SUFFIX}"), "-E", &control, filter], attributes];
    let output = server.run_as(AGENT_DN, AGENT_PASSWORD, "ldapsearch", &arguments.concat(), "");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let cookie = told.lines().find_map(|line| line.split_once("cookie: ").or(line.split_once("cookie:: ")));
    (output.status.code(), told.clone(), cookie.map(|(_, cookie)| cookie.to_owned()).unwrap_or_default())
}

#[test]
fn fact_what_content_synchronization_tells_and_what_it_does_not() {
    let people: String = ["stays", "leaves", "goes", "moves"]
        .map(|uid| person(uid, "employeeType: staff\nuserPassword: s3cret\n"))
        .concat();
    let server = Ds389::builder().content_sync().users(people).start();
    let staff = "(employeeType=staff)";
    let (_, told, cookie) = sync(&server, staff, None, &["uid"]);
    assert_eq!(told.matches(" added").count(), 4, "{told}");
    // Server, account, base, filter, and the number of the change.
    let number = cookie.strip_prefix(&format!("localhost:{}#{AGENT_DN}:ou=people,{SUFFIX}:{staff}#", server.port()));
    assert!(number.is_some_and(|number| number.parse::<u64>().is_ok()), "{cookie}");
    // The UUID is nsUniqueId, its digits grouped otherwise.
    let grouped = |id: &str| {
        let digits = id.replace('-', "");
        format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
    };
    let ids: BTreeMap<&str, String> = ["stays", "leaves", "goes", "moves"]
        .into_iter()
        .map(|uid| (uid, grouped(&server.value(&format!("(uid={uid})"), "nsUniqueId").unwrap())))
        .collect();
    assert!(ids.values().all(|id| told.contains(&format!("UUID {id}"))), "{told}");

    server.modify(&replace(&dn("stays"), "title", "changed"));
    server.modify(&replace(&dn("leaves"), "employeeType", "left"));
    server.delete(&dn("goes"));
    server.rename(&dn("moves"), "uid=moves", Some(&format!("ou=services,{SUFFIX}")));
    let (_, told, _) = sync(&server, staff, Some(&cookie), &["uid"]);
    let gone = ["goes", "moves"].map(|uid| told.contains(&ids[uid]));
    assert_eq!(gone, [true, true], "deleted and moved away: {told}");
    assert!(!told.contains(&ids["leaves"]), "who stopped to match is not mentioned: {told}");
    assert!(
        told.contains("title: changed") && told.contains("mail: "),
        "all attributes come, whatever was asked: {told}"
    );

    // Bound to the search; nobody guesses.
    let code = |filter, cookie: &str| sync(&server, filter, Some(cookie), &["uid"]).1.contains("result: 4096");
    assert!(code("(objectClass=*)", &cookie) && code(staff, "garbage"));
    assert!(code(staff, &cookie.replace(number.unwrap(), "99999999")));
    // A container that is renamed: nothing about those below.
    let (_, _, cookie) = sync(&server, staff, None, &["uid"]);
    server.rename(&format!("ou=people,{SUFFIX}"), "ou=folk", None);
    server.rename(&format!("ou=folk,{SUFFIX}"), "ou=people", None);
    assert!(!sync(&server, staff, Some(&cookie), &["uid"]).1.contains("UUID"));
    // A changelog that was trimmed: the old cookie is taken, and what was between is lost without a word.
    server.modify(&replace(&dn("stays"), "title", "again"));
    let last: u64 = server.root_dse("lastChangeNumber").unwrap().parse().unwrap();
    server.modify(&replace(&dn("stays"), "title", "and again"));
    for number in 1..=last {
        let dn = format!("changenumber={number},cn=changelog");
        let output = server.run_as(MANAGER_DN, MANAGER_PASSWORD, "ldapdelete", &[&dn], "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    server.restart();
    assert_eq!(server.root_dse("firstChangeNumber"), Some((last + 1).to_string()));
    let (_, told, _) = sync(&server, staff, Some(&cookie), &["uid"]);
    assert!(told.contains("result: 0"), "{told}");
}

#[test]
fn fact_operational_attributes_come_by_content_synchronization_when_they_are_named() {
    let server = Ds389::builder().content_sync().users(person("ann", "")).start();
    let named = ["uid", "nsAccountLock", "nsUniqueId", "modifyTimestamp"];
    let (_, _, cookie) = sync(&server, "(objectClass=*)", None, &named);
    server.modify(&replace(&dn("ann"), "nsAccountLock", "true"));
    let (_, full, _) = sync(&server, "(objectClass=*)", None, &named);
    let (_, since, _) = sync(&server, "(objectClass=*)", Some(&cookie), &named);
    let locked = |told: &str| told.contains("\nnsAccountLock: true");
    assert!(locked(&full) && full.contains("\nmodifyTimestamp: "), "{full}");
    // With a cookie they do not: who is locked looks as if not.
    assert!(since.contains("\nmail: ") && !locked(&since) && !since.contains("\nmodifyTimestamp: "), "{since}");

    // Live they come again.
    let (live, url, base) = (server.path("live"), server.url(), format!("ou=people,{SUFFIX}"));
    let mut listener = Command::new("ldapsearch")
        .args(["-x", "-H", &url, "-D", AGENT_DN, "-w", AGENT_PASSWORD, "-b", &base, "-E", "!sync=rp"])
        .arg("(objectClass=*)")
        .args(named)
        .stdout(fs::File::create(&live).unwrap())
        .spawn()
        .unwrap();
    let told = |what: &str| fs::read_to_string(&live).unwrap().matches(what).count();
    let wait = |what: &str, count: usize| {
        let started = Instant::now();
        while told(what) < count && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("uid: ann", 1);
    std::thread::sleep(Duration::from_millis(500));
    server.modify(&replace(&dn("ann"), "title", "changed"));
    wait("uid: ann", 2);
    std::thread::sleep(Duration::from_millis(500));
    let _ = listener.kill();
    let _ = listener.wait();
    assert_eq!(told("\nnsAccountLock: true"), 2, "{}", fs::read_to_string(&live).unwrap());
}

#[test]
fn fact_without_ids_in_the_changelog_a_cookie_brings_nothing() {
    let server = Ds389::builder().content_sync_without_ids().users(person("ann", "")).start();
    let (_, told, cookie) = sync(&server, "(objectClass=*)", None, &["uid"]);
    assert!(told.contains("uid: ann"), "{told}");
    server.modify(&replace(&dn("ann"), "title", "changed"));
    let (_, told, later) = sync(&server, "(objectClass=*)", Some(&cookie), &["uid"]);
    assert!(told.contains("result: 0") && !told.contains("UUID"), "{told}");
    assert_ne!(cookie, later, "and the cookie goes on");
}

#[test]
fn fact_writes_have_no_assertions_but_a_value_deleted_must_be_there() {
    let server = Ds389::builder().users(person("ann", "objectClass: homewardIMUser\nimHomeServer: im1\n")).start();
    let home = replace(&dn("ann"), "imHomeServer", "im2");
    assert_eq!(agent_modifies(&server, &home, &["-e", "!assert=(imHomeServer=im1)"]), Some(12));
    let swap = |from: &str| {
        format!(
            "dn: {}\nchangetype: modify\ndelete: imHomeServer\nimHomeServer: {from}\n-\nadd: imHomeServer\nimHomeServer: im3\n",
            dn("ann")
        )
    };
    assert_eq!(agent_modifies(&server, &swap("im2"), &[]), Some(16));
    assert_eq!(agent_modifies(&server, &swap("IM1"), &[]), Some(0), "compared without regard to case");
    // The agent's account writes what is its own, and nothing else.
    assert_eq!(agent_modifies(&server, &replace(&dn("ann"), "mail", "x@example.com"), &[]), Some(50));
    assert_eq!(agent_modifies(&server, &replace(&dn("ann"), "userPassword", "x"), &[]), Some(50));
}

#[test]
fn fact_password_dates_are_kept_only_when_switched_on() {
    let without = Ds389::builder().users(person("ann", "userPassword: s3cret-1\n")).start();
    let with = Ds389::builder().password_dates().users(person("ann", "userPassword: s3cret-1\n")).start();
    assert_eq!(without.value("(uid=ann)", "pwdUpdateTime"), None);
    assert_eq!(with.value("(uid=ann)", "pwdUpdateTime"), None, "not for a password that came with the entry");
    with.modify(&replace(&dn("ann"), "userPassword", "s3cret-2"));
    let first = with.value("(uid=ann)", "pwdUpdateTime").expect("a date");
    // A time of 1970 demands a new password, where the policy has passwordMustChange. The account may still bind.
    let demand = || agent_modifies(&with, &replace(&dn("ann"), "passwordExpirationTime", "19700101000000Z"), &[]);
    let reads = |password: &str| {
        let arguments = ["-LLL", "-s", "base", "-b", &dn("ann"), "1.1"];
        with.run_as(&dn("ann"), password, "ldapsearch", &arguments, "").status.code()
    };
    assert_eq!((demand(), reads("s3cret-2")), (Some(0), Some(0)), "nobody is asked");
    with.modify(&replace("cn=config", "passwordMustChange", "on"));
    assert_eq!(demand(), Some(0));
    assert_eq!(reads("s3cret-2"), Some(53), "it may only change its password");
    assert_eq!(with.value("(uid=ann)", "pwdUpdateTime"), Some(first), "that was no change of the password");
    // pwdReset is not for us to write.
    assert_ne!(agent_modifies(&with, &replace(&dn("ann"), "pwdReset", "TRUE"), &[]), Some(0));
}

#[test]
fn fact_an_account_without_limits_of_its_own_is_stopped_at_5000() {
    let many: String = (0..5100).map(|n| person(&format!("u{n}"), "")).collect();
    let server = Ds389::builder().without_limits().import(many).start();
    let (code, _) = agent_searches(&server, SUFFIX, &["(objectClass=inetOrgPerson)", "1.1"]);
    assert!(matches!(code, Some(4 | 11)), "size limit or administrative limit, never an answer: {code:?}");
    let limits = format!(
        "dn: {AGENT_DN}\nchangetype: modify\nreplace: nsSizeLimit\nnsSizeLimit: -1\n-\nreplace: nsLookThroughLimit\n\
         nsLookThroughLimit: -1\n"
    );
    server.modify(&limits);
    let (code, found) = agent_searches(&server, SUFFIX, &["(objectClass=inetOrgPerson)", "1.1"]);
    assert_eq!((code, found.matches("dn: ").count()), (Some(0), 5100));
    let (code, found) = agent_searches(&server, SUFFIX, &["(modifyTimestamp>=20200101000000Z)", "1.1"]);
    assert!(code == Some(0) && found.matches("dn: ").count() >= 5100, "{code:?} {}", found.len());
}

/// A container below `ou=people`, and a person in it.
fn unit(name: &str) -> String {
    format!("ou={name},ou=people,{SUFFIX}")
}

fn dn_in(uid: &str, name: &str) -> String {
    format!("uid={uid},{}", unit(name))
}

fn locked(uid: &str) -> String {
    replace(&dn(uid), "nsAccountLock", "true")
}

/// What happens to the users of a company, heard in whatever way the server has.
fn a_working_day(server: &Ds389, agent: &mut Agent) {
    server.add(&["ann", "bob", "cyd", "dan"].map(|uid| person(uid, "")).concat());
    // As many as it takes for the guard to let a handful go.
    server.add(&(0..120).map(|n| person(&format!("u{n}"), "")).collect::<String>());
    server.add(&format!("dn: {}\nobjectClass: organizationalUnit\nou: old\n", unit("old")));
    server.add(&person("eve", "").replace("ou=people", "ou=old,ou=people"));
    agent.start();
    for uid in ["ann", "bob", "cyd", "dan", "eve"] {
        agent.waits(uid, Status::Enabled);
        assert!(server.value(&format!("(uid={uid})"), "imHomeServer").is_some(), "{uid}");
    }

    server.add(&person("fay", ""));
    agent.waits("fay", Status::Enabled);
    server.modify(&locked("bob"));
    agent.waits("bob", Status::Disabled);
    assert_eq!(server.value("(uid=bob)", "imHomeServer"), None, "his place is given back");
    server.delete(&dn("cyd"));
    agent.waits("cyd", Status::Gone);
    server.rename(&dn("dan"), "uid=dan", Some(&format!("ou=services,{SUFFIX}")));
    agent.waits("dan", Status::Gone);
    // Nobody is told about those below a container that is renamed.
    server.rename(&unit("old"), "ou=new", None);
    agent.wait_for("eve at her new DN", |agent| agent.standing("eve").record.dn == dn_in("eve", "new"));
    assert_eq!(agent.standing("eve").status, Status::Enabled);

    // While nobody looks.
    agent.stop();
    server.add(&person("gus", ""));
    server.modify(&locked("fay"));
    server.delete(&dn_in("eve", "new"));
    server.modify(&replace(&dn("ann"), "title", "Dr."));
    agent.start();
    agent.waits("gus", Status::Enabled);
    agent.waits("fay", Status::Disabled);
    agent.waits("eve", Status::Gone);
    // Locked before, and still so: nothing that the server leaves out makes him look unlocked.
    assert_eq!(agent.standing("bob").status, Status::Disabled);
    assert_eq!(agent.standing("ann").status, Status::Enabled);

    server.restart();
    server.add(&person("hal", ""));
    agent.waits("hal", Status::Enabled);
    let plan: serde_json::Value = serde_json::from_str(&agent.say(&["plan", "--json"])).unwrap();
    assert_eq!(plan["changes"].as_array().map(Vec::len), Some(0), "{plan}");
    assert_eq!(server.value("(uid=bob)", "imHomeServer"), None);
}

/// example.com has no SRV record: everybody gets an address in the fallback domain.
fn dns() -> Nsd {
    Nsd::start(&[("example.com", "")])
}

fn asking(dns: &Nsd) -> String {
    format!("[dns]\nservers = [\"{}\"]\n", dns.address())
}

fn agent(server: &Ds389, dns: &Nsd) -> Agent {
    Agent::at(&server.url()).base(&format!("ou=people,{SUFFIX}")).extra(asking(dns))
}

#[test]
fn a_working_day_heard_by_content_synchronization() {
    let server = Ds389::builder().content_sync().start();
    let dns = dns();
    let mut agent = agent(&server, &dns);
    a_working_day(&server, &mut agent);
    let status = agent.say(&["status"]);
    assert!(status.contains("source   syncrepl at") && status.contains("deletes at once"), "{status}");
    assert!(!agent.log().contains("line=source.cursor_dropped"), "{}", agent.state());
    let checked = agent.say(&["check"]);
    assert!(checked.contains("syncrepl: it offers content synchronization") && !checked.contains("FAIL"), "{checked}");
}

#[test]
fn a_working_day_heard_by_asking_and_a_persistent_search() {
    let server = Ds389::builder().start();
    let dns = dns();
    let mut agent = agent(&server, &dns).directory("poll_interval = \"400ms\"");
    a_working_day(&server, &mut agent);
    let status = agent.say(&["status"]);
    assert!(status.contains("source   poll at") && status.contains("milliseconds by persistent search"), "{status}");
    let checked = agent.say(&["check"]);
    assert!(checked.contains("by a persistent search it tells at once") && !checked.contains("FAIL"), "{checked}");
    assert!(checked.contains("Content Synchronization"), "{checked}");
}

#[test]
fn a_persistent_search_tells_at_once_however_seldom_the_server_is_asked() {
    let server = Ds389::builder().users(person("ann", "")).start();
    let dns = dns();
    let mut agent = agent(&server, &dns).directory("poll_interval = \"1h\"");
    agent.start();
    agent.waits("ann", Status::Enabled);
    server.add(&person("bob", ""));
    agent.waits("bob", Status::Enabled);
    server.modify(&locked("ann"));
    agent.waits("ann", Status::Disabled);
    server.delete(&dn("bob"));
    agent.waits("bob", Status::Gone);
}

#[test]
fn a_changelog_that_does_not_name_entries_costs_a_full_refresh_and_nobody() {
    let server = Ds389::builder().content_sync_without_ids().users(person("ann", "")).start();
    let dns = dns();
    // It writes nothing, so that no cookie comes after the one that ends the refresh.
    let mut agent = agent(&server, &dns).mode("observe");
    agent.start();
    agent.waits("ann", Status::Planned);
    agent.stop();
    server.modify(&locked("ann"));
    agent.start();
    agent.wait_for("her lock", |agent| agent.standing("ann").record.text("nsaccountlock") == Some("true"));
    assert!(agent.log().contains("nsslapd-attribute"), "{}", agent.log());
}

#[test]
fn a_cookie_that_the_changelog_no_longer_reaches_is_not_used() {
    let server = Ds389::builder().content_sync().users(person("ann", "")).start();
    let dns = dns();
    let mut agent = agent(&server, &dns);
    agent.start();
    agent.waits("ann", Status::Enabled);
    agent.stop();
    server.modify(&locked("ann"));
    server.modify(&replace(&format!("ou=services,{SUFFIX}"), "description", "the newest change"));
    let last: u64 = server.root_dse("lastChangeNumber").unwrap().parse().unwrap();
    for number in 1..last {
        let dn = format!("changenumber={number},cn=changelog");
        server.run_as(MANAGER_DN, MANAGER_PASSWORD, "ldapdelete", &[&dn], "");
    }
    server.restart();
    assert_eq!(server.root_dse("firstChangeNumber"), Some(last.to_string()));
    agent.start();
    agent.waits("ann", Status::Disabled);
}

#[test]
fn promise_10_no_password_is_read_even_where_the_account_may_read_it() {
    let everything = format!(
        "dn: {SUFFIX}\nchangetype: modify\nadd: aci\naci: (targetattr = \"*\")(version 3.0; acl \"too much\"; allow \
         (read, search, compare) userdn = \"ldap:///{AGENT_DN}\";)\n"
    );
    let server = Ds389::builder().content_sync().users(person("ann", "userPassword: {CLEAR}s3cret-of-ann\n")).start();
    server.modify(&everything);
    let (_, told, _) = sync(&server, "(objectClass=*)", None, &["*"]);
    assert!(told.contains("userPassword:: "), "the account may read it: {told}");
    let dns = dns();
    let mut agent = agent(&server, &dns);
    agent.start();
    agent.waits("ann", Status::Enabled);
    agent.stop();
    server.modify(&replace(&dn("ann"), "title", "Dr."));
    server.modify(&replace(&dn("ann"), "mail", "ann.new@example.com"));
    agent.start();
    agent.wait_for("her new mail", |agent| agent.standing("ann").record.text("mail") == Some("ann.new@example.com"));
    for file in fs::read_dir(agent.state_dir()).unwrap().flatten() {
        let bytes = fs::read(file.path()).unwrap_or_default();
        for secret in [&b"s3cret-of-ann"[..], b"userpassword", b"PBKDF2"] {
            let found = bytes.windows(secret.len()).any(|window| window.eq_ignore_ascii_case(secret));
            assert!(!found, "{}: {}", file.path().display(), String::from_utf8_lossy(secret));
        }
    }
    assert!(!agent.log().contains("s3cret"));
}

#[test]
fn digest_is_unknown_without_a_date_and_a_new_password_is_demanded_once() {
    let server = Ds389::builder()
        .password_dates()
        .users(["ann", "bob"].map(|uid| person(uid, "userPassword: s3cret-1\n")).concat())
        .start();
    server.modify(&replace(&dn("ann"), "userPassword", "s3cret-2"));
    let first = server.value("(uid=ann)", "pwdUpdateTime").unwrap();
    server.modify(&replace("cn=config", "passwordMustChange", "on"));
    std::thread::sleep(Duration::from_millis(2_100));
    let since = homeward::model::Timestamp::now().to_string();
    let digest = format!("[digest]\nrequired = true\nsince = \"{since}\"\naction = \"expire\"\n");
    let dns = dns();
    let mut agent = agent(&server, &dns).extra(format!("{}{digest}", asking(&dns)));
    agent.start();
    agent.waits("ann", Status::AwaitingPassword);
    agent.waits("bob", Status::Enabled);
    assert_eq!(agent.standing("bob").digest, DigestReadiness::Unknown);
    let demanded = || server.value("(uid=ann)", "passwordExpirationTime");
    agent.wait_for("the demand", |_| demanded().as_deref() == Some("19700101000000Z"));
    assert_eq!(server.value("(uid=ann)", "pwdUpdateTime"), Some(first));
    assert_eq!(server.value("(uid=bob)", "passwordExpirationTime"), None);
    // Whoever takes the demand back is not overruled: once for each password.
    server.modify(&format!("dn: {}\nchangetype: modify\nreplace: passwordExpirationTime\n", dn("ann")));
    server.modify(&replace(&dn("ann"), "title", "Dr."));
    agent.wait_for("her title", |agent| agent.standing("ann").record.text("uid").is_some());
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(demanded(), None);
    let checked = agent.say(&["check"]);
    assert!(checked.contains("--pwdtrack on") && checked.contains("--pwdmustchange on"), "{checked}");

    server.modify(&replace(&dn("ann"), "userPassword", "s3cret-3"));
    agent.waits("ann", Status::Enabled);
    assert_eq!(agent.standing("ann").digest, DigestReadiness::Ready);
}

/// FreeIPA's tree, with its Kerberos attributes, on a plain 389 DS: people, preserved ones, staged ones, the compat tree.
fn freeipa() -> Ds389 {
    let mut tree = String::new();
    for name in [
        "cn=accounts",
        "cn=users,cn=accounts",
        "cn=provisioning",
        "cn=accounts,cn=provisioning",
        DELETED,
        STAGED,
        "cn=compat",
        "cn=users,cn=compat",
    ] {
        let cn = name.split(['=', ',']).nth(1).unwrap();
        tree.push_str(&format!("dn: {name},{SUFFIX}\nobjectClass: nsContainer\ncn: {cn}\n\n"));
    }
    for uid in ["ann", "bob", "cyd"] {
        tree.push_str(&ipa_person(uid, ACTIVE, ""));
        tree.push_str(&format!(
            "dn: uid={uid},cn=users,cn=compat,{SUFFIX}\nobjectClass: account\nuid: {uid}\ndescription: compat\n\n"
        ));
    }
    tree.push_str(&ipa_person("sid", STAGED, "nsAccountLock: true\n"));
    let server =
        Ds389::builder().schema_file("/usr/share/dirsrv/data/60kerberos.ldif").content_sync().users(tree).start();
    server.modify(&format!(
        "dn: {SUFFIX}\nchangetype: modify\nadd: aci\naci: (targetattr = \"krbPasswordExpiration\")(version 3.0; acl \
         \"homeward demands new passwords\"; allow (write) userdn = \"ldap:///{AGENT_DN}\";)\n"
    ));
    server
}

const ACTIVE: &str = "cn=users,cn=accounts";
const DELETED: &str = "cn=deleted users,cn=accounts,cn=provisioning";
const STAGED: &str = "cn=staged users,cn=accounts,cn=provisioning";

fn ipa_dn(uid: &str, place: &str) -> String {
    format!("uid={uid},{place},{SUFFIX}")
}

fn ipa_person(uid: &str, place: &str, lines: &str) -> String {
    format!(
        "dn: {}\nobjectClass: inetOrgPerson\nobjectClass: krbPrincipalAux\nuid: {uid}\ncn: {uid}\nsn: {uid}\nmail: \
         {uid}@example.com\nkrbPrincipalName: {uid}@EXAMPLE.COM\nkrbLastPwdChange: 20260101000000Z\nkrbPrincipalKey: \
         key-of-{uid}\n{lines}\n",
        ipa_dn(uid, place)
    )
}

#[test]
fn in_a_freeipa_tree_who_is_preserved_has_moved_and_comes_back_to_the_same_home() {
    let server = freeipa();
    let dns = dns();
    let digest = "[digest]\nrequired = true\nsince = \"2026-02-01T00:00:00Z\"\naction = \"expire\"\n";
    let mut agent = Agent::at(&server.url())
        .base(&format!("{ACTIVE},{SUFFIX}"))
        .directory("flavour = \"freeipa\"")
        .extra(format!("{}{digest}", asking(&dns)));
    agent.start();
    for uid in ["ann", "bob", "cyd"] {
        agent.waits(uid, Status::AwaitingPassword);
    }
    assert_eq!(agent.standings().len(), 3, "neither the staged one nor the compat tree");
    let home = |uid: &str| server.value(&format!("(&(uid={uid})(objectClass=inetOrgPerson))"), "imHomeServer");
    let bobs = home("bob").unwrap();

    // A password in the past: not 1970, which the KDC takes for never.
    let demanded = || server.value("(&(uid=ann)(objectClass=krbPrincipalAux))", "krbPasswordExpiration");
    agent.wait_for("the demand", |_| demanded().as_deref() == Some("20000101000000Z"));
    server.modify(&replace(&ipa_dn("ann", ACTIVE), "krbLastPwdChange", "20260301000000Z"));
    agent.waits("ann", Status::Enabled);
    assert_eq!(agent.standing("ann").digest, DigestReadiness::Ready);

    let parsed = |events: String| -> Vec<serde_json::Value> {
        events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let before = parsed(agent.say(&["events"])).last().unwrap()["sequence"].as_str().unwrap().to_owned();
    // ipa user-del --preserve: a move, which is told as such.
    server.rename(&ipa_dn("bob", ACTIVE), "uid=bob", Some(&format!("{DELETED},{SUFFIX}")));
    agent.waits("bob", Status::Gone);
    server.delete(&ipa_dn("cyd", ACTIVE));
    agent.waits("cyd", Status::Gone);
    let events = parsed(agent.say(&["events", "--after", &before]));
    let told = |uid: &str| {
        let of = |event: &&serde_json::Value| event.to_string().contains(&format!("uid={uid},"));
        events.iter().find(of).map(|event| event["type"].to_string()).unwrap_or_default()
    };
    assert!(told("bob").contains("left-scope"), "{events:?}");
    assert!(told("cyd").contains("deleted"), "{events:?}");

    // ipa user-undel, and ipa stageuser-activate.
    server.rename(&ipa_dn("bob", DELETED), "uid=bob", Some(&format!("{ACTIVE},{SUFFIX}")));
    agent.waits("bob", Status::AwaitingPassword);
    assert_eq!(home("bob"), Some(bobs));
    server.rename(&ipa_dn("sid", STAGED), "uid=sid", Some(&format!("{ACTIVE},{SUFFIX}")));
    agent.wait_for("the staged one", |agent| agent.standings().contains_key("sid"));
    server.modify(&format!("dn: {}\nchangetype: modify\nreplace: nsAccountLock\n", ipa_dn("sid", ACTIVE)));
    agent.waits("sid", Status::AwaitingPassword);
    agent.stop();
    for file in fs::read_dir(agent.state_dir()).unwrap().flatten() {
        let bytes = fs::read(file.path()).unwrap_or_default();
        assert!(!bytes.windows(7).any(|window| window == b"key-of-"), "{}", file.path().display());
    }
}

/// The blocks of LDIF in the guide, in order.
fn guide() -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/389ds.md")).unwrap();
    let blocks = text.split("```ldif\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    assert!(text.contains("targetUniqueId"));
    blocks
}

#[test]
fn a_server_set_up_by_the_guide_gives_the_agent_what_it_needs_and_no_more() {
    let server = Ds389::builder().unprepared().start();
    server.load_schema();
    for (n, block) in guide().iter().enumerate() {
        server.modify(block);
        if n == 0 {
            server.modify(&replace(AGENT_DN, "userPassword", AGENT_PASSWORD));
        }
    }
    // Again, as the guide says, now that a password set by the Directory Manager has to be changed.
    server.modify(&replace(AGENT_DN, "userPassword", AGENT_PASSWORD));
    assert_eq!(agent_searches(&server, SUFFIX, &["-s", "base"]).0, Some(53), "the agent's own, too");
    server.modify(guide().iter().find(|block| block.contains("20380101000000Z")).unwrap());
    server.restart();
    server.add(&["ann", "bob"].map(|uid| person(uid, "userPassword: s3cret-1\n")).concat());
    server.modify(&replace(&dn("ann"), "userPassword", "s3cret-2"));

    let (code, found) = agent_searches(&server, SUFFIX, &["(uid=ann)", "*", "pwdUpdateTime", "userPassword"]);
    assert!(code == Some(0) && found.contains("pwdUpdateTime: ") && !found.contains("userPassword"), "{found}");
    let modify = |attributes: &str| {
        agent_modifies(&server, &format!("dn: {}\nchangetype: modify\n{attributes}\n", dn("bob")), &[])
    };
    assert_eq!(
        modify("add: objectClass\nobjectClass: homewardIMUser\n-\nadd: imHomeServer\nimHomeServer: im1"),
        Some(0)
    );
    assert_eq!(modify("delete: imHomeServer\nimHomeServer: im1"), Some(0));
    assert_eq!(modify("replace: passwordExpirationTime\npasswordExpirationTime: 19700101000000Z"), Some(0));
    for refused in [
        "replace: mail\nmail: x@example.com",
        "add: objectClass\nobjectClass: posixAccount",
        "replace: userPassword\nuserPassword: x",
    ] {
        assert_eq!(modify(refused), Some(50), "{refused}");
    }
    let group = format!("dn: ou=groups,{SUFFIX}\nchangetype: modify\nadd: objectClass\nobjectClass: homewardIMUser\n");
    assert_eq!(agent_modifies(&server, &group, &[]), Some(50));

    let dns = dns();
    let mut agent = agent(&server, &dns);
    let checked = agent.say(&["check"]);
    assert!(checked.contains("syncrepl: it offers content synchronization"), "{checked}");
    assert!(!checked.contains("FAIL") && !checked.contains("warn"), "{checked}");
    agent.start();
    agent.waits("ann", Status::Enabled);
    agent.waits("bob", Status::Enabled);
    assert!(server.value("(uid=bob)", "msExchIMAddress").is_some());
}

#[test]
fn check_says_what_stops_the_agent_at_a_server_that_nobody_prepared() {
    let many: String = (0..5100).map(|n| person(&format!("u{n}"), "")).collect();
    let server = Ds389::builder().without_schema().without_limits().import(many).start();
    let dns = dns();
    let output = agent(&server, &dns).cli(&["check"]);
    let checked = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{checked}");
    assert!(checked.contains("nsLookThroughLimit") && checked.contains("does not know"), "{checked}");
    assert!(checked.contains("schemas/ldap/389ds.ldif"), "{checked}");
}

#[tokio::test]
async fn a_cursor_goes_on_a_little_before_where_it_was_taken() {
    let server = Ds389::builder().content_sync().users(["ann", "bob"].map(|uid| person(uid, "")).concat()).start();
    let tls = server.directory().tls;
    let access = Access {
        endpoint: Endpoint::parse(&server.url(), &tls, false).unwrap(),
        tls,
        bind: server.directory().bind,
        key: KeyAttribute::NsUniqueId,
        page: None,
        patience: Patience::default(),
    };
    let shape = SearchShape {
        base: SUFFIX.into(),
        filter: WIDEST_FILTER.into(),
        attributes: ["uid", "nsAccountLock"].map(String::from).to_vec(),
        meaning: String::new(),
    };
    let mut first = Syncrepl::start(&access, &shape, None).await.unwrap();
    while first.next().await.unwrap().complete.is_none() {}
    server.modify(&locked("ann"));
    let cursor = loop {
        if let Some(cursor) = first.next().await.unwrap().cursor {
            break cursor;
        }
    };
    drop(first);
    let mut again = Syncrepl::start(&access, &shape, Some(&cursor)).await.unwrap();
    assert!(again.resumed());
    let mut changes = Vec::new();
    loop {
        let batch = again.next().await.unwrap();
        changes.extend(batch.changes);
        if let Some(presence) = batch.complete {
            assert_eq!(presence, Presence::ChangesOnly);
            break;
        }
    }
    // The cursor covers her lock, and it comes again, whole.
    let her_lock = |change: &Change| matches!(change, Change::Entry(it) if it.dn == dn("ann") && it.values("nsaccountlock") == [b"true".to_vec()]);
    assert!(changes.iter().any(her_lock), "{changes:?}");
}

// ---- writing back

async fn writer(server: &Ds389) -> (Ldap, Target) {
    let (mut ldap, _) = connect(&server.directory(), Duration::from_secs(10)).await.expect("the server is up");
    let root = flavour::root_dse(&mut ldap).await.unwrap();
    let profile = flavour::profile(flavour::settle(None, &root).0);
    let target = Target::new(SUFFIX, &profile.write_back, &root, &profile);
    (ldap, target)
}

fn change(attribute: &str, old: Option<&str>, new: Option<&str>) -> AttributeChange {
    AttributeChange { attribute: attribute.into(), old: old.map(Into::into), new: new.map(Into::into) }
}

fn write(server: &Ds389, uid: &str, changes: Vec<AttributeChange>) -> Write {
    let id = server.value(&format!("(uid={uid})"), "nsUniqueId").unwrap();
    let key = KeyAttribute::NsUniqueId.read(id.as_bytes()).unwrap();
    Write { key, dn: dn(uid), changes, object_class: Some("homewardIMUser".into()), expire: None, urgent: false }
}

#[tokio::test]
async fn a_write_is_done_where_the_key_is_and_a_foreign_value_is_never_overwritten() {
    let foreign = person("bob", "objectClass: homewardIMUser\nimHomeServer: elsewhere\n");
    let server = Ds389::builder().users([person("ann", ""), foreign].concat()).start();
    let (mut ldap, target) = writer(&server).await;
    assert!(!target.asserts, "389 DS has no assertions");
    let home = || vec![change("imHomeServer", None, Some("im1"))];
    let applied = WriteResult::Applied { expire: ExpireResult::NotAsked };

    // Renamed meanwhile, and another took the place.
    let anns = write(&server, "ann", home());
    server.rename(&dn("ann"), "uid=anna", None);
    server.add(&person("ann", ""));
    assert_eq!(apply(&mut ldap, &target, &anns, Duration::from_secs(10)).await, applied);
    assert_eq!(server.value("(uid=anna)", "imHomeServer").as_deref(), Some("im1"));
    assert_eq!(server.value("(uid=ann)", "imHomeServer"), None);
    // Done before, and the answer lost.
    let again = apply(&mut ldap, &target, &anns, Duration::from_secs(10)).await;
    assert!(
        matches!(again, WriteResult::Mismatch { ref current } if current.text("imhomeserver") == Some("im1")),
        "{again:?}"
    );

    for old in [None, Some("im3")] {
        let changes =
            vec![change("imHomeServer", old, Some("im1")), change("msExchIMAddress", None, Some("b@example.com"))];
        let answer = apply(&mut ldap, &target, &write(&server, "bob", changes), Duration::from_secs(10)).await;
        let WriteResult::Mismatch { current } = answer else { panic!("{answer:?}") };
        assert_eq!(current.text("imhomeserver"), Some("elsewhere"));
    }
    assert_eq!(server.value("(uid=bob)", "imHomeServer").as_deref(), Some("elsewhere"));
    assert_eq!(server.value("(uid=bob)", "msExchIMAddress"), None, "nothing of the write was done");

    let bobs = write(&server, "bob", home());
    server.delete(&dn("bob"));
    assert_eq!(apply(&mut ldap, &target, &bobs, Duration::from_secs(10)).await, WriteResult::NotFound);
}

#[tokio::test]
async fn a_new_password_is_demanded_only_if_the_one_judged_is_still_there() {
    let server = Ds389::builder().password_dates().users(person("ann", "userPassword: s3cret-1\n")).start();
    server.modify(&replace(&dn("ann"), "userPassword", "s3cret-2"));
    let (mut ldap, target) = writer(&server).await;
    let date = server.value("(uid=ann)", "pwdUpdateTime");
    let mut demand = write(&server, "ann", Vec::new());
    demand.object_class = None;
    demand.expire = Some(PasswordDate(Some("20200101000000Z".into())));
    let answer = apply(&mut ldap, &target, &demand, Duration::from_secs(10)).await;
    assert_eq!(answer, WriteResult::Applied { expire: ExpireResult::ChangedMeanwhile });
    assert_eq!(server.value("(uid=ann)", "passwordExpirationTime"), None);
    demand.expire = Some(PasswordDate(date));
    let answer = apply(&mut ldap, &target, &demand, Duration::from_secs(10)).await;
    assert_eq!(answer, WriteResult::Applied { expire: ExpireResult::Demanded });
    assert_eq!(server.value("(uid=ann)", "passwordExpirationTime").as_deref(), Some("19700101000000Z"));
}

#[test]
fn over_tls_and_with_groups_that_rules_name() {
    const GROUP: &str = "cn=im,ou=groups,dc=example,dc=com";
    let group = format!("dn: {GROUP}\nobjectClass: groupOfNames\ncn: im\nmember: {}\n\n", dn("ann"));
    for member_of in [true, false] {
        let builder = if member_of { Ds389::builder().memberof() } else { Ds389::builder() };
        // The plug-in gives users a class for its attribute.
        let people = ["ann", "bob"].map(|uid| person(uid, "")).concat();
        let server = builder.content_sync().users([people, group.clone()].concat()).start();
        let dns = dns();
        let rule = format!("[[policy]]\nname = \"im\"\naction = \"enable\"\nmatch = \"(memberOf={GROUP})\"\n");
        let mut agent = Agent::at(&server.ldaps_url())
            .directory(&format!("tls = {{ ca_file = \"{}\" }}", server.ca_file().display()))
            .extra(format!("{}{rule}", asking(&dns)));
        agent.start();
        agent.waits("ann", Status::Enabled);
        agent.waits("bob", Status::Ignored);
        server.modify(&format!("dn: {GROUP}\nchangetype: modify\nadd: member\nmember: {}\n", dn("bob")));
        agent.waits("bob", Status::Enabled);
        server.modify(&format!("dn: {GROUP}\nchangetype: modify\ndelete: member\nmember: {}\n", dn("ann")));
        agent.waits("ann", Status::Ignored);
        assert_eq!(server.value("(uid=ann)", "imHomeServer"), None);
        assert!(agent.say(&["check"]).contains("Tls"), "{member_of}");
    }
}

#[test]
fn a_crash_of_either_side_loses_nobody() {
    const PEOPLE: usize = 3_000;
    let people: String = (0..PEOPLE).map(|n| person(&format!("u{n}"), "")).collect();
    let homes = "[[policy]]\nname = \"all\"\naction = \"enable\"\nmatch = \"(uid=*)\"\n";
    for builder in [Ds389::builder().content_sync(), Ds389::builder()] {
        let server = builder.import(people.clone()).start();
        let dns = dns();
        let mut agent = agent(&server, &dns).homes(&[10_000]).extra(format!("{}{homes}", asking(&dns)));
        let enabled = |server: &Ds389| server.entries("(imHomeServer=*)", &["1.1"]).len();
        agent.start();
        // In the middle of the first pass.
        agent.wait_for("the first of them", |_| enabled(&server) > 50);
        agent.kill9();
        agent.start();
        let started = Instant::now();
        while enabled(&server) < PEOPLE {
            assert!(
                started.elapsed() < Duration::from_secs(180),
                "{} of {PEOPLE}: {}",
                enabled(&server),
                agent.state()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        server.kill9();
        server.restart();
        server.delete(&dn("u1"));
        server.modify(&locked("u2"));
        server.add(&person("new", ""));
        agent.waits("new", Status::Enabled);
        agent.waits("u2", Status::Disabled);
        agent.wait_for("u1 gone", |agent| agent.standing("u1").status == Status::Gone);
        assert_eq!(enabled(&server), PEOPLE - 1);
    }
}

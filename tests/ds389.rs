//! 389 Directory Server, as Debian has it: what the code relies on, and the agent at work on it.

// clippy.toml's list is for decide/; a test reads the clock.
#![allow(clippy::disallowed_methods)]

mod support;

use std::collections::BTreeMap;
use std::fs;
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

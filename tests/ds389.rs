//! 389 Directory Server, as Debian has it: what the code relies on, and the agent at work on it.

// clippy.toml's list is for decide/; a test reads the clock.
#![allow(clippy::disallowed_methods)]

mod support;

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
        names.push((name.into(), [above, rest.into()].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(".")));
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
    let people: String = ["stays", "leaves", "goes", "moves"].map(|uid| person(uid, "employeeType: staff\nuserPassword: s3cret\n")).concat();
    let server = Ds389::builder().content_sync().users(people).start();
    let staff = "(employeeType=staff)";
    let (code, told, cookie) = sync(&server, staff, None, &["uid"]);
    println!("{code:?}\n{told}\n{cookie}");
    panic!("look");
}

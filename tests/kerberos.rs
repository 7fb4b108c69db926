//! `bind = "gssapi"` on a real domain controller that is its own KDC (Samba): a ticket by keytab, over LDAPS and StartTLS, for
//! reading, for writing, and for hearing changes. Built with the feature `gssapi` only.

// decide/ has no clock; a test has.
#![allow(clippy::disallowed_methods)]

mod support;

use support::agent::Agent;
use support::samba::{AGENT_DN, SERVERS, Samba};

const BIND: &str = "bind = \"gssapi\"\n";

fn agent(samba: &Samba, base: &str, environment: Vec<(String, String)>) -> Agent {
    Agent::of_samba(samba, base).directory(BIND).environment(environment)
}

#[test]
fn a_keytab_is_enough_to_read_to_hear_changes_and_to_write() {
    let samba = Samba::builder().kdc().start();
    let ou = samba.ou("kerberos");
    let without_mail = |user: &str| samba.modify(&format!("dn: {user}\nchangetype: modify\ndelete: mail\n"));
    let user = samba.user("kerberos-1", &ou, "");
    without_mail(&user);
    let mut agent = agent(&samba, &ou, samba.kerberos("homeward-agent"));
    let checked = agent.say(&["check"]);
    assert!(!checked.contains("FAIL"), "{checked}");
    assert!(checked.contains("connected and bound") && checked.contains("may write msExchIMAddress"), "{checked}");
    assert!(checked.contains(AGENT_DN), "who we are, which Samba does not tell: {checked}");
    agent.start();
    agent.wait_for("the first", |agent| agent.count("enabled") == 1);
    let late = samba.user("kerberos-2", &ou, "");
    without_mail(&late);
    agent.wait_for("the second", |agent| agent.count("enabled") == 2);
    let home = samba.value(&late, "msExchIMVirtualServer").unwrap_or_default();
    assert!(home.ends_with(SERVERS), "{home}");
    agent.stop();
}

#[test]
fn start_tls_does_as_well_and_no_ticket_is_said_to_be_none() {
    let samba = Samba::builder().kdc().start();
    let ou = samba.ou("kerberos-tls");
    samba.user("kerberos-3", &ou, "");
    let environment = samba.kerberos("homeward-agent");
    let tls = format!("tls = {{ mode = \"starttls\", ca_file = \"{}\" }}\n", samba.ca_file().display());
    let said = |agent: &Agent| String::from_utf8_lossy(&agent.cli(&["check"]).stdout).into_owned();
    let by = |tls: &str, environment: &[(String, String)]| {
        let base = Agent::at(&samba.url()).base(&ou).directory(&format!("{BIND}{tls}"));
        said(&base.environment(environment.to_vec()))
    };
    let checked = by(&tls, &environment);
    assert!(checked.contains("connected and bound (StartTls)"), "{checked}");
    // Never without TLS: the ticket is bound to a certificate.
    let plain = by("tls = { mode = \"off\" }\n", &environment);
    assert!(plain.contains("FAIL  server") && plain.contains("needs TLS"), "{plain}");
    // Without a keytab there is no ticket, and the hint names where it belongs.
    let mut nothing = environment.clone();
    nothing[1].1 = "FILE:/nonexistent".into();
    nothing[2].1 = format!("FILE:{}", samba.path("no-tickets").display());
    let refused = by(&tls, &nothing);
    assert!(refused.contains("no ticket") && refused.contains("KRB5_CLIENT_KTNAME"), "{refused}");
}

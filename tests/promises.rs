//! The promises of the architecture, kept by the real agent on a real OpenLDAP. Promise 3 is a lint and pure types; the
//! model test keeps 2, 4, 5 and 9 between any two steps.

mod support;

use support::agent::Agent;
use support::dns::Nsd;
use support::slapd::{Slapd, person};

/// example.com has no SRV record, chat.example has one.
fn dns() -> Nsd {
    Nsd::start(&[("example.com", ""), ("chat.example", "_rvp._tcp SRV 0 0 80 im.chat.example.\n")])
}

fn asking(dns: &Nsd) -> String {
    format!("[dns]\nservers = [\"{}\"]\n", dns.address())
}

#[test]
fn an_account_created_in_a_real_openldap_is_enabled_with_nobody_touching_it() {
    let (slapd, dns) = (Slapd::builder().start(), dns());
    let mut agent = Agent::of(&slapd).extra(asking(&dns));
    agent.start();
    agent.wait_for("the first pass", |agent| agent.log().contains("source.refreshed"));
    slapd.add(&person("ann", ""));
    agent.wait_for("ann's enablement", |agent| agent.count("enabled") == 1);
    assert_eq!(slapd.value("(uid=ann)", "msExchIMAddress").as_deref(), Some("ann@im.example.com"));
    assert_eq!(slapd.value("(uid=ann)", "imHomeServer").as_deref(), Some("im1"));
}

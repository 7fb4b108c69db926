//! Connecting, looking up and writing back, against a real slapd.

mod support;

use support::slapd::{Slapd, person};

#[test]
fn the_fixture_serves_what_was_loaded() {
    let slapd = Slapd::builder().users(person("ann", "")).ppolicy(true).memberof(true).session_log(100).start();
    assert_eq!(slapd.value("(uid=ann)", "mail").as_deref(), Some("ann@example.com"));
    slapd.restart();
    assert_eq!(slapd.value("(uid=ann)", "mail").as_deref(), Some("ann@example.com"));
}

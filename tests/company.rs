//! Test data is tested: the sample companies are what they say, and a real slapd takes them.

// The servers are waited for by the clock.
#![allow(clippy::disallowed_methods)]

mod support;

use std::collections::BTreeSet;
use support::company::{Breakage, Company, Expected, IM_GROUP, MAIL_DOMAINS};
use support::slapd::Slapd;

#[test]
fn the_same_seed_gives_the_same_company_and_another_seed_another() {
    let ldif = Company::new(50).seed(7).ldif();
    assert_eq!(ldif, Company::new(50).seed(7).ldif());
    assert_ne!(ldif, Company::new(50).seed(8).ldif());
}

#[test]
fn nobody_is_broken_unless_asked_for() {
    assert_eq!(Company::new(100).broken_users().count(), 0);
}

#[test]
fn every_way_of_being_broken_occurs_and_the_first_user_is_sound() {
    let company = Company::new(100).broken(25);
    let broken: Vec<_> = company.broken_users().collect();
    assert_eq!(broken.len(), 25);
    for way in Breakage::ALL {
        assert!(broken.iter().any(|(_, how, _)| *how == way), "{way:?}");
    }
    assert!(broken.iter().any(|(_, _, expected)| *expected == Expected::Enabled));
    assert!(broken.iter().any(|(_, _, expected)| *expected == Expected::Problem));
    let first = company.user_dns().next().expect("there are users");
    assert!(broken.iter().all(|(dn, ..)| *dn != first));
    assert_eq!(Company::new(11).broken(10).broken_users().count(), 10, "all but the first");
    assert_eq!(Company::new(1).broken(10).broken_users().count(), 0);
    assert_eq!(Company::new(0).broken(10).broken_users().count(), 0);
}

#[test]
fn slapd_takes_a_company_with_all_its_broken_users() {
    let company = Company::new(300).broken(30).password("hush");
    let slapd = Slapd::builder().slapadd(company.ldif()).start();
    let dns: BTreeSet<String> = company.user_dns().collect();
    let stored: BTreeSet<String> = slapd
        .search("(objectClass=inetOrgPerson)", &["1.1"])
        .lines()
        .filter_map(|line| line.strip_prefix("dn: ").map(str::to_owned))
        .collect();
    assert_eq!(stored, dns);
    let count = |filter: &str| slapd.search(filter, &["1.1"]).matches("dn: ").count();
    for domain in MAIL_DOMAINS {
        assert!(count(&format!("(mail=*@{domain})")) > 100, "{domain}");
    }
    assert_eq!(slapd.search("(cn=im-users)", &["member"]).matches("member: ").count(), 100, "{IM_GROUP}");
    for kind in ["staff", "contractor", "intern"] {
        assert!(count(&format!("(employeeType={kind})")) > 0, "{kind}");
    }
    assert!(slapd.search("(objectClass=inetOrgPerson)", &["sn"]).contains("sn:: "), "some names are not ASCII");
}

#[test]
fn a_plain_add_takes_every_broken_user_too() {
    let company = Company::new(12).broken(10);
    let slapd = Slapd::builder().users(company.ldif()).start();
    assert_eq!(slapd.search("(objectClass=inetOrgPerson)", &["1.1"]).matches("dn: ").count(), 12);
}

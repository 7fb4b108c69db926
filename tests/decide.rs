//! Each rule of `decide` in words: the world, what happens, what should be. The nothing-changes case first.

use homeward::decide::digest::{REVERSIBLE, Verifier};
use homeward::decide::filter::Filter;
use homeward::decide::policy::{Charset, DigestPolicy, ImPolicy, Names, Policy, Rule};
use homeward::decide::{World, decide, explain, ownership};
use homeward::model::*;
use std::collections::BTreeMap;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn world() -> World {
    let home = |id: &str, capacity| HomeState {
        home: Home {
            id: HomeId(id.into()),
            host: format!("{id}.example.com"),
            capacity,
            tags: vec![],
            dn: None,
            online_capacity: None,
            load: None,
            probe: None,
        },
        configured: true,
        wish: AdminState::Active,
        health: Health::NotProbed,
        online: Online::NotMeasured,
        object: HomeObject::NotNeeded,
        former_dns: vec![],
        assigned: 0,
    };
    let fact = |domain: &str, answer| SrvFact {
        domain: domain.into(),
        answer,
        seen_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        contradicted: None,
        last_error: None,
    };
    let present = SrvAnswer::Present {
        records: vec![
            SrvRecord { priority: 10, weight: 0, port: 80, host: "second.example".into() },
            SrvRecord { priority: 0, weight: 5, port: 80, host: "im.example".into() },
        ],
    };
    let srv = [
        fact("with.example", present),
        fact("without.example", SrvAnswer::Absent),
        fact("never.example", SrvAnswer::NotAvailable),
        fact("broken.example", SrvAnswer::Unknown { why: "SERVFAIL".into() }),
    ];
    World {
        policy: Policy {
            rules: vec![],
            disabled: Some(Filter::parse("(pwdAccountLockedTime=000001010000Z)").unwrap()),
            names: Names {
                login: "uid".into(),
                mail: "mail".into(),
                address: "msexchimaddress".into(),
                url: "msexchimmetaphysicalurl".into(),
                home_url: "msexchimphysicalurl".into(),
                home: "imhomeserver".into(),
                object_class: "homewardIMUser".into(),
                password_date: "pwdchangedtime".into(),
                created: "createtimestamp".into(),
                expires: "accountexpires".into(),
            },
            im: ImPolicy {
                profile: Profile::Exchange,
                domain: Some("im.fallback.example".into()),
                on_srv_change: OnChange::Keep,
                mail_wait: Duration::from_secs(120),
                on_mail_change: OnChange::Keep,
                reserve_for: Duration::from_secs(30 * 86_400),
                address_rest: Duration::from_secs(180 * 86_400),
                charset: Charset::Ia5,
            },
            digest: DigestPolicy {
                required: false,
                verifier: Verifier::Dated,
                since: Timestamp(0),
                configured: false,
                action: DigestAction::Flag,
            },
        },
        fleet: Fleet { homes: vec![home("im1", 10), home("im2", 20)] },
        srv: srv.into_iter().map(|fact| (fact.domain.clone(), fact)).collect::<BTreeMap<_, _>>(),
        adopting: false,
    }
}

fn user(attributes: &[(&str, &str)]) -> Standing {
    let mut standing = Standing::new(UserKey([1; 16]), NOW.minus(Duration::from_secs(3600)));
    standing.record.dn = "uid=ann,dc=example".into();
    standing.record.set("uid", vec![Value::Text("ann".into())]);
    for (name, value) in attributes {
        standing.record.set(name, vec![Value::Text((*value).into())]);
    }
    standing
}

fn living(world: &World, attributes: &[(&str, &str)], home: &str) -> Standing {
    let mut standing = user(attributes);
    let assignment =
        Assignment { home: HomeId(home.into()), address: "ann@with.example".into(), im_domain: "im.example".into() };
    standing.applied = ownership::desired(&assignment, world);
    let values = standing.applied.clone();
    carry(&mut standing, &values);
    standing.reserved = Some(assignment);
    standing
}

fn carry(standing: &mut Standing, values: &WriteBackValues) {
    let mut set = |name: &str, value: &Option<String>| {
        standing.record.set(name, value.iter().map(|value| Value::Text(value.clone())).collect());
    };
    set("msexchimaddress", &values.address);
    set("msexchimmetaphysicalurl", &values.url);
    set("msexchimphysicalurl", &values.home_url);
    set("imhomeserver", &values.home);
}

fn address_of(wanted: &Wanted) -> (&str, &str) {
    match wanted {
        Wanted::Enabled { assignment, .. } => (&assignment.address, &assignment.im_domain),
        other => panic!("{other:?}"),
    }
}

fn change_of(wanted: &Wanted) -> Change {
    match wanted {
        Wanted::Enabled { change, .. } => *change,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_lives_well_stays() {
    let world = world();
    let standing = living(&world, &[("mail", "ann@with.example")], "im1");
    let decision = decide(&standing, &world, NOW);
    assert_eq!(change_of(&decision.wanted), Change::Nothing);
    assert_eq!(decision.look_again_at, None);
}

#[test]
fn an_account_that_expires_is_looked_at_again_when_the_moment_comes_and_is_released_then() {
    let world = world();
    let file_time = |at: Timestamp| ((at.0 + 11_644_473_600_000) * 10_000).to_string();
    let until = |at: String| living(&world, &[("mail", "ann@with.example"), ("accountexpires", &at)], "im1");
    let never = decide(&until("9223372036854775807".into()), &world, NOW);
    assert_eq!((change_of(&never.wanted), never.look_again_at), (Change::Nothing, None));
    let end = NOW.plus(Duration::from_secs(86_400));
    let later = decide(&until(file_time(end)), &world, NOW);
    assert_eq!((change_of(&later.wanted), later.look_again_at), (Change::Nothing, Some(end)));
    let released = Wanted::Released { why: ReleaseReason::AccountDisabled };
    assert_eq!(decide(&until(file_time(NOW)), &world, NOW).wanted, released, "from that moment on");
    let expired = decide(&until(file_time(end)), &world, end);
    assert_eq!((expired.wanted, expired.look_again_at), (released, None));
}

#[test]
fn srv_there_makes_the_mail_address_the_im_address() {
    let decision = decide(&user(&[("mail", "Ann.Lee@With.Example")]), &world(), NOW);
    assert_eq!(address_of(&decision.wanted), ("ann.lee@with.example", "im.example"));
    assert_eq!(change_of(&decision.wanted), Change::Assigned);
}

#[test]
fn srv_certainly_absent_makes_login_at_im_domain() {
    let decision = decide(&user(&[("mail", "ann.lee@without.example")]), &world(), NOW);
    assert_eq!(address_of(&decision.wanted), ("ann@im.fallback.example", "im.fallback.example"));
}

#[test]
fn srv_unknown_waits_and_never_falls_back() {
    for mail in ["ann@broken.example", "ann@never-asked.example"] {
        let decision = decide(&user(&[("mail", mail)]), &world(), NOW);
        assert!(matches!(&decision.wanted, Wanted::Wait { on: Blocker::Srv(_) }), "{mail}: {decision:?}");
        assert!(decision.look_again_at.is_some());
    }
}

#[test]
fn a_contradicted_answer_is_unknown_for_newcomers_and_nothing_for_residents() {
    let mut world = world();
    world.srv.get_mut("with.example").unwrap().contradicted = Some((SrvAnswer::Absent, NOW));
    let newcomer = decide(&user(&[("mail", "ann@with.example")]), &world, NOW);
    assert!(matches!(newcomer.wanted, Wanted::Wait { .. }));
    let resident = decide(&living(&world, &[("mail", "ann@with.example")], "im1"), &world, NOW);
    assert_eq!(change_of(&resident.wanted), Change::Nothing);
}

#[test]
fn target_dot_is_a_problem_not_a_fallback() {
    let decision = decide(&user(&[("mail", "ann@never.example")]), &world(), NOW);
    assert!(matches!(decision.wanted, Wanted::Refused { why: Refusal::ServiceNotAvailable { .. } }));
}

#[test]
fn no_mail_is_unknown_for_a_while_and_then_absent() {
    let world = world();
    let mut standing = user(&[]);
    standing.first_seen = NOW;
    let decision = decide(&standing, &world, NOW);
    assert_eq!(decision.wanted, Wanted::Wait { on: Blocker::Mail });
    let until = decision.look_again_at.unwrap();
    assert_eq!(address_of(&decide(&standing, &world, until).wanted).0, "ann@im.fallback.example");
}

#[test]
fn a_foreign_value_is_left_untouched() {
    for (name, value) in
        [("imhomeserver", "elsewhere"), ("msexchimaddress", "sip:ann@x.example"), ("msexchimphysicalurl", "http://x")]
    {
        let decision = decide(&user(&[("mail", "ann@with.example"), (name, value)]), &world(), NOW);
        assert!(
            matches!(&decision.wanted, Wanted::Refused { why: Refusal::ForeignValue { attribute, .. } } if attribute == name),
            "{decision:?}"
        );
    }
}

#[test]
fn a_value_that_names_our_home_is_adopted_with_its_address() {
    let world = world();
    let mut standing = living(&world, &[("mail", "other@without.example")], "im2");
    standing.reserved = None;
    standing.applied = WriteBackValues::default();
    let decision = decide(&standing, &world, NOW);
    assert_eq!(change_of(&decision.wanted), Change::Adopted);
    assert_eq!(address_of(&decision.wanted), ("ann@with.example", "im.example"));
}

#[test]
fn the_disabled_are_released_and_strangers_among_them_left_alone() {
    let world = world();
    let locked = [("pwdaccountlockedtime", "000001010000Z")];
    let resident = decide(&living(&world, &locked, "im1"), &world, NOW);
    assert_eq!(resident.wanted, Wanted::Released { why: ReleaseReason::AccountDisabled });
    let stranger = decide(&user(&locked), &world, NOW);
    assert_eq!(stranger.wanted, Wanted::LeftAlone { why: AloneReason::AccountDisabled });
}

#[test]
fn a_lockout_is_no_input() {
    let locked = [("mail", "ann@with.example"), ("pwdaccountlockedtime", "20260101000000Z")];
    assert_eq!(change_of(&decide(&user(&locked), &world(), NOW).wanted), Change::Assigned);
}

#[test]
fn the_first_rule_that_matches_decides_and_none_means_leave_alone() {
    let mut world = world();
    let rule = |matches: &str, action, homes: &[&str]| Rule {
        name: matches.into(),
        matches: Filter::parse(matches).unwrap(),
        action,
        homes: homes.iter().map(|id| HomeId((*id).into())).collect(),
        im_domain: None,
    };
    world.policy.rules =
        vec![rule("(employeeType=guest)", Action::Ignore, &[]), rule("(employeeType=*)", Action::Enable, &["im2"])];
    let staff = decide(&user(&[("employeetype", "staff"), ("mail", "ann@with.example")]), &world, NOW);
    assert!(matches!(&staff.wanted, Wanted::Enabled { assignment, .. } if assignment.home.0 == "im2"));
    let guest = decide(&user(&[("employeetype", "guest")]), &world, NOW);
    assert_eq!(guest.wanted, Wanted::LeftAlone { why: AloneReason::RuleIgnores });
    let nobody = decide(&user(&[]), &world, NOW);
    assert_eq!(nobody.wanted, Wanted::LeftAlone { why: AloneReason::NoRule });
    let left = decide(&living(&world, &[], "im1"), &world, NOW);
    assert_eq!(left.wanted, Wanted::Released { why: ReleaseReason::NoRule });
}

#[test]
fn a_draining_home_sends_its_residents_away_and_a_cordoned_one_keeps_them() {
    let mut world = world();
    let standing = living(&world, &[("mail", "ann@with.example")], "im1");
    world.fleet.homes[0].wish = AdminState::Cordoned;
    assert_eq!(change_of(&decide(&standing, &world, NOW).wanted), Change::Nothing);
    world.fleet.homes[0].wish = AdminState::Draining;
    let decision = decide(&standing, &world, NOW);
    assert!(
        matches!(&decision.wanted, Wanted::Enabled { assignment, change: Change::Moved, .. } if assignment.home.0 == "im2")
    );
    world.fleet.homes[1].assigned = 20;
    assert_eq!(decide(&standing, &world, NOW).wanted, Wanted::Wait { on: Blocker::Room });
}

#[test]
fn a_home_gone_from_the_configuration_is_a_problem_until_drained() {
    let mut world = world();
    let standing = living(&world, &[("mail", "ann@with.example")], "im1");
    world.fleet.homes[0].configured = false;
    assert!(matches!(decide(&standing, &world, NOW).wanted, Wanted::Refused { why: Refusal::HomeGone { .. } }));
    world.fleet.homes[0].wish = AdminState::Draining;
    assert_eq!(change_of(&decide(&standing, &world, NOW).wanted), Change::Moved);
}

#[test]
fn who_comes_back_within_the_grace_time_gets_the_same_place_and_address() {
    let mut world = world();
    world.fleet.homes[1].assigned = 0;
    world.fleet.homes[0].assigned = 9;
    let mut standing = living(&world, &[("mail", "other@without.example")], "im1");
    standing.applied = WriteBackValues::default();
    carry(&mut standing, &WriteBackValues::default());
    standing.released_at = Some(NOW.minus(Duration::from_secs(86_400)));
    let back = decide(&standing, &world, NOW);
    assert!(matches!(&back.wanted, Wanted::Enabled { assignment, .. } if assignment.home.0 == "im1"));
    assert_eq!(address_of(&back.wanted).0, "ann@with.example");
    standing.released_at = Some(NOW.minus(Duration::from_secs(40 * 86_400)));
    let late = decide(&standing, &world, NOW);
    assert_eq!(address_of(&late.wanted).0, "ann@im.fallback.example");
}

#[test]
fn a_changed_srv_answer_keeps_addresses_unless_told_to_migrate() {
    let mut world = world();
    let standing = living(&world, &[("mail", "ann@with.example")], "im1");
    world.srv.get_mut("with.example").unwrap().answer = SrvAnswer::Absent;
    assert_eq!(change_of(&decide(&standing, &world, NOW).wanted), Change::Nothing);
    world.policy.im.on_srv_change = OnChange::Migrate;
    let migrated = decide(&standing, &world, NOW);
    assert_eq!(change_of(&migrated.wanted), Change::Readdressed);
    assert_eq!(address_of(&migrated.wanted).0, "ann@im.fallback.example");
}

#[test]
fn a_password_older_than_digest_must_be_reset_and_a_newer_one_is_ready() {
    let mut world = world();
    world.policy.digest.required = true;
    world.policy.digest.since = Timestamp::from_generalized_time("20260101000000Z").unwrap();
    let readiness = |attributes: &[(&str, &str)]| match decide(&user(attributes), &world, NOW).wanted {
        Wanted::Enabled { digest, .. } => digest,
        other => panic!("{other:?}"),
    };
    let mail = ("mail", "ann@with.example");
    assert_eq!(readiness(&[mail, ("pwdchangedtime", "20260101000000Z")]), DigestReadiness::Ready);
    assert_eq!(readiness(&[mail, ("pwdchangedtime", "20251231235959Z")]), DigestReadiness::ResetRequired);
    assert_eq!(readiness(&[mail, ("createtimestamp", "20250101000000Z")]), DigestReadiness::ResetRequired);
    assert_eq!(readiness(&[mail, ("createtimestamp", "20260601000000Z")]), DigestReadiness::Unknown);
    assert_eq!(readiness(&[mail]), DigestReadiness::Unknown);
}

#[test]
fn what_the_syntax_refuses_is_said_of_that_character() {
    let decision = decide(&user(&[("mail", "zoë@with.example")]), &world(), NOW);
    let expected = Refusal::AddressCharacter { address: "zoë@with.example".into(), character: 'ë' };
    assert_eq!(decision.wanted, Wanted::Refused { why: expected });
}

#[test]
fn several_primary_addresses_or_a_broken_one_are_a_problem() {
    let mut standing = user(&[]);
    standing.record.set(
        "proxyaddresses",
        vec![Value::Text("SMTP:a@with.example".into()), Value::Text("SMTP:b@with.example".into())],
    );
    assert!(matches!(decide(&standing, &world(), NOW).wanted, Wanted::Refused { why: Refusal::BadMail { .. } }));
    let broken = decide(&user(&[("mail", "no address")]), &world(), NOW);
    assert!(matches!(broken.wanted, Wanted::Refused { why: Refusal::BadMail { .. } }));
}

#[test]
fn explain_is_the_same_function_with_its_reasons_kept() {
    let world = world();
    for standing in
        [user(&[("mail", "ann@with.example")]), user(&[("mail", "ann@broken.example")]), living(&world, &[], "im1")]
    {
        let (decision, steps) = explain(&standing, &world, NOW);
        assert_eq!(decision, decide(&standing, &world, NOW));
        assert!(steps.len() >= 3, "{steps:?}");
    }
    let (_, steps) = explain(&user(&[("mail", "ann@with.example")]), &world, NOW);
    let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert!(text.iter().any(|line| line.contains("im1: 0 of 10 places taken") && line.contains("chosen")), "{text:#?}");
    assert!(text.iter().any(|line| line.contains("SRV for with.example: present, target im.example")), "{text:#?}");
}

// ---- a home as the DN of its virtual server object (Active Directory)

const SERVERS: &str = "CN=IM,CN=Services,CN=Configuration,DC=example";

fn domain() -> World {
    let mut world = world();
    world.policy.names.home = "msexchimvirtualserver".into();
    world.policy.names.object_class = String::new();
    world.policy.im.charset = Charset::Printable;
    for state in &mut world.fleet.homes {
        state.home.dn = Some(format!("CN={},{SERVERS}", state.home.id));
        state.object = HomeObject::There;
    }
    world
}

fn carry_home(standing: &mut Standing, dn: &str) {
    standing.record.set("msexchimvirtualserver", vec![Value::Text(dn.into())]);
}

fn living_in(world: &World, home: &str) -> Standing {
    let mut standing = living(world, &[("mail", "ann@with.example")], home);
    standing.record.set("imhomeserver", vec![]);
    carry_home(&mut standing, &format!("CN={home},{SERVERS}"));
    standing
}

fn deleted(name: &str) -> String {
    format!("CN={name}\\0ADEL:7e2435f0-e6b4-11f1-8772-828952d2b5a7,CN=Deleted Objects,CN=Configuration,DC=example")
}

fn home_of(wanted: &Wanted) -> &str {
    match wanted {
        Wanted::Enabled { assignment, .. } => &assignment.home.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_home_named_by_its_dn_is_ours_however_the_dn_is_written() {
    let world = domain();
    let mut standing = living_in(&world, "im1");
    for dn in [
        format!("CN=im1,{SERVERS}"),
        format!("cn=IM1, {}", SERVERS.to_lowercase()),
        format!("<GUID=7e2435f0-e6b4-11f1-8772-828952d2b5a7>;CN=im1,{SERVERS}"),
    ] {
        carry_home(&mut standing, &dn);
        let decision = decide(&standing, &world, NOW);
        assert_eq!(change_of(&decision.wanted), Change::Nothing, "{dn}");
        assert_eq!(homeward::worker::applier::plan_write(&standing, &world, NOW), None, "{dn}");
    }
}

#[test]
fn a_user_found_with_the_dn_of_a_home_of_ours_is_adopted_and_nothing_is_written() {
    let world = domain();
    let mut standing = living_in(&world, "im2");
    standing.reserved = None;
    standing.applied = WriteBackValues::default();
    // Somebody wrote it in capitals: adopted in lower case, and left as it stands.
    standing.record.set("msexchimaddress", vec![Value::Text("Ann@With.Example".into())]);
    let decision = decide(&standing, &world, NOW);
    assert_eq!((change_of(&decision.wanted), home_of(&decision.wanted)), (Change::Adopted, "im2"));
    assert_eq!(address_of(&decision.wanted).0, "ann@with.example");
    standing.reserved = match decision.wanted {
        Wanted::Enabled { assignment, .. } => Some(assignment),
        _ => None,
    };
    assert_eq!(homeward::worker::applier::plan_write(&standing, &world, NOW), None);
}

#[test]
fn the_dn_of_a_server_that_is_no_home_of_ours_is_foreign() {
    let world = domain();
    for dn in [format!("CN=elsewhere,{SERVERS}"), format!("CN=im1,OU=other,{SERVERS}")] {
        let mut standing = user(&[("mail", "ann@with.example")]);
        carry_home(&mut standing, &dn);
        let decision = decide(&standing, &world, NOW);
        let Wanted::Refused { why } = &decision.wanted else { panic!("{decision:?}") };
        assert_eq!(why.code(), "foreign-value", "{dn}");
        assert!(why.hint().contains("correct dn in its [[home]]"), "a renamed server looks like this: {}", why.hint());
    }
}

#[test]
fn a_renamed_server_is_followed_and_its_users_are_not_written() {
    let mut world = domain();
    let standing = living_in(&world, "im1");
    let state = &mut world.fleet.homes[0];
    let before = state.home.dn.replace(format!("CN=renamed,{SERVERS}")).unwrap();
    state.former_dns = vec![before];
    // Read before or after: the directory changes the value by itself, and tells nobody.
    for dn in [format!("CN=im1,{SERVERS}"), format!("CN=renamed,{SERVERS}")] {
        let mut standing = standing.clone();
        carry_home(&mut standing, &dn);
        assert_eq!(change_of(&decide(&standing, &world, NOW).wanted), Change::Nothing, "{dn}");
        assert_eq!(homeward::worker::applier::plan_write(&standing, &world, NOW), None, "{dn}");
    }
    // Who moves in now is written with the new name.
    let decision = decide(&user(&[("mail", "ann@with.example")]), &world, NOW);
    assert!(matches!(decision.wanted, Wanted::Enabled { .. }));
}

#[test]
fn an_orphan_of_a_deleted_server_moves_to_another_home_under_the_guard() {
    let mut world = domain();
    let mut standing = living_in(&world, "im1");
    carry_home(&mut standing, &deleted("im1"));
    world.fleet.homes[0].object = HomeObject::Missing;
    world.fleet.homes[0].configured = false;
    let decision = decide(&standing, &world, NOW);
    assert_eq!((change_of(&decision.wanted), home_of(&decision.wanted)), (Change::Moved, "im2"));
    assert_eq!(address_of(&decision.wanted).0, "ann@with.example", "the address stays");
    assert!(homeward::decide::guard::guarded(&decision.wanted).is_some());
    // What is written: the dead value out, the new one in, and the URL at the home server.
    standing.reserved = match decision.wanted {
        Wanted::Enabled { assignment, .. } => Some(assignment),
        _ => None,
    };
    let write = homeward::worker::applier::plan_write(&standing, &world, NOW).unwrap();
    let home = write.changes.iter().find(|change| change.attribute == "msexchimvirtualserver").unwrap();
    assert_eq!(home.old.as_deref(), Some(&deleted("im1")[..]));
    assert_eq!(home.new, Some(format!("CN=im2,{SERVERS}")));
    assert_eq!(write.changes.len(), 2, "{write:?}");
    // Decided once: until the write is out it does not count again.
    assert_eq!(change_of(&decide(&standing, &world, NOW).wanted), Change::Nothing);
}

#[test]
fn an_orphan_waits_for_room_and_for_the_end_of_adoption() {
    let mut world = domain();
    let mut standing = living_in(&world, "im1");
    carry_home(&mut standing, &deleted("im1"));
    world.fleet.homes[0].object = HomeObject::Missing;
    world.fleet.homes[1].assigned = 20;
    assert_eq!(decide(&standing, &world, NOW).wanted, Wanted::Wait { on: Blocker::Room });
    world.adopting = true;
    assert_eq!(decide(&standing, &world, NOW).wanted, Wanted::Wait { on: Blocker::Adoption });
}

#[test]
fn an_orphan_stays_at_a_server_that_was_made_anew_and_is_written_again() {
    let world = domain();
    let mut standing = living_in(&world, "im1");
    carry_home(&mut standing, &deleted("im1"));
    let decision = decide(&standing, &world, NOW);
    assert_eq!((change_of(&decision.wanted), home_of(&decision.wanted)), (Change::Moved, "im1"));
    let write = homeward::worker::applier::plan_write(&standing, &world, NOW).unwrap();
    assert_eq!(write.changes.len(), 1, "{write:?}");
}

#[test]
fn a_lost_store_knows_an_orphan_by_the_form_of_its_values() {
    let world = domain();
    let orphan = |address: &str, url: &str, home_url: &str| {
        let mut standing = user(&[("mail", "ann@with.example")]);
        carry_home(&mut standing, &deleted("im9"));
        for (name, value) in
            [("msexchimaddress", address), ("msexchimmetaphysicalurl", url), ("msexchimphysicalurl", home_url)]
        {
            standing.record.set(name, vec![Value::Text(value.into())]);
        }
        decide(&standing, &world, NOW).wanted
    };
    let url = "http://im.example/instmsg/aliases/ann";
    let home_url = "http://im9.example.com/instmsg/local/im.example/instmsg/aliases/ann";
    let wanted = orphan("ann@with.example", url, home_url);
    assert_eq!((change_of(&wanted), address_of(&wanted).0), (Change::Moved, "ann@with.example"));
    for (address, url, home_url) in [
        ("no address", url, home_url),
        ("ann@with.example", "http://im.example/somebody/else", home_url),
        ("ann@with.example", url, "http://im9.example.com/other"),
    ] {
        assert!(matches!(orphan(address, url, home_url), Wanted::Refused { why: Refusal::ForeignValue { .. } }));
    }
    let mut bare = user(&[("mail", "ann@with.example")]);
    carry_home(&mut bare, &deleted("im9"));
    assert!(matches!(decide(&bare, &world, NOW).wanted, Wanted::Refused { why: Refusal::ForeignValue { .. } }));
}

#[test]
fn a_disabled_orphan_is_released_and_cleared() {
    let world = domain();
    let mut standing = living_in(&world, "im1");
    carry_home(&mut standing, &deleted("im1"));
    standing.record.set("pwdaccountlockedtime", vec![Value::Text("000001010000Z".into())]);
    assert_eq!(decide(&standing, &world, NOW).wanted, Wanted::Released { why: ReleaseReason::AccountDisabled });
    standing.applied = ownership::found(&standing.record, &world.policy.names);
    standing.released_at = Some(NOW);
    let write = homeward::worker::applier::plan_write(&standing, &world, NOW).unwrap();
    assert!(write.changes.len() == 4 && write.changes.iter().all(|change| change.new.is_none()), "{write:?}");
}

#[test]
fn nobody_is_sent_to_a_home_whose_object_is_missing_or_unknown() {
    let mut world = domain();
    world.fleet.homes[0].object = HomeObject::Missing;
    let newcomer = user(&[("mail", "ann@with.example")]);
    assert_eq!(home_of(&decide(&newcomer, &world, NOW).wanted), "im2");
    world.fleet.homes[1].object = HomeObject::NotNamed;
    assert_eq!(decide(&newcomer, &world, NOW).wanted, Wanted::Wait { on: Blocker::Room });
    // Who lives there is not moved because of that alone.
    assert_eq!(change_of(&decide(&living_in(&world, "im1"), &world, NOW).wanted), Change::Nothing);
}

#[test]
fn an_address_that_active_directory_refuses_is_that_users_problem() {
    let world = domain();
    for (mail, character) in [("ann_lee@with.example", '_'), ("jürgen@with.example", 'ü'), ("a&b@with.example", '&')]
    {
        let decision = decide(&user(&[("mail", mail)]), &world, NOW);
        let Wanted::Refused { why: Refusal::AddressCharacter { character: found, .. } } = &decision.wanted else {
            panic!("{decision:?}")
        };
        assert_eq!(*found, character);
    }
    let odd = decide(&user(&[("mail", "O'Hara+x(y)/z-1@with.example")]), &world, NOW);
    assert_eq!(address_of(&odd.wanted).0, "o'hara+x(y)/z-1@with.example");
    assert!(matches!(
        decide(&user(&[("mail", "ann_lee@with.example")]), &self::world(), NOW).wanted,
        Wanted::Enabled { .. }
    ));
}

// ---- Digest in a domain

/// In a domain: what intake found out, `pwdLastSet`, and whether the operator said since when.
fn in_a_domain(
    storage: &str,
    set: Option<&str>,
    since: Option<&str>,
) -> (DigestReadiness, Option<PasswordDate>, String) {
    let mut world = world();
    world.policy.names.password_date = "pwdlastset".into();
    world.policy.digest = DigestPolicy {
        required: true,
        verifier: Verifier::Reversible,
        since: since.and_then(Timestamp::from_rfc3339).unwrap_or_default(),
        configured: since.is_some(),
        action: DigestAction::Expire,
    };
    let mut standing = living(&world, &[("mail", "ann@with.example"), (REVERSIBLE, storage)], "im1");
    standing.record.set("pwdlastset", set.map(|set| Value::Text(set.into())).into_iter().collect());
    let (decision, steps) = explain(&standing, &world, NOW);
    let words = steps.iter().filter(|step| step.topic() == "digest").map(ToString::to_string).collect();
    match decision.wanted {
        Wanted::Enabled { digest, expire, .. } => (digest, expire, words),
        other => panic!("{other:?}"),
    }
}

/// 2026-11-22T21:20:26.370Z
const SET: &str = "134398560263708050";

#[test]
fn in_a_domain_a_password_is_ready_if_it_was_set_since_storage_was_in_force_for_the_user() {
    use DigestReadiness::{Ready, ResetRequired};
    let of = |storage: &str| in_a_domain(storage, Some(SET), None);
    assert_eq!(of("2026-11-22T20:00:00Z").0, Ready);
    assert_eq!(of("2026-11-22T21:20:26.370Z").0, Ready);
    let (readiness, expire, words) = of("2026-11-22T21:20:26.371Z");
    assert_eq!((readiness, expire), (ResetRequired, Some(PasswordDate(Some(SET.into())))));
    assert_eq!(
        words,
        "password set 2026-11-22T21:20:26.370Z, reversible storage in force for this user since \
         2026-11-22T21:20:26.371Z at the latest: the password must be reset"
    );
}

#[test]
fn in_a_domain_storage_that_is_off_or_cannot_be_seen_is_unknown_and_expires_no_password() {
    let (readiness, expire, words) = in_a_domain("off", Some(SET), None);
    assert_eq!((readiness, expire), (DigestReadiness::Unknown, None));
    assert!(words.contains("no new password would help until it is on"), "{words}");
    for (storage, set) in [("unknown", Some(SET)), ("garbage", Some(SET)), ("2026-01-01T00:00:00Z", None)] {
        let (readiness, expire, words) = in_a_domain(storage, set, None);
        assert_eq!((readiness, expire), (DigestReadiness::Unknown, None), "{storage}");
        assert!(words.contains("cannot be"), "{words}");
    }
}

#[test]
fn in_a_domain_the_configured_time_counts_for_more_than_what_is_seen_but_off_is_off() {
    let since = Some("2026-11-01T00:00:00Z");
    assert_eq!(in_a_domain("2026-11-23T00:00:00Z", Some(SET), since).0, DigestReadiness::Ready);
    assert_eq!(in_a_domain("unknown", Some(SET), since).0, DigestReadiness::Ready);
    assert_eq!(
        in_a_domain("2020-01-01T00:00:00Z", Some(SET), Some("2026-12-01T00:00:00Z")).0,
        DigestReadiness::ResetRequired
    );
    assert_eq!(in_a_domain("off", Some(SET), since).0, DigestReadiness::Unknown);
}

#[test]
fn in_a_domain_a_demand_for_a_new_password_is_made_once_and_not_when_it_stands_already() {
    let (readiness, expire, words) = in_a_domain("2026-01-01T00:00:00Z", Some("0"), None);
    assert_eq!((readiness, expire), (DigestReadiness::ResetRequired, None));
    assert!(words.starts_with("a new password is demanded already"), "{words}");
}

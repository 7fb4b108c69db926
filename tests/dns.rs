//! What the DNS says, and how it fails to say anything: the real nsd for what resolves, a failing server for the rest.

#![allow(clippy::disallowed_methods)] // kept from decide only

mod support;

use hickory_proto::op::ResponseCode;
use homeward::model::{Answered, SrvAnswer, SrvRecord};
use homeward::probe::srv::SrvResolver;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::dns::{Cue, FailingDns, Nsd};

const ZONE: &str = "
_rvp._tcp          IN SRV 0 0 80 im.example.com.
_rvp._tcp.many     IN SRV 10 0 80 im3.example.com.
_rvp._tcp.many     IN SRV 0 5 80 im1.example.com.
_rvp._tcp.many     IN SRV 0 60 8080 IM2.Example.COM.
_rvp._tcp.closed   IN SRV 0 0 0 .
_rvp._tcp.mixed    IN SRV 0 0 0 .
_rvp._tcp.mixed    IN SRV 1 0 80 im.example.com.
_rvp._tcp.nodata   IN TXT \"not an SRV record\"
*.wild             IN SRV 0 0 80 im.example.com.
_rvp._tcp.alias    IN CNAME _rvp._tcp.example.com.
_rvp._tcp.alias2   IN CNAME _rvp._tcp.alias.example.com.
_rvp._tcp.outward  IN CNAME _rvp._tcp.example.org.
_rvp._tcp.dangling IN CNAME nothing.example.com.
_rvp._tcp.a        IN CNAME _rvp._tcp.b.example.com.
_rvp._tcp.b        IN CNAME _rvp._tcp.a.example.com.
_rvp._tcp.short 1  IN SRV 0 0 80 im.example.com.
_rvp._tcp.long 999999 IN SRV 0 0 80 im.example.com.
_rvp._tcp.xn--mller-kva IN SRV 0 0 80 im.example.com.
";
const ZONE_ORG: &str = "_rvp._tcp IN SRV 0 0 80 im.example.org.";

const DAY: Duration = Duration::from_secs(86_400);

fn resolver(server: SocketAddr) -> SrvResolver {
    SrvResolver::new(&[server]).unwrap()
}

fn record(priority: u16, weight: u16, port: u16, host: &str) -> SrvRecord {
    SrvRecord { priority, weight, port, host: host.into() }
}

fn present(host: &str) -> SrvAnswer {
    SrvAnswer::Present { records: vec![record(0, 0, 80, host)] }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Why nobody knows; and that it is asked again soon.
fn unknown(answered: Answered) -> String {
    match answered {
        Answered { answer: SrvAnswer::Unknown { why }, ttl } if ttl == seconds(15) => why,
        other => panic!("expected unknown for 15 s, not {other:?}"),
    }
}

#[tokio::test]
async fn what_nsd_serves_is_heard_as_it_is() {
    let nsd = Nsd::start(&[("example.com", ZONE), ("example.org", ZONE_ORG)]);
    let resolver = resolver(nsd.address());
    let many = SrvAnswer::Present {
        records: vec![
            record(0, 5, 80, "im1.example.com"),
            record(0, 60, 8080, "im2.example.com"),
            record(10, 0, 80, "im3.example.com"),
        ],
    };
    for (domain, answer, ttl) in [
        ("example.com", present("im.example.com"), seconds(300)),
        ("EXAMPLE.com", present("im.example.com"), seconds(300)),
        ("many.example.com", many, seconds(300)),
        ("closed.example.com", SrvAnswer::NotAvailable, seconds(300)),
        ("mixed.example.com", SrvAnswer::Present { records: vec![record(1, 0, 80, "im.example.com")] }, seconds(300)),
        ("nodata.example.com", SrvAnswer::Absent, seconds(120)),
        ("nothing.example.com", SrvAnswer::Absent, seconds(120)),
        ("any.wild.example.com", present("im.example.com"), seconds(300)),
        ("alias.example.com", present("im.example.com"), seconds(300)),
        ("alias2.example.com", present("im.example.com"), seconds(300)),
        ("outward.example.com", present("im.example.org"), seconds(300)),
        ("dangling.example.com", SrvAnswer::Absent, seconds(120)),
        ("short.example.com", present("im.example.com"), seconds(30)),
        ("long.example.com", present("im.example.com"), DAY),
        ("müller.example.com", present("im.example.com"), seconds(300)),
    ] {
        let answered = resolver.ask("_rvp._tcp", domain).await;
        assert_eq!(answered.answer, answer, "{domain}");
        assert!(answered.ttl <= ttl && answered.ttl + seconds(5) > ttl, "{domain}: {:?}", answered.ttl);
    }
    let many = resolver.ask("_rvp._tcp", "many.example.com").await.answer;
    assert_eq!(many.target(), Some("im2.example.com"), "lowest priority, then highest weight");
    let other_service = resolver.ask("_xmpp-client._tcp", "example.com").await.answer;
    assert_eq!(other_service, SrvAnswer::Absent);
}

#[tokio::test]
async fn a_zone_that_nsd_does_not_serve_is_unknown() {
    let nsd = Nsd::start(&[("example.com", ZONE)]);
    let why = unknown(resolver(nsd.address()).ask("_rvp._tcp", "elsewhere.example").await);
    assert!(why.contains("refused") || why.contains("Refused"), "{why}");
}

#[tokio::test]
async fn aliases_in_a_circle_are_unknown() {
    let nsd = Nsd::start(&[("example.com", ZONE)]);
    let why = unknown(resolver(nsd.address()).ask("_rvp._tcp", "a.example.com").await);
    assert!(why.contains("alias"), "{why}");
}

#[tokio::test]
async fn a_changed_zone_is_heard_at_once() {
    let mut nsd = Nsd::start(&[("example.com", ZONE)]);
    let resolver = resolver(nsd.address());
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, present("im.example.com"));
    nsd.set_zone("example.com", "_rvp._tcp IN SRV 0 0 80 new.example.com.");
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, present("new.example.com"));
    nsd.set_zone("example.com", "");
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, SrvAnswer::Absent);
}

#[tokio::test]
async fn certain_answers_are_certain_whatever_their_form() {
    let alias_and_srv = Cue::AliasAndSrv { alias: "_rvp._tcp.example.net".into(), host: "im.example.net".into() };
    let with_root = vec![(0, 0, ".".to_owned()), (3, 0, "im.example.com".to_owned())];
    for (cue, answer, ttl) in [
        (Cue::srv("im.example.com"), present("im.example.com"), seconds(300)),
        (Cue::Srv(vec![(0, 0, "im.example.com".into())], 0), present("im.example.com"), seconds(30)),
        (Cue::Srv(vec![(0, 0, ".".into())], 300), SrvAnswer::NotAvailable, seconds(300)),
        (
            Cue::Srv(with_root, 300),
            SrvAnswer::Present { records: vec![record(3, 0, 80, "im.example.com")] },
            seconds(300),
        ),
        (Cue::NxDomain(Some(90)), SrvAnswer::Absent, seconds(90)),
        (Cue::NxDomain(None), SrvAnswer::Absent, seconds(60)),
        (Cue::NoData(Some(5)), SrvAnswer::Absent, seconds(30)),
        (Cue::NoData(None), SrvAnswer::Absent, seconds(60)),
        (alias_and_srv, present("im.example.net"), seconds(300)),
    ] {
        let server = FailingDns::start(std::slice::from_ref(&cue));
        let answered = resolver(server.address()).ask("_rvp._tcp", "example.com").await;
        assert_eq!(answered.answer, answer, "{cue:?}");
        assert!(answered.ttl <= ttl && answered.ttl + seconds(5) > ttl, "{cue:?}: {:?}", answered.ttl);
    }
}

#[tokio::test]
async fn a_truncated_answer_is_repeated_over_tcp() {
    let server = FailingDns::start(&[Cue::Truncated(40)]);
    let answered = resolver(server.address()).ask("_rvp._tcp", "example.com").await;
    let SrvAnswer::Present { records } = answered.answer else { panic!("{answered:?}") };
    assert_eq!((records.len(), records[0].host.as_str()), (40, "im0.example.com"));
}

#[tokio::test]
async fn not_knowing_is_said_as_such() {
    for cue in [
        Cue::Code(ResponseCode::ServFail),
        Cue::Code(ResponseCode::Refused),
        Cue::Code(ResponseCode::NotImp),
        Cue::Code(ResponseCode::FormErr),
        Cue::Code(ResponseCode::NotAuth),
        Cue::Referral,
        Cue::AliasOfItself,
        Cue::EndlessAliases,
        Cue::Garbage,
        Cue::Silence,
    ] {
        let server = FailingDns::start(std::slice::from_ref(&cue));
        let started = Instant::now();
        let answered = resolver(server.address()).ask("_rvp._tcp", "example.com").await;
        println!("{cue:?}: {answered:?} after {:?}", started.elapsed()); // shown when it fails
        let why = unknown(answered);
        assert!(!why.is_empty() && started.elapsed() < seconds(10), "{cue:?}: {why} after {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_signature_that_does_not_hold_is_unknown_as_the_validating_server_says_it() {
    // We do not validate: the servers named do, and answer SERVFAIL (RFC 4035 5.5), here between sound answers.
    let server = FailingDns::start(&[Cue::srv("im.example.com"), Cue::Code(ResponseCode::ServFail)]);
    let resolver = resolver(server.address());
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, present("im.example.com"));
    let why = unknown(resolver.ask("_rvp._tcp", "example.com").await);
    assert!(why.contains("DNSSEC"), "an operator is told what it may be: {why}");
    server.say(&[Cue::NxDomain(Some(60))]);
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, SrvAnswer::Absent);
}

#[tokio::test]
async fn a_server_that_is_gone_is_unknown_until_it_is_back() {
    let mut nsd = Nsd::start(&[("example.com", ZONE)]);
    let resolver = resolver(nsd.address());
    nsd.stop();
    let started = Instant::now();
    unknown(resolver.ask("_rvp._tcp", "example.com").await);
    assert!(started.elapsed() < seconds(10), "{:?}", started.elapsed());
    nsd.set_zone("example.com", ZONE);
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, present("im.example.com"));
}

#[tokio::test]
async fn one_dead_server_of_two_hides_nothing() {
    let dead = FailingDns::start(&[Cue::Silence]);
    let nsd = Nsd::start(&[("example.com", ZONE)]);
    for servers in [[dead.address(), nsd.address()], [nsd.address(), dead.address()]] {
        let resolver = SrvResolver::new(&servers).unwrap();
        assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, present("im.example.com"));
        assert_eq!(resolver.ask("_rvp._tcp", "nothing.example.com").await.answer, SrvAnswer::Absent);
    }
}

#[tokio::test]
async fn a_flapping_server_is_heard_as_it_flaps() {
    let script = [Cue::srv("im.example.com"), Cue::srv("im2.example.com"), Cue::Code(ResponseCode::ServFail)];
    let server = FailingDns::start(&script);
    let resolver = resolver(server.address());
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, present("im.example.com"));
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, present("im2.example.com"));
    unknown(resolver.ask("_rvp._tcp", "example.com").await);
    server.say(&[Cue::NxDomain(Some(60))]);
    assert_eq!(resolver.ask("_rvp._tcp", "example.com").await.answer, SrvAnswer::Absent);
}

#[tokio::test]
async fn what_is_no_domain_name_is_not_asked() {
    let server = FailingDns::start(&[Cue::srv("im.example.com")]);
    for domain in ["", "a b", "a..b", "[192.0.2.1]", "-a.example", "example.com\0.evil"] {
        unknown(resolver(server.address()).ask("_rvp._tcp", domain).await);
    }
    assert_eq!(server.questions(), 0);
}

#[tokio::test]
async fn the_systems_servers_are_taken_where_none_are_named() {
    match SrvResolver::new(&[]) {
        Ok(_) => {}
        Err(error) => assert!(error.hint().0.contains("/etc/resolv.conf"), "{error}"),
    }
}

//! Asking homes for their load and health over real sockets.

#![allow(clippy::disallowed_methods)] // kept from decide only

mod support;

use homeward::error::chain;
use homeward::model::{HealthProbe, LoadSource};
use homeward::probe::ProbeError;
use homeward::probe::load::{TIMEOUT, healthy, online};
use std::time::{Duration, Instant};
use support::agent::Agent;
use support::http::{HttpServer, Reply};
use support::slapd::Slapd;

fn metrics(url: String) -> LoadSource {
    LoadSource::OpenMetrics { url, metric: "users_online".into() }
}

fn page(text: &str) -> Reply {
    Reply::Body(200, text.into())
}

#[tokio::test]
async fn a_home_tells_how_many_are_online() {
    let home = HttpServer::start(&[
        ("/metrics", page("# TYPE users_online gauge\nusers_online{a=\"1\"} 40\nusers_online{a=\"2\"} 2\n")),
        ("/load", page(r#"{"users": {"online": 17}}"#)),
    ]);
    assert_eq!(online(&metrics(home.url("/metrics")), TIMEOUT).await.unwrap(), 42);
    let json = LoadSource::Json { url: home.url("/load"), pointer: "/users/online".into() };
    assert_eq!(online(&json, TIMEOUT).await.unwrap(), 17);
    home.set("/load", page(r#"{"users": {"online": 18}}"#));
    assert_eq!(online(&json, TIMEOUT).await.unwrap(), 18);
}

#[tokio::test]
async fn a_page_longer_than_the_limit_is_refused() {
    let long = "# padding\n".repeat(120_000) + "users_online 5\n";
    let home = HttpServer::start(&[("/metrics", page(&long))]);
    let error = online(&metrics(home.url("/metrics")), TIMEOUT).await.unwrap_err();
    assert!(matches!(error, ProbeError::TooLong { .. }), "{}", chain(&error));
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let elsewhere = HttpServer::start(&[("/metrics", page("users_online 5\n"))]);
    let home = HttpServer::start(&[("/metrics", Reply::Redirect(elsewhere.url("/metrics")))]);
    let error = online(&metrics(home.url("/metrics")), TIMEOUT).await.unwrap_err();
    assert!(matches!(error, ProbeError::Status { status: 302, .. }), "{}", chain(&error));
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn an_answer_that_fails_is_an_error_and_never_zero() {
    let home = HttpServer::start(&[
        ("/down", Reply::Body(503, "users_online 5\n".into())),
        ("/cut", Reply::CutOff),
        ("/nan", page("users_online NaN\n")),
        ("/empty", page("")),
        ("/binary", page("\u{0}\u{1}users_online")),
    ]);
    for path in ["/down", "/missing", "/cut", "/nan", "/empty", "/binary"] {
        let error = online(&metrics(home.url(path)), TIMEOUT).await.unwrap_err();
        assert!(chain(&error).contains(path), "{}", chain(&error));
        assert!(error.hint().0.contains("homeward check"), "{}", error.hint());
    }
}

#[tokio::test]
async fn a_silent_home_costs_no_more_than_the_timeout() {
    let home = HttpServer::start(&[("/metrics", Reply::Silence)]);
    let started = Instant::now();
    let error = online(&metrics(home.url("/metrics")), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, ProbeError::Request { .. }), "{}", chain(&error));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_error_shows_no_credentials() {
    let home = HttpServer::start(&[]);
    let url = format!("http://ann:secret@{}/metrics?token=hidden", home.address());
    let error = online(&metrics(url), TIMEOUT).await.unwrap_err();
    let text = format!("{} {} {error:?}", chain(&error), error.hint());
    assert!(!text.contains("secret") && !text.contains("hidden"), "{text}");
}

#[tokio::test]
async fn a_home_is_up_when_it_answers() {
    let home = HttpServer::start(&[("/healthz", page("fine")), ("/sick", Reply::Body(500, String::new()))]);
    let tcp = HealthProbe::Tcp(home.address().to_string());
    healthy(&tcp, TIMEOUT).await.unwrap();
    healthy(&HealthProbe::Http(home.url("/healthz")), TIMEOUT).await.unwrap();
    let error = healthy(&HealthProbe::Http(home.url("/sick")), TIMEOUT).await.unwrap_err();
    assert!(matches!(error, ProbeError::Status { status: 500, .. }), "{}", chain(&error));

    let url = home.url("/healthz");
    drop(home);
    let error = healthy(&tcp, TIMEOUT).await.unwrap_err();
    assert!(matches!(error, ProbeError::Connect { .. }), "{}", chain(&error));
    assert!(healthy(&HealthProbe::Http(url), TIMEOUT).await.is_err());
    assert!(healthy(&HealthProbe::Tcp("no address".into()), TIMEOUT).await.is_err());
}

/// A real HTTPS server with the certificate that a test slapd has; killed when dropped.
struct Https(std::process::Child);

impl Https {
    fn start(slapd: &Slapd, port: u16) -> Https {
        std::fs::write(slapd.path("metrics"), "users_online 17\n").unwrap();
        let child = std::process::Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-WWW",
                "-cert",
                "server.pem",
                "-key",
                "server.key",
                "-accept",
                &port.to_string(),
            ])
            .current_dir(slapd.path(""))
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("install it: apt-get install openssl");
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "openssl s_server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Https(child)
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_home_with_a_certificate_of_the_houses_own_is_asked_where_the_system_trusts_it() {
    let slapd = Slapd::builder().start();
    let port = support::free_port();
    let _https = Https::start(&slapd, port);
    let url = format!("https://127.0.0.1:{port}/metrics");
    let load = format!("load = {{ openmetrics = \"{url}\", metric = \"users_online\" }}\nonline_capacity = 100\n");
    let home = format!("[[home]]\nid = \"own\"\nhost = \"own.example.com\"\ncapacity = 10\nprobe = \"{url}\"\n{load}");
    let agent = Agent::of(&slapd).extra(home);
    let check = |trusted: &std::path::Path| {
        let output = agent.command(&["check"]).env("SSL_CERT_FILE", trusted).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let said = check(&slapd.other_ca_file());
    assert!(said.contains("update-ca-certificates") && !said.contains("17 online"), "{said}");
    let said = check(&slapd.ca_file());
    assert!(said.contains("own: own.example.com, capacity 10, up, 17 online"), "{said}");
}

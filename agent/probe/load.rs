//! How many users are online at a home, and whether it is up. Asked over HTTP or by a TCP connection, with limits on
//! time and size. A home's answer is a number or an error, never a guess: what is not known is not zero.

use super::ProbeError;
use crate::error::without_credentials;
use crate::model::{HealthProbe, LoadSource, Online, Timestamp};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A home that has not answered by then counts as silent.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest page read.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// Users online, as the home tells it.
pub async fn online(source: &LoadSource, timeout: Duration) -> Result<u32, ProbeError> {
    match source {
        LoadSource::OpenMetrics { url, metric } => {
            let page = get(url, timeout).await?;
            online_from_metrics(&page, metric, &without_credentials(url))
        }
        LoadSource::Json { url, pointer } => {
            let page = get(url, timeout).await?;
            online_from_json(&page, pointer, &without_credentials(url))
        }
    }
}

/// `Ok` when the home is up.
pub async fn healthy(probe: &HealthProbe, timeout: Duration) -> Result<(), ProbeError> {
    match probe {
        HealthProbe::Http(url) => get(url, timeout).await.map(|_| ()),
        HealthProbe::Tcp(address) => {
            match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(cause)) => Err(ProbeError::Connect { address: address.clone(), cause }),
                Err(_) => Err(ProbeError::Timeout { address: address.clone(), after: timeout }),
            }
        }
    }
}

/// The last sample (users online, users assigned by then, when) as placement may use it. `None`: never read.
pub fn online_state(last: Option<(u32, u32, Timestamp)>, now: Timestamp, stale_after: Duration) -> Online {
    match last {
        None => Online::Unknown,
        Some((users, assigned, at)) if now.since(at) <= stale_after => Online::Sample { users, assigned, at },
        Some((users, _, at)) => Online::Stale { users, at },
    }
}

/// The text of a page that answered 2xx.
async fn get(url: &str, timeout: Duration) -> Result<String, ProbeError> {
    let shown = without_credentials(url);
    let asked = url.to_owned();
    let task = tokio::task::spawn_blocking(move || get_blocking(&asked, timeout));
    task.await.unwrap_or(Err(ProbeError::Stopped { url: shown }))
}

fn get_blocking(url: &str, timeout: Duration) -> Result<String, ProbeError> {
    let shown = || without_credentials(url);
    let refused = |cause| match cause {
        ureq::Error::BodyExceedsLimit(limit) => ProbeError::TooLong { url: shown(), limit },
        cause => ProbeError::Request { url: shown(), cause: Box::new(cause) },
    };
    let mut response = agent().get(url).config().timeout_global(Some(timeout)).build().call().map_err(refused)?;
    let status = response.status();
    if !status.is_success() {
        return Err(ProbeError::Status { url: shown(), status: status.as_u16() });
    }
    response.body_mut().with_config().limit(BODY_BYTES_MAX).lossy_utf8(true).read_to_string().map_err(refused)
}

/// No redirects: a page that moved is a configuration to correct, and must not lead us elsewhere. No proxy from the
/// environment: homes are ours. The system's certificates, for homes with one of the house's own authority.
fn agent() -> &'static ureq::Agent {
    static AGENT: OnceLock<ureq::Agent> = OnceLock::new();
    AGENT.get_or_init(|| {
        let roots = rustls_native_certs::load_native_certs().certs;
        let roots = roots.iter().map(|der| ureq::tls::Certificate::from_der(der).to_owned()).collect();
        let tls = ureq::tls::TlsConfig::builder()
            .root_certs(ureq::tls::RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        ureq::Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("homeward/", env!("CARGO_PKG_VERSION")))
            .build()
            .into()
    })
}

/// Adds up the samples of `metric` in an OpenMetrics 1.0 or Prometheus 0.0.4 text page.
fn online_from_metrics(page: &str, metric: &str, url: &str) -> Result<u32, ProbeError> {
    let mut values = page.lines().filter_map(|line| sample_value(line, metric)).peekable();
    if values.peek().is_none() {
        return Err(ProbeError::NoSample { url: url.to_owned(), metric: metric.to_owned() });
    }
    let bad =
        |value: &str| ProbeError::BadNumber { url: url.to_owned(), what: metric.to_owned(), value: shortened(value) };
    let mut sum = 0.0;
    for value in values {
        sum += value.parse::<f64>().ok().filter(|number| users(*number).is_some()).ok_or_else(|| bad(value))?;
    }
    users(sum).ok_or_else(|| bad(&sum.to_string()))
}

/// The value in a line such as `users{host="a b"} 12 1700000000 # {trace_id="x"} 1`, if it is a sample of `metric`.
fn sample_value<'a>(line: &'a str, metric: &str) -> Option<&'a str> {
    let rest = line.trim_start().strip_prefix(metric)?;
    let after_name = rest.trim_start();
    let after_labels = match after_name.strip_prefix('{') {
        Some(labels) => after_closing_brace(labels)?,
        None if after_name.len() < rest.len() => after_name,
        // The name goes on: another metric.
        None => return None,
    };
    Some(after_labels.split_whitespace().next().unwrap_or_default())
}

/// Label values are quoted; a quoted brace closes nothing.
fn after_closing_brace(labels: &str) -> Option<&str> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in labels.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return labels.get(at + 1..),
            _ => {}
        }
    }
    None
}

fn online_from_json(page: &str, pointer: &str, url: &str) -> Result<u32, ProbeError> {
    let document: serde_json::Value =
        serde_json::from_str(page).map_err(|cause| ProbeError::NoJson { url: url.to_owned(), cause })?;
    let no_number = || ProbeError::NoNumber { url: url.to_owned(), pointer: pointer.to_owned() };
    let number = document.pointer(pointer).and_then(serde_json::Value::as_f64).ok_or_else(no_number)?;
    users(number).ok_or_else(|| ProbeError::BadNumber {
        url: url.to_owned(),
        what: pointer.to_owned(),
        value: number.to_string(),
    })
}

/// NaN, infinite, negative and absurd are no numbers of users.
fn users(number: f64) -> Option<u32> {
    (number >= 0.0 && number <= f64::from(u32::MAX)).then(|| number.round() as u32)
}

/// A value from outside as an error may show it.
fn shortened(value: &str) -> String {
    value.chars().take(40).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP im_users_online Users online.
# TYPE im_users_online gauge
im_users_online{shard=\"a\"} 12
im_users_online{shard=\"b {}\\\" 99\"} 3e1 1700000000 # {trace_id=\"x\"} 7
im_users_online_max 5000
other{im_users_online=\"1\"} 4
plain 7.0
broken{a=\"b\" 3
# EOF
";

    #[test]
    fn samples_of_the_metric_are_added_up_whatever_their_labels() {
        assert_eq!(online_from_metrics(PAGE, "im_users_online", "u").unwrap(), 42);
        assert_eq!(online_from_metrics(PAGE, "im_users_online_max", "u").unwrap(), 5_000);
        assert_eq!(online_from_metrics(PAGE, "plain", "u").unwrap(), 7);
        assert_eq!(online_from_metrics("plain\t0\r\n", "plain", "u").unwrap(), 0);
    }

    #[test]
    fn a_metric_that_is_not_there_is_not_zero() {
        for metric in ["im_users", "users_online", "broken"] {
            let error = online_from_metrics(PAGE, metric, "http://im1/metrics").unwrap_err();
            assert!(matches!(error, ProbeError::NoSample { .. }), "{metric}: {error}");
        }
        assert!(matches!(online_from_metrics("", "plain", "u"), Err(ProbeError::NoSample { .. })));
    }

    #[test]
    fn what_is_no_number_of_users_is_refused() {
        for value in ["NaN", "-1", "+Inf", "-0.5", "1e12", "ten", "", "0x10"] {
            let error = online_from_metrics(&format!("plain 1\nplain {value}\n"), "plain", "u").unwrap_err();
            assert!(matches!(error, ProbeError::BadNumber { .. }), "{value}: {error}");
        }
    }

    #[test]
    fn a_json_pointer_leads_to_a_number_or_nowhere() {
        let page = r#"{"stats": {"online": 17, "text": "17", "less": -1, "list": [1, 2.4]}}"#;
        assert_eq!(online_from_json(page, "/stats/online", "u").unwrap(), 17);
        assert_eq!(online_from_json(page, "/stats/list/1", "u").unwrap(), 2);
        assert_eq!(online_from_json("5", "", "u").unwrap(), 5);
        for pointer in ["/stats", "/stats/text", "/nothing", "stats/online"] {
            assert!(matches!(online_from_json(page, pointer, "u"), Err(ProbeError::NoNumber { .. })), "{pointer}");
        }
        assert!(matches!(online_from_json(page, "/stats/less", "u"), Err(ProbeError::BadNumber { .. })));
        assert!(matches!(online_from_json("<html>", "", "u"), Err(ProbeError::NoJson { .. })));
    }

    #[test]
    fn a_sample_grows_stale_and_is_never_read_as_zero() {
        let (at, stale_after) = (Timestamp(1_000), Duration::from_secs(60));
        let sample = Online::Sample { users: 5, assigned: 9, at };
        assert_eq!(online_state(Some((5, 9, at)), at, stale_after), sample);
        assert_eq!(online_state(Some((5, 9, at)), at.plus(stale_after), stale_after), sample);
        let later = at.plus(stale_after + Duration::from_millis(1));
        assert_eq!(online_state(Some((5, 9, at)), later, stale_after), Online::Stale { users: 5, at });
        assert_eq!(online_state(None, at, stale_after), Online::Unknown);
    }
}

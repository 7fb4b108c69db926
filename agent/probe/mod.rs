//! Asking the world what decisions rest on: DNS for SRV records, homes for their load and health, and Active Directory
//! for its virtual server objects.
//! Nothing here decides, stores or keeps time: each question is asked once and its answer handed back as a value.

pub mod load;
pub mod servers;
pub mod srv;

use crate::error::{Disposition, Hint};

/// Why a probe has no answer. SRV questions have none of these: not knowing is one of their answers.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("setting up the DNS resolver")]
    Resolver(#[source] hickory_resolver::net::NetError),
    #[error("connecting to {address}")]
    Connect {
        address: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("connecting to {address}: no answer within {after:?}")]
    Timeout { address: String, after: std::time::Duration },
    #[error("asking {url}")]
    Request {
        url: String,
        #[source]
        cause: Box<ureq::Error>,
    },
    #[error("asking {url}: answered with HTTP status {status}")]
    Status { url: String, status: u16 },
    #[error("the page {url} is longer than {limit} bytes")]
    TooLong { url: String, limit: u64 },
    #[error("the page {url} has no sample of the metric {metric}")]
    NoSample { url: String, metric: String },
    #[error("the page {url} is no JSON document")]
    NoJson {
        url: String,
        #[source]
        cause: serde_json::Error,
    },
    #[error("the document {url} has no number at \"{pointer}\"")]
    NoNumber { url: String, pointer: String },
    #[error("the page {url} says \"{value}\" for {what}, which is no number of users")]
    BadNumber { url: String, what: String, value: String },
    #[error("asking {url}: interrupted by the agent stopping")]
    Stopped { url: String },
}

impl ProbeError {
    pub fn disposition(&self) -> Disposition {
        match self {
            ProbeError::Resolver(_) => Disposition::Hold,
            ProbeError::Connect { .. }
            | ProbeError::Timeout { .. }
            | ProbeError::Request { .. }
            | ProbeError::Status { .. }
            | ProbeError::TooLong { .. }
            | ProbeError::NoSample { .. }
            | ProbeError::NoJson { .. }
            | ProbeError::NoNumber { .. }
            | ProbeError::BadNumber { .. }
            | ProbeError::Stopped { .. } => Disposition::Retry,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            ProbeError::Resolver(_) => "check /etc/resolv.conf, or set [dns] servers, then: homeward check".into(),
            ProbeError::Connect { address, .. } | ProbeError::Timeout { address, .. } => {
                format!("see whether the home listens at {address}, and no firewall is between, then: homeward check")
            }
            ProbeError::Request { url, cause } if is_certificate(cause) => format!(
                "the system's certificates count: put the PEM file of the authority that signed it into \
                 /usr/local/share/ca-certificates (*.crt), run update-ca-certificates and restart the agent; see it: curl -vI '{url}'; then: homeward check"
            ),
            ProbeError::Request { url, .. } | ProbeError::Status { url, .. } | ProbeError::TooLong { url, .. } => {
                format!("see what the home answers: curl -i '{url}'; then: homeward check")
            }
            ProbeError::NoSample { url, metric } => {
                format!(
                    "correct the metric's name; what there is: curl '{url}' | grep -i '{metric}'; then: homeward check"
                )
            }
            ProbeError::NoJson { url, .. } | ProbeError::NoNumber { url, .. } => {
                format!("correct the URL or the RFC 6901 pointer; what there is: curl '{url}'; then: homeward check")
            }
            ProbeError::BadNumber { url, .. } => {
                format!("see what the home says: curl '{url}'; it is read again by itself; or: homeward check")
            }
            ProbeError::Stopped { .. } => "it is asked again at the next start: systemctl start homeward".into(),
        })
    }
}

/// The home's certificate is not one that we trust.
fn is_certificate(cause: &ureq::Error) -> bool {
    let ureq::Error::Io(cause) = cause else { return false };
    let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

//! From a URL to a connection: where to connect, TLS, bind, and words for everything that can go wrong on the way.
//! It never retries, never logs and never falls back from TLS to plain text: the caller decides what follows a failure.

use crate::config::{Tls, TlsMode};
use crate::error::{Disposition, Hint};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// A quiet connection is probed after 30 s, every 10 s, and given up after 3 probes; unacknowledged data after 60 s.
/// Without this a pulled cable looks like a quiet directory for ever.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Where a server listens, and how the connection is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// As configured: what messages name.
    pub url: String,
    pub address: Address,
    pub security: Security,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `host` is what the server's certificate must be for.
    Tcp { host: String, port: u16 },
    /// `ldapi://`
    Unix(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    Plain,
    /// TLS after the StartTLS operation (RFC 4511 4.14), before anything else.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

impl Endpoint {
    /// Reads `ldap://host[:port]`, `ldaps://host[:port]` or `ldapi://%2Fpath%2Fto%2Fsocket`.
    ///
    /// Without a TLS mode the URL decides: `ldaps` is TLS, `ldapi` and `ldap` to loopback are plain, other `ldap` is
    /// StartTLS. Mode `off` to another machine is refused unless `allow_plaintext`.
    pub fn parse(url: &str, tls: &Tls, allow_plaintext: bool) -> Result<Endpoint, ConnectError> {
        let bad = |problem: &str| ConnectError::BadUrl { url: url.to_owned(), problem: problem.to_owned() };
        let (scheme, rest) = url.trim().split_once("://").ok_or_else(|| bad("it has no scheme such as ldaps://"))?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let (default_port, scheme_is_tls) = match scheme.to_ascii_lowercase().as_str() {
            "ldap" => (389, false),
            "ldaps" => (636, true),
            "ldapi" => {
                let path =
                    percent_decoded(authority).ok_or_else(|| bad("the socket path is not percent-encoded text"))?;
                if !path.starts_with('/') {
                    return Err(bad("it needs the path of the socket, with %2F for each slash"));
                }
                let address = Address::Unix(PathBuf::from(path));
                return Ok(Endpoint { url: url.to_owned(), address, security: Security::Plain });
            }
            other => return Err(ConnectError::UnsupportedScheme { url: url.to_owned(), scheme: other.to_owned() }),
        };
        let (host, port) =
            host_and_port(authority).ok_or_else(|| bad("it has no host, or a port that is no number"))?;
        let loopback = is_loopback(&host);
        let security = match (scheme_is_tls, tls.mode) {
            (true, None | Some(TlsMode::Ldaps)) => Security::Tls,
            (true, Some(TlsMode::Starttls | TlsMode::Off)) | (false, Some(TlsMode::Ldaps)) => {
                return Err(ConnectError::Contradiction { url: url.to_owned() });
            }
            (false, Some(TlsMode::Starttls)) => Security::StartTls,
            (false, Some(TlsMode::Off)) if !loopback && !allow_plaintext => {
                return Err(ConnectError::PlaintextRefused { url: url.to_owned() });
            }
            (false, Some(TlsMode::Off)) => Security::Plain,
            (false, None) if loopback => Security::Plain,
            (false, None) => Security::StartTls,
        };
        let address = Address::Tcp { host, port: port.unwrap_or(default_port) };
        Ok(Endpoint { url: url.to_owned(), address, security })
    }
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        },
    };
    let port = match rest.strip_prefix(':') {
        Some(digits) => Some(digits.parse().ok().filter(|port| *port != 0)?),
        None if rest.is_empty() => None,
        None => return None,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (!host.is_empty() && host.chars().all(plain)).then(|| (host.to_owned(), port))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// rustls with ring, TLS 1.2 and 1.3, the configured or the system's certificates, and the client certificate if there is one.
pub fn tls_config(tls: &Tls) -> Result<Arc<rustls::ClientConfig>, ConnectError> {
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => {
            for certificate in certificates("ca_file", path)? {
                let refused = |cause| tls_file("ca_file", path, cause);
                roots.add(certificate).map_err(refused)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(ConnectError::SystemCertificates);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::TlsSetup)?
        .with_root_certificates(roots);
    let config = match (&tls.certificate_file, &tls.key_file) {
        (Some(certificate_file), Some(key_file)) => {
            let chain = certificates("certificate_file", certificate_file)?;
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|cause| tls_file("key_file", key_file, cause))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|cause| tls_file("certificate_file", certificate_file, cause))?
        }
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) | (None, Some(_)) => return Err(ConnectError::HalfClientCertificate),
    };
    Ok(Arc::new(config))
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|cause| tls_file(setting, path, cause))?;
    if found.is_empty() {
        return Err(tls_file(setting, path, rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn tls_file(setting: &'static str, path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> ConnectError {
    ConnectError::TlsFile { setting, path: path.to_owned(), cause: Box::new(cause) }
}

/// A TCP connection that notices a dead peer. Tries every address of the host within `timeout`.
///
/// # Errors
/// The endpoint is a socket path; the name does not resolve; nobody answers.
pub async fn tcp(endpoint: &Endpoint, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let url = || endpoint.url.clone();
    let Address::Tcp { host, port } = &endpoint.address else {
        return Err(ConnectError::BadUrl { url: url(), problem: "a socket path is no host".into() });
    };
    let connecting = async {
        let addresses = tokio::net::lookup_host((host.as_str(), *port))
            .await
            .map_err(|cause| ConnectError::Resolve { url: url(), host: host.clone(), cause })?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(cause) => last = Some(cause),
            }
        }
        let nothing = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        Err(unreachable(endpoint, last.unwrap_or_else(nothing)))
    };
    let stream = tokio::time::timeout(timeout, connecting).await.map_err(|_| ConnectError::Timeout {
        url: url(),
        doing: "connecting",
        after: timeout,
    })??;
    let socket = socket2::SockRef::from(&stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX)))
        .map_err(|cause| unreachable(endpoint, cause))?;
    Ok(stream)
}

fn unreachable(endpoint: &Endpoint, cause: std::io::Error) -> ConnectError {
    let url = endpoint.url.clone();
    match cause.kind() {
        std::io::ErrorKind::ConnectionRefused => ConnectError::Refused { url },
        _ => ConnectError::Unreachable { url, cause },
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the directory URL {url} cannot be used: {problem}")]
    BadUrl { url: String, problem: String },
    #[error("the directory URL {url} has the scheme {scheme}, which is not supported")]
    UnsupportedScheme { url: String, scheme: String },
    #[error("the scheme of {url} contradicts [directory] tls.mode")]
    Contradiction { url: String },
    #[error("plain text to {url} is refused: the password and every record would cross the network in the clear")]
    PlaintextRefused { url: String },
    #[error("reading [directory] tls.{setting} {}", path.display())]
    TlsFile {
        setting: &'static str,
        path: PathBuf,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("[directory] tls.certificate_file and tls.key_file need each other, and only one is set")]
    HalfClientCertificate,
    #[error("the system has no CA certificates, and [directory] tls.ca_file is not set")]
    SystemCertificates,
    #[error("setting up TLS")]
    TlsSetup(#[source] rustls::Error),
    #[error("resolving {host} for {url}")]
    Resolve {
        url: String,
        host: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("{url} refuses the connection: nothing listens there")]
    Refused { url: String },
    #[error("connecting to {url}")]
    Unreachable {
        url: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("{url} did not answer within {after:?} while {doing}")]
    Timeout { url: String, doing: &'static str, after: Duration },
}

impl ConnectError {
    pub fn disposition(&self) -> Disposition {
        match self {
            ConnectError::Resolve { .. }
            | ConnectError::Refused { .. }
            | ConnectError::Unreachable { .. }
            | ConnectError::Timeout { .. } => Disposition::Retry,
            ConnectError::BadUrl { .. }
            | ConnectError::UnsupportedScheme { .. }
            | ConnectError::Contradiction { .. }
            | ConnectError::PlaintextRefused { .. }
            | ConnectError::TlsFile { .. }
            | ConnectError::HalfClientCertificate
            | ConnectError::SystemCertificates
            | ConnectError::TlsSetup(_) => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            ConnectError::BadUrl { .. } | ConnectError::UnsupportedScheme { .. } => {
                "write [directory] url as ldaps://host, ldap://host:389 or ldapi://%2Fpath%2Fto%2Fsocket, then: homeward check".into()
            }
            ConnectError::Contradiction { .. } => {
                "ldaps:// goes with tls.mode ldaps, ldap:// with starttls or off; correct one of them, then: homeward check".into()
            }
            ConnectError::PlaintextRefused { .. } => {
                "use ldaps://, or tls.mode = \"starttls\"; if the network is trusted set [directory] allow_plaintext = true, then: homeward check".into()
            }
            ConnectError::TlsFile { path, .. } => {
                format!("it must be PEM and readable by the agent's account: ls -l {}", path.display())
            }
            ConnectError::HalfClientCertificate => {
                "set both tls.certificate_file and tls.key_file, or neither, then: homeward check".into()
            }
            ConnectError::SystemCertificates => {
                "install ca-certificates, or set [directory] tls.ca_file, then: homeward check".into()
            }
            ConnectError::TlsSetup(_) => "check the [directory] tls settings, then: homeward check".into(),
            ConnectError::Resolve { host, .. } => format!("check the name: getent hosts {host}"),
            ConnectError::Refused { url } | ConnectError::Unreachable { url, .. } | ConnectError::Timeout { url, .. } => {
                format!("check that the server runs and the port is open: ldapsearch -x -H {url} -s base -b '' 1.1")
            }
        })
    }
}

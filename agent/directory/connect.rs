//! From a URL to a connection: where to connect, TLS, bind, and words for everything that can go wrong on the way.
//! It never retries, never logs and never falls back from TLS to plain text: the caller decides what follows a failure.

use super::stream::{ber, frame::frame};
use super::{guard, kerberos};
use crate::config::{Bind, Directory, Tls, TlsMode};
use crate::error::{Disposition, Hint};
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, StdStream};
use rustls::CertificateError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::ExposeSecret as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

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

/// A byte stream to a directory server.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, ready for LDAP: TLS is up where the endpoint wants it, nobody has bound. `timeout` is for each step.
pub async fn open(endpoint: &Endpoint, tls: &Tls, timeout: Duration) -> Result<Box<dyn Duplex>, ConnectError> {
    open_and_see(endpoint, tls, timeout).await.map(|(stream, _)| stream)
}

/// The same, and the server's own certificate (DER), where there is TLS.
async fn open_and_see(
    endpoint: &Endpoint,
    tls: &Tls,
    timeout: Duration,
) -> Result<(Box<dyn Duplex>, Option<Vec<u8>>), ConnectError> {
    let (host, starttls) = match (&endpoint.address, endpoint.security) {
        (Address::Unix(path), _) => {
            let stream = UnixStream::connect(path).await.map_err(|cause| unreachable(endpoint, cause))?;
            return Ok((Box::new(stream), None));
        }
        (Address::Tcp { .. }, Security::Plain) => return Ok((Box::new(tcp(endpoint, timeout).await?), None)),
        (Address::Tcp { host, .. }, security) => (host, security == Security::StartTls),
    };
    let config = tls_config(tls)?;
    let name = ServerName::try_from(host.clone())
        .map_err(|_| ConnectError::BadUrl { url: endpoint.url.clone(), problem: "its host is no host name".into() })?;
    let mut stream = tcp(endpoint, timeout).await?;
    let timed_out = |doing| ConnectError::Timeout { url: endpoint.url.clone(), doing, after: timeout };
    if starttls {
        tokio::time::timeout(timeout, start_tls(endpoint, &mut stream))
            .await
            .map_err(|_| timed_out("asking for StartTLS"))??;
    }
    let handshake = tokio_rustls::TlsConnector::from(config).connect(name, stream);
    let stream = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| timed_out("setting up TLS"))?
        .map_err(|cause| tls_refusal(endpoint, cause))?;
    let certificate = server_certificate(stream.get_ref().1);
    Ok((Box::new(stream), certificate))
}

/// DER.
pub(super) fn server_certificate(tls: &rustls::ClientConnection) -> Option<Vec<u8>> {
    tls.peer_certificates().and_then(|chain| chain.first()).map(|certificate| certificate.to_vec())
}

/// The StartTLS operation: request and answer fit one small message each.
async fn start_tls(endpoint: &Endpoint, stream: &mut TcpStream) -> Result<(), ConnectError> {
    const REQUEST: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
    const ANSWER_MAX_BYTES: usize = 4096;
    let lost = |cause| ConnectError::Unreachable { url: endpoint.url.clone(), cause };
    stream.write_all(REQUEST).await.map_err(lost)?;
    let mut answer = Vec::new();
    let length = loop {
        match frame(&answer).map_err(|cause| lost(guard::malformed(cause)))? {
            Some(length) => break length,
            None if answer.len() < ANSWER_MAX_BYTES && stream.read_buf(&mut answer).await.map_err(lost)? > 0 => {}
            None => return Err(ConnectError::Closed { url: endpoint.url.clone(), doing: "asking for StartTLS" }),
        }
    };
    // Anything after the answer came before TLS protects it: somebody injected it.
    match extended_result(&answer) {
        Some(0) if answer.len() == length => Ok(()),
        code => Err(ConnectError::StartTlsRefused { url: endpoint.url.clone(), code: code.unwrap_or(2) }),
    }
}

/// The result code of an ExtendedResponse: message, message id, [APPLICATION 24], ENUMERATED.
fn extended_result(message: &[u8]) -> Option<u32> {
    let mut message = ber::Reader::new(message).enter(ber::SEQUENCE).ok()?;
    message.integer(ber::INTEGER).ok()?;
    let code = message.enter(0x78).ok()?.integer(ber::ENUMERATED).ok()?;
    u32::try_from(code).ok()
}

fn tls_refusal(endpoint: &Endpoint, cause: std::io::Error) -> ConnectError {
    let url = endpoint.url.clone();
    let certificate = match cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(problem)) => problem,
        Some(_) => return ConnectError::Tls { url, cause },
        None => return ConnectError::Unreachable { url, cause },
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => ConnectError::CertificateExpired { url },
        CertificateError::NotValidForName => ConnectError::CertificateName { url, names: Vec::new() },
        CertificateError::NotValidForNameContext { presented, .. } => {
            ConnectError::CertificateName { url, names: presented.clone() }
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => ConnectError::CertificateIssuer { url },
        _ => ConnectError::Tls { url, cause },
    }
}

/// Connects to the first of the configured servers that takes us, and binds. `timeout` is for each step.
///
/// # Errors
/// What the last server said.
pub async fn connect(directory: &Directory, timeout: Duration) -> Result<(Ldap, Endpoint), ConnectError> {
    let mut last = ConnectError::NoUrl;
    for url in &directory.urls {
        let endpoint = Endpoint::parse(url, &directory.tls, directory.allow_plaintext)?;
        match connect_ldap3(&endpoint, directory, timeout).await {
            Ok(ldap) => return Ok((ldap, endpoint)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// An `ldap3` connection to one server, bound as configured. Dropping the last handle closes it.
///
/// `ldap3` gets one end of a socket pair and `guard` stands in between: see there. Its task, and ours, end with the
/// connection; a panic in either ends the connection and nothing else.
pub async fn connect_ldap3(
    endpoint: &Endpoint,
    directory: &Directory,
    timeout: Duration,
) -> Result<Ldap, ConnectError> {
    let (mut server, certificate) = open_and_see(endpoint, &directory.tls, timeout).await?;
    if let (Bind::Gssapi, Address::Tcp { host, .. }) = (&directory.bind, &endpoint.address) {
        let binding = kerberos::bind(&mut server, &endpoint.url, host, certificate.as_deref());
        let late = |_| ConnectError::Timeout { url: endpoint.url.clone(), doing: "binding", after: timeout };
        tokio::time::timeout(timeout, binding).await.map_err(late)??;
    }
    let no_pair = |cause| ConnectError::Unreachable { url: endpoint.url.clone(), cause };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(no_pair)?;
    ours.set_nonblocking(true).map_err(no_pair)?;
    let ours = UnixStream::from_std(ours).map_err(no_pair)?;
    tokio::spawn(async move {
        if let Err(error) = guard::relay(server, ours).await {
            tracing::debug!(%error, "directory connection ended");
        }
    });
    let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(theirs));
    let (driver, mut ldap) = LdapConnAsync::with_settings(settings, "ldapi:///")
        .await
        .map_err(|cause| ConnectError::Unreachable { url: endpoint.url.clone(), cause: cause.into() })?;
    tokio::spawn(async move {
        if let Err(error) = driver.drive().await {
            tracing::debug!(%error, "directory connection ended");
        }
    });
    bind(&mut ldap, endpoint, &directory.bind, timeout).await?;
    Ok(ldap)
}

async fn bind(ldap: &mut Ldap, endpoint: &Endpoint, bind: &Bind, timeout: Duration) -> Result<(), ConnectError> {
    let url = || endpoint.url.clone();
    ldap.with_timeout(timeout);
    let (who, answer) = match bind {
        Bind::Anonymous => ("anonymous".to_owned(), contained(ldap.simple_bind("", "")).await),
        Bind::Simple { dn, password } => {
            let password = password.expose_secret();
            // A name without a password is an unauthenticated bind, which servers take for anonymous (RFC 4513 5.1.2).
            if password.is_empty() {
                return Err(ConnectError::EmptyPassword { url: url(), bind_dn: dn.clone() });
            }
            (dn.clone(), contained(ldap.simple_bind(dn, password)).await)
        }
        Bind::External => ("SASL EXTERNAL".to_owned(), contained(ldap.sasl_external_bind()).await),
        // Done, before `ldap3` had the connection.
        Bind::Gssapi => return Ok(()),
    };
    let result = match answer {
        Some(Ok(result)) => result,
        Some(Err(LdapError::Timeout { .. })) => {
            return Err(ConnectError::Timeout { url: url(), doing: "binding", after: timeout });
        }
        Some(Err(_)) | None => return Err(ConnectError::Closed { url: url(), doing: "binding" }),
    };
    bind_result(&endpoint.url, &who, result.rc, result.text)
}

/// What the result of a bind means.
pub(super) fn bind_result(url: &str, who: &str, code: u32, text: String) -> Result<(), ConnectError> {
    let (url, bind_dn) = (url.to_owned(), who.to_owned());
    match code {
        0 => Ok(()),
        8 | 13 => Err(ConnectError::NeedsTls { url, bind_dn, code, text }),
        48 | 49 => Err(ConnectError::WrongCredentials { url, bind_dn, code, text }),
        53 => Err(ConnectError::BindUnwilling { url, bind_dn, text }),
        51 | 52 => Err(ConnectError::ServerBusy { url, code, text }),
        _ => Err(ConnectError::BindFailed { url, bind_dn, code, text }),
    }
}

/// Runs a call into `ldap3`, which panics at answers it does not understand; `None`: it did.
pub(super) async fn contained<F: Future>(call: F) -> Option<F::Output> {
    let mut call = std::pin::pin!(call);
    std::future::poll_fn(|context| {
        let poll = std::panic::AssertUnwindSafe(|| call.as_mut().poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.map(Some),
            Err(_) => std::task::Poll::Ready(None),
        }
    })
    .await
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
    #[error("{url} closed the connection while {doing}")]
    Closed { url: String, doing: &'static str },
    #[error("no [directory] url is set")]
    NoUrl,
    #[error("{url} refuses StartTLS with result {code}")]
    StartTlsRefused { url: String, code: u32 },
    #[error("the certificate of {url} has expired")]
    CertificateExpired { url: String },
    #[error("the certificate of {url} is for {}, not for this name", listed(names))]
    CertificateName { url: String, names: Vec<String> },
    #[error("the certificate of {url} is signed by a CA that is not trusted")]
    CertificateIssuer { url: String },
    #[error("setting up TLS with {url}")]
    Tls {
        url: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("the password for {bind_dn} at {url} is empty, which servers take for an anonymous bind")]
    EmptyPassword { url: String, bind_dn: String },
    #[error("{url} does not accept the name or password of {bind_dn} (result {code}{})", said(text))]
    WrongCredentials { url: String, bind_dn: String, code: u32, text: String },
    #[error("{url} is unwilling to let {bind_dn} bind (result 53{})", said(text))]
    BindUnwilling { url: String, bind_dn: String, text: String },
    #[error("{url} lets {bind_dn} bind over a protected connection only (result {code}{})", said(text))]
    NeedsTls { url: String, bind_dn: String, code: u32, text: String },
    #[error("{url} is busy or unavailable (result {code}{})", said(text))]
    ServerBusy { url: String, code: u32, text: String },
    #[error("{url} refuses the bind of {bind_dn} with result {code}{}", said(text))]
    BindFailed { url: String, bind_dn: String, code: u32, text: String },
    #[error("this program was built without Kerberos, and {url} is to be bound to by it")]
    NoKerberos { url: String },
    #[error("Kerberos at {url} needs TLS: the ticket is bound to the server's certificate")]
    KerberosNeedsTls { url: String },
    #[error("Kerberos gives no ticket for {url}: {problem}")]
    Kerberos { url: String, problem: String },
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": \"{text}\"") }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "another name".into() } else { names.join(", ") }
}

impl ConnectError {
    pub fn disposition(&self) -> Disposition {
        match self {
            ConnectError::Resolve { .. }
            | ConnectError::Refused { .. }
            | ConnectError::Unreachable { .. }
            | ConnectError::Timeout { .. }
            | ConnectError::Closed { .. }
            | ConnectError::Kerberos { .. }
            | ConnectError::ServerBusy { .. } => Disposition::Retry,
            ConnectError::BadUrl { .. }
            | ConnectError::UnsupportedScheme { .. }
            | ConnectError::Contradiction { .. }
            | ConnectError::PlaintextRefused { .. }
            | ConnectError::TlsFile { .. }
            | ConnectError::HalfClientCertificate
            | ConnectError::SystemCertificates
            | ConnectError::TlsSetup(_)
            | ConnectError::NoUrl
            | ConnectError::StartTlsRefused { .. }
            | ConnectError::CertificateExpired { .. }
            | ConnectError::CertificateName { .. }
            | ConnectError::CertificateIssuer { .. }
            | ConnectError::Tls { .. }
            | ConnectError::EmptyPassword { .. }
            | ConnectError::WrongCredentials { .. }
            | ConnectError::BindUnwilling { .. }
            | ConnectError::NeedsTls { .. }
            | ConnectError::NoKerberos { .. }
            | ConnectError::KerberosNeedsTls { .. }
            | ConnectError::BindFailed { .. } => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            ConnectError::BadUrl { .. } | ConnectError::UnsupportedScheme { .. } | ConnectError::NoUrl => {
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
            ConnectError::Refused { url }
            | ConnectError::Unreachable { url, .. }
            | ConnectError::Timeout { url, .. }
            | ConnectError::Closed { url, .. }
            | ConnectError::ServerBusy { url, .. } => {
                format!("check that the server runs and the port is open: ldapsearch -x -H {url} -s base -b '' 1.1")
            }
            ConnectError::StartTlsRefused { .. } => {
                "give the server a certificate, or use ldaps:// in [directory] url, then: homeward check".into()
            }
            ConnectError::CertificateExpired { .. } => {
                "renew the server's certificate (and check this machine's clock: date), then: homeward check".into()
            }
            ConnectError::CertificateName { .. } => {
                "write a name that the certificate is for into [directory] url, or renew the certificate, then: homeward check".into()
            }
            ConnectError::CertificateIssuer { .. } => {
                "set [directory] tls.ca_file to the PEM file of the CA that signed it, then: homeward check".into()
            }
            ConnectError::Tls { .. } => {
                "the server must speak TLS 1.2 or newer on this port; check [directory] url and tls.mode, then: homeward check".into()
            }
            ConnectError::EmptyPassword { .. } => {
                "put the password into [directory] bind_password_file, or set bind = \"anonymous\", then: homeward check".into()
            }
            ConnectError::WrongCredentials { url, bind_dn, .. } => format!(
                "check [directory] bind_dn and bind_password_file, and that the account is not locked: ldapwhoami -x -H {url} -D '{bind_dn}' -W"
            ),
            ConnectError::BindUnwilling { .. } | ConnectError::BindFailed { .. } => {
                "check [directory] bind and bind_dn, and the directory server's log, then: homeward check".into()
            }
            ConnectError::NoKerberos { .. } => {
                "build it with cargo build --release --features gssapi, or set [directory] bind = \"simple\", then: homeward check".into()
            }
            ConnectError::KerberosNeedsTls { .. } => {
                "use ldaps:// in [directory] url, or tls.mode = \"starttls\", then: homeward check".into()
            }
            ConnectError::Kerberos { .. } => {
                "see the keytab that KRB5_CLIENT_KTNAME names (klist -k), /etc/krb5.conf and the clock, then: homeward check".into()
            }
            ConnectError::NeedsTls { .. } => {
                "use ldaps:// in [directory] url, or tls.mode = \"starttls\", then: homeward check".into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, mode: Option<TlsMode>, allow_plaintext: bool) -> Result<Endpoint, ConnectError> {
        let tls = Tls { mode, ca_file: None, certificate_file: None, key_file: None };
        Endpoint::parse(url, &tls, allow_plaintext)
    }

    #[test]
    fn the_url_decides_how_a_connection_is_protected() {
        for (url, security, port) in [
            ("ldaps://dc1.example.com", Security::Tls, 636),
            ("ldap://dc1.example.com:1389/", Security::StartTls, 1389),
            ("LDAP://localhost", Security::Plain, 389),
            ("ldap://127.0.0.1:3389", Security::Plain, 3389),
            ("ldap://[::1]:3389", Security::Plain, 3389),
            ("ldap://10.0.0.1", Security::StartTls, 389),
        ] {
            let endpoint = parse(url, None, false).unwrap();
            assert_eq!(endpoint.security, security, "{url}");
            assert!(matches!(endpoint.address, Address::Tcp { port: found, .. } if found == port), "{url}");
        }
        let socket = parse("ldapi://%2Frun%2Fslapd%2Fldapi", None, false).unwrap();
        assert_eq!(socket.address, Address::Unix("/run/slapd/ldapi".into()));
    }

    #[test]
    fn plain_text_to_another_machine_needs_to_be_allowed() {
        assert!(parse("ldap://localhost", Some(TlsMode::Off), false).is_ok());
        let refused = parse("ldap://dc1.example.com", Some(TlsMode::Off), false).unwrap_err();
        assert!(matches!(refused, ConnectError::PlaintextRefused { .. }));
        assert!(refused.hint().to_string().contains("allow_plaintext"));
        let allowed = parse("ldap://dc1.example.com", Some(TlsMode::Off), true).unwrap();
        assert_eq!(allowed.security, Security::Plain);
        let protected = parse("ldap://dc1.example.com", None, true).unwrap();
        assert_eq!(protected.security, Security::StartTls, "allowed is not wanted");
    }

    #[test]
    fn what_cannot_be_a_url_says_so() {
        for url in
            ["", "dc1", "ldap://", "ldap://:389", "ldap://a:b", "ldap://a:0", "ldap://u@h", "ldapi://", "ldapi://%zz"]
        {
            assert!(matches!(parse(url, None, false), Err(ConnectError::BadUrl { .. })), "{url}");
        }
        assert!(matches!(parse("http://a", None, false), Err(ConnectError::UnsupportedScheme { .. })));
        assert!(matches!(parse("ldaps://a", Some(TlsMode::Off), true), Err(ConnectError::Contradiction { .. })));
        assert!(matches!(parse("ldap://a", Some(TlsMode::Ldaps), true), Err(ConnectError::Contradiction { .. })));
    }

    #[test]
    fn the_result_of_start_tls_is_read_from_its_answer_only() {
        let answer = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
        assert_eq!(extended_result(answer), Some(0));
        for cut in 0..answer.len() {
            assert_eq!(extended_result(&answer[..cut]), None);
        }
        assert_eq!(extended_result(b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00"), None);
    }

    #[tokio::test]
    async fn a_panic_of_a_call_is_contained() {
        assert_eq!(contained(async { 1 }).await, Some(1));
        assert_eq!(contained(async { panic!("as ldap3 does") }).await, None::<()>);
    }
}

//! The bulk reader: search results and sync messages, in batches, through a bounded channel, over TCP, TLS or a socket.
//! `ldap3` copies every element several times, buffers without limit and can be brought down by malformed bytes; here a
//! slow consumer slows the server's sending, and bytes that are no LDAP end the connection with an error.
//! It reads only: no write to the directory, no referral followed, no retry.

pub mod ber;
pub mod connection;
pub mod controls;
pub mod frame;
pub mod message;

pub use connection::{Access, Connection, Dialogue, Heard, Patience, Results};
pub use message::{
    Control, Done, Notice, Scope, Search, State, SyncDone, SyncInfo, SyncRequest, SyncState, Unreadable,
};

use super::connect::ConnectError;
use crate::error::{Disposition, Hint};
use std::time::Duration;

/// Why there is no connection, or no more.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{url} did not answer within {after:?} while {doing}")]
    Timeout { url: String, doing: &'static str, after: Duration },
    #[error("the certificate of {url} {fault}")]
    Certificate {
        url: String,
        fault: CertificateFault,
        #[source]
        cause: rustls::Error,
    },
    #[error("TLS with {url} failed")]
    Tls {
        url: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("{url} sent bytes between its StartTLS answer and TLS: somebody may be in the middle")]
    Injected { url: String },
    #[error("{url} refused {operation}: {code} {}{}", code_name(*code), told(text))]
    Refused { url: String, operation: Operation, code: u32, text: String },
    #[error("the filter {filter} cannot be sent to {url}: it is not RFC 4515")]
    BadFilter { url: String, filter: String },
    #[error("{url} said that it closes the connection: {code} {}{}", code_name(*code), told(text))]
    Disconnected { url: String, code: u32, text: String },
    #[error("{url} sent what is no LDAP")]
    Malformed {
        url: String,
        #[source]
        cause: ber::BerError,
    },
    #[error("{url} closed the connection without a word")]
    Closed { url: String },
    #[error("{url} was asked for a sign of life and gave none within {after:?}")]
    Silent { url: String, after: Duration },
    #[error("the connection to {url} broke")]
    Broken {
        url: String,
        #[source]
        cause: std::io::Error,
    },
}

/// What was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    StartTls,
    /// `account`: the DN, or how else we said who we are.
    Bind {
        account: String,
    },
    Search {
        base: String,
        account: String,
    },
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Operation::StartTls => f.write_str("StartTLS"),
            Operation::Bind { account } => write!(f, "the bind as {account}"),
            Operation::Search { base, account } => write!(f, "the search below {base} by {account}"),
        }
    }
}

/// What is wrong with a server's certificate, as far as an operator would do different things about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertificateFault {
    Expired,
    NotYetValid,
    WrongName,
    UnknownCa,
    Other,
}

impl std::fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CertificateFault::Expired => "has expired",
            CertificateFault::NotYetValid => "is not valid yet",
            CertificateFault::WrongName => "is for another name",
            CertificateFault::UnknownCa => "is signed by a CA that we do not trust",
            CertificateFault::Other => "is not acceptable",
        })
    }
}

// RFC 4511 4.1.9 and RFC 4533 3: the result codes that mean something of their own to us.
pub const TIME_LIMIT: u32 = 3;
pub const SIZE_LIMIT: u32 = 4;
pub const STRONGER_AUTH_REQUIRED: u32 = 8;
pub const ADMIN_LIMIT: u32 = 11;
pub const UNAVAILABLE_CRITICAL_EXTENSION: u32 = 12;
pub const CONFIDENTIALITY_REQUIRED: u32 = 13;
pub const NO_SUCH_OBJECT: u32 = 32;
pub const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
pub const INVALID_CREDENTIALS: u32 = 49;
pub const INSUFFICIENT_ACCESS: u32 = 50;
pub const BUSY: u32 = 51;
pub const UNAVAILABLE: u32 = 52;
pub const UNWILLING: u32 = 53;
pub const SYNC_REFRESH_REQUIRED: u32 = 4096;

/// The name of a result code in the words of its RFC.
fn code_name(code: u32) -> &'static str {
    match code {
        0 => "success",
        1 => "operations error",
        2 => "protocol error",
        TIME_LIMIT => "time limit exceeded",
        SIZE_LIMIT => "size limit exceeded",
        7 => "authentication method not supported",
        STRONGER_AUTH_REQUIRED => "stronger authentication required",
        10 => "referral",
        ADMIN_LIMIT => "administrative limit exceeded",
        UNAVAILABLE_CRITICAL_EXTENSION => "unavailable critical extension",
        CONFIDENTIALITY_REQUIRED => "confidentiality required",
        NO_SUCH_OBJECT => "no such object",
        34 => "invalid DN syntax",
        INAPPROPRIATE_AUTHENTICATION => "inappropriate authentication",
        INVALID_CREDENTIALS => "invalid credentials",
        INSUFFICIENT_ACCESS => "insufficient access",
        BUSY => "busy",
        UNAVAILABLE => "unavailable",
        UNWILLING => "unwilling to perform",
        80 => "other",
        SYNC_REFRESH_REQUIRED => "sync refresh required",
        _ => "(a code without a name here)",
    }
}

/// The server's own words, where it had any.
fn told(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

impl StreamError {
    pub fn disposition(&self) -> Disposition {
        match self {
            StreamError::Connect(error) => error.disposition(),
            StreamError::Refused { code: TIME_LIMIT | BUSY | UNAVAILABLE | 80 | 1, .. } => Disposition::Retry,
            StreamError::Certificate { .. } | StreamError::Refused { .. } | StreamError::BadFilter { .. } => {
                Disposition::Hold
            }
            StreamError::Timeout { .. }
            | StreamError::Tls { .. }
            | StreamError::Injected { .. }
            | StreamError::Disconnected { .. }
            | StreamError::Malformed { .. }
            | StreamError::Closed { .. }
            | StreamError::Silent { .. }
            | StreamError::Broken { .. } => Disposition::Retry,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            StreamError::Connect(error) => return error.hint(),
            StreamError::Certificate { url, fault, .. } => match fault {
                CertificateFault::Expired => {
                    format!("renew the server's certificate; see it: {}", show_certificate(url))
                }
                CertificateFault::NotYetValid => "compare the clocks of both machines: timedatectl".into(),
                CertificateFault::WrongName => {
                    format!("name the host in [directory] url as its certificate does: {}", show_certificate(url))
                }
                CertificateFault::UnknownCa => {
                    "set [directory] tls.ca_file to the PEM file of the CA that signed it, then: homeward check".into()
                }
                CertificateFault::Other => format!("look at it: {}", show_certificate(url)),
            },
            StreamError::Refused { url, operation: Operation::StartTls, .. } => format!(
                "the server has no TLS set up on this port; try ldaps://, or: ldapsearch -ZZ -x -H {url} -s base -b ''"
            ),
            StreamError::Refused { url, operation: Operation::Bind { account }, code, .. } => match *code {
                INVALID_CREDENTIALS => format!(
                    "wrong password, or no such account: ldapwhoami -x -W -H {url} -D '{account}'; then correct [directory] bind_dn or bind_password_file"
                ),
                INAPPROPRIATE_AUTHENTICATION => format!(
                    "the account has no password, or may not bind this way; give it one: ldappasswd -S -H {url} '{account}'"
                ),
                STRONGER_AUTH_REQUIRED | CONFIDENTIALITY_REQUIRED => {
                    "the server wants TLS before a password: use ldaps:// or tls.mode = \"starttls\", then: homeward check".into()
                }
                UNWILLING => "the account may be disabled, or this kind of bind switched off; then: homeward check".into(),
                7 => "the server does not offer this kind of bind: choose another [directory] bind, then: homeward check".into(),
                _ => format!("try the same by hand: ldapwhoami -x -W -H {url} -D '{account}'"),
            },
            StreamError::Refused { url, operation: Operation::Search { base, account }, code, .. } => match *code {
                SIZE_LIMIT | ADMIN_LIMIT => format!(
                    "give the agent no limit; slapd.conf: limits dn.exact=\"{account}\" size=unlimited time=unlimited (cn=config: olcLimits); 389 DS: nsSizeLimit and nsLookThroughLimit: -1 in its entry; then: homeward check"
                ),
                TIME_LIMIT => format!(
                    "it is tried again; if it stays, slapd.conf: limits dn.exact=\"{account}\" size=unlimited time=unlimited (cn=config: olcLimits); 389 DS: nsTimeLimit: -1 in its entry"
                ),
                NO_SUCH_OBJECT => format!(
                    "[directory] base does not exist, or the account may not see it: ldapsearch -x -W -H {url} -D '{account}' -s base -b '{base}' 1.1"
                ),
                INSUFFICIENT_ACCESS => format!(
                    "let the account read below {base} (access to * by dn.exact=\"{account}\" read), then: homeward check"
                ),
                UNAVAILABLE_CRITICAL_EXTENSION => format!(
                    "the server has no content synchronization for {base}; slapd.conf: overlay syncprov; then: homeward check"
                ),
                BUSY | UNAVAILABLE => "it is tried again".into(),
                _ => format!("try the same by hand: ldapsearch -x -W -H {url} -D '{account}' -b '{base}' -z 1 1.1"),
            },
            StreamError::BadFilter { .. } => "correct the filter, then: homeward check".into(),
            StreamError::Injected { url } => format!("use ldaps:// instead of StartTLS; look who answers: {}", show_certificate(url)),
            StreamError::Malformed { url, .. } => {
                format!("check that an LDAP server listens there, and nothing in between: ldapsearch -x -H {url} -s base -b ''")
            }
            StreamError::Tls { url, .. } => format!(
                "see what the server offers: openssl s_client -connect {}",
                url.split("://").nth(1).unwrap_or(url)
            ),
            StreamError::Timeout { url, .. }
            | StreamError::Disconnected { url, .. }
            | StreamError::Closed { url }
            | StreamError::Silent { url, .. }
            | StreamError::Broken { url, .. } => {
                format!("it is tried again; if it stays, look at the server's log and: ldapsearch -x -H {url} -s base -b '' 1.1")
            }
        })
    }
}

fn show_certificate(url: &str) -> String {
    let address = url.split("://").nth(1).unwrap_or(url).trim_end_matches('/');
    let start_tls = if url.starts_with("ldap://") { " -starttls ldap" } else { "" };
    format!("openssl s_client -connect {address}{start_tls} </dev/null | openssl x509 -noout -text")
}

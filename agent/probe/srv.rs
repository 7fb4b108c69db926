//! The SRV question of an e-mail domain (RFC 2782). Every way not to know is the answer `Unknown`; only what the DNS
//! says with certainty is `Present`, `Absent` or `NotAvailable`. Keeps no answers: rows do.

use super::ProbeError;
use crate::model::{Answered, SrvAnswer, SrvRecord, valid_domain};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// For one query to one server. It is sent twice, so a dead server costs twice this.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// For the whole question, with all aliases followed.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(8);
/// Aliases (CNAME) followed.
const ALIAS_HOPS_MAX: usize = 8;
/// A certain answer is not asked again sooner (TTL 0 exists) …
const TTL_MIN: Duration = Duration::from_secs(30);
/// … nor trusted for longer than this.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// For a certain "no" that says not how long it holds (no SOA, RFC 2308).
const NEGATIVE_TTL: Duration = Duration::from_secs(60);
/// When nobody knows, ask again soon.
const UNKNOWN_TTL: Duration = Duration::from_secs(15);

/// Asks SRV questions.
#[derive(Clone, Debug)]
pub struct SrvResolver {
    resolver: TokioResolver,
}

/// What one name says of itself, aliases not followed.
enum Reply {
    Records(Vec<SrvRecord>),
    /// Certainly no SRV record of this very name, for so long.
    None(Duration),
    Unknown(String),
}

impl SrvResolver {
    /// `servers` empty: those of the system. Must be called within a tokio runtime.
    pub fn new(servers: &[SocketAddr]) -> Result<SrvResolver, ProbeError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if servers.is_empty() {
            Resolver::builder(provider).map_err(ProbeError::Resolver)?
        } else {
            let name_servers = servers.iter().map(name_server).collect();
            Resolver::builder_with_config(ResolverConfig::from_parts(None, vec![], name_servers), provider)
        };
        limit(builder.options_mut());
        Ok(SrvResolver { resolver: builder.build().map_err(ProbeError::Resolver)? })
    }

    /// `owner_prefix` as in `[im] srv`: `_rvp._tcp`. A domain that is no name in the DNS is unknown: see [`valid_domain`].
    pub async fn ask(&self, owner_prefix: &str, domain: &str) -> Answered {
        let unknown = |why: String| Answered { answer: SrvAnswer::Unknown { why }, ttl: UNKNOWN_TTL };
        let owner = match Name::from_utf8(format!("{owner_prefix}.{domain}.")) {
            Ok(owner) if valid_domain(domain) => owner,
            Ok(_) | Err(_) => return unknown(format!("\"{domain}\" is no domain name")),
        };
        match tokio::time::timeout(QUESTION_TIMEOUT, self.follow(owner)).await {
            Ok(Ok((answer, ttl))) => Answered { answer, ttl: ttl.clamp(TTL_MIN, TTL_MAX) },
            Ok(Err(why)) => unknown(why),
            Err(_) => unknown(format!("no answer within {QUESTION_TIMEOUT:?}")),
        }
    }

    /// hickory 0.26 follows an alias itself, except when the answer brings the alias and its SRV records at once: then
    /// it goes on to ask for the SRV record of the SRV's own target and says NXDOMAIN. So a "no" is believed only when
    /// the name is no alias; else the alias' target is asked in its place.
    async fn follow(&self, owner: Name) -> Result<(SrvAnswer, Duration), String> {
        let mut name = owner;
        let mut seen = Vec::new();
        let mut ttl = TTL_MAX;
        while seen.len() <= ALIAS_HOPS_MAX {
            match self.lookup_srv(&name, &mut ttl).await {
                Reply::Records(records) if records.is_empty() => return Ok((SrvAnswer::NotAvailable, ttl)),
                Reply::Records(records) => return Ok((SrvAnswer::Present { records }, ttl)),
                Reply::Unknown(why) => return Err(why),
                Reply::None(negative_ttl) => match self.lookup_alias(&name, &mut ttl).await? {
                    None => return Ok((SrvAnswer::Absent, ttl.min(negative_ttl))),
                    Some(target) => {
                        seen.push(std::mem::replace(&mut name, target));
                        if seen.contains(&name) {
                            return Err(format!("{name} is an alias (CNAME) of itself"));
                        }
                    }
                },
            }
        }
        Err(format!("more than {ALIAS_HOPS_MAX} aliases (CNAME) follow each other"))
    }

    async fn lookup_srv(&self, name: &Name, ttl: &mut Duration) -> Reply {
        match self.resolver.lookup(name.clone(), RecordType::SRV).await {
            Ok(lookup) => {
                *ttl = (*ttl).min(lookup.valid_until().saturating_duration_since(Instant::now()));
                let found: Vec<_> = lookup
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::SRV(srv) => Some(srv),
                        _ => None,
                    })
                    .collect();
                if found.is_empty() {
                    return Reply::Unknown(format!("the answer for {name} holds no SRV record and is no \"no\""));
                }
                // A target `.` among others is a mistake (RFC 2782 wants it alone): the others are meant.
                let mut records: Vec<_> = found
                    .into_iter()
                    .filter(|srv| !srv.target.is_root())
                    .map(|srv| SrvRecord {
                        priority: srv.priority,
                        weight: srv.weight,
                        port: srv.port,
                        host: srv.target.to_ascii().trim_end_matches('.').to_lowercase(),
                    })
                    .collect();
                records.sort();
                records.dedup();
                Reply::Records(records)
            }
            Err(error) => match certain_no(error) {
                Ok(negative_ttl) => Reply::None(negative_ttl),
                Err(why) => Reply::Unknown(why),
            },
        }
    }

    /// The target, when `name` is an alias.
    async fn lookup_alias(&self, name: &Name, ttl: &mut Duration) -> Result<Option<Name>, String> {
        match self.resolver.lookup(name.clone(), RecordType::CNAME).await {
            Ok(lookup) => {
                *ttl = (*ttl).min(lookup.valid_until().saturating_duration_since(Instant::now()));
                Ok(lookup.answers().iter().find_map(|record| match &record.data {
                    RData::CNAME(target) if record.name == *name => Some(target.0.clone()),
                    _ => None,
                }))
            }
            Err(error) => certain_no(error).map(|_| None),
        }
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn limit(options: &mut ResolverOpts) {
    options.timeout = QUERY_TIMEOUT;
    options.attempts = 1;
    // Rows keep the answers; a second cache would hide that they changed.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // With the aliases kept, the bug of `follow` meets every alias.
    options.preserve_intermediates = false;
}

/// Whether the DNS said "no" with certainty, and for how long; else why nobody knows.
fn certain_no(error: NetError) -> Result<Duration, String> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(no)) if is_referral(&no) => {
            Err(format!("the server refers to others for {}, and answers nothing itself", no.query.name()))
        }
        NetError::Dns(DnsError::NoRecordsFound(no)) => match no.response_code {
            ResponseCode::NXDomain | ResponseCode::NoError => {
                Ok(no.negative_ttl.map_or(NEGATIVE_TTL, |seconds| Duration::from_secs(seconds.into())))
            }
            code => Err(said(code)),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => Err(said(code)),
        NetError::Dns(DnsError::DnssecBogus) => Err("DNSSEC validation failed".into()),
        NetError::Timeout => Err("no server answers".into()),
        NetError::NoConnections => Err("no server can be reached".into()),
        other => Err(other.to_string()),
    }
}

/// Signatures are not ours to check: a server that validates (`[dns] servers`) says SERVFAIL where they do not hold.
fn said(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => {
            format!("the server answers {code}: it cannot reach the domain's servers, or DNSSEC validation failed")
        }
        code => format!("the server answers {code}"),
    }
}

/// RFC 2308 2.2: no records, name servers but no SOA: that is "ask them", not "there is none". A server that lost its
/// zone answers so.
fn is_referral(no: &NoRecords) -> bool {
    no.response_code == ResponseCode::NoError && no.soa.is_none() && no.ns.as_ref().is_some_and(|ns| !ns.is_empty())
}

//! The virtual server objects of Active Directory's configuration partition: which home servers there are. Read as a
//! whole, by class and not by path, because every organisation has them elsewhere. What cannot be read is an error,
//! never an empty list; who must do what about an answer is not decided here.

use crate::config::Directory;
use crate::decide::address::is_domain;
use crate::directory::connect::{ConnectError, connect};
use crate::directory::flavour::{RootDse, root_dse};
use crate::directory::key::KeyAttribute;
use crate::directory::lookup::{Found, LookupError, search};
use crate::error::{Disposition, Hint};
use crate::model::{Home, VirtualServer, normalized_dn};
use ldap3::{Ldap, Scope};
use std::time::Duration;

/// More virtual servers than this are a mistake.
const SERVERS_MAX: usize = 10_000;
const FILTER: &str = "(objectClass=msExchProtocolCfgIMVirtualServer)";
const ATTRIBUTES: &[&str] = &["objectGUID", "cn", "msExchIMHostName", "msExchIMServerName", "msExchIMServerHostsUsers"];

/// Why the virtual servers are not known.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    #[error("connecting to read the home servers")]
    Connect(#[from] ConnectError),
    #[error("reading the home servers")]
    Lookup(#[from] LookupError),
    #[error("{url} has no configuration partition, so it cannot be asked for home servers")]
    NoConfiguration { url: String },
    #[error("there is no virtual server object below {base}, or the agent's account may not read them")]
    Nothing { base: String },
}

impl ServersError {
    pub fn disposition(&self) -> Disposition {
        match self {
            ServersError::Connect(error) => error.disposition(),
            ServersError::Lookup(error) => error.disposition(),
            ServersError::NoConfiguration { .. } | ServersError::Nothing { .. } => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        match self {
            ServersError::Connect(error) => error.hint(),
            ServersError::Lookup(error) => error.hint(),
            ServersError::NoConfiguration { .. } => {
                Hint("set [homes] discover = \"off\" and name each home in a [[home]], then: homeward check".into())
            }
            ServersError::Nothing { .. } => {
                Hint("give the account read rights on the configuration partition, then: homeward check".into())
            }
        }
    }
}

/// Connects, reads, and goes.
pub async fn ask(directory: &Directory, homes: &[Home], timeout: Duration) -> Result<Vec<VirtualServer>, ServersError> {
    let (mut ldap, endpoint) = connect(directory, timeout).await?;
    let root = root_dse(&mut ldap).await?;
    read(&mut ldap, &endpoint.url, &root, homes).await
}

/// Every virtual server below `CN=Services`, and the objects of other classes that the configuration names by DN.
///
/// # Errors
/// [`ServersError::Nothing`] where none is found: an answer that says so is not believed.
pub async fn read(
    ldap: &mut Ldap,
    url: &str,
    root: &RootDse,
    homes: &[Home],
) -> Result<Vec<VirtualServer>, ServersError> {
    let configuration =
        root.configuration.as_deref().ok_or_else(|| ServersError::NoConfiguration { url: url.to_owned() })?;
    let base = format!("CN=Services,{configuration}");
    let found = search(ldap, &base, Scope::Subtree, FILTER, ATTRIBUTES, SERVERS_MAX).await?;
    let mut servers: Vec<VirtualServer> = found.iter().filter_map(server_of).collect();
    for dn in homes.iter().filter_map(|home| home.dn.as_deref()) {
        if servers.iter().any(|server| normalized_dn(&server.dn) == normalized_dn(dn)) {
            continue;
        }
        match search(ldap, dn, Scope::Base, "(objectClass=*)", ATTRIBUTES, 1).await {
            Ok(found) => servers.extend(found.iter().filter_map(server_of)),
            // noSuchObject, invalidDNSyntax, insufficientAccessRights: not to be seen, whatever the reason.
            Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: 34 | 50, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if servers.is_empty() { Err(ServersError::Nothing { base }) } else { Ok(servers) }
}

/// `None`: without an identity.
fn server_of(found: &Found) -> Option<VirtualServer> {
    let host = |name: &str| found.values(name).first().and_then(|value| host_name(value));
    Some(VirtualServer {
        guid: KeyAttribute::ObjectGuid.read(found.values("objectguid").first()?)?,
        dn: found.dn.clone(),
        cn: found.text("cn").unwrap_or_default().to_owned(),
        host: host("msexchimhostname").or_else(|| host("msexchimservername")),
        hosts_users: found.text("msexchimserverhostsusers") == Some("TRUE"),
    })
}

/// A host name in lower case. msExchIMHostName is an octet string, and nothing says in which encoding: UTF-8 is tried, then
/// UTF-16 as Windows has it; a final NUL is left out.
fn host_name(value: &[u8]) -> Option<String> {
    let utf16 = || {
        let units: Vec<u16> =
            value.chunks_exact(2).filter_map(|two| Some(u16::from_le_bytes(two.try_into().ok()?))).collect();
        String::from_utf16(&units).ok()
    };
    let clean = |text: String| {
        let name = text.trim_end_matches('\0').trim().trim_end_matches('.').to_ascii_lowercase();
        is_domain(&name).then_some(name)
    };
    let utf8 = String::from_utf8(value.to_vec()).ok().and_then(clean);
    utf8.or_else(|| utf16().and_then(clean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_read_in_either_encoding() {
        let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        assert_eq!(host_name(b"IM1.Example.com").as_deref(), Some("im1.example.com"));
        assert_eq!(host_name(b"im1.example.com.\0").as_deref(), Some("im1.example.com"));
        assert_eq!(host_name(&utf16("IM1.example.com")).as_deref(), Some("im1.example.com"));
        assert_eq!(host_name(&utf16("im1.example.com\0")).as_deref(), Some("im1.example.com"));
        for none in [&b""[..], b"\0", b"two words", b"\xff\xfe", b"http://im1"] {
            assert_eq!(host_name(none), None, "{none:?}");
        }
    }

    #[test]
    fn the_host_name_outranks_the_server_name_and_only_true_hosts_users() {
        let mut found = Found { dn: "CN=1,CN=Services,DC=x".into(), ..Found::default() };
        assert_eq!(server_of(&found), None, "without an identity it is nobody");
        found.attributes.insert("objectguid".into(), vec![vec![7; 16]]);
        found.attributes.insert("cn".into(), vec![b"1".to_vec()]);
        found.attributes.insert("msexchimservername".into(), vec![b"IM1".to_vec()]);
        let server = server_of(&found).unwrap();
        assert_eq!((server.host.as_deref(), server.hosts_users, server.cn.as_str()), (Some("im1"), false, "1"));
        found.attributes.insert("msexchimhostname".into(), vec![b"im1.example.com".to_vec()]);
        found.attributes.insert("msexchimserverhostsusers".into(), vec![b"TRUE".to_vec()]);
        let server = server_of(&found).unwrap();
        assert_eq!((server.host.as_deref(), server.hosts_users), (Some("im1.example.com"), true));
    }
}

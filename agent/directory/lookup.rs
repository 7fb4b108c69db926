//! Small reads through `ldap3`: one entry, a handful of entries, a group. Every read has a limit and a timeout.
//! Bulk reads belong to `stream`.

use super::Entry;
use super::connect::contained;
use super::kerberos;
use super::key::KeyAttribute;
use super::range;
use super::stream::controls::SHOW_DELETED;
use crate::config::Bind;
use crate::error::{Disposition, Hint};
use crate::model::{UserKey, normalized_dn};
use ldap3::asn1::{PL, StructureTag};
use ldap3::controls::RawControl;
use ldap3::{Ldap, LdapError, Scope, SearchOptions};
use std::collections::BTreeMap;
use std::time::Duration;

/// For a whole search, not for each entry.
pub const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);
const KEYS_IN_ONE_FILTER: usize = 50;
const SAME_NAME_MAX: usize = 20;

/// An extended operation that the server does not know is one.
const PROTOCOL_ERROR: u32 = 2;
/// MS-ADTS 6.1.1.4: the container of deleted entries, wherever it is.
const DELETED_OBJECTS: &str = "18E2EA80684F11D2B9AA00C04F79F805";
/// slapd's dnSubtreeMatch. By number: `ldap3` takes matching rules by number only.
const DN_SUBTREE_MATCH: &str = "1.3.6.1.4.1.4203.666.4.9";

/// Attributes by lower-case name without options; values are octets in the server's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    pub dn: String,
    pub attributes: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Found {
    /// All values of an attribute, named in lower case.
    pub fn values(&self, name: &str) -> &[Vec<u8>] {
        self.attributes.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The values that are text.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).iter().filter_map(|value| std::str::from_utf8(value).ok())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts(name).next()
    }

    /// `None` without a key.
    fn into_entry(self, by: KeyAttribute) -> Option<Entry> {
        let key = by.read(self.values(&by.name().to_ascii_lowercase()).first()?)?;
        Some(Entry { key, dn: self.dn, attributes: self.attributes.into_iter().collect() })
    }
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("{dn} does not exist, or the agent's account may not read it")]
    NoSuchObject { dn: String },
    #[error("the search below {base} gives more than {limit} entries")]
    TooMany { base: String, limit: usize },
    #[error("the directory refuses to read {base} with result {code} (\"{text}\")")]
    Refused { base: String, code: u32, text: String },
    #[error("the directory did not answer the search below {base} within {} s", SEARCH_TIMEOUT.as_secs())]
    Timeout { base: String },
    #[error("the connection to the directory was lost while reading {base}")]
    Lost { base: String },
    #[error("the directory's answer for {base} cannot be read")]
    Malformed { base: String },
}

impl LookupError {
    pub fn disposition(&self) -> Disposition {
        match self {
            LookupError::Timeout { .. } | LookupError::Lost { .. } => Disposition::Retry,
            LookupError::Refused { code: 3 | 11 | 51 | 52, .. } => Disposition::Retry,
            LookupError::NoSuchObject { .. }
            | LookupError::TooMany { .. }
            | LookupError::Refused { .. }
            | LookupError::Malformed { .. } => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            LookupError::NoSuchObject { .. } => {
                "check the name, and the read rights of the agent's account: homeward check".into()
            }
            LookupError::TooMany { .. } => {
                "name something more special, or raise the server's size limit for the agent's account: homeward check"
                    .into()
            }
            LookupError::Refused { .. } => "check the rights and limits of the agent's account: homeward check".into(),
            LookupError::Timeout { .. } | LookupError::Lost { .. } => {
                "check the directory server; it is tried again by itself: homeward status".into()
            }
            LookupError::Malformed { .. } => "check that [directory] url names an LDAPv3 server: homeward check".into(),
        })
    }
}

/// One search, read to its end. Entries that are cut off by `limit` (0: none) are an error, never a shorter answer.
pub async fn search(
    ldap: &mut Ldap,
    base: &str,
    scope: Scope,
    filter: &str,
    attributes: &[&str],
    limit: usize,
) -> Result<Vec<Found>, LookupError> {
    let (found, complete) = search_some(ldap, base, scope, filter, attributes, limit).await?;
    if complete { Ok(found) } else { Err(LookupError::TooMany { base: base.to_owned(), limit }) }
}

/// As `search`; at most `limit` entries of perhaps more.
pub async fn some(
    ldap: &mut Ldap,
    base: &str,
    scope: Scope,
    filter: &str,
    attributes: &[&str],
    limit: usize,
) -> Result<Vec<Found>, LookupError> {
    search_some(ldap, base, scope, filter, attributes, limit).await.map(|(found, _)| found)
}

/// As `search`; a full limit is an answer, told by `false`.
async fn search_some(
    ldap: &mut Ldap,
    base: &str,
    scope: Scope,
    filter: &str,
    attributes: &[&str],
    limit: usize,
) -> Result<(Vec<Found>, bool), LookupError> {
    let (mut entries, complete) = search_parts(ldap, base, scope, filter, attributes, limit).await?;
    for entry in &mut entries {
        complete_values(ldap, entry).await?;
    }
    Ok((entries, complete))
}

/// Asks for the values that the server left out of an entry (`range`).
async fn complete_values(ldap: &mut Ldap, entry: &mut Found) -> Result<(), LookupError> {
    let malformed = || LookupError::Malformed { base: entry.dn.clone() };
    let mut attributes: Vec<(String, Vec<Vec<u8>>)> = match entry.attributes.keys().any(|name| name.contains(';')) {
        true => std::mem::take(&mut entry.attributes).into_iter().collect(),
        false => return Ok(()),
    };
    while let Some((attribute, from)) =
        range::next_of(attributes.iter().map(|(name, _)| name.as_str())).map_err(|_| malformed())?
    {
        if from > range::VALUES_MAX {
            return Err(LookupError::TooMany { base: entry.dn.clone(), limit: range::VALUES_MAX as usize });
        }
        let wanted = range::from(&attribute, from);
        let more = search_parts(ldap, &entry.dn, Scope::Base, "(objectClass=*)", &[&wanted], 0).await?.0;
        let more = more.into_iter().next().map(|more| more.attributes.into_iter().collect()).unwrap_or_default();
        if !range::append(&mut attributes, &attribute, more) {
            return Err(malformed());
        }
    }
    entry.attributes = attributes.into_iter().collect();
    Ok(())
}

async fn search_parts(
    ldap: &mut Ldap,
    base: &str,
    scope: Scope,
    filter: &str,
    attributes: &[&str],
    limit: usize,
) -> Result<(Vec<Found>, bool), LookupError> {
    let base_text = || base.to_owned();
    ldap.with_search_options(SearchOptions::new().sizelimit(limit as i32));
    let reading = async {
        let mut stream = ldap.streaming_search(base, scope, filter, attributes.to_vec()).await?;
        let mut entries = Vec::new();
        while let Some(item) = stream.next().await? {
            // A referral or intermediate message is no entry.
            if !item.is_ref() && !item.is_intermediate() {
                entries.push(found(item.0));
            }
        }
        Ok::<_, LdapError>((entries, stream.finish().await))
    };
    let (entries, result) = match tokio::time::timeout(SEARCH_TIMEOUT, contained(reading)).await {
        Ok(Some(Ok(answer))) => answer,
        Ok(Some(Err(LdapError::FilterParsing))) => {
            return Err(LookupError::Refused { base: base_text(), code: 2, text: format!("bad filter {filter}") });
        }
        Ok(Some(Err(_))) => return Err(LookupError::Lost { base: base_text() }),
        Ok(None) => return Err(LookupError::Malformed { base: base_text() }),
        Err(_) => return Err(LookupError::Timeout { base: base_text() }),
    };
    let entries: Option<Vec<Found>> = entries.into_iter().collect();
    let entries = entries.ok_or_else(|| LookupError::Malformed { base: base_text() })?;
    match result.rc {
        0 => Ok((entries, true)),
        4 if limit > 0 && entries.len() >= limit => Ok((entries, false)),
        32 => Err(LookupError::NoSuchObject { dn: base_text() }),
        4 => Err(LookupError::TooMany { base: base_text(), limit: entries.len() }),
        code => Err(LookupError::Refused { base: base_text(), code, text: result.text }),
    }
}

/// SearchResultEntry (RFC 4511 4.5.2) from `ldap3`'s tree. Its own `SearchEntry::construct` panics at what it does not
/// expect, and parts values into text and bytes by chance.
fn found(tag: StructureTag) -> Option<Found> {
    let mut parts = constructed(tag)?.into_iter();
    let dn = text(parts.next()?)?;
    let mut attributes = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for attribute in constructed(parts.next()?)? {
        let mut parts = constructed(attribute)?.into_iter();
        let description = text(parts.next()?)?;
        let name = match range::is_unfinished(description.as_bytes()) {
            true => description.as_str(),
            false => description.split(';').next().unwrap_or_default(),
        };
        let name = name.to_ascii_lowercase();
        let values: Option<Vec<_>> = constructed(parts.next()?)?.into_iter().map(octets).collect();
        attributes.entry(name).or_default().extend(values?);
    }
    Some(Found { dn, attributes })
}

fn constructed(tag: StructureTag) -> Option<Vec<StructureTag>> {
    match tag.payload {
        PL::C(parts) => Some(parts),
        PL::P(_) => None,
    }
}

fn octets(tag: StructureTag) -> Option<Vec<u8>> {
    match tag.payload {
        PL::P(octets) => Some(octets),
        PL::C(_) => None,
    }
}

fn text(tag: StructureTag) -> Option<String> {
    String::from_utf8(octets(tag)?).ok()
}

fn with_key<'a>(by: KeyAttribute, attributes: &[&'a str]) -> Vec<&'a str> {
    let mut all = attributes.to_vec();
    all.push(by.name());
    all
}

/// The entry with this key at or below `base`.
pub async fn by_key(
    ldap: &mut Ldap,
    by: KeyAttribute,
    base: &str,
    key: UserKey,
    attributes: &[&str],
) -> Result<Option<Entry>, LookupError> {
    let found = search(ldap, base, Scope::Subtree, &by.filter(&key), &with_key(by, attributes), 2).await?;
    Ok(found.into_iter().find_map(|found| found.into_entry(by)))
}

/// Those of the entries that exist at or below `base`, in no order.
pub async fn by_keys(
    ldap: &mut Ldap,
    by: KeyAttribute,
    base: &str,
    keys: &[UserKey],
    attributes: &[&str],
) -> Result<Vec<Entry>, LookupError> {
    let mut entries = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(KEYS_IN_ONE_FILTER) {
        let alternatives: String = chunk.iter().map(|key| by.filter(key)).collect();
        let filter = format!("(|{alternatives})");
        let found = search(ldap, base, Scope::Subtree, &filter, &with_key(by, attributes), 0).await?;
        entries.extend(found.into_iter().filter_map(|found| found.into_entry(by)));
    }
    Ok(entries)
}

/// The entry of this DN; `None`: it does not exist, or may not be read.
pub async fn by_dn(
    ldap: &mut Ldap,
    by: KeyAttribute,
    dn: &str,
    attributes: &[&str],
) -> Result<Option<Entry>, LookupError> {
    match search(ldap, dn, Scope::Base, "(objectClass=*)", &with_key(by, attributes), 0).await {
        Ok(found) => Ok(found.into_iter().find_map(|found| found.into_entry(by))),
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: 34, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the account can read the entry `dn`.
pub async fn readable(ldap: &mut Ldap, dn: &str) -> Result<bool, LookupError> {
    match search(ldap, dn, Scope::Base, "(objectClass=*)", &["1.1"], 0).await {
        Ok(found) => Ok(!found.is_empty()),
        // invalidDNSyntax, insufficientAccessRights, noSuchObject: not to be read, whatever the reason.
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: 34 | 50, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the account provably sees beyond `base`: only then does an entry that cannot be found anywhere in
/// `naming_context` count as deleted rather than as moved out of sight.
pub async fn sees_outside(ldap: &mut Ldap, base: &str, naming_context: &str) -> Result<bool, LookupError> {
    if normalized_dn(base) == normalized_dn(naming_context) || readable(ldap, naming_context).await? {
        return Ok(true);
    }
    // entryDN (RFC 5020) with the subtree match that slapd has; where it is unknown nothing matches: then not proven.
    let filter = format!("(!(entryDN:{DN_SUBTREE_MATCH}:={}))", ldap3::ldap_escape(base));
    match search_some(ldap, naming_context, Scope::Subtree, &filter, &["1.1"], 1).await {
        Ok((found, _)) => Ok(!found.is_empty()),
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: 50, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Up to which change of each server this one has come (`contextCSN` of its suffix). Empty where it is not kept, or not ours
/// to read.
pub async fn context_csns(ldap: &mut Ldap, naming_context: &str) -> Result<Vec<String>, LookupError> {
    match search(ldap, naming_context, Scope::Base, "(objectClass=*)", &["contextCSN"], 0).await {
        Ok(found) => Ok(found.iter().flat_map(|suffix| suffix.texts("contextcsn")).map(str::to_owned).collect()),
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: 50, .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Who the server takes us for (RFC 4532), and whether that entry can be read. `None`: nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnEntry {
    pub dn: String,
    pub readable: bool,
}

/// Asks for our own identity and reads its entry. Before a sweep it must still be readable: lost rights look like
/// an empty directory. A server that does not say it (Active Directory answers with an account name, or not at all) is
/// asked for the name that we bound with: a DN, `user@domain` or `DOMAIN\user` (MS-ADTS 5.1.1.1.1).
pub async fn own_entry(ldap: &mut Ldap, bind: &Bind) -> Result<Option<OwnEntry>, LookupError> {
    let told = identity(ldap).await?;
    let bound = match bind {
        Bind::Simple { dn, .. } if told.is_none() && dn.contains('=') => Some(dn.clone()),
        Bind::Simple { dn, .. } if told.is_none() => account_dn(ldap, dn).await?,
        Bind::Gssapi if told.is_none() => match kerberos::principal().await {
            Some(principal) => account_dn(ldap, &principal).await?,
            None => None,
        },
        Bind::Simple { .. } | Bind::Anonymous | Bind::External | Bind::Gssapi => None,
    };
    match told.flatten().or(bound) {
        Some(dn) => Ok(Some(OwnEntry { readable: readable(ldap, &dn).await?, dn })),
        None => Ok(None),
    }
}

/// The DN of an account of a domain, by the name that it logs on with.
async fn account_dn(ldap: &mut Ldap, name: &str) -> Result<Option<String>, LookupError> {
    let root = search(ldap, "", Scope::Base, "(objectClass=*)", &["defaultNamingContext"], 0).await?;
    let Some(domain) = root.first().and_then(|root| root.text("defaultnamingcontext")) else { return Ok(None) };
    let login = name.rsplit('\\').next().unwrap_or_default().split('@').next().unwrap_or_default();
    let (name, login) = (ldap3::ldap_escape(name), ldap3::ldap_escape(login));
    let filter = format!("(&(objectClass=user)(|(userPrincipalName={name})(sAMAccountName={login})))");
    let (found, _) = search_some(ldap, domain, Scope::Subtree, &filter, &["1.1"], 2).await?;
    // Two may share the part before the @: then it is not known who of them we are.
    Ok(if found.len() == 1 { found.into_iter().next().map(|account| account.dn) } else { None })
}

/// The DN that the server takes us for; `Some(None)`: it takes us for nobody; `None`: it does not say, or not a DN.
async fn identity(ldap: &mut Ldap) -> Result<Option<Option<String>>, LookupError> {
    let base = || "our own identity".to_owned();
    ldap.with_timeout(SEARCH_TIMEOUT);
    let (exop, result) = match contained(ldap.extended(ldap3::exop::WhoAmI)).await {
        Some(Ok(ldap3::result::ExopResult(exop, result))) => (exop, result),
        Some(Err(LdapError::Timeout { .. })) => return Err(LookupError::Timeout { base: base() }),
        Some(Err(_)) => return Err(LookupError::Lost { base: base() }),
        None => return Err(LookupError::Malformed { base: base() }),
    };
    match result.rc {
        0 => {}
        PROTOCOL_ERROR => return Ok(None),
        code => return Err(LookupError::Refused { base: base(), code, text: result.text }),
    }
    let authzid =
        String::from_utf8(exop.val.unwrap_or_default()).map_err(|_| LookupError::Malformed { base: base() })?;
    Ok(match authzid.strip_prefix("dn:") {
        Some(dn) => Some((!dn.is_empty()).then(|| dn.to_owned())),
        None if authzid.is_empty() => Some(None),
        None => None,
    })
}

/// The number that `primaryGroupID` of its members holds (MS-ADTS 3.1.1.4.5.11). `None`: no such group, or it has none.
pub async fn primary_group_token(ldap: &mut Ldap, group: &str) -> Result<Option<String>, LookupError> {
    match search(ldap, group, Scope::Base, "(objectClass=*)", &["primaryGroupToken"], 0).await {
        Ok(found) => Ok(found.first().and_then(|group| group.text("primarygrouptoken")).map(str::to_owned)),
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: 34 | 50, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the account sees what is left of deleted entries of a domain (MS-ADTS 3.1.1.5.5): the container that holds them.
pub async fn sees_deleted(ldap: &mut Ldap, naming_context: &str) -> Result<bool, LookupError> {
    ldap.with_controls(RawControl { ctype: SHOW_DELETED.into(), crit: true, val: None });
    let container = format!("<WKGUID={DELETED_OBJECTS},{naming_context}>");
    // Its name is shown to everybody; what it says of itself only to who may read it, and what lies in it.
    match search(ldap, &container, Scope::Base, "(objectClass=*)", &["isDeleted"], 0).await {
        Ok(found) => Ok(found.iter().any(|container| !container.values("isdeleted").is_empty())),
        Err(LookupError::NoSuchObject { .. } | LookupError::Refused { code: 34 | 50, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whom an operator means: a key, a DN, or a login name or mail address. Several are told, up to 20.
pub async fn find_user(
    ldap: &mut Ldap,
    by: KeyAttribute,
    base: &str,
    login: &str,
    mail: &str,
    text: &str,
    attributes: &[&str],
) -> Result<Vec<Entry>, LookupError> {
    if let Some(key) = UserKey::parse(text) {
        return Ok(by_key(ldap, by, base, key, attributes).await?.into_iter().collect());
    }
    if text.contains('=') {
        return Ok(by_dn(ldap, by, text, attributes).await?.into_iter().collect());
    }
    let escaped = ldap3::ldap_escape(text);
    let filter = format!("(|({login}={escaped})({mail}={escaped}))");
    let (found, _) = search_some(ldap, base, Scope::Subtree, &filter, &with_key(by, attributes), SAME_NAME_MAX).await?;
    Ok(found.into_iter().filter_map(|found| found.into_entry(by)).collect())
}

//! Writing one user's values back: a single compare-and-set, sent to an entry that is proven to be the right one.
//! It never decides what to write, never overwrites a value it was not told of, and never tries again by itself except
//! where nothing was written for sure. Two writes to one entry at the same time are the caller's to avoid.

use super::connect::{ConnectError, connect, contained};
use super::flavour::{ASSERTION_CONTROL, RootDse, root_dse};
use super::key::KeyAttribute;
use super::lookup::{LookupError, by_key};
use super::{Entry, flavour};
use crate::config::{Directory, WriteBackNames};
use crate::model::{
    AttributeChange, ExpireResult, PasswordDate, UserRecord, Value, Write, WriteRefusal, WriteResult,
    deleted_reference, normalized_dn, plain_dn,
};
use crate::retry::Backoff;
use ldap3::controls::{Assertion, MakeCritical as _, RawControl};
use ldap3::{Ldap, LdapError, Mod};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};

/// For one operation. A write that takes longer counts as unanswered.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Writes waiting for a free connection, and results waiting to be read, for each connection.
pub const QUEUED_FOR_EACH: usize = 16;

// Result codes, RFC 4511 appendix A and RFC 4528.
const NO_SUCH_ATTRIBUTE: u32 = 16;
const CONSTRAINT_VIOLATION: u32 = 19;
const ATTRIBUTE_OR_VALUE_EXISTS: u32 = 20;
const NO_SUCH_OBJECT: u32 = 32;
const UNWILLING_TO_PERFORM: u32 = 53;
/// 389 DS: a second value of an attribute that takes one.
const OBJECT_CLASS_VIOLATION: u32 = 65;
const ASSERTION_FAILED: u32 = 122;

/// Where writes go, and what is read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub base: String,
    pub key: KeyAttribute,
    /// The server has the assertion control (RFC 4528): the last known DN can be used without reading it first.
    pub asserts: bool,
    /// The write-back attributes and `objectClass`.
    pub read_back: Vec<String>,
    pub password_date: String,
    /// The attribute and value that demand a new password. `None`: this kind of server has no such thing that we know.
    pub password_reset: Option<(&'static str, &'static str)>,
}

impl Target {
    pub fn new(base: &str, names: &WriteBackNames, root: &RootDse, profile: &flavour::FlavourProfile) -> Target {
        let names = [&names.address, &names.url, &names.home_url, &names.home];
        let mut read_back: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).cloned().collect();
        read_back.push("objectClass".into());
        Target {
            base: base.to_owned(),
            key: profile.key,
            asserts: root.supports(ASSERTION_CONTROL),
            read_back,
            password_date: profile.password_date.into(),
            password_reset: profile.password_reset,
        }
    }

    async fn read(&self, ldap: &mut Ldap, write: &Write) -> Result<Option<Entry>, LookupError> {
        let mut attributes: Vec<&str> = self.read_back.iter().map(String::as_str).collect();
        attributes.extend(write.changes.iter().map(|change| change.attribute.as_str()));
        attributes.push(&self.password_date);
        by_key(ldap, self.key, &self.base, write.key, &attributes).await
    }
}

/// Why an operation has no answer to go on from.
enum Failure {
    Refused(WriteRefusal),
    Unanswered,
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Failure {
        match error {
            LookupError::Refused { code, text, .. } => Failure::Refused(WriteRefusal { code, text }),
            LookupError::NoSuchObject { dn } => {
                Failure::Refused(WriteRefusal { code: NO_SUCH_OBJECT, text: format!("{dn} cannot be read") })
            }
            LookupError::TooMany { .. } => {
                Failure::Refused(WriteRefusal { code: 4, text: "several entries have this key".into() })
            }
            LookupError::Timeout { .. } | LookupError::Lost { .. } | LookupError::Malformed { .. } => {
                Failure::Unanswered
            }
        }
    }
}

impl From<Failure> for WriteResult {
    fn from(failure: Failure) -> WriteResult {
        match failure {
            Failure::Refused(refusal) => WriteResult::Refused(refusal),
            Failure::Unanswered => WriteResult::Unanswered,
        }
    }
}

impl From<Failure> for ExpireResult {
    fn from(failure: Failure) -> ExpireResult {
        match failure {
            Failure::Refused(refusal) => ExpireResult::Refused(refusal),
            Failure::Unanswered => ExpireResult::Unanswered,
        }
    }
}

/// Applies one write. After `Unanswered` the connection is not to be used again.
pub async fn apply(ldap: &mut Ldap, target: &Target, write: &Write, timeout: Duration) -> WriteResult {
    let dn = match change(ldap, target, write, timeout).await {
        Ok(Changed::At(dn)) => dn,
        Ok(Changed::Not(result)) => return result,
        Err(failure) => return failure.into(),
    };
    let expire = match &write.expire {
        Some(date) => expire(ldap, target, write, &dn, date, timeout).await.unwrap_or_else(ExpireResult::from),
        None => ExpireResult::NotAsked,
    };
    WriteResult::Applied { expire }
}

enum Changed {
    /// Done, in the entry of this DN.
    At(String),
    Not(WriteResult),
}

async fn change(ldap: &mut Ldap, target: &Target, write: &Write, timeout: Duration) -> Result<Changed, Failure> {
    let mut object_class = write.object_class.as_deref();
    if modifications(write, object_class).is_empty() {
        return Ok(Changed::At(write.dn.clone()));
    }
    let mut dn = match target.asserts {
        true => write.dn.clone(),
        false => match target.read(ldap, write).await? {
            Some(entry) => entry.dn,
            None => return Ok(Changed::Not(WriteResult::NotFound)),
        },
    };
    let mut looked_up = !target.asserts;
    loop {
        let identity = target.asserts.then(|| target.key.filter(&write.key));
        let (code, text) = modify(ldap, &dn, modifications(write, object_class), identity, timeout).await?;
        match code {
            0 => return Ok(Changed::At(dn)),
            // Renamed, gone, or another entry has the DN now: nothing was written. Once more, where the key is.
            NO_SUCH_OBJECT | ASSERTION_FAILED if !looked_up => {
                let Some(entry) = target.read(ldap, write).await? else {
                    return Ok(Changed::Not(WriteResult::NotFound));
                };
                dn = entry.dn;
                looked_up = true;
            }
            // The class was added meanwhile, perhaps: then this is about nothing else.
            ATTRIBUTE_OR_VALUE_EXISTS if object_class.is_some() => {
                object_class = None;
                if modifications(write, None).is_empty() {
                    return Ok(Changed::At(dn));
                }
            }
            NO_SUCH_ATTRIBUTE | CONSTRAINT_VIOLATION | ATTRIBUTE_OR_VALUE_EXISTS | OBJECT_CLASS_VIOLATION => {
                let Some(entry) = target.read(ldap, write).await? else {
                    return Ok(Changed::Not(WriteResult::NotFound));
                };
                // Everything is as expected: the server has another reason, and would have it again.
                if write.changes.iter().all(|change| holds_old(&entry, change)) {
                    return Err(Failure::Refused(WriteRefusal { code, text }));
                }
                return Ok(Changed::Not(WriteResult::Mismatch { current: record(entry) }));
            }
            _ => return Err(Failure::Refused(WriteRefusal { code, text })),
        }
    }
}

/// Demands a new password, if the password is the one that was judged.
async fn expire(
    ldap: &mut Ldap,
    target: &Target,
    write: &Write,
    dn: &str,
    date: &PasswordDate,
    timeout: Duration,
) -> Result<ExpireResult, Failure> {
    let attribute = &target.password_date;
    let mut dn = dn.to_owned();
    let unchanged = match &date.0 {
        Some(date) => format!("({attribute}={})", ldap3::ldap_escape(date.as_str())),
        None => format!("(!({attribute}=*))"),
    };
    let assertion = target.asserts.then(|| format!("(&{}{unchanged})", target.key.filter(&write.key)));
    let Some((reset, value)) = target.password_reset else {
        let text = "we know no attribute that demands a new password from this kind of directory".into();
        return Err(Failure::Refused(WriteRefusal { code: UNWILLING_TO_PERFORM, text }));
    };
    let demand = || vec![replace(reset, value)];
    if assertion.is_some() {
        match modify(ldap, &dn, demand(), assertion.clone(), timeout).await? {
            (0, _) => return Ok(ExpireResult::Demanded),
            (NO_SUCH_OBJECT | ASSERTION_FAILED, _) => {}
            (code, text) => return Err(Failure::Refused(WriteRefusal { code, text })),
        }
    }
    // Changed meanwhile, or renamed; and the only way to find out where there are no assertions.
    let Some(entry) = target.read(ldap, write).await? else { return Ok(ExpireResult::ChangedMeanwhile) };
    let now = entry.values(&attribute.to_ascii_lowercase()).first();
    if now.map(Vec::as_slice) != date.0.as_ref().map(|date| date.as_bytes()) {
        return Ok(ExpireResult::ChangedMeanwhile);
    }
    dn = entry.dn;
    match modify(ldap, &dn, demand(), assertion, timeout).await? {
        (0, _) => Ok(ExpireResult::Demanded),
        (code, text) => Err(Failure::Refused(WriteRefusal { code, text })),
    }
}

/// The class first: the attributes need it. Then each attribute's old value away and its new one in.
fn modifications(write: &Write, object_class: Option<&str>) -> Vec<Mod<String>> {
    let one = |value: &String| HashSet::from([value.clone()]);
    let mut mods = Vec::new();
    if let Some(class) = object_class {
        mods.push(Mod::Add("objectClass".to_owned(), HashSet::from([class.to_owned()])));
    }
    for change in write.changes.iter().filter(|change| change.old != change.new) {
        if let Some(old) = &change.old {
            // A value that names a deleted object is not found under the name that it shows.
            let old = deleted_reference(old).unwrap_or_else(|| old.clone());
            mods.push(Mod::Delete(change.attribute.clone(), one(&old)));
        }
        if let Some(new) = &change.new {
            mods.push(Mod::Add(change.attribute.clone(), one(new)));
        }
    }
    mods
}

fn replace(attribute: &str, value: &str) -> Mod<String> {
    Mod::Replace(attribute.to_owned(), HashSet::from([value.to_owned()]))
}

/// One modify; result code and the server's words.
async fn modify(
    ldap: &mut Ldap,
    dn: &str,
    mods: Vec<Mod<String>>,
    assertion: Option<String>,
    timeout: Duration,
) -> Result<(u32, String), Failure> {
    ldap.with_timeout(timeout);
    if let Some(filter) = assertion {
        ldap.with_controls(RawControl::from(Assertion { filter }.critical()));
    }
    match contained(ldap.modify(dn, mods)).await {
        Some(Ok(result)) => Ok((result.rc, result.text)),
        // Never sent: every `add` has its value.
        Some(Err(LdapError::AddNoValues)) => {
            Err(Failure::Refused(WriteRefusal { code: 2, text: "a change without a value".into() }))
        }
        Some(Err(_)) | None => Err(Failure::Unanswered),
    }
}

/// Exactly: Active Directory compares these attributes with case. DNs are written in many ways.
fn holds_old(entry: &Entry, change: &AttributeChange) -> bool {
    let values = entry.values(&change.attribute.to_ascii_lowercase());
    let same_dn = |value: &[u8], old: &str| {
        let value = std::str::from_utf8(value).unwrap_or_default();
        old.contains('=') && normalized_dn(plain_dn(value)) == normalized_dn(old)
    };
    match &change.old {
        Some(old) => values.iter().any(|value| value == old.as_bytes() || same_dn(value, old)),
        None => values.is_empty(),
    }
}

fn record(entry: Entry) -> UserRecord {
    let mut record = UserRecord { dn: entry.dn, ..UserRecord::default() };
    for (name, values) in entry.attributes {
        record.set(&name, values.iter().map(|value| Value::from_bytes(value)).collect());
    }
    record
}

/// Some connections that write side by side. Each takes the next write, and answers it exactly once, in no order.
/// A connection that is lost is taken up again with backoff; writes wait meanwhile.
pub struct Writers {
    /// Bounded: waits while all connections are busy. Dropping both ends the writers after what was taken.
    pub requests: mpsc::Sender<Write>,
    /// The same; what is here is taken first.
    pub urgent: mpsc::Sender<Write>,
    pub results: mpsc::Receiver<(Write, WriteResult)>,
    /// Why there is no connection now; `None` while there is one, and before the first attempt.
    pub trouble: watch::Receiver<Option<Arc<ConnectError>>>,
}

impl Writers {
    /// Starts `connections` tasks on the current runtime. `names` as configured, `profile` of the server's flavour. `heard_at`:
    /// the URL where changes are heard, if any; of several servers that one is written to, because it knows whom we know.
    pub fn start(
        connections: usize,
        directory: Directory,
        names: WriteBackNames,
        profile: flavour::FlavourProfile,
        heard_at: watch::Receiver<Option<String>>,
    ) -> Writers {
        let connections = connections.max(1);
        let (requests, waiting) = mpsc::channel(connections * QUEUED_FOR_EACH);
        let (urgent, hurrying) = mpsc::channel(connections * QUEUED_FOR_EACH);
        let (answers, results) = mpsc::channel(connections * QUEUED_FOR_EACH);
        let (trouble_seen, trouble) = watch::channel(None);
        let shared = Arc::new(Shared {
            directory,
            names,
            profile,
            heard_at,
            waiting: Mutex::new((hurrying, waiting)),
            trouble: trouble_seen,
        });
        for _ in 0..connections {
            tokio::spawn(write_on(shared.clone(), answers.clone()));
        }
        Writers { requests, urgent, results, trouble }
    }
}

struct Shared {
    directory: Directory,
    names: WriteBackNames,
    profile: flavour::FlavourProfile,
    heard_at: watch::Receiver<Option<String>>,
    /// The urgent ones, and the others.
    waiting: Mutex<(mpsc::Receiver<Write>, mpsc::Receiver<Write>)>,
    trouble: watch::Sender<Option<Arc<ConnectError>>>,
}

/// A connection to write on, and where changes were heard when it was made.
struct Open {
    ldap: Ldap,
    target: Target,
    heard_at: Option<String>,
}

impl Shared {
    async fn connection(&self) -> Result<Open, ConnectError> {
        let heard_at = self.heard_at.borrow().clone();
        let mut directory = self.directory.clone();
        directory.urls.sort_by_key(|url| Some(url) != heard_at.as_ref());
        let (mut ldap, endpoint) = connect(&directory, CONNECT_TIMEOUT).await?;
        let doing = "reading the root DSE";
        let root = tokio::time::timeout(CONNECT_TIMEOUT, root_dse(&mut ldap))
            .await
            .map_err(|_| ConnectError::Timeout { url: endpoint.url.clone(), doing, after: CONNECT_TIMEOUT })?
            .map_err(|_| ConnectError::Closed { url: endpoint.url, doing })?;
        Ok(Open { ldap, target: Target::new(&self.directory.base, &self.names, &root, &self.profile), heard_at })
    }

    /// Connects, however long it takes; `None`: nobody wants results any more.
    async fn connected(&self, answers: &mpsc::Sender<(Write, WriteResult)>) -> Option<Open> {
        let mut backoff = Backoff::connection();
        loop {
            match self.connection().await {
                Ok(connection) => {
                    self.trouble.send_replace(None);
                    return Some(connection);
                }
                Err(error) => self.trouble.send_replace(Some(Arc::new(error))),
            };
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = answers.closed() => return None,
            }
        }
    }
}

/// One writer: connect, then write after write, until nobody asks or listens any more.
async fn write_on(shared: Arc<Shared>, answers: mpsc::Sender<(Write, WriteResult)>) {
    let mut connection: Option<Open> = None;
    while let Some(write) = next(&shared, &answers).await {
        // A server closes idle connections: seen before the write is sent, that costs nothing.
        let heard_at = shared.heard_at.borrow().clone();
        let elsewhere = |open: &Open| heard_at.is_some() && heard_at != open.heard_at;
        if connection.as_mut().is_none_or(|open| open.ldap.is_closed() || elsewhere(open)) {
            connection = shared.connected(&answers).await;
        }
        let Some(open) = &mut connection else { return };
        let result = apply(&mut open.ldap, &open.target, &write, WRITE_TIMEOUT).await;
        let lost = match &result {
            WriteResult::Unanswered | WriteResult::Applied { expire: ExpireResult::Unanswered } => true,
            WriteResult::Applied { .. }
            | WriteResult::Mismatch { .. }
            | WriteResult::NotFound
            | WriteResult::Refused(_) => false,
        };
        if lost {
            connection = None;
        }
        if answers.send((write, result)).await.is_err() {
            return;
        }
    }
}

async fn next(shared: &Shared, answers: &mpsc::Sender<(Write, WriteResult)>) -> Option<Write> {
    let mut waiting = shared.waiting.lock().await;
    let (urgent, others) = &mut *waiting;
    tokio::select! {
        biased;
        Some(write) = urgent.recv() => Some(write),
        write = others.recv() => write,
        () = answers.closed() => None,
    }
}

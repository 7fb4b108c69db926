//! Hearing a domain controller of Active Directory: what `dirsync` and `usn` have in common. A task reads, by one search
//! after another on one connection; this is the other end of its channel.
//!
//! ```text
//! position ─► usable? ─no─► everything: take the position first, then read all, page by page ─┐
//!                └────yes─► a round: what changed since ──────────────────────────────────────┤
//!     ┌───────────────────────────────────────────────────────────────────────────────────────┘
//!     └► every second, or when the DC rings: highestCommittedUSN moved? ─► a round ─► …
//! ```
//!
//! The position is taken before what it covers is read, so what changes meanwhile comes again. A deletion is told only of a
//! tombstone, which is proof. It never reconnects: an error ends it, the caller starts another from the cursor it stored.

use super::dirsync::{self, Round};
use super::scan::{complete, with_key};
use super::syncrepl::{SearchShape, WIDEST_FILTER};
use super::{Batch, Change, Cursor, Presence, SourceError, usn};
use crate::directory::Entry;
use crate::directory::stream::ber::BerError;
use crate::directory::stream::controls;
use crate::directory::stream::{Access, Control, Dialogue, Done, Heard, Scope, Search, StreamError};
use crate::error::chain;
use crate::model::{Timestamp, UserKey, is_below_or_equal, normalized_dn};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How often `highestCommittedUSN` is read. A domain controller of several processes rings only after seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two rounds, at least: a round costs the server much the same for one change and for fifty. It doubles, up to
/// `LOOK_EVERY`, while what moves the numbers is none of our business, as on a busy domain most of it is.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// A busy domain moves the position all the time. Where nothing of ours changed, the store is spared that.
const POSITION_EVERY: Duration = Duration::from_secs(60);
/// The domain controller does not ring, or rings no more: it is asked to again.
const BELL_AGAIN: Duration = Duration::from_secs(60);
/// Ringing is a help, not a need: nobody waits for it.
const BELL_PATIENCE: Duration = Duration::from_secs(2);
/// MS-ADTS 3.1.1.3.4.6: the default of MaxPageSize.
const PAGE_ENTRIES: u32 = 1000;
/// More in one page saves little, and holds up other users of a small server.
const PAGE_ENTRIES_MAX: u32 = 5000;
/// MS-ADTS 6.1.1.2.4.1.1: what an unset tombstoneLifetime means.
const TOMBSTONE_DAYS: u64 = 60;
const DAY: Duration = Duration::from_secs(86_400);
/// Computers are accounts too (class user), and many, and change by themselves. Nobody gives them a home server.
/// An entry of which not even the class may be read must not come either: "no computer" alone would be true of it.
pub(super) const NO_COMPUTERS: &str = "(&(objectClass=*)(!(objectClass=computer)))";

/// How its changes are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    DirSync,
    Usn,
}

impl Way {
    /// The source named in a cursor.
    pub fn as_str(self) -> &'static str {
        match self {
            Way::DirSync => "dirsync",
            Way::Usn => "usn",
        }
    }
}

/// A domain controller that is listened to. Dropped: given up.
pub struct Domain {
    heard: mpsc::Receiver<Result<Batch, SourceError>>,
    url: String,
    resumed: bool,
    task: JoinHandle<()>,
}

impl Domain {
    /// # Errors
    /// [`SourceError::RefreshRequired`], with the reason, where a cursor of this search cannot be gone on from.
    pub async fn start(
        way: Way,
        access: &Access,
        shape: &SearchShape,
        cursor: Option<&Cursor>,
    ) -> Result<Domain, SourceError> {
        let mut dc = Dc::open(access, &shape.base).await?;
        let url = dc.url();
        let search = shape.fingerprint(&access.account());
        let position = cursor
            .filter(|cursor| cursor.source == way.as_str() && cursor.search == search)
            .and_then(|cursor| serde_json::from_slice::<Position>(&cursor.position).ok());
        if let Some(position) = &position
            && let Some(text) = position.stale(way, &dc.now().await?, dc.tombstones)
        {
            return Err(SourceError::RefreshRequired { url, text });
        }
        let resumed = position.is_some();
        let (told, heard) = mpsc::channel(1);
        let bell = Bell { access: access.clone(), head: dc.head.clone(), ringing: None, again: Instant::now() };
        let filter = if shape.filter == WIDEST_FILTER { NO_COMPUTERS } else { &shape.filter };
        let listener = Listener {
            way,
            dc,
            bell,
            base: shape.base.clone(),
            filter: filter.to_owned(),
            attributes: with_key(access.key, &shape.attributes),
            search,
            told,
            stored_at: Instant::now(),
            told_count: 0,
        };
        Ok(Domain { heard, url, resumed, task: tokio::spawn(listener.run(position)) })
    }

    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Batch, SourceError> {
        match self.heard.recv().await {
            Some(heard) => heard,
            None => Err(SourceError::Ended { url: self.url.clone() }),
        }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How far the changes of a domain controller were heard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Position {
    /// objectGUID of the domain.
    pub domain: UserKey,
    /// Who it was: the DN of its settings object, and its invocationId, which a restored one changes.
    pub dc: String,
    pub invocation: UserKey,
    /// Its highestCommittedUSN: everything up to it is covered.
    pub usn: u64,
    /// Its clock then.
    pub at: Timestamp,
    /// DirSync's own bytes, opaque; empty for `usn`.
    #[serde(default, with = "super::base64_bytes")]
    pub cookie: Vec<u8>,
}

impl Position {
    /// Why one cannot go on from here at a domain controller that stands at `now`; `None`: one can.
    fn stale(&self, way: Way, now: &Position, tombstones: Duration) -> Option<String> {
        if self.domain != now.domain {
            return Some("it is of another domain than before".into());
        }
        let same_dc = self.invocation == now.invocation && self.dc == now.dc;
        if same_dc && now.usn < self.usn {
            return Some(put_back(now.usn, self.usn));
        }
        if now.at.since(self.at) > tombstones {
            let (away, kept) = (now.at.since(self.at).as_secs() / 86_400, tombstones.as_secs() / 86_400);
            return Some(format!("{away} days have passed, and what was deleted is kept for {kept}"));
        }
        let known = match way {
            Way::DirSync => same_dc || dirsync::knows(&self.cookie, now.invocation),
            Way::Usn => same_dc,
        };
        (!known).then(|| {
            "it is another domain controller than before, or a restored one: our position says nothing to it".into()
        })
    }
}

fn put_back(now: u64, before: u64) -> String {
    format!("its highestCommittedUSN is {now} and was {before} before: it was put back in time")
}

/// A domain controller, asked one thing after another.
pub(super) struct Dc {
    dialogue: Dialogue,
    /// The domain that holds the base.
    pub head: String,
    domain: UserKey,
    dc: String,
    invocation: UserKey,
    page: u32,
    tombstones: Duration,
}

/// What came of one search: entries, and those that could not be read.
pub(super) struct Found {
    pub entries: Vec<Entry>,
    pub unreadable: Vec<Change>,
    pub done: Done,
}

impl Dc {
    async fn open(access: &Access, base: &str) -> Result<Dc, SourceError> {
        let mut dialogue = Dialogue::open(access).await?;
        let url = dialogue.url().to_owned();
        let names = ["namingContexts", "configurationNamingContext", "dsServiceName"];
        let root = dialogue.read(&one("", &names, &[])).await?;
        let text = |name: &str| {
            let values = root.as_ref().map(|root| root.values(name)).unwrap_or_default();
            values.first().and_then(|value| String::from_utf8(value.clone()).ok()).unwrap_or_default()
        };
        let contexts = root.as_ref().map(|root| root.values("namingcontexts")).unwrap_or_default();
        let wanted = normalized_dn(base);
        let head = contexts
            .iter()
            .filter_map(|context| std::str::from_utf8(context).ok())
            .filter(|context| is_below_or_equal(&wanted, &normalized_dn(context)))
            .max_by_key(|context| context.len())
            .ok_or_else(|| SourceError::NotADomain { url: url.clone(), base: base.to_owned() })?
            .to_owned();
        let (dc, configuration) = (text("dsservicename"), text("configurationnamingcontext"));
        let guid = |entry: Option<Entry>, name: &str| {
            let found = entry.and_then(|entry| UserKey::from_bytes(entry.values(name).first()?));
            found.ok_or_else(|| SourceError::NotADomain { url: url.clone(), base: base.to_owned() })
        };
        let domain = guid(dialogue.read(&one(&head, &["objectGUID"], &[])).await?, "objectguid")?;
        let invocation = guid(dialogue.read(&one(&dc, &["invocationId"], &[])).await?, "invocationid")?;
        let service = format!("CN=Directory Service,CN=Windows NT,CN=Services,{configuration}");
        let names = ["tombstoneLifetime", "msDS-DeletedObjectLifetime"];
        let lifetimes = dialogue.read(&one(&service, &names, &[])).await?;
        let policy = format!("CN=Default Query Policy,CN=Query-Policies,{service}");
        let limits = dialogue.read(&one(&policy, &["lDAPAdminLimits"], &[])).await?;
        Ok(Dc {
            dialogue,
            head,
            domain,
            dc,
            invocation,
            page: page_entries(limits.as_ref()),
            tombstones: tombstones(lifetimes.as_ref()),
        })
    }

    fn url(&self) -> String {
        self.dialogue.url().to_owned()
    }

    /// Where it stands.
    pub async fn now(&mut self) -> Result<Position, SourceError> {
        let root = self.dialogue.read(&one("", &["highestCommittedUSN", "currentTime"], &[])).await?;
        let text = |name: &str| {
            let value = root.as_ref().and_then(|root| root.values(name).first());
            value.and_then(|value| std::str::from_utf8(value).ok())
        };
        let usn = text("highestcommittedusn").and_then(|usn| usn.parse().ok());
        let at = text("currenttime").and_then(Timestamp::from_generalized_time);
        let (Some(usn), Some(at)) = (usn, at) else {
            return Err(SourceError::NotADomain { url: self.url(), base: self.head.clone() });
        };
        let (domain, dc, invocation) = (self.domain, self.dc.clone(), self.invocation);
        Ok(Position { domain, dc, invocation, usn, at, cookie: Vec::new() })
    }

    /// One search to its end, whole: values that the server left out are asked for.
    pub async fn search(&mut self, search: &Search) -> Result<Found, SourceError> {
        let mut found = self.parts(search, b"").await?;
        for entry in &mut found.entries {
            complete(&mut self.dialogue, entry).await?;
        }
        Ok(found)
    }

    /// One search to its end, as it comes; or the page of it that begins there.
    pub async fn parts(&mut self, search: &Search, page: &[u8]) -> Result<Found, SourceError> {
        self.dialogue.ask(search, page).await?;
        let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
        let done = loop {
            let mut ended = None;
            for heard in self.dialogue.next().await? {
                match heard {
                    Heard::Entry(entry, _) => entries.push(entry),
                    Heard::Unreadable(entry) => unreadable.push(Change::from(entry)),
                    Heard::Sync(_) | Heard::Notice(..) => {}
                    Heard::Done(done) => ended = Some(done),
                }
            }
            if let Some(done) = ended {
                break done;
            }
        };
        Ok(Found { entries, unreadable, done })
    }

    /// One page of a search: what is in it, and where the next begins; `None`: it was the last.
    pub async fn page(&mut self, search: &Search, from: &[u8]) -> Result<(Found, Option<Vec<u8>>), SourceError> {
        let paged = Search { page: Some(self.page), ..search.clone() };
        let mut found = self.parts(&paged, from).await?;
        let next = self.dialogue.next_page();
        for entry in &mut found.entries {
            complete(&mut self.dialogue, entry).await?;
        }
        Ok((found, next))
    }

    pub fn malformed(&self, cause: BerError) -> SourceError {
        StreamError::Malformed { url: self.url(), cause }.into()
    }
}

/// One entry.
fn one(dn: &str, attributes: &[&str], controls: &[Control]) -> Search {
    Search {
        base: dn.to_owned(),
        scope: Scope::Base,
        filter: "(objectClass=*)".into(),
        attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
        sync: None,
        page: None,
        persistent: false,
        controls: controls.to_vec(),
    }
}

/// All below a DN.
pub(super) fn below(dn: &str, filter: String, attributes: Vec<String>, controls: Vec<Control>) -> Search {
    let scope = Scope::Subtree;
    Search { base: dn.to_owned(), scope, filter, attributes, sync: None, page: None, persistent: false, controls }
}

/// MaxPageSize of the server's query policy; the default where it cannot be read.
fn page_entries(policy: Option<&Entry>) -> u32 {
    let limits = policy.map(|policy| policy.values("ldapadminlimits")).unwrap_or_default();
    let size =
        limits.iter().find_map(|limit| std::str::from_utf8(limit).ok()?.strip_prefix("MaxPageSize=")?.parse().ok());
    size.unwrap_or(PAGE_ENTRIES).clamp(1, PAGE_ENTRIES_MAX)
}

/// For how long deletions can be heard of: the shorter of both, where both are set.
fn tombstones(service: Option<&Entry>) -> Duration {
    let days = |name: &str| {
        let value = service.and_then(|service| service.values(name).first());
        value.and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok())
    };
    let days = [days("tombstonelifetime"), days("msds-deletedobjectlifetime")].into_iter().flatten().min();
    DAY.saturating_mul(u32::try_from(days.unwrap_or(TOMBSTONE_DAYS)).unwrap_or(u32::MAX))
}

/// The reading task.
struct Listener {
    way: Way,
    dc: Dc,
    bell: Bell,
    base: String,
    filter: String,
    attributes: Vec<String>,
    /// Fingerprint of the search, for cursors.
    search: String,
    told: mpsc::Sender<Result<Batch, SourceError>>,
    stored_at: Instant,
    /// Changes told so far.
    told_count: u64,
}

/// Why it goes on no more.
enum Stop {
    Error(SourceError),
    /// Nobody is listening.
    Unheard,
}

impl<E: Into<SourceError>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Error(error.into())
    }
}

impl Listener {
    async fn run(mut self, position: Option<Position>) {
        let told = self.told.clone();
        match self.listen(position).await {
            Ok(never) => match never {},
            Err(Stop::Unheard) => {}
            Err(Stop::Error(error)) => drop(told.send(Err(error)).await),
        }
    }

    async fn listen(&mut self, position: Option<Position>) -> Result<std::convert::Infallible, Stop> {
        let mut position = match position {
            Some(position) => {
                let now = self.dc.now().await?;
                let position = self.round(position, now, true).await?;
                self.tell(Vec::new(), Some(Presence::ChangesOnly), Some(&position), true).await?;
                position
            }
            None => self.everything().await?,
        };
        let mut pause = ROUND_PAUSE;
        loop {
            self.bell.hang().await;
            let waiting = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.bell.rung() => {}
            }
            tokio::time::sleep(pause.saturating_sub(waiting.elapsed())).await;
            let now = self.dc.now().await?;
            if now.usn < position.usn {
                let (url, text) = (self.dc.url(), put_back(now.usn, position.usn));
                return Err(SourceError::RefreshRequired { url, text }.into());
            }
            if now.usn > position.usn {
                let told = self.told_count;
                position = self.round(position, now, false).await?;
                pause = if self.told_count > told { ROUND_PAUSE } else { (pause * 2).min(LOOK_EVERY) };
            }
        }
    }

    /// Reads all below the base, and where to go on from afterwards.
    async fn everything(&mut self) -> Result<Position, Stop> {
        let mut position = self.dc.now().await?;
        if self.way == Way::DirSync {
            position.cookie = dirsync::first_cookie(&mut self.dc).await?;
        }
        let search = below(&self.base, self.filter.clone(), self.attributes.clone(), Vec::new());
        let (mut cookie, mut unidentified) = (Some(Vec::new()), false);
        while let Some(page) = cookie {
            let (found, next) = self.dc.page(&search, &page).await?;
            unidentified |=
                found.unreadable.iter().any(|change| matches!(change, Change::Unreadable { key: None, .. }));
            let changes = found.unreadable.into_iter().chain(found.entries.into_iter().map(Change::Entry)).collect();
            self.tell(changes, None, None, true).await?;
            cookie = next;
        }
        // Whatever could not be read may be any of those that seem absent.
        let presence = if unidentified { Presence::ChangesOnly } else { Presence::Everything };
        self.tell(Vec::new(), Some(presence), Some(&position), true).await?;
        Ok(position)
    }

    /// What changed between a position and `now`. The position after it.
    async fn round(&mut self, from: Position, mut now: Position, refresh: bool) -> Result<Position, Stop> {
        let before = self.told_count;
        match self.way {
            Way::DirSync => {
                let mut cookie = from.cookie;
                loop {
                    let Round { changed, mut changes, more, cookie: next } =
                        dirsync::round(&mut self.dc, &cookie, &self.attributes).await?;
                    for keys in changed.chunks(dirsync::KEYS_IN_ONE_FILTER) {
                        let search = dirsync::again(&self.dc.head, keys, &self.attributes);
                        let found = self.dc.search(&search).await?;
                        changes.extend(found.unreadable);
                        changes.extend(found.entries.into_iter().map(Change::Entry));
                        self.tell(std::mem::take(&mut changes), None, None, refresh).await?;
                    }
                    self.tell(changes, None, None, refresh).await?;
                    cookie = next;
                    if !more {
                        break;
                    }
                }
                now.cookie = cookie;
            }
            Way::Usn => {
                for search in usn::searches(&self.dc.head, from.usn, &self.filter, &self.attributes) {
                    let mut cookie = Some(Vec::new());
                    while let Some(page) = cookie {
                        let (found, next) = self.dc.page(&search, &page).await?;
                        let entries = found.entries.into_iter().map(change);
                        let changes: Vec<Change> = found.unreadable.into_iter().chain(entries).collect();
                        self.tell(changes, None, None, refresh).await?;
                        cookie = next;
                    }
                }
            }
        }
        if !refresh && (self.told_count > before || self.stored_at.elapsed() > POSITION_EVERY) {
            self.tell(Vec::new(), None, Some(&now), false).await?;
        }
        Ok(now)
    }

    async fn tell(
        &mut self,
        changes: Vec<Change>,
        complete: Option<Presence>,
        position: Option<&Position>,
        refresh: bool,
    ) -> Result<(), Stop> {
        if changes.is_empty() && complete.is_none() && position.is_none() {
            return Ok(());
        }
        self.told_count += changes.len() as u64;
        let cursor = position.map(|position| {
            self.stored_at = Instant::now();
            Cursor {
                source: self.way.as_str().into(),
                search: self.search.clone(),
                server: self.dc.url(),
                position: serde_json::to_vec(position).unwrap_or_default(),
            }
        });
        self.told.send(Ok(Batch { changes, complete, cursor, refresh, begins: None })).await.map_err(|_| Stop::Unheard)
    }
}

/// An entry, or what is left of a deleted one: that is proof.
pub(super) fn change(entry: Entry) -> Change {
    match is_deleted(&entry) {
        true => Change::Deleted(entry.key),
        false => Change::Entry(entry),
    }
}

pub(super) fn is_deleted(entry: &Entry) -> bool {
    entry.values("isdeleted").iter().any(|value| value.eq_ignore_ascii_case(b"TRUE"))
}

/// Change notification (MS-ADTS 3.1.1.3.4.1.9): wakes, and says nothing.
struct Bell {
    access: Access,
    head: String,
    ringing: Option<Dialogue>,
    /// Not asked to ring before.
    again: Instant,
}

impl Bell {
    /// Asks to be woken, where that is not so. Not every server does it, and not for everybody.
    async fn hang(&mut self) {
        if self.ringing.is_some() || Instant::now() < self.again {
            return;
        }
        self.again = Instant::now() + BELL_AGAIN;
        let search = below(&self.head, "(objectClass=*)".into(), vec!["1.1".into()], vec![controls::notification()]);
        let asked = async {
            let mut dialogue = Dialogue::open(&self.access).await?;
            dialogue.ask(&search, b"").await?;
            Ok::<_, StreamError>(dialogue)
        };
        match tokio::time::timeout(BELL_PATIENCE, asked).await {
            Ok(Ok(dialogue)) => self.ringing = Some(dialogue),
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "no change notification"),
            Err(_) => tracing::debug!("no change notification in time"),
        }
    }

    /// Until it rings; for ever, where it does not. Cancel-safe.
    async fn rung(&mut self) {
        if let Some(dialogue) = &mut self.ringing {
            match dialogue.next().await {
                Ok(batch) if !batch.iter().any(|heard| matches!(heard, Heard::Done(_))) => return,
                Ok(_) => tracing::debug!("change notification ended"),
                Err(error) => tracing::debug!(error = chain(&error), "change notification ended"),
            }
            self.ringing = None;
        }
        std::future::pending().await
    }
}

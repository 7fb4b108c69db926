//! Any LDAPv3 server, asked again and again: what was modified since, every `poll_interval`; who is there at all, in a
//! presence scan of keys and DNs. Where the server has persistent searches one is kept open besides, so that a change is
//! heard at once; what it does not tell is still found by asking.
//!
//! | search | when | finds |
//! |---|---|---|
//! | whole: every entry, all attributes asked for | a session begins; a sweep | everything |
//! | changes: `modifyTimestamp` or `createTimestamp` not before … | every poll interval | new and modified entries, renames |
//! | names: key and DN of every entry | [`presence_every`] | deletes, moves out of the base, entries at another DN |
//! | these: entries by key | a scan found them at another DN, or for the first time | what they are now |
//!
//! Time is the server's. What we know of it is a lower bound: a time stamp that we saw was in the past when we saw it,
//! and since then as much time has passed there as here. The next search reaches back to where the last one *began* by
//! that bound, less [`OVERLAP`] for writes that were under way. Entries found twice are nothing to intake, which compares.
//! Our own clock has one use: time stamps later than it says are not believed, for an entry of the year 2099 would make
//! us blind until then. Not believing costs reading more, never less.
//!
//! A server that takes changes over from others (a replica) must not lag behind them by more than the overlap: the time
//! stamps are those of the first server. What came later than that is found by the sweep.
//!
//! Absence is concluded only from a search that the server ended with success.

use super::scan::with_key;
use super::syncrepl::{SearchShape, WIDEST_FILTER};
use super::{Batch, Change, Comparison, Cursor, Guarantees, Presence, SourceError};
use crate::directory::Entry;
use crate::directory::stream::{Access, Connection, Heard, Notice, Results, Scope, Search, StreamError};
use crate::model::{Timestamp, UserKey};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// The source named in a cursor of ours.
pub const SOURCE: &str = "poll";

/// A search reaches back so much further: a time stamp is taken when a write begins, and it can be read when it has ended.
pub const OVERLAP: Duration = Duration::from_secs(10);
/// Time stamps further than this in our own future are not believed.
const AHEAD_MAX: Duration = Duration::from_secs(60);
/// Presence scans come after so many polls …
const SCAN_AFTER_POLLS: u32 = 12;
/// … but not more often than this, …
const SCAN_EVERY_LEAST: Duration = Duration::from_secs(5);
/// … and so many times the last one's duration lies between two of them.
const SCAN_PAUSE_TIMES: u32 = 10;
/// More entries at other DNs, and everything is read.
const THESE_MAX: usize = 100;
/// A persistent search that broke is begun again after this.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// How long after one presence scan the next begins, unless a scan takes long.
pub fn presence_every(interval: Duration) -> Duration {
    (interval * SCAN_AFTER_POLLS).max(SCAN_EVERY_LEAST)
}

/// What this source promises. `told`: more about deletes.
pub fn guarantees(interval: Duration, listens: bool, told: &str) -> Guarantees {
    let scan = words(presence_every(interval));
    let by_scan = format!("within {scan}, by a presence scan");
    let deletes = if listens { format!("at once; {by_scan} where nobody listened") } else { by_scan.clone() };
    let latency = match listens {
        true => "milliseconds by persistent search".into(),
        false => words(interval),
    };
    Guarantees { deletes: format!("{deletes}{told}"), moves: format!("out of the base {by_scan}"), latency }
}

fn words(span: Duration) -> String {
    match span.as_secs_f64() {
        seconds if seconds >= 120.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{seconds} s"),
    }
}

/// Polling under way. Dropped: given up.
pub struct Poll {
    access: Access,
    base: String,
    attributes: Vec<String>,
    interval: Duration,
    /// Of the cursor.
    search: String,
    resumed: bool,
    clock: ServerClock,
    /// The next search for changes reaches back to here. `None`: only reading everything tells.
    since: Option<Timestamp>,
    /// The first thing to do in a session that goes on from a cursor: what happened meanwhile, before everything is read.
    catch_up: bool,
    whole: bool,
    these: Vec<UserKey>,
    next_poll: Instant,
    next_scan: Instant,
    under_way: Option<UnderWay>,
    listening: Listening,
    /// The DN of every entry in scope, hashed, as read last.
    known: HashMap<UserKey, u64>,
    ready: VecDeque<Batch>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    Whole,
    Changes,
    Names,
    These,
}

struct UnderWay {
    job: Job,
    began: Instant,
    hearing: Hearing,
    /// As `Poll::known`, of what this search has brought.
    seen: HashMap<UserKey, u64>,
    /// At another DN than before, or for the first time.
    elsewhere: Vec<UserKey>,
    /// Something unreadable bore no key: it may be any of those that seem absent.
    unidentified: bool,
}

impl Poll {
    /// Nothing is sent before [`Poll::next`]. Goes on from `cursor` if it is of this search.
    pub fn start(
        access: &Access,
        shape: &SearchShape,
        interval: Duration,
        listens: bool,
        cursor: Option<&Cursor>,
    ) -> Poll {
        let search = shape.fingerprint(&format!("{SOURCE} {}", access.account()));
        let since = cursor
            .filter(|cursor| cursor.source == SOURCE && cursor.search == search)
            .and_then(|cursor| Timestamp::from_generalized_time(std::str::from_utf8(&cursor.position).ok()?));
        let mut attributes = with_key(access.key, &shape.attributes);
        for name in ["modifyTimestamp", "createTimestamp"] {
            if !attributes.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                attributes.push(name.into());
            }
        }
        let now = Instant::now();
        Poll {
            access: access.clone(),
            base: shape.base.clone(),
            attributes,
            interval,
            search,
            resumed: since.is_some(),
            clock: ServerClock::default(),
            since,
            catch_up: since.is_some(),
            whole: true,
            these: Vec::new(),
            next_poll: now,
            next_scan: now,
            under_way: None,
            listening: if listens { Listening::From(now) } else { Listening::Off },
            known: HashMap::new(),
            ready: VecDeque::new(),
        }
    }

    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// What was heard since the last time; waits until there is something. Cancel-safe. After an error: start anew.
    pub async fn next(&mut self) -> Result<Batch, SourceError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            if self.under_way.is_none() {
                self.begin_what_is_due(Instant::now());
            }
            self.listen_if_due(Instant::now());
            let idle_until = match &self.under_way {
                Some(_) => None,
                None => Some(self.next_poll.min(self.next_scan)),
            };
            let Poll { under_way, listening, .. } = self;
            tokio::select! {
                told = listening.next() => self.told(told),
                heard = heard(under_way), if under_way.is_some() => self.heard(heard?),
                () = until(idle_until), if idle_until.is_some() => {}
            }
        }
    }

    fn begin_what_is_due(&mut self, now: Instant) {
        let job = if std::mem::take(&mut self.catch_up) {
            Job::Changes
        } else if self.whole || self.these.len() > THESE_MAX {
            Job::Whole
        } else if !self.these.is_empty() {
            Job::These
        } else if now >= self.next_scan {
            // Without a time to ask for, only this finds anything.
            if self.since.is_some() { Job::Names } else { Job::Whole }
        } else if now >= self.next_poll && self.since.is_some() {
            Job::Changes
        } else {
            if now >= self.next_poll {
                self.next_poll = now + self.interval;
            }
            return;
        };
        let search = self.search_for(job);
        if let Some(comparison) = compares(job) {
            self.ready.push_back(Batch { begins: Some(comparison), refresh: true, ..Batch::default() });
        }
        self.under_way = Some(UnderWay {
            job,
            began: now,
            hearing: Hearing::begin(self.access.clone(), search),
            seen: HashMap::new(),
            elsewhere: Vec::new(),
            unidentified: false,
        });
    }

    fn search_for(&self, job: Job) -> Search {
        let (filter, attributes) = match job {
            Job::Whole => (WIDEST_FILTER.into(), self.attributes.clone()),
            Job::Names => (WIDEST_FILTER.into(), vec![self.access.key.name().into()]),
            Job::Changes => {
                let since = self.since.unwrap_or(Timestamp(0)).to_generalized_time();
                (format!("(|(modifyTimestamp>={since})(createTimestamp>={since}))"), self.attributes.clone())
            }
            Job::These => {
                let each: String = self.these.iter().map(|key| self.access.key.filter(key)).collect();
                (format!("(|{each})"), self.attributes.clone())
            }
        };
        Search {
            base: self.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes,
            sync: None,
            page: self.access.page,
            persistent: false,
            controls: Vec::new(),
        }
    }

    fn heard(&mut self, heard: Vec<Heard>) {
        let now = Instant::now();
        let Some(mut work) = self.under_way.take() else { return };
        let mut batch = Batch { refresh: compares(work.job).is_some(), ..Batch::default() };
        let mut present = Vec::new();
        let mut done = false;
        for heard in heard {
            match heard {
                Heard::Entry(entry, _) => {
                    let place = hash(&entry.dn);
                    work.seen.insert(entry.key, place);
                    if work.job == Job::Names {
                        if self.known.get(&entry.key) != Some(&place) {
                            work.elsewhere.push(entry.key);
                        }
                        present.push(entry.key);
                    } else {
                        self.clock.read(&entry, now);
                        batch.changes.push(Change::Entry(entry));
                    }
                }
                Heard::Unreadable(unreadable) => {
                    work.unidentified |= unreadable.key.is_none();
                    // A scan wanted to know no more than that it is there.
                    match unreadable.key.filter(|_| work.job == Job::Names) {
                        Some(key) => present.push(key),
                        None => batch.changes.push(unreadable.into()),
                    }
                }
                Heard::Done(_) => done = true,
                // Nobody asked for these.
                Heard::Notice(..) | Heard::Sync(_) => {}
            }
        }
        if !present.is_empty() {
            batch.changes.push(Change::Present(present));
        }
        if done {
            self.done(work, &mut batch);
        } else {
            self.under_way = Some(work);
        }
        if !batch.changes.is_empty() || batch.complete.is_some() || batch.cursor.is_some() {
            self.ready.push_back(batch);
        }
    }

    fn done(&mut self, work: UnderWay, batch: &mut Batch) {
        let (now, unidentified) = (Instant::now(), work.unidentified);
        match work.job {
            Job::Whole | Job::Names => {
                batch.complete = Some(if unidentified { Presence::ChangesOnly } else { Presence::Everything });
                self.known = work.seen;
                let pause = presence_every(self.interval);
                self.next_scan = now + pause.max(now.duration_since(work.began) * SCAN_PAUSE_TIMES);
            }
            Job::Changes | Job::These => self.known.extend(work.seen),
        }
        match work.job {
            Job::Whole => {
                self.whole = false;
                self.these.clear();
            }
            Job::Names => self.these = work.elsewhere,
            Job::These => self.these.clear(),
            Job::Changes => {}
        }
        if matches!(work.job, Job::Whole | Job::Changes) {
            self.next_poll = now + self.interval;
            let reached = self.clock.at(work.began).map(|time| time.minus(OVERLAP));
            if reached > self.since {
                self.since = reached;
                batch.cursor = self.cursor();
            }
        }
    }

    fn cursor(&self) -> Option<Cursor> {
        Some(Cursor {
            source: SOURCE.into(),
            search: self.search.clone(),
            server: self.access.endpoint.url.clone(),
            position: self.since?.to_generalized_time().into_bytes(),
        })
    }

    fn listen_if_due(&mut self, now: Instant) {
        if !matches!(self.listening, Listening::From(at) if at <= now) {
            return;
        }
        let search = Search {
            base: self.base.clone(),
            scope: Scope::Subtree,
            filter: WIDEST_FILTER.into(),
            attributes: self.attributes.clone(),
            sync: None,
            page: None,
            persistent: true,
            controls: Vec::new(),
        };
        self.listening = Listening::On(Hearing::begin(self.access.clone(), search));
    }

    /// What the persistent search says. Its end is none of ours: asking goes on, and soon somebody listens again.
    fn told(&mut self, told: Result<Option<Vec<Heard>>, StreamError>) {
        let now = Instant::now();
        let heard = match told {
            Ok(Some(heard)) => heard,
            Ok(None) | Err(_) => {
                self.listening = Listening::From(now + LISTEN_AGAIN);
                // What was deleted while nobody listened.
                self.next_scan = self.next_scan.min(now + LISTEN_AGAIN + LISTEN_AGAIN);
                return;
            }
        };
        let mut batch = Batch::default();
        for heard in heard {
            match heard {
                Heard::Notice(entry, Notice::Deleted) => {
                    self.known.remove(&entry.key);
                    batch.changes.push(Change::Removed { key: entry.key, dn: Some(entry.dn) });
                }
                Heard::Notice(entry, Notice::Added | Notice::Modified | Notice::Renamed) => {
                    self.clock.read(&entry, now);
                    let place = hash(&entry.dn);
                    self.known.insert(entry.key, place);
                    if let Some(work) = &mut self.under_way {
                        work.seen.insert(entry.key, place);
                    }
                    batch.changes.push(Change::Entry(entry));
                }
                Heard::Unreadable(unreadable) => batch.changes.push(unreadable.into()),
                Heard::Entry(..) | Heard::Sync(_) | Heard::Done(_) => {}
            }
        }
        if !batch.changes.is_empty() {
            self.ready.push_back(batch);
        }
    }
}

fn compares(job: Job) -> Option<Comparison> {
    match job {
        Job::Whole => Some(Comparison::Whole),
        Job::Names => Some(Comparison::Names),
        Job::Changes | Job::These => None,
    }
}

fn hash(dn: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    dn.hash(&mut hasher);
    hasher.finish()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn heard(under_way: &mut Option<UnderWay>) -> Result<Vec<Heard>, SourceError> {
    match under_way {
        Some(work) => match work.hearing.next().await? {
            Some(heard) => Ok(heard),
            // Only after `Done`, with which it is no longer under way.
            None => Ok(Vec::new()),
        },
        None => std::future::pending().await,
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Results, StreamError>> + Send>>;

/// One search: the connection is being opened, or its results come in.
enum Hearing {
    Opening(Opening),
    Open(Results),
}

impl Hearing {
    fn begin(access: Access, search: Search) -> Hearing {
        Hearing::Opening(Box::pin(async move { Connection::open(&access).await?.search(&search) }))
    }

    /// Cancel-safe: what was begun goes on with the next call.
    async fn next(&mut self) -> Result<Option<Vec<Heard>>, StreamError> {
        loop {
            match self {
                Hearing::Opening(opening) => *self = Hearing::Open(opening.as_mut().await?),
                Hearing::Open(results) => return results.next().await,
            }
        }
    }
}

enum Listening {
    /// The server has no persistent searches.
    Off,
    From(Instant),
    On(Hearing),
}

impl Listening {
    async fn next(&mut self) -> Result<Option<Vec<Heard>>, StreamError> {
        match self {
            Listening::On(hearing) => hearing.next().await,
            Listening::From(at) => {
                tokio::time::sleep_until((*at).into()).await;
                // Begun by the caller, who sees that it is time.
                Ok(Some(Vec::new()))
            }
            Listening::Off => std::future::pending().await,
        }
    }
}

/// A lower bound of the server's clock.
#[derive(Clone, Copy, Default, Debug)]
struct ServerClock {
    /// It was at least this late there when it was this late here.
    bound: Option<(Timestamp, Instant)>,
}

impl ServerClock {
    fn read(&mut self, entry: &Entry, now: Instant) {
        for name in ["modifytimestamp", "createtimestamp"] {
            let stamp = entry.values(name).first().and_then(|value| std::str::from_utf8(value).ok());
            if let Some(stamp) = stamp.and_then(Timestamp::from_generalized_time)
                && stamp <= Timestamp::now().plus(AHEAD_MAX)
            {
                self.saw(stamp, now);
            }
        }
    }

    fn saw(&mut self, stamp: Timestamp, now: Instant) {
        if self.at(now).is_none_or(|known| known < stamp) {
            self.bound = Some((stamp, now));
        }
    }

    /// At least so late it was there when it was `instant` here.
    fn at(&self, instant: Instant) -> Option<Timestamp> {
        let (stamp, seen) = self.bound?;
        Some(match instant.checked_duration_since(seen) {
            Some(later) => stamp.plus(later),
            None => stamp.minus(seen.duration_since(instant)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_780_000_000_000);

    #[test]
    fn the_servers_clock_is_known_from_below_and_runs_on() {
        let now = Instant::now();
        let mut clock = ServerClock::default();
        assert_eq!(clock.at(now), None);
        clock.saw(START, now);
        let second = Duration::from_secs(1);
        assert_eq!(clock.at(now + second * 7), Some(START.plus(second * 7)));
        assert_eq!(clock.at(now.checked_sub(second).unwrap()), Some(START.minus(second)), "when the search began");
        clock.saw(START.minus(second), now + second * 7);
        assert_eq!(clock.at(now + second * 7), Some(START.plus(second * 7)), "an old entry says nothing new");
        clock.saw(START.plus(second * 9), now + second * 7);
        assert_eq!(clock.at(now + second * 7), Some(START.plus(second * 9)));
    }

    #[test]
    fn a_time_stamp_of_the_future_is_not_believed() {
        let entry = |stamp: Timestamp| Entry {
            key: UserKey([1; 16]),
            dn: "uid=x".into(),
            attributes: vec![("modifytimestamp".into(), vec![stamp.to_generalized_time().into_bytes()])],
        };
        let (mut clock, now) = (ServerClock::default(), Instant::now());
        clock.read(&entry(Timestamp::now().plus(Duration::from_secs(3600))), now);
        assert_eq!(clock.at(now), None);
        clock.read(&entry(Timestamp::now()), now);
        assert!(clock.at(now).is_some());
    }

    #[test]
    fn what_is_promised_names_its_intervals() {
        let five = Duration::from_secs(5);
        let polled = guarantees(five, false, "");
        assert_eq!((polled.deletes.as_str(), polled.latency.as_str()), ("within 60 s, by a presence scan", "5 s"));
        assert!(guarantees(five, true, ", and more").deletes.starts_with("at once; within 60 s"));
        assert!(guarantees(five, true, ", and more").deletes.ends_with(", and more"));
    }
}

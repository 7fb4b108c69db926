//! The worker as it runs: one thread owns the core, and everything comes to it. It reads the feed, asks DNS before it
//! decides, hands writes to the appliers and takes their results; results and news that come while a transaction is
//! written are taken together in the next.

use super::{Core, Input, Said, Settings, Sighting, UserChange};
use crate::directory::write_back::Writers;
use crate::error::Disposition;
use crate::feed::{Feed, FeedError, FeedKind, FeedRow, Page};
use crate::model::*;
use crate::poller::{Request, Seen};
use crate::probe::srv::SrvResolver;
use crate::store::StoreError;
use crate::store::enablement as db;
use crate::telemetry::lines;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Users taken from the feed in one transaction.
const PAGE: usize = 2048;
/// E-mail domains asked about at once.
const ASKED_AT_ONCE: usize = 64;
/// How long a transaction waits for DNS; who still has no answer waits alone.
const SRV_PATIENCE: Duration = Duration::from_secs(2);
/// How often wishes of the command line are looked for.
const WISH_POLL: Duration = Duration::from_millis(100);
/// In bulk, results are gathered this long: one commit for many. The directory's own commits wait for the same disk, and
/// each of ours costs it several.
const GATHER: Duration = Duration::from_millis(40);
/// After an error of the store.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// What the rest of the process tells the worker.
#[derive(Debug)]
pub enum News {
    Sighted(Sighting),
    Reload(Box<Settings>, oneshot::Sender<Result<(), StoreError>>),
}

/// What the worker shows of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Read up to here.
    pub cursor: Sequence,
    /// The log's end was reached, and nothing is left to do for now.
    pub quiet: bool,
    pub problems: u64,
    pub held: u64,
}

/// What the worker is given to work with.
pub struct Service {
    pub state_dir: PathBuf,
    pub core: Core,
    pub writers: Option<Writers>,
    pub writes_at_once: usize,
    pub resolver: SrvResolver,
    pub srv_prefix: String,
    /// Problems are tried again as often as the source compares everything.
    pub sweep_interval: Duration,
    pub news: mpsc::Receiver<News>,
    pub seen: watch::Receiver<Seen>,
    pub requests: mpsc::Sender<Request>,
    pub standing: watch::Sender<Standing>,
    pub stop: watch::Receiver<bool>,
    /// Grows with every turn of the loop: the watchdog looks at it.
    pub heartbeat: Arc<AtomicU64>,
    /// What the store refused last, while it does.
    pub trouble: Option<String>,
}

/// Things that came in and wait for the next transaction.
#[derive(Default)]
struct Pending {
    results: Vec<(UserKey, WriteResult)>,
    sightings: Vec<Sighting>,
    answers: Vec<SrvFact>,
    /// Settings changed: there are users to look at again.
    reloaded: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.results.is_empty() && self.sightings.is_empty() && self.answers.is_empty() && !self.reloaded
    }
}

impl Service {
    /// Runs until asked to stop. Called on a thread of its own: SQLite waits for the disk.
    pub fn run(mut self, runtime: &tokio::runtime::Handle) -> Result<(), StoreError> {
        let mut feed = loop {
            match Feed::open(&self.state_dir).and_then(|feed| feed.epoch().map(|_| feed)) {
                Ok(feed) => break feed,
                // The poller makes the file and its tables when it starts.
                Err(_) if !*self.stop.borrow() => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error),
            }
        };
        let mut pending = Pending::default();
        let mut ahead: Option<Page> = None;
        let mut asking: JoinSet<(String, Answered)> = JoinSet::new();
        let mut asked: BTreeSet<String> = BTreeSet::new();
        // A log from before: its carriers may stand anywhere in it. In a new one they come first.
        let mut adopt_up_to = if feed.carriers_complete()?.is_some() { Some(feed.head()?) } else { None };
        let mut busy = true;
        let mut next_at = None;
        let mut data_version = self.data_version();
        let mut purged_at = Timestamp::default();
        let mut problems_tried_at = Timestamp::now();
        loop {
            if *self.stop.borrow() {
                return Ok(());
            }
            self.heartbeat.fetch_add(1, Ordering::Relaxed);
            let now = Timestamp::now();
            let version = self.data_version();
            let wished = std::mem::replace(&mut data_version, version) != version;
            if now.since(purged_at) > Duration::from_secs(3600) {
                // What cannot be deleted now is deleted an hour later.
                if let Err(error) = db::purge_outcomes(self.core.db(), now, self.core.settings().retention) {
                    tracing::debug!(error = crate::error::chain(&error), "old outcomes stay");
                }
                purged_at = now;
            }

            let (changes, through, at_end) = match self.read(&mut feed, ahead.take()) {
                Ok(page) => page,
                Err(error) => {
                    self.stand_still(&error);
                    continue;
                }
            };
            self.ask_first(&changes, runtime, &mut pending, &asked, now);
            let due = next_at.is_some_and(|at: Timestamp| at <= now);
            if busy || wished || due || through.is_some() || !pending.is_empty() {
                let room = self.writes_at_once.saturating_sub(self.core.in_flight());
                let kept = (pending.results.clone(), pending.answers.clone(), pending.sightings.clone());
                pending.reloaded = false;
                let input = Input {
                    changes,
                    through,
                    results: std::mem::take(&mut pending.results),
                    answers: std::mem::take(&mut pending.answers),
                    sightings: std::mem::take(&mut pending.sightings),
                    room: if self.writers.is_some() { room } else { 0 },
                };
                // While a full page is decided and written, the next is read and parsed beside it.
                let (core, feed) = (&mut self.core, &mut feed);
                let stepped = match through.filter(|_| !at_end) {
                    Some(next) => std::thread::scope(|scope| {
                        let reading = scope.spawn(move || feed.after(next, PAGE).ok());
                        let stepped = core.step(input, now);
                        ahead = reading.join().ok().flatten();
                        stepped
                    }),
                    None => core.step(input, now),
                };
                match stepped {
                    Ok(step) => {
                        kept.0.iter().for_each(|(_, result)| crate::telemetry::count::write(result));
                        busy = step.busy || !at_end;
                        next_at = step.next_at;
                        for said in step.said {
                            say(said, now);
                        }
                        if let Some(writers) = &self.writers {
                            for write in step.writes {
                                // Room was counted, so this waits only while every connection is down.
                                let queue = if write.urgent { &writers.urgent } else { &writers.requests };
                                if queue.blocking_send(write).is_err() {
                                    return Ok(());
                                }
                            }
                        }
                        self.ask_later(step.ask, runtime, &mut asking, &mut asked);
                        if step.sweep {
                            let _ = self.requests.try_send(Request::Sweep);
                        }
                        for hash in step.approve {
                            let _ = self.requests.try_send(Request::Approve(hash));
                        }
                    }
                    Err(error) => {
                        (pending.results, pending.answers, pending.sightings) = kept;
                        busy = true;
                        self.stand_still(&error);
                        continue;
                    }
                }
                self.go_on();
            }
            match self.keep_house(&mut feed, &mut adopt_up_to, at_end && !busy, &mut problems_tried_at, now) {
                Ok(more) => busy |= more,
                Err(error) if error.disposition() == Disposition::Hold => return Err(error),
                Err(error) => {
                    busy = true;
                    self.stand_still(&error);
                    continue;
                }
            }
            let stale = self.stale_answers(now);
            self.ask_later(stale, runtime, &mut asking, &mut asked);
            self.show(at_end && !busy && pending.is_empty() && asked.is_empty(), now)?;
            if !busy {
                let wait = next_at.map_or(WISH_POLL, |at| at.since(Timestamp::now()).min(WISH_POLL));
                // A past `next_at` is a write that waits for room: its results wake us.
                let wait = if self.core.in_flight() > 0 { wait.max(Duration::from_millis(5)) } else { wait };
                runtime.block_on(self.wait(wait, &mut pending, &mut asking, &mut asked));
            }
            self.drain(&mut pending);
            if !pending.results.is_empty() {
                runtime.block_on(self.gather(&mut pending));
            }
        }
    }

    /// After an error of the store: waits, and says it once.
    fn stand_still(&mut self, error: &StoreError) {
        let text = crate::error::chain(error);
        if self.trouble.as_ref() != Some(&text) {
            match error {
                StoreError::DiskFull(_) => lines::disk_full(&self.state_dir.display().to_string()),
                _ => lines::loop_held("worker", &text, &error.hint().0),
            }
            self.trouble = Some(text);
        }
        std::thread::sleep(STORE_RETRY);
    }

    fn go_on(&mut self) {
        if self.trouble.take().is_some() {
            lines::loop_resumed("worker");
        }
    }

    /// What follows from how far the log was read, and from the time; whether there is more to do at once.
    fn keep_house(
        &mut self,
        feed: &mut Feed,
        adopt_up_to: &mut Option<Sequence>,
        idle: bool,
        problems_tried_at: &mut Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut more = false;
        if self.core.world().adopting && self.adoption_ends(feed, adopt_up_to)? {
            self.core.finish_adoption(now)?;
            more = true;
        }
        if idle && !more && self.core.must_compare()? && feed.everybody_read()? {
            self.core.compare_with_log(feed.epoch()?, now)?;
            more = true;
        }
        if now.since(*problems_tried_at) > self.sweep_interval {
            self.core.retry_problems()?;
            *problems_tried_at = now;
        }
        Ok(more)
    }

    fn data_version(&self) -> i64 {
        self.core.db().pragma_query_value(None, "data_version", |row| row.get(0)).unwrap_or(0)
    }

    /// The next page of the feed, as far as it is ours to read now.
    fn read(
        &mut self,
        feed: &mut Feed,
        ahead: Option<Page>,
    ) -> Result<(Vec<UserChange>, Option<Sequence>, bool), StoreError> {
        let cursor = self.core.cursor()?;
        let page = match ahead {
            Some(page) if page.from == cursor => Ok(page),
            _ => feed.after(cursor, PAGE),
        };
        match page {
            Ok(page) => {
                let moved = (page.cursor != cursor).then_some(page.cursor);
                Ok((page.rows.into_iter().map(change_of).collect(), moved, page.at_end))
            }
            Err(FeedError::CursorGone { why, .. }) => {
                lines::store_rebuilt("directory.db", why);
                self.core.restart_feed(feed.head()?)?;
                Ok((Vec::new(), None, false))
            }
            Err(FeedError::Store(error)) => Err(error),
        }
    }

    /// Adoption ends once everything that carries a value has been read: in a new log that is where the poller says, in
    /// one from before all that was in it when we began.
    fn adoption_ends(&self, feed: &mut Feed, up_to: &mut Option<Sequence>) -> Result<bool, StoreError> {
        if up_to.is_none() {
            *up_to = feed.carriers_complete()?;
        }
        let cursor = self.core.cursor()?;
        match up_to {
            // The log's end is not waited for: in a first pass it runs ahead, and everybody would be read twice. But who
            // was in the log then and changed since stands further on.
            Some(up_to) if cursor.seq >= up_to.seq => Ok(!feed.any_moved_past(cursor, up_to.seq)?),
            _ => Ok(false),
        }
    }

    /// Domains that nobody asked about yet are asked before deciding, so that a first pass does not wait user by user.
    fn ask_first(
        &self,
        changes: &[UserChange],
        runtime: &tokio::runtime::Handle,
        pending: &mut Pending,
        asked: &BTreeSet<String>,
        now: Timestamp,
    ) {
        let world = self.core.world();
        let mut domains = BTreeSet::new();
        let mut last: Option<String> = None;
        for change in changes.iter().filter(|change| change.presence == Presence::Present) {
            let Some(domain) = crate::decide::address::domain_to_ask(&change.record, &world.policy.names.mail) else {
                continue;
            };
            if last.as_deref() == Some(domain.as_str()) {
                continue;
            }
            let expired = world.srv.get(&domain).is_none_or(|fact| fact.expires_at <= now);
            if expired && !asked.contains(&domain) {
                domains.insert(domain.clone());
            }
            last = Some(domain);
        }
        if domains.is_empty() {
            return;
        }
        let mut asking = JoinSet::new();
        for domain in domains.into_iter().take(ASKED_AT_ONCE) {
            asking.spawn_on(ask(self.resolver.clone(), self.srv_prefix.clone(), domain), runtime);
        }
        runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + SRV_PATIENCE;
            while let Ok(Some(answered)) = tokio::time::timeout_at(deadline, asking.join_next()).await {
                if let Ok((domain, answered)) = answered {
                    pending.answers.push(self.learned(&domain, answered));
                }
            }
        });
    }

    fn learned(&self, domain: &str, answered: Answered) -> SrvFact {
        let known = self.core.world().srv.get(domain).cloned();
        learn(known, domain, answered, Timestamp::now(), self.core.settings().srv_confirm).0
    }

    fn ask_later(
        &self,
        domains: Vec<String>,
        runtime: &tokio::runtime::Handle,
        asking: &mut JoinSet<(String, Answered)>,
        asked: &mut BTreeSet<String>,
    ) {
        let now = Timestamp::now();
        for domain in domains {
            let known = self.core.world().srv.get(&domain).is_some_and(|fact| fact.expires_at > now);
            if !known && asked.len() < ASKED_AT_ONCE && asked.insert(domain.clone()) {
                asking.spawn_on(ask(self.resolver.clone(), self.srv_prefix.clone(), domain), runtime);
            }
        }
    }

    /// Answers that somebody waits for, or that must be watched: unknown, contradicted, or followed by given addresses.
    fn stale_answers(&self, now: Timestamp) -> Vec<String> {
        let world = self.core.world();
        let follows = world.policy.im.on_srv_change == OnChange::Migrate;
        let wanted = |fact: &&SrvFact| follows || fact.contradicted.is_some() || !fact.answer.is_certain();
        world
            .srv
            .values()
            .filter(|fact| fact.expires_at <= now)
            .filter(wanted)
            .map(|fact| fact.domain.clone())
            .collect()
    }

    fn show(&self, quiet: bool, now: Timestamp) -> Result<(), StoreError> {
        let shown = Standing {
            cursor: self.core.cursor()?,
            quiet: quiet && !self.core.world().adopting && !self.core.must_compare()? && self.core.is_quiet(now)?,
            problems: db::open_problem_count(self.core.db())?,
            held: db::held_count(self.core.db())?,
        };
        self.standing.send_if_modified(|known| {
            let changed = *known != shown;
            *known = shown;
            changed
        });
        Ok(())
    }

    /// Sleeps until something comes in.
    async fn wait(
        &mut self,
        at_most: Duration,
        pending: &mut Pending,
        asking: &mut JoinSet<(String, Answered)>,
        asked: &mut BTreeSet<String>,
    ) {
        let result = async {
            match &mut self.writers {
                Some(writers) => writers.results.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.stop.changed() => {}
            Some((write, result)) = result => pending.results.push((write.key, result)),
            Ok(()) = self.seen.changed() => {}
            Some(news) = self.news.recv() => self.take_news(news, pending),
            Some(Ok((domain, answered))) = asking.join_next(), if !asking.is_empty() => {
                asked.remove(&domain);
                let known = self.core.world().srv.get(&domain).cloned();
                let confirm = self.core.settings().srv_confirm;
                pending.answers.push(learn(known, &domain, answered, Timestamp::now(), confirm).0);
            }
            () = tokio::time::sleep(at_most) => {}
        }
    }

    /// While the appliers have enough to do, a few more results make one commit of many. What is new in the log ends
    /// that: it may be a new account, and then one commit takes both.
    async fn gather(&mut self, pending: &mut Pending) {
        let Some(writers) = &mut self.writers else { return };
        let deadline = tokio::time::sleep(GATHER);
        tokio::pin!(deadline);
        while self.core.in_flight().saturating_sub(pending.results.len()) > self.writes_at_once / 4 {
            tokio::select! {
                biased;
                Some((write, result)) = writers.results.recv() => pending.results.push((write.key, result)),
                Ok(()) = self.seen.changed() => return,
                () = &mut deadline => return,
            }
        }
    }

    fn drain(&mut self, pending: &mut Pending) {
        if let Some(writers) = &mut self.writers {
            while let Ok((write, result)) = writers.results.try_recv() {
                pending.results.push((write.key, result));
            }
        }
        while let Ok(news) = self.news.try_recv() {
            self.take_news(news, pending);
        }
    }

    fn take_news(&mut self, news: News, pending: &mut Pending) {
        match news {
            News::Sighted(sighting) => pending.sightings.push(sighting),
            News::Reload(settings, done) => {
                let _ = done.send(self.core.reload(*settings, Timestamp::now()));
                pending.reloaded = true;
            }
        }
    }
}

async fn ask(resolver: SrvResolver, prefix: String, domain: String) -> (String, Answered) {
    let answered = resolver.ask(&prefix, &domain).await;
    (domain, answered)
}

fn change_of(row: FeedRow) -> UserChange {
    UserChange {
        key: row.key,
        sequence: row.sequence,
        presence: match row.kind {
            FeedKind::Created | FeedKind::Updated | FeedKind::Renamed => Presence::Present,
            FeedKind::LeftScope => Presence::LeftScope,
            FeedKind::Deleted => Presence::Deleted,
        },
        record: row.record,
        text: Some(row.text),
        live: row.live,
        created: row.kind == FeedKind::Created,
        heard_at: row.heard_at,
    }
}

/// What a step said before the service runs.
pub fn say_all(said: Vec<Said>) {
    let now = Timestamp::now();
    said.into_iter().for_each(|said| say(said, now));
}

/// Every operator line is said here, after the commit of what it tells.
fn say(said: Said, now: Timestamp) {
    match said {
        Said::Outcome(outcome) => say_outcome(&outcome),
        Said::ProblemOpened { id, key, text, hint } => {
            lines::problem_opened(id, Some(key), &text, &hint.replace(" ID", &format!(" P{id}")));
        }
        Said::ProblemClosed { id, key } => lines::problem_closed(id, key),
        Said::Retrying { key, attempt, why, at } => lines::write_retried(key, attempt, &why, at.since(now)),
        Said::GuardHeld { releases, moves, address_changes, limit, hash } => {
            lines::guard_held(releases, moves, address_changes, limit, &hash);
        }
        Said::GuardApproved { count, hash, who } => lines::guard_approved(&hash, &who, count),
        Said::SrvChanged { domain, to } => lines::srv_known(&domain, &to),
        Said::SrvUnknown { domain, why } => lines::srv_unknown(&domain, &why),
        Said::SrvContradicted { domain, from, to, holds_at } => lines::srv_changed(&domain, &from, &to, holds_at),
        Said::Inherited { key, from } => lines::user_inherited(key, from),
        Said::HomeDown { home, why } => lines::home_down(&home, &why),
        Said::HomeUp { home } => lines::home_up(&home),
        Said::HomeAppeared { home, host, capacity } => lines::home_appeared(&home, &host, capacity),
        Said::HomeDisappeared { home, users } => lines::home_disappeared(&home, users),
        Said::HomeDoubted { text, hint } => lines::home_doubted(&text, &hint),
        Said::HomeFull { home, capacity } => lines::home_full(&home, capacity),
        Said::WishTaken { who, what, result } => lines::wish_taken(&who, &what, &result),
    }
}

fn say_outcome(outcome: &Outcome) {
    let key = outcome.key;
    let login = outcome.login.as_deref().unwrap_or("?");
    let why = outcome.why.as_deref().unwrap_or_default();
    match (outcome.kind, &outcome.assignment) {
        (OutcomeKind::Enabled, Some(assignment)) => {
            let url = outcome.im_url.as_deref().unwrap_or_default();
            lines::user_enabled(key, login, assignment, url, &outcome.todo.join("; "));
        }
        (OutcomeKind::Adopted, Some(assignment)) => lines::user_adopted(key, login, assignment),
        (OutcomeKind::Moved, Some(assignment)) => lines::user_moved(key, login, outcome.from.as_ref(), assignment),
        (OutcomeKind::Enabled | OutcomeKind::Adopted | OutcomeKind::Moved, None) => {}
        (OutcomeKind::Disabled, _) => lines::user_released(key, login, why),
        (OutcomeKind::PasswordResetRequired, _) => lines::user_reset_required(key, login),
        (OutcomeKind::Ready, _) => lines::user_ready(key, login),
        (OutcomeKind::Waiting, _) => lines::user_waiting(key, login, why),
        // Said by `problem.opened`, with its id and hint.
        (OutcomeKind::Problem, _) => {}
    }
}

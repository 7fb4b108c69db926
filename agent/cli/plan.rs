//! `plan`: reads the directory now, decides for everybody over a simulated fleet, and changes nothing anywhere.
//!
//! Who is in the store and was not seen is counted, never released: absence is no proof.

use super::context::{self, Context};
use super::print::{Progress, Table, bar, count, printable};
use super::{CliError, FINE, HELD, PROBLEMS};
use crate::decide::address::{Contest, contest};
use crate::decide::{self, World, guard, ownership};
use crate::directory::connect;
use crate::directory::flavour;
use crate::directory::lookup;
use crate::directory::source::{Batch, Change as Heard, scan::Scan};
use crate::directory::stream::Scope;
use crate::feed::{Feed, FeedRow};
use crate::intake::Intake;
use crate::model::*;
use crate::poller::world::{self, CONNECT_TIMEOUT};
use crate::probe::srv::SrvResolver;
use crate::probe::{load, servers};
use crate::store::enablement as db;
use crate::store::open::{self, Kind};
use crate::view::{self, ViewError, each_standing};
use crate::worker::Settings;
use rusqlite::Connection;
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Users read from the log in one go.
const ROWS_IN_ONE: usize = 1000;
/// Users named below each heading; `--json` names all.
const NAMED_MAX: usize = 20;

/// The plan; the fields are stable.
#[derive(Serialize)]
struct PlanView {
    users: u64,
    counts: Counts,
    homes: Vec<HomePlan>,
    guard: GuardView,
    /// Of the changes that the guard counts; null when there are none.
    hash: Option<String>,
    /// In the store with a place, and not seen in this reading.
    not_seen: u64,
    /// Entries that could not be read.
    unreadable: u64,
    /// One for each user who would change.
    changes: Vec<Planned>,
    waiting: Vec<Planned>,
    refused: Vec<Planned>,
}

#[derive(Serialize, Default)]
struct Counts {
    enable: u64,
    adopt: u64,
    keep: u64,
    #[serde(rename = "move")]
    moved: u64,
    release: u64,
    wait: u64,
    refuse: u64,
    reset_required: u64,
}

#[derive(Serialize)]
struct HomePlan {
    id: HomeId,
    capacity: u32,
    assigned_before: u32,
    assigned_after: u32,
}

#[derive(Serialize)]
struct GuardView {
    /// Changes that would be held; 0: all pass.
    held: u64,
    /// Releases, moves and address changes.
    releases: u64,
    /// So many may pass in one window.
    limit: u64,
}

#[derive(Serialize)]
struct Planned {
    key: UserKey,
    login: String,
    dn: String,
    change: &'static str,
    home: Option<HomeId>,
    from: Option<HomeId>,
    im_address: Option<String>,
    why: String,
}

/// Whom the directory showed.
struct Reading {
    /// One for each user, with the newest record.
    standings: Vec<Standing>,
    unreadable: u64,
}

pub fn plan(c: &mut Context, users: &[String]) -> Result<u8, CliError> {
    let view = context::block_on(make(c, users))?;
    if c.out.json {
        c.out.document(&view)?;
    } else {
        show(c, &view)?;
    }
    Ok(match (view.guard.held, view.counts.refuse) {
        (1.., _) => HELD,
        (0, 1..) => PROBLEMS,
        (0, 0) => FINE,
    })
}

async fn make(c: &Context, users: &[String]) -> Result<PlanView, CliError> {
    let directory = &c.config.directory;
    let (mut ldap, endpoint) = connect::connect(directory, CONNECT_TIMEOUT).await?;
    let root = flavour::root_dse(&mut ldap).await?;
    let (kind, _) = flavour::settle(directory.flavour, &root);
    let profile = flavour::profile(kind);
    let seen = world::World::read(&c.config, &profile, &endpoint, &mut ldap).await?;
    let settings = Settings::of(&c.config, &profile);
    let store = match c.enablement() {
        Err(ViewError::NoStore(_)) => open::scratch(Kind::Enablement)?,
        store => store?,
    };
    let mut world = crate::worker::read_world(&store, &settings, c.now)?;
    if settings.needs_servers() {
        let seen = servers::read(&mut ldap, &endpoint.url, &root, &c.config.homes).await?;
        world.fleet = crate::worker::read_fleet(&store, &settings, &seen, c.now)?;
    }
    look_at_homes(&mut world.fleet, c.now).await;
    // The poller's own log and rules, in a store that nobody keeps: whom the agent would see.
    let mut intake = Intake::scratch(seen.shape(), seen.groups.clone(), c.config.guard, c.now)?;
    if let Some(look) = &seen.storage {
        if let Some(feed) = c.feed()? {
            intake.remember(feed)?;
        }
        intake.look_at_storage(Some(look), c.now)?;
    }
    seen.groups_now(&mut ldap).await?.store(&mut intake, c.now)?;
    let mut unreadable = 0;
    let mut take = |changes| {
        unreadable += intake.take(Batch { changes, refresh: true, ..Batch::default() }, c.now)?.unreadable.len() as u64;
        Ok::<_, CliError>(())
    };
    let mut named = Vec::new();
    if users.is_empty() {
        let search = &seen.search;
        let mut scan =
            Scan::start(&seen.access, &search.base, Scope::Subtree, &search.filter, &search.attributes).await?;
        let mut progress = Progress::new("entries read");
        while let Some(batch) = scan.next().await? {
            progress.add(batch.len() as u64);
            take(batch)?;
        }
    } else {
        for text in users {
            let base = &directory.base;
            let names = seen.attributes();
            let found = lookup::find_user(&mut ldap, profile.key, base, c.login(), c.mail(), text, &names).await?;
            if found.len() > 1 {
                return Err(context::ambiguous(text, found.into_iter().map(|entry| (entry.key, entry.dn))).into());
            }
            let Some(entry) = found.into_iter().next() else { return Err(ViewError::NoSuchUser(text.clone()).into()) };
            named.push((text, entry.key));
            take(vec![Heard::Entry(entry)])?;
        }
    }
    let feed = Feed::of(intake);
    let mut standings = Vec::new();
    if users.is_empty() {
        let mut cursor = Sequence::default();
        loop {
            let page = feed.after(cursor, ROWS_IN_ONE)?;
            for row in page.rows {
                standings.push(standing_of(&store, row, c.now)?);
            }
            if page.at_end {
                break;
            }
            cursor = page.cursor;
        }
    } else {
        for (text, key) in named {
            let row = feed.by_key(&key)?;
            let row = row.ok_or_else(|| ViewError::NoSuchUser(format!("{text} (as a user in scope)")))?;
            standings.push(standing_of(&store, row, c.now)?);
        }
    }
    let reading = Reading { standings, unreadable };
    Simulation::new(c, &settings, &store, world)?.run(reading, users.is_empty()).await
}

/// Homes of which no running agent told lately are looked at here: what was not probed takes no newcomers.
async fn look_at_homes(fleet: &mut Fleet, now: Timestamp) {
    for state in &mut fleet.homes {
        if let (Some(probe), Health::Unknown) = (&state.home.probe, state.health) {
            let up = load::healthy(probe, load::TIMEOUT).await.is_ok();
            state.health = if up { Health::Up } else { Health::Down };
        }
        if let (Some(source), Online::Unknown | Online::Stale { .. }) = (&state.home.load, state.online)
            && let Ok(users) = load::online(source, load::TIMEOUT).await
        {
            state.online = Online::Sample { users, assigned: state.assigned, at: now };
        }
    }
}

/// What the store knows of the user with what the directory says now.
fn standing_of(store: &Connection, row: FeedRow, now: Timestamp) -> Result<Standing, CliError> {
    let known = db::standing(store, &row.key)?.map(|(_, standing)| standing);
    let mut standing = known.unwrap_or_else(|| {
        // Who is new is planned for as after `[im] mail_wait`: what will be is asked, not what is waited for.
        Standing { first_seen: Timestamp::default(), ..Standing::new(row.key, now) }
    });
    standing.record = row.record;
    standing.presence = Presence::Present;
    Ok(standing)
}

/// Decides for one after the other; places and addresses given away count for those who follow.
struct Simulation<'a> {
    c: &'a Context,
    settings: &'a Settings,
    store: &'a Connection,
    world: World,
    resolver: SrvResolver,
    asked: HashSet<String>,
    /// Addresses given in this plan.
    given: HashMap<String, UserKey>,
    seen: HashSet<UserKey>,
    guarded: Vec<(UserKey, String)>,
    view: PlanView,
}

impl<'a> Simulation<'a> {
    fn new(
        c: &'a Context,
        settings: &'a Settings,
        store: &'a Connection,
        world: World,
    ) -> Result<Simulation<'a>, CliError> {
        let home = |state: &HomeState| HomePlan {
            id: state.home.id.clone(),
            capacity: state.home.capacity,
            assigned_before: state.assigned,
            assigned_after: state.assigned,
        };
        let view = PlanView {
            users: 0,
            counts: Counts::default(),
            homes: world.fleet.homes.iter().map(home).collect(),
            guard: GuardView { held: 0, releases: 0, limit: 0 },
            hash: None,
            not_seen: 0,
            unreadable: 0,
            changes: Vec::new(),
            waiting: Vec::new(),
            refused: Vec::new(),
        };
        Ok(Simulation {
            c,
            settings,
            store,
            world,
            resolver: SrvResolver::new(&c.config.dns.servers)?,
            asked: HashSet::new(),
            given: HashMap::new(),
            seen: HashSet::new(),
            guarded: Vec::new(),
            view,
        })
    }

    /// `everybody`: the reading is of the whole directory.
    async fn run(mut self, reading: Reading, everybody: bool) -> Result<PlanView, CliError> {
        self.view.users = reading.standings.len() as u64;
        self.view.unreadable = reading.unreadable;
        let mut progress = Progress::new("users decided");
        // Who has a place or a value is settled first: a place given away before may be taken already.
        let mut later = Vec::new();
        for standing in reading.standings {
            self.seen.insert(standing.key);
            let carries = !ownership::found(&standing.record, &self.world.policy.names).is_empty();
            if standing.holds().is_none() && !carries {
                later.push(standing);
                continue;
            }
            let decision = self.decide(&standing).await?;
            if matches!(decision.wanted, Wanted::Enabled { change: Change::Moved | Change::Assigned, .. }) {
                later.push(standing);
            } else {
                self.take(&standing, decision)?;
                progress.add(1);
            }
        }
        for standing in later {
            let decision = self.decide(&standing).await?;
            self.take(&standing, decision)?;
            progress.add(1);
        }
        if everybody {
            let mut proven_gone = Vec::new();
            each_standing(self.store, |standing| {
                if standing.holds().is_some() && !self.seen.contains(&standing.key) {
                    match standing.presence {
                        Presence::Present => self.view.not_seen += 1,
                        Presence::LeftScope | Presence::Deleted => proven_gone.push(standing),
                    }
                }
                Ok::<_, CliError>(())
            })?;
            for standing in proven_gone {
                let decision = decide::decide(&standing, &self.world, self.c.now);
                self.take(&standing, decision)?;
            }
        }
        self.judge_guard()?;
        let fleet = &self.world.fleet;
        for home in &mut self.view.homes {
            home.assigned_after = fleet.get(&home.id).map_or(0, |state| state.assigned);
        }
        Ok(self.view)
    }

    /// Asks DNS where the store has no answer that still holds.
    async fn decide(&mut self, standing: &Standing) -> Result<Decision, CliError> {
        let now = self.c.now;
        let decision = decide::decide(standing, &self.world, now);
        let Some(domain) = decision.mail_domain.clone() else { return Ok(decision) };
        let known = self.world.srv.get(&domain);
        if known.is_some_and(|fact| fact.expires_at > now) || !self.asked.insert(domain.clone()) {
            return Ok(decision);
        }
        let answered = self.resolver.ask(&self.c.config.im.srv, &domain).await;
        let (fact, _) = learn(known.cloned(), &domain, answered, now, self.settings.srv_confirm);
        self.world.srv.insert(domain, fact);
        Ok(decide::decide(standing, &self.world, now))
    }

    /// An address goes to one user.
    fn refused_address(&self, standing: &Standing, address: &str) -> Result<Option<Refusal>, CliError> {
        let refusal = |holder: String| Some(Refusal::AddressTaken { address: address.to_owned(), holder });
        if let Some(other) = self.given.get(address).filter(|other| **other != standing.key) {
            return Ok(refusal(other.to_string()));
        }
        let Some((_, holder)) = db::standing_by_address(self.store, address)? else { return Ok(None) };
        if holder.key == standing.key {
            return Ok(None);
        }
        let policy = &self.world.policy;
        let carried = standing.record.text(&policy.names.address).is_some_and(|it| it.eq_ignore_ascii_case(address));
        Ok(match contest(&holder, standing, carried, policy.im.address_rest, self.c.now) {
            Contest::Taken => refusal(self.c.login_of(&holder)),
            Contest::Free | Contest::PassesOn => None,
        })
    }

    /// Counts a decision, and lets it count.
    fn take(&mut self, standing: &Standing, mut decision: Decision) -> Result<(), CliError> {
        if let Wanted::Enabled { assignment, .. } = &decision.wanted
            && let Some(why) = self.refused_address(standing, &assignment.address)?
        {
            decision.wanted = Wanted::Refused { why };
        }
        let held = standing.holds();
        if let Some(fingerprint) = guard::fingerprint(&decision.wanted, held)
            && standing.approved.as_ref() != Some(&fingerprint)
        {
            self.guarded.push((standing.key, fingerprint));
        }
        let before = held.map(|held| held.home.clone());
        let found = ownership::found(&standing.record, &self.world.policy.names);
        let counts = &mut self.view.counts;
        let (change, after) = match &decision.wanted {
            Wanted::Enabled { assignment, change, digest, .. } => {
                counts.reset_required += u64::from(*digest == DigestReadiness::ResetRequired);
                self.given.insert(assignment.address.clone(), standing.key);
                let same =
                    ownership::same_values(&found, &ownership::desired(assignment, &self.world), &self.world.fleet);
                let word = match change {
                    Change::Nothing if same => None,
                    // Reserved, but not in the directory: in observe mode, or on its way.
                    Change::Nothing if found.is_empty() => Some("enable"),
                    Change::Nothing => Some("write"),
                    Change::Assigned => Some("enable"),
                    Change::Adopted => Some("adopt"),
                    Change::Moved => Some("move"),
                    Change::Readdressed => Some("readdress"),
                };
                *match word {
                    None | Some("write") => &mut counts.keep,
                    Some("enable") => &mut counts.enable,
                    Some("adopt") => &mut counts.adopt,
                    Some(_) => &mut counts.moved,
                } += 1;
                (word, Some(assignment.home.clone()))
            }
            Wanted::Released { .. } => {
                counts.release += 1;
                (Some("release"), None)
            }
            Wanted::LeftAlone { .. } => (None, before.clone()),
            Wanted::Wait { .. } => {
                counts.wait += 1;
                (Some("wait"), before.clone())
            }
            Wanted::Refused { .. } => {
                counts.refuse += 1;
                (Some("refuse"), before.clone())
            }
        };
        if before != after {
            for (home, by) in [(&before, -1), (&after, 1)] {
                if let Some(state) = home.as_ref().and_then(|home| self.world.fleet.get_mut(home)) {
                    state.assigned = state.assigned.saturating_add_signed(by);
                }
            }
        }
        let Some(change) = change else { return Ok(()) };
        let assignment = match &decision.wanted {
            Wanted::Enabled { assignment, .. } => Some(assignment),
            _ => None,
        };
        let planned = Planned {
            key: standing.key,
            login: self.c.login_of(standing),
            dn: standing.record.dn.clone(),
            change,
            home: assignment.map(|assignment| assignment.home.clone()),
            from: before.filter(|from| assignment.is_none_or(|assignment| assignment.home != *from)),
            im_address: assignment.map(|assignment| assignment.address.clone()),
            why: view::user::conclusion(&decision.wanted, standing, &self.world),
        };
        match change {
            "wait" => self.view.waiting.push(planned),
            "refuse" => self.view.refused.push(planned),
            _ => self.view.changes.push(planned),
        }
        Ok(())
    }

    /// What the guard would say of all of it at once.
    fn judge_guard(&mut self) -> Result<(), CliError> {
        let limits = &self.settings.guard;
        let window = self.c.now.minus(limits.window);
        let enabled = db::enabled_count(self.store)?;
        let passed = db::passed_count(self.store, window)?;
        let held = db::held(self.store, true)?;
        let held_keys: HashSet<UserKey> = held.iter().map(|row| row.key).collect();
        let held_in_window = db::held_since(self.store, window)?;
        let wanting = self.guarded.iter().filter(|(key, _)| !held_keys.contains(key)).count() as u64;
        let passes = wanting == 0 || guard::lets_pass(limits, enabled, passed, held_in_window, wanting);
        let still_held = self.guarded.len() as u64 - wanting;
        self.view.guard = GuardView {
            held: still_held + if passes { 0 } else { wanting },
            releases: self.guarded.len() as u64,
            limit: guard::limit(limits, enabled),
        };
        if !self.guarded.is_empty() {
            let changes = self.guarded.iter().map(|(key, fingerprint)| (key, fingerprint.as_str()));
            self.view.hash = Some(guard::plan_hash(changes));
        }
        Ok(())
    }
}

fn show(c: &mut Context, view: &PlanView) -> Result<(), CliError> {
    let n = &view.counts;
    c.out.line(format_args!("{} read; nothing was changed", count(view.users, "user")))?;
    c.out.line(format_args!(
        "enable {}, adopt {}, keep {}, move {}, release {}, wait {}, refuse {}; {} for Digest",
        n.enable,
        n.adopt,
        n.keep,
        n.moved,
        n.release,
        n.wait,
        n.refuse,
        count(n.reset_required, "password reset")
    ))?;
    if view.not_seen > 0 {
        c.out.line(format_args!(
            "not seen: {} with a place; absence is no proof, so nobody is released for it",
            view.not_seen
        ))?;
    }
    if view.unreadable > 0 {
        c.out.line(format_args!("not readable: {}", count(view.unreadable, "thing")))?;
    }
    c.out.line("")?;
    let mut table = Table::new(["HOME", "LOAD", "BEFORE", "AFTER", "CAPACITY"]);
    for column in [2, 3, 4] {
        table.right(column);
    }
    for home in &view.homes {
        table.row([
            home.id.0.clone(),
            bar(u64::from(home.assigned_after), u64::from(home.capacity)),
            home.assigned_before.to_string(),
            home.assigned_after.to_string(),
            home.capacity.to_string(),
        ]);
    }
    table.show(&mut c.out)?;
    c.out.line("")?;
    let guard = &view.guard;
    let counted = format!("releases, moves and address changes: {}; {} may pass at once", guard.releases, guard.limit);
    match (&view.hash, guard.held) {
        (Some(hash), 1..) => {
            c.out.line(format_args!("guard: would hold {} ({counted}); plan {hash}", guard.held))?;
            c.out.line(format_args!("       once the agent holds it: homeward approve {hash}"))?;
        }
        (Some(hash), 0) => c.out.line(format_args!("guard: passes ({counted}); plan {hash}"))?,
        (None, _) => c.out.line("guard: nothing to hold")?,
    }
    let groups = [
        ("enable", &view.changes),
        ("adopt", &view.changes),
        ("write", &view.changes),
        ("move", &view.changes),
        ("readdress", &view.changes),
        ("release", &view.changes),
        ("wait", &view.waiting),
        ("refuse", &view.refused),
    ];
    for (change, all) in groups {
        let group: Vec<&Planned> = all.iter().filter(|planned| planned.change == change).collect();
        if group.is_empty() {
            continue;
        }
        c.out.line("")?;
        c.out.line(format_args!("{change} ({})", group.len()))?;
        for planned in group.iter().take(NAMED_MAX) {
            c.out.line(format_args!("  {:<16}  {}", printable(&planned.login), printable(&planned.why)))?;
        }
        if group.len() > NAMED_MAX {
            c.out.line(format_args!("  … and {} more: homeward plan --json", group.len() - NAMED_MAX))?;
        }
    }
    Ok(())
}

//! Every line that an operator may read, once, each a function. The message reads alone; the fields can be searched.
//!
//! `line` is noun and past verb. The same word names the same thing everywhere, the unit comes last (`duration_ms`).
//! A line about a user bears the key: `homeward user show KEY` tells the rest. DNs only at debug; no value of any
//! attribute but login and address; never anything secret. Errors ask for a person; a quiet directory says nothing.

use crate::config::Mode;
use crate::model::{Assignment, HomeId, Timestamp, UserKey};
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Failed attempts before this one are not told: directories are restarted.
const RETRIES_TOLD_FROM: u32 = 3;

/// What to type when the plan is right.
fn approve(plan_hash: &str) -> String {
    format!("homeward approve {plan_hash}")
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// The agent

pub fn agent_started(version: &str, mode: Mode, users: u64) {
    let mode = mode_word(mode);
    info!(line = "agent.started", version, mode, users, "homeward {version} started: mode {mode}, {users} users known");
}

/// Observe mode: nothing is written.
pub fn agent_observing(would: u64) {
    info!(
        line = "agent.observing",
        would, "observing: {would} users would be enabled; set mode = \"enforce\" in [agent] to do it"
    );
}

pub fn agent_stopped(why: &str) {
    info!(line = "agent.stopped", why, "stopped: {why}");
}

/// What changed, in words: "policy, homes".
pub fn agent_reloaded(changed: &str) {
    info!(line = "agent.reloaded", changed, "configuration reloaded; changed: {changed}");
}

/// The old configuration stays in force.
pub fn agent_reload_refused(error: &str) {
    error!(
        line = "agent.reload_refused",
        error,
        hint = "homeward check",
        "configuration not reloaded, the old one stays: {error}; check it: homeward check"
    );
}

/// A warning of the configuration.
pub fn config_doubted(finding: &str) {
    warn!(line = "config.doubted", finding, "configuration: {finding}");
}

// The console

pub fn console_started(url: &str) {
    info!(line = "console.started", url, "console at {url}");
}

/// The agent works without it.
pub fn console_refused(address: &str, error: &str, hint: &str) {
    warn!(line = "console.refused", address, error, hint, "no console at {address}: {error}; {hint}");
}

pub fn console_signed_in(who: &str, peer: &str) {
    info!(line = "console.signed_in", who, peer, "{who} signed in at the console from {peer}");
}

pub fn console_sign_in_refused(peer: &str) {
    warn!(line = "console.sign_in_refused", peer, "a sign-in at the console from {peer} was refused: unknown token");
}

// The source

pub fn source_connected(server: &str, kind: &str, why: &str) {
    info!(
        line = "source.connected",
        source.server = server,
        source.kind = kind,
        why,
        "connected to {server}; changes are heard by {kind}: {why}"
    );
}

pub fn source_lost(server: &str, error: &str, retry_in: Duration) {
    let retry_in_ms = ms(retry_in);
    warn!(
        line = "source.lost",
        source.server = server,
        error,
        retry_in_ms,
        "lost {server}: {error}; tried again in {retry_in:.1?}"
    );
}

pub fn source_refresh_started(why: &str) {
    info!(line = "source.refresh_started", why, "reading the whole directory: {why}");
}

/// Only where Digest rests on it.
pub fn source_storage_changed(storage: &str) {
    info!(
        line = "source.storage_changed",
        storage, "reversible storage of passwords: {storage}; users are looked at again"
    );
}

pub fn source_refresh_progress(seen: u64) {
    info!(line = "source.refresh_progress", seen, "reading the whole directory: {seen} entries so far");
}

pub fn source_refreshed(users: u64, changed: u64, took: Duration) {
    let duration_ms = ms(took);
    info!(
        line = "source.refreshed",
        users, changed, duration_ms, "read the whole directory: {users} users, {changed} changed, in {took:.1?}"
    );
}

/// More users are missing than the guard permits: nothing is stored of that, nobody is told.
pub fn source_suspect(missing: u64, limit: u64, plan_hash: &str) {
    let hint = approve(plan_hash);
    error!(
        line = "source.suspect",
        missing,
        limit,
        plan.hash = plan_hash,
        hint,
        "{missing} users are missing from the directory, more than {limit}: nobody is touched; if they really left: {hint}"
    );
}

pub fn source_suspect_ended(why: &str) {
    info!(line = "source.suspect_ended", why, "the missing users are no longer in doubt: {why}");
}

/// The next pass is a full one.
pub fn source_cursor_dropped(why: &str) {
    info!(
        line = "source.cursor_dropped",
        why, "the position in the directory's changes cannot be used ({why}); everything is read again"
    );
}

pub fn source_entry_unreadable(key: Option<UserKey>, error: &str) {
    let key = key.map_or_else(|| "unknown".into(), |key| key.to_string());
    warn!(
        line = "source.entry_unreadable",
        user.key = key,
        error,
        "an entry cannot be read (user {key}): {error}; the others go on"
    );
}

/// Rights, base or server are not as needed: tried again at the longest interval.
pub fn source_held(server: &str, error: &str, hint: &str) {
    error!(
        line = "source.held",
        source.server = server,
        error,
        hint,
        "{server} cannot be read until somebody acts: {error}; {hint}"
    );
}

pub fn batch_stored(changes: u64, took: Duration) {
    let duration_ms = ms(took);
    debug!(line = "batch.stored", changes, duration_ms, "stored {changes} changes in {took:.1?}");
}

// A user

/// The task summary of the manual procedure: the address is what the user logs on with. `to_do`: what is left for a person, or empty.
pub fn user_enabled(key: UserKey, login: &str, assignment: &Assignment, url: &str, to_do: &str) {
    let (address, home) = (assignment.address.as_str(), &assignment.home);
    let to_do = if to_do.is_empty() { "nothing" } else { to_do };
    info!(line = "user.enabled", user.key = %key, user.login = login, user.address = address, user.url = url, home.id = %home, to_do, "enabled {login} ({key}): Instant Messaging address {address}, URL {url}, home server {home}; still to do: {to_do}");
}

/// Found in the directory, and taken over; nothing was written.
pub fn user_adopted(key: UserKey, login: &str, assignment: &Assignment) {
    let (address, home) = (assignment.address.as_str(), &assignment.home);
    info!(line = "user.adopted", user.key = %key, user.login = login, user.address = address, home.id = %home, "took over {login} ({key}) as found: address {address}, home server {home}");
}

/// Another home server, or another address at the same one.
pub fn user_moved(key: UserKey, login: &str, from: Option<&HomeId>, assignment: &Assignment) {
    let (to, address) = (&assignment.home, assignment.address.as_str());
    let from = from.map_or_else(|| to.to_string(), HomeId::to_string);
    info!(line = "user.moved", user.key = %key, user.login = login, home.from = from, home.to = %to, user.address = address, "moved {login} ({key}) from home server {from} to {to}, address {address}");
}

pub fn user_released(key: UserKey, login: &str, why: &str) {
    info!(line = "user.released", user.key = %key, user.login = login, why, "released {login} ({key}): {why}");
}

pub fn user_reset_required(key: UserKey, login: &str) {
    warn!(line = "user.reset_required", user.key = %key, user.login = login, hint = "homeward resets", "{login} ({key}) cannot use Digest authentication until the password is changed; all of them: homeward resets");
}

pub fn user_ready(key: UserKey, login: &str) {
    info!(line = "user.ready", user.key = %key, user.login = login, "{login} ({key}) changed the password and can use Digest authentication");
}

pub fn user_waiting(key: UserKey, login: &str, on: &str) {
    info!(line = "user.waiting", user.key = %key, user.login = login, on, "{login} ({key}) {on}");
}

/// A reloaded directory has new keys: the reservation passes on.
pub fn user_inherited(key: UserKey, from: UserKey) {
    info!(line = "user.inherited", user.key = %key, user.key_from = %from, "{key} took the place and address over from {from}, which is gone");
}

// Problems

pub fn problem_opened(id: i64, key: Option<UserKey>, text: &str, hint: &str) {
    let key = key.map_or_else(|| "none".into(), |key| key.to_string());
    error!(
        line = "problem.opened",
        problem.id = id,
        user.key = key,
        text,
        hint,
        "problem P{id} (user {key}): {text}; {hint}"
    );
}

pub fn problem_closed(id: i64, key: UserKey) {
    info!(line = "problem.closed", problem.id = id, user.key = %key, "problem P{id} (user {key}) is closed");
}

// Writing back

/// Told from the third attempt on: the first two are everyday.
pub fn write_retried(key: UserKey, attempt: u32, error: &str, retry_in: Duration) {
    if attempt < RETRIES_TOLD_FROM {
        return;
    }
    let retry_in_ms = ms(retry_in);
    warn!(line = "write.retried", user.key = %key, attempt, error, retry_in_ms, "writing {key} back failed {attempt} times: {error}; tried again in {retry_in:.1?}");
}

// The guard

pub fn guard_held(releases: u64, moves: u64, address_changes: u64, limit: u64, plan_hash: &str) {
    let hint = approve(plan_hash);
    error!(
        line = "guard.held",
        releases,
        moves,
        address_changes,
        limit,
        plan.hash = plan_hash,
        hint,
        "held: {releases} releases, {moves} moves and {address_changes} address changes are more than {limit}; nobody is touched; if they are right: {hint}"
    );
}

pub fn guard_approved(plan_hash: &str, who: &str, users: u64) {
    info!(
        line = "guard.approved",
        plan.hash = plan_hash,
        who,
        users,
        "{who} approved the plan {plan_hash}: {users} users pass"
    );
}

// Home servers

pub fn home_full(home: &HomeId, capacity: u32) {
    warn!(line = "home.full", home.id = %home, capacity, "home server {home} is full: {capacity} users; newcomers go elsewhere, or wait");
}

pub fn home_down(home: &HomeId, error: &str) {
    warn!(line = "home.down", home.id = %home, error, "home server {home} does not answer: {error}; newcomers go elsewhere");
}

pub fn home_up(home: &HomeId) {
    info!(line = "home.up", home.id = %home, "home server {home} answers again");
}

/// A virtual server object that hosts users, found in the directory.
pub fn home_appeared(home: &HomeId, host: &str, capacity: u32) {
    info!(line = "home.appeared", home.id = %home, home.host = host, capacity, "home server {home} ({host}) is found in the directory: {capacity} users can live there");
}

/// Its virtual server object is not in the directory any more, or cannot be read.
pub fn home_disappeared(home: &HomeId, users: u32) {
    warn!(line = "home.disappeared", home.id = %home, users, hint = "homeward home list", "home server {home} is no longer found in the directory: nobody new is sent there; its {users} users stay until their entries say that it was deleted: homeward home list");
}

/// Something about a virtual server object that an operator should know.
pub fn home_doubted(text: &str, hint: &str) {
    warn!(line = "home.doubted", text, hint, "{text}; {hint}");
}

/// What is known of them stays.
pub fn homes_unknown(error: &str, hint: &str) {
    warn!(
        line = "homes.unknown",
        error, hint, "the home servers cannot be read from the directory: {error}; those known stay; {hint}"
    );
}

// DNS

/// Users of the domain wait; nobody gets an address for it.
pub fn srv_unknown(domain: &str, why: &str) {
    warn!(
        line = "srv.unknown",
        srv.domain = domain,
        why,
        "the SRV record of {domain} is not known: {why}; users without an address wait"
    );
}

pub fn srv_known(domain: &str, to: &str) {
    info!(line = "srv.known", srv.domain = domain, srv.to = to, "the SRV record of {domain} is known again: {to}");
}

pub fn srv_changed(domain: &str, from: &str, to: &str, holds_at: Timestamp) {
    warn!(line = "srv.changed", srv.domain = domain, srv.from = from, srv.to = to, holds_at = %holds_at, "the SRV answer for {domain} changed from {from} to {to}; it is believed if it still holds at {holds_at}");
}

// The store and the machine

pub fn store_lagging(behind: u64, oldest: Duration) {
    let lag_ms = ms(oldest);
    warn!(line = "store.lagging", behind, lag_ms, "{behind} changes wait to be decided, the oldest for {oldest:.0?}");
}

pub fn store_rebuilt(store: &str, why: &str) {
    warn!(line = "store.rebuilt", store, why, "the store {store} begins anew: {why}");
}

pub fn disk_full(folder: &str) {
    error!(
        line = "disk.full",
        folder,
        hint = "df -h",
        "the disk that holds {folder} is full: nothing is decided until there is room (df -h); then it goes on by itself"
    );
}

pub fn clock_backwards(by: Duration) {
    let by_ms = ms(by);
    warn!(
        line = "clock.backwards",
        by_ms, "the clock went back by {by:.1?}; what is to happen at a certain time happens that much later"
    );
}

// Operators and loops

/// A verb of the command line was taken.
pub fn wish_taken(who: &str, what: &str, result: &str) {
    info!(line = "wish.taken", who, what, result, "{who} asked to {what}: {result}");
}

pub fn loop_held(name: &str, error: &str, hint: &str) {
    error!(line = "loop.held", loop.name = name, error, hint, "{name} stands still: {error}; {hint}");
}

pub fn loop_resumed(name: &str) {
    info!(line = "loop.resumed", loop.name = name, "{name} goes on");
}

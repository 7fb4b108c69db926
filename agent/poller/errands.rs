//! What servers do not tell is looked up: who is missing, who lives below a container that moved, whose `memberOf`
//! changed. On a connection of its own, beside the stream. What is left to do stands in the store, so that nothing is
//! forgotten; what fails is tried again. It concludes only what was proven: lost read rights are never deletes.

use super::keeper::Keeper;
use super::session::{Ended, Fault, take_quietly};
use super::world::{self, World};
use crate::config::Directory;
use crate::directory::lookup;
use crate::directory::source::scan::Scan;
use crate::directory::source::syncrepl::WIDEST_FILTER;
use crate::directory::source::{Batch, Change};
use crate::directory::stream::{self, Scope, StreamError};
use crate::error::{Disposition, chain};
use crate::intake::{Missing, Verdict};
use crate::model::{Timestamp, UserKey, Value, normalized_dn};
use crate::retry::Backoff;
use crate::store::directory::{MovedRow, RereadRow};
use crate::telemetry::lines;
use ldap3::Ldap;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// What the log calls this.
const LOOP: &str = "looking up users in the directory";
/// Members read again in one go.
const REREADS_IN_ONE: usize = 500;
/// The overlay writes `memberOf` after the group, one user after another: until then the old one is read.
const REREAD_PAUSE: Duration = Duration::from_millis(100);
/// A server may have its reasons to disagree with its own group.
const REREAD_PATIENCE: Duration = Duration::from_secs(20);
/// Looked up at once of those who are suspect.
const SUSPECTS_IN_ONE: usize = 50;
const BEFORE_ALL: UserKey = UserKey([0; 16]);
/// The server named a removal, but the container cannot be read: it may be about to be named too.
const CONTAINER_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Errands<'a> {
    world: &'a World,
    directory: &'a Directory,
    keeper: &'a Keeper,
    ldap: Option<Ldap>,
    backoff: Backoff,
    /// Named as removed from a container that cannot be read.
    postponed: HashSet<UserKey>,
    /// Since when a member's `memberOf` has been read and was not as the group says.
    disagreeing: HashMap<String, Instant>,
    look: Option<Look>,
}

/// The next look at those of a suspicion. It asks about a few of them, others each time, and after longer and longer.
struct Look {
    /// Of the suspicion.
    hash: String,
    at: Instant,
    /// The last of those who were looked up.
    after: UserKey,
    delays: Backoff,
}

/// What is left after a round.
enum Left {
    Nothing,
    More,
    /// Something that has to wait so long.
    After(Duration),
}

impl<'a> Errands<'a> {
    pub fn new(world: &'a World, directory: &'a Directory, keeper: &'a Keeper, ldap: Ldap) -> Errands<'a> {
        Errands {
            world,
            directory,
            keeper,
            ldap: Some(ldap),
            backoff: Backoff::connection(),
            postponed: HashSet::new(),
            disagreeing: HashMap::new(),
            look: None,
        }
    }

    /// The connection for lookups; opened again where it was lost.
    pub async fn ldap(&mut self) -> Result<&mut Ldap, Fault> {
        let open = match self.ldap.take() {
            Some(ldap) => ldap,
            None => world::connect(self.directory, &self.world.access.endpoint).await?,
        };
        Ok(self.ldap.insert(open))
    }

    /// What an earlier run left, as far as it goes now.
    pub async fn all_at_start(&mut self) -> Result<(), Fault> {
        loop {
            match self.round().await {
                Ok(Left::More) => {}
                // What has to wait is done beside the stream.
                Ok(Left::Nothing | Left::After(_)) => return Ok(()),
                Err(fault @ (Fault::Store(_) | Fault::Gone(_))) => return Err(fault),
                Err(fault) => {
                    tracing::debug!(error = chain(&fault), "a lookup failed; tried again");
                    self.ldap = None;
                    return Ok(());
                }
            }
        }
    }

    /// Ends by a fault of the store, or when the directory is to be compared anew because somebody of a suspicion can be
    /// read again: rights that come back are no change that a server tells.
    pub async fn run(&mut self) -> Result<Ended, Fault> {
        let mut idle_before = true;
        let mut held = false;
        loop {
            let pause = match self.round().await {
                Ok(left) => {
                    self.backoff.reset();
                    if std::mem::take(&mut held) {
                        lines::loop_resumed(LOOP);
                    }
                    match left {
                        Left::More => Some(Duration::ZERO),
                        Left::After(pause) => Some(pause),
                        Left::Nothing => None,
                    }
                }
                Err(fault @ (Fault::Store(_) | Fault::Gone(_))) => return Err(fault),
                Err(fault) => {
                    tracing::debug!(error = chain(&fault), "a lookup failed; tried again");
                    if fault.disposition() == Disposition::Hold && !std::mem::replace(&mut held, true) {
                        lines::loop_held(LOOP, &chain(&fault), &fault.hint().0);
                    }
                    self.ldap = None;
                    // A connection that was idle for long may have been closed: the first failure says little.
                    let pause = if idle_before { Duration::ZERO } else { self.backoff.next_delay() };
                    idle_before = false;
                    Some(pause)
                }
            };
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    let look_at = self.next_look().await?;
                    let looked = tokio::select! {
                        () = self.keeper.errands.notified() => false,
                        () = super::session::at(look_at) => true,
                    };
                    idle_before = true;
                    if looked && self.seen_again().await? {
                        return Ok(Ended::SweepDue("users who were missing can be read again"));
                    }
                }
            }
        }
    }

    /// When to look again at those who are suspect; `None`: nobody is.
    async fn next_look(&mut self) -> Result<Option<Instant>, Fault> {
        let hash = self.keeper.with(|intake| intake.suspect().map(|suspect| suspect.hash.clone())).await?;
        let Some(hash) = hash else {
            self.look = None;
            return Ok(None);
        };
        if self.look.as_ref().is_none_or(|look| look.hash != hash) {
            let mut delays = Backoff::suspicion();
            let at = Instant::now() + delays.next_delay();
            self.look = Some(Look { hash, at, after: BEFORE_ALL, delays });
        }
        Ok(self.look.as_ref().map(|look| look.at))
    }

    /// Looks some of them up, and says whether one is where we look. A failure says nothing, and the next look follows.
    async fn seen_again(&mut self) -> Result<bool, Fault> {
        let Some(look) = &mut self.look else { return Ok(false) };
        look.at = Instant::now() + look.delays.next_delay();
        let after = look.after;
        let suspects = self.keeper.with(move |intake| intake.suspects(after, SUSPECTS_IN_ONE)).await??;
        // From the beginning again, after the last.
        look.after = suspects.last().copied().filter(|_| suspects.len() == SUSPECTS_IN_ONE).unwrap_or(BEFORE_ALL);
        if suspects.is_empty() {
            return Ok(false);
        }
        let (base, by) = (&self.world.search.base, self.world.access.key);
        let found = match self.ldap().await {
            Ok(ldap) => lookup::by_keys(ldap, by, base, &suspects, &["1.1"]).await.map_err(Fault::from),
            Err(fault) => Err(fault),
        };
        match found {
            Ok(found) => Ok(!found.is_empty()),
            Err(fault @ (Fault::Store(_) | Fault::Gone(_))) => Err(fault),
            Err(fault) => {
                tracing::debug!(error = chain(&fault), "looking for the missing failed; tried again");
                self.ldap = None;
                Ok(false)
            }
        }
    }

    async fn round(&mut self) -> Result<Left, Fault> {
        let moved = self.keeper.with(|intake| intake.moved()).await??;
        if let (Some(first), Some(last)) = (moved.first(), moved.last()) {
            self.read_moved(first, last.id).await?;
            return Ok(Left::More);
        }
        let missing = self.keeper.with(|intake| intake.unproven()).await??;
        let postponed = if missing.is_empty() { false } else { self.prove(missing).await? };
        let rereads = self.keeper.with(|intake| intake.rereads(REREADS_IN_ONE)).await??;
        if rereads.is_empty() {
            self.disagreeing.clear();
        } else {
            return self.read_again(rereads).await;
        }
        Ok(if postponed { Left::After(CONTAINER_PAUSE) } else { Left::Nothing })
    }

    /// A container moved, came or went: the users at its new place are read, those at the old one doubted.
    async fn read_moved(&mut self, moved: &MovedRow, known: i64) -> Result<(), Fault> {
        if let Some(new_dn) = moved.new_dn.as_deref().filter(|dn| self.world.contains(dn)) {
            self.read_below(new_dn).await?;
        }
        let same = |new: &String| moved.old_dn.as_ref().is_some_and(|old| normalized_dn(old) == normalized_dn(new));
        let old_dn = moved.old_dn.clone().filter(|_| !moved.new_dn.as_ref().is_some_and(same));
        let moved = moved.clone();
        self.keeper
            .with(move |intake| {
                if let Some(old_dn) = old_dn {
                    intake.doubt_below(&old_dn, Timestamp::now())?;
                }
                intake.moved_done(&moved, known, Timestamp::now())
            })
            .await??;
        Ok(())
    }

    async fn read_below(&mut self, dn: &str) -> Result<(), Fault> {
        let search = &self.world.search;
        let mut scan = Scan::start(&self.world.access, dn, Scope::Subtree, WIDEST_FILTER, &search.attributes).await?;
        loop {
            match scan.next().await {
                Ok(Some(changes)) => take_quietly(self.keeper, changes).await?,
                Ok(None) => return Ok(()),
                // Gone again meanwhile, or not for our eyes: then there is nothing to read.
                Err(StreamError::Refused { code: stream::NO_SUCH_OBJECT | stream::INSUFFICIENT_ACCESS, .. }) => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks the missing up; true if some have to wait.
    async fn prove(&mut self, missing: Vec<Missing>) -> Result<bool, Fault> {
        let world = self.world;
        let ldap = self.ldap().await?;
        let sees_outside = lookup::sees_outside(ldap, &world.search.base, &world.naming_context).await?;
        let place = if sees_outside { &world.naming_context } else { &world.search.base };
        let keys: Vec<UserKey> = missing.iter().map(|missing| missing.key).collect();
        let found = lookup::by_keys(ldap, world.access.key, place, &keys, &world.attributes()).await?;
        let mut found: HashMap<UserKey, _> = found.into_iter().map(|entry| (entry.key, entry)).collect();
        let own_entry_lost = match &world.own_entry {
            Some(dn) if found.len() < keys.len() => !lookup::readable(ldap, dn).await?,
            _ => false,
        };
        let known = self.keeper.with(|intake| intake.containers()).await??;
        let mut readable = HashMap::new();
        let mut verdicts = Vec::new();
        let mut still_postponed = HashSet::new();
        for missing in missing {
            let verdict = match found.remove(&missing.key) {
                Some(entry) if world.contains(&entry.dn) => Verdict::StillThere(entry),
                Some(_) => Verdict::LeftScope,
                None => {
                    let container = parent(&missing.dn);
                    // Of one that the server named, its container may have been named too: then that proves nothing.
                    let in_sight = if missing.named && !known.contains(&normalized_dn(container)) {
                        true
                    } else if let Some(known) = readable.get(container) {
                        *known
                    } else {
                        let answer = lookup::readable(self.ldap().await?, container).await?;
                        readable.insert(container.to_owned(), answer);
                        answer
                    };
                    match (in_sight && !own_entry_lost, missing.named) {
                        (true, _) if sees_outside => Verdict::Deleted,
                        (true, _) => Verdict::LeftScope,
                        (false, true) if !self.postponed.contains(&missing.key) => {
                            still_postponed.insert(missing.key);
                            continue;
                        }
                        (false, _) => Verdict::OutOfSight,
                    }
                }
            };
            verdicts.push((missing.key, verdict));
        }
        self.postponed = still_postponed;
        self.keeper.with(move |intake| intake.conclude(verdicts, Timestamp::now())).await??;
        Ok(!self.postponed.is_empty())
    }

    /// Reads members of groups again, until their `memberOf` says what the group says.
    async fn read_again(&mut self, rows: Vec<RereadRow>) -> Result<Left, Fault> {
        let mut members: BTreeMap<String, Vec<RereadRow>> = BTreeMap::new();
        for row in rows {
            members.entry(row.member_dn.clone()).or_default().push(row);
        }
        let (mut changes, mut done, mut disagree) = (Vec::new(), Vec::new(), false);
        for (dn, rows) in members {
            let (attributes, by) = (self.world.attributes(), self.world.access.key);
            let entry = lookup::by_dn(self.ldap().await?, by, &dn, &attributes).await?;
            let groups: HashSet<String> = entry
                .iter()
                .flat_map(|entry| entry.values("memberof"))
                .filter_map(|value| Value::from_bytes(value).as_text().map(normalized_dn))
                .collect();
            // Of others the `memberOf` is not what is wanted.
            let named = |row: &&RereadRow| self.world.groups.named.contains_key(&row.group_dn);
            let agrees =
                entry.is_none() || rows.iter().filter(named).all(|row| groups.contains(&row.group_dn) == row.is_member);
            changes.extend(entry.map(Change::Entry));
            if agrees || self.disagreeing.entry(dn.clone()).or_insert_with(Instant::now).elapsed() > REREAD_PATIENCE {
                self.disagreeing.remove(&dn);
                done.extend(rows);
            } else {
                disagree = true;
            }
        }
        self.keeper
            .with(move |intake| {
                intake.take(Batch { changes, ..Batch::default() }, Timestamp::now())?;
                intake.rereads_done(&done, Timestamp::now())
            })
            .await??;
        Ok(if disagree { Left::After(REREAD_PAUSE) } else { Left::More })
    }
}

/// The DN above, as the server writes it; empty at the top.
fn parent(dn: &str) -> &str {
    let mut escaped = false;
    for (at, c) in dn.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => return dn.get(at + 1..).unwrap_or_default().trim_start(),
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::parent;

    #[test]
    fn the_parent_of_a_dn_is_what_follows_its_first_bare_comma() {
        for (dn, above) in [
            ("uid=ann,ou=people,dc=x", "ou=people,dc=x"),
            ("cn=Ann\\, Dr.,ou=people,dc=x", "ou=people,dc=x"),
            ("cn=ann\\\\, ou=people", "ou=people"),
            ("dc=x", ""),
            ("", ""),
        ] {
            assert_eq!(parent(dn), above, "{dn}");
        }
    }
}

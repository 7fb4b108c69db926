//! `homeward;reversible`: since when, at the latest, reversible storage has been in force for a user. Computed with each
//! entry that is taken in, from what is known of the domain, what the entry says, and what was known of this user before;
//! and for everybody, in chunks, when the domain's policy changes. Only where Digest is required on Active Directory.
//!
//! Its first value is the answer. The others are what cannot be read again later, this user's first sights:
//!
//! | value | says |
//! |---|---|
//! | `flag 2026-01-31T11:59:59.000Z` | the account's flag has been on since then, at the latest |
//! | `flag unknown` | `userAccountControl` cannot be read |
//! | `policy 2026-01-31T11:59:59.000Z cn=digest,…` | this fine-grained policy has applied to the user since then, at the latest |
//! | `policy 2026-01-31T11:59:59.000Z` | since then none has applied to the user any more |

use super::{Intake, Work, to_json};
use crate::decide::digest::{REVERSIBLE, Reversible, Setting, StorageRule};
use crate::directory::reversible::{Account, Known, Look};
use crate::feed::{Feed, FeedKind};
use crate::model::{Timestamp, UserKey, UserRecord, Value};
use crate::store::StoreError;
use crate::store::directory::{self as sql, meta};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Users looked at again in one transaction.
const USERS_IN_ONE: usize = 1_000;

/// Known of the domain, and how far its clock is ahead of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Storage {
    pub known: Known,
    pub ahead: Duration,
}

/// What a look at the domain brought.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StorageNews {
    /// What is on and off now, in words, where that is another than before.
    pub changed: Option<String>,
    /// Users are to be looked at again: `recompute` until it says that nobody is left.
    pub due: bool,
    /// The fine-grained policies are others than those by which everybody was last read, or apply to others.
    pub unswept: bool,
}

/// Whom the change of a policy has not reached yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Due {
    after: i64,
    until: i64,
}

impl Intake {
    /// Goes on from the first sights in another log: of the domain, and of each user. For a scratch log.
    pub fn remember(&mut self, elder: Feed) -> Result<(), StoreError> {
        if let Some(known) = elder.storage()? {
            sql::set_meta(&self.connection, meta::STORAGE, &to_json(&known)?)?;
        }
        self.elder = Some(elder);
        Ok(())
    }

    /// What the domain says of reversible storage; `None`: nobody wants to know. Taken in before the entries that rest on it.
    pub fn look_at_storage(&mut self, look: Option<&Look>, now: Timestamp) -> Result<StorageNews, StoreError> {
        let Some(look) = look else {
            if self.storage.take().is_some() || sql::meta(&self.connection, meta::STORAGE)?.is_some() {
                self.transaction(true, now, |work| {
                    // What nobody looks at may change unseen: another time it begins anew.
                    [meta::STORAGE, meta::STORAGE_DUE, meta::STORAGE_SWEPT]
                        .into_iter()
                        .try_for_each(|name| sql::remove_meta(&work.tx, name))
                })?;
            }
            return Ok(StorageNews::default());
        };
        let before: Option<Known> = sql::meta_json(&self.connection, meta::STORAGE)?;
        let known = Known::after(before.as_ref(), look, now);
        let until = self.state.head;
        if before.as_ref() != Some(&known) {
            let json = to_json(&known)?;
            self.transaction(true, now, |work| {
                sql::set_meta(&work.tx, meta::STORAGE, &json)?;
                sql::set_meta(&work.tx, meta::STORAGE_DUE, &to_json(&Due { after: 0, until })?)
            })?;
        }
        let changed = Some(known.to_string()).filter(|words| before.is_none_or(|before| before.to_string() != *words));
        self.storage = Some(Storage { known, ahead: look.ahead });
        Ok(StorageNews {
            changed,
            due: sql::meta(&self.connection, meta::STORAGE_DUE)?.is_some(),
            unswept: sql::meta(&self.connection, meta::STORAGE_SWEPT)?.as_deref() != Some(&look.order),
        })
    }

    /// Looks at some users again, after the policy changed. False: nobody is left.
    pub fn recompute(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        let Some(due) = sql::meta_json::<Due>(&self.connection, meta::STORAGE_DUE)? else { return Ok(false) };
        let mut more = false;
        self.transaction(true, now, |work| {
            let rows = sql::entries_after(&work.tx, due.after, USERS_IN_ONE)?;
            let last = rows.last().map(|row| row.seq);
            for row in rows.into_iter().filter(|row| row.seq <= due.until && row.gone_seq == 0) {
                work.recompute(row.seq, row.user_record()?)?;
            }
            match last.filter(|last| *last < due.until) {
                Some(after) => {
                    more = true;
                    sql::set_meta(&work.tx, meta::STORAGE_DUE, &to_json(&Due { after, ..due })?)
                }
                None => sql::remove_meta(&work.tx, meta::STORAGE_DUE),
            }
        })?;
        Ok(more)
    }
}

impl Work<'_> {
    pub(super) fn add_storage(
        &self,
        key: &UserKey,
        record: &mut UserRecord,
        account: &Account,
    ) -> Result<(), StoreError> {
        let Some(storage) = self.storage else { return Ok(()) };
        let stored = sql::entry_by_key(&self.tx, key)?.filter(|row| row.gone_seq == 0);
        let before = match (stored, self.elder) {
            (Some(row), _) => Some(row.user_record()?),
            (None, Some(elder)) => {
                let row = elder.by_key(key)?.filter(|row| !matches!(row.kind, FeedKind::LeftScope | FeedKind::Deleted));
                row.map(|row| row.record)
            }
            (None, None) => None,
        };
        let parts = Parts::after(before.as_ref().map(Parts::of).as_ref(), account, self.now.plus(storage.ahead));
        parts.store(record, &storage.known);
        Ok(())
    }

    /// Everybody was read while these policies were in force.
    pub(super) fn storage_swept(&self) -> Result<(), StoreError> {
        match self.storage {
            Some(storage) => sql::set_meta(&self.tx, meta::STORAGE_SWEPT, &storage.known.order),
            None => Ok(()),
        }
    }

    fn recompute(&mut self, old_seq: i64, mut record: UserRecord) -> Result<(), StoreError> {
        let Some(storage) = self.storage else { return Ok(()) };
        // Without it the entry was never read for this.
        if record.values(REVERSIBLE).is_empty() {
            return Ok(());
        }
        Parts::of(&record).store(&mut record, &storage.known);
        let json = to_json(&record)?;
        if let Some(seq) = self.rewrite(old_seq, &record, &json)? {
            self.taken.changed += 1;
            self.sightings.push(super::Sighting::Moved(old_seq, seq));
        }
        Ok(())
    }
}

/// What is known of one user.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Parts {
    flag: Setting,
    policy: Option<Policy>,
}

/// Which fine-grained policy applies, and since when, at the latest. Nothing of the kind: none ever did that we know of.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Policy {
    since: Timestamp,
    /// Normalized DN; `None`: none any more.
    dn: Option<String>,
}

impl Parts {
    fn after(before: Option<&Parts>, account: &Account, now: Timestamp) -> Parts {
        let flag = Setting::seen(before.map(|parts| parts.flag), account.flag, account.flag_changed, now);
        let policy = match (before.and_then(|parts| parts.policy.clone()), account.pso.clone()) {
            (None, None) => None,
            (Some(policy), dn) if policy.dn == dn => Some(policy),
            (_, dn) => Some(Policy { since: now, dn }),
        };
        Parts { flag, policy }
    }

    fn of(record: &UserRecord) -> Parts {
        let mut parts = Parts { flag: Setting::Off, policy: None };
        for text in record.values(REVERSIBLE).iter().filter_map(Value::as_text) {
            match text.split_once(' ') {
                Some(("flag", since)) => {
                    parts.flag = Timestamp::from_rfc3339(since).map_or(Setting::Unknown, Setting::OnSince);
                }
                Some(("policy", rest)) => {
                    let (since, dn) = rest.split_once(' ').map_or((rest, None), |(since, dn)| (since, Some(dn.into())));
                    parts.policy = Timestamp::from_rfc3339(since).map(|since| Policy { since, dn });
                }
                Some(_) | None => {}
            }
        }
        parts
    }

    fn combine(&self, known: &Known) -> Reversible {
        let (mut domain, mut fine_grained) = (known.domain, None);
        match &self.policy {
            Some(Policy { since, dn: Some(dn) }) => fine_grained = Some(known.of_pso(dn).from(*since)),
            Some(Policy { since, dn: None }) => match known.rule {
                // The domain's setting did not count while another replaced it.
                StorageRule::Both => domain = domain.from(*since),
                StorageRule::Any => {}
            },
            None => {}
        }
        Reversible::combine(known.rule, domain, fine_grained, self.flag)
    }

    fn store(&self, record: &mut UserRecord, known: &Known) {
        let mut values = vec![self.combine(known).to_string()];
        match self.flag {
            Setting::OnSince(since) => values.push(format!("flag {since}")),
            Setting::Unknown => values.push("flag unknown".into()),
            Setting::Off => {}
        }
        match &self.policy {
            Some(Policy { since, dn: Some(dn) }) => values.push(format!("policy {since} {dn}")),
            Some(Policy { since, dn: None }) => values.push(format!("policy {since}")),
            None => {}
        }
        record.set(REVERSIBLE, values.into_iter().map(Value::Text).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const AT: fn(i64) -> Timestamp = Timestamp;

    fn known(rule: StorageRule) -> Known {
        Known {
            rule,
            domain: Setting::OnSince(AT(100)),
            fine_grained: BTreeMap::from([
                ("cn=on".to_owned(), Setting::OnSince(AT(200))),
                ("cn=off".to_owned(), Setting::Off),
            ]),
            order: String::new(),
        }
    }

    fn account(flag: bool, pso: Option<&str>) -> Account {
        Account { flag: Some(flag), pso: pso.map(str::to_owned), ..Account::default() }
    }

    #[test]
    fn what_is_stored_is_what_is_read_again() {
        for parts in [
            Parts { flag: Setting::Off, policy: None },
            Parts { flag: Setting::Unknown, policy: Some(Policy { since: AT(5), dn: None }) },
            Parts {
                flag: Setting::OnSince(AT(7)),
                policy: Some(Policy { since: AT(5), dn: Some("cn=a b, c,dc=x".into()) }),
            },
        ] {
            let mut record = UserRecord::default();
            parts.store(&mut record, &known(StorageRule::Any));
            assert_eq!(Parts::of(&record), parts);
            assert_eq!(Reversible::of(&record), parts.combine(&known(StorageRule::Any)));
        }
    }

    #[test]
    fn first_sights_of_a_user_stay_while_nothing_changes_and_begin_anew_after_a_pause() {
        let first = Parts::after(None, &account(true, Some("cn=on")), AT(1000));
        assert_eq!(Parts::after(Some(&first), &account(true, Some("cn=on")), AT(2000)), first);
        let off = Parts::after(Some(&first), &account(false, None), AT(3000));
        assert_eq!(off, Parts { flag: Setting::Off, policy: Some(Policy { since: AT(3000), dn: None }) });
        let again = Parts::after(Some(&off), &account(true, Some("cn=on")), AT(4000));
        assert_eq!(again.flag, Setting::OnSince(AT(4000)));
        assert_eq!(again.policy, Some(Policy { since: AT(4000), dn: Some("cn=on".into()) }));
    }

    #[test]
    fn a_policy_counts_for_a_user_since_it_applies_to_the_user() {
        let later = Parts::after(None, &account(true, Some("cn=on")), AT(1000));
        let with_flag = |flag: i64, policy| Parts { flag: Setting::OnSince(AT(flag)), policy };
        assert_eq!(later.combine(&known(StorageRule::Both)), Reversible::Since(AT(1000)));
        let before = with_flag(50, Some(Policy { since: AT(10), dn: Some("cn=on".into()) }));
        assert_eq!(before.combine(&known(StorageRule::Both)), Reversible::Since(AT(200)));
        let replaced = with_flag(50, Some(Policy { since: AT(10), dn: Some("cn=off".into()) }));
        assert_eq!(replaced.combine(&known(StorageRule::Both)), Reversible::Off);
        assert_eq!(replaced.combine(&known(StorageRule::Any)), Reversible::Since(AT(50)));
        let hidden = with_flag(50, Some(Policy { since: AT(10), dn: Some("cn=hidden".into()) }));
        assert_eq!(hidden.combine(&known(StorageRule::Both)), Reversible::Unknown);
        // Rid of one that replaced the domain's: on Windows it had replaced nothing.
        let rid = with_flag(50, Some(Policy { since: AT(900), dn: None }));
        assert_eq!(rid.combine(&known(StorageRule::Both)), Reversible::Since(AT(900)));
        let rid = Parts { flag: Setting::Off, ..rid };
        assert_eq!(rid.combine(&known(StorageRule::Any)), Reversible::Since(AT(100)));
    }
}

//! One search from beginning to end, for rescans of a subtree and comparisons. It says what is there, and only after
//! the server's own "success" that this was all.

use super::Change;
use crate::directory::key::KeyAttribute;
use crate::directory::stream::{Access, Connection, Heard, Results, Scope, Search, StreamError};
use crate::model::UserKey;

const KEYS_IN_ONE_FILTER: usize = 100;

/// A search under way. Dropped: abandoned.
pub struct Scan {
    results: Results,
}

impl Scan {
    /// Opens a connection of its own and searches. The key attribute is asked for in any case.
    pub async fn start(
        access: &Access,
        base: &str,
        scope: Scope,
        filter: &str,
        attributes: &[String],
    ) -> Result<Scan, StreamError> {
        let search = Search {
            base: base.to_owned(),
            scope,
            filter: filter.to_owned(),
            attributes: with_key(access.key, attributes),
            sync: None,
            page: access.page,
            persistent: false,
        };
        Ok(Scan { results: Connection::open(access).await?.search(&search)? })
    }

    /// The next batch of [`Change::Entry`] and [`Change::Unreadable`]. `None`: the server said that this was all.
    /// Anything else that ends it is an error. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Vec<Change>>, StreamError> {
        let Some(batch) = self.results.next().await? else { return Ok(None) };
        Ok(Some(batch.into_iter().filter_map(change).collect()))
    }
}

/// The entries with these keys at or below `base`, as far as they exist, in no order.
pub(super) async fn by_keys(
    access: Access,
    base: String,
    keys: Vec<UserKey>,
    attributes: Vec<String>,
) -> Result<Vec<Change>, StreamError> {
    let mut found = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(KEYS_IN_ONE_FILTER) {
        let alternatives: String = chunk.iter().map(|key| access.key.filter(key)).collect();
        let filter = format!("(|{alternatives})");
        let mut scan = Scan::start(&access, &base, Scope::Subtree, &filter, &attributes).await?;
        while let Some(changes) = scan.next().await? {
            found.extend(changes);
        }
    }
    Ok(found)
}

fn change(heard: Heard) -> Option<Change> {
    match heard {
        Heard::Entry(entry, _) => Some(Change::Entry(entry)),
        Heard::Unreadable(unreadable) => Some(unreadable.into()),
        Heard::Notice(..) | Heard::Sync(_) | Heard::Done(_) => None,
    }
}

/// The attributes to ask for, named one by one: a key that is operational comes only when named.
pub(super) fn with_key(by: KeyAttribute, attributes: &[String]) -> Vec<String> {
    let mut named = attributes.to_vec();
    if !named.iter().any(|name| name.eq_ignore_ascii_case(by.name())) {
        named.push(by.name().into());
    }
    named
}

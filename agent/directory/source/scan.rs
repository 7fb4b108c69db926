//! One search from beginning to end, for rescans of a subtree and comparisons. It says what is there, and only after
//! the server's own "success" that this was all.

use super::Change;
use crate::directory::key::KeyAttribute;
use crate::directory::stream::{Access, Connection, Heard, Results, Scope, Search, StreamError};

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
            page: None,
            persistent: false,
            controls: Vec::new(),
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

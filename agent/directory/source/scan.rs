//! One search from beginning to end, for rescans of a subtree and comparisons. It says what is there, and only after
//! the server's own "success" that this was all.

use super::Change;
use crate::directory::Entry;
use crate::directory::key::KeyAttribute;
use crate::directory::range;
use crate::directory::stream::ber::BerError;
use crate::directory::stream::{Access, Connection, Dialogue, Heard, Results, Scope, Search, StreamError};
use crate::model::UserKey;

const KEYS_IN_ONE_FILTER: usize = 100;

/// A search under way. Dropped: abandoned.
pub struct Scan {
    access: Access,
    results: Results,
    /// For the values that were left out.
    aside: Option<Dialogue>,
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
            controls: Vec::new(),
        };
        let results = Connection::open(access).await?.search(&search)?;
        Ok(Scan { access: access.clone(), results, aside: None })
    }

    /// The next batch of [`Change::Entry`] and [`Change::Unreadable`]. `None`: the server said that this was all.
    /// Anything else that ends it is an error.
    pub async fn next(&mut self) -> Result<Option<Vec<Change>>, StreamError> {
        let Some(batch) = self.results.next().await? else { return Ok(None) };
        let mut changes: Vec<Change> = batch.into_iter().filter_map(change).collect();
        for change in &mut changes {
            if let Change::Entry(entry) = change
                && entry.attributes.iter().any(|(name, _)| range::is_unfinished(name.as_bytes()))
            {
                let aside = match self.aside.take() {
                    Some(aside) => aside,
                    None => Dialogue::open(&self.access).await?,
                };
                complete(self.aside.insert(aside), entry).await?;
            }
        }
        Ok(Some(changes))
    }
}

/// Asks for the values that the server left out of an entry.
pub(super) async fn complete(dialogue: &mut Dialogue, entry: &mut Entry) -> Result<(), StreamError> {
    let malformed = |dialogue: &Dialogue, cause| Err(StreamError::Malformed { url: dialogue.url().to_owned(), cause });
    loop {
        let next = range::next_of(entry.attributes.iter().map(|(name, _)| name.as_str()));
        let (attribute, from) = match next {
            Ok(None) => return Ok(()),
            Ok(Some((attribute, from))) if from <= range::VALUES_MAX => (attribute, from),
            Ok(Some(_)) | Err(_) => return malformed(dialogue, BerError::BadNumber),
        };
        let wanted = Search {
            // By its GUID, wherever it is now (MS-ADTS 3.1.1.3.1.2.4).
            base: format!("<GUID={}>", entry.key),
            scope: Scope::Base,
            filter: "(objectClass=*)".into(),
            attributes: vec![range::from(&attribute, from)],
            sync: None,
            page: None,
            persistent: false,
            controls: Vec::new(),
        };
        let Some(more) = dialogue.read(&wanted).await? else {
            // Gone meanwhile: that is told by itself. What is known must not count as all.
            entry.attributes.retain(|(name, _)| name.split(';').next() != Some(attribute.as_str()));
            return Ok(());
        };
        if !range::append(&mut entry.attributes, &attribute, more.attributes) {
            return malformed(dialogue, BerError::Missing);
        }
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

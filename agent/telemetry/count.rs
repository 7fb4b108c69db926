//! Numbers that only the running process knows, for `/metrics`: operator lines said, writes and their results. They begin
//! at 0 with the process; whatever a store can tell is not counted here.

use crate::model::WriteResult;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

static LINES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
static WRITES: [AtomicU64; WRITE_RESULTS.len()] = [const { AtomicU64::new(0) }; WRITE_RESULTS.len()];

/// How a write can end.
pub const WRITE_RESULTS: [&str; 5] = ["applied", "mismatch", "not-found", "refused", "unanswered"];

/// A write ended so.
pub fn write(result: &WriteResult) {
    let index = match result {
        WriteResult::Applied { .. } => 0,
        WriteResult::Mismatch { .. } => 1,
        WriteResult::NotFound => 2,
        WriteResult::Refused(_) => 3,
        WriteResult::Unanswered => 4,
    };
    WRITES[index].fetch_add(1, Ordering::Relaxed);
}

/// Writes by result.
pub fn writes() -> impl Iterator<Item = (&'static str, u64)> {
    WRITE_RESULTS.into_iter().zip(&WRITES).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
}

/// Operator lines by name.
pub fn lines() -> BTreeMap<String, u64> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Counts every operator line that is said.
pub struct LineCounter;

impl<S: Subscriber> Layer<S> for LineCounter {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut name = Name(None);
        event.record(&mut name);
        if let Some(name) = name.0 {
            *LINES.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        }
    }
}

struct Name(Option<String>);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "line" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

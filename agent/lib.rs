//! Homeward watches a directory and gives every entitled user a home server.
//!
//! ```text
//!        POLLER                                        WORKER
//! directory ─► source ─► intake ═► directory.db        ┌──── due ◄── facts that changed, times that came
//! (LDAP)      changes    one tx:    compacted log ─► feed ─► decide ═► enablement.db ═► appliers ─► directory
//!   ▲                    entries                             (pure,     tx 1: standing,     │
//!   │                    + cursor                            in tx 1)   reservation,        └─► tx 2: outcome
//!   │                                                                   intent, cursor               │
//!   └────────────────────────────────────────────────────────────────────────────────────────────────┘
//! DNS (SRV), homes (load, health) ─► probe ─► facts
//! ```
//!
//! Arrows run one way; `═►` is a transaction. The two stores are where the halves meet, and what survives a crash.
//!
//! # What it promises
//!
//! Each has a test that bears its name, `promise_1_…` to `promise_10_…`.
//!
//! 1. A cursor moves only in the transaction that stores what it covers.
//! 2. An event says *look at this user, here is how they are now*. Lost, doubled or reordered events do no harm.
//! 3. [`decide`] takes values and returns a value.
//! 4. Unknown is a value: SRV, mail, load, digest, presence. It never turns into an address, a release or a delete.
//! 5. Headroom is counted and taken in the same transaction. A user never has two homes. Placement never exceeds a
//!    capacity (adoption may, and is shown).
//! 6. Every user ends as applied, unchanged, planned, waiting, held, retrying or a problem; a problem has a hint.
//! 7. One bad user stops nobody else; a new account does not wait behind a first pass.
//! 8. More releases, moves or removals than the guard allows touch nobody, and tell nobody.
//! 9. When all is quiet, the plan is empty; with `enablement.db` deleted it is empty again and nothing was written.
//! 10. No password, verifier or secret enters an event, a log line, a store or a page.
//!
//! # Follow one user
//!
//! [`directory::source`] hears of the entry · [`directory::entry`] makes it a record · [`intake`] stores what changed ·
//! [`poller`] joins these · [`feed`] hands it over · [`decide`] says what should be · [`worker`] reserves it, writes it back
//! ([`directory::write_back`]) and records it · [`queue::event`] tells others · [`view`] makes it a document · [`cli`] and [`console`] show it.
//!
//! Around them: [`model`] (the nouns), [`store`] (the only SQL), [`probe`] (DNS and homes), [`config`], [`telemetry`] (every
//! operator line), [`supervise`] (start, stop, reload), [`retry`] and [`error`]. [`model`] and [`decide`] know nothing of
//! the rest; nothing but [`supervise`] knows [`console`], and nothing knows [`cli`].

// decide/ switches this on: no clock, chance or environment there. Elsewhere they are at home.
#![allow(clippy::disallowed_methods)]

pub mod cli;
pub mod config;
pub mod console;
pub mod decide;
pub mod directory;
pub mod error;
pub mod feed;
pub mod intake;
pub mod model;
pub mod poller;
pub mod probe;
pub mod queue;
pub mod retry;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod view;
pub mod worker;

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
//! Follow one user: [`directory::source`] hears of the entry, [`directory::entry`] makes it a record, [`intake`] stores
//! what changed, [`feed`] hands it over, [`decide`] says what should be, [`worker`] reserves, writes back and records.

// decide/ switches this on: no clock, chance or environment there. Elsewhere they are at home.
#![allow(clippy::disallowed_methods)]

pub mod cli;
pub mod config;
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
pub mod worker;

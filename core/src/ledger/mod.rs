//! What was decided, for ever: one [`Record`](crate::model::Record) per workload, durable before
//! anything is done about it.
//!
//! The store is redb. It is open only while a transaction runs: lock, open,
//! check, decide, commit, close; so many `divvy` commands work at once, with
//! or without an agent, and none holds it while a workload runs. Waiting for
//! the lock is bounded. Threads of one process share commits ([`Ledger::grouped`]).
//!
//! Nothing read is trusted: the file's integrity is checked at every open,
//! each record carries its own checksum and schema version, and reading is
//! guarded against panics of the store. A broken ledger is an error with a
//! remedy, never an empty one: that would free what is held.

mod codec;
mod group;
mod store;

pub use store::{Ledger, LedgerError, Renewal, Transaction};

/// The version of [`Record`](crate::model::Record)'s document.
pub const SCHEMA: u16 = 1;

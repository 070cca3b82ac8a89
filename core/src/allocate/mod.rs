//! Who gets what: a pure function from what exists, what is held and what is
//! asked to an allocation or a refusal that explains.
//!
//! No I/O, no clock, no randomness, no tokio. The caller makes a [`Snapshot`]
//! (interned and index-based: a decision touches no string and no map) and
//! resolves the request to [`Choices`]; [`allocate`] answers; the caller writes
//! the answer to the ledger while it still holds the ledger's lock, so two
//! callers at the same instant are both right.
//!
//! ```
//! use divvy::allocate::{Choices, Limits, Snapshot, allocate, explain};
//! use divvy::model::{Inventory, Request};
//!
//! let mut snapshot = Snapshot::new(&Inventory::default());
//! let request = Request::default();
//! let choices = Choices::resolve(snapshot.machine(), &request, &Limits::default())?;
//! match allocate(&snapshot, &choices) {
//!     Some(allocation) => snapshot.take(&allocation.grants),
//!     None => return Err(explain::refusal(&snapshot, &choices)),
//! }
//! # Ok::<(), Box<divvy::allocate::Refusal>>(())
//! ```
//!
//! What it promises: all of a request or nothing; exactly what was asked;
//! never more than a device has, of any of its capacities; partitions that do
//! not overlap; a device in one mode at a time; the same answer for the same
//! input, whatever the order of maps. How devices are chosen is in [`place`];
//! for people, `docs/allocation.md`.
//!
//! Slots of one request that draw on the same devices without sharing a mode
//! are placed one after another and not tried in other ways: such a request
//! may be refused though a cleverer order would serve it.

mod book;
mod classic;
mod cut;
mod demand;
pub mod explain;
mod linked;
mod machine;
mod nodes;
pub mod place;
mod refusal;
mod select;
mod serve;
mod snapshot;
mod ways;

pub use book::Book;
pub use demand::{Choices, Demand, Limits};
pub use machine::{DeviceIx, Expected, Machine, Rules, SlotIx};
pub(crate) use machine::{MAX_DRAWS, MAX_MODES};
pub use place::{Allocation, allocate};
pub use refusal::{Refusal, RefusalCode, Rejected, Room};
pub use select::{DeviceMask, select};
pub use snapshot::{Cell, Problem, Snapshot};

use crate::model::Amount;

/// So much of a slot on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How much of the slot.
    pub amount: Amount,
    /// The device.
    pub device: DeviceIx,
    /// The slot.
    pub slot: SlotIx,
    /// For a partition: the position at which it begins.
    pub start: Option<u8>,
}

#[cfg(test)]
mod tests;

//! Who gets what: a pure function from what exists, what is held and what is
//! asked to an allocation or a refusal that explains.
//!
//! No I/O, no clock, no randomness, no tokio. The caller makes a [`Snapshot`]
//! (interned and index-based: a decision touches no string and no map), asks
//! [`allocate`], and writes the answer to the ledger while it still holds the
//! ledger's lock; so two callers at the same instant are both right.
//!
//! What it promises: all of a request or nothing; exactly what was asked;
//! never more than a device has; the same answer for the same input, whatever
//! the order of maps.
//!
//! What it does not do yet: policies other than `pack`, selectors, fallbacks,
//! partitions, link topology. The types have room for them.

mod demand;
mod place;
mod refusal;
mod snapshot;

pub use demand::Demand;
pub use place::allocate;
pub use refusal::{Refusal, RefusalCode};
pub use snapshot::{Cell, DeviceIx, Problem, SlotIx, Snapshot};

use crate::model::Amount;

/// So much of a slot on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The slot.
    pub slot: SlotIx,
    /// The device.
    pub device: DeviceIx,
    /// How much of the slot.
    pub amount: Amount,
}

#[cfg(test)]
mod tests;

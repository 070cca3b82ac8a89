//! The words of Divvy as pure types: what exists, what was asked, what was
//! given. No I/O, no clock, no vendor.
//!
//! Documents from plugins become these types once, at the edge
//! ([`crate::plugin`] validates them); inside, nothing is checked twice.

mod inventory;
mod names;
mod record;
mod request;

pub use divvy_plugin::{
    Amount, AmountError, Attribute, Basis, Capacity, CpuQuota, DefaultAmount, DeviceNode, Draw,
    Edits, EnforcementLevel, EnvVar, Health, HealthState, Link, Manifest, Mount, NodeId, NodeKind,
    NumaNode, Partitioning, Profile, Resources, Shape, Slot, Value,
};
pub use inventory::{Device, DeviceRef, Inventory};
pub use names::{NameError, check_workload_name, new_allocation_id};
pub(crate) use record::NO_LAUNCHER;
pub use record::{Exit, Record, Slice, State, Usage};
pub use request::{
    AmountTextError, BASE_SLOTS, Near, Policy, Request, format_amount, parse_amount,
};

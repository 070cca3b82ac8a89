//! Why a request cannot be granted.

use std::fmt;

use serde::Serialize;

use crate::model::{Amount, DeviceRef};

/// A refusal that explains itself. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// What was asked, what is free, and what would fit.
    pub message: String,
    /// The slot that could not be served, or what was written instead of one.
    pub slot: String,
    /// Every slot that was asked for: what is free of it, and the largest
    /// amount that would fit now. The one that is short comes first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<Room>,
    /// The devices that were looked at for that slot, and why each was
    /// rejected. At most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
    /// The workloads whose end would make it fit; of several such sets, a
    /// small one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would_fit_without: Vec<String>,
}

/// What there is of one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// The slot.
    pub slot: String,
    /// How much of it was asked.
    pub asked: Amount,
    /// How much of it is free in all, on the devices that were allowed.
    pub free: Amount,
    /// How much of it the machine has.
    pub total: Amount,
    /// The largest amount that a request for it alone could get now.
    pub largest: Amount,
}

/// A device that could not serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Which.
    #[serde(serialize_with = "as_text")]
    pub device: DeviceRef,
    /// Why, in a few words.
    pub why: String,
}

fn as_text<S: serde::Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// Stable codes of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// Not enough is free.
    Insufficient,
    /// Enough is free, but not in the shape that the slot needs.
    Fragmented,
    /// An amount that this slot or class cannot mean.
    InvalidAmount,
    /// Not on the slot's quantum.
    NotMultipleOfQuantum,
    /// Slots that exclude each other.
    ExclusiveConflict,
    /// No plugin offers the slot.
    UnknownSlot,
    /// There is no such device.
    UnknownDevice,
    /// More than a device has.
    OverCapacity,
    /// No such allocation.
    UnknownAllocation,
    /// The name of an allocation that there is.
    NameTaken,
    /// The slot's limit holds less firmly than was asked for.
    EnforcementTooWeak,
    /// The selector cannot be read.
    InvalidSelector,
}

impl RefusalCode {
    /// The code as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insufficient => "insufficient",
            Self::Fragmented => "fragmented",
            Self::InvalidAmount => "invalid_amount",
            Self::NotMultipleOfQuantum => "not_multiple_of_quantum",
            Self::ExclusiveConflict => "exclusive_conflict",
            Self::UnknownSlot => "unknown_slot",
            Self::UnknownDevice => "unknown_device",
            Self::OverCapacity => "over_capacity",
            Self::UnknownAllocation => "unknown_allocation",
            Self::NameTaken => "name_taken",
            Self::EnforcementTooWeak => "enforcement_too_weak",
            Self::InvalidSelector => "invalid_selector",
        }
    }
}

impl Refusal {
    pub(crate) fn new(code: RefusalCode, slot: &str, message: String) -> Self {
        Self {
            code,
            message,
            slot: slot.to_owned(),
            rooms: vec![],
            rejected: vec![],
            would_fit_without: vec![],
        }
    }

    /// Does it say that there is no room now (and not that the request is
    /// wrong)?
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(
            self.code,
            RefusalCode::Insufficient | RefusalCode::Fragmented
        )
    }
}

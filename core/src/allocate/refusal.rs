//! Why a request cannot be granted.

use serde::Serialize;

use crate::model::Amount;

/// A refusal that explains itself. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// What was asked, what is free, and what would fit.
    pub message: String,
    /// The slot that could not be served.
    pub slot: String,
    /// How much of it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Amount>,
    /// How much of it is free in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<Amount>,
    /// The largest amount that one request could get now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest: Option<Amount>,
}

/// Stable codes of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// Not enough is free.
    Insufficient,
    /// Enough is free, but not in the shape that the slot needs.
    Fragmented,
    /// Not on the slot's quantum.
    NotMultipleOfQuantum,
    /// No plugin offers the slot.
    UnknownSlot,
}

impl RefusalCode {
    /// The code as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insufficient => "insufficient",
            Self::Fragmented => "fragmented",
            Self::NotMultipleOfQuantum => "not_multiple_of_quantum",
            Self::UnknownSlot => "unknown_slot",
        }
    }
}

impl Refusal {
    pub(super) fn new(code: RefusalCode, slot: &str, message: String) -> Self {
        Self {
            code,
            message,
            slot: slot.to_owned(),
            asked: None,
            free: None,
            largest: None,
        }
    }
}

//! The documents that go into and come out of each operation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Amount;
use crate::device::Discovery;
use crate::edits::Edits;

/// Into `open`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OpenRequest {
    /// Values for keys of [`Manifest::config`](crate::Manifest::config).
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// A part of one device granted to one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Slice {
    /// The slot that was asked for.
    pub slot: String,
    /// The device's id.
    pub device: String,
    /// How much of the slot lies on this device.
    pub amount: Amount,
    /// The capacities that this uses up.
    pub capacities: BTreeMap<String, Amount>,
    /// For a partition: the position at which it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
}

/// Into `prepare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PrepareRequest {
    /// The allocation's id; the same id means the same allocation.
    pub allocation: String,
    /// Its slices on this plugin's devices, never empty.
    pub slices: Vec<Slice>,
    /// What the container's image says of the variables that this plugin reserves
    /// ([`Manifest::reserved_env`](crate::Manifest::reserved_env)): they do not reach the
    /// container, but may say what the image needs. Refuse with
    /// [`Unsupported`](crate::ErrorCode::Unsupported) what cannot run here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_env: BTreeMap<String, String>,
}

impl PrepareRequest {
    /// A request for a container of which no image says anything.
    #[must_use]
    pub fn new(allocation: impl Into<String>, slices: Vec<Slice>) -> Self {
        Self {
            allocation: allocation.into(),
            slices,
            image_env: BTreeMap::new(),
        }
    }
}

/// Into `started`: the container runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StartedRequest {
    /// The allocation's id.
    pub allocation: String,
    /// The container's first process, in the host's pid namespace.
    pub pid: u32,
}

/// Into `release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReleaseRequest {
    /// The allocation's id.
    pub allocation: String,
    /// What it held.
    pub slices: Vec<Slice>,
}

/// Into `restore`: what is still held, after the plugin was started anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RestoreRequest {
    /// Every live allocation with slices of this plugin.
    pub allocations: Vec<Held>,
}

/// One allocation that outlived a plugin host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Held {
    /// The allocation's id.
    pub allocation: String,
    /// What it holds.
    pub slices: Vec<Slice>,
    /// The edits that `prepare` answered then.
    pub edits: Edits,
}

/// Into `watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WatchRequest {
    /// What the caller knows already.
    pub known: Discovery,
    /// Answer at the latest after this time, ms.
    pub timeout_ms: u64,
}

/// Out of `watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WatchReply {
    /// The new state if it differs from what was known; `None` after the
    /// time was up.
    pub changed: Option<Discovery>,
}

/// Out of `sample`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Samples {
    /// By device id, then by measure. A measure's name ends in its base
    /// unit (`memory_used_bytes`, `energy_joules_total`,
    /// `utilization_ratio`); what cannot be measured is absent, never 0.
    pub devices: BTreeMap<String, BTreeMap<String, Amount>>,
}

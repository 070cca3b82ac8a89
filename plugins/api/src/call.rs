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
    /// A folder that is this plugin's alone: it exists, is root's with mode 0700, and
    /// outlives hosts, agents and reboots. All hosts of the plugin get the same one, at
    /// the same time. `None`: nothing can be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
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
    /// The devices of which workloads hold something now, by id: those to listen to
    /// most closely.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
}

/// Out of `watch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WatchReply {
    /// The new state if it differs from what was known; `None` after the
    /// time was up, or where something happened that changed nothing.
    pub changed: Option<Discovery>,
    /// What happened meanwhile, oldest first; each is told once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<Incident>,
}

/// Something that happened to a device, whether or not it changed the device's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Incident {
    /// The device's id.
    pub device: String,
    /// The vendor's word for it, of a small set: `xid-79`, `ecc-double-bit`. Characters
    /// `[a-z0-9-]`, at most 32.
    pub code: String,
    /// Whose matter it is.
    pub class: IncidentClass,
    /// What happened and what to do, in one sentence.
    pub summary: String,
    /// The process that was at fault or hit, in the host's numbers, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The process's `/proc/PID/cgroup` as it was when this was heard: by the time that
    /// it is told, the process may be gone, and its number another's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Of a device that is cut: where the partition begins that it happened in, where
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
}

/// Whose matter an incident is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum IncidentClass {
    /// Nobody's: for the record.
    Notice,
    /// The program's that used the device: the device is as good as before.
    Application,
    /// The device's: its health says what follows.
    Device,
}

impl IncidentClass {
    /// Its word, as documents have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Application => "application",
            Self::Device => "device",
        }
    }
}

/// Out of `sample`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Samples {
    /// By device id, then by measure. A measure's name ends in its base
    /// unit (`memory_used_bytes`, `energy_joules_total`,
    /// `utilization_ratio`); what cannot be measured is absent, never 0.
    pub devices: BTreeMap<String, BTreeMap<String, Amount>>,
    /// What can be said of single processes: the core finds the workload that each
    /// belongs to. A device's figure is never a process's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessSample>,
}

/// What one process uses of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessSample {
    /// The device's id.
    pub device: String,
    /// The process, in the host's numbers.
    pub pid: u32,
    /// Its measures, named as a device's.
    pub measures: BTreeMap<String, Amount>,
}

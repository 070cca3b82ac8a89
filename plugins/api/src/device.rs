//! What a plugin found on the machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Amount;

/// The reply to `discover`: everything there is, whole, each time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Discovery {
    /// All devices, in an order that is the same for the same machine.
    pub devices: Vec<Device>,
    /// The machine's NUMA nodes, where the plugin knows them. Only the
    /// plugin of class `memory` need fill it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numa_nodes: Vec<NumaNode>,
    /// What was odd but survivable (an unreadable file, a guess), one
    /// sentence each, for `divvy doctor`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A NUMA node and how far the others are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NumaNode {
    /// The kernel's number; numbers may have gaps.
    pub id: u32,
    /// Distance to other nodes as in ACPI's SLIT (10 = local), where known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub distances: BTreeMap<u32, u32>,
}

/// One physical or hardware-partitioned unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Device {
    /// Stable across reboots, permuted enumeration and driver restarts: a
    /// UUID, else a PCI address, never an index into a list. Characters
    /// `[A-Za-z0-9._:@/-]`, at most 128 bytes, unique within the plugin.
    pub id: String,
    /// What kind of unit, in one word: `gpu`, `core`, `memory`.
    pub kind: String,
    /// The model's name for people; never a key.
    pub model: String,
    /// The NUMA node that it hangs on, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// May new work be placed on it?
    pub health: Health,
    /// Facts to select and show by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Attribute>,
    /// What it offers, by name.
    pub capacities: BTreeMap<String, Capacity>,
    /// The device nodes that are this device, and nobody else's. Only these
    /// may appear in the edits for a slice of it (shared control nodes are
    /// listed on every device that needs them).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
    /// Direct connections to other devices of the same plugin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// The device that this one is a partition of. Parent and partitions are
    /// never in use at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The partitions that it can be cut into on demand, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitioning: Option<Partitioning>,
    /// The processes that compute on it now, ascending, in the host's numbers. While one
    /// of them is no workload's, nothing new is placed on the device. List none that do
    /// not stand in a workload's way (those that draw a desktop).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<u32>,
}

impl Device {
    /// A healthy device with nothing more to say of it yet.
    #[must_use]
    pub fn new(id: impl Into<String>, kind: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            kind: kind.into(),
            model: model.into(),
            numa_node: None,
            health: Health::healthy(),
            attributes: BTreeMap::new(),
            capacities: BTreeMap::new(),
            nodes: vec![],
            links: vec![],
            parent: None,
            partitioning: None,
            processes: vec![],
        }
    }
}

/// How a device can be cut into hardware partitions: Kubernetes' DRA calls
/// this shared counters. A partition covers a run of positions (a MIG
/// instance: memory slices) and draws on the device's capacities besides
/// (compute slices, bytes, processors).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Partitioning {
    /// How many positions there are, 1 to 64.
    pub positions: u32,
    /// The partitions that can be made.
    pub profiles: Vec<Profile>,
}

/// One kind of partition of one device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Profile {
    /// The slot that asks for it, of shape
    /// [`Shape::Partition`](crate::Shape::Partition).
    pub slot: String,
    /// How many positions in a row it covers, 1 to `positions`.
    pub size: u32,
    /// Where it may begin, ascending; each with `size` positions behind it.
    pub starts: Vec<u32>,
    /// What it uses up of the device's capacities.
    pub capacities: BTreeMap<String, Amount>,
    /// How much of vendor-neutral classes ([`Slot::class`](crate::Slot::class)) one such
    /// partition is, at least: bytes of `gpu.mem`, the part of a whole device for `gpu` and
    /// `gpu.compute`. A request for such amounts at a level that no other slot reaches is
    /// served by the smallest partition that is enough of each. Empty: by its slot alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub serves: BTreeMap<String, Amount>,
}

/// A named, exact amount that a device offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capacity {
    /// All of it, as the hardware or the driver says.
    pub total: Amount,
    /// The part never handed out; at most `total`.
    #[serde(default, skip_serializing_if = "Amount::is_zero_ref")]
    pub reserved: Amount,
    /// What is derived from other amounts (a share of the device, a part in
    /// proportion) is rounded up to a multiple of this: whole processors,
    /// whole MiB. `total` less `reserved` is a multiple of it. `None`: 10⁻⁹,
    /// that is, no rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Amount>,
}

impl Capacity {
    /// A capacity with no reserved part, handed out in any amounts.
    #[must_use]
    pub fn of(total: Amount) -> Self {
        Self {
            total,
            reserved: Amount::ZERO,
            step: None,
        }
    }
}

impl Amount {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    fn is_zero_ref(&self) -> bool {
        self.is_zero()
    }
}

/// A typed fact about a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Attribute {
    /// The value.
    #[serde(flatten)]
    pub value: Value,
    /// Its unit, where it has one: `MHz`, `byte`, `W`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// The types of Kubernetes' DRA attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// A number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    String(String),
    /// A version, compared by its numbers.
    Version(String),
}

impl Attribute {
    /// A text without a unit.
    pub fn text(value: impl Into<String>) -> Self {
        Self {
            value: Value::String(value.into()),
            unit: None,
        }
    }

    /// A number without a unit.
    #[must_use]
    pub fn int(value: i64) -> Self {
        Self {
            value: Value::Int(value),
            unit: None,
        }
    }

    /// A number with a unit.
    pub fn int_in(value: i64, unit: impl Into<String>) -> Self {
        Self {
            value: Value::Int(value),
            unit: Some(unit.into()),
        }
    }

    /// Yes or no.
    #[must_use]
    pub fn flag(value: bool) -> Self {
        Self {
            value: Value::Bool(value),
            unit: None,
        }
    }
}

/// Health with its cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// The state.
    pub state: HealthState,
    /// Why, in one sentence, unless healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Health {
    /// Nothing is wrong.
    #[must_use]
    pub fn healthy() -> Self {
        Self {
            state: HealthState::Healthy,
            reason: None,
        }
    }
}

/// May new work be placed on a device?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Yes.
    Healthy,
    /// Yes, at less than full performance.
    Degraded,
    /// No.
    Unhealthy,
    /// Nobody can tell; no.
    Unknown,
}

/// A device node by number, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeId {
    /// Character or block.
    pub kind: NodeKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Character or block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// A direct connection to another device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Link {
    /// The other end's id.
    pub to: String,
    /// What connects them: `nvlink`, `xgmi`, `pcie-switch`, `pcie-host`,
    /// `socket`.
    pub kind: String,
    /// Bandwidth in one direction, MB/s, where known; larger is nearer.
    pub weight: u32,
}

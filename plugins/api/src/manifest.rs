//! What a plugin says of itself, before it has seen the machine.

use serde::{Deserialize, Serialize};

use crate::Amount;

/// A plugin's self-description. Constant for one build of a plugin: the core
/// learns every vendor word (slots, classes, reserved variables) from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Manifest {
    /// The plugin's name: `[a-z][a-z0-9-]*`, at most 32 bytes. Every slot is
    /// named after it (`NAME` itself is allowed as a prefix-free slot only
    /// for what [`Slot::name`] lists).
    pub name: String,
    /// The plugin's own version, for people.
    pub version: String,
    /// One sentence for `divvy plugin list`.
    pub summary: String,
    /// What can be asked for.
    pub slots: Vec<Slot>,
    /// Environment variables that only this plugin may set in a container.
    /// A trailing `*` stands for any ending. A user's `-e` of one is refused,
    /// an image's is dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved_env: Vec<String>,
    /// The keys that [`OpenRequest::config`](crate::OpenRequest::config) may
    /// hold; any other key is refused before `open` is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigKey>,
}

/// One configuration key of a plugin (`--set PLUGIN.KEY=VALUE`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigKey {
    /// The key: `[a-z][a-z0-9_]*`.
    pub name: String,
    /// What it does, and its default, in one sentence.
    pub summary: String,
}

/// The public name of something that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Slot {
    /// `PLUGIN.WHAT` (`cuda.shares`), or one of the two names without a
    /// prefix that every machine has: `cpu` and `mem`.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// What one unit is, in the singular: `core`, `byte`, `device`, `share`.
    /// `byte` makes the command line take and show `KiB`, `MiB`, `GiB`.
    pub unit: String,
    /// The step in which it is granted; a request off the step is refused.
    pub quantum: Amount,
    /// The vendor-neutral kind, such as `gpu`, `cpu` or `memory`, by which a
    /// caller may ask without naming a vendor.
    pub class: String,
    /// The capacities that one unit of this slot uses up, on each device
    /// that it is granted from. A device serves the slot if it has them all.
    pub draws: Vec<Draw>,
    /// Over how many devices, and in what shape, a request may be spread.
    pub shape: Shape,
    /// What a request that does not name the slot takes anyway. `None`:
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultAmount>,
    /// How firmly the limit holds once [`Edits`](crate::Edits) are in place.
    pub level: EnforcementLevel,
}

/// One unit of a slot uses `per_unit` of `capacity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Draw {
    /// A key of [`Device::capacities`](crate::Device::capacities).
    pub capacity: String,
    /// How much of it one unit of the slot uses.
    pub per_unit: Amount,
}

/// How a request for a slot may lie on devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// In any pieces on any devices: memory over NUMA nodes.
    Divisible,
    /// Whole units each take a whole, idle device; what is left lies on one
    /// further device that others may share: CPU cores.
    WholeThenFraction,
    /// All of it on one device: a share of a GPU.
    Single,
    /// Whole, idle devices only.
    Whole,
}

/// What is taken of a slot that a request does not name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DefaultAmount {
    /// A fixed amount.
    Fixed(Amount),
    /// The same share of this slot's machine-wide total as the request takes
    /// of the named slot, rounded down to the quantum.
    Like(String),
}

/// How firmly a slice's limit holds, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum EnforcementLevel {
    /// The workload is told and trusted.
    Advisory,
    /// A library in the workload's process enforces it.
    Cooperative,
    /// The kernel enforces it.
    Kernel,
    /// The device enforces it.
    Hardware,
}

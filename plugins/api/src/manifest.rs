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
    /// The vendor-neutral kind, by which a caller may ask without naming a
    /// vendor: `cpu`, `memory`, `gpu`; `gpu.mem` and `gpu.compute` for one axis
    /// of a GPU. Of a class, slots of shape [`Shape::Whole`] serve whole
    /// numbers, the others amounts that lie on one device.
    pub class: String,
    /// A device serves slots of one mode at a time (`whole`, `shared`,
    /// `partitioned`), and changes when it is idle; one request names slots of
    /// one mode of this plugin. In one request, slots of one mode and of shape
    /// [`Shape::Single`] lie on the same device. `None`: with any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The capacities that one unit of this slot uses up, on each device
    /// that it is granted from. A device serves the slot if it has them all.
    /// Empty for [`Shape::Partition`]: each device's profile says it.
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

impl Slot {
    /// A slot in steps of one, of which a request that does not name it takes
    /// nothing.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        unit: impl Into<String>,
        shape: Shape,
        level: EnforcementLevel,
    ) -> Self {
        let name = name.into();
        Self {
            summary: name.clone(),
            class: name.clone(),
            name,
            unit: unit.into(),
            quantum: Amount::ONE,
            mode: None,
            draws: vec![],
            shape,
            default: None,
            level,
        }
    }
}

/// What one unit of a slot uses of one capacity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Draw {
    /// A key of [`Device::capacities`](crate::Device::capacities).
    pub capacity: String,
    /// How much of it one unit of the slot uses: an amount, or a factor of
    /// what `of` names.
    pub per_unit: Amount,
    /// What `per_unit` counts.
    #[serde(default, skip_serializing_if = "Basis::is_units")]
    pub of: Basis,
}

impl Draw {
    /// One unit of the slot uses one unit of the capacity.
    #[must_use]
    pub fn unit(capacity: impl Into<String>) -> Self {
        Self {
            capacity: capacity.into(),
            per_unit: Amount::ONE,
            of: Basis::Units,
        }
    }

    /// One unit of the slot uses all of the capacity, a half uses half.
    #[must_use]
    pub fn share(capacity: impl Into<String>) -> Self {
        Self {
            of: Basis::Device,
            ..Self::unit(capacity)
        }
    }

    /// The same part of the capacity as the slot uses of `other`, unless the
    /// request names the capacity by another slot.
    #[must_use]
    pub fn like(capacity: impl Into<String>, other: impl Into<String>) -> Self {
        Self {
            of: Basis::Like(other.into()),
            ..Self::unit(capacity)
        }
    }
}

/// What [`Draw::per_unit`] counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Units of the capacity.
    #[default]
    Units,
    /// The device's whole capacity (less what is reserved): a share.
    Device,
    /// The part that this slot takes of the named capacity, which it also
    /// draws on in `Units`. Left out where another slot of the same request
    /// draws on the capacity on the same device.
    Like(String),
}

impl Basis {
    fn is_units(&self) -> bool {
        *self == Self::Units
    }
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
    /// Hardware partitions, each made where the device's
    /// [`Partitioning`](crate::Partitioning) lets it begin; the amount is their
    /// number.
    Partition,
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

impl EnforcementLevel {
    /// Its word, as documents have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Advisory => "advisory",
            Self::Cooperative => "cooperative",
            Self::Kernel => "kernel",
            Self::Hardware => "hardware",
        }
    }
}

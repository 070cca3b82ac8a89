//! What exists: the validated sum of what the plugins reported.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Manifest, NumaNode, Slot};

/// One device's name in the whole machine: ids are unique within a plugin.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct DeviceRef {
    /// The plugin that reported it.
    pub plugin: String,
    /// Its id there.
    pub id: String,
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.plugin, self.id))
    }
}

/// A device and the plugin that it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Device {
    /// The plugin that reported it.
    pub plugin: String,
    /// What it reported.
    #[serde(flatten)]
    pub device: divvy_plugin::Device,
}

impl Device {
    /// Its name in the whole machine.
    #[must_use]
    pub fn name(&self) -> DeviceRef {
        DeviceRef {
            plugin: self.plugin.clone(),
            id: self.device.id.clone(),
        }
    }
}

/// Everything that the plugins said, checked. Ordered by plugin name, then as
/// the plugin ordered it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Manifests of the plugins that answered, by name.
    pub plugins: BTreeMap<String, Manifest>,
    /// All devices.
    pub devices: Vec<Device>,
    /// NUMA nodes by number.
    pub numa_nodes: BTreeMap<u32, NumaNode>,
    /// What plugins found odd but survivable, by plugin.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub warnings: BTreeMap<String, Vec<String>>,
}

impl Inventory {
    /// All slots with the plugin that offers each, in plugin order.
    pub fn slots(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.plugins
            .iter()
            .flat_map(|(name, manifest)| manifest.slots.iter().map(move |s| (name.as_str(), s)))
    }

    /// The slot of this name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots()
            .map(|(_, slot)| slot)
            .find(|slot| slot.name == name)
    }

    /// The environment variables that only plugins may set: a name, or a
    /// beginning followed by `*`.
    pub fn reserved_env(&self) -> impl Iterator<Item = &str> {
        self.plugins
            .values()
            .flat_map(|m| m.reserved_env.iter().map(String::as_str))
    }
}

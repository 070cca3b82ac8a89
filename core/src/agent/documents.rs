//! The answers, as documents: what `--json` prints, what the API sends, what a
//! program that embeds Divvy gets. One shape each, wherever it comes from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Agent, DeviceView, Watched, describe_inventory};
use divvy_plugin::{Basis, Draw};

use crate::model::{Inventory, NumaNode, Record, Slice, Slot};
use crate::plugin::{CallError, Client, Crash, Status};

/// What there is on a machine, and what is held of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Devices {
    /// All devices, by plugin.
    pub devices: Vec<DeviceView>,
    /// What can be asked for.
    pub slots: Vec<OfferedSlot>,
    /// NUMA nodes by number.
    pub numa_nodes: BTreeMap<u32, NumaNode>,
    /// Who holds what.
    pub held: Vec<Holding>,
    /// Is it known what is held? Only root, and an agent, can read the ledger.
    pub usage_known: bool,
    /// What does not fit together: a slice of a device that is gone, say.
    pub problems: Vec<String>,
    /// Plugins that do not answer.
    pub failed_plugins: Vec<FailedPlugin>,
    /// How old this is, ms: an agent answers from what its plugins said last.
    #[serde(default)]
    pub age_ms: u64,
}

/// A slot, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OfferedSlot {
    /// The plugin.
    pub plugin: String,
    /// The slot.
    pub slot: Slot,
}

/// What one workload holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holding {
    /// The workload.
    pub name: String,
    /// Its slices.
    pub slices: Vec<Slice>,
}

/// A plugin that does not answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedPlugin {
    /// The plugin.
    pub plugin: String,
    /// The stable code.
    pub code: String,
    /// For people.
    pub message: String,
    /// Is its hardware or driver simply not here?
    #[serde(default)]
    pub absent: bool,
}

impl FailedPlugin {
    /// Of a plugin and its error.
    #[must_use]
    pub fn new(plugin: &str, error: &CallError) -> Self {
        Self {
            plugin: plugin.to_owned(),
            code: error.code().to_owned(),
            message: error.to_string(),
            absent: error.is_absent(),
        }
    }
}

impl Devices {
    /// Of an inventory and what is held of it; `None`: nobody may know.
    #[must_use]
    pub fn new(
        inventory: &Inventory,
        failed: &[(String, CallError)],
        records: Option<&[Record]>,
    ) -> Self {
        let held = records.unwrap_or_default();
        let (devices, problems) = describe_inventory(inventory, held);
        Self {
            devices,
            slots: inventory
                .slots()
                .map(|(plugin, slot)| OfferedSlot {
                    plugin: plugin.to_owned(),
                    slot: slot.clone(),
                })
                .collect(),
            numa_nodes: inventory.numa_nodes.clone(),
            held: held
                .iter()
                .filter(|r| r.holds())
                .map(|r| Holding {
                    name: r.name.clone(),
                    slices: r.slices.clone(),
                })
                .collect(),
            usage_known: records.is_some(),
            problems: problems.iter().map(ToString::to_string).collect(),
            failed_plugins: failed
                .iter()
                .map(|(plugin, e)| FailedPlugin::new(plugin, e))
                .collect(),
            age_ms: 0,
        }
    }

    /// The unit of the slot of this plugin that counts a capacity, if any: the one
    /// that draws on it in units rather than in shares.
    #[must_use]
    pub fn unit(&self, plugin: &str, capacity: &str) -> &str {
        let draws = |s: &&OfferedSlot| {
            let counts = |d: &Draw| d.capacity == capacity && d.of == Basis::Units;
            s.plugin == plugin && s.slot.draws.iter().any(counts)
        };
        let slot = self.slots.iter().find(draws);
        slot.map_or("", |s| s.slot.unit.as_str())
    }
}

/// Workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Workloads {
    /// Oldest first.
    pub workloads: Vec<Record>,
}

/// The plugins of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plugins {
    /// The folder they are in.
    pub folder: String,
    /// By name.
    pub plugins: Vec<PluginView>,
    /// Files that were not even opened, and why.
    pub refused: Vec<String>,
}

/// One plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginView {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its version, if it could be loaded.
    pub version: Option<String>,
    /// What it is for.
    pub summary: Option<String>,
    /// The names of its slots.
    pub slots: Option<Vec<String>>,
    /// Its settings.
    pub settings: Option<Vec<divvy_plugin::ConfigKey>>,
    /// The variables that only it may set.
    pub reserved_env: Option<Vec<String>>,
    /// How many devices it has.
    pub devices: usize,
    /// What it found odd but survivable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Where it stands.
    pub state: Status,
    /// Why it does not answer.
    pub error: Option<FailedPlugin>,
    /// Its past crashes, oldest first.
    pub crashes: Vec<Crash>,
}

impl Agent {
    /// What there is and what is held of it; `records`: who holds what, if the
    /// caller may know.
    pub async fn devices(&self, records: Option<&[Record]>) -> Devices {
        let (inventory, failed) = self.inventory().await;
        Devices::new(&inventory, &failed, records)
    }

    /// The plugins, what they offer, and what is wrong with them.
    pub async fn plugin_list(&self) -> Plugins {
        let (inventory, failed) = self.inventory().await;
        let mut states = Vec::new();
        for client in self.plugins().clients() {
            states.push(client.status().await);
        }
        Plugins::new(self, &inventory, &failed, states)
    }
}

impl Watched {
    /// As [`Agent::devices`], as of the last look.
    #[must_use]
    pub fn devices(&self, records: &[Record]) -> Devices {
        let (inventory, failed) = self.inventory();
        let mut devices = Devices::new(&inventory, &failed, Some(records));
        devices.age_ms = self.age_ms();
        for view in &mut devices.devices {
            let name = view.device.name();
            view.since_ms = self.since_ms(&name.plugin, &name.id);
            view.stuck = self.is_stuck(&name.plugin);
            view.incidents = self.incidents(&name.plugin, &name.id);
        }
        devices
    }

    /// As [`Agent::plugin_list`], as of the last look.
    #[must_use]
    pub fn plugin_list(&self, agent: &Agent) -> Plugins {
        let (inventory, failed) = self.inventory();
        let clients = agent.plugins().clients().iter();
        let states = clients.map(|c| self.status(c.name())).collect();
        Plugins::new(agent, &inventory, &failed, states)
    }
}

impl Plugins {
    fn new(
        agent: &Agent,
        inventory: &Inventory,
        failed: &[(String, CallError)],
        states: Vec<Status>,
    ) -> Self {
        let view = |(client, state): (&Client, Status)| {
            let name = client.name();
            let manifest = inventory.plugins.get(name);
            let error = failed.iter().find(|(plugin, _)| plugin == name);
            PluginView {
                name: name.to_owned(),
                file: client.path().display().to_string(),
                version: manifest.map(|m| m.version.clone()),
                summary: manifest.map(|m| m.summary.clone()),
                slots: manifest.map(|m| m.slots.iter().map(|s| s.name.clone()).collect()),
                settings: manifest.map(|m| m.config.clone()),
                reserved_env: manifest.map(|m| m.reserved_env.clone()),
                devices: inventory
                    .devices
                    .iter()
                    .filter(|d| d.plugin == name)
                    .count(),
                warnings: inventory.warnings.get(name).cloned().unwrap_or_default(),
                state,
                error: error.map(|(plugin, e)| FailedPlugin::new(plugin, e)),
                crashes: client.crashes().0,
            }
        };
        let plugins = agent.plugins();
        Self {
            folder: plugins.folder.display().to_string(),
            plugins: plugins.clients().iter().zip(states).map(view).collect(),
            refused: plugins.refused().iter().map(ToString::to_string).collect(),
        }
    }
}

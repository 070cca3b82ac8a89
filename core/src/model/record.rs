//! What was decided: one record per workload, as the ledger keeps it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Amount, DeviceRef, Edits, EnforcementLevel};

/// A part of one device granted to one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Slice {
    /// The plugin that the device belongs to.
    pub plugin: String,
    /// Slot, device, and amounts.
    #[serde(flatten)]
    pub part: divvy_plugin::Slice,
    /// How firmly its limit holds; `None` in records of versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<EnforcementLevel>,
}

impl Slice {
    /// The device that this is a part of.
    #[must_use]
    pub fn device(&self) -> DeviceRef {
        DeviceRef {
            plugin: self.plugin.clone(),
            id: self.part.device.clone(),
        }
    }
}

/// Where a workload stands. Slices are held in every state but `Exited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Intent: the slices are taken, nothing runs. If whoever wrote this is
    /// gone, it is undone.
    Preparing,
    /// The injection was proven; its monitor owns it.
    Running,
    /// The container is gone; plugins still have to release. Retried.
    Releasing,
    /// Over; holds nothing. Kept until `rm` for its exit code and logs.
    Exited,
}

impl State {
    /// Its word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Releasing => "releasing",
            Self::Exited => "exited",
        }
    }
}

/// How a workload ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// The exit code, 128 + n after signal n; `None` if nobody was there to
    /// see it (the monitor was killed, the machine restarted).
    pub code: Option<u8>,
    /// The kernel stopped a process of it for exceeding its memory.
    pub out_of_memory: bool,
    /// Why, where the code does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, ms since 1970.
    pub at_ms: u64,
    /// What it used.
    #[serde(default)]
    pub usage: Usage,
    /// Files outside the bound folders that were written and discarded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discarded: Vec<String>,
}

/// What a workload used, as its cgroup counted. Absent: not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// CPU time of all its processes, µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// Time from start to end, µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_us: Option<u64>,
    /// The most memory at any moment, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
}

/// The launcher of an allocation without a container.
pub(crate) const NO_LAUNCHER: &str = "none";

/// One workload and its allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The allocation's id, also the workload's and the container's.
    pub id: String,
    /// Its name for people, unique among the records.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Remove the record when it has ended.
    pub remove_on_exit: bool,
    /// The user on whose behalf it runs.
    pub owner: u32,
    /// The kernel's boot id when it was made: no container outlives a boot.
    pub boot_id: String,
    /// When, ms since 1970.
    pub created_ms: u64,
    /// What was asked, defaults included.
    pub asked: BTreeMap<String, Amount>,
    /// What was given.
    pub slices: Vec<Slice>,
    /// Why each slice lies where it does, in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// The edits of each plugin, stored as the result: they are not asked for
    /// twice.
    #[serde(default)]
    pub edits: BTreeMap<String, Edits>,
    /// `oci`, `docker` or `podman`.
    pub launcher: String,
    /// The OCI runtime, for people: `runc 1.1.5`, `built-in`.
    pub runtime: String,
    /// Image, rootfs folder, or `host` for the host's own root.
    pub root: String,
    /// The command.
    pub command: Vec<String>,
    /// The container's first process, host pid, once it is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The container's id in its engine, once it is running; `None` with
    /// `oci`, where it is the record's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

impl Record {
    /// Does it hold its slices?
    #[must_use]
    pub fn holds(&self) -> bool {
        self.state != State::Exited
    }

    /// The name by which its cgroup is told from others'.
    #[must_use]
    pub fn cgroup_name(&self) -> &str {
        self.container_id.as_deref().unwrap_or(&self.id)
    }

    /// Is it made by a launcher? Else a program of its own uses the slices.
    #[must_use]
    pub fn has_container(&self) -> bool {
        self.launcher != NO_LAUNCHER
    }

    /// The slices on devices of this plugin, as the plugin sees them.
    #[must_use]
    pub fn slices_of(&self, plugin: &str) -> Vec<divvy_plugin::Slice> {
        self.slices
            .iter()
            .filter(|s| s.plugin == plugin)
            .map(|s| s.part.clone())
            .collect()
    }

    /// The plugins that have a part in it.
    #[must_use]
    pub fn plugins(&self) -> std::collections::BTreeSet<&str> {
        self.slices.iter().map(|s| s.plugin.as_str()).collect()
    }
}

//! What must change in a container so that it has its slices.
//!
//! The shape follows CDI's `containerEdits`, plus resource limits; hooks are
//! left out on purpose (they ran attackers' code as root in other stacks).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::device::NodeKind;

/// What `prepare` returns. Everything is optional; nothing is implied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Edits {
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Device nodes to create and allow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Files and folders of the host to show, read-only unless said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Folders of the container in which the dynamic loader looks before all others;
    /// each with a mount of these edits beneath it. The agent puts them in front of
    /// what image and user say (`LD_LIBRARY_PATH`), which a plugin cannot set itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub library_paths: Vec<String>,
    /// Numeric supplementary groups for the workload's process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
    /// Limits of the container's cgroup.
    #[serde(default)]
    pub resources: Resources,
    /// Facts for people and tools, put on the container as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EnvVar {
    /// `[A-Za-z_][A-Za-z0-9_]*`. Loader variables (`LD_*`) are refused.
    pub name: String,
    /// The value; no NUL.
    pub value: String,
    /// A default that the user's own setting wins over. A variable that is
    /// not a default must be in
    /// [`Manifest::reserved_env`](crate::Manifest::reserved_env).
    #[serde(default)]
    pub default: bool,
}

/// A device node in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceNode {
    /// The device that this node belongs to, one of the slices' devices.
    pub device: String,
    /// Where in the container: an absolute path under `/dev`.
    pub path: String,
    /// Character or block.
    pub kind: NodeKind,
    /// Major number, from sysfs, never assumed.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// May the workload write to it? (It may never `mknod`.)
    #[serde(default = "yes")]
    pub write: bool,
    /// Permission bits of the node, e.g. 0o660.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Owning group, numeric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

fn yes() -> bool {
    true
}

/// A file or folder of the host that the container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Mount {
    /// On the host: absolute, normal, no symbolic link, owned by root.
    pub source: String,
    /// In the container: absolute, normal, not under `/proc`, `/sys`, `/dev`.
    pub target: String,
}

/// Limits of the container's cgroup; absent means not limited by this plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resources {
    /// CPUs to run on, as the kernel's list format (`0-3,8`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// NUMA nodes to take memory from, in list format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// CPU time per period; both or neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<CpuQuota>,
    /// Memory limit in bytes; swap is limited to the same, so that none is
    /// used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// CFS bandwidth (kernel: Documentation/scheduler/sched-bwc.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuQuota {
    /// Time that may be used per period, µs, at least 1,000.
    pub quota_us: u64,
    /// The period, µs, 1,000 to 1,000,000.
    pub period_us: u64,
}

//! Machines made of files, and the verbs to ask them things.

#![allow(dead_code, clippy::unwrap_used)] // a harness: each test uses a part

use std::fs;
use std::path::Path;

use divvy_plugin::{
    Attribute, Device, Discovery, Edits, OpenRequest, Plugin, PluginError, PrepareRequest, Slice,
    Value,
};
use divvy_plugin_cpu::{Counts, CpuPlugin};
use tempfile::TempDir;

const CPUS: &str = "sys/devices/system/cpu";
const NODES: &str = "sys/devices/system/node";

/// A folder that looks like a machine's root.
pub(crate) struct Machine(TempDir);

impl Machine {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, and the folders above it.
    pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Takes a file or folder away.
    pub(crate) fn remove(&self, path: &str) -> &Self {
        let path = self.root().join(path);
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
        self
    }

    /// Makes a file that exists and cannot be read, for root as well.
    pub(crate) fn unreadable(&self, path: &str) -> &Self {
        let path = self.root().join(path);
        if path.is_file() {
            fs::remove_file(&path).unwrap();
        }
        fs::create_dir_all(path).unwrap();
        self
    }

    pub(crate) fn cpu(&self, cpu: u32, package: i32, core: i32, siblings: &str) -> &Self {
        let at = format!("{CPUS}/cpu{cpu}/topology");
        self.file(
            &format!("{at}/physical_package_id"),
            &format!("{package}\n"),
        )
        .file(&format!("{at}/core_id"), &format!("{core}\n"))
        .file(
            &format!("{at}/thread_siblings_list"),
            &format!("{siblings}\n"),
        )
    }

    pub(crate) fn cpu_file(&self, cpu: u32, name: &str, text: &str) -> &Self {
        self.file(&format!("{CPUS}/cpu{cpu}/{name}"), text)
    }

    pub(crate) fn online(&self, list: &str) -> &Self {
        self.file(&format!("{CPUS}/online"), &format!("{list}\n"))
    }

    pub(crate) fn node(&self, id: u32, cpus: &str, mib: u64) -> &Self {
        let kb = mib * 1024;
        self.file(&format!("{NODES}/node{id}/cpulist"), &format!("{cpus}\n"))
            .file(
                &format!("{NODES}/node{id}/meminfo"),
                &format!("\nNode {id} MemTotal: {kb} kB\nNode {id} MemFree: 1024 kB\n"),
            )
    }

    pub(crate) fn node_file(&self, id: u32, name: &str, text: &str) -> &Self {
        self.file(&format!("{NODES}/node{id}/{name}"), text)
    }

    pub(crate) fn nodes_file(&self, name: &str, text: &str) -> &Self {
        self.file(&format!("{NODES}/{name}"), text)
    }

    pub(crate) fn meminfo(&self, mib: u64) -> &Self {
        let kb = mib * 1024;
        self.file(
            "proc/meminfo",
            &format!("MemTotal: {kb} kB\nMemFree: 1024 kB\n"),
        )
    }

    /// Opens the plugin on it, with settings.
    pub(crate) fn try_open(&self, settings: &[(&str, &str)]) -> Result<CpuPlugin, PluginError> {
        open(self.root(), settings)
    }

    pub(crate) fn open(&self) -> CpuPlugin {
        self.try_open(&[]).unwrap()
    }

    pub(crate) fn discover(&self) -> Discovery {
        self.open().discover().unwrap()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts::of(&self.open().topology())
    }
}

/// Two cores with two threads each, one node of 1 GiB.
pub(crate) fn small() -> Machine {
    let machine = Machine::new();
    machine
        .online("0-3")
        .cpu(0, 0, 0, "0,2")
        .cpu(1, 0, 1, "1,3")
        .cpu(2, 0, 0, "0,2")
        .cpu(3, 0, 1, "1,3")
        .node(0, "0-3", 1024)
        .nodes_file("online", "0\n");
    for cpu in 0..4 {
        machine.cpu_file(cpu, "topology/die_id", "0\n");
    }
    machine
}

pub(crate) fn open(root: &Path, settings: &[(&str, &str)]) -> Result<CpuPlugin, PluginError> {
    let mut config: std::collections::BTreeMap<String, String> = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    config.insert("root".into(), root.to_str().unwrap().into());
    CpuPlugin::open(&OpenRequest {
        config,
        ..OpenRequest::default()
    })
}

/// `slot device amount`
pub(crate) fn slice(text: &str) -> Slice {
    let words: Vec<_> = text.split(' ').collect();
    Slice {
        slot: words[0].into(),
        device: words[1].into(),
        amount: words[2].parse().unwrap(),
        capacities: [].into(),
        start: None,
    }
}

pub(crate) fn prepare(plugin: &CpuPlugin, slices: &[&str]) -> Result<Edits, PluginError> {
    plugin.prepare(&PrepareRequest::new(
        "a1",
        slices.iter().map(|s| slice(s)).collect(),
    ))
}

pub(crate) fn ids<'a>(discovery: &'a Discovery, kind: &str) -> Vec<&'a str> {
    let devices = discovery.devices.iter();
    devices
        .filter(|d| d.kind == kind)
        .map(|d| d.id.as_str())
        .collect()
}

pub(crate) fn device<'a>(discovery: &'a Discovery, id: &str) -> &'a Device {
    let found = discovery.devices.iter().find(|d| d.id == id);
    found.unwrap_or_else(|| panic!("no {id} in {:?}", ids(discovery, "core")))
}

/// An attribute as text; empty if it has none of the name.
pub(crate) fn attribute(device: &Device, name: &str) -> String {
    match device.attributes.get(name) {
        Some(Attribute { value, .. }) => match value {
            Value::Int(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::String(s) | Value::Version(s) => s.clone(),
        },
        None => String::new(),
    }
}

/// The ids of devices of which something is reserved, with how much.
pub(crate) fn reserved(discovery: &Discovery) -> Vec<(&str, String)> {
    let devices = discovery.devices.iter();
    devices
        .flat_map(|d| d.capacities.values().map(|c| (d.id.as_str(), c.reserved)))
        .filter(|(_, amount)| !amount.is_zero())
        .map(|(id, amount)| (id, amount.to_string()))
        .collect()
}

pub(crate) fn warned(discovery: &Discovery, words: &str) -> bool {
    discovery.warnings.iter().any(|w| w.contains(words))
}

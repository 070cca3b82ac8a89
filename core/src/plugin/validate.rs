//! The edge (S16): a plugin's word is checked here, once, and nowhere else.
//!
//! The rules' sentences and remedies are in [`rule`](super::rule); here each is
//! kept. Whatever breaks one is refused whole, with the plugin's name and what it
//! said; nothing of the reply is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use divvy_plugin::{
    Amount, Basis, Device, DeviceNode, Discovery, Draw, Edits, Manifest, NodeId, NodeKind,
    Partitioning, Resources, Samples, Shape, Slice, Slot, WatchReply,
};

use super::rule::Rule;
use crate::allocate::{MAX_DRAWS, MAX_MODES};
use crate::model::{BASE_SLOTS, Inventory};

/// What a plugin said that cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Lie {
    /// The rule that it breaks.
    pub(super) rule: Rule,
    why: String,
}

type Checked = Result<(), Lie>;

/// More devices than any machine has; a reply is bounded before it is used.
const MAX_DEVICES: usize = 16_384;
/// More slots than any plugin needs.
const MAX_SLOTS: usize = 256;
/// More capacities than any device has.
const MAX_CAPACITIES: usize = 64;
/// More processes than compute on any device, and more incidents than happen at once.
const MAX_PROCESSES: usize = 4096;
const MAX_INCIDENTS: usize = 256;
/// More than a process's cgroups take: a path of 4 KiB in each of a dozen hierarchies.
const MAX_CGROUP: usize = 64 << 10;
/// More kinds of partitions than any device has.
const MAX_PROFILES: usize = 32;

macro_rules! ensure {
    ($rule:expr, $holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(Lie { rule: $rule, why: format!($($message)+) });
        }
    };
}

/// Checks a machine that no plugin of ours described: each plugin's slots and
/// devices as if it had said them.
pub(crate) fn inventory(inventory: &Inventory) -> Checked {
    for (name, said) in &inventory.plugins {
        manifest(said, name)?;
        let devices = inventory.devices.iter().filter(|d| d.plugin == *name);
        discovery(&Discovery {
            devices: devices.map(|d| d.device.clone()).collect(),
            ..Discovery::default()
        })?;
    }
    for device in &inventory.devices {
        ensure!(
            Rule::Slots,
            inventory.plugins.contains_key(&device.plugin),
            "{} is of a plugin that offers no slots",
            device.name()
        );
    }
    let mut names = BTreeSet::new();
    for (_, slot) in inventory.slots() {
        ensure!(
            Rule::SlotNames,
            names.insert(&slot.name),
            "there are two slots {}",
            slot.name
        );
    }
    Ok(())
}

/// Checks a manifest; `file` is the name in the plugin's file name.
pub(super) fn manifest(manifest: &Manifest, file: &str) -> Checked {
    let name = &manifest.name;
    ensure!(
        Rule::Name,
        word(name, 32),
        "its name {name:?} is not [a-z][a-z0-9-]* of at most 32 bytes"
    );
    ensure!(
        Rule::FileName,
        name == file,
        "it calls itself {name:?} but its file says {file:?}"
    );
    ensure!(
        Rule::Slots,
        !manifest.slots.is_empty(),
        "it offers no slots"
    );
    let mut seen = BTreeSet::new();
    let mut modes = BTreeSet::new();
    for slot in &manifest.slots {
        let s = &slot.name;
        let prefixed = s
            .strip_prefix(name.as_str())
            .and_then(|r| r.strip_prefix('.'));
        let ok = BASE_SLOTS.contains(&s.as_str()) || prefixed.is_some_and(|rest| text(rest, 64));
        ensure!(
            Rule::SlotNames,
            ok,
            "its slot {s:?} is not named {name}.SOMETHING"
        );
        ensure!(
            Rule::SlotNames,
            seen.insert(s),
            "it offers the slot {s} twice"
        );
        ensure!(
            Rule::Quanta,
            !slot.quantum.is_zero(),
            "its slot {s} has a quantum of 0"
        );
        ensure!(
            Rule::Classes,
            text(&slot.class, 64),
            "its slot {s} has the class {:?}",
            slot.class
        );
        draws(slot)?;
        if let Some(mode) = &slot.mode {
            ensure!(
                Rule::Modes,
                word(mode, 32),
                "its slot {s} has the mode {mode:?}"
            );
            modes.insert(mode);
        }
    }
    ensure!(
        Rule::Slots,
        manifest.slots.len() <= MAX_SLOTS,
        "it offers more than {MAX_SLOTS} slots"
    );
    ensure!(
        Rule::Modes,
        modes.len() <= MAX_MODES,
        "its slots have more than {MAX_MODES} modes"
    );
    for key in &manifest.config {
        ensure!(
            Rule::Settings,
            text(&key.name, 64),
            "it has a setting named {:?}",
            key.name
        );
    }
    for pattern in &manifest.reserved_env {
        let stem = pattern.strip_suffix('*').unwrap_or(pattern);
        ensure!(
            Rule::ReservedEnv,
            env_name(stem),
            "it reserves {pattern:?}, which is no environment variable"
        );
    }
    Ok(())
}

/// What a slot draws on.
fn draws(slot: &Slot) -> Checked {
    let s = &slot.name;
    let whole = slot.quantum.fraction().is_zero();
    match slot.shape {
        Shape::Partition => {
            ensure!(
                Rule::Draws,
                slot.draws.is_empty(),
                "its slot {s} draws on something, but partitions' profiles say what they use"
            );
            ensure!(
                Rule::Quanta,
                slot.quantum == Amount::ONE,
                "its slot {s} counts partitions in steps of {}",
                slot.quantum
            );
        }
        Shape::Whole => ensure!(
            Rule::Quanta,
            whole,
            "its slot {s} counts whole devices in steps of {}",
            slot.quantum
        ),
        _ => {}
    }
    ensure!(
        Rule::Draws,
        slot.shape == Shape::Partition || !slot.draws.is_empty(),
        "its slot {s} draws on nothing"
    );
    ensure!(
        Rule::Draws,
        slot.draws.len() <= MAX_DRAWS,
        "its slot {s} draws on more than {MAX_DRAWS} capacities"
    );
    let mut seen = BTreeSet::new();
    for draw in &slot.draws {
        let capacity = &draw.capacity;
        ensure!(
            Rule::Draws,
            !draw.per_unit.is_zero(),
            "its slot {s} draws 0 of {capacity:?}"
        );
        ensure!(
            Rule::Draws,
            seen.insert(capacity),
            "its slot {s} draws on {capacity:?} twice"
        );
        if let Basis::Like(other) = &draw.of {
            let counted = |d: &Draw| d.capacity == *other && d.of == Basis::Units;
            ensure!(
                Rule::Draws,
                slot.draws.iter().any(counted),
                "its slot {s} draws on {capacity:?} in proportion to {other:?}, which it does not count in"
            );
        }
    }
    Ok(())
}

/// Checks what was discovered.
pub(super) fn discovery(discovery: &Discovery) -> Checked {
    ensure!(
        Rule::DeviceCount,
        discovery.devices.len() <= MAX_DEVICES,
        "it reports more than {MAX_DEVICES} devices"
    );
    let mut ids = BTreeSet::new();
    for device in &discovery.devices {
        let id = &device.id;
        ensure!(
            Rule::DeviceIds,
            device_id(id),
            "the device id {id:?} is not 1 to 128 of [A-Za-z0-9._:@/-]"
        );
        ensure!(
            Rule::DeviceIds,
            ids.insert(id.as_str()),
            "it reports the device {id} twice"
        );
        for (name, c) in &device.capacities {
            ensure!(
                Rule::Capacities,
                text(name, 64),
                "{id} has a capacity named {name:?}"
            );
            ensure!(
                Rule::ReservedParts,
                c.reserved <= c.total,
                "{id} reserves {} of {} {name}, more than there is",
                c.reserved,
                c.total
            );
            if let Some(step) = c.step {
                let usable = c.total.saturating_sub(c.reserved);
                ensure!(
                    Rule::Steps,
                    usable.is_multiple_of(step),
                    "{id} offers {usable} {name}, which is no multiple of its step {step}"
                );
            }
        }
        ensure!(
            Rule::Capacities,
            device.capacities.len() <= MAX_CAPACITIES,
            "{id} has more than {MAX_CAPACITIES} capacities"
        );
        if let Some(p) = &device.partitioning {
            partitioning(device, p)?;
        }
        for (name, what) in [("kind", &device.kind), ("model", &device.model)] {
            ensure!(
                Rule::Texts,
                printable(what, 256),
                "{id} has an unprintable or overlong {name}"
            );
        }
        let pids = &device.processes;
        ensure!(
            Rule::Processes,
            pids.len() <= MAX_PROCESSES
                && pids.first() != Some(&0)
                && pids.is_sorted_by(|a, b| a < b),
            "{id} lists its processes out of order, twice, or more than {MAX_PROCESSES}"
        );
        for attribute in device.attributes.keys() {
            ensure!(
                Rule::Texts,
                text(attribute, 64),
                "{id} has an attribute named {attribute:?}"
            );
        }
    }
    for device in &discovery.devices {
        for other in device.links.iter().map(|l| &l.to).chain(&device.parent) {
            ensure!(
                Rule::References,
                ids.contains(other.as_str()),
                "{} refers to {other:?}, which is not there",
                device.id
            );
            ensure!(
                Rule::References,
                *other != device.id,
                "{} refers to itself",
                device.id
            );
        }
    }
    Ok(())
}

/// How a device can be cut.
fn partitioning(device: &Device, p: &Partitioning) -> Checked {
    let id = &device.id;
    ensure!(
        Rule::Partitions,
        (1..=64).contains(&p.positions),
        "{id} has {} positions for partitions; 1 to 64 are possible",
        p.positions
    );
    ensure!(
        Rule::Partitions,
        (1..=MAX_PROFILES).contains(&p.profiles.len()),
        "{id} has {} profiles of partitions; 1 to {MAX_PROFILES} are possible",
        p.profiles.len()
    );
    let mut seen = BTreeSet::new();
    for profile in &p.profiles {
        let slot = &profile.slot;
        ensure!(
            Rule::Partitions,
            text(slot, 64),
            "{id} has partitions for the slot {slot:?}"
        );
        ensure!(
            Rule::Partitions,
            seen.insert(slot),
            "{id} has two profiles of partitions for {slot}"
        );
        ensure!(
            Rule::Partitions,
            (1..=p.positions).contains(&profile.size),
            "{id}: {slot} covers {} of {} positions",
            profile.size,
            p.positions
        );
        let last = p.positions - profile.size;
        ensure!(
            Rule::Partitions,
            !profile.starts.is_empty()
                && profile.starts.is_sorted_by(|a, b| a < b)
                && profile.starts.iter().all(|s| *s <= last),
            "{id}: {slot} may begin at {:?}, which is not ascending or leaves no room for its {} positions",
            profile.starts,
            profile.size
        );
        ensure!(
            Rule::Partitions,
            profile.serves.len() <= MAX_DRAWS && profile.serves.keys().all(|class| text(class, 64)),
            "{id}: {slot} serves more than {MAX_DRAWS} classes, or one with an odd name"
        );
        ensure!(
            Rule::Partitions,
            profile.capacities.len() <= MAX_DRAWS,
            "{id}: {slot} uses more than {MAX_DRAWS} capacities"
        );
        for (name, amount) in &profile.capacities {
            let has = device.capacities.get(name);
            let usable = has.map(|c| c.total.saturating_sub(c.reserved));
            ensure!(
                Rule::Partitions,
                usable.is_some_and(|usable| *amount <= usable),
                "{id}: {slot} uses {amount} {name}, more than there is"
            );
        }
    }
    Ok(())
}

/// Checks what was measured: names that labels can carry.
pub(super) fn samples(samples: &Samples) -> Checked {
    for (id, measures) in &samples.devices {
        ensure!(
            Rule::MeasureNames,
            device_id(id),
            "it measures the device {id:?}, which is no device id"
        );
        for name in measures.keys() {
            ensure!(
                Rule::MeasureNames,
                measure(name),
                "{id} has a measure named {name:?}"
            );
        }
    }
    let mut seen = BTreeSet::new();
    for process in &samples.processes {
        let (id, pid) = (&process.device, process.pid);
        ensure!(
            Rule::MeasureNames,
            device_id(id) && process.measures.keys().all(|name| measure(name)),
            "it measures process {pid} on {id:?} by odd names"
        );
        ensure!(
            Rule::MeasureNames,
            seen.insert((id, pid)),
            "it measures process {pid} on {id} twice"
        );
    }
    Ok(())
}

/// Can it be a part of a metric's name?
fn measure(name: &str) -> bool {
    let odd = |c: char| !matches!(c, 'a'..='z' | '0'..='9' | '_');
    (1..=64).contains(&name.len()) && !name.contains(odd)
}

/// Checks what a watch gave; `known` is what was known before.
pub(super) fn watch(reply: &WatchReply, known: &Discovery) -> Checked {
    if let Some(changed) = &reply.changed {
        discovery(changed)?;
    }
    ensure!(
        Rule::Incidents,
        reply.incidents.len() <= MAX_INCIDENTS,
        "it tells of more than {MAX_INCIDENTS} incidents at once"
    );
    // A device may be gone by the time that its end is told.
    let now = reply.changed.iter().chain([known]);
    let listed: BTreeSet<&str> = now
        .flat_map(|found| found.devices.iter().map(|device| device.id.as_str()))
        .collect();
    for incident in &reply.incidents {
        let (device, code) = (&incident.device, &incident.code);
        ensure!(
            Rule::Incidents,
            listed.contains(device.as_str()),
            "something happened to {device:?}, which is not listed"
        );
        let odd = |c: char| !matches!(c, 'a'..='z' | '0'..='9' | '-');
        ensure!(
            Rule::Incidents,
            (1..=32).contains(&code.len()) && !code.contains(odd),
            "{code:?} happened to {device}"
        );
        ensure!(
            Rule::Incidents,
            printable(&incident.summary, 256),
            "what it says of {code} is unprintable or overlong"
        );
        let cgroup = incident.cgroup.as_ref();
        ensure!(
            Rule::Incidents,
            cgroup.is_none_or(|lines| lines.len() <= MAX_CGROUP),
            "the cgroups of {code}'s process are longer than {MAX_CGROUP} bytes"
        );
    }
    Ok(())
}

/// Checks edits for these slices on these devices.
pub(super) fn edits(
    edits: &Edits,
    slices: &[Slice],
    devices: &BTreeMap<&str, &Device>,
    reserved: &[String],
) -> Checked {
    env(edits, reserved)?;
    let granted: BTreeSet<&str> = slices.iter().map(|s| s.device.as_str()).collect();
    let (mut paths, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for node in &edits.device_nodes {
        device_node(node, &granted, devices)?;
        ensure!(
            Rule::NodesOnce,
            paths.insert(&node.path),
            "it creates {} twice",
            node.path
        );
        ensure!(
            Rule::NodesOnce,
            numbers.insert(number(node)),
            "it gives {} a second path",
            node.path
        );
    }
    let mut targets = BTreeSet::new();
    for mount in &edits.mounts {
        mount_rules(&mount.source, &mount.target)?;
        ensure!(
            Rule::MountTargets,
            targets.insert(&mount.target),
            "it mounts on {} twice",
            mount.target
        );
    }
    for folder in &edits.library_paths {
        let holds = |target: &&String| Path::new(target).parent() == Some(Path::new(folder));
        ensure!(
            Rule::LibraryPaths,
            normal(folder) && !folder.contains(':') && targets.iter().any(holds),
            "it has the loader look in {folder:?}, in which it mounts nothing"
        );
    }
    for gid in &edits.additional_gids {
        ensure!(Rule::Groups, *gid != 0, "it adds the root group");
        ensure!(Rule::Groups, *gid != u32::MAX, "it adds the group {gid}");
    }
    for (key, value) in &edits.annotations {
        ensure!(
            Rule::Annotations,
            text(key, 128),
            "the annotation {key:?} has an odd name"
        );
        ensure!(
            Rule::Annotations,
            printable(value, 4096),
            "the annotation {key} is unprintable or overlong"
        );
    }
    resources(&edits.resources, slices)
}

fn env(edits: &Edits, reserved: &[String]) -> Checked {
    let mut names = BTreeSet::new();
    for var in &edits.env {
        let name = &var.name;
        ensure!(
            Rule::EnvNames,
            env_name(name),
            "it sets {name:?}, which is no environment variable"
        );
        ensure!(
            Rule::EnvLoader,
            !name.starts_with("LD_"),
            "it sets the loader variable {name}"
        );
        ensure!(
            Rule::EnvNames,
            !var.value.contains('\0'),
            "it sets {name} to a text with a NUL"
        );
        ensure!(Rule::EnvNames, names.insert(name), "it sets {name} twice");
        ensure!(
            Rule::EnvReserved,
            var.default || is_reserved(name, reserved.iter().map(String::as_str)),
            "it sets {name} over the user's head without reserving it"
        );
    }
    Ok(())
}

/// Is this variable among the reserved names (`NAME` or `BEGINNING*`)?
pub(crate) fn is_reserved<'a>(name: &str, reserved: impl IntoIterator<Item = &'a str>) -> bool {
    reserved
        .into_iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(stem) => name.starts_with(stem),
            None => name == pattern,
        })
}

fn device_node(
    node: &DeviceNode,
    granted: &BTreeSet<&str>,
    devices: &BTreeMap<&str, &Device>,
) -> Checked {
    let (device, path) = (&node.device, &node.path);
    ensure!(
        Rule::NodesGranted,
        granted.contains(device.as_str()),
        "it gives {path} of {device}, which was not granted"
    );
    let under_dev = path
        .strip_prefix("/dev/")
        .is_some_and(|rest| !rest.is_empty());
    ensure!(
        Rule::NodesPlace,
        under_dev && normal(path),
        "{path:?} is not a path under /dev"
    );
    let owned = devices
        .get(device.as_str())
        .is_some_and(|d| d.nodes.contains(&number(node)));
    ensure!(
        Rule::NodesOwn,
        owned,
        "it gives {path} ({}:{}), which is no node of {device}",
        node.major,
        node.minor
    );
    ensure!(
        Rule::NodesMode,
        node.mode.is_none_or(|m| m <= 0o777),
        "{path} has the odd mode {:o}",
        node.mode.unwrap_or(0)
    );
    // A block device is a disk: nothing that accelerates.
    ensure!(
        Rule::NodesChar,
        node.kind == NodeKind::Char,
        "it gives the block device {path}"
    );
    Ok(())
}

/// A node by its numbers.
pub(crate) fn number(node: &DeviceNode) -> NodeId {
    NodeId {
        kind: node.kind,
        major: node.major,
        minor: node.minor,
    }
}

/// S5, by words alone; the launcher looks at the files themselves.
fn mount_rules(source: &str, target: &str) -> Checked {
    ensure!(
        Rule::MountSources,
        normal(source) && source != "/",
        "it mounts {source:?}, which is not a plain absolute path"
    );
    ensure!(
        Rule::MountTargets,
        normal(target) && target != "/",
        "it mounts on {target:?}, which is not a plain absolute path"
    );
    for root in [
        "/proc", "/sys", "/dev", "/etc", "/root", "/home", "/run", "/var/run", "/boot",
    ] {
        ensure!(
            Rule::MountSources,
            !Path::new(source).starts_with(root),
            "it mounts {source}, which is under {root}"
        );
    }
    for root in ["/proc", "/sys", "/dev"] {
        ensure!(
            Rule::MountTargets,
            !Path::new(target).starts_with(root),
            "it mounts on {target}, which is under {root}"
        );
    }
    Ok(())
}

fn resources(resources: &Resources, slices: &[Slice]) -> Checked {
    for list in [&resources.cpuset_cpus, &resources.cpuset_mems]
        .into_iter()
        .flatten()
    {
        ensure!(
            Rule::Lists,
            cpu_list(list),
            "{list:?} is not a kernel list such as 0-3,8"
        );
    }
    if let Some(quota) = resources.cpu_quota {
        ensure!(
            Rule::Quota,
            (1_000..=1_000_000).contains(&quota.period_us) && quota.quota_us >= 1_000,
            "the quota {} µs per {} µs is outside what the kernel takes",
            quota.quota_us,
            quota.period_us
        );
    }
    if let Some(bytes) = resources.memory_bytes {
        let granted: Amount = slices
            .iter()
            .filter_map(|s| s.capacities.get("memory"))
            .copied()
            .sum();
        ensure!(
            Rule::MemoryLimit,
            Amount::from_units(bytes) <= granted,
            "it sets a memory limit of {bytes} bytes, above the {granted} that were granted"
        );
    }
    Ok(())
}

// === what texts look like ===

fn word(text: &str, max: usize) -> bool {
    text.len() <= max
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn text(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'/'))
}

fn device_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'@' | b'/' | b'-')
        })
}

pub(super) fn printable(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}

/// A portable environment variable name.
pub(crate) fn env_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn normal(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains('\0')
        && (path == "/" || !path.ends_with('/'))
        && !path.contains("//")
        && Path::new(path)
            .components()
            .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
        && !path.split('/').any(|part| part == "." || part == "..")
}

fn cpu_list(list: &str) -> bool {
    !list.is_empty()
        && list.split(',').all(|range| {
            let (a, b) = range.split_once('-').unwrap_or((range, range));
            matches!((a.parse::<u32>(), b.parse::<u32>()), (Ok(a), Ok(b)) if a <= b && b < 1 << 20)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use divvy_plugin::{Capacity, CpuQuota, EnvVar, Mount};

    fn device(id: &str, minor: u32) -> Device {
        Device {
            capacities: [("memory".to_owned(), Capacity::of(Amount::from_units(100)))].into(),
            nodes: vec![NodeId {
                kind: NodeKind::Char,
                major: 240,
                minor,
            }],
            ..Device::new(id, "gpu", "m")
        }
    }

    fn slot(shape: Shape, draws: Vec<Draw>) -> Slot {
        Slot {
            draws,
            ..Slot::new("x.a", "unit", shape, divvy_plugin::EnforcementLevel::Kernel)
        }
    }

    #[test]
    fn slots_draw_on_something_and_once() {
        use Shape::{Partition, Single, Whole};
        let fine = [
            slot(
                Single,
                vec![Draw::unit("memory"), Draw::like("compute", "memory")],
            ),
            slot(Partition, vec![]),
            slot(Whole, vec![Draw::share("memory")]),
        ];
        for slot in fine {
            assert_eq!(draws(&slot), Ok(()));
        }
        let half = Amount::from_nanos(500_000_000).unwrap();
        let wrong = [
            (slot(Single, vec![]), "draws on nothing"),
            (slot(Partition, vec![Draw::unit("a")]), "profiles say"),
            (
                slot(Single, vec![Draw::unit("a"), Draw::share("a")]),
                "twice",
            ),
            (slot(Single, vec![Draw::like("a", "b")]), "in proportion"),
            (slot(Single, vec![Draw::like("a", "a")]), "in proportion"),
            (
                Slot {
                    quantum: half,
                    ..slot(Whole, vec![Draw::unit("a")])
                },
                "in steps of 0.5",
            ),
            (
                slot(
                    Single,
                    (0..9).map(|i| Draw::unit(format!("c{i}"))).collect(),
                ),
                "more than 8",
            ),
        ];
        for (slot, words) in wrong {
            let lie = draws(&slot).unwrap_err().to_string();
            assert!(lie.contains(words), "{lie}");
        }
    }

    #[test]
    fn partitions_lie_within_the_device() {
        let profile = |size, starts: &[u32], memory| divvy_plugin::Profile {
            slot: "x.p".into(),
            size,
            starts: starts.to_vec(),
            capacities: [("memory".to_owned(), Amount::from_units(memory))].into(),
            serves: BTreeMap::new(),
        };
        let check = |positions, profiles| {
            let said = Discovery {
                devices: vec![Device {
                    partitioning: Some(Partitioning {
                        positions,
                        profiles,
                    }),
                    ..device("a", 0)
                }],
                ..Discovery::default()
            };
            discovery(&said).map_err(|lie| lie.to_string())
        };
        assert_eq!(check(8, vec![profile(4, &[0, 4], 50)]), Ok(()));
        for (positions, profiles, words) in [
            (65, vec![profile(1, &[0], 1)], "65 positions"),
            (8, vec![], "0 profiles"),
            (8, vec![profile(9, &[0], 1)], "covers 9 of 8"),
            (8, vec![profile(4, &[0, 5], 1)], "leaves no room"),
            (8, vec![profile(1, &[3, 3], 1)], "not ascending"),
            (8, vec![profile(1, &[], 1)], "may begin at []"),
            (8, vec![profile(1, &[0], 101)], "more than there is"),
            (8, vec![profile(1, &[0], 1); 2], "two profiles"),
        ] {
            let lie = check(positions, profiles).unwrap_err();
            assert!(lie.contains(words), "{lie}");
        }
    }

    #[test]
    fn steps_divide_what_they_count() {
        let mut odd = device("a", 0);
        let memory = odd.capacities.get_mut("memory").unwrap();
        memory.step = Some(Amount::from_units(7));
        let said = Discovery {
            devices: vec![odd],
            ..Discovery::default()
        };
        let lie = discovery(&said).unwrap_err().to_string();
        assert_eq!(
            lie,
            "a offers 100 memory, which is no multiple of its step 7"
        );
    }

    fn node(device: &str, minor: u32, path: &str) -> DeviceNode {
        DeviceNode {
            device: device.into(),
            path: path.into(),
            kind: NodeKind::Char,
            major: 240,
            minor,
            write: true,
            mode: None,
            gid: None,
        }
    }

    fn lie(change: impl FnOnce(&mut Edits)) -> String {
        let (a, b) = (device("a", 0), device("b", 1));
        let slices = [Slice {
            slot: "x.mem".into(),
            device: "a".into(),
            amount: Amount::ONE,
            capacities: [("memory".to_owned(), Amount::from_units(10))].into(),
            start: None,
        }];
        let mut said = Edits {
            device_nodes: vec![node("a", 0, "/dev/x0")],
            ..Edits::default()
        };
        change(&mut said);
        let devices = [("a", &a), ("b", &b)].into();
        match edits(&said, &slices, &devices, &["X_*".to_owned()]) {
            Ok(()) => "accepted".into(),
            Err(lie) => lie.to_string(),
        }
    }

    #[test]
    fn an_honest_reply_passes() {
        let honest = lie(|e| {
            e.env.push(EnvVar {
                name: "X_VISIBLE".into(),
                value: "0".into(),
                default: false,
            });
            e.mounts.push(Mount {
                source: "/usr/lib/x.so".into(),
                target: "/usr/lib/x.so".into(),
            });
            e.resources.memory_bytes = Some(10);
            e.resources.cpuset_cpus = Some("0-3,8".into());
            e.resources.cpu_quota = Some(CpuQuota {
                quota_us: 10_000,
                period_us: 20_000,
            });
            e.additional_gids.push(44);
        });
        assert_eq!(honest, "accepted");
    }

    #[test]
    fn lies_are_refused() {
        let mount = |source: &str, target: &str| {
            lie(|e| {
                e.mounts.push(Mount {
                    source: source.into(),
                    target: target.into(),
                })
            })
        };
        let env = |name: &str| {
            lie(|e| {
                e.env.push(EnvVar {
                    name: name.into(),
                    value: "1".into(),
                    default: false,
                })
            })
        };
        let cases = [
            (
                lie(|e| e.device_nodes[0].device = "b".into()),
                "not granted",
            ),
            (lie(|e| e.device_nodes[0].minor = 1), "no node of a"),
            (
                lie(|e| e.device_nodes[0].kind = NodeKind::Block),
                "no node of a",
            ),
            (
                lie(|e| e.device_nodes[0].path = "/dev/../etc/x".into()),
                "under /dev",
            ),
            (lie(|e| e.device_nodes[0].path = "/x".into()), "under /dev"),
            (lie(|e| e.device_nodes[0].mode = Some(0o4777)), "odd mode"),
            (
                lie(|e| e.device_nodes.push(node("a", 0, "/dev/x0"))),
                "twice",
            ),
            (
                lie(|e| e.device_nodes.push(node("a", 0, "/dev/x1"))),
                "second path",
            ),
            (mount("/", "/host"), "plain absolute path"),
            (mount("/usr", "/"), "plain absolute path"),
            (mount("/usr/../etc", "/x"), "plain absolute path"),
            (mount("usr", "/x"), "plain absolute path"),
            (mount("/usr/", "/x"), "plain absolute path"),
            (mount("/usr", "/proc/x"), "under /proc"),
            (mount("/usr", "/dev"), "under /dev"),
            (mount("/etc/shadow", "/x"), "under /etc"),
            (mount("/run/docker.sock", "/x"), "under /run"),
            (env("LD_PRELOAD"), "loader variable"),
            (env("PATH"), "without reserving"),
            (env("A B"), "no environment variable"),
            (env(""), "no environment variable"),
            (
                lie(|e| e.library_paths.push("/opt/elsewhere".into())),
                "mounts nothing",
            ),
            (lie(|e| e.additional_gids.push(0)), "root group"),
            (lie(|e| e.resources.memory_bytes = Some(11)), "above the 10"),
            (
                lie(|e| e.resources.cpuset_cpus = Some("3-1".into())),
                "not a kernel list",
            ),
            (
                lie(|e| e.resources.cpuset_mems = Some("0\n1".into())),
                "not a kernel list",
            ),
            (
                lie(|e| {
                    e.resources.cpu_quota = Some(CpuQuota {
                        quota_us: 1,
                        period_us: 20_000,
                    })
                }),
                "outside",
            ),
        ];
        for (said, why) in cases {
            assert!(said.contains(why), "{said:?} should mention {why:?}");
        }
    }

    #[test]
    fn devices_are_unique_and_consistent() {
        let check = |devices: Vec<Device>| {
            discovery(&Discovery {
                devices,
                ..Default::default()
            })
            .map_err(|l| l.to_string())
        };
        assert_eq!(check(vec![device("a", 0), device("b", 1)]), Ok(()));
        assert!(
            check(vec![device("a", 0), device("a", 1)])
                .unwrap_err()
                .contains("twice")
        );
        assert!(
            check(vec![device("a\x1b[31m", 0)])
                .unwrap_err()
                .contains("device id")
        );
        let mut greedy = device("a", 0);
        greedy.capacities.get_mut("memory").unwrap().reserved = Amount::from_units(101);
        assert!(
            check(vec![greedy])
                .unwrap_err()
                .contains("more than there is")
        );
        let mut orphan = device("a", 0);
        orphan.parent = Some("z".into());
        assert!(check(vec![orphan]).unwrap_err().contains("not there"));
    }
}

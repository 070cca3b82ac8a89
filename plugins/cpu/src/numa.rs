//! NUMA nodes: their CPUs, memory and distances.
//!
//! A machine without `/sys/devices/system/node` (no `CONFIG_NUMA`, small ARM)
//! is one node 0 with every CPU and all of `/proc/meminfo`: cgroups call it
//! node 0 as well. Node numbers have gaps; a node may have no CPUs, no
//! memory, or be a GPU's. Which nodes exist is what `online` says.
//! (Kernel: Documentation/ABI/stable/sysfs-devices-node.)

use std::collections::{BTreeMap, BTreeSet};

use crate::cpulist::CpuSet;
use crate::gpu;
use crate::sysfs::Reader;
use crate::topology::Node;

const NODES: &str = "sys/devices/system/node";

/// All online nodes, ascending, with their online CPUs; limits of a cgroup
/// are not yet applied.
pub(crate) fn nodes(reader: &Reader, online: &CpuSet) -> Vec<Node> {
    let folders = reader.numbered(NODES, "node");
    if folders.is_empty() {
        return vec![whole_machine(reader, online)];
    }
    let named = reader
        .list(&format!("{NODES}/online"))
        .filter(|set| !set.is_empty());
    let ids = match &named {
        Some(named) => named.and(&folders),
        None => folders,
    };
    let mut nodes: Vec<Node> = ids
        .iter()
        .map(|id| node(reader, id, named.as_ref().unwrap_or(&ids), online))
        .collect();
    if let [only] = nodes.as_mut_slice() {
        only.memory = all_of(only.memory, machine_memory(reader));
    }
    for node in &nodes {
        if node.memory.is_none() {
            reader.warn(format!("the memory of NUMA node {} is not known", node.id));
        }
    }
    gpu::mark(reader, &mut nodes);
    nodes
}

fn node(reader: &Reader, id: u32, ids: &CpuSet, online: &CpuSet) -> Node {
    let at = format!("{NODES}/node{id}");
    let cpus = reader
        .list(&format!("{at}/cpulist"))
        .or_else(|| reader.mask(&format!("{at}/cpumap")))
        .unwrap_or_default()
        .and(online);
    let facts = reader.text(&format!("{at}/meminfo")).unwrap_or_default();
    let facts = meminfo(&facts);
    Node {
        id,
        packages: BTreeSet::new(),
        memory_only: cpus.is_empty(),
        cpus,
        memory: facts.get("MemTotal").copied(),
        huge_pages: huge_pages(reader, &at),
        distances: distances(reader, &at, ids),
        gpu: None,
        usable: true,
    }
}

fn whole_machine(reader: &Reader, online: &CpuSet) -> Node {
    let memory = machine_memory(reader);
    if memory.is_none() {
        reader.warn("the machine's memory is not known: no MemTotal in /proc/meminfo".into());
    }
    Node {
        id: 0,
        cpus: online.clone(),
        packages: BTreeSet::new(),
        memory_only: false,
        memory,
        huge_pages: huge_pages(reader, "sys/kernel/mm"),
        distances: BTreeMap::from([(0, 10)]),
        gpu: None,
        usable: true,
    }
}

fn machine_memory(reader: &Reader) -> Option<u64> {
    let text = reader.text("proc/meminfo")?;
    meminfo(&text).get("MemTotal").copied()
}

/// The memory of a machine with one node. What a balloon holds at the moment
/// (virtio-balloon) is missing from the node's `MemTotal` but not from the
/// machine's, which is what can be used; otherwise the two differ by a few
/// pages, and the node's is exact.
fn all_of(node: Option<u64>, machine: Option<u64>) -> Option<u64> {
    match (node, machine) {
        (Some(node), Some(machine)) if machine / 20 * 19 <= node => Some(node),
        (node, machine) => machine.or(node),
    }
}

/// The file lists the nodes that are online, in their order, not by number.
fn distances(reader: &Reader, at: &str, ids: &CpuSet) -> BTreeMap<u32, u32> {
    let Some(text) = reader.text(&format!("{at}/distance")) else {
        return BTreeMap::new();
    };
    let row: Option<Vec<u32>> = text.split_whitespace().map(|d| d.parse().ok()).collect();
    match row {
        Some(row) if row.len() == ids.len() => ids.iter().zip(row).collect(),
        _ => {
            reader.warn(format!(
                "/{at}/distance: {text:?} does not have one number for each of {ids}"
            ));
            BTreeMap::new()
        }
    }
}

/// Bytes set aside as huge pages of any size.
fn huge_pages(reader: &Reader, at: &str) -> u64 {
    let folder = format!("{at}/hugepages");
    reader
        .names(&folder)
        .iter()
        .filter_map(|name| {
            let kb: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count = reader.natural(&format!("{folder}/{name}/nr_hugepages"))?;
            kb.checked_mul(1024)?.checked_mul(count.into())
        })
        .fold(0, u64::saturating_add)
}

/// Reads `/proc/meminfo`, or a node's, whose lines begin with `Node N`. Sizes
/// come out in bytes, counts as they are.
pub(crate) fn meminfo(text: &str) -> BTreeMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            let mut value = value.split_whitespace();
            let number: u64 = value.next()?.parse().ok()?;
            let unit = if value.next() == Some("kB") { 1024 } else { 1 };
            Some((key.split_whitespace().last()?, number.checked_mul(unit)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balloon_hides_no_memory_and_a_few_pages_are_no_balloon() {
        assert_eq!(all_of(Some(1000), Some(1001)), Some(1000));
        assert_eq!(all_of(Some(400), Some(1000)), Some(1000));
        assert_eq!(all_of(None, Some(1000)), Some(1000));
        assert_eq!(all_of(Some(1000), None), Some(1000));
    }

    #[test]
    fn meminfo_of_machine_and_node() {
        let facts = meminfo("MemTotal:  280840 kB\nHugePages_Total:   3\nbroken\n:\n");
        assert_eq!(facts["MemTotal"], 280_840 * 1024);
        assert_eq!(facts["HugePages_Total"], 3);
        let facts = meminfo("\nNode 33 MemTotal:       16777216 kB\n");
        assert_eq!(facts["MemTotal"], 16 << 30);
        assert!(meminfo("MemTotal: 18446744073709551615 kB").is_empty());
    }
}

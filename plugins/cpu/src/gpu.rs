//! Tells memory of GPUs from memory of the host.
//!
//! On POWER9 with V100 and on Grace with Hopper the GPUs' memory appears as
//! NUMA nodes without CPUs, and counts in `MemTotal`. Whoever took it for
//! host memory would promise the same bytes that a GPU plugin promises.
//! Memory-only nodes as such are common (CXL, Optane, HBM of a Xeon Max), so
//! one of these must speak against the node:
//!
//! 1. `/proc/driver/nvidia/gpus/*/numa_status` names it (hwloc goes by this);
//! 2. a PCI display device of NVIDIA or AMD says that it sits on it
//!    (`numa_node`): a node of host memory that a GPU sits on has CPUs;
//! 3. the firmware calls it a generic initiator's (`has_generic_initiator`),
//!    and there is an NVIDIA or AMD GPU at all: so Grace describes its GPU.
//!
//! Such a node is listed with the attribute `gpu`, wholly reserved, and never
//! in a cpuset.

use std::collections::BTreeMap;

use crate::sysfs::Reader;
use crate::topology::Node;

const PCI: &str = "sys/bus/pci/devices";
const DRIVER: &str = "proc/driver/nvidia/gpus";
/// Vendor ids of NVIDIA and AMD.
const VENDORS: [&str; 2] = ["0x10de", "0x1002"];
/// PCI base class "display controller", and AMD's "processing accelerator".
const CLASSES: [&str; 2] = ["0x03", "0x12"];

/// Marks the nodes that are GPUs' memory.
pub(crate) fn mark(reader: &Reader, nodes: &mut [Node]) {
    let suspect = |node: &Node| node.memory_only && node.memory != Some(0);
    if !nodes.iter().any(suspect) {
        return;
    }
    let owners = owners(reader);
    let initiators = reader
        .list("sys/devices/system/node/has_generic_initiator")
        .unwrap_or_default();
    let gpus = display_devices(reader);
    for node in nodes.iter_mut().filter(|node| suspect(node)) {
        let at = |(address, numa): (&String, &Option<u32>)| {
            (*numa == Some(node.id)).then(|| address.clone())
        };
        let any = || {
            let one = gpus.keys().next()?;
            initiators.contains(node.id).then(|| one.clone())
        };
        let owner = owners
            .get(&node.id)
            .cloned()
            .or_else(|| gpus.iter().find_map(at))
            .or_else(any);
        if let Some(address) = owner {
            reader.warn(format!(
                "NUMA node {} is memory of a GPU ({address}) and is not offered as host memory",
                node.id
            ));
            node.gpu = Some(address);
        }
    }
}

/// NVIDIA's driver: node number to PCI address.
fn owners(reader: &Reader) -> BTreeMap<u32, String> {
    reader
        .names(DRIVER)
        .into_iter()
        .filter_map(|address| {
            let text = reader.text(&format!("{DRIVER}/{address}/numa_status"))?;
            let node = text.lines().find_map(|l| l.trim().strip_prefix("Node:"))?;
            Some((node.trim().parse().ok()?, address))
        })
        .collect()
}

/// GPUs on the PCI bus: address to the NUMA node that they say.
fn display_devices(reader: &Reader) -> BTreeMap<String, Option<u32>> {
    reader
        .names(PCI)
        .into_iter()
        .filter(|address| {
            let is = |file: &str, starts: &[&str]| {
                reader
                    .text(&format!("{PCI}/{address}/{file}"))
                    .is_some_and(|text| starts.iter().any(|s| text.starts_with(s)))
            };
            is("class", &CLASSES) && is("vendor", &VENDORS)
        })
        .map(|address| {
            let node = reader.natural(&format!("{PCI}/{address}/numa_node"));
            (address, node)
        })
        .collect()
}

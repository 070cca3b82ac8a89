//! A topology as devices.
//!
//! One device of kind `core` per physical core (capacity `cores`, total 1),
//! one of kind `memory` per usable NUMA node that has memory, or may have it
//! (capacity `memory`, in bytes). Nothing in them changes by itself: no
//! current frequency, no free memory, so that `watch` is quiet.

use std::collections::BTreeMap;

use divvy_plugin::{Amount, Attribute, Capacity, Device, Discovery, Health, HealthState, NumaNode};

use crate::reserve::Reserved;
use crate::topology::{Core, Node, Topology};

/// The id of a NUMA node's memory.
pub(crate) fn memory_id(node: u32) -> String {
    format!("node-{node}")
}

/// Everything that there is.
pub(crate) fn discovery(topology: &Topology, reserved: &Reserved) -> Discovery {
    let cores = topology
        .cores
        .iter()
        .map(|core| core_device(core, &topology.model, reserved));
    let memory = topology
        .nodes
        .iter()
        .filter(|node| node.usable && node.memory != Some(0))
        .map(|node| memory_device(node, reserved));
    Discovery {
        devices: cores.chain(memory).collect(),
        numa_nodes: topology.nodes.iter().map(numa_node).collect(),
        warnings: topology.warnings.clone(),
    }
}

fn numa_node(node: &Node) -> NumaNode {
    NumaNode {
        id: node.id,
        distances: node.distances.clone(),
    }
}

fn core_device(core: &Core, model: &str, reserved: &Reserved) -> Device {
    let mut attributes = BTreeMap::from([
        ("cpus".into(), Attribute::text(core.threads.to_string())),
        (
            "threads".into(),
            Attribute::int(i64::try_from(core.threads.len()).unwrap_or(i64::MAX)),
        ),
    ]);
    let mut put = |name: &str, value: Option<Attribute>| {
        attributes.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("package", core.package.map(|n| Attribute::int(n.into())));
    put("core", core.core.map(|n| Attribute::int(n.into())));
    put("type", core.kind.map(|kind| Attribute::text(kind.name())));
    put("cache", core.cache.clone().map(Attribute::text));
    put(
        "max_frequency",
        core.max_mhz.map(|mhz| Attribute::int_in(mhz.into(), "MHz")),
    );
    let kept = match reserved.cores.contains(&core.id) {
        true => Amount::ONE,
        false => Amount::ZERO,
    };
    device(
        (core.id.clone(), "core", model.to_owned()),
        core.node,
        attributes,
        ("cores", Amount::ONE, kept),
    )
}

fn memory_device(node: &Node, reserved: &Reserved) -> Device {
    let bytes = |n: u64| Attribute::int_in(i64::try_from(n).unwrap_or(i64::MAX), "byte");
    let mut attributes = BTreeMap::from([
        ("cpus".into(), Attribute::text(node.cpus.to_string())),
        ("memory_only".into(), Attribute::flag(node.memory_only)),
    ]);
    if node.huge_pages > 0 {
        attributes.insert("huge_pages".into(), bytes(node.huge_pages));
    }
    if let Some(address) = &node.gpu {
        attributes.insert("gpu".into(), Attribute::text(address.clone()));
    }
    let kept = reserved.memory.get(&node.id).copied().unwrap_or(0);
    let model = match &node.gpu {
        Some(_) => format!("NUMA node {} (GPU memory)", node.id),
        None => format!("NUMA node {}", node.id),
    };
    let mut device = device(
        (memory_id(node.id), "memory", model),
        Some(node.id),
        attributes,
        (
            "memory",
            Amount::from_units(node.memory.unwrap_or(0)),
            Amount::from_units(kept),
        ),
    );
    if node.memory.is_none() {
        device.health = Health {
            state: HealthState::Unknown,
            reason: Some("the kernel does not say how much memory this node has".into()),
        };
    }
    device
}

fn device(
    (id, kind, model): (String, &str, String),
    numa_node: Option<u32>,
    attributes: BTreeMap<String, Attribute>,
    (capacity, total, reserved): (&str, Amount, Amount),
) -> Device {
    Device {
        numa_node,
        attributes,
        capacities: [(
            capacity.into(),
            Capacity {
                reserved,
                ..Capacity::of(total)
            },
        )]
        .into(),
        ..Device::new(id, kind, model)
    }
}

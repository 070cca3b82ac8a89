//! Given this machine, when this is asked, then that: by example
//! ([`rules`], [`accelerators`], [`served`]), and whatever the machine and the history
//! ([`properties`]), and against trying everything ([`oracle`], [`cuts`]).

mod accelerators;
mod cuts;
mod geometries;
mod oracle;
mod properties;
mod rules;
mod served;

use std::collections::BTreeMap;

use super::*;
use crate::model::{
    Capacity, DefaultAmount, Device, Draw, EnforcementLevel, Inventory, Link, Manifest, NumaNode,
    Partitioning, Profile, Request, Shape, Slice, Slot,
};

fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

fn request(slots: &[(&str, &str)]) -> Request {
    Request {
        slots: slots
            .iter()
            .map(|(s, a)| ((*s).to_owned(), amount(a)))
            .collect(),
        ..Request::default()
    }
}

fn resolve(snapshot: &Snapshot, request: &Request) -> Result<Choices, Box<Refusal>> {
    Choices::resolve(snapshot.machine(), request, &Limits::default())
}

/// Places a request and holds it, by way of the ledger's slices.
fn ask(snapshot: &mut Snapshot, request: &Request) -> Result<Vec<Slice>, Box<Refusal>> {
    let choices = resolve(snapshot, request)?;
    let Some(allocation) = allocate(snapshot, &choices) else {
        return Err(explain::refusal(snapshot, &choices));
    };
    let slices = snapshot.slices(&allocation.grants);
    let mut taken = snapshot.clone();
    taken.take(&allocation.grants);
    assert_eq!(snapshot.hold(&slices), []);
    assert_eq!(*snapshot, taken, "grants and slices mean the same");
    Ok(slices)
}

/// `device=amount`, with `@start` for partitions.
fn shape(slices: &[Slice]) -> Vec<String> {
    let one = |s: &Slice| {
        let start = s.part.start.map(|n| format!("@{n}")).unwrap_or_default();
        format!("{}={}{start}", s.part.device, s.part.amount)
    };
    slices.iter().map(one).collect()
}

fn manifest(name: &str, slots: Vec<Slot>) -> (String, Manifest) {
    let manifest = Manifest {
        name: name.into(),
        version: "1".into(),
        summary: String::new(),
        slots,
        reserved_env: vec![],
        config: vec![],
    };
    (name.to_owned(), manifest)
}

fn device(plugin: &str, id: String, node: Option<u32>, capacities: &[(&str, Amount)]) -> Device {
    Device {
        plugin: plugin.into(),
        device: divvy_plugin::Device {
            numa_node: node,
            capacities: capacities
                .iter()
                .map(|(name, total)| ((*name).to_owned(), Capacity::of(*total)))
                .collect(),
            ..divvy_plugin::Device::new(id, "unit", "")
        },
    }
}

fn nodes(count: u32) -> std::collections::BTreeMap<u32, NumaNode> {
    let distance = |a: u32, b: u32| if a == b { 10 } else { 10 + 5 * a.abs_diff(b) };
    let node = |id| {
        let distances = (0..count).map(|b| (b, distance(id, b))).collect();
        (id, NumaNode { id, distances })
    };
    (0..count).map(node).collect()
}

/// `nodes` NUMA nodes of so many cores and units of memory each.
fn cores(node_count: u32, cores: u32, memory: u64) -> Inventory {
    let slots = vec![
        Slot {
            quantum: amount("0.01"),
            draws: vec![Draw::unit("cores")],
            default: Some(DefaultAmount::Fixed(Amount::ONE)),
            ..Slot::new(
                "cpu",
                "core",
                Shape::WholeThenFraction,
                EnforcementLevel::Kernel,
            )
        },
        Slot {
            draws: vec![Draw::unit("memory")],
            default: Some(DefaultAmount::Like("cpu".into())),
            ..Slot::new("mem", "byte", Shape::Divisible, EnforcementLevel::Kernel)
        },
    ];
    let all = (0..node_count).flat_map(|n| (0..cores).map(move |c| (n, c)));
    let memory = Amount::from_units(memory);
    Inventory {
        plugins: [manifest("cpu", slots)].into(),
        devices: all
            .map(|(n, c)| {
                device(
                    "cpu",
                    format!("core-{n}-{c}"),
                    Some(n),
                    &[("cores", Amount::ONE)],
                )
            })
            .chain(
                (0..node_count)
                    .map(|n| device("cpu", format!("node-{n}"), Some(n), &[("memory", memory)])),
            )
            .collect(),
        numa_nodes: nodes(node_count),
        ..Inventory::default()
    }
}

/// GPUs of 80 units of memory and 100 of compute, in steps of one, that can be
/// had whole, shared, by memory, or cut as an A100 or H100 is
/// (1, 1 with twice the memory, 2, 3, 4 and 7 of 7 compute slices, over 8 memory
/// slices). GPUs are spread over so many nodes.
fn gpus(count: u32, node_count: u32) -> Inventory {
    let slot = |name: &str, class: &str, unit: &str, mode: &str, shape, draws| Slot {
        class: class.into(),
        mode: Some(mode.into()),
        draws,
        ..Slot::new(name, unit, shape, EnforcementLevel::Cooperative)
    };
    let all = || vec![Draw::share("memory"), Draw::share("compute")];
    let mig = |name: &str| Slot {
        level: EnforcementLevel::Hardware,
        ..slot(
            name,
            "gpu.partition",
            "partition",
            "partitioned",
            Shape::Partition,
            vec![],
        )
    };
    let mut slots = vec![
        slot("gpu.device", "gpu", "device", "whole", Shape::Whole, all()),
        Slot {
            quantum: amount("0.01"),
            ..slot("gpu.shares", "gpu", "share", "shared", Shape::Single, all())
        },
        slot(
            "gpu.mem",
            "gpu.mem",
            "byte",
            "shared",
            Shape::Single,
            vec![Draw::unit("memory"), Draw::like("compute", "memory")],
        ),
        Slot {
            quantum: amount("0.01"),
            ..slot(
                "gpu.compute",
                "gpu.compute",
                "share",
                "shared",
                Shape::Single,
                vec![Draw::share("compute")],
            )
        },
    ];
    // (name, compute slices, memory slices, starts)
    let profiles: [(&str, u64, u32, &[u32]); 6] = [
        ("gpu.mig-1g", 1, 1, &[0, 1, 2, 3, 4, 5, 6]),
        ("gpu.mig-1g-wide", 1, 2, &[0, 2, 4, 6]),
        ("gpu.mig-2g", 2, 2, &[0, 2, 4]),
        ("gpu.mig-3g", 3, 4, &[0, 4]),
        ("gpu.mig-4g", 4, 4, &[0]),
        ("gpu.mig-7g", 7, 8, &[0]),
    ];
    slots.extend(profiles.iter().map(|p| mig(p.0)));
    let partitioning = Partitioning {
        positions: 8,
        profiles: profiles
            .iter()
            .map(|(slot, compute, size, starts)| Profile {
                slot: (*slot).into(),
                size: *size,
                starts: starts.to_vec(),
                capacities: [
                    ("compute-slices".to_owned(), Amount::from_units(*compute)),
                    (
                        "memory".to_owned(),
                        Amount::from_units(u64::from(*size) * 10),
                    ),
                ]
                .into(),
                serves: BTreeMap::new(),
            })
            .collect(),
    };
    let units = Amount::from_units;
    let devices = (0..count).map(|i| {
        let capacities = [
            ("memory", units(80)),
            ("compute", units(100)),
            ("compute-slices", units(7)),
        ];
        let mut gpu = device(
            "gpu",
            format!("g{i}"),
            Some(i * node_count / count),
            &capacities,
        );
        gpu.device.partitioning = Some(partitioning.clone());
        for capacity in gpu.device.capacities.values_mut() {
            capacity.step = Some(Amount::ONE);
        }
        gpu
    });
    Inventory {
        plugins: [manifest("gpu", slots)].into(),
        devices: devices.collect(),
        numa_nodes: nodes(node_count),
        ..Inventory::default()
    }
}

/// Links devices, both ways.
fn link(inventory: &mut Inventory, pairs: &[(usize, usize, u32)]) {
    for &(a, b, weight) in pairs {
        for (from, to) in [(a, b), (b, a)] {
            let to = inventory.devices[to].device.id.clone();
            inventory.devices[from].device.links.push(Link {
                to,
                kind: "nvlink".into(),
                weight,
            });
        }
    }
}

/// Both machines in one.
fn with_cores(mut gpus: Inventory, cores: Inventory) -> Inventory {
    gpus.plugins.extend(cores.plugins);
    gpus.devices.extend(cores.devices);
    gpus.numa_nodes.extend(cores.numa_nodes);
    gpus
}

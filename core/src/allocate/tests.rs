//! Given this machine, when this is asked, then that.

use std::collections::BTreeMap;

use divvy_plugin::{Draw, Health};
use proptest::prelude::*;

use super::*;
use crate::model::{
    Capacity, DefaultAmount, Device, EnforcementLevel, Inventory, Manifest, NumaNode, Request,
    Shape, Slice, Slot,
};

fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

/// `nodes` NUMA nodes of `cores` cores and `memory` units each.
fn machine(nodes: u32, cores: u32, memory: u64) -> Inventory {
    let slot = |name: &str, quantum: &str, capacity: &str, shape, default| Slot {
        name: name.into(),
        summary: String::new(),
        unit: if name == "mem" {
            "byte".into()
        } else {
            "core".into()
        },
        quantum: amount(quantum),
        class: name.into(),
        draws: vec![Draw {
            capacity: capacity.into(),
            per_unit: Amount::ONE,
        }],
        shape,
        default: Some(default),
        level: EnforcementLevel::Kernel,
    };
    let manifest = Manifest {
        name: "cpu".into(),
        version: "1".into(),
        summary: String::new(),
        slots: vec![
            slot(
                "cpu",
                "0.01",
                "cores",
                Shape::WholeThenFraction,
                DefaultAmount::Fixed(Amount::ONE),
            ),
            slot(
                "mem",
                "1",
                "memory",
                Shape::Divisible,
                DefaultAmount::Like("cpu".into()),
            ),
        ],
        reserved_env: vec![],
        config: vec![],
    };
    let device = |id: String, node: u32, capacity: &str, total: Amount| Device {
        plugin: "cpu".into(),
        device: divvy_plugin::Device {
            id,
            kind: capacity.into(),
            model: String::new(),
            numa_node: Some(node),
            health: Health::healthy(),
            attributes: BTreeMap::new(),
            capacities: [(
                capacity.to_owned(),
                Capacity {
                    total,
                    reserved: Amount::ZERO,
                },
            )]
            .into(),
            nodes: vec![],
            links: vec![],
            parent: None,
        },
    };
    let mut devices = Vec::new();
    for n in 0..nodes {
        for c in 0..cores {
            devices.push(device(format!("core-{n}-{c}"), n, "cores", Amount::ONE));
        }
    }
    for n in 0..nodes {
        devices.push(device(
            format!("node-{n}"),
            n,
            "memory",
            Amount::from_units(memory),
        ));
    }
    let distance = |a: u32, b: u32| if a == b { 10 } else { 10 + 5 * a.abs_diff(b) };
    Inventory {
        plugins: [("cpu".to_owned(), manifest)].into(),
        devices,
        numa_nodes: (0..nodes)
            .map(|a| {
                (
                    a,
                    NumaNode {
                        id: a,
                        distances: (0..nodes).map(|b| (b, distance(a, b))).collect(),
                    },
                )
            })
            .collect(),
    }
}

fn ask(snapshot: &mut Snapshot, cpu: &str, mem: &str) -> Result<Vec<Slice>, Box<Refusal>> {
    let request = Request {
        slots: [
            ("cpu".to_owned(), amount(cpu)),
            ("mem".to_owned(), amount(mem)),
        ]
        .into(),
    };
    let demand = Demand::resolve(snapshot, &request)?;
    let slices: Vec<Slice> = allocate(snapshot, &demand)?
        .into_iter()
        .map(|g| snapshot.slice(g))
        .collect();
    assert_eq!(snapshot.hold(&slices), []);
    Ok(slices)
}

fn shape(slices: &[Slice]) -> Vec<String> {
    slices
        .iter()
        .map(|s| format!("{}={}", s.part.device, s.part.amount))
        .collect()
}

#[test]
fn halves_share_a_core_and_leave_the_other_whole() {
    let mut snapshot = Snapshot::new(&machine(1, 2, 100));
    assert_eq!(
        shape(&ask(&mut snapshot, "0.5", "10").unwrap()),
        ["core-0-0=0.5", "node-0=10"]
    );
    assert_eq!(
        shape(&ask(&mut snapshot, "0.5", "10").unwrap()),
        ["core-0-0=0.5", "node-0=10"]
    );
    assert_eq!(
        shape(&ask(&mut snapshot, "1", "10").unwrap()),
        ["core-0-1=1", "node-0=10"]
    );
    let refusal = ask(&mut snapshot, "0.01", "1").unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Insufficient);
    assert_eq!(
        refusal.message,
        "cpu: 0.01 asked, 0 free of 2; nothing of it can be granted now"
    );
}

#[test]
fn one_and_a_half_lies_beside_a_half() {
    let mut snapshot = Snapshot::new(&machine(1, 2, 100));
    ask(&mut snapshot, "0.5", "10").unwrap();
    assert_eq!(
        shape(&ask(&mut snapshot, "1.5", "10").unwrap()),
        ["core-0-1=1", "core-0-0=0.5", "node-0=10"]
    );
}

#[test]
fn two_halves_of_different_cores_are_not_a_core() {
    let mut snapshot = Snapshot::new(&machine(1, 2, 100));
    ask(&mut snapshot, "0.6", "10").unwrap();
    ask(&mut snapshot, "0.6", "10").unwrap();
    let refusal = ask(&mut snapshot, "0.8", "10").unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Fragmented);
    assert_eq!(
        refusal.message,
        "cpu: 0.8 asked, 0.8 free of 2, but not as whole devices and one part; the largest that fits now is 0.4"
    );
}

#[test]
fn memory_comes_from_the_node_of_the_cores() {
    let mut snapshot = Snapshot::new(&machine(4, 2, 100));
    ask(&mut snapshot, "2", "10").unwrap();
    assert_eq!(
        shape(&ask(&mut snapshot, "2", "50").unwrap()),
        ["core-1-0=1", "core-1-1=1", "node-1=50"]
    );
    // 1.5 cores want one node, and its memory.
    assert_eq!(
        shape(&ask(&mut snapshot, "1.5", "100").unwrap()),
        ["core-2-0=1", "core-2-1=0.5", "node-2=100"]
    );
}

#[test]
fn what_does_not_fit_one_node_spills_to_the_nearest() {
    let mut snapshot = Snapshot::new(&machine(4, 2, 100));
    assert_eq!(
        shape(&ask(&mut snapshot, "3", "150").unwrap()),
        [
            "core-0-0=1",
            "core-0-1=1",
            "core-1-0=1",
            "node-0=100",
            "node-1=50"
        ]
    );
}

#[test]
fn a_refusal_of_one_slot_takes_nothing_of_the_other() {
    let mut snapshot = Snapshot::new(&machine(1, 2, 100));
    let before = format!("{:?}", snapshot.cells);
    let refusal = ask(&mut snapshot, "1", "101").unwrap_err();
    assert_eq!(
        (refusal.code, refusal.slot.as_str()),
        (RefusalCode::Insufficient, "mem")
    );
    assert_eq!(format!("{:?}", snapshot.cells), before);
}

#[test]
fn defaults_are_one_core_and_its_share_of_memory() {
    let snapshot = Snapshot::new(&machine(1, 4, 1001));
    let demand = Demand::resolve(&snapshot, &Request::default()).unwrap();
    let amounts: Vec<_> = demand
        .amounts(&snapshot)
        .map(|(n, a)| format!("{n}={a}"))
        .collect();
    assert_eq!(amounts, ["cpu=1", "mem=250"]);
}

#[test]
fn nothing_asked_is_the_default_too() {
    let snapshot = Snapshot::new(&machine(1, 4, 1000));
    let request = Request {
        slots: [("cpu".to_owned(), Amount::ZERO)].into(),
    };
    let demand = Demand::resolve(&snapshot, &request).unwrap();
    let amounts: Vec<_> = demand
        .amounts(&snapshot)
        .map(|(n, a)| format!("{n}={a}"))
        .collect();
    assert_eq!(amounts, ["cpu=1", "mem=250"]);
}

#[test]
fn off_quantum_and_unknown_say_what_is_right() {
    let snapshot = Snapshot::new(&machine(1, 4, 1000));
    let resolve = |slot: &str, a: &str| {
        let request = Request {
            slots: [(slot.to_owned(), amount(a))].into(),
        };
        Demand::resolve(&snapshot, &request).unwrap_err().message
    };
    assert_eq!(
        resolve("cpu", "0.505"),
        "cpu: 0.505 is not a multiple of 0.01; the nearest legal amounts: 0.5 and 0.51"
    );
    assert_eq!(
        resolve("cpu", "0.001"),
        "cpu: 0.001 is not a multiple of 0.01; the nearest legal amounts: 0.01"
    );
    assert_eq!(
        resolve("gpu", "1"),
        "gpu: no plugin here offers this slot; the slots are: cpu, mem"
    );
}

#[test]
fn reserved_and_unhealthy_are_never_granted() {
    let mut inventory = machine(1, 3, 100);
    inventory.devices[0]
        .device
        .capacities
        .get_mut("cores")
        .unwrap()
        .reserved = Amount::ONE;
    inventory.devices[1].device.health = Health {
        state: crate::model::HealthState::Unhealthy,
        reason: Some("on fire".into()),
    };
    let mut snapshot = Snapshot::new(&inventory);
    assert_eq!(
        shape(&ask(&mut snapshot, "1", "1").unwrap()),
        ["core-0-2=1", "node-0=1"]
    );
    let refusal = ask(&mut snapshot, "0.5", "1").unwrap_err();
    assert!(
        refusal.message.contains("closed: cpu/core-0-1 (on fire)"),
        "{}",
        refusal.message
    );
}

#[test]
fn holding_too_much_closes_the_device_instead_of_going_negative() {
    let mut snapshot = Snapshot::new(&machine(1, 2, 100));
    let slices = ask(&mut snapshot, "1", "1").unwrap();
    let problems = snapshot.hold(&slices[..1]);
    assert!(
        problems[0].what.starts_with("over_capacity"),
        "{problems:?}"
    );
    assert!(snapshot.closed(&slices[0].device()).is_some());
    let mut gone = slices[0].clone();
    gone.part.device = "core-9".into();
    assert!(snapshot.hold([&gone])[0].what.contains("not there"));
}

proptest! {
    /// Whatever is asked, in whatever order things end: exact or refused, no
    /// device over its capacity, whole cores never shared, and a refusal only
    /// if the stated largest amount is below what was asked.
    #[test]
    fn grants_are_exact_and_never_overlap(
        nodes in 1u32..4, cores in 1u32..5,
        steps in prop::collection::vec((1u32..450, 1u64..120, any::<bool>(), any::<prop::sample::Index>()), 1..40),
    ) {
        let inventory = machine(nodes, cores, 100);
        let mut held: Vec<Vec<Slice>> = Vec::new();
        for (cpu, mem, release, which) in steps {
            if release && !held.is_empty() {
                held.remove(which.index(held.len()));
                continue;
            }
            let mut snapshot = Snapshot::new(&inventory);
            prop_assert_eq!(snapshot.hold(held.iter().flatten()), vec![]);
            let cpu = Amount::from_nanos(u128::from(cpu) * 10_000_000).unwrap();
            match ask(&mut snapshot, &cpu.to_string(), &mem.to_string()) {
                Ok(slices) => {
                    let sum = |slot: &str| slices.iter().filter(|s| s.part.slot == slot)
                        .map(|s| s.part.amount).sum::<Amount>();
                    prop_assert_eq!(sum("cpu"), cpu);
                    prop_assert_eq!(sum("mem"), Amount::from_units(mem));
                    let parts = slices.iter().filter(|s| s.part.slot == "cpu" && s.part.amount < Amount::ONE).count();
                    prop_assert!(parts <= 1, "one fraction at most: {:?}", shape(&slices));
                    held.push(slices);
                }
                Err(refusal) => {
                    prop_assert!(refusal.largest.unwrap() < refusal.asked.unwrap(), "{}", refusal);
                }
            }
        }
    }
}

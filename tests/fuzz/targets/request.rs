//! Any history of requests on any machine of up to 64 accelerators and some
//! cores: nothing panics, and no decision, explanation included, takes more
//! than ten milliseconds (the best of three, so that the machine's own noise
//! does not count).
#![no_main]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use divvy::allocate::{Book, Choices, Limits, Snapshot, allocate, explain};
use divvy::model::{
    Amount, Capacity, DefaultAmount, Device, Draw, EnforcementLevel, Inventory, Link, Manifest,
    Near, NumaNode, Partitioning, Policy, Profile, Request, Shape, Slot,
};
use libfuzzer_sys::fuzz_target;

/// The limit of one decision.
const LIMIT: Duration = Duration::from_millis(10);
const SLOTS: [(&str, u64); 8] = [
    ("cpu", 10_000_000),
    ("mem", 1_000_000_000),
    ("gpu", 1_000_000_000),
    ("gpu.shares", 1_000_000),
    ("gpu.mem", 1_000_000_000),
    ("gpu.p1", 1_000_000_000),
    ("gpu.p2", 1_000_000_000),
    ("gpu.p5", 1_000_000_000),
];

#[derive(Arbitrary, Debug)]
struct Input {
    gpus: u8,
    cores: u8,
    nodes: u8,
    links: Vec<(u8, u8, u16)>,
    parents: Vec<(u8, u8)>,
    positions: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
struct Step {
    release: Option<u8>,
    asked: [(u8, u32); 3],
    policy: u8,
    near: u8,
    unsplit: bool,
}

fuzz_target!(|input: Input| {
    let inventory = machine(&input);
    let mut book = Book::new(Snapshot::new(&inventory));
    for (i, step) in input.steps.iter().take(24).enumerate() {
        if let Some(which) = step.release {
            book.release(&format!("w{which}"));
        }
        let machine = book.snapshot().machine().clone();
        let Ok(choices) = Choices::resolve(&machine, &request(step), &Limits::default()) else {
            continue;
        };
        let snapshot = book.snapshot();
        let decide = |_| {
            let begin = Instant::now();
            if allocate(snapshot, &choices).is_none() {
                std::hint::black_box(explain::refusal(snapshot, &choices));
            }
            begin.elapsed()
        };
        let time = (0..3).map(decide).min().expect("three");
        // Instrumented and checked, the code is a few times slower.
        assert!(time < LIMIT * 4, "{time:?} for {step:?}");
        book.allocate(&format!("w{i}"), &choices);
    }
});

fn request(step: &Step) -> Request {
    let amounts = step.asked.iter().filter_map(|(slot, quanta)| {
        let (name, quantum) = SLOTS.get(usize::from(*slot) % (SLOTS.len() + 1))?;
        let nanos = u128::from(*quanta % 100_000) * u128::from(*quantum);
        Some(((*name).to_owned(), Amount::from_nanos(nanos)?))
    });
    let policies = [
        None,
        Some(Policy::Spread),
        Some(Policy::Fill),
        Some(Policy::Evenly),
    ];
    let nears = [Near::Prefer, Near::Node, Near::Linked, Near::Any];
    Request {
        slots: amounts.collect::<BTreeMap<_, _>>(),
        policy: policies[usize::from(step.policy % 4)],
        near: nears[usize::from(step.near % 4)],
        unsplit: step.unsplit,
        ..Request::default()
    }
}

fn machine(input: &Input) -> Inventory {
    let count = usize::from(input.gpus % 65);
    let nodes = u32::from(input.nodes % 12) + 1;
    let positions = u32::from(input.positions % 64) + 1;
    let mut devices: Vec<Device> = (0..count)
        .map(|i| {
            let mut gpu = device("gpu", format!("g{i}"), Some(i as u32 % nodes));
            gpu.device.capacities = [("memory", 80_000), ("compute", 100)]
                .map(|(name, n)| (name.to_owned(), Capacity::of(Amount::from_units(n))))
                .into();
            let sizes = [1, 2, 5].into_iter().filter(|s| *s <= positions);
            let profiles = sizes.map(|size| Profile {
                slot: format!("gpu.p{size}"),
                size,
                starts: (0..=positions - size).collect(),
                capacities: BTreeMap::new(),
                serves: BTreeMap::new(),
            });
            gpu.device.partitioning = Some(Partitioning {
                positions,
                profiles: profiles.collect(),
            });
            gpu
        })
        .collect();
    for (from, to, weight) in input.links.iter().take(4096) {
        let (Some(from), Some(to)) = (
            usize::from(*from).checked_rem(count),
            usize::from(*to).checked_rem(count),
        ) else {
            break;
        };
        if from != to {
            devices[from].device.links.push(Link {
                to: format!("g{to}"),
                kind: "link".into(),
                weight: (*weight).into(),
            });
        }
    }
    for (child, parent) in &input.parents {
        let (child, parent) = (usize::from(*child), usize::from(*parent));
        if parent < child && child < count {
            devices[child].device.parent = Some(format!("g{parent}"));
        }
    }
    for i in 0..u32::from(input.cores) {
        let mut core = device("cpu", format!("c{i}"), Some(i % nodes));
        core.device.capacities = [("cores".to_owned(), Capacity::of(Amount::ONE))].into();
        devices.push(core);
    }
    for node in 0..nodes {
        let mut memory = device("cpu", format!("m{node}"), Some(node));
        let bytes = Capacity::of(Amount::from_units(1 << 30));
        memory.device.capacities = [("memory".to_owned(), bytes)].into();
        devices.push(memory);
    }
    let distances = |a: u32| (0..nodes).map(|b| (b, 10 + 5 * a.abs_diff(b))).collect();
    Inventory {
        plugins: [manifest("cpu", base()), manifest("gpu", accelerators())].into(),
        devices,
        numa_nodes: (0..nodes)
            .map(|id| {
                (
                    id,
                    NumaNode {
                        id,
                        distances: distances(id),
                    },
                )
            })
            .collect(),
    }
}

fn device(plugin: &str, id: String, node: Option<u32>) -> Device {
    Device {
        plugin: plugin.into(),
        device: divvy_plugin::Device {
            numa_node: node,
            ..divvy_plugin::Device::new(id, plugin, "fuzzed")
        },
    }
}

fn slot(name: &str, class: &str, shape: Shape, mode: Option<&str>, draws: Vec<Draw>) -> Slot {
    Slot {
        class: class.into(),
        mode: mode.map(str::to_owned),
        draws,
        ..Slot::new(name, "unit", shape, EnforcementLevel::Advisory)
    }
}

fn base() -> Vec<Slot> {
    vec![
        Slot {
            quantum: Amount::from_nanos(10_000_000).unwrap_or(Amount::ONE),
            default: Some(DefaultAmount::Fixed(Amount::ONE)),
            ..slot(
                "cpu",
                "cpu",
                Shape::WholeThenFraction,
                None,
                vec![Draw::unit("cores")],
            )
        },
        Slot {
            default: Some(DefaultAmount::Like("cpu".into())),
            ..slot(
                "mem",
                "memory",
                Shape::Divisible,
                None,
                vec![Draw::unit("memory")],
            )
        },
    ]
}

fn accelerators() -> Vec<Slot> {
    let both = || vec![Draw::share("memory"), Draw::share("compute")];
    let mut slots = vec![
        slot("gpu.device", "gpu", Shape::Whole, Some("whole"), both()),
        Slot {
            quantum: Amount::from_nanos(1_000_000).unwrap_or(Amount::ONE),
            ..slot("gpu.shares", "gpu", Shape::Single, Some("shared"), both())
        },
        slot(
            "gpu.mem",
            "gpu.mem",
            Shape::Single,
            Some("shared"),
            vec![Draw::unit("memory"), Draw::like("compute", "memory")],
        ),
    ];
    let part = |name| {
        slot(
            name,
            "gpu.part",
            Shape::Partition,
            Some("partitioned"),
            vec![],
        )
    };
    slots.extend(["gpu.p1", "gpu.p2", "gpu.p5"].map(part));
    slots
}

fn manifest(name: &str, slots: Vec<Slot>) -> (String, Manifest) {
    let manifest = Manifest {
        name: name.into(),
        version: String::new(),
        summary: String::new(),
        slots,
        reserved_env: vec![],
        config: vec![],
    };
    (name.to_owned(), manifest)
}

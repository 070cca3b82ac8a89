//! Who gets what, on machines that are half taken.

use std::error::Error;
use std::time::{Duration, Instant};

use criterion::Criterion;
use divvy::allocate::{Demand, Snapshot, allocate};
use divvy::model::{
    Amount, Capacity, DefaultAmount, Device, EnforcementLevel, Health, Inventory, Manifest,
    NumaNode, Request, Shape, Slice, Slot,
};
use divvy_plugin::Draw;

use crate::figures::Figures;

/// What is asked: cores and bytes.
const ASKED: (&str, &str) = ("1.5", "67108864");
/// Memory of a NUMA node, bytes.
const MEMORY: u64 = 64 << 30;

pub(crate) fn bench(criterion: &mut Criterion, figures: &Figures) -> Result<(), Box<dyn Error>> {
    let mut group = criterion.benchmark_group("allocate");
    for (nodes, cores) in [(1, 2), (8, 256)] {
        let inventory = machine(nodes, cores / nodes);
        let held = if cores == 2 {
            fill(&inventory, 1, "0.25")?
        } else {
            fill(&inventory, cores / 3, "1.5")?
        };
        let request = request(ASKED.0)?;
        let mut snapshot = Snapshot::new(&inventory);
        snapshot.hold(&held);
        let name = format!("decision_{cores}_cores");
        group.bench_function(&name, |b| {
            b.iter_custom(|n| {
                let once = |_| {
                    let begin = Instant::now();
                    let demand = Demand::resolve(&snapshot, &request).expect("a good request");
                    let grants = allocate(&snapshot, &demand).expect("it fits");
                    let time = begin.elapsed();
                    drop(std::hint::black_box(grants));
                    time
                };
                let samples: Vec<Duration> = (0..n).map(once).collect();
                figures.add(&format!("allocate/{name}"), None, samples)
            });
        });
        let name = format!("snapshot_{cores}_cores");
        group.bench_function(&name, |b| {
            b.iter_custom(|n| {
                let once = |_| {
                    let begin = Instant::now();
                    let mut snapshot = Snapshot::new(&inventory);
                    snapshot.hold(&held);
                    let time = begin.elapsed();
                    drop(std::hint::black_box(snapshot));
                    time
                };
                let samples: Vec<Duration> = (0..n).map(once).collect();
                figures.add(&format!("allocate/{name}"), None, samples)
            });
        });
    }
    group.finish();
    Ok(())
}

fn request(cores: &str) -> Result<Request, Box<dyn Error>> {
    Ok(Request {
        slots: [
            ("cpu".to_owned(), cores.parse()?),
            ("mem".to_owned(), ASKED.1.parse()?),
        ]
        .into(),
    })
}

/// Places `count` workloads; what they hold.
fn fill(inventory: &Inventory, count: u32, cores: &str) -> Result<Vec<Slice>, Box<dyn Error>> {
    let mut snapshot = Snapshot::new(inventory);
    let mut held = Vec::new();
    for _ in 0..count {
        let demand = Demand::resolve(&snapshot, &request(cores)?).map_err(|r| format!("{r:?}"))?;
        let grants = allocate(&snapshot, &demand).map_err(|r| format!("{r:?}"))?;
        let slices: Vec<Slice> = grants.into_iter().map(|g| snapshot.slice(g)).collect();
        snapshot.hold(&slices);
        held.extend(slices);
    }
    Ok(held)
}

/// A machine as the CPU plugin describes one.
fn machine(nodes: u32, cores: u32) -> Inventory {
    let slot = |name: &str, unit: &str, quantum: &str, capacity: &str, shape, default| Slot {
        name: name.into(),
        summary: String::new(),
        unit: unit.into(),
        quantum: quantum.parse().unwrap_or(Amount::ONE),
        class: name.into(),
        draws: vec![Draw {
            capacity: capacity.into(),
            per_unit: Amount::ONE,
        }],
        shape,
        default: Some(default),
        level: EnforcementLevel::Kernel,
    };
    let one = DefaultAmount::Fixed(Amount::ONE);
    let manifest = Manifest {
        name: "cpu".into(),
        version: "1".into(),
        summary: String::new(),
        slots: vec![
            slot(
                "cpu",
                "core",
                "0.01",
                "cores",
                Shape::WholeThenFraction,
                one,
            ),
            slot(
                "mem",
                "byte",
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
            attributes: Default::default(),
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
    let all_cores = (0..nodes).flat_map(|n| (0..cores).map(move |c| (n, c)));
    let memory = Amount::from_units(MEMORY);
    let distance = |a: u32, b: u32| if a == b { 10 } else { 10 + 5 * a.abs_diff(b) };
    Inventory {
        plugins: [("cpu".to_owned(), manifest)].into(),
        devices: all_cores
            .map(|(n, c)| device(format!("core-{n}-{c}"), n, "cores", Amount::ONE))
            .chain((0..nodes).map(|n| device(format!("node-{n}"), n, "memory", memory)))
            .collect(),
        numa_nodes: (0..nodes)
            .map(|id| {
                let distances = (0..nodes)
                    .map(|other| (other, distance(id, other)))
                    .collect();
                (id, NumaNode { id, distances })
            })
            .collect(),
    }
}

//! Who gets what: how long a decision takes, and what it is made on weighs.
//!
//! Decisions are far shorter than the clock can see one by one: each sample is
//! the mean of a batch of [`BATCH`] decisions that differ.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use criterion::Criterion;
use divvy::allocate::{Book, Choices, Limits, Snapshot, allocate, explain};
use divvy::model::{
    Amount, Capacity, DefaultAmount, Device, Draw, EnforcementLevel, Inventory, Link, Manifest,
    NumaNode, Partitioning, Profile, Request, Shape, Slot,
};

use crate::figures::Figures;
use crate::weight;

/// Decisions in one sample.
const BATCH: u32 = 64;
/// Memory of a device, bytes.
const MEMORY: u64 = 80 << 30;

pub(crate) fn bench(criterion: &mut Criterion, figures: &Figures) -> Result<(), Box<dyn Error>> {
    let mut group = criterion.benchmark_group("allocate");
    let micros = |n| Some(Duration::from_micros(n));
    let mut measure = |name: &str, target, mut once: Box<dyn FnMut()>| {
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let batch = |_| {
                    let begin = Instant::now();
                    (0..BATCH).for_each(|_| once());
                    begin.elapsed() / BATCH
                };
                let samples: Vec<Duration> = (0..n).map(batch).collect();
                figures.add(&format!("allocate/{name}"), target, samples)
            });
        });
    };

    // Eight accelerators, each partly taken.
    let eight = used(&gpus(8, 2), 12, "0.37")?;
    let share = choices(&eight, &[("gpu", "0.25")])?;
    let on = eight.snapshot().clone();
    measure("8_devices_share", micros(1), deciding(&on, &share));
    let bytes = choices(&eight, &[("gpu.mem", "1073741824")])?;
    measure("8_devices_memory", micros(1), deciding(&on, &bytes));
    let request = request(&[("gpu", "0.25")])?;
    let machine = on.machine().clone();
    measure(
        "8_devices_resolve",
        None,
        Box::new(move || {
            let limits = Limits::default();
            std::hint::black_box(Choices::resolve(&machine, &request, &limits)).ok();
        }),
    );
    let mut book = eight.clone();
    measure(
        "8_devices_take_and_release",
        micros(2),
        Box::new(move || {
            book.allocate("it", &share).expect("it fits");
            assert!(book.release("it"));
        }),
    );
    let refused = choices(&eight, &[("gpu", "8")])?;
    let machine = on.clone();
    measure(
        "8_devices_explain",
        None,
        Box::new(move || {
            assert!(allocate(&machine, &refused).is_none());
            std::hint::black_box(explain::refusal(&machine, &refused));
        }),
    );

    // A thousand devices on eight nodes.
    let many = used(&gpus(1024, 8), 700, "0.37")?;
    let share = choices(&many, &[("gpu", "0.25")])?;
    let on = many.snapshot().clone();
    measure("1024_devices_share", micros(20), deciding(&on, &share));
    let cores = used_cores(&cores(8, 128), 340)?;
    let beside = choices(&cores, &[("cpu", "1.5"), ("mem", "67108864")])?;
    let on = cores.snapshot().clone();
    measure(
        "1024_devices_cores_memory",
        micros(20),
        deciding(&on, &beside),
    );

    // Sixteen accelerators in two islands of unlike links, the half asked for.
    let linked = Book::new(Snapshot::new(&islands(16)));
    let eight_of = choices(&linked, &[("gpu", "8")])?;
    let on = linked.snapshot().clone();
    measure(
        "8_of_16_best_connected",
        micros(10_000),
        deciding(&on, &eight_of),
    );
    // Sixteen that can be cut into 64 each, partly cut.
    let mut cut = Book::new(Snapshot::new(&partitions(16)));
    let odd = choices(&cut, &[("gpu.p3", "1")])?;
    for i in 0..200 {
        cut.allocate(&format!("c{i}"), &odd).ok_or("it fits")?;
    }
    let some = choices(&cut, &[("gpu.p1", "64")])?;
    let on = cut.snapshot().clone();
    measure(
        "64_partitions_of_16x64",
        micros(10_000),
        deciding(&on, &some),
    );
    // As many devices, each a partition of one of sixteen.
    let flat = Book::new(Snapshot::new(&linked_partitions(16, 64)));
    let eight_of = choices(&flat, &[("gpu", "8")])?;
    let on = flat.snapshot().clone();
    measure(
        "8_of_1024_best_connected",
        micros(10_000),
        deciding(&on, &eight_of),
    );

    // With few and with many allocations.
    for (name, count) in [("1e3_held", 1_000), ("1e6_held", 1_000_000)] {
        let mut book = Book::new(Snapshot::new(&gpus(1024, 8)));
        let ((), bytes) = weight::of(|| fill(&mut book, count))?;
        figures.note(format!(
            "allocate/{name}: {} bytes an allocation",
            bytes / book.len()
        ));
        let share = choices(&book, &[("gpu", "0.001")])?;
        let on = book.snapshot().clone();
        measure(&format!("decision_{name}"), None, deciding(&on, &share));
    }
    let inventory = gpus(1024, 8);
    let (snapshot, bytes) =
        weight::of(|| Ok::<_, std::convert::Infallible>(Snapshot::new(&inventory)))?;
    let devices = snapshot.machine().device_count();
    figures.note(format!(
        "allocate/snapshot: {} bytes a device",
        bytes / devices
    ));
    group.finish();
    Ok(())
}

fn deciding(snapshot: &Snapshot, choices: &Choices) -> Box<dyn FnMut()> {
    let (snapshot, choices) = (snapshot.clone(), choices.clone());
    Box::new(move || {
        let allocation = allocate(&snapshot, &choices);
        assert!(std::hint::black_box(allocation).is_some(), "it fits");
    })
}

fn request(slots: &[(&str, &str)]) -> Result<Request, Box<dyn Error>> {
    let amounts = slots.iter().map(|(s, a)| Ok(((*s).to_owned(), a.parse()?)));
    Ok(Request {
        slots: amounts.collect::<Result<_, Box<dyn Error>>>()?,
        ..Request::default()
    })
}

fn choices(book: &Book, slots: &[(&str, &str)]) -> Result<Choices, Box<dyn Error>> {
    let machine = book.snapshot().machine();
    let resolved = Choices::resolve(machine, &request(slots)?, &Limits::default());
    resolved.map_err(|refusal| refusal.message.into())
}

/// Places so many workloads of one share each.
fn used(inventory: &Inventory, count: u32, share: &str) -> Result<Book, Box<dyn Error>> {
    let mut book = Book::new(Snapshot::new(inventory));
    let share = choices(&book, &[("gpu", share)])?;
    for i in 0..count {
        book.allocate(&format!("w{i}"), &share).ok_or("it fits")?;
    }
    Ok(book)
}

fn used_cores(inventory: &Inventory, count: u32) -> Result<Book, Box<dyn Error>> {
    let mut book = Book::new(Snapshot::new(inventory));
    let cores = choices(&book, &[("cpu", "1.5"), ("mem", "67108864")])?;
    for i in 0..count {
        book.allocate(&format!("w{i}"), &cores).ok_or("it fits")?;
    }
    Ok(book)
}

/// So many allocations of a thousandth each on a thousand devices: all of
/// 1,000,000, and 24,000 more would fit.
fn fill(book: &mut Book, count: u32) -> Result<(), Box<dyn Error>> {
    let machine = book.snapshot().machine().clone();
    let share = machine.slot("gpu.shares").ok_or("a slot")?;
    let thousandth = "0.001".parse()?;
    for i in 0..count {
        let device = machine.device("gpu", &format!("GPU-{:08x}", i % 1024));
        let claim = (share, device.ok_or("a device")?, thousandth);
        book.place(&format!("{i:012x}"), &[claim])
            .map_err(|r| r.message)?;
    }
    Ok(())
}

// === machines ===

fn slot(name: &str, class: &str, unit: &str, shape: Shape, draws: Vec<Draw>) -> Slot {
    Slot {
        class: class.into(),
        draws,
        ..Slot::new(name, unit, shape, EnforcementLevel::Cooperative)
    }
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

fn nodes(count: u32) -> std::collections::BTreeMap<u32, NumaNode> {
    let distance = |a: u32, b: u32| if a == b { 10 } else { 10 + 5 * a.abs_diff(b) };
    let node = |id| {
        let distances = (0..count)
            .map(|other| (other, distance(id, other)))
            .collect();
        (id, NumaNode { id, distances })
    };
    (0..count).map(node).collect()
}

/// Accelerators with memory and compute, whole or shared, evenly over nodes.
fn gpus(count: u32, node_count: u32) -> Inventory {
    let both = || vec![Draw::share("memory"), Draw::share("compute")];
    let mode = |mode: &str, slot| Slot {
        mode: Some(mode.into()),
        ..slot
    };
    let thousandth = Amount::from_nanos(1_000_000).unwrap_or(Amount::ONE);
    let device = |i: u32| Device {
        plugin: "gpu".into(),
        device: divvy_plugin::Device {
            numa_node: Some(i * node_count / count),
            capacities: [
                (
                    "memory".to_owned(),
                    Capacity::of(Amount::from_units(MEMORY)),
                ),
                ("compute".to_owned(), Capacity::of(Amount::from_units(1000))),
            ]
            .into(),
            ..divvy_plugin::Device::new(format!("GPU-{i:08x}"), "gpu", "bench")
        },
    };
    Inventory {
        plugins: [manifest(
            "gpu",
            vec![
                mode(
                    "whole",
                    slot("gpu.device", "gpu", "device", Shape::Whole, both()),
                ),
                Slot {
                    quantum: thousandth,
                    ..mode(
                        "shared",
                        slot("gpu.shares", "gpu", "share", Shape::Single, both()),
                    )
                },
                mode(
                    "shared",
                    slot(
                        "gpu.mem",
                        "gpu.mem",
                        "byte",
                        Shape::Single,
                        vec![Draw::unit("memory"), Draw::like("compute", "memory")],
                    ),
                ),
            ],
        )]
        .into(),
        devices: (0..count).map(device).collect(),
        numa_nodes: nodes(node_count),
        ..Inventory::default()
    }
}

/// Two islands of links of unlike weights, and weak links between them.
fn islands(count: u32) -> Inventory {
    let mut machine = gpus(count, 2);
    let ids: Vec<String> = machine
        .devices
        .iter()
        .map(|d| d.device.id.clone())
        .collect();
    let half = ids.len() / 2;
    for (a, device) in machine.devices.iter_mut().enumerate() {
        for (b, to) in ids.iter().enumerate().filter(|(b, _)| *b != a) {
            let island = if a / half == b / half { 50 } else { 0 };
            device.device.links.push(Link {
                to: to.clone(),
                kind: "link".into(),
                weight: island + u32::try_from((a.min(b) * 7 + a.max(b) * 13) % 5).unwrap_or(0),
            });
        }
    }
    machine
}

/// Accelerators that can be cut into 64 parts, singly or by 2, 3, 8 and 16.
fn partitions(count: u32) -> Inventory {
    let mut machine = gpus(count, 2);
    let sizes = [1, 2, 3, 8, 16];
    if let Some(manifest) = machine.plugins.get_mut("gpu") {
        manifest.slots.extend(sizes.map(|size| Slot {
            mode: Some("partitioned".into()),
            ..slot(
                &format!("gpu.p{size}"),
                "gpu.part",
                "partition",
                Shape::Partition,
                vec![],
            )
        }));
    }
    for device in &mut machine.devices {
        device.device.partitioning = Some(Partitioning {
            positions: 64,
            profiles: sizes
                .iter()
                .map(|&size| Profile {
                    slot: format!("gpu.p{size}"),
                    size,
                    starts: (0..=64 - size).collect(),
                    capacities: [(
                        "memory".to_owned(),
                        Amount::from_units(MEMORY / 64 * u64::from(size)),
                    )]
                    .into(),
                    serves: BTreeMap::new(),
                })
                .collect(),
        });
    }
    machine
}

/// Devices that are partitions of sixteen parents: linked closely within one,
/// and one by one to those of the next.
fn linked_partitions(parents: u32, each: u32) -> Inventory {
    let mut machine = gpus(parents * each, 2);
    let ids: Vec<String> = machine
        .devices
        .iter()
        .map(|d| d.device.id.clone())
        .collect();
    let each = each as usize;
    for (a, device) in machine.devices.iter_mut().enumerate() {
        let near = (a / each * each..(a / each + 1) * each).filter(|b| *b != a);
        let next = std::iter::once((a + each) % ids.len());
        let to = |(b, weight): (usize, u32)| Link {
            to: ids[b].clone(),
            kind: "link".into(),
            weight,
        };
        device.device.links.extend(near.map(|b| to((b, 50))));
        device.device.links.extend(next.map(|b| to((b, 10))));
    }
    machine
}

/// A machine as the CPU plugin describes one.
fn cores(node_count: u32, each: u32) -> Inventory {
    let hundredth = Amount::from_nanos(10_000_000).unwrap_or(Amount::ONE);
    let slots = vec![
        Slot {
            quantum: hundredth,
            default: Some(DefaultAmount::Fixed(Amount::ONE)),
            ..slot(
                "cpu",
                "cpu",
                "core",
                Shape::WholeThenFraction,
                vec![Draw::unit("cores")],
            )
        },
        Slot {
            default: Some(DefaultAmount::Like("cpu".into())),
            ..slot(
                "mem",
                "memory",
                "byte",
                Shape::Divisible,
                vec![Draw::unit("memory")],
            )
        },
    ];
    let device = |id: String, node: u32, capacity: &str, total: Amount| Device {
        plugin: "cpu".into(),
        device: divvy_plugin::Device {
            numa_node: Some(node),
            capacities: [(capacity.to_owned(), Capacity::of(total))].into(),
            ..divvy_plugin::Device::new(id, capacity, "bench")
        },
    };
    let all = (0..node_count).flat_map(|n| (0..each).map(move |c| (n, c)));
    let memory = Amount::from_units(MEMORY);
    Inventory {
        plugins: [manifest("cpu", slots)].into(),
        devices: all
            .map(|(n, c)| device(format!("core-{n}-{c}"), n, "cores", Amount::ONE))
            .chain((0..node_count).map(|n| device(format!("node-{n}"), n, "memory", memory)))
            .collect(),
        numa_nodes: nodes(node_count),
        ..Inventory::default()
    }
}

//! Whatever the machine, the requests and the history.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::{HealthState, Near, Policy};

/// What every machine of these tests offers, with amounts that make sense of
/// each: in quanta of the slot.
const SLOTS: [(&str, u64); 9] = [
    ("cpu", 350),
    ("mem", 150),
    ("gpu.device", 3),
    ("gpu.shares", 100),
    ("gpu.mem", 80),
    ("gpu.compute", 100),
    ("gpu.mig-1g", 9),
    ("gpu.mig-2g", 4),
    ("gpu.mig-3g", 3),
];

fn machines() -> impl Strategy<Value = Inventory> {
    let links = prop::collection::vec((0usize..4, 0usize..4, 0u32..4), 0..6);
    let spoiled = prop::collection::vec((any::<prop::sample::Index>(), 0u32..4), 0..3);
    (0u32..5, 1u32..4, 1u32..4, 1u32..4, links, spoiled).prop_map(
        |(gpu_count, gpu_nodes, node_count, core_count, links, spoiled)| {
            let mut machine = gpus(gpu_count, gpu_nodes);
            let links: Vec<_> = links
                .into_iter()
                .filter(|(a, b, _)| a != b && a.max(b) < &(gpu_count as usize))
                .collect();
            link(&mut machine, &links);
            let mut machine = with_cores(machine, cores(node_count, core_count, 100));
            for (which, how) in spoiled {
                let at = which.index(machine.devices.len());
                let device = &mut machine.devices[at].device;
                match how {
                    0 => device.health.state = HealthState::Unhealthy,
                    1 => device.numa_node = None,
                    2 => {
                        if let Some(first) = device.capacities.values_mut().next() {
                            first.reserved = first.total;
                        }
                    }
                    _ => {
                        let parent = machine.devices[0].clone();
                        let device = &mut machine.devices[at];
                        if at > 0 && parent.plugin == device.plugin {
                            device.device.parent = Some(parent.device.id);
                        }
                    }
                }
            }
            machine
        },
    )
}

fn requests() -> impl Strategy<Value = Request> {
    let one = (0..SLOTS.len(), 1u64..400);
    (
        prop::collection::vec(one, 1..4),
        prop::option::weighted(0.3, 0usize..4),
        0usize..8,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(slots, policy, near, unsplit)| {
            let amounts = slots.into_iter().map(|(i, n)| {
                let (name, most) = SLOTS[i];
                let quantum = if matches!(name, "cpu" | "gpu.shares" | "gpu.compute") {
                    amount("0.01")
                } else {
                    Amount::ONE
                };
                let quanta = Amount::from_units(1 + n % most);
                (
                    name.to_owned(),
                    quantum.scaled(quanta, Amount::ONE).unwrap(),
                )
            });
            let policies = [Policy::Pack, Policy::Spread, Policy::Fill, Policy::Evenly];
            Request {
                slots: amounts.collect(),
                policy: policy.map(|i| policies[i]),
                near: *[Near::Node, Near::Linked, Near::Any]
                    .get(near)
                    .unwrap_or(&Near::Prefer),
                unsplit,
                ..Request::default()
            }
        })
}

/// Looks at what is held with other eyes: from the slices alone.
fn audit(inventory: &Inventory, held: &[Vec<Slice>]) -> Result<(), TestCaseError> {
    let mut used: BTreeMap<(String, String), Amount> = BTreeMap::new();
    let mut modes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut positions: BTreeMap<String, u64> = BTreeMap::new();
    let mut whole: BTreeMap<String, usize> = BTreeMap::new();
    let mut holders: BTreeMap<String, usize> = BTreeMap::new();
    for slice in held.iter().flatten() {
        let id = slice.part.device.clone();
        *holders.entry(id.clone()).or_default() += 1;
        for (capacity, drawn) in &slice.part.capacities {
            let cell = used.entry((id.clone(), capacity.clone())).or_default();
            *cell = cell.checked_add(*drawn).unwrap();
        }
        let slot = inventory.slot(&slice.part.slot).unwrap();
        if let Some(mode) = &slot.mode {
            modes.entry(id.clone()).or_default().insert(mode.clone());
        }
        if slot.shape == Shape::Whole {
            *whole.entry(id.clone()).or_default() += 1;
        }
        if let Some(start) = slice.part.start {
            let device = inventory
                .devices
                .iter()
                .find(|d| d.device.id == id)
                .unwrap();
            let partitioning = device.device.partitioning.as_ref().unwrap();
            let profile = partitioning
                .profiles
                .iter()
                .find(|p| p.slot == slot.name)
                .unwrap();
            prop_assert!(
                profile.starts.contains(&start),
                "{id}: {} at {start}",
                slot.name
            );
            let covers = ((1u64 << profile.size) - 1) << start;
            let taken = positions.entry(id.clone()).or_default();
            prop_assert_eq!(*taken & covers, 0, "partitions of {} overlap", id);
            *taken |= covers;
        }
    }
    for device in &inventory.devices {
        let id = &device.device.id;
        for (name, capacity) in &device.device.capacities {
            let used = used
                .get(&(id.clone(), name.clone()))
                .copied()
                .unwrap_or_default();
            let usable = capacity.total.saturating_sub(capacity.reserved);
            prop_assert!(used <= usable, "{id}: {used} of {usable} {name}");
        }
        prop_assert!(
            modes.get(id).is_none_or(|m| m.len() == 1),
            "{id}: {modes:?}"
        );
        if let Some(parent) = &device.device.parent {
            let both = holders.contains_key(id) && holders.contains_key(parent);
            prop_assert!(!both, "{id} and its parent {parent} are both in use");
        }
        if whole.contains_key(id) {
            prop_assert_eq!(holders[id], 1, "{} is whole and shared", id);
        }
        if matches!(device.device.health.state, HealthState::Unhealthy) {
            prop_assert!(!holders.contains_key(id), "{id} is unhealthy and in use");
        }
    }
    Ok(())
}

/// What a grant promises, from its slices alone.
fn granted(
    inventory: &Inventory,
    asked: &Request,
    choices: &Choices,
    snapshot: &Snapshot,
    slices: &[Slice],
) -> Result<(), TestCaseError> {
    for (slot, amount) in choices.amounts(snapshot.machine(), 0) {
        let of_slot = || slices.iter().filter(|s| s.part.slot == slot);
        let sum: Amount = of_slot().map(|s| s.part.amount).sum();
        prop_assert_eq!(sum, amount, "of {}", slot);
        let devices: BTreeSet<_> = of_slot().map(|s| &s.part.device).collect();
        match inventory.slot(slot).unwrap().shape {
            Shape::Single => prop_assert_eq!(devices.len(), 1),
            Shape::WholeThenFraction => {
                let parts = of_slot().filter(|s| s.part.amount < Amount::ONE).count();
                prop_assert!(parts <= 1, "{slices:?}");
            }
            _ => {}
        }
    }
    if asked.near == Near::Node && asked.policy.is_none() {
        let node = |s: &Slice| {
            let of = inventory
                .devices
                .iter()
                .find(|d| d.device.id == s.part.device);
            of.unwrap().device.numa_node
        };
        let nodes: BTreeSet<u32> = slices.iter().filter_map(node).collect();
        prop_assert!(nodes.len() <= 1, "{slices:?}");
    }
    Ok(())
}

/// What a refusal promises: what it calls the largest amount of a slot is to
/// be had, and the next one is not.
fn refused(asked: &Request, snapshot: &Snapshot, refusal: &Refusal) -> Result<(), TestCaseError> {
    let fits = |slot: &str, amount: Amount| {
        // Not the defaults of other slots.
        let machine = snapshot.machine();
        let zero = ["cpu", "mem"].into_iter().filter(|s| *s != slot);
        let slots: BTreeMap<String, Amount> = zero
            .map(|s| (s.to_owned(), Amount::ZERO))
            .chain([(slot.to_owned(), amount)])
            .collect();
        let alone = Request {
            slots,
            ..asked.clone()
        };
        let choices = Choices::resolve(machine, &alone, &Limits::default()).ok()?;
        let demand = &choices.0[0];
        let part = demand
            .parts
            .iter()
            .find(|p| p.slot() == machine.slot(slot).unwrap())?;
        let only = demand.only(machine, part, part.slot(), amount);
        Some(place::fits(snapshot, &only))
    };
    for room in &refusal.rooms {
        let slot = snapshot.machine().view(snapshot.slot(&room.slot).unwrap());
        if !room.largest.is_zero() {
            prop_assert_eq!(fits(&room.slot, room.largest), Some(true), "{:?}", room);
        }
        let next = room.largest.checked_add(slot.quantum).unwrap();
        prop_assert!(
            fits(&room.slot, next) != Some(true),
            "{room:?}, but {next} fits"
        );
        prop_assert!(
            room.largest <= room.free && room.free <= room.total,
            "{room:?}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_history_of_requests_keeps_every_promise(
        inventory in machines(),
        steps in prop::collection::vec(
            (requests(), prop::bool::weighted(0.3), any::<prop::sample::Index>()), 1..25),
    ) {
        let mut book = Book::new(Snapshot::new(&inventory));
        let empty = book.snapshot().clone();
        let mut held: BTreeMap<String, Vec<Slice>> = BTreeMap::new();
        for (i, (asked, release, which)) in steps.into_iter().enumerate() {
            if release && !held.is_empty() {
                let id = held.keys().nth(which.index(held.len())).unwrap().clone();
                held.remove(&id);
                prop_assert!(book.release(&id));
                prop_assert!(!book.release(&id));
                continue;
            }
            let before = book.snapshot().clone();
            let Ok(choices) = Choices::resolve(before.machine(), &asked, &Limits::default()) else {
                continue;
            };
            // The same input, the same answer; `fit` is what `run` does.
            let fit = allocate(&before, &choices);
            prop_assert_eq!(&fit, &allocate(&before, &choices));
            let rebuilt = {
                let mut rebuilt = Snapshot::of(before.machine().clone());
                prop_assert_eq!(rebuilt.hold(held.values().rev().flatten()), vec![]);
                rebuilt
            };
            prop_assert_eq!(&rebuilt, &before);
            let id = format!("w{i}");
            let allocation = book.allocate(&id, &choices);
            prop_assert_eq!(&allocation, &fit);
            match allocation {
                Some(_) => {
                    let slices = book.slices(&id);
                    granted(&inventory, &asked, &choices, &before, &slices)?;
                    held.insert(id, slices);
                    let all: Vec<_> = held.values().cloned().collect();
                    audit(&inventory, &all)?;
                }
                None => {
                    prop_assert_eq!(book.snapshot(), &before);
                    refused(&asked, &before, &explain::refusal(&before, &choices))?;
                }
            }
        }
        for id in held.keys() {
            book.release(id);
        }
        prop_assert_eq!(book.snapshot(), &empty);
    }

    /// Who is named as in the way is in the way, and all of them are.
    #[test]
    fn without_those_who_are_named_it_fits(
        inventory in machines(),
        steps in prop::collection::vec(requests(), 2..12),
    ) {
        let mut book = Book::new(Snapshot::new(&inventory));
        for (i, asked) in steps.iter().enumerate() {
            let Ok(choices) = Choices::resolve(book.snapshot().machine(), asked, &Limits::default())
            else {
                continue;
            };
            if book.allocate(&format!("w{i}"), &choices).is_some() {
                continue;
            }
            let named = book.would_fit_without(&choices);
            if named.is_empty() {
                continue;
            }
            let mut without = book.clone();
            for (n, id) in named.iter().enumerate() {
                prop_assert!(without.release(id));
                let fits = allocate(without.snapshot(), &choices).is_some();
                prop_assert!(fits || n + 1 < named.len(), "{named:?}");
            }
        }
    }
}

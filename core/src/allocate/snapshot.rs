//! The machine as numbers: devices, slots and what is free of each, interned.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::Grant;
use crate::model::{
    Amount, DefaultAmount, DeviceRef, HealthState, Inventory, NumaNode, Shape, Slice,
};

/// Index of a slot in a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIx(pub(super) usize);

/// Index of a device in a [`Snapshot`]; the inventory's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIx(pub(super) usize);

/// One capacity of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What may be handed out: the device's total less its reserved part.
    pub usable: Amount,
    /// What is held.
    pub used: Amount,
}

impl Cell {
    fn free(self) -> Amount {
        self.usable.saturating_sub(self.used)
    }
}

/// A slot, and the devices that can serve it.
#[derive(Clone, Debug)]
pub(super) struct SlotView {
    pub(super) name: String,
    pub(super) plugin: String,
    pub(super) unit: String,
    pub(super) quantum: Amount,
    pub(super) shape: Shape,
    pub(super) default: Option<Default>,
    /// Each device that has all the capacities the slot draws on, with the
    /// cells and how much of each one unit uses. In device order.
    pub(super) devices: Vec<Serving>,
}

#[derive(Clone, Debug)]
pub(super) enum Default {
    Fixed(Amount),
    Like(SlotIx),
}

#[derive(Clone, Debug)]
pub(super) struct Serving {
    pub(super) device: DeviceIx,
    pub(super) draws: Vec<(usize, Amount)>,
}

#[derive(Clone, Debug)]
pub(super) struct DeviceView {
    pub(super) name: DeviceRef,
    /// Index into the snapshot's NUMA nodes.
    pub(super) numa: Option<usize>,
    /// Why no new work may be placed here, if so.
    pub(super) closed: Option<String>,
    /// Names of the capacities and where their cells are.
    pub(super) cells: BTreeMap<String, usize>,
}

/// Something held that the inventory cannot account for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The device concerned.
    pub device: DeviceRef,
    /// What is wrong, for people.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device, self.what)
    }
}

/// What a decision is made on.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) slots: Vec<SlotView>,
    pub(super) devices: Vec<DeviceView>,
    pub(super) cells: Vec<Cell>,
    /// `distances[from][to]`, ACPI SLIT units.
    pub(super) distances: Vec<Vec<u32>>,
}

impl Snapshot {
    /// Interns an inventory; nothing is held yet.
    #[must_use]
    pub fn new(inventory: &Inventory) -> Self {
        let (numa_index, distances) = numa_table(inventory);
        let mut cells = Vec::new();
        let devices: Vec<DeviceView> = inventory
            .devices
            .iter()
            .map(|d| DeviceView {
                name: d.name(),
                numa: d.device.numa_node.and_then(|n| numa_index.get(&n).copied()),
                closed: match d.device.health.state {
                    HealthState::Healthy | HealthState::Degraded => None,
                    HealthState::Unhealthy | HealthState::Unknown => Some(
                        d.device
                            .health
                            .reason
                            .clone()
                            .unwrap_or_else(|| "not healthy".into()),
                    ),
                },
                cells: d
                    .device
                    .capacities
                    .iter()
                    .map(|(name, c)| {
                        cells.push(Cell {
                            usable: c.total.saturating_sub(c.reserved),
                            used: Amount::ZERO,
                        });
                        (name.clone(), cells.len() - 1)
                    })
                    .collect(),
            })
            .collect();

        let names: HashMap<&str, SlotIx> = inventory
            .slots()
            .enumerate()
            .map(|(i, (_, slot))| (slot.name.as_str(), SlotIx(i)))
            .collect();
        let slots = inventory
            .slots()
            .map(|(plugin, slot)| SlotView {
                name: slot.name.clone(),
                plugin: plugin.to_owned(),
                unit: slot.unit.clone(),
                quantum: slot.quantum,
                shape: slot.shape,
                default: slot.default.as_ref().and_then(|d| match d {
                    DefaultAmount::Fixed(amount) => Some(Default::Fixed(*amount)),
                    DefaultAmount::Like(other) => {
                        names.get(other.as_str()).map(|ix| Default::Like(*ix))
                    }
                }),
                devices: devices
                    .iter()
                    .enumerate()
                    .filter(|(_, d)| d.name.plugin == plugin)
                    .filter_map(|(i, d)| {
                        let draws = slot
                            .draws
                            .iter()
                            .map(|draw| Some((*d.cells.get(&draw.capacity)?, draw.per_unit)))
                            .collect::<Option<Vec<_>>>()?;
                        Some(Serving {
                            device: DeviceIx(i),
                            draws,
                        })
                    })
                    .collect(),
            })
            .collect();
        Self {
            slots,
            devices,
            cells,
            distances,
        }
    }

    /// Takes slices that are held already. What does not fit is a problem: the
    /// device is closed to new work, never counted below zero.
    pub fn hold<'a>(&mut self, slices: impl IntoIterator<Item = &'a Slice>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for slice in slices {
            let name = slice.device();
            let Some(device) = self.devices.iter_mut().find(|d| d.name == name) else {
                problems.push(Problem {
                    device: name,
                    what: "is held but is not there".into(),
                });
                continue;
            };
            for (capacity, amount) in &slice.part.capacities {
                let Some(&cell) = device.cells.get(capacity) else {
                    let what = format!("its {capacity} is held but it has none");
                    device.closed = Some(what.clone());
                    problems.push(Problem {
                        device: name.clone(),
                        what,
                    });
                    continue;
                };
                let cell = &mut self.cells[cell];
                cell.used = cell.used.checked_add(*amount).unwrap_or(Amount::MAX);
                if cell.used > cell.usable {
                    let what = format!(
                        "over_capacity: {} of {} {capacity} are held",
                        cell.used, cell.usable
                    );
                    device.closed = Some(what.clone());
                    problems.push(Problem {
                        device: name.clone(),
                        what,
                    });
                }
            }
        }
        problems
    }

    /// The slot of this name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<SlotIx> {
        self.slots.iter().position(|s| s.name == name).map(SlotIx)
    }

    /// What is used and what may be handed out of a device's capacity.
    #[must_use]
    pub fn cell(&self, device: &DeviceRef, capacity: &str) -> Option<Cell> {
        let device = self.devices.iter().find(|d| d.name == *device)?;
        device.cells.get(capacity).map(|&c| self.cells[c])
    }

    /// Why no new work may be placed on a device.
    #[must_use]
    pub fn closed(&self, device: &DeviceRef) -> Option<&str> {
        self.devices
            .iter()
            .find(|d| d.name == *device)?
            .closed
            .as_deref()
    }

    /// A grant as the slice that ledger and plugins know.
    #[must_use]
    pub fn slice(&self, grant: Grant) -> Slice {
        let slot = &self.slots[grant.slot.0];
        let device = &self.devices[grant.device.0];
        let draws = slot.devices.iter().find(|s| s.device == grant.device);
        let capacities = draws
            .into_iter()
            .flat_map(|s| &s.draws)
            .filter_map(|&(cell, per_unit)| {
                let name = device.cells.iter().find(|(_, c)| **c == cell)?.0;
                Some((name.clone(), grant.amount.scaled(per_unit, Amount::ONE)?))
            })
            .collect();
        Slice {
            plugin: slot.plugin.clone(),
            part: divvy_plugin::Slice {
                slot: slot.name.clone(),
                device: device.name.id.clone(),
                amount: grant.amount,
                capacities,
            },
        }
    }

    /// What is free of the slot on a device, in the slot's quantum, when the
    /// cells are these.
    pub(super) fn free(&self, slot: &SlotView, serving: &Serving, cells: &[Cell]) -> Amount {
        if self.devices[serving.device.0].closed.is_some() {
            return Amount::ZERO;
        }
        limit(slot, serving, |cell| cells[cell].free())
    }

    /// What the device offers of the slot when nothing is held.
    pub(super) fn whole(&self, slot: &SlotView, serving: &Serving) -> Amount {
        limit(slot, serving, |cell| self.cells[cell].usable)
    }
}

/// How much of a slot fits into what is left of each capacity it draws on.
fn limit(slot: &SlotView, serving: &Serving, left: impl Fn(usize) -> Amount) -> Amount {
    serving
        .draws
        .iter()
        .filter_map(|&(cell, per_unit)| left(cell).scaled(Amount::ONE, per_unit))
        .min()
        .unwrap_or(Amount::ZERO)
        .floor_to(slot.quantum)
}

/// Interns NUMA node numbers, which have gaps, and completes the distances:
/// where a node does not say, 10 to itself and 20 to others (ACPI 6.5, 5.2.17).
fn numa_table(inventory: &Inventory) -> (HashMap<u32, usize>, Vec<Vec<u32>>) {
    let mut numbers: Vec<u32> = inventory
        .numa_nodes
        .keys()
        .copied()
        .chain(inventory.devices.iter().filter_map(|d| d.device.numa_node))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let distance = |from: u32, to: u32| {
        let stated = inventory
            .numa_nodes
            .get(&from)
            .and_then(|n: &NumaNode| n.distances.get(&to).copied());
        stated.unwrap_or(if from == to { 10 } else { 20 })
    };
    let distances = numbers
        .iter()
        .map(|&a| numbers.iter().map(|&b| distance(a, b)).collect())
        .collect();
    (
        numbers.iter().enumerate().map(|(i, n)| (*n, i)).collect(),
        distances,
    )
}

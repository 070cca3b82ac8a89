//! What is held of a [`Machine`], and so what is free.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::cut::{count, span};
use super::machine::{Machine, NO_DEVICE, Needs, SlotView};
use super::{Grant, SlotIx};
use crate::model::{Amount, DeviceRef, Inventory, Slice};

/// One capacity of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What may be handed out: the device's total less its reserved part.
    pub usable: Amount,
    /// What is held.
    pub used: Amount,
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
    machine: Arc<Machine>,
    /// What is left of each cell, in nano-units; below zero where more is held
    /// than there is.
    left: Vec<i128>,
    states: Vec<DeviceState>,
    /// How many grants each device serves in each mode.
    modes: Vec<u32>,
    /// Why devices are closed to new work.
    closed: BTreeMap<u32, Box<str>>,
}

/// Equal if the same is held of the same machine.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.machine, &other.machine)
            && self.left == other.left
            && self.states == other.states
            && self.modes == other.modes
            && self.closed == other.closed
    }
}

impl Eq for Snapshot {}

/// What a device is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceState {
    /// The modes that it is in, as bits.
    pub(super) busy: u64,
    /// The positions that partitions cover, as bits.
    pub(super) taken: u64,
    /// How many grants it serves.
    pub(super) holders: u32,
    /// How many grants its partitions serve, where these are devices.
    pub(super) children: u32,
    pub(super) closed: bool,
}

/// Does something begin or end?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Hold,
    Release,
}

/// What a slice means for the device it lies on.
struct Effect {
    device: u32,
    mode: Option<u8>,
    positions: u64,
}

impl Snapshot {
    /// An inventory of which nothing is held yet.
    #[must_use]
    pub fn new(inventory: &Inventory) -> Self {
        Self::of(Arc::new(Machine::new(inventory)))
    }

    /// A machine of which nothing is held yet.
    #[must_use]
    pub fn of(machine: Arc<Machine>) -> Self {
        let devices = machine.device_count();
        let mut states = vec![DeviceState::default(); devices];
        for &device in machine.closed.keys() {
            states[device as usize].closed = true;
        }
        Self {
            left: (0..devices)
                .flat_map(|d| &machine.kinds[machine.places[d].kind as usize].capacities)
                .map(|c| nanos(c.usable))
                .collect(),
            states,
            modes: vec![0; devices * machine.modes],
            closed: machine.closed.clone(),
            machine,
        }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Takes slices that are held already. What does not fit is a problem: the
    /// device is closed to new work, never counted below zero.
    pub fn hold<'a>(&mut self, slices: impl IntoIterator<Item = &'a Slice>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for slice in slices {
            let Some(effect) = self.effect(slice) else {
                problems.push(Problem {
                    device: slice.device(),
                    what: if self.machine.has_plugin(&slice.plugin) {
                        "is held but is not there".into()
                    } else {
                        format!("is held, but the plugin {} does not answer", slice.plugin)
                    },
                });
                continue;
            };
            let machine = Arc::clone(&self.machine);
            // An ill device is closed already, and may not say what it has.
            let ill = machine.closed.contains_key(&effect.device);
            let mut close = |this: &mut Self, what: String| {
                if ill {
                    return;
                }
                this.close(effect.device, &what);
                problems.push(Problem {
                    device: slice.device(),
                    what,
                });
            };
            for (capacity, amount) in &slice.part.capacities {
                let Some(cell) = cell_of(&machine, effect.device, capacity) else {
                    close(
                        self,
                        format!("{capacity} of it is held, and it has none now"),
                    );
                    continue;
                };
                self.left[cell] = self.left[cell].saturating_sub(nanos(*amount));
                if self.left[cell] < 0 {
                    let usable = usable_of(&machine, effect.device, capacity);
                    let used = used(usable, self.left[cell]);
                    close(
                        self,
                        format!("over_capacity: {used} of {usable} {capacity} are held"),
                    );
                }
            }
            let state = self.states[effect.device as usize];
            if state.taken & effect.positions != 0 {
                close(self, "over_capacity: two partitions overlap".into());
            }
            if machine.slot(&slice.part.slot).is_none() {
                let slot = &slice.part.slot;
                close(
                    self,
                    format!("the slot {slot}, which nobody offers, is held"),
                );
            }
            self.turn(&effect, Turn::Hold);
        }
        problems
    }

    /// Gives back slices that [`hold`](Self::hold) took.
    pub(super) fn unhold<'a>(&mut self, slices: impl IntoIterator<Item = &'a Slice>) {
        for slice in slices {
            let Some(effect) = self.effect(slice) else {
                continue;
            };
            for (capacity, amount) in &slice.part.capacities {
                if let Some(cell) = cell_of(&self.machine, effect.device, capacity) {
                    self.left[cell] = self.left[cell].saturating_add(nanos(*amount));
                }
            }
            self.turn(&effect, Turn::Release);
        }
    }

    /// Takes what [`allocate`](super::allocate) granted on this snapshot.
    pub fn take(&mut self, grants: &[Grant]) {
        self.apply(grants, Turn::Hold);
    }

    /// Gives back what [`take`](Self::take) took.
    pub fn give_back(&mut self, grants: &[Grant]) {
        self.apply(grants, Turn::Release);
    }

    /// Gives back grants that were taken one by one, each by a call of its own.
    pub(super) fn give_back_each(&mut self, grants: &[Grant]) {
        for grant in grants {
            self.apply(std::slice::from_ref(grant), Turn::Release);
        }
    }

    fn apply(&mut self, grants: &[Grant], turn: Turn) {
        for (i, grant) in grants.iter().enumerate() {
            let device = grant.device.0;
            let first = self.machine.place(device).first_cell as usize;
            let needs = draws_of(&self.machine, grants, i);
            for (offset, amount) in needs.iter() {
                let left = &mut self.left[first + offset];
                *left = match turn {
                    Turn::Hold => left.saturating_sub(nanos(amount)),
                    Turn::Release => left.saturating_add(nanos(amount)),
                };
            }
            let cut = grant.start.zip(self.machine.kind(device).cut(grant.slot));
            let effect = Effect {
                device,
                mode: self.machine.view(grant.slot).mode,
                positions: cut.map_or(0, |(start, cut)| span(start, cut.size)),
            };
            self.turn(&effect, turn);
        }
    }

    /// What a slice means; `None` if its device is not there.
    fn effect(&self, slice: &Slice) -> Option<Effect> {
        let device = self.machine.device(&slice.plugin, &slice.part.device)?.0;
        let slot = self.machine.slot(&slice.part.slot);
        let cut = slot.and_then(|ix| self.machine.kind(device).cut(ix));
        Some(Effect {
            device,
            mode: slot.and_then(|ix| self.machine.view(ix).mode),
            positions: slice
                .part
                .start
                .zip(cut)
                .map_or(0, |(start, cut)| span(start, cut.size)),
        })
    }

    fn turn(&mut self, effect: &Effect, turn: Turn) {
        let parent = self.machine.place(effect.device).parent;
        let state = &mut self.states[effect.device as usize];
        let mode = effect.mode.map(|mode| {
            let at = effect.device as usize * self.machine.modes + usize::from(mode);
            (1u64 << (mode % 64), &mut self.modes[at])
        });
        match turn {
            Turn::Hold => {
                state.holders += 1;
                state.taken |= effect.positions;
                if let Some((bit, holders)) = mode {
                    *holders += 1;
                    state.busy |= bit;
                }
            }
            Turn::Release => {
                state.holders = state.holders.saturating_sub(1);
                state.taken &= !effect.positions;
                if let Some((bit, holders)) = mode {
                    *holders = holders.saturating_sub(1);
                    if *holders == 0 {
                        state.busy &= !bit;
                    }
                }
            }
        }
        if parent != NO_DEVICE {
            let children = &mut self.states[parent as usize].children;
            *children = match turn {
                Turn::Hold => *children + 1,
                Turn::Release => children.saturating_sub(1),
            };
        }
    }

    /// Closes a device to new work.
    /// Closes a device to new work; one that is not there is closed already.
    pub fn shut(&mut self, device: &DeviceRef, why: &str) {
        if let Some(device) = self.machine.device(&device.plugin, &device.id) {
            self.close(device.0, why);
        }
    }

    fn close(&mut self, device: u32, why: &str) {
        self.states[device as usize].closed = true;
        self.closed.insert(device, why.into());
    }

    /// The slot of this name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<SlotIx> {
        self.machine.slot(name)
    }

    /// What is used and what may be handed out of a device's capacity.
    #[must_use]
    pub fn cell(&self, device: &DeviceRef, capacity: &str) -> Option<Cell> {
        let device = self.machine.device(&device.plugin, &device.id)?.0;
        let usable = usable_of(&self.machine, device, capacity);
        let left = self.left[cell_of(&self.machine, device, capacity)?];
        Some(Cell {
            used: used(usable, left),
            usable,
        })
    }

    /// Why no new work may be placed on a device.
    #[must_use]
    pub fn closed(&self, device: &DeviceRef) -> Option<&str> {
        let device = self.machine.device(&device.plugin, &device.id)?;
        self.closed_at(device.0)
    }

    pub(super) fn closed_at(&self, device: u32) -> Option<&str> {
        self.closed.get(&device).map(|why| &**why)
    }

    /// Grants as the slices that ledger and plugins know.
    #[must_use]
    pub fn slices(&self, grants: &[Grant]) -> Vec<Slice> {
        let machine = &self.machine;
        let slice = |(i, grant): (usize, &Grant)| {
            let name = machine.device_name(grant.device);
            let capacities = &machine.kind(grant.device.0).capacities;
            Slice {
                level: Some(machine.view(grant.slot).level),
                plugin: name.plugin,
                part: divvy_plugin::Slice {
                    slot: machine.view(grant.slot).name.to_string(),
                    device: name.id,
                    amount: grant.amount,
                    capacities: draws_of(machine, grants, i)
                        .iter()
                        .map(|(offset, amount)| (capacities[offset].name.to_string(), amount))
                        .collect(),
                    start: grant.start.map(u32::from),
                },
            }
        };
        grants.iter().enumerate().map(slice).collect()
    }

    // === what the placement asks ===

    pub(super) fn state(&self, device: u32) -> DeviceState {
        self.states[device as usize]
    }

    /// May work of this slot be placed on a device at all, now?
    pub(super) fn is_open(&self, slot: &SlotView, device: u32) -> bool {
        let state = &self.states[device as usize];
        if state.closed || state.busy & slot.forbids != 0 || state.children != 0 {
            return false;
        }
        let parent = self.machine.place(device).parent;
        parent == NO_DEVICE || self.states[parent as usize].holders == 0
    }

    /// Does nothing use the device?
    pub(super) fn is_idle(&self, device: u32) -> bool {
        self.states[device as usize].holders == 0
    }

    /// What is free of a device's capacity.
    pub(super) fn free(&self, device: u32, offset: usize) -> Amount {
        amount(self.left[self.machine.place(device).first_cell as usize + offset])
    }

    /// What is left of a device's capacities, and of those of the devices after
    /// it, in nano-units.
    pub(super) fn left(&self, first_cell: u32) -> &[i128] {
        &self.left[first_cell as usize..]
    }

    /// The most of a slot that one device can serve now, in its quantum; of a
    /// partition, how many.
    pub(super) fn room(&self, ix: SlotIx, device: u32) -> Amount {
        self.room_in(ix, device, self.machine.view(ix).quantum)
    }

    /// The same, off the quantum too.
    pub(super) fn room_exactly(&self, ix: SlotIx, device: u32) -> Amount {
        self.room_in(ix, device, Amount::NANO)
    }

    fn room_in(&self, ix: SlotIx, device: u32, quantum: Amount) -> Amount {
        let slot = self.machine.view(ix);
        let kind = self.machine.kind(device);
        let Some(terms) = self.machine.terms(slot, device) else {
            return Amount::ZERO;
        };
        if !self.is_open(slot, device) {
            return Amount::ZERO;
        }
        match kind.cut(ix) {
            Some(cut) => {
                let free = |offset| self.free(device, offset);
                count(cut, self.state(device).taken, free)
            }
            None => terms.room(kind, quantum, |offset| self.free(device, offset)),
        }
    }
}

/// What the `i`-th of an allocation's grants draws. Grants on one device are
/// looked at together: a derived amount gives way to a named one.
fn draws_of(machine: &Machine, grants: &[Grant], i: usize) -> Needs {
    let Grant {
        slot,
        device,
        amount,
        ..
    } = grants[i];
    let kind = machine.place(device.0).kind;
    let together = grants.iter().any(|g| g.device == device && g.slot != slot);
    if !together {
        return machine.needs(&[(slot, amount)], kind).unwrap_or_default();
    }
    let mut claims = vec![(slot, amount)];
    let others = grants
        .iter()
        .filter(|g| g.device == device && g.slot != slot);
    claims.extend(others.map(|g| (g.slot, Amount::ZERO)));
    machine.needs(&claims, kind).unwrap_or_default()
}

/// An amount as what can be taken from what is left; amounts are far below
/// what fits.
pub(super) fn nanos(amount: Amount) -> i128 {
    i128::try_from(amount.nanos()).unwrap_or(i128::MAX)
}

/// What is left, where it is not less than nothing.
pub(super) fn amount(left: i128) -> Amount {
    let nanos = u128::try_from(left).unwrap_or(0);
    Amount::from_nanos(nanos).unwrap_or(Amount::MAX)
}

/// What is held, from what is usable and left.
fn used(usable: Amount, left: i128) -> Amount {
    amount(nanos(usable).saturating_sub(left))
}

fn cell_of(machine: &Machine, device: u32, capacity: &str) -> Option<usize> {
    let capacities = &machine.kind(device).capacities;
    let offset = capacities.iter().position(|c| *c.name == *capacity)?;
    Some(machine.place(device).first_cell as usize + offset)
}

fn usable_of(machine: &Machine, device: u32, capacity: &str) -> Amount {
    let capacities = &machine.kind(device).capacities;
    let found = capacities.iter().find(|c| *c.name == *capacity);
    found.map_or(Amount::ZERO, |c| c.usable)
}

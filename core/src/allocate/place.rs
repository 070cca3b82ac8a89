//! The placement itself.
//!
//! `pack`, the default policy: keep large free shapes. Candidates are the NUMA
//! nodes as *homes*; for each, every slot of the demand is placed as near to
//! the home as it can be, and the cheapest plan wins. The rule, in full:
//!
//! 1. Slots are placed in the order whole, whole-then-fraction, single,
//!    divisible (the least movable first), then by slot order.
//! 2. Devices are tried by distance to the nodes already used by this demand
//!    (to the home, for the first slot), then: for a part of a device, the one
//!    with the least free that still suffices; for whole devices and divisible
//!    amounts, inventory order.
//! 3. Plans compare by the number of NUMA nodes they touch, then the distance
//!    they span, then what the home has free of the first slot before (least
//!    first: fill what is begun), then the home's number.

use super::refusal::{Refusal, RefusalCode};
use super::snapshot::{Cell, Serving, SlotIx, SlotView, Snapshot};
use super::{Demand, Grant};
use crate::model::{Amount, Shape, format_amount};

/// Places a demand, all of it or none.
///
/// # Errors
/// `insufficient` or `fragmented`, with what is free and the largest amount
/// that would fit now.
pub fn allocate(snapshot: &Snapshot, demand: &Demand) -> Result<Vec<Grant>, Box<Refusal>> {
    let mut order = demand.0.clone();
    order.sort_by_key(|&(ix, _)| (rigidity(snapshot.slots[ix.0].shape), ix));

    let homes = (0..snapshot.distances.len()).map(Some).chain([None]);
    let plans = homes.filter_map(|home| plan(snapshot, &order, home));
    match plans.min_by(|a, b| a.cost.cmp(&b.cost)) {
        Some(plan) => Ok(plan.grants),
        None => Err(Box::new(explain(snapshot, &order))),
    }
}

fn rigidity(shape: Shape) -> u8 {
    match shape {
        Shape::Whole => 0,
        Shape::WholeThenFraction => 1,
        Shape::Single => 2,
        Shape::Divisible => 3,
    }
}

struct Plan {
    grants: Vec<Grant>,
    cost: (usize, u32, Amount, Option<usize>),
}

fn plan(snapshot: &Snapshot, order: &[(SlotIx, Amount)], home: Option<usize>) -> Option<Plan> {
    let mut trial = Trial::new(snapshot);
    let mut nodes: Vec<usize> = Vec::new();
    for &(ix, amount) in order {
        let first = trial.grants.len();
        let near = if nodes.is_empty() {
            home.as_slice()
        } else {
            &nodes
        };
        trial.place(ix, amount, near)?;
        for grant in &trial.grants[first..] {
            if let Some(node) = snapshot.devices[grant.device.0].numa
                && !nodes.contains(&node)
            {
                nodes.push(node);
            }
        }
    }
    let span = nodes
        .iter()
        .flat_map(|&a| nodes.iter().map(move |&b| snapshot.distances[a][b]))
        .sum();
    let at_home = order.first().map_or(Amount::ZERO, |&(ix, _)| {
        let slot = &snapshot.slots[ix.0];
        let home = slot
            .devices
            .iter()
            .filter(|s| snapshot.devices[s.device.0].numa == home);
        home.map(|s| snapshot.free(slot, s, &snapshot.cells)).sum()
    });
    Some(Plan {
        grants: trial.grants,
        cost: (nodes.len(), span, at_home, home),
    })
}

/// A placement being tried: the snapshot's cells, less what it has taken.
struct Trial<'a> {
    on: &'a Snapshot,
    cells: Vec<Cell>,
    grants: Vec<Grant>,
}

impl<'a> Trial<'a> {
    fn new(on: &'a Snapshot) -> Self {
        Self {
            on,
            cells: on.cells.clone(),
            grants: Vec::new(),
        }
    }

    /// Places one slot near some nodes; `None` if it does not fit.
    fn place(&mut self, ix: SlotIx, amount: Amount, near: &[usize]) -> Option<()> {
        let slot = &self.on.slots[ix.0];
        match slot.shape {
            Shape::Divisible => self.pieces(ix, slot, amount, near),
            Shape::Single => self.part(ix, slot, amount, near),
            Shape::Whole => {
                let rest = self.wholes(ix, slot, amount, near);
                rest.is_zero().then_some(())
            }
            Shape::WholeThenFraction => {
                let first = self.grants.len();
                let rest = self.wholes(ix, slot, amount, near);
                // A whole unit that found no device is not made of parts.
                if rest >= Amount::ONE {
                    return None;
                }
                if rest.is_zero() {
                    return Some(());
                }
                // The odd part belongs beside the whole ones.
                let whole = self
                    .grants
                    .get(first)
                    .and_then(|g| self.on.devices[g.device.0].numa);
                match whole {
                    Some(node) => self.part(ix, slot, rest, &[node]),
                    None => self.part(ix, slot, rest, near),
                }
            }
        }
    }

    /// Takes whole, idle devices while they are needed; what is left over.
    fn wholes(&mut self, ix: SlotIx, slot: &'a SlotView, amount: Amount, near: &[usize]) -> Amount {
        let mut idle: Vec<&Serving> = self.idle(slot).collect();
        idle.sort_by_key(|s| (self.distance(s, near), s.device));
        let mut rest = amount;
        for serving in idle {
            let whole = self.on.whole(slot, serving);
            if rest >= whole {
                self.take(ix, serving, whole);
                rest = rest.saturating_sub(whole);
            }
        }
        rest
    }

    /// Takes what there is, device after device.
    fn pieces(
        &mut self,
        ix: SlotIx,
        slot: &'a SlotView,
        amount: Amount,
        near: &[usize],
    ) -> Option<()> {
        let mut devices: Vec<&Serving> = slot.devices.iter().collect();
        devices.sort_by_key(|s| (self.distance(s, near), s.device));
        let mut rest = amount;
        for serving in devices {
            let piece = self.on.free(slot, serving, &self.cells).min(rest);
            if !piece.is_zero() {
                self.take(ix, serving, piece);
                rest = rest.saturating_sub(piece);
            }
        }
        rest.is_zero().then_some(())
    }

    /// Takes a part of one device: the nearest, then the fullest that still
    /// has room.
    fn part(
        &mut self,
        ix: SlotIx,
        slot: &'a SlotView,
        amount: Amount,
        near: &[usize],
    ) -> Option<()> {
        let free = |s: &Serving| self.on.free(slot, s, &self.cells);
        let serving = slot
            .devices
            .iter()
            .filter(|s| free(s) >= amount)
            .min_by_key(|s| (self.distance(s, near), free(s), s.device))?;
        self.take(ix, serving, amount);
        Some(())
    }

    fn take(&mut self, slot: SlotIx, serving: &Serving, amount: Amount) {
        for &(cell, per_unit) in &serving.draws {
            let cell = &mut self.cells[cell];
            let used = amount
                .scaled(per_unit, Amount::ONE)
                .and_then(|a| cell.used.checked_add(a));
            debug_assert!(
                used.is_some_and(|u| u <= cell.usable),
                "a grant over capacity"
            );
            cell.used = used.unwrap_or(Amount::MAX);
        }
        self.grants.push(Grant {
            slot,
            device: serving.device,
            amount,
        });
    }

    /// Devices that are open, offer something and of which nothing is held.
    fn idle(&self, slot: &'a SlotView) -> impl Iterator<Item = &'a Serving> {
        slot.devices.iter().filter(|s| {
            let cells = &self.on.devices[s.device.0].cells;
            let unused = cells.values().all(|&c| self.cells[c].used.is_zero());
            unused && !self.on.free(slot, s, &self.cells).is_zero()
        })
    }

    fn distance(&self, serving: &Serving, near: &[usize]) -> u32 {
        let Some(node) = self.on.devices[serving.device.0].numa else {
            return 0;
        };
        let all = near.iter().map(|&n| self.on.distances[n][node]);
        all.min().unwrap_or(0)
    }
}

/// Says which slot is short, and how short. The demand is known not to fit.
fn explain(snapshot: &Snapshot, order: &[(SlotIx, Amount)]) -> Refusal {
    // The first slot that does not fit even alone; slots of this cut do not
    // compete for capacities, so there is one.
    let short = order
        .iter()
        .find(|&&(ix, amount)| Trial::new(snapshot).place(ix, amount, &[]).is_none())
        .or(order.first());
    let Some(&(ix, asked)) = short else {
        return Refusal::new(RefusalCode::Insufficient, "", "nothing was asked".into());
    };
    let slot = &snapshot.slots[ix.0];
    let free = |s: &Serving| snapshot.free(slot, s, &snapshot.cells);
    let free: Amount = slot.devices.iter().map(free).sum();
    let total: Amount = slot.devices.iter().map(|s| snapshot.whole(slot, s)).sum();
    let largest = largest(snapshot, slot);
    let code = if free >= asked {
        RefusalCode::Fragmented
    } else {
        RefusalCode::Insufficient
    };
    let show = |amount: Amount| {
        if slot.unit == "byte" {
            format!("{amount} ({})", format_amount(amount, "byte"))
        } else {
            amount.to_string()
        }
    };
    let mut message = format!(
        "{}: {} asked, {} free of {}",
        slot.name,
        show(asked),
        show(free),
        show(total)
    );
    if code == RefusalCode::Fragmented {
        message += match slot.shape {
            Shape::Single => ", but not on one device",
            Shape::Whole => ", but not as whole devices",
            Shape::WholeThenFraction => ", but not as whole devices and one part",
            Shape::Divisible => "",
        };
    }
    message += &if largest.is_zero() {
        "; nothing of it can be granted now".to_owned()
    } else {
        format!("; the largest that fits now is {}", show(largest))
    };
    let closed: Vec<String> = slot
        .devices
        .iter()
        .filter_map(|s| {
            let device = &snapshot.devices[s.device.0];
            Some(format!("{} ({})", device.name, device.closed.as_deref()?))
        })
        .collect();
    if !closed.is_empty() {
        message += &format!("; closed: {}", closed.join(", "));
    }
    Refusal {
        asked: Some(asked),
        free: Some(free),
        largest: Some(largest),
        ..Refusal::new(code, &slot.name, message)
    }
}

/// The largest amount of a slot that a request for it alone would get now.
fn largest(snapshot: &Snapshot, slot: &SlotView) -> Amount {
    let free = || {
        slot.devices
            .iter()
            .map(|s| (s.device, snapshot.free(slot, s, &snapshot.cells)))
    };
    let trial = Trial::new(snapshot);
    let idle: Vec<&Serving> = trial.idle(slot).collect();
    let whole: Amount = idle.iter().map(|s| snapshot.whole(slot, s)).sum();
    match slot.shape {
        Shape::Divisible => free().map(|(_, f)| f).sum(),
        Shape::Single => free().map(|(_, f)| f).max().unwrap_or_default(),
        Shape::Whole => whole,
        Shape::WholeThenFraction => {
            let part = free()
                .filter(|(device, _)| !idle.iter().any(|s| s.device == *device))
                .map(|(_, f)| f)
                .max()
                .unwrap_or_default();
            whole.checked_add(part).unwrap_or(Amount::MAX)
        }
    }
}

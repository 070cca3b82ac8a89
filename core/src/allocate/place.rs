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
use super::snapshot::{DeviceIx, Serving, SlotIx, SlotView, Snapshot};
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
    let mut trial = snapshot.clone();
    let mut grants = Vec::new();
    let mut nodes: Vec<usize> = Vec::new();
    for &(ix, amount) in order {
        let near = if nodes.is_empty() {
            home.into_iter().collect()
        } else {
            nodes.clone()
        };
        for grant in place(&mut trial, ix, amount, &near)? {
            if let Some(node) = snapshot.devices[grant.device.0].numa
                && !nodes.contains(&node)
            {
                nodes.push(node);
            }
            grants.push(grant);
        }
    }
    let span = nodes
        .iter()
        .flat_map(|&a| nodes.iter().map(move |&b| snapshot.distances[a][b]))
        .sum();
    let at_home = order.first().map_or(Amount::ZERO, |&(ix, _)| {
        let slot = &snapshot.slots[ix.0];
        slot.devices
            .iter()
            .filter(|s| snapshot.devices[s.device.0].numa == home)
            .map(|s| snapshot.free(slot, s))
            .sum()
    });
    Some(Plan {
        grants,
        cost: (nodes.len(), span, at_home, home),
    })
}

/// Places one slot near some nodes and takes it from the snapshot.
fn place(
    snapshot: &mut Snapshot,
    ix: SlotIx,
    amount: Amount,
    near: &[usize],
) -> Option<Vec<Grant>> {
    let slot = snapshot.slots[ix.0].clone();
    let distance = |snapshot: &Snapshot, serving: &Serving| {
        let Some(node) = snapshot.devices[serving.device.0].numa else {
            return 0;
        };
        near.iter()
            .map(|&n| snapshot.distances[n][node])
            .min()
            .unwrap_or(0)
    };
    let mut grants: Vec<Grant> = Vec::new();
    let mut rest = amount;

    if matches!(slot.shape, Shape::Whole | Shape::WholeThenFraction) {
        let mut idle = idle_devices(snapshot, &slot);
        idle.sort_by_key(|s| (distance(snapshot, s), s.device));
        for serving in idle {
            let whole = snapshot.whole(&slot, &serving);
            if rest < whole {
                continue;
            }
            snapshot.take(&serving, whole);
            grants.push(Grant {
                slot: ix,
                device: serving.device,
                amount: whole,
            });
            rest = rest.saturating_sub(whole);
        }
        // What is left must be less than a device, or whole ones ran out.
        if slot.shape == Shape::Whole || rest >= Amount::ONE {
            return rest.is_zero().then_some(grants);
        }
        if let (Some(first), false) = (grants.first(), rest.is_zero()) {
            // The odd part belongs beside the whole ones.
            let node = snapshot.devices[first.device.0].numa;
            return part(snapshot, &slot, ix, rest, |snapshot, s| {
                match (node, snapshot.devices[s.device.0].numa) {
                    (Some(a), Some(b)) => snapshot.distances[a][b],
                    _ => 0,
                }
            })
            .map(|grant| {
                grants.push(grant);
                grants
            });
        }
    }
    if rest.is_zero() {
        return Some(grants);
    }
    if slot.shape == Shape::Divisible {
        let mut devices = slot.devices.clone();
        devices.sort_by_key(|s| (distance(snapshot, s), s.device));
        for serving in devices {
            let take = snapshot.free(&slot, &serving).min(rest);
            if take.is_zero() {
                continue;
            }
            snapshot.take(&serving, take);
            grants.push(Grant {
                slot: ix,
                device: serving.device,
                amount: take,
            });
            rest = rest.saturating_sub(take);
        }
        return rest.is_zero().then_some(grants);
    }
    grants.push(part(snapshot, &slot, ix, rest, distance)?);
    Some(grants)
}

/// A part of one device: the nearest, then the fullest that still has room.
fn part(
    snapshot: &mut Snapshot,
    slot: &SlotView,
    ix: SlotIx,
    amount: Amount,
    distance: impl Fn(&Snapshot, &Serving) -> u32,
) -> Option<Grant> {
    let serving = slot
        .devices
        .iter()
        .filter(|s| snapshot.free(slot, s) >= amount)
        .min_by_key(|s| (distance(snapshot, s), snapshot.free(slot, s), s.device))?;
    snapshot.take(serving, amount);
    Some(Grant {
        slot: ix,
        device: serving.device,
        amount,
    })
}

/// Devices that are open, offer something and of which nothing is held.
fn idle_devices(snapshot: &Snapshot, slot: &SlotView) -> Vec<Serving> {
    let usable = |device: DeviceIx| snapshot.idle(device);
    slot.devices
        .iter()
        .filter(|s| usable(s.device) && !snapshot.free(slot, s).is_zero())
        .cloned()
        .collect()
}

/// Says which slot is short, and how short. The demand is known not to fit.
fn explain(snapshot: &Snapshot, order: &[(SlotIx, Amount)]) -> Refusal {
    // The first slot that does not fit even alone; slots of this cut do not
    // compete for capacities, so there is one.
    let short = order
        .iter()
        .find(|&&(ix, amount)| place(&mut snapshot.clone(), ix, amount, &[]).is_none())
        .or(order.first());
    let Some(&(ix, asked)) = short else {
        return Refusal::new(RefusalCode::Insufficient, "", "nothing was asked".into());
    };
    let slot = &snapshot.slots[ix.0];
    let free: Amount = slot.devices.iter().map(|s| snapshot.free(slot, s)).sum();
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
            .map(|s| (s.device, snapshot.free(slot, s)))
    };
    let idle = idle_devices(snapshot, slot);
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

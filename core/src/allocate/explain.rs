//! Why a request is refused, what would make it fit, and why a grant is what
//! it is. Nothing here decides: it asks [`place`](super::place) again.

use super::classic;
use super::demand::{Choices, Demand, MAX_PARTITIONS, Part};
use super::machine::{Machine, NOWHERE, SlotIx, SlotView};
use super::place::{Allocation, bins, fewest, fits};
use super::refusal::{Refusal, RefusalCode, Rejected, Room};
use super::serve::StandIn;
use super::snapshot::Snapshot;
use crate::model::{Amount, Near, Policy, Shape, Slice, format_amount};

/// Rejected devices that are named, at most.
const MAX_REJECTED: usize = 32;
/// Holders whose end is tried, at most.
const MAX_HOLDERS: usize = 128;
/// Partitions smaller than what was asked for that are tried, at most.
const MAX_SMALLER: usize = 16;

/// Says why a request does not fit: which slot is short, and how short. The
/// request is known not to fit; where it has several choices, this is about the
/// first (of partitions that are chosen by size: that selectors leave).
#[must_use]
pub fn refusal(snapshot: &Snapshot, choices: &Choices) -> Box<Refusal> {
    let machine = &**snapshot.machine();
    let nothing = || Refusal::new(RefusalCode::Insufficient, "", "nothing was asked".into());
    let Some(demand) = told(machine, choices) else {
        return Box::new(nothing());
    };
    // The first part that does not fit even alone; else all are short together.
    let alone = |part: &&Part| {
        let parts = vec![(*part).clone()];
        !fits(snapshot, &Demand { parts, ..*demand })
    };
    let short = demand.parts.iter().find(alone);
    let Some(named) = short.or(demand.parts.first()) else {
        return Box::new(nothing());
    };
    let mut rooms: Vec<Room> = Vec::new();
    let rest = demand.parts.iter().filter(|p| p.slot() != named.slot());
    for part in std::iter::once(named).chain(rest) {
        let claims = part.claims.iter();
        rooms.extend(claims.map(|&(ix, asked)| room(snapshot, demand, part, ix, asked)));
    }
    let (ix, asked) = named.claims[0];
    let slot = machine.view(ix);
    let first = &rooms[0];
    let code = if short.is_none() || first.free >= asked {
        RefusalCode::Fragmented
    } else {
        RefusalCode::Insufficient
    };
    let show = |amount: Amount| {
        if &*slot.unit == "byte" {
            format!("{amount} ({})", format_amount(amount, "byte"))
        } else {
            amount.to_string()
        }
    };
    let mut message = format!(
        "{}: {} asked, {} free of {}",
        slot.name,
        show(asked),
        show(first.free),
        show(first.total)
    );
    if slot.devices.is_empty() && !slot.summary.is_empty() {
        message += &format!("; no device here has it: {}", slot.summary);
    }
    if short.is_none() {
        message += ", which would fit, but not together with what else was asked";
    } else if code == RefusalCode::Fragmented {
        message += in_what_shape(demand, named, slot.shape);
    }
    if named.chosen.is_some() && !slot.devices.is_empty() && allowed(named, slot).next().is_none() {
        message += &format!(
            "; none of the {} devices that have it is left by --where and --apart-from (`divvy devices --json` shows what can be selected by)",
            able(named, slot).count()
        );
        return Box::new(Refusal {
            rooms,
            rejected: rejected(snapshot, named, slot),
            ..Refusal::new(code, &slot.name, message)
        });
    }
    message += &if first.largest.is_zero() {
        "; nothing of it can be granted now".to_owned()
    } else {
        format!("; the largest that fits now is {}", show(first.largest))
    };
    if let Some(stand_in) = &named.stand_in {
        message += &format!(
            "; one is what {} take{}",
            stand_in.what_for(machine),
            in_place(snapshot, choices, demand, named, stand_in, short.is_some())
        );
    }
    // Those that are ill may not say what they have, so not all of them serve the slot.
    let closed: Vec<String> = (0..)
        .map(super::DeviceIx)
        .take(machine.device_count())
        .filter(|&d| machine.plugin_of(d) == slot.plugin)
        .filter(|d| named.chosen.as_ref().is_none_or(|mask| mask.contains(d.0)))
        .filter_map(|d| {
            let name = machine.device_name(d);
            Some(format!("{name} ({})", snapshot.closed_at(d.0)?))
        })
        .take(MAX_REJECTED)
        .collect();
    if !closed.is_empty() {
        message += &format!("; closed: {}", closed.join(", "));
    }
    Box::new(Refusal {
        rooms,
        rejected: rejected(snapshot, named, slot),
        ..Refusal::new(code, &slot.name, message)
    })
}

/// The choice that a refusal is about.
fn told<'a>(machine: &Machine, choices: &'a Choices) -> Option<&'a Demand> {
    let first = choices.0.first()?;
    let left = |demand: &&Demand| {
        let mut stand_ins = demand.parts.iter().filter(|p| p.stand_in.is_some());
        stand_ins.all(|p| allowed(p, machine.view(p.slot())).next().is_some())
    };
    let alike = choices.0.iter().filter(|d| d.fallback == first.fallback);
    alike.into_iter().find(left).or(Some(first))
}

/// Of a partition that stands for classes and does not fit: the others that are enough,
/// which do not either, and the largest of those that are not, which does.
fn in_place(
    snapshot: &Snapshot,
    choices: &Choices,
    demand: &Demand,
    part: &Part,
    stand_in: &StandIn,
    alone: bool,
) -> String {
    let machine = &**snapshot.machine();
    let others = stand_ins(choices, demand).filter(|&slot| slot != stand_in.slot);
    let mut others: Vec<&str> = others.map(|slot| &*machine.view(slot).name).collect();
    others.dedup();
    let mut text = String::new();
    if !others.is_empty() {
        text += &format!(
            "; others that are enough do not fit either: {}",
            others.join(", ")
        );
    }
    if alone {
        let smaller = stand_in.next_smaller(machine, MAX_SMALLER, |slot, devices| {
            let mask = match &part.chosen {
                Some(chosen) => devices.and(chosen),
                None => devices,
            };
            let part = Part {
                mask: Some(mask.into()),
                ..part.clone()
            };
            fits(snapshot, &demand.only(machine, &part, slot, Amount::ONE))
        });
        if let Some(smaller) = smaller {
            text += &format!("; a smaller one would fit: {smaller}");
        }
    }
    text
}

/// The partitions that stand for the same, in all the choices.
fn stand_ins<'a>(choices: &'a Choices, demand: &Demand) -> impl Iterator<Item = SlotIx> + 'a {
    let fallback = demand.fallback;
    let alike = choices.0.iter().filter(move |d| d.fallback == fallback);
    alike
        .flat_map(|d| &d.parts)
        .filter_map(|p| Some(p.stand_in.as_ref()?.slot))
}

fn in_what_shape(demand: &Demand, part: &Part, shape: Shape) -> &'static str {
    match (demand.near, shape) {
        (Near::Node, _) => ", but not on one NUMA node",
        (Near::Linked, Shape::Whole) => ", but not as devices that are all linked",
        (_, Shape::Single) => ", but not on one device",
        (_, Shape::Whole) => ", but not as whole devices",
        (_, Shape::WholeThenFraction) => ", but not as whole devices and one part",
        (_, Shape::Partition) => ", but not where partitions may begin",
        (_, Shape::Divisible) if part.unsplit => ", but not without splitting it",
        (_, Shape::Divisible) => "",
    }
}

fn room(snapshot: &Snapshot, demand: &Demand, part: &Part, ix: SlotIx, asked: Amount) -> Room {
    let machine = &**snapshot.machine();
    let slot = machine.view(ix);
    Room {
        slot: slot.name.to_string(),
        asked,
        free: allowed(part, slot).map(|d| snapshot.room(ix, d)).sum(),
        total: able(part, slot)
            .map(|d| machine.terms(slot, d).map_or(Amount::ZERO, |t| t.whole))
            .sum(),
        largest: largest(snapshot, demand, part, ix),
    }
}

fn allowed<'a>(part: &'a Part, slot: &'a SlotView) -> impl Iterator<Item = u32> + 'a {
    let mask = part.mask.as_ref();
    let devices = slot.devices.iter().copied();
    devices.filter(move |d| mask.is_none_or(|m| m.contains(*d)))
}

/// The devices that have what is asked, used or not.
fn able<'a>(part: &'a Part, slot: &'a SlotView) -> impl Iterator<Item = u32> + 'a {
    let devices = slot.devices.iter().copied();
    devices.filter(|d| {
        let stand_in = part.stand_in.as_ref();
        stand_in.is_none_or(|s| s.enough.contains(*d))
    })
}

/// The largest amount of a slot that a request for it alone, else the same,
/// would get now.
pub(super) fn largest(snapshot: &Snapshot, demand: &Demand, part: &Part, ix: SlotIx) -> Amount {
    let machine = &**snapshot.machine();
    let slot = machine.view(ix);
    let of = |quanta: u64| slot.quantum.scaled(Amount::from_units(quanta), Amount::ONE);
    let mut rooms: Vec<(Amount, u32)> = allowed(part, slot)
        .map(|d| (snapshot.room(ix, d), d))
        .filter(|(room, _)| !room.is_zero())
        .collect();
    let free: Amount = rooms.iter().map(|(room, _)| *room).sum();
    if part.unsplit && part.shape == Shape::Divisible {
        // What may lie on n devices must be too large for fewer: not every
        // smaller amount fits, so it is worked out, not searched.
        rooms.sort_by_key(|&(room, _)| std::cmp::Reverse(room));
        if matches!(part.policy, Policy::Fill | Policy::Evenly) {
            let bins = bins(snapshot, demand, part);
            return of(classic::largest_unsplit(&bins)).unwrap_or_default();
        }
        return match demand.near {
            // On one node each time, and what hangs on none.
            Near::Node => (0..machine.distances.len())
                .map(|node| {
                    let near = rooms.iter().filter(|(_, d)| {
                        let at = machine.place(*d).node;
                        usize::from(at) == node || at == NOWHERE
                    });
                    largest_unsplit(machine, slot, near.map(|(room, _)| *room))
                })
                .max()
                .unwrap_or_default(),
            _ => largest_unsplit(machine, slot, rooms.iter().map(|(room, _)| *room)),
        };
    }
    let most = free.nanos() / slot.quantum.nanos().max(1);
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let most = match slot.shape {
        Shape::Partition => most.min(MAX_PARTITIONS),
        _ if slot.unique => most.min(1),
        _ => most,
    };
    // Every smaller amount fits where a larger one does: search by halves.
    let (mut fits_now, mut too_much) = (0, most.saturating_add(1));
    while too_much - fits_now > 1 {
        let middle = fits_now + (too_much - fits_now) / 2;
        let fits = of(middle)
            .is_some_and(|amount| fits(snapshot, &demand.only(machine, part, ix, amount)));
        if fits {
            fits_now = middle;
        } else {
            too_much = middle;
        }
    }
    of(fits_now).unwrap_or_default()
}

/// The most that may lie on `n` devices, the roomiest first, and needs so many.
fn largest_unsplit(
    machine: &Machine,
    slot: &SlotView,
    rooms: impl Iterator<Item = Amount>,
) -> Amount {
    let mut sum = Amount::ZERO;
    let sums = rooms.map(|room| {
        sum = sum.checked_add(room).unwrap_or(Amount::MAX);
        sum
    });
    let fits = (1u64..)
        .zip(sums)
        .filter(|(n, sum)| fewest(machine, slot, *sum) >= *n);
    fits.map(|(_, sum)| sum).max().unwrap_or_default()
}

/// Why each device did not serve.
fn rejected(snapshot: &Snapshot, part: &Part, slot: &SlotView) -> Vec<Rejected> {
    let machine = &**snapshot.machine();
    let (ix, asked) = part.claims[0];
    let why = |device: u32| {
        let state = snapshot.state(device);
        if let Some(reason) = snapshot.closed_at(device) {
            return format!("closed: {reason}");
        }
        if part.chosen.as_ref().is_some_and(|m| !m.contains(device)) {
            return "not selected, or of a workload to stay apart from".into();
        }
        if let Some(stand_in) = part
            .stand_in
            .as_ref()
            .filter(|s| !s.enough.contains(device))
        {
            return format!("its partition has {}", stand_in.has(machine, device));
        }
        if state.busy & slot.forbids != 0 {
            return "in use in another mode".into();
        }
        if !snapshot.is_open(slot, device) {
            return "in use through its partitions, or as a whole".into();
        }
        if slot.shape == Shape::Whole && !snapshot.is_idle(device) {
            return "in use".into();
        }
        let free = snapshot.room(ix, device);
        let free = format_amount(free, &slot.unit);
        if slot.shape == Shape::Single {
            let asked = format_amount(asked, &slot.unit);
            return format!("{free} free, {asked} asked");
        }
        format!("{free} free")
    };
    slot.devices
        .iter()
        .take(MAX_REJECTED)
        .map(|&device| Rejected {
            device: machine.device_name(super::DeviceIx(device)),
            why: why(device),
        })
        .collect()
}

/// Which holders' end would make a request fit: one of them where that is
/// enough (the first in order), else a set of which none can stay. Empty: not
/// even the end of all of them (of the first 128).
#[must_use]
pub fn would_fit_without(
    snapshot: &Snapshot,
    choices: &Choices,
    holders: &[(&str, &[Slice])],
) -> Vec<String> {
    let mut without = snapshot.clone();
    let fits_now = |on: &Snapshot| choices.0.iter().any(|demand| fits(on, demand));
    let mut ended: Vec<(&str, &[Slice])> = Vec::new();
    for &(name, slices) in holders.iter().take(MAX_HOLDERS) {
        let mut alone = snapshot.clone();
        alone.unhold(slices);
        if fits_now(&alone) {
            return vec![name.to_owned()];
        }
    }
    for &(name, slices) in holders.iter().take(MAX_HOLDERS) {
        without.unhold(slices);
        ended.push((name, slices));
        if fits_now(&without) {
            break;
        }
    }
    if !fits_now(&without) {
        return vec![];
    }
    // Whoever can stay, stays.
    let mut needed = Vec::new();
    for (name, slices) in ended {
        without.hold(slices);
        if !fits_now(&without) {
            without.unhold(slices);
            needed.push(name.to_owned());
        }
    }
    needed
}

/// Why each grant is what it is, one sentence each, in the order of the
/// grants. The snapshot is the one that was decided on.
#[must_use]
pub fn why(snapshot: &Snapshot, choices: &Choices, allocation: &Allocation) -> Vec<String> {
    let machine = &**snapshot.machine();
    let Some(demand) = choices.0.get(allocation.choice) else {
        return vec![];
    };
    let sentence = |grant: &super::Grant| {
        let slot = machine.view(grant.slot);
        let part = demand
            .parts
            .iter()
            .find(|p| p.claims.iter().any(|c| c.0 == grant.slot));
        let show = |amount: Amount| format_amount(amount, &slot.unit);
        let policy = part.map_or(Policy::Pack, |p| p.policy);
        let mut text = format!(
            "{} of {} on {}: {} was free",
            show(grant.amount),
            slot.name,
            machine.device_name(grant.device),
            show(snapshot.room(grant.slot, grant.device.0)),
        );
        let whole = match slot.shape {
            Shape::Whole => true,
            Shape::WholeThenFraction => grant.amount >= Amount::ONE,
            _ => false,
        };
        text += reason(policy, whole, machine);
        if slot.shape == Shape::Whole && !machine.links(grant.device.0).is_empty() {
            text += if allocation.exact {
                "; in the best-connected set"
            } else {
                "; in the best-connected set that was found in time, perhaps not the best there is"
            };
        }
        if let Some(start) = grant.start {
            text += &format!("; from position {start}");
        }
        let stand_in = part.and_then(|p| p.stand_in.as_ref());
        if let Some(stand_in) = stand_in {
            text += &format!("; it has {}", stand_in.has(machine, grant.device.0));
        }
        let before = choices.0[..allocation.choice].iter();
        let smaller = before.filter(|d| d.fallback == demand.fallback);
        let smaller = smaller.flat_map(|d| &d.parts).any(|p| p.stand_in.is_some());
        if demand.fallback > 0 || (allocation.choice > 0 && !smaller) {
            text += "; what was asked first does not fit";
        } else if smaller && stand_in.is_some() {
            text += "; no smaller one that is enough fits";
        }
        text
    };
    allocation.grants.iter().map(sentence).collect()
}

fn reason(policy: Policy, whole: bool, machine: &Machine) -> &'static str {
    match policy {
        Policy::Fill => "; fill: the emptiest first",
        Policy::Evenly => "; evenly: on one where it fits, else in equal parts",
        Policy::Spread => "; spread: the most free",
        Policy::Pack if whole && machine.distances.len() > 1 => {
            "; pack: idle, on the fewest and nearest NUMA nodes"
        }
        Policy::Pack if whole => "; pack: idle",
        Policy::Pack => "; pack: it leaves the most room for other requests",
    }
}

//! The ways to serve what is asked: by which slots, or by which partitions, and whether
//! these can stand in one request.

use super::demand::{Amounts, MAX_PARTITIONS};
use super::machine::{Default, Machine, SlotIx};
use super::refusal::{Refusal, RefusalCode};
use super::serve::{self, StandIn, root};
use crate::model::{Amount, BASE_SLOTS, EnforcementLevel, Request, Shape};

/// One way to serve some amounts.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// How much of each slot.
    pub(super) amounts: Vec<Option<Amount>>,
    /// The partitions among them that stand for classes.
    pub(super) stand_ins: Vec<StandIn>,
}

impl Way {
    fn with(&self, slot: SlotIx, amount: Amount) -> Self {
        let mut way = self.clone();
        way.amounts[usize::from(slot.0)] = Some(amount);
        way
    }

    fn with_stand_in(&self, stand_in: &StandIn) -> Self {
        // Beside those that were asked for by name.
        let named = self.amounts[usize::from(stand_in.slot.0)].unwrap_or_default();
        let amount = named.checked_add(Amount::ONE).unwrap_or(Amount::MAX);
        let mut way = self.with(stand_in.slot, amount);
        way.stand_ins.push(stand_in.clone());
        way
    }
}

/// A slot, or classes that are axes of the same thing and may be served by one
/// partition.
struct Wanted<'a> {
    /// Each name, how much of it, and the slots that can serve it.
    names: Vec<(&'a str, Amount, Vec<SlotIx>)>,
    /// The partitions that can serve all of it instead.
    stand_ins: Vec<StandIn>,
    /// Is it classes, which partitions could serve?
    of_classes: bool,
}

impl Wanted<'_> {
    fn classes(&self) -> Vec<(&str, Amount)> {
        self.names.iter().map(|&(n, a, _)| (n, a)).collect()
    }

    /// Do slots of this plugin serve all of it at this level?
    fn is_served_at(&self, machine: &Machine, plugin: u16, level: EnforcementLevel) -> bool {
        let reaches = |slot: &SlotIx| {
            let slot = machine.view(*slot);
            slot.plugin == plugin && slot.level >= level
        };
        self.names
            .iter()
            .all(|(.., slots)| slots.iter().any(reaches))
    }
}

/// What is asked, checked against the slots that there are.
fn wanted<'a>(
    machine: &Machine,
    request: &Request,
    amounts: &'a Amounts,
) -> Result<Vec<Wanted<'a>>, Box<Refusal>> {
    let mut all: Vec<Wanted<'a>> = Vec::new();
    let mut errors: Vec<(usize, Box<Refusal>)> = Vec::new();
    // 0 means "not asked".
    for (name, amount) in amounts.iter().filter(|(_, a)| !a.is_zero()) {
        let slots = serving(machine, name, *amount);
        let is_whole = |slots: &Vec<SlotIx>| {
            let mut slots = slots.iter();
            slots.all(|s| machine.view(*s).shape == Shape::Whole)
        };
        let of_classes = request.min_level.is_some()
            && machine.slot(name).is_none()
            && !slots.as_ref().is_ok_and(is_whole);
        let beside = all.iter().position(|other| {
            of_classes && other.of_classes && root(other.names[0].0) == root(name)
        });
        let at = beside.unwrap_or(all.len());
        let slots = match slots {
            Err(error) if !of_classes || error.code == RefusalCode::InvalidAmount => {
                return Err(error);
            }
            slots => slots,
        };
        let slots = slots.unwrap_or_else(|error| {
            errors.push((at, error));
            vec![]
        });
        if at == all.len() {
            all.push(Wanted {
                names: vec![],
                stand_ins: vec![],
                of_classes,
            });
        }
        all[at].names.push((name, *amount, slots));
    }
    if let Some(level) = request.min_level {
        for wanted in all.iter_mut().filter(|w| w.of_classes) {
            let mut stand_ins = serve::stand_ins(machine, &wanted.classes(), level);
            stand_ins.retain(|s| {
                let plugin = machine.view(s.slot).plugin;
                !wanted.is_served_at(machine, plugin, level)
            });
            wanted.stand_ins = stand_ins;
        }
        // Partitions of what no slot serves are no error.
        errors.retain(|(at, _)| all[*at].stand_ins.is_empty());
        if let Some((at, error)) = errors.first_mut()
            && let Some(short) = serve::shortfall(machine, &all[*at].classes(), level)
        {
            error.message += &format!("; {short}");
        }
    }
    match errors.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(all),
    }
}

/// The ways to serve some amounts: each class by each slot that can, else by
/// each partition that is enough.
pub(super) fn ways(
    machine: &Machine,
    request: &Request,
    amounts: &Amounts,
) -> Result<Vec<Way>, Box<Refusal>> {
    let mut ways = vec![Way {
        amounts: vec![None; machine.slots.len()],
        stand_ins: vec![],
    }];
    let all = wanted(machine, request, amounts)?;
    for wanted in &all {
        let mut by_slots = ways.clone();
        for (name, amount, slots) in &wanted.names {
            let each = |way: &Way| {
                let of_one = slots.iter();
                let of_one = of_one.filter(|s| of_one_plugin(machine, way, name, **s));
                of_one.map(|s| way.with(*s, *amount)).collect::<Vec<_>>()
            };
            by_slots = by_slots.iter().flat_map(each).collect();
        }
        let name = wanted.names[0].0;
        let by_partition = ways.iter().flat_map(|way| {
            let of_one = wanted.stand_ins.iter();
            let of_one = of_one.filter(|s| of_one_plugin(machine, way, name, s.slot));
            of_one.map(|s| way.with_stand_in(s))
        });
        by_slots.extend(by_partition);
        ways = by_slots;
        if ways.is_empty() {
            return Err(Box::new(Refusal::new(
                RefusalCode::UnknownSlot,
                name,
                format!("{name}: no plugin here offers this beside what else was asked for"),
            )));
        }
    }
    let mut good = Vec::new();
    let (mut first_error, mut of_partitions) = (None, None);
    for way in ways {
        match check(machine, request, &way.amounts, &all) {
            Ok(()) => good.push(Way {
                amounts: with_defaults(machine, way.amounts),
                ..way
            }),
            Err(error) if way.stand_ins.is_empty() => first_error = first_error.or(Some(error)),
            Err(error) => of_partitions = of_partitions.or(Some(error)),
        }
    }
    if !good.is_empty() {
        return Ok(good);
    }
    // Where partitions would do, it is not the level that stands in the way.
    let level = |e: &Refusal| e.code == RefusalCode::EnforcementTooWeak;
    match (first_error, of_partitions) {
        (Some(error), Some(other)) if level(&error) => Err(other),
        (Some(error), _) | (None, Some(error)) => Err(error),
        (None, None) => Ok(good),
    }
}

/// Are a slot and those that were chosen already, for classes that are axes of
/// the same thing (`gpu.mem`, `gpu.compute`), of one plugin? Of two, they would
/// lie on devices of two vendors.
fn of_one_plugin(machine: &Machine, way: &Way, name: &str, slot: SlotIx) -> bool {
    if machine.slot(name).is_some() {
        return true;
    }
    let slot = machine.view(slot);
    let chosen = way
        .amounts
        .iter()
        .zip(&machine.slots)
        .filter(|(amount, _)| amount.is_some());
    chosen
        .filter(|(_, other)| root(&other.class) == root(name))
        .all(|(_, other)| other.plugin == slot.plugin)
}

/// The slots that can serve a name: the slot of this name, or those of the
/// class. A class serves whole numbers by whole devices where it has such
/// slots, and all else by parts of one device.
fn serving(machine: &Machine, name: &str, amount: Amount) -> Result<Vec<SlotIx>, Box<Refusal>> {
    if let Some(slot) = machine.slot(name) {
        return Ok(vec![slot]);
    }
    let of_class = |shapes: &[Shape]| {
        let fits = |s: &SlotIx| {
            let view = machine.view(*s);
            *view.class == *name && shapes.contains(&view.shape)
        };
        machine.slot_numbers().filter(fits).collect::<Vec<_>>()
    };
    let wholes = of_class(&[Shape::Whole]);
    let parts = of_class(&[Shape::Single, Shape::Divisible, Shape::WholeThenFraction]);
    if wholes.is_empty() && parts.is_empty() {
        return Err(Box::new(unknown(machine, name)));
    }
    if amount.fraction().is_zero() && !wholes.is_empty() {
        return Ok(wholes);
    }
    if amount > Amount::ONE && !wholes.is_empty() {
        let below = Amount::from_units(amount.whole_units());
        return Err(Box::new(Refusal::new(
            RefusalCode::InvalidAmount,
            name,
            format!(
                "{name}: {amount} is neither a number of whole devices nor a part of one; ask for {below}, or for less than 1"
            ),
        )));
    }
    if parts.is_empty() {
        return Err(Box::new(Refusal::new(
            RefusalCode::NotMultipleOfQuantum,
            name,
            format!("{name}: {amount} asked, but what is here is given out as whole devices only"),
        )));
    }
    Ok(parts)
}

fn check(
    machine: &Machine,
    request: &Request,
    way: &[Option<Amount>],
    wanted: &[Wanted<'_>],
) -> Result<(), Box<Refusal>> {
    let asked: Vec<(SlotIx, Amount)> = (0..)
        .zip(way)
        .filter_map(|(i, a)| Some((SlotIx(i), (*a)?)))
        .collect();
    let name = |ix: SlotIx| &*machine.view(ix).name;
    for (i, &(a, _)) in asked.iter().enumerate() {
        for &(b, _) in &asked[i + 1..] {
            if machine.contradict(a, b) {
                return Err(Box::new(Refusal::new(
                    RefusalCode::ExclusiveConflict,
                    name(a),
                    format!(
                        "{} and {} cannot be asked for together; ask for one of them",
                        name(a),
                        name(b)
                    ),
                )));
            }
        }
    }
    for &(ix, amount) in &asked {
        if machine.view(ix).unique && amount != Amount::ONE {
            return Err(Box::new(Refusal::new(
                RefusalCode::InvalidAmount,
                name(ix),
                format!(
                    "{}: {amount} asked; of this slot exactly 1 can be asked for",
                    name(ix)
                ),
            )));
        }
    }
    for &(ix, amount) in &asked {
        check_quantum(machine, ix, amount)?;
        let slot = machine.view(ix);
        if slot.shape == Shape::Partition && amount.whole_units() > MAX_PARTITIONS {
            return Err(Box::new(Refusal::new(
                RefusalCode::InvalidAmount,
                name(ix),
                format!(
                    "{}: {amount} asked; one request can have {MAX_PARTITIONS} partitions at most",
                    name(ix)
                ),
            )));
        }
        // A limit weaker than asked for is no limit; cores and memory of the
        // host are the kernel's in any case.
        if let Some(least) = request.min_level
            && slot.level < least
            && !BASE_SLOTS.contains(&name(ix))
        {
            let serves = |w: &&Wanted<'_>| w.names.iter().any(|(.., slots)| slots.contains(&ix));
            let remedy = match wanted.iter().filter(|w| w.of_classes).find(serves) {
                Some(wanted) => serve::remedy(machine, &wanted.classes(), least),
                None => "ask for a lower --min-level or another slot".to_owned(),
            };
            return Err(Box::new(Refusal::new(
                RefusalCode::EnforcementTooWeak,
                name(ix),
                format!(
                    "{}: its limit is {}, below the {} that was asked for; {remedy}",
                    name(ix),
                    slot.level.as_str(),
                    least.as_str()
                ),
            )));
        }
    }
    Ok(())
}

fn check_quantum(machine: &Machine, ix: SlotIx, amount: Amount) -> Result<(), Box<Refusal>> {
    let slot = machine.view(ix);
    if amount.is_multiple_of(slot.quantum) {
        return Ok(());
    }
    let below = amount.floor_to(slot.quantum);
    let above = amount.ceil_to(slot.quantum).unwrap_or(Amount::MAX);
    let nearest = if below.is_zero() {
        format!("{above}")
    } else {
        format!("{below} and {above}")
    };
    Err(Box::new(Refusal::new(
        RefusalCode::NotMultipleOfQuantum,
        &slot.name,
        format!(
            "{}: {amount} is not a multiple of {}; the nearest legal amounts: {nearest}",
            slot.name, slot.quantum
        ),
    )))
}

/// Fills in what a request takes of slots that it does not name.
fn with_defaults(machine: &Machine, way: Vec<Option<Amount>>) -> Vec<Option<Amount>> {
    let named = way.clone();
    let mut way = way;
    for (amount, slot) in way.iter_mut().zip(&machine.slots) {
        if let (None, Some(Default::Fixed(fixed))) = (&amount, &slot.default) {
            *amount = Some(*fixed);
        }
    }
    for (i, slot) in machine.slots.iter().enumerate() {
        if named[i].is_none()
            && let Some(Default::Like(other)) = slot.default
        {
            let share = way[usize::from(other.0)].unwrap_or(Amount::ZERO);
            let ix = SlotIx(u16::try_from(i).unwrap_or(u16::MAX));
            way[i] = total(machine, ix)
                .scaled(share, total(machine, other))
                .map(|a| a.floor_to(slot.quantum));
        }
    }
    way
}

/// What the machine has of a slot when nothing is held.
fn total(machine: &Machine, ix: SlotIx) -> Amount {
    let slot = machine.view(ix);
    let whole = |&d: &u32| machine.terms(slot, d).map_or(Amount::ZERO, |t| t.whole);
    slot.devices.iter().map(whole).sum()
}

/// Names, of which those that differ in their last part alone are one where they are many:
/// `cuda.mig-… (87)`.
fn in_families(names: &[&str]) -> Vec<String> {
    const MANY: usize = 8;
    let family = |name: &str| name.split_once('-').map(|(family, _)| family.to_owned());
    let mut shown = vec![];
    for name in names {
        let kin = family(name);
        let count = names
            .iter()
            .filter(|n| kin.is_some() && family(n) == kin)
            .count();
        let one = match kin.filter(|_| count > MANY) {
            Some(kin) => format!("{kin}-… ({count}, `divvy plugin list` names them)"),
            None => (*name).to_owned(),
        };
        if !shown.contains(&one) {
            shown.push(one);
        }
    }
    shown
}

fn unknown(machine: &Machine, name: &str) -> Refusal {
    let names: Vec<&str> = machine.slots.iter().map(|s| &*s.name).collect();
    let known = match names.is_empty() {
        true => "none".to_owned(),
        false => in_families(&names).join(", "),
    };
    Refusal::new(
        RefusalCode::UnknownSlot,
        name,
        format!("{name}: no plugin here offers this slot; the slots are: {known}"),
    )
}

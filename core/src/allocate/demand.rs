//! A request, checked against the slots that exist: what is to be placed, in
//! order of preference.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::machine::{Default, Machine, Needs, SlotIx};
use super::refusal::{Refusal, RefusalCode};
use super::select::DeviceMask;
use crate::model::{Amount, BASE_SLOTS, Near, Policy, Request, Shape};

/// Partitions in one request, at most: what bounds a decision's time.
pub(super) const MAX_PARTITIONS: u64 = 64;

/// What would serve a request, best first; never empty.
#[derive(Clone, Debug)]
pub struct Choices(pub(super) Vec<Demand>);

/// One way to serve a request: parts that are placed one after another.
#[derive(Clone, Debug)]
pub struct Demand {
    pub(super) parts: Vec<Part>,
    pub(super) near: Near,
    /// May what one part takes, or a piece of one, matter to the next?
    pub(super) entangled: bool,
}

/// Amounts that are placed together: of one slot, or of several that lie on
/// one device.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The slots and how much of each; the first names the part.
    pub(super) claims: Vec<(SlotIx, Amount)>,
    pub(super) shape: Shape,
    pub(super) policy: Policy,
    pub(super) unsplit: bool,
    /// The devices that may be used; `None`: all.
    pub(super) mask: Option<Arc<DeviceMask>>,
    /// What it needs of each kind of device, where it lies on one as a whole
    /// (for [`Shape::WholeThenFraction`]: the fraction).
    pub(super) needs: Vec<Option<Needs>>,
}

impl Part {
    pub(super) fn slot(&self) -> SlotIx {
        self.claims[0].0
    }

    pub(super) fn amount(&self) -> Amount {
        self.claims[0].1
    }
}

/// Which devices a request may use, besides what its slots say.
#[derive(Clone, Debug, std::default::Default)]
pub struct Limits {
    /// Those that its selector chose, for slots other than `cpu` and `mem`.
    pub selected: Option<DeviceMask>,
    /// Those that it may not touch.
    pub avoided: Option<DeviceMask>,
}

type Amounts = BTreeMap<String, Amount>;

impl Choices {
    /// Resolves a request: the ways to serve it, by its classes and fallbacks.
    ///
    /// What is asked first must be possible on this machine in principle;
    /// unless there are fallbacks, of which one must be.
    ///
    /// # Errors
    /// What is wrong with the first, if none is possible: `unknown_slot`,
    /// `exclusive_conflict`, `invalid_amount`, `not_multiple_of_quantum`,
    /// `enforcement_too_weak`; checked in this order.
    pub fn resolve(
        machine: &Machine,
        request: &Request,
        limits: &Limits,
    ) -> Result<Self, Box<Refusal>> {
        let masks = Masks::new(machine, request, limits);
        let mut choices = Vec::new();
        let mut first_error = None;
        let fallbacks = request.fallbacks.iter().map(|f| instead(&request.slots, f));
        for amounts in std::iter::once(request.slots.clone()).chain(fallbacks) {
            match ways(machine, request, &amounts) {
                Ok(ways) => choices.extend(
                    ways.into_iter()
                        .map(|asked| Demand::new(machine, request, &asked, &masks)),
                ),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) if choices.is_empty() => Err(error),
            _ => Ok(Self(choices)),
        }
    }

    /// The slots and amounts of the `choice`-th way, defaults included.
    pub fn amounts<'a>(
        &'a self,
        machine: &'a Machine,
        choice: usize,
    ) -> impl Iterator<Item = (&'a str, Amount)> + 'a {
        self.0
            .get(choice)
            .into_iter()
            .flat_map(|demand| &demand.parts)
            .flat_map(|part| &part.claims)
            .map(|&(ix, amount)| (&*machine.view(ix).name, amount))
    }
}

/// A fallback's amounts in place of those that were asked.
fn instead(asked: &Amounts, fallback: &Amounts) -> Amounts {
    let base = asked
        .iter()
        .filter(|(name, _)| BASE_SLOTS.contains(&name.as_str()));
    let base = base.map(|(name, amount)| (name.clone(), *amount));
    base.chain(fallback.clone()).collect()
}

/// The ways to serve some amounts: each class by each slot that can.
fn ways(
    machine: &Machine,
    request: &Request,
    amounts: &Amounts,
) -> Result<Vec<Vec<Option<Amount>>>, Box<Refusal>> {
    let mut ways: Vec<Vec<Option<Amount>>> = vec![vec![None; machine.slots.len()]];
    let mut asked: Vec<(&str, Vec<SlotIx>, Amount)> = Vec::new();
    // 0 means "not asked".
    for (name, amount) in amounts.iter().filter(|(_, a)| !a.is_zero()) {
        asked.push((name, serving(machine, name, *amount)?, *amount));
    }
    for (name, slots, amount) in &asked {
        let each = |way: &Vec<Option<Amount>>| {
            let with = |slot: &SlotIx| {
                let mut way = way.clone();
                way[usize::from(slot.0)] = Some(*amount);
                way
            };
            let of_one = slots
                .iter()
                .filter(|s| of_one_plugin(machine, way, name, **s));
            of_one.map(with).collect::<Vec<_>>()
        };
        ways = ways.iter().flat_map(each).collect();
        if ways.is_empty() {
            return Err(Box::new(Refusal::new(
                RefusalCode::UnknownSlot,
                name,
                format!("{name}: no plugin here offers this beside what else was asked for"),
            )));
        }
    }
    let mut good = Vec::new();
    let mut first_error = None;
    for way in ways {
        match check(machine, request, &way) {
            Ok(()) => good.push(with_defaults(machine, way)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) if good.is_empty() => Err(error),
        _ => Ok(good),
    }
}

/// Are a slot and those that were chosen already, for classes that are axes of
/// the same thing (`gpu.mem`, `gpu.compute`), of one plugin? Of two, they would
/// lie on devices of two vendors.
fn of_one_plugin(machine: &Machine, way: &[Option<Amount>], name: &str, slot: SlotIx) -> bool {
    fn root(class: &str) -> &str {
        class.split('.').next().unwrap_or(class)
    }
    if machine.slot(name).is_some() {
        return true;
    }
    let slot = machine.view(slot);
    let chosen = way
        .iter()
        .zip(&machine.slots)
        .filter(|(amount, _)| amount.is_some());
    chosen
        .filter(|(_, other)| root(&other.class) == root(&slot.class))
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
        let all = (0..machine.slots.len()).filter_map(|i| u16::try_from(i).ok());
        all.map(SlotIx).filter(fits).collect::<Vec<_>>()
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

fn check(machine: &Machine, request: &Request, way: &[Option<Amount>]) -> Result<(), Box<Refusal>> {
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
            return Err(Box::new(Refusal::new(
                RefusalCode::EnforcementTooWeak,
                name(ix),
                format!(
                    "{}: its limit is {}, below the {} that was asked for; ask for a lower --min-level or another slot",
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
pub(super) fn total(machine: &Machine, ix: SlotIx) -> Amount {
    let slot = machine.view(ix);
    let whole = |&d: &u32| machine.terms(slot, d).map_or(Amount::ZERO, |t| t.whole);
    slot.devices.iter().map(whole).sum()
}

fn unknown(machine: &Machine, name: &str) -> Refusal {
    let known: Vec<&str> = machine.slots.iter().map(|s| &*s.name).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Refusal::new(
        RefusalCode::UnknownSlot,
        name,
        format!("{name}: no plugin here offers this slot; the slots are: {known}"),
    )
}

/// The devices that each slot may be placed on.
struct Masks {
    avoiding: Option<Arc<DeviceMask>>,
    selected: Option<Arc<DeviceMask>>,
    /// The slots of the base that the selector means.
    base: Vec<String>,
}

impl Masks {
    fn new(machine: &Machine, request: &Request, limits: &Limits) -> Self {
        let avoiding = limits
            .avoided
            .as_ref()
            .map(|m| m.inverted(machine.device_count()));
        let selected = match (&limits.selected, &avoiding) {
            (Some(s), Some(a)) => Some(s.and(a)),
            (Some(s), None) => Some(s.clone()),
            (None, a) => a.clone(),
        };
        // A selector is for accelerators; for what is asked of the base if
        // nothing else is.
        let asked = request.slots.iter().filter(|(_, amount)| !amount.is_zero());
        let (base, rest): (Vec<&String>, Vec<&String>) = asked
            .map(|(name, _)| name)
            .partition(|name| BASE_SLOTS.contains(&name.as_str()));
        Self {
            avoiding: avoiding.map(Arc::new),
            selected: selected.map(Arc::new),
            base: if rest.is_empty() {
                base.into_iter().cloned().collect()
            } else {
                vec![]
            },
        }
    }

    fn of(&self, slot: &str) -> &Option<Arc<DeviceMask>> {
        let meant = !BASE_SLOTS.contains(&slot) || self.base.iter().any(|b| b == slot);
        if meant {
            &self.selected
        } else {
            &self.avoiding
        }
    }
}

impl Demand {
    /// The same demand for an amount of one slot alone.
    pub(super) fn only(
        &self,
        machine: &Machine,
        part: &Part,
        slot: SlotIx,
        amount: Amount,
    ) -> Self {
        let claims = vec![(slot, amount)];
        let needs = needs(machine, &claims, part.shape);
        Self {
            parts: vec![Part {
                claims,
                needs,
                ..part.clone()
            }],
            near: self.near,
            entangled: machine.view(slot).has_children(machine),
        }
    }

    fn new(machine: &Machine, request: &Request, asked: &[Option<Amount>], masks: &Masks) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        for (i, amount) in (0..).zip(asked) {
            let Some(amount) = amount.filter(|a| !a.is_zero()) else {
                continue;
            };
            let slot = machine.view(SlotIx(i));
            // Parts of one mode lie on one device, so that their limits mean
            // the same thing.
            let partner = parts.iter_mut().find(|p| {
                let other = machine.view(p.slot());
                let modes = slot.mode.is_some() && slot.mode == other.mode;
                modes
                    && slot.shape == Shape::Single
                    && other.shape == Shape::Single
                    && slot.plugin == other.plugin
            });
            if let Some(partner) = partner {
                partner.claims.push((SlotIx(i), amount));
                continue;
            }
            let selected = masks.of(&slot.name);
            parts.push(Part {
                claims: vec![(SlotIx(i), amount)],
                shape: slot.shape,
                policy: policy(request.policy.unwrap_or(slot.policy), slot.shape),
                unsplit: request.unsplit,
                mask: selected.clone(),
                needs: vec![],
            });
        }
        for part in &mut parts {
            part.needs = needs(machine, &part.claims, part.shape);
        }
        // The least movable first.
        parts.sort_by_key(|p| (rigidity(p.shape), p.slot()));
        let entangled = parts.iter().enumerate().any(|(i, a)| {
            let slot = machine.view(a.slot());
            let mut rest = parts[i + 1..].iter();
            slot.has_children(machine) || rest.any(|b| slot.meets(machine.view(b.slot()), machine))
        });
        Self {
            parts,
            near: request.near,
            entangled,
        }
    }
}

/// `fill` and `evenly` split amounts. What lies on one device, or on whole
/// ones, cannot be split: they choose the emptiest and the fullest then.
fn policy(asked: Policy, shape: Shape) -> Policy {
    match (asked, shape) {
        (any, Shape::Divisible) => any,
        (Policy::Fill | Policy::Spread, _) => Policy::Spread,
        (Policy::Evenly | Policy::Pack, _) => Policy::Pack,
    }
}

fn needs(machine: &Machine, claims: &[(SlotIx, Amount)], shape: Shape) -> Vec<Option<Needs>> {
    let kinds = 0..u32::try_from(machine.kinds.len()).unwrap_or(u32::MAX);
    match shape {
        Shape::Divisible | Shape::Whole => vec![],
        Shape::Single | Shape::Partition => kinds.map(|k| machine.needs(claims, k)).collect(),
        Shape::WholeThenFraction => {
            let fraction = [(claims[0].0, claims[0].1.fraction())];
            kinds.map(|k| machine.needs(&fraction, k)).collect()
        }
    }
}

fn rigidity(shape: Shape) -> u8 {
    match shape {
        Shape::Whole => 0,
        Shape::Partition => 1,
        Shape::WholeThenFraction => 2,
        Shape::Single => 3,
        Shape::Divisible => 4,
    }
}

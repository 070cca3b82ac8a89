//! A request, checked against the slots that exist: what is to be placed, in
//! order of preference.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::machine::{Machine, Needs, SlotIx};
use super::refusal::Refusal;
use super::select::DeviceMask;
use super::serve::StandIn;
use super::ways::{Way, ways};
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
    /// 0 for what was asked first, else the number of the fallback.
    pub(super) fallback: usize,
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
    /// Those that the request chose; a stand-in may use fewer.
    pub(super) chosen: Option<Arc<DeviceMask>>,
    /// The classes that it serves, if it is a partition in their place.
    pub(super) stand_in: Option<StandIn>,
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

pub(super) type Amounts = BTreeMap<String, Amount>;

impl Choices {
    /// Resolves a request: the ways to serve it, by its classes and fallbacks.
    /// Where a level is asked that no slot of a plugin reaches, partitions of
    /// it that are enough come in the classes' place, the smallest first.
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
        let all = std::iter::once(request.slots.clone()).chain(fallbacks);
        for (fallback, amounts) in all.enumerate() {
            match ways(machine, request, &amounts) {
                Ok(ways) => choices.extend(ways.into_iter().map(|way| Demand {
                    fallback,
                    ..Demand::new(machine, request, &way, &masks)
                })),
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
            fallback: self.fallback,
        }
    }

    fn new(machine: &Machine, request: &Request, way: &Way, masks: &Masks) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        for (i, amount) in (0..).zip(&way.amounts) {
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
            let chosen = masks.of(&slot.name).clone();
            let stand_in = way.stand_ins.iter().find(|s| s.slot == SlotIx(i)).cloned();
            let mask = match (&stand_in, &chosen) {
                (Some(s), Some(chosen)) => Some(Arc::new(s.enough.and(chosen))),
                (Some(s), None) => Some(Arc::new(s.enough.clone())),
                (None, chosen) => chosen.clone(),
            };
            parts.push(Part {
                claims: vec![(SlotIx(i), amount)],
                shape: slot.shape,
                policy: policy(request.policy.unwrap_or(slot.policy), slot.shape),
                unsplit: request.unsplit,
                mask,
                chosen,
                stand_in,
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
            fallback: 0,
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

//! The machine as numbers: slots, devices and distances, interned once and
//! never changed. What is held of it is in a [`Snapshot`](super::Snapshot).
//!
//! Devices that are alike (same plugin, capacities and partitioning) share a
//! [`Kind`]; what a slot means on a device is worked out once per kind.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::cut::{Cut, Cuts, count};
use super::nodes::{Group, node_sets};
use super::snapshot::nanos;
use crate::model::{
    Amount, Basis, Capacity, DefaultAmount, Device, DeviceRef, EnforcementLevel, HealthState,
    Inventory, NumaNode, Partitioning, Policy, Shape, Slot,
};

/// Index of a slot in a [`Machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIx(pub(super) u16);

/// Index of a device in a [`Machine`]; the inventory's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIx(pub(super) u32);

/// Index of a [`Kind`].
pub(super) type KindIx = u32;
/// Index of a NUMA node; [`NOWHERE`] for devices that hang on none.
pub(super) type NodeIx = u16;
/// No NUMA node.
pub(super) const NOWHERE: NodeIx = NodeIx::MAX;
/// No parent.
pub(super) const NO_DEVICE: u32 = u32::MAX;

/// Capacities that one slot may draw on, at most; plugins that say more are
/// refused ([`crate::plugin`]).
pub(crate) const MAX_DRAWS: usize = 8;
/// Modes of one plugin, at most: they are bits of a word.
pub(crate) const MAX_MODES: usize = 64;

/// What requests are expected: the weight of a request for an eighth, a
/// quarter, a half and the whole of a device. `pack` gives up what matters
/// least to them. Uniform by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Weight of a request for an eighth of a device.
    pub eighth: u16,
    /// Of one for a quarter.
    pub quarter: u16,
    /// Of one for a half.
    pub half: u16,
    /// Of one for all of it.
    pub whole: u16,
}

impl std::default::Default for Expected {
    fn default() -> Self {
        Self {
            eighth: 1,
            quarter: 1,
            half: 1,
            whole: 1,
        }
    }
}

impl Expected {
    /// What a device is worth of which this many eighths are free: how many
    /// requests of each size it could still serve, by their weights.
    fn worth(self) -> [i64; 9] {
        std::array::from_fn(|free| {
            let count = |size: usize, weight: u16| (free / size) as i64 * i64::from(weight);
            count(1, self.eighth)
                + count(2, self.quarter)
                + count(4, self.half)
                + count(8, self.whole)
        })
    }
}

/// What is not a plugin's to say.
#[derive(Clone, Debug, std::default::Default)]
pub struct Rules {
    /// The requests to expect.
    pub expected: Expected,
    /// How devices are chosen, by slot; `pack` where nothing is said.
    pub policies: BTreeMap<String, Policy>,
    /// Slots of which a request names exactly one.
    pub unique: BTreeSet<String>,
    /// Sets of slots of which a request may name one only. Each is a list of
    /// modes, each a list of slots by their numbers in [`Inventory::slots`]: a
    /// device serves slots of one mode at a time.
    pub exclusive: Vec<Vec<Vec<usize>>>,
}

/// What never changes between two looks at the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) plugins: Vec<Box<str>>,
    pub(super) slots: Vec<SlotView>,
    pub(super) names: Vec<Name>,
    pub(super) places: Vec<Place>,
    pub(super) kinds: Vec<Kind>,
    /// `distances[from][to]`, ACPI SLIT units.
    pub(super) distances: Vec<Vec<u32>>,
    /// Sets of NUMA nodes, from near to far.
    pub(super) node_sets: Vec<Group>,
    /// Each device's links, one after another; [`Place::links`] says which.
    pub(super) links: Vec<(u32, u32)>,
    /// Slots of which one request may name one only.
    pub(super) exclusive: Vec<Vec<SlotIx>>,
    /// Devices closed from the start, and why.
    pub(super) closed: BTreeMap<u32, Box<str>>,
    /// The most modes that any plugin has.
    pub(super) modes: usize,
    /// Devices in the order of their names, to find one.
    by_name: Vec<u32>,
    worth: [i64; 9],
}

/// A device's name, the plugin's part interned.
#[derive(Clone, Debug)]
pub(super) struct Name {
    plugin: u16,
    id: Box<str>,
}

/// Where a device is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) kind: KindIx,
    /// The cell of its first capacity; the others follow.
    pub(super) first_cell: u32,
    pub(super) parent: u32,
    links: (u32, u32),
    pub(super) node: NodeIx,
}

/// What makes devices alike: the plugin, the capacities, the partitioning.
type Alike<'a> = (
    u16,
    &'a BTreeMap<String, Capacity>,
    Option<&'a Partitioning>,
);

/// What devices that are alike have.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) capacities: Vec<CapacityView>,
    pub(super) cuts: Option<Cuts>,
}

#[derive(Clone, Debug)]
pub(super) struct CapacityView {
    pub(super) name: Box<str>,
    /// What may be handed out: the total less its reserved part.
    pub(super) usable: Amount,
    pub(super) step: Option<Amount>,
    /// So much must be free for 1 to 8 eighths to be free.
    eighths: [Amount; 8],
}

/// A slot.
#[derive(Clone, Debug)]
pub(super) struct SlotView {
    pub(super) name: Box<str>,
    pub(super) plugin: u16,
    pub(super) unit: Box<str>,
    pub(super) class: Box<str>,
    /// Its plugin's sentence for people.
    pub(super) summary: Box<str>,
    pub(super) quantum: Amount,
    pub(super) shape: Shape,
    pub(super) mode: Option<u8>,
    /// The modes that a device may not be in for this slot, as bits.
    pub(super) forbids: u64,
    pub(super) level: EnforcementLevel,
    pub(super) default: Option<Default>,
    pub(super) policy: Policy,
    /// A request names exactly one.
    pub(super) unique: bool,
    /// What it means on each kind of device that serves it.
    pub(super) terms: Vec<Option<Terms>>,
    /// The devices that serve it, by NUMA node, then in inventory order.
    pub(super) devices: Vec<u32>,
    /// Where each node's devices are among them.
    pub(super) nodes: Vec<(NodeIx, u32, u32)>,
}

#[derive(Clone, Debug)]
pub(super) enum Default {
    Fixed(Amount),
    Like(SlotIx),
}

/// What a slot means on one kind of device.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    draws: Vec<DrawView>,
    /// The most that an empty device can serve.
    pub(super) whole: Amount,
}

#[derive(Clone, Copy, Debug)]
struct DrawView {
    /// Of the capacity, among the device's.
    offset: u8,
    per_unit: Amount,
    rule: Rule,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    Units,
    Share,
    /// The same part as of the capacity at this offset.
    Like(u8),
}

/// Amounts of a device's capacities, by offset. Small and copied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs {
    len: u8,
    offsets: [u8; MAX_DRAWS],
    amounts: [Amount; MAX_DRAWS],
}

impl Needs {
    /// Does as much suffice as is left?
    pub(super) fn are_left(&self, left: &[i128]) -> bool {
        self.iter()
            .all(|(offset, need)| left[offset] >= nanos(need))
    }

    /// Is the same left twice, of what is needed?
    pub(super) fn same_left(&self, a: &[i128], b: &[i128]) -> bool {
        self.iter().all(|(offset, _)| a[offset] == b[offset])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, Amount)> + '_ {
        let len = usize::from(self.len);
        let offsets = self.offsets[..len].iter().map(|&o| usize::from(o));
        offsets.zip(self.amounts[..len].iter().copied())
    }

    /// Adds to what is needed; `None` when it is too much for any device.
    fn add(&mut self, offset: u8, amount: Amount) -> Option<()> {
        if amount.is_zero() {
            return Some(());
        }
        let len = usize::from(self.len);
        if let Some(at) = self.offsets[..len].iter().position(|&o| o == offset) {
            self.amounts[at] = self.amounts[at].checked_add(amount)?;
            return Some(());
        }
        *self.offsets.get_mut(len)? = offset;
        self.amounts[len] = amount;
        self.len += 1;
        Some(())
    }
}

impl Machine {
    /// Interns an inventory.
    #[must_use]
    pub fn new(inventory: &Inventory) -> Self {
        Self::with(inventory, &Rules::default())
    }

    /// Interns an inventory, with rules that its plugins do not state.
    #[must_use]
    pub fn with(inventory: &Inventory, rules: &Rules) -> Self {
        let mut plugins: Vec<Box<str>> = Vec::new();
        let mut plugin = |name: &str| {
            let at = plugins.iter().position(|p| **p == *name);
            small(at.unwrap_or_else(|| {
                plugins.push(name.into());
                plugins.len() - 1
            }))
        };
        let slot_names: HashMap<&str, SlotIx> = inventory
            .slots()
            .enumerate()
            .map(|(i, (_, slot))| (slot.name.as_str(), SlotIx(small(i))))
            .collect();
        let (node_index, distances) = numa_table(inventory);

        let mut kinds: Vec<Kind> = Vec::new();
        let mut kind_plugins: Vec<u16> = Vec::new();
        let mut known: HashMap<Alike<'_>, KindIx> = HashMap::new();
        let ids: HashMap<(&str, &str), u32> = (0..)
            .zip(&inventory.devices)
            .map(|(i, d)| ((d.plugin.as_str(), d.device.id.as_str()), i))
            .collect();
        let (mut names, mut places, mut links) = (Vec::new(), Vec::new(), Vec::new());
        let mut closed = BTreeMap::new();
        let mut cells = 0;
        for (i, Device { plugin: of, device }) in (0..).zip(&inventory.devices) {
            let owner = plugin(of);
            let key = (owner, &device.capacities, device.partitioning.as_ref());
            let kind = *known.entry(key).or_insert_with(|| {
                kinds.push(Kind::new(device, &slot_names));
                kind_plugins.push(owner);
                large(kinds.len() - 1)
            });
            let first_link = large(links.len());
            let to = |id: &str| ids.get(&(of.as_str(), id)).copied();
            links.extend(
                device
                    .links
                    .iter()
                    .filter_map(|l| Some((to(&l.to)?, l.weight))),
            );
            places.push(Place {
                kind,
                first_cell: large(cells),
                parent: device.parent.as_deref().and_then(to).unwrap_or(NO_DEVICE),
                links: (first_link, large(links.len())),
                node: device
                    .numa_node
                    .and_then(|n| node_index.get(&n).copied())
                    .unwrap_or(NOWHERE),
            });
            cells += device.capacities.len();
            names.push(Name {
                plugin: owner,
                id: device.id.as_str().into(),
            });
            if matches!(
                device.health.state,
                HealthState::Unhealthy | HealthState::Unknown
            ) {
                let reason = device.health.reason.as_deref().unwrap_or("not healthy");
                closed.insert(i, reason.into());
            }
        }

        let modes = Modes::new(inventory, &rules.exclusive);
        let slots: Vec<SlotView> = inventory
            .slots()
            .enumerate()
            .map(|(i, (of, slot))| {
                let owner = plugin(of);
                let terms: Vec<Option<Terms>> = kinds
                    .iter()
                    .zip(&kind_plugins)
                    .map(|(kind, p)| {
                        (*p == owner)
                            .then(|| Terms::new(slot, SlotIx(small(i)), kind))
                            .flatten()
                    })
                    .collect();
                let serves = |d: &u32| terms[places[*d as usize].kind as usize].is_some();
                let mut devices: Vec<u32> = (0..large(places.len())).filter(serves).collect();
                devices.sort_by_key(|&d| places[d as usize].node);
                SlotView {
                    name: slot.name.as_str().into(),
                    plugin: owner,
                    unit: slot.unit.as_str().into(),
                    class: slot.class.as_str().into(),
                    summary: slot.summary.as_str().into(),
                    quantum: slot.quantum,
                    shape: slot.shape,
                    mode: modes.of[i],
                    forbids: modes.forbids[i],
                    level: slot.level,
                    default: slot.default.as_ref().and_then(|d| match d {
                        DefaultAmount::Fixed(amount) => Some(Default::Fixed(*amount)),
                        DefaultAmount::Like(other) => {
                            slot_names.get(other.as_str()).map(|ix| Default::Like(*ix))
                        }
                    }),
                    policy: rules.policies.get(&slot.name).copied().unwrap_or_default(),
                    unique: rules.unique.contains(&slot.name),
                    terms,
                    nodes: runs(&devices, &places),
                    devices,
                }
            })
            .collect();
        let mut by_name: Vec<u32> = (0..large(places.len())).collect();
        let full = |d: u32| {
            let name: &Name = &names[d as usize];
            (&*plugins[usize::from(name.plugin)], &*name.id)
        };
        by_name.sort_by(|a, b| full(*a).cmp(&full(*b)));
        Self {
            by_name,
            plugins,
            slots,
            names,
            places,
            kinds,
            node_sets: node_sets(&distances),
            distances,
            links,
            exclusive: modes.exclusive,
            closed,
            modes: modes.most,
            worth: rules.expected.worth(),
        }
    }

    /// The slot of this name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<SlotIx> {
        let at = self.slots.iter().position(|s| *s.name == *name)?;
        Some(SlotIx(small(at)))
    }

    /// The device of this name.
    #[must_use]
    pub fn device(&self, plugin: &str, id: &str) -> Option<DeviceIx> {
        let full = |d: u32| {
            let name = &self.names[d as usize];
            (&*self.plugins[usize::from(name.plugin)], &*name.id)
        };
        let found = self
            .by_name
            .binary_search_by(|&d| full(d).cmp(&(plugin, id)));
        found.ok().map(|at| DeviceIx(self.by_name[at]))
    }

    /// Has this plugin said anything of itself?
    pub(super) fn has_plugin(&self, name: &str) -> bool {
        self.plugins.iter().any(|p| **p == *name)
    }

    /// How many devices there are.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.places.len()
    }

    pub(super) fn plugin_of(&self, device: DeviceIx) -> u16 {
        self.names[device.0 as usize].plugin
    }

    pub(super) fn device_name(&self, device: DeviceIx) -> DeviceRef {
        let name = &self.names[device.0 as usize];
        DeviceRef {
            plugin: self.plugins[usize::from(name.plugin)].to_string(),
            id: name.id.to_string(),
        }
    }

    /// All slots, in order.
    pub(super) fn slot_numbers(&self) -> impl Iterator<Item = SlotIx> + use<> {
        (0..small(self.slots.len())).map(SlotIx)
    }

    pub(super) fn view(&self, slot: SlotIx) -> &SlotView {
        &self.slots[usize::from(slot.0)]
    }

    pub(super) fn place(&self, device: u32) -> Place {
        self.places[device as usize]
    }

    pub(super) fn kind(&self, device: u32) -> &Kind {
        &self.kinds[self.place(device).kind as usize]
    }

    pub(super) fn terms<'a>(&self, slot: &'a SlotView, device: u32) -> Option<&'a Terms> {
        slot.terms[self.place(device).kind as usize].as_ref()
    }

    /// A device's links: the other end, and the weight.
    pub(super) fn links(&self, device: u32) -> &[(u32, u32)] {
        let (from, to) = self.place(device).links;
        &self.links[from as usize..to as usize]
    }

    /// What a device is worth of which so many eighths are free.
    pub(super) fn worth(&self, eighths: usize) -> i64 {
        self.worth[eighths]
    }

    /// May two slots not stand in one request?
    pub(super) fn contradict(&self, a: SlotIx, b: SlotIx) -> bool {
        let (x, y) = (self.view(a), self.view(b));
        let modes = x.plugin == y.plugin
            && matches!((x.mode, y.mode), (Some(m), Some(n)) if m != n)
            && x.forbids != 0;
        modes
            || self
                .exclusive
                .iter()
                .any(|set| set.contains(&a) && set.contains(&b))
    }

    /// What amounts of slots on one device use up; `None` if it does not serve
    /// one of them or they are more than any device has. Derived amounts give
    /// way to those that are asked for by name.
    pub(super) fn needs(&self, claims: &[(SlotIx, Amount)], kind: KindIx) -> Option<Needs> {
        let mut needs = Needs::default();
        let kind_ix = kind as usize;
        let kind = &self.kinds[kind_ix];
        let terms = |slot: SlotIx| self.view(slot).terms[kind_ix].as_ref();
        for &(slot, amount) in claims {
            if let Some(cut) = kind.cut(slot) {
                return Some(cut.needs);
            }
            let mine = terms(slot)?;
            for &draw in &mine.draws {
                let others = || claims.iter().filter(|&&(other, _)| other != slot);
                let named = matches!(draw.rule, Rule::Like(_))
                    && others().any(|&(o, _)| terms(o).is_some_and(|t| t.names(draw.offset)));
                if !named {
                    needs.add(draw.offset, kind.need(mine, draw, amount)?)?;
                }
            }
        }
        Some(needs)
    }
}

// === impl Kind ===

impl Kind {
    fn new(device: &divvy_plugin::Device, slots: &HashMap<&str, SlotIx>) -> Self {
        let capacities: Vec<CapacityView> = device
            .capacities
            .iter()
            .map(|(name, c)| {
                let usable = c.total.saturating_sub(c.reserved);
                CapacityView {
                    name: name.as_str().into(),
                    usable,
                    step: c.step,
                    eighths: std::array::from_fn(|i| {
                        let parts = Amount::from_units(i as u64 + 1);
                        usable
                            .scaled_up(parts, Amount::from_units(8))
                            .unwrap_or(usable)
                    }),
                }
            })
            .collect();
        let offset = |name: &str| capacities.iter().position(|c| *c.name == *name);
        let cuts = device.partitioning.as_ref().map(|p| Cuts {
            profiles: p
                .profiles
                .iter()
                .filter_map(|profile| {
                    let mut needs = Needs::default();
                    for (name, amount) in &profile.capacities {
                        needs.add(tiny(offset(name)?), *amount)?;
                    }
                    Some(Cut {
                        slot: *slots.get(profile.slot.as_str())?,
                        size: profile.size,
                        starts: profile
                            .starts
                            .iter()
                            .filter(|&&s| s + profile.size <= p.positions.min(64))
                            .fold(0, |bits, &s| bits | 1 << s),
                        needs,
                        serves: profile.serves.clone(),
                    })
                })
                .collect(),
        });
        Self { capacities, cuts }
    }

    /// The partitions of this slot.
    pub(super) fn cut(&self, slot: SlotIx) -> Option<&Cut> {
        self.cuts.as_ref()?.profiles.iter().find(|p| p.slot == slot)
    }

    /// What an amount of a slot draws on one capacity; derived amounts are
    /// rounded up to the capacity's step.
    fn need(&self, terms: &Terms, draw: DrawView, amount: Amount) -> Option<Amount> {
        let capacity = &self.capacities[usize::from(draw.offset)];
        let need = match draw.rule {
            Rule::Units => times(amount, draw.per_unit),
            Rule::Share => times(
                capacity.usable.scaled_up(amount, Amount::ONE)?,
                draw.per_unit,
            ),
            Rule::Like(base) => {
                let of = &self.capacities[usize::from(base)];
                let taken = times(amount, terms.per_unit(base)?)?;
                times(capacity.usable.scaled_up(taken, of.usable)?, draw.per_unit)
            }
        }?;
        match capacity.step {
            Some(step) => need.ceil_to(step),
            None => Some(need),
        }
    }

    /// The most of a slot for which what is free of one capacity suffices.
    fn room(&self, terms: &Terms, draw: DrawView, free: Amount) -> Option<Amount> {
        let capacity = &self.capacities[usize::from(draw.offset)];
        let free = capacity.step.map_or(free, |step| free.floor_to(step));
        let through = |a: Amount, factor: Amount| {
            if factor == Amount::ONE {
                Some(a)
            } else {
                a.scaled(Amount::ONE, factor)
            }
        };
        match draw.rule {
            Rule::Units => through(free, draw.per_unit),
            Rule::Share => through(free.scaled(Amount::ONE, capacity.usable)?, draw.per_unit),
            Rule::Like(base) => {
                let of = &self.capacities[usize::from(base)];
                let part = through(free, draw.per_unit)?.scaled(of.usable, capacity.usable)?;
                through(part, terms.per_unit(base)?)
            }
        }
    }

    /// How many eighths are free of the scarcest of some capacities, by offset
    /// and what is free.
    pub(super) fn eighths(&self, free: impl Iterator<Item = (usize, Amount)>) -> usize {
        free.map(|(offset, free)| {
            // Counted, not searched: there is no branch to guess wrong.
            let enough = |least: &Amount| usize::from(*least <= free);
            self.capacities[offset].eighths.iter().map(enough).sum()
        })
        .min()
        .unwrap_or(0)
    }
}

fn times(amount: Amount, factor: Amount) -> Option<Amount> {
    if factor == Amount::ONE {
        Some(amount)
    } else {
        amount.scaled_up(factor, Amount::ONE)
    }
}

// === impl SlotView ===

impl SlotView {
    /// Could a device that serves this slot matter to the other?
    pub(super) fn meets(&self, other: &Self, machine: &Machine) -> bool {
        let both = self.terms.iter().zip(&other.terms);
        let alike = both.into_iter().any(|(a, b)| a.is_some() && b.is_some());
        self.plugin == other.plugin
            && (alike || self.has_children(machine) || other.has_children(machine))
    }

    /// Is it served by devices that are partitions of others?
    pub(super) fn has_children(&self, machine: &Machine) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|&d| machine.place(d).parent != NO_DEVICE)
    }
}

// === impl Terms ===

impl Terms {
    /// What a slot means on a kind of device; `None` if the kind lacks what it
    /// draws on.
    fn new(slot: &Slot, ix: SlotIx, kind: &Kind) -> Option<Self> {
        if slot.shape == Shape::Partition {
            let cut = kind.cut(ix)?;
            let usable = |offset: usize| kind.capacities[offset].usable;
            return Some(Self {
                draws: vec![],
                whole: count(cut, 0, usable),
            });
        }
        let offset = |name: &str| kind.capacities.iter().position(|c| *c.name == *name);
        let mut terms = Self {
            draws: slot
                .draws
                .iter()
                .map(|draw| {
                    Some(DrawView {
                        offset: tiny(offset(&draw.capacity)?),
                        per_unit: draw.per_unit,
                        rule: match &draw.of {
                            Basis::Units => Rule::Units,
                            Basis::Device => Rule::Share,
                            Basis::Like(other) => Rule::Like(tiny(offset(other)?)),
                        },
                    })
                })
                .collect::<Option<_>>()?,
            whole: Amount::ZERO,
        };
        let usable = |offset: usize| kind.capacities[offset].usable;
        // A share of nothing would fit anywhere.
        if terms
            .draws
            .iter()
            .any(|d| usable(usize::from(d.offset)).is_zero())
        {
            return None;
        }
        terms.whole = terms.room(kind, slot.quantum, usable);
        Some(terms)
    }

    /// The most, in the slot's quantum, for which what is free suffices.
    pub(super) fn room(
        &self,
        kind: &Kind,
        quantum: Amount,
        free: impl Fn(usize) -> Amount,
    ) -> Amount {
        self.draws
            .iter()
            .filter_map(|&draw| kind.room(self, draw, free(usize::from(draw.offset))))
            .min()
            .unwrap_or(Amount::ZERO)
            .floor_to(quantum)
    }

    /// Does it draw on this capacity by name, not in proportion?
    fn names(&self, offset: u8) -> bool {
        let named = |d: &DrawView| d.offset == offset && !matches!(d.rule, Rule::Like(_));
        self.draws.iter().any(named)
    }

    /// What one unit takes of a capacity that it is counted in.
    fn per_unit(&self, offset: u8) -> Option<Amount> {
        let counted = |d: &&DrawView| d.offset == offset && matches!(d.rule, Rule::Units);
        self.draws.iter().find(counted).map(|d| d.per_unit)
    }
}

// === modes ===

/// Which slots a device cannot serve at the same time, and which a request may
/// not name together.
struct Modes {
    of: Vec<Option<u8>>,
    forbids: Vec<u64>,
    exclusive: Vec<Vec<SlotIx>>,
    most: usize,
}

impl Modes {
    /// From what the plugins say of their slots, and from stated sets. Slots
    /// that forbid the same others share a mode.
    fn new(inventory: &Inventory, stated: &[Vec<Vec<usize>>]) -> Self {
        let slots: Vec<(&str, &Slot)> = inventory.slots().collect();
        let apart = |a: usize, b: usize| {
            let (x, y) = (slots[a], slots[b]);
            let by_mode =
                x.0 == y.0 && matches!((&x.1.mode, &y.1.mode), (Some(m), Some(n)) if m != n);
            let by_set = stated.iter().any(|set| {
                let at = |slot| {
                    set.iter()
                        .position(|mode: &Vec<usize>| mode.contains(&slot))
                };
                matches!((at(a), at(b)), (Some(m), Some(n)) if m != n)
            });
            by_mode || by_set
        };
        let rows: Vec<Vec<usize>> = (0..slots.len())
            .map(|a| (0..slots.len()).filter(|&b| apart(a, b)).collect())
            .collect();
        // Modes are numbered within a plugin: devices belong to one.
        let mut known: HashMap<(&str, &Vec<usize>), usize> = HashMap::new();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let of: Vec<Option<u8>> = rows
            .iter()
            .zip(&slots)
            .map(|(row, (plugin, _))| {
                if row.is_empty() {
                    return None;
                }
                let number = *known.entry((plugin, row)).or_insert_with(|| {
                    let count = counts.entry(plugin).or_default();
                    *count += 1;
                    *count - 1
                });
                Some(tiny(number))
            })
            .collect();
        let bits = |row: &Vec<usize>| {
            let modes = row.iter().filter_map(|&b| of[b]);
            modes.fold(0, |bits, m| bits | 1u64 << (m % 64))
        };
        Self {
            forbids: rows.iter().map(bits).collect(),
            exclusive: stated
                .iter()
                .map(|set| set.iter().flatten().map(|&i| SlotIx(small(i))).collect())
                .collect(),
            most: counts.values().copied().max().unwrap_or(0),
            of,
        }
    }
}

// === small things ===

/// Where the devices of each node are in a list sorted by node.
fn runs(devices: &[u32], places: &[Place]) -> Vec<(NodeIx, u32, u32)> {
    let node = |d: u32| places[d as usize].node;
    let mut from = 0;
    devices
        .chunk_by(|&a, &b| node(a) == node(b))
        .map(|run| {
            let start = from;
            from += large(run.len());
            (node(run[0]), start, from)
        })
        .collect()
}

/// Interns NUMA node numbers, which have gaps, and completes the distances:
/// where a node does not say, 10 to itself and 20 to others (ACPI 6.5, 5.2.17).
fn numa_table(inventory: &Inventory) -> (HashMap<u32, NodeIx>, Vec<Vec<u32>>) {
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
        numbers
            .iter()
            .enumerate()
            .map(|(i, n)| (*n, small(i)))
            .collect(),
        distances,
    )
}

// Inventories are bounded where they come in (`plugin::validate`,
// `scenario::parse`), far below these.

fn tiny(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

fn small(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX - 1)
}

fn large(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX - 1)
}

//! The placement itself: the parts of a demand, one after another, on a set
//! of NUMA nodes.
//!
//! The rule, in full:
//!
//! 1. Parts are placed in the order whole, partition, whole-then-fraction,
//!    single, divisible (the least movable first), then by slot order.
//! 2. They are placed on a *node set*: the smallest set of NUMA nodes that has
//!    room for all of them; of equal size, the one with the least sum of
//!    distances (`nodes`). Devices that hang on no node belong
//!    to every set. If whole devices are linked to each other, the
//!    best-connected set comes first (`linked`) and nodes after
//!    it.
//! 3. Within a node set, and between sets that are equal so far, `pack` takes
//!    what is worth least to the requests that are expected: a device is worth
//!    the number of eighths, quarters, halves and wholes that still fit on it,
//!    and of partitions of each profile; the loss of that worth is least. Then
//!    what has least free; then, of idle devices, what is linked least to other
//!    idle ones; then inventory order. `spread` takes what has most free.
//! 4. `fill` and `evenly` (`classic`) look at no nodes.

use std::cmp::Reverse;

use super::classic::{self, Bin};
use super::cut::{count, runs_of, span};
use super::demand::{Choices, Demand, Part};
use super::linked::{self, Graph};
use super::machine::{Machine, NOWHERE, Needs, NodeIx, SlotView};
use super::snapshot::Snapshot;
use super::{DeviceIx, Grant, SlotIx};
use crate::model::{Amount, Near, Policy, Shape};

/// All slices of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// What was granted, the parts in the order in which they were placed.
    pub grants: Vec<Grant>,
    /// Which of the [`Choices`] this is.
    pub choice: usize,
    /// Is the set of linked devices proven to be the best-connected one? True
    /// where links play no part.
    pub exact: bool,
}

/// Places a request: the first of its choices for which there is room, all of
/// it. `None`: there is room for none; [`explain`](super::explain) says why.
#[must_use]
pub fn allocate(snapshot: &Snapshot, choices: &Choices) -> Option<Allocation> {
    let place = |(choice, demand)| {
        let plan = plan(snapshot, demand)?;
        Some(Allocation {
            grants: plan.grants,
            choice,
            exact: plan.exact,
        })
    };
    choices.0.iter().enumerate().find_map(place)
}

/// A way to place a demand, and what speaks against it.
#[derive(Debug)]
struct Plan {
    grants: Vec<Grant>,
    cost: Cost,
    exact: bool,
}

/// Compared field by field: less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    /// Link weights within sets of whole devices.
    links: Reverse<u64>,
    nodes: usize,
    span: u32,
    loss: i64,
    /// What is free of what is taken, or beside it.
    free: Amount,
    /// Weights of links from what is taken to idle devices.
    idle_links: u64,
    /// The device that was taken first.
    first: u32,
}

/// Does a demand fit, and where?
pub(super) fn fits(snapshot: &Snapshot, demand: &Demand) -> bool {
    // Where there is room on all nodes there is a plan, if a longer one.
    let somewhere = demand.near != Near::Node
        && attempt(snapshot, demand, None, &mut linked::BUDGET.clone()).is_some();
    somewhere || plan(snapshot, demand).is_some()
}

fn plan(snapshot: &Snapshot, demand: &Demand) -> Option<Plan> {
    let machine = &**snapshot.machine();
    let mut budget = linked::BUDGET;
    let everywhere = |budget: &mut u32| attempt(snapshot, demand, None, budget);
    let nodes = machine.distances.len();
    let nodeless = matches!(demand.near, Near::Any)
        || demand
            .parts
            .iter()
            .all(|p| matches!(p.policy, Policy::Fill | Policy::Evenly));
    if nodeless || nodes <= 1 {
        return everywhere(&mut budget);
    }
    // The most that links can give; no node set need be tried once it has it.
    let sets = demand.parts.iter().any(|p| is_set(p, machine));
    let most_linked = if sets {
        everywhere(&mut budget)?.cost.links
    } else {
        Reverse(0)
    };
    let mut best: Option<Plan> = None;
    for (i, group) in machine.node_sets.iter().enumerate() {
        if i == 1 && demand.near == Near::Node {
            return best;
        }
        if i == 1 && !sets && everywhere(&mut budget).is_none() {
            return None;
        }
        for set in &group.sets {
            if let Some(mut plan) = attempt(snapshot, demand, Some(set), &mut budget) {
                (plan.cost.nodes, plan.cost.span) = (set.len(), group.span);
                if best.as_ref().is_none_or(|b| plan.cost < b.cost) {
                    best = Some(plan);
                }
            }
        }
        if best.as_ref().is_some_and(|b| b.cost.links <= most_linked) {
            return best;
        }
    }
    match demand.near {
        Near::Node => best,
        _ => best.or_else(|| everywhere(&mut budget)),
    }
}

/// Is this a set of whole devices for which links matter?
fn is_set(part: &Part, machine: &Machine) -> bool {
    let slot = machine.view(part.slot());
    let linked = |&d: &u32| !machine.links(d).is_empty();
    part.shape == Shape::Whole && part.amount() > Amount::ONE && slot.devices.iter().any(linked)
}

fn attempt(
    snapshot: &Snapshot,
    demand: &Demand,
    nodes: Option<&[NodeIx]>,
    budget: &mut u32,
) -> Option<Plan> {
    let mut trial = Trial::new(snapshot, demand, nodes, budget);
    for part in &demand.parts {
        trial.place(part)?;
    }
    if trial.consult && trial.has_parent_and_child() {
        return None;
    }
    Some(Plan {
        grants: trial.grants,
        cost: trial.cost,
        exact: trial.exact,
    })
}

/// A placement being tried: the snapshot, less what it has taken.
struct Trial<'a> {
    on: &'a Snapshot,
    machine: &'a Machine,
    nodes: Option<&'a [NodeIx]>,
    near: Near,
    /// May what was taken matter to what comes?
    consult: bool,
    grants: Vec<Grant>,
    /// What was taken of which device's capacities.
    taken: Vec<(u32, Needs)>,
    cost: Cost,
    exact: bool,
    budget: &'a mut u32,
}

/// What speaks for a device, less is better.
type Rank = (i64, Amount, u64, u32);

/// What each device would give to an amount that `fill` or `evenly` splits.
pub(super) fn bins(snapshot: &Snapshot, demand: &Demand, part: &Part) -> Vec<Bin> {
    let mut budget = 0;
    let trial = Trial::new(snapshot, demand, None, &mut budget);
    trial.bins(part, snapshot.machine().view(part.slot()))
}

impl<'a> Trial<'a> {
    fn new(
        snapshot: &'a Snapshot,
        demand: &Demand,
        nodes: Option<&'a [NodeIx]>,
        budget: &'a mut u32,
    ) -> Self {
        Self {
            on: snapshot,
            machine: snapshot.machine(),
            nodes,
            near: demand.near,
            consult: demand.entangled,
            grants: Vec::with_capacity(demand.parts.len() + 2),
            taken: Vec::new(),
            cost: Cost {
                links: Reverse(0),
                nodes: 0,
                span: 0,
                loss: 0,
                free: Amount::ZERO,
                idle_links: 0,
                first: u32::MAX,
            },
            exact: true,
            budget,
        }
    }

    /// Places one part; `None` if it does not fit.
    fn place(&mut self, part: &'a Part) -> Option<()> {
        let slot = self.machine.view(part.slot());
        let (ix, amount) = part.claims[0];
        if matches!(part.policy, Policy::Fill | Policy::Evenly) {
            return self.classic(part, slot);
        }
        match part.shape {
            Shape::Divisible => self.pieces(part, slot),
            Shape::Single => self.single(part, slot),
            Shape::Partition => self.partitions(part, slot),
            Shape::Whole => self.wholes(part, slot),
            Shape::WholeThenFraction => {
                let first = self.grants.len();
                let rest = self.units(part, slot, amount)?;
                if rest.is_zero() {
                    return Some(());
                }
                // Not on a core that is the whole ones' already.
                let wholes = &self.grants[first..];
                let (device, needs, rank) = self.best(part, slot, wholes)?;
                self.score(rank);
                self.take(ix, device, rest, None, needs);
                Some(())
            }
        }
    }

    // === the devices ===

    /// The devices of the node set that serve a slot, may be used, and are
    /// open.
    fn open<'p>(&'p self, part: &'p Part, slot: &'p SlotView) -> impl Iterator<Item = u32> + 'p {
        let wanted =
            move |node: NodeIx| node == NOWHERE || self.nodes.is_none_or(|set| set.contains(&node));
        let runs = slot.nodes.iter().filter(move |(node, ..)| wanted(*node));
        runs.flat_map(|&(_, from, to)| &slot.devices[from as usize..to as usize])
            .copied()
            .filter(move |&d| self.may(part, slot, d))
    }

    fn may(&self, part: &Part, slot: &SlotView, device: u32) -> bool {
        part.mask.as_ref().is_none_or(|m| m.contains(device))
            && self.on.is_open(slot, device)
            && (!self.consult || self.is_at_peace(slot, device))
    }

    /// Does nothing that this trial took stand against work of a slot on a
    /// device: another mode, its parent or a partition of it?
    fn is_at_peace(&self, slot: &SlotView, device: u32) -> bool {
        let parent = |d: u32| self.machine.place(d).parent;
        self.grants.iter().all(|grant| {
            let (other, taken) = (self.machine.view(grant.slot), grant.device.0);
            let mode = other.mode.map_or(0, |m| 1u64 << (m % 64));
            let same = taken == device && mode & slot.forbids != 0;
            !same && parent(taken) != device && parent(device) != taken
        })
    }

    /// Was a device taken, and a partition of it too? Only amounts that are
    /// split over devices come to that.
    fn has_parent_and_child(&self) -> bool {
        let taken = |d: u32| self.grants.iter().any(|g| g.device.0 == d);
        let parents = self
            .grants
            .iter()
            .map(|g| self.machine.place(g.device.0).parent);
        parents.into_iter().any(taken)
    }

    fn free(&self, device: u32, offset: usize) -> Amount {
        let free = self.on.free(device, offset);
        if self.taken.is_empty() {
            return free;
        }
        let mine = self.taken.iter().filter(|(d, _)| *d == device);
        let mine = mine.flat_map(|(_, needs)| needs.iter());
        mine.filter(|(o, _)| *o == offset)
            .fold(free, |free, (_, amount)| free.saturating_sub(amount))
    }

    fn positions(&self, device: u32) -> u64 {
        let mine = self.grants.iter().filter(|g| g.device.0 == device);
        mine.fold(self.on.state(device).taken, |taken, grant| {
            let cut = grant.start.zip(self.machine.kind(device).cut(grant.slot));
            taken | cut.map_or(0, |(start, cut)| span(start, cut.size))
        })
    }

    fn is_idle(&self, device: u32) -> bool {
        self.on.is_idle(device)
            && (!self.consult || self.grants.iter().all(|g| g.device.0 != device))
    }

    /// Has a device room for this much?
    fn has(&self, device: u32, needs: &Needs) -> bool {
        needs
            .iter()
            .all(|(offset, need)| self.free(device, offset) >= need)
    }

    /// How much of a slot a device could still serve.
    fn room(&self, ix: SlotIx, slot: &SlotView, device: u32) -> Amount {
        if self.taken.is_empty() || !self.consult {
            return self.on.room(ix, device);
        }
        let terms = self.machine.terms(slot, device);
        terms.map_or(Amount::ZERO, |terms| {
            let kind = self.machine.kind(device);
            terms.room(kind, slot.quantum, |offset| self.free(device, offset))
        })
    }

    fn take(&mut self, slot: SlotIx, device: u32, amount: Amount, start: Option<u8>, needs: Needs) {
        debug_assert!(self.has(device, &needs), "a grant over capacity");
        if self.grants.is_empty() {
            self.cost.first = device;
        }
        self.grants.push(Grant {
            slot,
            device: DeviceIx(device),
            amount,
            start,
        });
        if self.consult {
            self.taken.push((device, needs));
        }
    }

    fn score(&mut self, rank: Rank) {
        self.cost.loss += rank.0;
        self.cost.free = self.cost.free.checked_add(rank.1).unwrap_or(Amount::MAX);
        self.cost.idle_links += rank.2;
    }

    // === the shapes ===

    /// All of it on one device.
    fn single(&mut self, part: &'a Part, slot: &'a SlotView) -> Option<()> {
        let (device, needs, rank) = self.best(part, slot, &[])?;
        self.score(rank);
        for (i, &(ix, amount)) in part.claims.iter().enumerate() {
            // The first grant stands for what all of them take.
            let needs = if i == 0 { needs } else { Needs::default() };
            self.take(ix, device, amount, None, needs);
        }
        Some(())
    }

    /// The device that is best for something that needs this much of it, by
    /// kind, and is none of these.
    fn best(
        &self,
        part: &'a Part,
        slot: &'a SlotView,
        but: &[Grant],
    ) -> Option<(u32, Needs, Rank)> {
        let mut best: Option<(u32, &Needs, Rank)> = None;
        // Devices in the same state follow each other: it is weighed once.
        let mut last: Option<(Standing, &[i128], i64)> = None;
        self.open(part, slot).for_each(|device| {
            let place = self.machine.place(device);
            let Some(needs) = &part.needs[place.kind as usize] else {
                return;
            };
            let left = self.on.left(place.first_cell);
            if !needs.are_left(left) || !(self.taken.is_empty() || self.has(device, needs)) {
                return;
            }
            let standing = Standing {
                kind: place.kind,
                idle: self.is_idle(device),
            };
            let loss = match last {
                Some((seen, before, loss))
                    if self.taken.is_empty()
                        && seen == standing
                        && needs.same_left(before, left) =>
                {
                    loss
                }
                _ => self.loss(part.policy, device, needs, standing.idle),
            };
            last = Some((standing, left, loss));
            let rank = self.rank(part.policy, device, needs, standing.idle, loss);
            if best.as_ref().is_none_or(|(.., least)| rank < *least)
                && but.iter().all(|g| g.device.0 != device)
            {
                best = Some((device, needs, rank));
            }
        });
        best.map(|(device, needs, rank)| (device, *needs, rank))
    }

    /// What a device loses of its worth.
    fn loss(&self, policy: Policy, device: u32, needs: &Needs, idle: bool) -> i64 {
        if policy == Policy::Spread {
            return 0;
        }
        let kind = self.machine.kind(device);
        let free = |offset| self.free(device, offset);
        let before = kind.eighths(needs.iter().map(|(offset, _)| (offset, free(offset))));
        let after = |(offset, need)| (offset, free(offset).saturating_sub(need));
        let after = kind.eighths(needs.iter().map(after));
        let mut loss = self.machine.worth(before) - self.machine.worth(after);
        if idle && kind.cuts.is_some() {
            // It can no longer be cut.
            loss += self.partitions_left(device, 0, &Needs::default());
        }
        loss
    }

    fn rank(&self, policy: Policy, device: u32, needs: &Needs, idle: bool, loss: i64) -> Rank {
        let first = needs.iter().next();
        let first = first.map_or(Amount::ZERO, |(offset, _)| self.free(device, offset));
        if policy == Policy::Spread {
            return (0, Amount::MAX.saturating_sub(first), 0, device);
        }
        let lost_links = if idle { self.idle_links(device) } else { 0 };
        (loss, first, lost_links, device)
    }

    /// The weights of a device's links to idle devices.
    fn idle_links(&self, device: u32) -> u64 {
        let links = self.machine.links(device).iter();
        links
            .filter(|(to, _)| self.is_idle(*to))
            .map(|(_, weight)| u64::from(*weight))
            .sum()
    }

    /// What there is, device after device: one that has room for all of it,
    /// else the fewest.
    fn pieces(&mut self, part: &'a Part, slot: &'a SlotView) -> Option<()> {
        let (ix, amount) = part.claims[0];
        let mut rooms: Vec<(u32, Amount)> = self
            .open(part, slot)
            .map(|d| (d, self.room(ix, slot, d)))
            .filter(|(_, room)| !room.is_zero())
            .collect();
        if part.policy == Policy::Pack {
            let needs = |d: u32| {
                let kind = self.machine.place(d).kind;
                self.machine.needs(&[(ix, amount)], kind)
            };
            let rank = |d: u32| {
                let needs = needs(d)?;
                let idle = self.is_idle(d);
                let loss = self.loss(part.policy, d, &needs, idle);
                let fits = self.has(d, &needs);
                fits.then(|| (self.rank(part.policy, d, &needs, idle, loss), d))
            };
            let roomy = rooms.iter().filter(|(_, room)| *room >= amount);
            if let Some((rank, device)) = roomy.filter_map(|&(d, _)| rank(d)).min() {
                let needs = needs(device)?;
                self.score(rank);
                self.take(ix, device, amount, None, needs);
                return Some(());
            }
        }
        // A stable sort: equals stay in node and inventory order.
        rooms.sort_by_key(|&(_, room)| Reverse(room));
        let pieces = match part.policy {
            Policy::Spread if !part.unsplit => level(&rooms, amount, slot.quantum)?,
            _ => drain(&rooms, amount)?,
        };
        if part.unsplit && pieces.len() as u64 > fewest(self.machine, slot, amount) {
            return None;
        }
        for (device, piece) in pieces {
            let needs = self
                .machine
                .needs(&[(ix, piece)], self.machine.place(device).kind)?;
            self.score((0, self.room(ix, slot, device), 0, 0));
            self.take(ix, device, piece, None, needs);
        }
        Some(())
    }

    /// Whole, idle devices, as many as are needed.
    fn wholes(&mut self, part: &'a Part, slot: &'a SlotView) -> Option<()> {
        if part.amount() <= Amount::ONE || !is_set(part, self.machine) {
            let alone = part.amount() <= Amount::ONE || self.near != Near::Linked;
            let rest = self.units(part, slot, part.amount())?;
            return (alone && rest.is_zero()).then_some(());
        }
        let mut idle: Vec<u32> = self.open(part, slot).filter(|&d| self.is_idle(d)).collect();
        // A device and a partition of it cannot both be had: the former stays.
        let all = idle.clone();
        idle.retain(|&d| !all.contains(&self.machine.place(d).parent));
        // A set counts devices; they are taken for one unit each.
        let n = usize::try_from(part.amount().whole_units()).ok()?;
        let unit = |d: &u32| self.whole(slot, *d) == Amount::ONE;
        if !part.amount().fraction().is_zero() || n > idle.len() || !idle.iter().all(unit) {
            return None;
        }
        let mut graph = Graph::new(idle.len());
        let mut at = vec![usize::MAX; self.machine.device_count()];
        for (i, &device) in idle.iter().enumerate() {
            at[device as usize] = i;
        }
        for (i, &device) in idle.iter().enumerate() {
            for &(to, weight) in self.machine.links(device) {
                if at[to as usize] != usize::MAX {
                    graph.link(i, at[to as usize], weight);
                }
            }
        }
        let reach: Vec<u64> = idle.iter().map(|&d| self.idle_links(d)).collect();
        let set = graph.best(n, &reach, self.near == Near::Linked, self.budget)?;
        self.score((0, Amount::ZERO, set.reach, 0));
        self.cost.links = Reverse(self.cost.links.0 + set.inside);
        self.exact &= set.exact;
        for member in set.members {
            self.take_whole(part.slot(), slot, idle[member])?;
        }
        Some(())
    }

    /// Takes idle devices as long as they are needed whole; what is left over,
    /// less than the smallest of them.
    fn units(&mut self, part: &'a Part, slot: &'a SlotView, amount: Amount) -> Option<Amount> {
        let mut rest = amount;
        let mut spare = Amount::ZERO;
        let idle: Vec<u32> = self.open(part, slot).filter(|&d| self.is_idle(d)).collect();
        for device in idle {
            let whole = self.whole(slot, device);
            if rest < whole || whole.is_zero() {
                spare = spare.checked_add(whole).unwrap_or(Amount::MAX);
            } else if !self.consult || self.is_at_peace(slot, device) {
                self.take_whole(part.slot(), slot, device)?;
                rest = rest.saturating_sub(whole);
            }
        }
        // A whole unit that found no device is not made of parts.
        if rest >= Amount::ONE {
            return None;
        }
        self.score(match part.policy {
            Policy::Spread => (0, Amount::MAX.saturating_sub(spare), 0, 0),
            _ => (0, spare, 0, 0),
        });
        Some(rest)
    }

    fn take_whole(&mut self, ix: SlotIx, slot: &SlotView, device: u32) -> Option<()> {
        let whole = self.whole(slot, device);
        let needs = self
            .machine
            .needs(&[(ix, whole)], self.machine.place(device).kind)?;
        self.take(ix, device, whole, None, needs);
        Some(())
    }

    fn whole(&self, slot: &SlotView, device: u32) -> Amount {
        self.machine
            .terms(slot, device)
            .map_or(Amount::ZERO, |t| t.whole)
    }

    /// Hardware partitions, one after another, each where it costs least.
    fn partitions(&mut self, part: &'a Part, slot: &'a SlotView) -> Option<()> {
        let ix = part.slot();
        let wanted = part.amount().whole_units();
        let devices: Vec<u32> = self.open(part, slot).collect();
        let room = |&d: &u32| self.partitions_of(ix, d);
        if devices.iter().map(room).sum::<u64>() < wanted {
            return None;
        }
        // What one of them takes matters to the next.
        let consulted = std::mem::replace(&mut self.consult, true);
        let (grants, taken, cost) = (self.grants.len(), self.taken.len(), self.cost);
        let done = self.cheapest(part, slot, &devices, wanted).or_else(|| {
            // There is room, but the cheapest places were in each other's way.
            self.grants.truncate(grants);
            self.taken.truncate(taken);
            self.cost = cost;
            self.first_fit(part, slot, &devices, wanted)
        });
        self.consult = consulted;
        done
    }

    /// Each partition where the most is left for others.
    fn cheapest(
        &mut self,
        part: &'a Part,
        slot: &'a SlotView,
        devices: &[u32],
        wanted: u64,
    ) -> Option<()> {
        let ix = part.slot();
        // Each device's best place; only the device that was cut changes.
        let mut known: Vec<(State, Option<(Rank, u8)>)> = Vec::new();
        let mut places: Vec<(u32, Option<(Rank, u8)>)> = Vec::with_capacity(devices.len());
        for &device in devices {
            let state = State {
                kind: self.machine.place(device).kind,
                taken: self.positions(device),
                idle: self.is_idle(device),
                used: self.used(device),
            };
            let place = match known.iter().find(|(s, _)| *s == state) {
                // Alike but for its number.
                Some((_, place)) => place.map(|((a, b, c, _), start)| ((a, b, c, device), start)),
                None => {
                    let place = self.cut(ix, part.policy, device);
                    if known.len() < 64 {
                        known.push((state, place));
                    }
                    place
                }
            };
            places.push((device, place));
        }
        for _ in 0..wanted {
            let best = places
                .iter()
                .enumerate()
                .filter(|(_, (device, _))| self.is_at_peace(slot, *device))
                .filter_map(|(i, (_, p))| Some((p.as_ref()?, i)));
            let (&(rank, start), i) = best.min_by_key(|((rank, _), _)| *rank)?;
            let device = places[i].0;
            self.score(rank);
            self.take_partition(ix, device, start)?;
            places[i].1 = self.cut(ix, part.policy, device);
        }
        Some(())
    }

    /// Each partition where it fits first: as many as there can be.
    fn first_fit(
        &mut self,
        part: &'a Part,
        slot: &'a SlotView,
        devices: &[u32],
        wanted: u64,
    ) -> Option<()> {
        let ix = part.slot();
        let mut missing = wanted;
        for &device in devices {
            while missing > 0 && self.is_at_peace(slot, device) {
                let cut = self.machine.kind(device).cut(ix)?;
                let fits = cut.starts & runs_of(!self.positions(device), cut.size);
                if fits == 0 || !self.has(device, &cut.needs) {
                    break;
                }
                let start = u8::try_from(fits.trailing_zeros()).ok()?;
                self.take_partition(ix, device, start)?;
                missing -= 1;
            }
        }
        (missing == 0).then_some(())
    }

    fn take_partition(&mut self, ix: SlotIx, device: u32, start: u8) -> Option<()> {
        let needs = self.machine.kind(device).cut(ix)?.needs;
        self.take(ix, device, Amount::ONE, Some(start), needs);
        Some(())
    }

    /// How many partitions of a slot fit on a device.
    fn partitions_of(&self, ix: SlotIx, device: u32) -> u64 {
        let free = |offset| self.free(device, offset);
        let cut = self.machine.kind(device).cut(ix);
        cut.map_or(0, |cut| {
            count(cut, self.positions(device), free).whole_units()
        })
    }

    fn used(&self, device: u32) -> Vec<Amount> {
        let capacities = 0..self.machine.kind(device).capacities.len();
        capacities.map(|offset| self.free(device, offset)).collect()
    }

    /// The best place for one partition on a device: the start after which the
    /// most partitions still fit, of each profile alone and summed; of equals,
    /// the lowest. Optimal for that, since every legal start is weighed.
    fn cut(&self, ix: SlotIx, policy: Policy, device: u32) -> Option<(Rank, u8)> {
        let kind = self.machine.kind(device);
        let cut = kind.cut(ix)?;
        let taken = self.positions(device);
        if !self.has(device, &cut.needs) {
            return None;
        }
        let mut before = self.partitions_left(device, taken, &Needs::default());
        if self.is_idle(device) {
            // It could be had whole.
            before += self.machine.worth(8);
        }
        let mut fits = cut.starts & runs_of(!taken, cut.size);
        let mut best: Option<(i64, u8)> = None;
        while fits != 0 {
            let start = u8::try_from(fits.trailing_zeros()).ok()?;
            fits &= fits - 1;
            let covered = taken | span(start, cut.size);
            let loss = before - self.partitions_left(device, covered, &cut.needs);
            if best.is_none_or(|(least, _)| loss < least) {
                best = Some((loss, start));
            }
        }
        let (loss, start) = best?;
        let free = Amount::from_units(u64::from(taken.count_zeros()));
        let rank = match policy {
            Policy::Spread => (0, Amount::MAX.saturating_sub(free), 0, device),
            _ => (loss, free, 0, device),
        };
        Some((rank, start))
    }

    /// How many partitions of each profile fit, summed: what a device that is
    /// cut is worth.
    fn partitions_left(&self, device: u32, taken: u64, less: &Needs) -> i64 {
        let kind = self.machine.kind(device);
        let free = |offset: usize| {
            let gone = less.iter().filter(|(o, _)| *o == offset);
            gone.fold(self.free(device, offset), |f, (_, a)| f.saturating_sub(a))
        };
        let cuts = kind.cuts.iter().flat_map(|cuts| &cuts.profiles);
        let counts = cuts.map(|cut| count(cut, taken, free).whole_units());
        counts.map(|n| i64::try_from(n).unwrap_or(64)).sum()
    }

    /// `fill` and `evenly`.
    fn classic(&mut self, part: &'a Part, slot: &'a SlotView) -> Option<()> {
        let (ix, amount) = part.claims[0];
        let bins = self.bins(part, slot);
        let asked = quanta(amount, slot.quantum);
        if part.unsplit && !classic::unsplit(&bins, asked) {
            return None;
        }
        let whole_units = slot.quantum.fraction().is_zero();
        let pieces = match part.policy {
            Policy::Fill => classic::fill(&bins, asked),
            _ if whole_units => classic::evenly_whole(&bins, asked),
            _ => classic::evenly(&bins, asked),
        }?;
        for (device, quanta) in pieces {
            let piece = slot
                .quantum
                .scaled(Amount::from_units(quanta), Amount::ONE)?;
            let needs = self
                .machine
                .needs(&[(ix, piece)], self.machine.place(device).kind)?;
            self.take(ix, device, piece, None, needs);
        }
        Some(())
    }

    fn bins<'p>(&'p self, part: &'p Part, slot: &'p SlotView) -> Vec<Bin> {
        let ix = part.slot();
        let mut bins: Vec<Bin> = self
            .open(part, slot)
            .map(|device| {
                let room = self.room(ix, slot, device);
                Bin {
                    device,
                    exact: self.exact_room(slot, device),
                    free: quanta(room, slot.quantum),
                    capacity: quanta(self.whole(slot, device), slot.quantum),
                }
            })
            .collect();
        classic::order(&mut bins);
        bins
    }

    /// What is free of a slot, off its quantum too.
    fn exact_room(&self, slot: &SlotView, device: u32) -> Amount {
        self.machine
            .terms(slot, device)
            .map_or(Amount::ZERO, |terms| {
                let kind = self.machine.kind(device);
                terms.room(kind, Amount::NANO, |offset| self.free(device, offset))
            })
    }
}

/// What makes two devices alike for a part of one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Standing {
    kind: u32,
    idle: bool,
}

/// What makes two devices alike for cutting.
#[derive(PartialEq, Eq)]
struct State {
    kind: u32,
    taken: u64,
    idle: bool,
    used: Vec<Amount>,
}

fn quanta(amount: Amount, quantum: Amount) -> u64 {
    let nanos = quantum.nanos().max(1);
    u64::try_from(amount.nanos() / nanos).unwrap_or(u64::MAX)
}

/// The fewest devices that an amount needs, were they all empty.
pub(super) fn fewest(machine: &Machine, slot: &SlotView, amount: Amount) -> u64 {
    let whole = |&d: &u32| machine.terms(slot, d).map_or(Amount::ZERO, |t| t.whole);
    let largest = slot.devices.iter().map(whole).max().unwrap_or_default();
    let n = amount.nanos().div_ceil(largest.nanos().max(1));
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Takes from the roomiest first.
fn drain(rooms: &[(u32, Amount)], amount: Amount) -> Option<Vec<(u32, Amount)>> {
    let mut rest = amount;
    let mut pieces = Vec::new();
    for &(device, room) in rooms {
        if rest.is_zero() {
            break;
        }
        let piece = room.min(rest);
        pieces.push((device, piece));
        rest = rest.saturating_sub(piece);
    }
    rest.is_zero().then_some(pieces)
}

/// Takes from the roomiest until they are as full as the next ones, and so on:
/// what is left free is as equal as it can be.
fn level(rooms: &[(u32, Amount)], amount: Amount, quantum: Amount) -> Option<Vec<(u32, Amount)>> {
    let asked = quanta(amount, quantum);
    let free: Vec<u64> = rooms
        .iter()
        .map(|(_, room)| quanta(*room, quantum))
        .collect();
    let mut sum = 0u64;
    for (n, room) in (1u64..).zip(&free) {
        sum = sum.saturating_add(*room);
        // Down to what the next one has free, or to nothing.
        let next = usize::try_from(n)
            .ok()
            .and_then(|n| free.get(n))
            .copied()
            .unwrap_or(0);
        let down_to_next = sum - next * n;
        if down_to_next < asked {
            continue;
        }
        let left = sum - asked;
        let (each, more) = (left / n, left % n);
        let taken = rooms
            .iter()
            .zip(&free)
            .zip(0..n)
            .map(|(((device, _), room), i)| {
                // The last ones keep one more.
                let keeps = each + u64::from(i >= n - more);
                (*device, room.saturating_sub(keeps))
            });
        let amounts = taken.filter(|(_, q)| *q > 0).map(|(device, q)| {
            let piece = quantum.scaled(Amount::from_units(q), Amount::ONE);
            (device, piece.unwrap_or(Amount::MAX))
        });
        return Some(amounts.collect());
    }
    None
}

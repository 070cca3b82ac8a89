//! Classes served by partitions: a part of a device, at a level that no slot for parts
//! of its plugin reaches, is one hardware partition, the smallest that is enough.
//!
//! What a partition is of each class, its profile says ([`Profile::serves`]). Profiles
//! differ between kinds of devices, of one slot too, so a partition is enough on some
//! devices and not on others: a [`StandIn`] names both the slot and the devices.
//!
//! Of two partitions the smaller is the one that is less of memory, then of the other
//! classes by their names, then the one that covers fewer positions. Positions are last
//! because those of two kinds of devices cannot be compared: an instance that was made
//! beforehand is a device of one position, whatever it has.
//!
//! [`Profile::serves`]: crate::model::Profile::serves

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cut::Cut;
use super::machine::{KindIx, Machine, SlotIx};
use super::select::DeviceMask;
use crate::model::{Amount, EnforcementLevel, Shape, format_amount};

/// Amounts by class, as they were asked for.
pub(super) type Asked<'a> = [(&'a str, Amount)];

/// One partition in the place of amounts of classes.
#[derive(Clone, Debug)]
pub(super) struct StandIn {
    /// The partition's slot.
    pub(super) slot: SlotIx,
    /// The devices on which one is enough.
    pub(super) enough: DeviceMask,
    asked: Arc<[(Box<str>, Amount)]>,
    level: EnforcementLevel,
}

/// One kind of partition of one kind of device.
struct Offer<'a> {
    slot: SlotIx,
    kind: KindIx,
    cut: &'a Cut,
    /// What it is of each class, memory first.
    is: Vec<Amount>,
}

/// What classes are axes of: `gpu` of `gpu`, `gpu.mem` and `gpu.compute`.
pub(super) fn root(class: &str) -> &str {
    class.split('.').next().unwrap_or(class)
}

/// The partitions each of which is enough for all that is asked, at this level: those of
/// the first plugin first, of one plugin the smallest first.
pub(super) fn stand_ins(machine: &Machine, asked: &Asked, level: EnforcementLevel) -> Vec<StandIn> {
    let mut found: Vec<(SlotIx, BTreeSet<KindIx>)> = Vec::new();
    let mut enough = offers(machine, asked, level);
    enough.retain(|offer| offer.is_enough(asked));
    let first_of = |slot: SlotIx| {
        let plugin = machine.view(slot).plugin;
        machine.slots.iter().position(|s| s.plugin == plugin)
    };
    enough.sort_by_key(|offer| first_of(offer.slot));
    for Offer { slot, kind, .. } in enough {
        match found.iter_mut().find(|(s, _)| *s == slot) {
            Some((_, kinds)) => _ = kinds.insert(kind),
            None => found.push((slot, [kind].into())),
        }
    }
    let asked: Arc<[_]> = asked.iter().map(|&(c, a)| (c.into(), a)).collect();
    let stand_in = |(slot, kinds): (SlotIx, BTreeSet<KindIx>)| StandIn {
        slot,
        enough: devices_of(machine, &kinds),
        asked: Arc::clone(&asked),
        level,
    };
    found.into_iter().map(stand_in).collect()
}

/// Why no partition stands in for what is asked: what the largest one is. `None`: no
/// partition at this level is anything of it.
pub(super) fn shortfall(
    machine: &Machine,
    asked: &Asked,
    level: EnforcementLevel,
) -> Option<String> {
    let largest = offers(machine, asked, level).pop()?;
    Some(format!(
        "no partition here is enough: the largest of that level, {}, has {}",
        machine.view(largest.slot).name,
        largest.has(machine, asked)
    ))
}

/// What to do where a level is out of reach for classes.
pub(super) fn remedy(machine: &Machine, asked: &Asked, level: EnforcementLevel) -> String {
    let class = asked.first().map_or("", |(class, _)| root(class));
    let short = shortfall(machine, asked, level);
    let whole = machine.slots.iter().any(|slot| {
        let whole = slot.shape == Shape::Whole && slot.level >= level;
        whole && *slot.class == *class && !slot.devices.is_empty()
    });
    let less = short.as_ref().map_or("", |_| "for less, ");
    let whole = if whole {
        format!("for a whole device ({class}: 1), ")
    } else {
        String::new()
    };
    let or = if less.is_empty() && whole.is_empty() {
        ""
    } else {
        "or "
    };
    let why = short.unwrap_or_else(|| {
        let classes = listed(asked.iter().map(|(class, _)| (*class).to_owned()));
        format!("no partition of that level serves {classes} here")
    });
    format!("{why}; ask {less}{whole}{or}for a lower --min-level")
}

/// The partitions of a level that are something of each class that is asked, from the
/// smallest to the largest.
fn offers<'a>(machine: &'a Machine, asked: &Asked, level: EnforcementLevel) -> Vec<Offer<'a>> {
    let of_level = |slot: &SlotIx| {
        let view = machine.view(*slot);
        view.shape == Shape::Partition && view.level >= level
    };
    let slots: Vec<SlotIx> = machine.slot_numbers().filter(of_level).collect();
    let cuts = (0..).zip(&machine.kinds).flat_map(|(kind, is)| {
        let cuts = slots.iter().filter_map(|&slot| Some((slot, is.cut(slot)?)));
        cuts.map(move |(slot, cut)| (slot, kind, cut))
    });
    let serves_all = |cut: &Cut| asked.iter().all(|(class, _)| !cut.of(class).is_zero());
    let mut offers: Vec<Offer<'a>> = cuts
        .filter(|(.., cut)| serves_all(cut))
        .map(|(slot, kind, cut)| Offer {
            slot,
            kind,
            cut,
            is: vec![],
        })
        .collect();
    let classes = offers.iter().flat_map(|o| o.cut.serves.keys());
    let mut classes: Vec<&str> = classes.map(String::as_str).collect();
    classes.sort_unstable_by_key(|class| (unit(machine, class) != "byte", *class));
    classes.dedup();
    for offer in &mut offers {
        offer.is = classes.iter().map(|class| offer.cut.of(class)).collect();
    }
    offers.sort_by(|a, b| {
        let key = |o: &Offer<'_>| (o.cut.size, o.slot, o.kind);
        a.is.cmp(&b.is).then(key(a).cmp(&key(b)))
    });
    offers
}

fn devices_of(machine: &Machine, kinds: &BTreeSet<KindIx>) -> DeviceMask {
    let is_of = |place: &super::machine::Place| kinds.contains(&place.kind);
    machine.places.iter().map(is_of).collect()
}

/// What a class is counted in.
fn unit<'a>(machine: &'a Machine, class: &str) -> &'a str {
    let slot = machine.slots.iter().find(|slot| *slot.class == *class);
    match slot {
        Some(slot) => &slot.unit,
        None if class.ends_with(".mem") => "byte",
        None => "share",
    }
}

/// `A`, `A and B`, `A, B and C`.
fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => items.concat(),
    }
}

// === impl Offer ===

impl Offer<'_> {
    fn is_enough(&self, asked: &Asked) -> bool {
        let enough = |(class, amount): &(&str, Amount)| self.cut.of(class) >= *amount;
        asked.iter().all(enough)
    }

    /// `39.25 GiB of gpu.mem (30 GiB asked)`.
    fn has(&self, machine: &Machine, asked: &Asked) -> String {
        listed(asked.iter().map(|(class, amount)| {
            let show = |amount| format_amount(amount, unit(machine, class));
            format!(
                "{} of {class} ({} asked)",
                show(self.cut.of(class)),
                show(*amount)
            )
        }))
    }
}

// === impl StandIn ===

impl StandIn {
    fn asked(&self) -> Vec<(&str, Amount)> {
        self.asked.iter().map(|(c, a)| (&**c, *a)).collect()
    }

    /// What one is on a kind of device of what was asked: `39.25 GiB of gpu.mem (30 GiB
    /// asked)`.
    pub(super) fn has(&self, machine: &Machine, device: u32) -> String {
        let (slot, kind) = (self.slot, machine.place(device).kind);
        let Some(cut) = machine.kind(device).cut(slot) else {
            return "no such partition".into();
        };
        let is = vec![];
        Offer {
            slot,
            kind,
            cut,
            is,
        }
        .has(machine, &self.asked())
    }

    /// What it stands for: `30 GiB of gpu.mem and 0.25 of gpu`.
    pub(super) fn what_for(&self, machine: &Machine) -> String {
        listed(self.asked.iter().map(|(class, amount)| {
            let amount = format_amount(*amount, unit(machine, class));
            format!("{amount} of {class}")
        }))
    }

    /// Of the partitions that are not enough, the largest that would fit now, and what it
    /// has. At most so many are tried.
    pub(super) fn next_smaller(
        &self,
        machine: &Machine,
        most: usize,
        fits: impl Fn(SlotIx, DeviceMask) -> bool,
    ) -> Option<String> {
        let asked = self.asked();
        let mut offers = offers(machine, &asked, self.level);
        offers.retain(|offer| !offer.is_enough(&asked));
        let mut largest_first = offers.iter().rev().take(most);
        let offer = largest_first.find(|o| fits(o.slot, devices_of(machine, &[o.kind].into())))?;
        let name = &machine.view(offer.slot).name;
        Some(format!("{name} has {}", offer.has(machine, &asked)))
    }
}

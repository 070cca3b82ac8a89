//! Who holds what part of a device, and where it lies.

use super::found::Found;
use super::{Model, WHOLE, millionths, sum};
use crate::agent::{DeviceView, Usage};
use crate::model::{Amount, Slice};

/// What is drawn of who holds what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Bar {
    /// Nobody may know.
    Unknown,
    /// It is cut into partitions, which have rows of their own: so many, and so many free.
    Cut(usize, usize),
    /// Parts, in the order of their places.
    Parts(Vec<Segment>),
}

/// A part of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Segment {
    /// Who holds it; nobody that may be known: none.
    pub(in super::super) holder: Option<String>,
    /// Its holder's colour.
    pub(in super::super) colour: Option<usize>,
    /// Where it begins, in millionths of the device.
    pub(in super::super) from: u32,
    /// Where it ends.
    pub(in super::super) to: u32,
}

/// All of it that can be handed out.
pub(super) fn usable(usage: &Usage) -> Amount {
    usage.total.saturating_sub(usage.reserved)
}

impl Model {
    /// Who holds what part of a device, and what part is held.
    pub(super) fn parts(&self, view: &DeviceView, found: &Found) -> (Bar, Option<u32>) {
        if !found.devices.usage_known {
            return (Bar::Unknown, None);
        }
        let partitions = || found.partitions(view);
        if partitions().next().is_some() {
            let free = partitions().filter(|v| found.is_free(v)).count();
            return (Bar::Cut(partitions().count(), free), None);
        }
        let (plugin, id) = (&view.device.plugin, &view.device.device.id);
        let held = found.devices.held.iter();
        let slices: Vec<(&str, &Slice)> = held
            .flat_map(|h| h.slices.iter().map(move |s| (h.name.as_str(), s)))
            .filter(|(_, s)| s.plugin == *plugin && s.part.device == *id)
            .collect();
        if let Some(bar) = self.positions(view, &slices) {
            let held = bar.iter().map(|s| s.to - s.from).sum::<u32>();
            return (Bar::Parts(bar), Some(held.min(WHOLE)));
        }
        // Of what is scarcest there can be no more than all.
        let scarcest = view
            .usage
            .iter()
            .max_by_key(|(_, u)| millionths(u.used, usable(u)));
        let Some((capacity, usage)) = scarcest else {
            return (Bar::Parts(vec![]), None);
        };
        let mut parts: Vec<(Option<String>, Amount)> = Vec::new();
        for (holder, slice) in slices {
            let amount = slice.part.capacities.get(capacity).copied();
            let amount = amount.unwrap_or_default();
            match parts.last_mut() {
                Some((Some(last), sum)) if last == holder => {
                    *sum = sum.checked_add(amount).unwrap_or(*sum);
                }
                _ => parts.push((Some(holder.to_owned()), amount)),
            }
        }
        let (used, all) = (usage.used, usable(usage));
        let bar = self.bar(parts, used, all, found);
        (bar, (!all.is_zero()).then(|| millionths(used, all)))
    }

    /// Partitions, where they lie.
    fn positions(&self, view: &DeviceView, slices: &[(&str, &Slice)]) -> Option<Vec<Segment>> {
        let cut = view.device.device.partitioning.as_ref()?;
        let positions = u64::from(cut.positions);
        let place =
            |n: u64| u32::try_from(n * u64::from(WHOLE) / positions.max(1)).unwrap_or(WHOLE);
        let mut all: Vec<Segment> = slices
            .iter()
            .filter_map(|(holder, slice)| {
                let start = u64::from(slice.part.start?);
                let profile = cut.profiles.iter().find(|p| p.slot == slice.part.slot)?;
                Some(Segment {
                    holder: Some((*holder).to_owned()),
                    colour: self.colours.get(*holder).copied(),
                    from: place(start),
                    to: place(start + u64::from(profile.size)),
                })
            })
            .collect();
        all.sort_by_key(|s| s.from);
        (!all.is_empty()).then_some(all)
    }

    /// Parts beside each other; what is held by nobody that may be known comes last.
    pub(super) fn bar(
        &self,
        mut parts: Vec<(Option<String>, Amount)>,
        used: Amount,
        total: Amount,
        found: &Found,
    ) -> Bar {
        if !found.devices.usage_known {
            return Bar::Unknown;
        }
        let known = sum(parts.iter().map(|(_, amount)| *amount));
        let unknown = used.saturating_sub(known);
        if !unknown.is_zero() {
            parts.push((None, unknown));
        }
        let mut end = Amount::ZERO;
        let segments = parts.into_iter().map(|(holder, amount)| {
            let from = millionths(end, total);
            end = end.checked_add(amount).unwrap_or(Amount::MAX);
            Segment {
                colour: holder.as_ref().and_then(|h| self.colours.get(h).copied()),
                holder,
                from,
                to: millionths(end, total),
            }
        });
        Bar::Parts(segments.collect())
    }
}

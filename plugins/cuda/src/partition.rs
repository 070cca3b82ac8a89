//! How a GPU can be cut into MIG instances, as a device's partitioning.
//!
//! Positions are memory slices. What NVML would make, these capacities never refuse; what
//! others made is counted as reserved, and nothing is offered that overlaps it.

use std::collections::BTreeMap;

use divvy_plugin::{Amount, Capacity, Partitioning, Profile};

use crate::layout::{GpuInstance, Kind, Layout};
use crate::slots::{
    CLASS, CLASS_COMPUTE, CLASS_MEM, MEMORY, SLICES, limit_of, share_quantum, slot_of,
};

/// What a whole GPU is, to say what a part of it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Bytes that are handed out of it.
    pub(crate) memory: u64,
    /// Streaming multiprocessors, where they are known.
    pub(crate) sms: Option<u32>,
}

/// A GPU that can be cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// `None`: nothing has room.
    pub(crate) partitioning: Option<Partitioning>,
    /// What partitions draw on besides memory.
    pub(crate) capacities: BTreeMap<String, Capacity>,
    /// Bytes that instances of others have.
    pub(crate) taken: u64,
}

/// What can be made of a GPU beside these instances of others.
pub(crate) fn cut(layout: &Layout, others: &[&GpuInstance], whole: Whole) -> Cut {
    let kind_of = |other: &&&GpuInstance| layout.kind(other.profile);
    let positions = layout.kinds.iter().filter_map(Kind::end).max().unwrap_or(0);
    let most = layout.kinds.iter().map(|kind| kind.slices).max();
    // One of an unknown kind may have any number of them.
    let slices = others.iter().map(|other| match kind_of(&other) {
        Some(kind) => kind.slices,
        None => other.size,
    });
    let total = most.unwrap_or(0);
    let mut capacities = BTreeMap::from([(
        SLICES.to_owned(),
        capacity(total, slices.sum::<u32>().min(total)),
    )]);
    let mut profiles = vec![];
    // One without a slot has no name to be asked for by.
    for kind in layout
        .kinds
        .iter()
        .filter(|kind| slot_of(&kind.name).is_some())
    {
        let same = others.iter().filter(|other| other.profile == kind.id);
        let limited = kind.most < kind.room(total);
        if limited {
            let made = u32::try_from(same.count()).unwrap_or(u32::MAX);
            let limit = capacity(kind.most, made.min(kind.most));
            capacities.insert(limit_of(&kind.name), limit);
        }
        profiles.extend(profile(kind, others, whole, positions, limited));
    }
    let taken = others.iter().map(|other| match kind_of(&other) {
        Some(kind) => part(kind, whole, positions),
        None => whole.memory / u64::from(positions.max(1)) * u64::from(other.size),
    });
    let taken = taken.sum::<u64>().min(whole.memory);
    let left = |name: &String| match capacities.get(name) {
        Some(capacity) => capacity.total.saturating_sub(capacity.reserved),
        None => Amount::from_units(whole.memory - taken),
    };
    profiles.retain(|profile| profile.capacities.iter().all(|(name, n)| *n <= left(name)));
    Cut {
        partitioning: (!profiles.is_empty()).then_some(Partitioning {
            positions,
            profiles,
        }),
        capacities,
        taken,
    }
}

/// A kind of instance as the core knows it, if it has a slot and a place.
fn profile(
    kind: &Kind,
    others: &[&GpuInstance],
    whole: Whole,
    positions: u32,
    limited: bool,
) -> Option<Profile> {
    let mut starts = kind.starts.clone();
    starts.retain(|start| {
        others
            .iter()
            .all(|other| !other.overlaps(*start, kind.size))
    });
    if starts.is_empty() {
        return None;
    }
    let mut capacities = BTreeMap::from([(SLICES.to_owned(), kind.slices.into())]);
    if limited {
        capacities.insert(limit_of(&kind.name), 1);
    }
    let memory = part(kind, whole, positions);
    if memory > 0 {
        capacities.insert(MEMORY.to_owned(), memory);
    }
    let units = |(name, units)| (name, Amount::from_units(units));
    Some(Profile {
        slot: slot_of(&kind.name)?,
        size: kind.size,
        starts,
        capacities: capacities.into_iter().map(units).collect(),
        serves: serves(Some(kind.memory), Some(kind.sms), whole),
    })
}

/// How much of a GPU's memory an instance of a kind takes: its own, and no more than its
/// positions' part, so that whatever finds a place finds memory too. (The largest
/// instance of some GPUs has more than the driver leaves to a GPU that is not cut.)
fn part(kind: &Kind, whole: Whole, positions: u32) -> u64 {
    let all = u128::from(whole.memory) * u128::from(kind.size);
    let part = all / u128::from(positions.max(1));
    kind.memory.min(u64::try_from(part).unwrap_or(u64::MAX))
}

/// What an instance is worth to those who ask for a part of a GPU: by memory and by
/// multiprocessors, since the one does not follow from the other.
pub(crate) fn serves(
    memory: Option<u64>,
    sms: Option<u32>,
    whole: Whole,
) -> BTreeMap<String, Amount> {
    let share = |part: u64, of: u64| {
        let (part, of) = (Amount::from_units(part), Amount::from_units(of));
        let share = Amount::ONE.scaled(part, of)?.min(Amount::ONE);
        Some(share.floor_to(share_quantum())).filter(|share| !share.is_zero())
    };
    let memory = memory.filter(|bytes| *bytes > 0);
    let of_memory = memory.and_then(|bytes| share(bytes, whole.memory));
    let of_sms = sms.zip(whole.sms);
    let of_sms = of_sms.and_then(|(sms, all)| share(sms.into(), all.into()));
    let least = of_memory.zip(of_sms).map(|(memory, sms)| memory.min(sms));
    [
        (CLASS_MEM, memory.map(Amount::from_units)),
        (CLASS_COMPUTE, of_sms),
        (CLASS, least),
    ]
    .into_iter()
    .filter_map(|(class, amount)| Some((class.to_owned(), amount?)))
    .collect()
}

fn capacity(total: u32, reserved: u32) -> Capacity {
    Capacity {
        reserved: Amount::from_units(reserved.into()),
        ..Capacity::of(Amount::from_units(total.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn kind(name: &str, id: u32, numbers: [u32; 4], memory_mib: u64, starts: &[u32]) -> Kind {
        let [slices, size, sms, most] = numbers;
        Kind {
            name: name.into(),
            id,
            slices,
            most,
            memory: memory_mib * MIB,
            sms,
            size,
            starts: starts.to_vec(),
        }
    }

    /// As captures of `nvidia-smi mig -lgip` and `-lgipp` on an H100 show them.
    fn h100() -> Layout {
        let anywhere = [0, 1, 2, 3, 4, 5, 6];
        Layout {
            kinds: vec![
                kind("1g.10gb", 19, [1, 1, 16, 7], 9_984, &anywhere),
                kind("1g.10gb+me", 20, [1, 1, 16, 1], 9_984, &anywhere),
                kind("1g.20gb", 15, [1, 2, 26, 4], 20_096, &[0, 2, 4, 6]),
                kind("2g.20gb", 14, [2, 2, 32, 3], 20_096, &[0, 2, 4]),
                kind("3g.40gb", 9, [3, 4, 60, 2], 40_448, &[0, 4]),
                kind("4g.40gb", 5, [4, 4, 64, 1], 40_448, &[0]),
                kind("7g.80gb", 0, [7, 8, 132, 1], 81_152, &[0]),
            ],
            instances: vec![],
        }
    }

    fn a30() -> Layout {
        Layout {
            kinds: vec![
                kind("1g.6gb", 14, [1, 1, 14, 4], 5_952, &[0, 1, 2, 3]),
                kind("1g.6gb+me", 21, [1, 1, 14, 1], 5_952, &[0, 1, 2, 3]),
                kind("2g.12gb", 5, [2, 2, 28, 2], 11_968, &[0, 2]),
                kind("2g.12gb+me", 6, [2, 2, 28, 1], 11_968, &[0, 2]),
                kind("4g.24gb", 0, [4, 4, 56, 1], 24_000, &[0]),
            ],
            instances: vec![],
        }
    }

    /// The driver leaves less to an H100 that is not cut than its largest instance has.
    const H100: Whole = Whole {
        memory: (81_559 - 551) * MIB,
        sms: Some(132),
    };

    fn at(layout: &Layout, name: &str, start: u32) -> GpuInstance {
        let kind = layout.kinds.iter().find(|kind| kind.name == name).unwrap();
        GpuInstance {
            id: start + 1,
            profile: kind.id,
            start,
            size: kind.size,
        }
    }

    fn starts(cut: &Cut, name: &str) -> Vec<u32> {
        let slot = slot_of(name).unwrap();
        let profiles = cut.partitioning.iter().flat_map(|p| &p.profiles);
        let found = profiles.filter(|profile| profile.slot == slot);
        found.flat_map(|profile| profile.starts.clone()).collect()
    }

    #[test]
    fn a_gpu_of_its_own() {
        let cut = cut(&h100(), &[], H100);
        let partitioning = cut.partitioning.unwrap();
        assert_eq!(
            (partitioning.positions, partitioning.profiles.len()),
            (8, 7)
        );
        let names: Vec<&str> = cut.capacities.keys().map(String::as_str).collect();
        // Of the others there are as many as there is room for.
        assert_eq!(names, ["mig-1g.10gb+me", "slices"]);
        assert_eq!(cut.taken, 0);
        let three = &partitioning.profiles[4];
        assert_eq!((three.size, &three.starts), (4, &vec![0, 4]));
        let units = |n| Amount::from_units(n);
        let uses = [("memory", 40_448 * MIB), ("slices", 3)];
        let uses = uses.map(|(name, n)| (name.to_owned(), units(n)));
        assert_eq!(three.capacities, uses.into());
        let share = |hundredths: u128| Amount::from_nanos(hundredths * 10_000_000).unwrap();
        // 60 of 132 multiprocessors, 40,448 of 81,008 MiB.
        let serves = [
            ("gpu", share(45)),
            ("gpu.compute", share(45)),
            ("gpu.mem", units(40_448 * MIB)),
        ];
        assert_eq!(three.serves, serves.map(|(c, n)| (c.to_owned(), n)).into());
        // A quarter by memory is less of the multiprocessors.
        assert_eq!(partitioning.profiles[2].serves["gpu"], share(19));
        assert_eq!(partitioning.profiles[6].serves["gpu"], share(100));
    }

    #[test]
    fn beside_what_others_made() {
        let layout = h100();
        let three = at(&layout, "3g.40gb", 4);
        let three = cut(&layout, &[&three], H100);
        assert_eq!(starts(&three, "1g.10gb"), [0, 1, 2, 3]);
        assert_eq!(starts(&three, "1g.20gb"), [0, 2]);
        assert_eq!(starts(&three, "3g.40gb"), [0]);
        assert_eq!(starts(&three, "4g.40gb"), [0]);
        assert!(starts(&three, "7g.80gb").is_empty());
        assert_eq!(three.taken, 40_448 * MIB);
        let slices = three.capacities["slices"];
        assert_eq!(
            (slices.total, slices.reserved),
            (Amount::from_units(7), Amount::from_units(3))
        );
        // One with the media engines: no other may have them.
        let media = at(&layout, "1g.10gb+me", 6);
        let media = cut(&layout, &[&media], H100);
        assert!(starts(&media, "1g.10gb+me").is_empty());
        assert_eq!(starts(&media, "1g.10gb"), [0, 1, 2, 3, 4, 5]);
        // All of it, and one of a kind that NVML does not list.
        let all = at(&layout, "7g.80gb", 0);
        assert_eq!(cut(&layout, &[&all], H100).partitioning, None);
        let odd = GpuInstance {
            id: 1,
            profile: 77,
            start: 0,
            size: 4,
        };
        let odd = cut(&layout, &[&odd], H100);
        assert_eq!(starts(&odd, "1g.10gb"), [4, 5, 6]);
        assert_eq!(odd.taken, H100.memory / 2);
    }

    /// Every way to cut a GPU that a driver allows is within the capacities, also those
    /// that are left beside what others made.
    #[test]
    fn what_a_driver_would_make_is_never_refused() {
        let small = Whole {
            memory: 23_000 * MIB,
            sms: Some(56),
        };
        for (layout, whole) in [(h100(), H100), (a30(), small)] {
            let all = ways(&layout);
            assert!(all.len() > 50, "{}", all.len());
            for way in &all {
                let half = way.len() / 2;
                for others in [0, half] {
                    let (others, ours) = way.split_at(others);
                    let others: Vec<&GpuInstance> = others.iter().collect();
                    fits(&layout, &cut(&layout, &others, whole), ours, whole);
                }
            }
        }
    }

    fn fits(layout: &Layout, cut: &Cut, ours: &[GpuInstance], whole: Whole) {
        let mut left: BTreeMap<&str, Amount> = cut
            .capacities
            .iter()
            .map(|(name, c)| (name.as_str(), c.total.checked_sub(c.reserved).unwrap()))
            .collect();
        left.insert(MEMORY, Amount::from_units(whole.memory - cut.taken));
        for instance in ours {
            let kind = layout.kind(instance.profile).unwrap();
            let slot = slot_of(&kind.name).unwrap();
            let mut profiles = cut.partitioning.iter().flat_map(|p| &p.profiles);
            let profile = profiles.find(|profile| profile.slot == slot);
            let profile = profile.unwrap_or_else(|| panic!("{slot} beside others of {ours:?}"));
            assert!(profile.starts.contains(&instance.start), "{ours:?}");
            for (name, amount) in &profile.capacities {
                let left = left.get_mut(name.as_str()).unwrap();
                *left = left
                    .checked_sub(*amount)
                    .unwrap_or_else(|| panic!("{name}: {ours:?}"));
            }
        }
    }

    /// By the driver's rules: places that do not overlap, compute slices, so many of a kind.
    fn ways(layout: &Layout) -> Vec<Vec<GpuInstance>> {
        let places: Vec<GpuInstance> = layout
            .kinds
            .iter()
            .flat_map(|kind| {
                kind.starts
                    .iter()
                    .map(|start| at(layout, &kind.name, *start))
            })
            .collect();
        let slices = layout.kinds.iter().map(|kind| kind.slices).max().unwrap();
        let (mut all, mut open) = (vec![], vec![(vec![], 0)]);
        while let Some((way, next)) = open.pop() {
            for (i, place) in places.iter().enumerate().skip(next) {
                let mut more: Vec<GpuInstance> = way.clone();
                more.push(*place);
                let kinds = more.iter().map(|one| layout.kind(one.profile).unwrap());
                let same = more
                    .iter()
                    .filter(|one| one.profile == place.profile)
                    .count();
                let most = layout.kind(place.profile).unwrap().most as usize;
                let apart = way.iter().all(|one| !one.overlaps(place.start, place.size));
                if apart && same <= most && kinds.map(|kind| kind.slices).sum::<u32>() <= slices {
                    open.push((more.clone(), i + 1));
                    all.push(more);
                }
            }
        }
        all
    }
}

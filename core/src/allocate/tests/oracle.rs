//! Against trying everything, on small machines: `pack` is what it says.

use proptest::prelude::*;

use super::*;

/// How many slices of `part` of all there is still fit into what is free.
fn pieces(free: &[(Amount, Amount)], eighths: u64) -> i64 {
    let fits = |n: u64| {
        free.iter().all(|(free, usable)| {
            let needed = usable.nanos() * u128::from(eighths) * u128::from(n);
            needed <= free.nanos() * 8
        })
    };
    (1..=8).take_while(|n| fits(*n)).count().try_into().unwrap()
}

fn worth(free: &[(Amount, Amount)]) -> i64 {
    [1, 2, 4, 8]
        .map(|eighths| pieces(free, eighths))
        .iter()
        .sum()
}

/// What is free and usable of a device's capacities, less something.
fn free(snapshot: &Snapshot, device: &Device, less: &[(&str, Amount)]) -> Vec<(Amount, Amount)> {
    let cell = |name: &&str| snapshot.cell(&device.name(), name).unwrap();
    let names = ["memory", "compute"];
    let one = |name: &&str| {
        let cell = cell(name);
        let gone = less
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, a)| *a)
            .sum();
        (
            cell.usable.saturating_sub(cell.used).saturating_sub(gone),
            cell.usable,
        )
    };
    names.iter().map(one).collect()
}

/// How many disjoint partitions of a size fit, by trying all ways.
fn most(starts: &[u32], size: u32, taken: u64) -> i64 {
    let ways = starts.iter().filter_map(|&start| {
        let covers = ((1u64 << size) - 1) << start;
        (taken & covers == 0).then(|| {
            let later: Vec<u32> = starts.iter().copied().filter(|s| *s > start).collect();
            1 + most(&later, size, taken | covers)
        })
    });
    ways.max().unwrap_or(0)
}

/// What a device that is cut is still good for: partitions of each profile.
fn partitions_left(device: &Device, taken: u64, free: impl Fn(&str) -> u64) -> i64 {
    let partitioning = device.device.partitioning.as_ref().unwrap();
    let count = |p: &Profile| {
        let by_place = most(&p.starts, p.size, taken);
        let enough = p
            .capacities
            .iter()
            .map(|(name, need)| free(name) / need.whole_units());
        by_place.min(i64::try_from(enough.min().unwrap()).unwrap())
    };
    partitioning.profiles.iter().map(count).sum()
}

/// Some history, so that devices are used unevenly.
fn used(inventory: &Inventory, shares: &[u64], cuts: &[usize]) -> Snapshot {
    let mut snapshot = Snapshot::new(inventory);
    for n in shares {
        let share = Amount::from_nanos(u128::from(*n) * 10_000_000).unwrap();
        let _ = ask(
            &mut snapshot,
            &request(&[("gpu.shares", &share.to_string())]),
        );
    }
    for n in cuts {
        let profiles = ["gpu.mig-1g", "gpu.mig-1g-wide", "gpu.mig-2g", "gpu.mig-3g"];
        let _ = ask(&mut snapshot, &request(&[(profiles[*n], "1")]));
    }
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A share lies where the least worth is lost, then where least is free,
    /// then on what is linked least, then in order.
    #[test]
    fn shares(
        count in 1u32..5, nodes in 1u32..3,
        pairs in prop::collection::vec((0usize..4, 0usize..4, 1u32..4), 0..5),
        shares in prop::collection::vec(1u64..100, 0..8),
        asked in 1u64..101,
    ) {
        let mut inventory = gpus(count, nodes);
        for device in &mut inventory.devices {
            device.device.partitioning = None;
        }
        let pairs: Vec<_> = pairs
            .into_iter()
            .filter(|(a, b, _)| a != b && *a.max(b) < count as usize)
            .collect();
        link(&mut inventory, &pairs);
        let mut snapshot = used(&inventory, &shares, &[]);
        let share = Amount::from_nanos(u128::from(asked) * 10_000_000).unwrap();
        let up = |usable: u64| Amount::from_units((usable * asked).div_ceil(100));
        let needs = [("memory", up(80)), ("compute", up(100))];
        let idle = |id: &str| {
            let device = snapshot.machine().device("gpu", id).unwrap();
            snapshot.is_idle(device.0)
        };
        let best = inventory
            .devices
            .iter()
            .enumerate()
            .filter(|(_, d)| {
                let free = free(&snapshot, d, &[]);
                free[0].0 >= needs[0].1 && free[1].0 >= needs[1].1
            })
            .map(|(i, d)| {
                let before = free(&snapshot, d, &[]);
                let loss = worth(&before) - worth(&free(&snapshot, d, &needs));
                let links = d.device.links.iter().filter(|l| idle(&l.to));
                let links: u32 = links.map(|l| l.weight).sum();
                let links = if idle(&d.device.id) { links } else { 0 };
                (loss, before[0].0, links, i)
            })
            .min();
        let got = ask(&mut snapshot, &request(&[("gpu.shares", &share.to_string())]));
        let got = got.ok().map(|slices| slices[0].part.device.clone());
        prop_assert_eq!(got, best.map(|(.., i)| format!("g{i}")));
    }

    /// A partition lies where the most partitions, and the whole device if it
    /// was one, are still to be had.
    #[test]
    fn partitions(
        count in 1u32..4,
        cuts in prop::collection::vec(0usize..4, 0..8),
        asked in 0usize..6,
    ) {
        let inventory = gpus(count, 1);
        let mut snapshot = used(&inventory, &[], &cuts);
        let slot = ["mig-1g", "mig-1g-wide", "mig-2g", "mig-3g", "mig-4g", "mig-7g"][asked];
        let slot = format!("gpu.{slot}");
        let mut best = None;
        for (i, device) in inventory.devices.iter().enumerate() {
            let ix = snapshot.machine().device("gpu", &device.device.id).unwrap();
            let taken = snapshot.state(ix.0).taken;
            let partitioning = device.device.partitioning.as_ref().unwrap();
            let profile = partitioning.profiles.iter().find(|p| p.slot == slot).unwrap();
            let left = |name: &str| {
                let cell = snapshot.cell(&device.name(), name).unwrap();
                cell.usable.saturating_sub(cell.used).whole_units()
            };
            let after = |name: &str| {
                let need = profile.capacities.get(name).map_or(0, |a| a.whole_units());
                left(name).saturating_sub(need)
            };
            let room = profile.capacities.iter().all(|(n, a)| left(n) >= a.whole_units());
            for &start in &profile.starts {
                let covers = ((1u64 << profile.size) - 1) << start;
                if room && taken & covers == 0 {
                    let whole = if taken == 0 { worth(&[(Amount::ONE, Amount::ONE)]) } else { 0 };
                    let loss = partitions_left(device, taken, left) + whole
                        - partitions_left(device, taken | covers, after);
                    let rank = (loss, taken.count_zeros(), i, start);
                    if best.is_none_or(|b| rank < b) {
                        best = Some(rank);
                    }
                }
            }
        }
        let got = ask(&mut snapshot, &request(&[(&slot, "1")]));
        let got = got.ok().map(|s| (s[0].part.device.clone(), s[0].part.start.unwrap()));
        prop_assert_eq!(got, best.map(|(_, _, i, start)| (format!("g{i}"), start)));
    }

    /// Whole devices: the best-connected set, then the fewest and nearest
    /// nodes, then what reaches least of the rest.
    #[test]
    fn connected_sets(
        count in 2u32..7, node_count in 1u32..4,
        pairs in prop::collection::vec((0usize..6, 0usize..6, 1u32..4), 1..12),
        taken in prop::collection::vec(any::<bool>(), 6),
        n in 2u32..4,
    ) {
        let mut inventory = gpus(count, node_count);
        let pairs: Vec<_> = pairs
            .into_iter()
            .filter(|(a, b, _)| a != b && *a.max(b) < count as usize)
            .collect();
        link(&mut inventory, &pairs);
        for (device, taken) in inventory.devices.iter_mut().zip(&taken) {
            if *taken {
                device.device.health.state = crate::model::HealthState::Unhealthy;
            }
        }
        let mut snapshot = Snapshot::new(&inventory);
        let weight = |a: usize, b: usize| -> u32 {
            let of = |(x, y, w): &(usize, usize, u32)| if (*x, *y) == (a, b) || (*y, *x) == (a, b) { *w } else { 0 };
            pairs.iter().map(of).sum()
        };
        let free: Vec<usize> = (0..count as usize).filter(|i| !taken[*i]).collect();
        let cost = |set: &[usize]| {
            let sum = |of: &dyn Fn(usize) -> u32| set.iter().map(|m| of(*m)).sum::<u32>();
            let inside = sum(&|a| set.iter().map(|b| weight(a, *b)).sum());
            // A closed device is linked still, but counts for nothing new.
            let reach = sum(&|a| (0..count as usize).map(|b| weight(a, b)).sum());
            let mut nodes: Vec<u32> = set.iter().map(|m| inventory.devices[*m].device.numa_node.unwrap()).collect();
            nodes.dedup();
            let far = |a: &u32, b: &u32| if a == b { 0 } else { 10 + 5 * a.abs_diff(*b) };
            let span: u32 = nodes.iter().flat_map(|a| nodes.iter().map(move |b| far(a, b))).sum();
            (std::cmp::Reverse(inside), nodes.len(), span, reach)
        };
        let best = (0u32..1 << free.len())
            .filter(|bits| bits.count_ones() == n)
            .map(|bits| {
                let members = free.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
                cost(&members.map(|(_, m)| *m).collect::<Vec<_>>())
            })
            .min();
        let got = ask(&mut snapshot, &request(&[("gpu.device", &n.to_string())])).ok();
        let got = got.map(|slices| {
            let mut set: Vec<usize> = slices
                .iter()
                .map(|s| s.part.device[1..].parse().unwrap())
                .collect();
            set.sort_unstable();
            cost(&set)
        });
        prop_assert_eq!(got, best);
    }
}

//! `fill` and `evenly`: Backend.AI's two strategies, without its affinity
//! hint, exactly but for three things: nothing is granted short, a failed
//! request changes nothing, and there is one rounding rule (what is free of a
//! device is rounded down to the slot's quantum).
//!
//! Both walk the devices by what is free, most first, equals in inventory
//! order. They know one number a device, so they are pure functions of that.

use crate::model::Amount;

/// A device: what is free of it, exactly and in quanta.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bin {
    pub(super) device: u32,
    /// What the order goes by.
    pub(super) exact: Amount,
    /// What may be granted, in quanta.
    pub(super) free: u64,
    /// What an empty device grants, in quanta.
    pub(super) capacity: u64,
}

/// Puts devices in the order of both strategies.
pub(super) fn order(bins: &mut [Bin]) {
    bins.sort_by(|a, b| b.exact.cmp(&a.exact).then(a.device.cmp(&b.device)));
}

/// Would `asked` quanta lie on no more devices than necessary? Equal devices
/// are assumed, as large as the first: on `n` of them, in parts that differ by
/// one quantum at most, for some `n` from the fewest possible.
pub(super) fn unsplit(bins: &[Bin], asked: u64) -> bool {
    let Some(capacity) = bins.first().map(|b| b.capacity.max(1)) else {
        return false;
    };
    let fewest = asked.div_ceil(capacity);
    let most = if asked <= capacity {
        fewest
    } else {
        bins.len() as u64
    };
    (fewest..=most).any(|n| {
        let part = asked / n;
        let extra = asked - n * part;
        let with = |least: u64| bins.iter().filter(|b| b.free >= least).count() as u64;
        with(part + 1) >= extra && with(part) >= n
    })
}

/// The most quanta for which [`unsplit`] holds and that are free.
pub(super) fn largest_unsplit(bins: &[Bin]) -> u64 {
    let capacity = bins.first().map_or(0, |b| b.capacity);
    (1..=bins.len())
        .filter_map(|n| {
            // The devices come by what is free: the n-th has the least of n.
            let part = bins[n - 1].free;
            let extra = bins[..n - 1].iter().filter(|b| b.free > part).count();
            let most = part * n as u64 + extra.min(n - 1) as u64;
            let most = most.min(capacity.saturating_mul(n as u64));
            (most > 0 && unsplit(bins, most)).then_some(most)
        })
        .max()
        .unwrap_or(0)
}

/// The emptiest device first, until it is full.
pub(super) fn fill(bins: &[Bin], asked: u64) -> Option<Vec<(u32, u64)>> {
    let mut rest = asked;
    let mut taken = Vec::new();
    for bin in bins {
        let piece = rest.min(bin.free);
        if piece > 0 {
            taken.push((bin.device, piece));
            rest -= piece;
        }
    }
    (rest == 0).then_some(taken)
}

/// Whole units, as equally as they go: rounds in which every device with room
/// gets the same, the first ones one more.
pub(super) fn evenly_whole(bins: &[Bin], asked: u64) -> Option<Vec<(u32, u64)>> {
    if bins.iter().map(|b| b.free).sum::<u64>() < asked {
        return None;
    }
    let mut new = vec![0; bins.len()];
    let mut rest = asked;
    while rest > 0 {
        let open: Vec<usize> = (0..bins.len()).filter(|&i| bins[i].free > new[i]).collect();
        let count = open.len() as u64;
        let (each, more) = (rest / count, rest % count);
        for (at, i) in (0..).zip(open) {
            let share = each + u64::from(at < more);
            let share = share.min(bins[i].free - new[i]).min(rest);
            new[i] += share;
            rest -= share;
        }
    }
    let got = bins.iter().zip(new).filter(|(_, n)| *n > 0);
    Some(got.map(|(b, n)| (b.device, n)).collect())
}

/// Fractions: on the fullest device that has room for all of it, else in
/// parts as equal as they go on the fewest devices.
///
/// Of each width, the windows of neighbouring devices are looked at from the
/// emptiest on; the last one that has room and is as even as the first is
/// kept. Over all widths, the most even one is taken, of equals the narrowest.
pub(super) fn evenly(bins: &[Bin], asked: u64) -> Option<Vec<(u32, u64)>> {
    let bins: Vec<Bin> = bins.iter().copied().filter(|b| b.free > 0).collect();
    let line = Line::new(&bins);
    if line.sum(0, bins.len()) < u128::from(asked) {
        return None;
    }
    if bins.first()?.free >= asked {
        let bin = bins.iter().rev().find(|b| b.free >= asked)?;
        return Some(vec![(bin.device, asked)]);
    }
    let mut best: Option<(u64, usize, usize)> = None;
    for width in 1..=bins.len() {
        // Equal parts need a multiple of the width.
        let least = u64::from(!asked.is_multiple_of(width as u64));
        if best.is_some_and(|(uneven, ..)| uneven <= least) {
            continue;
        }
        let Some(first) = line.unevenness(0, width, asked) else {
            continue;
        };
        if best.is_some_and(|(uneven, ..)| uneven <= first) {
            continue;
        }
        // Windows further on have less free, so they are never more even.
        let starts: Vec<usize> = (0..=bins.len() - width).collect();
        let good = starts.partition_point(|&i| line.unevenness(i, width, asked) == Some(first));
        best = Some((first, good - 1, width));
    }
    let (_, start, width) = best?;
    Some(line.split(start, width, asked))
}

/// Devices by what is free, most first, with running sums.
struct Line<'a> {
    bins: &'a [Bin],
    sums: Vec<u128>,
}

impl<'a> Line<'a> {
    fn new(bins: &'a [Bin]) -> Self {
        let mut sums = vec![0];
        let mut sum = 0;
        for bin in bins {
            sum += u128::from(bin.free);
            sums.push(sum);
        }
        Self { bins, sums }
    }

    fn sum(&self, from: usize, to: usize) -> u128 {
        self.sums[to] - self.sums[from]
    }

    /// How many devices of a window give less than an equal part: all they
    /// have. Counted from its end; found by halving, since the more devices
    /// give all, the more the next one would have to give.
    fn exhausted(&self, start: usize, width: usize, asked: u64) -> usize {
        let end = start + width;
        let counts: Vec<usize> = (0..width).collect();
        counts.partition_point(|&n| {
            let rest = u128::from(asked).saturating_sub(self.sum(end - n, end));
            u128::from(self.bins[end - 1 - n].free) * ((width - n) as u128) < rest
        })
    }

    /// The parts' greatest difference; `None` if the window has no room.
    fn unevenness(&self, start: usize, width: usize, asked: u64) -> Option<u64> {
        if self.sum(start, start + width) < u128::from(asked) {
            return None;
        }
        let exhausted = self.exhausted(start, width, asked);
        let end = start + width;
        let rest = u128::from(asked) - self.sum(end - exhausted, end);
        let sharing = (width - exhausted) as u128;
        let least = if exhausted > 0 {
            u128::from(self.bins[end - 1].free)
        } else {
            rest / sharing
        };
        u64::try_from(rest.div_ceil(sharing) - least).ok()
    }

    /// The parts: what is left beside the exhausted devices is shared equally,
    /// the first ones getting a quantum more.
    fn split(&self, start: usize, width: usize, asked: u64) -> Vec<(u32, u64)> {
        let exhausted = self.exhausted(start, width, asked);
        let window = &self.bins[start..start + width];
        let (sharing, giving) = window.split_at(width - exhausted);
        let rest = asked - giving.iter().map(|b| b.free).sum::<u64>();
        let (each, more) = (rest / sharing.len() as u64, rest % sharing.len() as u64);
        let shared = (0..)
            .zip(sharing)
            .map(|(i, b)| (b.device, each + u64::from(i < more)));
        let given = giving.iter().map(|b| (b.device, b.free));
        shared.chain(given).filter(|(_, n)| *n > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bins(free: &[u64]) -> Vec<Bin> {
        let capacity = free.iter().copied().max().unwrap_or(0);
        let mut bins: Vec<Bin> = (0..)
            .zip(free)
            .map(|(device, &free)| Bin {
                device,
                exact: Amount::from_units(free),
                free,
                capacity,
            })
            .collect();
        order(&mut bins);
        bins
    }

    /// The rule as it is written down, step by step.
    fn evenly_by_the_book(bins: &[Bin], asked: u64) -> Option<Vec<(u32, u64)>> {
        let bins: Vec<Bin> = bins.iter().copied().filter(|b| b.free > 0).collect();
        if bins.iter().map(|b| b.free).sum::<u64>() < asked {
            return None;
        }
        if bins.first()?.free >= asked {
            let bin = bins.iter().rev().find(|b| b.free >= asked)?;
            return Some(vec![(bin.device, asked)]);
        }
        let split = |window: &[Bin]| {
            if window.iter().map(|b| b.free).sum::<u64>() < asked {
                return None;
            }
            let (mut rest, mut n) = (asked, window.len() as u64);
            let mut parts: Vec<(u32, u64)> = window.iter().map(|b| (b.device, b.free)).collect();
            for bin in window.iter().rev() {
                if bin.free * n >= rest {
                    break;
                }
                rest -= bin.free;
                n -= 1;
            }
            let base = rest / n;
            let more = rest - n * base;
            for (i, part) in (0..n).zip(&mut parts) {
                part.1 = base + u64::from(i < more);
            }
            let most = parts.iter().map(|p| p.1).max()?;
            let least = parts.iter().map(|p| p.1).min()?;
            Some((most - least, parts))
        };
        let mut best: Option<(u64, Vec<(u32, u64)>)> = None;
        for width in 1..=bins.len() {
            let mut kept: Option<(u64, Vec<(u32, u64)>)> = None;
            let mut first = None;
            for window in bins.windows(width) {
                let Some(parts) = split(window) else { break };
                let first = *first.get_or_insert(parts.0);
                if parts.0 > first {
                    break;
                }
                kept = Some(parts);
            }
            if let Some(kept) = kept
                && best.as_ref().is_none_or(|b| kept.0 < b.0)
            {
                best = Some(kept);
            }
        }
        best.map(|(_, parts)| parts.into_iter().filter(|p| p.1 > 0).collect())
    }

    proptest! {
        #[test]
        fn evenly_is_the_rule_of_the_book(
            free in prop::collection::vec(0u64..12, 1..9), asked in 1u64..60,
        ) {
            let bins = bins(&free);
            prop_assert_eq!(evenly(&bins, asked), evenly_by_the_book(&bins, asked));
        }

        #[test]
        fn all_strategies_grant_exactly_what_is_asked(
            free in prop::collection::vec(0u64..12, 1..9), asked in 1u64..60,
        ) {
            let bins = bins(&free);
            let fits = free.iter().sum::<u64>() >= asked;
            for parts in [fill(&bins, asked), evenly(&bins, asked), evenly_whole(&bins, asked)] {
                prop_assert_eq!(parts.is_some(), fits);
                let parts = parts.unwrap_or_default();
                prop_assert_eq!(parts.iter().map(|p| p.1).sum::<u64>(), if fits { asked } else { 0 });
                for (device, part) in parts {
                    prop_assert!(part > 0 && part <= free[device as usize]);
                }
            }
        }

        #[test]
        fn the_largest_unsplit_amount_is_the_largest(
            free in prop::collection::vec(0u64..12, 1..9),
        ) {
            let bins = bins(&free);
            let all = 1..=free.iter().sum::<u64>();
            let largest = all.filter(|&n| unsplit(&bins, n)).max().unwrap_or(0);
            prop_assert_eq!(largest_unsplit(&bins), largest);
        }
    }

    #[test]
    fn fractions_fill_the_fullest_device_that_has_room() {
        let bins = bins(&[100, 40, 60, 60]);
        assert_eq!(evenly(&bins, 50), Some(vec![(3, 50)]));
        assert_eq!(evenly(&bins, 100), Some(vec![(0, 100)]));
        // Too much for one: equal halves, on the last pair that has room.
        assert_eq!(evenly(&bins, 120), Some(vec![(2, 60), (3, 60)]));
    }

    #[test]
    fn wide_requests_take_no_time_to_speak_of() {
        let free: Vec<u64> = (0..4096).map(|i| 1_000_003 + i * 7).collect();
        let asked = free.iter().sum::<u64>() - 11;
        assert!(evenly(&bins(&free), asked).is_some());
    }
}

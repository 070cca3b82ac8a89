//! Hardware partitions: runs of positions on a device.

use std::collections::BTreeMap;

use super::machine::{Needs, SlotIx};
use crate::model::Amount;

/// How a device can be cut.
#[derive(Clone, Debug)]
pub(super) struct Cuts {
    pub(super) profiles: Vec<Cut>,
}

/// One kind of partition.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// The slot that asks for it.
    pub(super) slot: SlotIx,
    /// How many positions it covers.
    pub(super) size: u32,
    /// A bit for each position where it may begin.
    pub(super) starts: u64,
    /// What it uses up of the device's capacities besides.
    pub(super) needs: Needs,
    /// How much of each class one is.
    pub(super) serves: BTreeMap<String, Amount>,
}

impl Cut {
    /// How much of a class one is, at least.
    pub(super) fn of(&self, class: &str) -> Amount {
        self.serves.get(class).copied().unwrap_or_default()
    }
}

/// The bits of a partition's positions.
pub(super) fn span(start: impl Into<u32>, size: u32) -> u64 {
    let bits = if size >= 64 {
        u64::MAX
    } else {
        (1 << size) - 1
    };
    bits.checked_shl(start.into()).unwrap_or(0)
}

/// How many more partitions of one profile fit on a device: disjoint runs of
/// free positions, and enough of each capacity for all of them.
pub(super) fn count(cut: &Cut, taken: u64, free: impl Fn(usize) -> Amount) -> Amount {
    // Runs of equal length: taking the one that ends first is optimal.
    let mut fits = cut.starts & runs_of(!taken, cut.size);
    let mut most: u64 = 0;
    if cut.size == 1 {
        most = u64::from(fits.count_ones());
        fits = 0;
    }
    while fits != 0 {
        let start = fits.trailing_zeros();
        most += 1;
        let end = start + cut.size;
        fits &= u64::MAX.checked_shl(end).unwrap_or(0);
    }
    let enough = cut
        .needs
        .iter()
        .filter(|(_, need)| !need.is_zero())
        .map(|(offset, need)| u64::try_from(free(offset).nanos() / need.nanos()))
        .map(|n| n.unwrap_or(u64::MAX))
        .min()
        .unwrap_or(u64::MAX);
    Amount::from_units(most.min(enough))
}

/// The positions at which a run of `size` free positions begins.
pub(super) fn runs_of(free: u64, size: u32) -> u64 {
    let (mut runs, mut length) = (free, 1);
    while length < size {
        let step = length.min(size - length);
        runs &= runs >> step;
        length += step;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_begin_where_enough_positions_follow() {
        assert_eq!(runs_of(0b0110_1111, 1), 0b0110_1111);
        assert_eq!(runs_of(0b0110_1111, 2), 0b0010_0111);
        assert_eq!(runs_of(0b0110_1111, 3), 0b0000_0011);
        assert_eq!(runs_of(u64::MAX, 64), 1);
        assert_eq!(span(0u32, 64), u64::MAX);
        assert_eq!(span(62u32, 2), 0b11 << 62);
    }
}

//! CPU time as the kernel's quota and period, exactly.
//!
//! Kernel: Documentation/scheduler/sched-bwc.rst. Quota and period are whole
//! microseconds, the period at most 1 s, the quota at least 1 ms. A short
//! period keeps a throttled workload responsive: it stands still for at most
//! a period. So 20 ms it is, and longer only where 20 ms cannot say the
//! amount: below 0.05 CPUs, where 1 ms is more than the share.

use divvy_plugin::CpuQuota;

/// The period wherever it will do, µs.
const PERIOD: u128 = 20_000;
/// The longest period that the kernel takes, µs.
const LONGEST_PERIOD: u128 = 1_000_000;
/// The smallest quota that the kernel takes, µs.
const SMALLEST_QUOTA: u128 = 1_000;
/// Nano-units in one unit.
const SCALE: u128 = 1_000_000_000;

/// The quota of `nanos` × 10⁻⁹ CPU seconds per second: the shortest period,
/// 20 ms or more, in which it is a whole number of microseconds and at least
/// 1 ms. `None` if there is none up to 1 s; every multiple of 0.01 has one.
pub(crate) fn quota(nanos: u128) -> Option<CpuQuota> {
    if nanos == 0 {
        return None;
    }
    let divisor = gcd(nanos, SCALE);
    let (time, step) = (nanos / divisor, SCALE / divisor);
    let least = PERIOD.max((SMALLEST_QUOTA * step).div_ceil(time));
    let period = least.div_ceil(step) * step;
    if period > LONGEST_PERIOD {
        return None;
    }
    Some(CpuQuota {
        quota_us: u64::try_from((period / step).checked_mul(time)?).ok()?,
        period_us: u64::try_from(period).ok()?,
    })
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HUNDREDTH: u128 = SCALE / 100;

    fn assert_exact(nanos: u128) {
        let CpuQuota {
            quota_us,
            period_us,
        } = quota(nanos).unwrap();
        let (q, p) = (u128::from(quota_us), u128::from(period_us));
        assert_eq!(q * SCALE, nanos * p, "{nanos} nanos: {q}/{p}");
        assert!(q >= SMALLEST_QUOTA && (PERIOD..=LONGEST_PERIOD).contains(&p));
    }

    #[test]
    fn every_hundredth_of_a_core_is_exact() {
        for threads in [1, 2, 4, 8] {
            for hundredths in 1..=400 {
                let nanos = hundredths * HUNDREDTH * threads;
                assert_exact(nanos);
                // The usual period, wherever it does not make the quota too short.
                let period = u128::from(quota(nanos).unwrap().period_us);
                assert!(period == PERIOD || nanos * PERIOD < SMALLEST_QUOTA * SCALE);
            }
        }
    }

    #[test]
    fn short_shares_have_the_shortest_period_that_can_say_them() {
        for (hundredths, quota_us, period_us) in [
            (1, 1_000, 100_000),
            (2, 1_000, 50_000),
            (3, 1_002, 33_400),
            (4, 1_000, 25_000),
            (5, 1_000, 20_000),
            (50, 10_000, 20_000),
            (100, 20_000, 20_000),
        ] {
            assert_eq!(
                quota(hundredths * HUNDREDTH),
                Some(CpuQuota {
                    quota_us,
                    period_us
                })
            );
        }
    }

    #[test]
    fn what_cannot_be_said_exactly_is_not_said() {
        assert_eq!(quota(0), None);
        assert_eq!(quota(1), None);
        assert_eq!(quota(SCALE + 1), None);
    }

    proptest! {
        #[test]
        fn sums_of_hundredths_are_exact(
            cores in prop::collection::vec((1_u128..=100, 1_u128..=8), 1..200)
        ) {
            assert_exact(cores.iter().map(|(h, t)| h * t * HUNDREDTH).sum());
        }

        #[test]
        fn anything_answered_is_exact(nanos in 1_u128..SCALE * 10_000) {
            if quota(nanos).is_some() {
                assert_exact(nanos);
            }
        }
    }
}

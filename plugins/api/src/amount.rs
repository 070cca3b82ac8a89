//! Exact amounts.
//!
//! An [`Amount`] is a non-negative decimal number held as an integer count of
//! nano-units (10⁻⁹), the finest step that Kubernetes' `resource.Quantity`
//! knows as well. No float touches it: `0.1` ten times is `1`, and what is
//! written is what is read. The unit itself (cores, bytes, devices) belongs to
//! the slot or the capacity, not to the number.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nano-units in one unit.
const SCALE: u128 = 1_000_000_000;
/// Digits after the decimal point.
const DIGITS: usize = 9;

/// A non-negative, exact decimal amount of something, in steps of 10⁻⁹.
///
/// The largest amount is [`Amount::MAX`], 10¹⁸ units: an exbibyte counted in
/// bytes fits. Arithmetic is checked: there is no wrapping and no saturation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

/// Why a text is not an [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Nothing was written.
    #[error("is empty; write a decimal number such as 0.5")]
    Empty,
    /// A minus sign.
    #[error("is negative; amounts are zero or more")]
    Negative,
    /// Letters, exponents, several points, NaN, infinities.
    #[error("is not a plain decimal number such as 2 or 0.5")]
    Malformed,
    /// More than nine digits after the point.
    #[error("has more than 9 digits after the point")]
    TooFine,
    /// Above [`Amount::MAX`].
    #[error("is larger than 1000000000000000000 (10^18)")]
    TooLarge,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The least amount that is not nothing, 10⁻⁹ units.
    pub const NANO: Self = Self(1);
    /// One unit.
    pub const ONE: Self = Self(SCALE);
    /// The largest amount, 10¹⁸ units.
    pub const MAX: Self = Self(1_000_000_000_000_000_000 * SCALE);

    /// A whole number of units. Every `u64` up to 10¹⁸ is exact; above that
    /// the result is [`Amount::MAX`].
    #[must_use]
    pub const fn from_units(units: u64) -> Self {
        let nanos = units as u128 * SCALE;
        if nanos > Self::MAX.0 {
            Self::MAX
        } else {
            Self(nanos)
        }
    }

    /// Nano-units (10⁻⁹); `None` above [`Amount::MAX`].
    #[must_use]
    pub fn from_nanos(nanos: u128) -> Option<Self> {
        (nanos <= Self::MAX.0).then_some(Self(nanos))
    }

    /// This amount in nano-units (10⁻⁹).
    #[must_use]
    pub fn nanos(self) -> u128 {
        self.0
    }

    /// The whole units in this amount, rounded down.
    #[must_use]
    pub fn whole_units(self) -> u64 {
        // MAX is 10^18 units, which fits.
        u64::try_from(self.0 / SCALE).unwrap_or(u64::MAX)
    }

    /// What is left above the whole units.
    #[must_use]
    pub fn fraction(self) -> Self {
        Self(self.0 % SCALE)
    }

    /// Is this nothing at all?
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, or `None` above [`Amount::MAX`].
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::from_nanos)
    }

    /// The difference, or `None` below zero.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The difference, or zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Is this a whole multiple of `quantum`? A zero quantum has no multiple
    /// but zero.
    #[must_use]
    pub fn is_multiple_of(self, quantum: Self) -> bool {
        match quantum.0 {
            0 => self.0 == 0,
            step => self.0.is_multiple_of(step),
        }
    }

    /// The largest multiple of `quantum` not above this amount.
    #[must_use]
    pub fn floor_to(self, quantum: Self) -> Self {
        match quantum.0 {
            0 => Self::ZERO,
            step => Self(self.0 / step * step),
        }
    }

    /// The smallest multiple of `quantum` not below this amount; `None` above
    /// [`Amount::MAX`]. A zero quantum has no multiple but zero.
    #[must_use]
    pub fn ceil_to(self, quantum: Self) -> Option<Self> {
        let floor = self.floor_to(quantum);
        if floor == self || quantum.is_zero() {
            Some(floor)
        } else {
            floor.checked_add(quantum)
        }
    }

    /// `self × numerator / denominator`, rounded down to nano-units; `None` if
    /// the denominator is zero or the result is above [`Amount::MAX`].
    #[must_use]
    pub fn scaled(self, numerator: Self, denominator: Self) -> Option<Self> {
        let (whole, rest, d) = self.parts(numerator, denominator)?;
        whole.checked_add(rest / d).and_then(Self::from_nanos)
    }

    /// [`scaled`](Self::scaled), rounded up.
    #[must_use]
    pub fn scaled_up(self, numerator: Self, denominator: Self) -> Option<Self> {
        let (whole, rest, d) = self.parts(numerator, denominator)?;
        whole
            .checked_add(rest.div_ceil(d))
            .and_then(Self::from_nanos)
    }

    /// The product over the denominator, as a whole part, a remaining
    /// numerator, and the denominator that it stands over.
    fn parts(self, numerator: Self, denominator: Self) -> Option<(u128, u128, u128)> {
        if denominator.is_zero() {
            return None;
        }
        if let Some(product) = self.0.checked_mul(numerator.0) {
            return Some((
                product / denominator.0,
                product % denominator.0,
                denominator.0,
            ));
        }
        // Take out what divides evenly first, so that the product stays small.
        let divisor = gcd(numerator.0, denominator.0).max(1);
        let (n, d) = (numerator.0 / divisor, denominator.0 / divisor);
        let whole = (self.0 / d).checked_mul(n)?;
        let rest = (self.0 % d).checked_mul(n)?;
        Some((whole, rest, d))
    }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Sum for Amount {
    /// Sums amounts; stops at [`Amount::MAX`].
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |a, b| a.checked_add(b).unwrap_or(Self::MAX))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / SCALE, self.0 % SCALE);
        if part == 0 {
            return f.pad(&whole.to_string());
        }
        let text = format!("{whole}.{part:0DIGITS$}");
        f.pad(text.trim_end_matches('0'))
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        if text.is_empty() {
            return Err(AmountError::Empty);
        }
        if let Some(rest) = text.strip_prefix('-') {
            return Err(match rest.parse::<Self>() {
                Ok(_) | Err(AmountError::TooLarge | AmountError::TooFine) => AmountError::Negative,
                Err(_) => AmountError::Malformed,
            });
        }
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) {
            return Err(AmountError::Malformed);
        }
        let part = part.trim_end_matches('0');
        if part.len() > DIGITS {
            return Err(AmountError::TooFine);
        }
        let whole = whole.trim_start_matches('0');
        // 10^18 has 19 digits; anything longer need not be multiplied out.
        if whole.len() > 19 {
            return Err(AmountError::TooLarge);
        }
        let nanos = format!("0{whole}{part:0<DIGITS$}")
            .parse::<u128>()
            .map_err(|_| AmountError::TooLarge)?;
        Self::from_nanos(nanos).ok_or(AmountError::TooLarge)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse()
            .map_err(|e| serde::de::Error::custom(format!("amount {text:?} {e}")))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9]{1,19}(\\.[0-9]{1,9})?$",
            "description": "an exact, non-negative decimal amount of at most 10^18, as text"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tenth_ten_times_is_one() {
        let tenth: Amount = "0.1".parse().unwrap();
        assert_eq!(std::iter::repeat_n(tenth, 10).sum::<Amount>(), Amount::ONE);
    }

    #[test]
    fn bad_texts_say_why() {
        use AmountError::*;
        for (text, error) in [
            ("", Empty),
            ("-1", Negative),
            ("-0", Negative),
            ("--1", Malformed),
            ("NaN", Malformed),
            ("-inf", Malformed),
            ("1e308", Malformed),
            ("1.", Malformed),
            (".5", Malformed),
            ("1.2.3", Malformed),
            (" 1", Malformed),
            ("+1", Malformed),
            ("٣", Malformed),
            ("0.0000000001", TooFine),
            ("123456789012345678901234567890", TooLarge),
            ("1000000000000000000.1", TooLarge),
        ] {
            assert_eq!(text.parse::<Amount>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn shares_of_a_total_round_down() {
        let of = |t: u64, n: &str, d: &str| {
            Amount::from_units(t)
                .scaled(n.parse().unwrap(), d.parse().unwrap())
                .map(|a| a.to_string())
        };
        assert_eq!(of(10, "0.5", "2").as_deref(), Some("2.5"));
        assert_eq!(of(10, "1", "3").as_deref(), Some("3.333333333"));
        assert_eq!(
            of(1 << 59, "0.01", "192").as_deref(),
            Some("30023997515803.306666666")
        );
        assert_eq!(of(10, "1", "0"), None);
    }

    /// Every small amount, and every one near the edges: the largest amount, and
    /// where a product no longer fits into 128 bits.
    fn interesting() -> Vec<u128> {
        let edges = [SCALE, Amount::MAX.0, 1 << 64, 1 << 89];
        let near = edges.iter().flat_map(|e| e - 3..=e + 3);
        (0..=24)
            .chain(near)
            .filter(|n| *n <= Amount::MAX.0)
            .collect()
    }

    /// `a × n / d` and its remainder, digit by digit: no product of two amounts.
    fn by_hand(a: u128, n: u128, d: u128) -> (Option<u128>, bool) {
        let (mut quotient, mut rest) = (Some(0u128), 0u128);
        let more = |quotient: Option<u128>, rest: u128| {
            (quotient.and_then(|q| q.checked_add(rest / d)), rest % d)
        };
        for bit in (0..128).rev() {
            // Twice what there was, and once more `n` where `a` has a bit.
            (quotient, rest) = more(quotient.and_then(|q| q.checked_mul(2)), rest * 2);
            if a >> bit & 1 == 1 {
                let whole = quotient.and_then(|q| q.checked_add(n / d));
                (quotient, rest) = more(whole, rest + n % d);
            }
        }
        (quotient.filter(|q| *q <= Amount::MAX.0), rest != 0)
    }

    #[test]
    fn scaling_is_exact_everywhere() {
        for a in interesting() {
            for n in interesting() {
                for d in interesting() {
                    let (down, up) = (
                        Amount(a).scaled(Amount(n), Amount(d)),
                        Amount(a).scaled_up(Amount(n), Amount(d)),
                    );
                    if d == 0 {
                        assert_eq!((down, up), (None, None));
                        continue;
                    }
                    let (exact, inexact) = by_hand(a, n, d);
                    // Where an intermediate value does not fit there may be no
                    // answer; a wrong one there never is.
                    assert!(
                        down.is_none() || down.map(|x| x.0) == exact,
                        "{a} × {n} / {d}"
                    );
                    let above = exact.and_then(|x| x.checked_add(u128::from(inexact)));
                    assert!(up.is_none() || up.map(|x| x.0) == above, "{a} × {n} / {d}");
                    if a.checked_mul(n).is_some() {
                        assert_eq!(down.map(|x| x.0), exact, "{a} × {n} / {d}");
                        let above = above.filter(|x| *x <= Amount::MAX.0);
                        assert_eq!(up.map(|x| x.0), above, "{a} × {n} / {d}");
                    }
                }
            }
        }
    }

    #[test]
    fn steps_and_sums_are_exact_everywhere() {
        for a in interesting() {
            let text = Amount(a).to_string();
            assert_eq!(text.parse(), Ok(Amount(a)), "{text}");
            for b in interesting() {
                let (x, y) = (Amount(a), Amount(b));
                assert_eq!(
                    x.checked_add(y).map(|s| s.0),
                    Some(a + b).filter(|s| *s <= Amount::MAX.0)
                );
                assert_eq!(x.checked_sub(y).map(|s| s.0), a.checked_sub(b));
                let (floor, ceil) = (x.floor_to(y), x.ceil_to(y));
                if b == 0 {
                    assert_eq!((floor, ceil), (Amount::ZERO, Some(Amount::ZERO)));
                    continue;
                }
                assert_eq!(floor.0, a - a % b);
                assert!(floor.is_multiple_of(y) && a - floor.0 < b);
                let next = if a % b == 0 { a } else { a - a % b + b };
                assert_eq!(
                    ceil.map(|c| c.0),
                    Some(next).filter(|n| *n <= Amount::MAX.0)
                );
                assert_eq!(x.is_multiple_of(y), a % b == 0);
            }
        }
    }

    proptest! {
        #[test]
        fn text_and_back(nanos in 0..=Amount::MAX.0) {
            let amount = Amount(nanos);
            prop_assert_eq!(amount.to_string().parse::<Amount>(), Ok(amount));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<Amount>();
        }

        #[test]
        fn floor_is_a_multiple(nanos in 0..=Amount::MAX.0, step in 1..=Amount::MAX.0) {
            let floor = Amount(nanos).floor_to(Amount(step));
            prop_assert!(floor.is_multiple_of(Amount(step)));
            prop_assert!(floor.0 <= nanos && nanos - floor.0 < step);
        }
    }
}

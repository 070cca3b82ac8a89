//! What a caller asks for, and how amounts are written by people.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Amount, AmountError, EnforcementLevel};

/// The slots without a plugin's prefix, which every machine has: what limits
/// every workload.
pub const BASE_SLOTS: [&str; 2] = ["cpu", "mem"];

/// What a caller asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Amounts by the name of a slot (`cuda.shares`) or of a class (`gpu`). An
    /// amount of 0 means "not asked".
    pub slots: BTreeMap<String, Amount>,
    /// What to take instead, in order of preference, where that cannot be had.
    /// Each replaces all amounts but those of `cpu` and `mem`, and these where
    /// it names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<BTreeMap<String, Amount>>,
    /// A CEL expression that a device must fulfil: `docs/allocation.md`. It
    /// holds for all slots but `cpu` and `mem`; for these if no other is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// How devices are chosen; `None`: as each slot says, else `pack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// May not be spread over more devices than its size makes necessary.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsplit: bool,
    /// What must, or should, lie near each other.
    #[serde(default, skip_serializing_if = "Near::is_default")]
    pub near: Near,
    /// Names of workloads whose devices are to be left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart_from: Vec<String>,
    /// How firmly the limits must hold, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_level: Option<EnforcementLevel>,
}

impl Request {
    /// A request for these amounts, as people write them: `("cpu", "0.5")`,
    /// `("mem", "2GiB")`. Slots that are named `mem`, or end so, are counted in
    /// bytes.
    ///
    /// # Errors
    /// An amount that cannot be read.
    pub fn of(amounts: &[(&str, &str)]) -> Result<Self, AmountTextError> {
        let mut slots = BTreeMap::new();
        for (slot, text) in amounts {
            let bytes = *slot == "mem" || slot.ends_with(".mem");
            let unit = if bytes { "byte" } else { "unit" };
            slots.insert((*slot).to_owned(), parse_amount(text, slot, unit)?);
        }
        Ok(Self {
            slots,
            ..Self::default()
        })
    }
}

/// How devices are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Keep large free shapes: the choice after which the most of what is
    /// usually asked for still fits.
    #[default]
    Pack,
    /// Balance the load over devices.
    Spread,
    /// Backend.AI's: the emptiest device first, until it is full.
    Fill,
    /// Backend.AI's: into one device where it fits, else in equal parts over
    /// the fewest.
    Evenly,
}

/// What of a request lies near what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Near {
    /// As near as can be: the best-connected devices, then the fewest NUMA
    /// nodes, then the nearest.
    #[default]
    Prefer,
    /// All on one NUMA node, or refused.
    Node,
    /// Each two of the whole devices are linked directly, or refused.
    Linked,
    /// Wherever there is room.
    Any,
}

impl Near {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a written amount cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountTextError {
    /// The number itself.
    #[error("{slot}: {text:?} {error}")]
    Number {
        /// What it is an amount of.
        slot: String,
        /// What was written.
        text: String,
        /// What is wrong with it.
        error: AmountError,
    },
    /// A unit that is none.
    #[error(
        "{slot}: {text:?} has the unknown unit {unit:?}; bytes are written B, kB MB GB TB (powers of 1000) or KiB MiB GiB TiB (powers of 1024)"
    )]
    Unit {
        /// What it is an amount of.
        slot: String,
        /// What was written.
        text: String,
        /// The part that is no unit.
        unit: String,
    },
    /// A byte unit on something that is not counted in bytes.
    #[error("{slot}: {text:?} has a unit, but this is a plain number of {per}s")]
    Unitless {
        /// What was written.
        text: String,
        /// The slot.
        slot: String,
        /// The slot's unit.
        per: String,
    },
}

/// Byte units, longest first, so that a suffix is matched whole.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads an amount as people write it for a slot counted in `unit`: a decimal
/// number, for bytes with one of `B kB MB GB TB KiB MiB GiB TiB` behind it.
///
/// # Errors
/// [`AmountTextError`], which quotes the text.
pub fn parse_amount(text: &str, slot: &str, unit: &str) -> Result<Amount, AmountTextError> {
    let wrong = |error| AmountTextError::Number {
        slot: slot.to_owned(),
        text: text.to_owned(),
        error,
    };
    let number = |digits: &str| digits.parse::<Amount>().map_err(wrong);
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let looks_like_number = digits.bytes().any(|b| b.is_ascii_digit())
        && !matches!(suffix.bytes().next(), Some(b'e' | b'E'));
    if suffix.is_empty() || !looks_like_number {
        return number(text);
    }
    if unit != "byte" {
        return Err(AmountTextError::Unitless {
            text: text.to_owned(),
            slot: slot.to_owned(),
            per: unit.to_owned(),
        });
    }
    let Some((_, factor)) = BYTE_UNITS.iter().find(|(name, _)| *name == suffix) else {
        return Err(AmountTextError::Unit {
            slot: slot.to_owned(),
            text: text.to_owned(),
            unit: suffix.to_owned(),
        });
    };
    number(digits.trim_end())?
        .scaled(Amount::from_units(*factor), Amount::ONE)
        .ok_or_else(|| wrong(AmountError::TooLarge))
}

/// Writes an amount for people: bytes in the largest binary unit that leaves
/// at most two decimals exactly, else with one decimal rounded down and `~`;
/// anything else as the plain number.
#[must_use]
pub fn format_amount(amount: Amount, unit: &str) -> String {
    if unit != "byte" {
        return amount.to_string();
    }
    let bytes = amount.whole_units();
    for (name, factor) in [
        ("TiB", 1u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ] {
        if bytes < factor {
            continue;
        }
        if bytes.is_multiple_of(factor) {
            return format!("{} {name}", bytes / factor);
        }
        if bytes.is_multiple_of(factor >> 10) && bytes / factor < 10 && factor > 1 << 10 {
            // Exact in the next smaller unit: say it there.
            return format!("{} {}", bytes / (factor >> 10), smaller(name));
        }
        let hundredths = u128::from(bytes) * 100;
        if hundredths.is_multiple_of(factor.into()) {
            let hundredths = hundredths / u128::from(factor);
            let decimals = format!("{:02}", hundredths % 100);
            let decimals = decimals.trim_end_matches('0');
            return format!("{}.{decimals} {name}", hundredths / 100);
        }
        let tenths = u128::from(bytes) * 10 / u128::from(factor);
        return format!("~{}.{} {name}", tenths / 10, tenths % 10);
    }
    format!("{amount} B")
}

fn smaller(unit: &str) -> &'static str {
    match unit {
        "TiB" => "GiB",
        "GiB" => "MiB",
        _ => "KiB",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<u64, String> {
        parse_amount(text, "mem", "byte")
            .map(Amount::whole_units)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn byte_units() {
        assert_eq!(bytes("256MiB"), Ok(256 << 20));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("2 GB"), Ok(2_000_000_000));
        assert_eq!(bytes("12"), Ok(12));
        assert_eq!(bytes("12B"), Ok(12));
    }

    #[test]
    fn wrong_texts_are_quoted_with_the_remedy() {
        assert!(bytes("12XiB").unwrap_err().contains("KiB MiB GiB TiB"));
        assert!(bytes("12gib").unwrap_err().contains("unknown unit \"gib\""));
        assert!(bytes("1e308").unwrap_err().contains("not a plain decimal"));
        assert!(bytes("NaN").unwrap_err().contains("not a plain decimal"));
        assert!(bytes("-1GiB").unwrap_err().contains("negative"));
        assert!(
            bytes("999999999999999999TiB")
                .unwrap_err()
                .contains("larger")
        );
        let cores = parse_amount("2GiB", "cpu", "core").unwrap_err().to_string();
        assert_eq!(
            cores,
            "cpu: \"2GiB\" has a unit, but this is a plain number of cores"
        );
    }

    #[test]
    fn shown_for_people() {
        let show = |b: u64| format_amount(Amount::from_units(b), "byte");
        assert_eq!(show(256 << 20), "256 MiB");
        assert_eq!(show(3 << 29), "1536 MiB");
        assert_eq!(show(25_248_243_712), "~23.5 GiB");
        assert_eq!(show(39 << 30 | 1 << 28), "39.25 GiB");
        assert_eq!(show(39 << 30 | 1 << 29), "39.5 GiB");
        assert_eq!(show(100), "100 B");
        assert_eq!(show(0), "0 B");
        assert_eq!(format_amount("0.5".parse().unwrap(), "core"), "0.5");
    }
}

//! Amounts as short texts.

use crate::model::Amount;

const UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// Rounded to so many decimals, and none after the point that are nothing.
pub(in super::super) fn rounded(amount: Amount, decimals: u32) -> String {
    let step = 10u128.pow(9 - decimals.min(9));
    let steps = (amount.nanos() + step / 2) / step;
    let tens = 10u128.pow(decimals.min(9));
    let (whole, rest) = (steps / tens, steps % tens);
    if rest == 0 {
        return whole.to_string();
    }
    let rest = format!("{rest:0width$}", width = decimals as usize);
    format!("{whole}.{}", rest.trim_end_matches('0'))
}

/// Rounded to so many decimals, all of them: what changes all the while keeps its width.
pub(in super::super) fn steady(amount: Amount, decimals: u32) -> String {
    let text = rounded(amount, decimals);
    let width = usize::try_from(decimals).unwrap_or(0);
    match text.split_once('.') {
        _ if width == 0 => text,
        Some((whole, rest)) => format!("{whole}.{rest:0<width$}"),
        None => format!("{text}.{:0<width$}", ""),
    }
}

/// `79.1 GiB`.
pub(in super::super) fn bytes(amount: Amount) -> String {
    match unit(amount) {
        Some((name, factor)) => {
            let decimals = decimals(amount, factor);
            format!("{} {name}", rounded(in_units(amount, factor), decimals))
        }
        None => format!("{} B", amount.whole_units()),
    }
}

/// `14.2/79.1 GiB`, in the unit of the second; what is not known is a dash.
pub(in super::super) fn used_of(used: Option<Amount>, of: Option<Amount>) -> String {
    match (used, of) {
        (None, None) => "–".into(),
        (None, Some(of)) => format!("–/{}", bytes(of)),
        (Some(used), None) => bytes(used),
        (Some(used), Some(of)) => match unit(of) {
            Some((_, factor)) => {
                let decimals = decimals(of, factor);
                let used = steady(in_units(used, factor), decimals);
                format!("{used}/{}", bytes(of))
            }
            None => format!("{}/{}", used.whole_units(), bytes(of)),
        },
    }
}

fn unit(amount: Amount) -> Option<(&'static str, u64)> {
    let bytes = amount.whole_units();
    UNITS.into_iter().find(|(_, factor)| bytes >= *factor)
}

fn in_units(amount: Amount, factor: u64) -> Amount {
    let scaled = amount.scaled(Amount::ONE, Amount::from_units(factor));
    scaled.unwrap_or(Amount::MAX)
}

/// One below a hundred.
fn decimals(amount: Amount, factor: u64) -> u32 {
    u32::from(in_units(amount, factor) < Amount::from_units(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gib(tenths: u64) -> Amount {
        Amount::from_units(tenths * (1 << 30) / 10)
    }

    #[test]
    fn amounts_are_short() {
        let round = |text: &str, n| rounded(text.parse().unwrap(), n);
        assert_eq!(round("0.25", 2), "0.25");
        assert_eq!(round("0.25", 1), "0.3");
        assert_eq!(round("16", 1), "16");
        assert_eq!(round("15.96", 1), "16");
        assert_eq!(round("0.05", 2), "0.05");
        assert_eq!(steady("1.5".parse().unwrap(), 2), "1.50");
        assert_eq!(steady(Amount::ONE, 1), "1.0");
        assert_eq!(steady(Amount::ONE, 0), "1");
        assert_eq!(bytes(Amount::from_units(512)), "512 B");
        assert_eq!(bytes(gib(791)), "79.1 GiB");
        assert_eq!(bytes(gib(5120)), "512 GiB");
    }

    #[test]
    fn what_is_used_is_in_the_unit_of_the_whole() {
        assert_eq!(used_of(Some(gib(142)), Some(gib(800))), "14.2/80 GiB");
        assert_eq!(used_of(Some(gib(140)), Some(gib(800))), "14.0/80 GiB");
        assert_eq!(used_of(Some(gib(1)), Some(gib(5120))), "0/512 GiB");
        assert_eq!(used_of(None, Some(gib(800))), "–/80 GiB");
        assert_eq!(used_of(Some(gib(2)), None), "205 MiB");
        assert_eq!(used_of(None, None), "–");
    }
}

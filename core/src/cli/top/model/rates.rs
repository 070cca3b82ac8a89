//! Rates from counters, and the past of some figures.

use std::collections::{BTreeMap, VecDeque};

use crate::model::Amount;

/// A rate is of at least this long: clocks and counters have steps.
const SPAN_MS: u64 = 900;
/// So many figures of the past are kept.
const PAST: usize = 40;

/// Counters, and how fast each grows.
#[derive(Debug, Default)]
pub(super) struct Rates {
    all: BTreeMap<(String, &'static str), Counter>,
    /// Those not noted since the last beginning are forgotten at the end.
    round: u64,
}

#[derive(Debug)]
struct Counter {
    at_ms: u64,
    value: Amount,
    rate: Option<Amount>,
    round: u64,
}

impl Rates {
    /// Counters come now.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// A counter had this value then.
    pub(super) fn note(&mut self, key: &str, counter: &'static str, at_ms: u64, value: Amount) {
        let round = self.round;
        let new = Counter {
            at_ms,
            value,
            rate: None,
            round,
        };
        let known = self
            .all
            .entry((key.to_owned(), counter))
            .or_insert_with(|| new);
        known.round = round;
        // A clock that was set back: nothing before says anything of now.
        if at_ms < known.at_ms {
            (known.at_ms, known.value, known.rate) = (at_ms, value, None);
        }
        let span = at_ms.saturating_sub(known.at_ms);
        if span < SPAN_MS {
            return;
        }
        // One that ran backwards began anew.
        let second = Amount::from_units(1000);
        known.rate = value
            .checked_sub(known.value)
            .and_then(|grown| grown.scaled(second, Amount::from_units(span)));
        (known.at_ms, known.value) = (at_ms, value);
    }

    /// All have come: those that did not are gone.
    pub(super) fn end(&mut self) {
        let round = self.round;
        self.all.retain(|_, counter| counter.round == round);
    }

    /// By how much it grows in a second.
    pub(super) fn get(&self, key: &str, counter: &'static str) -> Option<Amount> {
        self.all.get(&(key.to_owned(), counter))?.rate
    }

    /// When it was noted last with another value.
    pub(super) fn at_ms(&self, key: &str, counter: &'static str) -> Option<u64> {
        Some(self.all.get(&(key.to_owned(), counter))?.at_ms)
    }

    /// Is any rate of this counter known?
    pub(super) fn any(&self, counter: &'static str) -> bool {
        let mut of = self.all.iter().filter(|((_, name), _)| *name == counter);
        of.any(|(_, counter)| counter.rate.is_some())
    }
}

/// Figures of the past, in millionths, newest last.
#[derive(Debug, Default)]
pub(super) struct Histories(BTreeMap<String, (u64, VecDeque<u32>)>);

impl Histories {
    /// It was this then; the same measurement is noted once.
    pub(super) fn note(&mut self, key: &str, at_ms: u64, figure: u32) {
        let (last, past) = self.0.entry(key.to_owned()).or_default();
        if at_ms == *last {
            return;
        }
        // A clock that was set back begins another past.
        if at_ms < *last {
            past.clear();
        }
        *last = at_ms;
        past.push_back(figure);
        if past.len() > PAST {
            past.pop_front();
        }
    }

    pub(super) fn get(&self, key: &str) -> Vec<u32> {
        let past = self.0.get(key);
        past.map_or_else(Vec::new, |(_, past)| past.iter().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_is_a_difference_over_its_time() {
        let mut rates = Rates::default();
        let mut at = |ms, value| {
            rates.begin();
            rates.note("a", "x", ms, amount(value));
            rates.end();
            rates.get("a", "x")
        };
        assert_eq!(at(10_000, "5"), None);
        // Too soon: what is known stays.
        assert_eq!(at(10_100, "5.4"), None);
        assert_eq!(at(12_000, "8"), Some(amount("1.5")));
        assert_eq!(at(12_500, "9"), Some(amount("1.5")));
        assert_eq!(at(13_000, "9"), Some(amount("1")));
        // It began anew.
        assert_eq!(at(15_000, "1"), None);
        assert_eq!(at(16_000, "1"), Some(Amount::ZERO));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut rates = Rates::default();
        rates.begin();
        rates.note("a", "x", 1, Amount::ONE);
        rates.end();
        rates.begin();
        rates.end();
        rates.begin();
        rates.note("a", "x", 10_000, Amount::ONE);
        rates.end();
        assert_eq!(rates.get("a", "x"), None);
        assert!(!rates.any("x"));
    }

    #[test]
    fn a_measurement_is_noted_once() {
        let mut past = Histories::default();
        for (at, figure) in [(1, 10), (1, 10), (3, 30)] {
            past.note("a", at, figure);
        }
        assert_eq!(past.get("a"), [10, 30]);
        (4..100).for_each(|at| past.note("a", at, 0));
        assert_eq!(past.get("a").len(), PAST);
    }
}

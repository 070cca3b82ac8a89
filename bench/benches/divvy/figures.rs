//! Every single measurement, and the table at the end.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

/// Measurements by name, in the order in which they were begun. Criterion
/// reports averages of batches; the table's medians are of single calls.
#[derive(Debug, Default)]
pub(crate) struct Figures(RefCell<Vec<Figure>>, RefCell<Vec<String>>);

#[derive(Debug)]
struct Figure {
    name: String,
    target: Option<Duration>,
    samples: Vec<Duration>,
}

impl Figures {
    /// Adds something that is no time.
    pub(crate) fn note(&self, note: String) {
        self.1.borrow_mut().push(note);
    }

    /// Adds measurements of `name`; returns their sum, which is what
    /// criterion's `iter_custom` wants.
    pub(crate) fn add(
        &self,
        name: &str,
        target: Option<Duration>,
        samples: Vec<Duration>,
    ) -> Duration {
        let sum = samples.iter().sum();
        let mut all = self.0.borrow_mut();
        match all.iter_mut().find(|f| f.name == name) {
            Some(figure) => figure.samples.extend(samples),
            None => all.push(Figure {
                name: name.to_owned(),
                target,
                samples,
            }),
        }
        sum
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<28} {:>12} {:>12} {:>9}  {:>10}  met",
            "figure", "median", "p99", "samples", "target"
        )?;
        for figure in self.0.borrow().iter() {
            let median = quantile(&figure.samples, 50);
            let (target, met) = match figure.target {
                Some(target) if median <= target => (human(target), "yes"),
                Some(target) => (human(target), "NO"),
                None => ("-".into(), "-"),
            };
            writeln!(
                f,
                "{:<28} {:>12} {:>12} {:>9}  {:>10}  {met}",
                figure.name,
                human(median),
                human(quantile(&figure.samples, 99)),
                figure.samples.len(),
                target,
            )?;
        }
        for note in self.1.borrow().iter() {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

/// The value below which `percent` of the values lie.
pub(crate) fn quantile<T: Copy + Ord + Default>(values: &[T], percent: usize) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(last * percent / 100)
        .copied()
        .unwrap_or_default()
}

/// Three or four digits and a unit.
fn human(time: Duration) -> String {
    let ns = time.as_nanos();
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..1_000_000 => format!("{:.1} µs", time.as_secs_f64() * 1e6),
        _ => format!("{:.2} ms", time.as_secs_f64() * 1e3),
    }
}

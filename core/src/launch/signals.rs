//! Signals by name.

use rustix::process::Signal;

/// The number of a signal written as `SIGTERM`, `TERM`, `term` or `15`.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    (1..32)
        .filter_map(Signal::from_named_raw)
        .find(|s| signal_name(*s) == name)
        .map(Signal::as_raw)
}

/// `TERM` for SIGTERM.
#[must_use]
pub fn signal_name(signal: Signal) -> String {
    // rustix writes `Signal::SIGTERM` or similar, by version: take the word.
    let debug = format!("{signal:?}").to_ascii_uppercase();
    let word = debug.rsplit("::").next().unwrap_or(&debug);
    let word: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    word.strip_prefix("SIG").unwrap_or(&word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("KILL", Some(9)),
            ("USR1", Some(10)),
            ("2", Some(2)),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("", None),
        ] {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}

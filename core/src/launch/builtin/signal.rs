//! Signal names and numbers, as `runc kill` takes them.

use super::error::{Error, Result};

/// Largest signal number of Linux (`SIGRTMAX`).
const LAST: i32 = 64;

/// Linux signal numbers of x86_64, aarch64 and riscv64 (signal(7)).
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Reads `TERM`, `SIGTERM`, `sigterm` or `15`; real-time signals by number or
/// as `RTMIN+N`.
pub(super) fn parse(text: &str) -> Result<i32> {
    /// First real-time signal left over by glibc and musl.
    const RTMIN: i32 = 34;
    let unknown = || Error::Usage(format!("unknown signal {text:?}"));
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        *number
    } else if let Some(offset) = name.strip_prefix("RTMIN+") {
        RTMIN.saturating_add(offset.parse().map_err(|_| unknown())?)
    } else {
        upper.parse().map_err(|_| unknown())?
    };
    if (1..=LAST).contains(&number) {
        Ok(number)
    } else {
        Err(unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers_mean_the_same() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse(text).ok(), Some(15), "{text}");
        }
        assert_eq!(parse("KILL").ok(), Some(9));
        assert_eq!(parse("SIGRTMIN+3").ok(), Some(37));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "65",
            "-9",
            "SIG15",
            "TERMINATE",
            "SIG",
            "RTMIN+40",
            "RTMIN+99999999999",
        ] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }
}

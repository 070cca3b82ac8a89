//! XIDs: what the driver says happened to a GPU, and what follows.
//!
//! The table is NVIDIA's Xid catalog of 2026-09-15
//! (docs.nvidia.com/deploy/xid-errors, `Xid-Catalog.xlsx`, "Resolution Bucket
//! (Immediate Action)"), put into four outcomes. A number that is not in it closes
//! nothing: drivers gain numbers, and most are a program's fault. `cuda.xid` says
//! otherwise for single numbers.

use std::collections::BTreeMap;

use crate::error::Error;

/// What follows from an XID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Nothing: for the record.
    Ignore,
    /// A program's matter; the GPU is as good as before.
    Application,
    /// The GPU is not to be used until it was reset, or is found well.
    Reset,
    /// Somebody has to open the machine.
    Replace,
}

impl Outcome {
    const ALL: [(&'static str, Self); 4] = [
        ("ignore", Self::Ignore),
        ("application", Self::Application),
        ("reset", Self::Reset),
        ("replace", Self::Replace),
    ];

    /// Its word in `cuda.xid`.
    pub(crate) fn word(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(_, outcome)| *outcome == self)
            .map_or("", |(word, _)| word)
    }

    pub(crate) fn of(word: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(name, _)| *name == word)
            .map(|(_, outcome)| *outcome)
    }
}

use Outcome::{Application, Ignore, Replace, Reset};

/// The first and last number, what it is, and what follows.
type Row = (u64, u64, &'static str, Outcome);

/// "GPU has fallen off the bus": over as soon as the GPU answers.
pub(crate) const FALLEN: u64 = 79;

const TABLE: &[Row] = &[
    (
        8,
        8,
        "the GPU stopped processing for a program",
        Application,
    ),
    (11, 11, "a program's commands were corrupt", Application),
    (13, 13, "a program's kernel faulted", Application),
    (25, 25, "a program's commands were illegal", Application),
    (
        31,
        31,
        "a program used memory that it does not have",
        Application,
    ),
    (32, 32, "a program's commands were corrupt", Application),
    (37, 38, "the firmware reported an error and went on", Ignore),
    (39, 41, "a program's copy faulted", Application),
    (
        43,
        43,
        "a program's work was stopped after its fault",
        Application,
    ),
    (44, 44, "a fault while switching programs", Application),
    (
        45,
        45,
        "a program's work was removed after an earlier error",
        Application,
    ),
    (46, 46, "the GPU stopped processing", Reset),
    (48, 48, "an ECC error that could not be corrected", Reset),
    (
        54,
        54,
        "the board's auxiliary power is not connected",
        Replace,
    ),
    (60, 60, "a program's video work faulted", Application),
    (62, 62, "its power controller halted", Reset),
    (63, 63, "a row of memory is to be remapped", Ignore),
    (64, 64, "a row of memory could not be remapped", Reset),
    (
        66,
        67,
        "the driver made an illegal access and went on",
        Ignore,
    ),
    (68, 69, "a program's work faulted", Application),
    (70, 72, "a program's copy faulted", Application),
    (74, 74, "an NVLink error", Reset),
    (75, 77, "a program's copy faulted", Application),
    (78, 78, "a vGPU did not start", Ignore),
    (FALLEN, FALLEN, "it has fallen off the bus", Reset),
    (80, 80, "a program's commands arrived corrupt", Application),
    (82, 86, "a program's media work faulted", Application),
    (88, 89, "a program's media work faulted", Application),
    (92, 92, "many ECC errors that could be corrected", Ignore),
    (93, 93, "its information ROM was written very often", Ignore),
    (
        94,
        94,
        "a memory error that hit one program alone",
        Application,
    ),
    (
        95,
        95,
        "a memory error that may have hit any program",
        Reset,
    ),
    (96, 105, "a program's media work faulted", Application),
    (106, 107, "a test message", Ignore),
    (109, 109, "switching programs timed out", Reset),
    (110, 110, "a security fault", Reset),
    (
        119,
        120,
        "its system processor (GSP) does not answer",
        Reset,
    ),
    (
        121,
        121,
        "an error on the link to the processor, corrected",
        Ignore,
    ),
    (126, 135, "a program's copy faulted", Application),
    (136, 136, "a link could not be trained", Reset),
    (
        137,
        137,
        "a program's access over NVLink was refused",
        Ignore,
    ),
    (139, 139, "a program's media work faulted", Application),
    (140, 140, "an ECC error that could not be contained", Reset),
    (141, 141, "a program's launch took the slow path", Ignore),
    (142, 142, "a program's media work faulted", Application),
    (143, 143, "it could not be initialised", Reset),
    (144, 150, "an NVLink error", Reset),
    (151, 151, "a key could not be changed", Reset),
    (152, 153, "an error of another engine", Ignore),
    // The driver's own word for what to do is asked for at once: `nvml::Vitals::action`.
    (
        154,
        154,
        "the driver changed its mind on what to do with it",
        Ignore,
    ),
    (155, 156, "a part of it failed and is to be retired", Reset),
    (157, 157, "a part of it could not be retired", Ignore),
    (158, 158, "it timed out for good", Reset),
    (160, 161, "a channel of it was retired", Ignore),
    (
        162,
        166,
        "its power smoothing or link encryption changed",
        Ignore,
    ),
    (
        171,
        172,
        "more on an ECC error that could not be corrected",
        Ignore,
    ),
];

/// The numbers that the operator judges otherwise.
pub(crate) type Overrides = BTreeMap<u64, Outcome>;

/// Reads `63=reset,48=ignore`.
pub(crate) fn overrides(text: &str) -> Result<Overrides, Error> {
    let mut overrides = Overrides::new();
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let pair = item.split_once('=');
        let read = pair.and_then(|(code, outcome)| {
            Some((code.trim().parse().ok()?, Outcome::of(outcome.trim())?))
        });
        let (code, outcome) = read.ok_or_else(|| Error::BadXid(item.to_owned()))?;
        overrides.insert(code, outcome);
    }
    Ok(overrides)
}

/// What an XID is, in words, and what follows.
pub(crate) fn judge(code: u64, overrides: &Overrides) -> (&'static str, Outcome) {
    let row = TABLE
        .iter()
        .find(|(first, last, ..)| (*first..=*last).contains(&code));
    let (what, outcome) = row.map_or(
        (
            "an error that this version of the plugin does not know",
            Ignore,
        ),
        |(_, _, what, outcome)| (*what, *outcome),
    );
    (what, overrides.get(&code).copied().unwrap_or(outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_says_what_is_known() {
        assert!(TABLE.iter().all(|(first, last, ..)| first <= last));
        assert!(TABLE.is_sorted_by(|a, b| a.1 < b.0));
        let none = Overrides::new();
        for (code, outcome) in [
            (13, Application),
            (31, Application),
            (43, Application),
            (94, Application),
            (48, Reset),
            (79, Reset),
            (95, Reset),
            (109, Reset),
            (119, Reset),
            (63, Ignore),
            (54, Replace),
            (999, Ignore),
        ] {
            assert_eq!(judge(code, &none).1, outcome, "{code}");
        }
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let overrides = overrides(" 13=replace, 79 = ignore,").unwrap();
        assert_eq!(judge(13, &overrides).1, Replace);
        assert_eq!(judge(79, &overrides).1, Ignore);
        assert_eq!(judge(31, &overrides).1, Application);
        for wrong in ["13", "x=reset", "13=fatal", "=", "13=reset;14=reset"] {
            let error = super::overrides(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
        for (word, outcome) in Outcome::ALL {
            assert_eq!(outcome.word(), word);
        }
    }
}

//! `cargo xtask soak`: random kills of everything that Divvy starts, under load.
//!
//! The harness is `tests/src/soak.rs`; the tests themselves kill two hundred
//! times. A seed shows the same load again, not the same race.

use anyhow::Result;

use crate::shell::{self, say};

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Soak<'a> {
    /// How many kills.
    pub(crate) kills: u32,
    /// Where all choices come from; the clock, if none is given.
    pub(crate) seed: Option<u64>,
    /// The launcher, as `divvy run --launcher` names it.
    pub(crate) launcher: &'a str,
}

/// Kills; fails if a slice was lost or doubled, or a job disturbed.
pub(crate) fn run(soak: &Soak<'_>) -> Result<()> {
    say(format_args!(
        "{} random kills with the launcher {}",
        soak.kills, soak.launcher
    ));
    // What the tests start must be as new as the tests.
    shell::run(&mut shell::cargo(["build", "--workspace", "--locked"])?)?;
    let mut test = shell::cargo(["test", "--locked", "--package", "divvy-tests"])?;
    test.args(["--test", "soak", "--", "--ignored", "--nocapture"])
        .env("DIVVY_SOAK_KILLS", soak.kills.to_string())
        .env("DIVVY_SOAK_LAUNCHER", soak.launcher)
        // Skipped would look like passed.
        .env("DIVVY_TESTS_REQUIRE", "all");
    if let Some(seed) = soak.seed {
        test.env("DIVVY_SOAK_SEED", seed.to_string());
    }
    shell::run(&mut test)
}

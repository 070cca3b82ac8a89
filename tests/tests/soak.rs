//! Random kills under load; `cargo xtask soak` does it for longer.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::time::Duration;

use divvy_tests::requires;
use divvy_tests::rootfs::{machine, runtimes};
use divvy_tests::soak::{Plan, Victim, soak};

/// What the environment says, or so.
fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
        Err(_) => otherwise,
    }
}

fn plan(kills: u32) -> Plan {
    use Victim::{Command, Host, Monitor, Runtime};
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    Plan {
        seed: number("DIVVY_SOAK_SEED", now),
        kills,
        victims: vec![
            Command, Command, Command, Command, Monitor, Monitor, Monitor, Host, Runtime, Runtime,
        ],
        runtimes: runtimes(),
        options: std::env::var("DIVVY_SOAK_LAUNCHER")
            .map(|launcher| format!("--launcher {launcher}"))
            .unwrap_or_default(),
        people: 3,
        pause: Duration::from_millis(120),
    }
}

#[test]
fn two_hundred_random_kills_under_load_lose_no_slice_and_disturb_no_job() {
    requires!(root);
    let machine = machine();
    let report = soak(&machine, &plan(200));
    println!("{report}");
    assert_eq!(report.kills.values().sum::<u32>(), 200);
    assert!(
        report.kills.len() >= 3,
        "who was killed: {:?}",
        report.kills
    );
    assert!(report.workloads > 50, "{report}");
}

/// As long as `DIVVY_SOAK_KILLS` says: what `cargo xtask soak` runs.
#[test]
#[ignore = "long; `cargo xtask soak` runs it"]
fn as_many_random_kills_as_asked_for() {
    let kills = u32::try_from(number("DIVVY_SOAK_KILLS", 1000)).unwrap();
    let machine = machine();
    let report = soak(&machine, &plan(kills));
    println!("{report}");
    assert_eq!(report.kills.values().sum::<u32>(), kills);
}

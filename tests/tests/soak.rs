//! Random kills under load; `cargo xtask soak` does it for longer.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::time::{Duration, Instant};

use divvy::agent::{Agent, Settings};
use divvy::model::State;
use divvy_tests::dockerd::Docked;
use divvy_tests::rootfs::{kill, machine, monitors, program, runtimes, start};
use divvy_tests::soak::{Plan, Victim, soak};
use divvy_tests::state::snapshot;
use divvy_tests::{eventually, requires};

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
    use Victim::{Agent, Command, Host, Monitor, Runtime};
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    Plan {
        seed: number("DIVVY_SOAK_SEED", now),
        kills,
        victims: vec![
            Command, Command, Command, Command, Monitor, Monitor, Monitor, Host, Runtime, Runtime,
            Agent, Agent,
        ],
        runtimes: runtimes(),
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
    let mut plan = plan(kills);
    let report = match std::env::var("DIVVY_SOAK_LAUNCHER").as_deref() {
        Ok("docker") => {
            requires!(dockerd);
            plan.on_an_engine();
            soak(&Docked::new().machine, &plan)
        }
        _ => soak(&machine(), &plan),
    };
    println!("{report}");
    assert_eq!(report.kills.values().sum::<u32>(), kills);
}

#[test]
#[ignore = "long; `cargo xtask soak` runs it"]
fn two_hundred_jobs_that_lost_their_monitors_are_followed_again_in_two_seconds() {
    requires!(root);
    let machine = machine();
    for number in 0..200 {
        let options = "--cpu 0.01 --mem 8MiB";
        start(
            &machine,
            "built-in",
            &format!("j{number}"),
            options,
            "exec sleep 3600",
        );
    }
    let before: Vec<Option<u32>> = snapshot(&machine).iter().map(|r| r.pid).collect();
    let settings = Settings {
        docker_socket: None,
        machine: None,
        agent_socket: None,
        state: machine.state(),
        exe: program(),
        plugins: divvy::plugin::Settings {
            folder: Some(machine.plugin_folder()),
            exe: program(),
            set: Default::default(),
            history: None,
        },
    };
    let agent = Agent::open(settings).unwrap();
    let recover = || {
        let began = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(agent.recover()).unwrap();
        began.elapsed()
    };
    let idle = recover();
    for pid in monitors(&machine) {
        kill(pid);
    }
    assert!(eventually(|| monitors(&machine).is_empty()));
    let took = recover();
    println!("200 jobs: {idle:?} with nothing to do, {took:?} without monitors");
    let followed = eventually(|| monitors(&machine).len() == 200);
    let after = snapshot(&machine);
    // Before anything is judged: so many are too many for one call at the end.
    let names: Vec<String> = after.iter().map(|r| r.name.clone()).collect();
    for some in names.chunks(20) {
        machine.divvy("rm -f").args(some).run().succeeds();
    }
    assert!(followed, "not all have a monitor");
    assert!(after.iter().all(|r| r.state == State::Running));
    assert_eq!(after.iter().map(|r| r.pid).collect::<Vec<_>>(), before);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

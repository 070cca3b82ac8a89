//! A share is what was asked for: measured under full load, by the kernel's
//! own count of CPU time, as each record keeps it.
//!
//! The machine must do nothing else meanwhile: this binary runs alone
//! (`.config/nextest.toml`), one test at a time, and a measurement during
//! which something else took CPU time is taken again.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use divvy_tests::dockerd::Docked;
use divvy_tests::rootfs::{ended, machine, nothing_is_left, runtimes, start};
use divvy_tests::{needs, requires};

/// `cargo test` runs tests of one binary at once.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the load lasts.
const LOAD_S: u64 = 9;
/// Measured again at most so often, if something else was running.
const TRIES: u32 = 3;
/// What everything else on the machine may take of one core meanwhile.
const NOISE: f64 = 0.03;

/// Runs busy workloads, one for each pair of cores and processes, all at once;
/// each must have used its share of CPU time, within this part of it.
#[track_caller]
fn each_gets_its_share(runtime: &str, workloads: &[(f64, u32)], within: f64) {
    let mut noise = 0.0;
    for _ in 0..TRIES {
        let shares;
        (shares, noise) = measure(runtime, workloads);
        let wrong = workloads
            .iter()
            .zip(&shares)
            .any(|((asked, _), used)| (used / asked - 1.0).abs() > within);
        if wrong && noise > NOISE {
            eprintln!("something else took {noise:.3} cores; measuring again ({shares:.3?})");
            thread::sleep(Duration::from_secs(2));
            continue;
        }
        assert!(
            !wrong,
            "with {runtime}, of {workloads:?} (cores, processes) each should use its cores \
             within {within}; used were {shares:.4?}, and {noise:.4} by others"
        );
        println!("{runtime}: {workloads:?} used {shares:.4?}; others {noise:.4}");
        return;
    }
    panic!("the machine is not quiet: something else takes {noise:.3} cores");
}

/// CPU seconds per second of each workload, and of everything else. The
/// runtime `docker` is an engine of its own.
fn measure(runtime: &str, workloads: &[(f64, u32)]) -> (Vec<f64>, f64) {
    let docked = (runtime == "docker").then(Docked::new);
    let own;
    let machine = match &docked {
        Some(docked) => &docked.machine,
        None => {
            own = machine();
            &own
        }
    };
    for (n, (cores, processes)) in workloads.iter().enumerate() {
        let busy = "(while :; do :; done) & ".repeat(usize::try_from(*processes).unwrap_or(1));
        let script = format!("{busy} sleep {LOAD_S}");
        let (name, cpu) = (format!("n{n}"), format!("--cpu {cores}"));
        match &docked {
            Some(docked) => {
                let job = docked.job(&format!("-d --name {name} {cpu}"), &script);
                job.run().succeeds();
            }
            None => start(machine, runtime, &name, &cpu, &script),
        }
    }
    // The middle of the load, when all run and no command of ours does: what
    // starting and ending the others takes is nobody's share.
    thread::sleep(Duration::from_millis(500));
    let ids: Vec<String> = (0..workloads.len()).map(|n| id(machine, n)).collect();
    let window = Duration::from_secs(LOAD_S - 3);
    let began = std::time::Instant::now();
    let (all, before) = (busy_s(), used_s(&ids));
    thread::sleep(window);
    let (all, after) = (busy_s() - all, used_s(&ids));
    let took = began.elapsed().as_secs_f64();
    let used: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    let others = all - used.iter().sum::<f64>();
    for n in 0..workloads.len() {
        let _ = ended(machine, &format!("n{n}"));
    }
    nothing_is_left(machine);
    (used.iter().map(|u| u / took).collect(), others / took)
}

/// The name of the n-th workload's cgroup.
fn id(machine: &divvy_tests::Machine, n: usize) -> String {
    let shown = machine.divvy(&format!("--json describe n{n}")).run().json();
    let workload = &shown["workload"];
    let by_engine = workload["container_id"].as_str();
    by_engine
        .or(workload["id"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// CPU seconds of everything on this machine since it started: `/proc/stat`,
/// all but idle and waiting, in hundredths (proc(5)).
fn busy_s() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let fields = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1);
    let counts: Vec<f64> = fields.filter_map(|f| f.parse().ok()).collect();
    // user nice system - - irq softirq steal; the guests' are in user.
    [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|n| counts.get(*n))
        .sum::<f64>()
        / 100.0
}

/// CPU seconds of each workload so far.
fn used_s(ids: &[String]) -> Vec<f64> {
    let used = |id: &String| {
        let folders = divvy_tests::rootfs::cgroups(id);
        let read = |file: &str| {
            folders
                .iter()
                .find_map(|f| fs::read_to_string(f.join(file)).ok())
        };
        if let Some(ns) = read("cpuacct.usage") {
            return ns.trim().parse::<f64>().unwrap_or(0.0) / 1e9;
        }
        let stat = read("cpu.stat").unwrap_or_default();
        let us = stat
            .lines()
            .find_map(|l| l.strip_prefix("usage_usec ")?.parse::<f64>().ok());
        us.unwrap_or(0.0) / 1e6
    };
    ids.iter().map(used).collect()
}

fn two_cores() -> Result<(), &'static str> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (cores >= 2)
        .then_some(())
        .ok_or("a machine with two cores or more")
}

/// Waits until nothing else runs.
fn quiet() -> Result<(), &'static str> {
    for _ in 0..40 {
        let before = busy_s();
        thread::sleep(Duration::from_millis(500));
        if (busy_s() - before) / 0.5 <= 2.0 * NOISE {
            return Ok(());
        }
    }
    Err("a machine that does nothing else")
}

macro_rules! quiet {
    () => {
        requires!(root);
        let _alone = alone();
        for (thing, need) in [("two cores", two_cores as fn() -> _), ("quiet", quiet)] {
            if let Err(remedy) = need() {
                return needs::skip(thing, remedy);
            }
        }
    };
}

#[test]
fn two_halves_and_a_whole_core_each_get_their_own_under_full_load() {
    quiet!();
    for runtime in runtimes() {
        each_gets_its_share(runtime, &[(0.5, 2), (0.5, 2), (1.0, 3)], 0.05);
    }
}

#[test]
fn two_halves_and_a_whole_core_each_get_their_own_by_an_engine_too() {
    quiet!();
    requires!(dockerd);
    each_gets_its_share("docker", &[(0.5, 2), (0.5, 2), (1.0, 3)], 0.05);
}

#[test]
fn a_core_and_a_half_beside_a_half_each_get_their_own_under_full_load() {
    quiet!();
    for runtime in runtimes() {
        each_gets_its_share(runtime, &[(1.5, 3), (0.5, 2)], 0.05);
    }
}

#[test]
fn two_processes_in_half_a_core_get_half_a_core() {
    quiet!();
    for runtime in runtimes() {
        each_gets_its_share(runtime, &[(0.5, 2)], 0.03);
    }
}

#[test]
fn many_processes_in_a_small_share_get_that_share() {
    quiet!();
    each_gets_its_share(runtimes()[0], &[(0.1, 8), (0.25, 1)], 0.05);
}

//! Whatever is killed, and whenever: the workload stays owned, or nothing of
//! it is left.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use divvy_tests::rootfs::{
    ended, held, ids, job, kill, machine, monitors, nothing_is_left, nothing_is_left_of, record,
    records, runtimes, sh, start, text,
};
use divvy_tests::{Machine, eventually, requires};

/// Counts to thirty in three seconds, and ends with 7.
const COUNT: &str = "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo $i; sleep 0.1; done; exit 7";

fn counted() -> String {
    (1..=30).map(|n| format!("{n}\n")).collect()
}

#[track_caller]
fn wait_until_it_prints(machine: &Machine, name: &str) {
    let prints = || {
        let logs = machine.divvy("logs").arg(name).run();
        logs.code == 0 && !logs.stdout.is_empty()
    };
    assert!(eventually(prints), "{name} prints nothing");
}

/// Kills the monitor of the only workload, and waits until it is dead.
#[track_caller]
fn kill_the_monitor(machine: &Machine) {
    let found = monitors(machine);
    assert_eq!(found.len(), 1, "its monitors are {found:?}");
    kill(found[0]);
    assert!(
        eventually(|| !monitors(machine).contains(&found[0])),
        "it does not die"
    );
}

#[test]
fn a_workload_outlives_the_command_that_started_it() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let command = job(&machine, runtime, "--cpu 1 --name w").args(["--", "sh", "-c", COUNT]);
        let command = command.spawn();
        wait_until_it_prints(&machine, "w");
        command.kill();

        let now = record(&machine, "w");
        assert_eq!(now["state"], "running", "{now:#}");
        let pid = now["pid"].as_u64().expect("a pid");
        assert!(
            std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} is gone"
        );
        assert!(
            held(&machine).iter().any(|h| h.ends_with("cores 1")),
            "{:?}",
            held(&machine)
        );
        assert_eq!(monitors(&machine).len(), 1, "it is owned");
        machine.divvy("state check").run().succeeds();

        let then = ended(&machine, "w");
        assert_eq!(then["exit"]["code"], 7, "{then:#}");
        let logs = machine.divvy("logs w").run().succeeds();
        assert_eq!(logs.stdout, counted(), "{logs}");
        nothing_is_left(&machine);
    }
}

#[test]
fn a_workload_whose_monitor_was_killed_is_adopted_by_the_next_command() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        start(&machine, runtime, "w", "", COUNT);
        wait_until_it_prints(&machine, "w");
        kill_the_monitor(&machine);

        assert_eq!(record(&machine, "w")["state"], "running");
        assert_eq!(monitors(&machine).len(), 1, "it has another");

        let then = ended(&machine, "w");
        let logs = machine.divvy("logs w").run().succeeds();
        assert_eq!(
            logs.stdout,
            counted(),
            "nothing is lost and nothing comes twice\n{logs}"
        );
        // It was not the second monitor's child: nobody could know its code.
        assert_eq!(then["exit"]["code"], serde_json::Value::Null, "{then:#}");
        assert!(
            text(&then["exit"]["reason"]).contains("monitor was killed"),
            "{then:#}"
        );
        nothing_is_left(&machine);
    }
}

#[test]
fn a_workload_that_was_adopted_can_be_stopped() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        start(&machine, runtime, "w", "", "echo here; exec sleep 60");
        wait_until_it_prints(&machine, "w");
        kill_the_monitor(&machine);
        machine.divvy("stop -t 5 w").run().succeeds();
        assert_eq!(record(&machine, "w")["state"], "exited");
        nothing_is_left(&machine);
    }
}

#[test]
fn a_workload_outlives_its_command_and_its_monitor() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let command = job(&machine, runtime, "--name w")
            .args(["--", "sh", "-c", COUNT])
            .spawn();
        wait_until_it_prints(&machine, "w");
        command.kill();
        kill_the_monitor(&machine);
        assert_eq!(record(&machine, "w")["state"], "running");
        let then = ended(&machine, "w");
        let logs = machine.divvy("logs w").run().succeeds();
        assert_eq!(logs.stdout, counted(), "{then:#}\n{logs}");
        nothing_is_left(&machine);
    }
}

#[test]
fn a_workload_that_ended_without_a_monitor_gives_its_slices_back() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        start(&machine, runtime, "w", "--cpu 2", "echo here; sleep 0.6");
        wait_until_it_prints(&machine, "w");
        kill_the_monitor(&machine);
        thread::sleep(Duration::from_millis(900));
        let then = ended(&machine, "w");
        assert!(
            text(&then["exit"]["reason"]).contains("monitor was killed"),
            "{then:#}"
        );
        nothing_is_left(&machine);
        sh(&machine, runtime, "--cpu 2", "true").succeeds();
    }
}

/// Sees every workload folder that is ever made.
struct Watch {
    seen: Arc<Mutex<BTreeSet<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    fn over(machine: &Machine) -> Self {
        let (seen, over) = (
            Arc::new(Mutex::new(BTreeSet::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let folder = machine.state().join("workloads");
        let (s, o) = (Arc::clone(&seen), Arc::clone(&over));
        let thread = thread::spawn(move || {
            while !o.load(Ordering::Relaxed) {
                let now = std::fs::read_dir(&folder)
                    .into_iter()
                    .flatten()
                    .filter_map(Result::ok);
                let now: Vec<_> = now
                    .map(|e| e.file_name().to_string_lossy().into_owned())
                    .collect();
                s.lock().unwrap().extend(now);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            seen,
            over,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> BTreeSet<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map(thread::JoinHandle::join);
        self.seen.lock().unwrap().clone()
    }
}

#[test]
fn a_command_killed_at_any_moment_leaves_nothing_half_done() {
    requires!(root);
    let machine = machine();
    let runtimes = runtimes();
    // Once in peace: the runtime is probed, the folder is made.
    sh(&machine, runtimes[0], "", "true").succeeds();
    let watch = Watch::over(&machine);
    for step in 0u64..40 {
        let runtime = runtimes[usize::try_from(step).unwrap() % runtimes.len()];
        let command = job(&machine, runtime, "--cpu 2")
            .args(["--", "sleep", "0.2"])
            .spawn();
        // Every moment from 0 to 200 ms, in no order.
        thread::sleep(Duration::from_millis(step * 73 % 40 * 5));
        command.kill();
        // What holds slices has a process; who is carried away comes back.
        let settled = eventually(|| {
            records(&machine).iter().all(|r| match text(&r["state"]) {
                "running" => r["pid"]
                    .as_u64()
                    .is_some_and(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()),
                "exited" => true,
                _ => false,
            })
        });
        assert!(settled, "step {step}: {:#?}", records(&machine));
        assert!(
            eventually(|| held(&machine).is_empty()),
            "step {step}: {:#?}",
            records(&machine)
        );
    }
    let seen = watch.end();
    // A folder without a record is left alone while it is young: its command
    // may be about to write one.
    for id in ids(&machine) {
        let folder = machine.state().join("workloads").join(id);
        let aged = Command::new("touch")
            .args(["-d", "5 minutes ago"])
            .arg(folder)
            .status();
        assert!(aged.is_ok_and(|s| s.success()), "touch");
    }
    machine.divvy("ps").run().succeeds();
    for id in records(&machine).iter().map(|r| text(&r["id"]).to_owned()) {
        assert!(ids(&machine).contains(&id), "the record {id} has no folder");
    }
    nothing_is_left_of(&machine, &seen);
    machine
        .divvy("state check")
        .run()
        .succeeds()
        .says("all well");
}

#[test]
fn a_plugin_host_killed_at_any_moment_costs_an_error_but_never_a_limit() {
    requires!(root);
    let runtimes = runtimes();
    let (mut succeeded, mut failed, mut killed) = (0, 0, 0);
    for step in 0..16u64 {
        // A machine each: a plugin that crashes often is left alone for a while.
        let machine = machine();
        let runtime = runtimes[usize::try_from(step).unwrap() % runtimes.len()];
        let script = "grep Cpus_allowed_list /proc/self/status";
        let job = job(&machine, runtime, "--cpu 1 --name w").args(["--", "sh", "-c", script]);
        let job = job.spawn();
        thread::sleep(Duration::from_millis(step * 12));
        // The command's, or later the monitor's that releases.
        let caught = eventually(|| {
            let hosts = machine.hosts();
            hosts.iter().for_each(|pid| kill(*pid));
            !hosts.is_empty() || step > 8
        });
        killed += u32::from(caught);
        let output = job.output();
        if output.code == 0 {
            succeeded += 1;
            let list = output.stdout.trim().rsplit('\t').next().unwrap_or_default();
            assert!(
                list.parse::<u32>().is_ok(),
                "one core and no more\n{output}"
            );
        } else {
            failed += 1;
            let output = output.exits(125);
            assert!(output.stderr.contains("plugin"), "who failed\n{output}");
            assert!(output.stderr.trim_end().ends_with(']'), "a code\n{output}");
            assert_eq!(output.stdout, "", "nothing ran\n{output}");
        }
        // What could not be released then is released now.
        assert!(
            eventually(|| held(&machine).is_empty()),
            "step {step}: {:#?}",
            records(&machine)
        );
        nothing_is_left(&machine);
    }
    assert!(killed > 8, "hosts were caught {killed} times");
    println!("{succeeded} succeeded, {failed} failed, of {killed}");
}

/// `count` commands in the same instant; the exit codes and errors.
fn at_once(
    machine: &Machine,
    runtime: &'static str,
    count: usize,
    options: &str,
) -> Vec<divvy_tests::Output> {
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        let all: Vec<_> = (0..count)
            .map(|n| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let job = job(machine, runtime, &format!("-d --name n{n} {options}"));
                    let job = job.args(["--", "sleep", "30"]);
                    barrier.wait();
                    job.run()
                })
            })
            .collect();
        all.into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    })
}

#[test]
fn of_eight_that_ask_for_half_a_core_at_once_as_many_get_it_as_there_are_halves() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let cores = cores(&machine);
        let outputs = at_once(&machine, runtime, cores * 4, "--cpu 0.5");
        let (won, lost): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|o| o.code == 0);
        assert_eq!(won.len(), cores * 2, "{lost:#?}");
        for output in lost {
            output.exits(125).complains("[insufficient]");
        }
        let full = held(&machine)
            .iter()
            .filter(|h| h.ends_with(" cores 1"))
            .count();
        assert_eq!(
            full,
            cores,
            "every core is full and none more: {:?}",
            held(&machine)
        );
        machine
            .divvy("rm -f")
            .args(
                (0..cores * 4)
                    .map(|n| format!("n{n}"))
                    .filter(|n| records(&machine).iter().any(|r| r["name"] == n.as_str())),
            )
            .run()
            .succeeds();
        nothing_is_left(&machine);
    }
}

#[test]
fn of_two_that_ask_for_most_of_the_machine_at_once_one_gets_it() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let most = format!("--cpu {}.5", cores(&machine) - 1);
        let outputs = at_once(&machine, runtime, 2, &most);
        let codes: BTreeSet<i32> = outputs.iter().map(|o| o.code).collect();
        assert_eq!(codes, BTreeSet::from([0, 125]), "{outputs:#?}");
    }
}

fn cores(machine: &Machine) -> usize {
    let answer = machine.divvy("--json devices").run().succeeds().json();
    let devices = answer["devices"].as_array().expect("devices").clone();
    devices
        .iter()
        .filter(|d| d["usage"]["cores"]["total"] == "1")
        .count()
}

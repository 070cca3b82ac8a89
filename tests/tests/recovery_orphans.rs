//! A monitor is killed while its call of the OCI runtime is under way: the call
//! goes on without it, and what it does must not be missed.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use divvy_tests::rootfs::{
    cgroups, ids, job, machine, monitors, nothing_is_left_of, record, records, text,
};
use divvy_tests::state::audit;
use divvy_tests::{Machine, Output, eventually, requires};

/// runc, but slow: it has read the bundle long before it makes the container,
/// and waits before it starts it.
fn slow_runc(machine: &Machine) -> PathBuf {
    let program = machine.path().join("slow-runc");
    let script = "\
#!/bin/sh
case \" $* \" in
*' create '*)
    copy=$(dirname $0)/copy.$$
    for word; do
        [ \"$before\" = --bundle ] && cp -r $word $copy && word=$copy
        before=$word
        set -- \"$@\" \"$word\"; shift
    done
    sleep 0.5;;
*' start '*) sleep 0.5;;
esac
exec runc \"$@\"
";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// Starts a job under a monitor that dies at this point.
fn with_a_monitor_that_dies_at(machine: &Machine, runtime: &str, point: &str) -> Output {
    let marks = machine.path().join("marks");
    fs::create_dir(&marks).unwrap();
    let slow = slow_runc(machine).display().to_string();
    let runtime = if runtime == "slow" { &slow } else { runtime };
    let job = job(machine, runtime, "-d --name w --cpu 1");
    let job = job.args(["--", "sleep", "600"]);
    let output = job
        .env("DIVVY_FAILPOINT", point)
        .env("DIVVY_FAILPOINT_MARKS", marks.to_str().unwrap())
        .run();
    assert!(
        marks.join(point).exists(),
        "{point} was not reached\n{output}"
    );
    output
}

#[test]
fn a_container_that_is_made_after_its_monitor_died_is_deleted() {
    requires!(root, runc);
    let machine = machine();
    let output = with_a_monitor_that_dies_at(&machine, "slow", "monitor.creates");
    output.exits(125).complains("its monitor ended");
    assert_eq!(records(&machine), Vec::<serde_json::Value>::new());
    // Longer than the runtime's call takes.
    std::thread::sleep(Duration::from_millis(700));
    nothing_is_left_of(&machine, &ids(&machine));
    let runtime = fs::read_dir(machine.state().join("runtime")).unwrap();
    assert_eq!(runtime.count(), 0, "the runtime remembers it");
}

#[test]
fn a_container_that_is_made_after_its_monitor_and_command_died_is_deleted() {
    requires!(root, runc);
    let machine = machine();
    // The command dies where the monitor has just been started.
    let output = with_a_monitor_that_dies_at(&machine, "slow", "run.monitored");
    output.exits(137);
    // The monitor is about to call the runtime, or does.
    let id = ids(&machine).into_iter().next().expect("a folder");
    assert!(eventually(|| monitors(&machine).len() == 1));
    std::thread::sleep(Duration::from_millis(150));
    for pid in monitors(&machine) {
        divvy_tests::rootfs::kill(pid);
    }
    assert!(eventually(|| records(&machine).is_empty()));
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(cgroups(&id), Vec::<PathBuf>::new());
    nothing_is_left_of(&machine, &[id].into());
}

#[test]
fn a_job_that_is_started_after_its_monitor_died_is_followed() {
    requires!(root, runc);
    let machine = machine();
    let output = with_a_monitor_that_dies_at(&machine, "slow", "monitor.starts");
    output.exits(125);
    let now = record(&machine, "w");
    assert_eq!(text(&now["state"]), "running", "{now:#}");
    let line = || fs::read_to_string(format!("/proc/{}/cmdline", now["pid"])).unwrap();
    let runs = eventually(|| line().starts_with("/dev/divvy-init"));
    assert!(runs, "it is {:?}", line());
    assert_eq!(monitors(&machine).len(), 1, "it is followed");
    audit(&machine);
    machine.divvy("stop -t 0 w").run().succeeds();
}

#[test]
fn a_job_that_was_never_started_is_settled_at_once_and_says_so() {
    requires!(root, runc);
    for runtime in ["built-in", "slow"] {
        let machine = machine();
        let output = with_a_monitor_that_dies_at(&machine, runtime, "monitor.go");
        output.exits(125);
        let began = Instant::now();
        let now = record(&machine, "w");
        // The process that waits is no call of a runtime to be waited for.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "it took {took:?}");
        assert_eq!(text(&now["state"]), "exited", "{now:#}");
        assert!(
            text(&now["exit"]["reason"]).contains("it never ran"),
            "{now:#}"
        );
        divvy_tests::rootfs::nothing_is_left(&machine);
    }
}

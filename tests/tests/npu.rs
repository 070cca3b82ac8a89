//! A plugin from outside: the example in `examples/plugin-npu`, built by its own
//! workspace, with devices of its own; used, pulled out, replaced, ill.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use divvy_tests::npu::{self, Npus};
use divvy_tests::rootfs::{
    cgroups, ended, job, kill, nothing_is_left, record, records, runtimes, text,
};
use divvy_tests::{Machine, Output, needs, requires};
use rustix::fs::{FileType, Mode, makedev, mknodat};
use serde_json::Value;

/// A character device that no driver has: majors 240 to 254 are for local use
/// (kernel: Documentation/admin-guide/devices.txt). Who may open it is told
/// `ENXIO` by the kernel, who may not, `EPERM` by the cgroup before that.
const NOBODYS: [&str; 2] = ["240:7", "240:8"];

/// A machine with the CPU plugin, the example, and two units.
fn given() -> (Machine, Npus) {
    let machine = divvy_tests::rootfs::machine();
    machine.install("npu", &fs::read(npu::built()).unwrap());
    let npus = Npus::new(&machine);
    npus.plug("npu0", "NPU-7A01", NOBODYS[0]);
    npus.plug("npu1", "NPU-7A02", NOBODYS[1]);
    (machine, npus)
}

fn runs(machine: &Machine, npus: &Npus, runtime: &str, options: &str, script: &str) -> Output {
    let options = format!("{} {options}", npus.setting());
    job(machine, runtime, &options)
        .args(["--", "sh", "-c", script])
        .run()
}

/// A job in the background that has what it asks for until it is stopped.
#[track_caller]
fn holds(machine: &Machine, npus: &Npus, name: &str, asks: &str) {
    let options = format!("-d --name {name} --slot {asks}");
    let script = "echo $NPU_CORES; exec sleep 600";
    runs(machine, npus, "built-in", &options, script).succeeds();
}

/// One device, as `divvy devices` shows it; `None` if it is not there.
fn device(machine: &Machine, npus: &Npus, id: &str) -> Option<Value> {
    let divvy = machine.divvy("--json devices").arg(npus.setting());
    let answer = divvy.run().succeeds().json();
    let devices = answer["devices"].as_array().unwrap().clone();
    devices.into_iter().find(|device| device["id"] == id)
}

/// How many cores of a unit are held.
fn used(machine: &Machine, npus: &Npus, id: &str) -> String {
    let device = device(machine, npus, id).unwrap();
    text(&device["usage"]["cores"]["used"]).to_owned()
}

#[track_caller]
fn is_refused(output: Output, words: &str) {
    output.exits(125).complains(words);
}

#[test]
fn it_is_loaded_and_its_devices_are_listed() {
    let (machine, npus) = given();
    machine
        .divvy("plugin list")
        .arg(npus.setting())
        .run()
        .succeeds()
        .says("npu   0.1.0")
        .says("npu.device npu.cores");
    let unit = device(&machine, &npus, "NPU-7A01").unwrap();
    assert_eq!(unit["health"]["state"], "healthy");
    assert_eq!(unit["nodes"][0]["major"], 240);
    assert_eq!(unit["capacities"]["cores"]["total"], "8");
}

#[test]
fn a_container_has_its_unit_and_no_other() {
    requires!(root);
    for runtime in runtimes() {
        let (machine, npus) = given();
        let script = "
            ls /dev | grep npu
            (: <> /dev/npu0)
            mknod /dev/npu9 c 240 8 || echo cannot make
            echo $NPU_CORES";
        let options = "--slot npu.device=1";
        let output = runs(&machine, &npus, runtime, options, script).succeeds();
        assert_eq!(
            output.stdout, "npu0\ncannot make\nNPU-7A01:0,1,2,3,4,5,6,7\n",
            "{output}"
        );
        // The driver's answer, and not the cgroup's.
        output.complains("/dev/npu0: No such device or address");
        assert_eq!(npus.claims(), Vec::<String>::new());
        nothing_is_left(&machine);
    }
}

/// A driver that is there, and can be opened without consequence.
fn harmless() -> Option<String> {
    let misc = fs::read_to_string("/proc/misc").ok()?;
    let number = |name: &str| {
        let line = misc
            .lines()
            .find(|l| l.split_whitespace().nth(1) == Some(name))?;
        // Misc devices have major 10 (kernel: include/uapi/linux/major.h).
        Some(format!("10:{}", line.split_whitespace().next()?))
    };
    ["fuse", "loop-control", "btrfs-control"]
        .into_iter()
        .find_map(number)
}

#[test]
fn a_unit_with_a_driver_is_opened_in_the_container() {
    requires!(root);
    let Some(dev) = harmless() else {
        needs::skip("a driver", "modprobe fuse");
        return;
    };
    for runtime in runtimes() {
        let (machine, npus) = given();
        npus.unplug("npu0");
        npus.plug("npu0", "NPU-7A01", &dev);
        let script = "exec 3<> /dev/npu0 && readlink /proc/self/fd/3";
        let options = "--slot npu.device=1 --where device.id=='NPU-7A01'";
        let output = runs(&machine, &npus, runtime, options, script).succeeds();
        assert_eq!(output.stdout, "/dev/npu0\n", "{output}");
    }
}

/// The cgroup of a workload that decides about devices. On version 2 the built-in
/// runtime installs no filter (ARCHITECTURE.md, weak points).
fn device_rules(id: &str, runtime: &str) -> Option<PathBuf> {
    let folders = cgroups(id);
    let version_1 = folders
        .iter()
        .find(|f| f.starts_with("/sys/fs/cgroup/devices"));
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists() && runtime == "runc";
    version_1.or(folders.first().filter(|_| unified)).cloned()
}

#[test]
fn the_cgroup_denies_the_other_unit() {
    requires!(root);
    for runtime in runtimes() {
        let (machine, npus) = given();
        let options = "-d --name w --slot npu.device=1";
        runs(&machine, &npus, runtime, options, "exec sleep 600").succeeds();
        let id = text(&record(&machine, "w")["id"]).to_owned();
        let Some(devices) = device_rules(&id, runtime) else {
            machine.divvy("stop -t 0 w").run().succeeds();
            continue;
        };
        // A process of ours under the container's rules, with nodes that no
        // container could make.
        let opens = |minor: u32| {
            let node = machine.path().join(format!("node{minor}"));
            let mode = Mode::from_raw_mode(0o600);
            let cwd = rustix::fs::CWD;
            mknodat(
                cwd,
                &node,
                FileType::CharacterDevice,
                mode,
                makedev(240, minor),
            )
            .unwrap();
            let script = format!(
                "echo $$ > {}/cgroup.procs && : <> {}",
                devices.display(),
                node.display()
            );
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let (granted, denied) = (opens(7), opens(8));
        assert!(granted.contains("No such device or address"), "{granted}");
        assert!(denied.contains("Operation not permitted"), "{denied}");
        machine.divvy("stop -t 0 w").run().succeeds();
    }
}

#[test]
fn a_unit_is_whole_or_shared() {
    requires!(root);
    let (machine, npus) = given();
    npus.unplug("npu1");
    holds(&machine, &npus, "three", "npu.cores=3");
    holds(&machine, &npus, "five", "npu.cores=5");
    let cores = |name: &str| machine.divvy("logs").arg(name).run().succeeds().stdout;
    assert!(divvy_tests::eventually(|| !cores("five").is_empty()));
    assert_eq!(cores("three"), "NPU-7A01:0,1,2\n");
    assert_eq!(cores("five"), "NPU-7A01:3,4,5,6,7\n");
    let asks = |slot: &str| {
        runs(
            &machine,
            &npus,
            "built-in",
            &format!("--slot {slot}"),
            "true",
        )
    };
    is_refused(asks("npu.cores=1"), "npu.cores");
    is_refused(asks("npu.device=1"), "npu.device");
    is_refused(asks("npu.cores=0.5"), "npu.cores");

    machine.divvy("stop -t 0 three").run().succeeds();
    is_refused(asks("npu.device=1"), "npu.device");
    machine.divvy("stop -t 0 five").run().succeeds();
    holds(&machine, &npus, "whole", "npu.device=1");
    is_refused(asks("npu.cores=1"), "npu.cores");
    is_refused(asks("npu.device=1"), "npu.device");
    machine.divvy("stop -t 0 whole").run().succeeds();
    asks("npu.cores=8").succeeds();
    assert_eq!(npus.claims(), Vec::<String>::new());
}

#[test]
fn a_unit_is_pulled_out_while_it_is_used() {
    requires!(root);
    let (machine, npus) = given();
    holds(&machine, &npus, "w", "npu.device=2");
    npus.unplug("npu0");

    // The job keeps what it has; the unit is not offered.
    assert_eq!(record(&machine, "w")["state"], "running");
    assert_eq!(device(&machine, &npus, "NPU-7A01"), None);
    let asks = || runs(&machine, &npus, "built-in", "--slot npu.cores=1", "true");
    is_refused(asks(), "npu.cores");
    assert_eq!(
        record(&machine, "w")["slices"].as_array().unwrap().len(),
        4,
        "2 units, cpu, mem"
    );

    // Plugged in again, under another name: the same unit, still held.
    npus.plug("npu5", "NPU-7A01", NOBODYS[0]);
    assert_eq!(used(&machine, &npus, "NPU-7A01"), "8");
    is_refused(asks(), "npu.cores");

    // Out again; the job ends, and gives up what is not there.
    npus.unplug("npu5");
    machine.divvy("stop -t 0 w").run().succeeds();
    assert_eq!(record(&machine, "w")["state"], "exited");
    assert_eq!(npus.claims(), Vec::<String>::new());
    npus.plug("npu5", "NPU-7A01", NOBODYS[0]);
    assert_eq!(used(&machine, &npus, "NPU-7A01"), "0");
    let output = runs(
        &machine,
        &npus,
        "built-in",
        "--slot npu.device=2",
        "ls /dev | grep npu",
    );
    assert_eq!(output.succeeds().stdout, "npu1\nnpu5\n");
    nothing_is_left(&machine);
}

#[test]
fn a_job_ends_although_its_unit_is_gone() {
    requires!(root);
    let (machine, npus) = given();
    let script = "until test -e go; do sleep 0.05; done; exit 7";
    let options = "-d --name w --slot npu.device=1";
    runs(&machine, &npus, "built-in", options, script).succeeds();
    npus.unplug("npu0");
    fs::write(machine.path().join("work/go"), "").unwrap();
    assert_eq!(ended(&machine, "w")["exit"]["code"], 7);
    assert_eq!(npus.claims(), Vec::<String>::new());
    nothing_is_left(&machine);
}

#[test]
fn the_plugin_is_replaced_while_it_is_used() {
    requires!(root);
    let (machine, npus) = given();
    holds(&machine, &npus, "w", "npu.cores=3");
    let pid = record(&machine, "w")["pid"].clone();
    // As an installer does it: by rename.
    let next = npu::built_as("0.2.0", machine.path());
    let beside = machine.path().join("new.so");
    fs::copy(next, &beside).unwrap();
    let mode = fs::metadata(machine.plugin_file("npu"))
        .unwrap()
        .permissions();
    fs::set_permissions(&beside, mode).unwrap();
    fs::rename(&beside, machine.plugin_file("npu")).unwrap();

    let version = || {
        machine
            .divvy("plugin list")
            .arg(npus.setting())
            .run()
            .succeeds()
    };
    version().says("npu   0.2.0");
    assert_eq!(record(&machine, "w")["state"], "running");
    assert_eq!(record(&machine, "w")["pid"], pid, "the job notices nothing");
    assert_eq!(used(&machine, &npus, "NPU-7A01"), "3");
    // The new one goes on where the old one was.
    let options = "--slot npu.cores=2 --where device.id=='NPU-7A01'";
    let output = runs(&machine, &npus, "built-in", options, "echo $NPU_CORES");
    assert_eq!(output.succeeds().stdout, "NPU-7A01:3,4\n");
    machine.divvy("stop -t 0 w").run().succeeds();
    assert_eq!(npus.claims(), Vec::<String>::new(), "the new one releases");
    nothing_is_left(&machine);
}

#[test]
fn a_monitor_that_is_replaced_tells_the_plugin_what_is_held() {
    requires!(root);
    let (machine, npus) = given();
    holds(&machine, &npus, "w", "npu.cores=3");
    // As after a restart of the machine's services: the claims are lost, and the
    // job's monitor with them.
    fs::remove_dir_all(npus.root().join("run/npu")).unwrap();
    for monitor in divvy_tests::rootfs::monitors(&machine) {
        kill(monitor);
    }
    let options = "--slot npu.cores=2 --where device.id=='NPU-7A01'";
    let output = runs(&machine, &npus, "built-in", options, "echo $NPU_CORES");
    assert_eq!(output.succeeds().stdout, "NPU-7A01:3,4\n");
    machine
        .divvy("stop -t 0 w")
        .arg(npus.setting())
        .run()
        .succeeds();
}

#[test]
fn an_ill_unit_takes_no_new_work_and_returns_when_well() {
    requires!(root);
    let (machine, npus) = given();
    npus.unplug("npu1");
    holds(&machine, &npus, "w", "npu.cores=3");
    let asks = || runs(&machine, &npus, "built-in", "--slot npu.cores=1", "true");
    for (says, shown) in [
        (
            "unhealthy: core 4 does not answer\n",
            "unhealthy: core 4 does not answer",
        ),
        ("on fire\n", "unknown: the driver says \"on fire\""),
    ] {
        npus.health("npu0", says);
        let devices = machine
            .divvy("devices")
            .arg(npus.setting())
            .run()
            .succeeds();
        let line = devices.stdout.lines().find(|l| l.contains("NPU-7A01"));
        let line = line.unwrap_or_else(|| panic!("{devices}"));
        assert!(line.contains(shown), "{devices}");
        assert!(line.ends_with(" w"), "its owner is named\n{devices}");
        is_refused(asks(), "npu.cores");
        assert_eq!(record(&machine, "w")["state"], "running");
    }
    npus.health("npu0", "degraded: slow link\n");
    asks().succeeds();
    npus.health("npu0", "healthy\n");
    asks().succeeds();
    machine.divvy("stop -t 0 w").run().succeeds();
    assert_eq!(records(&machine).len(), 3);
    nothing_is_left(&machine);
}

#[test]
fn without_its_driver_it_is_absent_not_broken() {
    let machine = divvy_tests::rootfs::machine();
    machine.install("npu", &fs::read(npu::built()).unwrap());
    let root = format!("--set=npu.root={}", machine.path().display());
    let output = machine.divvy("plugin list").arg(&root).run().succeeds();
    output
        .says("absent: plugin npu: no NPU driver: ")
        .says("modprobe npu");
    let output = machine.divvy("doctor").arg(&root).run();
    assert!(!output.stderr.contains("npu"), "{output}");
    let check = machine
        .divvy("plugin check")
        .arg(machine.plugin_file("npu"));
    let root = format!(
        "--set=root={}",
        Path::new("/").join(machine.path()).display()
    );
    check.arg(root).run().succeeds().says("modprobe npu");
}

/// Name and version of each package of a lock file.
fn packages(lock: &Path) -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(lock).unwrap();
    let value = |line: Option<&str>, key: &str| {
        let line = line.unwrap().strip_prefix(key).unwrap();
        line.trim_matches(['=', ' ', '"']).to_owned()
    };
    text.split("[[package]]\n")
        .skip(1)
        .map(|package| {
            let mut lines = package.lines();
            (value(lines.next(), "name"), value(lines.next(), "version"))
        })
        .collect()
}

#[test]
fn it_is_built_of_what_divvy_is_built_of() {
    // So that a machine which has built Divvy needs no network to build it.
    let ours = packages(&npu::repository().join("Cargo.lock"));
    let mut its = packages(&npu::example().join("Cargo.lock"));
    its.retain(|(name, _)| name != "divvy-plugin-npu");
    let others: Vec<_> = its.difference(&ours).collect();
    assert!(its.len() > 10, "{its:?}");
    assert!(
        others.is_empty(),
        "cargo update --precise these in examples/plugin-npu: {others:?}"
    );
}

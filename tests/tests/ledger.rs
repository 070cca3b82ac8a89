//! A ledger that is damaged, gone, full or read-only: nothing is granted or
//! freed, and the way out is named.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use divvy_tests::rootfs::{
    dump, ended, held, kill, machine, monitors, nothing_is_left, record, sh, start, work,
};
use divvy_tests::{Machine, Output, eventually, requires};

/// A machine with one workload that runs and one that has ended.
fn busy() -> Machine {
    let machine = machine();
    sh(&machine, "built-in", "--name earlier", "exit 3").exits(3);
    start(
        &machine,
        "built-in",
        "busy",
        "--cpu 1",
        "echo here; exec sleep 60",
    );
    machine
}

fn ledger(machine: &Machine) -> PathBuf {
    machine.state().join("ledger.redb")
}

/// Runs a job that must be refused without being started.
#[track_caller]
fn refused(machine: &Machine, codes: &[&str]) -> Output {
    let output = sh(machine, "built-in", "", "touch started").exits(125);
    let one = codes
        .iter()
        .any(|code| output.stderr.contains(&format!("[{code}]")));
    assert!(one, "expected one of {codes:?}\n{output}");
    assert!(
        !work(machine).join("started").exists(),
        "nothing was started\n{output}"
    );
    output
}

/// The whole way: every verb refuses, `state check` says why, the workload
/// runs on, and `state rebuild` leads out without losing its slices.
#[track_caller]
fn refused_until_rebuilt(damage: impl FnOnce(&Machine)) {
    let machine = busy();
    let before = dump(&machine);
    let pid = record(&machine, "busy")["pid"].as_u64().expect("a pid");
    damage(&machine);

    refused(&machine, &["ledger_damaged"]).complains("divvy state rebuild");
    for words in [
        "ps",
        "stop busy",
        "rm earlier",
        "describe busy",
        "state dump",
        "devices",
    ] {
        machine
            .divvy(words)
            .run()
            .exits(125)
            .complains("[ledger_damaged]");
    }
    let check = machine.divvy("state check").run().exits(1);
    assert!(check.stdout.contains("damaged"), "{check}");
    assert!(
        PathBuf::from(format!("/proc/{pid}")).exists(),
        "the workload runs on"
    );

    machine
        .divvy("state rebuild")
        .run()
        .succeeds()
        .says("2 records")
        .says("damaged-");
    assert_eq!(dump(&machine), before, "the records are what they were");
    assert_eq!(
        held(&machine).len(),
        2,
        "it holds its core and memory: {:?}",
        held(&machine)
    );
    machine
        .divvy("state check")
        .run()
        .succeeds()
        .says("2 records, all well");
    machine.divvy("stop busy").run().succeeds();
    assert_eq!(ended(&machine, "busy")["exit"]["code"], 143);
    assert_eq!(record(&machine, "earlier")["exit"]["code"], 3);
    nothing_is_left(&machine);
}

#[test]
fn a_ledger_that_was_emptied_is_refused_until_it_is_rebuilt() {
    requires!(root);
    refused_until_rebuilt(|machine| drop(File::create(ledger(machine)).unwrap()));
}

#[test]
fn a_ledger_that_was_deleted_is_refused_until_it_is_rebuilt() {
    requires!(root);
    let machine = busy();
    let before = dump(&machine);
    fs::remove_file(ledger(&machine)).unwrap();
    refused(&machine, &["ledger_damaged"]).complains("divvy state rebuild");
    machine.divvy("state check").run().exits(1);
    machine
        .divvy("state rebuild")
        .run()
        .succeeds()
        .says("2 records");
    assert_eq!(dump(&machine), before, "the records are what they were");
}

#[test]
fn a_ledger_that_was_cut_in_half_is_refused_until_it_is_rebuilt() {
    requires!(root);
    refused_until_rebuilt(|machine| {
        let file = OpenOptions::new()
            .write(true)
            .open(ledger(machine))
            .unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
}

#[test]
fn a_ledger_that_is_something_else_is_refused_until_it_is_rebuilt() {
    requires!(root);
    refused_until_rebuilt(|machine| fs::write(ledger(machine), "# my notes\n").unwrap());
}

#[test]
fn a_ledger_with_flipped_bits_is_read_right_or_refused() {
    requires!(root);
    let machine = busy();
    let before = dump(&machine);
    let good = fs::read(ledger(&machine)).unwrap();
    let mut noticed = 0;
    // All over the header, then all over the file.
    let places = (0..24)
        .map(|n| n * 13)
        .chain((1..24).map(|n| n * good.len() / 24));
    for (n, at) in places.enumerate() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (n % 8);
        fs::write(ledger(&machine), &bad).unwrap();
        let output = machine.divvy("state dump").run();
        if output.code == 0 {
            assert_eq!(output.stdout, before, "misread after a flip at {at}");
        } else {
            noticed += 1;
            assert!(!output.stderr.contains("panicked"), "{output}");
            output.exits(125).complains("[ledger_damaged]");
            refused(&machine, &["ledger_damaged"]);
        }
    }
    assert!(noticed >= 8, "{noticed} flips were noticed");
    fs::write(ledger(&machine), &good).unwrap();
    assert_eq!(dump(&machine), before);
}

#[test]
fn a_workload_that_ends_while_the_ledger_is_damaged_is_settled_after_the_rebuild() {
    requires!(root);
    let machine = machine();
    start(
        &machine,
        "built-in",
        "brief",
        "--cpu 2",
        "sleep 0.7; exit 5",
    );
    fs::write(ledger(&machine), "# my notes\n").unwrap();
    assert!(
        eventually(|| monitors(&machine).is_empty()),
        "its monitor stays"
    );
    machine
        .divvy("state rebuild")
        .run()
        .succeeds()
        .says("1 records");
    assert!(
        eventually(|| held(&machine).is_empty()),
        "{:#}",
        record(&machine, "brief")
    );
    assert_eq!(
        ended(&machine, "brief")["exit"]["code"],
        5,
        "its end was kept"
    );
    nothing_is_left(&machine);
}

#[test]
fn two_rebuilds_and_a_rebuild_of_a_sound_ledger_do_no_harm() {
    requires!(root);
    let machine = busy();
    let before = dump(&machine);
    for _ in 0..2 {
        machine
            .divvy("state rebuild")
            .run()
            .succeeds()
            .says("2 records");
        assert_eq!(dump(&machine), before);
    }
    let json = machine
        .divvy("--json state rebuild")
        .run()
        .succeeds()
        .json();
    assert_eq!(
        json["records"].as_array().map(Vec::len),
        Some(2),
        "{json:#}"
    );
}

/// A small disk of its own for the state; gone with the test.
struct Disk(PathBuf);

impl Disk {
    fn under(machine: &Machine, options: &str) -> Self {
        let at = machine.state();
        fs::create_dir_all(&at).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&at)
            .status();
        assert!(mount.is_ok_and(|s| s.success()), "mount -o {options}");
        Self(at)
    }

    fn remount(&self, how: &str) {
        // A monitor that has reported its end may still have its log open.
        let remounted = eventually(|| {
            let mount = Command::new("mount")
                .args(["-o", &format!("remount,{how}")])
                .arg(&self.0)
                .output();
            mount.is_ok_and(|o| o.status.success())
        });
        assert!(remounted, "remount {how}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_nothing_is_started_and_room_heals_it() {
    requires!(root);
    let machine = machine();
    let disk = Disk::under(&machine, "size=16m,mode=700");
    sh(&machine, "built-in", "--name earlier", "exit 3").exits(3);
    let before = dump(&machine);

    let mut ballast = File::create(disk.0.join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let output = refused(
        &machine,
        &["ledger_io", "launch_file", "system", "state_folder", "file"],
    );
    assert!(
        output.stderr.contains("No space left"),
        "the reason\n{output}"
    );
    assert_eq!(dump(&machine), before, "it can still be read");

    drop(ballast);
    fs::remove_file(disk.0.join("ballast")).unwrap();
    sh(&machine, "built-in", "", "exit 4").exits(4);
    machine
        .divvy("state check")
        .run()
        .succeeds()
        .says("2 records, all well");
    drop(disk);
}

#[test]
fn a_disk_that_fills_while_a_workload_runs_loses_no_slice() {
    requires!(root);
    let machine = machine();
    let disk = Disk::under(&machine, "size=16m,mode=700");
    start(&machine, "built-in", "w", "--cpu 2", "sleep 0.7; exit 4");
    let mut ballast = File::create(disk.0.join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    assert!(
        eventually(|| monitors(&machine).is_empty()),
        "its monitor stays"
    );
    drop(ballast);
    fs::remove_file(disk.0.join("ballast")).unwrap();
    let then = ended(&machine, "w");
    assert!(held(&machine).is_empty(), "{:?}\n{then:#}", held(&machine));
    drop(disk);
}

#[test]
fn on_a_read_only_disk_nothing_is_started() {
    requires!(root);
    let machine = machine();
    let disk = Disk::under(&machine, "size=16m,mode=700");
    sh(&machine, "built-in", "", "true").succeeds();
    disk.remount("ro");
    let output = refused(
        &machine,
        &["ledger_io", "state_folder", "launch_file", "file"],
    );
    assert!(output.stderr.contains("Read-only"), "the reason\n{output}");
    assert_eq!(machine.divvy("state check").run().code, 1);
    disk.remount("rw");
    sh(&machine, "built-in", "", "exit 4").exits(4);
    drop(disk);
}

#[test]
fn a_ledger_that_another_holds_is_waited_for() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "", "true").succeeds();
    // flock(1) holds the lock for one second.
    let lock = machine.state().join("ledger.lock");
    let mut other = Command::new("flock")
        .arg(&lock)
        .args(["sleep", "1"])
        .spawn()
        .expect("flock");
    std::thread::sleep(Duration::from_millis(200));
    machine.divvy("ps").run().succeeds();
    assert!(other.wait().unwrap().success());
}

#[test]
fn the_state_is_roots_alone_whatever_the_umask() {
    requires!(root);
    use std::os::unix::fs::PermissionsExt;
    let machine = machine();
    let script = "umask 0; exec \"$@\"";
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(divvy_tests::rootfs::program())
        .arg("--state")
        .arg(machine.state())
        .arg("--plugin-dir")
        .arg(machine.plugin_folder())
        .args(["run", "--cpu", "0.1", "--", "true"])
        .current_dir(work(&machine))
        .status();
    assert!(status.unwrap().success());
    let mode = |p: &std::path::Path| fs::symlink_metadata(p).unwrap().permissions().mode() & 0o777;
    let state = machine.state();
    assert_eq!(format!("{:o}", mode(&state)), "700");
    // Behind that folder nobody comes; still nothing in it is for others to write.
    let mut todo = vec![state];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap().filter_map(Result::ok) {
            let mode = mode(&entry.path());
            assert_eq!(mode & 0o022, 0, "{} is {mode:o}", entry.path().display());
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
}

#[test]
fn a_flip_in_a_workloads_own_copy_is_found_by_the_check() {
    requires!(root);
    let machine = busy();
    let id = record(&machine, "busy")["id"].as_str().unwrap().to_owned();
    let copy = machine
        .state()
        .join("workloads")
        .join(id)
        .join("record.json");
    let text = fs::read_to_string(&copy).unwrap();
    fs::write(
        &copy,
        text.replace("core-0-0", "core-9-9")
            .replace("core-0-1", "core-9-9"),
    )
    .unwrap();
    machine
        .divvy("state check")
        .run()
        .exits(1)
        .says("busy")
        .says("differs");
    let mut file = OpenOptions::new().write(true).open(&copy).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"#").unwrap();
    machine.divvy("state check").run().exits(1).says("busy");
    fs::write(&copy, text).unwrap();
    machine.divvy("state check").run().succeeds();
    for pid in monitors(&machine) {
        kill(pid);
    }
    machine.divvy("stop -t 0 busy").run().succeeds();
}

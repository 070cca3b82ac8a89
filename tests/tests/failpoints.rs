//! `kill -9` at every step: each point of [`divvy::failpoint`] is armed in the
//! process that comes by it; that process dies there; the next `divvy` must
//! find its way. A workload that has nothing to do with it must not notice.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use divvy::failpoint::Point;
use divvy_tests::rootfs::{
    cgroups, ids, job, kill, monitors, processes, record, records, sh, start, text, untidy, work,
};
use divvy_tests::state::{Witness, audit};
use divvy_tests::{Machine, eventually, needs, requires};

/// What must have become of the victim when the next `divvy` has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Nothing is left of it.
    Gone,
    /// It runs: it had been told to, and nobody told it to stop.
    Runs,
    /// It is over and its record says so.
    Exited,
    /// One of the two before it: it does not run.
    Over,
}

/// Who does what when the point is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// A job that sleeps is started.
    Start,
    /// A job that ends at once is started.
    End,
    /// A job is started whose plugin fails when the container exists.
    Undo,
    /// A job is started whose command is killed when the container exists.
    Abandon,
    /// A job that sleeps is stopped.
    Stop,
    /// A job that has ended is forgotten.
    Remove,
    /// A job that sleeps has lost its monitor, and is picked up.
    Adopt,
    /// A command was killed with its plugins prepared, and that is picked up.
    PickUp,
    /// A command was killed with nothing but a folder, and that is picked up.
    Sweep,
    /// The ledger was overwritten, and is rebuilt.
    Rebuild,
    /// The runtimes are tried.
    Try,
}

/// A point, how often it is passed before it kills, and what then.
type Row = (Point, u32, Scene, After);

/// All points.
fn rows() -> Vec<Row> {
    use After::{Exited, Gone, Over, Runs};
    use Scene::{Abandon, Adopt, End, PickUp, Rebuild, Remove, Start, Stop, Sweep, Try, Undo};
    let once = |scene, after, points: &[Point]| {
        points
            .iter()
            .map(|p| (*p, 1, scene, after))
            .collect::<Vec<Row>>()
    };
    [
        once(
            Start,
            Gone,
            &[
                Point::RunBegun,
                Point::RunPlanned,
                Point::RunFolder,
                Point::RunReserved,
                Point::RunCopied,
                Point::RunPrepared,
                Point::RunBundled,
                Point::RunDescribed,
                Point::RunReady,
                Point::RunMonitored,
                Point::RunCreated,
                Point::RunProven,
                Point::RunTold,
                Point::RunCopiedRunning,
            ],
        ),
        once(Start, Exited, &[Point::RunCommitted]),
        once(Start, Runs, &[Point::RunGo, Point::RunStarted]),
        once(
            Undo,
            Gone,
            &[
                Point::UndoBegun,
                Point::UndoCleared,
                Point::UndoReleased,
                Point::UndoForgotten,
            ],
        ),
        once(
            Start,
            Gone,
            &[
                Point::MonitorBegun,
                Point::MonitorListens,
                Point::MonitorAssembled,
                Point::MonitorCreates,
                Point::MonitorCreated,
                Point::MonitorMade,
            ],
        ),
        // The command may have said go before it heard of the death.
        once(Start, Over, &[Point::MonitorReported]),
        once(Start, Exited, &[Point::MonitorGo]),
        // The runtime's call outlives the monitor.
        once(
            Start,
            Runs,
            &[
                Point::MonitorStarts,
                Point::MonitorStarted,
                Point::MonitorCarries,
            ],
        ),
        once(
            Abandon,
            Gone,
            &[Point::MonitorAbandoned, Point::MonitorTakenDown],
        ),
        once(
            End,
            Exited,
            &[
                Point::MonitorEnded,
                Point::MonitorDrained,
                Point::MonitorDeleted,
                Point::MonitorDisassembled,
                Point::MonitorNoted,
                Point::MonitorSettled,
                Point::MonitorTold,
                Point::SettleReleasing,
                Point::SettleReleased,
                Point::SettleExited,
                Point::SettleTidied,
                Point::RuntimeKilled,
                Point::RuntimeEmptied,
            ],
        ),
        once(
            Adopt,
            Runs,
            &[
                Point::RecoverLocked,
                Point::RecoverJudged,
                Point::RecoverAdopts,
                Point::RecoverAdopted,
            ],
        ),
        once(
            PickUp,
            Gone,
            &[
                Point::RecoverCleared,
                Point::RecoverReleased,
                Point::RecoverForgotten,
            ],
        ),
        once(Sweep, Gone, &[Point::RecoverSweeps]),
        once(Stop, Runs, &[Point::StopFound]),
        once(Stop, Exited, &[Point::StopAsked, Point::StopEnded]),
        once(Remove, Gone, &[Point::RemoveForgotten]),
        once(
            Start,
            Gone,
            &[
                Point::LedgerLocked,
                Point::LedgerOpened,
                Point::LedgerDecided,
                Point::LedgerWritten,
                Point::LedgerCommitted,
            ],
        ),
        // The second write of a run is `running`.
        vec![
            (Point::LedgerWritten, 2, Start, Gone),
            (Point::LedgerCommitted, 2, Start, Exited),
        ],
        once(
            Rebuild,
            Gone,
            &[
                Point::RebuildRead,
                Point::RebuildWritten,
                Point::RebuildAside,
                Point::RebuildReplaced,
            ],
        ),
        once(
            Try,
            Gone,
            &[Point::ProbeCreates, Point::ProbeMade, Point::ProbeDeleted],
        ),
        once(
            Start,
            Gone,
            &[
                Point::RuntimeClaimed,
                Point::RuntimeBuilt,
                Point::RuntimeRecorded,
            ],
        ),
        once(
            Start,
            Exited,
            &[Point::RuntimeStarts, Point::RuntimeStarted],
        ),
    ]
    .concat()
}

/// Where another runtime than our own makes a difference.
fn rows_of_another_runtime() -> Vec<Row> {
    let matter = [
        Point::RunMonitored,
        Point::RunCreated,
        Point::RunCommitted,
        Point::MonitorCreates,
        Point::MonitorCreated,
        Point::MonitorMade,
        Point::MonitorReported,
        Point::MonitorGo,
        Point::MonitorStarts,
        Point::MonitorStarted,
        Point::MonitorAbandoned,
        Point::MonitorTakenDown,
        Point::MonitorEnded,
        Point::MonitorDeleted,
        Point::UndoBegun,
        Point::UndoCleared,
        Point::RecoverJudged,
        Point::ProbeCreates,
        Point::ProbeMade,
    ];
    let mut rows = rows();
    rows.retain(|(point, ..)| matter.contains(point));
    rows
}

#[test]
fn every_point_is_in_the_table() {
    let listed: BTreeSet<Point> = rows().into_iter().map(|(point, ..)| point).collect();
    let all: BTreeSet<Point> = Point::ALL.iter().copied().collect();
    assert_eq!(listed, all);
}

#[test]
fn a_death_at_any_point_costs_no_slice_and_touches_no_one_else() {
    requires!(root);
    die_at_each("built-in", &rows());
}

#[test]
fn a_death_beside_another_runtime_costs_no_slice_and_touches_no_one_else() {
    requires!(root, runc);
    die_at_each("runc", &rows_of_another_runtime());
}

/// A machine on which one workload runs that nothing may disturb.
struct Place {
    machine: Machine,
    witness: Witness,
    runtime: &'static str,
}

/// The trials of runtimes that have a folder.
fn probes(machine: &Machine) -> BTreeSet<String> {
    let entries = fs::read_dir(machine.state().join("probe"));
    let entries = entries.into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Goes through the table on a few machines at once.
fn die_at_each(runtime: &'static str, rows: &[Row]) {
    assert!(needs::root().is_ok());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut place = Place::new(runtime);
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let died = catch_unwind(AssertUnwindSafe(|| place.die_at(row)));
                    if died.is_err() {
                        failures.lock().unwrap().insert(row.0, format!("{row:?}"));
                        // What is left of this one is not the next one's fault.
                        place = Place::new(runtime);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {}: {failures:#?}",
        failures.len(),
        rows.len()
    );
}

impl Place {
    fn new(runtime: &'static str) -> Self {
        let machine = Machine::with(&["cpu", "faulty"]);
        fs::create_dir(work(&machine)).unwrap();
        let witness = Witness::start(&machine, runtime, "witness", "--cpu 0.5");
        Self {
            machine,
            witness,
            runtime,
        }
    }

    fn die_at(&self, row: &Row) {
        let (point, nth, scene, after) = *row;
        let machine = &self.machine;
        let marks = machine.path().join("marks");
        let _ = fs::remove_dir_all(&marks);
        fs::create_dir(&marks).unwrap();
        let armed = format!("{}:{nth}", point.name());
        self.play(scene, &armed, &marks);
        let died = eventually(|| marks.join(point.name()).exists());
        assert!(died, "{armed} was not reached: {}", point.about());

        let mut seen = ids(machine);
        seen.extend(probes(machine));
        if scene == Scene::Rebuild {
            machine.divvy("state rebuild").run().succeeds();
        }
        let mut what = String::new();
        let as_expected = eventually(|| {
            // Each is a next `divvy`.
            let all = records(machine);
            let victim = all.iter().find(|r| r["name"] == "v");
            what = format!("{victim:#?}");
            let state = victim.map_or("gone", |r| text(&r["state"]));
            match after {
                After::Gone => state == "gone",
                After::Runs => state == "running",
                After::Exited => state == "exited",
                After::Over => ["gone", "exited"].contains(&state),
            }
        });
        assert!(as_expected, "{armed} {scene:?}: expected {after:?}: {what}");
        audit(machine);
        self.witness.is_untouched();
        if after == After::Runs {
            let victim = record(machine, "v");
            let pid = victim["pid"].as_u64().unwrap();
            let mut line = String::new();
            // It was let go; on a busy machine it may not be there yet.
            let runs = eventually(|| {
                line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.starts_with("/dev/divvy-init")
            });
            assert!(runs, "{armed}: it is {line:?}");
            assert!(
                eventually(|| monitors(machine).len() == 2),
                "{armed}: it has a monitor"
            );
        }
        if let Some(over) = records(machine).iter().find(|r| r["state"] == "exited") {
            let mut left = Vec::new();
            let tidy = eventually(|| {
                left = untidy(machine, text(&over["id"]));
                left.is_empty()
            });
            assert!(tidy, "{armed}: it left {left:#?}");
        }
        let cleared = eventually(|| {
            let left = records(machine).iter().any(|r| r["name"] == "v");
            !left || machine.divvy("rm -f v").run().code == 0
        });
        assert!(cleared, "{armed}: it cannot be removed");
        self.nothing_is_left_but_the_witness(&armed, &seen);
        self.all_that_the_witness_leaves_is_granted();
        self.witness.is_untouched();
    }

    /// Lets a process die.
    fn play(&self, scene: Scene, armed: &str, marks: &Path) {
        let (machine, runtime) = (&self.machine, self.runtime);
        let armed_to = |command: divvy_tests::Divvy, armed: &str| {
            command
                .env("DIVVY_FAILPOINT", armed)
                .env("DIVVY_FAILPOINT_MARKS", marks.to_str().unwrap())
        };
        let run = |armed: &str, options: &str, command: &[&str]| {
            let job = job(machine, runtime, &format!("-d --name v --cpu 1 {options}"));
            // Its exit code is what it is: it, or something it started, dies.
            let _ = armed_to(job.args(["--"]).args(command), armed).run();
        };
        let kill_monitor = || {
            let id = text(&record(machine, "v")["id"]).to_owned();
            let line = format!(
                "monitor {}",
                machine.state().join("workloads").join(id).display()
            );
            for (pid, _) in processes(&line) {
                kill(pid);
            }
            assert!(
                eventually(|| processes(&line).is_empty()),
                "its monitor lives"
            );
        };
        let divvy = |words: &str| armed_to(machine.divvy(words), armed).run();
        match scene {
            Scene::Start => run(armed, "", &["sleep", "600"]),
            Scene::End => run(armed, "", &["true"]),
            Scene::Undo => run(
                armed,
                "--slot faulty.units=1 --set faulty.mode=error --set faulty.op=started",
                &["sleep", "600"],
            ),
            Scene::Abandon => run(&format!("run.created,{armed}"), "", &["sleep", "600"]),
            Scene::Stop => {
                start(machine, runtime, "v", "--cpu 1", "exec sleep 600");
                let _ = divvy("stop -t 1 v");
            }
            Scene::Remove => {
                start(machine, runtime, "v", "--cpu 1", "true");
                assert!(eventually(|| record(machine, "v")["state"] == "exited"));
                let _ = divvy("rm v");
            }
            Scene::Adopt => {
                start(machine, runtime, "v", "--cpu 1", "exec sleep 600");
                kill_monitor();
                let _ = divvy("ps");
            }
            Scene::PickUp => {
                run("run.prepared", "", &["sleep", "600"]);
                let _ = divvy("ps");
            }
            Scene::Sweep => {
                run("run.folder", "", &["sleep", "600"]);
                let _ = divvy("ps");
            }
            Scene::Try => {
                // Other runtimes are tried once, and first; ours always.
                match runtime {
                    "built-in" => drop(machine.divvy("doctor").run()),
                    _ => drop(fs::remove_file(machine.state().join("runtimes.json"))),
                }
                let _ = divvy("doctor");
            }
            Scene::Rebuild => {
                fs::write(machine.state().join("ledger.redb"), "# my notes\n").unwrap();
                let _ = divvy("state rebuild");
            }
        }
    }

    fn nothing_is_left_but_the_witness(&self, armed: &str, seen: &BTreeSet<String>) {
        let machine = &self.machine;
        let others = |ids: &BTreeSet<String>| {
            let mut others = ids.clone();
            others.remove(self.witness.id());
            others
        };
        let mut left = Vec::new();
        let clean = eventually(|| {
            left.clear();
            for id in others(seen) {
                left.extend(cgroups(&id).iter().map(|p| p.display().to_string()));
                let runtime = machine.state().join("runtime").join(&id);
                left.extend(runtime.exists().then(|| runtime.display().to_string()));
                left.extend(processes(&id).into_iter().map(|(_, line)| line));
            }
            left.extend(probes(machine));
            left.extend(others(&ids(machine)));
            left.extend(machine.hosts().iter().map(|pid| format!("host {pid}")));
            let here = machine.path().display().to_string();
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            left.extend(
                mounts
                    .lines()
                    .filter(|l| l.contains(&here))
                    .map(str::to_owned),
            );
            left.is_empty()
        });
        assert!(clean, "{armed}: it left {left:#?}");
        let entries = fs::read_dir(machine.state())
            .unwrap()
            .filter_map(Result::ok);
        let drafts: Vec<_> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains(".tmp"))
            .collect();
        assert_eq!(drafts, Vec::<String>::new(), "{armed}");
    }

    fn all_that_the_witness_leaves_is_granted(&self) {
        let cores = fs::read_to_string("/proc/cpuinfo").unwrap();
        let cores = cores.matches("\nprocessor").count() + 1;
        let most = format!("--cpu {}.5 --rm", cores - 1);
        sh(&self.machine, self.runtime, &most, "true").succeeds();
    }
}

#[test]
fn a_process_that_is_not_armed_does_not_die() {
    requires!(root);
    let machine = divvy_tests::rootfs::machine();
    let marks = machine.path().join("marks");
    fs::create_dir(&marks).unwrap();
    let job = job(&machine, "built-in", "").args(["--", "true"]);
    let job = job
        .env("DIVVY_FAILPOINT", "run.nowhere,run.begun:2")
        .env("DIVVY_FAILPOINT_MARKS", marks.to_str().unwrap());
    job.run().succeeds();
    let marked = Command::new("ls").arg(&marks).output().unwrap().stdout;
    assert_eq!(marked, b"");
}

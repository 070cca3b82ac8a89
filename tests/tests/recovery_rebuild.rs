//! A ledger that is lost is made anew from the copies that the workloads carry;
//! where a copy is lost too, nothing is given away on its account.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use divvy::agent::{Agent, Settings, is_unknown};
use divvy::launch::Folder;
use divvy::ledger::{Ledger, LedgerError};
use divvy::model::{Record, Request, State};
use divvy_tests::rootfs::{
    cgroups, dump, ended, held, kill, machine, monitors, nothing_is_left, program, record, records,
    sh, start, text,
};
use divvy_tests::state::{Witness, audit, snapshot, sums};
use divvy_tests::{Machine, eventually, requires};

/// The machine's agent, in this process.
fn agent(machine: &Machine) -> Agent {
    let plugins = divvy::plugin::Settings {
        folder: Some(machine.plugin_folder()),
        exe: program(),
        set: Default::default(),
        history: None,
    };
    Agent::open(Settings {
        docker_socket: None,
        machine: None,
        agent_socket: None,
        state: machine.state(),
        exe: program(),
        plugins,
    })
    .unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn delete_the_ledger(machine: &Machine) {
    for file in ["ledger.redb", "ledger.lock"] {
        fs::remove_file(machine.state().join(file)).unwrap();
    }
}

fn copy_of(machine: &Machine, name: &str) -> PathBuf {
    let record = snapshot(machine);
    let record = record.iter().find(|r| r.name == name).expect("a record");
    let folder = machine.state().join("workloads").join(&record.id);
    folder.join("record.json")
}

#[test]
fn a_ledger_that_is_gone_without_a_trace_is_refused_until_it_is_rebuilt() {
    requires!(root);
    let machine = machine();
    let witness = Witness::start(&machine, "built-in", "w", "--cpu 1");
    let before = dump(&machine);
    delete_the_ledger(&machine);
    for words in ["ps", "devices", "stop w", "state dump"] {
        let output = machine.divvy(words).run().exits(125);
        output
            .complains("deleted or emptied")
            .complains("[ledger_damaged]");
    }
    sh(&machine, "built-in", "--cpu 1", "true")
        .exits(125)
        .complains("divvy state rebuild");
    machine
        .divvy("state rebuild")
        .run()
        .succeeds()
        .says("1 records");
    assert_eq!(dump(&machine), before);
    witness.is_untouched();
    audit(&machine);
}

#[test]
fn what_runs_for_long_rebuilds_by_itself_what_was_deleted_and_nothing_else() {
    requires!(root);
    let machine = machine();
    let witness = Witness::start(&machine, "built-in", "w", "--cpu 1");
    let before = snapshot(&machine);
    let agent = agent(&machine);
    assert!(block_on(agent.rebuild_if_lost()).unwrap().is_none());

    delete_the_ledger(&machine);
    let rebuilt = block_on(agent.rebuild_if_lost())
        .unwrap()
        .expect("a rebuild");
    assert_eq!((rebuilt.sound, rebuilt.records), (false, before.clone()));

    fs::write(machine.state().join("ledger.redb"), "# my notes\n").unwrap();
    let refused = block_on(agent.rebuild_if_lost()).unwrap_err();
    assert_eq!(refused.code(), "ledger_damaged");
    let rebuilt = block_on(agent.rebuild()).unwrap();
    assert_eq!((rebuilt.sound, rebuilt.records), (false, before.clone()));

    // A sound one knows more than any copy.
    fs::write(copy_of(&machine, "w"), "").unwrap();
    let kept = block_on(agent.rebuild()).unwrap();
    assert_eq!((kept.sound, kept.records), (true, before));
    witness.is_untouched();
}

#[test]
fn a_workload_whose_copy_is_lost_too_closes_every_device_until_it_ends() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "--name earlier", "exit 3").exits(3);
    let witness = Witness::start(&machine, "built-in", "w", "--cpu 0.5");
    let lost = format!("lost-{}", &witness.id()[..6]);
    for name in ["w", "earlier"] {
        let copy = copy_of(&machine, name);
        let bytes = fs::read(&copy).unwrap();
        fs::write(&copy, &bytes[..bytes.len() / 2]).unwrap();
    }
    delete_the_ledger(&machine);

    let rebuild = machine.divvy("state rebuild").run().exits(1);
    let rebuild = rebuild.says("could not be read").says("1 records");
    let _ = rebuild.says(&format!("{lost} may run and nobody knows what it holds"));
    let check = machine.divvy("state check").run().exits(1);
    check.says(&format!("{lost}: its record was lost with the ledger"));
    // It had half a core; a quarter is refused, wherever it might be.
    let refused = sh(&machine, "built-in", "--cpu 0.25", "true").exits(125);
    refused.complains("the slot (unknown)");
    let devices = machine.divvy("--json devices").run().succeeds().json();
    for device in devices["devices"].as_array().unwrap() {
        assert!(device["closed"].is_string(), "{device:#}");
        assert_eq!(device["holders"][0], lost.as_str(), "{device:#}");
    }
    witness.is_untouched();

    // Nobody follows it, and somebody comes to.
    for pid in monitors(&machine) {
        kill(pid);
    }
    assert!(eventually(|| monitors(&machine).is_empty()));
    assert_eq!(text(&record(&machine, &lost)["state"]), "running");
    assert_eq!(monitors(&machine).len(), 1);
    witness.is_untouched();

    machine.divvy("stop -t 0").arg(&lost).run().succeeds();
    sh(&machine, "built-in", "--cpu 0.25", "true").succeeds();
    assert_eq!(held(&machine), Vec::<String>::new());
    machine.divvy("state check").run().succeeds();
    nothing_is_left(&machine);
}

/// Every length that a copy can be cut to: never a panic, and what was held is
/// held, or everything is closed.
#[test]
fn copies_that_are_torn_at_any_byte_double_no_slice() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "--name earlier", "exit 3").exits(3);
    start(&machine, "built-in", "busy", "--cpu 1", "exec sleep 600");
    let before = snapshot(&machine);
    let agent = agent(&machine);
    let tiny: Request = Request::default();
    let (mut torn, mut whole) = (0, 0);
    // One runtime for all: the plugin's host stays.
    block_on(async {
        for name in ["busy", "earlier"] {
            let copy = copy_of(&machine, name);
            let good = fs::read(&copy).unwrap();
            for length in 0..good.len() {
                let cut = serde_json::from_slice::<Record>(&good[..length]);
                assert!(cut.is_err(), "{name} cut to {length} is read as {cut:?}");
            }
            // What that leads to, at every seventh.
            for length in (0..good.len()).step_by(7).chain([good.len()]) {
                fs::write(&copy, &good[..length]).unwrap();
                delete_the_ledger(&machine);
                let rebuilt = agent.rebuild().await.unwrap();
                let unknown = rebuilt.records.iter().filter(|r| is_unknown(r)).count();
                if length == good.len() {
                    assert_eq!(rebuilt.records, before);
                    whole += 1;
                } else if name == "busy" {
                    assert_eq!(unknown, 1, "cut to {length}: {rebuilt:#?}");
                    if torn % 8 == 0 {
                        let refused = agent.fit(&tiny).await.unwrap_err();
                        assert_eq!(refused.code(), "insufficient", "cut to {length}: {refused}");
                    }
                    torn += 1;
                } else {
                    // It had ended: nothing is held on its account.
                    assert_eq!((unknown, rebuilt.unreadable.len()), (0, 1), "{rebuilt:#?}");
                    assert_eq!(sums(&rebuilt.records), sums(&before));
                    torn += 1;
                }
                // As before the next one.
                fs::write(&copy, &good).unwrap();
            }
        }
    });
    assert!(torn > 200 && whole == 2, "{torn} torn, {whole} whole");
    // The last one was whole.
    audit(&machine);
    machine.divvy("stop -t 0 busy").run().succeeds();
}

/// Two hundred more workloads in the folder of this machine: `carried` of them
/// by this process, which holds their locks, and the others over.
fn with_many(machine: &Machine, carried: usize) -> Vec<fs::File> {
    let model: Record = snapshot(machine).into_iter().next().expect("a record");
    let ledger = Ledger::new(&machine.state());
    let (mut locks, mut all) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let mut record = model.clone();
        record.id = format!("{number:012x}");
        record.name = format!("many-{number}");
        let folder = Folder::new(&machine.state(), &record.id);
        let lock = folder.create().unwrap();
        if number < carried {
            record.state = State::Running;
            record.slices.clear();
            locks.push(lock);
        }
        folder.save_record(&record).unwrap();
        all.push(record);
    }
    ledger
        .transact(|t| {
            all.into_iter().for_each(|r| t.put(r));
            Ok::<_, LedgerError>(())
        })
        .unwrap();
    locks
}

#[test]
fn two_hundred_workloads_are_looked_after_and_rebuilt_in_time() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "--name earlier", "exit 3").exits(3);
    let _locks = with_many(&machine, 100);
    let witness = Witness::start(&machine, "built-in", "w", "--cpu 1");
    let before = snapshot(&machine);
    assert_eq!(before.len(), 202);
    let agent = agent(&machine);

    let began = Instant::now();
    block_on(agent.recover()).unwrap();
    let recovered = began.elapsed();

    delete_the_ledger(&machine);
    let began = Instant::now();
    let rebuilt = block_on(agent.rebuild_if_lost())
        .unwrap()
        .expect("a rebuild");
    let took = began.elapsed();
    println!("200 workloads: looked after in {recovered:?}, rebuilt in {took:?}");
    assert_eq!(rebuilt.records.len(), 202);
    assert_eq!(sums(&snapshot(&machine)), sums(&before));
    assert!(recovered < Duration::from_secs(2), "{recovered:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    witness.is_untouched();
    machine.divvy("rm -f w").run().succeeds();
    // What this process pretends to carry must not be waited for.
    fs::remove_dir_all(machine.state()).unwrap();
}

/// Writes another boot's id into a workload's record, as if the machine had
/// been restarted since.
fn of_an_earlier_boot(machine: &Machine, name: &str) {
    let ledger = Ledger::new(&machine.state());
    ledger
        .transact(|t| {
            let record = t.records().iter().find(|r| r.name == name);
            let mut record = record.cloned().expect("a record");
            record.boot_id = "00000000-0000-0000-0000-000000000000".into();
            t.put(record);
            Ok::<_, LedgerError>(())
        })
        .unwrap();
}

#[test]
fn what_a_restart_of_the_machine_ended_is_told_from_what_a_kill_ended() {
    requires!(root);
    let machine = machine();
    for (name, expected) in [
        ("rebooted", "the machine was restarted"),
        ("killed", "its monitor was killed"),
    ] {
        start(&machine, "built-in", name, "--cpu 1", "exec sleep 600");
        let now = record(&machine, name);
        for pid in monitors(&machine) {
            kill(pid);
        }
        kill(u32::try_from(now["pid"].as_u64().unwrap()).unwrap());
        let id = text(&now["id"]).to_owned();
        let procs = |folder: &PathBuf| fs::read_to_string(folder.join("cgroup.procs")).unwrap();
        assert!(eventually(|| cgroups(&id)
            .iter()
            .all(|f| procs(f).is_empty())));
        if name == "rebooted" {
            of_an_earlier_boot(&machine, name);
        }
        let then = ended(&machine, name);
        let reason = text(&then["exit"]["reason"]);
        assert!(reason.contains(expected), "{name}: {then:#}");
        assert_eq!(then["exit"]["code"], serde_json::Value::Null);
    }
    nothing_is_left(&machine);
}

#[test]
fn an_intent_of_an_earlier_boot_is_undone() {
    requires!(root);
    let machine = machine();
    let marks = machine.path().join("marks");
    fs::create_dir(&marks).unwrap();
    let job = divvy_tests::rootfs::job(&machine, "built-in", "-d --name w --cpu 1");
    let job = job.args(["--", "sleep", "600"]);
    let job = job.env("DIVVY_FAILPOINT", "run.ready");
    job.env("DIVVY_FAILPOINT_MARKS", marks.to_str().unwrap())
        .run()
        .exits(137);
    of_an_earlier_boot(&machine, "w");
    assert_eq!(records(&machine), Vec::<serde_json::Value>::new());
    nothing_is_left(&machine);
}

/// A boot id that says otherwise is no reason to end what lives.
#[test]
fn what_lives_is_followed_whatever_the_boot_id_says() {
    requires!(root);
    let machine = machine();
    let witness = Witness::start(&machine, "built-in", "w", "--cpu 1");
    for pid in monitors(&machine) {
        kill(pid);
    }
    assert!(eventually(|| monitors(&machine).is_empty()));
    of_an_earlier_boot(&machine, "w");
    assert_eq!(text(&record(&machine, "w")["state"]), "running");
    assert_eq!(monitors(&machine).len(), 1);
    witness.is_untouched();
}

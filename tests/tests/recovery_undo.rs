//! A plugin that cannot release: what it holds stays closed, every verb says
//! so, and the next one after it can again frees it.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::os::unix::fs::symlink;

use divvy_tests::rootfs::{
    busybox, ended, held, job, monitors, nothing_is_left, record, records, start, text, work,
};
use divvy_tests::{Machine, eventually, requires};

/// What makes the plugin `faulty` refuse to release.
const REFUSES: &str = "--set faulty.mode=error --set faulty.op=release";

fn machine() -> Machine {
    let machine = Machine::with(&["cpu", "faulty"]);
    fs::create_dir(work(&machine)).unwrap();
    machine
}

#[test]
fn a_run_that_cannot_be_undone_says_so_holds_its_slices_and_is_undone_later() {
    requires!(root);
    let machine = machine();
    // A root that is refused when the container is made: plugins have prepared.
    let root = machine.path().join("root");
    busybox(&root);
    fs::remove_dir(root.join("dev")).unwrap();
    symlink("/tmp", root.join("dev")).unwrap();
    let options = format!("--name w --slot faulty.units=1 {REFUSES} --rootfs");
    let job = job(&machine, "built-in", &options).arg(&root);
    job.args(["--", "true"])
        .run()
        .exits(125)
        .complains("could not be undone yet and holds its slices")
        .complains("symbolic link");

    // It is asked again, and refuses again: nothing is freed.
    for _ in 0..2 {
        let ps = machine.divvy(&format!("--json ps -a {REFUSES}")).run();
        let ps = ps.succeeds().complains("the driver said no");
        assert_eq!(ps.json()["workloads"][0]["state"], "preparing", "{ps}");
    }
    machine
        .divvy(&format!("stop w {REFUSES}"))
        .run()
        .exits(125)
        .complains("[not_released]");
    machine
        .divvy(&format!("rm -f w {REFUSES}"))
        .run()
        .exits(125)
        .complains("[not_released]");

    // It can again: it is undone as if it had never been.
    assert_eq!(records(&machine), Vec::<serde_json::Value>::new());
    nothing_is_left(&machine);
}

#[test]
fn an_end_that_a_plugin_cannot_release_keeps_its_slices_until_it_can() {
    requires!(root);
    let machine = machine();
    let options = format!("--slot faulty.units=1 {REFUSES}");
    start(&machine, "built-in", "w", &options, "exit 3");
    assert!(
        eventually(|| monitors(&machine).is_empty()),
        "its monitor stays"
    );

    let refused = format!("{REFUSES} w");
    for verb in ["stop", "rm -f"] {
        machine
            .divvy(&format!("{verb} {refused}"))
            .run()
            .exits(125)
            .complains("does not run, but a plugin has not released its slices")
            .complains("[not_released]");
    }
    let full = "fit --slot faulty.units=2";
    machine
        .divvy(&format!("{full} {REFUSES}"))
        .run()
        .exits(125)
        .complains("held by w (1) [insufficient]");

    machine.divvy("stop w").run().succeeds();
    let then = record(&machine, "w");
    assert_eq!(text(&then["state"]), "exited", "{then:#}");
    assert_eq!(then["exit"]["code"], 3, "how it ended is kept");
    assert_eq!(held(&machine), Vec::<String>::new());
    machine.divvy("rm w").run().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn a_plugin_that_crashes_in_release_is_asked_again() {
    requires!(root);
    let machine = machine();
    let marks = machine.path().join("marks");
    let options = format!(
        "--slot faulty.units=1 --set faulty.mode=abort --set faulty.op=release \
         --set faulty.times=2 --set faulty.once={}",
        marks.display()
    );
    // Twice: the call and its repetition.
    start(&machine, "built-in", "w", &options, "exit 4");
    assert!(
        eventually(|| monitors(&machine).is_empty()),
        "its monitor stays"
    );
    assert_eq!(fs::read(&marks).unwrap().len(), 2, "it was asked twice");
    let then = ended(&machine, "w");
    assert_eq!(then["exit"]["code"], 4, "{then:#}");
    nothing_is_left(&machine);
}

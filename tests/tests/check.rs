//! `divvy plugin check`, on plugins that keep the contract and on one that breaks
//! it in every way that a check looks for.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use divvy_tests::npu::{self, Npus};
use divvy_tests::rootfs::text;
use divvy_tests::{Divvy, Machine};

/// A lie of `tests/faulty` (mode, operation), and the check that must see it.
const LIES: &[(&str, &str, &str)] = &[
    ("panic", "manifest", "file.loads"),
    ("hang", "manifest", "deadline.manifest"),
    ("changes", "manifest", "manifest.constant"),
    ("says-nothing", "manifest", "manifest.described"),
    ("escapes", "manifest", "manifest.printable"),
    ("default-off-quantum", "manifest", "manifest.defaults"),
    ("bad-name", "manifest", "manifest.name"),
    ("other-name", "manifest", "file.name"),
    ("no-slots", "manifest", "manifest.slots"),
    ("foreign-slot", "manifest", "manifest.slot-names"),
    ("zero-quantum", "manifest", "manifest.quanta"),
    ("bad-class", "manifest", "manifest.classes"),
    ("bad-mode", "manifest", "manifest.modes"),
    ("no-draws", "manifest", "manifest.draws"),
    ("setting-escapes", "manifest", "manifest.settings"),
    ("reserves-everything", "manifest", "manifest.reserved-env"),
    ("hang", "open", "deadline.open"),
    ("error", "open", "open.works"),
    ("any-setting", "open", "open.unknown-key-refused"),
    ("alone", "open", "open.beside-another"),
    ("stale-lock", "open", "open.after-kill"),
    ("hang", "discover", "deadline.discover"),
    ("error", "discover", "discover.works"),
    ("clock", "discover", "discover.stable"),
    ("pid-in-id", "discover", "discover.same-in-new-host"),
    ("large-reply", "discover", "discover.size"),
    ("huge-reply", "discover", "discover.size"),
    ("attribute-escapes", "discover", "discover.printable"),
    ("health-escapes", "discover", "discover.printable"),
    ("no-reason", "discover", "discover.health-reason"),
    ("no-capacities", "discover", "discover.serves"),
    ("lost-node", "discover", "discover.numa"),
    ("one-sided-link", "discover", "discover.links-both-ends"),
    ("foreign-profile", "discover", "discover.profiles"),
    ("too-many-devices", "discover", "discover.count"),
    ("duplicate-id", "discover", "discover.ids"),
    ("bad-capacity", "discover", "discover.capacities"),
    ("reserved-over-total", "discover", "discover.reserved"),
    ("odd-step", "discover", "discover.steps"),
    ("bad-partition", "discover", "discover.partitions"),
    ("model-escapes", "discover", "discover.texts"),
    ("no-such-parent", "discover", "discover.references"),
    ("processes-twice", "discover", "discover.processes"),
    ("hang", "watch", "watch.timeout"),
    ("restless", "watch", "watch.rests"),
    ("impatient", "watch", "watch.rests"),
    ("deaf", "watch", "watch.tells"),
    ("incident-nowhere", "watch", "watch.incidents"),
    ("lock", "any", "concurrency.watch-beside-calls"),
    ("hang", "prepare", "deadline.prepare"),
    ("error", "prepare", "prepare.works"),
    ("no-edits", "prepare", "prepare.gives-something"),
    ("counts", "prepare", "prepare.idempotent"),
    ("pid-in-edits", "prepare", "prepare.same-in-new-host"),
    ("any-device", "prepare", "prepare.unknown-device-refused"),
    ("any-slot", "prepare", "prepare.unknown-slot-refused"),
    ("one-at-a-time", "prepare", "prepare.beside-another"),
    ("env-twice", "prepare", "env.names"),
    ("loader-env", "prepare", "env.loader"),
    ("foreign-env", "prepare", "env.reserved"),
    ("other-device-node", "prepare", "nodes.granted"),
    ("node-outside-dev", "prepare", "nodes.under-dev"),
    ("memory-device", "prepare", "nodes.belong-to-device"),
    ("odd-node-mode", "prepare", "nodes.mode"),
    ("disk-node", "any", "nodes.character"),
    ("two-nodes-same", "prepare", "nodes.once"),
    ("mount-etc", "prepare", "mounts.sources"),
    ("mount-over-proc", "prepare", "mounts.targets"),
    ("loader-elsewhere", "prepare", "mounts.library-paths"),
    ("gid-0", "prepare", "edits.groups"),
    ("annotation-escapes", "prepare", "edits.annotations"),
    ("cpuset-nonsense", "prepare", "limits.lists"),
    ("quota-nonsense", "prepare", "limits.quota"),
    ("memory-too-much", "prepare", "limits.memory"),
    ("hang", "started", "deadline.started"),
    ("error", "started", "started.works"),
    ("once-only", "started", "started.repeated"),
    ("hang", "release", "deadline.release"),
    ("error", "release", "release.works"),
    ("once-only", "release", "release.twice"),
    ("from-memory", "release", "release.unknown-is-ok"),
    ("from-memory", "release", "release.in-new-host"),
    ("never-frees", "prepare", "release.frees"),
    ("needs-device", "release", "release.device-gone"),
    ("hang", "restore", "deadline.restore"),
    ("error", "restore", "restore.works"),
    ("once-only", "restore", "restore.repeated"),
    ("changes-edits", "restore", "restore.changes-nothing"),
    ("needs-device", "restore", "restore.device-gone"),
    ("no-release-after-restore", "any", "restore.then-release"),
    ("hang", "sample", "deadline.sample"),
    ("error", "sample", "sample.works"),
    ("stranger", "sample", "sample.known-devices"),
    ("no-unit", "sample", "sample.units"),
    ("over-one", "sample", "sample.ratios"),
    ("sample-escapes", "sample", "sample.names"),
    ("error-escapes", "sample", "errors.words"),
    ("panic", "sample", "errors.no-panic"),
    ("leak-file", "discover", "host.no-fd-left"),
    ("leak-thread", "discover", "host.no-thread-left"),
    ("leak-process", "discover", "host.no-process-left"),
    ("leak-memory", "discover", "host.no-memory-left"),
    ("answer-to-no-call", "discover", "host.no-output-on-fd3"),
    ("channel-garbage", "discover", "host.no-output-on-fd3"),
    ("hang-at-exit", "open", "host.ends"),
];

/// Long enough for a good answer on a busy machine; short for a test.
const SHORT: &str = "--set=deadline_ms=1200";

fn check(machine: &Machine, plugin: &str) -> Divvy {
    machine
        .divvy("--json plugin check")
        .arg(machine.plugin_file(plugin))
}

/// As `faulty` does it, in one check.
fn lies_to(mode: &str, op: &str, id: &str) {
    let machine = Machine::with(&["faulty"]);
    let mut divvy = check(&machine, "faulty").arg(format!("--only={id}"));
    if op == "manifest" {
        fs::write(machine.plugin_folder().join("faulty.manifest"), mode).unwrap();
    } else {
        let file = machine.path().join("kept");
        divvy = divvy.args([
            format!("--set=mode={mode}"),
            format!("--set=op={op}"),
            format!("--set=file={}", file.display()),
        ]);
    }
    if mode == "hang" {
        divvy = divvy.arg(SHORT);
    }
    let output = divvy.run().exits(1);
    let answer = output.json();
    let found = &answer["checks"][0];
    assert_eq!(found["check"], *id, "{output}");
    assert_eq!(found["verdict"], "fail", "{mode} in {op}\n{output}");
    for part in ["rule", "why", "remedy"] {
        assert!(
            !text(&found[part]).is_empty(),
            "{mode}: no {part}\n{output}"
        );
    }
    assert!(found["call"]["op"].is_string(), "{mode}: no call\n{output}");
    assert!(
        output.stdout.len() < 5_000,
        "{mode}: {} bytes",
        output.stdout.len()
    );
}

fn lies_about(belongs: impl Fn(&str) -> bool) {
    let mut tried = 0;
    for (mode, op, id) in LIES.iter().filter(|(_, _, id)| belongs(id)) {
        lies_to(mode, op, id);
        tried += 1;
    }
    assert!(tried > 0);
}

/// The groups of checks on what is asked before there are devices.
const EARLY: [&str; 5] = ["file.", "manifest.", "open.", "discover.", "watch."];
const EDITS: [&str; 5] = ["env.", "nodes.", "mounts.", "edits.", "limits."];

fn among(groups: &[&str], id: &str) -> bool {
    groups.iter().any(|group| id.starts_with(group))
}

#[test]
fn lies_about_the_machine_fail_their_checks() {
    lies_about(|id| among(&EARLY, id));
}

#[test]
fn lies_in_edits_fail_their_checks() {
    lies_about(|id| among(&EDITS, id));
}

#[test]
fn missed_deadlines_fail_their_checks() {
    lies_about(|id| id.starts_with("deadline."));
}

#[test]
fn bad_habits_fail_their_checks() {
    lies_about(|id| !among(&EARLY, id) && !among(&EDITS, id) && !id.starts_with("deadline."));
}

#[test]
fn every_check_can_fail() {
    let machine = Machine::with(&["faulty"]);
    let answer = check(&machine, "faulty").run().json();
    let checks = answer["checks"].as_array().unwrap().iter();
    let ids: BTreeSet<&str> = checks.map(|c| text(&c["check"])).collect();
    let lies = LIES.iter().map(|(_, _, id)| *id);
    // Of which the file itself is the lie: `a_file_that_others_can_change_…`.
    let lies: BTreeSet<&str> = lies.chain(["file.safe"]).collect();
    assert_eq!(ids, lies, "checks, and those for which there is a lie");
    assert!(ids.len() >= 40, "{} checks", ids.len());
}

#[test]
fn our_own_plugins_keep_the_contract() {
    let machine = Machine::with(&["cpu", "faulty"]);
    // `faulty` is honest until it is told otherwise.
    for plugin in ["cpu", "faulty"] {
        let output = check(&machine, plugin).run().succeeds();
        let answer = output.json();
        assert_eq!(answer["failed"], 0, "{output}");
        assert!(answer["passed"].as_u64() > Some(80), "{output}");
        assert_eq!(answer["plugin"]["name"], *plugin);
    }
}

#[test]
fn the_example_keeps_the_contract() {
    let machine = Machine::new();
    let npus = Npus::new(&machine);
    npus.plug("npu0", "NPU-7A01", "240:0");
    npus.plug("npu1", "NPU-7A02", "240:1");
    machine.install("npu", &fs::read(npu::built()).unwrap());
    let file = machine.plugin_file("npu");
    let root = format!("--set=root={}", npus.root().display());
    let output = machine.divvy("plugin check").arg(&file).arg(&root).run();
    output
        .succeeds()
        .says("plugin npu 0.1.0")
        .says(", 0 failed, ");
    assert_eq!(
        npus.claims(),
        Vec::<String>::new(),
        "what it prepared is released"
    );
    let output = machine.divvy("plugin dev").arg(file).arg(root).run();
    output
        .succeeds()
        .says("drill: the host crashes in the middle of prepare")
        .says("signal 9 (SIGKILL)), starts a host, open, restore, and asks once more")
        .says("ok     the same edits, ")
        .says("drill: the host hangs in release")
        .says("ok     released, and the devices are as they were")
        .quietly();
    assert_eq!(
        npus.claims(),
        Vec::<String>::new(),
        "what it prepared is released"
    );
}

#[test]
fn without_hardware_the_manifest_is_checked_and_the_rest_skipped() {
    let machine = Machine::with(&["faulty"]);
    for op in ["open", "discover"] {
        let settings = ["--set=mode=absent".to_owned(), format!("--set=op={op}")];
        let mut divvy = machine
            .divvy("plugin check")
            .arg(machine.plugin_file("faulty"));
        divvy = divvy.args(&settings);
        let output = divvy.run().succeeds();
        let output = output
            .says("ok    manifest.name")
            .says("ok    manifest.draws")
            .says(" checks were skipped: not here: no such hardware, as asked");
        assert!(output.stdout.contains(", 0 failed, "), "{output}");
        let divvy = machine
            .divvy("plugin dev")
            .arg(machine.plugin_file("faulty"));
        let output = divvy.args(&settings).run().succeeds();
        output.says("agent  goes no further: not here: no such hardware, as asked");
    }
}

#[test]
fn a_crash_is_told_with_the_call_and_the_signal() {
    let machine = Machine::with(&["faulty"]);
    let divvy = machine.divvy("plugin check --set mode=crash --set op=prepare");
    let output = divvy.arg(machine.plugin_file("faulty")).run().exits(1);
    output
        .says("FAIL  prepare.works ")
        .says("prepare failed: it was ended by signal 11 (SIGSEGV)")
        .says("prepare {\"allocation\":\"c")
        .says("Remedy: ")
        // Those that need no prepare are made all the same.
        .says("ok    watch.tells")
        .says("ok    release.unknown-is-ok");
}

#[test]
fn a_file_that_others_can_change_is_not_loaded() {
    let machine = Machine::with(&["faulty"]);
    let file = machine.plugin_file("faulty");
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    let output = check(&machine, "faulty").run().exits(1);
    let answer = output.json();
    assert_eq!(answer["failed"], 1, "{output}");
    assert_eq!(answer["passed"], 0, "{output}");
    assert_eq!(answer["checks"][0]["check"], "file.safe");
    assert!(text(&answer["checks"][0]["why"]).contains("group or others may write"));
    let output = machine.divvy("plugin dev").arg(file).run();
    output.exits(125).complains("group or others may write");
}

#[test]
fn what_is_no_plugin_fails_the_first_check() {
    let machine = Machine::new();
    machine.install("odd", b"not a shared object");
    let output = machine
        .divvy("plugin check")
        .arg(machine.plugin_file("odd"))
        .run();
    output
        .exits(1)
        .says("FAIL  file.loads")
        .says("not a shared object that can be loaded here")
        .says(" checks were skipped: manifest failed: it is not a shared object");
}

#[test]
fn words_that_mean_nothing_are_refused() {
    let machine = Machine::with(&["faulty"]);
    let says = |words: &str, code: i32, complaint: &str| {
        let divvy = machine.divvy(words).arg(machine.plugin_file("faulty"));
        divvy.run().exits(code).complains(complaint);
    };
    says("plugin check --only no-such", 2, "[no_such_check]");
    says("plugin check --set mode", 2, "[invalid_setting]");
    says("plugin check --set deadline_ms=0", 125, "deadline_ms");
    says("plugin dev --set deadline_ms=soon", 125, "deadline_ms");
    for verb in ["check", "dev"] {
        let output = machine
            .divvy("plugin")
            .args([verb, "/nonexistent.so"])
            .run();
        output.exits(125).complains("/nonexistent.so");
    }
    // What the agent would say of a setting that there is not.
    let output = machine.divvy("plugin check --set colour=red");
    let output = output.arg(machine.plugin_file("faulty")).run().exits(1);
    output.says("it has no setting \"colour\"; its settings are: mode, op,");
}

#[test]
fn the_trace_says_where_it_went_wrong() {
    let machine = Machine::with(&["faulty"]);
    for (mode, op, words) in [
        (
            "error",
            "prepare",
            "WRONG  prepare was refused: the driver said no, as asked",
        ),
        (
            "mount-etc",
            "prepare",
            "mounts.sources: Mount libraries from",
        ),
        (
            "abort",
            "release",
            "WRONG  release failed: it was ended by signal 6 (SIGABRT)",
        ),
        (
            "pid-in-edits",
            "prepare",
            "WRONG  the edits differ from those before the crash",
        ),
        ("error", "restore", "WRONG  restore was refused"),
    ] {
        let divvy = machine
            .divvy("plugin dev")
            .arg(machine.plugin_file("faulty"));
        let settings = [format!("--set=mode={mode}"), format!("--set=op={op}")];
        divvy.args(settings).run().exits(1).says(words);
    }
    let output = machine
        .divvy("--json plugin dev")
        .arg(machine.plugin_file("faulty"));
    let answer = output.run().succeeds().json();
    let lines = answer.as_array().unwrap();
    let calls: Vec<&str> = lines
        .iter()
        .filter_map(|l| l["call"]["op"].as_str())
        .collect();
    assert_eq!(
        calls,
        [
            "manifest", "open", "discover", "prepare", "started", "restore", "release"
        ]
    );
}

#[test]
fn neither_check_nor_dev_leaves_a_host_or_a_state() {
    let machine = Machine::with(&["faulty"]);
    for verb in ["check", "dev"] {
        let divvy = machine
            .divvy("plugin")
            .arg(verb)
            .arg(machine.plugin_file("faulty"));
        let _ = divvy.run().succeeds();
        assert!(
            divvy_tests::eventually(|| machine.hosts().is_empty()),
            "{verb}"
        );
        assert!(!machine.state().exists(), "{verb} made a state folder");
    }
}

#[test]
fn ctrl_c_gives_back_what_is_prepared() {
    let machine = Machine::new();
    machine.install("npu", &fs::read(npu::built()).unwrap());
    let npus = Npus::new(&machine);
    npus.plug("npu0", "NPU-7A01", "240:0");
    let root = format!("--set=root={}", npus.root().display());
    // `dev` holds what it prepared for the second that its drill of a hang takes.
    let divvy = machine
        .divvy("plugin dev")
        .arg(machine.plugin_file("npu"))
        .arg(root);
    let mut running = divvy.spawn();
    assert!(divvy_tests::eventually(|| running
        .stdout()
        .contains("drill: the host hangs")));
    assert_eq!(npus.claims().len(), 1, "it is in the middle");
    running.signal(rustix::process::Signal::INT);
    let output = running.output().exits(130);
    output.complains("interrupted; what was prepared is released");
    assert_eq!(npus.claims(), Vec::<String>::new());
    assert!(divvy_tests::eventually(|| machine.hosts().is_empty()));
}

#[test]
fn a_changed_file_is_tried_again() {
    let machine = Machine::with(&["faulty"]);
    let file = machine.plugin_file("faulty");
    let mut running = machine.divvy("plugin dev --watch").arg(&file).spawn();
    let mut times = |n: usize| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while running
            .stdout()
            .matches("the devices are as they were")
            .count()
            < n
        {
            assert!(
                std::time::Instant::now() < end,
                "not {n} times:\n{}",
                running.stdout()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    times(1);
    let bytes = fs::read(&file).unwrap();
    machine.install("faulty", &bytes);
    times(2);
    running.signal(rustix::process::Signal::INT);
    let _ = running.output().exits(130);
}

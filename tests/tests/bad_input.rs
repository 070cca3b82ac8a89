//! What cannot be granted is refused: with its exit code, a stable code, a
//! remedy, and a state that is what it was.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use divvy_tests::rootfs::{
    busybox, command, dump, held, job, machine, nothing_is_left, records, runtimes, sh, start, work,
};
use divvy_tests::{Machine, Output, requires};

/// A machine that has a ledger, so that there is something to leave alone.
fn lived_in() -> Machine {
    let machine = machine();
    sh(&machine, "built-in", "--name earlier", "true").succeeds();
    machine
}

/// Runs `divvy run` with these words on top; it must be refused so.
#[track_caller]
fn refused(machine: &Machine, options: &[&str], exit: i32, code: &str, remedy: &str) -> Output {
    let before = dump(machine);
    let output = machine
        .divvy("run --runtime built-in")
        .folder(work(machine))
        .args(options)
        .args(["--", "touch", "started"])
        .run()
        .exits(exit)
        .complains(&format!("[{code}]"))
        .complains(remedy);
    assert_eq!(output.stdout, "", "nothing on stdout\n{output}");
    assert_eq!(output.stderr.lines().count(), 1, "one line\n{output}");
    assert!(
        !work(machine).join("started").exists(),
        "nothing was started\n{output}"
    );
    assert_eq!(dump(machine), before, "the state is what it was\n{output}");
    output
}

#[test]
fn an_amount_that_is_none_is_refused_with_the_reason() {
    requires!(root);
    let machine = lived_in();
    let digits = "123456789012345678901234567890";
    for (options, code, remedy) in [
        (["--cpu", ""], "invalid_amount", "empty"),
        (["--cpu", "-1"], "invalid_amount", "negative"),
        (["--cpu", "-0"], "invalid_amount", "negative"),
        (["--cpu", "-0.5"], "invalid_amount", "negative"),
        (["--cpu", "NaN"], "invalid_amount", "plain decimal number"),
        (["--cpu", "inf"], "invalid_amount", "plain decimal number"),
        (["--cpu", "1e308"], "invalid_amount", "plain decimal number"),
        (["--cpu", "0x10"], "invalid_amount", "plain number of cores"),
        (["--cpu", "1,5"], "invalid_amount", "plain decimal number"),
        (["--cpu", "1.5.2"], "invalid_amount", "plain decimal number"),
        (["--cpu", "٣"], "invalid_amount", "plain decimal number"),
        (["--cpu", "half"], "invalid_amount", "plain decimal number"),
        (["--cpu", digits], "invalid_amount", "larger than"),
        (["--cpu", "0.12345678901"], "invalid_amount", "9 digits"),
        (["--mem", "-1MiB"], "invalid_amount", "negative"),
        (["--mem", "10XB"], "invalid_amount", "MiB"),
        (["--mem", "10 parsecs"], "invalid_amount", "MiB"),
        (["--mem", "0.5"], "", "nearest legal amounts: 1 "),
        (["--slot", "cpu"], "invalid_amount", "NAME=AMOUNT"),
        (["--slot", "cpu=-1"], "invalid_amount", "negative"),
        (["--shm-size", "huge"], "invalid_amount", "--shm-size"),
    ] {
        let exit = if options[1] == "cpu" { 2 } else { 125 };
        let code = if code.is_empty() {
            "not_multiple_of_quantum"
        } else {
            code
        };
        refused(&machine, &options, exit, code, remedy);
    }
}

#[test]
fn an_amount_between_the_steps_is_refused_with_the_nearest_legal_ones() {
    requires!(root);
    let machine = lived_in();
    for (asked, below, above) in [
        ("0.333", "0.33", "0.34"),
        ("0.001", "0.01", "0.01"),
        ("1.999", "1.99", "2"),
    ] {
        let output = refused(
            &machine,
            &["--cpu", asked],
            125,
            "not_multiple_of_quantum",
            below,
        );
        output.complains(above);
    }
}

#[test]
fn more_than_there_is_is_refused_with_what_there_is() {
    requires!(root);
    let machine = lived_in();
    refused(&machine, &["--cpu", "4096"], 125, "insufficient", "4096");
    refused(
        &machine,
        &["--cpu", "1", "--mem", "900TiB"],
        125,
        "insufficient",
        "mem",
    );
    refused(
        &machine,
        &["--cpu", "1", "--slot", "cpu=1"],
        2,
        "invalid_amount",
        "twice",
    );
}

#[test]
fn a_slot_that_nobody_offers_is_refused_with_those_that_are_offered() {
    requires!(root);
    let machine = lived_in();
    refused(
        &machine,
        &["--slot", "abacus.beads=3"],
        125,
        "unknown_slot",
        "cpu",
    );
    refused(&machine, &["--slot", "CPU=1"], 125, "unknown_slot", "cpu");
}

#[test]
fn ten_tenths_are_one() {
    requires!(root);
    let machine = machine();
    let cores = text_count(&machine);
    // Whole cores first, so that one is left.
    if cores > 1 {
        start(
            &machine,
            "built-in",
            "rest",
            &format!("--cpu {}", cores - 1),
            "sleep 60",
        );
    }
    for n in 0..10 {
        start(
            &machine,
            "built-in",
            &format!("tenth{n}"),
            "--cpu 0.1 --mem 16MiB",
            "sleep 60",
        );
    }
    let full = held(&machine)
        .iter()
        .filter(|h| h.ends_with(" cores 1"))
        .count();
    assert_eq!(full, cores, "{:?}", held(&machine));
    let refused = refused(&machine, &["--cpu", "0.01"], 125, "insufficient", "tenth0");
    assert!(
        refused.stderr.contains("rest") || cores == 1,
        "who holds it\n{refused}"
    );
}

fn text_count(machine: &Machine) -> usize {
    let answer = machine.divvy("--json devices").run().succeeds().json();
    let devices = answer["devices"].as_array().expect("devices").clone();
    devices
        .iter()
        .filter(|d| d["usage"]["cores"]["total"] == "1")
        .count()
}

#[test]
fn a_root_that_is_none_is_refused() {
    requires!(root);
    let machine = lived_in();
    let (empty, file) = (machine.path().join("empty"), machine.path().join("file"));
    fs::create_dir(&empty).unwrap();
    fs::write(&file, "").unwrap();
    let path = |p: &std::path::Path| p.to_str().unwrap().to_owned();
    refused(
        &machine,
        &["--rootfs", "/nonexistent"],
        125,
        "invalid_root",
        "no such folder",
    );
    refused(
        &machine,
        &["--rootfs", &path(&file)],
        125,
        "invalid_root",
        "no such folder",
    );
    refused(
        &machine,
        &["--rootfs", &path(&empty)],
        125,
        "invalid_root",
        "no root filesystem",
    );

    let before = dump(&machine);
    let image = machine
        .divvy("run")
        .arg("/nonexistent.tar")
        .run()
        .exits(125);
    image
        .complains("[invalid_root]")
        .complains("divvy run -- /nonexistent.tar");
    let image = machine.divvy("run").arg(&file).run().exits(125);
    assert!(image.stderr.contains("[image_"), "{image}");
    machine
        .divvy("run")
        .run()
        .exits(125)
        .complains("[no_command]")
        .complains("`--`");
    assert_eq!(dump(&machine), before);
}

#[test]
fn a_command_that_cannot_be_run_says_so_with_the_shells_codes() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        fs::write(work(&machine).join("plain"), "no program").unwrap();
        let run = |word: &str| job(&machine, runtime, "").args(["--", word]).run();
        run("no-such-program")
            .exits(127)
            .complains("no-such-program");
        run("/no/such/program")
            .exits(127)
            .complains("/no/such/program");
        run("./plain").exits(126).complains("plain");
        run("/etc").exits(126).complains("/etc");
        nothing_is_left(&machine);
    }
}

#[test]
fn a_name_that_is_taken_or_none_is_refused() {
    requires!(root);
    let machine = lived_in();
    refused(
        &machine,
        &["--name", "earlier"],
        125,
        "name_taken",
        "divvy rm earlier",
    );
    for name in [
        "",
        "-x",
        "a b",
        "a/b",
        "../a",
        "ü",
        "a\nb",
        "\u{1b}[31m",
        &"x".repeat(300),
    ] {
        let flag = format!("--name={name}");
        refused(&machine, &[&flag], 125, "invalid_name", "name");
    }
}

#[test]
fn a_workload_that_is_not_there_is_said_to_be_so_by_every_verb() {
    requires!(root);
    let machine = lived_in();
    let before = dump(&machine);
    for verb in ["describe", "logs", "logs -f", "stop", "rm", "rm -f"] {
        let output = machine.divvy(verb).arg("nobody").run().exits(125);
        output
            .complains("[unknown_workload]")
            .complains("divvy ps -a");
    }
    let output = machine.divvy("exec nobody true").run().exits(125);
    output.complains("[unknown_workload]");
    let output = machine.divvy("exec earlier true").run().exits(125);
    output.complains("[not_running]");
    assert_eq!(dump(&machine), before);
}

#[test]
fn a_plugin_folder_that_is_missing_empty_or_anybodys_is_refused() {
    requires!(root);
    let machine = lived_in();
    let before = dump(&machine);
    let with = |folder: &str| {
        let mut command = Command::new(divvy_tests::rootfs::program());
        command
            .arg("--state")
            .arg(machine.state())
            .args(["--plugin-dir", folder]);
        let output = command
            .args(["run", "--cpu", "1", "--", "true"])
            .current_dir(work(&machine))
            .output()
            .expect("divvy");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, said) = with("/nonexistent");
    assert_eq!(code, Some(125), "{said}");
    assert!(
        said.contains("[plugin_folder]") && said.contains("--plugin-dir"),
        "{said}"
    );

    let empty = machine.path().join("no-plugins");
    fs::create_dir(&empty).unwrap();
    fs::set_permissions(&empty, Permissions::from_mode(0o755)).unwrap();
    let (code, said) = with(empty.to_str().unwrap());
    assert_eq!(code, Some(125), "{said}");
    assert!(
        said.contains("[unknown_slot]") && said.contains("plugin"),
        "{said}"
    );

    for mode in [0o777, 0o1777, 0o775] {
        fs::set_permissions(machine.plugin_folder(), Permissions::from_mode(mode)).unwrap();
        let (code, said) = with(machine.plugin_folder().to_str().unwrap());
        assert_eq!(code, Some(125), "{mode:o}: {said}");
        assert!(said.contains("[plugin_folder]"), "{mode:o}: {said}");
        assert!(said.contains("chmod go-w"), "{mode:o}: {said}");
    }
    fs::set_permissions(machine.plugin_folder(), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(dump(&machine), before);
}

#[test]
fn a_setting_that_no_plugin_has_is_refused() {
    requires!(root);
    let machine = lived_in();
    refused(
        &machine,
        &["--set", "nonsense"],
        2,
        "invalid_setting",
        "PLUGIN.KEY=VALUE",
    );
    refused(
        &machine,
        &["--set", "cpu="],
        2,
        "invalid_setting",
        "PLUGIN.KEY=VALUE",
    );
    refused(
        &machine,
        &["--set", "abacus.beads=1"],
        125,
        "invalid_setting",
        "abacus",
    );
    let output = machine
        .divvy("--set cpu.abacus=1 run --cpu 1 -- true")
        .run()
        .exits(125);
    output.complains("abacus").complains("cpu");
}

#[test]
fn words_that_cannot_be_read_exit_with_two() {
    requires!(root);
    let machine = machine();
    for words in [
        "fly",
        "run --detatch=yes -- true",
        "--jason ps",
        "stop",
        "exec x",
        "stop -t soon x",
    ] {
        machine.divvy(words).run().exits(2).complains("--help");
    }
}

#[test]
fn with_json_an_error_is_a_document() {
    requires!(root);
    let machine = lived_in();
    let output = machine
        .divvy("--json run --cpu NaN -- true")
        .run()
        .exits(125);
    let error: serde_json::Value = serde_json::from_str(&output.stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "invalid_amount", "{output}");
    assert!(
        error["error"]["message"]
            .as_str()
            .is_some_and(|m| m.contains("NaN")),
        "{output}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    requires!(root);
    let machine = lived_in();
    // A pipe whose reader is gone, as after `| head`.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for words in [
        "--json ps -a",
        "ps -a",
        "devices",
        "describe earlier",
        "state dump",
    ] {
        let mut command = command(&machine, words);
        let output = command
            .stdout(writer.try_clone().unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{words}: {said}");
    }
    assert_eq!(records(&machine).len(), 1);
}

#[test]
fn what_others_may_not_do_is_said_to_need_root() {
    requires!(root);
    let machine = lived_in();
    fs::set_permissions(machine.path(), Permissions::from_mode(0o755)).unwrap();
    for words in ["run -- true", "ps", "stop earlier", "state dump"] {
        let output = command_as_nobody(&machine, words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{words}: {said}");
        assert!(
            said.contains("[needs_root]") && said.contains("sudo divvy"),
            "{words}: {said}"
        );
    }
}

fn command_as_nobody(machine: &Machine, words: &str) -> std::process::Output {
    use std::os::unix::process::CommandExt;
    // A copy that anybody may run.
    let copy = machine.path().join("divvy");
    if !copy.exists() {
        fs::copy(divvy_tests::rootfs::program(), &copy).unwrap();
    }
    let mut command = Command::new(copy);
    command
        .arg("--state")
        .arg(machine.state())
        .arg("--plugin-dir")
        .arg(machine.plugin_folder());
    command
        .args(words.split_whitespace())
        .current_dir("/")
        .uid(65534)
        .gid(65534);
    command.output().expect("divvy")
}

#[test]
fn a_user_that_the_root_does_not_know_is_refused() {
    requires!(root);
    let machine = lived_in();
    let root = machine.path().join("root");
    fs::create_dir(&root).unwrap();
    busybox(&root);
    let root = root.to_str().unwrap().to_owned();
    for user in ["bob", "alice:wheel", "-1", "99999999999"] {
        let flag = format!("--user={user}");
        let before = dump(&machine);
        let output = machine
            .divvy("run --runtime built-in --rootfs")
            .args([&root, &flag, "--", "true"])
            .run()
            .exits(125);
        assert!(output.stderr.trim_end().ends_with(']'), "a code\n{output}");
        assert_eq!(dump(&machine), before);
    }
}

#[test]
fn several_names_each_have_their_turn() {
    requires!(root);
    let machine = divvy_tests::rootfs::machine();
    for name in ["a", "b"] {
        divvy_tests::rootfs::start(&machine, "built-in", name, "", "exec sleep 600");
    }
    let stopped = machine.divvy("stop nobody a nothing b").run().exits(125);
    assert_eq!(stopped.stdout, "a\nb\n", "{stopped}");
    stopped.complains("nobody").complains("nothing");
    let removed = machine.divvy("--json rm a nobody b").run().exits(125);
    assert_eq!(removed.json()["removed"], serde_json::json!(["a", "b"]));
}

#[test]
fn programs_are_told_of_bad_words_in_json() {
    let machine = Machine::with(&["cpu"]);
    let output = machine.divvy("--json ps --no-such-option").run().exits(2);
    output.complains(r#"{"error":{"code":"invalid_words","message":"#);
    machine
        .divvy("run --dry-run --name a/b -- true")
        .run()
        .exits(125)
        .complains("a/b");
    std::fs::write(machine.config(), "state = 1\n[agent]\n").unwrap();
    let wrong = machine.divvy("devices").run().exits(125);
    wrong.complains("line 1, column 9: ");
    let wrong = machine.divvy("devices").run();
    assert!(!wrong.stderr.contains("\\u{a}"), "{wrong}");
}

//! What would fit, and what a file of requests is answered; and that `run` does
//! what `fit` says.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;

use divvy_tests::rootfs::{dump, held, machine, nothing_is_left, sh, start};
use divvy_tests::{Machine, requires};
use serde_json::{Value, json};

fn fit(machine: &Machine, words: &str) -> Value {
    let output = machine
        .divvy(&format!("fit {words} --json"))
        .run()
        .succeeds();
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn what_fits_is_what_run_gives_and_nothing_is_taken() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "--name earlier", "true").succeeds();
    let before = dump(&machine);
    let would = fit(&machine, "--cpu 0.5 --mem 64MiB");
    assert_eq!(dump(&machine), before);
    assert_eq!(would["granted"], json!({ "cpu": "0.5", "mem": "67108864" }));
    machine
        .divvy("run --dry-run --cpu 0.5 --mem 64MiB -- true")
        .run()
        .succeeds()
        .says("it fits: cpu 0.5, mem 64 MiB")
        .says("was free; pack: ");
    assert_eq!(dump(&machine), before);

    start(
        &machine,
        "built-in",
        "w",
        "--cpu 0.5 --mem 64MiB",
        "sleep 60",
    );
    let output = machine.divvy("describe w --json").run().succeeds();
    let record: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(record["workload"]["slices"], would["slices"]);
    assert_eq!(record["workload"]["why"], would["why"]);
    machine.divvy("rm -f w").run().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn what_does_not_fit_says_who_is_in_the_way() {
    requires!(root);
    let machine = machine();
    start(
        &machine,
        "built-in",
        "w",
        "--cpu 0.5 --mem 64MiB",
        "sleep 60",
    );
    let all = machine.divvy("devices --json").run().succeeds();
    let all: Value = serde_json::from_str(&all.stdout).unwrap();
    let cores = all["devices"].as_array().unwrap();
    let cores = cores.iter().filter(|d| d["kind"] == "core").count();
    let output = machine
        .divvy(&format!("fit --cpu {cores} --json"))
        .run()
        .exits(125);
    let error: Value = serde_json::from_str(&output.stderr).unwrap();
    let refusal = &error["error"]["refusal"];
    assert_eq!(error["error"]["code"], "insufficient", "{output}");
    assert_eq!(refusal["would_fit_without"], json!(["w"]), "{output}");
    let room = &refusal["rooms"][0];
    assert_eq!(
        (&room["slot"], &room["total"]),
        (&json!("cpu"), &json!(cores.to_string()))
    );
    assert!(!refusal["rejected"].as_array().unwrap().is_empty());
    // What it calls the largest amount is to be had.
    let largest = room["largest"].as_str().unwrap();
    fit(&machine, &format!("--cpu {largest} --mem 64MiB"));
    // The same machine, in a scenario: without w it fits.
    let scenario = json!({
        "format": "divvy-scenario/1",
        "devices": all,
        "steps": [
            { "allocate": { "cpu": cores.to_string(), "mem": "1000" } },
            { "release": "w" },
            { "allocate": { "cpu": cores.to_string(), "mem": "1000" } },
        ],
    });
    let answers = simulate(&machine, &scenario.to_string());
    assert_eq!(answers[0]["error"]["code"], "insufficient");
    assert!(answers[2]["ok"]["cpu"].is_object(), "{answers:?}");
    machine.divvy("rm -f w").run().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn selectors_fallbacks_and_neighbours() {
    requires!(root);
    let machine = machine();
    let device = |value: &Value| value["slices"][0]["device"].as_str().unwrap().to_owned();
    let first = device(&fit(&machine, "--cpu 0.5"));
    let other = machine
        .divvy("fit --json --cpu 0.5 --where")
        .args([format!("device.id != '{first}'")])
        .run();
    if cores() > 1 {
        let other: Value = serde_json::from_str(&other.succeeds().stdout).unwrap();
        assert_ne!(device(&other), first);
    } else {
        other.exits(125).complains("[insufficient]");
    }
    machine
        .divvy("fit --cpu 1 --where gpu==1")
        .run()
        .exits(125)
        .complains("[invalid_selector]");
    machine
        .divvy("fit --gpu 1")
        .run()
        .exits(125)
        .complains("gpu: no plugin here offers this slot; the slots are: cpu, mem [unknown_slot]");
    let instead = fit(&machine, "--gpu 1 --fallback cpu=0.25,mem=64MiB");
    assert_eq!(
        instead["granted"],
        json!({ "cpu": "0.25", "mem": "67108864" })
    );
    machine
        .divvy("fit --cpu 1 --apart-from nobody")
        .run()
        .exits(125)
        .complains("[unknown_workload]");
    for words in [
        "--gpu 1 --gpu-mem 1GiB",
        "--gpu-compute 0.5",
        "--policy best",
    ] {
        machine.divvy(&format!("fit {words}")).run().exits(2);
    }
}

fn cores() -> usize {
    let machine = machine();
    let output = machine.divvy("devices --json").run().succeeds();
    let all: Value = serde_json::from_str(&output.stdout).unwrap();
    let devices = all["devices"].as_array().unwrap();
    devices.iter().filter(|d| d["kind"] == "core").count()
}

// === simulate ===

fn simulate(machine: &Machine, scenario: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scenario.json");
    fs::write(&file, scenario).unwrap();
    let output = machine.divvy("simulate").args([&file]).run().succeeds();
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(answer["format"], "divvy-scenario-result/1");
    answer["steps"].as_array().unwrap().clone()
}

/// Every scenario in the documentation is answered as it says.
#[test]
fn the_documentation_is_right() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/allocation.md");
    let text = fs::read_to_string(page).unwrap();
    let blocks = |kind: &str| -> Vec<String> {
        let begin = format!("```json {kind}\n");
        let block = |part: &str| part.split("\n```").next().unwrap().to_owned();
        text.split(&begin).skip(1).map(block).collect()
    };
    let (scenarios, answers) = (blocks("scenario"), blocks("answer"));
    assert!(scenarios.len() >= 3 && scenarios.len() == answers.len());
    let machine = Machine::with(&[]);
    for (scenario, expected) in scenarios.iter().zip(answers) {
        let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
        let answers: Vec<Value> = simulate(&machine, scenario)
            .into_iter()
            .map(|step| match step.get("error") {
                Some(error) => json!({ "error": error["code"] }),
                None => json!({ "ok": step["ok"] }),
            })
            .collect();
        assert_eq!(answers, expected, "{scenario}");
    }
}

#[test]
fn what_is_no_scenario_is_refused() {
    let machine = Machine::with(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.json");
    for text in [
        "",
        "{}",
        "[]",
        "{\"format\": \"divvy-scenario/9\", \"devices\": []}",
    ] {
        fs::write(&file, text).unwrap();
        machine
            .divvy("simulate")
            .args([&file])
            .run()
            .exits(2)
            .complains("[invalid_scenario]");
    }
    machine
        .divvy("simulate")
        .args([folder.path().join("none.json")])
        .run()
        .exits(2)
        .complains("cannot be read");
}

// === nothing runs without limits ===

/// A newcomer's find: with the CPU plugin down, a job that named no amount ran
/// with none.
#[test]
fn while_the_plugin_that_limits_is_down_nothing_runs() {
    requires!(root);
    let machine = machine();
    for (set, code) in [
        ("cpu.reserved_cores=1.5", "invalid_setting"),
        ("cpu.nosuch=2", "invalid_setting"),
        ("cpu.root=/nonexistent", "invalid_setting"),
    ] {
        let words = format!("run --runtime built-in --set {set} -- true");
        let output = machine.divvy(&words).run().exits(125);
        assert!(output.stderr.contains(code), "{output}");
    }
    let bare = Machine::with(&[]);
    bare.divvy("run --runtime built-in -- true")
        .run()
        .exits(125)
        .complains("[nothing_granted]");
    let garbage = Machine::with(&["garbage"]);
    garbage
        .divvy("run --runtime built-in -- true")
        .run()
        .exits(125);
    assert_eq!(held(&machine), Vec::<String>::new());
    nothing_is_left(&machine);
}

#[test]
fn memory_without_its_unit_is_noticed() {
    requires!(root);
    let machine = machine();
    machine
        .divvy("run --runtime built-in --mem 64 -- true")
        .run()
        .exits(125)
        .complains("mem: 64 B asked; a container needs 4 MiB to start. Write the unit: --mem 64MiB [invalid_amount]");
    nothing_is_left(&machine);
}

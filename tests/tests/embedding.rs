//! Programs with Divvy in them: the examples of docs/embedding.md, as they are.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::process::Command;

use divvy_tests::rootfs::nothing_is_left;
use divvy_tests::{Machine, requires};

/// Runs an example on a machine; what it says.
#[track_caller]
fn example(machine: &Machine, name: &str) -> String {
    let deps = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    let program = deps.with_file_name(format!("embedding-{name}"));
    let output = Command::new(&program)
        .arg(machine.state())
        .arg(machine.plugin_folder())
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{name}: {:?}\n{text}\n{said}",
        output.status
    );
    text
}

#[test]
fn the_async_example_runs_with_and_without_an_agent() {
    requires!(root);
    let machine = Machine::with(&["cpu"]);
    let alone = example(&machine, "async");
    assert!(alone.contains("cpu/core-0-0 is a "), "{alone}");
    assert!(
        alone.ends_with("it says: half a core\nit ended with Some(0)\n"),
        "{alone}"
    );
    let agent = machine.default_agent();
    assert_eq!(example(&machine, "async"), alone);
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn the_blocking_example_runs_with_and_without_an_agent() {
    requires!(root);
    let machine = Machine::with(&["cpu"]);
    let alone = example(&machine, "blocking");
    assert!(alone.contains("it fits: 0.25 of cpu"), "{alone}");
    assert!(
        alone.contains("it does not [insufficient]: cpu: 100000 asked"),
        "{alone}"
    );
    assert!(
        alone.ends_with("working\nit ended with Some(3)\n"),
        "{alone}"
    );
    let agent = machine.default_agent();
    assert_eq!(example(&machine, "blocking"), alone);
    agent.end().succeeds();
    nothing_is_left(&machine);
}

/// The document shows the examples that are run.
#[test]
fn the_document_shows_them_as_they_are() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let document = std::fs::read_to_string(format!("{root}/docs/embedding.md")).unwrap();
    for name in ["async", "blocking"] {
        let file = std::fs::read_to_string(format!("{root}/examples/embedding/{name}.rs")).unwrap();
        assert!(
            document.contains(&format!("```rust\n{file}```")),
            "{name}.rs differs"
        );
    }
}

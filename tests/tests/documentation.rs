//! `docs/plugins.md`, step by step: its `sh run` blocks are run in one shell, and
//! what stands in the `text` block under each must be in its answer.
#![allow(clippy::unwrap_used)] // a test may

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use divvy_tests::{Machine, npu, requires, rootfs};

/// A block to run, and lines that must be in its answer, in this order.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    script: String,
    says: Vec<String>,
}

/// The steps of a document.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match (kind, steps.last_mut()) {
            ("sh run", _) => steps.push(Step {
                script: block.join("\n"),
                says: vec![],
            }),
            ("text", Some(step)) => step.says = block.iter().map(|line| words(line)).collect(),
            _ => panic!("a block of kind {kind:?}, which nothing runs"),
        }
    }
    steps
}

/// A line's words with one blank between them: columns are for people.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Is the line so? `…` is anything.
fn is_like(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The first line that should be in the answer and is not.
fn missing<'a>(answer: &str, says: &'a [String]) -> Option<&'a String> {
    let mut lines = answer.lines().map(words);
    says.iter()
        .find(|pattern| !lines.any(|line| is_like(&line, pattern)))
}

#[test]
fn an_authors_first_hour() {
    requires!(root);
    let document = fs::read_to_string(npu::repository().join("docs/plugins.md")).unwrap();
    let steps = steps(&document);
    assert!(steps.len() >= 8, "{} steps", steps.len());

    // An installed Divvy, and its source beside the author.
    let machine = Machine::with(&["cpu"]);
    let (bin, lib) = (
        machine.path().join("bin"),
        machine.path().join("lib/divvy/plugins"),
    );
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&lib).unwrap();
    symlink(rootfs::program(), bin.join("divvy")).unwrap();
    let cpu = machine.plugin_file("cpu");
    fs::rename(&cpu, lib.join(cpu.file_name().unwrap())).unwrap();
    let author = machine.path().join("author");
    fs::create_dir(&author).unwrap();
    // Whatever the developer's umask: a plugin folder is safe all the way up.
    fs::set_permissions(&author, Permissions::from_mode(0o755)).unwrap();
    symlink(npu::repository(), author.join("divvy")).unwrap();

    // One script, so that `cd` and `export` last; each answer in a file.
    let answer = |n: usize| machine.path().join(format!("answer-{n}"));
    let mut script = "set -euo pipefail\n".to_owned();
    for (n, step) in steps.iter().enumerate() {
        let file = answer(n);
        script += &format!("exec > {} 2>&1\n{}\n", file.display(), step.script);
    }
    let folder_of_cargo = npu::cargo().parent().map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [bin]
        .into_iter()
        .chain(folder_of_cargo)
        .chain(std::env::split_paths(&path));
    let status = npu::building(&mut Command::new("bash"))
        .args(["-c", &script])
        .current_dir(&author)
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("DIVVY_STATE", machine.state())
        // What the developer has set is not the author's.
        .env_remove("DIVVY_PLUGIN_DIR")
        .env_remove("DIVVY_LOG")
        .status()
        .unwrap();
    for (n, step) in steps.iter().enumerate() {
        let said = fs::read_to_string(answer(n)).unwrap_or_default();
        let missing = missing(&said, &step.says);
        let last = !answer(n + 1).exists();
        assert!(
            missing.is_none() && (status.success() || !last),
            "step {}\n{}\n--- it said ---\n{said}\n--- {status}; missing: {missing:?}",
            n + 1,
            step.script
        );
    }
    assert!(status.success(), "{status}");
}

#[test]
fn the_plugin_of_the_reference_keeps_the_contract() {
    let document = fs::read_to_string(npu::repository().join("docs/plugin-author.md")).unwrap();
    let block = |kind: &str| {
        let begins = format!("```{kind}\n");
        let (_, rest) = document.split_once(&begins).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let machine = Machine::new();
    let lamp = machine.path().join("lamp");
    fs::create_dir_all(lamp.join("src")).unwrap();
    let api = npu::repository().join("plugins/api");
    let manifest = block("toml").replace("../divvy/plugins/api", &api.display().to_string());
    // Whatever folder /tmp is in, it is of no workspace.
    fs::write(lamp.join("Cargo.toml"), manifest + "\n[workspace]\n").unwrap();
    fs::write(lamp.join("src/lib.rs"), block("rust")).unwrap();
    let lock = fs::read_to_string(npu::example().join("Cargo.lock")).unwrap();
    let lock = lock.replace("divvy-plugin-npu", "divvy-plugin-lamp");
    fs::write(lamp.join("Cargo.lock"), lock).unwrap();
    let output = npu::building(&mut Command::new(npu::cargo()))
        .args(["build", "--quiet", "--locked", "--target-dir", "target"])
        .current_dir(&lamp)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let built = fs::read(lamp.join("target/debug/libdivvy_plugin_lamp.so")).unwrap();
    machine.install("lamp", &built);
    let check = machine
        .divvy("plugin check")
        .arg(machine.plugin_file("lamp"));
    let output = check.run().succeeds();
    output.says("plugin lamp 0.1.0").says(" passed, 0 failed, ");
}

#[test]
fn what_is_quoted_is_compared() {
    let steps = steps("a\n```sh run\none\ntwo\n```\nb\n```text\nx   y\n\n```\n```sh run\n3\n```\n");
    assert_eq!(steps[0].script, "one\ntwo");
    assert_eq!(steps[0].says, ["x y", ""]);
    assert_eq!(steps[1].says, [""; 0]);
    for (line, pattern, like) in [
        ("ok a", "ok a", true),
        ("ok ab", "ok a", false),
        ("ok ab", "ok a…", true),
        ("ok ab", "ok …b", true),
        ("ok ab", "…", true),
        (
            "1 passed, 0 failed, 2 skipped",
            "… passed, 0 failed, … skipped",
            true,
        ),
        (
            "1 passed, 10 failed, 2 skipped",
            "… passed, 0 failed, … skipped",
            false,
        ),
    ] {
        assert_eq!(is_like(line, pattern), like, "{line:?} {pattern:?}");
    }
    let says = ["b".to_owned(), "a".to_owned()];
    assert_eq!(missing("a\nb\n", &says), Some(&says[1]), "the order counts");
}

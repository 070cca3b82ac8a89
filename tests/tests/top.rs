//! `divvy top` on a terminal, and where there is none.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::time::Duration;

use divvy_tests::rootfs::{machine, nothing_is_left, record};
use divvy_tests::{Agent, Machine, OnTerminal, requires};
use rustix::process::{Pid, Signal, kill_process};

/// Sooner than a person wonders.
const SOON: Duration = Duration::from_secs(1);
/// Where a program takes the terminal, and where it gives it back.
const TAKEN: &str = "\u{1b}[?1049h";
const GIVEN_BACK: &str = "\u{1b}[?1049l";

/// Starts it, with an agent or without one.
fn top(machine: &Machine, agent: Option<&Agent>, words: &str) -> OnTerminal {
    let socket = agent.map_or("none".into(), |a| a.socket().display().to_string());
    let mut top = OnTerminal::run(machine, &format!("--socket {socket} top {words}"), &[]);
    top.says(TAKEN);
    top
}

fn job(machine: &Machine, name: &str) {
    let words = format!("run -d --name {name} --cpu 0.25 --mem 32MiB -- sleep 600");
    machine.divvy(&words).run().succeeds();
}

#[track_caller]
fn ends(mut top: OnTerminal, code: i32) {
    top.says(GIVEN_BACK);
    top.exits(code);
}

fn a_story(machine: &Machine, agent: Option<&Agent>) {
    let mut top = top(machine, agent, "--interval 0.5");
    assert!(!top.is_a_shells());
    top.shows("no workload holds anything");
    top.shows(if agent.is_some() {
        "agent "
    } else {
        "no agent"
    });
    top.shows("cores");

    job(machine, "alpha");
    top.shows("■ alpha");
    job(machine, "beta");
    top.shows("■ beta");
    // What they use, as soon as it was measured twice.
    top.shows("0.00/0.25");

    // The one that came first is selected; Tab leads to the devices and back.
    top.types("\t\t");
    top.shows("▸ ■ alpha");
    top.types("j");
    top.shows("▸ ■ beta");
    top.types("k");
    top.shows("▸ ■ alpha");
    top.types("\u{1b}[B\r");
    top.shows("command     sleep 600");
    top.shows(record(machine, "beta")["id"].as_str().unwrap());
    top.types("\u{1b}");
    top.hides("command     sleep 600");
    top.types("/alpha\r");
    top.hides("■ beta");
    top.types("\u{1b}");
    top.shows("■ beta");

    top.types("j");
    top.shows("▸ ■ beta");
    top.types("s");
    top.shows("stop beta?");
    top.types("n");
    top.hides("stop beta?");
    top.types("sy");
    top.shows("beta has ended with 143");
    top.hides("■ beta");
    assert_eq!(record(machine, "beta")["state"], "exited");
    assert_eq!(record(machine, "alpha")["state"], "running");

    top.types("?");
    top.shows_within("stop the chosen workload", SOON);
    top.types(" q");
    ends(top, 0);
    machine.divvy("rm -f alpha beta").run().succeeds();
}

#[test]
fn a_workload_is_seen_described_and_stopped() {
    requires!(root);
    let machine = machine();
    a_story(&machine, None);
    let agent = machine.agent("");
    a_story(&machine, Some(&agent));
    agent.end().succeeds();
    nothing_is_left(&machine);
}

/// Keys work, and figures are shown with their age, while a plugin hangs in a measurement.
fn while_it_hangs(machine: &Machine, agent: Option<&Agent>, words: &str) {
    let once = machine.path().join("once");
    let good = "xxxxxxxxx";
    fs::write(&once, good).unwrap();
    let mut top = top(machine, agent, words);
    top.shows("100%");
    fs::write(&once, "").unwrap();
    top.shows(" s old");
    for _ in 0..2 {
        top.types("?");
        top.shows_within("wait in the background", SOON);
        top.types("?");
        top.hides("wait in the background");
    }
    top.types("q");
    ends(top, 0);
}

const HANGS: &str = "mode=hang op=sample once=FOLDER/once times=9";

#[test]
fn a_plugin_that_hangs_keeps_no_key_waiting() {
    requires!(root);
    let machine = machine();
    machine.add("faulty");
    let hangs = HANGS.replace("FOLDER", machine.path().to_str().unwrap());
    let words: Vec<String> = hangs
        .split(' ')
        .map(|w| format!("--set faulty.{w}"))
        .collect();
    while_it_hangs(&machine, None, &words.join(" "));
    let keys: Vec<String> = hangs
        .split(' ')
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| match value.parse::<u64>() {
            Ok(number) => format!("{key} = {number}"),
            Err(_) => format!("{key} = {value:?}"),
        })
        .collect();
    let agent = machine.agent(&format!("[plugins.faulty]\n{}", keys.join("\n")));
    while_it_hangs(&machine, Some(&agent), "");
    agent.end().succeeds();
}

#[test]
fn a_signal_ends_it_as_a_key_does() {
    requires!(root);
    let machine = machine();
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let mut top = top(&machine, None, "");
        top.shows("cores");
        let pid = i32::try_from(top.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), signal).unwrap();
        top.says(GIVEN_BACK);
        assert!(top.is_a_shells(), "{signal:?}");
        top.exits(code);
    }
    let mut by_key = top(&machine, None, "");
    by_key.shows("cores");
    // Where no shell waits for it, it comes back by itself.
    by_key.types("\u{1a}");
    by_key.says(GIVEN_BACK);
    by_key.types("?");
    by_key.shows("wait in the background");
    by_key.types("?");
    by_key.types("\u{3}");
    ends(by_key, 0);
}

#[test]
fn an_agent_that_goes_away_is_missed() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    let mut top = top(&machine, Some(&agent), "");
    top.shows("cores");
    agent.kill();
    top.shows(" s old: ");
    top.shows("does not answer: Connection");
    top.shows("agent away");
    top.shows("cores");
    top.types("q");
    ends(top, 0);
}

#[test]
fn where_there_is_no_terminal_it_is_text() {
    requires!(root);
    let machine = machine();
    job(&machine, "alpha");
    for words in ["top --once", "top"] {
        let screen = machine.divvy(words).run().succeeds().quietly();
        let screen = screen
            .says("cores")
            .says("memory")
            .says("alpha")
            .says("0.00/0.25");
        assert!(!screen.stdout.contains('\u{1b}'), "{screen}");
        assert!(
            screen
                .stdout
                .lines()
                .all(|line| line.chars().count() <= 120)
        );
    }
    let document = machine.divvy("top --once --json").run().succeeds().json();
    assert_eq!(document["workloads"][0]["name"], "alpha");
    assert_eq!(document["plugins"][0]["plugin"], "cpu");
    machine
        .divvy("top --json")
        .run()
        .exits(2)
        .complains("needs_once");
    for interval in ["0.1", "61", "soon"] {
        let words = format!("top --interval {interval}");
        machine.divvy(&words).run().exits(2).complains("0.2 to 60");
    }
    machine.divvy("rm -f alpha").run().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn who_is_not_root_sees_what_they_may() {
    requires!(root);
    let machine = machine();
    job(&machine, "alpha");
    let screen = machine.divvy_as(1234, 1234, "top --once").run().succeeds();
    let screen = screen
        .says("cores")
        .says("only root can read: sudo divvy top");
    assert!(!screen.stdout.contains("alpha"), "{screen}");
    machine.divvy("rm -f alpha").run().succeeds();
    nothing_is_left(&machine);
}

//! What the long-lived agent notices while nobody asks: health, hot-plug, lost
//! ledgers; and what never gets to it.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::time::{Duration, Instant};

use divvy_tests::npu::{self, Npus};
use divvy_tests::rootfs::{machine, nothing_is_left, record};
use divvy_tests::{Agent, Machine, eventually, requires};
use serde_json::Value;

/// A machine with the CPU plugin and two NPUs, and its agent.
fn with_npus() -> (Machine, Npus, Agent) {
    let machine = machine();
    machine.install("npu", &fs::read(npu::built()).unwrap());
    let npus = Npus::new(&machine);
    npus.plug("npu0", "NPU-7A01", "240:7");
    npus.plug("npu1", "NPU-7A02", "240:8");
    let root = npus.root().display().to_string();
    let agent = machine.agent(&format!("[plugins.npu]\nroot = {root:?}"));
    (machine, npus, agent)
}

fn device(machine: &Machine, id: &str) -> Option<Value> {
    let all = machine.divvy("devices --json").run().succeeds().json();
    let devices = all["devices"].as_array().unwrap().clone();
    devices.into_iter().find(|d| d["id"] == id)
}

fn health(machine: &Machine, id: &str) -> String {
    device(machine, id).map_or_else(
        || "gone".into(),
        |d| d["health"]["state"].as_str().unwrap().to_owned(),
    )
}

/// The events of one kind, as `SUBJECT held by HOLDERS`.
fn told(machine: &Machine, kind: &str) -> Vec<String> {
    let text = machine.divvy("events --json").run().succeeds().stdout;
    let events = text
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap());
    events
        .filter(|e| e["event"]["kind"] == kind)
        .map(|e| {
            let none = vec![];
            let holders = e["event"]["holders"].as_array().unwrap_or(&none);
            let holders: Vec<&str> = holders.iter().map(|h| h.as_str().unwrap()).collect();
            let subject = e["event"]["subject"].as_str().unwrap();
            format!("{subject} held by {}", holders.join(" "))
        })
        .collect()
}

#[test]
fn a_device_that_falls_ill_takes_no_new_work_names_its_owners_and_returns_by_itself() {
    requires!(root);
    let (machine, npus, agent) = with_npus();
    machine
        .divvy("run -d --name w --cpu 0.25 --mem 32MiB --slot npu.device=1 -- sleep 600")
        .run()
        .succeeds();
    let mine = record(&machine, "w")["slices"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["plugin"] == "npu")
        .unwrap()["device"]
        .as_str()
        .unwrap()
        .to_owned();
    let name = if mine == "NPU-7A01" { "npu0" } else { "npu1" };
    npus.health(name, "unhealthy: too hot");
    assert!(eventually(|| health(&machine, &mine) == "unhealthy"));
    let view = device(&machine, &mine).unwrap();
    assert_eq!(view["health"]["reason"], "too hot");
    let since = view["since_ms"].as_u64().unwrap();
    let event = format!("npu/{mine} held by w");
    assert!(eventually(
        || told(&machine, "device.unhealthy").contains(&event)
    ));

    // The job goes on; of the rest one is left, and the ill one is not offered
    // though it would be free.
    assert_eq!(record(&machine, "w")["state"], "running");
    machine.divvy("rm -f w").run().succeeds();
    machine
        .divvy("fit --cpu 0.25 --slot npu.device=1")
        .run()
        .succeeds();
    machine
        .divvy("fit --cpu 0.25 --slot npu.device=2")
        .run()
        .exits(125)
        .complains("too hot");

    npus.health(name, "healthy");
    assert!(eventually(|| health(&machine, &mine) == "healthy"));
    assert!(
        device(&machine, &mine).unwrap()["since_ms"]
            .as_u64()
            .unwrap()
            > since
    );
    machine
        .divvy("fit --cpu 0.25 --slot npu.device=2")
        .run()
        .succeeds();
    assert!(eventually(|| !told(&machine, "device.healthy").is_empty()));
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn a_device_that_is_pulled_out_and_plugged_in_is_noticed() {
    requires!(root);
    let (machine, npus, agent) = with_npus();
    machine
        .divvy("run -d --name w --cpu 0.25 --mem 32MiB --slot npu.device=2 -- sleep 600")
        .run()
        .succeeds();
    npus.unplug("npu0");
    assert!(eventually(|| health(&machine, "NPU-7A01") == "gone"));
    let event = "npu/NPU-7A01 held by w".to_owned();
    assert!(eventually(
        || told(&machine, "device.removed").contains(&event)
    ));
    npus.plug("npu7", "NPU-7A01", "240:7");
    assert!(eventually(|| health(&machine, "NPU-7A01") == "healthy"));
    // The same unit under another name: still held, all of it.
    machine
        .divvy("fit --cpu 0.25 --slot npu.cores=1")
        .run()
        .exits(125)
        .complains("[insufficient]");
    machine.divvy("rm -f w").run().succeeds();
    machine
        .divvy("fit --cpu 0.25 --slot npu.device=2")
        .run()
        .succeeds();
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn a_ledger_that_is_deleted_is_made_anew_within_seconds() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    let jobs = ["a", "b", "c"];
    for name in jobs {
        let run = format!("run -d --name {name} --cpu 0.25 --mem 32MiB -- sleep 600");
        machine.divvy(&run).run().succeeds();
    }
    let before: Vec<Value> = jobs.iter().map(|j| record(&machine, j)).collect();
    for file in ["ledger.redb", "ledger.lock"] {
        fs::remove_file(machine.state().join(file)).unwrap();
    }
    let began = Instant::now();
    let back = || machine.divvy("--socket none state dump").run().code == 0;
    assert!(eventually(back), "the ledger is not made anew");
    println!("made anew after {:?}", began.elapsed());
    let after: Vec<Value> = jobs.iter().map(|j| record(&machine, j)).collect();
    assert_eq!(before, after);
    machine.divvy("rm -f a b c").run().succeeds();
    agent.end().succeeds();
    nothing_is_left(&machine);
}

/// Root in a container is root to whoever looks at the other end of a socket.
#[test]
fn its_socket_never_enters_a_container() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    let socket = agent.socket().to_owned();
    let link = machine.path().join("innocent");
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    let hard = socket.with_file_name("hard");
    fs::hard_link(&socket, &hard).unwrap();
    for by in ["", "--socket none "] {
        for source in [&socket, &link, &hard, &socket.parent().unwrap().to_owned()] {
            machine
                .divvy(&format!("{by}run --cpu 0.1 -v"))
                .arg(format!("{}:/x", source.display()))
                .args(["--", "true"])
                .run()
                .exits(125)
                .complains("root on this machine");
        }
    }
    fs::remove_file(&hard).unwrap();
    // On the host's root it is a file like any other, and shows nothing.
    let script = format!(
        "test -S {0} && echo there; python3 - <<'E'\nimport socket\ntry:\n  socket.socket(socket.AF_UNIX).connect('{0}'); print('in')\nexcept OSError: print('out')\nE",
        socket.display()
    );
    let seen = machine
        .divvy("run --rm --cpu 0.2 -- sh -c")
        .arg(&script)
        .run();
    assert!(
        !seen.stdout.contains("there") && !seen.stdout.contains("in\n"),
        "{seen}"
    );
    agent.end().succeeds();
    nothing_is_left(&machine);
}

/// What an agent was asked for and is told to stop is done with, whoever dies.
#[test]
fn an_agent_that_is_killed_over_and_over_loses_nothing() {
    requires!(root);
    let machine = machine();
    let end = Instant::now() + Duration::from_secs(8);
    let mut agents = 0;
    let mut made = 0;
    while Instant::now() < end {
        let agent = machine.agent("");
        agents += 1;
        let commands: Vec<_> = (0..3)
            .map(|n| {
                let run = format!("run -d --name j{agents}-{n} --cpu 0.1 --mem 16MiB -- sleep 600");
                machine.divvy(&run).spawn()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(20 * (agents % 12)));
        agent.kill();
        made += commands
            .into_iter()
            .map(divvy_tests::Running::output)
            .filter(|o| o.code == 0)
            .count();
        // Whoever was told that it runs has it; what was not, holds nothing, or
        // is on its way out.
        let gone = || {
            let names = machine.divvy("--socket none ps -a -q").run().succeeds();
            let all: Vec<&str> = names.stdout.split_whitespace().collect();
            // One may be undone between the two.
            let _ = machine.divvy("--socket none rm -f").args(&all).run();
            all.is_empty()
        };
        assert!(eventually(gone), "something stays");
        let free = machine.divvy("--socket none fit --cpu 2").run();
        assert_eq!(free.code, 0, "{free}");
    }
    assert!(agents > 3, "{agents} agents, {made} jobs");
    nothing_is_left(&machine);
}

//! The long-lived agent: the same answers as without it, for its group alone,
//! and nothing lost whatever becomes of it.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use divvy::agent::{AllocateRequest, Devices, RunRequest};
use divvy::api::{Created, Version};
use divvy::model::{Record, Request};
use divvy_tests::rootfs::{nothing_is_left, record};
use divvy_tests::{Machine, eventually, requires};
use serde_json::Value;

/// A group that every machine has (`users`), and two users who need not exist.
const GROUP: (&str, u32) = ("users", 100);
const ALICE: u32 = 61_001;
const BOB: u32 = 61_002;

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

fn machine() -> Machine {
    Machine::with(&["cpu"])
}

/// What of an answer does not depend on the moment.
fn settled(mut answer: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for key in [
                    "age_ms",
                    "since_ms",
                    "id",
                    "created_ms",
                    "pid",
                    "name",
                    "boot_id",
                ] {
                    map.remove(key);
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(all) => all.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut answer);
    answer
}

#[test]
fn the_answers_are_the_same_with_and_without_it() {
    requires!(root);
    let machine = machine();
    let asks = [
        ("a", "--cpu 0.5 --mem 64MiB"),
        ("b", "--cpu 0.5 --mem 64MiB"),
        ("c", "--cpu 1 --mem 64MiB"),
    ];
    let look = |by: &str| {
        let mut answers = Vec::new();
        for (name, ask) in asks {
            let run = format!("run -d --name {name} {ask} -- sleep 60");
            machine.divvy(&run).run().succeeds().says(name);
        }
        answers.push(settled(
            machine.divvy("devices --json").run().succeeds().json(),
        ));
        for (name, _) in asks {
            // Every field of the record, edits among them.
            answers.push(settled(
                machine
                    .divvy("describe --json")
                    .arg(name)
                    .run()
                    .succeeds()
                    .json(),
            ));
        }
        answers.push(settled(
            machine.divvy("plugin list --json").run().succeeds().json(),
        ));
        let refused = machine.divvy("fit --json --cpu 64").run().exits(125).stderr;
        answers.push(
            serde_json::from_str(&refused).unwrap_or_else(|e| panic!("{by}: {e}: {refused}")),
        );
        machine.divvy("exec a sh -c").arg("exit 7").run().exits(7);
        machine.divvy("stop -t 0 a b c").run().succeeds();
        machine.divvy("rm a b c").run().succeeds();
        answers.push(settled(
            machine
                .divvy("fit --json --cpu 0.25")
                .run()
                .succeeds()
                .json(),
        ));
        machine
            .divvy("run --rm --cpu 0.1 -- sh -c")
            .arg("echo out; echo err >&2; exit 3")
            .run()
            .exits(3)
            .says("out\n")
            .complains("err\n");
        machine
            .divvy("stop nobody")
            .run()
            .exits(125)
            .complains("[unknown_workload]");
        answers
    };
    let alone = look("alone");
    let agent = machine.agent("");
    let served = look("served");
    for (alone, served) in alone.iter().zip(&served) {
        assert_eq!(alone, served, "alone on the left, served on the right");
    }
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn input_output_and_signals_reach_a_workload_through_it() {
    requires!(root);
    let machine = machine();
    let _agent = machine.agent("");
    let echo = machine
        .divvy("run --rm -i --cpu 0.1 -- cat")
        .input("to and fro\n")
        .run();
    assert_eq!(echo.succeeds().stdout, "to and fro\n");
    let script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = machine
        .divvy("run --rm --name t --cpu 0.2 -- sh -c")
        .arg(script)
        .spawn();
    assert!(eventually(|| command.stdout().contains("ready")));
    command.signal(rustix::process::Signal::TERM);
    command.output().exits(9).says("told");
    let logs = machine.divvy("run --name l --cpu 0.1 -- seq 3").run();
    assert_eq!(
        machine.divvy("logs l").run().succeeds().stdout,
        logs.succeeds().stdout
    );
}

#[test]
fn another_user_learns_nothing_and_can_do_nothing() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent(&format!("group = {:?}", GROUP.0));
    let as_alice = |words: &str| machine.divvy_as(ALICE, GROUP.1, words);
    let as_bob = |words: &str| machine.divvy_as(BOB, GROUP.1, words);

    // Alice runs as herself, whatever she says.
    let who = as_alice("run --rm --cpu 0.1 -- id -u").run().succeeds();
    assert_eq!(who.stdout.trim(), ALICE.to_string());
    as_alice("run --user 0 --cpu 0.1 -- id -u")
        .run()
        .exits(125)
        .complains("[denied]");
    as_alice("run --net host --cpu 0.1 -- id -u")
        .run()
        .exits(125)
        .complains("[denied]");
    // Nor is a program of hers run as root.
    let program = machine.path().join("home-61001/runtime");
    fs::write(&program, "#!/bin/sh\ntouch $(dirname $0)/ran-as-$(id -u)\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    as_alice(&format!(
        "run --cpu 0.1 --runtime {} -- true",
        program.display()
    ))
    .run()
    .exits(125)
    .complains("[denied]");
    assert!(!program.with_file_name("ran-as-0").exists());
    let secret = machine.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    as_alice("run --cpu 0.1 -v")
        .arg(format!("{}:/s", secret.display()))
        .args(["--", "ls", "/s"])
        .run()
        .exits(125)
        .complains("[denied]");

    as_alice("run -d --name alices --cpu 0.5 --mem 64MiB -- sleep 60")
        .run()
        .succeeds();
    let private = record(&machine, "alices");
    assert_eq!(private["owner"], ALICE);
    let id = private["id"].as_str().unwrap();

    // Every verb of Bob's answers as if there were none.
    assert!(!as_bob("ps -a").run().succeeds().stdout.contains("alices"));
    for name in ["alices", id] {
        for verb in ["describe", "logs", "stop -t 0", "rm -f"] {
            let told = as_bob(verb).arg(name).run().exits(125);
            let nobody = as_bob(verb).arg("nobody").run().exits(125);
            assert_eq!(told.stderr.replace(name, "nobody"), nobody.stderr, "{verb}");
        }
        as_bob("exec").args([name, "true"]).run().exits(125);
    }
    let devices = as_bob("devices --json").run().succeeds();
    assert!(
        !devices.stdout.contains("alices") && !devices.stdout.contains(id),
        "{devices}"
    );
    // What is free he may know.
    assert!(devices.json()["usage_known"].as_bool().unwrap());
    let refused = as_bob("fit --json --cpu 64").run().exits(125);
    assert!(!refused.stderr.contains("alices"), "{refused}");
    let events = as_bob("events --json").run().succeeds();
    assert!(
        !events.stdout.contains("alices") && !events.stdout.contains(id),
        "{events}"
    );

    // Who is not in the group does not even get in; root sees everything.
    machine.divvy_as(BOB, BOB, "ps").run().exits(125);
    machine.divvy("ps").run().succeeds().says("alices");
    as_alice("exec alices id -u")
        .run()
        .exits(0)
        .says(&ALICE.to_string());
    as_alice("rm -f alices").run().succeeds();
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn killed_at_any_time_it_loses_nothing_and_no_container_notices() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    machine
        .divvy("run -d --name w --cpu 0.5 --mem 64MiB -- sleep 60")
        .run()
        .succeeds();
    let before = record(&machine, "w");
    agent.kill();
    // Without it, and with the next one, all is as it was.
    assert_eq!(record(&machine, "w"), before);
    let agent = machine.agent("");
    assert_eq!(record(&machine, "w"), before);
    let pid = before["pid"].as_u64().unwrap();
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok());
    machine.divvy("stop -t 0 w").run().succeeds();
    machine.divvy("rm w").run().succeeds();
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn a_workload_that_nobody_starts_is_undone() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    let request = RunRequest {
        resources: Request::of(&[("cpu", "0.5"), ("mem", "64MiB")]).unwrap(),
        command: vec!["touch".into(), "/tmp/never".into()],
        ..RunRequest::default()
    };
    let created: Created = block(agent.client().post("/v1/workloads", Some(&request))).unwrap();
    assert_eq!(created.workload.state.word(), "running");
    // Whoever waits for it is told; the agent that kept it for its start dies.
    agent.kill();
    let gone = || machine.divvy("ps -q").run().stdout.is_empty();
    assert!(eventually(gone), "it is still there");
    machine
        .divvy("rm")
        .arg(&created.workload.name)
        .run()
        .succeeds();
    nothing_is_left(&machine);
}

#[test]
fn slices_can_be_held_without_a_container() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    let request = AllocateRequest {
        resources: Request::of(&[("cpu", "0.5"), ("mem", "64MiB")]).unwrap(),
        name: Some("held".into()),
        owner: 0,
    };
    let client = agent.client();
    let held: Record = block(client.post("/v1/allocations", Some(&request))).unwrap();
    assert!(held.edits.is_empty(), "no plugin was asked");
    let path = "/v1/workloads/held/prepare";
    let prepared: Record = block(client.post(path, None::<&()>)).unwrap();
    assert!(prepared.edits["cpu"].resources.cpu_quota.is_some());
    let again: Record = block(client.post(path, None::<&()>)).unwrap();
    assert_eq!(again, prepared);
    agent.kill();
    // Nobody can tell whether what uses it still runs: it stays, also if the
    // ledger is lost.
    for lost in [false, true] {
        if lost {
            for file in ["ledger.redb", "ledger.lock"] {
                fs::remove_file(machine.state().join(file)).unwrap();
            }
            machine.divvy("state rebuild").run().succeeds();
        }
        let shown = record(&machine, "held");
        assert_eq!(
            (&shown["state"], &shown["launcher"]),
            (&"running".into(), &"none".into())
        );
        assert_eq!(
            shown["edits"],
            serde_json::to_value(&prepared.edits).unwrap()
        );
    }
    machine.divvy("devices").run().succeeds().says("held");
    machine.divvy("rm -f held").run().succeeds();
    assert_eq!(
        fs::read_dir(machine.state().join("held")).unwrap().count(),
        0
    );
    nothing_is_left(&machine);
}

#[test]
fn a_plugin_that_hangs_holds_up_nobody_who_looks() {
    requires!(root);
    let machine = Machine::with(&["cpu", "faulty"]);
    let file = machine.path().join("struck");
    let settings = format!(
        "[plugins.faulty]\nmode = \"hang\"\nop = \"watch\"\ntimes = 1000\nonce = {:?}\n",
        file.display().to_string()
    );
    let agent = machine.agent(&settings);
    let client = agent.client();
    let end = Instant::now() + Duration::from_secs(3);
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        for path in ["/v1/devices", "/v1/plugins", "/v1/workloads", "/v1/version"] {
            let began = Instant::now();
            let _: Value = block(client.get(path)).unwrap();
            slowest = slowest.max(began.elapsed());
        }
    }
    assert!(
        slowest < Duration::from_secs(1),
        "somebody waited {slowest:?}"
    );
    assert!(file.exists(), "the plugin did not hang");
    // The others' devices are there as ever.
    machine.divvy("run --rm --cpu 0.1 -- true").run().succeeds();
}

#[test]
fn plugins_that_come_and_go_are_noticed() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    let client = agent.client();
    let devices = || block(client.get::<Devices>("/v1/devices")).unwrap();
    let has = |plugin: &str| devices().devices.iter().any(|d| d.device.plugin == plugin);
    assert!(has("cpu") && !has("faulty"));
    let other = Machine::with(&["faulty"]);
    machine.install("faulty", &fs::read(other.plugin_file("faulty")).unwrap());
    assert!(eventually(|| has("faulty")), "the new plugin is not loaded");
    fs::remove_file(machine.plugin_file("faulty")).unwrap();
    assert!(
        eventually(|| !has("faulty")),
        "the removed plugin is still there"
    );
    let events = || machine.divvy("events").run().succeeds().stdout;
    let told = |what: &str| {
        let said = |line: &str| line.contains(what) && line.contains("faulty/unit-a");
        events().lines().any(said)
    };
    assert!(told("device.added"), "{}", events());
    assert!(eventually(|| told("device.removed")), "{}", events());
}

#[test]
fn events_go_on_where_a_listener_was() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    machine
        .divvy("run --name one --cpu 0.1 -- true")
        .run()
        .succeeds();
    let all = || -> Vec<(String, String)> {
        let text = machine.divvy("events --json").run().succeeds().stdout;
        let lines = text
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines
            .map(|l| {
                let text = |v: &Value| v.as_str().unwrap().to_owned();
                (
                    text(&l["id"]),
                    format!(
                        "{} {}",
                        text(&l["event"]["kind"]),
                        text(&l["event"]["subject"])
                    ),
                )
            })
            .collect()
    };
    let ended = |name: &str| {
        all()
            .iter()
            .any(|e| e.1 == format!("workload.exited {name}"))
    };
    assert!(eventually(|| ended("one")));
    let kinds: Vec<String> = all().into_iter().map(|e| e.1).collect();
    let at = |kind: &str| {
        kinds
            .iter()
            .position(|k| k == &format!("workload.{kind} one"))
    };
    assert!(at("running").unwrap() < at("exited").unwrap(), "{kinds:?}");
    let last = all().pop().unwrap().0;
    // What a command without the agent does is seen as well.
    let alone = machine.divvy("--socket none run --name two --cpu 0.1 -- true");
    alone.run().succeeds();
    assert!(eventually(|| ended("two")));
    let more = machine
        .divvy("events --json --after")
        .arg(&last)
        .run()
        .succeeds();
    assert!(
        more.stdout.contains("two") && !more.stdout.contains("\"one\""),
        "{more}"
    );
    agent.end().succeeds();
    // Another agent remembers none of it, and says so.
    let _agent = machine.agent("");
    let gap = machine
        .divvy("events --json --after")
        .arg(&last)
        .run()
        .succeeds();
    assert!(gap.stdout.contains("\"gap\""), "{gap}");
}

#[test]
fn metrics_are_open_metrics_and_name_the_owners() {
    requires!(root);
    let machine = machine();
    let address = a_free_address();
    let agent = machine.agent(&format!("metrics = \"{address}\""));
    machine
        .divvy("run -d --name w --cpu 0.5 --mem 64MiB -- sleep 60")
        .run()
        .succeeds();
    let page = http_get(&address, "/metrics");
    for line in [
        "divvy_slice_amount{workload=\"w\",",
        "slot=\"cpu\",unit=\"core\"} 0.5",
        "divvy_invariant_violation_total 0",
        "divvy_reconcile_drift_total 0",
        "divvy_plugin_up{plugin=\"cpu\"} 1",
        "divvy_plugin_calls_total{plugin=\"cpu\",op=\"prepare\",result=\"ok\"} 1",
        "divvy_plugin_restarts_total{plugin=\"cpu\"} 0",
        "capacity=\"memory\",unit=\"byte\"} 67108864.0",
    ] {
        assert!(page.contains(line), "no {line}\n{page}");
    }
    assert!(page.trim_end().ends_with("# EOF"), "{page}");
    // Nothing else is served there.
    assert!(http_get(&address, "/v1/workloads").starts_with("HTTP/1.1 404"));
    machine.divvy("rm -f w").run().succeeds();
    agent.end().succeeds();
}

/// A loopback address that nobody listens at.
fn a_free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn http_get(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_removes_nothing_but_a_dead_agents_socket() {
    requires!(root);
    let machine = machine();
    let place = machine.socket();
    fs::create_dir(place.parent().unwrap()).unwrap();
    let config = format!("[agent]\nsocket = {:?}\n", place.display().to_string());
    fs::write(machine.config(), config).unwrap();
    let refused = || {
        let refused = machine.divvy("agent").run().exits(125);
        let _ = refused.complains("[socket_taken]");
    };
    fs::write(&place, "my notes").unwrap();
    refused();
    assert_eq!(fs::read_to_string(&place).unwrap(), "my notes");
    let other = place.with_file_name("other");
    fs::rename(&place, &other).unwrap();
    std::os::unix::fs::symlink(&other, &place).unwrap();
    refused();
    assert_eq!(fs::read_link(&place).unwrap(), other);
    fs::remove_file(&place).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&place).unwrap();
    refused();
    assert!(std::os::unix::net::UnixStream::connect(&place).is_ok());
    // Nobody listens any more.
    drop(listener);
    let agent = machine.agent("");
    machine.divvy("ps").run().succeeds();
    // Another's file in its place is not removed at its end.
    fs::remove_file(&place).unwrap();
    fs::write(&place, "my notes").unwrap();
    agent.end().succeeds();
    assert_eq!(fs::read_to_string(&place).unwrap(), "my notes");
}

#[test]
fn what_it_cannot_read_it_refuses_with_the_remedy() {
    requires!(root);
    let machine = machine();
    fs::write(
        machine.config(),
        "[agent]\nsocket = \"/x\"\ngruop = \"a\"\n",
    )
    .unwrap();
    machine
        .divvy("agent")
        .run()
        .exits(125)
        .complains("unknown field `gruop`")
        .complains("[invalid_config]");
    fs::write(machine.config(), "[agent]\nmetrics = \"0.0.0.0:9\"\n").unwrap();
    machine
        .divvy("agent")
        .run()
        .exits(125)
        .complains("loopback");
    fs::write(machine.config(), "[agent]\ngroup = \"no-such-group\"\n").unwrap();
    machine
        .divvy("agent")
        .run()
        .exits(125)
        .complains("groupadd");
    let agent = machine.agent("");
    machine
        .divvy("agent")
        .run()
        .exits(125)
        .complains("runs already");
    let client = agent.client();
    let code =
        |result: Result<Value, divvy::agent::AgentError>| result.unwrap_err().code().to_owned();
    let odd = serde_json::json!({ "resources": { "slots": { "cpu": "lots" } } });
    assert_eq!(
        code(block(client.post("/v1/workloads", Some(&odd)))),
        "invalid_request"
    );
    let odd = serde_json::json!({ "resorces": {} });
    assert_eq!(
        code(block(client.post("/v1/workloads", Some(&odd)))),
        "invalid_request"
    );
    let mount = serde_json::json!({
        "resources": { "slots": { "cpu": "0.1" } }, "command": ["true"],
        "mounts": [{ "source": machine.state(), "target": "/x", "read_only": true }],
    });
    assert_eq!(
        code(block(client.post("/v1/workloads", Some(&mount)))),
        "invalid_mount"
    );
    assert_eq!(code(block(client.get("/v2/anything"))), "denied");
    assert_eq!(
        code(block(client.post("/v1/workloads/x/stop", None::<&()>))),
        "unknown_workload"
    );
    let version: Version = block(client.get("/v1/version")).unwrap();
    assert_eq!(version.pid, agent.pid());
    machine
        .divvy("--socket /nonexistent/socket ps")
        .run()
        .exits(125)
        .complains("[no_agent]");
    machine
        .divvy("--socket none events")
        .run()
        .exits(125)
        .complains("[needs_agent]");
    agent.end().succeeds();
    nothing_is_left(&machine);
}

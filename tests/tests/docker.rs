//! The docker launcher, on an engine of each test's own.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread;
use std::time::Duration;

use divvy_tests::dockerd::{Docked, Dockerd};
use divvy_tests::rootfs::{
    self, ended, held, kill, monitors, record, records, runtimes, start, text,
};
use divvy_tests::{OnTerminal, eventually, requires};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Counts to thirty in three seconds, on both streams, and ends with 7.
const COUNT: &str =
    "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo $i; echo e$i >&2; sleep 0.1; done; exit 7";

fn counted(before: &str) -> String {
    (1..=30).map(|n| format!("{before}{n}\n")).collect()
}

#[track_caller]
fn wait_until_it_prints(docked: &Docked, name: &str) {
    let prints = || {
        let logs = docked.divvy("logs").arg(name).run();
        logs.code == 0 && !logs.stdout.is_empty()
    };
    assert!(eventually(prints), "{name} prints nothing");
}

/// When a process began, in the kernel's ticks (proc(5), field 22).
fn began(pid: &Value) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().nth(19).unwrap_or("gone").to_owned()
}

// === what a job sees, and how it ends ===

#[test]
fn codes_streams_and_input_are_the_commands_own() {
    requires!(root, dockerd);
    let docked = Docked::new();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
        ("/no-such-program", 127),
        ("exec /etc/passwd", 126),
    ] {
        docked.job("--rm", script).run().exits(code);
    }
    let no_program = docked.run("--rm").args(["app:1", "no-such-program"]).run();
    no_program.exits(127).complains("[command_not_found]");

    let apart = docked.job("", "echo out; echo err >&2").run().succeeds();
    assert_eq!(
        (&*apart.stdout, &*apart.stderr),
        ("out\n", "err\n"),
        "{apart}"
    );

    let lines: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let through = docked.job("-i --rm", "cat").input(&lines).run().succeeds();
    assert!(
        through.stdout == lines,
        "{} bytes came out",
        through.stdout.len()
    );
    // Without -i there is no input.
    let empty = docked.job("--rm", "cat; echo over").input("x").run();
    assert_eq!(empty.succeeds().stdout, "over\n");

    let all = records(&docked.machine);
    assert_eq!(all.len(), 1, "with --rm nothing is remembered: {all:#?}");
    assert_eq!(all[0]["launcher"], "docker");
    assert!(text(&all[0]["runtime"]).starts_with("Docker "), "{all:#?}");
    let name = text(&all[0]["name"]).to_owned();
    let logs = docked.divvy("logs").arg(&name).run().succeeds();
    assert_eq!((&*logs.stdout, &*logs.stderr), ("out\n", "err\n"));
    docked.divvy("rm").arg(&name).run().succeeds();
    docked.nothing_is_left();
}

#[test]
fn an_image_says_what_the_user_does_not() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let config = json!({
        "Env": ["COLOUR=green", "SIZE=small"], "WorkingDir": "/home/alice", "User": "alice",
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo $COLOUR $SIZE; pwd; id -u; id -g"],
    });
    docked.engine.image(&config, |_| {});
    let said = docked.run("--rm").arg("app:1").run().succeeds();
    assert_eq!(
        said.stdout, "green small\n/home/alice\n1234\n2345\n",
        "{said}"
    );
    let said = docked
        .run("--rm -e SIZE=big -w /tmp --user 5:6")
        .args([
            "app:1",
            "echo $COLOUR $SIZE; pwd; id -u; id -g; touch x; echo $?",
        ])
        .run()
        .succeeds();
    assert!(said.stdout.starts_with("green big\n/tmp\n5\n6\n"), "{said}");
    docked.nothing_is_left();
}

#[test]
fn the_kernel_holds_it_to_what_was_asked() {
    requires!(root, dockerd);
    let docked = Docked::new();
    docked
        .job(
            "-d --name w --cpu 0.5 --mem 64MiB --shm-size 8MiB",
            "exec sleep 60",
        )
        .run()
        .succeeds();
    let seen = docked.container("w");
    let host = &seen["HostConfig"];
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(
        host["CpuQuota"].as_i64().unwrap() * 2,
        host["CpuPeriod"].as_i64().unwrap()
    );
    assert_eq!(host["ShmSize"], 8 << 20);
    let record = record(&docked.machine, "w");
    assert_eq!(record["pid"], seen["State"]["Pid"]);
    assert_eq!(record["container_id"], seen["Id"]);
    let status = fs::read_to_string(format!("/proc/{}/status", record["pid"])).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    let memory = docked
        .job("--mem 16MiB", "x=a; while :; do x=$x$x; done")
        .run()
        .exits(137);
    memory.complains("[out_of_memory]");
    docked.divvy("rm -f w").run().succeeds();
}

#[test]
fn granted_devices_are_there_with_their_numbers_and_no_others() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let faulty = divvy_tests::Machine::with(&["faulty"]);
    let plugin = fs::read(faulty.plugin_file("faulty")).unwrap();
    docked.machine.install("faulty", &plugin);
    let script = "stat -c '%n %t:%T %a' /dev/faulty-*; mknod /tmp/x c 251 200; echo $FAULTY_UNIT; exec sleep 60";
    docked
        .job("-d --name w --slot faulty.units=0.5", script)
        .run()
        .succeeds();
    wait_until_it_prints(&docked, "w");
    assert!(eventually(|| docked
        .divvy("logs w")
        .run()
        .stdout
        .contains("unit-")));
    let logs = docked.divvy("logs w").run();
    assert!(
        logs.stdout.starts_with("/dev/faulty-a fb:c8 666\nunit-a\n"),
        "{logs}"
    );
    assert!(logs.stderr.contains("not permitted"), "{logs}");
    docked.divvy("stop -t 0 w").run().succeeds();
    assert!(
        !docked
            .machine
            .state()
            .join("workloads")
            .join("nodes")
            .exists()
    );
    docked.divvy("rm w").run().succeeds();
    docked.nothing_is_left();
}

#[test]
fn a_terminal_carries_keys_sizes_and_control_c() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let socket = docked.engine.socket().display().to_string();
    let words = format!("--docker-socket {socket} run -it --rm --cpu 0.5 --mem 64MiB app:1");
    let script = "echo $TERM; echo ready; while read line; do echo \"got $line\"; busybox stty size; done; echo over";
    let mut terminal = OnTerminal::start(&docked.machine, &words, script);
    terminal.says("vt220");
    terminal.says("ready");
    terminal.types("hello\r");
    terminal.says("got hello");
    terminal.says("40 100");
    terminal.resize(132, 50);
    thread::sleep(Duration::from_millis(300));
    terminal.types("again\r");
    terminal.says("50 132");
    terminal.types("\u{3}");
    terminal.exits(130);

    docked.job("-d --name w", "exec sleep 60").run().succeeds();
    let mut terminal = OnTerminal::start(
        &docked.machine,
        "exec -it w",
        "sleep 0.5; busybox stty size; read x; exit 5",
    );
    terminal.says("40 100");
    terminal.types("\r");
    terminal.exits(5);
    // A line that is cut hangs up on the other side.
    let mut terminal = OnTerminal::start(&docked.machine, "exec -it w", "echo up; sleep 7654");
    terminal.says("up");
    assert!(!rootfs::processes("sleep 7654").is_empty());
    drop(terminal);
    assert!(eventually(|| rootfs::processes("sleep 7654").is_empty()));
    docked.divvy("rm -f w").run().succeeds();
    docked.nothing_is_left();
}

#[test]
fn another_command_runs_inside_with_the_same_rights() {
    requires!(root, dockerd);
    let docked = Docked::new();
    docked
        .job(
            "-d --name w -e COLOUR=green",
            "grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status; echo end; exec sleep 60",
        )
        .run()
        .succeeds();
    let exec = |words: &[&str]| docked.divvy("exec w").args(words);
    exec(&["true"]).run().exits(0);
    exec(&["sh", "-c", "exit 7"]).run().exits(7);
    exec(&["sh", "-c", "kill -KILL $$"]).run().exits(137);
    exec(&["no-such-program"]).run().exits(127);
    let through = exec(&["cat"]).input("in and out").run().succeeds();
    assert_eq!(through.stdout, "in and out");
    let env = docked
        .divvy("exec -e SHAPE=round -w /tmp w sh -c")
        .arg("echo $COLOUR $SHAPE; pwd; echo no >&2")
        .run();
    assert_eq!(
        (&*env.stdout, &*env.stderr),
        ("green round\n/tmp\n", "no\n"),
        "{env}"
    );
    let reserved = docked
        .divvy("exec -e NVIDIA_VISIBLE_DEVICES=all w true")
        .run();
    reserved.exits(125).complains("[reserved_env]");
    let hidden = docked.divvy("exec -w /proc/self/fd/7 w true").run();
    hidden.exits(125).complains("[forbidden]");

    assert!(eventually(|| docked
        .divvy("logs w")
        .run()
        .stdout
        .contains("end")));
    let first = docked.divvy("logs w").run().stdout;
    let inner = exec(&["grep", "-E", "^(Cap|Seccomp:|NoNew)", "/proc/self/status"]).run();
    assert_eq!(first.replace("end\n", ""), inner.stdout, "{inner}");

    let script = "trap 'echo caught; exit 43' TERM; echo ready; while :; do sleep 0.05; done";
    let mut signalled = exec(&["sh", "-c", script]).spawn();
    assert!(eventually(|| signalled.stdout().contains("ready")));
    signalled.signal(Signal::TERM);
    signalled.output().exits(43).says("caught");
    docked.divvy("rm -f w").run().succeeds();
    docked.nothing_is_left();
}

#[test]
fn stop_asks_first_and_kills_after_the_grace() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let polite = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    docked.job("-d --name polite", polite).run().succeeds();
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    docked.job("-d --name deaf", deaf).run().succeeds();
    for (name, code) in [("polite", 5), ("deaf", 137)] {
        wait_until_it_prints(&docked, name);
        docked.divvy("stop -t 1").arg(name).run().succeeds();
        assert_eq!(record(&docked.machine, name)["exit"]["code"], code);
        docked.divvy("rm").arg(name).run().succeeds();
    }
    docked.nothing_is_left();
}

// === the gate ===

/// What a container of an engine runs first, without an engine.
#[test]
fn the_first_process_runs_nothing_before_the_word_is_said() {
    requires!(root);
    let machine = rootfs::machine();
    rootfs::sh(&machine, "built-in", "", "true").succeeds();
    let init = machine.state().join("init");
    let (gate, mark) = (machine.path().join("gate"), machine.path().join("mark"));
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.unwrap().success());
    let begin = || {
        let mut command = std::process::Command::new(&init);
        command
            .arg("--gate")
            .arg(&gate)
            .args(["--", "touch"])
            .arg(&mark);
        command.stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let holder = || {
        fs::File::options()
            .read(true)
            .write(true)
            .open(&gate)
            .unwrap()
    };

    // Nobody holds the gate.
    assert_eq!(begin().wait().unwrap().code(), Some(125));
    // Whoever held it is gone.
    let held = holder();
    let mut child = begin();
    thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it does not wait");
    drop(held);
    assert_eq!(child.wait().unwrap().code(), Some(125));
    assert!(!mark.exists(), "it ran");
    // The word.
    let mut held = holder();
    let mut child = begin();
    std::io::Write::write_all(&mut held, b"g").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(mark.exists());
}

// === the same slices, whoever launches ===

#[test]
fn the_same_request_gives_the_same_edits_by_docker_and_by_oci_with_and_without_an_agent() {
    requires!(root, dockerd);
    let docked = Docked::new();
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return divvy_tests::needs::skip("two cores", "a machine with two cores or more");
    }
    let mut edits = edits_by(&docked);
    let agent = docked.machine.agent("");
    edits.extend(edits_by(&docked));
    agent.end().succeeds();
    let [first, others @ ..] = &edits[..] else {
        panic!("nothing was run")
    };
    assert!(
        first
            .iter()
            .all(|r| r["edits"]["cpu"]["resources"].is_object())
    );
    for other in others {
        for (one, same) in first.iter().zip(other) {
            for (field, value) in one.as_object().unwrap() {
                assert_eq!(value, &same[field], "{field}");
            }
        }
    }
    docked.nothing_is_left();
}

/// What two halves of a core and a whole one are given, by each launcher.
fn edits_by(docked: &Docked) -> Vec<Vec<Value>> {
    let cpus = ["0.5", "0.5", "1"];
    let given = |launcher: &str| {
        for (n, cpu) in cpus.iter().enumerate() {
            let options = format!("--cpu {cpu} --mem 64MiB");
            let name = format!("n{n}");
            start(&docked.machine, launcher, &name, &options, "exec sleep 60");
        }
        let records = (0..cpus.len()).map(|n| record(&docked.machine, &format!("n{n}")));
        let given = records
            .map(|r| json!({ "edits": r["edits"], "slices": r["slices"], "asked": r["asked"] }))
            .collect();
        docked.divvy("rm -f n0 n1 n2").run().succeeds();
        given
    };
    [rootfs::ENGINE, "built-in"].map(given).into()
}

// === kills ===

#[test]
fn a_container_whose_monitor_was_killed_is_adopted_untouched() {
    requires!(root, dockerd);
    let docked = Docked::new();
    docked.job("-d --name w", COUNT).run().succeeds();
    wait_until_it_prints(&docked, "w");
    let before = record(&docked.machine, "w");
    let began_before = began(&before["pid"]);
    for _ in 0..2 {
        let found = monitors(&docked.machine);
        assert_eq!(found.len(), 1, "{found:?}");
        kill(found[0]);
        assert!(eventually(|| !monitors(&docked.machine).contains(&found[0])));
        let now = record(&docked.machine, "w");
        assert_eq!(now["state"], "running", "{now:#}");
        assert_eq!(now["pid"], before["pid"]);
        assert_eq!(began(&now["pid"]), began_before);
        assert_eq!(now["slices"], before["slices"]);
        thread::sleep(Duration::from_millis(400));
    }
    let then = ended(&docked.machine, "w");
    // Nobody of ours was its parent; the engine knows.
    assert_eq!(then["exit"]["code"], 7, "{then:#}");
    let logs = docked.divvy("logs w").run().succeeds();
    assert_eq!(
        logs.stdout,
        counted(""),
        "nothing is lost, nothing comes twice"
    );
    assert_eq!(
        logs.stderr,
        counted("e"),
        "nothing is lost, nothing comes twice"
    );
    docked.nothing_is_left();
}

#[test]
fn the_end_that_no_monitor_saw_is_learnt_from_the_engine() {
    requires!(root, dockerd);
    let docked = Docked::new();
    docked
        .job("-d --name w", "echo here; sleep 1; echo there; exit 9")
        .run()
        .succeeds();
    wait_until_it_prints(&docked, "w");
    monitors(&docked.machine).into_iter().for_each(kill);
    thread::sleep(Duration::from_millis(1500));
    let then = record(&docked.machine, "w");
    assert_eq!(then["state"], "exited", "{then:#}");
    assert_eq!(then["exit"]["code"], 9, "{then:#}");
    let logs = docked.divvy("logs w").run().succeeds();
    assert_eq!(logs.stdout, "here\nthere\n");
    docked.nothing_is_left();
}

#[test]
fn a_container_outlives_the_command_that_started_it() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let command = docked.job("--name w", COUNT).spawn();
    wait_until_it_prints(&docked, "w");
    command.kill();
    let now = record(&docked.machine, "w");
    assert_eq!(now["state"], "running", "{now:#}");
    assert_eq!(monitors(&docked.machine).len(), 1, "it is owned");
    let then = ended(&docked.machine, "w");
    assert_eq!(then["exit"]["code"], 7, "{then:#}");
    assert_eq!(docked.divvy("logs w").run().stdout, counted(""));
    docked.nothing_is_left();
}

#[test]
fn whenever_the_command_or_the_monitor_is_killed_nothing_is_lost_or_left() {
    requires!(root, dockerd);
    let docked = Docked::new();
    // Its ledger is made by nobody who is killed.
    docked.job("--rm", "true").run().succeeds();
    let marker = docked.machine.path().join("marks");
    fs::create_dir(&marker).unwrap();
    for round in 0..16u64 {
        let name = format!("r{round}");
        let volume = format!("{}:/marks", marker.display());
        let command = docked
            .run(&format!("--name {name} -v {volume}"))
            .args([
                "app:1",
                "sh",
                "-c",
                &format!("echo x >> /marks/{name}; exec sleep 60"),
            ])
            .spawn();
        thread::sleep(Duration::from_millis(20 + round * 25));
        if round % 2 == 0 {
            command.kill();
        } else {
            monitors(&docked.machine).into_iter().for_each(kill);
            thread::sleep(Duration::from_millis(100));
            command.kill();
        }
        // What is still between two states is settled by the next commands.
        let settled = || {
            let all = records(&docked.machine);
            all.iter()
                .all(|r| matches!(text(&r["state"]), "running" | "exited"))
        };
        assert!(eventually(settled), "{:#?}", records(&docked.machine));
        for record in records(&docked.machine) {
            let its = text(&record["name"]).to_owned();
            let ran = fs::read_to_string(marker.join(&its)).unwrap_or_default();
            assert!(ran.len() <= 2, "{its} ran {} times", ran.len() / 2);
            if record["state"] == "running" {
                assert!(eventually(|| marker.join(&its).exists()), "{record:#}");
            }
            docked.divvy("rm -f").arg(&its).run().succeeds();
        }
        assert_eq!(held(&docked.machine), Vec::<String>::new());
    }
    // A monitor whose command was killed removes its container a moment later.
    let gone = || {
        let _ = records(&docked.machine);
        docked.engine.containers().is_empty()
    };
    assert!(eventually(gone), "{:?}", docked.engine.containers());
    docked.nothing_is_left();
}

#[test]
fn a_lost_ledger_and_lost_folders_are_rebuilt_from_the_engine() {
    requires!(root, dockerd);
    let docked = Docked::new();
    docked
        .job("-d --name w --cpu 1", "echo here; exec sleep 60")
        .run()
        .succeeds();
    wait_until_it_prints(&docked, "w");
    let before = record(&docked.machine, "w");
    monitors(&docked.machine).into_iter().for_each(kill);
    assert!(eventually(|| monitors(&docked.machine).is_empty()));
    for name in ["ledger.redb", "ledger"] {
        let _ = fs::remove_file(docked.machine.state().join(name));
    }
    fs::remove_dir_all(docked.machine.state().join("workloads")).unwrap();

    let began_at = std::time::Instant::now();
    docked
        .divvy("state rebuild")
        .run()
        .succeeds()
        .says("1 records");
    assert!(began_at.elapsed() < Duration::from_secs(5));
    let after = record(&docked.machine, "w");
    for field in [
        "id",
        "name",
        "owner",
        "asked",
        "slices",
        "edits",
        "pid",
        "container_id",
        "boot_id",
    ] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(after["state"], "running");
    assert!(!held(&docked.machine).is_empty());
    docked.divvy("exec w true").run().succeeds();
    docked.divvy("rm -f w").run().succeeds();
    docked.nothing_is_left();
}

// === the engine itself ===

#[test]
fn a_container_lives_through_its_engines_death() {
    requires!(root, dockerd);
    let mut docked = Docked::on(Dockerd::with(&["--live-restore"]));
    docked.job("-d --name w", COUNT).run().succeeds();
    wait_until_it_prints(&docked, "w");
    let before = record(&docked.machine, "w");
    docked.engine.kill();
    thread::sleep(Duration::from_millis(500));
    // It can be seen and is held to its slice, without the engine.
    let now = record(&docked.machine, "w");
    assert_eq!(
        (&now["state"], &now["pid"]),
        (&before["state"], &before["pid"])
    );
    assert!(!held(&docked.machine).is_empty());
    let nothing = docked.job("--cpu 0.1", "true").run().exits(125);
    nothing
        .complains("[engine_unavailable]")
        .complains("systemctl");
    docked.engine.up();
    let then = ended(&docked.machine, "w");
    assert_eq!(then["exit"]["code"], 7, "{then:#}");
    let logs = docked.divvy("logs w").run().succeeds();
    assert_eq!(
        logs.stdout,
        counted(""),
        "nothing is lost, nothing comes twice"
    );
    docked.nothing_is_left();
}

#[test]
fn an_engine_that_ends_its_containers_is_believed() {
    requires!(root, dockerd);
    let mut docked = Docked::new();
    docked
        .job(
            "-d --name w",
            "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done",
        )
        .run()
        .succeeds();
    wait_until_it_prints(&docked, "w");
    docked.engine.stop();
    // Its process is gone; how it ended, the engine says when it is back.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(record(&docked.machine, "w")["state"], "running");
    assert!(
        !held(&docked.machine).is_empty(),
        "nothing is freed before that"
    );
    docked.engine.up();
    let then = ended(&docked.machine, "w");
    assert_eq!(then["exit"]["code"], 9, "{then:#}");
    docked.nothing_is_left();
}

#[test]
fn what_an_engine_cannot_do_is_said_with_the_remedy() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let missing = docked
        .run("")
        .args(["no-such-image:1", "true"])
        .run()
        .exits(125);
    missing
        .complains("[image_pull_failed]")
        .complains("docker pull");
    let nowhere = docked
        .machine
        .divvy("--docker-socket /nonexistent run --launcher docker app:1 true");
    nowhere.run().exits(125).complains("[engine_unavailable]");
    let remote = docked.machine.divvy("run --launcher docker app:1 true");
    let remote = remote
        .without("DIVVY_DOCKER_SOCKET")
        .env("DOCKER_HOST", "tcp://127.0.0.1:2375")
        .run()
        .exits(125);
    remote.complains("unix socket");
    let socket = docked.engine.socket();
    let volume = format!("{}:/x", socket.display());
    let refused = docked
        .run("")
        .args(["-v", &volume, "app:1", "true"])
        .run()
        .exits(125);
    refused.complains("root on this machine");
    // On the host's own root it is not there either.
    let look = format!("cat < {s}; test -S {s} && echo there", s = socket.display());
    let seen = docked
        .divvy("run --cpu 0.25 --mem 64MiB -- sh -c")
        .arg(look)
        .folder(rootfs::work(&docked.machine))
        .run();
    assert!(!seen.stdout.contains("there"), "{seen}");
    let file = docked.machine.path().join("file.tar");
    fs::write(&file, "").unwrap();
    docked
        .run("")
        .arg(&file)
        .run()
        .exits(125)
        .complains("docker load");
    docked
        .divvy("run --launcher docker -- true")
        .run()
        .exits(125)
        .complains("[invalid_launcher]");
    docked.nothing_is_left();
}

#[test]
fn a_vendors_default_runtime_is_not_used() {
    requires!(root, dockerd);
    let folder = tempfile::tempdir().unwrap();
    let (wrapper, log) = (folder.path().join("vendor"), folder.path().join("called"));
    fs::write(
        &wrapper,
        format!(
            "#!/bin/sh\necho \"$@\" >> {}\nexec runc \"$@\"\n",
            log.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let vendor = format!("--add-runtime=vendor={}", wrapper.display());
    let docked = Docked::on(Dockerd::with(&[&vendor, "--default-runtime=vendor"]));
    docked
        .engine
        .image(&json!({ "Env": ["NVIDIA_VISIBLE_DEVICES=all"] }), |_| {});
    docked.job("--rm", "true").run().succeeds();
    let called = fs::read_to_string(&log).unwrap_or_default();
    assert!(!called.contains("create"), "{called}");
    docked.nothing_is_left();
}

// === images ===

#[test]
fn a_hostile_image_gets_nothing_more() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let canary = "/tmp/divvy-canary.so";
    let config = json!({
        "Env": [
            "NVIDIA_VISIBLE_DEVICES=all", "AMD_VISIBLE_DEVICES=all",
            "CUDA_VISIBLE_DEVICES=0", "cuda_visible_devices=0", "DOCKER_RESOURCE_GPU=all",
            format!("LD_PRELOAD={canary}"), format!("LD_AUDIT={canary}"), "OMP_NUM_THREADS=512",
        ],
        "Healthcheck": { "Test": ["CMD-SHELL", "echo sick >> /tmp/health"], "Interval": 1_000_000_000 },
        "Volumes": { "/vol": {} },
        "Labels": { "dev.divvy.record": "{}", "dev.divvy.id": "forged" },
    });
    docked.engine.image(&config, |_| {});
    let said = docked
        .job("--name w", "env; ls /dev; sleep 2; cat /tmp/health; true")
        .run()
        .succeeds();
    let lines: Vec<&str> = said.stdout.lines().collect();
    for line in [
        "NVIDIA_VISIBLE_DEVICES=",
        "AMD_VISIBLE_DEVICES=",
        "CUDA_VISIBLE_DEVICES=",
        "cuda_visible_devices=",
        "DOCKER_RESOURCE_GPU=",
        "LD_AUDIT=",
    ] {
        assert!(lines.contains(&line), "{line}\n{said}");
    }
    assert!(!said.stdout.contains("sick"), "a health check ran\n{said}");
    let usual = [
        "divvy-go",
        "divvy-init",
        "core",
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    ];
    let from = lines.iter().position(|l| *l == "divvy-go").unwrap();
    assert!(lines[from..].iter().all(|l| usual.contains(l)), "{said}");
    docked.divvy("rm w").run().succeeds();

    for n in [3, 7, 64] {
        docked.engine.image(
            &json!({ "WorkingDir": format!("/proc/self/fd/{n}") }),
            |_| {},
        );
        docked
            .job("", "pwd")
            .run()
            .exits(125)
            .complains("[forbidden]");
    }
    for name in ["dev", "proc", "sys"] {
        let trap = docked.machine.path().join("trap");
        let _ = fs::remove_dir_all(&trap);
        fs::create_dir(&trap).unwrap();
        docked.engine.image(&json!({}), |root| {
            fs::remove_dir(root.join(name)).unwrap();
            symlink(&trap, root.join(name)).unwrap();
        });
        let said = docked
            .job("--rm", "ls /dev; echo x > /sys/x; echo x > /dev/x")
            .run();
        assert!(said.stdout.contains("null"), "{said}");
        assert_eq!(fs::read_dir(&trap).unwrap().count(), 0, "{name} led out");
    }
    docked
        .divvy("state rebuild")
        .run()
        .succeeds()
        .says("0 records");
    docked.nothing_is_left();
}

#[test]
fn what_an_image_needs_is_asked_before_anything_starts() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let labels = json!({
        "dev.divvy.requires": "cpu>=0.5, mem>=32MiB",
        "ai.backend.resource.min.mem": "48m",
    });
    docked.engine.image(&json!({ "Labels": labels }), |_| {});
    docked
        .job("--rm --cpu 0.5 --mem 48MiB", "true")
        .run()
        .succeeds();
    let less = docked
        .job("--cpu 0.25 --mem 48MiB", "true")
        .run()
        .exits(125);
    less.complains("[image_requires]")
        .complains("--slot cpu=0.5");
    let less = docked.job("--cpu 0.5 --mem 40MiB", "true").run().exits(125);
    less.complains("48 MiB of mem");

    let archive = foreign(docked.machine.path());
    docked.engine.load(&archive);
    let other = docked.run("").args(["foreign:1", "true"]).run().exits(125);
    other
        .complains("[image_architecture]")
        .complains("linux/s390x");
    docked.nothing_is_left();
}

/// The image of another kind of machine.
fn foreign(at: &Path) -> std::path::PathBuf {
    let archive = rootfs::image(at, &json!({}), |_| {});
    let out = at.join("image");
    let config = fs::read_to_string(out.join("config.json")).unwrap();
    let ours = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    fs::write(out.join("config.json"), config.replace(ours, "s390x")).unwrap();
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    fs::write(
        out.join("manifest.json"),
        manifest.replace("app:1", "foreign:1"),
    )
    .unwrap();
    fs::remove_file(&archive).unwrap();
    let tar = std::process::Command::new("tar")
        .args([
            "-C",
            &out.display().to_string(),
            "-cf",
            &archive.display().to_string(),
            ".",
        ])
        .status();
    assert!(tar.unwrap().success());
    archive
}

/// `auto`: files to the oci launcher, names to the engine.
#[test]
fn the_launcher_is_chosen_by_what_is_asked() {
    requires!(root, dockerd);
    let docked = Docked::new();
    let _ = runtimes();
    let small = "--cpu 0.25 --mem 64MiB";
    docked
        .divvy(&format!("run --name a {small} app:1 true"))
        .run()
        .succeeds();
    docked
        .divvy(&format!("run --name b {small} -- true"))
        .run()
        .succeeds();
    let archive = rootfs::image(docked.machine.path(), &json!({}), |_| {});
    let run = docked.divvy(&format!("run --name c {small}"));
    run.arg(&archive).arg("true").run().succeeds();
    for (name, launcher) in [("a", "docker"), ("b", "oci"), ("c", "oci")] {
        assert_eq!(
            record(&docked.machine, name)["launcher"],
            launcher,
            "{name}"
        );
    }
    docked
        .divvy(&format!("run {small} --launcher oci app:1 true"))
        .run()
        .exits(125)
        .complains("[invalid_root]");
    docked.nothing_is_left();
}

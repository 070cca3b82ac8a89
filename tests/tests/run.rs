//! `divvy run` and the verbs around it, on real containers.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use divvy_tests::rootfs::{
    cgroups, command, ended, held, job, limit, machine, nothing_is_left, record, records, runtimes,
    sh, start, text, work,
};
use divvy_tests::{OnTerminal, eventually, requires};
use rustix::process::Signal;

#[test]
fn the_exit_code_is_the_commands_own() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        sh(&machine, runtime, "", "exit 0").exits(0);
        sh(&machine, runtime, "", "exit 7").exits(7);
        sh(&machine, runtime, "", "exit 255").exits(255);
        sh(&machine, runtime, "", "kill -KILL $$").exits(137);
        sh(&machine, runtime, "", "kill -TERM $$").exits(143);
        sh(&machine, runtime, "", "kill -SEGV $$").exits(139);
        machine
            .divvy("run --cpu 0.5 --runtime /nonexistent -- true")
            .run()
            .exits(125);
        nothing_is_left(&machine);
    }
}

#[test]
fn standard_output_and_error_stay_apart() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let output = sh(&machine, runtime, "", "echo out; echo err >&2").succeeds();
        assert_eq!(
            (&*output.stdout, &*output.stderr),
            ("out\n", "err\n"),
            "{output}"
        );
    }
}

#[test]
fn a_command_that_ends_at_once_still_says_what_it_said() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        for n in 0..15 {
            let output = job(&machine, runtime, "")
                .args(["--", "echo", "here"])
                .run()
                .succeeds();
            assert_eq!(output.stdout, "here\n", "run {n}\n{output}");
        }
    }
}

/// A mebibyte in which every byte is somewhere, and no period is a power of 2.
fn mebibyte() -> Vec<u8> {
    (0u64..1 << 20)
        .map(|n| u8::try_from((n * n + n / 251) % 256).unwrap())
        .collect()
}

#[test]
fn a_mebibyte_comes_out_byte_for_byte() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        fs::write(work(&machine).join("data"), mebibyte()).unwrap();
        let words = format!("run --cpu 0.5 --mem 64MiB --runtime {runtime} -- cat data");
        let output = command(&machine, &words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        same_bytes(&output.stdout);
    }
}

#[test]
fn a_mebibyte_goes_in_and_comes_out_byte_for_byte() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        fs::write(machine.path().join("data"), mebibyte()).unwrap();
        let words = format!("run -i --cpu 0.5 --mem 64MiB --runtime {runtime} -- cat");
        let input = fs::File::open(machine.path().join("data")).unwrap();
        let output = command(&machine, &words).stdin(input).output().unwrap();
        assert!(
            output.status.success(),
            "{:?}",
            String::from_utf8_lossy(&output.stderr)
        );
        same_bytes(&output.stdout);
    }
}

#[track_caller]
fn same_bytes(found: &[u8]) {
    let expected = mebibyte();
    let differs = expected.iter().zip(found).position(|(a, b)| a != b);
    assert_eq!(
        (found.len(), differs),
        (expected.len(), None),
        "length, first difference"
    );
}

#[test]
fn without_i_there_is_no_input() {
    requires!(root);
    let machine = machine();
    let output = job(&machine, "built-in", "")
        .args(["--", "cat"])
        .input("secret")
        .run();
    assert_eq!(output.succeeds().stdout, "");
}

#[test]
fn a_detached_job_is_found_again_in_its_log() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let script = "echo one; echo two >&2; sleep 1; echo three";
        let name = job(&machine, runtime, "-d --name w")
            .args(["--", "sh", "-c", script])
            .run();
        assert_eq!(name.succeeds().stdout, "w\n");
        machine
            .divvy("ps")
            .run()
            .succeeds()
            .says("w ")
            .says("running");

        let followed = machine.divvy("logs -f w").run().succeeds();
        assert_eq!(
            (&*followed.stdout, &*followed.stderr),
            ("one\nthree\n", "two\n"),
            "{followed}"
        );
        assert_eq!(ended(&machine, "w")["exit"]["code"], 0);
        let logs = machine.divvy("logs w").run().succeeds();
        assert_eq!(
            (&*logs.stdout, &*logs.stderr),
            ("one\nthree\n", "two\n"),
            "{logs}"
        );
        let stamped = machine.divvy("logs -t w").run().succeeds().stdout;
        let first = stamped.split(' ').next().unwrap_or_default();
        assert!(
            first.len() == 13 && first.parse::<u64>().is_ok(),
            "{stamped:?}"
        );
    }
}

// === terminals ===

#[test]
fn a_terminal_has_a_size_and_carries_keys_and_control_c() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let words = format!("run -it --rm --cpu 0.5 --mem 64MiB --runtime {runtime} --");
        let script = "echo $TERM; echo ready; while read line; do echo \"got $line\"; stty size; done; echo over";
        let mut terminal = OnTerminal::start(&machine, &words, script);
        terminal.says("vt220");
        terminal.says("ready");
        terminal.types("hello\r");
        terminal.says("got hello");
        terminal.says("40 100");
        terminal.resize(132, 50);
        std::thread::sleep(Duration::from_millis(300));
        terminal.types("again\r");
        terminal.says("50 132");
        terminal.types("\u{3}");
        terminal.exits(130);
        nothing_is_left(&machine);
    }
}

#[test]
fn a_terminal_can_be_had_in_a_running_job() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        start(&machine, runtime, "w", "", "exec sleep 60");
        let mut terminal = OnTerminal::start(
            &machine,
            "exec -it w",
            "test -t 0 && test -t 1 && echo terminal; read x; echo \"got $x\"; exit 9",
        );
        terminal.says("terminal");
        terminal.types("key\r");
        terminal.says("got key");
        terminal.exits(9);
    }
}

#[test]
fn t_without_a_terminal_is_refused() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "-t", "true")
        .exits(2)
        .complains("[no_terminal]");
    assert_eq!(records(&machine).len(), 0);
}

// === signals ===

#[test]
fn signals_to_the_command_reach_the_job() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        for (signal, name, code) in [
            (Signal::TERM, "TERM", 43),
            (Signal::INT, "INT", 44),
            (Signal::USR1, "USR1", 45),
        ] {
            let script = format!(
                "trap 'echo caught; exit {code}' {name}; echo ready; while :; do sleep 0.05; done"
            );
            let mut run = job(&machine, runtime, "")
                .args(["--", "sh", "-c", &script])
                .spawn();
            assert!(
                eventually(|| run.stdout().contains("ready")),
                "it does not begin"
            );
            run.signal(signal);
            let output = run.output().exits(code);
            assert_eq!(output.stdout, "ready\ncaught\n", "{output}");
        }
        nothing_is_left(&machine);
    }
}

#[test]
fn stop_asks_first_and_kills_after_the_grace() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        start(
            &machine,
            runtime,
            "polite",
            "",
            "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done",
        );
        start(
            &machine,
            runtime,
            "deaf",
            "",
            "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        );
        for name in ["polite", "deaf"] {
            let ready = || {
                machine
                    .divvy("logs")
                    .arg(name)
                    .run()
                    .stdout
                    .contains("ready")
            };
            assert!(eventually(ready), "{name} does not begin");
        }
        let began = Instant::now();
        machine
            .divvy("stop -t 20 polite")
            .run()
            .succeeds()
            .says("polite");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(record(&machine, "polite")["exit"]["code"], 5);

        let began = Instant::now();
        machine.divvy("stop -t 1 deaf").run().succeeds();
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(1), "the grace was {took:?}");
        assert!(took < Duration::from_secs(5), "it took {took:?}");
        assert_eq!(record(&machine, "deaf")["exit"]["code"], 137);
        machine.divvy("stop deaf").run().succeeds();
        nothing_is_left(&machine);
    }
}

// === exec ===

#[test]
fn another_command_runs_inside_with_the_same_rights() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        start(
            &machine,
            runtime,
            "w",
            "-e COLOUR=green",
            "grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status; echo end; exec sleep 60",
        );
        machine.divvy("exec w true").run().exits(0);
        machine.divvy("exec w sh -c").arg("exit 7").run().exits(7);
        machine
            .divvy("exec w sh -c")
            .arg("kill -KILL $$")
            .run()
            .exits(137);
        machine.divvy("exec w no-such-program").run().exits(127);
        machine
            .divvy("exec w cat")
            .input("in and out")
            .run()
            .succeeds()
            .says("in and out");
        let env = machine
            .divvy("exec -e SHAPE=round w sh -c")
            .arg("echo $COLOUR $SHAPE; echo no >&2")
            .run();
        assert_eq!(
            (&*env.stdout, &*env.stderr),
            ("green round\n", "no\n"),
            "{env}"
        );
        machine
            .divvy("exec -w /tmp w pwd")
            .run()
            .succeeds()
            .says("/tmp\n");

        assert!(eventually(|| machine
            .divvy("logs w")
            .run()
            .stdout
            .contains("end")));
        let first = machine.divvy("logs w").run().stdout;
        let inner = machine
            .divvy("exec w grep -E")
            .arg("^(Cap|Seccomp:|NoNew)")
            .arg("/proc/self/status");
        let inner = inner.run().succeeds();
        assert_eq!(first.replace("end\n", ""), inner.stdout, "{inner}");
        // It is in the workload's cgroup: it counts against its slice.
        let id = text(&record(&machine, "w")["id"]).to_owned();
        let cgroup = machine
            .divvy("exec w cat /proc/self/cgroup")
            .run()
            .succeeds();
        assert!(cgroup.stdout.contains(&id), "{cgroup}");
        machine
            .divvy("exec -e NVIDIA_VISIBLE_DEVICES=all w true")
            .run()
            .exits(125)
            .complains("[reserved_env]");
    }
}

// === names, records, removal ===

#[test]
fn what_is_described_is_what_was_asked() {
    requires!(root);
    let machine = machine();
    start(
        &machine,
        "built-in",
        "w",
        "--cpu 1.5 --mem 300MiB",
        "exec sleep 60",
    );
    let described = machine.divvy("--json describe w").run().succeeds().json()["workload"].clone();
    assert_eq!(described, record(&machine, "w"));
    assert_eq!(described["asked"]["cpu"], "1.5", "{described:#}");
    assert_eq!(
        described["asked"]["mem"],
        (300u64 << 20).to_string(),
        "{described:#}"
    );
    assert_eq!(described["state"], "running");
    let id = text(&described["id"]).to_owned();
    let short = machine
        .divvy("--json describe")
        .arg(&id[..4])
        .run()
        .succeeds()
        .json();
    assert_eq!(text(&short["workload"]["id"]), id);
    machine
        .divvy("describe w")
        .run()
        .succeeds()
        .says("quota")
        .says("314572800 bytes");
    machine
        .divvy("describe cpu/core-0-0")
        .run()
        .says("held by     w");
    assert_eq!(machine.divvy("ps -q").run().succeeds().stdout, "w\n");
}

#[test]
fn what_has_not_ended_is_not_removed_unless_forced() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        start(&machine, runtime, "w", "", "exec sleep 60");
        machine
            .divvy("rm w")
            .run()
            .exits(125)
            .complains("[not_ended]")
            .complains("divvy stop w");
        job(&machine, runtime, "--name w")
            .args(["--", "true"])
            .run()
            .exits(125)
            .complains("[name_taken]");
        assert_eq!(record(&machine, "w")["state"], "running");
        let all = divvy_tests::rootfs::ids(&machine);
        machine.divvy("rm -f w").run().succeeds().says("w");
        assert_eq!(records(&machine).len(), 0);
        assert_eq!(
            divvy_tests::rootfs::ids(&machine).len(),
            0,
            "its folder is gone"
        );
        divvy_tests::rootfs::nothing_is_left_of(&machine, &all);
    }
}

#[test]
fn with_rm_nothing_is_remembered() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        sh(&machine, runtime, "--rm --name w", "exit 3").exits(3);
        assert_eq!(records(&machine).len(), 0);
        assert!(
            eventually(|| divvy_tests::rootfs::ids(&machine).is_empty()),
            "its folder stays"
        );
        nothing_is_left(&machine);
    }
}

// === what it sees ===

#[test]
fn the_current_folder_is_written_and_the_rest_discarded_by_name() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let script = "echo kept > kept; echo lost > /etc/divvy-lost; cat /etc/divvy-lost";
        let output = sh(&machine, runtime, "", script).succeeds().says("lost");
        let kept = fs::read_to_string(work(&machine).join("kept"));
        assert_eq!(kept.ok().as_deref(), Some("kept\n"), "{output}");
        assert!(
            !std::path::Path::new("/etc/divvy-lost").exists(),
            "{output}"
        );
        let output = output.complains("discarded");
        assert!(output.stderr.contains("/etc/divvy-lost"), "{output}");
        assert!(!output.stderr.contains("kept"), "{output}");
    }
}

#[test]
fn volumes_are_where_they_were_asked_for_and_as_writable() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let data = machine.path().join("data with space");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("in"), "from outside\n").unwrap();
        let volume = |options: &str| format!("{}:/mnt/data{options}", data.display());
        let run = |options: &str, script: &str| {
            job(&machine, runtime, "-v")
                .arg(volume(options))
                .args(["--", "sh", "-c", script])
                .run()
        };
        run("", "cat /mnt/data/in; echo out > /mnt/data/out")
            .succeeds()
            .says("from outside");
        assert_eq!(fs::read_to_string(data.join("out")).unwrap(), "out\n");
        run(":ro", "cat /mnt/data/in; echo x > /mnt/data/no")
            .exits(2)
            .complains("Read-only");
        assert!(!data.join("no").exists());
    }
}

#[test]
fn user_folder_and_environment_are_as_asked() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let output = sh(
            &machine,
            runtime,
            "-u nobody -w /tmp -e A=b -e C=d=e",
            "id -u; pwd; echo $A $C",
        );
        assert_eq!(output.succeeds().stdout, "65534\n/tmp\nb d=e\n");
        let none = sh(
            &machine,
            runtime,
            "-u nobody",
            "grep -E 'Cap(Prm|Eff|Bnd|Amb)' /proc/self/status",
        );
        let all_zero = none
            .stdout
            .lines()
            .all(|l| l.ends_with("\t0000000000000000"));
        assert!(
            all_zero && none.stdout.lines().count() == 4,
            "no capability\n{none}"
        );
        let taken = job(&machine, runtime, "-e TAKEN").env("TAKEN", "from here");
        taken
            .args(["--", "sh", "-c", "echo $TAKEN"])
            .run()
            .succeeds()
            .says("from here");
    }
}

#[test]
fn libraries_are_told_how_many_threads_unless_the_user_says() {
    requires!(root);
    let machine = machine();
    let threads = |options: &str| {
        let script = "echo $OMP_NUM_THREADS $GOMAXPROCS";
        let job = job(&machine, "built-in", options).args(["--", "sh", "-c", script]);
        job.run().succeeds().stdout
    };
    assert_eq!(threads("--cpu 0.5"), "1 1\n");
    assert_eq!(threads("--cpu 1.5"), "2 2\n");
    assert_eq!(threads("--cpu 2 -e OMP_NUM_THREADS=7"), "7 2\n");
}

#[test]
fn shared_memory_has_the_size_that_was_asked_for() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let size = "df -k /dev/shm | tail -1 | awk '{print $2}'";
        assert_eq!(sh(&machine, runtime, "", size).succeeds().stdout, "65536\n");
        let bigger = sh(&machine, runtime, "--shm-size 100MiB", size);
        assert_eq!(bigger.succeeds().stdout, "102400\n");
    }
}

#[test]
fn without_a_network_there_is_the_loopback_and_it_works() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let script =
            "ls /sys/class/net; busybox ping -c 1 -W 2 127.0.0.1 | grep -c '1 packets received'";
        let output = sh(&machine, runtime, "", script).succeeds();
        // The kernel makes some devices in every namespace (sit0, tunl0…): down and no way out.
        assert!(output.stdout.ends_with("\n1\n"), "{output}");
        let up = sh(
            &machine,
            runtime,
            "",
            "cat /proc/net/route | tail -n +2; ip -o link show up 2>/dev/null | awk '{print $2}'",
        );
        assert_eq!(
            up.succeeds().stdout.replace("lo:\n", ""),
            "",
            "no route and no other device"
        );
    }
}

#[test]
fn the_hosts_network_is_there_when_asked_for() {
    requires!(root);
    let host = fs::read_link("/proc/self/ns/net")
        .unwrap()
        .display()
        .to_string();
    for runtime in runtimes() {
        let machine = machine();
        let inside = |net: &str| {
            sh(&machine, runtime, net, "readlink /proc/self/ns/net")
                .succeeds()
                .stdout
        };
        assert_eq!(inside("--net host").trim(), host);
        assert_ne!(inside("--net none").trim(), host);
    }
}

// === limits ===

#[test]
fn the_kernel_holds_it_to_what_was_asked() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        for (cpu, quota, cpus) in [("0.25", 0.25, 1), ("1", 1.0, 1), ("1.5", 1.5, 2)] {
            start(
                &machine,
                runtime,
                "w",
                &format!("--cpu {cpu} --mem 100MiB"),
                "exec sleep 60",
            );
            let record = record(&machine, "w");
            let id = text(&record["id"]);
            let folders = cgroups(id);
            assert!(!folders.is_empty(), "no cgroup of {id}");
            assert_eq!(
                limit(id, "memory.limit_in_bytes", "memory.max"),
                (100u64 << 20).to_string()
            );
            assert_eq!(limit(id, "pids.max", "pids.max"), "32768");
            let list = limit(id, "cpuset.cpus", "cpuset.cpus");
            let count: usize = list
                .split(',')
                .map(|part| {
                    let ends: Vec<usize> = part.split('-').map(|n| n.parse().unwrap()).collect();
                    ends[ends.len() - 1] - ends[0] + 1
                })
                .sum();
            assert_eq!(count, cpus, "cpus {list:?} for {cpu}");
            let found = if folders.iter().any(|f| f.join("cpu.max").exists()) {
                limit(id, "cpu.max", "cpu.max")
            } else {
                format!(
                    "{} {}",
                    limit(id, "cpu.cfs_quota_us", "-"),
                    limit(id, "cpu.cfs_period_us", "-")
                )
            };
            let (q, p) = found.split_once(' ').unwrap();
            let found = q.parse::<f64>().unwrap() / p.parse::<f64>().unwrap();
            assert!((found - quota).abs() < 1e-9, "{found} cores for {cpu}");
            machine.divvy("rm -f w").run().succeeds();
        }
    }
}

#[test]
fn running_out_of_memory_is_named() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let job = job(&machine, runtime, "--mem 32MiB --name hog");
        let hog = job.args(["--", "perl", "-e", "$x = 'x' x (256 << 20); sleep 9"]);
        let output = hog
            .run()
            .exits(137)
            .complains("out of memory")
            .complains("32 MiB");
        let output = output.complains("--mem");
        let record = record(&machine, "hog");
        assert_eq!(
            record["exit"]["out_of_memory"], true,
            "{record:#}\n{output}"
        );
        machine.divvy("ps -a").run().says("out of memory");
        nothing_is_left(&machine);
    }
}

#[test]
fn orphans_are_reaped() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let script = "for i in 1 2 3 4 5 6 7 8; do ( (sleep 0.1; exit 0) & ); done; sleep 0.6; \
             grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l; ls -d /proc/[0-9]* | wc -l";
        let output = sh(&machine, runtime, "", script).succeeds();
        let numbers: Vec<u32> = output
            .stdout
            .lines()
            .map(|l| l.trim().parse().unwrap())
            .collect();
        assert_eq!(numbers[0], 0, "zombies\n{output}");
        assert!(numbers[1] <= 5, "init, sh, and this pipe\n{output}");
    }
}

#[test]
fn what_outlives_the_command_inside_ends_with_it() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let began = Instant::now();
        sh(&machine, runtime, "", "setsid sleep 77.125 & exit 4").exits(4);
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{:?}",
            began.elapsed()
        );
        let gone = || divvy_tests::rootfs::processes("sleep 77.125").is_empty();
        assert!(
            eventually(gone),
            "{:?}",
            divvy_tests::rootfs::processes("sleep 77.125")
        );
        nothing_is_left(&machine);
    }
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_job() {
    requires!(root);
    let machine = machine();
    let (reader, writer) = std::io::pipe().unwrap();
    let words = "run --name w --cpu 0.5 --mem 64MiB --runtime built-in -- sh -c";
    let mut run = command(&machine, words);
    run.arg("for i in 1 2 3 4 5; do echo $i; sleep 0.05; done; exit 6");
    let mut run = run.stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    drop(reader);
    assert_eq!(run.wait().unwrap().code(), Some(6));
    assert_eq!(
        machine.divvy("logs w").run().succeeds().stdout,
        "1\n2\n3\n4\n5\n"
    );
    assert_eq!(held(&machine), Vec::<String>::new());
}

#[test]
fn a_working_directory_that_is_not_there_is_made() {
    requires!(root);
    let machine = machine();
    for runtime in runtimes() {
        sh(&machine, runtime, "--rm -w /nosuch/deep", "pwd")
            .succeeds()
            .says("/nosuch/deep");
    }
    assert!(!std::path::Path::new("/nosuch").exists());
    nothing_is_left(&machine);
}

//! What a container cannot do: the rules of `docs/security.md` (S1, S2, S4 to
//! S7, S9, S10, S18 to S20), each tried from inside or through the command line.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use divvy_tests::rootfs::{
    busybox, command, dump, image, job, machine, record, runtimes, sh, start, text, work,
};
use divvy_tests::{Machine, Output, requires};
use serde_json::{Value, json};

/// A folder with busybox as a root.
fn root_of(machine: &Machine) -> PathBuf {
    let root = machine.path().join("root");
    fs::create_dir(&root).unwrap();
    busybox(&root);
    root
}

/// Runs a script on a folder as root.
#[track_caller]
fn on(root: &Path, machine: &Machine, runtime: &str, script: &str) -> Output {
    let job = job(machine, runtime, "--rootfs").arg(root);
    job.args(["--", "/bin/sh", "-c", script]).run()
}

// === descriptors (S6) ===

#[test]
fn a_container_has_three_descriptors_whatever_its_caller_had() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        // Descriptors 3 to 40 of the caller, inherited on purpose.
        let mut shell = Command::new("bash");
        let divvy = command(&machine, &format!("run --cpu 0.5 --runtime {runtime} --"));
        let open: String = (3..40).map(|n| format!("exec {n}</etc/passwd; ")).collect();
        shell.args(["-c", &format!("{open} exec \"$@\""), "bash"]);
        shell.arg(divvy.get_program()).args(divvy.get_args());
        // The shell's own glob opens the folder: that is not counted.
        shell.args([
            "sh",
            "-c",
            "for f in 0 1 2 3 4 5 6 7 8 9 10 20 30 39; do [ -e /proc/1/fd/$f ] && echo init $f; \
             [ -e /proc/self/fd/$f ] && echo job $f; done; true",
        ]);
        let output = shell.current_dir(work(&machine)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = "init 0\njob 0\ninit 1\njob 1\ninit 2\njob 2\n";
        assert_eq!(
            said,
            expected,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );

        start(&machine, runtime, "w", "", "exec sleep 60");
        let inner = machine
            .divvy("exec w sh -c")
            .arg("ls /proc/$$/fd")
            .run()
            .succeeds();
        assert_eq!(
            inner.stdout.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2"],
            "{inner}"
        );
    }
}

// === devices (S1, S9) ===

#[test]
fn dev_holds_the_usual_nodes_and_no_more() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let script = "cd /dev; for f in *; do [ -L $f ] && [ $f != ptmx ] && continue; [ -c $f ] && echo c $f; [ -b $f ] && echo b $f; done; true";
        let output = sh(&machine, runtime, "", script).succeeds();
        let mut found: Vec<&str> = output.stdout.lines().collect();
        found.sort_unstable();
        let usual = [
            "c full",
            "c null",
            "c ptmx",
            "c random",
            "c tty",
            "c urandom",
            "c zero",
        ];
        assert_eq!(found, usual, "{output}");
    }
}

#[test]
fn a_device_that_was_not_granted_is_neither_made_nor_opened() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let root = root_of(&machine);
        // What an image may bring: memory, a disk, the tun device, a GPU.
        fs::create_dir(root.join("nodes")).unwrap();
        for (name, kind, major, minor) in [
            ("mem", "c", "1", "1"),
            ("kmsg", "c", "1", "11"),
            ("vda", "b", "254", "0"),
            ("loop", "b", "7", "0"),
            ("nvidia0", "c", "195", "0"),
            ("fuse", "c", "10", "229"),
        ] {
            let made = Command::new("mknod")
                .arg(root.join("nodes").join(name))
                .args(["-m", "666", kind, major, minor])
                .status();
            assert!(made.unwrap().success(), "mknod {name}");
        }
        let script = "for n in /nodes/*; do dd if=$n of=/dev/null bs=1 count=1 2>/dev/null && echo OPENED $n; \
             dd if=/dev/null of=$n conv=notrunc 2>/dev/null && echo WRITTEN $n; done; \
             for d in /tmp /dev /dev/shm /work; do mknod $d/x c 1 1 2>/dev/null && echo MADE $d; \
             mknod $d/y b 254 0 2>/dev/null && echo MADE $d; done; ls /nodes | wc -l";
        // wc is not among the applets; `ls` shows that the nodes were there.
        let output = on(&root, &machine, runtime, &script.replace(" | wc -l", ""));
        let said: Vec<&str> = output.stdout.lines().collect();
        assert_eq!(
            said,
            ["fuse", "kmsg", "loop", "mem", "nvidia0", "vda"],
            "{output}"
        );
    }
}

// === rights (S9) ===

#[test]
fn rights_are_dockers_less_the_making_of_nodes() {
    requires!(root);
    // Docker's default set is 0xa80425fb; CAP_MKNOD is bit 27.
    let set = format!("{:016x}", 0xa804_25fb_u64 & !(1 << 27));
    let none = format!("{:016x}", 0);
    for runtime in runtimes() {
        let machine = machine();
        let output = sh(
            &machine,
            runtime,
            "",
            "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status",
        );
        let found: Vec<(&str, &str)> = output
            .stdout
            .lines()
            .filter_map(|l| l.split_once(":\t"))
            .collect();
        let expected = [
            ("CapInh", none.as_str()),
            ("CapPrm", &set),
            ("CapEff", &set),
            ("CapBnd", &set),
            ("CapAmb", &none),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ];
        assert_eq!(found, expected, "{output}");
    }
}

#[test]
fn calls_that_reach_for_the_host_fail() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        for attempt in [
            "mount -t tmpfs x /mnt",
            "mount -o remount,rw /",
            "umount /proc",
            "unshare -m true",
            "unshare -U true",
            "nsenter -t 1 -m true",
            "chroot /proc/1/root true && chroot / mount -t proc x /mnt",
            "dmesg",
            "echo 1 > /proc/sys/kernel/panic",
            "echo b > /proc/sysrq-trigger",
            "echo x > /sys/fs/cgroup/cpu/tasks",
            "hostname other",
            "date -s 2001-01-01",
            "cat /proc/kcore | grep .",
            "busybox losetup /dev/loop0 /etc/passwd",
            "swapoff -a && swapon /etc/passwd",
        ] {
            let output = sh(
                &machine,
                runtime,
                "",
                &format!("({attempt}) >/dev/null 2>&1"),
            );
            assert_ne!(output.code, 0, "{attempt} succeeded\n{output}");
        }
    }
}

// === what of the host is seen ===

#[test]
fn run_and_divvys_state_are_not_there() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        sh(&machine, runtime, "", "ls -A /run").succeeds().quietly();
        assert_eq!(
            sh(&machine, runtime, "", "ls -A /run; ls -A /var/run").stdout,
            ""
        );
        let state = machine.state();
        let look = format!(
            "ls -A {0}; cat {0}/ledger.redb; touch {0}/x",
            state.display()
        );
        let output = sh(&machine, runtime, "", &look);
        assert_eq!(output.stdout, "", "nothing is seen\n{output}");
        assert_ne!(output.code, 0, "nothing is written\n{output}");
        // Also where its own folder is the current one, or above it.
        for folder in [machine.path(), Path::new("/tmp"), Path::new("/")] {
            let output = job(&machine, runtime, "")
                .args(["--", "sh", "-c", &look])
                .folder(folder)
                .run();
            assert_eq!(output.stdout, "", "from {}\n{output}", folder.display());
            assert!(
                !state.join("x").exists(),
                "from {}\n{output}",
                folder.display()
            );
        }
        // Nor by way of another process's root.
        let roots = format!(
            "for p in /proc/[0-9]*; do ls $p/root{0} 2>/dev/null; done; true",
            state.display()
        );
        assert_eq!(sh(&machine, runtime, "", &roots).succeeds().stdout, "");
    }
}

#[test]
fn a_folder_as_root_is_not_changed() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let root = root_of(&machine);
        let script = "echo mine > /etc/passwd; touch /new /bin/new; ln -s /etc /link; chown alice /tmp; cat /etc/passwd";
        on(&root, &machine, runtime, script).says("mine");
        assert!(
            fs::read_to_string(root.join("etc/passwd"))
                .unwrap()
                .contains("alice")
        );
        for new in ["new", "bin/new", "link", "dev/null", "dev/divvy-init"] {
            assert!(
                fs::symlink_metadata(root.join(new)).is_err(),
                "{new} was made"
            );
        }
    }
}

#[test]
fn links_in_a_root_lead_nowhere_else() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let outside = machine.path().join("outside");
        fs::create_dir(&outside).unwrap();
        // Where the runtime mounts and makes things (CVE-2026-41579, CVE-2025-31133).
        for name in ["dev", "proc", "sys", "tmp"] {
            let root = machine.path().join(format!("root-{name}"));
            fs::create_dir(&root).unwrap();
            busybox(&root);
            fs::remove_dir(root.join(name)).unwrap();
            symlink(&outside, root.join(name)).unwrap();
            let output = job(&machine, runtime, "-v")
                .arg(format!("{}:/tmp/x", work(&machine).display()))
                .arg("--rootfs")
                .arg(&root)
                .args(["--", "/bin/sh", "-c", "echo ran"])
                .run();
            let found: Vec<_> = fs::read_dir(&outside)
                .unwrap()
                .filter_map(Result::ok)
                .collect();
            assert!(found.is_empty(), "{name}: {found:?}\n{output}");
        }
    }
}

// === mounts (S4, S5, S10) ===

/// Runs with a volume; it must be refused before anything starts.
#[track_caller]
fn no_volume(machine: &Machine, volume: &str, why: &str) {
    let before = dump(machine);
    let output = machine
        .divvy("run --runtime built-in --cpu 0.5 -v")
        .arg(volume)
        .args(["--", "true"])
        .folder(work(machine))
        .run()
        .exits(125);
    let output = output.complains("[invalid_mount]").complains(why);
    assert_eq!(dump(machine), before, "{output}");
}

#[test]
fn what_would_hand_over_the_host_is_not_mounted() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "", "true").succeeds();
    let state = machine.state().display().to_string();
    let link = machine.path().join("link");
    symlink("/", &link).unwrap();
    let node = machine.path().join("node");
    assert!(
        Command::new("mknod")
            .arg(&node)
            .args(["c", "1", "1"])
            .status()
            .unwrap()
            .success()
    );
    for (volume, why) in [
        ("/:/host".to_owned(), "state"),
        (format!("{}:/host", link.display()), "state"),
        ("/proc:/p".into(), "/proc"),
        ("/proc/1/root:/p".into(), ""),
        ("/sys:/s".into(), "/sys"),
        ("/dev:/d".into(), "/dev"),
        ("/dev/null:/n".into(), "/dev"),
        ("/usr/../proc:/p".into(), "/proc"),
        (format!("{}:/n", node.display()), "devices are granted"),
        (format!("{state}:/s"), "state"),
        (format!("{state}/workloads:/s"), "state"),
        (format!("{}:/s", machine.path().display()), "state"),
        ("/usr:/".into(), "root"),
        ("/usr:/proc".into(), "/proc"),
        ("/usr:/sys/x".into(), "/sys"),
        ("/usr:/dev/x".into(), "/dev"),
        ("/usr:/a/../proc".into(), "SOURCE:TARGET"),
        ("/usr:relative".into(), "SOURCE:TARGET"),
        ("/usr".into(), "SOURCE:TARGET"),
        ("/usr:/a:rshared".into(), "SOURCE:TARGET"),
        ("/nonexistent:/a".into(), "No such file"),
    ] {
        no_volume(&machine, &volume, why);
    }
}

/// A socket where Docker's would be, unless one is there; gone with the test.
struct Engine(Option<UnixListener>);

impl Engine {
    const AT: &'static str = "/run/docker.sock";

    fn new() -> Self {
        Self((!Path::new(Self::AT).exists()).then(|| UnixListener::bind(Self::AT).unwrap()))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.0.is_some() {
            let _ = fs::remove_file(Self::AT);
        }
    }
}

#[test]
fn an_engines_socket_never_enters_a_container_under_any_name() {
    requires!(root);
    let engine = Engine::new();
    let machine = machine();
    sh(&machine, "built-in", "", "true").succeeds();
    let link = machine.path().join("innocent");
    symlink(Engine::AT, &link).unwrap();
    let parent = machine.path().join("parent");
    symlink("/run", &parent).unwrap();
    // A hard link, on the socket's own file system.
    let hard = Path::new("/run/divvy-test-hard-link");
    let _ = fs::remove_file(hard);
    fs::hard_link(fs::canonicalize(Engine::AT).unwrap(), hard).unwrap();
    let volumes = [
        Engine::AT.to_owned(),
        "/var/run/docker.sock".into(),
        link.display().to_string(),
        "/run".into(),
        parent.display().to_string(),
        hard.display().to_string(),
    ];
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for volume in &volumes {
            no_volume(&machine, &format!("{volume}:/x"), "root on this machine");
            no_volume(&machine, &format!("{volume}:/x:ro"), "root on this machine");
        }
        // On the host's root it is not there either, from wherever it is run.
        for runtime in runtimes() {
            for folder in [work(&machine).as_path(), Path::new("/run"), Path::new("/")] {
                let script = "ls -la /run/docker.sock /var/run/docker.sock; find / -xdev -name docker.sock 2>/dev/null; true";
                let output = job(&machine, runtime, "")
                    .args(["--", "sh", "-c", script])
                    .folder(folder)
                    .run();
                assert_eq!(output.stdout, "", "from {}\n{output}", folder.display());
            }
        }
    }));
    let _ = fs::remove_file(hard);
    drop(engine);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

// === working directories (S7) ===

#[test]
fn a_working_directory_cannot_hide_behind_a_descriptor() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "", "true").succeeds();
    let before = dump(&machine);
    for folder in [
        "/proc/self/fd/7",
        "/proc",
        "/proc/1/cwd",
        "relative",
        "",
        "/a/../proc/self",
        "/a/..",
        "../..",
    ] {
        let output = machine
            .divvy("run --runtime built-in --cpu 0.5 -w")
            .arg(folder)
            .args(["--", "true"])
            .run()
            .exits(125);
        output.complains("[forbidden]").complains("absolute path");
    }
    assert_eq!(dump(&machine), before);
    start(&machine, "built-in", "w", "", "exec sleep 60");
    for folder in ["/proc/self/fd/7", "relative", "/a/../proc"] {
        machine
            .divvy("exec -w")
            .arg(folder)
            .args(["w", "true"])
            .run()
            .exits(125)
            .complains("[forbidden]");
    }
}

#[test]
fn an_image_cannot_start_in_a_descriptor() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        for number in [3, 7, 64] {
            let config =
                json!({ "WorkingDir": format!("/proc/self/fd/{number}"), "Cmd": ["/bin/pwd"] });
            let archive = image(machine.path(), &config, |_| {});
            let output = job(&machine, runtime, "").arg(&archive).run().exits(125);
            output.complains("[forbidden]");
        }
        // Nor by a link of its own (CVE-2024-21626): whatever it starts in is its own.
        for number in 3..16 {
            let config = json!({ "WorkingDir": "/w", "Cmd": ["/bin/sh", "-c", "cat ../../../../etc/hostname ../../../etc/shadow; /bin/pwd"] });
            let archive = image(machine.path(), &config, |root| {
                symlink(format!("/proc/self/fd/{number}"), root.join("w")).unwrap();
            });
            let output = job(&machine, runtime, "").arg(&archive).run();
            assert!(!output.stdout.contains("root:"), "fd {number}\n{output}");
            let shadow = fs::read_to_string("/etc/hostname").unwrap_or_default();
            assert!(
                shadow.trim().is_empty() || !output.stdout.contains(shadow.trim()),
                "fd {number}\n{output}"
            );
        }
    }
}

// === environment (S1, S2) ===

#[test]
fn variables_that_choose_devices_are_refused_in_any_case() {
    requires!(root);
    let machine = machine();
    sh(&machine, "built-in", "", "true").succeeds();
    let before = dump(&machine);
    for (variable, code) in [
        ("NVIDIA_VISIBLE_DEVICES=all", "reserved_env"),
        ("nvidia_visible_devices=all", "reserved_env"),
        ("Nvidia_Visible_Devices=all", "reserved_env"),
        ("CUDA_VISIBLE_DEVICES=0", "reserved_env"),
        ("cuda_visible_devices=0", "reserved_env"),
        ("AMD_VISIBLE_DEVICES=all", "reserved_env"),
        ("ROCR_VISIBLE_DEVICES=0", "reserved_env"),
        ("HIP_VISIBLE_DEVICES=0", "reserved_env"),
        ("ANY_OTHER_VISIBLE_DEVICES=0", "reserved_env"),
        ("GPU_DEVICE_ORDINAL=0", "reserved_env"),
        ("gpu_device_ordinal=0", "reserved_env"),
        ("DOCKER_RESOURCE_GPU=0", "reserved_env"),
        ("LD_AUDIT=/x.so", "reserved_env"),
        ("NVIDIA_VISIBLE_DEVICES =all", "invalid_env"),
        (" NVIDIA_VISIBLE_DEVICES=all", "invalid_env"),
        ("A\nNVIDIA_VISIBLE_DEVICES=all", "invalid_env"),
        ("=all", "invalid_env"),
        ("A-B=c", "invalid_env"),
        ("1A=c", "invalid_env"),
        ("NOT_SET_ANYWHERE", "invalid_env"),
    ] {
        let output = machine
            .divvy("run --runtime built-in --cpu 0.5 -e")
            .arg(variable)
            .args(["--", "true"])
            .run()
            .exits(125);
        output.complains(&format!("[{code}]"));
    }
    assert_eq!(dump(&machine), before);
}

#[test]
fn variables_that_choose_devices_are_not_inherited() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let job = job(&machine, runtime, "-e MINE=1")
            .env("NVIDIA_VISIBLE_DEVICES", "all")
            .env("cuda_visible_devices", "0")
            .env("LD_AUDIT", "")
            .env("HARMLESS", "yes");
        let output = job
            .args(["--", "env"])
            .run()
            .succeeds()
            .says("HARMLESS=yes")
            .says("MINE=1");
        let lower = output.stdout.to_lowercase();
        assert!(
            !lower.contains("visible_devices") && !lower.contains("ld_audit"),
            "{output}"
        );
        let names: Vec<&str> = output
            .stdout
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|p| p.0)
            .collect();
        let once: std::collections::BTreeSet<&&str> = names.iter().collect();
        assert_eq!(once.len(), names.len(), "each name once\n{output}");
    }
}

// === images ===

#[test]
fn what_an_image_says_is_honoured() {
    requires!(root);
    for runtime in runtimes() {
        let machine = machine();
        let config = json!({
            "Env": ["PATH=/bin", "COLOUR=green", "NVIDIA_VISIBLE_DEVICES=all", "AMD_VISIBLE_DEVICES=all",
                    "nvidia_visible_devices=all", "OMP_NUM_THREADS=3"],
            "Entrypoint": ["/bin/sh", "-c", "id -u; id -g; pwd; echo $COLOUR $OMP_NUM_THREADS; echo \"$@\"; env", "sh"],
            "Cmd": ["one", "two"], "User": "alice", "WorkingDir": "/work",
        });
        let archive = image(machine.path(), &config, |_| {});
        let output = job(&machine, runtime, "").arg(&archive).run().succeeds();
        assert!(
            output
                .stdout
                .starts_with("1234\n2345\n/work\ngreen 3\none two\n"),
            "{output}"
        );
        let lower = output.stdout.to_lowercase();
        assert!(
            !lower.contains("visible_devices") && !lower.contains("driver_capabilities"),
            "{output}"
        );

        let user = job(&machine, runtime, "-u 77:88 -w /tmp -e COLOUR=red")
            .arg(&archive)
            .arg("three");
        let output = user.run().succeeds();
        assert!(
            output.stdout.starts_with("77\n88\n/tmp\nred 3\nthree\n"),
            "{output}"
        );
    }
}

#[test]
fn an_image_is_not_changed_by_its_container() {
    requires!(root);
    let machine = machine();
    let archive = image(
        machine.path(),
        &json!({ "Cmd": ["/bin/sh", "-c", "ls /mark; touch /mark"] }),
        |_| {},
    );
    for _ in 0..2 {
        let output = job(&machine, "built-in", "").arg(&archive).run();
        assert_eq!((output.code, &*output.stdout), (0, ""), "{output}");
    }
}

// === output (S20) ===

#[test]
fn what_a_command_is_called_does_not_move_the_cursor() {
    requires!(root);
    let machine = machine();
    let evil = "\u{1b}[31mred\u{1b}]0;title\u{7}\u{202e}gnp\r\nnext";
    let job = job(&machine, "built-in", "--name w").args(["--", "true", evil]);
    job.run().succeeds();
    let strange = machine.path().join("\u{1b}[2Jroot");
    fs::create_dir(&strange).unwrap();
    busybox(&strange);
    let output = divvy_tests::rootfs::job(&machine, "built-in", "--name x --rootfs")
        .arg(&strange)
        .args(["--", "/bin/true"])
        .run();
    output.succeeds();
    for words in [
        "ps -a",
        "describe w",
        "describe x",
        "--json ps -a",
        "--json describe x",
        "state check",
    ] {
        let output = machine.divvy(words).run();
        for odd in ['\u{1b}', '\u{7}', '\r', '\u{202e}'] {
            // JSON is for programs: it escapes control characters and no more.
            if odd == '\u{202e}' && words.starts_with("--json") {
                continue;
            }
            assert!(
                !output.stdout.contains(odd) && !output.stderr.contains(odd),
                "{odd:?} in {output:?}"
            );
        }
    }
    assert_eq!(
        machine.divvy("ps -a").run().stdout.lines().count(),
        3,
        "a line each"
    );
    let output = machine.divvy("describe").arg(evil).run().exits(125);
    assert!(!output.stderr.contains('\u{1b}'), "{output:?}");
    let output = machine
        .divvy("run --name")
        .arg(evil)
        .args(["--", "true"])
        .run()
        .exits(125);
    assert!(!output.stderr.contains('\u{1b}'), "{output:?}");
}

// === the whole specification (S9) ===

/// The final `config.json` of a fixed job, for every field: what is not in
/// here must not be in there.
#[test]
fn the_specification_is_this_and_nothing_else() {
    requires!(root);
    let machine = machine();
    let root = root_of(&machine);
    let job = job(
        &machine,
        "built-in",
        "-d --name fixed --cpu 0.5 --mem 64MiB -e COLOUR=green --rootfs",
    );
    job.arg(&root)
        .args(["--", "/bin/sleep", "60"])
        .run()
        .succeeds();
    let record = record(&machine, "fixed");
    let id = text(&record["id"]);
    let folder = machine.state().join("workloads").join(id);
    let found = fs::read_to_string(folder.join("bundle/config.json")).unwrap();
    let found = found
        .replace(&folder.display().to_string(), "FOLDER")
        .replace(&machine.state().display().to_string(), "STATE")
        .replace(id, "ID");
    let mut found: Value = serde_json::from_str(&found).unwrap();
    // Their own tests are in core: Docker's profile, and the plugin's limits.
    let seccomp = found["linux"]["seccomp"].take();
    assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO", "{seccomp:#}");
    for key in ["cpus", "mems"] {
        let value = found["linux"]["resources"]["cpu"][key].take();
        assert!(
            value.as_str().is_some_and(|v| v.parse::<u32>().is_ok()),
            "{key}: {value}"
        );
    }
    let annotations = found["annotations"].take();
    let ours = annotations
        .as_object()
        .is_some_and(|a| a.keys().all(|k| k.starts_with("divvy.cpu.")));
    assert!(ours, "{annotations:#}");
    let memory = found["linux"]["resources"]["memory"]
        .as_object_mut()
        .expect("memory");
    // There where the kernel counts swap.
    let swap = memory.remove("swap");
    assert!(swap.is_none_or(|s| s == 64 << 20));
    let env = found["process"]["env"].as_array_mut().expect("env");
    env.retain(|v| {
        !v.as_str()
            .is_some_and(|v| v.contains("THREADS=") || v.starts_with("GOMAXPROCS="))
    });

    // A set: in no order.
    for kind in ["bounding", "effective", "permitted"] {
        let set = found["process"]["capabilities"][kind]
            .as_array_mut()
            .expect("capabilities");
        set.sort_by(|a, b| text(a).cmp(text(b)));
    }

    let expected: Value = serde_json::from_str(GOLDEN).unwrap();
    let pretty = |v: &Value| serde_json::to_string_pretty(v).unwrap();
    if found != expected {
        let (found, expected) = (pretty(&found), pretty(&expected));
        let only = |a: &str, b: &str| {
            let b: Vec<&str> = b.lines().collect();
            a.lines()
                .filter(|l| !b.contains(l))
                .collect::<Vec<_>>()
                .join("\n")
        };
        panic!(
            "--- expected ---\n{expected}\n--- found ---\n{found}\n--- only expected ---\n{}\n--- only found ---\n{}",
            only(&expected, &found),
            only(&found, &expected)
        );
    }
}

const GOLDEN: &str = r#"{
  "annotations": null,
  "hostname": "fixed",
  "linux": {
    "cgroupsPath": "/divvy/ID",
    "devices": [],
    "maskedPaths": [
      "/proc/asound",
      "/proc/acpi",
      "/proc/interrupts",
      "/proc/kcore",
      "/proc/keys",
      "/proc/latency_stats",
      "/proc/timer_list",
      "/proc/timer_stats",
      "/proc/sched_debug",
      "/proc/scsi",
      "/sys/firmware"
    ],
    "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    "resources": {
      "cpu": {"cpus": null, "mems": null, "period": 20000, "quota": 10000},
      "devices": [{"access": "rwm", "allow": false}],
      "memory": {"limit": 67108864},
      "pids": {"limit": 32768}
    },
    "rootfsPropagation": "private",
    "seccomp": null
  },
  "mounts": [
    {
      "destination": "/proc",
      "options": ["nosuid", "noexec", "nodev"],
      "source": "proc",
      "type": "proc"
    },
    {
      "destination": "/sys",
      "options": ["nosuid", "noexec", "nodev", "ro"],
      "source": "sysfs",
      "type": "sysfs"
    },
    {
      "destination": "/dev",
      "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
      "source": "tmpfs",
      "type": "tmpfs"
    },
    {
      "destination": "/dev/pts",
      "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
      "source": "devpts",
      "type": "devpts"
    },
    {
      "destination": "/dev/shm",
      "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
      "source": "tmpfs",
      "type": "tmpfs"
    },
    {
      "destination": "/dev/mqueue",
      "options": ["nosuid", "noexec", "nodev"],
      "source": "mqueue",
      "type": "mqueue"
    },
    {
      "destination": "/dev/divvy-init",
      "options": ["bind", "ro", "nosuid", "nodev", "rprivate"],
      "source": "STATE/init",
      "type": "bind"
    }
  ],
  "ociVersion": "1.0.2",
  "process": {
    "args": ["/dev/divvy-init", "--dir", "/", "--", "/bin/sleep", "60"],
    "capabilities": {
      "ambient": [],
      "bounding": [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
      ],
      "effective": [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
      ],
      "inheritable": [],
      "permitted": [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
      ]
    },
    "cwd": "/",
    "env": [
      "COLOUR=green",
      "HOME=/root",
      "HOSTNAME=fixed",
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ],
    "noNewPrivileges": true,
    "terminal": false,
    "user": {"additionalGids": [], "gid": 0, "uid": 0}
  },
  "root": {"path": "FOLDER/rootfs", "readonly": false}
}"#;

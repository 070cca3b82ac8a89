//! What the container tests share: roots to run on, runtimes to run with, and
//! a look at what a workload has, or has left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Divvy, Machine, Output, eventually, needs};

/// The runtimes to run with: our own, and runc where it is installed (else
/// that half is skipped, loudly).
///
/// # Panics
/// runc is missing and nothing may be skipped.
#[must_use]
pub fn runtimes() -> Vec<&'static str> {
    match needs::runc() {
        Ok(()) => vec!["runc", "built-in"],
        Err(remedy) => {
            needs::skip("runc", remedy);
            vec!["built-in"]
        }
    }
}

/// A machine with the CPU plugin and an empty folder to run jobs in.
#[must_use]
pub fn machine() -> Machine {
    let machine = Machine::with(&["cpu"]);
    fs::create_dir(work(&machine)).expect("a folder");
    machine
}

/// The folder in which [`job`]s run.
#[must_use]
pub fn work(machine: &Machine) -> PathBuf {
    machine.path().join("work")
}

/// In place of an OCI runtime: the machine's container engine, which has the
/// image `app:1`.
pub const ENGINE: &str = "docker";

/// `divvy run` of a small job in the machine's work folder: more options and
/// the command come behind it.
#[must_use]
pub fn job(machine: &Machine, runtime: &str, options: &str) -> Divvy {
    let asks = |what: &str| options.split([' ', '=']).any(|word| word == what);
    let here = work(machine).display().to_string();
    let volume = format!("{here}:{here}");
    let mut words = match runtime {
        ENGINE => vec!["--launcher", ENGINE, "-v", &volume, "-w", &here],
        runtime => vec!["--runtime", runtime],
    };
    words.extend((!asks("--cpu")).then_some("--cpu=0.25"));
    words.extend((!asks("--mem")).then_some("--mem=64MiB"));
    words.extend(options.split_whitespace());
    machine.divvy("run").args(words).folder(work(machine))
}

/// Runs a shell script on the host's root, to its end.
#[track_caller]
#[must_use]
pub fn sh(machine: &Machine, runtime: &str, options: &str, script: &str) -> Output {
    script_of(machine, runtime, options, script).run()
}

/// A shell script on the host's root, or in the engine's image.
#[must_use]
pub fn script_of(machine: &Machine, runtime: &str, options: &str, script: &str) -> Divvy {
    let first = if runtime == ENGINE { "app:1" } else { "--" };
    job(machine, runtime, options).args([first, "sh", "-c", script])
}

/// Starts a shell script in the background, under a name.
#[track_caller]
pub fn start(machine: &Machine, runtime: &str, name: &str, options: &str, script: &str) {
    let options = format!("-d --name {name} {options}");
    sh(machine, runtime, &options, script).succeeds();
}

/// The executable under test, for what the harness has no verb for.
///
/// # Panics
/// It was not built.
#[must_use]
pub fn program() -> PathBuf {
    let exe = std::env::current_exe().expect("our own path");
    let exe = exe
        .parent()
        .expect("a folder")
        .with_file_name("divvy-under-test");
    assert!(
        exe.is_file(),
        "{} is missing; run the tests with cargo",
        exe.display()
    );
    exe
}

/// A plain command on this machine, for bytes, terminals and descriptors.
#[must_use]
pub fn command(machine: &Machine, words: &str) -> Command {
    let mut command = Command::new(program());
    command.arg("--state").arg(machine.state());
    command.arg("--plugin-dir").arg(machine.plugin_folder());
    command
        .args(words.split_whitespace())
        .current_dir(work(machine));
    command
}

// === what there is ===

/// All records.
#[track_caller]
#[must_use]
pub fn records(machine: &Machine) -> Vec<Value> {
    let answer = machine.divvy("--json ps -a").run().succeeds().json();
    answer["workloads"].as_array().expect("workloads").clone()
}

/// The record of one workload.
#[track_caller]
#[must_use]
pub fn record(machine: &Machine, name: &str) -> Value {
    let all = records(machine);
    let found = all.iter().find(|r| r["name"] == name);
    found
        .unwrap_or_else(|| panic!("no record {name:?} among {all:#?}"))
        .clone()
}

/// What the ledger says, byte for byte.
#[track_caller]
#[must_use]
pub fn dump(machine: &Machine) -> String {
    machine.divvy("state dump").run().succeeds().stdout
}

/// Waits for a workload's end; its record.
#[track_caller]
#[must_use]
pub fn ended(machine: &Machine, name: &str) -> Value {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let record = record(machine, name);
        if record["state"] == "exited" {
            return record;
        }
        assert!(Instant::now() < end, "it has not ended: {record:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is held of the machine: `core-0-0 cores 0.5`.
#[track_caller]
#[must_use]
pub fn held(machine: &Machine) -> Vec<String> {
    let answer = machine.divvy("--json devices").run().succeeds().json();
    let devices = answer["devices"].as_array().expect("devices").clone();
    let mut held = Vec::new();
    for device in devices {
        for (capacity, usage) in device["usage"].as_object().expect("usage") {
            if usage["used"] != "0" {
                let (id, used) = (&device["id"], &usage["used"]);
                held.push(format!(
                    "{} {capacity} {}",
                    id.as_str().unwrap_or("?"),
                    text(used)
                ));
            }
        }
    }
    held
}

/// A JSON string's text.
#[must_use]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// The ids of a machine's workload folders.
#[must_use]
pub fn ids(machine: &Machine) -> BTreeSet<String> {
    let entries = fs::read_dir(machine.state().join("workloads"));
    let entries = entries.into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The cgroup folders of a workload, under every controller.
#[must_use]
pub fn cgroups(id: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let roots = controllers.map(|e| e.path()).chain([root.to_owned()]);
    // Ours, and where engines put theirs.
    roots
        .flat_map(|r| ["divvy", "docker"].map(|parent| r.join(parent).join(id)))
        .filter(|p| p.is_dir())
        .collect()
}

/// One value of a workload's cgroup, by its names in version 1 and 2.
#[track_caller]
#[must_use]
pub fn limit(id: &str, v1: &str, v2: &str) -> String {
    let folders = cgroups(id);
    let files = folders.iter().flat_map(|f| [f.join(v1), f.join(v2)]);
    let found = files.filter_map(|f| fs::read_to_string(f).ok()).next();
    let found = found.unwrap_or_else(|| panic!("neither {v1} nor {v2} in {folders:?}"));
    found.trim().to_owned()
}

/// Processes whose command line has this text.
#[must_use]
pub fn processes(with: &str) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let all = entries.filter_map(|e| {
        let pid: u32 = e.file_name().to_str()?.parse().ok()?;
        let line =
            String::from_utf8_lossy(&fs::read(e.path().join("cmdline")).ok()?).replace('\0', " ");
        Some((pid, line))
    });
    all.filter(|(pid, line)| *pid != std::process::id() && line.contains(with))
        .collect()
}

/// The monitors of a machine's workloads.
#[must_use]
pub fn monitors(machine: &Machine) -> Vec<u32> {
    let line = format!("monitor {}", machine.state().join("workloads").display());
    processes(&line).into_iter().map(|(pid, _)| pid).collect()
}

/// Ends a process with SIGKILL, if it is still there.
pub fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
}

/// What a workload that is over has left: cgroups, the runtime's notes, files
/// beyond its record and log.
#[must_use]
pub fn untidy(machine: &Machine, id: &str) -> Vec<String> {
    const KEPT: [&str; 9] = [
        "record.json",
        "log.jsonl",
        "log.jsonl.1",
        "monitor.log",
        "container.json",
        "settings.json",
        "exit.json",
        // Of a container that the engine may still make.
        "late",
        "lock",
    ];
    let cgroups = cgroups(id).into_iter();
    let mut found: Vec<String> = cgroups.map(|p| format!("cgroup {}", p.display())).collect();
    let folder = machine.state().join("workloads").join(id);
    for entry in fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        if !KEPT.contains(&&*entry.file_name().to_string_lossy()) {
            found.push(format!("file {}", entry.path().display()));
        }
    }
    let runtime = machine.state().join("runtime").join(id);
    found.extend(
        runtime
            .exists()
            .then(|| format!("file {}", runtime.display())),
    );
    found
}

/// What workloads of these ids have left on the machine: cgroups, mounts,
/// processes, plugin hosts, files beyond each record and log.
#[must_use]
pub fn leftovers(machine: &Machine, ids: &BTreeSet<String>) -> Vec<String> {
    let here = machine.path().display().to_string();
    let mut found: Vec<String> = ids.iter().flat_map(|id| untidy(machine, id)).collect();
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc");
    found.extend(
        mounts
            .lines()
            .filter(|l| l.contains(&here))
            .map(|l| format!("mount {l}")),
    );
    found.extend(
        processes(&here)
            .into_iter()
            .map(|(pid, line)| format!("process {pid} {line}")),
    );
    found.extend(
        machine
            .hosts()
            .into_iter()
            .map(|pid| format!("plugin host {pid}")),
    );
    found
}

/// Nothing is held, nothing runs, and nothing is left of these workloads but
/// their records and logs.
///
/// # Panics
/// Something is.
#[track_caller]
pub fn nothing_is_left_of(machine: &Machine, ids: &BTreeSet<String>) {
    assert_eq!(held(machine), Vec::<String>::new(), "what is still held");
    let mut left = Vec::new();
    // The command may be answered a moment before its monitor is gone.
    let _ = eventually(|| {
        left = leftovers(machine, ids);
        left.is_empty()
    });
    assert_eq!(left, Vec::<String>::new(), "what is left on the machine");
}

/// As [`nothing_is_left_of`], of all workloads that have a folder.
#[track_caller]
pub fn nothing_is_left(machine: &Machine) {
    nothing_is_left_of(machine, &ids(machine));
}

// === roots and images ===

/// A root filesystem of nothing but busybox.
///
/// # Panics
/// busybox is missing, or the disk is full.
pub fn busybox(at: &Path) {
    for folder in [
        "bin",
        "etc",
        "tmp",
        "root",
        "home/alice",
        "proc",
        "sys",
        "dev",
        "work",
    ] {
        fs::create_dir_all(at.join(folder)).expect("a folder");
    }
    fs::copy("/bin/busybox", at.join("bin/busybox")).expect("apt install busybox-static");
    for applet in [
        "sh", "ls", "cat", "id", "env", "pwd", "echo", "mknod", "head", "sleep", "true", "touch",
        "grep", "dd", "readlink", "stat", "chown",
    ] {
        symlink("busybox", at.join("bin").join(applet)).expect("a link");
    }
    let users = "root:x:0:0::/root:/bin/sh\nalice:x:1234:2345::/home/alice:/bin/sh\n";
    fs::write(at.join("etc/passwd"), users).expect("a file");
    fs::write(
        at.join("etc/group"),
        "root:x:0:\nalice:x:2345:\nextra:x:3456:alice\n",
    )
    .expect("a file");
}

/// An image of busybox, as `docker save` writes it, with this configuration.
/// `edit` may change its root first.
///
/// # Panics
/// `tar` or `sha256sum` is missing, or the disk is full.
#[must_use]
pub fn image(at: &Path, config: &Value, edit: impl FnOnce(&Path)) -> PathBuf {
    let (root, out) = (at.join("image-root"), at.join("image"));
    for stale in [&root, &out] {
        let _ = fs::remove_dir_all(stale);
    }
    busybox(&root);
    edit(&root);
    fs::create_dir_all(&out).expect("a folder");
    tar(&root, &out.join("layer.tar"));
    let digest = Command::new("sha256sum")
        .arg(out.join("layer.tar"))
        .output()
        .expect("sha256sum");
    let digest = String::from_utf8_lossy(&digest.stdout)[..64].to_owned();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let document = json!({
        "architecture": arch, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    fs::write(out.join("config.json"), document.to_string()).expect("a file");
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": ["app:1"], "Layers": ["layer.tar"] }]);
    fs::write(out.join("manifest.json"), manifest.to_string()).expect("a file");
    let archive = at.join("image.tar");
    tar(&out, &archive);
    archive
}

pub(crate) fn tar(folder: &Path, to: &Path) {
    let status = Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "-C"])
        .arg(folder)
        .arg("-cf")
        .arg(to)
        .arg(".")
        .status();
    assert!(
        status.is_ok_and(|s| s.success()),
        "tar of {}",
        folder.display()
    );
}

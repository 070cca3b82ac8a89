//! Rendering: a job and its edits as an OCI runtime specification.
//!
//! Everything here is decided, nothing is looked up: the same job and edits
//! give the same `config.json`. What it never contains (S9): privileges,
//! host namespaces other than the network when asked, hooks, an unconfined
//! seccomp, added capabilities, a device that was not granted.
//!
//! Written as the JSON document that it becomes and read back through
//! `oci-spec`'s types, which refuse a field they do not know the shape of.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Capability, Spec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::mounts::BindMount;
use super::{Folder, LaunchError, seccomp};
use crate::model::{Edits, NodeKind};

/// The static init, PID 1 of every container; built by `build.rs`.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/divvy-init"));
/// Where it appears in the container: in our own `/dev`, so that no root
/// filesystem needs a place for it.
pub(super) const INIT_PATH: &str = "/dev/divvy-init";
/// At most so many processes and threads in a container (S26). Linux's own
/// default limit for a whole machine is 32,768 (`kernel/pid_max` before 2019).
pub(super) const PIDS: i64 = 32_768;
/// The size of `/dev/shm` unless asked otherwise, bytes: Docker's default.
pub const SHM_BYTES: u64 = 64 << 20;

/// Docker's default capabilities but MKNOD: nobody makes device nodes.
const CAPABILITIES: [Capability; 13] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Docker's masked and read-only paths.
const MASKED: [&str; 11] = [
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
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Who the process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The container's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Its own, with nothing but the loopback device.
    #[default]
    None,
    /// One of the engine's own making, with a way out: with an engine only.
    Bridge,
    /// The host's.
    Host,
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The workload's id: names the container and its cgroup.
    pub id: String,
    /// The workload's name: its host name.
    pub name: String,
    /// The command, never empty.
    pub command: Vec<String>,
    /// Variables of the user (of the image first, then `-e`), reserved names
    /// already refused or dropped.
    pub env: Vec<(String, String)>,
    /// What the image says of reserved variables: for plugins to look at, not for the
    /// container.
    pub image_env: BTreeMap<String, String>,
    /// Working directory, absolute.
    pub workdir: String,
    /// Who runs it.
    pub user: Identity,
    /// What of the host it sees, checked.
    pub mounts: Vec<BindMount>,
    /// Folders that are empty inside, whatever the root has there; mounts may
    /// lie in them.
    pub hidden: Vec<String>,
    /// Folders and files that nothing inside can see, whatever is mounted.
    pub masked: Vec<String>,
    /// A terminal?
    pub tty: bool,
    /// Standard input held open for whoever is attached?
    pub stdin: bool,
    /// The network.
    pub network: Network,
    /// Size of `/dev/shm`, bytes.
    pub shm_bytes: u64,
    /// What `stop` sends first.
    pub stop_signal: String,
}

/// S7: a working directory that no descriptor of ours can hide behind.
///
/// # Errors
/// What is wrong with it.
pub fn check_workdir(workdir: &str) -> Result<(), LaunchError> {
    let path = Path::new(workdir);
    let normal = path
        .components()
        .all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !normal || workdir.contains('\0') || path.starts_with("/proc") {
        return Err(LaunchError::Forbidden(format!(
            "the working directory {workdir:?} is not allowed: it must be an absolute path without `..`, not under /proc"
        )));
    }
    Ok(())
}

/// Renders a job with its edits. `init` and `rootfs` are paths on the host.
pub(crate) fn render(
    job: &Job,
    edits: &Edits,
    rootfs: &Path,
    init: &Path,
) -> Result<Spec, LaunchError> {
    let mut gids = job.user.groups.clone();
    gids.extend(&edits.additional_gids);
    gids.sort_unstable();
    gids.dedup();
    let held: &[Capability] = if job.user.uid == 0 {
        &CAPABILITIES
    } else {
        &[]
    };

    let masked: Vec<&str> = MASKED
        .into_iter()
        .chain(job.masked.iter().map(String::as_str))
        .collect();

    let document = json!({
        "ociVersion": "1.0.2",
        "hostname": job.name,
        "root": { "path": rootfs, "readonly": false },
        "process": {
            "terminal": job.tty,
            "user": { "uid": job.user.uid, "gid": job.user.gid, "additionalGids": gids },
            "args": init_args(&job.command, &job.workdir, None),
            "env": env(job, edits),
            // Entered by the init, as the job's own user: a runtime would enter
            // it, and make it, as root.
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": held, "effective": held, "permitted": held,
                "inheritable": [], "ambient": [],
            },
        },
        "mounts": mounts(job, edits, init),
        "annotations": edits.annotations,
        "linux": {
            "cgroupsPath": cgroup_path(&job.id),
            "namespaces": namespaces(job.network),
            "devices": devices(edits),
            "resources": resources(edits),
            "maskedPaths": masked,
            "readonlyPaths": READ_ONLY,
            "rootfsPropagation": "private",
            "seccomp": seccomp::default_profile(held),
        },
    });
    serde_json::from_value(document).map_err(|e| LaunchError::Container {
        step: "made",
        why: format!("its specification cannot be written: {e} (a bug; please report it)"),
    })
}

/// A command under the init, which enters its working directory and says 126 or
/// 127 where it cannot be run; behind a gate, once that opens.
pub(crate) fn init_args(command: &[String], workdir: &str, gate: Option<&str>) -> Vec<String> {
    let mut args = vec![INIT_PATH];
    if let Some(gate) = gate {
        args.extend(["--gate", gate]);
    }
    // Of a container that an older Divvy described, it is not known.
    if !workdir.is_empty() {
        args.extend(["--dir", workdir]);
    }
    args.push("--");
    args.extend(command.iter().map(String::as_str));
    args.into_iter().map(str::to_owned).collect()
}

/// The container's cgroup, under each controller.
pub(super) fn cgroup_path(id: &str) -> String {
    format!("/divvy/{id}")
}

/// Plugins' defaults, then the user's, then what plugins insist on; each name
/// once (S2).
fn env(job: &Job, edits: &Edits) -> Vec<String> {
    let mut vars: BTreeMap<&str, &str> = BTreeMap::from([(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )]);
    vars.insert("HOSTNAME", &job.name);
    // runc would look it up in the image; others leave it out.
    vars.insert("HOME", if job.user.uid == 0 { "/root" } else { "/" });
    if job.tty {
        vars.insert("TERM", "xterm");
    }
    layered(vars, job, edits)
}

/// Where the dynamic loader looks before its own folders (ld.so(8)).
pub(crate) const LOADER_PATH: &str = "LD_LIBRARY_PATH";

/// Lays the variables over what is there, in the order of who wins; as `NAME=VALUE`.
/// The folders that plugins have the loader look in come before anybody else's.
pub(super) fn layered<'a>(
    mut vars: BTreeMap<&'a str, &'a str>,
    job: &'a Job,
    edits: &'a Edits,
) -> Vec<String> {
    let (defaults, forced): (Vec<_>, Vec<_>) = edits.env.iter().partition(|v| v.default);
    vars.extend(defaults.iter().map(|v| (v.name.as_str(), v.value.as_str())));
    vars.extend(
        job.env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    vars.extend(forced.iter().map(|v| (v.name.as_str(), v.value.as_str())));
    let loader = loader_path(&edits.library_paths, vars.get(LOADER_PATH).copied());
    let mut vars: BTreeMap<&str, &str> = vars;
    if !edits.library_paths.is_empty() {
        vars.insert(LOADER_PATH, &loader);
    }
    let line = |(name, value): (&&str, &&str)| format!("{name}={value}");
    vars.iter().map(line).collect()
}

/// The loader's folders: those that plugins gave before those that somebody else did.
pub(crate) fn loader_path(folders: &[String], others: Option<&str>) -> String {
    let others = others.filter(|others| !others.is_empty());
    let all: Vec<&str> = folders.iter().map(String::as_str).chain(others).collect();
    all.join(":")
}

fn namespaces(network: Network) -> Value {
    let kinds = ["pid", "ipc", "uts", "mount", "network"];
    kinds
        .into_iter()
        .filter(|kind| *kind != "network" || network != Network::Host)
        .map(|kind| json!({ "type": kind }))
        .collect()
}

fn mounts(job: &Job, edits: &Edits, init: &Path) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let bind = |source: &Path, destination: &str| {
        json!({
            "destination": destination, "type": "bind", "source": source,
            "options": ["bind", "ro", "nosuid", "nodev", "rprivate"],
        })
    };
    let shm = format!("size={}", job.shm_bytes);
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        bind(init, INIT_PATH),
    ];
    // Ours first, so that a hidden folder can hold what is bound into it.
    for hidden in &job.hidden {
        all.push(mount(hidden, "tmpfs", &["nosuid", "nodev", "mode=755"]));
    }
    for m in &edits.mounts {
        all.push(bind(Path::new(&m.source), &m.target));
    }
    // Opened for writing when all are there, or a runtime would make the place
    // for one in another's folder on the host (`writable.rs`).
    for m in &job.mounts {
        all.push(bind(&m.source, &m.target));
    }
    all
}

fn devices(edits: &Edits) -> Value {
    edits
        .device_nodes
        .iter()
        .map(|n| {
            json!({
                "path": n.path, "type": kind(n.kind), "major": n.major, "minor": n.minor,
                "fileMode": n.mode.unwrap_or(0o666), "uid": 0, "gid": n.gid.unwrap_or(0),
            })
        })
        .collect()
}

fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Char => "c",
        NodeKind::Block => "b",
    }
}

fn resources(edits: &Edits) -> Value {
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    rules.extend(edits.device_nodes.iter().map(|n| {
        let access = if n.write { "rw" } else { "r" };
        json!({
            "allow": true, "type": kind(n.kind), "major": n.major, "minor": n.minor, "access": access,
        })
    }));
    let limits = &edits.resources;
    let mut resources = json!({ "devices": rules, "pids": { "limit": PIDS } });
    let mut cpu = serde_json::Map::new();
    if let Some(quota) = limits.cpu_quota {
        cpu.insert("quota".into(), json!(quota.quota_us));
        cpu.insert("period".into(), json!(quota.period_us));
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        cpu.insert("cpus".into(), json!(cpus));
    }
    if let Some(mems) = &limits.cpuset_mems {
        cpu.insert("mems".into(), json!(mems));
    }
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    if let Some(bytes) = limits.memory_bytes {
        let mut memory = json!({ "limit": bytes });
        if swap_is_counted() {
            // The same limit for memory and swap together: no swap.
            memory["swap"] = json!(bytes);
        }
        resources["memory"] = memory;
    }
    resources
}

/// cgroup v1 counts swap only with `swapaccount=1`; without it there is no
/// file to write and runtimes fail.
fn swap_is_counted() -> bool {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    !v1.is_dir() || v1.join("memory.memsw.limit_in_bytes").exists()
}

/// Writes the init where a container can be given it; once.
pub(crate) fn write_init(state: &Path) -> Result<PathBuf, LaunchError> {
    let path = state.join("init");
    // Not by its length alone: another version's may be as long.
    if std::fs::read(&path).is_ok_and(|there| there == INIT) {
        return Ok(path);
    }
    let tmp = state.join(format!(".init.{}", std::process::id()));
    std::fs::write(&tmp, INIT)
        .and_then(|()| std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o555)))
        .and_then(|()| std::fs::rename(&tmp, &path))
        .map_err(LaunchError::file("cannot write", &path))?;
    Ok(path)
}

/// A bundle with an empty root, for trying out a runtime.
pub(super) fn probe_bundle(folder: &Folder, state: &Path, id: &str) -> Result<(), LaunchError> {
    // Within the bundle, which is removed as a whole: nothing is mounted on it.
    let rootfs = folder.bundle().join("rootfs");
    std::fs::create_dir_all(&rootfs).map_err(LaunchError::file("cannot make", &rootfs))?;
    let init = write_init(state)?;
    let job = Job {
        id: id.to_owned(),
        name: "probe".into(),
        command: vec!["true".into()],
        env: vec![],
        image_env: BTreeMap::new(),
        workdir: "/".into(),
        user: Identity::default(),
        mounts: vec![],
        hidden: vec![],
        masked: vec![],
        tty: false,
        stdin: false,
        network: Network::None,
        shm_bytes: SHM_BYTES,
        stop_signal: "SIGTERM".into(),
    };
    folder.save_bundle(&render(&job, &Edits::default(), &rootfs, &init)?)
}

//! Rendering: a job and its edits as what an engine's `create` takes.
//!
//! Everything here is decided, nothing is looked up. What it never contains
//! (S9): privileges, host namespaces other than the network when asked, an
//! unconfined seccomp, added capabilities, a device that was not granted, a
//! device request (an engine resolves those by itself, late or not at all).
//! The image's health check is switched off: an engine would run it before the
//! container is proven.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, RestartPolicy, RestartPolicyNameEnum,
};

use super::engine::Facts;
use super::image::Image;
use crate::launch::spec::{INIT_PATH, PIDS, init_args, layered};
use crate::launch::{Job, LaunchError, Network, Reserved};
use crate::model::Edits;

/// Where the gate appears in the container.
const GATE_PATH: &str = "/dev/divvy-go";

/// What a container of an engine is made from.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) job: &'a Job,
    /// Who runs it, by the image's own users; `None`: as the image says.
    pub(super) user: Option<&'a str>,
    pub(super) image: &'a Image,
    pub(super) edits: &'a Edits,
    pub(super) facts: &'a Facts,
    pub(super) reserved: &'a Reserved,
    /// On the host.
    pub(super) init: &'a Path,
    pub(super) gate: &'a Path,
    /// Where on the host each granted node is.
    pub(super) nodes: &'a [PathBuf],
    pub(super) labels: HashMap<String, String>,
}

/// Renders a container.
pub(super) fn render(parts: Parts<'_>) -> Result<ContainerCreateBody, LaunchError> {
    let Parts { job, edits, .. } = &parts;
    Ok(ContainerCreateBody {
        hostname: Some(job.name.clone()),
        user: parts.user.map(str::to_owned),
        attach_stdin: Some(job.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(job.tty),
        open_stdin: Some(job.stdin),
        // Its input ends with the monitor's word, and with the monitor.
        stdin_once: Some(job.stdin),
        env: Some(env(&parts)),
        entrypoint: Some(init_args(&[], &job.workdir, Some(GATE_PATH))),
        cmd: Some(job.command.clone()),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }),
        image: Some(parts.image.id.clone()),
        // Entered by the init, as the job's own user: an engine would make it as
        // root.
        working_dir: Some("/".into()),
        labels: Some(parts.labels.clone()),
        stop_signal: Some(job.stop_signal.clone()),
        host_config: Some(host(&parts, edits)?),
        ..ContainerCreateBody::default()
    })
}

fn host(parts: &Parts<'_>, edits: &Edits) -> Result<HostConfig, LaunchError> {
    let (job, facts, limits) = (parts.job, parts.facts, &edits.resources);
    let memory = limits.memory_bytes.map(signed).transpose()?;
    let quota = limits.cpu_quota;
    let gids = edits.additional_gids.iter().map(u32::to_string);
    Ok(HostConfig {
        runtime: Some(facts.runtime.clone()),
        privileged: Some(false),
        cap_add: Some(vec![]),
        // Nobody makes device nodes.
        cap_drop: Some(vec!["MKNOD".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        ipc_mode: Some("private".into()),
        pid_mode: Some(String::new()),
        uts_mode: Some(String::new()),
        network_mode: Some(
            match job.network {
                Network::None => "none",
                Network::Bridge => "bridge",
                Network::Host => "host",
            }
            .into(),
        ),
        publish_all_ports: Some(false),
        devices: Some(devices(edits, parts.nodes)),
        device_requests: Some(vec![]),
        device_cgroup_rules: Some(vec![]),
        group_add: Some(gids.collect()),
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        cpu_period: quota.map(|q| signed(q.period_us)).transpose()?,
        cpu_quota: quota.map(|q| signed(q.quota_us)).transpose()?,
        memory,
        // The same limit for memory and swap together: no swap.
        memory_swap: memory.filter(|_| facts.counts_swap),
        pids_limit: Some(PIDS),
        shm_size: Some(signed(job.shm_bytes)?),
        mounts: Some(mounts(parts, edits)),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // Its exit code has to be read first.
        auto_remove: Some(false),
        // There is one already.
        init: Some(false),
        readonly_rootfs: Some(false),
        ..HostConfig::default()
    })
}

/// Every variable that the container has and the engine does not make itself.
/// The engine merges the image's own beneath these, so what an image may not
/// set is set here, to nothing (S1, S2).
fn env(parts: &Parts<'_>) -> Vec<String> {
    let mut vars: BTreeMap<&str, &str> = BTreeMap::new();
    for name in &parts.image.variables {
        if !parts.reserved.lets(name) && !name.is_empty() {
            // Set to nothing is none, to whatever reads it; a variable cannot be unset.
            vars.insert(name, "");
        }
    }
    layered(vars, parts.job, parts.edits)
}

fn devices(edits: &Edits, nodes: &[PathBuf]) -> Vec<DeviceMapping> {
    let all = edits.device_nodes.iter().zip(nodes);
    all.map(|(node, on_host)| DeviceMapping {
        path_on_host: Some(on_host.display().to_string()),
        path_in_container: Some(node.path.clone()),
        cgroup_permissions: Some(if node.write { "rw" } else { "r" }.into()),
    })
    .collect()
}

fn mounts(parts: &Parts<'_>, edits: &Edits) -> Vec<Mount> {
    // All are made read-only: what may be written is opened for it when all are
    // there (`writable.rs`).
    let bind = |source: &Path, target: &str| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            // What is mounted below would be writable, whatever is asked.
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    };
    let mut all = vec![bind(parts.init, INIT_PATH), bind(parts.gate, GATE_PATH)];
    let plugins = edits.mounts.iter();
    all.extend(plugins.map(|m| bind(Path::new(&m.source), &m.target)));
    let users = parts.job.mounts.iter();
    all.extend(users.map(|m| bind(&m.source, &m.target)));
    all
}

/// The API's numbers are signed.
fn signed(number: u64) -> Result<i64, LaunchError> {
    i64::try_from(number).map_err(|_| LaunchError::Container {
        step: "made",
        why: format!("{number} is more than an engine can be asked for"),
    })
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;

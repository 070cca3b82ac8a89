//! `divvy doctor`: what this machine has and lacks, each with the remedy.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::args::Global;
use super::open;
use super::output::{Failure, print_json, printable};
use crate::agent::describe_inventory;
use crate::launch::{Runtime, candidates, docker};
use crate::ledger::Ledger;
use crate::sys;

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// Works, but less well.
    Note,
    /// Does not work.
    Bad,
}

#[derive(Serialize)]
struct Finding {
    verdict: Verdict,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, what: impl Into<String>) {
        self.0.push(Finding {
            verdict: Verdict::Good,
            what: what.into(),
            remedy: None,
        });
    }

    fn note(&mut self, what: impl Into<String>, remedy: &str) {
        self.0.push(Finding {
            verdict: Verdict::Note,
            what: what.into(),
            remedy: Some(remedy.into()),
        });
    }

    fn bad(&mut self, what: impl Into<String>, remedy: &str) {
        self.0.push(Finding {
            verdict: Verdict::Bad,
            what: what.into(),
            remedy: Some(remedy.into()),
        });
    }
}

pub(super) async fn run(global: &Global) -> Result<u8, Failure> {
    let mut found = Findings(Vec::new());
    kernel(&mut found);
    if sys::is_root() {
        found.good("running as root");
        state(&mut found, global)?;
        runtimes(&mut found, global)?;
        engine(&mut found, global).await?;
    } else {
        found.bad(
            "not root: containers cannot be made, the ledger cannot be read",
            "sudo divvy doctor",
        );
    }
    agent(&mut found, global).await?;
    plugins(&mut found, global).await;
    let healthy = !found.0.iter().any(|f| matches!(f.verdict, Verdict::Bad));
    if global.json {
        print_json(&json!({ "healthy": healthy, "findings": found.0 }));
    } else {
        for finding in &found.0 {
            let mark = match finding.verdict {
                Verdict::Good => "ok  ",
                Verdict::Note => "note",
                Verdict::Bad => "BAD ",
            };
            say!("{mark}  {}", printable(&finding.what));
            if let Some(remedy) = &finding.remedy {
                say!("      → {remedy}");
            }
        }
    }
    Ok(u8::from(!healthy))
}

/// Is an agent asked, and where does it listen?
async fn agent(found: &mut Findings, global: &Global) -> Result<(), Failure> {
    let socket = global.settings()?.agent_socket;
    let socket = socket.map_or_else(String::new, |s| s.display().to_string());
    let answer = match open(global).await {
        Ok(divvy) => divvy.version().await,
        Err(Failure::Agent(error)) => Err(error),
        Err(words) => return Err(words),
    };
    match answer {
        Ok(Some(v)) => found.good(format!(
            "an agent answers at {socket}: version {}, pid {}",
            v.version, v.pid
        )),
        Ok(None) => found.note(
            format!("no agent at {socket} is asked: commands are their own, as root"),
            "nothing to do; for a group without sudo: divvy agent --help",
        ),
        Err(error) => found.bad(error.to_string(), "see the message"),
    }
    Ok(())
}

fn kernel(found: &mut Findings) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let numbers: Vec<u32> = release
        .split(['.', '-'])
        .map_while(|n| n.parse().ok())
        .take(2)
        .collect();
    // openat2 and pidfd_open came with 5.6 and 5.3; waitid on a pidfd with 5.4.
    if numbers.as_slice() >= [5, 6].as_slice() {
        found.good(format!("Linux {release}"));
    } else {
        found.bad(
            format!("Linux {release}"),
            "Divvy needs 5.6 or newer: openat2(2), pidfd_open(2)",
        );
    }
    let overlay = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if overlay
        .lines()
        .any(|l| l.trim_start_matches("nodev").trim() == "overlay")
    {
        found.good("overlayfs");
    } else {
        found.bad(
            "no overlayfs: containers get no private writable layer",
            "modprobe overlay",
        );
    }
    let controllers = controllers();
    let missing: Vec<&str> = ["cpu", "cpuset", "memory", "pids"]
        .into_iter()
        .filter(|c| !controllers.iter().any(|h| h == c))
        .collect();
    let version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "2"
    } else {
        "1"
    };
    if missing.is_empty() {
        found.good(format!(
            "cgroup version {version} with cpu, cpuset, memory, pids"
        ));
    } else {
        found.bad(
            format!("cgroup version {version} lacks {}", missing.join(", ")),
            "boot with cgroup_enable=memory, or give this container its cgroup controllers",
        );
    }
    if version == "2" {
        found.note(
            "device rules on cgroup 2 cannot be read back; the proof then rests on /dev and the missing CAP_MKNOD",
            "nothing to do",
        );
    }
}

fn controllers() -> Vec<String> {
    if let Ok(unified) = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        return unified.split_whitespace().map(str::to_owned).collect();
    }
    let table = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // name, hierarchy, groups, enabled; hierarchy 0 is not mounted.
            (fields.get(1) != Some(&"0") && fields.get(3) == Some(&"1"))
                .then(|| fields[0].to_owned())
        })
        .collect()
}

fn state(found: &mut Findings, global: &Global) -> Result<(), Failure> {
    let state = global.settings()?.state;
    match Ledger::new(&state).records() {
        Ok(records) => found.good(format!(
            "ledger {}: {} records",
            state.display(),
            records.len()
        )),
        Err(error) => found.bad(error.to_string(), "divvy state check"),
    }
    Ok(())
}

fn runtimes(found: &mut Findings, global: &Global) -> Result<(), Failure> {
    let settings = global.settings()?;
    let all = candidates(&settings.exe, &settings.state);
    let mut chosen = false;
    let own = Runtime::built_in(&settings.exe, &settings.state);
    for candidate in all {
        match candidate.fault {
            None if chosen => found.good(format!("OCI runtime {} works too", candidate.name)),
            None => {
                chosen = true;
                found.good(format!("launcher oci with {}", candidate.name));
            }
            Some(why) if candidate.name == own.name => {
                found.bad(
                    format!("the built-in OCI runtime does not work here: {why}"),
                    "apt-get install runc",
                );
            }
            Some(why) => found.note(
                format!("{} does not work here: {why}", candidate.name),
                "nothing to do: the next one is used",
            ),
        }
    }
    Ok(())
}

/// An engine is no must: without one there is the oci launcher.
async fn engine(found: &mut Findings, global: &Global) -> Result<(), Failure> {
    let socket = match docker::find(global.settings()?.docker_socket.as_deref()) {
        Ok(socket) => socket,
        Err(error) => {
            found.note(
                format!("launcher docker: {error}"),
                "nothing to do, unless images are to come from an engine",
            );
            return Ok(());
        }
    };
    match docker::Engine::connect(&socket).await {
        Ok(engine) => found.good(format!(
            "launcher {} with {} at {}",
            engine.facts.kind.word(),
            engine.name(),
            socket.display()
        )),
        Err(error) => found.note(
            format!("launcher docker: {error}"),
            "systemctl status docker; without it --launcher oci works",
        ),
    }
    Ok(())
}

async fn plugins(found: &mut Findings, global: &Global) {
    let agent = match super::agent(global) {
        Ok(agent) => agent,
        Err(failure) => {
            let Failure::Agent(error) = failure else {
                return;
            };
            found.bad(
                error.to_string(),
                "--plugin-dir DIR, or install divvy with its lib folder",
            );
            return;
        }
    };
    let (inventory, failed) = agent.inventory().await;
    for (name, manifest) in &inventory.plugins {
        let devices = inventory
            .devices
            .iter()
            .filter(|d| d.plugin == *name)
            .count();
        found.good(format!(
            "plugin {name} {}: {devices} devices",
            manifest.version
        ));
    }
    for (plugin, warnings) in &inventory.warnings {
        for warning in warnings {
            found.note(
                format!("plugin {plugin}: {}", printable(warning)),
                "nothing to do, if that is as it should be",
            );
        }
    }
    // Without root nobody knows what is held.
    let records = agent.ledger().records().unwrap_or_default();
    for view in describe_inventory(&inventory, &records).0 {
        // Ill devices are among the closed ones, by the reason for it.
        if let Some(why) = view.closed {
            found.bad(
                format!(
                    "device {} takes no work: {}",
                    view.device.name(),
                    printable(&why)
                ),
                "as the reason says; divvy devices, divvy describe NAME",
            );
        }
    }
    for (_, error) in failed {
        if error.is_absent() {
            found.note(error.to_string(), "nothing to do, if this machine has none");
        } else {
            found.bad(error.to_string(), "divvy plugin list");
        }
    }
    for error in agent.plugins().refused() {
        found.bad(error.to_string(), "see the message");
    }
}

//! What a plugin does to the process that it lives in.

use std::fs;
use std::time::Duration;

use divvy_plugin::{Discovery, ReleaseRequest};

use super::bench::{Bench, Checked, Host, failed, skipped};
use super::{Check, check};
use crate::plugin::wire::Op;

/// Rounds of calls after which what grows in each has grown.
const ROUNDS: usize = 20;
/// By how much a host's memory may grow over [`ROUNDS`], bytes.
const GROWTH: u64 = 16 << 20;
/// How long a host may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) const CHECKS: [Check; 6] = [
    check!(
        "host.no-fd-left",
        "Calls leave no file descriptors open.",
        "Close what each call opens; keep what is kept in the plugin's own struct.",
        descriptors
    ),
    check!(
        "host.no-thread-left",
        "Calls leave no threads running.",
        "Join threads before answering; start one that stays in open.",
        threads
    ),
    check!(
        "host.no-process-left",
        "Calls leave no processes running.",
        "Wait for each command that is started.",
        processes
    ),
    check!(
        "host.no-memory-left",
        "Calls leave no memory behind.",
        "Free what vendor libraries hand out; a long-lived host calls them for months.",
        memory
    ),
    check!(
        "host.no-output-on-fd3",
        "Nothing but the host writes to its channel, descriptor 3.",
        "Print to stdout or stderr; close no descriptor that is not yours.",
        channel
    ),
    check!(
        "host.ends",
        "A host ends within 2 s when its channel is closed.",
        "Do not wait in exit handlers and destructors.",
        ends
    ),
];

/// One round of calls: look, and what a workload causes.
async fn round(bench: &mut Bench, host: &mut Host) -> Checked {
    let slices = bench.survey().await.some_slices();
    let _: Discovery = host.ask(Op::Discover, &()).await?;
    if let Ok(slices) = slices {
        let (prepared, _) = bench.prepare(host, &slices).await?;
        let request = ReleaseRequest {
            allocation: prepared.allocation,
            slices: prepared.slices,
        };
        let () = host.ask(Op::Release, &request).await?;
    }
    Ok(())
}

/// A number of a host after two rounds, and after [`ROUNDS`] more. The first
/// ones may begin what stays.
async fn over_rounds(
    bench: &mut Bench,
    count: impl Fn(u32) -> std::io::Result<u64>,
) -> Checked<(u64, u64)> {
    bench.survey().await.found()?;
    let mut host = bench.host().await?;
    for _ in 0..2 {
        round(bench, &mut host).await?;
    }
    let look = |host: &Host| {
        let pid = host.pid().unwrap_or(0);
        count(pid).or_else(|e| skipped(format!("/proc/{pid} cannot be read: {e}")))
    };
    let before = look(&host)?;
    for _ in 0..ROUNDS {
        round(bench, &mut host).await?;
    }
    let after = look(&host)?;
    Ok((before, after))
}

async fn no_more(
    bench: &mut Bench,
    what: &str,
    count: impl Fn(u32) -> std::io::Result<u64>,
) -> Checked {
    match over_rounds(bench, count).await? {
        (before, after) if after > before => failed(format!(
            "there are {before} {what} at first, and {after} after {ROUNDS} rounds of discover, prepare and release"
        )),
        _ => Ok(()),
    }
}

fn entries(folder: &str) -> std::io::Result<u64> {
    Ok(fs::read_dir(folder)?.count() as u64)
}

async fn descriptors(bench: &mut Bench) -> Checked {
    no_more(bench, "descriptors", |pid| {
        entries(&format!("/proc/{pid}/fd"))
    })
    .await
}

async fn threads(bench: &mut Bench) -> Checked {
    no_more(bench, "threads", |pid| {
        entries(&format!("/proc/{pid}/task"))
    })
    .await
}

async fn processes(bench: &mut Bench) -> Checked {
    bench.survey().await.found()?;
    let mut host = bench.host().await?;
    round(bench, &mut host).await?;
    let pid = host.pid().unwrap_or(0);
    match in_group(pid) {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => failed(format!("left behind by the host {pid}: {left:?}")),
        Err(e) => skipped(format!("/proc cannot be read: {e}")),
    }
}

/// The other processes of a host's process group, of which it is the leader.
fn in_group(leader: u32) -> std::io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // It may be gone by now.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // proc_pid_stat(5): state, parent and group follow the name in brackets,
        // which may hold anything.
        let group = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(2)?.parse().ok());
        if pid != leader && group == Some(leader) {
            found.push(pid);
        }
    }
    Ok(found)
}

async fn memory(bench: &mut Bench) -> Checked {
    let (before, after) = over_rounds(bench, resident).await?;
    let growth = after.saturating_sub(before);
    if growth > GROWTH {
        return failed(format!(
            "its memory grew by {growth} bytes in {ROUNDS} rounds"
        ));
    }
    Ok(())
}

/// Resident memory of a process, bytes. proc_pid_status(5): `VmRSS: N kB`.
fn resident(pid: u32) -> std::io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(number.unwrap_or(0) << 10)
}

async fn channel(bench: &mut Bench) -> Checked {
    bench.survey().await.manifest()?;
    let mut host = bench.host().await?;
    let looked: Checked<Discovery> = host.ask(Op::Discover, &()).await;
    // A frame that nobody asked for ends the host, in these words or others.
    looked?;
    round(bench, &mut host).await?;
    match host.process()?.is_babbling() {
        true => failed("there is something on the channel that is no answer"),
        false => Ok(()),
    }
}

async fn ends(bench: &mut Bench) -> Checked {
    bench.survey().await.manifest()?;
    let mut host = bench.host().await?;
    let _: Discovery = host.ask(Op::Discover, &()).await?;
    match host.part(PATIENCE).await {
        true => Ok(()),
        false => failed("its channel was closed, and it did not end"),
    }
}

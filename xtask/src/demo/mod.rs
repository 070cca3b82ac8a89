//! `cargo xtask demo`: Divvy's promise, kept before your eyes.
//!
//! Builds Divvy, installs it in a folder that goes away, runs a job on half a
//! core and one that wants too much memory, and checks what the kernel measured
//! against what was asked. It fails if the promise does not hold.

mod report;
mod stage;

use std::fs;
use std::io::Write;

use anyhow::{Context, Result, bail};

use crate::shell::{self, say};
use crate::{dist, find};
use report::Workload;
use stage::Stage;

/// What the first job asks for.
const CORES: f64 = 0.5;
/// How far its use may be from that.
const TOLERANCE: f64 = 0.03;
/// The first job. It lies in the work folder: a job sees the current folder.
const PI: &str = include_str!("pi.py");
/// Twice the memory that it asks for, all of it touched.
const GREEDY: &str = "data = b'x' * (512 << 20)";
/// 128 + SIGKILL.
const KILLED: i32 = 137;

/// Plays it.
pub(crate) fn run() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the demo makes containers and cgroups, which only root can: sudo -E env PATH=$PATH cargo xtask demo"
        );
    }
    need_python()?;
    let stage = Stage::new()?;
    say("this takes about half a minute, after the first build, which takes some minutes");
    dist::run(&stage.dist(), false)?;
    stage.go_on()?;

    heading(1, "Can this machine run workloads?", "divvy doctor");
    match stage.divvy(&["doctor"], false)?.status.code() {
        Some(0) => {}
        Some(1) => tell("The doctor found something. The demo tries all the same."),
        _ => bail!("`divvy doctor` failed; its reason is above"),
    }

    heading(2, "What does it have?", "divvy devices");
    if !stage.divvy(&["devices"], false)?.status.success() {
        bail!("`divvy devices` failed; its reason is above");
    }

    let workload = half_a_core(&stage)?;
    too_much_memory(&stage)?;
    nothing_is_left(&stage)?;

    heading(6, "That was all", "");
    tell(format_args!(
        "Launcher: {}, OCI runtime: {}. No daemon, no image; no workload, no mount and no allocation is left.",
        workload.launcher, workload.runtime
    ));
    tell(
        "Next: `cargo xtask dist --out /opt/divvy` installs it, `/opt/divvy/bin/divvy run --help` has",
    );
    tell("examples, README.md says more, and `cargo xtask test` runs the tests.");
    Ok(())
}

/// Computes for real with more processes than it may have cores.
fn half_a_core(stage: &Stage) -> Result<Workload> {
    fs::write(stage.work().join("pi.py"), PI).context("cannot write pi.py")?;
    let args = [
        "run", "--name", "demo", "--cpu", "0.5", "--mem", "256MiB", "--", "python3", "pi.py",
    ];
    heading(
        3,
        "A job that would take every core gets half of one, for 12 seconds",
        "divvy run --name demo --cpu 0.5 --mem 256MiB -- python3 pi.py",
    );
    let status = stage.divvy(&args, false)?.status;
    if !status.success() {
        bail!("the job failed ({status}); the reason is above");
    }
    let workload = Workload::parse(&stage.json(&["describe", "demo"])?)?;
    tell("Given:");
    workload
        .given()
        .iter()
        .for_each(|line| tell(format_args!("  {line}")));
    let usage = workload.usage()?;
    let cores = usage.cores()?;
    let error = cores.error(CORES);
    tell("Used, as the kernel counted it:");
    tell(format_args!(
        "  {:.2} CPU seconds in {:.2} seconds = {:.4} cores: {:+.2} % from the {CORES} asked",
        cores.cpu,
        cores.wall,
        cores.used(),
        error * 100.0
    ));
    if let Some(peak) = usage.memory_peak() {
        tell(format_args!("  {peak} of memory at most"));
    }
    if error.abs() > TOLERANCE {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        bail!(
            "it used {:.4} cores ({:.2} CPU seconds in {:.2} seconds), {:+.2} % from {CORES}; at most {} % are allowed. \
             Less than asked on a machine that is busy with other work (load {}) can be that work: run the demo again on an idle machine",
            cores.used(),
            cores.cpu,
            cores.wall,
            error * 100.0,
            TOLERANCE * 100.0,
            load.split(' ').next().unwrap_or("unknown").trim()
        );
    }
    let result = fs::read_to_string(stage.work().join("result.txt"))
        .context("the job ended well, but result.txt is not in the folder that it ran in")?;
    if !result.starts_with("pi is about 3.1") {
        bail!("result.txt says {result:?}: that is not pi");
    }
    tell(format_args!(
        "It wrote result.txt into its current folder (the demo's own), and there it is: {}",
        result.trim()
    ));
    Ok(workload)
}

/// The kernel stops what exceeds its memory, and Divvy says so.
fn too_much_memory(stage: &Stage) -> Result<()> {
    let args = [
        "run", "--name", "greedy", "--cpu", "0.5", "--mem", "256MiB", "--", "python3", "-c", GREEDY,
    ];
    heading(
        4,
        "A job that takes 512 MiB where it asked for 256 is stopped",
        &format!("divvy run --name greedy --cpu 0.5 --mem 256MiB -- python3 -c \"{GREEDY}\""),
    );
    let ended = stage.divvy(&args, true)?;
    if ended.status.code() != Some(KILLED) {
        bail!(
            "it should have been stopped with exit code {KILLED} (128 + SIGKILL), and ended with {}",
            ended.status
        );
    }
    if !ended.errors.to_lowercase().contains("memory") {
        bail!("it was stopped, but nothing on stderr says that memory is why");
    }
    if !Workload::parse(&stage.json(&["describe", "greedy"])?)?.out_of_memory() {
        bail!("it was stopped, but `divvy describe greedy` does not say that memory is why");
    }
    tell(format_args!(
        "Exit code {KILLED}, and the reason on stderr."
    ));
    Ok(())
}

/// What was given is free again.
fn nothing_is_left(stage: &Stage) -> Result<()> {
    heading(5, "Afterwards nothing is held", "divvy ps ; divvy devices");
    let running = report::running(&stage.json(&["ps"])?)?;
    if !running.is_empty() {
        bail!("still there: {}", running.join(", "));
    }
    let (held, devices) = report::held(&stage.json(&["devices"])?)?;
    if !held.is_empty() {
        bail!("still held: {}", held.join(", "));
    }
    tell(format_args!(
        "No workload runs, and all {devices} devices are free."
    ));
    Ok(())
}

/// The host's own, tried once: its files are read from disk before anything is
/// measured, and a version manager's stand-in without a version is found out.
fn need_python() -> Result<()> {
    const REMEDY: &str =
        "`apt install python3` (Debian, Ubuntu), `dnf install python3` (Fedora, RHEL)";
    if find::program("python3").is_none() {
        bail!("the demo's jobs are Python: python3 is not on PATH; {REMEDY}");
    }
    if !shell::works(shell::command("python3")?.args(["-c", "import multiprocessing.pool, random"]))
    {
        bail!(
            "`python3 -c 'import multiprocessing.pool'` fails: the python3 on PATH is not whole; {REMEDY}"
        );
    }
    Ok(())
}

fn heading(number: u32, title: &str, command: &str) {
    println!("\n{number}. {title}");
    if !command.is_empty() {
        println!("   $ {command}");
    }
    println!();
    let _ = std::io::stdout().flush();
}

fn tell(line: impl std::fmt::Display) {
    println!("   {line}");
}

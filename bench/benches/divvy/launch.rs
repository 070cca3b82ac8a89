//! `divvy run -- true` against bare `runc run` of the same bundle.
//!
//! Samples of all ways are interleaved, in an order that moves on by one each
//! round, so that a slow second of the machine hits all alike. Bare runc is
//! among them twice: how far the two medians lie apart is what this machine
//! cannot tell from nothing.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::figures::{Figures, quantile};
use crate::place::Place;

pub(crate) const NAME: &str = "launch/true";
/// What a run of ours may add to a bare one.
const LIMIT_MS: f64 = 40.0;
const ROUNDS: usize = 40;
const WARM_UP: usize = 3;
/// Cgroup of the bare containers, under each controller.
const CGROUP: &str = "divvy-bench";
const APPLETS: [&str; 3] = ["sh", "true", "sleep"];

/// Measures; returns the comparison in words, or `None` where it cannot be
/// made.
pub(crate) fn bench(place: &Place, figures: &Figures) -> Result<Option<String>, Box<dyn Error>> {
    let Some((runc, busybox)) = on_path("runc").zip(on_path("busybox")) else {
        println!("\n{NAME} is left out: it needs runc and a static busybox");
        return Ok(None);
    };
    if !rustix::process::geteuid().is_root() {
        println!("\n{NAME} is left out: it needs root");
        return Ok(None);
    }
    let cgroups = Cgroups::new();
    let rootfs = rootfs(place, &busybox)?;
    let divvy = Divvy {
        exe: place.divvy.clone(),
        state: place.folder("state")?,
        plugins: place.cpu.clone(),
        rootfs,
    };
    let bundle = divvy.bundle(&place.folder("bundle")?)?;
    let bare = || {
        let mut command = Command::new(&runc);
        command.arg("--root").arg(bundle.with_file_name("runc"));
        command.arg("run").arg("--bundle").arg(&bundle).arg("bare");
        command
    };
    let agent = Agent::start(place, &place.folder("served")?)?;
    let ways: [(&str, &dyn Fn() -> Command); 5] = [
        ("launch/runc_bare", &bare),
        ("launch/divvy_runc", &|| divvy.run("runc")),
        ("launch/divvy_built_in", &|| divvy.run("built-in")),
        ("launch/divvy_agent_runc", &|| divvy.served(&agent.socket)),
        ("launch/runc_bare_again", &bare),
    ];
    println!("\n{NAME}: {ROUNDS} rounds of {} ways", ways.len());
    let mut times: [Vec<Duration>; 5] = Default::default();
    for round in 0..WARM_UP + ROUNDS {
        for turn in 0..ways.len() {
            let way = (round + turn) % ways.len();
            let (name, command) = ways[way];
            let time = timed(name, command())?;
            if round >= WARM_UP {
                times[way].push(time);
            }
        }
    }
    for ((name, _), times) in ways.iter().zip(&times) {
        figures.add(name, None, times.clone());
    }
    drop(cgroups);
    let [bare, runc, built_in, served, again] = &times;
    let met = |ms: f64| if ms <= LIMIT_MS { "met" } else { "NOT met" };
    let (with_runc, with_ours) = (added(bare, runc), added(bare, built_in));
    Ok(Some(format!(
        "divvy run adds {with_runc:.1} ms to bare runc run (limit {LIMIT_MS} ms: {}), \
         {with_ours:.1} ms with the built-in runtime ({}), {:.1} ms through the agent with runc; \
         A/A noise {:.1} ms",
        met(with_runc),
        met(with_ours),
        added(bare, served),
        added(bare, again).abs(),
    )))
}

/// The median over rounds of how much longer `b` took than `a`, ms.
fn added(a: &[Duration], b: &[Duration]) -> f64 {
    let nanos = |d: &Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let differences: Vec<i64> = a.iter().zip(b).map(|(a, b)| nanos(b) - nanos(a)).collect();
    quantile(&differences, 50) as f64 / 1e6
}

/// How long a command takes that must succeed.
fn timed(name: &str, mut command: Command) -> Result<Duration, Box<dyn Error>> {
    command.stdin(Stdio::null());
    let begin = Instant::now();
    let output = command.output()?;
    let time = begin.elapsed();
    if output.status.success() {
        return Ok(time);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}: {}", output.status, said.trim()).into())
}

/// How divvy is called here.
struct Divvy {
    exe: PathBuf,
    state: PathBuf,
    plugins: PathBuf,
    rootfs: PathBuf,
}

impl Divvy {
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg(verb).arg("--state").arg(&self.state);
        command.arg("--plugin-dir").arg(&self.plugins);
        command
    }

    fn run_with(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.command("run");
        command.args(["--mem", "64MiB", "--rootfs"]);
        command
            .arg(&self.rootfs)
            .args(options)
            .arg("--")
            .args(words);
        command
    }

    /// The command that is measured. `--rm`, so that the ledger stays as it is.
    fn run(&self, runtime: &str) -> Command {
        self.run_with(&["--rm", "--runtime", runtime], &["true"])
    }

    /// The same, asked of an agent.
    fn served(&self, socket: &Path) -> Command {
        let mut command = self.run("runc");
        command.env("DIVVY_SOCKET", socket);
        command
    }

    /// A bundle as divvy renders it, with a name, a root and a cgroup of its
    /// own: what is left is what an OCI runtime costs by itself.
    fn bundle(&self, to: &Path) -> Result<PathBuf, Box<dyn Error>> {
        let options = ["--runtime", "runc", "--detach", "--name", "model"];
        timed("divvy run", self.run_with(&options, &["sleep", "600"]))?;
        let config = fs::read_dir(self.state.join("workloads"))?
            .next()
            .ok_or("no workload")??
            .path()
            .join("bundle/config.json");
        let read = fs::read(&config);
        let mut rm = self.command("rm");
        rm.args(["--force", "model"]);
        timed("divvy rm", rm)?;

        let mut config: Value = serde_json::from_slice(&read?)?;
        let args = config["process"]["args"].as_array_mut();
        let args = args.ok_or("a config without args")?;
        let command = args.iter().position(|a| a == "sleep");
        args.truncate(command.ok_or("another command")?);
        args.push(json!("true"));
        config["root"]["path"] = json!(self.rootfs);
        config["linux"]["cgroupsPath"] = json!(format!("/{CGROUP}/bare"));
        fs::write(to.join("config.json"), serde_json::to_vec(&config)?)?;
        Ok(to.to_owned())
    }
}

/// The smallest root: busybox, and the folders that a runtime mounts on.
fn rootfs(place: &Place, busybox: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let root = place.folder("rootfs")?;
    for folder in ["bin", "dev", "etc", "proc", "sys", "root"] {
        fs::create_dir(root.join(folder))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(root)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The parents of containers' cgroups; those that we brought go with us.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn new() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_dir(root).into_iter().flatten().flatten();
        let folders = controllers.map(|c| c.path()).filter(|p| p.is_dir());
        let parents = folders
            .chain([root.to_owned()])
            .flat_map(|folder| [CGROUP, "divvy"].map(|name| folder.join(name)))
            .filter(|parent| !parent.exists());
        Self(parents.collect())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for parent in &self.0 {
            // Fails, as it should, where there is none or someone uses it.
            let _ = fs::remove_dir(parent);
        }
    }
}

//! The long-lived agent: what it weighs, how fast it grants, and whether it
//! answers while a plugin hangs.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use divvy::agent::{AgentError, AllocateRequest};
use divvy::api::Client;
use divvy::model::{Record, Request};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::figures::{Figures, quantile};
use crate::place::Place;

pub(crate) const NAME: &str = "agent/";
/// What the agent may weigh with the CPU plugin, KiB.
const WEIGHT_KIB: u64 = 25 << 10;
/// Durable grants and releases a second, at least.
const PAIRS: u128 = 2_000;
/// An answer while a plugin hangs.
const ANSWER: Duration = Duration::from_millis(50);
const CLIENTS: usize = 64;
const READERS: usize = 8;
const SPAN: Duration = Duration::from_secs(4);

/// An agent of its own; ended when dropped.
pub(crate) struct Agent {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    pub(crate) fn start(place: &Place, state: &std::path::Path) -> Result<Self, Box<dyn Error>> {
        let socket = state.join("run/agent.sock");
        let child = Command::new(&place.divvy)
            .arg("agent")
            .arg("--state")
            .arg(state)
            .arg("--plugin-dir")
            .arg(&place.cpu)
            .stdin(Stdio::null())
            .spawn()?;
        let agent = Self { child, socket };
        let end = Instant::now() + Duration::from_secs(10);
        while block(agent.client().get::<Value>("/v1/devices")).is_err() {
            if Instant::now() > end {
                return Err("the agent does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(agent)
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    fn weight_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Its plugin hosts.
    fn hosts(&self) -> Vec<Pid> {
        let children = format!("/proc/{0}/task", self.child.id());
        let tasks = fs::read_dir(children).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
        let pids = lists.flat_map(|l| {
            let pids: Vec<i32> = l
                .split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect();
            pids
        });
        pids.filter(|pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|b| *b == 0).nth(1) == Some(b"plugin-host")
        })
        .filter_map(Pid::from_raw)
        .collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.child.wait();
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

/// Measures, and says in words how it compares with the targets.
pub(crate) fn bench(place: &Place, figures: &Figures) -> Result<(), Box<dyn Error>> {
    if !rustix::process::geteuid().is_root() {
        println!("\n{NAME}… is left out: it needs root");
        return Ok(());
    }
    println!("\n{NAME}: {CLIENTS} clients, {} s", SPAN.as_secs());
    let state = place.folder("agent-state")?;
    let agent = Agent::start(place, &state)?;
    let before = agent.weight_kib().ok_or("it has no weight")?;
    let pairs = pairs(&agent, false)?;
    let after = agent.weight_kib().ok_or("it has no weight")?;
    let verdict = |met: bool| if met { "met" } else { "NOT met" };
    figures.note(format!(
        "the agent weighs {before} KiB at rest (limit {WEIGHT_KIB}: {}), {after} KiB after {CLIENTS} clients",
        verdict(before <= WEIGHT_KIB),
    ));
    let rate = pairs.len() as u128 * 1000 / SPAN.as_millis();
    figures.note(format!(
        "durable allocate and release: {rate} a second of {CLIENTS} clients (at least {PAIRS}: {})",
        verdict(rate >= PAIRS),
    ));
    figures.add("agent/allocate_release", None, pairs);
    let prepared = self::pairs(&agent, true)?;
    let rate = prepared.len() as u128 * 1000 / SPAN.as_millis();
    figures.note(format!("the same with the plugin's edits: {rate} a second"));
    figures.add("agent/allocate_prepare_release", None, prepared);

    let well = reads(&agent)?;
    let hosts = agent.hosts();
    if hosts.is_empty() {
        return Err("the agent has no plugin hosts".into());
    }
    for host in &hosts {
        kill_process(*host, Signal::STOP)?;
    }
    let hung = reads(&agent);
    for host in &hosts {
        let _ = kill_process(*host, Signal::CONT);
    }
    let hung = hung?;
    figures.note(format!(
        "reads while every plugin host is stopped: p99 {:.2} ms (limit {} ms: {}); while they answer {:.2} ms",
        quantile(&hung, 99).as_secs_f64() * 1e3,
        ANSWER.as_millis(),
        verdict(quantile(&hung, 99) <= ANSWER),
        quantile(&well, 99).as_secs_f64() * 1e3,
    ));
    figures.add("agent/read", None, well);
    figures.add("agent/read_plugin_hung", Some(ANSWER), hung);
    Ok(())
}

/// Every client takes and lets go, one after the other, with the plugin's edits
/// or without; the time of each pair.
fn pairs(agent: &Agent, prepare: bool) -> Result<Vec<Duration>, Box<dyn Error>> {
    many(CLIENTS, |_| {
        let client = agent.client();
        async move {
            let request = AllocateRequest {
                resources: Request::of(&[("cpu", "0.01"), ("mem", "4MiB")])?,
                ..AllocateRequest::default()
            };
            let held: Record = client.post("/v1/allocations", Some(&request)).await?;
            if prepare {
                let path = format!("/v1/workloads/{}/prepare", held.id);
                client.post::<Record>(&path, None::<&()>).await?;
            }
            let path = format!("/v1/workloads/{}?force=true", held.id);
            client.delete::<Value>(&path).await?;
            Ok(())
        }
    })
}

fn reads(agent: &Agent) -> Result<Vec<Duration>, Box<dyn Error>> {
    const PATHS: [&str; 4] = ["/v1/devices", "/v1/plugins", "/v1/workloads", "/metrics"];
    let turn = AtomicUsize::new(0);
    many(READERS, |_| {
        let client = agent.client();
        let path = PATHS[turn.fetch_add(1, Ordering::Relaxed) % PATHS.len()];
        async move {
            let mut body = client.stream(path).await?;
            while let Ok(Some(_)) = body.line().await {}
            Ok(())
        }
    })
}

/// Many clients at once, for a while; the time of each of their rounds.
fn many<F: Future<Output = Result<(), AgentError>>>(
    clients: usize,
    round: impl Fn(usize) -> F + Sync,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let end = Instant::now() + SPAN;
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|n| {
                let round = &round;
                scope.spawn(move || {
                    block(async {
                        let mut times = Vec::new();
                        while Instant::now() < end {
                            let began = Instant::now();
                            round(n).await.map_err(|e| e.to_string())?;
                            times.push(began.elapsed());
                        }
                        Ok::<_, String>(times)
                    })
                })
            })
            .collect();
        let joined = threads.into_iter().map(|t| t.join());
        joined.collect::<Vec<_>>()
    });
    let mut all = Vec::new();
    for result in results {
        all.extend(result.map_err(|_| "a client panicked")??);
    }
    Ok(all)
}

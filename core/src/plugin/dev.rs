//! What a plugin does, shown to its author: the calls of one workload's life,
//! then drills of a crash and of a hang.
//!
//! The calls are made as an agent makes them. The drills go through the
//! [`Client`] that the agent itself uses, so what is shown is what it does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use divvy_plugin::{
    Device, Discovery, Edits, Held, Manifest, PrepareRequest, ReleaseRequest, RestoreRequest,
    StartedRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use super::check::bench::{Bench, Checked, Host, Stop};
use super::check::{Exchange, Interrupts, Subject};
use super::client::{CallError, Client, Holdings};
use super::find::PluginFile;
use super::validate;
use super::wire::Op;

/// How long a host is left in the middle of a call before it is killed.
const MIDDLE: Duration = Duration::from_millis(50);
/// The deadline of a drill, at least; and in units of the slowest call.
const DRILL: (Duration, u32) = (Duration::from_secs(1), 4);

/// A line of the trace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Line {
    /// What comes now.
    Step(&'static str),
    /// A call.
    Call(Exchange),
    /// What an agent does about it.
    Agent(String),
    /// It went as it should.
    Well(String),
    /// It did not.
    Wrong(String),
}

/// Where lines go.
type Sink<'a> = &'a mut dyn FnMut(Line);

/// Shows all of it, as far as it goes; says whether it went well. `None`: somebody
/// pressed Ctrl-C.
pub(crate) async fn run(
    subject: Subject,
    sink: Sink<'_>,
    interrupts: &mut Interrupts,
) -> Option<bool> {
    let mut bench = Bench::new(subject);
    let done = interrupts.until(show(&mut bench, sink)).await;
    bench.tidy().await;
    match done? {
        Ok(()) => Some(true),
        // Nothing to show is nothing wrong.
        Err(Stop::Skipped(why)) => {
            sink(Line::Agent(format!("goes no further: {why}")));
            Some(true)
        }
        Err(Stop::Failed(why, _)) => {
            sink(Line::Wrong(why));
            Some(false)
        }
    }
}

/// Fails, with these words.
fn wrong<T>(why: impl Into<String>) -> Checked<T> {
    Err(Stop::Failed(why.into(), None))
}

/// One call, shown.
async fn call<T: DeserializeOwned>(
    bench: &Bench,
    host: &mut Host,
    sink: Sink<'_>,
    op: Op,
    argument: &(impl Serialize + Sync),
) -> Checked<T> {
    let answer = host.ask(op, argument).await;
    if let Some(last) = bench.last() {
        sink(Line::Call(last));
    }
    answer
}

/// What validation says, shown.
fn believe(sink: Sink<'_>, checked: Result<(), validate::Lie>) -> Checked {
    checked.or_else(|lie| {
        sink(Line::Agent("refuses the reply, whole".into()));
        wrong(format!("{lie} ({}: {})", lie.rule.id(), lie.rule.remedy()))
    })
}

async fn show(bench: &mut Bench, sink: Sink<'_>) -> Checked {
    sink(Line::Step("beginning: what every command does"));
    let mut host = bench.bare()?;
    let manifest: Manifest = call(bench, &mut host, sink, Op::Manifest, &()).await?;
    believe(
        sink,
        validate::manifest(&manifest, &bench.subject.file.name()),
    )?;
    let slots: Vec<&str> = manifest.slots.iter().map(|s| s.name.as_str()).collect();
    sink(Line::Agent(format!("offers {}", slots.join(", "))));
    let open = bench.open_request();
    let () = call(bench, &mut host, sink, Op::Open, &open).await?;
    let found: Discovery = call(bench, &mut host, sink, Op::Discover, &()).await?;
    believe(sink, validate::discovery(&found))?;
    sink(Line::Agent(format!(
        "knows {} devices",
        found.devices.len()
    )));
    let slices = bench.survey().await.some_slices()?;

    sink(Line::Step("a workload: its slices are in the ledger"));
    let request = PrepareRequest::new(bench.allocation(), slices);
    bench.will_release(&request);
    let edits: Edits = call(bench, &mut host, sink, Op::Prepare, &request).await?;
    let devices = found.devices.iter().map(|d| (d.id.as_str(), d)).collect();
    let checked = validate::edits(&edits, &request.slices, &devices, &manifest.reserved_env);
    believe(sink, checked)?;
    sink(Line::Agent(in_words(&edits)));
    let started = StartedRequest {
        allocation: request.allocation.clone(),
        pid: std::process::id(),
    };
    let () = call(bench, &mut host, sink, Op::Started, &started).await?;
    sink(Line::Agent("lets the workload run".into()));

    sink(Line::Step(
        "another command, another host: what is held is told",
    ));
    host.kill().await;
    let mut host = bench.host().await?;
    let held = held(&request, &edits);
    let () = call(bench, &mut host, sink, Op::Restore, &held).await?;

    sink(Line::Step("the workload has ended"));
    let release = ReleaseRequest {
        allocation: request.allocation.clone(),
        slices: request.slices.clone(),
    };
    let () = call(bench, &mut host, sink, Op::Release, &release).await?;
    sink(Line::Agent("frees the slices".into()));

    let drill = Drill {
        found,
        request: PrepareRequest::new(bench.allocation(), request.slices),
        deadline: drill_deadline(bench).await?,
    };
    bench.will_release(&drill.request);
    // What the agent would log of the drills is in the trace.
    let drills = async {
        let edits = drill.crash(bench, sink).await?;
        drill.hang(bench, &edits, sink).await
    };
    drills.with_subscriber(NoSubscriber::default()).await
}

/// What the agent would do with edits.
fn in_words(edits: &Edits) -> String {
    let variables: Vec<&str> = edits.env.iter().map(|v| v.name.as_str()).collect();
    let nodes = edits.device_nodes.iter();
    let nodes: Vec<&str> = nodes.map(|n| n.path.as_str()).collect();
    let mounts: Vec<&str> = edits.mounts.iter().map(|m| m.target.as_str()).collect();
    let lists = [
        ("variables", variables),
        ("nodes", nodes),
        ("mounts", mounts),
    ];
    let mut parts: Vec<String> = lists
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    if edits.resources != divvy_plugin::Resources::default() {
        parts.push("limits".into());
    }
    match parts.is_empty() {
        true => "changes nothing in the container".into(),
        false => format!("makes a container with {}, and proves it", parts.join("; ")),
    }
}

fn held(request: &PrepareRequest, edits: &Edits) -> RestoreRequest {
    RestoreRequest {
        allocations: vec![Held {
            allocation: request.allocation.clone(),
            slices: request.slices.clone(),
            edits: edits.clone(),
        }],
    }
}

/// Long enough for a good answer of this plugin, short for who waits for a bad one.
async fn drill_deadline(bench: &Bench) -> Checked<Duration> {
    let began = Instant::now();
    let mut host = bench.host().await?;
    let _: Discovery = host.ask(Op::Discover, &()).await?;
    let (least, times) = DRILL;
    Ok(least
        .max(began.elapsed() * times)
        .min(bench.subject.deadline))
}

/// What the drills have in common.
struct Drill {
    found: Discovery,
    request: PrepareRequest,
    deadline: Duration,
}

impl Drill {
    /// The host is killed in the middle of `prepare`; the edits come all the same.
    async fn crash(&self, bench: &Bench, sink: Sink<'_>) -> Checked<Edits> {
        sink(Line::Step(
            "drill: the host crashes in the middle of prepare",
        ));
        let client = self.client(bench)?;
        let devices = self.devices();
        let edits = answer(client.prepare(&self.request, &devices).await)?;
        client.set_held(Holdings::Request(held(&self.request, &edits)));
        let pid = stopped(&client).await?;
        let began = Instant::now();
        let (again, ()) = tokio::join!(client.prepare(&self.request, &devices), async {
            tokio::time::sleep(MIDDLE).await;
            signal(pid, Signal::KILL);
        });
        let took = began.elapsed().saturating_sub(MIDDLE);
        sink(Line::Agent(format!(
            "notes the crash ({}), starts a host, open, restore, and asks once more",
            last_crash(&client)
        )));
        let again = answer(again)?;
        if again != edits {
            return wrong("the edits differ from those before the crash");
        }
        sink(Line::Well(format!(
            "the same edits, {} ms after the crash",
            took.as_millis()
        )));
        Ok(edits)
    }

    /// The host hangs in `release`.
    async fn hang(&self, bench: &Bench, edits: &Edits, sink: Sink<'_>) -> Checked {
        sink(Line::Step("drill: the host hangs in release"));
        let client = self.client(bench)?;
        let release = ReleaseRequest {
            allocation: self.request.allocation.clone(),
            slices: self.request.slices.clone(),
        };
        client.set_held(Holdings::Request(held(&self.request, edits)));
        answer(client.discover().await)?;
        stopped(&client).await?;
        match client.release(&release).await {
            Err(CallError::Crashed { .. }) => {}
            Err(other) => return wrong(other.to_string()),
            Ok(()) => return wrong("a host that was stopped answered"),
        }
        sink(Line::Agent(format!(
            "waits {} ms, kills the host ({}), and keeps the slices closed",
            self.deadline.as_millis(),
            last_crash(&client)
        )));
        answer(client.release(&release).await)?;
        sink(Line::Agent(
            "starts a host, open, restore, asks again, and frees the slices".into(),
        ));
        let found = answer(client.discover().await)?;
        if found != self.found {
            return wrong("the devices differ from those before the drills");
        }
        sink(Line::Well(
            "released, and the devices are as they were".into(),
        ));
        Ok(())
    }

    fn devices(&self) -> BTreeMap<&str, &Device> {
        let devices = self.found.devices.iter();
        devices.map(|d| (d.id.as_str(), d)).collect()
    }

    /// The agent's own side of a plugin, with crashes remembered nowhere.
    fn client(&self, bench: &Bench) -> Checked<Client> {
        let Subject { file, exe, .. } = &bench.subject;
        let fd = file.fd.try_clone();
        let fd = fd.or_else(|e| wrong(format!("its file cannot be opened again: {e}")))?;
        let file = PluginFile {
            path: file.path.clone(),
            fd,
        };
        let open = bench.open_request();
        Ok(Client::new(file, exe.clone(), open, self.deadline, None))
    }
}

fn answer<T>(answer: Result<T, CallError>) -> Checked<T> {
    answer.or_else(|error| wrong(error.to_string()))
}

/// Stops the client's host, so that its next call is begun and not answered.
async fn stopped(client: &Client) -> Checked<u32> {
    let Some(pid) = client.pid().await else {
        return wrong("its host has ended by itself");
    };
    signal(pid, Signal::STOP);
    Ok(pid)
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // It may be gone.
    let _ = pid.map(|pid| kill_process(pid, signal));
}

fn last_crash(client: &Client) -> String {
    let crashes = client.crashes();
    let last = crashes.last();
    last.map_or_else(
        || "no crash was noted".into(),
        |crash| format!("in {}: {}", crash.during, crash.reason),
    )
}

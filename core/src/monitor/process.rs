//! The monitor's life, from the bundle to the freed slices.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::engine;
use super::hub::Hub;
use super::protocol::{Event, Order, REPLACED, Report, Settings};
use super::serve::{Clients, Workload, serve};
use super::streams::{self, Ends, Writer};
use super::{CONTROL_FD, LOCK_FD};
use crate::failpoint::{Point, hit};
use crate::launch::{self, By, Cgroup, Container, Folder, LaunchError, Oci, last_line};
use crate::model::{Exit, Record, Usage};
use crate::{agent, frames, sys};

/// How long a runtime may take to make or start a container.
pub(super) const RUNTIME: Duration = Duration::from_secs(60);
/// How long output may still flow after the container's end.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// Runs a monitor: what `divvy monitor FOLDER [--adopt]` does; not for people.
#[must_use]
pub fn main(args: &[OsString]) -> u8 {
    match prepare_process(args).and_then(run) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("divvy monitor: {error}");
            125
        }
    }
}

struct Prepared {
    folder: Folder,
    adopt: bool,
    control: std::os::unix::net::UnixStream,
    /// Held to the end: says that this workload is carried.
    _lock: OwnedFd,
}

/// Everything that wants a process with one thread.
fn prepare_process(args: &[OsString]) -> io::Result<Prepared> {
    let usage = || io::Error::other("is started by divvy, not by hand");
    let path = args.first().map(PathBuf::from).ok_or_else(usage)?;
    sys::close_all_except(&[0, 1, 2, CONTROL_FD, LOCK_FD])?;
    let control = sys::take_socket(CONTROL_FD).map_err(|_| usage())?;
    let lock = sys::take_fd(LOCK_FD)?;
    // Out of the terminal's reach, and parent of what the runtime leaves.
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(Pid::INIT))?;
    sys::private_mounts()?;
    Ok(Prepared {
        folder: Folder { path },
        adopt: args.get(1).is_some_and(|a| a == "--adopt"),
        control,
        _lock: lock,
    })
}

fn run(prepared: Prepared) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        prepared.control.set_nonblocking(true)?;
        let mut control = UnixStream::from_std(prepared.control)?;
        let result = carry(&prepared.folder, prepared.adopt, &mut control).await;
        if let Err((step, why)) = &result {
            eprintln!("{step}: {why}");
            let report = Report::Failed {
                step: step.clone(),
                why: why.clone(),
            };
            // The agent may be gone; then the next one finds the lock free.
            let _ = frames::send_json(&mut control, &report).await;
        }
        Ok(())
    })
}

/// A step that failed, and why: what the agent reports.
type Failed = (String, String);

fn failed<E: std::fmt::Display>(step: &str) -> impl FnOnce(E) -> Failed {
    move |why| (step.to_owned(), why.to_string())
}

/// A container whose process exists.
struct Made {
    pid: u32,
    pidfd: OwnedFd,
    cgroup: Cgroup,
    hub: Arc<Hub>,
    writer: Writer,
    pumps: Vec<tokio::task::JoinHandle<()>>,
    /// Where an engine made it.
    engine: Option<engine::Live>,
}

async fn carry(folder: &Folder, adopt: bool, control: &mut UnixStream) -> Result<(), Failed> {
    hit(Point::MonitorBegun);
    let container = folder.container().map_err(failed("read"))?;
    let settings: Settings = std::fs::read(folder.path.join("settings.json"))
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .map_err(failed("read"))?;
    // Before anyone can be told of the container.
    let listener = streams::bind(folder, "attach.sock").map_err(failed("made"))?;
    hit(Point::MonitorListens);

    let mut made = if adopt {
        let record = folder.record().map_err(failed("read"))?;
        follow(folder, &container, &record).map_err(failed("followed"))?
    } else {
        let made = match &container.by {
            By::Oci(oci) => make(folder, &container, oci).await,
            By::Engine(on) => match engine::make(folder, &container, on).await {
                Ok(live) => by_engine(folder, live).map_err(failed("made")),
                Err(why) => Err(failed("made")(why)),
            },
        };
        let made = made.and_then(|made| {
            launch::open_for_writing(made.pid, &container.mounts)?;
            Ok(made)
        });
        match made {
            Ok(made) => made,
            Err(error) => {
                take_down(&container, folder).await;
                return Err(error);
            }
        }
    };
    // Before it can print a word: whoever is attached misses none.
    let workload = Arc::new(Workload {
        folder: folder.clone(),
        container: container.clone(),
        cgroup_name: match &made.engine {
            Some(live) => live.id.clone(),
            None => container.id.clone(),
        },
        runs: AtomicBool::new(adopt),
        pidfd: made.pidfd.try_clone().map_err(failed("followed"))?,
        hub: Arc::clone(&made.hub),
        writer: Mutex::new(std::mem::replace(&mut made.writer, Writer::None)),
    });
    let clients: Clients = Arc::default();
    let server = tokio::spawn(serve(listener, Arc::clone(&workload), Arc::clone(&clients)));
    if !adopt {
        hit(Point::MonitorMade);
        if let Err(error) = wait_for_go(&made, control).await {
            hit(Point::MonitorAbandoned);
            take_down(&container, folder).await;
            hit(Point::MonitorTakenDown);
            // Read only if the ledger says `running` already.
            let reason = "the command that started it was ended before it ran";
            folder
                .save_exit(&never_ran(None, reason))
                .map_err(failed("settled"))?;
            return Err(error);
        }
        hit(Point::MonitorGo);
        let started = match (&container.by, &mut made.engine) {
            (By::Oci(oci), _) => start(&container, oci).await,
            (By::Engine(_), Some(live)) => live.go(folder).map_err(failed("started")),
            (By::Engine(_), None) => Err(failed("started")("it was not made by an engine")),
        };
        if let Err(error) = started {
            // The workload is ours since the go: so is its end.
            take_down(&container, folder).await;
            let exit = never_ran(Some(125), &error.1);
            let settled =
                agent::settle(&settings.state, &settings.plugins, &container.id, exit).await;
            if let Some(record) = settled.map_err(failed("settled"))? {
                agent::leave(folder, &record);
            }
            return Err(error);
        }
    }
    hit(Point::MonitorStarted);
    workload.runs.store(true, Ordering::Relaxed);
    let _ = frames::send_json(control, &Report::Started).await;
    hit(Point::MonitorCarries);
    let began = (!adopt).then(Instant::now);
    let outcome = match &mut made.engine {
        None => None,
        Some(live) => {
            let pidfd = made.pidfd.try_clone().map_err(failed("followed"))?;
            Some(live.attend(Arc::clone(&made.hub), pidfd))
        }
    };
    let code = ended(made.pidfd).await;
    hit(Point::MonitorEnded);
    let mut exit = Exit {
        code,
        // At once: an engine takes the cgroup away.
        out_of_memory: made.cgroup.oom_kills() > 0,
        usage: Usage {
            cpu_us: made.cgroup.cpu_us(),
            wall_us: began.map(|b| u64::try_from(b.elapsed().as_micros()).unwrap_or(u64::MAX)),
            memory_peak_bytes: made.cgroup.memory_peak(),
        },
        at_ms: sys::now_ms(),
        discarded: launch::discarded(folder),
        reason: None,
    };
    for pump in made.pumps {
        let _ = timeout(DRAIN, pump).await;
    }
    hit(Point::MonitorDrained);
    if let Some(outcome) = outcome {
        let outcome = outcome.await.unwrap_or_default();
        exit.code = outcome.code;
        exit.out_of_memory |= outcome.out_of_memory;
        exit.reason = outcome.reason;
    } else if exit.code.is_none() {
        exit.reason = Some("nobody saw how it ended: its first monitor was killed".into());
    }
    if let Err(error) = folder.save_exit(&exit) {
        eprintln!("{error}");
    }
    hit(Point::MonitorNoted);
    // Its process is gone; what is left is the launcher's bookkeeping.
    let mut deletion = std::pin::pin!(async {
        let deleted = match container.delete().await {
            Ok(()) => Ok(()),
            Err(_) => launch::clear(&container).await,
        };
        hit(Point::MonitorDeleted);
        launch::disassemble(folder);
        hit(Point::MonitorDisassembled);
        deleted
    });
    let settling = std::pin::pin!(agent::settle(
        &settings.state,
        &settings.plugins,
        &container.id,
        exit.clone(),
    ));
    // An engine takes its time to remove what holds nothing any more: nobody
    // waits for that.
    let (mut early, settled) = match select(&mut deletion, settling).await {
        Either::Left((deleted, settling)) => (Some(deleted), settling.await),
        Either::Right((settled, _)) => (None, settled),
    };
    if early.is_none() && matches!(container.by, By::Oci(_)) {
        // Its root is mounted as long.
        early = Some(deletion.as_mut().await);
    }
    match settled {
        Ok(Some(record)) => agent::leave(folder, &record),
        Ok(None) => {}
        Err(error) => eprintln!("{error}"),
    }
    hit(Point::MonitorSettled);
    // Only now: whoever waits for the end may count on the slices being free.
    made.hub.finish(Event::Exit(Box::new(exit))).await;
    hit(Point::MonitorTold);
    let deleted = match early {
        Some(deleted) => deleted,
        None => deletion.await,
    };
    if let Err(error) = &deleted {
        eprintln!("{error}");
    }
    server.abort();
    let clients = std::mem::take(&mut *clients.lock().await);
    for client in clients {
        let _ = timeout(DRAIN, client).await;
    }
    if let Some(live) = made.engine.filter(|_| deleted.is_err()) {
        live.delete_later().await;
    }
    Ok(())
}

/// Removes a container of which nothing ran.
async fn take_down(container: &Container, folder: &Folder) {
    if let Err(error) = launch::clear(container).await {
        eprintln!("{error}");
    }
    launch::disassemble(folder);
}

fn never_ran(code: Option<u8>, reason: &str) -> Exit {
    Exit {
        code,
        reason: Some(reason.into()),
        at_ms: sys::now_ms(),
        ..Exit::default()
    }
}

/// Makes the container; its process waits.
async fn make(folder: &Folder, container: &Container, oci: &Oci) -> Result<Made, Failed> {
    launch::assemble(&oci.root, oci.root_id, folder)?;
    hit(Point::MonitorAssembled);
    let said = |e: io::Error| failed("made")(e);
    let no = |why: String| failed("made")(why);
    let ends = Ends::new(folder, container.tty, container.stdin).map_err(said)?;
    let mut command = oci.create_command(&container.id, folder, ends.console());
    ends.give(&mut command).map_err(said)?;
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            no(format!(
                "{} cannot be run: {e}",
                oci.runtime.program.display()
            ))
        })?;
    hit(Point::MonitorCreates);
    let status = timeout(RUNTIME, child.wait())
        .await
        .map_err(|_| no(format!("{} did not make it within 60 s", oci.runtime.name)))?
        .map_err(said)?;
    if !status.success() {
        let log = std::fs::read_to_string(folder.runtime_log()).unwrap_or_default();
        return Err(no(format!("{}: {}", oci.runtime.name, last_line(&log))));
    }
    hit(Point::MonitorCreated);
    let pid = std::fs::read_to_string(folder.path.join("pid"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| no(format!("{} wrote no pid file", oci.runtime.name)))?;
    let hub = Arc::new(Hub::new(folder.log()));
    let (writer, pumps) = match ends.terminal().await.map_err(said)? {
        Some(terminal) => {
            rustix::io::ioctl_fionbio(&terminal, true).map_err(failed("made"))?;
            let terminal = Arc::new(sys::async_fd(terminal).map_err(said)?);
            let pump = streams::read_terminal(&terminal, &hub);
            (Writer::Terminal(terminal), vec![pump])
        }
        None => pipes(folder, container, &hub).map_err(said)?,
    };
    made(pid, hub, writer, pumps).map_err(said)
}

/// Takes over a container that runs already.
fn follow(folder: &Folder, container: &Container, record: &Record) -> io::Result<Made> {
    let pid = record
        .pid
        .ok_or_else(|| io::Error::other("its record has no pid"))?;
    if let By::Engine(on) = &container.by {
        let id = record.cgroup_name().to_owned();
        return by_engine(folder, engine::follow(container, on, pid, id));
    }
    let hub = Arc::new(Hub::new(folder.log()));
    let (writer, pumps) = if container.tty {
        // Its terminal went with the monitor that held it.
        (Writer::None, vec![])
    } else {
        pipes(folder, container, &hub)?
    };
    made(pid, hub, writer, pumps)?.checked(&container.id)
}

/// What an engine made, or has.
fn by_engine(folder: &Folder, mut live: engine::Live) -> io::Result<Made> {
    let hub = Arc::new(Hub::new(folder.log()));
    let writer = std::mem::replace(&mut live.writer, Writer::None);
    let made = made(live.pid, hub, writer, vec![])?.checked(&live.id)?;
    Ok(Made {
        engine: Some(live),
        ..made
    })
}

impl Made {
    /// The pid is another's word: is it still that process?
    fn checked(self, cgroup_name: &str) -> io::Result<Self> {
        if self.cgroup.belongs_to(cgroup_name) {
            return Ok(self);
        }
        Err(io::Error::other("its process is gone"))
    }
}

type Reading = (Writer, Vec<tokio::task::JoinHandle<()>>);

fn pipes(folder: &Folder, container: &Container, hub: &Arc<Hub>) -> io::Result<Reading> {
    let writer = if container.stdin {
        Writer::pipe(folder)?
    } else {
        Writer::None
    };
    Ok((writer, streams::read_pipes(folder, hub)?))
}

fn made(
    pid: u32,
    hub: Arc<Hub>,
    writer: Writer,
    pumps: Vec<tokio::task::JoinHandle<()>>,
) -> io::Result<Made> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| io::Error::other("an impossible pid"))?;
    let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK)?;
    Ok(Made {
        pid,
        pidfd,
        cgroup: Cgroup::of(pid)?,
        hub,
        writer,
        pumps,
        engine: None,
    })
}

/// Shows the container to the agent and waits for its word.
async fn wait_for_go(made: &Made, control: &mut UnixStream) -> Result<(), Failed> {
    let lost = || ("started".to_owned(), "the agent is gone".to_owned());
    let report = Report::Created {
        pid: made.pid,
        container_id: made.engine.as_ref().map(|live| live.id.clone()),
    };
    frames::send_json(control, &report)
        .await
        .map_err(|_| lost())?;
    hit(Point::MonitorReported);
    match frames::receive_json::<Order>(control).await {
        Ok(Some(Order::Go)) => Ok(()),
        Ok(None) | Err(_) => Err(lost()),
    }
}

/// Lets the container's process run.
async fn start(container: &Container, oci: &Oci) -> Result<(), Failed> {
    use std::process::Stdio;
    let child = tokio::process::Command::from(oci.start_command(&container.id))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("started"))?;
    hit(Point::MonitorStarts);
    let output = timeout(RUNTIME, child.wait_with_output())
        .await
        .map_err(|_| failed("started")("the runtime did not start it within 60 s"))?
        .map_err(failed("started"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed("started")(format!(
        "{}: {}",
        oci.runtime.name,
        last_line(&said)
    )))
}

/// Waits for the container's process; its exit code, 128 + n after signal n,
/// `None` if it was not our child (it was made by a monitor before us).
async fn ended(pidfd: OwnedFd) -> Option<u8> {
    let pidfd = sys::async_fd(pidfd).ok()?;
    // A pidfd becomes readable when its process ends (pidfd_open(2)).
    let _ready = pidfd.readable().await.ok()?;
    let id = WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd.get_ref()));
    let status = waitid(id, WaitIdOptions::EXITED).ok()??;
    let code = status
        .exit_status()
        .or_else(|| Some(128 + status.terminating_signal()?))?;
    u8::try_from(code).ok()
}

impl From<LaunchError> for Failed {
    fn from(error: LaunchError) -> Self {
        match error {
            // The agent has the words.
            LaunchError::Replaced(source) => (REPLACED.into(), source.display().to_string()),
            error => ("made".into(), error.to_string()),
        }
    }
}

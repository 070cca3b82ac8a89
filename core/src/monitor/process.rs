//! The monitor's life, from the bundle to the freed slices.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::hub::Hub;
use super::protocol::{Ask, Event, Input, Order, Report, Settings};
use super::streams::{self, Ends, Writer};
use super::{CONTROL_FD, LOCK_FD};
use crate::failpoint::{Point, hit};
use crate::launch::{self, Cgroup, Container, Folder, LaunchError, last_line};
use crate::model::{Exit, Usage};
use crate::{agent, frames, sys};

/// How long a runtime may take to make or start a container.
const RUNTIME: Duration = Duration::from_secs(60);
/// How long output may still flow after the container's end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs a monitor: what `divvy monitor FOLDER [--adopt]` does; not for people.
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    match prepare_process(args).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("divvy monitor: {error}");
            ExitCode::from(125)
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
        let pid = folder.record().map_err(failed("read"))?.pid;
        let pid = pid.ok_or_else(|| failed("read")("its record has no pid"))?;
        follow(folder, &container, pid).map_err(failed("followed"))?
    } else {
        match make(folder, &container).await {
            Ok(made) => made,
            Err(error) => {
                take_down(&container, folder);
                return Err(("made".into(), error));
            }
        }
    };
    // Before it can print a word: whoever is attached misses none.
    let workload = Arc::new(Workload {
        pidfd: made.pidfd.try_clone().map_err(failed("followed"))?,
        hub: Arc::clone(&made.hub),
        writer: Mutex::new(std::mem::replace(&mut made.writer, Writer::None)),
        stop_signal: container.stop_signal.clone(),
    });
    let clients: Clients = Arc::default();
    let server = tokio::spawn(serve(listener, workload, Arc::clone(&clients)));
    if !adopt {
        hit(Point::MonitorMade);
        if let Err(error) = wait_for_go(&made, control).await {
            hit(Point::MonitorAbandoned);
            take_down(&container, folder);
            hit(Point::MonitorTakenDown);
            // Read only if the ledger says `running` already.
            let reason = "the command that started it was ended before it ran";
            folder
                .save_exit(&never_ran(None, reason))
                .map_err(failed("settled"))?;
            return Err(error);
        }
        hit(Point::MonitorGo);
        if let Err(error) = start(&container).await {
            // The workload is ours since the go: so is its end.
            take_down(&container, folder);
            let exit = never_ran(Some(125), &error.1);
            agent::settle(&settings.state, &settings.plugins, &container.id, exit)
                .await
                .map_err(failed("settled"))?;
            return Err(error);
        }
    }
    hit(Point::MonitorStarted);
    let _ = frames::send_json(control, &Report::Started).await;
    hit(Point::MonitorCarries);
    let began = (!adopt).then(Instant::now);
    let code = ended(made.pidfd).await;
    hit(Point::MonitorEnded);
    for pump in made.pumps {
        let _ = timeout(DRAIN, pump).await;
    }
    hit(Point::MonitorDrained);
    let exit = Exit {
        code,
        out_of_memory: made.cgroup.oom_kills() > 0,
        reason: code
            .is_none()
            .then(|| "nobody saw how it ended: its first monitor was killed".into()),
        at_ms: sys::now_ms(),
        usage: Usage {
            cpu_us: made.cgroup.cpu_us(),
            wall_us: began.map(|b| u64::try_from(b.elapsed().as_micros()).unwrap_or(u64::MAX)),
            memory_peak_bytes: made.cgroup.memory_peak(),
        },
        discarded: launch::discarded(folder),
    };
    if let Err(error) = container.delete().or_else(|_| launch::clear(&container)) {
        // Its process is gone; what is left is the runtime's bookkeeping.
        eprintln!("{error}");
    }
    hit(Point::MonitorDeleted);
    launch::disassemble(folder);
    hit(Point::MonitorDisassembled);
    if let Err(error) = folder.save_exit(&exit) {
        eprintln!("{error}");
    }
    hit(Point::MonitorNoted);
    if let Err(error) = agent::settle(
        &settings.state,
        &settings.plugins,
        &container.id,
        exit.clone(),
    )
    .await
    {
        eprintln!("{error}");
    }
    hit(Point::MonitorSettled);
    // Only now: whoever waits for the end may count on the slices being free.
    made.hub.finish(Event::Exit(Box::new(exit))).await;
    hit(Point::MonitorTold);
    server.abort();
    let clients = std::mem::take(&mut *clients.lock().await);
    for client in clients {
        let _ = timeout(DRAIN, client).await;
    }
    Ok(())
}

/// Removes a container of which nothing ran.
fn take_down(container: &Container, folder: &Folder) {
    if let Err(error) = launch::clear(container) {
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
async fn make(folder: &Folder, container: &Container) -> Result<Made, String> {
    let root = launch::assemble(&container.root, folder).map_err(|e| e.to_string())?;
    launch::make_workdir(&root, &container.workdir).map_err(|e| e.to_string())?;
    hit(Point::MonitorAssembled);
    let said = |e: io::Error| e.to_string();
    let ends = Ends::new(folder, container.tty, container.stdin).map_err(said)?;
    let mut command = container.create_command(folder, ends.console());
    ends.give(&mut command).map_err(said)?;
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{} cannot be run: {e}", container.runtime.program.display()))?;
    hit(Point::MonitorCreates);
    let status = timeout(RUNTIME, child.wait())
        .await
        .map_err(|_| format!("{} did not make it within 60 s", container.runtime.name))?
        .map_err(said)?;
    if !status.success() {
        let log = std::fs::read_to_string(folder.runtime_log()).unwrap_or_default();
        return Err(format!("{}: {}", container.runtime.name, last_line(&log)));
    }
    hit(Point::MonitorCreated);
    let pid = std::fs::read_to_string(folder.path.join("pid"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| format!("{} wrote no pid file", container.runtime.name))?;
    let hub = Arc::new(Hub::new(folder.log()));
    let (writer, pumps) = match ends.terminal().await.map_err(said)? {
        Some(terminal) => {
            rustix::io::ioctl_fionbio(&terminal, true).map_err(|e| e.to_string())?;
            let terminal = Arc::new(sys::async_fd(terminal).map_err(said)?);
            let pump = streams::read_terminal(&terminal, &hub);
            (Writer::Terminal(terminal), vec![pump])
        }
        None => pipes(folder, container, &hub).map_err(said)?,
    };
    made(pid, hub, writer, pumps).map_err(said)
}

/// Takes over a container that runs already.
fn follow(folder: &Folder, container: &Container, pid: u32) -> io::Result<Made> {
    let hub = Arc::new(Hub::new(folder.log()));
    let (writer, pumps) = if container.tty {
        // Its terminal went with the monitor that held it.
        (Writer::None, vec![])
    } else {
        pipes(folder, container, &hub)?
    };
    let made = made(pid, hub, writer, pumps)?;
    // The pid was read from a file: is it still that process?
    if !made.cgroup.belongs_to(&container.id) {
        return Err(io::Error::other("its process is gone"));
    }
    Ok(made)
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
    })
}

/// Shows the container to the agent and waits for its word.
async fn wait_for_go(made: &Made, control: &mut UnixStream) -> Result<(), Failed> {
    let lost = || ("started".to_owned(), "the agent is gone".to_owned());
    frames::send_json(control, &Report::Created { pid: made.pid })
        .await
        .map_err(|_| lost())?;
    hit(Point::MonitorReported);
    match frames::receive_json::<Order>(control).await {
        Ok(Some(Order::Go)) => Ok(()),
        Ok(None) | Err(_) => Err(lost()),
    }
}

/// Lets the container's process run.
async fn start(container: &Container) -> Result<(), Failed> {
    use std::process::Stdio;
    let child = tokio::process::Command::from(container.start_command())
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
        container.runtime.name,
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

/// What attached clients act on.
struct Workload {
    pidfd: OwnedFd,
    hub: Arc<Hub>,
    writer: Mutex<Writer>,
    stop_signal: String,
}

type Clients = Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>;

async fn serve(listener: UnixListener, workload: Arc<Workload>, clients: Clients) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: later is better than never.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let task = tokio::spawn(client(stream, Arc::clone(&workload)));
        let mut clients = clients.lock().await;
        clients.retain(|c| !c.is_finished());
        clients.push(task);
    }
}

async fn client(stream: UnixStream, workload: Arc<Workload>) {
    let (mut read, mut write) = stream.into_split();
    let ask = timeout(DRAIN, frames::receive_json::<Ask>(&mut read)).await;
    let Ok(Ok(Some(ask))) = ask else { return };
    let mut events = workload.hub.join().await;
    let stops = if let Ask::Stop { grace_ms } = ask {
        // Before it is answered: whoever asked may be gone, and meant it.
        tokio::spawn(stop(Arc::clone(&workload), Duration::from_millis(grace_ms)));
        true
    } else {
        false
    };
    // From here on it misses nothing: say so, the agent waits for it.
    let Ok(joined) = frames::frame(&Event::Joined.encode()) else {
        return;
    };
    if write.write_all(&joined).await.is_err() {
        return;
    }
    if !stops {
        let workload = Arc::clone(&workload);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames::receive(&mut read).await {
                workload.input(Input::decode(&frame)).await;
            }
            // Whoever gave it input is gone: no more will come.
            workload.writer.lock().await.end();
        });
    }
    while let Some(event) = events.recv().await {
        let Ok(frame) = frames::frame(&event) else {
            return;
        };
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn stop(workload: Arc<Workload>, grace: Duration) {
    workload.signal(launch::signal_number(&workload.stop_signal).unwrap_or(Signal::TERM.as_raw()));
    tokio::time::sleep(grace).await;
    workload.signal(Signal::KILL.as_raw());
}

impl Workload {
    async fn input(&self, input: Option<Input>) {
        match input {
            Some(Input::Data(data)) => {
                // It may not want to read any more.
                let _ = self.writer.lock().await.write(&data).await;
            }
            Some(Input::End) => self.writer.lock().await.end(),
            Some(Input::Resize(columns, rows)) => self.writer.lock().await.resize(columns, rows),
            Some(Input::Signal(number)) => self.signal(number),
            None => {}
        }
    }

    fn signal(&self, number: i32) {
        // It may be gone already.
        if let Some(signal) = Signal::from_named_raw(number) {
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }
}

impl From<LaunchError> for Failed {
    fn from(error: LaunchError) -> Self {
        ("made".into(), error.to_string())
    }
}

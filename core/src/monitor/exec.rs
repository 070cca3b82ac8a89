//! Another command in a workload that runs.
//!
//! Every launcher gives the same two channels: what it says and how it ends,
//! and what it is told. Here is what is checked for all of them, and how an
//! OCI runtime's `exec` is driven.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

use super::protocol::{Event, ExecRequest, Input};
use super::serve::Workload;
use super::streams::{PIECE, Writer};
use crate::agent::AgentError;
use crate::launch::{By, LOADER_PATH, Oci, check_workdir, init_args, loader_path};
use crate::model::Exit;
use crate::sys;

/// Messages that may wait in either direction.
const QUEUE: usize = 16;
/// How long output may take to come, once the command has ended: what it wrote
/// is there already; what it left in the background is not waited for.
const REST: Duration = Duration::from_millis(20);

/// A command that runs.
pub(super) struct Running {
    /// What it says; [`Event::Exit`] is the last.
    pub(super) events: mpsc::Receiver<Event>,
    /// What it is told; dropped: no more input comes.
    pub(super) input: mpsc::Sender<Input>,
}

/// Checks a request and starts the command.
pub(super) async fn start(
    workload: &Workload,
    request: ExecRequest,
) -> Result<Running, AgentError> {
    let container = &workload.container;
    if !workload.runs.load(Ordering::Relaxed) {
        return Err(AgentError::NotRunning(container.id.clone()));
    }
    if request.command.is_empty() || request.command.iter().any(|w| w.contains('\0')) {
        return Err(AgentError::NoCommand);
    }
    if let Some(dir) = &request.workdir {
        check_workdir(dir)?;
    }
    for (name, value) in &request.env {
        let checked = container.reserved.check(name, value);
        checked.map_err(|fault| AgentError::variable(fault, name, value))?;
    }
    match &container.by {
        By::Oci(oci) => by_runtime(workload, oci, request),
        By::Engine(on) => super::engine::exec(workload, on, request).await,
    }
}

/// The channels' other ends.
pub(super) struct Ends {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) input: mpsc::Receiver<Input>,
}

/// Two channels, and their other ends.
pub(super) fn channels() -> (Running, Ends) {
    let (say, events) = mpsc::channel(QUEUE);
    let (input, told) = mpsc::channel(QUEUE);
    (
        Running { events, input },
        Ends {
            events: say,
            input: told,
        },
    )
}

/// How a command ended, for whoever asked for it.
pub(super) fn ended(code: Option<u8>) -> Event {
    Event::Exit(Box::new(Exit {
        code,
        at_ms: sys::now_ms(),
        ..Exit::default()
    }))
}

/// What of an input a launcher has to see to itself.
pub(super) enum Told {
    /// Nothing more.
    Done,
    /// The terminal's size, in characters.
    Resize(u16, u16),
    /// A signal, by number.
    Signal(i32),
}

/// Gives a command what it is told; `None`: nobody will tell it more.
pub(super) async fn tell(writer: &mut Writer, told: Option<Input>) -> Told {
    match told {
        Some(Input::Data(data)) => {
            // It may not want to read any more.
            let _ = writer.write(&data).await;
        }
        Some(Input::End) => writer.end().await,
        Some(Input::Resize(columns, rows)) => return Told::Resize(columns, rows),
        Some(Input::Signal(number)) => return Told::Signal(number),
        None => {
            writer.end().await;
            // As when a person's line is cut.
            if writer.is_terminal() {
                return Told::Signal(Signal::HUP.as_raw());
            }
        }
    }
    Told::Done
}

/// The command under the init, in the folder that was asked for, else in the
/// workload's own.
pub(super) fn args(workload: &Workload, request: &ExecRequest) -> Vec<String> {
    let own = &workload.container.workdir;
    init_args(
        &request.command,
        request.workdir.as_ref().unwrap_or(own),
        None,
    )
}

// === by an OCI runtime ===

fn by_runtime(workload: &Workload, oci: &Oci, request: ExecRequest) -> Result<Running, AgentError> {
    let system = |e| AgentError::System("the command cannot be started", e);
    let tty = request.tty;
    let file = ProcessFile::write(workload, request).map_err(system)?;
    let mut command = Command::from(oci.exec_command(&workload.container.id, &file.0, tty));
    let (running, ends) = channels();
    let (child, streams) = if tty {
        on_terminal(&mut command)
    } else {
        on_pipes(&mut command)
    }
    .map_err(system)?;
    tokio::spawn(attend(child, streams, ends, file));
    Ok(running)
}

/// The request's variables, with the loader's folders that plugins gave before those
/// that it names.
pub(super) fn loaded(
    env: Vec<(String, String)>,
    folders: &[String],
) -> impl Iterator<Item = (String, String)> {
    env.into_iter().map(move |(name, value)| {
        let value = match name == LOADER_PATH {
            true => loader_path(folders, Some(&value)),
            false => value,
        };
        (name, value)
    })
}

/// The document that describes the process; it goes when the process has
/// ended, for a runtime may read it late.
struct ProcessFile(PathBuf);

impl ProcessFile {
    /// The workload's own process, with another command.
    fn write(workload: &Workload, request: ExecRequest) -> io::Result<Self> {
        let folder = &workload.folder.path;
        let config = std::fs::read(folder.join("bundle/config.json"))?;
        let mut process = serde_json::from_slice::<Value>(&config)?
            .get_mut("process")
            .map(Value::take)
            .unwrap_or_default();
        process["args"] = args(workload, &request).into();
        process["terminal"] = request.tty.into();
        if let Some(all) = process["env"].as_array_mut() {
            for (name, value) in loaded(request.env, &workload.container.library_paths) {
                let mine = format!("{name}=");
                all.retain(|v| !v.as_str().is_some_and(|v| v.starts_with(&mine)));
                all.push((mine + &value).into());
            }
        }
        let number = sys::random()?
            .iter()
            .fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        let file = Self(folder.join(format!("exec-{number:012x}.json")));
        sys::write_private(&file.0, &serde_json::to_vec(&process)?)?;
        Ok(file)
    }
}

impl Drop for ProcessFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A command's streams: our ends.
enum Streams {
    Pipes,
    Terminal(Arc<tokio::io::unix::AsyncFd<OwnedFd>>),
}

fn on_pipes(command: &mut Command) -> io::Result<(Child, Streams)> {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((child, Streams::Pipes))
}

/// The runtime gets a terminal of ours, which it connects with the one that it
/// makes inside: so one driver serves all runtimes.
fn on_terminal(command: &mut Command) -> io::Result<(Child, Streams)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let name = name.to_str().map_err(io::Error::other)?;
    let flags = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
    let slave = std::os::unix::fs::OpenOptionsExt::custom_flags(
        File::options().read(true).write(true),
        flags,
    )
    .open(name)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    let child = command
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave)
        .spawn()?;
    // Our copies of the other end: with them it would never end.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok((child, Streams::Terminal(Arc::new(sys::async_fd(master)?))))
}

/// Stays with the runtime's process until it ends.
async fn attend(mut child: Child, streams: Streams, mut ends: Ends, _file: ProcessFile) {
    let (over, is_over) = watch::channel(false);
    let mut pumps = Vec::new();
    let mut writer = match streams {
        Streams::Pipes => {
            if let Some(from) = child.stdout.take() {
                let pump = pump(from, Event::Stdout, ends.events.clone(), is_over.clone());
                pumps.push(tokio::spawn(pump));
            }
            if let Some(from) = child.stderr.take() {
                let pump = pump(from, Event::Stderr, ends.events.clone(), is_over.clone());
                pumps.push(tokio::spawn(pump));
            }
            child.stdin.take().map_or(Writer::None, Writer::Child)
        }
        Streams::Terminal(terminal) => {
            let pump = pump_terminal(Arc::clone(&terminal), ends.events.clone(), is_over.clone());
            pumps.push(tokio::spawn(pump));
            Writer::Terminal(terminal)
        }
    };
    let pid = child.id();
    let signal = |signal: Signal| {
        // Not waited for yet, so the number is still its own.
        let pid = pid
            .and_then(|p| i32::try_from(p).ok())
            .and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, signal));
    };
    let mut told_more = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            told = ends.input.recv(), if told_more => {
                told_more = told.is_some();
                match tell(&mut writer, told).await {
                    Told::Done => {}
                    Told::Resize(columns, rows) => {
                        writer.resize(columns, rows).await;
                        // No terminal's session is its own, so the kernel tells
                        // it nothing.
                        signal(Signal::WINCH);
                    }
                    Told::Signal(number) => {
                        if let Some(number) = Signal::from_named_raw(number) {
                            signal(number);
                        }
                    }
                }
            }
        }
    };
    let _ = over.send(true);
    for pump in pumps {
        let _ = pump.await;
    }
    let code = status.ok().and_then(|status| {
        use std::os::unix::process::ExitStatusExt;
        status.code().or_else(|| Some(128 + status.signal()?))
    });
    let code = code.and_then(|code| u8::try_from(code).ok());
    let _ = ends.events.send(ended(code.or(Some(125)))).await;
}

/// Passes output on until it ends, or until the command is over and nothing
/// more comes.
async fn pump(
    mut from: impl tokio::io::AsyncRead + Unpin,
    wrap: fn(Vec<u8>) -> Event,
    to: mpsc::Sender<Event>,
    mut over: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = rest(&mut over) => return,
        };
        let Ok(n @ 1..) = read else { return };
        if to.send(wrap(buffer[..n].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn pump_terminal(
    from: Arc<tokio::io::unix::AsyncFd<OwnedFd>>,
    to: mpsc::Sender<Event>,
    mut over: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let mut ready = tokio::select! {
            biased;
            ready = from.readable() => match ready {
                Ok(ready) => ready,
                Err(_) => return,
            },
            () = rest(&mut over) => return,
        };
        match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
            Err(_would_block) => {}
            Ok(Ok(n @ 1..)) => {
                let said = Event::Stdout(buffer[..n].to_vec());
                if to.send(said).await.is_err() {
                    return;
                }
            }
            // EIO: the last process let go of it.
            Ok(Ok(0) | Err(_)) => return,
        }
    }
}

/// A moment after the command is over.
async fn rest(over: &mut watch::Receiver<bool>) {
    // The sender outlives the pumps.
    let _ = over.wait_for(|over| *over).await;
    tokio::time::sleep(REST).await;
}

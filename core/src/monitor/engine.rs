//! A workload in a container engine: made, followed, and its end learnt.
//!
//! The engine may die at any time, and the container live on without it. So
//! the end is the kernel's word (a pidfd); the engine is only asked for the
//! exit code, and waited for if it is away. The output comes by attaching
//! before the start; whoever loses that stream reads the engine's log from the
//! beginning and leaves out what it has had already.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::container::LogOutput;
use futures_util::StreamExt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::exec::{Ends, Running, Told, channels, ended, tell};
use super::hub::{Counts, Hub};
use super::process::RUNTIME;
use super::protocol::{Event, ExecRequest};
use super::serve::Workload;
use super::streams::Writer;
use crate::agent::AgentError;
use crate::launch::docker::{self, Handle, Kind, OnEngine, Output, Standing};
use crate::launch::{By, Cgroup, Container, Folder};
use crate::model::Exit;
use crate::sys;

/// How long an engine that went away may take to come back, once the container
/// has ended, to say how it ended.
const AWAY: Duration = Duration::from_secs(60);
/// How long an engine may take to say how a container ended that nobody
/// followed.
const HUNG: Duration = Duration::from_secs(10);
/// How often one that is away is looked for.
const AGAIN: Duration = Duration::from_millis(250);

/// A container of an engine whose process exists.
pub(super) struct Live {
    pub(super) pid: u32,
    pub(super) id: String,
    pub(super) writer: Writer,
    output: Option<Output>,
    handle: Handle,
    seen_all: bool,
    gate: Option<File>,
}

/// How a container of an engine ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) code: Option<u8>,
    pub(super) out_of_memory: bool,
    /// Why there is no code.
    pub(super) reason: Option<String>,
}

/// Makes and starts the container; its init waits at the gate.
pub(super) async fn make(
    folder: &Folder,
    container: &Container,
    on: &OnEngine,
) -> Result<Live, String> {
    let made = timeout(RUNTIME, try_make(folder, container, on)).await;
    made.map_err(|_| "the engine did not make it within 60 s".to_owned())?
}

async fn try_make(folder: &Folder, container: &Container, on: &OnEngine) -> Result<Live, String> {
    let gate = gate(folder).map_err(|e| format!("its gate cannot be made: {e}"))?;
    let body = folder.body().map_err(|e| e.to_string())?;
    let handle = on.handle(&container.id);
    let made = handle.create(body).await;
    if !made
        .as_ref()
        .is_err_and(docker::EngineError::is_unavailable)
    {
        folder.answered();
    }
    made.map_err(|e| e.to_string())?;
    // Docker puts folders in the place of such links itself.
    if on.kind == Kind::Podman {
        handle.check_root().await.map_err(|e| e.to_string())?;
    }
    // Before it can print a word.
    let attached = handle.attach(container.stdin).await;
    let (output, input) = attached.map_err(|e| e.to_string())?;
    handle.start().await.map_err(|e| e.to_string())?;
    let seen = handle.look().await.map_err(|e| e.to_string())?;
    let seen = seen.ok_or("the engine lost it")?;
    let pid = seen.pid.ok_or("it ended before it was to start")?;
    let writer = if container.stdin {
        Writer::Engine {
            input,
            container: handle.clone(),
            tty: container.tty,
        }
    } else {
        Writer::None
    };
    Ok(Live {
        pid,
        id: seen.id,
        writer,
        output: Some(output),
        handle,
        seen_all: seen.logs_all,
        gate: Some(gate),
    })
}

/// Takes over a container that runs already. Its input went with the monitor
/// that held it; its output is in the engine's log.
pub(super) fn follow(container: &Container, on: &OnEngine, pid: u32, id: String) -> Live {
    Live {
        pid,
        id,
        writer: Writer::None,
        output: None,
        handle: on.handle(&container.id),
        // Looked at when it is needed.
        seen_all: true,
        gate: None,
    }
}

/// The named pipe at which init waits, open at our end for as long as the word
/// may still come.
fn gate(folder: &Folder) -> io::Result<File> {
    let path = folder.gate();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0)?;
    // Whoever the image makes of init must be able to read it.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444))?;
    // For reading too: so opening it does not wait for init.
    OpenOptions::new().read(true).write(true).open(path)
}

impl Live {
    /// Says the word: init lets the command run. Noted before, so that whoever
    /// comes after us knows that it may have been heard.
    pub(super) fn go(&mut self, folder: &Folder) -> io::Result<()> {
        let mut gate = self
            .gate
            .take()
            .ok_or_else(|| io::Error::other("the word was said already"))?;
        folder.save_went().map_err(io::Error::other)?;
        gate.write_all(b"g")?;
        self.gate = Some(gate);
        Ok(())
    }

    /// Follows its output and learns its end.
    pub(super) fn attend(&mut self, hub: Arc<Hub>, pidfd: OwnedFd) -> JoinHandle<Outcome> {
        let follower = Follower {
            handle: self.handle.clone(),
            hub,
            pidfd: Some(pidfd),
            logs_all: self.seen_all,
            patience: AWAY,
        };
        tokio::spawn(follower.follow(self.output.take()))
    }

    /// The engine could not remove the container now: tries again for a while.
    pub(super) async fn delete_later(&self) {
        let until = Instant::now() + AWAY;
        while Instant::now() < until {
            sleep(AGAIN).await;
            if self.handle.delete().await.is_ok() {
                return;
            }
        }
    }
}

struct Follower {
    handle: Handle,
    hub: Arc<Hub>,
    /// `None`: its process is gone already.
    pidfd: Option<OwnedFd>,
    logs_all: bool,
    /// How long an engine may be away once the process is gone.
    patience: Duration,
}

/// How a container ended that nobody followed; what it printed until then is
/// added to its log. `None`: the engine cannot say now.
pub(crate) async fn how_it_ended(folder: &Folder, container: &Container) -> Option<Exit> {
    let By::Engine(on) = &container.by else {
        return None;
    };
    let follower = Follower {
        handle: on.handle(&container.id),
        hub: Arc::new(Hub::new(folder.log())),
        pidfd: None,
        logs_all: true,
        patience: Duration::ZERO,
    };
    // Whoever asks has more to do than to wait for one that hangs.
    let outcome = timeout(HUNG, follower.follow(None)).await.ok()?;
    Some(Exit {
        code: Some(outcome.code?),
        out_of_memory: outcome.out_of_memory,
        at_ms: sys::now_ms(),
        ..Exit::default()
    })
}

impl Follower {
    async fn follow(mut self, attached: Option<Output>) -> Outcome {
        // An attached stream that ends while the engine answers has said all.
        let mut output = attached;
        loop {
            let heard = match output.take() {
                Some(output) => self.pump(output, Counts::default()).await,
                None => self.read_log().await,
            };
            let heard = match heard {
                Ok(()) if !self.ends_now().await => Err("its stream ended before it".to_owned()),
                other => other,
            };
            match heard {
                Ok(()) => match self.handle.wait().await {
                    Ok(code) => return self.outcome(code).await,
                    Err(error) if error.is_unavailable() => {}
                    Err(error) => return lost(&error.to_string()),
                },
                Err(why) => tracing::info!("its output was interrupted: {why}"),
            }
            if !self.engine_is_back().await {
                return lost(
                    "the container engine did not come back within 60 s to say how it ended",
                );
            }
        }
    }

    /// Passes output on, without what was had already.
    async fn pump(&self, mut output: Output, mut had: Counts) -> Result<(), String> {
        while let Some(piece) = output.next().await {
            let (event, skip) = match piece.map_err(|e| e.to_string())? {
                LogOutput::StdErr { message } => {
                    let skip = had.skip_err(message.len());
                    (
                        Event::Stderr(message[skip..].to_vec()),
                        skip == message.len(),
                    )
                }
                LogOutput::StdOut { message } | LogOutput::Console { message } => {
                    let skip = had.skip_out(message.len());
                    (
                        Event::Stdout(message[skip..].to_vec()),
                        skip == message.len(),
                    )
                }
                LogOutput::StdIn { .. } => continue,
            };
            if !skip {
                self.hub.output(event).await;
            }
        }
        Ok(())
    }

    async fn read_log(&mut self) -> Result<(), String> {
        match self.handle.look().await {
            Ok(Some(seen)) => self.logs_all = seen.logs_all,
            Ok(None) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        let had = self.hub.counts().await;
        match had {
            Some(had) if self.logs_all => {
                let log = self.handle.logs(0).map_err(|e| e.to_string())?;
                self.pump(log, had).await
            }
            // Its beginning is gone: from the second of our last piece on.
            _ => {
                let since = self.hub.last_s().await;
                let log = self.handle.logs(since).map_err(|e| e.to_string())?;
                self.pump(log, Counts::default()).await
            }
        }
    }

    /// Waits for an engine that is away: as long as the container lives, and a
    /// while after.
    async fn engine_is_back(&self) -> bool {
        let mut since_end: Option<Instant> = None;
        loop {
            if since_end.is_none() && self.has_ended() {
                since_end = Some(Instant::now());
            }
            if since_end.is_some_and(|at| at.elapsed() >= self.patience) {
                return false;
            }
            sleep(AGAIN).await;
            if self.handle.ping().await {
                return true;
            }
        }
    }

    /// Has its process ended, or does it within a moment? Its streams close
    /// just before the kernel says so.
    async fn ends_now(&self) -> bool {
        for _ in 0..20 {
            if self.has_ended() {
                return true;
            }
            sleep(Duration::from_millis(5)).await;
        }
        false
    }

    fn has_ended(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let Some(pidfd) = &self.pidfd else {
            return true;
        };
        let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
        matches!(poll(&mut polled, Some(&now)), Ok(1..))
    }

    async fn outcome(&self, code: Option<u8>) -> Outcome {
        let seen = self.handle.look().await.ok().flatten();
        Outcome {
            code,
            out_of_memory: seen.is_some_and(|s| s.out_of_memory),
            reason: code
                .is_none()
                .then(|| "the engine does not know how it ended: it was removed there".into()),
        }
    }
}

fn lost(why: &str) -> Outcome {
    Outcome {
        reason: Some(why.to_owned()),
        ..Outcome::default()
    }
}

// === another command ===

/// Starts another command by the engine's exec.
pub(super) async fn exec(
    workload: &Workload,
    on: &OnEngine,
    request: ExecRequest,
) -> Result<Running, AgentError> {
    let handle = on.handle(&workload.container.id);
    let tty = request.tty;
    let folders = &workload.container.library_paths;
    let env = super::exec::loaded(request.env.clone(), folders);
    let command = docker::Command {
        args: super::exec::args(workload, &request),
        env: env.map(|(name, value)| format!("{name}={value}")).collect(),
        tty: request.tty,
    };
    let (id, output, input) = handle.exec(command).await?;
    let cgroup = workload.cgroup_name.clone();
    let (running, ends) = channels();
    let writer = Writer::Engine {
        input,
        container: handle.clone(),
        tty,
    };
    tokio::spawn(attend(handle, id, cgroup, output, writer, ends));
    Ok(running)
}

/// Stays with a command until it ends.
async fn attend(
    handle: Handle,
    id: String,
    cgroup: String,
    mut output: Output,
    mut writer: Writer,
    mut ends: Ends,
) {
    let mut told_more = true;
    loop {
        tokio::select! {
            piece = output.next() => {
                let event = match piece {
                    Some(Ok(LogOutput::StdErr { message })) => Event::Stderr(message.to_vec()),
                    Some(Ok(LogOutput::StdOut { message } | LogOutput::Console { message })) => {
                        Event::Stdout(message.to_vec())
                    }
                    Some(Ok(LogOutput::StdIn { .. })) => continue,
                    Some(Err(_)) | None => break,
                };
                // Unheard, it goes on.
                let _ = ends.events.send(event).await;
            }
            told = ends.input.recv(), if told_more => {
                told_more = told.is_some();
                match tell(&mut writer, told).await {
                    Told::Done => {}
                    Told::Resize(columns, rows) => handle.exec_resize(&id, columns, rows).await,
                    Told::Signal(number) => signal(&handle, &id, &cgroup, number).await,
                }
            }
        }
    }
    // Its streams are closed; the engine notes its end a moment later.
    let code = loop {
        match handle.exec_stands(&id).await {
            Ok(Standing::Ended(code)) => break code,
            Ok(Standing::Runs(_)) => sleep(Duration::from_millis(5)).await,
            Err(error) => {
                let refused = Event::Refused {
                    code: error.code().into(),
                    message: error.to_string(),
                };
                let _ = ends.events.send(refused).await;
                return;
            }
        }
    };
    let _ = ends.events.send(ended(code.or(Some(125)))).await;
}

/// Sends a signal to a command: engines have no word for it, but say which
/// process of the machine's it is.
async fn signal(handle: &Handle, id: &str, cgroup: &str, number: i32) {
    let Ok(Standing::Runs(Some(pid))) = handle.exec_stands(id).await else {
        return;
    };
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some((raw, signal)) = raw.zip(Signal::from_named_raw(number)) else {
        return;
    };
    // Held before it is looked at: so it is that process, or none.
    if let Ok(held) = pidfd_open(raw, PidfdFlags::empty())
        && Cgroup::of(pid).is_ok_and(|c| c.belongs_to(cgroup))
    {
        let _ = pidfd_send_signal(&held, signal);
    }
}

//! One plugin host process, seen from the agent.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::wire::{Answer, CHANNEL_FD, Call, Op, PLUGIN_FD};
use crate::frames;

/// How long a killed host may take to be reaped before it counts as stuck in
/// the kernel.
const REAP: Duration = Duration::from_secs(2);
/// How long a host whose channel ended may take to be reaped.
const LAST_GASP: Duration = Duration::from_millis(200);
/// How long the last of a dead host's output is waited for; something that it
/// forked may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// What is kept of one line, bytes.
const LONGEST_LINE: usize = 1024;
/// Lines of its output that are kept to explain a crash.
const KEPT_LINES: usize = 20;

/// A running host.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    channel: UnixStream,
    reader: JoinHandle<()>,
    output: Arc<Mutex<VecDeque<String>>>,
    next: u64,
    interrupted: bool,
    _group: Group,
}

/// The host's process group: what the plugin forked ends with its host.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nobody left in it is fine.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// How a host came to its end.
#[derive(Debug)]
pub(super) enum End {
    /// Reaped; in words.
    Gone(String),
    /// SIGKILL was sent and it is still there: stuck in the kernel.
    Stuck(Child),
}

/// Why a call did not come back with an answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// The channel ended or carried nonsense.
    Channel(String),
    /// The deadline passed.
    Late(Duration),
}

impl Process {
    /// Starts a host for a plugin file. `exe` is the `divvy` executable.
    pub(super) fn spawn(exe: &Path, name: &str, file: &OwnedFd) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (read, write) = io::pipe()?;
        let mut command = std::process::Command::new(exe);
        command
            .args(["plugin-host", &std::process::id().to_string(), name])
            .env_clear()
            .envs(
                ["PATH", "LD_LIBRARY_PATH", "RUST_BACKTRACE"]
                    .into_iter()
                    .filter_map(|key| Some((key, std::env::var_os(key)?))),
            )
            .stdin(Stdio::null())
            .stdout(write.try_clone()?)
            .stderr(write)
            .fd_mappings(vec![
                FdMapping {
                    parent_fd: theirs.into(),
                    child_fd: CHANNEL_FD,
                },
                FdMapping {
                    parent_fd: file.try_clone()?,
                    child_fd: PLUGIN_FD,
                },
            ])
            .map_err(io::Error::other)?
            // A group of its own: ^C at the terminal is the agent's to handle,
            // and what a plugin forks can be ended with it.
            .process_group(0);
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn()?;
        let group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
        drop(command); // closes our copies of the child's descriptors

        let output = Arc::new(Mutex::new(VecDeque::new()));
        let read = pipe::Receiver::from_owned_fd(read.into())?;
        let reader = tokio::spawn(keep_output(read, name.to_owned(), Arc::clone(&output)));
        Ok(Self {
            child,
            channel: UnixStream::from_std(ours)?,
            reader,
            output,
            next: 0,
            interrupted: false,
            _group: group,
        })
    }

    /// Its process id, unless it has been reaped.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// One call and its answer's frame. The caller reads the frame with
    /// [`outcome`]; after an error the host must be ended.
    pub(super) async fn call(
        &mut self,
        op: Op,
        arg: &RawValue,
        deadline: Duration,
    ) -> Result<Vec<u8>, Broken> {
        self.next += 1;
        let id = self.next;
        self.interrupted = true;
        let answer = tokio::select! {
            biased;
            answer = timeout(deadline, exchange(&mut self.channel, Call { id, op, arg })) => {
                answer.map_err(|_| Broken::Late(deadline))?.map_err(|e| Broken::Channel(e.to_string()))?
            }
            // Usually the channel ends with it, but not if it has forked.
            _ = self.child.wait() => return Err(Broken::Channel("it ended".into())),
        };
        self.interrupted = false;
        Ok(answer)
    }

    /// Has it written to the channel what nobody asked for?
    pub(super) fn is_babbling(&self) -> bool {
        !matches!(
            self.channel.try_read(&mut [0; 1]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock
        )
    }

    /// Closes the channel, which ends a host; says whether it did in time.
    pub(super) async fn part(self, patience: Duration) -> bool {
        let Self {
            mut child, channel, ..
        } = self;
        drop(channel);
        matches!(timeout(patience, child.wait()).await, Ok(Ok(_)))
    }

    /// Was a call given up before its answer was read?
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Kills the host, waits for it, and says how it ended.
    pub(super) async fn end(mut self, broken: &Broken) -> End {
        let why = match broken {
            Broken::Late(deadline) => {
                format!(
                    "it did not answer within {} ms and was killed",
                    deadline.as_millis()
                )
            }
            Broken::Channel(what) => {
                // A host that crashed is about to be reaped: look before
                // killing, so that its own signal is reported and not ours.
                if let Ok(Ok(status)) = timeout(LAST_GASP, self.child.wait()).await {
                    // What it wrote last may still be in the pipe.
                    let _ = timeout(LAST_WORDS, &mut self.reader).await;
                    return End::Gone(self.describe(status));
                }
                format!("it broke the protocol ({what}) and was killed")
            }
        };
        self.kill(&why).await
    }

    /// Kills the host because it is of no use.
    pub(super) async fn kill(mut self, why: &str) -> End {
        // Already gone is fine.
        let _ = self.child.start_kill();
        match timeout(REAP, self.child.wait()).await {
            Ok(Ok(_)) => End::Gone(format!("{why}{}", self.last_words())),
            Ok(Err(e)) => End::Gone(format!("it could not be waited for: {e}")),
            Err(_) => End::Stuck(self.child),
        }
    }

    fn describe(&self, status: ExitStatus) -> String {
        use std::os::unix::process::ExitStatusExt;
        let what = match (status.signal(), status.code()) {
            (Some(signal), _) => match signal_name(signal) {
                Some(name) => format!("it was ended by signal {signal} ({name})"),
                None => format!("it was ended by signal {signal}"),
            },
            (_, Some(code)) => format!("it exited with status {code}"),
            _ => "it ended".into(),
        };
        format!("{what}{}", self.last_words())
    }

    fn last_words(&self) -> String {
        let lines = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .back()
            .map_or_else(String::new, |line| format!("; its last words: {line}"))
    }
}

async fn exchange(channel: &mut UnixStream, call: Call<'_>) -> io::Result<Vec<u8>> {
    frames::send_json(channel, &call).await?;
    loop {
        let frame = frames::receive(channel)
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let answer: Answer<'_> = serde_json::from_slice(&frame)?;
        // A late answer to a `watch` that was given up is skipped.
        if answer.id == call.id {
            return Ok(frame);
        }
        if answer.id > call.id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an answer to no call",
            ));
        }
    }
}

/// The names of the signals that end processes; rustix prints its own.
fn signal_name(signal: i32) -> Option<&'static str> {
    let names = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::SYS, "SIGSYS"),
    ];
    names
        .iter()
        .find(|(s, _)| s.as_raw() == signal)
        .map(|(_, name)| *name)
}

/// Everything that the plugin prints goes to the log, line by line, made
/// printable (S20); the last lines are kept. Of a line no more than its
/// beginning is held, however long it is.
async fn keep_output(from: pipe::Receiver, plugin: String, to: Arc<Mutex<VecDeque<String>>>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while let Ok(bytes) = from.fill_buf().await {
        if bytes.is_empty() {
            break;
        }
        let end = bytes.iter().position(|b| *b == b'\n');
        let piece = end.map_or(bytes, |at| &bytes[..at]);
        line.extend_from_slice(&piece[..piece.len().min(LONGEST_LINE - line.len())]);
        let used = end.map_or(bytes.len(), |at| at + 1);
        from.consume(used);
        if end.is_some() {
            keep_line(&line, &plugin, &to);
            line.clear();
        }
    }
    keep_line(&line, &plugin, &to);
}

fn keep_line(line: &[u8], plugin: &str, to: &Mutex<VecDeque<String>>) {
    let text: String = String::from_utf8_lossy(line)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.trim().is_empty() {
        return;
    }
    tracing::info!(target: "divvy::plugin", plugin, "{text}");
    let mut kept = to.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() == KEPT_LINES {
        kept.pop_front();
    }
    kept.push_back(text);
}

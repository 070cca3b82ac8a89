//! The process that stays with one workload.
//!
//! A monitor (conmon's idea) makes the container, waits for the agent's word
//! that it is what was granted, starts it, keeps its output, serves whoever
//! attaches or runs another command in it, holds the grace timer of `stop`, and
//! at the end notes how it ended, has the plugins release and frees the slices.
//! It outlives the command that started it: `kill -9` of `divvy run` changes
//! nothing for the container.
//!
//! Until the agent says *go*, the agent owns the workload: a monitor whose
//! agent dies before that deletes the container, of which nothing ever ran.
//! From *go* on the monitor owns it. Both hold the same lock on the workload's
//! folder, so whoever finds that lock free knows that nobody is left.
//!
//! The workload's streams are named pipes (a terminal, with `-t`), so a
//! monitor that was killed can be replaced without the workload noticing.

mod client;
mod engine;
mod exec;
mod hub;
mod log;
mod process;
mod protocol;
mod serve;
mod streams;

pub use client::{Attached, ExecError, Signalled, attach, exec, stop, wait};
pub(crate) use client::{joined, open};
pub(crate) use engine::how_it_ended;
pub use log::{Log, LogLine};
pub use process::main;
pub(crate) use protocol::{Ask, Order, REPLACED, Report, Settings};
pub use protocol::{Event, ExecRequest};

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use command_fds::{CommandFdExt, FdMapping};

use crate::launch::{Folder, LaunchError};

/// The monitor's descriptor of its line to the agent.
const CONTROL_FD: i32 = 3;
/// The monitor's descriptor of the workload folder's lock.
const LOCK_FD: i32 = 4;

/// Starts a monitor for the workload in `folder`, which holds its container,
/// bundle and settings; it shares `lock`. With `adopt` it follows a container
/// that runs already, else it makes one and asks for the go.
///
/// # Errors
/// The process cannot be started.
pub(crate) fn spawn(
    exe: &Path,
    folder: &Folder,
    lock: File,
    adopt: bool,
) -> Result<UnixStream, LaunchError> {
    let failed = |why: String| LaunchError::Container {
        step: "given a monitor",
        why,
    };
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(folder.monitor_log())
        .map_err(LaunchError::file("cannot write", folder.monitor_log()))?;
    let mut command = std::process::Command::new(exe);
    command
        .arg("monitor")
        .arg(&folder.path)
        .args(adopt.then_some("--adopt"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .fd_mappings(vec![
            FdMapping {
                parent_fd: theirs.into(),
                child_fd: CONTROL_FD,
            },
            FdMapping {
                parent_fd: lock.into(),
                child_fd: LOCK_FD,
            },
        ])
        .map_err(|e| failed(e.to_string()))?;
    // Not waited for here: it outlives this process, and belongs to init then.
    // In an agent that lives longer, tokio reaps it.
    tokio::process::Command::from(command)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    Ok(ours)
}

//! The last steps inside the container process: find the program, close what
//! is open, load seccomp, become the program.
//!
//! libcontainer calls [`Executor`] in the cloned process, when namespaces,
//! root, user and capabilities are those of the container.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{Process, Spec};
use rustix::fs::Access;
use rustix::termios::Winsize;

use super::ffi;
use super::seccomp::Filters;

/// Search path when the container's environment has none, as in runc and Docker.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Turns the prepared process into the container's program.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    filters: Filters,
    /// Set in the container process by `setup_envs`, used by `exec` there.
    environment: RefCell<HashMap<String, String>>,
}

impl Launch {
    /// The filters are compiled by now: inside the container, they are only
    /// loaded.
    pub(super) fn under(filters: Filters) -> Self {
        Self {
            filters,
            environment: RefCell::default(),
        }
    }

    /// What must be done before the program can run; returns only on failure.
    fn become_program(&self, process: &Process) -> Result<std::convert::Infallible, String> {
        let mut args = process.args().iter().flatten();
        let name = args.next().ok_or("process.args is empty")?;
        let program = find_program(name, process)?;
        // Before the first byte of the program runs, so that it draws right.
        if let Some(size) = process.console_size() {
            let cells = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
            let size = Winsize {
                ws_row: cells(size.height()),
                ws_col: cells(size.width()),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            let _ = rustix::termios::tcsetwinsize(rustix::stdio::stdin(), size);
        }
        // libcontainer spares LISTEN_FDS descriptors; here none is spared.
        ffi::close_all_on_exec().map_err(|error| format!("cannot close descriptors: {error}"))?;
        // `exec` blocks them for itself, before this process is cloned from it.
        ffi::unblock_signals().map_err(|error| format!("cannot unblock signals: {error}"))?;
        let mut command = Command::new(&program);
        command
            .arg0(name)
            .args(args)
            .env_clear()
            .envs(self.environment.borrow().iter());
        self.filters
            .load()
            .map_err(|error| format!("cannot load the seccomp filter: {error}"))?;
        // Gives SIGPIPE, which Rust ignores, its default back.
        let error = command.exec();
        Err(format!("cannot run {name:?}: {error}"))
    }
}

impl Executor for Launch {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let Err(message) = self.become_program(process);
        // After `start` nobody listens but whoever reads the container's output.
        eprintln!("divvy oci-runtime: {message}");
        Err(ExecutorError::Other(message))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let refuse = ExecutorValidationError::ArgValidationError;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| refuse("it has no process".into()))?;
        let name = process.args().iter().flatten().next();
        find_program(name.map_or("", String::as_str), process)
            .map(drop)
            .map_err(refuse)
    }

    fn setup_envs(&self, mut envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // libcontainer adds these from its own environment.
        envs.remove("LISTEN_FDS");
        envs.remove("LISTEN_PID");
        self.environment.replace(envs);
        Ok(())
    }
}

/// The file that `name` means inside the container (execvp(3)).
fn find_program(name: &str, process: &Process) -> Result<PathBuf, String> {
    let usable = |path: &Path| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match (usable(&path), path.exists()) {
            (true, _) => Ok(path),
            (false, true) => Err(format!("{name:?}: permission denied")),
            (false, false) => Err(format!("{name:?}: no such file or directory")),
        };
    }
    let path = process
        .env()
        .iter()
        .flatten()
        .find_map(|entry| entry.strip_prefix("PATH="));
    std::env::split_paths(path.unwrap_or(DEFAULT_PATH))
        // An empty or relative entry would mean the working directory.
        .filter(|folder| folder.is_absolute() && !name.is_empty())
        .map(|folder| folder.join(name))
        .find(|path| usable(path))
        .ok_or_else(|| format!("{name:?}: executable file not found in $PATH"))
}

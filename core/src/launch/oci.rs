//! The `oci` launcher: what an OCI runtime does to one container.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde::{Deserialize, Serialize};

use super::runtime::last_line;
use super::{FileId, Folder, LaunchError, Root, Runtime};

/// How a container of this launcher is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oci {
    /// The runtime that made it.
    pub runtime: Runtime,
    /// What its root is made of.
    pub root: Root,
    /// Which folder that was when it was looked at, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_id: Option<FileId>,
}

impl Oci {
    /// `create`: the container exists, its process waits. The caller gives it
    /// its standard streams.
    pub(crate) fn create_command(
        &self,
        id: &str,
        folder: &Folder,
        console: Option<&Path>,
    ) -> Command {
        let mut args: Vec<OsString> = vec![
            "create".into(),
            "--bundle".into(),
            folder.bundle().into(),
            "--pid-file".into(),
            folder.path.join("pid").into(),
        ];
        if let Some(socket) = console {
            args.extend(["--console-socket".into(), socket.into()]);
        }
        args.push(id.into());
        self.runtime.logging_command(&folder.runtime_log(), args)
    }

    /// `start`: the process runs.
    pub(crate) fn start_command(&self, id: &str) -> Command {
        self.runtime.command(["start".into(), id.into()])
    }

    /// `exec`: another process in it, on the caller's own streams.
    pub(crate) fn exec_command(&self, id: &str, process: &Path, tty: bool) -> Command {
        let mut args: Vec<OsString> = vec!["exec".into(), "--process".into(), process.into()];
        if tty {
            args.push("--tty".into());
        }
        args.push(id.into());
        self.runtime.command(args)
    }

    /// Does its process still wait for `start`?
    pub(crate) fn waits(&self, id: &str) -> bool {
        let mut state = self.runtime.command(["state".into(), id.into()]);
        let output = state.stdin(Stdio::null()).output();
        let document: Option<serde_json::Value> = output
            .ok()
            .and_then(|o| serde_json::from_slice(&o.stdout).ok());
        document.is_some_and(|d| d["status"] == "created")
    }

    /// Removes what the runtime remembers of a container that a restart of the
    /// machine ended.
    pub(crate) fn forget(&self, id: &str) {
        let _ = fs::remove_dir_all(self.runtime.root.join(id));
    }

    /// `delete --force`: it is gone, whatever it was. A container that does
    /// not exist is a success.
    pub(crate) fn delete(&self, id: &str) -> Result<(), LaunchError> {
        if !self.runtime.root.join(id).exists() {
            return Ok(());
        }
        let step = "deleted";
        let output: Output = self
            .runtime
            .command(["delete".into(), "--force".into(), id.into()])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| LaunchError::Container {
                step,
                why: e.to_string(),
            })?;
        if output.status.success() {
            return Ok(());
        }
        Err(LaunchError::Container {
            step,
            why: last_line(&String::from_utf8_lossy(&output.stderr)),
        })
    }
}

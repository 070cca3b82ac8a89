//! Trying a runtime out: a container is made and deleted.
//!
//! Whoever is killed meanwhile leaves half of one. A probe is in a folder of its
//! own, `STATE/probe/ID`, which is locked as a workload's is: one that nobody
//! holds is cleared away by whoever recovers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::remains::{clear_unknown, end_calls};
use super::runtime::last_line;
use super::{Container, Folder, LaunchError, Runtime, spec};
use crate::failpoint::{Point, hit};
use crate::sys;

fn folders(state: &Path) -> PathBuf {
    state.join("probe")
}

/// Makes and deletes a container: namespaces, mounts, cgroups and seccomp all
/// have to work for it.
///
/// # Errors
/// What does not, in the runtime's words.
pub(super) fn try_out(runtime: &Runtime, state: &Path) -> Result<(), String> {
    let unmade = |e: &dyn std::fmt::Display| format!("no probe could be made: {e}");
    // Its own, though another thread may try the same at this moment.
    let number = sys::random().map_err(|e| unmade(&e))?;
    let number: String = number.iter().map(|b| format!("{b:02x}")).collect();
    let id = format!("divvy-probe-{number}");
    let folder = Folder {
        path: folders(state).join(&id),
    };
    let _lock = folder.create().map_err(|e| unmade(&e))?;
    let result = spec::probe_bundle(&folder, state, &id)
        .map_err(|e| unmade(&e))
        .and_then(|()| make(runtime, &folder, &id));
    hit(Point::ProbeMade);
    let delete = ["delete", "--force", &id].map(OsString::from);
    let _ = runtime.command(delete).output();
    hit(Point::ProbeDeleted);
    folder.remove();
    result
}

fn make(runtime: &Runtime, folder: &Folder, id: &str) -> Result<(), String> {
    let create: [OsString; 6] = [
        "create".into(),
        "--bundle".into(),
        folder.bundle().into(),
        "--pid-file".into(),
        folder.path.join("pid").into(),
        id.into(),
    ];
    let mut call = runtime
        .logging_command(&folder.runtime_log(), create)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("it cannot be run: {e}"))?;
    hit(Point::ProbeCreates);
    let status = call
        .wait()
        .map_err(|e| format!("it was lost sight of: {e}"))?;
    if status.success() {
        return Ok(());
    }
    let said = std::fs::read_to_string(folder.runtime_log()).unwrap_or_default();
    Err(last_line(&said))
}

/// Clears away the probes whose makers are gone.
///
/// # Errors
/// A process of one does not die; the others are cleared all the same.
pub(crate) fn sweep_probes(state: &Path) -> Result<(), LaunchError> {
    let runtimes = Container::runtimes(state);
    let mut failed = Ok(());
    let entries = std::fs::read_dir(folders(state)).into_iter().flatten();
    for entry in entries.filter_map(Result::ok) {
        let folder = Folder { path: entry.path() };
        let id = entry.file_name().to_string_lossy().into_owned();
        // Not ours, or somebody is at it, or is done with it.
        let Some(_lock) = folder.try_lock().ok().flatten() else {
            continue;
        };
        end_calls(&id, &runtimes);
        match clear_unknown(&id, &runtimes) {
            Ok(()) => folder.remove(),
            Err(error) => failed = Err(error),
        }
    }
    failed
}

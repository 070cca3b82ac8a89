//! What is left of a container when who carried it was killed.
//!
//! A monitor that is killed leaves its call of the OCI runtime running, as a
//! child of init: a `create` that has not ended will still make a container,
//! a `start` will still start one. Whoever comes next waits for such calls
//! before it judges or deletes anything; else what it deletes comes back.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup::{self, Cgroup};
use super::{By, Container, Folder, LaunchError, Oci, spec};

/// How long a call of a runtime may take to end by itself: a `create` takes a
/// fraction of a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long killed processes may take to be gone.
const DEATH: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// Calls that change a container. `exec` is a person's, and ends with it.
const CALLS: [&[u8]; 3] = [b"create", b"start", b"delete"];

/// Calls of runtimes that were under way at one moment. A call that is not
/// among them has ended, or was made by somebody who lives.
#[derive(Debug, Default)]
pub(crate) struct Calls(Vec<Call>);

#[derive(Debug)]
struct Call {
    pid: u32,
    pidfd: OwnedFd,
    line: Vec<u8>,
}

impl Calls {
    /// Those that keep their notes in this folder: their command lines name it.
    pub(crate) fn now(runtimes: &Path) -> Self {
        let is_call = |line: &[u8]| {
            has(line, runtimes.as_os_str().as_bytes()) && CALLS.iter().any(|call| has(line, call))
        };
        let own = std::process::id();
        let all = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != own)
            .filter_map(|pid| {
                let line = || {
                    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    is_call(&line).then_some(line)
                };
                line()?;
                // Looked at again: it is what was opened.
                let pidfd = open(pid)?;
                let line = line()?;
                Some(Call { pid, pidfd, line })
            });
        Self(all.collect())
    }

    /// Is one of them for this container?
    pub(crate) fn concern(&self, id: &str) -> bool {
        self.of(id).next().is_some()
    }

    fn of(&self, id: &str) -> impl Iterator<Item = &OwnedFd> {
        // The built-in runtime's clones have its command line; those in the
        // container's cgroup are the container.
        let inside = |pid| Cgroup::of(pid).is_ok_and(|c| c.belongs_to(id));
        self.0
            .iter()
            .filter(move |call| has(&call.line, id.as_bytes()) && !inside(call.pid))
            .map(|call| &call.pidfd)
    }
}

/// Is this one of the words of a command line?
fn has(line: &[u8], word: &[u8]) -> bool {
    line.split(|b| *b == 0).any(|w| w == word)
}

/// Waits until no call of the runtime is under way for this container; those
/// that do not end are killed.
pub(crate) fn end_calls(id: &str, runtimes: &Path) {
    let patience = Instant::now() + PATIENCE;
    let death = patience + DEATH;
    loop {
        let calls = Calls::now(runtimes);
        if !calls.concern(id) || Instant::now() > death {
            return;
        }
        let kill = Instant::now() > patience;
        for call in calls.of(id) {
            if kill {
                // Gone is fine.
                let _ = pidfd_send_signal(call, Signal::KILL);
            }
            let _ = poll(
                &mut [PollFd::new(call, PollFlags::IN)],
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 200_000_000,
                }),
            );
        }
    }
}

/// Was the process told to run its program? The runtime's own notes are not
/// asked first: one that was killed after it let the process go still says
/// that it waits.
pub(crate) fn was_started(container: &Container, folder: &Folder, pid: u32) -> bool {
    let By::Oci(oci) = &container.by else {
        // Noted before the gate was opened.
        return !container.waits(folder);
    };
    let runs = || {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|b| *b == 0).next() == Some(spec::INIT_PATH.as_bytes()))
    };
    runs() || {
        // It may have been let go, and not be there yet.
        let waits = oci.waits(&container.id);
        if waits {
            sleep(PAUSE * 4);
        }
        runs() || !waits
    }
}

/// Does a process of this workload live?
pub(crate) fn lives(id: &str) -> bool {
    cgroup::folders_of(id)
        .iter()
        .any(|folder| !processes(folder).is_empty())
}

/// The first process of a workload, if one lives: by the runtime's note, else
/// the one that is oldest by its number.
pub(crate) fn first_process(folder: &Folder, id: &str) -> Option<u32> {
    let noted = fs::read_to_string(folder.path.join("pid")).ok();
    let noted = noted.and_then(|text| text.trim().parse().ok());
    noted
        .filter(|pid| Cgroup::of(*pid).is_ok_and(|c| c.belongs_to(id)))
        .or_else(|| {
            let all = cgroup::folders_of(id);
            all.iter().flat_map(|f| processes(f)).min()
        })
}

/// Makes sure that nothing of a container is left: no call of its runtime, no
/// process, no cgroup, none of the launcher's notes.
///
/// # Errors
/// A process of it does not die, or the launcher cannot be asked.
pub(crate) async fn clear(container: &Container) -> Result<(), LaunchError> {
    let By::Oci(oci) = &container.by else {
        return container.delete().await;
    };
    let (id, oci) = (container.id.clone(), oci.clone());
    // It waits for processes: whoever serves others goes on meanwhile.
    let cleared = tokio::task::spawn_blocking(move || clear_oci(&id, &oci));
    cleared.await.unwrap_or_else(|e| {
        Err(LaunchError::Container {
            step: "deleted",
            why: e.to_string(),
        })
    })
}

fn clear_oci(id: &str, oci: &Oci) -> Result<(), LaunchError> {
    end_calls(id, &oci.runtime.root);
    let deleted = oci.delete(id);
    end_cgroups(id)?;
    if let Err(error) = deleted {
        // Of a container that was half made, a runtime may not know the way
        // back. Its processes are gone; what is left are its notes.
        tracing::debug!("{id}: {error}");
        oci.forget(id);
    }
    Ok(())
}

/// As [`clear`], of a container whose description cannot be read.
pub(crate) fn clear_unknown(id: &str, runtimes: &Path) -> Result<(), LaunchError> {
    end_cgroups(id)?;
    // Not there is fine.
    let _ = fs::remove_dir_all(runtimes.join(id));
    Ok(())
}

/// Kills what is in a container's cgroups and removes them.
fn end_cgroups(id: &str) -> Result<(), LaunchError> {
    let end = Instant::now() + DEATH;
    loop {
        let folders = cgroup::folders_of(id);
        if folders.is_empty() {
            return Ok(());
        }
        for folder in &folders {
            thaw(folder);
            for pid in processes(folder) {
                // Opened, then seen in its cgroup: not a stranger's number.
                if let Some(pidfd) = open(pid)
                    && Cgroup::of(pid).is_ok_and(|c| c.belongs_to(id))
                {
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                }
            }
            remove(folder);
        }
        if Instant::now() > end {
            return Err(LaunchError::Container {
                step: "deleted",
                why: format!(
                    "its processes did not end within {} s of SIGKILL (stuck in the kernel?): {}",
                    DEATH.as_secs(),
                    folders[0].display()
                ),
            });
        }
        if folders.iter().any(|f| f.exists()) {
            sleep(PAUSE);
        }
    }
}

/// A runtime that was killed while it signalled a frozen cgroup left it so,
/// and frozen processes do not die (freezer-subsystem.rst).
fn thaw(folder: &Path) {
    for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if folder.join(file).exists() {
            let _ = fs::write(folder.join(file), word);
        }
    }
}

/// The processes of a cgroup and those below it.
fn processes(folder: &Path) -> Vec<u32> {
    let own = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<u32> = own.lines().filter_map(|l| l.parse().ok()).collect();
    for below in below(folder) {
        all.extend(processes(&below));
    }
    all
}

/// Removes a cgroup and those below it, if they are empty.
fn remove(folder: &Path) {
    for below in below(folder) {
        remove(&below);
    }
    let _ = fs::remove_dir(folder);
}

fn below(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

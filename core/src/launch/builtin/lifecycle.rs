//! `start`, `kill`, `delete` and `state`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libcgroups::common::{AnyCgroupManager, CgroupConfig, CgroupManager, create_cgroup_manager};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::{Error, Result};
use super::store::{self, Container, Process, Status};
use super::{child, ffi};
use crate::failpoint::{Point, hit};

const SIGKILL: i32 = 9;
/// How long killed processes may take to be gone. One that is stuck in a
/// driver stays longer; the caller is told, and can call again.
const DEATH_DEADLINE: Duration = Duration::from_secs(10);
const DEATH_POLL: Duration = Duration::from_millis(10);
/// Within this time the clones of a killed create have ended or joined the cgroup.
const CLONES_SETTLE: Duration = Duration::from_millis(200);

/// Lets the waiting first process become the container's program.
pub(super) fn start(root: &Path, id: &str) -> Result<()> {
    let container = Container::open(root, id)?;
    if container.status() != Status::Created {
        return Err(container.wrong_state("start"));
    }
    let what = format!("cannot start container {id:?}");
    hit(Point::RuntimeStarts);
    container
        .runtime()?
        .start()
        .map_err(Error::libcontainer(what))?;
    hit(Point::RuntimeStarted);
    Ok(())
}

/// Sends a signal to the first process, or to every process of the container.
///
/// libcontainer's own kill marks the container stopped after any signal, and
/// could hit a stranger that has the number now.
pub(super) fn kill(root: &Path, id: &str, signal: i32, all: bool) -> Result<()> {
    let container = Container::open(root, id)?;
    if all {
        return signal_all(&cgroup(&container)?, signal);
    }
    let Some(init) = open_living(&container)? else {
        return Err(container.wrong_state("kill"));
    };
    ffi::pidfd_send_signal(init.as_fd(), signal).map_err(Error::io(format!(
        "cannot send signal {signal} to container {id:?}"
    )))
}

/// Removes a container; with `force`, also one that runs, or is not there.
pub(super) fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    store::sweep_drafts(root);
    let container = match Container::open(root, id) {
        Err(Error::NotFound(_)) if force => return Ok(()),
        container => container?,
    };
    match container.status() {
        Status::Stopped | Status::Created => {}
        _ if force => {}
        _ => return Err(container.wrong_state("delete")),
    }
    destroy(&container)
}

/// Kills what is left of a container and removes its cgroups and state.
pub(super) fn destroy(container: &Container) -> Result<()> {
    if let Some(init) = open_living(container)? {
        let what = format!("cannot kill container {:?}", container.id);
        ffi::pidfd_send_signal(init.as_fd(), SIGKILL).map_err(Error::io(what))?;
        wait_for_end(&init)?;
    }
    if container.record.init.is_none() {
        stop_creation(container)?;
    }
    hit(Point::RuntimeKilled);
    let cgroup = cgroup(container)?;
    let what = format!("cannot delete container {:?}", container.id);
    let deadline = Instant::now() + DEATH_DEADLINE;
    loop {
        // A cgroup that was never made has no processes: its error is none here.
        let is_empty = cgroup.get_all_pids().map_or(true, |pids| pids.is_empty());
        let removed = if is_empty {
            Some(cgroup.remove())
        } else {
            None
        };
        match removed {
            Some(Ok(())) => break,
            Some(Err(error)) if Instant::now() > deadline => {
                return Err(Error::libcontainer(what)(error));
            }
            None if Instant::now() > deadline => return Err(survivors()),
            None => signal_all(&cgroup, SIGKILL)?,
            Some(Err(_)) => {}
        }
        sleep(DEATH_POLL);
    }
    hit(Point::RuntimeEmptied);
    if let Ok(mut runtime) = container.runtime() {
        // Runs the poststop hooks.
        runtime.delete(true).map_err(Error::libcontainer(what))?;
    }
    container.remove()
}

/// Ends a create that has not ended: killed half-way, failed, or under way.
///
/// Its clones end when they miss their parent, or are in the cgroup by then.
fn stop_creation(container: &Container) -> Result<()> {
    let creator = container.record.creator;
    if creator == Process::own()? {
        child::reap_failed();
        return Ok(());
    }
    if let Ok(pidfd) = open_process(creator.pid)
        && creator.is_alive()
    {
        ffi::pidfd_send_signal(pidfd.as_fd(), SIGKILL)
            .map_err(Error::io("cannot stop the container's creation"))?;
        wait_for_end(&pidfd)?;
    }
    sleep(CLONES_SETTLE);
    Ok(())
}

/// The container's state as the OCI specification has it, and runc's extras.
pub(super) fn state(root: &Path, id: &str) -> Result<serde_json::Value> {
    let container = Container::open(root, id)?;
    let spec = container.spec()?;
    let status = container.status();
    let runtime = container.runtime().ok();
    let created = runtime.as_ref().and_then(|runtime| runtime.created());
    Ok(serde_json::json!({
        "ociVersion": spec.version(),
        "id": container.id,
        "status": status.as_str(),
        "pid": container.living_init().map_or(0, |init| init.pid),
        "bundle": container.record.bundle,
        "rootfs": spec.root().as_ref().map(oci_spec::runtime::Root::path),
        "created": created.map(|created| created.to_rfc3339()),
        "annotations": spec.annotations(),
        "owner": "",
    }))
}

/// The container's first process, held so that its number cannot change hands.
fn open_living(container: &Container) -> Result<Option<OwnedFd>> {
    let Some(init) = container.record.init else {
        return Ok(None);
    };
    match open_process(init.pid) {
        // Looked at after opening: what is alive now is what was opened.
        Ok(pidfd) => Ok(init.is_alive().then_some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(Error::io(format!("cannot open process {}", init.pid))(
            error,
        )),
    }
}

pub(super) fn open_process(pid: i32) -> rustix::io::Result<OwnedFd> {
    pidfd_open(
        Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?,
        PidfdFlags::empty(),
    )
}

fn wait_for_end(process: &OwnedFd) -> Result<()> {
    let deadline = Timespec {
        tv_sec: DEATH_DEADLINE.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    match poll(&mut polled, Some(&deadline)) {
        Ok(0) => Err(survivors()),
        Ok(_) => Ok(()),
        Err(error) => Err(Error::io("cannot wait for the container's end")(error)),
    }
}

fn survivors() -> Error {
    Error::Usage(format!(
        "the container's processes did not end within {} s of SIGKILL (stuck in the kernel?)",
        DEATH_DEADLINE.as_secs()
    ))
}

fn signal_all(cgroup: &AnyCgroupManager, signal: i32) -> Result<()> {
    let pids = cgroup
        .get_all_pids()
        .map_err(Error::libcontainer("cannot list the container's processes"))?;
    for pid in pids {
        // Opened, then seen in the cgroup again: not a stranger's number.
        let Ok(pidfd) = open_process(pid.as_raw()) else {
            continue;
        };
        let still = cgroup.get_all_pids().is_ok_and(|pids| pids.contains(&pid));
        if still && Process::living(pid.as_raw()).is_some() {
            // A process that ended meanwhile is what was wanted.
            let _ = ffi::pidfd_send_signal(pidfd.as_fd(), signal);
        }
    }
    Ok(())
}

fn cgroup(container: &Container) -> Result<AnyCgroupManager> {
    create_cgroup_manager(CgroupConfig {
        cgroup_path: container.record.cgroup.clone(),
        systemd_cgroup: false,
        container_name: container.id.clone(),
    })
    .map_err(Error::libcontainer("cannot open the container's cgroup"))
}

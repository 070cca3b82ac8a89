//! `exec`: one more process in a running container.

use std::fs;
use std::path::{Path, PathBuf};

use libcontainer::container::State;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{BoxBuilder, Process, Spec};

use super::console::{self, ConsoleSocket};
use super::create;
use super::error::{Error, Result};
use super::executor::Launch;
use super::hardening::{self, DeviceGuard};
use super::seccomp::Filters;
use super::store::{self, Container, Status};
use super::{ffi, foreground};

/// What `exec` is asked.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub root: &'a Path,
    pub id: &'a str,
    pub process: Option<&'a Path>,
    pub command: &'a [String],
    pub cwd: Option<&'a Path>,
    pub env: &'a [String],
    pub tty: bool,
    pub detach: bool,
    pub pid_file: Option<&'a Path>,
    pub console_socket: Option<&'a Path>,
}

/// Runs the process; returns its exit status, or 0 at once if detached.
pub(super) fn exec(request: &Request<'_>) -> Result<u8> {
    let container = Container::open(request.root, request.id)?;
    if container.status() != Status::Running {
        return Err(container.wrong_state("exec in"));
    }
    let mut spec = container.spec()?;
    let process = describe(request, &spec)?;
    let terminal = process.terminal() == Some(true);
    if !terminal && request.console_socket.is_some() {
        return Err(Error::Usage(
            "--console-socket needs a terminal (--tty)".to_owned(),
        ));
    }
    if terminal && request.detach && request.console_socket.is_none() {
        return Err(Error::Usage(
            "--detach with a terminal needs --console-socket".to_owned(),
        ));
    }
    spec.set_process(Some(process));
    let launch = Launch::under(Filters::of(&spec)?);
    // Before the child exists, so that no SIGCHLD or SIGTERM is lost. The child
    // starts with all signals unblocked (executor).
    let signals = (!request.detach)
        .then(ffi::take_all_signals)
        .transpose()
        .map_err(Error::io("cannot take signals"))?;

    let folder = Folder::make(&container, spec)?;
    let started = start(request, &folder, terminal, launch);
    let _ = fs::remove_dir_all(&folder.dir);
    let (pid, master) = started?;
    create::write_pid_file(request.pid_file, pid)?;
    match signals {
        None => Ok(0),
        Some(signals) => foreground::stand_in(pid, &signals, master),
    }
}

fn start(
    request: &Request<'_>,
    folder: &Folder,
    terminal: bool,
    launch: Launch,
) -> Result<(i32, Option<std::os::fd::OwnedFd>)> {
    let own = match (terminal, request.console_socket) {
        (true, None) => Some(ConsoleSocket::listen(&folder.dir)?),
        _ => None,
    };
    let console = match (&own, request.console_socket) {
        (Some(own), _) => Some(own.path().to_owned()),
        (None, socket) => socket.map(create::absolute).transpose()?,
    };
    let what = format!("cannot exec in container {:?}", request.id);
    let pid = ContainerBuilder::new(request.id.to_owned(), SyscallType::default())
        .with_executor(launch)
        .with_console_socket(console)
        .with_root_path(folder.dir.join("runtime"))
        .map_err(Error::libcontainer(&what))?
        .as_tenant()
        .with_process(Some(folder.dir.join("process.json")))
        // Only decides whether a terminal goes to a socket; it always does.
        .with_detach(true)
        .build()
        .map_err(Error::libcontainer(&what))?;
    Ok((pid.as_raw(), own.map(|own| own.receive()).transpose()?))
}

/// The process to run: the caller's file, or the container's first process with
/// another command, as in runc.
fn describe(request: &Request<'_>, spec: &Spec) -> Result<Process> {
    let first = spec.process().as_ref();
    let mut process: Process = match (request.process, request.command) {
        (Some(_), [_, ..]) => {
            return Err(Error::Usage(
                "either --process or a command, not both".to_owned(),
            ));
        }
        (Some(file), []) => store::load_json(file)?,
        (None, []) => return Err(Error::Usage("no command and no --process given".to_owned())),
        (None, command) => {
            let mut process = first.cloned().unwrap_or_default();
            process
                .set_args(Some(command.to_owned()))
                .set_terminal(None)
                .set_console_size(None);
            process
        }
    };
    if let Some(cwd) = request.cwd {
        process.set_cwd(cwd.to_owned());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend_from_slice(request.env);
    process.set_env(Some(env));
    if request.tty {
        process.set_terminal(Some(true));
    }
    if process.terminal() == Some(true) && process.console_size().is_none() {
        process.set_console_size(console::own_size().and_then(|own| {
            BoxBuilder::default()
                .height(own.ws_row)
                .width(own.ws_col)
                .build()
                .ok()
        }));
    }
    hardening::harden_process(&mut process, first, DeviceGuard::detect()?)?;
    Ok(process)
}

/// libcontainer leaves its sockets behind in the folder it is given; so every
/// exec has a folder of its own, which goes when the process has started.
struct Folder {
    dir: PathBuf,
}

impl Folder {
    fn make(container: &Container, spec: Spec) -> Result<Self> {
        let dir = container.dir.join(format!("exec-{}", std::process::id()));
        // Left by a process that had our number and was killed.
        let _ = fs::remove_dir_all(&dir);
        let runtime = dir.join("runtime").join(&container.id);
        // One by one: a container that is deleted meanwhile must not have its
        // folder back.
        for folder in [&dir, &dir.join("runtime"), &runtime] {
            store::make_private_dir(folder, false)?;
        }
        store::save_json(&dir.join("process.json"), &spec.process())?;
        let spec = create::for_libcontainer(spec, None);
        store::save_json(&dir.join("config.json"), &spec)?;
        let mut state: State = container.runtime()?.state;
        state.bundle = dir.clone();
        store::save_json(&State::file_path(&runtime), &state)?;
        Ok(Self { dir })
    }
}

#[cfg(test)]
mod tests {
    use super::{Container, Folder, Spec, store};

    fn claimed(root: &std::path::Path) -> Container {
        let record = store::Record {
            bundle: "/nowhere".into(),
            cgroup: "/nowhere".into(),
            creator: store::Process::own().unwrap(),
            init: None,
        };
        Container::claim(root, "w", record, &Spec::default()).unwrap()
    }

    /// Found by `cargo xtask soak`.
    #[test]
    fn an_exec_does_not_bring_a_deleted_containers_folder_back() {
        let root = tempfile::tempdir().unwrap();
        let container = claimed(root.path());
        container.remove().unwrap();
        assert!(Folder::make(&container, Spec::default()).is_err());
        assert!(!container.dir.exists());
    }

    #[test]
    fn a_folder_that_is_filled_meanwhile_is_removed_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        let container = claimed(root.path());
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0.. {
                    // As execs do, for a while.
                    let _ = std::fs::create_dir(container.dir.join(format!("exec-{n}")));
                    if over.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            let removed = container.remove();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            removed.unwrap();
        });
        assert!(!container.dir.exists());
    }
}

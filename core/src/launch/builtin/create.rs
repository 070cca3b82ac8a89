//! `create`: a container whose first process waits for `start`.

use std::fs;
use std::path::{Component, Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use super::error::{Error, Result};
use super::executor::Launch;
use super::ffi;
use super::hardening::{self, DeviceGuard};
use super::lifecycle;
use super::network::NetworkNamespace;
use super::seccomp::Filters;
use super::store::{self, Container, Process, Record};
use crate::failpoint::{Point, hit};

/// Where containers whose bundle names no cgroup go.
const DEFAULT_CGROUP_PARENT: &str = "/divvy";

/// What `create` is asked.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub root: &'a Path,
    pub id: &'a str,
    pub bundle: &'a Path,
    pub pid_file: Option<&'a Path>,
    pub console_socket: Option<&'a Path>,
}

/// Creates the container, or leaves nothing behind.
pub(super) fn create(request: &Request<'_>) -> Result<()> {
    let bundle =
        fs::canonicalize(request.bundle).map_err(Error::path("find bundle", request.bundle))?;
    let mut spec: Spec = store::load_json(&bundle.join("config.json"))?;
    let guard = DeviceGuard::detect()?;
    let cgroup = resolve(&mut spec, &bundle, request.id)?;
    hardening::harden(&mut spec, guard)?;
    let filters = Filters::of(&spec)?;
    let console = console_socket(&spec, request.console_socket)?;

    let record = Record {
        bundle,
        cgroup,
        creator: Process::own()?,
        init: None,
    };
    let mut container = Container::claim(request.root, request.id, record, &spec)?;
    hit(Point::RuntimeClaimed);
    let created = build(&mut container, spec, guard, Launch::under(filters), console)
        .and_then(|pid| write_pid_file(request.pid_file, pid));
    if created.is_err() {
        // The first error is the one to tell; this is the best that can be done.
        let _ = lifecycle::destroy(&container);
    }
    created
}

/// Makes the paths of the specification absolute; returns its cgroup.
fn resolve(spec: &mut Spec, bundle: &Path, id: &str) -> Result<PathBuf> {
    let missing = |what: &str| Error::Spec(format!("it has no {what}"));
    let root = spec.root_mut().as_mut().ok_or_else(|| missing("root"))?;
    let path = bundle.join(root.path());
    let path = fs::canonicalize(&path).map_err(Error::path("find root filesystem", &path))?;
    if path == Path::new("/") {
        return Err(Error::Spec(
            "root.path must not be the host's own root".to_owned(),
        ));
    }
    root.set_path(path);
    let linux = spec
        .linux_mut()
        .as_mut()
        .ok_or_else(|| missing("linux section"))?;
    let cgroup = match linux.cgroups_path() {
        Some(path) => Path::new("/").join(path),
        None => Path::new(DEFAULT_CGROUP_PARENT).join(id),
    };
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !cgroup.components().all(is_plain) || cgroup == Path::new("/") {
        return Err(Error::Spec(format!(
            "linux.cgroupsPath {:?} is not usable",
            cgroup.display()
        )));
    }
    linux.set_cgroups_path(Some(cgroup.clone()));
    Ok(cgroup)
}

/// A terminal needs somewhere to send its master end, and only a terminal does.
fn console_socket(spec: &Spec, socket: Option<&Path>) -> Result<Option<PathBuf>> {
    let terminal = spec
        .process()
        .as_ref()
        .and_then(oci_spec::runtime::Process::terminal);
    match (terminal.unwrap_or(false), socket) {
        (true, None) => Err(Error::Usage(
            "process.terminal is set: --console-socket is needed".to_owned(),
        )),
        (false, Some(_)) => Err(Error::Usage(
            "--console-socket needs process.terminal".to_owned(),
        )),
        (_, socket) => socket.map(absolute).transpose(),
    }
}

/// libcontainer uses the socket's path from another folder.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(Error::path("find", path))
}

fn build(
    container: &mut Container,
    spec: Spec,
    guard: DeviceGuard,
    launch: Launch,
    console: Option<PathBuf>,
) -> Result<i32> {
    if guard == DeviceGuard::MountFlags {
        forbid_devices_in_root(&spec)?;
    }
    let network = own_network(&spec)
        .then(NetworkNamespace::with_loopback)
        .transpose()?;
    let bundle = container.dir.join("bundle");
    store::make_private_dir(&bundle, false)?;
    let spec = for_libcontainer(spec, network.as_ref());
    store::save_json(&bundle.join("config.json"), &spec)?;

    let what = format!("cannot create container {:?}", container.id);
    let runtime = ContainerBuilder::new(container.id.clone(), SyscallType::default())
        .with_executor(launch)
        .with_console_socket(console)
        .with_root_path(container.runtime_root())
        .map_err(Error::libcontainer(&what))?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(Error::libcontainer(&what))?;
    hit(Point::RuntimeBuilt);
    let pid = runtime
        .pid()
        .ok_or_else(|| Error::Bug("a created container has no pid".to_owned()))?;
    let init = Process::living(pid.as_raw());
    let init =
        init.ok_or_else(|| Error::Bug(format!("{what}: its first process ended at once")))?;
    container.record.init = Some(init);
    container.save_record()?;
    hit(Point::RuntimeRecorded);
    Ok(init.pid)
}

/// Whether the container is to get a network namespace that does not exist yet.
fn own_network(spec: &Spec) -> bool {
    spec.linux()
        .iter()
        .flat_map(|linux| linux.namespaces().iter().flatten())
        .any(|namespace| {
            namespace.typ() == LinuxNamespaceType::Network
                && namespace
                    .path()
                    .as_ref()
                    .is_none_or(|path| path.as_os_str().is_empty())
        })
}

/// The specification without what this runtime does itself: seccomp, and making
/// the network namespace.
pub(super) fn for_libcontainer(mut spec: Spec, network: Option<&NetworkNamespace>) -> Spec {
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(None);
        if let Some(network) = network {
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            for namespace in &mut namespaces {
                if namespace.typ() == LinuxNamespaceType::Network {
                    namespace.set_path(Some(network.path()));
                }
            }
            linux.set_namespaces(Some(namespaces));
        }
    }
    spec
}

/// Without a device filter, nodes in the root filesystem itself (an image may
/// bring them) must not work: it is mounted `nodev`, in a mount namespace of
/// this process that the container's is copied from. `/dev` must then be a
/// mount of its own, which libcontainer fills from `linux.devices`.
fn forbid_devices_in_root(spec: &Spec) -> Result<()> {
    let mut mounts = spec.mounts().iter().flatten();
    let fresh_dev = |mount: &oci_spec::runtime::Mount| {
        mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs")
    };
    if !mounts.any(fresh_dev) {
        return Err(Error::Spec(
            "on cgroup v2, /dev must be a tmpfs mount".to_owned(),
        ));
    }
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::Spec("it has no root".to_owned()))?
        .path();
    ffi::unshare(UnshareFlags::NEWNS).map_err(Error::io("cannot make a mount namespace"))?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave)
        .map_err(Error::io("cannot detach the mount namespace"))?;
    rustix::mount::mount_bind_recursive(root, root).map_err(Error::path("bind", root))?;
    ffi::forbid_devices_below(root).map_err(Error::path("forbid device nodes below", root))
}

/// Writes a process number as the caller asked, whole or not at all.
pub(super) fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<()> {
    path.map_or(Ok(()), |path| {
        store::replace_file(path, pid.to_string().as_bytes(), 0o644)
    })
}

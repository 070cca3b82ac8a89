//! The bundle's specification, made safe and complete for libcontainer.
//!
//! Checks what libcontainer leaves unchecked, fills in what it would leave
//! open (an absent capability set means "keep all" to it, an absent list of
//! groups "keep the caller's"), and closes the gap of cgroup v2.

use std::path::{Component, Path};

use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxDeviceCgroup, LinuxNamespaceType, Mount, Process, Spec,
};
use rustix::fs::FileType;

use super::error::{Error, Result};

/// `f_type` of a cgroup2 filesystem (linux/magic.h).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Who keeps a container from devices it was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceGuard {
    /// cgroup v1's devices controller: as with runc.
    Controller,
    /// cgroup v2: libcontainer (without libbpf) installs no filter. So the
    /// container can make no node (no `CAP_MKNOD`), and a node works nowhere
    /// but in the `/dev` built from `linux.devices` (`nodev` elsewhere).
    MountFlags,
}

impl DeviceGuard {
    /// The one this machine needs.
    pub(super) fn detect() -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let filesystem = rustix::fs::statfs(root).map_err(Error::path("examine", root))?;
        Ok(match filesystem.f_type {
            CGROUP2_SUPER_MAGIC => Self::MountFlags,
            _ => Self::Controller,
        })
    }
}

/// Checks a bundle's specification and hardens it in place.
pub(super) fn harden(spec: &mut Spec, guard: DeviceGuard) -> Result<()> {
    let process = spec
        .process_mut()
        .as_mut()
        .ok_or_else(|| refused("it has no process"))?;
    harden_process(process, None, guard)?;
    let linux = spec
        .linux_mut()
        .as_mut()
        .ok_or_else(|| refused("it has no linux section"))?;
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    if namespaces
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::User)
    {
        return Err(refused(
            "user namespaces are not supported by the built-in runtime",
        ));
    }
    if !namespaces
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Mount)
    {
        return Err(refused("it has no mount namespace of its own"));
    }
    // Deny first, whatever the bundle says: the allow rules follow.
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = vec![deny_all()];
    rules.extend(resources.devices().iter().flatten().cloned());
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    if guard == DeviceGuard::MountFlags {
        spec.mounts_mut()
            .iter_mut()
            .flatten()
            .for_each(forbid_devices);
    }
    Ok(())
}

/// The same for one process of it; an exec takes what its own description
/// leaves out from `container`, the description of the container's first one.
pub(super) fn harden_process(
    process: &mut Process,
    container: Option<&Process>,
    guard: DeviceGuard,
) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(refused("process.args is empty"));
    }
    check_working_directory(process.cwd())?;
    let inherited = container.and_then(|container| container.capabilities().as_ref());
    let mut capabilities = process.capabilities().clone().or(inherited.cloned());
    let complete = complete(capabilities.take(), guard);
    process.set_capabilities(Some(complete));
    if container.and_then(Process::no_new_privileges) == Some(true) {
        process.set_no_new_privileges(Some(true));
    }
    Ok(())
}

/// Every set present, so that none is kept from the runtime itself.
fn complete(capabilities: Option<LinuxCapabilities>, guard: DeviceGuard) -> LinuxCapabilities {
    let given = capabilities.as_ref();
    let close = |set: Option<&std::collections::HashSet<Capability>>| {
        let mut set = set.cloned().unwrap_or_default();
        if guard == DeviceGuard::MountFlags {
            set.remove(&Capability::Mknod);
        }
        Some(set)
    };
    let mut complete = LinuxCapabilities::default();
    complete.set_bounding(close(given.and_then(|c| c.bounding().as_ref())));
    complete.set_effective(close(given.and_then(|c| c.effective().as_ref())));
    complete.set_inheritable(close(given.and_then(|c| c.inheritable().as_ref())));
    complete.set_permitted(close(given.and_then(|c| c.permitted().as_ref())));
    complete.set_ambient(close(given.and_then(|c| c.ambient().as_ref())));
    complete
}

/// CVE-2024-21626: a working directory in /proc may be a leaked descriptor of
/// the host's. Links inside the root are caught later, by libcontainer's getcwd
/// check.
fn check_working_directory(cwd: &Path) -> Result<()> {
    let in_proc = cwd.components().find(|part| *part != Component::RootDir)
        == Some(Component::Normal("proc".as_ref()));
    let has_parent = cwd.components().any(|part| part == Component::ParentDir);
    if !cwd.is_absolute() || has_parent || in_proc || cwd.to_string_lossy().contains('\0') {
        return Err(refused(format!(
            "process.cwd {:?} must be absolute, without `..` and outside /proc",
            cwd.display()
        )));
    }
    Ok(())
}

fn deny_all() -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(false);
    rule.set_access(Some("rwm".to_owned()));
    rule
}

/// Makes device nodes below a bind mount unusable, unless it is a node itself
/// (which the caller granted).
fn forbid_devices(mount: &mut Mount) {
    let mut options = mount.options().clone().unwrap_or_default();
    let recursive = options.iter().any(|option| option == "rbind");
    if !recursive && !options.iter().any(|option| option == "bind") {
        return;
    }
    let is_node = mount.source().as_ref().is_some_and(|source| {
        rustix::fs::stat(source).is_ok_and(|stat| {
            let kind = FileType::from_raw_mode(stat.st_mode);
            kind == FileType::CharacterDevice || kind == FileType::BlockDevice
        })
    });
    if !is_node {
        options.retain(|option| option != "dev" && option != "rdev");
        options.push("nodev".to_owned());
        if recursive {
            options.push("rnodev".to_owned());
        }
        mount.set_options(Some(options));
    }
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Spec(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> Spec {
        serde_json::from_value(json).unwrap()
    }

    fn minimal() -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/",
                "capabilities": {"bounding": ["CAP_MKNOD", "CAP_KILL"]}},
            "mounts": [
                {"destination": "/data", "source": "/tmp", "options": ["rbind", "rw"]},
                {"destination": "/dev/null", "source": "/dev/null", "options": ["bind"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}],
            "linux": {"namespaces": [{"type": "mount"}]}
        })
    }

    #[test]
    fn an_absent_capability_set_is_an_empty_one() {
        let mut spec = spec(minimal());
        harden(&mut spec, DeviceGuard::Controller).unwrap();
        let process = spec.process().clone().unwrap();
        let capabilities = process.capabilities().clone().unwrap();
        assert_eq!(capabilities.effective().clone(), Some(Default::default()));
        assert!(
            capabilities
                .bounding()
                .clone()
                .unwrap()
                .contains(&Capability::Mknod)
        );
    }

    #[test]
    fn without_a_device_filter_nodes_can_be_neither_made_nor_used() {
        let mut spec = spec(minimal());
        harden(&mut spec, DeviceGuard::MountFlags).unwrap();
        let process = spec.process().clone().unwrap();
        let bounding = process
            .capabilities()
            .clone()
            .unwrap()
            .bounding()
            .clone()
            .unwrap();
        assert_eq!(bounding, [Capability::Kill].into());
        let options: Vec<_> = spec
            .mounts()
            .clone()
            .unwrap()
            .iter()
            .map(|m| m.options().clone())
            .collect();
        let data: Vec<String> = ["rbind", "rw", "nodev", "rnodev"].map(str::to_owned).into();
        assert_eq!(options, [Some(data), Some(vec!["bind".to_owned()]), None]);
    }

    #[test]
    fn devices_are_denied_before_any_is_allowed() {
        let mut spec = spec(minimal());
        harden(&mut spec, DeviceGuard::Controller).unwrap();
        let rules = spec
            .linux()
            .clone()
            .unwrap()
            .resources()
            .clone()
            .unwrap()
            .devices()
            .clone()
            .unwrap();
        assert_eq!(rules[0].to_string(), "a *:* rwm");
        assert!(!rules[0].allow());
    }

    #[test]
    fn working_directories_in_proc_are_refused() {
        for cwd in [
            "/proc/self/fd/7",
            "//proc/1",
            "/./proc",
            "/tmp/../proc/self/cwd",
            "tmp",
            "",
        ] {
            assert!(
                check_working_directory(Path::new(cwd)).is_err(),
                "{cwd:?} was taken"
            );
        }
        for cwd in ["/", "/work", "/process", "/a/proc"] {
            assert!(
                check_working_directory(Path::new(cwd)).is_ok(),
                "{cwd:?} was refused"
            );
        }
    }

    #[test]
    fn an_exec_keeps_the_containers_restrictions() {
        let mut container = spec(minimal()).process().clone().unwrap();
        container.set_no_new_privileges(Some(true));
        let json = serde_json::json!({"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"});
        let mut process: Process = serde_json::from_value(json).unwrap();
        process.set_capabilities(None);
        harden_process(&mut process, Some(&container), DeviceGuard::MountFlags).unwrap();
        assert_eq!(process.no_new_privileges(), Some(true));
        let bounding = process
            .capabilities()
            .clone()
            .unwrap()
            .bounding()
            .clone()
            .unwrap();
        assert_eq!(bounding, [Capability::Kill].into());
    }
}

//! What of the host a container may see.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::source::sees;
use super::{FileId, Identity, LaunchError, Source};
use crate::model::Edits;

/// A file or folder of the host in a container. The source is canonical.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindMount {
    /// On the host; no symbolic links.
    pub source: PathBuf,
    /// In the container.
    pub target: String,
    /// May it be written?
    pub read_only: bool,
    /// Which file or folder the source was when it was looked at: what is mounted
    /// must be that. Nobody's word: whoever looks writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub id: Option<FileId>,
}

/// Why something cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Not `SRC:DST[:ro]`.
    #[error("-v {0:?} is not SOURCE:TARGET or SOURCE:TARGET:ro with absolute paths")]
    Syntax(String),
    /// The source.
    #[error("-v {0}: {1}")]
    Source(String, std::io::Error),
    /// A rule.
    #[error("-v {source_path}: {why}")]
    Forbidden {
        /// What was asked for.
        source_path: String,
        /// The rule.
        why: String,
    },
    /// No place for it in another mount.
    #[error(
        "-v {source_path}:{target}: there is no {point} to mount it on, and Divvy makes nothing in a folder of the host; make it first: {remedy} {point}"
    )]
    NoPoint {
        /// What was asked for.
        source_path: String,
        /// Where.
        target: String,
        /// On the host.
        point: String,
        /// The command that makes it.
        remedy: &'static str,
    },
}

impl MountError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPoint { .. } => "mount_point_missing",
            _ => "invalid_mount",
        }
    }
}

/// Where container engines listen; whoever reaches one is root (S10).
const ENGINE_SOCKETS: [&str; 6] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/docker/containerd/containerd.sock",
];

/// Reads and checks a user's `SRC:DST[:ro|:rw]`. `state` is Divvy's own
/// folder, which never enters a container.
///
/// # Errors
/// [`MountError`].
pub fn check_user_mount(text: &str, state: &Path) -> Result<BindMount, MountError> {
    let syntax = || MountError::Syntax(text.to_owned());
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => return Err(syntax()),
    };
    if !is_plain(target) {
        return Err(syntax());
    }
    let seen =
        Source::look(Path::new(source)).map_err(|e| MountError::Source(source.to_owned(), e))?;
    check_source(&seen, state)
        .and_then(|()| check_target(target))
        .map_err(|why| MountError::Forbidden {
            source_path: source.to_owned(),
            why,
        })?;
    Ok(BindMount {
        source: seen.path,
        target: target.to_owned(),
        // What is read-only on the host stays so.
        read_only: read_only || seen.read_only,
        id: Some(seen.id),
    })
}

/// Is there a place for each of a user's mounts that lies below another mount?
/// None is made there: it would be made as root, and stay. `given` are mounted
/// before the user's `own`. A place that the caller could not see themselves
/// counts as none, and so does a link, which may lead anywhere.
///
/// Only what it is called is looked at, so that there is a good word for it;
/// what a link of the root hides fails later, at a mount that is read-only.
///
/// # Errors
/// [`MountError::NoPoint`].
pub(crate) fn check_mount_points(
    (given, own): (&[BindMount], &[BindMount]),
    caller: &Identity,
) -> Result<(), MountError> {
    for (at, mount) in own.iter().enumerate() {
        // Engines order them by depth, runtimes do not.
        let others = own.iter().enumerate().filter(|(other, _)| *other != at);
        let others = given.iter().chain(others.map(|(_, m)| m));
        let below = |outer: &&BindMount| {
            let target = Path::new(&mount.target);
            target != Path::new(&outer.target) && target.starts_with(&outer.target)
        };
        let outer = others.filter(below).max_by_key(|m| m.target.len());
        let Some(outer) = outer else { continue };
        let rest = Path::new(&mount.target).strip_prefix(&outer.target);
        let point = outer.source.join(rest.unwrap_or(Path::new("")));
        if !sees(caller, &point) {
            return Err(MountError::NoPoint {
                source_path: mount.source.display().to_string(),
                target: mount.target.clone(),
                point: point.display().to_string(),
                remedy: if mount.source.is_dir() {
                    "mkdir -p"
                } else {
                    "touch"
                },
            });
        }
    }
    Ok(())
}

/// Looks at the files that a plugin wants mounted (S5): there, what they say
/// they are, and nobody's but root's.
///
/// # Errors
/// The rule that one breaks.
pub(crate) fn check_plugin_mounts(edits: &Edits, state: &Path) -> Result<(), LaunchError> {
    for mount in &edits.mounts {
        let source = Path::new(&mount.source);
        let refuse = |why: String| {
            Err(LaunchError::Forbidden(format!(
                "a plugin wants {} mounted: {why}",
                mount.source
            )))
        };
        let seen = match Source::look(source) {
            Ok(seen) => seen,
            Err(error) => return refuse(error.to_string()),
        };
        if seen.path != source {
            return refuse(format!("it is a symbolic link to {}", seen.path.display()));
        }
        let meta = match std::fs::symlink_metadata(source) {
            Ok(meta) => meta,
            Err(error) => return refuse(error.to_string()),
        };
        if !(meta.is_file() || meta.is_dir()) {
            return refuse("it is neither a regular file nor a folder".into());
        }
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return refuse("others than root can change it".into());
        }
        if let Err(why) = check_source(&seen, state) {
            return refuse(why);
        }
    }
    Ok(())
}

/// Is this an absolute path with nothing clever in it?
fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains('\0')
        && Path::new(path)
            .components()
            .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

fn check_target(target: &str) -> Result<(), String> {
    let path = Path::new(target);
    if path == Path::new("/") {
        return Err("it cannot be mounted over the container's root".into());
    }
    match ["/proc", "/sys", "/dev"]
        .into_iter()
        .find(|root| path.starts_with(root))
    {
        // Where programs look for big scratch files.
        Some("/dev") if path.starts_with("/dev/shm") => Ok(()),
        Some(root) => Err(format!(
            "nothing can be mounted under {root} of a container"
        )),
        None => Ok(()),
    }
}

/// What may never be a source, whatever it is called: engine sockets and what
/// contains them, Divvy's state, kernel file systems, devices.
pub(super) fn check_source(seen: &Source, state: &Path) -> Result<(), String> {
    let real = &seen.path;
    for root in ["/proc", "/sys", "/dev"] {
        if real.starts_with(root) {
            return Err(format!("{root} is never mounted into a container"));
        }
    }
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    if real.starts_with(&state) || state.starts_with(real) {
        return Err(format!("it holds Divvy's own state ({})", state.display()));
    }
    if matches!(seen.kind, FileType::BlockDevice | FileType::CharacterDevice) {
        return Err("devices are granted, not mounted; see `divvy devices`".into());
    }
    ENGINE_SOCKETS
        .iter()
        .try_for_each(|socket| check_socket(real, Some(seen.id), Path::new(socket)))
}

/// Would this show an engine's socket? By device and inode: hard links and
/// renamed sockets are the same.
pub(crate) fn check_socket(real: &Path, id: Option<FileId>, socket: &Path) -> Result<(), String> {
    let Ok(socket_seen) = Source::look(socket) else {
        return Ok(());
    };
    let Some(id) = id.or_else(|| FileId::at(real).ok()) else {
        return Ok(());
    };
    if socket_seen.id == id || socket_seen.path.starts_with(real) {
        return Err(format!(
            "it would show {}, whose holder is root on this machine",
            socket.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<BindMount, String> {
        check_user_mount(text, Path::new("/var/lib/divvy-test")).map_err(|e| e.to_string())
    }

    #[test]
    fn plain_mounts_pass_with_their_real_source() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/usr", &link).unwrap();
        let mount = check(&format!("{}:/data:ro", link.display())).unwrap();
        assert_eq!(
            (mount.source.to_str(), mount.read_only),
            (Some("/usr"), true)
        );
    }

    #[test]
    fn a_plugins_mounts_are_roots_own_plain_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let check = |source: &Path| {
            let mount = crate::model::Mount {
                source: source.display().to_string(),
                target: "/x".into(),
            };
            let edits = Edits {
                mounts: vec![mount],
                ..Edits::default()
            };
            check_plugin_mounts(&edits, Path::new("/var/lib/divvy-test")).map_err(|e| e.to_string())
        };
        let file = dir.path().join("lib.so");
        std::fs::write(&file, "").unwrap();
        if crate::sys::is_root() {
            assert_eq!(check(&file), Ok(()));
        }
        let link = dir.path().join("link.so");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(check(&link).unwrap_err().contains("symbolic link"));
        assert!(
            check(&dir.path().join("none"))
                .unwrap_err()
                .contains("No such file")
        );
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(check(&file).unwrap_err().contains("others than root"));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(
            check(&socket)
                .unwrap_err()
                .contains("neither a regular file")
        );
    }

    #[test]
    fn what_would_hand_over_the_host_is_refused() {
        for (text, why) in [
            ("/usr", "not SOURCE:TARGET"),
            ("/usr:relative", "not SOURCE:TARGET"),
            ("/usr:/a/../b", "not SOURCE:TARGET"),
            ("/usr:/a:rx", "not SOURCE:TARGET"),
            ("/nonexistent:/a", "No such file"),
            ("/usr:/", "over the container's root"),
            ("/usr:/proc/x", "under /proc"),
            ("/usr:/dev/x", "under /dev"),
            ("/proc/1:/a", "/proc is never"),
            ("/dev/null:/a", "/dev is never"),
            ("/sys:/a", "/sys is never"),
            ("/:/host", "Divvy's own state"),
            ("/var/lib:/a", "Divvy's own state"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

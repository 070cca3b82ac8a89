//! What the container's root is made of: something read-only of the host's,
//! with a private writable layer over it that ends with the container.
//!
//! The mounts are made in the monitor's own mount namespace: nothing is left
//! mounted on the host, however the monitor ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};

use super::mounts::{self, BindMount};
use super::{FileId, Folder, LaunchError, Source};

/// Where the root comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The host's own root.
    Host,
    /// A folder.
    Folder(PathBuf),
    /// Unpacked image layers, lowest first.
    Layers(Vec<PathBuf>),
}

/// At most so many discarded files are named.
const NAMED: usize = 10;
/// File systems of the host that hold files of people, which a container on
/// the host's root sees read-only. Everything else is the machine's own.
const REAL: [&str; 18] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "nfs", "nfs4", "cifs", "smb3", "ceph",
    "lustre", "gpfs", "beegfs", "9p", "virtiofs", "squashfs",
];

/// Makes the root in this process's mount namespace; returns where it is. `id` is
/// which folder it should be, if it is one.
///
/// # Errors
/// It is another one by now; or the kernel's.
pub(crate) fn assemble(
    root: &Root,
    id: Option<FileId>,
    folder: &Folder,
) -> Result<PathBuf, LaunchError> {
    let (rootfs, layer) = (folder.rootfs(), folder.layer());
    let empty = folder.path.join("empty");
    for dir in [&rootfs, &layer, &empty] {
        fs::create_dir_all(dir).map_err(LaunchError::file("cannot make", dir))?;
    }
    let lowers: Vec<PathBuf> = match root {
        Root::Host => vec!["/".into()],
        Root::Folder(path) => vec![path.clone()],
        Root::Layers(layers) if layers.is_empty() => vec![empty],
        // overlayfs wants the topmost first.
        Root::Layers(layers) => layers.iter().rev().cloned().collect(),
    };
    if overlaps(&lowers, &layer).map_err(LaunchError::file("cannot read", &layer))? {
        // overlayfs refuses an upper folder inside a lower one, so the writable
        // layer is in memory: half of it at most, and what the job writes is
        // charged to the job's own memory limit.
        mount(
            "divvy",
            &layer,
            "tmpfs",
            MountFlags::NODEV,
            Some(c"size=50%,mode=0755"),
        )
        .map_err(|e| LaunchError::file("cannot mount a tmpfs on", &layer)(e.into()))?;
    }
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for dir in [&upper, &work] {
        fs::create_dir_all(dir).map_err(LaunchError::file("cannot make", dir))?;
    }
    // The container's / has the mode and owner of what is below it.
    if let Some(meta) = lowers.first().and_then(|l| fs::metadata(l).ok()) {
        let _ = fs::set_permissions(&upper, meta.permissions());
        let _ = std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()));
    }
    let failed = || LaunchError::file("cannot mount an overlay on", &rootfs);
    let files = lowers
        .iter()
        .chain([&upper, &work])
        .map(|path| open(path))
        .collect::<Result<Vec<File>, _>>()
        .map_err(failed())?;
    if let (Root::Folder(path), Some(id)) = (root, id)
        && FileId::behind(&files[0]).map_err(failed())? != id
    {
        return Err(LaunchError::Replaced(path.clone()));
    }
    overlay(&files, &rootfs).map_err(failed())?;
    no_links(&rootfs)?;
    Ok(rootfs)
}

/// A root whose `/dev` is a link makes runtimes write where it points: on the
/// host (runc CVE-2026-41579). Such a root is refused before a runtime sees it.
fn no_links(rootfs: &Path) -> Result<(), LaunchError> {
    for name in ["dev", "proc", "sys"] {
        if rootfs.join(name).is_symlink() {
            return Err(LaunchError::Forbidden(format!(
                "its root filesystem has a symbolic link for /{name}, by which it could reach the host"
            )));
        }
    }
    Ok(())
}

/// Takes the root apart again, in the namespace in which it was made. Must come
/// before anything below it is removed.
pub(crate) fn disassemble(folder: &Folder) {
    for path in [folder.rootfs(), folder.layer()] {
        // Not mounted is fine: EINVAL.
        let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Would the writable layer lie inside a lower folder of the same file system?
fn overlaps(lowers: &[PathBuf], layer: &Path) -> io::Result<bool> {
    let layer_meta = fs::metadata(layer)?;
    let layer = layer.canonicalize()?;
    for lower in lowers {
        let meta = fs::metadata(lower)?;
        if meta.dev() == layer_meta.dev() && layer.starts_with(lower.canonicalize()?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open(path: &Path) -> io::Result<File> {
    let flags =
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?.into())
}

/// Mounts an overlay of the lower folders, then the upper and the work folder.
/// They are named by descriptor: no length limit is reached, no character needs
/// quoting, and it is what was looked at.
fn overlay(files: &[File], at: &Path) -> io::Result<()> {
    let names: Vec<String> = files
        .iter()
        .map(|f| format!("/proc/self/fd/{}", f.as_raw_fd()))
        .collect();
    let [lower @ .., upper, work] = names.as_slice() else {
        return Ok(());
    };
    let options = format!(
        "lowerdir={},upperdir={upper},workdir={work}",
        lower.join(":")
    );
    let options = std::ffi::CString::new(options)?;
    mount(
        "overlay",
        at,
        "overlay",
        MountFlags::NODEV,
        Some(options.as_c_str()),
    )?;
    Ok(())
}

/// The host's other file systems, to be shown read-only in a container on the
/// host's root.
pub(crate) fn host_mounts(state: &Path) -> io::Result<Vec<BindMount>> {
    let mut found: Vec<BindMount> = Vec::new();
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(point), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else {
            continue;
        };
        let point = unescape(point);
        let own = ["/proc", "/sys", "/dev", "/run"]
            .iter()
            .any(|root| Path::new(&point).starts_with(root));
        let real = REAL.contains(&kind) || kind.starts_with("fuse.");
        if point == "/" || own || !real || found.iter().any(|m| m.target == point) {
            continue;
        }
        let seen = Source::look(Path::new(&point)).map_err(|e| e.to_string());
        let seen = seen.and_then(|seen| {
            if seen.path != Path::new(&point) {
                return Err("it has moved".into());
            }
            mounts::check_source(&seen, state).map(|()| seen)
        });
        match seen {
            Ok(seen) => found.push(BindMount {
                source: seen.path,
                target: point,
                read_only: true,
                id: Some(seen.id),
            }),
            Err(why) => tracing::info!("{point} is not shown to containers: {why}"),
        }
    }
    found.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(found)
}

/// mountinfo writes space, tab, newline and backslash as octal (proc(5)).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Files that were written to the private layer, by their names inside.
pub(crate) fn discarded(folder: &Folder) -> Vec<String> {
    let upper = folder.layer().join("upper");
    let mount_points = folder.mount_points();
    let (mut named, mut more) = (Vec::new(), 0usize);
    let mut todo = vec![upper.clone()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let path = entry.path();
            if kind.is_dir() {
                todo.push(path);
                continue;
            }
            let inside = path.strip_prefix(&upper).unwrap_or(&path);
            let inside = format!("/{}", inside.display());
            // Not what the runtime made to mount a file on.
            if !(kind.is_file() || kind.is_symlink()) || mount_points.contains(&inside) {
                continue;
            }
            if named.len() < NAMED {
                named.push(inside);
            } else {
                more += 1;
            }
        }
    }
    named.sort();
    if more > 0 {
        named.push(format!("… and {more} more"));
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_folder_than_was_looked_at_is_no_root() {
        if !crate::sys::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        for path in [&own, &other] {
            fs::create_dir(path).unwrap();
        }
        fs::write(own.join("file"), "").unwrap();
        let id = FileId::at(&own).unwrap();
        let root = Root::Folder(own.clone());
        let try_it = |name: &str| {
            let folder = Folder {
                path: dir.path().join(name),
            };
            let work = || {
                crate::sys::private_mounts().unwrap();
                assemble(&root, Some(id), &folder).map(|at| at.join("file").exists())
            };
            std::thread::scope(|scope| scope.spawn(work).join()).unwrap()
        };
        assert!(try_it("right").unwrap());
        fs::rename(&own, dir.path().join("old")).unwrap();
        std::os::unix::fs::symlink(&other, &own).unwrap();
        assert_eq!(try_it("wrong").unwrap_err().code(), "source_replaced");
    }
}

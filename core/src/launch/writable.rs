//! What of a user's mounts may be written, opened for it once all are made.
//!
//! Whoever makes a container makes the places for its mounts too, as root; a
//! place below another mount would be made in a folder of the host. So every
//! mount of a user's is made read-only, in which nothing can be made, and is
//! opened for writing here: in the container's own mount namespace, before
//! anything runs in it. It is the same for every launcher.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{
    CWD, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags, fstat, fstatvfs, openat2, stat,
    statvfs,
};
use rustix::mount::{MountFlags, mount_remount};

use super::{BindMount, LaunchError};
use crate::sys;

/// The mounts that are to be opened: those that may be written and are not
/// hidden by a later one.
pub(crate) fn writable(mounts: &[BindMount]) -> Vec<BindMount> {
    let hidden = |at: usize| {
        let later = mounts.iter().skip(at + 1);
        let target = Path::new(&mounts[at].target);
        later.into_iter().any(|m| target.starts_with(&m.target))
    };
    let all = mounts.iter().enumerate();
    all.filter(|(at, m)| !m.read_only && !hidden(*at))
        .map(|(_, m)| m.clone())
        .collect()
}

/// Opens mounts of a container that was made and does not run yet; `pid` is its
/// first process.
///
/// # Errors
/// One is not where it should be: a link of the root's leads elsewhere, or its
/// source was replaced meanwhile.
pub(crate) fn open_for_writing(pid: u32, mounts: &[BindMount]) -> Result<(), LaunchError> {
    for_writing(pid, mounts).map_err(|(target, error)| LaunchError::Container {
        step: "made",
        why: format!("{target} cannot be opened for writing: {error}"),
    })
}

fn for_writing(pid: u32, mounts: &[BindMount]) -> Result<(), (String, io::Error)> {
    let mut to_open: Vec<(&str, Stat)> = Vec::new();
    for mount in mounts {
        let failed = |e: rustix::io::Errno| (mount.target.clone(), e.into());
        // What is read-only on the host stays so.
        let on_host = statvfs(&mount.source).map_err(failed)?;
        if !on_host.f_flag.contains(StatVfsMountFlags::RDONLY) {
            to_open.push((&mount.target, stat(&mount.source).map_err(failed)?));
        }
    }
    if to_open.is_empty() {
        return Ok(());
    }
    let whole = |error| ("what is mounted".to_owned(), error);
    let namespace = File::open(format!("/proc/{pid}/ns/mnt")).map_err(whole)?;
    // A thread of its own, which does not come back from there.
    let work = || {
        sys::enter_mounts(&namespace).map_err(whole)?;
        to_open.iter().try_for_each(|(target, source)| {
            open(target, source).map_err(|e| ((*target).into(), e))
        })
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(whole(io::Error::other("a bug; please report it"))))
}

fn open(target: &str, source: &Stat) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let there = openat2(
        CWD,
        target,
        flags,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    )?;
    let found = fstat(&there)?;
    if (found.st_dev, found.st_ino) != (source.st_dev, source.st_ino) {
        return Err(io::Error::other("something else is there"));
    }
    let mut kept = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    if fstatvfs(&there)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        kept |= MountFlags::NOEXEC;
    }
    // By its path: whatever of the container's this may reach by now, the job
    // has no other rights there than its user's.
    Ok(mount_remount(target, kept, c"")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_mount_hides_is_not_opened() {
        let mount = |target: &str, read_only| BindMount {
            source: "/srv".into(),
            target: target.into(),
            read_only,
        };
        let all = [
            mount("/a", false),
            mount("/a/b", true),
            mount("/a/b/c", false),
            mount("/d/e", false),
            mount("/d", true),
            mount("/f", false),
            mount("/f", true),
            mount("/abc", false),
            mount("/ab", true),
        ];
        let opened = writable(&all);
        let targets: Vec<&str> = opened.iter().map(|m| &*m.target).collect();
        assert_eq!(targets, ["/a", "/a/b/c", "/abc"]);
    }
}

//! What of a job's mounts may be written, opened for it once all are made; and
//! whether they are of what was looked at.
//!
//! Whoever makes a container makes the places for its mounts too, as root; a
//! place below another mount would be made in a folder of the host. So every
//! mount of a user's is made read-only, in which nothing can be made, and is
//! opened for writing here: in the container's own mount namespace, before
//! anything runs in it. It is the same for every launcher.
//!
//! Paths are for whoever owns a folder on their way to change, at any moment. So
//! each mount is opened once, found to be what was looked at when the request was
//! checked ([`BindMount::id`]), and what is done is done to that descriptor. All
//! are looked at before the first is opened for writing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::fchdir;

use super::source::{Descriptors, FileId};
use super::{BindMount, LaunchError};
use crate::sys;

/// Without those that a later one would lie over, for a launcher that makes them in
/// this order: what nobody can see nobody has to look at.
pub(crate) fn visible(mounts: &[BindMount]) -> Vec<BindMount> {
    let hidden = |at: usize| {
        let target = Path::new(&mounts[at].target);
        let mut later = mounts.iter().skip(at + 1);
        later.any(|over| target.starts_with(&over.target))
    };
    let all = mounts.iter().enumerate();
    all.filter(|(at, _)| !hidden(*at))
        .map(|(_, mount)| mount.clone())
        .collect()
}

/// Looks at the mounts of a container that was made and does not run yet, and
/// opens those that may be written; `pid` is its first process.
///
/// # Errors
/// One is of something else than was looked at, or not where it should be.
pub(crate) fn open_for_writing(pid: u32, mounts: &[BindMount]) -> Result<(), LaunchError> {
    if mounts.is_empty() {
        return Ok(());
    }
    let whole = |error: io::Error| failed("what is mounted", &error);
    let namespace = File::open(format!("/proc/{pid}/ns/mnt")).map_err(whole)?;
    let descriptors = Descriptors::open().map_err(whole)?;
    // A thread of its own, which does not come back from there.
    let work = || {
        sys::enter_mounts(&namespace).map_err(whole)?;
        // From here links of `/proc` are found, as numbers.
        fchdir(descriptors.folder()).map_err(|e| whole(e.into()))?;
        settle(mounts, &descriptors)
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(whole(io::Error::other("a bug; please report it"))))
}

fn failed(target: &str, error: &io::Error) -> LaunchError {
    LaunchError::Container {
        step: "made",
        why: format!("{target} cannot be mounted: {error}"),
    }
}

/// In the namespace of the mounts.
fn settle(mounts: &[BindMount], descriptors: &Descriptors) -> Result<(), LaunchError> {
    let mut numbers = BTreeSet::new();
    let mut right = Vec::new();
    for mount in mounts {
        let failed = |error| failed(&mount.target, &error);
        let there = open_at(&mount.target).map_err(failed)?;
        let id = FileId::behind(&there).map_err(failed)?;
        let is_it = match mount.id {
            Some(seen) => seen == id,
            // Root's own, which root replaces at times.
            None => mount.read_only,
        };
        // One that stands in for two: then the other is somewhere else.
        let number = descriptors.mount_of(&there).map_err(failed)?;
        if !is_it || !numbers.insert(number) {
            return Err(LaunchError::Replaced(mount.source.clone()));
        }
        right.push((mount, there));
    }
    for (mount, there) in right {
        set(&there, mount.read_only).map_err(|e| failed(&mount.target, &e))?;
    }
    Ok(())
}

fn open_at(target: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(CWD, target, flags, Mode::empty(), resolve)?)
}

/// Says what may be done in a mount, and fails if this is a place within one.
fn set(mount: &OwnedFd, read_only: bool) -> io::Result<()> {
    match sys::set_mount(mount, read_only) {
        Err(error) if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {
            remount(mount, read_only)
        }
        other => other,
    }
}

/// The same before Linux 5.12, which has paths alone: that of the descriptor, in
/// the current folder, cannot be changed either.
fn remount(mount: &OwnedFd, read_only: bool) -> io::Result<()> {
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    if fstatvfs(mount)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        flags |= MountFlags::NOEXEC;
    }
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    Ok(mount_remount(mount.as_raw_fd().to_string(), flags, c"")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::mpsc;

    use rustix::mount::mount_bind;

    fn mount(source: &Path, target: &str, read_only: bool) -> BindMount {
        BindMount {
            source: source.into(),
            target: target.into(),
            read_only,
            id: FileId::at(source).ok(),
        }
    }

    #[test]
    fn what_a_later_mount_hides_is_not_made() {
        let srv = Path::new("/srv");
        let all = [
            "/a", "/a/b", "/a/b/c", "/d/e", "/d", "/f", "/f", "/abc", "/ab",
        ];
        let all: Vec<BindMount> = all
            .iter()
            .enumerate()
            .map(|(at, target)| mount(srv, target, at % 2 == 0))
            .collect();
        let left = visible(&all);
        let left: Vec<(&str, bool)> = left.iter().map(|m| (&*m.target, m.read_only)).collect();
        let expected = [
            ("/a", true),
            ("/a/b", false),
            ("/a/b/c", true),
            ("/d", true),
            ("/f", true),
            ("/abc", false),
            ("/ab", true),
        ];
        assert_eq!(left, expected);
    }

    /// In a mount namespace of its own, with folders `a` and `b` of a temporary
    /// one that holds a file each, and places `x` and `y`.
    fn apart(test: impl FnOnce(&Path) + Send) {
        if !sys::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "x", "y"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let work = || {
            sys::private_mounts().unwrap();
            let descriptors = Descriptors::open().unwrap();
            fchdir(descriptors.folder()).unwrap();
            test(dir.path());
        };
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap();
    }

    /// As it is made by whoever makes a container.
    fn bind(source: &Path, target: &Path) {
        mount_bind(source, target).unwrap();
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(target, flags, c"").unwrap();
    }

    fn settled(mounts: &[BindMount]) -> Result<(), LaunchError> {
        settle(mounts, &Descriptors::open().unwrap())
    }

    fn can_write(folder: &Path) -> bool {
        fs::write(folder.join("file"), "").is_ok()
    }

    fn word(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    #[test]
    fn what_was_looked_at_is_opened_and_nothing_else() {
        apart(|dir| {
            let [a, b, x, y] = ["a", "b", "x", "y"].map(|name| dir.join(name));
            bind(&a, &x);
            bind(&b, &y);
            // The other way round, and one only.
            for mounts in [
                vec![mount(&b, word(&x), false), mount(&b, word(&y), false)],
                vec![mount(&b, word(&y), false), mount(&b, word(&x), true)],
                // Two of one, of which the other is who knows where.
                vec![mount(&a, word(&x), false), mount(&a, word(&x), true), {
                    let link = dir.join("link");
                    symlink("x", &link).unwrap();
                    mount(&a, word(&link), true)
                }],
            ] {
                let error = settled(&mounts).unwrap_err();
                assert_eq!(error.code(), "source_replaced", "{error}");
                assert!(!can_write(&x) && !can_write(&y));
            }
            // A place within a mount is none.
            fs::create_dir(a.join("inner")).unwrap();
            let inner = mount(&a.join("inner"), word(&x.join("inner")), false);
            settled(&[inner]).unwrap_err();
            assert!(!can_write(&x));

            settled(&[mount(&a, word(&x), false), mount(&b, word(&y), true)]).unwrap();
            assert!(can_write(&x) && !can_write(&y));
        });
    }

    /// A mount goes where its folder goes: it must not be overlooked there.
    #[test]
    fn what_is_moved_away_is_missed() {
        let (ask, asked) = mpsc::channel::<PathBuf>();
        let (tell, told) = mpsc::channel();
        // In the first namespace, where it is a folder like any other.
        let elsewhere = std::thread::spawn(move || {
            for folder in asked {
                fs::rename(folder.join("in"), folder.join("old")).unwrap();
                fs::create_dir(folder.join("in")).unwrap();
                tell.send(()).unwrap();
            }
        });
        apart(move |dir| {
            let [a, b, x] = ["a", "b", "x"].map(|name| dir.join(name));
            fs::create_dir(a.join("in")).unwrap();
            bind(&a, &x);
            let inner = x.join("in");
            bind(&b, &inner);
            let all = [mount(&b, word(&inner), false), mount(&a, word(&x), false)];
            ask.send(a).unwrap();
            told.recv().unwrap();
            let error = settled(&all).unwrap_err();
            assert_eq!(error.code(), "source_replaced", "{error}");
            assert!(!can_write(&x) && !can_write(&x.join("old")));
        });
        elsewhere.join().unwrap();
    }

    /// Between the look and the opening, somebody moves a folder on the way and
    /// puts a link there, to another read-only mount.
    fn is_not_led_astray(open: fn(&OwnedFd, bool) -> io::Result<()>) {
        apart(|dir| {
            let home: PathBuf = dir.join("home");
            fs::create_dir_all(home.join("m/x")).unwrap();
            let [a, b, y] = ["a", "b", "y"].map(|name| dir.join(name));
            let x = home.join("m/x");
            bind(&a, &x);
            fs::create_dir(dir.join("elsewhere")).unwrap();
            symlink(&y, dir.join("elsewhere/x")).unwrap();
            bind(&b, &y);
            let there = open_at(word(&x)).unwrap();
            fs::rename(home.join("m"), home.join("old")).unwrap();
            symlink(dir.join("elsewhere"), home.join("m")).unwrap();
            open(&there, false).unwrap();
            assert!(!can_write(&x) && !can_write(&y));
            assert!(can_write(&home.join("old/x")));
            open(&there, true).unwrap();
            assert!(!can_write(&home.join("old/x")));
            let flags = fstatvfs(&there).unwrap().f_flag;
            assert!(flags.contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV));
        });
    }

    #[test]
    fn a_path_that_changes_leads_nowhere() {
        is_not_led_astray(sys::set_mount);
        is_not_led_astray(set);
        is_not_led_astray(remount);
    }
}

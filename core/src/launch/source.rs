//! A file or folder of the host, looked at once: what it is called and which it
//! is come from one descriptor, so that nobody can put something else there in
//! between. And looked at as somebody, so that the kernel decides what they may,
//! by modes, access lists and whatever else it knows.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, StatVfsMountFlags, accessat, fstat,
    fstatvfs, open, openat, stat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread;
use serde::{Deserialize, Serialize};

use super::Identity;
use crate::sys;

/// Which file or folder of this machine it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
        }
    }

    /// What is at this path, behind links too.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&stat(path)?))
    }

    /// What this is open at.
    pub(crate) fn behind(file: &impl AsFd) -> io::Result<Self> {
        Ok(Self::of(&fstat(file)?))
    }
}

/// A file or folder as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its path, without links.
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    pub(super) kind: FileType,
    /// Can nobody write to it there?
    pub(crate) read_only: bool,
}

impl Source {
    /// Looks at what is there.
    ///
    /// # Errors
    /// There is nothing.
    pub(crate) fn look(path: &Path) -> io::Result<Self> {
        Self::of(&handle(path)?)
    }

    /// Looks at what this user could open, and list if it is a folder.
    ///
    /// # Errors
    /// There is nothing, or they could not.
    pub(crate) fn look_as(who: &Identity, path: &Path) -> io::Result<Self> {
        let file = as_user(who, || {
            let file = handle(path)?;
            may_read(&file)?;
            Ok(file)
        })?;
        Self::of(&file)
    }

    pub(crate) fn is_folder(&self) -> bool {
        self.kind == FileType::Directory
    }

    fn of(file: &OwnedFd) -> io::Result<Self> {
        let seen = fstat(file)?;
        let on = fstatvfs(file)?.f_flag;
        Ok(Self {
            path: std::fs::read_link(by_number(file))?,
            id: FileId::of(&seen),
            kind: FileType::from_raw_mode(seen.st_mode),
            read_only: on.contains(StatVfsMountFlags::RDONLY),
        })
    }
}

/// Has this user a file or folder, and no link, of this name? What they cannot
/// see is none.
pub(super) fn sees(who: &Identity, path: &Path) -> bool {
    let look = || std::fs::symlink_metadata(path);
    as_user(who, look).is_ok_and(|there| !there.is_symlink())
}

fn by_number(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// A descriptor that can do nothing but be looked at.
fn handle(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // As a folder first: then an automounter mounts what belongs there.
    match open(path, flags | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOTDIR) => Ok(open(path, flags, Mode::empty())?),
        other => Ok(other?),
    }
}

/// May this thread read it?
fn may_read(file: &OwnedFd) -> io::Result<()> {
    let kind = FileType::from_raw_mode(fstat(file)?.st_mode);
    let is_folder = kind == FileType::Directory;
    let mut wanted = Access::READ_OK;
    if is_folder {
        wanted |= Access::EXEC_OK;
    }
    match accessat(CWD, by_number(file), wanted, AtFlags::EACCESS) {
        // Before Linux 5.8: by doing it, where that does nothing else.
        Err(Errno::NOSYS) if is_folder || kind == FileType::RegularFile => {
            let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            open(by_number(file), flags, Mode::empty())?;
            if is_folder {
                openat(file, ".", OFlags::CLOEXEC | OFlags::PATH, Mode::empty())?;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Does something with the rights of this user, on a thread of its own: the
/// kernel's calls that change who one is concern one thread alone. Root, and
/// who is not root and so has no rights to lend, does it as it is.
fn as_user<T: Send>(who: &Identity, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    if who.uid == 0 || !sys::is_root() {
        return work();
    }
    let work = || {
        become_user(who)?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(io::Error::other("a bug; please report it")))
}

/// This thread, which must end after it, has no rights but this user's any more.
fn become_user(who: &Identity) -> io::Result<()> {
    let groups: Vec<Gid> = who.groups.iter().copied().map(Gid::from_raw).collect();
    thread::set_thread_groups(&groups)?;
    thread::set_thread_res_gid(None, Some(Gid::from_raw(who.gid)), None)?;
    // Not its real one: whose processes these were could send them signals.
    thread::set_thread_res_uid(None, Some(Uid::from_raw(who.uid)), None)?;
    // The kernel has dropped them, unless it was told not to.
    if !thread::capabilities(None)?.effective.is_empty() {
        return Err(io::Error::other(
            "rights cannot be given up: the agent's securebits forbid it",
        ));
    }
    Ok(())
}

/// Where `/proc` says which mount a descriptor is of; open before another mount
/// namespace is entered, whose `/proc` is not ours.
pub(super) struct Descriptors {
    fds: File,
    infos: File,
}

impl Descriptors {
    pub(super) fn open() -> io::Result<Self> {
        let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &str| open(path, folder, Mode::empty()).map(File::from);
        Ok(Self {
            fds: open("/proc/self/fd")?,
            infos: open("/proc/self/fdinfo")?,
        })
    }

    /// The folder whose entries are what is open, by number.
    pub(super) fn folder(&self) -> &File {
        &self.fds
    }

    /// The number of the mount that this is of.
    pub(super) fn mount_of(&self, file: &impl AsRawFd) -> io::Result<u64> {
        let name = file.as_raw_fd().to_string();
        let info = openat(
            &self.infos,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let text = io::read_to_string(File::from(info))?;
        let line = text.lines().find_map(|l| l.strip_prefix("mnt_id:"));
        line.and_then(|number| number.trim().parse().ok())
            .ok_or_else(|| io::Error::other("/proc does not say which mount it is of"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    fn who(uid: u32, groups: &[u32]) -> Identity {
        Identity {
            uid,
            gid: uid,
            groups: groups.to_vec(),
        }
    }

    fn folder(path: &Path, mode: u32) -> PathBuf {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        path.to_owned()
    }

    #[test]
    fn name_and_number_are_of_one_thing() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/usr", &link).unwrap();
        let seen = Source::look(&link).unwrap();
        assert_eq!(seen.path, Path::new("/usr"));
        assert_eq!(seen.id, FileId::at(Path::new("/usr")).unwrap());
        assert_ne!(seen.id, FileId::at(dir.path()).unwrap());
        assert!(Source::look(&dir.path().join("none")).is_err());
    }

    #[test]
    fn others_see_what_the_kernel_lets_them() {
        if !sys::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let base = folder(dir.path(), 0o755);
        let may = |who: &Identity, path: &Path| Source::look_as(who, path).is_ok();
        let alice = who(61_003, &[50]);

        let open = folder(&base.join("open"), 0o755);
        assert!(may(&alice, &open));
        // To be gone through, not listed.
        let through = folder(&base.join("through"), 0o711);
        assert!(!may(&alice, &through));
        let file = through.join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        assert!(may(&alice, &file));
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert!(!may(&alice, &file));
        let closed = folder(&base.join("closed"), 0o700);
        let behind = folder(&closed.join("behind"), 0o755);
        assert!(!may(&alice, &behind) && !sees(&alice, &behind));
        // Her link leads no further than she may go.
        let link = open.join("link");
        symlink(&behind, &link).unwrap();
        assert!(!may(&alice, &link) && !sees(&alice, &link));
        let groups = folder(&base.join("groups"), 0o750);
        std::os::unix::fs::chown(&groups, None, Some(50)).unwrap();
        assert!(may(&alice, &groups) && !may(&who(61_003, &[51]), &groups));
        assert!(may(&who(0, &[]), &behind));
        // Whoever asked, this process is who it was.
        assert!(sys::is_root() && fs::read_dir(&closed).is_ok());
        let sockets = open.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&sockets).unwrap();
        fs::set_permissions(&sockets, Permissions::from_mode(0o600)).unwrap();
        assert!(!may(&alice, &sockets));
        fs::set_permissions(&sockets, Permissions::from_mode(0o666)).unwrap();
        assert!(may(&alice, &sockets));
    }

    /// `u::rwx u:61003:--- g::r-x g:51:r-x m::rwx o::r-x`, as the kernel keeps it
    /// (linux/posix_acl_xattr.h): the mode says 0775.
    const LIST: [(u16, u16, u32); 6] = [
        (0x01, 7, u32::MAX),
        (0x02, 0, 61_003),
        (0x04, 5, u32::MAX),
        (0x08, 0, 51),
        (0x10, 7, u32::MAX),
        (0x20, 5, u32::MAX),
    ];

    #[test]
    fn access_lists_count() {
        let dir = tempfile::tempdir().unwrap();
        let listed = folder(&dir.path().join("listed"), 0o755);
        folder(dir.path(), 0o755);
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in LIST {
            value.extend(tag.to_le_bytes());
            value.extend(rights.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        let none = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::setxattr(&listed, "system.posix_acl_access", &value, none);
        if !sys::is_root() || set == Err(Errno::OPNOTSUPP) {
            return;
        }
        set.unwrap();
        let mode = fs::metadata(&listed).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o775);
        let may = |who: &Identity| Source::look_as(who, &listed).is_ok();
        assert!(!may(&who(61_003, &[])));
        assert!(!may(&who(61_004, &[51])));
        assert!(may(&who(61_004, &[])));
    }

    /// `sh` is the witness: nothing of this process changed hands.
    #[test]
    fn a_process_keeps_its_user_meanwhile() {
        if !sys::is_root() {
            return;
        }
        let _ = Source::look_as(&who(61_003, &[]), Path::new("/usr"));
        let said = Command::new("id").arg("-u").output().unwrap();
        assert_eq!(said.stdout, b"0\n");
    }
}

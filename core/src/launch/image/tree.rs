//! One layer's folder, and the only place that creates, replaces or removes things in it.
//!
//! Every path is walked from the layer's descriptor, one component at a time, with
//! `openat2` refusing symbolic links and mount points (S4). Links inside the layer are
//! followed by this code, as if the layer were `/`: `lib -> usr/lib` makes `lib/x` mean
//! `usr/lib/x`, and no link can lead out.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat, XattrFlags, fchmod,
    fsetxattr, mkdirat, mknodat, openat2, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use super::error::{ImageError, shown};
use super::limits::{MAX_IMPLIED, MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH};

/// Symbolic links followed on one path, as the kernel's own bound (`MAXSYMLINKS`, path_resolution(7)).
const MAX_SYMLINKS: usize = 40;

const NO_ESCAPE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A layer's folder.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    /// The layer, for messages.
    pub(super) at: String,
    /// The last folder asked for: neighbours come in a row. Dropped on every removal.
    last: Option<(Vec<u8>, Spot)>,
    /// Folders that were made without an entry of their own (see `parents`).
    pub(super) implied: BTreeSet<Vec<Vec<u8>>>,
}

/// A folder of the layer: its descriptor and its path without symbolic links.
#[derive(Clone)]
pub(super) struct Spot {
    pub(super) fd: Rc<OwnedFd>,
    pub(super) real: Vec<Vec<u8>>,
}

/// Splits a name from an archive into components, refusing every trick.
///
/// `.` and empty components vanish, so the layer itself has no components.
pub(super) fn parts<'a>(at: &str, name: &'a [u8]) -> Result<Vec<&'a [u8]>, ImageError> {
    let refuse = |problem: &str| Err(ImageError::unsafe_entry(at, name, problem));
    if name.is_empty() {
        return refuse("has no name");
    }
    if name.iter().any(|b| *b == 0 || *b == b'\n') {
        return refuse("has a NUL or a newline in its name");
    }
    if name.len() > MAX_PATH_BYTES {
        return refuse("has a name longer than 4096 bytes");
    }
    // Some builders store the layer's own folder as "/".
    if name.starts_with(b"/") && name != b"/" {
        return refuse("has an absolute name");
    }
    let parts: Vec<&[u8]> = name
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
        .collect();
    if parts.contains(&b"..".as_slice()) {
        return refuse("has `..` in its name");
    }
    if parts.iter().any(|p| p.len() > MAX_NAME_BYTES) {
        return refuse("has a component longer than 255 bytes");
    }
    if parts.len() > MAX_PATH_DEPTH {
        return refuse("is nested deeper than 256 folders");
    }
    Ok(parts)
}

impl Tree {
    pub(super) fn new(root: OwnedFd, at: String) -> Self {
        Self {
            root: Rc::new(root),
            at,
            last: None,
            implied: BTreeSet::new(),
        }
    }

    /// The layer's own folder.
    pub(super) fn top(&self) -> Spot {
        Spot {
            fd: Rc::clone(&self.root),
            real: Vec::new(),
        }
    }

    /// The folder at `path`, made where it is missing.
    pub(super) fn make_folder(&mut self, path: &[&[u8]]) -> Result<Spot, ImageError> {
        let key = path.join(&b'/');
        if let Some((last, spot)) = &self.last
            && *last == key
        {
            return Ok(spot.clone());
        }
        let Some(spot) = self.walk(path, true)? else {
            return Err(self.damaged(path, "cannot be made"));
        };
        self.last = Some((key, spot.clone()));
        Ok(spot)
    }

    /// The folder at `path`, if it is there.
    pub(super) fn find_folder(&mut self, path: &[&[u8]]) -> Result<Option<Spot>, ImageError> {
        self.walk(path, false)
    }

    fn walk(&mut self, path: &[&[u8]], make: bool) -> Result<Option<Spot>, ImageError> {
        let mut todo: VecDeque<Vec<u8>> = path.iter().map(|p| p.to_vec()).collect();
        let mut spot = self.top();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                spot.real.pop();
                spot.fd = self.open_real(&spot.real)?;
                continue;
            }
            match self
                .stat(&spot, &part)?
                .map(|s| FileType::from_raw_mode(s.st_mode))
            {
                Some(FileType::Directory) => {}
                Some(FileType::Symlink) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(self.refused(path, "goes through a loop of symbolic links"));
                    }
                    let target = readlinkat(&spot.fd, part.as_slice(), Vec::new())
                        .map_err(|e| self.io("read the link", &part, e))?
                        .into_bytes();
                    if target.starts_with(b"/") {
                        spot = self.top();
                    }
                    let steps = target
                        .split(|b| *b == b'/')
                        .filter(|p| !p.is_empty() && *p != b".");
                    for step in steps.rev() {
                        todo.push_front(step.to_vec());
                    }
                    continue;
                }
                None if !make => return Ok(None),
                None => self.mkdir(&spot, &part, false)?,
                Some(FileType::CharacterDevice) if make => self.mkdir(&spot, &part, true)?,
                Some(FileType::CharacterDevice) => return Ok(None),
                Some(_) => {
                    return Err(self.damaged(path, "lies under something that is not a folder"));
                }
            }
            if spot.real.len() >= MAX_PATH_DEPTH {
                return Err(self.refused(path, "is nested deeper than 256 folders"));
            }
            spot.fd = self.open_in(&spot, &part)?;
            spot.real.push(part);
        }
        Ok(Some(spot))
    }

    /// Makes a folder as an unnamed parent: root's, 0755 whatever the umask. Over a
    /// whiteout it becomes opaque, so that what was deleted stays deleted.
    fn mkdir(&mut self, spot: &Spot, name: &[u8], over_whiteout: bool) -> Result<(), ImageError> {
        if over_whiteout {
            self.remove(spot, name)?;
        }
        let mode = Mode::from_raw_mode(0o755);
        mkdirat(&spot.fd, name, mode).map_err(|e| self.io("make the folder", name, e))?;
        let fd = self.open_in(spot, name)?;
        fchmod(&fd, mode).map_err(|e| self.io("set the mode of", name, e))?;
        if over_whiteout {
            self.set_opaque(&fd, name)?;
        }
        if self.implied.len() >= MAX_IMPLIED {
            let what = "its number of folders without an entry";
            return Err(ImageError::too_large(&self.at, what, MAX_IMPLIED as u64));
        }
        let mut real = spot.real.clone();
        real.push(name.to_vec());
        self.implied.insert(real);
        Ok(())
    }

    /// The folder `name` in `spot`; never through a link.
    pub(super) fn open_in(&self, spot: &Spot, name: &[u8]) -> Result<Rc<OwnedFd>, ImageError> {
        open_below(&spot.fd, name)
            .map(Rc::new)
            .map_err(|e| self.io("open the folder", name, e))
    }

    /// A folder by its path without links.
    pub(super) fn open_real(&self, real: &[Vec<u8>]) -> Result<Rc<OwnedFd>, ImageError> {
        if real.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let path = real.join(&b'/');
        open_below(&self.root, &path)
            .map(Rc::new)
            .map_err(|e| self.io("open the folder", &path, e))
    }

    /// What `name` in `spot` is, links not followed.
    pub(super) fn stat(&self, spot: &Spot, name: &[u8]) -> Result<Option<Stat>, ImageError> {
        match statat(&spot.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.io("look at", name, e)),
        }
    }

    /// Removes `name` in `spot` with everything below.
    pub(super) fn remove(&mut self, spot: &Spot, name: &[u8]) -> Result<(), ImageError> {
        self.last = None;
        match unlinkat(&spot.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {} // a folder (Linux, POSIX)
            Err(e) => return Err(self.io("remove", name, e)),
        }
        let below = Spot {
            fd: self.open_in(spot, name)?,
            real: Vec::new(),
        };
        for child in self.children(&below, name)? {
            self.remove(&below, &child)?;
        }
        unlinkat(&spot.fd, name, AtFlags::REMOVEDIR).map_err(|e| self.io("remove", name, e))
    }

    fn children(&self, folder: &Spot, name: &[u8]) -> Result<Vec<Vec<u8>>, ImageError> {
        let entries = Dir::read_from(&folder.fd).map_err(|e| self.io("list", name, e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.io("list", name, e))?;
            let child = entry.file_name().to_bytes();
            if child != b"." && child != b".." {
                names.push(child.to_vec());
            }
        }
        Ok(names)
    }

    /// overlayfs: "a directory is made opaque by setting the xattr trusted.overlay.opaque to y"
    /// (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
    pub(super) fn set_opaque(&self, fd: &OwnedFd, name: &[u8]) -> Result<(), ImageError> {
        fsetxattr(fd, "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .map_err(|e| self.io("mark as opaque", name, e))
    }

    /// overlayfs: "a whiteout is created as a character device with 0/0 device number" (same section).
    pub(super) fn whiteout(&self, spot: &Spot, name: &[u8]) -> Result<(), ImageError> {
        let mode = Mode::from_raw_mode(0);
        mknodat(&spot.fd, name, FileType::CharacterDevice, mode, 0)
            .map_err(|e| self.io("make the whiteout", name, e))
    }

    pub(super) fn io(&self, action: &str, name: &[u8], e: Errno) -> ImageError {
        match e {
            Errno::NAMETOOLONG => ImageError::unsafe_entry(&self.at, name, "has too long a path"),
            // Neither is met in a folder that nobody else writes to.
            Errno::XDEV | Errno::LOOP => {
                ImageError::unsafe_entry(&self.at, name, "leads out of its layer")
            }
            e => ImageError::io(&self.at, format!("{action} {}", shown(name)), e),
        }
    }

    fn damaged(&self, path: &[&[u8]], problem: &str) -> ImageError {
        ImageError::invalid(&self.at, format!("{} {problem}", shown(&path.join(&b'/'))))
    }

    fn refused(&self, path: &[&[u8]], problem: &str) -> ImageError {
        ImageError::unsafe_entry(&self.at, &path.join(&b'/'), problem)
    }
}

/// Opens the folder `path` below `folder`: no link, no mount point, no way up.
pub(super) fn open_below(folder: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    openat2(folder, path, FOLDER, Mode::empty(), NO_ESCAPE)
}

/// Permission bits with setuid, setgid and sticky.
pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(RawMode::from(bits) & 0o7777)
}

//! Turns one layer's tar into a folder that overlayfs can stack.
//!
//! Kept: numeric owners, modes with setuid bits, times, links, fifos,
//! `security.capability` and `user.*`. Converted: whiteouts (OCI image spec, layer.md,
//! "Whiteouts"). Left out with a note: device nodes and every other attribute; an image
//! must not bring `trusted.overlay.*`, which would steer overlayfs to other files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::error::{ImageError, shown};
use super::limits::{Limits, MAX_TAR_RECORD_BYTES};
use super::parents::Real;
use super::tarball::{Forward, Kind, Member, Tar, TarError};
use super::tree::{Spot, Tree, mode, parts};

/// Prefix of whiteouts, and of aufs's own files.
const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Notes kept per layer; a hostile layer could cause millions.
const MAX_NOTES: usize = 32;

/// Unpacks `tar` into the empty folder `root`, writing at most `budget` bytes of content.
/// On an error the folder is in any state.
pub(super) fn unpack<R: Forward>(
    root: OwnedFd,
    at: &str,
    tar: &mut Tar<R>,
    budget: u64,
    limits: &Limits,
) -> Result<Unpacked, ImageError> {
    let mut job = Unpacker {
        tree: Tree::new(root, at.to_owned()),
        times: BTreeMap::new(),
        notes: Vec::new(),
        buffer: vec![0; 128 << 10],
        left: budget,
        budget,
    };
    let mut entries = 0u64;
    while let Some(member) = tar.next().map_err(|e| tar_error(at, e))? {
        entries += 1;
        if entries > limits.entries_per_layer {
            return Err(ImageError::too_large(
                at,
                "its number of files",
                limits.entries_per_layer,
            ));
        }
        job.entry(&member, tar)?;
    }
    job.finish()?;
    Ok(Unpacked {
        notes: job.notes,
        implied: job.tree.implied,
    })
}

/// What is to be known about an unpacked layer besides its content.
pub(super) struct Unpacked {
    /// What was left out.
    pub(super) notes: Vec<String>,
    /// Folders that no entry named.
    pub(super) implied: BTreeSet<Real>,
}

struct Unpacker {
    tree: Tree,
    /// Times of folders by real path, set last: new entries change them.
    times: BTreeMap<Vec<Vec<u8>>, (i64, u32)>,
    notes: Vec<String>,
    buffer: Vec<u8>,
    left: u64,
    budget: u64,
}

impl Unpacker {
    fn entry(&mut self, member: &Member, content: &mut impl Read) -> Result<(), ImageError> {
        let path = parts(&self.tree.at, &member.name)?;
        if path
            .iter()
            .any(|part| part.starts_with(AUFS) && *part != OPAQUE)
        {
            return Ok(()); // aufs bookkeeping, which Docker passes over too
        }
        let Some((name, parent)) = path.split_last() else {
            return self.top(member);
        };
        if parent.iter().any(|part| part.starts_with(WHITEOUT)) {
            return self.refuse(member, "lies under a whiteout");
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout(member, parent, name);
        }
        match member.kind {
            Kind::Device => {
                self.note(format!("device node {} left out", shown(&member.name)));
                Ok(())
            }
            Kind::Folder => self.folder(member, parent, name),
            Kind::File => self.file(member, parent, name, content),
            Kind::Symlink => self.symlink(member, parent, name),
            Kind::HardLink => self.hard_link(member, parent, name),
            Kind::Fifo => self.fifo(member, parent, name),
        }
    }

    /// The layer's own folder: `./` or `/`.
    fn top(&mut self, member: &Member) -> Result<(), ImageError> {
        if member.kind != Kind::Folder {
            return self.refuse(member, "replaces the layer's own folder");
        }
        let top = self.tree.top();
        self.describe(&*top.fd, member)?;
        self.times.insert(top.real, member.mtime);
        Ok(())
    }

    fn folder(&mut self, member: &Member, parent: &[&[u8]], name: &[u8]) -> Result<(), ImageError> {
        let spot = self.tree.make_folder(parent)?;
        let there = self
            .tree
            .stat(&spot, name)?
            .map(|s| FileType::from_raw_mode(s.st_mode));
        if there != Some(FileType::Directory) {
            if there.is_some() {
                self.tree.remove(&spot, name)?;
            }
            mkdirat(&spot.fd, name, Mode::RWXU)
                .map_err(|e| self.tree.io("make the folder", name, e))?;
        }
        let fd = self.tree.open_in(&spot, name)?;
        if there == Some(FileType::CharacterDevice) {
            // A whiteout and a new folder: the old content stays hidden.
            self.tree.set_opaque(&fd, name)?;
        }
        self.describe(&*fd, member)?;
        let mut real = spot.real;
        real.push(name.to_vec());
        self.tree.implied.remove(&real);
        self.times.insert(real, member.mtime);
        Ok(())
    }

    fn file(
        &mut self,
        member: &Member,
        parent: &[&[u8]],
        name: &[u8],
        content: &mut impl Read,
    ) -> Result<(), ImageError> {
        if member.size > self.left {
            let what = format!("its unpacked size in bytes (at {})", shown(&member.name));
            return Err(ImageError::too_large(&self.tree.at, what, self.budget));
        }
        self.left -= member.size;
        let spot = self.free(parent, name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&spot.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| self.tree.io("create", name, e))?;
        let mut file = File::from(fd);
        self.copy(content, &mut file, name)?;
        self.describe(&file, member)?;
        futimens(&file, &times(member.mtime)).map_err(|e| self.tree.io("set the time of", name, e))
    }

    fn copy(&mut self, from: &mut impl Read, to: &mut File, name: &[u8]) -> Result<(), ImageError> {
        loop {
            let n = match from.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(tar_error(&self.tree.at, TarError::Io(e))),
            };
            let chunk = self.buffer.get(..n).unwrap_or_default();
            to.write_all(chunk)
                .map_err(|e| ImageError::io(&self.tree.at, format!("write {}", shown(name)), e))?;
        }
    }

    fn symlink(
        &mut self,
        member: &Member,
        parent: &[&[u8]],
        name: &[u8],
    ) -> Result<(), ImageError> {
        // The target is only text: it is followed inside the container, or by Tree.
        if member.link.is_empty() || member.link.contains(&0) {
            return self.refuse(
                member,
                "is a symbolic link to an empty name or one with NUL",
            );
        }
        let spot = self.free(parent, name)?;
        symlinkat(member.link.as_slice(), &spot.fd, name)
            .map_err(|e| self.tree.io("create the link", name, e))?;
        self.describe_nameless(&spot, name, member)
    }

    fn hard_link(
        &mut self,
        member: &Member,
        parent: &[&[u8]],
        name: &[u8],
    ) -> Result<(), ImageError> {
        // Some builders (kaniko) write `/usr/x`; the layer is the root of all names.
        let target = member.link.strip_prefix(b"/").unwrap_or(&member.link);
        let problem = "is a hard link out of its layer";
        let path = parts(&self.tree.at, target)
            .map_err(|_| ImageError::unsafe_entry(&self.tree.at, &member.name, problem))?;
        let Some((target_name, target_parent)) = path.split_last() else {
            return self.refuse(member, problem);
        };
        let from = self.tree.find_folder(target_parent)?;
        let stat = match &from {
            Some(from) => self.tree.stat(from, target_name)?,
            None => None,
        };
        let (Some(from), Some(stat)) = (from, stat) else {
            return self.refuse(
                member,
                &format!(
                    "is a hard link to {}, which is not in this layer",
                    shown(target)
                ),
            );
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink | FileType::Fifo => {}
            _ => return self.refuse(member, "is a hard link to something that is not a file"),
        }
        let spot = self.tree.make_folder(parent)?;
        if let Some(there) = self.tree.stat(&spot, name)? {
            if (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) {
                return Ok(());
            }
            self.tree.remove(&spot, name)?;
        }
        match linkat(&from.fd, *target_name, &spot.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            // The target lay under what this entry replaced.
            Err(Errno::NOENT) => {
                self.refuse(member, "is a hard link to something that it replaces")
            }
            Err(e) => Err(self.tree.io("create the hard link", name, e)),
        }
    }

    fn fifo(&mut self, member: &Member, parent: &[&[u8]], name: &[u8]) -> Result<(), ImageError> {
        let spot = self.free(parent, name)?;
        mknodat(&spot.fd, name, FileType::Fifo, mode(member.mode), 0)
            .map_err(|e| self.tree.io("create the fifo", name, e))?;
        self.describe_nameless(&spot, name, member)?;
        // Not a link: it was made two lines above, in a folder that nobody else writes to.
        rustix::fs::chmodat(&spot.fd, name, mode(member.mode), AtFlags::empty())
            .map_err(|e| self.tree.io("set the mode of", name, e))
    }

    fn whiteout(
        &mut self,
        member: &Member,
        parent: &[&[u8]],
        name: &[u8],
    ) -> Result<(), ImageError> {
        let spot = self.tree.make_folder(parent)?;
        if name == OPAQUE {
            return self.tree.set_opaque(&spot.fd, name);
        }
        let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return self.refuse(member, "is a whiteout of no file");
        }
        // A whiteout hides what lower layers have, never what this layer has (layer.md, "Whiteouts").
        match self
            .tree
            .stat(&spot, hidden)?
            .map(|s| FileType::from_raw_mode(s.st_mode))
        {
            None => self.tree.whiteout(&spot, hidden),
            Some(FileType::Directory) => {
                let fd = self.tree.open_in(&spot, hidden)?;
                self.tree.set_opaque(&fd, hidden)
            }
            Some(_) => Ok(()),
        }
    }

    /// The folder `parent`, in which `name` is free: what was there is removed.
    fn free(&mut self, parent: &[&[u8]], name: &[u8]) -> Result<Spot, ImageError> {
        let spot = self.tree.make_folder(parent)?;
        if self.tree.stat(&spot, name)?.is_some() {
            self.tree.remove(&spot, name)?;
        }
        Ok(spot)
    }

    /// Owner, then mode (chown clears setuid), then attributes (chown clears capabilities).
    fn describe(&mut self, fd: impl AsFd, member: &Member) -> Result<(), ImageError> {
        let (uid, gid) = owner(member);
        fchown(&fd, uid, gid).map_err(|e| self.tree.io("set the owner of", &member.name, e))?;
        fchmod(&fd, mode(member.mode))
            .map_err(|e| self.tree.io("set the mode of", &member.name, e))?;
        for (name, value) in &member.xattrs {
            if !is_kept(name) {
                self.note(format!(
                    "attribute {} of {} left out",
                    shown(name),
                    shown(&member.name)
                ));
                continue;
            }
            match fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // The store's file system or the kernel's rules for this kind of file.
                Err(
                    Errno::OPNOTSUPP | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::INVAL,
                ) => {
                    self.note(format!(
                        "attribute {} of {} not accepted",
                        shown(name),
                        shown(&member.name)
                    ));
                }
                Err(e) => return Err(self.tree.io("set an attribute of", &member.name, e)),
            }
        }
        Ok(())
    }

    /// Owner and time of something that is not opened: a link or a fifo.
    fn describe_nameless(
        &mut self,
        spot: &Spot,
        name: &[u8],
        member: &Member,
    ) -> Result<(), ImageError> {
        let (uid, gid) = owner(member);
        chownat(&spot.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.tree.io("set the owner of", name, e))?;
        utimensat(
            &spot.fd,
            name,
            &times(member.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|e| self.tree.io("set the time of", name, e))
    }

    fn finish(&mut self) -> Result<(), ImageError> {
        for (real, time) in std::mem::take(&mut self.times) {
            // It may have been replaced by a later entry.
            if let Ok(fd) = self.tree.open_real(&real) {
                futimens(&fd, &times(time))
                    .map_err(|e| self.tree.io("set the time of", &real.join(&b'/'), e))?;
            }
        }
        Ok(())
    }

    fn note(&mut self, text: String) {
        match self.notes.len() {
            0..MAX_NOTES => self.notes.push(text),
            MAX_NOTES => self.notes.push("further notes left out".into()),
            _ => {}
        }
    }

    fn refuse(&self, member: &Member, problem: &str) -> Result<(), ImageError> {
        Err(ImageError::unsafe_entry(
            &self.tree.at,
            &member.name,
            problem,
        ))
    }
}

fn owner(member: &Member) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(member.uid)),
        Some(Gid::from_raw(member.gid)),
    )
}

/// `user.overlay.*` steers overlayfs mounted with `userxattr`.
fn is_kept(name: &[u8]) -> bool {
    let plain = name.iter().all(u8::is_ascii_graphic);
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    plain && (name == b"security.capability" || user)
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn tar_error(at: &str, error: TarError) -> ImageError {
    match error {
        TarError::Damaged(what) => ImageError::invalid(at, what),
        TarError::Unsupported(what) => ImageError::Unsupported {
            at: at.into(),
            what,
            remedy: "build the image again without it",
        },
        TarError::Record(size) => ImageError::too_large(
            at,
            format!("a tar record of {size} bytes"),
            MAX_TAR_RECORD_BYTES,
        ),
        TarError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            ImageError::invalid(at, "the archive is cut off")
        }
        TarError::Io(e) => ImageError::reading(at, e),
    }
}

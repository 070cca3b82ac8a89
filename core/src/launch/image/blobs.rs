//! The files of an image by name, whether they lie in a folder or in a tar.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::compression::decoder;
use super::digest::Digest;
use super::error::{ImageError, shown};
use super::limits::{Limits, MAX_OUTER_MEMBERS};
use super::source::{Format, Found, Names, clean, compressed, look, outer_error};
use super::tarball::{Kind, Tar};
use crate::launch::FileId;

/// The files of an image.
pub(super) struct Blobs {
    /// The image's path, for messages.
    pub(super) at: String,
    /// How the image is stored.
    pub(super) format: Format,
    place: Place,
    document_bytes: u64,
}

enum Place {
    Folder(OwnedFd),
    Tar {
        file: File,
        members: HashMap<Vec<u8>, Member>,
    },
}

/// Where a member's content is.
enum Member {
    Content {
        offset: u64,
        size: u64,
    },
    /// Old docker archives link equal layers to each other.
    Link(Vec<u8>),
}

/// Links followed inside a docker archive: writers use one.
const MAX_LINKS: usize = 8;

impl Blobs {
    /// Opens the image at `path`, which must be the file or folder `id` if that is known; a gzip-compressed tar is decompressed into a nameless file in `scratch`.
    pub(super) fn open(
        path: &Path,
        id: Option<FileId>,
        scratch: &Path,
        limits: &Limits,
    ) -> Result<Self, ImageError> {
        let is_it = |found: std::io::Result<FileId>| match (id, found) {
            (None, _) => Ok(()),
            (Some(id), Ok(found)) if id == found => Ok(()),
            _ => Err(ImageError::Replaced { path: path.into() }),
        };
        let at = path.display().to_string();
        let document_bytes = limits.document_bytes;
        let (file, gzip) = match look(path)? {
            Found::Layout => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
                    .map_err(|e| ImageError::io(&at, "open it", e))?;
                is_it(FileId::behind(&root))?;
                let (format, place) = (Format::LayoutFolder, Place::Folder(root));
                return Ok(Self {
                    at,
                    format,
                    place,
                    document_bytes,
                });
            }
            Found::File { file, gzip } => (file, gzip),
        };
        is_it(FileId::behind(&file))?;
        let file = if gzip {
            inflate(path, file, scratch, limits)?
        } else {
            file
        };
        let (members, names) = members(path, &file)?;
        let format = names.format(path)?;
        Ok(Self {
            at,
            format,
            place: Place::Tar { file, members },
            document_bytes,
        })
    }

    /// The content of a blob by digest (image-layout.md, "Blobs"); the caller verifies it.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Box<dyn Read + '_>, ImageError> {
        self.reader(&format!("blobs/sha256/{}", digest.hex()))
    }

    /// A JSON document by digest, verified.
    pub(super) fn document(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let name = format!("blobs/sha256/{}", digest.hex());
        let bytes = self.file(&name)?;
        self.verify(&name, digest, &bytes)?;
        Ok(bytes)
    }

    pub(super) fn verify(
        &self,
        name: &str,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let found = Digest::of(bytes);
        if found == *digest {
            return Ok(());
        }
        Err(ImageError::Digest {
            at: format!("{} in {}", shown(name.as_bytes()), self.at),
            expected: digest.to_string(),
            found: found.to_string(),
        })
    }

    /// A whole small file by name.
    pub(super) fn file(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let mut reader = self
            .reader(name)?
            .take(self.document_bytes.saturating_add(1));
        reader
            .read_to_end(&mut bytes)
            .map_err(|e| ImageError::reading(&self.at, e))?;
        if bytes.len() as u64 > self.document_bytes {
            let what = format!("document {} in bytes", shown(name.as_bytes()));
            return Err(ImageError::too_large(&self.at, what, self.document_bytes));
        }
        Ok(bytes)
    }

    /// Opens a file by its name in the image. Never leaves the image's folder.
    pub(super) fn reader(&self, name: &str) -> Result<Box<dyn Read + '_>, ImageError> {
        let refuse = |problem: &str| ImageError::unsafe_entry(&self.at, name.as_bytes(), problem);
        if name.starts_with('/') || name.split('/').any(|part| part == "..") || name.contains('\0')
        {
            return Err(refuse("is a path out of the image"));
        }
        match &self.place {
            Place::Folder(root) => {
                // O_NONBLOCK: opening a fifo must not wait for a writer.
                let fd = rustix::fs::openat2(
                    root,
                    name,
                    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
                    Mode::empty(),
                    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
                )
                .map_err(|e| match e {
                    Errno::NOENT | Errno::NOTDIR => self.missing(name),
                    Errno::XDEV | Errno::LOOP => refuse("is a symbolic link out of the image"),
                    e => ImageError::io(&self.at, format!("open {}", shown(name.as_bytes())), e),
                })?;
                let file = File::from(fd);
                let is_file = file.metadata().is_ok_and(|m| m.is_file());
                if !is_file {
                    return Err(ImageError::invalid(
                        &self.at,
                        format!("{} is not a regular file", shown(name.as_bytes())),
                    ));
                }
                Ok(Box::new(file))
            }
            Place::Tar { file, members } => {
                let mut key = clean(name.as_bytes());
                for _ in 0..MAX_LINKS {
                    match members.get(&key) {
                        Some(Member::Content { offset, size }) => {
                            return Ok(Box::new(Section {
                                file,
                                offset: *offset,
                                left: *size,
                            }));
                        }
                        Some(Member::Link(target)) => key.clone_from(target),
                        None => return Err(self.missing(name)),
                    }
                }
                Err(refuse("is a chain of links"))
            }
        }
    }

    fn missing(&self, name: &str) -> ImageError {
        ImageError::MissingBlob {
            at: self.at.clone(),
            blob: shown(name.as_bytes()),
        }
    }
}

/// Decompresses the whole tar: its parts are read in another order than they are stored in.
fn inflate(path: &Path, file: File, scratch: &Path, limits: &Limits) -> Result<File, ImageError> {
    let at = path.display().to_string();
    let place = scratch.display().to_string();
    let mut spool =
        nameless(scratch).map_err(|e| ImageError::io(&place, "create a temporary file", e))?;
    let stream = decoder(file)
        .map_err(|e| ImageError::reading(&at, e))?
        .map_err(|name| compressed(path, name))?;
    let mut stream = stream.take(limits.unpacked_bytes.saturating_add(1));
    let mut total = 0u64;
    let mut buf = vec![0u8; 256 << 10];
    loop {
        // Not io::copy: an error must say which side failed.
        let n = match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ImageError::reading(&at, e)),
        };
        let chunk = buf.get(..n).unwrap_or_default();
        io::Write::write_all(&mut spool, chunk)
            .map_err(|e| ImageError::io(&place, "write a temporary file", e))?;
        total = total.saturating_add(n as u64);
    }
    if total > limits.unpacked_bytes {
        return Err(ImageError::too_large(
            &at,
            "its uncompressed size in bytes",
            limits.unpacked_bytes,
        ));
    }
    spool
        .rewind()
        .map_err(|e| ImageError::io(&place, "read a temporary file", e))?;
    Ok(spool)
}

/// A new file in `folder` that vanishes with its last descriptor. Not O_TMPFILE, which
/// overlayfs and NFS may lack; a crash between the two calls leaves an empty file, which
/// the store's sweep removes.
fn nameless(folder: &Path) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = folder.join(format!("spool-{}-{number}", std::process::id()));
    let _ = std::fs::remove_file(&name); // of a dead process that had this id
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&name)?;
    std::fs::remove_file(&name)?;
    Ok(file)
}

fn members(path: &Path, file: &File) -> Result<(HashMap<Vec<u8>, Member>, Names), ImageError> {
    let at = path.display().to_string();
    let length = file
        .metadata()
        .map_err(|e| ImageError::reading(&at, e))?
        .len();
    let mut tar = Tar::new(BufReader::new(file));
    let mut members = HashMap::new();
    let mut names = Names::default();
    loop {
        let first = members.is_empty();
        let Some(member) = tar.next().map_err(|e| outer_error(path, first, e))? else {
            return Ok((members, names));
        };
        if members.len() >= MAX_OUTER_MEMBERS {
            return Err(ImageError::too_large(
                &at,
                "its number of files",
                MAX_OUTER_MEMBERS as u64,
            ));
        }
        if member.name.starts_with(b"/") || member.name.split(|b| *b == b'/').any(|p| p == b"..") {
            return Err(ImageError::unsafe_entry(
                &at,
                &member.name,
                "is a path out of the image",
            ));
        }
        let name = clean(&member.name);
        let place = match member.kind {
            Kind::File => {
                let end = member.offset.checked_add(member.size);
                if end.is_none_or(|end| end > length) {
                    let name = shown(&member.name);
                    return Err(ImageError::invalid(&at, format!("cut off inside {name}")));
                }
                Member::Content {
                    offset: member.offset,
                    size: member.size,
                }
            }
            Kind::HardLink => Member::Link(clean(&member.link)),
            Kind::Symlink => Member::Link(beside(&name, &member.link)),
            Kind::Folder | Kind::Fifo | Kind::Device => continue,
        };
        names.note(&name);
        members.insert(name, place);
    }
}

/// The name that a relative link at `name` means, as a name in the tar: `..` is
/// resolved by text and ends at the top, so it always stays a name in the tar.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = name.split(|b| *b == b'/').collect();
    parts.pop();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Part of a file; reads at positions, so that many can exist for one file.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let n = self
            .file
            .read_at(buf.get_mut(..want).unwrap_or_default(), self.offset)?;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset = self.offset.saturating_add(n as u64);
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }
}

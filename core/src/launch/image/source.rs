//! Says what kind of image lies at a path.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::compression::{Compression, decoder};
use super::error::ImageError;
use super::limits::MAX_OUTER_MEMBERS;
use super::tarball::{Stream, Tar, TarError};

/// How an image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// OCI image layout in a folder (OCI image spec, image-layout.md).
    LayoutFolder,
    /// OCI image layout in a tar.
    LayoutTar,
    /// Output of `docker save`, of any Docker version: a tar with `manifest.json`.
    /// Docker 25 and later put an OCI layout into the same tar.
    DockerArchive,
}

/// An image found by [`detect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The path as given.
    pub path: PathBuf,
    /// How the image is stored.
    pub format: Format,
    /// Whether the tar is gzip-compressed as a whole.
    pub gzip: bool,
}

/// Says what kind of image lies at `path`, without checking its content.
///
/// The `run` verb calls this to choose a launcher (D8). Reading a gzip-compressed tar
/// means decompressing it, so [`super::open`] does not call this a second time.
///
/// # Errors
/// [`ImageError::NotFound`], [`ImageError::Unrecognised`] with what the path is instead,
/// [`ImageError::Unsupported`] for other compressions, [`ImageError::Io`].
pub fn detect(path: &Path) -> Result<Source, ImageError> {
    let (file, gzip) = match look(path)? {
        Found::Layout => {
            return Ok(Source {
                path: path.into(),
                format: Format::LayoutFolder,
                gzip: false,
            });
        }
        Found::File { file, gzip } => (file, gzip),
    };
    let names = if gzip {
        let stream = decoder(file)
            .map_err(|e| reading(path, e))?
            .map_err(|c| compressed(path, c))?;
        names(Tar::new(Stream(stream)), path)?
    } else {
        names(Tar::new(BufReader::new(file)), path)?
    };
    Ok(Source {
        path: path.into(),
        format: names.format(path)?,
        gzip,
    })
}

/// What a first look shows.
pub(super) enum Found {
    /// A folder with an OCI layout.
    Layout,
    /// A file that may be a tar.
    File { file: File, gzip: bool },
}

pub(super) fn look(path: &Path) -> Result<Found, ImageError> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(ImageError::NotFound { path: path.into() });
        }
        Err(e) => return Err(reading(path, e)),
    };
    if meta.is_dir() {
        if path.join("oci-layout").is_file() && path.join("index.json").is_file() {
            return Ok(Found::Layout);
        }
        return Err(unrecognised(path, folder_is(path)));
    }
    if !meta.is_file() {
        return Err(unrecognised(path, "neither a file nor a folder"));
    }
    let mut file = File::open(path).map_err(|e| reading(path, e))?;
    let mut start = Vec::new();
    (&mut file)
        .take(512)
        .read_to_end(&mut start)
        .map_err(|e| reading(path, e))?;
    use std::io::Seek as _;
    file.rewind().map_err(|e| reading(path, e))?;
    match Compression::of(&start) {
        Compression::Gzip => Ok(Found::File { file, gzip: true }),
        Compression::Zstd => Err(compressed(path, "zstd")),
        Compression::Other(name) => Err(compressed(path, name)),
        Compression::None if start.is_empty() => Err(unrecognised(path, "an empty file")),
        Compression::None => Ok(Found::File { file, gzip: false }),
    }
}

fn folder_is(path: &Path) -> &'static str {
    if path.join("manifest.json").is_file() {
        "a folder with an unpacked docker archive (pack it again with `tar -C DIR -cf FILE .`)"
    } else if path.join("bin").exists() || path.join("usr").is_dir() {
        "a root file system (run it with --rootfs)"
    } else {
        "a folder without the files oci-layout and index.json"
    }
}

/// Which of the telling names a tar holds.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Names {
    layout: bool,
    index: bool,
    manifest: bool,
    root: bool,
}

impl Names {
    /// Notes a member by its clean name.
    pub(super) fn note(&mut self, name: &[u8]) {
        match name {
            b"oci-layout" => self.layout = true,
            b"index.json" => self.index = true,
            b"manifest.json" => self.manifest = true,
            _ if name.starts_with(b"etc/") || name.starts_with(b"usr/") => self.root = true,
            _ => {}
        }
    }

    pub(super) fn format(self, path: &Path) -> Result<Format, ImageError> {
        if self.manifest {
            Ok(Format::DockerArchive)
        } else if self.layout && self.index {
            Ok(Format::LayoutTar)
        } else if self.root {
            Err(unrecognised(
                path,
                "a tar of a root file system (unpack it and use --rootfs)",
            ))
        } else {
            Err(unrecognised(
                path,
                "a tar without index.json and without manifest.json",
            ))
        }
    }
}

fn names<R: super::tarball::Forward>(mut tar: Tar<R>, path: &Path) -> Result<Names, ImageError> {
    let mut names = Names::default();
    let mut first = true;
    for _ in 0..MAX_OUTER_MEMBERS {
        match tar.next() {
            Ok(Some(member)) => names.note(&clean(&member.name)),
            Ok(None) => return Ok(names),
            Err(e) => return Err(outer_error(path, first, e)),
        }
        first = false;
    }
    Err(unrecognised(path, "a tar with more members than any image"))
}

/// A member name without `./`, doubled and trailing slashes.
pub(super) fn clean(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = name
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    parts.join(&b'/')
}

/// A problem with the outer tar; before the `first` member it means "no tar at all".
pub(super) fn outer_error(path: &Path, first: bool, error: TarError) -> ImageError {
    let at = path.display().to_string();
    match error {
        TarError::Damaged(_) if first => {
            unrecognised(path, "neither a tar nor a gzip-compressed tar")
        }
        TarError::Damaged(what) => ImageError::invalid(&at, what),
        TarError::Unsupported(what) => ImageError::Unsupported {
            at,
            what,
            remedy: "make the tar again without it",
        },
        TarError::Record(size) => ImageError::too_large(
            &at,
            format!("a tar record of {size} bytes"),
            super::limits::MAX_TAR_RECORD_BYTES,
        ),
        TarError::Io(e) => ImageError::reading(&at, e),
    }
}

pub(super) fn compressed(path: &Path, name: &str) -> ImageError {
    ImageError::Unsupported {
        at: path.display().to_string(),
        what: format!("{name} compression of the whole file"),
        remedy: "decompress it first (gzip is understood)",
    }
}

fn unrecognised(path: &Path, found: &str) -> ImageError {
    ImageError::Unrecognised {
        path: path.into(),
        found: found.into(),
    }
}

fn reading(path: &Path, e: std::io::Error) -> ImageError {
    ImageError::reading(&path.display().to_string(), e)
}

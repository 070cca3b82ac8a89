//! Unpacked layers on disk, each once, named by the digest of its content.
//!
//! ```text
//! STORE/layers/<diff id>/   complete layers, never changed again
//! STORE/tmp/<diff id>/      being unpacked by the holder of the lock
//! STORE/locks/<diff id>     locked (flock) while its layer is unpacked; never removed
//! STORE/notes/<diff id>     what was left out of the layer, one line each
//! STORE/implied/<diff id>   folders that the layer uses without naming them, NUL after each
//! ```
//!
//! A layer enters `layers/` by one rename after both digests were verified. A process that
//! dies leaves a folder in `tmp/` with a free lock: the next open removes it. All
//! folders are 0700: layers hold setuid programs of strangers (S19).

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::blobs::Blobs;
use super::compression::decoder;
use super::digest::{Digest, Hashing};
use super::error::ImageError;
use super::limits::Limits;
use super::parents::{self, Stacked};
use super::plan::Layer;
use super::tarball::{Stream, Tar};
use super::unpack::{Unpacked, unpack};

/// The store of one agent or of one user's command line.
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens or makes the store, and clears what dead processes left.
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        let store = Self { root: root.into() };
        for folder in ["layers", "tmp", "locks", "notes", "implied"] {
            let path = root.join(folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)))
                .map_err(|e| io_error(&path, "make the folder", e))?;
        }
        store.sweep();
        Ok(store)
    }

    /// Where temporary files go.
    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Removes unfinished layers whose process is gone. Best effort: what stays is met again.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.tmp()) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            match name.to_str().and_then(Digest::from_hex) {
                None => {
                    let _ = std::fs::remove_file(entry.path());
                }
                Some(diff_id) => {
                    let Ok(lock) = self.lock_file(&diff_id) else {
                        continue;
                    };
                    match lock.try_lock() {
                        Ok(()) => {
                            let _ = std::fs::remove_dir_all(entry.path());
                        }
                        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
                    }
                }
            }
        }
    }

    fn lock_file(&self, diff_id: &Digest) -> Result<File, ImageError> {
        let path = self.root.join("locks").join(diff_id.hex());
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io_error(&path, "open the lock", e))
    }

    /// The folder of `layer`, unpacked now if it is not there yet, and the notes on it.
    /// `budget` is what the image may still unpack, in bytes.
    pub(super) fn layer(
        &self,
        blobs: &Blobs,
        layer: &Layer,
        budget: &mut u64,
        limits: &Limits,
    ) -> Result<(PathBuf, Vec<String>), ImageError> {
        let ready = self.root.join("layers").join(layer.diff_id.hex());
        if ready.is_dir() {
            return Ok((ready, self.notes(&layer.diff_id)));
        }
        let lock = self.lock_file(&layer.diff_id)?;
        lock.lock()
            .map_err(|e| io_error(&self.root, "lock a layer", e))?;
        // Another process may have finished it while this one waited.
        if ready.is_dir() {
            return Ok((ready, self.notes(&layer.diff_id)));
        }
        let tmp = self.tmp().join(layer.diff_id.hex());
        remove_all(&tmp).map_err(|e| io_error(&tmp, "remove the folder", e))?;
        let result = self
            .fill(blobs, layer, &tmp, budget, limits)
            .and_then(|notes| {
                std::fs::rename(&tmp, &ready)
                    .map_err(|e| io_error(&ready, "rename into place", e))?;
                Ok((ready, notes))
            });
        if result.is_err() {
            let _ = remove_all(&tmp); // the sweep tries again
        }
        result
    }

    fn fill(
        &self,
        blobs: &Blobs,
        layer: &Layer,
        tmp: &Path,
        budget: &mut u64,
        limits: &Limits,
    ) -> Result<Vec<String>, ImageError> {
        let at = format!("layer {} of {}", layer.diff_id, blobs.at);
        let content = match &layer.blob {
            Some(blob) => blobs.blob(blob)?,
            None => blobs.reader(&layer.file)?,
        };
        DirBuilder::new()
            .mode(0o700)
            .create(tmp)
            .map_err(|e| io_error(tmp, "make the folder", e))?;
        let root = open_folder(tmp)?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755))
            .map_err(|e| io_error(tmp, "set the mode of the folder", e.into()))?;

        let mut stored = Hashing::new(content, u64::MAX);
        let decoded = decoder(&mut stored)
            .map_err(|e| ImageError::reading(&at, e))?
            .map_err(|name| ImageError::Unsupported {
                at: at.clone(),
                what: format!("{name} compression"),
                remedy: "export the image with gzip or zstd layers",
            })?;
        let mut tar = Tar::new(Stream(Hashing::new(decoded, *budget)));
        let unpacked = unpack(root, &at, &mut tar, *budget, limits);
        let mut plain = tar.into_inner().0;
        // What follows the archive (padding) belongs to the digests.
        let diff_id = match unpacked {
            Ok(_) => plain.finish().map_err(|e| ImageError::reading(&at, e)),
            Err(_) => Ok(layer.diff_id),
        };
        if plain.over {
            let what = "its uncompressed size in bytes";
            return Err(ImageError::too_large(&at, what, limits.unpacked_bytes));
        }
        let Unpacked { notes, implied } = unpacked?;
        *budget = budget.saturating_sub(plain.count);
        drop(plain);
        verify(&at, &layer.diff_id, diff_id?)?;
        if let Some(blob) = &layer.blob {
            let found = stored.finish().map_err(|e| ImageError::reading(&at, e))?;
            verify(&format!("the blob of {at}"), blob, found)?;
        }
        let path = self.root.join("notes").join(layer.diff_id.hex());
        std::fs::write(&path, notes.join("\n")).map_err(|e| io_error(&path, "write", e))?;
        let path = self.root.join("implied").join(layer.diff_id.hex());
        let mut text = Vec::new();
        for folder in &implied {
            text.extend(folder.join(&b'/'));
            text.push(0);
        }
        std::fs::write(&path, text).map_err(|e| io_error(&path, "write", e))?;
        Ok(notes)
    }

    /// The layer to put on top of `stack` (lowest first), where one is needed: see [`parents`].
    pub(super) fn parents(
        &self,
        at: &str,
        stack: &[Digest],
    ) -> Result<Option<PathBuf>, ImageError> {
        // Named by the stack; the prefix keeps it apart from any tar's digest.
        let mut name = b"divvy parents".to_vec();
        stack
            .iter()
            .for_each(|diff_id| name.extend(diff_id.hex().bytes()));
        let name = Digest::of(&name);
        let ready = self.root.join("layers").join(name.hex());
        if ready.is_dir() {
            return Ok(Some(ready));
        }
        let stacked = stack
            .iter()
            .map(|d| self.stacked(d))
            .collect::<Result<Vec<_>, _>>()?;
        let repairs = parents::repairs(at, &stacked)?;
        if repairs.is_empty() {
            return Ok(None);
        }
        let lock = self.lock_file(&name)?;
        lock.lock()
            .map_err(|e| io_error(&self.root, "lock a layer", e))?;
        if ready.is_dir() {
            return Ok(Some(ready));
        }
        let tmp = self.tmp().join(name.hex());
        remove_all(&tmp).map_err(|e| io_error(&tmp, "remove the folder", e))?;
        DirBuilder::new()
            .mode(0o700)
            .create(&tmp)
            .map_err(|e| io_error(&tmp, "make the folder", e))?;
        // overlayfs shows the top layer's own folder as `/`: it must look like the one below.
        let below = stacked
            .last()
            .and_then(|layer| rustix::fs::fstat(&layer.root).ok());
        parents::make(open_folder(&tmp)?, at, &repairs, below)?;
        std::fs::rename(&tmp, &ready).map_err(|e| io_error(&ready, "rename into place", e))?;
        Ok(Some(ready))
    }

    fn stacked(&self, diff_id: &Digest) -> Result<Stacked, ImageError> {
        let root = open_folder(&self.root.join("layers").join(diff_id.hex()))?;
        let path = self.root.join("implied").join(diff_id.hex());
        let text = std::fs::read(&path).map_err(|e| io_error(&path, "read", e))?;
        let implied = text
            .split(|b| *b == 0)
            .filter(|folder| !folder.is_empty())
            .map(|folder| folder.split(|b| *b == b'/').map(<[u8]>::to_vec).collect())
            .collect();
        Ok(Stacked { root, implied })
    }

    fn notes(&self, diff_id: &Digest) -> Vec<String> {
        let path = self.root.join("notes").join(diff_id.hex());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn verify(at: &str, expected: &Digest, found: Digest) -> Result<(), ImageError> {
    if *expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_string(), found.to_string());
    Err(ImageError::Digest {
        at: at.into(),
        expected,
        found,
    })
}

fn open_folder(path: &Path) -> Result<OwnedFd, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| io_error(path, "open the folder", e.into()))
}

fn remove_all(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn io_error(path: &Path, action: &str, e: io::Error) -> ImageError {
    ImageError::io(&path.display().to_string(), action, e)
}

//! Local images for the `oci` launcher: from a file or folder to unpacked layers.
//!
//! An image is an OCI image layout (folder, tar, tar.gz) or the output of `docker save`.
//! [`detect`] says which; [`open`] verifies it, unpacks each layer once into a shared store
//! and gives the folders that overlayfs stacks; [`lookup_user`] resolves the image's user in
//! the merged folder. Nothing is fetched: registries are Docker's business (D8).
//!
//! # Promises
//! - Whatever the image says, nothing is written outside the store (S4), nothing of it is
//!   executed, and nothing panics. Every refusal is an [`ImageError`] with a stable code.
//! - A layer in the store is complete, and both its digests were verified.
//! - Two processes may open the same image at the same time; one that dies half-way
//!   leaves only what the next call removes.
//!
//! # Left to the caller
//! - The image path is opened with the caller's rights: an agent that serves other users
//!   must check that they may read it.
//! - The store belongs to root alone. Unpacking needs root (owners, whiteouts).
//! - The configuration is the image's wish: reserved variables (S2) and the working
//!   directory (S7) are the launcher's decision.
//! - Layers are read-only by agreement: mount them as overlayfs `lowerdir` only, and with more
//!   than a few use `fsconfig`, since mount(2) takes one page of options.
//! - Images with no layer at all (`FROM scratch`) give an empty list.

mod blobs;
mod compression;
mod config;
mod digest;
mod docker;
mod error;
mod limits;
mod oci;
mod parents;
mod plan;
mod reference;
mod source;
mod store;
mod tarball;
mod tree;
mod unpack;
mod user;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub use config::ImageConfig;
pub use digest::Digest;
pub use error::ImageError;
pub use limits::{
    Limits, MAX_DOCUMENT_BYTES, MAX_ENTRIES_PER_LAYER, MAX_LAYERS, MAX_UNPACKED_BYTES,
};
pub use source::{Format, Source, detect};
pub use user::{User, lookup_user};

use super::FileId;
use blobs::Blobs;
use oci_spec::image::{Arch, Os};
use store::Store;

/// An image, ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of the manifest; of a `docker save` archive that of the configuration,
    /// which Docker calls the image id.
    pub digest: Digest,
    /// Unpacked layers, lowest first (overlayfs wants them the other way round), no folder twice.
    /// The last may be one of Divvy's own, of folders alone, which repairs owners and modes.
    pub layers: Vec<PathBuf>,
    /// What the image wants to run, and how.
    pub config: ImageConfig,
    /// What was left out of the layers (device nodes, foreign attributes), for people.
    pub notes: Vec<String>,
}

/// Opens the image at `path` and unpacks into `store` the layers that are not there yet.
///
/// `reference` picks one of several images: `name:tag`, or a `sha256:` digest. Without one the path
/// must hold one image. Of several platforms, that of this machine is taken.
/// The `oci` launcher calls this while it prepares a workload; it blocks on disk, and on
/// another process that unpacks the same layer.
///
/// # Errors
/// Any [`ImageError`] but [`ImageError::UnknownUser`]. The store stays usable after every one.
pub fn open(path: &Path, reference: Option<&str>, store: &Path) -> Result<Image, ImageError> {
    open_within(path, reference, store, &Limits::default())
}

/// [`open`], if the file or folder is the one that was looked at before.
///
/// # Errors
/// As [`open`]; or it is another one by now.
pub(crate) fn open_same(
    path: &Path,
    id: Option<FileId>,
    reference: Option<&str>,
    store: &Path,
) -> Result<Image, ImageError> {
    open_known(path, id, reference, store, &Limits::default())
}

/// [`open`] with limits of the operator's choice.
///
/// # Errors
/// As [`open`].
pub fn open_within(
    path: &Path,
    reference: Option<&str>,
    store: &Path,
    limits: &Limits,
) -> Result<Image, ImageError> {
    open_known(path, None, reference, store, limits)
}

fn open_known(
    path: &Path,
    id: Option<FileId>,
    reference: Option<&str>,
    store: &Path,
    limits: &Limits,
) -> Result<Image, ImageError> {
    // Before anything is written: a wrong path must not leave a store behind.
    source::look(path)?;
    let store = Store::open(store)?;
    let blobs = Blobs::open(path, id, &store.tmp(), limits)?;
    let plan = match blobs.format {
        Format::DockerArchive => docker::plan(&blobs, reference)?,
        Format::LayoutFolder | Format::LayoutTar => oci::plan(&blobs, reference)?,
    };
    let (os, architecture) = (plan.config.os.as_str(), plan.config.architecture.as_str());
    if !config::runs_here(&Os::from(os), &Arch::from(architecture)) {
        return Err(ImageError::NoPlatform {
            path: path.into(),
            wanted: config::this_machine(),
            available: reference::list([format!("{os}/{architecture}").as_str()].into_iter()),
        });
    }
    let mut budget = limits.unpacked_bytes;
    let mut notes = Vec::new();
    let mut seen = HashSet::new();
    let mut layers = Vec::new();
    let mut stack = Vec::new();
    // From the top: of a layer that is there twice only the upper one shows, and overlayfs
    // refuses the same folder twice.
    for layer in plan.layers.iter().rev() {
        if seen.insert(layer.diff_id) {
            let (folder, layer_notes) = store.layer(&blobs, layer, &mut budget, limits)?;
            layers.push(folder);
            stack.push(layer.diff_id);
            notes.extend(layer_notes);
        }
    }
    layers.reverse();
    stack.reverse();
    layers.extend(store.parents(&blobs.at, &stack)?);
    Ok(Image {
        digest: plan.digest,
        layers,
        config: plan.config,
        notes,
    })
}

//! What must be unpacked: the result of reading manifests, before any layer is touched.

use super::config::ImageConfig;
use super::digest::Digest;

/// One layer to unpack.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Name of the file in the image.
    pub(super) file: String,
    /// Digest of that file as stored, where the format has one.
    pub(super) blob: Option<Digest>,
    /// Digest of the uncompressed tar (OCI image spec, config.md, "Layer DiffID").
    pub(super) diff_id: Digest,
}

/// A chosen image.
#[derive(Debug)]
pub(super) struct Plan {
    /// The manifest's digest; of a docker archive the configuration's, which Docker calls image id.
    pub(super) digest: Digest,
    /// Lowest first.
    pub(super) layers: Vec<Layer>,
    pub(super) config: ImageConfig,
}

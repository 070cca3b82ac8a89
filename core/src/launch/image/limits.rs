//! How much an image may cost before it is refused (tar bombs, memory bombs).

/// Bounds on one image. The defaults leave room for any real image.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of uncompressed layer data that one [`super::open`] may produce.
    pub unpacked_bytes: u64,
    /// Entries in one layer: each costs an inode even when it has no content.
    pub entries_per_layer: u64,
    /// Bytes of one JSON document (index, manifest, configuration).
    pub document_bytes: u64,
}

/// Largest known CUDA and ROCm development images unpack to about 40 GB; this is three times that.
pub const MAX_UNPACKED_BYTES: u64 = 128 << 30;
/// A full CUDA plus conda image has about 600 000 files over all its layers.
pub const MAX_ENTRIES_PER_LAYER: u64 = 4_000_000;
/// The size up to which registries must accept manifests (OCI distribution spec, "Pushing Manifests").
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// overlayfs stacks at most 500 lower folders (`OVL_MAX_STACK`, fs/overlayfs/params.h);
/// one is kept for the folders of `parents`.
pub const MAX_LAYERS: usize = 499;
/// A name or attribute record before a tar entry: paths end at 4096 bytes, extended
/// attributes at 64 KiB each (xattr(7)), so 1 MiB holds every honest record.
pub(super) const MAX_TAR_RECORD_BYTES: u64 = 1 << 20;
/// Members of an outer tar: blobs and their folders, never files of the image.
pub(super) const MAX_OUTER_MEMBERS: usize = 65_536;
/// Indexes inside indexes. The OCI image spec (image-index.md) sets no bound; two are in use.
pub(super) const MAX_INDEX_DEPTH: usize = 4;
/// `/etc/passwd` and `/etc/group` of an image, in bytes.
pub(super) const MAX_ACCOUNT_FILE_BYTES: u64 = 4 << 20;
/// Folders in folders; bounds recursion and open descriptors when a subtree is removed.
pub(super) const MAX_PATH_DEPTH: usize = 256;
/// Folders of one layer without an entry of their own. Whole systems have about 100 000
/// folders; each costs a look into every layer.
pub(super) const MAX_IMPLIED: usize = 262_144;
/// `PATH_MAX` (limits.h).
pub(super) const MAX_PATH_BYTES: usize = 4096;
/// `NAME_MAX` (limits.h).
pub(super) const MAX_NAME_BYTES: usize = 255;

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: MAX_UNPACKED_BYTES,
            entries_per_layer: MAX_ENTRIES_PER_LAYER,
            document_bytes: MAX_DOCUMENT_BYTES,
        }
    }
}

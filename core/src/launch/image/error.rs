//! What can go wrong with a local image, said for the person who started the workload.

use std::io;
use std::path::PathBuf;

/// Why an image could not be used. Each message names what failed, where, and what to do next.
///
/// Text taken from the image is escaped (`shown`) before it gets in here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Nothing is at the path.
    #[error("no image at {}: the path does not exist; check its spelling, or create it with `docker save -o FILE NAME` or `skopeo copy docker://NAME oci:DIR`", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// What is at the path is not what was looked at.
    #[error("{} was replaced by something else meanwhile; nothing was started. Run it again when nobody moves it", path.display())]
    Replaced {
        /// The path as given.
        path: PathBuf,
    },
    /// The path holds something that is not an image.
    #[error("{} is {found}; accepted are an OCI image layout (a folder, .tar or .tar.gz) and the output of `docker save`", path.display())]
    Unrecognised {
        /// The path as given.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// The asked-for reference is not among the images there.
    #[error("no image `{reference}` in {}; it holds: {choices}", path.display())]
    NoSuchReference {
        /// The path as given.
        path: PathBuf,
        /// What was asked for.
        reference: String,
        /// The references there.
        choices: String,
    },
    /// Several images, and nothing says which.
    #[error("{} holds several images; name one of: {choices}", path.display())]
    Ambiguous {
        /// The path as given.
        path: PathBuf,
        /// The references there.
        choices: String,
    },
    /// No image for this machine.
    #[error("the image in {} is for {available}, this machine needs {wanted}; export it again for that platform", path.display())]
    NoPlatform {
        /// The path as given.
        path: PathBuf,
        /// This machine, as `os/architecture`.
        wanted: String,
        /// The platforms there.
        available: String,
    },
    /// A part that the image names is not in it.
    #[error("{at}: {blob} is missing; the export is incomplete, make it again")]
    MissingBlob {
        /// The image.
        at: String,
        /// The part.
        blob: String,
    },
    /// The image contradicts its format.
    #[error("{at}: {problem}; the image is damaged or was made wrongly, export it again")]
    Invalid {
        /// The image, or the layer in it.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// Well-formed, but nothing that Divvy can unpack.
    #[error("{at}: {what} is not supported; {remedy}")]
    Unsupported {
        /// The image, or the layer in it.
        at: String,
        /// The feature.
        what: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// An entry that would reach outside its layer, or hide from whoever looks.
    #[error(
        "refused {at}: entry {entry} {problem}; do not trust this image, get it from its maker again"
    )]
    Unsafe {
        /// The image, or the layer in it.
        at: String,
        /// The entry, escaped.
        entry: String,
        /// What it tried.
        problem: String,
    },
    /// Content and digest disagree.
    #[error(
        "{at}: the content has digest {found}, expected {expected}; the image is damaged, export it again"
    )]
    Digest {
        /// The blob or layer.
        at: String,
        /// What the image says.
        expected: String,
        /// What was read.
        found: String,
    },
    /// More than [`super::Limits`] allow.
    #[error(
        "{at}: {what} exceeds the limit of {limit}; use a smaller image, or unpack it yourself and run with --rootfs"
    )]
    TooLarge {
        /// The image, or the layer in it.
        at: String,
        /// What is too large.
        what: String,
        /// The limit, in the unit of `what`.
        limit: u64,
    },
    /// `user[:group]` does not exist in the image.
    #[error("{}: {problem} (asked for `{user}`); use a numeric uid[:gid], or a name from the image's /etc/passwd", rootfs.display())]
    UnknownUser {
        /// The merged root folder.
        rootfs: PathBuf,
        /// What was asked for.
        user: String,
        /// Which half is unknown, and why.
        problem: String,
    },
    /// Unpacking needs root (chown, mknod and `trusted.` attributes).
    #[error(
        "{at}: {action} was not permitted; unpack images as root, on a file system with extended attributes"
    )]
    Privilege {
        /// The layer.
        at: String,
        /// The refused step.
        action: String,
    },
    /// The system refused.
    #[error("{at}: cannot {action}: {source}; check free space and permissions there")]
    Io {
        /// The path or layer.
        at: String,
        /// The failed step.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ImageError {
    /// The stable code for the API and for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::NoSuchReference { .. } => "image_not_found",
            Self::Unrecognised { .. } | Self::Invalid { .. } | Self::MissingBlob { .. } => {
                "image_invalid"
            }
            Self::Replaced { .. } => "source_replaced",
            Self::Ambiguous { .. } => "image_ambiguous",
            Self::NoPlatform { .. } | Self::Unsupported { .. } => "image_unsupported",
            Self::Unsafe { .. } => "image_unsafe",
            Self::Digest { .. } => "image_digest_mismatch",
            Self::TooLarge { .. } => "image_too_large",
            Self::UnknownUser { .. } => "image_user_unknown",
            Self::Privilege { .. } => "image_needs_root",
            Self::Io { .. } => "image_io",
        }
    }

    pub(super) fn invalid(at: &str, problem: impl Into<String>) -> Self {
        Self::Invalid {
            at: at.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn unsafe_entry(at: &str, entry: &[u8], problem: impl Into<String>) -> Self {
        Self::Unsafe {
            at: at.into(),
            entry: shown(entry),
            problem: problem.into(),
        }
    }

    pub(super) fn too_large(at: &str, what: impl Into<String>, limit: u64) -> Self {
        Self::TooLarge {
            at: at.into(),
            what: what.into(),
            limit,
        }
    }

    /// An error of the system while writing here; EPERM means missing rights.
    pub(super) fn io(at: &str, action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        if source.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) {
            return Self::Privilege {
                at: at.into(),
                action: action.into(),
            };
        }
        Self::Io {
            at: at.into(),
            action: action.into(),
            source,
        }
    }

    /// An error while reading content of the image: the decoders report damage
    /// as errors without a system error number.
    pub(super) fn reading(at: &str, source: io::Error) -> Self {
        if source.raw_os_error().is_some() {
            return Self::io(at, "read it", source);
        }
        Self::invalid(
            at,
            format!("cannot be read ({})", shown(source.to_string().as_bytes())),
        )
    }
}

/// Longest piece of image text in a message, in bytes.
const SHOWN_MAX: usize = 160;

/// Text from an image, safe to print (S20): controls, quotes and non-ASCII escaped, length bounded.
pub(super) fn shown(text: &[u8]) -> String {
    let cut = text.get(..SHOWN_MAX).unwrap_or(text);
    let mut out = format!("\"{}\"", cut.escape_ascii());
    if cut.len() < text.len() {
        out.push_str("...");
    }
    out
}

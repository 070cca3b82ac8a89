//! What can go wrong with a container engine.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use bollard::errors::Error;

/// Why an engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is none.
    #[error(
        "no container engine was found: {tried}. Start one (systemctl start docker), name its socket with --docker-socket, or run a local image file with --launcher oci"
    )]
    None {
        /// Where it was looked for.
        tried: String,
    },
    /// One that is not on a unix socket.
    #[error(
        "DOCKER_HOST={0}: Divvy speaks to engines on this machine by a unix socket only; unset it, or name the socket with --docker-socket"
    )]
    Remote(String),
    /// It does not answer (any more).
    #[error(
        "the container engine at {socket} does not answer: {why}. Is it running? systemctl status docker"
    )]
    Unavailable {
        /// Its socket.
        socket: PathBuf,
        /// The system's word.
        why: String,
    },
    /// We may not.
    #[error("the container engine at {0} may not be used by this user; try: sudo divvy …")]
    Forbidden(PathBuf),
    /// It lacks what Divvy needs.
    #[error("the container engine at {socket} cannot be used: {why}")]
    Unsuitable {
        /// Its socket.
        socket: PathBuf,
        /// What it lacks, and the remedy.
        why: String,
    },
    /// It said no.
    #[error("the container engine could not {step}: {why}")]
    Failed {
        /// What was asked.
        step: &'static str,
        /// In its words.
        why: String,
    },
    /// The image is not there.
    #[error("there is no image {0:?} here; get it with: docker pull {0}")]
    NoImage(String),
    /// The image could not be pulled.
    #[error(
        "the image {image} could not be pulled: {why}. Behind a login, `docker pull {image}` does it"
    )]
    Pull {
        /// The image.
        image: String,
        /// In the engine's words.
        why: String,
    },
    /// The image is not for this machine.
    #[error("the image {image} is for {theirs}, and this machine is {ours}; pull it for {ours}")]
    OtherMachine {
        /// The image.
        image: String,
        /// Its system and architecture.
        theirs: String,
        /// Ours.
        ours: String,
    },
}

impl EngineError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::None { .. } | Self::Remote(_) | Self::Unavailable { .. } => "engine_unavailable",
            Self::Forbidden(_) => "engine_forbidden",
            Self::Unsuitable { .. } => "engine_unsuitable",
            Self::Failed { .. } => "engine_failed",
            Self::NoImage(_) => "image_missing",
            Self::Pull { .. } => "image_pull_failed",
            Self::OtherMachine { .. } => "image_architecture",
        }
    }

    /// May it be otherwise in a moment?
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::None { .. })
    }

    /// bollard's word, as ours.
    pub(super) fn of(socket: &Path, step: &'static str, error: &Error) -> Self {
        if let Error::DockerResponseServerError { message, .. } = error {
            let why = message.trim().to_owned();
            return Self::Failed { step, why };
        }
        let socket = socket.to_owned();
        match kind(error) {
            Some(io::ErrorKind::PermissionDenied) => Self::Forbidden(socket),
            Some(kind) => Self::Unavailable {
                socket,
                why: io::Error::from(kind).to_string(),
            },
            None if is_lost(error) => Self::Unavailable {
                socket,
                why: error.to_string(),
            },
            None => Self::Failed {
                step,
                why: error.to_string(),
            },
        }
    }
}

/// The system's word, somewhere below.
fn kind(error: &Error) -> Option<io::ErrorKind> {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        at = error.source();
    }
    None
}

/// The connection, not the request, went wrong.
fn is_lost(error: &Error) -> bool {
    matches!(
        error,
        Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. }
            | Error::RequestTimeoutError
            | Error::SocketNotFoundError(_)
    ) || error.source().is_some_and(|e| e.is::<io::Error>())
}

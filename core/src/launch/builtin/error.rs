//! What can go wrong in the built-in OCI runtime.

use std::path::{Path, PathBuf};

use libcontainer::error::LibcontainerError;

/// A failed call. The message is one line: what failed, on what, and why.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// {0}
    #[error("{0}")]
    Usage(String),
    /// The caller started threads first; see the module's documentation.
    #[error("the OCI runtime must run in a process with one thread, this one has {0}")]
    Threads(usize),
    /// A file or kernel call.
    #[error("{what}: {source}")]
    Io {
        what: String,
        source: std::io::Error,
    },
    /// A JSON document of the caller's or our own.
    #[error("{} is not valid: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// The bundle asks for what this runtime refuses or cannot do.
    #[error("the container's specification is refused: {0}")]
    Spec(String),
    /// The seccomp section cannot be turned into a filter.
    #[error("linux.seccomp: {0}")]
    Seccomp(String),
    /// No such container.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// The id is taken.
    #[error("container with id {0:?} exists already")]
    Exists(String),
    /// The call does not fit the container's state.
    #[error("cannot {call} container {id:?}: it is {status}")]
    State {
        call: &'static str,
        id: String,
        status: &'static str,
    },
    /// libcontainer failed.
    #[error("{what}: {}", chain(source))]
    Libcontainer {
        what: String,
        source: Box<LibcontainerError>,
    },
    /// A bug here or in libcontainer.
    #[error("internal error: {0}")]
    Bug(String),
}

/// This module's results.
pub(super) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps a kernel or file error, saying what was being done.
    pub(super) fn io<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Io {
            what,
            source: source.into(),
        }
    }

    /// As [`Error::io`], for work on one path.
    pub(super) fn path<E: Into<std::io::Error>>(verb: &str, path: &Path) -> impl FnOnce(E) -> Self {
        Self::io(format!("cannot {verb} {}", path.display()))
    }

    /// Wraps an error of libcontainer's, saying what was being done.
    pub(super) fn libcontainer<E: Into<LibcontainerError>>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Libcontainer {
            what,
            source: Box::new(source.into()),
        }
    }
}

/// Words of libcontainer's that say nothing, or again what we have said.
const NOISE: [&str; 4] = [
    "failed to create container: ",
    "exec process failed with error ",
    "error in executing process : ",
    "error in executing process: ",
];

/// An error and its causes on one line, each said once.
///
/// libcontainer's messages are terse at the top ("syscall error") and carry the
/// reason in their sources; its exec errors are padded with NUL bytes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let mut part = error.to_string().replace('\0', "");
        NOISE
            .iter()
            .for_each(|noise| part = part.replace(noise, ""));
        let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
        if !part.is_empty() && !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

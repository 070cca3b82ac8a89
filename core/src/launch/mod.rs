//! Launchers: from an allocation's edits to a running container, and back.
//!
//! Two launchers. `oci` writes an OCI bundle and drives an OCI runtime by its
//! command line; [`docker`] has a container engine make the container. Either
//! way a *monitor* stays with it.
//!
//! * [`Job`]: what is to run; `spec` renders it with the merged edits into
//!   the bundle's `config.json` (pure);
//! * `runtime`: which OCI runtime works here, by `probe`; [`builtin`] is our own;
//! * `rootfs`: what the container's root is made of; [`image`] unpacks images;
//! * `mounts`: what of the host a container may see, and what never;
//!   `source`: one such thing, looked at once, as somebody; `writable`: whether
//!   that is what was mounted, and how it comes to be written to;
//! * `remains`: what a killed carrier leaves of a container, and its end;
//! * `proof`: looks at the made container before anything runs in it;
//!
//! The process that stays with a container is [`crate::monitor`].

pub mod builtin;
pub(crate) mod cgroup;
mod container;
pub mod docker;
mod edits;
pub mod image;
mod mounts;
mod needs;
mod oci;
mod probe;
mod proof;
mod remains;
mod rootfs;
mod runtime;
mod seccomp;
mod signals;
mod source;
mod spec;
mod variables;
mod writable;

pub(crate) use cgroup::{Cgroup, Cgroups};
pub use container::{By, Container, Folder};
pub use edits::{MergeError, merge};
pub use mounts::{BindMount, MountError, check_user_mount};
pub(crate) use mounts::{check_mount_points, check_plugin_mounts, check_socket};
pub(crate) use needs::{Lack, Needs};
pub use oci::Oci;
pub(crate) use probe::sweep_probes;
pub(crate) use proof::{prove, prove_confined};
pub(crate) use remains::{
    Calls, clear, clear_unknown, end_calls, first_process, lives, was_started,
};
pub use rootfs::Root;
pub(crate) use rootfs::{assemble, disassemble, discarded, host_mounts};
pub use runtime::{Candidate, Runtime, Wanted, candidates, pick};
pub(crate) use runtime::{is_known_runtime, last_line};
pub use signals::{signal_name, signal_number};
pub use source::FileId;
pub(crate) use source::Source;
pub use spec::{Identity, Job, Network, SHM_BYTES, check_workdir};
pub(crate) use spec::{LOADER_PATH, init_args, loader_path, render, write_init};
pub use variables::Reserved;
pub(crate) use variables::{VariableFault, held_back};
pub(crate) use writable::{open_for_writing, visible};

use std::path::PathBuf;

/// Why a container could not be made or run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The OCI runtime that was asked for.
    #[error("the OCI runtime {name} cannot be used here: {why}")]
    Runtime {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// Our own files.
    #[error("{what} {path}: {error}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// The runtime or the monitor said no.
    #[error("the container could not be {step}: {why}")]
    Container {
        /// `made` or `started`.
        step: &'static str,
        /// In the runtime's words.
        why: String,
    },
    /// The container is not what was granted; it never ran.
    #[error("the container was made but is not what was granted, and was not started: {0}")]
    Unproven(String),
    /// What the host has at a path is not what was looked at.
    #[error(
        "{} was replaced by something else while the container was made; nothing was started. Run it again when nobody moves it",
        .0.display()
    )]
    Replaced(PathBuf),
    /// The container engine.
    #[error(transparent)]
    Engine(#[from] docker::EngineError),
    /// A rule that no container may break.
    #[error("{0}")]
    Forbidden(String),
}

impl LaunchError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Runtime { .. } => "runtime_unusable",
            Self::File { .. } => "state_folder",
            Self::Container { .. } => "container_failed",
            Self::Unproven(_) => "injection_unproven",
            Self::Replaced(_) => "source_replaced",
            Self::Engine(error) => error.code(),
            Self::Forbidden(_) => "forbidden",
        }
    }

    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { what, path, error }
    }
}

//! Divvy: fractional accelerators for containers, exact, enforced and
//! crash-safe.
//!
//! A request for amounts of *slots* becomes an *allocation* of *slices* of
//! devices, which plugins turn into *edits*, which a launcher renders into a
//! container. Data flows one way:
//!
//! ```text
//! plugin ─► model::Inventory ─► allocate ─► ledger ─► plugin (edits) ─► launch + monitor
//! ```
//!
//! | room | idea |
//! |---|---|
//! | [`model`] | the words, as pure types |
//! | [`allocate`] | who gets what: a pure function |
//! | [`plugin`] | plugins in processes of their own, called with a deadline, believed after a check |
//! | [`ledger`] | what was decided, durable before it is acted on |
//! | [`launch`] | from edits to a container, proven before it runs |
//! | [`monitor`] | the process that stays with one workload |
//! | [`agent`] | the state machine that ties these together |
//! | [`scenario`] | files of devices and steps, and what the allocator answers |
//! | [`cli`] | the command line: one file a verb |
//! | [`failpoint`] | where tests kill a process |
//!
//! `model` and `allocate` know no I/O, no clock and no tokio. Nothing here
//! knows a vendor: every vendor word comes from a plugin's manifest.
//!
//! ARCHITECTURE.md in the repository follows one request through the rooms.
#![deny(unsafe_code)]

pub mod agent;
pub mod allocate;
pub mod api;
pub mod cli;
pub mod config;
mod embed;
pub mod failpoint;
mod frames;
pub mod launch;
pub mod ledger;
pub mod model;
pub mod monitor;
pub mod plugin;
pub mod scenario;
pub mod server;
mod sys;

/// The roles that a program with Divvy in it starts itself in; the exit
/// status, or `None` if it was started by somebody else. They come first in
/// `main`: they must not have started a thread, opened a file or read an
/// argument as a person's.
#[must_use]
pub fn role(args: &[std::ffi::OsString]) -> Option<u8> {
    let rest = args.get(1..).unwrap_or_default();
    match args.first()?.to_str()? {
        "plugin-host" => Some(plugin::host_main(rest)),
        "oci-runtime" => Some(launch::builtin::main(rest.to_vec())),
        "monitor" => Some(monitor::main(rest)),
        _ => None,
    }
}

pub use embed::{Attachment, Builder, Divvy, Socket, Workload, blocking, init};

//! The harness of the end-to-end tests: few verbs.
//!
//! ```no_run
//! use divvy_tests::Machine;
//!
//! let machine = Machine::with(&["cpu"]);
//! machine.divvy("devices").run().succeeds().says("core");
//! ```
//!
//! A [`Machine`] is a folder with plugins and a state of its own on the real
//! machine; what it started ends with it. Every assertion prints the command
//! with both of its outputs.
#![deny(unsafe_code)]

pub mod clients;
mod command;
pub mod dockerd;
mod machine;
pub mod needs;
pub mod npu;
pub mod nvidia;
pub mod rootfs;
pub mod soak;
pub mod state;
mod terminal;

pub use command::{Divvy, Output, Running};
pub use machine::{Agent, Machine, eventually, executable, hosts_of};
pub use terminal::OnTerminal;

/// Ends a test, loudly, on a machine that lacks something:
/// `requires!(runc, root);`. See [`needs`].
#[macro_export]
macro_rules! requires {
    ($($thing:ident),+ $(,)?) => {$(
        if let Err(remedy) = $crate::needs::$thing() {
            $crate::needs::skip(stringify!($thing), remedy);
            return;
        }
    )+};
}

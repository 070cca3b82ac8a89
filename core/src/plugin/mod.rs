//! Plugins: found, loaded in a process of their own, called with a deadline,
//! and believed only after a check.
//!
//! * [`find`]: which files, and whether they are safe to load;
//! * [`host_main`]: the child process that holds one plugin;
//! * `process`: one such child, seen from the agent: spawn, call, kill, reap;
//! * [`Client`]: one plugin over the lives of its hosts: restart, back-off,
//!   quarantine, `stuck`;
//! * [`Set`]: all plugins of a machine, and the [`Inventory`] they make;
//! * `check`: does a plugin keep the contract? `dev`: what it does, shown;
//! * `rule`: what replies must keep, in words;
//! * `validate`: the edge where a plugin's word becomes a fact, or is refused.
//!
//! [`Inventory`]: crate::model::Inventory

pub(crate) mod check;
mod client;
mod crashes;
pub(crate) mod dev;
mod find;
mod host;
mod process;
mod rule;
mod set;
pub(crate) mod validate;
mod wire;

pub use client::{CallError, Client, Holdings, Status};
pub use crashes::{Crash, Crashes};
pub use find::{FindError, PluginFile, find};
pub(crate) use find::{check_ancestors, check_file, open as open_file};
pub use host::main as host_main;
pub use set::{Answer, OpenError, Set, Settings, combine};

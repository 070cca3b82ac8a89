//! Divvy: fractional accelerators for containers, exact, enforced and
//! crash-safe.
#![deny(unsafe_code)]

pub mod agent;
pub mod allocate;
pub mod cli;
mod frames;
pub mod launch;
pub mod ledger;
pub mod model;
pub mod monitor;
pub mod plugin;
mod sys;

//! Divvy.
#![deny(unsafe_code)]
pub mod allocate;
mod frames;
pub mod ledger;
pub mod model;
pub mod plugin;
mod sys;

//! Stands in for NVIDIA's `libnvidia-ml.so.1` (NVML), with the vendor's names, signatures
//! and structs: programs that use the real one use this one, unchanged.
//!
//! What it says comes from the machine's description beside it ([`divvy_nvidia_machine`]), as
//! that is at the time of each call. What a GPU of the description lacks is
//! `NVML_ERROR_NOT_SUPPORTED`, as from the real driver. Of what would change the machine only
//! MIG is done (`divide`); the rest is not supported.
//!
//! - `abi`: what crosses the boundary, and the only unsafe code but for the functions' heads;
//! - `state`: initialised or not, handles, what each call begins with;
//! - the others: NVML's functions by topic; `refused` has those that no GPU here supports.
//!
//! That a function's type is the vendor's is checked when this is compiled, against
//! `nvml-wrapper-sys`.

// The names are the vendor's.
#![allow(non_snake_case, non_upper_case_globals)]

#[macro_use]
mod abi;
mod clocks;
mod compute;
mod divide;
mod events;
mod fields;
mod handles;
mod health;
mod identity;
mod links;
mod memory;
mod mig;
mod pci;
mod power;
mod processes;
mod refused;
mod state;
mod system;

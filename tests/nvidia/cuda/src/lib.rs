//! Stands in for NVIDIA's `libcuda.so.1` (CUDA's driver API).
//!
//! The GPUs are those of the [`divvy_nvidia_machine::Description`] beside the shared object. What
//! is true of them as of real ones: which of them a process sees, whether memory is
//! left, over all processes, and in which order and when work ends. What is not: kernels
//! compute nothing. They take the time that the description says.
//!
//! Device memory is host memory at the same address, of which pages come into being only
//! when they are touched. Copies and fills are done when they are asked for; only their
//! *time* is in stream order.
//!
//! Each exported function has the type that the `cudarc` crate's bindings have for it, or
//! this does not compile (`abi.rs`). Functions that are not played answer
//! `CUDA_ERROR_NOT_SUPPORTED` (`absent.rs`).

#[macro_use]
mod abi;
mod absent;
mod address;
mod array;
mod attributes;
mod bytes;
mod call;
mod capture;
mod code;
mod context;
mod copy;
mod device;
mod devices;
mod driver;
mod errors;
mod event;
mod function;
mod graph;
mod image;
mod memory;
mod module;
mod per_thread;
mod pointer;
mod pool;
mod space;
mod state;
mod stream;
mod time;
mod versions;
mod virtual_memory;
mod work;

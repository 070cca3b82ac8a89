//! Machines with NVIDIA GPUs that are not there.
//!
//! A *machine* is a folder: `machine.toml` (what `divvy --machine` reads) and
//! `root/`, which stands for `/`: device nodes, `/proc` and `/sys` as NVIDIA's
//! driver fills them, and shared objects with the names of the driver's
//! libraries. Those take what they say from one file beside them,
//! `libnvidia-simulator.so.VERSION`: the [`Description`]. Wherever the driver's
//! libraries are mounted, it is mounted with them, so a container's libraries
//! know the machine too. Changing that file ([`Machine::change`]) changes the machine, while
//! programs use it.
//!
//! What processes allocate is held as locks on that same file ([`memory`]): exact over
//! processes and containers, and gone with the process, as with the real driver.

mod description;
mod elf;
mod files;
mod kmsg;
mod machine;
pub mod memory;
pub mod mig;
pub mod pci;
mod stage;

pub use description::{
    Answer, Description, Fault, Gpu, GpuInstance, Instance, Link, Majors, Process, Profile, Wrong,
    Xid,
};
pub use files::capability;
pub use machine::{DESCRIPTION, Error, Machine, Node};
pub use stage::{Libraries, stage};

/// The folder of the descriptions that tests and people use, `NAME.toml`.
pub const MACHINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../machines");

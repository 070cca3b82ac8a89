//! Divvy's plugin for CPU cores and memory.
//!
//! Serves the two slots that every machine has: `cpu`, in hundredths of a
//! physical core, and `mem`, in bytes of NUMA nodes. It reads `/sys` and
//! `/proc` under a configurable root folder and nothing else; it writes
//! nothing, anywhere: the kernel enforces its limits through the container's
//! cgroup, which the agent makes. So there is nothing to undo either.
//!
//! It promises that the cores and nodes that it lists exist, are online and
//! may be used by this process's cgroup (or exist at all, with
//! `allowed=all`), that no file that it cannot read hides anything but that
//! file's own fact, and that every amount is exact.
//!
//! It refuses to decide who gets what. That a core is not granted twice is
//! the core's business.
//!
//! One idea per module: [`cpulist`](CpuSet) and `sysfs` read; `topology`,
//! `numa`, `gpu`, `hybrid` and `cgroup` understand; `reserve` keeps some
//! back; `discover`, `slice`, `prepare`, `quota` and `sample` are the
//! operations; [`Counts`] compares with other tools.

#![deny(unsafe_code)]

mod cgroup;
mod config;
mod counts;
mod cpulist;
mod discover;
mod error;
mod gpu;
mod hybrid;
mod numa;
mod prepare;
mod quota;
mod reserve;
mod sample;
mod slice;
mod sysfs;
mod topology;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use divvy_plugin::{
    Amount, DefaultAmount, Discovery, Draw, Edits, EnforcementLevel, Manifest, OpenRequest, Plugin,
    PluginError, PrepareRequest, ReleaseRequest, RestoreRequest, Samples, Shape, Slot,
};

pub use counts::{Counts, NodeCounts};
pub use cpulist::{CpuSet, ListError};
pub use topology::{Core, CoreType, Node, Scope, Topology};

use config::Config;
use error::Error;
use slice::{CPU, Grant, MEM};
use sysfs::Reader;

/// The plugin, opened.
#[derive(Debug)]
pub struct CpuPlugin {
    config: Config,
    /// Each core's threads when the devices were last listed: what the agent
    /// believes. `prepare` refuses a core that has lost some since.
    listed: Mutex<BTreeMap<String, CpuSet>>,
}

impl CpuPlugin {
    /// Looks at the machine, now.
    #[must_use]
    pub fn topology(&self) -> Topology {
        Topology::read(Reader::new(&self.config.root), self.config.scope)
    }
}

impl Plugin for CpuPlugin {
    fn manifest() -> Manifest {
        Manifest {
            name: "cpu".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "CPU cores and memory of this machine".into(),
            slots: vec![
                Slot {
                    summary: "physical CPU cores, with all of their hardware threads".into(),
                    quantum: slice::core_quantum(),
                    class: "cpu".into(),
                    draws: vec![Draw::unit("cores")],
                    default: Some(DefaultAmount::Fixed(Amount::ONE)),
                    ..Slot::new(
                        CPU,
                        "core",
                        Shape::WholeThenFraction,
                        EnforcementLevel::Kernel,
                    )
                },
                Slot {
                    summary: "memory of the host".into(),
                    class: "memory".into(),
                    draws: vec![Draw::unit("memory")],
                    default: Some(DefaultAmount::Like(CPU.into())),
                    ..Slot::new(MEM, "byte", Shape::Divisible, EnforcementLevel::Kernel)
                },
            ],
            // All variables are defaults that the user's own win over.
            reserved_env: vec![],
            config: config::keys(),
        }
    }

    fn open(request: &OpenRequest) -> Result<Self, PluginError> {
        let plugin = Self {
            config: Config::parse(&request.config)?,
            listed: Mutex::default(),
        };
        // A reserve that this machine cannot have is found out now rather
        // than by a workload; without a reserve nothing need be read.
        if plugin.config.reserved_cores > 0 || plugin.config.reserved_mem > 0 {
            reserve::check(&plugin.topology(), &plugin.config)?;
        }
        Ok(plugin)
    }

    fn discover(&self) -> Result<Discovery, PluginError> {
        let mut topology = self.topology();
        if topology.cores.is_empty() {
            let root = self.config.root.display().to_string();
            return Err(Error::NothingFound(root).into());
        }
        // CPUs may have gone since `open`; then what is left is kept.
        if let Err(error) = reserve::check(&topology, &self.config) {
            topology.warnings.push(error.to_string());
        }
        let reserved = reserve::choose(&topology, &self.config);
        let discovery = discover::discovery(&topology, &reserved);
        let threads = topology.cores.into_iter().map(|c| (c.id, c.threads));
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = threads.collect();
        Ok(discovery)
    }

    /// Reads the machine anew: CPUs come and go.
    fn prepare(&self, request: &PrepareRequest) -> Result<Edits, PluginError> {
        let topology = self.topology();
        let reserved = reserve::choose(&topology, &self.config);
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = Grant::check(&request.slices, &topology, &reserved, &listed)?;
        Ok(prepare::edits(&grant, &topology)?)
    }

    /// Nothing to undo: `prepare` changes nothing on the machine, and the
    /// limits end with the container's cgroup.
    fn release(&self, _: &ReleaseRequest) -> Result<(), PluginError> {
        Ok(())
    }

    /// Nothing to learn: no state is kept by allocation.
    fn restore(&self, _: &RestoreRequest) -> Result<(), PluginError> {
        Ok(())
    }

    fn sample(&self) -> Result<Samples, PluginError> {
        let reader = Reader::new(&self.config.root);
        Ok(sample::samples(&reader, &self.topology()))
    }
}

/// The one symbol that the plugin host looks for.
#[allow(unsafe_code)] // what the macro expands to
mod export {
    divvy_plugin::export_plugin!(super::CpuPlugin);
}

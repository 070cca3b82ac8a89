//! A topology in numbers, to compare with other tools' (hwloc, lscpu).

use std::collections::BTreeSet;

use crate::cpulist::CpuSet;
use crate::topology::Topology;

/// How much of everything there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Packages with a usable core or, as hwloc counts, a usable NUMA node; 0
    /// where the kernel names none.
    pub packages: usize,
    /// Physical cores with a usable thread.
    pub cores: usize,
    /// Usable hardware threads.
    pub pus: usize,
    /// Usable hardware threads, in the kernel's list format.
    pub cpus: String,
    /// Usable NUMA nodes.
    pub nodes: Vec<NodeCounts>,
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCounts {
    /// The kernel's number.
    pub id: u32,
    /// Its usable CPUs, in the kernel's list format.
    pub cpus: String,
    /// Its memory, where known.
    pub memory_bytes: Option<u64>,
}

impl Counts {
    /// Counts what is usable in a topology.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        let cpus: CpuSet = topology.cores.iter().flat_map(|c| &c.threads).collect();
        let nodes = topology.nodes.iter().filter(|node| node.usable);
        let of_cores = topology.cores.iter().filter_map(|core| core.package);
        let of_nodes = nodes.clone().flat_map(|node| node.packages.iter().copied());
        let packages: BTreeSet<_> = of_cores.chain(of_nodes).collect();
        Self {
            packages: packages.len(),
            cores: topology.cores.len(),
            pus: cpus.len(),
            cpus: cpus.to_string(),
            nodes: nodes
                .map(|node| NodeCounts {
                    id: node.id,
                    cpus: node.cpus.to_string(),
                    memory_bytes: node.memory,
                })
                .collect(),
        }
    }
}

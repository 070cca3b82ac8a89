//! Slices as limits of a container's cgroup.
//!
//! * `cpuset.cpus`: every hardware thread of every granted core.
//! * Quota: the sum over the cores of share × threads, in CPU seconds per
//!   second. A whole core with two threads may run both of them all the time;
//!   half of it may use half of what both can do. There is one quota for the
//!   container, not one for each core.
//! * `cpuset.mems`: the nodes of the granted memory; without any, the nodes of
//!   the cores. A core whose node has no memory to give takes the nearest
//!   node that has; one in no node takes all (a cpuset with a memoryless
//!   node alone is refused by the kernel).
//! * Memory: the sum of the granted bytes.
//!
//! And a hint to the libraries that would otherwise start one thread for each
//! CPU of the machine. Only variables that are read by what they are named
//! after:
//! OpenMP 5.2 §21.1.2; OpenBLAS README "Setting the number of threads"; oneMKL
//! Developer Guide "MKL_NUM_THREADS"; BLIS docs/Multithreading.md; NumExpr user
//! guide "Threadpool Configuration" (the pool's size and its upper limit);
//! rayon `ThreadPoolBuilder::num_threads`; Go package runtime; Julia manual
//! "Environment Variables"; Polars `thread_pool_size`. Left out:
//! `TBB_NUM_THREADS`, which oneTBB does not read (oneTBB #1261);
//! `VECLIB_MAXIMUM_THREADS`, as Apple's library is not on Linux;
//! `MALLOC_ARENA_MAX`, which trades speed for memory and is no thread count.

use std::collections::BTreeMap;

use divvy_plugin::{Amount, Edits, EnvVar, Resources};

use crate::cpulist::CpuSet;
use crate::error::Error;
use crate::quota::quota;
use crate::slice::Grant;
use crate::topology::{Core, Node, Topology};

/// Variables by which libraries take a number of threads.
const THREAD_VARIABLES: [&str; 10] = [
    "BLIS_NUM_THREADS",
    "GOMAXPROCS",
    "JULIA_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
];

/// The edits for one allocation.
pub(crate) fn edits(grant: &Grant<'_>, topology: &Topology) -> Result<Edits, Error> {
    let mut edits = Edits {
        resources: Resources {
            cpuset_mems: mems(grant, topology),
            memory_bytes: memory(grant)?,
            ..Resources::default()
        },
        ..Edits::default()
    };
    let mut note = |key: &str, value: String| {
        edits.annotations.insert(format!("divvy.cpu.{key}"), value);
    };
    if let Some(nodes) = &edits.resources.cpuset_mems {
        note("nodes", nodes.clone());
    }
    if grant.cores.is_empty() {
        return Ok(edits);
    }
    let cpus: CpuSet = grant.cores.iter().flat_map(|(c, _)| &c.threads).collect();
    let shares = grant.cores.iter();
    let shares: Vec<_> = shares.map(|(core, a)| format!("{}={a}", core.id)).collect();
    note("cores", shares.join(","));
    note("cpus", cpus.to_string());
    let time = thread_time(&grant.cores);
    edits.resources.cpuset_cpus = Some(cpus.to_string());
    edits.resources.cpu_quota = Some(quota(time).ok_or(Error::NoQuota)?);
    let threads = time.div_ceil(Amount::ONE.nanos()).max(1).to_string();
    edits.env = THREAD_VARIABLES
        .map(|name| EnvVar {
            name: name.into(),
            value: threads.clone(),
            default: true,
        })
        .into();
    Ok(edits)
}

/// CPU seconds per second, in nano-units.
fn thread_time(cores: &[(&Core, Amount)]) -> u128 {
    cores
        .iter()
        .map(|(core, amount)| {
            amount.nanos() * u128::try_from(core.threads.len()).unwrap_or(u128::MAX)
        })
        .sum()
}

fn memory(grant: &Grant<'_>) -> Result<Option<u64>, Error> {
    if grant.memory.is_empty() {
        return Ok(None);
    }
    let mut bytes = grant.memory.iter().map(|(_, bytes)| *bytes);
    let sum = bytes.try_fold(0, u64::checked_add);
    sum.map(Some).ok_or(Error::TooMuchMemory)
}

fn mems(grant: &Grant<'_>, topology: &Topology) -> Option<String> {
    let nodes: CpuSet = if grant.memory.is_empty() {
        let cores = grant.cores.iter();
        cores.flat_map(|(core, _)| near(core, topology)).collect()
    } else {
        grant.memory.iter().map(|(node, _)| node.id).collect()
    };
    (!nodes.is_empty()).then(|| nodes.to_string())
}

/// The memory nodes to use for a core.
fn near(core: &Core, topology: &Topology) -> Vec<u32> {
    let givers: Vec<&Node> = topology.nodes.iter().filter(|n| n.gives_memory()).collect();
    let all = || givers.iter().map(|node| node.id).collect();
    let Some(home) = core.node else {
        return all();
    };
    let no_distances = BTreeMap::new();
    let distances = topology
        .nodes
        .iter()
        .find(|node| node.id == home)
        .map_or(&no_distances, |node| &node.distances);
    if givers.iter().any(|node| node.id == home) {
        return vec![home];
    }
    let known = givers
        .iter()
        .filter_map(|node| Some((distances.get(&node.id)?, node.id)));
    match known.min() {
        Some((_, nearest)) => vec![nearest],
        None => all(),
    }
}

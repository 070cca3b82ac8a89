//! What is kept free for the machine itself.
//!
//! **Cores**: on hybrid machines efficiency cores first; then by package and
//! by lowest CPU number. The first CPUs of the first package take most
//! interrupts and kernel threads, so workloads miss them least.
//!
//! **Memory**: from every node in proportion to what it can give, so that the
//! nodes stay as alike as they are; what rounding leaves over comes from the
//! lowest nodes that still have it. Memory set aside as huge pages is never
//! given out (a cgroup's ordinary memory cannot use it) and comes on top;
//! memory of a GPU is kept whole.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;
use crate::error::Error;
use crate::topology::{CoreType, Node, Topology};

/// What is kept free on one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// Ids of cores.
    pub(crate) cores: BTreeSet<String>,
    /// Bytes by node.
    pub(crate) memory: BTreeMap<u32, u64>,
}

/// Can the settings be met on this machine?
pub(crate) fn check(topology: &Topology, config: &Config) -> Result<(), Error> {
    let there = topology.cores.len();
    let wanted = config.reserved_cores;
    if usize::try_from(wanted).map_or(true, |wanted| wanted > there) {
        return Err(Error::TooManyReserved { wanted, there });
    }
    let (wanted, there) = (config.reserved_mem, offered(topology));
    if wanted > there {
        return Err(Error::TooMuchReserved { wanted, there });
    }
    Ok(())
}

/// Chooses; where the settings exceed the machine, all of it.
pub(crate) fn choose(topology: &Topology, config: &Config) -> Reserved {
    let mut order: Vec<_> = topology.cores.iter().collect();
    order.sort_by_key(|core| {
        let fast = core.kind != Some(CoreType::Efficiency);
        (fast, core.package, core.threads.first())
    });
    let cores = usize::try_from(config.reserved_cores).unwrap_or(usize::MAX);
    Reserved {
        cores: order.iter().take(cores).map(|c| c.id.clone()).collect(),
        memory: memory(topology, config.reserved_mem),
    }
}

fn memory(topology: &Topology, wanted: u64) -> BTreeMap<u32, u64> {
    let total = offered(topology);
    let wanted = wanted.min(total);
    let share = |node: &Node| {
        // At most the node's own, so it fits.
        let part = u128::from(wanted) * u128::from(ordinary(node)) / u128::from(total.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    };
    let mut rest = wanted - topology.nodes.iter().map(share).sum::<u64>();
    let mut kept = BTreeMap::new();
    for node in &topology.nodes {
        let all = node.memory.unwrap_or(0);
        let bytes = if node.gives_memory() {
            let more = rest.min(ordinary(node) - share(node));
            rest -= more;
            all - ordinary(node) + share(node) + more
        } else {
            all
        };
        kept.insert(node.id, bytes);
    }
    kept
}

/// What a node can give before anything is reserved.
fn ordinary(node: &Node) -> u64 {
    match node.gives_memory() {
        true => node.memory.unwrap_or(0).saturating_sub(node.huge_pages),
        false => 0,
    }
}

fn offered(topology: &Topology) -> u64 {
    topology.nodes.iter().map(ordinary).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Scope;
    use proptest::prelude::*;

    fn node(id: u32, memory: u64, huge_pages: u64, gpu: bool) -> Node {
        Node {
            id,
            cpus: [id].into_iter().collect(),
            packages: BTreeSet::new(),
            memory_only: gpu,
            memory: Some(memory),
            huge_pages,
            distances: BTreeMap::new(),
            gpu: gpu.then(|| "0000:01:00.0".into()),
            usable: true,
        }
    }

    fn machine(nodes: Vec<Node>) -> Topology {
        Topology {
            nodes,
            ..Topology::default()
        }
    }

    fn config(reserved_mem: u64) -> Config {
        Config {
            root: "/".into(),
            reserved_cores: 0,
            reserved_mem,
            scope: Scope::All,
        }
    }

    #[test]
    fn memory_is_kept_in_proportion() {
        let topology = machine(vec![
            node(0, 300, 0, false),
            node(33, 100, 0, false),
            node(255, 5000, 0, true),
        ]);
        let kept = choose(&topology, &config(101)).memory;
        assert_eq!(kept, [(0, 76), (33, 25), (255, 5000)].into());
    }

    #[test]
    fn huge_pages_come_on_top() {
        let topology = machine(vec![node(0, 100, 60, false), node(1, 40, 0, false)]);
        let kept = choose(&topology, &config(10)).memory;
        assert_eq!(kept, [(0, 65), (1, 5)].into());
        assert!(check(&topology, &config(81)).is_err());
        assert!(check(&topology, &config(80)).is_ok());
    }

    proptest! {
        #[test]
        fn exactly_what_was_asked_is_kept(
            sizes in prop::collection::vec((1_u64..1 << 40, 0_u64..1 << 40), 1..20),
            wanted in 0_u64..1 << 44,
        ) {
            let nodes = sizes.iter().zip(0..).map(|(&(m, h), id)| node(id, m, h, false));
            let topology = machine(nodes.collect());
            let kept = choose(&topology, &config(wanted)).memory;
            for node in &topology.nodes {
                prop_assert!(kept[&node.id] <= node.memory.unwrap());
            }
            let huge: u64 = sizes.iter().map(|&(m, h)| h.min(m)).sum();
            prop_assert_eq!(kept.values().sum::<u64>(), huge + wanted.min(offered(&topology)));
        }
    }
}

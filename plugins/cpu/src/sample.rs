//! Counters of cores and memory.
//!
//! * `busy_seconds_total` of a core: the time that its threads did anything
//!   (user, nice, system, interrupts; not idle, not waiting for input or
//!   output, not stolen by a hypervisor), from `/proc/stat`. A rate is the
//!   difference of two samples; a core with two threads can gain two seconds
//!   in one.
//! * `memory_total_bytes` and `memory_used_bytes` of a node. Used is what
//!   could not be had back at once: total − free − file cache − reclaimable
//!   slab. (A node's `meminfo` has no `MemAvailable`.)

use std::collections::BTreeMap;

use divvy_plugin::{Amount, Samples};

use crate::discover::memory_id;
use crate::numa::meminfo;
use crate::sysfs::Reader;
use crate::topology::{Core, Node, Topology};

/// `/proc/stat` counts in USER_HZ, 100 per second in the ABI of every
/// architecture that matters (proc_stat(5); asm-generic/param.h), whatever
/// the kernel's own tick is.
const NANOS_PER_TICK: u128 = 10_000_000;

/// Measures everything that can be measured.
pub(crate) fn samples(reader: &Reader, topology: &Topology) -> Samples {
    let stat = reader.text("proc/stat").unwrap_or_default();
    let ticks: BTreeMap<u32, u128> = stat.lines().filter_map(busy_ticks).collect();
    let cores = topology
        .cores
        .iter()
        .filter_map(|core| Some((core.id.clone(), core_measures(core, &ticks)?)));
    let nodes = topology.nodes.iter().filter(|node| node.usable);
    let memory =
        nodes.filter_map(|node| Some((memory_id(node.id), memory_measures(reader, node)?)));
    Samples {
        devices: cores.chain(memory).collect(),
        ..Samples::default()
    }
}

/// `cpu3 USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ ...`
fn busy_ticks(line: &str) -> Option<(u32, u128)> {
    let mut fields = line.strip_prefix("cpu")?.split_ascii_whitespace();
    // The first line, `cpu `, is the sum of all: its first field has not
    // begun right after the word.
    if line.as_bytes().get(3) == Some(&b' ') {
        return None;
    }
    let cpu = fields.next()?.parse().ok()?;
    let times: Vec<u64> = fields.map_while(|f| f.parse().ok()).collect();
    let [user, nice, system, _idle, rest @ ..] = times.as_slice() else {
        return None;
    };
    let interrupts = rest.iter().skip(1).take(2);
    let busy = [user, nice, system].into_iter().chain(interrupts);
    Some((cpu, busy.map(|&t| u128::from(t)).sum()))
}

fn core_measures(core: &Core, ticks: &BTreeMap<u32, u128>) -> Option<BTreeMap<String, Amount>> {
    let threads = core.threads.iter().map(|cpu| ticks.get(&cpu).copied());
    // One thread missing would make the sum run backwards.
    let sum = threads.sum::<Option<u128>>()?;
    let time = Amount::from_nanos(sum.checked_mul(NANOS_PER_TICK)?)?;
    Some([("busy_seconds_total".to_owned(), time)].into())
}

fn memory_measures(reader: &Reader, node: &Node) -> Option<BTreeMap<String, Amount>> {
    let own = format!("sys/devices/system/node/node{}/meminfo", node.id);
    let text = reader.text(&own).or_else(|| reader.text("proc/meminfo"))?;
    let facts = meminfo(&text);
    let total = facts.get("MemTotal").copied().filter(|&bytes| bytes > 0)?;
    let mut measures =
        BTreeMap::from([("memory_total_bytes".to_owned(), Amount::from_units(total))]);
    if let Some(free) = facts.get("MemFree") {
        let back = ["Active(file)", "Inactive(file)", "SReclaimable"]
            .iter()
            .filter_map(|key| facts.get(key))
            .fold(*free, |sum, &bytes| sum.saturating_add(bytes));
        let used = Amount::from_units(total.saturating_sub(back));
        measures.insert("memory_used_bytes".into(), used);
    }
    Some(measures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_stat() {
        assert_eq!(busy_ticks("cpu0 1 2 3 1000 50 4 5 999 7 7"), Some((0, 15)));
        assert_eq!(busy_ticks("cpu7 1 2 3 4"), Some((7, 6))); // Linux 2.4
        for line in ["cpu  1 2 3 4", "cpu", "cpu1 1 2", "cpux 1 2 3 4", "intr 1"] {
            assert_eq!(busy_ticks(line), None, "{line:?}");
        }
    }
}

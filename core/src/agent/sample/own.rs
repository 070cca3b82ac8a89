//! What the kernel counts of each workload: read from its cgroup, never written.

use std::collections::BTreeMap;

use divvy_plugin::Amount;

use super::Measures;
use crate::launch::{Cgroup, Cgroups};
use crate::model::{Record, State};

/// The measures of each workload that runs, by id: `cpu_seconds_total`,
/// `memory_used_bytes`, `processes_count`. What cannot be read is absent.
pub(super) fn measures(records: &[Record]) -> BTreeMap<String, Measures> {
    let Ok(cgroups) = Cgroups::now() else {
        return BTreeMap::new();
    };
    let running = records.iter().filter(|r| r.state == State::Running);
    running
        .filter_map(|record| {
            let cgroup = cgroups.of(record.pid?).ok()?;
            // Else its process is gone and another has its number.
            let is_its = cgroup.belongs_to(record.cgroup_name());
            is_its.then(|| (record.id.clone(), of(&cgroup)))
        })
        .collect()
}

fn of(cgroup: &Cgroup) -> Measures {
    let cpu = cgroup.cpu_us().map(|us| u128::from(us) * 1000);
    [
        ("cpu_seconds_total", cpu.and_then(Amount::from_nanos)),
        (
            "memory_used_bytes",
            cgroup.memory_used().map(Amount::from_units),
        ),
        (
            "processes_count",
            cgroup.processes().map(Amount::from_units),
        ),
    ]
    .into_iter()
    .filter_map(|(name, amount)| Some((name.to_owned(), amount?)))
    .collect()
}

//! Whose a process is that a plugin measured: the workload's in whose cgroup it is.
//!
//! A driver tells processes by number, and knows of no container. What it says of a
//! whole device is never shown as a workload's, not even where the workload has the
//! device to itself: somebody else may use it too.

use std::collections::BTreeMap;
use std::fs;

use divvy_plugin::{Amount, ProcessSample};

use super::Measures;
use crate::launch::Cgroups;
use crate::ledger::Ledger;

/// What can be summed over processes; of other measures (a temperature, a clock) a sum
/// says nothing.
const SUMMED: [&str; 2] = ["_bytes", "_ratio"];

/// What one plugin's processes use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributed {
    /// By workload's id, then by device.
    pub(super) workloads: BTreeMap<String, BTreeMap<String, Measures>>,
    /// Of processes that are no workload's.
    pub(super) foreign: Vec<Foreign>,
}

/// What a process uses that is no workload's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) sample: ProcessSample,
    /// What it is called, if it is still there.
    pub(super) command: Option<String>,
}

/// Who some processes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owners {
    /// The workload's id, by process.
    pub(super) workloads: BTreeMap<u32, String>,
    /// The names of the other processes.
    pub(super) commands: BTreeMap<u32, String>,
}

impl Owners {
    /// Looks at processes, now. Where the ledger cannot be read they are nobody's.
    pub(super) fn of(pids: &[u32], ledger: &Ledger) -> Self {
        let mut owners = Self::default();
        if pids.is_empty() {
            return owners;
        }
        let records = ledger.shared_records().unwrap_or_default();
        let cgroups = Cgroups::now().ok();
        for pid in pids {
            let cgroup = cgroups.as_ref().and_then(|all| all.of(*pid).ok());
            let owner = cgroup.and_then(|cgroup| {
                let mut held = records.iter().filter(|r| r.holds());
                held.find(|r| cgroup.belongs_to(r.cgroup_name()))
            });
            if let Some(owner) = owner {
                owners.workloads.insert(*pid, owner.id.clone());
            } else if let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) {
                owners.commands.insert(*pid, name.trim_end().to_owned());
            }
        }
        owners
    }
}

/// Sums what processes use by workload and device, and lists what is nobody's.
pub(super) fn attribute(processes: Vec<ProcessSample>, owners: &Owners) -> Attributed {
    let mut all = Attributed::default();
    for sample in processes {
        let Some(owner) = owners.workloads.get(&sample.pid) else {
            let command = owners.commands.get(&sample.pid).cloned();
            all.foreign.push(Foreign { sample, command });
            continue;
        };
        let devices = all.workloads.entry(owner.clone()).or_default();
        let sums = devices.entry(sample.device).or_default();
        for (name, amount) in sample.measures {
            if SUMMED.iter().any(|unit| name.ends_with(unit)) {
                let sum: &mut Amount = sums.entry(name).or_default();
                *sum = [*sum, amount].into_iter().sum();
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(device: &str, pid: u32, measures: &[(&str, u64)]) -> ProcessSample {
        let measures = measures.iter();
        ProcessSample {
            device: device.into(),
            pid,
            measures: measures
                .map(|(name, n)| ((*name).to_owned(), Amount::from_units(*n)))
                .collect(),
        }
    }

    fn owners() -> Owners {
        Owners {
            workloads: [
                (1, "w".to_owned()),
                (2, "w".to_owned()),
                (3, "v".to_owned()),
            ]
            .into(),
            commands: [(9, "Xorg".to_owned())].into(),
        }
    }

    #[test]
    fn a_workloads_processes_are_summed_on_each_device_apart() {
        let all = attribute(
            vec![
                process("a", 1, &[("memory_used_bytes", 5)]),
                process(
                    "a",
                    2,
                    &[("memory_used_bytes", 7), ("utilization_ratio", 1)],
                ),
                process("b", 2, &[("memory_used_bytes", 11)]),
                process("a", 3, &[("memory_used_bytes", 13)]),
            ],
            &owners(),
        );
        let of = |id: &str, device: &str| {
            let measures = &all.workloads[id][device];
            measures
                .iter()
                .map(|(name, amount)| format!("{name} {amount}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("w", "a"),
            ["memory_used_bytes 12", "utilization_ratio 1"]
        );
        assert_eq!(of("w", "b"), ["memory_used_bytes 11"]);
        assert_eq!(of("v", "a"), ["memory_used_bytes 13"]);
        assert!(all.foreign.is_empty());
    }

    #[test]
    fn what_a_sum_says_nothing_of_is_left_out_and_enormous_sums_stop() {
        let most = ProcessSample {
            measures: [("memory_used_bytes".to_owned(), Amount::MAX)].into(),
            ..process("a", 2, &[])
        };
        let all = attribute(
            vec![
                process(
                    "a",
                    1,
                    &[("temperature_celsius", 60), ("memory_used_bytes", 1)],
                ),
                most,
            ],
            &owners(),
        );
        let sums = &all.workloads["w"]["a"];
        assert_eq!(sums.len(), 1);
        assert_eq!(sums["memory_used_bytes"], Amount::MAX);
    }

    #[test]
    fn what_is_nobodys_is_listed_as_it_was_said() {
        let (known, gone) = (
            process("a", 9, &[("memory_used_bytes", 3), ("x_celsius", 1)]),
            process("b", 10, &[]),
        );
        let all = attribute(vec![known.clone(), gone.clone()], &owners());
        assert!(all.workloads.is_empty());
        let with = |sample, command: Option<&str>| Foreign {
            sample,
            command: command.map(str::to_owned),
        };
        assert_eq!(all.foreign, [with(known, Some("Xorg")), with(gone, None)]);
    }

    #[test]
    fn no_process_is_looked_for_where_none_was_measured() {
        let ledger = Ledger::new(std::path::Path::new("/nonexistent"));
        assert_eq!(Owners::of(&[], &ledger), Owners::default());
        let own = std::process::id();
        let owners = Owners::of(&[own], &ledger);
        assert!(owners.workloads.is_empty());
        assert!(owners.commands.contains_key(&own));
    }
}

//! What was measured, as a document: what the API sends and a program gets.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Known;
use crate::agent::FailedPlugin;
use crate::model::{Amount, Record, State};

/// What was measured longer ago says nothing of now.
const STALE: Duration = Duration::from_secs(30);

/// By name, which ends in the base unit: `memory_used_bytes`, `utilization_ratio`. What
/// cannot be measured is absent, never 0; what ends in `_total` only grows.
pub type Measures = BTreeMap<String, Amount>;

/// What devices and workloads use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Samples {
    /// When this was put together, ms since 1970: workloads' own measures are of then.
    pub taken_ms: u64,
    /// Each plugin, and how old what it measured is.
    pub plugins: Vec<SampledPlugin>,
    /// What plugins measured of whole devices, whoever uses them.
    pub devices: Vec<DeviceSample>,
    /// The workloads that run, oldest first.
    pub workloads: Vec<WorkloadSample>,
    /// Processes that use devices and are no workload's. Also those for which slices are
    /// held without a container.
    pub foreign: Vec<ForeignProcess>,
    /// Is it known which workloads there are? Only root, and an agent, can read the
    /// ledger; without it there are neither workloads nor foreign processes here.
    pub workloads_known: bool,
}

/// A plugin, and how old what it measured is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SampledPlugin {
    /// The plugin.
    pub plugin: String,
    /// How long ago it measured, ms; absent: it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Why its last try failed, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FailedPlugin>,
}

/// What is used of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceSample {
    /// The plugin.
    pub plugin: String,
    /// The device's id.
    pub id: String,
    /// How much.
    pub measures: Measures,
}

/// What a workload uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadSample {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The user on whose behalf it runs.
    pub owner: u32,
    /// What its cgroup counted: `cpu_seconds_total`, `memory_used_bytes`,
    /// `processes_count`.
    pub measures: Measures,
    /// What its processes use of devices, where plugins measure that: sums of their own
    /// figures, never a device's.
    pub devices: Vec<DeviceSample>,
}

/// What a process uses of a device that is no workload's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForeignProcess {
    /// The plugin.
    pub plugin: String,
    /// The device's id.
    pub device: String,
    /// The process.
    pub pid: u32,
    /// What it is called; absent: it is not to be seen on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How much.
    pub measures: Measures,
}

impl Samples {
    /// Of what is known of each plugin, the records if the caller may know them, and
    /// their cgroups' measures by id.
    pub(super) fn new<'a>(
        plugins: impl Iterator<Item = (&'a str, Option<&'a Known>)>,
        records: Option<&[Record]>,
        own: &BTreeMap<String, Measures>,
        now_ms: u64,
    ) -> Self {
        let records = records.map(|all| all.iter().filter(|r| r.state == State::Running));
        let mut samples = Self {
            taken_ms: now_ms,
            workloads_known: records.is_some(),
            workloads: records
                .into_iter()
                .flatten()
                .map(|r| WorkloadSample {
                    id: r.id.clone(),
                    name: r.name.clone(),
                    owner: r.owner,
                    measures: own.get(&r.id).cloned().unwrap_or_default(),
                    devices: Vec::new(),
                })
                .collect(),
            ..Self::default()
        };
        for (plugin, known) in plugins {
            samples.add(plugin, known);
        }
        samples
    }

    fn add(&mut self, plugin: &str, known: Option<&Known>) {
        let taken = known.and_then(|k| k.taken.as_ref());
        let error = known.and_then(|k| k.error.as_ref());
        self.plugins.push(SampledPlugin {
            plugin: plugin.to_owned(),
            age_ms: taken.map(|t| self.taken_ms.saturating_sub(t.at_ms)),
            error: error.map(|e| FailedPlugin::new(plugin, e)),
        });
        let Some(taken) = taken else { return };
        let of = |(id, measures): (&String, &Measures)| DeviceSample {
            plugin: plugin.to_owned(),
            id: id.clone(),
            measures: measures.clone(),
        };
        self.devices.extend(taken.devices.iter().map(of));
        for workload in &mut self.workloads {
            let devices = taken.processes.workloads.get(&workload.id);
            workload
                .devices
                .extend(devices.into_iter().flatten().map(of));
        }
        if !self.workloads_known {
            return;
        }
        let foreign = taken.processes.foreign.iter();
        self.foreign.extend(foreign.map(|f| ForeignProcess {
            plugin: plugin.to_owned(),
            device: f.sample.device.clone(),
            pid: f.sample.pid,
            command: f.command.clone(),
            measures: f.sample.measures.clone(),
        }));
    }

    /// Did this plugin measure lately enough to say something of now?
    #[must_use]
    pub fn is_fresh(&self, plugin: &str) -> bool {
        let age = self.plugins.iter().find(|p| p.plugin == plugin);
        age.and_then(|p| p.age_ms)
            .is_some_and(|ms| u128::from(ms) <= STALE.as_millis())
    }

    /// What somebody may know who sees these workloads alone.
    #[must_use]
    pub(crate) fn of_workloads(mut self, may: impl Fn(&WorkloadSample) -> bool) -> Self {
        self.workloads.retain(may);
        self.foreign.clear();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::Taken;
    use super::super::attribute::{Attributed, Foreign};
    use super::*;
    use crate::plugin::CallError;
    use divvy_plugin::ProcessSample;

    fn measures(n: u64) -> Measures {
        [("memory_used_bytes".to_owned(), Amount::from_units(n))].into()
    }

    fn record(id: &str, state: &str) -> Record {
        serde_json::from_value(serde_json::json!({
            "id": id, "name": format!("name-{id}"), "state": state, "remove_on_exit": false,
            "owner": 7, "boot_id": "", "created_ms": 0, "asked": {}, "slices": [],
            "launcher": "oci", "runtime": "", "root": "host", "command": [],
        }))
        .unwrap()
    }

    fn known(at_ms: u64) -> Known {
        let on = |n| BTreeMap::from([("gpu0".to_owned(), measures(n))]);
        let sample = ProcessSample {
            device: "gpu0".into(),
            pid: 9,
            measures: measures(3),
        };
        Known {
            taken: Some(Taken {
                at_ms,
                devices: on(10),
                processes: Attributed {
                    workloads: [("a".to_owned(), on(5)), ("gone".to_owned(), on(2))].into(),
                    foreign: vec![Foreign {
                        sample,
                        command: Some("Xorg".into()),
                    }],
                },
            }),
            ..Known::default()
        }
    }

    fn samples(records: Option<&[Record]>) -> Samples {
        let hung = Known {
            error: Some(CallError::Crashed {
                plugin: "hung".into(),
                op: "sample",
                why: "no answer".into(),
            }),
            ..known(1000)
        };
        let cuda = known(49_000);
        let plugins = [("cpu", None), ("cuda", Some(&cuda)), ("hung", Some(&hung))];
        let own = BTreeMap::from([("a".to_owned(), measures(77))]);
        Samples::new(plugins.into_iter(), records, &own, 50_000)
    }

    #[test]
    fn workloads_that_run_get_their_own_figures_and_no_devices() {
        let samples = samples(Some(&[
            record("a", "running"),
            record("b", "running"),
            record("gone", "exited"),
        ]));
        let [a, b] = samples.workloads.as_slice() else {
            panic!("{samples:#?}");
        };
        assert_eq!((a.name.as_str(), a.owner), ("name-a", 7));
        assert_eq!(a.measures, measures(77));
        let on: Vec<_> = a.devices.iter().map(|d| (&*d.plugin, &*d.id)).collect();
        assert_eq!(on, [("cuda", "gpu0"), ("hung", "gpu0")]);
        assert_eq!(a.devices[0].measures, measures(5));
        assert!(b.devices.is_empty() && b.measures.is_empty());
        // What was a workload's when it was measured is never foreign.
        assert_eq!(samples.foreign.len(), 2);
        assert_eq!(samples.foreign[0].command.as_deref(), Some("Xorg"));
    }

    #[test]
    fn ages_and_errors_are_each_plugins_own() {
        let samples = samples(Some(&[]));
        let ages: Vec<_> = samples.plugins.iter().map(|p| p.age_ms).collect();
        assert_eq!(ages, [None, Some(1000), Some(49_000)]);
        let codes = samples.plugins.iter().map(|p| p.error.as_ref());
        let codes: Vec<_> = codes.map(|e| e.map(|e| e.code.as_str())).collect();
        assert_eq!(codes, [None, None, Some("plugin_crashed")]);
        let fresh = ["cpu", "cuda", "hung", "none"].map(|p| samples.is_fresh(p));
        assert_eq!(fresh, [false, true, false, false]);
    }

    #[test]
    fn who_may_not_know_the_workloads_sees_devices_alone() {
        let unknown = samples(None);
        assert!(!unknown.workloads_known);
        assert!(unknown.workloads.is_empty() && unknown.foreign.is_empty());
        assert_eq!(unknown.devices.len(), 2);
        let records = [record("a", "running"), record("b", "running")];
        let other = samples(Some(&records)).of_workloads(|w| w.id == "b");
        assert_eq!(other.workloads.len(), 1);
        assert!(other.foreign.is_empty());
        assert_eq!(other.devices.len(), 2);
    }

    #[test]
    fn amounts_are_decimal_texts() {
        let text = serde_json::to_value(samples(None)).unwrap();
        assert_eq!(text["devices"][0]["measures"]["memory_used_bytes"], "10");
        assert!(text["plugins"][0].get("age_ms").is_none());
    }
}

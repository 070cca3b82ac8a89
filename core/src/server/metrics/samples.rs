//! What is measured, as metrics: a family for each measure.
//!
//! A measure's name ends in its base unit, so `utilization_ratio` of a device is
//! `divvy_device_utilization_ratio`, and what ends in `_total` is a counter. What is too
//! old to say something of now is left out, never shown frozen; its age stays.

use std::collections::BTreeMap;
use std::hash::Hash;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::{Registry, Unit};

use super::{Counts, Gauges, PluginLabels, number, seconds};
use crate::agent::{Measures, Samples};
use crate::model::{Amount, DeviceRef};

/// What ends so means something else in OpenMetrics.
const RESERVED: [&str; 7] = [
    "_bucket", "_count", "_created", "_gcount", "_gsum", "_info", "_sum",
];
/// Families of this beginning are ours.
const OURS: &str = "foreign_";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    device: String,
    plugin: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkloadLabels {
    workload: String,
    id: String,
    user: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SliceLabels {
    workload: String,
    id: String,
    user: u32,
    device: String,
}

/// Families that come up as measures do, by name.
struct Families<L> {
    gauges: BTreeMap<String, Gauges<L>>,
    counters: BTreeMap<String, Counts<L>>,
}

/// Adds the families of what was measured.
pub(super) fn register(registry: &mut Registry, samples: &Samples) {
    let ages = Gauges::<PluginLabels>::default();
    for plugin in &samples.plugins {
        let labels = PluginLabels {
            plugin: plugin.plugin.clone(),
        };
        if let Some(age) = plugin.age_ms {
            ages.get_or_create(&labels).set(seconds(age));
        }
    }
    registry.register_with_unit(
        "sample_age",
        "Time since a plugin measured its devices",
        Unit::Seconds,
        ages,
    );
    of_devices(registry, samples);
    of_foreigners(registry, samples);
    of_workloads(registry, samples);
}

fn of_devices(registry: &mut Registry, samples: &Samples) {
    let mut families = Families::default();
    for device in samples
        .devices
        .iter()
        .filter(|d| samples.is_fresh(&d.plugin))
    {
        let labels = DeviceLabels {
            device: name(&device.plugin, &device.id),
            plugin: device.plugin.clone(),
        };
        families.add(&device.measures, &labels);
    }
    families.register(registry, "device", "of a device, whoever uses it");
}

fn of_foreigners(registry: &mut Registry, samples: &Samples) {
    const MEMORY: &str = "memory_used_bytes";
    let mut sums: BTreeMap<(&str, &str), Amount> = BTreeMap::new();
    let foreign = samples.foreign.iter();
    for process in foreign.filter(|p| samples.is_fresh(&p.plugin)) {
        if let Some(amount) = process.measures.get(MEMORY) {
            let sum = sums.entry((&process.plugin, &process.device)).or_default();
            *sum = [*sum, *amount].into_iter().sum();
        }
    }
    let memory = Gauges::<DeviceLabels>::default();
    for ((plugin, device), sum) in sums {
        let labels = DeviceLabels {
            device: name(plugin, device),
            plugin: plugin.to_owned(),
        };
        memory.get_or_create(&labels).set(number(sum));
    }
    registry.register(
        format!("device_{OURS}{MEMORY}"),
        "Memory of a device that processes use which are no workload's",
        memory,
    );
}

fn of_workloads(registry: &mut Registry, samples: &Samples) {
    let mut own = Families::default();
    let mut slices = Families::default();
    for workload in &samples.workloads {
        let labels = WorkloadLabels {
            workload: workload.name.clone(),
            id: workload.id.clone(),
            user: workload.owner,
        };
        own.add(&workload.measures, &labels);
        let devices = workload.devices.iter();
        for device in devices.filter(|d| samples.is_fresh(&d.plugin)) {
            let labels = SliceLabels {
                workload: workload.name.clone(),
                id: workload.id.clone(),
                user: workload.owner,
                device: name(&device.plugin, &device.id),
            };
            slices.add(&device.measures, &labels);
        }
    }
    own.register(
        registry,
        "workload",
        "of a workload, as its cgroup counts it",
    );
    slices.register(
        registry,
        "slice",
        "that a workload's processes use of a device",
    );
}

fn name(plugin: &str, id: &str) -> String {
    let device = DeviceRef {
        plugin: plugin.to_owned(),
        id: id.to_owned(),
    };
    device.to_string()
}

/// Can a family be named after it, without being taken for another?
fn is_metric(measure: &str) -> bool {
    let reserved = RESERVED.iter().any(|end| measure.ends_with(end));
    measure.contains('_') && !reserved && !measure.starts_with(OURS)
}

impl<L> Default for Families<L> {
    fn default() -> Self {
        Self {
            gauges: BTreeMap::new(),
            counters: BTreeMap::new(),
        }
    }
}

impl<L> Families<L>
where
    L: Clone + Eq + Hash + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
{
    fn add(&mut self, measures: &Measures, labels: &L) {
        for (measure, amount) in measures.iter().filter(|(m, _)| is_metric(m)) {
            if let Some(family) = measure.strip_suffix("_total") {
                let family = self.counters.entry(family.to_owned()).or_default();
                family.get_or_create(labels).inc_by(number(*amount));
            } else {
                let family = self.gauges.entry(measure.clone()).or_default();
                family.get_or_create(labels).set(number(*amount));
            }
        }
    }

    fn register(self, registry: &mut Registry, of: &str, whose: &str) {
        let help = |measure: &str| format!("The measure {measure} {whose}");
        for (measure, family) in self.counters {
            // The gauge of the same name would be the same family.
            if !self.gauges.contains_key(&measure) {
                registry.register(format!("{of}_{measure}"), help(&measure), family);
            }
        }
        for (measure, family) in self.gauges {
            registry.register(format!("{of}_{measure}"), help(&measure), family);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use serde_json::json;

    fn page(samples: serde_json::Value) -> String {
        let samples: Samples = serde_json::from_value(samples).unwrap();
        let mut registry = Registry::with_prefix("divvy");
        register(&mut registry, &samples);
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        page
    }

    fn samples(age_ms: u64) -> serde_json::Value {
        let device = |measures: serde_json::Value| json!([{"plugin": "cuda", "id": "gpu0", "measures": measures}]);
        json!({
            "taken_ms": 1, "workloads_known": true,
            "plugins": [{"plugin": "cuda", "age_ms": age_ms}, {"plugin": "cpu"}],
            "devices": device(json!({
                "memory_used_bytes": "7", "energy_joules_total": "2.5", "load": "1",
                "foreign_memory_used_bytes": "9", "odd_count": "1",
                "x_seconds": "1", "x_seconds_total": "2",
            })),
            "workloads": [{
                "id": "abc", "name": "w", "owner": 5,
                "measures": {"cpu_seconds_total": "1.5", "memory_used_bytes": "4096", "processes_count": "2"},
                "devices": device(json!({"memory_used_bytes": "3"})),
            }],
            "foreign": [
                {"plugin": "cuda", "device": "gpu0", "pid": 1, "measures": {"memory_used_bytes": "1"}},
                {"plugin": "cuda", "device": "gpu0", "pid": 2, "measures": {"memory_used_bytes": "1", "utilization_ratio": "1"}},
            ],
        })
    }

    #[test]
    fn each_measure_is_a_family_and_totals_are_counters() {
        let page = page(samples(1500));
        for line in [
            r#"divvy_sample_age_seconds{plugin="cuda"} 1.5"#,
            r#"divvy_device_memory_used_bytes{device="cuda/gpu0",plugin="cuda"} 7.0"#,
            "# TYPE divvy_device_energy_joules counter",
            r#"divvy_device_energy_joules_total{device="cuda/gpu0",plugin="cuda"} 2.5"#,
            r#"divvy_slice_memory_used_bytes{workload="w",id="abc",user="5",device="cuda/gpu0"} 3.0"#,
            r#"divvy_workload_cpu_seconds_total{workload="w",id="abc",user="5"} 1.5"#,
            r#"divvy_workload_memory_used_bytes{workload="w",id="abc",user="5"} 4096.0"#,
            r#"divvy_device_foreign_memory_used_bytes{device="cuda/gpu0",plugin="cuda"} 2.0"#,
            r#"divvy_device_x_seconds{device="cuda/gpu0",plugin="cuda"} 1.0"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    }

    #[test]
    fn no_measure_is_taken_for_a_family_of_another_meaning() {
        let page = page(samples(0));
        for name in [
            "device_load",
            "device_odd_count",
            "processes_count",
            "x_seconds_total",
        ] {
            assert!(!page.contains(name), "{name}\n{page}");
        }
        let types = page.lines().filter(|l| l.starts_with("# TYPE"));
        let mut names: Vec<&str> = types.filter_map(|l| l.split(' ').nth(2)).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{page}");
    }

    #[test]
    fn what_is_old_is_absent_and_its_age_is_not() {
        let page = page(samples(30_001));
        assert!(
            page.contains(r#"divvy_sample_age_seconds{plugin="cuda"} 30.001"#),
            "{page}"
        );
        for gone in ["cuda/gpu0", "divvy_slice_memory"] {
            assert!(!page.contains(gone), "{gone}\n{page}");
        }
        // Nobody's plugin counts these.
        assert!(page.contains("divvy_workload_memory_used_bytes{"), "{page}");
        assert!(
            !page.contains(r#"plugin="cpu""#),
            "never measured, so no age"
        );
    }
}

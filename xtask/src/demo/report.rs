//! What `divvy --json` says, as far as the demo needs it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// `divvy --json describe NAME`.
#[derive(Debug, Deserialize)]
struct Described {
    workload: Workload,
}

/// A record of the ledger.
#[derive(Debug, Deserialize)]
pub(crate) struct Workload {
    pub(crate) launcher: String,
    pub(crate) runtime: String,
    slices: Vec<Slice>,
    #[serde(default)]
    edits: BTreeMap<String, Edits>,
    exit: Option<Exit>,
}

#[derive(Debug, Deserialize)]
struct Slice {
    plugin: String,
    device: String,
    slot: String,
    amount: String,
}

#[derive(Debug, Default, Deserialize)]
struct Edits {
    #[serde(default)]
    resources: Resources,
}

#[derive(Debug, Default, Deserialize)]
struct Resources {
    cpuset_cpus: Option<String>,
    cpu_quota: Option<Quota>,
    memory_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Quota {
    quota_us: u64,
    period_us: u64,
}

#[derive(Debug, Deserialize)]
struct Exit {
    out_of_memory: bool,
    #[serde(default)]
    usage: Usage,
}

/// What a workload used, measured by its cgroup.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Usage {
    cpu_us: Option<u64>,
    wall_us: Option<u64>,
    memory_peak_bytes: Option<u64>,
}

impl Workload {
    /// Reads the answer of `describe`.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        Ok(parse::<Described>(json, "describe")?.workload)
    }

    /// What it was given, a line each.
    pub(crate) fn given(&self) -> Vec<String> {
        let amount = |slice: &Slice| match slice.slot.as_str() {
            "mem" => slice
                .amount
                .parse()
                .map_or_else(|_| slice.amount.clone(), bytes),
            _ => slice.amount.clone(),
        };
        let slices = self
            .slices
            .iter()
            .map(|s| format!("{:<4} {} of {}/{}", s.slot, amount(s), s.plugin, s.device));
        let limits = self.edits.values().flat_map(|edits| {
            let limits = &edits.resources;
            [
                limits
                    .cpuset_cpus
                    .as_ref()
                    .map(|cpus| format!("the kernel runs it on CPU {cpus} only")),
                limits.cpu_quota.as_ref().map(|q| {
                    format!(
                        "the kernel gives it {} µs in every {} µs",
                        q.quota_us, q.period_us
                    )
                }),
                limits
                    .memory_bytes
                    .map(|b| format!("the kernel stops it above {}", bytes(b))),
            ]
        });
        slices.chain(limits.flatten()).collect()
    }

    /// What it used.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.exit
            .as_ref()
            .map(|e| e.usage)
            .context("`divvy describe` says that it has not ended")
    }

    /// Did the kernel stop it for its memory?
    pub(crate) fn out_of_memory(&self) -> bool {
        self.exit.as_ref().is_some_and(|e| e.out_of_memory)
    }
}

impl Usage {
    /// CPU time by wall time: how many cores it had on average.
    pub(crate) fn cores(self) -> Result<Cores> {
        let (Some(cpu_us), Some(wall_us)) = (self.cpu_us, self.wall_us) else {
            bail!(
                "its CPU or wall time was not measured; `divvy doctor` says what the cgroups of this machine lack"
            );
        };
        if wall_us == 0 {
            bail!("`divvy describe` says that it took no time at all");
        }
        Ok(Cores {
            cpu: seconds(cpu_us),
            wall: seconds(wall_us),
        })
    }

    /// The most memory at any moment, for people.
    pub(crate) fn memory_peak(self) -> Option<String> {
        self.memory_peak_bytes.map(bytes)
    }
}

/// CPU seconds in wall seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cores {
    pub(crate) cpu: f64,
    pub(crate) wall: f64,
}

impl Cores {
    /// On average.
    pub(crate) fn used(self) -> f64 {
        self.cpu / self.wall
    }

    /// How far from what was asked, as a part of it.
    pub(crate) fn error(self, asked: f64) -> f64 {
        (self.used() - asked) / asked
    }
}

/// The workloads that `divvy --json ps` lists.
pub(crate) fn running(json: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Listed {
        workloads: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let listed: Listed = parse(json, "ps")?;
    Ok(listed.workloads.into_iter().map(|w| w.name).collect())
}

/// What `divvy --json devices` says of which anything is held; and of how
/// many devices it speaks.
pub(crate) fn held(json: &str) -> Result<(Vec<String>, usize)> {
    #[derive(Deserialize)]
    struct Listed {
        devices: Vec<Device>,
    }
    #[derive(Deserialize)]
    struct Device {
        plugin: String,
        id: String,
        usage: BTreeMap<String, Held>,
        #[serde(default)]
        holders: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Held {
        used: String,
    }
    let listed: Listed = parse(json, "devices")?;
    let count = listed.devices.len();
    let mut held = Vec::new();
    for device in listed.devices {
        for (capacity, Held { used }) in &device.usage {
            if used.parse::<f64>() != Ok(0.0) {
                held.push(format!(
                    "{used} {capacity} of {}/{}",
                    device.plugin, device.id
                ));
            }
        }
        held.extend(
            device
                .holders
                .iter()
                .map(|by| format!("{}/{} by {by}", device.plugin, device.id)),
        );
    }
    Ok((held, count))
}

fn parse<T: DeserializeOwned>(json: &str, verb: &str) -> Result<T> {
    serde_json::from_str(json)
        .with_context(|| format!("`divvy --json {verb}` does not say what the demo expects"))
}

#[allow(clippy::cast_precision_loss)] // for people
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn bytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    let tenths = bytes % MIB * 10 / MIB;
    match (bytes / MIB, tenths) {
        (0, _) => format!("{bytes} bytes"),
        (mib, 0) => format!("{mib} MiB"),
        (mib, tenths) => format!("{mib}.{tenths} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDED: &str = r#"{ "workload": {
        "id": "x", "launcher": "oci", "runtime": "built-in", "command": ["python3"],
        "slices": [
            {"plugin": "cpu", "slot": "cpu", "device": "core-0-1", "amount": "0.5", "capacities": {"compute": "0.5"}},
            {"plugin": "cpu", "slot": "mem", "device": "node-0", "amount": "268435456", "capacities": {}}],
        "edits": {"cpu": {"resources": {"cpuset_cpus": "1", "memory_bytes": 268435456,
                                        "cpu_quota": {"quota_us": 50000, "period_us": 100000}}}},
        "exit": {"code": 0, "out_of_memory": false, "at_ms": 1,
                 "usage": {"cpu_us": 6060000, "wall_us": 12000000, "memory_peak_bytes": 42000000}} } }"#;

    #[test]
    fn what_was_given_and_used() {
        let workload = Workload::parse(ENDED).unwrap();
        assert_eq!(
            workload.given(),
            [
                "cpu  0.5 of cpu/core-0-1",
                "mem  256 MiB of cpu/node-0",
                "the kernel runs it on CPU 1 only",
                "the kernel gives it 50000 µs in every 100000 µs",
                "the kernel stops it above 256 MiB",
            ]
        );
        let usage = workload.usage().unwrap();
        let cores = usage.cores().unwrap();
        assert!((cores.used() - 0.505).abs() < 1e-9, "{cores:?}");
        assert!((cores.error(0.5) - 0.01).abs() < 1e-9, "{cores:?}");
        assert_eq!(usage.memory_peak().as_deref(), Some("40 MiB"));
        assert!(!workload.out_of_memory());
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let unmeasured = ENDED.replace(r#""cpu_us": 6060000, "#, "");
        let error = Workload::parse(&unmeasured)
            .unwrap()
            .usage()
            .unwrap()
            .cores()
            .unwrap_err();
        assert!(error.to_string().contains("not measured"), "{error}");
        assert!(
            Workload::parse("{}")
                .unwrap_err()
                .to_string()
                .contains("describe")
        );
    }

    #[test]
    fn nothing_held_means_no_amount_and_no_holder() {
        let devices = |used: &str, holders: &str| {
            format!(
                r#"{{"devices": [{{"plugin": "cpu", "id": "core-0-0", "kind": "core",
                     "usage": {{"compute": {{"total": "1", "reserved": "0", "used": "{used}"}}}},
                     "holders": [{holders}]}}], "slots": []}}"#
            )
        };
        assert_eq!(held(&devices("0", "")).unwrap(), (vec![], 1));
        assert_eq!(
            held(&devices("0.5", "")).unwrap().0,
            ["0.5 compute of cpu/core-0-0"]
        );
        assert_eq!(
            held(&devices("0", r#""a""#)).unwrap().0,
            ["cpu/core-0-0 by a"]
        );
        assert_eq!(
            running(r#"{"workloads": [{"name": "a", "state": "running"}]}"#).unwrap(),
            ["a"]
        );
        assert!(running("[]").unwrap_err().to_string().contains("ps"));
    }
}

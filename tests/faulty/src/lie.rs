//! Replies that are well formed and untrue.

use divvy_plugin::{
    Amount, Attribute, Capacity, CpuQuota, DefaultAmount, Discovery, Edits, EnvVar, Health,
    HealthState, Incident, IncidentClass, Link, Manifest, Mount, NodeKind, NumaNode, Partitioning,
    Profile, Samples,
};

use crate::{UNITS, node};

pub(crate) fn in_manifest(mode: &str, manifest: &mut Manifest) {
    let slot = &mut manifest.slots[0];
    match mode {
        "other-name" => manifest.name = "cpu".into(),
        "bad-name" => manifest.name = "../faulty".into(),
        "no-slots" => manifest.slots.clear(),
        "foreign-slot" => slot.name = "cuda.shares".into(),
        "slot-of-cpu" => slot.name = "cpu".into(),
        "zero-quantum" => slot.quantum = Amount::ZERO,
        "no-draws" => slot.draws.clear(),
        "bad-class" => slot.class = "a unit".into(),
        "bad-mode" => slot.mode = Some("Shared".into()),
        "default-off-quantum" => {
            slot.default = Amount::from_nanos(300_000_000).map(DefaultAmount::Fixed);
        }
        "says-nothing" => slot.summary = " ".into(),
        "changes" => manifest.version = format!("1.{}", std::process::id()),
        "slot-twice" => manifest.slots.extend_from_within(..),
        "reserves-everything" => manifest.reserved_env = vec!["*".into()],
        "setting-escapes" => manifest.config[0].name = "\x1b[31mmode".into(),
        "escapes" => {
            manifest.version = "1\x1b[2J".into();
            manifest.config[0].summary = "\x1b]0;title\x07\nline".into();
        }
        _ => {}
    }
}

pub(crate) fn in_discovery(mode: &str, found: &mut Discovery) {
    let many = |n: usize| {
        (0..n)
            .map(|i| crate::unit(&format!("unit-{i}"), 0))
            .collect()
    };
    let first = &mut found.devices[0];
    match mode {
        "duplicate-id" => found.devices[1].id = found.devices[0].id.clone(),
        "bad-id" => first.id = "unit a\n".into(),
        "processes-twice" => first.processes = vec![7, 7],
        "empty-id" => first.id = String::new(),
        "reserved-over-total" => {
            for capacity in first.capacities.values_mut() {
                capacity.reserved = Amount::from_units(2);
            }
        }
        "bad-capacity" => {
            first
                .capacities
                .insert("a b".into(), Capacity::of(Amount::ONE));
        }
        "no-capacities" => first.capacities.clear(),
        "odd-step" => {
            for capacity in first.capacities.values_mut() {
                capacity.step = Some(Amount::from_units(3));
            }
        }
        "bad-partition" | "foreign-profile" => {
            let profile = Profile {
                slot: "faulty.parts".into(),
                size: 2,
                starts: vec![if mode == "bad-partition" { 3 } else { 2 }],
                capacities: [("units".to_owned(), Amount::ONE)].into(),
                serves: Default::default(),
            };
            first.partitioning = Some(Partitioning {
                positions: 4,
                profiles: vec![profile],
            });
        }
        "no-reason" => {
            first.health = Health {
                state: HealthState::Degraded,
                reason: None,
            };
        }
        "lost-node" => {
            first.numa_node = Some(7);
            found.numa_nodes.push(NumaNode {
                id: 0,
                distances: [].into(),
            });
        }
        "one-sided-link" => {
            first.links.push(Link {
                to: UNITS[1].0.into(),
                kind: "nvlink".into(),
                weight: 1,
            });
        }
        "clock" => {
            let now = Attribute::int(i64::from(crate::habit::next()));
            first.attributes.insert("now".into(), now);
        }
        "pid-in-id" => first.id = format!("unit-{}", std::process::id()),
        "no-such-parent" => first.parent = Some("unit-z".into()),
        "own-parent" => first.parent = Some(first.id.clone()),
        "link-to-nowhere" => {
            first.links.push(Link {
                to: "unit-z".into(),
                kind: "nvlink".into(),
                weight: 1,
            });
        }
        "too-many-devices" => found.devices = many(20_000),
        "model-escapes" => first.model = "\x1b[31mred".into(),
        "attribute-escapes" => {
            first
                .attributes
                .insert("serial".into(), Attribute::text("\x1b[31mred\nline"));
        }
        "health-escapes" => {
            first.health = Health {
                state: HealthState::Degraded,
                reason: Some("\x1b[31mred\nline".into()),
            };
        }
        "disk-node" => {
            first.nodes[0].kind = NodeKind::Block;
        }
        "huge-reply" => found.warnings = vec!["x".repeat(17 << 20)],
        "large-reply" => found.warnings = vec!["x".repeat(4 << 20)],
        "one-less" => drop(found.devices.pop()),
        _ => {}
    }
}

pub(crate) fn in_edits(mode: &str, edits: &mut Edits) {
    let mut env = |name: &str, value: &str| {
        edits.env.push(EnvVar {
            name: name.into(),
            value: value.into(),
            default: false,
        });
    };
    let mut mount = |source: &str, target: &str| {
        edits.mounts.push(Mount {
            source: source.into(),
            target: target.into(),
        });
    };
    match mode {
        "other-device-node" => edits.device_nodes = vec![node(UNITS[1].0, UNITS[1].1)],
        "other-device-number" => edits.device_nodes[0].minor = UNITS[1].1,
        "memory-device" => {
            let node = &mut edits.device_nodes[0];
            (node.major, node.minor) = (1, 1);
        }
        "block-device" | "disk-node" => edits.device_nodes[0].kind = NodeKind::Block,
        "two-nodes-same" => edits.device_nodes.extend_from_within(..1),
        "node-outside-dev" => edits.device_nodes[0].path = "/dev/../etc/passwd".into(),
        "odd-node-mode" => edits.device_nodes[0].mode = Some(0o4777),
        "no-edits" => *edits = Edits::default(),
        "counts" => edits.env[0].value = crate::habit::next().to_string(),
        "pid-in-edits" => edits.env[0].value = std::process::id().to_string(),
        "loader-elsewhere" => edits.library_paths.push("/opt/elsewhere".into()),
        "mount-root" => mount("/", "/host"),
        "mount-etc" => mount("/etc/shadow", "/shadow"),
        "mount-docker" => mount("/run/docker.sock", "/docker.sock"),
        "mount-over-proc" => mount("/usr", "/proc/sys"),
        "mount-dots" => mount("/usr/../root", "/data"),
        "loader-env" => env("LD_PRELOAD", "/tmp/evil.so"),
        "foreign-env" => env("PATH", "/tmp"),
        "env-nul" => env("FAULTY_X", "a\0b"),
        "env-twice" => env("FAULTY_UNIT", "again"),
        "gid-0" => edits.additional_gids.push(0),
        "memory-too-much" => edits.resources.memory_bytes = Some(1 << 40),
        "cpuset-nonsense" => edits.resources.cpuset_cpus = Some("3-1,all".into()),
        "quota-nonsense" => {
            edits.resources.cpu_quota = Some(CpuQuota {
                quota_us: 1,
                period_us: 1,
            });
        }
        "annotation-escapes" => drop(
            edits
                .annotations
                .insert("faulty/x".into(), "\x1b[31m".into()),
        ),
        _ => {}
    }
}

/// Something that happened to a device that is not there.
pub(crate) fn incident() -> Incident {
    Incident {
        device: "nowhere".into(),
        code: "odd".into(),
        class: IncidentClass::Device,
        summary: "it vanished".into(),
        pid: None,
        cgroup: None,
        start: None,
    }
}

pub(crate) fn in_samples(mode: &str, samples: &mut Samples) {
    let (device, measure, value) = match mode {
        "sample-escapes" => (UNITS[0].0, "load\n{\"x\"}\x1b[31m", Amount::ONE),
        "stranger" => ("unit-z", "utilization_ratio", Amount::ONE),
        "no-unit" => (UNITS[0].0, "temperature", Amount::ONE),
        "over-one" => (UNITS[0].0, "utilization_ratio", Amount::from_units(2)),
        _ => return,
    };
    let measures = [(measure.to_owned(), value)].into();
    samples.devices.insert(device.into(), measures);
}

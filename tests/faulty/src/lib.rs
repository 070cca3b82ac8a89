//! A plugin that misbehaves on request: for tests.
//!
//! Without settings it is well behaved: two devices, `unit-a` and `unit-b`, of
//! one unit each, handed out in quarters. With `mode` and `op` it commits one
//! fault in one operation; with `once`, only the first `times` times over
//! all of its hosts.
//!
//! ```text
//! divvy --set faulty.mode=crash --set faulty.op=discover devices
//! ```
//!
//! Faults that end, stop or disturb the host are in `fault`, replies that are
//! untrue in `lie`, what goes wrong over several calls in `habit`.
//!
//! `manifest` takes no settings: its fault is read from the file
//! `faulty.manifest` beside the plugin.

mod fault;
mod habit;
mod lie;

use std::time::{Duration, Instant};

use divvy_plugin::{
    Amount, Capacity, ConfigKey, Device, DeviceNode, Discovery, Draw, Edits, EnforcementLevel,
    EnvVar, Manifest, NodeId, NodeKind, OpenRequest, Plugin, PluginError, PrepareRequest,
    ReleaseRequest, RestoreRequest, Samples, Shape, Slot, StartedRequest, WatchReply, WatchRequest,
};

use fault::Fault;

/// The devices, by id and minor number.
const UNITS: [(&str, u32); 2] = [("unit-a", 200), ("unit-b", 201)];
/// PPS: on most machines there is no such device, and none has so many; the
/// nodes can be made, and opening them gives ENXIO.
const MAJOR: u32 = 251;

/// The plugin, opened.
#[derive(Debug)]
pub struct Faulty {
    fault: Fault,
}

impl Plugin for Faulty {
    fn manifest() -> Manifest {
        let fault = Fault::of_manifest();
        let mut manifest = Manifest {
            name: "faulty".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "two units that misbehave on request".into(),
            slots: vec![Slot {
                summary: "quarters of units".into(),
                quantum: Amount::from_nanos(250_000_000).unwrap_or(Amount::ONE),
                class: "unit".into(),
                draws: vec![Draw::unit("units")],
                ..Slot::new(
                    "faulty.units",
                    "unit",
                    Shape::Single,
                    EnforcementLevel::Advisory,
                )
            }],
            reserved_env: vec!["FAULTY_*".into()],
            config: [
                (
                    "mode",
                    "which fault to commit (see tests/faulty/src/fault.rs); none",
                ),
                ("op", "in which operation, or `any`"),
                (
                    "once",
                    "a file that counts: the fault is committed `times` times only",
                ),
                ("times", "how often, with `once`; 1"),
                ("ms", "how long the mode `slow` takes, in ms; 100"),
                ("file", "a file that some modes keep between hosts"),
            ]
            .map(|(name, summary)| ConfigKey {
                name: name.into(),
                summary: summary.into(),
            })
            .into(),
        };
        // `manifest` cannot say no: here an error is a panic.
        if let Err(error) = fault.strike("manifest") {
            panic!("{error}");
        }
        lie::in_manifest(fault.mode(), &mut manifest);
        manifest
    }

    fn open(request: &OpenRequest) -> Result<Self, PluginError> {
        let fault = Fault::new(&request.config);
        let lies = fault.strike("open")?;
        habit::in_open(&fault, lies, &request.config)?;
        Ok(Self { fault })
    }

    fn discover(&self) -> Result<Discovery, PluginError> {
        let lies = self.fault.strike("discover")?;
        let _lock = habit::lock(&self.fault)?;
        let mut found = self.discover_quietly();
        if lies {
            lie::in_discovery(self.fault.mode(), &mut found);
        }
        Ok(found)
    }

    fn watch(&self, request: &WatchRequest) -> Result<WatchReply, PluginError> {
        let lies = self.fault.strike("watch")?;
        let _lock = habit::lock(&self.fault)?;
        let end = Instant::now() + Duration::from_millis(request.timeout_ms);
        let mut changed = Some(self.discover_quietly()).filter(|now| *now != request.known);
        if lies {
            match self.fault.mode() {
                "restless" => changed = Some(request.known.clone()),
                "impatient" => return Ok(WatchReply::default()),
                "deaf" => changed = None,
                _ => {}
            }
        }
        if changed.is_none() {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
        let incidents = match self.fault.mode() {
            "incident-nowhere" if lies => vec![lie::incident()],
            _ => vec![],
        };
        Ok(WatchReply { changed, incidents })
    }

    fn prepare(&self, request: &PrepareRequest) -> Result<Edits, PluginError> {
        let lies = self.fault.strike("prepare")?;
        habit::in_prepare(&self.fault, lies, request)?;
        let ids: Vec<&str> = request.slices.iter().map(|s| s.device.as_str()).collect();
        let mut edits = Edits {
            env: vec![EnvVar {
                name: "FAULTY_UNIT".into(),
                value: ids.join(","),
                default: false,
            }],
            device_nodes: UNITS
                .into_iter()
                .filter(|(id, _)| ids.contains(id))
                .map(|(id, minor)| node(id, minor))
                .collect(),
            annotations: [("faulty/units".to_owned(), ids.join(","))].into(),
            ..Edits::default()
        };
        if lies {
            lie::in_edits(self.fault.mode(), &mut edits);
        }
        habit::in_edits(&self.fault, &mut edits);
        Ok(edits)
    }

    fn started(&self, _: &StartedRequest) -> Result<(), PluginError> {
        let lies = self.fault.strike("started")?;
        habit::once_only(&self.fault, lies)
    }

    fn release(&self, request: &ReleaseRequest) -> Result<(), PluginError> {
        let lies = self.fault.strike("release")?;
        habit::in_release(&self.fault, lies, request)
    }

    fn restore(&self, request: &RestoreRequest) -> Result<(), PluginError> {
        let lies = self.fault.strike("restore")?;
        habit::in_restore(&self.fault, lies, request)
    }

    fn sample(&self) -> Result<Samples, PluginError> {
        let lies = self.fault.strike("sample")?;
        let measured = || [("utilization_ratio".to_owned(), Amount::ONE)].into();
        let mut samples = Samples {
            devices: UNITS.map(|(id, _)| (id.to_owned(), measured())).into(),
            ..Samples::default()
        };
        if lies {
            lie::in_samples(self.fault.mode(), &mut samples);
            habit::in_samples(&self.fault, &mut samples);
        }
        Ok(samples)
    }
}

impl Faulty {
    /// The devices without a fault: what `watch` compares with.
    fn discover_quietly(&self) -> Discovery {
        Discovery {
            devices: UNITS.map(|(id, minor)| unit(id, minor)).into(),
            ..Discovery::default()
        }
    }
}

fn unit(id: &str, minor: u32) -> Device {
    Device {
        capacities: [("units".to_owned(), Capacity::of(Amount::ONE))].into(),
        nodes: vec![NodeId {
            kind: NodeKind::Char,
            major: MAJOR,
            minor,
        }],
        ..Device::new(id, "unit", "Faulty Unit")
    }
}

fn node(id: &str, minor: u32) -> DeviceNode {
    DeviceNode {
        device: id.into(),
        path: format!("/dev/faulty-{}", id.trim_start_matches("unit-")),
        kind: NodeKind::Char,
        major: MAJOR,
        minor,
        write: true,
        mode: None,
        gid: None,
    }
}

divvy_plugin::export_plugin!(Faulty);

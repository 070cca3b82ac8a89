//! A Divvy plugin for NPUs, whole or by the core: an example to copy.
//!
//! The driver of these (made-up) units shows each as a folder,
//! `/sys/class/npu/npuN`, and as a character device, `/dev/npuN`. A workload
//! gets whole units (`npu.device`), or some cores of one (`npu.cores`).
//!
//! One idea per file, named as in Divvy's own plugins: `config` reads the
//! settings, `discover` the machine, `prepare` turns slices into edits;
//! `claims` remembers which cores are whose, `error` says no. `docs/plugins.md`
//! walks through it; `docs/plugin-author.md` is the contract.

mod claims;
mod config;
mod discover;
mod error;
mod prepare;

use std::thread;
use std::time::{Duration, Instant};

use divvy_plugin::{
    Discovery, Draw, Edits, EnforcementLevel, Manifest, OpenRequest, Plugin, PluginError,
    PrepareRequest, ReleaseRequest, RestoreRequest, Shape, Slot, WatchReply, WatchRequest,
};

use claims::Claims;
use config::Config;

/// The slot of whole units.
const DEVICE: &str = "npu.device";
/// The slot of cores of one unit.
const CORES: &str = "npu.cores";
/// The capacity that both draw on, so that they cannot be granted twice.
const CAPACITY: &str = "cores";
/// How often `watch` looks. Sysfs attributes of drivers tell nobody that they
/// change, and looking costs some microseconds.
const GLANCE: Duration = Duration::from_millis(250);

/// The plugin, opened. It keeps nothing in memory that the next host would
/// need: each `divvy` command has hosts of its own.
#[derive(Debug)]
struct Npu {
    config: Config,
}

impl Npu {
    fn claims(&self) -> Claims {
        Claims::new(&self.config.root)
    }
}

impl Plugin for Npu {
    fn manifest() -> Manifest {
        Manifest {
            name: "npu".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "NPUs, whole or by the core".into(),
            slots: vec![
                Slot {
                    summary: "whole NPUs".into(),
                    class: "npu".into(),
                    // One mode each: a unit is whole or shared at a time.
                    mode: Some("whole".into()),
                    draws: vec![Draw::share(CAPACITY)],
                    // The container has no other unit's node, and may make none.
                    ..Slot::new(DEVICE, "device", Shape::Whole, EnforcementLevel::Kernel)
                },
                Slot {
                    summary: "cores of one NPU that others may share".into(),
                    class: "npu.cores".into(),
                    mode: Some("shared".into()),
                    draws: vec![Draw::unit(CAPACITY)],
                    // Who shares a unit is told which cores to use, and trusted.
                    ..Slot::new(CORES, "core", Shape::Single, EnforcementLevel::Advisory)
                },
            ],
            reserved_env: vec!["NPU_CORES".into()],
            config: config::keys(),
        }
    }

    fn open(request: &OpenRequest) -> Result<Self, PluginError> {
        let config = Config::parse(&request.config)?;
        discover::class_folder(&config.root)?;
        Ok(Self { config })
    }

    fn discover(&self) -> Result<Discovery, PluginError> {
        discover::discovery(&self.config.root)
    }

    fn watch(&self, request: &WatchRequest) -> Result<WatchReply, PluginError> {
        let end = Instant::now() + Duration::from_millis(request.timeout_ms);
        loop {
            let now = self.discover()?;
            if now != request.known {
                return Ok(WatchReply {
                    changed: Some(now),
                    ..WatchReply::default()
                });
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(WatchReply::default());
            }
            thread::sleep(left.min(GLANCE));
        }
    }

    fn prepare(&self, request: &PrepareRequest) -> Result<Edits, PluginError> {
        prepare::edits(
            request,
            &discover::units(&self.config.root)?,
            &self.claims(),
        )
    }

    fn release(&self, request: &ReleaseRequest) -> Result<(), PluginError> {
        self.claims().give_up(&request.allocation)
    }

    fn restore(&self, request: &RestoreRequest) -> Result<(), PluginError> {
        let mut held = request.allocations.iter();
        held.try_for_each(|held| self.claims().restore(&held.allocation, &held.edits))
    }
}

divvy_plugin::export_plugin!(Npu);

//! A plugin that does nothing, so that a call to it measures the call.
#![deny(unsafe_code)]

use divvy_plugin::{
    Discovery, Draw, Edits, EnforcementLevel, Manifest, OpenRequest, Plugin, PluginError,
    PrepareRequest, ReleaseRequest, Samples, Shape, Slot,
};

/// The plugin.
#[derive(Debug)]
struct Tick;

impl Plugin for Tick {
    fn manifest() -> Manifest {
        Manifest {
            name: "tick".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "does nothing, for benchmarks".into(),
            // A plugin must offer something.
            slots: vec![Slot {
                draws: vec![Draw::unit("count")],
                ..Slot::new(
                    "tick.count",
                    "device",
                    Shape::Whole,
                    EnforcementLevel::Advisory,
                )
            }],
            reserved_env: vec![],
            config: vec![],
        }
    }

    fn open(_: &OpenRequest) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn discover(&self) -> Result<Discovery, PluginError> {
        Ok(Discovery::default())
    }

    fn prepare(&self, _: &PrepareRequest) -> Result<Edits, PluginError> {
        Ok(Edits::default())
    }

    fn release(&self, _: &ReleaseRequest) -> Result<(), PluginError> {
        Ok(())
    }

    fn sample(&self) -> Result<Samples, PluginError> {
        Ok(Samples::default())
    }
}

/// The one symbol that the plugin host looks for.
#[allow(unsafe_code)] // what the macro expands to
mod export {
    divvy_plugin::export_plugin!(super::Tick);
}

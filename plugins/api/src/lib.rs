//! The contract between the Divvy agent and its device plugins.
//!
//! A plugin knows one family of accelerators. It is a `cdylib` that
//! implements [`Plugin`] and says [`export_plugin!`]; this crate is all that it
//! depends on. The agent loads it in a process of its own, asks it what there
//! is ([`Discovery`]), decides by itself who gets what, and has it turn
//! [`Slice`]s into container [`Edits`]. A plugin never sees Docker, an OCI
//! runtime or Kubernetes, and never decides.
//!
//! ```
//! use divvy_plugin::*;
//!
//! struct Lamp;
//!
//! impl Plugin for Lamp {
//!     fn manifest() -> Manifest {
//!         Manifest {
//!             name: "lamp".into(),
//!             version: "0.1.0".into(),
//!             summary: "lamps on the desk".into(),
//!             slots: vec![Slot {
//!                 summary: "whole lamps".into(),
//!                 class: "lamp".into(),
//!                 draws: vec![Draw::unit("count")],
//!                 ..Slot::new("lamp.count", "device", Shape::Whole, EnforcementLevel::Advisory)
//!             }],
//!             reserved_env: vec!["LAMP_ID".into()],
//!             config: vec![],
//!         }
//!     }
//!
//!     fn open(_: &OpenRequest) -> Result<Self, PluginError> {
//!         Ok(Lamp)
//!     }
//!
//!     fn discover(&self) -> Result<Discovery, PluginError> {
//!         Ok(Discovery {
//!             devices: vec![Device {
//!                 capacities: [("count".to_owned(), Capacity::of(Amount::ONE))].into(),
//!                 ..Device::new("lamp-a", "lamp", "Desk lamp")
//!             }],
//!             ..Default::default()
//!         })
//!     }
//!
//!     fn prepare(&self, request: &PrepareRequest) -> Result<Edits, PluginError> {
//!         let known = |slice: &&Slice| slice.device == "lamp-a" && slice.slot == "lamp.count";
//!         let Some(lamp) = request.slices.first().filter(known) else {
//!             let message = "there is no lamp but lamp-a";
//!             return Err(PluginError::new(ErrorCode::Absent, message));
//!         };
//!         Ok(Edits {
//!             env: vec![EnvVar {
//!                 name: "LAMP_ID".into(),
//!                 value: lamp.device.clone(),
//!                 default: false,
//!             }],
//!             ..Default::default()
//!         })
//!     }
//!
//!     fn release(&self, _: &ReleaseRequest) -> Result<(), PluginError> {
//!         Ok(())
//!     }
//! }
//!
//! divvy_plugin::export_plugin!(Lamp);
//! # fn main() {}
//! ```
//!
//! # What this crate refuses to do
//!
//! Decide, allocate, launch, or check a plugin's replies: the core does, at
//! its edge, and trusts nothing. Documents ignore fields that they do not
//! know, so a newer side may say more than an older one understands.

mod amount;
mod call;
mod device;
mod edits;
mod error;
mod manifest;
mod plugin;
#[allow(unsafe_code)]
pub mod v1;

pub use amount::{Amount, AmountError};
pub use call::{
    Held, Incident, IncidentClass, OpenRequest, PrepareRequest, ProcessSample, ReleaseRequest,
    RestoreRequest, Samples, Slice, StartedRequest, WatchReply, WatchRequest,
};
pub use device::{
    Attribute, Capacity, Device, Discovery, Health, HealthState, Link, NodeId, NodeKind, NumaNode,
    Partitioning, Profile, Value,
};
pub use edits::{CpuQuota, DeviceNode, Edits, EnvVar, Mount, Resources};
pub use error::{ErrorCode, PluginError};
pub use manifest::{
    Basis, ConfigKey, DefaultAmount, Draw, EnforcementLevel, Manifest, Shape, Slot,
};
pub use plugin::Plugin;

/// What [`export_plugin!`] and the plugin host need of abi_stable. Not part of
/// the contract.
#[doc(hidden)]
pub mod __abi {
    pub use abi_stable::library::{
        __call_root_module_loader, CheckTypeLayout, LibHeader, LibraryError,
        ROOT_MODULE_LOADER_NAME, RootModuleResult, lib_header_from_path,
    };
    pub use abi_stable::std_types::{RErr, ROk, RStr};
}

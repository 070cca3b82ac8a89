//! What people and programs see of the machine.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IncidentView;
use super::held::hold;
use crate::allocate::{Problem, Snapshot};
use crate::model::{Amount, Device, Inventory, Record};

/// One capacity of a device, with what is held of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// All of it.
    pub total: Amount,
    /// Never handed out.
    pub reserved: Amount,
    /// Held.
    pub used: Amount,
}

/// A device with what is held of it, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceView {
    /// What its plugin reported.
    #[serde(flatten)]
    pub device: Device,
    /// Its capacities with what is held of each.
    pub usage: BTreeMap<String, Usage>,
    /// Names of the workloads that hold a slice of it.
    pub holders: Vec<String>,
    /// Why no new work is placed on it, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Since when it is as healthy as it is, ms since 1970; an agent knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Its plugin's host was killed and does not die: a driver holds it in the
    /// kernel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
    /// What happened to it, the latest first; an agent knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<IncidentView>,
}

/// The inventory with what the records hold of it.
#[must_use]
pub fn describe_inventory(
    inventory: &Inventory,
    records: &[Record],
) -> (Vec<DeviceView>, Vec<Problem>) {
    let mut snapshot = Snapshot::new(inventory);
    let held: Vec<&Record> = records.iter().filter(|r| r.holds()).collect();
    let problems = hold(&mut snapshot, inventory, &held);
    let views = inventory
        .devices
        .iter()
        .map(|device| {
            let name = device.name();
            let usage = device
                .device
                .capacities
                .iter()
                .map(|(capacity, c)| {
                    let used = snapshot
                        .cell(&name, capacity)
                        .map_or(Amount::ZERO, |cell| cell.used);
                    (
                        capacity.clone(),
                        Usage {
                            total: c.total,
                            reserved: c.reserved,
                            used,
                        },
                    )
                })
                .collect();
            let holders = held
                .iter()
                .filter(|r| r.slices.iter().any(|s| s.device() == name))
                .map(|r| r.name.clone())
                .collect();
            let closed = snapshot.closed(&name).map(str::to_owned);
            DeviceView {
                device: device.clone(),
                usage,
                holders,
                closed,
                since_ms: None,
                stuck: false,
                incidents: vec![],
            }
        })
        .collect();
    (views, problems)
}

//! What is held of a machine as it is now, by records and by others.
//!
//! A device's id can go, or its nodes' numbers become another's, while a container has
//! them: a partition was cut anew, a driver reloaded, a UUID cannot be read any more.
//! What a container may use is what its nodes are now, so whatever has one of those
//! nodes to itself is closed to new work until the holder ends.

use std::collections::{BTreeMap, BTreeSet};

use divvy_plugin::{Edits, NodeId};

use super::foreign::foreign;
use crate::allocate::{Problem, Snapshot};
use crate::model::{Device, DeviceRef, Inventory, Record};
use crate::plugin::validate;

/// Takes what the records hold, and closes what they may use besides.
pub(super) fn hold(
    snapshot: &mut Snapshot,
    inventory: &Inventory,
    held: &[&Record],
) -> Vec<Problem> {
    let mut problems = snapshot.hold(held.iter().flat_map(|record| &record.slices));
    for (device, what) in foreign(inventory, held) {
        snapshot.shut(&device, what);
        let what = what.to_owned();
        problems.push(Problem { device, what });
    }
    // Most plugins give no nodes, and this is in the way of every decision.
    let mut owners: BTreeMap<&str, Owners<'_>> = BTreeMap::new();
    for record in held {
        for (plugin, edits) in &record.edits {
            if edits.device_nodes.is_empty() {
                continue;
            }
            let of = || Owners::of(inventory, plugin);
            let owners = owners.entry(plugin).or_insert_with(of);
            for (device, what) in owners.besides(record, plugin, edits) {
                snapshot.shut(&device, &what);
                problems.push(Problem { device, what });
            }
        }
    }
    problems
}

/// Whose a plugin's nodes are.
struct Owners<'a> {
    devices: BTreeMap<&'a str, &'a Device>,
    /// Units that have a node: devices that are no partitions, themselves or by theirs.
    units: BTreeMap<NodeId, BTreeSet<&'a str>>,
    /// Devices that have a node and are not cut.
    leaves: BTreeMap<NodeId, BTreeSet<&'a str>>,
}

impl<'a> Owners<'a> {
    fn of(inventory: &'a Inventory, plugin: &str) -> Self {
        let devices = inventory.devices.iter().filter(|d| d.plugin == plugin);
        let devices: BTreeMap<&str, &Device> = devices.map(|d| (d.device.id.as_str(), d)).collect();
        let cut: BTreeSet<&str> = devices
            .values()
            .filter_map(|d| d.device.parent.as_deref())
            .collect();
        let mut owners = Self {
            units: BTreeMap::new(),
            leaves: BTreeMap::new(),
            devices,
        };
        for (id, device) in &owners.devices {
            let unit = device.device.parent.as_deref().unwrap_or(id);
            for node in &device.device.nodes {
                owners.units.entry(*node).or_default().insert(unit);
                if !cut.contains(id) {
                    owners.leaves.entry(*node).or_default().insert(id);
                }
            }
        }
        owners
    }

    /// The devices that a record's container may use without holding them, and why.
    fn besides(&self, record: &Record, plugin: &str, edits: &Edits) -> Vec<(DeviceRef, String)> {
        let held: BTreeSet<&str> = record
            .slices
            .iter()
            .filter(|slice| slice.plugin == plugin)
            .map(|slice| slice.part.device.as_str())
            .collect();
        let gone = |id: &str| !self.devices.contains_key(id);
        let mut found = BTreeMap::new();
        for node in &edits.device_nodes {
            let number = validate::number(node);
            // A node that one device alone has now is that device.
            if let Some(owner) = self.only(&self.leaves, &number)
                && !held.contains(owner)
            {
                found.insert(owner, format!("{} has its node {}", record.name, node.path));
            }
            // Of a holder's device that is gone nobody knows what it was a part of: all
            // of the unit is closed.
            if gone(&node.device) && self.only(&self.units, &number).is_some() {
                let why = format!(
                    "{} holds {}, which is not there any more, and has nodes of this; divvy stop {} ends that",
                    record.name, node.device, record.name
                );
                let has = |device: &&&Device| device.device.nodes.contains(&number);
                for device in self.devices.values().filter(has) {
                    found.insert(device.device.id.as_str(), why.clone());
                }
            }
        }
        found
            .into_iter()
            .map(|(id, why)| (self.devices[id].name(), why))
            .collect()
    }

    fn only(&self, owners: &BTreeMap<NodeId, BTreeSet<&'a str>>, node: &NodeId) -> Option<&'a str> {
        let owners = owners.get(node)?;
        owners.first().copied().filter(|_| owners.len() == 1)
    }
}

#[cfg(test)]
mod tests {
    use divvy_plugin::{DeviceNode, NodeKind};

    use super::*;
    use crate::model::Slice;

    fn node(minor: u32) -> NodeId {
        NodeId {
            kind: NodeKind::Char,
            major: 195,
            minor,
        }
    }

    fn device(id: &str, minors: &[u32], parent: Option<&str>) -> Device {
        Device {
            plugin: "x".into(),
            device: divvy_plugin::Device {
                nodes: minors.iter().map(|minor| node(*minor)).collect(),
                parent: parent.map(Into::into),
                ..divvy_plugin::Device::new(id, "gpu", "")
            },
        }
    }

    fn holder(id: &str, minors: &[u32]) -> Record {
        let mut record: Record = serde_json::from_value(serde_json::json!({
            "id": "1", "name": "a", "state": "running", "remove_on_exit": false, "owner": 0,
            "boot_id": "", "created_ms": 0, "asked": {}, "slices": [], "launcher": "oci",
            "runtime": "", "root": "host", "command": [],
        }))
        .unwrap();
        record.slices = vec![Slice {
            level: None,
            plugin: "x".into(),
            part: divvy_plugin::Slice {
                slot: "x.device".into(),
                device: id.into(),
                amount: crate::model::Amount::ONE,
                capacities: BTreeMap::new(),
                start: None,
            },
        }];
        let nodes = minors.iter().map(|minor| DeviceNode {
            device: id.into(),
            path: format!("/dev/x{minor}"),
            kind: NodeKind::Char,
            major: 195,
            minor: *minor,
            write: true,
            mode: None,
            gid: None,
        });
        let edits = Edits {
            device_nodes: nodes.collect(),
            ..Edits::default()
        };
        record.edits = [("x".to_owned(), edits)].into();
        record
    }

    #[test]
    fn what_may_be_in_use_by_another_name_is_closed() {
        // 255 is everybody's; 7 is the right to the one part, 8 to the other.
        let inventory = Inventory {
            devices: vec![
                device("g0", &[0, 255], None),
                device("g1", &[1, 255], None),
                device("p1", &[1, 255, 7], Some("g1")),
                device("p2", &[1, 255, 8], Some("g1")),
            ],
            ..Inventory::default()
        };
        let closed = |id: &str, minors: &[u32]| -> Vec<String> {
            let owners = Owners::of(&inventory, "x");
            let holder = holder(id, minors);
            let found = owners.besides(&holder, "x", &holder.edits["x"]);
            found.into_iter().map(|(device, _)| device.id).collect()
        };
        assert_eq!(closed("g0", &[0, 255]), Vec::<String>::new());
        assert_eq!(closed("0000:01:00.0", &[0, 255]), ["g0"]);
        // An instance's GPU cannot be given whole, nor what is cut of it now.
        assert_eq!(closed("p0", &[1, 255, 7]), ["g1", "p1", "p2"]);
        assert_eq!(closed("gone", &[9, 255]), Vec::<String>::new());
        // Numbers that are another's now: of a unit, and of a part beside its own.
        assert_eq!(closed("g1", &[0, 255]), ["g0"]);
        assert_eq!(closed("p1", &[1, 255, 8]), ["p2"]);
        assert_eq!(closed("p1", &[1, 255, 7]), Vec::<String>::new());
    }
}

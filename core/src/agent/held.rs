//! What records hold of a machine as it is now.
//!
//! A device's id can go while a container has its nodes: a partition was cut anew,
//! a UUID cannot be read any more. The silicon is still in use, so whatever has one of
//! those nodes to itself is closed to new work until the holder ends.

use std::collections::{BTreeMap, BTreeSet};

use divvy_plugin::NodeId;

use crate::allocate::{Problem, Snapshot};
use crate::model::{Device, DeviceRef, Inventory, Record};

/// Takes what the records hold, and closes what they may still use by another name.
pub(super) fn hold(
    snapshot: &mut Snapshot,
    inventory: &Inventory,
    held: &[&Record],
) -> Vec<Problem> {
    let problems = snapshot.hold(held.iter().flat_map(|record| &record.slices));
    for (device, why) in leftovers(inventory, held) {
        snapshot.shut(&device, &why);
    }
    problems
}

/// Devices that are in use by the nodes of one that is not there, and why.
fn leftovers(inventory: &Inventory, held: &[&Record]) -> Vec<(DeviceRef, String)> {
    let there: BTreeSet<DeviceRef> = inventory.devices.iter().map(Device::name).collect();
    let mut found = vec![];
    for record in held {
        for slice in &record.slices {
            let device = slice.device();
            if there.contains(&device) {
                continue;
            }
            let Some(edits) = record.edits.get(&slice.plugin) else {
                continue;
            };
            let nodes: BTreeSet<NodeId> = edits
                .device_nodes
                .iter()
                .filter(|node| {
                    node.device == device.id || !there.contains(&of(&device, &node.device))
                })
                .map(|node| NodeId {
                    kind: node.kind,
                    major: node.major,
                    minor: node.minor,
                })
                .collect();
            let owners = owners(inventory, &slice.plugin);
            let own = |node: &&NodeId| nodes.contains(*node) && owners.get(*node) == Some(&1);
            let uses = |other: &&Device| {
                other.plugin == slice.plugin && other.device.nodes.iter().any(|n| own(&n))
            };
            let why = format!(
                "{} holds {}, which is not there any more, and has nodes of this",
                record.name, device.id
            );
            found.extend(
                inventory
                    .devices
                    .iter()
                    .filter(uses)
                    .map(|other| (other.name(), why.clone())),
            );
        }
    }
    found
}

fn of(device: &DeviceRef, id: &str) -> DeviceRef {
    DeviceRef {
        plugin: device.plugin.clone(),
        id: id.to_owned(),
    }
}

/// How many units of a plugin have each node. A partition's are its parent's; what all
/// units of several have is a control node.
fn owners(inventory: &Inventory, plugin: &str) -> BTreeMap<NodeId, usize> {
    let mut units: BTreeMap<NodeId, BTreeSet<&str>> = BTreeMap::new();
    for device in inventory.devices.iter().filter(|d| d.plugin == plugin) {
        let unit = device.device.parent.as_deref().unwrap_or(&device.device.id);
        for node in &device.device.nodes {
            units.entry(*node).or_default().insert(unit);
        }
    }
    units
        .into_iter()
        .map(|(node, units)| (node, units.len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use divvy_plugin::{DeviceNode, Edits, NodeKind};

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
            let holder = holder(id, minors);
            let found = leftovers(&inventory, &[&holder]);
            found.into_iter().map(|(device, _)| device.id).collect()
        };
        assert_eq!(closed("g0", &[0, 255]), Vec::<String>::new());
        assert_eq!(closed("0000:01:00.0", &[0, 255]), ["g0"]);
        // An instance's GPU cannot be given whole, nor what is cut of it now.
        assert_eq!(closed("p0", &[1, 255, 7]), ["g1", "p1", "p2"]);
        assert_eq!(closed("gone", &[9, 255]), Vec::<String>::new());
    }
}

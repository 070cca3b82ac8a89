//! Programs on devices that are no workload's.
//!
//! What a program of somebody else uses of a device is not free, whatever the ledger
//! says; and what a workload left behind is not either.

use crate::launch::cgroup;
use crate::model::{Device, DeviceRef, Inventory, Record};

/// Who it is is not everybody's to know: whoever may, sees it in `divvy describe`.
const WHY: &str =
    "a program that is no workload's computes on it: it takes new work when that ends";

/// The devices that are in use by others, and why they take no work.
pub(super) fn foreign(
    inventory: &Inventory,
    held: &[&Record],
) -> impl Iterator<Item = (DeviceRef, &'static str)> {
    let busy = |device: &&Device| has_stranger(device, held);
    let devices = inventory.devices.iter().filter(busy);
    devices.map(|device| (device.name(), WHY))
}

fn has_stranger(device: &Device, held: &[&Record]) -> bool {
    let pids = &device.device.processes;
    if pids.is_empty() {
        return false;
    }
    let name = device.name();
    let holds = |record: &&&Record| record.slices.iter().any(|slice| slice.device() == name);
    let holders: Vec<&&Record> = held.iter().filter(holds).collect();
    // A program that uses slices without a container may be anywhere.
    if holders.iter().any(|record| !record.has_container()) {
        return false;
    }
    let strange = |pid: &u32| {
        // One that ended meanwhile has no cgroups.
        let lines = cgroup::lines(*pid);
        lines.is_some_and(|lines| {
            let mut holders = holders.iter();
            !holders.any(|r| cgroup::is_member(&lines, r.cgroup_name(), r.pid))
        })
    };
    pids.iter().any(strange)
}

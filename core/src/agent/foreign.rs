//! Programs on devices that are no workload's.
//!
//! What a program of somebody else uses of a device is not free, whatever the ledger
//! says; and what a workload left behind is not either.

use crate::launch::cgroup;
use crate::model::{Device, DeviceRef, Inventory, Record};

/// The devices that are in use by others, and by whom.
pub(super) fn foreign(inventory: &Inventory, held: &[&Record]) -> Vec<(DeviceRef, String)> {
    let busy = inventory
        .devices
        .iter()
        .filter(|d| !d.device.processes.is_empty());
    busy.filter_map(|device| Some((device.name(), stranger(device, held)?)))
        .collect()
}

fn stranger(device: &Device, held: &[&Record]) -> Option<String> {
    let name = device.name();
    let holds = |record: &&&Record| record.slices.iter().any(|slice| slice.device() == name);
    // A program that uses slices without a container may be anywhere.
    if held
        .iter()
        .filter(holds)
        .any(|record| !record.has_container())
    {
        return None;
    }
    let ids: Vec<&str> = held.iter().map(|record| record.cgroup_name()).collect();
    // One that ended meanwhile is in no cgroup.
    let strange = |pid: &&u32| cgroup::is_in(**pid, &ids) == Some(false);
    let pid = device.device.processes.iter().find(strange)?;
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!(
        "process {pid} ({}) computes on it and is no workload's: it takes new work when that ends",
        command.trim()
    ))
}

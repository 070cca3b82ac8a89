//! Slices, checked against the machine as it is now.

use std::collections::BTreeMap;

use divvy_plugin::{Amount, Slice};

use crate::cpulist::CpuSet;
use crate::discover::memory_id;
use crate::error::Error;
use crate::reserve::Reserved;
use crate::topology::{Core, Node, Topology};

/// The slot of cores.
pub(crate) const CPU: &str = "cpu";
/// The slot of memory.
pub(crate) const MEM: &str = "mem";

/// The step in which cores are granted: 0.01.
pub(crate) fn core_quantum() -> Amount {
    // 10⁷ nano-units; far below the limit.
    Amount::from_nanos(10_000_000).unwrap_or_default()
}

/// What one allocation holds; nothing in here is zero or unknown.
#[derive(Debug)]
pub(crate) struct Grant<'a> {
    /// Cores, each with its share.
    pub(crate) cores: Vec<(&'a Core, Amount)>,
    /// Memory nodes, each with its bytes.
    pub(crate) memory: Vec<(&'a Node, u64)>,
}

impl<'a> Grant<'a> {
    /// Checks slices. `listed` is what each core's threads were when the
    /// devices were last listed.
    pub(crate) fn check(
        slices: &[Slice],
        topology: &'a Topology,
        reserved: &Reserved,
        listed: &BTreeMap<String, CpuSet>,
    ) -> Result<Self, Error> {
        let mut amounts = BTreeMap::<(&'static str, &str), Amount>::new();
        for slice in slices {
            let slot = match slice.slot.as_str() {
                CPU => CPU,
                MEM => MEM,
                other => return Err(Error::UnknownSlot(other.to_owned())),
            };
            let sum = amounts.entry((slot, &slice.device)).or_default();
            *sum = sum.checked_add(slice.amount).unwrap_or(Amount::MAX);
        }
        if amounts.is_empty() {
            return Err(Error::NoSlices);
        }
        let (mut cores, mut memory) = (Vec::new(), Vec::new());
        for ((slot, device), amount) in amounts {
            let absent = || Error::NoDevice {
                slot,
                device: device.to_owned(),
            };
            if slot == CPU {
                let core = topology.cores.iter().find(|core| core.id == device);
                let core = core.ok_or_else(absent)?;
                check_core(core, amount, reserved, listed.get(device))?;
                cores.push((core, amount));
            } else {
                let mut nodes = topology.nodes.iter().filter(|node| node.usable);
                let node = nodes.find(|node| memory_id(node.id) == device);
                let node = node.ok_or_else(absent)?;
                memory.push((node, check_memory(node, amount, reserved)?));
            }
        }
        cores.sort_by_key(|(core, _)| core.threads.first());
        memory.sort_by_key(|(node, _)| node.id);
        Ok(Self { cores, memory })
    }
}

fn check_core(
    core: &Core,
    amount: Amount,
    reserved: &Reserved,
    listed: Option<&CpuSet>,
) -> Result<(), Error> {
    if amount.is_zero() || amount > Amount::ONE || !amount.is_multiple_of(core_quantum()) {
        return Err(Error::CoreAmount {
            core: core.id.clone(),
            amount,
        });
    }
    if reserved.cores.contains(&core.id) {
        return Err(Error::CoreReserved(core.id.clone()));
    }
    let gone = listed.map(|listed| listed.without(&core.threads));
    match gone {
        Some(gone) if !gone.is_empty() => Err(Error::ThreadsGone {
            core: core.id.clone(),
            gone,
        }),
        _ => Ok(()),
    }
}

fn check_memory(node: &Node, amount: Amount, reserved: &Reserved) -> Result<u64, Error> {
    if node.gpu.is_some() {
        return Err(Error::GpuMemory(memory_id(node.id)));
    }
    let kept = reserved.memory.get(&node.id).copied().unwrap_or(0);
    let there = node.memory.unwrap_or(0).saturating_sub(kept);
    let bytes = amount.whole_units();
    if bytes == 0 || bytes > there || !amount.fraction().is_zero() {
        return Err(Error::MemAmount {
            node: memory_id(node.id),
            amount,
            there,
        });
    }
    Ok(bytes)
}

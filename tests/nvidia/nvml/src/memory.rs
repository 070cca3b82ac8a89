//! Memory: how much there is, and how much is used.

use std::collections::BTreeSet;
use std::ffi::c_uint;

use divvy_nvidia_machine::{Machine, memory};
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::state::Device;

/// Bytes in a MiB.
pub(crate) const MIB: u64 = 1 << 20;

/// What processes have really allocated on a GPU, outside of GPU instances or in one:
/// their numbers, where they can be told from here, and bytes.
pub(crate) fn allocated(machine: &Machine, gpu: &str, gi: Option<u32>) -> Vec<(Option<u32>, u64)> {
    memory::used(machine, gpu, gi).unwrap_or_default()
}

/// The GPU instances that there are.
pub(crate) fn instances(device: &Device) -> BTreeSet<u32> {
    let all = device.gpu.gpu_instances().into_iter();
    all.map(|instance| instance.gi).collect()
}

/// Bytes.
struct Memory {
    total: u64,
    reserved: u64,
    /// Without what is reserved.
    used: u64,
}

impl Memory {
    fn of(device: &Device) -> Answer<Self> {
        let gpu = device.gpu;
        let machine = &device.call.machine;
        let allocated = |gi| -> u64 {
            let allocated = allocated(machine, device.name, gi);
            allocated.iter().map(|(_, bytes)| bytes).sum()
        };
        // Compute instances of one GPU instance share its memory: each reports all of it.
        let used = |gi| -> u64 {
            let here = gpu.instance.iter().filter(|instance| instance.gi == gi);
            let others: u64 = here.map(|instance| instance.used_mib * MIB).sum();
            others + allocated(Some(gi))
        };
        let (total, reserved, used) = match device.part() {
            Some(part) => (part.profile.memory_mib, 0, used(part.instance.gi)),
            None => {
                let processes = gpu.process.iter().filter_map(|process| process.memory_mib);
                let others = (gpu.used_mib + processes.sum::<u64>()) * MIB;
                let parts: u64 = instances(device).into_iter().map(used).sum();
                let total = gpu.memory_mib.ok_or(NOT_SUPPORTED)?;
                (total, gpu.reserved_mib, others + parts + allocated(None))
            }
        };
        let (total, reserved) = (total * MIB, reserved * MIB);
        Ok(Self {
            total,
            reserved,
            used: used.min(total.saturating_sub(reserved)),
        })
    }

    fn free(&self) -> u64 {
        self.total.saturating_sub(self.reserved + self.used)
    }
}

exports! {
    about nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) {
        let of = Memory::of(&device)?;
        memory.put(nvmlMemory_t {
            total: of.total,
            free: of.free(),
            used: of.reserved + of.used,
        })
    }
    about nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) {
        let asked = memory.cast::<c_uint>().get()?;
        // Seen from real drivers: this call answers so, and not as others do.
        check::<nvmlMemory_v2_t>(asked, 2).map_err(|_| FUNCTION_NOT_FOUND)?;
        let of = Memory::of(&device)?;
        memory.put(nvmlMemory_v2_t {
            version: asked,
            total: of.total,
            reserved: of.reserved,
            free: of.free(),
            used: of.used,
        })
    }
    about nvmlDeviceGetBAR1MemoryInfo(device: nvmlDevice_t, memory: *mut nvmlBAR1Memory_t) {
        let gpu = device.gpu;
        let own = gpu.memory_mib.ok_or(NOT_SUPPORTED)?;
        // All of it can be mapped on boards for servers, and a small window elsewhere.
        let total = match gpu.remapped_rows {
            Some(_) => own.next_power_of_two() * MIB,
            None => 256 * MIB,
        };
        let used = MIB;
        memory.put(nvmlBAR1Memory_t {
            bar1Total: total,
            bar1Free: total - used,
            bar1Used: used,
        })
    }
}

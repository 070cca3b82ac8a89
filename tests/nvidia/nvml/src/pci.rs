//! The PCI bus: addresses and the link.

use std::ffi::{c_uint, c_ulong};

use divvy_nvidia_machine::Gpu;
use divvy_nvidia_machine::pci::Address;
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::links::{cpus, mask};

/// NVIDIA's PCI vendor.
const VENDOR: u32 = 0x10de;

/// KB/s that a busy link carries here.
const THROUGHPUT: u32 = 500;

/// `0x2330` as NVML numbers it: 0x233010DE.
fn pci_id(gpu: &Gpu) -> c_uint {
    let digits = gpu.pci_id.trim_start_matches("0x");
    u32::from_str_radix(digits, 16).unwrap_or_default() << 16 | VENDOR
}

/// An address in NVML's struct.
pub(crate) fn info(address: Address, id: c_uint) -> nvmlPciInfo_t {
    let Address {
        domain,
        bus,
        device,
        ..
    } = address;
    nvmlPciInfo_t {
        busIdLegacy: field(&format!("{domain:04X}:{bus:02X}:{device:02X}.0")),
        domain,
        bus,
        device,
        pciDeviceId: id,
        pciSubSystemId: id,
        busId: field(&format!("{domain:08X}:{bus:02X}:{device:02X}.0")),
    }
}

/// A GPU's address in NVML's struct.
pub(crate) fn of(gpu: &Gpu) -> Answer<nvmlPciInfo_t> {
    let address = Address::parse(&gpu.pci).ok_or(UNKNOWN)?;
    Ok(info(address, pci_id(gpu)))
}

/// The first `N` words of the struct: earlier versions have only those.
fn begin<const N: usize>(pci: &nvmlPciInfo_t) -> [c_uint; N] {
    let id = pci.busIdLegacy.map(|byte| byte.to_ne_bytes()[0]);
    let id = id.chunks(4).map(|word| {
        let word: [u8; 4] = word.try_into().unwrap_or_default();
        c_uint::from_ne_bytes(word)
    });
    let rest = [
        pci.domain,
        pci.bus,
        pci.device,
        pci.pciDeviceId,
        pci.pciSubSystemId,
    ];
    let mut words = [0; N];
    for (to, from) in words.iter_mut().zip(id.chain(rest)) {
        *to = from;
    }
    words
}

/// Generation or width of the link.
fn link(gpu: &Gpu, which: usize) -> Answer<c_uint> {
    Ok(gpu.pcie.ok_or(NOT_SUPPORTED)?[which])
}

/// MB/s of a lane of that generation.
fn speed(generation: c_uint) -> c_uint {
    match generation {
        1 => 2500,
        2 => 5000,
        3 => 8000,
        4 => 16000,
        5 => 32000,
        _ => 64000,
    }
}

exports! {
    about nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        pci.put(of(device.whole()?)?)
    }
    about nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        pci.cast().put(begin::<9>(&of(device.whole()?)?))
    }
    about nvmlDeviceGetPciInfo(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        pci.cast().put(begin::<8>(&of(device.whole()?)?))
    }
    about nvmlDeviceGetPciInfoExt(device: nvmlDevice_t, pci: *mut nvmlPciInfoExt_t) {
        let mut ext = pci.get()?;
        check::<nvmlPciInfoExt_t>(ext.version, 1)?;
        let gpu = device.whole()?;
        let info = of(gpu)?;
        let draws = gpu.brand.as_deref() == Some("GeForce");
        (ext.domain, ext.bus, ext.device) = (info.domain, info.bus, info.device);
        (ext.pciDeviceId, ext.pciSubSystemId) = (info.pciDeviceId, info.pciSubSystemId);
        (ext.baseClass, ext.subClass) = (3, if draws { 0 } else { 2 });
        ext.busId = info.busId;
        pci.put(ext)
    }
    about nvmlDeviceGetBusType(device: nvmlDevice_t, kind: *mut nvmlBusType_t) {
        device.whole()?;
        kind.put(NVML_BUS_TYPE_PCIE)
    }
    about nvmlDeviceGetMaxPcieLinkGeneration(device: nvmlDevice_t, generation: *mut c_uint) {
        generation.put(link(device.whole()?, 0)?)
    }
    about nvmlDeviceGetGpuMaxPcieLinkGeneration(device: nvmlDevice_t, generation: *mut c_uint) {
        generation.put(link(device.whole()?, 0)?)
    }
    about nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, generation: *mut c_uint) {
        generation.put(link(device.whole()?, 0)?)
    }
    about nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, width: *mut c_uint) {
        width.put(link(device.whole()?, 1)?)
    }
    about nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, width: *mut c_uint) {
        width.put(link(device.whole()?, 1)?)
    }
    about nvmlDeviceGetPcieLinkMaxSpeed(device: nvmlDevice_t, max: *mut c_uint) {
        max.put(link(device.whole()?, 0)?)
    }
    about nvmlDeviceGetPcieSpeed(device: nvmlDevice_t, mbps: *mut c_uint) {
        mbps.put(speed(link(device.whole()?, 0)?))
    }
    about nvmlDeviceGetPcieThroughput(
        device: nvmlDevice_t, counter: nvmlPcieUtilCounter_t, value: *mut c_uint
    ) {
        let gpu = device.whole()?;
        link(gpu, 0)?;
        let busy = gpu.utilization.is_some_and(|[processes, _]| processes > 0);
        let some = if busy { THROUGHPUT } else { 0 };
        let both = gpu.pcie_kbps.unwrap_or([some; 2]);
        value.put(*both.get(size(counter)).ok_or(INVALID_ARGUMENT)?)
    }
    about nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, value: *mut c_uint) {
        link(device.whole()?, 0)?;
        value.put(0)
    }
    about nvmlDeviceGetIrqNum(device: nvmlDevice_t, irq: *mut c_uint) {
        irq.put(64 + device.whole()?.minor)
    }
    about nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, node: *mut c_uint) {
        node.put(device.whole()?.memory_node.ok_or(NOT_SUPPORTED)?)
    }
    about nvmlDeviceGetCpuAffinity(device: nvmlDevice_t, length: c_uint, set: *mut c_ulong) {
        near_cpus(device.gpu, length, set)
    }
    about nvmlDeviceGetCpuAffinityWithinScope(
        device: nvmlDevice_t, length: c_uint, set: *mut c_ulong, scope: nvmlAffinityScope_t
    ) {
        match scope {
            NVML_AFFINITY_SCOPE_NODE | NVML_AFFINITY_SCOPE_SOCKET => {
                near_cpus(device.gpu, length, set)
            }
            _ => Err(INVALID_ARGUMENT),
        }
    }
    about nvmlDeviceGetMemoryAffinity(
        device: nvmlDevice_t, length: c_uint, set: *mut c_ulong, scope: nvmlAffinityScope_t
    ) {
        if scope > NVML_AFFINITY_SCOPE_SOCKET {
            return Err(INVALID_ARGUMENT);
        }
        let node = usize::try_from(device.gpu.numa_node).map_err(|_| NOT_SUPPORTED)?;
        set.fill(&mask(&[node], size(length)))
    }
}

fn near_cpus(gpu: &Gpu, length: c_uint, set: Out<c_ulong>) -> Answer {
    if length == 0 {
        return Err(INVALID_ARGUMENT);
    }
    let near = cpus(gpu.local_cpus.as_deref());
    match near.is_empty() {
        true => Err(NOT_SUPPORTED),
        false => set.fill(&mask(&near, size(length))),
    }
}

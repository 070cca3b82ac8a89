//! How GPUs reach each other: PCIe, NVLink, the fabric.

use std::ffi::{c_uint, c_ulong, c_ulonglong};

use divvy_nvidia_machine::pci::{self as bus, Address, Common};
use divvy_nvidia_machine::{Description, Gpu, Link};
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::handles::Handle;
use crate::identity::bytes;
use crate::pci;
use crate::state::Device;

/// Where an NVSwitch is whose name is no PCI address: on a bus of its own.
const SWITCHES: u32 = 0xe0;

/// The PCI id of an NVSwitch (GH100's).
const SWITCH_ID: u32 = 0x22a3_10de;

/// CPUs as sysfs lists them: `0-55,112-167`.
pub(crate) fn cpus(list: Option<&str>) -> Vec<usize> {
    let ranges = list.unwrap_or_default().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    });
    ranges.flatten().collect()
}

/// These bits in so many words.
pub(crate) fn mask(bits: &[usize], words: usize) -> Vec<c_ulong> {
    // As the real one: what the caller has no room for is left out.
    let mut mask = vec![0; words.min(1024)];
    for bit in bits {
        if let Some(word) = mask.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }
    mask
}

fn level(description: &Description, one: &Gpu, other: &Gpu) -> nvmlGpuTopologyLevel_t {
    match bus::common(description, one, other) {
        Common::Itself => nvmlGpuLevel_enum_NVML_TOPOLOGY_INTERNAL,
        Common::Switch => nvmlGpuLevel_enum_NVML_TOPOLOGY_SINGLE,
        Common::Bridge => nvmlGpuLevel_enum_NVML_TOPOLOGY_HOSTBRIDGE,
        Common::Node => nvmlGpuLevel_enum_NVML_TOPOLOGY_NODE,
        Common::Machine => nvmlGpuLevel_enum_NVML_TOPOLOGY_SYSTEM,
    }
}

/// Does NVLink join them, straight or over a switch?
fn joined(one: &Device, other: &Device) -> bool {
    let off = |gpu: &Gpu| gpu.mig == Some(true);
    if one.name == other.name || off(one.gpu) || off(other.gpu) {
        return false;
    }
    one.gpu.nvlink.iter().any(|link| match link {
        Link::Gpu(name) => name == other.name,
        Link::Switch(_) => other.gpu.nvlink.contains(link),
        Link::Off => false,
    })
}

/// One of its NVLinks.
fn link<'a>(device: &Device<'a>, link: c_uint) -> Answer<&'a Link> {
    if link >= NVML_NVLINK_MAX_LINKS {
        return Err(INVALID_ARGUMENT);
    }
    device
        .undivided()?
        .nvlink
        .get(size(link))
        .ok_or(NOT_SUPPORTED)
}

/// One of its NVLinks that goes somewhere.
fn active<'a>(device: &Device<'a>, number: c_uint) -> Answer<&'a Link> {
    match link(device, number)? {
        Link::Off => Err(NOT_SUPPORTED),
        link => Ok(link),
    }
}

/// Errors of a kind on all of its NVLinks.
pub(crate) fn errors(device: &Device, what: nvmlNvLinkErrorCounter_t) -> Answer<u64> {
    let gpu = device.undivided()?;
    if gpu.nvlink.is_empty() {
        return Err(NOT_SUPPORTED);
    }
    let errors = gpu.nvlink_errors.iter();
    Ok(errors.filter_map(|errors| errors.get(size(what))).sum())
}

/// All NVLinks, where one is asked for.
const ALL: c_uint = c_uint::MAX;

/// KiB sent and received, over all NVLinks or one: each has carried its part.
pub(crate) fn throughput(device: &Device, number: c_uint) -> Answer<[u64; 2]> {
    let gpu = device.undivided()?;
    let is_active = |link: &&Link| **link != Link::Off;
    let count = gpu.nvlink.iter().filter(is_active).count();
    let count = u64::try_from(count).map_err(|_| UNKNOWN)?;
    if count == 0 {
        return Err(NOT_SUPPORTED);
    }
    if number == ALL {
        return Ok(gpu.nvlink_kib);
    }
    active(device, number)?;
    let before = gpu.nvlink.iter().take(size(number));
    let first = before.filter(is_active).count() == 0;
    Ok(gpu
        .nvlink_kib
        .map(|kib| kib / count + if first { kib % count } else { 0 }))
}

/// What is at the other end.
fn remote(device: &Device, number: c_uint) -> Answer<nvmlPciInfo_t> {
    let description = &device.call.description;
    match active(device, number)? {
        Link::Gpu(name) => pci::of(description.gpu.get(name).ok_or(NOT_SUPPORTED)?),
        Link::Switch(name) => {
            let links = description.gpu.values().flat_map(|gpu| &gpu.nvlink);
            let mut names: Vec<&String> = links
                .filter_map(|link| match link {
                    Link::Switch(name) => Some(name),
                    _ => None,
                })
                .collect();
            names.sort();
            names.dedup();
            let place = names
                .iter()
                .position(|other| *other == name)
                .unwrap_or_default();
            let named = Address::parse(name);
            let address = named.unwrap_or(Address {
                domain: 0,
                bus: SWITCHES + self::number(place),
                device: 0,
                function: 0,
            });
            Ok(pci::info(address, SWITCH_ID))
        }
        Link::Off => Err(NOT_SUPPORTED),
    }
}

exports! {
    about nvmlDeviceGetTopologyCommonAncestor(
        device: nvmlDevice_t, other: nvmlDevice_t, path: *mut nvmlGpuTopologyLevel_t
    ) {
        let other = device.call.other(other)?;
        path.put(level(&device.call.description, device.gpu, other.gpu))
    }
    about nvmlDeviceGetTopologyNearestGpus(
        device: nvmlDevice_t, at: nvmlGpuTopologyLevel_t, count: *mut c_uint, devices: *mut nvmlDevice_t
    ) {
        let description = &device.call.description;
        let near = |name: &String| {
            let gpu = description.gpu.get(name).filter(|_| name != device.name);
            gpu.is_some_and(|gpu| level(description, device.gpu, gpu) == at)
        };
        let near = device.call.machine.visible().into_iter().filter(near);
        let near: Vec<nvmlDevice_t> = near.map(|name| Handle::Gpu(name).pointer()).collect();
        near_list(count, devices, &near)
    }
    about nvmlDeviceGetP2PStatus(
        device: nvmlDevice_t, other: nvmlDevice_t, what: nvmlGpuP2PCapsIndex_t,
        status: *mut nvmlGpuP2PStatus_t
    ) {
        let other = device.call.other(other)?;
        let joined = joined(&device, &other);
        let ok = nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_OK;
        let no = nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_NOT_SUPPORTED;
        let draws = |gpu: &Gpu| gpu.brand.as_deref() == Some("GeForce");
        let divided = |gpu: &Gpu| gpu.mig == Some(true);
        let both = |is: &dyn Fn(&Gpu) -> bool| is(device.gpu) || is(other.gpu);
        status.put(match what {
            nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_NVLINK => if joined { ok } else { no },
            nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_ATOMICS => if joined { ok } else { no },
            nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_READ
            | nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_WRITE
            | nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_PROP => {
                let far = level(&device.call.description, device.gpu, other.gpu)
                    >= nvmlGpuLevel_enum_NVML_TOPOLOGY_SYSTEM;
                match () {
                    () if device.name == other.name || both(&divided) => no,
                    () if joined => ok,
                    () if both(&draws) || far => {
                        nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED
                    }
                    () => ok,
                }
            }
            _ => return Err(INVALID_ARGUMENT),
        })
    }
    about nvmlDeviceGetNvLinkState(device: nvmlDevice_t, number: c_uint, is: *mut nvmlEnableState_t) {
        is.put(u32::from(*link(&device, number)? != Link::Off))
    }
    about nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, number: c_uint, version: *mut c_uint) {
        link(&device, number)?;
        // NVML numbers 1.0 1, 2.0 2, 2.2 3, 3.0 4, 3.1 5, 4.0 6, 5.0 7.
        version.put(match device.gpu.nvlink_version.ok_or(NOT_SUPPORTED)? {
            early @ (1 | 2) => early,
            3 => 4,
            later => later + 2,
        })
    }
    about nvmlDeviceGetNvLinkCapability(
        device: nvmlDevice_t, number: c_uint, what: nvmlNvLinkCapability_t, has: *mut c_uint
    ) {
        let link = active(&device, number)?;
        has.put(match what {
            // P2P, atomics between GPUs.
            0 | 2 => 1,
            // System memory, and atomics there: only to the processor.
            1 | 3 => 0,
            // SLI bridge.
            4 => 0,
            // Is the link valid?
            5 => u32::from(*link != Link::Off),
            _ => return Err(INVALID_ARGUMENT),
        })
    }
    about nvmlDeviceGetNvLinkRemotePciInfo_v2(
        device: nvmlDevice_t, number: c_uint, pci: *mut nvmlPciInfo_t
    ) {
        pci.put(remote(&device, number)?)
    }
    about nvmlDeviceGetNvLinkRemoteDeviceType(
        device: nvmlDevice_t, number: c_uint, kind: *mut nvmlIntNvLinkDeviceType_t
    ) {
        kind.put(match active(&device, number)? {
            Link::Gpu(_) => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU,
            Link::Switch(_) => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH,
            Link::Off => return Err(NOT_SUPPORTED),
        })
    }
    about nvmlDeviceGetNvLinkErrorCounter(
        device: nvmlDevice_t, number: c_uint, what: nvmlNvLinkErrorCounter_t, count: *mut c_ulonglong
    ) {
        active(&device, number)?;
        if what >= nvmlNvLinkErrorCounter_enum_NVML_NVLINK_ERROR_COUNT {
            return Err(INVALID_ARGUMENT);
        }
        let errors = device.gpu.nvlink_errors.get(size(number));
        count.put(errors.map_or(0, |errors| errors[size(what)]))
    }
    about nvmlDeviceGetGpuFabricInfo(device: nvmlDevice_t, info: *mut nvmlGpuFabricInfo_t) {
        let [_, place @ .., _, _] = fabric(&device)?;
        info.cast::<[u32; 7]>().put(place)
    }
    about nvmlDeviceGetGpuFabricInfoV(device: nvmlDevice_t, info: *mut nvmlGpuFabricInfoV_t) {
        let asked = info.cast::<c_uint>().get()?;
        let mut fabric = fabric(&device)?;
        fabric[0] = asked;
        if asked == version::<nvmlGpuFabricInfo_v2_t>(2) {
            let [place @ .., _] = fabric;
            return info.cast::<[u32; 9]>().put(place);
        }
        check::<nvmlGpuFabricInfo_v3_t>(asked, 3)?;
        info.cast::<[u32; 10]>().put(fabric)
    }
}

/// As [`list`], but who says 0 only asks how many there are.
pub(crate) fn near_list(
    count: Out<c_uint>,
    devices: Out<nvmlDevice_t>,
    near: &[nvmlDevice_t],
) -> Answer {
    match count.get()? {
        0 => count.put(number(near.len())),
        _ => list(count, devices, near),
    }
}

/// Its place in the fabric, as the words of the struct's third version (the ones before are
/// parts of it): version, 4 of the cluster, status, clique, state, health and its
/// summary. Clients read a word for the state, which the header says is a byte: so words
/// are written, with no padding. GPUs without a fabric say so, where NVLink could have one.
fn fabric(device: &Device) -> Answer<[u32; 10]> {
    let gpu = device.whole()?;
    let able = gpu.nvlink_version.is_some_and(|version| version >= 4);
    let (state, cluster, clique) = match &gpu.fabric {
        Some((cluster, clique)) => (NVML_GPU_FABRIC_STATE_COMPLETED, bytes(cluster), *clique),
        None if able => (NVML_GPU_FABRIC_STATE_NOT_SUPPORTED, [0; 16], 0),
        None => return Err(NOT_SUPPORTED),
    };
    let mut words = [0; 10];
    for (word, part) in words[1..].iter_mut().zip(cluster.chunks(4)) {
        *word = u32::from_ne_bytes(part.try_into().unwrap_or_default());
    }
    words[6] = clique;
    words[7] = state;
    Ok(words)
}

const _: () = assert!(size_of::<nvmlGpuFabricInfo_t>() == size_of::<[u32; 7]>());
const _: () = assert!(size_of::<nvmlGpuFabricInfo_v2_t>() == size_of::<[u32; 9]>());
const _: () = assert!(size_of::<nvmlGpuFabricInfo_v3_t>() == size_of::<[u32; 10]>());

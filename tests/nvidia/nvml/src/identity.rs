//! Which GPUs there are, and what they are.

use std::ffi::{c_char, c_int, c_uint, c_ulong};

use divvy_nvidia_machine::Gpu;
use divvy_nvidia_machine::pci::Address;
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::handles::Handle;
use crate::state::{Call, Device};

/// Gives the handle of a GPU, by the description's name, or says why not.
fn handle(call: &Call, name: Option<String>, out: Out<nvmlDevice_t>, none: nvmlReturn_t) -> Answer {
    call.fault(name.as_deref())?;
    let name = name.ok_or(none)?;
    // Where there is no permission, the real one gives no handle either.
    if call.description.gpu.get(&name).is_some_and(|gpu| gpu.lost) {
        return Err(GPU_IS_LOST);
    }
    out.put(Handle::Gpu(name).pointer())
}

fn by_index(call: &Call, index: c_uint, out: Out<nvmlDevice_t>) -> Answer {
    let name = call.machine.visible().into_iter().nth(size(index));
    handle(call, name, out, INVALID_ARGUMENT)
}

/// The first GPU that is to be seen and of which this is true.
fn find(call: &Call, is: impl Fn(&Gpu) -> bool) -> Option<String> {
    let is = |name: &String| call.description.gpu.get(name).is_some_and(&is);
    call.machine.visible().into_iter().find(is)
}

fn by_bus_id(call: &Call, id: In<c_char>, out: Out<nvmlDevice_t>) -> Answer {
    let Some(address) = Address::parse(&id.text()?) else {
        return Err(INVALID_ARGUMENT);
    };
    let name = find(call, |gpu| Address::parse(&gpu.pci) == Some(address));
    handle(call, name, out, NOT_FOUND)
}

/// GPUs and MIG devices.
fn by_uuid(call: &Call, uuid: &str, out: Out<nvmlDevice_t>) -> Answer {
    let name = find(call, |gpu| {
        gpu.uuid == uuid || call.migs(gpu).iter().any(|(_, mig)| mig.uuid == uuid)
    });
    let mig = name.clone().filter(|_| uuid.starts_with("MIG-"));
    handle(call, name, out, NOT_FOUND)?;
    match mig {
        Some(gpu) => out.put(Handle::Mig(gpu, uuid.to_owned()).pointer()),
        None => Ok(()),
    }
}

/// `GPU-xxxxxxxx-xxxx-…` as 16 bytes.
pub(crate) fn bytes(uuid: &str) -> [u8; 16] {
    let digits: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let digits = &digits[digits.len().saturating_sub(32)..];
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair: String = pair.iter().collect();
        *byte = u8::from_str_radix(&pair, 16).unwrap_or_default();
    }
    bytes
}

/// A GPU's number among those that are to be seen.
pub(crate) fn index(device: &Device) -> Answer<c_uint> {
    let place = device.call.machine.visible();
    let place = place.iter().position(|name| name == device.name);
    place.map(number).ok_or(NOT_FOUND)
}

fn count(call: &Call, out: Out<c_uint>) -> Answer {
    out.put(number(call.machine.visible().len()))
}

exports! {
    system nvmlDeviceGetCount_v2(call, devices: *mut c_uint) { count(call, devices) }
    system nvmlDeviceGetCount(call, devices: *mut c_uint) { count(call, devices) }
    handle nvmlDeviceGetHandleByIndex_v2(call, index: c_uint, device: *mut nvmlDevice_t) {
        by_index(call, index, device)
    }
    handle nvmlDeviceGetHandleByIndex(call, index: c_uint, device: *mut nvmlDevice_t) {
        by_index(call, index, device)
    }
    handle nvmlDeviceGetHandleBySerial(call, serial: *const c_char, device: *mut nvmlDevice_t) {
        let serial = serial.text()?;
        let name = find(call, |gpu| gpu.serial.as_deref() == Some(&serial));
        handle(call, name, device, NOT_FOUND)
    }
    handle nvmlDeviceGetHandleByUUID(call, uuid: *const c_char, device: *mut nvmlDevice_t) {
        by_uuid(call, &uuid.text()?, device)
    }
    handle nvmlDeviceGetHandleByUUIDV(call, uuid: *const nvmlUUID_t, device: *mut nvmlDevice_t) {
        let uuid = uuid.get()?;
        check::<nvmlUUID_t>(uuid.version, 1)?;
        let wanted = match uuid_text(&uuid) {
            Some(text) => bytes(&text),
            None => uuid_bytes(&uuid).ok_or(INVALID_ARGUMENT)?,
        };
        let uuids = |gpu: &Gpu| {
            let migs = call.migs(gpu).into_iter().map(|(_, mig)| mig.uuid.clone());
            migs.chain([gpu.uuid.clone()]).find(|uuid| bytes(uuid) == wanted)
        };
        let found = call.machine.visible().into_iter();
        let found = found.filter_map(|name| uuids(call.description.gpu.get(&name)?)).next();
        by_uuid(call, &found.unwrap_or_default(), device)
    }
    handle nvmlDeviceGetHandleByPciBusId_v2(call, id: *const c_char, device: *mut nvmlDevice_t) {
        by_bus_id(call, id, device)
    }
    handle nvmlDeviceGetHandleByPciBusId(call, id: *const c_char, device: *mut nvmlDevice_t) {
        by_bus_id(call, id, device)
    }
    about nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) {
        let whole = &device.gpu.name;
        match device.part() {
            None => name.text(length, whole),
            Some(part) => {
                let (slices, profile) = (part.slices(), &part.instance.profile);
                let share = match slices == part.profile.compute {
                    true => String::new(),
                    false => format!("{slices}c."),
                };
                name.text(length, &format!("{whole} MIG {share}{profile}"))
            }
        }
    }
    about nvmlDeviceGetBrand(device: nvmlDevice_t, brand: *mut nvmlBrandType_t) {
        brand.put(match device.whole()?.brand.as_deref().ok_or(NOT_SUPPORTED)? {
            "Quadro" => nvmlBrandType_enum_NVML_BRAND_QUADRO,
            "Tesla" => nvmlBrandType_enum_NVML_BRAND_TESLA,
            "GeForce" => nvmlBrandType_enum_NVML_BRAND_GEFORCE,
            "Titan" => nvmlBrandType_enum_NVML_BRAND_TITAN,
            "Quadro RTX" => nvmlBrandType_enum_NVML_BRAND_QUADRO_RTX,
            "NVIDIA RTX" => nvmlBrandType_enum_NVML_BRAND_NVIDIA_RTX,
            "NVIDIA" => nvmlBrandType_enum_NVML_BRAND_NVIDIA,
            "GeForce RTX" => nvmlBrandType_enum_NVML_BRAND_GEFORCE_RTX,
            _ => nvmlBrandType_enum_NVML_BRAND_UNKNOWN,
        })
    }
    about nvmlDeviceGetArchitecture(device: nvmlDevice_t, architecture: *mut nvmlDeviceArchitecture_t) {
        architecture.put(match device.gpu.architecture.as_deref().ok_or(NOT_SUPPORTED)? {
            "Kepler" => NVML_DEVICE_ARCH_KEPLER,
            "Maxwell" => NVML_DEVICE_ARCH_MAXWELL,
            "Pascal" => NVML_DEVICE_ARCH_PASCAL,
            "Volta" => NVML_DEVICE_ARCH_VOLTA,
            "Turing" => NVML_DEVICE_ARCH_TURING,
            "Ampere" => NVML_DEVICE_ARCH_AMPERE,
            "Ada" | "Ada Lovelace" => NVML_DEVICE_ARCH_ADA,
            "Hopper" => NVML_DEVICE_ARCH_HOPPER,
            "Blackwell" => NVML_DEVICE_ARCH_BLACKWELL,
            _ => NVML_DEVICE_ARCH_UNKNOWN,
        })
    }
    about nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) {
        let own = device.instance.map_or(&device.gpu.uuid, |instance| &instance.uuid);
        uuid.text(length, own)
    }
    about nvmlDeviceGetIndex(device: nvmlDevice_t, number: *mut c_uint) {
        let Some(instance) = device.instance else {
            return number.put(index(&device)?);
        };
        let migs = device.call.migs(device.gpu);
        let found = migs.iter().find(|(_, mig)| mig.uuid == instance.uuid);
        number.put(found.ok_or(NOT_FOUND)?.0)
    }
    about nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) {
        minor.put(device.whole()?.minor)
    }
    about nvmlDeviceGetSerial(device: nvmlDevice_t, serial: *mut c_char, length: c_uint) {
        serial.text(length, device.whole()?.serial.as_ref().ok_or(NOT_SUPPORTED)?)
    }
    about nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) {
        version.text(length, device.whole()?.vbios.as_ref().ok_or(NOT_SUPPORTED)?)
    }
    about nvmlDeviceGetBoardId(device: nvmlDevice_t, id: *mut c_uint) {
        let address = Address::parse(&device.whole()?.pci).ok_or(UNKNOWN)?;
        id.put(address.domain << 16 | address.bus << 8 | address.device)
    }
    about nvmlDeviceGetMultiGpuBoard(device: nvmlDevice_t, is: *mut c_uint) {
        device.whole()?;
        is.put(0)
    }
    about nvmlDeviceOnSameBoard(device: nvmlDevice_t, other: nvmlDevice_t, is: *mut c_int) {
        is.put(c_int::from(device.call.other(other)?.name == device.name))
    }
    about nvmlDeviceGetInforomImageVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) {
        let board = board(device.whole()?)?;
        version.text(length, &format!("G{board}.0200.00.05"))
    }
    about nvmlDeviceGetInforomVersion(
        device: nvmlDevice_t, object: nvmlInforomObject_t, version: *mut c_char, length: c_uint
    ) {
        board(device.whole()?)?;
        match object {
            nvmlInforomObject_enum_NVML_INFOROM_OEM => version.text(length, "2.1"),
            nvmlInforomObject_enum_NVML_INFOROM_ECC => version.text(length, "7.16"),
            _ => Err(NOT_SUPPORTED),
        }
    }
    about nvmlDeviceGetInforomConfigurationChecksum(device: nvmlDevice_t, sum: *mut c_uint) {
        board(device.whole()?)?;
        sum.put(device.gpu.uuid.bytes().map(c_uint::from).sum())
    }
    about nvmlDeviceValidateInforom(device: nvmlDevice_t) {
        board(device.whole()?).map(|_| ())
    }
    about nvmlDeviceGetGspFirmwareVersion(device: nvmlDevice_t, version: *mut c_char) {
        device.whole()?;
        version.text(NVML_GSP_FIRMWARE_VERSION_BUF_SIZE, &device.call.description.driver)
    }
    about nvmlDeviceGetGspFirmwareMode(device: nvmlDevice_t, enabled: *mut c_uint, default: *mut c_uint) {
        device.whole()?;
        enabled.put(1)?;
        default.put(1)
    }
    about nvmlDeviceGetVirtualizationMode(device: nvmlDevice_t, mode: *mut nvmlGpuVirtualizationMode_t) {
        mode.put(match device.whole()?.virtualization.as_str() {
            "Pass-Through" => nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_PASSTHROUGH,
            "VGPU" => nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_VGPU,
            "Host VGPU" => nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU,
            "Host VSGA" => nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_HOST_VSGA,
            _ => nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_NONE,
        })
    }
    about nvmlDeviceGetLastBBXFlushTime(device: nvmlDevice_t, _time: *mut u64, _duration: *mut c_ulong) {
        device.whole()?;
        Err(NOT_SUPPORTED)
    }
}

/// The board's number, for boards that have an infoROM that one can ask.
fn board(gpu: &Gpu) -> Answer<&str> {
    gpu.ecc.ok_or(NOT_SUPPORTED)?;
    Ok(gpu.pci_id.get(3..).unwrap_or("520"))
}

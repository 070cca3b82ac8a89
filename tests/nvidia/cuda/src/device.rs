//! Devices: how many, what they are called, where they are.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::{
    CUdevice, CUdevice_P2PAttribute, CUdevice_attribute, CUdevprop, CUexecAffinityType,
    CUoutput_mode, CUuuid, CUuuid_st,
};

use crate::{
    abi::Of,
    attributes,
    call::{out, out_if, text, text_out},
    code::{Done, INVALID_DEVICE, INVALID_VALUE, NOT_FOUND, NOT_SUPPORTED},
    devices::{bus_id, uuid_bytes},
    driver::{self, machine},
};

fn uuid(text: &str) -> CUuuid {
    // C's `char` has a sign on some processors.
    let bytes = uuid_bytes(text).map(|byte| c_char::from_ne_bytes([byte]));
    CUuuid_st { bytes }
}

/// `13.0` as 13000.
pub(crate) fn version() -> c_int {
    let said = machine()
        .map(|machine| machine.current().cuda.clone())
        .unwrap_or_default();
    let mut parts = said.split('.').map(|part| part.parse().unwrap_or(0));
    parts.next().unwrap_or(0) * 1000 + parts.next().unwrap_or(0) * 10
}

fn total(dev: CUdevice) -> Done<u64> {
    let driver = driver::get()?;
    let (number, _) = driver.device(dev)?;
    Ok(driver.room(number)?.1)
}

driver! {
    [early]
    fn cuInit(Flags: c_uint) {
        if Flags != 0 {
            return Err(INVALID_VALUE);
        }
        driver::init()?;
    }

    [early]
    fn cuDriverGetVersion(driverVersion: *mut c_int) {
        out(driverVersion, version())?;
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        out(count, c_int::try_from(driver::get()?.devices.len()).unwrap_or(0))?;
    }

    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) on ordinal {
        driver::get()?.device(ordinal)?;
        out(device, ordinal)?;
    }

    fn cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice) on dev {
        text_out(name, len, &driver::get()?.device(dev)?.1.name)?;
    }

    [older]
    fn cuDeviceGetUuid(uuid: *mut CUuuid, dev: CUdevice) on dev {
        out(uuid, self::uuid(&driver::get()?.device(dev)?.1.gpu_uuid))?;
    }

    fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, dev: CUdevice) on dev {
        out(uuid, self::uuid(&driver::get()?.device(dev)?.1.uuid))?;
    }

    fn cuDeviceGetLuid(luid: *mut c_char, deviceNodeMask: *mut c_uint, dev: CUdevice) on dev {
        // Windows has those.
        let _ = (luid, deviceNodeMask);
        return Err(NOT_SUPPORTED);
    }

    [older]
    fn cuDeviceTotalMem(bytes: *mut c_uint, dev: CUdevice) on dev {
        out(bytes, c_uint::try_from(total(dev)?).unwrap_or(c_uint::MAX))?;
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice) on dev {
        out(bytes, usize::try_from(total(dev)?).unwrap_or(usize::MAX))?;
    }

    fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, dev: CUdevice) on dev {
        let (_, device) = driver::get()?.device(dev)?;
        out(major, device.capability.0)?;
        out(minor, device.capability.1)?;
    }

    fn cuDeviceGetAttribute(
        pi: *mut c_int,
        attrib: Of<CUdevice_attribute>,
        dev: CUdevice,
    ) on dev {
        let (_, device) = driver::get()?.device(dev)?;
        let value = attributes::of(device, attrib.number()).ok_or(INVALID_VALUE)?;
        out(pi, value)?;
    }

    fn cuDeviceGetProperties(prop: *mut CUdevprop, dev: CUdevice) on dev {
        let (_, device) = driver::get()?.device(dev)?;
        let of = |number| attributes::of(device, number).unwrap_or(0);
        out(prop, CUdevprop {
            maxThreadsPerBlock: of(1),
            maxThreadsDim: [of(2), of(3), of(4)],
            maxGridSize: [of(5), of(6), of(7)],
            sharedMemPerBlock: of(8),
            totalConstantMemory: of(9),
            SIMDWidth: of(10),
            memPitch: of(11),
            regsPerBlock: of(12),
            clockRate: of(13),
            textureAlign: of(14),
        })?;
    }

    fn cuDeviceGetPCIBusId(pciBusId: *mut c_char, len: c_int, dev: CUdevice) on dev {
        let [domain, bus, device, function] = driver::get()?.device(dev)?.1.pci;
        let text = format!("{domain:04X}:{bus:02X}:{device:02X}.{function:X}");
        text_out(pciBusId, len, &text)?;
    }

    fn cuDeviceGetByPCIBusId(dev: *mut CUdevice, pciBusId: *const c_char) {
        let asked = bus_id(&text(pciBusId)?).ok_or(INVALID_VALUE)?;
        let devices = &driver::get()?.devices;
        let number = devices.iter().position(|device| device.pci == asked);
        let number = number.ok_or(INVALID_DEVICE)?;
        out(dev, CUdevice::try_from(number).unwrap_or(0))?;
    }

    fn cuDeviceCanAccessPeer(
        canAccessPeer: *mut c_int,
        dev: CUdevice,
        peerDev: CUdevice,
    ) on dev {
        let driver = driver::get()?;
        let (one, other) = (driver.device(dev)?.1, driver.device(peerDev)?.1);
        out(canAccessPeer, one.peer(other).into())?;
    }

    fn cuDeviceGetP2PAttribute(
        value: *mut c_int,
        attrib: Of<CUdevice_P2PAttribute>,
        srcDevice: CUdevice,
        dstDevice: CUdevice,
    ) on srcDevice {
        let driver = driver::get()?;
        let (one, other) = (driver.device(srcDevice)?.1, driver.device(dstDevice)?.1);
        if srcDevice == dstDevice {
            return Err(INVALID_DEVICE);
        }
        let answer = match attrib.number() {
            // Rank: 0 is best.
            1 => c_int::from(!one.linked(other)),
            2 | 4 => c_int::from(one.peer(other)),
            3 => c_int::from(one.peer(other) && one.linked(other)),
            5 => 0,
            _ => return Err(INVALID_VALUE),
        };
        out(value, answer)?;
    }

    fn cuDeviceGetExecAffinitySupport(
        pi: *mut c_int,
        type_: Of<CUexecAffinityType>,
        dev: CUdevice,
    ) on dev {
        let _ = type_;
        driver::get()?.device(dev)?;
        out(pi, 0)?;
    }

    [early]
    fn cuGetExportTable(ppExportTable: *mut *const c_void, pExportTableId: *const CUuuid) {
        // Undocumented: NVIDIA's own libraries ask for tables of functions by number.
        let _ = pExportTableId;
        out_if(ppExportTable, std::ptr::null());
        return Err(NOT_FOUND);
    }

    [early]
    fn cuProfilerStart() {}

    [early]
    fn cuProfilerStop() {}

    [early]
    fn cuProfilerInitialize(
        configFile: *const c_char,
        outputFile: *const c_char,
        outputMode: Of<CUoutput_mode>,
    ) {
        let _ = (configFile, outputFile, outputMode);
        return Err(NOT_SUPPORTED);
    }
}

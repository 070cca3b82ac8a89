//! NVML's contract at the level of C: buffers, versions, initialising.
#![allow(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use common::{library, staged};
use nvml_wrapper_sys::bindings::*;

const OK: nvmlReturn_t = nvmlReturn_enum_NVML_SUCCESS;
const UNINITIALIZED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_UNINITIALIZED;
const INVALID: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const TOO_SMALL: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;

/// A raw call by its name.
macro_rules! raw {
    ($lib:expr, $name:ident ( $($arg:expr),* $(,)? )) => {
        // SAFETY: handles are of this library, and every answer has a place or is null.
        unsafe { ($lib.$name.as_ref().unwrap())($($arg),*) }
    };
}

fn open(staged: &common::Staged) -> NvmlLib {
    // SAFETY: it is our own library, whose loading does nothing.
    unsafe { NvmlLib::new(staged.path()) }.unwrap()
}

fn device(lib: &NvmlLib) -> nvmlDevice_t {
    let mut device = ptr::null_mut();
    assert_eq!(raw!(lib, nvmlDeviceGetHandleByIndex_v2(0, &mut device)), OK);
    device
}

#[test]
fn initialising_is_counted() {
    let staged = staged("t4");
    let lib = open(&staged);
    let mut count = 0;
    assert_eq!(raw!(lib, nvmlDeviceGetCount_v2(&mut count)), UNINITIALIZED);
    assert_eq!(raw!(lib, nvmlShutdown()), UNINITIALIZED);
    assert_eq!(raw!(lib, nvmlInit_v2()), OK);
    assert_eq!(raw!(lib, nvmlInitWithFlags(0)), OK);
    assert_eq!(raw!(lib, nvmlShutdown()), OK);
    assert_eq!(raw!(lib, nvmlDeviceGetCount_v2(&mut count)), OK);
    assert_eq!(raw!(lib, nvmlShutdown()), OK);
    assert_eq!(raw!(lib, nvmlDeviceGetCount_v2(&mut count)), UNINITIALIZED);
}

#[test]
fn every_function_of_the_header_is_there() {
    // SAFETY: as above.
    let lib = unsafe { NvmlLib::new(library()) }.unwrap();
    // Those of today and those that they superseded.
    assert!(lib.nvmlDeviceGetVgpuUtilization.is_ok());
    assert!(lib.nvmlDeviceWorkloadPowerProfileGetProfilesInfo.is_ok());
    assert!(lib.nvmlGpmMetricsGet.is_ok());
    let old = staged("old-driver");
    let lib = open(&old);
    assert!(lib.nvmlDeviceGetMigMode.is_err());
    assert!(lib.nvmlDeviceGetMemoryInfo_v2.is_err());
    assert!(lib.nvmlDeviceGetMemoryInfo.is_ok());
    assert!(lib.nvmlDeviceGetPciInfo_v3.is_ok());
    assert_eq!(raw!(lib, nvmlInit_v2()), OK);
    let mut memory = nvmlMemory_t {
        total: 0,
        free: 0,
        used: 0,
    };
    assert_eq!(
        raw!(lib, nvmlDeviceGetMemoryInfo(device(&lib), &mut memory)),
        OK
    );
    assert_eq!((memory.total >> 20, memory.used), (16130, 0));
}

#[test]
fn texts_fit_or_are_refused() {
    let staged = staged("t4");
    let lib = open(&staged);
    assert_eq!(raw!(lib, nvmlInit_v2()), OK);
    let device = device(&lib);
    let mut name: [c_char; 96] = [1; 96];
    let to = name.as_mut_ptr();
    assert_eq!(raw!(lib, nvmlDeviceGetName(device, to, 8)), TOO_SMALL);
    assert_eq!(name[0], 1);
    assert_eq!(raw!(lib, nvmlDeviceGetName(device, to, 9)), OK);
    // SAFETY: it was written, with its NUL.
    assert_eq!(unsafe { CStr::from_ptr(to) }.to_str(), Ok("Tesla T4"));
    assert_eq!(name[9], 1);
    assert_eq!(
        raw!(lib, nvmlDeviceGetName(device, ptr::null_mut(), 96)),
        INVALID
    );
    assert_eq!(
        raw!(lib, nvmlDeviceGetName(ptr::null_mut(), to, 96)),
        INVALID
    );
    let wild = ptr::without_provenance_mut(0xdead_beef);
    assert_eq!(raw!(lib, nvmlDeviceGetName(wild, to, 96)), INVALID);
    // SAFETY: it answers with a text that stays.
    let words = unsafe { CStr::from_ptr(lib.nvmlErrorString.as_ref().unwrap()(15)) };
    assert_eq!(words.to_str(), Ok("GPU is lost"));
}

#[test]
fn structs_have_versions() {
    let staged = staged("h100x8");
    let lib = open(&staged);
    assert_eq!(raw!(lib, nvmlInit_v2()), OK);
    let device = device(&lib);
    let mut memory = nvmlMemory_v2_t {
        version: 0x0100_0028,
        total: 0,
        reserved: 0,
        free: 0,
        used: 0,
    };
    let refused = nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND;
    assert_eq!(
        raw!(lib, nvmlDeviceGetMemoryInfo_v2(device, &mut memory)),
        refused
    );
    memory.version = 0x0200_0028;
    assert_eq!(
        raw!(lib, nvmlDeviceGetMemoryInfo_v2(device, &mut memory)),
        OK
    );
    let mib = [memory.total, memory.reserved, memory.free, memory.used].map(|bytes| bytes >> 20);
    assert_eq!(mib, [81559, 480, 81079, 0]);
    let mut first = nvmlMemory_t {
        total: 0,
        free: 0,
        used: 0,
    };
    assert_eq!(raw!(lib, nvmlDeviceGetMemoryInfo(device, &mut first)), OK);
    assert_eq!(
        [first.total, first.free, first.used].map(|bytes| bytes >> 20),
        [81559, 81079, 480]
    );
    let mut temperature = nvmlTemperature_t {
        version: 1,
        sensorType: 0,
        temperature: 0,
    };
    let refused = nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    assert_eq!(
        raw!(lib, nvmlDeviceGetTemperatureV(device, &mut temperature)),
        refused
    );
    temperature.version = 0x0100_000c;
    assert_eq!(
        raw!(lib, nvmlDeviceGetTemperatureV(device, &mut temperature)),
        OK
    );
    // As clients see it that read words.
    let mut fabric = [u32::MAX; 10];
    fabric[0] = 0x0200_0024;
    let to = fabric.as_mut_ptr().cast();
    assert_eq!(raw!(lib, nvmlDeviceGetGpuFabricInfoV(device, to)), OK);
    assert_eq!(fabric[1..], [0, 0, 0, 0, 0, 0, 3, 0, u32::MAX]);
    // SAFETY: numbers.
    let mut fabric: nvmlGpuFabricInfoV_t = unsafe { std::mem::zeroed() };
    fabric.version = 0x0300_0028;
    assert_eq!(
        raw!(lib, nvmlDeviceGetGpuFabricInfoV(device, &mut fabric)),
        OK
    );
    assert_eq!(
        (u32::from(fabric.state), fabric.cliqueId),
        (NVML_GPU_FABRIC_STATE_COMPLETED, 0)
    );
}

#[test]
fn pci_info_grew() {
    let staged = staged("h100x8");
    let lib = open(&staged);
    assert_eq!(raw!(lib, nvmlInit_v2()), OK);
    let device = device(&lib);
    // SAFETY: numbers.
    let mut pci: nvmlPciInfo_t = unsafe { std::mem::zeroed() };
    pci.pciSubSystemId = 77;
    pci.busId = [7; 32];
    assert_eq!(raw!(lib, nvmlDeviceGetPciInfo(device, &mut pci)), OK);
    assert_eq!(
        (pci.bus, pci.pciDeviceId, pci.pciSubSystemId),
        (0x53, 0x2330_10de, 77)
    );
    assert_eq!(raw!(lib, nvmlDeviceGetPciInfo_v2(device, &mut pci)), OK);
    assert_eq!((pci.pciSubSystemId, pci.busId[0]), (0x2330_10de, 7));
    assert_eq!(raw!(lib, nvmlDeviceGetPciInfo_v3(device, &mut pci)), OK);
    // SAFETY: it was written, with its NUL.
    let [legacy, id] =
        [pci.busIdLegacy.as_ptr(), pci.busId.as_ptr()].map(|text| unsafe { CStr::from_ptr(text) });
    assert_eq!(legacy.to_str(), Ok("0000:53:00.0"));
    assert_eq!(id.to_str(), Ok("00000000:53:00.0"));
    let mut found = ptr::null_mut();
    for id in ["0000:53:00.0", "00000000:53:00.0", "53:00.0"] {
        let id = CString::new(id).unwrap();
        assert_eq!(
            raw!(
                lib,
                nvmlDeviceGetHandleByPciBusId_v2(id.as_ptr(), &mut found)
            ),
            OK
        );
        assert_eq!(found, device);
    }
}

#[test]
fn lists_say_how_long_they_are() {
    let staged = staged("rtx4090x2");
    let lib = open(&staged);
    assert_eq!(raw!(lib, nvmlInit_v2()), OK);
    let device = device(&lib);
    let mut count = 0;
    let call = lib
        .nvmlDeviceGetGraphicsRunningProcesses_v3
        .as_ref()
        .unwrap();
    // SAFETY: there is room for as many as is said.
    let code = unsafe { call(device, &mut count, ptr::null_mut()) };
    assert_eq!(code, TOO_SMALL);
    assert_eq!(count, 2);
    let none = nvmlProcessInfo_v2_t {
        pid: 0,
        usedGpuMemory: 0,
        gpuInstanceId: 0,
        computeInstanceId: 0,
    };
    let mut all = [none; 3];
    count = 3;
    // SAFETY: as above.
    assert_eq!(unsafe { call(device, &mut count, all.as_mut_ptr()) }, OK);
    assert_eq!(
        (count, all[0].pid, all[0].gpuInstanceId),
        (2, 1893, u32::MAX)
    );
    let mut first = [nvmlProcessInfo_v1_t {
        pid: 0,
        usedGpuMemory: 0,
    }; 2];
    let to = first.as_mut_ptr();
    assert_eq!(
        raw!(
            lib,
            nvmlDeviceGetGraphicsRunningProcesses(device, &mut count, to)
        ),
        OK
    );
    assert_eq!((first[1].pid, first[1].usedGpuMemory), (2114, 4 << 20));
}

//! Clocks and performance states.

use std::ffi::{c_uint, c_ulonglong};

use divvy_nvidia_machine::{Gpu, THROTTLE};
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::state::Device;

/// MHz between two clocks that can be set, and the lowest.
const STEP: (u32, u32) = (15, 210);

/// The bit for "the GPU is idle".
const IDLE: c_ulonglong = 1;

/// One of the description's four clocks.
fn of(clocks: Option<[u32; 4]>, which: nvmlClockType_t) -> Answer<c_uint> {
    let which = size(which);
    if which >= 4 {
        return Err(INVALID_ARGUMENT);
    }
    Ok(clocks.ok_or(NOT_SUPPORTED)?[which])
}

/// What applications get: the most. There is none for video, and it went out of use.
fn applications(device: &Device, which: nvmlClockType_t) -> Answer<c_uint> {
    let gpu = device.whole()?;
    match which {
        _ if device.call.since(590) => Err(DEPRECATED),
        nvmlClockType_enum_NVML_CLOCK_VIDEO => Err(NOT_SUPPORTED),
        which => of(gpu.max_clocks, which),
    }
}

/// What it can be clocked at: only graphics (and what hangs on it) is told.
fn boost(gpu: &Gpu, which: nvmlClockType_t) -> Answer<c_uint> {
    match which {
        nvmlClockType_enum_NVML_CLOCK_VIDEO => Err(NOT_SUPPORTED),
        which => of(gpu.max_clocks, which),
    }
}

fn reasons(gpu: &Gpu) -> Answer<c_ulonglong> {
    gpu.clocks.ok_or(NOT_SUPPORTED)?;
    if !gpu.throttle.is_empty() {
        let said = |word: &str| gpu.throttle.iter().any(|said| said == word);
        let bits = THROTTLE.iter().filter(|(word, _)| said(word));
        return Ok(bits.fold(0, |mask, (_, bits)| mask | bits));
    }
    let busy = gpu.utilization.is_some_and(|[processes, _]| processes > 0);
    Ok(if busy { 0 } else { IDLE })
}

/// Graphics processors that nothing uses save power; the others are always ready.
fn state(gpu: &Gpu) -> nvmlPstates_t {
    let draws = gpu.brand.as_deref() == Some("GeForce");
    let idle = gpu.utilization.is_none_or(|[processes, _]| processes == 0);
    if draws && idle { 8 } else { 0 }
}

exports! {
    about nvmlDeviceGetClockInfo(device: nvmlDevice_t, which: nvmlClockType_t, clock: *mut c_uint) {
        clock.put(of(device.whole()?.clocks, which)?)
    }
    about nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, which: nvmlClockType_t, clock: *mut c_uint) {
        clock.put(of(device.whole()?.max_clocks, which)?)
    }
    about nvmlDeviceGetApplicationsClock(device: nvmlDevice_t, which: nvmlClockType_t, clock: *mut c_uint) {
        clock.put(applications(&device, which)?)
    }
    about nvmlDeviceGetDefaultApplicationsClock(
        device: nvmlDevice_t, which: nvmlClockType_t, clock: *mut c_uint
    ) {
        clock.put(applications(&device, which)?)
    }
    about nvmlDeviceGetMaxCustomerBoostClock(
        device: nvmlDevice_t, which: nvmlClockType_t, clock: *mut c_uint
    ) {
        clock.put(boost(device.whole()?, which)?)
    }
    about nvmlDeviceGetClock(
        device: nvmlDevice_t, which: nvmlClockType_t, id: nvmlClockId_t, clock: *mut c_uint
    ) {
        let gpu = device.whole()?;
        clock.put(match id {
            nvmlClockId_enum_NVML_CLOCK_ID_CURRENT => of(gpu.clocks, which)?,
            nvmlClockId_enum_NVML_CLOCK_ID_CUSTOMER_BOOST_MAX => boost(gpu, which)?,
            id if id < nvmlClockId_enum_NVML_CLOCK_ID_COUNT => applications(&device, which)?,
            _ => return Err(INVALID_ARGUMENT),
        })
    }
    about nvmlDeviceGetSupportedMemoryClocks(device: nvmlDevice_t, count: *mut c_uint, clocks: *mut c_uint) {
        list(count, clocks, &[of(device.whole()?.max_clocks, nvmlClockType_enum_NVML_CLOCK_MEM)?])
    }
    about nvmlDeviceGetSupportedGraphicsClocks(
        device: nvmlDevice_t, memory: c_uint, count: *mut c_uint, clocks: *mut c_uint
    ) {
        let max = device.whole()?.max_clocks;
        if of(max, nvmlClockType_enum_NVML_CLOCK_MEM)? != memory {
            return Err(NOT_FOUND);
        }
        let max = of(max, nvmlClockType_enum_NVML_CLOCK_GRAPHICS)?;
        let (step, least) = STEP;
        let all: Vec<c_uint> = (0..=max.saturating_sub(least) / step).map(|n| max - n * step).collect();
        list(count, clocks, &all)
    }
    about nvmlDeviceGetPerformanceState(device: nvmlDevice_t, to: *mut nvmlPstates_t) {
        to.put(state(device.whole()?))
    }
    about nvmlDeviceGetPowerState(device: nvmlDevice_t, to: *mut nvmlPstates_t) {
        to.put(state(device.whole()?))
    }
    about nvmlDeviceGetCurrentClocksEventReasons(device: nvmlDevice_t, mask: *mut c_ulonglong) {
        mask.put(reasons(device.whole()?)?)
    }
    about nvmlDeviceGetCurrentClocksThrottleReasons(device: nvmlDevice_t, mask: *mut c_ulonglong) {
        mask.put(reasons(device.whole()?)?)
    }
    about nvmlDeviceGetSupportedClocksEventReasons(device: nvmlDevice_t, mask: *mut c_ulonglong) {
        reasons(device.whole()?)?;
        mask.put(0x1ff)
    }
    about nvmlDeviceGetSupportedClocksThrottleReasons(device: nvmlDevice_t, mask: *mut c_ulonglong) {
        reasons(device.whole()?)?;
        mask.put(0x1ff)
    }
    about nvmlDeviceGetAdaptiveClockInfoStatus(device: nvmlDevice_t, status: *mut c_uint) {
        device.whole()?.clocks.ok_or(NOT_SUPPORTED)?;
        status.put(NVML_ADAPTIVE_CLOCKING_INFO_STATUS_ENABLED)
    }
}

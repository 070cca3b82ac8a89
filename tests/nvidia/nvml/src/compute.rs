//! Computing: capability, cores, modes, utilization.

use std::ffi::{c_int, c_uint};

use divvy_nvidia_machine::Gpu;
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;

/// µs over which utilization is measured.
const PERIOD: c_uint = 167_000;

fn utilization(gpu: &Gpu) -> Answer<[u32; 2]> {
    gpu.utilization.ok_or(NOT_SUPPORTED)
}

/// Of an engine that nothing here uses.
fn idle(gpu: &Gpu, percent: Out<c_uint>, period: Out<c_uint>) -> Answer {
    utilization(gpu)?;
    percent.put(0)?;
    period.put(PERIOD)
}

exports! {
    about nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) {
        let text = &device.gpu.compute_capability;
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        major.put(whole.parse().map_err(|_| UNKNOWN)?)?;
        minor.put(part.parse().map_err(|_| UNKNOWN)?)
    }
    about nvmlDeviceGetNumGpuCores(device: nvmlDevice_t, cores: *mut c_uint) {
        let gpu = device.whole()?;
        cores.put(gpu.sms * gpu.cores_per_sm)
    }
    about nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t) {
        mode.put(match device.gpu.compute_mode.as_str() {
            "Exclusive_Thread" => nvmlComputeMode_enum_NVML_COMPUTEMODE_EXCLUSIVE_THREAD,
            "Prohibited" => nvmlComputeMode_enum_NVML_COMPUTEMODE_PROHIBITED,
            "Exclusive_Process" => nvmlComputeMode_enum_NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
            _ => nvmlComputeMode_enum_NVML_COMPUTEMODE_DEFAULT,
        })
    }
    about nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, rates: *mut nvmlUtilization_t) {
        let [gpu, memory] = utilization(device.undivided()?)?;
        rates.put(nvmlUtilization_t { gpu, memory })
    }
    about nvmlDeviceGetEncoderUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) {
        idle(device.undivided()?, percent, period)
    }
    about nvmlDeviceGetDecoderUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) {
        idle(device.undivided()?, percent, period)
    }
    about nvmlDeviceGetJpgUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) {
        idle(device.undivided()?, percent, period)
    }
    about nvmlDeviceGetOfaUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) {
        idle(device.undivided()?, percent, period)
    }
    about nvmlDeviceGetEncoderStats(
        device: nvmlDevice_t, sessions: *mut c_uint, fps: *mut c_uint, latency: *mut c_uint
    ) {
        device.whole()?;
        sessions.put(0)?;
        fps.put(0)?;
        latency.put(0)
    }
    about nvmlDeviceGetEncoderSessions(
        device: nvmlDevice_t, count: *mut c_uint, _sessions: *mut nvmlEncoderSessionInfo_t
    ) {
        device.whole()?;
        count.put(0)
    }
    about nvmlDeviceGetFBCStats(device: nvmlDevice_t, stats: *mut nvmlFBCStats_t) {
        device.whole()?;
        stats.put(nvmlFBCStats_t { sessionsCount: 0, averageFPS: 0, averageLatency: 0 })
    }
    about nvmlDeviceGetFBCSessions(
        device: nvmlDevice_t, count: *mut c_uint, _sessions: *mut nvmlFBCSessionInfo_t
    ) {
        device.whole()?;
        count.put(0)
    }
    about nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) {
        device.whole()?;
        mode.put(1)
    }
    about nvmlDeviceGetDisplayMode(device: nvmlDevice_t, display: *mut nvmlEnableState_t) {
        device.whole()?;
        if device.call.since(580) {
            return Err(DEPRECATED);
        }
        display.put(0)
    }
    about nvmlDeviceGetDisplayActive(device: nvmlDevice_t, is: *mut nvmlEnableState_t) {
        device.whole()?;
        is.put(0)
    }
    about nvmlDeviceGetAccountingMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) {
        device.whole()?;
        mode.put(0)
    }
    about nvmlDeviceGetAccountingBufferSize(device: nvmlDevice_t, size: *mut c_uint) {
        device.whole()?;
        size.put(4000)
    }
    about nvmlDeviceGetAccountingPids(device: nvmlDevice_t, count: *mut c_uint, _pids: *mut c_uint) {
        device.whole()?;
        count.put(0)
    }
    about nvmlDeviceGetAPIRestriction(
        device: nvmlDevice_t, _api: nvmlRestrictedAPI_t, is: *mut nvmlEnableState_t
    ) {
        device.whole()?;
        is.put(0)
    }
    about nvmlDeviceGetCapabilities(device: nvmlDevice_t, caps: *mut nvmlDeviceCapabilities_t) {
        device.whole()?;
        let mut mask = caps.get()?;
        check::<nvmlDeviceCapabilities_t>(mask.version, 1)?;
        mask.capMask = 0;
        caps.put(mask)
    }
}

//! ECC, retired pages, remapped rows.

use std::ffi::{c_uint, c_ulonglong};

use divvy_nvidia_machine::Gpu;
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;

/// Banks of which rows can be remapped, as an H100 has them.
const BANKS: c_uint = 2560;

/// ECC errors of a kind, since boot or of its whole life.
pub(crate) fn errors(
    gpu: &Gpu,
    kind: nvmlMemoryErrorType_t,
    since: nvmlEccCounterType_t,
) -> Answer<c_ulonglong> {
    if gpu.ecc != Some(true) {
        return Err(NOT_SUPPORTED);
    }
    let boot = [gpu.ecc_corrected, gpu.ecc_errors];
    let [corrected, uncorrected] = match since {
        nvmlEccCounterType_enum_NVML_VOLATILE_ECC => boot,
        nvmlEccCounterType_enum_NVML_AGGREGATE_ECC => gpu.ecc_aggregate.unwrap_or(boot),
        _ => return Err(INVALID_ARGUMENT),
    };
    match kind {
        nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_CORRECTED => Ok(corrected),
        nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_UNCORRECTED => Ok(uncorrected),
        _ => Err(INVALID_ARGUMENT),
    }
}

/// GPUs with ECC that cannot remap rows retire pages.
fn retires(gpu: &Gpu) -> Answer {
    match (gpu.ecc, gpu.remapped_rows, gpu.mig) {
        (Some(_), None, None) => Ok(()),
        _ => Err(NOT_SUPPORTED),
    }
}

/// Are pages to be retired at the next reset?
pub(crate) fn retired_pending(gpu: &Gpu) -> Answer<bool> {
    retires(gpu)?;
    Ok(gpu.retired_pending)
}

exports! {
    about nvmlDeviceGetEccMode(
        device: nvmlDevice_t, current: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t
    ) {
        let on = u32::from(device.whole()?.ecc.ok_or(NOT_SUPPORTED)?);
        current.put(on)?;
        pending.put(on)
    }
    about nvmlDeviceGetDefaultEccMode(device: nvmlDevice_t, default: *mut nvmlEnableState_t) {
        device.whole()?.ecc.ok_or(NOT_SUPPORTED)?;
        default.put(1)
    }
    about nvmlDeviceGetTotalEccErrors(
        device: nvmlDevice_t, kind: nvmlMemoryErrorType_t, since: nvmlEccCounterType_t,
        count: *mut c_ulonglong
    ) {
        count.put(errors(device.gpu, kind, since)?)
    }
    about nvmlDeviceGetDetailedEccErrors(
        device: nvmlDevice_t, kind: nvmlMemoryErrorType_t, since: nvmlEccCounterType_t,
        counts: *mut nvmlEccErrorCounts_t
    ) {
        counts.put(nvmlEccErrorCounts_t {
            l1Cache: 0,
            l2Cache: 0,
            deviceMemory: errors(device.whole()?, kind, since)?,
            registerFile: 0,
        })
    }
    about nvmlDeviceGetMemoryErrorCounter(
        device: nvmlDevice_t, kind: nvmlMemoryErrorType_t, since: nvmlEccCounterType_t,
        place: nvmlMemoryLocation_t, count: *mut c_ulonglong
    ) {
        let errors = errors(device.gpu, kind, since)?;
        match place {
            nvmlMemoryLocation_enum_NVML_MEMORY_LOCATION_DRAM => count.put(errors),
            place if place < nvmlMemoryLocation_enum_NVML_MEMORY_LOCATION_COUNT => count.put(0),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    about nvmlDeviceGetRetiredPages(
        device: nvmlDevice_t, _cause: nvmlPageRetirementCause_t, count: *mut c_uint,
        _addresses: *mut c_ulonglong
    ) {
        retires(device.whole()?)?;
        count.put(0)
    }
    about nvmlDeviceGetRetiredPages_v2(
        device: nvmlDevice_t, _cause: nvmlPageRetirementCause_t, count: *mut c_uint,
        _addresses: *mut c_ulonglong, _times: *mut c_ulonglong
    ) {
        retires(device.whole()?)?;
        count.put(0)
    }
    about nvmlDeviceGetRetiredPagesPendingStatus(device: nvmlDevice_t, is: *mut nvmlEnableState_t) {
        is.put(u32::from(retired_pending(device.whole()?)?))
    }
    about nvmlDeviceGetRemappedRows(
        device: nvmlDevice_t, corrected: *mut c_uint, uncorrected: *mut c_uint,
        pending: *mut c_uint, failed: *mut c_uint
    ) {
        let rows = device.undivided()?.remapped_rows.ok_or(NOT_SUPPORTED)?;
        corrected.put(rows.0)?;
        uncorrected.put(rows.1)?;
        pending.put(u32::from(rows.2))?;
        failed.put(u32::from(rows.3))
    }
    about nvmlDeviceGetRowRemapperHistogram(
        device: nvmlDevice_t, values: *mut nvmlRowRemapperHistogramValues_t
    ) {
        let rows = device.undivided()?.remapped_rows.ok_or(NOT_SUPPORTED)?;
        let used = (rows.0 + rows.1).min(BANKS);
        values.put(nvmlRowRemapperHistogramValues_t {
            max: BANKS - used,
            high: used,
            partial: 0,
            low: 0,
            none: 0,
        })
    }
}

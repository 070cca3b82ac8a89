//! All of this plugin's unsafe code: what NVML's safe layer lacks.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, EventSet};
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlEventData_t, nvmlFieldValue_t, nvmlGpuFabricInfo_t,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_UNKNOWN, nvmlMemory_t,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN, nvmlReturn_enum_NVML_SUCCESS, nvmlValue_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
};

/// Memory of a device by the call that drivers before 510 have: total and used
/// bytes. The newer one is in NVML's safe layer.
pub(crate) fn memory_v1(nvml: &NvmlLib, device: &Device<'_>) -> Result<(u64, u64), NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceGetMemoryInfo.as_ref())?;
    let mut memory = nvmlMemory_t {
        total: 0,
        free: 0,
        used: 0,
    };
    // SAFETY: the handle is of this library, and `memory` outlives the call.
    nvml_try(unsafe { call(device.handle(), &raw mut memory) })?;
    Ok((memory.total, memory.used))
}

/// The ids of the GPU instance and the compute instance that a MIG device is.
pub(crate) fn instance(nvml: &NvmlLib, device: &Device<'_>) -> Result<(u32, u32), NvmlError> {
    let gi = nvml_sym(nvml.nvmlDeviceGetGpuInstanceId.as_ref())?;
    let ci = nvml_sym(nvml.nvmlDeviceGetComputeInstanceId.as_ref())?;
    let (mut first, mut second): (c_uint, c_uint) = (0, 0);
    // SAFETY: the handle is of this library, and the numbers outlive the calls.
    unsafe {
        nvml_try(gi(device.handle(), &raw mut first))?;
        nvml_try(ci(device.handle(), &raw mut second))?;
    }
    Ok((first, second))
}

/// The NVLink fabric that a GPU joins, if it joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fabric {
    /// The cluster's UUID.
    pub(crate) cluster: [u8; 16],
    /// The clique within it.
    pub(crate) clique: u32,
    /// Has it joined?
    pub(crate) joined: bool,
}

/// What NVML says of a GPU's fabric; `None` where it has none.
pub(crate) fn fabric(nvml: &NvmlLib, device: &Device<'_>) -> Result<Option<Fabric>, NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceGetGpuFabricInfo.as_ref())?;
    let mut info = nvmlGpuFabricInfo_t {
        clusterUuid: [0; 16],
        status: 0,
        cliqueId: 0,
        state: 0,
    };
    // SAFETY: the handle is of this library, and `info` outlives the call.
    nvml_try(unsafe { call(device.handle(), &raw mut info) })?;
    // States: 0 not supported, 1 not started, 2 in progress, 3 completed (nvml.h,
    // `NVML_GPU_FABRIC_STATE_…`).
    Ok((info.state != 0).then_some(Fabric {
        cluster: info.clusterUuid,
        clique: info.cliqueId,
        joined: info.state == 3 && info.status == 0,
    }))
}

/// Does an NVLink lead to a switch? (The safe layer's answer to this is always
/// *unknown*: it has NVML write to a copy.)
pub(crate) fn leads_to_switch(
    nvml: &NvmlLib,
    device: &Device<'_>,
    link: u32,
) -> Result<bool, NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceGetNvLinkRemoteDeviceType.as_ref())?;
    let mut kind = nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_UNKNOWN;
    // SAFETY: the handle is of this library, and `kind` outlives the call.
    nvml_try(unsafe { call(device.handle(), link, &raw mut kind) })?;
    Ok(kind == nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH)
}

/// A device's number within this process, by which events name it. A GPU that is gone
/// does not say its UUID any more.
pub(crate) fn number(device: &Device<'_>) -> usize {
    // SAFETY: the handle is compared and never used.
    unsafe { device.handle() }.addr()
}

/// Has a set tell a device's events. (The safe layer frees the set if one device of
/// several cannot be told of.)
pub(crate) fn register(
    nvml: &NvmlLib,
    device: &Device<'_>,
    types: EventTypes,
    set: &EventSet<'_>,
) -> Result<(), NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceRegisterEvents.as_ref())?;
    // SAFETY: both handles are of this library, and the set outlives the call.
    nvml_try(unsafe { call(device.handle(), types.bits(), set.handle()) })
}

/// An event.
pub(crate) struct Event {
    /// As [`number`] has it.
    pub(crate) device: usize,
    pub(crate) types: EventTypes,
    pub(crate) data: u64,
    /// The GPU instance, where it is one's.
    pub(crate) gi: Option<u32>,
}

/// Waits for a set's next event. (The safe layer does not say of which MIG instance it
/// is.)
pub(crate) fn wait(nvml: &NvmlLib, set: &EventSet<'_>, time: Duration) -> Result<Event, NvmlError> {
    let call = nvml_sym(nvml.nvmlEventSetWait_v2.as_ref())?;
    let mut data = nvmlEventData_t {
        device: std::ptr::null_mut(),
        eventType: 0,
        eventData: 0,
        gpuInstanceId: u32::MAX,
        computeInstanceId: u32::MAX,
    };
    let ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: the set is of this library, and `data` outlives the call.
    nvml_try(unsafe { call(set.handle(), &raw mut data, ms) })?;
    Ok(Event {
        device: data.device.addr(),
        types: EventTypes::from_bits_truncate(data.eventType),
        data: data.eventData,
        gi: Some(data.gpuInstanceId).filter(|gi| *gi != u32::MAX),
    })
}

/// Values by field number and scope; `None`: the driver or the device does not have it.
pub(crate) fn fields<const N: usize>(
    nvml: &NvmlLib,
    device: &Device<'_>,
    fields: [(u32, u32); N],
) -> [Option<u64>; N] {
    let Ok(call) = nvml_sym(nvml.nvmlDeviceGetFieldValues.as_ref()) else {
        return [None; N];
    };
    let mut values = fields.map(|(id, scope)| nvmlFieldValue_t {
        fieldId: id,
        scopeId: scope,
        timestamp: 0,
        latencyUsec: 0,
        valueType: 0,
        // A driver that writes nothing has not answered.
        nvmlReturn: nvmlReturn_enum_NVML_ERROR_UNKNOWN,
        value: nvmlValue_t { ullVal: 0 },
    });
    let count = c_int::try_from(N).unwrap_or(0);
    // SAFETY: the handle is of this library, and there are `count` values.
    let answer = nvml_try(unsafe { call(device.handle(), count, values.as_mut_ptr()) });
    values.map(|field| {
        let answered = answer.is_ok() && field.nvmlReturn == nvmlReturn_enum_NVML_SUCCESS;
        let word = field.valueType == nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
        let long = field.valueType == nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG
            || field.valueType == nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
        // SAFETY: the tag says which member was written, and all were zero before.
        let value = unsafe {
            match word {
                true => u64::from(field.value.uiVal),
                false => field.value.ullVal,
            }
        };
        (answered && (word || long)).then_some(value)
    })
}

//! All of this plugin's unsafe code: what NVML's safe layer lacks.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint};
use std::ptr;
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, EventSet};
use nvml_wrapper_sys::bindings::{
    NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED, NVML_COMPUTE_INSTANCE_PROFILE_COUNT, NvmlLib,
    nvmlComputeInstance_t, nvmlComputeInstanceInfo_t, nvmlComputeInstanceProfileInfo_t,
    nvmlEventData_t, nvmlFieldValue_t, nvmlGpuFabricInfo_t, nvmlGpuInstance_t,
    nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_t,
    nvmlGpuInstanceProfileInfo_v2_t, nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_UNKNOWN, nvmlMemory_t,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN, nvmlReturn_enum_NVML_SUCCESS, nvmlValue_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
};

use crate::layout::GpuInstance;

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

// === MIG: what can be made, and what there is ===

/// What NVML says of a kind of GPU instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProfileInfo {
    pub(crate) id: u32,
    /// `MIG 1g.10gb`; drivers before 510 do not say it.
    pub(crate) name: Option<String>,
    pub(crate) slices: u32,
    pub(crate) most: u32,
    pub(crate) memory_mib: u64,
    pub(crate) sms: u32,
}

/// What NVML says of the kind of GPU instance with this number.
pub(crate) fn instance_profile(
    nvml: &NvmlLib,
    device: &Device<'_>,
    number: u32,
) -> Result<ProfileInfo, NvmlError> {
    // SAFETY: the structure is numbers, for which zero is a value.
    let mut info: nvmlGpuInstanceProfileInfo_v2_t = unsafe { std::mem::zeroed() };
    info.version = version::<nvmlGpuInstanceProfileInfo_v2_t>(2);
    let named = nvml_sym(nvml.nvmlDeviceGetGpuInstanceProfileInfoV.as_ref()).and_then(|call| {
        // SAFETY: the handle is of this library, and `info` outlives the call and says
        // how large it is.
        nvml_try(unsafe { call(device.handle(), number, &raw mut info) })
    });
    match named {
        Ok(()) => {
            return Ok(ProfileInfo {
                id: info.id,
                name: text(&info.name),
                slices: info.sliceCount,
                most: info.instanceCount,
                memory_mib: info.memorySizeMB,
                sms: info.multiprocessorCount,
            });
        }
        // Drivers before 510 lack it.
        Err(NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => {}
        Err(error) => return Err(error),
    }
    let call = nvml_sym(nvml.nvmlDeviceGetGpuInstanceProfileInfo.as_ref())?;
    // SAFETY: the structure is numbers, for which zero is a value.
    let mut info: nvmlGpuInstanceProfileInfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the handle is of this library, and `info` outlives the call.
    nvml_try(unsafe { call(device.handle(), number, &raw mut info) })?;
    Ok(ProfileInfo {
        id: info.id,
        name: None,
        slices: info.sliceCount,
        most: info.instanceCount,
        memory_mib: info.memorySizeMB,
        sms: info.multiprocessorCount,
    })
}

/// Where GPU instances of a profile may be: start and size.
pub(crate) fn placements(
    nvml: &NvmlLib,
    device: &Device<'_>,
    profile: u32,
) -> Result<Vec<(u32, u32)>, NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceGetGpuInstancePossiblePlacements_v2.as_ref())?;
    let mut count: c_uint = 0;
    // SAFETY: the handle is of this library; without a place for them NVML counts them.
    nvml_try(unsafe { call(device.handle(), profile, ptr::null_mut(), &raw mut count) })?;
    let mut places = vec![nvmlGpuInstancePlacement_t { start: 0, size: 0 }; count as usize];
    if places.is_empty() {
        return Ok(vec![]);
    }
    // SAFETY: the handle is of this library, and `places` has room for `count`.
    nvml_try(unsafe {
        call(
            device.handle(),
            profile,
            places.as_mut_ptr(),
            &raw mut count,
        )
    })?;
    places.truncate(count as usize);
    Ok(places.iter().map(|at| (at.start, at.size)).collect())
}

/// The GPU instances of a profile, of which there are so many at most.
pub(crate) fn instances_of(
    nvml: &NvmlLib,
    device: &Device<'_>,
    profile: u32,
    most: u32,
) -> Result<Vec<GpuInstance>, NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceGetGpuInstances.as_ref())?;
    // NVML takes it that there is room for as many as there can be.
    let mut found: Vec<nvmlGpuInstance_t> = vec![ptr::null_mut(); most.max(1) as usize];
    let mut count: c_uint = most;
    // SAFETY: the handle is of this library, and `found` has room for `most`.
    nvml_try(unsafe { call(device.handle(), profile, found.as_mut_ptr(), &raw mut count) })?;
    found.truncate(count as usize);
    found
        .into_iter()
        .map(|gi| instance_info(nvml, gi))
        .collect()
}

/// What a GPU instance is. The handle is of this library and not older than the last
/// change of MIG's mode.
fn instance_info(nvml: &NvmlLib, handle: nvmlGpuInstance_t) -> Result<GpuInstance, NvmlError> {
    let call = nvml_sym(nvml.nvmlGpuInstanceGetInfo.as_ref())?;
    // SAFETY: the structure is numbers and a pointer, for which zero is a value.
    let mut info: nvmlGpuInstanceInfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: NVML gave the handle and checks it, and `info` outlives the call.
    nvml_try(unsafe { call(handle, &raw mut info) })?;
    Ok(GpuInstance {
        id: info.id,
        profile: info.profileId,
        start: info.placement.start,
        size: info.placement.size,
    })
}

// === MIG: making and unmaking ===

/// Makes a GPU instance at exactly this place; its id.
pub(crate) fn make_instance(
    nvml: &NvmlLib,
    device: &Device<'_>,
    profile: u32,
    (start, size): (u32, u32),
) -> Result<u32, NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceCreateGpuInstanceWithPlacement.as_ref())?;
    let place = nvmlGpuInstancePlacement_t { start, size };
    let mut made: nvmlGpuInstance_t = ptr::null_mut();
    // SAFETY: the handle is of this library; `place` and `made` outlive the call.
    nvml_try(unsafe { call(device.handle(), profile, &raw const place, &raw mut made) })?;
    Ok(instance_info(nvml, made)?.id)
}

/// Makes one compute instance of all of a GPU instance's slices; its id.
pub(crate) fn make_compute(
    nvml: &NvmlLib,
    device: &Device<'_>,
    gi: u32,
    slices: u32,
) -> Result<u32, NvmlError> {
    let call = nvml_sym(nvml.nvmlGpuInstanceCreateComputeInstance.as_ref())?;
    let handle = instance_handle(nvml, device, gi)?;
    let mut answer = Err(NvmlError::NotSupported);
    for kind in compute_kinds(nvml, handle) {
        if kind.sliceCount != slices {
            continue;
        }
        let mut made: nvmlComputeInstance_t = ptr::null_mut();
        // SAFETY: NVML gave the handle, and `made` outlives the call.
        answer = nvml_try(unsafe { call(handle, kind.id, &raw mut made) });
        if answer.is_ok() {
            return compute_id(nvml, made);
        }
    }
    answer.and(Err(NvmlError::NotSupported))
}

/// The ids of a GPU instance's compute instances.
pub(crate) fn computes(
    nvml: &NvmlLib,
    device: &Device<'_>,
    gi: u32,
) -> Result<Vec<u32>, NvmlError> {
    let call = nvml_sym(nvml.nvmlGpuInstanceGetComputeInstances.as_ref())?;
    let handle = instance_handle(nvml, device, gi)?;
    let mut ids = vec![];
    for kind in compute_kinds(nvml, handle) {
        // NVML takes it that there is room for as many as there can be.
        let most = kind.instanceCount.max(1);
        let mut found: Vec<nvmlComputeInstance_t> = vec![ptr::null_mut(); most as usize];
        let mut count: c_uint = most;
        // SAFETY: NVML gave the handle, and `found` has room for `most`.
        nvml_try(unsafe { call(handle, kind.id, found.as_mut_ptr(), &raw mut count) })?;
        found.truncate(count as usize);
        for compute in found {
            ids.push(compute_id(nvml, compute)?);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Unmakes a compute instance.
pub(crate) fn unmake_compute(
    nvml: &NvmlLib,
    device: &Device<'_>,
    gi: u32,
    ci: u32,
) -> Result<(), NvmlError> {
    let by_id = nvml_sym(nvml.nvmlGpuInstanceGetComputeInstanceById.as_ref())?;
    let call = nvml_sym(nvml.nvmlComputeInstanceDestroy.as_ref())?;
    let handle = instance_handle(nvml, device, gi)?;
    let mut compute: nvmlComputeInstance_t = ptr::null_mut();
    // SAFETY: NVML gave the handles, and `compute` outlives the calls.
    unsafe {
        nvml_try(by_id(handle, ci, &raw mut compute))?;
        nvml_try(call(compute))
    }
}

/// Unmakes a GPU instance without compute instances.
pub(crate) fn unmake_instance(
    nvml: &NvmlLib,
    device: &Device<'_>,
    gi: u32,
) -> Result<(), NvmlError> {
    let call = nvml_sym(nvml.nvmlGpuInstanceDestroy.as_ref())?;
    let handle = instance_handle(nvml, device, gi)?;
    // SAFETY: NVML gave the handle.
    nvml_try(unsafe { call(handle) })
}

fn instance_handle(
    nvml: &NvmlLib,
    device: &Device<'_>,
    gi: u32,
) -> Result<nvmlGpuInstance_t, NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceGetGpuInstanceById.as_ref())?;
    let mut handle: nvmlGpuInstance_t = ptr::null_mut();
    // SAFETY: the device is of this library, and `handle` outlives the call.
    nvml_try(unsafe { call(device.handle(), gi, &raw mut handle) })?;
    Ok(handle)
}

/// The kinds of compute instances that a GPU instance can have. The handle is NVML's.
fn compute_kinds(
    nvml: &NvmlLib,
    handle: nvmlGpuInstance_t,
) -> Vec<nvmlComputeInstanceProfileInfo_t> {
    let Ok(call) = nvml_sym(nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo.as_ref()) else {
        return vec![];
    };
    let kind = |number| {
        // SAFETY: the structure is numbers, for which zero is a value.
        let mut info: nvmlComputeInstanceProfileInfo_t = unsafe { std::mem::zeroed() };
        let engines = NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED;
        // SAFETY: NVML gave the handle, and `info` outlives the call.
        let answer = nvml_try(unsafe { call(handle, number, engines, &raw mut info) });
        answer.is_ok().then_some(info)
    };
    (0..NVML_COMPUTE_INSTANCE_PROFILE_COUNT)
        .filter_map(kind)
        .collect()
}

/// The id of a compute instance. The handle is NVML's.
fn compute_id(nvml: &NvmlLib, handle: nvmlComputeInstance_t) -> Result<u32, NvmlError> {
    let call = nvml_sym(nvml.nvmlComputeInstanceGetInfo_v2.as_ref())?;
    // SAFETY: the structure is numbers and pointers, for which zero is a value.
    let mut info: nvmlComputeInstanceInfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: NVML gave the handle, and `info` outlives the call.
    nvml_try(unsafe { call(handle, &raw mut info) })?;
    Ok(info.id)
}

/// What versioned structures begin with (nvml.h, `NVML_STRUCT_VERSION`).
fn version<T>(number: u32) -> u32 {
    let size = u32::try_from(size_of::<T>()).unwrap_or(0);
    size | number << 24
}

/// A text that NVML wrote, up to its NUL.
fn text(field: &[c_char]) -> Option<String> {
    let bytes = field.iter().map(|c| c.to_ne_bytes()[0]);
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.is_empty())
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

/// The NUMA node that a GPU's own memory is, where it is one.
pub(crate) fn memory_node(nvml: &NvmlLib, device: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceGetNumaNodeId.as_ref())?;
    let mut node: c_uint = 0;
    // SAFETY: the handle is of this library, and `node` outlives the call.
    nvml_try(unsafe { call(device.handle(), &raw mut node) })?;
    Ok(node)
}

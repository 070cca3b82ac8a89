//! MIG: GPU instances, compute instances, and the devices that they make.

use std::ffi::c_uint;

use divvy_nvidia_machine::{Gpu, Instance, Profile};
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::handles::Handle;
use crate::memory::instances;
use crate::state::{Call, Device, Part, Whole, sms};

/// MIG devices that a GPU can have at once.
fn most(gpu: &Gpu) -> c_uint {
    let counts = gpu.profile.values().map(|profile| profile.max);
    counts.max().unwrap_or_default()
}

/// A GPU that can do MIG.
pub(crate) fn able<'a>(device: &Device<'a>) -> Answer<&'a Gpu> {
    let gpu = device.whole()?;
    gpu.mig.ok_or(NOT_SUPPORTED)?;
    Ok(gpu)
}

/// A GPU in MIG mode.
pub(crate) fn divided<'a>(device: &Device<'a>) -> Answer<&'a Gpu> {
    match able(device)?.mig {
        Some(true) => Ok(device.gpu),
        _ => Err(NOT_SUPPORTED),
    }
}

/// The vendor's number for a kind of instance with so many slices.
fn slices(count: u32) -> Option<c_uint> {
    Some(match count {
        1 => NVML_GPU_INSTANCE_PROFILE_1_SLICE,
        2 => NVML_GPU_INSTANCE_PROFILE_2_SLICE,
        3 => NVML_GPU_INSTANCE_PROFILE_3_SLICE,
        4 => NVML_GPU_INSTANCE_PROFILE_4_SLICE,
        6 => NVML_GPU_INSTANCE_PROFILE_6_SLICE,
        7 => NVML_GPU_INSTANCE_PROFILE_7_SLICE,
        8 => NVML_GPU_INSTANCE_PROFILE_8_SLICE,
        _ => return None,
    })
}

/// The vendor's number for a profile: other engines make it another one, as does twice the
/// memory.
fn kind(name: &str, profile: &Profile) -> Option<c_uint> {
    let has = |what| name.ends_with(what);
    match profile.compute {
        1 if has("+me.all") => Some(NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME),
        2 if has("+me.all") => Some(NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME),
        1 if has("-me") => Some(NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME),
        2 if has("-me") => Some(NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME),
        1 if has("+gfx") => Some(NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX),
        2 if has("+gfx") => Some(NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX),
        4 if has("+gfx") => Some(NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX),
        1 if has("+me") => Some(NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1),
        2 if has("+me") => Some(NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1),
        1 if profile.memory > 1 => Some(NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV2),
        count => slices(count),
    }
}

/// By the vendor's number, or by the id that the driver gives it.
fn profile<'a>(
    device: &Device<'a>,
    most: c_uint,
    is: impl Fn(&str, &Profile) -> bool,
    number: c_uint,
) -> Answer<(&'a str, &'a Profile)> {
    let gpu = able(device)?;
    if number >= most {
        return Err(INVALID_ARGUMENT);
    }
    let found = gpu.profile.iter().find(|(name, profile)| is(name, profile));
    found
        .map(|(name, profile)| (name.as_str(), profile))
        .ok_or(NOT_SUPPORTED)
}

fn by_kind<'a>(device: &Device<'a>, number: c_uint) -> Answer<(&'a str, &'a Profile)> {
    let is = |name: &str, profile: &Profile| kind(name, profile) == Some(number);
    profile(device, NVML_GPU_INSTANCE_PROFILE_COUNT, is, number)
}

fn by_id<'a>(device: &Device<'a>, id: c_uint) -> Answer<(&'a str, &'a Profile)> {
    profile(device, c_uint::MAX, |_, profile| profile.id == id, id)
}

fn info((name, profile): (&str, &Profile)) -> nvmlGpuInstanceProfileInfo_v2_t {
    let media = name.contains("+me") || profile.memory > 1;
    nvmlGpuInstanceProfileInfo_v2_t {
        version: version::<nvmlGpuInstanceProfileInfo_v2_t>(2),
        id: profile.id,
        isP2pSupported: 0,
        sliceCount: profile.compute,
        instanceCount: profile.max,
        multiprocessorCount: profile.sms,
        copyEngineCount: profile.compute,
        decoderCount: if media {
            profile.compute.div_ceil(2)
        } else {
            0
        },
        encoderCount: 0,
        jpegCount: u32::from(profile.compute > 6),
        ofaCount: u32::from(profile.compute > 6),
        memorySizeMB: profile.memory_mib,
        name: field(&format!("MIG {name}")),
    }
}

fn info_versioned(of: (&str, &Profile), out: Out<nvmlGpuInstanceProfileInfo_v2_t>) -> Answer {
    let asked = out.cast::<c_uint>().get()?;
    let info = info(of);
    if asked == info.version {
        return out.put(info);
    }
    check::<nvmlGpuInstanceProfileInfo_v3_t>(asked, 3)?;
    out.cast().put(nvmlGpuInstanceProfileInfo_v3_t {
        version: asked,
        id: info.id,
        sliceCount: info.sliceCount,
        instanceCount: info.instanceCount,
        multiprocessorCount: info.multiprocessorCount,
        copyEngineCount: info.copyEngineCount,
        decoderCount: info.decoderCount,
        encoderCount: info.encoderCount,
        jpegCount: info.jpegCount,
        ofaCount: info.ofaCount,
        memorySizeMB: info.memorySizeMB,
        name: info.name,
        capabilities: 0,
    })
}

fn placements(profile: &Profile) -> Vec<nvmlGpuInstancePlacement_t> {
    let place = |start: &u32| nvmlGpuInstancePlacement_t {
        start: *start,
        size: profile.memory,
    };
    profile.starts.iter().map(place).collect()
}

/// The compute slices that a kind of compute instance, by the vendor's number, has in a GPU
/// instance of this profile.
pub(crate) fn compute_slices(profile: &Profile, asked: c_uint) -> Answer<u32> {
    if asked >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT {
        return Err(INVALID_ARGUMENT);
    }
    let mut fitting = 1..=profile.compute;
    let found = fitting.find(|count| slices(*count) == Some(asked));
    found.ok_or(NOT_SUPPORTED)
}

fn compute_info(part: &Whole, asked: c_uint) -> Answer<nvmlComputeInstanceProfileInfo_v2_t> {
    let count = compute_slices(part.profile, asked)?;
    let name = match count == part.profile.compute {
        true => part.instance.profile.clone(),
        false => format!("{count}c.{}", part.instance.profile),
    };
    Ok(nvmlComputeInstanceProfileInfo_v2_t {
        version: version::<nvmlComputeInstanceProfileInfo_v2_t>(2),
        id: asked,
        sliceCount: count,
        instanceCount: part.profile.compute / count,
        multiprocessorCount: sms(part.profile, count),
        sharedCopyEngineCount: part.profile.compute,
        sharedDecoderCount: 0,
        sharedEncoderCount: 0,
        sharedJpegCount: 0,
        sharedOfaCount: 0,
        name: field(&format!("MIG {name}")),
    })
}

fn compute_instance(part: &Part, info: Out<nvmlComputeInstanceInfo_t>) -> Answer {
    let instance = part.instance;
    // Those before it in its GPU instance come first.
    let mates = part.gpu.mates(instance.gi);
    let before = mates.take_while(|mate| mate.ci != instance.ci);
    let start = before.map(|mate| mate.taken(part.profile)).sum();
    info.put(nvmlComputeInstanceInfo_t {
        device: Handle::Gpu(part.name.to_owned()).pointer(),
        gpuInstance: Handle::GpuInstance(part.name.to_owned(), instance.gi).pointer(),
        id: instance.ci,
        profileId: slices(part.slices()).ok_or(UNKNOWN)?,
        placement: nvmlComputeInstancePlacement_t {
            start,
            size: part.slices(),
        },
    })
}

fn attributes(device: &Device, out: Out<nvmlDeviceAttributes_t>) -> Answer {
    // Of a GPU without MIG devices there are none.
    let part = device.part().ok_or(NOT_SUPPORTED)?;
    let engines = info((&part.instance.profile, part.profile));
    out.put(nvmlDeviceAttributes_t {
        multiprocessorCount: part.sms(),
        sharedCopyEngineCount: engines.copyEngineCount,
        sharedDecoderCount: engines.decoderCount,
        sharedEncoderCount: engines.encoderCount,
        sharedJpegCount: engines.jpegCount,
        sharedOfaCount: engines.ofaCount,
        gpuInstanceSliceCount: part.profile.compute,
        computeInstanceSliceCount: part.slices(),
        memorySizeMB: part.profile.memory_mib,
    })
}

/// The MIG device itself: what only those have.
fn own(call: &Call, device: Out<nvmlDevice_st>) -> Answer<Part<'_>> {
    call.about(device.pointer())?.part().ok_or(INVALID_ARGUMENT)
}

exports! {
    about nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) {
        let gpu = able(&device)?;
        let now = gpu.mig == Some(true);
        current.put(u32::from(now))?;
        pending.put(u32::from(gpu.mig_pending.unwrap_or(now)))
    }
    about nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) {
        // A GPU that has no MIG, or has it off, answers too: none.
        let gpu = device.whole()?;
        count.put(if gpu.mig == Some(true) { most(gpu) } else { 0 })
    }
    about nvmlDeviceGetMigDeviceHandleByIndex(
        device: nvmlDevice_t, index: c_uint, mig: *mut nvmlDevice_t
    ) {
        let gpu = divided(&device)?;
        if index >= most(gpu) {
            return Err(INVALID_ARGUMENT);
        }
        let migs = device.call.migs(gpu);
        let found = migs.iter().find(|(number, _)| *number == index).ok_or(NOT_FOUND)?;
        mig.put(Handle::Mig(device.name.to_owned(), found.1.uuid.clone()).pointer())
    }
    about nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device: nvmlDevice_t, parent: *mut nvmlDevice_t) {
        device.instance.ok_or(INVALID_ARGUMENT)?;
        parent.put(Handle::Gpu(device.name.to_owned()).pointer())
    }
    about nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is: *mut c_uint) {
        is.put(u32::from(device.instance.is_some()))
    }
    handle nvmlDeviceGetGpuInstanceId(call, device: nvmlDevice_t, id: *mut c_uint) {
        id.put(own(call, device)?.instance.gi)
    }
    handle nvmlDeviceGetComputeInstanceId(call, device: nvmlDevice_t, id: *mut c_uint) {
        id.put(own(call, device)?.instance.ci)
    }
    about nvmlDeviceGetAttributes_v2(device: nvmlDevice_t, to: *mut nvmlDeviceAttributes_t) {
        attributes(&device, to)
    }
    about nvmlDeviceGetAttributes(device: nvmlDevice_t, to: *mut nvmlDeviceAttributes_t) {
        attributes(&device, to)
    }
    about nvmlDeviceGetGpuInstanceProfileInfo(
        device: nvmlDevice_t, kind: c_uint, to: *mut nvmlGpuInstanceProfileInfo_t
    ) {
        let info = info(by_kind(&device, kind)?);
        to.put(nvmlGpuInstanceProfileInfo_t {
            id: info.id,
            isP2pSupported: info.isP2pSupported,
            sliceCount: info.sliceCount,
            instanceCount: info.instanceCount,
            multiprocessorCount: info.multiprocessorCount,
            copyEngineCount: info.copyEngineCount,
            decoderCount: info.decoderCount,
            encoderCount: info.encoderCount,
            jpegCount: info.jpegCount,
            ofaCount: info.ofaCount,
            memorySizeMB: info.memorySizeMB,
        })
    }
    about nvmlDeviceGetGpuInstanceProfileInfoV(
        device: nvmlDevice_t, kind: c_uint, to: *mut nvmlGpuInstanceProfileInfo_v2_t
    ) {
        info_versioned(by_kind(&device, kind)?, to)
    }
    about nvmlDeviceGetGpuInstanceProfileInfoByIdV(
        device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstanceProfileInfo_v2_t
    ) {
        info_versioned(by_id(&device, id)?, to)
    }
    about nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstancePlacement_t, count: *mut c_uint
    ) {
        let all = placements(by_id(&device, id)?.1);
        // Who has no room asks how many.
        match to.pointer().is_null() {
            true => count.put(number(all.len())),
            false => list(count, to, &all),
        }
    }
    about nvmlDeviceGetGpuInstancePossiblePlacements(
        device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstancePlacement_t, count: *mut c_uint
    ) {
        let all = placements(by_id(&device, id)?.1);
        to.fill(&all)?;
        count.put(number(all.len()))
    }
    about nvmlDeviceGetGpuInstanceRemainingCapacity(device: nvmlDevice_t, id: c_uint, count: *mut c_uint) {
        let gpu = divided(&device)?;
        count.put(gpu.room(by_id(&device, id)?.0))
    }
    about nvmlDeviceGetGpuInstances(
        device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstance_t, count: *mut c_uint
    ) {
        let gpu = divided(&device)?;
        let name = by_id(&device, id)?.0;
        let found = gpu.gpu_instances().into_iter().filter(|instance| instance.profile == name);
        let handle = |gi| Handle::GpuInstance(device.name.to_owned(), gi).pointer();
        let found: Vec<nvmlGpuInstance_t> = found.map(|instance| handle(instance.gi)).collect();
        // There is to be room for as many as there can be.
        count.put(number(found.len()))?;
        if found.is_empty() { Ok(()) } else { to.fill(&found) }
    }
    about nvmlDeviceGetGpuInstanceById(device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstance_t) {
        divided(&device)?;
        match instances(&device).contains(&id) {
            true => to.put(Handle::GpuInstance(device.name.to_owned(), id).pointer()),
            false => Err(NOT_FOUND),
        }
    }
    about nvmlGpuInstanceGetInfo(part: nvmlGpuInstance_t, to: *mut nvmlGpuInstanceInfo_t) {
        to.put(nvmlGpuInstanceInfo_t {
            device: Handle::Gpu(part.name.to_owned()).pointer(),
            id: part.instance.gi,
            profileId: part.profile.id,
            placement: nvmlGpuInstancePlacement_t {
                start: part.instance.start,
                size: part.profile.memory,
            },
        })
    }
    about nvmlGpuInstanceGetComputeInstanceProfileInfo(
        part: nvmlGpuInstance_t, kind: c_uint, engines: c_uint, to: *mut nvmlComputeInstanceProfileInfo_t
    ) {
        if engines != NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED {
            return Err(INVALID_ARGUMENT);
        }
        let info = compute_info(&part, kind)?;
        to.put(nvmlComputeInstanceProfileInfo_t {
            id: info.id,
            sliceCount: info.sliceCount,
            instanceCount: info.instanceCount,
            multiprocessorCount: info.multiprocessorCount,
            sharedCopyEngineCount: info.sharedCopyEngineCount,
            sharedDecoderCount: info.sharedDecoderCount,
            sharedEncoderCount: info.sharedEncoderCount,
            sharedJpegCount: info.sharedJpegCount,
            sharedOfaCount: info.sharedOfaCount,
        })
    }
    about nvmlGpuInstanceGetComputeInstanceProfileInfoV(
        part: nvmlGpuInstance_t, kind: c_uint, engines: c_uint,
        to: *mut nvmlComputeInstanceProfileInfo_v2_t
    ) {
        if engines != NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED {
            return Err(INVALID_ARGUMENT);
        }
        let asked = to.cast::<c_uint>().get()?;
        check::<nvmlComputeInstanceProfileInfo_v2_t>(asked, 2)?;
        to.put(compute_info(&part, kind)?)
    }
    about nvmlGpuInstanceGetComputeInstanceRemainingCapacity(
        part: nvmlGpuInstance_t, kind: c_uint, count: *mut c_uint
    ) {
        let each = compute_info(&part, kind)?.sliceCount;
        count.put(part.gpu.slices_left(part.instance.gi, part.profile) / each)
    }
    about nvmlGpuInstanceGetComputeInstances(
        part: nvmlGpuInstance_t, kind: c_uint, to: *mut nvmlComputeInstance_t, count: *mut c_uint
    ) {
        let of = |mate: &&Instance| slices(mate.taken(part.profile)) == Some(kind);
        let found = part.gpu.mates(part.instance.gi).filter(of);
        let handle = |mate: &Instance| {
            Handle::ComputeInstance(part.name.to_owned(), mate.gi, mate.ci).pointer()
        };
        let found: Vec<nvmlComputeInstance_t> = found.map(handle).collect();
        count.put(number(found.len()))?;
        if found.is_empty() { Ok(()) } else { to.fill(&found) }
    }
    about nvmlGpuInstanceGetComputeInstanceById(
        part: nvmlGpuInstance_t, id: c_uint, to: *mut nvmlComputeInstance_t
    ) {
        let found = part.gpu.mates(part.instance.gi).find(|mate| mate.ci == id).ok_or(NOT_FOUND)?;
        to.put(Handle::ComputeInstance(part.name.to_owned(), found.gi, found.ci).pointer())
    }
    about nvmlComputeInstanceGetInfo_v2(part: nvmlComputeInstance_t, to: *mut nvmlComputeInstanceInfo_t) {
        compute_instance(&part, to)
    }
    about nvmlComputeInstanceGetInfo(part: nvmlComputeInstance_t, to: *mut nvmlComputeInstanceInfo_t) {
        compute_instance(&part, to)
    }
}

//! GPUs in MIG mode.
#![allow(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::collections::BTreeMap;
use std::ffi::c_uint;
use std::ptr;

use common::{same, staged};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::*;

const MIB: u64 = 1 << 20;

/// What the raw call puts there.
#[track_caller]
fn put<T: Default>(call: impl FnOnce(&mut T) -> nvmlReturn_t) -> Result<T, nvmlReturn_t> {
    let mut value = T::default();
    match call(&mut value) {
        0 => Ok(value),
        error => Err(error),
    }
}

/// A raw call by its name.
macro_rules! raw {
    ($nvml:expr, $name:ident ( $($arg:expr),* $(,)? )) => {
        // SAFETY: handles are of this library, and every answer has a place.
        unsafe { ($nvml.lib().$name.as_ref().unwrap())($($arg),*) }
    };
}

fn migs<'a>(gpu: &Device<'a>) -> Vec<Device<'a>> {
    let all = (0..gpu.mig_device_count().unwrap()).filter_map(|index| {
        match gpu.mig_device_by_index(index) {
            Ok(mig) => Some(mig),
            Err(NvmlError::NotFound) => None,
            Err(error) => panic!("{error}"),
        }
    });
    all.collect()
}

fn ids(nvml: &Nvml, mig: &Device) -> (u32, u32) {
    // SAFETY: it is used for calls of the same library.
    let handle = unsafe { mig.handle() };
    let gi = put(|id: &mut c_uint| raw!(nvml, nvmlDeviceGetGpuInstanceId(handle, id)));
    let ci = put(|id: &mut c_uint| raw!(nvml, nvmlDeviceGetComputeInstanceId(handle, id)));
    (gi.unwrap(), ci.unwrap())
}

#[test]
fn devices_are_compute_instances() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let description = staged.machine.current();
    let described = &description.gpu["divided"];
    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.minor_number().unwrap(), 1);
    let migs = migs(&gpu);
    assert_eq!(migs.len(), described.instance.len());
    for (mig, instance) in migs.iter().zip(&described.instance) {
        let profile = &described.profile[&instance.profile];
        assert_eq!(mig.uuid().unwrap(), instance.uuid);
        assert!(mig.mig_is_mig_device_handle().unwrap());
        assert_eq!(
            mig.mig_parent_device().unwrap().uuid().unwrap(),
            described.uuid
        );
        assert_eq!(ids(&nvml, mig), (instance.gi, instance.ci));
        let attributes = mig.attributes().unwrap();
        assert_eq!(attributes.memory_size_mb, profile.memory_mib);
        let slices = instance.slices.unwrap_or(profile.compute);
        assert_eq!(attributes.compute_instance_slice_count, slices);
        assert_eq!(attributes.gpu_instance_slice_count, profile.compute);
        assert_eq!(attributes.multiprocessor_count, 14 * slices);
        let found = nvml.device_by_uuid(instance.uuid.as_str()).unwrap();
        assert_eq!(found.index().unwrap(), mig.index().unwrap());
        assert_eq!(mig.memory_info().unwrap().total, profile.memory_mib * MIB);
        // What only GPUs have.
        same(
            mig.temperature(nvml_wrapper::enum_wrappers::device::TemperatureSensor::Gpu),
            None,
        );
        same(mig.utilization_rates().map(|_| ()), None);
    }
    let names: Vec<String> = migs.iter().map(|mig| mig.name().unwrap()).collect();
    assert_eq!(names[1], "NVIDIA A100-SXM4-80GB MIG 1c.3g.40gb");
    assert_eq!(names[2], "NVIDIA A100-SXM4-80GB MIG 2g.20gb");
    let beyond = gpu.mig_device_by_index(6);
    assert!(matches!(beyond, Err(NvmlError::NotFound)), "{beyond:?}");
    let beyond = gpu.mig_device_by_index(7);
    assert!(matches!(beyond, Err(NvmlError::InvalidArg)), "{beyond:?}");
    assert!(!gpu.mig_is_mig_device_handle().unwrap());
}

#[test]
fn two_compute_instances_report_one_memory() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let gpu = nvml.device_by_index(0).unwrap();
    let migs = migs(&gpu);
    let memory = |mig: &Device| {
        let memory = mig.memory_info().unwrap();
        (memory.total / MIB, memory.reserved, memory.used / MIB)
    };
    assert_eq!(memory(&migs[0]), (40192, 0, 37));
    assert_eq!(memory(&migs[1]), (40192, 0, 37));
    assert_eq!(gpu.memory_info().unwrap().used / MIB, 2 + 37 + 25 + 12 + 12);
}

#[test]
fn numbers_may_have_gaps() {
    let staged = staged("a100-mig");
    staged.gpu("divided", |gpu| {
        for (instance, number) in gpu.instance.iter_mut().zip([0, 2, 3, 5, 6]) {
            instance.number = Some(number);
        }
    });
    let nvml = staged.open();
    let gpu = nvml.device_by_index(0).unwrap();
    let there: Vec<bool> = (0..7)
        .map(|index| gpu.mig_device_by_index(index).is_ok())
        .collect();
    assert_eq!(there, [true, false, true, true, false, true, true]);
    assert_eq!(gpu.mig_device_by_index(5).unwrap().index().unwrap(), 5);
}

#[test]
fn what_a_gpu_lacks_is_not_supported() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let whole = nvml.device_by_index(1).unwrap();
    assert_eq!(whole.mig_mode().unwrap().current, 0);
    assert_eq!(whole.mig_device_count().unwrap(), 0);
    same(whole.mig_device_by_index(0).map(|_| ()), None);
    let staged = self::staged("t4");
    let nvml = staged.open();
    let t4 = nvml.device_by_index(0).unwrap();
    same(t4.mig_mode().map(|_| ()), None);
    same(t4.set_mig_mode(true).map(|_| ()), None);
    assert_eq!(t4.mig_device_count().unwrap(), 0);
    same(t4.profile_info(0).map(|_| ()), None);
}

#[test]
fn profiles_and_placements() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let description = staged.machine.current();
    for index in [0, 1] {
        let gpu = nvml.device_by_index(index).unwrap();
        let mut found = BTreeMap::new();
        for kind in 0..NVML_GPU_INSTANCE_PROFILE_COUNT {
            match gpu.profile_info(kind) {
                Ok(info) => drop(found.insert(info.id, (kind, info))),
                Err(NvmlError::NotSupported) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let described = &description.gpu[["divided", "whole"][usize::try_from(index).unwrap()]];
        assert_eq!(found.len(), described.profile.len());
        // SAFETY: it is used for calls of the same library.
        let handle = unsafe { gpu.handle() };
        for (name, profile) in &described.profile {
            let (kind, info) = &found[&profile.id];
            assert_eq!(info.slice_count, profile.compute, "{name}");
            assert_eq!(info.memory_size_mb, profile.memory_mib, "{name}");
            assert_eq!(info.multiprocessor_count, profile.sms, "{name}");
            assert_eq!(info.instance_count, profile.max, "{name}");
            let placements = placements(&nvml, handle, profile.id);
            let wanted = profile.starts.iter().map(|start| (*start, profile.memory));
            assert_eq!(placements, wanted.collect::<Vec<_>>(), "{name}");
            let mut info = nvmlGpuInstanceProfileInfo_v2_t {
                version: versioned::<nvmlGpuInstanceProfileInfo_v2_t>(2),
                // SAFETY: numbers and characters.
                ..unsafe { std::mem::zeroed() }
            };
            let code = raw!(
                nvml,
                nvmlDeviceGetGpuInstanceProfileInfoV(handle, *kind, &mut info)
            );
            assert_eq!(code, 0);
            let text: Vec<u8> = info.name.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
            assert!(
                text.starts_with(format!("MIG {name}\0").as_bytes()),
                "{name}"
            );
        }
    }
}

fn versioned<T>(number: u32) -> u32 {
    u32::try_from(size_of::<T>()).unwrap() | number << 24
}

fn placements(nvml: &Nvml, gpu: nvmlDevice_t, id: u32) -> Vec<(u32, u32)> {
    let call = nvml
        .lib()
        .nvmlDeviceGetGpuInstancePossiblePlacements_v2
        .as_ref()
        .unwrap();
    let mut count = 0;
    // SAFETY: null asks how many.
    assert_eq!(unsafe { call(gpu, id, ptr::null_mut(), &mut count) }, 0);
    let none = nvmlGpuInstancePlacement_t { start: 0, size: 0 };
    let mut all = vec![none; usize::try_from(count).unwrap()];
    // SAFETY: there is room for as many.
    assert_eq!(unsafe { call(gpu, id, all.as_mut_ptr(), &mut count) }, 0);
    all.iter()
        .map(|placement| (placement.start, placement.size))
        .collect()
}

#[test]
fn instances_by_id_and_profile() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let gpu = nvml.device_by_index(0).unwrap();
    // SAFETY: it is used for calls of the same library.
    let handle = unsafe { gpu.handle() };
    let mut all = [ptr::null_mut(); 7];
    let mut count = 0;
    // 1g.10gb.
    let code = raw!(
        nvml,
        nvmlDeviceGetGpuInstances(handle, 19, all.as_mut_ptr(), &mut count)
    );
    assert_eq!((code, count), (0, 2));
    // 3g.40gb, with two compute instances of one slice.
    let code = raw!(
        nvml,
        nvmlDeviceGetGpuInstances(handle, 9, all.as_mut_ptr(), &mut count)
    );
    assert_eq!((code, count), (0, 1));
    let three = all[0];
    let mut found = ptr::null_mut();
    let code = raw!(nvml, nvmlDeviceGetGpuInstanceById(handle, 2, &mut found));
    assert_eq!((code, found), (0, three));
    let code = raw!(nvml, nvmlDeviceGetGpuInstanceById(handle, 7, &mut found));
    assert_eq!(code, nvmlReturn_enum_NVML_ERROR_NOT_FOUND);
    // SAFETY: numbers and handles.
    let mut info: nvmlGpuInstanceInfo_t = unsafe { std::mem::zeroed() };
    assert_eq!(raw!(nvml, nvmlGpuInstanceGetInfo(three, &mut info)), 0);
    assert_eq!((info.device, info.id, info.profileId), (handle, 2, 9));
    assert_eq!((info.placement.start, info.placement.size), (4, 4));
    let mut computes = [ptr::null_mut(); 8];
    let one = NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE;
    let to = computes.as_mut_ptr();
    assert_eq!(
        raw!(
            nvml,
            nvmlGpuInstanceGetComputeInstances(three, one, to, &mut count)
        ),
        0
    );
    assert_eq!(count, 2);
    // SAFETY: numbers and handles.
    let mut info: nvmlComputeInstanceInfo_t = unsafe { std::mem::zeroed() };
    assert_eq!(
        raw!(nvml, nvmlComputeInstanceGetInfo_v2(computes[1], &mut info)),
        0
    );
    assert_eq!(
        (info.gpuInstance, info.id, info.placement.start),
        (three, 1, 1)
    );
    let mut left = 0;
    let code = raw!(
        nvml,
        nvmlGpuInstanceGetComputeInstanceRemainingCapacity(three, one, &mut left)
    );
    assert_eq!((code, left), (0, 1));
    for (profile, room) in [(19, 0), (9, 0), (14, 0)] {
        let to = &mut left;
        let code = raw!(
            nvml,
            nvmlDeviceGetGpuInstanceRemainingCapacity(handle, profile, to)
        );
        assert_eq!((code, left), (0, room), "{profile}");
    }
}

#[test]
fn another_partition_makes_handles_stale() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let gpu = nvml.device_by_index(0).unwrap();
    let before = migs(&gpu);
    let kept = before[2].uuid().unwrap();
    staged.gpu("divided", |gpu| {
        gpu.instance
            .retain(|instance| instance.gi == 3 || instance.gi == 9);
        gpu.instance[1].gi = 11;
        gpu.instance[1].uuid = "MIG-6b3d7ad6-0f29-4a5f-a3ab-7a9f2ab0d3a1".into();
    });
    let after = migs(&gpu);
    let uuids: Vec<String> = after.iter().map(|mig| mig.uuid().unwrap()).collect();
    assert_eq!(
        uuids,
        [kept.as_str(), "MIG-6b3d7ad6-0f29-4a5f-a3ab-7a9f2ab0d3a1"]
    );
    assert_eq!(before[2].uuid().unwrap(), kept);
    let gone = before[0].memory_info();
    assert!(matches!(gone, Err(NvmlError::InvalidArg)), "{gone:?}");
    assert_eq!(ids(&nvml, &after[1]), (11, 0));
    staged.gpu("divided", |gpu| {
        gpu.instance.clear();
        gpu.mig = Some(false);
    });
    same(gpu.mig_device_by_index(0).map(|_| ()), None);
}

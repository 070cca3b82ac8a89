//! Processes on a device.

use std::ffi::{c_uint, c_ulonglong};
use std::time::{SystemTime, UNIX_EPOCH};

use divvy_nvidia_machine::Process;
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::memory::{MIB, allocated, instances};
use crate::state::Device;

/// What is not known, or does not apply.
const NOT_AVAILABLE: c_ulonglong = c_ulonglong::MAX;
pub(crate) const NO_INSTANCE: c_uint = c_uint::MAX;

/// Processes that compute, or draw: those of the description, and those that have really
/// allocated. Those whose numbers cannot be told from here are left out.
fn processes(device: &Device, graphics: bool) -> Vec<nvmlProcessInfo_v2_t> {
    let mut processes = Vec::new();
    let mut add = |pid, bytes, gi, ci| {
        processes.push(nvmlProcessInfo_v2_t {
            pid,
            usedGpuMemory: bytes,
            gpuInstanceId: gi,
            computeInstanceId: ci,
        });
    };
    if device.instance.is_none() {
        let kind = |process: &&Process| process.graphics == graphics;
        for process in device.gpu.process.iter().filter(kind) {
            let bytes = process.memory_mib.map_or(NOT_AVAILABLE, |mib| mib * MIB);
            add(process.pid, bytes, NO_INSTANCE, NO_INSTANCE);
        }
    }
    if graphics {
        return processes;
    }
    let gis = match device.instance {
        Some(instance) => vec![Some(instance.gi)],
        None => instances(device)
            .into_iter()
            .map(Some)
            .chain([None])
            .collect(),
    };
    for gi in gis {
        // Which compute instance is not told; where there is one, it is that.
        let here = device
            .gpu
            .instance
            .iter()
            .filter(|instance| Some(instance.gi) == gi);
        let here: Vec<u32> = here.map(|instance| instance.ci).collect();
        let ci = match (device.instance, &here[..]) {
            (Some(instance), _) => instance.ci,
            (None, [ci]) => *ci,
            _ => NO_INSTANCE,
        };
        for (pid, bytes) in allocated(&device.call.machine, device.name, gi) {
            if let Some(pid) = pid {
                add(pid, bytes, gi.unwrap_or(NO_INSTANCE), ci);
            }
        }
    }
    processes
}

fn first(process: &nvmlProcessInfo_v2_t) -> nvmlProcessInfo_v1_t {
    nvmlProcessInfo_v1_t {
        pid: process.pid,
        usedGpuMemory: process.usedGpuMemory,
    }
}

fn list_first(
    device: &Device,
    graphics: bool,
    count: Out<c_uint>,
    infos: Out<nvmlProcessInfo_v1_t>,
) -> Answer {
    let processes: Vec<_> = processes(device, graphics).iter().map(first).collect();
    list(count, infos, &processes)
}

/// µs since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since
        .ok()
        .and_then(|since| u64::try_from(since.as_micros()).ok())
        .unwrap_or_default()
}

/// Each process has its part of what the GPU is used.
fn shares(device: &Device) -> Answer<Vec<(c_uint, [u32; 2])>> {
    let [gpu, memory] = device.undivided()?.utilization.ok_or(NOT_SUPPORTED)?;
    let processes = processes(device, false);
    let parts = number(processes.len()).max(1);
    let share = [gpu / parts, memory / parts];
    Ok(processes
        .iter()
        .map(|process| (process.pid, share))
        .collect())
}

exports! {
    about nvmlDeviceGetComputeRunningProcesses_v3(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_t
    ) {
        list(count, infos, &processes(&device, false))
    }
    about nvmlDeviceGetComputeRunningProcesses_v2(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t
    ) {
        list(count, infos, &processes(&device, false))
    }
    about nvmlDeviceGetComputeRunningProcesses(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t
    ) {
        list_first(&device, false, count, infos)
    }
    about nvmlDeviceGetGraphicsRunningProcesses_v3(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_t
    ) {
        list(count, infos, &processes(&device, true))
    }
    about nvmlDeviceGetGraphicsRunningProcesses_v2(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t
    ) {
        list(count, infos, &processes(&device, true))
    }
    about nvmlDeviceGetGraphicsRunningProcesses(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t
    ) {
        list_first(&device, true, count, infos)
    }
    about nvmlDeviceGetMPSComputeRunningProcesses_v3(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_t
    ) {
        let _ = device;
        list(count, infos, &[])
    }
    about nvmlDeviceGetMPSComputeRunningProcesses_v2(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t
    ) {
        let _ = device;
        list(count, infos, &[])
    }
    about nvmlDeviceGetMPSComputeRunningProcesses(
        device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t
    ) {
        let _ = device;
        list(count, infos, &[])
    }
    about nvmlDeviceGetRunningProcessDetailList(
        device: nvmlDevice_t, details: *mut nvmlProcessDetailList_t
    ) {
        let mut asked = details.get()?;
        check::<nvmlProcessDetailList_t>(asked.version, 1)?;
        let processes = match asked.mode {
            0 | 1 => processes(&device, asked.mode == 1),
            2 => Vec::new(),
            _ => return Err(INVALID_ARGUMENT),
        };
        let room = size(asked.numProcArrayEntries);
        asked.numProcArrayEntries = number(processes.len());
        details.put(asked)?;
        if processes.len() > room {
            return Err(INSUFFICIENT_SIZE);
        }
        let of = |process: &nvmlProcessInfo_v2_t| nvmlProcessDetail_v1_t {
            pid: process.pid,
            usedGpuMemory: process.usedGpuMemory,
            gpuInstanceId: process.gpuInstanceId,
            computeInstanceId: process.computeInstanceId,
            usedGpuCcProtectedMemory: 0,
        };
        let processes: Vec<_> = processes.iter().map(of).collect();
        match processes.is_empty() {
            true => Ok(()),
            false => inner(asked.procArray).fill(&processes),
        }
    }
    about nvmlDeviceGetProcessUtilization(
        device: nvmlDevice_t, samples: *mut nvmlProcessUtilizationSample_t, count: *mut c_uint,
        _since: c_ulonglong
    ) {
        let time = now();
        let sample = |(pid, [gpu, memory]): (c_uint, [u32; 2])| nvmlProcessUtilizationSample_t {
            pid,
            timeStamp: time,
            smUtil: gpu,
            memUtil: memory,
            encUtil: 0,
            decUtil: 0,
        };
        let all: Vec<_> = shares(&device)?.into_iter().map(sample).collect();
        match all.is_empty() {
            true => Err(NOT_FOUND),
            false => list(count, samples, &all),
        }
    }
    about nvmlDeviceGetProcessesUtilizationInfo(
        device: nvmlDevice_t, info: *mut nvmlProcessesUtilizationInfo_t
    ) {
        let mut asked = info.get()?;
        check::<nvmlProcessesUtilizationInfo_t>(asked.version, 1)?;
        let time = now();
        let sample = |(pid, [gpu, memory]): (c_uint, [u32; 2])| nvmlProcessUtilizationInfo_v1_t {
            timeStamp: time,
            pid,
            smUtil: gpu,
            memUtil: memory,
            encUtil: 0,
            decUtil: 0,
            jpgUtil: 0,
            ofaUtil: 0,
        };
        let all: Vec<_> = shares(&device)?.into_iter().map(sample).collect();
        let room = size(asked.processSamplesCount);
        asked.processSamplesCount = number(all.len());
        info.put(asked)?;
        match () {
            () if all.is_empty() => Err(NOT_FOUND),
            () if all.len() > room => Err(INSUFFICIENT_SIZE),
            () => inner(asked.procUtilArray).fill(&all),
        }
    }
}

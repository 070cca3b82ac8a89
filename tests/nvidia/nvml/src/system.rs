//! The driver, and what is not about one GPU.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fs;

use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::handles::Handle;
use crate::links::{cpus, near_list};

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    words(result).as_ptr()
}
agrees!(nvmlErrorString);

/// The vendor's words.
fn words(result: nvmlReturn_t) -> &'static CStr {
    match result {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        5 => c"Already Initialized",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        8 => c"Insufficient External Power",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        11 => c"Interrupt Request Issue",
        12 => c"NVML Shared Library Not Found",
        13 => c"Function Not Found",
        14 => c"Corrupted infoROM",
        15 => c"GPU is lost",
        16 => c"GPU requires reset",
        17 => c"GPU access blocked by the operating system",
        18 => c"Driver/library version mismatch",
        19 => c"In use by another client",
        20 => c"Insufficient Memory",
        21 => c"No data",
        22 => c"Operation not supported because ECC is enabled",
        23 => c"Insufficient resources",
        24 => c"Frequency not supported",
        25 => c"The provided version is invalid/unsupported",
        26 => c"The requested functionality has been deprecated",
        27 => c"The system is not ready",
        28 => c"No GPUs were found",
        29 => c"Resource not in correct state to perform requested operation",
        30 => c"Reset type not supported",
        _ => c"Unknown Error",
    }
}

/// `13.0` as CUDA numbers it: 13000.
fn cuda(version: &str) -> Answer<c_int> {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let number = |text: &str| text.parse::<c_int>().map_err(|_| UNKNOWN);
    Ok(number(major)? * 1000 + number(minor)? * 10)
}

exports! {
    system nvmlSystemGetDriverVersion(call, version: *mut c_char, length: c_uint) {
        version.text(length, &call.description.driver)
    }
    system nvmlSystemGetNVMLVersion(call, version: *mut c_char, length: c_uint) {
        let description = &call.description;
        let cuda = description.cuda.split('.').next().unwrap_or_default();
        version.text(length, &format!("{cuda}.{}", description.driver))
    }
    system nvmlSystemGetCudaDriverVersion(call, version: *mut c_int) {
        version.put(cuda(&call.description.cuda)?)
    }
    system nvmlSystemGetCudaDriverVersion_v2(call, version: *mut c_int) {
        version.put(cuda(&call.description.cuda)?)
    }
    system nvmlSystemGetDriverBranch(call, info: *mut nvmlSystemDriverBranchInfo_t, _length: c_uint) {
        let mut branch = info.get()?;
        check::<nvmlSystemDriverBranchInfo_t>(branch.version, 1)?;
        let major = call.description.driver.split('.').next().unwrap_or_default();
        branch.branch = field(&format!("r{major}_00"));
        info.put(branch)
    }
    system nvmlSystemGetProcessName(_call, pid: c_uint, name: *mut c_char, length: c_uint) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| NOT_FOUND)?;
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        // What is too long is cut.
        let room = size(length).checked_sub(1).ok_or(INSUFFICIENT_SIZE)?;
        let mut end = room.min(first.len());
        while !first.is_char_boundary(end) {
            end -= 1;
        }
        name.text(length, &first[..end])
    }
    system nvmlSystemGetTopologyGpuSet(
        call, cpu: c_uint, count: *mut c_uint, devices: *mut nvmlDevice_t
    ) {
        let near = |name: &String| {
            let gpu = call.description.gpu.get(name);
            gpu.is_some_and(|gpu| cpus(gpu.local_cpus.as_deref()).contains(&size(cpu)))
        };
        let near = call.machine.visible().into_iter().filter(near);
        let near: Vec<nvmlDevice_t> = near.map(|name| Handle::Gpu(name).pointer()).collect();
        near_list(count, devices, &near)
    }
    system nvmlSystemGetHicVersion(_call, count: *mut c_uint, _entries: *mut nvmlHwbcEntry_t) {
        count.put(0)
    }
    system nvmlUnitGetCount(_call, count: *mut c_uint) {
        count.put(0)
    }
    system nvmlGetExcludedDeviceCount(_call, count: *mut c_uint) {
        count.put(0)
    }
}

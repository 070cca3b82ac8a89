//! All of this plugin's unsafe code: what NVML's safe layer lacks, and the driver API
//! without cudarc's own loading, which panics where a library or symbol is missing.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint};
use std::path::Path;

use cudarc::driver::sys::{CUdevice, CUdevice_attribute, CUresult};
use libloading::Library;
use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlGpuFabricInfo_t, nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_UNKNOWN, nvmlMemory_t,
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

/// The NVLink fabric that a GPU has joined: the cluster's UUID and its clique.
pub(crate) fn fabric(nvml: &NvmlLib, device: &Device<'_>) -> Result<([u8; 16], u32), NvmlError> {
    let call = nvml_sym(nvml.nvmlDeviceGetGpuFabricInfo.as_ref())?;
    let mut info = nvmlGpuFabricInfo_t {
        clusterUuid: [0; 16],
        status: 0,
        cliqueId: 0,
        state: 0,
    };
    // SAFETY: the handle is of this library, and `info` outlives the call.
    nvml_try(unsafe { call(device.handle(), &raw mut info) })?;
    Ok((info.clusterUuid, info.cliqueId))
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

/// CUDA's driver API, as far as it can be asked without a context.
///
/// Results are taken as numbers: a driver may know more of them than the enum that
/// cudarc generated.
#[derive(Debug)]
pub(crate) struct Cuda {
    count: unsafe extern "C" fn(*mut c_int) -> c_uint,
    get: unsafe extern "C" fn(*mut CUdevice, c_int) -> c_uint,
    attribute: unsafe extern "C" fn(*mut c_int, CUdevice_attribute, CUdevice) -> c_uint,
    address: unsafe extern "C" fn(*mut c_char, c_int, CUdevice) -> c_uint,
    /// Keeps what the pointers point into loaded.
    _library: Library,
}

/// What CUDA says of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CudaDevice {
    /// `0000:53:00.0`.
    pub(crate) address: Option<String>,
    /// Streaming multiprocessors.
    pub(crate) sms: Option<u32>,
    /// Is it part of the processor, with the host's memory?
    pub(crate) integrated: Option<bool>,
}

impl Cuda {
    /// Loads the library and starts it.
    ///
    /// # Errors
    /// In words, for a warning: it cannot be loaded, lacks a symbol, does not start.
    pub(crate) fn start(path: &Path) -> Result<Self, String> {
        // SAFETY: the driver's library, whose initialisers every CUDA program runs.
        let library = unsafe { Library::new(path) }.map_err(|e| e.to_string())?;
        // SAFETY: signatures from the driver API's reference (cuda.h), whose types
        // cudarc generates; `_library` keeps the code loaded.
        let (cuda, init) = unsafe {
            let init: unsafe extern "C" fn(c_uint) -> c_uint = symbol(&library, b"cuInit\0")?;
            let cuda = Self {
                count: symbol(&library, b"cuDeviceGetCount\0")?,
                get: symbol(&library, b"cuDeviceGet\0")?,
                attribute: symbol(&library, b"cuDeviceGetAttribute\0")?,
                address: symbol(&library, b"cuDeviceGetPCIBusId\0")?,
                _library: library,
            };
            (cuda, init)
        };
        // SAFETY: as above; flags must be 0.
        match unsafe { init(0) } {
            0 => Ok(cuda),
            code => Err(format!("cuInit answers {code}")),
        }
    }

    /// The devices that it has. With MIG it has only one; then NVML knows more.
    pub(crate) fn devices(&self) -> Vec<CudaDevice> {
        let mut count = 0;
        // SAFETY: `count` outlives the call; so does what the others write to below.
        if !succeeded(unsafe { (self.count)(&raw mut count) }) {
            return vec![];
        }
        let device = |ordinal| {
            let mut device: CUdevice = 0;
            // SAFETY: as above.
            let got = unsafe { (self.get)(&raw mut device, ordinal) };
            succeeded(got).then(|| self.device(device))
        };
        (0..count).filter_map(device).collect()
    }

    fn device(&self, device: CUdevice) -> CudaDevice {
        let attribute = |which| {
            let mut value: c_int = 0;
            // SAFETY: a device that `cuDeviceGet` gave; `value` outlives the call.
            let got = unsafe { (self.attribute)(&raw mut value, which, device) };
            succeeded(got).then_some(value)
        };
        let mut text = [0_u8; 32];
        // SAFETY: as above; the length leaves a byte for the NUL.
        let got = unsafe { (self.address)(text.as_mut_ptr().cast(), 31, device) };
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let address = String::from_utf8_lossy(text).to_ascii_lowercase();
        let sms = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        CudaDevice {
            address: succeeded(got).then_some(address),
            sms: sms.and_then(|sms| u32::try_from(sms).ok()),
            integrated: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)
                .map(|value| value != 0),
        }
    }
}

fn succeeded(code: c_uint) -> bool {
    code == CUresult::CUDA_SUCCESS as c_uint
}

/// # Safety
/// `T` is the type of the function with this name, and is not called after `library`
/// is gone.
unsafe fn symbol<T: Copy>(library: &Library, name: &[u8]) -> Result<T, String> {
    // SAFETY: the caller's promise.
    let symbol = unsafe { library.get::<T>(name) };
    symbol.map(|symbol| *symbol).map_err(|e| e.to_string())
}

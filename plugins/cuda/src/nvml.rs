//! What NVML says of each GPU.
//!
//! Every question is optional. What a driver does not know, or a GPU does not
//! support, is `None`; what goes wrong besides becomes a warning; a GPU that is lost
//! is `lost` and keeps nobody from being asked the next one. CUDA is asked nothing:
//! starting it would load modules, open every GPU and stay in the way of whoever
//! wants to reset one, for facts that NVML knows too.

mod vitals;

use std::collections::BTreeSet;
use std::path::Path;

use nvml_wrapper::enum_wrappers::device::{Brand, ComputeMode, GpuVirtualizationMode};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use nvml_wrapper_sys::bindings::NVML_NVLINK_MAX_LINKS;

use crate::error::Error;
use crate::ffi;
use crate::libraries;
use crate::manage::Managed;
use crate::root::{Root, is_uuid};

pub(crate) use vitals::{Action, Vitals, processes};

/// A driver and its GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The driver's version: `580.105.08`.
    pub(crate) driver: Option<String>,
    /// The version of CUDA that it serves: `13.0`.
    pub(crate) cuda: Option<String>,
    /// In NVML's order.
    pub(crate) gpus: Vec<Gpu>,
    /// What was odd.
    pub(crate) warnings: Vec<String>,
}

/// One GPU, as far as NVML knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gpu {
    /// Its place in NVML's order; for display alone.
    pub(crate) index: u32,
    /// Why nothing more can be asked of it, if so.
    pub(crate) lost: Option<String>,
    /// What must be known before it may be used, and NVML does not say.
    pub(crate) trouble: Option<String>,
    /// `0000:53:00.0`.
    pub(crate) address: Option<String>,
    /// `GPU-…`.
    pub(crate) uuid: Option<String>,
    /// N of `/dev/nvidiaN`.
    pub(crate) minor: Option<u32>,
    pub(crate) name: Option<String>,
    pub(crate) brand: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) compute_capability: Option<(i32, i32)>,
    pub(crate) memory: Option<Memory>,
    /// CUDA cores.
    pub(crate) cores: Option<u32>,
    /// `None`: the GPU has no MIG.
    pub(crate) mig: Option<Mig>,
    pub(crate) instances: Vec<Instance>,
    /// What Divvy may make of it; asked for by [`crate::manage`].
    pub(crate) managed: Option<Managed>,
    pub(crate) nvlinks: Vec<NvLink>,
    pub(crate) nvlink_version: Option<u32>,
    pub(crate) pcie_generation: Option<u32>,
    pub(crate) pcie_width: Option<u32>,
    /// W, whole ones.
    pub(crate) power_limit: Option<u32>,
    pub(crate) ecc: Option<bool>,
    pub(crate) virtualization: Option<Virtualization>,
    /// May programs use it (compute mode other than *prohibited*)?
    pub(crate) prohibited: bool,
    /// May only one process use it?
    pub(crate) exclusive: bool,
    /// The NVLink fabric over several machines: cluster and clique.
    pub(crate) fabric: Option<(String, u32)>,
    /// Does it belong to a fabric that it has not joined yet?
    pub(crate) waits_for_fabric: bool,
    pub(crate) vitals: Vitals,
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    /// Kept by the driver and its firmware.
    pub(crate) reserved: u64,
}

/// Is it cut into instances, and will it be after the next reset?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mig {
    pub(crate) on: bool,
    pub(crate) pending: bool,
}

/// A MIG device: a compute instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) uuid: Option<String>,
    /// The GPU instance that it is in.
    pub(crate) gi: u32,
    /// Which of that one's compute instances it is.
    pub(crate) ci: u32,
    /// As NVML names it: `NVIDIA A100-SXM4-80GB MIG 1c.3g.40gb`.
    pub(crate) name: Option<String>,
    pub(crate) sms: Option<u32>,
    /// Memory of the GPU instance, bytes.
    pub(crate) memory: Option<u64>,
    /// Compute slices of the GPU instance.
    pub(crate) gi_slices: Option<u32>,
}

/// The other end of an active NVLink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NvLink {
    /// The device at this PCI address.
    Device(String),
    /// A switch that joins all GPUs on it.
    Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Virtualization {
    /// Of the machine itself.
    None,
    /// Handed to this virtual machine whole.
    PassThrough,
    /// A part of a GPU, made by the hypervisor.
    Vgpu,
    /// Its parts are handed to virtual machines.
    Host,
}

/// Starts NVML.
///
/// # Errors
/// Why there is no driver, in words that name the remedy.
pub(crate) fn start(root: &Root, path: &Path) -> Result<Nvml, Error> {
    libraries::trusted(path)?;
    let loaded = Nvml::builder().lib_path(path.as_os_str()).init();
    loaded.map_err(|error| match error {
        NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_) => Error::BadLibrary {
            path: path.display().to_string(),
            why: error.to_string(),
        },
        NvmlError::DriverNotLoaded => Error::NotLoaded,
        NvmlError::LibRmVersionMismatch => {
            let unknown = || "another version".to_owned();
            Error::Mismatch {
                libraries: libraries::version(path).unwrap_or_else(unknown),
                kernel: root.driver_version().unwrap_or_else(unknown),
            }
        }
        error => Error::Init(error.to_string()),
    })
}

/// Asks everything.
///
/// # Errors
/// GPUs cannot even be counted.
pub(crate) fn read(nvml: &Nvml) -> Result<Reading, Error> {
    let count = nvml
        .device_count()
        .map_err(|e| Error::Count(e.to_string()))?;
    let cuda = nvml.sys_cuda_driver_version().ok().map(|version| {
        let (major, minor) = (
            cuda_driver_version_major(version),
            cuda_driver_version_minor(version),
        );
        format!("{major}.{minor}")
    });
    let mut reading = Reading {
        driver: nvml.sys_driver_version().ok(),
        cuda,
        ..Reading::default()
    };
    for index in 0..count {
        let gpu = match nvml.device_by_index(index) {
            Ok(device) => Asker::new(nvml, &device, index).gpu(&mut reading.warnings),
            // One that went while we counted.
            Err(NvmlError::InvalidArg | NvmlError::NotFound) => continue,
            Err(error) => Gpu {
                index,
                lost: Some(error.to_string()),
                ..Gpu::default()
            },
        };
        reading.gpus.push(gpu);
    }
    Ok(reading)
}

/// Asks one device, and remembers what went wrong.
struct Asker<'a> {
    nvml: &'a Nvml,
    device: &'a Device<'a>,
    gpu: Gpu,
    warnings: BTreeSet<String>,
}

impl<'a> Asker<'a> {
    fn new(nvml: &'a Nvml, device: &'a Device<'a>, index: u32) -> Self {
        let gpu = Gpu {
            index,
            ..Gpu::default()
        };
        Self {
            nvml,
            device,
            gpu,
            warnings: BTreeSet::new(),
        }
    }

    /// The answer, if there is one.
    fn ask<T>(
        &mut self,
        what: &str,
        question: impl FnOnce(&Device<'a>) -> Result<T, NvmlError>,
    ) -> Option<T> {
        self.answer(what, question).ok().flatten()
    }

    /// As [`ask`](Self::ask), of what must be known before work is placed on it.
    fn must<T>(
        &mut self,
        what: &str,
        question: impl FnOnce(&Device<'a>) -> Result<T, NvmlError>,
    ) -> Option<T> {
        let answer = self.answer(what, question);
        answer.unwrap_or_else(|trouble| {
            self.gpu.trouble.get_or_insert(trouble);
            None
        })
    }

    /// The answer, or that there is none to be had, or what went wrong. After a GPU is
    /// lost nothing more is asked of it: each question may take the driver seconds.
    fn answer<T>(
        &mut self,
        what: &str,
        question: impl FnOnce(&Device<'a>) -> Result<T, NvmlError>,
    ) -> Result<Option<T>, String> {
        if self.gpu.lost.is_some() {
            return Ok(None);
        }
        match question(self.device) {
            Ok(answer) => Ok(Some(answer)),
            Err(error @ NvmlError::GpuLost) => {
                self.gpu.lost = Some(error.to_string());
                Ok(None)
            }
            // The driver or the GPU does not have it, or has one that is newer than
            // these bindings.
            Err(
                NvmlError::NotSupported
                | NvmlError::FunctionNotFound
                | NvmlError::FailedToLoadSymbol(_)
                | NvmlError::UnexpectedVariant(_)
                | NvmlError::InvalidArg
                | NvmlError::NotFound,
            ) => Ok(None),
            Err(error) => {
                let trouble = format!("its {what}: {error}");
                self.warnings.insert(trouble.clone());
                Err(trouble)
            }
        }
    }

    fn gpu(mut self, warnings: &mut Vec<String>) -> Gpu {
        self.identity();
        self.facts();
        if self.gpu.mig.is_some_and(|mig| mig.on) {
            self.instances();
        } else {
            // Refused while MIG is on.
            self.nvlinks();
        }
        self.vitals();
        let index = self.gpu.index;
        let name = self.gpu.address.clone();
        let name = name.unwrap_or_else(|| format!("number {index}"));
        let warned = self.warnings.into_iter();
        warnings.extend(warned.map(|warning| format!("NVML does not say of GPU {name} {warning}")));
        self.gpu
    }

    fn identity(&mut self) {
        let pci = self.must("PCI address", Device::pci_info);
        self.gpu.address =
            pci.map(|pci| format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device));
        let uuid = self.must("UUID", Device::uuid);
        self.gpu.uuid = uuid.filter(|uuid| is_uuid(uuid));
        self.gpu.minor = self.ask("minor number", Device::minor_number);
    }

    fn facts(&mut self) {
        self.gpu.name = self.ask("name", Device::name);
        let brand = self.ask("brand", Device::brand);
        self.gpu.brand = brand.map(brand_name);
        let architecture = self.ask("architecture", Device::architecture);
        self.gpu.architecture = architecture.map(|a| format!("{a:?}"));
        let capability = self.ask("compute capability", Device::cuda_compute_capability);
        self.gpu.compute_capability = capability.map(|c| (c.major, c.minor));
        self.gpu.memory = self.memory();
        self.gpu.cores = self.ask("cores", Device::num_cores);
        let mig = self.must("MIG mode", Device::mig_mode);
        self.gpu.mig = mig.map(|mig| Mig {
            on: mig.current == 1,
            pending: mig.pending == 1,
        });
        self.gpu.pcie_generation = self.ask("PCIe generation", Device::max_pcie_link_gen);
        self.gpu.pcie_width = self.ask("PCIe width", Device::max_pcie_link_width);
        let limit = self.ask("power limit", Device::power_management_limit);
        self.gpu.power_limit = limit.map(|milliwatts| milliwatts / 1000);
        let ecc = self.ask("ECC mode", Device::is_ecc_enabled);
        self.gpu.ecc = ecc.map(|ecc| ecc.currently_enabled);
        let mode = self.ask("virtualization mode", Device::virtualization_mode);
        self.gpu.virtualization = mode.map(|mode| match mode {
            GpuVirtualizationMode::Bare => Virtualization::None,
            GpuVirtualizationMode::PassThrough => Virtualization::PassThrough,
            GpuVirtualizationMode::Vgpu => Virtualization::Vgpu,
            GpuVirtualizationMode::HostVgpu | GpuVirtualizationMode::HostVsga => {
                Virtualization::Host
            }
        });
        let mode = self.must("compute mode", Device::compute_mode);
        self.gpu.prohibited = mode == Some(ComputeMode::Prohibited);
        self.gpu.exclusive = mode == Some(ComputeMode::ExclusiveProcess);
        let nvml = self.nvml;
        let fabric = self.ask("fabric", |device| ffi::fabric(nvml.lib(), device));
        let fabric = fabric.flatten();
        self.gpu.waits_for_fabric = fabric.is_some_and(|fabric| !fabric.joined);
        self.gpu.fabric = fabric
            .filter(|fabric| fabric.cluster != [0; 16])
            .map(|fabric| (uuid_text(&fabric.cluster), fabric.clique));
    }

    /// Drivers before 510 lack the call that says what is reserved; WSL's and some
    /// that have it answer it with nonsense errors. None does for a unified memory.
    fn memory(&mut self) -> Option<Memory> {
        if self.gpu.lost.is_some() {
            return None;
        }
        let nvml = self.nvml;
        let new = self
            .device
            .memory_info()
            .ok()
            .filter(|memory| memory.total > 0);
        let memory = match new {
            Some(memory) => Some(Memory {
                total: memory.total,
                reserved: memory.reserved.min(memory.total),
            }),
            None => self
                .must("memory", |device| ffi::memory_v1(nvml.lib(), device))
                .map(|(total, _)| Memory { total, reserved: 0 }),
        };
        memory.filter(|memory| memory.total > 0)
    }

    fn instances(&mut self) {
        let nvml = self.nvml;
        let most = self.ask("number of MIG devices", Device::mig_device_count);
        for index in 0..most.unwrap_or(0) {
            // Indexes have gaps.
            let Some(device) = self.ask("MIG devices", |gpu| gpu.mig_device_by_index(index)) else {
                continue;
            };
            let Some((gi, ci)) =
                self.ask("MIG devices' ids", |_| ffi::instance(nvml.lib(), &device))
            else {
                continue;
            };
            let attributes = self.ask("MIG devices' attributes", |_| device.attributes());
            let new = device.memory_info().ok().map(|memory| memory.total);
            let memory = new.or_else(|| {
                let old = self.ask("MIG devices' memory", |_| {
                    ffi::memory_v1(nvml.lib(), &device)
                });
                old.map(|(total, _)| total)
            });
            let uuid = self.ask("MIG devices' UUIDs", |_| device.uuid());
            let name = self.ask("MIG devices' names", |_| device.name());
            self.gpu.instances.push(Instance {
                uuid: uuid.filter(|uuid| uuid.starts_with("MIG-")),
                gi,
                ci,
                name,
                sms: attributes.as_ref().map(|a| a.multiprocessor_count),
                gi_slices: attributes.as_ref().map(|a| a.gpu_instance_slice_count),
                memory,
            });
        }
    }

    fn nvlinks(&mut self) {
        for number in 0..NVML_NVLINK_MAX_LINKS {
            let active = self.ask("NVLinks", |gpu| gpu.link_wrapper_for(number).is_active());
            if active.is_none() {
                // No such link, nor any with a higher number.
                return;
            }
            if active == Some(false) {
                continue;
            }
            if self.gpu.nvlink_version.is_none() {
                let version = self.ask("NVLinks' version", |gpu| {
                    gpu.link_wrapper_for(number).version()
                });
                self.gpu.nvlink_version = version.and_then(generation);
            }
            let nvml = self.nvml;
            let switch = self.ask("NVLinks' ends", |gpu| {
                ffi::leads_to_switch(nvml.lib(), gpu, number)
            });
            if switch == Some(true) {
                self.gpu.nvlinks.push(NvLink::Switch);
                continue;
            }
            let far = self.ask("NVLinks' ends", |gpu| {
                gpu.link_wrapper_for(number).remote_pci_info()
            });
            if let Some(far) = far {
                let address = format!("{:04x}:{:02x}:{:02x}.0", far.domain, far.bus, far.device);
                self.gpu.nvlinks.push(NvLink::Device(address));
            }
        }
    }
}

/// NVLink's generation, of what NVML calls its version (nvml.h,
/// `NVML_NVLINK_VERSION_…`: 1.0, 2.0, 2.2, 3.0, 3.1, 4.0, 5.0).
fn generation(version: u32) -> Option<u32> {
    match version {
        1 => Some(1),
        2 | 3 => Some(2),
        4 | 5 => Some(3),
        6 => Some(4),
        7 => Some(5),
        _ => None,
    }
}

/// As `nvidia-smi` writes it.
fn brand_name(brand: Brand) -> String {
    match brand {
        Brand::Nvidia => "NVIDIA".into(),
        Brand::NvidiaRTX => "NVIDIA RTX".into(),
        Brand::GeForceRTX => "GeForce RTX".into(),
        Brand::QuadroRTX => "Quadro RTX".into(),
        Brand::TitanRTX => "Titan RTX".into(),
        other => format!("{other:?}"),
    }
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::new();
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

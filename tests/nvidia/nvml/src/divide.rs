//! MIG, changed: the mode, GPU instances, compute instances.
//!
//! Each call looks and changes in one turn ([`divvy_nvidia_machine::Machine::try_change`]): what
//! another process does at the same time comes before or after it. The description is
//! changed, and the files below the root with it. Programs in a container may not.

use std::ffi::c_uint;
use std::io::ErrorKind;

use divvy_nvidia_machine::mig::{Refusal, Switched};
use divvy_nvidia_machine::{Description, Error, Gpu, Machine, memory};
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::handles::Handle;
use crate::mig::{able, compute_slices, divided};
use crate::state::Call;

/// The capability to change MIG.
const CONFIG: &str = "nvidia-caps/nvidia-cap1";

/// A machine in its turn to be changed.
struct Turn<'a> {
    machine: &'a Machine,
    description: &'a mut Description,
    /// The GPU's name.
    name: &'a str,
}

impl Turn<'_> {
    /// The GPU, as it is now.
    fn gpu(&mut self) -> Answer<&mut Gpu> {
        let gpu = self.description.gpu.get_mut(self.name);
        gpu.filter(|gpu| gpu.present && !gpu.lost)
            .ok_or(GPU_IS_LOST)
    }

    /// Have processes memory of the GPU, or in that GPU instance?
    fn held(&self, gi: Option<u32>) -> Answer<bool> {
        let held = memory::held_now(self.machine, self.description, self.name, gi);
        Ok(!held.map_err(|_| UNKNOWN)?.is_empty())
    }

    /// Does anything use the GPU as a whole?
    fn used(&mut self) -> Answer<bool> {
        let gpu = self.gpu()?;
        let said = gpu.used_by_client || !gpu.process.is_empty();
        Ok(said || self.held(None)?)
    }
}

/// Changes a GPU, by name.
fn change<T>(call: &Call, name: &str, change: impl FnOnce(&mut Turn) -> Answer<T>) -> Answer<T> {
    let machine = &call.machine;
    if machine.folder().is_none() || !machine.may_open(CONFIG) {
        return Err(NO_PERMISSION);
    }
    let changed = machine.try_change(|description| {
        change(&mut Turn {
            machine,
            description,
            name,
        })
    });
    changed.unwrap_or_else(|error| match error {
        Error::File(_, error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Err(NO_PERMISSION)
        }
        error => {
            eprintln!("NVML's stand-in: {error}");
            Err(UNKNOWN)
        }
    })
}

/// As NVML says it.
fn refused(refusal: Refusal) -> nvmlReturn_t {
    match refusal {
        Refusal::Off => NOT_SUPPORTED,
        Refusal::Unknown => INVALID_ARGUMENT,
        Refusal::Full => INSUFFICIENT_RESOURCES,
        Refusal::Used => IN_USE,
    }
}

fn make(
    call: &Call,
    name: &str,
    profile: c_uint,
    start: Option<u32>,
    to: Out<nvmlGpuInstance_t>,
) -> Answer {
    to.present()?;
    let made = change(call, name, |turn| {
        let made = turn.gpu()?.make_gpu_instance(profile, start);
        made.map_err(refused)
    })?;
    to.put(Handle::GpuInstance(name.to_owned(), made.gi).pointer())
}

exports! {
    about nvmlDeviceSetMigMode(device: nvmlDevice_t, mode: c_uint, status: *mut nvmlReturn_t) {
        able(&device)?;
        status.present()?;
        let on = match mode {
            NVML_DEVICE_MIG_DISABLE => false,
            NVML_DEVICE_MIG_ENABLE => true,
            _ => return Err(INVALID_ARGUMENT),
        };
        let switched = change(device.call, device.name, |turn| {
            let used = turn.used()?;
            turn.gpu()?.switch_mig(on, used).map_err(refused)
        });
        match switched {
            Ok(Switched::Done) => status.put(nvmlReturn_enum_NVML_SUCCESS),
            // Asked for, and not yet so.
            Ok(Switched::Pending) => status.put(IN_USE),
            Err(code) => {
                status.put(code)?;
                Err(code)
            }
        }
    }
    about nvmlDeviceCreateGpuInstance(device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstance_t) {
        divided(&device)?;
        make(device.call, device.name, id, None, to)
    }
    about nvmlDeviceCreateGpuInstanceWithPlacement(
        device: nvmlDevice_t, id: c_uint, at: *const nvmlGpuInstancePlacement_t,
        to: *mut nvmlGpuInstance_t
    ) {
        let gpu = divided(&device)?;
        let at = at.get()?;
        let profile = gpu.profile.values().find(|profile| profile.id == id);
        if profile.is_none_or(|profile| profile.memory != at.size) {
            return Err(INVALID_ARGUMENT);
        }
        make(device.call, device.name, id, Some(at.start), to)
    }
    about nvmlGpuInstanceDestroy(part: nvmlGpuInstance_t) {
        let gi = part.instance.gi;
        change(part.call, part.name, |turn| {
            let held = turn.held(Some(gi))?;
            turn.gpu()?.unmake_gpu_instance(gi, held).map_err(refused)
        })
    }
    about nvmlGpuInstanceCreateComputeInstance(
        part: nvmlGpuInstance_t, kind: c_uint, to: *mut nvmlComputeInstance_t
    ) {
        to.present()?;
        let slices = compute_slices(part.profile, kind).map_err(|_| INVALID_ARGUMENT)?;
        let gi = part.instance.gi;
        let made = change(part.call, part.name, |turn| {
            turn.gpu()?.make_compute_instance(gi, slices).map_err(refused)
        })?;
        to.put(Handle::ComputeInstance(part.name.to_owned(), gi, made.ci).pointer())
    }
    about nvmlComputeInstanceDestroy(part: nvmlComputeInstance_t) {
        let (gi, ci) = (part.instance.gi, part.instance.ci);
        change(part.call, part.name, |turn| {
            // Which of its compute instances a process uses is not told: any may be it.
            let held = turn.held(Some(gi))?;
            turn.gpu()?.unmake_compute_instance(gi, ci, held).map_err(refused)
        })
    }
}

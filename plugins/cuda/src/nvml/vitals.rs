//! How a GPU does.

use std::thread;
use std::time::Duration;

use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper_sys::bindings::field_id::{
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING,
};

use super::Asker;
use crate::ffi;

/// How a GPU does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vitals {
    /// What it needs by the driver's word; `None`: drivers before 570 do not say.
    pub(crate) action: Option<Action>,
    /// mJ since it was reset, or the driver loaded.
    pub(crate) energy_mj: Option<u64>,
    /// Does the driver keep it going while nobody has it open?
    pub(crate) persistent: bool,
    /// A row of its memory will be remapped when it is reset.
    pub(crate) remap_pending: bool,
    /// Rows of its memory can be remapped no more.
    pub(crate) remap_failed: bool,
    /// The hardware itself slows it down, for heat.
    pub(crate) hot: bool,
    /// Programs that compute on it, with the GPU instance that each is in; `None`: the
    /// driver does not say.
    pub(crate) computing: Option<Vec<(u32, Option<u32>)>>,
    /// Do programs draw on it?
    pub(crate) drawing: bool,
    /// Bytes that are used though no program is on it.
    pub(crate) leftover: Option<u64>,
}

/// What a GPU needs before it can be used (nvml.h, `nvmlDeviceGpuRecoveryAction_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    None,
    /// To be reset.
    Reset,
    /// A restart of the machine.
    Reboot,
    /// Programs that use other GPUs over NVLink are to end.
    Drain,
    /// That, and to be reset.
    DrainAndReset,
    /// Something that this version of the plugin does not know.
    Other,
}

impl Action {
    fn of(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Reset,
            2 | 7 => Self::Reboot,
            3 => Self::Drain,
            4 => Self::DrainAndReset,
            _ => Self::Other,
        }
    }
}

/// What an idle GPU may have in use: drivers keep a little for themselves that they do
/// not count as reserved (seen in captures: up to 20 MiB).
const IDLE: u64 = 256 << 20;
/// What a program that ended had is given back a moment later.
const AGAIN: (u32, Duration) = (3, Duration::from_millis(100));

impl Asker<'_> {
    pub(super) fn vitals(&mut self) {
        let fields = [
            (NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 0),
            (NVML_FI_DEV_REMAPPED_PENDING, 0),
            (NVML_FI_DEV_REMAPPED_FAILURE, 0),
        ];
        let [action, pending, failed] = match self.gpu.lost.is_some() {
            true => [None; 3],
            false => ffi::fields(self.nvml.lib(), self.device, fields),
        };
        let energy_mj = self.ask("energy", Device::total_energy_consumption);
        let throttle = self.ask("clocks", Device::current_throttle_reasons);
        let persistent = self.ask("persistence mode", Device::is_in_persistent_mode);
        self.gpu.vitals = Vitals {
            action: action.map(Action::of),
            energy_mj,
            persistent: persistent == Some(true),
            remap_pending: pending == Some(1),
            remap_failed: failed == Some(1),
            hot: throttle
                .is_some_and(|reasons| reasons.contains(ThrottleReasons::HW_THERMAL_SLOWDOWN)),
            computing: self.computing(),
            drawing: self.draws,
            leftover: None,
        };
        self.gpu.vitals.leftover = self.leftover();
    }

    /// Those that draw as well (a desktop, a browser) are left out.
    fn computing(&mut self) -> Option<Vec<(u32, Option<u32>)>> {
        let computing = self.ask("programs", processes)?;
        let drawing = self.ask("programs", Device::running_graphics_processes);
        let drawing: Vec<u32> = drawing.iter().flatten().map(|p| p.pid).collect();
        self.draws = !drawing.is_empty();
        let computing = computing.into_iter().filter(|p| !drawing.contains(&p.pid));
        let mut computing: Vec<_> = computing.map(|p| (p.pid, p.gpu_instance_id)).collect();
        computing.sort_unstable();
        computing.dedup();
        Some(computing)
    }

    /// Memory that is nobody's. Only where it is known that nobody is there, by the call
    /// that leaves out what the driver keeps, and not of memory that the kernel uses as a
    /// NUMA node: it keeps there what it likes (nvidia-smi manual, "FB Memory Usage").
    fn leftover(&mut self) -> Option<u64> {
        let idle = self.gpu.vitals.computing.as_ref()?.is_empty() && !self.draws;
        if !idle || self.gpu.mig.is_some_and(|mig| mig.on) {
            return None;
        }
        let nvml = self.nvml;
        let node = self.ask("memory's NUMA node", |gpu| {
            ffi::memory_node(nvml.lib(), gpu)
        });
        if node.is_some() {
            return None;
        }
        let used = |asker: &mut Self| {
            let memory = asker.ask("memory", Device::memory_info)?;
            let most = IDLE.max(memory.total / 100);
            Some(memory.used).filter(|used| *used > most)
        };
        let (times, pause) = AGAIN;
        for _ in 0..times {
            used(self)?;
            thread::sleep(pause);
        }
        used(self)
    }
}

/// The programs that compute on a GPU. The call that drivers before 510 have is another.
pub(crate) fn processes(gpu: &Device<'_>) -> Result<Vec<ProcessInfo>, NvmlError> {
    gpu.running_compute_processes()
        .or_else(|error| match error {
            NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
                gpu.running_compute_processes_v2()
            }
            error => Err(error),
        })
}

//! The processes that use a GPU, of whoever.

use std::fs;
use std::thread;
use std::time::Duration;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;

use crate::nvml::processes;
use nvml_wrapper::Device;

/// How long processes that have ended may take to let go of a GPU: so many looks, so far
/// apart.
const LOOKS: u32 = 6;
const APART: Duration = Duration::from_millis(100);

/// Those that do not let go of it in time.
pub(crate) fn leaving(there: impl Fn() -> Vec<u32>) -> Vec<u32> {
    let mut left = there();
    for _ in 1..LOOKS {
        if left.is_empty() {
            break;
        }
        thread::sleep(APART);
        left = there();
    }
    left
}

/// Those on a GPU, computing or drawing.
///
/// # Errors
/// NVML does not say.
pub(crate) fn of_gpu(device: &Device<'_>) -> Result<Vec<u32>, NvmlError> {
    let mut pids = pids(computing(device)?);
    pids.extend(self::pids(said(device.running_graphics_processes())?));
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Those that compute on a GPU.
///
/// # Errors
/// NVML does not say.
pub(crate) fn computing(device: &Device<'_>) -> Result<Vec<ProcessInfo>, NvmlError> {
    said(processes(device))
}

/// Those in a GPU instance, as far as NVML says.
pub(crate) fn of_instance(device: &Device<'_>, gi: u32) -> Vec<u32> {
    let mut there = computing(device).unwrap_or_default();
    there.retain(|process| process.gpu_instance_id == Some(gi));
    pids(there)
}

/// For people.
pub(crate) fn names(pids: &[u32]) -> String {
    let name = |pid: &u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let command: String = command.trim().chars().filter(|c| !c.is_control()).collect();
        match command.is_empty() {
            true => format!("process {pid}"),
            false => format!("process {pid} ({command})"),
        }
    };
    match pids {
        [] => "a process that NVML does not name".into(),
        pids => pids.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

/// A driver or a GPU that cannot list them is taken to have none: what it then refuses
/// it refuses by itself.
fn said(answer: Result<Vec<ProcessInfo>, NvmlError>) -> Result<Vec<ProcessInfo>, NvmlError> {
    match answer {
        Err(
            NvmlError::NotSupported
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_),
        ) => Ok(vec![]),
        answer => answer,
    }
}

fn pids(processes: Vec<ProcessInfo>) -> Vec<u32> {
    processes.into_iter().map(|process| process.pid).collect()
}

//! Handles: numbers that callers keep. The same thing always has the same one.

use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a handle is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handle {
    /// A GPU, by the description's name for it.
    Gpu(String),
    /// A MIG device, by its UUID.
    Mig(String, String),
    /// A GPU instance, by its id.
    GpuInstance(String, u32),
    /// A compute instance, by the GPU instance's id and its own.
    ComputeInstance(String, u32, u32),
}

impl Handle {
    /// The GPU, by name.
    pub(crate) fn gpu(&self) -> &str {
        match self {
            Self::Gpu(gpu)
            | Self::Mig(gpu, _)
            | Self::GpuInstance(gpu, _)
            | Self::ComputeInstance(gpu, ..) => gpu,
        }
    }

    /// Its number, as the pointer that NVML makes of it.
    pub(crate) fn pointer<T>(self) -> *mut T {
        let mut handles = handles();
        let known = handles.iter().position(|handle| *handle == self);
        let place = known.unwrap_or_else(|| {
            handles.push(self);
            handles.len() - 1
        });
        ptr::without_provenance_mut((place + 1) << STEP)
    }

    /// What this is the handle of, if it is one.
    pub(crate) fn of<T>(pointer: *mut T) -> Option<Self> {
        let place = (pointer.addr() >> STEP).checked_sub(1)?;
        let handle = handles().get(place)?.clone();
        (pointer.addr() == (place + 1) << STEP).then_some(handle)
    }
}

/// Handles are this far apart, in bits, as pointers would be.
const STEP: usize = 4;

/// All that were ever given out: a GPU that was pulled out keeps its handle.
static HANDLES: Mutex<Vec<Handle>> = Mutex::new(Vec::new());

fn handles() -> MutexGuard<'static, Vec<Handle>> {
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

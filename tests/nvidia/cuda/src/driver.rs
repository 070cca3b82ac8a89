//! The driver of this process: what `cuInit` found.

use std::{
    cell::RefCell,
    env,
    ffi::c_int,
    process,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use divvy_nvidia_machine::{Description, Machine, memory::Ledger};

use crate::{
    code::{Done, INVALID_DEVICE, NO_DEVICE, NOT_INITIALIZED, SYSTEM_DRIVER_MISMATCH, UNKNOWN},
    devices::{self, Device},
    state::State,
};

pub(crate) struct Driver {
    /// Of the process that called `cuInit`: a forked child has no CUDA.
    pid: u32,
    pub(crate) machine: &'static Machine,
    pub(crate) ledger: Ledger,
    pub(crate) devices: Vec<Device>,
    state: Mutex<State>,
    /// The description that was current in the last call.
    seen: AtomicUsize,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

thread_local! {
    /// The contexts that are current to this thread, the last one first.
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The machine whose library this is.
pub(crate) fn machine() -> Option<&'static Machine> {
    static MACHINE: OnceLock<Option<Machine>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| {
        let here = machine as fn() -> Option<&'static Machine>;
        match Machine::of_library(here as *const ()) {
            Ok(machine) => Some(machine),
            Err(error) => {
                eprintln!("libcuda.so.1: {error}");
                None
            }
        }
    });
    machine.as_ref()
}

/// What `cuInit` found, if it was called.
pub(crate) fn get() -> Done<&'static Driver> {
    let driver = DRIVER.get().ok_or(NOT_INITIALIZED)?;
    match driver.pid == process::id() {
        true => Ok(driver),
        false => Err(NOT_INITIALIZED),
    }
}

/// The GPU, by name, of a call for that device, or for the current context's.
pub(crate) fn gpu_of_call(device: Option<c_int>) -> Option<&'static str> {
    let driver = get().ok()?;
    let device = match device {
        Some(device) => usize::try_from(device).ok()?,
        None => driver.state().contexts.get(&top()?)?.device,
    };
    Some(&driver.devices.get(device)?.gpu)
}

/// Finds the devices.
pub(crate) fn init() -> Done {
    if let Some(driver) = DRIVER.get() {
        return match driver.pid == process::id() {
            true => Ok(()),
            false => Err(NOT_INITIALIZED),
        };
    }
    let machine = machine().ok_or(NO_DEVICE)?;
    let description = machine.current();
    if !description.loaded || !machine.may_open("nvidiactl") {
        return Err(NO_DEVICE);
    }
    if description
        .kernel_driver
        .as_ref()
        .is_some_and(|version| *version != description.driver)
    {
        return Err(SYSTEM_DRIVER_MISMATCH);
    }
    if !machine.may_open("nvidia-uvm") {
        return Err(UNKNOWN);
    }
    let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
    let by_bus = env::var("CUDA_DEVICE_ORDER").is_ok_and(|order| order == "PCI_BUS_ID");
    let all = devices::all(machine, &description, by_bus);
    let devices = devices::chosen(all, visible.as_deref());
    if devices.is_empty() {
        return Err(NO_DEVICE);
    }
    let ledger = Ledger::open(machine.file()).map_err(|error| {
        eprintln!("libcuda.so.1: {error}");
        UNKNOWN
    })?;
    let state = Mutex::new(State::new(devices.len()));
    let seen = AtomicUsize::new(Arc::as_ptr(&description).addr());
    // Where two threads come here at once, both found the same.
    let _ = DRIVER.set(Driver {
        pid: process::id(),
        machine,
        ledger,
        devices,
        state,
        seen,
    });
    Ok(())
}

impl Driver {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the description says now.
    pub(crate) fn description(&self) -> Arc<Description> {
        let description = self.machine.current();
        let now = Arc::as_ptr(&description).addr();
        // It was read anew, and the file closed after that: see `divvy_nvidia_machine::memory`.
        if self.seen.swap(now, Ordering::Relaxed) != now {
            self.ledger.sign();
        }
        description
    }

    pub(crate) fn device(&self, number: c_int) -> Done<(usize, &Device)> {
        let number = usize::try_from(number).map_err(|_| INVALID_DEVICE)?;
        Ok((number, self.devices.get(number).ok_or(INVALID_DEVICE)?))
    }
}

/// The context that is current to this thread, if any.
pub(crate) fn top() -> Option<usize> {
    CURRENT.with_borrow(|current| current.last().copied())
}

/// Those current to this thread.
pub(crate) fn stack<T>(change: impl FnOnce(&mut Vec<usize>) -> T) -> T {
    CURRENT.with_borrow_mut(change)
}

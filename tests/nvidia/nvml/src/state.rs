//! Initialised or not, and what each call begins with.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use divvy_nvidia_machine::{
    Answer as Faulty, Description, Error, Gpu, GpuInstance, Instance, Machine, Node, Profile,
    capability,
};
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::handles::Handle;

/// Between two looks whether a call hangs still.
const HANG: Duration = Duration::from_millis(20);

/// How often NVML was initialised, less how often it was shut down, and the machine. It
/// stays when NVML is shut down: it counts the process's calls.
struct State {
    users: usize,
    machine: Option<Arc<Machine>>,
}

static STATE: Mutex<State> = Mutex::new(State {
    users: 0,
    machine: None,
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call.
pub(crate) struct Call {
    name: &'static str,
    pub(crate) machine: Arc<Machine>,
    /// As it is for the whole of the call.
    pub(crate) description: Arc<Description>,
    /// The GPU that it turned out to be about.
    subject: RefCell<Option<String>>,
}

/// Answers a call; NVML is to be initialised.
pub(crate) fn answer(name: &'static str, body: impl FnOnce(&Call) -> Answer) -> nvmlReturn_t {
    caught(|| {
        let machine = match &*state() {
            State { users: 0, .. } | State { machine: None, .. } => return Err(UNINITIALIZED),
            State {
                machine: Some(machine),
                ..
            } => Arc::clone(machine),
        };
        let call = Call::new(name, machine)?;
        body(&call)?;
        call.fault_after()
    })
}

impl Call {
    fn new(name: &'static str, machine: Arc<Machine>) -> Answer<Self> {
        let description = machine.current();
        if description.lacks.iter().any(|lacked| lacked == name) {
            return Err(FUNCTION_NOT_FOUND);
        }
        Ok(Self {
            name,
            machine,
            description,
            subject: RefCell::default(),
        })
    }

    /// What the description's faults do to this call about this GPU.
    pub(crate) fn fault(&self, gpu: Option<&str>) -> Answer {
        self.subject.replace(gpu.map(str::to_owned));
        let fault = self.machine.fault(self.name, gpu);
        // As a driver that hangs until the GPU is reset: until nobody says so any more.
        if fault == Some(Faulty::Hang) {
            while self.machine.hangs(self.name, gpu) {
                thread::sleep(HANG);
            }
            return Ok(());
        }
        give(fault)
    }

    /// What they do to it when it is done.
    fn fault_after(&self) -> Answer {
        let gpu = self.subject.borrow();
        give(self.machine.fault_after(self.name, gpu.as_deref()))
    }

    /// Is the driver of this version, or later?
    pub(crate) fn since(&self, major: u32) -> bool {
        let version = self.description.driver.split('.').next();
        let version = version.and_then(|version| version.parse().ok());
        version.is_some_and(|version: u32| version >= major)
    }

    /// What a handle is of, with the faults of its GPU.
    pub(crate) fn about<H: Subject>(&self, handle: H) -> Answer<H::Found<'_>> {
        let handle = handle.handle();
        self.fault(handle.as_ref().map(Handle::gpu))?;
        let handle = handle.ok_or(INVALID_ARGUMENT)?;
        let (name, gpu) = self.gpu(handle.gpu())?;
        H::found(self, &handle, name, gpu).ok_or(INVALID_ARGUMENT)
    }

    /// Another GPU that a call is about.
    pub(crate) fn other(&self, handle: Out<nvmlDevice_st>) -> Answer<Device<'_>> {
        let handle = handle.pointer().handle().ok_or(INVALID_ARGUMENT)?;
        let (name, gpu) = self.gpu(handle.gpu())?;
        <*mut nvmlDevice_st>::found(self, &handle, name, gpu).ok_or(INVALID_ARGUMENT)
    }

    fn gpu(&self, name: &str) -> Answer<(&str, &Gpu)> {
        let gpu = self.description.gpu.get_key_value(name);
        let (name, gpu) = gpu.ok_or(GPU_IS_LOST)?;
        match gpu.present && !gpu.lost {
            true => Ok((name, gpu)),
            false => Err(GPU_IS_LOST),
        }
    }

    /// A GPU's MIG devices that this program may use, with their numbers.
    pub(crate) fn migs<'a>(&self, gpu: &'a Gpu) -> Vec<(u32, &'a Instance)> {
        let may = |gi, ci| {
            let minor = capability(gpu.minor, gi, ci);
            self.machine
                .may_open(&format!("nvidia-caps/nvidia-cap{minor}"))
        };
        let usable =
            |instance: &&Instance| may(instance.gi, None) && may(instance.gi, Some(instance.ci));
        let instances = gpu.instance.iter().filter(usable).enumerate();
        let numbered = instances.map(|(place, instance)| {
            let number = instance.number.unwrap_or(number(place));
            (number, instance)
        });
        numbered.collect()
    }
}

fn give(fault: Option<Faulty>) -> Answer {
    match fault.map(|answer| answer.give()) {
        Some(code) if code != nvmlReturn_enum_NVML_SUCCESS => Err(code),
        _ => Ok(()),
    }
}

/// What handles are of.
pub(crate) trait Subject {
    /// As the description has it.
    type Found<'a>;

    /// The handle.
    fn handle(self) -> Option<Handle>;

    /// `None`: it is gone, or a handle of something else.
    fn found<'a>(
        call: &'a Call,
        handle: &Handle,
        name: &'a str,
        gpu: &'a Gpu,
    ) -> Option<Self::Found<'a>>;
}

impl Subject for *mut nvmlDevice_st {
    type Found<'a> = Device<'a>;

    fn handle(self) -> Option<Handle> {
        Handle::of(self)
    }

    fn found<'a>(
        call: &'a Call,
        handle: &Handle,
        name: &'a str,
        gpu: &'a Gpu,
    ) -> Option<Device<'a>> {
        let instance = match handle {
            Handle::Gpu(_) => None,
            Handle::Mig(_, uuid) => Some(gpu.instance.iter().find(|i| i.uuid == *uuid)?),
            _ => return None,
        };
        Some(Device {
            call,
            name,
            gpu,
            instance,
        })
    }
}

impl Subject for *mut nvmlGpuInstance_st {
    type Found<'a> = Whole<'a>;

    fn handle(self) -> Option<Handle> {
        Handle::of(self)
    }

    fn found<'a>(
        call: &'a Call,
        handle: &Handle,
        name: &'a str,
        gpu: &'a Gpu,
    ) -> Option<Whole<'a>> {
        let Handle::GpuInstance(_, gi) = handle else {
            return None;
        };
        let instance = gpu.gpu_instance(*gi)?;
        Some(Whole {
            call,
            name,
            gpu,
            profile: gpu.profile.get(&instance.profile)?,
            instance,
        })
    }
}

impl Subject for *mut nvmlComputeInstance_st {
    type Found<'a> = Part<'a>;

    fn handle(self) -> Option<Handle> {
        Handle::of(self)
    }

    fn found<'a>(call: &'a Call, handle: &Handle, name: &'a str, gpu: &'a Gpu) -> Option<Part<'a>> {
        let Handle::ComputeInstance(_, gi, ci) = handle else {
            return None;
        };
        let instance = gpu.instance.iter().find(|i| (i.gi, i.ci) == (*gi, *ci))?;
        Part::new(call, name, gpu, instance)
    }
}

/// A device as NVML has it: a GPU or a MIG device of one.
pub(crate) struct Device<'a> {
    pub(crate) call: &'a Call,
    /// The GPU's name.
    pub(crate) name: &'a str,
    pub(crate) gpu: &'a Gpu,
    /// The MIG device.
    pub(crate) instance: Option<&'a Instance>,
}

impl<'a> Device<'a> {
    /// The GPU, for what MIG devices do not have.
    pub(crate) fn whole(&self) -> Answer<&'a Gpu> {
        match self.instance {
            None => Ok(self.gpu),
            Some(_) => Err(NOT_SUPPORTED),
        }
    }

    /// The GPU, for what it does not have in MIG mode either.
    pub(crate) fn undivided(&self) -> Answer<&'a Gpu> {
        match self.gpu.mig {
            Some(true) => Err(NOT_SUPPORTED),
            _ => self.whole(),
        }
    }

    /// The MIG device and its GPU instance's profile.
    pub(crate) fn part(&self) -> Option<Part<'a>> {
        Part::new(self.call, self.name, self.gpu, self.instance?)
    }
}

/// A GPU instance, with its profile.
pub(crate) struct Whole<'a> {
    pub(crate) call: &'a Call,
    /// The GPU's name.
    pub(crate) name: &'a str,
    pub(crate) gpu: &'a Gpu,
    pub(crate) instance: GpuInstance,
    pub(crate) profile: &'a Profile,
}

/// A MIG device, with its GPU instance's profile.
pub(crate) struct Part<'a> {
    pub(crate) call: &'a Call,
    /// The GPU's name.
    pub(crate) name: &'a str,
    pub(crate) gpu: &'a Gpu,
    pub(crate) instance: &'a Instance,
    pub(crate) profile: &'a Profile,
}

impl<'a> Part<'a> {
    fn new(call: &'a Call, name: &'a str, gpu: &'a Gpu, instance: &'a Instance) -> Option<Self> {
        let profile = gpu.profile.get(&instance.profile)?;
        Some(Self {
            call,
            name,
            gpu,
            instance,
            profile,
        })
    }

    /// Its compute slices.
    pub(crate) fn slices(&self) -> u32 {
        self.instance.taken(self.profile)
    }

    /// Its multiprocessors.
    pub(crate) fn sms(&self) -> u32 {
        sms(self.profile, self.slices())
    }
}

/// The multiprocessors of so many of a GPU instance's compute slices.
pub(crate) fn sms(profile: &Profile, slices: u32) -> u32 {
    profile.sms * slices / profile.compute.max(1)
}

// === init and shutdown ===

fn initialise(name: &'static str) -> nvmlReturn_t {
    caught(|| {
        let known = state().machine.clone();
        let machine = match known {
            Some(machine) => machine,
            None => {
                // Ours alone: a name that is exported could be another library's.
                let here = initialise as *const ();
                let machine = Machine::of_library(here).map_err(|error| {
                    eprintln!("NVML's stand-in: {error}");
                    match error {
                        // Somebody's mistake, and no missing driver.
                        Error::Description(..) => UNKNOWN,
                        _ => DRIVER_NOT_LOADED,
                    }
                })?;
                Arc::clone(state().machine.get_or_insert(Arc::new(machine)))
            }
        };
        let call = Call::new(name, Arc::clone(&machine))?;
        call.fault(None)?;
        let description = &call.description;
        if !description.loaded {
            return Err(DRIVER_NOT_LOADED);
        }
        let kernel = description.kernel_driver.as_ref();
        if kernel.is_some_and(|kernel| *kernel != description.driver) {
            return Err(VERSION_MISMATCH);
        }
        match machine.node("nvidiactl") {
            Node::Granted => {}
            Node::Absent => return Err(DRIVER_NOT_LOADED),
            Node::Denied => return Err(NO_PERMISSION),
        }
        state().users += 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    initialise("nvmlInit_v2")
}
agrees!(nvmlInit_v2);

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlInit() -> nvmlReturn_t {
    initialise("nvmlInit")
}
agrees!(nvmlInit);

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlInitWithFlags(_flags: std::ffi::c_uint) -> nvmlReturn_t {
    initialise("nvmlInitWithFlags")
}
agrees!(nvmlInitWithFlags);

exports! {
    system nvmlShutdown(_call) {
        let mut state = state();
        state.users = state.users.saturating_sub(1);
        Ok(())
    }
}

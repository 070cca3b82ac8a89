//! MIG is switched, and instances are made and unmade.
#![allow(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::collections::BTreeSet;
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::ptr;

use common::{Staged, description, staged, staged_as};
use divvy_nvidia_machine::memory::{Ledger, Place};
use divvy_nvidia_machine::{Answer, Fault, Machine, Process, capability};
use nvml_wrapper::Nvml;
use nvml_wrapper_sys::bindings::*;

const OK: nvmlReturn_t = nvmlReturn_enum_NVML_SUCCESS;
const INVALID: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const NOT_SUPPORTED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
const NO_PERMISSION: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NO_PERMISSION;
const IN_USE: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_IN_USE;
const FULL: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES;

/// Profiles of an H100 (and of an A100), by the driver's ids.
const ONE: u32 = 19;
const ONE_MEDIA: u32 = 20;
const THREE: u32 = 9;
const SEVEN: u32 = 0;

/// A raw call by its name.
macro_rules! raw {
    ($nvml:expr, $name:ident ( $($arg:expr),* $(,)? )) => {
        // SAFETY: handles are of this library, and every answer has a place.
        unsafe { ($nvml.lib().$name.as_ref().unwrap())($($arg),*) }
    };
}

/// A GPU, asked by raw calls.
struct Gpu<'a>(&'a Nvml, nvmlDevice_t);

impl<'a> Gpu<'a> {
    fn at(nvml: &'a Nvml, index: u32) -> Self {
        // SAFETY: it is used for calls of the same library.
        let handle = unsafe { nvml.device_by_index(index).unwrap().handle() };
        Self(nvml, handle)
    }

    /// What the call answers, and what became of it.
    fn switch(&self, mode: u32) -> (nvmlReturn_t, nvmlReturn_t) {
        let mut status = 99;
        let code = raw!(self.0, nvmlDeviceSetMigMode(self.1, mode, &mut status));
        (code, status)
    }

    /// Now, and after a reset.
    fn mode(&self) -> (u32, u32) {
        let (mut now, mut pending) = (9, 9);
        let code = raw!(self.0, nvmlDeviceGetMigMode(self.1, &mut now, &mut pending));
        assert_eq!(code, OK);
        (now, pending)
    }

    fn make(&self, profile: u32) -> Result<nvmlGpuInstance_t, nvmlReturn_t> {
        let mut made = ptr::null_mut();
        let to = &mut made;
        match raw!(self.0, nvmlDeviceCreateGpuInstance(self.1, profile, to)) {
            OK => Ok(made),
            code => Err(code),
        }
    }

    fn make_at(
        &self,
        profile: u32,
        start: u32,
        size: u32,
    ) -> Result<nvmlGpuInstance_t, nvmlReturn_t> {
        let at = nvmlGpuInstancePlacement_t { start, size };
        let mut made = ptr::null_mut();
        let to = &mut made;
        match raw!(
            self.0,
            nvmlDeviceCreateGpuInstanceWithPlacement(self.1, profile, &at, to)
        ) {
            OK => Ok(made),
            code => Err(code),
        }
    }

    fn unmake(&self, instance: nvmlGpuInstance_t) -> nvmlReturn_t {
        raw!(self.0, nvmlGpuInstanceDestroy(instance))
    }

    fn make_compute(
        &self,
        instance: nvmlGpuInstance_t,
        kind: u32,
    ) -> Result<nvmlComputeInstance_t, nvmlReturn_t> {
        let mut made = ptr::null_mut();
        let to = &mut made;
        match raw!(
            self.0,
            nvmlGpuInstanceCreateComputeInstance(instance, kind, to)
        ) {
            OK => Ok(made),
            code => Err(code),
        }
    }

    fn unmake_compute(&self, instance: nvmlComputeInstance_t) -> nvmlReturn_t {
        raw!(self.0, nvmlComputeInstanceDestroy(instance))
    }

    /// Its id, its profile's, and where it begins.
    fn info(&self, instance: nvmlGpuInstance_t) -> (u32, u32, u32) {
        // SAFETY: numbers and handles.
        let mut info: nvmlGpuInstanceInfo_t = unsafe { std::mem::zeroed() };
        assert_eq!(
            raw!(self.0, nvmlGpuInstanceGetInfo(instance, &mut info)),
            OK
        );
        (info.id, info.profileId, info.placement.start)
    }

    fn room(&self, profile: u32) -> u32 {
        let mut room = 99;
        let to = &mut room;
        let code = raw!(
            self.0,
            nvmlDeviceGetGpuInstanceRemainingCapacity(self.1, profile, to)
        );
        assert_eq!(code, OK);
        room
    }

    fn uuids(&self) -> Vec<String> {
        // SAFETY: the handle is of this library.
        let gpu = unsafe { nvml_wrapper::Device::new(self.1, self.0) };
        let migs = (0..7).filter_map(|index| gpu.mig_device_by_index(index).ok()?.uuid().ok());
        migs.collect()
    }
}

/// An H100 in MIG mode, with no instances.
fn empty() -> Staged {
    let mut machine = description("h100x8");
    machine.gpu.retain(|name, _| name == "g0");
    machine.gpu.get_mut("g0").unwrap().mig = Some(true);
    staged_as(&machine)
}

fn reserve(staged: &Staged, gpu: &str, gi: Option<u32>) -> (Ledger, Place) {
    let ledger = Ledger::open(staged.machine.file()).unwrap();
    let place = Place::of(&staged.machine.current(), gpu, gi).unwrap();
    ledger.reserve(place, 1 << 20, u64::MAX >> 1).unwrap();
    (ledger, place)
}

#[test]
fn before_hopper_a_mode_waits_until_nothing_uses_the_gpu() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let gpu = Gpu::at(&nvml, 1);
    staged.gpu("whole", |gpu| gpu.used_by_client = true);
    assert_eq!(gpu.switch(1), (OK, IN_USE));
    assert_eq!(gpu.mode(), (0, 1));
    // What it has already takes the wish back.
    assert_eq!(gpu.switch(0), (OK, OK));
    assert_eq!(gpu.mode(), (0, 0));
    staged.gpu("whole", |gpu| {
        gpu.used_by_client = false;
        gpu.process.push(Process {
            pid: 7,
            memory_mib: None,
            graphics: true,
        });
    });
    assert_eq!(gpu.switch(1), (OK, IN_USE));
    staged.gpu("whole", |gpu| gpu.process.clear());
    let (ledger, place) = reserve(&staged, "whole", None);
    assert_eq!(gpu.switch(1), (OK, IN_USE));
    assert_eq!(gpu.mode(), (0, 1));
    ledger.release(place, 1 << 20).unwrap();
    assert_eq!(gpu.switch(1), (OK, OK));
    assert_eq!(gpu.mode(), (1, 1));
    assert_eq!(gpu.switch(2).0, INVALID);
    // The other has instances.
    let divided = Gpu::at(&nvml, 0);
    assert_eq!(divided.switch(0), (IN_USE, IN_USE));
    assert_eq!(divided.mode(), (1, 1));
    assert_eq!(divided.switch(1), (OK, OK));
}

#[test]
fn from_hopper_on_a_mode_is_there_at_once_or_refused() {
    let staged = staged("h100x8");
    let nvml = staged.open();
    let gpu = Gpu::at(&nvml, 2);
    let (ledger, place) = reserve(&staged, "g2", None);
    assert_eq!(gpu.switch(1), (IN_USE, IN_USE));
    assert_eq!(gpu.mode(), (0, 0));
    ledger.release(place, 1 << 20).unwrap();
    assert_eq!(gpu.make(SEVEN), Err(NOT_SUPPORTED));
    assert_eq!(gpu.switch(1), (OK, OK));
    assert_eq!(gpu.mode(), (1, 1));
    let instance = gpu.make(SEVEN).unwrap();
    assert_eq!(gpu.switch(0), (IN_USE, IN_USE));
    assert_eq!(gpu.unmake(instance), OK);
    assert_eq!(gpu.switch(0), (OK, OK));
    let null = ptr::null_mut();
    assert_eq!(raw!(nvml, nvmlDeviceSetMigMode(gpu.1, 1, null)), INVALID);
    assert_eq!(gpu.mode(), (0, 0));
}

#[test]
fn gpu_instances_come_and_go_with_their_files() {
    let staged = empty();
    let nvml = staged.open();
    let gpu = Gpu::at(&nvml, 0);
    let first = gpu.make(THREE).unwrap();
    assert_eq!(gpu.info(first), (1, THREE, 0));
    let second = gpu.make_at(ONE, 5, 1).unwrap();
    assert_eq!(gpu.info(second), (2, ONE, 5));
    let root = staged.folder.path().join("root");
    let file = |at: &str| {
        root.join(format!(
            "proc/driver/nvidia/capabilities/gpu0/mig/{at}/access"
        ))
    };
    let node = |number| root.join(format!("dev/nvidia-caps/nvidia-cap{number}"));
    let nodes = node(1).exists();
    assert!(file("gi1").exists() && file("gi2").exists() && !file("gi1/ci0").exists());
    assert_eq!(node(capability(0, 2, None)).exists(), nodes);
    // They are no MIG devices yet.
    assert_eq!(gpu.uuids(), [""; 0]);
    let mut found = ptr::null_mut();
    let code = raw!(nvml, nvmlDeviceGetGpuInstanceById(gpu.1, 2, &mut found));
    assert_eq!((code, found), (OK, second));
    let (mut all, mut count) = ([ptr::null_mut(); 7], 0);
    let to = all.as_mut_ptr();
    let code = raw!(
        nvml,
        nvmlDeviceGetGpuInstances(gpu.1, THREE, to, &mut count)
    );
    assert_eq!((code, count, all[0]), (OK, 1, first));
    // 4 and 6 are free.
    assert_eq!((gpu.room(ONE), gpu.room(THREE)), (2, 0));
    assert_eq!(gpu.make(THREE), Err(FULL));
    assert_eq!(gpu.make_at(ONE, 5, 1), Err(FULL));
    assert_eq!(gpu.make_at(ONE, 7, 1), Err(INVALID));
    assert_eq!(gpu.make_at(ONE, 6, 2), Err(INVALID));
    assert_eq!(gpu.make(77), Err(INVALID));
    gpu.make(ONE_MEDIA).unwrap();
    assert_eq!(gpu.make(ONE_MEDIA), Err(FULL));
    assert_eq!(gpu.unmake(first), OK);
    assert!(!file("gi1").exists() && !node(capability(0, 1, None)).exists());
    assert_eq!(gpu.unmake(first), INVALID);
    assert_eq!(gpu.info(gpu.make(THREE).unwrap()), (1, THREE, 0));
}

#[test]
fn compute_instances_are_devices() {
    let staged = empty();
    let nvml = staged.open();
    let gpu = Gpu::at(&nvml, 0);
    let instance = gpu.make(THREE).unwrap();
    let two = gpu
        .make_compute(instance, NVML_COMPUTE_INSTANCE_PROFILE_2_SLICE)
        .unwrap();
    let small = NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE;
    let one = gpu.make_compute(instance, small).unwrap();
    assert_eq!(gpu.make_compute(instance, small), Err(FULL));
    let wrong = NVML_COMPUTE_INSTANCE_PROFILE_4_SLICE;
    assert_eq!(gpu.make_compute(instance, wrong), Err(INVALID));
    let uuids = gpu.uuids();
    assert_eq!(uuids.len(), 2);
    let device = nvml.device_by_uuid(uuids[0].as_str()).unwrap();
    assert_eq!(
        device.name().unwrap(),
        "NVIDIA H100 80GB HBM3 MIG 2c.3g.40gb"
    );
    let (mut all, mut count) = ([ptr::null_mut(); 7], 0);
    let to = all.as_mut_ptr();
    let code = raw!(
        nvml,
        nvmlGpuInstanceGetComputeInstances(instance, small, to, &mut count)
    );
    assert_eq!((code, count, all[0]), (OK, 1, one));
    let access = "root/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci1/access";
    let access = staged.folder.path().join(access);
    assert!(access.exists());
    assert_eq!(gpu.unmake(instance), IN_USE);
    assert_eq!(gpu.unmake_compute(one), OK);
    assert!(!access.exists());
    assert_eq!(gpu.unmake_compute(one), INVALID);
    // The others stay, and the same again is another device.
    assert_eq!(gpu.uuids(), uuids[..1]);
    gpu.make_compute(instance, small).unwrap();
    let again = gpu.uuids();
    assert_eq!(again[0], uuids[0]);
    assert_ne!(again[1], uuids[1]);
    // A process in it.
    let (ledger, place) = reserve(&staged, "g0", Some(1));
    assert_eq!(gpu.unmake_compute(two), IN_USE);
    ledger.release(place, 1 << 20).unwrap();
    assert_eq!(gpu.unmake_compute(two), OK);
    assert_eq!(gpu.unmake_compute(one), OK);
    assert_eq!(gpu.unmake(instance), OK);
    assert_eq!(gpu.room(SEVEN), 1);
}

#[test]
fn without_the_capability_nothing_is_changed() {
    let staged = empty();
    staged
        .machine
        .change(|machine| {
            machine
                .missing
                .push("dev/nvidia-caps/nvidia-cap1".to_owned());
        })
        .unwrap();
    let nvml = staged.open();
    let gpu = Gpu::at(&nvml, 0);
    assert_eq!(gpu.make(ONE), Err(NO_PERMISSION));
    assert_eq!(gpu.switch(0).0, NO_PERMISSION);
}

// === faults, and other processes ===

/// The machine's folder, for a child of these tests, and what it is to do.
const FOLDER: &str = "NVML_DIVIDE_FOLDER";
const TASK: &str = "NVML_DIVIDE_TASK";

/// Not a test: what a child of the tests does.
#[test]
fn child() {
    let (Some(folder), Ok(task)) = (env::var_os(FOLDER), env::var(TASK)) else {
        return;
    };
    let machine = Machine::at(folder.as_ref()).unwrap();
    let library = machine.file().with_file_name("libnvidia-ml.so.1");
    let nvml = Nvml::builder()
        .lib_path(library.as_os_str())
        .init()
        .unwrap();
    let gpu = Gpu::at(&nvml, 0);
    match task.as_str() {
        "one" => drop(gpu.make(ONE)),
        "many" => {
            // As many as there is room for, each with a compute instance.
            while let Ok(instance) = gpu.make(ONE) {
                gpu.make_compute(instance, 0).unwrap();
            }
        }
        _ => panic!("{task}"),
    }
}

fn spawn(staged: &Staged, task: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child"])
        .env(FOLDER, staged.folder.path())
        .env(TASK, task)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn processes_divide_a_gpu_one_after_another() {
    let staged = empty();
    let mut children: Vec<Child> = (0..4).map(|_| spawn(&staged, "many")).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let gpu = &staged.machine.current().gpu["g0"];
    let of = |is: fn(&divvy_nvidia_machine::Instance) -> String| -> BTreeSet<String> {
        gpu.instance.iter().map(is).collect()
    };
    assert_eq!(gpu.instance.len(), 7);
    assert_eq!(of(|instance| instance.uuid.clone()).len(), 7);
    assert_eq!(of(|instance| instance.gi.to_string()).len(), 7);
    assert_eq!(of(|instance| instance.start.to_string()).len(), 7);
    assert!(gpu.gpu_instance.is_empty());
}

fn fault(staged: &Staged, call: &str, after: bool, answer: Answer) {
    let fault = Fault {
        call: call.into(),
        nth: Some(1),
        gpu: Some("g0".into()),
        after,
        answer,
    };
    staged
        .machine
        .change(|machine| machine.fault = vec![fault])
        .unwrap();
}

#[test]
fn faults_come_before_or_after_the_change() {
    let staged = empty();
    let nvml = staged.open();
    let gpu = Gpu::at(&nvml, 0);
    let made = || staged.machine.current().gpu["g0"].gpu_instances().len();
    let call = "nvmlDeviceCreateGpuInstance";
    fault(&staged, call, false, Answer::Code(999));
    assert_eq!(gpu.make(ONE), Err(999));
    assert_eq!(made(), 0);
    gpu.make(ONE).unwrap();
    fault(&staged, call, true, Answer::Code(999));
    // Refused: nothing was done that it could come after.
    assert_eq!(gpu.make(77), Err(INVALID));
    assert_eq!(gpu.make(ONE), Err(999));
    assert_eq!(made(), 2);
    for (after, more) in [(false, 0), (true, 1)] {
        let before = made();
        fault(&staged, call, after, Answer::Crash);
        let status = spawn(&staged, "one").wait().unwrap();
        assert_eq!(status.signal(), Some(11), "{status}");
        assert_eq!(made(), before + more);
    }
    // Nobody holds the machine.
    staged
        .machine
        .change(|machine| machine.fault.clear())
        .unwrap();
    gpu.make(ONE).unwrap();
    // By handles of what is on a GPU, too.
    let mut instance = ptr::null_mut();
    let to = &mut instance;
    assert_eq!(raw!(nvml, nvmlDeviceGetGpuInstanceById(gpu.1, 1, to)), OK);
    fault(&staged, "nvmlGpuInstanceDestroy", false, Answer::Code(19));
    assert_eq!(gpu.unmake(instance), IN_USE);
    assert_eq!(gpu.unmake(instance), OK);
}

//! The machine changes while a client has it open.
#![allow(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::thread;
use std::time::Duration;

use common::{description, staged, staged_as};
use divvy_nvidia_machine::Xid;
use divvy_nvidia_machine::memory::{Ledger, Place};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::{nvmlEventData_t, nvmlEventTypeXidCriticalError};

#[test]
fn handles_stay_with_their_gpus_when_the_order_changes() {
    let staged = staged("rtx4090x2");
    let nvml = staged.open();
    let first = nvml.device_by_index(0).unwrap();
    let uuid = first.uuid().unwrap();
    staged
        .machine
        .change(|machine| machine.order = vec!["other".into()])
        .unwrap();
    assert_ne!(nvml.device_by_index(0).unwrap().uuid().unwrap(), uuid);
    assert_eq!(first.uuid().unwrap(), uuid);
    assert_eq!(first.index().unwrap(), 1);
    assert_eq!(
        nvml.device_by_uuid(uuid.as_str()).unwrap().index().unwrap(),
        1
    );
}

#[test]
fn a_lost_gpu_is_counted_and_the_others_stay() {
    let staged = staged("h100x8");
    let nvml = staged.open();
    let lost = nvml.device_by_index(3).unwrap();
    let other = nvml.device_by_index(4).unwrap();
    staged.gpu("g3", |gpu| gpu.lost = true);
    assert_eq!(nvml.device_count().unwrap(), 8);
    let gone = |error| matches!(error, NvmlError::GpuLost);
    assert!(nvml.device_by_index(3).is_err_and(gone));
    assert!(lost.uuid().is_err_and(gone));
    assert!(lost.memory_info().is_err_and(gone));
    assert!(lost.mig_mode().is_err_and(gone));
    assert!(
        lost.topology_common_ancestor(nvml.device_by_index(4).unwrap())
            .is_err_and(gone)
    );
    assert_eq!(other.index().unwrap(), 4);
    staged.gpu("g3", |gpu| gpu.lost = false);
    assert_eq!(lost.index().unwrap(), 3);
}

#[test]
fn a_gpu_is_pulled_out_and_another_put_in() {
    let staged = staged("rtx4090x2");
    let nvml = staged.open();
    let first = nvml.device_by_index(0).unwrap();
    staged.gpu("desktop", |gpu| gpu.present = false);
    assert_eq!(nvml.device_count().unwrap(), 1);
    assert!(matches!(first.name(), Err(NvmlError::GpuLost)));
    staged.gpu("desktop", |gpu| gpu.present = true);
    assert_eq!(nvml.device_count().unwrap(), 2);
    first.name().unwrap();
}

#[test]
fn xids_are_events() {
    let staged = staged("h100x8");
    staged.gpu("g1", |gpu| gpu.xid = vec![13.into()]);
    let nvml = staged.open();
    let mut set = nvml.create_event_set().unwrap();
    for index in 0..8 {
        let device = nvml.device_by_index(index).unwrap();
        assert!(
            device
                .supported_event_types()
                .unwrap()
                .contains(EventTypes::CRITICAL_XID_ERROR)
        );
        set = device
            .register_events(EventTypes::CRITICAL_XID_ERROR, set)
            .unwrap();
    }
    // What was before is none.
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    thread::scope(|threads| {
        threads.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            staged.gpu("g1", |gpu| gpu.xid.extend([48, 63].map(Xid::of)));
        });
        for xid in [48, 63] {
            let event = set.wait(5000).unwrap();
            assert_eq!(event.device.index().unwrap(), 1);
            assert_eq!(event.event_type, EventTypes::CRITICAL_XID_ERROR);
            let got = format!("{:?}", event.event_data);
            assert!(got.contains(&xid.to_string()), "{got}");
        }
    });
    assert!(matches!(set.wait(20), Err(NvmlError::Timeout)));
    staged.gpu("g2", |gpu| gpu.lost = true);
    let event = set.wait(5000).unwrap();
    let got = format!("{:?}", event.event_data);
    assert!(got.contains("79"), "{got}");
    // The others' still come.
    staged.gpu("g5", |gpu| gpu.xid.push(Xid::of(94)));
    assert_eq!(set.wait(5000).unwrap().device.index().unwrap(), 5);
    set.release_events().unwrap();
}

#[test]
fn events_say_which_instance_and_that_memory_is_bad() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    let both = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    let set = nvml.create_event_set().unwrap();
    let set = device.register_events(both, set).unwrap();
    // Nobody waits for those of this one.
    let other = nvml.device_by_index(1).unwrap();
    let set = other
        .register_events(EventTypes::PSTATE_CHANGE, set)
        .unwrap();
    staged.gpu("whole", |gpu| {
        gpu.ecc_errors += 1;
        gpu.xid.push(Xid::of(48));
    });
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    staged.gpu("divided", |gpu| {
        gpu.ecc_errors += 2;
        gpu.xid.push(Xid {
            gi: Some(2),
            ci: Some(1),
            ..Xid::of(94)
        });
        gpu.xid.push(Xid {
            gi: Some(3),
            ..Xid::of(95)
        });
    });
    let wait = nvml.lib().nvmlEventSetWait_v2.as_ref().unwrap();
    for of in [(2, 1), (3, u32::MAX)] {
        // SAFETY: numbers and a handle.
        let mut event: nvmlEventData_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is of this library, and the answer has a place.
        assert_eq!(unsafe { wait(set.handle(), &mut event, 0) }, 0);
        assert_eq!(event.eventType, u64::from(nvmlEventTypeXidCriticalError));
        assert_eq!((event.gpuInstanceId, event.computeInstanceId), of);
    }
    let event = set.wait(0).unwrap();
    assert_eq!(event.event_type, EventTypes::DOUBLE_BIT_ECC_ERROR);
    assert_eq!(event.device.index().unwrap(), 0);
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    // A list that begins anew is one.
    staged.gpu("divided", |gpu| gpu.xid.clear());
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    staged.gpu("divided", |gpu| gpu.xid.push(Xid::of(31)));
    assert!(set.wait(0).is_ok());
    // Lost twice.
    for _ in 0..2 {
        staged.gpu("divided", |gpu| gpu.lost = true);
        assert!(set.wait(0).is_ok());
        staged.gpu("divided", |gpu| gpu.lost = false);
        assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    }
    set.release_events().unwrap();
}

#[test]
fn readings_move() {
    let staged = staged("t4");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    staged.gpu("t4", |gpu| {
        gpu.utilization = Some([97, 41]);
        gpu.power_mw = Some([69_120, 70_000]);
        gpu.used_mib = 1000;
        gpu.ecc_errors = 3;
    });
    assert_eq!(device.utilization_rates().unwrap().gpu, 97);
    assert_eq!(device.power_usage().unwrap(), 69_120);
    assert_eq!(device.memory_info().unwrap().used >> 20, 1000);
    staged.gpu("t4", |gpu| gpu.memory_mib = None);
    let none = device.memory_info();
    assert!(matches!(none, Err(NvmlError::NotSupported)), "{none:?}");
}

#[test]
fn what_a_process_allocates_is_used() {
    let staged = staged("a100-mig");
    let nvml = staged.open();
    let ledger = Ledger::open(staged.machine.file()).unwrap();
    let description = staged.machine.current();
    let reserve = |gpu, gi, bytes| {
        let place = Place::of(&description, gpu, gi).unwrap();
        ledger.reserve(place, bytes, u64::MAX >> 1).unwrap();
    };
    let whole = nvml.device_by_index(1).unwrap();
    let divided = nvml.device_by_index(0).unwrap();
    let before = divided.memory_info().unwrap().used;
    reserve("whole", None, 5 << 30);
    reserve("divided", Some(3), 1 << 30);
    assert_eq!(whole.memory_info().unwrap().used, 5 << 30);
    let process = &whole.running_compute_processes().unwrap()[0];
    assert_eq!(process.pid, std::process::id());
    assert_eq!(process.used_gpu_memory, UsedGpuMemory::Used(5 << 30));
    assert_eq!(process.gpu_instance_id, None);
    assert_eq!(divided.memory_info().unwrap().used, before + (1 << 30));
    let process = &divided.running_compute_processes().unwrap()[0];
    assert_eq!(
        (process.gpu_instance_id, process.compute_instance_id),
        (Some(3), Some(0))
    );
    let mig = divided.mig_device_by_index(2).unwrap();
    assert_eq!(mig.memory_info().unwrap().used, (1 << 30) + (25 << 20));
    assert_eq!(mig.running_compute_processes().unwrap().len(), 1);
}

#[test]
fn a_driver_may_not_answer_at_all() {
    let mut machine = description("t4");
    machine.loaded = false;
    let staged = staged_as(&machine);
    assert!(matches!(staged.try_open(), Err(NvmlError::DriverNotLoaded)));
    staged
        .machine
        .change(|machine| machine.loaded = true)
        .unwrap();
    assert_eq!(staged.open().device_count().unwrap(), 1);
    staged
        .machine
        .change(|machine| machine.kernel_driver = Some("595.80".into()))
        .unwrap();
    assert!(matches!(
        staged.try_open(),
        Err(NvmlError::LibRmVersionMismatch)
    ));
    staged
        .machine
        .change(|machine| {
            machine.kernel_driver = None;
            machine.missing = vec!["dev/nvidiactl".into()];
        })
        .unwrap();
    assert!(matches!(staged.try_open(), Err(NvmlError::DriverNotLoaded)));
}

#[test]
fn no_gpus_are_a_machine_too() {
    let mut machine = description("t4");
    machine.gpu.clear();
    let staged = staged_as(&machine);
    let nvml = staged.open();
    assert_eq!(nvml.device_count().unwrap(), 0);
    assert!(matches!(
        nvml.device_by_index(0),
        Err(NvmlError::InvalidArg)
    ));
    assert!(matches!(
        nvml.device_by_uuid("GPU-x"),
        Err(NvmlError::NotFound)
    ));
}

#[test]
fn libraries_that_were_mounted_elsewhere_look_for_nodes_in_dev() {
    let staged = staged("t4");
    let elsewhere = tempfile::tempdir().unwrap();
    let from = staged.machine.file().parent().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), elsewhere.path().join(entry.file_name())).unwrap();
    }
    let library = elsewhere.path().join("libnvidia-ml.so.1");
    let nvml = nvml_wrapper::Nvml::builder()
        .lib_path(library.as_os_str())
        .init();
    // This is a machine without NVIDIA's driver, or with one: then it may have one node.
    match nvml {
        Ok(nvml) => assert!(nvml.device_count().unwrap() <= 1),
        Err(error) => assert!(matches!(error, NvmlError::DriverNotLoaded), "{error}"),
    }
}

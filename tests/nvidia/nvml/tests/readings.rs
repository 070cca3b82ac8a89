//! Health and use, as a description gives them word by word.
#![allow(clippy::unwrap_used, reason = "tests, and what they share")]
#![allow(non_upper_case_globals, reason = "the names are the vendor's")]

mod common;

use common::{description, same, staged, staged_as};
use divvy_nvidia_machine::{Description, Link, Process};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, PcieUtilCounter};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::field_id::*;
use nvml_wrapper_sys::bindings::*;

const ALL: u32 = u32::MAX;

/// What is said for a field, or why nothing is.
fn field(nvml: &Nvml, device: &Device, id: u32, scope: u32) -> Result<i64, nvmlReturn_t> {
    // SAFETY: numbers.
    let mut value: nvmlFieldValue_t = unsafe { std::mem::zeroed() };
    value.fieldId = id;
    value.scopeId = scope;
    let call = nvml.lib().nvmlDeviceGetFieldValues.as_ref().unwrap();
    // SAFETY: the handle is of this library, and there is room for one.
    assert_eq!(unsafe { call(device.handle(), 1, &mut value) }, 0);
    match (value.nvmlReturn, value.valueType) {
        (0, nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_INT) => {
            // SAFETY: all of the union is written.
            let signed = unsafe { value.value.siVal };
            Ok(signed.into())
        }
        (0, _) => {
            // SAFETY: as above.
            let unsigned = unsafe { value.value.ullVal };
            Ok(i64::try_from(unsigned).unwrap())
        }
        (code, _) => Err(code),
    }
}

#[test]
fn what_is_to_be_done_to_have_it_work_again() {
    let staged = staged("h100x8");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    let action = |nvml, device| field(nvml, device, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 0);
    assert_eq!(action(&nvml, &device), Ok(0));
    staged.gpu("g0", |gpu| gpu.recovery = 4);
    assert_eq!(action(&nvml, &device), Ok(4));
    staged.gpu("g0", divvy_nvidia_machine::Gpu::reset);
    assert_eq!(action(&nvml, &device), Ok(0));
    // Drivers before 570 do not say.
    let old = self::staged("a100-mig");
    let nvml = old.open();
    let device = nvml.device_by_index(1).unwrap();
    assert!(action(&nvml, &device).is_err());
}

#[test]
fn why_it_is_slow() {
    let staged = staged("t4");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    let reasons = || device.current_throttle_reasons().unwrap();
    assert_eq!(reasons(), ThrottleReasons::GPU_IDLE);
    staged.gpu("t4", |gpu| {
        gpu.utilization = Some([80, 10]);
        gpu.throttle = vec!["hw-thermal".into(), "sw-power-cap".into()];
    });
    assert_eq!(
        reasons(),
        ThrottleReasons::HW_THERMAL_SLOWDOWN
            | ThrottleReasons::HW_SLOWDOWN
            | ThrottleReasons::SW_POWER_CAP
    );
    staged.gpu("t4", |gpu| gpu.throttle.clear());
    assert_eq!(reasons(), ThrottleReasons::NONE);
    let wrong = staged
        .machine
        .change(|d| d.gpu.get_mut("t4").unwrap().throttle = vec!["hot".into()]);
    assert!(wrong.unwrap_err().to_string().contains("throttle: hot"));
}

#[test]
fn temperatures_have_limits() {
    let staged = staged("h100x8");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    staged.gpu("g0", |gpu| {
        gpu.thresholds = [95, 89, 87];
        gpu.memory_temperature = Some(71);
    });
    let field = |id| field(&nvml, &device, id, 0);
    assert_eq!(field(NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT), Ok(-8));
    assert_eq!(field(NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT), Ok(-2));
    assert_eq!(field(NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT), Ok(0));
    assert_eq!(field(NVML_FI_DEV_MEMORY_TEMP), Ok(71));
    let t4 = self::staged("t4");
    let nvml = t4.open();
    let device = nvml.device_by_index(0).unwrap();
    for id in [
        NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT,
        NVML_FI_DEV_MEMORY_TEMP,
    ] {
        let none = self::field(&nvml, &device, id, 0);
        assert_eq!(none, Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED));
    }
}

#[test]
fn errors_of_memory() {
    let staged = staged("t4");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    let set = nvml.create_event_set().unwrap();
    let set = device
        .register_events(EventTypes::SINGLE_BIT_ECC_ERROR, set)
        .unwrap();
    staged.gpu("t4", |gpu| {
        gpu.ecc_corrected = 7;
        gpu.ecc_errors = 2;
        gpu.retired_pending = true;
    });
    let event = set.wait(0).unwrap();
    assert_eq!(event.event_type, EventTypes::SINGLE_BIT_ECC_ERROR);
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    let count = |kind, since| device.total_ecc_errors(kind, since).unwrap();
    let counts = || {
        [EccCounter::Volatile, EccCounter::Aggregate].map(|since| {
            [MemoryError::Corrected, MemoryError::Uncorrected].map(|kind| count(kind, since))
        })
    };
    assert_eq!(counts(), [[7, 2], [7, 2]]);
    staged.gpu("t4", |gpu| gpu.ecc_aggregate = Some([900, 3]));
    assert_eq!(counts(), [[7, 2], [900, 3]]);
    let field = |id| field(&nvml, &device, id, 0);
    assert_eq!(field(NVML_FI_DEV_ECC_DBE_VOL_TOTAL), Ok(2));
    assert_eq!(field(NVML_FI_DEV_ECC_SBE_AGG_TOTAL), Ok(900));
    assert!(device.are_pages_pending_retired().unwrap());
    assert_eq!(field(NVML_FI_DEV_RETIRED_PENDING), Ok(1));
    staged.gpu("t4", divvy_nvidia_machine::Gpu::reset);
    assert!(!device.are_pages_pending_retired().unwrap());
    assert_eq!(counts(), [[0, 0], [900, 3]]);
}

#[test]
fn links_fail_and_count() {
    let staged = staged("h100x8");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    staged.gpu("g0", |gpu| {
        gpu.nvlink[1] = Link::Off;
        gpu.nvlink_errors = vec![[1, 0, 0, 0, 0], [0; 5], [2, 3, 4, 5, 6]];
        gpu.nvlink_kib = [1700 + 5, 34];
    });
    let link = |number| device.link_wrapper_for(number);
    assert!(!link(1).is_active().unwrap());
    let errors = |number, what| link(number).error_counter(what);
    same(errors(0, ErrorCounter::DlReplay), Some(1));
    same(errors(1, ErrorCounter::DlReplay), None);
    same(errors(2, ErrorCounter::DlCrcData), Some(5));
    same(errors(3, ErrorCounter::DlCrcData), Some(0));
    let field = |id, scope| field(&nvml, &device, id, scope);
    assert_eq!(field(NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 0), Ok(3));
    // 17 links are up.
    let sent = NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX;
    assert_eq!(field(sent, ALL), Ok(1705));
    assert_eq!(field(sent, 0), Ok(105));
    assert!(field(sent, 1).is_err());
    assert_eq!(field(sent, 2), Ok(100));
    assert!(field(sent, 18).is_err());
    let received = NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX;
    assert_eq!(field(received, ALL), Ok(34));
}

#[test]
fn what_goes_over_pcie() {
    let staged = staged("t4");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    let both = || {
        [PcieUtilCounter::Send, PcieUtilCounter::Receive]
            .map(|counter| device.pcie_throughput(counter).unwrap())
    };
    assert_eq!(both(), [0, 0]);
    staged.gpu("t4", |gpu| gpu.pcie_kbps = Some([12_000, 7]));
    assert_eq!(both(), [12_000, 7]);
}

#[test]
fn what_each_process_does() {
    let mut machine: Description = description("t4");
    let gpu = machine.gpu.get_mut("t4").unwrap();
    gpu.utilization = Some([90, 40]);
    gpu.process = [Some(70), None]
        .into_iter()
        .zip(100..)
        .map(|(utilization, pid)| Process {
            pid,
            memory_mib: Some(10),
            graphics: false,
            utilization,
        })
        .collect();
    let staged = staged_as(&machine);
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    let all = || {
        let all = device.process_utilization_stats(0).unwrap();
        let all = all.iter().map(|sample| (sample.pid, sample.sm_util));
        all.collect::<Vec<_>>()
    };
    assert_eq!(all(), [(100, 70), (101, 0)]);
    staged.gpu("t4", |gpu| gpu.process[0].utilization = None);
    assert_eq!(all(), [(100, 45), (101, 45)]);
}

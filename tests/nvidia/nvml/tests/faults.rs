//! Calls that go wrong, as the description says.
#![allow(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Staged, staged};
use divvy_nvidia_machine::{Answer, Fault};
use nvml_wrapper::error::NvmlError;

/// The library that a child of this test is to open, and fail.
const LIBRARY: &str = "NVML_FAULTS_LIBRARY";

fn fault(staged: &Staged, call: &str, gpu: Option<&str>, nth: Option<u64>, answer: Answer) {
    let fault = Fault {
        call: call.into(),
        nth,
        gpu: gpu.map(str::to_owned),
        after: false,
        answer,
    };
    staged
        .machine
        .change(|machine| machine.fault.push(fault))
        .unwrap();
}

#[test]
fn each_call_or_the_nth_or_of_one_gpu() {
    let staged = staged("h100x8");
    fault(
        &staged,
        "nvmlDeviceGetHandleByIndex_v2",
        Some("g2"),
        None,
        Answer::Code(4),
    );
    fault(
        &staged,
        "nvmlDeviceGetTemperature",
        None,
        Some(2),
        Answer::Code(999),
    );
    fault(
        &staged,
        "nvmlDeviceGetCount_v2",
        None,
        None,
        Answer::Code(10),
    );
    let nvml = staged.open();
    assert!(matches!(nvml.device_count(), Err(NvmlError::Timeout)));
    assert!(matches!(
        nvml.device_by_index(2),
        Err(NvmlError::NoPermission)
    ));
    let device = nvml.device_by_index(1).unwrap();
    let temperature =
        || device.temperature(nvml_wrapper::enum_wrappers::device::TemperatureSensor::Gpu);
    temperature().unwrap();
    assert!(matches!(temperature(), Err(NvmlError::Unknown)));
    temperature().unwrap();
    staged
        .machine
        .change(|machine| machine.fault.clear())
        .unwrap();
    assert_eq!(nvml.device_count().unwrap(), 8);
}

#[test]
fn initialising_fails_once() {
    let staged = staged("t4");
    fault(&staged, "nvmlInit_v2", None, Some(1), Answer::Code(18));
    assert!(matches!(
        staged.try_open(),
        Err(NvmlError::LibRmVersionMismatch)
    ));
    staged.open();
}

/// Not a test: what a child of the tests does.
#[test]
fn child() {
    let Some(library) = env::var_os(LIBRARY) else {
        return;
    };
    let nvml = nvml_wrapper::Nvml::builder()
        .lib_path(&library)
        .init()
        .unwrap();
    let answer = nvml.device_by_index(0).unwrap().name();
    println!("answered: {answer:?}");
}

fn spawn(staged: &Staged) -> std::process::Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(LIBRARY, staged.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_crash_ends_the_process_by_its_signal() {
    let staged = staged("t4");
    fault(&staged, "nvmlDeviceGetName", None, None, Answer::Crash);
    let status = spawn(&staged).wait().unwrap();
    assert_eq!(status.signal(), Some(11), "{status}");
}

#[test]
fn a_hang_holds_only_its_caller() {
    let staged = staged("t4");
    fault(&staged, "nvmlDeviceGetName", None, Some(1), Answer::Hang);
    let mut child = spawn(&staged);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
    // In one process, the other threads go on.
    let nvml: &'static nvml_wrapper::Nvml = Box::leak(Box::new(staged.open()));
    let hung = thread::spawn(|| nvml.device_by_index(0).unwrap().name());
    thread::sleep(Duration::from_millis(300));
    assert!(!hung.is_finished());
    nvml.device_by_index(0).unwrap().name().unwrap();
}

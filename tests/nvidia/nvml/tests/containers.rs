//! What a program in a container sees: the libraries that were mounted, the nodes that were
//! given, and changes of the machine.
//!
//! Needs root and `unshare`; without, nothing is tested here.
#![allow(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::env;
use std::fmt::Write;
use std::process::Command;

use common::{Staged, staged};
use divvy_nvidia_machine::capability;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// Where the child finds the libraries.
const LIBRARIES: &str = "NVML_CONTAINER_LIBRARIES";

/// Not a test: the program in the container. It says which GPUs and MIG devices there are.
#[test]
fn child() {
    let Some(folder) = env::var_os(LIBRARIES) else {
        return;
    };
    let library = std::path::Path::new(&folder).join("libnvidia-ml.so.1");
    let said = match Nvml::builder().lib_path(library.as_os_str()).init() {
        Ok(nvml) => list(&nvml),
        Err(error) => error.to_string(),
    };
    println!("\nsaid: {said}");
}

fn list(nvml: &Nvml) -> String {
    let mut said = String::new();
    if nvml.device_count().is_ok_and(|count| count > 0) {
        // Whatever it was given, the machine is not its to change.
        let gpu = nvml.device_by_index(0).unwrap();
        let refused = gpu.set_mig_mode(gpu.mig_mode().unwrap().current == 0);
        assert!(
            matches!(refused, Err(NvmlError::NoPermission)),
            "{refused:?}"
        );
    }
    for index in 0..nvml.device_count().unwrap() {
        let gpu = nvml.device_by_index(index).unwrap();
        write!(said, "{index}:{}", gpu.minor_number().unwrap()).unwrap();
        for number in 0..gpu.mig_device_count().unwrap() {
            if let Ok(mig) = gpu.mig_device_by_index(number) {
                write!(said, "[{number} {}]", &mig.uuid().unwrap()[4..8]).unwrap();
            }
        }
        said.push(' ');
    }
    said.trim_end().to_owned()
}

/// Runs the program with the libraries mounted read-only, file by file, and only these nodes:
/// name, major, minor.
fn contained(staged: &Staged, nodes: &[(String, u32, u32)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().display();
    let from = staged.machine.file().parent().unwrap();
    let mut script = format!(
        "set -e; cd {}; mount -t tmpfs none {to}; for f in *; do : > {to}/$f; \
         mount --bind $f {to}/$f; mount -o remount,bind,ro {to}/$f; done; \
         mount -t tmpfs none /dev; mkdir /dev/nvidia-caps; mknod -m 666 /dev/null c 1 3; \
         mknod -m 666 /dev/urandom c 1 9; ",
        from.display()
    );
    for (name, major, minor) in nodes {
        write!(script, "mknod -m 666 /dev/{name} c {major} {minor}; ").unwrap();
    }
    script.push_str("exec \"$0\" --exact child --nocapture");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(env::current_exe().unwrap())
        .env(LIBRARIES, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = said.lines().find_map(|line| line.strip_prefix("said: "));
    said.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

fn node(name: &str, minor: u32) -> (String, u32, u32) {
    (name.to_owned(), 1195, minor)
}

fn cap(minor: u32) -> (String, u32, u32) {
    (format!("nvidia-caps/nvidia-cap{minor}"), 1197, minor)
}

#[test]
fn only_what_was_given_is_there() {
    let able = Command::new("unshare").args(["--mount", "true"]).status();
    if !able.is_ok_and(|status| status.success()) {
        return;
    }
    let staged = staged("a100-mig");
    let control = node("nvidiactl", 255);
    let seen = |nodes: &[(String, u32, u32)]| contained(&staged, nodes);
    let none = seen(&[]);
    assert!(none.contains("driver"), "{none}");
    assert_eq!(seen(std::slice::from_ref(&control)), "");
    assert_eq!(seen(&[control.clone(), node("nvidia0", 0)]), "0:0");
    let whole = [control.clone(), node("nvidia1", 1), node("nvidia0", 0)];
    assert_eq!(seen(&whole), "0:1 1:0");
    // One MIG device, the second of two in its GPU instance.
    let uuid = &staged.machine.current().gpu["divided"].instance[1].uuid[4..8];
    let given = [
        control,
        node("nvidia1", 1),
        cap(capability(1, 2, None)),
        cap(capability(1, 2, Some(1))),
    ];
    assert_eq!(seen(&given), format!("0:1[0 {uuid}]"));
    // It sees the machine change.
    staged.gpu("divided", |gpu| gpu.instance[1].uuid = "MIG-abcd".into());
    assert_eq!(seen(&given), "0:1[0 abcd]");
}

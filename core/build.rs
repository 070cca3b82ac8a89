//! Compiles `init/main.rs` into the static executable `$OUT_DIR/divvy-init`,
//! which the library embeds (`include_bytes!`) and binds into every container.
//!
//! It calls `$RUSTC` directly: a build script cannot depend on a binary of its
//! own workspace without nightly's artifact dependencies.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=init/main.rs");
    println!("cargo::rerun-if-changed=build.rs");
    match compile_init() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn compile_init() -> Result<(), String> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .ok_or_else(|| format!("cargo did not set {name} for this build script"))
    };
    let target = variable("TARGET")?;
    let output = PathBuf::from(variable("OUT_DIR")?).join("divvy-init");

    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .args([
            "--edition=2024",
            "--crate-name=divvy_init",
            "--crate-type=bin",
        ])
        .arg("--target")
        .arg(&target)
        .arg("-o")
        .arg(&output)
        // Small and self-contained: it is copied into every container's mounts.
        .args(["-C", "target-feature=+crt-static"])
        .args(["-C", "relocation-model=static"])
        .args(["-C", "panic=abort"])
        .args(["-C", "opt-level=s"])
        .args(["-C", "lto=fat"])
        .args(["-C", "codegen-units=1"])
        .args(["-C", "strip=symbols"])
        .arg("init/main.rs");
    // Cargo passes a configured cross linker to build scripts in this variable.
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        let mut flag = std::ffi::OsString::from("linker=");
        flag.push(linker);
        rustc.arg("-C").arg(flag);
    }
    let result = rustc
        .output()
        .map_err(|error| format!("cannot run rustc to compile divvy-init: {error}"))?;
    if result.status.success() {
        return Ok(());
    }
    let diagnostics = String::from_utf8_lossy(&result.stderr);
    for line in diagnostics.lines() {
        eprintln!("{line}");
    }
    let reason = if diagnostics.contains("linking with") {
        "divvy-init could not be linked statically; it needs the static C library: \
         `apt install libc6-dev` (Debian, Ubuntu), `dnf install glibc-static` (Fedora, RHEL), \
         or build for a musl target"
    } else {
        "divvy-init (core/init/main.rs) does not compile"
    };
    Err(format!(
        "{reason}; rustc's own words are in the build script's output"
    ))
}

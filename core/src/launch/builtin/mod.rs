//! Divvy's built-in OCI runtime: runc's command line over youki's libcontainer.
//!
//! The `oci` launcher drives whatever OCI runtime it finds (runc, crun, youki)
//! by its command line. Where none is installed it runs `divvy oci-runtime`,
//! which is this module, with the very same arguments; so the launcher has one
//! path, and a machine with neither Docker nor runc still runs workloads.
//!
//! # What it promises
//!
//! - runc's calls, flags, exit codes and files: `create`, `start`, `kill`,
//!   `delete`, `state`, `exec` (`cli`).
//! - It works as a fresh, single-threaded process and refuses anything else:
//!   libcontainer runs Rust code after a raw `clone3`, and so deadlocks on
//!   another thread's locks (youki-dev/youki#3011, containers/runwasi#357).
//! - `linux.seccomp` of the bundle is enforced, in pure Rust (`seccomp`);
//!   libcontainer alone would ignore it without libseccomp.
//! - `lo` is up in a new network namespace, as with runc (`network`).
//! - On cgroup v2, where libcontainer filters no devices, no container gets
//!   `CAP_MKNOD`, and nodes work nowhere but in the `/dev` built here
//!   (`hardening`).
//! - The container process holds no descriptor but 0, 1 and 2.
//!
//! # What it refuses
//!
//! Seccomp without `noNewPrivileges`, working directories in `/proc`
//! (CVE-2024-21626), seccomp agents (`SCMP_ACT_NOTIFY`), user namespaces and
//! rootless use. systemd cgroups are not used.
//!
//! # Who checks what
//!
//! The caller decides what a container may have (mounts, devices, limits): this
//! module applies the bundle it is given. Errors are one line on stderr and, as
//! JSON, in the `--log` file; it never panics on what it is given.

mod child;
mod cli;
mod console;
mod create;
mod error;
mod exec;
mod executor;
mod ffi;
mod foreground;
mod hardening;
mod lifecycle;
mod network;
mod seccomp;
mod signal;
mod store;

use std::ffi::OsString;

/// Runs one OCI runtime call; `args` is what follows `oci-runtime`.
///
/// Call it before anything else in `main`, from a process that was started for
/// this purpose: it must be the only thread, it changes the process's signal
/// mask and umask, and its children must find no foreign state.
pub fn main(args: Vec<OsString>) -> u8 {
    child::guard_against_panics();
    cli::run(args)
}

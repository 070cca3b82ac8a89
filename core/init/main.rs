//! `divvy-init`: the first process of every Divvy container.
//!
//! `divvy-init -- COMMAND [ARGUMENT...]` starts one command, passes signals on
//! to it, reaps every orphan and ends with the command's exit status: its exit
//! code, or 128 + N when signal N killed it. It does what tini does, because
//! PID 1 is special (`pid_namespaces(7)`, `signal(7)`): the kernel drops every
//! signal for which PID 1 has no handler, and orphans become its children.
//!
//! `divvy-init --gate FIFO -- COMMAND...` first waits for a byte from FIFO, and
//! ends without running anything if its writer goes away instead: for a
//! launcher that cannot make a container without starting it.
//!
//! `--dir DIR` has the command begin in DIR, which is made where it is missing.
//! Entered here, it is entered with the rights of the command's own user; an OCI
//! runtime or an engine would do both as root.
//!
//! Exit codes of its own follow the shell and Docker: 125 this program could
//! not do its work, 126 the command cannot be run, 127 it was not found.
//!
//! It is linked statically and uses the standard library alone, so that it runs
//! in a root filesystem without any C library. `core/build.rs` compiles it.
//!
//! How no signal is lost: all signals are blocked before the command is
//! started, and the kernel keeps blocked signals pending, even for PID 1. They
//! are taken one by one with `sigwaitinfo(2)` once there is a child to send
//! them to.
#![deny(missing_docs)]

use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::io::{Error, ErrorKind, IsTerminal, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

// Linux numbers, the same on x86_64, aarch64 and riscv64 (signal(7)).
const SIGILL: c_int = 4;
const SIGTRAP: c_int = 5;
const SIGABRT: c_int = 6;
const SIGBUS: c_int = 7;
const SIGFPE: c_int = 8;
const SIGSEGV: c_int = 11;
const SIGPIPE: c_int = 13;
const SIGCHLD: c_int = 17;
const SIGCONT: c_int = 18;
const SIGSTOP: c_int = 19;
const SIGTSTP: c_int = 20;
const SIGTTIN: c_int = 21;
const SIGTTOU: c_int = 22;
const SIGSYS: c_int = 31;
/// A fault of this very process; blocking these would only hide it.
const FAULTS: [c_int; 7] = [SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS];

const ENOENT: c_int = 2;
const SIG_DFL: usize = 0;
const SIG_SETMASK: c_int = 2;
const WNOHANG: c_int = 1;
const WUNTRACED: c_int = 2;
const PR_SET_CHILD_SUBREAPER: c_int = 36;
const STDIN: c_int = 0;
const POLLIN: i16 = 1;
/// Of open(2); another number on mips and sparc alone.
const O_NONBLOCK: c_int = 0o4000;

const EXIT_INTERNAL: u8 = 125;
const EXIT_CANNOT_RUN: u8 = 126;
const EXIT_NOT_FOUND: u8 = 127;

/// `struct pollfd`.
#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

/// `sigset_t`: 1024 bits in glibc and in musl.
#[repr(C)]
struct SignalSet([u64; 16]);

unsafe extern "C" {
    fn _exit(status: c_int) -> !;
    fn execvp(file: *const c_char, argv: *const *const c_char) -> c_int;
    fn fork() -> c_int;
    fn getpid() -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: usize, timeout_ms: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setpgid(pid: c_int, pgid: c_int) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigdelset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigfillset(set: *mut SignalSet) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwaitinfo(set: *const SignalSet, info: *mut c_void) -> c_int;
    fn tcsetpgrp(fd: c_int, pgid: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

fn main() -> ExitCode {
    let handled = block_signals();
    let ask = command_line(std::env::args_os().skip(1).collect())
        .and_then(|ask| wait_at(ask.gate.as_deref()).map(|()| ask));
    let Ask { dir, command, .. } = match ask {
        Ok(ask) => ask,
        Err(message) => {
            eprintln!("divvy: {message}");
            return ExitCode::from(EXIT_INTERNAL);
        }
    };
    // Behind the gate: what is not proven touches no folder either.
    if let Some(dir) = dir
        && let Err(error) = enter(&dir)
    {
        eprintln!(
            "divvy: -w {}: cannot be entered: {error} [workdir_unusable]",
            dir.to_string_lossy()
        );
        return ExitCode::from(EXIT_CANNOT_RUN);
    }
    // Orphans come here even when this is not PID 1, as in a shared PID namespace.
    // SAFETY: this option takes one integer and touches no memory.
    unsafe { prctl(PR_SET_CHILD_SUBREAPER, 1usize) };

    let has_terminal = std::io::stdin().is_terminal();
    // SAFETY: this process has one thread, so the child may use all of std.
    let child = unsafe { fork() };
    match child {
        -1 => {
            eprintln!(
                "divvy: cannot start {}: {}",
                show(&command[0]),
                Error::last_os_error()
            );
            ExitCode::from(EXIT_INTERNAL)
        }
        0 => run_command(&command, has_terminal),
        child => {
            // Also done by the child; whoever comes first, the group exists
            // before a signal is sent to it.
            // SAFETY: plain integers; failing (the child has already called
            // execve) is harmless.
            unsafe { setpgid(child, child) };
            ExitCode::from(supervise(
                Child {
                    pid: child,
                    has_terminal,
                    told_to_stop: false,
                },
                &handled,
            ))
        }
    }
}

/// What is asked of us.
struct Ask {
    gate: Option<OsString>,
    dir: Option<OsString>,
    command: Vec<CString>,
}

/// Splits off our own part of the command line:
/// `[--gate FIFO] [--dir DIR] [--] COMMAND [ARGUMENT...]`.
fn command_line(mut arguments: Vec<OsString>) -> Result<Ask, String> {
    let mut option = |name: &str| {
        (arguments.len() > 1 && arguments[0] == name)
            .then(|| arguments.drain(..2).next_back())
            .flatten()
    };
    let (gate, dir) = (option("--gate"), option("--dir"));
    if arguments.first().is_some_and(|first| first == "--") {
        arguments.remove(0);
    }
    if arguments.is_empty() {
        return Err("init: no command given (usage: divvy-init -- COMMAND [ARGUMENT...])".into());
    }
    let command: Result<_, String> = arguments
        .iter()
        .map(|argument| {
            CString::new(argument.as_bytes())
                .map_err(|_| "init: an argument holds a NUL byte".into())
        })
        .collect();
    Ok(Ask {
        gate,
        dir,
        command: command?,
    })
}

/// Enters the working directory; makes it where there is none.
fn enter(dir: &OsStr) -> Result<(), Error> {
    match std::env::set_current_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            std::fs::create_dir_all(dir)?;
            std::env::set_current_dir(dir)?;
        }
        other => other?,
    }
    // Fails where a link led out of the container's root (CVE-2024-21626).
    std::env::current_dir().map(|_| ())
}

/// Waits at the gate, if there is one, for one byte. Opened without waiting, so
/// that a writer that is gone already is noticed.
fn wait_at(gate: Option<&OsStr>) -> Result<(), String> {
    let Some(path) = gate else { return Ok(()) };
    let failed = |error: Error| format!("init: the gate cannot be read: {error}");
    let mut gate = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    loop {
        match gate.read(&mut [0]) {
            Ok(0) => {
                return Err("init: whoever was to start this is gone; it never ran".into());
            }
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        }
        let mut polled = PollFd {
            fd: gate.as_raw_fd(),
            events: POLLIN,
            revents: 0,
        };
        // SAFETY: one live pollfd; -1 waits for ever. What went wrong is seen
        // by the next read.
        unsafe { poll(&mut polled, 1, -1) };
    }
}

fn show(text: &CString) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}

/// Blocks every signal but faults, and returns what is now ours to forward.
fn block_signals() -> SignalSet {
    let mut set = SignalSet([0; 16]);
    // SAFETY: `set` is a live sigset_t; the numbers are valid signals; a null
    // `old` is allowed.
    unsafe {
        sigfillset(&mut set);
        for fault in FAULTS {
            sigdelset(&mut set, fault);
        }
        sigprocmask(SIG_SETMASK, &set, std::ptr::null_mut());
        // Sent to a background group that uses the terminal: about our own
        // access, not the command's. They stay blocked and are never waited for.
        sigdelset(&mut set, SIGTTIN);
        sigdelset(&mut set, SIGTTOU);
        // The one we need whatever the libc thinks of it.
        sigaddset(&mut set, SIGCHLD);
    }
    set
}

/// The child's side of `fork`: becomes the command, or explains and exits.
fn run_command(command: &[CString], has_terminal: bool) -> ! {
    let mut argv: Vec<*const c_char> = command.iter().map(|a| a.as_ptr()).collect();
    argv.push(std::ptr::null());
    let nothing = SignalSet([0; 16]);
    // SAFETY: `argv` is a null-terminated array of C strings that outlives the
    // call; the rest are integers. A failed setpgid or tcsetpgrp (no controlling
    // terminal) leaves the command without job control, which is no reason not
    // to run it. SIGTTOU is still blocked when tcsetpgrp needs it to be.
    unsafe {
        setpgid(0, 0);
        if has_terminal {
            tcsetpgrp(STDIN, getpid());
        }
        // Rust's start-up ignores SIGPIPE, and execve keeps that.
        signal(SIGPIPE, SIG_DFL);
        sigprocmask(SIG_SETMASK, &nothing, std::ptr::null_mut());
        execvp(argv[0], argv.as_ptr());
    }
    let error = Error::last_os_error();
    let name = show(&command[0]);
    let code = if error.raw_os_error() != Some(ENOENT) {
        eprintln!("divvy: {name}: cannot be run: {error} [command_not_executable]");
        EXIT_CANNOT_RUN
    } else if name.contains('/') && std::path::Path::new(name.as_ref()).exists() {
        // ENOENT for a file that exists means its `#!` line or its ELF loader.
        eprintln!(
            "divvy: {name}: cannot be run: its interpreter or dynamic loader is not in this root filesystem [command_not_executable]"
        );
        EXIT_CANNOT_RUN
    } else {
        eprintln!("divvy: {name}: command not found [command_not_found]");
        EXIT_NOT_FOUND
    };
    // SAFETY: leaves without running the parent's exit handlers a second time.
    unsafe { _exit(c_int::from(code)) }
}

/// The command's process.
struct Child {
    pid: c_int,
    has_terminal: bool,
    /// A stop signal came from outside and was passed on, so a stop is wanted.
    told_to_stop: bool,
}

/// Takes signals until the command has ended; returns the status to exit with.
fn supervise(mut child: Child, handled: &SignalSet) -> u8 {
    loop {
        // SAFETY: `handled` is a live sigset_t; a null `info` is allowed.
        let signal = unsafe { sigwaitinfo(handled, std::ptr::null_mut()) };
        match signal {
            // EINTR: this process itself was stopped and continued.
            ..=0 => {}
            SIGCHLD => {
                if let Some(status) = reap(&mut child) {
                    return status;
                }
            }
            signal => forward(&mut child, signal),
        }
    }
}

/// Sends `signal` on: job control to the command's whole group, as a terminal
/// would; everything else to the command alone, as it would be without us.
fn forward(child: &mut Child, signal: c_int) {
    let target = match signal {
        SIGTSTP | SIGCONT => {
            child.told_to_stop = signal == SIGTSTP;
            -child.pid
        }
        _ => child.pid,
    };
    // SAFETY: plain integers. The child is not reaped yet, so the number is its.
    unsafe { kill(target, signal) };
}

/// Collects every child that has ended; the command's status if it is one.
fn reap(child: &mut Child) -> Option<u8> {
    loop {
        let mut status: c_int = 0;
        // SAFETY: `status` is live for the call.
        let pid = unsafe { waitpid(-1, &mut status, WNOHANG | WUNTRACED) };
        if pid <= 0 {
            return None;
        }
        if pid != child.pid {
            continue;
        }
        // Status word layout: wait(2); the macros are not available here.
        let low = status & 0x7f;
        match low {
            0 => return Some(u8::try_from((status >> 8) & 0xff).unwrap_or(EXIT_INTERNAL)),
            0x7f => resume_if_stuck(child, (status >> 8) & 0xff),
            signal => return Some(u8::try_from(128 + signal).unwrap_or(EXIT_INTERNAL)),
        }
    }
}

/// Continues a command that the terminal stopped (Ctrl-Z): no shell stands
/// above it that ever could. A stop from outside (a forwarded SIGTSTP, or
/// SIGSTOP) is left alone until SIGCONT comes.
fn resume_if_stuck(child: &Child, stopped_by: c_int) {
    if !child.has_terminal || child.told_to_stop || stopped_by == SIGSTOP {
        return;
    }
    // SAFETY: plain integers; SIGTTOU is blocked here, so tcsetpgrp cannot stop
    // us. Without the terminal a SIGTTIN would only come again: stay stopped.
    unsafe {
        if tcsetpgrp(STDIN, child.pid) == 0 {
            kill(-child.pid, SIGCONT);
        }
    }
}

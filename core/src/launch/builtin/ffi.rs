//! The kernel calls that rustix has no safe form of. All `unsafe` code of the
//! built-in runtime is here.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Marks every descriptor above 2 close-on-exec (`close_range(2)`, Linux 5.11).
pub(super) fn close_all_on_exec() -> Result<()> {
    // SAFETY: close_range takes three integers and, with this flag, closes
    // nothing: no owned descriptor becomes invalid.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    check(result).map(drop)
}

/// Sends a signal through a pid descriptor: it reaches that process or none.
///
/// rustix only takes named signals; containers may also be sent real-time ones.
pub(super) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: the descriptor is open for the call; a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    check(result).map(drop)
}

/// Blocks every signal and returns a descriptor to read them from
/// (`signalfd(2)`), non-blocking and close-on-exec.
pub(super) fn take_all_signals() -> Result<OwnedFd> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises `all` and cannot fail on a valid pointer;
    // the other calls read it. A null old set is allowed. A descriptor that
    // signalfd returned is ours alone.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        check(libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()).into())?;
        let fd = libc::signalfd(-1, all.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(fd.into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Empties the signal mask, which `execve(2)` would pass on to the program.
pub(super) fn unblock_signals() -> Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises `none` and cannot fail on a valid pointer;
    // sigprocmask reads it. A null old set is allowed.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        check(libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()).into())
    }
    .map(drop)
}

/// `IFF_UP` (linux/if.h), in the width it has in an `ifreq`.
const INTERFACE_UP: libc::c_short = 1;

/// Brings the loopback interface of the current network namespace up
/// (`netdevice(7)`; the kernel then gives it 127.0.0.1 and ::1 itself).
pub(super) fn loopback_up(socket: BorrowedFd<'_>) -> Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    // SAFETY: both calls read and write one ifreq, which lives across them;
    // reading `ifru_flags` is valid, as SIOCGIFFLAGS has written it.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request).into())?;
        request.ifr_ifru.ifru_flags |= INTERFACE_UP;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request).into())?;
    }
    Ok(())
}

/// Leaves the named namespaces for new ones (`unshare(2)`).
pub(super) fn unshare(namespaces: rustix::thread::UnshareFlags) -> Result<()> {
    // SAFETY: rustix's form is unsafe because of `FILES`, which splits the
    // descriptor table of a multi-threaded process. This one has one thread
    // (checked at the start), and callers pass NEWNET or NEWNS.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(Into::into)
}

/// Makes device nodes on a mount and all mounts below it unusable, leaving
/// every other flag as it is (`mount_setattr(2)`, Linux 5.12).
pub(super) fn forbid_devices_below(path: &std::path::Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string and `attributes` is read for its own size;
    // both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

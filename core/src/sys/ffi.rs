//! Descriptors by number: what is inherited, taken over, or closed; and system
//! calls that rustix marks unsafe or lacks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{FileType, fstat};
use rustix::io::FdFlags;

/// Takes over an inherited descriptor, close-on-exec from now on. Call once
/// per number, at the start of a process, before anything else is opened.
///
/// # Errors
/// It is not open.
pub(crate) fn take_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only used to ask the kernel about the number; EBADF is an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open (above), and the caller is its only user: process
    // start, by convention between parent and child.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over an inherited socket.
///
/// # Errors
/// It is not open, or no socket.
pub(crate) fn take_socket(fd: RawFd) -> io::Result<UnixStream> {
    let owned = take_fd(fd)?;
    if FileType::from_raw_mode(fstat(&owned)?.st_mode) != FileType::Socket {
        return Err(io::Error::other(format!("descriptor {fd} is not a socket")));
    }
    Ok(owned.into())
}

/// Closes every inherited descriptor but these (S6). At process start only.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn close_all_except(keep: &[RawFd]) -> io::Result<()> {
    for fd in open_fds()? {
        if !keep.contains(&fd) {
            // SAFETY: at process start nothing in this process owns it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Ok(())
}

/// Marks everything above the standard streams close-on-exec (S6): what our
/// own parent left open must not reach plugin hosts and containers.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn inherit_nothing() -> io::Result<()> {
    for fd in open_fds()? {
        if fd > 2 {
            // SAFETY: borrowed for one call; closed meanwhile means EBADF.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC);
        }
    }
    Ok(())
}

fn open_fds() -> io::Result<Vec<RawFd>> {
    let folder = rustix::fs::Dir::new(rustix::fs::open(
        "/proc/self/fd",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?)?;
    let own = folder.fd()?.as_raw_fd();
    Ok(folder
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str().ok()?.parse().ok())
        .filter(|fd| *fd != own)
        .collect())
}

/// Gives this thread, and so a process that has but one, a mount namespace of its
/// own, into which the host's later mounts flow but from which nothing flows back.
///
/// # Errors
/// Not root, or a seccomp filter forbids it.
pub(crate) fn private_mounts() -> io::Result<()> {
    // SAFETY: NEWNS concerns no file descriptor and no memory, and no other
    // thread's view of the file system: unshare(2), it implies FS.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::DOWNSTREAM
            | rustix::mount::MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Moves this thread, and no other of the process, into a container's mount
/// namespace. It must not be used for anything else afterwards.
///
/// # Errors
/// Not root, or the namespace is none.
pub(crate) fn enter_mounts(namespace: &impl AsFd) -> io::Result<()> {
    // SAFETY: FS concerns no file descriptor and no memory: from now on this
    // thread's root and current folder are its own, as setns(2) wants.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
    Ok(rustix::thread::move_into_link_name_space(
        namespace.as_fd(),
        kind,
    )?)
}

/// Makes a mount, open at its root, read-only or writable; either way without
/// device nodes and set-user-ID bits. No path is followed.
///
/// # Errors
/// `ENOSYS` before Linux 5.12; `EINVAL`: it is open at a place within a mount.
pub(crate) fn set_mount(mount: &OwnedFd, read_only: bool) -> io::Result<()> {
    let without = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let (more, less) = if read_only {
        (libc::MOUNT_ATTR_RDONLY, 0)
    } else {
        (0, libc::MOUNT_ATTR_RDONLY)
    };
    let attributes = libc::mount_attr {
        attr_set: without | more,
        attr_clr: less,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: mount_setattr(2): the descriptor is open, the path is empty and ends
    // with NUL, and the kernel reads `size_of_val` bytes of `attributes`; all live
    // until it returns, and it keeps none.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor to be waited for. Inside a tokio runtime only.
///
/// # Errors
/// The kernel cannot poll it.
pub(crate) fn async_fd(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always answers with the same, open descriptor, and
    // gives it up only when it is dropped, after deregistration.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(|e| e.into_parts().1)
}

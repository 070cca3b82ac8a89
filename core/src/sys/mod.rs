//! The few things that the kernel offers and no safe crate does.

#[allow(unsafe_code)]
mod ffi;

pub(crate) use ffi::{
    async_fd, close_all_except, enter_mounts, inherit_nothing, private_mounts, set_mount, take_fd,
    take_socket,
};

use std::io;

/// Makes this process die when its parent, process `parent`, does.
///
/// # Errors
/// The kernel's; or the parent is gone already.
pub(crate) fn die_with_parent(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // The parent may have died before the line above: then nobody will signal.
    if rustix::process::getppid().map(|p| p.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the parent process is gone"));
    }
    Ok(())
}

/// Are all descriptors in use, this process's or the machine's?
pub(crate) fn no_more_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let all_used = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|n| all_used.contains(&n))
}

/// What to do about a file that cannot be used: `usual`, unless it is no fault of
/// the file.
pub(crate) fn remedy<'a>(error: &io::Error, usual: &'a str) -> &'a str {
    if no_more_files(error) {
        "nothing is wrong with it: too many files are open at once; try again, or raise the limit (LimitNOFILE of divvy.service, ulimit -n)"
    } else {
        usual
    }
}

/// The kernel's boot id: no process outlives it.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Milliseconds since 1970.
#[must_use]
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Six bytes from the kernel's random generator.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub(crate) fn random() -> io::Result<[u8; 6]> {
    use std::io::Read;
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file that is its owner's alone, whatever the umask (S19), by
/// rename: it is there whole or not at all.
///
/// # Errors
/// The file system's.
pub(crate) fn write_private(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let tmp = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&tmp)?;
    file.write_all(bytes)
        .and_then(|()| std::fs::rename(&tmp, path))
        .inspect_err(|_| drop(std::fs::remove_file(&tmp)))
}

/// Is this process root?
#[must_use]
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// While it lives, panics on this thread print nothing: for code whose panics
/// are caught and reported in words.
#[derive(Debug)]
pub(crate) struct QuietPanics(());

thread_local! {
    static QUIET: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Begins a stretch of code whose panics are caught.
#[must_use]
pub(crate) fn quiet_panics() -> QuietPanics {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() == 0 {
                before(info);
            }
        }));
    });
    QUIET.set(QUIET.get() + 1);
    QuietPanics(())
}

impl Drop for QuietPanics {
    fn drop(&mut self) {
        QUIET.set(QUIET.get() - 1);
    }
}

//! What some tests need and not every machine has. Each answers how to get it.

use std::io::Write;
use std::path::Path;

type Need = Result<(), &'static str>;

/// Root: cgroups and namespaces are made.
///
/// # Errors
/// Not root.
pub fn root() -> Need {
    rustix::process::geteuid()
        .is_root()
        .then_some(())
        .ok_or("run the tests as root")
}

/// The OCI runtime runc.
///
/// # Errors
/// It is not on `PATH`.
pub fn runc() -> Need {
    on_path("runc").then_some(()).ok_or("apt install runc")
}

/// The OCI runtime crun.
///
/// # Errors
/// It is not on `PATH`.
pub fn crun() -> Need {
    on_path("crun").then_some(()).ok_or("apt install crun")
}

/// A container engine to start privately.
///
/// # Errors
/// It is not on `PATH`, nor where root's programs are.
pub fn dockerd() -> Need {
    let beside = ["/usr/sbin", "/usr/local/bin"].map(|f| Path::new(f).join("dockerd"));
    (on_path("dockerd") || beside.iter().any(|p| p.is_file()))
        .then_some(())
        .ok_or("apt install docker.io")
}

/// Python 3.
///
/// # Errors
/// It is not on `PATH`.
pub fn python3() -> Need {
    on_path("python3")
        .then_some(())
        .ok_or("apt install python3")
}

/// Debian's Python and the packages of [`clients`](crate::clients), which it
/// fetches and keeps.
///
/// # Errors
/// The interpreter, pip or a static busybox is not there, or the network is not,
/// the first time.
pub fn python_clients() -> Need {
    crate::clients::made().map(drop)
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .any(|folder: std::path::PathBuf| Path::is_file(&folder.join(program)))
}

/// Says that the current test is skipped.
///
/// # Panics
/// If `DIVVY_TESTS_REQUIRE=all`: there nothing may be skipped.
pub fn skip(thing: &str, remedy: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let words = format!("SKIPPED: {test} needs {thing}: {remedy}");
    assert!(
        std::env::var_os("DIVVY_TESTS_REQUIRE").is_none_or(|v| v != "all"),
        "{words}"
    );
    // Not eprintln: that is shown for failed tests only.
    let _ = writeln!(std::io::stderr(), "\n{words}");
}

//! What some tests need and not every machine has. Each answers how to get it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// glibc's `ldconfig`.
///
/// # Errors
/// It is not where it always is.
pub fn ldconfig() -> Need {
    let there = ["/sbin/ldconfig", "/usr/sbin/ldconfig"].map(Path::new);
    (there.iter().any(|p| p.is_file()))
        .then_some(())
        .ok_or("a system with glibc")
}

/// Fetches Debian's packages of the driver's libraries, once, and unpacks them; nothing is
/// installed. The folder of the libraries.
///
/// They are in the component `non-free` of wherever this machine's packages come from.
///
/// # Errors
/// They cannot be fetched.
pub fn driver_libraries() -> Result<PathBuf, &'static str> {
    const WHY: &str = "Debian 12 or newer with apt, and its component non-free within reach";
    let folder = crate::machine::target_folder().join("nvidia-driver-libraries");
    let libraries = folder.join("root/usr/lib/x86_64-linux-gnu/nvidia/current");
    if libraries.join("libnvidia-ml.so.1").exists() {
        return Ok(libraries);
    }
    let script = r#"
        set -e
        mkdir -p "$1/new/parts" "$1/new/lists/partial" "$1/new/cache/archives/partial"
        cd "$1/new"
        exec 9>"$1/lock"
        flock 9
        [ -e "$1/root" ] && exit 0
        sed 's/^Components:.*/Components: non-free/' /etc/apt/sources.list.d/debian.sources > parts/x.sources
        apt="apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$PWD/parts
            -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root"
        $apt update
        $apt download libnvidia-ml1 libcuda1
        for package in *.deb; do dpkg -x "$package" root; done
        mv root "$1/root"
        rm -r "$1/new""#;
    let fetched = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(&folder)
        .output();
    let there = libraries.join("libnvidia-ml.so.1").exists();
    match fetched {
        Ok(output) if output.status.success() && there => Ok(libraries),
        _ => Err(WHY),
    }
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

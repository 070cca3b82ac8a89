//! A root filesystem whose programs look at the GPUs that they were given: Debian's
//! Python with NVIDIA's own bindings and what people watch GPUs with.
//!
//! The programs are `tests/nvidia/clients/*.py`, in the container's `/clients`. Each
//! prints one line of JSON, `{"error": …}` where there is no GPU, and exits with 0.
//!
//! It is made once, of this machine's files and of packages with known digests
//! (`requirements.txt` there), and kept in cargo's target folder under a name that
//! stands for the recipe: this file and those.

use std::collections::{BTreeSet, hash_map::DefaultHasher};
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use crate::machine::target_folder;
use crate::rootfs::{busybox, tar as archive};

/// The interpreter, here and in the container. No other: that of a folder of
/// somebody's own has its libraries where no root filesystem has them.
const PYTHON: &str = "/usr/bin/python3";

/// Where Debian's Python looks for packages.
const PACKAGES: &str = "usr/lib/python3/dist-packages";

/// What each program is given to look with, and at which version.
pub const REQUIREMENTS: &str = include_str!("../nvidia/clients/requirements.txt");

/// The programs that look.
pub const PROGRAMS: [&str; 4] = ["nvml_check", "gpustat_check", "nvitop_check", "cuda_check"];

/// What is in `/clients`.
const FILES: [(&str, &str); 5] = [
    ("answer.py", include_str!("../nvidia/clients/answer.py")),
    (
        "nvml_check.py",
        include_str!("../nvidia/clients/nvml_check.py"),
    ),
    (
        "gpustat_check.py",
        include_str!("../nvidia/clients/gpustat_check.py"),
    ),
    (
        "nvitop_check.py",
        include_str!("../nvidia/clients/nvitop_check.py"),
    ),
    (
        "cuda_check.py",
        include_str!("../nvidia/clients/cuda_check.py"),
    ),
];

/// What of the standard library no client needs: a third of its files, most of its
/// size and the libraries of a dozen packages.
const SPARE: [&str; 18] = [
    "__pycache__",
    "config-*",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "test",
    "tkinter",
    "turtledemo",
    "_ctypes_test",
    "_dbm",
    "_gdbm",
    "_test*",
    "_tkinter",
    "_xxtest*",
    "nis",
    "ossaudiodev",
    "xxlimited*",
];

/// Of `cuda-bindings`, the modules of the driver's API; the others, four fifths of
/// it, are those of the toolkit's libraries.
const CUDA: [&str; 3] = ["cydriver", "driver", "utils"];

/// Libraries of glibc's that are empty by now. NVIDIA's still name them.
const FORMERLY: [&str; 3] = ["libdl.so.2", "libpthread.so.0", "librt.so.1"];

/// A root filesystem for `divvy run --rootfs`.
///
/// # Panics
/// It cannot be made: [`requires!`](crate::requires) `python_clients` first.
#[must_use]
pub fn rootfs() -> PathBuf {
    made().expect("requires!(python_clients)").join("rootfs")
}

/// The same as an archive, for `docker import`.
///
/// # Panics
/// As [`rootfs`].
#[must_use]
pub fn tar() -> PathBuf {
    made()
        .expect("requires!(python_clients)")
        .join("rootfs.tar")
}

/// The words that run one of [`PROGRAMS`] in a container.
#[must_use]
pub fn look(program: &str) -> [String; 2] {
    [PYTHON.to_owned(), format!("/clients/{program}.py")]
}

/// The folder with both. It is made if it is not there, by one process at a time.
pub(crate) fn made() -> Result<PathBuf, &'static str> {
    let target = target_folder();
    let at = target.join(format!("nvidia-clients-{:016x}", recipe()));
    if at.is_dir() {
        return Ok(at);
    }
    let host = Host::look()?;
    let lock = File::create(target.join("nvidia-clients.lock")).expect("a file");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock");
    if at.is_dir() {
        return Ok(at);
    }
    // Those of older recipes, and what a build that was killed has left.
    for entry in fs::read_dir(&target).expect("cargo's folder").flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("nvidia-clients-") {
            fs::remove_dir_all(entry.path()).expect("a folder of ours");
        }
    }
    let new = target.join("nvidia-clients-new");
    host.build(&new.join("rootfs"))?;
    archive(&new.join("rootfs"), &new.join("rootfs.tar"));
    fs::rename(&new, &at).expect("a folder of ours");
    Ok(at)
}

fn recipe() -> u64 {
    let mut hasher = DefaultHasher::new();
    (include_str!("clients.rs"), REQUIREMENTS, FILES).hash(&mut hasher);
    fs::canonicalize(PYTHON).ok().hash(&mut hasher);
    hasher.finish()
}

/// What it is made of, on this machine.
#[derive(Debug)]
struct Host {
    /// `3.11`.
    version: String,
    /// Which Python has a pip.
    pip: &'static str,
}

impl Host {
    fn look() -> Result<Self, &'static str> {
        let file = fs::canonicalize(PYTHON).unwrap_or_default();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let version = name.strip_prefix("python").unwrap_or_default().to_owned();
        let minor = version.strip_prefix("3.").and_then(|n| n.parse().ok());
        if minor.is_none_or(|n: u32| n < 11) || !standard_library(&version).join("os.py").is_file()
        {
            return Err("apt install python3: Debian's own, 3.11 or newer");
        }
        // A dynamic one names libraries.
        let shell = Path::new("/bin/busybox");
        if !shell.is_file() || !libraries(&[shell.to_owned()]).is_empty() {
            return Err("apt install busybox-static");
        }
        let has_pip = |python: &&str| {
            let output = plain(python).args(["-m", "pip", "--version"]).output();
            output.is_ok_and(|o| o.status.success())
        };
        let pip = [PYTHON, "python3"].into_iter().find(has_pip);
        let pip = pip.ok_or("apt install python3-pip")?;
        Ok(Self { version, pip })
    }

    fn build(&self, root: &Path) -> Result<(), &'static str> {
        busybox(root);
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(root.join("tmp"), open).expect("a folder of ours");
        for folder in ["clients", "usr/bin", PACKAGES] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        // Where the loader and the C library are looked for, as on this machine.
        for folder in ["lib", "lib64"] {
            if let Ok(to) = fs::read_link(Path::new("/").join(folder)) {
                fs::create_dir_all(root.join(&to)).expect("a folder");
                symlink(to, root.join(folder)).expect("a link");
            }
        }
        for (name, text) in FILES {
            fs::write(root.join("clients").join(name), text).expect("a file");
        }
        self.interpreter(root);
        self.packages(root)?;
        self.shared_objects(root);
        self.compile(root);
        Ok(())
    }

    fn interpreter(&self, root: &Path) {
        let name = format!("python{}", self.version);
        fs::copy(PYTHON, root.join("usr/bin").join(&name)).expect("a copy");
        symlink(name, root.join("usr/bin/python3")).expect("a link");
        let library = standard_library(&self.version);
        copy(&library, &root.join(below_root(&library)));
    }

    fn packages(&self, root: &Path) -> Result<(), &'static str> {
        let to = root.join(PACKAGES);
        let list = root.with_file_name("requirements.txt");
        fs::write(&list, REQUIREMENTS).expect("a file");
        let output = plain(self.pip)
            .args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore"])
            // What a list has left out is found by the tests, not on some index.
            .args(["--no-deps", "--require-hashes", "--no-compile"])
            .args(["--python-version", &self.version, "--target"])
            .arg(&to)
            .arg("--requirement")
            .arg(&list)
            .output()
            .expect("pip");
        if !output.status.success() {
            // As in a skip: not only for tests that fail.
            let _ = std::io::stderr().write_all(&output.stderr);
            return Err("the network, once; what pip says is above");
        }
        fs::remove_file(list).expect("a file of ours");
        fs::remove_dir_all(to.join("bin")).expect("what pip made");
        let cuda = to.join("cuda/bindings");
        fs::remove_dir_all(cuda.join("_v2")).expect("what pip made");
        for file in files(&cuda) {
            let is = |kind: &str| file.extension().is_some_and(|e| e == kind);
            let foreign = is("so") && !CUDA.contains(&stem(&file).as_str());
            if foreign || is("pxd") || is("pxi") {
                fs::remove_file(file).expect("what pip made");
            }
        }
        Ok(())
    }

    /// Whatever the interpreter and the modules in the root are linked with, where
    /// this machine's loader finds it.
    fn shared_objects(&self, root: &Path) {
        let mut objects = files(&root.join("usr/lib"));
        objects.retain(|file| file.extension().is_some_and(|e| e == "so"));
        objects.push(PYTHON.into());
        let mut needed = libraries(&objects);
        let libc = needed.iter().find(|file| file.ends_with("libc.so.6"));
        let beside = libc.expect("a C library").clone();
        needed.extend(FORMERLY.map(|name| beside.with_file_name(name)));
        // What a package has of its own is there.
        needed.retain(|file| file.is_file() && !file.starts_with(root));
        for file in &needed {
            let to = root.join(below_root(file));
            fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            fs::copy(file, to).expect("a copy");
        }
    }

    /// Containers discard what they write: without this each would compile all that
    /// it imports again.
    fn compile(&self, root: &Path) {
        let output = plain(PYTHON)
            .args(["-I", "-m", "compileall", "-q", "-s"])
            .arg(root)
            // Valid whatever an archive makes of the files' times.
            .args(["-p", "/", "--invalidation-mode", "unchecked-hash"])
            .args([root.join("clients"), root.join("usr/lib")])
            .output()
            .expect("python3");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "compileall:\n{said}");
    }
}

fn standard_library(version: &str) -> PathBuf {
    format!("/usr/lib/python{version}").into()
}

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").expect("an absolute path")
}

/// A program of this machine's, without what cargo and rustup put before its
/// libraries.
fn plain(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").env_remove("LD_LIBRARY_PATH");
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
    command
}

/// The files that the loader would load with these, and itself.
///
/// # Panics
/// One is missing.
fn libraries(objects: &[PathBuf]) -> BTreeSet<PathBuf> {
    // It exits with 1 if one of them is static.
    let output = plain("ldd").args(objects).output().expect("ldd, of glibc");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("not found"), "{said}");
    // `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)`, `/lib64/ld-… (0x…)`
    let lines = said.lines().filter(|line| line.starts_with('\t'));
    let words = lines.flat_map(str::split_whitespace);
    let paths = words.filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

/// `driver` of `driver.cpython-311-x86_64-linux-gnu.so`.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

fn is_spare(path: &Path) -> bool {
    let stem = stem(path);
    SPARE.iter().any(|spare| match spare.strip_suffix('*') {
        Some(start) => stem.starts_with(start),
        None => stem == *spare,
    })
}

/// Copies a folder of the standard library's. What its links lead to is copied,
/// where that is there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (file, copied) = (entry.path(), to.join(entry.file_name()));
        if is_spare(&file) {
            continue;
        }
        match fs::metadata(&file) {
            Ok(meta) if meta.is_dir() => copy(&file, &copied),
            Ok(meta) if meta.is_file() => {
                fs::copy(&file, &copied).expect("a copy");
            }
            _ => {}
        }
    }
}

/// All files in a folder and its folders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

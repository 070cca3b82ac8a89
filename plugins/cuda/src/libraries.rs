//! Where the driver's libraries are: as the loader finds them, under a root folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::root::{Root, is_version};

/// Folders that loaders look in, and where drivers put their libraries besides:
/// Debian's and Ubuntu's multiarch folders, Fedora's and SUSE's, WSL's, NixOS's.
/// This machine's own architecture comes first.
fn folders() -> Vec<String> {
    let (own, other) = match std::env::consts::ARCH {
        "aarch64" => ("aarch64-linux-gnu", "x86_64-linux-gnu"),
        _ => ("x86_64-linux-gnu", "aarch64-linux-gnu"),
    };
    let multiarch = [own, other].map(|triple| format!("usr/lib/{triple}"));
    let plain = [
        "usr/lib64",
        "usr/lib",
        "usr/lib/wsl/lib",
        "run/opengl-driver/lib",
    ];
    let plain = plain.map(str::to_owned);
    multiarch.into_iter().chain(plain).collect()
}

/// Finds a library by the name that programs ask for.
pub(crate) fn find(root: &Root, name: &str) -> Option<PathBuf> {
    let cached = cached(root, name).into_iter();
    let folders = folders()
        .into_iter()
        .map(|folder| format!("{folder}/{name}"));
    cached
        .chain(folders)
        .map(|path| root.under(&path))
        .find(|path| real(root, path).is_some())
}

/// What the loader's cache says of a name. A cache that cannot be read says nothing.
fn cached(root: &Root, name: &str) -> Vec<String> {
    let Ok(bytes) = fs::read(root.under("etc/ld.so.cache")) else {
        return vec![];
    };
    let parse = || ld_so_cache::parsers::parse_ld_cache(&bytes).and_then(|c| c.get_entries());
    // A parser's slip is no reason to have no GPUs.
    let entries = std::panic::catch_unwind(parse).ok().and_then(Result::ok);
    let mut entries = entries.unwrap_or_default();
    // A 64-bit machine may have the 32-bit library too.
    entries.retain(|entry| entry.library_name == name && is_64_bit(entry.flags));
    entries
        .into_iter()
        .map(|entry| entry.library_path)
        .collect()
}

/// The architecture in an entry's flags (glibc, `FLAG_X8664_LIB64` and its like in
/// sysdeps/generic/ldconfig.h); 0 is the 32-bit one of x86, and of MIPS.
fn is_64_bit(flags: i32) -> bool {
    flags & 0xff00 != 0
}

/// Nobody but root, or whoever runs this, can change a library that is about to be
/// loaded, or put another in its place.
pub(crate) fn trusted(path: &Path) -> Result<(), Error> {
    let me = rustix::process::geteuid().as_raw();
    let Ok(file) = path.canonicalize() else {
        // The loader says why in its own words.
        return Ok(());
    };
    for path in [Some(file.as_path()), file.parent()].into_iter().flatten() {
        let Ok(meta) = fs::metadata(path) else {
            continue;
        };
        let others = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
        if others || (meta.uid() != 0 && meta.uid() != me) {
            return Err(Error::Untrusted(path.display().to_string()));
        }
    }
    Ok(())
}

/// The file behind a path, if it is a file of this machine.
fn real(root: &Root, path: &Path) -> Option<PathBuf> {
    let real = path.canonicalize().ok()?;
    let base = root.path().canonicalize().ok()?;
    (real.is_file() && real.starts_with(base)).then_some(real)
}

/// The version in a library's real file name: `libcuda.so.580.105.08`.
pub(crate) fn version(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let (_, version) = real.file_name()?.to_str()?.split_once(".so.")?;
    is_version(version).then(|| version.to_owned())
}

/// Libraries of the driver without its version in their names.
const UNNUMBERED: [&str; 1] = ["libnvidia-nvvm70.so.4"];

/// All libraries of the driver: by the names that the loader looks for, their files.
///
/// Those are the names beside `libcuda.so.1` and `libnvidia-ml.so.1` that lead to
/// files of the driver's version: NVIDIA numbers all of its libraries alike.
pub(crate) fn driver(root: &Root, known: &[&Path]) -> BTreeMap<String, PathBuf> {
    let versions: BTreeSet<String> = known.iter().filter_map(|path| version(path)).collect();
    let folders: BTreeSet<PathBuf> = known
        .iter()
        .flat_map(|path| [Some((*path).to_owned()), path.canonicalize().ok()])
        .filter_map(|path| path?.parent().map(Path::to_owned))
        .collect();
    let numbered = |name: &str| {
        let version = name.split_once(".so.").map(|(_, version)| version);
        version.is_some_and(|version| versions.contains(version))
    };
    let mut libraries = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !name.starts_with("lib") || !name.contains(".so") {
                continue;
            }
            // Thousands of others are in the same folder.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if !is_link && !numbered(&name) && !UNNUMBERED.contains(&name.as_str()) {
                continue;
            }
            let Some(file) = real(root, &entry.path()) else {
                continue;
            };
            let target = file
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if numbered(target) || UNNUMBERED.contains(&target) {
                libraries.insert(name, file);
            }
        }
    }
    libraries
}

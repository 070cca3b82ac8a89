//! Where the driver's libraries are: as the loader finds them, under a root folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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
        "usr/local/nvidia/lib64",
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
    let mut paths: Vec<String> = entries
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.library_name == name)
        .map(|entry| entry.library_path)
        .collect();
    // A 64-bit machine may have the 32-bit library too; it is never in these.
    paths.sort_by_key(|path| path.contains("/i386-") || path.contains("/lib32/"));
    paths
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

/// All libraries of the driver: by the names that the loader looks for, their files.
///
/// Those are the names beside `libcuda.so.1` and `libnvidia-ml.so.1` that lead to
/// files of the driver's version: NVIDIA numbers all of its libraries alike. WSL
/// does not; there the whole folder is the driver's.
pub(crate) fn driver(root: &Root, known: &[&Path]) -> BTreeMap<String, PathBuf> {
    let versions: BTreeSet<String> = known.iter().filter_map(|path| version(path)).collect();
    let folders: BTreeSet<PathBuf> = known
        .iter()
        .flat_map(|path| [Some((*path).to_owned()), real(root, path)])
        .filter_map(|path| path?.parent().map(Path::to_owned))
        .collect();
    let mut libraries = BTreeMap::new();
    for folder in folders {
        let all = folder.ends_with("wsl/lib");
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
            let Some(file) = real(root, &entry.path()) else {
                continue;
            };
            if all || version(&file).is_some_and(|version| versions.contains(&version)) {
                libraries.insert(name, file);
            }
        }
    }
    libraries
}

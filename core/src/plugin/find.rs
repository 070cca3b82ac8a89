//! Which files are plugins, and whether they may be loaded at all.
//!
//! Whoever can write a plugin file is the agent. So a file is loaded only from
//! a folder that nobody else can change (S12): folder, file and every parent
//! are owned by root or the agent's user and not writable by group or others;
//! parents may be root-owned *sticky* folders such as `/tmp`. Symbolic links
//! are refused. The file is opened once, checked through that descriptor, and
//! the same descriptor is what the host loads, so nothing can be swapped in
//! between.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use crate::sys;

/// File names of plugins: `libdivvy_plugin_NAME.so`.
const PREFIX: &str = "libdivvy_plugin_";
const SUFFIX: &str = ".so";

/// Why a plugin folder or file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The folder cannot be read.
    #[error("the plugin folder {0} cannot be read: {1}; {remedy}", remedy = sys::remedy(.1, "name another with --plugin-dir"))]
    Folder(PathBuf, std::io::Error),
    /// No folder was named, and none of the usual ones exists.
    #[error("there is no plugin folder; looked for {0}; name one with --plugin-dir")]
    NoFolder(String),
    /// Someone else could change it.
    #[error("{path} is not safe to load plugins from: {why}; {remedy}")]
    Unsafe {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// The command that mends it.
        remedy: String,
    },
    /// The file cannot be opened.
    #[error("the plugin {0} cannot be opened: {1}")]
    Open(PathBuf, std::io::Error),
    /// Not a file.
    #[error("the plugin {0} is {1}, not a regular file")]
    NotAFile(PathBuf, &'static str),
}

/// A plugin file, open and checked.
#[derive(Debug)]
pub struct PluginFile {
    /// Where it was found; for people.
    pub path: PathBuf,
    /// What will be loaded.
    pub fd: OwnedFd,
}

impl PluginFile {
    /// The name that the file has between `libdivvy_plugin_` and `.so`.
    #[must_use]
    pub fn name(&self) -> String {
        file_plugin_name(&self.path)
    }

    /// What changes when another file takes its place, or it is written to:
    /// device, inode, size, and when it was last written, ns.
    #[must_use]
    pub fn identity(&self) -> (PathBuf, Option<[i128; 4]>) {
        let stat = rustix::fs::fstat(&self.fd).ok().map(|s| {
            let written = i128::from(s.st_mtime) * 1_000_000_000 + i128::from(s.st_mtime_nsec);
            [s.st_dev.into(), s.st_ino.into(), s.st_size.into(), written]
        });
        (self.path.clone(), stat)
    }
}

pub(super) fn file_plugin_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix(PREFIX)
        .and_then(|n| n.strip_suffix(SUFFIX))
        .map_or_else(|| name.clone().into_owned(), |n| n.replace('_', "-"))
}

/// Opens every plugin file of a folder, in name order; each file's own fault
/// is its own error.
///
/// # Errors
/// The folder is missing, unreadable or unsafe.
pub fn find(folder: &Path) -> Result<Vec<Result<PluginFile, FindError>>, FindError> {
    let folder_error = |e: std::io::Error| FindError::Folder(folder.to_owned(), e);
    let real = folder.canonicalize().map_err(folder_error)?;
    check_ancestors(&real)?;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&real)
        .map_err(folder_error)?
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(PREFIX) && name.ends_with(SUFFIX)
        })
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths.into_iter().map(open).collect())
}

/// Opens one file that was named, wherever it is: who names a file means it, so
/// the folders above are not looked at. The file itself has to be safe.
///
/// # Errors
/// It cannot be opened, is no regular file, or others can change it.
pub(crate) fn open(path: PathBuf) -> Result<PluginFile, FindError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::LOOP => FindError::NotAFile(path.clone(), "a symbolic link"),
        e => FindError::Open(path.clone(), e.into()),
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| FindError::Open(path.clone(), e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(FindError::NotAFile(path, "a folder")),
        _ => return Err(FindError::NotAFile(path, "a special file")),
    }
    check_owner(&path, stat.st_uid, stat.st_mode, false)?;
    Ok(PluginFile { path, fd })
}

/// Looks whether others than root, or this user, can change a folder or put another in
/// its place.
///
/// # Errors
/// They can, and how it is mended.
pub(crate) fn check_ancestors(folder: &Path) -> Result<(), FindError> {
    for (depth, path) in folder.ancestors().enumerate() {
        let stat = rustix::fs::stat(path).map_err(|e| FindError::Folder(path.into(), e.into()))?;
        check_owner(path, stat.st_uid, stat.st_mode, depth > 0)?;
    }
    Ok(())
}

/// The same of one file.
///
/// # Errors
/// It is not there, or others can change it.
pub(crate) fn check_file(path: &Path) -> Result<(), FindError> {
    let stat = rustix::fs::stat(path).map_err(|e| FindError::Open(path.into(), e.into()))?;
    check_owner(path, stat.st_uid, stat.st_mode, false)
}

fn check_owner(path: &Path, uid: u32, mode: u32, parent: bool) -> Result<(), FindError> {
    let me = rustix::process::geteuid().as_raw();
    let refuse = |why: String, remedy: String| {
        Err(FindError::Unsafe {
            path: path.to_owned(),
            why,
            remedy,
        })
    };
    if uid != 0 && uid != me {
        return refuse(
            format!("it belongs to user {uid}, who could change it"),
            format!(
                "chown root {}, or install the plugins elsewhere",
                path.display()
            ),
        );
    }
    let mode = Mode::from_raw_mode(mode);
    let writable = mode.intersects(Mode::WGRP | Mode::WOTH);
    let sticky = parent && uid == 0 && mode.contains(Mode::SVTX);
    if writable && !sticky {
        return refuse(
            "group or others may write to it".into(),
            format!("chmod go-w {}", path.display()),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn only_plugin_names_count_and_each_file_fails_alone() {
        let dir = folder();
        fs::write(dir.path().join("libdivvy_plugin_a.so"), "").unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        fs::create_dir(dir.path().join("libdivvy_plugin_b.so")).unwrap();
        symlink("/etc/passwd", dir.path().join("libdivvy_plugin_c.so")).unwrap();
        fs::write(dir.path().join("libdivvy_plugin_d.so"), "").unwrap();
        fs::set_permissions(
            dir.path().join("libdivvy_plugin_d.so"),
            Permissions::from_mode(0o666),
        )
        .unwrap();
        let found: Vec<String> = find(dir.path())
            .unwrap()
            .into_iter()
            .map(|f| f.map_or_else(|e| e.to_string(), |f| f.name()))
            .collect();
        assert_eq!(found[0], "a");
        assert!(found[1].ends_with("libdivvy_plugin_b.so is a folder, not a regular file"));
        assert!(found[2].contains("symbolic link"), "{}", found[2]);
        assert!(
            found[3].contains("group or others may write"),
            "{}",
            found[3]
        );
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused_even_when_sticky() {
        let dir = folder();
        for mode in [0o777, 0o1777, 0o770] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let error = find(dir.path()).unwrap_err().to_string();
            assert!(error.contains("chmod go-w"), "{error}");
        }
    }

    #[test]
    fn a_parent_that_others_can_write_is_refused() {
        let dir = folder();
        let inner = dir.path().join("plugins");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(find(&inner).unwrap_err().to_string().contains("go-w"));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = find(Path::new("/nonexistent/x")).unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/x") && error.contains("--plugin-dir"),
            "{error}"
        );
    }
}

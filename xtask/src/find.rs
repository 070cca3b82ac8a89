//! Looking for programs.

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::fs::{Access, access};

/// The program of this name, where `divvy` would find it: on `PATH`, then where
/// Debian keeps what only root needs.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find(name, &path, &["/usr/local/sbin", "/usr/sbin", "/sbin"])
}

fn find(name: &str, path: &OsStr, more: &[&str]) -> Option<PathBuf> {
    std::env::split_paths(path)
        .chain(more.iter().map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

/// Is this ELF file free of a dynamic loader (no `PT_INTERP`, elf(5))? What
/// cannot be read is not.
pub(crate) fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let wide = match elf.get(..6) {
        Some([0x7f, b'E', b'L', b'F', class, 1]) => *class == 2,
        _ => return false, // not ELF, or big-endian: no machine of ours
    };
    // Where the program headers are, how large each is, and how many.
    let header = if wide {
        (
            number(elf, 0x20, 8),
            number(elf, 0x36, 2),
            number(elf, 0x38, 2),
        )
    } else {
        (
            number(elf, 0x1c, 4),
            number(elf, 0x2a, 2),
            number(elf, 0x2c, 2),
        )
    };
    let (Some(start), Some(size), Some(count)) = header else {
        return false;
    };
    (0..count).all(|i| {
        let at = start.saturating_add(i.saturating_mul(size));
        number(elf, at, 4).is_some_and(|kind| kind != u64::from(PT_INTERP))
    })
}

/// A little-endian number at an offset.
fn number(bytes: &[u8], at: u64, len: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let slice = bytes.get(at..at.checked_add(len)?)?;
    Some(
        slice
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_an_executable_file_in_an_absolute_folder() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let (plain, good) = (temp.path().join("plain"), temp.path().join("good"));
        for (folder, mode) in [(&plain, 0o644), (&good, 0o755)] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("tool"), "").unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.join("tool"), mode).unwrap();
        }
        let path = std::env::join_paths([PathBuf::from("."), plain, good.clone()]).unwrap();
        assert_eq!(find("tool", &path, &[]), Some(good.join("tool")));
        assert_eq!(find("other", &path, &["/nonexistent"]), None);
    }

    #[test]
    fn a_test_binary_has_a_loader_and_a_text_is_no_binary() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        if cfg!(all(target_env = "gnu", not(target_feature = "crt-static"))) {
            assert!(!is_static(&own));
        }
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(&own[..0x30]));
    }
}

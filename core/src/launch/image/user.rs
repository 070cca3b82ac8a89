//! Finds the user that an image or a request names in a root file system.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::error::{ImageError, shown};
use super::limits::MAX_ACCOUNT_FILE_BYTES;

/// Who a container's process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, sorted, the primary one among them: without it a
    /// setgid program could shed the primary group (CVE-2022-36109).
    pub additional_gids: Vec<u32>,
}

/// Largest id that is accepted, as in Docker: ids above are negative for some programs.
const MAX_ID: u32 = i32::MAX as u32;

/// Resolves `user[:group]`, each a name or a number, in `/etc/passwd` and `/etc/group` of `rootfs`.
///
/// The launcher calls this on the merged folder before the container starts; nothing there
/// is followed out of `rootfs` (S4). Rules of the OCI image spec, config.md, "User": without a
/// group, the user's own groups apply; a number needs no entry; empty means root.
/// Malformed lines are skipped.
///
/// # Errors
/// [`ImageError::UnknownUser`], [`ImageError::Invalid`] or [`ImageError::TooLarge`] for
/// account files that are none, [`ImageError::Io`].
pub fn lookup_user(rootfs: &Path, user: &str) -> Result<User, ImageError> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let unknown = |problem: String| ImageError::UnknownUser {
        rootfs: rootfs.into(),
        user: user.escape_debug().take(160).collect(),
        problem,
    };
    let name = if name.is_empty() { "0" } else { name };
    let passwd = read(rootfs, "etc/passwd")?;
    let account = accounts(&passwd).find(|a| a.name == name || number(name) == Some(a.uid));
    let uid = account
        .as_ref()
        .map(|a| a.uid)
        .or_else(|| number(name))
        .ok_or_else(|| unknown("its /etc/passwd has no such user".into()))?;

    let groups_file = read(rootfs, "etc/group")?;
    if let Some(group) = group {
        let gid = groups(&groups_file)
            .find(|g| g.name == group || number(group) == Some(g.gid))
            .map(|g| g.gid)
            .or_else(|| number(group))
            .ok_or_else(|| unknown("its /etc/group has no such group".into()))?;
        return Ok(User {
            uid,
            gid,
            additional_gids: vec![gid],
        });
    }
    let gid = account.as_ref().map_or(0, |a| a.gid);
    let mut additional_gids = vec![gid];
    if let Some(account) = account {
        additional_gids.extend(
            groups(&groups_file)
                .filter(|g| g.has(account.name))
                .map(|g| g.gid),
        );
    }
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User {
        uid,
        gid,
        additional_gids,
    })
}

/// A line of passwd(5).
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        Some(Account { name, uid, gid })
    })
}

/// A line of group(5).
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Group<'_> {
    fn has(&self, name: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == name)
    }
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number(fields.nth(1)?)?;
        Some(Group {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    })
}

/// Digits only: `parse` alone would take `+0`.
fn number(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

/// A file of the root file system as text; a missing one is empty.
fn read(rootfs: &Path, name: &str) -> Result<String, ImageError> {
    let at = rootfs.display().to_string();
    let root = openat(
        CWD,
        rootfs,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| ImageError::io(&at, "open it", e))?;
    // O_NONBLOCK: opening a fifo must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&root, name, flags, Mode::empty(), resolve) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(Errno::LOOP) => {
            return Err(ImageError::unsafe_entry(
                &at,
                name.as_bytes(),
                "is a loop of symbolic links",
            ));
        }
        Err(e) => {
            return Err(ImageError::io(
                &at,
                format!("open {}", shown(name.as_bytes())),
                e,
            ));
        }
    };
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Err(ImageError::invalid(
            &at,
            format!("{name} is not a regular file"),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_ACCOUNT_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| ImageError::reading(&at, e))?;
    if bytes.len() as u64 > MAX_ACCOUNT_FILE_BYTES {
        return Err(ImageError::too_large(
            &at,
            format!("{name} in bytes"),
            MAX_ACCOUNT_FILE_BYTES,
        ));
    }
    // Names need not be UTF-8 in other lines: only those lines become unusable.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

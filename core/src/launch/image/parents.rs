//! Keeps the owner and mode of folders that a layer uses without naming them.
//!
//! A layer may hold `tmp/x` and no entry for `tmp` (umoci, kaniko and bazel write such). Its
//! folder then needs a made-up `tmp`, and overlayfs would show that one instead of
//! the 1777 of the layer below. Layers are shared between images, so they cannot copy
//! from a neighbour: instead the stack gets one more layer on top, of such
//! folders alone, each with the owner, mode and time that the image means.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Gid, Stat, Timespec, Timestamps, Uid, fchmod, fchown, fgetxattr, futimens,
    statat,
};
use rustix::io::Errno;

use super::error::ImageError;
use super::tree::{Tree, mode, open_below};

/// A path without links, as components.
pub(super) type Real = Vec<Vec<u8>>;

/// One unpacked layer and the folders that it does not name.
pub(super) struct Stacked {
    pub(super) root: OwnedFd,
    pub(super) implied: BTreeSet<Real>,
}

/// The folders whose looks must be repaired, parents before children. `stack` has the lowest layer first.
pub(super) fn repairs(at: &str, stack: &[Stacked]) -> Result<BTreeMap<Real, Stat>, ImageError> {
    let mut repairs = BTreeMap::new();
    let all: BTreeSet<&Real> = stack
        .iter()
        .skip(1)
        .flat_map(|layer| &layer.implied)
        .collect();
    for path in all {
        let Some(seen) = look(at, stack, path)? else {
            continue;
        };
        if !seen.hidden {
            continue;
        }
        // The parents come along, and must not change their looks by that.
        for length in 1..path.len() {
            let parent: Real = path.iter().take(length).cloned().collect();
            if !repairs.contains_key(&parent)
                && let Some(seen) = look(at, stack, &parent)?
            {
                repairs.insert(parent, seen.stat);
            }
        }
        repairs.insert(path.clone(), seen.stat);
    }
    Ok(repairs)
}

/// Makes the folders in the empty folder `root`, which gets the looks of `below`.
pub(super) fn make(
    root: OwnedFd,
    at: &str,
    repairs: &BTreeMap<Real, Stat>,
    below: Option<Stat>,
) -> Result<(), ImageError> {
    let mut tree = Tree::new(root, at.to_owned());
    for path in repairs.keys() {
        let parts: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        tree.make_folder(&parts)?;
    }
    // Children first: making them changed their parents' times.
    let top = below.map(|stat| (Real::new(), stat));
    let looks = repairs
        .iter()
        .rev()
        .map(|(path, stat)| (path.clone(), *stat))
        .chain(top);
    for (path, stat) in looks {
        let fd = tree.open_real(&path)?;
        let nanos = stat.st_mtime_nsec.try_into().unwrap_or(0);
        let time = Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: nanos,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        fchown(
            &*fd,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )
        .and_then(|()| fchmod(&*fd, mode(stat.st_mode)))
        .and_then(|()| futimens(&*fd, &times))
        .map_err(|e| tree.io("set the owner and mode of", &path.join(&b'/'), e))?;
    }
    Ok(())
}

/// What the image means a folder to look like.
struct Seen {
    stat: Stat,
    /// A made-up folder in an upper layer hides it.
    hidden: bool,
}

/// Looks a folder up as overlayfs does, from the top, but past folders that are made up.
fn look(at: &str, stack: &[Stacked], path: &Real) -> Result<Option<Seen>, ImageError> {
    let mut made_up = None;
    for layer in stack.iter().rev() {
        let found = find(&layer.root, path)
            .map_err(|e| ImageError::io(at, "look at its unpacked layers", e))?;
        if let Some(stat) = found.stat {
            if !layer.implied.contains(path) {
                return Ok(Some(Seen {
                    stat,
                    hidden: made_up.is_some(),
                }));
            }
            made_up.get_or_insert(stat);
        }
        if found.ends {
            break;
        }
    }
    Ok(made_up.map(|stat| Seen {
        stat,
        hidden: false,
    }))
}

struct Found {
    stat: Option<Stat>,
    /// Lower layers do not show through here: a whiteout, a file, or an opaque folder.
    ends: bool,
}

fn find(root: &OwnedFd, path: &Real) -> Result<Found, Errno> {
    let mut ends = false;
    let mut folder: Option<OwnedFd> = None;
    let mut stat = None;
    for part in path {
        let above = folder.as_ref().unwrap_or(root);
        let here = match statat(above, part.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(here) => here,
            Err(Errno::NOENT) => return Ok(Found { stat: None, ends }),
            Err(e) => return Err(e),
        };
        if FileType::from_raw_mode(here.st_mode) != FileType::Directory {
            return Ok(Found {
                stat: None,
                ends: true,
            });
        }
        let fd = open_below(above, part)?;
        let mut value = [0u8; 4];
        ends |= fgetxattr(&fd, "trusted.overlay.opaque", &mut value).is_ok_and(|n| n > 0);
        folder = Some(fd);
        stat = Some(here);
    }
    Ok(Found { stat, ends })
}

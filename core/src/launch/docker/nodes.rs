//! Device nodes for an engine, which copies them from the host's.
//!
//! An engine takes a path, not numbers: what lies there when it looks is what
//! the container gets. So a node of the host is named only if it is exactly the
//! one that was granted; else one is made in the workload's own folder, where
//! nobody but root can change it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, major, makedev, minor, mknodat};

use crate::launch::LaunchError;
use crate::model::{DeviceNode, Edits, NodeKind};

/// The mode of a node where its plugin does not say: as in OCI bundles.
const MODE: u32 = 0o666;

/// Where on the host each granted node is, in the edits' order; `folder` is for
/// those that have to be made.
pub(super) fn on_host(edits: &Edits, folder: &Path) -> Result<Vec<PathBuf>, LaunchError> {
    let failed = |e| LaunchError::file("cannot make device nodes in", folder)(e);
    edits
        .device_nodes
        .iter()
        .enumerate()
        .map(|(n, node)| {
            let path = Path::new(&node.path);
            if is(path, node) {
                return Ok(path.to_owned());
            }
            make(&folder.join(n.to_string()), node).map_err(failed)
        })
        .collect()
}

/// Is there exactly this node?
fn is(path: &Path, node: &DeviceNode) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return false;
    };
    let kind = match node.kind {
        NodeKind::Char => meta.file_type().is_char_device(),
        NodeKind::Block => meta.file_type().is_block_device(),
    };
    kind && (major(meta.rdev()), minor(meta.rdev())) == (node.major, node.minor)
        && meta.mode() & 0o7777 == node.mode.unwrap_or(MODE)
        && (meta.uid(), meta.gid()) == (0, node.gid.unwrap_or(0))
}

fn make(path: &Path, node: &DeviceNode) -> io::Result<PathBuf> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let kind = match node.kind {
        NodeKind::Char => FileType::CharacterDevice,
        NodeKind::Block => FileType::BlockDevice,
    };
    let device = makedev(node.major, node.minor);
    mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device)?;
    std::os::unix::fs::chown(path, Some(0), Some(node.gid.unwrap_or(0)))?;
    // Whatever the umask.
    let mode = node.mode.unwrap_or(MODE);
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null(path: &str, minor: u32) -> DeviceNode {
        DeviceNode {
            device: "a".into(),
            path: path.into(),
            kind: NodeKind::Char,
            major: 1,
            minor,
            write: true,
            mode: None,
            gid: None,
        }
    }

    #[test]
    fn the_hosts_node_is_named_only_if_it_is_the_granted_one() {
        if !crate::sys::is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("nodes");
        let mut private = null("/dev/null", 3);
        private.mode = Some(0o640);
        private.gid = Some(44);
        let edits = Edits {
            device_nodes: vec![
                null("/dev/null", 3),
                null("/dev/null", 5),
                null("/dev/no/such", 3),
                private,
            ],
            ..Edits::default()
        };
        let found = on_host(&edits, &own).unwrap();
        assert_eq!(found[0], Path::new("/dev/null"));
        for (path, node) in found.iter().zip(&edits.device_nodes).skip(1) {
            assert!(path.starts_with(&own), "{}", path.display());
            assert!(is(path, node), "{}", path.display());
        }
    }
}

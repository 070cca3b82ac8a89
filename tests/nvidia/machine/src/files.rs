//! What the driver shows below `/dev`, `/proc` and `/sys`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use crate::description::{Description, Gpu, GpuInstance, Instance};
use crate::machine::Error;
use crate::pci;

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    File(String),
    Link(PathBuf),
    /// A character device: major, minor, permissions.
    Node(u32, u32, u32),
}

/// What there is below the root.
type Tree = BTreeMap<PathBuf, Entry>;

/// Where below a root what is made here is: a folder, and how its entries' names begin.
/// What else is there stays.
const OURS: [(&str, &str); 6] = [
    ("dev", "nvidia"),
    ("proc", "devices"),
    ("proc/driver", "nvidia"),
    ("sys/bus", "pci"),
    ("sys/devices", "pci"),
    ("sys/module", "nvidia"),
];

/// Makes all of it as the description says: what is right already is left alone, so that
/// what has a file open or mounted keeps it.
///
/// # Errors
/// A file cannot be made. That device nodes may not be made is none: only root may.
pub(crate) fn make(description: &Description, root: &Path) -> Result<(), Error> {
    let wanted = tree(description);
    for (folder, begin) in OURS {
        for entry in fs::read_dir(root.join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(begin) {
                prune(root, &Path::new(folder).join(entry.file_name()), &wanted)?;
            }
        }
    }
    for (at, entry) in &wanted {
        put(&root.join(at), entry)?;
    }
    Ok(())
}

/// The minor number of the capability to use a GPU instance, or a compute instance in it,
/// on the GPU with this minor: N of `/dev/nvidia-caps/nvidia-capN`. The driver numbers
/// them all ahead: 15 GPU instances a GPU, each with 8 compute instances.
#[must_use]
pub fn capability(gpu: u32, gi: u32, ci: Option<u32>) -> u32 {
    3 + gpu * 15 * 9 + gi * 9 + ci.map_or(0, |ci| ci + 1)
}

// === impl Tree ===

fn tree(description: &Description) -> Tree {
    let mut tree = Tree::new();
    let gpus: Vec<&Gpu> = description.gpu.values().filter(|gpu| gpu.present).collect();
    for gpu in &gpus {
        sysfs(&mut tree, description, gpu);
    }
    file(&mut tree, "proc/devices", devices(description));
    if description.loaded {
        driver(&mut tree, description, &gpus);
        nodes(&mut tree, description, &gpus);
        capabilities(&mut tree, description, &gpus);
    }
    tree.retain(|path, _| {
        let missing = |name: &String| path.starts_with(name.trim_start_matches('/'));
        !description.missing.iter().any(missing)
    });
    tree
}

fn file(tree: &mut Tree, at: impl Into<PathBuf>, content: impl Into<String>) {
    tree.insert(at.into(), Entry::File(content.into()));
}

/// Is the driver at least of this version?
fn since(description: &Description, major: u32) -> bool {
    let version = description.driver.split('.').next();
    version
        .and_then(|version| version.parse().ok())
        .is_some_and(|version: u32| version >= major)
}

/// Has the driver capabilities at all?
fn has_capabilities(description: &Description) -> bool {
    since(description, 450)
}

fn devices(description: &Description) -> String {
    let mut lines = vec![(1, "mem"), (5, "/dev/tty"), (10, "misc"), (136, "pts")];
    let majors = &description.majors;
    if description.loaded {
        let names: &[&str] = match since(description, 550) {
            true => &["nvidia", "nvidia-modeset", "nvidiactl"],
            false => &["nvidia-frontend"],
        };
        lines.extend(names.iter().map(|name| (majors.nvidia, *name)));
        lines.push((majors.uvm, "nvidia-uvm"));
        if has_capabilities(description) {
            lines.push((majors.caps, "nvidia-caps"));
        }
    }
    let lines = lines
        .iter()
        .map(|(major, name)| format!("{major:3} {name}\n"));
    let characters: String = lines.collect();
    format!("Character devices:\n{characters}\nBlock devices:\n  8 sd\n259 blkext\n")
}

fn driver(tree: &mut Tree, description: &Description, gpus: &[&Gpu]) {
    let version = description
        .kernel_driver
        .as_ref()
        .unwrap_or(&description.driver);
    let architecture = &description.architecture;
    file(
        tree,
        "proc/driver/nvidia/version",
        format!(
            "NVRM version: NVIDIA UNIX Open Kernel Module for {architecture}  {version}  \
             Release Build  (dvs-builder@U22-I3-AE18-09-6)\n\
             GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
        ),
    );
    file(
        tree,
        "proc/driver/nvidia/params",
        "ResmanDebugLevel: 4294967295\nRmLogonRC: 1\nModifyDeviceFiles: 1\nDeviceFileUID: 0\n\
         DeviceFileGID: 0\nDeviceFileMode: 438\nInitializeSystemMemoryAllocations: 1\n\
         UsePageAttributeTable: 4294967295\nEnableMSI: 1\nEnablePCIeGen3: 0\n\
         RegistryDwords: \"\"\nRegistryDwordsPerDevice: \"\"\n",
    );
    file(tree, "sys/module/nvidia/version", format!("{version}\n"));
    for gpu in gpus {
        let unknown = "??.??.??.??.??".to_owned();
        let bios = gpu.vbios.as_ref().unwrap_or(&unknown);
        file(
            tree,
            format!("proc/driver/nvidia/gpus/{}/information", gpu.pci),
            format!(
                "Model: \t\t {}\nIRQ:   \t\t {}\nGPU UUID: \t {}\nVideo BIOS: \t {bios}\n\
                 Bus Type: \t PCIe\nDMA Size: \t 52 bits\nDMA Mask: \t 0xfffffffffffff\n\
                 Bus Location: \t {}\nDevice Minor: \t {}\nGPU Firmware: \t {version}\n\
                 GPU Excluded:\t No\n",
                gpu.name,
                64 + gpu.minor,
                gpu.uuid,
                gpu.pci,
                gpu.minor
            ),
        );
    }
}

fn nodes(tree: &mut Tree, description: &Description, gpus: &[&Gpu]) {
    let majors = &description.majors;
    let mut node = |name: String, major, minor| {
        let at = Path::new("dev").join(name);
        tree.insert(at, Entry::Node(major, minor, 0o666));
    };
    for gpu in gpus {
        node(format!("nvidia{}", gpu.minor), majors.nvidia, gpu.minor);
    }
    node("nvidiactl".into(), majors.nvidia, 255);
    node("nvidia-modeset".into(), majors.nvidia, 254);
    node("nvidia-uvm".into(), majors.uvm, 0);
    node("nvidia-uvm-tools".into(), majors.uvm, 1);
}

/// MIG's capabilities: who may open such a node may use what the file beside names.
fn capabilities(tree: &mut Tree, description: &Description, gpus: &[&Gpu]) {
    if !has_capabilities(description) {
        return;
    }
    let mut minors = String::from("config 1\nmonitor 2\n");
    for gpu in 0..32 {
        for gi in 0..15 {
            let minor = capability(gpu, gi, None);
            minors += &format!("gpu{gpu}/gi{gi}/access {minor}\n");
            for ci in 0..8 {
                let minor = capability(gpu, gi, Some(ci));
                minors += &format!("gpu{gpu}/gi{gi}/ci{ci}/access {minor}\n");
            }
        }
    }
    file(tree, "proc/driver/nvidia-caps/mig-minors", minors);
    if gpus.iter().all(|gpu| gpu.mig.is_none()) {
        return;
    }
    let major = description.majors.caps;
    let mut add = |at: String, minor: u32, mode: u32| {
        file(
            tree,
            format!("proc/driver/nvidia/capabilities/{at}"),
            format!("DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n"),
        );
        let node = format!("dev/nvidia-caps/nvidia-cap{minor}");
        tree.insert(node.into(), Entry::Node(major, minor, mode));
    };
    add("mig/config".into(), 1, 0o400);
    add("mig/monitor".into(), 2, 0o444);
    for gpu in gpus {
        let minor = gpu.minor;
        for GpuInstance { gi, .. } in gpu.gpu_instances() {
            let at = format!("gpu{minor}/mig/gi{gi}/access");
            add(at, capability(minor, gi, None), 0o444);
        }
        for Instance { gi, ci, .. } in &gpu.instance {
            let at = format!("gpu{minor}/mig/gi{gi}/ci{ci}/access");
            add(at, capability(minor, *gi, Some(*ci)), 0o444);
        }
    }
}

fn sysfs(tree: &mut Tree, description: &Description, gpu: &Gpu) {
    let mut folder = PathBuf::from("sys/devices");
    for bridge in pci::bridges(description, gpu) {
        folder.push(&bridge);
        if !bridge.starts_with("pci") {
            let class = ["0x1000", "0xc030", "0x060400"];
            device(tree, &folder, &bridge, class, gpu);
        }
    }
    folder.push(&gpu.pci);
    let draws = gpu.brand.as_deref() == Some("GeForce");
    let class = if draws { "0x030000" } else { "0x030200" };
    device(tree, &folder, &gpu.pci, ["0x10de", &gpu.pci_id, class], gpu);
    if description.loaded {
        let up: PathBuf = folder.iter().skip(1).map(|_| "..").collect();
        let link = Entry::Link(up.join("bus/pci/drivers/nvidia"));
        tree.insert(folder.join("driver"), link);
        file(tree, "sys/bus/pci/drivers/nvidia/uevent", "");
    }
}

/// A device of the PCI bus: vendor, device, class.
fn device(tree: &mut Tree, folder: &Path, address: &str, ids: [&str; 3], gpu: &Gpu) {
    for (name, value) in ["vendor", "device", "class"].iter().zip(ids) {
        file(tree, folder.join(name), format!("{value}\n"));
    }
    file(
        tree,
        folder.join("numa_node"),
        format!("{}\n", gpu.numa_node),
    );
    let cpus = gpu.local_cpus.as_deref().unwrap_or_default();
    file(tree, folder.join("local_cpulist"), format!("{cpus}\n"));
    let below: PathBuf = folder.iter().skip(1).collect();
    let link = Entry::Link(Path::new("../../..").join(below));
    tree.insert(Path::new("sys/bus/pci/devices").join(address), link);
}

// === on disk ===

/// Removes what is at or below `at` and not wanted.
fn prune(root: &Path, at: &Path, wanted: &Tree) -> Result<(), Error> {
    let path = root.join(at);
    let Ok(metadata) = fs::symlink_metadata(&path) else {
        return Ok(());
    };
    let above = wanted.range(at.to_owned()..).next();
    let is_above = above.is_some_and(|(wanted, _)| wanted != at && wanted.starts_with(at));
    if !metadata.is_dir() {
        return match wanted.contains_key(at) {
            true => Ok(()),
            false => fs::remove_file(&path).map_err(Error::at(&path)),
        };
    }
    if !is_above {
        return fs::remove_dir_all(&path).map_err(Error::at(&path));
    }
    for entry in fs::read_dir(&path).map_err(Error::at(&path))?.flatten() {
        prune(root, &at.join(entry.file_name()), wanted)?;
    }
    Ok(())
}

/// Puts it there, if it is not.
fn put(path: &Path, entry: &Entry) -> Result<(), Error> {
    let at = || Error::at(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::at(folder))?;
    }
    match entry {
        Entry::File(content) => match fs::read(path) {
            Ok(old) if old == content.as_bytes() => Ok(()),
            _ => fs::write(path, content).map_err(at()),
        },
        Entry::Link(target) => {
            if fs::read_link(path).is_ok_and(|old| old == *target) {
                return Ok(());
            }
            remove(path)?;
            symlink(target, path).map_err(at())
        }
        Entry::Node(major, minor, mode) => {
            let device = makedev(*major, *minor);
            if let Ok(metadata) = fs::symlink_metadata(path)
                && metadata.file_type().is_char_device()
                && metadata.rdev() == device
                && metadata.mode() & 0o777 == *mode
            {
                return Ok(());
            }
            remove(path)?;
            let mode = Mode::from_raw_mode(*mode);
            match mknodat(CWD, path, FileType::CharacterDevice, mode, device) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::ACCESS) => return Ok(()),
                Err(error) => return Err(at()(error.into())),
            }
            // The umask took something away.
            let permissions = Permissions::from_mode(mode.as_raw_mode());
            fs::set_permissions(path, permissions).map_err(at())
        }
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::at(path)(error)),
        _ => Ok(()),
    }
}

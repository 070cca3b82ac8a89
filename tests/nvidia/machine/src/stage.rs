//! Makes a machine's folder.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::description::Description;
use crate::machine::{DESCRIPTION, Error, Machine};
use crate::{elf, files, kmsg};

/// The stand-ins for the driver's libraries, as they were built.
#[derive(Clone, Debug)]
pub struct Libraries {
    /// For `libnvidia-ml.so.1`.
    pub nvml: PathBuf,
    /// For `libcuda.so.1`.
    pub cuda: PathBuf,
}

/// Libraries of the driver that nothing here calls, and what follows the name of the link
/// to each. They are mounted into containers with the others.
const OTHERS: [(&str, &[&str]); 5] = [
    ("libcudadebugger.so", &["1"]),
    ("libnvidia-cfg.so", &["1"]),
    ("libnvidia-nvvm.so", &["4"]),
    ("libnvidia-opencl.so", &["1"]),
    ("libnvidia-ptxjitcompiler.so", &["1"]),
];

/// Makes a machine's folder: `machine.toml`, and `root/` as the driver fills it.
///
/// # Errors
/// The description describes no machine, the folder has a `root` that is none, or something
/// cannot be read or written. That
/// device nodes may not be made is no error: the host's programs know what root would make.
pub fn stage(
    description: &Description,
    libraries: &Libraries,
    folder: &Path,
) -> Result<Machine, Error> {
    let root = folder.join("root");
    if root.exists() {
        // Only a machine begins anew: nobody loses a `root` of another kind.
        if Machine::at(folder).is_err() {
            return Err(Error::File(root, ErrorKind::AlreadyExists.into()));
        }
        fs::remove_dir_all(&root).map_err(Error::at(&root))?;
    }
    let place = Place::new(description, &root)?;
    let library = |source: &Path| -> Result<Vec<u8>, Error> {
        let mut elf = fs::read(source).map_err(Error::at(source))?;
        elf::hide(&mut elf, &description.lacks);
        Ok(elf)
    };
    // A copy each: the loader takes two names of one inode for one library.
    place.library("libnvidia-ml.so", &["1"], &library(&libraries.nvml)?)?;
    place.library("libcuda.so", &["1", ""], &library(&libraries.cuda)?)?;
    for (name, links) in OTHERS {
        place.library(name, links, b"stands in for a library that nothing calls\n")?;
    }
    let smi = "#!/bin/sh\necho 'NVIDIA-SMI (stand-in): ask a client of NVML' >&2\nexit 1\n";
    place.write(&root.join("usr/bin/nvidia-smi"), smi.as_bytes(), 0o755)?;
    files::make(description, &root)?;
    place.write(&root.join(kmsg::FILE), b"", 0o644)?;
    let file = place
        .libraries
        .join(format!("{DESCRIPTION}.{}", description.driver));
    let text = description.text();
    let text = text.map_err(|wrong| Error::Description(file.clone(), wrong))?;
    // Not through `place`: without a description there would be no machine.
    write(&file, text.as_bytes(), 0o644)?;
    let summary = toml::Value::String(description.summary.clone());
    let machine = format!("summary = {summary}\n\n[plugins.cuda]\nroot = \"./root\"\n");
    write(&folder.join("machine.toml"), machine.as_bytes(), 0o644)?;
    Machine::at(folder)
}

/// Where the driver's files go.
struct Place<'a> {
    description: &'a Description,
    root: &'a Path,
    libraries: PathBuf,
}

impl<'a> Place<'a> {
    fn new(description: &'a Description, root: &'a Path) -> Result<Self, Error> {
        let below = format!("usr/lib/{}-linux-gnu", description.architecture);
        let libraries = root.join(below);
        fs::create_dir_all(&libraries).map_err(Error::at(&libraries))?;
        Ok(Self {
            description,
            root,
            libraries,
        })
    }

    /// `NAME.VERSION`, and a link `NAME.X` to it for each X; `NAME` where X is empty.
    fn library(&self, name: &str, links: &[&str], content: &[u8]) -> Result<(), Error> {
        let file = format!("{name}.{}", self.description.driver);
        self.write(&self.libraries.join(&file), content, 0o644)?;
        for link in links {
            let dot = if link.is_empty() { "" } else { "." };
            let link = self.libraries.join(format!("{name}{dot}{link}"));
            if !self.misses(&link) {
                symlink(&file, &link).map_err(Error::at(&link))?;
            }
        }
        Ok(())
    }

    fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
        match self.misses(path) {
            true => Ok(()),
            false => write(path, content, mode),
        }
    }

    fn misses(&self, path: &Path) -> bool {
        let below = path.strip_prefix(self.root).unwrap_or(path);
        let missing = |name: &String| below.starts_with(name.trim_start_matches('/'));
        self.description.missing.iter().any(missing)
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::at(folder))?;
    }
    fs::write(path, content).map_err(Error::at(path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::at(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use super::*;
    use crate::description::Xid;

    const MIG: &str = r#"
        summary = 'a "MIG" machine'
        driver = "580.105.08"
        cuda = "13.0"
        lacks = ["getpid"]
        missing = ["dev/nvidia-uvm", "usr/lib/x86_64-linux-gnu/libcuda.so", "proc/driver/nvidia/params"]
        [gpu.a]
        uuid = "GPU-a"
        pci = "0000:53:00.0"
        pci_id = "0x20b2"
        minor = 1
        name = "A"
        compute_capability = "8.0"
        sms = 108
        switch = "s"
        numa_node = 1
        local_cpus = "0-3"
        mig = true
        profile."3g.40gb" = { id = 9, compute = 3, memory = 4, starts = [0, 4], memory_mib = 40192, sms = 42, max = 2 }
        [[gpu.a.instance]]
        uuid = "MIG-a"
        profile = "3g.40gb"
        gi = 2
        start = 0
        [gpu.b]
        uuid = "GPU-b"
        pci = "0000:54:00.0"
        pci_id = "0x20b2"
        minor = 0
        name = "B"
        compute_capability = "8.0"
        sms = 108
        switch = "s"
        [gpu.c]
        uuid = "GPU-c"
        pci = "0000:00:1e.0"
        pci_id = "0x1eb8"
        minor = 2
        name = "C"
        compute_capability = "7.5"
        sms = 40
    "#;

    fn staged() -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        let description = Description::parse(MIG).unwrap();
        // Any shared object will do: the C library of this very test.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .lines()
            .find(|line| line.ends_with("/libc.so.6"))
            .unwrap();
        let libc = PathBuf::from(&libc[libc.find('/').unwrap()..]);
        let libraries = Libraries {
            nvml: libc.clone(),
            cuda: libc,
        };
        let machine = stage(&description, &libraries, folder.path()).unwrap();
        assert_eq!(*machine.current(), description);
        (folder, machine)
    }

    fn text(folder: &Path, at: &str) -> String {
        fs::read_to_string(folder.join("root").join(at)).unwrap()
    }

    #[test]
    fn a_folder_has_what_the_driver_leaves() {
        let (folder, _machine) = staged();
        let folder = folder.path();
        let toml = fs::read_to_string(folder.join("machine.toml")).unwrap();
        let toml: toml::Table = toml::from_str(&toml).unwrap();
        assert_eq!(toml["summary"].as_str(), Some("a \"MIG\" machine"));
        let libraries = folder.join("root/usr/lib/x86_64-linux-gnu");
        let link = fs::read_link(libraries.join("libnvidia-ml.so.1")).unwrap();
        assert_eq!(link, Path::new("libnvidia-ml.so.580.105.08"));
        assert!(libraries.join("libcuda.so.1").exists());
        assert!(!libraries.join("libcuda.so").exists());
        let devices = text(folder, "proc/devices");
        assert!(
            devices.contains("1195 nvidia\n1195 nvidia-modeset\n"),
            "{devices}"
        );
        assert!(text(folder, "proc/driver/nvidia/version").contains("  580.105.08  "));
        assert!(!folder.join("root/proc/driver/nvidia/params").exists());
        let information = text(folder, "proc/driver/nvidia/gpus/0000:53:00.0/information");
        assert!(
            information.contains("Device Minor: \t 1\n"),
            "{information}"
        );
    }

    #[test]
    fn nothing_else_is_overwritten() {
        let (folder, machine) = staged();
        // Any file will do.
        let file = folder.path().join("machine.toml");
        let libraries = Libraries {
            nvml: file.clone(),
            cuda: file,
        };
        let description = machine.current();
        stage(&description, &libraries, folder.path()).unwrap();
        let other = tempfile::tempdir().unwrap();
        fs::create_dir(other.path().join("root")).unwrap();
        let error = stage(&description, &libraries, other.path()).unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
    }

    #[test]
    fn hidden_symbols_are_only_those() {
        let (folder, _machine) = staged();
        let at = "root/usr/lib/x86_64-linux-gnu/libcuda.so.1";
        let elf = fs::read(folder.path().join(at)).unwrap();
        let has = |name: &[u8]| elf.windows(name.len()).any(|window| window == name);
        assert!(!has(b"getpid\0") && has(b"-etpid\0"));
        assert!(has(b"\0getppid\0"));
    }

    #[test]
    fn devices_are_behind_their_switch() {
        let (folder, _machine) = staged();
        let bus = folder.path().join("root/sys/bus/pci/devices");
        let real = |address: &str| fs::canonicalize(bus.join(address)).unwrap();
        let parent = |address: &str| real(address).ancestors().nth(2).map(Path::to_owned);
        assert_eq!(parent("0000:53:00.0"), parent("0000:54:00.0"));
        assert!(real("0000:00:1e.0").ends_with("sys/devices/pci0000:00/0000:00:1e.0"));
        let gpu = bus.join("0000:53:00.0");
        let read = |name: &str| fs::read_to_string(gpu.join(name)).unwrap();
        assert_eq!(read("vendor") + &read("device"), "0x10de\n0x20b2\n");
        assert_eq!(read("numa_node") + &read("local_cpulist"), "1\n0-3\n");
        let driver = fs::canonicalize(gpu.join("driver")).unwrap();
        assert!(driver.ends_with("sys/bus/pci/drivers/nvidia"));
    }

    #[test]
    fn the_log_is_only_added_to() {
        let (folder, machine) = staged();
        let log = || self::text(folder.path(), kmsg::FILE);
        assert_eq!(log(), "");
        let change = |change: &dyn Fn(&mut Description)| machine.change(change).unwrap();
        let xid = |gpu: &str, xid: Xid| {
            change(&|d| d.gpu.get_mut(gpu).unwrap().xid.push(xid.clone()));
        };
        let instance = Xid {
            gi: Some(2),
            ci: Some(0),
            pid: Some(1234),
            name: Some("python".into()),
            ..Xid::of(94)
        };
        xid("a", instance);
        xid("b", Xid::of(79));
        change(&|d| d.gpu.get_mut("b").unwrap().lost = true);
        let first = log();
        change(&|d| d.summary = "another".into());
        change(&|d| d.gpu.get_mut("a").unwrap().xid.clear());
        assert_eq!(log(), first);
        change(&|d| d.gpu.get_mut("c").unwrap().lost = true);
        let all = log();
        assert!(all.starts_with(&first));
        let texts = [
            "NVRM: Xid (PCI:0000:53:00 GPU-I:02 GPU-CI:00): 94, pid=1234, name=python, Contained",
            "NVRM: Xid (PCI:0000:54:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off",
            "NVRM: Xid (PCI:0000:00:1e): 79, pid='<unknown>', name=<unknown>, GPU has fallen off",
        ];
        assert_eq!(all.lines().count(), texts.len(), "{all}");
        let mut last = 0;
        for ((number, line), text) in all.lines().enumerate().zip(texts) {
            let (head, said) = line.split_once(';').unwrap();
            assert!(said.starts_with(text), "{said}");
            let head: Vec<&str> = head.split(',').collect();
            let [priority, sequence, time, "-"] = head[..] else {
                panic!("{line}");
            };
            assert_eq!((priority, sequence), ("4", &*number.to_string()));
            let time: u64 = time.parse().unwrap();
            assert!(time > last, "{all}");
            last = time;
        }
    }

    #[test]
    fn files_follow_changes() {
        let (folder, machine) = staged();
        let root = folder.path().join("root");
        let access = root.join("proc/driver/nvidia/capabilities/gpu1/mig/gi2/ci0/access");
        let minor = files::capability(1, 2, Some(0));
        let text = fs::read_to_string(&access).unwrap();
        assert_eq!(
            text,
            format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
        );
        let minors = self::text(folder.path(), "proc/driver/nvidia-caps/mig-minors");
        assert!(minors.contains("gpu0/gi1/access 12\n"));
        assert!(minors.contains(&format!("gpu1/gi2/ci0/access {minor}\n")));
        let other = root.join("dev/other");
        fs::create_dir_all(root.join("dev")).unwrap();
        fs::write(&other, "").unwrap();
        let nodes = root.join("sys/devices/system/node/online");
        fs::create_dir_all(nodes.parent().unwrap()).unwrap();
        fs::write(&nodes, "0-1\n").unwrap();
        let others = [other, nodes];
        let node = root.join(format!("dev/nvidia-caps/nvidia-cap{minor}"));
        let nodes = node.exists();
        if nodes {
            let metadata = fs::metadata(&node).unwrap();
            assert!(metadata.file_type().is_char_device());
            assert!(!root.join("dev/nvidia-uvm").exists());
        }
        machine
            .change(|description| {
                let gpu = description.gpu.get_mut("a").unwrap();
                gpu.instance[0].gi = 5;
                description.gpu.get_mut("b").unwrap().present = false;
            })
            .unwrap();
        assert!(!access.exists() && !node.exists());
        assert!(others.iter().all(|other| other.exists()));
        assert!(
            root.join("proc/driver/nvidia/capabilities/gpu1/mig/gi5/access")
                .exists()
        );
        assert!(!root.join("sys/bus/pci/devices/0000:54:00.0").is_symlink());
        assert!(!root.join("dev/nvidia0").exists());
        assert_eq!(root.join("dev/nvidia1").exists(), nodes);
        machine
            .change(|description| description.loaded = false)
            .unwrap();
        assert!(!root.join("proc/driver/nvidia/version").exists());
        assert!(!self::text(folder.path(), "proc/devices").contains("nvidia"));
    }
}

//! What NVIDIA's kernel module and the PCI bus say in files, under a root folder.
//!
//! Every fact is optional: a file that is not there, or says something else than
//! expected, takes away its own fact and nothing more. Formats: the driver's README,
//! "The /proc/filesystem Interface"; `nvidia-modprobe`'s source for device numbers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use divvy_plugin::{NodeId, NodeKind};

/// None of these files has more; some could be made to.
const FILE_LIMIT: u64 = 1 << 20;

/// A machine's files.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

/// Character majors of the driver, from `/proc/devices`; those of modules that are
/// not loaded are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Majors {
    /// GPUs and `nvidiactl`.
    pub(crate) gpu: Option<u32>,
    /// Unified memory: `nvidia-uvm`, without which no CUDA context can be made.
    pub(crate) uvm: Option<u32>,
    /// Capabilities: rights to MIG instances.
    pub(crate) caps: Option<u32>,
}

/// What `/proc/driver/nvidia/gpus/ADDRESS/information` says. It goes on saying it
/// when the GPU has fallen off the bus and NVML does not answer any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its model.
    pub(crate) model: Option<String>,
    /// Its UUID.
    pub(crate) uuid: Option<String>,
    /// N of `/dev/nvidiaN`.
    pub(crate) minor: Option<u32>,
}

/// Who owns the driver's nodes, and their permission bits (module parameters
/// `NVreg_DeviceFileGID`, `NVreg_DeviceFileMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// The group; `None` for root's.
    pub(crate) gid: Option<u32>,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// What changes in the kernel's files when the driver or what it drives does: its
/// version, its GPUs, the rights to MIG instances.
pub(crate) type Signs = (Option<String>, Vec<String>, Vec<String>);

impl Root {
    /// The machine whose `/` is this folder.
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A path of the machine, on this one.
    pub(crate) fn under(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.under(path)).ok()?;
        file.take(FILE_LIMIT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.under(path));
        let entries = entries.into_iter().flatten().filter_map(Result::ok);
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names
    }

    /// The version of the kernel's part of the driver.
    pub(crate) fn driver_version(&self) -> Option<String> {
        let text = self.text("proc/driver/nvidia/version")?;
        let line = text
            .lines()
            .find(|line| line.starts_with("NVRM version:"))?;
        line.split_whitespace()
            .find(|w| is_version(w))
            .map(Into::into)
    }

    /// The driver's majors; `None` if the kernel's list cannot be read.
    pub(crate) fn majors(&self) -> Option<Majors> {
        let text = self.text("proc/devices")?;
        let mut majors = Majors::default();
        // Block devices follow; they have the same numbers.
        for line in text.lines().take_while(|line| !line.starts_with("Block")) {
            let mut words = line.split_whitespace();
            let (Some(number), Some(name)) = (words.next(), words.next()) else {
                continue;
            };
            let place = match name {
                // The name until R545, and since.
                "nvidia-frontend" | "nvidia" => &mut majors.gpu,
                "nvidia-uvm" => &mut majors.uvm,
                "nvidia-caps" => &mut majors.caps,
                _ => continue,
            };
            *place = number.parse().ok();
        }
        Some(majors)
    }

    /// The GPUs that the driver has, by PCI address.
    pub(crate) fn known(&self) -> BTreeMap<String, Known> {
        let gpus = "proc/driver/nvidia/gpus";
        let read = |address: String| {
            let text = self.text(&format!("{gpus}/{address}/information"))?;
            let known = Known {
                model: value(&text, "Model").map(Into::into),
                uuid: value(&text, "GPU UUID")
                    .filter(|uuid| is_uuid(uuid))
                    .map(Into::into),
                minor: value(&text, "Device Minor").and_then(|minor| minor.parse().ok()),
            };
            Some((address.to_ascii_lowercase(), known))
        };
        self.names(gpus).into_iter().filter_map(read).collect()
    }

    /// The NUMA node of a PCI device, if it has one.
    pub(crate) fn numa_node(&self, address: &str) -> Option<u32> {
        let text = self.text(&format!("sys/bus/pci/devices/{address}/numa_node"))?;
        // -1: none.
        text.trim().parse().ok()
    }

    /// The bridges above a PCI device, from the root complex on:
    /// `pci0000:00`, `0000:00:01.0`, `0000:01:00.0`.
    pub(crate) fn bridges(&self, address: &str) -> Vec<String> {
        let link = self.under(&format!("sys/bus/pci/devices/{address}"));
        let Ok(path) = link.canonicalize() else {
            return vec![];
        };
        let names = path.iter().filter_map(|name| name.to_str());
        let mut bridges: Vec<String> = names
            .skip_while(|name| !is_root_complex(name))
            .map(Into::into)
            .collect();
        bridges.pop(); // itself
        bridges
    }

    /// Is a PCI device one of NVIDIA's NVSwitches: a bridge of theirs (PCI class 0680)?
    pub(crate) fn is_nvswitch(&self, address: &str) -> bool {
        let starts = |file: &str, with: &str| {
            let text = self.text(&format!("sys/bus/pci/devices/{address}/{file}"));
            text.is_some_and(|text| text.starts_with(with))
        };
        starts("class", "0x0680") && starts("vendor", "0x10de")
    }

    /// What changes when the driver or its GPUs do, of what costs next to nothing.
    pub(crate) fn signs(&self) -> Signs {
        let gpus = self.names("proc/driver/nvidia/gpus");
        let rights = self.names("dev/nvidia-caps");
        (self.text("proc/driver/nvidia/version"), gpus, rights)
    }

    /// Device-file minors of the rights to a GPU instance and its compute
    /// instances, of the GPU with this minor.
    pub(crate) fn mig_minors(&self, gpu: u32, gi: u32, ci: u32) -> Option<(u32, u32)> {
        let list = self
            .text("proc/driver/nvidia-caps/mig-minors")
            .unwrap_or_default();
        let minor = |right: String, file: String| {
            let said = self.text(&format!("proc/driver/nvidia/capabilities/{file}"));
            let said = said
                .as_deref()
                .and_then(|text| value(text, "DeviceFileMinor"));
            let said = said.and_then(|minor| minor.parse().ok());
            said.or_else(|| {
                let mut pairs = list.lines().filter_map(|line| line.split_once(' '));
                let (_, minor) = pairs.find(|(name, _)| *name == right)?;
                minor.trim().parse().ok()
            })
        };
        Some((
            minor(
                format!("gpu{gpu}/gi{gi}/access"),
                format!("gpu{gpu}/mig/gi{gi}/access"),
            )?,
            minor(
                format!("gpu{gpu}/gi{gi}/ci{ci}/access"),
                format!("gpu{gpu}/mig/gi{gi}/ci{ci}/access"),
            )?,
        ))
    }

    /// This boot of the machine: its id, and how long ago it was, ms.
    pub(crate) fn boot(&self) -> (String, u64) {
        // A simulated machine's is this one's.
        let read = |path: &str| {
            let real = || fs::read_to_string(Path::new("/").join(path)).ok();
            self.text(path).or_else(real).unwrap_or_default()
        };
        let id = read("proc/sys/kernel/random/boot_id").trim().to_owned();
        let up = read("proc/uptime");
        let seconds = up.split('.').next().and_then(|s| s.parse::<u64>().ok());
        (id, seconds.unwrap_or(0).saturating_mul(1000))
    }

    /// How the driver makes its nodes.
    pub(crate) fn access(&self) -> Access {
        let text = self.text("proc/driver/nvidia/params").unwrap_or_default();
        let number = |key: &str| value(&text, key)?.parse::<u32>().ok();
        Access {
            gid: number("DeviceFileGID").filter(|gid| *gid != 0),
            mode: number("DeviceFileMode").map_or(0o666, |mode| mode & 0o666),
        }
    }

    /// The host's memory, bytes.
    pub(crate) fn memory(&self) -> Option<u64> {
        let text = self.text("proc/meminfo").or_else(|| {
            // A captured or simulated machine without one stands on this one.
            fs::read_to_string("/proc/meminfo").ok()
        })?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1024)
    }

    /// The device node at a path, if something is there: its numbers, or `None` if
    /// it is no character device.
    pub(crate) fn node(&self, path: &str) -> Option<Option<NodeId>> {
        let meta = fs::symlink_metadata(self.under(path)).ok()?;
        let device = meta.file_type().is_char_device().then(|| NodeId {
            kind: NodeKind::Char,
            major: rustix::fs::major(meta.rdev()),
            minor: rustix::fs::minor(meta.rdev()),
        });
        Some(device)
    }
}

/// The value of a line `key: value`, unless it is empty.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
    Some(value.trim()).filter(|value| !value.is_empty())
}

/// Is this a driver's version, `580.105.08` or `418.74`?
pub(crate) fn is_version(word: &str) -> bool {
    word.split('.').count() >= 2
        && word
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// A UUID that identifies: captures and some virtual machines mask it, and
/// the kernel writes `?` before a GPU was first used.
pub(crate) fn is_uuid(uuid: &str) -> bool {
    uuid.strip_prefix("GPU-").is_some_and(|rest| {
        rest.len() >= 32 && rest.bytes().any(|b| b != b'0' && b.is_ascii_hexdigit())
    })
}

/// `pci0000:00`.
fn is_root_complex(name: &str) -> bool {
    let numbers = name
        .strip_prefix("pci")
        .and_then(|rest| rest.split_once(':'));
    numbers.is_some_and(|(domain, bus)| {
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        domain.len() >= 4 && bus.len() == 2 && hex(domain) && hex(bus)
    })
}

/// A PCI address without its function, which NVML does not say: `0000:53:00`.
pub(crate) fn without_function(address: &str) -> &str {
    address.rsplit_once('.').map_or(address, |(slot, _)| slot)
}

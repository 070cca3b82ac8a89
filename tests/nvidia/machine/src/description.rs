//! What a machine has: the content of its description file, TOML.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A machine. GPUs are named; the names are the description's own and appear
/// nowhere else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// One line for people: `8 × NVIDIA H100`.
    pub summary: String,
    /// The driver's version: `580.105.08`.
    pub driver: String,
    /// The version of CUDA that the driver serves: `13.0`.
    pub cuda: String,
    /// Is the kernel's part of the driver loaded? Without it the libraries
    /// answer `NVML_ERROR_DRIVER_NOT_LOADED` and `CUDA_ERROR_NO_DEVICE`.
    #[serde(default = "yes")]
    pub loaded: bool,
    /// The version of the kernel's part, where it is another: the libraries
    /// answer `NVML_ERROR_LIB_RM_VERSION_MISMATCH`, `CUDA_ERROR_SYSTEM_DRIVER_MISMATCH`.
    #[serde(default)]
    pub kernel_driver: Option<String>,
    /// Symbols that this driver's libraries do not have yet. The staged shared
    /// objects do not export them either (they are renamed in the file).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// `x86_64` or `aarch64`: the folder of the libraries.
    #[serde(default = "x86_64")]
    pub architecture: String,
    /// Numbers of the driver's device nodes.
    #[serde(default)]
    pub majors: Majors,
    /// Device nodes and files below the root that are not there, though they usually are:
    /// `dev/nvidia-uvm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// The order in which NVML counts GPUs, by name. Default: by PCI address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<String>,
    /// The order in which CUDA counts them (without `CUDA_DEVICE_ORDER`: fastest first).
    /// Default: as `order`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuda_order: Vec<String>,
    /// The GPUs.
    #[serde(default)]
    pub gpu: BTreeMap<String, Gpu>,
    /// Calls that go wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fault: Vec<Fault>,
    /// How long a kernel launched through CUDA takes, µs, by the function's name;
    /// `default` for all others.
    #[serde(default)]
    pub kernel_us: BTreeMap<String, u64>,
}

fn yes() -> bool {
    true
}

fn x86_64() -> String {
    "x86_64".into()
}

/// Character majors of the driver. The kernel registers none above 511
/// (fs/char_dev.c, `CHRDEV_MAJOR_MAX`), so nobody's device ever answers at these: who may
/// open such a node is told `ENXIO`, who may not, `EPERM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Majors {
    /// `/dev/nvidiaN`, `/dev/nvidiactl` (minor 255), `/dev/nvidia-modeset` (254); really 195.
    pub nvidia: u32,
    /// `/dev/nvidia-uvm` (0), `/dev/nvidia-uvm-tools` (1); really dynamic.
    pub uvm: u32,
    /// `/dev/nvidia-caps/nvidia-capN`; really dynamic.
    pub caps: u32,
}

impl Default for Majors {
    fn default() -> Self {
        Self {
            nvidia: 1195,
            uvm: 1196,
            caps: 1197,
        }
    }
}

/// One GPU. What is `None` is answered as "not supported".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// `GPU-…`.
    pub uuid: String,
    /// `DDDD:BB:DD.F`, lower case.
    pub pci: String,
    /// The PCI device id, as sysfs writes it: `0x2330`.
    pub pci_id: String,
    /// N of `/dev/nvidiaN`.
    pub minor: u32,
    /// `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// `NVIDIA`, `GeForce`, `Tesla`.
    #[serde(default)]
    pub brand: Option<String>,
    /// `Hopper`.
    #[serde(default)]
    pub architecture: Option<String>,
    /// `None`: it shares the host's memory, and the driver does not say how much.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// Kept by the driver and its firmware.
    #[serde(default)]
    pub reserved_mib: u64,
    /// `9.0`.
    pub compute_capability: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// CUDA cores per multiprocessor.
    #[serde(default = "cores")]
    pub cores_per_sm: u32,
    /// Is it part of the processor's package (CUDA's attribute `INTEGRATED`)?
    #[serde(default)]
    pub integrated: bool,
    /// Its NUMA node, as the kernel says it: -1 where there is none.
    #[serde(default = "no_node")]
    pub numa_node: i32,
    /// The NUMA node that its own memory is, where the processor sees it as one (Grace).
    #[serde(default)]
    pub memory_node: Option<u32>,
    /// CPUs near it, as sysfs writes them: `0-55,112-167`.
    #[serde(default)]
    pub local_cpus: Option<String>,
    /// The PCIe switch above it, by any name; GPUs with the same are behind one.
    #[serde(default)]
    pub switch: Option<String>,
    /// Generation and width of its PCIe link.
    #[serde(default)]
    pub pcie: Option<[u32; 2]>,
    /// KB/s sent and received over PCIe; default: some, if it is busy.
    #[serde(default)]
    pub pcie_kbps: Option<[u32; 2]>,
    /// Bytes sent and received over PCIe, where the driver counts them.
    #[serde(default)]
    pub pcie_bytes: Option<[u64; 2]>,
    /// NVLinks, by link number in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nvlink: Vec<Link>,
    /// Errors of each NVLink, by number: replays, recoveries, CRC errors in flits, in data, ECC
    /// errors in data. Links beyond have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nvlink_errors: Vec<[u64; 5]>,
    /// KiB that all NVLinks together have sent and received, counted on.
    #[serde(default)]
    pub nvlink_kib: [u64; 2],
    /// NVLink's generation (3 on A100, 4 on H100, 5 on B200).
    #[serde(default)]
    pub nvlink_version: Option<u32>,
    /// Its cluster's NVLink fabric, where it has one: the cluster's UUID and the clique.
    #[serde(default)]
    pub fabric: Option<(String, u32)>,
    /// Is MIG on? `None`: it has none.
    #[serde(default)]
    pub mig: Option<bool>,
    /// What MIG will be after a reset; default as `mig`.
    #[serde(default)]
    pub mig_pending: Option<bool>,
    /// The instances that can be made, by name: `1g.10gb`.
    #[serde(default)]
    pub profile: BTreeMap<String, Profile>,
    /// The compute instances that exist, in the order of their MIG device numbers. Each says
    /// which GPU instance it is in, and so that there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instance: Vec<Instance>,
    /// The GPU instances in which there is no compute instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_instance: Vec<GpuInstance>,
    /// How many compute instances were made on it: no two have the same UUID.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub instances_made: u64,
    /// Has another client of the driver it open, such as a display server? Then it cannot be
    /// reset, and its MIG mode not be switched.
    #[serde(default, skip_serializing_if = "is_false")]
    pub used_by_client: bool,
    /// `None`: no serial number.
    #[serde(default)]
    pub serial: Option<String>,
    /// Its VBIOS.
    #[serde(default)]
    pub vbios: Option<String>,
    /// Is ECC on? `None`: it has none.
    #[serde(default)]
    pub ecc: Option<bool>,
    /// ECC errors since boot that could not be corrected.
    #[serde(default)]
    pub ecc_errors: u64,
    /// ECC errors since boot that were corrected.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ecc_corrected: u64,
    /// ECC errors of its whole life: corrected, and not; default: those since boot.
    #[serde(default)]
    pub ecc_aggregate: Option<[u64; 2]>,
    /// Are pages to be retired at the next reset (GPUs that cannot remap rows)?
    #[serde(default, skip_serializing_if = "is_false")]
    pub retired_pending: bool,
    /// Row remapping (A100 and later): correctable, uncorrectable; pending, failed.
    #[serde(default)]
    pub remapped_rows: Option<(u32, u32, bool, bool)>,
    /// Processes, memory: %.
    #[serde(default)]
    pub utilization: Option<[u32; 2]>,
    /// °C.
    #[serde(default)]
    pub temperature: Option<u32>,
    /// °C of stacked memory; default: a little more than the GPU's.
    #[serde(default)]
    pub memory_temperature: Option<u32>,
    /// °C: it shuts down, it is slowed down, it works at most.
    #[serde(default = "thresholds")]
    pub thresholds: [u32; 3],
    /// Why it is slower than it could be: words of [`THROTTLE`]. Default: `idle`, if it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttle: Vec<String>,
    /// What is to be done to have it work again, NVML's number: nothing, reset it, reboot, have
    /// peers leave it, have all leave it and reset it.
    #[serde(default)]
    pub recovery: u32,
    /// mW: drawn now, and the limit.
    #[serde(default)]
    pub power_mw: Option<[u32; 2]>,
    /// mJ since the driver was loaded.
    #[serde(default)]
    pub energy_mj: Option<u64>,
    /// MHz: graphics, streaming multiprocessors, memory, video; now.
    #[serde(default)]
    pub clocks: Option<[u32; 4]>,
    /// The same, at most.
    #[serde(default)]
    pub max_clocks: Option<[u32; 4]>,
    /// %; `None`: it is cooled passively.
    #[serde(default)]
    pub fan: Option<u32>,
    /// `Default`, `Exclusive_Process`, `Prohibited`.
    #[serde(default = "default_mode")]
    pub compute_mode: String,
    /// `None`, `Pass-Through`, `VGPU`, `Host VGPU`, `Host VSGA`.
    #[serde(default = "no_virtualization")]
    pub virtualization: String,
    /// Processes of others on it, beside those that really allocate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub process: Vec<Process>,
    /// MiB used besides all processes.
    #[serde(default)]
    pub used_mib: u64,
    /// Is it there at all? A GPU that was pulled out, or is not plugged in yet, is not.
    #[serde(default = "yes")]
    pub present: bool,
    /// Has it fallen off the bus? Counted, but every question about it is answered
    /// `NVML_ERROR_GPU_IS_LOST`, and CUDA does not count it.
    #[serde(default)]
    pub lost: bool,
    /// XIDs raised so far, in order; each further one is an event for those who wait, and a
    /// record in the kernel's log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xid: Vec<Xid>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(is: &bool) -> bool {
    !is
}

fn cores() -> u32 {
    128
}

fn no_node() -> i32 {
    -1
}

fn thresholds() -> [u32; 3] {
    [92, 89, 85]
}

fn default_mode() -> String {
    "Default".into()
}

fn no_virtualization() -> String {
    "None".into()
}

/// An error that the driver raised: its number, or a table that also says whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenXid", into = "WrittenXid")]
pub struct Xid {
    /// The number.
    pub code: u64,
    /// The GPU instance.
    pub gi: Option<u32>,
    /// The compute instance in it.
    pub ci: Option<u32>,
    /// The process.
    pub pid: Option<u32>,
    /// The process's name.
    pub name: Option<String>,
}

impl Xid {
    /// Of the GPU as a whole, and of no process that is known.
    #[must_use]
    pub fn of(code: u64) -> Self {
        Self {
            code,
            gi: None,
            ci: None,
            pid: None,
            name: None,
        }
    }
}

impl From<u64> for Xid {
    fn from(code: u64) -> Self {
        Self::of(code)
    }
}

/// An XID in the file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenXid {
    Code(u64),
    Table(XidTable),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct XidTable {
    code: u64,
    gi: Option<u32>,
    ci: Option<u32>,
    pid: Option<u32>,
    name: Option<String>,
}

impl From<WrittenXid> for Xid {
    fn from(written: WrittenXid) -> Self {
        match written {
            WrittenXid::Code(code) => Self::of(code),
            WrittenXid::Table(table) => Self {
                code: table.code,
                gi: table.gi,
                ci: table.ci,
                pid: table.pid,
                name: table.name,
            },
        }
    }
}

impl From<Xid> for WrittenXid {
    fn from(xid: Xid) -> Self {
        match xid == Xid::of(xid.code) {
            true => Self::Code(xid.code),
            false => Self::Table(XidTable {
                code: xid.code,
                gi: xid.gi,
                ci: xid.ci,
                pid: xid.pid,
                name: xid.name,
            }),
        }
    }
}

/// Where an NVLink goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// To the GPU of that name.
    Gpu(String),
    /// To an NVSwitch.
    Switch(String),
    /// Nowhere: the link is off.
    Off,
}

/// A kind of MIG instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The number that `nvidia-smi` shows, `nvmlGpuInstanceProfileInfo_t::id`.
    pub id: u32,
    /// Compute slices.
    pub compute: u32,
    /// Memory slices that it covers.
    pub memory: u32,
    /// Where it may begin.
    pub starts: Vec<u32>,
    /// Its memory.
    pub memory_mib: u64,
    /// Its streaming multiprocessors.
    pub sms: u32,
    /// How many at most.
    pub max: u32,
}

/// A MIG device: a compute instance in a GPU instance. Several may share one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// `MIG-…`.
    pub uuid: String,
    /// A key of [`Gpu::profile`]: the GPU instance's.
    pub profile: String,
    /// The GPU instance's id; ids have gaps.
    pub gi: u32,
    /// The compute instance's id within it.
    #[serde(default)]
    pub ci: u32,
    /// Where the GPU instance begins.
    pub start: u32,
    /// Its MIG device number, where numbers have gaps; default: its place in the list.
    #[serde(default)]
    pub number: Option<u32>,
    /// Compute slices of this compute instance; default: all of the GPU instance's.
    #[serde(default)]
    pub slices: Option<u32>,
    /// MiB used besides all processes.
    #[serde(default)]
    pub used_mib: u64,
}

/// A GPU instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuInstance {
    /// A key of [`Gpu::profile`].
    pub profile: String,
    /// Its id; ids have gaps.
    pub gi: u32,
    /// Where it begins.
    pub start: u32,
}

/// A process of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// `None`: not available, as from inside a container.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// Does it draw rather than compute?
    #[serde(default)]
    pub graphics: bool,
    /// % of the multiprocessors' time. Where any process says it, those that do not have
    /// none; else all have equal parts of the GPU's.
    #[serde(default)]
    pub utilization: Option<u32>,
}

/// A call that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The symbol: `nvmlDeviceGetHandleByIndex_v2`.
    pub call: String,
    /// The how many-eth call of a process, from 1; default: each.
    #[serde(default)]
    pub nth: Option<u64>,
    /// Only for this GPU, by name.
    #[serde(default)]
    pub gpu: Option<String>,
    /// NVML's calls only: what it asks for is done first, and then this happens. Only calls
    /// that would have succeeded count.
    #[serde(default, skip_serializing_if = "is_false")]
    pub after: bool,
    /// What happens.
    pub answer: Answer,
}

/// What a faulty call does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Answers with this number: an `nvmlReturn_t` or a `CUresult`.
    Code(u32),
    /// Never answers.
    Hang,
    /// Ends the process by SIGSEGV.
    Crash,
}

/// Why a GPU is slower than it could be, and NVML's bits for it (some are told with the
/// more general one).
pub const THROTTLE: [(&str, u64); 9] = [
    ("idle", 0x01),
    ("applications", 0x02),
    ("sw-power-cap", 0x04),
    ("hw-slowdown", 0x08),
    ("sync-boost", 0x10),
    ("sw-thermal", 0x20),
    ("hw-thermal", 0x40 | 0x08),
    ("hw-power-brake", 0x80 | 0x08),
    ("display", 0x100),
];

/// Why a description describes no machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The TOML.
    #[error("{0}")]
    Words(String),
    /// A value.
    #[error("{0}: {1}")]
    Value(String, String),
}

impl Description {
    /// Reads one and checks that what it refers to exists.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let description: Self =
            toml::from_str(text).map_err(|e| Wrong::Words(e.to_string().trim().to_owned()))?;
        description.check()?;
        Ok(description)
    }

    /// Writes it, if it describes a machine.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn text(&self) -> Result<String, Wrong> {
        self.check()?;
        toml::to_string(self).map_err(|e| Wrong::Words(e.to_string()))
    }

    fn check(&self) -> Result<(), Wrong> {
        let wrong = |at: String, why: &str| Err(Wrong::Value(at, why.to_owned()));
        for (key, list) in [("order", &self.order), ("cuda_order", &self.cuda_order)] {
            if let Some(name) = list.iter().find(|name| !self.gpu.contains_key(*name)) {
                return wrong(format!("{key}: {name}"), "there is no such GPU");
            }
        }
        for (name, gpu) in &self.gpu {
            let known = |word: &&String| THROTTLE.iter().any(|(known, _)| known == word);
            if let Some(word) = gpu.throttle.iter().find(|word| !known(word)) {
                return wrong(
                    format!("gpu.{name}.throttle: {word}"),
                    "there is no such cause",
                );
            }
            if gpu.recovery > 4 {
                return wrong(format!("gpu.{name}.recovery"), "there is no such action");
            }
            for link in &gpu.nvlink {
                if let Link::Gpu(other) = link
                    && !self.gpu.contains_key(other)
                {
                    return wrong(
                        format!("gpu.{name}.nvlink: {other}"),
                        "there is no such GPU",
                    );
                }
            }
            for instance in gpu.gpu_instances() {
                let at = format!("gpu.{name}: GPU instance {}", instance.gi);
                if gpu.mig != Some(true) {
                    return wrong(at, "MIG is not on");
                }
                let Some(profile) = gpu.profile.get(&instance.profile) else {
                    return wrong(at, "there is no such profile");
                };
                if !profile.starts.contains(&instance.start) {
                    return wrong(at, "it cannot begin there");
                }
            }
        }
        Ok(())
    }

    /// The names of the GPUs that are plugged in, in NVML's order.
    #[must_use]
    pub fn present(&self) -> Vec<&str> {
        self.ordered(&self.order)
    }

    /// The names of the GPUs that are plugged in, in CUDA's order.
    #[must_use]
    pub fn cuda_present(&self) -> Vec<&str> {
        match self.cuda_order.is_empty() {
            true => self.present(),
            false => self.ordered(&self.cuda_order),
        }
    }

    /// Those that `order` names, as it does; then the others, by PCI address.
    fn ordered<'a>(&'a self, order: &'a [String]) -> Vec<&'a str> {
        let mut names: Vec<&str> = self.gpu.keys().map(String::as_str).collect();
        names.sort_by_key(|name| {
            let place = order.iter().position(|named| named == name);
            (
                place.unwrap_or(usize::MAX),
                self.gpu.get(*name).map(|gpu| &gpu.pci),
            )
        });
        names.retain(|name| self.gpu.get(*name).is_some_and(|gpu| gpu.present));
        names
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    fn all() -> Vec<(String, Description)> {
        let files = fs::read_dir(crate::MACHINES).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let description = Description::parse(&text);
            (
                name.clone(),
                description.unwrap_or_else(|wrong| panic!("{name}: {wrong}")),
            )
        });
        files.collect()
    }

    #[test]
    fn every_machine_is_one_and_written_as_it_was_read() {
        let all = all();
        assert!(all.len() >= 8);
        for (name, description) in all {
            let text = description.text().unwrap();
            assert_eq!(Description::parse(&text).unwrap(), description, "{name}");
        }
    }

    #[test]
    fn xids_are_numbers_or_tables() {
        let (_, mut description) = all().pop().unwrap();
        let whole = Xid::of(79);
        let part = Xid {
            gi: Some(3),
            name: Some("python".into()),
            ..Xid::of(94)
        };
        for xids in [vec![whole.clone()], vec![part.clone()], vec![whole, part]] {
            let gpu = description.gpu.values_mut().next().unwrap();
            gpu.xid = xids;
            let text = description.text().unwrap();
            assert_eq!(Description::parse(&text).unwrap(), description, "{text}");
        }
    }

    #[test]
    fn nothing_is_there_twice() {
        let mut uuids = BTreeSet::new();
        for (name, description) in all() {
            let mut addresses = BTreeSet::new();
            let mut minors = BTreeSet::new();
            for gpu in description.gpu.values() {
                assert!(addresses.insert(gpu.pci.clone()), "{name}: {}", gpu.pci);
                assert!(minors.insert(gpu.minor), "{name}: {}", gpu.minor);
                let own = gpu.instance.iter().map(|instance| &instance.uuid);
                for uuid in own.chain([&gpu.uuid]) {
                    assert!(uuids.insert(uuid.clone()), "{name}: {uuid}");
                }
            }
        }
    }

    #[test]
    fn instances_do_not_overlap() {
        for (name, description) in all() {
            for gpu in description.gpu.values() {
                let parts = gpu
                    .instance
                    .iter()
                    .map(|i| (i.start, i.gi, gpu.profile[&i.profile].memory));
                let parts: BTreeSet<_> = parts.collect();
                let mut end = 0;
                for (start, gi, size) in parts {
                    assert!(start >= end, "{name}: {gi}");
                    end = start + size;
                }
                assert!(end <= 8, "{name}");
            }
        }
    }
}

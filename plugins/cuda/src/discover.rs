//! What is there, from what the driver's libraries and files say.

use std::collections::BTreeMap;

use divvy_plugin::{Amount, Attribute, Capacity, Device, Discovery, NodeId, NodeKind, Value};

use crate::conditions::{Condition, Kept, Now, settle};
use crate::identity::{Found, identify};
use crate::links::{Placed, links};
use crate::manage::{Managed, undivided};
use crate::mig::by_gpu_instance;
use crate::nvml::{Gpu, Instance, Memory, NvLink, Reading, Virtualization};
use crate::partition::Whole;
use crate::root::{Majors, Root};
use crate::slots::MEMORY;

/// A device, and what containers need to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// As the agent knows it.
    pub(crate) device: Device,
    /// What CUDA calls it; several for a GPU instance with several compute instances.
    /// Empty if it has no name.
    pub(crate) visible: Vec<String>,
    /// Where on the bus, for an order that stays.
    pub(crate) address: String,
    /// Of a GPU instance, its number.
    pub(crate) gi: Option<u32>,
    /// The nodes that it needs, with their paths.
    pub(crate) nodes: Vec<(String, NodeId)>,
    /// Of a GPU whose instances Divvy makes.
    pub(crate) managed: Option<Managed>,
}

/// An instance that Divvy made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carved {
    /// The GPU's id.
    pub(crate) gpu: String,
    /// Where on it.
    pub(crate) start: u32,
    /// The agent does not know it as a device.
    pub(crate) unit: Unit,
}

/// The whole machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// GPUs, each with its MIG instances behind it.
    pub(crate) units: Vec<Unit>,
    /// What Divvy made of those that it cuts.
    pub(crate) carved: Vec<Carved>,
    /// The driver's version.
    pub(crate) driver: Option<String>,
    /// The version of CUDA that it serves.
    pub(crate) cuda: Option<String>,
    /// What was odd.
    pub(crate) warnings: Vec<String>,
}

impl Machine {
    /// The unit that the agent knows by this id.
    pub(crate) fn unit(&self, id: &str) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.device.id == id)
    }

    /// The instance that Divvy made there.
    pub(crate) fn carved(&self, gpu: &str, start: u32) -> Option<&Unit> {
        let there = |carved: &&Carved| carved.gpu == gpu && carved.start == start;
        self.carved.iter().find(there).map(|carved| &carved.unit)
    }

    /// For the agent.
    pub(crate) fn discovery(&self) -> Discovery {
        Discovery {
            devices: self.units.iter().map(|unit| unit.device.clone()).collect(),
            warnings: self.warnings.clone(),
            ..Discovery::default()
        }
    }
}

/// Puts together what NVML and the kernel say, and what is remembered.
pub(crate) fn machine(root: &Root, reading: Reading, kept: &Kept) -> Machine {
    let mut warnings = reading.warnings;
    let known = root.known();
    let has_node = |minor: u32| root.node(&format!("dev/nvidia{minor}")).is_some();
    let gpus = identify(reading.gpus, known, has_node, &mut warnings);
    let now = Now::on(root);
    let conditions = kept.update(&mut warnings, |before| settle(before, &gpus, &now));
    let facts = Facts {
        root,
        kept,
        conditions,
        majors: root.majors(),
        driver: reading.driver.clone(),
        cuda_version: reading.cuda.clone(),
    };
    let placed: Vec<Placed<'_>> = gpus
        .iter()
        .filter(|found| found.gpu.lost.is_none())
        .map(|found| Placed {
            id: &found.id,
            gpu: &found.gpu,
            bridges: root.bridges(&found.address),
            switched: switched(root, &found.gpu),
        })
        .collect();
    let mut links = links(&placed);
    let (mut units, mut carved) = (vec![], vec![]);
    for found in &gpus {
        let memory = in_hundredths(facts.memory(found, &mut warnings));
        let whole = Whole {
            memory: memory.total.saturating_sub(memory.reserved).whole_units(),
            sms: multiprocessors(&found.gpu),
        };
        let mut unit = facts.gpu(found, memory, whole, &mut warnings);
        unit.device.links = links.remove(&found.id).unwrap_or_default();
        if unit.managed.is_some() {
            let made = facts.carved(found, &unit, whole, &mut warnings);
            // They come and go with what is held of it.
            for node in made.iter().flat_map(|made| &made.unit.device.nodes) {
                if !unit.device.nodes.contains(node) {
                    unit.device.nodes.push(*node);
                }
            }
            carved.extend(made);
            units.push(unit);
            continue;
        }
        let instances = facts.instances(found, &unit, whole, &mut warnings);
        units.push(unit);
        units.extend(instances);
    }
    Machine {
        units,
        carved,
        driver: reading.driver,
        cuda: reading.cuda,
        warnings,
    }
}

/// How many of a GPU's NVLinks lead to switches. Where NVML does not say what is at the
/// far end, the PCI bus does.
fn switched(root: &Root, gpu: &Gpu) -> usize {
    let leads = |link: &&NvLink| match link {
        NvLink::Switch => true,
        NvLink::Device(far) => root.is_nvswitch(far),
    };
    gpu.nvlinks.iter().filter(leads).count()
}

/// What is the same for all GPUs.
pub(crate) struct Facts<'a> {
    pub(crate) root: &'a Root,
    pub(crate) kept: &'a Kept,
    /// What happened to GPUs and is not over.
    pub(crate) conditions: Vec<Condition>,
    /// `None`: the kernel's list cannot be read.
    pub(crate) majors: Option<Majors>,
    driver: Option<String>,
    cuda_version: Option<String>,
}

impl Facts<'_> {
    fn gpu(
        &self,
        found: &Found,
        memory: Capacity,
        whole: Whole,
        warnings: &mut Vec<String>,
    ) -> Unit {
        let gpu = &found.gpu;
        let nodes = self.gpu_nodes(found, warnings);
        let all = Instance {
            sms: whole.sms,
            ..Instance::default()
        };
        let cut = gpu.mig.is_some_and(|mig| mig.on);
        let mut device = Device {
            numa_node: self.root.numa_node(&found.address),
            health: self.health(found, &nodes),
            attributes: self.attributes(found, "", &all),
            nodes: nodes.iter().map(|(_, node)| *node).collect(),
            processes: computing(gpu, None),
            ..Device::new(&found.id, "gpu", &found.model)
        };
        if let Some(managed) = &gpu.managed {
            managed.offer(&mut device, memory, whole, gpu.exclusive);
        } else if !cut {
            device.capacities = undivided(gpu.exclusive).into_iter().collect();
            device.capacities.insert(MEMORY.into(), memory);
        }
        Unit {
            visible: found.uuid.clone().into_iter().collect(),
            address: found.address.clone(),
            gi: None,
            device,
            nodes,
            managed: gpu.managed.clone(),
        }
    }

    /// The instances that Divvy made of a GPU.
    fn carved(
        &self,
        found: &Found,
        gpu: &Unit,
        whole: Whole,
        warnings: &mut Vec<String>,
    ) -> Vec<Carved> {
        let devices = by_gpu_instance(&found.gpu.instances);
        let ours = found.gpu.managed.iter().flat_map(|managed| &managed.ours);
        ours.filter_map(|instance| {
            let devices = devices.get(&instance.id)?;
            Some(Carved {
                gpu: found.id.clone(),
                start: instance.start,
                unit: self.instance(found, gpu, instance.id, devices, whole, warnings)?,
            })
        })
        .collect()
    }

    /// A GPU's own node, and those that all share.
    fn gpu_nodes(&self, found: &Found, warnings: &mut Vec<String>) -> Vec<(String, NodeId)> {
        let mut nodes = vec![];
        let mut node = |path: String, major: Option<u32>, minor: Option<u32>| {
            let there = self.root.node(&path);
            let node = match (self.majors, major, minor) {
                (_, Some(major), Some(minor)) => Some(char_node(major, minor)),
                // Without the kernel's list, the one major that is NVIDIA's by
                // assignment (Documentation/admin-guide/devices.txt). A file may be
                // left of a module that is gone, and its number be another's by now.
                (None, _, _) => there.flatten().filter(|node| node.major == 195),
                _ => None,
            };
            if let (Some(node), Some(there)) = (node, there)
                && there != Some(node)
            {
                let is = there.map_or("no device node".into(), |n| {
                    format!("{}:{}", n.major, n.minor)
                });
                let warning = format!(
                    "/{path} is {is} where the driver has {}:{}; containers get the driver's; remove the file and run nvidia-modprobe",
                    node.major, node.minor
                );
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
            nodes.extend(node.map(|node| (format!("/{path}"), node)));
        };
        let Majors { gpu, uvm, .. } = self.majors.unwrap_or_default();
        if let Some(minor) = found.minor {
            node(format!("dev/nvidia{minor}"), gpu, Some(minor));
        }
        // Minors: nvidia-modprobe, `NV_CTL_DEVICE_MINOR`, `NV_UVM_…`.
        node("dev/nvidiactl".into(), gpu, Some(255));
        node("dev/nvidia-uvm".into(), uvm, Some(0));
        node("dev/nvidia-uvm-tools".into(), uvm, Some(1));
        nodes
    }

    /// What the driver says; else, of a part of the processor, the host's memory; else
    /// nothing can be said, and no part of it can be asked for.
    fn memory(&self, found: &Found, warnings: &mut Vec<String>) -> Memory {
        let none = Memory {
            total: 0,
            reserved: 0,
        };
        if found.gpu.lost.is_some() {
            return none;
        }
        let host = || match is_integrated(&found.model) {
            true => self
                .root
                .memory()
                .map(|total| Memory { total, reserved: 0 }),
            false => None,
        };
        found.gpu.memory.or_else(host).unwrap_or_else(|| {
            warnings.push(format!(
                "GPU {}: the driver does not say how much memory it has; none of it can be asked for",
                found.id
            ));
            none
        })
    }

    /// The same attributes for every device, so that a selector that holds for one
    /// can be asked of all; what is not known is 0, "" or false.
    pub(crate) fn attributes(
        &self,
        found: &Found,
        profile: &str,
        instance: &Instance,
    ) -> BTreeMap<String, Attribute> {
        let gpu = &found.gpu;
        let text = |text: &Option<String>| Attribute::text(text.clone().unwrap_or_default());
        let int = |number: Option<u32>| Attribute::int(number.unwrap_or(0).into());
        let version = |text: &Option<String>| Attribute {
            value: Value::Version(text.clone().unwrap_or_else(|| "0".into())),
            unit: None,
        };
        let capability = gpu
            .compute_capability
            .map(|(major, minor)| format!("{major}.{minor}"));
        let mig = match gpu.mig {
            None => "unsupported",
            Some(mig) if mig.on => "on",
            Some(_) => "off",
        };
        let virtualization = match gpu.virtualization {
            None => "",
            Some(Virtualization::None) => "none",
            Some(Virtualization::PassThrough) => "pass-through",
            Some(Virtualization::Vgpu) => "vgpu",
            Some(Virtualization::Host) => "host",
        };
        let index = (gpu.index != u32::MAX).then_some(gpu.index);
        let links = u32::try_from(gpu.nvlinks.len()).unwrap_or(u32::MAX);
        let (cluster, clique) = gpu.fabric.clone().unzip();
        [
            ("uuid", text(&found.uuid)),
            ("index", Attribute::int(index.map_or(-1, i64::from))),
            ("minor", Attribute::int(found.minor.map_or(-1, i64::from))),
            ("pci_address", Attribute::text(&found.address)),
            ("brand", text(&gpu.brand)),
            ("architecture", text(&gpu.architecture)),
            ("compute_capability", version(&capability)),
            ("sms", int(instance.sms)),
            ("cores", int(gpu.cores)),
            ("driver_version", version(&self.driver)),
            ("cuda_version", version(&self.cuda_version)),
            ("mig", Attribute::text(mig)),
            ("mig_profile", Attribute::text(profile)),
            ("nvlinks", int(Some(links))),
            ("nvlink_version", int(gpu.nvlink_version)),
            ("fabric_cluster", text(&cluster)),
            ("fabric_clique", int(clique)),
            ("pcie_generation", int(gpu.pcie_generation)),
            ("pcie_width", int(gpu.pcie_width)),
            (
                "power_limit",
                Attribute::int_in(gpu.power_limit.unwrap_or(0).into(), "W"),
            ),
            ("ecc", Attribute::flag(gpu.ecc == Some(true))),
            ("exclusive", Attribute::flag(gpu.exclusive)),
            ("virtualization", Attribute::text(virtualization)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// The programs on one of a GPU's instances, or on what of a GPU is handed out as its own:
/// all of it, or, where it is cut on demand, the instances that we made.
pub(crate) fn computing(gpu: &Gpu, gi: Option<u32>) -> Vec<u32> {
    let cut = gi.is_none() && gpu.mig.is_some_and(|mig| mig.on);
    let ours = gpu.managed.iter().flat_map(|managed| &managed.ours);
    let ours: Vec<Option<u32>> = match cut {
        true => ours.map(|instance| Some(instance.id)).collect(),
        false => vec![gi],
    };
    let all = gpu.vitals.computing.iter().flatten();
    let mut pids: Vec<u32> = all
        .filter(|(pid, on)| ours.contains(on) && *pid != 0)
        .map(|(pid, _)| *pid)
        .collect();
    pids.dedup();
    pids
}

pub(crate) fn char_node(major: u32, minor: u32) -> NodeId {
    NodeId {
        kind: NodeKind::Char,
        major,
        minor,
    }
}

/// Hundredths of it are whole bytes, so that shares that add up to 1 do so in bytes:
/// up to 99 bytes are left to the driver.
fn in_hundredths(memory: Memory) -> Capacity {
    let usable = memory.total.saturating_sub(memory.reserved) / 100 * 100;
    Capacity {
        total: Amount::from_units(memory.total),
        reserved: Amount::from_units(memory.total - usable),
        step: Some(Amount::ONE),
    }
}

/// The parts that are known to share the host's memory: the Grace-Blackwell superchip
/// of DGX Spark, and Jetson's. NVML says so of none.
fn is_integrated(model: &str) -> bool {
    ["GB10", "Orin", "Xavier", "Thor", "Tegra"]
        .iter()
        .any(|name| model.contains(name))
}

/// Streaming multiprocessors: NVML counts CUDA cores, of which each has as many as
/// its compute capability says (CUDA C++ Programming Guide, "Compute Capabilities").
fn multiprocessors(gpu: &Gpu) -> Option<u32> {
    let (major, minor) = gpu.compute_capability?;
    let each = match (major, minor) {
        (3, _) => 192,
        (5, _) | (6, 1 | 2) | (8, 6..) | (9.., _) => 128,
        (6 | 7, _) | (8, _) => 64,
        _ => return None,
    };
    Some(gpu.cores? / each)
}

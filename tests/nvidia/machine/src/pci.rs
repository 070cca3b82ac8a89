//! Where GPUs are on the PCI bus: behind which bridges, and how far from each other.

use crate::description::{Description, Gpu};

/// What two GPUs have in common, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Common {
    /// They are one GPU.
    Itself,
    /// A PCIe switch.
    Switch,
    /// A host bridge.
    Bridge,
    /// A NUMA node.
    Node,
    /// Only the machine.
    Machine,
}

/// The parts of a PCI address `DDDD:BB:DD.F`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The domain.
    pub domain: u32,
    /// The bus.
    pub bus: u32,
    /// The device (slot).
    pub device: u32,
    /// The function.
    pub function: u32,
}

impl Address {
    /// Reads one, in either case and with a domain of any length.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, function) = text.rsplit_once('.').unwrap_or((text, "0"));
        let mut parts = rest.rsplit(':');
        let mut number = || u32::from_str_radix(parts.next()?, 16).ok();
        let (device, bus) = (number()?, number()?);
        Some(Self {
            domain: number().unwrap_or(0),
            bus,
            device,
            function: u32::from_str_radix(function, 16).ok()?,
        })
    }
}

/// The bridges above a GPU, from the root: `pci0000:50`, `0000:50:01.0`. A switch is its
/// upstream and one downstream port.
#[must_use]
pub fn bridges(description: &Description, gpu: &Gpu) -> Vec<String> {
    let Some(address) = Address::parse(&gpu.pci) else {
        return Vec::new();
    };
    let domain = address.domain;
    let Some(switch) = &gpu.switch else {
        let root = address.bus.saturating_sub(1);
        let mut path = vec![format!("pci{domain:04x}:{root:02x}")];
        // On the root's own bus, as in a virtual machine, there is nothing between.
        if address.bus > 0 {
            path.push(format!("{domain:04x}:{root:02x}:01.0"));
        }
        return path;
    };
    let behind = |other: &&Gpu| other.switch.as_ref() == Some(switch);
    let mut all: Vec<&Gpu> = description.gpu.values().filter(behind).collect();
    all.sort_by_key(|gpu| &gpu.pci);
    let first = all.first().and_then(|gpu| Address::parse(&gpu.pci));
    let port = all.iter().position(|other| other.pci == gpu.pci);
    let root = first.unwrap_or(address).bus.saturating_sub(3);
    vec![
        format!("pci{domain:04x}:{root:02x}"),
        format!("{domain:04x}:{root:02x}:01.0"),
        format!("{domain:04x}:{:02x}:00.0", root + 1),
        format!("{domain:04x}:{:02x}:{:02x}.0", root + 2, port.unwrap_or(0)),
    ]
}

/// What two GPUs have in common.
#[must_use]
pub fn common(description: &Description, one: &Gpu, other: &Gpu) -> Common {
    if one.pci == other.pci {
        return Common::Itself;
    }
    if one.switch.is_some() && one.switch == other.switch {
        return Common::Switch;
    }
    if bridges(description, one).first() == bridges(description, other).first() {
        return Common::Bridge;
    }
    match one.numa_node == other.numa_node {
        true => Common::Node,
        false => Common::Machine,
    }
}

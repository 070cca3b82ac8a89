//! Which GPU is which.

use std::collections::{BTreeMap, BTreeSet};

use crate::nvml::Gpu;
use crate::root::{Known, without_function};

/// Of a GPU that the kernel has and NVML does not count.
pub(crate) const UNLISTED: &str = "not listed";

/// A GPU with an identity.
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) address: String,
    /// Its UUID, if it is its own.
    pub(crate) uuid: Option<String>,
    pub(crate) minor: Option<u32>,
    pub(crate) model: String,
    pub(crate) gpu: Gpu,
}

/// Gives each GPU its id: its UUID, else its PCI address. What NVML does not say of a
/// GPU (it may have fallen off the bus), the kernel may.
pub(crate) fn identify(
    gpus: Vec<Gpu>,
    mut known: BTreeMap<String, Known>,
    has_node: impl Fn(u32) -> bool,
    warnings: &mut Vec<String>,
) -> Vec<Found> {
    let mut found = vec![];
    let mut nameless = vec![];
    for gpu in gpus {
        let Some(address) = gpu.address.clone() else {
            nameless.push(gpu);
            continue;
        };
        // NVML does not say the function, which may be another in a virtual machine.
        let same = |other: &&String| without_function(other) == without_function(&address);
        let address = known.keys().find(same).cloned().unwrap_or(address);
        let kernel = known.remove(&address).unwrap_or_default();
        found.push(one(gpu, address, kernel));
    }
    // What is left are the GPUs of which NVML knows no address: rather those that have
    // a node than those that have none, which NVML does not list for want of it.
    let mut left: Vec<(String, Known)> = known.into_iter().collect();
    left.sort_by_key(|(_, kernel)| !kernel.minor.is_some_and(&has_node));
    let mut nameless = nameless.into_iter();
    for (address, kernel) in left {
        let gpu = nameless.next().unwrap_or_else(|| Gpu {
            index: u32::MAX,
            lost: Some(UNLISTED.into()),
            ..Gpu::default()
        });
        found.push(one(gpu, address, kernel));
    }
    for gpu in nameless {
        warnings.push(format!(
            "GPU number {} is not listed: neither NVML nor the kernel says which one it is{}",
            gpu.index,
            gpu.lost.map(|why| format!(" ({why})")).unwrap_or_default()
        ));
    }
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<String> = found
        .iter()
        .filter_map(|found| found.uuid.clone())
        .filter(|uuid| !seen.insert(uuid.clone()))
        .collect();
    for found in &mut found {
        let shared = found.uuid.as_ref().is_some_and(|uuid| twice.contains(uuid));
        if shared {
            found.uuid = None;
        }
        if found.uuid.is_none() {
            let why = if shared {
                "its UUID is another's too"
            } else {
                "it has no UUID"
            };
            warnings.push(format!(
                "GPU {} goes by its PCI address: {why}",
                found.address
            ));
        }
        found.id = found.uuid.clone().unwrap_or_else(|| found.address.clone());
    }
    found.sort_by(|a, b| a.address.cmp(&b.address));
    let twins = |one: &Found| {
        let same = |other: &&Found| {
            other.address == one.address || (other.minor.is_some() && other.minor == one.minor)
        };
        found.iter().filter(same).count() > 1
    };
    let twins: Vec<bool> = found.iter().map(twins).collect();
    for (found, twin) in found.iter_mut().zip(twins) {
        if twin && found.gpu.trouble.is_none() {
            found.gpu.trouble = Some("its address or its number is another's too".into());
        }
    }
    found
}

fn one(gpu: Gpu, address: String, kernel: Known) -> Found {
    Found {
        id: String::new(),
        address,
        uuid: gpu.uuid.clone().or(kernel.uuid),
        minor: gpu.minor.or(kernel.minor),
        model: gpu
            .name
            .clone()
            .or(kernel.model)
            .unwrap_or_else(|| "NVIDIA GPU".into()),
        gpu,
    }
}

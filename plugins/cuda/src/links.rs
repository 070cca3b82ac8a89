//! How GPUs are connected.

use std::collections::BTreeMap;

use divvy_plugin::Link;

use crate::nvml::{Gpu, NvLink};
use crate::root::without_function;

/// MB/s in one direction of one NVLink of a generation (NVIDIA's architecture
/// whitepapers: Pascal 20 GB/s, Volta to Hopper 25, Blackwell 50).
fn nvlink_rate(version: Option<u32>) -> u32 {
    match version {
        Some(1) => 20_000,
        Some(version) if version >= 5 => 50_000,
        _ => 25_000,
    }
}

/// MB/s in one direction of one PCIe lane of a generation (PCI Express Base
/// Specification: 2.5, 5, 8, 16, 32, 64 GT/s, less the line code).
fn lane_rate(generation: u32) -> u32 {
    match generation {
        0 | 1 => 250,
        2 => 500,
        3 => 985,
        4 => 1_969,
        5 => 3_938,
        _ => 7_563,
    }
}

fn pcie_rate(gpu: &Gpu) -> u32 {
    let rate = gpu.pcie_generation.map_or(0, lane_rate);
    rate.saturating_mul(gpu.pcie_width.unwrap_or(0).min(32))
}

/// Each GPU's place on the bus.
pub(crate) struct Placed<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// What NVML says of it.
    pub(crate) gpu: &'a Gpu,
    /// The bridges above it, from the root complex on.
    pub(crate) bridges: Vec<String>,
    /// Its NVLinks to switches.
    pub(crate) switched: usize,
}

/// The best connection of each pair, from the first one's side: NVLink, directly or
/// through switches; else a PCIe switch that is above both; else the root complex.
/// What only a socket connects is not linked: that is what NUMA nodes say.
pub(crate) fn links(gpus: &[Placed<'_>]) -> BTreeMap<String, Vec<Link>> {
    let link = |one: &Placed<'_>, other: &Placed<'_>| {
        // A GPU with MIG on says nothing of its NVLinks, and has no use of them.
        let (kind, weight) = match nvlinks(one, other).min(nvlinks(other, one)) {
            0 => pcie(one, other)?,
            count => (
                "nvlink",
                nvlink_rate(one.gpu.nvlink_version.max(other.gpu.nvlink_version))
                    .saturating_mul(count),
            ),
        };
        Some(Link {
            to: other.id.to_owned(),
            kind: kind.into(),
            weight,
        })
    };
    let of = |one: &Placed<'_>| {
        let others = gpus.iter().filter(|other| other.id != one.id);
        others.filter_map(|other| link(one, other)).collect()
    };
    gpus.iter()
        .map(|one| (one.id.to_owned(), of(one)))
        .collect()
}

fn pcie(one: &Placed<'_>, other: &Placed<'_>) -> Option<(&'static str, u32)> {
    let common = one.bridges.iter().zip(&other.bridges);
    let common = common.take_while(|(a, b)| a == b).count();
    let weight = pcie_rate(one.gpu).min(pcie_rate(other.gpu));
    match common {
        0 => None,
        // The root complex.
        1 => Some(("pcie-host", weight / 2)),
        _ => Some(("pcie-switch", weight)),
    }
}

/// How many NVLinks lead from one to the other, directly or through switches. All
/// switches of a machine are taken for one; NVIDIA builds no other.
fn nvlinks(one: &Placed<'_>, other: &Placed<'_>) -> u32 {
    let direct = |link: &&NvLink| match (link, &other.gpu.address) {
        (NvLink::Device(far), Some(address)) => without_function(far) == without_function(address),
        _ => false,
    };
    let direct = one.gpu.nvlinks.iter().filter(direct).count();
    u32::try_from(direct + one.switched.min(other.switched)).unwrap_or(u32::MAX)
}

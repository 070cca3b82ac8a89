//! How GPUs are connected.

use std::collections::BTreeMap;

use divvy_plugin::Link;

use crate::nvml::{Gpu, NvLink};

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
}

/// The best connection of each pair, from the first one's side: NVLink, directly or
/// through switches; else a PCIe switch that is above both; else the root complex.
/// What only a socket connects is not linked: that is what NUMA nodes say.
pub(crate) fn links(gpus: &[Placed<'_>]) -> BTreeMap<String, Vec<Link>> {
    let mut links = BTreeMap::new();
    for one in gpus {
        let others = gpus.iter().filter(|other| other.id != one.id);
        let best = others.filter_map(|other| {
            let (kind, weight) = connection(one, other)?;
            Some(Link {
                to: other.id.to_owned(),
                kind: kind.into(),
                weight,
            })
        });
        links.insert(one.id.to_owned(), best.collect());
    }
    links
}

fn connection(one: &Placed<'_>, other: &Placed<'_>) -> Option<(&'static str, u32)> {
    let nvlink = nvlinks(one.gpu, other.gpu);
    if nvlink > 0 {
        let rate = nvlink_rate(one.gpu.nvlink_version);
        return Some(("nvlink", rate.saturating_mul(nvlink)));
    }
    let common = one.bridges.iter().zip(&other.bridges);
    let common = common.take_while(|(a, b)| a == b).count();
    let weight = pcie_rate(one.gpu).min(pcie_rate(other.gpu));
    match common {
        0 => None,
        // The root complex, or a root port that two functions share.
        1 => Some(("pcie-host", weight / 2)),
        _ => Some(("pcie-switch", weight)),
    }
}

/// How many NVLinks lead from one to the other. Through switches all of them do.
fn nvlinks(one: &Gpu, other: &Gpu) -> u32 {
    let direct = one
        .nvlinks
        .iter()
        .filter(|link| match (link, &other.address) {
            (NvLink::Device(far), Some(address)) => far == address,
            _ => false,
        });
    let switched = |gpu: &Gpu| gpu.nvlinks.iter().filter(|l| **l == NvLink::Switch).count();
    let count = direct.count() + switched(one).min(switched(other));
    u32::try_from(count).unwrap_or(u32::MAX)
}

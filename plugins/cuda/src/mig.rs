//! MIG: GPU instances as devices.

use std::collections::BTreeMap;

use divvy_plugin::{Amount, Capacity, Device, Health, HealthState, NodeId, Partitioning, Profile};

use crate::discover::{Facts, Unit, char_node, computing};
use crate::identity::Found;
use crate::nvml::{Instance, Memory};
use crate::partition::{Whole, serves};
use crate::slots::{INSTANCE, MEMORY, slot_of};

impl Facts<'_> {
    /// The GPU instances of a GPU with MIG on. What is handed out is a GPU instance:
    /// its compute instances share its memory.
    pub(crate) fn instances(
        &self,
        found: &Found,
        gpu: &Unit,
        whole: Whole,
        warnings: &mut Vec<String>,
    ) -> Vec<Unit> {
        let by_gi = by_gpu_instance(&found.gpu.instances);
        let mut units: Vec<Unit> = by_gi
            .into_iter()
            .filter_map(|(gi, instances)| {
                self.instance(found, gpu, gi, &instances, whole, warnings)
            })
            .collect();
        // Of those that serve a request alike the first one is taken: rather a small one.
        units.sort_by_key(|unit| {
            unit.device
                .capacities
                .get(MEMORY)
                .map(|memory| memory.total)
        });
        units
    }

    /// One of them, of which these are all compute instances.
    pub(crate) fn instance(
        &self,
        found: &Found,
        gpu: &Unit,
        gi: u32,
        instances: &[&Instance],
        whole: Whole,
        warnings: &mut Vec<String>,
    ) -> Option<Unit> {
        let first = instances.first()?;
        let profile = profile(first, found.gpu.memory).unwrap_or_else(|| {
            warnings.push(format!(
                "GPU {}: NVML does not say of which profile its GPU instance {gi} is; ask for it with cuda.mig",
                found.id
            ));
            "unknown".into()
        });
        let mut nodes = gpu.nodes.clone();
        let rights = self.rights(found, gi, instances);
        // The rights to the GPU instance, and to each compute instance.
        let closed = rights.len() <= instances.len();
        let health = match gpu.device.health.state {
            HealthState::Healthy | HealthState::Degraded if closed => Health {
                state: HealthState::Unhealthy,
                reason: Some("the driver does not say which nodes are the rights to it (/proc/driver/nvidia/capabilities): nvidia-modprobe -f, or reload the driver".into()),
            },
            _ => gpu.device.health.clone(),
        };
        nodes.extend(rights);
        let names: Vec<String> = instances.iter().filter_map(|i| i.uuid.clone()).collect();
        let all = Instance {
            sms: instances.iter().map(|i| i.sms).sum(),
            ..(*first).clone()
        };
        let mut has = BTreeMap::from([(INSTANCE.to_owned(), Amount::ONE)]);
        if let Some(total) = first.memory {
            has.insert(MEMORY.into(), Amount::from_units(total));
        }
        // One partition, which is there already.
        let partitioning = slot_of(&profile).map(|slot| Partitioning {
            positions: 1,
            profiles: vec![Profile {
                slot,
                size: 1,
                starts: vec![0],
                capacities: has.clone(),
                serves: serves(first.memory, all.sms, whole),
            }],
        });
        let capacities = has.into_iter().map(|(name, n)| (name, Capacity::of(n)));
        let id = names.first().cloned();
        Some(Unit {
            device: Device {
                numa_node: gpu.device.numa_node,
                health,
                attributes: self.attributes(found, &profile, &all),
                capacities: capacities.collect(),
                partitioning,
                nodes: nodes.iter().map(|(_, node)| *node).collect(),
                parent: Some(found.id.clone()),
                processes: computing(&found.gpu, Some(gi)),
                ..Device::new(
                    id.unwrap_or_else(|| format!("{}/gi{gi}", found.id)),
                    "mig",
                    format!("{} MIG {profile}", found.model),
                )
            },
            visible: names,
            address: found.address.clone(),
            gi: Some(gi),
            nodes,
            managed: None,
        })
    }

    /// The nodes that are the rights to a GPU instance and to its compute instances.
    pub(crate) fn rights(
        &self,
        found: &Found,
        gi: u32,
        instances: &[&Instance],
    ) -> BTreeMap<String, NodeId> {
        let mut rights = BTreeMap::new();
        for instance in instances {
            let gpu = found.minor;
            let minors = gpu.and_then(|gpu| self.root.mig_minors(gpu, gi, instance.ci));
            let major = self.majors.and_then(|majors| majors.caps);
            if let (Some((of_gi, of_ci)), Some(major)) = (minors, major) {
                for minor in [of_gi, of_ci] {
                    let path = format!("/dev/nvidia-caps/nvidia-cap{minor}");
                    rights.insert(path, char_node(major, minor));
                }
            }
        }
        rights
    }
}

/// MIG devices by the GPU instance that they are in, each as its compute instances are
/// numbered.
pub(crate) fn by_gpu_instance(instances: &[Instance]) -> BTreeMap<u32, Vec<&Instance>> {
    let mut by_gi: BTreeMap<u32, Vec<&Instance>> = BTreeMap::new();
    for instance in instances {
        by_gi.entry(instance.gi).or_default().push(instance);
    }
    for instances in by_gi.values_mut() {
        instances.sort_by_key(|instance| instance.ci);
    }
    by_gi
}

/// The profile of a GPU instance: from the MIG device's name (`… MIG 1c.3g.40gb`: the
/// part before the `g` is the compute instance's); else by NVIDIA's rule.
fn profile(instance: &Instance, gpu: Option<Memory>) -> Option<String> {
    if let Some(profile) = without_prefix(instance.name.as_deref()) {
        let whole = match profile.split_once('.') {
            Some((part, rest)) if part.ends_with('c') => rest.to_owned(),
            _ => profile,
        };
        return Some(whole);
    }
    name_of(instance.gi_slices?, instance.memory?, gpu)
}

/// What NVML's names have behind `MIG `.
pub(crate) fn without_prefix(name: Option<&str>) -> Option<String> {
    let (_, name) = name?.rsplit_once("MIG ")?;
    Some(name.trim().to_owned())
}

/// NVIDIA's rule for names: eighths of the GPU's memory, in whole GB.
pub(crate) fn name_of(slices: u32, memory: u64, gpu: Option<Memory>) -> Option<String> {
    let total = gpu?.total;
    if slices == 0 || total == 0 {
        return None;
    }
    let eighths = memory.checked_mul(8)?.div_ceil(total);
    let gb = (eighths * total.div_ceil(1 << 30) + 4) / 8;
    Some(format!("{slices}g.{gb}gb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn profiles() {
        let of = |name: &str, slices, mib: u64, total_mib: u64| {
            let instance = Instance {
                name: (!name.is_empty()).then(|| name.to_owned()),
                gi_slices: Some(slices),
                memory: Some(mib * MIB),
                ..Instance::default()
            };
            let gpu = Memory {
                total: total_mib * MIB,
                reserved: 0,
            };
            profile(&instance, Some(gpu)).unwrap_or_default()
        };
        assert_eq!(
            of("NVIDIA A100-SXM4-80GB MIG 1c.3g.40gb", 3, 0, 1),
            "3g.40gb"
        );
        assert_eq!(of("NVIDIA H100 MIG 1g.10gb+me", 1, 0, 1), "1g.10gb+me");
        // Sizes from captures: the rule gives NVIDIA's names.
        for (slices, mib, total, name) in [
            (1, 4_864, 40_960, "1g.5gb"),
            (1, 9_728, 81_920, "1g.10gb"),
            (3, 40_192, 81_920, "3g.40gb"),
            (2, 20_096, 81_559, "2g.20gb"),
            (1, 16_384, 143_771, "1g.18gb"),
            (1, 22_528, 183_359, "1g.23gb"),
            (2, 45_312, 183_359, "2g.45gb"),
            (4, 24_004, 24_576, "4g.24gb"),
        ] {
            assert_eq!(of("", slices, mib, total), name);
        }
    }
}

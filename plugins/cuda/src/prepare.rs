//! Slices to edits.

use std::collections::BTreeMap;
use std::path::PathBuf;

use divvy_plugin::{Amount, DeviceNode, Edits, EnvVar, HealthState, Mount, Slice};

use crate::discover::{Machine, Unit};
use crate::error::Error;
use crate::root::Access;
use crate::slots::{
    COMPUTE, DEVICE, INSTANCE, MEM, MEMORY, MIG, SHARES, TIME, WHOLE, is_of_profile, share_quantum,
};

/// Where containers have the driver's libraries. No image has anything there, so
/// nothing of an image is hidden or can hide them.
pub(crate) const LIBRARIES: &str = "/usr/local/lib/divvy/cuda";

/// The slices of one allocation, checked against the machine as it is now: each unit
/// once, in the order of the bus, with what was granted of it.
pub(crate) struct Grant<'a>(Vec<Granted<'a>>);

struct Granted<'a> {
    unit: &'a Unit,
    /// What the agent calls the device: of an instance that was made for this, its GPU.
    device: &'a str,
    /// How much of each of its capacities.
    amounts: BTreeMap<String, Amount>,
}

impl<'a> Grant<'a> {
    /// Checks them. Instances that are to be made for them are made.
    pub(crate) fn check(slices: &'a [Slice], machine: &'a Machine) -> Result<Self, Error> {
        if slices.is_empty() {
            return Err(Error::NoSlices);
        }
        let mut units: BTreeMap<(&str, &str), Granted<'a>> = BTreeMap::new();
        for slice in slices {
            let unit = match (asked(slice, machine)?, slice.start) {
                (unit, Some(start)) if unit.managed.is_some() => {
                    let carved = machine.carved(&slice.device, start);
                    healthy(carved.ok_or_else(|| not_offered(slice))?)?
                }
                (unit, _) => unit,
            };
            let key = (unit.address.as_str(), unit.device.id.as_str());
            let granted = units.entry(key).or_insert_with(|| Granted {
                unit,
                device: &slice.device,
                amounts: BTreeMap::new(),
            });
            for (capacity, amount) in &slice.capacities {
                let sum = granted.amounts.entry(capacity.clone()).or_default();
                *sum = sum.checked_add(*amount).unwrap_or(Amount::MAX);
            }
        }
        Ok(Self(units.into_values().collect()))
    }

    /// The units.
    pub(crate) fn units(&self) -> Vec<&'a Unit> {
        self.0.iter().map(|granted| granted.unit).collect()
    }
}

/// The unit that a slice is of, if it offers that and is well.
pub(crate) fn asked<'a>(slice: &Slice, machine: &'a Machine) -> Result<&'a Unit, Error> {
    let unit = machine.unit(&slice.device).ok_or_else(|| Error::NoDevice {
        slot: slice.slot.clone(),
        device: slice.device.clone(),
    })?;
    check(slice, unit)?;
    healthy(unit)
}

fn healthy(unit: &Unit) -> Result<&Unit, Error> {
    match (unit.device.health.state, &unit.device.health.reason) {
        (HealthState::Unhealthy, why) => Err(Error::Ill {
            device: unit.device.id.clone(),
            why: why.clone().unwrap_or_default(),
        }),
        _ => Ok(unit),
    }
}

fn check(slice: &Slice, unit: &Unit) -> Result<(), Error> {
    let device = &unit.device;
    let has = |capacity: &str| device.capacities.contains_key(capacity);
    let offered = match slice.slot.as_str() {
        DEVICE => has(WHOLE),
        SHARES => has(MEMORY) && has(TIME),
        MEM => has(MEMORY),
        COMPUTE => has(TIME),
        MIG => has(INSTANCE),
        slot if is_of_profile(slot) => {
            let mut profiles = device.partitioning.iter().flat_map(|p| &p.profiles);
            profiles.any(|profile| {
                let starts = |start| profile.starts.contains(&start);
                profile.slot == slot && slice.start.is_some_and(starts)
            })
        }
        slot => return Err(Error::UnknownSlot(slot.to_owned())),
    };
    if !offered {
        return Err(not_offered(slice));
    }
    let amount = slice.amount;
    let fits = match slice.slot.as_str() {
        SHARES | COMPUTE => amount <= Amount::ONE && amount.is_multiple_of(share_quantum()),
        MEM => device.capacities.get(MEMORY).is_some_and(|memory| {
            amount.fraction().is_zero() && amount <= memory.total.saturating_sub(memory.reserved)
        }),
        _ => amount == Amount::ONE,
    };
    if amount.is_zero() || !fits {
        return Err(Error::BadAmount {
            slot: slice.slot.clone(),
            device: device.id.clone(),
            amount,
        });
    }
    Ok(())
}

fn not_offered(slice: &Slice) -> Error {
    Error::NotOffered {
        slot: slice.slot.clone(),
        device: slice.device.clone(),
    }
}

/// What the container needs. `libraries` are the driver's, by name; `smi` is the
/// host's `nvidia-smi`, where it is wanted.
pub(crate) fn edits(
    grant: &Grant<'_>,
    access: Access,
    libraries: BTreeMap<String, PathBuf>,
    smi: Option<PathBuf>,
) -> Edits {
    let mounts = libraries
        .into_iter()
        .map(|(name, file)| (format!("{LIBRARIES}/{name}"), file))
        .chain(smi.map(|file| ("/usr/bin/nvidia-smi".to_owned(), file)))
        .map(|(target, file)| Mount {
            source: file.display().to_string(),
            target,
        });
    Edits {
        env: env(grant),
        device_nodes: nodes(grant, access),
        mounts: mounts.collect(),
        library_paths: vec![LIBRARIES.into()],
        additional_gids: access.gid.into_iter().collect(),
        ..Edits::default()
    }
}

fn env(grant: &Grant<'_>) -> Vec<EnvVar> {
    let units = grant.units();
    let named = units.iter().all(|unit| !unit.visible.is_empty());
    let visible: Vec<String> = match named {
        true => units.iter().flat_map(|unit| unit.visible.clone()).collect(),
        // Where GPUs have no UUIDs their numbers must do: the container has no other
        // nodes, so the driver counts no other GPUs.
        false => (0..units.len()).map(|number| number.to_string()).collect(),
    };
    let parts: Vec<String> = grant
        .0
        .iter()
        .map(|Granted { unit, amounts, .. }| {
            let parts = [MEMORY, TIME].into_iter().filter_map(|capacity| {
                // Of an instance, all that the driver says it has.
                let amount = match unit.device.parent {
                    Some(_) => unit.device.capacities.get(capacity)?.total,
                    None => *amounts.get(capacity)?,
                };
                Some(format!("{capacity}:{amount}"))
            });
            let parts: Vec<String> = parts.collect();
            format!("{}={}", unit.device.id, parts.join(","))
        })
        .collect();
    [
        ("CUDA_VISIBLE_DEVICES", visible.join(",")),
        // In the order of the bus rather than fastest first, as NVML counts.
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()),
        // Keeps NVIDIA's own runtime and hook, where an engine has them, from adding
        // anything.
        ("NVIDIA_VISIBLE_DEVICES", "void".to_owned()),
        // A server of MPS that others on the host use is no way out of a container.
        ("CUDA_MPS_PIPE_DIRECTORY", "/nonexistent".to_owned()),
        // What a program that keeps to its part by itself needs to know.
        ("DIVVY_CUDA_SLICES", parts.join(";")),
    ]
    .map(|(name, value)| EnvVar {
        name: name.into(),
        value,
        default: false,
    })
    .into()
}

/// Each node once, in the name of the first unit that has it.
fn nodes(grant: &Grant<'_>, access: Access) -> Vec<DeviceNode> {
    let mut nodes: BTreeMap<&str, DeviceNode> = BTreeMap::new();
    for Granted { unit, device, .. } in &grant.0 {
        for (path, id) in &unit.nodes {
            // Rights to MIG instances are read-only files of everybody's.
            let right = path.starts_with("/dev/nvidia-caps/");
            nodes.entry(path).or_insert_with(|| DeviceNode {
                device: (*device).to_owned(),
                path: path.clone(),
                kind: id.kind,
                major: id.major,
                minor: id.minor,
                write: true,
                mode: Some(if right { 0o444 } else { access.mode }),
                gid: access.gid.filter(|_| !right),
            });
        }
    }
    nodes.into_values().collect()
}

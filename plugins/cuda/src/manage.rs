//! GPUs whose MIG instances Divvy makes and unmakes: which these are, what of them is
//! ours, and what they offer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use divvy_plugin::{Amount, Capacity, Device, Health, HealthState};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::journal::Entry;
use crate::layout::{self, GpuInstance, Layout};
use crate::mig::by_gpu_instance;
use crate::nvml::{self, Gpu, Reading, Silent};
use crate::partition::{Whole, cut};
use crate::root::without_function;
use crate::slots::{MEMORY, TIME, WHOLE, share_quantum};

/// How long a GPU may take to say how it can be cut.
const LIMIT: Duration = Duration::from_secs(2);

/// What Divvy may do about MIG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Nothing.
    #[default]
    Keep,
    /// Make and unmake instances where MIG is on.
    Instances,
    /// Also turn it on and off where nothing runs.
    Mode,
}

/// With which GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manage {
    pub(crate) policy: Policy,
    /// By UUID or PCI address; `None`: with all.
    pub(crate) gpus: Option<Vec<String>>,
}

/// A GPU that is managed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Managed {
    /// May MIG be turned on and off?
    pub(crate) mode: bool,
    /// Is it on?
    pub(crate) on: bool,
    /// Will it be after the next reset?
    pub(crate) pending: bool,
    pub(crate) layout: Layout,
    /// Instances that we made, and for which somebody holds something.
    pub(crate) ours: Vec<GpuInstance>,
    /// All others.
    pub(crate) others: Vec<GpuInstance>,
}

/// What is written, and what of it is held.
#[derive(Clone, Copy)]
pub(crate) struct Written<'a> {
    pub(crate) entries: &'a [Entry],
    /// This boot of the machine.
    pub(crate) boot: &'a str,
    pub(crate) is_held: &'a dyn Fn(&Entry) -> bool,
}

impl Written<'_> {
    /// What is written of a GPU in this boot.
    pub(crate) fn of<'a>(&'a self, gpu: &'a Gpu) -> impl Iterator<Item = &'a Entry> {
        let here = move |entry: &&Entry| entry.boot == self.boot && is_of(entry, gpu);
        self.entries.iter().filter(here)
    }
}

/// Is an entry about this GPU?
fn is_of(entry: &Entry, gpu: &Gpu) -> bool {
    // A GPU without a UUID of its own goes by its address.
    match entry.gpu == entry.address {
        true => gpu
            .address
            .as_deref()
            .is_some_and(|a| same_slot(a, &entry.address)),
        false => gpu.uuid.as_ref() == Some(&entry.gpu),
    }
}

impl Manage {
    fn has(&self, gpu: &Gpu) -> bool {
        let Some(names) = &self.gpus else {
            return true;
        };
        names.iter().any(|name| is_called(gpu, name))
    }

    /// Names that are no GPU's.
    fn unknown<'a>(&'a self, gpus: &'a [Gpu]) -> impl Iterator<Item = &'a String> {
        let names = self.gpus.iter().flatten();
        names.filter(|name| !gpus.iter().any(|gpu| is_called(gpu, name)))
    }
}

fn is_called(gpu: &Gpu, name: &str) -> bool {
    let is_uuid = gpu
        .uuid
        .as_ref()
        .is_some_and(|uuid| uuid.eq_ignore_ascii_case(name));
    let address = || {
        gpu.address
            .as_deref()
            .is_some_and(|address| same_slot(address, name))
    };
    is_uuid || address()
}

/// Are these PCI addresses the same but for the function? NVIDIA writes eight digits of
/// the domain.
fn same_slot(one: &str, other: &str) -> bool {
    let plain = |address: &str| {
        let address = address.to_ascii_lowercase();
        let (domain, rest) = address.split_once(':')?;
        let domain = u32::from_str_radix(domain, 16).ok()?;
        Some((domain, without_function(rest).to_owned()))
    };
    plain(one).is_some_and(|one| Some(one) == plain(other))
}

/// Asks about those that are managed.
pub(crate) fn read(
    nvml: &Arc<Nvml>,
    silent: &Silent,
    reading: &mut Reading,
    manage: &Manage,
    written: Written<'_>,
) {
    if manage.policy == Policy::Keep {
        return;
    }
    let mut warnings = vec![];
    for name in manage.unknown(&reading.gpus) {
        warnings.push(format!(
            "cuda.mig_gpus names {name}, which is no GPU of this machine"
        ));
    }
    let may = |gpu: &Gpu| {
        let mig = gpu
            .mig
            .filter(|mig| mig.on || manage.policy == Policy::Mode);
        mig.filter(|_| gpu.lost.is_none() && manage.has(gpu))
            .filter(|mig| mig.on || !gpu.vitals.drawing)
    };
    let whole = manage.policy == Policy::Mode;
    let drawn_on = |gpu: &&Gpu| whole && gpu.vitals.drawing && gpu.mig.is_some_and(|mig| !mig.on);
    for gpu in reading
        .gpus
        .iter()
        .filter(drawn_on)
        .filter(|gpu| manage.has(gpu))
    {
        warnings.push(format!(
            "GPU {} is not cut: programs draw on it, and MIG is not turned on under them",
            name(gpu)
        ));
    }
    let asked = reading.gpus.iter().filter_map(|gpu| {
        let mig = may(gpu)?;
        Some((gpu.index, (gpu.uuid.clone(), gpu.memory, mig.on)))
    });
    let asked: BTreeMap<u32, _> = asked.collect();
    let count = asked.keys().last().map_or(0, |last| last + 1);
    let ask = move |nvml: &Nvml, index: u32| {
        let (uuid, memory, on) = asked.get(&index)?;
        let device = match uuid {
            Some(uuid) => nvml.device_by_uuid(uuid.as_str()),
            None => nvml.device_by_index(index),
        };
        Some(device.and_then(|device| layout::read(nvml, &device, *memory, *on)))
    };
    let mut layouts = nvml::each(nvml, count, silent, LIMIT, ask);
    for gpu in &mut reading.gpus {
        if may(gpu).is_none() {
            continue;
        }
        let layout = layouts.get_mut(gpu.index as usize).and_then(Option::take);
        let late = || Err(NvmlError::Timeout);
        let layout = layout.flatten().unwrap_or_else(late);
        let why = match layout {
            Ok(layout) if !layout.kinds.is_empty() => {
                gpu.managed = Some(managed(gpu, manage, layout, written, &mut warnings));
                continue;
            }
            Ok(_) => "the driver lists no profile".to_owned(),
            Err(error) => error.to_string(),
        };
        warnings.push(format!(
            "GPU {} is left as it is: NVML does not say how it can be cut ({why})",
            name(gpu)
        ));
    }
    reading.warnings.append(&mut warnings);
}

fn managed(
    gpu: &Gpu,
    manage: &Manage,
    layout: Layout,
    written: Written<'_>,
    warnings: &mut Vec<String>,
) -> Managed {
    let devices = by_gpu_instance(&gpu.instances);
    let (mut ours, mut others) = (vec![], vec![]);
    for instance in &layout.instances {
        let devices = devices.get(&instance.id).cloned().unwrap_or_default();
        let is = |entry: &&Entry| {
            entry
                .part
                .as_ref()
                .is_some_and(|part| part.is(instance, &devices))
        };
        let entry = written.of(gpu).find(is);
        if entry.is_some_and(|entry| (written.is_held)(entry)) {
            ours.push(*instance);
            continue;
        }
        others.push(*instance);
        let maker = match entry {
            None => "is not Divvy's".to_owned(),
            Some(entry) => format!(
                "was made for {}, which holds nothing any more",
                entry.allocation
            ),
        };
        warnings.push(format!(
            "GPU {gpu}: its MIG instance {id} ({kind} at {start}) {maker}: it stays, and what overlaps it is not handed out; nvidia-smi mig -i {gpu} -gi {id} -dci and then -dgi removes it",
            gpu = name(gpu),
            id = instance.id,
            kind = layout.kind(instance.profile).map_or("?", |kind| kind.name.as_str()),
            start = instance.start,
        ));
    }
    let (on, pending) = gpu.mig.map_or((false, false), |mig| (mig.on, mig.pending));
    Managed {
        mode: manage.policy == Policy::Mode,
        on,
        pending,
        layout,
        ours,
        others,
    }
}

fn name(gpu: &Gpu) -> &str {
    let name = gpu.uuid.as_deref().or(gpu.address.as_deref());
    name.unwrap_or("without a name")
}

impl Managed {
    /// Can it be had whole, or shared? What MIG will be after a reset is no help now.
    pub(crate) fn is_undivided(&self) -> bool {
        match (self.on, self.pending) {
            (false, _) => true,
            (true, true) => self.mode && self.others.is_empty(),
            (true, false) => false,
        }
    }

    /// Can instances be made of it?
    pub(crate) fn is_divisible(&self) -> bool {
        self.on || self.mode && !self.pending
    }

    /// Says on the device what it offers.
    pub(crate) fn offer(
        &self,
        device: &mut Device,
        memory: Capacity,
        whole: Whole,
        exclusive: bool,
    ) {
        let others: Vec<&GpuInstance> = self.others.iter().collect();
        let cut = cut(&self.layout, &others, whole);
        let taken = Amount::from_units(cut.taken);
        let memory = Capacity {
            reserved: memory.reserved.checked_add(taken).unwrap_or(memory.total),
            ..memory
        };
        device.capacities = cut.capacities;
        device.capacities.insert(MEMORY.into(), memory);
        if self.is_divisible() {
            device.partitioning = cut.partitioning;
        }
        if self.is_undivided() {
            device.capacities.extend(undivided(exclusive));
        } else if device.partitioning.is_none() && device.health.state == HealthState::Healthy {
            device.health = Health {
                state: HealthState::Degraded,
                reason: Some("MIG instances that are not Divvy's leave no room".into()),
            };
        }
    }
}

/// What a GPU has besides memory that is not cut.
pub(crate) fn undivided(exclusive: bool) -> Vec<(String, Capacity)> {
    let mut capacities = vec![(WHOLE.to_owned(), Capacity::of(Amount::ONE))];
    // Of an exclusive one the second holder of a share would have nothing.
    if !exclusive {
        let time = Capacity {
            step: Some(share_quantum()),
            ..Capacity::of(Amount::ONE)
        };
        capacities.push((TIME.to_owned(), time));
    }
    capacities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_called_by_uuid_or_address() {
        let gpu = Gpu {
            uuid: Some("GPU-b2609a0b-dd2b-7550-8c65-6018eee38dc1".into()),
            address: Some("0000:07:00.0".into()),
            ..Gpu::default()
        };
        for name in [
            "GPU-b2609a0b-dd2b-7550-8c65-6018eee38dc1",
            "gpu-B2609A0B-dd2b-7550-8c65-6018eee38dc1",
            "0000:07:00.0",
            "00000000:07:00.0",
            "0000:07:00",
        ] {
            assert!(is_called(&gpu, name), "{name}");
        }
        for name in ["", "0", "GPU-", "0000:08:00.0", "0001:07:00.0", "07:00.0"] {
            assert!(!is_called(&gpu, name), "{name}");
        }
    }
}

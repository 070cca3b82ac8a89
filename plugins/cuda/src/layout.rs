//! How a GPU can be cut and how it is, as NVML says it: never from a table, since ids,
//! sizes and places differ between boards and drivers.

use std::collections::BTreeSet;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME, NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX,
    NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME, NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1,
    NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME, NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX,
    NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME, NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1,
    NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX, NVML_GPU_INSTANCE_PROFILE_COUNT,
};

use crate::ffi;
use crate::mig::{name_of, without_prefix};
use crate::nvml::Memory;

/// The instances that a GPU can have, and those that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) instances: Vec<GpuInstance>,
}

/// A kind of GPU instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// `1g.10gb+me`.
    pub(crate) name: String,
    /// The driver's number for it.
    pub(crate) id: u32,
    /// Compute slices.
    pub(crate) slices: u32,
    /// How many there can be at once.
    pub(crate) most: u32,
    /// Bytes.
    pub(crate) memory: u64,
    /// Streaming multiprocessors.
    pub(crate) sms: u32,
    /// Memory slices that it covers.
    pub(crate) size: u32,
    /// Where it may begin, ascending.
    pub(crate) starts: Vec<u32>,
}

/// A GPU instance that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GpuInstance {
    pub(crate) id: u32,
    /// [`Kind::id`].
    pub(crate) profile: u32,
    pub(crate) start: u32,
    pub(crate) size: u32,
}

impl Layout {
    /// The kind with this number.
    pub(crate) fn kind(&self, id: u32) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.id == id)
    }
}

impl Kind {
    /// The first memory slice behind the furthest place.
    pub(crate) fn end(&self) -> Option<u32> {
        self.starts.last()?.checked_add(self.size)
    }

    /// For how many there are places and compute slices, of so many.
    pub(crate) fn room(&self, slices: u32) -> u32 {
        let (mut places, mut end) = (0, 0);
        for start in &self.starts {
            if *start >= end {
                places += 1;
                end = start + self.size;
            }
        }
        places.min(slices / self.slices.max(1))
    }
}

impl GpuInstance {
    /// Has it one of these memory slices?
    pub(crate) fn overlaps(&self, start: u32, size: u32) -> bool {
        start < self.start + self.size && self.start < start + size
    }
}

/// Asks a GPU; `cut`: is MIG on?
///
/// # Errors
/// NVML does not say all of it: then nothing is known.
pub(crate) fn read(
    nvml: &Nvml,
    device: &Device<'_>,
    memory: Option<Memory>,
    cut: bool,
) -> Result<Layout, NvmlError> {
    let kinds = kinds(nvml, device, memory)?;
    let instances = match cut {
        true => instances(nvml, device, &kinds)?,
        false => vec![],
    };
    Ok(Layout { kinds, instances })
}

fn kinds(nvml: &Nvml, device: &Device<'_>, memory: Option<Memory>) -> Result<Vec<Kind>, NvmlError> {
    let mut kinds: Vec<Kind> = vec![];
    for number in 0..NVML_GPU_INSTANCE_PROFILE_COUNT {
        let Some(said) = there_is(ffi::instance_profile(nvml.lib(), device, number))? else {
            continue;
        };
        let Some(places) = there_is(ffi::placements(nvml.lib(), device, said.id))? else {
            continue;
        };
        let Some((_, size)) = places.first().copied() else {
            continue;
        };
        let starts = places.into_iter().filter(|(_, its)| *its == size);
        let starts: BTreeSet<u32> = starts.map(|(start, _)| start).collect();
        let memory_bytes = said.memory_mib.saturating_mul(1 << 20);
        let name = match without_prefix(said.name.as_deref()) {
            Some(name) => Some(name),
            None => name_of(said.slices, memory_bytes, memory).map(|n| n + ending(number)),
        };
        // Two numbers may lead to one profile.
        if let Some(name) = name
            && size > 0
            && kinds
                .iter()
                .all(|kind| kind.id != said.id && kind.name != name)
        {
            kinds.push(Kind {
                name,
                id: said.id,
                slices: said.slices,
                most: said.most,
                memory: memory_bytes,
                sms: said.sms,
                size,
                starts: starts.into_iter().collect(),
            });
        }
    }
    Ok(kinds)
}

/// The GPU instances that exist, of whoever; also those in which nothing can run yet.
///
/// # Errors
/// NVML does not say all of them.
pub(crate) fn instances(
    nvml: &Nvml,
    device: &Device<'_>,
    kinds: &[Kind],
) -> Result<Vec<GpuInstance>, NvmlError> {
    let mut found = vec![];
    for kind in kinds {
        found.extend(ffi::instances_of(nvml.lib(), device, kind.id, kind.most)?);
    }
    found.sort();
    Ok(found)
}

/// `None`: this driver or this GPU does not have it.
fn there_is<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(there) => Ok(Some(there)),
        Err(
            NvmlError::NotSupported
            | NvmlError::InvalidArg
            | NvmlError::NotFound
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_),
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a profile's name ends in, by NVML's number for it (nvml.h,
/// `NVML_GPU_INSTANCE_PROFILE_…`).
fn ending(number: u32) -> &'static str {
    match number {
        NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1 | NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1 => "+me",
        NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX
        | NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX
        | NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX => "+gfx",
        NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME | NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME => "-me",
        NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME | NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME => {
            "+me.all"
        }
        _ => "",
    }
}

//! How a GPU is cut into MIG instances, and what the driver lets one do to them.
//!
//! Decisions only, of what a description says. Whether programs use what is to be changed,
//! who asks finds out ([`crate::memory::held_now`]) and says.

use crate::description::{Gpu, GpuInstance, Instance, Profile};

/// GPU instances that a GPU can have; their ids are below.
const MOST: u32 = 15;
/// Compute instances that a GPU instance can have; their ids are below.
const MOST_COMPUTE: u32 = 8;

/// Why an instance, or the mode, is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This GPU has no MIG, or it is off.
    #[error("MIG is not on")]
    Off,
    /// There is no such profile or instance, or it cannot begin there.
    #[error("there is none of that kind")]
    Unknown,
    /// There is no room for it.
    #[error("there is no room for it")]
    Full,
    /// Programs, or instances in it, use it.
    #[error("it is used")]
    Used,
}

/// What became of a wish for another mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// The GPU has that mode.
    Done,
    /// It will have it after a reset, which its users stand in the way of.
    Pending,
}

impl Gpu {
    /// Its GPU instances, by id: those with compute instances, and those without.
    #[must_use]
    pub fn gpu_instances(&self) -> Vec<GpuInstance> {
        let with = self.instance.iter().map(|instance| GpuInstance {
            profile: instance.profile.clone(),
            gi: instance.gi,
            start: instance.start,
        });
        let mut all: Vec<GpuInstance> = with.chain(self.gpu_instance.iter().cloned()).collect();
        all.sort_by_key(|instance| instance.gi);
        all.dedup_by_key(|instance| instance.gi);
        all
    }

    /// Its GPU instance of that id.
    #[must_use]
    pub fn gpu_instance(&self, gi: u32) -> Option<GpuInstance> {
        let mut all = self.gpu_instances().into_iter();
        all.find(|instance| instance.gi == gi)
    }

    /// The compute instances in one of its GPU instances, in the order in which they lie there.
    pub fn mates(&self, gi: u32) -> impl Iterator<Item = &Instance> {
        self.instance
            .iter()
            .filter(move |instance| instance.gi == gi)
    }

    /// Compute slices of one of its GPU instances that are in no compute instance.
    #[must_use]
    pub fn slices_left(&self, gi: u32, profile: &Profile) -> u32 {
        let taken = self.mates(gi).map(|mate| mate.taken(profile)).sum();
        profile.compute.saturating_sub(taken)
    }

    /// How many more instances of a profile fit.
    #[must_use]
    pub fn room(&self, name: &str) -> u32 {
        let Some(profile) = self.profile.get(name) else {
            return 0;
        };
        let taken = self.gpu_instances();
        let same = taken.iter().filter(|instance| instance.profile == name);
        let most = profile.max.saturating_sub(count(same));
        let compute = self.compute_left(&taken) / profile.compute.max(1);
        let mut end = 0;
        let mut fit = 0;
        // From the left, each where nothing is, and behind the one before.
        for start in &profile.starts {
            if *start >= end && self.clear(&taken, profile, *start) {
                end = start + profile.memory;
                fit += 1;
            }
        }
        fit.min(most).min(compute)
    }

    /// Sets MIG's mode, as the driver does: GPUs before Hopper by a reset, later ones at once.
    ///
    /// # Errors
    /// It has none, it has instances, or (Hopper and later) it is used.
    pub fn switch_mig(&mut self, on: bool, used: bool) -> Result<Switched, Refusal> {
        let now = self.mig.ok_or(Refusal::Off)?;
        if now == on {
            self.mig_pending = None;
            return Ok(Switched::Done);
        }
        if !self.gpu_instances().is_empty() {
            return Err(Refusal::Used);
        }
        let resets = self.architecture.as_deref() == Some("Ampere");
        match (resets, used) {
            (true, true) => {
                self.mig_pending = Some(on);
                return Ok(Switched::Pending);
            }
            (false, true) => return Err(Refusal::Used),
            (_, false) => {}
        }
        self.mig = Some(on);
        self.mig_pending = None;
        Ok(Switched::Done)
    }

    /// What a reset does, which nothing may use it for: MIG gets the mode that is pending,
    /// instances go if it is off then, and what was to be recovered from is.
    pub fn reset(&mut self) {
        if let Some(mode) = self.mig_pending.take() {
            self.mig = Some(mode);
        }
        if self.mig != Some(true) {
            self.instance.clear();
            self.gpu_instance.clear();
        }
    }

    /// Makes a GPU instance of the profile with that id: where it is to begin, or at the first
    /// place that is free. It has the lowest id that is free, from 1.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing has changed.
    pub fn make_gpu_instance(
        &mut self,
        profile: u32,
        start: Option<u32>,
    ) -> Result<GpuInstance, Refusal> {
        if self.mig != Some(true) {
            return Err(Refusal::Off);
        }
        let mut profiles = self.profile.iter();
        let found = profiles.find(|(_, described)| described.id == profile);
        let (name, profile) = found.ok_or(Refusal::Unknown)?;
        if start.is_some_and(|start| !profile.starts.contains(&start)) {
            return Err(Refusal::Unknown);
        }
        let taken = self.gpu_instances();
        let mut starts = profile.starts.iter().copied();
        let free = starts
            .find(|at| start.is_none_or(|start| start == *at) && self.clear(&taken, profile, *at));
        let start = free.ok_or(Refusal::Full)?;
        let same = taken.iter().filter(|instance| instance.profile == *name);
        if count(same) >= profile.max || profile.compute > self.compute_left(&taken) {
            return Err(Refusal::Full);
        }
        let free = (1..MOST).find(|gi| taken.iter().all(|other| other.gi != *gi));
        let made = GpuInstance {
            profile: name.clone(),
            gi: free.ok_or(Refusal::Full)?,
            start,
        };
        self.gpu_instance.push(made.clone());
        Ok(made)
    }

    /// Unmakes a GPU instance.
    ///
    /// # Errors
    /// There is none of that id, it has compute instances, or it is used.
    pub fn unmake_gpu_instance(&mut self, gi: u32, used: bool) -> Result<(), Refusal> {
        self.gpu_instance(gi).ok_or(Refusal::Unknown)?;
        if used || self.mates(gi).next().is_some() {
            return Err(Refusal::Used);
        }
        self.gpu_instance.retain(|instance| instance.gi != gi);
        Ok(())
    }

    /// Makes a compute instance of so many slices in a GPU instance. It has the lowest id that
    /// is free, and a UUID that no instance had before.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing has changed.
    pub fn make_compute_instance(&mut self, gi: u32, slices: u32) -> Result<Instance, Refusal> {
        let within = self.gpu_instance(gi).ok_or(Refusal::Unknown)?;
        let profile = self.profile.get(&within.profile).ok_or(Refusal::Unknown)?;
        if slices == 0 || slices > profile.compute {
            return Err(Refusal::Unknown);
        }
        if slices > self.slices_left(gi, profile) {
            return Err(Refusal::Full);
        }
        let free = (0..MOST_COMPUTE).find(|ci| self.mates(gi).all(|mate| mate.ci != *ci));
        let ci = free.ok_or(Refusal::Full)?;
        let made = Instance {
            uuid: self.next_uuid(&within, ci),
            ci,
            number: self.next_number(),
            slices: (slices < profile.compute).then_some(slices),
            used_mib: 0,
            profile: within.profile,
            gi,
            start: within.start,
        };
        self.instances_made += 1;
        self.gpu_instance.retain(|instance| instance.gi != gi);
        self.instance.push(made.clone());
        Ok(made)
    }

    /// Unmakes a compute instance; its GPU instance stays.
    ///
    /// # Errors
    /// There is none of these ids, or it is used.
    pub fn unmake_compute_instance(&mut self, gi: u32, ci: u32, used: bool) -> Result<(), Refusal> {
        let within = self.gpu_instance(gi).ok_or(Refusal::Unknown)?;
        if self.mates(gi).all(|mate| mate.ci != ci) {
            return Err(Refusal::Unknown);
        }
        if used {
            return Err(Refusal::Used);
        }
        self.instance.retain(|mate| (mate.gi, mate.ci) != (gi, ci));
        if self.mates(gi).next().is_none() {
            self.gpu_instance.push(within);
        }
        Ok(())
    }

    /// Is nothing where an instance of this profile would be?
    fn clear(&self, taken: &[GpuInstance], profile: &Profile, start: u32) -> bool {
        taken.iter().all(|other| {
            let size = self.profile.get(&other.profile).map_or(0, |of| of.memory);
            start + profile.memory <= other.start || other.start + size <= start
        })
    }

    /// Compute slices that are in no GPU instance: there are as many as the largest one has.
    fn compute_left(&self, taken: &[GpuInstance]) -> u32 {
        let all = self.profile.values().map(|profile| profile.compute).max();
        let of = |other: &GpuInstance| Some(self.profile.get(&other.profile)?.compute);
        let taken = taken.iter().filter_map(of).sum();
        all.unwrap_or_default().saturating_sub(taken)
    }

    /// A MIG device number for one more, where numbers are not just places in the list.
    fn next_number(&self) -> Option<u32> {
        self.instance.iter().find(|other| other.number.is_some())?;
        let numbers = (0..).zip(&self.instance);
        let taken: Vec<u32> = numbers
            .map(|(place, other)| other.number.unwrap_or(place))
            .collect();
        (0..).find(|number| !taken.contains(number))
    }

    /// A UUID that says all of what it is of, and which of those that were ever made.
    fn next_uuid(&self, within: &GpuInstance, ci: u32) -> String {
        let GpuInstance { profile, gi, start } = within;
        let made = self.instances_made;
        let of = format!("{} {gi} {ci} {start} {profile} {made}", self.uuid);
        let [high, low] = [1, 2].map(|seed| hash(seed, of.as_bytes()));
        // As by name and SHA-1 (version 5), the driver's.
        let high = high & !0xf000 | 0x5000;
        let low = low & !(0b11 << 62) | 0b10 << 62;
        format!(
            "MIG-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

impl Instance {
    /// Compute slices that it takes of a GPU instance of this profile.
    #[must_use]
    pub fn taken(&self, profile: &Profile) -> u32 {
        self.slices.unwrap_or(profile.compute)
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// FNV-1a, and a last stir: its low bits know little of what is far from the end.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let all = seed.to_le_bytes().into_iter().chain(bytes.iter().copied());
    let hash = all.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let stirred = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    stirred ^ stirred >> 33
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::description::Description;

    fn gpu(machine: &str, name: &str) -> Gpu {
        let file = Path::new(crate::MACHINES).join(machine);
        let text = fs::read_to_string(file).unwrap();
        let mut description = Description::parse(&text).unwrap();
        description.gpu.remove(name).unwrap()
    }

    fn hopper() -> Gpu {
        let mut gpu = gpu("h100x8.toml", "g0");
        gpu.mig = Some(true);
        gpu
    }

    #[test]
    fn instances_are_made_from_the_left_until_it_is_full() {
        let mut gpu = hopper();
        // 3g.40gb, 2g.20gb, 1g.20gb, and no more memory.
        let made = [9, 14, 15].map(|profile| gpu.make_gpu_instance(profile, None).unwrap());
        let places = made.map(|instance| (instance.gi, instance.start));
        assert_eq!(places, [(1, 0), (2, 4), (3, 6)]);
        assert_eq!(gpu.make_gpu_instance(19, None), Err(Refusal::Full));
        assert_eq!(gpu.room("1g.10gb"), 0);
        gpu.unmake_gpu_instance(2, false).unwrap();
        assert_eq!(gpu.room("1g.10gb"), 2);
        assert_eq!(gpu.make_gpu_instance(19, Some(4)).unwrap().gi, 2);
        assert_eq!(gpu.make_gpu_instance(19, Some(4)), Err(Refusal::Full));
        assert_eq!(gpu.make_gpu_instance(19, Some(7)), Err(Refusal::Unknown));
        assert_eq!(gpu.make_gpu_instance(77, None), Err(Refusal::Unknown));
    }

    #[test]
    fn compute_slices_and_the_number_of_a_kind_are_limits_too() {
        let mut gpu = hopper();
        gpu.make_gpu_instance(20, None).unwrap();
        assert_eq!(gpu.room("1g.10gb+me"), 0);
        assert_eq!(gpu.make_gpu_instance(20, None), Err(Refusal::Full));
        let mut gpu = hopper();
        gpu.profile.get_mut("7g.80gb").unwrap().compute = 4;
        gpu.profile.get_mut("4g.40gb").unwrap().compute = 3;
        gpu.make_gpu_instance(9, None).unwrap();
        assert_eq!((gpu.room("1g.10gb"), gpu.room("2g.20gb")), (1, 0));
        assert_eq!(gpu.make_gpu_instance(9, None), Err(Refusal::Full));
    }

    #[test]
    fn compute_instances_share_a_gpu_instance() {
        let mut gpu = hopper();
        let gi = gpu.make_gpu_instance(9, None).unwrap().gi;
        let two = gpu.make_compute_instance(gi, 2).unwrap();
        assert_eq!((two.ci, two.slices), (0, Some(2)));
        assert!(gpu.gpu_instance.is_empty());
        assert_eq!(gpu.make_compute_instance(gi, 2), Err(Refusal::Full));
        assert_eq!(gpu.make_compute_instance(gi, 4), Err(Refusal::Unknown));
        let one = gpu.make_compute_instance(gi, 1).unwrap();
        assert_eq!(gpu.unmake_gpu_instance(gi, false), Err(Refusal::Used));
        assert_eq!(
            gpu.unmake_compute_instance(gi, two.ci, true),
            Err(Refusal::Used)
        );
        gpu.unmake_compute_instance(gi, two.ci, false).unwrap();
        gpu.unmake_compute_instance(gi, one.ci, false).unwrap();
        assert_eq!(gpu.gpu_instance.len(), 1);
        // The same again is another.
        let again = gpu.make_compute_instance(gi, 2).unwrap();
        assert_eq!(again.ci, two.ci);
        assert_ne!(again.uuid, two.uuid);
        assert_eq!(again.uuid.len(), two.uuid.len());
        gpu.unmake_compute_instance(gi, 0, false).unwrap();
        assert_eq!(gpu.unmake_gpu_instance(gi, true), Err(Refusal::Used));
        gpu.unmake_gpu_instance(gi, false).unwrap();
        assert_eq!(gpu.unmake_gpu_instance(gi, false), Err(Refusal::Unknown));
    }

    #[test]
    fn numbers_with_gaps_are_filled() {
        let mut gpu = gpu("a100-mig.toml", "divided");
        gpu.instance[0].number = Some(2);
        assert_eq!(gpu.make_compute_instance(2, 1).unwrap().number, Some(0));
        let mut gpu = hopper();
        let gi = gpu.make_gpu_instance(0, None).unwrap().gi;
        assert_eq!(gpu.make_compute_instance(gi, 7).unwrap().number, None);
    }

    #[test]
    fn before_hopper_the_mode_waits_for_users_to_go() {
        let mut gpu = gpu("a100-mig.toml", "whole");
        assert_eq!(gpu.switch_mig(true, true), Ok(Switched::Pending));
        assert_eq!((gpu.mig, gpu.mig_pending), (Some(false), Some(true)));
        assert_eq!(gpu.switch_mig(false, true), Ok(Switched::Done));
        assert_eq!(gpu.mig_pending, None);
        assert_eq!(gpu.switch_mig(true, true), Ok(Switched::Pending));
        gpu.reset();
        assert_eq!((gpu.mig, gpu.mig_pending), (Some(true), None));
        gpu.make_gpu_instance(0, None).unwrap();
        assert_eq!(gpu.switch_mig(false, false), Err(Refusal::Used));
        let mut gpu = self::gpu("h100x8.toml", "g0");
        assert_eq!(gpu.switch_mig(true, true), Err(Refusal::Used));
        assert_eq!(gpu.mig_pending, None);
        assert_eq!(gpu.switch_mig(true, false), Ok(Switched::Done));
        assert_eq!(gpu.mig, Some(true));
    }
}

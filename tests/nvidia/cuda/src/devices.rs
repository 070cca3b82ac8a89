//! Which GPUs and MIG devices this process sees.

use std::collections::BTreeSet;

use divvy_nvidia_machine::{Description, Gpu, Machine, capability, memory::Place};

/// A GPU or a MIG device.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// The GPU's name in the description.
    pub(crate) gpu: String,
    /// The GPU's UUID as text.
    pub(crate) gpu_uuid: String,
    /// Its own UUID as text: of the MIG device, where it is one.
    pub(crate) uuid: String,
    /// What it is called.
    pub(crate) name: String,
    /// The GPU instance's id, where it is a MIG device.
    pub(crate) gi: Option<u32>,
    /// Where its memory is counted.
    pub(crate) place: Place,
    /// Bytes; `None`: it shares the host's.
    pub(crate) memory: Option<u64>,
    pub(crate) sms: u32,
    pub(crate) capability: (i32, i32),
    /// Domain, bus, device, function.
    pub(crate) pci: [u32; 4],
    /// What the description said of the GPU.
    pub(crate) said: Gpu,
}

const MIB: u64 = 1 << 20;

/// All that this process may use, in CUDA's order. A GPU with MIG on is not among them, but
/// its MIG devices are.
pub(crate) fn all(machine: &Machine, description: &Description, by_bus: bool) -> Vec<Device> {
    let mut devices = Vec::new();
    let mut names = description.cuda_present();
    if by_bus {
        names.sort_by_key(|name| description.gpu.get(*name).map(|gpu| &gpu.pci));
    }
    for name in names {
        let Some(gpu) = description.gpu.get(name) else {
            continue;
        };
        if gpu.lost || !machine.may_open(&format!("nvidia{}", gpu.minor)) {
            continue;
        }
        if gpu.mig == Some(true) {
            devices.extend(instances(machine, description, name, gpu));
        } else if let Some(place) = Place::of(description, name, None) {
            let memory = gpu
                .memory_mib
                .map(|mib| mib.saturating_sub(gpu.reserved_mib) * MIB);
            devices.push(device(name, gpu, place, memory));
        }
    }
    devices
}

fn device(name: &str, gpu: &Gpu, place: Place, memory: Option<u64>) -> Device {
    let mut numbers = gpu
        .compute_capability
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    Device {
        gpu: name.to_owned(),
        gpu_uuid: gpu.uuid.clone(),
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        gi: None,
        place,
        memory,
        sms: gpu.sms,
        capability: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
        pci: bus_id(&gpu.pci).unwrap_or_default(),
        said: gpu.clone(),
    }
}

/// The MIG devices of a GPU of which this process may use the capabilities.
fn instances(machine: &Machine, description: &Description, name: &str, gpu: &Gpu) -> Vec<Device> {
    let may_open = |ci, gi| {
        let number = capability(gpu.minor, gi, ci);
        machine.may_open(&format!("nvidia-caps/nvidia-cap{number}"))
    };
    let mut devices = Vec::new();
    for instance in &gpu.instance {
        let (gi, ci) = (instance.gi, instance.ci);
        let Some(profile) = gpu.profile.get(&instance.profile) else {
            continue;
        };
        let Some(place) = Place::of(description, name, Some(gi)) else {
            continue;
        };
        if !may_open(None, gi) || !may_open(Some(ci), gi) {
            continue;
        }
        let slices = instance.slices.unwrap_or(profile.compute);
        let parts = match slices < profile.compute {
            true => format!("{slices}c.{}", instance.profile),
            false => instance.profile.clone(),
        };
        devices.push(Device {
            uuid: instance.uuid.clone(),
            name: format!("{} MIG {parts}", gpu.name),
            gi: Some(gi),
            sms: profile.sms * slices / profile.compute.max(1),
            ..device(name, gpu, place, Some(profile.memory_mib * MIB))
        });
    }
    devices
}

/// Those of them that `CUDA_VISIBLE_DEVICES` names, up to the first that it names wrongly.
/// A process that uses a MIG device has that one alone.
pub(crate) fn chosen(all: Vec<Device>, named: Option<&str>) -> Vec<Device> {
    let Some(named) = named else {
        return match all.iter().position(|device| device.gi.is_some()) {
            Some(first) => all.into_iter().skip(first).take(1).collect(),
            None => all,
        };
    };
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let words = || named.split(',').map(str::trim);
    // Numbers, UUIDs of GPUs or of MIG devices: as the first, so all.
    let kind = |word: &str| ["GPU-", "MIG-"].map(|kind| word.starts_with(kind));
    let first = words().next().map(kind);
    for word in words().take_while(|word| Some(kind(word)) == first) {
        let Some(number) = position(&all, word) else {
            break;
        };
        if !seen.insert(number) {
            // As NVIDIA's driver does: a device named twice, and there is none at all.
            return Vec::new();
        }
        found.extend(all.get(number).cloned());
    }
    match found.iter().position(|device| device.gi.is_some()) {
        Some(0) => found.truncate(1),
        Some(first) => found.truncate(first),
        None => {}
    }
    found
}

/// The device that a word of `CUDA_VISIBLE_DEVICES` means: a number, or how a UUID begins.
fn position(all: &[Device], word: &str) -> Option<usize> {
    if word.starts_with("GPU-") || word.starts_with("MIG-") {
        let lower = word.to_ascii_lowercase();
        let is = |device: &Device| device.uuid.to_ascii_lowercase().starts_with(&lower);
        let mut matches = (0..).zip(all).filter(|(_, device)| is(device));
        let (number, _) = matches.next()?;
        return matches.next().is_none().then_some(number);
    }
    let digits = word
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(word.len());
    let number: usize = word[..digits].parse().ok()?;
    // Numbers count GPUs: one with MIG on once, and then it is its first MIG device.
    let mut gpus = BTreeSet::new();
    let mut firsts = (0..)
        .zip(all)
        .filter(|(_, device)| gpus.insert(&device.gpu));
    firsts.nth(number).map(|(number, _)| number)
}

/// `0000:64:00.0`, `64:00.0`, `0000:64:00` as numbers.
pub(crate) fn bus_id(text: &str) -> Option<[u32; 4]> {
    let (place, function) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = place.rsplit(':').map(|part| u32::from_str_radix(part, 16));
    let device = parts.next()?.ok()?;
    let bus = parts.next()?.ok()?;
    let domain = parts.next().unwrap_or(Ok(0)).ok()?;
    let function = u32::from_str_radix(function, 16).ok()?;
    parts
        .next()
        .is_none()
        .then_some([domain, bus, device, function])
}

/// The bytes of a UUID: its hexadecimal digits, zeros where there are too few.
pub(crate) fn uuid_bytes(text: &str) -> [u8; 16] {
    let digits = text.trim_start_matches("GPU-").trim_start_matches("MIG-");
    let digits: Vec<u8> = digits
        .chars()
        .filter_map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    }
    bytes
}

impl Device {
    /// Is there an NVLink between them, through a switch or not?
    pub(crate) fn linked(&self, other: &Self) -> bool {
        use divvy_nvidia_machine::Link;
        let switched = |link: &Link| matches!(link, Link::Switch(_));
        self.said.nvlink.iter().any(|link| match link {
            Link::Gpu(name) => *name == other.gpu,
            Link::Switch(name) => other
                .said
                .nvlink
                .iter()
                .filter(|link| switched(link))
                .any(|link| matches!(link, Link::Switch(their) if their == name)),
            Link::Off => false,
        })
    }

    /// May one read the other's memory? MIG devices may not.
    pub(crate) fn peer(&self, other: &Self) -> bool {
        let apart = self.gpu != other.gpu && self.gi.is_none() && other.gi.is_none();
        let display = |device: &Self| device.said.brand.as_deref() == Some("GeForce");
        apart
            && (self.linked(other) || (!display(self) && !display(other)))
            && !self.said.integrated
            && !other.said.integrated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        assert_eq!(bus_id("0000:64:00.0"), Some([0, 0x64, 0, 0]));
        assert_eq!(bus_id("64:1f"), Some([0, 0x64, 0x1f, 0]));
        assert_eq!(bus_id("0001:64:1f.1"), Some([1, 0x64, 0x1f, 1]));
        assert_eq!(bus_id("64"), None);
        assert_eq!(bus_id("x:0"), None);
    }

    #[test]
    fn uuids_are_read() {
        let bytes = uuid_bytes("GPU-00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(bytes[..3], [0, 0x11, 0x22]);
        assert_eq!(bytes[15], 0xff);
        assert_eq!(uuid_bytes("GPU-a")[0], 0xa);
    }
}

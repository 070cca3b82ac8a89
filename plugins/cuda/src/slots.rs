//! What can be asked for.

use divvy_plugin::{Amount, Draw, EnforcementLevel, Shape, Slot};

/// Whole GPUs.
pub(crate) const DEVICE: &str = "cuda.device";
/// A part of one GPU's memory and computing time alike.
pub(crate) const SHARES: &str = "cuda.shares";
/// Bytes of one GPU's memory.
pub(crate) const MEM: &str = "cuda.mem";
/// A part of one GPU's computing time.
pub(crate) const COMPUTE: &str = "cuda.compute";
/// MIG instances of whatever profile.
pub(crate) const MIG: &str = "cuda.mig";
/// MIG instances of one profile: this and the profile's name.
const MIG_OF: &str = "cuda.mig-";

/// What every GPU that is not cut has one of.
pub(crate) const WHOLE: &str = "device";
/// Bytes.
pub(crate) const MEMORY: &str = "memory";
/// Computing time that may be shared; 1 is all of it.
pub(crate) const TIME: &str = "compute";
/// What every MIG instance has one of.
pub(crate) const INSTANCE: &str = "instance";
/// Compute slices of a GPU that is cut on demand.
pub(crate) const SLICES: &str = "slices";

/// The classes of slots: what people ask for who do not care for the vendor.
pub(crate) const CLASS: &str = "gpu";
pub(crate) const CLASS_MEM: &str = "gpu.mem";
pub(crate) const CLASS_COMPUTE: &str = "gpu.compute";

/// The profiles of the parts that have MIG (MIG User Guide, "Supported MIG
/// Profiles"). A manifest is constant, so those of parts that are not in the machine
/// are slots too; an instance of a profile that is missing here is asked for by
/// `cuda.mig` and a selector.
const PROFILES: [&str; 52] = [
    // A30
    "1g.6gb", "2g.12gb", "4g.24gb", // A100 40 GB
    "1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb",
    // A100, A800, H100, H800 80 GB
    "1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb",
    // H100 94 and 96 GB, GH200 96 GB
    "1g.12gb", "1g.24gb", "2g.24gb", "3g.48gb", "4g.48gb", "7g.96gb", "1g.11gb", "1g.22gb",
    "2g.22gb", "3g.47gb", "4g.47gb", "7g.94gb", // H200, GH200 144 GB
    "1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb", "1g.36gb", "2g.36gb",
    "3g.72gb", "4g.72gb", "7g.144gb", // B200, GB200
    "1g.23gb", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb", "1g.47gb", "2g.47gb",
    "3g.95gb", "4g.95gb", "7g.189gb", // RTX PRO 6000
    "2g.48gb", "4g.96gb", // B300
    "1g.34gb", "7g.269gb",
];

/// Endings of profiles with media engines, or without, or with graphics.
const ENDINGS: [&str; 5] = ["", "+me", "+gfx", "+me.all", "-me"];

/// The step in which shares are granted: 0.01.
pub(crate) fn share_quantum() -> Amount {
    // 10⁷ nano-units; far below the limit.
    Amount::from_nanos(10_000_000).unwrap_or_default()
}

/// All slots.
pub(crate) fn slots() -> Vec<Slot> {
    let shared = |name: &str, summary: &str, class: &str, unit: &str, draws| Slot {
        summary: summary.into(),
        class: class.into(),
        mode: Some("shared".into()),
        draws,
        ..Slot::new(name, unit, Shape::Single, EnforcementLevel::Advisory)
    };
    let in_hundredths = |slot| Slot {
        quantum: share_quantum(),
        ..slot
    };
    let all = || [Draw::share(MEMORY), Draw::share(TIME)];
    let mut slots = vec![
        Slot {
            summary: "whole GPUs".into(),
            class: CLASS.into(),
            mode: Some("whole".into()),
            draws: vec![Draw::unit(WHOLE), Draw::share(MEMORY)],
            ..Slot::new(DEVICE, "device", Shape::Whole, EnforcementLevel::Hardware)
        },
        in_hundredths(shared(
            SHARES,
            "a part of one GPU: of its memory and of its computing time",
            CLASS,
            "share",
            all().into(),
        )),
        shared(
            MEM,
            "memory of one GPU, with computing time in proportion",
            CLASS_MEM,
            "byte",
            vec![Draw::unit(MEMORY), Draw::like(TIME, MEMORY)],
        ),
        in_hundredths(shared(
            COMPUTE,
            "computing time of one GPU",
            CLASS_COMPUTE,
            "share",
            vec![Draw::share(TIME)],
        )),
        Slot {
            draws: vec![Draw::unit(INSTANCE)],
            ..instances(MIG, "MIG instances of any profile that exist", Shape::Whole)
        },
    ];
    for profile in PROFILES {
        for ending in ENDINGS.iter().filter(|ending| exists(profile, ending)) {
            let profile = format!("{profile}{ending}");
            slots.push(instances(
                &format!("{MIG_OF}{profile}"),
                &format!("MIG instances of profile {profile}: those that exist, and with cuda.mig=instances or mode those that can be made"),
                // What it uses of a GPU says the GPU.
                Shape::Partition,
            ));
        }
    }
    slots
}

/// Does NVIDIA offer this profile with this ending?
fn exists(profile: &str, ending: &str) -> bool {
    let workstation = matches!(profile, "1g.24gb" | "2g.48gb" | "4g.96gb");
    match ending {
        "" => true,
        // One slice may have all media engines; on the A30 two may.
        "+me" => profile.starts_with("1g.") || profile == "2g.12gb" || workstation,
        _ => workstation,
    }
}

fn instances(name: &str, summary: &str, shape: Shape) -> Slot {
    Slot {
        summary: summary.into(),
        class: "gpu.partition".into(),
        mode: Some("partitioned".into()),
        ..Slot::new(name, "instance", shape, EnforcementLevel::Hardware)
    }
}

/// The slot of a profile, if there is one.
pub(crate) fn slot_of(profile: &str) -> Option<String> {
    let known = PROFILES.iter().any(|name| {
        let ending = profile.strip_prefix(name);
        ending.is_some_and(|ending| ENDINGS.contains(&ending) && exists(name, ending))
    });
    known.then(|| format!("{MIG_OF}{profile}"))
}

/// Does this slot ask for instances of one profile?
pub(crate) fn is_of_profile(slot: &str) -> bool {
    slot.starts_with(MIG_OF)
}

/// The capacity of which a GPU has as many as it can have instances of a profile, where
/// that is fewer than would find a place.
pub(crate) fn limit_of(profile: &str) -> String {
    format!("mig-{profile}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_slot_once_and_few_enough() {
        let slots = slots();
        let names: BTreeSet<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        assert_eq!(names.len(), slots.len());
        assert!(slots.len() <= 256, "{}", slots.len());
        for name in [
            "cuda.mig-1g.10gb+me",
            "cuda.mig-4g.96gb+gfx",
            "cuda.mig-7g.80gb",
        ] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!names.contains("cuda.mig-7g.80gb+me"));
        for name in names {
            if let Some(profile) = name.strip_prefix(MIG_OF) {
                assert_eq!(slot_of(profile).as_deref(), Some(name));
            }
        }
        assert_eq!(slot_of("7g.80gb+me"), None);
        assert_eq!(slot_of("3g.33gb"), None);
    }
}

//! GPUs that can be cut, as their maker's tables have it (MIG User Guide, "Supported MIG
//! Profiles"), and machines of them.

use super::*;

/// How one part can be cut.
pub(super) struct Geometry {
    pub(super) name: &'static str,
    /// How many positions there are.
    pub(super) positions: u32,
    /// How many compute slices there are.
    pub(super) slices: u64,
    /// All memory, bytes.
    memory: u64,
    pub(super) profiles: &'static [Kind],
}

/// One profile.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) size: u32,
    pub(super) starts: &'static [u32],
    pub(super) slices: u64,
    /// How much of `gpu` and `gpu.compute`, and of `gpu.mem` (MiB), one is.
    serves: (&'static str, u64),
}

const fn kind(
    name: &'static str,
    size: u32,
    starts: &'static [u32],
    slices: u64,
    serves: (&'static str, u64),
) -> Kind {
    Kind {
        name,
        size,
        starts,
        slices,
        serves,
    }
}

pub(super) const A100: Geometry = Geometry {
    name: "A100-80GB",
    positions: 8,
    slices: 7,
    memory: 85_094_039_552,
    profiles: &[
        kind("1g.10gb", 1, &[0, 1, 2, 3, 4, 5, 6], 1, ("0.14", 9728)),
        kind("1g.20gb", 2, &[0, 2, 4, 6], 1, ("0.14", 19_968)),
        kind("2g.20gb", 2, &[0, 2, 4], 2, ("0.28", 19_968)),
        kind("3g.40gb", 4, &[0, 4], 3, ("0.42", 40_192)),
        kind("4g.40gb", 4, &[0], 4, ("0.57", 40_192)),
        kind("7g.80gb", 8, &[0], 7, ("1", 81_152)),
    ],
};

/// Cut as the A100 is; its slices are larger.
pub(super) const H100: Geometry = Geometry {
    name: "H100-80GB",
    ..A100
};

pub(super) const A30: Geometry = Geometry {
    name: "A30",
    positions: 4,
    slices: 4,
    memory: 25_232_932_864,
    profiles: &[
        kind("1g.6gb", 1, &[0, 1, 2, 3], 1, ("0.25", 5952)),
        kind("2g.12gb", 2, &[0, 2], 2, ("0.5", 11_968)),
        kind("4g.24gb", 4, &[0], 4, ("1", 24_064)),
    ],
};

/// How a GPU comes.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Whole, to be shared, or to be cut.
    Uncut(&'static Geometry),
    /// As an instance, of this profile, of the GPU of this number.
    Instance(&'static Geometry, &'static str, usize),
}

/// The profile's slot.
pub(super) fn slot_of(profile: &str) -> String {
    format!("acme.cut-{profile}")
}

fn profile(kind: &Kind, starts: &[u32], size: u32, capacities: &[(&str, Amount)]) -> Profile {
    let (part, mebibytes) = kind.serves;
    let amounts = [
        ("gpu", amount(part)),
        ("gpu.compute", amount(part)),
        ("gpu.mem", Amount::from_units(mebibytes << 20)),
    ];
    Profile {
        slot: slot_of(kind.name),
        size,
        starts: starts.to_vec(),
        capacities: capacities.iter().map(|(c, a)| ((*c).into(), *a)).collect(),
        serves: amounts.map(|(class, a)| (class.to_owned(), a)).into(),
    }
}

pub(super) fn partitioning(geometry: &Geometry) -> Partitioning {
    let each = |kind: &Kind| {
        let slices = [("slices", Amount::from_units(kind.slices))];
        profile(kind, kind.starts, kind.size, &slices)
    };
    Partitioning {
        positions: geometry.positions,
        profiles: geometry.profiles.iter().map(each).collect(),
    }
}

fn accelerator(id: String, form: Form) -> Device {
    let units = Amount::from_units;
    match form {
        Form::Uncut(geometry) => {
            let capacities = [
                ("compute", Amount::ONE),
                ("device", Amount::ONE),
                ("memory", units(geometry.memory)),
                ("slices", units(geometry.slices)),
            ];
            let mut gpu = device("acme", id, None, &capacities);
            gpu.device.partitioning = Some(partitioning(geometry));
            gpu
        }
        Form::Instance(geometry, name, parent) => {
            let capacities = [("instance", Amount::ONE)];
            let kind = geometry.profiles.iter().find(|k| k.name == name).unwrap();
            let mut gpu = device("acme", id, None, &capacities);
            gpu.device.parent = Some(format!("g{parent}"));
            gpu.device.partitioning = Some(Partitioning {
                positions: 1,
                profiles: vec![profile(kind, &[0], 1, &capacities)],
            });
            gpu
        }
    }
}

/// GPUs `g0`, `g1`, ... that can be had whole, shared (which nothing enforces), or, as
/// the hardware enforces it, cut.
pub(super) fn machine(forms: &[Form]) -> Inventory {
    let slot = |name: &str, class: &str, unit: &str, draws| Slot {
        class: class.into(),
        mode: Some("shared".into()),
        quantum: if unit == "share" {
            amount("0.01")
        } else {
            Amount::ONE
        },
        draws,
        ..Slot::new(name, unit, Shape::Single, EnforcementLevel::Advisory)
    };
    let mut slots = vec![
        Slot {
            class: "gpu".into(),
            mode: Some("whole".into()),
            draws: vec![Draw::unit("device"), Draw::share("memory")],
            ..Slot::new(
                "acme.device",
                "device",
                Shape::Whole,
                EnforcementLevel::Hardware,
            )
        },
        slot(
            "acme.shares",
            "gpu",
            "share",
            vec![Draw::share("memory"), Draw::share("compute")],
        ),
        slot(
            "acme.mem",
            "gpu.mem",
            "byte",
            vec![Draw::unit("memory"), Draw::like("compute", "memory")],
        ),
        slot(
            "acme.compute",
            "gpu.compute",
            "share",
            vec![Draw::share("compute")],
        ),
    ];
    for kind in A30.profiles.iter().chain(A100.profiles) {
        slots.push(Slot {
            class: "gpu.partition".into(),
            mode: Some("partitioned".into()),
            ..Slot::new(
                slot_of(kind.name),
                "partition",
                Shape::Partition,
                EnforcementLevel::Hardware,
            )
        });
    }
    let forms = forms.iter().enumerate();
    Inventory {
        plugins: [manifest("acme", slots)].into(),
        devices: forms
            .map(|(i, form)| accelerator(format!("g{i}"), *form))
            .collect(),
        ..Inventory::default()
    }
}

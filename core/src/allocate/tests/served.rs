//! Classes at a level that no slot for parts reaches: one partition serves them.

use super::geometries::{A30, A100, Form, H100, machine};
use super::*;

const GIB: u64 = 1 << 30;

/// A request at a level: `gpu.mem` in GiB.
fn at(level: EnforcementLevel, slots: &[(&str, &str)]) -> Request {
    let mut request = request(slots);
    if let Some(bytes) = request.slots.get_mut("gpu.mem") {
        *bytes = bytes.scaled(Amount::from_units(GIB), Amount::ONE).unwrap();
    }
    Request {
        min_level: Some(level),
        ..request
    }
}

fn firm(slots: &[(&str, &str)]) -> Request {
    at(EnforcementLevel::Hardware, slots)
}

/// `slot@device`, without the plugin's names.
fn got(snapshot: &mut Snapshot, slots: &[(&str, &str)]) -> String {
    let slices = ask(snapshot, &firm(slots)).unwrap();
    let one = |s: &Slice| format!("{}@{}", s.part.slot.replace("acme.", ""), s.part.device);
    slices.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn refused(snapshot: &mut Snapshot, slots: &[(&str, &str)]) -> Refusal {
    *ask(snapshot, &firm(slots)).unwrap_err()
}

#[test]
fn the_smallest_partition_that_is_enough() {
    for (asked, serves) in [
        (&[("gpu.mem", "9")][..], "1g.10gb"),
        (&[("gpu.mem", "19")], "1g.20gb"),
        (&[("gpu.mem", "30")], "3g.40gb"),
        (&[("gpu.mem", "39.25")], "3g.40gb"),
        (&[("gpu.mem", "39.26")], "7g.80gb"),
        (&[("gpu", "0.14")], "1g.10gb"),
        (&[("gpu", "0.25")], "2g.20gb"),
        // An amount off the quantum of shares: a partition is at least that.
        (&[("gpu", "0.2501")], "2g.20gb"),
        (&[("gpu", "0.25"), ("gpu.mem", "30")], "3g.40gb"),
        (&[("gpu", "0.25"), ("gpu.mem", "5")], "2g.20gb"),
        (&[("gpu.compute", "0.5"), ("gpu.mem", "30")], "4g.40gb"),
        (&[("gpu.compute", "1")], "7g.80gb"),
    ] {
        let mut machine = Snapshot::new(&machine(&[Form::Uncut(&A100)]));
        assert_eq!(got(&mut machine, asked), format!("cut-{serves}@g0"));
    }
}

#[test]
fn whole_numbers_are_whole_devices() {
    let mut snapshot = Snapshot::new(&machine(&[Form::Uncut(&A100), Form::Uncut(&A100)]));
    assert_eq!(got(&mut snapshot, &[("gpu", "2")]), "device@g0 device@g1");
}

#[test]
fn nothing_changes_without_a_level_or_at_one_that_slots_reach() {
    for level in [None, Some(EnforcementLevel::Advisory)] {
        let mut snapshot = Snapshot::new(&machine(&[Form::Uncut(&A100)]));
        let asked = Request {
            min_level: level,
            ..firm(&[("gpu", "0.5")])
        };
        let choices = resolve(&snapshot, &asked).unwrap();
        assert_eq!(choices.0.len(), 1);
        assert_eq!(
            ask(&mut snapshot, &asked).unwrap()[0].part.slot,
            "acme.shares"
        );
    }
    let snapshot = Snapshot::new(&machine(&[Form::Uncut(&A100)]));
    let asked = at(EnforcementLevel::Kernel, &[("gpu", "0.5")]);
    let choices = resolve(&snapshot, &asked).unwrap();
    let names: Vec<_> = choices.amounts(snapshot.machine(), 0).collect();
    assert_eq!(names, [("acme.cut-4g.40gb", Amount::ONE)]);
}

#[test]
fn a_larger_one_where_the_smaller_are_taken() {
    let instances = [
        Form::Uncut(&A100),
        Form::Instance(&A100, "1g.20gb", 0),
        Form::Instance(&A100, "4g.40gb", 0),
    ];
    let mut snapshot = Snapshot::new(&machine(&instances));
    let held = ask(&mut snapshot, &firm(&[("gpu.mem", "10")])).unwrap();
    assert_eq!(held[0].part.slot, "acme.cut-1g.20gb");
    let choices = resolve(&snapshot, &firm(&[("gpu.mem", "10")])).unwrap();
    let allocation = allocate(&snapshot, &choices).unwrap();
    assert_eq!(
        explain::why(&snapshot, &choices, &allocation),
        [
            "1 of acme.cut-4g.40gb on acme/g2: 1 was free; pack: it leaves the most room for other requests; from position 0; it has 39.25 GiB of gpu.mem (10 GiB asked); no smaller one that is enough fits"
        ]
    );
}

#[test]
fn instances_that_exist_serve_as_those_to_be_made_do() {
    // g0 is cut already, into two; g1 can be.
    let forms = [
        Form::Uncut(&H100),
        Form::Instance(&H100, "1g.20gb", 0),
        Form::Instance(&H100, "7g.80gb", 0),
        Form::Uncut(&A30),
    ];
    let mut snapshot = Snapshot::new(&machine(&forms));
    // Although an instance covers one position only.
    assert_eq!(got(&mut snapshot, &[("gpu.mem", "5")]), "cut-1g.6gb@g3");
    assert_eq!(got(&mut snapshot, &[("gpu.mem", "12")]), "cut-1g.20gb@g1");
    assert_eq!(got(&mut snapshot, &[("gpu.mem", "22")]), "cut-7g.80gb@g2");
}

#[test]
fn a_slot_serves_only_where_its_partition_is_enough() {
    let mut inventory = machine(&[Form::Uncut(&A100), Form::Uncut(&A100)]);
    let small = inventory.devices[0].device.partitioning.as_mut().unwrap();
    for profile in &mut small.profiles {
        let memory = profile.serves.get_mut("gpu.mem").unwrap();
        *memory = memory.scaled(Amount::ONE, amount("2")).unwrap();
    }
    let mut snapshot = Snapshot::new(&inventory);
    for device in ["g1", "g1", "g0"] {
        // 30 GiB are a 3g of g1, and all of g0.
        let all = [("gpu.mem", "30")];
        let slices = ask(&mut snapshot, &firm(&all)).unwrap();
        assert_eq!(slices[0].part.device, device);
    }
    let refusal = refused(&mut snapshot, &[("gpu.mem", "30")]);
    assert_eq!(
        (refusal.rooms[0].free, refusal.rooms[0].total),
        (Amount::ZERO, amount("2"))
    );
    assert_eq!(
        refusal.rejected[0].why,
        "its partition has ~19.6 GiB of gpu.mem (30 GiB asked)"
    );
}

#[test]
fn a_slot_named_beside_the_class_counts_besides() {
    let mut snapshot = Snapshot::new(&machine(&[Form::Uncut(&A100)]));
    let both = [("gpu.mem", "30"), ("acme.cut-3g.40gb", "1")];
    assert_eq!(got(&mut snapshot, &both), "cut-3g.40gb@g0 cut-3g.40gb@g0");
    let refusal = refused(&mut snapshot, &[("gpu.mem", "30"), ("acme.device", "1")]);
    assert_eq!(refusal.code, RefusalCode::ExclusiveConflict);
}

#[test]
fn a_refusal_says_what_would_do_and_what_there_is() {
    let mut snapshot = Snapshot::new(&machine(&[Form::Uncut(&A100)]));
    got(&mut snapshot, &[("gpu.mem", "30")]);
    ask(&mut snapshot, &request(&[("acme.cut-1g.10gb", "1")])).unwrap();
    let refusal = refused(&mut snapshot, &[("gpu.mem", "30")]);
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (
            RefusalCode::Insufficient,
            "acme.cut-3g.40gb: 1 asked, 0 free of 2; nothing of it can be granted now; one is what 30 GiB of gpu.mem take; others that are enough do not fit either: acme.cut-4g.40gb, acme.cut-7g.80gb; a smaller one would fit: acme.cut-2g.20gb has 19.5 GiB of gpu.mem (30 GiB asked)"
        )
    );
}

#[test]
fn what_selectors_leave_is_what_a_refusal_is_about() {
    let inventory = machine(&[Form::Uncut(&A30), Form::Uncut(&A100)]);
    let mut snapshot = Snapshot::new(&inventory);
    ask(&mut snapshot, &request(&[("acme.device", "2")])).unwrap();
    let limits = Limits {
        selected: Some(select("device.id == 'g1'", &inventory).unwrap()),
        avoided: None,
    };
    let asked = firm(&[("gpu.mem", "5")]);
    let choices = Choices::resolve(snapshot.machine(), &asked, &limits).unwrap();
    assert_eq!(allocate(&snapshot, &choices), None);
    let refusal = explain::refusal(&snapshot, &choices);
    assert_eq!(refusal.slot, "acme.cut-1g.10gb");
    let asked = firm(&[("gpu.mem", "5")]);
    let limits = Limits {
        selected: Some(select("device.id == 'none'", &inventory).unwrap()),
        avoided: None,
    };
    let choices = Choices::resolve(snapshot.machine(), &asked, &limits).unwrap();
    let refusal = explain::refusal(&snapshot, &choices);
    assert!(
        refusal
            .message
            .contains("none of the 1 devices that have it is left by --where"),
        "{refusal}"
    );
}

#[test]
fn a_level_out_of_reach_is_refused_with_the_remedy() {
    let mut snapshot = Snapshot::new(&machine(&[Form::Uncut(&A30), Form::Uncut(&A100)]));
    let refusal = refused(&mut snapshot, &[("gpu.mem", "90"), ("gpu", "0.25")]);
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (
            RefusalCode::EnforcementTooWeak,
            "acme.shares: its limit is advisory, below the hardware that was asked for; no partition here is enough: the largest of that level, acme.cut-7g.80gb, has 1 of gpu (0.25 asked) and 79.25 GiB of gpu.mem (90 GiB asked); ask for less, for a whole device (gpu: 1), or for a lower --min-level"
        )
    );
    let mut inventory = machine(&[Form::Uncut(&A100)]);
    inventory.devices[0].device.partitioning = None;
    let mut snapshot = Snapshot::new(&inventory);
    let refusal = refused(&mut snapshot, &[("gpu.mem", "30")]);
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (
            RefusalCode::EnforcementTooWeak,
            "acme.mem: its limit is advisory, below the hardware that was asked for; no partition of that level serves gpu.mem here; ask for a whole device (gpu: 1), or for a lower --min-level"
        )
    );
    // A slot that was asked for by its name is not served by another.
    let mut snapshot = Snapshot::new(&machine(&[Form::Uncut(&A100)]));
    let refusal = refused(&mut snapshot, &[("acme.shares", "0.5")]);
    assert_eq!(
        refusal.message,
        "acme.shares: its limit is advisory, below the hardware that was asked for; ask for a lower --min-level or another slot"
    );
}

#[test]
fn what_only_partitions_serve_needs_no_slot_for_parts() {
    let mut inventory = machine(&[Form::Uncut(&A100)]);
    let slots = &mut inventory.plugins.get_mut("acme").unwrap().slots;
    slots.retain(|slot| slot.shape != Shape::Single);
    let mut snapshot = Snapshot::new(&inventory);
    let refusal = refused(&mut snapshot, &[("gpu.mem", "90")]);
    assert_eq!(refusal.code, RefusalCode::UnknownSlot);
    assert!(
        refusal.message.ends_with(
            "the largest of that level, acme.cut-7g.80gb, has 79.25 GiB of gpu.mem (90 GiB asked)"
        ),
        "{refusal}"
    );
    assert_eq!(got(&mut snapshot, &[("gpu.mem", "30")]), "cut-3g.40gb@g0");
    assert_eq!(got(&mut snapshot, &[("gpu", "0.5")]), "cut-4g.40gb@g0");
}

#[test]
fn a_fallback_may_be_a_partition_too() {
    let mut snapshot = Snapshot::new(&machine(&[Form::Uncut(&A30)]));
    let asked = Request {
        fallbacks: vec![[("gpu".to_owned(), amount("0.5"))].into()],
        ..firm(&[("gpu.mem", "30")])
    };
    let choices = resolve(&snapshot, &asked).unwrap();
    let allocation = allocate(&snapshot, &choices).unwrap();
    let why = explain::why(&snapshot, &choices, &allocation);
    assert!(
        why[0].ends_with("it has 0.5 of gpu (0.5 asked); what was asked first does not fit"),
        "{why:?}"
    );
    assert_eq!(
        ask(&mut snapshot, &asked).unwrap()[0].part.slot,
        "acme.cut-2g.12gb"
    );
}

#[test]
fn of_each_part_what_is_more_covers_no_less() {
    // So that it is the same whether positions are compared first or last.
    for geometry in [&A100, &H100, &A30] {
        let sizes = |profiles: &[Profile]| profiles.iter().map(|p| p.size).collect::<Vec<_>>();
        let mut profiles = geometries::partitioning(geometry).profiles;
        profiles.sort_by_key(|p| (p.serves["gpu.mem"], p.serves["gpu"]));
        assert!(sizes(&profiles).is_sorted(), "{}", geometry.name);
    }
}

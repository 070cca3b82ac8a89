//! Accelerators: whole, shared, cut, linked; and cores beside them.

use super::*;
use crate::model::{Near, Policy};

fn got(snapshot: &mut Snapshot, slots: &[(&str, &str)]) -> Vec<String> {
    shape(&ask(snapshot, &request(slots)).unwrap())
}

fn refused(snapshot: &mut Snapshot, slots: &[(&str, &str)]) -> Refusal {
    *ask(snapshot, &request(slots)).unwrap_err()
}

#[test]
fn a_class_is_served_whole_or_in_part() {
    let mut machine = Snapshot::new(&gpus(2, 1));
    let slices = ask(&mut machine, &request(&[("gpu", "0.5")])).unwrap();
    assert_eq!(slices[0].part.slot, "gpu.shares");
    assert_eq!(
        slices[0].part.capacities,
        [
            ("compute".to_owned(), amount("50")),
            ("memory".to_owned(), amount("40"))
        ]
        .into()
    );
    let slices = ask(&mut machine, &request(&[("gpu", "1")])).unwrap();
    assert_eq!(
        (slices[0].part.slot.as_str(), shape(&slices)),
        ("gpu.device", vec!["g1=1".into()])
    );
    let refusal = refused(&mut machine, &[("gpu", "1.5")]);
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (
            RefusalCode::InvalidAmount,
            "gpu: 1.5 is neither a number of whole devices nor a part of one; ask for 1, or for less than 1"
        )
    );
}

#[test]
fn memory_takes_compute_in_proportion_unless_told_otherwise() {
    let mut machine = Snapshot::new(&gpus(1, 1));
    // 12 of 80 are 15 of 100 exactly; 13 are 16.25, rounded up.
    for (asked, compute) in [("12", "15"), ("13", "17")] {
        let slices = ask(&mut machine, &request(&[("gpu.mem", asked)])).unwrap();
        assert_eq!(slices[0].part.capacities["compute"], amount(compute));
        assert_eq!(slices[0].part.capacities["memory"], amount(asked));
    }
    let slices = ask(
        &mut machine,
        &request(&[("gpu.mem", "20"), ("gpu.compute", "0.6")]),
    )
    .unwrap();
    let drawn: Vec<_> = slices.iter().map(|s| &s.part.capacities).collect();
    assert_eq!(drawn[0], &[("memory".to_owned(), amount("20"))].into());
    assert_eq!(drawn[1], &[("compute".to_owned(), amount("60"))].into());
    // 15 + 17 + 60 of compute are gone, and memory alone is no use.
    let refusal = refused(&mut machine, &[("gpu.mem", "7")]);
    assert_eq!(refusal.rooms[0].largest, amount("6"));
}

#[test]
fn slots_of_one_mode_lie_on_one_device() {
    let mut machine = Snapshot::new(&gpus(2, 1));
    got(&mut machine, &[("gpu.compute", "0.9")]);
    // g0 has the memory, but not the compute.
    assert_eq!(
        got(&mut machine, &[("gpu.mem", "70"), ("gpu.compute", "0.2")]),
        ["g1=70", "g1=0.2"]
    );
}

#[test]
fn a_device_is_in_one_mode_at_a_time_and_changes_when_idle() {
    let mut machine = Snapshot::new(&gpus(1, 1));
    let share = ask(&mut machine, &request(&[("gpu.shares", "0.01")])).unwrap();
    for slot in ["gpu.device", "gpu.mig-1g"] {
        let refusal = refused(&mut machine, &[(slot, "1")]);
        assert_eq!(refusal.rejected[0].why, "in use in another mode", "{slot}");
    }
    machine.unhold(&share);
    let cut = ask(&mut machine, &request(&[("gpu.mig-1g", "1")])).unwrap();
    for slot in ["gpu.device", "gpu.shares", "gpu.mem"] {
        refused(&mut machine, &[(slot, "1")]);
    }
    machine.unhold(&cut);
    got(&mut machine, &[("gpu.device", "1")]);
    refused(&mut machine, &[("gpu.shares", "0.01")]);
}

#[test]
fn modes_cannot_be_asked_for_together() {
    let mut machine = Snapshot::new(&gpus(4, 1));
    let refusal = refused(&mut machine, &[("gpu.device", "1"), ("gpu.shares", "0.5")]);
    assert_eq!(refusal.code, RefusalCode::ExclusiveConflict);
    assert_eq!(
        refusal.message,
        "gpu.device and gpu.shares cannot be asked for together; ask for one of them"
    );
}

#[test]
fn partitions_begin_where_they_leave_the_most() {
    let mut machine = Snapshot::new(&gpus(1, 1));
    // Position 6 is of no use to 2g, 3g at 0 and 4g; and so on.
    assert_eq!(got(&mut machine, &[("gpu.mig-1g", "1")]), ["g0=1@6"]);
    assert_eq!(got(&mut machine, &[("gpu.mig-4g", "1")]), ["g0=1@0"]);
    assert_eq!(got(&mut machine, &[("gpu.mig-2g", "1")]), ["g0=1@4"]);
    let refusal = refused(&mut machine, &[("gpu.mig-1g", "1")]);
    // Eight memory slices, but 1 + 4 + 2 of seven compute slices.
    assert_eq!(refusal.code, RefusalCode::Insufficient, "{refusal}");
}

#[test]
fn partitions_keep_whole_devices_whole() {
    let mut machine = Snapshot::new(&gpus(2, 1));
    got(&mut machine, &[("gpu.mig-3g", "1")]);
    assert_eq!(got(&mut machine, &[("gpu.mig-3g", "1")])[0][..2], *"g0");
    assert_eq!(got(&mut machine, &[("gpu.device", "1")]), ["g1=1"]);
}

#[test]
fn several_partitions_at_once() {
    let mut machine = Snapshot::new(&gpus(2, 1));
    let slices = ask(&mut machine, &request(&[("gpu.mig-1g", "9")])).unwrap();
    let on = |id: &str| slices.iter().filter(|s| s.part.device == id).count();
    assert_eq!((on("g0"), on("g1")), (7, 2));
    let refusal = refused(&mut machine, &[("gpu.mig-1g", "6")]);
    assert_eq!(refusal.rooms[0].largest, amount("5"));
    assert_eq!(
        refused(&mut machine, &[("gpu.mig-1g", "65")]).code,
        RefusalCode::InvalidAmount
    );
}

#[test]
fn a_parent_and_its_partitions_exclude_each_other() {
    let mut inventory = gpus(2, 1);
    inventory.devices[1].device.parent = Some("g0".into());
    let mut machine = Snapshot::new(&inventory);
    let child = ask(&mut machine, &request(&[("gpu.mig-7g", "1")])).unwrap();
    // Whichever it was, the other is closed with it.
    refused(&mut machine, &[("gpu.device", "1")]);
    machine.unhold(&child);
    let refusal = refused(&mut machine, &[("gpu.device", "2")]);
    assert_eq!(refusal.code, RefusalCode::Fragmented);
    got(&mut machine, &[("gpu.device", "1")]);
}

#[test]
fn shares_do_not_break_into_an_idle_device() {
    let mut machine = Snapshot::new(&gpus(3, 1));
    got(&mut machine, &[("gpu.shares", "0.3")]);
    assert_eq!(got(&mut machine, &[("gpu.shares", "0.7")]), ["g0=0.7"]);
    assert_eq!(got(&mut machine, &[("gpu.shares", "0.25")]), ["g1=0.25"]);
    // Half of what is left of g1 would spoil a half; but g2 is whole.
    assert_eq!(got(&mut machine, &[("gpu.shares", "0.5")]), ["g1=0.5"]);
}

#[test]
fn spread_takes_the_emptiest() {
    let mut machine = Snapshot::new(&gpus(2, 1));
    let spread = |amount: &str| Request {
        policy: Some(Policy::Spread),
        ..request(&[("gpu.shares", amount)])
    };
    for device in ["g0=0.3", "g1=0.3", "g0=0.3"] {
        assert_eq!(shape(&ask(&mut machine, &spread("0.3")).unwrap()), [device]);
    }
}

#[test]
fn linked_devices_come_together() {
    let mut inventory = gpus(4, 1);
    link(
        &mut inventory,
        &[(0, 3, 50), (1, 2, 25), (0, 1, 5), (2, 3, 5)],
    );
    let mut machine = Snapshot::new(&inventory);
    assert_eq!(got(&mut machine, &[("gpu", "2")]), ["g0=1", "g3=1"]);
    assert_eq!(got(&mut machine, &[("gpu", "2")]), ["g1=1", "g2=1"]);
}

#[test]
fn all_must_be_linked_if_so_asked() {
    let mut inventory = gpus(3, 1);
    link(&mut inventory, &[(0, 1, 1), (1, 2, 1)]);
    let mut machine = Snapshot::new(&inventory);
    let linked = |n: &str| Request {
        near: Near::Linked,
        ..request(&[("gpu", n)])
    };
    let refusal = ask(&mut machine, &linked("3")).unwrap_err();
    assert!(
        refusal
            .message
            .contains("but not as devices that are all linked"),
        "{refusal}"
    );
    assert_eq!(refusal.rooms[0].largest, amount("2"));
    ask(&mut machine, &linked("2")).unwrap();
}

#[test]
fn a_share_breaks_the_device_that_is_linked_least() {
    let mut inventory = gpus(3, 1);
    link(&mut inventory, &[(0, 1, 50)]);
    let mut machine = Snapshot::new(&inventory);
    assert_eq!(got(&mut machine, &[("gpu", "0.5")]), ["g2=0.5"]);
}

#[test]
fn cores_and_memory_lie_beside_the_accelerator() {
    let mut machine = Snapshot::new(&with_cores(gpus(2, 2), cores(2, 4, 100)));
    assert_eq!(
        got(&mut machine, &[("gpu", "1"), ("cpu", "3"), ("mem", "10")]),
        [
            "g0=1",
            "core-0-0=1",
            "core-0-1=1",
            "core-0-2=1",
            "node-0=10"
        ]
    );
    // Node 0 has a core left, but its GPU is taken.
    assert_eq!(
        got(&mut machine, &[("gpu", "1"), ("cpu", "1"), ("mem", "10")]),
        ["g1=1", "core-1-0=1", "node-1=10"]
    );
}

#[test]
fn equally_linked_devices_go_where_the_cores_are() {
    let mut inventory = gpus(4, 2);
    let pairs: Vec<_> = (0..4)
        .flat_map(|a| (a + 1..4).map(move |b| (a, b, 10)))
        .collect();
    link(&mut inventory, &pairs);
    let mut machine = Snapshot::new(&with_cores(inventory, cores(2, 2, 100)));
    got(&mut machine, &[("cpu", "1"), ("mem", "1")]);
    assert_eq!(
        got(&mut machine, &[("gpu", "2"), ("cpu", "2"), ("mem", "10")]),
        ["g2=1", "g3=1", "core-1-0=1", "core-1-1=1", "node-1=10"]
    );
}

#[test]
fn one_node_or_nothing_if_so_asked() {
    let mut machine = Snapshot::new(&cores(2, 2, 100));
    let node = |cpu: &str| Request {
        near: Near::Node,
        ..request(&[("cpu", cpu), ("mem", "1")])
    };
    let refusal = ask(&mut machine, &node("3")).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Fragmented);
    assert!(
        refusal.message.contains("but not on one NUMA node"),
        "{refusal}"
    );
    assert_eq!(refusal.rooms[0].largest, amount("2"));
}

#[test]
fn a_fallback_comes_in_where_the_first_cannot_be_had() {
    let mut machine = Snapshot::new(&with_cores(gpus(1, 1), cores(1, 4, 100)));
    let asked = Request {
        fallbacks: vec![[("cpu".to_owned(), amount("3"))].into()],
        ..request(&[("gpu", "1"), ("cpu", "1"), ("mem", "10")])
    };
    assert_eq!(
        shape(&ask(&mut machine, &asked).unwrap()),
        ["g0=1", "core-0-0=1", "node-0=10"]
    );
    assert_eq!(
        shape(&ask(&mut machine, &asked).unwrap()),
        ["core-0-1=1", "core-0-2=1", "core-0-3=1", "node-0=10"]
    );
    // Of a machine without GPUs as well; what is unknown is no error then.
    let mut machine = Snapshot::new(&cores(1, 4, 100));
    assert_eq!(ask(&mut machine, &asked).unwrap().len(), 4);
}

#[test]
fn a_limit_that_holds_too_weakly_is_refused() {
    let mut machine = Snapshot::new(&gpus(1, 1));
    let firm = |slot: &str| Request {
        min_level: Some(EnforcementLevel::Hardware),
        ..request(&[(slot, "1")])
    };
    let refusal = ask(&mut machine, &firm("gpu.shares")).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::EnforcementTooWeak);
    assert!(
        refusal
            .message
            .contains("its limit is cooperative, below the hardware"),
        "{refusal}"
    );
    ask(&mut machine, &firm("gpu.mig-3g")).unwrap();
}

#[test]
fn selected_and_avoided_devices() {
    let inventory = with_cores(gpus(3, 1), cores(1, 4, 100));
    let mut machine = Snapshot::new(&inventory);
    let limits = Limits {
        selected: Some(select("device.id != 'g0'", &inventory).unwrap()),
        avoided: Some((0..7).map(|d| d == 1).collect()),
    };
    let asked = request(&[("gpu", "1")]);
    let choices = Choices::resolve(machine.machine(), &asked, &limits).unwrap();
    let allocation = allocate(&machine, &choices).unwrap();
    // Selectors are for accelerators: cores come as ever.
    assert_eq!(
        shape(&machine.slices(&allocation.grants)),
        ["g2=1", "core-0-0=1", "node-0=25"]
    );
    machine.take(&allocation.grants);
    assert_eq!(allocate(&machine, &choices), None);
    let why = explain::refusal(&machine, &choices).rejected;
    assert_eq!(
        why[0].why,
        "not selected, or of a workload to stay apart from"
    );
    assert_eq!(why[2].why, "in use");
}

#[test]
fn whose_end_would_make_it_fit() {
    let mut machine = Snapshot::new(&gpus(2, 1));
    let [a, b, c] =
        ["0.5", "0.4", "0.9"].map(|s| ask(&mut machine, &request(&[("gpu", s)])).unwrap());
    let holders: [(&str, &[Slice]); 3] = [("a", &a), ("b", &b), ("c", &c)];
    let without = |machine: &Snapshot, asked: &str| {
        let choices = resolve(machine, &request(&[("gpu", asked)])).unwrap();
        explain::would_fit_without(machine, &choices, &holders)
    };
    assert_eq!(without(&machine, "1"), ["c"]);
    assert_eq!(without(&machine, "0.55"), ["a"]);
    assert_eq!(without(&machine, "2"), ["a", "b", "c"]);
    assert_eq!(without(&machine, "3"), [""; 0]);
}

#[test]
fn each_slice_says_why_it_lies_where_it_does() {
    let mut machine = Snapshot::new(&gpus(2, 1));
    ask(&mut machine, &request(&[("gpu", "0.5")])).unwrap();
    let choices = resolve(&machine, &request(&[("gpu", "0.25")])).unwrap();
    let allocation = allocate(&machine, &choices).unwrap();
    assert_eq!(
        explain::why(&machine, &choices, &allocation),
        [
            "0.25 of gpu.shares on gpu/g0: 0.5 was free; pack: it leaves the most room for other requests"
        ]
    );
}

#[test]
fn a_book_releases_once_and_says_what_is_too_much() {
    let mut book = Book::new(Snapshot::new(&gpus(1, 1)));
    let empty = book.snapshot().clone();
    let machine = std::sync::Arc::clone(empty.machine());
    let shares = machine.slot("gpu.shares").unwrap();
    let device = machine.device("gpu", "g0").unwrap();
    // What exists may be off the quantum.
    book.place("old", &[(shares, device, amount("0.755"))])
        .unwrap();
    let too_much = book
        .place("more", &[(shares, device, amount("0.25"))])
        .unwrap_err();
    assert_eq!(too_much.code, RefusalCode::OverCapacity);
    assert!(!book.contains("more"));
    let choices = resolve(book.snapshot(), &request(&[("gpu", "0.23")])).unwrap();
    assert!(book.allocate("new", &choices).is_some());
    assert!(book.allocate("newer", &choices).is_none());
    assert_eq!(book.would_fit_without(&choices), ["new"]);
    assert!(book.release("new") && !book.release("new"));
    assert!(book.release("old"));
    assert_eq!(*book.snapshot(), empty);
}

#[test]
fn what_the_ledger_holds_is_released_as_it_was_held() {
    let mut book = Book::new(Snapshot::new(&gpus(1, 1)));
    let empty = book.snapshot().clone();
    let mut snapshot = empty.clone();
    let slices = ask(&mut snapshot, &request(&[("gpu.mig-2g", "2")])).unwrap();
    assert_eq!(book.restore("a", &slices), []);
    assert_eq!(*book.snapshot(), snapshot);
    assert!(book.release("a"));
    assert_eq!(*book.snapshot(), empty);
}

//! Cores and memory: given this machine, when this is asked, then that.

use super::*;
use crate::model::{Health, HealthState};

fn ask(snapshot: &mut Snapshot, cpu: &str, mem: &str) -> Result<Vec<Slice>, Box<Refusal>> {
    super::ask(snapshot, &request(&[("cpu", cpu), ("mem", mem)]))
}

fn amounts(snapshot: &Snapshot, request: &Request) -> Vec<String> {
    let choices = resolve(snapshot, request).unwrap();
    let amounts = choices.amounts(snapshot.machine(), 0);
    amounts.map(|(n, a)| format!("{n}={a}")).collect()
}

#[test]
fn halves_share_a_core_and_leave_the_other_whole() {
    let mut snapshot = Snapshot::new(&cores(1, 2, 100));
    assert_eq!(
        shape(&ask(&mut snapshot, "0.5", "10").unwrap()),
        ["core-0-0=0.5", "node-0=10"]
    );
    assert_eq!(
        shape(&ask(&mut snapshot, "0.5", "10").unwrap()),
        ["core-0-0=0.5", "node-0=10"]
    );
    assert_eq!(
        shape(&ask(&mut snapshot, "1", "10").unwrap()),
        ["core-0-1=1", "node-0=10"]
    );
    let refusal = ask(&mut snapshot, "0.01", "1").unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Insufficient);
    assert_eq!(
        refusal.message,
        "cpu: 0.01 asked, 0 free of 2; nothing of it can be granted now"
    );
}

#[test]
fn one_and_a_half_lies_beside_a_half() {
    let mut snapshot = Snapshot::new(&cores(1, 2, 100));
    ask(&mut snapshot, "0.5", "10").unwrap();
    assert_eq!(
        shape(&ask(&mut snapshot, "1.5", "10").unwrap()),
        ["core-0-1=1", "core-0-0=0.5", "node-0=10"]
    );
}

#[test]
fn two_halves_of_different_cores_are_not_a_core() {
    let mut snapshot = Snapshot::new(&cores(1, 2, 100));
    ask(&mut snapshot, "0.6", "10").unwrap();
    ask(&mut snapshot, "0.6", "10").unwrap();
    let refusal = ask(&mut snapshot, "0.8", "10").unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Fragmented);
    assert_eq!(
        refusal.message,
        "cpu: 0.8 asked, 0.8 free of 2, but not as whole devices and one part; the largest that fits now is 0.4"
    );
}

#[test]
fn memory_comes_from_the_node_of_the_cores() {
    let mut snapshot = Snapshot::new(&cores(4, 2, 100));
    ask(&mut snapshot, "2", "10").unwrap();
    assert_eq!(
        shape(&ask(&mut snapshot, "2", "50").unwrap()),
        ["core-1-0=1", "core-1-1=1", "node-1=50"]
    );
    // 1.5 cores want one node, and its memory.
    assert_eq!(
        shape(&ask(&mut snapshot, "1.5", "100").unwrap()),
        ["core-2-0=1", "core-2-1=0.5", "node-2=100"]
    );
}

#[test]
fn what_does_not_fit_one_node_spills_to_the_nearest() {
    let mut snapshot = Snapshot::new(&cores(4, 2, 100));
    assert_eq!(
        shape(&ask(&mut snapshot, "3", "150").unwrap()),
        [
            "core-0-0=1",
            "core-0-1=1",
            "core-1-0=1",
            "node-0=100",
            "node-1=50"
        ]
    );
}

#[test]
fn a_refusal_of_one_slot_takes_nothing_of_the_other() {
    let mut snapshot = Snapshot::new(&cores(1, 2, 100));
    let before = snapshot.clone();
    let refusal = ask(&mut snapshot, "1", "101").unwrap_err();
    assert_eq!(
        (refusal.code, refusal.slot.as_str()),
        (RefusalCode::Insufficient, "mem")
    );
    assert_eq!(snapshot, before);
}

#[test]
fn defaults_are_one_core_and_its_share_of_memory() {
    let snapshot = Snapshot::new(&cores(1, 4, 1001));
    assert_eq!(
        amounts(&snapshot, &Request::default()),
        ["cpu=1", "mem=250"]
    );
}

#[test]
fn nothing_asked_is_the_default_too() {
    let snapshot = Snapshot::new(&cores(1, 4, 1000));
    let request = Request {
        slots: [("cpu".to_owned(), Amount::ZERO)].into(),
        ..Request::default()
    };
    assert_eq!(amounts(&snapshot, &request), ["cpu=1", "mem=250"]);
}

#[test]
fn off_quantum_and_unknown_say_what_is_right() {
    let snapshot = Snapshot::new(&cores(1, 4, 1000));
    let resolve = |slot: &str, a: &str| {
        let request = Request {
            slots: [(slot.to_owned(), amount(a))].into(),
            ..Request::default()
        };
        resolve(&snapshot, &request).unwrap_err().message
    };
    assert_eq!(
        resolve("cpu", "0.505"),
        "cpu: 0.505 is not a multiple of 0.01; the nearest legal amounts: 0.5 and 0.51"
    );
    assert_eq!(
        resolve("cpu", "0.001"),
        "cpu: 0.001 is not a multiple of 0.01; the nearest legal amounts: 0.01"
    );
    assert_eq!(
        resolve("gpu", "1"),
        "gpu: no plugin here offers this slot; the slots are: cpu, mem"
    );
}

#[test]
fn reserved_and_unhealthy_are_never_granted() {
    let mut inventory = cores(1, 3, 100);
    inventory.devices[0]
        .device
        .capacities
        .get_mut("cores")
        .unwrap()
        .reserved = Amount::ONE;
    inventory.devices[1].device.health = Health {
        state: HealthState::Unhealthy,
        reason: Some("on fire".into()),
    };
    let mut snapshot = Snapshot::new(&inventory);
    assert_eq!(
        shape(&ask(&mut snapshot, "1", "1").unwrap()),
        ["core-0-2=1", "node-0=1"]
    );
    let refusal = ask(&mut snapshot, "0.5", "1").unwrap_err();
    assert!(
        refusal.message.contains("closed: cpu/core-0-1 (on fire)"),
        "{}",
        refusal.message
    );
}

#[test]
fn holding_too_much_closes_the_device_instead_of_going_negative() {
    let mut snapshot = Snapshot::new(&cores(1, 2, 100));
    let slices = ask(&mut snapshot, "1", "1").unwrap();
    let problems = snapshot.hold(&slices[..1]);
    assert!(
        problems[0].what.starts_with("over_capacity"),
        "{problems:?}"
    );
    assert!(snapshot.closed(&slices[0].device()).is_some());
    let mut gone = slices[0].clone();
    gone.part.device = "core-9".into();
    assert!(snapshot.hold([&gone])[0].what.contains("not there"));
}

//! Odd NUMA nodes, and GPUs' memory that looks like one.
//! The numbers are those of notes/discovery-edge-cases.md.

mod common;

use divvy_plugin::HealthState;

use common::{Machine, attribute, device, ids, reserved, small, warned};

// === 24: NUMA nodes

#[test]
fn an_offline_node_is_not_listed_and_distances_skip_it() {
    let machine = small();
    machine
        .node(0, "0,2", 1024)
        .node(7, "1,3", 1024)
        .node(3, "", 0)
        .nodes_file("online", "0,7\n")
        .node_file(0, "distance", "10 21\n")
        .node_file(7, "distance", "10 21 30\n"); // one too many
    let found = machine.discover();
    assert_eq!(ids(&found, "memory"), ["node-0", "node-7"]);
    assert_eq!(found.numa_nodes[0].distances, [(0, 10), (7, 21)].into());
    assert!(found.numa_nodes[1].distances.is_empty() && warned(&found, "10 21 30"));
}

#[test]
fn cpus_of_no_node_and_of_every_node_are_near_to_none() {
    let machine = small();
    machine
        .node(0, "0-3", 512)
        .node(1, "0-3", 512)
        .nodes_file("online", "0-1\n");
    let found = machine.discover();
    assert_eq!(device(&found, "core-0-0").numa_node, None);
    assert!(warned(&found, "CPUs 0-3 belong to several"));

    machine.node(0, "0,2", 512).node(1, "", 512);
    let found = machine.discover();
    assert_eq!(device(&found, "core-0-0").numa_node, Some(0));
    assert_eq!(device(&found, "core-0-1").numa_node, None);
    assert!(warned(&found, "CPUs 1,3 belong to no"));
}

#[test]
fn a_memory_only_node_is_offered_and_a_memoryless_one_is_not() {
    let machine = small();
    machine
        .node(1, "", 2048)
        .node(2, "", 0)
        .nodes_file("online", "0-2\n");
    let found = machine.discover();
    assert_eq!(ids(&found, "memory"), ["node-0", "node-1"]);
    assert_eq!(attribute(device(&found, "node-1"), "memory_only"), "true");
    assert!(reserved(&found).is_empty());
    assert_eq!(found.numa_nodes.len(), 3);
}

#[test]
fn a_machine_without_nodes_is_node_0() {
    let machine = Machine::new();
    machine
        .online("0-1")
        .cpu(0, 3, 0, "0")
        .cpu(1, 3, 1, "1")
        .meminfo(256);
    let found = machine.discover();
    assert_eq!(ids(&found, "memory"), ["node-0"]);
    assert_eq!(device(&found, "core-3-n0-1").numa_node, Some(0));
    assert_eq!(
        device(&found, "node-0").capacities["memory"]
            .total
            .whole_units(),
        256 << 20
    );
}

#[test]
fn a_node_of_unknown_memory_is_listed_as_unknown() {
    let machine = small();
    machine
        .node(1, "", 64)
        .nodes_file("online", "0-1\n")
        .unreadable("sys/devices/system/node/node1/meminfo");
    let found = machine.discover();
    assert_eq!(device(&found, "node-1").health.state, HealthState::Unknown);
    assert!(warned(&found, "node1/meminfo cannot be read"));
    assert_eq!(device(&found, "node-0").health.state, HealthState::Healthy);
}

// === 25: memory of GPUs

fn with_extra_node() -> Machine {
    let machine = small();
    machine.node(255, "", 92160).nodes_file("online", "0,255\n");
    machine
}

fn gpu(machine: &Machine, class: &str, vendor: &str, node: i32) {
    let at = "sys/bus/pci/devices/0004:04:00.0";
    machine
        .file(&format!("{at}/class"), &format!("{class}\n"))
        .file(&format!("{at}/vendor"), &format!("{vendor}\n"))
        .file(&format!("{at}/numa_node"), &format!("{node}\n"));
}

fn is_kept_from_use(machine: &Machine) -> bool {
    let found = machine.discover();
    let kept = reserved(&found);
    assert_eq!(kept.is_empty(), !warned(&found, "is memory of a GPU"));
    assert_eq!(
        kept.is_empty(),
        attribute(device(&found, "node-255"), "gpu").is_empty()
    );
    kept == [("node-255", (92160_u64 << 20).to_string())]
}

#[test]
fn nvidias_driver_names_the_node_of_a_v100() {
    let machine = with_extra_node();
    let status = "proc/driver/nvidia/gpus/0004:04:00.0/numa_status";
    machine.file(status, "Node:\t255\nStatus: online\n");
    assert!(is_kept_from_use(&machine));
}

#[test]
fn a_display_device_on_a_node_without_cpus_owns_it() {
    for (vendor, class) in [("0x10de", "0x030200"), ("0x1002", "0x120000")] {
        let machine = with_extra_node();
        gpu(&machine, class, vendor, 255);
        assert!(is_kept_from_use(&machine), "{vendor} {class}");
    }
}

#[test]
fn a_generic_initiators_memory_beside_a_gpu_is_the_gpus() {
    let machine = with_extra_node();
    machine.nodes_file("has_generic_initiator", "255\n");
    assert!(!is_kept_from_use(&machine)); // a NIC's, say: no GPU here
    gpu(&machine, "0x030200", "0x10de", 0);
    assert!(is_kept_from_use(&machine));
}

#[test]
fn other_memory_only_nodes_are_host_memory() {
    let machine = with_extra_node();
    gpu(&machine, "0x030000", "0x1a03", 255); // a server's plain VGA
    assert!(!is_kept_from_use(&machine));
    gpu(&machine, "0x020000", "0x10de", 255); // a network card
    assert!(!is_kept_from_use(&machine));
    gpu(&machine, "0x030200", "0x10de", 0); // a GPU elsewhere: CXL remains
    assert!(!is_kept_from_use(&machine));
}

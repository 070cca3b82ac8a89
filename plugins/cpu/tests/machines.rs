//! Odd machines: CPUs, cores, cgroups and texts; one test each, built from
//! the few files that matter. NUMA nodes are in `nodes.rs`.
//! The numbers are those of notes/discovery-edge-cases.md.

mod common;

use divvy_plugin::{ErrorCode, Plugin};

use common::{Machine, attribute, device, ids, small, warned};

// === 23: which CPUs are online

#[test]
fn offline_cpus_are_not_listed() {
    let machine = small();
    machine.online("1-3").cpu(2, 0, 0, "2"); // CPU 0 went offline
    let found = machine.discover();
    assert_eq!(ids(&found, "core"), ["core-0-1", "core-0-0"]);
    assert_eq!(attribute(device(&found, "core-0-0"), "cpus"), "2");
}

#[test]
fn without_an_online_list_each_cpu_says_it_for_itself() {
    let machine = small();
    machine
        .remove("sys/devices/system/cpu/online")
        .cpu_file(1, "online", "0\n")
        .cpu_file(3, "online", "1\n")
        .remove("sys/devices/system/cpu/cpu2/topology"); // says nothing, has none
    assert_eq!(machine.counts().cpus, "0,3");
}

#[test]
fn possible_may_be_much_larger_than_online() {
    let machine = small();
    machine.file("sys/devices/system/cpu/possible", "0-191\n");
    assert_eq!(machine.counts().pus, 4);
}

#[test]
fn without_cpu_folders_proc_stat_counts() {
    let machine = Machine::new();
    machine
        .file(
            "proc/stat",
            "cpu  1 1 1 1\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 1\n",
        )
        .meminfo(64);
    let found = machine.discover();
    assert_eq!(ids(&found, "core"), ["core-x-n0-cpu0", "core-x-n0-cpu1"]);
    assert!(warned(&found, "/proc/stat"));
}

#[test]
fn a_folder_that_is_no_machine_is_an_error() {
    let error = Machine::new().open().discover().unwrap_err();
    assert_eq!(error.code, ErrorCode::Driver);
}

// === 26: cores, threads, packages

#[test]
fn core_types_by_performance_monitor_capacity_or_frequency() {
    let machine = || {
        let machine = Machine::new();
        machine.online("0-2").meminfo(64);
        machine
            .cpu(0, 0, 0, "0-1")
            .cpu(1, 0, 0, "0-1")
            .cpu(2, 0, 8, "2");
        machine
    };
    let types = |machine: &Machine| {
        let found = machine.discover();
        let of = |id| attribute(device(&found, id), "type");
        (of("core-0-n0-0"), of("core-0-n0-8"))
    };
    let hybrid = ("performance".to_owned(), "efficiency".to_owned());
    let plain = machine();
    assert_eq!(types(&plain), Default::default());

    let monitors = machine();
    monitors.file("sys/devices/cpu_core/cpus", "0-1\n");
    monitors.file("sys/devices/cpu_atom/cpus", "2\n");
    assert_eq!(types(&monitors), hybrid);

    for (file, fast, frugal) in [
        ("cpu_capacity", "1024", "446"),
        ("cpufreq/base_frequency", "1900000", "1400000"),
        ("cpufreq/cpuinfo_max_freq", "5100000", "3700000"),
    ] {
        let machine = machine();
        machine.cpu_file(0, file, fast).cpu_file(2, file, frugal);
        assert_eq!(types(&machine), hybrid, "{file}");
        machine.cpu_file(2, file, fast);
        assert_eq!(types(&machine), Default::default(), "{file} alike");
    }
}

#[test]
fn favoured_cores_are_of_the_same_type() {
    let machine = small();
    machine
        .cpu_file(0, "cpufreq/cpuinfo_max_freq", "5400000")
        .cpu_file(1, "cpufreq/cpuinfo_max_freq", "5000000");
    assert_eq!(
        attribute(device(&machine.discover(), "core-0-1"), "type"),
        ""
    );
}

#[test]
fn core_ids_that_repeat_are_told_apart() {
    let machine = small();
    machine.cpu(1, 0, 0, "1,3").cpu(3, 0, 0, "1,3"); // both cores call themselves 0
    for cpu in [1, 3] {
        machine.cpu_file(cpu, "topology/die_id", "1\n");
    }
    assert_eq!(
        ids(&machine.discover(), "core"),
        ["core-0-0", "core-0-d1-0"]
    );
    for cpu in 0..4 {
        machine.remove(&format!("sys/devices/system/cpu/cpu{cpu}/topology/die_id"));
        machine.cpu_file(cpu, "topology/cluster_id", &format!("{}\n", cpu % 2));
    }
    assert_eq!(
        ids(&machine.discover(), "core"),
        ["core-0-0", "core-0-c1-0"]
    );
    for cpu in 0..4 {
        machine.cpu_file(cpu, "topology/cluster_id", "-1\n");
    }
    let found = machine.discover();
    assert_eq!(
        ids(&found, "core"),
        ["core-0-n0-0-cpu0", "core-0-n0-0-cpu1"]
    );
    assert!(warned(&found, "core-0-n0-0"));
}

#[test]
fn an_id_outlives_the_other_cores() {
    let machine = small();
    let before = machine.discover();
    machine.online("1,3");
    let after = machine.discover();
    assert_eq!(ids(&after, "core"), ["core-0-1"]);
    assert_eq!(device(&before, "core-0-1"), device(&after, "core-0-1"));
}

#[test]
fn arm_without_package_ids_has_no_packages() {
    let machine = Machine::new();
    machine
        .online("0-1")
        .cpu(0, -1, 0, "0")
        .cpu(1, -1, 1, "1")
        .meminfo(64);
    machine.file(
        "proc/cpuinfo",
        "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n",
    );
    let counts = machine.counts();
    assert_eq!((counts.packages, counts.cores), (0, 2));
    let found = machine.discover();
    assert_eq!(ids(&found, "core"), ["core-x-n0-0", "core-x-n0-1"]);
    assert_eq!(found.devices[0].model, "ARM implementer 0x41 part 0xd0c");
}

#[test]
fn caches_are_named_by_the_kernel_or_by_who_shares_them() {
    let machine = small();
    for (cpu, shared) in [(0, "0,2"), (1, "1,3")] {
        machine
            .cpu_file(cpu, "cache/index0/level", "1\n")
            .cpu_file(cpu, "cache/index3/level", "3\n")
            .cpu_file(cpu, "cache/index3/shared_cpu_list", shared);
    }
    machine.cpu_file(1, "cache/index3/id", "4\n");
    let found = machine.discover();
    assert_eq!(attribute(device(&found, "core-0-0"), "cache"), "L3-cpu0");
    assert_eq!(attribute(device(&found, "core-0-1"), "cache"), "L3-4");
}

// === 27: cgroups

#[test]
fn a_v1_cpuset_below_a_container_limits() {
    let machine = small();
    machine
        .node(1, "", 64)
        .nodes_file("online", "0-1\n")
        .file("proc/self/cgroup", "3:cpuset:/box/job\n1:cpu:/\n0::/\n")
        .file(
            "proc/self/mountinfo",
            "34 31 0:31 /box /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        )
        .file("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0-3\n")
        .file("sys/fs/cgroup/cpuset/job/cpuset.cpus", "0-1\n")
        .file("sys/fs/cgroup/cpuset/job/cpuset.effective_cpus", "1\n")
        .file("sys/fs/cgroup/cpuset/job/cpuset.effective_mems", "1\n");
    let found = machine.discover();
    assert_eq!(ids(&found, "core"), ["core-0-1"]);
    assert_eq!(attribute(device(&found, "core-0-1"), "cpus"), "1");
    assert_eq!(ids(&found, "memory"), ["node-1"]);
    let all = machine.try_open(&[("allowed", "all")]).unwrap();
    assert_eq!(all.discover().unwrap().devices.len(), 4);

    // An older kernel has no effective_cpus.
    machine.remove("sys/fs/cgroup/cpuset/job/cpuset.effective_cpus");
    assert_eq!(machine.counts().cpus, "0-1");
}

#[test]
fn a_v2_cpuset_is_inherited_and_needs_its_controller() {
    let machine = small();
    let at = "sys/fs/cgroup";
    machine
        .file("proc/self/cgroup", "0::/user.slice/shell.scope\n")
        .file("proc/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
        .file(&format!("{at}/cgroup.controllers"), "cpu memory\n")
        .file(&format!("{at}/user.slice/cpuset.cpus.effective"), "2-3\n");
    assert_eq!(machine.counts().cpus, "0-3");
    machine.file(&format!("{at}/cgroup.controllers"), "cpuset cpu memory\n");
    assert_eq!(machine.counts().cpus, "2-3");
    machine.file(
        &format!("{at}/user.slice/shell.scope/cpuset.cpus.effective"),
        "3\n",
    );
    assert_eq!(machine.counts().cpus, "3");
}

#[test]
fn without_a_visible_cpuset_the_affinity_limits() {
    let machine = small();
    machine.file("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0,2\n");
    assert_eq!(machine.counts().cpus, "0,2");
}

// === 28: texts

#[test]
fn nul_padding_short_masks_and_interleaved_lists() {
    let machine = small();
    machine
        .online("0-3\0\0")
        .node(0, "0,2\n\0", 512)
        .node(1, "", 512)
        .remove("sys/devices/system/node/node1/cpulist")
        .node_file(1, "cpumap", "0000,0000000a\n") // NR_CPUS = 48
        .nodes_file("online", "0-1\0\n")
        .nodes_file("has_cpu", "");
    let counts = machine.counts();
    assert_eq!(counts.nodes[0].cpus, "0,2");
    assert_eq!(counts.nodes[1].cpus, "1,3");
}

#[test]
fn one_broken_file_after_the_other_hides_nothing_else() {
    let files = [
        "cpu/cpu1/topology/thread_siblings_list",
        "cpu/cpu1/topology/core_id",
        "cpu/cpu1/topology/physical_package_id",
        "cpu/cpu1/topology/die_id",
        "cpu/online",
        "node/online",
        "node/node0/meminfo",
        "node/node0/cpulist",
    ];
    for file in files {
        for broken in [None, Some("rubbish\n"), Some("\u{fffd}-1,,"), Some("")] {
            let machine = small();
            let path = format!("sys/devices/system/{file}");
            match broken {
                None => machine.unreadable(&path),
                Some(text) => machine.file(&path, text),
            };
            let found = machine.discover();
            let cores = ids(&found, "core");
            assert!(cores.contains(&"core-0-0"), "{file} {broken:?}: {cores:?}");
            assert_eq!(machine.counts().pus, 4, "{file} {broken:?}");
            assert_eq!(ids(&found, "memory"), ["node-0"], "{file} {broken:?}");
            if broken != Some("") {
                assert!(!found.warnings.is_empty(), "{file} {broken:?}");
            }
        }
    }
}

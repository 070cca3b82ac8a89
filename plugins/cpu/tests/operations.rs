//! Reserving, preparing and sampling, through the plugin's front door.

mod common;

use divvy_plugin::{
    CpuQuota, Discovery, Edits, ErrorCode, OpenRequest, Plugin, ReleaseRequest, RestoreRequest,
    WatchRequest,
};
use divvy_plugin_cpu::CpuPlugin;

use common::{Machine, ids, prepare, reserved, small};

// === prepare

fn quota(edits: &Edits) -> (u64, u64) {
    let CpuQuota {
        quota_us,
        period_us,
    } = edits.resources.cpu_quota.expect("a quota");
    (quota_us, period_us)
}

fn threads(edits: &Edits) -> &str {
    let find = edits.env.iter().find(|v| v.name == "OMP_NUM_THREADS");
    &find.expect("the variable").value
}

#[test]
fn a_core_and_a_half_with_memory() {
    let machine = small();
    let slices = ["cpu core-0-0 1", "cpu core-0-1 0.5", "mem node-0 1000000"];
    let edits = prepare(&machine.open(), &slices).unwrap();
    assert_eq!(edits.resources.cpuset_cpus.as_deref(), Some("0-3"));
    assert_eq!(edits.resources.cpuset_mems.as_deref(), Some("0"));
    assert_eq!(edits.resources.memory_bytes, Some(1_000_000));
    assert_eq!(quota(&edits), (60_000, 20_000)); // 3 CPU seconds a second
    assert_eq!(threads(&edits), "3");
    assert!(edits.env.iter().all(|v| v.default && v.value == "3"));
    assert_eq!(
        edits.annotations["divvy.cpu.cores"],
        "core-0-0=1,core-0-1=0.5"
    );
    assert_eq!(edits, prepare(&machine.open(), &slices).unwrap());
}

#[test]
fn the_smallest_share() {
    let edits = prepare(&small().open(), &["cpu core-0-1 0.01"]).unwrap();
    assert_eq!(edits.resources.cpuset_cpus.as_deref(), Some("1,3"));
    assert_eq!(quota(&edits), (1_000, 50_000)); // 0.01 of two threads
    assert_eq!(threads(&edits), "1");
    assert_eq!(edits.resources.memory_bytes, None);
}

#[test]
fn memory_alone_touches_no_cpu() {
    let edits = prepare(&small().open(), &["mem node-0 5", "mem node-0 6"]).unwrap();
    assert_eq!(edits.resources.memory_bytes, Some(11));
    assert_eq!(edits.resources.cpuset_cpus, None);
    assert_eq!(edits.resources.cpu_quota, None);
    assert!(edits.env.is_empty());
}

#[test]
fn memory_nodes_follow_the_memory_slices_else_the_cores() {
    let machine = small();
    machine
        .node(0, "0,2", 512)
        .node(4, "1,3", 0)
        .node(9, "", 512)
        .nodes_file("online", "0,4,9\n")
        .node_file(4, "distance", "20 10 15\n");
    let plugin = machine.open();
    let mems = |slices: &[&str]| prepare(&plugin, slices).unwrap().resources.cpuset_mems;
    assert_eq!(mems(&["cpu core-0-0 1"]).as_deref(), Some("0"));
    assert_eq!(
        mems(&["cpu core-0-0 1", "mem node-9 1"]).as_deref(),
        Some("9")
    );
    // Node 4 has no memory; node 9 is nearer to it than node 0.
    assert_eq!(mems(&["cpu core-0-1 1"]).as_deref(), Some("9"));
    machine.remove("sys/devices/system/node/node4/distance");
    assert_eq!(mems(&["cpu core-0-1 1"]).as_deref(), Some("0,9"));
}

#[test]
fn a_machine_without_nodes_takes_memory_from_node_0() {
    let machine = Machine::new();
    machine.online("0").cpu(0, 0, 0, "0").meminfo(64);
    let edits = prepare(&machine.open(), &["cpu core-0-n0-0 1"]).unwrap();
    assert_eq!(edits.resources.cpuset_mems.as_deref(), Some("0"));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_name() {
    let machine = small();
    let plugin = machine.try_open(&[("reserved_cores", "1"), ("reserved_mem", "1GiB")]);
    let plugin = plugin.unwrap();
    for (slices, code, words) in [
        (&[][..], ErrorCode::Invalid, "no slice"),
        (&["gpu core-0-1 1"], ErrorCode::Invalid, "\"gpu\""),
        (&["cpu core-9-9 1"], ErrorCode::Absent, "core-9-9"),
        (&["cpu node-0 1"], ErrorCode::Absent, "node-0"),
        (&["mem node-1 1"], ErrorCode::Absent, "node-1"),
        (&["mem core-0-1 1"], ErrorCode::Absent, "core-0-1"),
        (
            &["cpu core-0-1 0"],
            ErrorCode::Invalid,
            "0 of core core-0-1",
        ),
        (&["cpu core-0-1 1.01"], ErrorCode::Invalid, "1.01"),
        (&["cpu core-0-1 0.005"], ErrorCode::Invalid, "0.005"),
        (
            &["cpu core-0-1 0.6", "cpu core-0-1 0.6"],
            ErrorCode::Invalid,
            "1.2",
        ),
        (&["cpu core-0-0 1"], ErrorCode::Invalid, "reserved_cores"),
        (&["mem node-0 1"], ErrorCode::Invalid, "0 whole bytes"),
        (&["mem node-0 0.5"], ErrorCode::Invalid, "0.5"),
    ] {
        let error = prepare(&plugin, slices).unwrap_err();
        assert_eq!(error.code, code, "{slices:?}: {error}");
        assert!(error.message.contains(words), "{slices:?}: {error}");
    }
}

#[test]
fn a_thread_that_went_offline_is_noticed_until_it_is_listed() {
    let machine = small();
    let plugin = machine.open();
    plugin.discover().unwrap();
    machine.online("0-2").cpu(1, 0, 1, "1");
    let error = prepare(&plugin, &["cpu core-0-1 1"]).unwrap_err();
    assert_eq!(error.code, ErrorCode::Absent);
    assert!(error.message.contains("CPU 3"), "{error}");
    assert!(prepare(&plugin, &["cpu core-0-0 1"]).is_ok());
    plugin.discover().unwrap();
    assert_eq!(
        quota(&prepare(&plugin, &["cpu core-0-1 1"]).unwrap()),
        (20_000, 20_000)
    );
    machine.online("0,2");
    let error = prepare(&plugin, &["cpu core-0-1 1"]).unwrap_err();
    assert_eq!(error.code, ErrorCode::Absent);
}

#[test]
fn memory_of_a_gpu_is_refused_and_in_no_cpuset() {
    let machine = small();
    machine
        .node(0, "0,2", 512)
        .node(1, "", 512)
        .nodes_file("online", "0-1\n")
        .file(
            "proc/driver/nvidia/gpus/0000:01:00.0/numa_status",
            "Node: 1\n",
        );
    let plugin = machine.open();
    let error = prepare(&plugin, &["mem node-1 1"]).unwrap_err();
    assert!(error.message.contains("GPU"), "{error}");
    // Core 1 is in no node and takes all memory: all of the host's.
    let edits = prepare(&plugin, &["cpu core-0-1 1"]).unwrap();
    assert_eq!(edits.resources.cpuset_mems.as_deref(), Some("0"));
}

#[test]
fn release_and_restore_change_nothing() {
    let plugin = small().open();
    let release = ReleaseRequest {
        allocation: "never seen".into(),
        slices: vec![],
    };
    assert_eq!(plugin.release(&release), Ok(()));
    assert_eq!(plugin.release(&release), Ok(()));
    assert_eq!(plugin.restore(&RestoreRequest::default()), Ok(()));
}

// === reserves

#[test]
fn the_first_cores_of_the_first_package_are_kept() {
    let machine = Machine::new();
    machine.online("0-3").meminfo(64);
    for cpu in 0..4 {
        // Package 1 has the lower CPU numbers.
        machine.cpu(cpu, i32::from(cpu < 2), 0, &cpu.to_string());
        machine.cpu_file(cpu, "topology/core_id", &cpu.to_string());
    }
    let plugin = machine.try_open(&[("reserved_cores", "3.0")]).unwrap();
    let found = plugin.discover().unwrap();
    let kept: Vec<_> = reserved(&found).into_iter().map(|(id, _)| id).collect();
    assert_eq!(kept, ["core-1-n0-0", "core-0-n0-2", "core-0-n0-3"]);
}

#[test]
fn reserves_that_do_not_fit_are_refused_at_once() {
    let machine = small();
    for (key, value, words) in [
        ("reserved_cores", "3", "only 2 cores"),
        ("reserved_cores", "1000000000000000000", "only 2 cores"),
        ("reserved_mem", "1025MiB", "only 1073741824 bytes"),
    ] {
        let error = machine.try_open(&[(key, value)]).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(error.message.contains(words), "{error}");
    }
    assert!(machine.try_open(&[("reserved_cores", "2")]).is_ok());
}

#[test]
fn when_cores_vanish_what_is_left_is_kept() {
    let machine = small();
    let plugin = machine.try_open(&[("reserved_cores", "2")]).unwrap();
    machine.online("0,2");
    let found = plugin.discover().unwrap();
    assert_eq!(reserved(&found).len(), 1);
    assert!(common::warned(&found, "reserved_cores is 2"));
}

#[test]
fn huge_pages_are_kept_and_shown() {
    let machine = small();
    machine
        .node_file(0, "hugepages/hugepages-2048kB/nr_hugepages", "8\n")
        .node_file(0, "hugepages/hugepages-1048576kB/nr_hugepages", "0\n");
    let found = machine.discover();
    assert_eq!(reserved(&found), [("node-0", (16_u64 << 20).to_string())]);
    let node = common::device(&found, "node-0");
    assert_eq!(
        common::attribute(node, "huge_pages"),
        (16_u64 << 20).to_string()
    );
}

// === sample, watch, manifest

#[test]
fn counters_of_cores_and_nodes() {
    let machine = small();
    machine.file(
        "proc/stat",
        "cpu  9 9 9 9\ncpu0 100 20 30 999 5 1 2 77\ncpu2 7 0 0 1 0 0 0 0\ncpu1 1 1 1 1 0 0 0\n",
    );
    machine.node_file(
        0,
        "meminfo",
        "Node 0 MemTotal: 1000 kB\nNode 0 MemFree: 200 kB\nNode 0 Active(file): 50 kB\n\
         Node 0 Inactive(file): 40 kB\nNode 0 SReclaimable: 10 kB\n",
    );
    let samples = machine.open().sample().unwrap().devices;
    let measure = |device: &str, name: &str| samples[device][name].to_string();
    assert_eq!(measure("core-0-0", "busy_seconds_total"), "1.6");
    assert_eq!(measure("node-0", "memory_total_bytes"), "1024000");
    assert_eq!(measure("node-0", "memory_used_bytes"), "716800");
    // CPU 3 is missing: half a core's time would be a lie.
    assert!(!samples.contains_key("core-0-1"));
}

#[test]
fn watch_sees_a_cpu_go() {
    let machine = small();
    let plugin = machine.open();
    let known = plugin.discover().unwrap();
    let watch = |known: &Discovery| {
        let request = WatchRequest {
            known: known.clone(),
            timeout_ms: 0,
            held: vec![],
        };
        plugin.watch(&request).unwrap().changed
    };
    assert_eq!(watch(&known), None);
    machine.online("0,2");
    assert_eq!(ids(&watch(&known).unwrap(), "core"), ["core-0-0"]);
}

#[test]
fn the_manifest_serves_cpu_and_mem() {
    let manifest = CpuPlugin::manifest();
    let slots: Vec<_> = manifest.slots.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(slots, ["cpu", "mem"]);
    assert_eq!(manifest.slots[0].quantum.to_string(), "0.01");
    let text = serde_json::to_string(&manifest).unwrap();
    assert_eq!(
        serde_json::from_str::<divvy_plugin::Manifest>(&text).unwrap(),
        manifest
    );
}

#[test]
fn this_very_machine_is_understood() {
    let plugin = CpuPlugin::open(&OpenRequest::default()).unwrap();
    let found = plugin.discover().unwrap();
    println!("{found:#?}");
    assert!(!ids(&found, "core").is_empty() && !ids(&found, "memory").is_empty());
    let core = format!("cpu {} 0.5", ids(&found, "core")[0]);
    assert!(
        prepare(&plugin, &[&core])
            .unwrap()
            .resources
            .cpu_quota
            .is_some()
    );
    assert!(!plugin.sample().unwrap().devices.is_empty());
}

//! Captures of real machines (hwloc's test suite), against hwloc's counts.
//!
//! The captures are not in this repository. They are looked for in
//! `$DIVVY_FIXTURES/cpu`, else in `../shared/fixtures/cpu` beside the
//! repository; without them these tests say so and pass.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use divvy_plugin::{Amount, Plugin};
use divvy_plugin_cpu::{Counts, NodeCounts};
use serde_json::Value;
use tempfile::TempDir;

use common::{attribute, device, ids, open, prepare, slice, warned};

fn fixtures() -> Option<PathBuf> {
    let root = match std::env::var_os("DIVVY_FIXTURES") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures"),
    };
    let folder = root.join("cpu");
    if folder.join("expected.json").is_file() {
        return Some(folder);
    }
    eprintln!(
        "\n*** SKIPPED: no captures in {}; set DIVVY_FIXTURES to the folder that has cpu/ ***\n",
        folder.display()
    );
    None
}

/// One capture, unpacked.
struct Capture(TempDir, String);

impl Capture {
    fn unpack(folder: &Path, name: &str) -> Self {
        let file = File::open(folder.join(format!("{name}.tar.gz")));
        let file = file.unwrap_or_else(|error| panic!("{name}.tar.gz: {error}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        tar::Archive::new(flate2::read::GzDecoder::new(file))
            .unpack(folder.path())
            .unwrap_or_else(|error| panic!("{name}.tar.gz: {error}"));
        Self(folder, name.to_owned())
    }

    fn find(name: &str) -> Option<Self> {
        fixtures().map(|folder| Self::unpack(&folder, name))
    }

    fn root(&self) -> PathBuf {
        self.0.path().join(&self.1)
    }

    fn counts(&self, allowed: &str) -> Counts {
        let plugin = open(&self.root(), &[("allowed", allowed)]);
        Counts::of(&plugin.expect("the plugin opens").topology())
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn every_capture_is_counted_as_hwloc_counts_it() {
    let Some(folder) = fixtures() else { return };
    let expected = fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let mut seen = 0;
    for (name, expected) in expected.as_object().unwrap() {
        if name.starts_with('_') {
            continue;
        }
        seen += 1;
        let capture = Capture::unpack(&folder, name);
        for scope in ["allowed", "all"] {
            let want = &expected[scope];
            let got = capture.counts(if scope == "all" { "all" } else { "cgroup" });
            let number = |key: &str| usize::try_from(want[key].as_u64().unwrap()).unwrap();
            println!(
                "{name} {scope}: {} packages, {} cores, {} pus, {} nodes, cpus {}",
                got.packages,
                got.cores,
                got.pus,
                got.nodes.len(),
                got.cpus
            );
            assert_eq!(got.packages, number("packages"), "{name} {scope} packages");
            assert_eq!(got.cores, number("cores"), "{name} {scope} cores");
            assert_eq!(got.pus, number("pus"), "{name} {scope} pus");
            assert_eq!(got.cpus, text(&want["cpus"]), "{name} {scope} cpus");
            assert_eq!(
                got.nodes.len(),
                number("numa_nodes"),
                "{name} {scope} nodes"
            );
            if let Some(nodes) = want["nodes"].as_array() {
                let nodes: Vec<_> = nodes
                    .iter()
                    .map(|node| NodeCounts {
                        id: u32::try_from(node["os_index"].as_u64().unwrap()).unwrap(),
                        cpus: text(&node["cpus"]),
                        memory_bytes: node["memory_bytes"].as_u64(),
                    })
                    .collect();
                assert_eq!(got.nodes, nodes, "{name} {scope} nodes");
            }
        }
    }
    assert_eq!(seen, 7, "captures");
}

#[test]
fn every_capture_has_unique_ids_and_says_the_same_twice() {
    let Some(folder) = fixtures() else { return };
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = name.strip_suffix(".tar.gz") else {
            continue;
        };
        let capture = Capture::unpack(&folder, name);
        let plugin = open(&capture.root(), &[]).unwrap();
        let found = plugin.discover().unwrap();
        println!("{name}: {:?} {:?}", ids(&found, "core"), found.warnings);
        assert_eq!(plugin.discover().unwrap(), found, "{name}");
        let unique: BTreeSet<_> = found.devices.iter().map(|d| &d.id).collect();
        assert_eq!(unique.len(), found.devices.len(), "{name}");
        // Everything at once fits into one container.
        let slices: Vec<_> = found
            .devices
            .iter()
            .map(|d| match d.kind.as_str() {
                "core" => format!("cpu {} 1", d.id),
                _ => format!("mem {} {}", d.id, d.capacities["memory"].total),
            })
            .collect();
        let slices: Vec<_> = slices.iter().map(String::as_str).collect();
        let edits = prepare(&plugin, &slices).unwrap();
        let counts = Counts::of(&plugin.topology());
        assert_eq!(edits.resources.cpuset_cpus, Some(counts.cpus), "{name}");
        let quota = edits.resources.cpu_quota.unwrap();
        assert_eq!(quota.quota_us, 20_000 * counts.pus as u64, "{name}");
        let samples = plugin.sample().unwrap();
        assert!(
            found
                .devices
                .iter()
                .all(|d| samples.devices.contains_key(&d.id)),
            "{name}: {:?}",
            samples.devices.keys()
        );
    }
}

#[test]
fn sparse_nodes_keep_their_numbers_and_distances() {
    let Some(capture) = Capture::find("48amd64-4pa2n6c-sparse") else {
        return;
    };
    let found = open(&capture.root(), &[]).unwrap().discover().unwrap();
    let node = found.numa_nodes.iter().find(|n| n.id == 33).unwrap();
    assert_eq!(
        node.distances,
        [
            (0, 22),
            (1, 16),
            (2, 16),
            (33, 10),
            (34, 16),
            (45, 16),
            (72, 22),
            (73, 22)
        ]
        .into()
    );
    assert_eq!(device(&found, "core-0-n1-0").numa_node, Some(1));
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
}

#[test]
fn the_hybrid_machine_has_fast_and_frugal_cores() {
    let Some(capture) = Capture::find("20em64t-hybrid-1p6c2t+2ca4co1t") else {
        return;
    };
    let plugin = open(&capture.root(), &[("reserved_cores", "2")]).unwrap();
    let found = plugin.discover().unwrap();
    let of_type = |kind: &str| {
        let cores = found.devices.iter().filter(|d| d.kind == "core");
        cores.filter(|d| attribute(d, "type") == kind).count()
    };
    assert_eq!((of_type("performance"), of_type("efficiency")), (6, 8));
    let kept = common::reserved(&found);
    assert_eq!(kept, [("core-0-24", "1".into()), ("core-0-25", "1".into())]);
    let fast = device(&found, "core-0-4");
    assert_eq!(attribute(fast, "threads"), "2");
    assert_eq!(attribute(fast, "max_frequency"), "5000");
}

#[test]
fn a_core_that_lost_a_thread_has_one() {
    let Some(capture) = Capture::find("16em64t-4s2c2t-offlines") else {
        return;
    };
    let found = open(&capture.root(), &[]).unwrap().discover().unwrap();
    assert_eq!(attribute(device(&found, "core-2-n0-1"), "cpus"), "6");
    assert_eq!(slice("cpu a 1").amount, Amount::ONE);
}

#[test]
fn modules_of_two_cores_are_two_cores() {
    let Some(capture) = Capture::find("64amd64-4s2n4ca2co") else {
        return;
    };
    let found = open(&capture.root(), &[]).unwrap().discover().unwrap();
    assert_eq!(ids(&found, "core").len(), 64);
    assert!(!warned(&found, "several cores"), "{:?}", found.warnings);
}

//! MIG on demand: GPUs that are not there are cut for jobs, and are whole again.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use divvy_nvidia_machine::memory::{Ledger, Place};
use divvy_nvidia_machine::{Answer, DESCRIPTION, Description, Fault, Gpu, Process};
use divvy_tests::nvidia::Nvidia;
use divvy_tests::rootfs::{self, nothing_is_left, text};
use divvy_tests::{Output, eventually, hosts_of, requires};
use serde_json::{Value, json};

const IN_USE: Answer = Answer::Code(19);
const UNKNOWN: Answer = Answer::Code(999);

/// A machine of which Divvy may do this about MIG.
fn machine(name: &str, mig: &str) -> Nvidia {
    let nvidia = Nvidia::ready(name);
    set(&nvidia, &format!("mig = {mig:?}"));
    nvidia
}

/// What its configuration says of the plugin.
fn set(nvidia: &Nvidia, lines: &str) {
    let root = nvidia.root().display().to_string();
    let text = format!("[plugins.cuda]\nroot = {root:?}\n{lines}\n");
    fs::write(nvidia.machine.config(), text).unwrap();
}

/// A job that ends by itself.
fn job(nvidia: &Nvidia, asks: &str, script: &str) -> Output {
    let run = nvidia.divvy("run --rm --cpu 0.1 --mem 64MiB");
    let run = run.args(asks.split_whitespace());
    run.args(["--", "sh", "-c", script]).run()
}

/// A job that waits.
#[track_caller]
fn holds(nvidia: &Nvidia, name: &str, asks: &str) {
    let run = format!("run -d --name {name} --cpu 0.1 --mem 64MiB {asks} -- sleep 600");
    nvidia.divvy(&run).run().succeeds();
}

#[track_caller]
fn ends(nvidia: &Nvidia, name: &str) {
    nvidia.divvy("rm -f").arg(name).run().succeeds();
}

/// The machine as it is.
fn now(nvidia: &Nvidia) -> Description {
    let mut now = None;
    nvidia.change(|d| now = Some(d.clone()));
    now.unwrap()
}

/// The instances of all GPUs: GPU, profile, start.
fn instances(nvidia: &Nvidia) -> BTreeSet<(String, String, u32)> {
    let of = |(name, gpu): (String, Gpu)| {
        let all = gpu.gpu_instances().into_iter();
        all.map(move |one| (name.clone(), one.profile, one.start))
    };
    now(nvidia).gpu.into_iter().flat_map(of).collect()
}

/// What is written of who has what.
fn journal(nvidia: &Nvidia) -> Value {
    let file = nvidia.machine.state().join("plugins/cuda/mig.json");
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes).unwrap()["entries"].clone(),
        Err(_) => json!([]),
    }
}

/// Nothing is held, made or written down.
#[track_caller]
fn all_is_back(nvidia: &Nvidia) {
    assert_eq!(instances(nvidia), BTreeSet::new());
    assert_eq!(journal(nvidia), json!([]));
    nothing_is_left(&nvidia.machine);
}

fn fault(call: &str, nth: Option<u64>, after: bool, answer: Answer) -> Fault {
    Fault {
        call: call.into(),
        nth,
        gpu: None,
        after,
        answer,
    }
}

#[test]
fn a_job_has_its_instance_while_it_runs() {
    requires!(root);
    let nvidia = machine("a100x8", "mode");
    for runtime in rootfs::runtimes() {
        let script = "echo $CUDA_VISIBLE_DEVICES; echo $DIVVY_CUDA_SLICES; ls /dev/nvidia-caps";
        let asks = format!("--runtime {runtime} --slot cuda.mig-3g.40gb=1");
        let said = job(&nvidia, &asks, script).succeeds().stdout;
        let mut lines = said.lines();
        let uuid = lines.next().unwrap();
        assert!(uuid.starts_with("MIG-") && !uuid.contains(','), "{said}");
        // What the driver says that it has.
        let bytes = 40_192u64 << 20;
        assert_eq!(
            lines.next(),
            Some(format!("{uuid}=memory:{bytes}").as_str())
        );
        // The rights to the GPU instance and to the compute instance, and to nothing else.
        assert_eq!(lines.count(), 2, "{said}");
        all_is_back(&nvidia);
    }
    // MIG stays on, and is off again when a GPU is asked for as a whole.
    let on = |d: Description| d.gpu.values().filter(|gpu| gpu.mig == Some(true)).count();
    assert_eq!(on(now(&nvidia)), 1);
    let devices = nvidia.devices();
    let cut = devices
        .iter()
        .find(|d| d["attributes"]["mig"]["string"] == "on")
        .unwrap();
    assert_eq!(cut["health"]["state"], "healthy", "{cut:#}");
    assert_eq!(cut["capacities"]["device"]["total"], "1", "{cut:#}");
    let said = job(&nvidia, "--gpu 8", "echo $CUDA_VISIBLE_DEVICES").succeeds();
    assert_eq!(said.stdout.matches("GPU-").count(), 8, "{said}");
    assert_eq!(on(now(&nvidia)), 0);
    // Shares too.
    job(&nvidia, "--slot cuda.mig-7g.80gb=8", "true").succeeds();
    assert_eq!(on(now(&nvidia)), 8);
    job(&nvidia, "--gpu 0.5", "true").succeeds();
    assert_eq!(on(now(&nvidia)), 7);
    all_is_back(&nvidia);
}

/// Who asks for so much of a GPU, at a level that a part of one does not reach.
#[test]
fn a_firm_part_of_a_gpu_is_an_instance() {
    requires!(root);
    let nvidia = machine("h100x8", "mode");
    for (asks, profile) in [
        ("--gpu-mem 30GiB", "3g.40gb"),
        // A quarter of the memory has a fifth of the multiprocessors.
        ("--gpu 0.22", "2g.20gb"),
        ("--gpu 0.15", "1g.20gb"),
    ] {
        let asks = format!("{asks} --min-level hardware");
        holds(&nvidia, "a", &asks);
        let made: Vec<String> = instances(&nvidia).into_iter().map(|(_, p, _)| p).collect();
        assert_eq!(made, [profile], "{asks}");
        ends(&nvidia, "a");
        all_is_back(&nvidia);
    }
}

#[test]
fn several_at_once_are_made_or_none() {
    requires!(root);
    let nvidia = machine("h100x8", "mode");
    let asks = "--slot cuda.mig-3g.40gb=2 --slot cuda.mig-1g.10gb=3";
    let script = "echo $CUDA_VISIBLE_DEVICES; ls /dev/nvidia-caps | wc -l";
    let said = job(&nvidia, asks, script).succeeds();
    assert_eq!(said.stdout.matches("MIG-").count(), 5, "{said}");
    assert!(said.stdout.ends_with("10\n"), "{said}");
    all_is_back(&nvidia);
    // The last one fails, of whatever kind it is.
    for (call, nth) in [
        ("nvmlDeviceCreateGpuInstanceWithPlacement", 5),
        ("nvmlGpuInstanceCreateComputeInstance", 5),
    ] {
        for after in [false, true] {
            let wrong = fault(call, Some(nth), after, UNKNOWN);
            nvidia.change(|d| d.fault = vec![wrong]);
            let said = job(&nvidia, asks, "true").exits(125);
            said.complains("cannot be made")
                .complains("[plugin_refused]");
            all_is_back(&nvidia);
            nvidia.change(|d| d.fault.clear());
        }
    }
    job(&nvidia, asks, "true").succeeds();
    all_is_back(&nvidia);
}

#[test]
fn what_may_be_cut_is_what_the_setting_says() {
    requires!(root);
    let nvidia = machine("a100x8", "keep");
    let fits = |asks: &str| nvidia.divvy(&format!("fit {asks}")).run();
    let cut = "--slot cuda.mig-1g.10gb=1";
    let all = "--slot cuda.mig-1g.10gb=56";
    fits(cut).exits(125).complains("0 free of 0");
    // MIG is on where somebody has turned it on.
    set(&nvidia, "mig = \"instances\"");
    fits(cut).exits(125);
    nvidia.change(|d| d.gpu.get_mut("g3").unwrap().mig = Some(true));
    fits("--slot cuda.mig-1g.10gb=7").succeeds();
    fits("--slot cuda.mig-1g.10gb=8").exits(125);
    fits("--gpu 7").succeeds();
    fits("--gpu 8").exits(125);
    let uuid = now(&nvidia).gpu["g3"].uuid.clone();
    let devices = nvidia.devices();
    let device = devices.iter().find(|d| d["id"] == json!(uuid)).unwrap();
    assert_eq!(device["health"]["state"], "healthy", "{device:#}");
    job(&nvidia, cut, "true").succeeds();
    set(&nvidia, "mig = \"mode\"");
    fits(all).succeeds();
    // Some GPUs alone, by whatever name.
    set(
        &nvidia,
        "mig = \"mode\"\nmig_gpus = \"00000000:07:00.0,GPU-309e6043-7ea3-ef27-e2e9-0528a4e0689e,GPU-9\"",
    );
    fits("--slot cuda.mig-1g.10gb=14").succeeds();
    fits("--slot cuda.mig-1g.10gb=15").exits(125);
    let warnings = nvidia.warnings();
    assert!(
        warnings.contains("names GPU-9, which is no GPU"),
        "{warnings}"
    );
    all_is_back(&nvidia);
    // A driver that does not say what can be made.
    set(&nvidia, "mig = \"mode\"");
    nvidia.change(|d| {
        d.fault = vec![fault(
            "nvmlDeviceGetGpuInstancePossiblePlacements_v2",
            None,
            false,
            UNKNOWN,
        )];
    });
    fits(cut).exits(125);
    fits("--gpu 7").succeeds();
    let warnings = nvidia.warnings();
    assert!(
        warnings.contains("does not say how it can be cut"),
        "{warnings}"
    );
}

/// Who is in the way of turning MIG on is told, and it is left off.
#[test]
fn mig_is_not_switched_under_anybodys_feet() {
    requires!(root);
    let nvidia = machine("a100-mig", "mode");
    // The other one is cut by somebody else.
    let run = || job(&nvidia, "--slot cuda.mig-7g.80gb=1", "true");
    let gpu = |change: fn(&mut Gpu)| nvidia.change(|d| change(d.gpu.get_mut("whole").unwrap()));
    // A desktop draws.
    gpu(|gpu| {
        gpu.process = vec![Process {
            pid: 1,
            memory_mib: None,
            graphics: true,
            utilization: None,
        }];
    });
    run().exits(125).complains("[insufficient]");
    let warnings = nvidia.warnings();
    assert!(warnings.contains("programs draw on it"), "{warnings}");
    // One that NVML does not list.
    gpu(|gpu| (gpu.process, gpu.used_by_client) = (vec![], true));
    run()
        .exits(125)
        .complains("another client, such as a monitoring daemon");
    let whole = now(&nvidia).gpu["whole"].clone();
    assert_eq!((whole.mig, whole.mig_pending), (Some(false), None));
    gpu(|gpu| gpu.used_by_client = false);
    run().succeeds();
    assert_eq!(now(&nvidia).gpu["whole"].mig, Some(true));
    // And back, where others have made something: it is not even asked for.
    gpu(|gpu| {
        gpu.make_gpu_instance(19, Some(6)).unwrap();
    });
    nvidia.divvy("fit --gpu 1").run().exits(125);
    gpu(|gpu| gpu.gpu_instance.clear());
    gpu(|gpu| gpu.used_by_client = true);
    let refused = job(&nvidia, "--gpu 1", "true").exits(125);
    refused.complains("cannot be turned off");
    assert_eq!(now(&nvidia).gpu["whole"].mig, Some(true));
    gpu(|gpu| gpu.used_by_client = false);
    job(&nvidia, "--gpu 1", "true").succeeds();
    assert_eq!(now(&nvidia).gpu["whole"].mig, Some(false));
    // What will be after a reset is no help now.
    gpu(|gpu| gpu.mig_pending = Some(true));
    nvidia.divvy("fit --gpu 1").run().succeeds();
    nvidia
        .divvy("fit --slot cuda.mig-7g.80gb=1")
        .run()
        .exits(125);
    assert_eq!(journal(&nvidia), json!([]));
    nothing_is_left(&nvidia.machine);
}

#[test]
fn what_others_made_stays_and_is_worked_around() {
    requires!(root);
    let nvidia = machine("a100x8", "mode");
    nvidia.change(|d| {
        let gpu = d.gpu.get_mut("g0").unwrap();
        gpu.mig = Some(true);
        let gi = gpu.make_gpu_instance(9, Some(4)).unwrap().gi;
        gpu.make_compute_instance(gi, 3).unwrap();
        // One in which nothing can run yet.
        gpu.make_gpu_instance(19, Some(0)).unwrap();
    });
    let before = instances(&nvidia);
    let uuid = now(&nvidia).gpu["g0"].uuid.clone();
    let devices = nvidia.devices();
    assert_eq!(devices.len(), 8, "{devices:#?}");
    let device = devices.iter().find(|d| d["id"] == json!(uuid)).unwrap();
    let offered = device["partitioning"]["profiles"]
        .as_array()
        .unwrap()
        .iter();
    let offered: Vec<(&str, &Value)> = offered.map(|p| (text(&p["slot"]), &p["starts"])).collect();
    assert_eq!(
        offered,
        [
            ("cuda.mig-1g.10gb", &json!([1, 2, 3])),
            ("cuda.mig-2g.20gb", &json!([2])),
            ("cuda.mig-1g.10gb+me", &json!([1, 2, 3])),
            ("cuda.mig-1g.20gb", &json!([2])),
        ]
    );
    assert_eq!(device["capacities"].get("device"), None, "{device:#}");
    assert_eq!(
        device["capacities"]["slices"],
        json!({ "total": "7", "reserved": "4" })
    );
    let warnings = nvidia.warnings();
    for words in [
        "(3g.40gb at 4) is not Divvy's",
        "(1g.10gb at 0) is not Divvy's",
        "-dgi removes",
    ] {
        assert!(warnings.contains(words), "{warnings}");
    }
    let fits = |asks: &str| nvidia.divvy(&format!("fit {asks}")).run();
    fits("--gpu 7").succeeds();
    fits("--gpu 8").exits(125);
    fits("--gpu 0.1 --cpu 0.1").succeeds();
    fits("--slot cuda.mig=1").exits(125);
    fits("--slot cuda.mig-3g.40gb=14").succeeds();
    fits("--slot cuda.mig-3g.40gb=15").exits(125);
    // All that fits beside them, and they are still there after it.
    let asks = "--slot cuda.mig-3g.40gb=14 --slot cuda.mig-1g.10gb=1 --slot cuda.mig-2g.20gb=1";
    let said = job(&nvidia, asks, "echo $CUDA_VISIBLE_DEVICES").succeeds();
    assert_eq!(said.stdout.matches("MIG-").count(), 16, "{said}");
    assert_eq!(instances(&nvidia), before);
    assert_eq!(journal(&nvidia), json!([]));
    nothing_is_left(&nvidia.machine);
}

/// The steps of making an instance, each by the call that does it.
const STEPS: [&str; 4] = [
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlDeviceGetUUID",
];

#[test]
fn a_step_that_fails_leaves_nothing() {
    requires!(root);
    let asks = "--slot cuda.mig-2g.20gb=1";
    for after in [false, true] {
        // A machine for each: MIG is to be off.
        for call in &STEPS[..3] {
            let nvidia = machine("a100x8", "mode");
            nvidia.change(|d| d.fault = vec![fault(call, None, after, UNKNOWN)]);
            let said = job(&nvidia, asks, "true").exits(125);
            said.complains("cannot be").complains("[plugin_refused]");
            all_is_back(&nvidia);
            nvidia.change(|d| d.fault.clear());
            job(&nvidia, asks, "true").succeeds();
            all_is_back(&nvidia);
        }
    }
}

/// What crashed is not in the way of the next test.
fn forget_crashes(nvidia: &Nvidia) {
    let _ = fs::remove_file(nvidia.machine.state().join("plugins/cuda.json"));
}

#[test]
fn a_host_that_crashes_in_between_leaves_nothing() {
    requires!(root);
    let asks = "--slot cuda.mig-2g.20gb=1";
    for after in [false, true] {
        for call in STEPS {
            let nvidia = machine("a100x8", "mode");
            // The GPU's UUID is asked for before the instance's.
            let nth = (call == "nvmlDeviceGetUUID").then_some(20);
            nvidia.change(|d| d.fault = vec![fault(call, nth, after, Answer::Crash)]);
            let said = job(&nvidia, asks, "true");
            match (nth, after) {
                // The next host finds it done.
                (None, true) => drop(said.succeeds()),
                // It does what the first one did.
                (None, false) => drop(said.exits(125).complains("[plugin_crashed]")),
                _ => {}
            }
            nvidia.change(|d| d.fault.clear());
            forget_crashes(&nvidia);
            nvidia.divvy("ps -a").run().succeeds();
            all_is_back(&nvidia);
            job(&nvidia, asks, "true").succeeds();
            all_is_back(&nvidia);
        }
    }
}

#[test]
fn a_host_that_is_killed_in_between_is_followed_by_one_that_goes_on() {
    requires!(root);
    let asks = "--slot cuda.mig-2g.20gb=2";
    for after in [false, true] {
        for call in &STEPS[..3] {
            let nvidia = machine("a100x8", "mode");
            nvidia.change(|d| d.fault = vec![fault(call, None, after, Answer::Hang)]);
            let run = nvidia
                .divvy("run --rm --cpu 0.1 --mem 64MiB")
                .args(asks.split(' '));
            let run = run
                .args(["--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"])
                .spawn();
            let hangs = || {
                let now = now(&nvidia).gpu;
                let mut gpus = now.values();
                journal(&nvidia) != json!([])
                    && gpus.any(|gpu| match *call {
                        "nvmlDeviceSetMigMode" => (gpu.mig == Some(true)) == after,
                        "nvmlGpuInstanceCreateComputeInstance" => match after {
                            true => !gpu.instance.is_empty(),
                            false => !gpu.gpu_instance.is_empty(),
                        },
                        _ => gpu.mig == Some(true) && gpu.gpu_instances().is_empty() != after,
                    })
            };
            assert!(eventually(hangs) || *call == STEPS[0], "{call}");
            nvidia.change(|d| d.fault.clear());
            for pid in hosts_of(&nvidia.machine.plugin_folder()) {
                rootfs::kill(pid);
            }
            let said = run.output().succeeds();
            assert_eq!(
                said.stdout.matches("MIG-").count(),
                2,
                "{call} {after}: {said}"
            );
            all_is_back(&nvidia);
        }
    }
}

#[test]
fn what_cannot_be_unmade_stays_closed_until_it_can() {
    requires!(root);
    let asks = "--slot cuda.mig-7g.80gb=2";
    for call in ["nvmlComputeInstanceDestroy", "nvmlGpuInstanceDestroy"] {
        for (answer, after) in [(IN_USE, false), (UNKNOWN, false), (UNKNOWN, true)] {
            let nvidia = machine("a100-mig", "mode");
            nvidia.change(|d| {
                let gpu = d.gpu.get_mut("divided").unwrap();
                gpu.instance.clear();
            });
            holds(&nvidia, "a", asks);
            // Of one of the two GPUs.
            let wrong = Fault {
                gpu: Some("whole".into()),
                ..fault(call, None, after, answer.clone())
            };
            nvidia.change(|d| d.fault = vec![wrong]);
            let _ = nvidia.divvy("stop a").run();
            let state = || rootfs::record(&nvidia.machine, "a")["state"].clone();
            // What was done and not said is found to be done by the next one.
            let is = json!(if after { "exited" } else { "releasing" });
            assert!(eventually(|| state() == is), "{call}: {}", state());
            if !after {
                nvidia.divvy("fit --gpu 2").run().exits(125);
                nvidia.change(|d| d.fault.clear());
                nvidia.divvy("ps -a").run().succeeds();
                assert_eq!(state(), json!("exited"), "{call}");
            }
            nvidia.divvy("rm a").run().succeeds();
            nvidia.divvy("fit --gpu 2").run().succeeds();
            all_is_back(&nvidia);
        }
    }
}

#[test]
fn what_goes_with_the_driver_is_let_go_of() {
    requires!(root);
    type Change = fn(&mut Description);
    let ways: [(&str, Change, bool); 5] = [
        ("the module is unloaded", |d| d.loaded = false, true),
        (
            "the GPU is taken out",
            |d| d.gpu.values_mut().for_each(|g| g.present = false),
            true,
        ),
        (
            "it falls off the bus",
            |d| d.gpu.values_mut().for_each(|g| g.lost = true),
            false,
        ),
        (
            "MIG is off",
            |d| {
                d.gpu.values_mut().for_each(|g| {
                    g.instance.clear();
                    g.mig = Some(false);
                });
            },
            true,
        ),
        (
            "somebody has unmade it",
            |d| d.gpu.values_mut().for_each(|g| g.instance.clear()),
            true,
        ),
    ];
    for (what, change, gone) in ways {
        let nvidia = machine("a100x8", "mode");
        holds(&nvidia, "a", "--slot cuda.mig-3g.40gb=1");
        nvidia.change(change);
        let _ = nvidia.divvy("stop a").run();
        let state = || rootfs::record(&nvidia.machine, "a")["state"].clone();
        let ended = eventually(|| state() == json!(if gone { "exited" } else { "releasing" }));
        assert!(ended, "{what}: {}", state());
        if !gone {
            // A reset brings the GPU back, without instances.
            nvidia.change(|d| {
                d.gpu.values_mut().for_each(|g| {
                    g.lost = false;
                    g.instance.clear();
                });
            });
            nvidia.divvy("ps -a").run().succeeds();
            assert_eq!(state(), json!("exited"), "{what}");
        }
        assert_eq!(journal(&nvidia), json!([]), "{what}");
        nvidia.divvy("rm a").run().succeeds();
        nothing_is_left(&nvidia.machine);
    }
}

#[test]
fn an_instance_that_others_made_a_moment_before_is_theirs() {
    requires!(root);
    let nvidia = machine("a100x8", "mode");
    // It is there, and the driver says that it could not make ours.
    let call = "nvmlDeviceCreateGpuInstanceWithPlacement";
    let full = fault(call, None, true, Answer::Code(23));
    nvidia.change(|d| d.fault = vec![full]);
    let said = job(&nvidia, "--slot cuda.mig-3g.40gb=1", "true").exits(125);
    said.complains("is taken by a MIG instance that is not Divvy's");
    assert_eq!(instances(&nvidia).len(), 1);
    assert_eq!(journal(&nvidia), json!([]));
    nvidia.change(|d| d.fault.clear());
    job(&nvidia, "--slot cuda.mig-7g.80gb=1", "true").succeeds();
    assert_eq!(instances(&nvidia).len(), 1);
    nothing_is_left(&nvidia.machine);
}

/// Where others have made another instance with the same numbers, ours is gone.
#[test]
fn an_instance_in_the_place_of_ours_is_not_ours() {
    requires!(root);
    let nvidia = machine("a100-mig", "mode");
    holds(&nvidia, "a", "--slot cuda.mig-7g.80gb=1");
    let whole = |change: fn(&mut Gpu)| nvidia.change(|d| change(d.gpu.get_mut("whole").unwrap()));
    whole(|gpu| {
        let ours = gpu.instance.remove(0);
        let gi = gpu.make_gpu_instance(0, Some(0)).unwrap().gi;
        let theirs = gpu.make_compute_instance(gi, 7).unwrap();
        assert_eq!((theirs.gi, theirs.ci), (ours.gi, ours.ci));
        assert_ne!(theirs.uuid, ours.uuid);
    });
    let before = instances(&nvidia);
    let warnings = nvidia.warnings();
    assert!(
        warnings.contains("(7g.80gb at 0) is not Divvy's"),
        "{warnings}"
    );
    ends(&nvidia, "a");
    assert_eq!(instances(&nvidia), before);
    assert_eq!(journal(&nvidia), json!([]));
    nothing_is_left(&nvidia.machine);
}

/// A process of this test's, as far as the driver can tell: it has memory until dropped.
fn computes(nvidia: &Nvidia, gpu: &str, gi: Option<u32>) -> Ledger {
    let files = fs::read_dir(nvidia.libraries())
        .unwrap()
        .map(Result::unwrap);
    let mut files = files.map(|file| file.path());
    let is = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(DESCRIPTION)
    };
    let ledger = Ledger::open(&files.find(is).unwrap()).unwrap();
    let place = Place::of(&now(nvidia), gpu, gi).unwrap();
    ledger.reserve(place, 1 << 20, u64::MAX >> 1).unwrap();
    ledger
}

#[test]
fn nothing_is_handed_on_while_processes_are_still_there() {
    requires!(root);
    for asks in ["--slot cuda.mig-3g.40gb=1", "--gpu 1"] {
        let nvidia = machine("a100x8", "mode");
        holds(&nvidia, "a", asks);
        let id = rootfs::record(&nvidia.machine, "a")["slices"].clone();
        let mut slices = id.as_array().unwrap().iter();
        let slice = slices.find(|slice| slice["plugin"] == "cuda").unwrap();
        let now = now(&nvidia);
        let mut gpus = now.gpu.iter();
        let (name, gpu) = gpus
            .find(|(_, gpu)| slice["device"] == json!(gpu.uuid))
            .unwrap();
        let process = computes(&nvidia, name, gpu.instance.first().map(|i| i.gi));
        let _ = nvidia.divvy("stop a").run();
        let state = || rootfs::record(&nvidia.machine, "a")["state"].clone();
        if asks == "--gpu 1" {
            // What is its own to give back it gives back; the GPU is closed.
            assert!(eventually(|| state() == json!("exited")), "{}", state());
            let eight = || nvidia.divvy("fit --gpu 8 --cpu 0.1 --mem 64MiB").run();
            eight().exits(125).complains("is no workload's");
            drop(process);
            eight().succeeds();
        } else {
            assert!(eventually(|| state() == json!("releasing")), "{}", state());
            let said = nvidia.divvy("ps -a").run();
            let pid = std::process::id().to_string();
            assert!(said.stderr.contains(&pid), "it is named: {said}");
            assert_eq!(instances(&nvidia).len(), gpu.instance.len());
            drop(process);
            nvidia.divvy("ps -a").run().succeeds();
        }
        assert_eq!(state(), json!("exited"));
        nvidia.divvy("rm a").run().succeeds();
        all_is_back(&nvidia);
    }
}

/// What was made for somebody who is not in the ledger any more is not handed to another.
#[test]
fn a_lost_ledger_frees_no_instance() {
    requires!(root);
    let nvidia = machine("a100-mig", "mode");
    holds(&nvidia, "a", "--slot cuda.mig-7g.80gb=1");
    ends(&nvidia, "a");
    // As if somebody had removed the record, long before this boot was so old.
    let uuid = now(&nvidia).gpu["whole"].uuid.clone();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let entry = |allocation: &str, boot: &str| {
        json!({ "version": 1, "entries": [{
            "allocation": allocation, "gpu": uuid, "address": "0000:41:00.0", "boot": boot,
            "at_ms": 0, "part": { "profile": 9, "start": 0, "size": 4 },
        }] })
    };
    let file = nvidia.machine.state().join("plugins/cuda/mig.json");
    fs::write(&file, entry("abc", boot.trim()).to_string()).unwrap();
    nvidia.change(|d| {
        let gpu = d.gpu.get_mut("whole").unwrap();
        let gi = gpu.make_gpu_instance(9, Some(0)).unwrap().gi;
        gpu.make_compute_instance(gi, 3).unwrap();
    });
    let before = instances(&nvidia);
    let warnings = nvidia.warnings();
    assert!(
        warnings.contains("was made for abc, which holds nothing any more"),
        "{warnings}"
    );
    nvidia.divvy("fit --gpu 1").run().exits(125);
    nvidia
        .divvy("fit --slot cuda.mig-7g.80gb=1")
        .run()
        .exits(125);
    job(&nvidia, "--slot cuda.mig-3g.40gb=1", "true").succeeds();
    assert_eq!(instances(&nvidia), before);
    assert_eq!(journal(&nvidia).as_array().unwrap().len(), 1);
    // Once it is removed by hand, it is forgotten.
    nvidia.change(|d| d.gpu.get_mut("whole").unwrap().instance.clear());
    job(&nvidia, "--slot cuda.mig-7g.80gb=1", "true").succeeds();
    assert_eq!(journal(&nvidia), json!([]));
    // No instance outlives a restart of the machine.
    fs::write(&file, entry("abc", "another boot").to_string()).unwrap();
    job(&nvidia, "--gpu 1", "true").succeeds();
    assert_eq!(journal(&nvidia), json!([]));
    // A damaged file is not taken for an empty one.
    fs::write(&file, "{").unwrap();
    let said = job(&nvidia, "--slot cuda.mig-7g.80gb=1", "true").exits(125);
    said.complains("mig.json").complains("cannot be used");
    fs::remove_file(&file).unwrap();
    nvidia.divvy("ps -a").run().succeeds();
    nothing_is_left(&nvidia.machine);
}

#[test]
fn an_agent_hands_out_what_it_makes() {
    requires!(root);
    let nvidia = machine("a100x8", "mode");
    let config = fs::read_to_string(nvidia.machine.config()).unwrap();
    let agent = nvidia.machine.agent(&config);
    // By the agent, whose settings it has itself.
    let divvy = |words: &str| nvidia.machine.divvy(words);
    for name in ["a", "b"] {
        let run = format!("run -d --name {name} --cpu 0.1 --mem 64MiB --slot cuda.mig-3g.40gb=8");
        divvy(&run).args(["--", "sleep", "600"]).run().succeeds();
    }
    assert_eq!(instances(&nvidia).len(), 16);
    divvy("fit --gpu 0.1").run().exits(125);
    divvy("rm -f a b").run().succeeds();
    assert_eq!(instances(&nvidia).len(), 0);
    let free = || divvy("fit --gpu 8").run().code == 0;
    assert!(eventually(free));
    divvy("run --rm --cpu 0.1 --mem 64MiB --gpu 8 -- true")
        .run()
        .succeeds();
    agent.end().succeeds();
    all_is_back(&nvidia);
}

#[test]
fn it_keeps_the_contract() {
    requires!(root);
    for mig in ["instances", "mode"] {
        let nvidia = Nvidia::ready("a100-mig");
        let check = nvidia.machine.divvy("plugin check");
        let check = check.arg(nvidia.machine.plugin_file("cuda"));
        let root = format!("--set=root={}", nvidia.root().display());
        let check = check.arg(root).arg(format!("--set=mig={mig}")).run();
        check.succeeds().says(", 0 failed, ");
    }
}

/// What was made for somebody who let go of it before it was there, or whose record is
/// gone, is in nobody's way: whoever is given the place has the ledger's word for it.
#[test]
fn what_nobody_holds_makes_room() {
    requires!(root);
    for asks in [
        "--slot cuda.mig-7g.80gb=1",
        "--slot cuda.mig-1g.10gb=1",
        "--gpu 1",
    ] {
        let nvidia = machine("a100-mig", "mode");
        holds(&nvidia, "a", "--slot cuda.mig-7g.80gb=1");
        let id = rootfs::record(&nvidia.machine, "a")["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let file = nvidia.machine.state().join("plugins/cuda/mig.json");
        let journal = fs::read_to_string(&file).unwrap();
        assert!(journal.contains(&id), "{journal}");
        fs::write(&file, journal.replace(&id, "somebody")).unwrap();
        ends(&nvidia, "a");
        let made = |nvidia: &Nvidia| now(nvidia).gpu["whole"].instance.len();
        assert_eq!(made(&nvidia), 1, "nobody's, and there");
        job(&nvidia, asks, "true").succeeds();
        assert_eq!(made(&nvidia), 0, "{asks}");
        let journal = fs::read_to_string(&file).unwrap();
        assert!(!journal.contains("somebody"), "{journal}");
    }
}

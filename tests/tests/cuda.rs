//! The CUDA plugin on machines that are not there: what it sees of them, whatever is
//! wrong with them.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use divvy_nvidia_machine::{Answer, Description, Fault, Gpu, Instance, Link};
use divvy_tests::nvidia::{Nvidia, description, ready};
use divvy_tests::rootfs::text;
use divvy_tests::{Machine, needs, requires};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// The device of this id.
#[track_caller]
fn device<'a>(devices: &'a [Value], id: &str) -> &'a Value {
    let found = devices.iter().find(|d| d["id"] == id);
    found.unwrap_or_else(|| panic!("no {id} among {devices:#?}"))
}

fn attribute(device: &Value, name: &str) -> Value {
    let value = device["attributes"][name].as_object().unwrap();
    let (_, value) = value.iter().find(|(key, _)| *key != "unit").unwrap();
    value.clone()
}

/// Is this symbol in the driver's libraries?
fn has(description: &Description, symbol: &str) -> bool {
    !description.lacks.iter().any(|lacks| lacks == symbol)
}

/// Each field of a GPU as its description says it.
fn expected(description: &Description, name: &str, gpu: &Gpu) -> Vec<(&'static str, Value)> {
    let has = |symbol| has(description, symbol);
    // Those without a node are not counted.
    let mut counted = description.present();
    counted.retain(|name| {
        let node = format!("dev/nvidia{}", description.gpu[*name].minor);
        !description.missing.contains(&node)
    });
    let index = counted.iter().position(|n| *n == name);
    let cut = gpu.mig == Some(true);
    let mig = match gpu.mig {
        Some(true) if has("nvmlDeviceGetMigMode") => "on",
        Some(false) if has("nvmlDeviceGetMigMode") => "off",
        _ => "unsupported",
    };
    let of = |there: bool, value: Value, else_: Value| if there { value } else { else_ };
    let active = gpu
        .nvlink
        .iter()
        .filter(|l| !matches!(l, Link::Off))
        .count();
    // A fabric of one machine has no cluster: all zeros (H100 capture).
    let joined = gpu
        .fabric
        .clone()
        .filter(|(cluster, _)| !cluster.starts_with("00000000-"));
    let (cluster, clique) = joined.unwrap_or_default();
    vec![
        ("uuid", json!(gpu.uuid)),
        ("index", json!(index)),
        ("minor", json!(gpu.minor)),
        ("pci_address", json!(gpu.pci)),
        ("brand", json!(gpu.brand.clone().unwrap_or_default())),
        (
            "architecture",
            of(
                has("nvmlDeviceGetArchitecture"),
                json!(
                    gpu.architecture
                        .clone()
                        .unwrap_or_default()
                        .replace(" Lovelace", "")
                ),
                json!(""),
            ),
        ),
        (
            "compute_capability",
            of(
                has("nvmlDeviceGetCudaComputeCapability"),
                json!(gpu.compute_capability),
                json!("0"),
            ),
        ),
        ("driver_version", json!(description.driver)),
        ("cuda_version", json!(description.cuda)),
        (
            "cores",
            of(
                has("nvmlDeviceGetNumGpuCores"),
                json!(gpu.sms * gpu.cores_per_sm),
                json!(0),
            ),
        ),
        ("mig", json!(mig)),
        ("mig_profile", json!("")),
        ("nvlinks", json!(if cut { 0 } else { active })),
        ("fabric_cluster", json!(cluster)),
        ("fabric_clique", json!(clique)),
        ("pcie_generation", json!(gpu.pcie.map_or(0, |p| p[0]))),
        ("pcie_width", json!(gpu.pcie.map_or(0, |p| p[1]))),
        (
            "power_limit",
            json!(gpu.power_mw.map_or(0, |p| p[1] / 1000)),
        ),
        ("ecc", json!(gpu.ecc == Some(true))),
        ("exclusive", json!(gpu.compute_mode == "Exclusive_Process")),
    ]
}

/// What is handed out of so much memory.
fn usable(total: u64, reserved: u64) -> u64 {
    (total - reserved) / 100 * 100
}

#[test]
fn each_ready_machine_is_seen_as_it_is_described() {
    assert_eq!(ready().len(), 8);
    for name in ready() {
        let described = description(&name);
        let devices = Nvidia::of(&described).devices();
        let mut units = described.gpu.len();
        let mut keys: Vec<Vec<&String>> = vec![];
        for (gpu_name, gpu) in &described.gpu {
            let device = device(&devices, &gpu.uuid);
            let at = format!("{name}, {gpu_name}: {device:#}");
            keys.push(device["attributes"].as_object().unwrap().keys().collect());
            // Of one that NVML does not list only the kernel knows.
            let node = format!("dev/nvidia{}", gpu.minor);
            let known = !gpu.lost && !described.missing.contains(&node);
            if !known {
                let lost = text(&device["health"]["reason"]).contains("Xid");
                assert_eq!(lost, gpu.lost, "{at}");
                assert_eq!(device["health"]["state"], "unhealthy", "{at}");
                assert_eq!(attribute(device, "pci_address"), json!(gpu.pci), "{at}");
                continue;
            }
            assert_eq!(device["health"]["state"], "healthy", "{at}");
            assert_eq!(device["model"], json!(gpu.name), "{at}");
            let node = u32::try_from(gpu.numa_node).ok();
            assert_eq!(
                device.get("numa_node"),
                node.map(|n| json!(n)).as_ref(),
                "{at}"
            );
            for (key, value) in expected(&described, gpu_name, gpu) {
                assert_eq!(attribute(device, key), value, "{key} of {at}");
            }
            let numbers: Vec<(u64, u64)> = device["nodes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| (n["major"].as_u64().unwrap(), n["minor"].as_u64().unwrap()))
                .collect();
            let majors = described.majors;
            assert_eq!(
                numbers,
                [
                    (majors.nvidia.into(), gpu.minor.into()),
                    (majors.nvidia.into(), 255),
                    (majors.uvm.into(), 0),
                    (majors.uvm.into(), 1),
                ],
                "{at}"
            );
            if gpu.mig == Some(true) {
                assert_eq!(device["capacities"], json!({}), "{at}");
                units += instances_are_right(&described, gpu, &devices);
                continue;
            }
            let counted = [
                "nvmlDeviceGetNumGpuCores",
                "nvmlDeviceGetCudaComputeCapability",
            ];
            let counted = counted.iter().all(|symbol| has(&described, symbol));
            let sms = if counted { gpu.sms } else { 0 };
            assert_eq!(attribute(device, "sms"), json!(sms), "{at}");
            let reserved = match has(&described, "nvmlDeviceGetMemoryInfo_v2") {
                true => gpu.reserved_mib * MIB,
                false => 0,
            };
            let total = gpu.memory_mib.unwrap() * MIB;
            let memory = &device["capacities"]["memory"];
            assert_eq!(memory["total"], json!(total.to_string()), "{at}");
            let kept: u64 = memory
                .get("reserved")
                .map_or(0, |r| text(r).parse().unwrap());
            assert_eq!(total - kept, usable(total, reserved), "{at}");
        }
        assert_eq!(devices.len(), units, "{name}: {devices:#?}");
        keys.dedup();
        assert_eq!(
            keys.len(),
            1,
            "{name}: all devices have the same attributes"
        );
    }
}

/// Checks a GPU's MIG instances; how many there are.
fn instances_are_right(described: &Description, gpu: &Gpu, devices: &[Value]) -> usize {
    let mut by_gi: BTreeMap<u32, Vec<&Instance>> = BTreeMap::new();
    for instance in &gpu.instance {
        by_gi.entry(instance.gi).or_default().push(instance);
    }
    for (gi, instances) in &by_gi {
        let first = instances.iter().min_by_key(|i| i.ci).unwrap();
        let device = device(devices, &first.uuid);
        let profile = &gpu.profile[&first.profile];
        assert_eq!(device["parent"], json!(gpu.uuid));
        assert_eq!(device["kind"], "mig");
        assert_eq!(attribute(device, "mig_profile"), json!(first.profile));
        assert_eq!(attribute(device, "pci_address"), json!(gpu.pci));
        let memory = (profile.memory_mib * MIB).to_string();
        assert_eq!(device["capacities"]["memory"]["total"], json!(memory));
        let of_profile = &device["partitioning"]["profiles"][0];
        let slot = format!("cuda.mig-{}", first.profile);
        assert_eq!(of_profile["slot"], json!(slot));
        assert_eq!(of_profile["starts"], json!([0]));
        let uses = json!({ "instance": "1", "memory": memory });
        assert_eq!(of_profile["capacities"], uses);
        assert_eq!(of_profile["serves"]["gpu.mem"], json!(memory));
        // The GPU's four nodes, the right to the GPU instance, and one to each compute
        // instance.
        let rights = device["nodes"].as_array().unwrap().iter();
        let rights = rights
            .filter(|n| n["major"] == described.majors.caps)
            .count();
        assert_eq!(rights, 1 + instances.len(), "gi {gi}: {device:#}");
    }
    by_gi.len()
}

// === what real machines taught ===

#[test]
fn gpus_are_linked_as_they_are_wired() {
    let links = |name: &str| -> Vec<(String, u64)> {
        let devices = Nvidia::ready(name).devices();
        let links = devices[0]["links"].as_array().cloned().unwrap_or_default();
        let of = |link: &Value| {
            (
                text(&link["kind"]).to_owned(),
                link["weight"].as_u64().unwrap(),
            )
        };
        links.iter().map(of).collect()
    };
    // 18 NVLinks of 25 GB/s, through switches; twelve of the generation before.
    assert_eq!(links("h100x8"), vec![("nvlink".to_owned(), 450_000); 7]);
    assert_eq!(links("a100x8"), vec![("nvlink".to_owned(), 300_000); 7]);
    assert_eq!(links("gb200x4"), vec![("nvlink".to_owned(), 900_000); 3]);
    assert_eq!(links("t4"), vec![]);
    let two = links("rtx4090x2");
    assert!(
        two.iter().all(|(kind, _)| kind.starts_with("pcie-")),
        "{two:?}"
    );
    // Old drivers do not say what is at the far end of a link.
    let old = links("old-driver");
    assert!(old.iter().all(|(kind, _)| kind == "nvlink"), "{old:?}");
}

/// Each rule that captures of real machines and reports of their owners teach.
#[test]
fn rules_learnt_from_real_machines() {
    type Rule = (&'static str, fn(&mut Description), fn(&[Value]));
    let rules: &[Rule] = &[
        (
            "the only GPU may have minor 1 (A100 capture): minor is not index",
            |d| d.gpu.values_mut().for_each(|g| g.minor = 1),
            |devices| {
                assert_eq!(attribute(&devices[0], "index"), json!(0));
                assert_eq!(attribute(&devices[0], "minor"), json!(1));
                assert_eq!(devices[0]["nodes"][0]["minor"], 1);
            },
        ),
        (
            "all serial numbers may be 0 (A10G capture): they identify nothing",
            |d| {
                d.gpu
                    .values_mut()
                    .for_each(|g| g.serial = Some("0000000000000".into()))
            },
            |devices| assert!(text(&devices[0]["id"]).starts_with("GPU-")),
        ),
        (
            "names may be old ones or none (Tesla T4, Graphics Device): nothing goes by them",
            |d| {
                d.gpu
                    .values_mut()
                    .for_each(|g| g.name = "Graphics Device".into())
            },
            |devices| {
                assert_eq!(devices[0]["model"], "Graphics Device");
                assert_eq!(devices[0]["health"]["state"], "healthy");
            },
        ),
        (
            "pass-through is usual in clouds and no vGPU (T4, H100, GB200 captures)",
            |d| {
                d.gpu
                    .values_mut()
                    .for_each(|g| g.virtualization = "Pass-Through".into())
            },
            |devices| {
                assert_eq!(
                    attribute(&devices[0], "virtualization"),
                    json!("pass-through")
                );
                assert_eq!(devices[0]["health"]["state"], "healthy");
            },
        ),
        (
            "a host of virtual GPUs is not cut again",
            |d| {
                d.gpu
                    .values_mut()
                    .for_each(|g| g.virtualization = "Host VGPU".into())
            },
            |devices| assert_eq!(devices[0]["health"]["state"], "unhealthy"),
        ),
        (
            "a PCI domain need not be 0 (GB10: 000f)",
            |d| {
                d.gpu
                    .values_mut()
                    .for_each(|g| g.pci = "000f:01:00.0".into())
            },
            |devices| assert_eq!(attribute(&devices[0], "pci_address"), json!("000f:01:00.0")),
        ),
        (
            "unified memory: the driver says no size, and it is the host's (GB10, Tegra)",
            |d| {
                d.gpu.values_mut().for_each(|g| {
                    g.memory_mib = None;
                    g.integrated = true;
                    g.name = "NVIDIA GB10".into();
                });
            },
            |devices| {
                let total = text(&devices[0]["capacities"]["memory"]["total"]);
                let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
                let kib: u64 = meminfo.split_whitespace().nth(1).unwrap().parse().unwrap();
                assert_eq!(total, (kib * 1024).to_string());
            },
        ),
        (
            "a size that is not known is not guessed for a card",
            |d| d.gpu.values_mut().for_each(|g| g.memory_mib = None),
            |devices| assert_eq!(devices[0]["capacities"]["memory"]["total"], "0"),
        ),
        (
            "there may be no ECC, power limit, clocks or fan (GTX 1070 Ti capture of 2018)",
            |d| {
                d.gpu.values_mut().for_each(|g| {
                    (g.ecc, g.power_mw, g.clocks, g.fan, g.brand) = (None, None, None, None, None);
                    (g.architecture, g.serial, g.vbios, g.mig) = (None, None, None, None);
                });
            },
            |devices| {
                assert_eq!(attribute(&devices[0], "ecc"), json!(false));
                assert_eq!(attribute(&devices[0], "power_limit"), json!(0));
                assert_eq!(attribute(&devices[0], "mig"), json!("unsupported"));
                assert_eq!(devices[0]["health"]["state"], "healthy");
            },
        ),
        (
            "MIG that is to be switched on is said (A100 capture: pending is not current)",
            |d| {
                d.gpu.values_mut().for_each(|g| {
                    (g.mig, g.mig_pending) = (Some(false), Some(true));
                });
            },
            |devices| {
                assert_eq!(devices[0]["health"]["state"], "degraded");
                assert!(text(&devices[0]["health"]["reason"]).contains("next reset"));
            },
        ),
        (
            "MIG may be on without any instance",
            |d| d.gpu.values_mut().for_each(|g| g.mig = Some(true)),
            |devices| {
                assert_eq!(devices.len(), 1);
                assert!(text(&devices[0]["health"]["reason"]).contains("no instances"));
            },
        ),
        (
            "a NUMA node of -1 is none",
            |d| d.gpu.values_mut().for_each(|g| g.numa_node = -1),
            |devices| assert_eq!(devices[0].get("numa_node"), None),
        ),
        (
            "a compute mode may prohibit all use",
            |d| {
                d.gpu
                    .values_mut()
                    .for_each(|g| g.compute_mode = "Prohibited".into())
            },
            |devices| {
                let why = text(&devices[0]["health"]["reason"]);
                assert!(why.contains("nvidia-smi -c DEFAULT"), "{why}");
            },
        ),
        (
            "a process of somebody else's does no harm, with a size or without (R525)",
            |d| {
                d.gpu.values_mut().for_each(|g| {
                    g.process = vec![
                        divvy_nvidia_machine::Process {
                            pid: 1,
                            memory_mib: None,
                            graphics: false,
                            utilization: None,
                        },
                        divvy_nvidia_machine::Process {
                            pid: 2,
                            memory_mib: Some(90),
                            graphics: true,
                            utilization: None,
                        },
                    ];
                });
            },
            |devices| assert_eq!(devices[0]["health"]["state"], "healthy"),
        ),
    ];
    for (rule, change, holds) in rules {
        let mut described = description("t4");
        change(&mut described);
        let devices = Nvidia::of(&described).devices();
        assert!(!devices.is_empty(), "{rule}");
        eprintln!("{rule}"); // shown if the rule does not hold
        holds(&devices);
    }
}

/// What captures of real machines say, beside what we make of machines of their kind.
#[test]
fn captures_of_real_machines_are_kept_to() {
    let folder = std::env::var_os("DIVVY_FIXTURES").map_or_else(
        || divvy_tests::npu::repository().join("../shared/fixtures"),
        Into::into,
    );
    let file = folder.join("nvidia/expected.json");
    let Ok(text) = fs::read_to_string(&file) else {
        eprintln!(
            "SKIPPED: {} is not here: captures are no part of the project",
            file.display()
        );
        return;
    };
    let captures: Value = serde_json::from_str(&text).unwrap();
    let mut seen = 0;
    for (name, facts) in captures.as_object().unwrap() {
        let Some(gpus) = facts["gpus"].as_array() else {
            continue;
        };
        let mut described = description("t4");
        let model = described.gpu.pop_first().unwrap().1;
        described.driver = facts["driver"].as_str().unwrap_or("390.48").into();
        described.cuda = facts["cuda"].as_str().unwrap_or("9.1").into();
        for (number, gpu) in gpus.iter().enumerate() {
            let mut is = model.clone();
            is.uuid = divvy_tests::rootfs::text(&gpu["uuid"]).into();
            let bus = divvy_tests::rootfs::text(&gpu["bus_id"]).to_lowercase();
            is.pci = bus.get(4..).unwrap().into();
            is.name = divvy_tests::rootfs::text(&gpu["name"]).into();
            is.minor = gpu["minor"]
                .as_str()
                .and_then(|m| m.parse().ok())
                .unwrap_or(0);
            is.memory_mib = gpu["mem_total_mib"].as_u64();
            is.reserved_mib = gpu["mem_reserved_mib"].as_u64().unwrap_or(0);
            described.gpu.insert(format!("g{number}"), is);
        }
        let devices = Nvidia::of(&described).devices();
        assert_eq!(devices.len(), gpus.len(), "{name}");
        for gpu in gpus {
            let masked = gpu["uuid"] == "GPU-00000000-0000-0000-0000-000000000000";
            let bus = divvy_tests::rootfs::text(&gpu["bus_id"]).to_lowercase();
            let id = if masked {
                &bus[4..]
            } else {
                gpu["uuid"].as_str().unwrap()
            };
            let device = device(&devices, id);
            let total = gpu["mem_total_mib"].as_u64().unwrap() * MIB;
            let reserved = gpu["mem_reserved_mib"].as_u64().unwrap_or(0) * MIB;
            let memory = &device["capacities"]["memory"];
            assert_eq!(memory["total"], json!(total.to_string()), "{name}");
            let kept: u64 = divvy_tests::rootfs::text(&memory["reserved"])
                .parse()
                .unwrap_or(0);
            assert_eq!(total - kept, usable(total, reserved), "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen} GPUs");
}

// === machines with something wrong ===

/// A T4, described otherwise.
fn t4(change: impl FnOnce(&mut Description, &mut Gpu)) -> Description {
    let mut described = description("t4");
    let (name, mut gpu) = described.gpu.pop_first().unwrap();
    change(&mut described, &mut gpu);
    described.gpu.insert(name, gpu);
    described
}

/// So many GPUs, all alike but for what makes them different ones.
fn many(count: u32) -> Description {
    let mut described = description("t4");
    let (_, gpu) = described.gpu.pop_first().unwrap();
    for number in 0..count {
        let gpu = Gpu {
            uuid: format!("GPU-{number:08x}-1111-2222-3333-444444444444"),
            pci: format!("0000:{:02x}:00.0", 16 + number),
            minor: number,
            ..gpu.clone()
        };
        described.gpu.insert(format!("g{number:02}"), gpu);
    }
    described
}

fn fault(call: &str, answer: Answer) -> Fault {
    Fault {
        call: call.into(),
        nth: None,
        gpu: None,
        after: false,
        answer,
    }
}

/// The plugin says why there is nothing, and everything else works.
#[track_caller]
fn says(nvidia: &Nvidia, code: &str, words: &[&str]) {
    let answer = nvidia.divvy("--json devices").run().succeeds().json();
    let failed = &answer["failed_plugins"][0];
    assert_eq!(failed["plugin"], "cuda", "{answer:#}");
    for word in words {
        assert!(
            text(&failed["message"]).contains(word),
            "{word}: {failed:#}"
        );
    }
    assert_eq!(failed["absent"], code == "absent", "{failed:#}");
    let cpus = answer["devices"].as_array().unwrap();
    assert!(cpus.iter().any(|d| d["plugin"] == "cpu"), "{answer:#}");
    nvidia
        .divvy("run --dry-run --cpu 0.1 --mem 16MiB -- true")
        .run()
        .succeeds();
    // Whoever asks for a GPU is told the same.
    let asked = nvidia
        .divvy("run --dry-run --gpu 1 -- true")
        .run()
        .exits(125);
    asked.complains(words[0]);
}

#[test]
fn no_library() {
    let nvidia = Nvidia::ready("t4");
    fs::remove_dir_all(nvidia.root().join("usr")).unwrap();
    says(&nvidia, "absent", &["no NVIDIA driver", "cuda.nvml"]);
}

#[test]
fn a_library_that_is_none() {
    let nvidia = Nvidia::ready("t4");
    let real = fs::read(nvidia.libraries().join("libnvidia-ml.so.1")).unwrap();
    let cuda = fs::read(nvidia.libraries().join("libcuda.so.1")).unwrap();
    let at = nvidia.libraries().join("libnvidia-ml.so.1");
    let cases: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("no ELF", b"#!/bin/sh\necho no library\n"),
        ("a header", &real[..64]),
        ("another library", &cuda),
    ];
    for (what, bytes) in cases {
        fs::remove_file(&at).unwrap();
        fs::write(&at, bytes).unwrap();
        eprintln!("{what}");
        says(&nvidia, "driver", &["cannot be loaded", "reinstall"]);
    }
    fs::remove_file(&at).unwrap();
    symlink("libnvidia-ml.so.1", &at).unwrap();
    says(&nvidia, "absent", &["no NVIDIA driver"]);
    // Its code is cut off: whatever the loader makes of it, its host is all that suffers.
    fs::remove_file(&at).unwrap();
    fs::write(&at, &real[..real.len() / 20]).unwrap();
    let answer = nvidia.divvy("--json devices").run().succeeds().json();
    assert_eq!(answer["failed_plugins"][0]["plugin"], "cuda", "{answer:#}");
}

#[test]
fn a_driver_that_is_not_loaded_or_another() {
    let nvidia = Nvidia::of(&t4(|d, _| d.loaded = false));
    says(&nvidia, "absent", &["modprobe nvidia"]);
    nvidia.change(|d| d.loaded = true);
    assert_eq!(nvidia.devices().len(), 1, "it is asked for again");

    let nvidia = Nvidia::of(&t4(|d, _| d.kernel_driver = Some("550.54.14".into())));
    let driver = description("t4").driver;
    says(
        &nvidia,
        "driver",
        &[&driver, "550.54.14", "restart the machine"],
    );
}

#[test]
fn no_gpu_and_sixteen() {
    let mut none = description("t4");
    none.gpu.clear();
    let nvidia = Nvidia::of(&none);
    assert_eq!(nvidia.devices(), Vec::<Value>::new());
    nvidia
        .divvy("run --dry-run --gpu 1 -- true")
        .run()
        .exits(125)
        .complains("0 free of 0");

    let nvidia = Nvidia::of(&many(16));
    assert_eq!(nvidia.devices().len(), 16);
    nvidia
        .divvy("run --dry-run --gpu 16 -- true")
        .run()
        .succeeds();
}

#[test]
fn a_gpu_that_goes_between_counting_and_asking() {
    let mut described = many(3);
    described.fault = vec![Fault {
        nth: Some(3),
        ..fault("nvmlDeviceGetHandleByIndex_v2", Answer::Code(2)) // invalid argument
    }];
    let nvidia = Nvidia::of(&described);
    let devices = nvidia.devices();
    let healthy = devices.iter().filter(|d| d["health"]["state"] == "healthy");
    assert_eq!((devices.len(), healthy.count()), (3, 2), "{devices:#?}");
}

#[test]
fn one_lost_gpu_hides_no_other() {
    for call in [
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
    ] {
        let mut described = many(4);
        described.fault = vec![Fault {
            gpu: Some("g01".into()),
            ..fault(call, Answer::Code(15)) // GPU is lost
        }];
        let nvidia = Nvidia::of(&described);
        let devices = nvidia.devices();
        assert_eq!(devices.len(), 4, "{call}: {devices:#?}");
        for (name, gpu) in &described.gpu {
            let device = device(&devices, &gpu.uuid);
            let state = if name == "g01" {
                "unhealthy"
            } else {
                "healthy"
            };
            assert_eq!(device["health"]["state"], state, "{call}: {device:#}");
        }
        nvidia
            .divvy("run --dry-run --gpu 3 -- true")
            .run()
            .succeeds();
        nvidia
            .divvy("run --dry-run --gpu 4 -- true")
            .run()
            .exits(125);
    }
    // It comes back, and is the same.
    let mut described = many(2);
    described.gpu.get_mut("g00").unwrap().lost = true;
    let nvidia = Nvidia::of(&described);
    let id = described.gpu["g00"].uuid.clone();
    assert_eq!(
        device(&nvidia.devices(), &id)["health"]["state"],
        "unhealthy"
    );
    nvidia.change(|d| d.gpu.get_mut("g00").unwrap().lost = false);
    assert_eq!(device(&nvidia.devices(), &id)["health"]["state"], "healthy");
}

#[test]
fn uuids_that_identify_nothing() {
    for uuid in [
        "GPU-00000000-0000-0000-0000-000000000000",
        "GPU-aaaaaaaa-1111-2222-3333-444444444444",
    ] {
        let mut described = many(3);
        for gpu in described.gpu.values_mut().take(2) {
            gpu.uuid = uuid.into();
        }
        let nvidia = Nvidia::of(&described);
        let devices = nvidia.devices();
        for (name, gpu) in &described.gpu {
            let id = if name == "g02" { &gpu.uuid } else { &gpu.pci };
            assert_eq!(device(&devices, id)["health"]["state"], "healthy");
        }
        nvidia.divvy("doctor").run().says("goes by its PCI address");
    }
}

#[test]
fn index_minor_and_cudas_order_may_all_differ() {
    let mut described = many(3);
    for (number, gpu) in described.gpu.values_mut().enumerate() {
        gpu.minor = u32::try_from(7 - number).unwrap();
        gpu.sms = 10 + u32::try_from(number).unwrap();
    }
    described.order = ["g02", "g00", "g01"].map(Into::into).into();
    described.cuda_order = ["g01", "g02", "g00"].map(Into::into).into();
    let nvidia = Nvidia::of(&described);
    let devices = nvidia.devices();
    for (name, index, minor, sms) in [("g00", 1, 7, 10), ("g01", 2, 6, 11), ("g02", 0, 5, 12)] {
        let device = device(&devices, &described.gpu[name].uuid);
        let facts = ["index", "minor", "sms"].map(|key| attribute(device, key));
        assert_eq!(facts, [json!(index), json!(minor), json!(sms)], "{name}");
        assert_eq!(device["nodes"][0]["minor"], minor, "{name}");
    }
    // Another order is the same machine.
    let before: Vec<Value> = devices.iter().map(|d| d["id"].clone()).collect();
    nvidia.change(|d| d.order.reverse());
    let after: Vec<Value> = nvidia.devices().iter().map(|d| d["id"].clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn nodes_that_are_missing_or_others() {
    requires!(root);
    let nvidia = Nvidia::of(&many(2));
    let dev = nvidia.root().join("dev");
    // Missing: containers get theirs by number. Of another number: said.
    fs::remove_file(dev.join("nvidia-uvm")).unwrap();
    fs::rename(dev.join("nvidia0"), dev.join("nvidia9")).unwrap();
    fs::rename(dev.join("nvidia1"), dev.join("nvidia0")).unwrap();
    fs::write(dev.join("nvidia1"), "").unwrap();
    let devices = nvidia.devices();
    let minors: Vec<&Value> = devices.iter().map(|d| &d["nodes"][0]["minor"]).collect();
    assert_eq!(minors, [0, 1], "{devices:#?}");
    let doctor = nvidia.divvy("doctor").run();
    doctor.says("/dev/nvidia0 is 1195:1 where the driver has 1195:0");
}

#[test]
fn a_control_node_without_a_driver() {
    requires!(root);
    // What NVML, asked as root, makes even so.
    let nvidia = Nvidia::of(&t4(|d, _| d.loaded = false));
    let dev = nvidia.root().join("dev");
    fs::create_dir_all(&dev).unwrap();
    let number = rustix::fs::makedev(1195, 255);
    let (kind, mode) = (
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from(0o666),
    );
    rustix::fs::mknodat(rustix::fs::CWD, dev.join("nvidiactl"), kind, mode, number).unwrap();
    says(&nvidia, "absent", &["modprobe nvidia"]);
}

#[test]
fn unified_memorys_module_is_not_loaded() {
    let nvidia = Nvidia::ready("t4");
    let file = nvidia.root().join("proc/devices");
    let devices = fs::read_to_string(&file).unwrap();
    let without: Vec<&str> = devices
        .lines()
        .filter(|l| !l.contains("nvidia-uvm"))
        .collect();
    fs::write(&file, without.join("\n")).unwrap();
    let _ = fs::remove_file(nvidia.root().join("dev/nvidia-uvm"));
    let devices = nvidia.devices();
    let why = text(&devices[0]["health"]["reason"]);
    assert!(why.contains("nvidia-modprobe -u"), "{why}");
    nvidia
        .divvy("run --dry-run --gpu 1 -- true")
        .run()
        .exits(125)
        .complains("nvidia-uvm is not loaded");
}

#[test]
fn nvml_that_hangs_costs_its_host_only() {
    for call in ["nvmlInit_v2", "nvmlDeviceGetName"] {
        let mut described = description("t4");
        described.fault = vec![fault(call, Answer::Hang)];
        let nvidia = Nvidia::of(&described);
        let devices = nvidia.divvy("--json devices --set cuda.deadline_ms=1000");
        let answer = devices.run().succeeds().json();
        let failed = &answer["failed_plugins"][0];
        assert!(text(&failed["message"]).contains("1000 ms"), "{failed:#}");
        let cpus = answer["devices"].as_array().unwrap();
        assert!(cpus.iter().any(|d| d["plugin"] == "cpu"), "{answer:#}");
    }
}

#[test]
fn nvml_that_crashes_or_answers_nonsense() {
    let mut described = description("t4");
    described.fault = vec![fault("nvmlDeviceGetName", Answer::Crash)];
    let nvidia = Nvidia::of(&described);
    let answer = nvidia.divvy("--json devices").run().succeeds().json();
    assert_eq!(answer["failed_plugins"][0]["plugin"], "cuda", "{answer:#}");

    // Each getter fails by itself; what is left is listed.
    let getters = [
        "nvmlDeviceGetName",
        "nvmlDeviceGetBrand",
        "nvmlDeviceGetArchitecture",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetNumGpuCores",
        "nvmlDeviceGetMaxPcieLinkGeneration",
        "nvmlDeviceGetMaxPcieLinkWidth",
        "nvmlDeviceGetPowerManagementLimit",
        "nvmlDeviceGetEccMode",
        "nvmlDeviceGetVirtualizationMode",
        "nvmlDeviceGetGpuFabricInfo",
        "nvmlDeviceGetNvLinkState",
        "nvmlDeviceGetMinorNumber",
        "nvmlSystemGetCudaDriverVersion_v2",
    ];
    // Unknown error; a code that no header has; not supported.
    for code in [999, 4242, 3] {
        let mut described = description("t4");
        described.fault = getters.map(|call| fault(call, Answer::Code(code))).into();
        let devices = Nvidia::of(&described).devices();
        assert_eq!(devices.len(), 1, "{code}");
        assert_eq!(
            devices[0]["health"]["state"], "healthy",
            "{code}: {devices:#?}"
        );
        let uuid = &description("t4")
            .gpu
            .first_key_value()
            .unwrap()
            .1
            .uuid
            .clone();
        assert_eq!(devices[0]["id"], json!(uuid));
    }
}

#[test]
fn what_must_be_known_and_is_not_closes_a_gpu() {
    // Unknown error; reset required.
    for code in [999, 16] {
        for call in [
            "nvmlDeviceGetUUID",
            "nvmlDeviceGetMigMode",
            "nvmlDeviceGetComputeMode",
        ] {
            let mut described = many(2);
            described.fault = vec![Fault {
                gpu: Some("g00".into()),
                ..fault(call, Answer::Code(code))
            }];
            let devices = Nvidia::of(&described).devices();
            let ill = device(&devices, &described.gpu["g00"].uuid);
            assert_eq!(ill["health"]["state"], "unhealthy", "{call}: {ill:#}");
            let fine = device(&devices, &described.gpu["g01"].uuid);
            assert_eq!(fine["health"]["state"], "healthy", "{call}: {fine:#}");
        }
    }
}

#[test]
fn a_module_that_is_gone_leaves_a_file_that_is_anothers() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    let file = nvidia.root().join("proc/devices");
    let devices = fs::read_to_string(&file).unwrap();
    let without: Vec<&str> = devices
        .lines()
        .filter(|l| !l.contains("nvidia-uvm"))
        .collect();
    fs::write(&file, without.join("\n")).unwrap();
    assert!(nvidia.root().join("dev/nvidia-uvm").exists());
    let device = &nvidia.devices()[0];
    assert_eq!(device["health"]["state"], "unhealthy", "{device:#}");
    let nodes = device["nodes"].as_array().unwrap().iter();
    assert!(
        nodes.clone().all(|node| node["major"] == 1195),
        "{device:#}"
    );
}

#[test]
fn libraries_of_another_driver_than_the_kernels_are_said() {
    let nvidia = Nvidia::ready("t4");
    let version = description("t4").driver;
    // An upgrade that nobody restarted after: NVML's own check would come too late for
    // whoever has it loaded.
    let file = nvidia.root().join("proc/driver/nvidia/version");
    let said = fs::read_to_string(&file).unwrap();
    fs::write(&file, said.replace(&version, "470.82.01")).unwrap();
    says(
        &nvidia,
        "driver",
        &[&version, "470.82.01", "restart the machine"],
    );
}

#[test]
fn libraries_that_others_can_change_are_not_loaded() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    let file = nvidia
        .libraries()
        .join("libnvidia-ml.so.1")
        .canonicalize()
        .unwrap();
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o666);
    says(&nvidia, "driver", &["not root's alone", "chmod go-w"]);
    mode(0o644);
    std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
    says(&nvidia, "driver", &["not root's alone", "chown root"]);
}

#[test]
fn a_lost_gpu_is_no_switch() {
    let mut described = description("h100x8");
    let names: Vec<String> = described.gpu.keys().cloned().collect();
    for (number, name) in names.iter().enumerate() {
        let other = names[number ^ 1].clone();
        let gpu = described.gpu.get_mut(name).unwrap();
        gpu.nvlink = vec![Link::Gpu(other); 12];
        gpu.lost = number == 1 || number == 3;
    }
    let devices = Nvidia::of(&described).devices();
    let linked = |name: &String| -> Vec<String> {
        let device = device(&devices, &described.gpu[name].uuid);
        let links = device["links"].as_array().cloned().unwrap_or_default();
        let links = links.iter().filter(|link| link["kind"] == "nvlink");
        links.map(|link| text(&link["to"]).to_owned()).collect()
    };
    assert_eq!(linked(&names[0]), Vec::<String>::new());
    assert_eq!(linked(&names[4]), [described.gpu[&names[5]].uuid.clone()]);
}

#[test]
fn an_exclusive_gpu_is_handed_out_whole_alone() {
    let nvidia = Nvidia::of(&t4(|_, gpu| gpu.compute_mode = "Exclusive_Process".into()));
    nvidia
        .divvy("run --dry-run --gpu 1 -- true")
        .run()
        .succeeds();
    nvidia
        .divvy("run --dry-run --gpu 0.5 -- true")
        .run()
        .exits(125);
    nvidia
        .divvy("run --dry-run --gpu-mem 1GiB -- true")
        .run()
        .exits(125);
}

#[test]
fn two_gpus_of_one_number_are_not_handed_out() {
    let mut described = many(3);
    described.gpu.get_mut("g01").unwrap().minor = 0;
    let nvidia = Nvidia::of(&described);
    let states: Vec<Value> = nvidia
        .devices()
        .iter()
        .map(|d| d["health"]["state"].clone())
        .collect();
    assert_eq!(states, ["unhealthy", "unhealthy", "healthy"]);
}

#[test]
fn a_selector_that_fits_nothing_is_named() {
    let nvidia = Nvidia::ready("h100x8");
    let fit = nvidia.divvy("run --dry-run --gpu 1 --where");
    let fit = fit.arg("device.attributes.compute_capabilty >= version('9.0')");
    let none = fit.args(["--", "true"]).run().exits(125);
    none.complains("none of the 8 devices that have it is left by --where");
}

#[test]
fn mig_is_cut_anew_by_somebody_else() {
    let nvidia = Nvidia::ready("a100-mig");
    let of = |devices: &[Value], profile: &str| {
        let has = |d: &&Value| attribute(d, "mig_profile") == json!(profile);
        devices.iter().filter(has).count()
    };
    let before = nvidia.devices();
    assert_eq!((of(&before, "3g.40gb"), of(&before, "1g.10gb")), (1, 2));
    nvidia.change(|d| {
        let gpu = d.gpu.get_mut("divided").unwrap();
        gpu.instance
            .retain(|instance| instance.profile == "2g.20gb");
    });
    let after = nvidia.devices();
    assert_eq!((of(&after, "3g.40gb"), of(&after, "2g.20gb")), (0, 1));
    nvidia
        .divvy("run --dry-run --slot cuda.mig-3g.40gb=1 -- true")
        .run()
        .exits(125);
    nvidia
        .divvy("run --dry-run --slot cuda.mig=1 -- true")
        .run()
        .succeeds();
}

#[test]
fn a_bad_setting_is_named() {
    let machine = Machine::with(&["cpu", "cuda"]);
    for (setting, words) in [
        ("cuda.nvidia_smi=maybe", "no or yes"),
        ("cuda.root=/no/such/folder", "no such folder"),
        ("cuda.gpus=all", "gpus"),
        ("cuda.nvml=/etc/passwd", "cannot be loaded"),
    ] {
        let divvy = machine.divvy("plugin list").args(["--set", setting]);
        let output = divvy.run();
        assert!(
            output.stdout.contains(words) || output.stderr.contains(words),
            "{setting}: {output}"
        );
    }
    // Nothing is run, or shown, as if it had not been written.
    for (setting, words) in [
        ("cuda.mig=on", "keep, instances or mode"),
        ("cuda.xid=79", "63=reset,48=ignore"),
        ("cuda.look_s=0", "from 1 to 3600"),
        ("cuda.gpus=all", "its settings are"),
    ] {
        for verb in ["devices", "run --cpu 0.1 -- true"] {
            let set = format!("--set={setting}");
            let (first, rest) = verb.split_once(' ').unwrap_or((verb, ""));
            let output = machine.divvy(&format!("{first} {set} {rest}")).run();
            if output.stderr.contains("root") {
                continue; // root's alone
            }
            output
                .exits(125)
                .complains(words)
                .complains("[invalid_setting]");
        }
    }
}

// === the plugin as a whole ===

#[test]
fn it_keeps_the_contract() {
    for name in ["h100x8", "a100-mig"] {
        let nvidia = Nvidia::ready(name);
        let file = nvidia.machine.plugin_file("cuda");
        let root = format!("--set=root={}", nvidia.root().display());
        let check = nvidia.machine.divvy("plugin check").arg(file).arg(root);
        check.run().succeeds().says(", 0 failed, ");
    }
}

/// The loader's cache leads to libraries in folders that nobody would guess.
#[test]
fn libraries_are_found_as_the_loader_finds_them() {
    requires!(root, ldconfig);
    let nvidia = Nvidia::ready("t4");
    let root = nvidia.root();
    for folder in ["opt/vendor/driver", "usr/lib64", "usr/lib/wsl/lib"] {
        let at = root.join(folder);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::rename(nvidia.libraries(), &at).unwrap();
        if folder.starts_with("opt") {
            says(&nvidia, "absent", &["no NVIDIA driver"]);
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::write(root.join("etc/ld.so.conf"), format!("/{folder}\n")).unwrap();
            let ldconfig = ["/sbin/ldconfig", "/usr/sbin/ldconfig"];
            let ldconfig = ldconfig.iter().find(|p| fs::exists(p).unwrap()).unwrap();
            let status = Command::new(ldconfig)
                .arg("-r")
                .arg(&root)
                .status()
                .unwrap();
            assert!(status.success());
        }
        assert_eq!(nvidia.devices().len(), 1, "{folder}");
        fs::rename(&at, nvidia.root().join("usr/lib/x86_64-linux-gnu")).unwrap();
        // A cache that leads nowhere, and one that is none.
        fs::write(
            root.join("etc/ld.so.cache"),
            b"glibc-ld.so.cache1.1\xff\xff\xff\xff",
        )
        .unwrap();
        assert_eq!(nvidia.devices().len(), 1, "{folder}");
    }
    // Debian has the files in a folder of their own, and links to them.
    let libraries = nvidia.libraries();
    let own = libraries.join("nvidia/current");
    let names: Vec<_> = fs::read_dir(&libraries)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    fs::create_dir_all(&own).unwrap();
    for name in names {
        fs::rename(libraries.join(&name), own.join(&name)).unwrap();
    }
    for name in ["libnvidia-ml.so.1", "libcuda.so.1"] {
        symlink(format!("nvidia/current/{name}"), libraries.join(name)).unwrap();
    }
    assert_eq!(nvidia.devices().len(), 1);
}

/// Debian's own libraries of the driver, without the driver.
#[test]
fn with_real_libraries_and_no_driver_the_reason_is_plain() {
    requires!(root);
    // Not everywhere within reach, and no reason to fail.
    let folder = match needs::driver_libraries() {
        Ok(folder) => folder,
        Err(remedy) => {
            eprintln!("SKIPPED: it needs {remedy}");
            return;
        }
    };
    let had = fs::exists("/dev/nvidiactl").unwrap();
    let machine = Machine::with(&["cpu", "cuda"]);
    let divvy = machine.divvy("--json devices");
    let set = ["nvml", "cuda"].map(|library| {
        let name = if library == "nvml" {
            "libnvidia-ml.so.1"
        } else {
            "libcuda.so.1"
        };
        format!("--set=cuda.{library}={}", folder.join(name).display())
    });
    let answer = divvy.args(&set).run().succeeds().json();
    let failed = &answer["failed_plugins"][0];
    assert_eq!(
        (&failed["plugin"], &failed["absent"]),
        (&json!("cuda"), &json!(true))
    );
    assert!(
        text(&failed["message"]).contains("modprobe nvidia"),
        "{failed:#}"
    );
    // Real NVML, asked as root, makes this node even so; there is no driver behind it.
    if !had {
        let _ = fs::remove_file("/dev/nvidiactl");
    }
    let run = machine.divvy("run --rm --cpu 0.1 --mem 64MiB");
    run.args(&set).args(["--", "true"]).run().succeeds();
    if !had {
        let _ = fs::remove_file("/dev/nvidiactl");
    }
}

// === machines by name ===

#[test]
fn a_machine_is_taken_by_its_folder_and_has_a_state_of_its_own() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    let folder = nvidia.root().parent().unwrap().to_owned();
    let divvy = |words: &str| {
        nvidia
            .machine
            .divvy(&format!("--machine {} {words}", folder.display()))
    };
    let devices = divvy("devices").run().succeeds();
    devices
        .says("NVIDIA H100 80GB HBM3")
        .complains("simulated machine nvidia: 8 × NVIDIA H100");
    // Whoever reads JSON is not disturbed.
    let json = divvy("--json devices").run().succeeds();
    assert_eq!(json.stderr, "");
    let job = "run --name job --gpu 2 --cpu 0.1 --mem 64MiB -- ls /dev";
    divvy(job).run().succeeds().says("nvidia1");
    // It is in no ledger of the real machine's, though the state folder was named.
    divvy("ps -a").run().succeeds().says("job");
    assert_eq!(nvidia.machine.divvy("ps -a -q").run().succeeds().stdout, "");
    divvy("rm job").run().succeeds();
    let check = divvy("plugin check").arg(nvidia.machine.plugin_file("cuda"));
    check.run().succeeds().says(", 0 failed, ");

    // By name, beside the plugin folder.
    let machines = nvidia.machine.path().join("machines");
    fs::create_dir(&machines).unwrap();
    fs::rename(&folder, machines.join("mine")).unwrap();
    let named = nvidia.machine.divvy("--machine mine devices").run();
    named.succeeds().says("NVIDIA H100 80GB HBM3");
    let unknown = nvidia
        .machine
        .divvy("--machine h100x9 devices")
        .run()
        .exits(125);
    unknown.complains("there are mine [no_machine]");
    // Whoever can change it could have root load a library of theirs.
    let mode = |mode| {
        fs::set_permissions(machines.join("mine"), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o777);
    let open = nvidia
        .machine
        .divvy("--machine mine devices")
        .run()
        .exits(125);
    open.complains("may write to it");
    mode(0o755);
    fs::write(machines.join("mine/machine.toml"), "sumary = 1").unwrap();
    let wrong = nvidia
        .machine
        .divvy("--machine mine devices")
        .run()
        .exits(125);
    wrong.complains("machine.toml is wrong").complains("sumary");
}

#[test]
fn an_agent_of_another_machine_is_not_asked() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    let folder = nvidia.root().parent().unwrap().display().to_string();
    let agent = nvidia.machine.default_agent();
    let divvy = |words: &str| nvidia.machine.divvy(&format!("--machine {folder} {words}"));
    divvy("devices").run().succeeds().says("NVIDIA H100");
    let real = nvidia.machine.divvy("devices").run().succeeds();
    assert!(!real.stdout.contains("NVIDIA H100"), "{real}");
    agent.end().succeeds();
}

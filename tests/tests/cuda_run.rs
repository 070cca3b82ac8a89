//! Containers with GPUs that are not there: what programs in them see, and what they
//! cannot get at.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use divvy_tests::clients::{self, look};
use divvy_tests::dockerd::Dockerd;
use divvy_tests::nvidia::{Nvidia, description};
use divvy_tests::rootfs::{self, ENGINE, nothing_is_left, record, runtimes, text};
use divvy_tests::{Divvy, Output, requires};
use serde_json::{Value, json};

/// What a container needs that only waits, or looks at GPUs.
const SMALL: [&str; 2] = ["--cpu=0.16", "--mem=192MiB"];

/// `divvy run` of the clients' root: options and the command come behind it.
fn clients_on(nvidia: &Nvidia, runtime: &str, options: &str) -> Divvy {
    let run = nvidia.divvy("run").args(SMALL).args(words(options));
    match runtime {
        ENGINE => run.args(["--launcher", ENGINE, "clients:1"]),
        runtime => {
            let run = run.args(["--runtime", runtime, "--rootfs"]);
            run.arg(clients::rootfs()).arg("--")
        }
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A container that waits, with so much.
#[track_caller]
fn holds(nvidia: &Nvidia, runtime: &str, name: &str, asks: &str) {
    let options = format!("-d --name {name} {asks}");
    let wait = ["/bin/sh", "-c", "exec sleep 600"];
    clients_on(nvidia, runtime, &options)
        .args(wait)
        .run()
        .succeeds();
}

/// One line of JSON by one of the clients in a container that runs.
#[track_caller]
fn sees(nvidia: &Nvidia, name: &str, program: &str) -> Value {
    let exec = nvidia.divvy("exec").arg(name).args(look(program));
    exec.run().succeeds().json()
}

/// The devices that a workload holds.
fn granted(nvidia: &Nvidia, name: &str) -> BTreeSet<String> {
    let record = record(&nvidia.machine, name);
    let slices = record["slices"].as_array().unwrap().iter();
    let slices = slices.filter(|s| s["plugin"] == "cuda");
    slices.map(|s| text(&s["device"]).to_owned()).collect()
}

/// The UUIDs in a client's answer.
fn uuids(answer: &Value) -> BTreeSet<String> {
    let devices = answer["devices"].as_array();
    let devices = devices.unwrap_or_else(|| panic!("no devices in {answer:#}"));
    let uuid = |d: &Value| {
        let uuid = text(&d["uuid"]);
        let whole = uuid.starts_with("GPU-") || uuid.starts_with("MIG-");
        if whole {
            uuid.to_owned()
        } else {
            format!("GPU-{uuid}")
        }
    };
    devices.iter().map(uuid).collect()
}

#[test]
fn five_sizes_at_once_each_see_what_they_hold() {
    requires!(root, dockerd, runc, python_clients);
    let mut nvidia = Nvidia::ready("h100x8");
    let engine = Dockerd::start();
    engine.import(&clients::tar(), "clients");
    nvidia.machine.use_engine(engine.socket());

    // Four GPUs by an OCI runtime, four by an engine: all eight.
    let sizes = ["0.25", "0.25", "0.5", "1", "2"];
    let mut names = vec![];
    for runtime in ["runc", ENGINE] {
        for (number, size) in sizes.iter().enumerate() {
            let name = format!("{runtime}-{number}");
            holds(&nvidia, runtime, &name, &format!("--gpu {size}"));
            names.push(name);
        }
    }
    let look = |name: &String| {
        let devices = granted(&nvidia, name);
        let mut programs = vec!["nvml_check", "cuda_check"];
        programs.extend(name.ends_with("-0").then_some("gpustat_check"));
        programs.extend(name.ends_with("-4").then_some("nvitop_check"));
        for program in programs {
            let answer = sees(&nvidia, name, program);
            assert_eq!(uuids(&answer), devices, "{program} in {name}: {answer:#}");
        }
    };
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| look(name));
        }
    });
    let mut shared = BTreeSet::new();
    let mut whole = vec![];
    for name in &names {
        let devices = granted(&nvidia, name);
        match devices.len() == 1 && !name.ends_with("-3") {
            true => shared.extend(devices),
            false => whole.extend(devices),
        }
    }
    // Quarter, quarter and half are one GPU; nobody's whole one is shared.
    assert_eq!((shared.len(), whole.len()), (2, 6));
    assert_eq!(whole.iter().filter(|id| shared.contains(*id)).count(), 0);
    assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), 6);
    // All of the shared ones' memory is handed out, to the byte.
    for device in nvidia.devices() {
        let memory = &device["usage"]["memory"];
        let [total, reserved, used] =
            ["total", "reserved", "used"].map(|key| text(&memory[key]).parse::<u64>().unwrap());
        assert_eq!(used, total - reserved, "{device:#}");
    }
    // One more is told why not.
    let more = clients_on(&nvidia, "runc", "--gpu 0.01")
        .arg("true")
        .run()
        .exits(125);
    more.complains("0 free")
        .complains("held by")
        .complains("[insufficient]");
    for name in names {
        nvidia.divvy("rm -f").arg(name).run().succeeds();
    }
    nothing_is_left(&nvidia.machine);
}

#[test]
fn mig_instances_are_seen_alone() {
    requires!(root, python_clients);
    for runtime in runtimes() {
        let nvidia = Nvidia::ready("a100-mig");
        let gpu = &description("a100-mig").gpu["divided"];
        for (name, slot) in [("small", "cuda.mig-1g.10gb"), ("large", "cuda.mig-3g.40gb")] {
            holds(&nvidia, runtime, name, &format!("--slot {slot}=1"));
            let first = granted(&nvidia, name).pop_first().unwrap();
            let of = gpu.instance.iter().find(|i| i.uuid == first).unwrap();
            // All compute instances of the GPU instance.
            let all = gpu.instance.iter().filter(|i| i.gi == of.gi);
            let all: BTreeSet<String> = all.map(|i| i.uuid.clone()).collect();

            let nvml = sees(&nvidia, name, "nvml_check");
            assert_eq!(nvml["devices"][0]["uuid"], json!(gpu.uuid), "{nvml:#}");
            assert_eq!(nvml["count"], 1, "{nvml:#}");
            let migs = nvml["devices"][0]["migs"].as_array().unwrap().iter();
            let migs: BTreeSet<String> = migs.map(|m| text(&m["uuid"]).to_owned()).collect();
            assert_eq!(migs, all, "{nvml:#}");

            let cuda = sees(&nvidia, name, "cuda_check");
            let devices = cuda["devices"].as_array().unwrap();
            assert_eq!(devices.len(), 1, "{cuda:#}");
            let memory = gpu.profile[&of.profile].memory_mib << 20;
            let total = &devices[0]["memory"]["total"];
            assert!(
                total
                    .as_u64()
                    .is_some_and(|t| t <= memory && t > memory / 2),
                "{cuda:#}"
            );
        }
        let more = nvidia
            .divvy("run")
            .args(["--slot", "cuda.mig-3g.40gb=1", "--", "true"]);
        more.run().exits(125).complains("held by large");
        // The GPU that is cut is not to be had, the other one is.
        nvidia
            .divvy("run --dry-run --gpu 1 -- true")
            .run()
            .succeeds();
        nvidia
            .divvy("run --dry-run --gpu 2 -- true")
            .run()
            .exits(125);
    }
}

#[test]
fn programs_in_a_container_allocate_of_one_gpu() {
    requires!(root, python_clients);
    let nvidia = Nvidia::ready("t4");
    let gpu = description("t4").gpu.pop_first().unwrap().1;
    let usable = (gpu.memory_mib.unwrap() - gpu.reserved_mib) << 20;
    for runtime in runtimes() {
        let allocate = |bytes: u64| -> Value {
            let words = look("cuda_check");
            let run = clients_on(&nvidia, runtime, "--rm --gpu 0.5");
            let output = run.args(words).arg(bytes.to_string()).run();
            output.succeeds().json()["allocation"].clone()
        };
        let half = allocate(usable / 2);
        assert_eq!(half.get("error"), None, "{half:#}");
        // Nothing holds a share to its part yet: that is what advisory means. The
        // device itself holds.
        let more = allocate(usable * 3 / 4);
        assert_eq!(more.get("error"), None, "{more:#}");
        let all = allocate(usable + (1 << 20));
        assert!(text(&all["error"]).contains("OUT_OF_MEMORY"), "{all:#}");
    }
}

#[test]
fn any_instance_is_rather_a_small_one() {
    requires!(root);
    let nvidia = Nvidia::ready("a100-mig");
    for (count, profiles) in [
        (1, vec!["1g.10gb"]),
        (3, vec!["1g.10gb", "1g.10gb", "2g.20gb"]),
    ] {
        let fit = nvidia.divvy(&format!("--json fit --slot cuda.mig={count}"));
        let slices = fit.run().succeeds().json()["slices"].clone();
        let slices = slices.as_array().unwrap().iter();
        let mut chosen: Vec<Value> = slices
            .filter(|slice| slice["plugin"] == "cuda")
            .map(|slice| slice["device"].clone())
            .collect();
        chosen.sort_by_key(ToString::to_string);
        let devices = nvidia.devices();
        let profile = |id: &Value| {
            let device = devices.iter().find(|d| d["id"] == *id).unwrap();
            text(&device["attributes"]["mig_profile"]["string"]).to_owned()
        };
        let mut is: Vec<String> = chosen.iter().map(profile).collect();
        is.sort();
        assert_eq!(is, profiles);
    }
}

#[test]
fn how_firmly_a_limit_holds_is_said_as_it_is() {
    let nvidia = Nvidia::ready("a100-mig");
    // Whether it is `advisory`, and what there is instead at the hardware's level: an
    // instance that is enough of it, if there is one.
    let none = "[enforcement_too_weak]";
    for (ask, level, firmly) in [
        ("--gpu 0.5", "(advisory)", none),
        ("--gpu-mem 41GiB", "(advisory)", none),
        ("--gpu-mem 10GiB", "(advisory)", "cuda.mig-2g.20gb 1"),
        ("--gpu 0.05", "(advisory)", "cuda.mig-1g.10gb 1"),
        ("--gpu 1", "(hardware)", "cuda.device 1"),
        (
            "--slot cuda.mig-1g.10gb=1",
            "(hardware)",
            "cuda.mig-1g.10gb 1",
        ),
        ("--slot cuda.mig=2", "(hardware)", "cuda.mig 2"),
    ] {
        let fits = nvidia.divvy(&format!("fit {ask}")).run();
        if fits.code == 125 {
            fits.complains("root"); // the ledger is root's
            return;
        }
        fits.says(level);
        let firm = nvidia
            .divvy(&format!("fit {ask} --min-level hardware"))
            .run();
        match firmly == none {
            true => firm.exits(125).complains(none),
            false => firm.succeeds().says(firmly).says("(hardware)"),
        };
    }
}

// === what a container cannot get at ===

/// Tries to get at other GPUs than the first, whose number and UUID it is told.
const GREEDY: &str = r#"
    export CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 NVIDIA_VISIBLE_DEVICES=all
    ls /dev | grep 'nvidia[0-9]'
    for n in 0 1 2 3 4 5 6 7; do
        mknod /dev/nvidia$n c 1195 $n 2>/dev/null
        mknod /tmp/nvidia$n c 1195 $n 2>/dev/null
        for at in /dev /tmp; do
            [ -e $at/nvidia$n ] || continue
            # A granted one has no driver behind it.
            (: <> $at/nvidia$n) 2>&1 | grep -q 'No such device or address' && echo opened $n
        done
    done
    exit 0"#;

#[track_caller]
fn got_only_the_first(output: Output, what: &str) {
    let output = output.succeeds();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines, ["nvidia0", "opened 0"], "{what}: {output}");
}

#[test]
fn a_greedy_program_gets_nothing_more() {
    requires!(root);
    for runtime in runtimes() {
        let nvidia = Nvidia::ready("h100x8");
        let run = nvidia.divvy("run --gpu 0.25 --cpu 0.1 --mem 64MiB --runtime");
        let run = run.args([runtime, "--", "sh", "-c", GREEDY]);
        got_only_the_first(run.run(), runtime);
        // Nor one that was given none.
        let run = nvidia.divvy("run --cpu 0.1 --mem 64MiB --runtime");
        let none = run
            .args([runtime, "--", "sh", "-c", GREEDY])
            .run()
            .succeeds();
        assert_eq!(none.stdout, "", "{none}");
    }
}

/// An image that asks for everything.
fn hostile() -> Value {
    json!({
        "Env": [
            "PATH=/bin",
            "NVIDIA_VISIBLE_DEVICES=all",
            "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7",
            "CUDA_DEVICE_ORDER=FASTEST_FIRST",
            "NVIDIA_DRIVER_CAPABILITIES=all",
            "LD_LIBRARY_PATH=/opt/own",
            "DIVVY_CUDA_SLICES=all",
        ],
    })
}

const SHOW: &str = "env | grep -E 'CUDA|NVIDIA|LD_' | sort";

/// What the variables must be for the first GPU of the machine.
fn ours(first: &str) -> Vec<String> {
    vec![
        "CUDA_DEVICE_ORDER=PCI_BUS_ID".into(),
        "CUDA_MPS_PIPE_DIRECTORY=/nonexistent".into(),
        format!("CUDA_VISIBLE_DEVICES={first}"),
        "LD_LIBRARY_PATH=/usr/local/lib/divvy/cuda:/opt/own".into(),
        "NVIDIA_VISIBLE_DEVICES=void".into(),
    ]
}

#[track_caller]
fn are_ours(output: Output, first: &str) {
    let output = output.succeeds();
    let lines: Vec<&str> = output
        .stdout
        .lines()
        .filter(|line| !line.starts_with("DIVVY_CUDA_SLICES=GPU-"))
        // What an engine cannot be told to leave out is set to nothing.
        .filter(|line| *line != "NVIDIA_DRIVER_CAPABILITIES=")
        .collect();
    assert_eq!(lines, ours(first), "{output}");
}

/// The GPU that is given out first.
fn first_of(nvidia: &Nvidia) -> String {
    let fits = nvidia.divvy("--json fit --gpu 1").run().succeeds().json();
    let slices = fits["slices"].as_array().unwrap().iter();
    let of_cuda = slices.filter(|s| s["plugin"] == "cuda").collect::<Vec<_>>();
    text(&of_cuda[0]["device"]).to_owned()
}

#[test]
fn an_image_chooses_no_devices() {
    requires!(root, dockerd);
    let mut nvidia = Nvidia::ready("h100x8");
    let engine = Dockerd::start();
    engine.image(&hostile(), |_| {});
    nvidia.machine.use_engine(engine.socket());
    let first = first_of(&nvidia);
    let archive = rootfs::image(nvidia.machine.path(), &hostile(), |_| {});
    let archive = archive.display().to_string();

    let docked = ["--launcher", ENGINE, "app:1"];
    let local = ["--launcher", "oci", archive.as_str()];
    for (image, what) in [(docked, "docker"), (local, "oci")] {
        let run = |asks: &str| {
            nvidia
                .divvy("run --cpu 0.1 --mem 64MiB")
                .args(words(asks))
                .args(image)
        };
        got_only_the_first(run("--gpu 1").args(["sh", "-c", GREEDY]).run(), what);
        are_ours(run("--gpu 1").args(["sh", "-c", SHOW]).run(), &first);
        // Without a GPU nothing is left that could choose one.
        let none = run("").args(["sh", "-c", SHOW]).run().succeeds();
        for line in none.stdout.lines() {
            let harmless = ["", "void"]
                .iter()
                .any(|v| line.ends_with(&format!("={v}")));
            assert!(
                harmless || line.starts_with("LD_LIBRARY_PATH"),
                "{what}: {none}"
            );
        }
        let none = run("").args(["sh", "-c", GREEDY]).run().succeeds();
        assert_eq!(none.stdout, "", "{what}: {none}");
    }
    // Nor does a user.
    for variable in [
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "DIVVY_CUDA_SLICES",
    ] {
        let run = nvidia
            .divvy("run --gpu 1 -e")
            .arg(format!("{variable}=all"));
        run.args(["--", "true"])
            .run()
            .exits(125)
            .complains(variable);
    }
}

// === what an image needs, and what it gets ===

#[test]
fn an_image_for_another_driver_is_refused_before_it_starts() {
    requires!(root, dockerd);
    let mut nvidia = Nvidia::ready("t4"); // CUDA 13
    let engine = Dockerd::start();
    nvidia.machine.use_engine(engine.socket());
    for (needs, runs) in [
        ("cuda>=12.4 brand=tesla,driver>=470,driver<471", true),
        ("cuda>=99.0", false),
        ("cuda>=99.0 driver>=100,driver<101", false),
    ] {
        let env = format!("NVIDIA_REQUIRE_CUDA={needs}");
        let config = json!({ "Env": ["PATH=/bin", env] });
        engine.image(&config, |_| {});
        let archive = rootfs::image(nvidia.machine.path(), &config, |_| {});
        let archive = archive.display().to_string();
        for image in [
            ["--launcher", ENGINE, "app:1"],
            ["--launcher", "oci", &archive],
        ] {
            let run = |options: &str| {
                let run = nvidia
                    .divvy("run --rm --cpu 0.1 --mem 64MiB")
                    .args(words(options));
                run.args(image)
                    .args(["sh", "-c", "echo ran; echo $NVIDIA_REQUIRE_CUDA"])
                    .run()
            };
            let output = run("--gpu 1");
            match runs {
                true => assert_eq!(output.succeeds().stdout, "ran\n\n"),
                false => {
                    assert_eq!(output.stdout, "", "{output}");
                    let output = output.exits(125).complains(needs);
                    output.complains("CUDA 13").complains("cuda.require=ignore");
                }
            }
            // It says nothing of those who were given no GPU, or were told otherwise.
            run("").succeeds();
            run("--gpu 1 --set cuda.require=ignore").succeeds();
        }
    }
    nothing_is_left(&nvidia.machine);
}

#[test]
fn the_drivers_libraries_are_in_one_place_and_cannot_be_changed() {
    requires!(root);
    for runtime in runtimes() {
        let nvidia = Nvidia::ready("h100x8");
        let script = "
            ls /usr/local/lib/divvy/cuda
            (: > /usr/local/lib/divvy/cuda/libcuda.so.1) 2>&1 | grep -o 'Read-only file system'
            rm /usr/local/lib/divvy/cuda/libcuda.so.1 2>/dev/null || echo cannot remove";
        let run = |setting: &str| {
            let run = nvidia.divvy("run --gpu 1 --cpu 0.1 --mem 64MiB --runtime");
            run.args([runtime, setting, "--", "sh", "-c", script])
                .run()
                .succeeds()
        };
        let output = run("--set=cuda.nvidia_smi=no");
        let driver = description("h100x8").driver;
        let mut names: BTreeSet<String> = fs::read_dir(nvidia.libraries())
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.remove(&format!("libcuda.so.{driver}")));
        names.insert(format!("libcuda.so.{driver}"));
        let lines: Vec<&str> = output.stdout.lines().collect();
        let (there, tried) = lines.split_at(names.len());
        assert_eq!(there, names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            tried,
            ["Read-only file system", "cannot remove"],
            "{output}"
        );
    }
}

#[test]
fn the_loader_looks_in_the_drivers_folder_first_whoever_says_what() {
    requires!(root, dockerd);
    let mut nvidia = Nvidia::ready("t4");
    let engine = Dockerd::start();
    engine.image(&json!({ "Env": ["PATH=/bin"] }), |_| {});
    nvidia.machine.use_engine(engine.socket());
    let ours = "/usr/local/lib/divvy/cuda";
    let show = ["sh", "-c", "echo $LD_LIBRARY_PATH"];
    for launcher in [["--launcher", "oci", "--"], ["--launcher", ENGINE, "app:1"]] {
        let run = |options: &str| {
            let run = nvidia.divvy("run --cpu 0.1 --mem 64MiB --gpu 0.25");
            run.args(words(options)).args(launcher)
        };
        for (said, is) in [
            ("-e LD_LIBRARY_PATH=", ours.to_owned()),
            ("-e LD_LIBRARY_PATH=/opt", format!("{ours}:/opt")),
        ] {
            let output = run(&format!("--rm {said}")).args(show).run().succeeds();
            assert_eq!(output.stdout.trim_end(), is, "{output}");
        }
        run("-d --name e").args(["sleep", "600"]).run().succeeds();
        for (said, is) in [
            ("-e LD_LIBRARY_PATH=", ours.to_owned()),
            ("-e LD_LIBRARY_PATH=/opt", format!("{ours}:/opt")),
        ] {
            let exec = nvidia.divvy(&format!("exec {said} e")).args(show);
            let output = exec.run().succeeds();
            assert_eq!(output.stdout.trim_end(), is, "{output}");
        }
        nvidia.divvy("rm -f e").run().succeeds();
    }
}

#[test]
fn nvidia_smi_comes_when_it_is_asked_for() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    let folder = nvidia.machine.path().join("root");
    rootfs::busybox(&folder);
    for (setting, there) in [("no", false), ("yes", true)] {
        let run = nvidia.divvy("run --gpu 1 --cpu 0.1 --mem 64MiB");
        let run = run
            .arg(format!("--set=cuda.nvidia_smi={setting}"))
            .arg("--rootfs");
        let look = ["--", "sh", "-c", "[ -x /usr/bin/nvidia-smi ]"];
        let output = run.arg(&folder).args(look).run();
        assert_eq!(output.code == 0, there, "{output}");
    }
}

#[test]
fn without_libcuda_a_gpu_is_listed_and_not_handed_to_a_container() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    for name in fs::read_dir(nvidia.libraries()).unwrap() {
        let path = name.unwrap().path();
        let is_cuda = path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("libcuda.so");
        if is_cuda {
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(nvidia.devices().len(), 1);
    let run = nvidia.divvy("run --gpu 1 -- true").run().exits(125);
    run.complains("libcuda.so.1 of driver")
        .complains("libcuda1");
    nothing_is_left(&nvidia.machine);
}

#[test]
fn a_gpu_that_is_lost_before_its_container_starts_is_not_given() {
    requires!(root);
    let mut described = description("t4");
    let (name, gpu) = described.gpu.pop_first().unwrap();
    described.gpu.insert(name.clone(), gpu);
    let nvidia = Nvidia::of(&described);
    let agent = nvidia.machine.agent(&format!(
        "[plugins.cuda]\nroot = {:?}",
        nvidia.root().display().to_string()
    ));
    let run = || {
        nvidia
            .machine
            .divvy("run --rm --gpu 1 --cpu 0.1 --mem 64MiB -- true")
            .run()
    };
    run().succeeds();
    // The agent has not looked again yet; its plugin does, before anything is made.
    nvidia.change(|d| d.gpu.get_mut(&name).unwrap().lost = true);
    let lost = run().exits(125);
    assert!(
        lost.stderr.contains("cannot be used") || lost.stderr.contains("insufficient"),
        "{lost}"
    );
    nvidia.change(|d| d.gpu.get_mut(&name).unwrap().lost = false);
    let back = divvy_tests::eventually(|| run().code == 0);
    assert!(back, "it is given again");
    agent.end().succeeds();
    nothing_is_left(&nvidia.machine);
}

/// Another GPU in the first one's place, so to say: the same silicon by another name.
#[test]
fn silicon_in_use_is_not_given_again_by_another_name() {
    requires!(root);
    type Change = fn(&mut divvy_nvidia_machine::Description);
    let cases: [(&str, &str, Change); 3] = [
        // An instance whose name changes.
        ("a100-mig", "--slot cuda.mig-3g.40gb=1", |d| {
            let gpu = d.gpu.get_mut("divided").unwrap();
            gpu.instance[0].uuid = "MIG-11111111-2222-3333-4444-555555555555".into();
        }),
        // MIG switched off below it.
        ("a100-mig", "--slot cuda.mig-1g.10gb=1", |d| {
            let gpu = d.gpu.get_mut("divided").unwrap();
            (gpu.mig, gpu.instance) = (Some(false), vec![]);
        }),
        // A GPU whose UUID is another's by now.
        ("t4", "--gpu 1", |d| {
            let gpu = d.gpu.values_mut().next().unwrap();
            gpu.uuid = "GPU-11111111-2222-3333-4444-555555555555".into();
        }),
    ];
    for (name, asks, change) in cases {
        let nvidia = Nvidia::ready(name);
        let hold = format!("run -d --name a --cpu 0.1 --mem 64MiB {asks} -- sleep 600");
        nvidia.divvy(&hold).run().succeeds();
        let before = granted(&nvidia, "a");
        nvidia.change(change);
        let gone = nvidia
            .devices()
            .iter()
            .all(|d| !before.contains(text(&d["id"])));
        assert!(gone, "{name} {asks}");
        let devices = nvidia.devices();
        let node = |d: &&Value| d["nodes"][0]["minor"] == 1 || name == "t4";
        for device in devices.iter().filter(node) {
            let closed = device["closed"].as_str().unwrap_or_default();
            assert!(closed.contains("a holds"), "{asks}: {device:#}");
        }
        if name == "t4" {
            nvidia
                .divvy("run --dry-run --gpu 0.01 -- true")
                .run()
                .exits(125);
        } else {
            // The GPU beside it is free.
            nvidia
                .divvy("run --dry-run --gpu 1 -- true")
                .run()
                .succeeds();
            nvidia
                .divvy("run --dry-run --gpu 2 -- true")
                .run()
                .exits(125);
            nvidia
                .divvy("run --dry-run --slot cuda.mig=1 -- true")
                .run()
                .exits(125);
        }
        nvidia.divvy("rm -f a").run().succeeds();
        nvidia
            .divvy("run --dry-run --gpu 1 -- true")
            .run()
            .succeeds();
    }
}

#[test]
fn a_driver_that_goes_while_a_job_runs_keeps_nothing_held() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    let libraries = nvidia.libraries();
    for (name, job) in [("unloaded", "1"), ("upgraded", "2"), ("removed", "3")] {
        let run = format!("run -d --name {name} --cpu 0.1 --mem 64MiB --gpu 0.25 -- sleep {job}");
        nvidia.divvy(&run).run().succeeds();
        match name {
            "unloaded" => nvidia.change(|d| d.loaded = false),
            "upgraded" => nvidia.change(|d| d.kernel_driver = Some("999.1".into())),
            _ => fs::rename(&libraries, libraries.with_extension("gone")).unwrap(),
        }
        let free = || rootfs::held(&nvidia.machine).is_empty();
        assert!(divvy_tests::eventually(free), "{name} is still held");
        nvidia.divvy("rm").arg(name).run().succeeds();
        if name != "removed" {
            nvidia.change(|d| (d.loaded, d.kernel_driver) = (true, None));
        }
    }
}

/// A driver that was reloaded may number GPUs otherwise; a container has numbers.
#[test]
fn a_node_that_is_anothers_by_now_closes_that_one() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    nvidia
        .divvy("run -d --name a --cpu 0.1 --mem 64MiB --gpu 1 -- sleep 600")
        .run()
        .succeeds();
    let first = granted(&nvidia, "a").pop_first().unwrap();
    nvidia.change(|d| {
        let mut gpus: Vec<_> = d.gpu.values_mut().collect();
        let held = gpus.iter().position(|gpu| gpu.uuid == first).unwrap();
        let other = (held + 3) % gpus.len();
        let (one, two) = (gpus[held].minor, gpus[other].minor);
        (gpus[held].minor, gpus[other].minor) = (two, one);
    });
    let devices = nvidia.devices();
    let closed = devices.iter().filter(|d| d["closed"].is_string());
    let closed: Vec<&Value> = closed.collect();
    assert_eq!(closed.len(), 1, "{closed:#?}");
    assert!(text(&closed[0]["closed"]).contains("a has its node /dev/nvidia"));
    assert_ne!(text(&closed[0]["id"]), first);
    nvidia
        .divvy("run --dry-run --gpu 6 -- true")
        .run()
        .succeeds();
    nvidia
        .divvy("run --dry-run --gpu 7 -- true")
        .run()
        .exits(125);
    nvidia
        .divvy("doctor")
        .run()
        .exits(1)
        .says("takes no work: a has its node");
    nvidia.divvy("rm -f a").run().succeeds();

    // The same of two instances whose rights change places.
    let nvidia = Nvidia::ready("a100-mig");
    let asks = "--slot cuda.mig-1g.10gb=1";
    nvidia
        .divvy(&format!(
            "run -d --name a --cpu 0.1 --mem 64MiB {asks} -- sleep 600"
        ))
        .run()
        .succeeds();
    nvidia.change(|d| {
        let gpu = d.gpu.get_mut("divided").unwrap();
        for instance in &mut gpu.instance {
            instance.gi = match instance.gi {
                9 => 10,
                10 => 9,
                other => other,
            };
        }
    });
    let refused = nvidia.divvy(&format!("run --dry-run {asks} -- true")).run();
    refused
        .exits(125)
        .complains("a has its node /dev/nvidia-caps/");
    nvidia.divvy("rm -f a").run().succeeds();
}

#[test]
fn a_users_mount_hides_nothing_that_a_gpu_needs() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    for target in ["/usr/local/lib/divvy/cuda", "/usr/local/lib/divvy", "/usr"] {
        let run = nvidia.divvy("run --gpu 1 --cpu 0.1 --mem 64MiB -v");
        let run = run.arg(format!("/srv:{target}")).args(["--", "true"]).run();
        run.exits(125)
            .complains("would hide")
            .complains("[invalid_mount]");
    }
    nothing_is_left(&nvidia.machine);
}

#[test]
fn a_job_is_told_that_nothing_holds_it_to_a_part() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    let run = |asks: &str| {
        nvidia
            .divvy(&format!("run --rm --cpu 0.1 --mem 64MiB {asks} -- true"))
            .run()
    };
    run("--gpu 0.5")
        .succeeds()
        .complains("cuda.shares is advisory");
    let whole = run("--gpu 1").succeeds();
    assert!(!whole.stderr.contains("advisory"), "{whole}");
}

#[test]
fn a_lost_gpu_that_is_held_is_no_mistake_of_the_ledgers() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    nvidia
        .divvy("run -d --name a --cpu 0.1 --mem 64MiB --gpu 0.5 -- sleep 600")
        .run()
        .succeeds();
    nvidia.change(|d| d.gpu.values_mut().for_each(|gpu| gpu.lost = true));
    let check = nvidia.divvy("state check").run();
    assert!(!check.stdout.contains("over_capacity"), "{check}");
    let device = nvidia.devices().remove(0);
    assert!(
        text(&device["health"]["reason"]).contains("Xid"),
        "{device:#}"
    );
    nvidia.divvy("rm -f a").run().succeeds();
}

#[test]
fn what_is_free_is_what_can_be_asked_for() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    for (name, asks) in [("half", "--gpu 0.5"), ("whole", "--gpu 1")] {
        let run = format!("run -d --name {name} --cpu 0.1 --mem 64MiB {asks} -- sleep 600");
        nvidia.divvy(&run).run().succeeds();
    }
    nvidia.change(|d| d.gpu.values_mut().last().unwrap().lost = true);
    let table = nvidia.divvy("devices").run().succeeds().stdout;
    let line = |word: &str| -> &str {
        table
            .lines()
            .find(|l| l.contains("cuda/") && l.contains(word))
            .unwrap()
    };
    assert!(
        line(" half").contains("0.5 compute, ~39.5 GiB  "),
        "{table}"
    );
    assert!(line(" whole").contains("  -  "), "{table}");
    assert!(line("unhealthy").contains("  -  "), "{table}");
    // A refusal names those that are ill.
    let fit = nvidia.divvy("fit --gpu 8").run().exits(125);
    fit.complains("closed: cuda/GPU-").complains("Xid");
    nvidia.divvy("rm -f half whole").run().succeeds();
}

//! GPUs that fall ill while they are used, and are well again.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use divvy_nvidia_machine::{Answer, Description, Fault, Gpu, Process, Xid};
use divvy_tests::nvidia::{Nvidia, description};
use divvy_tests::rootfs::record;
use divvy_tests::{Divvy, eventually, requires};
use serde_json::Value;

/// A command on a machine with an agent, which has the machine's settings.
fn ask(nvidia: &Nvidia, words: &str) -> Divvy {
    nvidia.machine.divvy(words)
}

fn devices(nvidia: &Nvidia) -> BTreeMap<String, Value> {
    let answer = ask(nvidia, "--json devices").run().succeeds().json();
    let devices = answer["devices"].as_array().unwrap().iter();
    let cuda = devices.filter(|device| device["plugin"] == "cuda");
    cuda.map(|device| (device["id"].as_str().unwrap().to_owned(), device.clone()))
        .collect()
}

/// The states of all GPUs, by their ids.
fn states(nvidia: &Nvidia) -> BTreeMap<String, String> {
    let devices = devices(nvidia).into_iter();
    let state = |device: &Value| device["health"]["state"].as_str().unwrap().to_owned();
    devices.map(|(id, device)| (id, state(&device))).collect()
}

fn ill(nvidia: &Nvidia) -> Vec<String> {
    let states = states(nvidia).into_iter();
    states
        .filter(|(_, state)| state != "healthy")
        .map(|(id, _)| id)
        .collect()
}

/// Events of a kind: subject, code, holders.
fn events(nvidia: &Nvidia, kind: &str) -> Vec<(String, String, Vec<String>)> {
    let text = ask(nvidia, "events --json").run().succeeds().stdout;
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mine = events.filter(|event| event["event"]["kind"] == kind);
    mine.map(|event| {
        let event = &event["event"];
        let holders = event["holders"].as_array().into_iter().flatten();
        (
            event["subject"].as_str().unwrap().to_owned(),
            event["code"].as_str().unwrap_or_default().to_owned(),
            holders
                .map(|name| name.as_str().unwrap().to_owned())
                .collect(),
        )
    })
    .collect()
}

/// Each GPU of the machine held by a job of its own; the job's name, by the GPU's id.
fn all_in_use(nvidia: &Nvidia) -> BTreeMap<String, String> {
    for number in 0..description("h100x8").gpu.len() {
        let run = format!("run -d --name j{number} --cpu 0.1 --mem 64MiB --gpu 1 -- sleep 600");
        ask(nvidia, &run).run().succeeds();
    }
    holders(nvidia)
}

fn holders(nvidia: &Nvidia) -> BTreeMap<String, String> {
    let devices = devices(nvidia).into_iter();
    let of = |device: &Value| device["holders"][0].as_str().map(str::to_owned);
    devices
        .filter_map(|(id, device)| Some((id, of(&device)?)))
        .collect()
}

fn uuid(name: &str) -> String {
    description("h100x8").gpu[name].uuid.clone()
}

fn gpu<'a>(machine: &'a mut Description, name: &str) -> &'a mut Gpu {
    machine.gpu.get_mut(name).unwrap()
}

#[test]
fn a_gpu_off_the_bus_is_closed_its_owner_named_and_seven_go_on() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    let agent = nvidia.agent("");
    let jobs = all_in_use(&nvidia);
    assert_eq!(jobs.len(), 8);
    // Programs' errors change nothing, and are laid at their doors.
    let mine = uuid("g3");
    for xid in [13, 31, 43, 94] {
        nvidia.change(|machine| gpu(machine, "g3").xid.push(Xid::of(xid)));
        let code = format!("xid-{xid}");
        let event = (format!("cuda/{mine}"), code, vec![jobs[&mine].clone()]);
        assert!(
            eventually(|| events(&nvidia, "device.incident").contains(&event)),
            "{event:?}"
        );
    }
    assert_eq!(ill(&nvidia), Vec::<String>::new());

    let began = Instant::now();
    nvidia.change(|machine| {
        let fallen = gpu(machine, "g5");
        fallen.xid.push(Xid::of(79));
        fallen.lost = true;
    });
    let mine = uuid("g5");
    assert!(
        eventually(|| ill(&nvidia) == [mine.clone()]),
        "{:?}",
        states(&nvidia)
    );
    let took = began.elapsed();
    println!("closed after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let device = &devices(&nvidia)[&mine];
    let reason = device["health"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("XID 79") || reason.contains("Xid"),
        "{reason}"
    );
    assert_eq!(device["incidents"][0]["code"], "xid-79", "{device:#}");
    assert_eq!(device["incidents"][0]["class"], "device");
    let owner = vec![jobs[&mine].clone()];
    let about = format!("cuda/{mine}");
    let told = |kind: &str, code: &str| {
        let event = (about.clone(), code.to_owned(), owner.clone());
        eventually(|| events(&nvidia, kind).contains(&event))
    };
    assert!(told("device.incident", "xid-79") && told("device.unhealthy", ""));
    let page = agent.metrics();
    for line in [
        format!(
            "divvy_device_incidents_total{{device=\"{about}\",code=\"xid-79\",class=\"device\"}} 1"
        ),
        format!("divvy_device_incident_last_timestamp_seconds{{device=\"{about}\",code=\"xid-79\""),
    ] {
        assert!(page.contains(&line), "{line}\n{page}");
    }

    // Its job ends: nothing new comes there. The others' come and go.
    for job in [&jobs[&mine], &jobs[&uuid("g0")]] {
        ask(&nvidia, &format!("stop -t 0 {job}")).run().succeeds();
    }
    let run = "run --rm --cpu 0.1 --mem 64MiB --gpu 1 -- true";
    ask(&nvidia, run).run().succeeds();
    let two = ask(&nvidia, &run.replace("--gpu 1", "--gpu 2")).run();
    two.exits(125).complains("XID 79");

    // Back on the bus: by itself, after a while of good answers.
    nvidia.change(|machine| gpu(machine, "g5").lost = false);
    assert!(
        eventually(|| ill(&nvidia).is_empty()),
        "{:?}",
        devices(&nvidia)[&mine]
    );
    ask(&nvidia, &run.replace("--gpu 1", "--gpu 2"))
        .run()
        .succeeds();
    assert!(
        events(&nvidia, "device.healthy")
            .iter()
            .any(|(of, ..)| *of == about)
    );
}

#[test]
fn what_a_gpu_says_of_itself_closes_it_and_opens_it_again() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    let state = || {
        let mine = uuid("g2");
        let device = nvidia
            .devices()
            .into_iter()
            .find(|device| device["id"] == *mine);
        let device = device.unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let why = match device["closed"].is_null() {
            true => text(&device["health"]["reason"]),
            false => text(&device["closed"]),
        };
        (text(&device["health"]["state"]), why)
    };
    assert_eq!(state(), ("healthy".into(), String::new()));
    // A program that is no workload's, and lives.
    let mut stranger = Stranger::new();
    let process = Process {
        pid: stranger.0.id(),
        memory_mib: Some(512),
        graphics: false,
        utilization: None,
    };
    type Change = Box<dyn Fn(&mut Gpu)>;
    let cases: [(&str, &str, Change); 8] = [
        (
            "unhealthy",
            "needs a reset",
            Box::new(|gpu| gpu.recovery = 1),
        ),
        (
            "unhealthy",
            "machine needs a restart",
            Box::new(|gpu| gpu.recovery = 2),
        ),
        (
            "degraded",
            "links to other GPUs",
            Box::new(|gpu| gpu.recovery = 3),
        ),
        (
            "unhealthy",
            "remapped no more",
            Box::new(|gpu| gpu.remapped_rows = Some((0, 9, false, true))),
        ),
        (
            "degraded",
            "at its next reset",
            Box::new(|gpu| gpu.remapped_rows = Some((0, 1, true, false))),
        ),
        (
            "degraded",
            "for heat",
            Box::new(|gpu| gpu.throttle = vec!["hw-thermal".into()]),
        ),
        (
            "unhealthy",
            "up to 2048 MiB",
            Box::new(|gpu| gpu.used_mib = 2000),
        ),
        (
            "healthy",
            "is no workload's",
            Box::new(move |gpu| gpu.process = vec![process.clone()]),
        ),
    ];
    let good = description("h100x8").gpu["g2"].clone();
    for (health, reason, change) in cases {
        nvidia.change(|machine| change(gpu(machine, "g2")));
        let (now, why) = state();
        assert_eq!(now, health, "{reason}: {why}");
        assert!(why.contains(reason), "{reason}: {why}");
        assert_eq!(ask_fit(&nvidia, 8), health == "degraded", "{reason}");
        assert!(ask_fit(&nvidia, 7), "{reason}");
        // A program that has ended is in nobody's way, whatever the driver still lists.
        if reason == "is no workload's" {
            stranger.end();
            assert_eq!(state(), ("healthy".into(), String::new()));
        }
        nvidia.change(|machine| *gpu(machine, "g2") = good.clone());
        assert_eq!(state(), ("healthy".into(), String::new()), "after {reason}");
    }
}

/// A program that is no workload's.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask_fit(nvidia: &Nvidia, gpus: usize) -> bool {
    let fit = nvidia.divvy(&format!("fit --gpu {gpus} --cpu 0.1 --mem 64MiB"));
    fit.run().code == 0
}

#[test]
fn what_happened_outlives_the_agent_and_ends_with_evidence() {
    requires!(root);
    // A driver that does not say what a GPU needs.
    let nvidia = Nvidia::ready("a100x8");
    let settings = "xid = \"13=reset,79=ignore\"";
    let agent = nvidia.agent(settings);
    let hold = "run -d --name a --cpu 0.1 --mem 64MiB --gpu 8 -- sleep 600";
    ask(&nvidia, hold).run().succeeds();
    let first = |state: &str| {
        let devices = devices(&nvidia);
        let mine = &description("a100x8").gpu["g1"].uuid;
        devices[mine]["health"]["state"] == state
    };
    let happens = |xid: u64| {
        nvidia.change(|machine| gpu(machine, "g1").xid.push(Xid::of(xid)));
        let code = format!("xid-{xid}");
        let told = eventually(|| {
            let incidents = events(&nvidia, "device.incident");
            incidents
                .iter()
                .any(|(_, of, holders)| *of == code && holders == &["a"])
        });
        assert!(told, "{code}");
    };
    // The operator knows better, both ways.
    happens(79);
    assert!(first("healthy"));
    happens(13);
    assert!(eventually(|| first("unhealthy")));
    drop(agent);
    let mine = &description("a100x8").gpu["g1"].uuid;
    let alone = nvidia
        .devices()
        .into_iter()
        .find(|device| device["id"] == **mine);
    assert_eq!(
        alone.unwrap()["health"]["state"],
        "unhealthy",
        "without an agent"
    );
    let _agent = nvidia.agent(settings);
    assert!(first("unhealthy"), "another agent");
    let reason =
        devices(&nvidia)[&description("a100x8").gpu["g1"].uuid]["health"]["reason"].to_string();
    assert!(
        reason.contains("XID 13") && reason.contains("conditions.json"),
        "{reason}"
    );
    // A reset begins its energy counter anew; until then nothing says that it is well.
    std::thread::sleep(Duration::from_secs(7));
    assert!(first("unhealthy"), "no evidence");
    nvidia.change(|machine| gpu(machine, "g1").energy_mj = Some(17));
    assert!(
        eventually(|| first("healthy")),
        "{:#}",
        devices(&nvidia)[&description("a100x8").gpu["g1"].uuid]
    );
}

#[test]
fn a_driver_that_is_replaced_under_work_holds_new_starts_and_names_whom_it_hits() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    let _agent = nvidia.agent("");
    let run = "run -d --name a --cpu 0.1 --mem 64MiB --gpu 0.5 -- sleep 600";
    ask(&nvidia, run).run().succeeds();
    let fit = || ask(&nvidia, "fit --gpu 0.25 --cpu 0.1 --mem 64MiB").run();
    fit().succeeds();
    nvidia.change(|machine| machine.kernel_driver = Some("999.1.2".into()));
    let hit = || {
        events(&nvidia, "device.unknown")
            .iter()
            .any(|(.., holders)| holders == &["a"])
    };
    assert!(eventually(hit));
    let refused = fit();
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("999.1.2"), "{}", refused.stderr);
    ask(&nvidia, "ps").run().succeeds().says("a ");
    nvidia.change(|machine| machine.kernel_driver = None);
    assert!(eventually(|| fit().code == 0));
}

#[test]
fn a_call_that_hangs_costs_its_plugins_host_alone() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    let _agent = nvidia.agent("deadline_ms = 1000");
    let cuda = |state: &str| states(&nvidia).values().all(|now| now == state);
    assert!(cuda("healthy"));
    let hang = Fault {
        call: "nvmlDeviceGetComputeMode".into(),
        nth: None,
        gpu: Some("g4".into()),
        after: false,
        answer: Answer::Hang,
    };
    nvidia.change(|machine| machine.fault.push(hang));
    assert!(patiently(|| cuda("unknown")), "{:?}", states(&nvidia));
    // All else goes on, and who asks is answered at once.
    let began = Instant::now();
    ask(&nvidia, "run --rm --cpu 0.1 --mem 64MiB -- true")
        .run()
        .succeeds();
    println!("a job beside it took {:?}", began.elapsed());
    let all = ask(&nvidia, "--json devices").run().succeeds().json();
    let others = all["devices"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["plugin"] == "cpu");
    assert!(
        others
            .into_iter()
            .all(|device| device["health"]["state"] == "healthy")
    );
    nvidia.change(|machine| machine.fault.clear());
    assert!(patiently(|| cuda("healthy")), "{:?}", states(&nvidia));
}

/// As `eventually`, for what takes hosts their deadlines and pauses.
fn patiently(mut so: impl FnMut() -> bool) -> bool {
    (0..6).any(|_| eventually(&mut so))
}

#[test]
fn of_several_on_one_gpu_the_one_whose_process_it_was_is_named() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    let _agent = nvidia.agent("");
    for name in ["a", "b"] {
        let run = format!("run -d --name {name} --cpu 0.1 --mem 64MiB --gpu 0.5 -- sleep 600");
        ask(&nvidia, &run).run().succeeds();
    }
    let pid = record(&nvidia.machine, "b")["pid"].as_u64().unwrap();
    let gpu_name = description("t4").gpu.keys().next().unwrap().clone();
    let raise = |code: u64, pid: Option<u32>| {
        let xid = Xid {
            pid,
            name: pid.map(|_| "sleep".into()),
            ..Xid::of(code)
        };
        nvidia.change(|machine| gpu(machine, &gpu_name).xid.push(xid));
    };
    let told = |code: &str, whom: &[&str]| {
        eventually(|| {
            let incidents = events(&nvidia, "device.incident");
            incidents
                .iter()
                .any(|(_, of, holders)| of == code && holders == whom)
        })
    };
    raise(31, Some(u32::try_from(pid).unwrap()));
    assert!(
        told("xid-31", &["b"]),
        "{:?}",
        events(&nvidia, "device.incident")
    );
    raise(13, None);
    assert!(
        told("xid-13", &["a", "b"]),
        "{:?}",
        events(&nvidia, "device.incident")
    );
    // What there is to say of it is said wherever one looks.
    let device = format!("describe {}", &description("t4").gpu[&gpu_name].uuid[..10]);
    ask(&nvidia, &device)
        .run()
        .succeeds()
        .says("XID 31")
        .says("health      healthy");
    ask(&nvidia, "describe b").run().succeeds().says("XID 31");
}

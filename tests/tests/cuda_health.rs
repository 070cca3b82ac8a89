//! GPUs that fall ill while they are used, and are well again.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use divvy_nvidia_machine::{Description, Gpu, Xid};
use divvy_tests::nvidia::{Nvidia, description};
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
    let _agent = nvidia.agent("");
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

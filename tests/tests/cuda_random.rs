//! A thousand things that happen to eight GPUs while they are handed out: nobody is
//! given one that is ill, nothing is given twice, and each comes back.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use divvy::agent::{AllocateRequest, Devices};
use divvy::api::Client;
use divvy::model::{Amount, HealthState, Record, Request};
use divvy_nvidia_machine::{Answer, Description, Fault, Gpu, Xid};
use divvy_tests::nvidia::{Nvidia, description};
use divvy_tests::requires;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

const EVENTS: usize = 1000;
const ROUNDS: usize = 5;
/// Those who take and give back meanwhile.
const CLIENTS: usize = 3;
/// Until all is as the machine says: a well GPU is watched for 5 s.
const QUIET: Duration = Duration::from_secs(40);

/// Questions that may fail without a GPU being lost by it.
const CALLS: [&str; 6] = [
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetFieldValues",
];
/// NVML's errors: not supported, not found, unknown, GPU lost, timeout.
const CODES: [u32; 5] = [3, 6, 999, 15, 10];
const XIDS: [u64; 10] = [13, 31, 43, 45, 94, 48, 62, 79, 95, 119];

/// Numbers that are the same in each run.
struct Dice(TestRng);

impl Dice {
    fn of(&mut self, most: usize) -> usize {
        use proptest::prelude::Rng;
        usize::try_from(self.0.next_u64() % u64::try_from(most).unwrap()).unwrap()
    }

    fn one<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.of(all.len())]
    }
}

/// Something happens to one GPU.
fn happen(dice: &mut Dice, machine: &mut Description, name: &str, crashes: &mut usize) {
    let what = dice.of(12);
    let good = description("h100x8").gpu[name].clone();
    let fault = |dice: &mut Dice, answer| Fault {
        call: (*dice.one(&CALLS)).to_owned(),
        nth: None,
        gpu: Some(name.to_owned()),
        after: false,
        answer,
    };
    match what {
        0 | 1 => {
            let xid = *dice.one(&XIDS);
            of(machine, name).xid.push(Xid::of(xid));
        }
        2 => of(machine, name).lost = true,
        3 => of(machine, name).present = false,
        4 => of(machine, name).recovery = u32::try_from(dice.of(5)).unwrap(),
        5 => of(machine, name).remapped_rows = Some((0, 1, dice.of(2) == 0, dice.of(2) == 0)),
        6 => of(machine, name).throttle = vec!["hw-thermal".into()],
        7 => {
            let code = Answer::Code(*dice.one(&CODES));
            let fault = fault(dice, code);
            machine.fault.push(fault);
        }
        // Five of these within ten minutes, and the plugin is left alone for a while.
        8 if *crashes < 3 => {
            *crashes += 1;
            let fault = Fault {
                nth: Some(1 + u64::try_from(dice.of(3)).unwrap()),
                ..fault(dice, Answer::Crash)
            };
            machine.fault.push(fault);
        }
        9 => of(machine, name).used_mib = 4096,
        _ => heal(machine, name, &good),
    }
}

/// As it was; its XIDs have happened.
fn heal(machine: &mut Description, name: &str, good: &Gpu) {
    let xid = std::mem::take(&mut of(machine, name).xid);
    *of(machine, name) = Gpu {
        xid,
        ..good.clone()
    };
    machine
        .fault
        .retain(|fault| fault.gpu.as_deref() != Some(name));
}

fn of<'a>(machine: &'a mut Description, name: &str) -> &'a mut Gpu {
    machine.gpu.get_mut(name).unwrap()
}

/// What those who ask share.
#[derive(Default)]
struct Shared {
    /// GPUs that are surely ill for the whole of the round.
    ill: Mutex<BTreeSet<String>>,
    over: AtomicBool,
    got: AtomicUsize,
    refused: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

/// Takes and gives back, over and over.
async fn use_it(client: Client, shared: &Shared, number: usize) {
    let mut round = number;
    while !shared.over.load(Ordering::Relaxed) {
        round += 1;
        let (slot, amount) = [
            ("cuda.device", "1"),
            ("cuda.shares", "0.5"),
            ("cuda.shares", "0.25"),
            ("cuda.device", "3"),
        ][round % 4];
        let resources = Request::of(&[("cpu", "0.02"), ("mem", "8MiB"), (slot, amount)]).unwrap();
        let request = AllocateRequest {
            resources,
            ..AllocateRequest::default()
        };
        let ill = shared.ill.lock().unwrap().clone();
        let held: Result<Record, _> = client.post("/v1/allocations", Some(&request)).await;
        let Ok(held) = held else {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        shared.got.fetch_add(1, Ordering::Relaxed);
        let still = shared.ill.lock().unwrap().clone();
        let slices = held.slices.iter().filter(|slice| slice.plugin == "cuda");
        for device in slices.map(|slice| &slice.part.device) {
            if ill.contains(device) && still.contains(device) {
                let what = format!("{device} is ill and was given");
                shared.wrong.lock().unwrap().push(what);
            }
        }
        tokio::time::sleep(Duration::from_millis(u64::try_from(round % 7).unwrap())).await;
        let path = format!("/v1/workloads/{}?force=true", held.id);
        let gone: Result<Value, _> = client.delete(&path).await;
        if let Err(error) = gone {
            shared
                .wrong
                .lock()
                .unwrap()
                .push(format!("{}: {error}", held.id));
        }
    }
}

/// More of a device than it has, if any.
fn too_much(devices: &Devices) -> Option<String> {
    let mut held: BTreeMap<(&str, &str), Amount> = BTreeMap::new();
    for slice in devices.held.iter().flat_map(|holding| &holding.slices) {
        if slice.plugin == "cuda" {
            let sum = held.entry(("cuda", &slice.part.device)).or_default();
            *sum = sum.checked_add(slice.part.amount).unwrap();
        }
    }
    let over = held.into_iter().find(|(_, sum)| *sum > Amount::ONE);
    over.map(|((_, device), sum)| format!("{sum} of {device} are held"))
}

#[test]
fn a_thousand_events_and_faults_give_nobody_an_ill_gpu_and_each_comes_back() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    let agent = nvidia.agent("look_s = 1\ndeadline_ms = 2000");
    let good = description("h100x8");
    let names: Vec<String> = good.gpu.keys().cloned().collect();
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, &[6; 32]),
    );
    let mut dice = Dice(runner.new_rng());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let shared = Shared::default();
    let looking = agent.client();
    let look = || -> Devices { runtime.block_on(looking.get("/v1/devices")).unwrap() };
    let state = |devices: &Devices, name: &str| {
        let mut all = devices.devices.iter();
        let device = all.find(|view| view.device.device.id == good.gpu[name].uuid);
        device.map(|view| view.device.device.health.state)
    };
    let until = |what: &str, so: &dyn Fn(&Devices) -> bool| {
        let end = Instant::now() + QUIET;
        loop {
            let devices = look();
            if so(&devices) {
                return;
            }
            let health = |name: &String| format!("{name}: {:?}", state(&devices, name));
            let all: Vec<String> = names.iter().map(health).collect();
            assert!(
                Instant::now() < end,
                "{what}: {all:?} {:?}",
                devices.failed_plugins
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut crashes = 0;
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let client = agent.client();
            let (runtime, shared) = (&runtime, &shared);
            scope.spawn(move || runtime.block_on(use_it(client, shared, number)));
        }
        for round in 0..ROUNDS {
            // Two that are ill all the time: one does not answer, one says so.
            let ill: Vec<&String> = [round % 8, (round + 3) % 8]
                .iter()
                .map(|n| &names[*n])
                .collect();
            nvidia.change(|machine| {
                of(machine, ill[0]).lost = true;
                of(machine, ill[1]).recovery = 1;
            });
            until("ill", &|devices| {
                ill.iter()
                    .all(|name| state(devices, name) == Some(HealthState::Unhealthy))
            });
            let ids = ill.iter().map(|name| good.gpu[*name].uuid.clone());
            *shared.ill.lock().unwrap() = ids.collect();
            let others: Vec<&String> = names.iter().filter(|name| !ill.contains(name)).collect();
            for _ in 0..EVENTS / ROUNDS {
                let name = *dice.one(&others);
                nvidia.change(|machine| happen(&mut dice, machine, name, &mut crashes));
                assert_eq!(too_much(&look()), None);
            }
            shared.ill.lock().unwrap().clear();
            // All is well again.
            nvidia.change(|machine| {
                for name in &names {
                    heal(machine, name, &good.gpu[name]);
                }
                machine.fault.clear();
            });
            until("well", &|devices| {
                names
                    .iter()
                    .all(|name| state(devices, name) == Some(HealthState::Healthy))
            });
        }
        shared.over.store(true, Ordering::Relaxed);
    });
    let (got, refused) = (shared.got.into_inner(), shared.refused.into_inner());
    println!("{got} granted, {refused} refused, {crashes} crashes");
    assert_eq!(shared.wrong.into_inner().unwrap(), Vec::<String>::new());
    assert!(got > 100, "{got} granted");
    assert_eq!(look().held.len(), 0);
    agent.end().succeeds();
}

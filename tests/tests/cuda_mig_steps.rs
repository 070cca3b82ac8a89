//! MIG on demand, a thousand random steps long: what the GPUs are cut into is always what
//! the ledger says, beside whatever others make and unmake, and whatever fails.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use divvy::agent::AllocateRequest;
use divvy::model::{Record, Request, Slice};
use divvy::{Divvy, Socket};
use divvy_nvidia_machine::{Answer, DESCRIPTION, Description, Fault, Gpu};
use divvy_tests::nvidia::{Nvidia, description};
use divvy_tests::{eventually, requires};
use serde_json::Value;
use tempfile::TempDir;

const STEPS: u32 = 1000;
const LOOK_EVERY: u32 = 50;

const PROFILES: [&str; 7] = [
    "1g.10gb",
    "1g.10gb+me",
    "1g.20gb",
    "2g.20gb",
    "3g.40gb",
    "4g.40gb",
    "7g.80gb",
];

/// What can go wrong as something is taken and let go of; it may be done all the same.
const TAKING: [&str; 5] = [
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlDeviceGetGpuInstances",
    "nvmlGpuInstanceGetComputeInstances",
];
const LETTING_GO: [&str; 2] = ["nvmlComputeInstanceDestroy", "nvmlGpuInstanceDestroy"];

/// The same numbers each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % most
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// The machine, and what this test knows of it.
struct World {
    nvidia: Nvidia,
    /// In memory where that can be: what is written to a disk is not the matter here.
    state: TempDir,
    dice: Dice,
    /// `None` while it is started anew.
    divvy: Option<Divvy>,
    /// What is held, by name.
    held: Vec<String>,
    /// What could not be let go of yet; some of it may be unmade.
    ending: BTreeSet<String>,
    /// What others made: GPU, id.
    others: BTreeSet<(String, u32)>,
    /// Does something go wrong now?
    amid: bool,
    /// How often what was done.
    done: BTreeMap<&'static str, u32>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut machine = description("a100x8");
        // Of no matter here, and much to ask about.
        machine.gpu.values_mut().for_each(|gpu| gpu.nvlink.clear());
        let mut world = Self {
            nvidia: Nvidia::of(&machine),
            state: state(),
            dice: Dice(seed),
            divvy: None,
            held: vec![],
            ending: BTreeSet::new(),
            others: BTreeSet::new(),
            amid: false,
            done: BTreeMap::new(),
        };
        world.restart().await;
        world
    }

    fn divvy(&self) -> &Divvy {
        self.divvy.as_ref().unwrap()
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Other hosts, which know what the ledger and the plugin's folder say.
    async fn restart(&mut self) {
        self.divvy = None;
        let crashes = self.state.path().join("plugins/cuda.json");
        let _ = fs::remove_file(crashes);
        let deps: PathBuf = std::env::current_exe().unwrap();
        let exe = deps.parent().unwrap().with_file_name("divvy-under-test");
        let built = Divvy::builder()
            .state(self.state.path())
            .plugin_dir(self.nvidia.machine.plugin_folder())
            .socket(Socket::None)
            .exe(exe)
            .set("cuda", "root", &self.nvidia.root().display().to_string())
            .set("cuda", "mig", "mode");
        self.divvy = Some(
            built
                .config(divvy::config::Config::default())
                .build()
                .await
                .unwrap(),
        );
    }

    fn now(&self) -> Description {
        let mut files = fs::read_dir(self.nvidia.libraries())
            .unwrap()
            .map(Result::unwrap);
        let is = |name: &OsStr| name.to_string_lossy().starts_with(DESCRIPTION);
        let file = files.find(|file| is(&file.file_name())).unwrap();
        Description::parse(&fs::read_to_string(file.path()).unwrap()).unwrap()
    }

    // === steps ===

    async fn step(&mut self) {
        match self.dice.below(100) {
            // As many as leave room for more.
            0..40 if self.held.len() < 12 => self.take().await,
            0..40 => self.let_go().await,
            40..60 => self.others_make().await,
            60..78 => self.others_unmake(),
            78..98 => self.amid_failure().await,
            _ => {
                self.count("restarts");
                self.restart().await;
            }
        }
    }

    fn request(&mut self) -> Vec<(String, String)> {
        let mut slots = BTreeMap::new();
        match self.dice.below(10) {
            0 => drop(slots.insert("cuda.device".to_owned(), 1)),
            1 => {
                let share = ["0.25", "0.5", "1"][self.dice.below(3)];
                return vec![("cuda.shares".into(), share.into())];
            }
            _ => {
                for _ in 0..1 + self.dice.below(5) / 4 {
                    let most = 1 + self.dice.below(PROFILES.len());
                    let profile = self.dice.of(&PROFILES[..most]);
                    let count = 1 + self.dice.below(4) / 3;
                    slots.insert(format!("cuda.mig-{profile}"), count);
                }
            }
        }
        let text = |(slot, count): (String, usize)| (slot, count.to_string());
        slots.into_iter().map(text).collect()
    }

    /// Takes something and has it made. Whatever fails, nothing of it is left.
    async fn take(&mut self) {
        let request = asks(&self.request());
        let record = match self.divvy().allocate(&request).await {
            Ok(record) => record,
            Err(error) => {
                // There is no room: nothing else keeps it from being had.
                let full = ["insufficient", "fragmented"].contains(&error.code());
                assert!(full || self.amid, "{error}");
                self.count("refusals");
                return;
            }
        };
        self.held.push(record.name.clone());
        match self.divvy().prepare(&record.name).await {
            Ok(prepared) => {
                self.count("taken");
                // The same again is the same.
                if self.dice.below(10) == 0 {
                    let edits = serde_json::to_value(&prepared.edits).unwrap();
                    self.restart().await;
                    let again = self.divvy().prepare(&record.name).await.unwrap();
                    assert_eq!(serde_json::to_value(&again.edits).unwrap(), edits);
                }
            }
            Err(_) => {
                self.count("failures");
                self.stop(&record.name).await;
            }
        }
    }

    async fn let_go(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let name = self.held[self.dice.below(self.held.len())].clone();
        self.stop(&name).await;
    }

    /// What cannot be let go of now stays held, and is let go of later.
    async fn stop(&mut self, name: &str) {
        match self.divvy().stop(name, Duration::ZERO).await {
            Ok(_) => {
                self.count("released");
                self.held.retain(|other| other != name);
                self.ending.remove(name);
            }
            Err(_) => {
                self.count("releases that failed");
                self.ending.insert(name.to_owned());
            }
        }
    }

    /// Somebody cuts a GPU by hand; one that is not in use also by turning MIG on.
    async fn others_make(&mut self) {
        let records = self.divvy().workloads().await.unwrap();
        let used = records.iter().flat_map(gpu_slices);
        let used: BTreeSet<&String> = used.map(|slice| &slice.part.device).collect();
        let all = self.now().gpu.into_values().map(|gpu| gpu.uuid);
        let free: BTreeSet<String> = all.filter(|uuid| !used.contains(uuid)).collect();
        let name = format!("g{}", self.dice.below(8));
        let tries: Vec<(usize, usize)> = (0..8)
            .map(|_| (self.dice.below(PROFILES.len()), self.dice.below(8)))
            .collect();
        let with_compute = self.dice.below(3) > 0;
        let mut made = None;
        self.nvidia.change(|d| {
            let gpu = d.gpu.get_mut(&name).unwrap();
            if free.contains(&gpu.uuid) {
                gpu.mig = Some(true);
            }
            for (profile, start) in tries {
                let profile = gpu.profile[PROFILES[profile]].clone();
                let start = u32::try_from(start).unwrap();
                if let Ok(instance) = gpu.make_gpu_instance(profile.id, Some(start)) {
                    if with_compute {
                        let slices = profile.compute;
                        gpu.make_compute_instance(instance.gi, slices).unwrap();
                    }
                    made = Some(instance.gi);
                    break;
                }
            }
        });
        if let Some(gi) = made {
            self.others.insert((name, gi));
            self.count("made by others");
        }
    }

    fn others_unmake(&mut self) {
        let all: Vec<(String, u32)> = self.others.iter().cloned().collect();
        if all.is_empty() {
            return;
        }
        let one = self.dice.of(&all).clone();
        self.nvidia
            .change(|d| remove(d.gpu.get_mut(&one.0).unwrap(), one.1));
        self.others.remove(&one);
        self.count("unmade by others");
    }

    /// One of the calls goes wrong, whoever makes it.
    async fn amid_failure(&mut self) {
        let taking = self.held.len() < 12 && self.dice.below(3) > 0;
        let call = match taking {
            true => *self.dice.of(&TAKING),
            false => *self.dice.of(&LETTING_GO),
        };
        let faults = self.done.values().sum::<u32>();
        let crashes = self.dice.below(5) == 0;
        let wrong = Fault {
            call: call.to_owned(),
            nth: Some(1 + self.dice.below(2) as u64),
            gpu: None,
            after: self.dice.below(2) == 0,
            // Calls are counted by process and fault: no two have the same code.
            answer: match crashes {
                true => Answer::Crash,
                false => Answer::Code(1000 + faults),
            },
        };
        self.nvidia.change(|d| d.fault = vec![wrong]);
        self.amid = true;
        match taking {
            true => self.take().await,
            false => self.let_go().await,
        }
        self.amid = false;
        self.nvidia.change(|d| d.fault.clear());
        self.count(if crashes { "crashes" } else { "faults" });
        if crashes {
            self.restart().await;
        }
    }

    // === what must be so ===

    /// GPUs, ledger, journal and plugin say the same.
    async fn agree(&mut self) {
        for name in self.ending.clone() {
            self.stop(&name).await;
        }
        assert_eq!(self.ending, BTreeSet::new());
        let records = self.divvy().workloads().await.unwrap();
        let names: BTreeSet<&String> = records.iter().map(|record| &record.name).collect();
        assert_eq!(names, self.held.iter().collect(), "the ledger");
        let now = self.now();
        let held = partitions(&now, &records);
        let mut others = self.others.clone();
        let mut there = BTreeSet::new();
        let mut uuids = BTreeSet::new();
        for (name, gpu) in &now.gpu {
            for instance in gpu.gpu_instances() {
                if others.remove(&(name.clone(), instance.gi)) {
                    continue;
                }
                let mates: Vec<_> = gpu.mates(instance.gi).collect();
                assert_eq!(mates.len(), 1, "{name} {instance:?}");
                uuids.insert(mates[0].uuid.clone());
                there.insert((name.clone(), instance.profile, instance.start));
            }
        }
        assert_eq!(there, held, "the GPUs and the ledger");
        assert!(others.is_empty(), "what others made is there: {others:?}");
        let visible = |record: &Record| {
            let edits = record.edits.get("cuda");
            let mut env = edits.into_iter().flat_map(|edits| &edits.env);
            let visible = env.find(|var| var.name == "CUDA_VISIBLE_DEVICES").unwrap();
            let names = visible.value.split(',').map(str::to_owned);
            names
                .filter(|uuid| uuid.starts_with("MIG-"))
                .collect::<Vec<_>>()
        };
        let seen: Vec<String> = records.iter().flat_map(visible).collect();
        assert_eq!(seen.len(), uuids.len());
        assert_eq!(
            seen.into_iter().collect::<BTreeSet<_>>(),
            uuids,
            "what jobs see"
        );
        // MIG is off where a GPU is whole or shared.
        for record in &records {
            for slice in gpu_slices(record).filter(|slice| slice.part.start.is_none()) {
                let mut gpus = now.gpu.values();
                let gpu = gpus.find(|gpu| gpu.uuid == slice.part.device).unwrap();
                assert_eq!(gpu.mig, Some(false), "{}", record.name);
            }
        }
        self.journal_agrees(&records);
        self.plugin_agrees(&now).await;
    }

    fn journal_agrees(&self, records: &[Record]) {
        let file = self.state.path().join("plugins/cuda/mig.json");
        let text = fs::read(file).unwrap_or_else(|_| br#"{"entries":[]}"#.to_vec());
        let journal: Value = serde_json::from_slice(&text).unwrap();
        let entry = |entry: &Value| {
            let start = entry["part"]["start"].as_u64();
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            (text("allocation"), text("gpu"), start)
        };
        let written: BTreeSet<_> = journal["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(entry)
            .collect();
        let slices = records
            .iter()
            .flat_map(|r| gpu_slices(r).map(move |s| (r, s)));
        let held = slices.map(|(record, slice)| {
            let start = slice.part.start.map(u64::from);
            (record.id.clone(), slice.part.device.clone(), start)
        });
        assert_eq!(written, held.collect(), "the journal and the ledger");
    }

    /// What the plugin offers is beside what others made, and nothing is wrong.
    async fn plugin_agrees(&self, now: &Description) {
        let devices = self.divvy().devices().await.unwrap();
        let devices = serde_json::to_value(&devices).unwrap();
        for (name, gpu) in &now.gpu {
            let mut all = devices["devices"].as_array().unwrap().iter();
            let device = all.find(|d| d["id"] == *gpu.uuid).unwrap();
            assert_eq!(device.get("closed"), None, "{device:#}");
            let taken: Vec<(u32, u32)> = gpu
                .gpu_instances()
                .iter()
                .filter(|instance| self.others.contains(&(name.clone(), instance.gi)))
                .map(|i| (i.start, gpu.profile[&i.profile].memory))
                .collect();
            let whole = device["capacities"].get("device").is_some();
            assert_eq!(whole, taken.is_empty(), "{device:#}");
            let profiles = device["partitioning"]["profiles"].as_array();
            let offered = |profile: &str, start: u32| {
                let slot = format!("cuda.mig-{profile}");
                let mut profiles = profiles.into_iter().flatten();
                let found = profiles.find(|p| p["slot"] == *slot);
                found.is_some_and(|p| p["starts"].as_array().unwrap().contains(&start.into()))
            };
            for (kind, profile) in &gpu.profile {
                for start in &profile.starts {
                    let apart = |(at, size): &(u32, u32)| {
                        start + profile.memory <= *at || at + size <= *start
                    };
                    if !taken.iter().all(apart) {
                        assert!(
                            !offered(kind, *start),
                            "{name} {kind} at {start}: {device:#}"
                        );
                    } else if taken.is_empty() {
                        assert!(
                            offered(kind, *start),
                            "{name} {kind} at {start}: {device:#}"
                        );
                    }
                }
            }
        }
    }
}

fn state() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    folder.unwrap()
}

/// Removes a GPU instance, whatever is in it.
fn remove(gpu: &mut Gpu, gi: u32) {
    gpu.instance.retain(|instance| instance.gi != gi);
    gpu.gpu_instance.retain(|instance| instance.gi != gi);
}

/// Hardly anything of the processors, of which there are few.
fn asks(gpus: &[(String, String)]) -> AllocateRequest {
    let mut all = vec![("cpu", "0.01"), ("mem", "4MiB")];
    all.extend(
        gpus.iter()
            .map(|(slot, count)| (slot.as_str(), count.as_str())),
    );
    AllocateRequest {
        resources: Request::of(&all).unwrap(),
        ..AllocateRequest::default()
    }
}

fn gpu_slices(record: &Record) -> impl Iterator<Item = &Slice> {
    record.slices.iter().filter(|slice| slice.plugin == "cuda")
}

/// The instances that records hold: GPU, profile, start.
fn partitions(now: &Description, records: &[Record]) -> BTreeSet<(String, String, u32)> {
    let mut held = BTreeSet::new();
    for slice in records.iter().flat_map(gpu_slices) {
        if let Some(start) = slice.part.start {
            let mut gpus = now.gpu.iter();
            let (name, _) = gpus.find(|(_, gpu)| gpu.uuid == slice.part.device).unwrap();
            let profile = slice.part.slot.strip_prefix("cuda.mig-").unwrap();
            let new = held.insert((name.clone(), profile.to_owned(), start));
            assert!(new, "{slice:?} is held twice");
        }
    }
    held
}

#[test]
fn gpus_are_cut_as_the_ledger_says_whatever_happens() {
    requires!(root);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(0x6d69_675f_3130_3030).await;
        for step in 1..=STEPS {
            world.step().await;
            if step % LOOK_EVERY == 0 {
                world.agree().await;
            }
        }
        eprintln!("{:?}", world.done);
        for what in [
            "taken",
            "released",
            "failures",
            "crashes",
            "made by others",
            "refusals",
        ] {
            assert!(
                world.done.get(what).is_some_and(|n| *n > 2),
                "{what}: {:?}",
                world.done
            );
        }
        // All is given back, and all can be had.
        for name in world.held.clone() {
            world.stop(&name).await;
        }
        while !world.others.is_empty() {
            world.others_unmake();
        }
        world.agree().await;
        assert_eq!(world.held, Vec::<String>::new());
        let all = asks(&[("cuda.device".into(), "8".into())]);
        let all = world.divvy().allocate(&all).await.unwrap();
        world.divvy().prepare(&all.name).await.unwrap();
        assert!(world.now().gpu.values().all(|gpu| gpu.mig == Some(false)));
        world.divvy().stop(&all.name, Duration::ZERO).await.unwrap();
        world.divvy = None;
        let machine = &world.nvidia.machine;
        assert!(eventually(|| machine.hosts().is_empty()));
    });
}

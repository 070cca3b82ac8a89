//! Random kills under load: a few people use a machine, and something sends
//! SIGKILL to whatever of Divvy is at work, over and over.
//!
//! What must hold, while it goes on and when it is over: no slice lost, doubled
//! or forgotten; every job that was told to run and not to stop still runs.
//! What is decided comes from a seed; when it happens does not, so a seed shows
//! the same load again, not the same race.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use divvy::model::{Amount, Record, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::rootfs::{ENGINE, cgroups, ids, leftovers, processes, script_of, sh};
use crate::state::{Witness, audit, snapshot, start_time, sums};
use crate::{Machine, Output};

/// Who may be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// A `divvy` that somebody typed.
    Command,
    /// A workload's monitor.
    Monitor,
    /// A plugin's host.
    Host,
    /// A call of an OCI runtime.
    Runtime,
    /// The long-lived agent; another is started soon after.
    Agent,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where all choices come from.
    pub seed: u64,
    /// How many kills.
    pub kills: u32,
    /// Who may be killed; the more often named, the likelier.
    pub victims: Vec<Victim>,
    /// The OCI runtimes, or [`ENGINE`], that jobs are
    /// started with, by turns.
    pub runtimes: Vec<&'static str>,
    /// How many people use the machine at once.
    pub people: u64,
    /// The mean time between two kills.
    pub pause: Duration,
}

impl Plan {
    /// Has the machine's container engine run everything; no OCI runtime is
    /// called then.
    pub fn on_an_engine(&mut self) {
        self.runtimes = vec![ENGINE];
        self.victims.retain(|v| *v != Victim::Runtime);
        // An engine takes its time.
        self.pause *= 3;
    }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Kills, by role.
    pub kills: BTreeMap<Victim, u32>,
    /// Commands, by verb and how they ended: an exit code, an error's code.
    pub commands: BTreeMap<(&'static str, String), u32>,
    /// Workloads that there ever were.
    pub workloads: usize,
    /// Jobs that ran to the end of it all because nobody stopped them.
    pub survivors: usize,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} kills in {:.1} s: {:?}",
            self.kills.values().sum::<u32>(),
            self.took.as_secs_f64(),
            self.kills
        )?;
        writeln!(
            f,
            "{} workloads, of which {} survived it all",
            self.workloads, self.survivors
        )?;
        for ((verb, end), count) in &self.commands {
            writeln!(f, "{count:>6} {verb} ended with {end}")?;
        }
        Ok(())
    }
}

/// Choices, the same for the same seed (xorshift64*).
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.roll(u64::try_from(of.len()).ok().filter(|n| *n > 0)?);
        of.get(usize::try_from(at).ok()?)
    }
}

/// What all threads share.
struct Shared<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    over: AtomicBool,
    /// Commands that run, by descriptors that no other process can get.
    commands: Mutex<BTreeMap<u32, OwnedFd>>,
    /// The agent that runs, if one is to.
    agent: Mutex<Option<OwnedFd>>,
    /// Jobs without an end that were told to run, and not told to stop.
    lasting: Mutex<BTreeSet<String>>,
    tally: Mutex<BTreeMap<(&'static str, String), u32>>,
    wrong: Mutex<Vec<String>>,
}

/// Does as planned on this machine, which has the CPU plugin.
///
/// # Panics
/// Something that must hold did not.
#[must_use]
pub fn soak(machine: &Machine, plan: &Plan) -> Report {
    println!("soak: seed {}, {} kills", plan.seed, plan.kills);
    let began = Instant::now();
    let witnesses: Vec<Witness> = plan
        .runtimes
        .iter()
        .map(|runtime| {
            let options = "--cpu 0.25 --mem 32MiB";
            Witness::start(machine, runtime, &format!("witness-{runtime}"), options)
        })
        .collect();
    let shared = Shared {
        machine,
        plan,
        over: AtomicBool::new(false),
        commands: Mutex::default(),
        agent: Mutex::default(),
        lasting: Mutex::default(),
        tally: Mutex::default(),
        wrong: Mutex::default(),
    };
    let mut watch = Watch::new(machine);
    let mut kills = BTreeMap::new();
    thread::scope(|scope| {
        // Whatever happens here, the others must end.
        let _over = Over(&shared.over);
        if plan.victims.contains(&Victim::Agent) {
            let shared = &shared;
            scope.spawn(move || keep_an_agent(shared));
        }
        for number in 0..plan.people {
            let shared = &shared;
            scope.spawn(move || Person::new(shared, number).live());
        }
        kills = kill_as_planned(&shared, &witnesses, &mut watch);
    });
    let wrong = lock(&shared.wrong);
    assert!(wrong.is_empty(), "seed {}: {wrong:#?}", plan.seed);

    let survivors = settled(&shared, &mut watch);
    for witness in &witnesses {
        witness.is_untouched();
    }
    all_is_given_back(&shared, &witnesses, &watch);
    Report {
        kills,
        commands: lock(&shared.tally).clone(),
        workloads: watch.seen.len(),
        survivors,
        took: began.elapsed(),
    }
}

/// Ends the others when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === killing ===

fn kill_as_planned(
    shared: &Shared<'_>,
    witnesses: &[Witness],
    watch: &mut Watch<'_>,
) -> BTreeMap<Victim, u32> {
    let plan = shared.plan;
    let mut dice = Dice::new(plan.seed);
    let mut kills: BTreeMap<Victim, u32> = BTreeMap::new();
    let mut done = 0;
    let twice = u64::try_from(plan.pause.as_millis()).unwrap_or(u64::MAX) * 2 + 1;
    while done < plan.kills && lock(&shared.wrong).is_empty() {
        thread::sleep(Duration::from_millis(dice.roll(twice)));
        watch.note_folders();
        // Crashes are remembered, and a plugin that crashes often is left alone:
        // that is tested elsewhere, and would end this.
        let _ = fs::remove_dir_all(shared.machine.state().join("plugins"));
        let Some(&victim) = dice.pick(&plan.victims) else {
            return kills;
        };
        if !kill_one(shared, victim, &mut dice) {
            continue;
        }
        *kills.entry(victim).or_default() += 1;
        done += 1;
        if done % 10 == 0 {
            watch.look();
        }
        if done % 50 == 0 {
            for witness in witnesses {
                witness.is_untouched();
            }
        }
    }
    kills
}

/// Keeps an agent running: half of the time, so that commands meet one, none,
/// and one that goes or comes.
fn keep_an_agent(shared: &Shared<'_>) {
    while !shared.over.load(Ordering::Relaxed) {
        let running = shared.machine.divvy("agent").spawn();
        // It is our child and not waited for: the number is still its own.
        let Some(pidfd) = open(running.pid()) else {
            continue;
        };
        *lock(&shared.agent) = pidfd.try_clone().ok();
        let ended = || {
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            poll(&mut fds, Some(&pause)).is_ok_and(|n| n > 0)
        };
        loop {
            // Each look waits a little.
            if ended() || shared.over.load(Ordering::Relaxed) {
                break;
            }
        }
        *lock(&shared.agent) = None;
        running.kill();
        thread::sleep(Duration::from_millis(700));
    }
}

/// Kills one of a role, if there is one now.
fn kill_one(shared: &Shared<'_>, victim: Victim, dice: &mut Dice) -> bool {
    let state = shared.machine.state().display().to_string();
    let found: Vec<OwnedFd> = match victim {
        Victim::Command => {
            let commands = lock(&shared.commands);
            let pids: Vec<&OwnedFd> = commands.values().collect();
            return dice
                .pick(&pids)
                .is_some_and(|pidfd| pidfd_send_signal(pidfd, Signal::KILL).is_ok());
        }
        Victim::Agent => {
            let agent = lock(&shared.agent).take();
            return agent.is_some_and(|pidfd| pidfd_send_signal(&pidfd, Signal::KILL).is_ok());
        }
        Victim::Host => {
            let hosts = shared.machine.hosts();
            hosts.into_iter().filter_map(open).collect()
        }
        Victim::Monitor => opened(&format!("monitor {state}/workloads")),
        Victim::Runtime => opened(&format!("--root {state}/runtime")),
    };
    let found: Vec<&OwnedFd> = found.iter().collect();
    dice.pick(&found)
        .is_some_and(|pidfd| pidfd_send_signal(pidfd, Signal::KILL).is_ok())
}

/// The processes with this in their command lines: looked at, opened, and
/// looked at again, so that none is a stranger.
fn opened(line: &str) -> Vec<OwnedFd> {
    let before = processes(line);
    let opened: Vec<(u32, OwnedFd)> = before
        .into_iter()
        .filter_map(|(pid, _)| Some((pid, open(pid)?)))
        .collect();
    let now: BTreeSet<u32> = processes(line).into_iter().map(|(pid, _)| pid).collect();
    opened
        .into_iter()
        .filter(|(pid, _)| now.contains(pid))
        .map(|(_, pidfd)| pidfd)
        .collect()
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

// === load ===

/// Somebody who uses the machine.
struct Person<'a> {
    shared: &'a Shared<'a>,
    number: u64,
    dice: Dice,
    names: Vec<String>,
    count: u64,
}

impl<'a> Person<'a> {
    fn new(shared: &'a Shared<'a>, number: u64) -> Self {
        Self {
            shared,
            number,
            dice: Dice::new(shared.plan.seed.wrapping_add(number + 1)),
            names: Vec::new(),
            count: 0,
        }
    }

    fn live(mut self) {
        while !self.shared.over.load(Ordering::Relaxed) {
            match self.dice.roll(20) {
                _ if self.names.len() > 5 => self.remove(),
                0..9 => self.run(),
                9..12 => self.stop(),
                12..15 => self.remove(),
                15 | 16 => self.exec(),
                17 => drop(self.call("ps", "ps -a")),
                18 => drop(self.call("fit", "fit --cpu 1")),
                _ => drop(self.call("devices", "devices")),
            }
        }
    }

    fn run(&mut self) {
        let name = format!("p{}-{}", self.number, self.count);
        self.count += 1;
        let plan = self.shared.plan;
        let runtime = self.dice.pick(&plan.runtimes).copied().unwrap_or("auto");
        let cpu = ["0.1", "0.1", "0.25", "0.5", "1.5"];
        let cpu = self.dice.pick(&cpu).copied().unwrap_or("0.25");
        let jobs = ["true", "exit 3", "sleep 0.1", "sleep 0.5", "sleep 2"];
        let lasts = self.dice.roll(4) == 0;
        let script = if lasts {
            "exec sleep 3600"
        } else {
            self.dice.pick(&jobs).copied().unwrap_or("true")
        };
        let ways = ["-d", "-d", "-d", "-d --rm", "", "--rm"];
        let way = self.dice.pick(&ways).copied().unwrap_or("-d");
        // In the foreground, one that lasts would never come back.
        let way = if lasts { "-d" } else { way };
        let options = format!("{way} --name {name} --cpu {cpu} --mem 32MiB");
        let job = script_of(self.shared.machine, runtime, &options, script);
        let output = self.wait("run", job);
        if lasts && output.code == 0 {
            lock(&self.shared.lasting).insert(name.clone());
        }
        // Whoever was killed may have started it.
        if output.code != 125 {
            self.names.push(name);
        }
    }

    fn some_name(&mut self) -> Option<String> {
        self.dice.pick(&self.names).cloned()
    }

    fn stop(&mut self) {
        let Some(name) = self.some_name() else { return };
        lock(&self.shared.lasting).remove(&name);
        let grace = self.dice.roll(2);
        let _ = self.call("stop", &format!("stop -t {grace} {name}"));
    }

    fn remove(&mut self) {
        let Some(name) = self.some_name() else { return };
        lock(&self.shared.lasting).remove(&name);
        let output = self.call("rm", &format!("rm -f {name}"));
        // It may be gone already, or never have been.
        if output.code == 0 || output.stderr.contains("[unknown_workload]") {
            self.names.retain(|n| *n != name);
        }
    }

    fn exec(&mut self) {
        if let Some(name) = self.some_name() {
            let _ = self.call("exec", &format!("exec {name} -- true"));
        }
    }

    fn call(&self, verb: &'static str, words: &str) -> Output {
        self.wait(verb, self.shared.machine.divvy(words))
    }

    /// Runs a command that may be killed.
    fn wait(&self, verb: &'static str, command: crate::Divvy) -> Output {
        let running = command.spawn();
        let pid = running.pid();
        // It is our child and not waited for: the number is still its own.
        if let Some(pidfd) = open(pid) {
            lock(&self.shared.commands).insert(pid, pidfd);
        }
        let output = running.output();
        lock(&self.shared.commands).remove(&pid);
        // `divvy: what went wrong [code]`
        let code = output.stderr.trim_end().rsplit_once('[');
        let end = match code {
            Some((_, code)) if output.code == 125 && code.ends_with(']') => format!("[{code}"),
            _ => output.code.to_string(),
        };
        *lock(&self.shared.tally).entry((verb, end)).or_default() += 1;
        let never = [
            "panicked",
            "[ledger_damaged]",
            "[intent_lost]",
            "over_capacity",
        ];
        if never.iter().any(|word| output.stderr.contains(word)) {
            lock(&self.shared.wrong).push(output.to_string());
        }
        output
    }
}

// === what must hold ===

/// Looks at the machine from time to time, and remembers.
struct Watch<'a> {
    machine: &'a Machine,
    usable: BTreeMap<(String, String), Amount>,
    /// Workloads that ever had a folder.
    seen: BTreeSet<String>,
    /// Workloads that ever held something.
    held: BTreeSet<String>,
}

impl<'a> Watch<'a> {
    fn new(machine: &'a Machine) -> Self {
        let answer = machine.divvy("--json devices").run().succeeds().json();
        let mut usable = BTreeMap::new();
        for device in answer["devices"].as_array().expect("devices") {
            for (capacity, usage) in device["usage"].as_object().expect("usage") {
                let amount = |what: &str| -> Amount {
                    serde_json::from_value(usage[what].clone()).expect("an amount")
                };
                let id = device["id"].as_str().expect("an id").to_owned();
                let amount = amount("total").saturating_sub(amount("reserved"));
                usable.insert((id, capacity.clone()), amount);
            }
        }
        Self {
            machine,
            usable,
            seen: BTreeSet::new(),
            held: BTreeSet::new(),
        }
    }

    fn note_folders(&mut self) {
        self.seen.extend(ids(self.machine));
    }

    /// At any moment: nothing is held twice, and nothing runs that holds
    /// nothing.
    fn look(&mut self) -> Vec<Record> {
        let records = snapshot(self.machine);
        for (key, sum) in sums(&records) {
            let usable = self.usable.get(&key);
            assert!(
                usable.is_some_and(|usable| sum <= *usable),
                "{key:?}: {sum} of {usable:?} is held: {records:#?}"
            );
        }
        let holding: BTreeSet<String> = records
            .iter()
            .filter(|r| r.holds())
            .map(|r| r.id.clone())
            .collect();
        for id in self.held.difference(&holding) {
            // Once it has let go, nothing of it may live.
            for folder in cgroups(id) {
                let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                assert!(
                    procs.trim().is_empty(),
                    "{id} holds nothing, and {procs:?} live in {}",
                    folder.display()
                );
            }
        }
        self.held.extend(holding);
        self.seen.extend(records.iter().map(|r| r.id.clone()));
        records
    }
}

/// When nobody does anything any more: everything finds its place. Returns how
/// many jobs still run that nobody stopped.
fn settled(shared: &Shared<'_>, watch: &mut Watch<'_>) -> usize {
    let machine = shared.machine;
    let end = Instant::now() + Duration::from_secs(30);
    let unsettled = |records: &[Record]| -> Vec<String> {
        let carried = |r: &Record| {
            let line = format!("monitor {}/workloads/{}", machine.state().display(), r.id);
            !processes(&line).is_empty()
        };
        let lives = |r: &Record| {
            r.pid
                .is_some_and(|pid| start_time(u64::from(pid)).is_some())
        };
        records
            .iter()
            .filter(|r| match r.state {
                State::Exited => false,
                State::Running => !(lives(r) && carried(r)),
                State::Preparing | State::Releasing => true,
            })
            .map(|r| format!("{} is {}, pid {:?}", r.name, r.state.word(), r.pid))
            .collect()
    };
    let records = loop {
        let _ = machine.divvy("ps").run().succeeds();
        let records = watch.look();
        let left = unsettled(&records);
        if left.is_empty() {
            break records;
        }
        assert!(
            Instant::now() < end,
            "seed {}: never settled: {left:#?}",
            shared.plan.seed
        );
        thread::sleep(Duration::from_millis(100));
    };
    audit(machine);
    let lasting = lock(&shared.lasting).clone();
    for name in &lasting {
        let runs = records
            .iter()
            .any(|r| r.name == *name && r.state == State::Running);
        assert!(
            runs,
            "seed {}: {name} was told to run and not to stop, and is {:#?}",
            shared.plan.seed,
            records.iter().find(|r| r.name == *name)
        );
    }
    lasting.len()
}

/// At the very end: all but the witnesses goes, and all that they leave is
/// granted; then they go too.
fn all_is_given_back(shared: &Shared<'_>, witnesses: &[Witness], watch: &Watch<'_>) {
    let machine = shared.machine;
    let names = |but_witnesses: bool| -> Vec<String> {
        snapshot(machine)
            .into_iter()
            .filter(|r| !but_witnesses || !witnesses.iter().any(|w| w.id() == r.id))
            .map(|r| r.name)
            .collect()
    };
    for name in names(true) {
        let removed = machine.divvy("rm -f").arg(&name).run();
        // One that is forgotten at its end may have come to it by itself.
        let gone = removed.code == 0 || removed.stderr.contains("[unknown_workload]");
        assert!(gone, "seed {}: {removed}", shared.plan.seed);
    }
    let mut gone = watch.seen.clone();
    gone.retain(|id| !witnesses.iter().any(|w| w.id() == id));
    for id in &gone {
        assert_eq!(
            cgroups(id),
            Vec::<std::path::PathBuf>::new(),
            "seed {}: cgroups of {id}",
            shared.plan.seed
        );
    }
    let answer = machine.divvy("--json devices").run().succeeds().json();
    let cores = answer["devices"].as_array().expect("devices").iter();
    let cores = cores
        .filter(|d| d["usage"]["cores"]["total"] == "1")
        .count();
    // A quarter each of the witnesses, of which four share a core.
    let rest = format!("--cpu {} --rm", cores - witnesses.len().div_ceil(4));
    let _ = sh(machine, shared.plan.runtimes[0], &rest, "true").succeeds();
    for witness in witnesses {
        witness.is_untouched();
    }
    let _ = machine.divvy("rm -f").args(names(false)).run().succeeds();
    let mut left = Vec::new();
    let clean = crate::eventually(|| {
        left = leftovers(machine, &watch.seen);
        left.extend(ids(machine));
        left.is_empty()
    });
    assert!(clean, "seed {}: it left {left:#?}", shared.plan.seed);
}

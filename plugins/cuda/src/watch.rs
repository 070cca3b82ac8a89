//! Waiting for something to change, or to happen.
//!
//! All is asked every few seconds, at once when something is heard or the kernel's files
//! change. In between NVML's events and the kernel's log are listened to; what one of
//! them misses, the other has. What closes a GPU is kept before anything is asked: the
//! question may hang.

use std::fs::File;
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use divvy_plugin::{
    Device, Discovery, HealthState, Incident, IncidentClass, WatchReply, WatchRequest,
};

use crate::conditions::{self, Condition, Now};
use crate::discover::{Machine, Unit};
use crate::error::Error;
use crate::heard::{Heard, Hearing, What};
use crate::kmsg::{Line, Log};
use crate::listen::{Ear, Listener};
use crate::root::{Root, Signs, without_function};
use crate::xid::{self, Outcome, Overrides};
use crate::{CudaPlugin, Libraries};

/// How often the kernel's log is read: a program that fails is soon gone.
const LISTEN: Duration = Duration::from_millis(100);
/// How often the kernel's files are looked at.
const GLANCE: Duration = Duration::from_millis(500);
/// How often all is asked while a GPU is ill: it may be well again.
const ILL: Duration = Duration::from_secs(1);
/// More than a process's cgroups take.
const CGROUP: u64 = 32 << 10;

/// What the watch knows from one call to the next.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    log: Option<Log>,
    listener: Option<Listener>,
    last: Option<Look>,
    hearing: Hearing,
}

/// A look at the machine.
#[derive(Debug)]
struct Look {
    at: Instant,
    signs: Signs,
    units: Vec<Unit>,
    found: Discovery,
}

impl Watching {
    /// Takes in what was heard. What closes a GPU is kept at once, however often it
    /// happens.
    fn gather(&mut self, plugin: &CudaPlugin, events: Vec<Heard>) {
        let units = self.last.as_ref().map_or(&[][..], |look| &look.units);
        let lines = self.log.as_mut().map(Log::news).unwrap_or_default();
        let lines: Vec<Heard> = match lines.is_empty() {
            true => vec![],
            false => logged(lines, units, &plugin.root),
        };
        plugin.remember(lines.iter().chain(&events));
        let now = Instant::now();
        self.hearing.logged(lines, now);
        self.hearing.told(events, now);
    }

    /// The GPUs to listen to: those of which something is held, or of what is cut of them.
    fn ears(&self, held: &[String]) -> Vec<Ear> {
        let units = self.last.as_ref().map_or(&[][..], |look| &look.units);
        let of = |id: &String| {
            let unit = units.iter().find(|unit| unit.device.id == *id)?;
            let gpu = unit.device.parent.clone().unwrap_or_else(|| id.clone());
            Some(Ear {
                id: gpu,
                address: unit.address.clone(),
            })
        };
        let mut ears: Vec<Ear> = held.iter().filter_map(of).collect();
        ears.sort_by(|a, b| a.id.cmp(&b.id));
        ears.dedup();
        ears
    }

    /// Has the right GPUs listened to.
    fn listen(&mut self, plugin: &CudaPlugin, libraries: &Libraries, held: &[String]) {
        let ears = self.ears(held);
        if self.listener.as_ref().map_or(&[][..], |l| &l.ears) == ears {
            return;
        }
        self.stop(plugin);
        if !ears.is_empty() {
            let (root, library) = (&plugin.root, libraries.nvml.clone());
            let store = plugin.demand.managing();
            self.listener = Some(Listener::start(root, library, ears, store));
        }
    }

    /// Nothing is listened to then, and nothing open.
    fn stop(&mut self, plugin: &CudaPlugin) {
        if let Some(listener) = self.listener.take() {
            let last = listener.end();
            self.gather(plugin, last);
        }
    }

    /// Waits until then at the longest, or until something is heard.
    fn rest(&mut self, plugin: &CudaPlugin, end: Instant) {
        while Instant::now() < end && self.hearing.untold.is_empty() {
            let pause = end.min(Instant::now() + LISTEN);
            let events = match &self.listener {
                Some(listener) => listener.until(pause),
                None => {
                    thread::sleep(pause.saturating_duration_since(Instant::now()));
                    vec![]
                }
            };
            self.gather(plugin, events);
        }
    }
}

impl CudaPlugin {
    /// Waits for a change, or for something to happen.
    pub(crate) fn wait(
        &self,
        watching: &mut Watching,
        request: &WatchRequest,
    ) -> Result<WatchReply, Error> {
        let end = Instant::now() + Duration::from_millis(request.timeout_ms);
        if watching.log.is_none() {
            let path = self.root.under("dev/kmsg");
            watching.log = Log::open(&path, self.state.as_deref(), &self.root.boot().0);
        }
        loop {
            let signs = self.root.signs();
            let due = watching.last.as_ref().is_none_or(|last| {
                last.signs != signs || last.at.elapsed() >= self.pause(&last.found)
            });
            let libraries = self.libraries()?;
            let mut incidents = vec![];
            if due || !watching.hearing.untold.is_empty() {
                watching.stop(self);
                watching.gather(self, vec![]);
                let machine = self.machine(&libraries)?;
                let untold = std::mem::take(&mut watching.hearing.untold);
                incidents = told(&untold, &machine, &self.config.xid);
                watching.last = Some(Look {
                    at: Instant::now(),
                    signs,
                    found: machine.discovery(),
                    units: machine.units,
                });
            }
            watching.listen(self, &libraries, &request.held);
            let changed = watching
                .last
                .as_ref()
                .filter(|last| last.found != request.known)
                .map(|last| last.found.clone());
            if changed.is_some() || !incidents.is_empty() {
                return Ok(WatchReply { changed, incidents });
            }
            if Instant::now() >= end {
                return Ok(WatchReply::default());
            }
            watching.rest(self, end.min(Instant::now() + GLANCE));
        }
    }

    /// How long a look holds.
    fn pause(&self, found: &Discovery) -> Duration {
        let ill = |device: &Device| device.health.state == HealthState::Unhealthy;
        match found.devices.iter().any(ill) {
            true => ILL.min(self.config.look),
            false => self.config.look,
        }
    }

    /// Keeps what closes GPUs until it is over.
    fn remember<'a>(&self, heard: impl Iterator<Item = &'a Heard>) {
        let now = Now::on(&self.root);
        let new = heard.filter_map(|heard| {
            let What::Xid(xid) = heard.what else {
                return None;
            };
            let judged = xid::judge(xid, &self.config.xid);
            Condition::new((&heard.gpu, &heard.address), xid, judged, &now)
        });
        let new: Vec<Condition> = new.collect();
        if new.is_empty() {
            return;
        }
        // What cannot be written is said by each look.
        self.kept.update(&mut vec![], |mut all| {
            for condition in new {
                conditions::add(&mut all, condition);
            }
            all
        });
    }
}

/// Lines of the log, with the GPUs that they are about: as they were when they were
/// looked at, else as the kernel knows them.
fn logged(lines: Vec<Line>, units: &[Unit], root: &Root) -> Vec<Heard> {
    let known = root.known();
    let one = |line: Line| {
        let seen = units.iter().find(|unit| {
            unit.device.parent.is_none() && without_function(&unit.address) == line.address
        });
        let (gpu, address) = match seen {
            Some(unit) => (unit.device.id.clone(), unit.address.clone()),
            None => {
                let mut known = known.iter();
                let (address, gpu) = known.find(|(a, _)| without_function(a) == line.address)?;
                let id = gpu.uuid.clone().unwrap_or_else(|| address.clone());
                (id, address.clone())
            }
        };
        Some(Heard {
            gpu,
            address,
            what: What::Xid(line.code),
            gi: line.gi,
            pid: line.pid,
            cgroup: line.pid.and_then(cgroup),
        })
    };
    lines.into_iter().filter_map(one).collect()
}

/// A process's cgroups, while it is there.
fn cgroup(pid: u32) -> Option<String> {
    let mut lines = String::new();
    let file = File::open(format!("/proc/{pid}/cgroup")).ok()?;
    file.take(CGROUP).read_to_string(&mut lines).ok()?;
    Some(lines)
}

/// Where a GPU instance that we made begins.
fn start(machine: &Machine, gpu: &str, gi: u32) -> Option<u32> {
    let unit = machine.units.iter().find(|unit| unit.device.id == gpu)?;
    let mut ours = unit.managed.as_ref()?.ours.iter();
    ours.find(|instance| instance.id == gi)
        .map(|instance| instance.start)
}

/// What was heard, as the agent is told.
fn told(heard: &[Heard], machine: &Machine, overrides: &Overrides) -> Vec<Incident> {
    let one = |heard: &Heard| {
        let mut units = machine.units.iter();
        let gpu = units.find(|unit| {
            unit.device.parent.is_none()
                && (unit.device.id == heard.gpu || unit.address == heard.address)
        })?;
        let gpu = &gpu.device.id;
        let instance = machine.units.iter().find(|unit| {
            unit.gi.is_some() && unit.gi == heard.gi && unit.device.parent.as_ref() == Some(gpu)
        });
        let (code, class, summary) = match heard.what {
            What::Xid(xid) => {
                let (what, outcome) = xid::judge(xid, overrides);
                let summary = format!("XID {xid}: {what} ({})", outcome.word());
                (format!("xid-{xid}"), class(outcome), summary)
            }
            What::DoubleBit => (
                "ecc-double-bit".to_owned(),
                IncidentClass::Notice,
                "an ECC error in two bits: what follows is said by the XID that comes with it"
                    .to_owned(),
            ),
        };
        Some(Incident {
            device: instance.map_or(gpu, |unit| &unit.device.id).clone(),
            code,
            class,
            summary,
            pid: heard.pid,
            cgroup: heard.cgroup.clone(),
            start: heard.gi.and_then(|gi| start(machine, gpu, gi)),
        })
    };
    heard.iter().filter_map(one).collect()
}

fn class(outcome: Outcome) -> IncidentClass {
    match outcome {
        Outcome::Ignore => IncidentClass::Notice,
        Outcome::Application => IncidentClass::Application,
        Outcome::Reset | Outcome::Replace => IncidentClass::Device,
    }
}

//! Waiting for something to change, or to happen.
//!
//! All is asked every few seconds, at once when something is heard or the kernel's files
//! change. In between NVML's events and the kernel's log are listened to; what one of
//! them misses, the other has.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use divvy_plugin::{Discovery, Incident, IncidentClass, WatchReply, WatchRequest};

use crate::conditions::{self, Condition, Now};
use crate::discover::{Machine, Unit};
use crate::error::Error;
use crate::kmsg::Log;
use crate::listen::{Ear, Heard, Listener};
use crate::root::{Signs, without_function};
use crate::xid::{self, Outcome, Overrides};
use crate::{CudaPlugin, Libraries};

/// How often the kernel's files and its log are looked at.
const GLANCE: Duration = Duration::from_millis(500);
/// How often all is asked while a GPU is ill: it may be well again.
const ILL: Duration = Duration::from_secs(1);
/// The same XID of the same GPU is told once in this time: by both sources, or by a
/// program that fails over and over.
const ONCE: Duration = Duration::from_secs(10);
/// So many incidents wait to be told at most.
const MOST: usize = 64;

/// What the watch knows from one call to the next.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    log: Option<Log>,
    listener: Option<Listener>,
    last: Option<Look>,
    /// What was heard lately, and when.
    recent: VecDeque<(String, u64, Instant)>,
    /// What was heard and not told yet.
    untold: Vec<Heard>,
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
    /// What was heard since: the kernel's log first, it knows of the process.
    fn gather(&mut self, more: Vec<Heard>) -> Vec<Heard> {
        let units = self.last.as_ref().map_or(&[][..], |look| &look.units);
        let lines = self.log.as_mut().map(Log::news).unwrap_or_default();
        let logged = lines.into_iter().filter_map(|line| {
            let gpu = units.iter().find(|unit| {
                unit.device.parent.is_none() && without_function(&unit.address) == line.address
            })?;
            Some(Heard {
                gpu: gpu.device.id.clone(),
                xid: line.code,
                gi: line.gi,
                pid: line.pid,
            })
        });
        let all: Vec<Heard> = logged.chain(more).collect();
        let now = Instant::now();
        self.recent
            .retain(|(.., at)| now.duration_since(*at) < ONCE);
        let mut new = vec![];
        for heard in all {
            let same =
                |(gpu, xid, _): &&(String, u64, Instant)| *gpu == heard.gpu && *xid == heard.xid;
            if self.recent.iter().any(|recent| same(&recent)) {
                continue;
            }
            self.recent.push_back((heard.gpu.clone(), heard.xid, now));
            new.push(heard);
        }
        new
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
        if let Some(listener) = self.listener.take() {
            self.untold_of(listener);
        }
        if !ears.is_empty() {
            self.listener = Some(Listener::start(&plugin.root, libraries.nvml.clone(), ears));
        }
    }

    fn untold_of(&mut self, listener: Listener) {
        let last = listener.end();
        let new = self.gather(last);
        self.untold.extend(new);
    }

    /// Waits until then at the longest, or until something is heard.
    fn rest(&mut self, end: Instant) {
        let heard = match &self.listener {
            Some(listener) => listener.until(end),
            None => {
                std::thread::sleep(end.saturating_duration_since(Instant::now()));
                vec![]
            }
        };
        let new = self.gather(heard);
        self.untold.extend(new);
        self.untold.truncate(MOST);
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
            watching.log = Log::open(&self.root.under("dev/kmsg"));
        }
        loop {
            let signs = self.root.signs();
            let due = watching.last.as_ref().is_none_or(|last| {
                last.signs != signs || last.at.elapsed() >= self.pause(&last.found)
            });
            let libraries = self.libraries()?;
            let mut incidents = vec![];
            if due || !watching.untold.is_empty() {
                if let Some(listener) = watching.listener.take() {
                    watching.untold_of(listener);
                }
                self.remember(&watching.untold);
                let machine = self.machine(&libraries)?;
                incidents = told(&watching.untold, &machine, &self.config.xid);
                watching.untold.clear();
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
            watching.rest(end.min(Instant::now() + GLANCE));
        }
    }

    /// How long a look holds.
    fn pause(&self, found: &Discovery) -> Duration {
        let ill = |device: &divvy_plugin::Device| {
            device.health.state == divvy_plugin::HealthState::Unhealthy
        };
        match found.devices.iter().any(ill) {
            true => ILL.min(self.config.look),
            false => self.config.look,
        }
    }

    /// Keeps what closes GPUs until it is over.
    fn remember(&self, heard: &[Heard]) {
        let now = Now::here();
        let new: Vec<Condition> = heard
            .iter()
            .filter_map(|heard| {
                let judged = xid::judge(heard.xid, &self.config.xid);
                Condition::new(&heard.gpu, heard.xid, judged, &now)
            })
            .collect();
        if new.is_empty() {
            return;
        }
        // What cannot be kept is said with the look that follows.
        self.kept.update(&mut vec![], |mut all| {
            for condition in new {
                conditions::add(&mut all, condition);
            }
            all
        });
    }
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
    let there = |heard: &&Heard| machine.units.iter().any(|unit| unit.device.id == heard.gpu);
    let one = |heard: &Heard| {
        let instance = machine.units.iter().find(|unit| {
            unit.gi.is_some()
                && unit.gi == heard.gi
                && unit.device.parent.as_deref() == Some(&heard.gpu)
        });
        let (what, outcome) = xid::judge(heard.xid, overrides);
        let class = match outcome {
            Outcome::Ignore => IncidentClass::Notice,
            Outcome::Application => IncidentClass::Application,
            Outcome::Reset | Outcome::Replace => IncidentClass::Device,
        };
        Incident {
            device: instance.map_or(&heard.gpu, |unit| &unit.device.id).clone(),
            code: format!("xid-{}", heard.xid),
            class,
            summary: format!("XID {}: {what} ({})", heard.xid, outcome.word()),
            pid: heard.pid,
            start: heard.gi.and_then(|gi| start(machine, &heard.gpu, gi)),
        }
    };
    heard.iter().filter(there).map(one).collect()
}

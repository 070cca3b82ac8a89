//! What is shown, made of what was fetched. No input, no clock, no colours: the time comes
//! with each call.
//!
//! [`Model::take`] takes documents in as they come, each on its own, so that one that does
//! not come keeps no other from being shown; [`Model::view`] is the screen's content now,
//! with the age of what is old. Amounts stay integers; parts of a whole are millionths.

mod devices;
mod found;
mod health;
mod parts;
mod rates;
mod text;
mod workloads;

pub(super) use devices::{DeviceRow, Group, Kind};
pub(super) use parts::{Bar, Segment};
pub(super) use text::{bytes, rounded, steady, used_of};
pub(super) use workloads::WorkloadRow;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::agent::events::Event;
use crate::agent::{Devices, Samples};
use crate::cli::output::{clock, printable};
use crate::model::{Amount, Record, State};
use found::Found;
use rates::{Histories, Rates};

/// Figures older than this are shown with their age.
const OLD_MS: u64 = 5_000;
/// Figures older than this say nothing of now, and are not shown.
const GONE_MS: u64 = 30_000;
/// So many events are kept.
const EVENTS: usize = 20;
/// The whole of something, in millionths.
pub(super) const WHOLE: u32 = 1_000_000;

/// Something that was fetched, or the reason why not.
#[derive(Debug)]
pub(super) enum News {
    /// What there is, and who holds it.
    Devices(Result<Devices, String>),
    /// The workloads.
    Workloads(Result<Vec<Record>, String>),
    /// What is used.
    Samples(Result<Samples, String>),
    /// Who answers.
    Agent(Agent),
    /// Something happened.
    Event(Box<Event>),
    /// What became of a deed of the user's, for people.
    Said(String),
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Agent {
    /// This process by itself.
    #[default]
    None,
    /// An agent that does not answer at the moment.
    Away,
    /// An agent of this version.
    There(String),
}

/// One document, when it came, and why none came since.
#[derive(Debug)]
struct Part<T> {
    value: Option<T>,
    at_ms: u64,
    error: Option<String>,
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self {
            value: None,
            at_ms: 0,
            error: None,
        }
    }
}

impl<T> Part<T> {
    fn take(&mut self, fetched: Result<T, String>, now_ms: u64) {
        match fetched {
            Ok(value) => {
                *self = Self {
                    value: Some(value),
                    at_ms: now_ms,
                    error: None,
                }
            }
            Err(error) => self.error = Some(error),
        }
    }

    /// How long ago it came.
    fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.at_ms)
    }
}

/// Everything that is known.
#[derive(Debug, Default)]
pub(super) struct Model {
    host: String,
    /// Names of users.
    users: BTreeMap<u32, String>,
    agent: Agent,
    devices: Part<Found>,
    workloads: Part<Vec<Record>>,
    samples: Part<Samples>,
    events: VecDeque<Event>,
    rates: Rates,
    histories: Histories,
    colours: BTreeMap<String, usize>,
}

/// The screen's content.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// The machine's name.
    pub(super) host: String,
    /// `3 of 8 gpu free`, `64 cores`, `512 GiB`.
    pub(super) summary: Vec<String>,
    /// Who answers.
    pub(super) agent: Agent,
    /// The time of day.
    pub(super) clock: String,
    /// Why what is shown is not of now, if so.
    pub(super) warning: Option<String>,
    /// Devices by kind; cores and memory last.
    pub(super) groups: Vec<Group>,
    /// What is wrong with the machine's plugins or ledger.
    pub(super) problems: Vec<String>,
    /// The workloads that hold something.
    pub(super) workloads: Vec<WorkloadRow>,
    /// Why none are known, if so.
    pub(super) unknown: Option<String>,
    /// What happened last, newest last.
    pub(super) events: Vec<String>,
    /// Has anything been answered yet?
    pub(super) is_empty: bool,
}

/// How a figure or a word is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As everything.
    Plain,
    /// Of less weight.
    Dim,
    /// Something to know of.
    Warn,
    /// Something is wrong.
    Bad,
}

/// How old figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Of now.
    Fresh,
    /// So many seconds.
    Old(u64),
    /// Too old to be shown, or there are none.
    Gone,
}

impl Age {
    fn of(ms: u64) -> Self {
        match ms {
            0..=OLD_MS => Self::Fresh,
            ms if ms <= GONE_MS => Self::Old(ms / 1000),
            _ => Self::Gone,
        }
    }
}

// === impl Model ===

impl Model {
    pub(super) fn new(host: String, users: BTreeMap<u32, String>) -> Self {
        Self {
            host,
            users,
            ..Self::default()
        }
    }

    /// Takes in what was fetched. What is only said to the user is not of the model.
    pub(super) fn take(&mut self, news: News, now_ms: u64) {
        match news {
            News::Devices(devices) => self.devices.take(devices.map(Found::new), now_ms),
            News::Workloads(workloads) => {
                self.workloads.take(workloads, now_ms);
                self.colour();
            }
            News::Samples(samples) => {
                self.samples.take(samples, now_ms);
                self.measure();
            }
            News::Agent(agent) => self.agent = agent,
            News::Event(event) => {
                self.events.push_back(*event);
                if self.events.len() > EVENTS {
                    self.events.pop_front();
                }
            }
            News::Said(_) => {}
        }
    }

    /// Are there figures of now for everything that has them?
    pub(super) fn is_complete(&self) -> bool {
        let counts = |s: &Samples| {
            let counters = s.devices.iter().any(|d| d.measures.contains_key(BUSY));
            !counters || self.rates.any(BUSY)
        };
        self.devices.value.is_some() && self.samples.value.as_ref().is_some_and(counts)
    }

    /// The screen's content at this time, of what has `filter` in it.
    pub(super) fn view(&self, now_ms: u64, filter: &str) -> View {
        let filter = filter.to_lowercase();
        let groups = self.groups(now_ms, &filter);
        let mut view = View {
            host: self.host.clone(),
            summary: self.summary(),
            agent: self.agent.clone(),
            clock: clock(now_ms),
            warning: self.warning(now_ms),
            groups,
            problems: self.problems(),
            workloads: self.workload_rows(now_ms, &filter),
            unknown: None,
            events: self.events.iter().map(event).collect(),
            is_empty: self.devices.value.is_none(),
        };
        if self.workloads.value.is_none() {
            view.unknown.clone_from(&self.workloads.error);
        }
        view
    }

    /// The record of this name.
    pub(super) fn record(&self, name: &str) -> Option<&Record> {
        self.records().iter().find(|r| r.name == name)
    }

    fn records(&self) -> &[Record] {
        self.workloads.value.as_deref().unwrap_or_default()
    }

    /// Each workload keeps its colour as long as it is there, and as few have the same as
    /// can be.
    fn colour(&mut self) {
        let records = self.workloads.value.iter().flatten();
        let held: Vec<&str> = records
            .filter(|r| r.holds())
            .map(|r| r.name.as_str())
            .collect();
        self.colours.retain(|name, _| held.contains(&name.as_str()));
        for name in held {
            if !self.colours.contains_key(name) {
                let taken: BTreeSet<usize> = self.colours.values().copied().collect();
                let free = (0..).find(|n| !taken.contains(n)).unwrap_or(0);
                self.colours.insert(name.to_owned(), free);
            }
        }
    }

    fn measure(&mut self) {
        let Some(samples) = &self.samples.value else {
            return;
        };
        let at = |plugin: &str| {
            let plugin = samples.plugins.iter().find(|p| p.plugin == plugin)?;
            Some(samples.taken_ms.saturating_sub(plugin.age_ms?))
        };
        self.rates.begin();
        for device in &samples.devices {
            let (Some(at), key) = (at(&device.plugin), key(&device.plugin, &device.id)) else {
                continue;
            };
            if let Some(busy) = device.measures.get(BUSY) {
                self.rates.note(&key, BUSY, at, *busy);
            }
            if let Some(ratio) = device.measures.get(UTILIZATION) {
                self.histories
                    .note(&key, at, millionths(*ratio, Amount::ONE));
            }
        }
        for workload in &samples.workloads {
            if let Some(cpu) = workload.measures.get(CPU) {
                self.rates.note(&workload.id, CPU, samples.taken_ms, *cpu);
            }
        }
        self.rates.end();
        let busy = self.cores_busy();
        if let Some((at, busy)) = busy {
            self.histories.note(CORES, at, busy);
        }
    }

    fn summary(&self) -> Vec<String> {
        let found = self.devices.value.as_ref();
        found.map_or_else(Vec::new, Found::summary)
    }

    fn problems(&self) -> Vec<String> {
        let Some(Found { devices, .. }) = &self.devices.value else {
            return vec![];
        };
        let failed = devices.failed_plugins.iter().filter(|f| !f.absent);
        let failed = failed.map(|f| f.message.clone());
        let all = failed.chain(devices.problems.iter().cloned());
        all.map(|text| printable(&text)).collect()
    }

    /// Why what is shown is not of now.
    fn warning(&self, now_ms: u64) -> Option<String> {
        let age = |ms: u64| format!("{} s old", ms / 1000);
        let parts = [
            (
                self.devices.error.as_ref(),
                self.devices.value.as_ref().map(|f| f.devices.age_ms),
                self.devices.age_ms(now_ms),
            ),
            (
                self.samples.error.as_ref(),
                self.samples.value.as_ref().map(|_| 0),
                self.samples.age_ms(now_ms),
            ),
        ];
        for (error, own, since) in parts {
            match (error, own) {
                (Some(error), None) => return Some(printable(error)),
                (error, Some(own)) if own.saturating_add(since) > OLD_MS => {
                    let age = age(own.saturating_add(since));
                    let why = error.map_or_else(String::new, |e| format!(": {}", printable(e)));
                    return Some(format!("{age}{why}"));
                }
                _ => {}
            }
        }
        None
    }
}

/// The counter of a core's time.
const BUSY: &str = "busy_seconds_total";
/// The counter of a workload's time on cores.
const CPU: &str = "cpu_seconds_total";
/// What part of a device's time it computed.
const UTILIZATION: &str = "utilization_ratio";
/// The key of all cores together.
const CORES: &str = "cores";
/// The key of all memory together.
const MEMORY: &str = "memory";

/// A device's name in the whole machine.
fn key(plugin: &str, id: &str) -> String {
    format!("{plugin}/{id}")
}

/// What part of the whole it is; more than all of it is all of it.
fn millionths(part: Amount, of: Amount) -> u32 {
    let whole = Amount::from_units(WHOLE.into());
    let millionths = whole.scaled(part, of).map_or(0, Amount::whole_units);
    u32::try_from(millionths).unwrap_or(WHOLE).min(WHOLE)
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::ZERO, |sum, amount| {
        sum.checked_add(amount).unwrap_or(Amount::MAX)
    })
}

fn event(event: &Event) -> String {
    format!(
        "{} {} {}: {}",
        clock(event.at_ms),
        event.kind,
        printable(&event.subject),
        printable(&event.message)
    )
}

/// Does a workload that stands so belong on the screen?
fn is_shown(record: &Record) -> bool {
    record.state != State::Exited
}

#[cfg(test)]
mod tests;

//! Workloads as rows.

use std::collections::{BTreeMap, BTreeSet};

use super::found::Class;
use super::{Age, CORES, CPU, MEMORY, Model, Tone, UTILIZATION, is_shown, key, millionths, sum};
use crate::agent::WorkloadSample;
use crate::cli::output::{printable, span, unit_of};
use crate::model::{Amount, Record, Slice, State, format_amount};

/// A row of workloads.
#[derive(Clone, Debug)]
pub(in super::super) struct WorkloadRow {
    /// Its name.
    pub(in super::super) name: String,
    /// Its id.
    pub(in super::super) id: String,
    /// Its colour.
    pub(in super::super) colour: Option<usize>,
    /// On whose behalf it runs.
    pub(in super::super) owner: String,
    /// Where it stands.
    pub(in super::super) state: &'static str,
    /// Whether that is as it should be.
    pub(in super::super) tone: Tone,
    /// What it holds besides cores and memory.
    pub(in super::super) holds: String,
    /// How many cores it uses, and has.
    pub(in super::super) cores: (Option<Amount>, Option<Amount>),
    /// How much memory it uses, and has.
    pub(in super::super) memory: (Option<Amount>, Option<Amount>),
    /// The same of devices.
    pub(in super::super) device_memory: (Option<Amount>, Option<Amount>),
    /// What part of its devices' time it uses, in millionths.
    pub(in super::super) busy: Option<u32>,
    /// How long it is there.
    pub(in super::super) age: String,
    /// The rows of devices of which it holds a part.
    pub(in super::super) devices: BTreeSet<String>,
}

impl Model {
    pub(super) fn workload_rows(&self, now_ms: u64, filter: &str) -> Vec<WorkloadRow> {
        let shown = self.records().iter().filter(|r| is_shown(r));
        let rows = shown.map(|record| self.workload(record, now_ms));
        rows.filter(|row| {
            let texts = [&row.name, &row.id, &row.owner, &row.holds];
            let mut texts = texts.into_iter().chain(&row.devices);
            filter.is_empty() || texts.any(|text| text.to_lowercase().contains(filter))
        })
        .collect()
    }

    fn workload(&self, record: &Record, now_ms: u64) -> WorkloadRow {
        let own = self.samples.age_ms(now_ms);
        let samples = self.samples.value.as_ref();
        let sample = samples.and_then(|s| s.workloads.iter().find(|w| w.id == record.id));
        let sample = sample.filter(|_| Age::of(own) != Age::Gone);
        let measure = |name: &str| sample.and_then(|s| s.measures.get(name)).copied();
        let limit = |slot: &str| {
            let slices = record.slices.iter().filter(|s| s.part.slot == slot);
            let all: Vec<Amount> = slices.map(|s| s.part.amount).collect();
            (!all.is_empty()).then(|| sum(all.into_iter()))
        };
        WorkloadRow {
            colour: self.colours.get(&record.name).copied(),
            owner: self.user(record.owner),
            state: record.state.word(),
            tone: match record.state {
                State::Running => Tone::Plain,
                State::Preparing | State::Releasing => Tone::Warn,
                State::Exited => Tone::Dim,
            },
            holds: holds(record),
            cores: (
                sample.and_then(|_| self.rates.get(&record.id, CPU)),
                limit("cpu"),
            ),
            memory: (measure("memory_used_bytes"), limit("mem")),
            device_memory: self.device_memory(record, sample, now_ms),
            busy: self.busy(sample, now_ms),
            age: span(now_ms.saturating_sub(record.created_ms)),
            devices: self.rows_of(record),
            name: record.name.clone(),
            id: record.id.clone(),
        }
    }

    fn user(&self, uid: u32) -> String {
        let name = self.users.get(&uid);
        name.map_or_else(|| uid.to_string(), |name| printable(name))
    }

    /// What it uses of its devices' memory, and how much of that it holds.
    fn device_memory(
        &self,
        record: &Record,
        sample: Option<&WorkloadSample>,
        now_ms: u64,
    ) -> (Option<Amount>, Option<Amount>) {
        let measured = self.of_devices(sample, "memory_used_bytes", now_ms);
        let used = (!measured.is_empty()).then(|| sum(measured.into_iter()));
        let Some(found) = &self.devices.value else {
            return (used, None);
        };
        let held: Vec<Amount> = record
            .slices
            .iter()
            .filter(|s| !matches!(s.part.slot.as_str(), "cpu" | "mem"))
            .flat_map(|s| s.part.capacities.iter().map(move |(c, a)| (s, c, *a)))
            .filter(|(s, capacity, _)| found.devices.unit(&s.plugin, capacity) == "byte")
            .map(|(_, _, amount)| amount)
            .collect();
        (used, (!held.is_empty()).then(|| sum(held.into_iter())))
    }

    /// Over its devices, as far as plugins measure that of processes.
    fn busy(&self, sample: Option<&WorkloadSample>, now_ms: u64) -> Option<u32> {
        let all = self.of_devices(sample, UTILIZATION, now_ms);
        let count = u64::try_from(all.len()).ok().filter(|n| *n > 0)?;
        Some(millionths(sum(all.into_iter()), Amount::from_units(count)))
    }

    fn of_devices(
        &self,
        sample: Option<&WorkloadSample>,
        measure: &str,
        now_ms: u64,
    ) -> Vec<Amount> {
        let devices = sample.into_iter().flat_map(|s| &s.devices);
        devices
            .filter(|d| self.age(&d.plugin, now_ms) != Age::Gone)
            .filter_map(|d| d.measures.get(measure).copied())
            .collect()
    }

    /// The rows of devices of which it holds a part.
    fn rows_of(&self, record: &Record) -> BTreeSet<String> {
        let Some(found) = &self.devices.value else {
            return BTreeSet::new();
        };
        let row = |slice: &Slice| {
            let key = key(&slice.plugin, &slice.part.device);
            match found.class(&key) {
                Some(Class::Cores) => CORES.to_owned(),
                Some(Class::Memory) => MEMORY.to_owned(),
                _ => key,
            }
        };
        record.slices.iter().map(row).collect()
    }
}

/// `cuda.shares 0.5`.
fn holds(record: &Record) -> String {
    let mut slots: BTreeMap<&str, Amount> = BTreeMap::new();
    for slice in &record.slices {
        let sum = slots.entry(&slice.part.slot).or_default();
        *sum = sum.checked_add(slice.part.amount).unwrap_or(*sum);
    }
    let others = slots
        .into_iter()
        .filter(|(slot, _)| !matches!(*slot, "cpu" | "mem"));
    let texts: Vec<String> = others
        .map(|(slot, amount)| format!("{slot} {}", format_amount(amount, unit_of(slot))))
        .collect();
    texts.join(", ")
}

//! Devices as rows: accelerators one each, all cores and all memory one.

use std::collections::BTreeSet;

use super::found::{Class, Found, key_of};
use super::health::{is_usable, tone, trouble};
use super::parts::{Bar, usable};
use super::{Age, BUSY, CORES, MEMORY, Model, Tone, UTILIZATION, key, millionths, sum};
use crate::agent::{DeviceView, Devices, Measures, Usage};
use crate::cli::output::printable;
use crate::model::{Amount, Value};

/// Devices of one kind.
#[derive(Clone, Debug)]
pub(in super::super) struct Group {
    /// `gpu`; of cores and memory `host`.
    pub(in super::super) kind: String,
    /// What they are, if they are all the same.
    pub(in super::super) model: Option<String>,
    /// Why their figures are old, if they are.
    pub(in super::super) note: Option<String>,
    /// The devices.
    pub(in super::super) rows: Vec<DeviceRow>,
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    /// A device.
    Device,
    /// A hardware partition of the one above.
    Partition,
    /// All cores.
    Cores,
    /// All memory.
    Memory,
}

/// A row of devices.
#[derive(Clone, Debug)]
pub(in super::super) struct DeviceRow {
    /// `cuda/GPU-…`; `cores` and `memory`.
    pub(in super::super) key: String,
    /// What it is.
    pub(in super::super) kind: Kind,
    /// Its id, as short as it is still the only one; or what it is.
    pub(in super::super) name: String,
    /// Its model, if those of its kind differ.
    pub(in super::super) model: Option<String>,
    /// Can it be worked with?
    pub(in super::super) tone: Tone,
    /// Can what is free of it be had?
    pub(in super::super) usable: bool,
    /// Who holds what part of it.
    pub(in super::super) bar: Bar,
    /// What part is held, in millionths.
    pub(in super::super) held: Option<u32>,
    /// What part of its time it works, in millionths.
    pub(in super::super) busy: Option<u32>,
    /// The same in the past, newest last.
    pub(in super::super) past: Vec<u32>,
    /// How much of it is used: bytes, cores.
    pub(in super::super) used: Option<Amount>,
    /// Of how much.
    pub(in super::super) total: Option<Amount>,
    /// In degrees Celsius.
    pub(in super::super) temperature: Option<Amount>,
    /// Is it slowed by heat?
    pub(in super::super) hot: bool,
    /// In watts.
    pub(in super::super) power: Option<Amount>,
    /// How old its figures are.
    pub(in super::super) age: Age,
    /// What is to be said of it.
    pub(in super::super) notes: Vec<(Tone, String)>,
    /// Who holds a part of it.
    pub(in super::super) holders: BTreeSet<String>,
}

impl Model {
    pub(super) fn groups(&self, now_ms: u64, filter: &str) -> Vec<Group> {
        let Some(found) = &self.devices.value else {
            return vec![];
        };
        let mut groups: Vec<(&str, Group)> = Vec::new();
        for view in found.of(Class::Other) {
            let (plugin, kind) = (&view.device.plugin, &view.device.device.kind);
            let row = self.device(view, found, now_ms);
            let (kind, partition) = (printable(kind), row.kind == Kind::Partition);
            let mut known = groups.iter_mut();
            let group = known.find(|(p, g)| p == plugin && (g.kind == kind || partition));
            match group {
                Some((_, group)) => group.rows.push(row),
                None => groups.push((
                    plugin,
                    Group {
                        kind,
                        model: None,
                        note: self.note(plugin, now_ms),
                        rows: vec![row],
                    },
                )),
            }
        }
        let mut groups: Vec<Group> = groups.into_iter().map(|(_, group)| group).collect();
        for group in &mut groups {
            group.join_models();
        }
        groups.extend(self.host_group(found, now_ms));
        for group in &mut groups {
            group.filter(filter);
        }
        groups.retain(|g| !g.rows.is_empty());
        groups
    }

    /// Cores and memory.
    fn host_group(&self, found: &Found, now_ms: u64) -> Option<Group> {
        let cores: Vec<&DeviceView> = found.of(Class::Cores).collect();
        let memory: Vec<&DeviceView> = found.of(Class::Memory).collect();
        let plugin = cores.iter().chain(&memory).next()?.device.plugin.clone();
        let mut rows = Vec::new();
        if let Some(first) = cores.first() {
            let mut row = self.together(&cores, found, Kind::Cores, now_ms);
            row.busy = self.cores_busy().map(|(_, busy)| busy);
            row.past = self.histories.get(CORES);
            row.used = self.cores_rate();
            if row.age == Age::Gone {
                (row.busy, row.used, row.past) = (None, None, vec![]);
            }
            row.total = Some(sum(cores.iter().filter_map(|v| threads(v))));
            row.model = Some(printable(&first.device.device.model));
            rows.push(row);
        }
        if !memory.is_empty() {
            let mut row = self.together(&memory, found, Kind::Memory, now_ms);
            let measured = |name: &str| {
                let all: Option<Vec<Amount>> = memory
                    .iter()
                    .map(|v| {
                        self.measures(&v.device.plugin, &v.device.device.id)?
                            .get(name)
                            .copied()
                    })
                    .collect();
                all.map(|all| sum(all.into_iter()))
                    .filter(|_| row.age != Age::Gone)
            };
            row.used = measured("memory_used_bytes");
            let capacity = || {
                sum(memory
                    .iter()
                    .flat_map(|v| v.usage.values())
                    .map(|u| u.total))
            };
            row.total = Some(measured("memory_total_bytes").unwrap_or_else(capacity));
            row.busy = row
                .used
                .zip(row.total)
                .map(|(used, of)| millionths(used, of));
            rows.push(row);
        }
        let model = rows.iter_mut().find_map(|row| row.model.take());
        Some(Group {
            kind: "host".into(),
            model,
            note: self.note(&plugin, now_ms),
            rows,
        })
    }

    /// One row of many devices.
    fn together(&self, views: &[&DeviceView], found: &Found, kind: Kind, now_ms: u64) -> DeviceRow {
        let all = || views.iter().flat_map(|v| v.usage.values());
        let (total, used) = (sum(all().map(usable)), sum(all().map(|u| u.used)));
        let keys: BTreeSet<String> = views.iter().map(|v| key_of(v)).collect();
        let mut parts: Vec<(Option<String>, Amount)> = Vec::new();
        for holding in &found.devices.held {
            let own = holding.slices.iter();
            let own = own.filter(|s| keys.contains(&key(&s.plugin, &s.part.device)));
            let own = sum(own.flat_map(|s| s.part.capacities.values().copied()));
            if !own.is_zero() {
                parts.push((Some(holding.name.clone()), own));
            }
        }
        let plugin = views.first().map_or("", |v| v.device.plugin.as_str());
        let (key, name) = match kind {
            Kind::Memory => (MEMORY, "memory".to_owned()),
            _ => (CORES, "cores".to_owned()),
        };
        DeviceRow {
            bar: self.bar(parts, used, total, found),
            held: found.devices.usage_known.then(|| millionths(used, total)),
            age: self.age(plugin, now_ms),
            notes: views.iter().filter_map(|v| trouble(v, true)).collect(),
            holders: views.iter().flat_map(|v| v.holders.clone()).collect(),
            ..DeviceRow::new(key.to_owned(), kind, name)
        }
    }

    fn device(&self, view: &DeviceView, found: &Found, now_ms: u64) -> DeviceRow {
        let device = &view.device.device;
        let plugin = &view.device.plugin;
        let key = key(plugin, &device.id);
        let kind = match device.parent {
            Some(_) => Kind::Partition,
            None => Kind::Device,
        };
        let name = found.name(&key);
        let age = self.age(plugin, now_ms);
        let fresh = |_: &_| age != Age::Gone;
        let measures = self.measures(plugin, &device.id).filter(fresh);
        let measure = |name: &str| measures.and_then(|m| m.get(name)).copied();
        let busy = measure(UTILIZATION).map(|r| millionths(r, Amount::ONE));
        let (bar, held) = self.parts(view, found);
        DeviceRow {
            model: Some(printable(&device.model)),
            tone: tone(view),
            usable: is_usable(view),
            bar,
            held,
            past: match busy {
                Some(_) => self.histories.get(&key),
                None => vec![],
            },
            busy,
            used: measure("memory_used_bytes"),
            total: measure("memory_total_bytes").or_else(|| memory(view, &found.devices)),
            temperature: measure("temperature_celsius"),
            hot: measure("slowed_by_heat_ratio").is_some_and(|r| !r.is_zero()),
            power: measure("power_watts"),
            age,
            notes: self.notes(view, now_ms),
            holders: view.holders.iter().cloned().collect(),
            ..DeviceRow::new(key, kind, name)
        }
    }

    /// What was measured of a device.
    pub(in super::super) fn measures(&self, plugin: &str, id: &str) -> Option<&Measures> {
        let samples = self.samples.value.as_ref()?;
        let mut all = samples.devices.iter();
        let found = all.find(|d| d.plugin == plugin && d.id == id);
        found.map(|d| &d.measures)
    }

    /// All devices, once they are known.
    pub(in super::super) fn all(&self) -> Option<&Devices> {
        self.devices.value.as_ref().map(|found| &found.devices)
    }

    /// The devices that a row stands for: one, or all cores, or all memory.
    pub(in super::super) fn views_in(&self, row: &str) -> Vec<&DeviceView> {
        let Some(found) = &self.devices.value else {
            return vec![];
        };
        match row {
            CORES => found.of(Class::Cores).collect(),
            MEMORY => found.of(Class::Memory).collect(),
            key => found.device(key).into_iter().collect(),
        }
    }

    /// How old the figures of a plugin's devices are.
    pub(super) fn age(&self, plugin: &str, now_ms: u64) -> Age {
        match self.age_ms(plugin, now_ms) {
            Some(ms) => Age::of(ms),
            None => Age::Gone,
        }
    }

    fn age_ms(&self, plugin: &str, now_ms: u64) -> Option<u64> {
        let samples = self.samples.value.as_ref()?;
        let plugin = samples.plugins.iter().find(|p| p.plugin == plugin)?;
        Some(plugin.age_ms?.saturating_add(self.samples.age_ms(now_ms)))
    }

    /// Why a plugin's figures are old.
    fn note(&self, plugin: &str, now_ms: u64) -> Option<String> {
        let samples = self.samples.value.as_ref()?;
        let known = samples.plugins.iter().find(|p| p.plugin == plugin)?;
        let error = known.error.as_ref().filter(|e| !e.absent);
        let error = error.map(|e| printable(&e.message));
        match (self.age(plugin, now_ms), self.age_ms(plugin, now_ms)) {
            (Age::Fresh, _) => None,
            (_, Some(ms)) => {
                let why = error.map_or_else(String::new, |e| format!(": {e}"));
                Some(format!("{} s old{why}", ms / 1000))
            }
            (_, None) => error.map(|e| format!("not measured: {e}")),
        }
    }

    /// How much the cores work, in cores' threads, and what part of all that is.
    fn cores_rate(&self) -> Option<Amount> {
        let cores = self.views_in(CORES);
        let rates: Option<Vec<Amount>> = cores
            .iter()
            .map(|v| self.rates.get(&key_of(v), BUSY))
            .collect();
        let rates = rates.filter(|all| !all.is_empty())?;
        Some(sum(rates.into_iter()))
    }

    /// When was measured what part of the cores' time they work.
    pub(super) fn cores_busy(&self) -> Option<(u64, u32)> {
        let cores = self.views_in(CORES);
        let at = self.rates.at_ms(&key_of(cores.first()?), BUSY)?;
        let all = sum(cores.iter().filter_map(|v| threads(v)));
        Some((at, millionths(self.cores_rate()?, all)))
    }
}

impl DeviceRow {
    fn new(key: String, kind: Kind, name: String) -> Self {
        Self {
            key,
            kind,
            name,
            model: None,
            tone: Tone::Plain,
            usable: true,
            bar: Bar::Unknown,
            held: None,
            busy: None,
            past: vec![],
            used: None,
            total: None,
            temperature: None,
            hot: false,
            power: None,
            age: Age::Gone,
            notes: vec![],
            holders: BTreeSet::new(),
        }
    }
}

impl Group {
    /// A model that all have is the group's; of partitions the rest of theirs is shown.
    fn join_models(&mut self) {
        let mut of = None;
        for row in &mut self.rows {
            match (row.kind, &of, &row.model) {
                (Kind::Partition, Some(whole), Some(model)) => {
                    let rest = model.strip_prefix(whole).unwrap_or(model).trim();
                    row.model = Some(rest.to_owned());
                }
                _ => of.clone_from(&row.model),
            }
        }
        let mut devices = self.rows.iter().filter(|r| r.kind == Kind::Device);
        let Some(first) = devices.next().map(|r| r.model.clone()) else {
            return;
        };
        if devices.all(|r| r.model == first) {
            self.model = first;
            for row in self.rows.iter_mut().filter(|r| r.kind == Kind::Device) {
                row.model = None;
            }
        }
    }

    fn filter(&mut self, filter: &str) {
        if filter.is_empty() {
            return;
        }
        let all = [Some(&self.kind), self.model.as_ref()];
        if all
            .into_iter()
            .flatten()
            .any(|t| t.to_lowercase().contains(filter))
        {
            return;
        }
        self.rows.retain(|row| {
            let own = [Some(&row.key), Some(&row.name), row.model.as_ref()];
            let texts = own.into_iter().flatten().chain(&row.holders);
            let mut texts = texts.chain(row.notes.iter().map(|(_, text)| text));
            texts.any(|text| text.to_lowercase().contains(filter))
        });
    }
}

/// The memory of a device, as far as it offers any.
fn memory(view: &DeviceView, devices: &Devices) -> Option<Amount> {
    let mut all = view.usage.iter();
    let bytes = |(name, _): &(&String, &Usage)| devices.unit(&view.device.plugin, name) == "byte";
    let total = all.find(bytes).map(|(_, usage)| usage.total);
    total.filter(|total| !total.is_zero())
}

/// A core's hardware threads.
fn threads(view: &DeviceView) -> Option<Amount> {
    let threads = view.device.device.attributes.get("threads");
    match threads.map(|a| &a.value) {
        Some(Value::Int(n)) => Some(Amount::from_units(u64::try_from(*n).ok()?)),
        _ => Some(Amount::ONE),
    }
}

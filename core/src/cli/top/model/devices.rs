//! Devices as rows: accelerators one each, all cores and all memory one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Age, BUSY, CORES, MEMORY, Model, Tone, UTILIZATION, WHOLE, key, millionths, sum};
use super::{bytes, rounded};
use crate::agent::{DeviceView, Devices, IncidentView, Measures, Usage};
use crate::cli::describe::told;
use crate::cli::output::printable;
use crate::model::{Amount, HealthState, Slice, Value};

/// What happened to a device is said for so long.
const LATELY_MS: u64 = 600_000;
/// Shorter names are not made shorter.
const SHORT: usize = 8;

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

/// What is drawn of who holds what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Bar {
    /// Nobody may know.
    Unknown,
    /// It is cut into partitions, which have rows of their own: so many, and so many free.
    Cut(usize, usize),
    /// Parts, in the order of their places.
    Parts(Vec<Segment>),
}

/// A part of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Segment {
    /// Who holds it; nobody that may be known: none.
    pub(in super::super) holder: Option<String>,
    /// Its holder's colour.
    pub(in super::super) colour: Option<usize>,
    /// Where it begins, in millionths of the device.
    pub(in super::super) from: u32,
    /// Where it ends.
    pub(in super::super) to: u32,
}

/// The class of what can be had of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Cores,
    Memory,
    Other,
}

/// What is said of the machine in one line.
pub(super) fn summary(devices: &Devices) -> Vec<String> {
    let mut all = Vec::new();
    let mut kinds: Vec<&str> = Vec::new();
    let others = || {
        devices
            .devices
            .iter()
            .filter(|v| class(v, devices) == Class::Other)
    };
    for view in others() {
        if !kinds.contains(&view.device.device.kind.as_str()) {
            kinds.push(&view.device.device.kind);
        }
    }
    for kind in kinds {
        let of = || others().filter(|v| v.device.device.kind == kind);
        let kind = printable(kind);
        if !devices.usage_known {
            all.push(format!("{} {kind}", of().count()));
            continue;
        }
        let free = of().filter(|v| is_free(v, devices)).count();
        all.push(format!("{free} of {} {kind} free", of().count()));
    }
    let total = |class_of: Class| {
        let of = devices
            .devices
            .iter()
            .filter(|v| class(v, devices) == class_of);
        sum(of.flat_map(|v| v.usage.values()).map(|u| u.total))
    };
    let (cores, memory) = (total(Class::Cores), total(Class::Memory));
    if !cores.is_zero() {
        let s = if cores == Amount::ONE { "" } else { "s" };
        all.push(format!("{} core{s}", rounded(cores, 2)));
    }
    if !memory.is_zero() {
        all.push(bytes(memory));
    }
    all
}

/// Could all of it be had now?
fn is_free(view: &DeviceView, devices: &Devices) -> bool {
    let id = Some(&view.device.device.id);
    let mut partitions = devices
        .devices
        .iter()
        .filter(|v| v.device.plugin == view.device.plugin && v.device.device.parent.as_ref() == id);
    is_usable(view) && is_idle(view) && partitions.all(is_idle)
}

/// Can what is free of it be had?
fn is_usable(view: &DeviceView) -> bool {
    let health = view.device.device.health.state;
    matches!(health, HealthState::Healthy | HealthState::Degraded)
        && view.closed.is_none()
        && !view.stuck
}

fn is_idle(view: &DeviceView) -> bool {
    view.usage.values().all(|u| u.used.is_zero())
}

pub(super) fn class(view: &DeviceView, devices: &Devices) -> Class {
    let offered = |class: &str| {
        let mut slots = devices.slots.iter();
        slots.any(|s| {
            let draws = &s.slot.draws;
            s.plugin == view.device.plugin
                && s.slot.class == class
                && !draws.is_empty()
                && draws.iter().all(|d| view.usage.contains_key(&d.capacity))
        })
    };
    match () {
        () if offered("cpu") => Class::Cores,
        () if offered("memory") => Class::Memory,
        () => Class::Other,
    }
}

/// All of it that can be handed out.
fn usable(usage: &Usage) -> Amount {
    usage.total.saturating_sub(usage.reserved)
}

impl Model {
    pub(super) fn groups(&self, now_ms: u64, filter: &str) -> Vec<Group> {
        let Some(devices) = &self.devices.value else {
            return vec![];
        };
        let names = short_names(devices);
        let mut groups: Vec<(&str, Group)> = Vec::new();
        for view in &devices.devices {
            if class(view, devices) != Class::Other {
                continue;
            }
            let (plugin, kind) = (&view.device.plugin, &view.device.device.kind);
            let row = self.device(view, devices, &names, now_ms);
            let (kind, partition) = (printable(kind), row.kind == Kind::Partition);
            let mut known = groups.iter_mut();
            let found = known.find(|(p, g)| p == plugin && (g.kind == kind || partition));
            match found {
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
        groups.extend(self.host_group(devices, now_ms));
        for group in &mut groups {
            group.filter(filter);
        }
        groups.retain(|g| !g.rows.is_empty());
        groups
    }

    /// Cores and memory.
    fn host_group(&self, devices: &Devices, now_ms: u64) -> Option<Group> {
        let of = |class_of: Class| {
            let all = devices.devices.iter();
            all.filter(|v| class(v, devices) == class_of)
                .collect::<Vec<_>>()
        };
        let (cores, memory) = (of(Class::Cores), of(Class::Memory));
        let plugin = cores.iter().chain(&memory).next()?.device.plugin.clone();
        let mut rows = Vec::new();
        if let Some(first) = cores.first() {
            let mut row = self.together(&cores, devices, Kind::Cores, now_ms);
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
            let mut row = self.together(&memory, devices, Kind::Memory, now_ms);
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
    fn together(
        &self,
        views: &[&DeviceView],
        devices: &Devices,
        kind: Kind,
        now_ms: u64,
    ) -> DeviceRow {
        let all = || views.iter().flat_map(|v| v.usage.values());
        let (total, used) = (sum(all().map(usable)), sum(all().map(|u| u.used)));
        let names: BTreeSet<String> = views.iter().map(|v| v.device.name().to_string()).collect();
        let mut parts: Vec<(Option<String>, Amount)> = Vec::new();
        for holding in &devices.held {
            let own = holding.slices.iter();
            let own = own.filter(|s| names.contains(&s.device().to_string()));
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
            bar: self.bar(parts, used, total, devices),
            held: devices.usage_known.then(|| millionths(used, total)),
            age: self.age(plugin, now_ms),
            notes: views.iter().filter_map(|v| trouble(v, true)).collect(),
            holders: views.iter().flat_map(|v| v.holders.clone()).collect(),
            ..DeviceRow::new(key.to_owned(), kind, name)
        }
    }

    fn device(
        &self,
        view: &DeviceView,
        devices: &Devices,
        names: &BTreeMap<String, String>,
        now_ms: u64,
    ) -> DeviceRow {
        let device = &view.device.device;
        let plugin = &view.device.plugin;
        let key = key(plugin, &device.id);
        let kind = match device.parent {
            Some(_) => Kind::Partition,
            None => Kind::Device,
        };
        let name = names
            .get(&key)
            .cloned()
            .unwrap_or_else(|| printable(&device.id));
        let age = self.age(plugin, now_ms);
        let fresh = |_: &_| age != Age::Gone;
        let measures = self.measures(plugin, &device.id).filter(fresh);
        let measure = |name: &str| measures.and_then(|m| m.get(name)).copied();
        let busy = measure(UTILIZATION).map(|r| millionths(r, Amount::ONE));
        let (bar, held) = self.parts(view, devices);
        let mut notes: Vec<(Tone, String)> = trouble(view, false).into_iter().collect();
        notes.extend(self.foreign(plugin, &device.id));
        let lately = |i: &&IncidentView| now_ms.saturating_sub(i.last_ms) < LATELY_MS;
        let incidents = view.incidents.iter().filter(lately);
        notes.extend(incidents.map(|i| (Tone::Warn, told(i))));
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
            total: measure("memory_total_bytes").or_else(|| memory(view, devices)),
            temperature: measure("temperature_celsius"),
            hot: measure("slowed_by_heat_ratio").is_some_and(|r| !r.is_zero()),
            power: measure("power_watts"),
            age,
            notes,
            holders: view.holders.iter().cloned().collect(),
            ..DeviceRow::new(key, kind, name)
        }
    }

    /// Who holds what part of a device, and what part is held.
    fn parts(&self, view: &DeviceView, devices: &Devices) -> (Bar, Option<u32>) {
        if !devices.usage_known {
            return (Bar::Unknown, None);
        }
        let device = &view.device.device;
        let partitions = || {
            devices.devices.iter().filter(|v| {
                v.device.plugin == view.device.plugin
                    && v.device.device.parent.as_ref() == Some(&device.id)
            })
        };
        if partitions().next().is_some() {
            let free = partitions().filter(|v| is_free(v, devices)).count();
            return (Bar::Cut(partitions().count(), free), None);
        }
        let name = view.device.name();
        let slices: Vec<(&str, &Slice)> = devices
            .held
            .iter()
            .flat_map(|h| h.slices.iter().map(move |s| (h.name.as_str(), s)))
            .filter(|(_, s)| s.device() == name)
            .collect();
        if let Some(bar) = self.positions(view, &slices) {
            let held = bar.iter().map(|s| s.to - s.from).sum::<u32>();
            return (Bar::Parts(bar), Some(held.min(WHOLE)));
        }
        // Of what is scarcest there can be no more than all.
        let scarcest = view
            .usage
            .iter()
            .max_by_key(|(_, u)| millionths(u.used, usable(u)));
        let Some((capacity, usage)) = scarcest else {
            return (Bar::Parts(vec![]), None);
        };
        let mut parts: Vec<(Option<String>, Amount)> = Vec::new();
        for (holder, slice) in slices {
            let amount = slice.part.capacities.get(capacity).copied();
            let amount = amount.unwrap_or_default();
            match parts.last_mut() {
                Some((Some(last), sum)) if last == holder => {
                    *sum = sum.checked_add(amount).unwrap_or(*sum);
                }
                _ => parts.push((Some(holder.to_owned()), amount)),
            }
        }
        let bar = self.bar(parts, usage.used, usable(usage), devices);
        (bar, Some(millionths(usage.used, usable(usage))))
    }

    /// Partitions, where they lie.
    fn positions(&self, view: &DeviceView, slices: &[(&str, &Slice)]) -> Option<Vec<Segment>> {
        let cut = view.device.device.partitioning.as_ref()?;
        let positions = u64::from(cut.positions);
        let place =
            |n: u64| u32::try_from(n * u64::from(WHOLE) / positions.max(1)).unwrap_or(WHOLE);
        let mut all: Vec<Segment> = slices
            .iter()
            .filter_map(|(holder, slice)| {
                let start = u64::from(slice.part.start?);
                let profile = cut.profiles.iter().find(|p| p.slot == slice.part.slot)?;
                Some(Segment {
                    holder: Some((*holder).to_owned()),
                    colour: self.colours.get(*holder).copied(),
                    from: place(start),
                    to: place(start + u64::from(profile.size)),
                })
            })
            .collect();
        all.sort_by_key(|s| s.from);
        (!all.is_empty()).then_some(all)
    }

    /// Parts beside each other; what is held by nobody that may be known comes last.
    fn bar(
        &self,
        mut parts: Vec<(Option<String>, Amount)>,
        used: Amount,
        total: Amount,
        devices: &Devices,
    ) -> Bar {
        if !devices.usage_known {
            return Bar::Unknown;
        }
        let known = sum(parts.iter().map(|(_, amount)| *amount));
        let unknown = used.saturating_sub(known);
        if !unknown.is_zero() {
            parts.push((None, unknown));
        }
        let mut end = Amount::ZERO;
        let segments = parts.into_iter().map(|(holder, amount)| {
            let from = millionths(end, total);
            end = end.checked_add(amount).unwrap_or(Amount::MAX);
            Segment {
                colour: holder.as_ref().and_then(|h| self.colours.get(h).copied()),
                holder,
                from,
                to: millionths(end, total),
            }
        });
        Bar::Parts(segments.collect())
    }

    /// What was measured of a device.
    pub(in super::super) fn measures(&self, plugin: &str, id: &str) -> Option<&Measures> {
        let samples = self.samples.value.as_ref()?;
        let mut all = samples.devices.iter();
        let found = all.find(|d| d.plugin == plugin && d.id == id);
        found.map(|d| &d.measures)
    }

    /// All devices.
    pub(in super::super) fn views(&self) -> &[DeviceView] {
        self.devices.value.as_ref().map_or(&[], |d| &d.devices)
    }

    /// The device of this row.
    pub(in super::super) fn view_of(&self, row: &str) -> Option<&DeviceView> {
        let mut all = self.views().iter();
        all.find(|v| v.device.name().to_string() == row)
    }

    /// The devices that the rows of cores and of memory stand for.
    pub(in super::super) fn views_in(&self, row: &str) -> Vec<&DeviceView> {
        let Some(devices) = &self.devices.value else {
            return vec![];
        };
        let class_of = match row {
            CORES => Class::Cores,
            MEMORY => Class::Memory,
            _ => return vec![],
        };
        let all = devices.devices.iter();
        all.filter(|v| class(v, devices) == class_of).collect()
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
            .map(|v| self.rates.get(&v.device.name().to_string(), BUSY))
            .collect();
        let rates = rates.filter(|all| !all.is_empty())?;
        Some(sum(rates.into_iter()))
    }

    /// When was measured what part of the cores' time they work.
    pub(super) fn cores_busy(&self) -> Option<(u64, u32)> {
        let cores = self.views_in(CORES);
        let at = self
            .rates
            .at_ms(&cores.first()?.device.name().to_string(), BUSY)?;
        let all = sum(cores.iter().filter_map(|v| threads(v)));
        Some((at, millionths(self.cores_rate()?, all)))
    }

    /// Processes on a device that are no workload's.
    fn foreign(&self, plugin: &str, id: &str) -> Option<(Tone, String)> {
        let samples = self.samples.value.as_ref()?;
        let all: Vec<String> = samples
            .foreign
            .iter()
            .filter(|f| f.plugin == plugin && f.device == id)
            .map(|f| {
                let command = f.command.as_deref().map_or("a process", |c| c);
                let memory = f.measures.get("memory_used_bytes");
                let memory = memory.map_or_else(String::new, |m| format!(", {}", bytes(*m)));
                format!("{} ({}{memory})", printable(command), f.pid)
            })
            .collect();
        let text = match all.as_slice() {
            [] => return None,
            [one] => format!("not a workload's: {one}"),
            [one, more @ ..] => format!("not a workload's: {one}, and {} more", more.len()),
        };
        Some((Tone::Warn, text))
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
    /// A model that all have is the group's.
    fn join_models(&mut self) {
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

/// How a device stands.
fn tone(view: &DeviceView) -> Tone {
    match view.device.device.health.state {
        _ if view.stuck => Tone::Bad,
        HealthState::Unhealthy => Tone::Bad,
        HealthState::Unknown | HealthState::Degraded => Tone::Warn,
        HealthState::Healthy if view.closed.is_some() => Tone::Warn,
        HealthState::Healthy => Tone::Plain,
    }
}

/// What is wrong with a device, with its name where it is one of many.
fn trouble(view: &DeviceView, named: bool) -> Option<(Tone, String)> {
    let health = &view.device.device.health;
    let word = match health.state {
        _ if view.stuck => "stuck",
        HealthState::Healthy => "closed",
        state => crate::agent::events::word(state),
    };
    let reason = health.reason.as_ref().or(view.closed.as_ref());
    let tone = tone(view);
    if tone == Tone::Plain {
        return None;
    }
    let name = match named {
        true => format!("{} ", printable(&view.device.device.id)),
        false => String::new(),
    };
    Some((
        tone,
        match reason {
            Some(reason) => format!("{name}{word}: {}", printable(reason)),
            None => format!("{name}{word}"),
        },
    ))
}

/// The memory of a device, as far as it offers any.
fn memory(view: &DeviceView, devices: &Devices) -> Option<Amount> {
    let mut all = view.usage.iter();
    let bytes = |(name, _): &(&String, &Usage)| devices.unit(&view.device.plugin, name) == "byte";
    all.find(bytes).map(|(_, usage)| usage.total)
}

/// A core's hardware threads.
fn threads(view: &DeviceView) -> Option<Amount> {
    let threads = view.device.device.attributes.get("threads");
    match threads.map(|a| &a.value) {
        Some(Value::Int(n)) => Some(Amount::from_units(u64::try_from(*n).ok()?)),
        _ => Some(Amount::ONE),
    }
}

/// The shortest beginning of each device's id that is no other's of its plugin.
fn short_names(devices: &Devices) -> BTreeMap<String, String> {
    let all = &devices.devices;
    let short = |view: &DeviceView| {
        let id = &view.device.device.id;
        let others: Vec<&str> = all
            .iter()
            .filter(|v| v.device.plugin == view.device.plugin && v.device.device.id != *id)
            .map(|v| v.device.device.id.as_str())
            .collect();
        let is_own = |end: &usize| {
            let beginning = &id[..*end];
            *end >= SHORT
                && !beginning.ends_with(['-', ':', '.'])
                && !others.iter().any(|other| other.starts_with(beginning))
        };
        let ends = id.char_indices().map(|(at, _)| at);
        let end = match id.chars().count() {
            0..=12 => None,
            _ => ends.into_iter().find(is_own),
        };
        printable(end.map_or(id.as_str(), |end| &id[..end]))
    };
    all.iter()
        .map(|view| (view.device.name().to_string(), short(view)))
        .collect()
}

//! What the devices are: their classes, what they are called, which are free.

use std::collections::BTreeMap;

use super::health::{is_idle, is_usable};
use super::{bytes, key, rounded, sum};
use crate::agent::{DeviceView, Devices};
use crate::cli::output::printable;
use crate::model::Amount;

/// Shorter names are not made shorter.
const SHORT: usize = 8;
/// Nor are whole ids of this length.
const WHOLE: usize = 12;

/// The class of what can be had of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Cores,
    Memory,
    Other,
}

/// The devices, and what follows from them alone.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) devices: Devices,
    classes: BTreeMap<String, Class>,
    names: BTreeMap<String, String>,
}

// === impl Found ===

impl Found {
    pub(super) fn new(devices: Devices) -> Self {
        let all = devices.devices.iter();
        let of = |view: &DeviceView| (key_of(view), class(view, &devices));
        Self {
            classes: all.map(of).collect(),
            names: short_names(&devices),
            devices,
        }
    }

    /// The class of the device with this key.
    pub(super) fn class(&self, key: &str) -> Option<Class> {
        self.classes.get(key).copied()
    }

    /// All devices of a class.
    pub(super) fn of(&self, class: Class) -> impl Iterator<Item = &DeviceView> {
        let all = self.devices.devices.iter();
        all.filter(move |view| self.class(&key_of(view)) == Some(class))
    }

    /// The device with this key.
    pub(super) fn device(&self, key: &str) -> Option<&DeviceView> {
        let mut all = self.devices.devices.iter();
        all.find(|view| key_of(view) == key)
    }

    /// A device's id, as short as it is still the only one.
    pub(super) fn name(&self, key: &str) -> String {
        self.names.get(key).cloned().unwrap_or_default()
    }

    /// The partitions that a device is cut into.
    pub(super) fn partitions<'a>(
        &'a self,
        view: &'a DeviceView,
    ) -> impl Iterator<Item = &'a DeviceView> {
        let all = self.devices.devices.iter();
        let (plugin, id) = (&view.device.plugin, &view.device.device.id);
        all.filter(move |v| {
            v.device.plugin == *plugin && v.device.device.parent.as_ref() == Some(id)
        })
    }

    /// Could all of a device be had now?
    pub(super) fn is_free(&self, view: &DeviceView) -> bool {
        let has = !view.usage.is_empty() || view.device.device.partitioning.is_some();
        has && is_usable(view) && is_idle(view) && self.partitions(view).all(is_idle)
    }

    /// What is said of the machine in one line.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut kinds: Vec<&str> = Vec::new();
        for view in self.of(Class::Other) {
            if !kinds.contains(&view.device.device.kind.as_str()) {
                kinds.push(&view.device.device.kind);
            }
        }
        for kind in kinds {
            let of = || {
                self.of(Class::Other)
                    .filter(|v| v.device.device.kind == kind)
            };
            let kind = printable(kind);
            if !self.devices.usage_known {
                all.push(format!("{} {kind}", of().count()));
                continue;
            }
            let free = of().filter(|view| self.is_free(view)).count();
            all.push(format!("{free} of {} {kind} free", of().count()));
        }
        let total = |class: Class| {
            let usages = self.of(class).flat_map(|view| view.usage.values());
            sum(usages.map(|usage| usage.total))
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
}

/// A device's key.
pub(super) fn key_of(view: &DeviceView) -> String {
    key(&view.device.plugin, &view.device.device.id)
}

fn class(view: &DeviceView, devices: &Devices) -> Class {
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

/// The shortest beginning of each device's id that is no other's of its plugin.
fn short_names(devices: &Devices) -> BTreeMap<String, String> {
    let all = &devices.devices;
    let short = |view: &DeviceView| {
        let id = view.device.device.id.as_str();
        if id.len() <= WHOLE {
            return printable(id);
        }
        let plugin = &view.device.plugin;
        let of_plugin = all.iter().filter(|v| v.device.plugin == *plugin);
        let others: Vec<&str> = of_plugin
            .map(|v| v.device.device.id.as_str())
            .filter(|other| *other != id)
            .collect();
        let is_own = |end: &usize| {
            let beginning = &id[..*end];
            *end >= SHORT
                && !beginning.ends_with(['-', ':', '.'])
                && !others.iter().any(|other| other.starts_with(beginning))
        };
        let end = id.char_indices().map(|(at, _)| at).find(is_own);
        printable(end.map_or(id, |end| &id[..end]))
    };
    all.iter().map(|view| (key_of(view), short(view))).collect()
}

//! What happened to devices: told once by plugins, remembered by the agent, and laid at
//! the door of whoever it concerns.

use std::collections::{BTreeMap, VecDeque};

use divvy_plugin::{Incident, IncidentClass};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::events::{Event, owners};
use crate::launch::cgroup;
use crate::model::{Inventory, Record};

/// So many are kept until somebody makes events of them.
const UNTOLD: usize = 1024;
/// So many kinds are remembered of one plugin; then what happened longest ago is forgotten.
const KINDS: usize = 4096;

/// How long an end is a moment ago, ms: longer than it takes a plugin to tell what it heard.
const MOMENT_MS: u64 = 5000;

/// What happened to a device, how often and when last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentView {
    /// The vendor's word for it.
    pub code: String,
    /// Whose matter it is.
    pub class: IncidentClass,
    /// How often, as far as this agent was told.
    pub count: u64,
    /// When last, ms since 1970.
    pub last_ms: u64,
    /// In words, the last time.
    pub summary: String,
}

/// An incident, with the plugin that told it, and when.
#[derive(Clone, Debug)]
pub struct Told {
    /// ms since 1970.
    pub at_ms: u64,
    /// The plugin.
    pub plugin: String,
    /// What it said.
    pub incident: Incident,
}

/// Those of one plugin.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    untold: VecDeque<Told>,
    /// By device and code.
    kinds: BTreeMap<(String, String), IncidentView>,
}

impl Incidents {
    /// Takes in what the plugin told.
    pub(super) fn note(&mut self, plugin: &str, incidents: Vec<Incident>, at_ms: u64) {
        for incident in incidents {
            let key = (incident.device.clone(), incident.code.clone());
            let view = self.kinds.entry(key).or_insert_with(|| IncidentView {
                code: incident.code.clone(),
                class: incident.class,
                count: 0,
                last_ms: 0,
                summary: String::new(),
            });
            view.count += 1;
            view.class = incident.class;
            view.last_ms = at_ms;
            view.summary.clone_from(&incident.summary);
            self.untold.push_back(Told {
                at_ms,
                plugin: plugin.to_owned(),
                incident,
            });
        }
        let excess = self.untold.len().saturating_sub(UNTOLD);
        self.untold.drain(..excess);
        while self.kinds.len() > KINDS {
            let oldest = self.kinds.iter().min_by_key(|(_, view)| view.last_ms);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.kinds.remove(&key);
        }
    }

    /// Those of which no event was made yet.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Told> {
        std::mem::take(&mut self.untold).into_iter()
    }

    /// What happened to a device, the latest first.
    pub(super) fn of(&self, device: &str) -> Vec<IncidentView> {
        let mine = self.kinds.iter().filter(|((of, _), _)| of == device);
        let mut mine: Vec<IncidentView> = mine.map(|(_, view)| view.clone()).collect();
        mine.sort_by_key(|view| std::cmp::Reverse(view.last_ms));
        mine
    }
}

/// Those that held something a moment ago.
#[derive(Debug, Default)]
pub struct Ended(Vec<(u64, Record)>);

impl Ended {
    /// Takes in what the ledger said before, and what it says now, at `at_ms`.
    pub fn note(&mut self, before: &[Record], now: &[Record], at_ms: u64) {
        self.0
            .retain(|(then, _)| at_ms.saturating_sub(*then) < MOMENT_MS);
        let holds = |id: &str| now.iter().any(|record| record.id == id && record.holds());
        let gone = before
            .iter()
            .filter(|record| record.holds() && !holds(&record.id));
        self.0.extend(gone.map(|record| (at_ms, record.clone())));
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.iter().map(|(_, record)| record)
    }
}

impl Told {
    /// As an event, with whom it concerns: the workload whose process it was, where that
    /// is known; else all that hold a part of the device. `ended` are those that held
    /// something a moment ago: what happens to a program often ends it.
    #[must_use]
    pub fn event(&self, records: &[Record], ended: &Ended, inventory: &Inventory) -> Event {
        let Incident {
            device,
            pid,
            cgroup,
            start,
            ..
        } = &self.incident;
        let parts: Vec<&str> = inventory
            .devices
            .iter()
            .filter(|d| d.plugin == self.plugin && d.device.parent.as_ref() == Some(device))
            .map(|d| d.device.id.as_str())
            .collect();
        let on_it = |record: &&Record| {
            record.slices.iter().any(|slice| {
                let on = slice.part.device.as_str();
                slice.plugin == self.plugin
                    && (on == device || parts.contains(&on))
                    && (start.is_none() || slice.part.start == *start)
            })
        };
        let held = records.iter().filter(|record| record.holds());
        let holders: Vec<&Record> = held.chain(ended.records()).filter(on_it).collect();
        // A plugin may know the process's number alone.
        let lines = cgroup.clone().or_else(|| cgroup::lines((*pid)?));
        let whose = lines.and_then(|lines| {
            let mut holders = holders.iter();
            holders.find(|record| cgroup::is_member(&lines, record.cgroup_name(), record.pid))
        });
        let holders = whose.map_or(holders.clone(), |one| vec![*one]);
        Event {
            at_ms: self.at_ms,
            kind: "device.incident".into(),
            subject: format!("{}/{device}", self.plugin),
            id: None,
            code: Some(self.incident.code.clone()),
            owners: owners(&holders),
            holders: holders.iter().map(|record| record.name.clone()).collect(),
            message: self.incident.summary.clone(),
        }
    }
}

//! What happens, as the difference between two looks at the machine.
//!
//! Events are not told by whoever makes them: they are read off the ledger and
//! the inventory, so what another process did is among them, and none is lost
//! with a process that was killed before it could tell.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Device, DeviceRef, Health, HealthState, Inventory, Record, State};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When it was seen, ms since 1970.
    pub at_ms: u64,
    /// What: `workload.preparing`, `.running`, `.releasing`, `.exited`,
    /// `.removed`; `device.added`, `.removed`, `.healthy`, `.degraded`,
    /// `.unhealthy`, `.unknown`, `.incident`; `plugin.down`, `.up`; `gap` where events were
    /// missed.
    pub kind: String,
    /// The workload's name, the device or the plugin.
    pub subject: String,
    /// The workload's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The vendor's word for what happened to a device: `xid-79`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Whose workload it is, or the users who hold a part of the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<u32>,
    /// The workloads that hold a part of the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
    /// In words.
    pub message: String,
}

/// One look at the machine.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The ledger's records.
    pub records: std::sync::Arc<Vec<Record>>,
    /// What there is.
    pub inventory: Inventory,
    /// Plugins that do not answer, and why.
    pub down: BTreeMap<String, String>,
}

/// What happened between two looks; the second was at `at_ms`.
#[must_use]
pub fn differences(before: &Look, after: &Look, at_ms: u64) -> Vec<Event> {
    let mut events = Vec::new();
    workloads(before, after, at_ms, &mut events);
    devices(before, after, at_ms, &mut events);
    plugins(before, after, at_ms, &mut events);
    events
}

fn workloads(before: &Look, after: &Look, at_ms: u64, events: &mut Vec<Event>) {
    let old: BTreeMap<&str, &Record> = before.records.iter().map(|r| (&*r.id, r)).collect();
    let new: BTreeMap<&str, &Record> = after.records.iter().map(|r| (&*r.id, r)).collect();
    let event = |record: &Record, what: &str, message: String| Event {
        at_ms,
        kind: format!("workload.{what}"),
        subject: record.name.clone(),
        id: Some(record.id.clone()),
        code: None,
        owners: vec![record.owner],
        holders: vec![],
        message,
    };
    for record in after.records.iter() {
        let then = old.get(&*record.id).map(|r| r.state);
        if then != Some(record.state) {
            events.push(event(record, record.state.word(), said(record)));
        }
    }
    for record in before.records.iter() {
        if !new.contains_key(&*record.id) {
            let message = match record.state {
                State::Exited => "it was forgotten".into(),
                State::Preparing => "it was not started, and holds nothing".into(),
                State::Running | State::Releasing => "it ended and was forgotten".into(),
            };
            events.push(event(record, "removed", message));
        }
    }
}

fn said(record: &Record) -> String {
    match (record.state, &record.exit) {
        (State::Exited, Some(exit)) => {
            let code = exit.code.map_or_else(
                || "without a known exit code".into(),
                |c| format!("with {c}"),
            );
            let memory = if exit.out_of_memory {
                ", out of memory"
            } else {
                ""
            };
            format!("it ended {code}{memory}")
        }
        (State::Exited, None) => "it ended".into(),
        (State::Preparing, _) => "its slices are taken".into(),
        (State::Running, _) => "it was proven to have its slices".into(),
        (State::Releasing, _) => "it has ended; its slices are being released".into(),
    }
}

fn devices(before: &Look, after: &Look, at_ms: u64, events: &mut Vec<Event>) {
    let names = |look: &'_ Look| -> BTreeMap<DeviceRef, Device> {
        let all = look.inventory.devices.iter();
        all.map(|d| (d.name(), d.clone())).collect()
    };
    let (old, new) = (names(before), names(after));
    let mut event = |name: &DeviceRef, what: &str, message: String| {
        let holds = |r: &&Record| r.holds() && r.slices.iter().any(|s| s.device() == *name);
        let holders: Vec<&Record> = after.records.iter().filter(holds).collect();
        events.push(Event {
            at_ms,
            kind: format!("device.{what}"),
            subject: name.to_string(),
            id: None,
            code: None,
            owners: owners(&holders),
            holders: holders.iter().map(|r| r.name.clone()).collect(),
            message,
        });
    };
    for (name, device) in &new {
        let now = &device.device.health;
        match old.get(name) {
            None => event(name, "added", device.device.model.clone()),
            Some(then) if then.device.health != *now => event(name, word(now.state), why(now)),
            Some(_) => {}
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(name)) {
        event(
            name,
            "removed",
            "its plugin does not report it any more".into(),
        );
    }
}

/// Whose these are, each once.
pub(super) fn owners(records: &[&Record]) -> Vec<u32> {
    let mut owners: Vec<u32> = records.iter().map(|record| record.owner).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

fn why(health: &Health) -> String {
    match (&health.reason, health.state) {
        (Some(reason), _) => reason.clone(),
        (None, HealthState::Healthy) => "it takes new work again".into(),
        (None, _) => "its plugin does not say why".into(),
    }
}

/// Its word for people.
#[must_use]
pub fn word(state: HealthState) -> &'static str {
    match state {
        HealthState::Healthy => "healthy",
        HealthState::Degraded => "degraded",
        HealthState::Unhealthy => "unhealthy",
        HealthState::Unknown => "unknown",
    }
}

fn plugins(before: &Look, after: &Look, at_ms: u64, events: &mut Vec<Event>) {
    let mut event = |plugin: &str, what: &str, message: &str| {
        events.push(Event {
            at_ms,
            kind: format!("plugin.{what}"),
            subject: plugin.to_owned(),
            id: None,
            code: None,
            owners: vec![],
            holders: vec![],
            message: message.to_owned(),
        });
    };
    for (plugin, why) in &after.down {
        if !before.down.contains_key(plugin) {
            event(plugin, "down", why);
        }
    }
    for plugin in before.down.keys() {
        if !after.down.contains_key(plugin) {
            event(plugin, "up", "it answers again");
        }
    }
}

//! How a device stands, and what is to be said of it.

use super::{Model, Tone, bytes};
use crate::agent::events::word;
use crate::agent::{DeviceView, IncidentView};
use crate::cli::describe::told;
use crate::cli::output::printable;
use crate::model::HealthState;

/// What happened to a device is said for so long.
const LATELY_MS: u64 = 600_000;

/// Can what is free of it be had?
pub(super) fn is_usable(view: &DeviceView) -> bool {
    let health = view.device.device.health.state;
    matches!(health, HealthState::Healthy | HealthState::Degraded)
        && view.closed.is_none()
        && !view.stuck
}

pub(super) fn is_idle(view: &DeviceView) -> bool {
    view.usage.values().all(|u| u.used.is_zero())
}

/// How a device stands.
pub(super) fn tone(view: &DeviceView) -> Tone {
    match view.device.device.health.state {
        _ if view.stuck => Tone::Bad,
        HealthState::Unhealthy => Tone::Bad,
        HealthState::Unknown | HealthState::Degraded => Tone::Warn,
        HealthState::Healthy if view.closed.is_some() => Tone::Warn,
        HealthState::Healthy => Tone::Plain,
    }
}

/// What is wrong with a device, with its name where it is one of many.
pub(super) fn trouble(view: &DeviceView, named: bool) -> Option<(Tone, String)> {
    let health = &view.device.device.health;
    let word = match health.state {
        _ if view.stuck => "stuck",
        HealthState::Healthy => "closed",
        state => word(state),
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

impl Model {
    /// What is to be said of a device, the worst first.
    pub(super) fn notes(&self, view: &DeviceView, now_ms: u64) -> Vec<(Tone, String)> {
        let mut notes: Vec<(Tone, String)> = trouble(view, false).into_iter().collect();
        notes.extend(self.foreign(&view.device.plugin, &view.device.device.id));
        let lately = |i: &&IncidentView| now_ms.saturating_sub(i.last_ms) < LATELY_MS;
        let incidents = view.incidents.iter().filter(lately);
        notes.extend(incidents.map(|i| (Tone::Warn, told(i))));
        notes
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

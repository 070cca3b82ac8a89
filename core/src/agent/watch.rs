//! What the plugins said last, kept current by their watch streams.
//!
//! A long-lived agent answers from here and never waits for a plugin: one that
//! hangs, crashes or is stuck in the kernel leaves its last word, with its
//! devices' health unknown, so that nothing new is placed on them. When it
//! answers again they come back by themselves.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use divvy_plugin::{Discovery, Incident, WatchRequest};
use tokio::sync::watch;

use super::Agent;
use super::incidents::{IncidentView, Incidents, Told};
use crate::model::{Health, HealthState, Inventory, Manifest};
use crate::plugin::{Answer, CallError, Client, Status, combine};
use crate::sys::now_ms;

/// How long a plugin may wait for a change before it says that there is none:
/// a hang is seen this long, and the call's deadline, after it began.
const WAIT: Duration = Duration::from_secs(2);
/// Between two tries of a plugin that does not answer. Its client has a longer
/// back-off for crashes, and says no at once meanwhile.
const AGAIN: Duration = Duration::from_secs(2);

/// The plugins' last words.
#[derive(Debug)]
pub struct Watched {
    seen: Mutex<BTreeMap<String, Seen>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Seen {
    answer: Answer,
    /// When it last answered, ms since 1970; 0: never.
    heard_ms: u64,
    /// Its host does not die.
    stuck: bool,
    incidents: Incidents,
    /// Since when each device is as healthy as it is, ms since 1970.
    since: BTreeMap<String, (HealthState, u64)>,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Watched {
    /// Changes its number whenever something here changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The inventory as far as it is known, and which plugins do not answer.
    #[must_use]
    pub fn inventory(&self) -> (Inventory, Vec<(String, CallError)>) {
        combine(self.seen().values().map(Seen::answer).collect())
    }

    /// How old the oldest of it is, ms; 0 while nothing is known.
    #[must_use]
    pub fn age_ms(&self) -> u64 {
        let oldest = self.seen().values().map(|s| s.heard_ms).min();
        oldest.map_or(0, |heard| now_ms().saturating_sub(heard))
    }

    /// Since when a device is as healthy as it is, ms since 1970.
    #[must_use]
    pub fn since_ms(&self, plugin: &str, device: &str) -> Option<u64> {
        let seen = self.seen();
        Some(seen.get(plugin)?.since.get(device)?.1)
    }

    /// What happened to a device, as far as this agent was told; the latest first.
    #[must_use]
    pub fn incidents(&self, plugin: &str, device: &str) -> Vec<IncidentView> {
        let seen = self.seen();
        seen.get(plugin)
            .map(|seen| seen.incidents.of(device))
            .unwrap_or_default()
    }

    /// What happened since this was called last.
    pub(crate) fn told(&self) -> Vec<Told> {
        let mut seen = self.seen();
        seen.values_mut()
            .flat_map(|seen| seen.incidents.take())
            .collect()
    }

    /// Is this plugin's host stuck in the kernel?
    #[must_use]
    pub fn is_stuck(&self, plugin: &str) -> bool {
        self.seen().get(plugin).is_some_and(|s| s.stuck)
    }

    /// Where a plugin stands.
    #[must_use]
    pub fn status(&self, plugin: &str) -> Status {
        let seen = self.seen();
        let Some(seen) = seen.get(plugin) else {
            return Status::Idle;
        };
        match &seen.answer.error {
            None => Status::Ready,
            Some(error) if seen.stuck => Status::Stuck(error.to_string()),
            Some(CallError::Unavailable {
                state: "in quarantine",
                why,
                ..
            }) => Status::Quarantined(why.clone()),
            Some(error) if error.is_absent() => Status::Ready,
            Some(error) => Status::Crashed(error.to_string()),
        }
    }

    /// Keeps this current, for as long as it is polled; `ready` is called
    /// when every plugin has answered, or failed to, for the first time.
    pub(crate) async fn follow(&self, agent: &Agent, ready: impl FnOnce()) {
        let clients = agent.plugins().clients();
        let first = clients.iter().map(|client| async {
            let found = look(client).await;
            self.note(client, found, vec![]).await;
        });
        futures_util::future::join_all(first).await;
        ready();
        let streams = clients.iter().map(|client| async {
            loop {
                let known = self.seen().get(client.name()).and_then(Seen::current);
                let (found, incidents) = match known {
                    Some(known) => listen(client, known).await,
                    None => {
                        tokio::time::sleep(AGAIN).await;
                        (look(client).await, vec![])
                    }
                };
                self.note(client, found, incidents).await;
            }
        });
        futures_util::future::join_all(streams).await;
    }

    async fn note(&self, client: &Client, found: Found, incidents: Vec<Incident>) {
        // Asked for only when it fails: a call that hangs holds the answer up.
        let stuck = match &found {
            Ok(_) => false,
            Err(CallError::Unavailable { state, .. }) => *state == "stuck",
            Err(CallError::Crashed { .. }) => matches!(client.status().await, Status::Stuck(_)),
            Err(_) => false,
        };
        let changed = {
            let mut all = self.seen();
            let seen = all
                .entry(client.name().to_owned())
                .or_insert_with(|| Seen::nothing(client.name()));
            if let Err(error) = &found
                && !error.is_absent()
                && seen.answer.error.as_ref() != Some(error)
            {
                tracing::warn!("{error}");
            }
            let happened = !incidents.is_empty();
            seen.incidents.note(client.name(), incidents, now_ms());
            seen.note(found, stuck, now_ms()) || happened
        };
        if changed {
            self.changes.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn nothing(plugin: &str) -> Self {
        Self {
            answer: Answer {
                plugin: plugin.to_owned(),
                found: None,
                error: None,
            },
            heard_ms: 0,
            stuck: false,
            incidents: Incidents::default(),
            since: BTreeMap::new(),
        }
    }

    /// What it is known to know, unless it has to be asked anew.
    fn current(&self) -> Option<(Manifest, Discovery)> {
        match &self.answer.error {
            None => self.answer.found.clone(),
            Some(_) => None,
        }
    }

    /// Takes in what a plugin said; is anything different now?
    fn note(&mut self, found: Found, stuck: bool, now: u64) -> bool {
        let before = (
            self.answer.found.clone(),
            self.answer.error.clone(),
            self.stuck,
        );
        match found {
            Ok(found) => {
                self.answer.found = Some(found);
                self.answer.error = None;
                self.heard_ms = now;
            }
            // Its hardware or driver is gone, and it says so itself.
            Err(error) if error.is_absent() => {
                self.answer.found = None;
                self.answer.error = Some(error);
                self.heard_ms = now;
            }
            Err(error) => self.answer.error = Some(error),
        }
        self.stuck = stuck;
        self.keep_times(now);
        before != (self.answer.found.clone(), self.answer.error.clone(), stuck)
    }

    fn keep_times(&mut self, now: u64) {
        let devices = self.answer().found.map(|f| f.1.devices).unwrap_or_default();
        let mut since = BTreeMap::new();
        for device in devices {
            let state = device.health.state;
            let then = match self.since.get(&device.id) {
                Some((before, then)) if *before == state => *then,
                _ => now,
            };
            since.insert(device.id, (state, then));
        }
        self.since = since;
    }

    /// The last word; while the plugin does not answer, nobody knows how its
    /// devices are.
    fn answer(&self) -> Answer {
        let mut answer = self.answer.clone();
        if let (Some(error), Some((_, found))) = (&answer.error, &mut answer.found) {
            for device in &mut found.devices {
                device.health = Health {
                    state: HealthState::Unknown,
                    reason: Some(error.to_string()),
                };
            }
        }
        answer
    }
}

/// What a plugin said of itself and the machine.
type Found = Result<(Manifest, Discovery), CallError>;

async fn look(client: &Client) -> Found {
    Ok((client.manifest().await?, client.discover().await?))
}

/// Waits for a change of what is known, or for something to happen.
async fn listen(
    client: &Client,
    (manifest, known): (Manifest, Discovery),
) -> (Found, Vec<Incident>) {
    let request = WatchRequest {
        known,
        timeout_ms: u64::try_from(WAIT.as_millis()).unwrap_or(2000),
        held: client.held_devices(),
    };
    match client.watch(&request).await {
        Ok(reply) => {
            let now = reply.changed.unwrap_or(request.known);
            (Ok((manifest, now)), reply.incidents)
        }
        Err(error) => (Err(error), vec![]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Capacity;
    use divvy_plugin::Amount;

    fn found(states: &[HealthState]) -> (Manifest, Discovery) {
        let manifest = Manifest {
            name: "acme".into(),
            version: "1".into(),
            summary: String::new(),
            slots: vec![],
            reserved_env: vec![],
            config: vec![],
        };
        let devices = states.iter().enumerate().map(|(i, state)| {
            let mut device = divvy_plugin::Device::new(format!("d{i}"), "npu", "m");
            device.health.state = *state;
            device
                .capacities
                .insert("count".into(), Capacity::of(Amount::ONE));
            device
        });
        let devices = devices.collect();
        let discovery = Discovery {
            devices,
            ..Discovery::default()
        };
        (manifest, discovery)
    }

    fn down() -> CallError {
        CallError::Crashed {
            plugin: "acme".into(),
            op: "watch",
            why: "no answer".into(),
        }
    }

    #[test]
    fn a_plugin_that_does_not_answer_leaves_its_last_word_with_unknown_health() {
        let mut seen = Seen::nothing("acme");
        assert!(seen.note(Ok(found(&[HealthState::Healthy])), false, 10));
        assert!(!seen.note(Ok(found(&[HealthState::Healthy])), false, 20));
        assert_eq!((seen.heard_ms, seen.since["d0"].1), (20, 10));
        assert!(seen.note(Err(down()), true, 30));
        let (inventory, failed) = combine(vec![seen.answer()]);
        assert_eq!(failed.len(), 1);
        let health = &inventory.devices[0].device.health;
        assert_eq!(health.state, HealthState::Unknown);
        assert!(health.reason.as_ref().unwrap().contains("no answer"));
        assert_eq!((seen.heard_ms, seen.since["d0"].1), (20, 30));
        // Well again: by itself, with its own time.
        assert!(seen.note(Ok(found(&[HealthState::Healthy])), false, 40));
        let (inventory, failed) = combine(vec![seen.answer()]);
        assert!(failed.is_empty());
        assert_eq!(inventory.devices[0].device.health, Health::healthy());
        assert_eq!(seen.since["d0"].1, 40);
    }

    #[test]
    fn each_device_has_its_own_time() {
        use HealthState::{Healthy, Unhealthy};
        let mut seen = Seen::nothing("acme");
        seen.note(Ok(found(&[Healthy, Healthy])), false, 10);
        seen.note(Ok(found(&[Healthy, Unhealthy])), false, 20);
        assert_eq!((seen.since["d0"].1, seen.since["d1"].1), (10, 20));
        // Unplugged, and plugged in again.
        seen.note(Ok(found(&[Healthy])), false, 30);
        seen.note(Ok(found(&[Healthy, Unhealthy])), false, 40);
        assert_eq!((seen.since["d0"].1, seen.since["d1"].1), (10, 40));
    }
}

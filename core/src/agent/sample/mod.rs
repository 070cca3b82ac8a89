//! What devices and workloads use: measured while somebody wants to know.
//!
//! Plugins are asked in hosts of their own ([`Client::sample`]), every two seconds as
//! long as somebody read in the last minute; then those hosts end. Whoever reads gets
//! what was measured last, with its age, and waits a moment only where nobody read
//! before: a plugin that hangs in a measurement keeps nobody waiting.
//!
//! * [`attribute`]: whose a process is that a plugin measured;
//! * `own`: what a workload's cgroup says of it;
//! * [`document`](Samples): the answer.

mod attribute;
mod document;
mod own;

pub use document::{
    DeviceSample, ForeignProcess, Measures, SampledPlugin, Samples, WorkloadSample,
};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use divvy_plugin::ErrorCode;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Agent;
use crate::model::Record;
use crate::plugin::{CallError, Client};
use crate::sys::now_ms;
use attribute::{Attributed, Owners, attribute};

/// From the beginning of one measurement to the beginning of the next.
const EVERY: Duration = Duration::from_secs(2);
/// How long one reader makes plugins measure.
const WANTED: Duration = Duration::from_secs(60);
/// How long a reader waits for plugins that were not asked of late.
const PATIENCE: Duration = Duration::from_millis(300);
/// A plugin that was asked since then is not waited for: an interval, a call that
/// missed its deadline, and a little.
const LATELY: Duration = Duration::from_secs(5);

/// What the plugins measured last.
#[derive(Debug)]
pub struct Sampled {
    known: Mutex<BTreeMap<String, Known>>,
    /// When somebody wanted it last.
    wanted: watch::Sender<Option<Instant>>,
    /// Changes its number whenever a plugin has measured, or failed to.
    tries: watch::Sender<u64>,
    /// How many keep this current.
    followers: AtomicUsize,
}

/// What is known of one plugin's devices.
#[derive(Debug, Default)]
struct Known {
    taken: Option<Taken>,
    /// Why the last try gave nothing.
    error: Option<CallError>,
    /// When the last try ended.
    tried: Option<Instant>,
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// When, ms since 1970.
    at_ms: u64,
    /// By device.
    devices: BTreeMap<String, Measures>,
    processes: Attributed,
}

/// Keeps measurements current while it lives.
struct Follower<'a>(&'a AtomicUsize);

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Sampled {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            wanted: watch::Sender::new(None),
            tries: watch::Sender::new(0),
            followers: AtomicUsize::new(0),
        }
    }
}

impl Agent {
    /// What devices and workloads use. Of an agent that [measures](Self::measure) what
    /// is known; of another one each plugin measures for this, at most for its deadline.
    /// `records`: the workloads, if the caller may know them.
    pub async fn samples(&self, records: Option<&[Record]>) -> Samples {
        if self.sampled.followers.load(Ordering::Relaxed) > 0 {
            self.want_samples().await;
        } else {
            let clients = self.plugins.clients().iter();
            futures_util::future::join_all(clients.map(|client| self.measure_one(client))).await;
        }
        self.describe_samples(records)
    }

    /// Somebody reads what an agent knows that [measures](Self::measure): plugins that
    /// were not asked of late are waited for, a moment.
    pub(crate) async fn want_samples(&self) {
        self.sampled.want(self.plugins.clients()).await;
    }

    /// What is known, and what cgroups say now: reads some files for each workload.
    pub(crate) fn describe_samples(&self, records: Option<&[Record]>) -> Samples {
        let clients = self.plugins.clients();
        let own = own::measures(records.unwrap_or_default());
        let known = self.sampled.known();
        let plugins = clients
            .iter()
            .map(|client| (client.name(), known.get(client.name())));
        Samples::new(plugins, records, &own, now_ms())
    }

    /// Has the plugins measure whenever somebody wants it, for as long as this is
    /// polled: [`samples`](Self::samples) waits for no plugin meanwhile.
    pub async fn measure(&self) {
        self.sampled.followers.fetch_add(1, Ordering::Relaxed);
        let _follower = Follower(&self.sampled.followers);
        let clients = self.plugins.clients().iter();
        let streams = clients.map(|client| async move {
            let mut wanted = self.sampled.wanted.subscribe();
            loop {
                if !is_wanted(&wanted.borrow()) {
                    client.rest().await;
                    // The sender is there as long as this.
                    let _ = wanted.wait_for(is_wanted).await;
                }
                tokio::join!(self.measure_one(client), sleep(EVERY));
            }
        });
        futures_util::future::join_all(streams).await;
    }

    async fn measure_one(&self, client: &Client) {
        let measured = match client.sample().await {
            Ok(samples) => {
                // As soon as it is said: processes end, and their numbers are used again.
                let ledger = self.ledger.clone();
                let pids: Vec<u32> = samples.processes.iter().map(|p| p.pid).collect();
                let owners = tokio::task::spawn_blocking(move || Owners::of(&pids, &ledger));
                let owners = owners.await.unwrap_or_default();
                Ok(Taken {
                    at_ms: now_ms(),
                    devices: samples.devices,
                    processes: attribute(samples.processes, &owners),
                })
            }
            // It measures nothing, and says so.
            Err(CallError::Refused { error, .. }) if error.code == ErrorCode::Unsupported => {
                Ok(Taken {
                    at_ms: now_ms(),
                    ..Taken::default()
                })
            }
            Err(error) => Err(error),
        };
        self.sampled.note(client.name(), measured);
    }
}

impl Sampled {
    /// Somebody reads: plugins measure for a while, and those that did not of late are
    /// waited for, a moment.
    async fn want(&self, clients: &[Client]) {
        self.wanted.send_replace(Some(Instant::now()));
        let mut tries = self.tries.subscribe();
        let all = tries.wait_for(|_| {
            let known = self.known();
            let mut names = clients.iter().map(Client::name);
            names.all(|name| known.get(name).is_some_and(Known::is_current))
        });
        // Then with what is known.
        let _ = timeout(PATIENCE, all).await;
    }

    fn note(&self, plugin: &str, measured: Result<Taken, CallError>) {
        let mut known = self.known();
        known.entry(plugin.to_owned()).or_default().note(measured);
        drop(known);
        self.tries.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Takes in how a try ended: one that failed leaves what was measured before.
    fn note(&mut self, measured: Result<Taken, CallError>) {
        self.tried = Some(Instant::now());
        match measured {
            Ok(taken) => {
                self.taken = Some(taken);
                self.error = None;
            }
            Err(error) => {
                // There is nothing that an old measurement could be of.
                if error.is_absent() {
                    self.taken = None;
                }
                self.error = Some(error);
            }
        }
    }

    fn is_current(&self) -> bool {
        self.tried.is_some_and(|then| then.elapsed() < LATELY)
    }
}

fn is_wanted(last: &Option<Instant>) -> bool {
    last.is_some_and(|then| then.elapsed() < WANTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use divvy_plugin::{Amount, PluginError};

    fn refused(code: ErrorCode) -> CallError {
        CallError::Refused {
            plugin: "acme".into(),
            error: PluginError::new(code, "no"),
        }
    }

    fn taken(at_ms: u64) -> Taken {
        Taken {
            at_ms,
            devices: [(
                "d".to_owned(),
                Measures::from([("x_bytes".into(), Amount::ONE)]),
            )]
            .into(),
            ..Taken::default()
        }
    }

    #[test]
    fn a_try_that_fails_leaves_what_was_measured_before() {
        let mut known = Known::default();
        assert!(!known.is_current());
        known.note(Ok(taken(10)));
        assert!(known.is_current());
        known.note(Err(refused(ErrorCode::Driver)));
        assert_eq!(known.taken, Some(taken(10)));
        assert!(known.error.is_some());
        known.note(Ok(taken(20)));
        assert_eq!(
            (known.taken.clone(), &known.error),
            (Some(taken(20)), &None)
        );
        // Of hardware that is gone nothing is known.
        known.note(Err(refused(ErrorCode::Absent)));
        assert_eq!(known.taken, None);
    }

    #[test]
    fn who_read_a_minute_ago_wants_nothing_any_more() {
        assert!(!is_wanted(&None));
        assert!(is_wanted(&Some(Instant::now())));
        assert!(!is_wanted(&Instant::now().checked_sub(WANTED)));
    }

    #[test]
    fn a_reader_waits_for_no_plugin_longer_than_a_moment() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let sampled = Sampled::default();
            let began = Instant::now();
            // Nobody measures.
            sampled.want(&[]).await;
            assert!(began.elapsed() < PATIENCE);
            assert!(is_wanted(&sampled.wanted.subscribe().borrow()));
        });
    }
}

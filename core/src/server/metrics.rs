//! What is counted: OpenMetrics, base units, one unit a family. What is not
//! known is absent, never 0.

mod incidents;
mod samples;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

use super::Server;
use crate::agent::events::{Look, word};
use crate::agent::{DeviceView, Devices, Plugins, describe_inventory};
use crate::model::{self, Amount, HealthState, Record};
use crate::plugin::Status;

const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What only ever grows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    drift: AtomicU64,
    violations: AtomicU64,
    /// Was the last look one of these?
    violated: std::sync::atomic::AtomicBool,
}

impl Counters {
    /// So many workloads, or the ledger, had to be picked up.
    pub(super) fn drifted(&self, found: usize) {
        self.drift.fetch_add(found as u64, Ordering::Relaxed);
    }

    /// What can never be, is.
    pub(super) fn invariant_violated(&self) {
        self.violations.fetch_add(1, Ordering::Relaxed);
    }

    /// Checks what must always hold: of no device more is held than it has. One that is ill
    /// may not say what it has.
    pub(super) fn look(&self, look: &Look) {
        let (devices, _) = describe_inventory(&look.inventory, &look.records);
        let says = |view: &&DeviceView| {
            use HealthState::{Degraded, Healthy};
            matches!(view.device.device.health.state, Healthy | Degraded)
        };
        let over = devices
            .iter()
            .filter(says)
            .any(|d| d.usage.values().any(|u| u.used > u.total));
        let before = self.violated.swap(over, Ordering::Relaxed);
        if over && !before {
            tracing::error!("more of a device is held than it has: divvy state check");
            self.invariant_violated();
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    device: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceInfo {
    device: String,
    model: String,
    numa_node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabels {
    device: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CapacityLabels {
    device: String,
    capacity: String,
    unit: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SliceLabels {
    workload: String,
    id: String,
    user: u32,
    device: String,
    slot: String,
    unit: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    plugin: String,
    op: &'static str,
    result: &'static str,
}

type Gauges<L> = Family<L, Gauge<f64, std::sync::atomic::AtomicU64>>;
type Counts<L> = Family<L, Counter<f64, std::sync::atomic::AtomicU64>>;

impl Server {
    /// The page as of now.
    pub(super) async fn metrics_page(&self) -> Response {
        let records = self.records().await.unwrap_or_default();
        let devices = self.seen(|_, watched| watched.devices(&records));
        let plugins = self.seen(|agent, watched| watched.plugin_list(agent));
        let samples = self.samples(&records).await;
        let mut registry = Registry::with_prefix("divvy");
        self.own(&mut registry, &devices);
        of_devices(&mut registry, &devices);
        of_workloads(&mut registry, &devices, &records);
        of_plugins(&mut registry, &plugins);
        of_calls(&mut registry, &self.agent());
        incidents::register(&mut registry, &devices);
        samples::register(&mut registry, &samples);
        let mut page = String::new();
        if encode(&mut page, &registry).is_err() {
            let _ = write!(page, "# EOF");
        }
        ([(CONTENT_TYPE, MEDIA)], page).into_response()
    }

    fn own(&self, registry: &mut Registry, devices: &Devices) {
        let build = Family::<[(&str, String); 1], Gauge>::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION").to_owned())])
            .set(1);
        registry.register("build_info", "The version that runs", build);
        let age: Gauge<f64, AtomicU64> = Gauge::default();
        age.set(seconds(devices.age_ms));
        registry.register_with_unit(
            "inventory_age",
            "Time since the plugin that was heard longest ago was heard",
            Unit::Seconds,
            age,
        );
        let count = |n: &AtomicU64| ConstCounter::new(n.load(Ordering::Relaxed));
        registry.register(
            "reconcile_drift",
            "Workloads, and ledgers, that had been left behind and were picked up",
            count(&self.counters.drift),
        );
        registry.register(
            "invariant_violation",
            "Times that something was seen that can never be; anything but 0 is a bug",
            count(&self.counters.violations),
        );
    }
}

fn of_devices(registry: &mut Registry, devices: &Devices) {
    let info = Family::<DeviceInfo, Gauge>::default();
    let health = Family::<HealthLabels, Gauge>::default();
    let open = Family::<DeviceLabels, Gauge>::default();
    let total = Gauges::<CapacityLabels>::default();
    let reserved = Gauges::<CapacityLabels>::default();
    let allocated = Gauges::<CapacityLabels>::default();
    for view in &devices.devices {
        let device = view.device.name().to_string();
        info.get_or_create(&DeviceInfo {
            device: device.clone(),
            model: view.device.device.model.clone(),
            numa_node: view
                .device
                .device
                .numa_node
                .map_or_else(String::new, |n| n.to_string()),
        })
        .set(1);
        let now = view.device.device.health.state;
        for state in [
            HealthState::Healthy,
            HealthState::Degraded,
            HealthState::Unhealthy,
            HealthState::Unknown,
        ] {
            health
                .get_or_create(&HealthLabels {
                    device: device.clone(),
                    state: word(state),
                })
                .set((state == now).into());
        }
        open.get_or_create(&DeviceLabels {
            device: device.clone(),
        })
        .set(view.closed.is_none().into());
        for (capacity, usage) in &view.usage {
            let labels = CapacityLabels {
                device: device.clone(),
                capacity: capacity.clone(),
                unit: devices.unit(&view.device.plugin, capacity).to_owned(),
            };
            total.get_or_create(&labels).set(number(usage.total));
            reserved.get_or_create(&labels).set(number(usage.reserved));
            allocated.get_or_create(&labels).set(number(usage.used));
        }
    }
    registry.register("device_info", "A device, to be joined on its name", info);
    registry.register(
        "device_health",
        "1 for the state that a device is in",
        health,
    );
    registry.register("device_open", "May new work be placed on it", open);
    registry.register("device_capacity", "All of a capacity, in its unit", total);
    registry.register(
        "device_reserved",
        "The part that is never handed out",
        reserved,
    );
    registry.register("device_allocated", "The part that is held", allocated);
}

fn of_workloads(registry: &mut Registry, devices: &Devices, records: &[Record]) {
    let count = Family::<StateLabels, Gauge>::default();
    use model::State::{Exited, Preparing, Releasing, Running};
    for state in [Preparing, Running, Releasing, Exited] {
        let n = records.iter().filter(|r| r.state == state).count();
        count
            .get_or_create(&StateLabels {
                state: state.word(),
            })
            .set(i64::try_from(n).unwrap_or(i64::MAX));
    }
    let slices = Gauges::<SliceLabels>::default();
    for record in records.iter().filter(|r| r.holds()) {
        for slice in &record.slices {
            let slot = devices
                .slots
                .iter()
                .find(|s| s.slot.name == slice.part.slot);
            slices
                .get_or_create(&SliceLabels {
                    workload: record.name.clone(),
                    id: record.id.clone(),
                    user: record.owner,
                    device: slice.device().to_string(),
                    slot: slice.part.slot.clone(),
                    unit: slot.map_or_else(String::new, |s| s.slot.unit.clone()),
                })
                .inc_by(number(slice.part.amount));
        }
    }
    registry.register("workloads", "How many workloads are in each state", count);
    registry.register(
        "slice_amount",
        "How much of a slot a workload holds on a device",
        slices,
    );
}

fn of_plugins(registry: &mut Registry, plugins: &Plugins) {
    let up = Family::<PluginLabels, Gauge>::default();
    for plugin in &plugins.plugins {
        let answers = matches!(plugin.state, Status::Ready) && plugin.error.is_none();
        up.get_or_create(&PluginLabels {
            plugin: plugin.name.clone(),
        })
        .set(answers.into());
    }
    registry.register(
        "plugin_up",
        "Does a plugin answer, with devices to offer",
        up,
    );
}

fn of_calls(registry: &mut Registry, agent: &crate::agent::Agent) {
    let calls = Family::<CallLabels, Counter>::default();
    let time = Counts::<CallLabels>::default();
    let restarts = Family::<PluginLabels, Counter>::default();
    for client in agent.plugins().clients() {
        let plugin = client.name();
        restarts
            .get_or_create(&PluginLabels {
                plugin: plugin.to_owned(),
            })
            .inc_by(client.restarts());
        for ((op, good), (count, spent)) in client.calls() {
            let labels = CallLabels {
                plugin: plugin.to_owned(),
                op,
                result: if good { "ok" } else { "error" },
            };
            calls.get_or_create(&labels).inc_by(count);
            time.get_or_create(&labels).inc_by(spent.as_secs_f64());
        }
    }
    registry.register("plugin_calls", "Calls to a plugin", calls);
    registry.register_with_unit(
        "plugin_call_duration",
        "Time spent in calls to a plugin, waiting for it included",
        Unit::Seconds,
        time,
    );
    registry.register(
        "plugin_restarts",
        "Hosts that ended and were started again",
        restarts,
    );
}

/// For people's dashboards alone: the amounts themselves are exact.
fn number(amount: Amount) -> f64 {
    amount.to_string().parse().unwrap_or(f64::NAN)
}

#[allow(clippy::cast_precision_loss)] // A float is what a metric is.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Serves the page, and nothing else, on a loopback address.
pub(super) async fn serve(listener: TcpListener, server: Arc<Server>) {
    let page = async |State(server): State<Arc<Server>>| server.metrics_page().await;
    let app = axum::Router::new()
        .route("/metrics", get(page))
        .with_state(server);
    let _ = axum::serve(listener, app).await;
}

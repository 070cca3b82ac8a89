//! What happened to devices, as metrics. The time of the last is what to alert on: a
//! counter that begins with its first event shows no increase.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::{Registry, Unit};

use super::{Counts, Gauges, seconds};
use crate::agent::Devices;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    device: String,
    code: String,
    class: &'static str,
}

pub(super) fn register(registry: &mut Registry, devices: &Devices) {
    let counts = Counts::<Labels>::default();
    let last = Gauges::<Labels>::default();
    for view in &devices.devices {
        for incident in &view.incidents {
            let labels = Labels {
                device: view.device.name().to_string(),
                code: incident.code.clone(),
                class: incident.class.as_str(),
            };
            #[allow(clippy::cast_precision_loss)] // exact below 2⁵³
            counts.get_or_create(&labels).inc_by(incident.count as f64);
            last.get_or_create(&labels).set(seconds(incident.last_ms));
        }
    }
    registry.register(
        "device_incidents",
        "What happened to a device, as far as this agent was told",
        counts,
    );
    registry.register_with_unit(
        "device_incident_last_timestamp",
        "When it happened last, since 1970",
        Unit::Seconds,
        last,
    );
}

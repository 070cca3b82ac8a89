//! Measuring GPUs, MIG instances, and the programs on them.
//!
//! NVML is started for each measurement and ended after it, as for each look. Every
//! figure is optional; units are the base units that measures' names end in. What takes
//! the driver time to find out is left out: throughput over PCIe is a counter where the
//! driver counts it, and absent where it would have to listen for 20 ms a direction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use divvy_plugin::{Amount, ProcessSample, Samples};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PerformancePolicy, TemperatureSensor,
};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::field_id::{
    NVML_FI_DEV_MEMORY_TEMP, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
    NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
};

use crate::CudaPlugin;
use crate::discover::Unit;
use crate::error::Error;
use crate::ffi;
use crate::journal::GLANCE;
use crate::nvml::{self, processes};
use crate::root::{Signs, without_function};

/// How long it is believed which GPU has which name.
const NAMES: Duration = Duration::from_secs(30);
/// How long a GPU may take to be measured: below the deadline of a measurement.
const LIMIT: Duration = Duration::from_secs(1);
/// Programs' use of a GPU is asked for the time before this.
const LATELY: Duration = Duration::from_secs(2);
/// Of a field: over all links.
const ALL: u32 = u32::MAX;

type Measures = BTreeMap<String, Amount>;

/// Which GPUs there are, by their places on the bus.
#[derive(Debug)]
pub(crate) struct Names {
    at: Instant,
    signs: Signs,
    units: Arc<Vec<Unit>>,
}

impl CudaPlugin {
    pub(crate) fn measure(&self, names: &mut Option<Names>) -> Result<Samples, Error> {
        let libraries = self.libraries()?;
        let signs = self.root.signs();
        let known = names.take_if(|known| known.at.elapsed() < NAMES && known.signs == signs);
        let known = match known {
            Some(known) => known,
            None => Names {
                at: Instant::now(),
                signs,
                units: Arc::new(self.machine(&libraries)?.units),
            },
        };
        let units = Arc::clone(&names.insert(known).units);
        let managing = self.demand.managing();
        let _look = managing.map(|store| store.look(GLANCE)).transpose()?;
        let nvml = nvml::start(&self.root, &libraries.nvml)?;
        let count = nvml.device_count().unwrap_or(0);
        let one = move |nvml: &Nvml, index| {
            let mut samples = Samples::default();
            // One that is lost is measured by nobody.
            if let Ok(device) = nvml.device_by_index(index) {
                gpu(nvml, &device, &units, &mut samples);
            }
            samples
        };
        let mut all = Samples::default();
        let answers = nvml::each(&nvml, count, &self.silent, LIMIT, one);
        for samples in answers.into_iter().flatten() {
            all.devices.extend(samples.devices);
            all.processes.extend(samples.processes);
        }
        Ok(all)
    }
}

fn gpu(nvml: &Nvml, device: &Device<'_>, units: &[Unit], samples: &mut Samples) {
    let Ok(pci) = device.pci_info() else {
        return;
    };
    let address = format!("{:04x}:{:02x}:{:02x}", pci.domain, pci.bus, pci.device);
    let mut here = units
        .iter()
        .filter(|unit| without_function(&unit.address) == address);
    let Some(whole) = here.clone().find(|unit| unit.device.parent.is_none()) else {
        return;
    };
    let id = &whole.device.id;
    samples.devices.insert(id.clone(), measures(nvml, device));
    let instances: Vec<&Unit> = here.by_ref().filter(|unit| unit.gi.is_some()).collect();
    let name = |gi: Option<u32>| {
        let instance = instances.iter().find(|unit| gi.is_some() && unit.gi == gi);
        instance.map_or(id, |unit| &unit.device.id).clone()
    };
    for index in 0..device.mig_device_count().unwrap_or(0) {
        let Ok(instance) = device.mig_device_by_index(index) else {
            continue;
        };
        let gi = ffi::instance(nvml.lib(), &instance).ok().map(|(gi, _)| gi);
        let id_of = name(gi);
        if id_of != *id {
            samples.devices.insert(id_of, memory(nvml, &instance));
        }
    }
    let mut used: BTreeMap<(String, u32), Measures> = BTreeMap::new();
    for process in processes(device).unwrap_or_default() {
        if process.pid == 0 {
            continue;
        }
        let one = used
            .entry((name(process.gpu_instance_id), process.pid))
            .or_default();
        // One that uses several instances of its GPU instance is listed for each.
        if let UsedGpuMemory::Used(bytes) = process.used_gpu_memory {
            let sum = one.entry("memory_used_bytes".to_owned()).or_default();
            *sum = sum.checked_add(Amount::from_units(bytes)).unwrap_or(*sum);
        }
    }
    for (pid, ratio) in lately(device) {
        if let Some(one) = used.get_mut(&(id.clone(), pid)) {
            one.insert("utilization_ratio".into(), ratio);
        }
    }
    let process = |((device, pid), measures)| ProcessSample {
        device,
        pid,
        measures,
    };
    samples.processes.extend(used.into_iter().map(process));
}

/// What part of its multiprocessors' time each program had of late.
fn lately(device: &Device<'_>) -> BTreeMap<u32, Amount> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let since = now.saturating_sub(LATELY).as_micros();
    let since = u64::try_from(since).unwrap_or(0);
    let mut samples = device.process_utilization_stats(since).unwrap_or_default();
    samples.sort_by_key(|sample| sample.timestamp);
    let ratio = |percent: u32| percentage(percent.min(100));
    samples
        .into_iter()
        .filter_map(|sample| Some((sample.pid, ratio(sample.sm_util)?)))
        .collect()
}

fn measures(nvml: &Nvml, device: &Device<'_>) -> Measures {
    let mut measures = memory(nvml, device);
    let mut put = |name: &str, amount: Option<Amount>| {
        measures.extend(amount.map(|amount| (name.to_owned(), amount)));
    };
    let utilization = device.utilization_rates().ok();
    let percent = |part: Option<u32>| part.and_then(percentage);
    put(
        "utilization_ratio",
        percent(utilization.as_ref().map(|u| u.gpu)),
    );
    put(
        "memory_busy_ratio",
        percent(utilization.as_ref().map(|u| u.memory)),
    );
    put("fan_ratio", percent(device.fan_speed(0).ok()));
    let milli = |amount: Option<u64>| scaled(amount?, 1_000_000);
    put(
        "power_watts",
        milli(device.power_usage().ok().map(Into::into)),
    );
    put(
        "power_limit_watts",
        milli(device.enforced_power_limit().ok().map(Into::into)),
    );
    put(
        "energy_joules_total",
        milli(device.total_energy_consumption().ok()),
    );
    let units = |amount: Option<u64>| amount.map(Amount::from_units);
    let temperature = device.temperature(TemperatureSensor::Gpu).ok();
    put("temperature_celsius", units(temperature.map(Into::into)));
    for (name, clock) in [
        ("graphics_clock_hertz", Clock::Graphics),
        ("sm_clock_hertz", Clock::SM),
        ("memory_clock_hertz", Clock::Memory),
        ("video_clock_hertz", Clock::Video),
    ] {
        let megahertz: Option<u64> = device.clock_info(clock).ok().map(Into::into);
        put(name, units(megahertz.map(|clock| clock * 1_000_000)));
    }
    for (name, kind) in [
        ("ecc_corrected_errors_total", MemoryError::Corrected),
        ("ecc_uncorrected_errors_total", MemoryError::Uncorrected),
    ] {
        put(
            name,
            units(device.total_ecc_errors(kind, EccCounter::Volatile).ok()),
        );
    }
    for (name, policy) in [
        ("slowed_by_power_seconds_total", PerformancePolicy::Power),
        ("slowed_by_heat_seconds_total", PerformancePolicy::Thermal),
    ] {
        let slowed = device.violation_status(policy).ok();
        put(name, slowed.and_then(|time| scaled(time.violation_time, 1)));
    }
    if let Ok(reasons) = device.current_throttle_reasons() {
        let heat = ThrottleReasons::HW_THERMAL_SLOWDOWN | ThrottleReasons::SW_THERMAL_SLOWDOWN;
        let power = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
        let now = |slowed: bool| Some(Amount::from_units(slowed.into()));
        put("slowed_by_heat_ratio", now(reasons.intersects(heat)));
        put("slowed_by_power_ratio", now(reasons.intersects(power)));
    }
    let fields = [
        (NVML_FI_DEV_MEMORY_TEMP, 0),
        (NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0),
        (NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0),
        (NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL),
        (NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL),
    ];
    let [hot, sent, received, linked_out, linked_in] = ffi::fields(nvml.lib(), device, fields);
    put("memory_temperature_celsius", units(hot));
    put("pcie_sent_bytes_total", units(sent));
    put("pcie_received_bytes_total", units(received));
    // Counted in KiB (nvml.h).
    put(
        "nvlink_sent_bytes_total",
        units(linked_out.map(|kib| kib << 10)),
    );
    put(
        "nvlink_received_bytes_total",
        units(linked_in.map(|kib| kib << 10)),
    );
    measures
}

/// Of a GPU, or of a MIG instance.
fn memory(nvml: &Nvml, device: &Device<'_>) -> Measures {
    let new = device
        .memory_info()
        .ok()
        .map(|memory| (memory.total, memory.used));
    let memory = new.or_else(|| ffi::memory_v1(nvml.lib(), device).ok());
    let Some((total, used)) = memory.filter(|(total, _)| *total > 0) else {
        return Measures::new();
    };
    [("memory_total_bytes", total), ("memory_used_bytes", used)]
        .map(|(name, bytes)| (name.to_owned(), Amount::from_units(bytes)))
        .into()
}

fn percentage(percent: u32) -> Option<Amount> {
    scaled(percent.into(), 10_000_000)
}

fn scaled(number: u64, nanos: u128) -> Option<Amount> {
    Amount::from_nanos(u128::from(number).checked_mul(nanos)?)
}

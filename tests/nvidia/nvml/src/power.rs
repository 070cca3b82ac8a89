//! Power, temperature, fans.

use std::ffi::{c_uint, c_ulonglong};

use divvy_nvidia_machine::Gpu;
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;

/// mW: drawn, and the limit.
pub(crate) fn power(gpu: &Gpu) -> Answer<[u32; 2]> {
    gpu.power_mw.ok_or(NOT_SUPPORTED)
}

/// The least limit that can be set: of 700 W, 200.
pub(crate) fn least(gpu: &Gpu) -> Answer<u32> {
    Ok(power(gpu)?[1] / 7 * 2)
}

/// °C.
pub(crate) fn temperature(gpu: &Gpu) -> Answer<u32> {
    gpu.temperature.ok_or(NOT_SUPPORTED)
}

/// °C of stacked memory. Only that is measured: GPUs that have it remap rows.
pub(crate) fn memory_temperature(gpu: &Gpu) -> Answer<u32> {
    gpu.remapped_rows.ok_or(NOT_SUPPORTED)?;
    Ok(gpu.memory_temperature.unwrap_or(temperature(gpu)? + 8))
}

/// °C that stacked memory may have.
const MEMORY_MAX: u32 = 95;

/// °C at which something happens.
fn threshold(gpu: &Gpu, which: nvmlTemperatureThresholds_t) -> Answer<u32> {
    temperature(gpu)?;
    let [shutdown, slowdown, max] = gpu.thresholds;
    Ok(match which {
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SHUTDOWN => shutdown,
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SLOWDOWN => slowdown,
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_GPU_MAX => max,
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_MEM_MAX => {
            gpu.remapped_rows.ok_or(NOT_SUPPORTED)?;
            MEMORY_MAX
        }
        which if which < nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_COUNT => {
            return Err(NOT_SUPPORTED);
        }
        _ => return Err(INVALID_ARGUMENT),
    })
}

/// How far the same is from the most that it works at, as GPUs from Ada on say it: what is
/// left of the margin when it happens.
pub(crate) fn limit(gpu: &Gpu, which: nvmlTemperatureThresholds_t) -> Answer<i32> {
    if matches!(
        gpu.architecture.as_deref(),
        None | Some("Volta" | "Turing" | "Ampere")
    ) {
        return Err(NOT_SUPPORTED);
    }
    let from = match which {
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_MEM_MAX => MEMORY_MAX,
        _ => gpu.thresholds[2],
    };
    let at = threshold(gpu, which)?;
    i32::try_from(i64::from(from) - i64::from(at)).map_err(|_| UNKNOWN)
}

fn fan(gpu: &Gpu, number: c_uint) -> Answer<c_uint> {
    let speed = gpu.fan.ok_or(NOT_SUPPORTED)?;
    match number {
        0 => Ok(speed),
        _ => Err(INVALID_ARGUMENT),
    }
}

exports! {
    about nvmlDeviceGetPowerUsage(device: nvmlDevice_t, mw: *mut c_uint) {
        mw.put(power(device.whole()?)?[0])
    }
    about nvmlDeviceGetPowerManagementMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) {
        power(device.whole()?)?;
        mode.put(1)
    }
    about nvmlDeviceGetPowerManagementLimit(device: nvmlDevice_t, mw: *mut c_uint) {
        mw.put(power(device.whole()?)?[1])
    }
    about nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, mw: *mut c_uint) {
        mw.put(power(device.whole()?)?[1])
    }
    about nvmlDeviceGetPowerManagementDefaultLimit(device: nvmlDevice_t, mw: *mut c_uint) {
        mw.put(power(device.whole()?)?[1])
    }
    about nvmlDeviceGetPowerManagementLimitConstraints(
        device: nvmlDevice_t, min: *mut c_uint, max: *mut c_uint
    ) {
        let gpu = device.whole()?;
        min.put(least(gpu)?)?;
        max.put(power(gpu)?[1])
    }
    about nvmlDeviceGetPowerSource(device: nvmlDevice_t, source: *mut nvmlPowerSource_t) {
        power(device.whole()?)?;
        source.put(NVML_POWER_SOURCE_AC)
    }
    about nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, mj: *mut c_ulonglong) {
        mj.put(device.whole()?.energy_mj.ok_or(NOT_SUPPORTED)?)
    }
    about nvmlDeviceGetTemperature(
        device: nvmlDevice_t, sensor: nvmlTemperatureSensors_t, celsius: *mut c_uint
    ) {
        match sensor {
            nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU => celsius.put(temperature(device.whole()?)?),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    about nvmlDeviceGetTemperatureV(device: nvmlDevice_t, to: *mut nvmlTemperature_t) {
        let mut reading = to.get()?;
        check::<nvmlTemperature_t>(reading.version, 1)?;
        if reading.sensorType != nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU {
            return Err(INVALID_ARGUMENT);
        }
        let celsius = temperature(device.whole()?)?;
        reading.temperature = i32::try_from(celsius).map_err(|_| UNKNOWN)?;
        to.put(reading)
    }
    about nvmlDeviceGetTemperatureThreshold(
        device: nvmlDevice_t, which: nvmlTemperatureThresholds_t, celsius: *mut c_uint
    ) {
        celsius.put(threshold(device.whole()?, which)?)
    }
    about nvmlDeviceGetMarginTemperature(device: nvmlDevice_t, to: *mut nvmlMarginTemperature_t) {
        let mut margin = to.get()?;
        check::<nvmlMarginTemperature_t>(margin.version, 1)?;
        let gpu = device.whole()?;
        let left = i64::from(gpu.thresholds[2]) - i64::from(temperature(gpu)?);
        margin.marginTemperature = i32::try_from(left).map_err(|_| UNKNOWN)?;
        to.put(margin)
    }
    about nvmlDeviceGetFanSpeed(device: nvmlDevice_t, percent: *mut c_uint) {
        percent.put(fan(device.whole()?, 0)?)
    }
    about nvmlDeviceGetFanSpeed_v2(device: nvmlDevice_t, number: c_uint, percent: *mut c_uint) {
        percent.put(fan(device.whole()?, number)?)
    }
    about nvmlDeviceGetTargetFanSpeed(device: nvmlDevice_t, number: c_uint, percent: *mut c_uint) {
        percent.put(fan(device.whole()?, number)?)
    }
    about nvmlDeviceGetMinMaxFanSpeed(device: nvmlDevice_t, min: *mut c_uint, max: *mut c_uint) {
        fan(device.whole()?, 0)?;
        min.put(30)?;
        max.put(100)
    }
    about nvmlDeviceGetNumFans(device: nvmlDevice_t, count: *mut c_uint) {
        count.put(u32::from(device.whole()?.fan.is_some()))
    }
}

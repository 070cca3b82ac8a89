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

/// °C at which it is slower, and shuts down.
const SLOWDOWN: u32 = 89;
const SHUTDOWN: u32 = 92;
const MAX: u32 = 85;

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
        temperature(device.whole()?)?;
        celsius.put(match which {
            nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SHUTDOWN => SHUTDOWN,
            nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SLOWDOWN => SLOWDOWN,
            nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_GPU_MAX => MAX,
            which if which < nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_COUNT => {
                return Err(NOT_SUPPORTED);
            }
            _ => return Err(INVALID_ARGUMENT),
        })
    }
    about nvmlDeviceGetMarginTemperature(device: nvmlDevice_t, to: *mut nvmlMarginTemperature_t) {
        let mut margin = to.get()?;
        check::<nvmlMarginTemperature_t>(margin.version, 1)?;
        let left = MAX.saturating_sub(temperature(device.whole()?)?);
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

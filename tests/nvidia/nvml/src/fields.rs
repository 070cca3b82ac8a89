//! Values by field number, many in one call.

use std::ffi::c_int;

use nvml_wrapper_sys::bindings::field_id::*;
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::power::{least, limit, memory_temperature, power};
use crate::processes::now;
use crate::state::Device;
use crate::{health, links};

/// A value of a field's type.
enum Value {
    Word(u32),
    Long(u64),
    Signed(i32),
}

/// ECC errors: corrected, and not; since boot, and of its whole life.
const ERRORS: [(u32, nvmlMemoryErrorType_t, nvmlEccCounterType_t); 4] = [
    (NVML_FI_DEV_ECC_SBE_VOL_TOTAL, 0, 0),
    (NVML_FI_DEV_ECC_DBE_VOL_TOTAL, 1, 0),
    (NVML_FI_DEV_ECC_SBE_AGG_TOTAL, 0, 1),
    (NVML_FI_DEV_ECC_DBE_AGG_TOTAL, 1, 1),
];

/// Errors of NVLinks, by kind.
const LINK_ERRORS: [(u32, nvmlNvLinkErrorCounter_t); 5] = [
    (NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 0),
    (NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, 1),
    (NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, 2),
    (NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL, 3),
    (NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL, 4),
];

/// Temperatures, by how far they are from the most that it works at.
const LIMITS: [(u32, nvmlTemperatureThresholds_t); 4] = [
    (
        NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT,
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SHUTDOWN,
    ),
    (
        NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT,
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
    ),
    (
        NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT,
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_MEM_MAX,
    ),
    (
        NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT,
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_GPU_MAX,
    ),
];

fn value(device: &Device, field: u32, scope: u32) -> Answer<Value> {
    let gpu = device.whole()?;
    if let Some((_, kind, since)) = ERRORS.iter().find(|(id, ..)| *id == field) {
        return Ok(Value::Long(health::errors(gpu, *kind, *since)?));
    }
    if let Some((_, what)) = LINK_ERRORS.iter().find(|(id, _)| *id == field) {
        return Ok(Value::Long(links::errors(device, *what)?));
    }
    if let Some((_, which)) = LIMITS.iter().find(|(id, _)| *id == field) {
        return Ok(Value::Signed(limit(gpu, *which)?));
    }
    let rows = || device.undivided()?.remapped_rows.ok_or(NOT_SUPPORTED);
    Ok(match field {
        NVML_FI_DEV_ECC_CURRENT | NVML_FI_DEV_ECC_PENDING => {
            Value::Word(u32::from(gpu.ecc.ok_or(NOT_SUPPORTED)?))
        }
        NVML_FI_DEV_MEMORY_TEMP => Value::Word(memory_temperature(gpu)?),
        NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION => Value::Long(gpu.energy_mj.ok_or(NOT_SUPPORTED)?),
        NVML_FI_DEV_NVLINK_LINK_COUNT => Value::Word(number(device.undivided()?.nvlink.len())),
        NVML_FI_DEV_REMAPPED_COR => Value::Word(rows()?.0),
        NVML_FI_DEV_REMAPPED_UNC => Value::Word(rows()?.1),
        NVML_FI_DEV_REMAPPED_PENDING => Value::Word(u32::from(rows()?.2)),
        NVML_FI_DEV_REMAPPED_FAILURE => Value::Word(u32::from(rows()?.3)),
        NVML_FI_DEV_POWER_AVERAGE | NVML_FI_DEV_POWER_INSTANT => Value::Word(power(gpu)?[0]),
        NVML_FI_DEV_POWER_MIN_LIMIT => Value::Word(least(gpu)?),
        NVML_FI_DEV_POWER_MAX_LIMIT
        | NVML_FI_DEV_POWER_DEFAULT_LIMIT
        | NVML_FI_DEV_POWER_CURRENT_LIMIT
        | NVML_FI_DEV_POWER_REQUESTED_LIMIT => Value::Word(power(gpu)?[1]),
        NVML_FI_DEV_RETIRED_PENDING => Value::Word(u32::from(health::retired_pending(gpu)?)),
        // Drivers before know no such field.
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION if device.call.since(570) => Value::Word(gpu.recovery),
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX | NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX => {
            Value::Long(links::throughput(device, scope)?[0])
        }
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX | NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX => {
            Value::Long(links::throughput(device, scope)?[1])
        }
        NVML_FI_DEV_PCIE_COUNT_TX_BYTES => Value::Long(gpu.pcie_bytes.ok_or(NOT_SUPPORTED)?[0]),
        NVML_FI_DEV_PCIE_COUNT_RX_BYTES => Value::Long(gpu.pcie_bytes.ok_or(NOT_SUPPORTED)?[1]),
        _ => return Err(NOT_SUPPORTED),
    })
}

exports! {
    about nvmlDeviceGetFieldValues(device: nvmlDevice_t, count: c_int, values: *mut nvmlFieldValue_t) {
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        for index in 0..count {
            let place = values.nth(index);
            let mut answer = place.get()?;
            answer.timestamp = i64::try_from(now()).map_err(|_| UNKNOWN)?;
            answer.latencyUsec = 1;
            answer.nvmlReturn = nvmlReturn_enum_NVML_SUCCESS;
            match value(&device, answer.fieldId, answer.scopeId) {
                Ok(Value::Word(word)) => {
                    answer.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
                    // All of the union is written.
                    answer.value.ullVal = 0;
                    answer.value.uiVal = word;
                }
                Ok(Value::Long(long)) => {
                    answer.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
                    answer.value.ullVal = long;
                }
                Ok(Value::Signed(signed)) => {
                    answer.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_INT;
                    answer.value.ullVal = 0;
                    answer.value.siVal = signed;
                }
                Err(code) => answer.nvmlReturn = code,
            }
            place.put(answer)?;
        }
        Ok(())
    }
}

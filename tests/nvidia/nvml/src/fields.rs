//! Values by field number, many in one call.

use std::ffi::c_int;

use nvml_wrapper_sys::bindings::field_id::*;
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::power::{least, power};
use crate::processes::now;
use crate::state::Device;

/// A value of a field's type.
enum Value {
    Word(u32),
    Long(u64),
}

fn value(device: &Device, field: u32) -> Answer<Value> {
    let gpu = device.whole()?;
    let rows = || device.undivided()?.remapped_rows.ok_or(NOT_SUPPORTED);
    Ok(match field {
        NVML_FI_DEV_ECC_CURRENT | NVML_FI_DEV_ECC_PENDING => {
            Value::Word(u32::from(gpu.ecc.ok_or(NOT_SUPPORTED)?))
        }
        NVML_FI_DEV_MEMORY_TEMP => {
            // Only stacked memory is measured: GPUs that have it remap rows.
            gpu.remapped_rows.ok_or(NOT_SUPPORTED)?;
            Value::Word(gpu.temperature.ok_or(NOT_SUPPORTED)? + 8)
        }
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
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX
        | NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX
        | NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX
        | NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX => match device.undivided()?.nvlink.is_empty() {
            true => return Err(NOT_SUPPORTED),
            false => Value::Long(0),
        },
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
            match value(&device, answer.fieldId) {
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
                Err(code) => answer.nvmlReturn = code,
            }
            place.put(answer)?;
        }
        Ok(())
    }
}

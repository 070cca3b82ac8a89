//! Slices as edits: each unit's node, and the variable that names its cores.

use std::collections::BTreeMap;

use divvy_plugin::{
    Amount, DeviceNode, Edits, EnvVar, ErrorCode, PluginError, PrepareRequest, Slice,
};

use crate::claims::{self, Claims, Wanted};
use crate::discover::Unit;
use crate::{CAPACITY, CORES, DEVICE, no};

/// The edits for one allocation; the same for the same allocation.
pub(crate) fn edits(
    request: &PrepareRequest,
    units: &[Unit],
    claims: &Claims,
) -> Result<Edits, PluginError> {
    let mut wanted: BTreeMap<&str, Wanted> = BTreeMap::new();
    let mut edits = Edits::default();
    for slice in &request.slices {
        let unit = units.iter().find(|unit| unit.device.id == slice.device);
        let unit = unit.ok_or_else(|| {
            no(
                ErrorCode::Absent,
                format!("{} is not there any more", slice.device),
            )
        })?;
        let first = !wanted.contains_key(slice.device.as_str());
        let mine = wanted.entry(&slice.device).or_default();
        mine.of = cores_of(unit);
        mine.cores += cores(slice)?;
        if first {
            edits.device_nodes.push(node(unit)?);
        }
    }
    let cores = claims.claim(&request.allocation, &wanted)?;
    edits.env.push(EnvVar {
        name: claims::VARIABLE.into(),
        value: claims::text(&cores),
        default: false,
    });
    Ok(edits)
}

/// How many cores a slice is; the agent worked it out from the slot's draws.
fn cores(slice: &Slice) -> Result<u32, PluginError> {
    let amount = slice
        .capacities
        .get(CAPACITY)
        .copied()
        .unwrap_or(Amount::ZERO);
    let whole = amount.fraction().is_zero() && !amount.is_zero();
    match u32::try_from(amount.whole_units()) {
        Ok(cores) if whole && [DEVICE, CORES].contains(&slice.slot.as_str()) => Ok(cores),
        _ => {
            let message = format!("{amount} cores by the slot {:?} cannot be", slice.slot);
            Err(no(ErrorCode::Invalid, message))
        }
    }
}

fn cores_of(unit: &Unit) -> u32 {
    let cores = unit
        .device
        .capacities
        .get(CAPACITY)
        .map_or(0, |c| c.total.whole_units());
    u32::try_from(cores).unwrap_or(u32::MAX)
}

fn node(unit: &Unit) -> Result<DeviceNode, PluginError> {
    let name = &unit.name;
    let id = unit.device.nodes.first().ok_or_else(|| {
        no(
            ErrorCode::Driver,
            format!("the driver does not say the numbers of {name}"),
        )
    })?;
    Ok(DeviceNode {
        device: unit.device.id.clone(),
        path: format!("/dev/{name}"),
        kind: id.kind,
        major: id.major,
        minor: id.minor,
        write: true,
        mode: Some(0o666),
        gid: None,
    })
}

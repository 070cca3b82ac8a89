//! Slices as edits: each unit's node, and the variable that names its cores.

use divvy_plugin::{DeviceNode, Edits, EnvVar, PluginError, PrepareRequest, Slice};

use crate::claims::{self, Claims};
use crate::discover::Unit;
use crate::error::{absent, driver, invalid};
use crate::{CAPACITY, CORES, DEVICE};

/// The edits for one allocation; the same for the same allocation.
pub(crate) fn edits(
    request: &PrepareRequest,
    units: &[Unit],
    claims: &Claims,
) -> Result<Edits, PluginError> {
    let mut edits = Edits::default();
    let mut wanted = Vec::new();
    for slice in &request.slices {
        let unit = units.iter().find(|unit| unit.device.id == slice.device);
        let unit = unit.ok_or_else(|| absent(format!("{} is not there now", slice.device)))?;
        wanted.push((unit, cores(slice)?));
        edits.device_nodes.push(node(unit)?);
    }
    let cores = claims.claim(&request.allocation, &wanted)?;
    edits.env.push(EnvVar {
        name: claims::VARIABLE.into(),
        value: claims::text(&cores),
        default: false,
    });
    Ok(edits)
}

/// How many cores a slice is: the agent worked it out from the slot's draws.
fn cores(slice: &Slice) -> Result<usize, PluginError> {
    let (slot, amount) = (&slice.slot, slice.capacities.get(CAPACITY));
    match amount.map(|a| (usize::try_from(a.whole_units()), a.fraction().is_zero())) {
        Some((Ok(cores @ 1..), true)) if [DEVICE, CORES].contains(&slot.as_str()) => Ok(cores),
        _ => Err(invalid(format!("{slot:?} is no slot for {amount:?} cores"))),
    }
}

fn node(unit: &Unit) -> Result<DeviceNode, PluginError> {
    let name = &unit.name;
    let id = unit.device.nodes.first();
    let id = id.ok_or_else(|| driver(format!("the numbers of {name} are not known")))?;
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

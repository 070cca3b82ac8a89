//! The units of this machine, from the driver's files.
//!
//! `ROOT/sys/class/npu/npuN` holds, one value a file: `unique_id`, `dev`
//! (`MAJOR:MINOR`), `cores`, `health` (`healthy`, `degraded: WHY` or
//! `unhealthy: WHY`) and `numa_node`. Nothing is assumed of what a file does
//! not say: such a unit is listed, and closed.

use std::fs;
use std::path::{Path, PathBuf};

use divvy_plugin::{
    Amount, Attribute, Capacity, Device, Discovery, Health, HealthState, NodeId, NodeKind,
    PluginError,
};

use crate::CAPACITY;
use crate::error::{absent, driver};

/// A unit, as the driver shows it.
#[derive(Debug)]
pub(crate) struct Unit {
    /// `npu0`: its node's name, and not more: the next start may number anew.
    pub(crate) name: String,
    /// How many cores it has; 0 if that is not known.
    pub(crate) cores: u32,
    /// What it is reported as.
    pub(crate) device: Device,
}

/// Where the driver shows its units.
pub(crate) fn class_folder(root: &Path) -> Result<PathBuf, PluginError> {
    let folder = root.join("sys/class/npu");
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(absent(format!(
            "no NPU driver: {} is missing; modprobe npu",
            folder.display()
        ))),
    }
}

/// Everything there is.
pub(crate) fn discovery(root: &Path) -> Result<Discovery, PluginError> {
    let mut found = Discovery::default();
    for folder in folders(root)? {
        match unit(&folder) {
            Ok(unit) => found.devices.push(unit.device),
            Err(why) => found.warnings.push(why),
        }
    }
    // The driver's order changes from start to start.
    found.devices.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// The units that can be told apart.
pub(crate) fn units(root: &Path) -> Result<Vec<Unit>, PluginError> {
    Ok(folders(root)?.iter().filter_map(|f| unit(f).ok()).collect())
}

fn folders(root: &Path) -> Result<Vec<PathBuf>, PluginError> {
    let class = class_folder(root)?;
    let entries = fs::read_dir(&class);
    let entries = entries.map_err(|e| driver(format!("{}: {e}", class.display())))?;
    Ok(entries.filter_map(|e| Some(e.ok()?.path())).collect())
}

/// One unit; without an id of its own it is none that could be granted.
fn unit(folder: &Path) -> Result<Unit, String> {
    let read = |file: &str| -> Result<String, String> {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(text.trim().to_owned())
    };
    let odd = |file: &str, text: &str| format!("{file} is {text:?}");
    let mut device = Device::new(read("unique_id")?, "npu", "Example NPU");
    let node = read("dev").and_then(|text| number(&text).ok_or(odd("dev", &text)));
    let cores = read("cores").and_then(|text| text.parse().map_err(|_| odd("cores", &text)));
    device.health = match (&read("health"), &node, &cores) {
        (_, Err(why), _) | (_, _, Err(why)) | (Err(why), ..) => health(HealthState::Unknown, why),
        (Ok(said), Ok(_), Ok(_)) => health_of(said),
    };
    device.nodes.extend(node);
    let cores = cores.unwrap_or(0);
    let capacity = Capacity::of(Amount::from_units(cores.into()));
    device.capacities.insert(CAPACITY.into(), capacity);
    device.numa_node = read("numa_node").ok().and_then(|n| n.parse().ok());
    let name = folder.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let attribute = Attribute::text(&name);
    device.attributes.insert("name".into(), attribute);
    Ok(Unit {
        name,
        cores,
        device,
    })
}

fn health_of(text: &str) -> Health {
    let (word, why) = text
        .split_once(':')
        .unwrap_or((text, "for no known reason"));
    match (word, why) {
        ("healthy", _) => Health::healthy(),
        ("degraded", why) => health(HealthState::Degraded, why),
        ("unhealthy", why) => health(HealthState::Unhealthy, why),
        _ => health(HealthState::Unknown, &format!("the driver says {text:?}")),
    }
}

fn health(state: HealthState, why: &str) -> Health {
    Health {
        state,
        reason: Some(why.trim().to_owned()),
    }
}

/// `240:1`.
fn number(text: &str) -> Option<NodeId> {
    let (major, minor) = text.split_once(':')?;
    Some(NodeId {
        kind: NodeKind::Char,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folder `machine` stands for a machine's root: a test reads it on the
    /// same path as production reads `/`.
    #[test]
    fn the_machine_beside_this_crate_is_read() {
        let found = discovery(Path::new("machine")).unwrap();
        assert_eq!(found.warnings, Vec::<String>::new());
        let ids: Vec<&str> = found.devices.iter().map(|d| d.id.as_str()).collect();
        assert_eq!(ids, ["NPU-7A01", "NPU-7A02"]);
        let first = &found.devices[0];
        assert_eq!(first.health, Health::healthy());
        assert_eq!(first.nodes[0].major, 240);
        assert_eq!(first.capacities[CAPACITY].total, Amount::from_units(8));
    }
}

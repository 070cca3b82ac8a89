//! What a container carries of its allocation, so that it can be rebuilt from
//! the engine alone. No secrets: variables of users are not among it.

use std::collections::HashMap;

use crate::launch::Container;
use crate::model::Record;

/// The version of these labels.
const SCHEMA: &str = "1";
const PREFIX: &str = "dev.divvy.";

/// The label by which the containers of one state folder are found.
pub(super) const STATE: &str = "dev.divvy.state";

/// The labels of a container; `state` is the folder that owns it.
pub(super) fn write(
    record: &Record,
    container: &Container,
    state: &str,
) -> Result<HashMap<String, String>, serde_json::Error> {
    let labels = [
        ("schema", SCHEMA.to_owned()),
        ("state", state.to_owned()),
        ("id", record.id.clone()),
        ("name", record.name.clone()),
        ("owner", record.owner.to_string()),
        ("boot", record.boot_id.clone()),
        ("record", serde_json::to_string(record)?),
        ("container", serde_json::to_string(container)?),
    ];
    let labels = labels.into_iter();
    Ok(labels.map(|(k, v)| (PREFIX.to_owned() + k, v)).collect())
}

/// Reads them.
pub(super) fn read(labels: &HashMap<String, String>) -> Result<(Record, Container), String> {
    let label = |name: &str| {
        labels
            .get(&(PREFIX.to_owned() + name))
            .ok_or_else(|| format!("it has no label {PREFIX}{name}"))
    };
    let schema = label("schema")?;
    if schema != SCHEMA {
        return Err(format!("its labels are of version {schema}, not {SCHEMA}"));
    }
    let read = |name: &str, error: serde_json::Error| format!("its label {PREFIX}{name}: {error}");
    let record: Record = serde_json::from_str(label("record")?).map_err(|e| read("record", e))?;
    let container: Container =
        serde_json::from_str(label("container")?).map_err(|e| read("container", e))?;
    if record.id != *label("id")? || container.id != record.id {
        return Err("its labels contradict each other".into());
    }
    Ok((record, container))
}

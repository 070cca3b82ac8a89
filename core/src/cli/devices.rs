//! `divvy devices`.

use serde_json::json;

use super::agent;
use super::args::Global;
use super::output::{Failure, print_json, print_table, printable, table};
use crate::agent::{DeviceView, describe_inventory};
use crate::model::{Amount, Inventory, format_amount};
use crate::sys;

pub(super) async fn run(global: &Global) -> Result<u8, Failure> {
    let agent = agent(global)?;
    // Without root the ledger cannot be read: what is free is not known.
    let records = if sys::is_root() {
        Some(agent.workloads().await?)
    } else {
        None
    };
    let (inventory, failed) = agent.inventory().await;
    let (devices, problems) = describe_inventory(&inventory, records.as_deref().unwrap_or(&[]));
    if global.json {
        let failed: Vec<_> = failed
            .iter()
            .map(|(plugin, e)| json!({ "plugin": plugin, "code": e.code(), "message": e.to_string() }))
            .collect();
        print_json(&json!({
            "devices": devices,
            "slots": inventory.slots().map(|(plugin, slot)| json!({ "plugin": plugin, "slot": slot })).collect::<Vec<_>>(),
            "numa_nodes": inventory.numa_nodes,
            "held": records.iter().flatten().filter(|r| r.holds()).map(|r| json!({ "name": r.name, "slices": r.slices })).collect::<Vec<_>>(),
            "usage_known": records.is_some(),
            "problems": problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "failed_plugins": failed,
        }));
        return Ok(0);
    }
    let mut shown = table(["DEVICE", "MODEL", "NUMA", "FREE", "OF", "HEALTH", "HELD BY"]);
    for view in &devices {
        let device = &view.device.device;
        shown.add_row([
            view.device.name().to_string(),
            printable(&device.model),
            device
                .numa_node
                .map_or_else(|| "-".into(), |n| n.to_string()),
            if records.is_some() {
                free(view, &inventory)
            } else {
                "?".into()
            },
            capacity(view, &inventory),
            health(view),
            view.holders.join(" "),
        ]);
    }
    print_table(&shown);
    if records.is_none() {
        tell!("divvy: what is held is in the ledger, which only root can read: sudo divvy devices");
    }
    for problem in problems {
        tell!("divvy: {problem}");
    }
    for (_, error) in failed.iter().filter(|(_, e)| !e.is_absent()) {
        tell!(
            "divvy: {} [{}]",
            printable(&error.to_string()),
            error.code()
        );
    }
    Ok(0)
}

fn free(view: &DeviceView, inventory: &Inventory) -> String {
    let amounts = view.usage.iter().map(|(name, u)| {
        let usable = u.total.saturating_sub(u.reserved);
        (name, usable.saturating_sub(u.used))
    });
    show(amounts, &view.device.plugin, inventory)
}

fn capacity(view: &DeviceView, inventory: &Inventory) -> String {
    show(
        view.usage.iter().map(|(name, u)| (name, u.total)),
        &view.device.plugin,
        inventory,
    )
}

/// Amounts of capacities, in the unit of the slot that draws on each.
fn show<'a>(
    amounts: impl Iterator<Item = (&'a String, Amount)>,
    plugin: &str,
    inventory: &Inventory,
) -> String {
    let all: Vec<String> = amounts
        .map(|(capacity, amount)| {
            let unit = inventory
                .plugins
                .get(plugin)
                .and_then(|m| {
                    m.slots
                        .iter()
                        .find(|s| s.draws.iter().any(|d| d.capacity == *capacity))
                })
                .map_or("", |slot| slot.unit.as_str());
            match unit {
                "byte" => format_amount(amount, unit),
                _ => format!("{amount} {capacity}"),
            }
        })
        .collect();
    all.join(", ")
}

fn health(view: &DeviceView) -> String {
    let health = &view.device.device.health;
    let word = serde_json::to_value(health.state).ok();
    let word = word.as_ref().and_then(|w| w.as_str()).unwrap_or("?");
    match (&health.reason, &view.closed) {
        (Some(reason), _) => format!("{word}: {}", printable(reason)),
        (None, Some(closed)) => format!("closed: {}", printable(closed)),
        (None, None) => word.to_owned(),
    }
}

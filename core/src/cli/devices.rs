//! `divvy devices`.

use divvy_plugin::Shape;

use super::args::Global;
use super::output::{Failure, print_json, print_table, printable, table};
use super::{FAILED, open};
use crate::agent::events::word;
use crate::agent::{DeviceView, Devices};
use crate::model::{Amount, format_amount};

/// No reason is longer in the table.
const WIDE: usize = 100;

pub(super) async fn run(global: &Global) -> Result<u8, Failure> {
    let all = open(global).await?.devices().await?;
    if global.json {
        print_json(&all);
        return Ok(0);
    }
    let mut shown = table(["DEVICE", "MODEL", "NUMA", "FREE", "OF", "HEALTH", "HELD BY"]);
    for view in &all.devices {
        let device = &view.device.device;
        shown.add_row([
            view.device.name().to_string(),
            printable(&device.model),
            device
                .numa_node
                .map_or_else(|| "-".into(), |n| n.to_string()),
            if all.usage_known {
                free(view, &all)
            } else {
                "?".into()
            },
            capacity(view, &all),
            health(view),
            view.holders.join(" "),
        ]);
    }
    print_table(&shown);
    if !all.usage_known {
        tell!("divvy: what is held is in the ledger, which only root can read: sudo divvy devices");
    }
    for problem in &all.problems {
        tell!("divvy: {}", printable(problem));
    }
    for failed in all.failed_plugins.iter().filter(|f| !f.absent) {
        tell!("divvy: {} [{}]", printable(&failed.message), failed.code);
    }
    let wrong = all
        .failed_plugins
        .iter()
        .any(|f| f.code == "invalid_setting");
    Ok(if wrong { FAILED } else { 0 })
}

/// What could be asked for now: nothing of a device that takes no work, and of one that
/// is in a mode, only what that mode's slots draw on.
fn free(view: &DeviceView, all: &Devices) -> String {
    let plugin = &view.device.plugin;
    if view.closed.is_some() {
        return "-".into();
    }
    let name = view.device.name();
    let slots = || {
        all.slots
            .iter()
            .filter(|s| s.plugin == *plugin)
            .map(|s| &s.slot)
    };
    let held = all.held.iter().flat_map(|holding| &holding.slices);
    let mode = held
        .filter(|slice| slice.device() == name)
        .filter_map(|slice| {
            slots()
                .find(|slot| slot.name == slice.part.slot)?
                .mode
                .as_ref()
        })
        .next();
    let served = |capacity: &String| {
        slots().any(|slot| {
            let draws = slot.draws.iter().any(|draw| draw.capacity == *capacity);
            let in_mode = || slot.mode.as_ref() == mode && slot.shape != Shape::Whole;
            draws && (mode.is_none() || in_mode())
        })
    };
    let left = view.usage.iter().filter(|(capacity, _)| served(capacity));
    let shown = show(
        left.map(|(capacity, u)| {
            let usable = u.total.saturating_sub(u.reserved);
            (capacity, usable.saturating_sub(u.used))
        }),
        plugin,
        all,
    );
    if shown.is_empty() { "-".into() } else { shown }
}

fn capacity(view: &DeviceView, all: &Devices) -> String {
    show(
        view.usage.iter().map(|(name, u)| (name, u.total)),
        &view.device.plugin,
        all,
    )
}

/// Amounts of capacities, in the unit of the slot that draws on each.
fn show<'a>(
    amounts: impl Iterator<Item = (&'a String, Amount)>,
    plugin: &str,
    all: &Devices,
) -> String {
    let all: Vec<String> = amounts
        .map(|(capacity, amount)| {
            let unit = all.unit(plugin, capacity);
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
    let word = if view.stuck {
        "stuck"
    } else {
        word(health.state)
    };
    let said = match (&health.reason, &view.closed) {
        (Some(reason), _) => format!("{word}: {}", printable(reason)),
        (None, Some(closed)) => format!("closed: {}", printable(closed)),
        (None, None) => word.to_owned(),
    };
    // All of it is in `divvy describe`.
    match said.chars().count() > WIDE {
        true => said.chars().take(WIDE - 1).chain(['…']).collect(),
        false => said,
    }
}

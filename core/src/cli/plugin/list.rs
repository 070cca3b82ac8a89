//! `divvy plugin list`.

use crate::cli::args::Global;
use crate::cli::open;
use crate::cli::output::{Failure, print_json, print_table, printable, table};
use crate::plugin::Status;

pub(super) async fn run(global: &Global) -> Result<u8, Failure> {
    let all = open(global).await?.plugins().await?;
    if global.json {
        print_json(&all);
        return Ok(0);
    }
    say!("in {}:", all.folder);
    let mut shown = table(["NAME", "VERSION", "DEVICES", "SLOTS", "STATE"]);
    for plugin in &all.plugins {
        let state = match (&plugin.error, &plugin.state) {
            (Some(e), _) if e.absent => format!("absent: {}", e.message),
            (Some(e), _) => e.message.clone(),
            (None, Status::Ready | Status::Idle) => match plugin.crashes.last() {
                Some(last) => format!("ready; crashed before in {}: {}", last.during, last.reason),
                None => "ready".into(),
            },
            (None, Status::Crashed(why) | Status::Quarantined(why) | Status::Stuck(why)) => {
                why.clone()
            }
        };
        shown.add_row([
            plugin.name.clone(),
            plugin
                .version
                .as_ref()
                .map_or_else(|| "-".into(), |v| printable(v)),
            plugin.devices.to_string(),
            plugin.slots.as_deref().unwrap_or_default().join(" "),
            printable(&state),
        ]);
    }
    print_table(&shown);
    for plugin in &all.plugins {
        for key in plugin.settings.iter().flatten() {
            say!(
                "  --set {}.{}=…  {}",
                plugin.name,
                key.name,
                printable(&key.summary)
            );
        }
    }
    for line in &all.refused {
        tell!("divvy: {}", printable(line));
    }
    Ok(0)
}

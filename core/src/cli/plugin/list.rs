//! `divvy plugin list`.

use serde_json::json;

use crate::cli::agent;
use crate::cli::args::Global;
use crate::cli::output::{Failure, print_json, print_table, printable, table};
use crate::plugin::Status;

pub(super) async fn run(global: &Global) -> Result<u8, Failure> {
    let agent = agent(global)?;
    let (inventory, failed) = agent.inventory().await;
    let mut rows = Vec::new();
    for client in agent.plugins().clients() {
        let name = client.name();
        let manifest = inventory.plugins.get(name);
        let error = failed
            .iter()
            .find(|(plugin, _)| plugin == name)
            .map(|(_, e)| e);
        let devices = inventory
            .devices
            .iter()
            .filter(|d| d.plugin == name)
            .count();
        let crashes = client.crashes();
        let status = client.status().await;
        rows.push(json!({
            "name": name,
            "file": client.path(),
            "version": manifest.map(|m| &m.version),
            "summary": manifest.map(|m| &m.summary),
            "slots": manifest.map(|m| m.slots.iter().map(|s| &s.name).collect::<Vec<_>>()),
            "settings": manifest.map(|m| &m.config),
            "reserved_env": manifest.map(|m| &m.reserved_env),
            "devices": devices,
            "state": status,
            "error": error.map(|e| json!({ "code": e.code(), "message": e.to_string() })),
            "crashes": crashes,
        }));
    }
    let refused: Vec<String> = agent
        .plugins()
        .refused()
        .iter()
        .map(ToString::to_string)
        .collect();
    if global.json {
        print_json(
            &json!({ "folder": agent.plugins().folder, "plugins": rows, "refused": refused }),
        );
        return Ok(0);
    }
    say!("in {}:", agent.plugins().folder.display());
    let mut shown = table(["NAME", "VERSION", "DEVICES", "SLOTS", "STATE"]);
    for client in agent.plugins().clients() {
        let manifest = inventory.plugins.get(client.name());
        let error = failed
            .iter()
            .find(|(plugin, _)| plugin == client.name())
            .map(|(_, e)| e);
        let state = match (error, client.status().await) {
            (Some(e), _) if e.is_absent() => format!("absent: {e}"),
            (Some(e), _) => e.to_string(),
            (None, Status::Ready | Status::Idle) => match client.crashes().last() {
                Some(last) => format!("ready; crashed before in {}: {}", last.during, last.reason),
                None => "ready".into(),
            },
            (None, Status::Crashed(why) | Status::Quarantined(why) | Status::Stuck(why)) => why,
        };
        shown.add_row([
            client.name().to_owned(),
            manifest.map_or_else(|| "-".into(), |m| printable(&m.version)),
            inventory
                .devices
                .iter()
                .filter(|d| d.plugin == client.name())
                .count()
                .to_string(),
            manifest.map_or_else(String::new, |m| {
                m.slots
                    .iter()
                    .map(|s| s.name.as_str())
                    .collect::<Vec<_>>()
                    .join(" ")
            }),
            printable(&state),
        ]);
    }
    print_table(&shown);
    for (plugin, manifest) in &inventory.plugins {
        for key in &manifest.config {
            say!(
                "  --set {plugin}.{}=…  {}",
                key.name,
                printable(&key.summary)
            );
        }
    }
    for line in refused {
        tell!("divvy: {}", printable(&line));
    }
    Ok(0)
}

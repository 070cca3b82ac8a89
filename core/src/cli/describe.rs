//! `divvy describe`.

use serde_json::json;

use super::args::{Global, Named};
use super::output::{Failure, ago, level, print_json, printable, unit_of};
use super::{divvy, ps};
use crate::agent::events::word;
use crate::agent::{AgentError, DeviceView, IncidentView};
use crate::embed::Divvy;
use crate::model::{Health, HealthState, Record, format_amount};

pub(super) async fn run(global: &Global, args: &Named) -> Result<u8, Failure> {
    let divvy = divvy(global, "describe").await?;
    let record = match divvy.workload(&args.name).await {
        Ok(record) => record,
        Err(error) if error.code() == "unknown_workload" => {
            return device(global, &divvy, &args.name, error).await;
        }
        Err(error) => return Err(error.into()),
    };
    if global.json {
        print_json(&json!({ "workload": record }));
        return Ok(0);
    }
    show(&record);
    // What its devices have come to is worth knowing, and not worth failing for.
    let devices = divvy.devices().await.unwrap_or_default().devices;
    let mine = |view: &&DeviceView| {
        record.holds()
            && record
                .slices
                .iter()
                .any(|slice| slice.device() == view.device.name())
    };
    for view in devices.iter().filter(mine) {
        let health = &view.device.device.health;
        if health.state != HealthState::Healthy {
            say!(
                "{:<11} {}: {}",
                word(health.state),
                view.device.name(),
                why(health)
            );
        }
        for incident in &view.incidents {
            say!("incident    {}: {}", view.device.name(), told(incident));
        }
    }
    Ok(0)
}

/// The devices that a name may mean: by their whole name, else by the beginning of their
/// ids.
fn meant(devices: Vec<DeviceView>, name: &str) -> Vec<DeviceView> {
    let whole = |view: &DeviceView| view.device.name().to_string() == name;
    if let Some(view) = devices.iter().find(|view| whole(view)) {
        return vec![view.clone()];
    }
    let begins = |view: &DeviceView| {
        let id = &view.device.device.id;
        id.starts_with(name) || view.device.name().to_string().starts_with(name)
    };
    devices.into_iter().filter(begins).collect()
}

fn why(health: &Health) -> String {
    printable(
        health
            .reason
            .as_deref()
            .unwrap_or("its plugin does not say why"),
    )
}

fn told(incident: &IncidentView) -> String {
    let IncidentView {
        count,
        last_ms,
        summary,
        ..
    } = incident;
    format!(
        "{} ({count}×, last {} ago)",
        printable(summary),
        ago(*last_ms)
    )
}

async fn device(
    global: &Global,
    divvy: &Divvy,
    name: &str,
    otherwise: AgentError,
) -> Result<u8, Failure> {
    let mut found = meant(divvy.devices().await?.devices, name);
    let view = match found.len() {
        1 => found.remove(0),
        0 if name.contains('/') => return Err(AgentError::NoSuchDevice(name.to_owned()).into()),
        0 => return Err(otherwise.into()),
        _ => {
            let names = found.iter().map(|view| view.device.name().to_string());
            let names = names.collect();
            return Err(AgentError::AmbiguousDevice(name.to_owned(), names).into());
        }
    };
    if global.json {
        print_json(&json!({ "device": view }));
        return Ok(0);
    }
    let device = &view.device.device;
    say!("device      {}", view.device.name());
    say!("model       {}", printable(&device.model));
    say!("kind        {}", printable(&device.kind));
    let health = &device.health;
    let since = view
        .since_ms
        .map(|ms| format!(", for {}", ago(ms)))
        .unwrap_or_default();
    match health.state {
        HealthState::Healthy => say!("health      healthy{since}"),
        state => say!("health      {}{since}: {}", word(state), why(health)),
    }
    for (capacity, u) in &view.usage {
        say!(
            "{capacity:<11} {} held, {} reserved, of {}",
            u.used,
            u.reserved,
            u.total
        );
    }
    for (key, attribute) in &device.attributes {
        let value = serde_json::to_value(&attribute.value).unwrap_or_default();
        let value = value
            .as_object()
            .and_then(|o| o.values().next())
            .cloned()
            .unwrap_or_default();
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let unit = attribute.unit.as_deref().unwrap_or("");
        say!("{key:<11} {} {unit}", printable(&value));
    }
    for profile in device.partitioning.iter().flat_map(|cut| &cut.profiles) {
        let starts: Vec<String> = profile.starts.iter().map(u32::to_string).collect();
        say!(
            "partition   {} at {}",
            printable(&profile.slot),
            starts.join(" ")
        );
    }
    for link in &device.links {
        let speed = match link.weight {
            0 => String::new(),
            speed => format!(", {speed} MB/s"),
        };
        say!(
            "link        {} to {}{speed}",
            printable(&link.kind),
            printable(&link.to)
        );
    }
    for pid in &device.processes {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        let name = name
            .map(|name| format!(" ({})", printable(name.trim())))
            .unwrap_or_default();
        say!("process     {pid}{name}");
    }
    say!("held by     {}", view.holders.join(" "));
    for incident in &view.incidents {
        say!("incident    {}", told(incident));
    }
    if let Some(closed) = view.closed {
        say!("closed      {}", printable(&closed));
    }
    Ok(0)
}

fn show(record: &Record) {
    say!("name        {}", record.name);
    say!("id          {}", record.id);
    say!("state       {}", ps::state(record));
    say!("created     {} ago", ago(record.created_ms));
    say!("command     {}", printable(&record.command.join(" ")));
    say!("root        {}", printable(&record.root));
    say!("launcher    {}, {}", record.launcher, record.runtime);
    if let Some(pid) = record.pid {
        say!("pid         {pid}");
    }
    for (i, slice) in record.slices.iter().enumerate() {
        say!(
            "slice       {} {} on {}{}",
            slice.part.slot,
            format_amount(slice.part.amount, unit_of(&slice.part.slot)),
            slice.device(),
            level(slice)
        );
        if let Some(why) = record.why.get(i) {
            say!("            {}", printable(why));
        }
    }
    for edits in record.edits.values() {
        let limits = &edits.resources;
        if let Some(cpus) = &limits.cpuset_cpus {
            say!("cpus        {cpus}");
        }
        if let Some(mems) = &limits.cpuset_mems {
            say!("numa nodes  {mems}");
        }
        if let Some(quota) = limits.cpu_quota {
            say!(
                "quota       {} µs in every {} µs",
                quota.quota_us,
                quota.period_us
            );
        }
        if let Some(bytes) = limits.memory_bytes {
            say!("memory      {bytes} bytes");
        }
        for node in &edits.device_nodes {
            say!(
                "node        {} ({}:{})",
                printable(&node.path),
                node.major,
                node.minor
            );
        }
    }
    let Some(exit) = &record.exit else { return };
    if let Some(reason) = &exit.reason {
        say!("ended       {}", printable(reason));
    }
    let ms = |us: u64| format!("{}.{:03} s", us / 1_000_000, us / 1000 % 1000);
    if let Some(cpu) = exit.usage.cpu_us {
        say!("cpu time    {}", ms(cpu));
    }
    if let Some(wall) = exit.usage.wall_us {
        say!("wall time   {}", ms(wall));
    }
    if let Some(peak) = exit.usage.memory_peak_bytes {
        say!("memory peak {peak} bytes");
    }
    for file in &exit.discarded {
        say!("discarded   {}", printable(file));
    }
}

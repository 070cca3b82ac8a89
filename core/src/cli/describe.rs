//! `divvy describe`.

use serde_json::json;

use super::args::{Global, Named};
use super::output::{Failure, ago, level, print_json, printable, unit_of};
use super::{divvy, ps};
use crate::agent::events::word;
use crate::agent::{AgentError, DeviceView, Devices, IncidentView};
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
    // What its devices have come to is worth knowing, and not worth failing for.
    let devices = divvy.devices().await.unwrap_or_default().devices;
    print(&about(&record, &devices));
    Ok(0)
}

fn print(lines: &[String]) {
    lines.iter().for_each(|line| say!("{line}"));
}

/// Everything about a workload, a line each, and what its devices have come to.
pub(super) fn about(record: &Record, devices: &[DeviceView]) -> Vec<String> {
    let mut lines = alone(record);
    let mine = |view: &&DeviceView| {
        let mut slices = record.slices.iter();
        record.holds() && slices.any(|slice| slice.device() == view.device.name())
    };
    for view in devices.iter().filter(mine) {
        let health = &view.device.device.health;
        if health.state != HealthState::Healthy {
            lines.push(format!(
                "{:<11} {}: {}",
                word(health.state),
                view.device.name(),
                why(health)
            ));
        }
        for incident in &view.incidents {
            let name = view.device.name();
            lines.push(format!("incident    {name}: {}", told(incident)));
        }
    }
    lines
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

pub(super) fn told(incident: &IncidentView) -> String {
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
    let all = divvy.devices().await?;
    let mut found = meant(all.devices.clone(), name);
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
    print(&about_device(&view, &all));
    Ok(0)
}

/// Everything about a device, a line each.
pub(super) fn about_device(view: &DeviceView, all: &Devices) -> Vec<String> {
    let mut lines = Vec::new();
    let device = &view.device.device;
    lines.push(format!("device      {}", view.device.name()));
    lines.push(format!("model       {}", printable(&device.model)));
    lines.push(format!("kind        {}", printable(&device.kind)));
    let health = &device.health;
    let since = view
        .since_ms
        .map(|ms| format!(", for {}", ago(ms)))
        .unwrap_or_default();
    match health.state {
        HealthState::Healthy => lines.push(format!("health      healthy{since}")),
        state => lines.push(format!(
            "health      {}{since}: {}",
            word(state),
            why(health)
        )),
    }
    for (capacity, u) in &view.usage {
        let unit = all.unit(&view.device.plugin, capacity);
        let show = |amount| format_amount(amount, unit);
        let reserved = match u.reserved.is_zero() {
            true => String::new(),
            false => format!(", {} reserved", show(u.reserved)),
        };
        lines.push(format!(
            "{capacity:<11} {} held{reserved}, of {}",
            show(u.used),
            show(u.total)
        ));
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
        // What its plugin does not know.
        if value.is_empty() {
            continue;
        }
        let unit = attribute.unit.as_deref().unwrap_or("");
        let line = format!("{key:<11} {} {unit}", printable(&value));
        lines.push(line.trim_end().to_owned());
    }
    for profile in device.partitioning.iter().flat_map(|cut| &cut.profiles) {
        let starts: Vec<String> = profile.starts.iter().map(u32::to_string).collect();
        lines.push(format!(
            "partition   {} at {}",
            printable(&profile.slot),
            starts.join(" ")
        ));
    }
    for link in &device.links {
        let speed = match link.weight {
            0 => String::new(),
            speed => format!(", {speed} MB/s"),
        };
        lines.push(format!(
            "link        {} to {}{speed}",
            printable(&link.kind),
            printable(&link.to)
        ));
    }
    for pid in &device.processes {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        let name = name
            .map(|name| format!(" ({})", printable(name.trim())))
            .unwrap_or_default();
        lines.push(format!("process     {pid}{name}"));
    }
    lines.push(format!("held by     {}", view.holders.join(" ")));
    for incident in &view.incidents {
        lines.push(format!("incident    {}", told(incident)));
    }
    if let Some(closed) = &view.closed {
        lines.push(format!("closed      {}", printable(closed)));
    }
    lines
}

fn alone(record: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    lines.push(format!("name        {}", record.name));
    lines.push(format!("id          {}", record.id));
    lines.push(format!("state       {}", ps::state(record)));
    lines.push(format!("created     {} ago", ago(record.created_ms)));
    lines.push(format!(
        "command     {}",
        printable(&record.command.join(" "))
    ));
    lines.push(format!("root        {}", printable(&record.root)));
    lines.push(format!(
        "launcher    {}, {}",
        record.launcher, record.runtime
    ));
    if let Some(pid) = record.pid {
        lines.push(format!("pid         {pid}"));
    }
    for (i, slice) in record.slices.iter().enumerate() {
        lines.push(format!(
            "slice       {} {} on {}{}",
            slice.part.slot,
            format_amount(slice.part.amount, unit_of(&slice.part.slot)),
            slice.device(),
            level(slice)
        ));
        if let Some(why) = record.why.get(i) {
            lines.push(format!("            {}", printable(why)));
        }
    }
    for edits in record.edits.values() {
        let limits = &edits.resources;
        if let Some(cpus) = &limits.cpuset_cpus {
            lines.push(format!("cpus        {cpus}"));
        }
        if let Some(mems) = &limits.cpuset_mems {
            lines.push(format!("numa nodes  {mems}"));
        }
        if let Some(quota) = limits.cpu_quota {
            lines.push(format!(
                "quota       {} µs in every {} µs",
                quota.quota_us, quota.period_us
            ));
        }
        if let Some(bytes) = limits.memory_bytes {
            lines.push(format!("memory      {bytes} bytes"));
        }
        for node in &edits.device_nodes {
            lines.push(format!(
                "node        {} ({}:{})",
                printable(&node.path),
                node.major,
                node.minor
            ));
        }
    }
    let Some(exit) = &record.exit else {
        return lines;
    };
    if let Some(reason) = &exit.reason {
        lines.push(format!("ended       {}", printable(reason)));
    }
    let ms = |us: u64| format!("{}.{:03} s", us / 1_000_000, us / 1000 % 1000);
    if let Some(cpu) = exit.usage.cpu_us {
        lines.push(format!("cpu time    {}", ms(cpu)));
    }
    if let Some(wall) = exit.usage.wall_us {
        lines.push(format!("wall time   {}", ms(wall)));
    }
    if let Some(peak) = exit.usage.memory_peak_bytes {
        lines.push(format!("memory peak {peak} bytes"));
    }
    for file in &exit.discarded {
        lines.push(format!("discarded   {}", printable(file)));
    }
    lines
}

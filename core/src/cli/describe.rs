//! `divvy describe`.

use serde_json::json;

use super::args::{Global, Named};
use super::output::{Failure, ago, level, print_json, printable, unit_of};
use super::{divvy, ps};
use crate::agent::{AgentError, DeviceView};
use crate::embed::Divvy;
use crate::model::{Record, format_amount};

pub(super) async fn run(global: &Global, args: &Named) -> Result<u8, Failure> {
    let divvy = divvy(global, "describe").await?;
    let record = match divvy.workload(&args.name).await {
        Ok(record) => record,
        Err(AgentError::NoSuchWorkload(_)) if args.name.contains('/') => {
            return device(global, &divvy, &args.name).await;
        }
        Err(error) => return Err(error.into()),
    };
    if global.json {
        print_json(&json!({ "workload": record }));
    } else {
        lines(&record).iter().for_each(|line| say!("{line}"));
    }
    Ok(0)
}

async fn device(global: &Global, divvy: &Divvy, name: &str) -> Result<u8, Failure> {
    let devices = divvy.devices().await?;
    let Some(view) = devices
        .devices
        .into_iter()
        .find(|v| v.device.name().to_string() == name)
    else {
        return Err(AgentError::NoSuchDevice(name.to_owned()).into());
    };
    if global.json {
        print_json(&json!({ "device": view }));
        return Ok(0);
    }
    device_lines(&view).iter().for_each(|line| say!("{line}"));
    Ok(0)
}

/// Everything about a device, a line each.
pub(super) fn device_lines(view: &DeviceView) -> Vec<String> {
    let mut lines = Vec::new();
    let device = &view.device.device;
    lines.push(format!("device      {}", view.device.name()));
    lines.push(format!("model       {}", printable(&device.model)));
    lines.push(format!("kind        {}", printable(&device.kind)));
    for (capacity, u) in &view.usage {
        lines.push(format!(
            "{capacity:<11} {} held, {} reserved, of {}",
            u.used,
            u.reserved,
            u.total
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
        let unit = attribute.unit.as_deref().unwrap_or("");
        lines.push(format!("{key:<11} {} {unit}", printable(&value)));
    }
    lines.push(format!("held by     {}", view.holders.join(" ")));
    if let Some(closed) = &view.closed {
        lines.push(format!("closed      {}", printable(closed)));
    }
    lines
}

/// Everything about a workload, a line each.
pub(super) fn lines(record: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    lines.push(format!("name        {}", record.name));
    lines.push(format!("id          {}", record.id));
    lines.push(format!("state       {}", ps::state(record)));
    lines.push(format!("created     {} ago", ago(record.created_ms)));
    lines.push(format!("command     {}", printable(&record.command.join(" "))));
    lines.push(format!("root        {}", printable(&record.root)));
    lines.push(format!("launcher    {}, {}", record.launcher, record.runtime));
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
                quota.quota_us,
                quota.period_us
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

//! `divvy describe`.

use serde_json::json;

use super::args::{Global, Named};
use super::output::{Failure, ago, level, print_json, printable, unit_of};
use super::{divvy, ps};
use crate::agent::AgentError;
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
        show(&record);
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
    let device = &view.device.device;
    say!("device      {}", view.device.name());
    say!("model       {}", printable(&device.model));
    say!("kind        {}", printable(&device.kind));
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
    say!("held by     {}", view.holders.join(" "));
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

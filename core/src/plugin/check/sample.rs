//! `sample`: measures, now.

use divvy_plugin::{Amount, ErrorCode, Samples};

use super::bench::{Bench, Checked, Lied, Reply, failed, skipped};
use super::{Check, check};
use crate::plugin::validate;
use crate::plugin::wire::Op;

/// What a measure's name may end in: base units, as OpenMetrics has them.
const UNITS: [&str; 12] = [
    "_bytes", "_ratio", "_total", "_celsius", "_watts", "_joules", "_hertz", "_seconds", "_volts",
    "_amperes", "_count", "_info",
];

pub(super) const CHECKS: [Check; 5] = [
    check!(
        "deadline.sample",
        "sample answers within 2 s.",
        "Leave out what cannot be measured quickly.",
        in_time
    ),
    check!(
        "sample.works",
        "sample measures, or says that it is unsupported.",
        "Leave out what cannot be measured; answer unsupported if that is everything.",
        works
    ),
    check!(
        "sample.known-devices",
        "Only devices that discover lists are measured.",
        "Use the same ids as in discover.",
        known_devices
    ),
    check!(
        "sample.units",
        "A measure's name ends in its base unit, such as _bytes, _ratio or _joules_total.",
        "Rename it, and convert the value: bytes, not MiB; joules, not mJ.",
        units
    ),
    check!(
        "sample.ratios",
        "A ratio is from 0 to 1.",
        "Divide percentages by 100.",
        ratios
    ),
];

/// What is measured, by device.
async fn samples(bench: &mut Bench) -> Checked<Samples> {
    bench.survey().await.found()?;
    let mut host = bench.host().await?;
    host.is_worth_asking(Op::Sample)?;
    match host.say(Op::Sample, &()).await {
        Reply::Yes(text) => match serde_json::from_str(&text) {
            Ok(samples) => Ok(samples),
            Err(e) => failed(format!("the reply cannot be read: {e}")),
        },
        Reply::No(error) if error.code == ErrorCode::Unsupported => {
            skipped(format!("it measures nothing: {}", error.message))
        }
        Reply::No(error) => failed(format!("it was refused: {}", error.message)),
        Reply::Nothing(why) => failed(why),
        Reply::Late(_) => skipped("it does not answer in time: see deadline.sample"),
    }
}

/// What validation says of it.
pub(super) async fn lies(bench: &mut Bench) -> Checked<Vec<Lied>> {
    let samples = samples(bench).await?;
    let lie = validate::samples(&samples).err();
    Ok(lie.map(|lie| (lie, bench.last())).into_iter().collect())
}

/// Each measure: device, name, value.
async fn measures(bench: &mut Bench) -> Checked<Vec<(String, String, Amount)>> {
    let samples = samples(bench).await?;
    let devices = samples.devices.into_iter();
    let all: Vec<_> = devices
        .flat_map(|(id, measures)| {
            measures
                .into_iter()
                .map(move |(name, v)| (id.clone(), name, v))
        })
        .collect();
    match all.is_empty() {
        true => skipped("it measures nothing"),
        false => Ok(all),
    }
}

async fn in_time(bench: &mut Bench) -> Checked {
    bench.survey().await.found()?;
    bench.host().await?.ask_in_time(Op::Sample, &()).await
}

async fn works(bench: &mut Bench) -> Checked {
    samples(bench).await.map(drop)
}

async fn known_devices(bench: &mut Bench) -> Checked {
    let found = bench.survey().await.found()?;
    let measures = measures(bench).await?;
    let known = |id: &str| found.devices.iter().any(|d| d.id == id);
    match measures.iter().find(|(id, ..)| !known(id)) {
        Some((id, ..)) => failed(format!("{id:?} is measured and not listed")),
        None => Ok(()),
    }
}

async fn units(bench: &mut Bench) -> Checked {
    let measures = measures(bench).await?;
    let has_unit = |name: &str| UNITS.iter().any(|unit| name.ends_with(unit));
    match measures.iter().find(|(_, name, _)| !has_unit(name)) {
        Some((id, name, _)) => failed(format!("{name:?} of {id} ends in no base unit")),
        None => Ok(()),
    }
}

async fn ratios(bench: &mut Bench) -> Checked {
    let measures = measures(bench).await?;
    let is_odd = |name: &str, value: Amount| name.ends_with("_ratio") && value > Amount::ONE;
    match measures
        .iter()
        .find(|(_, name, value)| is_odd(name, *value))
    {
        Some((id, name, value)) => failed(format!("{name} of {id} is {value}")),
        None => Ok(()),
    }
}

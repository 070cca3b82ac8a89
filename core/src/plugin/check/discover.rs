//! `discover`: everything there is, whole, each time.

use std::collections::BTreeSet;

use divvy_plugin::{Attribute, Discovery, HealthState, Shape, Value};

use super::bench::{Bench, Checked, Reply, failed, skipped};
use super::{Check, check, is_plain, same};
use crate::plugin::wire::Op;

/// What a discovery may be: `watch` carries it both ways, in frames of 16 MiB.
const LARGEST: usize = 4 << 20;

pub(super) const CHECKS: [Check; 11] = [
    check!(
        "deadline.discover",
        "discover answers within its deadline.",
        "Ask the driver with a time limit; list what does not answer as unknown.",
        in_time
    ),
    check!(
        "discover.works",
        "discover lists devices, perhaps none, or says that there is no hardware.",
        "Answer driver only if nothing at all can be said; one broken device hides no other.",
        works
    ),
    check!(
        "discover.stable",
        "Nothing in a discovery changes by itself.",
        "Leave out clocks, temperatures and free memory: watch would never rest.",
        stable
    ),
    check!(
        "discover.same-in-new-host",
        "Ids and order are the same in another process.",
        "Name devices by UUID or PCI address, and sort them.",
        same_in_new_host
    ),
    check!(
        "discover.size",
        "A discovery is at most 4 MiB.",
        "Say less of each device; no logs in attributes or warnings.",
        size
    ),
    check!(
        "discover.printable",
        "Attributes, reasons and warnings have no control characters.",
        "Clean what firmware and drivers say: it is shown in terminals.",
        printable
    ),
    check!(
        "discover.health-reason",
        "A device that is not healthy says why.",
        "Fill in Health::reason: people see it when their work is refused.",
        health_reason
    ),
    check!(
        "discover.serves",
        "Each device has what at least one slot draws on, or is cut into others, or says why not.",
        "Give it the capacities that a slot names, or a reason in its health, or do not list it.",
        serves
    ),
    check!(
        "discover.numa",
        "Devices lie in NUMA nodes that are listed, if any are.",
        "Leave out numa_node where the kernel says -1.",
        numa
    ),
    check!(
        "discover.links-both-ends",
        "A link is stated on both of its ends, with the same kind and weight.",
        "Add the link to the other device.",
        links
    ),
    check!(
        "discover.profiles",
        "Profiles of partitions are for slots of shape partition in the manifest.",
        "Offer a slot for each profile.",
        profiles
    ),
];

async fn in_time(bench: &mut Bench) -> Checked {
    bench.survey().await.manifest()?;
    bench.host().await?.ask_in_time(Op::Discover, &()).await
}

async fn works(bench: &mut Bench) -> Checked {
    bench.survey().await.manifest()?;
    let _: Discovery = bench.host().await?.ask(Op::Discover, &()).await?;
    Ok(())
}

async fn stable(bench: &mut Bench) -> Checked {
    bench.survey().await.found()?;
    let mut host = bench.host().await?;
    let first: Discovery = host.ask(Op::Discover, &()).await?;
    for _ in 0..3 {
        let then = host.ask(Op::Discover, &()).await?;
        same(&first, &then, "it said something else")?;
    }
    Ok(())
}

async fn same_in_new_host(bench: &mut Bench) -> Checked {
    let first = bench.survey().await.found()?;
    let then: Discovery = bench.host().await?.ask(Op::Discover, &()).await?;
    let ids =
        |found: &Discovery| -> Vec<String> { found.devices.iter().map(|d| d.id.clone()).collect() };
    same(
        &ids(&first),
        &ids(&then),
        "another process lists other devices",
    )
}

async fn size(bench: &mut Bench) -> Checked {
    bench.survey().await.manifest()?;
    let mut host = bench.host().await?;
    host.is_worth_asking(Op::Discover)?;
    match host.say(Op::Discover, &()).await {
        Reply::Yes(text) if text.len() > LARGEST => failed(format!("it is {} bytes", text.len())),
        Reply::Nothing(why) => failed(why),
        _ => Ok(()),
    }
}

async fn printable(bench: &mut Bench) -> Checked {
    let found = bench.survey().await.found()?;
    let attribute = |attribute: &Attribute| match &attribute.value {
        Value::String(text) | Value::Version(text) => Some(text.clone()),
        _ => None,
    };
    let devices = found.devices.iter().flat_map(|device| {
        let attributes = device.attributes.values().filter_map(attribute);
        attributes.chain(device.health.reason.clone())
    });
    match devices
        .chain(found.warnings.clone())
        .find(|text| !is_plain(text))
    {
        Some(text) => failed(format!("{text:?} moves the cursor")),
        None => Ok(()),
    }
}

async fn health_reason(bench: &mut Bench) -> Checked {
    let found = bench.survey().await.found()?;
    let silent = found.devices.iter().find(|device| {
        let reason = device.health.reason.as_deref().unwrap_or_default();
        device.health.state != HealthState::Healthy && reason.trim().is_empty()
    });
    match silent {
        Some(device) => failed(format!("{} is not healthy and does not say why", device.id)),
        None => Ok(()),
    }
}

async fn serves(bench: &mut Bench) -> Checked {
    let survey = bench.survey().await;
    let (manifest, found) = (survey.manifest()?, survey.found()?);
    let useless = found.devices.iter().find(|device| {
        let serves = |draws: &[divvy_plugin::Draw]| {
            !draws.is_empty()
                && draws
                    .iter()
                    .all(|d| device.capacities.contains_key(&d.capacity))
        };
        let is_cut = || {
            let id = Some(&device.id);
            device.partitioning.is_some() || found.devices.iter().any(|d| d.parent.as_ref() == id)
        };
        let serves = manifest.slots.iter().any(|slot| serves(&slot.draws));
        !serves && !is_cut() && device.health.reason.is_none()
    });
    match useless {
        Some(device) => failed(format!("{} serves no slot", device.id)),
        None => Ok(()),
    }
}

async fn numa(bench: &mut Bench) -> Checked {
    let found = bench.survey().await.found()?;
    if found.numa_nodes.is_empty() {
        return skipped("it lists no NUMA nodes");
    }
    let nodes: BTreeSet<u32> = found.numa_nodes.iter().map(|n| n.id).collect();
    let lost = found.devices.iter().find_map(|device| {
        let node = device.numa_node.filter(|node| !nodes.contains(node))?;
        Some(format!(
            "{} lies in node {node}, which is not listed",
            device.id
        ))
    });
    lost.map_or(Ok(()), failed)
}

async fn links(bench: &mut Bench) -> Checked {
    let found = bench.survey().await.found()?;
    for device in &found.devices {
        for link in &device.links {
            let other = found.devices.iter().find(|d| d.id == link.to);
            let back = other.and_then(|d| d.links.iter().find(|l| l.to == device.id));
            if back.is_none_or(|back| (&back.kind, back.weight) != (&link.kind, link.weight)) {
                return failed(format!(
                    "{} is linked to {} by {}, but not the other way round",
                    device.id, link.to, link.kind
                ));
            }
        }
    }
    Ok(())
}

async fn profiles(bench: &mut Bench) -> Checked {
    let survey = bench.survey().await;
    let (manifest, found) = (survey.manifest()?, survey.found()?);
    let devices = found.devices.iter();
    let mut profiles = devices.flat_map(|d| d.partitioning.iter().flat_map(|p| &p.profiles));
    let offered = |slot: &str| {
        let mut slots = manifest.slots.iter();
        slots.any(|s| s.name == slot && s.shape == Shape::Partition)
    };
    match profiles.find(|profile| !offered(&profile.slot)) {
        Some(profile) => failed(format!(
            "there is no slot {} of shape partition",
            profile.slot
        )),
        None => Ok(()),
    }
}

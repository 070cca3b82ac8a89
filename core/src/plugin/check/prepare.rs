//! `prepare`: from slices to edits.

use divvy_plugin::{Discovery, Edits, PrepareRequest, Slice};

use super::bench::{Bench, Checked, Lied, failed};
use super::{Check, check, same};
use crate::plugin::validate;
use crate::plugin::wire::Op;

/// A device that no plugin reports.
pub(super) const NO_DEVICE: &str = "no-such-device";

pub(super) const CHECKS: [Check; 8] = [
    check!(
        "deadline.prepare",
        "prepare answers within its deadline.",
        "Do what takes long before (in the driver's set-up) or after (in the workload).",
        in_time
    ),
    check!(
        "prepare.works",
        "The least amount of each slot can be prepared.",
        "See the message: what discover offers, prepare must be able to give.",
        works
    ),
    check!(
        "prepare.gives-something",
        "Edits for a slice are not empty.",
        "Give at least a variable or an annotation that names the slice.",
        gives_something
    ),
    check!(
        "prepare.idempotent",
        "The same request again gives the same edits.",
        "Look by the allocation's id what is there already, before making something.",
        idempotent
    ),
    check!(
        "prepare.same-in-new-host",
        "The same request gives the same edits in another host, after the first was killed.",
        "Keep what was chosen in a file or in the driver, not in memory.",
        same_in_new_host
    ),
    check!(
        "prepare.unknown-device-refused",
        "Slices of a device that is not there are refused.",
        "Answer absent: the device may have gone since it was listed.",
        unknown_device
    ),
    check!(
        "prepare.unknown-slot-refused",
        "Slices by a slot that the plugin does not offer are refused.",
        "Answer invalid for every other slot.",
        unknown_slot
    ),
    check!(
        "prepare.beside-another",
        "Two allocations that both have room can both be prepared.",
        "Keep what belongs to each allocation apart, by its id.",
        beside_another
    ),
];

/// What validation says of the edits for each slot's least amount.
pub(super) async fn lies(bench: &mut Bench) -> Checked<Vec<Lied>> {
    let survey = bench.survey().await;
    let (manifest, found) = (survey.manifest()?, survey.found()?);
    let mut lies = Vec::new();
    let mut host = bench.host().await?;
    for slices in survey.slices()? {
        let (_, edits) = bench.prepare(&mut host, &slices).await?;
        let shows = bench.last();
        // Partitions have their nodes only now.
        let made = match slices.iter().any(|slice| slice.start.is_some()) {
            true => Some(host.ask::<Discovery>(Op::Discover, &()).await?),
            false => None,
        };
        let found = made.as_ref().unwrap_or(&found);
        let devices = found.devices.iter().map(|d| (d.id.as_str(), d)).collect();
        if let Err(lie) = validate::edits(&edits, &slices, &devices, &manifest.reserved_env) {
            lies.push((lie, shows));
        }
        // One slot's slices may be in the way of the next one's.
        bench.tidy().await;
    }
    Ok(lies)
}

/// A request for a new allocation.
fn request(bench: &mut Bench, slices: Vec<Slice>) -> PrepareRequest {
    let request = PrepareRequest::new(bench.allocation(), slices);
    bench.will_release(&request);
    request
}

async fn in_time(bench: &mut Bench) -> Checked {
    let slices = bench.survey().await.some_slices()?;
    let request = request(bench, slices);
    bench.host().await?.ask_in_time(Op::Prepare, &request).await
}

async fn works(bench: &mut Bench) -> Checked {
    let all = bench.survey().await.slices()?;
    let mut host = bench.host().await?;
    for slices in all {
        bench.prepare(&mut host, &slices).await?;
        bench.tidy().await;
    }
    Ok(())
}

async fn gives_something(bench: &mut Bench) -> Checked {
    let all = bench.survey().await.slices()?;
    let mut host = bench.host().await?;
    for slices in all {
        let (_, edits) = bench.prepare(&mut host, &slices).await?;
        if edits == Edits::default() {
            let slots: Vec<&str> = slices.iter().map(|s| s.slot.as_str()).collect();
            return failed(format!("nothing changes for {}", slots.join(" and ")));
        }
        bench.tidy().await;
    }
    Ok(())
}

async fn idempotent(bench: &mut Bench) -> Checked {
    let slices = bench.survey().await.some_slices()?;
    let mut host = bench.host().await?;
    let (request, first) = bench.prepare(&mut host, &slices).await?;
    let then: Edits = host.ask(Op::Prepare, &request).await?;
    same(&first, &then, "the edits differ")
}

async fn same_in_new_host(bench: &mut Bench) -> Checked {
    let slices = bench.survey().await.some_slices()?;
    let mut host = bench.host().await?;
    let (request, first) = bench.prepare(&mut host, &slices).await?;
    host.kill().await;
    let then: Edits = bench.host().await?.ask(Op::Prepare, &request).await?;
    same(&first, &then, "the edits differ")
}

async fn unknown_device(bench: &mut Bench) -> Checked {
    let mut slices = bench.survey().await.some_slices()?;
    slices[0].device = NO_DEVICE.into();
    refused(bench, slices).await
}

async fn unknown_slot(bench: &mut Bench) -> Checked {
    let mut slices = bench.survey().await.some_slices()?;
    slices[0].slot = "no-such.slot".into();
    refused(bench, slices).await
}

async fn refused(bench: &mut Bench, slices: Vec<Slice>) -> Checked {
    let request = request(bench, slices);
    let mut host = bench.host().await?;
    host.ask_in_vain(Op::Prepare, &request).await.map(drop)
}

async fn beside_another(bench: &mut Bench) -> Checked {
    let [one, other] = bench.survey().await.two_allocations()?;
    let (mut first, mut second) = (bench.host().await?, bench.host().await?);
    bench.prepare(&mut first, &one).await?;
    bench.prepare(&mut second, &other).await?;
    Ok(())
}

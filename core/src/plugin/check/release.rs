//! `release`: undoes `prepare`, whoever made it and whenever.

use std::time::{Duration, Instant};

use divvy_plugin::{PrepareRequest, ReleaseRequest};

use super::bench::{Bench, Checked};
use super::prepare::NO_DEVICE;
use super::{Check, check};
use crate::plugin::wire::Op;

/// More often than most things can be had at once.
const MOST_ROUNDS: u32 = 16;
/// How long that is tried, of one slot.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) const CHECKS: [Check; 7] = [
    check!(
        "deadline.release",
        "release answers within its deadline.",
        "Answer busy if it takes longer: it is called again later.",
        in_time
    ),
    check!(
        "release.works",
        "What was prepared can be released.",
        "See the message: the slices stay closed until release succeeds.",
        works
    ),
    check!(
        "release.twice",
        "Releasing again is a success.",
        "What is gone already needs no more doing.",
        twice
    ),
    check!(
        "release.unknown-is-ok",
        "Releasing an allocation that was never prepared is a success.",
        "Do not look it up in memory: the host that prepared it is gone.",
        unknown
    ),
    check!(
        "release.in-new-host",
        "A host that did not prepare an allocation can release it.",
        "Find what to undo by the allocation's id and slices, on the machine.",
        in_new_host
    ),
    check!(
        "release.frees",
        "What was released can be prepared for another allocation.",
        "Undo all that prepare made, in release.",
        frees
    ),
    check!(
        "release.device-gone",
        "Slices of a device that is not there any more can be released.",
        "Do not look for the device first: an unplugged one would be closed for ever.",
        device_gone
    ),
];

fn of(prepared: PrepareRequest) -> ReleaseRequest {
    ReleaseRequest {
        allocation: prepared.allocation,
        slices: prepared.slices,
    }
}

async fn in_time(bench: &mut Bench) -> Checked {
    let slices = bench.survey().await.some_slices()?;
    let mut host = bench.host().await?;
    let (prepared, _) = bench.prepare(&mut host, &slices).await?;
    host.ask_in_time(Op::Release, &of(prepared)).await
}

async fn works(bench: &mut Bench) -> Checked {
    for slices in bench.survey().await.slices()? {
        let mut host = bench.host().await?;
        let (prepared, _) = bench.prepare(&mut host, &slices).await?;
        let () = host.ask(Op::Release, &of(prepared)).await?;
    }
    Ok(())
}

async fn twice(bench: &mut Bench) -> Checked {
    let slices = bench.survey().await.some_slices()?;
    let mut host = bench.host().await?;
    let (prepared, _) = bench.prepare(&mut host, &slices).await?;
    let release = of(prepared);
    let () = host.ask(Op::Release, &release).await?;
    host.ask(Op::Release, &release).await
}

async fn unknown(bench: &mut Bench) -> Checked {
    let request = ReleaseRequest {
        slices: bench.survey().await.some_slices()?,
        allocation: bench.allocation(),
    };
    bench.host().await?.ask(Op::Release, &request).await
}

async fn in_new_host(bench: &mut Bench) -> Checked {
    let slices = bench.survey().await.some_slices()?;
    let mut host = bench.host().await?;
    let (prepared, _) = bench.prepare(&mut host, &slices).await?;
    host.kill().await;
    bench.host().await?.ask(Op::Release, &of(prepared)).await
}

async fn frees(bench: &mut Bench) -> Checked {
    for slices in bench.survey().await.slices()? {
        let mut host = bench.host().await?;
        let began = Instant::now();
        for round in 0..MOST_ROUNDS {
            // Where it takes long, it is had whole mostly: twice is too often.
            if round > 1 && began.elapsed() > PATIENCE {
                break;
            }
            let (prepared, _) = bench.prepare(&mut host, &slices).await?;
            let () = host.ask(Op::Release, &of(prepared)).await?;
        }
    }
    Ok(())
}

async fn device_gone(bench: &mut Bench) -> Checked {
    let mut slices = bench.survey().await.some_slices()?;
    slices[0].device = NO_DEVICE.into();
    let request = ReleaseRequest {
        allocation: bench.allocation(),
        slices,
    };
    bench.host().await?.ask(Op::Release, &request).await
}

//! `started`: the container is proven, its process about to run.

use divvy_plugin::StartedRequest;

use super::bench::{Bench, Checked};
use super::{Check, check};
use crate::plugin::wire::Op;

pub(super) const CHECKS: [Check; 3] = [
    check!(
        "deadline.started",
        "started answers within its deadline.",
        "Do not wait for the workload.",
        in_time
    ),
    check!(
        "started.works",
        "started succeeds for what was prepared.",
        "See the message: the container is stopped otherwise.",
        works
    ),
    check!(
        "started.repeated",
        "started succeeds again, with the same process.",
        "What is done already is a success.",
        repeated
    ),
];

/// Our own process stands for the container's.
fn request(allocation: String) -> StartedRequest {
    StartedRequest {
        allocation,
        pid: std::process::id(),
    }
}

async fn in_time(bench: &mut Bench) -> Checked {
    let slices = bench.survey().await.some_slices()?;
    let mut host = bench.host().await?;
    let (prepared, _) = bench.prepare(&mut host, &slices).await?;
    host.ask_in_time(Op::Started, &request(prepared.allocation))
        .await
}

async fn works(bench: &mut Bench) -> Checked {
    times(bench, 1).await
}

async fn repeated(bench: &mut Bench) -> Checked {
    times(bench, 2).await
}

async fn times(bench: &mut Bench, times: u32) -> Checked {
    let slices = bench.survey().await.some_slices()?;
    let mut host = bench.host().await?;
    let (prepared, _) = bench.prepare(&mut host, &slices).await?;
    let request = request(prepared.allocation);
    for _ in 0..times {
        let () = host.ask(Op::Started, &request).await?;
    }
    Ok(())
}

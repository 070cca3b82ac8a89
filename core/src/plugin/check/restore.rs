//! `restore`: a new host learns what is held.

use divvy_plugin::{Discovery, Edits, Held, PrepareRequest, ReleaseRequest, RestoreRequest};

use super::bench::{Bench, Checked, Host};
use super::prepare::NO_DEVICE;
use super::{Check, check, same};
use crate::plugin::wire::Op;

pub(super) const CHECKS: [Check; 6] = [
    check!(
        "deadline.restore",
        "restore answers within its deadline.",
        "Learn, and do nothing else.",
        in_time
    ),
    check!(
        "restore.works",
        "A new host can be told what an earlier one prepared.",
        "See the message: if restore fails, all devices of the plugin are closed.",
        works
    ),
    check!(
        "restore.repeated",
        "restore can be called again, in the same host.",
        "Replace what is known, do not add to it.",
        repeated
    ),
    check!(
        "restore.changes-nothing",
        "After restore the devices and the edits are as they were.",
        "Containers are running: touch nothing of theirs.",
        changes_nothing
    ),
    check!(
        "restore.device-gone",
        "restore succeeds though a held device is not there any more.",
        "Keep its slices in mind; one unplugged device must not close the others.",
        device_gone
    ),
    check!(
        "restore.then-release",
        "What was restored can be released.",
        "Find what to undo by the allocation's id.",
        then_release
    ),
];

/// An allocation that outlived its host.
struct Survivor {
    prepared: PrepareRequest,
    edits: Edits,
    held: RestoreRequest,
}

async fn survivor(bench: &mut Bench) -> Checked<(Survivor, Host)> {
    let slices = bench.survey().await.some_slices()?;
    let mut host = bench.host().await?;
    let (prepared, edits) = bench.prepare(&mut host, &slices).await?;
    host.kill().await;
    let held = Held {
        allocation: prepared.allocation.clone(),
        slices: prepared.slices.clone(),
        edits: edits.clone(),
    };
    let held = RestoreRequest {
        allocations: vec![held],
    };
    let survivor = Survivor {
        prepared,
        edits,
        held,
    };
    Ok((survivor, bench.host().await?))
}

async fn in_time(bench: &mut Bench) -> Checked {
    let (survivor, mut host) = survivor(bench).await?;
    host.ask_in_time(Op::Restore, &survivor.held).await
}

async fn works(bench: &mut Bench) -> Checked {
    let (survivor, mut host) = survivor(bench).await?;
    host.ask(Op::Restore, &survivor.held).await
}

async fn repeated(bench: &mut Bench) -> Checked {
    let (survivor, mut host) = survivor(bench).await?;
    let () = host.ask(Op::Restore, &survivor.held).await?;
    host.ask(Op::Restore, &survivor.held).await
}

async fn changes_nothing(bench: &mut Bench) -> Checked {
    let (survivor, mut host) = survivor(bench).await?;
    let before: Discovery = host.ask(Op::Discover, &()).await?;
    let () = host.ask(Op::Restore, &survivor.held).await?;
    let after: Discovery = host.ask(Op::Discover, &()).await?;
    same(&before, &after, "the devices differ")?;
    let edits: Edits = host.ask(Op::Prepare, &survivor.prepared).await?;
    same(&survivor.edits, &edits, "the edits differ")
}

async fn device_gone(bench: &mut Bench) -> Checked {
    let (mut survivor, mut host) = survivor(bench).await?;
    for slice in &mut survivor.held.allocations[0].slices {
        slice.device = NO_DEVICE.into();
    }
    host.ask(Op::Restore, &survivor.held).await
}

async fn then_release(bench: &mut Bench) -> Checked {
    let (survivor, mut host) = survivor(bench).await?;
    let () = host.ask(Op::Restore, &survivor.held).await?;
    let request = ReleaseRequest {
        allocation: survivor.prepared.allocation,
        slices: survivor.prepared.slices,
    };
    host.ask(Op::Release, &request).await
}

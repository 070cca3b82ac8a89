//! How a plugin says no.

use divvy_plugin::{ErrorCode, ReleaseRequest, WatchRequest};

use super::bench::{Bench, Checked, failed, skipped};
use super::prepare::NO_DEVICE;
use super::{Check, check, is_plain};
use crate::plugin::wire::Op;

/// What people read of an error, bytes.
const LONGEST: usize = 1024;

pub(super) const CHECKS: [Check; 2] = [
    check!(
        "errors.words",
        "A refusal says something: printable, at most 1 KiB.",
        "Say what failed, on which device or file, and what to do.",
        words
    ),
    check!(
        "errors.no-panic",
        "Nothing that the agent may ask makes the plugin panic.",
        "Answer an error; unwrap nothing that comes from outside.",
        no_panic
    ),
];

/// Asks for what cannot be done; what comes back is kept on the bench. Ids and
/// numbers that an agent would send, for things that are not there.
async fn provoke(bench: &mut Bench) -> Checked {
    let survey = bench.survey().await;
    let found = survey.found()?;
    let mut slices = survey.some_slices()?;
    slices[0].device = NO_DEVICE.into();
    let mut request = divvy_plugin::PrepareRequest::new(bench.allocation(), slices);
    bench.will_release(&request);
    let mut host = bench.host().await?;
    host.say(Op::Prepare, &request).await;
    request.slices[0].slot = "no-such.slot".into();
    host.say(Op::Prepare, &request).await;
    let release = ReleaseRequest {
        allocation: request.allocation,
        slices: request.slices,
    };
    host.say(Op::Release, &release).await;
    let at_once = WatchRequest {
        known: found,
        timeout_ms: 0,
        held: vec![],
    };
    host.say(Op::Watch, &at_once).await;
    host.say(Op::Sample, &()).await;
    host.say(Op::Discover, &()).await;
    Ok(())
}

async fn words(bench: &mut Bench) -> Checked {
    provoke(bench).await?;
    let refusals = bench.refusals();
    if refusals.is_empty() {
        return skipped("it refused nothing");
    }
    for (op, error) in refusals {
        let message = &error.message;
        if message.trim().is_empty() || message.len() > LONGEST || !is_plain(message) {
            return failed(format!("{} was refused with {message:?}", op.name()));
        }
    }
    Ok(())
}

async fn no_panic(bench: &mut Bench) -> Checked {
    provoke(bench).await?;
    let panicked = |e: &divvy_plugin::PluginError| e.code == ErrorCode::Panicked;
    match bench.refusals().into_iter().find(|(_, e)| panicked(e)) {
        Some((op, error)) => failed(format!("in {}: {}", op.name(), error.message)),
        None => Ok(()),
    }
}

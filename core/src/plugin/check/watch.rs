//! `watch`: waits for a change, in a host of its own.

use std::time::{Duration, Instant};

use divvy_plugin::{Discovery, WatchReply, WatchRequest};

use super::bench::{Bench, Checked, Host, Lied, Reply, failed};
use super::{Check, check, same};
use crate::plugin::validate;
use crate::plugin::wire::Op;

/// How long a watch is asked to wait.
const WAIT: Duration = Duration::from_millis(300);

pub(super) const CHECKS: [Check; 4] = [
    check!(
        "watch.timeout",
        "watch answers when its time is up.",
        "Wait in steps, at most until timeout_ms.",
        timeout
    ),
    check!(
        "watch.rests",
        "watch does not answer before its time is up while nothing changes.",
        "Compare with request.known, whole; leave out what changes by itself.",
        rests
    ),
    check!(
        "watch.tells",
        "watch answers at once, with what discover says, if that differs from what is known.",
        "Look first, then wait; answer a whole discovery.",
        tells
    ),
    check!(
        "concurrency.watch-beside-calls",
        "While one host watches, another one answers.",
        "Hold no lock of the machine while waiting.",
        beside_calls
    ),
];

fn request(known: Discovery, wait: Duration) -> WatchRequest {
    WatchRequest {
        known,
        timeout_ms: u64::try_from(wait.as_millis()).unwrap_or(0),
        held: vec![],
    }
}

/// A watch that nothing ends but its time, and how long it took.
async fn watched(bench: &mut Bench) -> Checked<(WatchReply, Duration)> {
    bench.survey().await.found()?;
    let mut host = bench.host().await?;
    let known = host.ask(Op::Discover, &()).await?;
    let began = Instant::now();
    let limit = WAIT + bench.subject.deadline;
    match host
        .say_within(Op::Watch, &request(known, WAIT), limit)
        .await
    {
        Reply::Yes(text) => match serde_json::from_str(&text) {
            Ok(reply) => Ok((reply, began.elapsed())),
            Err(e) => failed(format!("the reply cannot be read: {e}")),
        },
        Reply::No(error) => failed(format!("it was refused: {}", error.message)),
        Reply::Nothing(why) => failed(why),
        Reply::Late(after) => failed(format!(
            "it was to wait {} ms, and had not answered after {}",
            WAIT.as_millis(),
            after.as_millis()
        )),
    }
}

/// What validation says of it.
pub(super) async fn lies(bench: &mut Bench) -> Checked<Vec<Lied>> {
    let known = bench.survey().await.found()?;
    let (reply, _) = watched(bench).await?;
    let lie = validate::watch(&reply, &known).err();
    Ok(lie.map(|lie| (lie, bench.last())).into_iter().collect())
}

async fn timeout(bench: &mut Bench) -> Checked {
    watched(bench).await.map(drop)
}

async fn rests(bench: &mut Bench) -> Checked {
    let (reply, took) = watched(bench).await?;
    if reply.changed.is_some() {
        return failed("it reports a change, and there was none");
    }
    // What it waits may be rounded.
    if took + Duration::from_millis(20) < WAIT {
        return failed(format!(
            "it was to wait {} ms, and answered after {}: whoever calls it in a loop spins",
            WAIT.as_millis(),
            took.as_millis()
        ));
    }
    Ok(())
}

async fn tells(bench: &mut Bench) -> Checked {
    bench.survey().await.found()?;
    let mut host = bench.host().await?;
    let now: Discovery = host.ask(Op::Discover, &()).await?;
    // Nothing is known: all that there is, is new.
    let reply: WatchReply = host
        .ask(Op::Watch, &request(Discovery::default(), WAIT))
        .await?;
    match reply.changed {
        None => failed("nothing was known, and it reports no change"),
        Some(changed) => same(&now, &changed, "it differs from what discover says"),
    }
}

async fn beside_calls(bench: &mut Bench) -> Checked {
    bench.survey().await.found()?;
    let (mut watching, mut answering) = (bench.host().await?, bench.host().await?);
    let began = Instant::now();
    let known: Discovery = answering.ask(Op::Discover, &()).await?;
    // So long that only who waits for the watch answers after it.
    let wait = WAIT * 2 + began.elapsed() * 4;
    let limit = wait + bench.subject.deadline;
    let waits = async |host: &mut Host| {
        // What watch itself does wrong, the others say.
        let _ = host
            .say_within(Op::Watch, &request(known, wait), limit)
            .await;
        Instant::now()
    };
    let answers = async |host: &mut Host| {
        // The watch has begun by then.
        tokio::time::sleep(wait / 6).await;
        let _: Discovery = host.ask(Op::Discover, &()).await?;
        Ok(Instant::now())
    };
    let (waited, answered) = tokio::join!(waits(&mut watching), answers(&mut answering));
    match answered? {
        // Whoever waited for it answers at the same moment, or a little before.
        answered if answered + wait / 6 < waited => Ok(()),
        _ => failed("discover in one host waited for watch in another"),
    }
}

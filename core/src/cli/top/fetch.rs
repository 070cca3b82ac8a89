//! What is shown, fetched: each kind of document by itself, so that one that does not come
//! keeps no other waiting.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use super::model::{Agent, News};
use crate::agent::AgentError;
use crate::embed::Divvy;
use crate::sys;

/// Between two tries to follow an agent's events.
const AGAIN: Duration = Duration::from_secs(5);

/// Fetches until nobody wants it any more.
pub(super) async fn fetch(divvy: &Divvy, every: Duration, news: &Sender<News>) {
    let all = async {
        tokio::join!(
            samples(divvy, every, news),
            devices(divvy, every, news),
            workloads(divvy, every, news),
            agent(divvy, news),
        )
    };
    // Measuring never ends by itself.
    tokio::select! {
        () = divvy.measure() => {}
        _ = all => {}
    }
}

fn words(error: AgentError) -> String {
    format!("{error} [{}]", error.code())
}

async fn samples(divvy: &Divvy, every: Duration, news: &Sender<News>) {
    loop {
        let began = Instant::now();
        let samples = divvy.samples().await.map_err(words);
        if news.send(News::Samples(samples)).await.is_err() {
            return;
        }
        rest(began, every, 0).await;
    }
}

async fn devices(divvy: &Divvy, every: Duration, news: &Sender<News>) {
    // An agent knows the devices; without one each plugin looks at them, and drivers
    // are not to be kept busy with that.
    let calm = if divvy.agent().is_some() { 4 } else { 0 };
    loop {
        let began = Instant::now();
        let devices = divvy.devices().await.map_err(words);
        if news.send(News::Devices(devices)).await.is_err() {
            return;
        }
        rest(began, every, calm).await;
    }
}

async fn workloads(divvy: &Divvy, every: Duration, news: &Sender<News>) {
    loop {
        let began = Instant::now();
        let workloads = match divvy.agent() {
            Some(_) if !sys::is_root() => {
                Err("workloads are in the ledger, which only root can read: sudo divvy top".into())
            }
            _ => divvy.workloads().await.map_err(words),
        };
        if news.send(News::Workloads(workloads)).await.is_err() {
            return;
        }
        rest(began, every, 0).await;
    }
}

/// Who the agent is, and what happens.
async fn agent(divvy: &Divvy, news: &Sender<News>) {
    if divvy.agent().is_some() {
        return;
    }
    loop {
        let version = divvy.version().await.ok().flatten();
        let agent = version.map_or(Agent::Away, |v| Agent::There(v.version));
        if news.send(News::Agent(agent)).await.is_err() {
            return;
        }
        if let Ok(mut events) = divvy.events(Some("0"), true).await {
            while let Ok(Some((_, event))) = events.next().await {
                if news.send(News::Event(Box::new(event))).await.is_err() {
                    return;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Until the next is due; `calm` times as long as the last took, at least.
async fn rest(began: Instant, every: Duration, calm: u32) {
    let took = began.elapsed();
    let pause = every.saturating_sub(took).max(took.saturating_mul(calm));
    sleep(pause.max(Duration::from_millis(50))).await;
}

//! Many clients of one agent, and the history of what they held.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::collections::BTreeMap;
use std::time::Instant;

use divvy::agent::{AgentError, AllocateRequest, Decision, Devices, Workloads};
use divvy::api::Client;
use divvy::model::{Amount, Record, Request};
use divvy_tests::rootfs::nothing_is_left;
use divvy_tests::{Machine, requires};
use serde_json::Value;

const CLIENTS: usize = 64;
const ROUNDS: usize = 8;

/// One client's hold of one device: from when it was told that it has it to
/// when it asked to be rid of it. It surely had it all that time.
struct Hold {
    device: String,
    amount: Amount,
    from: Instant,
    to: Instant,
}

#[derive(Default)]
struct Seen {
    holds: Vec<Hold>,
    got: usize,
    refused: usize,
}

#[test]
fn sixty_four_clients_never_have_more_than_there_is_at_any_instant() {
    requires!(root);
    let machine = Machine::with(&["cpu"]);
    let agent = machine.agent("");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let client = agent.client();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(use_it(&client, n))
            })
        })
        .collect();
    // Beside them somebody looks into the ledger itself, as another process.
    let mut looks = 0;
    while !clients.iter().all(std::thread::JoinHandle::is_finished) {
        let dump = machine
            .divvy("--socket none state dump")
            .run()
            .succeeds()
            .json();
        let records: Vec<Record> = serde_json::from_value(dump["records"].clone()).unwrap();
        let mut held: BTreeMap<String, Amount> = BTreeMap::new();
        for slice in records
            .iter()
            .flat_map(|r| &r.slices)
            .filter(|s| s.part.slot == "cpu")
        {
            let sum = held
                .entry(slice.part.device.clone())
                .or_insert(Amount::ZERO);
            *sum = [*sum, slice.part.amount].into_iter().sum();
        }
        assert!(held.values().all(|sum| *sum <= Amount::ONE), "{held:?}");
        looks += 1;
    }
    let mut all = Seen::default();
    for client in clients {
        let seen = client.join().unwrap();
        all.got += seen.got;
        all.refused += seen.refused;
        all.holds.extend(seen.holds);
    }
    println!(
        "{} granted, {} refused, {looks} looks",
        all.got, all.refused
    );
    assert!(all.got > 40 && all.refused > 0 && looks > 3);
    check(&all.holds);
    let devices = machine.divvy("devices").run().succeeds();
    assert!(
        !devices.stdout.contains("w-"),
        "something is still held\n{devices}"
    );
    agent.end().succeeds();
    nothing_is_left(&machine);
}

/// Takes, looks around, and lets go; over and over.
async fn use_it(client: &Client, n: usize) -> Seen {
    let mut seen = Seen::default();
    for round in 0..ROUNDS {
        let cpu = ["0.02", "0.05", "0.1", "0.5"][(n + round) % 4];
        let resources = Request::of(&[("cpu", cpu), ("mem", "8MiB")]).unwrap();
        let request = AllocateRequest {
            resources: resources.clone(),
            ..AllocateRequest::default()
        };
        let held: Result<Record, _> = client.post("/v1/allocations", Some(&request)).await;
        let held = match held {
            Ok(held) => held,
            Err(error) => {
                full(&error);
                seen.refused += 1;
                continue;
            }
        };
        let from = Instant::now();
        let _: Devices = client.get("/v1/devices").await.unwrap();
        let _: Workloads = client.get("/v1/workloads").await.unwrap();
        if let Err(error) = client.post::<Decision>("/v1/fit", Some(&resources)).await {
            full(&error);
        }
        let to = Instant::now();
        let path = format!("/v1/workloads/{}?force=true", held.id);
        let _: Value = client.delete(&path).await.unwrap();
        seen.got += 1;
        let cores = held.slices.iter().filter(|s| s.part.slot == "cpu");
        seen.holds.extend(cores.map(|s| Hold {
            device: s.part.device.clone(),
            amount: s.part.amount,
            from,
            to,
        }));
    }
    seen
}

/// The only way to be refused.
#[track_caller]
fn full(error: &AgentError) {
    assert!(
        ["insufficient", "fragmented"].contains(&error.code()),
        "{error}"
    );
}

/// Walks the history: at no instant was more of a core held than there is.
fn check(holds: &[Hold]) {
    let devices: std::collections::BTreeSet<&str> = holds.iter().map(|h| &*h.device).collect();
    let mut shared = 0;
    for device in devices {
        let mine: Vec<&Hold> = holds.iter().filter(|h| h.device == device).collect();
        for moment in mine.iter().map(|h| h.from) {
            let then = mine.iter().filter(|h| h.from <= moment && moment < h.to);
            let amounts: Vec<Amount> = then.map(|h| h.amount).collect();
            let sum: Amount = amounts.iter().copied().sum();
            assert!(sum <= Amount::ONE, "{device}: {amounts:?} at once");
            shared += usize::from(amounts.len() > 1);
        }
    }
    assert!(shared > 10, "they never shared a core: {shared}");
}

//! One transaction: lock, open, check, decide, commit, close; on the disk.

use std::error::Error;
use std::time::{Duration, Instant};

use criterion::Criterion;
use divvy::ledger::{Ledger, LedgerError, Transaction};
use divvy::model::{Record, Slice, State};

use crate::figures::Figures;
use crate::place::Place;

/// Workloads that the ledger knows already.
const RECORDS: usize = 10;

pub(crate) fn bench(
    criterion: &mut Criterion,
    place: &Place,
    figures: &Figures,
) -> Result<(), Box<dyn Error>> {
    let ledger = Ledger::new(&place.folder("ledger")?);
    ledger.transact(|t| {
        (0..RECORDS).for_each(|n| t.put(record(n)));
        Ok::<_, LedgerError>(())
    })?;
    let mut group = criterion.benchmark_group("ledger");
    group.bench_function("commit", |b| {
        b.iter_custom(|n| {
            let once = |_| {
                let begin = Instant::now();
                let put = ledger.transact(|t| {
                    t.put(record(0));
                    Ok::<_, LedgerError>(())
                });
                put.expect("the ledger can be written");
                begin.elapsed()
            };
            figures.add("ledger/commit", None, (0..n).map(once).collect())
        });
    });
    group.bench_function("read", |b| {
        b.iter_custom(|n| {
            let once = |_| {
                let begin = Instant::now();
                ledger.records().expect("the ledger can be read");
                begin.elapsed()
            };
            figures.add("ledger/read", None, (0..n).map(once).collect())
        });
    });
    group.finish();
    Ok(())
}

/// Threads of one process that write and take back, over and over: what sharing
/// commits gives. Measured with the agent, whose ledger is such a one.
pub(crate) fn shared(place: &Place, figures: &Figures) -> Result<(), Box<dyn Error>> {
    const THREADS: usize = 64;
    const SPAN: Duration = Duration::from_secs(3);
    let ledger = Ledger::grouped(&place.folder("shared-ledger")?);
    ledger.transact(|t| {
        (0..RECORDS).for_each(|n| t.put(record(n)));
        Ok::<_, LedgerError>(())
    })?;
    let end = Instant::now() + SPAN;
    let pairs: Vec<Vec<Duration>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let ledger = ledger.clone();
                scope.spawn(move || {
                    let mut times = Vec::new();
                    while Instant::now() < end {
                        let began = Instant::now();
                        let put = |t: &mut Transaction| {
                            t.put(record(RECORDS + n));
                            Ok::<_, LedgerError>(())
                        };
                        let taken = ledger.transact(put);
                        let id = record(RECORDS + n).id;
                        let freed = ledger.transact(|t| {
                            t.remove(&id);
                            Ok::<_, LedgerError>(())
                        });
                        taken.and(freed).expect("the ledger can be written");
                        times.push(began.elapsed());
                    }
                    times
                })
            })
            .collect();
        let joined = threads.into_iter().map(|t| t.join().expect("a thread"));
        joined.collect()
    });
    let pairs: Vec<Duration> = pairs.into_iter().flatten().collect();
    figures.note(format!(
        "ledger alone: {} durable pairs a second of {THREADS} threads",
        pairs.len() as u128 * 1000 / SPAN.as_millis()
    ));
    figures.add("ledger/shared_pair", None, pairs);
    Ok(())
}

/// A workload with a core and some memory.
fn record(n: usize) -> Record {
    let slice = |slot: &str, device: &str| Slice {
        level: None,
        plugin: "cpu".into(),
        part: divvy_plugin::Slice {
            slot: slot.into(),
            device: device.into(),
            amount: divvy_plugin::Amount::ONE,
            capacities: [(slot.to_owned(), divvy_plugin::Amount::ONE)].into(),
            start: None,
        },
    };
    Record {
        id: format!("{n:012x}"),
        name: format!("w-{n}"),
        state: State::Running,
        remove_on_exit: false,
        owner: 0,
        boot_id: "00000000-0000-0000-0000-000000000000".into(),
        created_ms: 1,
        asked: [("cpu".to_owned(), divvy_plugin::Amount::ONE)].into(),
        slices: vec![slice("cpu", "core-0-0"), slice("mem", "node-0")],
        why: vec![],
        edits: Default::default(),
        launcher: "oci".into(),
        runtime: "built-in".into(),
        root: "host".into(),
        command: vec!["true".into()],
        pid: Some(1),
        container_id: None,
        exit: None,
    }
}

//! What a ledger must never get wrong.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::model::State;

fn record(id: &str) -> Record {
    Record {
        id: id.into(),
        name: id.into(),
        state: State::Preparing,
        remove_on_exit: false,
        owner: 0,
        boot_id: "b".into(),
        created_ms: 1,
        asked: Default::default(),
        slices: vec![],
        why: vec![],
        edits: Default::default(),
        launcher: "oci".into(),
        runtime: "x".into(),
        root: "host".into(),
        command: vec!["true".into()],
        pid: None,
        container_id: None,
        exit: None,
    }
}

fn put(ledger: &Ledger, id: &str) {
    ledger
        .transact(|t| {
            t.put(record(id));
            Ok::<_, LedgerError>(())
        })
        .unwrap();
}

#[test]
fn what_is_committed_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(&dir.path().join("state"));
    assert_eq!(ledger.records().unwrap(), []);
    put(&ledger, "a");
    put(&ledger, "b");
    ledger
        .transact(|t| {
            t.remove("a");
            Ok::<_, LedgerError>(())
        })
        .unwrap();
    assert_eq!(ledger.records().unwrap(), [record("b")]);
}

#[test]
fn a_refused_decision_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(dir.path());
    put(&ledger, "a");
    let result: Result<(), LedgerError> = ledger.transact(|t| {
        t.put(record("b"));
        Err(LedgerError::Locked(PathBuf::new()))
    });
    assert!(result.is_err());
    assert_eq!(ledger.records().unwrap().len(), 1);
}

#[test]
fn a_ledger_whose_maker_was_killed_is_made_again() {
    for left in [vec![0; 4096], vec![0; 3]] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        std::fs::write(ledger.path(), left).unwrap();
        assert_eq!(ledger.records().unwrap(), vec![]);
        ledger
            .transact(|t| {
                t.put(record("a"));
                Ok::<_, LedgerError>(())
            })
            .unwrap();
        assert_eq!(ledger.records().unwrap().len(), 1);
        // One that was once there is another matter.
        std::fs::write(ledger.path(), vec![0; 4096]).unwrap();
        assert!(ledger.records().is_err());
    }
}

#[test]
fn transactions_of_many_threads_see_each_other() {
    three_of_eight(Ledger::new);
}

#[test]
fn transactions_that_share_a_commit_see_each_other() {
    let shared = std::sync::OnceLock::new();
    three_of_eight(|dir| shared.get_or_init(|| Ledger::grouped(dir)).clone());
}

fn three_of_eight(open: impl Fn(&Path) -> Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let taken = AtomicU32::new(0);
    thread::scope(|scope| {
        for n in 0..8 {
            let (ledger, taken) = (open(dir.path()), &taken);
            scope.spawn(move || {
                ledger
                    .transact(|t| {
                        // Three seats for eight.
                        if t.records().len() < 3 {
                            t.put(record(&format!("r{n}")));
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok::<_, LedgerError>(())
                    })
                    .unwrap();
            });
        }
    });
    assert_eq!(taken.into_inner(), 3);
    assert_eq!(Ledger::new(dir.path()).records().unwrap().len(), 3);
}

/// A refusal, or a panic, takes back its own writes and nobody else's.
#[test]
fn a_refusal_in_a_shared_commit_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::grouped(dir.path());
    put(&ledger, "kept");
    thread::scope(|scope| {
        for n in 0..24 {
            let ledger = ledger.clone();
            scope.spawn(move || {
                let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
                    ledger.transact(|t| {
                        t.put(record(&format!("r{n}")));
                        match n % 3 {
                            0 => Ok(()),
                            1 => {
                                t.remove("kept");
                                Err(LedgerError::Locked(PathBuf::new()))
                            }
                            _ => {
                                t.put(Record {
                                    name: "spoilt".into(),
                                    ..record("kept")
                                });
                                panic!("in the middle of a decision")
                            }
                        }
                    })
                }));
                assert_eq!(matches!(result, Ok(Ok(()))), n % 3 == 0);
            });
        }
    });
    let mut there: Vec<Record> = Ledger::new(dir.path()).records().unwrap();
    assert_eq!(there.len(), 9);
    assert_eq!(there.remove(0), record("kept"));
    assert!(
        there
            .iter()
            .all(|r| r.id[1..].parse::<u32>().unwrap() % 3 == 0)
    );
}

/// A reader with a mirror sees what another process commits.
#[test]
fn a_mirror_follows_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mirror, other) = (Ledger::grouped(dir.path()), Ledger::new(dir.path()));
    assert_eq!(mirror.records().unwrap(), []);
    for n in 0..20 {
        put(&other, &format!("r{n}"));
        assert_eq!(mirror.records().unwrap().len(), n + 1);
    }
    let (a, b) = (
        mirror.shared_records().unwrap(),
        mirror.shared_records().unwrap(),
    );
    assert!(
        Arc::ptr_eq(&a, &b),
        "nothing was written: nothing is read again"
    );
    std::fs::remove_file(other.path()).unwrap();
    other
        .renew(|| Ok::<_, LedgerError>(vec![record("only")]))
        .unwrap();
    assert_eq!(mirror.records().unwrap(), [record("only")]);
}

/// Bits flipped and tails cut all over the file: it is read right or it is
/// refused; never a panic, never other records.
#[test]
fn damage_is_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(dir.path());
    for id in ["a", "b", "c"] {
        put(&ledger, id);
    }
    let good = std::fs::read(ledger.path()).unwrap();
    let expected = ledger.records().unwrap();
    let mut noticed = 0;
    for step in 0..400usize {
        let mut bytes = good.clone();
        if step % 8 == 7 {
            bytes.truncate(step * good.len() / 400);
        } else {
            // Spread over the file, denser at its beginning.
            let at = if step % 2 == 0 {
                step
            } else {
                step * 7919 % good.len()
            };
            bytes[at] ^= 1 << (step % 8);
        }
        std::fs::write(ledger.path(), &bytes).unwrap();
        match ledger.records() {
            Ok(records) => {
                assert!(records == expected, "step {step} was misread");
            }
            Err(LedgerError::Damaged { .. } | LedgerError::Io(..)) => noticed += 1,
            Err(other) => panic!("step {step}: {other}"),
        }
    }
    assert!(noticed > 40, "only {noticed} of 400 were noticed");
}

#[test]
fn rebuilding_sets_the_old_file_aside() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(dir.path());
    put(&ledger, "a");
    std::fs::write(ledger.path(), "no ledger").unwrap();
    assert_eq!(ledger.records().unwrap_err().code(), "ledger_damaged");
    let Renewal::New { set_aside, .. } = renew(&ledger, "c") else {
        panic!("it was kept");
    };
    assert_eq!(std::fs::read(set_aside.unwrap()).unwrap(), b"no ledger");
    assert_eq!(ledger.records().unwrap(), [record("c")]);
}

fn renew(ledger: &Ledger, id: &str) -> Renewal {
    ledger
        .renew(|| Ok::<_, LedgerError>(vec![record(id)]))
        .unwrap()
}

#[test]
fn a_sound_ledger_is_kept_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(dir.path());
    put(&ledger, "a");
    assert_eq!(renew(&ledger, "b"), Renewal::Sound(vec![record("a")]));
    assert_eq!(ledger.records().unwrap(), [record("a")]);
}

/// Whatever was deleted: a workload's copy says that there was a ledger.
#[test]
fn a_ledger_that_is_gone_without_a_trace_is_not_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(dir.path());
    put(&ledger, "a");
    let copy = dir.path().join("workloads/a");
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::write(copy.join("record.json"), "").unwrap();
    for file in ["ledger.redb", LOCK] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    assert!(matches!(ledger.records(), Err(LedgerError::Lost(_))));
    let put = ledger.transact(|t| {
        t.put(record("b"));
        Ok::<_, LedgerError>(())
    });
    assert!(matches!(put, Err(LedgerError::Lost(_))));
    renew(&ledger, "a");
    assert_eq!(ledger.records().unwrap(), [record("a")]);
}

#[test]
fn a_lack_of_descriptors_is_no_fault_of_the_folder() {
    for (number, remedy, code) in [
        (
            rustix::io::Errno::MFILE,
            "too many files are open",
            "system",
        ),
        (rustix::io::Errno::ACCESS, "--state", "state_folder"),
    ] {
        let error = LedgerError::Folder("/x".into(), number.into());
        // As it is told to each of those who shared a commit.
        let error = error.copy();
        assert!(error.to_string().contains(remedy), "{error}");
        assert_eq!(error.code(), code);
    }
}

//! Group commit: callers of one process that come together share a transaction.
//!
//! A transaction costs the same whether it carries one decision or a hundred:
//! lock, open, check, sync. So whoever finds no batch open opens one and leads
//! it; those who queued up meanwhile decide in it, one after another, each
//! seeing what those before it wrote; then the leader commits once, and all
//! return. Nobody returns before the disk has it, refusals included: they were
//! made from what the batch wrote.
//!
//! While more of them wait, the file stays open for the next batch, and its lock
//! held, but not for long: commands without an agent get their turn.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::store::{Ledger, LedgerError, Open, Transaction};
use crate::model::Record;

/// At most so many decisions share a commit, so that the first does not wait
/// for ever on a busy machine.
const LARGEST: usize = 256;
/// How long a leader waits for those who queue; they notify it.
const LOOK: Duration = Duration::from_millis(1);
/// How long the file stays open while there is more to do.
const TENURE: Duration = Duration::from_millis(50);
/// How long it is left to others then. Whoever waits for it looks at least every
/// 10 ms.
const TURN: Duration = Duration::from_millis(4);

/// What the threads of one process share of a ledger.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Callers that wait for their turn to decide.
    queued: AtomicUsize,
    shared: Mutex<Shared>,
    joined: Condvar,
    mirror: Mutex<Option<Mirror>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The batch that callers may join.
    batch: Option<Batch>,
    /// The file between two batches, and since when it is open.
    open: Option<(Open, Instant)>,
}

/// The records as of one generation of the file.
#[derive(Debug)]
struct Mirror {
    generation: u64,
    records: Arc<Vec<Record>>,
}

#[derive(Debug)]
struct Batch {
    open: Open,
    since: Instant,
    members: usize,
    outcome: Arc<Outcome>,
}

/// What became of a batch.
#[derive(Debug, Default)]
struct Outcome {
    result: Mutex<Option<Result<(), LedgerError>>>,
    told: Condvar,
}

impl Outcome {
    fn tell(&self, result: Result<(), LedgerError>) {
        *lock(&self.result) = Some(result);
        self.told.notify_all();
    }

    fn wait(&self) -> Result<(), LedgerError> {
        let mut result = lock(&self.result);
        loop {
            match &*result {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => return Err(error.copy()),
                None => {
                    let waited = self.told.wait(result);
                    result = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Group {
    /// [`Ledger::transact`], together with whoever else comes now.
    pub(super) fn transact<T, E: From<LedgerError>>(
        &self,
        ledger: &Ledger,
        decide: impl FnOnce(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.queued.fetch_add(1, Ordering::SeqCst);
        let mut shared = lock(&self.shared);
        let waiting = self.queued.fetch_sub(1, Ordering::SeqCst) - 1;
        let leads = shared.batch.is_none();
        let Shared { batch, open } = &mut *shared;
        let batch = match batch {
            Some(batch) => batch,
            none => {
                let (open, since) = match open.take() {
                    Some(open) => open,
                    None => (ledger.begin()?, Instant::now()),
                };
                none.insert(Batch {
                    open,
                    since,
                    members: 0,
                    outcome: Arc::default(),
                })
            }
        };
        batch.members += 1;
        let outcome = Arc::clone(&batch.outcome);
        let transaction = &mut batch.open.transaction;
        let mark = transaction.mark();
        // A panic in one decision must not leave the others without a leader.
        let decided = catch_unwind(AssertUnwindSafe(|| decide(transaction)));
        if !matches!(decided, Ok(Ok(_))) {
            transaction.roll_back(mark);
        }
        if leads {
            self.lead(ledger, shared);
        } else {
            drop(shared);
            if waiting == 0 {
                self.joined.notify_one();
            }
        }
        let committed = outcome.wait();
        let value = decided.unwrap_or_else(|panic| resume_unwind(panic))?;
        committed?;
        Ok(value)
    }

    /// Lets those who queue join, then commits for all.
    fn lead(&self, ledger: &Ledger, mut shared: MutexGuard<'_, Shared>) {
        let may_join = |shared: &Shared| {
            let members = shared.batch.as_ref().map_or(LARGEST, |b| b.members);
            self.queued.load(Ordering::SeqCst) > 0 && members < LARGEST
        };
        while may_join(&shared) {
            let waited = self.joined.wait_timeout(shared, LOOK);
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let Some(mut batch) = shared.batch.take() else {
            return;
        };
        let result = ledger.commit(&mut batch.open);
        let good = result.is_ok();
        batch.outcome.tell(result);
        // Whoever waits for the lock here takes the file over: none is left open.
        if !good || self.queued.load(Ordering::SeqCst) == 0 {
            return;
        }
        if batch.since.elapsed() < TENURE {
            shared.open = Some((batch.open, batch.since));
        } else {
            drop(batch);
            std::thread::sleep(TURN);
        }
    }

    /// All records: those of the last look while the file is the same.
    pub(super) fn records(&self, ledger: &Ledger) -> Result<Arc<Vec<Record>>, LedgerError> {
        // Read before the records are: what is written in between is a newer
        // generation and is looked at next time.
        let generation = ledger.generation();
        if let (Some(now), Some(mirror)) = (generation, &*lock(&self.mirror))
            && mirror.generation == now
        {
            return Ok(Arc::clone(&mirror.records));
        }
        let records = self.transact(ledger, |t| Ok::<_, LedgerError>(t.records().to_vec()))?;
        let records = Arc::new(records);
        if let Some(generation) = generation {
            *lock(&self.mirror) = Some(Mirror {
                generation,
                records: Arc::clone(&records),
            });
        }
        Ok(records)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

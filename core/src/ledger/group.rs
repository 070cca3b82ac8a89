//! Group commit: callers of one process that come together share a transaction.
//!
//! A transaction costs the same whether it carries one decision or a hundred:
//! lock, open, check, sync. So whoever finds no batch open opens one and leads
//! it; those who queued up meanwhile decide in it, one after another, each
//! seeing what those before it wrote; then the leader commits once, and all
//! return. Nobody returns before the disk has it, refusals included: they were
//! made from what the batch wrote.
//!
//! The file is open, and its lock held, only while a batch is: commands
//! without an agent get their turn between two batches.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::store::{Ledger, LedgerError, Open, Transaction};
use crate::model::Record;

/// At most so many decisions share a commit, so that the first does not wait
/// for ever on a busy machine.
const LARGEST: usize = 256;
/// How long a leader waits for those who queue; they notify it.
const LOOK: Duration = Duration::from_millis(1);

/// What the threads of one process share of a ledger.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Callers that wait for their turn to decide.
    queued: AtomicUsize,
    batch: Mutex<Option<Batch>>,
    joined: Condvar,
    committed: Condvar,
    mirror: Mutex<Option<Mirror>>,
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
    members: usize,
    outcome: Arc<OnceLock<Result<(), LedgerError>>>,
}

impl Group {
    /// [`Ledger::transact`], together with whoever else comes now.
    pub(super) fn transact<T, E: From<LedgerError>>(
        &self,
        ledger: &Ledger,
        decide: impl FnOnce(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.queued.fetch_add(1, Ordering::SeqCst);
        let mut slot = lock(&self.batch);
        self.queued.fetch_sub(1, Ordering::SeqCst);
        let leads = slot.is_none();
        let batch = match &mut *slot {
            Some(batch) => batch,
            none => none.insert(Batch {
                open: ledger.begin()?,
                members: 0,
                outcome: Arc::default(),
            }),
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
        self.joined.notify_one();
        if leads {
            self.lead(ledger, slot, &outcome);
        } else {
            while outcome.get().is_none() {
                slot = self
                    .committed
                    .wait(slot)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        let value = decided.unwrap_or_else(|panic| resume_unwind(panic))?;
        match outcome.get() {
            Some(Err(error)) => Err(error.copy().into()),
            _ => Ok(value),
        }
    }

    /// Lets those who queue join, then commits for all.
    fn lead(
        &self,
        ledger: &Ledger,
        mut slot: MutexGuard<'_, Option<Batch>>,
        outcome: &OnceLock<Result<(), LedgerError>>,
    ) {
        while self.queued.load(Ordering::SeqCst) > 0
            && slot.as_ref().is_some_and(|b| b.members < LARGEST)
        {
            let waited = self.joined.wait_timeout(slot, LOOK);
            slot = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(batch) = slot.take() {
            let _ = outcome.set(ledger.commit(batch.open));
        }
        drop(slot);
        self.committed.notify_all();
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

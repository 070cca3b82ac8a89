//! Picking up what others left behind.
//!
//! A workload whose folder's lock is free is carried by nobody: its command
//! was killed before the monitor took over, or its monitor was killed, or the
//! machine was restarted. Nothing is freed on missing evidence: only what the
//! kernel says is gone is settled.

use std::fs::File;

use super::{Agent, AgentError, settle};
use crate::launch::{Cgroup, Folder};
use crate::model::{Exit, Record, State};
use crate::{monitor, sys};

impl Agent {
    /// Brings the ledger up to date with what became of the workloads that
    /// nobody carries. Cheap when there are none: one lock test each.
    ///
    /// # Errors
    /// The ledger.
    pub async fn recover(&self) -> Result<(), AgentError> {
        let live: Vec<Record> = self
            .ledger
            .records()?
            .into_iter()
            .filter(Record::holds)
            .collect();
        for record in live {
            let folder = self.folder(&record.id);
            match folder.try_lock() {
                Ok(None) => {} // Somebody carries it.
                Ok(Some(lock)) => {
                    if let Err(error) = self.pick_up(&folder, lock, &record.id).await {
                        tracing::warn!("{}: {error}", record.name);
                    }
                }
                Err(error) => tracing::warn!(
                    "{}: its folder {} is gone ({error}); its slices stay closed. `divvy state check` says more",
                    record.name,
                    folder.path.display()
                ),
            }
        }
        Ok(())
    }

    async fn pick_up(&self, folder: &Folder, lock: File, id: &str) -> Result<(), AgentError> {
        // It may have moved on between the listing and the lock.
        let record = self
            .ledger
            .transact(|t| Ok::<_, AgentError>(t.get(id).cloned()))?;
        let Some(record) = record.filter(Record::holds) else {
            return Ok(());
        };
        let boot = sys::boot_id().map_err(|e| AgentError::System("cannot read the boot id", e))?;
        let same_boot = record.boot_id == boot;

        if record.state == State::Running && same_boot && is_alive(&record) {
            tracing::info!(
                "{}: its monitor is gone; another follows it now",
                record.name
            );
            monitor::spawn(&self.settings.exe, folder, lock, true)?;
            return Ok(());
        }
        // Nothing of it runs. Whatever the runtime still has of it, goes.
        if same_boot && let Ok(container) = folder.container() {
            container.delete()?;
        }
        if record.state == State::Preparing {
            settle::release(&self.plugins, &record).await?;
            self.ledger.transact(|t| {
                t.remove(id);
                Ok::<_, AgentError>(())
            })?;
            folder.remove();
            return Ok(());
        }
        let reason = if same_boot {
            "nobody saw how it ended: its monitor was killed"
        } else {
            "the machine was restarted"
        };
        let exit = Exit {
            reason: Some(reason.into()),
            at_ms: sys::now_ms(),
            ..Exit::default()
        };
        settle(&self.settings.state, &self.settings.plugins, id, exit).await
    }
}

/// Does its process still run, and is it still its process?
fn is_alive(record: &Record) -> bool {
    let cgroup = record.pid.and_then(|pid| Cgroup::of(pid).ok());
    cgroup.is_some_and(|c| c.belongs_to(&record.id))
}

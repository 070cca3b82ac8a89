//! Picking up what others left behind.
//!
//! A workload whose folder's lock is free is carried by nobody: its command
//! was killed before the monitor took over, or its monitor was killed, or the
//! machine was restarted. Nothing is freed on missing evidence: only what the
//! kernel says is gone is settled.

use std::fs::File;

use super::hold::NO_LAUNCHER;
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
        let records = self.ledger.records()?;
        self.sweep(&records)?;
        self.plugins.set_held(&records);
        for record in records.into_iter().filter(Record::holds) {
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

    /// Removes folders that belong to no record and to nobody: of a command
    /// that was killed before its intent was written, or while it forgot one.
    fn sweep(&self, records: &[Record]) -> Result<(), AgentError> {
        let Ok(entries) = std::fs::read_dir(self.settings.state.join("workloads")) else {
            return Ok(());
        };
        for entry in entries.filter_map(Result::ok) {
            let id = entry.file_name().to_string_lossy().into_owned();
            if records.iter().any(|r| r.id == id) {
                continue;
            }
            let folder = self.folder(&id);
            let Ok(Some(_lock)) = folder.try_lock() else {
                continue;
            };
            // Its record may have been written since the list was read.
            if !self.ledger.records()?.iter().any(|r| r.id == id) {
                folder.remove();
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

        // Nobody can tell whether what uses it still runs.
        if record.launcher == NO_LAUNCHER && record.state == State::Running && same_boot {
            return Ok(());
        }
        let container = folder.container().ok();
        let waits = || container.as_ref().is_some_and(|c| c.waits(folder));
        if record.state == State::Running && same_boot && is_alive(&record) && !waits() {
            tracing::info!(
                "{}: its monitor is gone; another follows it now",
                record.name
            );
            monitor::spawn(&self.settings.exe, folder, lock, true)?;
            return Ok(());
        }
        // Nothing of it runs. Whatever the runtime still has of it, goes.
        match container {
            Some(container) if same_boot => container.delete().await?,
            Some(container) => container.forget().await,
            None => {}
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
        // Its monitor may have seen the end and died before the ledger knew.
        let exit = folder.exit().unwrap_or_else(|| Exit {
            reason: Some(if same_boot {
                "nobody saw how it ended: its monitor was killed".into()
            } else {
                "the machine was restarted".into()
            }),
            at_ms: sys::now_ms(),
            ..Exit::default()
        });
        settle(&self.settings.state, &self.settings.plugins, id, exit).await
    }
}

/// Does its process still run, and is it still its process?
fn is_alive(record: &Record) -> bool {
    let cgroup = record.pid.and_then(|pid| Cgroup::of(pid).ok());
    cgroup.is_some_and(|c| c.belongs_to(record.cgroup_name()))
}

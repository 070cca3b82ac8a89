//! Picking up what others left behind.
//!
//! A workload whose folder's lock is free is carried by nobody: its command
//! was killed before the monitor took over, or its monitor was killed, or the
//! machine was restarted. Nothing is freed on missing evidence: only what the
//! kernel says is gone is settled.

use std::fs::File;

use super::settle::{leave, release, settle_with};
use super::{Agent, AgentError};
use crate::failpoint::{Point, hit};
use crate::launch::{self, By, Calls, Cgroup, Container, Folder};
use crate::model::{Exit, Record, State};
use crate::{monitor, sys};

/// So many locks are held at once: each is a descriptor.
const AT_ONCE: usize = 128;

impl Agent {
    /// Brings the ledger up to date with what became of the workloads that
    /// nobody carries, and says how many there were. Cheap when there are none:
    /// one lock test each.
    ///
    /// # Errors
    /// The ledger.
    pub async fn recover(&self) -> Result<usize, AgentError> {
        let records = self.ledger.shared_records()?;
        self.sweep(&records).await?;
        self.sweep_probes().await;
        self.sweep_held(&records)?;
        self.plugins.set_held(&records);
        let mut found = 0;
        for some in records.chunks(AT_ONCE) {
            found += self.recover_some(some).await?;
        }
        Ok(found)
    }

    async fn recover_some(&self, records: &[Record]) -> Result<usize, AgentError> {
        let boot = sys::boot_id().map_err(|e| AgentError::System("cannot read the boot id", e))?;
        let mut abandoned = Vec::new();
        for record in records {
            if !record.has_container() {
                // A restart of the machine ended what used it.
                if !Self::stays(record, &boot)
                    && let Err(error) = self.let_go(record).await
                {
                    tracing::warn!("{}: {error}", record.name);
                }
                continue;
            }
            let folder = self.folder(&record.id);
            if record.state == State::Exited {
                tidy(&folder);
                continue;
            }
            match folder.try_lock() {
                Ok(None) => {} // Somebody carries it.
                Ok(Some(lock)) => abandoned.push((record, folder, lock)),
                // It may have ended, and been forgotten, since the listing.
                Err(error) if self.holds(&record.id)? => tracing::warn!(
                    "{}: its folder {} is gone ({error}); its slices stay closed. `divvy state check` says more",
                    record.name,
                    folder.path.display()
                ),
                Err(_) => {}
            }
        }
        if abandoned.is_empty() {
            return Ok(0);
        }
        hit(Point::RecoverLocked);
        // Both looked for with the locks in hand: nobody changes them any more.
        let calls = Calls::now(&Container::runtimes(&self.settings.state));
        let now = self.ledger.records()?;
        let mut found = 0;
        for (record, folder, lock) in abandoned {
            let Some(record) = now.iter().find(|r| r.id == record.id && r.holds()) else {
                continue;
            };
            found += 1;
            let called = calls.concern(&record.id);
            let carried = self.pick_up(record, &folder, lock, &boot, called);
            if let Err(error) = carried.await {
                tracing::warn!(
                    "{}: {error}; its slices stay closed, and it is tried again",
                    record.name
                );
            }
        }
        Ok(found)
    }

    /// Does the ledger say now that this workload holds something?
    fn holds(&self, id: &str) -> Result<bool, AgentError> {
        self.ledger
            .transact(|t| Ok::<_, AgentError>(t.get(id).is_some_and(Record::holds)))
    }

    /// Removes folders that belong to no record and to nobody: of a command
    /// that was killed before its intent was written, or while it forgot one.
    async fn sweep(&self, records: &[Record]) -> Result<(), AgentError> {
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
            if self.ledger.records()?.iter().any(|r| r.id == id) {
                continue;
            }
            if launch::lives(&id) {
                tracing::warn!(
                    "{}: a container runs that is in no record; it is left alone. `divvy state check` says more",
                    folder.path.display()
                );
                continue;
            }
            hit(Point::RecoverSweeps);
            match clear(&folder, &id, &self.settings.state).await {
                Ok(()) if folder.is_late() => {}
                Ok(()) => folder.remove(),
                Err(error) => tracing::warn!("{}: {error}", folder.path.display()),
            }
        }
        Ok(())
    }

    /// Clears away what trials of runtimes left that were killed.
    async fn sweep_probes(&self) {
        let state = self.settings.state.clone();
        let swept = aside(move || launch::sweep_probes(&state)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!("a trial of a runtime: {error}; it is tried again");
        }
    }

    /// Carries a workload on from where it was left. `called`: a runtime's call
    /// for it was under way.
    async fn pick_up(
        &self,
        record: &Record,
        folder: &Folder,
        lock: File,
        boot: &str,
        called: bool,
    ) -> Result<(), AgentError> {
        let id = record.id.as_str();
        // What lives was not ended by a restart, whatever the id says.
        let same_boot = record.boot_id == boot || launch::lives(record.cgroup_name());
        let found = if same_boot {
            let (record, folder) = (record.clone(), folder.clone());
            aside(move || look(&record, &folder, called)).await?
        } else {
            Found::Nothing
        };
        hit(Point::RecoverJudged);
        if found == Found::Running {
            tracing::info!(
                "{}: its monitor is gone; another follows it now",
                record.name
            );
            hit(Point::RecoverAdopts);
            monitor::spawn(&self.settings.exe, folder, lock, true)?;
            hit(Point::RecoverAdopted);
            return Ok(());
        }
        // Its monitor may have seen the end and died before the ledger knew; an
        // engine remembers it too.
        let mut exit = folder.exit();
        if let Ok(container) = folder.container()
            && same_boot
            && record.state == State::Running
            && found == Found::Nothing
            && exit.is_none()
        {
            exit = monitor::how_it_ended(folder, &container).await;
        }
        if same_boot {
            clear(folder, id, &self.settings.state).await?;
        } else {
            // Only what a launcher remembers has outlived the restart.
            if let Ok(container) = folder.container() {
                container.forget().await;
            }
            clear_unknown(id, &self.settings.state).await?;
        }
        hit(Point::RecoverCleared);
        if record.state == State::Preparing {
            release(&self.plugins, record).await?;
            hit(Point::RecoverReleased);
            self.ledger.transact(|t| {
                t.remove(id);
                Ok::<_, AgentError>(())
            })?;
            hit(Point::RecoverForgotten);
            folder.leave();
            return Ok(());
        }
        let exit = exit.unwrap_or_else(|| Exit {
            reason: Some(
                match (same_boot, found) {
                    (false, _) => "the machine was restarted",
                    (true, Found::Waiting) => "it never ran: its monitor was killed before",
                    (true, _) => "nobody saw how it ended: its monitor was killed",
                }
                .into(),
            ),
            at_ms: sys::now_ms(),
            ..Exit::default()
        });
        let settled = settle_with(&self.ledger, &self.plugins, id, exit).await?;
        if let Some(record) = settled {
            leave(folder, &record);
        }
        Ok(())
    }
}

/// What there is of an abandoned workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It runs.
    Running,
    /// Its process waits, and was never told to run.
    Waiting,
    /// No process of it lives.
    Nothing,
}

/// Looks, once nothing more can happen to it: a call of the runtime that
/// outlived its monitor would make a container, or start it, after the look.
fn look(record: &Record, folder: &Folder, called: bool) -> Found {
    let container = folder.container().ok();
    if called && let Some(By::Oci(oci)) = container.as_ref().map(|c| &c.by) {
        launch::end_calls(&record.id, &oci.runtime.root);
    }
    let Some(pid) = record.pid.filter(|_| is_alive(record)) else {
        return Found::Nothing;
    };
    match (record.state, container) {
        // Before that, nobody said go.
        (State::Preparing, _) => Found::Waiting,
        (_, Some(container)) if !launch::was_started(&container, folder, pid) => Found::Waiting,
        // Without its description nobody can follow it, but it runs.
        _ => Found::Running,
    }
}

/// Does its process still run, and is it still its process?
fn is_alive(record: &Record) -> bool {
    let cgroup = record.pid.and_then(|pid| Cgroup::of(pid).ok());
    cgroup.is_some_and(|c| c.belongs_to(record.cgroup_name()))
}

/// Whatever is left of the container goes.
async fn clear(folder: &Folder, id: &str, state: &std::path::Path) -> Result<(), AgentError> {
    match folder.container() {
        Ok(container) => Ok(launch::clear(&container).await?),
        Err(_) => clear_unknown(id, state).await,
    }
}

/// Whatever is left of a container of which nothing is known but its id.
async fn clear_unknown(id: &str, state: &std::path::Path) -> Result<(), AgentError> {
    let (id, runtimes) = (id.to_owned(), Container::runtimes(state));
    Ok(aside(move || launch::clear_unknown(&id, &runtimes)).await??)
}

/// Tidies the folder of a workload whose monitor was killed when it had settled
/// it and not yet tidied up.
fn tidy(folder: &Folder) {
    if folder.bundle().exists()
        && let Ok(Some(_lock)) = folder.try_lock()
    {
        folder.tidy();
    }
}

/// Runs what waits for processes on a thread of its own: whoever serves others
/// goes on meanwhile.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| AgentError::System("recovery was given up", std::io::Error::other(e)))
}

//! Allocations without a container: for programs that start their jobs
//! themselves.
//!
//! Two steps, as in Kubernetes' DRA: [`Agent::allocate`] takes the slices, one
//! commit and no plugin; [`Agent::prepare_held`] has the plugins make what the
//! slices need, and gives the edits to apply. Such a record's launcher is
//! `none`. It holds its slices until it is let go of, or the machine is
//! restarted: nobody can tell whether what uses them still runs. Its second copy
//! is a file, `STATE/held/ID.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use divvy_plugin::Edits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::run::{blank, named, new_id};
use super::{Agent, AgentError, settle};
use crate::launch::Needs;
use crate::model::{NO_LAUNCHER, Record, Request, State};
use crate::sys;

/// What is to be held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AllocateRequest {
    /// Amounts of slots.
    pub resources: Request,
    /// The name; `None`: one is made.
    pub name: Option<String>,
    /// The user on whose behalf; an agent sets it to who asks, unless root
    /// does.
    pub owner: u32,
}

impl Agent {
    /// Takes slices without starting anything. [`stop`](Self::stop) or
    /// [`forget`](Self::forget) let go of them.
    ///
    /// # Errors
    /// As [`run`](Self::run); nothing is held then.
    pub async fn allocate(&self, request: &AllocateRequest) -> Result<Record, AgentError> {
        if !sys::is_root() {
            return Err(AgentError::NeedsRoot("run"));
        }
        let (inventory, failed) = self.inventory().await;
        let failed = self.needed(&inventory, failed)?;
        let id = new_id()?;
        let name = named(&id, request.name.as_ref())?;
        let intent = Record {
            state: State::Running,
            launcher: NO_LAUNCHER.into(),
            runtime: "-".into(),
            root: "-".into(),
            ..blank(&id, &name, request.owner)?
        };
        let needs = Needs::default();
        let record = self.take(intent, &request.resources, &needs, &inventory, failed)?;
        match self.save_copy(&record) {
            Ok(()) => Ok(record),
            Err(error) => {
                self.let_go(&record).await?;
                Err(error)
            }
        }
    }

    /// Has the plugins make what an allocation without a container needs, and
    /// gives its record with the edits. Asked again, the same.
    ///
    /// # Errors
    /// It is none, or a plugin; it is held as before then.
    pub async fn prepare_held(&self, id: &str) -> Result<Record, AgentError> {
        let (inventory, _) = self.inventory().await;
        // From here on it is not let go of without the plugins' word.
        let mut record = self.change(id, |record| {
            for plugin in record
                .plugins()
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
            {
                record.edits.entry(plugin).or_default();
            }
        })?;
        if record
            .edits
            .values()
            .any(|edits| *edits != Edits::default())
        {
            return Ok(record);
        }
        let (edits, _) = self.prepare(&record, &inventory, &BTreeMap::new()).await?;
        match self.change(id, |record| record.edits.clone_from(&edits)) {
            Ok(record) => {
                self.save_copy(&record)?;
                Ok(record)
            }
            // Let go of meanwhile, before there was anything to undo: there is now.
            Err(error @ AgentError::NoSuchWorkload(_)) => {
                record.edits = edits;
                if let Err(left) = settle::release(&self.plugins, &record).await {
                    tracing::warn!(
                        "{} was let go of while it was prepared: {left}",
                        record.name
                    );
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Record)) -> Result<Record, AgentError> {
        self.ledger.transact(|t| match t.get(id) {
            Some(record) if !record.has_container() => {
                let mut record = record.clone();
                change(&mut record);
                t.put(record.clone());
                Ok(record)
            }
            Some(record) => Err(AgentError::Denied(format!(
                "{} has a container: its plugins have been asked",
                record.name
            ))),
            None => Err(AgentError::NoSuchWorkload(id.to_owned())),
        })
    }

    /// Lets go of an allocation without a container.
    pub(super) async fn let_go(&self, record: &Record) -> Result<(), AgentError> {
        let prepared = self.ledger.transact(|t| {
            let prepared = t.get(&record.id).filter(|r| !r.edits.is_empty()).cloned();
            if prepared.is_none() {
                t.remove(&record.id);
            }
            Ok::<_, AgentError>(prepared)
        })?;
        if let Some(record) = prepared {
            // Asked again if this process is killed before the next line: plugins
            // release what they do not know as well.
            settle::release(&self.plugins, &record).await?;
            self.ledger.transact(|t| {
                t.remove(&record.id);
                Ok::<_, AgentError>(())
            })?;
        }
        // One that stays is removed by the next look.
        let _ = fs::remove_file(self.copy(&record.id));
        Ok(())
    }

    /// Is this held without a container, and since this start of the machine?
    pub(super) fn stays(record: &Record, boot: &str) -> bool {
        !record.has_container() && record.boot_id == boot
    }

    /// Removes copies of what is not held any more.
    pub(super) fn sweep_held(&self, records: &[Record]) -> Result<(), AgentError> {
        let known = |all: &[Record], id: &str| all.iter().any(|r| r.id == id);
        for (id, path) in copies(&self.settings.state) {
            // Its record may have been written since the list was read.
            if !known(records, &id) && !known(&self.ledger.records()?, &id) {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    fn copy(&self, id: &str) -> PathBuf {
        folder(&self.settings.state).join(format!("{id}.json"))
    }

    fn save_copy(&self, record: &Record) -> Result<(), AgentError> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |e| AgentError::System("a copy of the record cannot be written", e);
        let bytes = serde_json::to_vec(record).map_err(|e| failed(e.into()))?;
        let path = self.copy(&record.id);
        match sys::write_private(&path, &bytes) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut builder = fs::DirBuilder::new();
                builder.recursive(true).mode(0o700);
                builder
                    .create(folder(&self.settings.state))
                    .and_then(|()| sys::write_private(&path, &bytes))
                    .map_err(failed)
            }
            other => other.map_err(failed),
        }
    }
}

fn folder(state: &Path) -> PathBuf {
    state.join("held")
}

/// The copies of what is held without a container, by id.
pub(super) fn copies(state: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder(state)).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name.strip_suffix(".json")?.to_owned(), entry.path()))
        })
        .collect()
}

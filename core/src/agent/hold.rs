//! Allocations without a container: for programs that start their jobs
//! themselves, and apply the edits that come with the slices.
//!
//! Such a record's launcher is `none`. It holds its slices until it is let go
//! of, or the machine is restarted: nobody can tell whether what uses them
//! still runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Agent, AgentError, settle};
use crate::launch::{Needs, merge};
use crate::model::{Record, Request, State, check_workload_name, new_allocation_id};
use crate::sys;

/// The launcher of an allocation without a container.
pub(super) const NO_LAUNCHER: &str = "none";

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
    /// Takes slices without starting anything. The record has them, and the
    /// edits that give them to a process; [`stop`](Self::stop) or
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
        let id = new_allocation_id(
            sys::random().map_err(|e| AgentError::System("no random numbers", e))?,
        );
        let name = match &request.name {
            Some(name) => name.clone(),
            None => format!("w-{}", &id[..6]),
        };
        check_workload_name(&name)?;
        let folder = self.folder(&id);
        // Held until this is done: whoever finds it free undoes it.
        let _lock = folder.create()?;
        let intent = Record {
            id: id.clone(),
            name,
            state: State::Preparing,
            remove_on_exit: true,
            owner: request.owner,
            boot_id: sys::boot_id()
                .map_err(|e| AgentError::System("cannot read the boot id", e))?,
            created_ms: sys::now_ms(),
            asked: Default::default(),
            slices: vec![],
            why: vec![],
            edits: Default::default(),
            launcher: NO_LAUNCHER.into(),
            runtime: "-".into(),
            root: "-".into(),
            command: vec![],
            pid: None,
            container_id: None,
            exit: None,
        };
        let mut record = match self.take(
            intent,
            &request.resources,
            &Needs::default(),
            &inventory,
            failed,
        ) {
            Ok(record) => record,
            Err(error) => {
                folder.remove();
                return Err(error);
            }
        };
        let held = async {
            record.edits = self.prepare(&record, &inventory).await?;
            merge(&record.edits)?;
            record.state = State::Running;
            folder.save_record(&record)?;
            self.ledger.transact(|t| match t.get(&record.id) {
                Some(_) => {
                    t.put(record.clone());
                    Ok(())
                }
                // The ledger was rebuilt meanwhile, and what this holds may be
                // another's.
                None => Err(AgentError::IntentLost(record.name.clone())),
            })
        };
        match held.await {
            Ok(()) => Ok(record),
            Err(error) => Err(self.failed(&folder, record, error).await),
        }
    }

    /// Lets go of an allocation without a container.
    pub(super) async fn let_go(&self, record: &Record) -> Result<(), AgentError> {
        // Asked again if this process is killed before the next line: plugins
        // release what they do not know as well.
        settle::release(&self.plugins, record).await?;
        self.ledger.transact(|t| {
            t.remove(&record.id);
            Ok::<_, AgentError>(())
        })?;
        self.folder(&record.id).remove_held();
        Ok(())
    }
}

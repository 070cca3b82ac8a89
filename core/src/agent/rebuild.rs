//! A new ledger from the copies that the workloads carry.
//!
//! Every workload's folder has a copy of its record. Where a copy cannot be
//! read and the workload may run, nobody knows what it holds: then every device
//! that it might hold is closed, until it has ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Agent, AgentError, hold};
use crate::launch::{self, Folder};
use crate::ledger::{LedgerError, Renewal};
use crate::model::{Amount, Inventory, Record, Slice, State};
use crate::sys;

/// The slot of a slice of which nothing is known but that it may be. No plugin
/// can offer it: the names of slots have no parentheses.
const UNKNOWN: &str = "(unknown)";

/// What a rebuild found and made.
#[derive(Clone, Debug, Serialize)]
pub struct Rebuilt {
    /// The ledger was sound and was left alone.
    pub sound: bool,
    /// The ledger's records.
    pub records: Vec<Record>,
    /// Workload folders whose copy could not be read, and why.
    pub unreadable: Vec<String>,
    /// Those of them that may run: names under which every device that they
    /// might hold is closed.
    pub unknown: Vec<String>,
    /// Where the old ledger is now.
    pub set_aside: Option<PathBuf>,
}

/// Does nobody know what this workload holds?
#[must_use]
pub fn is_unknown(record: &Record) -> bool {
    record.holds() && record.slices.iter().any(|s| s.part.slot == UNKNOWN)
}

impl Agent {
    /// Sets a ledger that cannot be read aside and makes a new one from the
    /// copies that the workloads' folders carry, and, where a folder is lost,
    /// the engine's containers. A sound one is left alone.
    ///
    /// # Errors
    /// The state folder; a plugin that does not answer, if devices must be
    /// closed: nothing is changed then.
    pub async fn rebuild(&self) -> Result<Rebuilt, AgentError> {
        let state = &self.settings.state;
        let (mut unreadable, mut unknown) = (Vec::new(), Vec::new());
        let mut odd = Vec::new();
        if self.sound().is_err() {
            // They get their folders back, with a copy each.
            odd = self.told_by_engine(&Copies::of(state).records).await?;
        }
        let inventory = if Copies::of(state).lost.is_empty() {
            None
        } else {
            let (inventory, failed) = self.inventory().await;
            // Hardware that is not there has nothing that could be held.
            if let Some((_, error)) = failed.into_iter().find(|(_, e)| !e.is_absent()) {
                return Err(error.into());
            }
            Some(inventory)
        };
        let boot_id =
            sys::boot_id().map_err(|e| AgentError::System("cannot read the boot id", e))?;
        let renewal = self.ledger.renew(|| {
            let copies = Copies::of(state);
            let mut records = copies.records;
            unreadable = copies.unreadable;
            unreadable.append(&mut odd);
            for lost in copies.lost {
                let Some(inventory) = &inventory else {
                    let why = format!("the copy in {} broke just now; try again", lost.id);
                    return Err(AgentError::System("rebuilding", std::io::Error::other(why)));
                };
                let record = lost.record(inventory, &boot_id);
                unknown.push(record.name.clone());
                records.push(record);
            }
            records.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
            Ok(records)
        })?;
        Ok(match renewal {
            Renewal::Sound(records) => Rebuilt {
                sound: true,
                records,
                unreadable,
                unknown,
                set_aside: None,
            },
            Renewal::New { records, set_aside } => {
                // Whoever follows it reads there which process it is.
                for record in records.iter().filter(|r| is_unknown(r)) {
                    self.folder(&record.id).save_record(record)?;
                }
                Rebuilt {
                    sound: false,
                    records,
                    unreadable,
                    unknown,
                    set_aside,
                }
            }
        })
    }

    /// Rebuilds a ledger that was deleted or emptied, and no other: there is
    /// nothing left in it that a copy could contradict. One that is damaged is
    /// for a person to look at first. For whoever runs for long, at its start.
    ///
    /// # Errors
    /// As [`rebuild`](Self::rebuild); the ledger, for any other reason.
    pub async fn rebuild_if_lost(&self) -> Result<Option<Rebuilt>, AgentError> {
        match self.sound() {
            Ok(()) => Ok(None),
            Err(LedgerError::Lost(_)) => self.rebuild().await.map(Some),
            Err(other) => Err(other.into()),
        }
    }

    /// Can the file itself be read? What was read before does not count.
    fn sound(&self) -> Result<(), LedgerError> {
        self.ledger.transact(|_| Ok(()))
    }
}

/// The second copies of the ledger's records.
#[derive(Debug, Default)]
struct Copies {
    records: Vec<Record>,
    unreadable: Vec<String>,
    lost: Vec<Lost>,
}

/// A workload that may run, of which no copy can be read.
#[derive(Debug)]
struct Lost {
    id: String,
    pid: Option<u32>,
}

impl Copies {
    fn of(state: &Path) -> Self {
        let mut copies = Self::default();
        let entries = std::fs::read_dir(state.join("workloads"));
        for entry in entries.into_iter().flatten().filter_map(Result::ok) {
            let id = entry.file_name().to_string_lossy().into_owned();
            let folder = Folder::new(state, &id);
            let why = match folder.record() {
                Ok(record) if record.id == id => {
                    copies.records.push(record);
                    continue;
                }
                Ok(_) => "it carries another's record".to_owned(),
                Err(error) => error.to_string(),
            };
            let lives = launch::lives(&id);
            if !lives && !folder.has_record() {
                // Of a command that has not come so far, or never will: what it
                // writes to the ledger next is refused.
                continue;
            }
            copies.unreadable.push(format!("{id}: {why}"));
            if lives || matches!(folder.try_lock(), Ok(None)) {
                copies.lost.push(Lost {
                    pid: launch::first_process(&folder, &id),
                    id,
                });
            }
        }
        for (id, path) in hold::copies(state) {
            // Whole or not there: written by rename.
            let read = std::fs::read(&path).map_err(|e| e.to_string());
            let record =
                read.and_then(|b| serde_json::from_slice::<Record>(&b).map_err(|e| e.to_string()));
            match record {
                Ok(record) if record.id == id => copies.records.push(record),
                Ok(_) => copies
                    .unreadable
                    .push(format!("{id}: it carries another's record")),
                Err(why) => copies.unreadable.push(format!("{id}: {why}")),
            }
        }
        copies
    }
}

impl Lost {
    /// A record that closes every device.
    fn record(self, inventory: &Inventory, boot_id: &str) -> Record {
        let slices: Vec<Slice> = inventory
            .devices
            .iter()
            .map(|device| Slice {
                level: None,
                plugin: device.plugin.clone(),
                part: divvy_plugin::Slice {
                    slot: UNKNOWN.into(),
                    device: device.device.id.clone(),
                    amount: Amount::ZERO,
                    capacities: BTreeMap::new(),
                    start: None,
                },
            })
            .collect();
        let name: String = self.id.chars().take(6).collect();
        Record {
            name: format!("lost-{name}"),
            state: if self.pid.is_some() {
                State::Running
            } else {
                State::Preparing
            },
            remove_on_exit: false,
            owner: 0,
            boot_id: boot_id.into(),
            created_ms: sys::now_ms(),
            asked: BTreeMap::new(),
            why: vec!["its record was lost: it may be anywhere".into(); slices.len()],
            slices,
            edits: BTreeMap::new(),
            launcher: "oci".into(),
            runtime: UNKNOWN.into(),
            root: UNKNOWN.into(),
            command: vec![UNKNOWN.into()],
            pid: self.pid,
            container_id: None,
            exit: None,
            id: self.id,
        }
    }
}

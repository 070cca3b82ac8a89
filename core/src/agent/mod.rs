//! The workload state machine: ties inventory, allocation, ledger, plugins,
//! launcher and monitor together.
//!
//! # One request
//!
//! [`Agent::run`] follows it from top to bottom: lock a folder → decide and
//! write the intent, under the ledger's lock → plugins turn slices into edits
//! → the bundle is rendered → a monitor makes the container → it is proven →
//! the ledger says `running` → go. Whatever fails on the way is undone in
//! reverse. If this process dies on the way, the folder's lock falls free, and
//! the next `divvy` undoes it ([`Agent::recover`]).
//!
//! [`settle`] is the way back, walked by the monitor or, if that died, by
//! whoever finds the workload.
//!
//! # What fails how
//!
//! Every error has a stable [`code`](AgentError::code) and changes nothing.

mod decide;
mod documents;
mod engine;
mod error;
pub mod events;
mod foreign;
mod held;
mod hold;
mod incidents;
mod rebuild;
mod recover;
mod request;
mod run;
mod sample;
mod settle;
mod stop;
mod view;
mod watch;

pub use decide::Decision;
pub use documents::{Devices, FailedPlugin, Holding, OfferedSlot, PluginView, Plugins, Workloads};
pub use error::AgentError;
pub use hold::AllocateRequest;
pub use incidents::{Ended, IncidentView, Told};
pub use rebuild::{Rebuilt, is_unknown};
pub use request::{RootRequest, RunRequest};
pub use run::Started;
pub use sample::{
    DeviceSample, ForeignProcess, Measures, Sampled, SampledPlugin, Samples, WorkloadSample,
};
pub use settle::{leave, settle};
pub use view::{DeviceView, Usage, describe_inventory};
pub use watch::Watched;

use std::path::PathBuf;

use crate::failpoint::{Point, hit};
use crate::launch::Folder;
use crate::ledger::Ledger;
use crate::model::{Inventory, Record, State};
use crate::plugin::{CallError, Set};
use crate::{plugin, sys};

/// Where an agent keeps its things and finds its plugins.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The state folder.
    pub state: PathBuf,
    /// The `divvy` executable, which is started again as plugin host, monitor
    /// and OCI runtime.
    pub exe: PathBuf,
    /// The plugins.
    pub plugins: plugin::Settings,
    /// Where the agent of this state folder listens; never in a container.
    pub agent_socket: Option<PathBuf>,
    /// The container engine's socket; `None`: where engines usually listen.
    pub docker_socket: Option<PathBuf>,
    /// The folder of the simulated machine that the plugins see, if it is one.
    pub machine: Option<String>,
}

/// An agent: opens nothing until it is asked.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    ledger: Ledger,
    plugins: Set,
    watched: Option<Watched>,
    sampled: Sampled,
}

impl Agent {
    /// An agent with these settings. Finds the plugins; starts none.
    ///
    /// # Errors
    /// The plugin folder.
    pub fn open(settings: Settings) -> Result<Self, AgentError> {
        let plugins = Set::open(&settings.plugins)?;
        Ok(Self {
            ledger: Ledger::new(&settings.state),
            settings,
            plugins,
            watched: None,
            sampled: Sampled::default(),
        })
    }

    /// An agent that lives long and serves many: it shares commits, and knows
    /// the machine from the plugins' watch streams, once it
    /// [follows](Self::follow) them.
    ///
    /// # Errors
    /// The plugin folder.
    pub fn resident(settings: Settings, ledger: Ledger) -> Result<Self, AgentError> {
        let plugins = Set::open(&settings.plugins)?;
        Ok(Self {
            ledger,
            settings,
            plugins,
            watched: Some(Watched::default()),
            sampled: Sampled::default(),
        })
    }

    /// What it saw last, if it is resident.
    #[must_use]
    pub fn watched(&self) -> Option<&Watched> {
        self.watched.as_ref()
    }

    /// Follows the plugins' watch streams, and has them [measure](Self::measure) when
    /// somebody wants it, for as long as this is polled; `ready` is called once each of
    /// them has answered, or failed to.
    pub async fn follow(&self, ready: impl FnOnce()) {
        if let Some(watched) = &self.watched {
            tokio::join!(watched.follow(self, ready), self.measure());
        }
    }

    /// Its ledger.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Its plugins.
    #[must_use]
    pub fn plugins(&self) -> &Set {
        &self.plugins
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What there is, and which plugins could not say; of a resident agent
    /// what they said last.
    pub async fn inventory(&self) -> (Inventory, Vec<(String, CallError)>) {
        match &self.watched {
            Some(watched) => watched.inventory(),
            None => {
                // A ledger that cannot be read says nothing of who holds what.
                if sys::is_root()
                    && !self.plugins.is_told()
                    && let Ok(records) = self.ledger.shared_records()
                {
                    self.plugins.set_held(&records);
                }
                self.plugins.inventory().await
            }
        }
    }

    /// All workloads, oldest first, after bringing the ledger up to date with
    /// what became of them.
    ///
    /// # Errors
    /// The ledger.
    pub async fn workloads(&self) -> Result<Vec<Record>, AgentError> {
        if sys::is_root() {
            self.recover().await?;
        }
        Ok(self.ledger.records()?)
    }

    /// The workload of this name, or whose id begins so.
    ///
    /// # Errors
    /// There is none, or several.
    pub async fn find(&self, name: &str) -> Result<Record, AgentError> {
        pick(self.workloads().await?.iter(), name).cloned()
    }

    /// The folder of a workload.
    #[must_use]
    pub fn folder(&self, id: &str) -> Folder {
        Folder::new(&self.settings.state, id)
    }

    /// Does nobody carry this workload?
    #[must_use]
    pub fn is_abandoned(&self, record: &Record) -> bool {
        matches!(self.folder(&record.id).try_lock(), Ok(Some(_)))
    }

    /// Forgets a workload that has ended: its record, exit code and logs.
    ///
    /// # Errors
    /// It has not ended.
    pub async fn remove(&self, record: &Record) -> Result<(), AgentError> {
        self.ledger.transact(|t| match t.get(&record.id) {
            Some(r) if r.state == State::Releasing => Err(AgentError::NotReleased(r.name.clone())),
            Some(r) if r.state != State::Exited => Err(AgentError::StillThere(r.name.clone())),
            _ => {
                t.remove(&record.id);
                Ok(())
            }
        })?;
        hit(Point::RemoveForgotten);
        let folder = self.folder(&record.id);
        // An engine that was away when it ended may have it still.
        if record.container_id.is_some()
            && let Ok(container) = folder.container()
        {
            container.forget().await;
        }
        folder.remove();
        Ok(())
    }
}

/// The record of this name, or whose id begins so.
///
/// # Errors
/// There is none, or several.
pub fn pick<'a>(
    mut records: impl Iterator<Item = &'a Record> + Clone,
    name: &str,
) -> Result<&'a Record, AgentError> {
    let is_it = |r: &&Record| r.name == name || r.id == name;
    if let Some(record) = records.clone().find(is_it) {
        return Ok(record);
    }
    let begins = |r: &&Record| name.len() >= 3 && r.id.starts_with(name);
    let mut found = records.by_ref().filter(begins);
    match (found.next(), found.next()) {
        (Some(record), None) => Ok(record),
        (None, _) => Err(AgentError::NoSuchWorkload(name.to_owned())),
        _ => Err(AgentError::Ambiguous(name.to_owned())),
    }
}

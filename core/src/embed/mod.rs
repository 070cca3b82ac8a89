//! One door for programs, the command line among them.
//!
//! A [`Divvy`] is this machine's agent where one runs, else an agent of its
//! own in this process: the same calls, the same answers, on one ledger.
//!
//! ```no_run
//! use divvy::agent::RunRequest;
//! use divvy::model::Request;
//! use divvy::Divvy;
//!
//! # async fn example() -> Result<(), divvy::agent::AgentError> {
//! divvy::init(); // first thing in `main`
//! let divvy = Divvy::builder().build().await?;
//! let mut job = divvy
//!     .run(RunRequest {
//!         resources: Request::of(&[("cpu", "0.5")])?,
//!         command: vec!["true".into()],
//!         ..RunRequest::default()
//!     })
//!     .await?;
//! job.start().await?;
//! println!("{:?}", job.wait().await?);
//! # Ok(())
//! # }
//! ```

pub mod blocking;
mod builder;
mod machine;
mod workload;

pub use builder::{Builder, Socket, init};
pub(crate) use machine::{STATES, Simulated};
pub use workload::{Attachment, Workload};

use std::sync::Arc;
use std::time::Duration;

use crate::agent::events::Event;
use crate::agent::{
    Agent, AgentError, AllocateRequest, Decision, Devices, Plugins, RunRequest, Samples, Workloads,
};
use crate::api::{self, Client, Created, Ended, Removed, StopRequest, Version};
use crate::model::{Exit, Record, Request, State, check_workload_name};
use crate::monitor::{self, ExecRequest, Log};
use crate::sys;

/// This machine's Divvy.
#[derive(Clone, Debug)]
pub struct Divvy(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Here(Arc<Agent>),
    There(Client),
}

impl Divvy {
    /// How to reach it.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The agent in this process, unless another one is asked.
    #[must_use]
    pub fn agent(&self) -> Option<&Agent> {
        match &self.0 {
            Inner::Here(agent) => Some(agent),
            Inner::There(_) => None,
        }
    }

    /// Who answers, if it is an agent of its own.
    ///
    /// # Errors
    /// It does not.
    pub async fn version(&self) -> Result<Option<Version>, AgentError> {
        match &self.0 {
            Inner::Here(_) => Ok(None),
            Inner::There(client) => client.get("/v1/version").await.map(Some),
        }
    }

    /// What there is, and what is free of it.
    ///
    /// # Errors
    /// The ledger.
    pub async fn devices(&self) -> Result<Devices, AgentError> {
        match &self.0 {
            // Without root the ledger cannot be read: what is free is not known.
            Inner::Here(agent) if !sys::is_root() => Ok(agent.devices(None).await),
            Inner::Here(agent) => {
                let records = agent.workloads().await?;
                Ok(agent.devices(Some(&records)).await)
            }
            Inner::There(client) => client.get("/v1/devices").await,
        }
    }

    /// The plugins.
    ///
    /// # Errors
    /// The agent does not answer.
    pub async fn plugins(&self) -> Result<Plugins, AgentError> {
        match &self.0 {
            Inner::Here(agent) => Ok(agent.plugin_list().await),
            Inner::There(client) => client.get("/v1/plugins").await,
        }
    }

    /// What devices and workloads use. An agent answers at once, with what it knows; in
    /// this process each plugin measures for this, at most for its deadline, unless the
    /// program [measures](Self::measure) all the while.
    ///
    /// # Errors
    /// The ledger, or the agent does not answer.
    pub async fn samples(&self) -> Result<Samples, AgentError> {
        match &self.0 {
            Inner::Here(agent) if !sys::is_root() => Ok(agent.samples(None).await),
            Inner::Here(agent) => {
                let records = agent.workloads().await?;
                Ok(agent.samples(Some(&records)).await)
            }
            Inner::There(client) => client.get("/v1/samples").await,
        }
    }

    /// For programs that show [`samples`](Self::samples) over and over: as long as this is
    /// polled they are answered at once, with their age, whatever a plugin does. It
    /// returns never; an agent does it by itself.
    pub async fn measure(&self) {
        if let Inner::Here(agent) = &self.0 {
            agent.measure().await;
        }
        std::future::pending().await
    }

    /// Would this fit now, and where? Takes nothing.
    ///
    /// # Errors
    /// Why it would not.
    pub async fn fit(&self, request: &Request) -> Result<Decision, AgentError> {
        match &self.0 {
            Inner::Here(agent) => agent.fit(request).await,
            Inner::There(client) => client.post("/v1/fit", Some(request)).await,
        }
    }

    /// The workloads, oldest first: of an agent that serves others too, the
    /// caller's own.
    ///
    /// # Errors
    /// The ledger.
    pub async fn workloads(&self) -> Result<Vec<Record>, AgentError> {
        match &self.0 {
            Inner::Here(agent) => agent.workloads().await,
            Inner::There(client) => {
                let all: Workloads = client.get("/v1/workloads").await?;
                Ok(all.workloads)
            }
        }
    }

    /// The workload of this name, or whose id begins so.
    ///
    /// # Errors
    /// There is none, or several.
    pub async fn workload(&self, name: &str) -> Result<Record, AgentError> {
        match &self.0 {
            Inner::Here(agent) => agent.find(name).await,
            Inner::There(client) => client.get(&of(name, "")?).await,
        }
    }

    /// Allocates, makes and proves a workload, which then waits for its
    /// [`start`](Workload::start).
    ///
    /// # Errors
    /// Any; nothing is held then, and nothing runs.
    pub async fn run(&self, request: RunRequest) -> Result<Workload, AgentError> {
        match &self.0 {
            Inner::Here(agent) => {
                let started = agent.run(request).await?;
                Ok(Workload::here(Arc::clone(agent), started))
            }
            Inner::There(client) => {
                let created: Created = client.post("/v1/workloads", Some(&request)).await?;
                Ok(Workload::there(client.clone(), created))
            }
        }
    }

    /// Takes slices without starting anything, and without asking a plugin: for
    /// programs that start their jobs themselves. [`stop`](Self::stop) lets go of
    /// them.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub async fn allocate(&self, request: &AllocateRequest) -> Result<Record, AgentError> {
        match &self.0 {
            Inner::Here(agent) => agent.allocate(request).await,
            Inner::There(client) => client.post("/v1/allocations", Some(request)).await,
        }
    }

    /// Has the plugins make what an allocation needs. The record has the edits
    /// that give its slices to a process.
    ///
    /// # Errors
    /// There is none such, or a plugin's word; it is held as before then.
    pub async fn prepare(&self, name: &str) -> Result<Record, AgentError> {
        match &self.0 {
            Inner::Here(agent) => {
                let record = agent.find(name).await?;
                agent.prepare_held(&record.id).await
            }
            Inner::There(client) => {
                let path = of(name, "/prepare")?;
                client.post(&path, None::<&()>).await
            }
        }
    }

    /// Attaches to a workload: what it prints from now on, its input, its end.
    ///
    /// # Errors
    /// There is no such workload, or it does not run.
    pub async fn attach(&self, name: &str) -> Result<Attachment, AgentError> {
        match &self.0 {
            Inner::Here(agent) => {
                let record = agent.find(name).await?;
                monitor::attach(&agent.folder(&record.id))
                    .await
                    .map(Attachment::from)
                    .map_err(|_| AgentError::NotRunning(record.name))
            }
            Inner::There(client) => {
                let path = of(name, "/attach")?;
                client
                    .frames(&path, None::<&()>)
                    .await
                    .map(Attachment::from)
            }
        }
    }

    /// Runs another command in a workload: with its user, rights and variables.
    ///
    /// # Errors
    /// There is no such workload, it does not run, or the request is refused.
    pub async fn exec(&self, name: &str, request: ExecRequest) -> Result<Attachment, AgentError> {
        match &self.0 {
            Inner::Here(agent) => {
                let record = agent.find(name).await?;
                if record.state != State::Running {
                    return Err(AgentError::NotRunning(record.name));
                }
                let attached = monitor::exec(&agent.folder(&record.id), request).await?;
                Ok(Attachment::from(attached))
            }
            Inner::There(client) => {
                let attached = client.frames(&of(name, "/exec")?, Some(&request)).await?;
                Ok(Attachment::from(attached))
            }
        }
    }

    /// What a workload printed; with `follow` until it ends.
    ///
    /// # Errors
    /// There is no such workload, or its log cannot be read.
    pub async fn logs(&self, name: &str, follow: bool) -> Result<Lines, AgentError> {
        match &self.0 {
            Inner::Here(agent) => {
                let record = agent.find(name).await?;
                Log::open(agent.folder(&record.id), follow)
                    .map(Lines::Here)
                    .map_err(|e| AgentError::System("its log cannot be read", e))
            }
            Inner::There(client) => {
                let path = of(name, &format!("/logs?follow={follow}"))?;
                client.stream(&path).await.map(Lines::There)
            }
        }
    }

    /// Stops a workload: its stop signal, and SIGKILL after `grace`. Returns
    /// how it ended, unless it is forgotten.
    ///
    /// # Errors
    /// There is no such workload, or it cannot be stopped.
    pub async fn stop(&self, name: &str, grace: Duration) -> Result<Option<Exit>, AgentError> {
        match &self.0 {
            Inner::Here(agent) => agent.stop(&agent.find(name).await?, grace).await,
            Inner::There(client) => {
                let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                let path = of(name, "/stop")?;
                let ended: Ended = client.post(&path, Some(&StopRequest { grace_ms })).await?;
                Ok(ended.exit)
            }
        }
    }

    /// Waits for a workload's end and the release of its slices. Returns how
    /// it ended, unless it is forgotten.
    ///
    /// # Errors
    /// There is no such workload.
    pub async fn wait(&self, name: &str) -> Result<Option<Exit>, AgentError> {
        match &self.0 {
            Inner::Here(agent) => {
                let record = agent.find(name).await?;
                agent.wait(&record.id).await
            }
            Inner::There(client) => {
                let ended: Ended = client.get(&of(name, "/wait")?).await?;
                Ok(ended.exit)
            }
        }
    }

    /// Forgets a workload that has ended; with `force` ends it first. Returns
    /// its name.
    ///
    /// # Errors
    /// There is no such workload, or it has not ended.
    pub async fn remove(&self, name: &str, force: bool) -> Result<String, AgentError> {
        match &self.0 {
            Inner::Here(agent) => {
                let record = agent.find(name).await?;
                agent.forget(&record, force).await?;
                Ok(record.name)
            }
            Inner::There(client) => {
                let path = of(name, &format!("?force={force}"))?;
                let removed: Removed = client.delete(&path).await?;
                Ok(removed.removed)
            }
        }
    }

    /// What happens from now on, or after the event with this id; without
    /// `follow` only what is known to have happened.
    ///
    /// # Errors
    /// No agent runs: it is what sees them.
    pub async fn events(&self, after: Option<&str>, follow: bool) -> Result<Events, AgentError> {
        let Inner::There(client) = &self.0 else {
            return Err(AgentError::NeedsAgent("events"));
        };
        let path = match after {
            Some(id) => format!("/v1/events?follow={follow}&after={id}"),
            None => format!("/v1/events?follow={follow}"),
        };
        Ok(Events(client.stream(&path).await?))
    }
}

/// The path of an operation on a workload. What cannot be a name is none's, and
/// no part of a path.
fn of(name: &str, operation: &str) -> Result<String, AgentError> {
    match check_workload_name(name) {
        Ok(()) => Ok(format!("/v1/workloads/{name}{operation}")),
        Err(_) => Err(AgentError::NoSuchWorkload(name.to_owned())),
    }
}

/// What a workload printed, a JSON document a line ([`monitor::LogLine`]).
#[derive(Debug)]
pub enum Lines {
    /// From its log.
    #[doc(hidden)]
    Here(Log),
    /// From the agent.
    #[doc(hidden)]
    There(api::Body),
}

impl Lines {
    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn line(&mut self) -> std::io::Result<Option<String>> {
        match self {
            Self::Here(log) => log.line().await,
            Self::There(body) => body.line().await,
        }
    }
}

/// What happens.
#[derive(Debug)]
pub struct Events(api::Body);

impl Events {
    /// The next event with its id, with which [`Divvy::events`] goes on after
    /// it; `None` when the agent ends.
    ///
    /// # Errors
    /// The agent went away.
    pub async fn next(&mut self) -> std::io::Result<Option<(String, Event)>> {
        let mut id = String::new();
        while let Some(line) = self.0.line().await? {
            // Server-sent events: `id:` and `data:` lines, then an empty one.
            if let Some(value) = line.strip_prefix("id:") {
                id = value.trim().to_owned();
            } else if let Some(value) = line.strip_prefix("data:") {
                return Ok(Some((id, serde_json::from_str(value)?)));
            }
        }
        Ok(None)
    }
}

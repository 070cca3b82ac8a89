//! The same door for programs without an async runtime.

use std::time::Duration;

use super::{Builder, Divvy as Async, Workload as AsyncWorkload};
use crate::agent::{AgentError, Decision, Devices, RunRequest, Samples};
use crate::model::{Exit, Record, Request};
use crate::monitor::Event;

/// This machine's Divvy; each call returns when it is done.
#[derive(Debug)]
pub struct Divvy {
    inner: Async,
    runtime: std::sync::Arc<tokio::runtime::Runtime>,
}

/// A workload that this process asked for.
#[derive(Debug)]
pub struct Workload {
    inner: AsyncWorkload,
    runtime: std::sync::Arc<tokio::runtime::Runtime>,
}

impl Divvy {
    /// The agent that runs, else one in this process.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn build(builder: Builder) -> Result<Self, AgentError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| AgentError::System("cannot start", e))?;
        Ok(Self {
            inner: runtime.block_on(builder.build())?,
            runtime: std::sync::Arc::new(runtime),
        })
    }

    /// As [`divvy::Divvy::devices`](Async::devices).
    ///
    /// # Errors
    /// As there.
    pub fn devices(&self) -> Result<Devices, AgentError> {
        self.runtime.block_on(self.inner.devices())
    }

    /// As [`divvy::Divvy::samples`](Async::samples); in this process each call has the
    /// plugins measure.
    ///
    /// # Errors
    /// As there.
    pub fn samples(&self) -> Result<Samples, AgentError> {
        self.runtime.block_on(self.inner.samples())
    }

    /// As [`divvy::Divvy::fit`](Async::fit).
    ///
    /// # Errors
    /// As there.
    pub fn fit(&self, request: &Request) -> Result<Decision, AgentError> {
        self.runtime.block_on(self.inner.fit(request))
    }

    /// As [`divvy::Divvy::workloads`](Async::workloads).
    ///
    /// # Errors
    /// As there.
    pub fn workloads(&self) -> Result<Vec<Record>, AgentError> {
        self.runtime.block_on(self.inner.workloads())
    }

    /// As [`divvy::Divvy::run`](Async::run).
    ///
    /// # Errors
    /// As there.
    pub fn run(&self, request: RunRequest) -> Result<Workload, AgentError> {
        Ok(Workload {
            inner: self.runtime.block_on(self.inner.run(request))?,
            runtime: std::sync::Arc::clone(&self.runtime),
        })
    }

    /// As [`divvy::Divvy::stop`](Async::stop).
    ///
    /// # Errors
    /// As there.
    pub fn stop(&self, name: &str, grace: Duration) -> Result<Option<Exit>, AgentError> {
        self.runtime.block_on(self.inner.stop(name, grace))
    }

    /// As [`divvy::Divvy::remove`](Async::remove).
    ///
    /// # Errors
    /// As there.
    pub fn remove(&self, name: &str, force: bool) -> Result<String, AgentError> {
        self.runtime.block_on(self.inner.remove(name, force))
    }
}

impl Workload {
    /// What the ledger says of it.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.inner.record()
    }

    /// Lets it run; `output` is given all that it prints. Returns how it
    /// ended, unless it was to be forgotten and is.
    ///
    /// # Errors
    /// It could not be started, or its monitor went away.
    pub fn run(&mut self, mut output: impl FnMut(&[u8])) -> Result<Option<Exit>, AgentError> {
        self.runtime.block_on(async {
            let mut attachment = self.inner.attach().await?;
            self.inner.start().await?;
            loop {
                let next = attachment.next().await;
                match next.map_err(|e| AgentError::System("its monitor cannot be reached", e))? {
                    Some(Event::Stdout(data) | Event::Stderr(data)) => output(&data),
                    Some(Event::Exit(exit)) => return Ok(Some(*exit)),
                    Some(Event::Joined | Event::Refused { .. }) => {}
                    None => return self.inner.wait().await,
                }
            }
        })
    }

    /// Lets it run, in the background.
    ///
    /// # Errors
    /// It could not be started; nothing is held then.
    pub fn start(&mut self) -> Result<(), AgentError> {
        self.runtime.block_on(self.inner.start())
    }

    /// Waits for its end. Returns how it ended, unless it was to be forgotten
    /// and is.
    ///
    /// # Errors
    /// The agent or the ledger.
    pub fn wait(&self) -> Result<Option<Exit>, AgentError> {
        self.runtime.block_on(self.inner.wait())
    }
}

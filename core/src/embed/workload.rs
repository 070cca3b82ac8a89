//! A workload that this process asked for, and being attached to one.

use std::io;
use std::sync::Arc;

use crate::agent::{Agent, AgentError, Started};
use crate::api::{Client, Created, Ended};
use crate::model::{Exit, Record};
use crate::monitor::{self, Attached, Event, Signalled};

/// A workload that this process asked for. It outlives this value, once it is
/// started; one that is dropped before is undone.
#[derive(Debug)]
pub struct Workload {
    record: Record,
    notes: Vec<String>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Here(Arc<Agent>, Box<Started>),
    There(Client),
}

impl Workload {
    pub(super) fn here(agent: Arc<Agent>, started: Started) -> Self {
        Self {
            record: started.record.clone(),
            notes: started.notes.clone(),
            way: Way::Here(agent, Box::new(started)),
        }
    }

    pub(super) fn there(client: Client, created: Created) -> Self {
        Self {
            record: created.workload,
            notes: created.notes,
            way: Way::There(client),
        }
    }

    /// What the ledger says of it.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Things to tell the user.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Attaches to it. Before [`start`](Self::start), so that nothing is
    /// missed.
    ///
    /// # Errors
    /// It has ended.
    pub async fn attach(&self) -> Result<Attachment, AgentError> {
        match &self.way {
            Way::Here(_, started) => monitor::attach(&started.folder)
                .await
                .map(Attachment::from)
                .map_err(|e| AgentError::System("its monitor cannot be reached", e)),
            Way::There(client) => {
                let path = format!("/v1/workloads/{}/attach", self.record.id);
                client
                    .frames(&path, None::<&()>)
                    .await
                    .map(Attachment::from)
            }
        }
    }

    /// Lets it run.
    ///
    /// # Errors
    /// It could not be started; nothing is held then.
    pub async fn start(&mut self) -> Result<(), AgentError> {
        match &mut self.way {
            Way::Here(_, started) => started.go().await,
            Way::There(client) => {
                let path = format!("/v1/workloads/{}/start", self.record.id);
                self.record = client.post(&path, None::<&()>).await?;
                Ok(())
            }
        }
    }

    /// Waits for its end and the release of its slices. Returns how it ended,
    /// unless it was to be forgotten and is.
    ///
    /// # Errors
    /// The agent or the ledger.
    pub async fn wait(&self) -> Result<Option<Exit>, AgentError> {
        match &self.way {
            Way::Here(agent, _) => agent.wait(&self.record.id).await,
            Way::There(client) => {
                let path = format!("/v1/workloads/{}/wait", self.record.id);
                let ended: Ended = client.get(&path).await?;
                Ok(ended.exit)
            }
        }
    }
}

/// Being attached to a workload.
#[derive(Debug)]
pub struct Attachment {
    events: Attached,
    input: Signalled,
}

impl From<(Attached, Signalled)> for Attachment {
    fn from((events, input): (Attached, Signalled)) -> Self {
        Self { events, input }
    }
}

impl Attachment {
    /// What happens next: output, or the end; `None` if its monitor went away.
    ///
    /// # Errors
    /// The connection's.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        self.events.next().await
    }

    /// Sends it input.
    ///
    /// # Errors
    /// The connection's.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.input.data(data).await
    }

    /// The two sides, for two tasks.
    #[must_use]
    pub fn split(self) -> (Attached, Signalled) {
        (self.events, self.input)
    }
}

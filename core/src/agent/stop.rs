//! The end of a workload, asked for or waited for.

use std::time::Duration;

use super::hold::NO_LAUNCHER;
use super::{Agent, AgentError};
use crate::model::{Exit, Record, State};
use crate::monitor::{self, Event};

/// How often is looked whether a workload without a monitor has another.
const LOOK: Duration = Duration::from_millis(100);

impl Agent {
    /// Stops a workload: its stop signal, and SIGKILL after `grace`. One that
    /// has ended is a success. Returns how it ended, unless it is forgotten.
    ///
    /// # Errors
    /// Its slices are not free yet, or its monitor cannot be reached.
    pub async fn stop(&self, record: &Record, grace: Duration) -> Result<Option<Exit>, AgentError> {
        if record.state == State::Exited {
            return Ok(record.exit.clone());
        }
        if record.launcher == NO_LAUNCHER {
            return self.let_go(record).await.map(|()| None);
        }
        if let Ok(exit) = monitor::stop(&self.folder(&record.id), grace).await {
            return Ok(Some(exit));
        }
        // It ended, or lost its monitor, in this very moment.
        match self.find(&record.id).await {
            Err(AgentError::NoSuchWorkload(_)) => Ok(None),
            Err(error) => Err(error),
            Ok(now) if now.state == State::Exited => Ok(now.exit),
            Ok(now) if now.state != State::Running && self.is_abandoned(&now) => {
                Err(AgentError::NotReleased(now.name))
            }
            Ok(now) => {
                let exit = monitor::stop(&self.folder(&now.id), grace).await;
                exit.map(Some)
                    .map_err(|e| AgentError::System("its monitor cannot be reached", e))
            }
        }
    }

    /// Waits for the end of a workload and the release of its slices. Returns
    /// how it ended, unless it is forgotten.
    ///
    /// # Errors
    /// The ledger.
    pub async fn wait(&self, id: &str) -> Result<Option<Exit>, AgentError> {
        loop {
            let record = match self.find(id).await {
                Err(AgentError::NoSuchWorkload(_)) => return Ok(None),
                other => other?,
            };
            if record.state == State::Exited {
                return Ok(record.exit);
            }
            let Ok((mut events, _input)) = monitor::attach(&self.folder(id)).await else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            while let Ok(Some(event)) = events.next().await {
                if let Event::Exit(exit) = event {
                    return Ok(Some(*exit));
                }
            }
        }
    }
}

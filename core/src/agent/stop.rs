//! The end of a workload, asked for or waited for.

use std::time::{Duration, Instant};

use super::{Agent, AgentError};
use crate::failpoint::{Point, hit};
use crate::model::{Exit, Record, State};
use crate::monitor;

/// How often is looked whether a workload without a monitor has another.
const LOOK: Duration = Duration::from_millis(100);

/// How long a monitor that has just been started may take to listen.
const MONITOR: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

impl Agent {
    /// Stops a workload: its stop signal, and SIGKILL after `grace`. One that
    /// has ended is a success. Returns how it ended, unless it is forgotten.
    ///
    /// # Errors
    /// Its slices are not free yet, or its monitor cannot be reached.
    pub async fn stop(&self, record: &Record, grace: Duration) -> Result<Option<Exit>, AgentError> {
        if !record.has_container() && record.holds() {
            return self.let_go(record).await.map(|()| None);
        }
        let mut now = record.clone();
        let mut patience = Instant::now() + MONITOR;
        loop {
            if now.state == State::Exited {
                return Ok(now.exit);
            }
            hit(Point::StopFound);
            let began = Instant::now();
            let error = match monitor::stop(&self.folder(&now.id), grace).await {
                Ok(exit) => {
                    hit(Point::StopEnded);
                    return Ok(Some(exit));
                }
                Err(error) => error,
            };
            if began.elapsed() > PAUSE {
                // That one listened, and was killed while it waited for the end.
                patience = Instant::now() + MONITOR;
            }
            // It ended in this very moment; or its monitor did, and another that
            // follows it does not listen yet.
            now = match self.find(&now.id).await {
                Err(AgentError::NoSuchWorkload(_)) => return Ok(None),
                found => found?,
            };
            let carried = !self.is_abandoned(&now);
            match now.state {
                State::Exited => {}
                State::Running if Instant::now() < patience => tokio::time::sleep(PAUSE).await,
                State::Preparing | State::Releasing if carried && Instant::now() < patience => {
                    tokio::time::sleep(PAUSE).await;
                }
                State::Preparing | State::Releasing if !carried => {
                    return Err(AgentError::NotReleased(now.name));
                }
                _ => return Err(AgentError::System("its monitor cannot be reached", error)),
            }
        }
    }

    /// Forgets a workload that has ended; with `force`, ends it first.
    ///
    /// # Errors
    /// It has not ended, or does not.
    pub async fn forget(&self, record: &Record, force: bool) -> Result<(), AgentError> {
        let mut record = record.clone();
        if force {
            self.stop(&record, Duration::ZERO).await?;
            if !record.has_container() {
                return Ok(());
            }
            record = match self.find(&record.id).await {
                // It was to be forgotten when it ended.
                Err(AgentError::NoSuchWorkload(_)) => return Ok(()),
                other => other?,
            };
        }
        self.remove(&record).await
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
            if let Ok(exit) = monitor::wait(&self.folder(id)).await {
                return Ok(Some(exit));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

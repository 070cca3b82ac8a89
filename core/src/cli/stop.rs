//! `divvy stop`.

use serde_json::json;

use super::args::{Global, Stop};
use super::output::{Failure, print_json};
use super::{agent, need_root};
use crate::agent::{Agent, AgentError};
use crate::failpoint::{Point, hit};
use crate::model::{Exit, Record, State};
use crate::monitor;

pub(super) async fn run(global: &Global, args: &Stop) -> Result<u8, Failure> {
    need_root("stop")?;
    let agent = agent(global)?;
    let mut stopped = Vec::new();
    for name in &args.names {
        let record = agent.find(name).await?;
        let exit = stop(&agent, &record, args.grace()).await?;
        if !global.json {
            say!("{}", record.name);
        }
        stopped.push(json!({ "name": record.name, "exit": exit }));
    }
    if global.json {
        print_json(&json!({ "stopped": stopped }));
    }
    Ok(0)
}

/// Stops a workload; one that has ended is a success.
pub(super) async fn stop(
    agent: &Agent,
    record: &Record,
    grace: std::time::Duration,
) -> Result<Option<Exit>, AgentError> {
    if record.state == State::Exited {
        return Ok(record.exit.clone());
    }
    hit(Point::StopFound);
    let stopped = monitor::stop(&agent.folder(&record.id), grace).await;
    hit(Point::StopEnded);
    match stopped {
        Ok(exit) => Ok(Some(exit)),
        // It ended, or lost its monitor, in this very moment.
        Err(_) => match agent.find(&record.id).await {
            Err(AgentError::NoSuchWorkload(_)) => Ok(None),
            Err(error) => Err(error),
            Ok(now) if now.state == State::Exited => Ok(now.exit),
            Ok(now) if now.state != State::Running && agent.is_abandoned(&now) => {
                Err(AgentError::NotReleased(now.name))
            }
            Ok(now) => {
                let exit = monitor::stop(&agent.folder(&now.id), grace).await;
                exit.map(Some)
                    .map_err(|e| AgentError::System("its monitor cannot be reached", e))
            }
        },
    }
}

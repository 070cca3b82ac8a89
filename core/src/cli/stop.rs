//! `divvy stop`.

use std::time::{Duration, Instant};

use serde_json::json;

use super::args::{Global, Stop};
use super::output::{Failure, print_json};
use super::{agent, need_root};
use crate::agent::{Agent, AgentError};
use crate::failpoint::{Point, hit};
use crate::model::{Exit, Record, State};
use crate::monitor;

/// How long a monitor that has just been started may take to listen.
const MONITOR: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

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
    grace: Duration,
) -> Result<Option<Exit>, AgentError> {
    let mut now = record.clone();
    let mut patience = Instant::now() + MONITOR;
    loop {
        if now.state == State::Exited {
            return Ok(now.exit);
        }
        hit(Point::StopFound);
        let began = Instant::now();
        let error = match monitor::stop(&agent.folder(&now.id), grace).await {
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
        now = match agent.find(&now.id).await {
            Err(AgentError::NoSuchWorkload(_)) => return Ok(None),
            found => found?,
        };
        let carried = !agent.is_abandoned(&now);
        match now.state {
            State::Exited => {}
            State::Running if Instant::now() < patience => {
                tokio::time::sleep(PAUSE).await;
            }
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

//! `divvy rm`.

use std::time::Duration;

use serde_json::json;

use super::args::{Global, Rm};
use super::output::{Failure, print_json};
use super::{agent, need_root, stop};
use crate::agent::AgentError;

pub(super) async fn run(global: &Global, args: &Rm) -> Result<u8, Failure> {
    need_root("rm")?;
    let agent = agent(global)?;
    for name in &args.names {
        let mut record = agent.find(name).await?;
        if args.force {
            stop::stop(&agent, &record, Duration::ZERO).await?;
            record = match agent.find(&record.id).await {
                // It was to be forgotten when it ended.
                Err(AgentError::NoSuchWorkload(_)) => record,
                other => other?,
            };
        }
        agent.remove(&record).await?;
        if !global.json {
            say!("{}", record.name);
        }
    }
    if global.json {
        print_json(&json!({ "removed": args.names }));
    }
    Ok(0)
}

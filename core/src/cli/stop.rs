//! `divvy stop`.

use serde_json::json;

use super::args::{Global, Stop};
use super::divvy;
use super::output::{Failure, each_had_its_turn, print_json};
use crate::agent::AgentError;
use crate::embed::Divvy;
use crate::model::Exit;

pub(super) async fn run(global: &Global, args: &Stop) -> Result<u8, Failure> {
    let divvy = divvy(global, "stop").await?;
    let mut stopped = Vec::new();
    let mut failed = Vec::new();
    for name in &args.names {
        match one(&divvy, name, args).await {
            Ok((name, exit)) => {
                if !global.json {
                    say!("{name}");
                }
                stopped.push(json!({ "name": name, "exit": exit }));
            }
            Err(error) => failed.push(error.into()),
        }
    }
    if global.json {
        print_json(&json!({ "stopped": stopped }));
    }
    each_had_its_turn(failed, global.json)
}

async fn one(divvy: &Divvy, name: &str, args: &Stop) -> Result<(String, Option<Exit>), AgentError> {
    let record = divvy.workload(name).await?;
    let exit = divvy.stop(&record.id, args.grace()).await?;
    Ok((record.name, exit))
}

//! `divvy stop`.

use serde_json::json;

use super::args::{Global, Stop};
use super::divvy;
use super::output::{Failure, print_json};

pub(super) async fn run(global: &Global, args: &Stop) -> Result<u8, Failure> {
    let divvy = divvy(global, "stop").await?;
    let mut stopped = Vec::new();
    for name in &args.names {
        let record = divvy.workload(name).await?;
        let exit = divvy.stop(&record.id, args.grace()).await?;
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

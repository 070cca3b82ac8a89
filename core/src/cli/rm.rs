//! `divvy rm`.

use serde_json::json;

use super::args::{Global, Rm};
use super::divvy;
use super::output::{Failure, each_had_its_turn, print_json};

pub(super) async fn run(global: &Global, args: &Rm) -> Result<u8, Failure> {
    let divvy = divvy(global, "rm").await?;
    let mut removed = Vec::new();
    let mut failed = Vec::new();
    for name in &args.names {
        match divvy.remove(name, args.force).await {
            Ok(name) => {
                if !global.json {
                    say!("{name}");
                }
                removed.push(name);
            }
            Err(error) => failed.push(error.into()),
        }
    }
    if global.json {
        print_json(&json!({ "removed": removed }));
    }
    each_had_its_turn(failed, global.json)
}

//! `divvy rm`.

use serde_json::json;

use super::args::{Global, Rm};
use super::divvy;
use super::output::{Failure, print_json};

pub(super) async fn run(global: &Global, args: &Rm) -> Result<u8, Failure> {
    let divvy = divvy(global, "rm").await?;
    for name in &args.names {
        let removed = divvy.remove(name, args.force).await?;
        if !global.json {
            say!("{removed}");
        }
    }
    if global.json {
        print_json(&json!({ "removed": args.names }));
    }
    Ok(0)
}

//! `divvy logs`.

use std::io::Write;

use super::args::{Global, Logs};
use super::divvy;
use super::output::Failure;
use crate::agent::AgentError;
use crate::monitor::LogLine;

pub(super) async fn run(global: &Global, args: &Logs) -> Result<u8, Failure> {
    let divvy = divvy(global, "logs").await?;
    let mut log = divvy.logs(&args.name, args.follow).await?;
    let unreadable = |e| AgentError::System("its log cannot be read", e);
    while let Some(text) = log.line().await.map_err(unreadable)? {
        let Ok(line) = serde_json::from_str::<LogLine>(&text) else {
            continue;
        };
        let out: &mut dyn Write = if line.s == "err" {
            &mut std::io::stderr()
        } else {
            &mut std::io::stdout()
        };
        if args.timestamps {
            let _ = write!(out, "{} ", line.t);
        }
        let _ = out.write_all(&line.bytes()).and_then(|()| out.flush());
    }
    Ok(0)
}

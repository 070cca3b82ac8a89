//! `divvy logs`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use serde::Deserialize;

use super::args::{Global, Logs};
use super::output::Failure;
use super::{agent, need_root};
use crate::agent::AgentError;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A line of the log; see `monitor::hub`.
#[derive(Deserialize)]
struct Line {
    t: u64,
    s: String,
    m: Option<String>,
    b: Option<String>,
}

pub(super) async fn run(global: &Global, args: &Logs) -> Result<u8, Failure> {
    need_root("logs")?;
    let agent = agent(global)?;
    let record = agent.find(&args.name).await?;
    let folder = agent.folder(&record.id);
    // The older generation first, if there is one.
    if let Ok(older) = File::open(folder.log().with_extension("jsonl.1")) {
        show(&mut BufReader::new(older), args.timestamps);
    }
    let mut log = match File::open(folder.log()) {
        Ok(log) => BufReader::new(log),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !args.follow => return Ok(0),
        Err(e) => return Err(AgentError::System("its log cannot be read", e).into()),
    };
    loop {
        // Looked up before the log is read: what it printed last is not missed.
        let over = !args.follow || folder.try_lock().map_or(true, |lock| lock.is_some());
        show(&mut log, args.timestamps);
        if over {
            return Ok(0);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn show(log: &mut impl BufRead, timestamps: bool) {
    let mut text = String::new();
    while let Ok(1..) = log.read_line(&mut text) {
        if let Ok(line) = serde_json::from_str::<Line>(&text) {
            let bytes = line
                .m
                .map(String::into_bytes)
                .or_else(|| unhex(&line.b?))
                .unwrap_or_default();
            let out: &mut dyn Write = if line.s == "err" {
                &mut std::io::stderr()
            } else {
                &mut std::io::stdout()
            };
            if timestamps {
                let _ = write!(out, "{} ", line.t);
            }
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
        }
        text.clear();
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

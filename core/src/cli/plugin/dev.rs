//! `divvy plugin dev`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{check, open, subject};
use crate::cli::args::{self, Global};
use crate::cli::output::{Failure, print_json, printable};
use crate::plugin::OpenError;
use crate::plugin::dev::{self, Line};

/// How often the file is looked at.
const GLANCE: Duration = Duration::from_millis(300);

pub(super) async fn run(global: &Global, args: &args::Dev) -> Result<u8, Failure> {
    loop {
        let seen = changed_at(&args.file);
        let code = once(global, &args.file).await;
        if !args.watch {
            return code;
        }
        if let Err(failure) = code {
            failure.print(global.json);
        }
        tell!("divvy: waiting for {} to change", args.file.display());
        // A file that is being written changes until it is whole.
        while changed_at(&args.file) == seen || changed_at(&args.file).is_none() {
            tokio::time::sleep(GLANCE).await;
        }
        tokio::time::sleep(GLANCE).await;
    }
}

fn changed_at(file: &Path) -> Option<SystemTime> {
    file.metadata().ok()?.modified().ok()
}

async fn once(global: &Global, file: &Path) -> Result<u8, Failure> {
    let file = open(file)?.map_err(OpenError::from)?;
    let mut lines = Vec::new();
    let well = dev::run(subject(global, file)?, &mut |line| {
        if global.json {
            lines.push(line);
        } else {
            show(&line);
        }
    })
    .await;
    if global.json {
        print_json(&lines);
    }
    Ok(u8::from(!well))
}

fn show(line: &Line) {
    match line {
        Line::Step(title) => say!("\n{title}"),
        Line::Call(call) => say!("  call   {}", check::line(call)),
        Line::Agent(text) => say!("  agent  {}", printable(text)),
        Line::Well(text) => say!("  ok     {}", printable(text)),
        Line::Wrong(text) => say!("  WRONG  {}", printable(text)),
    }
}

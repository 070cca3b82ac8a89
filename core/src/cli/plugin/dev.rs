//! `divvy plugin dev`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{INTERRUPTED, check, open, subject};
use crate::cli::args::{self, Global};
use crate::cli::output::{Failure, print_json, printable};
use crate::plugin::OpenError;
use crate::plugin::check::Interrupts;
use crate::plugin::dev::{self, Line};

/// How often the file is looked at.
const GLANCE: Duration = Duration::from_millis(300);

pub(super) async fn run(global: &Global, args: &args::Dev) -> Result<u8, Failure> {
    let mut interrupts = super::interrupts()?;
    loop {
        let seen = changed_at(&args.file);
        let code = once(global, &args.file, &mut interrupts).await;
        match code {
            code if !args.watch => return code,
            Ok(INTERRUPTED) => return Ok(INTERRUPTED),
            Err(failure) => failure.print(global.json),
            Ok(_) => {}
        }
        tell!("divvy: waiting for {} to change", args.file.display());
        let changed = interrupts.until(change(&args.file, seen)).await;
        if changed.is_none() {
            return Ok(INTERRUPTED);
        }
    }
}

async fn change(file: &Path, since: Option<SystemTime>) {
    while changed_at(file) == since || changed_at(file).is_none() {
        tokio::time::sleep(GLANCE).await;
    }
    // A file that is being written changes until it is whole.
    tokio::time::sleep(GLANCE).await;
}

fn changed_at(file: &Path) -> Option<SystemTime> {
    file.metadata().ok()?.modified().ok()
}

async fn once(global: &Global, file: &Path, interrupts: &mut Interrupts) -> Result<u8, Failure> {
    let file = open(file)?.map_err(OpenError::from)?;
    let mut lines = Vec::new();
    let mut sink = |line| {
        if global.json {
            lines.push(line);
        } else {
            show(&line);
        }
    };
    let well = dev::run(subject(global, file)?, &mut sink, interrupts).await;
    if global.json {
        print_json(&lines);
    }
    Ok(well.map_or_else(super::interrupted, |well| u8::from(!well)))
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

//! `divvy exec`.

use super::args::{Exec, Global};
use super::divvy;
use super::follow::{End, follow};
use super::output::Failure;
use super::terminal::{RawTerminal, Signals, Terminal};
use crate::agent::AgentError;
use crate::monitor::ExecRequest;

pub(super) async fn run(global: &Global, args: Exec) -> Result<u8, Failure> {
    if args.tty && !Terminal::is_there() {
        return Err(Failure::words(
            "no_terminal",
            "-t needs a terminal on standard input and output".into(),
        ));
    }
    let mut env = Vec::new();
    for text in args.env {
        match text.split_once('=') {
            Some((name, value)) => env.push((name.to_owned(), value.to_owned())),
            None => return Err(AgentError::Env(text).into()),
        }
    }
    let request = ExecRequest {
        command: args.command,
        env,
        workdir: args.workdir,
        tty: args.tty,
    };
    let divvy = divvy(global, "exec").await?;
    let (events, input) = divvy.exec(&args.name, request).await?.split();
    let signals = Signals::new()?;
    let raw = if args.tty {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    let end = follow(events, input, signals, true, raw.is_some()).await;
    drop(raw);
    match end {
        End::Exit(exit) => Ok(exit.code.unwrap_or(super::FAILED)),
        End::Refused(fault) => Err(AgentError::Remote(fault).into()),
        End::Gone => Err(AgentError::NotRunning(args.name).into()),
    }
}

//! `divvy exec`.

use super::args::{Exec, Global};
use super::follow::{End, follow};
use super::output::Failure;
use super::terminal::{RawTerminal, Terminal};
use super::{agent, need_root};
use crate::agent::AgentError;
use crate::model::State;
use crate::monitor::{ExecError, ExecRequest, exec};

pub(super) async fn run(global: &Global, args: Exec) -> Result<u8, Failure> {
    need_root("exec")?;
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
    let agent = agent(global)?;
    let record = agent.find(&args.name).await?;
    if record.state != State::Running {
        return Err(AgentError::NotRunning(record.name).into());
    }
    let request = ExecRequest {
        command: args.command,
        env,
        workdir: args.workdir,
        tty: args.tty,
    };
    let (events, input) = match exec(&agent.folder(&record.id), request).await {
        Ok(attached) => attached,
        Err(ExecError::Refused { code, message }) => {
            return Err(Failure::Remote { code, message });
        }
        Err(ExecError::Unreachable(error)) => {
            return Err(AgentError::System("its monitor cannot be reached", error).into());
        }
    };
    let raw = if args.tty {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    let end = follow(events, input, true, raw.is_some()).await;
    drop(raw);
    match end {
        End::Exit(exit) => Ok(exit.code.unwrap_or(super::FAILED)),
        End::Refused { code, message } => Err(Failure::Remote { code, message }),
        End::Gone => Err(AgentError::NotRunning(record.name).into()),
    }
}

//! The command line: one file a verb.
//!
//! Results go to stdout, as tables for people or with `--json` for programs;
//! everything else goes to stderr. Exit codes:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | the command's own | `run` and `exec` |
//! | 1 | a verb found something wrong: `doctor`, `state check`, `plugin check` |
//! | 2 | words that cannot be read |
//! | 125 | Divvy failed |
//! | 126, 127 | the command cannot be executed, was not found (as Docker's) |
//! | 128 + n | it was ended by signal n |

/// Prints a line; a reader who has gone is no reason to panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// As `say!`, on stderr.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod agent;
mod args;
mod ask;
mod completions;
mod describe;
mod devices;
mod doctor;
mod events;
mod exec;
mod fit;
mod follow;
mod logs;
mod output;
mod plugin;
mod ps;
mod pull;
mod rm;
mod run;
mod simulate;
mod state;
mod stop;
mod terminal;
mod top;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use crate::agent::{Agent, AgentError};
use crate::embed::Divvy;
use crate::sys;
use args::{Args, Verb};
use output::Failure;

/// Our own failures.
const FAILED: u8 = 125;

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // clap's own words and codes: 0 for --help, 2 for a mistake.
            if error.use_stderr() && std::env::args_os().any(|word| word == "--json") {
                let words = error.to_string();
                let first = words.lines().next().unwrap_or_default();
                let message = first.trim_start_matches("error: ").to_owned();
                Failure::words("invalid_words", message).print(true);
            } else {
                let _ = error.print();
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log(args.global.verbose);
    // What our parent left open stays with us (S6).
    if let Err(error) = sys::inherit_nothing() {
        tell!("divvy: /proc cannot be read: {error}");
        return ExitCode::from(FAILED);
    }
    let json = args.global.json;
    if let Err(failure) = say_machine(&args.global) {
        failure.print(json);
        return ExitCode::from(failure.exit_code());
    }
    if let Verb::Agent(verb) = &args.verb {
        return match agent::run(&args.global, verb) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                failure.print(json);
                ExitCode::from(failure.exit_code())
            }
        };
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(args)),
        Err(error) => Err(AgentError::System("cannot start", error).into()),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(json);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// That nothing of what follows is real.
fn say_machine(global: &args::Global) -> Result<(), Failure> {
    if let Some(machine) = global.simulated()?
        && !global.json
    {
        tell!(
            "divvy: simulated machine {}: {}",
            machine.name,
            machine.summary
        );
        if let Some(closed) = machine.closed() {
            tell!("divvy: {closed}");
        }
    }
    Ok(())
}

async fn dispatch(args: Args) -> Result<u8, Failure> {
    let global = &args.global;
    match args.verb {
        // Has a runtime of its own.
        Verb::Agent(_) => Ok(0),
        Verb::Events(verb) => events::run(global, &verb).await,
        Verb::Completions(verb) => completions::run(&verb),
        Verb::State(verb) => state::run(global, &verb).await,
        Verb::Doctor => doctor::run(global).await,
        Verb::Run(verb) => run::run(global, *verb).await,
        Verb::Fit(verb) => fit::run(global, &verb).await,
        Verb::Simulate(verb) => simulate::run(&verb),
        Verb::Devices => devices::run(global).await,
        Verb::Top(verb) => top::run(global, &verb).await,
        Verb::Ps(verb) => ps::run(global, &verb).await,
        Verb::Describe(verb) => describe::run(global, &verb).await,
        Verb::Logs(verb) => logs::run(global, &verb).await,
        Verb::Exec(verb) => exec::run(global, verb).await,
        Verb::Stop(verb) => stop::run(global, &verb).await,
        Verb::Rm(verb) => rm::run(global, &verb).await,
        Verb::Plugin(verb) => plugin::run(global, &verb).await,
    }
}

/// An agent in this process, for this call.
fn agent(global: &args::Global) -> Result<Agent, Failure> {
    Ok(Agent::open(global.settings()?)?)
}

/// The agent that runs, else one in this process; that one needs root, and
/// says so for `verb`.
async fn divvy(global: &args::Global, verb: &'static str) -> Result<Divvy, Failure> {
    let divvy = open(global).await?;
    if divvy.agent().is_some() {
        need_root(verb)?;
    }
    Ok(divvy)
}

/// As [`divvy`], for what everybody may see.
async fn open(global: &args::Global) -> Result<Divvy, Failure> {
    Ok(global.builder()?.build().await?)
}

/// Verbs that touch containers or the ledger need root, and say so first.
fn need_root(verb: &'static str) -> Result<(), AgentError> {
    if sys::is_root() {
        Ok(())
    } else {
        Err(AgentError::NeedsRoot(verb))
    }
}

/// Warnings by default; more with `--verbose`, or what `DIVVY_LOG` says.
fn log(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let default = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("DIVVY_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .try_init();
}

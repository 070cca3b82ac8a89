//! `divvy completions`.

use clap::CommandFactory;

use super::args::{Args, Completions};
use super::output::Failure;

pub(super) fn run(args: &Completions) -> Result<u8, Failure> {
    clap_complete::generate(
        args.shell,
        &mut Args::command(),
        "divvy",
        &mut std::io::stdout(),
    );
    Ok(0)
}

//! Chores of this repository: `cargo xtask demo`, `test`, `dist`, `fuzz` and
//! `soak`, one file each. People and CI use the same ones.
//!
//! What a chore has to say goes to stderr; the demo's story goes to stdout.
//! Exit status: 0, or 1 with one error that names the remedy.

#![forbid(unsafe_code)]

mod demo;
mod dist;
mod find;
mod fuzz;
mod shell;
mod soak;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Divvy's chores
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show what Divvy does: run a job on half a core, and check what it got
    Demo,
    /// Check and test everything, as CI does
    Test {
        /// Build and test only: no lints, documentation or licences
        #[arg(long)]
        quick: bool,
    },
    /// Build Divvy and its plugins, and install them in a folder
    Dist {
        /// The folder: DIR/bin/divvy, DIR/lib/divvy/plugins
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Without optimization: builds faster, runs slower
        #[arg(long)]
        debug: bool,
    },
    /// Feed the allocator what nobody would write; needs a C++ compiler
    Fuzz {
        /// For how long, each of the targets
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Kill whatever Divvy starts at random, under load, and see what is lost; needs root
    Soak {
        /// How often
        #[arg(long, default_value_t = 1000)]
        kills: u32,
        /// Make the choices of an earlier run again
        #[arg(long)]
        seed: Option<u64>,
        /// The launcher that jobs are started with, as in `divvy run --launcher`
        #[arg(long, default_value = "oci")]
        launcher: String,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Demo => demo::run(),
        Task::Test { quick } => test::run(quick),
        Task::Dist { out, debug } => dist::run(&out, debug),
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Soak {
            kills,
            seed,
            launcher,
        } => soak::run(&soak::Soak {
            kills,
            seed,
            launcher: &launcher,
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::fail(&error);
            ExitCode::FAILURE
        }
    }
}

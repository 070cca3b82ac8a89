//! The `divvy` executable: the command line, and the processes that it starts
//! itself as.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match divvy::role(&args) {
        Some(code) => ExitCode::from(code),
        None => divvy::cli::main(),
    }
}

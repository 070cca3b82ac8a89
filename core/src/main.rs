//! The `divvy` executable: the command line, and the processes that it starts
//! itself as.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    // Roles that divvy starts itself in. They come first: they must not have
    // started a thread, opened a file or read an argument as a person's.
    match args.first().and_then(|role| role.to_str()) {
        Some("plugin-host") => divvy::plugin::host_main(rest),
        Some("oci-runtime") => divvy::launch::builtin::main(rest.to_vec()),
        Some("monitor") => divvy::monitor::main(rest),
        _ => divvy::cli::main(),
    }
}

//! The command line: runc's calls and flags, its exit codes and its log.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use super::error::{Error, Result};
use super::{child, create, exec, ffi, lifecycle, signal};

/// Exit status of a failed call.
const FAILURE: u8 = 1;
/// Exit status of an `exec` that could not run its command, as in runc: 1 would
/// be taken for the command's own.
const EXEC_FAILURE: u8 = 255;

/// Divvy's built-in OCI runtime (runc's command line).
#[derive(Debug, Parser)]
#[command(name = "divvy oci-runtime", version, disable_help_subcommand = true)]
struct Cli {
    /// Folder for container state
    #[arg(long, value_name = "DIR", default_value = "/run/divvy/oci")]
    root: PathBuf,
    /// File to add errors to
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of the log file
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    log_format: LogFormat,
    #[command(subcommand)]
    call: Call,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
enum Call {
    /// Create a container; its process waits for `start`
    Create {
        /// Folder with config.json
        #[arg(long, short, value_name = "DIR", default_value = ".")]
        bundle: PathBuf,
        /// File to write the first process's number to
        #[arg(long, value_name = "FILE")]
        pid_file: Option<PathBuf>,
        /// Unix socket to send the terminal's master end to
        #[arg(long, value_name = "PATH")]
        console_socket: Option<PathBuf>,
        /// The container's id
        id: String,
    },
    /// Run the program of a created container
    Start {
        /// The container's id
        id: String,
    },
    /// Send a signal to the container's first process
    Kill {
        /// Send it to every process of the container
        #[arg(long, short)]
        all: bool,
        /// The container's id
        id: String,
        /// Name or number
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Remove a container and its cgroups
    Delete {
        /// Kill it first if it runs; no error if it does not exist
        #[arg(long, short)]
        force: bool,
        /// The container's id
        id: String,
    },
    /// Print the container's state as JSON
    State {
        /// The container's id
        id: String,
    },
    /// Run one more process in a running container
    Exec {
        /// Description of the process (OCI process object)
        #[arg(long, short, value_name = "FILE")]
        process: Option<PathBuf>,
        /// Give it a terminal
        #[arg(long, short)]
        tty: bool,
        /// File to write its process number to
        #[arg(long, value_name = "FILE")]
        pid_file: Option<PathBuf>,
        /// Unix socket to send the terminal's master end to
        #[arg(long, value_name = "PATH")]
        console_socket: Option<PathBuf>,
        /// Do not wait for its end
        #[arg(long, short)]
        detach: bool,
        /// Working directory
        #[arg(long, value_name = "DIR")]
        cwd: Option<PathBuf>,
        /// Additional environment variable
        #[arg(long, short, value_name = "KEY=VALUE")]
        env: Vec<String>,
        /// The container's id
        id: String,
        /// Command and arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Reads the command line and answers it with an exit status.
pub(super) fn run(args: Vec<OsString>) -> u8 {
    let name = OsString::from("divvy oci-runtime");
    let cli = match Cli::try_parse_from(std::iter::once(name).chain(args)) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return 0;
        }
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            eprintln!("divvy oci-runtime: {}", line.trim_start_matches("error: "));
            return FAILURE;
        }
    };
    let failure = if matches!(cli.call, Call::Exec { .. }) {
        EXEC_FAILURE
    } else {
        FAILURE
    };
    let result = std::panic::catch_unwind(|| prepare().and_then(|()| answer(&cli)))
        .unwrap_or_else(|panic| Err(Error::Bug(child::message(panic.as_ref()))));
    match result {
        Ok(status) => status,
        Err(error) => {
            report(&cli, &error.to_string());
            child::reap_failed();
            failure
        }
    }
}

/// Puts the process into the state that containers are to start from.
fn prepare() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(Error::io("cannot read /proc/self/status"))?;
    let threads = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"));
    match threads.and_then(|count| count.trim().parse().ok()) {
        Some(1) => {}
        Some(count) => return Err(Error::Threads(count)),
        None => {
            return Err(Error::Bug(
                "/proc/self/status has no thread count".to_owned(),
            ));
        }
    }
    ffi::close_all_on_exec().map_err(Error::io("cannot mark descriptors close-on-exec"))?;
    // runc's default; a specification's own umask overrides it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

fn answer(cli: &Cli) -> Result<u8> {
    let root = &cli.root;
    match &cli.call {
        Call::Create {
            bundle,
            pid_file,
            console_socket,
            id,
        } => {
            drop_groups()?;
            create::create(&create::Request {
                root,
                id,
                bundle,
                pid_file: pid_file.as_deref(),
                console_socket: console_socket.as_deref(),
            })?;
        }
        Call::Start { id } => lifecycle::start(root, id)?,
        Call::Kill { all, id, signal } => lifecycle::kill(root, id, signal::parse(signal)?, *all)?,
        Call::Delete { force, id } => lifecycle::delete(root, id, *force)?,
        Call::State { id } => {
            let state = lifecycle::state(root, id)?;
            writeln!(std::io::stdout(), "{state:#}")
                .map_err(Error::io("cannot write the state"))?;
        }
        Call::Exec {
            process,
            tty,
            pid_file,
            console_socket,
            detach,
            cwd,
            env,
            id,
            command,
        } => {
            drop_groups()?;
            return exec::exec(&exec::Request {
                root,
                id,
                process: process.as_deref(),
                command,
                cwd: cwd.as_deref(),
                env,
                tty: *tty,
                detach: *detach,
                pid_file: pid_file.as_deref(),
                console_socket: console_socket.as_deref(),
            });
        }
    }
    Ok(0)
}

/// libcontainer only sets groups that a specification names; the caller's own
/// (`docker`, `disk`) must not be left to a container that names none.
fn drop_groups() -> Result<()> {
    rustix::thread::set_thread_groups(&[]).map_err(Error::io("cannot drop supplementary groups"))
}

/// Tells the error on stderr and in the log, as one line.
fn report(cli: &Cli, message: &str) {
    let message = message.replace(['\n', '\r'], " ");
    eprintln!("divvy oci-runtime: {message}");
    let Some(path) = &cli.log else { return };
    let line = match cli.log_format {
        LogFormat::Json => serde_json::json!({"level": "error", "msg": message}).to_string(),
        LogFormat::Text => format!("level=error msg={message:?}"),
    };
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path);
    // The message has reached stderr; a log that cannot be written has nowhere
    // better to be reported.
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}

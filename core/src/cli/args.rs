//! The words of the command line. What they mean is in each verb's file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::output::Failure;
use crate::{agent, plugin};

const EXAMPLES: &str = "\
Examples:
  divvy devices                                        what is here, and what is free
  divvy run --cpu 0.5 --mem 256MiB -- python3 job.py   half a core, on the host's own root
  divvy run --rootfs ./rootfs --cpu 2 -- /bin/sh -c 'make -j2'
  divvy run -d --name train ./image.tar                an OCI layout or `docker save` archive
  divvy ps ; divvy logs -f train ; divvy stop train";

/// Fractional accelerators for containers: exact, enforced, crash-safe.
#[derive(Debug, Parser)]
#[command(name = "divvy", version, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, ClapArgs)]
pub(super) struct Global {
    /// Answer as JSON, for programs
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(super) json: bool,
    /// Where Divvy keeps its ledger and workloads
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "DIR",
        env = "DIVVY_STATE",
        default_value = "/var/lib/divvy"
    )]
    pub(super) state: PathBuf,
    /// Where the plugins are [default: ../lib/divvy/plugins beside divvy, then /usr/lib/divvy/plugins]
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "DIR",
        env = "DIVVY_PLUGIN_DIR"
    )]
    pub(super) plugin_dir: Option<PathBuf>,
    /// A plugin's setting, such as cpu.reserved_cores=1 (repeatable); `divvy plugin list` names them
    #[arg(
        long = "set",
        global = true,
        help_heading = "Everywhere",
        value_name = "PLUGIN.KEY=VALUE"
    )]
    pub(super) set: Vec<String>,
    /// Say more on stderr; twice: much more
    #[arg(long, global = true, help_heading = "Everywhere", action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

impl Global {
    /// The agent's settings.
    pub(super) fn settings(&self) -> Result<agent::Settings, Failure> {
        let exe = std::env::current_exe()
            .map_err(|e| agent::AgentError::System("cannot find divvy's own executable", e))?;
        let state = std::path::absolute(&self.state)
            .map_err(|e| agent::AgentError::System("--state", e))?;
        let plugins = plugin::Settings {
            folder: self.plugin_dir.clone(),
            exe: exe.clone(),
            set: self.plugin_settings()?,
            history: Some(state.join("plugins")),
        };
        Ok(agent::Settings {
            state,
            exe,
            plugins,
        })
    }

    fn plugin_settings(&self) -> Result<BTreeMap<String, BTreeMap<String, String>>, Failure> {
        let mut settings: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for text in &self.set {
            let parsed = text.split_once('=').and_then(|(path, value)| {
                let (plugin, key) = path.split_once('.')?;
                (!plugin.is_empty() && !key.is_empty()).then_some((plugin, key, value))
            });
            let Some((plugin, key, value)) = parsed else {
                return Err(Failure::words(
                    "invalid_setting",
                    format!("--set {text:?} is not PLUGIN.KEY=VALUE, such as cpu.reserved_cores=1"),
                ));
            };
            settings
                .entry(plugin.into())
                .or_default()
                .insert(key.into(), value.into());
        }
        Ok(settings)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run a command or an image with a slice of this machine
    Run(Box<Run>),
    /// List this machine's devices, and what is free of each
    Devices,
    /// List workloads
    Ps(Ps),
    /// Show everything about a workload or a device
    Describe(Named),
    /// Show what a workload printed
    Logs(Logs),
    /// Run another command in a running workload
    Exec(Exec),
    /// Stop a workload: its stop signal, then SIGKILL after the grace
    Stop(Stop),
    /// Forget workloads that have ended
    Rm(Rm),
    /// Look at the plugins
    #[command(subcommand)]
    Plugin(Plugin),
    /// Say what this machine has and lacks, with the remedies
    Doctor,
    /// Look at the ledger, or repair it
    #[command(subcommand)]
    State(State),
    /// Print a completion script for a shell
    Completions(Completions),
}

const RUN_EXAMPLES: &str = "\
Without an image or --rootfs the command runs on the host's own root: as you, in
the current folder (which it may write), everything else read-only or discarded.

Amounts not asked for: one core, and the same share of memory as of cores.

Examples:
  divvy run --cpu 0.5 --mem 256MiB -- python3 job.py
  divvy run -it --cpu 2 -- bash
  divvy run -d --name train --cpu 4 --mem 16GiB -v /data:/data:ro -- ./train.sh
  divvy run --slot cpu=1.5 --rootfs /srv/debian -- apt list
  divvy run ./image.tar                                  (OCI layout or `docker save`)

Exit status: the command's own; 125 Divvy failed; 126 the command cannot be
executed; 127 it was not found; 128+n it was ended by signal n.";

/// `divvy run`.
#[derive(Debug, ClapArgs)]
#[command(after_help = RUN_EXAMPLES)]
pub(super) struct Run {
    /// Cores, in steps of 0.01: whole cores are the workload's alone
    #[arg(long, value_name = "CORES", allow_hyphen_values = true)]
    pub(super) cpu: Option<String>,
    /// Memory, such as 256MiB or 2GB
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) mem: Option<String>,
    /// An amount of any slot, such as cpu=1.5 (repeatable)
    #[arg(long = "slot", value_name = "NAME=AMOUNT")]
    pub(super) slots: Vec<String>,
    /// A name for it [default: w- and its id]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Leave it running in the background and print its name
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Keep standard input open for it
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Forget it when it has ended
    #[arg(long)]
    pub(super) rm: bool,
    /// A variable for it (repeatable); NAME alone takes the caller's value
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// A file or folder of the host for it (repeatable)
    #[arg(short, long = "volume", value_name = "SRC:DST[:ro]")]
    pub(super) volumes: Vec<String>,
    /// Who runs it, by the root filesystem's own users [default: the image's user, or you]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Its working directory
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// Its network: its own loopback alone, or the host's
    #[arg(long, value_enum, default_value_t = Net::None)]
    pub(super) net: Net,
    /// Size of its /dev/shm [default: 64MiB]
    #[arg(long, value_name = "BYTES")]
    pub(super) shm_size: Option<String>,
    /// Use this folder as its root filesystem; what it writes is discarded
    #[arg(long, value_name = "DIR")]
    pub(super) rootfs: Option<PathBuf>,
    /// How containers are started
    #[arg(long, value_enum, default_value_t = Launcher::Auto)]
    pub(super) launcher: Launcher,
    /// The OCI runtime: auto, built-in, a name on PATH or a path
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(super) runtime: String,
    /// [IMAGE [COMMAND...]], or -- COMMAND...
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE | -- COMMAND"
    )]
    pub(super) words: Vec<String>,
}

/// Networks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Net {
    None,
    Host,
}

/// Launchers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Launcher {
    Auto,
    Oci,
}

/// `divvy ps`.
#[derive(Debug, ClapArgs)]
pub(super) struct Ps {
    /// Those that have ended as well
    #[arg(short, long)]
    pub(super) all: bool,
    /// Names alone
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// A workload.
#[derive(Debug, ClapArgs)]
pub(super) struct Named {
    /// Its name, the beginning of its id, or a device such as cpu/core-0-0
    pub(super) name: String,
}

/// `divvy logs`.
#[derive(Debug, ClapArgs)]
pub(super) struct Logs {
    /// Its name, or the beginning of its id
    pub(super) name: String,
    /// Stay until it ends
    #[arg(short, long)]
    pub(super) follow: bool,
    /// When each piece came, in ms since 1970
    #[arg(short, long)]
    pub(super) timestamps: bool,
}

/// `divvy exec`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  divvy exec train ps aux\n  divvy exec -it train bash")]
pub(super) struct Exec {
    /// Keep standard input open for it (it always is)
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// A variable for it (repeatable)
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Its working directory
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// The workload
    pub(super) name: String,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

/// `divvy stop`.
#[derive(Debug, ClapArgs)]
pub(super) struct Stop {
    /// Their names
    #[arg(required = true)]
    pub(super) names: Vec<String>,
    /// The grace before SIGKILL, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) time: u32,
}

impl Stop {
    pub(super) fn grace(&self) -> Duration {
        Duration::from_secs(self.time.into())
    }
}

/// `divvy rm`.
#[derive(Debug, ClapArgs)]
pub(super) struct Rm {
    /// Their names
    #[arg(required = true)]
    pub(super) names: Vec<String>,
    /// Stop those that have not ended
    #[arg(short, long)]
    pub(super) force: bool,
}

/// `divvy plugin`.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// List the plugins, what they offer, and what is wrong with them
    List,
}

/// `divvy state`.
#[derive(Debug, Subcommand)]
pub(super) enum State {
    /// Print every record, as JSON
    Dump,
    /// Compare ledger, workloads and machine; exit status 1 if something is wrong
    Check,
    /// Set a damaged ledger aside and make a new one from the workloads' own copies
    Rebuild,
}

/// `divvy completions`.
#[derive(Debug, ClapArgs)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
}

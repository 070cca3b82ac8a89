//! The words of the command line. What they mean is in each verb's file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::output::Failure;
use crate::agent;
use crate::config::Config;
use crate::embed::{Builder, Simulated, Socket};

const EXAMPLES: &str = "\
Examples:
  divvy devices                                        what is here, and what is free
  divvy run --cpu 0.5 --mem 256MiB -- python3 job.py   half a core, on the host's own root
  divvy run --rootfs ./rootfs --cpu 2 -- /bin/sh -c 'make -j2'
  divvy run --gpu 0.5 --launcher docker pytorch/pytorch python train.py
  divvy --machine h100x8 devices                       a machine that is not there, to try it
  divvy run -d --name train ./image.tar                an OCI layout or `docker save` archive
  divvy ps ; divvy logs -f train ; divvy stop train
  divvy top                                            who holds and who uses what, live";

/// Fractional accelerators for containers: exact, crash-safe, and honest about what holds.
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
    /// Where Divvy keeps its ledger and workloads [default: /var/lib/divvy]
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "DIR",
        env = "DIVVY_STATE"
    )]
    pub(super) state: Option<PathBuf>,
    /// Where the plugins are [default: ../lib/divvy/plugins beside divvy, then /usr/lib/divvy/plugins]
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "DIR",
        env = "DIVVY_PLUGIN_DIR"
    )]
    pub(super) plugin_dir: Option<PathBuf>,
    /// The configuration file [default: /etc/divvy/config.toml, if there is one]
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "FILE",
        env = "DIVVY_CONFIG"
    )]
    pub(super) config: Option<PathBuf>,
    /// The agent to ask: its socket, auto for the one of --state if it runs, none to do without
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "SOCKET",
        env = "DIVVY_SOCKET",
        default_value = "auto"
    )]
    pub(super) socket: String,
    /// A machine that is not there, by name or folder: its devices instead of this one's, and a
    /// state of its own
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "NAME",
        env = "DIVVY_MACHINE"
    )]
    pub(super) machine: Option<String>,
    /// A plugin's setting, such as cpu.reserved_cores=1 (repeatable); `divvy plugin list` names them
    #[arg(
        long = "set",
        global = true,
        help_heading = "Everywhere",
        value_name = "PLUGIN.KEY=VALUE"
    )]
    pub(super) set: Vec<String>,
    /// The container engine's socket [default: DOCKER_HOST's, then Docker's, then Podman's]
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "SOCKET",
        env = "DIVVY_DOCKER_SOCKET"
    )]
    pub(super) docker_socket: Option<PathBuf>,
    /// Say more on stderr; twice: much more (or DIVVY_LOG=info)
    #[arg(long, global = true, help_heading = "Everywhere", action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

impl Global {
    /// How the agent is reached, or made.
    pub(super) fn builder(&self) -> Result<Builder, Failure> {
        let exe = own_exe()?;
        let config = Config::load(self.config.as_deref()).map_err(agent::AgentError::from)?;
        let mut builder =
            Builder::default()
                .exe(exe)
                .config(config)
                .socket(match self.socket.as_str() {
                    "auto" => Socket::Auto,
                    "none" => Socket::None,
                    path => Socket::At(path.into()),
                });
        if self.config.is_none() {
            builder = builder.usual_config();
        }
        if let Some(state) = &self.state {
            builder = builder.state(state);
        }
        if let Some(folder) = &self.plugin_dir {
            builder = builder.plugin_dir(folder);
        }
        if let Some(machine) = &self.machine {
            builder = builder.machine(machine);
        }
        if let Some(socket) = &self.docker_socket {
            builder = builder.docker_socket(socket);
        }
        for (plugin, keys) in self.plugin_settings()? {
            for (key, value) in keys {
                builder = builder.set(&plugin, &key, &value);
            }
        }
        Ok(builder)
    }

    /// The machine that is not there, if one was named.
    pub(super) fn simulated(&self) -> Result<Option<Simulated>, Failure> {
        let Some(machine) = &self.machine else {
            return Ok(None);
        };
        let mut builder = Builder::default().exe(own_exe()?).machine(machine);
        if let Some(folder) = &self.plugin_dir {
            builder = builder.plugin_dir(folder);
        }
        Ok(builder.simulated()?)
    }

    /// The settings of an agent in this process.
    pub(super) fn settings(&self) -> Result<agent::Settings, Failure> {
        Ok(self.builder()?.settings()?.0)
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

/// The executable that is started again as plugin host, monitor and OCI runtime.
pub(super) fn own_exe() -> Result<PathBuf, agent::AgentError> {
    std::env::current_exe()
        .map_err(|e| agent::AgentError::System("cannot find divvy's own executable", e))
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run a command or an image with a slice of this machine
    Run(Box<Run>),
    /// Say whether a request would fit now, where and why, or what is in the way
    Fit(Box<Fit>),
    /// Answer a file of requests on made-up or real devices
    Simulate(Simulate),
    /// List this machine's devices, and what is free of each
    Devices,
    /// Show who holds and who uses what, live
    Top(Top),
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
    /// Show what happens: workloads, devices, plugins
    Events(Events),
    /// Serve this machine: the long-lived agent
    Agent(Agent),
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
  divvy run --net bridge python:3.12 python3 -c 'print(1)'   (Docker's image, pulled if missing)

Exit status: the command's own; 125 Divvy failed; 126 the command cannot be
executed; 127 it was not found; 128+n it was ended by signal n.";

/// `divvy run`.
#[derive(Debug, ClapArgs)]
#[command(after_help = RUN_EXAMPLES)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) ask: Ask,
    /// Say what it would get and why, and start nothing
    #[arg(long)]
    pub(super) dry_run: bool,
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
    /// Its network: its own loopback alone, an engine's bridge, or the host's
    #[arg(long, value_enum, default_value_t = Net::None)]
    pub(super) net: Net,
    /// Size of its /dev/shm [default: 64MiB]
    #[arg(long, value_name = "BYTES")]
    pub(super) shm_size: Option<String>,
    /// Use this folder as its root filesystem; what it writes is discarded
    #[arg(long, value_name = "DIR")]
    pub(super) rootfs: Option<PathBuf>,
    /// Who makes the container: an engine for images that are no local file, else an OCI runtime
    #[arg(long, value_enum, default_value_t = Launcher::Auto)]
    pub(super) launcher: Launcher,
    /// The OCI runtime of the oci launcher: auto, built-in, a name on PATH or a path
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

/// What is asked of the machine.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "What it gets")]
pub(super) struct Ask {
    /// Cores, in steps of 0.01: whole cores are the workload's alone
    #[arg(long, value_name = "CORES", allow_hyphen_values = true)]
    pub(super) cpu: Option<String>,
    /// Memory, such as 256MiB or 2GB
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) mem: Option<String>,
    /// Accelerators of any vendor: a number of whole ones, or less than 1 for a share of one
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) gpu: Option<String>,
    /// Memory of one accelerator, and compute in proportion
    #[arg(
        long,
        value_name = "BYTES",
        allow_hyphen_values = true,
        conflicts_with = "gpu"
    )]
    pub(super) gpu_mem: Option<String>,
    /// With --gpu-mem: this share of its compute instead
    #[arg(
        long,
        value_name = "SHARE",
        allow_hyphen_values = true,
        requires = "gpu_mem"
    )]
    pub(super) gpu_compute: Option<String>,
    /// An amount of any slot, such as cpu=1.5 (repeatable); `divvy plugin list` names them
    #[arg(long = "slot", value_name = "NAME=AMOUNT")]
    pub(super) slots: Vec<String>,
    /// Only devices for which this CEL expression is true, such as device.model.contains("H100")
    #[arg(long = "where", value_name = "EXPR")]
    pub(super) select: Option<String>,
    /// How devices are chosen [default: pack]
    #[arg(long, value_enum)]
    pub(super) policy: Option<PolicyName>,
    /// What to take if that cannot be had, such as cpu=4,mem=8GiB (repeatable, best first)
    #[arg(long = "fallback", value_name = "SLOT=AMOUNT,...")]
    pub(super) fallbacks: Vec<String>,
    /// Refuse limits that hold less firmly; a part of a GPU is a partition then, if need be
    #[arg(long, value_enum)]
    pub(super) min_level: Option<LevelName>,
    /// What must lie near each other
    #[arg(long, value_enum, default_value_t = NearName::Prefer)]
    pub(super) near: NearName,
    /// Refuse what would lie on more devices than its size makes necessary
    #[arg(long)]
    pub(super) no_split: bool,
    /// Leave this workload's devices alone (repeatable)
    #[arg(long = "apart-from", value_name = "NAME")]
    pub(super) apart_from: Vec<String>,
}

/// Policies.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PolicyName {
    /// Keep large free shapes
    Pack,
    /// Balance the load
    Spread,
    /// The emptiest first, until it is full
    Fill,
    /// On one device where it fits, else in equal parts
    Evenly,
}

/// Enforcement levels.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LevelName {
    /// The workload is told and trusted
    Advisory,
    /// A library in the workload's process enforces it
    Cooperative,
    /// The kernel enforces it
    Kernel,
    /// The device enforces it
    Hardware,
}

/// Nearness.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum NearName {
    /// As near as can be
    Prefer,
    /// All on one NUMA node
    Node,
    /// Whole devices that are all linked to each other
    Linked,
    /// Wherever there is room
    Any,
}

const FIT_EXAMPLES: &str = "\
Examples:
  divvy fit --cpu 2 --mem 4GiB
  divvy fit --gpu 2 --near linked
  divvy fit --slot cuda.mem=12GiB --where 'device.numa_node == 0' --json

Exit status: 0 it fits; 125 it does not, and the message says why.";

/// `divvy fit`.
#[derive(Debug, ClapArgs)]
#[command(after_help = FIT_EXAMPLES)]
pub(super) struct Fit {
    #[command(flatten)]
    pub(super) ask: Ask,
}

const SIMULATE_EXAMPLES: &str = "\
A scenario names devices, and steps that place, allocate and release; its format
is in docs/allocation.md. No root, no plugins.

Examples:
  divvy simulate scenario.json
  divvy simulate - < scenario.json

Exit status: 0 every step was answered, refusals included; 2 the file is none.";

/// `divvy simulate`.
#[derive(Debug, ClapArgs)]
#[command(after_help = SIMULATE_EXAMPLES)]
pub(super) struct Simulate {
    /// The scenario file, or - for standard input
    pub(super) file: PathBuf,
}

/// Networks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Net {
    None,
    Bridge,
    Host,
}

/// Launchers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Launcher {
    Auto,
    Docker,
    Oci,
}

const TOP_EXAMPLES: &str = "\
Keys: arrows choose, Tab goes from devices to workloads, Enter describes, s stops,
/ filters, ? lists them all, q quits.

Examples:
  divvy top
  divvy top --interval 0.5
  divvy top --once > snapshot.txt
  divvy top --once --json          what is measured, as GET /v1/samples gives it";

/// `divvy top`.
#[derive(Debug, ClapArgs)]
#[command(after_help = TOP_EXAMPLES)]
pub(super) struct Top {
    /// Print one screen as text, and end; as always where standard output is no terminal
    #[arg(long)]
    pub(super) once: bool,
    /// Look so often, 0.2 to 60
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = super::top::interval)]
    pub(super) interval: Duration,
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

/// `divvy events`.
#[derive(Debug, ClapArgs)]
pub(super) struct Events {
    /// Stay, and show what happens from now on
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only what came after the event with this id
    #[arg(long, value_name = "ID")]
    pub(super) after: Option<String>,
}

const AGENT_EXAMPLES: &str = "\
The agent finds new and lost devices by itself, answers from what it saw last,
and serves everybody in its group. Commands use it while it runs and do without
it while it does not; both work on the same ledger.

Examples:
  sudo divvy agent
  sudo divvy agent --config /etc/divvy/config.toml
  systemctl start divvy

It ends on SIGTERM or SIGINT. Workloads go on.";

/// `divvy agent`.
#[derive(Debug, ClapArgs)]
#[command(after_help = AGENT_EXAMPLES)]
pub(super) struct Agent {}

/// `divvy plugin`.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// List the plugins, what they offer, and what is wrong with them
    List,
    /// Say whether a plugin keeps the contract; exit status 1 if it does not
    Check(Check),
    /// Show what a plugin does: its calls, and drills of a crash and a hang; exit status 1 if it went wrong
    Dev(Dev),
}

const CHECK_EXAMPLES: &str = "\
No root, no state: the plugin is loaded in hosts of its own. Slices of its devices
are prepared and released, so choose a machine that is idle, or another root.
--set KEY=VALUE is a setting of this plugin; deadline_ms is one of every plugin.

Examples:
  divvy plugin check target/debug/libdivvy_plugin_lamp.so
  divvy plugin check ./libdivvy_plugin_npu.so --set root=./machine --only release

Exit status: 0 no check failed; 1 some did; 2 unreadable words; 125 Divvy failed.";

/// `divvy plugin check`.
#[derive(Debug, ClapArgs)]
#[command(after_help = CHECK_EXAMPLES)]
pub(super) struct Check {
    /// The plugin: libdivvy_plugin_NAME.so
    pub(super) file: PathBuf,
    /// This check, or group of checks, alone (repeatable), such as release.twice or release
    #[arg(long, value_name = "CHECK")]
    pub(super) only: Vec<String>,
}

const DEV_EXAMPLES: &str = "\
As for `plugin check`: slices are prepared and released, so choose an idle machine.

Examples:
  divvy plugin dev target/debug/libdivvy_plugin_lamp.so
  divvy plugin dev ./libdivvy_plugin_npu.so --set root=./machine --watch

Exit status: as of `plugin check`.";

/// `divvy plugin dev`.
#[derive(Debug, ClapArgs)]
#[command(after_help = DEV_EXAMPLES)]
pub(super) struct Dev {
    /// The plugin: libdivvy_plugin_NAME.so
    pub(super) file: PathBuf,
    /// Again each time the file changes, until interrupted
    #[arg(long)]
    pub(super) watch: bool,
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

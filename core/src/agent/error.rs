//! What can go wrong, with codes that do not change.

use crate::allocate::Refusal;
use crate::api::Fault;
use crate::config::ConfigError;
use crate::launch::docker::EngineError;
use crate::launch::image::ImageError;
use crate::launch::{LaunchError, MergeError, MountError, VariableFault};
use crate::ledger::LedgerError;
use crate::model::{Amount, AmountTextError, NameError, format_amount};
use crate::monitor::ExecError;
use crate::plugin::{CallError, OpenError};

/// Why the agent did not do what was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The request cannot be granted.
    #[error("{refusal}{}", and_holders(.held_by.as_deref(), &.refusal.would_fit_without))]
    Refused {
        /// Why.
        refusal: Box<Refusal>,
        /// Who holds what was asked for.
        held_by: Option<String>,
    },
    /// An amount that cannot be read.
    #[error(transparent)]
    Amount(#[from] AmountTextError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name that another workload has.
    #[error(
        "the name {name} is taken by a workload that is {state}; choose another, or `divvy rm {name}` when it has ended"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where that one stands.
        state: &'static str,
    },
    /// No such workload.
    #[error("there is no workload {0:?}; `divvy ps -a` lists them")]
    NoSuchWorkload(String),
    /// No such device.
    #[error(
        "there is neither a workload nor a device {0:?}; `divvy ps -a` and `divvy devices` list them"
    )]
    NoSuchDevice(String),
    /// Several workloads.
    #[error("several workloads' ids begin with {0:?}; write more of it")]
    Ambiguous(String),
    /// Several devices.
    #[error("{0:?} may be any of {list}; write more of it", list = .1.join(", "))]
    AmbiguousDevice(String, Vec<String>),
    /// It has not ended.
    #[error("the workload {0} has not ended; stop it first: divvy stop {0}")]
    StillThere(String),
    /// It is not running.
    #[error("the workload {0} is not running")]
    NotRunning(String),
    /// A variable that only plugins set.
    #[error(
        "the environment variable {0} is set by a plugin to match what is granted; leave it out of -e"
    )]
    ReservedEnv(String),
    /// A variable that is none.
    #[error("-e {0:?} is not NAME=VALUE with a NAME of letters, digits and '_'")]
    Env(String),
    /// No command.
    #[error(
        "there is no command to run; write it after `--`, as in: divvy run --cpu 1 -- python3 train.py"
    )]
    NoCommand,
    /// The root filesystem.
    #[error("{0}")]
    Root(String),
    /// Something of ours that needs root.
    #[error(
        "divvy {0} needs root, who alone may read the ledger and make cgroups and namespaces; try: sudo divvy {0} …"
    )]
    NeedsRoot(&'static str),
    /// Edits that contradict each other.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The plugins as a whole.
    #[error(transparent)]
    Plugins(#[from] OpenError),
    /// A plugin.
    #[error("{error}{}", if *.undone { "; nothing was started and nothing is held" } else { "" })]
    Plugin {
        /// What happened.
        error: CallError,
        /// Something had been begun and was undone.
        undone: bool,
    },
    /// A plugin that has something to release is not there.
    #[error(
        "the plugin {0} is not in the plugin folder, or was refused; its slices stay closed until it is back: divvy plugin list"
    )]
    PluginGone(String),
    /// What would limit a workload is not offered, because a plugin was
    /// refused.
    #[error(
        "no plugin offers {0}, so the job would have no limit of it; this plugin was refused: {1}"
    )]
    NoLimits(&'static str, String),
    /// Nothing was asked, and no plugin gives anything unasked.
    #[error(
        "nothing would be granted: no plugin here offers cpu or mem, and nothing else is asked for; install the cpu plugin, or name a slot: divvy plugin list"
    )]
    NothingGranted,
    /// Less memory than a container needs to start.
    #[error(
        "mem: {} asked; a container needs 4 MiB to start. Write the unit: --mem 64MiB", format_amount(*.0, "byte")
    )]
    TooLittleMemory(Amount),
    /// Something went wrong and could not be undone yet.
    #[error(
        "{error}; {name} could not be undone yet and holds its slices: every divvy command tries again, `divvy ps` shows it"
    )]
    NotUndone {
        /// What went wrong.
        error: Box<AgentError>,
        /// The workload.
        name: String,
    },
    /// The ledger was made anew while a container was made.
    #[error(
        "the ledger was rebuilt while {0} was prepared, and does not know it; nothing was started, run it again"
    )]
    IntentLost(String),
    /// It has ended, or never began, and waits for a plugin to release it.
    #[error(
        "{0} does not run, but a plugin has not released its slices yet; every divvy command tries again, `divvy plugin list` says what is wrong with the plugin"
    )]
    NotReleased(String),
    /// What the image needs was not asked for.
    #[error("the image {image} needs {needs}; ask for it: {remedy}")]
    ImageNeeds {
        /// The image.
        image: String,
        /// What.
        needs: String,
        /// The option to add.
        remedy: String,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Launcher(String),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The launcher.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// What the agent that was asked answered.
    #[error("{}", .0.message)]
    Remote(Box<Fault>),
    /// The agent that was asked cannot be reached, or does not answer.
    #[error(
        "the agent at {socket} {why}; see whether it runs: systemctl status divvy; --socket none does without it"
    )]
    NoAgent {
        /// Where it should listen.
        socket: String,
        /// What happened.
        why: String,
    },
    /// No simulated machine of that name.
    #[error(
        "there is no machine {name:?}; {}", match known.is_empty() {
            true => "none is installed: cargo xtask dist installs some".to_owned(),
            false => format!("there are {}", known.join(", ")),
        }
    )]
    NoMachine {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// One user holds as many connections as one may.
    #[error(
        "you have {0} connections to the agent open, which is as many as one user may; close some, or wait until commands of yours have ended"
    )]
    TooManyConnections(usize),
    /// All users but root together do.
    #[error(
        "{0} connections to the agent are open, which is as many as all users but root may have together; try again when some have ended"
    )]
    TooManyOthers(usize),
    /// Something is where the agent should listen.
    #[error(
        "the agent cannot listen at {0}: {1} is there, and is left alone; remove it, or name another place: agent.socket in the configuration, or --socket"
    )]
    SocketTaken(String, &'static str),
    /// A verb that only an agent can serve.
    #[error("divvy {0} needs a running agent: sudo divvy agent, or systemctl start divvy")]
    NeedsAgent(&'static str),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A document that cannot be read.
    #[error("the request cannot be read: {0}")]
    Unreadable(String),
    /// Somebody who may not.
    #[error("{0}")]
    Denied(String),
    /// A bug: a thread of the agent's panicked.
    #[error("divvy made a mistake ({0}); nothing is lost: please report it with the agent's log")]
    Panicked(String),
    /// The system.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
}

fn and_holders(held_by: Option<&str>, would_fit_without: &[String]) -> String {
    let held = held_by
        .map(|h| format!("; held by {h}"))
        .unwrap_or_default();
    match would_fit_without {
        [] => held,
        names => format!("{held}; it would fit without {}", names.join(" and ")),
    }
}

impl From<EngineError> for AgentError {
    fn from(error: EngineError) -> Self {
        Self::Launch(error.into())
    }
}

impl From<ExecError> for AgentError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Unreachable(error) => Self::System("its monitor cannot be reached", error),
            ExecError::Refused { code, message } => Self::Remote(Box::new(Fault {
                code,
                message,
                refusal: None,
            })),
        }
    }
}

impl From<CallError> for AgentError {
    fn from(error: CallError) -> Self {
        Self::Plugin {
            error,
            undone: false,
        }
    }
}

impl AgentError {
    /// A variable that a user may not set.
    pub(crate) fn variable(fault: VariableFault, name: &str, value: &str) -> Self {
        match fault {
            VariableFault::Malformed => Self::Env(format!("{name}={value}")),
            VariableFault::Reserved => Self::ReservedEnv(name.to_owned()),
        }
    }

    /// Why a request cannot be granted, for programs.
    #[must_use]
    pub fn refusal(&self) -> Option<serde_json::Value> {
        match self {
            Self::Refused { refusal, .. } => serde_json::to_value(refusal).ok(),
            Self::Remote(fault) => fault.refusal.clone(),
            _ => None,
        }
    }

    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { refusal, .. } => refusal.code.as_str(),
            Self::Amount(_) => "invalid_amount",
            Self::Name(_) => "invalid_name",
            Self::NameTaken { .. } => "name_taken",
            Self::NoSuchWorkload(_) => "unknown_workload",
            Self::NoSuchDevice(_) => "unknown_device",
            Self::Ambiguous(_) => "ambiguous_workload",
            Self::AmbiguousDevice(..) => "ambiguous_device",
            Self::StillThere(_) => "not_ended",
            Self::NotRunning(_) => "not_running",
            Self::ReservedEnv(_) => "reserved_env",
            Self::Env(_) => "invalid_env",
            Self::NoCommand => "no_command",
            Self::Root(_) => "invalid_root",
            Self::NeedsRoot(_) => "needs_root",
            Self::Merge(_) => "edits_conflict",
            Self::Plugins(OpenError::Find(_)) => "plugin_folder",
            Self::Plugins(_) => "invalid_setting",
            Self::Plugin { error, .. } => error.code(),
            Self::PluginGone(_) => "plugin_gone",
            Self::NoLimits(..) => "plugin_refused",
            Self::NothingGranted => "nothing_granted",
            Self::TooLittleMemory(_) => "invalid_amount",
            Self::NotUndone { error, .. } => error.code(),
            Self::IntentLost(_) => "intent_lost",
            Self::NotReleased(_) => "not_released",
            Self::ImageNeeds { .. } => "image_requires",
            Self::Launcher(_) => "invalid_launcher",
            Self::Ledger(error) => error.code(),
            Self::Launch(error) => error.code(),
            Self::Mount(error) => error.code(),
            Self::Image(error) => error.code(),
            Self::Remote(fault) => &fault.code,
            Self::NoAgent { .. } => "no_agent",
            Self::NoMachine { .. } => "no_machine",
            Self::TooManyConnections(_) | Self::TooManyOthers(_) => "too_many_connections",
            Self::SocketTaken(..) => "socket_taken",
            Self::NeedsAgent(_) => "needs_agent",
            Self::Config(_) => "invalid_config",
            Self::Unreadable(_) => "invalid_request",
            Self::Denied(_) => "denied",
            Self::Panicked(_) => "internal",
            Self::System(..) => "system",
        }
    }
}

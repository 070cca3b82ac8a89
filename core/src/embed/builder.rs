//! How a program reaches Divvy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Divvy, Inner, Simulated};
use crate::agent::{self, Agent, AgentError};
use crate::api::{Client, Version};
use crate::config::{Config, STATE, usual_socket};
use crate::plugin;

/// Has this program said that it can be started as Divvy's helpers?
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// To be called first thing in `main`, before a thread is started: Divvy
/// starts your program again as plugin host, monitor and OCI runtime, and
/// then this does that work and does not return. Without it an installed
/// `divvy` is started for these.
pub fn init() {
    INITIALISED.store(true, Ordering::Relaxed);
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = crate::role(&args) {
        #[allow(clippy::exit)] // This is that process's main.
        std::process::exit(code.into());
    }
}

/// Which agent is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Socket {
    /// The one of this state folder, if it runs.
    #[default]
    Auto,
    /// None: this process is its own.
    None,
    /// The one that listens here; it must.
    At(PathBuf),
}

/// Builds a [`Divvy`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    state: Option<PathBuf>,
    plugin_dir: Option<PathBuf>,
    set: BTreeMap<String, BTreeMap<String, String>>,
    socket: Option<Socket>,
    exe: Option<PathBuf>,
    config: Option<Config>,
    docker_socket: Option<PathBuf>,
    machine: Option<String>,
    usual_config: bool,
}

impl Builder {
    /// The state folder; `/var/lib/divvy` by default.
    #[must_use]
    pub fn state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// The plugin folder; by default `../lib/divvy/plugins` beside the
    /// executable's folder, then `/usr/lib/divvy/plugins`.
    #[must_use]
    pub fn plugin_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.plugin_dir = Some(folder.into());
        self
    }

    /// A plugin's setting.
    #[must_use]
    pub fn set(mut self, plugin: &str, key: &str, value: &str) -> Self {
        let settings = self.set.entry(plugin.to_owned()).or_default();
        settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Which agent is asked.
    #[must_use]
    pub fn socket(mut self, socket: Socket) -> Self {
        self.socket = Some(socket);
        self
    }

    /// The executable that is started as plugin host, monitor and OCI runtime.
    #[must_use]
    pub fn exe(mut self, path: impl Into<PathBuf>) -> Self {
        self.exe = Some(path.into());
        self
    }

    /// The container engine's socket; by default where engines usually listen.
    #[must_use]
    pub fn docker_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.docker_socket = Some(path.into());
        self
    }

    /// What a configuration file says; by default `/etc/divvy/config.toml`, if
    /// there is one. What is said to this builder goes before it.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// The configuration is the one that is read if nobody names one.
    #[must_use]
    pub(crate) fn usual_config(mut self) -> Self {
        self.usual_config = true;
        self
    }

    /// A machine that is not there, by its name or the path of its folder: plugins see
    /// it instead of this one, and its state is apart.
    #[must_use]
    pub fn machine(mut self, name: impl Into<String>) -> Self {
        self.machine = Some(name.into());
        self
    }

    /// The machine that was named, found.
    ///
    /// # Errors
    /// There is none of that name, or its file is wrong.
    pub(crate) fn simulated(&self) -> Result<Option<Simulated>, AgentError> {
        let Some(name) = &self.machine else {
            return Ok(None);
        };
        let exe = match &self.exe {
            Some(exe) => exe.clone(),
            None => executable()?,
        };
        Simulated::find(name, &exe, self.plugin_dir.as_deref()).map(Some)
    }

    /// The settings of an agent in this process, and the configuration.
    ///
    /// # Errors
    /// The configuration, or there is no executable to start helpers from.
    pub fn settings(&self) -> Result<(agent::Settings, Config), AgentError> {
        let mut config = match &self.config {
            Some(config) => config.clone(),
            None => Config::load(None)?,
        };
        let machine = self.simulated()?;
        // The usual file's socket is the real machine's agent's.
        if machine.is_some() && (self.config.is_none() || self.usual_config) {
            config.agent.socket = None;
        }
        let state = match &machine {
            Some(machine) => machine.state(self.state.as_deref()),
            None => {
                let named = self.state.clone().or_else(|| config.state.clone());
                named.unwrap_or_else(|| PathBuf::from(STATE))
            }
        };
        let state =
            std::path::absolute(&state).map_err(|e| AgentError::System("the state folder", e))?;
        let exe = match &self.exe {
            Some(exe) => exe.clone(),
            None => executable()?,
        };
        let mut set: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (plugin, keys) in &config.plugins {
            let keys = keys.iter().map(|(k, v)| (k.clone(), v.to_string()));
            set.entry(plugin.clone()).or_default().extend(keys);
        }
        for (plugin, keys) in machine.iter().flat_map(|machine| &machine.plugins) {
            set.entry(plugin.clone()).or_default().extend(keys.clone());
        }
        for (plugin, keys) in &self.set {
            set.entry(plugin.clone()).or_default().extend(keys.clone());
        }
        let folder = self.plugin_dir.clone();
        let plugins = plugin::Settings {
            folder: folder.or_else(|| config.plugin_dir.clone()),
            exe: exe.clone(),
            set,
            history: Some(state.join("plugins")),
        };
        let settings = agent::Settings {
            // Also of an agent that is not to be asked.
            agent_socket: self
                .socket_path(&state, &config)
                .or_else(|| config.agent.socket.clone())
                .or_else(|| Some(usual_socket(&state))),
            state,
            exe,
            plugins,
            machine: machine.map(|machine| machine.path.display().to_string()),
            docker_socket: self
                .docker_socket
                .clone()
                .or_else(|| config.docker_socket.clone()),
        };
        Ok((settings, config))
    }

    /// Where the agent listens that is asked, unless none is.
    #[must_use]
    pub fn socket_path(&self, state: &Path, config: &Config) -> Option<PathBuf> {
        match &self.socket {
            Some(Socket::None) => None,
            Some(Socket::At(path)) => Some(path.clone()),
            Some(Socket::Auto) | None => {
                let configured = config.agent.socket.clone();
                Some(configured.unwrap_or_else(|| usual_socket(state)))
            }
        }
    }

    /// The agent that runs, else one in this process.
    ///
    /// # Errors
    /// The configuration, the plugin folder, or an agent that must answer and
    /// does not.
    pub async fn build(self) -> Result<Divvy, AgentError> {
        let (settings, config) = self.settings()?;
        if let Some(socket) = self.socket_path(&settings.state, &config) {
            let must = matches!(self.socket, Some(Socket::At(_)));
            if let Some(client) = self.reach(&socket, &settings, must).await? {
                return Ok(Divvy(Inner::There(client)));
            }
        }
        Ok(Divvy(Inner::Here(Arc::new(Agent::open(settings)?))))
    }

    /// The agent at this socket, if it is the one of these settings.
    async fn reach(
        &self,
        socket: &Path,
        settings: &agent::Settings,
        must: bool,
    ) -> Result<Option<Client>, AgentError> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let none = |why: String| AgentError::NoAgent {
            socket: socket.display().to_string(),
            why,
        };
        match std::os::unix::net::UnixStream::connect(socket) {
            Ok(_) => {}
            // Nobody listens, or what is left of one that was killed.
            Err(e) if matches!(e.kind(), NotFound | ConnectionRefused) && !must => return Ok(None),
            // Another user's state folder: the verb itself says who may.
            Err(e)
                if e.kind() == PermissionDenied && !must && settings.state != Path::new(STATE) =>
            {
                return Ok(None);
            }
            Err(e) if e.kind() == PermissionDenied => {
                return Err(none(
                    "may not be used by you: ask to be in its group".into(),
                ));
            }
            Err(e) => return Err(none(format!("cannot be reached: {e}"))),
        }
        let client = Client::new(socket);
        if must && self.set.is_empty() && self.plugin_dir.is_none() && self.machine.is_none() {
            return Ok(Some(client));
        }
        let version: Version = client.get("/v1/version").await?;
        // Other plugins or settings than the agent's: only for this call, so
        // not by the agent.
        let same_state = version.state == settings.state.display().to_string();
        let same_plugins = match &self.plugin_dir {
            Some(folder) => same_folder(folder, Path::new(&version.plugin_dir)),
            None => true,
        };
        let same_machine = version.machine == settings.machine;
        if self.set.is_empty() && same_plugins && same_machine && (same_state || must) {
            return Ok(Some(client));
        }
        tracing::info!(
            "the agent at {} has other settings: not asked",
            socket.display()
        );
        Ok(None)
    }
}

fn same_folder(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// This program, if it said that it can; else an installed `divvy`.
fn executable() -> Result<PathBuf, AgentError> {
    if INITIALISED.load(Ordering::Relaxed) {
        return std::env::current_exe()
            .map_err(|e| AgentError::System("cannot find this program's own executable", e));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("divvy"))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            AgentError::System(
                "no executable for Divvy's helpers: call divvy::init() first thing in main, or install divvy",
                std::io::ErrorKind::NotFound.into(),
            )
        })
}

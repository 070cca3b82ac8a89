//! The configuration file: one TOML document, in which an unknown key is an
//! error. What a command line says goes before it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where it is looked for if nobody names one.
pub const USUAL: &str = "/etc/divvy/config.toml";
/// Where Divvy keeps its things if nobody says otherwise.
pub const STATE: &str = "/var/lib/divvy";
/// Where the agent of that state listens.
pub const SOCKET: &str = "/run/divvy/agent.sock";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("the configuration {0} cannot be read: {1}")]
    Read(PathBuf, std::io::Error),
    /// Its words.
    #[error("the configuration {0} is wrong: {1}")]
    Wrong(PathBuf, String),
}

/// The file's content. Every key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The state folder.
    pub state: Option<PathBuf>,
    /// The plugin folder.
    pub plugin_dir: Option<PathBuf>,
    /// The container engine's socket.
    pub docker_socket: Option<PathBuf>,
    /// Settings of plugins, by plugin and key.
    #[serde(default)]
    pub plugins: BTreeMap<String, BTreeMap<String, Setting>>,
    /// The agent's.
    #[serde(default)]
    pub agent: AgentConfig,
}

/// What concerns the agent alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Where it listens.
    pub socket: Option<PathBuf>,
    /// The group whose members may use it, each for workloads of their own.
    /// Without one, root alone may.
    pub group: Option<String>,
    /// The group whose members may see and end everybody's workloads.
    pub admin_group: Option<String>,
    /// Where metrics are served besides the socket: a loopback address.
    pub metrics: Option<SocketAddr>,
    /// May others than root and admins run workloads on the host's network?
    pub host_network: Option<bool>,
}

/// A value of a plugin's setting; plugins get texts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

/// What is wrong with a TOML document, and where, without a drawing.
pub(crate) fn on_one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', ", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message;
    };
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!("line {line}, column {column}: {message}")
}

impl Config {
    /// The file that was named; else the usual one, if there is one.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(USUAL));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(e) => return Err(ConfigError::Read(path.to_owned(), e)),
        };
        Self::parse(&text).map_err(|why| ConfigError::Wrong(path.to_owned(), why))
    }

    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| on_one_line(text, &e))?;
        for (key, path) in [
            ("state", &config.state),
            ("plugin_dir", &config.plugin_dir),
            ("docker_socket", &config.docker_socket),
            ("agent.socket", &config.agent.socket),
        ] {
            if path.as_ref().is_some_and(|p| !p.is_absolute()) {
                return Err(format!("{key} must be an absolute path"));
            }
        }
        if let Some(address) = config.agent.metrics
            && !address.ip().is_loopback()
        {
            return Err(format!(
                "agent.metrics = \"{address}\" is not a loopback address; put a proxy before it that knows who may read"
            ));
        }
        Ok(config)
    }
}

/// Where the agent of a state folder listens, unless something else is said:
/// its own users reach the usual one, any other only root.
#[must_use]
pub fn usual_socket(state: &Path) -> PathBuf {
    if state == Path::new(STATE) {
        PathBuf::from(SOCKET)
    } else {
        state.join("run/agent.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_may_be_left_out_and_nothing_made_up() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
        let unknown = Config::parse("[agent]\nsockt = \"/x\"").unwrap_err();
        assert!(
            unknown.contains("unknown field `sockt`") && unknown.contains("line 2"),
            "{unknown}"
        );
        assert!(
            Config::parse("[agent]\nmetrics = \"0.0.0.0:1\"")
                .unwrap_err()
                .contains("loopback")
        );
        assert!(
            Config::parse("state = \"here\"")
                .unwrap_err()
                .contains("absolute")
        );
        let full = "state = \"/s\"\nplugin_dir = \"/p\"\n[agent]\ngroup = \"divvy\"\nmetrics = \"127.0.0.1:9\"\n[plugins.cpu]\nreserved_cores = 1\nroot = \"/r\"\n";
        let config = Config::parse(full).unwrap();
        let cpu: Vec<String> = config.plugins["cpu"]
            .values()
            .map(ToString::to_string)
            .collect();
        assert_eq!(cpu, ["1", "/r"]);
    }
}

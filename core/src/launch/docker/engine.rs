//! Finding a container engine, and what this one can do.
//!
//! Nothing is assumed of an engine for its name: what it lacks is found by
//! asking (version, info), and what it did is proven on the container.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::models::{SystemInfo, SystemVersion};
use serde::{Deserialize, Serialize};

use super::error::EngineError;

/// Where engines listen, first come, first served. Podman's speaks Docker's
/// API, with gaps.
const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];
/// The oldest API that has all of what is asked: Docker 20.10's.
const OLDEST: (u32, u32) = (1, 41);
/// OCI runtimes that do what they are told and look at no image's environment
/// (S1), best first.
const PLAIN_RUNTIMES: [&str; 3] = ["runc", "crun", "youki"];
/// How long an engine may take to begin its answer, seconds.
const PATIENCE_S: u64 = 120;

/// Whose engine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Docker's.
    Docker,
    /// Podman's service.
    Podman,
}

impl Kind {
    /// The launcher's name in records.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// What was found out about an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whose.
    pub kind: Kind,
    /// Its version.
    pub version: String,
    /// The OCI runtime to name, by the engine's own name for it.
    pub runtime: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Does it count swap, so that a limit for it can be set?
    pub counts_swap: bool,
}

/// An engine that answers.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) client: Docker,
    /// Its socket.
    pub socket: PathBuf,
    /// What it can do.
    pub facts: Facts,
}

/// The engine's socket: the one that was named, else `DOCKER_HOST`'s, else the
/// first of the usual ones that is there.
///
/// # Errors
/// There is none, or it is not a socket of this machine.
pub fn find(named: Option<&Path>) -> Result<PathBuf, EngineError> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if let Ok(host) = std::env::var("DOCKER_HOST")
        && !host.is_empty()
    {
        return match host.strip_prefix("unix://") {
            Some(path) => Ok(path.into()),
            None => Err(EngineError::Remote(host)),
        };
    }
    let found = SOCKETS.iter().find(|socket| Path::new(socket).exists());
    found.map(PathBuf::from).ok_or_else(|| EngineError::None {
        tried: format!("neither {} is there", SOCKETS.join(" nor ")),
    })
}

/// A client; nothing is sent yet.
pub(super) fn client(socket: &Path) -> Result<Docker, EngineError> {
    let path = socket.to_string_lossy();
    Docker::connect_with_unix(&path, PATIENCE_S, bollard::API_DEFAULT_VERSION)
        .map_err(|error| EngineError::of(socket, "be reached", &error))
}

impl Engine {
    /// Asks an engine who it is and what it can do.
    ///
    /// # Errors
    /// It does not answer, or cannot be used.
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let client = client(socket)?;
        let (version, info) = futures_util::join!(client.version(), client.info());
        let failed = |error| EngineError::of(socket, "say what it is", &error);
        let (version, info) = (version.map_err(failed)?, info.map_err(failed)?);
        let facts = facts(&version, &info).map_err(|why| EngineError::Unsuitable {
            socket: socket.to_owned(),
            why,
        })?;
        Ok(Self {
            client,
            socket: socket.to_owned(),
            facts,
        })
    }

    /// For people: `Docker 20.10.24, runc`.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = match self.facts.kind {
            Kind::Docker => "Docker",
            Kind::Podman => "Podman",
        };
        format!("{kind} {}, {}", self.facts.version, self.facts.runtime)
    }
}

/// What an engine's answers mean for us, or why it cannot be used.
fn facts(version: &SystemVersion, info: &SystemInfo) -> Result<Facts, String> {
    let components = version.components.iter().flatten();
    let kind = if components
        .into_iter()
        .any(|part| part.name.starts_with("Podman"))
    {
        Kind::Podman
    } else {
        Kind::Docker
    };
    let api = version.api_version.as_deref().unwrap_or("");
    if number(api).is_none_or(|api| api < OLDEST) {
        return Err(format!(
            "it speaks version {api:?} of the API; {}.{} or newer is needed, as of Docker 20.10",
            OLDEST.0, OLDEST.1
        ));
    }
    for option in info.security_options.iter().flatten() {
        if option.contains("profile=unconfined") {
            return Err("its default seccomp profile is unconfined".into());
        }
        if option.contains("name=rootless") {
            return Err("it is rootless; Divvy needs the machine's own engine".into());
        }
    }
    let architecture = version.arch.clone().unwrap_or_default();
    Ok(Facts {
        kind,
        version: version.version.clone().unwrap_or_default(),
        runtime: runtime(kind, info)?,
        architecture,
        counts_swap: info.swap_limit == Some(true),
    })
}

/// The plain OCI runtime among those that it knows (S1): one that a vendor has
/// made the default may act on an image's environment.
fn runtime(kind: Kind, info: &SystemInfo) -> Result<String, String> {
    let known: BTreeMap<&String, &str> = info
        .runtimes
        .iter()
        .flat_map(HashMap::iter)
        .filter(|(_, runtime)| runtime.runtime_args.iter().flatten().next().is_none())
        .filter_map(|(name, runtime)| {
            let program = Path::new(runtime.path.as_deref()?).file_name()?.to_str()?;
            Some((name, program))
        })
        .collect();
    let default = info.default_runtime.as_deref().unwrap_or("");
    for program in PLAIN_RUNTIMES {
        let mut named: Vec<&str> = known
            .iter()
            .filter(|(_, p)| **p == program)
            .map(|(name, _)| name.as_str())
            .collect();
        // Podman takes no runtime for one container: its default is what runs.
        if kind == Kind::Podman {
            named.retain(|name| *name == default);
            if default == program {
                named.push(default);
            }
        }
        // The one that is called what it is, if there is one.
        if let Some(name) = named.iter().find(|n| **n == program).or(named.first()) {
            return Ok((*name).to_owned());
        }
    }
    Err(format!(
        "none of its OCI runtimes is plainly {}, and others may hand devices out by an image's environment",
        PLAIN_RUNTIMES.join(", ")
    ))
}

fn number(api: &str) -> Option<(u32, u32)> {
    let (major, minor) = api.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn version(api: &str, component: &str) -> SystemVersion {
        let words = json!({
            "Version": "20.10.24", "ApiVersion": api, "Arch": "amd64",
            "Components": [{ "Name": component, "Version": "20.10.24" }],
        });
        serde_json::from_value(words).unwrap()
    }

    fn info(default: &str, runtimes: &serde_json::Value, security: &[&str]) -> SystemInfo {
        let words = json!({
            "DefaultRuntime": default, "Runtimes": runtimes, "SwapLimit": true,
            "SecurityOptions": security,
        });
        serde_json::from_value(words).unwrap()
    }

    #[test]
    fn the_plain_runtime_is_named_whatever_the_default_is() {
        let runtimes = json!({
            "nvidia": { "path": "nvidia-container-runtime" },
            "fast": { "path": "/usr/bin/crun" },
            "runc": { "path": "runc" },
            "io.containerd.runc.v2": { "path": "runc" },
        });
        let found = facts(
            &version("1.41", "Engine"),
            &info("nvidia", &runtimes, &["name=seccomp,profile=default"]),
        );
        let found = found.unwrap();
        assert_eq!((found.kind, &*found.runtime), (Kind::Docker, "runc"));
        assert!(found.counts_swap);
    }

    #[test]
    fn a_wrapper_is_not_plain() {
        for runtimes in [
            json!({ "nvidia": { "path": "/usr/bin/nvidia-container-runtime" } }),
            json!({ "runc": { "path": "runc", "runtimeArgs": ["--hook"] } }),
            json!({}),
        ] {
            let found = facts(&version("1.41", "Engine"), &info("runc", &runtimes, &[]));
            assert!(found.unwrap_err().contains("OCI runtimes"), "{runtimes}");
        }
        let renamed = json!({ "plain": { "path": "/opt/bin/runc" } });
        let found = facts(&version("1.41", "Engine"), &info("x", &renamed, &[]));
        assert_eq!(found.unwrap().runtime, "plain");
    }

    #[test]
    fn an_engine_that_lacks_something_is_told_so() {
        let runtimes = json!({ "runc": { "path": "runc" } });
        for (api, security, why) in [
            ("1.40", "", "1.41 or newer"),
            ("", "", "1.41 or newer"),
            ("1.41", "name=seccomp,profile=unconfined", "unconfined"),
            ("1.41", "name=rootless", "rootless"),
        ] {
            let found = facts(
                &version(api, "Engine"),
                &info("runc", &runtimes, &[security]),
            );
            let error = found.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn podman_runs_its_default_and_nothing_else() {
        let runtimes =
            json!({ "runc": { "path": "/usr/bin/runc" }, "kata": { "path": "/usr/bin/kata" } });
        let podman = version("1.41", "Podman Engine");
        let found = facts(&podman, &info("runc", &runtimes, &[])).unwrap();
        assert_eq!((found.kind, &*found.runtime), (Kind::Podman, "runc"));
        assert!(facts(&podman, &info("kata", &runtimes, &[])).is_err());
    }

    #[test]
    fn an_engine_is_found_by_the_name_that_was_given() {
        let named = Path::new("/nonexistent/docker.sock");
        assert_eq!(find(Some(named)).unwrap(), named);
    }
}

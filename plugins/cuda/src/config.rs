//! This plugin's settings (`--set cuda.KEY=VALUE`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use divvy_plugin::ConfigKey;

use crate::error::Error;
use crate::manage::{Manage, Policy};
use crate::xid::{self, Overrides};

/// The settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The folder under which the driver's files and libraries are looked for.
    pub(crate) root: PathBuf,
    /// `libnvidia-ml.so.1`, where it is not found as the loader finds it.
    pub(crate) nvml: Option<PathBuf>,
    /// `libcuda.so.1`, likewise.
    pub(crate) cuda: Option<PathBuf>,
    /// Give containers `nvidia-smi`?
    pub(crate) nvidia_smi: bool,
    /// Refuse images whose `NVIDIA_REQUIRE_*` this driver does not meet?
    pub(crate) require: bool,
    /// What follows from single XIDs, where the operator knows better.
    pub(crate) xid: Overrides,
    /// How often all GPUs are asked how they are.
    pub(crate) look: Duration,
    /// May MIG instances be made and unmade, and where?
    pub(crate) manage: Manage,
}

/// The settings and what they do, for the manifest.
pub(crate) fn keys() -> Vec<ConfigKey> {
    [
        (
            "root",
            "folder under which /dev, /proc, /sys and the driver's libraries are looked for; default /",
        ),
        (
            "nvml",
            "path of libnvidia-ml.so.1; default: found as the loader finds it",
        ),
        (
            "cuda",
            "path of libcuda.so.1; default: found as the loader finds it",
        ),
        (
            "nvidia_smi",
            "yes: containers get the host's nvidia-smi; default no",
        ),
        (
            "require",
            "check: refuse images whose NVIDIA_REQUIRE_* this driver does not meet (default); ignore: run them",
        ),
        (
            "xid",
            "what follows from an XID, as CODE=OUTCOME,…; outcomes: ignore, application, reset, replace; default: NVIDIA's catalog",
        ),
        (
            "look_s",
            "how often an agent asks all GPUs how they are, seconds, 1 to 3600; default 5",
        ),
        (
            "mig",
            "keep: MIG stays as it is (default); instances: make and unmake instances on GPUs that have it on; mode: also turn it on and off on idle GPUs",
        ),
        (
            "mig_gpus",
            "the GPUs for which cuda.mig is, by UUID or PCI address, with commas between them; default: all",
        ),
    ]
    .map(|(name, summary)| ConfigKey {
        name: name.into(),
        summary: summary.into(),
    })
    .into()
}

impl Config {
    /// Reads the settings; what is not set has its default.
    pub(crate) fn parse(settings: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut config = Self {
            root: "/".into(),
            nvml: None,
            cuda: None,
            nvidia_smi: false,
            require: true,
            xid: Overrides::new(),
            look: Duration::from_secs(5),
            manage: Manage::default(),
        };
        for (key, value) in settings {
            match key.as_str() {
                "root" => config.root = value.into(),
                "nvml" => config.nvml = Some(value.into()),
                "cuda" => config.cuda = Some(value.into()),
                "nvidia_smi" => config.nvidia_smi = choice(key, value, ["no", "yes"])?,
                "require" => config.require = choice(key, value, ["ignore", "check"])?,
                "xid" => config.xid = xid::overrides(value)?,
                "look_s" => config.look = seconds(key, value)?,
                "mig" => config.manage.policy = policy(value)?,
                "mig_gpus" => config.manage.gpus = Some(names(value)),
                _ => return Err(Error::UnknownKey(key.clone())),
            }
        }
        if !config.root.is_dir() {
            return Err(Error::NoRoot(config.root.display().to_string()));
        }
        Ok(config)
    }
}

fn policy(value: &str) -> Result<Policy, Error> {
    match value {
        "keep" => Ok(Policy::Keep),
        "instances" => Ok(Policy::Instances),
        "mode" => Ok(Policy::Mode),
        _ => Err(Error::Policy(value.to_owned())),
    }
}

fn names(value: &str) -> Vec<String> {
    let names = value.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect()
}

/// Which of two words it is: the second?
fn choice(key: &str, value: &str, [no, yes]: [&'static str; 2]) -> Result<bool, Error> {
    match value {
        _ if value == no => Ok(false),
        _ if value == yes => Ok(true),
        _ => Err(Error::Choice {
            key: key.to_owned(),
            value: value.to_owned(),
            one: no,
            other: yes,
        }),
    }
}

fn seconds(key: &str, value: &str) -> Result<Duration, Error> {
    let seconds = value
        .parse()
        .ok()
        .filter(|seconds| (1..=3600).contains(seconds));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| Error::Seconds {
            key: key.to_owned(),
            value: value.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &str) -> Result<Config, Error> {
        Config::parse(&[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn settings() {
        assert!(parse("nvidia_smi", "yes").is_ok_and(|c| c.nvidia_smi && c.require));
        assert!(parse("require", "ignore").is_ok_and(|c| !c.require));
        assert!(parse("mig", "mode").is_ok_and(|c| c.manage.policy == Policy::Mode));
        let gpus = parse("mig_gpus", " GPU-1 ,,0000:01:00.0")
            .unwrap()
            .manage
            .gpus;
        assert_eq!(gpus.unwrap(), ["GPU-1", "0000:01:00.0"]);
        for (key, value) in [
            ("nvidia_smi", "1"),
            ("require", ""),
            ("root", "/no/such/folder"),
            ("gpus", "all"),
            ("xid", "79"),
            ("look_s", "0"),
            ("look_s", "5s"),
            ("mig", "on"),
        ] {
            assert!(parse(key, value).is_err(), "{key}={value}");
        }
    }
}

//! This plugin's settings (`--set cpu.KEY=VALUE`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use divvy_plugin::{Amount, ConfigKey};

use crate::error::Error;
use crate::topology::Scope;

/// The settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The folder under which `/sys` and `/proc` are read.
    pub(crate) root: PathBuf,
    /// How many whole cores are kept free.
    pub(crate) reserved_cores: u64,
    /// How many bytes of memory are kept free.
    pub(crate) reserved_mem: u64,
    /// Which CPUs and nodes may be offered.
    pub(crate) scope: Scope,
}

/// The settings and what they do, for the manifest.
pub(crate) fn keys() -> Vec<ConfigKey> {
    [
        (
            "root",
            "folder under which /sys and /proc are read; default /",
        ),
        (
            "reserved_cores",
            "whole cores kept free for the machine itself; default 0",
        ),
        (
            "reserved_mem",
            "memory kept free for the machine itself, in bytes or as 2GiB; default 0",
        ),
        (
            "allowed",
            "`cgroup`: offer only what the agent's own cgroup may use (default); `all`: everything",
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
            reserved_cores: 0,
            reserved_mem: 0,
            scope: Scope::Cgroup,
        };
        for (key, value) in settings {
            match key.as_str() {
                "root" => config.root = value.into(),
                "reserved_cores" => config.reserved_cores = whole(value)?,
                "reserved_mem" => config.reserved_mem = bytes(value)?,
                "allowed" => {
                    config.scope = match value.as_str() {
                        "cgroup" => Scope::Cgroup,
                        "all" => Scope::All,
                        _ => return Err(Error::Allowed(value.clone())),
                    }
                }
                _ => return Err(Error::UnknownKey(key.clone())),
            }
        }
        if !config.root.is_dir() {
            return Err(Error::NoRoot(config.root.display().to_string()));
        }
        Ok(config)
    }
}

fn whole(text: &str) -> Result<u64, Error> {
    let refuse = || Error::ReservedCores(text.to_owned());
    let amount: Amount = text.trim().parse().map_err(|_| refuse())?;
    match amount.fraction().is_zero() {
        true => Ok(amount.whole_units()),
        false => Err(refuse()),
    }
}

fn bytes(text: &str) -> Result<u64, Error> {
    let refuse = || Error::ReservedMem(text.to_owned());
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor: u64 = match unit.trim() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(refuse()),
    };
    let amount: Amount = number.parse().map_err(|_| refuse())?;
    let bytes = amount
        .nanos()
        .checked_mul(factor.into())
        .and_then(Amount::from_nanos)
        .ok_or_else(refuse)?;
    match bytes.fraction().is_zero() {
        true => Ok(bytes.whole_units()),
        false => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, value) in [
            ("0", 0),
            ("4096", 4096),
            ("1KiB", 1024),
            ("1.5GiB", 3 << 29),
            ("2 GiB", 2 << 30),
            ("0.5kB", 500),
            ("3TB", 3_000_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text:?}");
        }
        for text in [
            "",
            "GiB",
            "1G",
            "-1",
            "0.3KiB",
            "1e3",
            "2gib",
            "99999999999TiB",
        ] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn core_counts_are_whole() {
        assert_eq!(whole("2"), Ok(2));
        assert_eq!(whole("2.0"), Ok(2));
        for text in ["0.5", "-1", "two", ""] {
            assert!(whole(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn unknown_settings_are_refused() {
        let parse = |key: &str, value: &str| Config::parse(&[(key.into(), value.into())].into());
        assert_eq!(
            parse("reserve", "1"),
            Err(Error::UnknownKey("reserve".into()))
        );
        assert_eq!(parse("allowed", "no"), Err(Error::Allowed("no".into())));
        assert!(matches!(parse("root", "/no/such"), Err(Error::NoRoot(_))));
    }
}

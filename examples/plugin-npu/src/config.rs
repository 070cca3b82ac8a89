//! This plugin's settings (`--set npu.KEY=VALUE`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use divvy_plugin::{ConfigKey, PluginError};

use crate::error::invalid;

/// The settings, checked.
#[derive(Debug)]
pub(crate) struct Config {
    /// The folder under which the machine is read. Another one is another
    /// machine: that is how this plugin is tested where there is no NPU.
    pub(crate) root: PathBuf,
}

/// The settings and what they do, for the manifest.
pub(crate) fn keys() -> Vec<ConfigKey> {
    vec![ConfigKey {
        name: "root".into(),
        summary: "folder under which /sys and /run are used; default /".into(),
    }]
}

impl Config {
    /// Reads the settings; what is not set has its default.
    pub(crate) fn parse(settings: &BTreeMap<String, String>) -> Result<Self, PluginError> {
        let mut root = PathBuf::from("/");
        for (key, value) in settings {
            match key.as_str() {
                "root" => root = value.into(),
                _ => return Err(invalid(format!("npu.{key} is no setting; there is: root"))),
            }
        }
        match root.is_dir() {
            true => Ok(Self { root }),
            false => Err(invalid(format!(
                "npu.root: {} is no folder",
                root.display()
            ))),
        }
    }
}

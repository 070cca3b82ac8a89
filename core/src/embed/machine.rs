//! Machines that are not there: `--machine NAME`.
//!
//! A machine is a folder with a `machine.toml`: one line about it, and settings for
//! plugins that make them look at that folder instead of `/`. Which plugins, and what
//! is in the folder, is theirs to know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::agent::AgentError;
use crate::config::{ConfigError, Setting, on_one_line};
use crate::plugin::{OpenError, check_ancestors, check_file};

/// Where workloads on such machines are kept, each machine's apart from others' and
/// from the real one's.
pub(crate) const STATES: &str = "/var/lib/divvy-machines";

/// A machine, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Simulated {
    /// Its folder; no symbolic links.
    pub(crate) path: PathBuf,
    /// Its folder's name.
    pub(crate) name: String,
    /// One line about it.
    pub(crate) summary: String,
    /// Settings, by plugin and key.
    pub(crate) plugins: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    summary: String,
    #[serde(default)]
    plugins: BTreeMap<String, BTreeMap<String, Setting>>,
}

impl Simulated {
    /// Finds a machine by the name of its folder, or by a path to it. Named ones are
    /// looked for in `machines` beside the plugin folder, beside `exe` and in
    /// `/usr/lib/divvy`.
    ///
    /// # Errors
    /// There is none, or its file is wrong.
    pub(super) fn find(name: &str, exe: &Path, plugins: Option<&Path>) -> Result<Self, AgentError> {
        if name.contains('/') {
            return Self::read(Path::new(name));
        }
        let beside = |folder: &Path| Some(folder.parent()?.join("machines"));
        let installed = exe.parent().map(|bin| bin.join("../lib/divvy/machines"));
        let folders: Vec<PathBuf> = [
            plugins.and_then(beside),
            installed,
            Some(PathBuf::from("/usr/lib/divvy/machines")),
        ]
        .into_iter()
        .flatten()
        .collect();
        let found = folders.iter().map(|folder| folder.join(name));
        let plain = !name.is_empty() && !name.starts_with('.');
        match found
            .into_iter()
            .find(|f| plain && f.join("machine.toml").is_file())
        {
            Some(folder) => Self::read(&folder),
            None => Err(AgentError::NoMachine {
                name: name.to_owned(),
                known: known(&folders),
            }),
        }
    }

    fn read(folder: &Path) -> Result<Self, AgentError> {
        let file = folder.join("machine.toml");
        let read = |e| ConfigError::Read(file.clone(), e);
        let folder = folder.canonicalize().map_err(read)?;
        // Plugins load what lies in it, as root.
        let safe = check_ancestors(&folder).and_then(|()| check_file(&file));
        safe.map_err(OpenError::from)?;
        let text = std::fs::read_to_string(&file).map_err(read)?;
        let parsed: File = toml::from_str(&text)
            .map_err(|e| ConfigError::Wrong(file.clone(), on_one_line(&text, &e)))?;
        // What begins with ./ is in the machine's folder.
        let value = |setting: Setting| {
            let text = setting.to_string();
            match text.strip_prefix("./") {
                Some(rest) => folder.join(rest).display().to_string(),
                None => text,
            }
        };
        let values = |keys: BTreeMap<String, Setting>| {
            keys.into_iter()
                .map(|(key, setting)| (key, value(setting)))
                .collect()
        };
        Ok(Self {
            path: folder.clone(),
            name: folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            summary: parsed.summary,
            plugins: parsed
                .plugins
                .into_iter()
                .map(|(plugin, keys)| (plugin, values(keys)))
                .collect(),
        })
    }

    /// Where its workloads are kept: each folder's apart, also below a state folder that
    /// was named, so that no slice of it is ever in the ledger of a real machine.
    pub(super) fn state(&self, named: Option<&Path>) -> PathBuf {
        let folder = crc32fast::hash(self.path.as_os_str().as_encoded_bytes());
        let own = format!("{}-{folder:08x}", self.name);
        match named {
            Some(state) => state.join("machines").join(own),
            None => Path::new(STATES).join(own),
        }
    }

    /// Why containers cannot be given its libraries, if so (the rules for mounts of
    /// plugins).
    pub(crate) fn closed(&self) -> Option<String> {
        let closed = ["/home", "/root", "/run", "/boot", "/etc"];
        let at = closed.iter().find(|root| self.path.starts_with(root))?;
        Some(format!(
            "containers are given no libraries from under {at}: have it in another folder, such as /opt, to run something"
        ))
    }
}

/// The machines in these folders, in order.
fn known(folders: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten())
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let is_one = entry.path().join("machine.toml").is_file();
            is_one.then(|| entry.file_name().to_string_lossy().into_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

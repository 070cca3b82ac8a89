//! All plugins of a machine, and the inventory that they make together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use divvy_plugin::{Discovery, OpenRequest};

use super::client::{CallError, Client, Holdings};
use super::find::{self, FindError, PluginFile};
use crate::model::{Device, Inventory, Manifest, Record};

/// Where plugins are and what they are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The folder; `None`: the first of the usual ones that exists.
    pub folder: Option<PathBuf>,
    /// The `divvy` executable, started again for each plugin host.
    pub exe: PathBuf,
    /// `PLUGIN.KEY=VALUE`, by plugin. The key `deadline_ms` belongs to every
    /// plugin: the time for a call, 10,000 by default.
    pub set: BTreeMap<String, BTreeMap<String, String>>,
    /// Where crashes are remembered; `None`: not at all.
    pub history: Option<PathBuf>,
}

/// Why no set of plugins could be made at all. Single plugins that fail are
/// not among these.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder.
    #[error(transparent)]
    Find(#[from] FindError),
    /// A setting for a plugin that is not there.
    #[error("--set {plugin}.…: there is no plugin {plugin:?} in {folder}")]
    NoSuchPlugin {
        /// The name in the setting.
        plugin: String,
        /// Where was looked.
        folder: PathBuf,
    },
    /// A deadline that is no number.
    #[error("--set {plugin}.deadline_ms={value}: not a number of milliseconds from 1 to 600000")]
    Deadline {
        /// The plugin.
        plugin: String,
        /// What was written.
        value: String,
    },
}

/// The plugins of a machine.
#[derive(Debug)]
pub struct Set {
    /// The folder they are in.
    pub folder: PathBuf,
    clients: Vec<Client>,
    refused: Vec<FindError>,
}

impl Set {
    /// Finds the plugins; starts none.
    ///
    /// # Errors
    /// [`OpenError`]: no folder, an unsafe one, or a setting for nobody.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let folder = match &settings.folder {
            Some(folder) => folder.clone(),
            None => usual_folder(&settings.exe)?,
        };
        let mut set = Self {
            folder: folder.clone(),
            clients: Vec::new(),
            refused: Vec::new(),
        };
        let mut configs = settings.set.clone();
        for file in find::find(&folder)? {
            let file = match file {
                Ok(file) => file,
                Err(error) => {
                    configs.remove(&error_plugin(&error));
                    set.refused.push(error);
                    continue;
                }
            };
            let mut config = configs.remove(&file.name()).unwrap_or_default();
            let deadline = deadline(&file.name(), config.remove("deadline_ms"))?;
            set.clients.push(Client::new(
                file,
                settings.exe.clone(),
                OpenRequest {
                    config,
                    ..OpenRequest::default()
                },
                deadline,
                settings.history.clone(),
            ));
        }
        match configs.into_keys().next() {
            Some(plugin) => Err(OpenError::NoSuchPlugin { plugin, folder }),
            None => Ok(set),
        }
    }

    /// The plugins, by name.
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// The files that were not even opened.
    #[must_use]
    pub fn refused(&self) -> &[FindError] {
        &self.refused
    }

    /// The plugin of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Client> {
        self.clients.iter().find(|c| c.name() == name)
    }

    /// Tells every plugin's next host what is held.
    pub fn set_held(&self, records: &Arc<Vec<Record>>) {
        for client in &self.clients {
            client.set_held(Holdings::Records(Arc::clone(records)));
        }
    }

    /// Do the plugins' next hosts learn what is held?
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.clients.iter().all(Client::is_told)
    }

    /// Asks every plugin what there is, all at once. A plugin that fails is in
    /// the second list and hides no other.
    pub async fn inventory(&self) -> (Inventory, Vec<(String, CallError)>) {
        let answers = futures_util::future::join_all(self.clients.iter().map(|client| async {
            let answer = async { Ok((client.manifest().await?, client.discover().await?)) };
            Answer::of(client.name(), answer.await)
        }));
        combine(answers.await)
    }

    /// Are the plugin files still the ones that this set was made of?
    #[must_use]
    pub fn is_current(&self) -> bool {
        let Ok(files) = find::find(&self.folder) else {
            // Nobody can tell; what is loaded stays.
            return true;
        };
        let now: Vec<_> = files.iter().flatten().map(PluginFile::identity).collect();
        let then: Vec<_> = self.clients.iter().map(Client::identity).collect();
        now == then
    }
}

/// What one plugin said, and whether it can be reached.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The plugin.
    pub plugin: String,
    /// What it said, now or the last time.
    pub found: Option<(Manifest, Discovery)>,
    /// Why it does not answer.
    pub error: Option<CallError>,
}

impl Answer {
    fn of(plugin: &str, answer: Result<(Manifest, Discovery), CallError>) -> Self {
        let (found, error) = match answer {
            Ok(found) => (Some(found), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            plugin: plugin.to_owned(),
            found,
            error,
        }
    }
}

/// The inventory that the answers make together, and whose failed.
#[must_use]
pub fn combine(answers: Vec<Answer>) -> (Inventory, Vec<(String, CallError)>) {
    let mut inventory = Inventory::default();
    let mut failed = Vec::new();
    let mut slots = BTreeSet::new();
    for answer in answers {
        let name = answer.plugin;
        failed.extend(answer.error.map(|error| (name.clone(), error)));
        let Some((manifest, found)) = answer.found else {
            continue;
        };
        if let Some(taken) = manifest.slots.iter().find(|s| slots.contains(&s.name)) {
            let why = format!("another plugin offers the slot {} already", taken.name);
            failed.push((name.clone(), CallError::Unloadable { plugin: name, why }));
            continue;
        }
        slots.extend(manifest.slots.iter().map(|s| s.name.clone()));
        for warning in &found.warnings {
            tracing::info!(plugin = name, "{warning}");
        }
        inventory
            .numa_nodes
            .extend(found.numa_nodes.into_iter().map(|n| (n.id, n)));
        inventory
            .devices
            .extend(found.devices.into_iter().map(|device| Device {
                plugin: name.clone(),
                device,
            }));
        if !found.warnings.is_empty() {
            inventory.warnings.insert(name.clone(), found.warnings);
        }
        inventory.plugins.insert(name, manifest);
    }
    (inventory, failed)
}

pub(super) fn deadline(plugin: &str, value: Option<String>) -> Result<Duration, OpenError> {
    let Some(value) = value else {
        return Ok(Duration::from_secs(10));
    };
    match value.parse() {
        Ok(ms @ 1..=600_000) => Ok(Duration::from_millis(ms)),
        _ => Err(OpenError::Deadline {
            plugin: plugin.to_owned(),
            value,
        }),
    }
}

/// `../lib/divvy/plugins` beside the executable's folder, then
/// `/usr/lib/divvy/plugins`.
fn usual_folder(exe: &Path) -> Result<PathBuf, FindError> {
    let beside = exe
        .parent()
        .and_then(Path::parent)
        .map(|p| p.join("lib/divvy/plugins"));
    let candidates: Vec<PathBuf> = beside
        .into_iter()
        .chain([PathBuf::from("/usr/lib/divvy/plugins")])
        .collect();
    let names: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
    candidates
        .into_iter()
        .find(|p| p.is_dir())
        .ok_or_else(|| FindError::NoFolder(names.join(" and ")))
}

fn error_plugin(error: &FindError) -> String {
    match error {
        FindError::Unsafe { path, .. }
        | FindError::Open(path, _)
        | FindError::NotAFile(path, _) => find::file_plugin_name(path),
        FindError::Folder(..) | FindError::NoFolder(_) => String::new(),
    }
}

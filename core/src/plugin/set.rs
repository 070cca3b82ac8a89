//! All plugins of a machine, and the inventory that they make together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use divvy_plugin::{Held, OpenRequest, RestoreRequest};

use super::client::{CallError, Client};
use super::find::{self, FindError};
use crate::model::{Device, Inventory, Record};

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
                OpenRequest { config },
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
    pub fn set_held(&self, records: &[Record]) {
        for client in &self.clients {
            let allocations = records
                .iter()
                .filter(|r| r.holds())
                .map(|r| Held {
                    allocation: r.id.clone(),
                    slices: r.slices_of(client.name()),
                    edits: r.edits.get(client.name()).cloned().unwrap_or_default(),
                })
                .filter(|held| !held.slices.is_empty())
                .collect();
            client.set_held(RestoreRequest { allocations });
        }
    }

    /// Asks every plugin what there is, all at once. A plugin that fails is in
    /// the second list and hides no other.
    pub async fn inventory(&self) -> (Inventory, Vec<(String, CallError)>) {
        let answers = futures_util::future::join_all(self.clients.iter().map(|client| async {
            let manifest = client.manifest().await?;
            Ok((manifest, client.discover().await?))
        }))
        .await;
        let mut inventory = Inventory::default();
        let mut failed = Vec::new();
        let mut slots = BTreeSet::new();
        for (client, answer) in self.clients.iter().zip(answers) {
            let name = client.name().to_owned();
            let (manifest, found) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    failed.push((name, error));
                    continue;
                }
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
            inventory.plugins.insert(name, manifest);
        }
        (inventory, failed)
    }
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

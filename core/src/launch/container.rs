//! One container: its folder on disk, and what every launcher does to it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::docker::OnEngine;
use super::{BindMount, LaunchError, Oci, Reserved};
use crate::model::{Exit, Record};
use crate::sys;

/// What a workload's folder holds besides while it runs.
const STREAMS: [&str; 10] = [
    "stdin",
    "stdout",
    "stderr",
    "attach.sock",
    "console.sock",
    "pid",
    "runtime.log",
    "create.json",
    "gate",
    "went",
];

/// The folder of one workload: `STATE/workloads/ID`.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
}

/// What a monitor and whoever follows it need to know of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Has it a terminal?
    pub tty: bool,
    /// Is its standard input open?
    pub stdin: bool,
    /// What `stop` sends first.
    pub stop_signal: String,
    /// Its working directory, which the init makes if there is none such.
    #[serde(default)]
    pub workdir: String,
    /// What of the host is mounted in it, in this order: looked at, and opened for
    /// writing, once it is made.
    #[serde(default)]
    pub mounts: Vec<BindMount>,
    /// Where the loader looks first, for `exec` too.
    #[serde(default)]
    pub library_paths: Vec<String>,
    /// What nobody may set for a process in it.
    #[serde(default)]
    pub reserved: Reserved,
    /// Who made it, and how.
    #[serde(flatten)]
    pub by: By,
}

/// The launcher of a container, with what only that launcher needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum By {
    /// An OCI runtime.
    Oci(Oci),
    /// A container engine.
    Engine(OnEngine),
}

impl Folder {
    /// The folder of a workload.
    #[must_use]
    pub fn new(state: &Path, id: &str) -> Self {
        Self {
            path: state.join("workloads").join(id),
        }
    }

    /// Makes it (0700) and locks it. Whoever holds the lock carries the
    /// workload forward; it ends with the last process that holds it.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn create(&self) -> Result<File, LaunchError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(LaunchError::file("cannot make", &self.path))?;
        for _ in 0..100 {
            // Someone who sweeps up may hold it for a moment, or have removed
            // the folder before it was locked.
            if let Ok(Some(lock)) = self.try_lock()
                && self.is_locked_by(&lock)
            {
                return Ok(lock);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            let _ = DirBuilder::new().mode(0o700).create(&self.path);
        }
        let busy = std::io::Error::other("it is in use");
        Err(LaunchError::file("cannot lock", &self.path)(busy))
    }

    fn is_locked_by(&self, lock: &File) -> bool {
        let here = fs::metadata(self.path.join("lock")).map(|m| m.ino());
        matches!((here, lock.metadata()), (Ok(ino), Ok(meta)) if ino == meta.ino())
    }

    /// The lock, if nobody carries the workload; `None` if somebody does.
    ///
    /// # Errors
    /// The folder is gone.
    pub fn try_lock(&self) -> std::io::Result<Option<File>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The OCI bundle.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    /// The container's root.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// The private writable layer.
    #[must_use]
    pub fn layer(&self) -> PathBuf {
        self.path.join("layer")
    }

    /// What the workload printed.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log.jsonl")
    }

    /// The monitor's own messages.
    #[must_use]
    pub fn monitor_log(&self) -> PathBuf {
        self.path.join("monitor.log")
    }

    /// The runtime's messages while it made the container.
    pub(crate) fn runtime_log(&self) -> PathBuf {
        self.path.join("runtime.log")
    }

    /// Writes what is needed to follow the container.
    ///
    /// # Errors
    /// The disk.
    pub fn save_container(&self, container: &Container) -> Result<(), LaunchError> {
        self.write("container.json", container)
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is gone or unreadable.
    pub fn container(&self) -> Result<Container, LaunchError> {
        self.read("container.json")
    }

    /// Writes what the monitor needs to settle the end.
    pub(crate) fn save_settings(&self, settings: &impl Serialize) -> Result<(), LaunchError> {
        self.write("settings.json", settings)
    }

    /// Writes the second copy of the ledger's record.
    ///
    /// # Errors
    /// The disk.
    pub fn save_record(&self, record: &Record) -> Result<(), LaunchError> {
        self.write("record.json", record)
    }

    /// Reads the second copy.
    ///
    /// # Errors
    /// It is gone or unreadable.
    pub fn record(&self) -> Result<Record, LaunchError> {
        self.read("record.json")
    }

    /// Is there a second copy, readable or not?
    pub(crate) fn has_record(&self) -> bool {
        self.path.join("record.json").exists()
    }

    /// Where the container has something mounted.
    pub(crate) fn mount_points(&self) -> Vec<String> {
        let spec: Option<Spec> = self.read("bundle/config.json").ok();
        let mounts = spec.and_then(|s| s.mounts().clone()).unwrap_or_default();
        mounts
            .iter()
            .map(|m| m.destination().display().to_string())
            .collect()
    }

    /// Writes how it ended, before the ledger is told.
    pub(crate) fn save_exit(&self, exit: &Exit) -> Result<(), LaunchError> {
        self.write("exit.json", exit)
    }

    /// Reads how it ended, if somebody saw it.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.read("exit.json").ok()
    }

    /// Writes the bundle.
    pub(crate) fn save_bundle(&self, spec: &Spec) -> Result<(), LaunchError> {
        let bundle = self.bundle();
        fs::create_dir_all(&bundle).map_err(LaunchError::file("cannot make", &bundle))?;
        self.write("bundle/config.json", spec)
    }

    pub(super) fn write(&self, name: &str, document: &impl Serialize) -> Result<(), LaunchError> {
        let path = self.path.join(name);
        serde_json::to_vec(document)
            .map_err(std::io::Error::from)
            .and_then(|bytes| sys::write_private(&path, &bytes))
            .map_err(LaunchError::file("cannot write", &path))
    }

    pub(super) fn read<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<T, LaunchError> {
        let path = self.path.join(name);
        fs::read(&path)
            .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
            .map_err(LaunchError::file("cannot read", &path))
    }

    /// Removes all but the log and the records of how it ended.
    pub(crate) fn tidy(&self) {
        // Only ever a mount point: if it is not empty, something is still
        // mounted on it, and what is below is not ours to remove.
        let _ = fs::remove_dir(self.rootfs());
        for name in ["bundle", "layer", "empty", "nodes"] {
            self.remove_tree(&self.path.join(name));
        }
        for name in STREAMS {
            let _ = fs::remove_file(self.path.join(name));
        }
    }

    /// Removes everything.
    pub(crate) fn remove(&self) {
        self.tidy();
        if !self.rootfs().exists() {
            self.remove_tree(&self.path);
        }
    }

    /// Removes a folder of ours, unless something is mounted on it.
    fn remove_tree(&self, path: &Path) {
        let device = |path: &Path| fs::symlink_metadata(path).map(|m| m.dev()).ok();
        if device(path).is_some_and(|d| Some(d) == device(&self.path)) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

impl Container {
    /// The folder in which all runtimes keep their state.
    pub(crate) fn runtimes(state: &Path) -> PathBuf {
        state.join("runtime")
    }

    /// Was it made, and does it still wait for the word to start?
    pub(crate) fn waits(&self, folder: &Folder) -> bool {
        match &self.by {
            By::Oci(oci) => oci.waits(&self.id),
            By::Engine(_) => !folder.went().exists(),
        }
    }

    /// Drops what is remembered of a container that a restart of the machine
    /// ended.
    pub(crate) async fn forget(&self) {
        match &self.by {
            By::Oci(oci) => oci.forget(&self.id),
            By::Engine(_) => {
                if let Err(error) = self.delete().await {
                    tracing::info!("{}: {error}", self.id);
                }
            }
        }
    }

    /// It is gone, whatever it was. A container that does not exist is a
    /// success.
    ///
    /// # Errors
    /// The launcher's word.
    pub async fn delete(&self) -> Result<(), LaunchError> {
        match &self.by {
            By::Oci(oci) => oci.delete(&self.id),
            By::Engine(on) => Ok(on.handle(&self.id).delete().await?),
        }
    }
}

//! What is remembered about a container between two calls.
//!
//! ```text
//! ROOT/ID/record.json         ours: bundle, cgroup, pid and its start time
//! ROOT/ID/spec.json           the bundle's config.json at the time of create
//! ROOT/ID/bundle/config.json  the hardened form that libcontainer is given
//! ROOT/ID/runtime/ID/         libcontainer's own state
//! ROOT/ID/exec-PID/           the same for one exec, gone when it has started
//! ROOT/~ID.PID/               a folder being filled; renamed when it is complete
//! ```
//!
//! The start time tells the container from a stranger that was given its number
//! later; libcontainer looks at the number alone.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libcontainer::container::{Container as Runtime, ContainerStatus};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// The stored facts of one container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The caller's bundle folder, absolute.
    pub bundle: PathBuf,
    /// The cgroup, below each controller's root.
    pub cgroup: PathBuf,
    /// The process that makes, or made, the container.
    pub creator: Process,
    /// The first process, in our PID namespace; none until create has ended.
    pub init: Option<Process>,
}

/// One process, for all time: numbers are used again, start times are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub pid: i32,
    /// Clock ticks after boot (`starttime` in proc_pid_stat(5)).
    pub start_ticks: u64,
}

/// Where a container is in its life, in the OCI specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

/// One container's folder and record.
#[derive(Debug)]
pub(super) struct Container {
    pub id: String,
    pub dir: PathBuf,
    pub record: Record,
}

// === impl Status ===

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

// === impl Process ===

impl Process {
    /// This process.
    pub(super) fn own() -> Result<Self> {
        let pid = i32::try_from(std::process::id()).ok();
        pid.and_then(Self::living)
            .ok_or_else(|| Error::Bug("/proc does not show this process".to_owned()))
    }

    /// The process that has this number now, unless it has ended.
    pub(super) fn living(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the command in parentheses and may hold any text;
        // the third is the state and the 22nd the start time.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// Whether this very process has not ended.
    pub(super) fn is_alive(self) -> bool {
        Self::living(self.pid) == Some(self)
    }
}

// === impl Container ===

impl Container {
    /// Takes an id and makes its folder. Two creates of one id: one wins.
    pub(super) fn claim(root: &Path, id: &str, record: Record, spec: &Spec) -> Result<Self> {
        check_id(id)?;
        make_private_dir(root, true)?;
        // Filled under another name (no id has a `~`), so that the id is never
        // taken by a folder without a record, whenever this process is killed.
        let draft = root.join(format!("~{id}.{}", std::process::id()));
        let _ = fs::remove_dir_all(&draft);
        make_private_dir(&draft, false)?;
        let container = Self {
            id: id.to_owned(),
            dir: draft.clone(),
            record,
        };
        container.save_record()?;
        save_json(&container.spec_file(), spec)?;
        let dir = root.join(id);
        match fs::rename(&draft, &dir) {
            Ok(()) => Ok(Self { dir, ..container }),
            Err(error) => {
                let _ = fs::remove_dir_all(&draft);
                Err(match error.kind() {
                    ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => {
                        Error::Exists(id.to_owned())
                    }
                    _ => Error::path("create", &dir)(error),
                })
            }
        }
    }

    pub(super) fn open(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let dir = root.join(id);
        let record = match load_json(&dir.join("record.json")) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(Error::NotFound(id.to_owned()));
            }
            record => record?,
        };
        Ok(Self {
            id: id.to_owned(),
            dir,
            record,
        })
    }

    pub(super) fn save_record(&self) -> Result<()> {
        save_json(&self.dir.join("record.json"), &self.record)
    }

    /// The specification as the caller's bundle had it at create.
    pub(super) fn spec(&self) -> Result<Spec> {
        load_json(&self.spec_file())
    }

    fn spec_file(&self) -> PathBuf {
        self.dir.join("spec.json")
    }

    /// The folder to give libcontainer as its state root.
    pub(super) fn runtime_root(&self) -> PathBuf {
        self.dir.join("runtime")
    }

    /// libcontainer's view of the container.
    pub(super) fn runtime(&self) -> Result<Runtime> {
        Runtime::load(self.runtime_root().join(&self.id)).map_err(Error::libcontainer(format!(
            "cannot read the state of container {:?}",
            self.id
        )))
    }

    pub(super) fn status(&self) -> Status {
        match self.record.init {
            None => Status::Creating,
            Some(init) if !init.is_alive() => Status::Stopped,
            Some(_) => match self.runtime().map(|runtime| runtime.status()) {
                Ok(ContainerStatus::Creating | ContainerStatus::Created) => Status::Created,
                _ => Status::Running,
            },
        }
    }

    /// The first process, if the container has one that lives.
    pub(super) fn living_init(&self) -> Option<Process> {
        self.record.init.filter(|init| init.is_alive())
    }

    /// The error for a call that does not fit the present state.
    pub(super) fn wrong_state(&self, call: &'static str) -> Error {
        Error::State {
            call,
            id: self.id.clone(),
            status: self.status().as_str(),
        }
    }

    /// Forgets the container.
    pub(super) fn remove(&self) -> Result<()> {
        // Under another name (no id has a `~`) no exec adds to it any more. Left
        // there half-way, the next delete sweeps it up.
        let draft = self
            .root()
            .join(format!("~{}.{}", self.id, std::process::id()));
        let _ = fs::remove_dir_all(&draft);
        match fs::rename(&self.dir, &draft) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(Error::path("remove", &self.dir))?,
        }
        fs::remove_dir_all(&draft).map_err(Error::path("remove", &draft))
    }

    /// The folder of all containers.
    fn root(&self) -> &Path {
        self.dir.parent().unwrap_or(Path::new("/"))
    }
}

/// Removes what creates that were killed at their very beginning left behind.
pub(super) fn sweep_drafts(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let draft = name
            .to_str()
            .and_then(|name| name.strip_prefix('~')?.rsplit_once('.'));
        let creator = draft.and_then(|(_, pid)| pid.parse().ok());
        if creator.is_some_and(|pid| Process::living(pid).is_none()) {
            // Best effort: a draft is no container, it only takes room.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Ids become names of files and cgroups: runc's alphabet, nothing else.
fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id == "." || id == ".." || id.len() > 255 || !id.chars().all(allowed) {
        return Err(Error::Usage(format!(
            "{id:?} is no container id (letters, digits, _ + - .)"
        )));
    }
    Ok(())
}

/// Creates a folder that only its owner may enter.
pub(super) fn make_private_dir(path: &Path, parents: bool) -> Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(parents)
        .create(path)
        .map_err(Error::path("create", path))
}

pub(super) fn load_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(Error::path("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn save_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    replace_file(path, &bytes, 0o600)
}

/// Writes a whole file or leaves the old one: readers never see a part.
pub(super) fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(name);
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::path("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::{Process, check_id};

    #[test]
    fn ids_that_could_leave_the_folder_are_refused() {
        for id in ["", ".", "..", "a/b", "a b", "\u{e9}", "a\0"] {
            assert!(check_id(id).is_err(), "{id:?} was taken");
        }
        assert!(check_id("w-01.a_b+c").is_ok());
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Process::living(pid).unwrap();
        assert!(own.is_alive());
        let earlier = Process {
            start_ticks: own.start_ticks - 1,
            ..own
        };
        assert!(!earlier.is_alive());
        assert!(Process::living(i32::MAX).is_none());
    }
}

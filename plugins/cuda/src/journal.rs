//! For whom this plugin changed what about MIG: a file in the folder that outlives it.
//!
//! What is to be made is written before it is made, and what became of it after; so
//! whoever comes next, after whatever crash, knows what is ours and takes it up. What is
//! not in here is somebody else's, and is never unmade.
//!
//! One process changes MIG at a time, and nobody looks at GPUs meanwhile: an NVML that is
//! open is a client, for whose sake a driver refuses to switch MIG. Who wants to change it
//! says so by a lock of its own: new looks wait for that, and who listens for long leaves.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::layout::GpuInstance;
use crate::nvml::Instance;

const FILE: &str = "mig.json";
const LOCK: &str = "mig.lock";
const WANTED: &str = "mig.wanted";
/// The format's.
const VERSION: u32 = 1;
/// How long others are waited for: what a call is for takes time as well.
const CHANGE: Duration = Duration::from_secs(4);
/// The same for a look, and for one that may take little time.
pub(crate) const LOOK: Duration = Duration::from_secs(4);
pub(crate) const GLANCE: Duration = Duration::from_secs(1);

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Store(PathBuf);

/// One allocation's use of one GPU, or of one place on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Whose it is.
    pub(crate) allocation: String,
    /// The GPU's id.
    pub(crate) gpu: String,
    /// Where it is on the bus.
    pub(crate) address: String,
    /// In which boot of the machine: no instance outlives one.
    pub(crate) boot: String,
    /// When, ms since then.
    pub(crate) at_ms: u64,
    /// The instance; `None`: the GPU as a whole, or a share of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<Part>,
}

/// An instance that is to be made, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The driver's number for its profile.
    pub(crate) profile: u32,
    /// The memory slices that it covers.
    pub(crate) start: u32,
    pub(crate) size: u32,
    /// The GPU instances that there were before: none of them is it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) before: Vec<u32>,
    /// What was made; `None`: nobody noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<Made>,
}

/// An instance that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) gi: u32,
    pub(crate) ci: u32,
    /// The MIG device's.
    pub(crate) uuid: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    version: u32,
    entries: Vec<Entry>,
}

impl Entry {
    /// Is it about the same place of the same allocation?
    pub(crate) fn same(&self, other: &Self) -> bool {
        let key = |entry: &Self| entry.part.as_ref().map(|part| part.start);
        (&self.allocation, &self.gpu, key(self)) == (&other.allocation, &other.gpu, key(other))
    }
}

impl Part {
    /// Is it this GPU instance, with these MIG devices?
    pub(crate) fn is(&self, instance: &GpuInstance, devices: &[&Instance]) -> bool {
        let there = (instance.profile, instance.start, instance.size);
        if there != (self.profile, self.start, self.size) {
            return false;
        }
        match &self.made {
            None => !self.before.contains(&instance.id),
            // One without devices is ours, half unmade.
            Some(made) => {
                let named = |device: &&Instance| device.uuid.as_ref() == Some(&made.uuid);
                instance.id == made.gi && (devices.is_empty() || devices.iter().any(named))
            }
        }
    }
}

impl Store {
    /// The folder, which exists.
    pub(crate) fn new(folder: &str) -> Self {
        Self(folder.into())
    }

    /// What is written, as it is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, Error> {
        let path = self.0.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(failed(&path, e)),
        };
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|e| failed(&path, e.into()))?;
        if document.version != VERSION {
            let why = format!("it has version {}, not {VERSION}", document.version);
            return Err(failed(&path, io::Error::other(why)));
        }
        Ok(document.entries)
    }

    /// For a look at GPUs: keeps everybody from changing MIG.
    ///
    /// # Errors
    /// Somebody changes it, for longer than that.
    pub(crate) fn look(&self, patience: Duration) -> Result<File, Error> {
        let end = Instant::now() + patience;
        let shared = FlockOperation::NonBlockingLockShared;
        drop(self.lock(WANTED, shared, end)?);
        self.lock(LOCK, shared, end)
    }

    /// Does somebody want to change MIG, or is at it?
    pub(crate) fn is_wanted(&self) -> bool {
        let shared = FlockOperation::NonBlockingLockShared;
        let now = self.lock(WANTED, shared, Instant::now());
        now.is_err_and(|error| error == Error::Turn)
    }

    /// For a change of MIG: until it is dropped nobody else looks or changes.
    ///
    /// # Errors
    /// Somebody else does, for long; or the file cannot be read.
    pub(crate) fn turn(&self) -> Result<Turn<'_>, Error> {
        let end = Instant::now() + CHANGE;
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let wanted = self.lock(WANTED, exclusive, end)?;
        let lock = self.lock(LOCK, exclusive, end)?;
        Ok(Turn {
            store: self,
            entries: self.entries()?,
            _locks: (lock, wanted),
        })
    }

    fn lock(&self, name: &str, how: FlockOperation, end: Instant) -> Result<File, Error> {
        let path = self.0.join(name);
        let open = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            options.open(&path)
        };
        let file = match open() {
            // Whoever takes a state folder apart may have been here.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut builder = DirBuilder::new();
                let made = builder.recursive(true).mode(0o700).create(&self.0);
                made.and_then(|()| open())
            }
            file => file,
        };
        let file = file.map_err(|e| failed(&path, e))?;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(3));
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(Error::Turn),
                Err(e) => return Err(failed(&path, e.into())),
            }
        }
    }

    fn save(&self, entries: &[Entry]) -> Result<(), Error> {
        let path = self.0.join(FILE);
        let document = Document {
            version: VERSION,
            entries: entries.to_vec(),
        };
        replace(&path, &document).map_err(|e| failed(&path, e))
    }
}

/// Puts a document in place of a file, whole and for good.
pub(crate) fn replace(path: &Path, document: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    file.write_all(&serde_json::to_vec(document)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// The right to change MIG, and what is written.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    store: &'a Store,
    entries: Vec<Entry>,
    _locks: (File, File),
}

impl Turn<'_> {
    /// What is written.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What is written for an allocation.
    pub(crate) fn of(&self, allocation: &str) -> Vec<Entry> {
        let its = self.entries.iter().filter(|e| e.allocation == allocation);
        its.cloned().collect()
    }

    /// Writes an entry, over the [same](Entry::same) one.
    ///
    /// # Errors
    /// The disk; then it is as it was.
    pub(crate) fn put(&mut self, entry: Entry) -> Result<(), Error> {
        let mut entries = self.entries.clone();
        match entries.iter_mut().find(|other| other.same(&entry)) {
            Some(other) if *other == entry => return Ok(()),
            Some(other) => *other = entry,
            None => entries.push(entry),
        }
        self.keep(entries)
    }

    /// Forgets what is not to be kept.
    ///
    /// # Errors
    /// The disk; then it is as it was.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) -> Result<(), Error> {
        let entries: Vec<Entry> = self.entries.iter().filter(|e| keep(e)).cloned().collect();
        if entries.len() == self.entries.len() {
            return Ok(());
        }
        self.keep(entries)
    }

    fn keep(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        self.store.save(&entries)?;
        self.entries = entries;
        Ok(())
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::Journal {
        path: path.display().to_string(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(allocation: &str, start: u32) -> Entry {
        Entry {
            allocation: allocation.into(),
            gpu: "GPU-1".into(),
            address: "0000:01:00.0".into(),
            boot: "b".into(),
            at_ms: 1,
            part: Some(Part {
                profile: 9,
                start,
                size: 4,
                before: vec![3],
                made: None,
            }),
        }
    }

    #[test]
    fn what_is_written_is_there_for_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_str().unwrap());
        assert_eq!(store.entries().unwrap(), []);
        let mut turn = store.turn().unwrap();
        turn.put(entry("a", 0)).unwrap();
        turn.put(entry("b", 4)).unwrap();
        let mut made = entry("a", 0);
        made.part.as_mut().unwrap().made = Some(Made {
            gi: 1,
            ci: 0,
            uuid: "MIG-1".into(),
        });
        turn.put(made.clone()).unwrap();
        drop(turn);
        assert_eq!(store.entries().unwrap(), [made.clone(), entry("b", 4)]);
        let mut turn = store.turn().unwrap();
        turn.retain(|e| e.allocation != "b").unwrap();
        assert_eq!(turn.of("a"), [made]);
        assert_eq!(store.entries().unwrap().len(), 1);
    }

    #[test]
    fn one_changes_and_nobody_looks_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_str().unwrap());
        let soon = Duration::from_millis(20);
        let (one, two) = (store.look(soon).unwrap(), store.look(soon).unwrap());
        assert!(!store.is_wanted());
        let turn = thread::scope(|threads| {
            let turn = threads.spawn(|| store.turn().map(drop));
            while !store.is_wanted() {
                thread::sleep(Duration::from_millis(1));
            }
            // Who comes now waits for that.
            assert_eq!(store.look(soon).unwrap_err(), Error::Turn);
            assert!(!turn.is_finished());
            drop((one, two));
            turn.join().unwrap()
        });
        turn.unwrap();
        let turn = store.turn().unwrap();
        assert_eq!(store.look(soon).unwrap_err(), Error::Turn);
        drop(turn);
        assert!(store.look(soon).is_ok());
    }

    #[test]
    fn what_is_damaged_is_not_taken_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_str().unwrap());
        for text in ["", "{", r#"{"version":2,"entries":[]}"#] {
            fs::write(folder.path().join(FILE), text).unwrap();
            assert!(store.entries().is_err(), "{text}");
            assert!(store.turn().is_err(), "{text}");
        }
    }

    #[test]
    fn an_instance_is_ours_if_it_is_what_we_meant_to_make() {
        let there = GpuInstance {
            id: 2,
            profile: 9,
            start: 0,
            size: 4,
        };
        let device = |uuid: &str| Instance {
            uuid: Some(uuid.into()),
            ..Instance::default()
        };
        let mut part = entry("a", 0).part.unwrap();
        assert!(part.is(&there, &[]));
        assert!(!part.is(&GpuInstance { id: 3, ..there }, &[]));
        assert!(!part.is(&GpuInstance { start: 4, ..there }, &[]));
        assert!(!part.is(
            &GpuInstance {
                profile: 5,
                ..there
            },
            &[]
        ));
        part.made = Some(Made {
            gi: 2,
            ci: 0,
            uuid: "MIG-1".into(),
        });
        assert!(part.is(&there, &[]));
        assert!(part.is(&there, &[&device("MIG-1")]));
        // Made anew by somebody else, in the same place with the same number.
        assert!(!part.is(&there, &[&device("MIG-2")]));
        assert!(!part.is(&GpuInstance { id: 4, ..there }, &[]));
    }
}

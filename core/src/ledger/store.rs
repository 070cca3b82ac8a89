//! The file, its lock, and transactions.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{Database, ReadableTable, TableDefinition};
use rustix::fs::{FlockOperation, flock};

use super::codec;
use super::group::Group;
use crate::failpoint::{Point, hit};
use crate::model::Record;
use crate::sys;

const RECORDS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("records");
/// The lock file. Not empty once there is a ledger, so that one which was
/// deleted or emptied is not taken for a new one: it holds the ledger's
/// generation, 8 bytes, which every commit changes.
const LOCK: &str = "ledger.lock";
/// How long a transaction waits for another to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// redb's page cache, bytes; its default of 1 GiB is for other databases.
const CACHE: usize = 4 << 20;

/// Why the ledger could not be read or written. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The state folder or its lock.
    #[error("the state folder {0} cannot be used: {1}; {remedy}", remedy = sys::remedy(.1, "name another with --state"))]
    Folder(PathBuf, io::Error),
    /// Someone else held it too long.
    #[error(
        "another divvy has held the ledger {0} for over 10 s; try again, or end it if it hangs"
    )]
    Locked(PathBuf),
    /// The disk is full, or its writes fail.
    #[error("the ledger {0} cannot be written: {1}; nothing was changed")]
    Io(PathBuf, io::Error),
    /// The file is gone, and what it knew with it.
    #[error(
        "the ledger {0} is damaged: it was deleted or emptied. Nothing is granted or freed without it. `divvy state rebuild` makes a new one from the copies that the workloads carry"
    )]
    Lost(PathBuf),
    /// The file is not what was written.
    #[error(
        "the ledger {path} is damaged: {why}. Nothing is granted or freed on a damaged ledger. `divvy state check` says more; `divvy state rebuild` sets it aside and makes a new one from the copies that the workloads carry"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl LedgerError {
    /// The same, for another caller.
    pub(super) fn copy(&self) -> Self {
        let io = |e: &io::Error| match e.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(e.kind(), e.to_string()),
        };
        match self {
            Self::Folder(path, e) => Self::Folder(path.clone(), io(e)),
            Self::Locked(path) => Self::Locked(path.clone()),
            Self::Lost(path) => Self::Lost(path.clone()),
            Self::Io(path, e) => Self::Io(path.clone(), io(e)),
            Self::Damaged { path, why } => Self::Damaged {
                path: path.clone(),
                why: why.clone(),
            },
        }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Folder(_, error) if sys::no_more_files(error) => "system",
            Self::Folder(..) => "state_folder",
            Self::Locked(_) => "ledger_locked",
            Self::Io(..) => "ledger_io",
            Self::Damaged { .. } | Self::Lost(_) => "ledger_damaged",
        }
    }
}

/// The ledger of one state folder. Holds nothing open.
#[derive(Clone, Debug)]
pub struct Ledger {
    folder: PathBuf,
    group: Option<Arc<Group>>,
}

/// The ledger while its lock is held. The order matters: closing the file
/// writes to it, so the lock goes last.
#[derive(Debug)]
pub(super) struct Open {
    db: Database,
    pub(super) transaction: Transaction,
    lock: File,
}

/// What became of a ledger that was to be made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It can be read, and was left alone. Its records.
    Sound(Vec<Record>),
    /// It is new.
    New {
        /// Its records.
        records: Vec<Record>,
        /// Where the old file is now.
        set_aside: Option<PathBuf>,
    },
}

/// One transaction: reads see what was committed before it and what it wrote.
#[derive(Debug, Default)]
pub struct Transaction {
    records: Vec<Record>,
    changed: Vec<(String, Option<Record>)>,
    undo: Vec<Undo>,
}

/// How one change is taken back; the last one first.
#[derive(Debug)]
enum Undo {
    Replaced(usize, Box<Record>),
    Added,
    Removed(usize, Box<Record>),
    Nothing,
}

impl Transaction {
    /// All records, oldest first.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The record of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Record> {
        self.records.iter().find(|r| r.id == id)
    }

    /// Writes a record, new or not.
    pub fn put(&mut self, record: Record) {
        self.changed.push((record.id.clone(), Some(record.clone())));
        self.undo.push(match self.place(&record.id) {
            Some(at) => {
                let old = std::mem::replace(&mut self.records[at], record);
                Undo::Replaced(at, Box::new(old))
            }
            None => {
                self.records.push(record);
                Undo::Added
            }
        });
    }

    /// Removes a record, if it is there.
    pub fn remove(&mut self, id: &str) {
        self.changed.push((id.to_owned(), None));
        self.undo.push(match self.place(id) {
            Some(at) => Undo::Removed(at, Box::new(self.records.remove(at))),
            None => Undo::Nothing,
        });
    }

    fn place(&self, id: &str) -> Option<usize> {
        self.records.iter().position(|r| r.id == id)
    }

    /// How much has been written so far.
    pub(super) fn mark(&self) -> usize {
        self.changed.len()
    }

    /// Takes back what was written since that mark.
    pub(super) fn roll_back(&mut self, mark: usize) {
        self.changed.truncate(mark);
        for undo in self.undo.drain(mark.min(self.undo.len())..).rev() {
            match undo {
                Undo::Replaced(at, old) => self.records[at] = *old,
                Undo::Added => drop(self.records.pop()),
                Undo::Removed(at, old) => self.records.insert(at, *old),
                Undo::Nothing => {}
            }
        }
    }
}

impl Ledger {
    /// The ledger in this state folder, which is made (0700) when first
    /// written to.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            group: None,
        }
    }

    /// The same ledger for many threads: those that come together share a
    /// commit, and reading costs nothing while nobody has written. Clones
    /// share this.
    #[must_use]
    pub fn grouped(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            group: Some(Arc::default()),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join("ledger.redb")
    }

    /// Runs one transaction. If `decide` fails, nothing is written; if it
    /// writes nothing, nothing is committed. When this returns `Ok`, what was
    /// written is on the disk.
    ///
    /// # Errors
    /// [`LedgerError`] as `E`, or whatever `decide` says.
    pub fn transact<T, E: From<LedgerError>>(
        &self,
        decide: impl FnOnce(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        if let Some(group) = &self.group {
            return group.transact(self, decide);
        }
        let mut open = self.begin()?;
        let value = decide(&mut open.transaction)?;
        self.commit(&mut open)?;
        Ok(value)
    }

    /// Locks, opens, checks and reads it.
    pub(super) fn begin(&self) -> Result<Open, LedgerError> {
        let lock = self.lock()?;
        hit(Point::LedgerLocked);
        let db = self.guarded(|| self.open(&lock))?;
        hit(Point::LedgerOpened);
        let records = self.guarded(|| self.read(&db))?;
        let transaction = Transaction {
            records,
            ..Transaction::default()
        };
        Ok(Open {
            db,
            transaction,
            lock,
        })
    }

    /// Writes what was changed, if anything was.
    pub(super) fn commit(&self, open: &mut Open) -> Result<(), LedgerError> {
        hit(Point::LedgerDecided);
        let changed = std::mem::take(&mut open.transaction.changed);
        open.transaction.undo.clear();
        if changed.is_empty() {
            return Ok(());
        }
        // Before the commit: a generation without one costs others a look, a
        // commit without one would go unseen.
        self.next_generation(&open.lock)
            .map_err(|e| LedgerError::Io(self.folder.join(LOCK), e))?;
        self.guarded(|| self.write(&open.db, &changed))
    }

    fn next_generation(&self, lock: &File) -> io::Result<()> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let next = now.max(read_generation(lock).saturating_add(1));
        lock.write_all_at(&next.to_le_bytes(), 0)
    }

    /// A number that is another one after every commit, whoever made it;
    /// `None` before the first.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        let lock = File::open(self.folder.join(LOCK)).ok()?;
        Some(read_generation(&lock)).filter(|g| *g > 0)
    }

    /// All records, oldest first; none if there is no ledger yet.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn records(&self) -> Result<Vec<Record>, LedgerError> {
        self.shared_records().map(Arc::unwrap_or_clone)
    }

    /// As [`records`](Self::records), not copied for each reader.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn shared_records(&self) -> Result<Arc<Vec<Record>>, LedgerError> {
        if !self.folder.join(LOCK).exists() && !self.has_copies() {
            return Ok(Arc::default());
        }
        match &self.group {
            Some(group) => group.records(self),
            None => Ok(Arc::new(self.begin()?.transaction.records)),
        }
    }

    /// Makes a new ledger of these records where the old one cannot be read,
    /// which is set aside. A sound one is left alone: it knows more than any
    /// copy. Nobody else reads or writes it meanwhile.
    ///
    /// # Errors
    /// [`LedgerError`] as `E`, or whatever `records` says.
    pub fn renew<E: From<LedgerError>>(
        &self,
        records: impl FnOnce() -> Result<Vec<Record>, E>,
    ) -> Result<Renewal, E> {
        let lock = self.lock()?;
        let sound = self.guarded(|| self.open(&lock).and_then(|db| self.read(&db)));
        match sound {
            Ok(records) => return Ok(Renewal::Sound(records)),
            Err(LedgerError::Damaged { .. } | LedgerError::Lost(_)) => {}
            Err(other) => return Err(other.into()),
        }
        let records = records()?;
        hit(Point::RebuildRead);
        let (path, new) = (self.path(), self.folder.join("ledger.new"));
        let io = |e| LedgerError::Io(path.clone(), e);
        // Of a rebuild that was killed.
        let _ = std::fs::remove_file(&new);
        self.guarded(|| {
            let changed: Vec<_> = records
                .iter()
                .map(|r| (r.id.clone(), Some(r.clone())))
                .collect();
            self.write(&self.database(private(&new).map_err(io)?)?, &changed)
        })?;
        hit(Point::RebuildWritten);
        // Killed between the two, the ledger is lost, and made anew again.
        let aside = path.with_extension(format!("damaged-{}", crate::sys::now_ms()));
        let set_aside = match std::fs::rename(&path, &aside) {
            Ok(()) => Some(aside),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io(e).into()),
        };
        hit(Point::RebuildAside);
        std::fs::rename(&new, &path)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .and_then(|()| self.next_generation(&lock))
            .map_err(io)?;
        hit(Point::RebuildReplaced);
        Ok(Renewal::New { records, set_aside })
    }

    /// Was there a ledger, and is its file gone?
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let empty = std::fs::metadata(self.path()).map_or(true, |m| m.len() == 0);
        empty && (self.folder.join(LOCK).exists() || self.has_copies())
    }

    /// Does a workload carry a copy of its record? Then there was a ledger.
    fn has_copies(&self) -> bool {
        let there = |name: &str, is_one: fn(&Path) -> bool| {
            let entries = std::fs::read_dir(self.folder.join(name));
            let mut entries = entries.into_iter().flatten().filter_map(Result::ok);
            entries.any(|entry| is_one(&entry.path()))
        };
        there("workloads", |folder| folder.join("record.json").exists())
            || there("held", |file| file.extension().is_some_and(|e| e == "json"))
    }

    fn lock(&self) -> Result<File, LedgerError> {
        let folder = |e: io::Error| LedgerError::Folder(self.folder.clone(), e);
        // 0700 and 0600 whatever the umask (S19).
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(folder)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.folder.join(LOCK))
            .map_err(folder)?;
        let end = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(200);
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(pause),
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LedgerError::Locked(self.path())),
                Err(e) => return Err(folder(e.into())),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn open(&self, lock: &File) -> Result<Database, LedgerError> {
        let path = self.path();
        let io = |e| LedgerError::Io(path.clone(), e);
        let file = private(&path).map_err(io)?;
        let known = lock.metadata().map_err(io)?.len() != 0;
        if !known && half_made(&file).map_err(io)? {
            // Whoever made it was killed; nothing was ever written to it.
            file.set_len(0).map_err(io)?;
        }
        let new = file.metadata().map_err(io)?.len() == 0;
        if new && (known || self.has_copies()) {
            return Err(LedgerError::Lost(path));
        }
        let mut db = self.database(file)?;
        if !new && !db.check_integrity().map_err(|e| self.redb(e.into()))? {
            return Err(self.damaged("its integrity check failed".into()));
        }
        if !known {
            lock.set_len(1).map_err(io)?;
        }
        Ok(db)
    }

    fn database(&self, file: File) -> Result<Database, LedgerError> {
        redb::Builder::new()
            .set_cache_size(CACHE)
            .create_with_backend(FileBackend::new(file).map_err(|e| self.redb(e.into()))?)
            .map_err(|e| self.redb(e.into()))
    }

    fn read(&self, db: &Database) -> Result<Vec<Record>, LedgerError> {
        use redb::ReadableDatabase;
        let read = db.begin_read().map_err(|e| self.redb(e.into()))?;
        let table = match read.open_table(RECORDS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(e) => return Err(self.redb(e.into())),
        };
        let mut records = Vec::new();
        for entry in table.iter().map_err(|e| self.redb(e.into()))? {
            let (key, value) = entry.map_err(|e| self.redb(e.into()))?;
            let record = codec::decode(key.value(), value.value())
                .map_err(|e| self.damaged(format!("the record {:?}: {e}", key.value())))?;
            records.push(record);
        }
        records.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        Ok(records)
    }

    fn write(
        &self,
        db: &Database,
        changed: &[(String, Option<Record>)],
    ) -> Result<(), LedgerError> {
        let mut write = db.begin_write().map_err(|e| self.redb(e.into()))?;
        // The file's checksums tell a torn commit from a whole one even where
        // the disk reorders: two phases are the documented defence.
        write.set_two_phase_commit(true);
        {
            let mut table = write.open_table(RECORDS).map_err(|e| self.redb(e.into()))?;
            for (id, record) in changed {
                match record {
                    Some(record) => {
                        let bytes =
                            codec::encode(record).map_err(|e| self.damaged(e.to_string()))?;
                        table.insert(id.as_str(), bytes.as_slice())
                    }
                    None => table.remove(id.as_str()),
                }
                .map_err(|e| self.redb(e.into()))?;
            }
        }
        hit(Point::LedgerWritten);
        write.commit().map_err(|e| self.redb(e.into()))?;
        hit(Point::LedgerCommitted);
        Ok(())
    }

    /// Runs something of redb's; a panic in it is damage (redb has panicked on
    /// flipped bits even behind its check).
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let _silent = crate::sys::quiet_panics();
        catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(self.damaged("the store cannot make sense of it".into())))
    }

    fn redb(&self, error: redb::Error) -> LedgerError {
        match error {
            redb::Error::Io(e)
                if !matches!(
                    e.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                LedgerError::Io(self.path(), e)
            }
            redb::Error::DatabaseAlreadyOpen => LedgerError::Locked(self.path()),
            other => self.damaged(other.to_string()),
        }
    }

    fn damaged(&self, why: String) -> LedgerError {
        LedgerError::Damaged {
            path: self.path(),
            why,
        }
    }
}

fn read_generation(lock: &File) -> u64 {
    let mut bytes = [0; 8];
    match lock.read_exact_at(&mut bytes, 0) {
        Ok(()) => u64::from_le_bytes(bytes),
        // Of a version before there were generations, or a new one.
        Err(_) => 0,
    }
}

/// Opens a file that is its owner's alone, whatever the umask (S19).
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Is this what redb leaves when it is killed while it makes a file? The first
/// bytes, by which it knows its own, come last.
fn half_made(file: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut first = [0; 9];
    match file.read_exact_at(&mut first, 0) {
        Ok(()) => Ok(first == [0; 9]),
        // Too short to be anything.
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(file.metadata()?.len() > 0),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;

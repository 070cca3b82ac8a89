//! Device memory that processes have allocated, held as locks on the description file.
//!
//! Each GPU (or MIG GPU instance) has a range of offsets far behind the file's end, divided into
//! slots. A process takes one slot and holds an open-file-description read lock on as
//! many bytes of it as it has allocated. So what is allocated is what is locked: the
//! kernel adds nothing and forgets nothing, and frees it when the process ends, however.
//! Read locks need no right to write, so this works over read-only mounts. Deciding
//! whether there is room is made exclusive by `flock` on the same file.
//!
//! Whose slot it is says a second lock of one byte, a classic POSIX one: the kernel tells its
//! owner's process id, translated into the pid namespace of who asks. Such a lock goes as soon
//! as its process closes *any* descriptor of the file. So nothing here closes one before
//! the process ends, and each [`Ledger::reserve`], [`Ledger::release`] and [`Ledger::sign`] takes
//! it again. Without it the bytes stay exact and only the process is unknown.
//!
//! The locks are on the file's inode: a description is changed in place, never by a rename.
//! A forked child shares its parent's locks, as it shares the descriptors of the real
//! driver's nodes: what the parent allocated stays until both have ended.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{FlockOperation, flock};

use crate::{Description, Machine};

/// Of one process on one GPU: a slot's size. Half of it is for bytes.
const SLOT: u64 = 1 << 40;
/// Where in a slot the lock is that tells the process.
const TAG: u64 = SLOT / 2;
/// The processes on one GPU, at most.
const SLOTS: u64 = 1 << 10;
/// GPU instances of one GPU, at most, and the GPU itself.
const INSTANCES: u64 = 32;

const MIB: u64 = 1 << 20;

/// A GPU or GPU instance whose memory is counted: where its range of offsets begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

impl Place {
    /// Of the GPU of that name or, of those on it, the instance with that id.
    #[must_use]
    pub fn of(description: &Description, gpu: &str, gi: Option<u32>) -> Option<Self> {
        let gpu = description.gpu.keys().position(|name| name == gpu)?;
        let gi = gi.map_or(0, |id| u64::from(id) + 1);
        // The first range stays free: the file itself is there.
        let number = (u64::try_from(gpu).ok()?).checked_mul(INSTANCES)? + gi + 1;
        let end = (number + 1).checked_mul(SLOT * SLOTS)?;
        (gi < INSTANCES && i64::try_from(end).is_ok()).then_some(Self(number * SLOT * SLOTS))
    }

    fn slot(self, number: u64) -> u64 {
        self.0 + number * SLOT
    }

    fn end(self) -> u64 {
        self.0 + SLOTS * SLOT
    }
}

/// What processes may allocate there, all together, in bytes. `None`: there is no such GPU or
/// instance, or it has no memory of its own.
#[must_use]
pub fn capacity(description: &Description, gpu: &str, gi: Option<u32>) -> Option<u64> {
    let gpu = description.gpu.get(gpu)?;
    let mib = match gi {
        None => gpu
            .memory_mib?
            .saturating_sub(gpu.reserved_mib)
            .saturating_sub(gpu.used_mib),
        Some(gi) => {
            let within = || gpu.instance.iter().filter(|instance| instance.gi == gi);
            let profile = gpu.profile.get(&within().next()?.profile)?;
            let used: u64 = within().map(|instance| instance.used_mib).sum();
            profile.memory_mib.saturating_sub(used)
        }
    };
    let others = match gi {
        None => gpu
            .process
            .iter()
            .filter_map(|process| process.memory_mib)
            .sum(),
        Some(_) => 0,
    };
    Some(mib.saturating_sub(others) * MIB)
}

/// Who holds how much: the process's id, `None` where it is not to be seen from here, and bytes.
pub type Use = (Option<u32>, u64);

/// The processes that have memory of the GPU, or of that instance of it, and how much each.
///
/// # Errors
/// The description file cannot be opened, or locks not be asked for.
pub fn used(machine: &Machine, gpu: &str, gi: Option<u32>) -> io::Result<Vec<Use>> {
    let Some(place) = Place::of(&machine.current(), gpu, gi) else {
        return Ok(Vec::new());
    };
    snapshot(witness(machine.file())?, place)
}

/// The same, for who is changing the machine ([`Machine::try_change`]) and so has everybody
/// else wait: as the description is there.
///
/// # Errors
/// As [`used`].
pub fn held_now(
    machine: &Machine,
    description: &Description,
    gpu: &str,
    gi: Option<u32>,
) -> io::Result<Vec<Use>> {
    match Place::of(description, gpu, gi) {
        Some(place) => held(witness(machine.file())?, place),
        None => Ok(Vec::new()),
    }
}

/// All that is held at one moment: nobody reserves meanwhile.
fn snapshot(file: &'static File, place: Place) -> io::Result<Vec<Use>> {
    let _turn = Turn::take(file)?;
    held(file, place)
}

/// Why nothing was reserved.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is less room.
    #[error("only {free} bytes are free")]
    Full {
        /// The bytes that nobody holds.
        free: u64,
    },
    /// The description file cannot be locked.
    #[error("the description file: {0}")]
    File(#[from] io::Error),
}

/// What this process has allocated. A process has one for each machine.
#[derive(Debug)]
pub struct Ledger {
    /// Its description owns the locks.
    holder: File,
    /// Another of the same file: whoever asks about locks is not told their own.
    witness: &'static File,
    /// The slots taken, and the bytes held there.
    slots: Mutex<BTreeMap<Place, Slot>>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    start: u64,
    bytes: u64,
}

impl Ledger {
    /// Nothing is allocated yet.
    ///
    /// # Errors
    /// The description file cannot be opened.
    pub fn open(description: &Path) -> io::Result<Self> {
        Ok(Self {
            holder: read_only(description)?,
            witness: witness(description)?,
            slots: Mutex::default(),
        })
    }

    /// Takes `bytes` if all processes together then have no more than `capacity`.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn reserve(&self, place: Place, bytes: u64, capacity: u64) -> Result<(), Refused> {
        if bytes == 0 {
            return Ok(());
        }
        let mut slots = self.slots();
        let _turn = Turn::take(self.witness)?;
        let all = held(self.witness, place)?;
        let free = capacity.saturating_sub(all.iter().map(|(_, bytes)| bytes).sum());
        if bytes > free {
            return Err(Refused::Full { free });
        }
        let slot = match slots.get(&place) {
            Some(slot) => *slot,
            None => Slot {
                start: free_slot(self.witness, place)?,
                bytes: 0,
            },
        };
        let after = slot.bytes.saturating_add(bytes);
        if after > TAG {
            return Err(Refused::Full {
                free: TAG - slot.bytes,
            });
        }
        // Over what is held already as well: one lock, made longer at once.
        lock(
            &self.holder,
            libc::F_OFD_SETLK,
            libc::F_RDLCK,
            slot.start,
            after,
        )?;
        tag(&self.holder, libc::F_RDLCK, slot.start);
        slots.insert(
            place,
            Slot {
                start: slot.start,
                bytes: after,
            },
        );
        Ok(())
    }

    /// Gives `bytes` back.
    ///
    /// # Errors
    /// They were not held, or the file cannot be locked; nothing has changed then.
    pub fn release(&self, place: Place, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut slots = self.slots();
        let slot = slots.get(&place).copied();
        let Some(slot) = slot.filter(|slot| slot.bytes >= bytes) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let after = slot.bytes - bytes;
        // The tag first, where all goes: a slot that is free has none.
        let kind = if after == 0 {
            libc::F_UNLCK
        } else {
            libc::F_RDLCK
        };
        tag(&self.holder, kind, slot.start);
        lock(
            &self.holder,
            libc::F_OFD_SETLK,
            libc::F_UNLCK,
            slot.start + after,
            bytes,
        )?;
        match after {
            0 => slots.remove(&place),
            bytes => slots.insert(
                place,
                Slot {
                    start: slot.start,
                    bytes,
                },
            ),
        };
        Ok(())
    }

    /// What this process holds there.
    #[must_use]
    pub fn own(&self, place: Place) -> u64 {
        self.slots().get(&place).map_or(0, |slot| slot.bytes)
    }

    /// What all processes hold there.
    ///
    /// # Errors
    /// Locks cannot be asked for.
    pub fn used(&self, place: Place) -> io::Result<Vec<Use>> {
        snapshot(self.witness, place)
    }

    /// Says again whose memory this is: for who may have closed a descriptor of the file.
    pub fn sign(&self) {
        for slot in self.slots().values() {
            tag(&self.holder, libc::F_RDLCK, slot.start);
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<Place, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This process's and thread's turn to decide about room.
struct Turn(&'static File);

/// All ledgers of this process share the witness's description, and so its `flock`.
static TURN: Mutex<()> = Mutex::new(());

impl Turn {
    fn take(file: &'static File) -> io::Result<(Self, MutexGuard<'static, ()>)> {
        let threads = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match flock(file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok((Self(file), threads)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// A descriptor of the file that asks about locks and owns none; never closed.
fn witness(path: &Path) -> io::Result<&'static File> {
    static OPEN: Mutex<BTreeMap<(u64, u64), &'static File>> = Mutex::new(BTreeMap::new());
    let inode = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = open.get(&inode(&path.metadata()?)) {
        return Ok(file);
    }
    let file: &'static File = Box::leak(Box::new(read_only(path)?));
    open.insert(inode(&file.metadata()?), file);
    Ok(file)
}

fn read_only(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
}

/// All that is held there.
fn held(file: &File, place: Place) -> io::Result<Vec<Use>> {
    let mut all = Vec::new();
    // Of several locks the kernel tells any one: what is before it and behind it is left to ask.
    let mut left = vec![(place.0, place.end())];
    while let Some((from, to)) = left.pop() {
        let Some(found) = conflict(file, from, to - from)? else {
            continue;
        };
        let slot = found.start - (found.start - place.0) % SLOT;
        if found.start < slot + TAG {
            let pid = conflict(file, slot + TAG, 1)?.and_then(|tag| tag.pid);
            all.push((pid, found.bytes));
        }
        let end = found.start + found.bytes;
        for (from, to) in [(from, found.start), (end, to)] {
            if from < to {
                left.push((from, to));
            }
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// The first slot that nobody has. Called in a [`Turn`], so nobody else takes it.
fn free_slot(file: &File, place: Place) -> Result<u64, Refused> {
    for number in 0..SLOTS {
        if conflict(file, place.slot(number), SLOT)?.is_none() {
            return Ok(place.slot(number));
        }
    }
    Err(Refused::Full { free: 0 })
}

struct Found {
    start: u64,
    bytes: u64,
    pid: Option<u32>,
}

/// A lock there, if any.
fn conflict(file: &File, start: u64, bytes: u64) -> io::Result<Option<Found>> {
    let found = lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, start, bytes)?;
    if i32::from(found.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let (Ok(first), Ok(length)) = (u64::try_from(found.l_start), u64::try_from(found.l_len)) else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    Ok(Some(Found {
        start: first.max(start),
        bytes: length,
        // -1: an open file description's. 0: of a process that is not in this namespace.
        pid: u32::try_from(found.l_pid).ok().filter(|pid| *pid != 0),
    }))
}

/// Says, or no longer says, that the slot is this process's. Where that fails, it is nobody's.
fn tag(file: &File, kind: i32, slot: u64) {
    let _ = lock(file, libc::F_SETLK, kind, slot + TAG, 1);
}

fn lock(file: &File, command: i32, kind: i32, start: u64, bytes: u64) -> io::Result<libc::flock> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    // SAFETY: `flock` is a C struct of integers, for which zeros are a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::c_short::try_from(kind).map_err(invalid)?;
    range.l_whence = 0; // SEEK_SET
    range.l_start = i64::try_from(start).map_err(invalid)?;
    range.l_len = i64::try_from(bytes).map_err(invalid)?;
    // SAFETY: the descriptor is open as long as `file` is borrowed, and these commands take a
    // `struct flock`, which outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(range),
    }
}

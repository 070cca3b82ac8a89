//! The description file, read and changed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, StatVfsMountFlags, Timespec, Timestamps, flock};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::description::{Answer, Description, Fault, Wrong};
use crate::{files, kmsg};

/// What a description file's name begins with; the driver's version follows. It is
/// named like one of the driver's libraries, so that it is mounted with them.
pub const DESCRIPTION: &str = "libnvidia-simulator.so";

/// Folders below a root that a driver's libraries may be in.
pub(crate) const LIBRARIES: [&str; 5] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
];

/// A machine that a description file makes up, as one program sees it.
///
/// Programs on the machine see the *host*: the driver's device nodes are below the
/// machine's `root/`, and root would make those that are not there. Programs in a container
/// have `/dev` and nothing else.
///
/// It never closes the description file once it has it open: this would end the locks that the
/// process has on it ([`crate::memory`]).
#[derive(Debug)]
pub struct Machine {
    file: PathBuf,
    /// Open for who changes it.
    writable: Mutex<Option<&'static File>>,
    /// The machine's folder, for those on the host.
    folder: Option<PathBuf>,
    read: Mutex<Seen>,
    /// How often each fault's call was made.
    calls: Mutex<HashMap<Fault, u64>>,
}

/// What the file said when it was last read.
#[derive(Debug)]
struct Seen {
    file: &'static File,
    stamp: Stamp,
    description: Arc<Description>,
}

/// By this a change is noticed.
type Stamp = (u64, u64, i64, i64);

fn stamp(metadata: &fs::Metadata) -> Stamp {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    (metadata.ino(), metadata.size(), seconds, nanoseconds)
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// The description describes none.
    #[error("{0}: {1}")]
    Description(PathBuf, Wrong),
    /// There is no description.
    #[error("{0}: there is no {DESCRIPTION}.VERSION")]
    NoDescription(PathBuf),
    /// No shared object has code at this address.
    #[error("there is no shared object at {0:#x}")]
    NoLibrary(usize),
}

impl Error {
    /// For `map_err`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::File(path.to_owned(), error)
    }
}

/// What opening a device node gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// It may be opened. (Nobody drives these devices, so the kernel says `ENXIO`.)
    Granted,
    /// It is there, and may not be opened.
    Denied,
    /// It is not there.
    Absent,
}

impl Machine {
    /// The machine in a folder, as its host sees it.
    ///
    /// # Errors
    /// There is no description below the folder, or it cannot be read or parsed.
    pub fn at(folder: &Path) -> Result<Self, Error> {
        let root = folder.join("root");
        let file = LIBRARIES
            .iter()
            .find_map(|at| description_in(&root.join(at)));
        let file = file.ok_or(Error::NoDescription(root))?;
        Self::new(file, Some(folder.to_owned()))
    }

    /// The machine that the shared object with code at this address belongs to.
    ///
    /// # Errors
    /// There is no description beside it, or it cannot be read or parsed.
    pub fn of_library(code: *const ()) -> Result<Self, Error> {
        let library = library_at(code.addr())?;
        let beside = library.parent().unwrap_or(Path::new("/"));
        let file = description_in(beside).ok_or_else(|| Error::NoDescription(beside.to_owned()))?;
        let folder = beside
            .ancestors()
            .filter(|folder| folder.file_name() == Some(OsStr::new("root")))
            .filter_map(Path::parent)
            .find(|folder| folder.join("machine.toml").exists());
        Self::new(file, folder.map(Path::to_owned))
    }

    fn new(file: PathBuf, folder: Option<PathBuf>) -> Result<Self, Error> {
        let seen = read(&file, open(&file, false)?)?;
        Ok(Self {
            file,
            writable: Mutex::default(),
            folder,
            read: Mutex::new(seen),
            calls: Mutex::default(),
        })
    }

    /// The description file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The machine's folder, where this is its host.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What the description says now; where it cannot be read or parsed, what it said
    /// last. It is read again only if it changed. Who holds `flock` on the file must not
    /// call this: it would wait for itself.
    #[must_use]
    pub fn current(&self) -> Arc<Description> {
        let mut seen = lock(&self.read);
        let now = fs::metadata(&self.file).map(|metadata| stamp(&metadata));
        if let Ok(now) = now
            && now != seen.stamp
            && let Ok(new) = self.again(&seen, now)
        {
            *seen = new;
        }
        Arc::clone(&seen.description)
    }

    fn again(&self, seen: &Seen, now: Stamp) -> Result<Seen, Error> {
        // Another inode: somebody put another file there.
        let file = match now.0 == seen.stamp.0 {
            true => seen.file,
            false => open(&self.file, false)?,
        };
        read(&self.file, file)
    }

    fn writable(&self, writable: &mut Option<&'static File>) -> Result<&'static File, Error> {
        let at = || Error::at(&self.file);
        let inode = fs::metadata(&self.file).map_err(at())?.ino();
        if let Some(file) = *writable
            && file.metadata().map_err(at())?.ino() == inode
        {
            return Ok(file);
        }
        Ok(writable.insert(open(&self.file, true)?))
    }

    /// Changes the description, and with it the machine's files, in place: programs
    /// that use it and containers that have it mounted see the change. What the driver would
    /// have said of it is in the kernel's log, `dev/kmsg` below the root.
    ///
    /// # Errors
    /// What the change makes describes no machine, or the files cannot be written. Then
    /// the description is as it was.
    pub fn change(&self, change: impl FnOnce(&mut Description)) -> Result<(), Error> {
        let made = self.try_change(|description| {
            change(description);
            Ok::<(), Infallible>(())
        });
        made.map(|_| ())
    }

    /// The same, where the change may refuse: then nothing is written. One change is made at a
    /// time, and nobody allocates memory meanwhile, so what the change looks at stays as it is
    /// until it is made. It must not call [`Machine::current`] or anything that does: that
    /// would wait for this to end ([`crate::memory::held_now`] is for it).
    ///
    /// # Errors
    /// As [`Machine::change`]; within that, what the change answers.
    pub fn try_change<T, E>(
        &self,
        change: impl FnOnce(&mut Description) -> Result<T, E>,
    ) -> Result<Result<T, E>, Error> {
        // Threads of this process share the file's lock: they have one of their own.
        let mut writable = lock(&self.writable);
        let file = self.writable(&mut writable)?;
        let _turn = Turn::take(&self.file, file, FlockOperation::LockExclusive)?;
        let text = content(file).map_err(Error::at(&self.file))?;
        let wrong = |wrong| Error::Description(self.file.clone(), wrong);
        let before = Description::parse(&text).map_err(wrong)?;
        let mut description = before.clone();
        let answer = match change(&mut description) {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let text = description.text().map_err(wrong)?;
        if let Some(folder) = &self.folder {
            let root = folder.join("root");
            files::make(&description, &root)?;
            // Who hears of an event finds it in the log.
            kmsg::add(&root, &kmsg::news(&before, &description))?;
        }
        overwrite(file, text.as_bytes()).map_err(Error::at(&self.file))?;
        Ok(Ok(answer))
    }

    /// May this program open the driver's device node of that name: `nvidia0`,
    /// `nvidia-caps/nvidia-cap12`?
    #[must_use]
    pub fn may_open(&self, node: &str) -> bool {
        self.node(node) == Node::Granted
    }

    /// What opening the driver's device node of that name gives.
    #[must_use]
    pub fn node(&self, node: &str) -> Node {
        let root = match &self.folder {
            Some(folder) => folder.join("root"),
            None => PathBuf::from("/"),
        };
        let below = Path::new("dev").join(node);
        // Capabilities are only there to be opened, and nobody may write them.
        let access = match node.starts_with("nvidia-caps/") {
            true => OFlags::RDONLY,
            false => OFlags::RDWR,
        };
        let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(root.join(&below), flags, Mode::empty()) {
            Ok(_) | Err(Errno::NXIO | Errno::NODEV) => Node::Granted,
            Err(Errno::NOENT) => {
                let named = |missing: &String| Path::new(missing.trim_start_matches('/')) == below;
                let made = self.folder.is_some() && !self.current().missing.iter().any(named);
                if made { Node::Granted } else { Node::Absent }
            }
            Err(Errno::ACCESS) if self.folder.is_some() && no_devices(&root) => Node::Granted,
            Err(_) => Node::Denied,
        }
    }

    /// The GPUs that are there (also those that are lost) and whose device nodes this
    /// program may open, in NVML's order.
    #[must_use]
    pub fn visible(&self) -> Vec<String> {
        let description = self.current();
        let names = description.present().into_iter().filter(|name| {
            let gpu = description.gpu.get(*name);
            gpu.is_some_and(|gpu| self.may_open(&format!("nvidia{}", gpu.minor)))
        });
        names.map(str::to_owned).collect()
    }

    /// What a fault of the description does to this call, if it does anything. Each of
    /// this program's calls is to be told once. They are counted from when the description
    /// has the fault.
    #[must_use]
    pub fn fault(&self, call: &str, gpu: Option<&str>) -> Option<Answer> {
        self.due(call, gpu, false)
    }

    /// The same for the faults that come when a call has done what it was asked for; to be
    /// told of those that have.
    #[must_use]
    pub fn fault_after(&self, call: &str, gpu: Option<&str>) -> Option<Answer> {
        self.due(call, gpu, true)
    }

    fn due(&self, call: &str, gpu: Option<&str>, after: bool) -> Option<Answer> {
        let description = self.current();
        let mut answer = None;
        for fault in &description.fault {
            let here = fault.gpu.is_none() || fault.gpu.as_deref() == gpu;
            if fault.call != call || !here || fault.after != after {
                continue;
            }
            let due = fault.nth.is_none_or(|nth| {
                let mut calls = lock(&self.calls);
                let made = calls.entry(fault.clone()).or_default();
                *made += 1;
                *made == nth
            });
            if due && answer.is_none() {
                answer = Some(fault.answer.clone());
            }
        }
        answer
    }
}

impl Machine {
    /// Does the description have a call about this GPU hang?
    #[must_use]
    pub fn hangs(&self, call: &str, gpu: Option<&str>) -> bool {
        let here = |fault: &&Fault| fault.gpu.is_none() || fault.gpu.as_deref() == gpu;
        let faults = &self.current().fault;
        let mut mine = faults
            .iter()
            .filter(|fault| fault.call == call)
            .filter(here);
        mine.any(|fault| fault.answer == Answer::Hang)
    }
}

impl Answer {
    /// Does it: hangs, crashes, or gives the number to answer with.
    #[must_use]
    pub fn give(&self) -> u32 {
        match self {
            Self::Code(code) => *code,
            Self::Hang => loop {
                thread::sleep(Duration::from_hours(1));
            },
            Self::Crash => crash(),
        }
    }
}

/// Ends this process by SIGSEGV. Handlers (Rust's own, Python's) put the default back and
/// return, trusting that the instruction faults again: so more than one signal.
fn crash() -> ! {
    for _ in 0..1000 {
        // Cannot fail: the signal exists, and so does this process.
        let _ = kill_process(getpid(), Signal::SEGV);
        thread::sleep(Duration::from_millis(1));
    }
    // The first process of a container ignores signals that it did not ask for.
    std::process::abort()
}

/// Is this on a file system on which device nodes may not be opened, as `/tmp` often is?
/// A real `/dev` is not.
fn no_devices(root: &Path) -> bool {
    let flags = rustix::fs::statvfs(root).map(|mount| mount.f_flag);
    flags.is_ok_and(|flags| flags.contains(StatVfsMountFlags::NODEV))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The description in a folder of libraries.
fn description_in(folder: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let named = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_string_lossy()
            .starts_with(&format!("{DESCRIPTION}."))
    };
    Some(files.find(named)?.path())
}

/// The shared object with code at this address.
fn library_at(address: usize) -> Result<PathBuf, Error> {
    let path = Path::new("/proc/self/maps");
    let maps = fs::read_to_string(path).map_err(Error::at(path))?;
    // 7f5c1b000000-7f5c1b021000 r-xp 00000000 08:01 1234   /usr/lib/libx.so
    let library = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let path = &rest[rest.find('/')?..];
        (start..end).contains(&address).then(|| PathBuf::from(path))
    });
    library.ok_or(Error::NoLibrary(address))
}

/// Opens the file for as long as the process runs.
fn open(path: &Path, write: bool) -> Result<&'static File, Error> {
    let file = OpenOptions::new().read(true).write(write).open(path);
    Ok(Box::leak(Box::new(file.map_err(Error::at(path))?)))
}

/// A lock on the whole file, until it is dropped.
struct Turn(&'static File);

impl Turn {
    fn take(path: &Path, file: &'static File, how: FlockOperation) -> Result<Self, Error> {
        loop {
            match flock(file, how) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::at(path)(error.into())),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Cannot fail: it is locked.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// Reads the file while nobody writes it.
fn read(path: &Path, file: &'static File) -> Result<Seen, Error> {
    let _turn = Turn::take(path, file, FlockOperation::LockShared)?;
    let metadata = file.metadata().map_err(Error::at(path))?;
    let text = content(file).map_err(Error::at(path))?;
    let wrong = |wrong| Error::Description(path.to_owned(), wrong);
    let description = Description::parse(&text).map_err(wrong)?;
    Ok(Seen {
        file,
        stamp: stamp(&metadata),
        description: Arc::new(description),
    })
}

/// All that is in the file. (A forked child shares our offset in it: none is used.)
fn content(file: &File) -> std::io::Result<String> {
    let length = usize::try_from(file.metadata()?.size()).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Gives the file a new content, and a new time: the clock by which files are stamped
/// ticks too slowly to tell two changes apart.
fn overwrite(file: &File, content: &[u8]) -> std::io::Result<()> {
    let before = file.metadata()?;
    file.write_all_at(content, 0)?;
    file.set_len(u64::try_from(content.len()).unwrap_or(u64::MAX))?;
    let after = file.metadata()?;
    let was = (before.mtime(), before.mtime_nsec());
    if (after.mtime(), after.mtime_nsec()) <= was {
        let (tv_sec, tv_nsec) = match was {
            (seconds, 999_999_999) => (seconds + 1, 0),
            (seconds, nanoseconds) => (seconds, nanoseconds + 1),
        };
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(file, &times)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
        summary = "two"
        driver = "580.105.08"
        cuda = "13.0"
        missing = ["dev/nvidia1"]
        [gpu.a]
        uuid = "GPU-a"
        pci = "0000:64:00.0"
        pci_id = "0x2330"
        minor = 0
        name = "A"
        compute_capability = "9.0"
        sms = 132
        [gpu.b]
        uuid = "GPU-b"
        pci = "0000:53:00.0"
        pci_id = "0x2330"
        minor = 1
        name = "B"
        compute_capability = "9.0"
        sms = 132
    "#;

    fn machine() -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        let libraries = folder.path().join("root/usr/lib/x86_64-linux-gnu");
        fs::create_dir_all(&libraries).unwrap();
        fs::write(libraries.join("libnvidia-simulator.so.580.105.08"), TWO).unwrap();
        let machine = Machine::at(folder.path()).unwrap();
        (folder, machine)
    }

    #[test]
    fn a_change_is_seen_by_others_in_the_same_file() {
        let (folder, machine) = machine();
        let other = Machine::at(folder.path()).unwrap();
        let inode = fs::metadata(machine.file()).unwrap().ino();
        for minor in 10..60 {
            let change = |d: &mut Description| d.gpu.get_mut("a").unwrap().minor = minor;
            machine.change(change).unwrap();
            assert_eq!(other.current().gpu["a"].minor, minor);
        }
        assert_eq!(fs::metadata(machine.file()).unwrap().ino(), inode);
        machine
            .change(|d| d.gpu.retain(|name, _| name == "a"))
            .unwrap();
        assert_eq!(other.current().gpu.len(), 1);
    }

    #[test]
    fn what_describes_no_machine_changes_nothing() {
        let (_folder, machine) = machine();
        let before = machine.current();
        let error = machine.change(|d| d.order = vec!["c".into()]).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("order: c: there is no such GPU"),
            "{error}"
        );
        assert_eq!(machine.current(), before);
        fs::write(machine.file(), "summary = ").unwrap();
        assert_eq!(machine.current(), before);
    }

    #[test]
    fn the_host_sees_nodes_that_root_would_make() {
        let (_folder, machine) = machine();
        assert_eq!(machine.node("nvidia0"), Node::Granted);
        assert_eq!(machine.node("nvidia1"), Node::Absent);
        assert_eq!(machine.visible(), ["a"]);
        machine.change(|d| d.missing.clear()).unwrap();
        assert_eq!(machine.visible(), ["b", "a"]);
        machine.change(|d| d.order = vec!["a".into()]).unwrap();
        assert_eq!(machine.visible(), ["a", "b"]);
    }

    #[test]
    fn faults_are_counted() {
        let (_folder, machine) = machine();
        let fault = |nth, gpu: Option<&str>, code| Fault {
            call: "cuInit".into(),
            nth,
            gpu: gpu.map(str::to_owned),
            after: false,
            answer: Answer::Code(code),
        };
        let mut faults = vec![fault(Some(2), None, 1), fault(None, Some("b"), 2)];
        faults.push(Fault {
            after: true,
            ..fault(Some(1), None, 3)
        });
        machine.change(|d| d.fault = faults).unwrap();
        assert_eq!(machine.fault("cuInit", None), None);
        assert_eq!(machine.fault("cuOther", None), None);
        assert_eq!(machine.fault("cuInit", Some("a")), Some(Answer::Code(1)));
        assert_eq!(machine.fault("cuInit", Some("b")), Some(Answer::Code(2)));
        assert_eq!(machine.fault_after("cuInit", None), Some(Answer::Code(3)));
        assert_eq!(machine.fault_after("cuInit", None), None);
    }

    #[test]
    fn a_change_may_refuse() {
        let (_folder, machine) = machine();
        let before = machine.current();
        let refused = machine.try_change(|d| {
            d.gpu.clear();
            Err::<(), _>("no")
        });
        assert_eq!(refused.unwrap(), Err("no"));
        assert_eq!(machine.current(), before);
        let made = machine.try_change(|d| Ok::<_, ()>(d.gpu.remove("b").is_some()));
        assert_eq!(made.unwrap(), Ok(true));
        assert_eq!(machine.current().gpu.len(), 1);
    }

    #[test]
    fn changes_at_the_same_time_are_all_made() {
        let (folder, machine) = machine();
        let other = Machine::at(folder.path()).unwrap();
        thread::scope(|threads| {
            for machine in [&machine, &machine, &other, &other] {
                threads.spawn(|| {
                    for _ in 0..50 {
                        machine
                            .change(|d| d.gpu.get_mut("a").unwrap().sms += 1)
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(machine.current().gpu["a"].sms, 132 + 200);
    }
}

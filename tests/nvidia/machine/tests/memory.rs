//! Memory that processes have allocated: exact over threads and processes, gone with them.

#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use divvy_nvidia_machine::{
    Description, Machine,
    memory::{self, Ledger, Place, Refused},
};

const MIB: u64 = 1 << 20;

const TWO: &str = r#"
    summary = "two"
    driver = "580.105.08"
    cuda = "13.0"
    [gpu.a]
    uuid = "GPU-a"
    pci = "0000:64:00.0"
    pci_id = "0x2330"
    minor = 0
    name = "A"
    compute_capability = "9.0"
    sms = 132
    memory_mib = 70
    reserved_mib = 4
    used_mib = 2
    [gpu.b]
    uuid = "GPU-b"
    pci = "0000:53:00.0"
    pci_id = "0x2330"
    minor = 1
    name = "B"
    compute_capability = "9.0"
    sms = 132
    memory_mib = 70
    mig = true
    [gpu.b.profile."1g"]
    id = 19
    compute = 1
    memory = 1
    starts = [0, 1]
    memory_mib = 10
    sms = 16
    max = 7
    [[gpu.b.instance]]
    uuid = "MIG-1"
    profile = "1g"
    gi = 7
    start = 0
    [[gpu.b.instance]]
    uuid = "MIG-2"
    profile = "1g"
    gi = 13
    start = 1
"#;

/// A machine in a folder of its own.
struct Here {
    folder: tempfile::TempDir,
    machine: Machine,
}

fn here() -> Here {
    let folder = tempfile::tempdir().unwrap();
    let libraries = folder.path().join("root/usr/lib/x86_64-linux-gnu");
    fs::create_dir_all(&libraries).unwrap();
    fs::write(libraries.join("libnvidia-simulator.so.580.105.08"), TWO).unwrap();
    let machine = Machine::at(folder.path()).unwrap();
    Here { folder, machine }
}

impl Here {
    fn ledger(&self) -> Ledger {
        Ledger::open(self.machine.file()).unwrap()
    }

    fn used(&self, gpu: &str) -> Vec<(Option<u32>, u64)> {
        memory::used(&self.machine, gpu, None).unwrap()
    }

    fn total(&self, gpu: &str) -> u64 {
        self.used(gpu).iter().map(|(_, bytes)| bytes).sum()
    }

    /// Starts this test program again, to be the other process.
    fn child(&self, role: &str) -> Other {
        Other::start(
            Command::new(std::env::current_exe().unwrap()),
            role,
            self.machine.file(),
        )
    }
}

fn places() -> (Place, u64) {
    let description = Description::parse(TWO).unwrap();
    let capacity = memory::capacity(&description, "a", None).unwrap();
    (Place::of(&description, "a", None).unwrap(), capacity)
}

/// Another process; killed when dropped.
struct Other {
    child: Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Other {
    fn start(mut command: Command, role: &str, file: &Path) -> Self {
        let mut child = command
            .args(["--exact", "another_process", "--nocapture"])
            .env("ROLE", role)
            .env("FILE", file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        Self { child, says }
    }

    /// The number that it says next.
    fn number(&mut self) -> u64 {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.says.read_line(&mut line).unwrap() > 0, "it ended");
            // The test harness writes here too.
            if let Some(number) = line.trim().split_once("says ") {
                return number.1.parse().unwrap();
            }
        }
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the other processes do; no test of its own.
#[test]
fn another_process() {
    let Some(file) = std::env::var_os("FILE").map(PathBuf::from) else {
        return;
    };
    let role = std::env::var("ROLE").unwrap();
    let ledger = Ledger::open(&file).unwrap();
    let (place, capacity) = places();
    let says = |number: u64| println!("\nsays {number}");
    match role.as_str() {
        // Takes all it gets, in pages; says how much; keeps it.
        "greedy" => {
            says(0);
            wait();
            while ledger.reserve(place, 4096, capacity).is_ok() {}
            says(ledger.own(place));
        }
        // Takes and gives back until it is killed.
        "busy" => {
            let mut random = u64::from(std::process::id());
            loop {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let bytes = (random >> 40) % (20 * MIB);
                if random % 2 == 0 {
                    let _ = ledger.reserve(place, bytes, capacity);
                } else {
                    let _ = ledger.release(place, bytes.min(ledger.own(place)));
                }
            }
        }
        // Takes one MiB; says whom it sees.
        "one" => {
            let before = ledger.used(place).unwrap();
            ledger.reserve(place, MIB, capacity).unwrap();
            says(
                before
                    .iter()
                    .filter_map(|(pid, _)| *pid)
                    .map(u64::from)
                    .sum(),
            );
        }
        // Takes one MiB and forks; says the forked child's number.
        "fork" => {
            ledger.reserve(place, MIB, capacity).unwrap();
            // SAFETY: the child calls nothing but `pause`.
            match unsafe { libc::fork() } {
                0 => loop {
                    // SAFETY: it takes nothing.
                    unsafe { libc::pause() };
                },
                pid => says(u64::try_from(pid).unwrap()),
            }
        }
        role => panic!("{role}?"),
    }
    wait();
}

fn wait() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn room_is_what_others_left() {
    let description = Description::parse(TWO).unwrap();
    assert_eq!(memory::capacity(&description, "a", None), Some(64 * MIB));
    assert_eq!(memory::capacity(&description, "b", Some(7)), Some(10 * MIB));
    assert_eq!(memory::capacity(&description, "b", Some(8)), None);
    assert_eq!(memory::capacity(&description, "c", None), None);
    let place = |gpu, gi| Place::of(&description, gpu, gi);
    let mut all = vec![
        place("a", None),
        place("b", None),
        place("b", Some(7)),
        place("b", Some(13)),
    ];
    all.dedup();
    assert_eq!(all.len(), 4);
}

#[test]
fn bytes_are_exact() {
    let here = here();
    let (place, capacity) = places();
    let ledger = here.ledger();
    let pid = Some(std::process::id());
    ledger.reserve(place, 1, capacity).unwrap();
    ledger.reserve(place, 41, capacity).unwrap();
    assert_eq!(here.used("a"), [(pid, 42)]);
    assert_eq!(here.used("b"), []);
    let error = ledger.reserve(place, capacity, capacity).unwrap_err();
    assert!(matches!(error, Refused::Full { free } if free == capacity - 42));
    ledger.reserve(place, capacity - 42, capacity).unwrap();
    assert_eq!(here.used("a"), [(pid, capacity)]);
    ledger.release(place, capacity - 2).unwrap();
    assert_eq!(here.used("a"), [(pid, 2)]);
    assert!(ledger.release(place, 3).is_err());
    ledger.release(place, 2).unwrap();
    assert_eq!(here.used("a"), []);
    assert_eq!(ledger.own(place), 0);
}

#[test]
fn instances_have_their_own() {
    let here = here();
    let ledger = here.ledger();
    let description = here.machine.current();
    for gi in [7, 13] {
        let place = Place::of(&description, "b", Some(gi)).unwrap();
        ledger.reserve(place, u64::from(gi), 10 * MIB).unwrap();
    }
    let used = |gi| memory::used(&here.machine, "b", gi).unwrap();
    assert_eq!(used(None), []);
    assert_eq!(used(Some(7))[0].1, 7);
    assert_eq!(used(Some(13))[0].1, 13);
}

#[test]
fn threads_share_the_last_bytes() {
    let here = here();
    let (place, capacity) = places();
    let ledger = here.ledger();
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for bytes in [4096, 8192, 16384, 32768] {
            let (ledger, taken) = (&ledger, &taken);
            scope.spawn(move || {
                while ledger.reserve(place, bytes, capacity).is_ok() {
                    taken.fetch_add(bytes, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), capacity);
    assert_eq!(here.used("a"), [(Some(std::process::id()), capacity)]);
}

#[test]
fn processes_share_the_last_bytes() {
    let here = here();
    let (_, capacity) = places();
    let mut others: Vec<Other> = (0..6).map(|_| here.child("greedy")).collect();
    for other in &mut others {
        other.number();
    }
    others.iter_mut().for_each(Other::go_on);
    let mut expected: Vec<(Option<u32>, u64)> = others
        .iter_mut()
        .map(|other| (Some(other.child.id()), other.number()))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    expected.sort_unstable();
    assert_eq!(here.used("a"), expected);
    assert_eq!(here.total("a"), capacity);
}

#[test]
fn it_is_never_too_much_and_kills_free_it() {
    let here = here();
    let (_, capacity) = places();
    let mut others: Vec<Other> = (0..5).map(|_| here.child("busy")).collect();
    let end = Instant::now() + Duration::from_secs(2);
    let mut most = 0;
    while Instant::now() < end {
        for other in &mut others {
            for _ in 0..200 {
                let total = here.total("a");
                assert!(total <= capacity, "{total} of {capacity}");
                most = most.max(total);
            }
            *other = here.child("busy");
        }
    }
    assert!(most > capacity / 2, "{most} of {capacity}");
    drop(others);
    assert_eq!(here.used("a"), []);
}

#[test]
fn a_forked_child_keeps_it() {
    let here = here();
    let mut other = here.child("fork");
    let child = other.number();
    assert_eq!(here.used("a"), [(Some(other.child.id()), MIB)]);
    drop(other);
    // Who allocated it is gone.
    assert_eq!(here.used("a"), [(None, MIB)]);
    let pid = i32::try_from(child).unwrap();
    // SAFETY: a signal to a process that this test started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    let end = Instant::now() + Duration::from_secs(5);
    while !here.used("a").is_empty() {
        assert!(Instant::now() < end, "it is still held");
    }
}

#[test]
fn whoever_closed_the_file_signs_again() {
    let here = here();
    let (place, capacity) = places();
    let ledger = here.ledger();
    let pid = Some(std::process::id());
    ledger.reserve(place, MIB, capacity).unwrap();
    drop(fs::read(here.machine.file()).unwrap());
    assert_eq!(here.used("a"), [(None, MIB)]);
    ledger.sign();
    assert_eq!(here.used("a"), [(pid, MIB)]);
    drop(fs::read(here.machine.file()).unwrap());
    ledger.release(place, 1).unwrap();
    assert_eq!(here.used("a"), [(pid, MIB - 1)]);
}

/// May this test make namespaces?
fn namespaces() -> bool {
    let made = Command::new("unshare")
        .args(["-m", "-p", "-f", "true"])
        .status();
    made.is_ok_and(|status| status.success())
}

#[test]
fn read_only_mounts_will_do() {
    if !namespaces() {
        eprintln!("skipped: this needs mount namespaces");
        return;
    }
    let here = here();
    let mounted = here.folder.path().join("mounted");
    fs::write(&mounted, "").unwrap();
    let mut command = Command::new("unshare");
    let script =
        "mount --bind \"$1\" \"$2\" && mount -o remount,ro,bind \"$2\" && shift 2 && exec \"$@\"";
    command.args(["-m", "sh", "-c", script, "sh"]);
    command.arg(here.machine.file()).arg(&mounted);
    command.arg(std::env::current_exe().unwrap());
    let mut other = Other::start(command, "one", &mounted);
    other.number();
    assert_eq!(here.used("a"), [(Some(other.child.id()), MIB)]);
}

#[test]
fn process_ids_are_those_of_who_asks() {
    if !namespaces() {
        eprintln!("skipped: this needs pid namespaces");
        return;
    }
    let here = here();
    let (place, capacity) = places();
    let ledger = here.ledger();
    ledger.reserve(place, 1, capacity).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-p", "-f", "--kill-child"]);
    command.arg(std::env::current_exe().unwrap());
    let mut other = Other::start(command, "one", here.machine.file());
    // This process cannot be seen from there.
    assert_eq!(other.number(), 0);
    let inner = here.used("a").into_iter().find(|(_, bytes)| *bytes == MIB);
    let pid = inner
        .and_then(|(pid, _)| pid)
        .expect("it is seen from here");
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_ne!(pid, 1);
    assert!(name.starts_with("memory-"), "{name}");
}

#[test]
fn programs_do_not_inherit_it() {
    let here = here();
    let _ledger = here.ledger();
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let ours = |path: &PathBuf| fs::read_link(path).is_ok_and(|file| file == here.machine.file());
    let open: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(ours).collect();
    assert!(open.len() >= 2);
    for path in open {
        let number = path.file_name().and_then(|name| name.to_str()).unwrap();
        // SAFETY: it asks for flags only.
        let flags = unsafe { libc::fcntl(number.parse().unwrap(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

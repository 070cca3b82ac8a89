//! Plugins that crash, hang, lie, shout and forge; files that are no plugins.
//! Whatever a plugin does, the agent goes on, names it, and believes nothing.
//!
//! The plugin is `tests/faulty`; its modes are in its `fault.rs` and `lie.rs`.
//! Here are the words that the tests, one file a theme, are written in.
#![allow(clippy::unwrap_used)] // a test may

mod calls;
mod crashes;
mod files;
mod host;
mod lies;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::{Duration, Instant};

use divvy::plugin::{CallError, Client, Crash, Crashes, Holdings, Set, Status};
use divvy_plugin::{
    Amount, Device, Discovery, Edits, ErrorCode, Held, PrepareRequest, ReleaseRequest,
    RestoreRequest, Slice, StartedRequest, WatchRequest,
};
use divvy_tests::{Machine, eventually, requires};
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

/// Every operation that a caller waits for.
const OPS: [&str; 9] = [
    "manifest", "open", "discover", "watch", "prepare", "started", "release", "restore", "sample",
];

/// No process.
const NOBODY: [u32; 0] = [];

/// A machine with a plugin that does `mode` in `op`, and its plugins.
fn given(mode: &str, op: &str) -> (Machine, Set) {
    given_with(mode, op, "")
}

/// As [`given`], with more settings.
fn given_with(mode: &str, op: &str, more: &str) -> (Machine, Set) {
    let machine = Machine::with(&["faulty"]);
    let mut settings = format!("faulty.mode={mode} faulty.op={op} {more}");
    if op == "manifest" {
        fs::write(machine.plugin_folder().join("faulty.manifest"), mode).unwrap();
        settings = more.to_owned();
    }
    let set = machine.plugins(&settings);
    (machine, set)
}

/// Long enough for a good answer on a busy machine; short for a test.
const SHORT: &str = "faulty.deadline_ms=1200";

/// Has an operation done. Those that are not called by themselves come with
/// the first call.
async fn call(plugin: &Client, op: &str) -> Result<(), CallError> {
    let allocation = || "a1".to_owned();
    match op {
        "manifest" | "open" | "discover" => plugin.discover().await.map(drop),
        "restore" => {
            let held = Held {
                allocation: allocation(),
                slices: slices(),
                edits: Edits::default(),
            };
            plugin.set_held(Holdings::Request(RestoreRequest {
                allocations: vec![held],
            }));
            plugin.discover().await.map(drop)
        }
        "watch" => {
            let request = WatchRequest {
                known: Discovery::default(),
                timeout_ms: 1,
                held: vec![],
            };
            plugin.watch(&request).await.map(drop)
        }
        "prepare" => prepare(plugin).await.map(drop),
        "started" => {
            let pid = std::process::id();
            plugin
                .started(&StartedRequest {
                    allocation: allocation(),
                    pid,
                })
                .await
        }
        "release" => {
            plugin
                .release(&ReleaseRequest {
                    allocation: allocation(),
                    slices: slices(),
                })
                .await
        }
        "sample" => plugin.sample().await.map(drop),
        _ => panic!("no such operation: {op}"),
    }
}

async fn prepare(plugin: &Client) -> Result<Edits, CallError> {
    let found = plugin.discover().await?;
    let devices: BTreeMap<&str, &Device> =
        found.devices.iter().map(|d| (d.id.as_str(), d)).collect();
    plugin.prepare(&request(), &devices).await
}

fn request() -> PrepareRequest {
    PrepareRequest::new("a1", slices())
}

/// Half of `unit-a`.
fn slices() -> Vec<Slice> {
    let half: Amount = "0.5".parse().unwrap();
    vec![Slice {
        slot: "faulty.units".into(),
        device: "unit-a".into(),
        amount: half,
        capacities: [("units".to_owned(), half)].into(),
        start: None,
    }]
}

fn ids(found: &Discovery) -> Vec<&str> {
    found.devices.iter().map(|d| d.id.as_str()).collect()
}

#[track_caller]
fn says(error: &CallError, words: &str) {
    says_text(&error.to_string(), words);
}

#[track_caller]
fn says_text(text: &str, words: &str) {
    assert!(text.contains(words), "expected {words:?} in\n{text:?}");
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may be gone.
    let _ = kill_process(pid, Signal::KILL);
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// Descriptors of a process and what they are.
fn open_files(pid: u32) -> BTreeMap<u32, String> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|fd| {
            let number = fd.file_name().unwrap().to_str().unwrap().parse().unwrap();
            (number, fs::read_link(fd).unwrap().display().to_string())
        })
        .collect()
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A shared object that surely is no plugin.
fn libc() -> String {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|l| l.split_whitespace().nth(5))
        .find(|f| f.contains("libc.so"))
        .unwrap()
        .into()
}

/// With some bytes changed in place.
fn changed(bytes: &[u8], at: usize, to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// With every `from` replaced.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|i| bytes[*i..].starts_with(from))
        .collect();
    assert!(
        !places.is_empty(),
        "{:?} is not in it",
        String::from_utf8_lossy(from)
    );
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

/// Xorshift: the same moments in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

//! The faults that end, stop or disturb the host process; those that are
//! merely untrue are in [`lie`](crate::lie).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use divvy_plugin::{ErrorCode, PluginError};

/// The host's descriptor of the channel to the agent.
const CHANNEL: i32 = 3;
const FOREVER: Duration = Duration::from_secs(3600);

/// What to do wrong, and when.
#[derive(Debug, Default)]
pub(crate) struct Fault {
    mode: String,
    op: String,
    once: Option<PathBuf>,
    times: u64,
    ms: u64,
    file: Option<PathBuf>,
}

impl Fault {
    pub(crate) fn new(config: &BTreeMap<String, String>) -> Self {
        let text = |key: &str| config.get(key).cloned().unwrap_or_default();
        let number = |key: &str, default| text(key).parse().unwrap_or(default);
        Self {
            mode: text("mode"),
            op: text("op"),
            once: config.get("once").map(PathBuf::from),
            times: number("times", 1),
            ms: number("ms", 100),
            file: config.get("file").map(PathBuf::from),
        }
    }

    /// The manifest's fault: a mode in a file beside the plugin.
    pub(crate) fn of_manifest() -> Self {
        let plugin = std::fs::read_link("/proc/self/fd/4").unwrap_or_default();
        let mode = std::fs::read_to_string(plugin.with_file_name("faulty.manifest"));
        Self {
            mode: mode.unwrap_or_default().trim().to_owned(),
            op: "manifest".into(),
            ms: 100,
            ..Self::default()
        }
    }

    pub(crate) fn mode(&self) -> &str {
        &self.mode
    }

    /// Is this the fault, in whichever operation?
    pub(crate) fn is(&self, mode: &str) -> bool {
        self.mode == mode
    }

    /// The file that is kept between hosts.
    pub(crate) fn file(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new("/nonexistent"))
    }

    /// Commits the fault, if it belongs to this operation. `true`: the mode
    /// is a lie, for the caller to tell.
    pub(crate) fn strike(&self, op: &str) -> Result<bool, PluginError> {
        let here = !self.mode.is_empty() && (self.op == op || self.op == "any");
        if !here
            || !self
                .once
                .as_deref()
                .is_none_or(|file| count(file, self.times))
        {
            return Ok(false);
        }
        match self.mode.as_str() {
            // SAFETY: none; that is the point. Page 0 is never mapped.
            "crash" => unsafe { std::ptr::without_provenance_mut::<u8>(16).write_volatile(1) },
            "abort" => std::process::abort(),
            #[allow(clippy::exit)] // what some vendor libraries do
            "exit" => std::process::exit(7),
            "panic" => panic!("as asked"),
            "hang" => thread::sleep(FOREVER),
            "ignore-sigterm" => {
                // SAFETY: changes a disposition only.
                unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
                thread::sleep(FOREVER);
            }
            "spin" => loop {
                std::hint::spin_loop();
            },
            "slow" => thread::sleep(Duration::from_millis(self.ms)),
            "error" => {
                return Err(PluginError::new(
                    ErrorCode::Driver,
                    "the driver said no, as asked",
                ));
            }
            "error-escapes" => {
                let text = "\x1b[31mred\x1b]0;title\x07\nsecond line\u{202e}";
                return Err(PluginError::new(ErrorCode::Driver, text));
            }
            "absent" => {
                return Err(PluginError::new(
                    ErrorCode::Absent,
                    "no such hardware, as asked",
                ));
            }
            "chatty" => chatter(),
            "endless-line" => {
                let piece = [b'x'; 1 << 16];
                for _ in 0..1 << 10 {
                    let _ = std::io::stderr().write_all(&piece);
                }
            }
            "leak-threads" => {
                for _ in 0..200 {
                    thread::spawn(|| thread::sleep(FOREVER));
                }
            }
            "leak-thread" => drop(thread::spawn(|| thread::sleep(FOREVER))),
            "leak-file" => std::mem::forget(std::fs::File::open("/dev/null")),
            "leak-memory" => std::mem::forget(vec![1u8; 2 << 20]),
            "leak-process" => {
                // SAFETY: the child makes only async-signal-safe calls.
                if unsafe { libc::fork() } == 0 {
                    loop {
                        // SAFETY: touches no memory.
                        unsafe { libc::pause() };
                    }
                }
            }
            "hang-at-exit" => {
                extern "C" fn sleep() {
                    thread::sleep(FOREVER);
                }
                // SAFETY: only registers the function above.
                unsafe { libc::atexit(sleep) };
            }
            "channel-garbage" => on_channel(b"\x0b\0\0\0no json atall"),
            "channel-length" => on_channel(&[0xff; 64]),
            "channel-half" => {
                on_channel(&[100, 0, 0, 0, b'{']);
                thread::sleep(FOREVER);
            }
            "answer-to-no-call" => {
                let answer = br#"{"id":999,"result":{"ok":null}}"#;
                on_channel(&[&[31, 0, 0, 0], answer.as_slice()].concat());
            }
            "fork-and-crash" => {
                // SAFETY: the child makes only async-signal-safe calls.
                if unsafe { libc::fork() } == 0 {
                    loop {
                        // SAFETY: touches no memory.
                        unsafe { libc::pause() };
                    }
                }
                std::process::abort();
            }
            _ => return Ok(true),
        }
        Ok(false)
    }
}

/// Is this among the first `times` times? One byte of the file is one time.
fn count(file: &Path, times: u64) -> bool {
    let Ok(mut open) = OpenOptions::new().create(true).append(true).open(file) else {
        return false;
    };
    let struck = open.metadata().map_or(times, |m| m.len());
    struck < times && open.write_all(b"x").is_ok()
}

fn chatter() {
    for line in 0..10_000 {
        eprintln!("line {line} of what nobody asked for");
    }
    let junk: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
    let _ = std::io::stdout().write_all(&junk);
}

fn on_channel(bytes: &[u8]) {
    // SAFETY: the pointer and length are of one slice; the descriptor is not
    // ours, which is the fault that is to be tested.
    unsafe { libc::write(CHANNEL, bytes.as_ptr().cast(), bytes.len()) };
}

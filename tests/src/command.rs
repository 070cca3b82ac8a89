//! Running `divvy`, and judging what it said.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No command takes so long; one that does has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `divvy` command line, not yet run.
#[derive(Debug)]
pub struct Divvy {
    command: Command,
    input: Option<String>,
}

impl Divvy {
    pub(crate) fn new(mut command: Command) -> Self {
        // Usage texts should show the name that people type.
        command.arg0("divvy");
        Self {
            command,
            input: None,
        }
    }

    /// With one more word, which may contain spaces.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(word);
        self
    }

    /// With more words.
    #[must_use]
    pub fn args<W: AsRef<std::ffi::OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.command.args(words);
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without an environment variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// In this folder.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// With no more descriptors than so many.
    #[must_use]
    pub fn descriptors(self, most: u32) -> Self {
        let mut limited = Command::new("sh");
        limited
            .arg("-c")
            .arg(format!("ulimit -n {most}; exec \"$0\" \"$@\""))
            .arg(self.command.get_program())
            .args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        if let Some(folder) = self.command.get_current_dir() {
            limited.current_dir(folder);
        }
        Self {
            command: limited,
            input: self.input,
        }
    }

    /// With this text on standard input, else with none.
    #[must_use]
    pub fn input(mut self, text: &str) -> Self {
        self.input = Some(text.to_owned());
        self
    }

    /// Runs it to its end.
    #[track_caller]
    #[must_use]
    pub fn run(self) -> Output {
        self.spawn().output()
    }

    /// Starts it.
    #[track_caller]
    #[must_use]
    pub fn spawn(mut self) -> Running {
        let words = self
            .command
            .get_args()
            .map(|w| w.to_string_lossy().into_owned());
        let line = std::iter::once("divvy".to_owned())
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ");
        // Files, not pipes: a monitor that outlives the command may keep them
        // open, and must not make us wait.
        let (stdout, stderr) = (file(), file());
        self.command
            .stdin(if self.input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(stdout.try_clone().expect("a descriptor"))
            .stderr(stderr.try_clone().expect("a descriptor"));
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|e| panic!("$ {line}\n{e}"));
        if let (Some(text), Some(mut stdin)) = (self.input, child.stdin.take()) {
            // It may have ended without reading.
            let _ = stdin.write_all(text.as_bytes());
        }
        Running {
            line,
            child,
            stdout,
            stderr,
        }
    }
}

fn file() -> File {
    tempfile::tempfile().expect("a temporary file")
}

/// A `divvy` that runs.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        // It may be gone.
        let _ = pid.map(|pid| rustix::process::kill_process(pid, signal));
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        // It may be gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it has said on standard output so far.
    #[must_use]
    pub fn stdout(&mut self) -> String {
        text(&mut self.stdout)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end.
    #[track_caller]
    #[must_use]
    pub fn output(mut self) -> Output {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break Some(status);
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let code = status.map(|s| s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)));
        let output = Output {
            command: self.line.clone(),
            code: code.unwrap_or(-1),
            stdout: text(&mut self.stdout),
            stderr: text(&mut self.stderr),
        };
        assert!(
            code.is_some(),
            "it did not end within {} s\n{output}",
            PATIENCE.as_secs()
        );
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `output` or `kill` these do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("a temporary file");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a command answered. Its assertions return it, so that they chain.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// Its exit code; 128 + n after signal n.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// It exited with 0.
    #[track_caller]
    #[allow(clippy::must_use_candidate)] // an assertion
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    /// It exited with this code.
    #[track_caller]
    #[allow(clippy::must_use_candidate)] // an assertion
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == code, "expected exit code {code}\n{self}");
        self
    }

    /// Its standard output has this text.
    #[track_caller]
    #[allow(clippy::must_use_candidate)] // an assertion
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text),
            "expected {text:?} on stdout\n{self}"
        );
        self
    }

    /// Its standard error has this text.
    #[track_caller]
    #[allow(clippy::must_use_candidate)] // an assertion
    pub fn complains(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "expected {text:?} on stderr\n{self}"
        );
        self
    }

    /// Its standard error is empty.
    #[track_caller]
    #[allow(clippy::must_use_candidate)] // an assertion
    pub fn quietly(self) -> Self {
        assert!(self.stderr.is_empty(), "expected nothing on stderr\n{self}");
        self
    }

    /// Its standard output, as JSON.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("expected JSON on stdout: {e}\n{self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            command,
            code,
            stdout,
            stderr,
        } = self;
        write!(f, "$ {command}\nexit code {code}\n")?;
        write!(f, "--- stdout ---\n{stdout}\n--- stderr ---\n{stderr}\n---")
    }
}

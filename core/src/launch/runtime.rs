//! Driving an OCI runtime by its command line.
//!
//! `runc`, `crun` or `youki` where one is installed *and works here*, else our
//! own, which is `divvy oci-runtime` and speaks the same command line. Working
//! here is probed, not assumed: crun, say, is installed on machines whose
//! cgroups it refuses. The probe makes and deletes one container, once per
//! binary and boot.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LaunchError;
use super::probe::try_out;

/// Runtimes that are looked for on `PATH`, best first.
const KNOWN: [&str; 3] = ["runc", "crun", "youki"];

/// An OCI runtime that works here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// For people: `runc 1.1.5`, `built-in`.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Arguments before the runtime's own.
    pub prefix: Vec<String>,
    /// The folder in which it keeps its state (`--root`).
    pub root: PathBuf,
}

/// Is this the name of a runtime that is looked for on `PATH` by itself?
#[must_use]
pub(crate) fn is_known_runtime(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// What the caller wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Wanted {
    /// The best that works.
    #[default]
    Auto,
    /// Our own.
    BuiltIn,
    /// This one, a name on `PATH` or a path.
    Program(String),
}

impl From<String> for Wanted {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Self::Auto,
            "built-in" | "builtin" => Self::BuiltIn,
            _ => Self::Program(text),
        }
    }
}

impl From<Wanted> for String {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Auto => "auto".into(),
            Wanted::BuiltIn => "built-in".into(),
            Wanted::Program(name) => name,
        }
    }
}

/// What is known of a runtime binary on this boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Probe {
    stamp: String,
    name: String,
    /// Why it cannot be used here.
    fault: Option<String>,
}

/// A runtime that was looked at, for `divvy doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its name and version, or where it is.
    pub name: String,
    /// Why it cannot be used here, if so.
    pub fault: Option<String>,
}

impl Runtime {
    /// The built-in one.
    #[must_use]
    pub fn built_in(exe: &Path, state: &Path) -> Self {
        Self {
            name: "built-in".into(),
            program: exe.to_owned(),
            prefix: vec!["oci-runtime".into()],
            root: super::Container::runtimes(state),
        }
    }

    /// A command of it: `RUNTIME --root DIR ARGS...`.
    #[must_use]
    pub fn command(&self, args: impl IntoIterator<Item = OsString>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.prefix)
            .arg("--root")
            .arg(&self.root)
            .args(args);
        command
    }

    /// As [`command`](Self::command), with errors in a file: for commands
    /// whose standard streams become the container's.
    #[must_use]
    pub fn logging_command(&self, log: &Path, args: impl IntoIterator<Item = OsString>) -> Command {
        let log = ["--log".into(), log.as_os_str().to_owned()];
        self.command(log.into_iter().chain(args))
    }

    /// Is it the built-in one?
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.name == "built-in"
    }
}

/// Picks a runtime.
///
/// # Errors
/// The one that was named is not there or does not work here, and why.
pub fn pick(wanted: &Wanted, exe: &Path, state: &Path) -> Result<Runtime, LaunchError> {
    match wanted {
        Wanted::BuiltIn => Ok(Runtime::built_in(exe, state)),
        Wanted::Auto => {
            for name in KNOWN {
                let Some(path) = on_path(name) else { continue };
                let (runtime, fault) = probed(&path, state);
                match fault {
                    None => return Ok(runtime),
                    Some(why) => tracing::info!("{name} is not used: {why}"),
                }
            }
            Ok(Runtime::built_in(exe, state))
        }
        Wanted::Program(name) => {
            let unusable = |why: String| LaunchError::Runtime {
                name: name.clone(),
                why,
            };
            let path = if name.contains('/') {
                Some(PathBuf::from(name)).filter(|p| p.is_file())
            } else {
                on_path(name)
            };
            let path = path.ok_or_else(|| {
                unusable("there is no such program; --runtime built-in needs none".into())
            })?;
            match probed(&path, state) {
                (runtime, None) => Ok(runtime),
                (_, Some(why)) => Err(unusable(why)),
            }
        }
    }
}

/// All runtimes that could be used here, best first, with their faults.
#[must_use]
pub fn candidates(exe: &Path, state: &Path) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = KNOWN
        .iter()
        .filter_map(|name| on_path(name))
        .map(|path| {
            let (runtime, fault) = probed(&path, state);
            Candidate {
                name: runtime.name,
                fault,
            }
        })
        .collect();
    let own = Runtime::built_in(exe, state);
    all.push(Candidate {
        fault: try_out(&own, state).err(),
        name: own.name,
    });
    all
}

fn on_path(name: &str) -> Option<PathBuf> {
    // A root shell's PATH may lack the folders that Debian keeps runc in.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| {
            rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
        })
}

/// A runtime and its fault, from this boot's notes or tried out now.
fn probed(path: &Path, state: &Path) -> (Runtime, Option<String>) {
    let runtime = |name: String| Runtime {
        name,
        program: path.to_owned(),
        prefix: vec![],
        root: super::Container::runtimes(state),
    };
    let notes = state.join("runtimes.json");
    let mut known: BTreeMap<PathBuf, Probe> = std::fs::read(&notes)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let stamp = stamp(path);
    if let Some(probe) = known.get(path)
        && Some(&probe.stamp) == stamp.as_ref()
    {
        return (runtime(probe.name.clone()), probe.fault.clone());
    }
    let candidate = runtime(version(path));
    let fault = try_out(&candidate, state).err();
    if let Some(stamp) = stamp {
        let probe = Probe {
            stamp,
            name: candidate.name.clone(),
            fault: fault.clone(),
        };
        known.insert(path.to_owned(), probe);
        // Only a note: without it the runtime is tried again.
        let _ = serde_json::to_vec(&known)
            .map_err(std::io::Error::from)
            .and_then(|bytes| crate::sys::write_private(&notes, &bytes));
    }
    (candidate, fault)
}

/// What must be the same for a probe to hold: the file and the boot.
fn stamp(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    let boot = crate::sys::boot_id().ok()?;
    Some(format!(
        "{boot} {} {} {}.{}",
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

/// `runc version 1.1.5+ds1` → `runc 1.1.5+ds1`.
fn version(path: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let output = Command::new(path).arg("--version").output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let version = text.lines().next().and_then(|line| {
        line.split_whitespace()
            .find(|w| w.starts_with(|c: char| c.is_ascii_digit()))
    });
    match version {
        Some(version) => format!("{name} {version}"),
        None => name,
    }
}

/// The last line that a runtime printed, without its log dressing (logrus
/// text, or JSON with a `msg`).
pub(crate) fn last_line(text: &str) -> String {
    let line = text
        .lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("it said nothing");
    let json: Option<serde_json::Value> = serde_json::from_str(line).ok();
    if let Some(message) = json.as_ref().and_then(|j| j["msg"].as_str()) {
        return message.to_owned();
    }
    let message = line.split_once("msg=").map_or(line, |(_, rest)| rest);
    message.trim().trim_matches('"').replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_taken_out_of_log_dressing() {
        assert_eq!(
            last_line("x\ntime=\"2026\" level=error msg=\"no \\\"such\\\" thing\"\n\n"),
            "no \"such\" thing"
        );
        assert_eq!(
            last_line(r#"{"level":"error","msg":"no such thing"}"#),
            "no such thing"
        );
        assert_eq!(last_line(""), "it said nothing");
    }
}

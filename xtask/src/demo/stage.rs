//! Where the demo plays: an installed Divvy with a ledger of its own, in a
//! folder that goes away, with what still runs, however the demo ends.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::TempDir;

use crate::shell;

/// An installed Divvy and a work folder.
#[derive(Debug)]
pub(crate) struct Stage {
    /// `dist` and `state`.
    own: TempDir,
    /// The work folder: the job's user's, beside ours, which only root enters.
    work: TempDir,
    /// Ctrl-C, or what a service manager sends.
    interrupted: Arc<AtomicBool>,
}

/// How a `divvy` ended, and its words where they were caught.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) errors: String,
}

impl Stage {
    /// Makes the folders. Signals end the demo in order from now on.
    pub(crate) fn new() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .context("cannot watch for Ctrl-C")?;
        }
        let (own, work) = (folder("divvy-demo-")?, folder("divvy-work-")?);
        // `divvy` runs a job as the user who called sudo; so the folder is theirs.
        let id = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
        if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
            std::os::unix::fs::chown(work.path(), Some(user), Some(group))
                .context("cannot give the work folder to the user who called sudo")?;
        }
        Ok(Self {
            own,
            work,
            interrupted,
        })
    }

    /// Where `cargo xtask dist` installs.
    pub(crate) fn dist(&self) -> PathBuf {
        self.own.path().join("dist")
    }

    /// The work folder.
    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    /// Runs `divvy` in the work folder with our own standard streams. Its
    /// error output is caught as well where asked.
    pub(crate) fn divvy(&self, args: &[&str], catch: bool) -> Result<Ended> {
        let mut command = self.command(args)?;
        if catch {
            command.stderr(Stdio::piped());
        }
        let mut child = command.spawn().context("cannot run divvy")?;
        let reader = child.stderr.take().map(|stderr| {
            std::thread::spawn(move || {
                let mut text = String::new();
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    eprintln!("{line}");
                    text.push_str(&line);
                    text.push('\n');
                }
                text
            })
        });
        let status = self.wait(&mut child)?;
        let errors = reader
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        Ok(Ended { status, errors })
    }

    /// The answer of `divvy --json ARGS`.
    pub(crate) fn json(&self, args: &[&str]) -> Result<String> {
        let args = [&["--json"], args].concat();
        let output = self
            .command(&args)?
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run divvy")?;
        if !output.status.success() {
            bail!("`divvy {}` failed ({})", args.join(" "), output.status);
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`divvy {}` is not UTF-8", args.join(" ")))
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = shell::command(self.dist().join("bin/divvy"))?;
        // The caller's own settings of Divvy are for the caller's own ledger.
        for (name, _) in
            std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("DIVVY_"))
        {
            command.env_remove(name);
        }
        command
            .env("DIVVY_STATE", self.own.path().join("state"))
            .current_dir(self.work())
            .stdin(Stdio::null())
            .args(args);
        Ok(command)
    }

    /// Waits for a child. After a signal it is told to end, and the demo ends.
    fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        let mut told = false;
        let status = loop {
            if let Some(status) = child.try_wait().context("cannot wait for divvy")? {
                break status;
            }
            if self.interrupted.load(Ordering::Relaxed) && !told {
                told = true;
                let pid = i32::try_from(child.id())
                    .ok()
                    .and_then(rustix::process::Pid::from_raw);
                if let Some(pid) = pid {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.go_on()?;
        Ok(status)
    }

    /// An error if the demo was interrupted.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; everything that the demo made is removed");
        }
        Ok(())
    }

    /// What still runs is ended: it would outlive its ledger.
    fn end_workloads(&self) {
        let Ok(output) = self
            .command(&["ps", "--quiet"])
            .and_then(|mut c| Ok(c.output()?))
        else {
            return; // nothing was installed
        };
        for name in String::from_utf8_lossy(&output.stdout).lines() {
            if let Ok(mut command) = self.command(&["rm", "--force", name]) {
                let _ = command.output();
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end_workloads();
    }
}

/// A folder of ours under /tmp, mode 0700. Not `$TMPDIR`: only /tmp is sure to
/// have parents that `divvy` trusts plugins under.
fn folder(prefix: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in("/tmp")
        .context("cannot make a folder in /tmp")
}

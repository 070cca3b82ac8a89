//! `divvy` on a terminal.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::rootfs::{command, work};
use crate::{Machine, eventually};

/// A `divvy` on a terminal of 100 × 40, and our end of it.
#[derive(Debug)]
pub struct OnTerminal {
    ours: fs::File,
    child: std::process::Child,
    said: String,
}

impl OnTerminal {
    /// Starts `divvy WORDS sh -c SCRIPT` on it.
    ///
    /// # Panics
    /// There are no terminals.
    #[must_use]
    pub fn start(machine: &Machine, words: &str, script: &str) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal");
        grantpt(&ours).expect("a terminal");
        unlockpt(&ours).expect("a terminal");
        let name = ptsname(&ours, Vec::new())
            .expect("a terminal")
            .into_string()
            .expect("a terminal");
        let theirs: OwnedFd = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(name)
            .expect("a terminal")
            .into();
        let divvy = command(machine, words);
        // setsid(1) makes it the session's terminal, for SIGWINCH.
        let mut child = std::process::Command::new("setsid");
        child
            .arg("-c")
            .arg(divvy.get_program())
            .args(divvy.get_args());
        child
            .args(["sh", "-c", script])
            .env("TERM", "vt220")
            .current_dir(work(machine));
        child.stdin(theirs.try_clone().expect("a terminal"));
        child
            .stdout(theirs.try_clone().expect("a terminal"))
            .stderr(theirs);
        set_size(&ours, 100, 40);
        Self {
            child: child.spawn().expect("a terminal"),
            ours: ours.into(),
            said: String::new(),
        }
    }

    /// Gives it another size.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        set_size(&self.ours, columns, rows);
    }

    /// Types.
    ///
    /// # Panics
    /// Nobody listens any more.
    pub fn types(&mut self, keys: &str) {
        use std::io::Write;
        self.ours.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Reads until it has said this.
    ///
    /// # Panics
    /// It does not say it.
    #[track_caller]
    pub fn says(&mut self, text: &str) {
        use std::io::Read;
        let end = Instant::now() + Duration::from_secs(15);
        let mut buffer = [0; 4096];
        while !self.said.contains(text) {
            assert!(
                Instant::now() < end,
                "expected {text:?} on the terminal:\n{}",
                self.said
            );
            let mut fds = [rustix::event::PollFd::new(
                &self.ours,
                rustix::event::PollFlags::IN,
            )];
            let wait = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            rustix::event::poll(&mut fds, Some(&wait)).expect("a terminal");
            if !fds[0].revents().is_empty() {
                // EIO: everyone has let go of it.
                let n = self.ours.read(&mut buffer).unwrap_or(0);
                assert!(n > 0, "expected {text:?} before the end:\n{}", self.said);
                self.said.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It ends otherwise.
    #[track_caller]
    pub fn exits(mut self, code: i32) {
        let mut status = None;
        let ended = eventually(|| {
            status = self.child.try_wait().expect("a terminal");
            status.is_some()
        });
        assert!(ended, "it does not end:\n{}", self.said);
        assert_eq!(status.and_then(|s| s.code()), Some(code), "{}", self.said);
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(terminal: &impl std::os::fd::AsFd, columns: u16, rows: u16) {
    let size = rustix::termios::Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).expect("a terminal");
}

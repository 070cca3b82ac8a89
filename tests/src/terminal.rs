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
    screen: Screen,
}

impl OnTerminal {
    /// Starts `divvy WORDS sh -c SCRIPT` on it.
    ///
    /// # Panics
    /// There are no terminals.
    #[must_use]
    pub fn start(machine: &Machine, words: &str, script: &str) -> Self {
        Self::run(machine, words, &["sh", "-c", script])
    }

    /// Starts `divvy WORDS MORE` on it.
    ///
    /// # Panics
    /// There are no terminals.
    #[must_use]
    pub fn run(machine: &Machine, words: &str, more: &[&str]) -> Self {
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
            .args(more)
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
            screen: Screen::default(),
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
        self.until(text, Duration::from_secs(15), |all| all.said.contains(text));
    }

    /// Reads until this stands in a line of its screen.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        self.shows_within(text, Duration::from_secs(15));
    }

    /// As [`shows`](Self::shows), no later than this.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn shows_within(&mut self, text: &str, time: Duration) {
        self.until(text, time, |all| all.screen.has(text));
    }

    /// Reads until this stands in no line of its screen.
    ///
    /// # Panics
    /// It does.
    #[track_caller]
    pub fn hides(&mut self, text: &str) {
        let what = format!("no {text}");
        self.until(&what, Duration::from_secs(15), |all| !all.screen.has(text));
    }

    /// Does the terminal edit lines and echo what is typed, as it does for a shell?
    ///
    /// # Panics
    /// It is gone.
    #[must_use]
    pub fn is_a_shells(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = rustix::termios::tcgetattr(&self.ours).expect("a terminal");
        let both = LocalModes::ECHO | LocalModes::ICANON;
        modes.local_modes.contains(both)
    }

    /// Its process, or that of what started it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    fn until(&mut self, what: &str, time: Duration, so: impl Fn(&Self) -> bool) {
        use std::io::Read;
        let end = Instant::now() + time;
        let mut buffer = [0; 4096];
        while !so(self) {
            assert!(
                Instant::now() < end,
                "expected {what:?} on the terminal within {time:?}:\n{}",
                self.screen
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
                assert!(n > 0, "expected {what:?} before the end:\n{}", self.said);
                self.said.push_str(&String::from_utf8_lossy(&buffer[..n]));
                self.screen.write(&buffer[..n]);
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

/// What stands on a terminal: as much of ECMA-48 as is needed to read it.
#[derive(Debug, Default)]
struct Screen {
    rows: Vec<Vec<char>>,
    at: (usize, usize),
    /// The beginning of a sequence or a character whose end has not come yet.
    begun: Vec<u8>,
}

impl Screen {
    fn write(&mut self, bytes: &[u8]) {
        let mut all = std::mem::take(&mut self.begun);
        all.extend(bytes);
        let text = match std::str::from_utf8(&all) {
            Ok(text) => text,
            Err(error) => {
                let (text, rest) = all.split_at(error.valid_up_to());
                self.begun = rest.to_owned();
                std::str::from_utf8(text).unwrap_or_default()
            }
        };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            rest = match c {
                '\u{1b}' => match self.sequence(after) {
                    Some(after) => after,
                    None => break,
                },
                '\r' => {
                    self.at.1 = 0;
                    after
                }
                '\n' => {
                    self.at.0 += 1;
                    after
                }
                c => {
                    self.put(c);
                    after
                }
            };
        }
        let cut = rest.as_bytes().to_owned();
        self.begun.splice(0..0, cut);
    }

    /// What follows the sequence, if all of it is there.
    fn sequence<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let Some(text) = text.strip_prefix('[') else {
            let mut chars = text.chars();
            return chars.next().map(|_| chars.as_str());
        };
        let end = text.find(|c: char| ('@'..='~').contains(&c))?;
        let (numbers, rest) = text.split_at(end);
        let number = |n: usize| {
            let number = numbers.split(';').nth(n)?.parse::<usize>().ok()?;
            Some(number.saturating_sub(1))
        };
        match &rest[..1] {
            "H" => self.at = (number(0).unwrap_or(0), number(1).unwrap_or(0)),
            "J" => self.rows.clear(),
            _ => {}
        }
        Some(&rest[1..])
    }

    fn put(&mut self, c: char) {
        let (row, column) = self.at;
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
        let line = &mut self.rows[row];
        if line.len() <= column {
            line.resize(column + 1, ' ');
        }
        line[column] = c;
        self.at.1 += 1;
    }

    fn has(&self, text: &str) -> bool {
        let mut rows = self.rows.iter();
        rows.any(|row| row.iter().collect::<String>().contains(text))
    }
}

impl std::fmt::Display for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rows = self.rows.iter();
        rows.try_for_each(|row| writeln!(f, "{}", row.iter().collect::<String>()))
    }
}

//! Standing in for a container process in the foreground: signals go in, bytes
//! go both ways, its exit status comes out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::stdio::{stdin, stdout};
use rustix::termios::tcsetwinsize;

use super::console::{self, RawTerminal};
use super::error::{Error, Result};
use super::{ffi, lifecycle};

const SIGCHLD: i32 = 17;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;
/// `struct signalfd_siginfo`; its first field is the signal's number.
const SIGNAL_RECORD: usize = 128;
const CHUNK: usize = 16 * 1024;
/// What may wait for a container that does not read its terminal.
const INPUT_LIMIT: usize = 64 * 1024;

/// Waits for a child of ours; returns what a shell would: its exit code, or
/// 128 + N for signal N.
///
/// `signals` holds all of this process's signals since before the child was
/// made, so none is missed. `terminal` is the master of the child's terminal.
pub(super) fn stand_in(pid: i32, signals: &OwnedFd, terminal: Option<OwnedFd>) -> Result<u8> {
    let raw = terminal.as_ref().and_then(|_| RawTerminal::enter());
    let mut relay = terminal.map(Relay::new).transpose()?;
    let status = run(pid, signals, &mut relay);
    if let Some(relay) = &mut relay {
        relay.drain();
    }
    drop(raw);
    status
}

fn run(pid: i32, signals: &OwnedFd, relay: &mut Option<Relay>) -> Result<u8> {
    // Our child: its number stays its own until it is waited for here.
    let child = lifecycle::open_process(pid).map_err(Error::io("cannot open the process"))?;
    loop {
        // The child may have ended before the first SIGCHLD could be told apart
        // from those of libcontainer's helpers.
        if let Some(code) = ended(pid)? {
            return Ok(code);
        }
        let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
        if let Some(relay) = relay.as_ref() {
            relay.interests(&mut polled);
        }
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io("cannot wait for events")(error)),
        }
        let ready: Vec<_> = polled.iter().skip(1).map(PollFd::revents).collect();
        if let Some(relay) = relay.as_mut() {
            relay.turn(&ready);
        }
        while let Some(signal) = next_signal(signals)? {
            match signal {
                SIGCHLD | SIGURG => {}
                SIGWINCH if relay.is_some() => relay.iter().for_each(Relay::resize),
                // ESRCH: it has ended, which the next turn will see.
                signal => drop(ffi::pidfd_send_signal(child.as_fd(), signal)),
            }
        }
    }
}

fn ended(pid: i32) -> Result<Option<u8>> {
    let result = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
    let Some((_, status)) = result.map_err(Error::io("cannot wait for the process"))? else {
        return Ok(None);
    };
    let code = status
        .exit_status()
        .or(status.terminating_signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code & 0xff).ok()))
}

fn next_signal(signals: &OwnedFd) -> Result<Option<i32>> {
    let mut record = [0u8; SIGNAL_RECORD];
    match rustix::io::read(signals, &mut record) {
        Ok(SIGNAL_RECORD) => {
            let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            Ok(i32::try_from(number).ok())
        }
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(Error::io("cannot read signals")(error)),
    }
}

/// Carries bytes between our standard streams and a terminal's master.
struct Relay {
    master: OwnedFd,
    master_open: bool,
    input_open: bool,
    /// Read from standard input, not yet taken by the terminal.
    pending: Vec<u8>,
}

impl Relay {
    fn new(master: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&master, true).map_err(Error::io("cannot use the terminal"))?;
        let relay = Self {
            master,
            master_open: true,
            input_open: true,
            pending: Vec::new(),
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of ours.
    fn resize(&self) {
        if let Some(size) = console::own_size() {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    fn wants_input(&self) -> bool {
        self.input_open && self.master_open && self.pending.len() < INPUT_LIMIT
    }

    /// Adds what to wait for: the master, then standard input.
    fn interests<'fd>(&'fd self, polled: &mut Vec<PollFd<'fd>>) {
        if self.master_open {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, !self.pending.is_empty());
            polled.push(PollFd::new(&self.master, flags));
        }
        if self.wants_input() {
            polled.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
    }

    /// Moves what is ready; `ready` answers [`Relay::interests`], in order.
    fn turn(&mut self, ready: &[PollFlags]) {
        let mut ready = ready.iter();
        let wanted_input = self.wants_input();
        if self.master_open && ready.next().is_some_and(|events| !events.is_empty()) {
            self.output();
        }
        if wanted_input && ready.next().is_some_and(|events| !events.is_empty()) {
            let mut chunk = [0; CHUNK];
            match rustix::io::read(stdin(), &mut chunk) {
                Ok(0) => self.input_open = false,
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.input_open = false,
            }
        }
        if self.master_open && !self.pending.is_empty() {
            match rustix::io::write(&self.master, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.master_open = false,
            }
        }
    }

    /// Passes one chunk of output on; whether there may be more.
    fn output(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(&self.master, &mut chunk) {
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // EIO: the last process has closed the terminal.
            Ok(0) | Err(_) => {
                self.master_open = false;
                false
            }
            Ok(count) => write_all(stdout(), &chunk[..count]),
        }
    }

    /// Passes on what the process wrote before its end, but does not wait for
    /// what it may have left running in the background.
    fn drain(&mut self) {
        while self.master_open && self.output() {}
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // The caller may have made its end non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

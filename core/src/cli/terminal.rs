//! The caller's terminal and signals.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::AgentError;

/// SIGWINCH on Linux (signal(7)).
pub(super) const WINCH: i32 = 28;
/// What is passed on to a workload. SIGTSTP is not: it stops us, and the
/// workload goes on.
const FORWARDED: [i32; 6] = [1, 2, 3, 10, 12, 15];

/// The terminal on our standard streams.
#[derive(Debug)]
pub(super) struct Terminal;

impl Terminal {
    pub(super) fn is_there() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    pub(super) fn shows_stderr() -> bool {
        io::stderr().is_terminal()
    }

    /// Columns and rows.
    pub(super) fn size() -> Option<(u16, u16)> {
        tcgetwinsize(io::stdout())
            .ok()
            .map(|s| (s.ws_col, s.ws_row))
    }
}

/// The terminal in raw mode: every key goes to the workload. Put back on drop.
#[derive(Debug)]
pub(super) struct RawTerminal(Termios);

impl RawTerminal {
    pub(super) fn enter() -> Result<Self, AgentError> {
        let failed =
            |e: rustix::io::Errno| AgentError::System("the terminal cannot be set", e.into());
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Signals, as they come.
#[derive(Debug)]
pub(super) struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// Those that we pass on: from now on they are, and what comes before they are asked for is kept.
    pub(super) fn new() -> Result<Self, AgentError> {
        Self::of(FORWARDED.into_iter().chain([WINCH]))
    }

    /// These, by number.
    pub(super) fn of(numbers: impl IntoIterator<Item = i32>) -> Result<Self, AgentError> {
        numbers
            .into_iter()
            .map(|number| Ok((number, signal(SignalKind::from_raw(number))?)))
            .collect::<io::Result<_>>()
            .map(Self)
            .map_err(|e| AgentError::System("signals cannot be waited for", e))
    }

    /// The next one's number.
    pub(super) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

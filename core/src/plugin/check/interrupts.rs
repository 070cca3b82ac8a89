//! Ctrl-C in the middle of a check.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C, which may not end us at once: what is prepared has to be given back.
/// One that comes while nobody waits for it is not lost.
#[derive(Debug)]
pub(crate) struct Interrupts(Signal);

impl Interrupts {
    /// From now on.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new() -> io::Result<Self> {
        signal(SignalKind::interrupt()).map(Self)
    }

    /// What comes of it, unless it is interrupted.
    pub(crate) async fn until<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.0.recv() => None,
            done = work => Some(done),
        }
    }
}

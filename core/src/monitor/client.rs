//! Talking to a workload's monitor.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::protocol::{Ask, Event, ExecRequest, Input};
use super::streams::short;
use crate::failpoint::{Point, hit};
use crate::frames;
use crate::launch::Folder;
use crate::model::Exit;

/// The receiving side of an attachment.
pub struct Attached(Box<dyn AsyncRead + Send + Unpin>);

/// The sending side of an attachment.
pub struct Signalled(Box<dyn AsyncWrite + Send + Unpin>);

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attached")
    }
}

impl std::fmt::Debug for Signalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signalled")
    }
}

/// Attaches to a workload: its output from now on, its end, its input.
///
/// # Errors
/// It has no monitor (any more).
pub async fn attach(folder: &Folder) -> io::Result<(Attached, Signalled)> {
    let opened = open(folder, &Ask::Attach).await;
    let (read, write) = opened.map_err(io::Error::other)?.into_split();
    Ok(joined(read, write))
}

/// Waits for a workload's end.
///
/// # Errors
/// It has no monitor (any more).
pub async fn wait(folder: &Folder) -> io::Result<Exit> {
    let (mut events, _input) = attach(folder).await?;
    events.end().await
}

/// The two sides of a connection that has joined a workload.
pub(crate) fn joined(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
) -> (Attached, Signalled) {
    (Attached(Box::new(read)), Signalled(Box::new(write)))
}

/// A connection that has joined a workload: what follows are its events and
/// its input.
///
/// # Errors
/// It has no monitor (any more), or that says no.
pub(crate) async fn open(folder: &Folder, what: &Ask) -> Result<UnixStream, ExecError> {
    let mut stream = ask(folder, what).await?;
    let first = frames::receive(&mut stream).await?;
    match first.and_then(Event::decode) {
        Some(Event::Joined) => Ok(stream),
        Some(Event::Refused { code, message }) => Err(ExecError::Refused { code, message }),
        _ => Err(io::Error::other("the monitor does not speak as expected").into()),
    }
}

/// Why a command does not run in a workload.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The workload has no monitor (any more).
    #[error("its monitor cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    /// Its monitor says no.
    #[error("{message}")]
    Refused {
        /// The stable code.
        code: String,
        /// Why.
        message: String,
    },
}

/// Runs another command in a workload: its output, its end, its input.
///
/// # Errors
/// [`ExecError`].
pub async fn exec(
    folder: &Folder,
    request: ExecRequest,
) -> Result<(Attached, Signalled), ExecError> {
    let stream = open(folder, &Ask::Exec(request)).await?;
    let (read, write) = stream.into_split();
    Ok(joined(read, write))
}

/// Asks a workload to stop: its stop signal, then SIGKILL after `grace`.
/// Returns how it ended.
///
/// # Errors
/// It has no monitor (any more).
pub async fn stop(folder: &Folder, grace: Duration) -> io::Result<Exit> {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let (read, write) = ask(folder, &Ask::Stop { grace_ms }).await?.into_split();
    hit(Point::StopAsked);
    let (mut events, _input) = joined(read, write);
    events.end().await
}

async fn ask(folder: &Folder, ask: &Ask) -> io::Result<UnixStream> {
    let (_folder, path) = short(folder, "attach.sock")?;
    let mut stream = UnixStream::connect(path).await?;
    frames::send_json(&mut stream, ask).await?;
    Ok(stream)
}

impl Attached {
    /// The next thing that happens; `None` if the monitor went away.
    ///
    /// # Errors
    /// The socket's.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        let Some(frame) = frames::receive(&mut self.0).await? else {
            return Ok(None);
        };
        Event::decode(frame)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unknown event"))
    }

    /// Passes over everything but the end.
    async fn end(&mut self) -> io::Result<Exit> {
        loop {
            match self.next().await? {
                Some(Event::Exit(exit)) => return Ok(*exit),
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

impl Signalled {
    /// Sends input.
    ///
    /// # Errors
    /// The monitor went away.
    pub async fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.send(&Input::Data(data.to_vec())).await
    }

    /// Ends the input.
    ///
    /// # Errors
    /// The monitor went away.
    pub async fn end(&mut self) -> io::Result<()> {
        self.send(&Input::End).await
    }

    /// Sends the terminal's size, in characters.
    ///
    /// # Errors
    /// The monitor went away.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> io::Result<()> {
        self.send(&Input::Resize(columns, rows)).await
    }

    /// Sends a signal, by number.
    ///
    /// # Errors
    /// The monitor went away.
    pub async fn signal(&mut self, number: i32) -> io::Result<()> {
        self.send(&Input::Signal(number)).await
    }

    async fn send(&mut self, input: &Input) -> io::Result<()> {
        self.0.write_all(&frames::frame(&input.encode())?).await
    }
}

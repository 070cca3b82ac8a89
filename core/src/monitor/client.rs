//! Talking to a workload's monitor.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::protocol::{Ask, Event, Input};
use super::streams::short;
use crate::failpoint::{Point, hit};
use crate::frames;
use crate::launch::Folder;
use crate::model::Exit;

/// The receiving side of an attachment.
#[derive(Debug)]
pub struct Attached(OwnedReadHalf);

/// The sending side of an attachment.
#[derive(Debug)]
pub struct Signalled(OwnedWriteHalf);

/// Attaches to a workload: its output from now on, its end, its input.
///
/// # Errors
/// It has no monitor (any more).
pub async fn attach(folder: &Folder) -> io::Result<(Attached, Signalled)> {
    let (read, write) = ask(folder, &Ask::Attach).await?.into_split();
    let mut attached = Attached(read);
    match attached.next().await? {
        Some(Event::Joined) => Ok((attached, Signalled(write))),
        _ => Err(io::Error::other("the monitor does not speak as expected")),
    }
}

/// Asks a workload to stop: its stop signal, then SIGKILL after `grace`.
/// Returns how it ended.
///
/// # Errors
/// It has no monitor (any more).
pub async fn stop(folder: &Folder, grace: Duration) -> io::Result<Exit> {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let (read, _write) = ask(folder, &Ask::Stop { grace_ms }).await?.into_split();
    hit(Point::StopAsked);
    let mut attached = Attached(read);
    loop {
        match attached.next().await? {
            Some(Event::Exit(exit)) => return Ok(*exit),
            Some(_) => {}
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
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

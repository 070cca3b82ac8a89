//! The two ends of a terminal: the container's, whose master is sent to us, and
//! our own, put into raw mode while the two are joined.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr};

use super::error::{Error, Result};

const SOCKET_NAME: &str = "console.sock";

/// A socket that a container's terminal is sent to.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens in a private folder. It is bound by its short name, from inside
    /// the folder: socket addresses end at 107 bytes, state folders may not.
    pub(super) fn listen(folder: &Path) -> Result<Self> {
        let home =
            std::env::current_dir().map_err(Error::io("cannot find the working directory"))?;
        std::env::set_current_dir(folder).map_err(Error::path("enter", folder))?;
        let listener = UnixListener::bind(SOCKET_NAME);
        std::env::set_current_dir(&home).map_err(Error::path("return to", &home))?;
        let path = folder.join(SOCKET_NAME);
        Ok(Self {
            listener: listener.map_err(Error::path("listen on", &path))?,
            path,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal's master end. To be called when the process has started:
    /// it is then in the socket, or never will be.
    pub(super) fn receive(&self) -> Result<OwnedFd> {
        let no_terminal = || Error::Bug("the container process sent no terminal".to_owned());
        self.listener
            .set_nonblocking(true)
            .map_err(Error::path("use", &self.path))?;
        let (socket, _) = self
            .listener
            .accept()
            .map_err(Error::path("accept on", &self.path))?;
        let mut name = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut name)],
            &mut ancillary,
            flags,
        )
        .map_err(Error::path("receive on", &self.path))?;
        let mut rights = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        rights
            .next()
            .and_then(|mut descriptors| descriptors.next())
            .ok_or_else(no_terminal)
    }
}

/// Our own terminal in raw mode; as before when dropped.
#[derive(Debug)]
pub(super) struct RawTerminal(Termios);

impl RawTerminal {
    /// None if standard input is no terminal: then there is nothing to change.
    pub(super) fn enter() -> Option<Self> {
        let before = tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}

/// The size of our own terminal, if we have one.
pub(super) fn own_size() -> Option<Winsize> {
    tcgetwinsize(stdin()).ok()
}

//! A workload's standard streams: three named pipes, or one terminal.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::net::unix::pipe;

use super::hub::Hub;
use super::protocol::Event;
use crate::launch::{Folder, docker};

/// How long a runtime that has made a container may take to hand its terminal
/// over.
const HANDOVER: Duration = Duration::from_secs(10);
/// Output is passed on in pieces of at most so many bytes.
pub(super) const PIECE: usize = 64 << 10;

/// The container's ends, while it is made.
#[derive(Debug)]
pub(super) enum Ends {
    /// Named pipes, each open for reading *and* writing in the container: so
    /// it gets no SIGPIPE while a monitor is being replaced.
    Pipes {
        stdin: File,
        stdout: File,
        stderr: File,
    },
    /// A socket on which the runtime will send a terminal.
    Console {
        listener: UnixListener,
        path: PathBuf,
    },
}

/// Our end of the workload's input.
pub(super) enum Writer {
    /// It reads nothing.
    None,
    /// The write end of its standard input.
    Pipe(pipe::Sender),
    /// The standard input of a process of ours.
    Child(tokio::process::ChildStdin),
    /// Its terminal.
    Terminal(std::sync::Arc<AsyncFd<OwnedFd>>),
    /// A container engine's way in, and who sets a terminal's size there.
    Engine {
        input: docker::Input,
        container: docker::Handle,
        tty: bool,
    },
}

impl Ends {
    pub(super) fn new(folder: &Folder, tty: bool, stdin: bool) -> io::Result<Self> {
        if tty {
            let path = folder.path.join("console.sock");
            return Ok(Self::Console {
                listener: bind(folder, "console.sock")?,
                path,
            });
        }
        let pipe = |name: &str| {
            let path = folder.path.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            OpenOptions::new().read(true).write(true).open(path)
        };
        let stdin = if stdin {
            // Only its read end goes in: its end is noticed.
            pipe("stdin")?;
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            OpenOptions::new()
                .read(true)
                .custom_flags(nonblocking)
                .open(folder.path.join("stdin"))?
        } else {
            File::open("/dev/null")?
        };
        rustix::io::ioctl_fionbio(&stdin, false)?;
        Ok(Self::Pipes {
            stdin,
            stdout: pipe("stdout")?,
            stderr: pipe("stderr")?,
        })
    }

    /// The console socket's path, if there is one.
    pub(super) fn console(&self) -> Option<&Path> {
        match self {
            Self::Console { path, .. } => Some(path),
            Self::Pipes { .. } => None,
        }
    }

    /// Gives a runtime's `create` the streams that the container inherits.
    pub(super) fn give(&self, command: &mut std::process::Command) -> io::Result<()> {
        match self {
            Self::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                command
                    .stdin(stdin.try_clone()?)
                    .stdout(stdout.try_clone()?)
                    .stderr(stderr.try_clone()?);
            }
            Self::Console { .. } => {
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
            }
        }
        Ok(())
    }

    /// Waits for the terminal, if there is to be one.
    pub(super) async fn terminal(&self) -> io::Result<Option<OwnedFd>> {
        let Self::Console { listener, .. } = self else {
            return Ok(None);
        };
        let accept = tokio::time::timeout(HANDOVER, listener.accept());
        let (socket, _) = accept
            .await
            .map_err(|_| io::Error::other("the runtime handed no terminal over"))??;
        socket.readable().await?;
        receive_fd(&socket.into_std()?).map(Some)
    }
}

/// Binds a socket in a workload's folder, whose path may be longer than a
/// socket address can be: by way of a descriptor of the folder.
pub(super) fn bind(folder: &Folder, name: &str) -> io::Result<UnixListener> {
    let path = folder.path.join(name);
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(short(folder, name)?.1)
}

/// A short name for a socket in a workload's folder; valid while the
/// descriptor lives.
pub(super) fn short(folder: &Folder, name: &str) -> io::Result<(OwnedFd, PathBuf)> {
    use std::os::fd::AsRawFd;
    let flags =
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(&folder.path, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", fd.as_raw_fd()));
    Ok((fd, path))
}

fn receive_fd(socket: &impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 256];
    let mut data = [io::IoSliceMut::new(&mut name)];
    recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("the runtime sent no terminal"))
}

/// Starts to read pipes; the tasks end when every writer is gone.
pub(super) fn read_pipes(
    folder: &Folder,
    hub: &std::sync::Arc<Hub>,
) -> io::Result<Vec<tokio::task::JoinHandle<()>>> {
    let pump = |name: &str, wrap: fn(Vec<u8>) -> Event| -> io::Result<_> {
        let mut from = pipe::OpenOptions::new().open_receiver(folder.path.join(name))?;
        let hub = std::sync::Arc::clone(hub);
        Ok(tokio::spawn(async move {
            let mut buffer = vec![0; PIECE];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                hub.output(wrap(buffer[..n].to_vec())).await;
            }
        }))
    };
    Ok(vec![
        pump("stdout", Event::Stdout)?,
        pump("stderr", Event::Stderr)?,
    ])
}

/// Starts to read a terminal; the task ends when its other side is gone.
pub(super) fn read_terminal(
    terminal: &std::sync::Arc<AsyncFd<OwnedFd>>,
    hub: &std::sync::Arc<Hub>,
) -> tokio::task::JoinHandle<()> {
    let (terminal, hub) = (std::sync::Arc::clone(terminal), std::sync::Arc::clone(hub));
    tokio::spawn(async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let Ok(mut ready) = terminal.readable().await else {
                return;
            };
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?));
            match read {
                Err(_would_block) => {}
                Ok(Ok(n @ 1..)) => hub.output(Event::Stdout(buffer[..n].to_vec())).await,
                // EIO: the last process let go of it.
                Ok(Ok(0) | Err(_)) => return,
            }
        }
    })
}

impl Writer {
    /// Our end of a workload's standard input.
    pub(super) fn pipe(folder: &Folder) -> io::Result<Self> {
        let sender = pipe::OpenOptions::new().open_sender(folder.path.join("stdin"))?;
        Ok(Self::Pipe(sender))
    }

    /// Passes input on.
    pub(super) async fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        match self {
            Self::None => Ok(()),
            Self::Pipe(sender) => sender.write_all(data).await,
            Self::Child(stdin) => stdin.write_all(data).await,
            Self::Engine { input, .. } => {
                input.write_all(data).await?;
                input.flush().await
            }
            Self::Terminal(terminal) => {
                while !data.is_empty() {
                    let mut ready = terminal.writable().await?;
                    if let Ok(written) =
                        ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?))
                    {
                        data = data.get(written?..).unwrap_or_default();
                    }
                }
                Ok(())
            }
        }
    }

    /// Tells the workload that no more comes. A terminal stays.
    pub(super) async fn end(&mut self) {
        use tokio::io::AsyncWriteExt;
        match self {
            Self::None | Self::Terminal(_) | Self::Engine { tty: true, .. } => {}
            Self::Pipe(_) | Self::Child(_) => *self = Self::None,
            Self::Engine { input, .. } => {
                // It may be gone already.
                let _ = input.shutdown().await;
            }
        }
    }

    /// Is it a terminal?
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_) | Self::Engine { tty: true, .. })
    }

    /// Sets the terminal's size.
    pub(super) async fn resize(&mut self, columns: u16, rows: u16) {
        if let Self::Engine { container, .. } = self {
            container.resize(columns, rows).await;
        }
        if let Self::Terminal(terminal) = self {
            let size = rustix::termios::Winsize {
                ws_col: columns,
                ws_row: rows,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // A wrong size is ugly, not wrong.
            let _ = rustix::termios::tcsetwinsize(terminal.get_ref(), size);
        }
    }
}

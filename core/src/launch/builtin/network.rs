//! A new network namespace with its loopback interface up.
//!
//! runc brings `lo` up in every network namespace it makes; libcontainer does
//! not, and without it nothing on localhost works: torch.distributed, Ray,
//! Jupyter. It cannot be done inside the container process, which has lost its
//! capabilities by the time our code runs there. So the namespace is made here,
//! before the container, and the container joins it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::error::{Error, Result};
use super::ffi;

const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// A network namespace that lives as long as this value or a process in it.
#[derive(Debug)]
pub(super) struct NetworkNamespace(OwnedFd);

impl NetworkNamespace {
    /// Makes one. The calling process stays in its own namespace, so that hooks
    /// run where the OCI specification wants them.
    pub(super) fn with_loopback() -> Result<Self> {
        let open =
            || File::open(OWN_NAMESPACE).map_err(Error::io("cannot open the network namespace"));
        let home = open()?;
        ffi::unshare(UnshareFlags::NEWNET).map_err(Error::io("cannot make a network namespace"))?;
        let made = open().and_then(|made| {
            let socket = rustix::net::socket_with(
                AddressFamily::INET,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC,
                None,
            )
            .map_err(Error::io(
                "cannot open a socket in the new network namespace",
            ))?;
            ffi::loopback_up(socket.as_fd())
                .map_err(Error::io("cannot bring up lo in the new network namespace"))?;
            Ok(made)
        });
        rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(Error::io("cannot return to the host's network namespace"))?;
        Ok(Self(made?.into()))
    }

    /// A path by which this process and its clones reach the namespace, however
    /// unreadable `/proc/PID` is to them (libcontainer clears "dumpable").
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

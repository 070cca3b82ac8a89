//! The trait that a plugin's author implements.

use std::thread;
use std::time::{Duration, Instant};

use crate::call::{
    OpenRequest, PrepareRequest, ReleaseRequest, RestoreRequest, Samples, StartedRequest,
    WatchReply, WatchRequest,
};
use crate::device::Discovery;
use crate::edits::Edits;
use crate::error::PluginError;
use crate::manifest::Manifest;

/// A family of accelerators.
///
/// # Who calls, and when
///
/// The agent loads the plugin in a *plugin host*, a child process of its own,
/// and calls, in this order: [`manifest`](Self::manifest), then
/// [`open`](Self::open) once, then [`restore`](Self::restore) once if it is known
/// what is held (it may be nothing), then the others as needed. One call is in flight at
/// a time.
/// [`watch`](Self::watch) and [`sample`](Self::sample) are each called in a host of
/// their own beside that, opened and told in the same way, so that a wait keeps nobody
/// waiting; the one that measures lives while somebody wants measurements.
///
/// # Deadlines
///
/// Every call has one (below). A host that misses it is killed, and a new one
/// started with `open` and `restore`. So no call may leave anything half done
/// that the same call, made again, would not complete.
///
/// # Panics and crashes
///
/// A panic is caught at the ABI boundary and becomes
/// [`ErrorCode::Panicked`](crate::ErrorCode::Panicked). A crash ends the host
/// only. After five within ten minutes the plugin is quarantined.
///
/// # Trust
///
/// Every reply is checked by the core: a device node of another device, a
/// mount of `/`, an id used twice and the like are refused, and the plugin is
/// named to the user.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// What this plugin is. Constant; touches nothing. Deadline 1 s.
    fn manifest() -> Manifest;

    /// Begins, with this configuration. Reads no more than it must: a driver
    /// that is not there is `Absent`, and is asked for again later. Must not
    /// take the device from others (no CUDA context). Deadline 10 s.
    /// Idempotent over process lifetimes: leaves nothing behind on the machine.
    ///
    /// # Errors
    /// `Absent` if there is no such hardware or driver, `Invalid` for a
    /// configuration value, `Driver` otherwise.
    fn open(request: &OpenRequest) -> Result<Self, PluginError>;

    /// Lists all devices, whole, each time. Read-only. A device that cannot be
    /// read fully is still listed, with less detail; one broken device hides
    /// no other. Deadline 10 s. Safe to repeat.
    ///
    /// # Errors
    /// `Driver` if nothing at all can be said.
    fn discover(&self) -> Result<Discovery, PluginError>;

    /// Waits until something differs from `request.known`, or the time is up.
    /// Called in a loop by a long-lived agent. Deadline: the request's timeout
    /// plus 10 s. Read-only. The default looks every second.
    ///
    /// # Errors
    /// As [`discover`](Self::discover).
    fn watch(&self, request: &WatchRequest) -> Result<WatchReply, PluginError> {
        let end = Instant::now() + Duration::from_millis(request.timeout_ms);
        loop {
            let now = self.discover()?;
            if now != request.known {
                return Ok(WatchReply {
                    changed: Some(now),
                    ..WatchReply::default()
                });
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(WatchReply::default());
            }
            thread::sleep(left.min(Duration::from_secs(1)));
        }
    }

    /// Turns slices into edits, and makes on the machine what they need (a
    /// partition, say). Called after the allocation is in the ledger and
    /// before the container exists. Deadline 10 s. Idempotent by allocation
    /// id: the same request again gives the same edits. If the agent dies
    /// afterwards, `release` follows, from the next one.
    ///
    /// # Errors
    /// Any; the workload is then not started and `release` is called.
    fn prepare(&self, request: &PrepareRequest) -> Result<Edits, PluginError>;

    /// The container has been proven to have its slices; its process is about
    /// to run. For what needs a pid. Deadline 10 s. Idempotent.
    ///
    /// # Errors
    /// Any; the container is then stopped, and `release` is called.
    fn started(&self, _request: &StartedRequest) -> Result<(), PluginError> {
        Ok(())
    }

    /// Undoes `prepare`. Called after the container is gone, or was never
    /// made. Deadline 10 s. Idempotent: an allocation that is not known is a
    /// success.
    ///
    /// # Errors
    /// `Busy` or `Driver`: the slices stay closed, and it is called again
    /// later.
    fn release(&self, request: &ReleaseRequest) -> Result<(), PluginError>;

    /// Learns what is held, after a restart of the host or the agent: all of it, as it
    /// was when the host was started or a little before.
    /// Containers are running: nothing of theirs may change. Deadline 10 s.
    /// Idempotent.
    ///
    /// # Errors
    /// Any; the plugin's devices are then closed to new work.
    fn restore(&self, _request: &RestoreRequest) -> Result<(), PluginError> {
        Ok(())
    }

    /// Measures devices, now. Read-only. Deadline 2 s. What cannot be
    /// measured is left out.
    ///
    /// # Errors
    /// `Unsupported` if this plugin measures nothing.
    fn sample(&self) -> Result<Samples, PluginError> {
        Ok(Samples::default())
    }
}

//! Clones of this process: where their panics go, and their remains.
//!
//! libcontainer clones this process and runs in the clone. A panic there would
//! unwind into the frames copied from the parent and do the parent's error
//! handling a second time. So a clone that panics dies on the spot.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, wait};

/// How long a clone that has reported its failure may take to end.
const END_DEADLINE: Duration = Duration::from_secs(1);
const END_POLL: Duration = Duration::from_millis(2);

/// The process that [`guard_against_panics`] was called in.
static RUNTIME: AtomicI32 = AtomicI32::new(0);

/// Makes panics one line on stderr, and fatal in clones of this process.
pub(super) fn guard_against_panics() {
    RUNTIME.store(own_pid(), Ordering::Relaxed);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(|place| format!(" at {place}"))
            .unwrap_or_default();
        eprintln!(
            "divvy oci-runtime: internal error{place}: {}",
            message(panic.payload())
        );
        if own_pid() != RUNTIME.load(Ordering::Relaxed) {
            std::process::abort();
        }
    }));
}

/// Reaps the clones of a failed call, which libcontainer leaves as zombies.
///
/// Bounded: a clone that lives on is reparented when this process ends.
pub(super) fn reap_failed() {
    let deadline = Instant::now() + END_DEADLINE;
    while wait(WaitOptions::NOHANG).is_ok() && Instant::now() < deadline {
        std::thread::sleep(END_POLL);
    }
}

/// What a panic said.
pub(super) fn message(payload: &dyn std::any::Any) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("panic")
        .replace('\n', " ")
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

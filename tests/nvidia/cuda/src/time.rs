//! Device time: when work ends. Nothing is done then; it is known ahead.

use std::{
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Nanoseconds since this process began to count them.
pub(crate) type Time = u64;

pub(crate) fn now() -> Time {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let passed = BEGIN.get_or_init(Instant::now).elapsed();
    Time::try_from(passed.as_nanos()).unwrap_or(Time::MAX)
}

/// When work will have been done, and which host functions too.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    pub(crate) at: Time,
    pub(crate) host: Vec<Arc<HostFunction>>,
}

impl End {
    pub(crate) fn passed(&self) -> bool {
        self.at <= now() && self.host.iter().all(|function| function.done())
    }

    /// Waits for it. To be called without the driver's lock.
    pub(crate) fn wait(&self) {
        loop {
            let left = self.at.saturating_sub(now());
            if left == 0 {
                break;
            }
            thread::sleep(Duration::from_nanos(left));
        }
        for function in &self.host {
            function.wait();
        }
    }

    /// The later of both.
    pub(crate) fn join(&mut self, other: &Self) {
        self.at = self.at.max(other.at);
        self.host.retain(|function| !function.done());
        for function in &other.host {
            if !function.done() && !self.host.iter().any(|ours| Arc::ptr_eq(ours, function)) {
                self.host.push(Arc::clone(function));
            }
        }
    }
}

/// A function of the program, called in stream order.
#[derive(Debug, Default)]
pub(crate) struct HostFunction {
    done: Mutex<bool>,
    changed: Condvar,
}

impl HostFunction {
    /// Calls it, on a thread of its own, when all before it has ended.
    pub(crate) fn start(before: End, function: impl FnOnce() + Send + 'static) -> Arc<Self> {
        let this = Arc::new(Self::default());
        let that = Arc::clone(&this);
        let run = move || {
            before.wait();
            function();
            *that.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
            that.changed.notify_all();
        };
        thread::spawn(run);
        this
    }

    fn done(&self) -> bool {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while !*done {
            done = self
                .changed
                .wait(done)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

//! Events of GPUs, as NVML tells them.
//!
//! Whoever listens has NVML started and the GPU open. So only those are listened to of
//! which workloads hold something, and never while all are looked at: NVML keeps what
//! one part of a process has opened until every part has ended it, and an idle GPU that
//! is open can be neither reset nor cut by anybody. Nor while MIG is to be changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::event::EventTypes;

use crate::ffi;
use crate::heard::{Heard, What};
use crate::journal::Store;
use crate::nvml;
use crate::root::Root;

/// How long NVML waits at a time: so long a listener may take to end.
const TURN: Duration = Duration::from_millis(50);

/// A GPU to listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ear {
    /// Its id.
    pub(crate) id: String,
    /// Its PCI address.
    pub(crate) address: String,
}

/// A thread that listens; ends with this.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) ears: Vec<Ear>,
    heard: Receiver<Heard>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens to these; comes back when it does.
    pub(crate) fn start(
        root: &Root,
        library: PathBuf,
        ears: Vec<Ear>,
        store: Option<&Store>,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (tell, heard) = channel();
        let (ready, listens) = channel();
        let thread = {
            let (root, ears, over) = (root.clone(), ears.clone(), Arc::clone(&over));
            let store = store.cloned();
            let task = move || {
                let is_wanted = || store.as_ref().is_some_and(Store::is_wanted);
                let ends = || over.load(Ordering::Relaxed) || is_wanted();
                while !over.load(Ordering::Relaxed) {
                    let look = store.as_ref().map(|store| store.look(TURN)).transpose();
                    let Ok(_look) = look else {
                        // Nobody is kept waiting for one who waits.
                        let _ = ready.send(());
                        thread::sleep(TURN);
                        continue;
                    };
                    if !listen(&root, &library, &ears, &tell, &ends, &ready) {
                        return;
                    }
                }
            };
            thread::spawn(task)
        };
        // Whether it succeeded or not, it hangs up.
        let _ = listens.recv();
        Self {
            ears,
            heard,
            over,
            thread: Some(thread),
        }
    }

    /// What is heard until then: comes back with the first, and what came with it.
    pub(crate) fn until(&self, end: Instant) -> Vec<Heard> {
        let left = end.saturating_duration_since(Instant::now());
        match self.heard.recv_timeout(left) {
            Ok(first) => [first].into_iter().chain(self.heard.try_iter()).collect(),
            Err(RecvTimeoutError::Timeout) => vec![],
            // It could not listen, or does no more: what is looked at must do.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(end.saturating_duration_since(Instant::now()));
                vec![]
            }
        }
    }

    /// Ends it: nothing is open then. What it heard last comes back.
    pub(crate) fn end(mut self) -> Vec<Heard> {
        self.stop();
        self.heard.try_iter().collect()
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of its own is its end as well.
            let _ = thread.join();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens until it is to end; whether it could.
fn listen(
    root: &Root,
    library: &std::path::Path,
    ears: &[Ear],
    tell: &Sender<Heard>,
    ends: &dyn Fn() -> bool,
    ready: &Sender<()>,
) -> bool {
    let Ok(nvml) = nvml::start(root, library) else {
        return false;
    };
    let Ok(set) = nvml.create_event_set() else {
        return false;
    };
    let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    let mut known = vec![];
    for ear in ears {
        let Ok(device) = nvml.device_by_pci_bus_id(ear.address.as_str()) else {
            continue;
        };
        let has = device
            .supported_event_types()
            .unwrap_or(EventTypes::CRITICAL_XID_ERROR);
        if ffi::register(nvml.lib(), &device, wanted & has, &set).is_ok() {
            known.push((ffi::number(&device), ear));
        }
    }
    if known.is_empty() {
        return false;
    }
    // Nobody waits for it any more if it is not the first time.
    let _ = ready.send(());
    while !ends() {
        let began = Instant::now();
        let event = match ffi::wait(nvml.lib(), &set, TURN) {
            Ok(event) => event,
            // Of a GPU that is gone, NVML may say no more than that, at once.
            Err(_) => {
                thread::sleep(TURN.saturating_sub(began.elapsed()));
                continue;
            }
        };
        let Some((_, ear)) = known.iter().find(|(number, _)| *number == event.device) else {
            continue;
        };
        let what = match event.types {
            types if types.contains(EventTypes::CRITICAL_XID_ERROR) => What::Xid(event.data),
            types if types.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) => What::DoubleBit,
            _ => continue,
        };
        let heard = Heard {
            gpu: ear.id.clone(),
            address: ear.address.clone(),
            what,
            gi: event.gi,
            pid: None,
            cgroup: None,
        };
        if tell.send(heard).is_err() {
            return false;
        }
    }
    true
}

//! Each GPU asked at once: one of which the driver does not answer keeps no other
//! waiting, and the first look at GPUs that nobody has open takes as long as the slowest
//! and not as all together.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;

/// The threads that have not come back from asking a GPU, by NVML's number. Nothing else
/// is asked of such a GPU until its thread does: it would be stuck as well.
#[derive(Debug, Default)]
pub(crate) struct Silent(Mutex<BTreeMap<u32, JoinHandle<()>>>);

impl Silent {
    fn threads(&self) -> MutexGuard<'_, BTreeMap<u32, JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the GPUs below this number; `None`: no answer within `limit`, or to an earlier
/// question yet. NVML stays started as long as one of them does not come back.
pub(crate) fn each<T: Send + 'static>(
    nvml: &Arc<Nvml>,
    count: u32,
    silent: &Silent,
    limit: Duration,
    ask: impl Fn(&Nvml, u32) -> T + Send + Sync + 'static,
) -> Vec<Option<T>> {
    let end = Instant::now() + limit;
    let ask = Arc::new(ask);
    let (tell, told) = channel();
    let mut stuck = silent.threads();
    stuck.retain(|_, thread| !thread.is_finished());
    let mut asked: BTreeMap<u32, JoinHandle<()>> = BTreeMap::new();
    for index in (0..count).filter(|index| !stuck.contains_key(index)) {
        let (nvml, ask, tell) = (Arc::clone(nvml), Arc::clone(&ask), tell.clone());
        let thread = thread::spawn(move || {
            let answer = ask(&nvml, index);
            // Whoever asked has ended it before it hears of it.
            drop(nvml);
            // Nobody waits any more for one that comes late.
            let _ = tell.send((index, answer));
        });
        asked.insert(index, thread);
    }
    drop(tell);
    let mut answers: Vec<Option<T>> = (0..count).map(|_| None).collect();
    while !asked.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let Ok((index, answer)) = told.recv_timeout(left) else {
            break;
        };
        asked.remove(&index);
        if let Some(place) = answers.get_mut(index as usize) {
            *place = Some(answer);
        }
    }
    stuck.extend(asked);
    answers
}

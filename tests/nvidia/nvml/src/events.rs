//! Events: XIDs, as the description gains them, and ECC errors, as they become more.

use std::collections::BTreeMap;
use std::ffi::{c_uint, c_ulonglong};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use divvy_nvidia_machine::{Description, Xid};
use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::handles::Handle;
use crate::processes::NO_INSTANCE;
use crate::state::Call;

/// Between two looks at the description.
const LOOK: Duration = Duration::from_millis(10);

/// What can be waited for. Of states and clocks nothing ever comes.
const TYPES: c_ulonglong = 1 | ECC | 4 | XID | 16;

/// ECC errors that could not be corrected.
const ECC: c_ulonglong = 2;

const XID: c_ulonglong = 8;

/// XID 79: the GPU has fallen off the bus.
const FALLEN: c_ulonglong = 79;

/// A set: the GPUs that it watches, by name.
type Set = BTreeMap<String, Watched>;

/// What was told of a GPU.
#[derive(Clone, Copy)]
struct Watched {
    types: c_ulonglong,
    xids: usize,
    ecc_errors: u64,
    lost: bool,
}

/// All sets, by their handles.
static SETS: Mutex<BTreeMap<usize, Set>> = Mutex::new(BTreeMap::new());

static NEXT: AtomicUsize = AtomicUsize::new(1);

fn sets() -> MutexGuard<'static, BTreeMap<usize, Set>> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happened.
enum Event {
    /// On the GPU of that name.
    Xid(String, Xid),
    /// On the GPU of that name.
    Ecc(String),
    /// A GPU fell off the bus.
    Lost,
}

/// The next that a set has not told yet.
fn next(set: &mut Set, description: &Description) -> Option<Event> {
    for (name, watched) in set.iter_mut() {
        let Some(gpu) = description.gpu.get(name) else {
            continue;
        };
        // Those that were forgotten are not missed.
        watched.xids = watched.xids.min(gpu.xid.len());
        while let Some(xid) = gpu.xid.get(watched.xids) {
            watched.xids += 1;
            if watched.types & XID != 0 {
                return Some(Event::Xid(name.clone(), xid.clone()));
            }
        }
        let more = gpu.ecc_errors > watched.ecc_errors;
        watched.ecc_errors = gpu.ecc_errors;
        if more && watched.types & ECC != 0 {
            return Some(Event::Ecc(name.clone()));
        }
        let was_lost = watched.lost;
        watched.lost = gpu.lost || !gpu.present;
        if watched.lost && !was_lost {
            // The kernel raises one of its own, if it did not yet.
            if watched.types & XID != 0 && gpu.xid.iter().all(|xid| xid.code != FALLEN) {
                return Some(Event::Xid(name.clone(), Xid::of(FALLEN)));
            }
            return Some(Event::Lost);
        }
    }
    None
}

fn wait(call: &Call, set: Out<nvmlEventSet_st>, data: Out<nvmlEventData_t>, ms: c_uint) -> Answer {
    let until = Instant::now() + Duration::from_millis(ms.into());
    loop {
        let description = call.machine.current();
        let event = {
            let mut sets = sets();
            let set = sets
                .get_mut(&set.pointer().addr())
                .ok_or(INVALID_ARGUMENT)?;
            next(set, &description)
        };
        match event {
            Some(Event::Xid(gpu, xid)) => {
                return data.put(nvmlEventData_t {
                    device: Handle::Gpu(gpu).pointer(),
                    eventType: XID,
                    eventData: xid.code,
                    gpuInstanceId: xid.gi.unwrap_or(NO_INSTANCE),
                    computeInstanceId: xid.ci.unwrap_or(NO_INSTANCE),
                });
            }
            Some(Event::Ecc(gpu)) => {
                return data.put(nvmlEventData_t {
                    device: Handle::Gpu(gpu).pointer(),
                    eventType: ECC,
                    eventData: 0,
                    gpuInstanceId: NO_INSTANCE,
                    computeInstanceId: NO_INSTANCE,
                });
            }
            Some(Event::Lost) => return Err(GPU_IS_LOST),
            None => {}
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TIMEOUT);
        }
        thread::sleep(LOOK.min(left));
    }
}

exports! {
    system nvmlEventSetCreate(_call, set: *mut nvmlEventSet_t) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) << 4;
        sets().insert(number, Set::new());
        set.put(ptr::without_provenance_mut(number))
    }
    about nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: *mut c_ulonglong) {
        device.whole()?;
        types.put(TYPES)
    }
    about nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: c_ulonglong, set: nvmlEventSet_t) {
        let gpu = device.whole()?;
        if types & !TYPES != 0 {
            return Err(NOT_SUPPORTED);
        }
        let mut sets = sets();
        let set = sets.get_mut(&set.pointer().addr()).ok_or(INVALID_ARGUMENT)?;
        // What was before is not told.
        let new = Watched {
            types: 0,
            xids: gpu.xid.len(),
            ecc_errors: gpu.ecc_errors,
            lost: false,
        };
        set.entry(device.name.to_owned()).or_insert(new).types |= types;
        Ok(())
    }
    system nvmlEventSetWait_v2(
        call, set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout: c_uint
    ) {
        wait(call, set, data, timeout)
    }
    system nvmlEventSetWait(call, set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout: c_uint) {
        wait(call, set, data, timeout)
    }
    system nvmlEventSetFree(_call, set: nvmlEventSet_t) {
        sets().remove(&set.pointer().addr()).map(|_| ()).ok_or(INVALID_ARGUMENT)
    }
}

//! What goes wrong over several calls: things kept where they do not belong,
//! and requests that should have been refused.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use divvy_plugin::{
    Amount, Edits, ErrorCode, PluginError, PrepareRequest, ProcessSample, ReleaseRequest,
    RestoreRequest, Samples, Slice,
};

use crate::UNITS;
use crate::fault::Fault;

/// What was prepared in this process, by allocation.
static PREPARED: Mutex<BTreeMap<String, Amount>> = Mutex::new(BTreeMap::new());
/// Was `restore` called in this process?
static RESTORED: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU32 = AtomicU32::new(0);

/// How often this was called in this process.
pub(crate) fn next() -> u32 {
    CALLS.fetch_add(1, Ordering::Relaxed)
}

fn no<T>(message: &str) -> Result<T, PluginError> {
    Err(PluginError::new(ErrorCode::Busy, message))
}

pub(crate) fn in_open(
    fault: &Fault,
    lies: bool,
    config: &BTreeMap<String, String>,
) -> Result<(), PluginError> {
    const KEYS: [&str; 6] = ["mode", "op", "once", "times", "ms", "file"];
    let unknown = config.keys().find(|key| !KEYS.contains(&key.as_str()));
    match unknown {
        Some(key) if !fault.is("any-setting") => {
            let message = format!("there is no setting faulty.{key}");
            return Err(PluginError::new(ErrorCode::Invalid, message));
        }
        _ => {}
    }
    if !lies {
        return Ok(());
    }
    match fault.mode() {
        "alone" => {
            let file = File::create(fault.file()).ok();
            if file.as_ref().is_none_or(|file| file.try_lock().is_err()) {
                return no("another host has it open");
            }
            // Held until the process ends.
            std::mem::forget(file);
        }
        // Whose file is there already, or cannot be made.
        "stale-lock" => {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            return options
                .open(fault.file())
                .map(drop)
                .or_else(|_| no("there is a lock file"));
        }
        _ => {}
    }
    Ok(())
}

/// With `lock`: one host at a time is in `discover` or `watch`.
pub(crate) fn lock(fault: &Fault) -> Result<Option<File>, PluginError> {
    if !fault.is("lock") {
        return Ok(None);
    }
    let file = File::create(fault.file()).and_then(|file| file.lock().map(|()| file));
    file.map(Some).or_else(|_| no("the lock file"))
}

/// Succeeds once in each process.
pub(crate) fn once_only(fault: &Fault, lies: bool) -> Result<(), PluginError> {
    match lies && fault.is("once-only") && next() > 0 {
        true => no("that was done already"),
        false => Ok(()),
    }
}

pub(crate) fn in_prepare(
    fault: &Fault,
    lies: bool,
    request: &PrepareRequest,
) -> Result<(), PluginError> {
    for slice in &request.slices {
        let anything = |mode: &str| lies && fault.is(mode);
        if !(is_ours(slice) || anything("any-device")) {
            return no(&format!("there is no device {}", slice.device));
        }
        if !(slice.slot == "faulty.units" || anything("any-slot")) {
            return no(&format!("there is no slot {}", slice.slot));
        }
    }
    if lies && fault.is("one-at-a-time") {
        let holder = fs::read_to_string(fault.file()).unwrap_or_default();
        if !holder.is_empty() && holder != request.allocation {
            return no("somebody else has the device");
        }
        // A test's own folder.
        let _ = fs::write(fault.file(), &request.allocation);
    }
    let mut prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    let mine = request.slices.iter().map(|s| s.amount).sum();
    prepared.insert(request.allocation.clone(), mine);
    let all: Amount = prepared.values().copied().sum();
    match lies && fault.is("never-frees") && all > Amount::ONE {
        true => no("there is nothing left"),
        false => Ok(()),
    }
}

pub(crate) fn in_edits(fault: &Fault, edits: &mut Edits) {
    if fault.is("changes-edits") && RESTORED.load(Ordering::Relaxed) {
        edits.env.clear();
    }
}

pub(crate) fn in_release(
    fault: &Fault,
    lies: bool,
    request: &ReleaseRequest,
) -> Result<(), PluginError> {
    once_only(fault, lies)?;
    if lies && fault.is("needs-device") && !request.slices.iter().all(is_ours) {
        return no("there is no such device");
    }
    if fault.is("no-release-after-restore") && RESTORED.load(Ordering::Relaxed) {
        return no("it was restored");
    }
    let mut prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    if lies && fault.is("from-memory") && !prepared.contains_key(&request.allocation) {
        return no("no such allocation");
    }
    if !fault.is("never-frees") {
        prepared.remove(&request.allocation);
    }
    Ok(())
}

pub(crate) fn in_restore(
    fault: &Fault,
    lies: bool,
    request: &RestoreRequest,
) -> Result<(), PluginError> {
    once_only(fault, lies)?;
    let mut slices = request.allocations.iter().flat_map(|held| &held.slices);
    if lies && fault.is("needs-device") && !slices.all(is_ours) {
        return no("there is no such device");
    }
    RESTORED.store(true, Ordering::Relaxed);
    Ok(())
}

/// With `processes`: each process whose number is in the file uses `unit-a`.
pub(crate) fn in_samples(fault: &Fault, samples: &mut Samples) {
    if !fault.is("processes") {
        return;
    }
    let pids = fs::read_to_string(fault.file()).unwrap_or_default();
    let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
    samples.processes.extend(pids.map(|pid| ProcessSample {
        device: UNITS[0].0.into(),
        pid,
        measures: [("memory_used_bytes".to_owned(), Amount::from_units(1 << 20))].into(),
    }));
}

fn is_ours(slice: &Slice) -> bool {
    UNITS.iter().any(|(id, _)| slice.device == *id)
}

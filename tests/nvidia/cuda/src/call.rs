//! What is the same of each call: faults, whether CUDA is initialised, panics, pointers.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use crate::{
    abi::Answer,
    code::{Code, Done, INVALID_VALUE, NOT_INITIALIZED, UNKNOWN},
    driver,
};

/// Answers one call.
pub(crate) fn answer(
    name: &str,
    early: bool,
    device: Option<c_int>,
    body: impl FnOnce() -> Done,
) -> Answer {
    let all = || {
        before(name, early, device)?;
        body()
    };
    match catch_unwind(AssertUnwindSafe(all)) {
        Ok(Ok(())) => Answer(0),
        Ok(Err(code)) => Answer(code.0),
        Err(_) => Answer(UNKNOWN.0),
    }
}

fn before(name: &str, early: bool, device: Option<c_int>) -> Done {
    if let Some(machine) = driver::machine() {
        let gpu = driver::gpu_of_call(device);
        if let Some(fault) = machine.fault(name, gpu)
            && let code @ 1.. = fault.give()
        {
            return Err(Code(code));
        }
    }
    match early || driver::get().is_ok() {
        true => Ok(()),
        false => Err(NOT_INITIALIZED),
    }
}

/// Answers through a pointer.
///
/// # Safety
/// It is null or may be written.
pub(crate) unsafe fn out<T>(to: *mut T, value: T) -> Done {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: it may be written.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// The same, where who calls need not ask for this.
///
/// # Safety
/// It is null or may be written.
pub(crate) unsafe fn out_if<T>(to: *mut T, value: T) {
    // SAFETY: it may be written.
    let _ = unsafe { out(to, value) };
}

/// A value from outside.
///
/// # Safety
/// It is null or points to one.
pub(crate) unsafe fn read<T: Copy>(from: *const T) -> Done<T> {
    if from.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: it points to one.
    Ok(unsafe { from.read_unaligned() })
}

/// A text from outside.
///
/// # Safety
/// It is null or a C string.
pub(crate) unsafe fn text(from: *const c_char) -> Done<String> {
    if from.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: it is a C string.
    Ok(unsafe { CStr::from_ptr(from) }
        .to_string_lossy()
        .into_owned())
}

/// Writes a text and its end into a buffer, cut to fit.
///
/// # Safety
/// The buffer is null or has that length.
pub(crate) unsafe fn text_out(to: *mut c_char, length: c_int, text: &str) -> Done {
    let length = usize::try_from(length).unwrap_or(0);
    if to.is_null() || length == 0 {
        return Err(INVALID_VALUE);
    }
    let count = text.len().min(length - 1);
    // SAFETY: at most `length` bytes are written.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), count);
        to.add(count).write(0);
    }
    Ok(())
}

/// What an object's number is to who calls.
pub(crate) fn handle<T>(id: usize) -> *mut T {
    ptr::without_provenance_mut(id)
}

/// The number of an object.
pub(crate) fn id<T>(handle: *mut T) -> usize {
    handle.addr()
}

/// Host memory at a device's address.
pub(crate) fn at(address: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

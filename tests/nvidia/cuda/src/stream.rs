//! Streams: what is asked for in order, and when it ends.

use std::{
    ffi::{c_int, c_uint, c_ulonglong, c_void},
    ptr,
};

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUgreenCtx, CUhostFn, CUresult, CUstream,
    CUstreamAttrID, CUstreamAttrValue, CUstreamCallback, cuuint32_t, cuuint64_t,
};

use crate::{
    abi::Of,
    call::{at, handle, id, out, out_if},
    capture::{Capture, captured},
    code::{Done, INVALID_HANDLE, INVALID_VALUE, NOT_READY},
    context::{Here, here},
    driver::{self, Driver},
    pool,
    state::{State, of, of_mut, taken},
    time::{End, HostFunction, Time, now},
    work::{Work, perform},
};

pub(crate) struct Stream {
    pub(crate) context: usize,
    /// Does it run beside the legacy stream?
    pub(crate) non_blocking: bool,
    pub(crate) priority: c_int,
    /// When all that was asked for ends.
    pub(crate) end: End,
    /// The graph that takes what is asked for, instead of the device.
    pub(crate) capture: Option<Capture>,
}

impl Stream {
    pub(crate) fn new(context: usize, non_blocking: bool, priority: c_int) -> Self {
        Self {
            context,
            non_blocking,
            priority,
            end: End::default(),
            capture: None,
        }
    }
}

/// The least and the greatest priority.
pub(crate) const PRIORITIES: (c_int, c_int) = (0, -5);

/// The number of the stream that a handle means to this thread.
pub(crate) fn number(state: &State, stream: CUstream) -> Done<usize> {
    let context = || {
        let current = driver::top().ok_or(crate::code::INVALID_CONTEXT)?;
        state
            .contexts
            .get(&current)
            .ok_or(crate::code::CONTEXT_IS_DESTROYED)
    };
    match id(stream) {
        0 | 1 => Ok(context()?.legacy),
        2 => Ok(context()?.per_thread),
        number if state.streams.contains_key(&number) => Ok(number),
        _ => Err(INVALID_HANDLE),
    }
}

/// When what is asked for now may begin.
fn begin(state: &State, number: usize) -> Done<End> {
    let stream = of(&state.streams, number)?;
    let context = of(&state.contexts, stream.context)?;
    let mut begin = stream.end.clone();
    begin.join(&End {
        at: now(),
        host: Vec::new(),
    });
    if number == context.legacy {
        // After all that went before in the context.
        for other in state.streams.values() {
            if other.context == stream.context && !other.non_blocking {
                begin.join(&other.end);
            }
        }
    } else if !stream.non_blocking {
        begin.join(&of(&state.streams, context.legacy)?.end);
    }
    Ok(begin)
}

/// Gives the stream work that takes this long, and tells when it ends. A device does one
/// thing at a time, whatever the stream.
pub(crate) fn work(state: &mut State, number: usize, nanoseconds: Time) -> Done<End> {
    let mut end = begin(state, number)?;
    let context = of(&state.streams, number)?.context;
    let device = of(&state.contexts, context)?.device;
    if nanoseconds > 0
        && let Some(device) = state.devices.get_mut(device)
    {
        end.at = end.at.max(device.busy).saturating_add(nanoseconds);
        device.busy = end.at;
    }
    of_mut(&mut state.streams, number)?.end = end.clone();
    Ok(end)
}

/// When all has ended that a stream waits for: the legacy stream for the others too.
fn done(state: &State, number: usize) -> Done<End> {
    let stream = of(&state.streams, number)?;
    match of(&state.contexts, stream.context)?.legacy == number {
        true => begin(state, number),
        false => Ok(stream.end.clone()),
    }
}

/// When all ends that a context was asked for.
pub(crate) fn all(state: &State, context: usize) -> End {
    let left = state
        .contexts
        .get(&context)
        .map(|context| context.left.clone());
    let mut end = left.unwrap_or_default();
    for stream in state
        .streams
        .values()
        .filter(|stream| stream.context == context)
    {
        end.join(&stream.end);
    }
    end
}

/// Waits for an end, and gives up what pools keep no longer.
pub(crate) fn synchronize(driver: &Driver, end: &End) {
    end.wait();
    pool::settle(driver, &mut driver.state());
}

/// Calls the function after what was asked for.
pub(crate) fn call(
    state: &mut State,
    number: usize,
    function: impl FnOnce() + Send + 'static,
) -> Done {
    let before = begin(state, number)?;
    // It waits for all before it, so whoever waits for it need not.
    let (at, host) = (before.at, vec![HostFunction::start(before, function)]);
    of_mut(&mut state.streams, number)?.end = End { at, host };
    Ok(())
}

/// A pointer of the program's, to be given back to it on another thread.
pub(crate) struct Theirs(pub(crate) *mut c_void);
// SAFETY: it is only given back, never looked at.
unsafe impl Send for Theirs {}

impl Theirs {
    pub(crate) fn pointer(&self) -> *mut c_void {
        self.0
    }
}

fn create(to: *mut CUstream, flags: c_uint, priority: c_int) -> Done {
    if flags > 1 {
        return Err(INVALID_VALUE);
    }
    let here = here()?;
    let mut state = here.driver.state();
    let number = state.number();
    // SAFETY: who calls `cuStreamCreate` gives it a place for a stream.
    unsafe { out(to, handle(number))? };
    let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
    state
        .streams
        .insert(number, Stream::new(here.context, flags == 1, priority));
    Ok(())
}

/// The stream's number, where a driver is.
fn known(stream: CUstream) -> Done<(Here, usize)> {
    let here = here()?;
    let number = number(&here.driver.state(), stream)?;
    Ok((here, number))
}

driver! {
    fn cuStreamCreate(phStream: *mut CUstream, Flags: c_uint) {
        create(phStream, Flags, 0)?;
    }

    fn cuStreamCreateWithPriority(phStream: *mut CUstream, flags: c_uint, priority: c_int) {
        create(phStream, flags, priority)?;
    }

    fn cuStreamDestroy_v2(hStream: CUstream) {
        if id(hStream) < 3 {
            return Err(INVALID_HANDLE);
        }
        // What it was asked for is done all the same, at its time.
        let mut state = driver::get()?.state();
        let stream = taken(&mut state.streams, id(hStream))?;
        if let Some(context) = state.contexts.get_mut(&stream.context) {
            context.left.join(&stream.end);
        }
    }

    fn cuStreamSynchronize(hStream: CUstream) {
        let (here, number) = known(hStream)?;
        let end = {
            let state = here.driver.state();
            if of(&state.streams, number)?.capture.is_some() {
                return Err(crate::code::CAPTURE_INVALIDATED);
            }
            done(&state, number)?
        };
        synchronize(here.driver, &end);
    }

    fn cuStreamQuery(hStream: CUstream) {
        let (here, number) = known(hStream)?;
        if !done(&here.driver.state(), number)?.passed() {
            return Err(NOT_READY);
        }
    }

    fn cuStreamWaitEvent(hStream: CUstream, hEvent: CUevent, Flags: c_uint) {
        let _ = Flags;
        let (here, number) = known(hStream)?;
        let mut state = here.driver.state();
        if captured(&mut state, number, Work::Wait(id(hEvent)))?.is_some() {
            return Ok(());
        }
        let recorded = of(&state.events, id(hEvent))?.recorded.clone();
        if let Some(end) = recorded {
            of_mut(&mut state.streams, number)?.end.join(&end);
        }
    }

    fn cuStreamGetFlags(hStream: CUstream, flags: *mut c_uint) {
        let (here, number) = known(hStream)?;
        out(flags, of(&here.driver.state().streams, number)?.non_blocking.into())?;
    }

    fn cuStreamGetPriority(hStream: CUstream, priority: *mut c_int) {
        let (here, number) = known(hStream)?;
        out(priority, of(&here.driver.state().streams, number)?.priority)?;
    }

    fn cuStreamGetId(hStream: CUstream, streamId: *mut c_ulonglong) {
        let (_, number) = known(hStream)?;
        out(streamId, c_ulonglong::try_from(number).unwrap_or(0))?;
    }

    fn cuStreamGetCtx(hStream: CUstream, pctx: *mut CUcontext) {
        let (here, number) = known(hStream)?;
        out(pctx, handle(of(&here.driver.state().streams, number)?.context))?;
    }

    fn cuStreamGetCtx_v2(hStream: CUstream, pCtx: *mut CUcontext, pGreenCtx: *mut CUgreenCtx) {
        let (here, number) = known(hStream)?;
        out(pCtx, handle(of(&here.driver.state().streams, number)?.context))?;
        out_if(pGreenCtx, ptr::null_mut());
    }

    fn cuStreamGetDevice(hStream: CUstream, device: *mut CUdevice) {
        let (here, number) = known(hStream)?;
        let state = here.driver.state();
        let context = of(&state.streams, number)?.context;
        let number = of(&state.contexts, context)?.device;
        out(device, CUdevice::try_from(number).unwrap_or(0))?;
    }

    fn cuStreamCopyAttributes(dst: CUstream, src: CUstream) {
        known(dst)?;
        known(src)?;
    }

    fn cuStreamSetAttribute(
        hStream: CUstream,
        attr: Of<CUstreamAttrID>,
        value: *const CUstreamAttrValue,
    ) {
        let _ = (attr, value);
        known(hStream)?;
    }

    fn cuStreamAttachMemAsync(
        hStream: CUstream,
        dptr: CUdeviceptr,
        length: usize,
        flags: c_uint,
    ) {
        let _ = (length, flags);
        let (here, _) = known(hStream)?;
        here.driver.state().allocation(dptr).ok_or(INVALID_VALUE)?;
    }

    fn cuLaunchHostFunc(hStream: CUstream, fn_: CUhostFn, userData: *mut c_void) {
        let function = fn_.ok_or(INVALID_VALUE)?;
        let (here, number) = known(hStream)?;
        let mut state = here.driver.state();
        let work = Work::Host { function, data: userData.expose_provenance() };
        if captured(&mut state, number, work.clone())?.is_none() {
            perform(here.driver, &mut state, number, &work)?;
        }
    }

    fn cuStreamAddCallback(
        hStream: CUstream,
        callback: CUstreamCallback,
        userData: *mut c_void,
        flags: c_uint,
    ) {
        let _ = flags;
        let function = callback.ok_or(INVALID_VALUE)?;
        let (here, number) = known(hStream)?;
        let theirs = (Theirs(hStream.cast()), Theirs(userData));
        call(&mut here.driver.state(), number, move || {
            let (stream, data) = (theirs.0.pointer(), theirs.1.pointer());
            // SAFETY: the program asked for this call, with these arguments.
            unsafe { function(stream.cast(), CUresult::CUDA_SUCCESS, data) };
        })?;
    }

    fn cuStreamWriteValue32_v2(
        stream: CUstream,
        addr: CUdeviceptr,
        value: cuuint32_t,
        flags: c_uint,
    ) {
        let _ = flags;
        let (here, number) = known(stream)?;
        let mut state = here.driver.state();
        state.check(addr, 4)?;
        work(&mut state, number, 0)?;
        at(addr).cast::<u32>().write_unaligned(value);
    }

    fn cuStreamWriteValue64_v2(
        stream: CUstream,
        addr: CUdeviceptr,
        value: cuuint64_t,
        flags: c_uint,
    ) {
        let _ = flags;
        let (here, number) = known(stream)?;
        let mut state = here.driver.state();
        state.check(addr, 8)?;
        work(&mut state, number, 0)?;
        at(addr).cast::<u64>().write_unaligned(value);
    }
}

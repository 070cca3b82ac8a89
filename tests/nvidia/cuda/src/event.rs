//! Events: when a stream comes to a point.

use std::ffi::c_uint;

use cudarc::driver::sys::{CUevent, CUstream};

use crate::{
    call::{handle, id, out},
    capture::captured,
    code::{Done, INVALID_HANDLE, INVALID_VALUE, NOT_READY},
    context::here,
    driver,
    state::{Event, State, of, of_mut, taken},
    stream,
    time::End,
    work::Work,
};

/// The stream comes to it after what was asked for so far.
pub(crate) fn record(state: &mut State, event: usize, number: usize) -> Done {
    let end = stream::work(state, number, 0)?;
    let event = of_mut(&mut state.events, event)?;
    (event.recorded, event.captured) = (Some(end), None);
    Ok(())
}

fn recorded(event: CUevent) -> Done<Option<End>> {
    Ok(of(&driver::get()?.state().events, id(event))?
        .recorded
        .clone())
}

fn elapsed(start: CUevent, end: CUevent) -> Done<f32> {
    let driver = driver::get()?;
    let state = driver.state();
    let mut times = [0, 0];
    for (time, event) in times.iter_mut().zip([start, end]) {
        let event = of(&state.events, id(event))?;
        let recorded = event.recorded.as_ref().filter(|_| event.timing);
        let recorded = recorded.ok_or(INVALID_HANDLE)?;
        if !recorded.passed() {
            return Err(NOT_READY);
        }
        *time = recorded.at;
    }
    let [start, end] = times;
    let nanoseconds = i64::try_from(end).unwrap_or(i64::MAX) - i64::try_from(start).unwrap_or(0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    Ok((nanoseconds as f64 / 1e6) as f32)
}

fn record_on(event: CUevent, stream: CUstream) -> Done {
    let driver = driver::get()?;
    let mut state = driver.state();
    let number = stream::number(&state, stream)?;
    of(&state.events, id(event))?;
    if captured(&mut state, number, Work::Record(id(event)))?.is_some() {
        return Ok(());
    }
    record(&mut state, id(event), number)
}

driver! {
    fn cuEventCreate(phEvent: *mut CUevent, Flags: c_uint) {
        const BLOCKING: c_uint = 1;
        const NO_TIMING: c_uint = 2;
        const INTERPROCESS: c_uint = 4;
        if Flags & !(BLOCKING | NO_TIMING | INTERPROCESS) != 0 {
            return Err(INVALID_VALUE);
        }
        let here = here()?;
        let mut state = here.driver.state();
        let number = state.number();
        out(phEvent, handle(number))?;
        let timing = Flags & NO_TIMING == 0;
        let (context, recorded, captured) = (here.context, None, None);
        state.events.insert(number, Event { context, timing, recorded, captured });
    }

    fn cuEventRecord(hEvent: CUevent, hStream: CUstream) {
        record_on(hEvent, hStream)?;
    }

    fn cuEventRecordWithFlags(hEvent: CUevent, hStream: CUstream, flags: c_uint) {
        let _ = flags;
        record_on(hEvent, hStream)?;
    }

    fn cuEventQuery(hEvent: CUevent) {
        if recorded(hEvent)?.is_some_and(|end| !end.passed()) {
            return Err(NOT_READY);
        }
    }

    fn cuEventSynchronize(hEvent: CUevent) {
        if let Some(end) = recorded(hEvent)? {
            stream::synchronize(driver::get()?, &end);
        }
    }

    fn cuEventDestroy_v2(hEvent: CUevent) {
        taken(&mut driver::get()?.state().events, id(hEvent))?;
    }

    [older]
    fn cuEventElapsedTime(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) {
        out(pMilliseconds, elapsed(hStart, hEnd)?)?;
    }

    fn cuEventElapsedTime_v2(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) {
        out(pMilliseconds, elapsed(hStart, hEnd)?)?;
    }
}

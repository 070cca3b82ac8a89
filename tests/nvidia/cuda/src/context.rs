//! Contexts, and which is current to a thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{c_int, c_uint, c_ulonglong},
};

use cudarc::driver::sys::{
    CUcontext, CUctxCreateParams, CUdevice, CUevent, CUexecAffinityParam, CUfunc_cache, CUlimit,
    CUsharedconfig,
};

use crate::{
    abi::Of,
    call::{handle, id, out, out_if},
    code::{
        CONTEXT_IS_DESTROYED, DEVICE_UNAVAILABLE, Done, INVALID_CONTEXT, INVALID_VALUE,
        NOT_SUPPORTED, PEER_ACCESS_ALREADY_ENABLED, PEER_ACCESS_NOT_ENABLED,
        PEER_ACCESS_UNSUPPORTED, PRIMARY_CONTEXT_ACTIVE, UNKNOWN,
    },
    driver::{self, Driver},
    event, pool, space,
    state::{Context, State, of, of_mut},
    stream::{self, PRIORITIES, Stream},
    time::End,
};

/// Where a thread is.
pub(crate) struct Here {
    pub(crate) driver: &'static Driver,
    pub(crate) context: usize,
    pub(crate) device: usize,
}

/// The context that is current to this thread. Nothing can be done on a GPU that is lost.
pub(crate) fn here() -> Done<Here> {
    let driver = driver::get()?;
    let context = driver::top().ok_or(INVALID_CONTEXT)?;
    let device = {
        let state = driver.state();
        let found = state.contexts.get(&context).ok_or(CONTEXT_IS_DESTROYED)?;
        found.device
    };
    let name = &driver.devices.get(device).ok_or(UNKNOWN)?.gpu;
    match driver.machine.current().gpu.get(name) {
        Some(gpu) if gpu.present && !gpu.lost => Ok(Here {
            driver,
            context,
            device,
        }),
        _ => Err(UNKNOWN),
    }
}

/// Makes a context of that number.
fn make(driver: &Driver, state: &mut State, number: usize, new: &New) -> Done {
    let device = driver.devices.get(new.device).ok_or(UNKNOWN)?;
    match device.said.compute_mode.as_str() {
        "Prohibited" => return Err(DEVICE_UNAVAILABLE),
        "Exclusive_Process" => {
            let used = driver.ledger.used(device.place).map_err(|_| UNKNOWN)?;
            let used: u64 = used.iter().map(|(_, bytes)| bytes).sum();
            if used > driver.ledger.own(device.place) {
                return Err(DEVICE_UNAVAILABLE);
            }
        }
        _ => {}
    }
    driver.charge(state, new.device, space::context_charge())?;
    let [legacy, per_thread] = [state.number(), state.number()];
    for stream in [legacy, per_thread] {
        state.streams.insert(stream, Stream::new(number, false, 0));
    }
    let context = Context {
        device: new.device,
        flags: new.flags,
        version: new.version,
        primary: new.primary,
        limits: BTreeMap::new(),
        cache: 0,
        peers: BTreeSet::new(),
        legacy,
        per_thread,
        left: End::default(),
    };
    state.contexts.insert(number, context);
    Ok(())
}

struct New {
    device: usize,
    flags: u32,
    version: u32,
    primary: bool,
}

/// Ends a context and all that is in it.
fn destroy(driver: &Driver, state: &mut State, number: usize) -> Done {
    let context = state.contexts.get(&number).ok_or(INVALID_CONTEXT)?;
    let device = context.device;
    let within = state
        .allocations
        .iter()
        .filter(|(_, found)| found.context == number);
    let addresses: Vec<u64> = within.map(|(address, _)| *address).collect();
    for address in addresses {
        driver.free(state, address)?;
    }
    let arrays: Vec<usize> = state
        .arrays
        .iter()
        .filter(|(_, array)| array.context == number)
        .map(|(array, _)| *array)
        .collect();
    for array in arrays {
        crate::array::destroy(driver, state, array)?;
    }
    state.streams.retain(|_, stream| stream.context != number);
    state.events.retain(|_, event| event.context != number);
    state
        .modules
        .retain(|_, module| module.context != Some(number));
    let modules = &state.modules;
    state
        .functions
        .retain(|_, function| modules.contains_key(&function.module));
    state.contexts.remove(&number);
    driver.refund(device, space::context_charge());
    pool::settle(driver, state);
    Ok(())
}

fn create(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice, version: u32) -> Done {
    let driver = driver::get()?;
    let (device, _) = driver.device(dev)?;
    if pctx.is_null() {
        return Err(INVALID_VALUE);
    }
    let mut state = driver.state();
    let number = state.number();
    make(
        driver,
        &mut state,
        number,
        &New {
            device,
            flags,
            version,
            primary: false,
        },
    )?;
    driver::stack(|stack| stack.push(number));
    // SAFETY: who calls `cuCtxCreate` gives it a place for a context.
    unsafe { out(pctx, handle(number)) }
}

fn version_of(context: CUcontext) -> Done<u32> {
    let number = match id(context) {
        0 => here()?.context,
        number => number,
    };
    Ok(driver::get()?
        .state()
        .contexts
        .get(&number)
        .ok_or(INVALID_CONTEXT)?
        .version)
}

fn synchronize(context: usize) -> Done {
    let driver = driver::get()?;
    let end = {
        let state = driver.state();
        state.contexts.get(&context).ok_or(INVALID_CONTEXT)?;
        stream::all(&state, context)
    };
    stream::synchronize(driver, &end);
    Ok(())
}

fn release(dev: CUdevice, all: bool) -> Done {
    let driver = driver::get()?;
    let (device, _) = driver.device(dev)?;
    let mut state = driver.state();
    let own = state.devices.get_mut(device).ok_or(UNKNOWN)?;
    let primary = own.primary;
    if own.retained == 0 && !all {
        return Err(INVALID_CONTEXT);
    }
    if !all {
        own.retained -= 1;
        if own.retained > 0 {
            return Ok(());
        }
    }
    match state.contexts.contains_key(&primary) {
        true => destroy(driver, &mut state, primary),
        false => Ok(()),
    }
}

fn set_flags(dev: CUdevice, flags: c_uint) -> Done {
    let driver = driver::get()?;
    let (device, _) = driver.device(dev)?;
    let mut state = driver.state();
    let own = state.devices.get_mut(device).ok_or(UNKNOWN)?;
    own.flags = flags;
    let primary = own.primary;
    if let Some(context) = state.contexts.get_mut(&primary) {
        context.flags = flags;
    }
    Ok(())
}

/// The limits that can be set, and what they are before.
fn limit(number: u32) -> Done<usize> {
    match number {
        0 => Ok(1024),    // stack of a thread
        1 => Ok(1 << 20), // printf's buffer
        2 => Ok(8 << 20), // malloc's heap
        3 => Ok(2),       // depth of the device's runtime
        4 => Ok(2048),    // its pending launches
        5 => Ok(64),      // L2 fetches
        6 => Ok(0),       // persisting L2
        7 | 8 => Ok(0),   // shared memory for graphics
        _ => Err(INVALID_VALUE),
    }
}

driver! {
    [older]
    fn cuCtxCreate_v2(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) on dev {
        create(pctx, flags, dev, 3020)?;
    }

    [older]
    fn cuCtxCreate_v3(
        pctx: *mut CUcontext,
        paramsArray: *mut CUexecAffinityParam,
        numParams: c_int,
        flags: c_uint,
        dev: CUdevice,
    ) on dev {
        let _ = (paramsArray, numParams);
        create(pctx, flags, dev, 3020)?;
    }

    fn cuCtxCreate_v4(
        pctx: *mut CUcontext,
        ctxCreateParams: *mut CUctxCreateParams,
        flags: c_uint,
        dev: CUdevice,
    ) on dev {
        let _ = ctxCreateParams;
        create(pctx, flags, dev, 3020)?;
    }

    fn cuCtxDestroy_v2(ctx: CUcontext) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let context = state.contexts.get(&id(ctx)).ok_or(INVALID_CONTEXT)?;
        if context.primary {
            return Err(INVALID_CONTEXT);
        }
        destroy(driver, &mut state, id(ctx))?;
        driver::stack(|stack| {
            if stack.last() == Some(&id(ctx)) {
                stack.pop();
            }
        });
    }

    fn cuCtxAttach(pctx: *mut CUcontext, flags: c_uint) {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        out(pctx, handle(here()?.context))?;
    }

    fn cuCtxDetach(ctx: CUcontext) {
        driver::get()?.state().contexts.get(&id(ctx)).ok_or(INVALID_CONTEXT)?;
    }

    fn cuCtxPushCurrent_v2(ctx: CUcontext) {
        driver::get()?.state().contexts.get(&id(ctx)).ok_or(INVALID_CONTEXT)?;
        driver::stack(|stack| stack.push(id(ctx)));
    }

    fn cuCtxPopCurrent_v2(pctx: *mut CUcontext) {
        let popped = driver::stack(Vec::pop).ok_or(INVALID_CONTEXT)?;
        out_if(pctx, handle(popped));
    }

    fn cuCtxSetCurrent(ctx: CUcontext) {
        if ctx.is_null() {
            driver::stack(Vec::pop);
            return Ok(());
        }
        driver::get()?.state().contexts.get(&id(ctx)).ok_or(INVALID_CONTEXT)?;
        driver::stack(|stack| {
            stack.pop();
            stack.push(id(ctx));
        });
    }

    fn cuCtxGetCurrent(pctx: *mut CUcontext) {
        out(pctx, handle(driver::top().unwrap_or(0)))?;
    }

    fn cuCtxGetDevice(device: *mut CUdevice) {
        out(device, CUdevice::try_from(here()?.device).unwrap_or(0))?;
    }

    fn cuCtxGetDevice_v2(device: *mut CUdevice, ctx: CUcontext) {
        let number = match id(ctx) {
            0 => here()?.device,
            number => of(&driver::get()?.state().contexts, number)?.device,
        };
        out(device, CUdevice::try_from(number).unwrap_or(0))?;
    }

    fn cuCtxGetFlags(flags: *mut c_uint) {
        let here = here()?;
        out(flags, of(&here.driver.state().contexts, here.context)?.flags)?;
    }

    fn cuCtxSetFlags(flags: c_uint) {
        let here = here()?;
        of_mut(&mut here.driver.state().contexts, here.context)?.flags = flags;
    }

    fn cuCtxGetId(ctx: CUcontext, ctxId: *mut c_ulonglong) {
        let number = match id(ctx) {
            0 => here()?.context,
            number => number,
        };
        driver::get()?.state().contexts.get(&number).ok_or(INVALID_CONTEXT)?;
        out(ctxId, c_ulonglong::try_from(number).unwrap_or(0))?;
    }

    fn cuCtxGetApiVersion(ctx: CUcontext, version: *mut c_uint) {
        out(version, version_of(ctx)?)?;
    }

    fn cuCtxSynchronize() {
        synchronize(here()?.context)?;
    }

    fn cuCtxSynchronize_v2(ctx: CUcontext) {
        let context = match id(ctx) {
            0 => here()?.context,
            number => number,
        };
        synchronize(context)?;
    }

    fn cuCtxRecordEvent(hCtx: CUcontext, hEvent: CUevent) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let legacy = state.contexts.get(&id(hCtx)).ok_or(INVALID_CONTEXT)?.legacy;
        event::record(&mut state, id(hEvent), legacy)?;
    }

    fn cuCtxWaitEvent(hCtx: CUcontext, hEvent: CUevent) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let legacy = state.contexts.get(&id(hCtx)).ok_or(INVALID_CONTEXT)?.legacy;
        if let Some(end) = of(&state.events, id(hEvent))?.recorded.clone() {
            of_mut(&mut state.streams, legacy)?.end.join(&end);
        }
    }

    fn cuCtxGetLimit(pvalue: *mut usize, limit: Of<CUlimit>) {
        let before = self::limit(limit.number())?;
        let here = here()?;
        let state = here.driver.state();
        let set = of(&state.contexts, here.context)?.limits.get(&limit.number()).copied();
        out(pvalue, set.unwrap_or(before))?;
    }

    fn cuCtxSetLimit(limit: Of<CUlimit>, value: usize) {
        self::limit(limit.number())?;
        let here = here()?;
        let mut state = here.driver.state();
        of_mut(&mut state.contexts, here.context)?.limits.insert(limit.number(), value);
    }

    fn cuCtxGetCacheConfig(pconfig: *mut CUfunc_cache) {
        let here = here()?;
        let cache = of(&here.driver.state().contexts, here.context)?.cache;
        out(pconfig.cast::<u32>(), cache)?;
    }

    fn cuCtxSetCacheConfig(config: Of<CUfunc_cache>) {
        if config.number() > 3 {
            return Err(INVALID_VALUE);
        }
        let here = here()?;
        of_mut(&mut here.driver.state().contexts, here.context)?.cache = config.number();
    }

    fn cuCtxGetSharedMemConfig(pConfig: *mut CUsharedconfig) {
        here()?;
        out(pConfig.cast::<u32>(), 1)?;
    }

    fn cuCtxSetSharedMemConfig(config: Of<CUsharedconfig>) {
        let _ = config;
        here()?;
    }

    fn cuCtxGetStreamPriorityRange(leastPriority: *mut c_int, greatestPriority: *mut c_int) {
        here()?;
        out_if(leastPriority, PRIORITIES.0);
        out_if(greatestPriority, PRIORITIES.1);
    }

    fn cuCtxResetPersistingL2Cache() {
        here()?;
    }

    fn cuCtxGetExecAffinity(
        pExecAffinity: *mut CUexecAffinityParam,
        type_: Of<cudarc::driver::sys::CUexecAffinityType>,
    ) {
        let _ = (pExecAffinity, type_);
        return Err(NOT_SUPPORTED);
    }

    fn cuCtxEnablePeerAccess(peerContext: CUcontext, Flags: c_uint) {
        if Flags != 0 {
            return Err(INVALID_VALUE);
        }
        let here = here()?;
        let mut state = here.driver.state();
        let peer = state.contexts.get(&id(peerContext)).ok_or(INVALID_CONTEXT)?.device;
        let devices = &here.driver.devices;
        let (ours, theirs) = (devices.get(here.device), devices.get(peer));
        if !ours.zip(theirs).is_some_and(|(ours, theirs)| ours.peer(theirs)) {
            return Err(PEER_ACCESS_UNSUPPORTED);
        }
        let context = of_mut(&mut state.contexts, here.context)?;
        if !context.peers.insert(id(peerContext)) {
            return Err(PEER_ACCESS_ALREADY_ENABLED);
        }
    }

    fn cuCtxDisablePeerAccess(peerContext: CUcontext) {
        let here = here()?;
        let mut state = here.driver.state();
        if !of_mut(&mut state.contexts, here.context)?.peers.remove(&id(peerContext)) {
            return Err(PEER_ACCESS_NOT_ENABLED);
        }
    }

    fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice) on dev {
        let driver = driver::get()?;
        let (device, _) = driver.device(dev)?;
        if pctx.is_null() {
            return Err(INVALID_VALUE);
        }
        let mut state = driver.state();
        let own = state.devices.get(device).ok_or(UNKNOWN)?;
        let (primary, flags) = (own.primary, own.flags);
        if !state.contexts.contains_key(&primary) {
            let new = New { device, flags, version: 3020, primary: true };
            make(driver, &mut state, primary, &new)?;
        }
        if let Some(own) = state.devices.get_mut(device) {
            own.retained += 1;
        }
        out(pctx, handle(primary))?;
    }

    [older]
    fn cuDevicePrimaryCtxRelease(dev: CUdevice) on dev {
        release(dev, false)?;
    }

    fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice) on dev {
        release(dev, false)?;
    }

    [older]
    fn cuDevicePrimaryCtxReset(dev: CUdevice) on dev {
        release(dev, true)?;
    }

    fn cuDevicePrimaryCtxReset_v2(dev: CUdevice) on dev {
        release(dev, true)?;
    }

    [older]
    fn cuDevicePrimaryCtxSetFlags(dev: CUdevice, flags: c_uint) on dev {
        let driver = driver::get()?;
        let (device, _) = driver.device(dev)?;
        let primary = driver.state().devices.get(device).ok_or(UNKNOWN)?.primary;
        if driver.state().contexts.contains_key(&primary) {
            return Err(PRIMARY_CONTEXT_ACTIVE);
        }
        set_flags(dev, flags)?;
    }

    fn cuDevicePrimaryCtxSetFlags_v2(dev: CUdevice, flags: c_uint) on dev {
        set_flags(dev, flags)?;
    }

    fn cuDevicePrimaryCtxGetState(
        dev: CUdevice,
        flags: *mut c_uint,
        active: *mut c_int,
    ) on dev {
        let driver = driver::get()?;
        let (device, _) = driver.device(dev)?;
        let state = driver.state();
        let own = state.devices.get(device).ok_or(UNKNOWN)?;
        out_if(flags, own.flags);
        out_if(active, state.contexts.contains_key(&own.primary).into());
    }
}

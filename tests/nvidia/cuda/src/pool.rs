//! Memory pools: what is allocated and freed in stream order.
//!
//! What is freed stays with its pool until a stream, an event or a context is synchronised;
//! then the pool keeps as much as its release threshold says, at first nothing.

use std::ffi::{c_int, c_void};

use cudarc::driver::sys::{
    CUdevice, CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc, CUmemLocation, CUmemPool_attribute,
    CUmemPoolProps, CUmemoryPool, CUstream,
};

use crate::{
    abi::Of,
    call::{handle, id, out},
    capture::{capture_allocation, captured},
    code::{Done, INVALID_VALUE, UNKNOWN},
    context::here,
    driver::{self, Driver},
    memory::wide,
    state::{Kind, State, of, of_mut},
    stream,
    work::Work,
};

pub(crate) struct Pool {
    pub(crate) device: usize,
    /// Is it its device's own?
    default: bool,
    /// Bytes allocated; bytes freed and kept.
    used: u64,
    kept: u64,
    most_used: u64,
    most_reserved: u64,
    /// Bytes to keep when all is synchronised.
    threshold: u64,
    /// What it may have, where that is limited.
    limit: u64,
    /// It goes when all is freed.
    destroyed: bool,
    /// Attributes that say how it is to reuse memory.
    reuse: [c_int; 3],
}

impl Pool {
    fn new(device: usize, default: bool, limit: u64) -> Self {
        Self {
            device,
            default,
            used: 0,
            kept: 0,
            most_used: 0,
            most_reserved: 0,
            threshold: 0,
            limit,
            destroyed: false,
            reuse: [1; 3],
        }
    }
}

/// Takes bytes from a pool.
pub(crate) fn take(driver: &Driver, state: &mut State, number: usize, bytes: u64) -> Done {
    let pool = of_mut(&mut state.pools, number)?;
    if bytes > pool.limit.saturating_sub(pool.used) {
        return Err(crate::code::OUT_OF_MEMORY);
    }
    let (device, reused) = (pool.device, pool.kept.min(bytes));
    pool.kept -= reused;
    pool.used += reused;
    let charged = driver.charge(state, device, bytes - reused);
    let pool = of_mut(&mut state.pools, number)?;
    if charged.is_err() {
        pool.used -= reused;
        pool.kept += reused;
        return charged;
    }
    pool.used += bytes - reused;
    pool.most_used = pool.most_used.max(pool.used);
    pool.most_reserved = pool.most_reserved.max(pool.used + pool.kept);
    Ok(())
}

/// Gives them back to it.
pub(crate) fn give(driver: &Driver, state: &mut State, number: usize, bytes: u64) {
    let Some(pool) = state.pools.get_mut(&number) else {
        return;
    };
    pool.used -= bytes;
    pool.kept += bytes;
    if pool.destroyed {
        driver.refund(pool.device, pool.kept);
        pool.kept = 0;
        if pool.used == 0 {
            state.pools.remove(&number);
        }
    }
}

/// Leaves a pool as much as that, or what is used; tells what was given up.
fn trim(driver: &Driver, pool: &mut Pool, least: u64) -> u64 {
    let over = pool.kept.min((pool.used + pool.kept).saturating_sub(least));
    driver.refund(pool.device, over);
    pool.kept -= over;
    over
}

/// Gives up all that a device's pools keep, and tells how much that was.
pub(crate) fn trim_all(driver: &Driver, state: &mut State, device: usize) -> u64 {
    let pools = state
        .pools
        .values_mut()
        .filter(|pool| pool.device == device);
    pools.map(|pool| trim(driver, pool, 0)).sum()
}

/// Gives up what pools keep beyond their thresholds.
pub(crate) fn settle(driver: &Driver, state: &mut State) {
    for pool in state.pools.values_mut() {
        trim(driver, pool, pool.threshold);
    }
}

/// A device's own pool.
fn default(state: &mut State, device: usize) -> Done<usize> {
    if let Some(pool) = state.devices.get(device).ok_or(UNKNOWN)?.default_pool {
        return Ok(pool);
    }
    let number = state.number();
    state
        .pools
        .insert(number, Pool::new(device, true, u64::MAX));
    if let Some(own) = state.devices.get_mut(device) {
        own.default_pool = Some(number);
    }
    Ok(number)
}

/// The pool that a device's allocations come from now.
fn current(state: &mut State, device: usize) -> Done<usize> {
    match state.devices.get(device).ok_or(UNKNOWN)?.pool {
        Some(pool) if state.pools.contains_key(&pool) => Ok(pool),
        _ => default(state, device),
    }
}

fn allocate(to: *mut CUdeviceptr, bytes: usize, pool: Option<usize>, stream: CUstream) -> Done {
    if to.is_null() || bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let here = here()?;
    let mut state = here.driver.state();
    let number = stream::number(&state, stream)?;
    let address = match of(&state.streams, number)?.capture.is_some() {
        true => capture_allocation(&mut state, number, wide(bytes))?,
        false => {
            let pool = match pool {
                Some(pool) => pool,
                None => current(&mut state, here.device)?,
            };
            of(&state.pools, pool)?;
            let kind = Kind::Pooled(pool);
            here.driver
                .allocate(&mut state, here.context, wide(bytes), kind)?
        }
    };
    // SAFETY: who calls an allocating function gives it a place for the address.
    unsafe { out(to, address) }
}

fn attribute(pool: &Pool, number: u32) -> Done<u64> {
    match number {
        4 => Ok(pool.threshold),
        5 => Ok(pool.used + pool.kept),
        6 => Ok(pool.most_reserved),
        7 => Ok(pool.used),
        8 => Ok(pool.most_used),
        _ => Err(INVALID_VALUE),
    }
}

driver! {
    fn cuDeviceGetDefaultMemPool(pool_out: *mut CUmemoryPool, dev: CUdevice) on dev {
        let driver = driver::get()?;
        let (device, _) = driver.device(dev)?;
        out(pool_out, handle(default(&mut driver.state(), device)?))?;
    }

    fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, dev: CUdevice) on dev {
        let driver = driver::get()?;
        let (device, _) = driver.device(dev)?;
        out(pool, handle(current(&mut driver.state(), device)?))?;
    }

    fn cuDeviceSetMemPool(dev: CUdevice, pool: CUmemoryPool) on dev {
        let driver = driver::get()?;
        let (device, _) = driver.device(dev)?;
        let mut state = driver.state();
        if of(&state.pools, id(pool))?.device != device {
            return Err(INVALID_VALUE);
        }
        if let Some(own) = state.devices.get_mut(device) {
            own.pool = Some(id(pool));
        }
    }

    fn cuMemPoolCreate(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps) {
        if poolProps.is_null() || pool.is_null() {
            return Err(INVALID_VALUE);
        }
        let location = (&raw const (*poolProps).location).cast::<crate::memory::Location>();
        let location = location.read();
        if location.kind != 1 {
            return Err(INVALID_VALUE);
        }
        let driver = driver::get()?;
        let (device, _) = driver.device(location.id)?;
        let limit = match (&raw const (*poolProps).maxSize).read() {
            0 => u64::MAX,
            limit => wide(limit),
        };
        let mut state = driver.state();
        let number = state.number();
        state.pools.insert(number, Pool::new(device, false, limit));
        out(pool, handle(number))?;
    }

    fn cuMemPoolDestroy(pool: CUmemoryPool) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let found = of_mut(&mut state.pools, id(pool))?;
        if found.default || found.destroyed {
            return Err(INVALID_VALUE);
        }
        trim(driver, found, 0);
        found.destroyed = true;
        if found.used == 0 {
            state.pools.remove(&id(pool));
        }
        for own in &mut state.devices {
            if own.pool == Some(id(pool)) {
                own.pool = None;
            }
        }
    }

    fn cuMemPoolTrimTo(pool: CUmemoryPool, minBytesToKeep: usize) {
        let driver = driver::get()?;
        let mut state = driver.state();
        trim(driver, of_mut(&mut state.pools, id(pool))?, wide(minBytesToKeep));
    }

    fn cuMemPoolGetAttribute(
        pool: CUmemoryPool,
        attr: Of<CUmemPool_attribute>,
        value: *mut c_void,
    ) {
        let driver = driver::get()?;
        let state = driver.state();
        let pool = of(&state.pools, id(pool))?;
        match attr.number() {
            number @ 1..=3 => {
                let place = usize::try_from(number - 1).unwrap_or(0);
                out(value.cast::<c_int>(), pool.reuse.get(place).copied().unwrap_or(0))?;
            }
            number => out(value.cast::<u64>(), attribute(pool, number)?)?,
        }
    }

    fn cuMemPoolSetAttribute(
        pool: CUmemoryPool,
        attr: Of<CUmemPool_attribute>,
        value: *mut c_void,
    ) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let pool = of_mut(&mut state.pools, id(pool))?;
        match attr.number() {
            number @ 1..=3 => {
                let value = crate::call::read(value.cast::<c_int>())?;
                let place = usize::try_from(number - 1).unwrap_or(0);
                if let Some(reuse) = pool.reuse.get_mut(place) {
                    *reuse = value;
                }
            }
            4 => pool.threshold = crate::call::read(value.cast::<u64>())?,
            // The highest so far can only be forgotten.
            6 | 8 if crate::call::read(value.cast::<u64>())? != 0 => return Err(INVALID_VALUE),
            6 => pool.most_reserved = pool.used + pool.kept,
            8 => pool.most_used = pool.used,
            _ => return Err(INVALID_VALUE),
        }
    }

    fn cuMemPoolSetAccess(pool: CUmemoryPool, map: *const CUmemAccessDesc, count: usize) {
        let _ = (map, count);
        of(&driver::get()?.state().pools, id(pool))?;
    }

    fn cuMemPoolGetAccess(
        flags: *mut CUmemAccess_flags,
        memPool: CUmemoryPool,
        location: *mut CUmemLocation,
    ) {
        let _ = location;
        of(&driver::get()?.state().pools, id(memPool))?;
        out(flags, CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE)?;
    }

    fn cuMemAllocAsync(dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) {
        allocate(dptr, bytesize, None, hStream)?;
    }

    fn cuMemAllocFromPoolAsync(
        dptr: *mut CUdeviceptr,
        bytesize: usize,
        pool: CUmemoryPool,
        hStream: CUstream,
    ) {
        allocate(dptr, bytesize, Some(id(pool)), hStream)?;
    }

    fn cuMemFreeAsync(dptr: CUdeviceptr, hStream: CUstream) {
        let here = here()?;
        let mut state = here.driver.state();
        let number = stream::number(&state, hStream)?;
        let address = dptr;
        if captured(&mut state, number, Work::Free { address })?.is_some() {
            return Ok(());
        }
        let found = state.allocations.get(&address).ok_or(INVALID_VALUE)?;
        if found.kind.host() || found.kind == Kind::Variable {
            return Err(INVALID_VALUE);
        }
        here.driver.free(&mut state, address)?;
    }
}

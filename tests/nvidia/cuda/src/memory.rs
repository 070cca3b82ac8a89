//! Memory of devices, and of the host for devices.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::driver::sys::{CUdevice, CUdeviceptr, CUmem_advise, CUmemLocation, CUstream};

use crate::{
    abi::Of,
    call::{at, out, out_if},
    code::{
        Done, HOST_MEMORY_ALREADY_REGISTERED, HOST_MEMORY_NOT_REGISTERED, INVALID_VALUE,
        OUT_OF_MEMORY,
    },
    context::here,
    driver,
    state::{Allocation, Kind},
    stream,
};

/// Rows of pitched memory begin at multiples of this.
const PITCH: u64 = 512;

fn allocate(to: *mut CUdeviceptr, bytes: u64, kind: Kind) -> Done {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    let here = here()?;
    let address = here
        .driver
        .allocate(&mut here.driver.state(), here.context, bytes, kind)?;
    // SAFETY: who calls an allocating function gives it a place for the address.
    unsafe { out(to, address) }
}

fn host(to: *mut *mut c_void, bytes: usize, flags: c_uint) -> Done {
    let mut address = 0;
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    allocate(&raw mut address, wide(bytes), Kind::Host(flags))?;
    // SAFETY: who calls an allocating function gives it a place for the address.
    unsafe { out(to, at(address)) }
}

pub(crate) fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

pub(crate) fn narrow(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Where a pointer of the host points.
pub(crate) fn address(pointer: *const c_void) -> u64 {
    wide(pointer.expose_provenance())
}

/// The host memory that begins there, and its flags.
fn host_flags(pointer: *const c_void) -> Done<u32> {
    let driver = driver::get()?;
    let state = driver.state();
    match state.allocation(address(pointer)) {
        Some((
            _,
            Allocation {
                kind: Kind::Host(flags) | Kind::Registered(flags),
                ..
            },
        )) => Ok(*flags),
        _ => Err(INVALID_VALUE),
    }
}

fn is_device(address: u64) -> Done {
    driver::get()?.state().check(address, 1)
}

driver! {
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let here = here()?;
        let (left, all) = here.driver.room(here.device)?;
        out(free, narrow(left))?;
        out(total, narrow(all))?;
    }

    fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize) {
        allocate(dptr, wide(bytesize), Kind::Device)?;
    }

    fn cuMemAllocPitch_v2(
        dptr: *mut CUdeviceptr,
        pPitch: *mut usize,
        WidthInBytes: usize,
        Height: usize,
        ElementSizeBytes: c_uint,
    ) {
        if !matches!(ElementSizeBytes, 4 | 8 | 16) {
            return Err(INVALID_VALUE);
        }
        let pitch = wide(WidthInBytes).checked_next_multiple_of(PITCH).ok_or(OUT_OF_MEMORY)?;
        let bytes = pitch.checked_mul(wide(Height)).ok_or(OUT_OF_MEMORY)?;
        out(pPitch, narrow(pitch))?;
        allocate(dptr, bytes, Kind::Device)?;
    }

    fn cuMemAllocManaged(dptr: *mut CUdeviceptr, bytesize: usize, flags: c_uint) {
        if !matches!(flags, 1 | 2 | 4) {
            return Err(INVALID_VALUE);
        }
        // Real managed memory goes to the device page by page; here it is there at once.
        allocate(dptr, wide(bytesize), Kind::Managed)?;
    }

    fn cuMemFree_v2(dptr: CUdeviceptr) {
        if dptr == 0 {
            return Ok(());
        }
        let driver = driver::get()?;
        let end = {
            let state = driver.state();
            let found = state.allocations.get(&dptr).ok_or(INVALID_VALUE)?;
            if found.kind.host() || found.kind == Kind::Variable {
                return Err(INVALID_VALUE);
            }
            stream::all(&state, found.context)
        };
        // As with NVIDIA's driver, nothing is freed under work that may use it.
        end.wait();
        driver.free(&mut driver.state(), dptr)?;
    }

    fn cuMemGetAddressRange_v2(
        pbase: *mut CUdeviceptr,
        psize: *mut usize,
        dptr: CUdeviceptr,
    ) {
        let driver = driver::get()?;
        let state = driver.state();
        let found = state.allocation(dptr).map(|(start, found)| (start, found.bytes));
        let found = found.or_else(|| {
            state.mapping(dptr).map(|(start, found)| (start, found.bytes))
        });
        let (start, bytes) = found.ok_or(crate::code::NOT_FOUND)?;
        out_if(pbase, start);
        out_if(psize, narrow(bytes));
    }

    fn cuMemAllocHost_v2(pp: *mut *mut c_void, bytesize: usize) {
        host(pp, bytesize, 0)?;
    }

    fn cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: c_uint) {
        if Flags > 7 {
            return Err(INVALID_VALUE);
        }
        host(pp, bytesize, Flags)?;
    }

    fn cuMemFreeHost(p: *mut c_void) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let found = state.allocations.get(&address(p)).ok_or(INVALID_VALUE)?;
        if !matches!(found.kind, Kind::Host(_)) {
            return Err(INVALID_VALUE);
        }
        driver.free(&mut state, address(p))?;
    }

    fn cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: c_uint) {
        if p.is_null() || bytesize == 0 {
            return Err(INVALID_VALUE);
        }
        let here = here()?;
        let mut state = here.driver.state();
        let (start, bytes) = (address(p), wide(bytesize));
        let last = start.checked_add(bytes - 1).ok_or(INVALID_VALUE)?;
        let inside = state.allocations.range(start..=last).next().is_some();
        if inside || state.allocation(start).is_some() {
            return Err(HOST_MEMORY_ALREADY_REGISTERED);
        }
        let allocation = Allocation {
            kind: Kind::Registered(Flags),
            bytes,
            charge: 0,
            context: here.context,
            device: here.device,
            number: state.number(),
        };
        state.allocations.insert(start, allocation);
    }

    fn cuMemHostUnregister(p: *mut c_void) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let found = state.allocations.get(&address(p));
        let found = found.ok_or(HOST_MEMORY_NOT_REGISTERED)?;
        if !matches!(found.kind, Kind::Registered(_)) {
            return Err(HOST_MEMORY_NOT_REGISTERED);
        }
        driver.free(&mut state, address(p))?;
    }

    fn cuMemHostGetDevicePointer_v2(
        pdptr: *mut CUdeviceptr,
        p: *mut c_void,
        Flags: c_uint,
    ) {
        if Flags != 0 {
            return Err(INVALID_VALUE);
        }
        host_flags(p)?;
        out(pdptr, address(p))?;
    }

    fn cuMemHostGetFlags(pFlags: *mut c_uint, p: *mut c_void) {
        out(pFlags, host_flags(p)?)?;
    }

    [older]
    fn cuMemAdvise(
        devPtr: CUdeviceptr,
        count: usize,
        advice: Of<CUmem_advise>,
        device: CUdevice,
    ) {
        let _ = (count, advice, device);
        is_device(devPtr)?;
    }

    fn cuMemAdvise_v2(
        devPtr: CUdeviceptr,
        count: usize,
        advice: Of<CUmem_advise>,
        location: Location,
    ) {
        let _ = (count, advice, location);
        is_device(devPtr)?;
    }

    [older]
    fn cuMemPrefetchAsync(
        devPtr: CUdeviceptr,
        count: usize,
        dstDevice: CUdevice,
        hStream: CUstream,
    ) {
        let _ = (count, dstDevice);
        is_device(devPtr)?;
        let here = here()?;
        stream::number(&here.driver.state(), hStream)?;
    }

    fn cuMemPrefetchAsync_v2(
        devPtr: CUdeviceptr,
        count: usize,
        location: Location,
        flags: c_uint,
        hStream: CUstream,
    ) {
        let _ = (count, location, flags);
        is_device(devPtr)?;
        let here = here()?;
        stream::number(&here.driver.state(), hStream)?;
    }
}

/// A `CUmemLocation`, whose kind may be any number.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Location {
    pub(crate) kind: u32,
    pub(crate) id: c_int,
}

impl crate::abi::Stands<CUmemLocation> for Location {}
const _: () = assert!(size_of::<Location>() == size_of::<CUmemLocation>());

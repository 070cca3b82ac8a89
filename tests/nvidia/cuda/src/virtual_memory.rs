//! Memory and addresses apart: physical memory is made, and mapped where it is wanted.

use std::{
    ffi::{c_int, c_ulonglong, c_void},
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
};

use cudarc::driver::sys::{
    CUdeviceptr, CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemGenericAllocationHandle, CUmemLocation,
};

use crate::{
    abi::Of,
    call::{at, out, read},
    code::{
        ALREADY_MAPPED, Done, INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY, UNKNOWN,
    },
    driver::{self, Driver},
    memory::{Location, address, narrow, wide},
    space,
    state::{State, of, of_mut},
};

/// Physical memory comes in pieces of this.
const GRANULE: u64 = 2 << 20;

/// A `CUmemLocationType`: a device.
const DEVICE: u32 = 1;

pub(crate) struct Physical {
    location: Location,
    bytes: u64,
    /// What it costs, and which device.
    charge: Option<(usize, u64)>,
    file: OwnedFd,
    /// How often it is mapped, and how many handles there are of it.
    mapped: usize,
    handles: usize,
}

pub(crate) struct Mapping {
    pub(crate) bytes: u64,
    physical: usize,
    pub(crate) access: bool,
}

fn number(handle: CUmemGenericAllocationHandle) -> usize {
    usize::try_from(handle).unwrap_or(0)
}

/// Memory that can be mapped more than once.
fn file(bytes: u64) -> Option<OwnedFd> {
    // SAFETY: the name is a C string.
    let descriptor = unsafe { libc::memfd_create(c"cuda".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return None;
    }
    // SAFETY: the kernel has just given it to us.
    let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let length = libc::off_t::try_from(bytes).ok()?;
    // SAFETY: it is a file of ours.
    (unsafe { libc::ftruncate(file.as_raw_fd(), length) } == 0).then_some(file)
}

/// Gives physical memory up when nothing refers to it any more.
fn drop_unused(driver: &Driver, state: &mut State, number: usize) {
    let unused = |physical: &Physical| physical.handles == 0 && physical.mapped == 0;
    if state.physical.get(&number).is_some_and(unused)
        && let Some(physical) = state.physical.remove(&number)
        && let Some((device, bytes)) = physical.charge
    {
        driver.refund(device, bytes);
    }
}

/// The mappings that begin in a range, which is to be made of them.
fn within(state: &State, start: u64, bytes: u64) -> Done<Vec<u64>> {
    let end = start.checked_add(bytes).ok_or(INVALID_VALUE)?;
    let mut next = start;
    let mut starts = Vec::new();
    while next < end {
        let found = state.mappings.get(&next).ok_or(INVALID_VALUE)?;
        starts.push(next);
        next += found.bytes;
    }
    match next == end && !starts.is_empty() {
        true => Ok(starts),
        false => Err(INVALID_VALUE),
    }
}

fn is_reserved(state: &State, start: u64, bytes: u64) -> bool {
    let around = state.reserved.range(..=start).next_back();
    around.is_some_and(|(from, length)| {
        start
            .checked_add(bytes)
            .is_some_and(|end| end <= from + length)
    })
}

driver! {
    fn cuMemGetAllocationGranularity(
        granularity: *mut usize,
        prop: *const CUmemAllocationProp,
        option: Of<CUmemAllocationGranularity_flags>,
    ) {
        if prop.is_null() || option.number() > 1 {
            return Err(INVALID_VALUE);
        }
        out(granularity, narrow(GRANULE))?;
    }

    fn cuMemCreate(
        handle: *mut CUmemGenericAllocationHandle,
        size: usize,
        prop: *const CUmemAllocationProp,
        flags: c_ulonglong,
    ) {
        let bytes = wide(size);
        if handle.is_null() || prop.is_null() || flags != 0 || bytes == 0
            || !bytes.is_multiple_of(GRANULE)
        {
            return Err(INVALID_VALUE);
        }
        let location = (&raw const (*prop).location).cast::<Location>().read();
        let driver = driver::get()?;
        let mut state = driver.state();
        let charge = match location.kind {
            DEVICE => {
                let (device, _) = driver.device(location.id)?;
                driver.charge(&mut state, device, bytes)?;
                Some((device, bytes))
            }
            // The host's memory, or that of one of its NUMA nodes.
            2..=4 => None,
            _ => return Err(INVALID_VALUE),
        };
        let Some(file) = file(bytes) else {
            if let Some((device, bytes)) = charge {
                driver.refund(device, bytes);
            }
            return Err(OUT_OF_MEMORY);
        };
        let number = state.number();
        let physical = Physical { location, bytes, charge, file, mapped: 0, handles: 1 };
        state.physical.insert(number, physical);
        out(handle, wide(number))?;
    }

    fn cuMemRelease(handle: CUmemGenericAllocationHandle) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let physical = state.physical.get_mut(&number(handle)).ok_or(INVALID_VALUE)?;
        physical.handles = physical.handles.checked_sub(1).ok_or(INVALID_VALUE)?;
        drop_unused(driver, &mut state, number(handle));
    }

    fn cuMemRetainAllocationHandle(
        handle: *mut CUmemGenericAllocationHandle,
        addr: *mut c_void,
    ) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let (_, mapping) = state.mapping(address(addr)).ok_or(INVALID_VALUE)?;
        let number = mapping.physical;
        of_mut(&mut state.physical, number)?.handles += 1;
        out(handle, wide(number))?;
    }

    fn cuMemGetAllocationPropertiesFromHandle(
        prop: *mut CUmemAllocationProp,
        handle: CUmemGenericAllocationHandle,
    ) {
        let driver = driver::get()?;
        let location = of(&driver.state().physical, number(handle))?.location;
        if prop.is_null() {
            return Err(INVALID_VALUE);
        }
        prop.cast::<u8>().write_bytes(0, size_of::<CUmemAllocationProp>());
        // Pinned memory.
        (&raw mut (*prop).type_).cast::<u32>().write(1);
        (&raw mut (*prop).location).cast::<Location>().write(location);
    }

    fn cuMemAddressReserve(
        ptr: *mut CUdeviceptr,
        size: usize,
        alignment: usize,
        addr: CUdeviceptr,
        flags: c_ulonglong,
    ) {
        // The address that is asked for is a wish; this has others.
        let _ = (addr, flags);
        let bytes = wide(size);
        let align = wide(alignment).max(GRANULE);
        if ptr.is_null() || bytes == 0 || !bytes.is_multiple_of(GRANULE)
            || !align.is_power_of_two()
        {
            return Err(INVALID_VALUE);
        }
        let driver = driver::get()?;
        let mut state = driver.state();
        let more = bytes.checked_add(align).ok_or(OUT_OF_MEMORY)?;
        let found = space::reserve(more).ok_or(OUT_OF_MEMORY)?;
        let start = found.next_multiple_of(align);
        // What is before and behind it goes back.
        if start > found {
            space::unmap(found, start - found);
        }
        space::unmap(start + bytes, found + more - start - bytes);
        state.reserved.insert(start, bytes);
        out(ptr, start)?;
    }

    fn cuMemAddressFree(ptr: CUdeviceptr, size: usize) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let end = ptr.checked_add(wide(size)).ok_or(INVALID_VALUE)?;
        if state.reserved.get(&ptr) != Some(&wide(size))
            || state.mappings.range(ptr..end).next().is_some()
        {
            return Err(INVALID_VALUE);
        }
        state.reserved.remove(&ptr);
        space::unmap(ptr, wide(size));
    }

    fn cuMemMap(
        ptr: CUdeviceptr,
        size: usize,
        offset: usize,
        handle: CUmemGenericAllocationHandle,
        flags: c_ulonglong,
    ) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let bytes = wide(size);
        let physical = state.physical.get(&number(handle)).ok_or(INVALID_VALUE)?;
        let fits = wide(offset).checked_add(bytes).is_some_and(|end| end <= physical.bytes);
        if flags != 0 || bytes == 0 || !bytes.is_multiple_of(GRANULE) || !fits
            || !ptr.is_multiple_of(GRANULE) || !is_reserved(&state, ptr, bytes)
        {
            return Err(INVALID_VALUE);
        }
        let over = state.mappings.range(ptr..ptr + bytes).next().is_some();
        if over || state.mapping(ptr).is_some() {
            return Err(ALREADY_MAPPED);
        }
        let from = libc::off_t::try_from(offset).map_err(|_| INVALID_VALUE)?;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let file = physical.file.as_raw_fd();
        if libc::mmap(at(ptr), size, libc::PROT_NONE, flags, file, from) == libc::MAP_FAILED {
            return Err(OUT_OF_MEMORY);
        }
        let physical = number(handle);
        state.mappings.insert(ptr, Mapping { bytes, physical, access: false });
        of_mut(&mut state.physical, physical)?.mapped += 1;
    }

    fn cuMemUnmap(ptr: CUdeviceptr, size: usize) {
        let driver = driver::get()?;
        let mut state = driver.state();
        for start in within(&state, ptr, wide(size))? {
            let Some(mapping) = state.mappings.remove(&start) else { continue };
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED
                | libc::MAP_NORESERVE;
            libc::mmap(at(start), narrow(mapping.bytes), libc::PROT_NONE, flags, -1, 0);
            of_mut(&mut state.physical, mapping.physical)?.mapped -= 1;
            drop_unused(driver, &mut state, mapping.physical);
        }
    }

    fn cuMemSetAccess(
        ptr: CUdeviceptr,
        size: usize,
        desc: *const CUmemAccessDesc,
        count: usize,
    ) {
        if desc.is_null() || count == 0 {
            return Err(INVALID_VALUE);
        }
        let driver = driver::get()?;
        let mut state = driver.state();
        let starts = within(&state, ptr, wide(size))?;
        let mut most = 0;
        for place in 0..count {
            let desc = desc.add(place);
            let location = (&raw const (*desc).location).cast::<Location>().read();
            if location.kind == DEVICE {
                driver.device(location.id).map_err(|_| INVALID_DEVICE)?;
            }
            most = most.max((&raw const (*desc).flags).cast::<u32>().read());
        }
        let access = match most {
            0 => libc::PROT_NONE,
            1 => libc::PROT_READ,
            _ => libc::PROT_READ | libc::PROT_WRITE,
        };
        if libc::mprotect(at(ptr), size, access) != 0 {
            return Err(UNKNOWN);
        }
        for start in starts {
            if let Some(mapping) = state.mappings.get_mut(&start) {
                mapping.access = most == 3;
            }
        }
    }

    fn cuMemGetAccess(
        flags: *mut c_ulonglong,
        location: *const CUmemLocation,
        ptr: CUdeviceptr,
    ) {
        read(location.cast::<Location>())?;
        let driver = driver::get()?;
        let state = driver.state();
        let (_, mapping) = state.mapping(ptr).ok_or(INVALID_VALUE)?;
        out(flags, if mapping.access { 3 } else { 0 })?;
    }

    fn cuMemExportToShareableHandle(
        shareableHandle: *mut c_void,
        handle: CUmemGenericAllocationHandle,
        handleType: Of<CUmemAllocationHandleType>,
        flags: c_ulonglong,
    ) {
        // A file descriptor.
        if handleType.number() != 1 || flags != 0 {
            return Err(NOT_SUPPORTED);
        }
        let driver = driver::get()?;
        let state = driver.state();
        let file = &of(&state.physical, number(handle))?.file;
        let copy = file.try_clone().map_err(|_| UNKNOWN)?;
        out(shareableHandle.cast::<c_int>(), copy.into_raw_fd())?;
    }

    fn cuMemImportFromShareableHandle(
        handle: *mut CUmemGenericAllocationHandle,
        osHandle: *mut c_void,
        shHandleType: Of<CUmemAllocationHandleType>,
    ) {
        if shHandleType.number() != 1 {
            return Err(NOT_SUPPORTED);
        }
        let theirs = c_int::try_from(osHandle.addr()).map_err(|_| INVALID_VALUE)?;
        let ours = libc::fcntl(theirs, libc::F_DUPFD_CLOEXEC, 0);
        if ours < 0 {
            return Err(INVALID_VALUE);
        }
        let file = OwnedFd::from_raw_fd(ours);
        let mut about: libc::stat = std::mem::zeroed();
        if libc::fstat(ours, &raw mut about) != 0 {
            return Err(INVALID_VALUE);
        }
        let bytes = u64::try_from(about.st_size).map_err(|_| INVALID_VALUE)?;
        let driver = driver::get()?;
        let mut state = driver.state();
        let number = state.number();
        // It was charged to who made it.
        let location = Location { kind: DEVICE, id: 0 };
        let physical = Physical { location, bytes, charge: None, file, mapped: 0, handles: 1 };
        state.physical.insert(number, physical);
        out(handle, wide(number))?;
    }
}

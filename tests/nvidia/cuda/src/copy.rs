//! Copies and fills.

use std::{
    ffi::{c_uchar, c_uint, c_ushort, c_void},
    ptr,
};

use cudarc::driver::sys::{
    CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER, CUarray, CUcontext, CUdeviceptr, CUstream,
};

use crate::{
    call::{at, id},
    code::{Done, INVALID_HANDLE, INVALID_VALUE},
    context::here,
    graph::{self, Work},
    memory::{address, narrow, wide},
    state::{State, of},
    stream,
};

/// One end of a copy: rows at distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    address: u64,
    pitch: u64,
    /// From a layer to the next.
    layer: u64,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Memory of the program, which is believed.
    Host,
    Device,
    /// The device's, if it is any, else the program's.
    Any,
    Array(usize),
}

/// A copy of layers of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    to: Side,
    from: Side,
    width: u64,
    height: u64,
    layers: u64,
}

/// A fill of rows with an element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) address: u64,
    pub(crate) pitch: u64,
    pub(crate) value: u32,
    /// Bytes of an element.
    pub(crate) size: u64,
    /// Elements in a row.
    pub(crate) width: u64,
    pub(crate) height: u64,
}

impl Side {
    fn line(address: u64, what: What) -> Self {
        Self {
            address,
            pitch: 0,
            layer: 0,
            what,
        }
    }

    /// Are all bytes there?
    fn check(&self, state: &State, copy: &Copy) -> Done {
        if copy.width == 0 || copy.height == 0 || copy.layers == 0 {
            return Ok(());
        }
        let rows = self.pitch.checked_mul(copy.height - 1);
        let layers = self.layer.checked_mul(copy.layers - 1);
        let bytes = rows
            .zip(layers)
            .and_then(|(rows, layers)| rows.checked_add(layers));
        let bytes = bytes
            .and_then(|bytes| bytes.checked_add(copy.width))
            .ok_or(INVALID_VALUE)?;
        match self.what {
            What::Device => state.check(self.address, bytes),
            What::Array(array) => of(&state.arrays, array)?.check(self.address, bytes),
            What::Any if known(state, self.address) => state.check(self.address, bytes),
            What::Host | What::Any if self.address == 0 => Err(INVALID_VALUE),
            What::Host | What::Any => Ok(()),
        }
    }
}

fn known(state: &State, address: u64) -> bool {
    state.allocation(address).is_some() || state.mapping(address).is_some()
}

impl Copy {
    fn line(to: Side, from: Side, bytes: usize) -> Self {
        Self {
            to,
            from,
            width: wide(bytes),
            height: 1,
            layers: 1,
        }
    }

    fn check(&self, state: &State) -> Done {
        for side in [&self.to, &self.from] {
            if self.height > 1 && side.pitch < self.width {
                return Err(INVALID_VALUE);
            }
            side.check(state, self)?;
        }
        Ok(())
    }

    /// Does it.
    pub(crate) fn perform(&self, state: &State) -> Done {
        self.check(state)?;
        let bytes = narrow(self.width);
        for layer in 0..self.layers {
            for row in 0..self.height {
                let of = |side: &Side| at(side.address + layer * side.layer + row * side.pitch);
                // SAFETY: device memory was checked, and stays while the state is locked; the
                // program answers for its own, as with NVIDIA's driver.
                unsafe { ptr::copy(of(&self.from).cast::<u8>(), of(&self.to).cast(), bytes) };
            }
        }
        Ok(())
    }
}

impl Fill {
    fn check(&self, state: &State) -> Done {
        let row = self.width.checked_mul(self.size).ok_or(INVALID_VALUE)?;
        if row == 0 || self.height == 0 {
            return Ok(());
        }
        if !self.address.is_multiple_of(self.size) || (self.height > 1 && self.pitch < row) {
            return Err(INVALID_VALUE);
        }
        let rows = self
            .pitch
            .checked_mul(self.height - 1)
            .ok_or(INVALID_VALUE)?;
        state.check(self.address, rows.checked_add(row).ok_or(INVALID_VALUE)?)
    }

    /// Does it.
    pub(crate) fn perform(&self, state: &State) -> Done {
        self.check(state)?;
        for row in 0..self.height {
            let start = self.address + row * self.pitch;
            let bytes = self.width * self.size;
            let rest = match self.value {
                0 => forget(state, start, bytes),
                _ => vec![(start, bytes)],
            };
            for (start, bytes) in rest {
                fill(start, bytes, self.value, self.size);
            }
        }
        Ok(())
    }
}

fn fill(start: u64, bytes: u64, value: u32, size: u64) {
    let pattern = value.to_le_bytes();
    if let [byte, ..] = pattern
        && size == 1
    {
        // SAFETY: the range was checked, and stays while the state is locked.
        unsafe { at(start).cast::<u8>().write_bytes(byte, narrow(bytes)) };
        return;
    }
    for place in 0..bytes / size {
        // SAFETY: the same.
        unsafe {
            let to = at(start + place * size).cast::<u8>();
            ptr::copy_nonoverlapping(pattern.as_ptr(), to, narrow(size.min(4)));
        }
    }
}

/// Makes pages zero by giving them up, so that a device can be cleared that is larger than
/// the host's memory. Tells what is left to do: the ends that fill no page.
fn forget(state: &State, start: u64, bytes: u64) -> Vec<(u64, u64)> {
    const PAGE: u64 = 4096;
    let all = vec![(start, bytes)];
    let Some((_, allocation)) = state.allocation(start) else {
        return all;
    };
    let (first, end) = (start.next_multiple_of(PAGE), start + bytes);
    let last = end - end % PAGE;
    if allocation.kind.host() || first >= last {
        return all;
    }
    // SAFETY: private pages that this library mapped, and nobody else uses while it is asked
    // to fill them.
    let done = unsafe { libc::madvise(at(first), narrow(last - first), libc::MADV_DONTNEED) };
    match done {
        0 => vec![(start, first - start), (last, end - last)],
        _ => all,
    }
}

/// Has work done in stream order; who asked does not wait for it.
fn later(stream: CUstream, work: Work) -> Done {
    let here = here()?;
    let mut state = here.driver.state();
    let number = stream::number(&state, stream)?;
    if graph::captured(&mut state, number, work.clone())?.is_some() {
        return Ok(());
    }
    graph::perform(here.driver, &mut state, number, &work)
}

/// Has work done, and waits for it.
fn now(work: &Work) -> Done {
    let here = here()?;
    let end = {
        let mut state = here.driver.state();
        let number = stream::number(&state, ptr::null_mut())?;
        graph::perform(here.driver, &mut state, number, work)?;
        of(&state.streams, number)?.end.clone()
    };
    end.wait();
    Ok(())
}

fn device(address: CUdeviceptr) -> Side {
    Side::line(address, What::Device)
}

fn host(pointer: *const c_void) -> Side {
    Side::line(address(pointer), What::Host)
}

fn any(address: CUdeviceptr) -> Side {
    Side::line(address, What::Any)
}

fn array(handle: CUarray, offset: usize) -> Done<Side> {
    let driver = crate::driver::get()?;
    let state = driver.state();
    let array = state.arrays.get(&id(handle)).ok_or(INVALID_HANDLE)?;
    Ok(Side::line(
        array.address + wide(offset),
        What::Array(id(handle)),
    ))
}

fn line(to: Side, from: Side, bytes: usize) -> Work {
    Work::Copy(Copy::line(to, from, bytes))
}

/// One side as the structures of copies say it.
struct Said {
    /// A `CUmemorytype`.
    kind: u32,
    host: *const c_void,
    device: CUdeviceptr,
    array: CUarray,
    /// Where it begins: bytes, rows, layers.
    at: [usize; 3],
    pitch: usize,
    rows: usize,
}

impl Said {
    fn side(&self, width: u64) -> Done<Side> {
        let [x, y, z] = self.at.map(wide);
        let (base, pitch, rows, what) = match self.kind {
            1 => (
                address(self.host),
                wide(self.pitch),
                wide(self.rows),
                What::Host,
            ),
            2 => (self.device, wide(self.pitch), wide(self.rows), What::Device),
            3 => {
                let driver = crate::driver::get()?;
                let state = driver.state();
                let array = state.arrays.get(&id(self.array)).ok_or(INVALID_HANDLE)?;
                let what = What::Array(id(self.array));
                (array.address, array.pitch, array.rows, what)
            }
            4 => (self.device, wide(self.pitch), wide(self.rows), What::Any),
            _ => return Err(INVALID_VALUE),
        };
        // Without a pitch, rows are side by side.
        let pitch = if pitch == 0 { width + x } else { pitch };
        let layer = pitch.checked_mul(rows.max(1)).ok_or(INVALID_VALUE)?;
        let offset = y.checked_mul(pitch).zip(z.checked_mul(layer));
        let offset = offset.and_then(|(y, z)| y.checked_add(z)?.checked_add(x));
        let address = base
            .checked_add(offset.ok_or(INVALID_VALUE)?)
            .ok_or(INVALID_VALUE)?;
        Ok(Side {
            address,
            pitch,
            layer,
            what,
        })
    }
}

fn rows(to: &Said, from: &Said, size: [usize; 3]) -> Done<Work> {
    let [width, height, layers] = size.map(wide);
    let (to, from) = (to.side(width)?, from.side(width)?);
    Ok(Work::Copy(Copy {
        to,
        from,
        width,
        height,
        layers,
    }))
}

/// # Safety
/// It is null or points to one.
unsafe fn said_2d(copy: *const CUDA_MEMCPY2D) -> Done<Work> {
    if copy.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: it points to one; kinds of memory are read as the numbers they are.
    unsafe {
        let (height, width) = ((&raw const (*copy).Height).read(), (*copy).WidthInBytes);
        let to = Said {
            kind: (&raw const (*copy).dstMemoryType).cast::<u32>().read(),
            host: (*copy).dstHost,
            device: (*copy).dstDevice,
            array: (*copy).dstArray,
            at: [(*copy).dstXInBytes, (*copy).dstY, 0],
            pitch: (*copy).dstPitch,
            rows: height,
        };
        let from = Said {
            kind: (&raw const (*copy).srcMemoryType).cast::<u32>().read(),
            host: (*copy).srcHost,
            device: (*copy).srcDevice,
            array: (*copy).srcArray,
            at: [(*copy).srcXInBytes, (*copy).srcY, 0],
            pitch: (*copy).srcPitch,
            rows: height,
        };
        rows(&to, &from, [width, height, 1])
    }
}

macro_rules! said_3d {
    ($copy:ident) => {{
        let to = Said {
            kind: (&raw const (*$copy).dstMemoryType).cast::<u32>().read(),
            host: (*$copy).dstHost,
            device: (*$copy).dstDevice,
            array: (*$copy).dstArray,
            at: [(*$copy).dstXInBytes, (*$copy).dstY, (*$copy).dstZ],
            pitch: (*$copy).dstPitch,
            rows: (*$copy).dstHeight,
        };
        let from = Said {
            kind: (&raw const (*$copy).srcMemoryType).cast::<u32>().read(),
            host: (*$copy).srcHost,
            device: (*$copy).srcDevice,
            array: (*$copy).srcArray,
            at: [(*$copy).srcXInBytes, (*$copy).srcY, (*$copy).srcZ],
            pitch: (*$copy).srcPitch,
            rows: (*$copy).srcHeight,
        };
        rows(
            &to,
            &from,
            [(*$copy).WidthInBytes, (*$copy).Height, (*$copy).Depth],
        )
    }};
}

/// # Safety
/// It is null or points to one.
pub(crate) unsafe fn said_3d(copy: *const CUDA_MEMCPY3D) -> Done<Work> {
    if copy.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: it points to one; kinds of memory are read as the numbers they are.
    unsafe { said_3d!(copy) }
}

/// # Safety
/// It is null or points to one.
unsafe fn said_peer(copy: *const CUDA_MEMCPY3D_PEER) -> Done<Work> {
    if copy.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: it points to one; kinds of memory are read as the numbers they are.
    unsafe { said_3d!(copy) }
}

fn filled(address: u64, value: u32, size: u64, width: usize) -> Work {
    Work::Fill(Fill {
        address,
        pitch: 0,
        value,
        size,
        width: wide(width),
        height: 1,
    })
}

fn rows_filled(
    address: u64,
    pitch: usize,
    value: u32,
    size: u64,
    [width, height]: [usize; 2],
) -> Work {
    let (pitch, width, height) = (wide(pitch), wide(width), wide(height));
    Work::Fill(Fill {
        address,
        pitch,
        value,
        size,
        width,
        height,
    })
}

driver! {
    fn cuMemcpy(dst: CUdeviceptr, src: CUdeviceptr, ByteCount: usize) {
        now(&line(any(dst), any(src), ByteCount))?;
    }

    fn cuMemcpyAsync(
        dst: CUdeviceptr,
        src: CUdeviceptr,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        later(hStream, line(any(dst), any(src), ByteCount))?;
    }

    fn cuMemcpyHtoD_v2(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize) {
        now(&line(device(dstDevice), host(srcHost), ByteCount))?;
    }

    fn cuMemcpyHtoDAsync_v2(
        dstDevice: CUdeviceptr,
        srcHost: *const c_void,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        later(hStream, line(device(dstDevice), host(srcHost), ByteCount))?;
    }

    fn cuMemcpyDtoH_v2(dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize) {
        now(&line(host(dstHost), device(srcDevice), ByteCount))?;
    }

    fn cuMemcpyDtoHAsync_v2(
        dstHost: *mut c_void,
        srcDevice: CUdeviceptr,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        later(hStream, line(host(dstHost), device(srcDevice), ByteCount))?;
    }

    fn cuMemcpyDtoD_v2(dstDevice: CUdeviceptr, srcDevice: CUdeviceptr, ByteCount: usize) {
        now(&line(device(dstDevice), device(srcDevice), ByteCount))?;
    }

    fn cuMemcpyDtoDAsync_v2(
        dstDevice: CUdeviceptr,
        srcDevice: CUdeviceptr,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        later(hStream, line(device(dstDevice), device(srcDevice), ByteCount))?;
    }

    fn cuMemcpyPeer(
        dstDevice: CUdeviceptr,
        dstContext: CUcontext,
        srcDevice: CUdeviceptr,
        srcContext: CUcontext,
        ByteCount: usize,
    ) {
        contexts(dstContext, srcContext)?;
        now(&line(device(dstDevice), device(srcDevice), ByteCount))?;
    }

    fn cuMemcpyPeerAsync(
        dstDevice: CUdeviceptr,
        dstContext: CUcontext,
        srcDevice: CUdeviceptr,
        srcContext: CUcontext,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        contexts(dstContext, srcContext)?;
        later(hStream, line(device(dstDevice), device(srcDevice), ByteCount))?;
    }

    fn cuMemcpyDtoA_v2(
        dstArray: CUarray,
        dstOffset: usize,
        srcDevice: CUdeviceptr,
        ByteCount: usize,
    ) {
        now(&line(array(dstArray, dstOffset)?, device(srcDevice), ByteCount))?;
    }

    fn cuMemcpyAtoD_v2(
        dstDevice: CUdeviceptr,
        srcArray: CUarray,
        srcOffset: usize,
        ByteCount: usize,
    ) {
        now(&line(device(dstDevice), array(srcArray, srcOffset)?, ByteCount))?;
    }

    fn cuMemcpyHtoA_v2(
        dstArray: CUarray,
        dstOffset: usize,
        srcHost: *const c_void,
        ByteCount: usize,
    ) {
        now(&line(array(dstArray, dstOffset)?, host(srcHost), ByteCount))?;
    }

    fn cuMemcpyHtoAAsync_v2(
        dstArray: CUarray,
        dstOffset: usize,
        srcHost: *const c_void,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        later(hStream, line(array(dstArray, dstOffset)?, host(srcHost), ByteCount))?;
    }

    fn cuMemcpyAtoH_v2(
        dstHost: *mut c_void,
        srcArray: CUarray,
        srcOffset: usize,
        ByteCount: usize,
    ) {
        now(&line(host(dstHost), array(srcArray, srcOffset)?, ByteCount))?;
    }

    fn cuMemcpyAtoHAsync_v2(
        dstHost: *mut c_void,
        srcArray: CUarray,
        srcOffset: usize,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        later(hStream, line(host(dstHost), array(srcArray, srcOffset)?, ByteCount))?;
    }

    fn cuMemcpyAtoA_v2(
        dstArray: CUarray,
        dstOffset: usize,
        srcArray: CUarray,
        srcOffset: usize,
        ByteCount: usize,
    ) {
        let (to, from) = (array(dstArray, dstOffset)?, array(srcArray, srcOffset)?);
        now(&line(to, from, ByteCount))?;
    }

    fn cuMemcpy2D_v2(pCopy: *const CUDA_MEMCPY2D) {
        now(&said_2d(pCopy)?)?;
    }

    fn cuMemcpy2DUnaligned_v2(pCopy: *const CUDA_MEMCPY2D) {
        now(&said_2d(pCopy)?)?;
    }

    fn cuMemcpy2DAsync_v2(pCopy: *const CUDA_MEMCPY2D, hStream: CUstream) {
        later(hStream, said_2d(pCopy)?)?;
    }

    fn cuMemcpy3D_v2(pCopy: *const CUDA_MEMCPY3D) {
        now(&said_3d(pCopy)?)?;
    }

    fn cuMemcpy3DAsync_v2(pCopy: *const CUDA_MEMCPY3D, hStream: CUstream) {
        later(hStream, said_3d(pCopy)?)?;
    }

    fn cuMemcpy3DPeer(pCopy: *const CUDA_MEMCPY3D_PEER) {
        now(&said_peer(pCopy)?)?;
    }

    fn cuMemcpy3DPeerAsync(pCopy: *const CUDA_MEMCPY3D_PEER, hStream: CUstream) {
        later(hStream, said_peer(pCopy)?)?;
    }

    fn cuMemsetD8_v2(dstDevice: CUdeviceptr, uc: c_uchar, N: usize) {
        now(&filled(dstDevice, uc.into(), 1, N))?;
    }

    fn cuMemsetD16_v2(dstDevice: CUdeviceptr, us: c_ushort, N: usize) {
        now(&filled(dstDevice, us.into(), 2, N))?;
    }

    fn cuMemsetD32_v2(dstDevice: CUdeviceptr, ui: c_uint, N: usize) {
        now(&filled(dstDevice, ui, 4, N))?;
    }

    fn cuMemsetD8Async(dstDevice: CUdeviceptr, uc: c_uchar, N: usize, hStream: CUstream) {
        later(hStream, filled(dstDevice, uc.into(), 1, N))?;
    }

    fn cuMemsetD16Async(dstDevice: CUdeviceptr, us: c_ushort, N: usize, hStream: CUstream) {
        later(hStream, filled(dstDevice, us.into(), 2, N))?;
    }

    fn cuMemsetD32Async(dstDevice: CUdeviceptr, ui: c_uint, N: usize, hStream: CUstream) {
        later(hStream, filled(dstDevice, ui, 4, N))?;
    }

    fn cuMemsetD2D8_v2(
        dstDevice: CUdeviceptr,
        dstPitch: usize,
        uc: c_uchar,
        Width: usize,
        Height: usize,
    ) {
        now(&rows_filled(dstDevice, dstPitch, uc.into(), 1, [Width, Height]))?;
    }

    fn cuMemsetD2D16_v2(
        dstDevice: CUdeviceptr,
        dstPitch: usize,
        us: c_ushort,
        Width: usize,
        Height: usize,
    ) {
        now(&rows_filled(dstDevice, dstPitch, us.into(), 2, [Width, Height]))?;
    }

    fn cuMemsetD2D32_v2(
        dstDevice: CUdeviceptr,
        dstPitch: usize,
        ui: c_uint,
        Width: usize,
        Height: usize,
    ) {
        now(&rows_filled(dstDevice, dstPitch, ui, 4, [Width, Height]))?;
    }

    fn cuMemsetD2D8Async(
        dstDevice: CUdeviceptr,
        dstPitch: usize,
        uc: c_uchar,
        Width: usize,
        Height: usize,
        hStream: CUstream,
    ) {
        later(hStream, rows_filled(dstDevice, dstPitch, uc.into(), 1, [Width, Height]))?;
    }

    fn cuMemsetD2D16Async(
        dstDevice: CUdeviceptr,
        dstPitch: usize,
        us: c_ushort,
        Width: usize,
        Height: usize,
        hStream: CUstream,
    ) {
        later(hStream, rows_filled(dstDevice, dstPitch, us.into(), 2, [Width, Height]))?;
    }

    fn cuMemsetD2D32Async(
        dstDevice: CUdeviceptr,
        dstPitch: usize,
        ui: c_uint,
        Width: usize,
        Height: usize,
        hStream: CUstream,
    ) {
        later(hStream, rows_filled(dstDevice, dstPitch, ui, 4, [Width, Height]))?;
    }
}

fn contexts(one: CUcontext, other: CUcontext) -> Done {
    let driver = crate::driver::get()?;
    let state = driver.state();
    for context in [one, other] {
        if !state.contexts.contains_key(&id(context)) {
            return Err(crate::code::INVALID_CONTEXT);
        }
    }
    Ok(())
}

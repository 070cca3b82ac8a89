//! Copies and fills, as programs ask for them.

use std::{
    ffi::{c_uchar, c_uint, c_ushort, c_void},
    ptr,
};

use cudarc::driver::sys::{
    CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER, CUarray, CUcontext, CUdeviceptr, CUstream,
};

use crate::{
    bytes::{Copy, Fill, Side, What},
    call::id,
    capture::captured,
    code::{Done, INVALID_HANDLE, INVALID_VALUE},
    context::here,
    memory::{address, wide},
    state::of,
    stream,
    work::{Work, perform},
};

/// Has work done in stream order; who asked does not wait for it.
fn later(stream: CUstream, work: Work) -> Done {
    let here = here()?;
    let mut state = here.driver.state();
    let number = stream::number(&state, stream)?;
    if captured(&mut state, number, work.clone())?.is_some() {
        return Ok(());
    }
    perform(here.driver, &mut state, number, &work)
}

/// Has work done, and waits for it.
fn now(work: &Work) -> Done {
    let here = here()?;
    let end = {
        let mut state = here.driver.state();
        let number = stream::number(&state, ptr::null_mut())?;
        perform(here.driver, &mut state, number, work)?;
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

//! Arrays: memory without an address, of one to three dimensions.

use cudarc::driver::sys::{
    CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY_MEMORY_REQUIREMENTS, CUDA_ARRAY3D_DESCRIPTOR, CUarray,
    CUdevice,
};

use crate::{
    call::{handle, id, out},
    code::{Done, INVALID_HANDLE, INVALID_VALUE, OUT_OF_MEMORY},
    context::here,
    driver::{self, Driver},
    memory::{narrow, wide},
    space,
    state::{State, of, taken},
};

pub(crate) struct Array {
    pub(crate) context: usize,
    device: usize,
    /// Where its elements really are, rows side by side.
    pub(crate) address: u64,
    bytes: u64,
    charge: u64,
    /// Bytes of a row; rows of a layer.
    pub(crate) pitch: u64,
    pub(crate) rows: u64,
    shape: Shape,
}

#[derive(Clone, Copy)]
struct Shape {
    width: usize,
    height: usize,
    depth: usize,
    format: u32,
    channels: u32,
    flags: u32,
}

/// Bytes of one channel of a `CUarray_format`.
fn channel(format: u32) -> Option<u64> {
    Some(match format {
        1 | 8 => 1,
        2 | 9 | 0x10 => 2,
        3 | 10 | 0x20 => 4,
        _ => return None,
    })
}

fn create(shape: Shape) -> Done<usize> {
    let element = channel(shape.format).ok_or(INVALID_VALUE)? * u64::from(shape.channels);
    if shape.width == 0 || !matches!(shape.channels, 1 | 2 | 4) {
        return Err(INVALID_VALUE);
    }
    let here = here()?;
    let mut state = here.driver.state();
    let pitch = element
        .checked_mul(wide(shape.width))
        .ok_or(OUT_OF_MEMORY)?;
    let rows = wide(shape.height.max(1));
    let layers = wide(shape.depth.max(1));
    let bytes = pitch
        .checked_mul(rows)
        .and_then(|all| all.checked_mul(layers));
    let bytes = bytes.ok_or(OUT_OF_MEMORY)?;
    let charge = bytes
        .checked_next_multiple_of(space::GRANULE)
        .ok_or(OUT_OF_MEMORY)?;
    here.driver.charge(&mut state, here.device, charge)?;
    let Some(address) = space::map(bytes) else {
        here.driver.refund(here.device, charge);
        return Err(OUT_OF_MEMORY);
    };
    let number = state.number();
    let (context, device) = (here.context, here.device);
    let array = Array {
        context,
        device,
        address,
        bytes,
        charge,
        pitch,
        rows,
        shape,
    };
    state.arrays.insert(number, array);
    Ok(number)
}

/// Frees one.
pub(crate) fn destroy(driver: &Driver, state: &mut State, number: usize) -> Done {
    let array = taken(&mut state.arrays, number)?;
    space::unmap(array.address, array.bytes);
    driver.refund(array.device, array.charge);
    Ok(())
}

impl Array {
    /// Are these bytes within it?
    pub(crate) fn check(&self, address: u64, bytes: u64) -> Done {
        let end = address.checked_add(bytes).ok_or(INVALID_VALUE)?;
        match address >= self.address && end <= self.address + self.bytes {
            true => Ok(()),
            false => Err(INVALID_VALUE),
        }
    }
}

driver! {
    fn cuArrayCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR) {
        if pHandle.is_null() || pAllocateArray.is_null() {
            return Err(INVALID_VALUE);
        }
        let asked = pAllocateArray;
        let number = create(Shape {
            width: (&raw const (*asked).Width).read(),
            height: (&raw const (*asked).Height).read(),
            depth: 0,
            format: (&raw const (*asked).Format).cast::<u32>().read(),
            channels: (&raw const (*asked).NumChannels).read(),
            flags: 0,
        })?;
        out(pHandle, handle(number))?;
    }

    fn cuArray3DCreate_v2(
        pHandle: *mut CUarray,
        pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR,
    ) {
        if pHandle.is_null() || pAllocateArray.is_null() {
            return Err(INVALID_VALUE);
        }
        let asked = pAllocateArray;
        let number = create(Shape {
            width: (&raw const (*asked).Width).read(),
            height: (&raw const (*asked).Height).read(),
            depth: (&raw const (*asked).Depth).read(),
            format: (&raw const (*asked).Format).cast::<u32>().read(),
            channels: (&raw const (*asked).NumChannels).read(),
            flags: (&raw const (*asked).Flags).read(),
        })?;
        out(pHandle, handle(number))?;
    }

    fn cuArrayDestroy(hArray: CUarray) {
        let driver = driver::get()?;
        destroy(driver, &mut driver.state(), id(hArray))?;
    }

    fn cuArrayGetDescriptor_v2(
        pArrayDescriptor: *mut CUDA_ARRAY_DESCRIPTOR,
        hArray: CUarray,
    ) {
        let shape = of(&driver::get()?.state().arrays, id(hArray))?.shape;
        if pArrayDescriptor.is_null() {
            return Err(INVALID_VALUE);
        }
        let to = pArrayDescriptor;
        (&raw mut (*to).Width).write(shape.width);
        (&raw mut (*to).Height).write(shape.height);
        (&raw mut (*to).Format).cast::<u32>().write(shape.format);
        (&raw mut (*to).NumChannels).write(shape.channels);
    }

    fn cuArray3DGetDescriptor_v2(
        pArrayDescriptor: *mut CUDA_ARRAY3D_DESCRIPTOR,
        hArray: CUarray,
    ) {
        let shape = of(&driver::get()?.state().arrays, id(hArray))?.shape;
        if pArrayDescriptor.is_null() {
            return Err(INVALID_VALUE);
        }
        let to = pArrayDescriptor;
        (&raw mut (*to).Width).write(shape.width);
        (&raw mut (*to).Height).write(shape.height);
        (&raw mut (*to).Depth).write(shape.depth);
        (&raw mut (*to).Format).cast::<u32>().write(shape.format);
        (&raw mut (*to).NumChannels).write(shape.channels);
        (&raw mut (*to).Flags).write(shape.flags);
    }

    fn cuArrayGetMemoryRequirements(
        memoryRequirements: *mut CUDA_ARRAY_MEMORY_REQUIREMENTS,
        array: CUarray,
        device: CUdevice,
    ) on device {
        let driver = driver::get()?;
        driver.device(device)?;
        let size = driver.state().arrays.get(&id(array)).ok_or(INVALID_HANDLE)?.charge;
        out(memoryRequirements, CUDA_ARRAY_MEMORY_REQUIREMENTS {
            size: narrow(size),
            alignment: narrow(space::GRANULE),
            reserved: [0; 4],
        })?;
    }
}

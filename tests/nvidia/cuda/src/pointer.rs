//! What is at an address.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUmemoryPool, CUpointer_attribute};

use crate::{
    abi::Of,
    call::{handle, out},
    code::{Done, INVALID_VALUE, NOT_SUPPORTED},
    driver,
    memory::{narrow, wide},
    state::{Kind, State},
};

/// What answers are made of.
struct About {
    start: u64,
    bytes: u64,
    kind: Kind,
    context: usize,
    device: usize,
    number: usize,
}

fn about(state: &State, address: u64) -> Option<About> {
    if let Some((start, found)) = state.allocation(address) {
        let (bytes, kind, number) = (found.bytes, found.kind, found.number);
        let (context, device) = (found.context, found.device);
        return Some(About {
            start,
            bytes,
            kind,
            context,
            device,
            number,
        });
    }
    let (start, found) = state.mapping(address)?;
    let number = narrow(start);
    Some(About {
        start,
        bytes: found.bytes,
        kind: Kind::Device,
        context: 0,
        device: 0,
        number,
    })
}

/// Writes an attribute.
///
/// # Safety
/// `to` has room for it.
unsafe fn write(to: *mut c_void, attribute: u32, address: u64, about: &About) -> Done {
    let host = about.kind.host();
    let number = |value: u32| -> Done {
        // SAFETY: there is room for it.
        unsafe { out(to.cast::<c_uint>(), value) }
    };
    let long = |value: u64| -> Done {
        // SAFETY: there is room for it.
        unsafe { out(to.cast::<u64>(), value) }
    };
    match attribute {
        // SAFETY: there is room for it.
        1 => unsafe { out(to.cast::<CUcontext>(), handle(about.context)) },
        2 => number(if host { 1 } else { 2 }),
        3 => long(address),
        4 if host || about.kind == Kind::Managed => long(address),
        4 => Err(INVALID_VALUE),
        6 => number(0),
        7 => long(wide(about.number)),
        8 => number((about.kind == Kind::Managed).into()),
        // SAFETY: there is room for it.
        9 => unsafe {
            out(
                to.cast::<c_int>(),
                c_int::try_from(about.device).unwrap_or(0),
            )
        },
        10 => number((about.kind == Kind::Device).into()),
        11 | 19 => long(about.start),
        12 | 18 => long(about.bytes),
        13 => number(1),
        14 => long(0),
        15 => number(1),
        16 => number(3),
        17 => {
            let pool = match about.kind {
                Kind::Pooled(pool) => pool,
                _ => 0,
            };
            // SAFETY: there is room for it.
            unsafe { out(to.cast::<CUmemoryPool>(), handle(pool)) }
        }
        20 => long(wide(about.number)),
        21 => number(0),
        _ => Err(INVALID_VALUE),
    }
}

driver! {
    fn cuPointerGetAttribute(
        data: *mut c_void,
        attribute: Of<CUpointer_attribute>,
        ptr: CUdeviceptr,
    ) {
        let driver = driver::get()?;
        let state = driver.state();
        let about = about(&state, ptr).ok_or(INVALID_VALUE)?;
        write(data, attribute.number(), ptr, &about)?;
    }

    fn cuPointerGetAttributes(
        numAttributes: c_uint,
        attributes: *mut CUpointer_attribute,
        data: *mut *mut c_void,
        ptr: CUdeviceptr,
    ) {
        if attributes.is_null() || data.is_null() {
            return Err(INVALID_VALUE);
        }
        let driver = driver::get()?;
        let state = driver.state();
        let about = about(&state, ptr);
        for place in 0..usize::try_from(numAttributes).unwrap_or(0) {
            let attribute = attributes.add(place).cast::<u32>().read();
            let to = data.add(place).read();
            match &about {
                Some(about) => {
                    // What is not true of this memory is left as it is.
                    let _ = write(to, attribute, ptr, about);
                }
                // The program's own memory: zeros.
                None => match attribute {
                    2 | 6 | 8 | 9 | 10 | 13 | 15 | 16 | 21 => out(to.cast::<u32>(), 0)?,
                    _ => out(to.cast::<u64>(), 0)?,
                },
            }
        }
    }

    fn cuPointerSetAttribute(
        value: *const c_void,
        attribute: Of<CUpointer_attribute>,
        ptr: CUdeviceptr,
    ) {
        let _ = value;
        // Only whether copies are to be synchronous can be set.
        if attribute.number() != 6 {
            return Err(NOT_SUPPORTED);
        }
        let driver = driver::get()?;
        let state = driver.state();
        about(&state, ptr).ok_or(INVALID_VALUE)?;
    }
}

//! What copies and fills do to bytes.

use std::ptr;

use crate::{
    call::at,
    code::{Done, INVALID_VALUE},
    memory::{narrow, wide},
    state::{State, of},
};

/// One end of a copy: rows at distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    pub(crate) address: u64,
    pub(crate) pitch: u64,
    /// From a layer to the next.
    pub(crate) layer: u64,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
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
    pub(crate) to: Side,
    pub(crate) from: Side,
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) layers: u64,
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
    pub(crate) fn line(address: u64, what: What) -> Self {
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
    pub(crate) fn line(to: Side, from: Side, bytes: usize) -> Self {
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
        if self.width == 0 {
            return Ok(());
        }
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
        if self.width == 0 {
            return Ok(());
        }
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

//! Room on a device, and addresses.

use std::{fs, ptr};

use divvy_nvidia_machine::memory::{self, Refused};

use crate::{
    code::{Done, INVALID_VALUE, OUT_OF_MEMORY, UNKNOWN},
    driver::Driver,
    pool,
    state::{Allocation, Kind, State},
};

/// What a context costs on its device, MiB: the driver's own code and data there.
pub(crate) const CONTEXT_MIB: u64 = 256;

/// Plain allocations cost multiples of this. (NVIDIA's driver cuts them from blocks of 2 MiB,
/// which it keeps; here what is counted is what was asked for.)
pub(crate) const GRANULE: u64 = 512;

const MIB: u64 = 1 << 20;

impl Driver {
    /// Takes bytes of a device's memory.
    pub(crate) fn charge(&self, state: &mut State, device: usize, bytes: u64) -> Done {
        let place = self.devices.get(device).ok_or(UNKNOWN)?.place;
        let capacity = self.capacity(device)?;
        loop {
            match self.ledger.reserve(place, bytes, capacity) {
                Ok(()) => return Ok(()),
                // What pools keep for later is given up first.
                Err(Refused::Full { .. }) if pool::trim_all(self, state, device) > 0 => {}
                Err(Refused::Full { .. }) => return Err(OUT_OF_MEMORY),
                Err(Refused::File(_)) => return Err(UNKNOWN),
            }
        }
    }

    /// Gives them back.
    pub(crate) fn refund(&self, device: usize, bytes: u64) {
        if let Some(device) = self.devices.get(device) {
            // It was reserved, so it can be released.
            let _ = self.ledger.release(device.place, bytes);
        }
    }

    /// What all processes together may have.
    fn capacity(&self, device: usize) -> Done<u64> {
        let device = self.devices.get(device).ok_or(UNKNOWN)?;
        let own = memory::capacity(&self.description(), &device.gpu, device.gi);
        Ok(own.unwrap_or_else(|| host_memory("MemTotal:")))
    }

    /// Bytes free and in all.
    pub(crate) fn room(&self, device: usize) -> Done<(u64, u64)> {
        let capacity = self.capacity(device)?;
        let device = self.devices.get(device).ok_or(UNKNOWN)?;
        let used = self.ledger.used(device.place).map_err(|_| UNKNOWN)?;
        let used: u64 = used.iter().map(|(_, bytes)| bytes).sum();
        let free = capacity.saturating_sub(used);
        Ok(match device.memory {
            Some(total) => (free, total),
            None => (
                free.min(host_memory("MemAvailable:")),
                host_memory("MemTotal:"),
            ),
        })
    }

    /// Allocates memory with an address, charged to the device.
    pub(crate) fn allocate(
        &self,
        state: &mut State,
        context: usize,
        bytes: u64,
        kind: Kind,
    ) -> Done<u64> {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let device = state.contexts.get(&context).ok_or(UNKNOWN)?.device;
        let charge = match kind.host() {
            true => 0,
            false => bytes
                .checked_next_multiple_of(GRANULE)
                .ok_or(OUT_OF_MEMORY)?,
        };
        match kind {
            Kind::Pooled(pool) => pool::take(self, state, pool, charge)?,
            _ => self.charge(state, device, charge)?,
        }
        let Some(address) = map(bytes) else {
            match kind {
                Kind::Pooled(pool) => pool::give(self, state, pool, charge),
                _ => self.refund(device, charge),
            }
            return Err(OUT_OF_MEMORY);
        };
        let number = state.number();
        let allocation = Allocation {
            kind,
            bytes,
            charge,
            context,
            device,
            number,
        };
        state.allocations.insert(address, allocation);
        Ok(address)
    }

    /// Frees what begins there.
    pub(crate) fn free(&self, state: &mut State, address: u64) -> Done {
        let freed = state.allocations.remove(&address).ok_or(INVALID_VALUE)?;
        match freed.kind {
            Kind::Pooled(pool) => pool::give(self, state, pool, freed.charge),
            _ => self.refund(freed.device, freed.charge),
        }
        if !matches!(freed.kind, Kind::Registered(_) | Kind::Graph) {
            unmap(address, freed.bytes);
        }
        Ok(())
    }
}

/// Of this machine, bytes.
fn host_memory(line: &str) -> u64 {
    let all = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = all.lines().find_map(|text| text.strip_prefix(line));
    let kib = value.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok());
    kib.map_or(0, |kib: u64| kib * 1024)
}

pub(crate) fn context_charge() -> u64 {
    CONTEXT_MIB * MIB
}

/// Addresses with memory that comes into being when it is touched.
pub(crate) fn map(bytes: u64) -> Option<u64> {
    map_as(bytes, libc::PROT_READ | libc::PROT_WRITE)
}

/// Addresses that nothing is at.
pub(crate) fn reserve(bytes: u64) -> Option<u64> {
    map_as(bytes, libc::PROT_NONE)
}

fn map_as(bytes: u64, access: i32) -> Option<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let length = usize::try_from(bytes).ok()?;
    // SAFETY: a new mapping, at an address that the kernel chooses, touches nothing.
    let found = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, -1, 0) };
    (found != libc::MAP_FAILED).then(|| u64::try_from(found.expose_provenance()).ok())?
}

/// Ends such a mapping.
pub(crate) fn unmap(address: u64, bytes: u64) {
    if let Ok(length) = usize::try_from(bytes) {
        // SAFETY: these are addresses that `map` or `reserve` gave, taken from the books
        // just now; what still points there belongs to the program, which freed it.
        unsafe { libc::munmap(crate::call::at(address), length) };
    }
}

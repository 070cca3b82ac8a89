//! What something weighs: bytes on the heap, counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting what is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator unchanged, whose
// promises are then ours; counting touches no memory that is handed out.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Makes something; what it weighs in bytes, not counting what the allocator
/// itself adds.
pub(crate) fn of<T, E>(make: impl FnOnce() -> Result<T, E>) -> Result<(T, usize), E> {
    let before = IN_USE.load(Ordering::Relaxed);
    let made = make()?;
    let after = IN_USE.load(Ordering::Relaxed);
    Ok((made, after.saturating_sub(before)))
}

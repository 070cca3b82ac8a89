//! Work: what a stream is asked for, and how it is done.

use std::{ffi::c_void, ptr};

use crate::{
    bytes::{Copy, Fill},
    code::{Done, INVALID_VALUE},
    driver::Driver,
    event, space,
    state::{Allocation, Kind, State, of, of_mut},
    stream::{self, Theirs},
};

/// What a stream is asked for, or a node of a graph does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Empty,
    Kernel {
        nanoseconds: u64,
    },
    Copy(Copy),
    Fill(Fill),
    Host {
        function: unsafe extern "C" fn(*mut c_void),
        data: usize,
    },
    Record(usize),
    Wait(usize),
    Alloc {
        address: u64,
        bytes: u64,
    },
    Free {
        address: u64,
    },
    /// Of a graph within, as it was when it was added.
    Graph(Vec<Work>),
}

/// Has work done by a stream.
pub(crate) fn perform(driver: &Driver, state: &mut State, number: usize, work: &Work) -> Done {
    match work {
        Work::Empty => {}
        Work::Kernel { nanoseconds } => {
            stream::work(state, number, *nanoseconds)?;
        }
        Work::Copy(copy) => {
            copy.perform(state)?;
            stream::work(state, number, 0)?;
        }
        Work::Fill(fill) => {
            fill.perform(state)?;
            stream::work(state, number, 0)?;
        }
        Work::Host { function, data } => {
            let (function, data) = (*function, Theirs(ptr::with_exposed_provenance_mut(*data)));
            stream::call(state, number, move || {
                // SAFETY: the program asked for this call, with this argument.
                unsafe { function(data.pointer()) };
            })?;
        }
        Work::Record(event) => event::record(state, *event, number)?,
        Work::Wait(event) => {
            if let Some(end) = of(&state.events, *event)?.recorded.clone() {
                of_mut(&mut state.streams, number)?.end.join(&end);
            }
        }
        Work::Alloc { address, bytes } => {
            let (address, bytes) = (*address, *bytes);
            if state.allocations.contains_key(&address) {
                return Err(INVALID_VALUE);
            }
            let context = of(&state.streams, number)?.context;
            let device = of(&state.contexts, context)?.device;
            let charge = bytes.next_multiple_of(space::GRANULE);
            driver.charge(state, device, charge)?;
            let number = state.number();
            let kind = Kind::Graph;
            let allocation = Allocation {
                kind,
                bytes,
                charge,
                context,
                device,
                number,
            };
            state.allocations.insert(address, allocation);
        }
        Work::Free { address } => driver.free(state, *address)?,
        Work::Graph(within) => {
            for work in within {
                perform(driver, state, number, work)?;
            }
        }
    }
    Ok(())
}

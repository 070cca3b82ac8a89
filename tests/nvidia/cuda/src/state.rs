//! All objects of this process.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    array::Array,
    code::{Done, INVALID_HANDLE, INVALID_VALUE},
    graph::{Executable, Graph, Node},
    module::{Function, Linker, Module},
    pool::Pool,
    stream::Stream,
    time::{End, Time},
    virtual_memory::{Mapping, Physical},
};

/// By the numbers that handles stand for.
#[derive(Default)]
pub(crate) struct State {
    last: usize,
    pub(crate) contexts: BTreeMap<usize, Context>,
    pub(crate) streams: BTreeMap<usize, Stream>,
    pub(crate) events: BTreeMap<usize, Event>,
    pub(crate) modules: BTreeMap<usize, Module>,
    pub(crate) functions: BTreeMap<usize, Function>,
    pub(crate) linkers: BTreeMap<usize, Linker>,
    pub(crate) arrays: BTreeMap<usize, Array>,
    pub(crate) pools: BTreeMap<usize, Pool>,
    pub(crate) physical: BTreeMap<usize, Physical>,
    pub(crate) graphs: BTreeMap<usize, Graph>,
    pub(crate) nodes: BTreeMap<usize, Node>,
    pub(crate) executables: BTreeMap<usize, Executable>,
    /// By where they begin.
    pub(crate) allocations: BTreeMap<u64, Allocation>,
    /// Reserved addresses: bytes, by where they begin.
    pub(crate) reserved: BTreeMap<u64, u64>,
    pub(crate) mappings: BTreeMap<u64, Mapping>,
    /// Of each device.
    pub(crate) devices: Vec<PerDevice>,
}

/// What a device of this process has besides its contexts.
#[derive(Default)]
pub(crate) struct PerDevice {
    /// The number of its primary context, which it keeps.
    pub(crate) primary: usize,
    /// How often that is retained.
    pub(crate) retained: u32,
    pub(crate) flags: u32,
    /// The pools, once somebody asked for them: the device's own, and the current one.
    pub(crate) default_pool: Option<usize>,
    pub(crate) pool: Option<usize>,
    /// Until when it works on what it was given.
    pub(crate) busy: Time,
}

pub(crate) struct Context {
    pub(crate) device: usize,
    pub(crate) flags: u32,
    pub(crate) version: u32,
    pub(crate) primary: bool,
    pub(crate) limits: BTreeMap<u32, usize>,
    pub(crate) cache: u32,
    /// Contexts whose memory it may use.
    pub(crate) peers: BTreeSet<usize>,
    /// The streams that have no handle of their own.
    pub(crate) legacy: usize,
    pub(crate) per_thread: usize,
    /// When the work of streams that were destroyed ends.
    pub(crate) left: End,
}

pub(crate) struct Event {
    pub(crate) context: usize,
    pub(crate) timing: bool,
    pub(crate) recorded: Option<End>,
    /// The graph and the node that it was recorded after, where a stream was captured.
    pub(crate) captured: Option<(usize, Vec<usize>)>,
}

/// Memory that has an address.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) kind: Kind,
    /// As many as were asked for.
    pub(crate) bytes: u64,
    /// As many as it costs the device.
    pub(crate) charge: u64,
    pub(crate) context: usize,
    pub(crate) device: usize,
    /// Unique in this process.
    pub(crate) number: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    Managed,
    /// By a graph that is launched; its addresses stay the graph's.
    Graph,
    /// From the pool of that number.
    Pooled(usize),
    /// A module's variable.
    Variable,
    /// Page-locked memory of the host, made by the driver; its flags.
    Host(u32),
    /// The same, made by the program.
    Registered(u32),
}

impl Kind {
    pub(crate) fn host(self) -> bool {
        matches!(self, Self::Host(_) | Self::Registered(_))
    }
}

impl State {
    pub(crate) fn new(devices: usize) -> Self {
        let mut state = Self {
            last: 0x1000,
            ..Self::default()
        };
        for _ in 0..devices {
            let primary = state.number();
            state.devices.push(PerDevice {
                primary,
                ..PerDevice::default()
            });
        }
        state
    }

    /// A number for a new object.
    pub(crate) fn number(&mut self) -> usize {
        self.last += 16;
        self.last
    }

    /// The allocation that this address is in, and where it begins.
    pub(crate) fn allocation(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (start, found) = self.allocations.range(..=address).next_back()?;
        (address - start < found.bytes).then_some((*start, found))
    }

    /// The mapping that this address is in, and where it begins.
    pub(crate) fn mapping(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (start, found) = self.mappings.range(..=address).next_back()?;
        (address - start < found.bytes).then_some((*start, found))
    }

    /// May the device read and write all of that?
    pub(crate) fn check(&self, address: u64, bytes: u64) -> Done {
        let mut at = address;
        let end = address.checked_add(bytes).ok_or(INVALID_VALUE)?;
        while at < end {
            at = match (self.allocation(at), self.mapping(at)) {
                (Some((start, found)), _) => start + found.bytes,
                (None, Some((start, found))) if found.access => start + found.bytes,
                _ => return Err(INVALID_VALUE),
            };
            // One allocation ends where another begins: still two.
            if at < end && self.allocation(address).is_some() {
                return Err(INVALID_VALUE);
            }
        }
        Ok(())
    }
}

/// The object of that number.
pub(crate) fn of<T>(objects: &BTreeMap<usize, T>, number: usize) -> Done<&T> {
    objects.get(&number).ok_or(INVALID_HANDLE)
}

/// The same, to change it.
pub(crate) fn of_mut<T>(objects: &mut BTreeMap<usize, T>, number: usize) -> Done<&mut T> {
    objects.get_mut(&number).ok_or(INVALID_HANDLE)
}

/// The same, taken away.
pub(crate) fn taken<T>(objects: &mut BTreeMap<usize, T>, number: usize) -> Done<T> {
    objects.remove(&number).ok_or(INVALID_HANDLE)
}

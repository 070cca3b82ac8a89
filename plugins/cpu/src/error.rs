//! Everything that this plugin says no to.

use divvy_plugin::{Amount, ErrorCode, PluginError};

use crate::cpulist::CpuSet;

/// A refusal; the text is the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("cpu.{0} is not a setting of this plugin; see `divvy plugin list`")]
    UnknownKey(String),
    #[error("cpu.root is {0:?}, which is not a folder")]
    NoRoot(String),
    #[error("cpu.reserved_cores is {0:?}; write a whole number of cores such as 2")]
    ReservedCores(String),
    #[error("cpu.reserved_mem is {0:?}; write whole bytes, or a size such as 2GiB or 500MB")]
    ReservedMem(String),
    #[error("cpu.allowed is {0:?}; write `cgroup` or `all`")]
    Allowed(String),
    #[error("cpu.reserved_cores is {wanted}, but only {there} cores may be used here; lower it")]
    TooManyReserved { wanted: u64, there: usize },
    #[error(
        "cpu.reserved_mem is {wanted} bytes, but only {there} bytes may be used here; lower it"
    )]
    TooMuchReserved { wanted: u64, there: u64 },
    #[error("no CPU is found under {0}: neither /sys/devices/system/cpu nor /proc/stat names one")]
    NothingFound(String),
    #[error("slot {0:?} is not of this plugin, which serves `cpu` and `mem`")]
    UnknownSlot(String),
    #[error("the request has no slice to prepare")]
    NoSlices,
    #[error(
        "{slot} on device {device}: there is no such device now; it was taken offline, or is \
         outside of the cgroup of the agent"
    )]
    NoDevice { slot: &'static str, device: String },
    #[error(
        "core {core}: CPU {gone} went offline or out of the cgroup since it was last listed; \
         list the devices again"
    )]
    ThreadsGone { core: String, gone: CpuSet },
    #[error("core {0} is kept free by cpu.reserved_cores")]
    CoreReserved(String),
    #[error("{0} is memory of a GPU, which the CPU plugin does not hand out")]
    GpuMemory(String),
    #[error("{amount} of core {core} cannot be granted: the most is 1, in steps of 0.01")]
    CoreAmount { core: String, amount: Amount },
    #[error("{amount} bytes of {node} cannot be granted: it has {there} whole bytes to give")]
    MemAmount {
        node: String,
        amount: Amount,
        there: u64,
    },
    #[error("the memory slices together have more bytes than 2^64")]
    TooMuchMemory,
    #[error("the CPU time of these slices cannot be told to the kernel exactly")]
    NoQuota,
}

impl Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NothingFound(_) => ErrorCode::Driver,
            Self::NoDevice { .. } | Self::ThreadsGone { .. } => ErrorCode::Absent,
            _ => ErrorCode::Invalid,
        }
    }
}

impl From<Error> for PluginError {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

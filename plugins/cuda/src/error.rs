//! How this plugin says no.

use divvy_plugin::{Amount, ErrorCode, PluginError};

/// Why an operation failed. Its text is what people read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// No NVML anywhere.
    #[error(
        "no NVIDIA driver: libnvidia-ml.so.1 is nowhere under {0} where the loader looks; install the driver, or name the file with cuda.nvml"
    )]
    NoLibrary(String),
    /// NVML is there and cannot be loaded.
    #[error(
        "{path} cannot be loaded: {why}; reinstall the driver's libraries, or name others with cuda.nvml"
    )]
    BadLibrary {
        /// The file.
        path: String,
        /// The loader's words.
        why: String,
    },
    /// A library that others can change.
    #[error(
        "{0} is not root's alone to change, and would be run as root: chown root and chmod go-w it, or name another with cuda.nvml"
    )]
    Untrusted(String),
    /// NVML without the kernel's part.
    #[error("the NVIDIA driver is installed but its kernel module is not loaded: modprobe nvidia")]
    NotLoaded,
    /// The usual state after an unattended upgrade.
    #[error(
        "the NVIDIA libraries are of driver {libraries}, the loaded kernel module is of {kernel}: restart the machine, or reload the nvidia modules"
    )]
    Mismatch {
        /// The version in the library's file name.
        libraries: String,
        /// What `/proc/driver/nvidia/version` says.
        kernel: String,
    },
    /// NVML answers with another error.
    #[error("NVML does not start: {0}; `nvidia-smi` and `dmesg | grep -i nvrm` say more")]
    Init(String),
    /// NVML does not even count.
    #[error("NVML does not say how many GPUs there are: {0}; `nvidia-smi` says more")]
    Count(String),
    /// A setting that there is not.
    #[error("there is no setting cuda.{0}; `divvy plugin list` names them")]
    UnknownKey(String),
    /// A setting with two values and neither.
    #[error("cuda.{key}={value}: it is {one} or {other}")]
    Choice {
        /// The setting.
        key: String,
        /// What it was set to.
        value: String,
        /// What it may be.
        one: &'static str,
        /// And the other.
        other: &'static str,
    },
    /// `cuda.xid` with something that is no number and outcome.
    #[error(
        "cuda.xid: {0:?} is not CODE=OUTCOME; outcomes are ignore, application, reset and replace, as in 63=reset,48=ignore"
    )]
    BadXid(String),
    /// A setting that is no time.
    #[error("cuda.{key}={value}: it is a number of seconds from 1 to 3600")]
    Seconds {
        /// The setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// A setting with three values and none of them.
    #[error("cuda.mig={0}: it is keep, instances or mode")]
    Policy(String),
    /// The root folder.
    #[error("cuda.root={0}: there is no such folder")]
    NoRoot(String),
    /// A request without slices.
    #[error("no slices are to be prepared")]
    NoSlices,
    /// A slot of somebody else.
    #[error("{0} is no slot of this plugin")]
    UnknownSlot(String),
    /// A device that is not there (any more).
    #[error(
        "{slot}: there is no {device} on this machine now; `divvy devices` lists what there is"
    )]
    NoDevice {
        /// The slot.
        slot: String,
        /// The device.
        device: String,
    },
    /// A device that does not have the slot.
    #[error("{device} does not offer {slot}")]
    NotOffered {
        /// The slot.
        slot: String,
        /// The device.
        device: String,
    },
    /// An amount that is none of the slot's.
    #[error("{slot}: {amount} of {device} is not to be had")]
    BadAmount {
        /// The slot.
        slot: String,
        /// The device.
        device: String,
        /// The amount.
        amount: Amount,
    },
    /// A device that is ill by now.
    #[error("{device} cannot be used: {why}")]
    Ill {
        /// The device.
        device: String,
        /// What is wrong with it.
        why: String,
    },
    /// A driver without the library that every CUDA program needs.
    #[error(
        "libcuda.so.1 of driver {0} is not to be found, without which no CUDA program runs; install the driver's compute libraries (Debian: libcuda1), or name the file with cuda.cuda"
    )]
    NoCuda(String),
    /// `cuda.nvidia_smi=yes` without one.
    #[error(
        "cuda.nvidia_smi=yes, but there is no {0}; install it (Debian: nvidia-smi), or set it to no"
    )]
    NoSmi(String),
    /// The image wants another driver.
    #[error("the image needs {needs}, this machine has {has}; {remedy}")]
    Requires {
        /// The image's condition.
        needs: String,
        /// What there is.
        has: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Nowhere to write down what is made.
    #[error(
        "cuda.mig is set, and there is no folder in which to keep what is made for whom; give Divvy a state folder that it can write, or set cuda.mig=keep"
    )]
    NoState,
    /// The file of what was made for whom.
    #[error(
        "{path}, which says for whom MIG instances were made, cannot be used: {why}; repair it, or compare `nvidia-smi mig -lgi` with `divvy ps`, remove what nobody holds, then the file"
    )]
    Journal {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Another process changes MIG.
    #[error("another Divvy is changing MIG and does not finish; try again")]
    Turn,
    /// MIG cannot be turned on or off under somebody's feet.
    #[error("MIG of {gpu} cannot be turned {to}: {why}")]
    Switch {
        /// The GPU.
        gpu: String,
        /// On or off.
        to: &'static str,
        /// Who is in the way.
        why: String,
    },
    /// The driver does not do it.
    #[error("{what} of {gpu} cannot be {done}: {why}")]
    Carve {
        /// The GPU.
        gpu: String,
        /// What of it.
        what: String,
        /// `made` or `removed`.
        done: &'static str,
        /// The driver's words.
        why: String,
    },
    /// Somebody else made something there meanwhile.
    #[error(
        "{slot}: the place {start} of {gpu} is taken by a MIG instance that is not Divvy's; try again"
    )]
    Taken {
        /// The slot.
        slot: String,
        /// The GPU.
        gpu: String,
        /// The memory slice.
        start: u32,
    },
    /// Processes are still there.
    #[error("{device} is still in use by {who}; it is free when they have ended")]
    InUse {
        /// The device.
        device: String,
        /// Which processes.
        who: String,
    },
    /// Nothing can be said of a GPU now.
    #[error("whether {what} of {gpu} is still there cannot be told: {why}")]
    Unknown {
        /// The GPU.
        gpu: String,
        /// What of it.
        what: String,
        /// Why not.
        why: String,
    },
    /// It went wrong, and so did taking it back.
    #[error("{error}; {left}")]
    Left {
        /// What went wrong first.
        error: Box<Error>,
        /// What is left of it.
        left: String,
    },
}

impl From<Error> for PluginError {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Left { error, .. } => Self::from((**error).clone()).code,
            Error::Turn | Error::Switch { .. } | Error::Taken { .. } | Error::InUse { .. } => {
                ErrorCode::Busy
            }
            Error::NoLibrary(_) | Error::NotLoaded | Error::NoDevice { .. } => ErrorCode::Absent,
            Error::BadLibrary { .. }
            | Error::Untrusted(_)
            | Error::Mismatch { .. }
            | Error::Init(_)
            | Error::Count(_)
            | Error::Journal { .. }
            | Error::Carve { .. }
            | Error::Unknown { .. }
            | Error::Ill { .. } => ErrorCode::Driver,
            Error::NoCuda(_) | Error::NoSmi(_) | Error::Requires { .. } => ErrorCode::Unsupported,
            Error::BadXid(_)
            | Error::Seconds { .. }
            | Error::UnknownKey(_)
            | Error::Choice { .. }
            | Error::Policy(_)
            | Error::NoState
            | Error::NoRoot(_)
            | Error::NoSlices
            | Error::UnknownSlot(_)
            | Error::NotOffered { .. }
            | Error::BadAmount { .. } => ErrorCode::Invalid,
        };
        Self::new(code, error.to_string())
    }
}

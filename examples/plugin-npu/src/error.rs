//! How this plugin says no, in words for whoever reads them at three in the
//! morning: what failed, on which unit or file, and what to do.

use divvy_plugin::{ErrorCode, PluginError};

/// It is not there: a unit, or the driver.
pub(crate) fn absent(message: impl Into<String>) -> PluginError {
    PluginError::new(ErrorCode::Absent, message)
}

/// The driver failed, or a file; it may work later.
pub(crate) fn driver(message: impl Into<String>) -> PluginError {
    PluginError::new(ErrorCode::Driver, message)
}

/// The request or a setting makes no sense.
pub(crate) fn invalid(message: impl Into<String>) -> PluginError {
    PluginError::new(ErrorCode::Invalid, message)
}

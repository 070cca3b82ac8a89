//! How a plugin says no.

use serde::{Deserialize, Serialize};

/// An operation's failure. `message` is shown to people as it is: say what
/// failed, on which device or file, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{message}")]
pub struct PluginError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// One or two sentences for the person who reads it.
    pub message: String,
}

/// What the caller may do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ErrorCode {
    /// This plugin or driver cannot do that; asking again is no use.
    Unsupported,
    /// There is no such device, driver or library here (now).
    Absent,
    /// The driver failed; the same call may work later.
    Driver,
    /// The request makes no sense to the plugin: a bug of the caller.
    Invalid,
    /// Someone else uses it; the same call may work later.
    Busy,
    /// The plugin panicked. Set by [`export_plugin!`](crate::export_plugin).
    Panicked,
}

impl PluginError {
    /// A failure of kind `code`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

//! What the agent and a plugin host say to each other, as JSON documents in
//! [`frames`](crate::frames).

use divvy_plugin::PluginError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The host's file descriptor for the channel. 0, 1 and 2 are the standard
/// streams, and nothing else is open.
pub(crate) const CHANNEL_FD: i32 = 3;
/// The host's file descriptor of the plugin file, opened and checked by the
/// agent.
pub(crate) const PLUGIN_FD: i32 = 4;

/// The operations, by the names they have in the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    /// Load the file, check its layout, answer the manifest.
    Manifest,
    Open,
    Discover,
    Watch,
    Prepare,
    Started,
    Release,
    Restore,
    Sample,
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Open => "open",
            Self::Discover => "discover",
            Self::Watch => "watch",
            Self::Prepare => "prepare",
            Self::Started => "started",
            Self::Release => "release",
            Self::Restore => "restore",
            Self::Sample => "sample",
        }
    }
}

/// Agent to host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call<'a> {
    pub(crate) id: u64,
    pub(crate) op: Op,
    #[serde(borrow)]
    pub(crate) arg: &'a RawValue,
}

/// Host to agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer<'a> {
    pub(crate) id: u64,
    #[serde(borrow)]
    pub(crate) result: Outcome<'a>,
}

/// What became of a call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome<'a> {
    /// The reply document.
    #[serde(borrow)]
    Ok(&'a RawValue),
    /// The plugin said no.
    Refused(PluginError),
    /// The plugin's reply is no document.
    Unreadable(String),
    /// The file is no plugin that this host can load.
    Unloadable(String),
}

//! What monitor, agent and attached clients say to each other.
//!
//! Control messages are JSON frames. On an attached connection the first frame
//! of the client is an [`Ask`]; after that a frame is one byte of kind and the
//! rest is data, so that output is not re-encoded.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Exit;
use crate::plugin;

/// What a monitor needs to settle a workload's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The state folder.
    pub(crate) state: PathBuf,
    /// Where the plugins are and what they are told.
    pub(crate) plugins: plugin::Settings,
}

/// Monitor to agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The container exists; its process `pid` waits. An engine has an id of
    /// its own for it.
    Created {
        pid: u32,
        #[serde(default)]
        container_id: Option<String>,
    },
    /// It runs; the workload is the monitor's now.
    Started,
    /// It could not be; nothing is left of it. If the step is [`REPLACED`], why
    /// is the path.
    Failed { step: String, why: String },
}

/// The step of a container of which something of the host's is another by now.
pub(crate) const REPLACED: &str = "replaced";

/// Agent to monitor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// It is what was granted, and the ledger says `running`: start it.
    Go,
}

/// Client to monitor, once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Send me its output from now on and tell me how it ends. My frames are
    /// its input.
    Attach,
    /// Send it the stop signal, and SIGKILL after so long; tell me how it
    /// ends.
    Stop { grace_ms: u64 },
    /// Run another command in it. Its output comes back, my frames are its
    /// input, and the end is the command's own.
    Exec(ExecRequest),
}

/// Another command in a workload that runs: with its user, its rights and its
/// variables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The command, not empty.
    pub command: Vec<String>,
    /// Variables on top of the workload's own; a reserved one is refused.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The working directory; `None`: the workload's.
    #[serde(default)]
    pub workdir: Option<String>,
    /// A terminal?
    #[serde(default)]
    pub tty: bool,
}

/// Monitor to client, as data arrives.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The client is attached: it misses nothing from here on.
    Joined,
    /// Standard output, or everything of a terminal.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// It ended; nothing follows.
    Exit(Box<Exit>),
    /// What was asked cannot be done; nothing follows.
    Refused {
        /// The stable code.
        code: String,
        /// Why, for people.
        message: String,
    },
}

impl Event {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let tagged = |kind: u8, data: &[u8]| {
            let mut bytes = Vec::with_capacity(1 + data.len());
            bytes.push(kind);
            bytes.extend_from_slice(data);
            bytes
        };
        match self {
            Self::Joined => tagged(b'j', &[]),
            Self::Stdout(data) => tagged(b'o', data),
            Self::Stderr(data) => tagged(b'e', data),
            Self::Exit(exit) => tagged(b'x', &serde_json::to_vec(exit).unwrap_or_default()),
            Self::Refused { code, message } => {
                let words = serde_json::to_vec(&(code, message)).unwrap_or_default();
                tagged(b'r', &words)
            }
        }
    }

    pub(crate) fn decode(mut frame: Vec<u8>) -> Option<Self> {
        if frame.is_empty() {
            return None;
        }
        match frame.remove(0) {
            b'j' => Some(Self::Joined),
            b'o' => Some(Self::Stdout(frame)),
            b'e' => Some(Self::Stderr(frame)),
            b'x' => Some(Self::Exit(Box::new(serde_json::from_slice(&frame).ok()?))),
            b'r' => {
                let (code, message) = serde_json::from_slice(&frame).ok()?;
                Some(Self::Refused { code, message })
            }
            _ => None,
        }
    }
}

/// Client to monitor, on an attached connection.
#[derive(Debug)]
pub(crate) enum Input {
    /// Bytes for its standard input.
    Data(Vec<u8>),
    /// No more input.
    End,
    /// The terminal's size: columns, rows.
    Resize(u16, u16),
    /// A signal, by number.
    Signal(i32),
}

impl Input {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Data(data) => {
                bytes.push(b'i');
                bytes.extend_from_slice(data);
            }
            Self::End => bytes.push(b'd'),
            Self::Resize(columns, rows) => {
                bytes.push(b'w');
                bytes.extend_from_slice(&columns.to_le_bytes());
                bytes.extend_from_slice(&rows.to_le_bytes());
            }
            Self::Signal(number) => {
                bytes.push(b's');
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }

    pub(crate) fn decode(frame: &[u8]) -> Option<Self> {
        let (kind, data) = frame.split_first()?;
        match (kind, data) {
            (b'i', data) => Some(Self::Data(data.to_vec())),
            (b'd', _) => Some(Self::End),
            (b'w', &[a, b, c, d]) => Some(Self::Resize(
                u16::from_le_bytes([a, b]),
                u16::from_le_bytes([c, d]),
            )),
            (b's', &[a, b, c, d]) => Some(Self::Signal(i32::from_le_bytes([a, b, c, d]))),
            _ => None,
        }
    }
}

//! What a caller can say of a workload.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::launch::{BindMount, FileId, Identity, Network, Wanted};
use crate::model::Request;

/// Where the root filesystem comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootRequest {
    /// The host's own, with the current folder bound read-write.
    Host {
        /// The folder that is bound, and the working directory.
        current: PathBuf,
    },
    /// A folder.
    Folder(PathBuf),
    /// An OCI layout or a docker archive.
    Image {
        /// The file or folder.
        path: PathBuf,
        /// Which of its images.
        reference: Option<String>,
    },
    /// An image of the container engine, which pulls it if it is missing.
    Engine {
        /// Its name there.
        image: String,
    },
}

impl Default for RootRequest {
    fn default() -> Self {
        Self::Host {
            current: PathBuf::from("/"),
        }
    }
}

/// All that a caller can say of a workload. What is left out is the default:
/// no input, no network, one core and its share of memory, root's own rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunRequest {
    /// Amounts of slots.
    pub resources: Request,
    /// The name; `None`: one is made.
    pub name: Option<String>,
    /// The root.
    pub root: RootRequest,
    /// The command; empty: the image's.
    pub command: Vec<String>,
    /// Variables that must reach it: a reserved one is an error.
    pub env: Vec<(String, String)>,
    /// Variables that it may have: reserved ones are dropped.
    pub inherited: Vec<(String, String)>,
    /// The working directory; `None`: the image's, or the current one.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`; `None`: the image's, or the calling user.
    pub user: Option<String>,
    /// The calling user.
    pub caller: Identity,
    /// Checked mounts.
    pub mounts: Vec<BindMount>,
    /// Which folder or file of the host's the root is, if that was looked at as
    /// the caller. Never a document's word.
    #[serde(skip)]
    pub root_id: Option<FileId>,
    /// A terminal?
    pub tty: bool,
    /// Input?
    pub stdin: bool,
    /// The network.
    pub network: Network,
    /// Size of `/dev/shm`, bytes; `None`: 64 MiB.
    pub shm_bytes: Option<u64>,
    /// Forget it when it has ended?
    pub remove_on_exit: bool,
    /// The OCI runtime.
    pub runtime: Wanted,
}

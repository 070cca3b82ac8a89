//! The agent's HTTP interface: its documents and operations, in one table.
//!
//! HTTP/1.1 with JSON on a unix socket. [`OPERATIONS`] lists every operation;
//! the server's router is made from it, and so is the OpenAPI document
//! (`docs/openapi.json`), so neither can say what the other does not.
//!
//! An attached connection is an HTTP upgrade to `divvy-frames`: after `101` the
//! client speaks to the workload's monitor as if it had opened its socket.

mod client;
mod openapi;

pub use client::{Body, Client};
pub use openapi::document;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::AgentError;
use crate::model::{Exit, Record};

/// The protocol of an attached connection, in the `Upgrade` header.
pub(crate) const FRAMES: &str = "divvy-frames";

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name, as in the documentation.
    pub id: &'static str,
    /// `get`, `post` or `delete`.
    pub method: &'static str,
    /// The path; `{name}` is a workload's name, or the beginning of its id.
    pub path: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Query parameters: name and meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// The type of the request's document, by its name.
    pub takes: Option<&'static str>,
    /// The type of the answer's document, by its name, or its media type.
    pub gives: &'static str,
}

const START: (&str, &str) = (
    "start",
    "true: let it run at once; what it prints before somebody attaches is in its log alone",
);
const FORCE: (&str, &str) = ("force", "true: stop it first");
const FOLLOW: (&str, &str) = ("follow", "true: go on until it ends");
const UNTIL: (&str, &str) = ("follow", "false: end with what is known now");
const AFTER: (&str, &str) = (
    "after",
    "only events after this id; the header Last-Event-ID does the same",
);

/// Every operation there is.
pub const OPERATIONS: [Operation; 20] = [
    get("version", "/v1/version", "Who answers here", "Version"),
    get(
        "openapi",
        "/v1/openapi.json",
        "This document",
        "application/json",
    ),
    get(
        "devices",
        "/v1/devices",
        "What there is, and what is free of it; answered from what the plugins said last",
        "Devices",
    ),
    get(
        "samples",
        "/v1/samples",
        "What devices and workloads use, as measured last, with its age; the caller's own workloads, of root and admins all",
        "Samples",
    ),
    get(
        "plugins",
        "/v1/plugins",
        "The plugins, what they offer, and what is wrong with them",
        "Plugins",
    ),
    post(
        "fit",
        "/v1/fit",
        "Would this fit now, and where",
        Some("Request"),
        "Decision",
    ),
    get(
        "workloads",
        "/v1/workloads",
        "The caller's workloads; root's and admins': all",
        "Workloads",
    ),
    Operation {
        query: &[START],
        ..post(
            "run",
            "/v1/workloads",
            "Allocate, make and prove a workload; it waits for its start for a minute, and is undone then",
            Some("RunRequest"),
            "Created",
        )
    },
    post(
        "allocate",
        "/v1/allocations",
        "Take slices without starting anything, and without asking a plugin; DELETE /v1/workloads/{name}?force=true lets go of them",
        Some("AllocateRequest"),
        "Record",
    ),
    post(
        "prepare",
        "/v1/workloads/{name}/prepare",
        "Have the plugins make what an allocation needs; the record has the edits that give its slices to a process",
        None,
        "Record",
    ),
    get("workload", "/v1/workloads/{name}", "One workload", "Record"),
    Operation {
        method: "delete",
        query: &[FORCE],
        ..get(
            "remove",
            "/v1/workloads/{name}",
            "Forget a workload that has ended",
            "Removed",
        )
    },
    post(
        "start",
        "/v1/workloads/{name}/start",
        "Let a workload run that was made and waits",
        None,
        "Record",
    ),
    post(
        "stop",
        "/v1/workloads/{name}/stop",
        "Its stop signal, then SIGKILL after the grace; answers when it has ended",
        Some("StopRequest"),
        "Ended",
    ),
    get(
        "wait",
        "/v1/workloads/{name}/wait",
        "Answers when it has ended and its slices are free",
        "Ended",
    ),
    Operation {
        query: &[FOLLOW],
        ..get(
            "logs",
            "/v1/workloads/{name}/logs",
            "What it printed: a JSON document a line",
            "application/x-ndjson",
        )
    },
    post(
        "attach",
        "/v1/workloads/{name}/attach",
        "Upgrades to divvy-frames: its output from now on, its input, signals and end",
        None,
        "application/octet-stream",
    ),
    post(
        "exec",
        "/v1/workloads/{name}/exec",
        "Runs another command in it and upgrades to divvy-frames: its output, its input, signals and end",
        Some("ExecRequest"),
        "application/octet-stream",
    ),
    Operation {
        query: &[AFTER, UNTIL],
        ..get(
            "events",
            "/v1/events",
            "What happens, as server-sent events",
            "text/event-stream",
        )
    },
    get(
        "metrics",
        "/metrics",
        "Metrics in the OpenMetrics text format; root and admins alone",
        "application/openmetrics-text",
    ),
];

const fn get(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    gives: &'static str,
) -> Operation {
    Operation {
        id,
        method: "get",
        path,
        summary,
        query: &[],
        takes: None,
        gives,
    }
}

const fn post(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    takes: Option<&'static str>,
    gives: &'static str,
) -> Operation {
    Operation {
        id,
        method: "post",
        path,
        summary,
        query: &[],
        takes,
        gives,
    }
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Of Divvy.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// Since when it runs, ms since 1970.
    pub started_ms: u64,
    /// Its state folder.
    pub state: String,
    /// Its plugin folder.
    pub plugin_dir: String,
    /// The folder of the simulated machine that it serves, if it is none that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// A workload that is proven and waits for its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Created {
    /// The workload.
    pub workload: Record,
    /// Things to tell the user.
    pub notes: Vec<String>,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// The time between the stop signal and SIGKILL, ms.
    #[serde(default = "ten_seconds")]
    pub grace_ms: u64,
}

fn ten_seconds() -> u64 {
    10_000
}

impl Default for StopRequest {
    fn default() -> Self {
        Self {
            grace_ms: ten_seconds(),
        }
    }
}

/// A workload that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ended {
    /// How; `None`: it is forgotten already.
    pub exit: Option<Exit>,
}

/// A workload that is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// Its name.
    pub removed: String,
}

/// An answer that is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failed {
    /// What went wrong.
    pub error: Fault,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// The stable code.
    pub code: String,
    /// For people: what, where, and the remedy.
    pub message: String,
    /// Why a request cannot be granted, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Value>,
}

impl From<&AgentError> for Fault {
    fn from(error: &AgentError) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.to_string(),
            refusal: error.refusal(),
        }
    }
}

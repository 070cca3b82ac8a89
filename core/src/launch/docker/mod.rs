//! The `docker` launcher: containers by an engine that speaks Docker's API.
//!
//! * `engine`: which engine, and what it can do;
//! * `image`: the image, looked at and pulled;
//! * `render`: a job and its edits as the engine's `create` takes them (pure);
//! * `nodes`: where on the host the granted device nodes are;
//! * `labels`: the copy of the allocation that a container carries;
//! * `container`: what is done to one.
//!
//! An engine has no `create` after which a process waits, as OCI runtimes have.
//! So the container's first process is our static init, which waits at a *gate*
//! (a named pipe in the workload's folder): started, proven, and only then let
//! through. If whoever holds the gate goes away, it ends without having run
//! anything.

mod container;
mod engine;
mod error;
mod image;
mod labels;
mod nodes;
mod render;

pub use container::OnEngine;
pub(crate) use container::{Command, Handle, Input, Output, Standing};
pub use engine::{Engine, Facts, Kind, find};
pub use error::EngineError;
pub(crate) use image::fetch;
pub use image::{Image, Progress};

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::ContainerCreateBody;

use super::{By, Container, Folder, Job, LaunchError};
use crate::model::{Edits, Record};

/// The file of what an engine is asked to make; there until it has answered.
const BODY: &str = "create.json";
/// The mark of a container that may come late.
const LATE_MARK: &str = "late";
/// How long an engine may take to make a container for somebody who is gone.
const LATE: Duration = Duration::from_secs(60);

/// What is known of a job for an engine before anything is taken.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) engine: Engine,
    pub(crate) image: Image,
    /// Who runs it, by the image's own users; `None`: as the image says.
    pub(crate) user: Option<String>,
}

impl Prepared {
    /// How its container is found again.
    pub(crate) fn place(&self) -> OnEngine {
        OnEngine {
            socket: self.engine.socket.clone(),
            kind: self.engine.facts.kind,
        }
    }

    /// Writes down what the monitor will have made.
    pub(crate) fn save(
        &self,
        folder: &Folder,
        job: &Job,
        edits: &Edits,
        record: &Record,
        container: &Container,
        init: &Path,
    ) -> Result<(), LaunchError> {
        let nodes = nodes::on_host(edits, &folder.path.join("nodes"))?;
        let state = state_of(folder);
        let labels =
            labels::write(record, container, &state).map_err(|e| LaunchError::Container {
                step: "made",
                why: e.to_string(),
            })?;
        let body = render::render(render::Parts {
            job,
            user: self.user.as_deref(),
            image: &self.image,
            edits,
            facts: &self.engine.facts,
            reserved: &container.reserved,
            init,
            gate: &folder.gate(),
            nodes: &nodes,
            labels,
        })?;
        folder.save_body(&body)
    }
}

impl Folder {
    /// Where an engine's container waits for the word to start.
    pub(crate) fn gate(&self) -> PathBuf {
        self.path.join("gate")
    }

    /// There once that word was said.
    pub(crate) fn went(&self) -> PathBuf {
        self.path.join("went")
    }

    /// Notes that it was said.
    pub(crate) fn save_went(&self) -> Result<(), LaunchError> {
        let path = self.went();
        std::fs::File::create(&path)
            .map(drop)
            .map_err(LaunchError::file("cannot write", &path))
    }

    /// Removes everything of a workload that never ran; but where an engine was
    /// asked for its container and nobody heard the answer, a mark stays: the
    /// container may come late, and is removed by whoever finds the mark.
    pub(crate) fn leave(&self) {
        if !self.path.join(BODY).exists() {
            return self.remove();
        }
        self.tidy();
        for name in ["record.json", "exit.json"] {
            let _ = std::fs::remove_file(self.path.join(name));
        }
        // Without the mark it is removed by the next who comes.
        let _ = std::fs::File::create(self.path.join(LATE_MARK));
    }

    /// May its container still come?
    pub(crate) fn is_late(&self) -> bool {
        let mark = std::fs::metadata(self.path.join(LATE_MARK));
        mark.and_then(|m| m.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < LATE))
    }

    /// Notes that the engine's answer was heard: nothing comes late.
    pub(crate) fn answered(&self) {
        let _ = std::fs::remove_file(self.path.join(BODY));
    }

    /// What the engine is asked to make.
    pub(crate) fn body(&self) -> Result<ContainerCreateBody, LaunchError> {
        self.read(BODY)
    }

    fn save_body(&self, body: &ContainerCreateBody) -> Result<(), LaunchError> {
        self.write(BODY, body)
    }
}

/// The state folder's name in labels.
fn state_of(folder: &Folder) -> String {
    let state = folder.path.parent().and_then(Path::parent);
    state.map_or_else(String::new, |s| s.display().to_string())
}

/// The names of an engine's containers that were made for this state folder.
pub(crate) async fn names(socket: &Path, state: &Path) -> Result<Vec<String>, EngineError> {
    let all = container::labelled(socket, &state.display().to_string()).await?;
    Ok(all.into_iter().map(|(name, _)| name).collect())
}

/// Is this the name of that workload's container?
pub(crate) fn is_named(name: &str, id: &str) -> bool {
    name == container::name_of(id)
}

/// What the containers of an engine say of this state folder's workloads, and
/// what could not be read. A container's word counts only if it was made for
/// that very workload: labels come from images too.
pub(crate) async fn remembered(
    socket: &Path,
    state: &Path,
) -> Result<(Vec<(Record, Container)>, Vec<String>), EngineError> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for (name, labels) in container::labelled(socket, &state.display().to_string()).await? {
        match labels::read(&labels) {
            Ok((record, _)) if name != container::name_of(&record.id) => {
                unreadable.push(format!("container {name}: it carries another's labels"));
            }
            Ok((mut record, container)) => {
                let By::Engine(on) = &container.by else {
                    continue;
                };
                let gate = Folder::new(state, &record.id).gate();
                let gate = gate.display().to_string();
                let seen = on.handle(&record.id).look().await?;
                if let Some(seen) = seen.filter(|s| s.mounted.contains(&gate)) {
                    record.pid = seen.pid;
                    record.container_id = Some(seen.id);
                    found.push((record, container));
                }
            }
            Err(why) => unreadable.push(format!("container {name}: {why}")),
        }
    }
    Ok((found, unreadable))
}

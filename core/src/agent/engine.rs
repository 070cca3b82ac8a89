//! Workloads in a container engine: what is known of one before anything is
//! taken, and images.

use std::path::PathBuf;

use super::run::apply_image;
use super::{Agent, AgentError, RunRequest};
use crate::launch::docker::{self, Engine, EngineError, Prepared, Progress};
use crate::launch::image::ImageConfig;
use crate::launch::{Job, Reserved};
use crate::model::{Record, State};

impl Agent {
    /// The socket of the container engine.
    ///
    /// # Errors
    /// There is none.
    pub fn engine_socket(&self) -> Result<PathBuf, EngineError> {
        docker::find(self.settings.docker_socket.as_deref())
    }

    /// Has the engine pull an image, unless it has it.
    ///
    /// # Errors
    /// There is no engine, or it cannot get the image.
    pub async fn fetch_image(
        &self,
        name: &str,
        watch: impl FnMut(Progress),
    ) -> Result<(), AgentError> {
        let socket = self.engine_socket()?;
        Ok(docker::fetch(&socket, name, watch).await?)
    }

    /// The engine's containers that were made for this state folder and belong
    /// to none of these workloads: whoever made them was killed before it knew.
    /// An engine that is not there has none.
    pub async fn strange_containers(&self, records: &[Record]) -> Vec<String> {
        let Ok(socket) = self.engine_socket() else {
            return vec![];
        };
        let names = docker::names(&socket, &self.settings.state).await;
        let mut strange = names.unwrap_or_default();
        strange.retain(|name| !records.iter().any(|r| docker::is_named(name, &r.id)));
        strange
    }

    /// Makes the folders anew, with a copy of the record in each, of workloads
    /// that the engine's containers tell of and whose folders are lost. Returns
    /// what of their words cannot be read. An engine that is not there says nothing.
    pub(super) async fn told_by_engine(&self, known: &[Record]) -> Result<Vec<String>, AgentError> {
        let state = &self.settings.state;
        let Ok(socket) = self.engine_socket() else {
            return Ok(vec![]);
        };
        let (found, unreadable) = match docker::remembered(&socket, state).await {
            Ok(found) => found,
            Err(error) => return Ok(vec![error.to_string()]),
        };
        for (mut record, container) in found {
            if known.iter().any(|r| r.id == record.id) {
                continue;
            }
            let folder = self.folder(&record.id);
            let _lock = folder.create()?;
            // Its init has a child as soon as it was let through.
            if record.pid.is_none_or(has_children) {
                record.state = State::Running;
                folder.save_went()?;
            }
            folder.save_container(&container)?;
            folder.save_settings(&self.monitor_settings())?;
            folder.save_record(&record)?;
        }
        Ok(unreadable)
    }

    /// Looks at engine and image, and lets the image say what the user did not.
    pub(super) async fn on_engine(
        &self,
        image: &str,
        request: &RunRequest,
        job: &mut Job,
        reserved: &Reserved,
    ) -> Result<(Prepared, ImageConfig), AgentError> {
        let engine = Engine::connect(&self.engine_socket()?).await?;
        let image = match engine.image(image).await {
            Err(EngineError::NoImage(_)) => {
                docker::fetch(&engine.socket, image, |_| {}).await?;
                engine.image(image).await?
            }
            other => other?,
        };
        apply_image(job, &image.config, reserved);
        if job.command.is_empty() {
            return Err(AgentError::NoCommand);
        }
        let config = image.config.clone();
        let prepared = Prepared {
            engine,
            image,
            user: request.user.clone(),
        };
        Ok((prepared, config))
    }
}

fn has_children(pid: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    children.is_ok_and(|list| !list.trim().is_empty())
}

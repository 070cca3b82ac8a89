//! One container of an engine, by its name: `divvy-ID`. The name is known
//! before the container is, so whoever finds half of one can remove it.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    AttachContainerOptions, ContainerArchiveInfoOptions, CreateContainerOptions, LogsOptions,
    RemoveContainerOptions, ResizeContainerTTYOptions, WaitContainerOptions,
};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;

use super::engine::{Kind, client};
use super::error::EngineError;
use crate::launch::LaunchError;

/// How often a terminal's size is set, until it is, and how long between.
const RESIZES: u32 = 10;
const RESIZE_AGAIN: Duration = Duration::from_millis(20);

/// A container's output, as it comes.
pub(crate) type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;
/// The way to its input.
pub(crate) type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Where a container of an engine is, for whoever follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnEngine {
    /// The engine's socket.
    pub socket: PathBuf,
    /// Whose engine it is.
    pub kind: Kind,
}

/// A container as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The engine's id.
    pub(crate) id: String,
    /// Its first process, if it runs.
    pub(crate) pid: Option<u32>,
    /// Did the kernel stop a process of it for want of memory?
    pub(crate) out_of_memory: bool,
    /// Is its log read back byte for byte, from the beginning?
    pub(crate) logs_all: bool,
    /// What of the host is mounted in it.
    pub(crate) mounted: Vec<String>,
}

/// A container and the way to its engine, which need not be there all the time.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    socket: PathBuf,
    name: String,
}

/// Another command in a container.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) tty: bool,
}

/// How another command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It runs, as this process of the machine's.
    Runs(Option<u32>),
    /// It has ended.
    Ended(Option<u8>),
}

/// A container's name in its engine.
pub(super) fn name_of(id: &str) -> String {
    format!("divvy-{id}")
}

impl OnEngine {
    /// The container of this workload.
    pub(crate) fn handle(&self, id: &str) -> Handle {
        Handle {
            socket: self.socket.clone(),
            name: name_of(id),
        }
    }
}

impl Handle {
    /// Each call has a connection of its own anyway.
    fn client(&self) -> Result<Docker, EngineError> {
        client(&self.socket)
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(Error) -> EngineError {
        let socket = self.socket.clone();
        move |error| EngineError::of(&socket, step, &error)
    }

    /// Does the engine answer?
    pub(crate) async fn ping(&self) -> bool {
        match self.client() {
            Ok(client) => client.ping().await.is_ok(),
            Err(_) => false,
        }
    }

    /// Makes the container; nothing of it runs.
    pub(crate) async fn create(&self, body: ContainerCreateBody) -> Result<(), EngineError> {
        let options = CreateContainerOptions {
            name: Some(self.name.clone()),
            ..CreateContainerOptions::default()
        };
        let made = self.client()?.create_container(Some(options), body).await;
        made.map(drop).map_err(self.failed("make the container"))
    }

    /// Refuses a container whose root has a link where a runtime will write:
    /// old ones would follow it, to the host (runc CVE-2026-41579).
    pub(crate) async fn check_root(&self) -> Result<(), LaunchError> {
        let client = &self.client()?;
        let look = |path: &'static str| async move {
            let options = ContainerArchiveInfoOptions { path: path.into() };
            let found = client.get_container_archive_info(&self.name, Some(options));
            match found.await {
                // Podman says where any path leads; one without links, to itself.
                Ok(stat) => Ok(!stat.link_target.is_empty() && stat.link_target != path),
                // Not there: the runtime makes it.
                Err(Error::DockerResponseServerError {
                    status_code: 404, ..
                }) => Ok(false),
                Err(error) => Err(self.failed("look into the container")(error)),
            }
        };
        for path in ["/dev", "/proc", "/sys"] {
            if look(path).await? {
                return Err(LaunchError::Forbidden(format!(
                    "its root filesystem has a symbolic link for {path}, by which it could reach the host"
                )));
            }
        }
        Ok(())
    }

    /// Its streams from now on.
    pub(crate) async fn attach(&self, stdin: bool) -> Result<(Output, Input), EngineError> {
        let options = AttachContainerOptions {
            stream: true,
            stdin,
            stdout: true,
            stderr: true,
            ..AttachContainerOptions::default()
        };
        let attached = self
            .client()?
            .attach_container(&self.name, Some(options))
            .await
            .map_err(self.failed("attach to the container"))?;
        Ok((attached.output, attached.input))
    }

    /// Its output from the beginning, and on until it ends.
    pub(crate) fn logs(&self, since_s: i32) -> Result<Output, EngineError> {
        let options = LogsOptions {
            follow: true,
            stdout: true,
            stderr: true,
            since: since_s,
            ..LogsOptions::default()
        };
        Ok(self.client()?.logs(&self.name, Some(options)).boxed())
    }

    /// Starts it: its init runs, and waits at the gate.
    pub(crate) async fn start(&self) -> Result<(), EngineError> {
        self.client()?
            .start_container(
                &self.name,
                None::<bollard::query_parameters::StartContainerOptions>,
            )
            .await
            .map_err(self.failed("start the container"))
    }

    /// Looks at it; `None`: there is none.
    pub(crate) async fn look(&self) -> Result<Option<Seen>, EngineError> {
        let options = None::<bollard::query_parameters::InspectContainerOptions>;
        let found = match self.client()?.inspect_container(&self.name, options).await {
            Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => return Ok(None),
            other => other.map_err(self.failed("look at the container"))?,
        };
        let state = found.state.unwrap_or_default();
        let pid = state.pid.and_then(|p| u32::try_from(p).ok());
        let log = found.host_config.and_then(|h| h.log_config);
        let logs_all = log.is_some_and(|log| {
            log.typ.as_deref() == Some("json-file")
                && !log.config.is_some_and(|c| c.contains_key("max-size"))
        });
        Ok(Some(Seen {
            id: found.id.unwrap_or_default(),
            pid: pid.filter(|pid| *pid > 0 && state.running == Some(true)),
            out_of_memory: state.oom_killed == Some(true),
            logs_all,
            mounted: found
                .mounts
                .into_iter()
                .flatten()
                .filter_map(|m| m.source)
                .collect(),
        }))
    }

    /// Waits until it does not run; its exit code.
    pub(crate) async fn wait(&self) -> Result<Option<u8>, EngineError> {
        let options = WaitContainerOptions {
            condition: "not-running".into(),
        };
        let client = self.client()?;
        let mut answers = Box::pin(client.wait_container(&self.name, Some(options)));
        let code = match answers.next().await {
            Some(Ok(answer)) => answer.status_code,
            // bollard makes an error of every code but 0.
            Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(Error::DockerResponseServerError {
                status_code: 404, ..
            })) => return Ok(None),
            Some(Err(error)) => return Err(self.failed("say how the container ended")(error)),
            None => {
                return Err(EngineError::Unavailable {
                    socket: self.socket.clone(),
                    why: "it hung up".into(),
                });
            }
        };
        Ok(u8::try_from(code).ok())
    }

    /// Sets its terminal's size.
    pub(crate) async fn resize(&self, columns: u16, rows: u16) {
        let options = ResizeContainerTTYOptions {
            w: columns.into(),
            h: rows.into(),
        };
        // A wrong size is ugly, not wrong.
        if let Ok(client) = self.client() {
            let _ = client.resize_container_tty(&self.name, options).await;
        }
    }

    /// Removes it, whatever it is. One that is not there is a success.
    pub(crate) async fn delete(&self) -> Result<(), EngineError> {
        let options = RemoveContainerOptions {
            force: true,
            // The volumes that its image asked for.
            v: true,
            ..RemoveContainerOptions::default()
        };
        match self
            .client()?
            .remove_container(&self.name, Some(options))
            .await
        {
            Ok(())
            | Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(()),
            Err(error) => Err(self.failed("remove the container")(error)),
        }
    }

    /// Starts another command in it.
    pub(crate) async fn exec(
        &self,
        command: Command,
    ) -> Result<(String, Output, Input), EngineError> {
        let tty = command.tty;
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            env: Some(command.env),
            cmd: Some(command.args),
            privileged: Some(false),
            // The init enters the command's own folder.
            working_dir: Some("/".into()),
            ..CreateExecOptions::default()
        };
        let step = "run a command in the container";
        let client = self.client()?;
        let made = client.create_exec(&self.name, options).await;
        let id = made.map_err(self.failed(step))?.id;
        let options = StartExecOptions {
            tty,
            ..StartExecOptions::default()
        };
        match client.start_exec(&id, Some(options)).await {
            Ok(StartExecResults::Attached { output, input }) => Ok((id, output, input)),
            Ok(StartExecResults::Detached) => Err(EngineError::Failed {
                step,
                why: "it did not attach".into(),
            }),
            Err(error) => Err(self.failed(step)(error)),
        }
    }

    /// How another command stands.
    pub(crate) async fn exec_stands(&self, id: &str) -> Result<Standing, EngineError> {
        let seen = self.client()?.inspect_exec(id).await;
        let seen = seen.map_err(self.failed("look at the command"))?;
        Ok(if seen.running == Some(true) {
            Standing::Runs(seen.pid.and_then(|p| u32::try_from(p).ok()))
        } else {
            Standing::Ended(seen.exit_code.and_then(|c| u8::try_from(c).ok()))
        })
    }

    /// Sets the size of another command's terminal.
    pub(crate) async fn exec_resize(&self, id: &str, width: u16, height: u16) {
        // An engine that was just asked to start it may not know it yet. A wrong
        // size is ugly, not wrong.
        for _ in 0..RESIZES {
            let Ok(client) = self.client() else { return };
            let size = ResizeExecOptions { height, width };
            if client.resize_exec(id, size).await.is_ok() {
                return;
            }
            tokio::time::sleep(RESIZE_AGAIN).await;
        }
    }
}

/// The containers of one state folder, with what their labels say.
pub(super) type Labelled = (String, std::collections::HashMap<String, String>);

/// Asks an engine for the containers of a state folder: names and labels.
pub(super) async fn labelled(socket: &Path, state: &str) -> Result<Vec<Labelled>, EngineError> {
    let options = bollard::query_parameters::ListContainersOptions {
        all: true,
        filters: Some(
            [(
                "label".to_owned(),
                vec![format!("{}={state}", super::labels::STATE)],
            )]
            .into(),
        ),
        ..Default::default()
    };
    let client = client(socket)?;
    let listed = client.list_containers(Some(options)).await;
    let listed = listed.map_err(|e| EngineError::of(socket, "list containers", &e))?;
    let names = listed.into_iter().filter_map(|c| {
        let name = c.names?.into_iter().next()?;
        Some((name.trim_start_matches('/').to_owned(), c.labels?))
    });
    Ok(names.collect())
}

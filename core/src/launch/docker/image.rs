//! Images of an engine: looked at, and pulled if they are missing.

use std::path::Path;

use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;

use super::engine::{Engine, client};
use super::error::EngineError;
use crate::launch::image::ImageConfig;

/// An image that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its digest: what was looked at is what runs, whatever its name means by
    /// then.
    pub id: String,
    /// What it wishes.
    pub config: ImageConfig,
    /// Names in its environment, those that are no proper names as well.
    pub variables: Vec<String>,
}

/// A step of a pull, for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The layer; empty: the image as a whole.
    pub layer: String,
    /// In the engine's words: `Downloading`, `Pull complete`.
    pub status: String,
    /// Bytes so far, and in all, where it says.
    pub bytes: Option<(u64, u64)>,
}

impl Engine {
    /// Looks at an image.
    ///
    /// # Errors
    /// It is not there, or not for this machine.
    pub(crate) async fn image(&self, name: &str) -> Result<Image, EngineError> {
        let seen = match self.client.inspect_image(name).await {
            Ok(seen) => seen,
            Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => return Err(EngineError::NoImage(name.to_owned())),
            Err(error) => {
                return Err(EngineError::of(&self.socket, "look at the image", &error));
            }
        };
        let (os, architecture) = (
            seen.os.unwrap_or_default(),
            seen.architecture.unwrap_or_default(),
        );
        if os != "linux" || architecture != self.facts.architecture {
            return Err(EngineError::OtherMachine {
                image: name.to_owned(),
                theirs: format!("{os}/{architecture}"),
                ours: format!("linux/{}", self.facts.architecture),
            });
        }
        let config = seen.config.unwrap_or_default();
        let variables = config.env.unwrap_or_default();
        let env = variables
            .iter()
            .filter_map(|v| v.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Image {
            id: seen.id.unwrap_or_else(|| name.to_owned()),
            config: ImageConfig {
                env: env.collect(),
                entrypoint: config.entrypoint.unwrap_or_default(),
                cmd: config.cmd.unwrap_or_default(),
                working_dir: config.working_dir.unwrap_or_default(),
                user: config.user.unwrap_or_default(),
                labels: config.labels.unwrap_or_default().into_iter().collect(),
                stop_signal: config.stop_signal.filter(|s| !s.is_empty()),
                architecture,
                os,
            },
            variables: variables
                .iter()
                .map(|v| v.split_once('=').map_or(&**v, |(name, _)| name).to_owned())
                .collect(),
        })
    }
}

/// Pulls an image, unless it is there.
///
/// # Errors
/// The engine's word.
pub(crate) async fn fetch(
    socket: &Path,
    name: &str,
    mut watch: impl FnMut(Progress),
) -> Result<(), EngineError> {
    let client = client(socket)?;
    match client.inspect_image(name).await {
        Ok(_) => return Ok(()),
        Err(Error::DockerResponseServerError {
            status_code: 404, ..
        }) => {}
        Err(error) => return Err(EngineError::of(socket, "look at the image", &error)),
    }
    let options = CreateImageOptions {
        from_image: Some(with_tag(name)),
        ..CreateImageOptions::default()
    };
    let failed = |why: String| EngineError::Pull {
        image: name.to_owned(),
        why,
    };
    let mut steps = client.create_image(Some(options), None, None);
    while let Some(step) = steps.next().await {
        let step = step.map_err(|error| match &error {
            Error::DockerResponseServerError { message, .. } => failed(message.trim().to_owned()),
            Error::DockerStreamError { error } => failed(error.clone()),
            _ => EngineError::of(socket, "pull the image", &error),
        })?;
        if let Some(message) = step.error_detail.and_then(|e| e.message) {
            return Err(failed(message));
        }
        let amount = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        let bytes = step
            .progress_detail
            .and_then(|d| amount(d.current).zip(amount(d.total)));
        watch(Progress {
            layer: step.id.unwrap_or_default(),
            status: step.status.unwrap_or_default(),
            bytes,
        });
    }
    Ok(())
}

/// Without a tag the engine would pull every tag there is.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || name.contains('@') {
        return name.to_owned();
    }
    format!("{name}:latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_is_pulled_and_not_all() {
        for (name, whole) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("host:5000/a/b", "host:5000/a/b:latest"),
            ("host:5000/a/b:c", "host:5000/a/b:c"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(with_tag(name), whole);
        }
    }
}

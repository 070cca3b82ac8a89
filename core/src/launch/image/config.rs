//! The part of an image's configuration that the launcher uses.

use std::collections::BTreeMap;

use oci_spec::image::{Arch, ImageConfiguration, Os};

use super::digest::Digest;
use super::error::ImageError;
use super::limits::MAX_LAYERS;

/// An image's configuration (OCI image spec, config.md). All values are the image's
/// wishes: the launcher decides (reserved variables S2, working directory S7).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Environment in the image's order; a name may be there more than once.
    pub env: Vec<(String, String)>,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments; the program where `entrypoint` is empty.
    pub cmd: Vec<String>,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// `user[:group]` for [`super::lookup_user`]; empty means root.
    pub user: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the program to end, such as `SIGTERM` or `15`.
    pub stop_signal: Option<String>,
    /// Such as `amd64`.
    pub architecture: String,
    /// Always `linux` after [`super::open`].
    pub os: String,
}

/// Reads a configuration document: the configuration and the diff ids, lowest first.
pub(super) fn parse(at: &str, bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), ImageError> {
    let document: ImageConfiguration = serde_json::from_slice(bytes).map_err(|e| {
        ImageError::invalid(
            at,
            format!(
                "its configuration is malformed ({})",
                super::error::shown(e.to_string().as_bytes())
            ),
        )
    })?;
    let diff_ids = document.rootfs().diff_ids();
    if diff_ids.len() > MAX_LAYERS {
        return Err(ImageError::too_large(
            at,
            "its number of layers",
            MAX_LAYERS as u64,
        ));
    }
    let diff_ids = diff_ids
        .iter()
        .map(|id| Digest::parse(at, id))
        .collect::<Result<Vec<_>, _>>()?;
    let mut config = ImageConfig {
        architecture: document.architecture().to_string(),
        os: document.os().to_string(),
        ..ImageConfig::default()
    };
    if let Some(c) = document.config() {
        config.env = c.env().iter().flatten().map(|e| pair(e)).collect();
        config.entrypoint = c.entrypoint().clone().unwrap_or_default();
        config.cmd = c.cmd().clone().unwrap_or_default();
        config.working_dir = c.working_dir().clone().unwrap_or_default();
        config.user = c.user().clone().unwrap_or_default();
        config.labels = c.labels().clone().unwrap_or_default().into_iter().collect();
        config.stop_signal = c.stop_signal().clone().filter(|s| !s.is_empty());
    }
    let env = config.env.iter().flat_map(|(name, value)| [name, value]);
    let texts = env.chain(&config.entrypoint).chain(&config.cmd);
    if texts
        .chain([&config.working_dir, &config.user])
        .any(|text| text.contains('\0'))
    {
        return Err(ImageError::invalid(
            at,
            "its configuration contains a NUL character",
        ));
    }
    if config.env.iter().any(|(name, _)| name.is_empty()) {
        return Err(ImageError::invalid(
            at,
            "its environment has a variable without a name",
        ));
    }
    Ok((config, diff_ids))
}

fn pair(entry: &str) -> (String, String) {
    let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
    (name.to_owned(), value.to_owned())
}

/// Whether an image for this platform runs on this machine.
pub(super) fn runs_here(os: &Os, architecture: &Arch) -> bool {
    *os == Os::Linux && *architecture == Arch::default()
}

/// This machine, as images name it.
pub(super) fn this_machine() -> String {
    format!("linux/{}", Arch::default())
}

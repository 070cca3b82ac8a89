//! Chooses an image in the output of `docker save` (moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format").
//!
//! Old and new archives are read alike: `manifest.json` names the configuration and the
//! layer files; new ones lie under `blobs/sha256/`, so their digests are checked as well.

use serde::Deserialize;

use super::blobs::Blobs;
use super::config;
use super::digest::Digest;
use super::error::{ImageError, shown};
use super::plan::{Layer, Plan};
use super::reference;

/// One image in `manifest.json`. Unknown fields belong to other versions of Docker.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Entry {
    fn tags(&self) -> impl Iterator<Item = &str> {
        self.repo_tags.iter().flatten().map(String::as_str)
    }

    /// Docker's image id: the configuration's name is its digest.
    fn id(&self) -> Option<Digest> {
        let name = self.config.rsplit('/').next().unwrap_or_default();
        Digest::from_hex(name.strip_suffix(".json").unwrap_or(name))
    }
}

/// Reads the archive: the image called `wanted`, or the only one.
pub(super) fn plan(blobs: &Blobs, wanted: Option<&str>) -> Result<Plan, ImageError> {
    let at = blobs.at.as_str();
    let entries: Vec<Entry> =
        serde_json::from_slice(&blobs.file("manifest.json")?).map_err(|e| {
            let reason = shown(e.to_string().as_bytes());
            ImageError::invalid(at, format!("manifest.json is malformed ({reason})"))
        })?;
    let entry = choose(at, &entries, wanted)?;
    let bytes = blobs.file(&entry.config)?;
    if let Some(id) = entry.id() {
        blobs.verify(&entry.config, &id, &bytes)?;
    }
    let (config, diff_ids) = config::parse(at, &bytes)?;
    let files = entry.layers.as_deref().unwrap_or_default();
    if files.len() != diff_ids.len() {
        let problem = format!("{} layers, but {} diff ids", files.len(), diff_ids.len());
        return Err(ImageError::invalid(at, problem));
    }
    let layers = files
        .iter()
        .zip(diff_ids)
        .map(|(file, diff_id)| Layer {
            file: file.clone(),
            blob: file
                .strip_prefix("blobs/sha256/")
                .and_then(Digest::from_hex),
            diff_id,
        })
        .collect();
    Ok(Plan {
        digest: Digest::of(&bytes),
        layers,
        config,
    })
}

fn choose<'a>(
    at: &str,
    entries: &'a [Entry],
    wanted: Option<&str>,
) -> Result<&'a Entry, ImageError> {
    let choices = || {
        let names: Vec<String> = entries
            .iter()
            .flat_map(|e| {
                let tags: Vec<String> = e.tags().map(str::to_owned).collect();
                match (tags.is_empty(), e.id()) {
                    (true, Some(id)) => vec![id.to_string()],
                    _ => tags,
                }
            })
            .collect();
        reference::list(names.iter().map(String::as_str))
    };
    let Some(wanted) = wanted else {
        return match entries {
            [] => Err(ImageError::invalid(at, "manifest.json lists no image")),
            [only] => Ok(only),
            _ => Err(ImageError::Ambiguous {
                path: at.into(),
                choices: choices(),
            }),
        };
    };
    entries
        .iter()
        .find(|e| {
            e.tags().any(|tag| reference::matches(wanted, tag))
                || e.id().is_some_and(|id| id.to_string() == wanted)
        })
        .ok_or_else(|| ImageError::NoSuchReference {
            path: at.into(),
            reference: wanted.into(),
            choices: choices(),
        })
}

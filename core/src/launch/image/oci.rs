//! Chooses an image in an OCI layout and reads its manifest (OCI image spec, image-layout.md, image-index.md, manifest.md).

use std::collections::HashSet;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType, OciLayout};
use serde::de::DeserializeOwned;

use super::blobs::Blobs;
use super::config::{self, runs_here, this_machine};
use super::digest::Digest;
use super::error::{ImageError, shown};
use super::limits::{MAX_INDEX_DEPTH, MAX_LAYERS};
use super::plan::{Layer, Plan};
use super::reference;

/// The tag (annotations.md), or the whole name, depending on the writer.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd and Docker write the whole name here.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// BuildKit marks provenance documents that pose as images.
const ATTESTATION: &str = "vnd.docker.reference.type";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Reads the layout: the image called `wanted`, or the only one.
pub(super) fn plan(blobs: &Blobs, wanted: Option<&str>) -> Result<Plan, ImageError> {
    let layout: OciLayout = json(blobs, "oci-layout", &blobs.file("oci-layout")?)?;
    if layout.image_layout_version() != "1.0.0" {
        return Err(ImageError::Unsupported {
            at: blobs.at.clone(),
            what: format!(
                "layout version {}",
                shown(layout.image_layout_version().as_bytes())
            ),
            remedy: "export the image as layout version 1.0.0",
        });
    }
    let index: ImageIndex = json(blobs, "index.json", &blobs.file("index.json")?)?;
    let named = by_reference(blobs, index.manifests(), wanted)?;
    let chosen = for_this_machine(blobs, named, true)?;
    manifest(blobs, chosen, 0)
}

/// The entries called `wanted`; without one, those of the only name there.
fn by_reference<'a>(
    blobs: &Blobs,
    all: &'a [Descriptor],
    wanted: Option<&str>,
) -> Result<Vec<&'a Descriptor>, ImageError> {
    let images: Vec<&Descriptor> = all.iter().filter(|d| !is_attestation(d)).collect();
    let Some(wanted) = wanted else {
        let names: HashSet<Option<&str>> = images.iter().map(|d| names(d).next()).collect();
        let contents: HashSet<&str> = images.iter().map(|d| d.digest().as_ref()).collect();
        // Two names for one image leave no doubt.
        if names.len() > 1 && contents.len() > 1 {
            return Err(ambiguous(blobs, &images));
        }
        return Ok(images);
    };
    let hits: Vec<&Descriptor> = images
        .iter()
        .copied()
        .filter(|d| {
            d.digest().as_ref() == wanted || names(d).any(|n| reference::matches(wanted, n))
        })
        .collect();
    if hits.is_empty() {
        return Err(ImageError::NoSuchReference {
            path: blobs.at.clone().into(),
            reference: wanted.into(),
            choices: choices(&images),
        });
    }
    Ok(hits)
}

/// The entry for this machine. At the `top`, two different ones are an ambiguity; inside
/// an index the first wins, as the spec orders (image-index.md, "manifests").
fn for_this_machine<'a>(
    blobs: &Blobs,
    candidates: Vec<&'a Descriptor>,
    top: bool,
) -> Result<&'a Descriptor, ImageError> {
    let fitting: Vec<&Descriptor> = candidates
        .iter()
        .copied()
        .filter(|d| !is_attestation(d))
        .filter(|d| {
            d.platform()
                .as_ref()
                .is_none_or(|p| runs_here(p.os(), p.architecture()))
        })
        .collect();
    // A CPU level above the base one (amd64/v3) may not run here: the base is preferred.
    let base = fitting.iter().copied().find(|d| is_base_variant(d));
    let distinct: HashSet<&str> = fitting
        .iter()
        .filter(|d| is_base_variant(d) || base.is_none())
        .map(|d| d.digest().as_ref())
        .collect();
    if top && distinct.len() > 1 {
        return Err(ambiguous(blobs, &fitting));
    }
    base.or_else(|| fitting.first().copied()).ok_or_else(|| {
        let platforms: Vec<String> = candidates
            .iter()
            .filter(|d| !is_attestation(d))
            .filter_map(|d| d.platform().as_ref())
            .map(|p| format!("{}/{}", p.os(), p.architecture()))
            .collect();
        let available = match platforms.is_empty() {
            true => "no platform (its index is empty)".to_owned(),
            false => reference::list(platforms.iter().map(String::as_str)),
        };
        ImageError::NoPlatform {
            path: blobs.at.clone().into(),
            wanted: this_machine(),
            available,
        }
    })
}

fn is_base_variant(d: &Descriptor) -> bool {
    let variant = d.platform().as_ref().and_then(|p| p.variant().as_deref());
    matches!(variant, None | Some("" | "v1" | "v8"))
}

fn manifest(blobs: &Blobs, descriptor: &Descriptor, depth: usize) -> Result<Plan, ImageError> {
    let digest = Digest::parse(&blobs.at, descriptor.digest().as_ref())?;
    let bytes = blobs.document(&digest)?;
    if bytes.len() as u64 != descriptor.size() {
        let problem = format!(
            "{digest} has {} bytes instead of {}",
            bytes.len(),
            descriptor.size()
        );
        return Err(ImageError::invalid(&blobs.at, problem));
    }
    match descriptor.media_type() {
        MediaType::ImageIndex => {}
        MediaType::ImageManifest => return image(blobs, digest, &bytes),
        MediaType::Other(other) if other == DOCKER_LIST => {}
        MediaType::Other(other) if other == DOCKER_MANIFEST => return image(blobs, digest, &bytes),
        other => {
            return Err(ImageError::Unsupported {
                at: blobs.at.clone(),
                what: format!("media type {}", shown(other.as_ref().as_bytes())),
                remedy: "use a container image, not another artifact",
            });
        }
    }
    if depth >= MAX_INDEX_DEPTH {
        return Err(ImageError::too_large(
            &blobs.at,
            "the nesting of its indexes",
            MAX_INDEX_DEPTH as u64,
        ));
    }
    let index: ImageIndex = json(blobs, "an index", &bytes)?;
    let chosen = for_this_machine(blobs, index.manifests().iter().collect(), false)?;
    manifest(blobs, chosen, depth + 1)
}

fn image(blobs: &Blobs, digest: Digest, bytes: &[u8]) -> Result<Plan, ImageError> {
    let manifest: ImageManifest = json(blobs, "the manifest", bytes)?;
    let at = blobs.at.as_str();
    if manifest.artifact_type().is_some() {
        return Err(ImageError::Unsupported {
            at: at.into(),
            what: "an artifact".into(),
            remedy: "use a container image",
        });
    }
    if manifest.layers().len() > MAX_LAYERS {
        return Err(ImageError::too_large(
            at,
            "its number of layers",
            MAX_LAYERS as u64,
        ));
    }
    let config = Digest::parse(at, manifest.config().digest().as_ref())?;
    let (config, diff_ids) = config::parse(at, &blobs.document(&config)?)?;
    if diff_ids.len() != manifest.layers().len() {
        let problem = format!(
            "{} layers, but {} diff ids",
            manifest.layers().len(),
            diff_ids.len()
        );
        return Err(ImageError::invalid(at, problem));
    }
    let layers = manifest
        .layers()
        .iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| {
            let media_type = layer.media_type().as_ref();
            if media_type.contains("encrypted") {
                return Err(ImageError::Unsupported {
                    at: at.into(),
                    what: "an encrypted layer".into(),
                    remedy: "decrypt the image with `skopeo copy --decryption-key`",
                });
            }
            let blob = Digest::parse(at, layer.digest().as_ref())?;
            Ok(Layer {
                file: format!("blobs/sha256/{}", blob.hex()),
                blob: Some(blob),
                diff_id,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Plan {
        digest,
        layers,
        config,
    })
}

fn names(d: &Descriptor) -> impl Iterator<Item = &str> {
    let annotations = d.annotations().as_ref();
    [CONTAINERD_NAME, REF_NAME]
        .into_iter()
        .filter_map(move |key| annotations.and_then(|a| a.get(key)))
        .map(String::as_str)
}

fn is_attestation(d: &Descriptor) -> bool {
    d.annotations()
        .as_ref()
        .is_some_and(|a| a.contains_key(ATTESTATION))
}

fn choices(images: &[&Descriptor]) -> String {
    reference::list(
        images
            .iter()
            .map(|d| names(d).next().unwrap_or(d.digest().as_ref())),
    )
}

fn ambiguous(blobs: &Blobs, images: &[&Descriptor]) -> ImageError {
    ImageError::Ambiguous {
        path: blobs.at.clone().into(),
        choices: choices(images),
    }
}

fn json<T: DeserializeOwned>(blobs: &Blobs, what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| {
        let reason = shown(e.to_string().as_bytes());
        ImageError::invalid(&blobs.at, format!("{what} is malformed ({reason})"))
    })
}

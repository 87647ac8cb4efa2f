//! Docker archives: what `docker save` writes.
//!
//! manifest.json lists, for each image, the file of its configuration, those of
//! its layers, and its names. There are no digests but the layers' diff ids in
//! the configuration, which are enough.

use super::source::{Source, check_digest};
use super::{Documented, Found, LayerSource};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::manifest::parse_docker;
use crate::reference::Reference;

/// Finds the images of a docker archive.
pub(super) fn find(source: &Source, manifest: &[u8], limits: &Limits) -> Result<Vec<Found>> {
    let mut documents = Documented::new(limits);
    parse_docker(manifest, limits)?
        .into_iter()
        .map(|image| {
            let config = source
                .document(&image.config, limits.config_bytes)?
                .ok_or_else(|| Error::MissingBlob {
                    what: format!("the configuration {:?}", image.config),
                })?;
            let id = Digest::of(&config);
            if let Some(named) = digest_in_name(&image.config) {
                check_digest(
                    || format!("the configuration {:?}", image.config),
                    &named,
                    &id,
                )?;
            }
            let names = image.repo_tags.unwrap_or_default().into_iter().map(|text| {
                Reference::parse(&text).map_err(|source| Error::Reference { text, source })
            });
            let layer = |name| LayerSource {
                name,
                expected: None,
                compression: None,
            };
            let found = Found {
                names: names.collect::<Result<_>>()?,
                digest: None,
                id,
                layers: image.layers.into_iter().map(layer).collect(),
                blobs: vec![(id, config.clone())],
                config,
            };
            documents.add(&found)?;
            Ok(found)
        })
        .collect()
}

/// `<hex>.json` or `blobs/sha256/<hex>`: files are named after their digest.
fn digest_in_name(name: &str) -> Option<Digest> {
    let base = name.rsplit('/').next()?;
    Digest::from_hex(base.strip_suffix(".json").unwrap_or(base)).ok()
}

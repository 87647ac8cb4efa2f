//! OCI image layouts: index.json and blobs by digest.
//!
//! Source: OCI image-spec, image-layout.md and annotations.md.

use super::source::Source;
use super::{Documented, Found, LayerSource, name_from_file};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::manifest::{Compression, Descriptor, Document, Manifest, Platform};
use crate::reference::Reference;

/// containerd's and Docker's full name, and the specification's own, which is
/// often a tag only.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Finds the images of a layout, each in its variant for this machine.
pub(super) fn find(source: &Source, index: &[u8], limits: &Limits) -> Result<Vec<Found>> {
    let Document::Index(entries) = Document::parse(index, "index.json", limits)? else {
        return Err(Error::Inconsistent("index.json is not an index".into()));
    };
    // Entries of one name are one image in several variants.
    let mut images: Vec<(Option<String>, Vec<Descriptor>)> = Vec::new();
    for entry in entries.into_iter().filter(is_image) {
        let name = entry
            .annotation(FULL_NAME)
            .or(entry.annotation(REF_NAME))
            .map(str::to_owned);
        let same = |(other, variants): &&mut (Option<String>, Vec<Descriptor>)| {
            *other == name && (name.is_some() || is_variant(&entry, variants))
        };
        match images.iter_mut().find(same) {
            Some((_, variants)) => variants.push(entry),
            None => images.push((name, vec![entry])),
        }
    }
    let mut documents = Documented::new(limits);
    images
        .into_iter()
        .map(|(name, variants)| {
            let mut found = Resolver {
                source,
                limits,
                blobs: Vec::new(),
            }
            .find(variants)?;
            if let Some(name) = name {
                found.names.push(reference(source, &name)?);
            }
            documents.add(&found)?;
            Ok(found)
        })
        .collect()
}

/// Whether an image without a name may be one of these for another platform: nothing else
/// says what belongs together. Two for this machine are two images.
fn is_variant(entry: &Descriptor, variants: &[Descriptor]) -> bool {
    let here = Platform::here();
    let is_here = |it: &Descriptor| {
        let platform = it.platform.as_ref();
        platform.is_none_or(|platform| platform.matches(&here))
    };
    !(is_here(entry) && variants.iter().any(is_here))
}

/// Attestations and other artifacts stand beside images in an index.
fn is_image(entry: &Descriptor) -> bool {
    entry
        .platform
        .as_ref()
        .is_none_or(|platform| platform.os != "unknown")
}

/// The name an annotation gives. A bare tag gets its repository from the file.
fn reference(source: &Source, text: &str) -> Result<Reference> {
    let full = match text.contains(['/', ':', '@']) {
        true => text.to_owned(),
        false => format!("{}:{text}", name_from_file(source.path())?),
    };
    Reference::parse(&full).map_err(|source| Error::Reference { text: full, source })
}

/// Where an image's small documents come from.
pub(super) trait Documents {
    /// Reads one, of at most `limit` bytes, and checks it.
    fn verified(&self, digest: &Digest, size: u64, limit: u64, kind: Kind) -> Result<Vec<u8>>;
}

/// What a document is: registries keep manifests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Manifest,
    Config,
}

impl Documents for Source {
    fn verified(&self, digest: &Digest, size: u64, limit: u64, _: Kind) -> Result<Vec<u8>> {
        self.verified(digest, size, limit)
    }
}

/// Finds the variant for this machine of what a name stands for.
pub(super) fn find_one(source: &dyn Documents, top: Descriptor, limits: &Limits) -> Result<Found> {
    let resolver = Resolver {
        source,
        limits,
        blobs: Vec::new(),
    };
    resolver.find(vec![top])
}

struct Resolver<'a> {
    source: &'a dyn Documents,
    limits: &'a Limits,
    blobs: Vec<(Digest, Vec<u8>)>,
}

impl Resolver<'_> {
    fn find(mut self, variants: Vec<Descriptor>) -> Result<Found> {
        let top = choose(variants)?;
        let top_digest = top.digest;
        let manifest = self.manifest(top, 0)?;
        let config = &manifest.config;
        let json = self.source.verified(
            &config.digest,
            config.size,
            self.limits.config_bytes,
            Kind::Config,
        )?;
        self.blobs.push((config.digest, json.clone()));
        let layers = manifest.layers.iter().map(|layer| {
            Ok(LayerSource {
                name: super::source::blob_name(&layer.digest),
                expected: Some((layer.digest, layer.size)),
                compression: Some(Compression::of_layer(layer)?),
            })
        });
        Ok(Found {
            names: Vec::new(),
            digest: Some(top_digest),
            id: config.digest,
            config: json,
            layers: layers.collect::<Result<_>>()?,
            blobs: self.blobs,
        })
    }

    /// Follows indexes down to the manifest for this machine.
    fn manifest(&mut self, descriptor: Descriptor, depth: u32) -> Result<Manifest> {
        if depth > self.limits.index_depth {
            let limit = u64::from(self.limits.index_depth);
            let what = "the nesting of indexes".into();
            return Err(Error::Limit {
                what,
                limit,
                unit: "indexes",
            });
        }
        let (digest, size) = (descriptor.digest, descriptor.size);
        let json =
            self.source
                .verified(&digest, size, self.limits.manifest_bytes, Kind::Manifest)?;
        let document = Document::parse(&json, &format!("manifest {digest}"), self.limits)?;
        self.blobs.push((digest, json));
        match document {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(entries) => {
                let next = choose(entries.into_iter().filter(is_image).collect())?;
                self.manifest(next, depth + 1)
            }
        }
    }
}

/// The variant for this machine: one that says so, else one that says nothing
/// (its configuration will).
fn choose(variants: Vec<Descriptor>) -> Result<Descriptor> {
    let here = Platform::here();
    let fits = |variant: &Descriptor| {
        variant
            .platform
            .as_ref()
            .is_some_and(|platform| platform.matches(&here))
    };
    let at = variants.iter().position(fits).or_else(|| {
        variants
            .iter()
            .position(|variant| variant.platform.is_none())
    });
    if let Some(at) = at {
        return variants
            .into_iter()
            .nth(at)
            .ok_or_else(|| Error::Inconsistent("an empty index".into()));
    }
    let mut found: Vec<String> = variants
        .iter()
        .filter_map(|variant| variant.platform.as_ref())
        .take(16)
        .map(|platform| platform.to_string().chars().take(64).collect())
        .collect();
    if found.is_empty() {
        found.push("none at all".into());
    }
    Err(Error::Platform {
        wanted: here.to_string(),
        found: found.join(", "),
    })
}

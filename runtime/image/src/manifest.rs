//! Manifests and indexes: the documents that say what an image consists of.
//!
//! Source: OCI image-spec, manifest.md, image-index.md, descriptor.md; Docker's
//! manifest v2 schema 2, whose documents have the same fields under other media
//! types; `docker save`'s manifest.json. Unknown fields are ignored.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::LAYERS_MAX;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// A reference to content: what it is, how long, and its digest.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// Of a manifest or an index that was found by its name.
    pub(crate) fn of_manifest(digest: Digest, size: u64) -> Self {
        Self {
            media_type: String::new(),
            digest,
            size,
            platform: None,
            annotations: None,
        }
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// What machine a manifest is for, in Go's words.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
}

impl Platform {
    /// This machine. Guests run Linux on the host's architecture.
    pub(crate) fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
        }
    }

    pub(crate) fn matches(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == other.architecture
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// A manifest or an index; which one shows in its fields.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// An image for one platform.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct RawDocument {
    #[serde(rename = "schemaVersion", default)]
    schema_version: Option<u32>,
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

impl Document {
    /// Parses a manifest or index that was found as `what`.
    pub(crate) fn parse(json: &[u8], what: &str, limits: &Limits) -> Result<Self> {
        let raw: RawDocument = serde_json::from_slice(json).map_err(|source| Error::Json {
            what: what.to_owned(),
            source,
        })?;
        if raw.schema_version == Some(1) {
            return Err(Error::MediaType {
                what: what.to_owned(),
                media_type: "Docker manifest schema 1".into(),
                hint: "; convert the image with a current version of skopeo or docker",
            });
        }
        let media_type = raw.media_type.as_deref().unwrap_or_default();
        match (raw.manifests, raw.config) {
            // A document that could be read both ways would be read one way
            // here and another way by whoever checked it.
            (Some(_), Some(_)) => Err(Error::Inconsistent(format!(
                "{what} is both a manifest and an index"
            ))),
            (Some(manifests), None) => {
                expect_type(what, media_type, &INDEX_TYPES)?;
                if manifests.len() > limits.index_entries {
                    let limit = limits.index_entries as u64;
                    return Err(Error::Limit {
                        what: what.to_owned(),
                        limit,
                        unit: "manifests",
                    });
                }
                Ok(Self::Index(manifests))
            }
            (None, Some(config)) => {
                expect_type(what, media_type, &MANIFEST_TYPES)?;
                if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
                    return Err(Error::MediaType {
                        what: "the configuration".into(),
                        media_type: config.media_type,
                        hint: "; it is an artifact, not a container image",
                    });
                }
                let layers = raw.layers.unwrap_or_default();
                if layers.len() > LAYERS_MAX {
                    let limit = LAYERS_MAX as u64;
                    return Err(Error::Limit {
                        what: what.to_owned(),
                        limit,
                        unit: "layers",
                    });
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            (None, None) => Err(Error::Inconsistent(format!(
                "{what} is neither a manifest nor an index"
            ))),
        }
    }
}

/// A document may leave its media type out, but must not claim another one.
fn expect_type(what: &str, media_type: &str, known: &[&str]) -> Result<()> {
    if media_type.is_empty() || known.contains(&media_type) {
        return Ok(());
    }
    let (what, media_type) = (what.to_owned(), media_type.chars().take(256).collect());
    Err(Error::MediaType {
        what,
        media_type,
        hint: "",
    })
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// What the first bytes of a stream say.
    pub(crate) fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, which zstd streams may begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// What a layer's media type says.
    pub(crate) fn of_layer(layer: &Descriptor) -> Result<Self> {
        let unsupported = |hint| Error::MediaType {
            what: format!("layer {}", layer.digest),
            media_type: layer.media_type.chars().take(256).collect(),
            hint,
        };
        match layer.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Self::None),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Self::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Self::Zstd),
            other if other.contains("nondistributable") || other.contains("foreign") => {
                Err(unsupported(
                    "; foreign layers must be fetched by the image's author and pushed as ordinary ones",
                ))
            }
            other if other.contains("+encrypted") => {
                Err(unsupported("; decrypt the image before importing it"))
            }
            _ => Err(unsupported("")),
        }
    }
}

/// One image of `docker save`'s manifest.json.
#[derive(Debug, Deserialize)]
pub(crate) struct DockerImage {
    #[serde(rename = "Config")]
    pub(crate) config: String,
    #[serde(rename = "RepoTags", default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    pub(crate) layers: Vec<String>,
}

/// Parses `docker save`'s manifest.json.
pub(crate) fn parse_docker(json: &[u8], limits: &Limits) -> Result<Vec<DockerImage>> {
    let what = || "manifest.json".to_owned();
    let images: Vec<DockerImage> = serde_json::from_slice(json).map_err(|source| Error::Json {
        what: what(),
        source,
    })?;
    if images.len() > limits.index_entries {
        return Err(Error::Limit {
            what: what(),
            limit: limits.index_entries as u64,
            unit: "images",
        });
    }
    if images.iter().any(|image| image.layers.len() > LAYERS_MAX) {
        return Err(Error::Limit {
            what: what(),
            limit: LAYERS_MAX as u64,
            unit: "layers",
        });
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Document> {
        Document::parse(json.as_bytes(), "test", &Limits::default())
    }

    fn descriptor(media_type: &str) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","size":1,"digest":"{}"}}"#,
            Digest::of(b"")
        )
    }

    #[test]
    fn manifests_and_indexes() {
        let config = descriptor(CONFIG_TYPES[0]);
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        let Document::Manifest(manifest) = parse(&manifest).unwrap() else {
            panic!()
        };
        assert_eq!(
            Compression::of_layer(&manifest.layers[0]).unwrap(),
            Compression::Gzip
        );
        let index = format!(r#"{{"manifests":[{}]}}"#, descriptor(MANIFEST_TYPES[0]));
        assert!(matches!(parse(&index), Ok(Document::Index(list)) if list.len() == 1));
    }

    #[test]
    fn what_is_neither_or_both_is_refused() {
        let config = descriptor(CONFIG_TYPES[0]);
        assert!(matches!(parse("{}"), Err(Error::Inconsistent(_))));
        let both = format!(r#"{{"config":{config},"layers":[],"manifests":[]}}"#);
        assert!(matches!(parse(&both), Err(Error::Inconsistent(_))));
        let lying = format!(r#"{{"mediaType":"{}","config":{config}}}"#, INDEX_TYPES[0]);
        assert!(matches!(parse(&lying), Err(Error::MediaType { .. })));
        assert!(matches!(
            parse(r#"{"schemaVersion":1}"#),
            Err(Error::MediaType { .. })
        ));
        let artifact = format!(
            r#"{{"config":{}}}"#,
            descriptor("application/vnd.oci.empty.v1+json")
        );
        assert!(matches!(parse(&artifact), Err(Error::MediaType { .. })));
    }

    #[test]
    fn layers_that_cannot_be_had() {
        for kind in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "text/plain",
        ] {
            let layer = serde_json::from_str(&descriptor(kind)).unwrap();
            assert!(
                matches!(Compression::of_layer(&layer), Err(Error::MediaType { .. })),
                "{kind}"
            );
        }
    }

    #[test]
    fn counts_are_bounded() {
        let many = vec![descriptor(MANIFEST_TYPES[0]); 1025].join(",");
        assert!(matches!(
            parse(&format!(r#"{{"manifests":[{many}]}}"#)),
            Err(Error::Limit { .. })
        ));
        let layers = vec!["\"a\""; LAYERS_MAX + 1].join(",");
        let docker = format!(r#"[{{"Config":"c","Layers":[{layers}]}}]"#);
        assert!(matches!(
            parse_docker(docker.as_bytes(), &Limits::default()),
            Err(Error::Limit { .. })
        ));
    }
}

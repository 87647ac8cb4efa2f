//! The image configuration: what a container made from the image runs.
//!
//! Source: OCI image-spec, config.md, and Docker's image.md, which differ in
//! what may be `null`. Unknown fields are ignored; every list, map and string
//! that is kept has a bound, for the document comes from outside.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// Most entries in any one list or map of the configuration.
pub const ENTRIES_MAX: usize = 4096;
/// Longest string kept, in bytes.
pub const STRING_MAX: usize = 128 * 1024;
/// Most layers (diff ids) an image may have.
pub const LAYERS_MAX: usize = 256;

/// What the image says about its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `architecture`, in GOARCH's words, such as `amd64`.
    pub architecture: String,
    /// `os`, in GOOS's words, such as `linux`.
    pub os: String,
    /// When the image was built, RFC 3339, as written in the image.
    pub created: Option<String>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `ENV`, each `NAME=value`.
    pub env: Vec<String>,
    /// `WORKDIR`, or empty.
    pub working_dir: String,
    /// `USER`: name or number, with an optional `:group`; or empty.
    pub user: String,
    /// `STOPSIGNAL`, a name or number, if set.
    pub stop_signal: Option<String>,
    /// `LABEL`.
    pub labels: BTreeMap<String, String>,
    /// `VOLUME`: paths.
    pub volumes: Vec<String>,
    /// The layers' uncompressed digests, base first. The same digest may occur
    /// twice here.
    pub diff_ids: Vec<Digest>,
    /// How it was built, step by step, as far as it tells.
    pub history: Vec<History>,
}

/// A step of an image's building.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// A note.
    pub comment: Option<String>,
    /// Whether it made no layer.
    pub empty_layer: bool,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<Execution>,
    rootfs: RootFs,
    #[serde(default)]
    history: Option<Vec<History>>,
}

#[derive(Deserialize, Default)]
struct Execution {
    #[serde(rename = "User", default)]
    user: Option<String>,
    #[serde(rename = "Env", default)]
    env: Option<Vec<String>>,
    #[serde(rename = "Entrypoint", default)]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Cmd", default)]
    cmd: Option<Vec<String>>,
    #[serde(rename = "WorkingDir", default)]
    working_dir: Option<String>,
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "Volumes", default)]
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    #[serde(rename = "StopSignal", default)]
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageConfig {
    /// Parses the JSON of an image configuration.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let document: Document = serde_json::from_slice(json).map_err(|source| Error::Json {
            what: "the image configuration".into(),
            source,
        })?;
        if document
            .rootfs
            .kind
            .as_deref()
            .is_some_and(|kind| kind != "layers")
        {
            return Err(Error::Inconsistent("rootfs.type is not \"layers\"".into()));
        }
        let diff_ids = document.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > LAYERS_MAX {
            return Err(Error::Limit {
                what: "the number of layers".into(),
                limit: LAYERS_MAX as u64,
                unit: "layers",
            });
        }
        let run = document.config.unwrap_or_default();
        let config = Self {
            architecture: document.architecture.unwrap_or_default(),
            os: document.os.unwrap_or_default(),
            created: document.created,
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            labels: run.labels.unwrap_or_default(),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            diff_ids,
            history: document.history.unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let lists: [(&str, usize); 6] = [
            ("Entrypoint", self.entrypoint.len()),
            ("Cmd", self.cmd.len()),
            ("Env", self.env.len()),
            ("Labels", self.labels.len()),
            ("Volumes", self.volumes.len()),
            ("history", self.history.len()),
        ];
        for (name, len) in lists {
            if len > ENTRIES_MAX {
                return Err(Error::Limit {
                    what: format!("{name} of the image configuration"),
                    limit: ENTRIES_MAX as u64,
                    unit: "entries",
                });
            }
        }
        let history = self
            .history
            .iter()
            .flat_map(|step| [&step.created, &step.created_by, &step.comment]);
        let strings = [&self.architecture, &self.os, &self.working_dir, &self.user]
            .into_iter()
            .chain(&self.created)
            .chain(&self.stop_signal)
            .chain(&self.entrypoint)
            .chain(&self.cmd)
            .chain(&self.env)
            .chain(self.labels.iter().flat_map(|(key, value)| [key, value]))
            .chain(&self.volumes)
            .chain(history.flatten());
        for text in strings {
            if text.len() > STRING_MAX {
                return Err(Error::Limit {
                    what: "a string of the image configuration".into(),
                    limit: STRING_MAX as u64,
                    unit: "bytes",
                });
            }
        }
        // These become C strings in the guest.
        let passed_on = self
            .entrypoint
            .iter()
            .chain(&self.cmd)
            .chain(&self.env)
            .chain([&self.working_dir, &self.user]);
        if passed_on.into_iter().any(|text| text.contains('\0')) {
            return Err(Error::Inconsistent(
                "a NUL byte in the image configuration".into(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_nulls_are_empty() {
        let config = ImageConfig::parse(
            br#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Entrypoint":null,
                "Env":null,"Labels":null,"Volumes":null,"WorkingDir":"","User":"","OnBuild":null,
                "StopSignal":""},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#,
        )
        .unwrap();
        assert_eq!(
            config,
            ImageConfig {
                architecture: "amd64".into(),
                os: "linux".into(),
                ..Default::default()
            }
        );
    }

    #[test]
    fn everything_is_read() {
        let config = ImageConfig::parse(
            br#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z",
                "config":{"User":"1000:50","Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c","d"],
                "WorkingDir":"/w","Labels":{"k":"v"},"Volumes":{"/data":{}},"StopSignal":"SIGINT"},
                "rootfs":{"type":"layers","diff_ids":
                ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#,
        )
        .unwrap();
        assert_eq!(config.user, "1000:50");
        assert_eq!(config.env, ["A=b"]);
        assert_eq!(config.entrypoint, ["/e"]);
        assert_eq!(config.cmd, ["c", "d"]);
        assert_eq!(config.working_dir, "/w");
        assert_eq!(config.labels["k"], "v");
        assert_eq!(config.volumes, ["/data"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(config.diff_ids, [Digest::of(b"")]);
    }

    #[test]
    fn bounds() {
        let many = (0..=ENTRIES_MAX)
            .map(|i| format!("\"A{i}=\""))
            .collect::<Vec<_>>()
            .join(",");
        let json = format!(r#"{{"config":{{"Env":[{many}]}},"rootfs":{{"diff_ids":[]}}}}"#);
        assert!(matches!(
            ImageConfig::parse(json.as_bytes()),
            Err(Error::Limit { .. })
        ));

        let long = "x".repeat(STRING_MAX + 1);
        let json = format!(r#"{{"config":{{"Cmd":["{long}"]}},"rootfs":{{"diff_ids":[]}}}}"#);
        assert!(matches!(
            ImageConfig::parse(json.as_bytes()),
            Err(Error::Limit { .. })
        ));

        let ids = vec![format!("\"{}\"", Digest::of(b"")); LAYERS_MAX + 1].join(",");
        let json = format!(r#"{{"rootfs":{{"diff_ids":[{ids}]}}}}"#);
        assert!(matches!(
            ImageConfig::parse(json.as_bytes()),
            Err(Error::Limit { .. })
        ));
    }

    #[test]
    fn refuses_what_cannot_run() {
        let nul = br#"{"config":{"Cmd":["a\u0000b"]},"rootfs":{"diff_ids":[]}}"#;
        assert!(matches!(
            ImageConfig::parse(nul),
            Err(Error::Inconsistent(_))
        ));
        assert!(matches!(ImageConfig::parse(b"{}"), Err(Error::Json { .. })));
        assert!(matches!(
            ImageConfig::parse(b"[[["),
            Err(Error::Json { .. })
        ));
        let deep = "[".repeat(100_000);
        assert!(matches!(
            ImageConfig::parse(deep.as_bytes()),
            Err(Error::Json { .. })
        ));
    }
}

//! Manifests and blobs by their paths.

use std::collections::HashMap;

use crate::{Answer, Asked};

/// What a registry has.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Media type and bytes by path.
    files: HashMap<String, (String, Vec<u8>)>,
}

impl Content {
    /// Adds a manifest or an index under a tag or a digest.
    #[must_use]
    pub fn manifest(self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) -> Self {
        self.file(
            format!("/v2/{repository}/manifests/{name}"),
            media_type,
            bytes,
        )
    }

    /// Adds a blob under its digest.
    #[must_use]
    pub fn blob(self, repository: &str, digest: &str, bytes: &[u8]) -> Self {
        let path = format!("/v2/{repository}/blobs/{digest}");
        self.file(path, "application/octet-stream", bytes)
    }

    fn file(mut self, path: String, media_type: &str, bytes: &[u8]) -> Self {
        self.files
            .insert(path, (media_type.to_owned(), bytes.to_vec()));
        self
    }

    /// As a good registry answers: a part where one is asked for.
    #[must_use]
    pub fn answer(&self, asked: &Asked) -> Answer {
        match self.files.get(asked.path()) {
            Some((media_type, bytes)) => {
                Answer::part_of(bytes, asked).header("Content-Type", media_type)
            }
            None => Answer::new(404, "{\"errors\":[{\"code\":\"NAME_UNKNOWN\"}]}"),
        }
    }
}

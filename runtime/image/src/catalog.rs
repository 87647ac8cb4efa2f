//! The images that can be used, and how references find them.
//!
//! A catalog is immutable: readers take the current one and are never kept
//! waiting by a change that is being made durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::reference::Reference;

/// Shortest accepted prefix of an image id.
const ID_PREFIX_MIN: usize = 3;
/// Bytes of a reference that messages repeat.
const SHOWN_MAX: usize = 512;

/// Usable images by id.
#[derive(Default)]
pub(crate) struct Catalog {
    images: BTreeMap<Digest, Arc<Image>>,
}

impl Catalog {
    pub(crate) fn new(images: impl IntoIterator<Item = Arc<Image>>) -> Self {
        Self {
            images: images.into_iter().map(|image| (image.id, image)).collect(),
        }
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.images.values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &Digest) -> Option<Arc<Image>> {
        self.images.get(id).cloned()
    }

    /// By id, then by name, then by a unique prefix of an id.
    pub(crate) fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        let not_found = || Error::NotFound(shown(text));
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(id) = Digest::from_hex(hex) {
            return self.get(&id).ok_or_else(not_found);
        }
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference
            && let Some(image) = self.by_reference(reference)
        {
            return Ok(image);
        }
        let is_prefix = hex.len() >= ID_PREFIX_MIN
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_prefix {
            return self.by_prefix(hex)?.ok_or_else(not_found);
        }
        match reference {
            Ok(_) => Err(not_found()),
            Err(source) => Err(Error::Reference {
                text: shown(text),
                source,
            }),
        }
    }

    /// A digest outranks a tag, as with every registry client.
    fn by_reference(&self, reference: &Reference) -> Option<Arc<Image>> {
        let wanted = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.tagged()?,
        };
        self.images
            .values()
            .find(|image| image.repo_digests.contains(&wanted) || image.repo_tags.contains(&wanted))
            .cloned()
    }

    fn by_prefix(&self, hex: &str) -> Result<Option<Arc<Image>>> {
        let mut fits = self
            .images
            .values()
            .filter(|image| image.id.hex().starts_with(hex));
        match (fits.next(), fits.next()) {
            (Some(first), Some(second)) => Err(Error::Ambiguous {
                prefix: hex.to_owned(),
                first: first.id,
                second: second.id,
            }),
            (first, _) => Ok(first.cloned()),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ImageConfig;
    use std::time::SystemTime;

    fn image(id: &str, tag: &str) -> Arc<Image> {
        let id = Digest::from_hex(&format!("{id:0<64}")).unwrap();
        Arc::new(Image {
            id,
            repo_tags: vec![format!("docker.io/library/{tag}:latest")],
            repo_digests: vec![format!(
                "docker.io/library/{tag}@{}",
                Digest::of(tag.as_bytes())
            )],
            size_bytes: 0,
            config: ImageConfig::default(),
            layers: Vec::new(),
            imported_at: SystemTime::UNIX_EPOCH,
            pinned: false,
        })
    }

    #[test]
    fn every_form_of_reference() {
        // The third one's name looks like the first one's id.
        let catalog = Catalog::new([
            image("abcdef1", "one"),
            image("abc000", "two"),
            image("0", "abcdef"),
        ]);
        let found = |text: &str| catalog.resolve(text).unwrap().repo_tags[0].clone();
        let one = "docker.io/library/one:latest";
        assert_eq!(found("one"), one);
        assert_eq!(found("docker.io/one:latest"), one);
        assert_eq!(found(&format!("one:ignored@{}", Digest::of(b"one"))), one);
        assert_eq!(found(&format!("{:0<64}", "abcdef1")), one);
        assert_eq!(found(&format!("sha256:{:0<64}", "abcdef1")), one);
        assert_eq!(found("abcdef1"), one);
        assert_eq!(found("sha256:abcdef"), one, "not a name with a tag");
        assert_eq!(
            found("abcdef"),
            "docker.io/library/abcdef:latest",
            "names come first"
        );
        assert!(matches!(
            catalog.resolve("abc"),
            Err(Error::Ambiguous { .. })
        ));
        for missing in [
            "ab",
            "one:other",
            "fff",
            &"f".repeat(64),
            &format!("two@{}", Digest::of(b"one")),
        ] {
            assert!(
                matches!(catalog.resolve(missing), Err(Error::NotFound(_))),
                "{missing}"
            );
        }
        assert!(matches!(
            catalog.resolve("No Name"),
            Err(Error::Reference { .. })
        ));
        assert!(matches!(catalog.resolve(""), Err(Error::Reference { .. })));
    }
}
